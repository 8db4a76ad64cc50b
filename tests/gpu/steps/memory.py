"""b. Memory of a training step: predicted by `vram`, measured on the device, with random weights."""

import gc
import time
import traceback

from steps.report import Report, device, dtype

# model, method, batch, seq, gradient checkpointing
CASES = [
    ("Qwen3-0.6B", "full", 4, 512, False),
    ("Qwen3-0.6B", "full", 8, 1024, True),
    ("Qwen3-0.6B", "lora", 4, 512, False),
    ("Qwen3-0.6B", "lora", 8, 1024, False),
    ("Qwen3-0.6B", "lora", 8, 1024, True),
    ("Qwen3-0.6B", "qlora", 4, 512, False),
    ("Qwen3-0.6B", "qlora", 8, 1024, True),
    ("Qwen3-0.6B", "inference", 8, 1024, False),
    ("Qwen2.5-7B", "lora", 1, 1024, False),
    ("Qwen2.5-7B", "lora", 4, 1024, True),
    ("Qwen2.5-7B", "qlora", 1, 1024, False),
    ("Qwen2.5-7B", "qlora", 4, 1024, True),
    ("Qwen2.5-7B", "qlora", 2, 2048, True),
    ("Qwen2.5-7B", "inference", 4, 1024, False),
]
DRY_CASES = [
    ("xiaoshi-base", "full", 2, 32, False),
    ("xiaoshi-base", "lora", 2, 32, True),
    ("xiaoshi-base", "qlora", 2, 32, False),
    ("xiaoshi-base", "inference", 2, 32, False),
]
BOUND = 0.05


def run(report: Report, dry: bool) -> None:
    """Measure each case; one that fails is written down and the next goes on."""
    worst = 0.0
    for case in DRY_CASES if dry else CASES:
        try:
            row = measure(*case)
            worst = max(worst, abs(row["error"]))
        except Exception as error:  # out of memory among others: each case is worth its own answer
            row = {
                "case": list(case),
                "failed": f"{type(error).__name__}: {error}",
                "trace": traceback.format_exc()[-1500:],
            }
        report.add("cases", row)
        _free()
    failed = sum("failed" in row for row in report.data["cases"])
    report.bar("memory predicted within 5 %", worst, BOUND, worst <= BOUND and not failed)
    if failed:
        raise RuntimeError(f"{failed} cases failed")


def measure(model: str, method: str, batch: int, seq: int, checkpointing: bool) -> dict:
    """Predicted and measured peak bytes of one case, and the seconds it took."""
    from lab_utils import models, params, vram

    def make():
        made = models.random(config, kind, device(), four_bit=method == "qlora")
        _free()  # of the weights before they were quantized
        return made

    config, kind = params.load_config(model), dtype()
    begin = time.perf_counter()
    setting = {"dtype": kind, "gradient_checkpointing": checkpointing}
    predicted = vram.estimate(config, method, seq_len=seq, batch_size=batch, **setting)
    peak = vram.measured_step(
        make,
        method,
        seq,
        batch,
        device=device(),
        **setting,
    )
    return {
        "model": model,
        "method": method,
        "batch": batch,
        "seq": seq,
        "dtype": kind,
        "checkpointing": checkpointing,
        "predicted_gib": predicted.total_bytes / 2**30,
        "measured_gib": peak.bytes / 2**30,
        "before_gib": peak.before / 2**30,
        "error": predicted.total_bytes / peak.bytes - 1,
        "moment": predicted.peak_moment,
        "seconds": time.perf_counter() - begin,
    }


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
