"""LoRA written out, with rsLoRA and DoRA: a low-rank update beside a linear layer; put into a model, merged, unmerged.

    h = W₀x + b + s·B(Ax),  s = α/r                     LoRA, Hu et al. 2021 (arXiv 2106.09685), section 4.1
    s = α/√r                                            rsLoRA, Kalajdzievski 2023 (arXiv 2312.03732)
    W = m ⊙ (W₀ + s·BA) / ‖W₀ + s·BA‖ (norm by row)     DoRA, Liu et al. 2024 (arXiv 2402.09353), eq. 5

W₀: (d_out, d_in), A: (r, d_in), B: (d_out, r), m: (d_out,). Only A, B and m are trained. B starts at
zero and m at the row norms of W₀, so that a layer just wrapped gives what it gave before. Equal to
peft in outputs, gradients and merged weights.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from lab_utils.errors import InvalidType, InvalidValue, LabError
from lab_utils.linear_layers import PEFT_PREFIX, match_targets, output_head


class MergeStateError(LabError, RuntimeError):
    """An adapter that is merged already, or not merged yet; also a RuntimeError."""


class LoRALinear(nn.Module):
    """A frozen `nn.Linear` with a trainable low-rank update beside it."""

    def __init__(
        self,
        base: nn.Linear,
        r: int,
        lora_alpha: float,
        dropout: float = 0.0,
        use_rslora: bool = False,
        use_dora: bool = False,
        init_lora_weights: bool | str = True,
    ):
        """Wrap `base` and freeze it. The arguments have peft's names and meanings.

        r: rank, from 1 to min(d_in, d_out). lora_alpha: α > 0. dropout: share of the update's inputs set
        to zero in training, 0 ≤ dropout < 1. init_lora_weights: how A is drawn; True is peft's default,
        uniform in ±1/√d_in; "gaussian" is the paper's, which peft gives a standard deviation of 1/r.
        A and B have the dtype of the weight, float32 when that is a half precision.

        Raises TypeError when `base` isn't an `nn.Linear` or its weight isn't floating, ValueError for an
        argument out of range, for weights that aren't finite, and for DoRA on a row of zeros.
        """
        super().__init__()
        _check_base(base, use_dora)
        _check_settings(base, r, lora_alpha, dropout, init_lora_weights)
        self.base = base.requires_grad_(False)
        self.r, self.lora_alpha = r, lora_alpha
        self.scaling = lora_alpha / math.sqrt(r) if use_rslora else lora_alpha / r
        self.dropout = nn.Dropout(dropout)
        self.merged = False
        dtype = torch.promote_types(base.weight.dtype, torch.float32)
        kind = {"dtype": dtype, "device": base.weight.device}
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features, **kind))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, **kind))
        if init_lora_weights == "gaussian":
            nn.init.normal_(self.lora_A, std=1 / r)
        else:
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.lora_magnitude = nn.Parameter(self._row_norms()) if use_dora else None
        self._norms_at_merge: torch.Tensor | None
        self.register_buffer("_norms_at_merge", None, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., d_in) → (..., d_out). Raises RuntimeError in training mode once merged."""
        h = self.base(x)
        if self.merged:
            if self.training:
                raise MergeStateError(
                    "适配器已经合并进权重 (merged)，A 和 B 得不到梯度",
                    "请先 unmerge(model) 再训练，或用 model.eval()",
                )
            return h
        x = self.dropout(x).to(self.lora_A.dtype)
        update = self.scaling * F.linear(F.linear(x, self.lora_A), self.lora_B)
        if self.lora_magnitude is not None:
            scale = self.lora_magnitude / self._row_norms()
            update = (scale - 1) * F.linear(x, self.base.weight.to(x.dtype)) + scale * update
        return (h + update).to(h.dtype)

    def delta_weight(self) -> torch.Tensor:
        """s·BA, (d_out, d_in): what LoRA adds to the weight, before DoRA's rescaling."""
        return self.scaling * self.lora_B @ self.lora_A

    @torch.no_grad()
    def merged_weight(self) -> torch.Tensor:
        """The one weight that does the work of W₀, A, B and m; (d_out, d_in), in the weight's dtype."""
        if self.merged:
            return self.base.weight.clone()
        weight = self.base.weight + self.delta_weight()
        if self.lora_magnitude is not None:
            weight *= (self.lora_magnitude / self._row_norms())[:, None]
        return weight.to(self.base.weight.dtype)

    @torch.no_grad()
    def merge(self) -> None:
        """Put the update into the weight: from now on the layer costs what the base layer costs.

        Raises RuntimeError when it is merged already, ValueError when the merged weight wouldn't be
        finite or couldn't be taken apart again; the weight is then as it was.
        """
        if self.merged:
            raise MergeStateError("这一层已经合并过 (merged)，再合并一次会把 ΔW 加两遍", "要还原请用 unmerge")
        weight = self._checked_merged_weight()
        self._norms_at_merge = None if self.lora_magnitude is None else self._row_norms()
        self.base.weight.copy_(weight)
        self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the update out of the weight again, up to rounding. Raises RuntimeError when not merged."""
        if not self.merged:
            raise MergeStateError("这一层还没有合并 (not merged)，没有东西可以拆", "请先 merge")
        weight = self.base.weight.to(self.lora_A.dtype)
        if self.lora_magnitude is not None:
            assert self._norms_at_merge is not None  # set by `merge`
            weight = weight * (self._norms_at_merge / self.lora_magnitude)[:, None]
        self.base.weight.copy_(weight - self.delta_weight())
        self._norms_at_merge, self.merged = None, False

    def extra_repr(self) -> str:
        return f"r={self.r}, lora_alpha={self.lora_alpha}, scaling={self.scaling:g}, merged={self.merged}"

    @torch.no_grad()
    def _row_norms(self) -> torch.Tensor:
        """‖W₀ + s·BA‖ of each row, (d_out,); a constant in the backward pass (DoRA, section 4.3)."""
        return torch.linalg.norm(self.base.weight + self.delta_weight(), dim=1)

    def _checked_merged_weight(self) -> torch.Tensor:
        """`merged_weight()`; InvalidValue when it isn't finite or a magnitude is zero."""
        weight = self.merged_weight()
        if not weight.isfinite().all():
            raise InvalidValue(
                "合并后的权重里有 NaN 或 inf，没有合并", "请查看训练日志：损失变成 NaN 之前的检查点才能用"
            )
        if self.lora_magnitude is not None and not self.lora_magnitude.all():
            raise InvalidValue(
                "DoRA 的幅度 m (magnitude) 里有 0，合并后无法再拆开，没有合并", "请先检查训练日志"
            )
        return weight


def inject(
    model: nn.Module,
    targets: str | Sequence[str],
    r: int,
    lora_alpha: float,
    dropout: float = 0.0,
    use_rslora: bool = False,
    use_dora: bool = False,
    init_lora_weights: bool | str = True,
) -> list[str]:
    """Wrap every linear layer that `targets` names, freeze all else; the full names of the wrapped layers.

    `targets`: a list of names, each a layer's full name or its end, e.g. "q_proj" for
    "model.layers.0.self_attn.q_proj"; or "all-linear", which is every linear layer but the output
    head, as peft has it. The other arguments are those of `LoRALinear`.

    Raises ValueError for a target that matches nothing, a model that has adapters already, a weight that
    two layers share, and what `LoRALinear` raises, with the layer's name. The model is then unchanged.
    """
    if any(isinstance(module, LoRALinear) for module in model.modules()):
        raise InvalidValue(
            "这个模型已经注入过 LoRA (already injected)",
            "请重新加载一个干净的模型，再注入；要换一组目标层，把它们一次写进 targets",
        )
    chosen = _chosen(model, targets)
    for name, module in chosen.items():
        try:
            _check_base(module, use_dora)
            _check_settings(module, r, lora_alpha, dropout, init_lora_weights)
        except (InvalidType, InvalidValue) as error:
            raise type(error)(error.what, error.remedy, where=name) from None
    model.requires_grad_(False)
    for name, module in chosen.items():
        layer = LoRALinear(module, r, lora_alpha, dropout, use_rslora, use_dora, init_lora_weights)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.train(module.training))
    return list(chosen)


def merge(model: nn.Module) -> None:
    """Merge every adapter of `model` into its weight. The wrappers stay, so that `unmerge` can undo it.

    Raises ValueError when there is no adapter or a merged weight wouldn't be finite, RuntimeError when
    one is merged already; no weight is then changed.
    """
    layers = _all_layers(model)
    _require(layers, merged=False)
    for name, layer in layers.items():
        try:
            layer._checked_merged_weight()
        except InvalidValue as error:
            raise InvalidValue(error.what, error.remedy, where=name) from None
    for layer in layers.values():
        layer.merge()


def unmerge(model: nn.Module) -> None:
    """Take every adapter of `model` out of its weight again, up to rounding.

    Raises ValueError when there is no adapter, RuntimeError when one isn't merged; no weight is then changed.
    """
    layers = _all_layers(model)
    _require(layers, merged=True)
    for layer in layers.values():
        layer.unmerge()


def adapter_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all A, B and m under the names that peft gives them, so that peft can load them.

    This is all that has to be saved of a LoRA run. Raises ValueError when there is no adapter.
    """
    state = {}
    for name, layer in _all_layers(model).items():
        state[f"{PEFT_PREFIX}{name}.lora_A.weight"] = layer.lora_A.detach().clone()
        state[f"{PEFT_PREFIX}{name}.lora_B.weight"] = layer.lora_B.detach().clone()
        if layer.lora_magnitude is not None:
            state[f"{PEFT_PREFIX}{name}.lora_magnitude_vector"] = layer.lora_magnitude.detach().clone()
    return state


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes, each once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def trainable_count(model: nn.Module) -> int:
    """How many numbers training changes."""
    return sum(parameter.numel() for parameter in trainable(model))


def _all_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """Name -> adapter of `model`; InvalidValue when there is none."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}
    if not layers:
        raise InvalidValue("这个模型里没有 LoRALinear", "请先用 inject(model, targets, r, lora_alpha) 注入")
    return layers


def _require(layers: dict[str, LoRALinear], merged: bool) -> None:
    """MergeStateError naming the layers whose state isn't `merged`."""
    odd = [name for name, layer in layers.items() if layer.merged != merged]
    if odd:
        wrong = "还没有合并 (not merged)，请先 merge" if merged else "已经合并过 (merged)，请先 unmerge"
        raise MergeStateError(f"{len(odd)} / {len(layers)} 层{wrong}；第一层是 {odd[0]}", "没有改动任何权重")


def _chosen(model: nn.Module, targets: str | Sequence[str]) -> dict[str, nn.Module]:
    """Name -> module for every target, in the model's order; InvalidValue when a target matches nothing."""
    modules = {name: module for name, module in model.named_modules() if name}
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    matched = match_targets(targets, linear, output_head(model), others=list(modules))
    chosen = {name: module for name, module in modules.items() if name in matched}
    _refuse_shared(modules, chosen)
    return chosen


def _refuse_shared(modules: dict[str, nn.Module], chosen: dict[str, nn.Module]) -> None:
    """InvalidValue when another layer has the same weight tensor: merging would change that one too."""
    for name, module in chosen.items():
        weight = getattr(module, "weight", None)
        sharing = [n for n, m in modules.items() if m is not module and getattr(m, "weight", None) is weight]
        if weight is not None and sharing:
            raise InvalidValue(
                f"{name} 与 {sharing[0]} 共用一个权重 (tied weights)，合并会把后者也改掉",
                "请从 targets 里去掉它",
            )


def _check_base(base: nn.Module, use_dora: bool) -> None:
    if not isinstance(base, nn.Linear):
        raise InvalidType(f"只能包装线性层 (nn.Linear)，收到的是 {type(base).__name__}", "请只选线性层作目标")
    if not base.weight.is_floating_point():
        raise InvalidType(
            f"权重的类型是 {base.weight.dtype}，不是浮点数 (floating point)：这一层多半量化过",
            "请用全精度的模型；量化底座的 LoRA (QLoRA) 用 peft",
        )
    if base.weight.is_meta:
        raise InvalidValue("权重在 meta 设备上，还没有数值", "请先把模型真正加载到内存里")
    if not base.weight.isfinite().all():
        raise InvalidValue("权重里有 NaN 或 inf，无法在它上面微调", "请重新加载模型，检查文件是否完整")
    if use_dora and not base.weight.any(dim=1).all():
        row = int((~base.weight.any(dim=1)).nonzero()[0])
        raise InvalidValue(
            f"DoRA 要除以每一行的范数 (norm)，而权重的第 {row} 行（从 0 数）全是 0", "请对这一层用 LoRA"
        )


def _check_settings(base: nn.Linear, r, lora_alpha, dropout, init_lora_weights) -> None:
    most = min(base.in_features, base.out_features)
    if isinstance(r, bool) or not isinstance(r, int) or r < 1:
        raise InvalidValue(f"秩 r 必须是正整数，收到 {r!r}", "常用 8 或 16")
    if r > most:
        raise InvalidValue(
            f"秩 r={r} 超过了 min(d_in, d_out)={most}：{base.out_features}×{base.in_features} 的矩阵，秩最多是 {most}",
            f"请取 r ≤ {most}",
        )
    if not (lora_alpha > 0 and math.isfinite(lora_alpha)):
        raise InvalidValue(f"lora_alpha 必须是正数，收到 {lora_alpha!r}；常用 r 的一到两倍")
    if not 0 <= dropout < 1:
        raise InvalidValue(f"dropout 是丢弃的比例，应满足 0 ≤ dropout < 1，收到 {dropout!r}")
    if init_lora_weights is not True and init_lora_weights != "gaussian":
        raise InvalidValue(f'init_lora_weights 只能是 True 或 "gaussian"，收到 {init_lora_weights!r}')
