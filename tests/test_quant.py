"""Quantization from scratch against bitsandbytes: the same codes and scales, bit for bit."""

import importlib.util
from pathlib import Path

import pytest
import torch
from bitsandbytes import functional

from lab_utils import models, quant


@pytest.fixture(autouse=True)
def eager():
    """bitsandbytes compiles its dequantization of odd shapes and large blocks; it is right without, and sooner."""
    with torch.compiler.set_stance("force_eager"):
        yield


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


# --- tables ---


def test_the_levels_are_those_of_bitsandbytes():
    assert torch.equal(quant.nf4_levels(), functional.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(quant.dynamic_levels(), functional.create_dynamic_map())


def test_the_levels_can_be_changed_without_harm():
    quant.nf4_levels().zero_()
    assert quant.nf4_levels()[-1] == 1


# --- NF4 on every linear weight of the course's models ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_shipped_model_equals_bitsandbytes(dtype):
    model, _ = models.load(models.SHIPPED)
    weights = quant.linear_weights(model)
    assert len(weights) == 6 * 7 and sum(w.numel() for w in weights.values()) == 4_718_592
    for weight in [*weights.values(), model.lm_head.weight]:
        _assert_equal_to_bitsandbytes(weight.detach().to(dtype))
        _assert_double_equal_to_bitsandbytes(weight.detach().to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_smollm2_equals_bitsandbytes(dtype):
    model, _ = models.load("SmolLM2-135M-Instruct", dtype=str(dtype).removeprefix("torch."))
    weights = quant.linear_weights(model)
    assert len(weights) == 30 * 7 and sum(w.numel() for w in weights.values()) == 106_168_320
    for weight in weights.values():
        ours = _assert_equal_to_bitsandbytes(weight.detach())
        double = quant.quantize_scales(ours.absmax)
        codes, state = functional.quantize_blockwise(ours.absmax - ours.absmax.mean(), blocksize=256)
        assert torch.equal(double.codes, codes) and torch.equal(double.absmax, state.absmax)


# --- shapes, blocks, storage ---


@pytest.mark.parametrize(
    "shape", [(1,), (5,), (64,), (67,), (7, 50), (3, 33), (2, 3, 40), (1, 128), (300, 7)], ids=str
)
def test_short_last_block_and_odd_count_equal_bitsandbytes(shape):
    _assert_equal_to_bitsandbytes(_randn(*shape))
    _assert_double_equal_to_bitsandbytes(_randn(*shape))


@pytest.mark.parametrize("block_size", [32, 64, 128, 256, 512, 1024, 2048, 4096])
def test_every_block_size_of_bitsandbytes(block_size):
    weight = _randn(10_000)
    ours = quant.quantize_nf4(weight, block_size)
    codes, state = functional.quantize_nf4(weight, blocksize=block_size)
    assert torch.equal(ours.codes, codes.view(-1)) and torch.equal(ours.absmax, state.absmax)
    theirs = functional.dequantize_nf4(codes, state).reshape(-1)
    assert torch.equal(quant.dequantize_nf4(ours), theirs)


def test_blocks_that_straddle_rows():
    """bitsandbytes' AVX-512 kernel takes wrong scales for such a matrix, but right ones for the flat tensor."""
    weight = _randn(4, 96)
    flat = functional.dequantize_nf4(*functional.quantize_nf4(weight.view(-1)))
    assert torch.equal(quant.dequantize_nf4(quant.quantize_nf4(weight)), flat.view(4, 96))


def test_work_in_chunks_changes_nothing(monkeypatch):
    weight = _randn(1000, 7)
    whole = quant.quantize_nf4(weight)
    monkeypatch.setattr(quant, "_CHUNK", 128)
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
    _assert_equal_to_bitsandbytes(_randn(200) * 1e-37)


def test_a_transposed_weight_is_read_in_its_logical_order():
    weight = _randn(48, 80)
    ours, copy = quant.quantize_nf4(weight.t()), quant.quantize_nf4(weight.t().contiguous())
    assert torch.equal(ours.codes, copy.codes) and ours.shape == (80, 48)
    assert torch.equal(quant.dequantize_nf4(ours), quant.dequantize_nf4(copy))


def test_a_parameter_is_left_as_it_was():
    weight = torch.nn.Parameter(_randn(8, 64))
    before = weight.detach().clone()
    back = quant.dequantize_nf4(quant.quantize_nf4(weight))
    assert torch.equal(weight.detach(), before) and not back.requires_grad


def test_a_value_midway_gets_the_lower_level():
    levels = quant.nf4_levels()
    middles = (levels[:-1] + levels[1:]) / 2
    codes = quant.unpack(quant.quantize_nf4(torch.cat([middles, torch.ones(1)])).codes, 16)
    assert codes.tolist() == [*range(15), 15]


# --- packing ---


def test_packing_puts_the_first_code_into_the_high_half():
    assert quant.pack(torch.tensor([1, 2, 15, 0], dtype=torch.uint8)).tolist() == [0x12, 0xF0]
    assert quant.pack(torch.tensor([9], dtype=torch.uint8)).tolist() == [0x97]


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_unpack_is_the_inverse_of_pack(count):
    codes = torch.randint(0, 16, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    assert torch.equal(quant.unpack(quant.pack(codes), count), codes)


def test_unpack_refuses_more_than_there_is():
    with pytest.raises(ValueError, match="取不出 5 个"):
        quant.unpack(torch.zeros(2, dtype=torch.uint8), 5)


# --- bits ---


def test_bits_per_parameter_are_those_of_the_paper():
    assert quant.bits_per_parameter() == 4.5
    assert quant.bits_per_parameter(double=True) == 4 + 8 / 64 + 32 / (64 * 256)
    assert round(quant.bits_per_parameter(double=True) - 4, 3) == 0.127


def test_bits_stored_equal_the_formula():
    weight = _randn(256, 256)
    stored = quant.quantize_nf4(weight)
    assert stored.bits_per_parameter == quant.bits_per_parameter()
    assert quant.quantize_int(weight, 8, 128).bits_per_parameter == quant.bits_per_parameter(8, 128)
    double = quant.quantize_scales(stored.absmax)
    bits = 8 * (stored.codes.nbytes + double.nbytes - double.offset.nbytes) / weight.numel()
    assert bits == quant.bits_per_parameter(double=True)


# --- integers ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_int8_per_row_equals_bitsandbytes(dtype):
    weight = _randn(64, 96).to(dtype)
    codes, absmax, _ = functional.int8_vectorwise_quant(weight)
    ours = quant.quantize_int(weight, 8, "row")
    assert torch.equal(ours.codes.view(64, 96), codes) and torch.equal(ours.absmax, absmax)


@pytest.mark.parametrize("block", ["tensor", "row", 32, 1000])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_integers_miss_by_half_a_step_at_most(bits, block):
    weight = _randn(24, 50)
    quantized = quant.quantize_int(weight, bits, block)
    size = {"tensor": 1200, "row": 50}.get(block, block)
    step = quantized.absmax.repeat_interleave(size)[:1200].view(24, 50) / (2 ** (bits - 1) - 1)
    error = (quant.dequantize_int(quantized) - weight).abs()
    assert (error <= step / 2 * 1.00001).all()
    assert quantized.codes.abs().max() == 2 ** (bits - 1) - 1


def test_integers_keep_shape_and_dtype():
    weight = _randn(3, 4, 5).to(torch.bfloat16)
    back = quant.dequantize_int(quant.quantize_int(weight, 8, 7))
    assert back.shape == weight.shape and back.dtype == torch.bfloat16


def test_more_bits_and_smaller_blocks_err_less():
    weight = _randn(128, 128)
    weight[0, 0] = 30.0
    schemes = [(4, "tensor"), (4, "row"), (4, 64), (8, "tensor"), (8, "row"), (8, 64)]
    errors = [
        quant.relative_error(weight, quant.dequantize_int(quant.quantize_int(weight, *s))) for s in schemes
    ]
    assert errors[0] > errors[1] > errors[2] > errors[3] > errors[4] > errors[5] > 0


def test_nf4_errs_less_than_int4_on_normal_weights():
    weight = _randn(512, 512)
    nf4 = quant.relative_error(weight, quant.dequantize_nf4(quant.quantize_nf4(weight)))
    int4 = quant.relative_error(weight, quant.dequantize_int(quant.quantize_int(weight, 4, 64)))
    assert 0.08 < nf4 < 0.1 < int4


def test_relative_error():
    weight = torch.tensor([3.0, 4.0])
    assert quant.relative_error(weight, weight) == 0
    assert quant.relative_error(weight, torch.tensor([3.0, 3.0])) == pytest.approx(1 / 5)
    with pytest.raises(ValueError, match="形状"):
        quant.relative_error(weight, weight.view(2, 1))
    with pytest.raises(ValueError, match="全是 0"):
        quant.relative_error(torch.zeros(2), weight)


# --- what is refused ---

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
    weight = _randn(10, 64)
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


def test_refuses_other_bits_and_blocks_for_integers():
    for bits in (1, 9, 4.5):
        with pytest.raises(ValueError, match="位数"):
            quant.quantize_int(torch.ones(4), bits)
    for block in (0, -1, "column", 2.0):
        with pytest.raises(ValueError, match="'tensor'、'row' 或正整数"):
            quant.quantize_int(torch.ones(4), 8, block)


def test_refuses_codes_that_do_not_fit_the_shape():
    good = quant.quantize_nf4(_randn(3, 50))
    with pytest.raises(ValueError, match="应有 75 个字节.*3 个 absmax，却有 74 和 3"):
        quant.QuantizedNF4(good.codes[:-1], good.absmax, good.shape, good.dtype)
    with pytest.raises(ValueError, match="却有 75 和 2"):
        quant.QuantizedNF4(good.codes, good.absmax[:-1], good.shape, good.dtype)


# --- speed ---


def test_not_much_slower_than_bitsandbytes():
    path = Path(__file__).parent / "benchmarks" / "bench_nf4.py"
    spec = importlib.util.spec_from_file_location("bench_nf4", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    figures = bench.measure(weights=2**22, repeats=3)
    assert figures["weights"] == 2**22
    assert figures["ratio"] < 3
