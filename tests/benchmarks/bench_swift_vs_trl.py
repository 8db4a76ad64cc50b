"""Training speed of `swift sft` against a plain TRL + PEFT loop: same model, data, order and settings.

Prints one JSON line; `ratio` is swift's tokens/s over TRL's (above 1: swift is faster). Both are
the time of the training loop alone, without start-up, as transformers' Trainer reports it; the
two run in turns, twice each, and the faster run of each counts.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from lab_utils import course, models, profile, swift
from lab_utils.data import jsonl, loss_mask

ROWS = 640  # 40 steps of 16


def swift_seconds(data: Path, folder: Path) -> float:
    """Seconds of swift's training loop."""
    setting = profile.current()
    command = swift.sft_command(setting.sft, setting, data, folder / "swift", num_train_epochs=1)
    return swift.run(command, progress=False).summary["train_runtime"]


def trl_seconds(data: Path, folder: Path) -> float:
    """Seconds of TRL's training loop, in a process of its own."""
    out = subprocess.run(
        [sys.executable, __file__, "trl", data, folder / "trl"], stdout=subprocess.PIPE, check=True
    )
    return float(out.stdout.decode().splitlines()[-1])


def train_with_trl(data: Path, folder: Path) -> None:
    """The loop a user would write with TRL and PEFT; prints its seconds."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    setting = profile.current()
    recipe = setting.sft
    dtype = getattr(torch, setting.torch_dtype)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
    )
    model = AutoModelForCausalLM.from_pretrained(
        models.path(recipe.model), dtype=dtype, quantization_config=quantization
    )
    rows = [row["messages"] for row in jsonl.read_jsonl(data)]
    pairs = Dataset.from_list([{"prompt": m[:-1], "completion": m[-1:]} for m in rows])
    config = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.grad_accumulation,
        gradient_checkpointing=recipe.gradient_checkpointing,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        num_train_epochs=1,
        max_length=recipe.max_length,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        bf16=False,
        use_cpu=setting.device == "cpu",
        seed=42,
    )
    lora = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        target_modules="all-linear",
        lora_dropout=0.05,
        task_type="CAUSAL_LM",
    )
    tokenizer = AutoTokenizer.from_pretrained(models.path(recipe.model))
    trainer = SFTTrainer(
        model=model, args=config, train_dataset=pairs, processing_class=tokenizer, peft_config=lora
    )
    print(trainer.train().metrics["train_runtime"])


def main() -> None:
    """Measure both and print the ratio."""
    from transformers import AutoTokenizer

    source = course.dataset("verse_sft") / "train.jsonl"
    tokenizer = AutoTokenizer.from_pretrained(models.path(models.SHIPPED))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "train.jsonl"
        data.write_text(
            "\n".join(source.read_text(encoding="utf-8").splitlines()[:ROWS]) + "\n", encoding="utf-8"
        )
        tokens = sum(len(loss_mask.encode(tokenizer, row["messages"])[0]) for row in jsonl.read_jsonl(data))
        times = {"swift": [], "trl": []}
        for turn in range(2):
            times["swift"].append(swift_seconds(data, folder / f"{turn}"))
            times["trl"].append(trl_seconds(data, folder / f"{turn}"))
    speed = {name: tokens / min(seconds) for name, seconds in times.items()}
    figures = {f"{name}_tokens_per_second": round(value) for name, value in speed.items()}
    print(json.dumps({"ratio": round(speed["swift"] / speed["trl"], 3), **figures, "tokens": tokens}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["trl"]:
        train_with_trl(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
