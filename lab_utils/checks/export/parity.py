"""Checks of how far two models are apart: in logits, and in what they write."""

from random import Random

import torch

from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.checks.inputs import normal64
from lab_utils.evaluation import drift as drifts
from lab_utils.export import first_difference as _first_difference

__all__ = ["DRIFT", "FIRST_DIFFERENCE", "drift", "first_difference"]


def drift(reference: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """`(max_abs, kl)` of logits, both (tokens, vocab): the largest difference, and the mean KL in nats."""
    measured = drifts.drift(reference, other)
    return measured.max_abs, measured.kl


def first_difference(a: list[int], b: list[int]) -> int | None:
    """First place at which two lists of token ids differ, None when they are equal."""
    return _first_difference(a, b)


def _kl(p, q):
    return (p.exp() * (p - q)).sum(-1)


def _log(x, dim=-1):
    return x.double().log_softmax(dim)


def _max_abs(a, b) -> float:
    return (a - b).abs().max().item()


_LOGITS = normal64(21, 5, 8)


def _draw_logits(rng: Random) -> tuple:
    rows, vocab = rng.randint(2, 6), rng.randint(4, 9)
    reference = 2 * normal64(rng, rows, vocab)
    return reference, reference + rng.choice((0.05, 0.5, 2.0)) * normal64(rng, rows, vocab)


DRIFT = Check(
    "drift",
    drift,
    draw=_draw_logits,
    cases=(
        Case(
            "差一点",
            (_LOGITS, _LOGITS + 0.1 * normal64(22, 5, 8)),
            "先各自 log_softmax，再按行求 KL，最后对词元求平均",
        ),
        Case(
            "差很多",
            (2 * normal64(23, 3, 6), 2 * normal64(24, 3, 6)),
            "KL(reference ‖ other)：前面乘的是 reference 的概率",
        ),
        Case(
            "最大偏差是负的",
            (_LOGITS, _LOGITS + torch.eye(5, 8, dtype=torch.float64) * 3),
            "最大偏差看绝对值",
        ),
        Case("完全相同", (_LOGITS, _LOGITS.clone()), "两个数都应为 0"),
        Case("整体平移", (_LOGITS, _LOGITS + 1.5), "所有 logit 加同一个数，概率不变", edge=True),
    ),
    mistakes=(
        Mistake(
            "KL 的方向反了",
            lambda p, q: (_max_abs(p, q), _kl(_log(q), _log(p)).mean().item()),
            "KL 不对称：KL(reference ‖ other) 用 reference 的概率加权",
        ),
        Mistake(
            "KL 没有平均",
            lambda p, q: (_max_abs(p, q), _kl(_log(p), _log(q)).sum().item()),
            "对词元求平均，不是求和",
        ),
        Mistake(
            "对所有元素平均",
            lambda p, q: (_max_abs(p, q), (_log(p).exp() * (_log(p) - _log(q))).mean().item()),
            "先对词表 (最后一维) 求和，再对词元求平均",
        ),
        Mistake(
            "没有绝对值",
            lambda p, q: ((p - q).max().item(), drift(p, q)[1]),
            "差可能是负的，先取绝对值再取最大",
        ),
        Mistake(
            "平均偏差",
            lambda p, q: ((p - q).abs().mean().item(), drift(p, q)[1]),
            "要的是最大偏差，不是平均偏差",
        ),
        Mistake(
            "softmax 的维度错了",
            lambda p, q: (_max_abs(p, q), _kl(_log(p, 0), _log(q, 0)).mean().item()),
            "softmax 是对词表那一维做的 (dim=-1)",
        ),
        Mistake(
            "没有归一化",
            lambda p, q: (_max_abs(p, q), _kl(p.double(), q.double()).mean().item()),
            "logits 不是对数概率，要先 log_softmax",
        ),
    ),
)


def _zip_only(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)


def _counted_from_one(a, b):
    place = first_difference(a, b)
    return None if place is None else place + 1


def _token_there(a, b):
    place = first_difference(a, b)
    return None if place is None else [*a, None][place]


def _last_difference(a, b):
    places = range(max(len(a), len(b)))
    return max((i for i in places if a[i : i + 1] != b[i : i + 1]), default=None)


def _draw_token_lists(rng: Random) -> tuple:
    """Two lists that are equal, part ways, or of which one goes on; tokens may come twice."""
    same, rest = (rng.choices(range(150_000), k=rng.randint(2, 8)) for _ in range(2))
    same += rng.choices(same, k=2)
    other = [token + 1 for token in rest]
    return rng.choice(
        ((same + rest, same + other), (same, same + rest), (same + rest, same), (same, list(same)))
    )


FIRST_DIFFERENCE = Check(
    "first_difference",
    first_difference,
    draw=_draw_token_lists,
    cases=(
        Case("中间不同", ([5, 6, 7, 8], [5, 6, 9, 8]), "位置从 0 数"),
        Case("开头就不同", ([1, 2, 3], [4, 2, 3]), "第一个位置是 0"),
        Case("两处不同", ([1, 2, 3, 4], [1, 0, 3, 0]), "要的是最早的一处"),
        Case("完全相同", ([3, 1, 2], [3, 1, 2]), "相同时返回 None"),
        Case("一边多出一截", ([7, 8], [7, 8, 9]), "前面全同、长度不同，也是不同：差别在短的那边结束的地方"),
        Case("另一边多出一截", ([7, 8, 9, 1], [7, 8]), "反过来也一样", edge=True),
        Case("都是空的", ([], []), "两个空列表相同", edge=True),
    ),
    mistakes=(
        Mistake("zip 忽略了长度", _zip_only, "zip 在短的那边用完就停：多出来的部分没有比"),
        Mistake(
            "相同返回 -1",
            lambda a, b: -1 if a == b else first_difference(a, b),
            "没有差别时返回 None，不是 -1",
        ),
        Mistake("从 1 数", _counted_from_one, "位置从 0 数起"),
        Mistake(
            "返回词元",
            _token_there,
            "要的是位置，不是那里的词元",
        ),
        Mistake("最后一处", _last_difference, "要最早的一处：后面的差别往往只是它引起的"),
        Mistake(
            "长度不同就是 0",
            lambda a, b: None if a == b else (0 if len(a) != len(b) else first_difference(a, b)),
            "长度不同时，前面相同的部分也要比",
        ),
        Mistake("返回真假", lambda a, b: a != b, "要位置（整数），或 None"),
    ),
)
