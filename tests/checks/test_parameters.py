"""The checks of lab 01 accept right answers in several spellings and reject each known mistake by name."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from lab_utils import params
from lab_utils.checks import Check, parameters
from tests.checks.kit import assert_check


def step_by_autograd(x, y, w, b, lr):
    w, b = w.clone().requires_grad_(), b.clone().requires_grad_()
    functional.mse_loss(functional.linear(x, w, b), y).backward()
    return (w - lr * w.grad).detach(), (b - lr * b.grad).detach()


def step_in_a_loop(x, y, w, b, lr):
    new_w, new_b = w.clone(), b.clone()
    for row in range(len(x)):
        error = 2 * (w @ x[row] + b - y[row]) / y.numel()
        new_w -= lr * torch.outer(error, x[row])
        new_b -= lr * error
    return [new_w, new_b]


def attention_by_layers(d, heads, kv_heads, head_dim, qkv_bias):
    with torch.device("meta"):
        layers = [torch.nn.Linear(d, n * head_dim, qkv_bias) for n in (heads, kv_heads, kv_heads)]
        layers.append(torch.nn.Linear(heads * head_dim, d, bias=False))
    return sum(p.numel() for layer in layers for p in layer.parameters())


def decoder_in_steps(vocab, d, layers, heads, kv_heads, head_dim, ffn, qkv_bias, qk_norm, tied):
    total = vocab * d
    for _ in range(layers):
        total += attention_by_layers(d, heads, kv_heads, head_dim, qkv_bias)
        total += d * ffn + d * ffn + ffn * d
        total += d + d + qk_norm * (head_dim + head_dim)
    return total + d + (0 if tied else d * vocab)


def decoder_by_transformers(vocab, d, layers, heads, kv_heads, head_dim, ffn, qkv_bias, qk_norm, tied):
    """Qwen2 has biases, Qwen3 the norms of Q and K; with both, the biases are added to Qwen3."""
    raw = {
        "model_type": "qwen3" if qk_norm else "qwen2" if qkv_bias else "llama",
        "vocab_size": vocab,
        "hidden_size": d,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": ffn,
        "tie_word_embeddings": tied,
    }
    extra = layers * (heads + 2 * kv_heads) * head_dim if qkv_bias and qk_norm else 0
    return params.count(raw).total + extra


def moe_in_arrays(d, ffn, experts, chosen):
    used = np.arange(experts) < chosen
    each = np.full(experts, 3 * d * ffn)
    return np.array([each.sum() + experts * d, each[used].sum() + experts * d]).tolist()


ACCEPTED = {
    parameters.LINEAR_PARAMS: [
        lambda i, o, b: sum(p.numel() for p in torch.nn.Linear(i, o, b, device="meta").parameters()),
        lambda i, o, b: np.int64((i + int(b)) * o),
    ],
    parameters.HAND_STEP: [step_by_autograd, step_in_a_loop],
    parameters.ATTENTION_PARAMS: [
        attention_by_layers,
        lambda d, h, k, s, b: 2 * d * s * (h + k) + b * s * (h + 2 * k),
    ],
    parameters.FFN_PARAMS: [
        lambda d, f, g: 2 * d * f + g * d * f,
        lambda d, f, g: sum(d * f for _ in ("gate", "up", "down")[not g :]),
    ],
    parameters.DECODER_PARAMS: [decoder_in_steps, decoder_by_transformers],
    parameters.MOE_PARAMS: [
        moe_in_arrays,
        lambda d, f, e, c: (3 * e * d * f + e * d, 3 * c * d * f + e * d),
    ],
}


@pytest.mark.parametrize("check", ACCEPTED, ids=lambda check: check.name)
def test_accepts_right_answers_and_names_mistakes(check):
    assert_check(check, ACCEPTED[check])


def test_every_check_is_tested():
    assert {value for value in vars(parameters).values() if isinstance(value, Check)} == set(ACCEPTED)


@pytest.mark.parametrize("check", [parameters.LINEAR_PARAMS, parameters.DECODER_PARAMS], ids=lambda c: c.name)
def test_one_too_many_is_wrong(check):
    assert not check.judge(lambda *sizes: check.reference(*sizes) + 1).ok


def test_a_step_that_writes_into_its_input_is_told_so():
    def in_place(x, y, w, b, lr):
        new_w, new_b = parameters.hand_step(x, y, w, b, lr)
        return w.copy_(new_w), b.copy_(new_b)

    assert parameters.HAND_STEP.judge(in_place).stage == "input"


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("Llama-2-7B", parameters.LLAMA_2_7B),
        ("Qwen2.5-7B", parameters.QWEN2_5_7B),
        ("Qwen3-0.6B", parameters.QWEN3_0_6B),
        ("ChatGLM3-6B", parameters.CHATGLM3_6B),
    ],
)
def test_the_reference_meets_the_real_totals(name, sizes):
    assert parameters.decoder_params(*sizes) == params.count(name).total
