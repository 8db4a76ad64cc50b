"""Judging an adapter by its folder: the course's own passes, others get what they earn, tricks get a reason."""

import contextlib
import json
import os
import shutil
import struct
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from lab_utils import models
from lab_utils.grading import adapter_files, adapter_judge
from lab_utils.grading.adapter_files import CONFIG, WEIGHTS, AdapterFault
from lab_utils.grading.adapter_judge import Demand
from lab_utils.grading.row import Judgment

FEW = Demand(questions=8)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A writable copy of the shipped adapter."""
    return Path(shutil.copytree(models.shipped_adapter(), tmp_path / "student" / "adapter"))


def configure(folder: Path, **changes) -> None:
    file = folder / CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def reweigh(folder: Path, change) -> None:
    """Rewrite the weights by `change(name, tensor)`; None leaves a tensor out."""
    changed = {name: change(name, tensor) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, folder / WEIGHTS)


def judge_adapter(folder: Path, demand: Demand | None = None, within: Path | None = None) -> Judgment:
    """The judgment on an adapter folder."""
    try:
        files = adapter_files.read_files(folder, within)
    except AdapterFault as error:
        return adapter_judge.refusal(error)
    return adapter_judge.judge_files(files, demand)


def refusal(folder: Path, demand: Demand = FEW, **where) -> str:
    judged = judge_adapter(folder, demand, **where)
    assert judged == Judgment("refused", judged.reason)
    assert str(folder.parent) not in judged.reason and "\n" not in judged.reason
    return judged.reason


def test_the_shipped_adapter_earns_everything_and_is_recognized():
    judged = judge_adapter(models.shipped_adapter())
    assert judged.status == "graded" and judged.share == 1.0 and judged.shipped
    assert judged.passed >= 20 and judged.base_passed <= 2 and judged.low > 0
    assert judged == judge_adapter(models.shipped_adapter())
    json.dumps(asdict(judged), allow_nan=False)


def test_another_path_of_the_base_and_another_precision_are_no_matter(folder):
    configure(folder, base_model_name_or_path="C:\\Users\\学生\\models\\xiaoshi-base\\")
    reweigh(folder, lambda name, tensor: tensor.to(torch.bfloat16))
    judged = judge_adapter(folder, FEW)
    assert judged.share == 1.0 and judged.shipped


@pytest.mark.parametrize("scale", [0.0, 0.02, 1e30])
def test_weights_that_learned_nothing_earn_nothing(folder, scale):
    generator = torch.Generator().manual_seed(0)
    reweigh(folder, lambda name, tensor: torch.randn(tensor.shape, generator=generator) * scale)
    judged = judge_adapter(folder, FEW)
    assert judged.status == "graded" and judged.share == 0.0 and "看不出比底座好" in judged.reason


def test_points_are_in_proportion_below_the_demand(folder):
    reweigh(folder, lambda name, tensor: tensor * 0.6 if "lora_B" in name else tensor)
    judged = judge_adapter(folder, Demand(questions=24, full_rate=1.0))
    assert 0 < judged.passed < 24 and judged.low > 0
    assert judged.share == round(judged.passed / 24, 4) and "100%" in judged.reason


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"r": 8}, "形状"),
        ({"r": 0}, "秩"),
        ({"r": True}, "秩"),
        ({"r": 10**9}, "秩"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": "32"}, "lora_alpha"),
        ({"lora_alpha": 1e12}, "lora_alpha"),
        ({"target_modules": ".*"}, "target_modules"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "target_modules"),
        ({"target_modules": []}, "target_modules"),
        ({"target_modules": [["q_proj"]]}, "target_modules"),
        ({"target_modules": ["q_proj"]}, "多出"),
        ({"base_model_name_or_path": "SmolLM2-135M-Instruct"}, "底座"),
        ({"base_model_name_or_path": None}, "底座"),
        ({"peft_type": "IA3"}, "LoRA"),
        ({"task_type": "SEQ_CLS"}, "LoRA"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 64}}, "rank_pattern"),
        ({"auto_mapping": {"parent_library": "antigravity", "base_model_class": "x"}}, "auto_mapping"),
    ],
)
def test_a_config_that_is_not_what_is_asked_for_is_refused(folder, changes, said):
    configure(folder, **changes)
    assert said in refusal(folder)


def test_the_rank_and_the_targets_of_the_lab_are_asked_for():
    assert "秩" in refusal(models.shipped_adapter(), Demand(rank=8))
    assert "target_modules" in refusal(models.shipped_adapter(), Demand(targets=("q_proj", "v_proj")))


@pytest.mark.parametrize("text", [b"", b"[1]", b"{", b"\xff\xfe{}", b"[" * 50_000])
def test_a_config_that_is_no_json_object_is_refused(folder, text):
    (folder / CONFIG).write_bytes(text)
    assert CONFIG in refusal(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda name, tensor: tensor * float("nan") if "layers.3.mlp.up_proj.lora_A" in name else tensor,
            "NaN",
        ),
        (lambda name, tensor: tensor + float("inf") if "layers.5" in name else tensor, "inf"),
        (lambda name, tensor: tensor[:-1].clone() if "lora_A" in name else tensor, "形状"),
        (lambda name, tensor: tensor.flatten() if "lora_B" in name else tensor, "形状"),
        (lambda name, tensor: tensor.to(torch.int32), "dtype"),
        (lambda name, tensor: None if "layers.2" in name else tensor, "缺少 14 个"),
        (lambda name, tensor: None, "缺少 84 个"),
    ],
)
def test_weights_of_another_model_or_not_finite_are_refused(folder, change, said):
    reweigh(folder, change)
    assert said in refusal(folder)


def header(entries: dict, body: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\x00",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**20) + b" " * 2**20,
        header({"a": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 4]}}, b"\0\0\0\0"),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**60]}}, b"\0\0\0\0"),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, b"\0\0\0\0"),
        header({"a": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}, b"\0\0\0\0"),
        header({"a": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}),
        b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.",
    ],
)
def test_bytes_that_are_no_weights_are_refused(folder, data):
    (folder / WEIGHTS).write_bytes(data)
    assert refusal(folder)


def test_truncated_and_too_large_weights_are_refused(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    assert "不完整" in refusal(folder)
    os.truncate(
        folder / WEIGHTS, 20 * 2**30
    )  # sparse: takes no room on the disk, and would take 20 GiB of memory
    assert "太大" in refusal(folder)


def test_pickled_weights_are_never_opened(folder):
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    assert WEIGHTS in refusal(folder)


def test_other_files_of_a_checkpoint_are_not_looked_at(folder):
    (folder / "training_args.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'false'\ntR.")
    os.mkfifo(folder / "optimizer.pt")
    assert judge_adapter(folder, FEW).share == 1.0


def test_links_and_pipes_are_refused(folder, tmp_path):
    real = models.shipped_adapter()
    for name in (CONFIG, WEIGHTS):
        (folder / name).unlink()
        (folder / name).symlink_to(real / name)
        assert "链接" in refusal(folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert "普通文件" in refusal(folder)
        (folder / name).unlink()
        (folder / name).mkdir()
        assert "普通文件" in refusal(folder)
        (folder / name).rmdir()
        shutil.copy(real / name, folder / name)
    assert judge_adapter(folder, FEW).share == 1.0
    (tmp_path / "link").symlink_to(real)
    assert "链接" in refusal(tmp_path / "link")
    assert f"没有文件 {CONFIG}" in refusal(tmp_path / "nothing")


def test_no_link_on_the_way_is_followed_and_none_leads_out(folder, tmp_path):
    assert judge_adapter(folder, FEW, within=tmp_path).share == 1.0
    (tmp_path / "other").symlink_to(folder.parent)
    assert "链接" in refusal(tmp_path / "other" / "adapter", within=tmp_path)
    for outside in (tmp_path / "student" / ".." / ".." / "x", Path("/etc")):
        with pytest.raises(ValueError):
            judge_adapter(outside, FEW, within=tmp_path)


def test_a_file_swapped_for_a_link_all_the_time_never_shows_what_the_link_leads_to(folder, tmp_path):
    secret, stop = tmp_path / "secret.json", threading.Event()
    secret.write_text("secret")
    good = (folder / CONFIG).read_bytes()
    (folder / "spare").write_bytes(good)

    def swap():
        while not stop.is_set():
            (folder / "link").symlink_to(secret)
            os.replace(folder / "link", folder / CONFIG)
            os.link(folder / "spare", folder / "copy")
            os.replace(folder / "copy", folder / CONFIG)

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        for _ in range(400):
            with contextlib.suppress(AdapterFault):
                seen.add(adapter_files.read_files(folder)[CONFIG])
    finally:
        stop.set()
        thread.join()
    assert seen == {good}


def test_what_was_read_is_what_is_judged(folder):
    files = adapter_files.read_files(folder)
    shutil.rmtree(folder)
    config = adapter_judge.read_config(files[CONFIG], FEW)
    assert save(adapter_judge.read_weights(files[WEIGHTS], config))


def test_adapters_that_compute_the_same_are_told_from_others():
    files = adapter_files.read_files(models.shipped_adapter())
    config = adapter_judge.read_config(files[CONFIG], FEW)
    weights = adapter_judge.read_weights(files[WEIGHTS], config)
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(config.rank, config.rank, generator=generator))[0]

    def same(change, **changes) -> bool:
        changed = {name: change(name, tensor) for name, tensor in weights.items()}
        settings = replace(config, **changes)
        other = adapter_judge.projection(settings, changed)
        alike = adapter_judge.computes_the_same(adapter_judge.shipped_projection(), other)
        assert adapter_judge.is_shipped(settings, changed) == alike
        return alike

    assert same(lambda name, tensor: tensor * 3 if "lora_A" in name else tensor / 3)
    assert same(lambda name, tensor: turn @ tensor if "lora_A" in name else tensor @ turn.T)
    assert same(lambda name, tensor: tensor / 2 if "lora_A" in name else tensor, alpha=2 * config.alpha)
    assert same(lambda name, tensor: tensor.to(torch.bfloat16).float())
    assert not same(lambda name, tensor: tensor * 0.99)
    assert not same(lambda name, tensor: tensor * (1 + 0.05 * torch.randn(tensor.shape, generator=generator)))
    assert not same(lambda name, tensor: tensor * 0)
