"""Checks of one linear layer: its parameters, and one step of gradient descent by hand."""

from random import Random

import torch

from lab_utils.checks.frame import Case, Check, Mistake

__all__ = ["HAND_STEP", "LINEAR_PARAMS", "hand_step", "linear_params"]


EXACT = 0.0
"""A count is right or wrong: no tolerance."""


def linear_params(d_in: int, d_out: int, bias: bool) -> int:
    """Parameters of y = Wx + b, W: (d_out, d_in), b: (d_out,) when there is one."""
    return d_in * d_out + (d_out if bias else 0)


def hand_step(x, y, w, b, lr: float):
    """One step of gradient descent on the mean squared error of ŷ = x Wᵀ + b; the new `(w, b)`.

    x: (n, d_in), y: (n, d_out), w: (d_out, d_in), b: (d_out,). The mean is over all n · d_out numbers.
    """
    g = 2 * (x @ w.T + b - y) / y.numel()
    return w - lr * g.T @ x, b - lr * g.sum(0)


def _draw_linear(rng: Random) -> tuple:
    return rng.randint(2, 20_000), rng.randint(2, 20_000), rng.random() < 0.5


LINEAR_PARAMS = Check(
    "linear_params",
    linear_params,
    draw=_draw_linear,
    cases=(
        Case("Linear(4, 10)", (4, 10, True), "权重矩阵有 d_out 行 d_in 列，再加偏置"),
        Case("Linear(10, 2)", (10, 2, True), "每个输出有一个偏置"),
        Case("没有偏置", (4096, 11008, False), "bias 为 False 时只有权重矩阵"),
        Case("一进一出", (1, 1, True), "y = wx + b", edge=True),
    ),
    mistakes=(
        Mistake("忘了偏置", lambda i, o, b: i * o, "bias 为 True 时，每个输出还有一个偏置"),
        Mistake("总有偏置", lambda i, o, b: i * o + o, "bias 为 False 的层没有偏置"),
        Mistake(
            "偏置按输入数",
            lambda i, o, b: i * o + (i if b else 0),
            "偏置加在输出上：它的个数和输出一样多，不是和输入一样多",
        ),
        Mistake("一个偏置", lambda i, o, b: i * o + (1 if b else 0), "偏置不是一个数：每个输出各有一个"),
        Mistake(
            "相加", lambda i, o, b: i + o + (o if b else 0), "每一对输入和输出之间都有一条连线：是乘，不是加"
        ),
        Mistake("两边都有偏置", lambda i, o, b: i * o + (i + o if b else 0), "输入一侧没有偏置"),
    ),
    tolerance=EXACT,
)


def _batch(seed: int, n: int, d_in: int, d_out: int, lr: float) -> tuple:
    """Random x, y, w, b in float64 and the learning rate."""
    random = torch.Generator().manual_seed(seed)
    shapes = ((n, d_in), (n, d_out), (d_out, d_in), (d_out,))
    return (*(torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes), lr)


def _wrong_step(x, y, w, b, lr, scale=None):
    """The step with another factor before the residuals; None: 2 / (n · d_out)."""
    g = (2 / y.numel() if scale is None else scale) * (x @ w.T + b - y)
    return w - lr * g.T @ x, b - lr * g.sum(0)


def _averaged_bias_gradient(x, y, w, b, lr):
    return hand_step(x, y, w, b, lr)[0], b - lr * (2 * (x @ w.T + b - y) / y.numel()).mean(0)


def _gradients(x, y, w, b, lr):
    g = 2 * (x @ w.T + b - y) / y.numel()
    return g.T @ x, g.sum(0)


def _draw_step(rng: Random) -> tuple:
    n, d_in, d_out = rng.randint(2, 9), rng.randint(2, 6), rng.randint(2, 6)
    return _batch(rng.randrange(2**31), n, d_in, d_out, rng.uniform(0.01, 0.9))


HAND_STEP = Check(
    "hand_step",
    hand_step,
    draw=_draw_step,
    cases=(
        Case("8 行，4 进 3 出", _batch(0, 8, 4, 3, 0.1), "先求 g = 2(ŷ − y) / 元素个数，再求两个梯度"),
        Case("1 行，3 进 2 出", _batch(1, 1, 3, 2, 0.5), "只有一行时公式不变"),
        Case("5 行，2 进 1 出", _batch(2, 5, 2, 1, 0.01), "一列输出时，元素个数就是行数"),
        Case("学习率为 0", _batch(3, 4, 3, 2, 0.0), "学习率为 0 时参数不动", edge=True),
    ),
    mistakes=(
        Mistake(
            "加上梯度",
            lambda x, y, w, b, lr: _wrong_step(x, y, w, b, -lr),
            "梯度指向损失变大的方向，要往反方向走",
        ),
        Mistake(
            "忘了 2",
            lambda x, y, w, b, lr: _wrong_step(x, y, w, b, lr, 1 / y.numel()),
            "平方求导会出来一个 2",
        ),
        Mistake(
            "只除以行数",
            lambda x, y, w, b, lr: _wrong_step(x, y, w, b, lr, 2 / len(y)),
            "损失是对所有元素求平均，元素有 n × d_out 个，不是 n 个",
        ),
        Mistake(
            "没有求平均",
            lambda x, y, w, b, lr: _wrong_step(x, y, w, b, lr, 2),
            "损失是平均 (mean)，不是总和，梯度也要除以元素个数",
        ),
        Mistake(
            "偏置没动", lambda x, y, w, b, lr: (hand_step(x, y, w, b, lr)[0], b), "偏置也是参数，也要更新"
        ),
        Mistake(
            "偏置的梯度求了平均",
            _averaged_bias_gradient,
            "除以元素个数已经在 g 里了；b 的梯度是 g 按行相加 (sum)，不再平均",
        ),
        Mistake("返回梯度", _gradients, "这是梯度；要返回走了一步之后的 w 和 b"),
        Mistake("忘了乘学习率", lambda x, y, w, b, lr: _wrong_step(x, y, w, b, 1.0), "步长是学习率乘梯度"),
    ),
)
