"""Low rank, three times: the SVD of a matrix, a table of ratings, and what fine-tuning changes.

Truncated SVD and its error (Eckart and Young 1936, Mirsky 1960); matrix factorisation of an
incomplete table by alternating least squares (Koren et al. 2009); the singular values of ΔW.
Matrices are torch tensors, and numpy arrays are accepted; ratings are a DataFrame, their factors numpy.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

RATING_COLUMNS = ("user", "item", "rating", "timestamp")
CSV_HEADER = "userId,movieId,rating,timestamp"


def truncate(matrix, k: int) -> tuple[Tensor, Tensor]:
    """The best approximation of rank `k`, as factors `left (m, k)` and `right (k, n)`.

    matrix: (m, n). `left @ right` = Σ σᵢ uᵢ vᵢᵀ over the k largest singular values, nearest to
    `matrix` in Frobenius and in spectral norm among all matrices of rank k (Eckart-Young-Mirsky);
    the singular values are in `left`. Same dtype as `matrix`; float32 for integers and half precision.

    Raises ValueError for what isn't a finite, non-empty matrix, and for k < 1 or k > min(m, n).
    """
    matrix = _matrix(matrix)
    _check_rank(k, min(matrix.shape))
    u, sigma, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :k] * sigma[:k], vt[:k]


def spectrum(matrix) -> Tensor:
    """Singular values of `matrix` (m, n), largest first: (min(m, n),). Raises as `truncate` does."""
    return torch.linalg.svdvals(_matrix(matrix))


def truncation_error(singular_values, k: int, norm: str = "frobenius") -> float:
    """‖A − Aₖ‖ of the best rank-k approximation, from the singular values of A alone.

    Eckart-Young-Mirsky: `frobenius` is the root of the summed squares of the values left out,
    `spectral` the largest value left out, σₖ₊₁. Divided by the value at k = 0, which is ‖A‖, it is the
    relative error. `k` is at most their number.
    Raises ValueError for another k or norm, and for values that are no singular values.
    """
    sigma = _singular_values(singular_values)
    _check_rank(k, len(sigma), least=0)
    if norm not in ("frobenius", "spectral"):
        raise ValueError(f"不认识范数 (norm) {norm!r}，只能是 frobenius 或 spectral。")
    left_out = sigma[k:]
    if not len(left_out):
        return 0.0
    return float(left_out[0] if norm == "spectral" else left_out.norm())


def energy(singular_values) -> Tensor:
    """Share of the squared Frobenius norm held by the first 1, 2, … singular values: (r,) float64, rising to 1.

    Raises ValueError when they are no singular values or all zero.
    """
    squares = _singular_values(singular_values) ** 2
    if not squares.any():
        raise ValueError("奇异值 (singular values) 全是 0：零矩阵没有能量可分，请检查矩阵是否算对。")
    return squares.cumsum(0) / squares.sum()


def rank_for_energy(singular_values, share: float) -> int:
    """The fewest singular values that hold at least `share` of the energy.

    Raises ValueError for a share outside (0, 1], and as `energy` does.
    """
    if not 0 < share <= 1:
        raise ValueError(f"能量的份额 (share) 应在 0 与 1 之间，如 0.9，却是 {share}。")
    shares = energy(singular_values)
    return int((shares < min(share, shares[-1])).sum()) + 1


# Ratings ------------------------------------------------------------------------------------------


def read_ratings(path: str | Path):
    """A ratings file of MovieLens as a DataFrame: user int, item int, rating float, timestamp int.

    Two formats, told apart by the first line: `ratings.csv` (header `userId,movieId,rating,timestamp`)
    and `u.data` (no header, tab-separated user, item, rating, timestamp in seconds since 1970).

    Raises FileNotFoundError; ValueError naming the line when the header or a field is wrong, a
    rating isn't finite, or a user rates an item twice, and for a file without ratings.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"没有评分文件 (ratings file)：{path}。请检查路径；相对路径从当前文件夹算起。"
        )
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if not any(line.strip() for line in lines):
        raise ValueError(f"{path.name} 是空的，没有一条评分 (no ratings)。")
    separator, first = ("\t", 1) if "\t" in lines[0] else (",", 2)
    if separator == "," and lines[0].strip() != CSV_HEADER:
        raise ValueError(
            f"{path.name} 第 1 行应是表头 {CSV_HEADER}（MovieLens 的 ratings.csv），"
            f"或用制表符 (tab) 隔开的四列（u.data），却是 {lines[0]!r:.60}。"
        )
    rows, seen = [], {}
    for number, line in enumerate(lines[first - 1 :], first):
        row = _rating(line, separator, f"{path.name} 第 {number} 行")
        earlier = seen.setdefault(row[:2], number)
        if earlier != number:
            raise ValueError(
                f"{path.name} 第 {number} 行与第 {earlier} 行重复 (duplicate)：用户 {row[0]} 给 {row[1]} 评了两次分，请只留一条。"
            )
        rows.append(row)
    if not rows:
        raise ValueError(f"{path.name} 只有表头，没有一条评分 (no ratings)。")
    return pd.DataFrame(rows, columns=list(RATING_COLUMNS))


def _rating(line: str, separator: str, where: str) -> tuple[int, int, float, int]:
    fields = line.split(separator)
    if len(fields) != len(RATING_COLUMNS):
        raise ValueError(
            f"{where}应有 {len(RATING_COLUMNS)} 个字段 (user, item, rating, timestamp)，"
            f"却有 {len(fields)} 个：{line!r:.60}。"
        )
    values = []
    for name, kind, field in zip(RATING_COLUMNS, (int, int, float, int), fields, strict=True):
        try:
            values.append(kind(field))
        except ValueError:
            raise ValueError(
                f"{where}的 {name} 应是{'数' if kind is float else '整数'}，却是 {field!r:.40}。"
            ) from None
    if not math.isfinite(values[2]):
        raise ValueError(f"{where}的 rating 不是有限的数 (NaN/inf)：{fields[2]!r}。")
    return tuple(values)


def split_ratings(ratings, share: float, seed: int = 0):
    """`(train, held_out)`: of each user's n ratings, `int(share * n)` drawn at random are held out.

    Raises ValueError for a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"留出的份额 (share) 应在 0 与 1 之间，如 0.2，却是 {share}。")
    rng = np.random.default_rng(seed)
    held = np.zeros(len(ratings), dtype=bool)
    for places in ratings.groupby("user", sort=True).indices.values():
        held[rng.permutation(places)[: int(share * len(places))]] = True
    return ratings[~held].reset_index(drop=True), ratings[held].reset_index(drop=True)


# Matrix factorisation -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Factorization:
    """A table of ratings as `mean + user_factors @ item_factors.T`."""

    users: np.ndarray
    """(users,) ids, ascending; row i of `user_factors` is user `users[i]`."""
    items: np.ndarray
    """(items,) ids, ascending."""
    user_factors: np.ndarray
    """(users, k) float64."""
    item_factors: np.ndarray
    """(items, k) float64."""
    mean: float
    """Mean of the training ratings."""
    objective: list[float]
    """What `als` minimises, after each half-round (users, items, users, …); it never rises."""
    rmse: list[float]
    """Root mean square error on the training ratings after each round."""

    def predict(self, users, items) -> np.ndarray:
        """Predicted ratings of pairs, both (n,) ids -> (n,).

        A user or an item that training didn't see has no factors and gets `mean`: the cold start.
        """
        rows, users_known = _places(self.users, users)
        columns, items_known = _places(self.items, items)
        tastes = np.einsum("nk,nk->n", self.user_factors[rows], self.item_factors[columns])
        return self.mean + np.where(users_known & items_known, tastes, 0.0)

    def table(self) -> np.ndarray:
        """All predictions, also for pairs that nobody rated: (users, items)."""
        return self.mean + self.user_factors @ self.item_factors.T


def ridge(features: np.ndarray, targets: np.ndarray, reg: float) -> np.ndarray:
    """The one user's (or item's) factors that fit best: argmin ‖F w − t‖² + reg·‖w‖².

    features F: (n, k), the factors of what was rated; targets t: (n,), the ratings less the mean.
    Solves (FᵀF + reg·I) w = Fᵀt; (k,).
    """
    k = features.shape[1]
    return np.linalg.solve(features.T @ features + reg * np.eye(k), features.T @ targets)


def als(ratings, k: int, reg: float = 1.0, rounds: int = 20, seed: int = 0) -> Factorization:
    """Factorise an incomplete table by alternating least squares (Koren, Bell and Volinsky 2009, eq. 2).

    ratings: DataFrame with columns user, item, rating, as from `read_ratings`. Minimises, over the
    ratings that are there,

        Σ (r − mean − uᵀv)² + reg (Σ ‖u‖² + Σ ‖v‖²)

    Not convex in both, but with the items fixed each user is a ridge regression, and the other way
    round: each half-round solves one side exactly. Zhou et al. (2008) weight each ‖·‖² by its number of
    ratings; here all weigh the same. Item factors start from N(0, 1/k).

    Raises ValueError for no ratings, a rating that isn't finite, a pair rated twice, k outside
    [1, min(users, items)], reg not positive (a user with fewer than k ratings would be
    undetermined), and rounds < 1.
    """
    users, rows, items, columns, targets = _indexed(ratings)
    _check_rank(k, min(len(users), len(items)))
    if not 0 < reg < math.inf:
        raise ValueError(f"正则化系数 (reg) 应是正数，却是 {reg}：评分少于 k 条的用户会没有唯一解。")
    if rounds < 1:
        raise ValueError(f"轮数 (rounds) 至少是 1，却是 {rounds}。")
    mean = float(targets.mean())
    targets = targets - mean
    of_user = [np.flatnonzero(rows == i) for i in range(len(users))]
    of_item = [np.flatnonzero(columns == j) for j in range(len(items))]
    user_factors = np.zeros((len(users), k))
    item_factors = np.random.default_rng(seed).normal(0, k**-0.5, (len(items), k))
    objective, rmse = [], []

    def residuals() -> np.ndarray:
        return targets - np.einsum("nk,nk->n", user_factors[rows], item_factors[columns])

    def total() -> float:
        penalty = np.sum(user_factors**2) + np.sum(item_factors**2)
        return float(np.sum(residuals() ** 2) + reg * penalty)

    for _ in range(rounds):
        for i, places in enumerate(of_user):
            user_factors[i] = ridge(item_factors[columns[places]], targets[places], reg)
        objective.append(total())
        for j, places in enumerate(of_item):
            item_factors[j] = ridge(user_factors[rows[places]], targets[places], reg)
        objective.append(total())
        rmse.append(float(np.sqrt(np.mean(residuals() ** 2))))
    return Factorization(users, items, user_factors, item_factors, mean, objective, rmse)


def rating_rmse(predicted, ratings) -> float:
    """Root mean square error of predictions, (n,) or one number for all, on the rows of `ratings`."""
    return float(np.sqrt(np.mean((np.asarray(predicted) - ratings["rating"].to_numpy()) ** 2)))


def baselines(train, held_out) -> dict[str, float]:
    """RMSE on `held_out` of two predictions without factors: the mean of all training ratings, and
    that of the item (of all, for an item that training didn't see)."""
    mean = train["rating"].mean()
    item_means = train.groupby("item")["rating"].mean()
    by_item = held_out["item"].map(item_means).fillna(mean)
    return {"全体均值": rating_rmse(mean, held_out), "每部影片的均值": rating_rmse(by_item, held_out)}


def _indexed(ratings) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`(users, rows, items, columns, targets)`: ids, and per rating its user's and item's place and value."""
    lacking = [name for name in RATING_COLUMNS[:3] if name not in ratings]
    if lacking:
        raise ValueError(f"评分表 (ratings) 缺少列：{'、'.join(lacking)}。请用 read_ratings 读取。")
    if not len(ratings):
        raise ValueError("评分表 (ratings) 是空的。")
    targets = ratings["rating"].to_numpy(dtype=float)
    if not np.isfinite(targets).all():
        place = int(np.flatnonzero(~np.isfinite(targets))[0])
        raise ValueError(f"评分表第 {place + 1} 行的 rating 不是有限的数 (NaN/inf)。")
    twice = ratings.duplicated(["user", "item"]).to_numpy()
    if twice.any():
        user, item = ratings.loc[twice.argmax() == np.arange(len(twice)), ["user", "item"]].iloc[0]
        raise ValueError(f"用户 {user} 给 {item} 评了两次分 (duplicate)，请只留一条。")
    users, rows = np.unique(ratings["user"].to_numpy(), return_inverse=True)
    items, columns = np.unique(ratings["item"].to_numpy(), return_inverse=True)
    return users, rows, items, columns, targets


def _places(known: np.ndarray, ids) -> tuple[np.ndarray, np.ndarray]:
    """Place of each id in `known` (ascending; 0 for an unknown one), and whether it is known."""
    ids = np.asarray(ids)
    places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return places, known[places] == ids


# What fine-tuning changes -------------------------------------------------------------------------


def linear_weights(model) -> dict[str, Tensor]:
    """Name -> weight (out, in) of every `nn.Linear` of a model, a head tied to the embedding left out."""
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)}
    return {
        f"{name}.weight": part.weight
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and id(part.weight) not in embeddings
    }


def weight_change(before, after) -> dict[str, Tensor]:
    """ΔW = after − before of each linear weight of two models: name -> (out, in) float32.

    Raises ValueError when the models' linear layers differ in name or shape.
    """
    old, new = linear_weights(before), linear_weights(after)
    if old.keys() != new.keys():
        odd = "、".join(sorted(old.keys() ^ new.keys())[:3])
        raise ValueError(
            f"两个模型的线性层不同 (different layers)：{odd} 只在其中一个里。请比较同一结构的两份权重。"
        )
    for name in old:
        if old[name].shape != new[name].shape:
            raise ValueError(
                f"{name} 的形状不同 (shape)：之前 {tuple(old[name].shape)}，之后 {tuple(new[name].shape)}。"
            )
    return {name: new[name].detach().float() - old[name].detach().float() for name in old}


def apply_change(model, changes: dict, k: int | None = None) -> None:
    """Add to the linear weights of `model`, in place, each ΔW, or its best approximation of rank `k`.

    changes: as from `weight_change`. Raises ValueError for a name that the model lacks or a rank too big,
    before any weight is touched.
    """
    weights = linear_weights(model)
    unknown = [name for name in changes if name not in weights]
    if unknown:
        raise ValueError(f"模型里没有这些线性层 (unknown layers)：{'、'.join(unknown[:3])}。")
    for name, change in changes.items():
        if tuple(change.shape) != tuple(weights[name].shape):
            raise ValueError(
                f"{name} 的形状不同 (shape)：ΔW 是 {tuple(change.shape)}，权重是 {tuple(weights[name].shape)}。"
            )
    parts = changes
    if k is not None:
        factors = {name: truncate(change, k) for name, change in changes.items()}
        parts = {name: left @ right for name, (left, right) in factors.items()}
    with torch.no_grad():
        for name, part in parts.items():
            weights[name] += part


def change_table(changes: dict, share: float = 0.9):
    """One row per ΔW, a DataFrame: `name`, `shape`, `norm` (Frobenius), `full_rank` = min(out, in),
    `rank` that holds `share` of its energy, and `random_rank`, the same for a Gaussian matrix of that shape.

    Without the last column "few directions" would say little: a random matrix has a falling spectrum too.
    """
    import pandas as pd

    generator, rows, random_ranks = torch.Generator().manual_seed(0), [], {}
    for name, change in changes.items():
        sigma, shape = spectrum(change), tuple(change.shape)
        if shape not in random_ranks:
            noise = spectrum(torch.randn(shape, generator=generator))
            random_ranks[shape] = rank_for_energy(noise, share)
        rows.append(
            {
                "name": name,
                "shape": shape,
                "norm": float(sigma.norm()),
                "full_rank": len(sigma),
                "rank": rank_for_energy(sigma, share),
                "random_rank": random_ranks[shape],
            }
        )
    return pd.DataFrame(rows)


def _matrix(matrix) -> Tensor:
    """`matrix` as a detached tensor of float32 or float64, or ValueError."""
    matrix = torch.as_tensor(matrix).detach()
    if matrix.dim() != 2:
        raise ValueError(f"需要一个矩阵 (2-D)，收到的形状是 {tuple(matrix.shape)}。彩色图片请逐个通道处理。")
    if not matrix.numel():
        raise ValueError(f"矩阵是空的 (empty)：形状 {tuple(matrix.shape)}。")
    if matrix.dtype != torch.float64:
        matrix = matrix.float()
    if not matrix.isfinite().all():
        row, column = (~matrix.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"矩阵的 [{row}, {column}] 处不是有限的数 (NaN/inf)，无法做 SVD。")
    return matrix


def _singular_values(values) -> Tensor:
    values = torch.as_tensor(values).detach().double()
    if values.dim() != 1 or not len(values) or not values.isfinite().all() or (values < 0).any():
        raise ValueError("需要一列非负、有限的奇异值 (singular values)，用 spectrum(矩阵) 得到。")
    if (values.diff() > 0).any():
        raise ValueError("奇异值 (singular values) 应从大到小排列，用 spectrum(矩阵) 得到。")
    return values


def _check_rank(k: int, most: int, least: int = 1) -> None:
    if not least <= k <= most or k != int(k):
        raise ValueError(f"秩 (rank) k 应是 {least} 到 {most} 之间的整数，却是 {k}。")
