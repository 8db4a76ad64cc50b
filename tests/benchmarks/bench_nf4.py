"""NF4 from `lab_utils.quant` beside bitsandbytes on the CPU: 16 M weights, there and back. One line of JSON.

Seconds of the fastest of the repeats, the two measured in turns by as many threads; `ratio`: ours by
bitsandbytes', for quantizing and dequantizing together.
"""

import json
import time

import torch
from bitsandbytes import functional

from lab_utils import quant

WEIGHTS = 2**24
REPEATS = 5


def _seconds(function, *arguments) -> tuple[float, object]:
    begin = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - begin, result


def measure(weights: int = WEIGHTS, repeats: int = REPEATS) -> dict[str, float]:
    """Seconds of both, and their ratio. AssertionError when they don't give the same weights back."""
    tensor = torch.randn(weights // 1024, 1024, generator=torch.Generator().manual_seed(0))
    steps = ("ours_quantize", "ours_dequantize", "bitsandbytes_quantize", "bitsandbytes_dequantize")
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(repeats):
        first, quantized = _seconds(quant.quantize_nf4, tensor)
        second, ours = _seconds(quant.dequantize_nf4, quantized)
        third, (codes, state) = _seconds(functional.quantize_nf4, tensor)
        fourth, theirs = _seconds(functional.dequantize_nf4, codes, state)
        assert torch.equal(ours, theirs)
        for step, seconds in zip(steps, (first, second, third, fourth), strict=True):
            best[step] = min(best[step], seconds)
    ours_seconds = best["ours_quantize"] + best["ours_dequantize"]
    their_seconds = best["bitsandbytes_quantize"] + best["bitsandbytes_dequantize"]
    return {
        "weights": tensor.numel(),
        "threads": torch.get_num_threads(),
        **{step: round(seconds, 4) for step, seconds in best.items()},
        "ratio": round(ours_seconds / their_seconds, 3),
        "ratio_quantize": round(best["ours_quantize"] / best["bitsandbytes_quantize"], 3),
        "ratio_dequantize": round(best["ours_dequantize"] / best["bitsandbytes_dequantize"], 3),
    }


if __name__ == "__main__":
    print(json.dumps(measure()))
