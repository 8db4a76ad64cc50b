"""A tiny Qwen3 with the shipped tokenizer and an adapter that changes what it says; one thread."""

import pytest
import torch

_QUESTIONS = [
    "写一首五言绝句，题目：秋夜",
    "以“春江”为题写七言绝句一首。",
    "请写一首题为《山行》的五言律诗。",
]


@pytest.fixture(scope="session")
def questions() -> list[str]:
    return list(_QUESTIONS)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def base(tmp_path_factory, tiny_qwen3, tokenizer):
    folder = tmp_path_factory.mktemp("export") / "tiny-base"
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
    """LoRA with r = 4, α = 8 on all linear layers, B drawn at random: ΔW isn't small."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("export") / "tiny-adapter"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def merged(tmp_path_factory, base, adapter):
    from lab_utils import export

    return export.merge(base, adapter, tmp_path_factory.mktemp("export") / "tiny-merged")
