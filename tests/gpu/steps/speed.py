"""c. Tokens a second of LoRA on Qwen3-0.6B with random weights, 64 samples a step of about 343 tokens each.

Three ways by plain TRL and PEFT in one process (padded, padded with samples of like length together, packed), then by
`swift sft` (padded, and packed where flash-attn is installed: ms-swift packs with nothing else). Only real tokens count, no
padding; the time is that of the whole training loop with its first steps. No gradient checkpointing.
"""

import contextlib
import io
import json
import random
import time
import traceback
from importlib.util import find_spec
from pathlib import Path

from steps.report import Report, device, dtype

BOUND = 10_004
"""LLaMA-Factory's log of LoRA on Qwen3-0.6B-Base: 102,887,824 tokens in 10,283 s; the GPU isn't named."""
MEAN = 343
MICRO = 8
SAMPLES = 64


def run(report: Report, dry: bool) -> None:
    """Prepare the model and the data, then measure one way after the other."""
    folder = report.work / "qwen3-random"
    settings = {"steps": 2 if dry else 12, "samples": 8 if dry else SAMPLES, "micro": 4 if dry else MICRO}
    settings |= {
        "mean": 24 if dry else MEAN,
        "longest": 64 if dry else 1024,
        "dry": dry,
        "model": str(folder),
    }
    rows = prepare(folder, settings)
    report.put(
        settings={k: v for k, v in settings.items() if k != "model"},
        tokens=sum(len(r["input_ids"]) for r in rows),
        rows=len(rows),
    )
    failed = []
    ways = ("padded", "packed") if dry else ("padded", "sorted", "packed")
    for way in ways:
        _measure(report, failed, f"trl_{way}", lambda way=way: by_trl(settings, rows, way))
    missing = [name for name in ("swift", "modelscope") if find_spec(name) is None]
    if missing:
        report.put(swift=f"skipped: {', '.join(missing)} not installed")
    else:
        _measure(report, failed, "swift_padded", lambda: by_swift(settings, rows, report.work, {}))
        if not dry:
            _measure(
                report,
                failed,
                "swift_sorted",
                lambda: by_swift(settings, rows, report.work, {"group_by_length": True}),
            )
        if find_spec("flash_attn") is None:
            report.put(swift_packed="skipped: ms-swift packs only with flash-attn, which isn't installed")
        else:
            packed = {"packing": True, "attn_impl": "flash_attn", "packing_length": 16 * settings["mean"]}
            packed |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
            _measure(report, failed, "swift_packed", lambda: by_swift(settings, rows, report.work, packed))
    best = {}
    for tool in ("trl", "swift"):
        rates = [
            v["tokens_per_second"]
            for k, v in report.data.items()
            if k.startswith(f"{tool}_") and "tokens_per_second" in v
        ]
        best[tool] = max(rates, default=0.0)
    if not dry:
        for tool, rate in best.items():
            report.bar(f"tokens/s of LoRA by {tool}", rate, BOUND, rate >= BOUND)
    if failed:
        raise RuntimeError(f"failed: {', '.join(failed)}")


def _measure(report: Report, failed: list[str], name: str, way) -> None:
    """Put what `way()` gives under `name`, or how it failed."""
    begin = time.perf_counter()
    try:
        report.put(**{name: {**way(), "wall_seconds": time.perf_counter() - begin}})
    except Exception as error:
        failed.append(name)
        report.put(
            **{
                name: {
                    "failed": f"{type(error).__name__}: {error}"[-3000:],
                    "trace": traceback.format_exc()[-1500:],
                }
            }
        )


def prepare(folder: Path, settings: dict) -> list[dict]:
    """Save a random model with the shipped tokenizer in `folder`, and draw the rows: messages and their token ids."""
    import torch
    from transformers import AutoTokenizer

    from lab_utils import models, params

    tokenizer = AutoTokenizer.from_pretrained(models.path(models.SHIPPED))
    torch.manual_seed(0)
    config = params.load_config("xiaoshi-base" if settings["dry"] else "Qwen3-0.6B")
    model = models.random(config, dtype(), device())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    if device() == "cuda":
        torch.cuda.empty_cache()
    draw = random.Random(0)
    characters = [c for c in tokenizer.get_vocab() if len(c) == 1 and "\u4e00" <= c <= "\u9fff"] or list(
        "山水风月春秋花鸟"
    )
    rows = []
    for _ in range(settings["steps"] * settings["samples"]):
        drawn = round(
            draw.lognormvariate(0, 0.6) * settings["mean"] / 1.197
        )  # mean of that distribution: exp(0.18)
        answer = "".join(draw.choices(characters, k=min(max(drawn - 16, 4), settings["longest"] - 32)))
        messages = [{"role": "user", "content": "写一篇。"}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        rows.append({"messages": messages, "input_ids": tokenizer(text, add_special_tokens=False).input_ids})
    return rows


def by_trl(settings: dict, rows: list[dict], way: str) -> dict:
    """Train by TRL's SFTTrainer with PEFT, in this process."""
    import gc

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    micro, samples = settings["micro"], settings["samples"]
    length = settings["longest"]
    if way == "packed":  # as many tokens as 16 samples have, so that 4 packs make a step
        length, micro, accumulation = samples // 4 * settings["mean"], 1, 4
        length = max(length, settings["longest"])
    else:
        accumulation = samples // micro
    kind = dtype()
    config = SFTConfig(
        output_dir=settings["model"] + "-trl",
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,
        max_length=length,
        packing=way == "packed",
        train_sampling_strategy="group_by_length" if way == "sorted" else "random",
        gradient_checkpointing=False,
        learning_rate=1e-4,
        bf16=kind == "bfloat16",
        fp16=kind == "float16",
        use_cpu=device() == "cpu",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    model = AutoModelForCausalLM.from_pretrained(
        settings["model"], dtype=getattr(torch, kind), device_map=device()
    )
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    data = Dataset.from_list([{"input_ids": row["input_ids"]} for row in rows])
    if device() == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = SFTTrainer(model, config, train_dataset=data, processing_class=tokenizer, peft_config=lora)
        seconds = trainer.train().metrics["train_runtime"]
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    found = _figures(rows, seconds, trainer.state.global_step, losses, micro, accumulation)
    if device() == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    del trainer, model
    gc.collect()
    if device() == "cuda":
        torch.cuda.empty_cache()
    return found


def by_swift(settings: dict, rows: list[dict], work: Path, other: dict) -> dict:
    """Train by `swift sft`, a process of its own, with the same settings."""
    from lab_utils import swift

    micro = settings["micro"]
    data = work / "speed.jsonl"
    data.write_text(
        "".join(json.dumps({"messages": row["messages"]}, ensure_ascii=False) + "\n" for row in rows),
        encoding="utf-8",
    )
    flags = {
        "model": settings["model"],
        "model_type": "qwen3",
        "template": "chatml",
        "dataset": data,
        "tuner_type": "lora",
        "lora_rank": 8,
        "lora_alpha": 16,
        "target_modules": "all-linear",
        "torch_dtype": dtype(),
        "learning_rate": 1e-4,
        "num_train_epochs": 1,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": settings["samples"] // micro,
        "gradient_checkpointing": False,
        "max_length": settings["longest"],
        "split_dataset_ratio": 0,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "save_only_model": True,
        "report_to": "none",
        "seed": 0,
        "output_dir": work / f"swift-{len(other)}",
    }
    done = swift.run(swift.command("sft", **{**flags, **other}), progress=False, timeout=150)
    log = done.log
    found = _figures(
        rows, done.summary["train_runtime"], len(log), list(log["loss"]), micro, settings["samples"] // micro
    )
    return {
        **found,
        "dropped": done.dropped,
        "memory_gib": float(log["memory(GiB)"].max()) if "memory(GiB)" in log else None,
    }


def _figures(
    rows: list[dict], seconds: float, steps: int, losses: list[float], micro: int, accumulation: int
) -> dict:
    tokens = sum(len(row["input_ids"]) for row in rows)
    return {
        "tokens_per_second": tokens / seconds,
        "samples_per_second": len(rows) / seconds,
        "steps": steps,
        "seconds": seconds,
        "batch": [micro, accumulation],
        "loss_first": losses[0],
        "loss_last": losses[-1],
    }
