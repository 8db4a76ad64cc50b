"""Commands of ms-swift 2.x and 3.x, rewritten for the installed 4.x."""

import ast
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from lab_utils.errors import InvalidValue
from lab_utils.swift.flags import SUBCOMMANDS, flag_names, package_file
from lab_utils.swift.translation_tables import (
    DATASET_IDS,
    DTYPES,
    MODEL_IDS,
    OLD_SCRIPTS,
    OLD_SUBCOMMANDS,
    REMOVED,
    RENAMED,
)

Flag = tuple[str, list[str]]


@dataclass(frozen=True)
class Change:
    """One difference: `new` is empty for what was removed."""

    old: str
    new: str
    reason: str


@dataclass(frozen=True)
class Translation:
    """The command for the installed ms-swift, each change, and what couldn't be translated."""

    command: str
    changes: tuple[Change, ...]
    unknown: tuple[str, ...]

    def __str__(self) -> str:
        lines = [self.command, ""]
        lines += [f"- {c.old} → {c.new or '（删除）'}：{c.reason}" for c in self.changes]
        lines += [f"- {u}：没有对应的新参数，已从命令中去掉，请查 ms-swift 文档" for u in self.unknown]
        return "\n".join(lines)


def translate(text: str) -> Translation:
    """Rewrite a `swift …` command line of 2.x or 3.x (line continuations allowed) for 4.x.

    Environment assignments in front are kept. Flags of the result all exist in the installed
    ms-swift; flags with no counterpart are listed in `unknown`. Raises InvalidValue when `text`
    holds no swift command.
    """
    env, sub, flags = _parse(text)
    changes: list[Change] = []
    if sub in OLD_SUBCOMMANDS:
        new_sub, extra, reason = OLD_SUBCOMMANDS[sub]
        shown = " ".join(f"--{name} {' '.join(values)}" for name, values in extra)
        changes.append(Change(f"swift {sub}", f"swift {new_sub} {shown}".strip(), reason))
        sub, flags = new_sub, [*extra, *(f for f in flags if f[0] not in dict(extra))]
    if sub not in SUBCOMMANDS:
        raise InvalidValue(f"不认识子命令 swift {sub}", f"可用的有：{'、'.join(SUBCOMMANDS)}")
    if sub in {"infer", "deploy", "app"}:  # the one subcommand family in which the count is still a flag
        kept = [f for f in flags if f[0] == "val_dataset_sample"]
        flags = [f for f in flags if f[0] != "val_dataset_sample"]
    else:
        kept = []
    flags = _values(flags, changes)
    flags = _merge(_samples(_model(flags, changes), changes) + kept)
    names = flag_names(sub)
    known = [f for f in flags if f[0] in names]
    unknown = tuple(_word(*f) for f in flags if f[0] not in names)
    head = [*env, f"swift {sub}"]
    return Translation(
        " \\\n    ".join([" ".join(head), *(_word(*f) for f in known)]), tuple(changes), unknown
    )


def _parse(text: str) -> tuple[list[str], str, list[Flag]]:
    words = _substitutions(shlex.split(text.replace("\\\n", " ")))
    env, at = [], 0
    for at, word in enumerate(words):  # noqa: B007  # `at` is read after the loop
        if re.fullmatch(r"[A-Za-z_]\w*=.*", word) and not word.startswith("-"):
            env.append(quote(word))
        elif word == "swift" or word.split("/")[-1] in OLD_SCRIPTS:
            break
    else:
        raise InvalidValue("这不是一条 swift 命令", "应形如 swift sft --model …")
    if words[at] == "swift":
        if at + 1 >= len(words):
            raise InvalidValue("swift 后面缺子命令", "例如 swift sft --model …")
        sub, rest = words[at + 1].replace("_", "-"), words[at + 2 :]
    else:
        sub, rest = OLD_SCRIPTS[words[at].split("/")[-1]], words[at + 1 :]
    flags: list[Flag] = []
    for word in rest:
        if re.match(r"--[A-Za-z]", word):
            name, equals, value = word[2:].partition("=")
            flags.append((name.replace("-", "_"), [value] if equals else []))
        elif flags and word not in {"&", ";"}:
            flags[-1][1].append(word)
    return env, sub, flags


def _word(name: str, values: list[str]) -> str:
    return " ".join([f"--{name}", *map(quote, values)])


def quote(word: str) -> str:
    """`word` as typed in a shell: quoted only where needed; `$NAME` and `$(…)` stay live."""
    return word if "$" in word or re.fullmatch(r"[\w@%+=:,./#-]+", word) else shlex.quote(word)


def _substitutions(words: list[str]) -> list[str]:
    """Put `$(expr 16 / 2)`, which was split at its spaces, together again."""
    out: list[str] = []
    for word in words:
        if out and out[-1].count("(") > out[-1].count(")"):
            out[-1] += " " + word
        else:
            out.append(word)
    return out


def _values(flags: list[Flag], changes: list[Change]) -> list[Flag]:
    """Apply names and values that can be translated one flag at a time."""
    out: list[Flag] = []
    given = {name for name, _ in flags}
    for name, values in flags:
        if name in REMOVED:
            changes.append(Change(_word(name, values), "", REMOVED[name]))
            continue
        new, reason = RENAMED.get(name, (name, ""))
        result, why = [(new, list(values))], reason
        if rule := VALUE_RULES.get(new if name not in VALUE_RULES else name):
            result, more = rule(new, list(values), given)
            why = "；".join(filter(None, [reason, more]))
        if result != [(name, list(values))]:
            changes.append(Change(_word(name, values), " ".join(_word(*f) for f in result), why))
        out += result
    return out


def _tuner(name: str, values: list[str], given: set[str]):
    if values == ["qlora"]:
        bits = (
            []
            if given & {"quantization_bit", "quant_bits"}
            else [("quant_method", ["bnb"]), ("quant_bits", ["4"])]
        )
        return [(name, ["lora"]), *bits], "QLoRA 就是在 4 位量化的底座上训练 LoRA"
    return [(name, values)], ""


def _quant_bits(name: str, values: list[str], given: set[str]):
    if values == ["0"]:
        return [], "0 表示不量化，不写即可"
    method = [] if "quant_method" in given else [("quant_method", ["bnb"])]
    return [*method, (name, values)], "" if not method else "量化方法要写明，2.x 默认 bnb"


def _target_modules(name: str, values: list[str], given: set[str]):
    renamed = {
        "ALL": "all-linear",
        "EMBEDDING": "all-embedding",
        "DEFAULT": "all-linear",
        "AUTO": "all-linear",
    }
    if not set(values) & set(renamed):
        return [(name, values)], ""
    why = "ALL 改写为 all-linear，含义相同"
    if set(values) & {"DEFAULT", "AUTO"}:
        why = "DEFAULT（只含注意力层）已取消，4.x 默认 all-linear，可训练参数会变多"
    return [(name, list(dict.fromkeys(renamed.get(v, v) for v in values)))], why


def _dtype(name: str, values: list[str], given: set[str]):
    if values == ["AUTO"]:
        return [], "AUTO 已取消，不写就按模型的 config.json"
    return [(name, [DTYPES.get(v, v) for v in values])], ""


def _automatic(name: str, values: list[str], given: set[str]):
    if values == ["AUTO"]:
        return [], "AUTO 已取消，不写就自动选择"
    renamed = {"pt": "transformers"}
    why = "4.x 把 pt 后端改称 transformers" if values == ["pt"] else ""
    return [(name, [renamed.get(v, v) for v in values])], why


def _template(name: str, values: list[str], given: set[str]):
    if values == ["AUTO"]:
        return [], "AUTO 已取消，不写就按模型自动选择"
    if len(values) == 1 and values[0].replace("-", "_") in _constants("swift.template.constant"):
        return [(name, [values[0].replace("-", "_")])], ""
    return [], "4.x 没有这个对话模板，不写就按模型自动选择；训练前请核对打印出来的样本"


def _attention(name: str, values: list[str], given: set[str]):
    if values and values[0].lower() in {"true", "1"}:
        return [(name, ["flash_attn"])], ""
    return [], "不用 flash attention 时不必写"


def _deepspeed(name: str, values: list[str], given: set[str]):
    renamed = [v.removeprefix("default-").replace("zero2-offload", "zero2_offload") for v in values]
    renamed = [v.replace("zero3-offload", "zero3_offload") for v in renamed]
    return [(name, renamed)], "配置名去掉 default- 前缀" if renamed != values else ""


def _backend(name: str, values: list[str], given: set[str]):
    if values == ["swift"]:
        return [(name, ["peft"])], "3.0 起没有 swift 后端，用 peft"
    return [(name, values)], ""


def _sampling(name: str, values: list[str], given: set[str]):
    if values and values[0].lower() == "false":
        return [("temperature", ["0"])], "3.0 起没有 do_sample，temperature 为 0 就是贪心解码"
    return [], "3.0 起没有 do_sample，temperature 大于 0 就是采样"


def _dataset(name: str, values: list[str], given: set[str]):
    names = [part for value in values for part in value.split(",")]
    renamed = [_dataset_id(n) for n in names]
    return [(name, renamed)], "3.0 起取消数据集简称，改写数据集 id" if renamed != values else ""


def _dataset_id(name: str) -> str:
    plain, mark, count = name.removeprefix("HF::").partition("#")
    if plain not in DATASET_IDS:
        return name
    return DATASET_IDS[plain].split("#")[0] + mark + count if mark else DATASET_IDS[plain]


VALUE_RULES: dict[str, Callable] = {
    "tuner_type": _tuner,
    "quantization_bit": _quant_bits,
    "target_modules": _target_modules,
    "torch_dtype": _dtype,
    "lora_dtype": _dtype,
    "bnb_4bit_compute_dtype": _dtype,
    "infer_backend": _automatic,
    "template": _template,
    "use_flash_attn": _attention,
    "deepspeed": _deepspeed,
    "tuner_backend": _backend,
    "do_sample": _sampling,
    "dataset": _dataset,
    "val_dataset": _dataset,
}


def _model(flags: list[Flag], changes: list[Change]) -> list[Flag]:
    """`model_type` named a checkpoint in 2.x and names an architecture in 4.x."""
    old = next((values[0] for name, values in flags if name == "model_type" and values), None)
    if old is None or old in _constants("swift.model.constant"):
        return flags
    rest = [f for f in flags if f[0] != "model_type"]
    if any(name == "model" for name, _ in rest):
        changes.append(Change(f"--model_type {old}", "", "3.0 起只需 --model；架构由 config.json 判断"))
        return rest
    if old in MODEL_IDS:
        new = ("model", [MODEL_IDS[old]])
        changes.append(
            Change(f"--model_type {old}", _word(*new), "2.x 的 model_type 指一个具体模型，改写成模型 id")
        )
        return [new, *rest]
    return [("model_type（2.x 的模型名）", [old]), *rest]  # no such flag: reported as unknown


def _samples(flags: list[Flag], changes: list[Change]) -> list[Flag]:
    """Counts that were flags of their own are written behind the data set, as `name#count`."""
    out = [
        f
        for f in flags
        if f[0] not in {"train_dataset_sample", "val_dataset_sample", "self_cognition_sample"}
    ]
    for name, values in flags:
        count = int(values[0]) if values and re.fullmatch(r"-?\d+", values[0]) else -1
        if name in {"train_dataset_sample", "val_dataset_sample"}:
            target = "dataset" if name.startswith("train") else "val_dataset"
            sets = [v for n, vs in out if n == target for v in vs]
            new, reason = "", "3.0 起在数据集后面写 #条数；不写就是全部"
            if count > 0 and len(sets) == 1:
                new = f"{sets[0].split('#')[0]}#{count}"
                out = [(n, [new]) if n == target else (n, vs) for n, vs in out]
            elif count > 0:
                reason = "3.0 起在数据集后面写 #条数；这里有多个数据集，请给每个写上各自的条数"
            changes.append(Change(_word(name, values), _word(target, [new]) if new else "", reason))
        elif name == "self_cognition_sample":
            new = f"swift/self-cognition#{count}" if count > 0 else ""
            if new:
                out.append(("dataset", [new]))
            changes.append(
                Change(
                    _word(name, values), _word("dataset", [new]) if new else "", "自我认知数据也是普通数据集"
                )
            )
    return out


def _merge(flags: list[Flag]) -> list[Flag]:
    """Join repeated list flags (`dataset`, `val_dataset`, `adapters`); otherwise the last one wins."""
    merged: dict[str, list[str]] = {}
    for name, values in flags:
        joined = name in {"dataset", "val_dataset", "adapters"}
        merged[name] = [*merged.get(name, []), *values] if joined else values
    return list(merged.items())


@lru_cache
def _constants(module: str) -> frozenset[str]:
    """String constants assigned in the classes of `module` (model types, template types)."""
    tree = ast.parse(package_file(module).read_text(encoding="utf-8"))
    return frozenset(
        line.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for line in node.body
        if isinstance(line, ast.Assign)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )
