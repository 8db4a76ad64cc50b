"""Temporary buffers: what a layer holds beyond its activations while it is the one that is computed."""

from lab_utils.vram.activations import experts_update, ffn_activations, score_count
from lab_utils.vram.workload import NOT_TEXT, Workload


def layer_temporaries(work: Workload) -> int:
    """The most that a layer holds beyond its activations, while it is the one computed. One of these:

    product      backward, act(gate) · up is taken apart: the gradient of the residual stream, those of
                 the product, of act(gate) and of up; the product itself has gone
    dequantized  a little before: a 4-bit weight in full, and two of these three
    scores       eager attention, backward: the gradient after and before the softmax; what the
                 feed-forward network kept has gone, and the weights' copy in half precision
    experts      forward, the product BA for all experts, where these have LoRA
    adapter      forward, where adapters aren't in the layers' dtype: see `_adapter_temporaries`
    """
    m, c, tokens = work.model, work.c, work.tokens
    ffn = ffn_activations(work)
    product = ffn["input of down"]
    width = tokens * (m.inner * max(m.routed, 1) + m.shared)
    stream = c * tokens * m.hidden
    largest = [stream + (3 if m.gated else 2) * c * width - product, stream + experts_update(work)]
    if work.method == "qlora":
        largest.append(stream + 2 * c * width + c * _widest(work) - product)
    if work.setting.attention == "eager":
        largest.append(stream + (8 if c == 4 else 8 - c) * score_count(work) - sum(ffn.values()))
    if work.targets and work.copies and product:
        largest.append(_adapter_temporaries(work, width) - (0 if work.setting.autocast else product))
    return max(largest)


def _adapter_temporaries(work: Workload, width: int) -> int:
    """What float32 adapters on layers in half precision hold for a moment, forward, in bytes.

    With autocast, at `down`: its input, and that in float32 on the way to the adapter's dtype. Without it,
    at `up`, where peft adds update and output: of a 4-bit layer in half precision, when the update is there
    in both; of others in float32: update, output and sum. Besides, the embeddings, the layer's input, the
    residual stream and its norm.
    """
    apart = work.setting.autocast or work.method == "qlora"
    return 4 * work.c * work.tokens * work.model.hidden + (4 + work.c if apart else 3 * 4) * width


def prefill_temporaries(work: Workload) -> int:
    """The most that a layer's forward pass holds without autograd.

    The embeddings, the layer's input, the residual stream and its norm; besides, act(gate), up, their
    product and a dequantized weight, or, with eager attention, the mask, q, k and v for each head, and the
    scores in float32 before and after the softmax. Experts make gate and up in one tensor, and hold their
    input too.
    """
    m, c, tokens = work.model, work.c, work.tokens
    ffn = (3 if m.gated else 2) * c * tokens * m.inner + (c * _widest(work) if work.quantization else 0)
    if m.routed:
        ffn = c * tokens * m.routed * (4 * m.inner + m.hidden)
    scores = 0
    if work.setting.attention == "eager":
        mask = c * work.setting.batch_size * work.setting.seq_len**2
        heads = c * tokens * (m.query + (m.key + m.value) * m.heads // m.kv_heads - m.hidden)
        scores = (8 if c == 4 else 8 + c) * score_count(work) + mask + heads
    return 4 * c * tokens * m.hidden + max(ffn, scores)


def _widest(work: Workload) -> int:
    """Weights of the largest linear layer of the decoder."""
    decoder = [layer for layer in work.model.linears if layer.component not in NOT_TEXT]
    return max(layer.d_in * layer.d_out for layer in decoder)
