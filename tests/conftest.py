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


@pytest.fixture(scope="module")
def train_grpo(tokenizer, plain_trainer):
    """Trains a model with the shipped tokenizer by TRL's GRPO, two short answers a prompt; the trainer."""
    from trl import GRPOConfig, GRPOTrainer

    def train(model, rewards, data, folder, steps, callbacks=()):
        settings = GRPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=8,
            max_steps=steps,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            seed=0,
        )
        trainer = GRPOTrainer(
            model,
            list(rewards),
            settings,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        trainer.train()
        return trainer

    return train


@pytest.fixture(scope="session")
def tokenizer():
    """The shipped model's."""
    from transformers import AutoTokenizer

    from lab_utils import models

    return AutoTokenizer.from_pretrained(models.path(models.SHIPPED))


@pytest.fixture(scope="session")
def tiny_qwen3(tokenizer):
    """Makes a random two-layer Qwen3, the same for the same seed, for the shipped tokenizer; or changed in its config."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
    }

    def make(seed=0, **changed):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(Qwen3Config(**{**settings, **changed}))

    return make
