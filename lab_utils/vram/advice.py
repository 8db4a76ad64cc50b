"""Which method fits into a graphics card's memory, and what to change when it doesn't: `fits`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lab_utils.errors import InvalidValue
from lab_utils.tables import html_table
from lab_utils.vram.estimates import GIB, Estimate, estimate_workload, format_bytes
from lab_utils.vram.setting import METHODS
from lab_utils.vram.workload import Workload, make_workload

if TYPE_CHECKING:
    from lab_utils.params.configs import Source

GPUS = {"T4": 16, "RTX 3090": 24, "RTX 4090": 24, "A100 40G": 40, "A100 80G": 80}
"""Graphics card -> its memory in GiB."""
RESERVE_GIB = 1.0
"""Of a card's memory, kept free for what isn't predicted: the context of CUDA, gaps in the allocator."""


@dataclass(frozen=True)
class MethodFit:
    """Whether one method fits, and what to change when it doesn't."""

    estimate: Estimate
    fits: bool
    advice: tuple[str, ...]


@dataclass(frozen=True)
class Fits:
    """Which methods fit into one amount of memory."""

    gib: float
    by_method: dict[str, MethodFit]

    def __getitem__(self, method: str) -> MethodFit:
        return self.by_method[method]

    def _caption(self) -> str:
        return f"{self['full'].estimate.title}，显存 {self.gib:g} GiB"

    def _heads(self) -> list[tuple[str, str, str]]:
        return [
            (METHODS[method], format_bytes(fit.estimate.total_bytes), "放得下" if fit.fits else "放不下")
            for method, fit in self.by_method.items()
        ]

    def __str__(self) -> str:
        lines = [self._caption()]
        for (name, size, answer), fit in zip(self._heads(), self.by_method.values(), strict=True):
            lines += [f"  {name}：{size}，{answer}", *(f"    · {advice}" for advice in fit.advice)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        advice = ["；".join(fit.advice) for fit in self.by_method.values()]
        rows = [(*head, words) for head, words in zip(self._heads(), advice, strict=True)]
        return html_table(("方法", "预计", "结论", "怎么办"), rows, caption=self._caption())


def fits(source: "Source", gib: float, *, reserve_gib: float = RESERVE_GIB, **setting) -> Fits:
    """Which of full, LoRA, QLoRA training and inference fits in `gib` GiB, and what to change for the rest.

    reserve_gib: kept free for what isn't predicted, the context of CUDA and gaps in the allocator. setting:
    as for `estimate`. The advice has figures: what each change saves by itself and, when none is
    enough, how many of them together are. Raises ValueError unless gib is above reserve_gib, and what
    `estimate` raises.
    """
    if not 0 <= reserve_gib < gib < float("inf"):
        raise InvalidValue(f"显存 gib={gib!r} 应当大于预留的 reserve_gib={reserve_gib!r}，都以 GiB 计")
    room = room_bytes(gib, reserve_gib)
    by_method = {}
    for method in METHODS:
        quantization = setting.get("quantization") if method == "inference" else None
        work = make_workload(source, method, setting | {"quantization": quantization})
        now = estimate_workload(work)
        enough = now.total_bytes <= room
        by_method[method] = MethodFit(now, enough, () if enough else tuple(_advice(work, room)))
    return Fits(gib, by_method)


def fitting_cards(estimate: Estimate, reserve_gib: float = RESERVE_GIB) -> list[str]:
    """The graphics cards, keys of GPUS, whose memory holds what is estimated and `reserve_gib` besides."""
    return [name for name, gib in GPUS.items() if estimate.total_bytes <= room_bytes(gib, reserve_gib)]


def room_bytes(gib: float, reserve_gib: float) -> int:
    """Bytes of a card of `gib` GiB that a step may take."""
    return round((gib - reserve_gib) * GIB)


def _advice(work: Workload, room: int) -> Iterator[str]:
    """Changes and what each saves; then, when none is enough, the first few that are, taken together."""
    now = estimate_workload(work).total_bytes
    together, count, enough = work, 0, False
    for words, change in _changes(work):
        alone = estimate_workload(_with(work, change)).total_bytes
        if now - alone < 0.01 * now:
            continue
        enough |= alone <= room
        answer = "，这一项就够" if alone <= room else ""
        yield f"{words}：省 {format_bytes(now - alone)}，到 {format_bytes(alone)}{answer}"
        if estimate_workload(together).total_bytes > room:
            together, count = _with(together, change), count + 1
    left = estimate_workload(together).total_bytes
    if left > room:
        other = {"full": "LoRA 或 QLoRA", "lora": "QLoRA"}.get(work.method, "小一些的模型，或大一些的显卡")
        yield f"全用上还要 {format_bytes(left)}，请换 {other}"
    elif not enough:
        yield f"前 {count} 项一起用，到 {format_bytes(left)}，放得下"


def _with(work: Workload, change: dict) -> Workload:
    return replace(work, setting=replace(work.setting, **change))


def _changes(work: Workload) -> Iterator[tuple[str, dict]]:
    """What can be changed, those first that cost least, as words and as fields of Setting."""
    setting, training = work.setting, work.method != "inference"
    if setting.attention == "eager":
        yield "注意力用 sdpa", {"attention": "sdpa"}
    if training and not setting.gradient_checkpointing:
        yield "打开梯度检查点 (gradient checkpointing)", {"gradient_checkpointing": True}
    if setting.batch_size > 1:
        words = f"批大小 (batch_size) {setting.batch_size} → 1"
        more = {"gradient_accumulation": setting.gradient_accumulation * setting.batch_size}
        yield f"{words}，用梯度累积补回来" if training else words, {"batch_size": 1} | more
    if work.state_bytes and not setting.optimizer.endswith("8bit"):
        yield "用 8 位优化器 (adamw_8bit)", {"optimizer": "adamw_8bit"}
    if not training and not work.quantization:
        yield "权重量化 (quantization='nf4')", {"quantization": "nf4"}
    if setting.seq_len > 256:
        half = setting.seq_len // 2
        yield f"序列长度 (seq_len) {setting.seq_len} → {half}", {"seq_len": half}
