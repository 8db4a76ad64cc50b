"""d. Labs run headless with the model that ships, on the GPU, and the same labs on the CPU beside them to compare."""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from lab_utils import models
from steps.report import Report, Skipped

ROOT = Path(__file__).resolve().parents[3]
LABS = ("02", "03", "05", "09")
DRY_LABS = ("01",)
NEEDED_BY_03 = "SmolLM2-135M-Instruct"
_ONE_LAB = """
import sys
from pathlib import Path
from lab_utils import course
from lab_utils.authoring.run import run
done, = run([course.lab(sys.argv[1])], report=Path(sys.argv[2]))
sys.exit(not done.ok)
"""
UNCOMPARED = ("seconds", "time", "latency", "gap", "memory")
"""Parts of the names of figures that depend on the machine, or are rounding."""


def run(report: Report, dry: bool, on_cpu: bool = False) -> None:
    """Run all labs at once, each in processes of its own; with `on_cpu` in the CPU profile."""
    missing = [name for name in ("nbclient", "nbformat", "ipykernel", "jupytext") if find_spec(name) is None]
    if missing:
        raise Skipped(f"to run notebooks {', '.join(missing)} must be installed")
    numbers = DRY_LABS if dry else LABS
    if not dry and models.local(NEEDED_BY_03) is None:
        report.put(
            lab_03=f"skipped: {NEEDED_BY_03} isn't on this machine, and its wheel is too big to take along"
        )
        numbers = tuple(number for number in numbers if number != "03")
    report.put(labs={}, side_by_side=len(numbers))
    environment = {
        **os.environ,
        "LAB_MODEL": "xiaoshi-base",
        "LAB_OUTPUT": str(report.work / "labs"),
        "HF_HUB_OFFLINE": "1",
    }
    environment |= {"LAB_PROFILE": "cpu"} if on_cpu else {}
    if on_cpu:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "LAB_OUTPUT": str(report.work / "labs-cpu")}
    threads = "1" if dry else "2"
    environment |= {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    started = {number: _start(number, report.file.parent, environment, on_cpu) for number in numbers}
    while started:
        time.sleep(0.5)
        for number, (process, figures, log) in list(started.items()):
            if process.poll() is None:
                continue
            del started[number]
            report.put(labs=report.data["labs"] | {number: _result(number, figures, log)})
    failed = [number for number, row in report.data["labs"].items() if not row["ok"]]
    if failed:
        raise RuntimeError(f"labs that failed: {', '.join(failed)}")


def _start(number: str, folder: Path, environment: dict, on_cpu: bool):
    """A lab in a process of its own, its report and its log."""
    stem = f"lab{number}{'_cpu' if on_cpu else ''}"
    figures, log = folder / f"{stem}.json", folder / f"{stem}.log"
    with log.open("w") as out:
        command = [sys.executable, "-c", _ONE_LAB, number, str(figures)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)
    return process, figures, log


def _result(number: str, figures: Path, log: Path) -> dict:
    """What `labs run` wrote about a lab, or the end of its log where it wrote nothing."""
    if figures.is_file():
        found = json.loads(figures.read_text(encoding="utf-8"))[number]
        cells = log.read_text(encoding="utf-8", errors="replace").splitlines()
        slow = sorted(
            (
                (float(line.split()[-2]), line.strip())
                for line in cells
                if line.endswith(" s") and "/" in line
            ),
            reverse=True,
        )
        return {**found, "error": found["error"][-3000:], "slowest_cells": [line for _, line in slow[:4]]}
    return {"ok": False, "error": log.read_text(encoding="utf-8", errors="replace")[-3000:]}


def compared(gpu: dict, cpu: dict) -> dict:
    """Lab -> figures of both runs that differ by more than 10 % and by more than 0.05, and how many don't."""
    out = {}
    for number, row in gpu.items():
        ours, theirs = (_numbers(r.get("figures", {})) for r in (row, cpu.get(number, {})))
        both = [name for name in ours if name in theirs and not any(part in name for part in UNCOMPARED)]
        far = {
            name: [ours[name], theirs[name]]
            for name in both
            if abs(ours[name] - theirs[name]) > max(0.05, 0.1 * abs(theirs[name]))
        }
        out[number] = {"compared": len(both), "far": far}
    return out


def _numbers(value, name: str = "") -> dict[str, float]:
    """All numbers inside `value`, by the path to them."""
    if isinstance(value, bool | int | float):
        return {name: float(value)}
    if isinstance(value, dict):
        return {
            k: v
            for key, inner in value.items()
            for k, v in _numbers(inner, f"{name}.{key}".lstrip(".")).items()
        }
    if isinstance(value, list):
        return {k: v for i, inner in enumerate(value) for k, v in _numbers(inner, f"{name}[{i}]").items()}
    return {}
