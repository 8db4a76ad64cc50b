"""What this machine has for the course, and what to do about what it lacks.

`examine()` never raises and doesn't import torch, so it is quick and works on a broken install.
"""

import html
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from lab_utils import course, models, profile
from lab_utils.errors import LabError
from lab_utils.setup_environment import LOCK, PYTHON, UNWANTED, find_vllm, pins, torch_pin, vllm_remedy

TORCH = torch_pin(LOCK.read_text(encoding="utf-8")).removeprefix("torch==")
"""The version of torch everything is tested with."""
PACKAGES = (
    "transformers",
    "peft",
    "trl",
    "ms-swift",
    "datasets",
    "bitsandbytes",
    "accelerate",
    "modelscope",
)
"""Packages without which labs don't run; their versions are in the lock."""
LEAST_DISK_GIB = 5.0
"""Room for the runs of all labs on the CPU."""
GIB = 2**30
_WORDS = {"ok": ("正常", "green"), "warn": ("留意", "yellow"), "fail": ("要修", "red")}


@dataclass(frozen=True)
class Row:
    """One finding. `status`: ok, warn or fail; `remedy`: a command to run, empty when nothing is wrong."""

    name: str
    status: str
    value: str
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """All findings about a machine."""

    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether no row says `fail`."""
        return all(row.status != "fail" for row in self.rows)

    def to_json(self) -> str:
        """The report as JSON text: `{"ok": …, "rows": [{"name", "status", "value", "remedy"}, …]}`."""
        return json.dumps(
            {"ok": self.ok, "rows": [asdict(row) for row in self.rows]}, ensure_ascii=False, indent=1
        )

    def print(self) -> None:
        """Print the report as a table."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title="机器体检")
        for head in ("项目", "状态", "结果", "怎么办"):
            table.add_column(head, overflow="fold")
        for row in self.rows:
            word, color = _WORDS[row.status]
            table.add_row(Text(row.name), Text(word, style=color), Text(row.value), Text(row.remedy))
        console = Console()
        console.print(table)
        console.print(self._summary())

    def _summary(self) -> str:
        """The report in one line."""
        bad = sum(row.status == "fail" for row in self.rows)
        odd = sum(row.status == "warn" for row in self.rows)
        verdict = f"有 {bad} 项要修" if bad else "可以开始上课"
        return f"{verdict}；{odd} 项留意，{len(self.rows) - bad - odd} 项正常。"

    def _repr_html_(self) -> str:
        """The report as an HTML table, for notebooks."""
        lines = []
        for row in self.rows:
            word, color = _WORDS[row.status]
            remedy = f"<code>{html.escape(row.remedy)}</code>" if row.remedy else ""
            lines.append(
                f"<tr><td>{html.escape(row.name)}</td><td style='color:{color}'><b>{word}</b></td>"
                f"<td style='text-align:left'>{html.escape(row.value)}</td><td style='text-align:left'>{remedy}</td></tr>"
            )
        head = "<tr><th>项目</th><th>状态</th><th>结果</th><th>怎么办</th></tr>"
        return f"<table>{head}{''.join(lines)}</table><p>{self._summary()}</p>"


def examine() -> Report:
    """Examine this machine. A probe that fails becomes a row; nothing is raised."""
    rows: list[Row] = []
    for name, probe in _PROBES:
        try:
            rows += probe()
        except Exception as error:  # whatever a machine does to a probe, the other rows must appear
            value = f"这项检查本身出错：{type(error).__name__}: {error}"
            rows.append(
                Row(
                    name,
                    "warn",
                    value,
                    "python -m pip install --no-deps -r lab_utils/requirements.lock",
                )
            )
    return Report(tuple(rows))


def locked_versions() -> dict[str, str]:
    """Package -> version pinned by the lock for this Python and platform."""
    from packaging.requirements import Requirement

    needs = [Requirement(pin) for pin in pins(LOCK.read_text(encoding="utf-8"))]
    here = [need for need in needs if need.marker is None or need.marker.evaluate()]
    return {need.name: str(next(iter(need.specifier)).version) for need in here}


def _python() -> list[Row]:
    least, below = PYTHON
    have = platform.python_version()
    if least <= sys.version_info[:2] < below:
        return [Row("Python", "ok", have)]
    wanted = f"{least[0]}.{least[1]}"
    return [
        Row(
            "Python",
            "fail",
            f"{have}，课程需要 {wanted} 到 {below[0]}.{below[1] - 1}",
            f"conda create -n llm python={wanted}",
        )
    ]


def _platform() -> list[Row]:
    value = f"{platform.system()} {platform.machine()}"
    if sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64"):
        return [Row("平台", "ok", value)]
    lost = "没有测试过；vLLM 和 bitsandbytes（QLoRA）可能装不上，用到它们的实验会说明并跳过那一部分"
    return [
        Row(
            "平台",
            "warn",
            f"{value}：{lost}",
            "wsl --install"
            if sys.platform == "win32"
            else "docker run --platform linux/amd64 -it python:3.11",
        )
    ]


def _packages() -> list[Row]:
    pins = {"torch": TORCH} | {name: pin for name, pin in locked_versions().items() if name in PACKAGES}
    return [_package(name, pins.get(name)) for name in ("torch", *PACKAGES)]


def _vllm() -> list[Row]:
    if here := find_vllm():
        python, have = here
        folder = next((part for part in python.parts if part.startswith(".venv")), "这个 Python")
        return [Row("vllm", "ok", f"{have}，在 {folder} 里")]
    lost = "没有找到 vLLM；第 11 课里用到它的几格会说明并跳过"
    if remedy := vllm_remedy():
        return [Row("vllm", "warn", lost, remedy)]
    return [Row("vllm", "ok", f"{lost}（这个平台上装不了）")]


def _package(name: str, pin: str | None) -> Row:
    """Compare the installed version with `pin`, local labels such as `+cpu` aside."""
    from packaging.version import Version

    if pin is None:
        return Row(name, "warn", f"{LOCK.name} 里没有它的版本", "git checkout lab_utils/requirements.lock")
    remedy = f"python -m pip install {name}=={pin}"
    try:
        have = version(name)
    except PackageNotFoundError:
        dispensable = name == "bitsandbytes" and sys.platform != "linux"
        return Row(name, "warn" if dispensable else "fail", f"没有安装，需要 {pin}", remedy)
    installed, wanted = Version(Version(have).public), Version(pin)
    if installed == wanted:
        return Row(name, "ok", have)
    # A hosted image brings its own torch, which usually must stay.
    minor = installed.release[:2] == wanted.release[:2] or name == "torch"
    return Row(name, "warn" if minor else "fail", f"{have}，课程在 {pin} 上测试", remedy)


def _companions() -> list[Row]:
    present = [name for name in UNWANTED if find_spec(name)]
    if not present:
        return [Row("torchvision 冲突", "ok", "没有安装 torchvision 等，不会冲突")]
    remedy = f"python -m pip uninstall -y {' '.join(present)}"
    for name in present:
        command = [sys.executable, "-P", "-c", f"import {name}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["没有说明原因"])[-1]
            return [
                Row(
                    "torchvision 冲突",
                    "fail",
                    f"{name} 与 torch 不配套，transformers 会跟着出错：{reason}",
                    remedy,
                )
            ]
    return [Row("torchvision 冲突", "ok", f"{'、'.join(present)} 可以导入")]


def _cores() -> list[Row]:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        count = min(count, max(1, round(int(quota[0]) / int(quota[1]))))
    if count >= 2:
        return [Row("CPU 核数", "ok", str(count))]
    return [Row("CPU 核数", "warn", f"{count}；课程的时间按 2 核估计，这里会慢一倍", "nproc")]


def _memory() -> list[Row]:
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit = _cgroup("memory.max")
    if limit.isdigit():
        total = min(total, int(limit))
        cached = re.search(r"^inactive_file (\d+)$", _cgroup("memory.stat"), re.M)
        used = int(_cgroup("memory.current") or 0) - (int(cached[1]) if cached else 0)
        free = min(free, total - used)
    need = max(lab.memory_gib["cpu"] for lab in course.LABS)
    value = f"共 {total / GIB:.1f} GiB，可用 {free / GIB:.1f} GiB"
    if free >= need * GIB:
        return [Row("内存", "ok", value)]
    return [Row("内存", "warn", f"{value}；实验最多要 {need:g} GiB，请先关掉别的笔记本内核", "free -h")]


def _disk() -> list[Row]:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    value = f"{Path.cwd()} 所在磁盘剩 {free:.1f} GiB"
    if free >= LEAST_DISK_GIB:
        return [Row("磁盘", "ok", value)]
    status = "warn" if free >= 1 else "fail"
    return [Row("磁盘", status, f"{value}，建议至少 {LEAST_DISK_GIB:g} GiB", "du -sh ~/.cache/* | sort -h")]


def _gpu() -> list[Row]:
    if shutil.which("nvidia-smi") is None:
        return [
            Row("GPU", "ok", "没有 NVIDIA 显卡 (nvidia-smi)；课程用 CPU 也能全部做完"),
            Row("bfloat16", "ok", _cpu_bfloat16()),
        ]
    query = [
        "nvidia-smi",
        "--query-gpu=name,memory.total,driver_version,compute_cap",
        "--format=csv,noheader,nounits",
    ]
    done = subprocess.run(query, capture_output=True, text=True, timeout=10)
    if done.returncode or not done.stdout.strip():
        reason = (done.stdout + done.stderr).strip() or "没有输出"
        return [
            Row("GPU", "warn", f"nvidia-smi 出错：{reason}", "nvidia-smi"),
            Row("bfloat16", "ok", _cpu_bfloat16()),
        ]
    rows = [_card(line) for line in done.stdout.strip().splitlines()]
    capability = float(done.stdout.strip().splitlines()[0].split(",")[3])
    if capability >= 8:
        rows.append(Row("bfloat16", "ok", f"GPU 支持（计算能力 {capability:g}）；{_cpu_bfloat16()}"))
    else:
        rows.append(
            Row("bfloat16", "ok", f"GPU 不支持（计算能力 {capability:g}），会用 float16；{_cpu_bfloat16()}")
        )
    return rows


def _card(line: str) -> Row:
    """A row on one GPU from a line of nvidia-smi: name, MiB, driver, compute capability."""
    name, memory, driver, _ = (part.strip() for part in line.split(","))
    value = f"{name}，显存 {float(memory) / 1024:.1f} GiB，驱动 {driver}"
    try:
        cpu_build = version("torch").endswith("+cpu")
    except PackageNotFoundError:
        cpu_build = False
    if cpu_build:
        remedy = f"python -m pip install --force-reinstall torch=={TORCH}"
        return Row("GPU", "warn", f"{value}；但装的是 CPU 版 torch，用不上它", remedy)
    return Row("GPU", "ok", value)


def _cpu_bfloat16() -> str:
    """Whether the CPU multiplies bfloat16 matrices itself, in words."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    have = sorted({"avx512_bf16", "amx_bf16"} & flags)
    return f"CPU 有 {'、'.join(have)}" if have else "CPU 没有 bfloat16 指令（课程在 CPU 上用 float32）"


def _compiler() -> list[Row]:
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler:
        return [Row("C++ 编译器", "ok", Path(compiler).name)]
    remedy = "xcode-select --install" if sys.platform == "darwin" else "sudo apt-get install -y g++"
    return [Row("C++ 编译器", "warn", "没有找到；torch.compile 用不了，课程其余部分不受影响", remedy)]


def _hubs() -> list[Row]:
    rows = []
    for hub, reachable in models.sources_reachable(1.5).items():
        title, variable, address = models.HUBS[hub]
        address = os.environ.get(variable) or address
        if reachable:
            rows.append(Row(title, "ok", f"连得上 {address}"))
        else:
            value = f"连不上 {address}；cpu 档不需要网络，gpu 档下载模型才需要"
            rows.append(Row(title, "warn", value, f"curl -I {address}"))
    return rows


def _shipped_model() -> list[Row]:
    folder = models.ASSETS / models.SHIPPED
    lacking = models.missing_files(folder)
    if lacking:
        value = f"{folder} 缺少 {'、'.join(lacking)}"
        return [Row("随附模型", "fail", value, "python -m lab_utils.pretrain")]
    return [Row("随附模型", "ok", f"{models.SHIPPED}，{models.folder_bytes(folder) / 1e6:.1f} MB")]


def _fonts() -> list[Row]:
    folder = models.ASSETS / "fonts"
    fonts = sorted(file.name for ending in ("otf", "ttf") for file in folder.glob(f"*.{ending}"))
    if fonts:
        return [Row("中文字体", "ok", "、".join(fonts))]
    return [
        Row(
            "中文字体",
            "warn",
            f"{folder} 里没有字体，图里的中文会变成方框",
            "git checkout lab_utils/assets/fonts",
        )
    ]


def _profile() -> list[Row]:
    named = os.environ.get("LAB_PROFILE")
    try:
        chosen = profile.current()
    except LabError as error:
        return [Row("配置档", "fail", str(error), "export LAB_PROFILE=cpu")]
    value = f"{chosen.name}（{chosen.reason}），模型 {chosen.base_model}，{chosen.torch_dtype}"
    return [Row("配置档", "ok", f"{value}；LAB_PROFILE={named}" if named else value)]


def _cgroup(name: str) -> str:
    """Content of a control-group file that limits this container; empty when there is none."""
    file = Path("/sys/fs/cgroup") / name
    return file.read_text().strip() if file.exists() else ""


_PROBES: tuple[tuple[str, Callable[[], list[Row]]], ...] = (
    ("Python", _python),
    ("平台", _platform),
    ("软件包", _packages),
    ("vllm", _vllm),
    ("torchvision 冲突", _companions),
    ("CPU 核数", _cores),
    ("内存", _memory),
    ("磁盘", _disk),
    ("GPU", _gpu),
    ("C++ 编译器", _compiler),
    ("模型来源", _hubs),
    ("随附模型", _shipped_model),
    ("中文字体", _fonts),
    ("配置档", _profile),
)
"""Name of the row that reports a failure of the probe -> the probe."""
