"""Activation memory: what autograd keeps of one decoder layer for the backward pass.

Two rules give what is kept. A product keeps a factor when the gradient of the other needs it: so a linear layer keeps
its input only where its weight is trained, by itself or through LoRA. A sum keeps nothing.
"""

from collections.abc import Callable

from lab_utils.params.outline import LinearShape
from lab_utils.vram.workload import NOT_TEXT, Workload

_HEAD_NORM = ("qwen3", "qwen3_moe")
"""Families with a norm on each head's query and key."""


def layer_activations(work: Workload) -> dict[str, int]:
    """What autograd keeps of one decoder layer: tensor -> bytes. Of a mixture of experts it is a sparse layer.

    A norm computes in float32: what it keeps has 4 bytes in any dtype.
    """
    m, tokens = work.model, work.tokens
    norm = 4 * tokens * (m.hidden + 1)
    normalized = work.c * tokens * m.hidden if work.method == "full" else 0
    adapted = [layer for layer in work.targets if layer.component not in NOT_TEXT]
    return {
        "norm 1: x and 1/rms": norm,
        "norm 1: normalized x": normalized,
        "input of q, k, v": _linear_input(work, m.hidden, _is_qkv),
        **_attention_activations(work),
        "norm 2: x and 1/rms": norm,
        "norm 2: normalized x": normalized,
        **ffn_activations(work),
        "LoRA: A·x": work.adapter_bytes * tokens * work.setting.r * len(adapted) // m.layers,
    }


def _attention_activations(work: Workload) -> dict[str, int]:
    """What attention keeps, from the projections on to the input of the output projection."""
    m, c, tokens = work.model, work.c, work.tokens
    kept = {}
    if m.family in _HEAD_NORM:
        kept["norms of q, k: x and 1/rms"] = 4 * tokens * (m.query + m.key + m.heads + m.kv_heads)
        if work.method == "full":
            kept["norms of q, k: normalized x"] = c * tokens * (m.query + m.key)
    kept["q"] = c * tokens * m.query
    output = _linear_input(work, m.attended, lambda layer: layer.component == "attention_o")
    if work.setting.attention == "eager":
        kept["k, v, repeated for each head"] = c * tokens * (m.key + m.value) * m.heads // m.kv_heads
        kept["attention weights"] = score_count(work) * (4 if c == 4 else 4 + c)
        return kept | {"attention output": output}
    kept["k, v"] = c * tokens * (m.key + m.value)
    kept["attention output"] = c * tokens * m.attended
    kept["log-sum-exp of scores"] = 4 * tokens * m.heads
    return kept | {"attention output, copy for LoRA": output if work.targets and work.copies else 0}


def ffn_activations(work: Workload) -> dict[str, int]:
    if work.model.routed:
        return _experts_activations(work)
    return _mlp_activations(work, work.model.inner)


def _mlp_activations(work: Workload, inner: int, label: str = "") -> dict[str, int]:
    """What a feed-forward network keeps: down(act(gate(x)) · up(x)), or down(act(up(x)))."""
    width = work.c * work.tokens * inner
    kept = {"input of gate, up": _linear_input(work, work.model.hidden, _is_up), "up": width}
    if work.model.gated:
        kept |= {"gate": width, "act(gate)": width}
    kept["input of down"] = _linear_input(work, inner, _is_down)
    return {label + name: n for name, n in kept.items()}


def _experts_activations(work: Workload) -> dict[str, int]:
    """What a layer of experts keeps: each token is there once for each expert it is sent to."""
    m, c = work.model, work.c
    sent = c * work.tokens * m.routed
    trained = work.method == "full" or work.on_experts
    kept = {
        "input of router": c * work.tokens * m.hidden if trained else 0,
        "router: probabilities": 4 * work.tokens * m.experts,
        "experts: input": sent * m.hidden if trained else 0,
        "experts: gate, up, act(gate)": 3 * sent * m.inner,
        "input of down": sent * m.inner if trained else 0,
        "experts: output": sent * m.hidden,
        "experts: W + BA": experts_update(work),
    }
    return kept | (_mlp_activations(work, m.shared, "shared expert: ") if m.shared else {})


def experts_update(work: Workload) -> int:
    """Bytes of one layer's experts when LoRA is on them: peft puts all of W + BA together to use it."""
    m = work.model
    return 3 * work.c * m.experts * m.hidden * m.inner if work.on_experts else 0


def _linear_input(work: Workload, width: int, among: Callable[[LinearShape], bool]) -> int:
    """Bytes of the input, `width` floats a token, that the linear layers which are `among` keep together.

    It is one tensor for all of them, unless adapters make copies of it.
    """
    if work.method == "full":
        return work.c * work.tokens * width
    targets = [layer for layer in work.targets if among(layer)]
    if work.copies:
        return work.adapter_bytes * work.tokens * sum(layer.d_in for layer in targets) // work.model.layers
    return work.c * work.tokens * width if targets else 0


def _is_qkv(layer: LinearShape) -> bool:
    return layer.component.startswith("attention") and layer.component != "attention_o"


def _is_up(layer: LinearShape) -> bool:
    """Whether `layer` leads into a feed-forward network; the one that leads out makes x narrower."""
    return layer.component in ("ffn", "shared_experts") and layer.d_in <= layer.d_out


def _is_down(layer: LinearShape) -> bool:
    return layer.component in ("ffn", "shared_experts") and layer.d_in > layer.d_out


def score_count(work: Workload) -> int:
    """Attention scores of a layer."""
    return work.setting.batch_size * work.model.heads * work.setting.seq_len**2
