"""How long `import lab_utils` takes beside `import torch`. Prints one line of JSON; times are in seconds.

Each import is measured in fresh interpreters, in turns, less the start of an interpreter that imports
nothing; the fastest of the repeats counts, since load on the machine only ever adds.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 5


def _seconds(statement: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], cwd=ROOT, check=True)
    return time.perf_counter() - begin


def measure(repeats: int = REPEATS) -> dict[str, float]:
    """`lab_utils` and `torch`: seconds of the import; `ratio`: the first by the second."""
    best = {"pass": float("inf"), "import lab_utils": float("inf"), "import torch": float("inf")}
    for _ in range(repeats):
        for statement in best:
            best[statement] = min(best[statement], _seconds(statement))
    ours = max(0.0, best["import lab_utils"] - best["pass"])
    torch = best["import torch"] - best["pass"]
    return {"lab_utils": round(ours, 4), "torch": round(torch, 4), "ratio": round(ours / torch, 4)}


if __name__ == "__main__":
    print(json.dumps(measure()))
