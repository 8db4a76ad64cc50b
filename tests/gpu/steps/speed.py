"""c. Tokens a second of LoRA on Qwen3-0.6B with random weights, 64 samples a step of about 343 tokens each.

By plain TRL and PEFT in one process (packed, padded with samples of like length together, padded in any order), then by
`swift sft` (samples of like length together, packed where flash-attn is installed: ms-swift packs with nothing else). Where
liger-kernel is installed, both also with its fused loss, which never holds the logits of a batch, in twice as large batches.
Only real tokens count, no padding; the time is that of the whole training loop with its first steps. No gradient
checkpointing.
"""

import contextlib
import io
import json
import random
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from steps.report import Report, device, dtype

BOUND = 10_004
"""LLaMA-Factory's log of LoRA on Qwen3-0.6B-Base: 102,887,824 tokens in 10,283 s; the GPU isn't named."""
MEAN = 343
MICRO = 16
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
    failed: list[str] = []
    liger = find_spec("liger_kernel") is not None and not dry
    for name, way in {
        **_trl_ways(settings, rows, liger),
        **_swift_ways(settings, rows, report, liger),
    }.items():
        _measure(report, failed, name, way)
        if not dry:
            report.put(bars=[_bar(report, tool) for tool in ("trl", "swift")])
    if failed:
        raise RuntimeError(f"failed: {', '.join(failed)}")


def _trl_ways(settings: dict, rows: list[dict], liger: bool) -> dict[str, Callable[[], dict]]:
    """Name -> what measures TRL that way."""
    names = ["trl_packed", "trl_padded"] if settings["dry"] else ["trl_packed", "trl_sorted", "trl_padded"]
    if liger:
        names.insert(2, "trl_sorted_liger")
    return {name: partial(by_trl, settings, rows, name) for name in names}


def _swift_ways(
    settings: dict, rows: list[dict], report: Report, liger: bool
) -> dict[str, Callable[[], dict]]:
    """Name -> what measures `swift sft` that way; what is missing for it is reported."""
    if missing := [name for name in ("swift", "modelscope") if find_spec(name) is None]:
        report.put(swift=f"skipped: {', '.join(missing)} not installed")
        return {}
    ways: dict[str, dict] = {"swift_sorted": {"group_by_length": True}}
    if liger:
        double = {"per_device_train_batch_size": 2 * settings["micro"], "use_liger_kernel": True}
        double["gradient_accumulation_steps"] = settings["samples"] // (2 * settings["micro"])
        ways["swift_sorted_liger"] = {"group_by_length": True, **double}
    if find_spec("flash_attn") is None:
        report.put(swift_packed="skipped: ms-swift packs only with flash-attn, which isn't installed")
    else:
        packed = {"packing": True, "attn_impl": "flash_attn", "packing_length": 16 * settings["mean"]}
        ways["swift_packed"] = {**packed, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    return {name: partial(by_swift, settings, rows, report.work, name, flags) for name, flags in ways.items()}


def _bar(report: Report, tool: str) -> dict:
    """The best rate of a tool so far, against the bound."""
    rates = [
        row.get("tokens_per_second", 0.0)
        for name, row in report.data.items()
        if name.startswith(f"{tool}_") and isinstance(row, dict)
    ]
    best = max(rates, default=0.0)
    return {"name": f"tokens/s of LoRA by {tool}", "value": best, "bound": BOUND, "met": best >= BOUND}


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

    liger = way.endswith("liger")
    micro, samples = settings["micro"] * (2 if liger else 1), settings["samples"]
    length = settings["longest"]
    if way == "trl_packed":  # as many tokens as 16 samples have, so that 4 packs make a step
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
        packing=way == "trl_packed",
        train_sampling_strategy="group_by_length" if "sorted" in way else "random",
        gradient_checkpointing=False,
        use_liger_kernel=liger,
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


def by_swift(settings: dict, rows: list[dict], work: Path, name: str, other: dict) -> dict:
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
        "output_dir": work / name,
    }
    flags |= other
    done = swift.run(swift.command("sft", **flags), progress=False, timeout=150)
    log = done.log
    batch = flags["per_device_train_batch_size"], flags["gradient_accumulation_steps"]
    found = _figures(rows, done.summary["train_runtime"], len(log), list(log["loss"]), *batch)
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
