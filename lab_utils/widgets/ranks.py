"""The explorer of low rank: a matrix beside its best approximation of rank k, and what that costs and loses."""

from lab_utils import plots
from lab_utils.errors import InvalidValue
from lab_utils.widgets.explorer import Control, Explorer, Reading


def rank_explorer(matrix, kind: str = "image") -> Explorer:
    """A matrix beside its best approximation of rank k, and what that costs and loses.

    matrix: (m, n), torch tensor or numpy array; kind: "image" shows it in grays, "matrix" in colors
    about zero. Raises ValueError for another kind, and what `lowrank.truncate` and `lowrank.energy`
    raise: not two dimensions, empty, NaN or infinity, all zeros.
    """
    import torch

    from lab_utils import lowrank

    if kind not in ("image", "matrix"):
        raise InvalidValue(f"画法 (kind) 只有 'image'（灰度图）和 'matrix'（矩阵）两种，收到 {kind!r}")
    sigma = lowrank.spectrum(matrix)
    energy = lowrank.energy(sigma)
    left, right = lowrank.truncate(matrix, len(sigma))  # its first k columns and rows are those of rank k
    whole = torch.as_tensor(matrix).detach().float().numpy()
    m, n = whole.shape
    break_even = m * n / (m + n)
    errors = [lowrank.truncation_error(sigma, k) for k in range(len(sigma) + 1)]
    errors = [error / errors[0] for error in errors]

    def row(k: int, chosen: int) -> tuple[str, ...]:
        size = k * (m + n)
        mark = " ◀" if k == chosen else ""
        return f"{k}{mark}", f"{size:,}", f"{size / (m * n):.1%}", f"{errors[k]:.2%}", f"{energy[k - 1]:.2%}"

    def read(k: int) -> Reading:
        def draw(figure) -> None:
            figure.set_size_inches(8.6, 3.1)
            boxes = ((0.01, 0.06, 0.31, 0.84), (0.345, 0.06, 0.31, 0.84), (0.73, 0.16, 0.255, 0.74))
            first, second, third = (figure.add_axes(box) for box in boxes)
            plots.matrix_image(first, whole, f"原来：{m}×{n}", kind)
            near = (left[:, :k] @ right[:k]).numpy()
            plots.matrix_image(second, near, f"秩 {k}：相对误差 {errors[k]:.1%}", kind, like=whole)
            plots.rank_errors(third, errors[1:], k, break_even)

        ladder = sorted({*(2**i for i in range(len(sigma).bit_length())), len(sigma), k})
        return Reading(
            f"秩 k = {k}：存 k(m+n) = {k * (m + n):,} 个数，原来 mn = {m * n:,} 个；相对误差 {errors[k]:.2%}",
            ("秩 k", "参数 k(m+n)", "占 mn", "相对误差", "保留的能量"),
            [row(i, k) for i in ladder],
            draw,
            f"k 小于 mn/(m+n) ≈ {break_even:.1f} 才省。相对误差是弗罗贝尼乌斯范数之比；能量是 σ² 之和的占比。",
        )

    control = Control("秩 k", _ranks(len(sigma)), min(8, len(sigma)))
    return Explorer("低秩近似：几个方向就够", {"k": control}, read)


def _ranks(most: int) -> tuple[int, ...]:
    """Ranks from 1 to `most`: every one to 32, then 16 to a doubling, so that a slider is fine where it matters."""
    return tuple(k for k in range(1, most + 1) if k == most or k % 2 ** max(0, (k - 1).bit_length() - 5) == 0)
