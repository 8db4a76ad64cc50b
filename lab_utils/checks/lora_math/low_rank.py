"""Checks of low rank: truncated SVD, energy, alternating least squares."""

from random import Random

import numpy as np
import torch
from torch import Tensor

from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.checks.inputs import normal64

__all__ = ["ALS_USER", "RANK_FOR_ENERGY", "RANK_K", "als_user", "rank_for_energy", "rank_k"]


def rank_k(matrix: Tensor, k: int) -> Tensor:
    """The best rank-`k` approximation of `matrix`, (m, n), in the Frobenius norm (Eckart & Young 1936)."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :k] * s[:k] @ vh[:k]


def rank_for_energy(singular_values: Tensor, share: float) -> int:
    """Fewest directions whose σ² make up at least `share` of the sum of all σ².

    singular_values: (n,), from the largest to the smallest.
    """
    energy = singular_values**2
    return int((energy.cumsum(0) < share * energy.sum()).sum()) + 1


def als_user(ratings: np.ndarray, rated: np.ndarray, items: np.ndarray, reg: float) -> np.ndarray:
    """One user's factors in a step of alternating least squares (Koren, Bell & Volinsky 2009, eq. 2).

    ratings: (items,), rated: (items,) bool, items: (items, k). Returns the p, (k,), that minimises
    Σ (r − p·q)² over the items rated, plus reg·‖p‖².
    """
    q = items[rated]
    return np.linalg.solve(q.T @ q + reg * np.eye(q.shape[1]), q.T @ ratings[rated])


def _svd(matrix: Tensor):
    return torch.linalg.svd(matrix, full_matrices=False)


def _last_directions(matrix, k):
    u, s, vh = _svd(matrix)
    return u[:, -k:] * s[-k:] @ vh[-k:]


def _without_singular_values(matrix, k):
    u, _, vh = _svd(matrix)
    return u[:, :k] @ vh[:k]


def _columns_of_vh(matrix, k):
    u, s, vh = _svd(matrix)
    return u[:, :k] * s[:k] @ vh[:, :k].T


def _two_factors(matrix, k):
    u, s, vh = _svd(matrix)
    return u[:, :k] * s[:k], vh[:k]


def _draw_matrix(rng: Random) -> tuple:
    m, n = rng.randint(4, 9), rng.randint(4, 9)
    return normal64(rng, m, n), rng.randint(2, min(m, n) - 1)


RANK_K = Check(
    "rank_k",
    rank_k,
    draw=_draw_matrix,
    cases=(
        Case("6×4 的矩阵，k=2", (normal64(1, 6, 4), 2), "U 取前 k 列，σ 取前 k 个，Vh 取前 k 行，再乘起来"),
        Case("3×5 的矩阵，k=1", (normal64(2, 3, 5), 1), "宽的矩阵也一样；结果与原矩阵一样大"),
        Case("8×8 的矩阵，k=5", (normal64(3, 8, 8), 5), "torch.linalg.svd 给出的奇异值从大到小"),
        Case("k 等于满秩", (normal64(4, 4, 6), 4), "取全部奇异值时，应当还原出原矩阵", edge=True),
    ),
    mistakes=(
        Mistake("取了最小的", _last_directions, "奇异值从大到小排好了，要留下的是最前面、最大的 k 个"),
        Mistake("忘了奇异值", _without_singular_values, "三个因子相乘：U、奇异值、Vh。少了哪一个？"),
        Mistake("取了 Vh 的列", _columns_of_vh, "svd 返回的是 Vh，已经转置过：它的每一**行**是一个方向"),
        Mistake("多取一个", lambda m, k: rank_k(m, k + 1), "切片 [:k] 正好是 k 个，不要再加 1"),
        Mistake("少取一个", lambda m, k: rank_k(m, k - 1), "切片 [:k] 正好是 k 个，不要减 1"),
        Mistake(
            "只取第 k 个",
            lambda m, k: rank_k(m, k) - rank_k(m, k - 1),
            "这是第 k 个方向自己；要前 k 个方向之和",
        ),
        Mistake("返回两个因子", _two_factors, "还差一步：把两个因子乘起来，返回与原矩阵一样大的矩阵"),
    ),
)


def _by_values(s, share):
    return int((s.cumsum(0) < share * s.sum()).sum()) + 1


def _above_threshold(s, share):
    return int((s**2 >= (1 - share) * (s**2).max()).sum())


def _draw_singular_values(rng: Random) -> tuple:
    values = normal64(rng, rng.randint(5, 40)).abs()
    return values.sort(descending=True).values, rng.uniform(0.3, 0.97)


RANK_FOR_ENERGY = Check(
    "rank_for_energy",
    rank_for_energy,
    draw=_draw_singular_values,
    cases=(
        Case(
            "σ = 3, 2, 1，要 90%",
            (torch.tensor([3.0, 2.0, 1.0]), 0.9),
            "σ² 是 9、4、1：9/14 不到九成，13/14 够了",
        ),
        Case("σ = 3, 2, 1，要 50%", (torch.tensor([3.0, 2.0, 1.0]), 0.5), "第一个方向就够了"),
        Case("八个一样大", (torch.ones(8), 0.9), "每个占八分之一：7 个是 87.5%，还不够"),
        Case("一个特别大", (torch.tensor([10.0, 1.0, 1.0, 1.0]), 0.9), "100/103 已经超过九成"),
        Case("慢慢变小", (torch.linspace(1, 0.1, 30), 0.95), "先平方，再累加，再看第几个够"),
        Case("正好相等", (torch.tensor([2.0, 2.0, 2.0, 2.0]), 0.5), "达到就算够：“至少” 50%", edge=True),
    ),
    mistakes=(
        Mistake("没有平方", _by_values, "能量 (energy) 是奇异值的平方，先平方再求和"),
        Mistake(
            "从 0 数",
            lambda s, share: rank_for_energy(s, share) - 1,
            "要的是几个方向，不是最后一个方向的下标；差了 1",
        ),
        Mistake(
            "没除以总和",
            lambda s, share: int(((s**2).cumsum(0) < share).sum()) + 1,
            "share 是比例：累加和要与总能量的 share 倍比较",
        ),
        Mistake("看单个大小", _above_threshold, "不是看每个方向够不够大，而是前几个**加起来**够不够"),
        Mistake(
            "超过才算",
            lambda s, share: int(((s**2).cumsum(0) <= share * (s**2).sum()).sum()) + 1,
            "“至少”包括正好相等，比较要用 < 而不是 <=",
        ),
        Mistake(
            "返回比例", lambda s, share: rank_for_energy(s, share) / len(s), "返回方向的个数，不要除以总数"
        ),
        Mistake(
            "不够的个数", lambda s, share: len(s) - rank_for_energy(s, share), "要的是留下几个，不是丢掉几个"
        ),
    ),
)


def _rater(seed: int, items: int, k: int, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One user's ratings, zero where there is none; which items are rated; the items' factors."""
    rng = np.random.default_rng(seed)
    rated = rng.random(items) < share
    rated[0] = True
    return rng.normal(0, 1, items) * rated, rated, rng.normal(0, 1, (items, k))


def _reg_everywhere(ratings, rated, items, reg):
    q = items[rated]
    return np.linalg.solve(q.T @ q + reg, q.T @ ratings[rated])


def _draw_rater(rng: Random) -> tuple:
    ratings = _rater(rng.randrange(2**31), rng.randint(6, 20), rng.randint(2, 5), share=0.6)
    return *ratings, rng.uniform(0.05, 3.0)


ALS_USER = Check(
    "als_user",
    als_user,
    draw=_draw_rater,
    cases=(
        Case("7 部影片，2 个因子", (*_rater(1, 7, 2, 0.6), 0.1), "只用评过的影片：(QᵀQ + λI) p = Qᵀr"),
        Case("正则化强一些", (*_rater(2, 9, 3, 0.7), 2.0), "λI 加在 QᵀQ 的对角线上"),
        Case("全部评过", (*_rater(3, 8, 2, 1.1), 0.5), "没有空格时也一样"),
        Case(
            "只评过一部", (*_rater(4, 5, 3, 0.0), 0.1), "只有一部影片、三个因子也能解，靠的是 λI", edge=True
        ),
    ),
    mistakes=(
        Mistake(
            "空格当成 0 分",
            lambda r, s, q, reg: als_user(r, np.ones_like(s), q, reg),
            "没有评过不等于打了 0 分：用 rated 选出评过的影片，只在它们上面拟合",
        ),
        Mistake(
            "没有正则化",
            lambda r, s, q, reg: als_user(r, s, q, 0.0),
            "解方程时别忘了 λI：评得少的用户，QᵀQ 不满秩",
        ),
        Mistake("λ 加到每个元素", _reg_everywhere, "λI 只加在对角线上；矩阵加一个数会加到每一个元素"),
        Mistake(
            "λ 乘了评分数",
            lambda r, s, q, reg: als_user(r, s, q, reg * s.sum()),
            "这里的惩罚是 λ‖p‖²，对每位用户相同，不乘评分的个数",
        ),
        Mistake(
            "没解方程",
            lambda r, s, q, reg: q[s].T @ r[s],
            "Qᵀr 只是方程的右边，还要解线性方程组 (np.linalg.solve)",
        ),
        Mistake(
            "返回预测",
            lambda r, s, q, reg: q @ als_user(r, s, q, reg),
            "要的是这位用户的因子 p，形状 (k,)；预测是下一步 Qp",
        ),
    ),
)
