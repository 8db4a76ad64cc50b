"""A server that runs needn't be right: its answers are compared with those of transformers when it starts."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lab_utils import export, models
from lab_utils.evaluation.parity import SERVED_TOLERANCE, logprob_difference
from lab_utils.serving.adapter import Adapter

if TYPE_CHECKING:
    from lab_utils.serving.server import Server

PROMPTS = ("春眠不觉晓，", "The capital of France is", "写一首五言绝句。")
NEW_TOKENS = 16
LARGEST_BYTES = 4 * 2**30
"""Models above this size on disk aren't loaded a second time for the comparison."""


def test(server: "Server", folder: Path, adapters: Mapping[str, Adapter]) -> str | None:
    """What is wrong with the server's answers, in Chinese; None when nothing is.

    Of each name it serves the log-probabilities of the next token must be those of transformers in
    float32, within the tolerance of the server's dtype, and in float32 the greedy text must be the same.
    A model too large to be loaded here is not compared; a line says so.
    """
    if models.folder_bytes(folder) > LARGEST_BYTES:
        print(f"{folder.name} 太大，没有与 transformers 比较；请用 export.parity 抽查。", flush=True)
        return None
    for name, adapter in {server.names[0]: None, **adapters}.items():
        reference = export.local(folder, adapter.folder if adapter else None)
        if wrong := difference(reference, server.candidate(name), server.dtype):
            return f"{name}：{wrong}"
    print(f"已知答案检查通过：{'、'.join(server.names)} 与 transformers 一致 ({server.dtype})", flush=True)
    return None


def difference(reference: export.Local, served: export.Candidate, dtype: str) -> str | None:
    """Where `served` and `reference` part on the known prompts, in Chinese; None when they don't."""
    batch = [reference.tokenizer(prompt).input_ids for prompt in PROMPTS]
    pairs = zip(reference.next_logprobs(batch), served.next_logprobs(batch), strict=True)
    worst = max(logprob_difference(own, other)[0] for own, other in pairs)
    if not worst <= SERVED_TOLERANCE[dtype]:
        return f"下一个词元的对数概率相差 {worst:.3g} 纳特，{dtype} 的容差是 {SERVED_TOLERANCE[dtype]:g}"
    if dtype != "float32":
        return None
    texts = zip(PROMPTS, reference.greedy(batch, NEW_TOKENS), served.greedy(batch, NEW_TOKENS), strict=True)
    for prompt, own, other in texts:
        if own != other:
            return f"“{prompt}”的贪心续写不同：transformers {own.text!r}，vLLM {other.text!r}"
    return None
