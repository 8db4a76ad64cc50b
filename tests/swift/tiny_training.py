"""Rows of training data, and the smallest training on them."""

import json
from pathlib import Path

from lab_utils import swift

POEM = "春眠不觉晓，处处闻啼鸟。\n夜来风雨声，花落知多少。"


def row(question: str, answer: str = POEM) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write_rows(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


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
