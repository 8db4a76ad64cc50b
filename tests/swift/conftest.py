"""A tiny Qwen3 with the shipped tokenizer, and one real training run that several tests read."""

import os
from pathlib import Path

import pytest

from lab_utils import swift
from tests.swift.tiny_training import qlora, row, write_rows

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the model is too small to share between threads


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, tiny_qwen3, tokenizer) -> Path:
    """Two random layers, 64 wide (one block of NF4: bitsandbytes can't evaluate narrower ones on CPU);
    generation settings like the shipped model's, with two end tokens."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    model = tiny_qwen3(
        hidden_size=64,
        intermediate_size=128,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=512,
    )
    settings = model.generation_config
    both = [settings.eos_token_id, settings.pad_token_id]
    settings.update(eos_token_id=both, do_sample=True, temperature=0.7)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def train_file(tmp_path_factory) -> Path:
    return write_rows(
        tmp_path_factory.mktemp("data") / "train.jsonl", [row(f"写一首诗，题目{i}") for i in range(12)]
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_model, train_file) -> swift.Run:
    """One real QLoRA run of four steps, evaluated so that it has a best checkpoint."""
    output = tmp_path_factory.mktemp("trained") / "output"
    cmd = qlora(tiny_model, train_file, output, val_dataset=train_file, eval_strategy="steps", eval_steps=2)
    return swift.run(cmd, progress=False)
