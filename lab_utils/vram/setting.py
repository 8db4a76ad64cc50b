"""What the memory of a training or of an inference depends on besides the model: `Setting`, and its choices."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from lab_utils.errors import InvalidType, InvalidValue, nearest

METHODS = {"full": "全参数 (full)", "lora": "LoRA", "qlora": "QLoRA", "inference": "推理 (inference)"}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
OPTIMIZERS = ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "sgd")
ATTENTIONS = ("sdpa", "eager")
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Weights to a scale that bitsandbytes can have in 4 bit."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a model is trained or run. Raises ValueError for a value that can't be."""

    seq_len: int = 512
    """Tokens a sequence; in inference prompt and answer together."""
    batch_size: int = 1
    """Sequences that go through the model together, on one device."""
    gradient_accumulation: int = 1
    """Such batches a step of the optimizer. From the second on, all gradients are there from the start."""
    dtype: str = "bfloat16"
    """Of the computation and of the weights that aren't quantized: `float32`, `bfloat16`, `float16`."""
    quantization: str | None = None
    """Of the linear layers in inference: `nf4` or `int8`. QLoRA's is always `nf4`."""
    r: int = 8
    """Rank of LoRA."""
    targets: Sequence[str] | str = "all-linear"
    """Layers that get LoRA, as for `params.lora_count`."""
    optimizer: str = "adamw"
    """One of OPTIMIZERS; `sgd` is without momentum."""
    gradient_checkpointing: bool = False
    """Whether activations are computed a second time instead of kept."""
    attention: str = "sdpa"
    """`sdpa`, whose kernels never hold the scores, or `eager`, which keeps (batch, heads, seq, seq)."""
    autocast: bool = True
    """Whether adapters, which peft keeps in float32, compute in `dtype`: transformers' Trainer with
    `bf16=True` or `fp16=True`."""
    double_quant: bool = True
    """Whether NF4's scales are quantized too."""
    block_size: int = 64
    """Weights to one scale of NF4."""

    def __post_init__(self) -> None:
        counts = {"seq_len": "序列长度", "batch_size": "批大小", "gradient_accumulation": "梯度累积"}
        for name, what in counts.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidValue(f"{what} ({name}) 要 1 或更大的整数，却是 {value!r}")
        require_choice("数据类型 (dtype)", self.dtype, BYTES)
        require_choice("量化 (quantization)", self.quantization, (None, "nf4", "int8"))
        require_choice("优化器 (optimizer)", self.optimizer, OPTIMIZERS)
        require_choice("注意力 (attention)", self.attention, ATTENTIONS)
        require_choice("分块大小 (block_size)", self.block_size, BLOCK_SIZES)


def make_setting(values: dict) -> Setting:
    """A Setting of these values by name. Raises InvalidType for an unknown name, InvalidValue as Setting does."""
    known = [field.name for field in fields(Setting)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InvalidType(f"不认识设置 (setting) {'、'.join(unknown)}", f"可以是：{'、'.join(known)}")
    return Setting(**values)


def require_choice(what: str, value: str | int | None, choices: Iterable[str | int | None]) -> None:
    """Raise InvalidValue, with the choices, unless `value` is one of them."""
    choices = tuple(choices)
    if value in choices:
        return
    names = [str(choice) for choice in choices]
    raise InvalidValue(f"{what} 不能是 {value!r}", f"{nearest(str(value), names)}可以是：{'、'.join(names)}")
