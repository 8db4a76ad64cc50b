"""Checks of LoRA: forward pass, parameters, merging, DoRA."""

import math
from random import Random

import torch
from torch import Tensor

from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.checks.inputs import normal64

__all__ = [
    "DORA_WEIGHT",
    "LORA_FORWARD",
    "LORA_PARAMETERS",
    "MERGED_WEIGHT",
    "dora_weight",
    "lora_forward",
    "lora_parameters",
    "merged_weight",
]


def lora_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, lora_alpha: float
) -> Tensor:
    """h = W₀x + b + (α/r)·B(Ax). x: (..., d_in), weight: (d_out, d_in), A: (r, d_in), B: (d_out, r)."""
    h = x @ weight.T + lora_alpha / A.shape[0] * (x @ A.T @ B.T)
    return h if bias is None else h + bias


def lora_parameters(d_in: int, d_out: int, r: int) -> int:
    """Numbers in A and B together."""
    return r * (d_in + d_out)


def merged_weight(
    weight: Tensor, A: Tensor, B: Tensor, lora_alpha: float, use_rslora: bool = False
) -> Tensor:
    """W₀ + s·BA with s = α/r, or α/√r for rsLoRA; (d_out, d_in)."""
    r = A.shape[0]
    return weight + lora_alpha / (math.sqrt(r) if use_rslora else r) * B @ A


def dora_weight(weight: Tensor, A: Tensor, B: Tensor, lora_alpha: float, magnitude: Tensor) -> Tensor:
    """m ⊙ V/‖V‖ with V = W₀ + (α/r)·BA, norm and magnitude by row; (d_out, d_in)."""
    v = merged_weight(weight, A, B, lora_alpha)
    return magnitude[:, None] * v / v.norm(dim=1, keepdim=True)


def _layer(seed: int, d_in: int, d_out: int, r: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, bias, A and B of a small layer, none of them zero."""
    return (
        normal64(seed, d_out, d_in),
        normal64(seed + 1, d_out),
        normal64(seed + 2, r, d_in),
        normal64(seed + 3, d_out, r),
    )


_W, _b, _A, _B = _layer(10, 6, 4, 2)
_W1, _b1, _A1, _B1 = _layer(20, 5, 7, 3)


def _scaled_forward(scale):
    """`lora_forward` with another scale than α/r: `scale(α, A)`."""

    def wrong(x, weight, bias, A, B, lora_alpha):
        return lora_forward(x, weight, bias, A, B, scale(lora_alpha, A) * A.shape[0])

    return wrong


def _draw_layer(rng: Random) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, bias, A and B of a layer that isn't square."""
    d_in = rng.randint(5, 9)
    return _layer(rng.randrange(2**31), d_in, d_in + rng.randint(1, 3), rng.randint(2, 4))


def _draw_forward(rng: Random) -> tuple:
    weight, bias, A, B = _draw_layer(rng)
    x = normal64(rng, rng.randint(2, 5), weight.shape[1])
    return x, weight, bias if rng.random() < 0.7 else None, A, B, rng.randint(5, 32)


LORA_FORWARD = Check(
    "lora_forward",
    lora_forward,
    draw=_draw_forward,
    cases=(
        Case("3 个样本，r=2，α=8", (normal64(1, 3, 6), _W, _b, _A, _B, 8), "h = W₀x + b + (α/r)·B(Ax)"),
        Case("r=3，α=3", (normal64(2, 4, 5), _W1, _b1, _A1, _B1, 3), "α/r 等于 1 时，两部分直接相加"),
        Case(
            "一批句子 (batch, seq, d_in)",
            (normal64(3, 2, 5, 6), _W, _b, _A, _B, 5),
            "x 可以有更多的维：最后一维是 d_in，转置的是权重",
        ),
        Case("没有偏置", (normal64(4, 3, 6), _W, None, _A, _B, 4), "bias 可能是 None，先判断"),
        Case(
            "B 是零",
            (normal64(5, 3, 6), _W, _b, _A, torch.zeros_like(_B), 8),
            "刚开始训练时 B=0，结果应当与原来的层相同",
            edge=True,
        ),
    ),
    mistakes=(
        Mistake("没有缩放", _scaled_forward(lambda a, A: 1.0), "更新要乘上 α/r"),
        Mistake("只乘 α", _scaled_forward(lambda a, A: a), "乘了 α，还要除以秩 r"),
        Mistake("r/α", _scaled_forward(lambda a, A: A.shape[0] / a), "缩放写反了：是 α/r"),
        Mistake(
            "α/√r",
            _scaled_forward(lambda a, A: a / math.sqrt(A.shape[0])),
            "α/√r 是 rsLoRA 的缩放，后面会讲；这里用 α/r",
        ),
        Mistake("r 取错", _scaled_forward(lambda a, A: a / A.shape[1]), "r 是 A 的行数，不是列数"),
        Mistake(
            "忘了偏置",
            lambda x, w, b, A, B, a: lora_forward(x, w, None, A, B, a),
            "底座的那一层有偏置 (bias)，不要丢掉",
        ),
        Mistake(
            "底座也缩放了",
            lambda x, w, b, A, B, a: a / A.shape[0] * (x @ w.T + x @ A.T @ B.T) + (0 if b is None else b),
            "只缩放更新，底座的 W₀x 不动",
        ),
        Mistake(
            "只有更新",
            lambda x, w, b, A, B, a: a / A.shape[0] * (x @ A.T @ B.T),
            "还要加上底座原来的输出 W₀x + b",
        ),
        Mistake(
            "没有判断 None",
            lambda x, w, b, A, B, a: lora_forward(x, w, None, A, B, a) + b,
            "bias 可能是 None：None 不能相加",
        ),
        Mistake(
            "没有转置",
            lambda x, w, b, A, B, a: x @ w + a / A.shape[0] * (x @ A @ B),
            "权重的形状是 (d_out, d_in)，而 x 的每一行是一个样本：要乘的是转置",
        ),
    ),
)


def _draw_adapter_size(rng: Random) -> tuple:
    return rng.randint(64, 20_000), rng.randint(64, 20_000), rng.randint(2, 256)


LORA_PARAMETERS = Check(
    "lora_parameters",
    lora_parameters,
    draw=_draw_adapter_size,
    cases=(
        Case("4096×4096，r=8", (4096, 4096, 8), "A 是 r×d_in，B 是 d_out×r"),
        Case("256→768，r=16", (256, 768, 16), "输入和输出的宽度可以不同"),
        Case("3584→512，r=1", (3584, 512, 1), "r=1 时 A 是一行，B 是一列"),
        Case("r 与宽度相同", (64, 64, 64), "这时 LoRA 的参数比原来的矩阵还多", edge=True),
    ),
    mistakes=(
        Mistake("整个矩阵", lambda i, o, r: i * o, "这是底座 W₀ 的参数，它是冻结的；要数的是 A 和 B"),
        Mistake("乘了三个", lambda i, o, r: r * i * o, "A 和 B 是两个矩阵，参数相加，不是相乘"),
        Mistake("只数 A", lambda i, o, r: r * i, "还有 B：d_out×r"),
        Mistake("只数 B", lambda i, o, r: r * o, "还有 A：r×d_in"),
        Mistake("当成方阵", lambda i, o, r: 2 * r * i, "d_in 和 d_out 不一定相等"),
        Mistake("加上底座", lambda i, o, r: i * o + r * (i + o), "底座冻结，不训练；只数 A 和 B"),
        Mistake("中间多一个 r×r", lambda i, o, r: r * (i + o) + r * r, "A 的输出直接进 B，中间没有别的矩阵"),
        Mistake("返回比例", lambda i, o, r: r * (i + o) / (i * o), "返回个数（整数），比例下一格再算"),
    ),
)


_SQUARE = _layer(30, 5, 5, 2)


def _transposed_update(weight, A, B, lora_alpha, use_rslora=False):
    return weight + (merged_weight(weight, A, B, lora_alpha, use_rslora) - weight).T


def _in_place(weight, A, B, lora_alpha, use_rslora=False):
    weight += merged_weight(weight, A, B, lora_alpha, use_rslora) - weight
    return weight


def _draw_merge(rng: Random) -> tuple:
    weight, _, A, B = _draw_layer(rng)
    return weight, A, B, rng.randint(5, 32), rng.random() < 0.5


MERGED_WEIGHT = Check(
    "merged_weight",
    merged_weight,
    draw=_draw_merge,
    cases=(
        Case("LoRA，6→4，r=2，α=8", (_W, _A, _B, 8, False), "W₀ + (α/r)·BA"),
        Case("rsLoRA，同样的数", (_W, _A, _B, 8, True), "rsLoRA 只把 α/r 换成 α/√r"),
        Case(
            "方阵，r=2",
            (_SQUARE[0], _SQUARE[2], _SQUARE[3], 3, False),
            "形状都对不等于顺序对：是 BA，不是它的转置",
        ),
        Case("rsLoRA，r=3", (_W1, _A1, _B1, 4, True), "√3 约等于 1.732"),
        Case("B 是零", (_W, _A, torch.zeros_like(_B), 8, False), "还没训练时，合并前后一样", edge=True),
    ),
    mistakes=(
        Mistake("没有缩放", lambda w, A, B, a, rs: w + B @ A, "合并时也要乘缩放，否则与合并前的输出不同"),
        Mistake(
            "不管 rsLoRA", lambda w, A, B, a, rs: merged_weight(w, A, B, a), "use_rslora 为真时，缩放是 α/√r"
        ),
        Mistake(
            "总是 rsLoRA",
            lambda w, A, B, a, rs: merged_weight(w, A, B, a, True),
            "use_rslora 为假时，缩放是 α/r",
        ),
        Mistake(
            "rsLoRA 写成 √(α/r)",
            lambda w, A, B, a, rs: w + (math.sqrt(a / A.shape[0]) if rs else a / A.shape[0]) * B @ A,
            "开方的只有 r，α 不开方",
        ),
        Mistake(
            "减了更新",
            lambda w, A, B, a, rs: 2 * w - merged_weight(w, A, B, a, rs),
            "这是拆分 (unmerge)；合并是加上",
        ),
        Mistake(
            "只有更新",
            lambda w, A, B, a, rs: merged_weight(w, A, B, a, rs) - w,
            "返回的是合并后的权重：W₀ 加上更新",
        ),
        Mistake(
            "更新转置了",
            _transposed_update,
            "形状都对不等于顺序对：方阵时 (BA)ᵀ = AᵀBᵀ 也能加上去，要的是 BA",
        ),
        Mistake("改了传入的权重", _in_place, "+= 会改动传入的张量：写成 weight + …，得到新的张量"),
        Mistake(
            "顺序反了",
            lambda w, A, B, a, rs: w + a / A.shape[0] * A @ B,
            "B 是 (d_out, r)，A 是 (r, d_in)：谁在左边，乘出来才是 (d_out, d_in)？",
        ),
    ),
)


def _dora(norm_of, magnitude_of=lambda m: m[:, None]):
    """`dora_weight` with another norm or another use of the magnitude."""

    def wrong(weight, A, B, lora_alpha, magnitude):
        v = merged_weight(weight, A, B, lora_alpha)
        return magnitude_of(magnitude) * v / norm_of(v, weight)

    return wrong


def _by_row(v: Tensor) -> Tensor:
    return v.norm(dim=1, keepdim=True)


_M, _M_SQUARE = normal64(40, 4).abs() + 0.5, normal64(41, 5).abs() + 0.5


def _draw_dora(rng: Random) -> tuple:
    weight, bias, A, B = _draw_layer(rng)
    return weight, A, B, rng.randint(5, 32), bias.abs() + 0.3


DORA_WEIGHT = Check(
    "dora_weight",
    dora_weight,
    draw=_draw_dora,
    cases=(
        Case("6→4，r=2，α=8", (_W, _A, _B, 8, _M), "V = W₀ + (α/r)·BA，每一行除以自己的范数，再乘自己的 m"),
        Case("方阵", (_SQUARE[0], _SQUARE[2], _SQUARE[3], 3, _M_SQUARE), "范数和 m 都是一行一个"),
        Case("m 全是 1", (_W, _A, _B, 4, torch.ones(4, dtype=torch.float64)), "这时每一行的范数都是 1"),
        Case(
            "还没训练",
            (_W, _A, torch.zeros_like(_B), 8, _W.norm(dim=1)),
            "B=0、m=‖W₀‖ 时，应当正好是 W₀",
            edge=True,
        ),
    ),
    mistakes=(
        Mistake("没有除以范数", _dora(lambda v, w: 1.0), "m 是整行的长度，所以要先把这一行的长度变成 1"),
        Mistake("没有乘 m", _dora(lambda v, w: _by_row(v), lambda m: 1.0), "方向有了，还要乘上幅度 m"),
        Mistake(
            "用了 W₀ 的范数", _dora(lambda v, w: _by_row(w)), "要除以的是更新之后的 V 的范数，不是 W₀ 的"
        ),
        Mistake(
            "按列求范数",
            _dora(lambda v, w: v.norm(dim=0, keepdim=True)),
            "这里一行对应一个输出，按行求范数：dim=1",
        ),
        Mistake("整个矩阵的范数", _dora(lambda v, w: v.norm()), "每一行各有自己的范数，不是整个矩阵一个"),
        Mistake("范数没开方", _dora(lambda v, w: _by_row(v) ** 2), "范数是平方和的平方根"),
        Mistake(
            "m 乘到列上",
            _dora(lambda v, w: _by_row(v), lambda m: m),
            "m 一行一个：要变成一列 m[:, None]，否则会乘到各列上（或者报错）",
        ),
        Mistake(
            "没有缩放", lambda w, A, B, a, m: dora_weight(w, A, B, A.shape[0], m), "V 里的更新也要乘 α/r"
        ),
        Mistake("没有 W₀", lambda w, A, B, a, m: dora_weight(0 * w, A, B, a, m), "V = W₀ + 更新：W₀ 不要丢"),
    ),
)
