"""The memory estimate: the most that a training step, or the reading of a prompt, holds at one time.

Assumed: gradients set to None after each step of the optimizer; sequences without padding, so that
attention needs no mask; the loss of transformers, and a loop that doesn't hold on to the logits; AdamW in its
fused form, the default of transformers, which makes no copies; no dropout. What the allocator keeps for
itself and the context of CUDA, about half a GiB, come on top.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from lab_utils.tables import html_table
from lab_utils.vram.moments import (
    MOMENTS,
    PARTS,
    gradient_bytes,
    inference_moments,
    resident_parts,
    training_moments,
)
from lab_utils.vram.setting import METHODS
from lab_utils.vram.workload import NOT_TEXT, Workload, make_workload

if TYPE_CHECKING:
    from lab_utils.params.configs import Source

GIB = 1 << 30
_MEASURED = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe")
"""Families whose steps are compared with a measurement. The dense ones keep, to the byte, what
`layer_activations` says."""


@dataclass(frozen=True)
class Estimate:
    """A prediction, in bytes."""

    title: str
    method: str
    parts: dict[str, int]
    """Part (a key of PARTS) -> bytes at the moment when the sum is largest."""
    moments: dict[str, int]
    """Moment (a key of MOMENTS) -> the sum then."""
    static: dict[str, int]
    """What depends on neither batch nor sequence, in full, whether or not all of it is there at the peak."""
    host_bytes: int
    """Paged optimizer states, which can be moved to the machine's own memory; not in the sum."""
    notes: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """The sum of `parts`."""
        return sum(self.parts.values())

    @property
    def gib(self) -> float:
        """The sum in GiB."""
        return self.total_bytes / GIB

    @property
    def peak_moment(self) -> str:
        """The moment that `parts` describes."""
        return max(self.moments, key=lambda moment: self.moments[moment])

    def rows(self) -> list[tuple[str, str, str]]:
        """One row a part, and the sum: name, size, share."""
        total = self.total_bytes
        rows = [(f"{PARTS[p]} ({p})", format_bytes(n), f"{n / total:.1%}") for p, n in self.parts.items()]
        return [*rows, ("合计 (total)", format_bytes(total), "100.0%")]

    def _caption(self) -> str:
        return f"{self.title}：{METHODS[self.method]}，最多时在“{MOMENTS[self.peak_moment]}”"

    def __str__(self) -> str:
        rows = [f"  {size:>10} {share:>7}  {name}" for name, size, share in self.rows()]
        return "\n".join([self._caption(), *rows, *(f"  注意：{note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>注意：{escape(note)}</p>" for note in self.notes)
        return html_table(("部分", "大小", "占比"), self.rows(), caption=self._caption()) + notes


def estimate(source: "Source", method: str = "full", **setting) -> Estimate:
    """Peak memory of a training step, or of reading a prompt, of the model that `source` describes.

    source: as for `params.load_config`; no weight is allocated. method: `full`, `lora`, `qlora` or
    `inference`. setting: fields of `Setting`, such as seq_len=1024, batch_size=4, dtype="float32",
    gradient_checkpointing=True. A sequence beyond the model's positions is estimated, and `notes` says so.

    Raises ValueError for an unknown method, a setting that can't be, and a configuration that isn't a
    Transformer decoder; TypeError for an unknown setting; what `params.load_config` and
    `params.lora_count` raise.
    """
    return estimate_workload(make_workload(source, method, setting))


def estimate_workload(work: Workload) -> Estimate:
    """The moment that holds most."""
    held = inference_moments(work) if work.method == "inference" else training_moments(work)
    static = resident_parts(work) | {"gradients": gradient_bytes(work)}
    moments = {moment: sum(parts.values()) for moment, parts in held.items()}
    peak = held[max(moments, key=lambda moment: moments[moment])]
    return Estimate(
        title=work.model.title,
        method=work.method,
        parts={part: peak[part] for part in PARTS if peak.get(part)},
        moments=moments,
        static={part: n for part, n in static.items() if n},
        host_bytes=work.paged_bytes,
        notes=tuple(_notes(work)),
    )


def _notes(work: Workload) -> Iterator[str]:
    """What a reader should know about this estimate."""
    m, seq_len = work.model, work.setting.seq_len
    if m.positions and seq_len > m.positions:
        yield (
            f"序列长度 {seq_len} 超过模型的位置上限 max_position_embeddings={m.positions}："
            "内存照算，但模型没学过这么长的位置。"
        )
    if m.routed and work.quantization:
        yield "专家的权重是三维张量，bitsandbytes 不量化它们，这里按不量化计算。"
    if work.on_experts:
        yield "LoRA 也加在专家上：peft 每次前向都把 W + BA 算成完整的权重，这很占内存。"
    if m.family not in _MEASURED:
        yield f"模型类型 {m.family} 的激活值按 Llama 式的层估算，没有与实测核对过：GPT-2 那样的旧结构实际要多得多。"
    if set(NOT_TEXT) & set(m.components):
        yield "只算文字：图像或声音部分的权重已计入，它们的激活值没有。"
    if work.paged_bytes:
        yield f"分页的优化器状态 {format_bytes(work.paged_bytes)} 可以移到内存里，没有算进合计。"


def format_bytes(n: int) -> str:
    """Bytes in GiB, or in MiB or KiB when they are few: `1.25 GiB`."""
    for unit, size in (("GiB", GIB), ("MiB", 1 << 20)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n / 1024:.1f} KiB"
