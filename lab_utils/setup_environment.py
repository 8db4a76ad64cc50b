"""Set up Python for the course by the lock, with nothing but the standard library and modules that need no more.

`python -m lab_utils.setup_environment` makes `.venv` beside the package (this is what `make` runs), and
where vLLM's CPU build runs also `.venv-vllm`, the environment of its server, since ms-swift and vLLM need
different versions of some packages. With `--into-current` everything goes into the Python that runs it,
and a torch that is there stays.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterable
from importlib import invalidate_caches
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path

from lab_utils.errors import Unavailable
from lab_utils.files import write_atomic

ROOT = Path(__file__).resolve().parent.parent
LOCK = Path(__file__).resolve().with_name("requirements.lock")
VLLM_LOCK = LOCK.with_name("vllm.lock")
PYTHON = ((3, 11), (3, 13))
"""Python versions the course accepts: from the first, below the second."""
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SMALLER = f"""\
连不上 {CPU_INDEX}，torch 改由 pip 平常的软件源安装；如果取到的是 CUDA 版，要下载几个 GB。
想装小的 CPU 版，请按 Ctrl-C，设好镜像再运行：export PIP_FIND_LINKS=https://mirrors.aliyun.com/pytorch-wheels/cpu
(PyTorch's CPU index can't be reached; torch comes from pip's usual index, perhaps as the big CUDA build.)"""
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""Not used by the course; transformers imports them when they are there, and fails when they don't fit torch."""
_NAME = r"([A-Za-z0-9][A-Za-z0-9._-]*)"


class SetupFailed(Unavailable):
    """The environment isn't complete. The message says why, and what to do, in Chinese and English."""


def pins(lock: str) -> list[str]:
    """The pins `name==version` of a lock's text, with their markers and without hashes and comments."""
    lines = (line.partition(" \\")[0].rstrip() for line in lock.splitlines())
    return [line for line in lines if line and not line.startswith(("#", " "))]


def torch_pin(lock: str) -> str:
    """The pin `torch==…` of the lock's text."""
    return next(pin for pin in pins(lock) if pin.startswith("torch=="))


def fingerprint(root: Path, *files: str) -> str:
    """What an environment of the checkout `root` was made from: its folder, and a hash of `files` under it."""
    digest = hashlib.sha256(b"\0".join((root / file).read_bytes() for file in files)).hexdigest()
    return f"{root}\n{digest}\n"


def explain(output: str) -> str:
    """Say in Chinese and English why pip failed, from what it printed: the package, the cause, the remedy."""
    absent = re.search(rf"No matching distribution found for {_NAME}", output)
    unbuilt = re.search(
        rf"(?:Failed building wheel for|Failed to build(?: installable wheels for)?) '?{_NAME}", output
    )
    begun = re.findall(
        r"^\s*(?:Collecting|Processing) (?:\S*/)?([A-Za-z0-9._-]+?)(?:-\d|[^A-Za-z0-9._-])", output, re.M
    )
    strange = re.search(rf"THESE PACKAGES DO NOT MATCH THE HASHES.*?\n\s+{_NAME}", output, re.S)
    named = strange or absent or unbuilt
    package = named[1] if named else begun[-1] if begun else ""
    if "No space left on device" in output:
        cause = ("磁盘满了，请先腾出空间", "the disk is full; make room first")
    elif strange:
        cause = (
            "下载到的文件和锁里的哈希值不同，不要使用这个软件源",
            "a file doesn't have the locked hash; don't trust this index",
        )
    elif absent and not re.search(rf"connection broken by .*/simple/{re.escape(package.lower())}/", output):
        cause = ("软件源里没有锁定的版本", "the package index lacks the locked version")
    elif unbuilt or "subprocess-exited-with-error" in output:
        cause = (
            "从源码编译失败，原因见上面 pip 的输出",
            "building from source failed, see pip's output above",
        )
    elif re.search(r"connection broken|timed out|Connection(?:Reset)?Error|ProxyError|SSLError", output):
        cause = ("连不上软件源，或下载中断", "the package index can't be reached, or a download broke off")
    else:
        cause = ("原因见上面 pip 的输出", "see pip's output above")
    return (
        f"安装 {package or '软件包'} 失败：{cause[0]}。\n"
        "请检查网络和代理 (HTTPS_PROXY)，或换一个镜像：export PIP_INDEX_URL=https://mirrors.aliyun.com/pypi/simple\n"
        "然后再运行一次同样的命令，会接着装；没有装完之前，环境不算装好。\n"
        f"Could not install {package or 'the packages'}: {cause[1]}. Check the network and the proxy (HTTPS_PROXY), or "
        "set a mirror as above, and run the same command again; it goes on from here."
    )


def pip(python: str | Path, *arguments: str) -> None:
    """Run pip and show its output. Raises SetupFailed with an explanation when it fails."""
    command = [str(python), "-P", "-m", "pip", "--disable-pip-version-check", *arguments]
    kept = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout is not None  # it is a pipe
        for line in process.stdout:
            kept.append(line)
            if not line.startswith("Requirement already satisfied"):
                print(line, end="", flush=True)
    if process.returncode:
        raise SetupFailed(explain("".join(kept)))


def has_nvidia() -> bool:
    """Whether an NVIDIA GPU's driver is here."""
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()


def reachable(address: str, timeout: float = 3.0) -> bool:
    """Whether `address` answers within `timeout` seconds, by way of the proxy if one is set."""
    try:
        request = urllib.request.Request(address, method="HEAD")  # noqa: S310  # our own addresses alone
        with urllib.request.urlopen(request, timeout=timeout):  # noqa: S310  # as above
            return True
    except OSError:  # urllib raises its subclasses
        return False


def install_torch(python: str | Path, lock: Path) -> None:
    """Install the torch that `lock` names into `python`, in the build that fits the machine."""
    text = lock.read_text(encoding="utf-8")
    torch = torch_pin(text)
    wants_cpu = sys.platform == "linux" and not has_nvidia()
    if wants_cpu and reachable(f"{CPU_INDEX}/torch/"):
        pip(python, "install", "--no-deps", "--index-url", CPU_INDEX, torch)
    else:  # with its dependencies: the ordinary build on Linux brings CUDA's packages
        if wants_cpu:
            print(SMALLER, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "constraints.txt"
            plain.write_text("".join(f"{pin}\n" for pin in pins(text)), encoding="utf-8")
            pip(python, "install", "--constraint", str(plain), torch)


def install_hashed(python: str | Path, lock: Path) -> None:
    """Install everything `lock` names but torch into `python`: these files alone, by their hashes."""
    text = lock.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        rest = Path(folder) / lock.name
        rest.write_text(text.replace(f"{torch_pin(text)}\n", ""), encoding="utf-8")
        pip(python, "install", "--no-deps", "--require-hashes", "--requirement", str(rest))


def install_lock(python: str | Path, lock: Path) -> None:
    """Install everything `lock` names into `python`; torch last, so that what it needs is there by its hash.

    torch itself has no hash in the lock: which build of it fits is decided by the machine.
    """
    install_hashed(python, lock)
    install_torch(python, lock)


def set_up(root: Path) -> None:
    """Make `root/.venv` by the lock and put the package into it; nothing to do when that is done already."""
    files = (f"lab_utils/{LOCK.name}", "pyproject.toml")

    def fill(python: Path) -> None:
        install_lock(python, root / files[0])
        remove_unwanted(python)
        pip(python, "install", "--no-deps", "--no-build-isolation", "--editable", str(root))

    make(
        root / ".venv",
        fingerprint(root, *files),
        "正在安装课程环境，第一次约需几分钟 (setting up .venv, a few minutes the first time) …",
        fill,
    )


def runs_vllm_cpu() -> bool:
    """Whether vLLM's CPU build is for this machine: Linux on x86-64, without an NVIDIA GPU."""
    return sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64") and not has_nvidia()


def find_vllm(root: Path = ROOT) -> tuple[Path, str] | None:
    """`(python, version)` of the vLLM that serves: in `root/.venv-vllm`, else in this Python; None without.

    `version` ends in `+cpu` for the CPU build.
    """
    home = root / ".venv-vllm"
    sites = {
        home / "bin" / "python": [str(site) for site in home.glob("lib/python*/site-packages")],
        Path(sys.executable): sys.path,
    }
    for python, folders in sites.items():
        versions = {dist.name: dist.version for dist in distributions(path=folders)}
        if python.exists() and "vllm-cpu" in versions:
            return python, f"{versions['vllm-cpu']}+cpu"
        if python.exists() and "vllm" in versions:
            return python, versions["vllm"]
    return None


def vllm_remedy() -> str:
    """The command that brings vLLM to this machine; empty where there is none."""
    if runs_vllm_cpu():
        return "python -m lab_utils.setup_environment --vllm"
    if sys.platform == "linux" and has_nvidia():
        return "python -m venv .venv-vllm && .venv-vllm/bin/python -m pip install vllm"
    return ""


def set_up_vllm(root: Path) -> None:
    """Make `root/.venv-vllm`, in which vLLM's CPU build serves models, beside a finished `root/.venv`."""
    lock = root / "lab_utils" / VLLM_LOCK.name

    def fill(python: Path) -> None:
        share(root / ".venv", root / ".venv-vllm", lock)
        install_hashed(python, lock)
        pin = torch_pin(lock.read_text(encoding="utf-8")).replace("==", "-")
        if not any((root / ".venv-vllm").glob(f"lib/python*/site-packages/{pin}*.dist-info")):
            install_torch(python, lock)
        remove_unwanted(python)

    make(
        root / ".venv-vllm",
        fingerprint(root, f"lab_utils/{VLLM_LOCK.name}"),
        "正在安装 vLLM 的环境，第一次约需一两分钟 (setting up .venv-vllm, a minute or two) …",
        fill,
    )


def make(home: Path, wanted: str, says: str, fill: Callable[[Path], None]) -> None:
    """Make the virtual environment `home` and `fill` it, given its Python, unless that is done already.

    The stamp that says so, `wanted`, is written last, so an interrupted run is taken up again. An
    environment whose folder has moved is made anew, since its scripts name the old place.
    """
    stamp = home / "set-up"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    made_from = stamp.read_text(encoding="utf-8") if stamp.exists() else ""
    if python.exists() and made_from == wanted:
        return
    moved = made_from and made_from.splitlines()[0] != wanted.splitlines()[0]
    stamp.unlink(missing_ok=True)
    print(says, flush=True)
    if moved or not python.exists():
        create_venv(home)
    fill(python)
    write_atomic(stamp, wanted)
    print(f"{home.name} 装好了 (the environment is ready)。", flush=True)


def remove_unwanted(python: Path) -> None:
    """Uninstall what breaks transformers when it doesn't fit torch."""
    site = python.parent.parent
    strays = [name for name in UNWANTED if any(site.glob(f"lib/python*/site-packages/{name}"))]
    if strays:
        pip(python, "uninstall", "--yes", *strays)


def share(source: Path, target: Path, lock: Path) -> None:
    """Link into the environment `target` every package that `source` has in the version `lock` names.

    Hard links: torch and the like take neither time nor disk a second time. Their programs in `bin`
    aren't taken along. Where links can't be made, nothing is shared, and pip installs everything.
    """
    old = next(source.glob("lib/python*/site-packages"), None)
    if old is None:
        return
    new = target / old.relative_to(source)
    lines = [pin.split(" ;")[0] for pin in pins(lock.read_text(encoding="utf-8"))]
    names = [line.split("==")[0] for line in lines]
    alike = {line for line, name in zip(lines, names, strict=True) if names.count(name) == 1}
    present = {dist.name for dist in distributions(path=[str(new)])}
    for dist in distributions(path=[str(old)]):
        pin = f"{re.sub('[-_.]+', '-', dist.name).lower()}=={dist.version.split('+')[0]}"
        if pin not in alike or dist.name in present:
            continue
        files = [file for file in dist.files or () if ".." not in file.parts]
        try:  # the folder by which pip knows the package comes last: what is cut off is done again
            for file in sorted(files, key=lambda file: file.parts[0].endswith(".dist-info")):
                (new / file).parent.mkdir(parents=True, exist_ok=True)
                if not (new / file).exists():
                    os.link(old / file, new / file)
        except OSError:
            return


def create_venv(home: Path) -> None:
    """Make an empty virtual environment at `home`, whatever was there."""
    base = getattr(sys, "_base_executable", sys.executable)  # the venv's own python can't clear itself
    done = subprocess.run([base, "-P", "-m", "venv", "--clear", str(home)], capture_output=True, text=True)
    if done.returncode:
        raise SetupFailed(
            f"{done.stdout}{done.stderr}\n建不了虚拟环境 (venv)",
            "Debian/Ubuntu 上请先运行：apt install python3-venv\n"
            f"Could not make the virtual environment {home}. On Debian or Ubuntu: apt install python3-venv\n",
        )


def outside_range(requirements: Iterable[str]) -> list[str]:
    """Names, among `requirements` as the package's metadata gives them, that are missing here or don't fit."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    names = []
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": "train"}):
            continue
        try:
            fits = requirement.specifier.contains(version(requirement.name), prereleases=True)
        except PackageNotFoundError:
            fits = False
        if not fits:
            names.append(str(canonicalize_name(requirement.name)))
    return names


def into_current() -> None:
    """Install into this Python what the course lacks, and the package itself when this is a checkout.

    A torch that is here stays, with what came with it: packages that are missing or outside the
    package's ranges get the lock's version, and pip resolves the rest around that torch. Without
    torch the whole lock is installed.
    """
    here = {dist.name: dist.version for dist in distributions()}
    checkout = (ROOT / "pyproject.toml").is_file()
    if "torch" not in here:
        install_lock(sys.executable, LOCK)
        if checkout:
            pip(sys.executable, "install", "--no-deps", "--editable", str(ROOT))
        return
    with tempfile.TemporaryDirectory() as folder:
        keep, missing = Path(folder) / "keep.txt", Path(folder) / "missing.txt"
        kept = [f"{name}=={here[name]}\n" for name in ("torch", *UNWANTED) if name in here]
        keep.write_text("".join(kept), encoding="utf-8")
        if checkout:
            pip(sys.executable, "install", "--constraint", str(keep), "--editable", str(ROOT))
            invalidate_caches()
        wanted = [name for name in outside_range(requires("lab-utils") or ()) if name != "torch"]
        # Without hashes: pip may have to choose other versions of what these need, around the image's own.
        lines = [f"{pin}\n" for pin in pins(LOCK.read_text(encoding="utf-8")) if pin.split("==")[0] in wanted]
        missing.write_text("".join(lines), encoding="utf-8")
        if wanted:
            pip(sys.executable, "install", "--constraint", str(keep), "--requirement", str(missing))
        else:
            print("不缺什么 (nothing is missing)。")


def main() -> int:
    """Run the command line; the exit status is 1 when the environment isn't complete."""
    parser = argparse.ArgumentParser(prog="python -m lab_utils.setup_environment", description=__doc__)
    parser.add_argument("--into-current", action="store_true", help="装进正在用的 Python，不动已有的 torch")
    parser.add_argument("--vllm", action="store_true", help="只装 vLLM 的环境 .venv-vllm")
    chosen = parser.parse_args()
    least, below = PYTHON
    if not least <= sys.version_info[:2] < below:
        have = ".".join(map(str, sys.version_info[:2]))
        print(
            f"课程需要 Python 3.11 或 3.12，这里是 {have} (Python 3.11 or 3.12 is needed).", file=sys.stderr
        )
        return 1
    try:
        if chosen.into_current:
            into_current()
        elif chosen.vllm:
            set_up_vllm(ROOT)
        else:
            set_up(ROOT)
            if runs_vllm_cpu():
                set_up_vllm(ROOT)
    except SetupFailed as error:
        print(f"\n❌ {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
