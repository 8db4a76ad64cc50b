"""What vLLM can't serve is said before it starts: the preflight of a LoRA adapter."""

import json
from dataclasses import dataclass
from pathlib import Path

from lab_utils.artifacts import classify, resolve
from lab_utils.artifacts.folder_kinds import tensor_shapes
from lab_utils.errors import InvalidValue
from lab_utils.linear_layers import PEFT_PREFIX

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM 0.32 takes for `--max-lora-rank` (vllm/config/lora.py, MaxLoRARanks)."""

PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Values of `init_lora_weights` that leave the base as it is."""


class AdapterError(InvalidValue):
    """An adapter that can't be served on this base."""


@dataclass(frozen=True)
class Adapter:
    """An adapter that passed: `folder` with its weights, `rank` the largest r of its modules."""

    folder: Path
    rank: int


def preflight(folder: str | Path, base: str | Path) -> Adapter:
    """Examine the adapter in `folder`, or in the run that it is, for serving on the model folder `base`.

    Looked at: kind (LoRA without DoRA, bias or `modules_to_save`), rank, and whether each of its
    matrices fits the module of `base` it belongs to. Raises AdapterError; NotFound when there is no such
    folder, or no finished checkpoint in the run.
    """
    source = resolve(folder)
    artifact = classify(source)
    if artifact.kind != "adapter":
        raise AdapterError(
            f"{source} 是 {artifact.kind}，不是适配器 (adapter)：{artifact.why}",
            "完整的模型请直接用作 serve 的第一个参数",
        )
    config = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    if reason := unsupported(config):
        raise AdapterError(
            f"{source.name} 不能由 vLLM 直接服务：{reason}", "请先合并 (merge)，再服务合并后的模型"
        )
    rank = largest_rank(config)
    if rank > RANKS[-1]:
        raise AdapterError(f"{source.name} 的秩 r={rank}，vLLM 最多支持 {RANKS[-1]}", "请先合并 (merge)")
    if misfit := first_misfit(source, Path(base)):
        trained_on = config.get("base_model_name_or_path") or "（没有写）"
        raise AdapterError(
            f"{source.name} 装不到底座 {Path(base).name} 上：{misfit}。它是在 {trained_on} 上训练的",
            "请换成那个底座",
        )
    return Adapter(source, rank)


def unsupported(config: dict) -> str | None:
    """What in an `adapter_config.json` vLLM 0.32 doesn't serve (vllm/lora/peft_helper.py); None when nothing."""
    if config.get("peft_type") != "LORA":
        return f"它是 {config.get('peft_type')}，vLLM 只服务 LoRA"
    if config.get("modules_to_save"):
        return f"它连同整个模块一起训练 (modules_to_save: {'、'.join(config['modules_to_save'])})"
    if config.get("bias", "none") != "none":
        return f"它训练了偏置 (bias: {config['bias']})"
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in PLAIN_STARTS:
        return f"它的初始化改动了底座的权重 (init_lora_weights: {start})"
    kinds = (
        "use_dora",
        "lora_bias",
        "use_qalora",
        "use_bdlora",
        "layer_replication",
        "alora_invocation_tokens",
    )
    return next((f"它用了 {name}，是 LoRA 的变种" for name in kinds if config.get(name)), None)


def largest_rank(config: dict) -> int:
    """The largest r of any module: `r`, or what `rank_pattern` gives single modules."""
    return max([config["r"], *(config.get("rank_pattern") or {}).values()])


def max_lora_rank(ranks: list[int]) -> int:
    """The `--max-lora-rank` for adapters of these ranks: the smallest that vLLM takes and that holds all."""
    return next(limit for limit in RANKS if limit >= max(ranks))


def first_misfit(adapter: Path, base: Path) -> str | None:
    """The first pair A (r, d_in), B (d_out, r) that doesn't fit a weight (d_out, d_in) of `base`; None: all fit."""
    modules, weights = shapes(adapter), shapes(base)
    for name in sorted(name for name in modules if name.endswith(".lora_A.weight")):
        inside = name.removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight")
        weight = weights.get(f"{inside}.weight")
        if weight is None:
            return f"底座里没有 {inside}"
        fitting = [modules[name.replace("lora_A", "lora_B")][0], modules[name][1]]
        if fitting != weight:
            return f"{inside} 的权重是 {weight[0]}×{weight[1]}，适配器的是 {fitting[0]}×{fitting[1]}"
    return None


def shapes(folder: Path) -> dict[str, list[int]]:
    """Name → shape of every tensor in the safetensors files of `folder`; only their headers are read."""
    by_name: dict[str, list[int]] = {}
    for file in folder.glob("*.safetensors"):
        by_name |= tensor_shapes(file)
    return by_name
