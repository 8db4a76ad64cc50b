"""The components that a model's parameters belong to: embedding, attention, feed-forward network, experts, …"""

import re

COMPONENTS = {
    "embedding": "嵌入",
    "attention_q": "注意力 Q",
    "attention_k": "注意力 K",
    "attention_v": "注意力 V",
    "attention_kv": "注意力 KV（合在一起）",
    "attention_qkv": "注意力 QKV（合在一起）",
    "attention_o": "注意力 O",
    "attention_other": "注意力其他",
    "ffn": "前馈网络",
    "experts": "路由专家",
    "shared_experts": "共享专家",
    "router": "路由器",
    "recurrent": "循环与状态空间",
    "norm": "归一化",
    "lm_head": "输出头",
    "vision": "视觉部分",
    "audio": "音频部分",
    "projector": "模态投影",
    "other": "其他",
}
"""Component -> its Chinese name, in the order of a table."""

GROUPS = {
    "embedding": "嵌入",
    "attention": "注意力",
    "ffn": "前馈网络",
    "experts": "前馈网络",
    "shared": "前馈网络",
    "router": "前馈网络",
    "lm": "输出头",
}
"""First word of a component -> its group in a picture; the rest is 其他."""

_RULES = tuple(
    (component, re.compile(pattern, re.IGNORECASE))
    for component, pattern in (
        (
            "projector",
            r"(^|\.)(\w*projector|aligner|connector|qformer|query_tokens|language_projection)(\.|$)",
        ),
        ("vision", r"(^|\.)(visual|vision\w*|image\w*|embed_vision)\."),
        ("audio", r"(^|\.)(audio\w*|embed_audio)\."),
        ("norm", r"(norm\w*|(^|\.)(ln|ln_\w+))(\.\d+)?$"),
        ("lm_head", r"(^|\.)(lm_head|head|embed_out|output_layer|predictions)(\.|$)"),
        ("router", r"(^|\.)(\w*router|gate|gating|shared_expert_gate)(\.|$)"),
        ("shared_experts", r"(^|\.)shared_(expert|experts|mlp)(\.|$)"),
        ("experts", r"(^|\.)(experts?)(\.|$)"),
        ("attention_qkv", r"(attn|attention)\w*\.(.+\.)?(\w*qkv\w*|query_key_value|c_attn)$"),
        ("attention_kv", r"(attn|attention)\w*\.(.+\.)?(kv_\w+|k_v_\w+|c_kv)$"),
        ("attention_q", r"(attn|attention)\w*\.(.+\.)?(q|q_\w+|query\w*|wq)$"),
        ("attention_k", r"(attn|attention)\w*\.(.+\.)?(k|k_\w+|key\w*|wk)$"),
        ("attention_v", r"(attn|attention)\w*\.(.+\.)?(v|v_\w+|value\w*|wv)$"),
        ("attention_o", r"(attn|attention)\w*\.(.+\.)?(o|o_\w+|out_proj|out_lin|dense|c_proj|wo)$"),
        ("attention_other", r"(attn|attention)\w*\."),
        ("embedding", r"(^|\.)(\w*embed\w*|wte|wpe|shared)(\.|$)"),
        ("ffn", r"(^|\.)(\w*mlps?|ffns?|ff|feed_forward|DenseReluDense|fc\w*|intermediate|output)(\.|$)"),
        ("recurrent", r"(^|\.)(mamba\w*|mixer|temporal_block|mlstm\w*)\."),
    )
)
"""Tried in this order on a parameter's name without its last `.weight` or `.bias`."""


def component_of(parameter: str, head: str | None) -> str:
    """The component, a key of COMPONENTS, of the parameter of this name; `head`: path of the output layer."""
    module = parameter.removesuffix(".weight").removesuffix(".bias")
    if module == head:
        return "lm_head"
    return next((component for component, rule in _RULES if rule.search(module)), "other")
