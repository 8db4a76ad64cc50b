"""The parity gate for what was exported: beside folders and servers it opens GGUF files, in llama.cpp."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lab_utils.artifacts import classify
from lab_utils.evaluation.candidate import Messages
from lab_utils.evaluation.parity import Parity
from lab_utils.evaluation.parity import parity as compare
from lab_utils.export.llama_cpp import llama_cpp


def parity(
    a: Any, b: Any, prompts: Sequence[str | Messages], max_new_tokens: int = 64, dtype: str = "float32"
) -> Parity:
    """`evaluation.parity.parity`, where `a` and `b` may also be a GGUF file or a folder with one.

    Raises what that one raises, and what `llama_cpp` raises.
    """
    with ExitStack() as opened:
        first, second = (opened.enter_context(llama_cpp(side)) if _is_gguf(side) else side for side in (a, b))
        return compare(first, second, prompts, max_new_tokens, dtype)


def _is_gguf(side: Any) -> bool:
    return isinstance(side, (str, Path)) and Path(side).exists() and classify(side).kind == "gguf"
