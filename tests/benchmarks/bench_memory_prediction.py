"""Predicted against measured memory of training steps, on the CPU in float32; a JSON line a setting.

    python tests/benchmarks/bench_memory_prediction.py            every setting of both models
    python tests/benchmarks/bench_memory_prediction.py MODEL      those of one model
    python tests/benchmarks/bench_memory_prediction.py --rss      resident memory of fresh processes too

`error` is predicted over measured, less 1; measured is the peak of live tensors. The last line has the
largest error. With `--rss` one setting of each method runs in a process of its own, once with malloc as
it is and once giving each large block back at once: `rss_*` is by how much the resident memory grew in
the step, to be compared with `live`, by how much the live tensors grew.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

from lab_utils import models, vram

SETTINGS = {
    models.SHIPPED: [(16, 128), (4, 256), (1, 64)],
    "SmolLM2-135M-Instruct": [(1, 128), (4, 128), (2, 512)],
}
"""Model -> (batch, seq)."""
METHODS = ("full", "lora", "qlora")


def compare(name: str, method: str, batch: int, seq: int, **setting) -> float:
    """Print one setting's line; the error of its prediction."""
    folder = models.path(name)
    predicted = vram.estimate(
        folder, method, seq_len=seq, batch_size=batch, **({"dtype": "float32"} | setting)
    )
    peak = vram.measured_step(folder, method, seq, batch, **setting)
    error = predicted.total_bytes / peak.bytes - 1
    row = {"model": name, "method": method, "batch": batch, "seq": seq, **setting}
    row |= {"predicted_mib": predicted.total_bytes / 2**20, "measured_mib": peak.bytes / 2**20}
    row |= {"before_mib": peak.before / 2**20, "error": error, "moment": predicted.peak_moment}
    print_row(row)
    return error


def compare_rss(name: str, method: str, batch: int, seq: int) -> None:
    """Print by how much live tensors, and resident memory under two settings of malloc, grow in a step."""
    peak = vram.measured_step(models.path(name), method, seq, batch)
    row = {"model": name, "method": method, "batch": batch, "seq": seq}
    row["live_mib"] = (peak.bytes - peak.before) / 2**20
    for label, variables in (("as_is", {}), ("returned", {"MALLOC_MMAP_THRESHOLD_": "65536"})):
        command = [sys.executable, __file__, "--one-rss", name, method, str(batch), str(seq)]
        out = subprocess.run(command, env=os.environ | variables, stdout=subprocess.PIPE, check=True)
        before, most = json.loads(out.stdout.decode().splitlines()[-1])
        row[f"rss_{label}_mib"] = (most - before) / 2**20
    print_row(row)


def peak_rss(step: Callable[[], object]) -> tuple[int, int]:
    """This process's resident memory before `step()` and its highest during it, in bytes; Linux only.

    The kernel keeps the highest as `VmHWM`, which is set back first. It has all that is in memory: the
    libraries' scratch, what malloc holds for later (little, if the process was started with
    `MALLOC_MMAP_THRESHOLD_=65536`), and not the pages of a file of weights that nothing has read.

    Raises OSError where the kernel doesn't offer this.
    """
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step()
    return before, _status("VmHWM")


def _status(name: str) -> int:
    """A size from /proc/self/status, in bytes."""
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no {name}")
    return int(found[1]) * 1024


def print_row(row: dict) -> None:
    """One JSON line with rounded numbers."""
    rounded = {k: round(v, 4 if k == "error" else 1) if isinstance(v, float) else v for k, v in row.items()}
    print(json.dumps(rounded), flush=True)


def main(arguments: list[str]) -> None:
    """Run what the command line asks for."""
    models.quiet()
    if arguments[:1] == ["--one-rss"]:
        name, method, batch, seq = arguments[1:]
        step = vram.training_step(models.path(name), method, vram.Setting(dtype="float32"))
        step(1, min(8, int(seq)))
        print(json.dumps(peak_rss(lambda: step(int(batch), int(seq)))))
        return
    named = [argument for argument in arguments if argument != "--rss"]
    chosen = {name: SETTINGS[name] for name in named or SETTINGS}
    errors = []
    for name, sizes in chosen.items():
        for method, checkpointing, (batch, seq) in product(METHODS, (False, True), sizes):
            errors.append(compare(name, method, batch, seq, gradient_checkpointing=checkpointing))
        errors.append(compare(name, "inference", *sizes[0]))
        if "--rss" in arguments:
            for method in METHODS:
                compare_rss(name, method, *sizes[1])
    print_row({"settings": len(errors), "error": max(errors, key=abs)})


if __name__ == "__main__":
    main(sys.argv[1:])
