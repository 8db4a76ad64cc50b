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


@pytest.fixture(scope="session")
def one_thread():
    """torch on one thread, so that the same sum is taken in the same order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def questions() -> list[str]:
    """Three requests for a poem."""
    return [
        "写一首五言绝句，题目：秋夜",
        "以“春江”为题写七言绝句一首。",
        "请写一首题为《山行》的五言律诗。",
    ]


@pytest.fixture(scope="session")
def base(tmp_path_factory, tiny_qwen3, tokenizer, one_thread):
    """Folder of a tiny random Qwen3 with the shipped tokenizer."""
    import torch

    folder = tmp_path_factory.mktemp("tiny") / "tiny-base"
    model = tiny_qwen3()
    with torch.no_grad():  # far enough apart that rounding can't change the likeliest token
        for weight in model.parameters():
            weight.mul_(3)
    settings = model.generation_config
    settings.eos_token_id = [settings.eos_token_id, settings.pad_token_id]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter(tmp_path_factory, base):
    """Folder of an adapter on `base` that changes what it says: LoRA with r = 4, α = 8 on all linear layers, B drawn at random: ΔW isn't small."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("tiny") / "tiny-adapter"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def merged(tmp_path_factory, base, adapter):
    """`adapter` merged into `base`."""
    from lab_utils import export

    return export.merge(base, adapter, tmp_path_factory.mktemp("tiny") / "tiny-merged")
