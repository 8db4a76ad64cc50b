"""Low rank: the best approximation of a matrix by SVD, and how many directions fine-tuning really changes.

Truncated SVD, its error (Eckart and Young 1936, Mirsky 1960) and its energy; the singular values of ΔW. Matrices are
torch tensors, and numpy arrays are accepted. Factors of a table with holes are in `ratings`.
"""

import torch
from torch import Tensor

from lab_utils.errors import InvalidValue
from lab_utils.linear_layers import linear_weights


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
        raise InvalidValue(f"不认识范数 (norm) {norm!r}", "只能是 frobenius 或 spectral")
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
        raise InvalidValue("奇异值 (singular values) 全是 0：零矩阵没有能量可分", "请检查矩阵是否算对")
    return squares.cumsum(0) / squares.sum()


def rank_for_energy(singular_values, share: float) -> int:
    """The fewest singular values that hold at least `share` of the energy.

    Raises ValueError for a share outside (0, 1], and as `energy` does.
    """
    if not 0 < share <= 1:
        raise InvalidValue(f"能量的份额 (share) 应在 0 与 1 之间，却是 {share}", "例如 0.9")
    shares = energy(singular_values)
    return int((shares < min(share, shares[-1])).sum()) + 1


def weight_change(before, after) -> dict[str, Tensor]:
    """ΔW = after − before of each linear weight of two models: name of the weight -> (out, in) float32.

    The output head is left out. Raises ValueError when the models' linear layers differ in name or shape.
    """
    old, new = _named_weights(before), _named_weights(after)
    if old.keys() != new.keys():
        odd = "、".join(sorted(old.keys() ^ new.keys())[:3])
        raise InvalidValue(
            f"两个模型的线性层不同 (different layers)：{odd} 只在其中一个里", "请比较同一结构的两份权重"
        )
    for name in old:
        if old[name].shape != new[name].shape:
            raise InvalidValue(
                f"{name} 的形状不同 (shape)：之前 {tuple(old[name].shape)}，之后 {tuple(new[name].shape)}",
                "请比较同一结构的两份权重",
            )
    return {name: new[name].detach().float() - old[name].detach().float() for name in old}


def _named_weights(model) -> dict[str, Tensor]:
    """`linear_weights` under the names of a state dict."""
    return {f"{name}.weight": weight for name, weight in linear_weights(model).items()}


def apply_change(model, changes: dict, k: int | None = None) -> None:
    """Add to the linear weights of `model`, in place, each ΔW, or its best approximation of rank `k`.

    changes: as from `weight_change`. Raises ValueError for a name that the model lacks or a rank too big,
    before any weight is touched.
    """
    weights = _named_weights(model)
    unknown = [name for name in changes if name not in weights]
    if unknown:
        raise InvalidValue(f"模型里没有这些线性层 (unknown layers)：{'、'.join(unknown[:3])}")
    for name, change in changes.items():
        if tuple(change.shape) != tuple(weights[name].shape):
            raise InvalidValue(
                f"{name} 的形状不同 (shape)：ΔW 是 {tuple(change.shape)}，权重是 {tuple(weights[name].shape)}"
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
        raise InvalidValue(
            f"需要一个矩阵 (2-D)，收到的形状是 {tuple(matrix.shape)}", "彩色图片请逐个通道处理"
        )
    if not matrix.numel():
        raise InvalidValue(f"矩阵是空的 (empty)：形状 {tuple(matrix.shape)}")
    if matrix.dtype != torch.float64:
        matrix = matrix.float()
    if not matrix.isfinite().all():
        row, column = (~matrix.isfinite()).nonzero()[0].tolist()
        raise InvalidValue(f"矩阵的 [{row}, {column}] 处不是有限的数 (NaN/inf)，无法做 SVD")
    return matrix


def _singular_values(values) -> Tensor:
    values = torch.as_tensor(values).detach().double()
    if values.dim() != 1 or not len(values) or not values.isfinite().all() or (values < 0).any():
        raise InvalidValue("需要一列非负、有限的奇异值 (singular values)", "用 spectrum(矩阵) 得到")
    if (values.diff() > 0).any():
        raise InvalidValue("奇异值 (singular values) 应从大到小排列", "用 spectrum(矩阵) 得到")
    return values


def _check_rank(k: int, most: int, least: int = 1) -> None:
    """Raise InvalidValue unless `k` is a whole number from `least` to `most`."""
    if not least <= k <= most or k != int(k):
        raise InvalidValue(f"秩 (rank) k 应是 {least} 到 {most} 之间的整数，却是 {k}")
