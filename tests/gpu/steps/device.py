"""a. The device, the versions, bfloat16, and the two ceilings: bytes copied and products of matrices a second."""

import os
import platform
import statistics
import subprocess
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from steps.report import Report, synchronize

PACKAGES = """torch transformers peft accelerate trl ms-swift datasets modelscope bitsandbytes numpy pandas triton
    flash-attn vllm nbclient ipykernel""".split()


def run(report: Report, dry: bool) -> None:
    """Fill in what this machine is and how fast."""
    import torch

    from lab_utils import profile

    report.put(python=platform.python_version(), system=platform.platform(), cores=os.cpu_count())
    report.put(versions={name: _version(name) for name in PACKAGES})
    chosen = profile.current()
    report.put(profile={"name": chosen.name, "reason": chosen.reason, "dtype": chosen.torch_dtype})
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        report.put(
            device=card.name,
            memory_gib=card.total_memory / 2**30,
            capability=list(torch.cuda.get_device_capability()),
            cuda=torch.version.cuda,
            driver=_driver(),
            bf16=torch.cuda.is_bf16_supported(including_emulation=False),
        )
    else:
        report.put(device="cpu")
    where = "cuda" if torch.cuda.is_available() else "cpu"
    numbers = (1 << 20) if dry else (1 << 30)  # 4 GiB read and 4 GiB written
    source = torch.randn(numbers, device=where)
    target = torch.empty_like(source)
    seconds = _median(partial(target.copy_, source))
    report.put(copy_gb_per_second=2 * 4 * numbers / seconds / 1e9)
    del source, target
    for name in ("float32", "float16", "bfloat16"):
        n = 256 if dry else 8192
        left, right = (torch.randn(n, n, device=where, dtype=getattr(torch, name)) for _ in range(2))
        seconds = _median(partial(torch.matmul, left, right))
        report.put(**{f"matmul_{name}_tflops": 2 * n**3 / seconds / 1e12})


def _median(work, repeats: int = 7) -> float:
    """Median seconds of `work()` after two runs to warm up."""
    seconds = []
    for i in range(repeats + 2):
        synchronize()
        begin = time.perf_counter()
        work()
        synchronize()
        if i >= 2:
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except OSError:
        return "nvidia-smi not found"
