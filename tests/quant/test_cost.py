"""Bits for each parameter, and the relative error."""

import pytest
import torch

from lab_utils import quant
from tests.quant.weights import normal


def test_bits_per_parameter_are_those_of_the_paper():
    assert quant.bits_per_parameter() == 4.5
    assert quant.bits_per_parameter(double=True) == 4 + 8 / 64 + 32 / (64 * 256)
    assert round(quant.bits_per_parameter(double=True) - 4, 3) == 0.127


def test_bits_stored_equal_the_formula():
    weight = normal(256, 256)
    stored = quant.quantize_nf4(weight)
    assert stored.bits_per_parameter == quant.bits_per_parameter()
    assert quant.quantize_int(weight, 8, 128).bits_per_parameter == quant.bits_per_parameter(8, 128)
    double = quant.quantize_scales(stored.absmax)
    bits = 8 * (stored.codes.nbytes + double.nbytes - double.offset.nbytes) / weight.numel()
    assert bits == quant.bits_per_parameter(double=True)


def test_relative_error():
    weight = torch.tensor([3.0, 4.0])
    assert quant.relative_error(weight, weight) == 0
    assert quant.relative_error(weight, torch.tensor([3.0, 3.0])) == pytest.approx(1 / 5)
    with pytest.raises(ValueError, match="形状"):
        quant.relative_error(weight, weight.view(2, 1))
    with pytest.raises(ValueError, match="全是 0"):
        quant.relative_error(torch.zeros(2), weight)
