"""The checks of lab 10 accept right answers written in other ways and name every typical mistake."""

from itertools import zip_longest

import torch
import torch.nn.functional as F

from lab_utils.checks import export
from tests.checks.kit import assert_check


def test_kind_of():
    def by_counting(names):
        have = set(names)
        shards = [n for n in names if n.startswith("model") and n.endswith(".safetensors")]
        numbers = [n.split("-", 1)[1] for n in names if n.startswith("checkpoint-")]
        if "adapter_config.json" in have and "adapter_model.safetensors" in have:
            return "adapter"
        if len(shards) > 0 and have.issuperset(["config.json", "tokenizer.json"]):
            return "model"
        return "run" if any(number.isdecimal() for number in numbers) else "incomplete"

    def by_pattern(names):
        import re

        text = "\n".join(names)
        found = [re.search(p, text, re.M) is not None for p in (
            r"^adapter_config\.json$", r"^adapter_model\.safetensors$", r"^config\.json$",
            r"^tokenizer\.json$", r"^model.*\.safetensors$", r"^checkpoint-\d+$",
        )]  # fmt: skip
        if all(found[:2]):
            return "adapter"
        return "model" if all(found[2:5]) else "run" if found[5] else "incomplete"

    assert_check(export.KIND_OF, [by_counting, by_pattern])


def test_merge_state():
    def by_layer(base, adapter, r, lora_alpha):
        out = {}
        for name, weight in base.items():
            stem = "base_model.model." + name.removesuffix("weight")
            a, b = adapter.get(stem + "lora_A.weight"), adapter.get(stem + "lora_B.weight")
            out[name] = weight if a is None else weight + (b @ a) * (lora_alpha / r)
        return out

    def by_addmm(base, adapter, r, lora_alpha):
        merged = {name: weight.clone() for name, weight in base.items()}
        for name in [n for n in adapter if "lora_B" in n]:
            target = name[len("base_model.model.") :].replace("lora_B.", "")
            merged[target].addmm_(
                adapter[name], adapter[name.replace("lora_B", "lora_A")], alpha=lora_alpha / r
            )
        return merged

    assert_check(export.MERGE_STATE, [by_layer, by_addmm])


def test_merging_in_place_is_told():
    def in_place(base, adapter, r, lora_alpha):
        for name, tensor in export.merge_state(base, adapter, r, lora_alpha).items():
            base[name].copy_(tensor)
        return base

    assert export.MERGE_STATE.judge(in_place).stage == "input"


def test_drift():
    def by_kl_div(reference, other):
        kl = F.kl_div(
            F.log_softmax(other, -1), F.log_softmax(reference, -1), reduction="batchmean", log_target=True
        )
        return (reference - other).abs().max().item(), kl.item()

    def by_rows(reference, other):
        total = 0.0
        for x, y in zip(reference, other, strict=True):
            p, q = torch.softmax(x, 0), torch.softmax(y, 0)
            total += float((p * torch.log(p / q)).sum())
        return float(torch.max(torch.abs(other - reference))), total / len(reference)

    assert_check(export.DRIFT, [by_kl_div, by_rows])


def test_first_difference():
    def by_zip_longest(a, b):
        for i, (x, y) in enumerate(zip_longest(a, b)):
            if x != y:
                return i
        return None

    def by_index(a, b):
        i = 0
        while i < min(len(a), len(b)) and a[i] == b[i]:
            i += 1
        return None if i == len(a) == len(b) else i

    assert_check(export.FIRST_DIFFERENCE, [by_zip_longest, by_index])


def test_chatml():
    def by_join(messages):
        parts = ["<|im_start|>" + m["role"] + "\n" + m["content"] + "<|im_end|>" for m in messages]
        return "\n".join([*parts, "<|im_start|>assistant", ""])

    def by_jinja(messages):
        from jinja2 import Template

        text = (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
            "<|im_start|>assistant\n"
        )
        return Template(text, keep_trailing_newline=True).render(messages=messages)

    assert_check(export.CHATML, [by_join, by_jinja])


def test_missing_shards():
    def by_loop(index, names):
        missing = []
        for file in index["weight_map"].values():
            if file not in names and file not in missing:
                missing.append(file)
        missing.sort()
        return missing

    def by_dict(index, names):
        return [f for f in sorted(dict.fromkeys(index["weight_map"].values())) if f not in set(names)]

    assert_check(export.MISSING_SHARDS, [by_loop, by_dict])
