"""The memory calculator: what training or running a model takes, part by part, against common graphics cards."""

from collections.abc import Mapping

from lab_utils import plots
from lab_utils.errors import InvalidValue
from lab_utils.widgets.explorer import Control, Explorer, Reading


def memory_calculator(sources=None) -> Explorer:
    """What training or running a model takes in GPU memory, part by part, against common cards.

    sources: a name of `params.load_config`, several of them, or name → anything it takes; None: the
    configurations that ship with the course. Raises ValueError for none at all, and what
    `vram.estimate` raises for the first.
    """
    from lab_utils import params, vram

    if sources is None:
        sources = sorted(params.known(), key=lambda name: name != "Qwen2.5-7B")
    if isinstance(sources, str):
        sources = [sources]
    known = dict(sources) if isinstance(sources, Mapping) else {name: name for name in sources}
    if not known:
        raise InvalidValue("没有给出模型 (sources)", "例如 memory_calculator(['Qwen2.5-7B', 'Qwen3-0.6B'])")
    cards = _cards(vram.GPUS)
    controls = {
        "model": Control("模型", tuple(known), next(iter(known)), "menu"),
        "method": Control("方法", tuple(vram.METHODS), "qlora", "menu", lambda name: vram.METHODS[name]),
        "seq_len": Control("序列长度 (词元)", tuple(2**n for n in range(7, 16)), 1024),
        "batch_size": Control("批大小", (1, 2, 4, 8, 16, 32, 64), 1),
        "r": Control("LoRA 的秩 r", (1, 2, 4, 8, 16, 32, 64, 128, 256), 8),
        "gradient_checkpointing": Control("梯度检查点", (False, True), True, "switch"),
    }

    def read(model: str, method: str, **sizes) -> Reading:
        estimate = vram.estimate(known[model], method, **sizes)
        fits = vram.fitting_cards(estimate)
        parts = {vram.PARTS[part]: number / vram.GIB for part, number in estimate.parts.items()}

        def draw(figure) -> None:
            figure.set_size_inches(8.6, 3.5)
            margins = {"left": 0.13, "right": 0.98, "top": 0.88, "bottom": 0.14}
            plots.memory_steps(figure.subplots(gridspec_kw=margins), parts, cards, vram.RESERVE_GIB)

        moment = f"各部分取总和最大的那一刻：{vram.MOMENTS[estimate.peak_moment]}。"
        reserve = f"判断放不放得下时，给 CUDA 上下文和碎片另留 {vram.RESERVE_GIB:g} GiB。"
        return Reading(
            f"{model}，{vram.METHODS[method]}：最多时约 {estimate.gib:.2f} GiB。放得下的卡：{'、'.join(fits) or '没有'}",
            ("部分", "大小", "占比"),
            estimate.rows(),
            draw,
            "".join((moment, reserve, *estimate.notes)),
            [number / estimate.total_bytes for number in estimate.parts.values()],
        )

    read(**{name: control.value for name, control in controls.items()})
    return Explorer("训练和推理要多少显存", controls, read)


def _cards(memory: Mapping[str, int]) -> dict[str, int]:
    """Cards of equal memory on one line."""
    names: dict[int, list[str]] = {}
    for name, size in memory.items():
        names.setdefault(size, []).append(name)
    return {f"{' / '.join(same)} ({size})": size for size, same in names.items()}
