"""Gather the wheels that a bare GPU machine lacks: `python tests/gpu/take_along.py FOLDER`.

Versions are those of `lab_utils/requirements.lock`, wheels those for CPython 3.12 on x86-64 Linux. What has
no wheel on PyPI is pure Python and built here. Of bitsandbytes only the libraries for the CPU and for one
version of CUDA are kept (`--cuda 130`). Prints the sizes; the machine installs the folder without a network:

    python3 -m pip install --no-index --no-deps --no-compile --target /tmp/site FOLDER/*.whl

`README.md` beside this file says what the machine is expected to have.
"""

import argparse
import base64
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lab_utils import setup_environment  # noqa: E402

LOCK = ROOT / "lab_utils" / "requirements.lock"
PYTHON = "3.12"
TRAINING = """
    addict annotated-types binpacking bitsandbytes cffi cryptography dacite datasets dill fastapi importlib-metadata
    json-repair lazy-importer modelscope modelscope-hub ms-swift msgspec multiprocess opentelemetry-api peft pycparser
    pydantic pydantic-core pypinyin sniffio starlette trl typing-inspection uvicorn
""".split()
"""ms-swift, trl, datasets and what they import of what the machine lacks. What ms-swift asks for but imports only for
other work (nltk and rouge for its metrics, openai, oss2, zstandard) stays at home."""
NOTEBOOKS = """
    asttokens comm executing fastjsonschema ipykernel ipython ipython-pygments-lexers ipywidgets jsonschema
    jsonschema-specifications jupyter-client jupyter-core jupytext matplotlib-inline mdit-py-plugins nbclient
    nbformat nest-asyncio2 pexpect platformdirs prompt-toolkit ptyprocess pure-eval pyzmq referencing
    rpds-py stack-data tornado traitlets wcwidth
""".split()
"""A kernel to run notebooks headless; without the debugger and the widgets' JavaScript, which only a browser needs."""
UNLOCKED = {"liger-kernel": "0.8.5"}
"""What only a GPU needs, so that the lock doesn't have it: the fused loss of the speed step."""
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (39, 34, 31, 28, 27, 24, 17)] + [
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
]


def pins() -> dict[str, str]:
    """Package -> version that the lock names for Python 3.12 on Linux, and what isn't in it."""
    from packaging.requirements import Requirement

    machine = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.3", "sys_platform": "linux"}
    needs = map(Requirement, setup_environment.pins(LOCK.read_text(encoding="utf-8")))
    here = [need for need in needs if need.marker is None or need.marker.evaluate(machine)]
    return {need.name: next(iter(need.specifier)).version for need in here} | UNLOCKED


def download(names: list[str], folder: Path) -> None:
    """Fetch the pinned wheels of `names`; one at a time where pip can't get them all at once."""
    versions = pins()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", "--dest", str(folder)]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    wanted = [f"{name}=={versions[name]}" for name in names]
    if not subprocess.run([*command, *wanted], stderr=subprocess.DEVNULL).returncode:
        return
    for requirement in wanted:
        if subprocess.run([*command, requirement], stderr=subprocess.DEVNULL).returncode:
            build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
            subprocess.run([*build, requirement], check=True)


def strip_bitsandbytes(folder: Path, cuda: str) -> None:
    """Rewrite the wheel of bitsandbytes with the libraries for the CPU and for one CUDA version only."""
    (wheel,) = folder.glob("bitsandbytes-*.whl")
    kept = {"libbitsandbytes_cpu.so", f"libbitsandbytes_cuda{cuda}.so"}
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        content = {n: archive.read(n) for n in names if not n.endswith(".so") or Path(n).name in kept}
    there = {Path(name).name for name in content}
    if not kept <= there:
        raise SystemExit(f"{wheel.name} has no {', '.join(sorted(kept - there))}")
    record = next(name for name in content if name.endswith(".dist-info/RECORD"))
    lines = [f"{name},{_hash(data)},{len(data)}" for name, data in content.items() if name != record]
    content[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    with (
        tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
    ):
        for name, data in content.items():
            archive.writestr(name, data)
    Path(file.name).replace(wheel)
    wheel.chmod(0o644)


def _hash(data: bytes) -> str:
    """The hash of a file as a wheel's RECORD writes it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def tree_bytes() -> int:
    """Size of the tracked files."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return sum(
        (ROOT / name).lstat().st_size
        for name in listed.decode().split("\0")
        if name and (ROOT / name).exists()
    )


def main() -> None:
    """Fill the folder and print what it weighs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cuda", default="130", help="CUDA version of the machine's torch, without the dot")
    parser.add_argument("--without-notebooks", action="store_true", help="leave the kernel and nbclient out")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for old in options.folder.glob("*.whl"):
        old.unlink()
    download([*TRAINING, *UNLOCKED, *([] if options.without_notebooks else NOTEBOOKS)], options.folder)
    strip_bitsandbytes(options.folder, options.cuda)
    sizes = {wheel.name: wheel.stat().st_size for wheel in sorted(options.folder.glob("*.whl"))}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{size / 2**20:7.2f} MiB  {name}")
    total, tree = sum(sizes.values()), tree_bytes()
    print(
        f"{len(sizes)} wheels {total / 2**20:.1f} MiB + tracked tree {tree / 2**20:.1f} MiB = {(total + tree) / 2**20:.1f} MiB"
    )


if __name__ == "__main__":
    main()
