"""Checks of merging an adapter by hand."""

from random import Random

import torch

from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.checks.inputs import normal64
from lab_utils.linear_layers import PEFT_PREFIX

__all__ = ["MERGE_STATE", "merge_state"]


def merge_state(
    base: dict[str, torch.Tensor], adapter: dict[str, torch.Tensor], r: int, lora_alpha: float
) -> dict[str, torch.Tensor]:
    """Weights of `base` with the update (α/r)·BA of `adapter` added where it has one."""
    merged = dict(base)
    for name, a in adapter.items():
        if name.endswith(".lora_A.weight"):
            b = adapter[name.replace("lora_A", "lora_B")]
            target = name.removeprefix(PEFT_PREFIX).replace(".lora_A.weight", ".weight")
            merged[target] = base[target] + lora_alpha / r * b @ a
    return merged


def _adapter_of(*layers: tuple[str, int, int, int]) -> dict[str, torch.Tensor]:
    """A and B in peft's names for layers `(name, d_out, d_in, r)`."""
    state = {}
    for seed, (name, d_out, d_in, r) in enumerate(layers, 10):
        state[f"{PEFT_PREFIX}{name}.lora_A.weight"] = normal64(seed, r, d_in)
        state[f"{PEFT_PREFIX}{name}.lora_B.weight"] = normal64(seed + 50, d_out, r)
    return state


_Q = "model.layers.0.self_attn.q_proj"
_DOWN = "model.layers.0.mlp.down_proj"
_BASE = {
    f"{_Q}.weight": normal64(1, 4, 4),
    f"{_DOWN}.weight": normal64(2, 4, 6),
    "model.norm.weight": normal64(3, 4),
}


def _merged_with(update, keep=True):
    """A wrong merge: `update(a, b, r, alpha)` in place of (α/r)·BA; `keep`: the untouched layers too."""

    def answer(base, adapter, r, lora_alpha):
        merged = dict(base) if keep else {}
        for name, a in adapter.items():
            if name.endswith(".lora_A.weight"):
                target = name.removeprefix(PEFT_PREFIX).replace(".lora_A.weight", ".weight")
                b = adapter[name.replace("lora_A", "lora_B")]
                merged[target] = base[target] + update(a, b, r, lora_alpha)
        return merged

    return answer


def _draw_adapter(rng: Random) -> tuple:
    """A model of one to three layers; the second layer has no adapter."""
    r, base, layers = rng.randint(2, 5), {"model.norm.weight": normal64(rng, 4)}, []
    for number in range(rng.randint(1, 3)):
        name, d_out, d_in = f"model.layers.{number}.mlp.up_proj", rng.randint(3, 7), rng.randint(3, 7)
        base[f"{name}.weight"] = normal64(rng, d_out, d_in)
        if number != 1:
            layers.append((name, d_out, d_in, r))
    return base, _adapter_of(*layers), r, rng.uniform(1.0, 32.0)


MERGE_STATE = Check(
    "merge_state",
    merge_state,
    draw=_draw_adapter,
    cases=(
        Case("一层，r=2，α=4", (_BASE, _adapter_of((_Q, 4, 4, 2)), 2, 4.0), "W = W₀ + (α/r)·BA"),
        Case(
            "两层，其中一层不是方阵",
            (_BASE, _adapter_of((_Q, 4, 4, 3), (_DOWN, 4, 6, 3)), 3, 6.0),
            "B 是 (d_out, r)，A 是 (r, d_in)，乘起来才是 W 的形状",
        ),
        Case("α 小于 r", (_BASE, _adapter_of((_DOWN, 4, 6, 4)), 4, 1.0), "缩放是 α/r，可以小于 1"),
        Case("r=1", (_BASE, _adapter_of((_Q, 4, 4, 1)), 1, 8.0), "秩为 1 时 BA 仍是一个矩阵"),
    ),
    mistakes=(
        Mistake("忘了缩放", _merged_with(lambda a, b, r, alpha: b @ a), "还要乘 α/r"),
        Mistake("只乘 α", _merged_with(lambda a, b, r, alpha: alpha * b @ a), "缩放是 α/r，r 也要除"),
        Mistake("缩放写反", _merged_with(lambda a, b, r, alpha: r / alpha * b @ a), "是 α/r，不是 r/α"),
        Mistake(
            "只返回改过的层",
            _merged_with(lambda a, b, r, alpha: alpha / r * b @ a, keep=False),
            "没有适配器的层（例如 norm）也要原样放进结果，否则存下来的模型缺权重",
        ),
        Mistake(
            "减去",
            _merged_with(lambda a, b, r, alpha: -alpha / r * b @ a),
            "合并是加上更新；减去是拆开 (unmerge)",
        ),
        Mistake(
            "AB 写反",
            _merged_with(lambda a, b, r, alpha: alpha / r * a @ b),
            "是 B@A，不是 A@B：看看两个矩阵的形状",
        ),
        Mistake(
            "rsLoRA 的缩放",
            _merged_with(lambda a, b, r, alpha: alpha / r**0.5 * b @ a),
            "α/√r 是 rsLoRA；这里的适配器用的是 α/r",
        ),
        Mistake(
            "多留了 A 和 B",
            lambda base, adapter, r, alpha: merge_state(base, adapter, r, alpha) | adapter,
            "合并后不再需要 A 和 B，结果里只有底座的那些名字",
        ),
    ),
)
