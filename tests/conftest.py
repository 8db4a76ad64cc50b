"""Fixtures of several folders."""

import pytest


@pytest.fixture(scope="module")
def plain_trainer():
    """transformers' Trainer as it came: ms-swift, once imported in this process, has put callbacks of its
    own into it, which ask for arguments that only its own trainers have."""
    from transformers import trainer, trainer_callback

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "DEFAULT_CALLBACKS", [trainer_callback.DefaultFlowCallback])
        patch.setattr(trainer, "DEFAULT_PROGRESS_CALLBACK", trainer_callback.ProgressCallback)
        patch.setattr(trainer, "PrinterCallback", trainer_callback.PrinterCallback)
        yield


@pytest.fixture(scope="session")
def tiny_qwen3():
    """Makes a random two-layer Qwen3, always the same, for the tokenizer it is given."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    def make(tokenizer):
        torch.manual_seed(0)
        end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
        config = Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            bos_token_id=None,
            eos_token_id=end,
            pad_token_id=pad,
        )
        return Qwen3ForCausalLM(config)

    return make
