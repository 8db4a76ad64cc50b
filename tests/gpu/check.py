"""What a GPU does with this course: one run without a network, at most eight minutes, one JSON file.

    python tests/gpu/check.py --out FOLDER              everything, on a machine with a CUDA device
    python tests/gpu/check.py --out FOLDER --steps a,b  some steps
    python tests/gpu/check.py --out FOLDER --dry        the same code with tiny sizes on a CPU

Steps: a device, b memory, c speed, d labs, e quantization, f generation; `steps/` says what each does. Each runs in
a process of its own with a time limit of its own; what is missing is skipped, with the reason. `FOLDER/check.json`
is rewritten whenever a step has something new; `FOLDER/check.log` has the ends of what the processes printed. Order: device and speed have the machine to themselves; the labs
and their CPU runs, to compare with, then go on beside memory, quantization and generation.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIMITS = {"a": 45, "b": 150, "c": 235, "d": 230, "e": 60, "f": 75, "d_cpu": 230}
"""Seconds a step may take at most."""
MODULES = {
    "a": "device",
    "b": "memory",
    "c": "speed",
    "d": "labs",
    "e": "quantization",
    "f": "generation",
    "d_cpu": "labs",
}
ALONE = ("a", "c")
BESIDE = ("b", "e", "f")


class Check:
    """The steps of one run and the file that holds what they found."""

    def __init__(self, out: Path, work: Path, dry: bool, seconds: float):
        self.out, self.work, self.dry = out, work, dry
        self.begin = time.monotonic()
        self.deadline = self.begin + seconds
        self.lock = threading.Lock()
        self.running: set[str] = set()
        self.found: dict = {"dry": dry, "started": time.strftime("%Y-%m-%d %H:%M:%S"), "steps": {}}

    def run(self, step: str) -> None:
        """Run one step to its end or its limit, copying what it has found so far every second."""
        limit = min(LIMITS[step], self.deadline - time.monotonic())
        if limit < 5:
            self.put(step, {"status": "skipped", "reason": "no time left"})
            return
        self.running.add(step)
        beside = sorted(self.running - {step})
        file, log = self.work / f"{step}.json", self.work / f"{step}.log"
        command = [
            sys.executable,
            str(HERE / "check.py"),
            "--child",
            step,
            "--file",
            str(file),
            "--out",
            str(self.work),
        ]
        begin = time.monotonic()
        with log.open("w") as output:
            process = subprocess.Popen(
                [*command, *(["--dry"] if self.dry else [])],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=_environment(),
            )
            while process.poll() is None and time.monotonic() - begin < limit:
                time.sleep(1)
                self.collect(step, file, begin, beside)
            late = process.poll() is None
            end_session(process)
        state = {"status": "timeout", "reason": f"stopped after {limit:.0f} s"} if late else {}
        if not late and process.returncode and not file.is_file():
            state = {"status": "failed", "error": log.read_text(errors="replace")[-3000:]}
        self.running.discard(step)
        self.collect(step, file, begin, beside, **state)
        self.keep_logs(step)
        row = self.found["steps"][step]
        print(
            f"{step} {MODULES[step]}: {row['status']} in {row['seconds']:.0f} s {row.get('reason', '')}",
            flush=True,
        )

    def collect(self, step: str, file: Path, begin: float, beside: list[str], **state) -> None:
        """Copy what a step has written so far."""
        data = {"status": "running"}
        with contextlib.suppress(OSError, ValueError):
            data = json.loads(file.read_text(encoding="utf-8"))
        if "status" in state and data["status"] not in ("running", "failed"):
            state = {}  # it had just ended
        self.put(step, {**data, **state, "seconds": round(time.monotonic() - begin, 1), "beside": beside})

    def keep_logs(self, step: str) -> None:
        """Append the ends of a step's logs, and of its labs' logs, to `check.log`."""
        labs = {"d": "lab[0-9][0-9].log", "d_cpu": "lab*_cpu.log"}.get(step)
        with self.lock, (self.out / "check.log").open("a", encoding="utf-8") as kept:
            for log in [self.work / f"{step}.log", *(sorted(self.work.glob(labs)) if labs else [])]:
                kept.write(
                    f"===== {log.name}\n{log.read_text(encoding='utf-8', errors='replace')[-20_000:]}\n"
                )

    def put(self, step: str, data: dict) -> None:
        """Set what is known of a step and write the file anew."""
        with self.lock:
            self.found["steps"][step] = data
            self.found["seconds"] = round(time.monotonic() - self.begin, 1)
            write(self.out / "check.json", self.found)

    def all(self, steps: list[str]) -> None:
        """Run the chosen steps in the order that the module's docstring gives."""
        for step in [step for step in ALONE if step in steps]:
            self.run(step)
        tracks = [threading.Thread(target=self.run, args=(name,)) for name in ("d_cpu", "d") if "d" in steps]
        for track in tracks:
            track.start()
        for step in [step for step in BESIDE if step in steps]:
            self.run(step)
        for track in tracks:
            track.join()
        if "d" in steps:
            from steps.labs import compared

            gpu, cpu = (self.found["steps"][name].get("labs", {}) for name in ("d", "d_cpu"))
            self.put("d", self.found["steps"]["d"] | {"compared_with_cpu": compared(gpu, cpu)})

    def verdict(self) -> bool:
        """Whether every step ended well and every bar was met; printed and written."""
        rows = self.found["steps"]
        bars = [bar for row in rows.values() for bar in row.get("bars", [])]
        good = all(row["status"] in ("ok", "skipped") for row in rows.values()) and all(
            bar["met"] for bar in bars
        )
        with self.lock:
            self.found["ok"] = good
            write(self.out / "check.json", self.found)
        for bar in bars:
            print(
                f"{'met' if bar['met'] else 'MISSED'}: {bar['name']}: {bar['value']:.6g} (bound {bar['bound']:.6g})"
            )
        print("ok" if good else "not ok", f"in {self.found['seconds']} s")
        return good


def _environment() -> dict[str, str]:
    """This process's environment, with the checkout importable and every library kept off the network."""
    paths = [str(HERE), str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "LAB_ROOT": str(ROOT),
    }
    return {**os.environ, **offline, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def end_session(process: subprocess.Popen) -> None:
    """End a child and everything it started, in its session or, as labs and ms-swift do, in others."""
    import psutil

    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
            if sent == signal.SIGTERM:
                time.sleep(0.5)
    for one in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def write(file: Path, data: dict) -> None:
    """Write JSON so that the file is whole at every moment."""
    from lab_utils.files import write_atomic

    write_atomic(file, json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def child(step: str, file: Path, work: Path, dry: bool) -> int:
    """Do one step in this process."""
    from importlib import import_module

    from steps.report import Report, Skipped

    report = Report(file, work)
    try:
        module = import_module(f"steps.{MODULES[step]}")
        module.run(report, dry, **({"on_cpu": True} if step == "d_cpu" else {}))
        report.put(status="ok")
    except Skipped as reason:
        report.put(status="skipped", reason=str(reason))
    except Exception as error:
        traceback.print_exc()
        report.put(
            status="failed",
            reason=f"{type(error).__name__}: {error}"[-1000:],
            trace=traceback.format_exc()[-3000:],
        )
        return 1
    return 0


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for check.json and the steps' logs")
    parser.add_argument("--steps", default="a,b,c,d,e,f")
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--seconds", type=float, default=480, help="the whole run ends within this time")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.child:
        return child(options.child, options.file, options.out, options.dry)
    steps = options.steps.split(",")
    unknown = sorted(set(steps) - set("abcdef"))
    if unknown:
        parser.error(f"no step {', '.join(unknown)}")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        check = Check(options.out.resolve(), Path(work), options.dry, options.seconds)
        check.all(steps)
        return 0 if check.verdict() else 1


if __name__ == "__main__":
    sys.exit(main())
