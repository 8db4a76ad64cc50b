"""The explorer of NF4: real weights against its levels and those of evenly spaced int4, by block size."""

from lab_utils import plots
from lab_utils.errors import InvalidValue
from lab_utils.widgets.explorer import Control, Explorer, Reading


def nf4_explorer(weights) -> Explorer:
    """Real weights against the levels of NF4 and of evenly spaced int4, by block size.

    weights: torch tensor of any shape, float32, bfloat16 or float16, at least 64 of them. The errors
    of all block sizes are worked out once, here. Raises what `quant.quantize_nf4` raises, and
    ValueError for fewer than 64 weights.
    """
    import torch

    from lab_utils import quant

    _require_a_block(weights)
    weights = weights.detach().float().flatten()
    whole = 2 ** (len(weights) - 1).bit_length()
    sizes = (*(size for size in (16, 32, 64, 128, 256, 1024, 4096) if size < whole), whole)
    costs = {size: _four_bits(weights, size) for size in sizes}
    levels = {"NF4": quant.nf4_levels().tolist(), "int4": (torch.arange(-7, 8) / 7).tolist()}
    names = {size: "整个张量" if size == whole else str(size) for size in sizes}

    def read(block_size: int) -> Reading:
        _, nf4, int4 = costs[block_size]
        packed = quant.quantize_nf4(weights, block_size)

        def draw(figure) -> None:
            figure.set_size_inches(8.6, 3.5)
            margins = {"left": 0.06, "right": 0.985, "top": 0.91, "bottom": 0.16, "wspace": 0.16}
            left, right = figure.subplots(1, 2, width_ratios=(1.75, 1), gridspec_kw=margins)
            scales = packed.absmax.clamp(min=1e-38).repeat_interleave(block_size)[: len(weights)]
            plots.level_histogram(left, (weights / scales).numpy(), levels)
            left.set_title(f"权重的分布，块大小：{names[block_size]}", fontsize=11)
            errors = {
                "NF4": [cost[1] for cost in costs.values()],
                "int4": [cost[2] for cost in costs.values()],
            }
            plots.error_by_block(right, [*map(str, sizes[:-1]), "全部"], errors, sizes.index(block_size))

        return Reading(
            f"块大小 {names[block_size]}：NF4 的相对误差 {nf4:.2%}；int4 的 {int4:.2%}，是它的 {_times(int4, nf4)} 倍",
            ("块大小", "每个参数的位数", "NF4 相对误差", "int4 相对误差", "int4 ÷ NF4"),
            _block_rows(costs, names, block_size),
            draw,
            "相对误差 (relative error)：误差的均方根除以权重的均方根。位数含每块一个 32 位的缩放 (absmax)。",
        )

    start = quant.BLOCK_SIZE if quant.BLOCK_SIZE in sizes else whole
    return Explorer(
        "NF4 与 int4：同样 4 位，级放在哪里",
        {"block_size": Control("块大小", sizes, start, show=lambda size: names[size])},
        read,
    )


def _require_a_block(weights) -> None:
    """Raise what `quant.quantize_nf4` raises, and InvalidValue for weights that don't fill a block."""
    import torch

    from lab_utils import quant

    if isinstance(weights, torch.Tensor) and 0 < weights.numel() < quant.BLOCK_SIZE:
        raise InvalidValue(
            f"权重 (weights) 只有 {weights.numel()} 个，连一块也不够；至少要 {quant.BLOCK_SIZE} 个"
        )
    quant.quantize_nf4(weights)


def _block_rows(costs: dict, names: dict, chosen: int) -> list[tuple[str, ...]]:
    """A row for each block size: bits of a parameter, the two errors, the second over the first."""
    rows: list[tuple[str, ...]] = []
    for size, (bits, nf4, int4) in costs.items():
        mark = " ◀" if size == chosen else ""
        rows.append((names[size] + mark, f"{bits:.3f}", f"{nf4:.3%}", f"{int4:.3%}", _times(int4, nf4)))
    return rows


def _times(value: float, unit: float) -> str:
    return f"{value / unit:.2f}" if unit else "—"


def _four_bits(weights, block_size: int) -> tuple[float, float, float]:
    """Bits of a parameter, and the relative errors of NF4 and of absmax int4, with this block size."""
    from lab_utils import quant

    nf4 = quant.quantize_nf4(weights, block_size)
    int4 = quant.quantize_int(weights, 4, min(block_size, len(weights)))
    nf4_error = quant.relative_error(weights, quant.dequantize_nf4(nf4))
    return nf4.bits_per_parameter, nf4_error, quant.relative_error(weights, quant.dequantize_int(int4))
