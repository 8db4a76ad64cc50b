"""Every check of lab 03 accepts right answers in several spellings and rejects each known mistake by name."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from lab_utils import params, quant, vram
from lab_utils.checks import Check, quantization
from tests.checks.kit import assert_check


def quantize_number_by_number(weights, bits):
    top = 2 ** (bits - 1) - 1
    largest = max(abs(x) for x in weights.flatten().tolist())
    if largest == 0:
        return torch.zeros(weights.shape, dtype=torch.int8), 0
    codes = [round(x * top / largest) for x in weights.flatten().tolist()]
    return torch.tensor(codes, dtype=torch.int8).view(weights.shape), largest / top


def quantize_by_the_package(weights, bits):
    quantized = quant.quantize_int(weights, bits)
    return [quantized.codes.view(weights.shape), np.float32(quantized.absmax[0]) / (2 ** (bits - 1) - 1)]


def block_by_block(weights, block_size):
    flat = weights.flatten()
    return torch.stack([flat[i : i + block_size].abs().max() for i in range(0, len(flat), block_size)])


def levels_by_scipy(offset):
    positive = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    negative = norm.ppf(np.linspace(1 - offset, 0.5, 8)[:-1])
    return (np.sort([*positive, 0, *negative]) / positive[0]).tolist()


def levels_in_float32(offset):
    positive = norm.ppf(torch.linspace(offset, 0.5, 9)[:-1].numpy())
    negative = -norm.ppf(torch.linspace(offset, 0.5, 8)[:-1].numpy())
    return tuple(np.float32(x) for x in sorted([*negative, 0, *positive] / positive.max()))


def nearest_by_distance(scaled, levels):
    return (scaled.unsqueeze(-1) - levels).abs().argmin(-1).to(torch.uint8)


def nearest_by_counting(scaled, levels):
    middles = (levels[:-1] + levels[1:]) / 2
    return (scaled.unsqueeze(-1) > middles).sum(-1).byte()


def pack_by_arithmetic(codes):
    numbers = codes.tolist() + [7] * (len(codes) % 2)
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return torch.tensor([16 * high + low for high, low in pairs], dtype=torch.uint8)


def pack_by_view(codes):
    if len(codes) % 2:
        codes = torch.nn.functional.pad(codes, (0, 1), value=7)
    pairs = codes.view(-1, 2)
    return pairs[:, 0] * 16 + pairs[:, 1]


def unpack_in_place(packed, count):
    out = torch.empty(2 * len(packed), dtype=torch.uint8)
    out[0::2], out[1::2] = packed // 16, packed % 16
    return out[:count]


def unpack_number_by_number(packed, count):
    numbers = [half for byte in packed.tolist() for half in divmod(byte, 16)]
    return torch.tensor(numbers[:count], dtype=torch.uint8)


def bits_of_a_block(block_size, double):
    whole = 4 * block_size + (8 + 32 / 256 if double else 32)
    return whole / block_size


def bits_as_one_sum(block_size, double):
    return np.float64(4 + 32 / block_size) if not double else 4 + (8 * 256 + 32) / (256 * block_size)


def parts_by_branches(parameters, weight_bits, adapters):
    weights = parameters * weight_bits / 8e9
    if adapters == 0:
        moving = parameters * 2 / 1e9
        return {"weights": weights, "adapters": 0, "gradients": moving, "optimizer": moving + moving}
    own = adapters * 32 / 8e9
    return {"optimizer": 2 * own, "gradients": own, "adapters": own, "weights": weights}


def parts_in_numpy(parameters, weight_bits, adapters):
    count, size = (adapters, 4) if adapters else (parameters, 2)
    numbers = np.array([parameters * weight_bits / 8, adapters * 4, count * size, count * size * 2]) / 1e9
    return dict(zip(("weights", "adapters", "gradients", "optimizer"), numbers, strict=True))


ACCEPTED = {
    quantization.ABSMAX_QUANTIZE: [quantize_number_by_number, quantize_by_the_package],
    quantization.BLOCK_ABSMAX: [block_by_block, lambda w, b: quant.quantize_int(w, 8, b).absmax],
    quantization.NORMAL_LEVELS: [levels_by_scipy, levels_in_float32],
    quantization.NEAREST_CODES: [nearest_by_distance, nearest_by_counting],
    quantization.PACK_NIBBLES: [pack_by_arithmetic, pack_by_view],
    quantization.UNPACK_NIBBLES: [unpack_in_place, unpack_number_by_number],
    quantization.BITS_PER_PARAMETER: [bits_of_a_block, bits_as_one_sum],
    quantization.TRAINING_PARTS: [parts_by_branches, parts_in_numpy],
}


@pytest.mark.parametrize("check", ACCEPTED, ids=lambda check: check.name)
def test_accepts_right_answers_and_names_mistakes(check):
    assert_check(check, ACCEPTED[check])


def test_every_check_is_tested():
    assert {value for value in vars(quantization).values() if isinstance(value, Check)} == set(ACCEPTED)


def test_static_parts_are_those_of_the_memory_calculator():
    """What the student counts for full training and LoRA is what `vram` counts, to the byte."""
    for method, adapters in (
        ("full", 0),
        ("lora", params.lora_count("Qwen2.5-7B-Instruct", 8, "all-linear")),
    ):
        held = vram.estimate("Qwen2.5-7B-Instruct", method, r=8).static
        ours = quantization.training_parts(7_615_616_512, 16, adapters)
        theirs = (held["weights"], held.get("adapters", 0), held["gradients"], held["optimizer states"])
        assert [round(1e9 * part) for part in ours.values()] == list(theirs)
