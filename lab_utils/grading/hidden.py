"""Hidden inputs: for each exercise, a function that makes the arguments of one more call from a seeded generator.

Only inputs on which every right answer agrees belong here: no ties, no empty edge that the lab doesn't speak of.
The right outputs come from the check's reference. An exercise without an entry is judged by its visible cases alone.
"""

import json
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def _normal(rng: Random, *shape: int, scale: float = 1.0, double: bool = False) -> "torch.Tensor":
    import torch

    made = torch.Generator().manual_seed(rng.randrange(2**31))
    return scale * torch.randn(*shape, generator=made, dtype=torch.float64 if double else torch.float32)


def _ints(rng: Random, low: int, high: int, count: int) -> list[int]:
    return [rng.randint(low, high) for _ in range(count)]


# ---- lab 00


def _line_lengths(rng: Random) -> tuple:
    lines = [
        "".join(rng.choices("山水云月风花雪夜春秋江松", k=rng.randint(2, 9)))
        for _ in range(rng.randint(2, 8))
    ]
    return ("".join(line + rng.choice(("，", "。", "，\n", "。\n", "\n", "。\n\n")) for line in lines),)


def _is_quatrain(rng: Random) -> tuple:
    if rng.random() < 0.4:
        return ([5] * 4,)
    return (_ints(rng, 4, 7, rng.choice((3, 4, 4, 5, 8))),)


def _pass_rate(rng: Random) -> tuple:
    return ([rng.random() < 0.4 for _ in range(rng.randint(6, 40))],)


def _weight_gib(rng: Random) -> tuple:
    return rng.randint(10**7, 10**11), rng.choice((2, 3, 4, 4.127, 8, 16, 32))


# ---- lab 01


def _linear_params(rng: Random) -> tuple:
    return rng.randint(2, 9000), rng.randint(2, 9000), rng.random() < 0.5


def _hand_step(rng: Random) -> tuple:
    n, d_in, d_out = rng.randint(2, 9), rng.randint(2, 6), rng.randint(2, 6)
    shapes = ((n, d_in), (n, d_out), (d_out, d_in), (d_out,))
    return *(_normal(rng, *shape, double=True) for shape in shapes), rng.choice((0.03, 0.2, 0.7))


def _attention_params(rng: Random) -> tuple:
    kv = rng.choice((1, 2, 4, 8))
    return (
        rng.choice((96, 320, 1536, 5120)),
        kv * rng.randint(2, 8),
        kv,
        rng.choice((32, 80, 128)),
        rng.random() < 0.5,
    )


def _ffn_params(rng: Random) -> tuple:
    return rng.randint(16, 8192), rng.randint(16, 30000), rng.random() < 0.5


def _decoder_params(rng: Random) -> tuple:
    flags = [rng.random() < 0.5 for _ in range(3)]
    return rng.randint(1000, 200000), _attention_params(rng)[0], rng.randint(2, 60), *_heads(rng), *flags


def _heads(rng: Random) -> tuple:
    kv = rng.choice((1, 2, 4))
    return kv * rng.randint(2, 6), kv, rng.choice((48, 64, 128)), rng.randint(64, 20000)


def _moe_params(rng: Random) -> tuple:
    experts = rng.randint(4, 64)
    return rng.randint(64, 4096), rng.randint(64, 9000), experts, rng.randint(2, experts - 1)


# ---- lab 02


def _rank_k(rng: Random) -> tuple:
    m, n = rng.randint(4, 9), rng.randint(4, 9)
    return _normal(rng, m, n, double=True), rng.randint(2, min(m, n) - 1)


def _rank_for_energy(rng: Random) -> tuple:
    return _normal(rng, rng.randint(5, 40), double=True).abs().sort(descending=True).values, rng.uniform(
        0.3, 0.97
    )


def _als_user(rng: Random) -> tuple:
    import numpy as np

    made, items, k = np.random.default_rng(rng.randrange(2**31)), rng.randint(6, 20), rng.randint(2, 5)
    rated = made.random(items) < 0.6
    rated[:2] = True
    return (
        made.normal(0, 1, items) * rated,
        rated,
        made.normal(0, 1, (items, k)),
        rng.choice((0.05, 0.5, 3.0)),
    )


def _layer(rng: Random) -> tuple:
    """d_in, weight, A and B of a layer that isn't square."""
    d_in = rng.randint(5, 9)
    d_out, r = d_in + rng.randint(1, 3), rng.randint(2, 4)
    shapes = ((d_out, d_in), (r, d_in), (d_out, r))
    return d_in, *(_normal(rng, *shape, double=True) for shape in shapes)


def _lora_forward(rng: Random) -> tuple:
    d_in, weight, a, b = _layer(rng)
    bias = _normal(rng, weight.shape[0], double=True) if rng.random() < 0.7 else None
    return _normal(rng, rng.randint(2, 5), d_in, double=True), weight, bias, a, b, rng.randint(5, 32)


def _merged_weight(rng: Random) -> tuple:
    _, weight, a, b = _layer(rng)
    return weight, a, b, rng.randint(5, 32), rng.random() < 0.5


def _dora_weight(rng: Random) -> tuple:
    _, weight, a, b = _layer(rng)
    return weight, a, b, rng.randint(5, 32), _normal(rng, weight.shape[0], double=True).abs() + 0.3


def _lora_parameters(rng: Random) -> tuple:
    return rng.randint(64, 9000), rng.randint(64, 9000), rng.randint(2, 64)


# ---- lab 03


def _absmax_quantize(rng: Random) -> tuple:
    return _normal(rng, rng.randint(3, 6), rng.randint(5, 9), scale=0.03), rng.choice((3, 4, 5, 8))


def _block_absmax(rng: Random) -> tuple:
    return _normal(rng, rng.randint(2, 5), rng.randint(30, 90)), rng.choice((16, 32, 48))


def _normal_levels(rng: Random) -> tuple:
    return (rng.uniform(0.93, 0.99),)


def _nearest_codes(rng: Random) -> tuple:
    import torch

    steps = torch.tensor([rng.uniform(0.05, 0.3) for _ in range(16)])
    levels = steps.cumsum(0)
    levels = 2 * (levels - levels[0]) / (levels[-1] - levels[0]) - 1
    return _normal(rng, rng.randint(3, 6), rng.randint(7, 12), scale=0.4).clamp(-1, 1), levels


def _pack_nibbles(rng: Random) -> tuple:
    import torch

    return (torch.tensor(_ints(rng, 0, 15, rng.randint(9, 40)), dtype=torch.uint8),)


def _unpack_nibbles(rng: Random) -> tuple:
    import torch

    count = rng.randint(9, 40)
    return torch.tensor(_ints(rng, 0, 255, (count + 1) // 2), dtype=torch.uint8), count


def _bits_per_parameter(rng: Random) -> tuple:
    return rng.choice((16, 48, 96, 256, 512, 1024)), rng.random() < 0.5


def _training_parts(rng: Random) -> tuple:
    adapters = rng.randint(10**6, 10**8) if rng.random() < 0.6 else 0
    return rng.randint(10**8, 10**11), rng.choice((16, 8, 4.5)) if adapters else 16, adapters


# ---- lab 05


def _make_labels(rng: Random) -> tuple:
    prompt, answer = _ints(rng, 3, 99, rng.randint(2, 9)), _ints(rng, 3, 99, rng.randint(2, 9))
    return prompt, answer, 2, len(prompt) + len(answer) + rng.randint(-1, 6), 0


def _rows_without_labels(rng: Random) -> tuple:
    width = rng.randint(3, 6)
    return (
        [[-100] * width if rng.random() < 0.4 else [-100, *_ints(rng, 0, 50, width - 1)] for _ in range(9)],
    )


def _qlora_flags(rng: Random) -> tuple:
    return rng.randint(2, 128), rng.randint(130, 512)


def _optimizer_steps(rng: Random) -> tuple:
    return rng.randint(50, 5000), rng.randint(2, 16), rng.randint(2, 8), rng.randint(2, 5)


def _learning_rate_at(rng: Random) -> tuple:
    total = rng.randint(60, 400)
    return rng.randint(1, total - 1), total, rng.choice((1e-4, 3e-4, 2e-3)), rng.randint(3, total // 3)


def _paired_interval(rng: Random) -> tuple:
    before = [rng.gauss(0, 1) for _ in range(100)]
    gain = rng.uniform(-0.3, 0.3)
    return before, [score + rng.gauss(gain, 1) for score in before], rng.randrange(1000)


# ---- lab 08


def _sequence_logps(rng: Random) -> tuple:
    import torch

    rows, length, vocab = rng.randint(2, 4), rng.randint(4, 7), rng.randint(4, 8)
    labels = torch.tensor([_ints(rng, 0, vocab - 1, length) for _ in range(rows)])
    labels[:, : rng.randint(1, 2)] = -100
    labels[0, -1] = -100
    return _normal(rng, rows, length, vocab), labels


def _bradley_terry_loss(rng: Random) -> tuple:
    return tuple(_normal(rng, 5) for _ in range(2))


def _dpo_loss(rng: Random) -> tuple:
    return *_pairs_of_four(rng), rng.choice((0.05, 0.2, 0.4))


def _pairs_of_four(rng: Random) -> tuple:
    pairs = rng.randint(3, 7)
    return tuple(_normal(rng, pairs, scale=3.0) - 20 for _ in range(4))


def _ppo_clip_loss(rng: Random) -> tuple:
    rows, length = rng.randint(2, 4), rng.randint(3, 7)
    old = -_normal(rng, rows, length).abs()
    return (
        old + _normal(rng, rows, length, scale=0.5),
        old,
        _normal(rng, rows, length),
        rng.choice((0.1, 0.15, 0.3)),
    )


def _kl_k3(rng: Random) -> tuple:
    rows, length = rng.randint(2, 4), rng.randint(3, 7)
    return tuple(-_normal(rng, rows, length).abs() for _ in range(2))


# ---- lab 09


def _correctness_reward(rng: Random) -> tuple:
    texts, answers = [], []
    for _ in range(rng.randint(4, 8)):
        first, last = rng.randint(1, 60), rng.randint(1, 60)
        blocks = [f"<answer>{first}</answer>"] * (rng.random() < 0.4)
        blocks += [f"<answer>{rng.choice(('', ' ', chr(10)))}{last}</answer>"] * (rng.random() < 0.8)
        texts.append(f"{first} + {last}\n" + "再想想。".join(blocks))
        answers.append(str(rng.choice((first, last, last, last * 10))))
    return texts, answers


def _format_reward(rng: Random) -> tuple:
    good = "<reasoning>{} + {}</reasoning>\n<answer>{}</answer>"
    texts = []
    for _ in range(rng.randint(4, 8)):
        text = good.format(*_ints(rng, 1, 60, 3))
        bad = (
            text + "。",
            "答：" + text,
            text.replace("\n", " "),
            text.replace("</reasoning>", ""),
            text[8:],
        )
        texts.append(text if rng.random() < 0.5 else rng.choice(bad))
    return (texts,)


def _as_rewards(rng: Random) -> tuple:
    odd: tuple[Any, ...] = (None, float("nan"), float("inf"), float("-inf"), True, False)
    return (
        [rng.choice(odd) if rng.random() < 0.5 else rng.uniform(-3, 3) for _ in range(rng.randint(4, 9))],
    )


def _rewards(rng: Random, groups: int, size: int) -> list[float]:
    scores: list[float] = []
    for _ in range(groups):
        same = rng.random() < 0.3
        group = [rng.choice((0.0, 0.5, 2.0, 2.5)) for _ in range(size)]
        scores += [group[0]] * size if same else group
    return scores


def _group_advantages(rng: Random) -> tuple:
    import torch

    groups, size = rng.randint(2, 5), rng.randint(3, 6)
    return torch.tensor(_rewards(rng, groups, size)), size


def _prompts_per_step(rng: Random) -> tuple:
    group = rng.choice((2, 4, 8))
    return group * rng.randint(1, 3) // 2, rng.randint(1, 4), rng.randint(1, 4), group


def _grpo_loss(rng: Random) -> tuple:
    import torch

    rows, width = rng.randint(2, 4), rng.randint(5, 8)
    lengths = torch.tensor(_ints(rng, 1, width, rows)).unsqueeze(1)
    old = -_normal(rng, rows, width).abs()
    logps = old + _normal(rng, rows, width, scale=0.5)
    mask = (torch.arange(width) < lengths).float()
    return logps, old, _normal(rng, rows), mask, rng.choice((0.1, 0.2, 0.3))


# ---- lab 10


def _kind_of(rng: Random) -> tuple:
    shards = rng.randint(2, 4)
    weights = [f"model-0000{i + 1}-of-0000{shards}.safetensors" for i in range(shards)]
    names = rng.choice(
        (
            ["adapter_config.json", "adapter_model.safetensors", "trainer_state.json"],
            ["adapter_config.json", "optimizer.pt", "args.json"],
            ["config.json", "tokenizer.json", "generation_config.json", *weights],
            ["config.json", "tokenizer.json", "vocab.json"],
            ["config.json", *weights],
            ["args.json", "logging.jsonl", f"checkpoint-{rng.randint(2, 900)}", "val_dataset.jsonl"],
            ["args.json", "logging.jsonl", "images"],
        )
    )
    return (rng.sample(names, len(names)),)


def _merge_state(rng: Random) -> tuple:
    r, base, adapter = rng.randint(2, 5), {"model.norm.weight": _normal(rng, 4, double=True)}, {}
    for layer in range(rng.randint(1, 3)):
        name, d_out, d_in = f"model.layers.{layer}.mlp.up_proj", rng.randint(3, 7), rng.randint(3, 7)
        base[f"{name}.weight"] = _normal(rng, d_out, d_in, double=True)
        if layer != 1:
            adapter[f"base_model.model.{name}.lora_A.weight"] = _normal(rng, r, d_in, double=True)
            adapter[f"base_model.model.{name}.lora_B.weight"] = _normal(rng, d_out, r, double=True)
    return base, adapter, r, float(rng.choice((3, 7, 16)))


def _drift(rng: Random) -> tuple:
    rows, vocab = rng.randint(2, 6), rng.randint(4, 9)
    reference = 2 * _normal(rng, rows, vocab, double=True)
    return reference, reference + rng.choice((0.05, 0.5, 2.0)) * _normal(rng, rows, vocab, double=True)


def _first_difference(rng: Random) -> tuple:
    same, rest = _ints(rng, 3, 50, rng.randint(1, 8)), _ints(rng, 3, 50, rng.randint(2, 4))
    other = [token + 1 for token in rest]
    return rng.choice(
        ((same + rest, same + other), (same, same + rest), (same + rest, same), (same, list(same)))
    )


def _chatml(rng: Random) -> tuple:
    words = ("你好", "写一首诗", "1+1=?", "第一行\n第二行", " 空格 ", "秋夜")
    system = [{"role": "system", "content": rng.choice(words)}] if rng.random() < 0.5 else []
    turns = [
        {"role": ("user", "assistant")[i % 2], "content": rng.choice(words)}
        for i in range(rng.choice((1, 3, 5)))
    ]
    return (system + turns,)


def _missing_shards(rng: Random) -> tuple:
    shards = rng.randint(3, 6)
    files = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    tensors = {
        f"model.layers.{i}.{kind}.weight": files[i % shards]
        for i in range(2 * shards)
        for kind in ("up", "down")
    }
    there = [file for file in files if rng.random() < 0.6]
    return {"metadata": {"total_size": 96}, "weight_map": tensors}, ["config.json", *reversed(there)]


# ---- lab 11


def _request_body(rng: Random) -> tuple:
    return (
        rng.choice(("poet", "qwen", "judge")),
        f"题目 {rng.randint(1, 99)}",
        rng.randint(8, 512),
        rng.choice((None, True, False)),
    )


def _stream_text(rng: Random) -> tuple:
    if rng.random() < 0.2:
        return ("data: [DONE]",)
    delta = rng.choice(
        (
            {"content": rng.choice(("月", " ", "\n", "a b", '"引号"'))},
            {"role": "assistant"},
            {"content": None},
        )
    )
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return (
        "data: "
        + json.dumps(
            {"object": "chat.completion.chunk", "choices": [choice]}, ensure_ascii=rng.random() < 0.5
        ),
    )


def _length_tokens(rng: Random) -> tuple:
    return (
        rng.choice(
            (
                f"{rng.randint(1, 200)}k",
                f"{rng.randint(1, 200)}K",
                f"{rng.randint(100, 9999)}",
                f"{rng.randint(1, 99)}.5k",
            )
        ),
    )


def _first_and_gap(rng: Random) -> tuple:
    sent = rng.randint(0, 40) / 8
    times = [sent]
    for _ in range(rng.randint(2, 9)):
        times.append(times[-1] + rng.randint(1, 12) / 16)
    return sent, times[1:]


def _percentile(rng: Random) -> tuple:
    return [rng.randint(1, 10**6) / 8 for _ in range(rng.choice((9, 13, 21, 33)))], rng.choice(
        (25, 50, 90, 95, 99)
    )


def _continuous_steps(rng: Random) -> tuple:
    return _ints(rng, 1, 30, rng.randint(6, 15)), rng.randint(2, 4)


def _kv_bytes_per_token(rng: Random) -> tuple:
    return rng.randint(4, 80), rng.randint(2, 16), rng.choice((64, 80, 96, 128)), rng.choice((1, 2, 4))


def _blocks_needed(rng: Random) -> tuple:
    return _ints(rng, 1, 200, rng.randint(4, 12)), rng.choice((8, 16, 32))


GENERATORS = {
    "line_lengths": _line_lengths,
    "is_quatrain": _is_quatrain,
    "pass_rate": _pass_rate,
    "weight_gib": _weight_gib,
    "linear_params": _linear_params,
    "hand_step": _hand_step,
    "attention_params": _attention_params,
    "ffn_params": _ffn_params,
    "decoder_params": _decoder_params,
    "moe_params": _moe_params,
    "rank_k": _rank_k,
    "rank_for_energy": _rank_for_energy,
    "als_user": _als_user,
    "lora_forward": _lora_forward,
    "merged_weight": _merged_weight,
    "dora_weight": _dora_weight,
    "lora_parameters": _lora_parameters,
    "absmax_quantize": _absmax_quantize,
    "block_absmax": _block_absmax,
    "normal_levels": _normal_levels,
    "nearest_codes": _nearest_codes,
    "pack_nibbles": _pack_nibbles,
    "unpack_nibbles": _unpack_nibbles,
    "bits_per_parameter": _bits_per_parameter,
    "training_parts": _training_parts,
    "make_labels": _make_labels,
    "rows_without_labels": _rows_without_labels,
    "qlora_flags": _qlora_flags,
    "optimizer_steps": _optimizer_steps,
    "learning_rate_at": _learning_rate_at,
    "paired_interval": _paired_interval,
    "sequence_logps": _sequence_logps,
    "bradley_terry_loss": _bradley_terry_loss,
    "dpo_loss": _dpo_loss,
    "ppo_clip_loss": _ppo_clip_loss,
    "kl_k3": _kl_k3,
    "correctness_reward": _correctness_reward,
    "format_reward": _format_reward,
    "as_rewards": _as_rewards,
    "group_advantages": _group_advantages,
    "prompts_per_step": _prompts_per_step,
    "grpo_loss": _grpo_loss,
    "kind_of": _kind_of,
    "merge_state": _merge_state,
    "drift": _drift,
    "first_difference": _first_difference,
    "chatml": _chatml,
    "missing_shards": _missing_shards,
    "request_body": _request_body,
    "stream_text": _stream_text,
    "length_tokens": _length_tokens,
    "first_and_gap": _first_and_gap,
    "percentile": _percentile,
    "continuous_steps": _continuous_steps,
    "kv_bytes_per_token": _kv_bytes_per_token,
    "blocks_needed": _blocks_needed,
    "reward_stats": _dpo_loss,
    "frac_reward_zero_std": _group_advantages,
}
"""Exercise -> generator of arguments."""
