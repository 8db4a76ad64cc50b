"""A table of movie ratings with holes, factorized by alternating least squares (ALS, Koren et al. 2009).

Ratings are a DataFrame, their factors numpy arrays.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from lab_utils.errors import InvalidValue, NotFound

Number = TypeVar("Number", int, float)

RATING_COLUMNS = ("user", "item", "rating", "timestamp")
CSV_HEADER = "userId,movieId,rating,timestamp"


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
        raise NotFound(f"没有评分文件 (ratings file)：{path}", "请检查路径；相对路径从当前文件夹算起")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if not any(line.strip() for line in lines):
        raise InvalidValue("是空的，没有一条评分 (no ratings)", where=path.name)
    separator, first = ("\t", 1) if "\t" in lines[0] else (",", 2)
    if separator == "," and lines[0].strip() != CSV_HEADER:
        raise InvalidValue(
            f"应是表头 {CSV_HEADER}（MovieLens 的 ratings.csv），"
            f"或用制表符 (tab) 隔开的四列（u.data），却是 {lines[0]!r:.60}",
            where=f"{path.name} 第 1 行",
        )
    rows: list[tuple[int, int, float, int]] = []
    seen: dict[tuple[int, int], int] = {}
    for number, line in enumerate(lines[first - 1 :], first):
        row = _rating(line, separator, f"{path.name} 第 {number} 行")
        earlier = seen.setdefault(row[:2], number)
        if earlier != number:
            raise InvalidValue(
                f"与第 {earlier} 行重复 (duplicate)：用户 {row[0]} 给 {row[1]} 评了两次分",
                "请只留一条",
                f"{path.name} 第 {number} 行",
            )
        rows.append(row)
    if not rows:
        raise InvalidValue("只有表头，没有一条评分 (no ratings)", where=path.name)
    return pd.DataFrame(rows, columns=list(RATING_COLUMNS))


def _rating(line: str, separator: str, where: str) -> tuple[int, int, float, int]:
    fields = line.split(separator)
    if len(fields) != len(RATING_COLUMNS):
        raise InvalidValue(
            f"应有 {len(RATING_COLUMNS)} 个字段 (user, item, rating, timestamp)，"
            f"却有 {len(fields)} 个：{line!r:.60}",
            where=where,
        )
    user, item, time = (_number(fields[i], int, RATING_COLUMNS[i], where) for i in (0, 1, 3))
    rating = _number(fields[2], float, RATING_COLUMNS[2], where)
    if not math.isfinite(rating):
        raise InvalidValue(f"rating 不是有限的数 (NaN/inf)：{fields[2]!r}", where=where)
    return user, item, rating, time


def _number(text: str, kind: type[Number], name: str, where: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        expected = "数" if kind is float else "整数"
        raise InvalidValue(f"{name} 应是{expected}，却是 {text!r:.40}", where=where) from None


def split_ratings(ratings, share: float, seed: int = 0):
    """`(train, held_out)`: of each user's n ratings, `int(share * n)` drawn at random are held out.

    Raises ValueError for a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise InvalidValue(f"留出的份额 (share) 应在 0 与 1 之间，却是 {share}", "例如 0.2")
    rng = np.random.default_rng(seed)
    held = np.zeros(len(ratings), dtype=bool)
    for places in ratings.groupby("user", sort=True).indices.values():
        held[rng.permutation(places)[: int(share * len(places))]] = True
    return ratings[~held].reset_index(drop=True), ratings[held].reset_index(drop=True)


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
    """What `als` minimizes, after each half-round (users, items, users, …); it never rises."""
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
    """Factorize an incomplete table by alternating least squares (Koren, Bell and Volinsky 2009, eq. 2).

    ratings: DataFrame with columns user, item, rating, as from `read_ratings`. Minimizes, over the
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
    most = min(len(users), len(items))
    if not 1 <= k <= most or k != int(k):
        raise InvalidValue(f"秩 (rank) k 应是 1 到 {most} 之间的整数，却是 {k}")
    if not 0 < reg < math.inf:
        raise InvalidValue(f"正则化系数 (reg) 应是正数，却是 {reg}：评分少于 k 条的用户会没有唯一解")
    if rounds < 1:
        raise InvalidValue(f"轮数 (rounds) 至少是 1，却是 {rounds}")
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
        raise InvalidValue(f"评分表 (ratings) 缺少列：{'、'.join(lacking)}", "请用 read_ratings 读取")
    if not len(ratings):
        raise InvalidValue("评分表 (ratings) 是空的", "请用 read_ratings 读取")
    targets = ratings["rating"].to_numpy(dtype=float)
    if not np.isfinite(targets).all():
        place = int(np.flatnonzero(~np.isfinite(targets))[0])
        raise InvalidValue(f"评分表第 {place + 1} 行的 rating 不是有限的数 (NaN/inf)")
    twice = ratings.duplicated(["user", "item"]).to_numpy()
    if twice.any():
        user, item = ratings.loc[twice.argmax() == np.arange(len(twice)), ["user", "item"]].iloc[0]
        raise InvalidValue(f"用户 {user} 给 {item} 评了两次分 (duplicate)", "请只留一条")
    users, rows = np.unique(ratings["user"].to_numpy(), return_inverse=True)
    items, columns = np.unique(ratings["item"].to_numpy(), return_inverse=True)
    return users, rows, items, columns, targets


def _places(known: np.ndarray, ids) -> tuple[np.ndarray, np.ndarray]:
    """Place of each id in `known` (ascending; 0 for an unknown one), and whether it is known."""
    ids = np.asarray(ids)
    places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return places, known[places] == ids
