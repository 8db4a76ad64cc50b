"""What can't be quantized is refused, with where it is."""

import pytest
import torch

from lab_utils import quant
from tests.quant.weights import normal

QUANTIZERS = [quant.quantize_nf4, quant.quantize_int, quant.quantize_scales]


@pytest.mark.parametrize("quantize", QUANTIZERS)
def test_refuses_what_is_no_float_tensor(quantize):
    with pytest.raises(TypeError, match="list"):
        quantize([1.0, 2.0])
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.float64, torch.complex64):
        with pytest.raises(TypeError, match=str(dtype)):
            quantize(torch.ones(64, dtype=dtype))


@pytest.mark.parametrize("quantize", QUANTIZERS)
def test_refuses_an_empty_tensor(quantize):
    with pytest.raises(ValueError, match=r"空的 \(empty\)，形状 \(0,\)"):
        quantize(torch.empty(0))


@pytest.mark.parametrize("quantize", [quant.quantize_nf4, quant.quantize_int])
def test_says_how_many_weights_are_not_finite_and_where(quantize):
    weight = normal(10, 64)
    weight[3, 5] = weight[7, 0] = float("nan")
    weight[9, 63] = float("-inf")
    with pytest.raises(ValueError, match=r"2 个 NaN、1 个无穷大 \(inf\)，第一个在位置 \(3, 5\)"):
        quantize(weight)
    only_inf = torch.zeros(70)
    only_inf[69] = float("inf")
    with pytest.raises(ValueError, match=r"0 个 NaN、1 个无穷大 \(inf\)，第一个在位置 \(69,\)"):
        quantize(only_inf.to(torch.bfloat16))


def test_scales_that_are_not_finite_are_refused():
    absmax = torch.ones(300)
    absmax[299] = float("nan")
    with pytest.raises(ValueError, match=r"1 个 NaN、0 个无穷大 \(inf\)，第一个在位置 \(299,\)"):
        quant.quantize_scales(absmax)
    with pytest.raises(ValueError, match="一维"):
        quant.quantize_scales(torch.ones(2, 2))


@pytest.mark.parametrize("block_size", [0, -64, 1, 3, 48, 63, 100])
def test_refuses_a_block_size_that_is_no_power_of_two(block_size):
    with pytest.raises(ValueError, match=f"2 的幂.*收到 {block_size}。"):
        quant.quantize_nf4(torch.ones(64), block_size)


@pytest.mark.parametrize("block_size", [64.0, "64", True, None])
def test_refuses_a_block_size_that_is_no_integer(block_size):
    with pytest.raises(TypeError, match="应是整数"):
        quant.quantize_nf4(torch.ones(64), block_size)
