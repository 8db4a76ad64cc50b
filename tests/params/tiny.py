"""Tiny configurations of many families."""

import torch
import transformers

from lab_utils import params

TINY_MOE = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    "deepseek_v3": {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 16, "n_group": 1,
        "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 12, "kv_lora_rank": 8, "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8, "v_head_dim": 8,
    },
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
}  # fmt: skip
SMALL = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


TINY = {
    "llama": {},
    "llama tied": {"tie_word_embeddings": True},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "bert": {},
    "gemma2": {"head_dim": 16},
    "gpt_neox": {},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    "phi3": {},
} | TINY_MOE


def tiny_config(case: str):
    """The configuration of a key of TINY: a model type, and a word more where there are two of one type."""
    kind = case.split()[0]
    raw = {"model_type": kind} | SMALL | TINY.get(case, {})
    if kind == "deepseek_v3":
        raw["num_key_value_heads"] = 4
    if kind == "t5":
        raw |= {"decoder_start_token_id": 0}
    return params.load_config(raw)


def real_model(config) -> torch.nn.Module:
    """The model of `config` with real weights."""
    torch.manual_seed(0)
    kind = {"t5": "Seq2SeqLM", "bert": "MaskedLM", "qwen2_5_vl": "ImageTextToText"}
    auto = getattr(transformers, f"AutoModelFor{kind.get(config.model_type, 'CausalLM')}")
    return auto.from_config(config, attn_implementation="eager").eval()
