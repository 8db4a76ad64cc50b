"""Absmax integers, by bitsandbytes and by their definition."""

import pytest
import torch
from bitsandbytes import functional

from lab_utils import quant
from tests.quant.weights import normal


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_int8_per_row_equals_bitsandbytes(dtype):
    weight = normal(64, 96).to(dtype)
    codes, absmax, _ = functional.int8_vectorwise_quant(weight)
    ours = quant.quantize_int(weight, 8, "row")
    assert torch.equal(ours.codes.view(64, 96), codes) and torch.equal(ours.absmax, absmax)


@pytest.mark.parametrize("block", ["tensor", "row", 32, 1000])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_integers_miss_by_half_a_step_at_most(bits, block):
    weight = normal(24, 50)
    quantized = quant.quantize_int(weight, bits, block)
    size = {"tensor": 1200, "row": 50}.get(block, block)
    step = quantized.absmax.repeat_interleave(size)[:1200].view(24, 50) / (2 ** (bits - 1) - 1)
    error = (quant.dequantize_int(quantized) - weight).abs()
    assert (error <= step / 2 * 1.00001).all()
    assert quantized.codes.abs().max() == 2 ** (bits - 1) - 1


def test_integers_keep_shape_and_dtype():
    weight = normal(3, 4, 5).to(torch.bfloat16)
    back = quant.dequantize_int(quant.quantize_int(weight, 8, 7))
    assert back.shape == weight.shape and back.dtype == torch.bfloat16


def test_more_bits_and_smaller_blocks_err_less():
    weight = normal(128, 128)
    weight[0, 0] = 30.0
    schemes = [(4, "tensor"), (4, "row"), (4, 64), (8, "tensor"), (8, "row"), (8, 64)]
    errors = [
        quant.relative_error(weight, quant.dequantize_int(quant.quantize_int(weight, *s))) for s in schemes
    ]
    assert errors[0] > errors[1] > errors[2] > errors[3] > errors[4] > errors[5] > 0


def test_refuses_other_bits_and_blocks_for_integers():
    for bits in (1, 9, 4.5):
        with pytest.raises(ValueError, match="位数"):
            quant.quantize_int(torch.ones(4), bits)
    for block in (0, -1, "column", 2.0):
        with pytest.raises(ValueError, match="'tensor'、'row' 或正整数"):
            quant.quantize_int(torch.ones(4), 8, block)
