"""Memory of training and inference: predicted from a configuration, and measured.

    setting       what it depends on besides the model: batch, sequence, dtype, optimizer, LoRA's rank, …
    estimates     the memory estimate: `estimate`, part by part, for full, LoRA and QLoRA training and inference
    moments       the moments of a step, and what each of them holds: weights, gradients, optimizer states, logits
    activations   activation memory: what autograd keeps of a layer for the backward pass
    temporaries   what a layer holds for a moment while it is computed
    kv_cache      bytes of the KV cache for a token
    advice        `fits`: which method fits into a graphics card, and what to change when it doesn't
    measurement   the peak of a real step: `measured_step`

What a step holds, in bytes (P parameters, n of them trained, T = batch · seq tokens):

    weights             2P in bfloat16, 4P in float32, about P/2 in NF4
    gradients           n · bytes of a trained weight
    optimizer states    for AdamW twice that: both moments have the dtype of the weight
    activations         what autograd keeps for the backward pass, layer by layer
    logits and loss     three float32 tensors (T, vocab) at once: the log-softmax, the gradient that the
                        negative log-likelihood gives it, and the one that it hands on
    temporary buffers   gradients of activations in the layer whose turn it is, dequantized weights

They are not all there at the same time, so the prediction is the largest of the moments of a step.
"""

from lab_utils.vram.advice import GPUS, RESERVE_GIB, Fits, MethodFit, fits, fitting_cards
from lab_utils.vram.estimates import GIB, Estimate, estimate, format_bytes
from lab_utils.vram.kv_cache import kv_bytes_per_token
from lab_utils.vram.measurement import Peak, live_bytes, load_model, measure, measured_step, training_step
from lab_utils.vram.moments import MOMENTS, PARTS
from lab_utils.vram.setting import ATTENTIONS, BLOCK_SIZES, BYTES, METHODS, OPTIMIZERS, Setting

__all__ = [
    "ATTENTIONS",
    "BLOCK_SIZES",
    "BYTES",
    "GIB",
    "GPUS",
    "METHODS",
    "MOMENTS",
    "OPTIMIZERS",
    "PARTS",
    "RESERVE_GIB",
    "Estimate",
    "Fits",
    "MethodFit",
    "Peak",
    "Setting",
    "estimate",
    "fits",
    "fitting_cards",
    "format_bytes",
    "kv_bytes_per_token",
    "live_bytes",
    "load_model",
    "measure",
    "measured_step",
    "training_step",
]
