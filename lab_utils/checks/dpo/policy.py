"""Checks of policy gradients: PPO's clipped loss and the KL estimate k3."""

from random import Random

import torch

from lab_utils import align
from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.checks.inputs import normal

__all__ = ["KL_K3", "PPO_CLIP_LOSS", "ppo_clip_loss"]


def ppo_clip_loss(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """PPO's clipped loss of every token, before any averaging; all (batch, time)."""
    return -align.clipped_objective(torch.exp(logps - old_logps), advantages, epsilon)


def _token_logps(seed: int, rows: int, width: int) -> tuple[torch.Tensor, ...]:
    """Log-probabilities of tokens under the new and the old policy, and advantages of both signs."""
    old = -normal(seed, rows, width).abs()
    return old + normal(seed + 1, rows, width, scale=0.5), old, normal(seed + 2, rows, width)


def _clip_terms(logps, old, epsilon):
    ratio = torch.exp(logps - old)
    return ratio, ratio.clamp(1 - epsilon, 1 + epsilon)


def _clip_before_advantage(logps, old, advantages, epsilon):
    ratio, clipped = _clip_terms(logps, old, epsilon)
    return -torch.min(ratio, clipped) * advantages


_SAME = (_token_logps(71, 2, 3)[1], _token_logps(71, 2, 3)[1], _token_logps(71, 2, 3)[2])


def _clipped_product(logps, old, advantages, epsilon):
    product = torch.exp(logps - old) * advantages
    return -torch.min(product, product.clamp(1 - epsilon, 1 + epsilon))


def _larger_term(logps, old, advantages, epsilon):
    ratio, clipped = _clip_terms(logps, old, epsilon)
    return -torch.max(ratio * advantages, clipped * advantages)


def _draw_token_logps(rng: Random) -> tuple[torch.Tensor, ...]:
    return _token_logps(rng.randrange(2**31), rng.randint(2, 4), rng.randint(3, 7))


def _draw_clip(rng: Random) -> tuple:
    return *_draw_token_logps(rng), rng.choice((0.1, 0.15, 0.3))


PPO_CLIP_LOSS = Check(
    "ppo_clip_loss",
    ppo_clip_loss,
    draw=_draw_clip,
    cases=(
        Case(
            "两条回答，ε=0.2",
            (*_token_logps(61, 2, 6), 0.2),
            "ratio = exp(新 - 旧)；取 ratio·A 与 clip(ratio)·A 中较小的，再取负",
        ),
        Case("三条回答，ε=0.1", (*_token_logps(64, 3, 5), 0.1), "裁剪的范围是 1-ε 到 1+ε，ε 用传入的值"),
        Case("更新之前", (*_SAME, 0.2), "新旧策略相同时 ratio 是 1，损失就是 -A"),
    ),
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "忘了负号", lambda n, o, a, e: -ppo_clip_loss(n, o, a, e), "这是要最大化的目标；作为损失要取负"
        ),
        Mistake("取了较大的", _larger_term, "PPO 取两者中较小的 (min)，即悲观的那个"),
        Mistake("没有裁剪", lambda n, o, a, e: -_clip_terms(n, o, e)[0] * a, "少了裁剪 (clip) 的那一项"),
        Mistake(
            "只有裁剪项",
            lambda n, o, a, e: -_clip_terms(n, o, e)[1] * a,
            "裁剪项要和没裁剪的比较取较小者；只用裁剪项，走错了方向也拉不回来",
        ),
        Mistake(
            "新旧颠倒",
            lambda n, o, a, e: ppo_clip_loss(o, n, a, e),
            "ratio = π / π_old = exp(logps - old_logps)，颠倒了",
        ),
        Mistake(
            "没有取指数",
            lambda n, o, a, e: -torch.min((n - o) * a, (n - o).clamp(1 - e, 1 + e) * a),
            "对数概率相减得到的是 log ratio，还要取指数",
        ),
        Mistake("先取小再乘 A", _clip_before_advantage, "先各自乘 A 再取较小的：A 为负时大小会颠倒"),
        Mistake("裁剪了乘积", _clipped_product, "裁剪的是 ratio，不是 ratio·A"),
        Mistake("写死 ε", lambda n, o, a, e: ppo_clip_loss(n, o, a, 0.2), "ε 是参数，不要写死成 0.2"),
        Mistake(
            "求了平均",
            lambda n, o, a, e: ppo_clip_loss(n, o, a, e).mean(),
            "每个词元返回一个数，平均要等到乘过掩码 (mask) 之后",
        ),
    ),
)


def _draw_policies(rng: Random) -> tuple:
    return _draw_token_logps(rng)[:2]


KL_K3 = Check(
    "kl_k3",
    align.kl_k3,
    draw=_draw_policies,
    cases=(
        Case(
            "两条回答",
            _token_logps(81, 2, 5)[:2],
            "令 r = π_ref / π = exp(ref_logps - logps)，k3 = r - 1 - log r",
        ),
        Case(
            "概率相差更大",
            (normal(84, 3, 4, scale=1.5), normal(85, 3, 4, scale=1.5)),
            "每个词元一个数，都不小于 0",
        ),
        Case("两个模型相同", (normal(86, 2, 3), normal(86, 2, 3)), "没有差别时正好是 0"),
    ),
    tolerance=1e-5,
    mistakes=(
        Mistake("k1", align.kl_k1, "这是 k1：平均起来对，但单个值可以为负，方差也大"),
        Mistake("k2", align.kl_k2, "这是 k2 (log r)²/2：不会为负，但有偏 (biased)"),
        Mistake(
            "r 颠倒",
            lambda n, ref: align.kl_k3(ref, n),
            "r = π_ref / π，词元是 π 生成的；颠倒之后估计的不再是 KL(π‖π_ref)",
        ),
        Mistake("符号反了", lambda n, ref: -align.kl_k3(n, ref), "k3 = r - 1 - log r，不会为负"),
        Mistake("忘了减 1", lambda n, ref: align.kl_k3(n, ref) + 1, "少减了 1：两个模型相同时应为 0"),
        Mistake("忘了 log r", lambda n, ref: torch.expm1(ref - n), "少了 -log r：现在可以为负"),
        Mistake("log r 的符号", lambda n, ref: torch.expm1(ref - n) + (ref - n), "log r 前面是减号"),
        Mistake("绝对值", lambda n, ref: (n - ref).abs(), "取绝对值不会为负，却不再是 KL 的无偏估计"),
        Mistake("求了平均", lambda n, ref: align.kl_k3(n, ref).mean(), "每个词元返回一个数"),
    ),
)
