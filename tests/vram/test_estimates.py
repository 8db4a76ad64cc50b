"""The parts of an estimate: held against the libraries, the course's figures, and each other."""

import pytest
import torch

from lab_utils import params, vram


def test_weights_adapters_and_states_before_the_step(tiny):
    for method in ("full", "lora", "qlora"):
        static = vram.estimate(tiny["llama"], method, dtype="float32").static
        there = sum(n for part, n in static.items() if part != "gradients")
        assert vram.measured_step(tiny["llama"], method, 8, 1).before == pytest.approx(there, rel=0.002)


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("block_size", [64, 256])
def test_nf4_bytes_are_those_of_bitsandbytes(tiny, double_quant, block_size):
    from bitsandbytes.functional import quantize_4bit

    codes = constants = 0
    for layer in params.linears(tiny["llama"]):
        if layer.component != "lm_head":
            weight = torch.randn(layer.d_out, layer.d_in)
            packed, state = quantize_4bit(
                weight, blocksize=block_size, quant_type="nf4", compress_statistics=double_quant
            )
            codes += packed.nbytes
            constants += sum(
                tensor.nbytes for tensor in state.as_dict(packed=False).values() if is_tensor(tensor)
            )
            constants += state.offset.nbytes if double_quant else 0
    static = vram.estimate(
        tiny["llama"], "qlora", double_quant=double_quant, block_size=block_size, dtype="float32"
    ).static
    assert static["quantization constants"] == constants
    others = params.count(tiny["llama"]).total - 2 * codes
    assert static["weights"] == codes + 4 * others


def is_tensor(value) -> bool:
    return isinstance(value, torch.Tensor)


def test_optimizer_states(tiny):
    import bitsandbytes

    total = params.count(tiny["qwen2"]).total
    states = {
        name: vram.estimate(tiny["qwen2"], dtype="float32", optimizer=name)
        for name in ("adamw", "adamw_8bit", "paged_adamw", "sgd")
    }
    assert states["adamw"].static["optimizer states"] == 8 * total
    assert "optimizer states" not in states["sgd"].static
    assert "optimizer states" not in states["paged_adamw"].static
    assert states["paged_adamw"].host_bytes == 8 * total
    assert any("分页" in note for note in states["paged_adamw"].notes)
    weight = torch.nn.Parameter(torch.zeros(total))
    optimizer = bitsandbytes.optim.AdamW8bit([weight])
    optimizer.init_state(optimizer.param_groups[0], weight, 0, 0)
    state = {name: tensor for name, tensor in optimizer.state[weight].items() if is_tensor(tensor)}
    held = sum(state[name].nbytes for name in ("state1", "state2", "absmax1", "absmax2"))
    assert states["adamw_8bit"].static["optimizer states"] == pytest.approx(held, rel=0.001)


@pytest.mark.parametrize(
    ("name", "weights", "lora", "qlora"), [("Qwen2.5-7B", 15.2, 15.9, 6.2), ("Llama-2-7B", 13.5, 14.1, 4.5)]
)
def test_seven_billion_parameters(name, weights, lora, qlora):
    """The course's figures, in GB: full 14 + 14 + 28, LoRA about 15, QLoRA about 5."""
    static = vram.estimate(name, "full").static
    assert {part: round(n / 1e9, 1) for part, n in static.items()} == {
        "weights": weights,
        "optimizer states": pytest.approx(2 * weights, abs=0.11),
        "gradients": weights,
    }
    for method, expected in (("lora", lora), ("qlora", qlora)):
        assert sum(vram.estimate(name, method, r=16).static.values()) / 1e9 == pytest.approx(
            expected, abs=0.1
        )
    assert vram.estimate(name, "full", gradient_checkpointing=True).total_bytes > 4 * weights * 1e9 * 0.99


def test_nothing_is_allocated_for_the_largest_model():
    other = params.load_config("DeepSeek-V3").to_dict() | {
        "num_hidden_layers": 60
    }  # one not looked up before
    found = []
    peak = vram.measure(lambda: found.append(vram.estimate(other, "inference", quantization="int8")))
    assert peak.bytes - peak.before < 1 << 20
    assert found[0].gib > 1000


@pytest.mark.parametrize("name", params.known())
def test_every_known_configuration_has_sane_parts(name):
    components = params.count(name).by_component
    total = sum(components.values())
    for method in ("full", "qlora", "inference"):
        targets = "all-linear" if "A3B" not in name and "V3" not in name else ["o_proj"]
        found = vram.estimate(name, method, seq_len=256, targets=targets)
        assert found.total_bytes == sum(found.parts.values()) == max(found.moments.values())
        assert all(n > 0 for n in found.parts.values())
        assert list(found.parts) == [part for part in vram.PARTS if part in found.parts]
        if method == "inference":
            assert 2 * total < found.total_bytes < 2.1 * total
        if method == "full":
            assert 8 * total <= found.total_bytes < 12 * total
        if method == "qlora" and "experts" not in components:
            assert found.parts["weights"] < total


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_checkpointing_saves_and_accumulation_costs(method):
    setting = {"seq_len": 2048, "batch_size": 4}
    base = vram.estimate("Llama-2-7B", method, **setting)
    less = vram.estimate("Llama-2-7B", method, gradient_checkpointing=True, **setting)
    more = vram.estimate("Llama-2-7B", method, gradient_accumulation=4, **setting)
    assert less.parts["activations"] < base.parts["activations"] / 4
    gradients = base.static["gradients"]
    assert more.moments["loss"] - base.moments["loss"] == gradients == more.parts["gradients"]


def test_qlora_on_experts_says_what_stays_large():
    found = vram.estimate("Mixtral-8x7B", "qlora", targets=["q_proj"])
    assert found.static["weights"] > 80 * vram.GIB
    assert any("专家" in note for note in found.notes)


def test_unmeasured_family_and_long_sequence_are_said():
    assert vram.estimate("Qwen2.5-7B", "full", seq_len=1024).notes == ()
    notes = vram.estimate("SmolLM2-135M", "full", seq_len=9000).notes
    assert len(notes) == 1 and "9000" in notes[0] and "8192" in notes[0]
    assert any("chatglm" in note for note in vram.estimate("ChatGLM3-6B").notes)


def test_tables_name_every_part():
    found = vram.estimate("Qwen2.5-7B", "qlora", seq_len=40_000)
    for text in (str(found), found._repr_html_()):
        for part in found.parts:
            assert vram.PARTS[part] in text and part in text
        assert vram.format_bytes(found.total_bytes) in text and "Qwen2.5-7B" in text and "注意" in text
    odd = vram.Estimate("<b>", "full", {"weights": 1}, {"optimizer": 1}, {}, 0, ("1 < 2",))
    assert "<b>" not in odd._repr_html_() and "1 &lt; 2" in odd._repr_html_()


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0.0 KiB"), (2048, "2.0 KiB"), (5 << 20, "5.00 MiB"), (3 << 29, "1.50 GiB")]
)
def test_format_bytes(n, text):
    assert vram.format_bytes(n) == text


def test_not_a_decoder():
    from transformers import AutoConfig

    with pytest.raises(ValueError, match="num_attention_heads.*解码器"):
        vram.estimate(AutoConfig.for_model("mamba", num_hidden_layers=2, hidden_size=64, vocab_size=100))
    with pytest.raises(ValueError, match="model_type"):
        vram.estimate({"hidden_size": 64})
