"""The moments of a training step and of inference, and what each of them holds, part by part.

They are not all there at the same time, so the prediction is the largest of the moments of a step:

    loss                all activations, the three tensors over the vocabulary, no gradient of a weight
    lm_head             all activations, the gradients of the logits and of the output layer's weight
    last layer          the activations of all layers and the temporaries of one; the first gradients
    first layer         activations and temporaries of one layer; nearly all gradients
    embedding           all gradients; with tied embeddings two more of that size, because autograd adds
                        the gradient from the output layer to the one from the input in a third tensor
    optimizer           all gradients

From `last layer` to `first layer` each layer takes as much away and adds as much as any other, so the most
is at one of the two ends. With gradient checkpointing (Chen et al. 2016, arXiv:1604.06174) only each
layer's input is kept, and one layer at a time is computed again.
"""

from lab_utils.params.outline import LinearShape
from lab_utils.vram.activations import layer_activations
from lab_utils.vram.temporaries import layer_temporaries, prefill_temporaries
from lab_utils.vram.workload import NOT_TEXT, Workload

PARTS = {
    "weights": "权重",
    "quantization constants": "量化常数",
    "adapters": "适配器",
    "gradients": "梯度",
    "optimizer states": "优化器状态",
    "activations": "激活值",
    "logits and loss": "logits 与损失",
    "kv cache": "KV 缓存",
    "temporary buffers": "临时缓冲",
}
"""Part -> its Chinese name, in the order of a table."""
MOMENTS = {
    "loss": "算损失",
    "lm_head": "输出头反传",
    "last layer": "最后一层反传",
    "first layer": "第一层反传",
    "embedding": "嵌入层反传",
    "optimizer": "优化器更新",
    "prefill": "读入提示 (prefill)",
    "next token": "算下一个词元",
}
"""Moment -> its Chinese name, in the order of time."""


def training_moments(work: Workload) -> dict[str, dict[str, int]]:
    """Moment -> part -> bytes; see the module's docstring."""
    m, c = work.model, work.c
    always = resident_parts(work)
    one_layer = sum(layer_activations(work).values())
    all_layers, others = _all_layers(work, one_layer)
    activations = {
        "loss": all_layers + _last_norm(work),
        "lm_head": all_layers + _last_norm(work),
        "last layer": others + one_layer,
        "first layer": _shared_tensors(work) + one_layer,
    }
    scores = work.tokens * m.vocab
    logits = {"loss": 3 * 4 * scores, "lm_head": c * scores}
    temporary = dict.fromkeys(("last layer", "first layer"), layer_temporaries(work))
    temporary["lm_head"] = c * work.tokens * m.hidden
    return {
        moment: always
        | {"activations": activations.get(moment, 0), "logits and loss": logits.get(moment, 0)}
        | {"gradients": gradients, "temporary buffers": temporary.get(moment, 0) + adding}
        for moment, (gradients, adding) in _gradients_by_moment(work).items()
    }


def inference_moments(work: Workload) -> dict[str, dict[str, int]]:
    """Moment -> part -> bytes. Without autograd a tensor lives only until its last use."""
    m, c = work.model, work.c
    always = resident_parts(work) | {"kv cache": c * work.tokens * m.cached * m.layers}
    prefill = _shared_tensors(work) + prefill_temporaries(work)
    return {
        "prefill": always | {"temporary buffers": prefill},
        "next token": always | {"logits and loss": (c + 4) * work.setting.batch_size * m.vocab},
    }


def resident_parts(work: Workload) -> dict[str, int]:
    """What stays from step to step."""
    quantized = work.model.linears if work.quantization else []
    codes = sum(layer.d_in * layer.d_out for layer in quantized)
    others = sum(work.model.components.values()) - codes
    return {
        "weights": others * work.c + (codes // 2 if work.quantization == "nf4" else codes),
        "quantization constants": sum(_constants(work, layer) for layer in quantized),
        "adapters": work.trained * work.trained_bytes if work.targets else 0,
        "optimizer states": work.state_bytes - work.paged_bytes,
    }


def _constants(work: Workload, layer: LinearShape) -> int:
    """Bytes that bitsandbytes keeps beside the codes of a quantized weight.

    int8: a float32 scale a row. NF4 (Dettmers et al. 2023, arXiv:2305.14314, section 3): a float32 scale a
    block and the table of 16 levels. Double quantization: an int8 scale a block, for each 256 of them a
    float32 scale, their mean, and a table of 256 levels more.
    """
    if work.quantization == "int8":
        return 4 * layer.d_out
    blocks = -(-layer.d_in * layer.d_out // work.setting.block_size)
    if not work.setting.double_quant:
        return 4 * blocks + 4 * 16
    return blocks + 4 * -(-blocks // 256) + 4 + 4 * (16 + 256)


def gradient_bytes(work: Workload) -> int:
    """Bytes of the gradients of all trained weights."""
    return work.trained * work.trained_bytes


def _gradients_by_moment(work: Workload) -> dict[str, tuple[int, int]]:
    """Moment -> bytes of the gradients, and of gradients on the way to be added to them.

    In a layer's feed-forward network that layer's `down` is the first to have its gradient. With gradient
    accumulation all gradients are there already, and each new one comes beside them.
    """
    m, c = work.model, work.c
    every = gradient_bytes(work)
    head = down = layer = 0
    if work.method == "full":
        outside = sum(m.components.get(part, 0) for part in ("embedding", "lm_head", *NOT_TEXT))
        layer = c * (work.trained - outside) // m.layers
        down = c * m.hidden * (m.inner * max(m.experts, 1) + m.shared)
        head = c * m.components["embedding" if m.tied else "lm_head"]
    pending = head if m.tied else 0
    if work.setting.gradient_accumulation > 1:
        new = {"loss": 0, "lm_head": head, "last layer": pending + down, "first layer": pending + down}
        new |= {"embedding": 3 * pending or head, "optimizer": 0}
        return {moment: (every, adding) for moment, adding in new.items()}
    return {
        "loss": (0, 0),
        "lm_head": (head, 0),
        "last layer": (head + down, 0),
        "first layer": (every - layer + down - (head - pending), 0),
        "embedding": (every, 2 * pending),
        "optimizer": (every, 0),
    }


def _all_layers(work: Workload, one_layer: int) -> tuple[int, int]:
    """Bytes kept when all layers are through, and those of them besides the last layer's own.

    With checkpointing it is each layer's input; the layer that is computed again shares its input with what
    its norm keeps, unless that has to be a copy in float32. Without it, and with frozen embeddings,
    nothing before the first layer's norm needs a gradient, so that norm keeps nothing.
    """
    m, tokens = work.model, work.tokens
    shared = _shared_tensors(work)
    if work.setting.gradient_checkpointing:
        layer_input = work.c * tokens * m.hidden
        inputs = m.layers * layer_input
        return shared + inputs, shared + inputs - (layer_input if work.c == 4 else 0)
    unneeded = 4 * tokens * (m.hidden + 1) if work.targets else 0
    return shared + m.layers * one_layer - unneeded, shared + (m.layers - 1) * one_layer - unneeded


def _shared_tensors(work: Workload) -> int:
    """Token ids, labels and mask in int64, and the cosines and sines of the rotary embedding."""
    head = work.model.query // work.model.heads
    return 3 * 8 * work.tokens + 2 * work.c * work.setting.seq_len * head


def _last_norm(work: Workload) -> int:
    """What the last norm and the output layer keep: x and 1/rms; when they are trained, two tensors more."""
    width = work.model.hidden
    more = 2 * work.c * width if work.method == "full" else 0
    return work.tokens * (4 * (width + 1) + more)
