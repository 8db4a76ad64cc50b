"""Models of any architecture with random weights, made on the device: for speed and memory, where values don't matter.

Nothing is downloaded and nothing is read from the disk: a 7B model is there in seconds.
"""

from typing import TYPE_CHECKING

from lab_utils.errors import InvalidValue
from lab_utils.models.loading import nf4_config

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


def random(
    config: "PretrainedConfig", dtype: str = "bfloat16", device: str = "cuda", four_bit: bool = False
) -> "PreTrainedModel":
    """A causal language model of `config` with random weights, in evaluation mode.

    config: as `lab_utils.params.load_config("Qwen3-0.6B")` gives it; dtype: a torch dtype's name; device: a
    torch device. four_bit: the linear layers, except the output layer, in NF4 by bitsandbytes with doubly
    quantized scales, as for QLoRA; `dtype` is then also the one they compute in. The model first stands in full
    precision on the device. Raises InvalidValue for a dtype that torch doesn't have or that isn't one of floats.
    """
    import torch
    from transformers import AutoModelForCausalLM

    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise InvalidValue(f"数据类型 (dtype) 不能是 {dtype!r}", "请改用 float32、bfloat16 或 float16")
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=kind)
    if four_bit:
        _quantize(model, kind)
    return model.eval()


def _quantize(model: "PreTrainedModel", compute_dtype: "torch.dtype") -> None:
    """Put a 4-bit layer with the same weights in the place of each linear layer but the output layer."""
    from bitsandbytes.nn import Linear4bit, Params4bit
    from torch import nn

    output = model.get_output_embeddings()
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not output]
    for name, layer in linear:
        bias = layer.bias is not None
        packed = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=bias,
            compute_dtype=compute_dtype,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        weight = Params4bit(
            layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=packed
        )
        packed.weight = weight.to(layer.weight.device)  # moving it to a device quantizes it
        if bias:
            packed.bias = layer.bias
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, packed)
    model.is_loaded_in_4bit = True
    model.is_quantized = True
    model.config.quantization_config = nf4_config(compute_dtype)
