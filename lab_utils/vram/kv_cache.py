"""The KV cache: bytes of keys and values that inference keeps of each token, and the widths of attention."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab_utils.errors import InvalidValue

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True, kw_only=True)
class AttentionWidths:
    """What one attention layer computes for a token, in numbers."""

    heads: int
    kv_heads: int
    query: int
    key: int
    value: int
    attended: int
    """Output of attention, before its projection."""
    cached: int
    """What a layer keeps of a token in the cache."""


def kv_bytes_per_token(config: "PretrainedConfig", dtype_bytes: int) -> int:
    """Bytes that the KV cache holds for one token: a key and a value, in each layer, for each KV head.

    config: a transformers text configuration. dtype_bytes: 4 for float32, 2 for bfloat16. Multi-head latent
    attention keeps one compressed vector a layer instead. Raises InvalidValue for a configuration without such sizes.
    """
    return attention_widths(config).cached * size_of(config, "num_hidden_layers") * dtype_bytes


def attention_widths(text: "PretrainedConfig") -> AttentionWidths:
    """The widths in a text configuration. Raises InvalidValue where a size is missing."""
    heads = size_of(text, "num_attention_heads")
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    if getattr(text, "kv_lora_rank", None):  # multi-head latent attention, DeepSeek-V2, arXiv:2405.04434
        query = heads * (text.qk_nope_head_dim + text.qk_rope_head_dim)
        value = heads * text.v_head_dim
        cached = text.kv_lora_rank + text.qk_rope_head_dim
        return AttentionWidths(
            heads=heads, kv_heads=kv_heads, query=query, key=query, value=value, attended=value, cached=cached
        )
    head = getattr(text, "head_dim", None) or size_of(text, "hidden_size") // heads
    query, key = heads * head, kv_heads * head
    return AttentionWidths(
        heads=heads, kv_heads=kv_heads, query=query, key=key, value=key, attended=query, cached=2 * key
    )


def size_of(text: "PretrainedConfig", *names: str) -> int:
    """The first of these sizes that the configuration has. Raises InvalidValue unless it is 1 or more."""
    value = next((getattr(text, name) for name in names if getattr(text, name, None)), None)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidValue(
            f"配置 {type(text).__name__} 里没有可用的 {names[0]}（是 {value!r}）",
            "这里只估算 Transformer 解码器 (decoder)：每层一个注意力、一个前馈网络",
        )
    return value
