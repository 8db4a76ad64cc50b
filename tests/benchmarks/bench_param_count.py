"""What it takes to count DeepSeek-V3 (671 B, mixture of experts) in a fresh process. Prints one line of JSON.

`seconds`: from the call to the count, the model's own module imported in it; `import_seconds`: torch and
transformers before that, whoever uses them; `cpu_seconds`: processor time of the whole process;
`peak_mb`: the most main memory it held, in 10⁶ bytes, imports included; `own_mb`: what the count added.
"""

import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

NAME = "DeepSeek-V3"


def _peak_mb() -> float:
    """Peak resident set size of this process. Linux keeps it as VmHWM; its ru_maxrss would hold the parent's too."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS: in bytes


def _count() -> dict:
    begin = time.perf_counter()
    import torch  # noqa: F401
    import transformers.modeling_utils  # noqa: F401

    from lab_utils import params

    imported, before = time.perf_counter(), _peak_mb()
    found = params.count(NAME)
    return {
        "name": NAME,
        "total": found.total,
        "active": found.active,
        "seconds": round(time.perf_counter() - imported, 2),
        "import_seconds": round(imported - begin, 2),
        "cpu_seconds": round(time.process_time(), 2),
        "peak_mb": round(_peak_mb()),
        "own_mb": round(_peak_mb() - before),
    }


def measure() -> dict:
    """The figures above, taken in a process of their own."""
    out = subprocess.run([sys.executable, __file__, "here"], stdout=subprocess.PIPE, check=True)
    return json.loads(out.stdout)


if __name__ == "__main__":
    print(json.dumps(_count() if sys.argv[1:] == ["here"] else measure()))
