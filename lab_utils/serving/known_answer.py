"""A server that runs needn't be right: its answers are compared with those of transformers when it starts."""

from collections.abc import Mapping
from pathlib import Path

from lab_utils import models
from lab_utils.evaluation.candidate import Candidate, Local, local
from lab_utils.evaluation.parity import logprob_difference
from lab_utils.serving.adapter import Adapter

PROMPTS = ("春眠不觉晓，", "The capital of France is", "写一首五言绝句。")
NEW_TOKENS = 16
SERVER_TOLERANCE = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""By dtype of the server: how far log-probabilities may lie from those of float32, in nats. Rounding to bfloat16
alone moved them by up to 0.23 with SmolLM2-135M; another model is off by more than 1."""
LARGEST_BYTES = 4 * 2**30
"""Models above this size on disk aren't loaded a second time for the comparison."""


def compare(
    candidates: Mapping[str, Candidate], folder: Path, adapters: Mapping[str, Adapter], dtype: str
) -> str | None:
    """What is wrong with a server's answers, in Chinese; None when nothing is.

    `candidates`: what it serves by name, from the model in `folder`, with the adapter of that name if there is
    one; `dtype`: that of its weights. Of each the log-probabilities of the next token must be those of
    transformers in float32, within the tolerance of `dtype`, and in float32 the greedy text must be the same.
    A model too large to be loaded here is not compared; a line says so.
    """
    if models.folder_bytes(folder) > LARGEST_BYTES:
        print(f"{folder.name} 太大，没有与 transformers 比较；请用 export.parity 抽查。", flush=True)
        return None
    for name, candidate in candidates.items():
        adapter = adapters.get(name)
        reference = local(folder, adapter.folder if adapter else None)
        if wrong := difference(reference, candidate, dtype):
            return f"{name}：{wrong}"
    print(f"已知答案检查通过：{'、'.join(candidates)} 与 transformers 一致 ({dtype})", flush=True)
    return None


def difference(reference: Local, served: Candidate, dtype: str) -> str | None:
    """Where `served` and `reference` part on the known prompts, in Chinese; None when they don't."""
    batch = [reference.tokenizer(prompt).input_ids for prompt in PROMPTS]
    logprobs = served.next_logprobs(batch)
    if logprobs is None:
        return "服务没有给出对数概率 (logprobs)"
    pairs = zip(reference.next_logprobs(batch), logprobs, strict=True)
    worst = max(logprob_difference(expected, given)[0] for expected, given in pairs)
    if not worst <= SERVER_TOLERANCE[dtype]:
        return f"下一个词元的对数概率相差 {worst:.3g} 纳特，{dtype} 的容差是 {SERVER_TOLERANCE[dtype]:g}"
    if dtype != "float32":
        return None
    texts = zip(PROMPTS, reference.greedy(batch, NEW_TOKENS), served.greedy(batch, NEW_TOKENS), strict=True)
    for prompt, expected, given in texts:
        if expected != given:
            return f"“{prompt}”的贪心续写不同：transformers {expected.text!r}，vLLM {given.text!r}"
    return None
