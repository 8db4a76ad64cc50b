"""A tiny Qwen3 with the shipped tokenizer, and one real training run that several tests read."""

import json
import os
from pathlib import Path

import pytest

from lab_utils import swift

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the model is too small to share between threads

POEM = "春眠不觉晓，处处闻啼鸟。\n夜来风雨声，花落知多少。"
BASE = Path(swift.__file__).parents[1] / "assets" / "xiaoshi-base"


@pytest.fixture(scope="session")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, tokenizer) -> Path:
    """Two random layers, 64 wide (one block of NF4: bitsandbytes can't evaluate narrower ones on CPU);
    generation settings like the shipped model's, with two end tokens."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("tiny") / "model"
    torch.manual_seed(0)
    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config.update(eos_token_id=[end, pad], pad_token_id=pad, do_sample=True, temperature=0.7)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def row(question: str, answer: str = POEM) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write_rows(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def train_file(tmp_path_factory) -> Path:
    return write_rows(
        tmp_path_factory.mktemp("data") / "train.jsonl", [row(f"写一首诗，题目{i}") for i in range(12)]
    )


def qlora(model: Path, data: Path, output: Path, **changed) -> swift.Command:
    """The smallest QLoRA run on CPU."""
    flags = {
        "model": model,
        "model_type": "qwen3",
        "template": "chatml",
        "dataset": data,
        "tuner_type": "lora",
        "quant_method": "bnb",
        "quant_bits": 4,
        "bnb_4bit_compute_dtype": "float32",
        "torch_dtype": "float32",
        "gradient_checkpointing": False,
        "max_length": 128,
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "logging_steps": 1,
        "save_steps": 2,
        "learning_rate": 1e-3,
        "include_num_input_tokens_seen": True,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "output_dir": output,
    }
    return swift.command("sft", **{**flags, **changed})


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_model, train_file) -> swift.Run:
    """One real QLoRA run of four steps, evaluated so that it has a best checkpoint."""
    output = tmp_path_factory.mktemp("trained") / "output"
    cmd = qlora(tiny_model, train_file, output, val_dataset=train_file, eval_strategy="steps", eval_steps=2)
    return swift.run(cmd, progress=False)
