"""NF4 and double quantization against bitsandbytes: the same codes and scales, bit for bit."""

import pytest
import torch
from bitsandbytes import functional

from lab_utils import models, quant
from lab_utils.linear_layers import linear_weights
from lab_utils.quant import nf4
from tests.quant.weights import normal


def _assert_equal_to_bitsandbytes(weight):
    """Codes, scales, and the weights that come back; the quantized tensor."""
    ours = quant.quantize_nf4(weight)
    codes, state = functional.quantize_nf4(weight)
    assert torch.equal(ours.codes, codes.view(-1))
    assert torch.equal(ours.absmax, state.absmax)
    theirs = functional.dequantize_nf4(codes, state).reshape(weight.shape)
    assert torch.equal(quant.dequantize_nf4(ours), theirs)
    return ours


def _assert_double_equal_to_bitsandbytes(weight):
    """The scales in 8 bits, and the weights that come back from them."""
    ours = quant.quantize_nf4(weight)
    double = quant.quantize_scales(ours.absmax)
    codes, state = functional.quantize_nf4(weight, compress_statistics=True)
    assert torch.equal(double.codes, state.absmax)
    assert torch.equal(double.absmax, state.state2.absmax)
    assert torch.equal(double.offset, state.offset)
    nested = quant.QuantizedNF4(ours.codes, quant.dequantize_scales(double), ours.shape, ours.dtype)
    theirs = functional.dequantize_nf4(codes, state).reshape(weight.shape)
    assert torch.equal(quant.dequantize_nf4(nested), theirs)


def test_the_levels_are_those_of_bitsandbytes():
    assert torch.equal(quant.nf4_levels(), functional.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(quant.dynamic_levels(), functional.create_dynamic_map())


def test_the_levels_can_be_changed_without_harm():
    quant.nf4_levels().zero_()
    assert quant.nf4_levels()[-1] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_shipped_model_equals_bitsandbytes(dtype):
    model, _ = models.load(models.SHIPPED)
    weights = linear_weights(model)
    assert len(weights) == 6 * 7 and sum(w.numel() for w in weights.values()) == 4_718_592
    for weight in [*weights.values(), model.lm_head.weight]:
        _assert_equal_to_bitsandbytes(weight.detach().to(dtype))
        _assert_double_equal_to_bitsandbytes(weight.detach().to(dtype))


@pytest.mark.slow
def test_smollm2_equals_bitsandbytes():
    """Every linear weight as it is stored, in bfloat16, and one layer of them in float32 as well."""
    model, _ = models.load("SmolLM2-135M-Instruct", dtype="bfloat16")
    weights = linear_weights(model)
    assert len(weights) == 30 * 7 and sum(w.numel() for w in weights.values()) == 106_168_320
    for name, weight in weights.items():
        ours = _assert_equal_to_bitsandbytes(weight.detach())
        double = quant.quantize_scales(ours.absmax)
        codes, state = functional.quantize_blockwise(ours.absmax - ours.absmax.mean(), blocksize=256)
        assert torch.equal(double.codes, codes) and torch.equal(double.absmax, state.absmax)
        if ".layers.7." in name:
            _assert_equal_to_bitsandbytes(weight.detach().float())


@pytest.mark.parametrize(
    "shape", [(1,), (5,), (64,), (67,), (7, 50), (3, 33), (2, 3, 40), (1, 128), (300, 7)], ids=str
)
def test_short_last_block_and_odd_count_equal_bitsandbytes(shape):
    _assert_equal_to_bitsandbytes(normal(*shape))
    _assert_double_equal_to_bitsandbytes(normal(*shape))


@pytest.mark.parametrize("block_size", [32, 64, 128, 256, 512, 1024, 2048, 4096])
def test_every_block_size_of_bitsandbytes(block_size):
    weight = normal(10_000)
    ours = quant.quantize_nf4(weight, block_size)
    codes, state = functional.quantize_nf4(weight, blocksize=block_size)
    assert torch.equal(ours.codes, codes.view(-1)) and torch.equal(ours.absmax, state.absmax)
    theirs = functional.dequantize_nf4(codes, state).reshape(-1)
    assert torch.equal(quant.dequantize_nf4(ours), theirs)


def test_blocks_that_straddle_rows():
    """bitsandbytes' AVX-512 kernel takes wrong scales for such a matrix, but right ones for the flat tensor."""
    weight = normal(4, 96)
    flat = functional.dequantize_nf4(*functional.quantize_nf4(weight.view(-1)))
    assert torch.equal(quant.dequantize_nf4(quant.quantize_nf4(weight)), flat.view(4, 96))


def test_work_in_chunks_changes_nothing(monkeypatch):
    weight = normal(1000, 7)
    whole = quant.quantize_nf4(weight)
    monkeypatch.setattr(nf4, "_CHUNK", 128)
    parts = quant.quantize_nf4(weight)
    assert torch.equal(parts.codes, whole.codes) and torch.equal(parts.absmax, whole.absmax)
    in_parts = quant.dequantize_nf4(whole)
    monkeypatch.undo()
    assert torch.equal(in_parts, quant.dequantize_nf4(whole))


def test_blocks_of_zeros_come_back_as_zeros():
    for weight in (torch.zeros(64), torch.zeros(10), torch.zeros(130)):
        _assert_equal_to_bitsandbytes(weight)
        _assert_double_equal_to_bitsandbytes(weight)
        assert not quant.dequantize_nf4(quant.quantize_nf4(weight)).any()
        for block in ("tensor", "row", 3):
            assert not quant.dequantize_int(quant.quantize_int(weight, 4, block)).any()


def test_tiny_blocks_equal_bitsandbytes():
    _assert_equal_to_bitsandbytes(normal(200) * 1e-37)


def test_a_transposed_weight_is_read_in_its_logical_order():
    weight = normal(48, 80)
    ours, copy = quant.quantize_nf4(weight.t()), quant.quantize_nf4(weight.t().contiguous())
    assert torch.equal(ours.codes, copy.codes) and ours.shape == (80, 48)
    assert torch.equal(quant.dequantize_nf4(ours), quant.dequantize_nf4(copy))


def test_a_parameter_is_left_as_it_was():
    weight = torch.nn.Parameter(normal(8, 64))
    before = weight.detach().clone()
    back = quant.dequantize_nf4(quant.quantize_nf4(weight))
    assert torch.equal(weight.detach(), before) and not back.requires_grad


def test_a_value_midway_gets_the_lower_level():
    levels = quant.nf4_levels()
    middles = (levels[:-1] + levels[1:]) / 2
    codes = quant.unpack(quant.quantize_nf4(torch.cat([middles, torch.ones(1)])).codes, 16)
    assert codes.tolist() == [*range(15), 15]


def test_refuses_codes_that_do_not_fit_the_shape():
    good = quant.quantize_nf4(normal(3, 50))
    with pytest.raises(ValueError, match="应有 75 个字节.*3 个 absmax，却有 74 和 3"):
        quant.QuantizedNF4(good.codes[:-1], good.absmax, good.shape, good.dtype)
    with pytest.raises(ValueError, match="却有 75 和 2"):
        quant.QuantizedNF4(good.codes, good.absmax[:-1], good.shape, good.dtype)


def test_nf4_errs_less_than_int4_on_normal_weights():
    weight = normal(512, 512)
    nf4 = quant.relative_error(weight, quant.dequantize_nf4(quant.quantize_nf4(weight)))
    int4 = quant.relative_error(weight, quant.dequantize_int(quant.quantize_int(weight, 4, 64)))
    assert 0.08 < nf4 < 0.1 < int4
