"""Counts of parameters: against arithmetic by hand, against transformers, and against peft."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from lab_utils import models, params

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


# --- the course's models, by arithmetic ---


def _decoder(vocab, d, layers, heads, groups, head, ffn, *, qkv_bias=False, qk_norm=False, tied=False):
    """Parameters of a dense decoder with grouped-query attention, SwiGLU and RMSNorm."""
    q, kv = heads * head, groups * head
    attention = d * q + 2 * d * kv + q * d + (q + 2 * kv) * qkv_bias + 2 * head * qk_norm
    return vocab * d * (1 if tied else 2) + layers * (attention + ffn + 2 * d) + d


def _vision_of_qwen2_5_vl(d, ffn, blocks, out):
    patches = 3 * 2 * 14 * 14 * d
    block = 3 * d * d + 3 * d + d * d + d + 3 * d * ffn + 2 * ffn + d + 2 * d
    merger = d + (4 * d) ** 2 + 4 * d + 4 * d * out + out
    return patches + blocks * block + merger


def _deepseek_v3():
    d, heads, q_rank, kv_rank, rope, nope, v = 7168, 128, 1536, 512, 64, 128, 128
    q = d * q_rank + q_rank + q_rank * heads * (nope + rope)
    kv = d * (kv_rank + rope) + kv_rank + kv_rank * heads * (nope + v)
    attention = q + kv + heads * v * d
    sparse = 256 * 3 * d * 2048 + 3 * d * 2048 + 256 * d
    return 2 * 129280 * d + 61 * (attention + 2 * d) + 3 * (3 * d * 18432) + 58 * sparse + d


BY_HAND = {
    "Llama-2-7B": (6_738_415_616, _decoder(32000, 4096, 32, 32, 32, 128, 3 * 4096 * 11008)),
    "Qwen2.5-7B": (
        7_615_616_512,
        _decoder(152064, 3584, 28, 28, 4, 128, 3 * 3584 * 18944, qkv_bias=True),
    ),
    "Qwen3-0.6B": (
        596_049_920,
        _decoder(151936, 1024, 28, 16, 8, 128, 3 * 1024 * 3072, qk_norm=True, tied=True),
    ),
    "ChatGLM3-6B": (
        6_243_584_000,
        _decoder(65024, 4096, 28, 32, 2, 128, 3 * 4096 * 13696, qkv_bias=True),
    ),
    "Qwen2.5-0.5B": (
        494_032_768,
        _decoder(151936, 896, 24, 14, 2, 64, 3 * 896 * 4864, qkv_bias=True, tied=True),
    ),
    "SmolLM2-135M": (134_515_008, _decoder(49152, 576, 30, 9, 3, 64, 3 * 576 * 1536, tied=True)),
    "Mixtral-8x7B": (
        46_702_792_704,
        _decoder(32000, 4096, 32, 32, 8, 128, 8 * 3 * 4096 * 14336 + 8 * 4096),
    ),
    "Qwen3-30B-A3B": (
        30_532_122_624,
        _decoder(151936, 2048, 48, 32, 4, 128, 128 * 3 * 2048 * 768 + 128 * 2048, qk_norm=True),
    ),
    "Qwen2.5-VL-3B": (
        3_754_622_976,
        _decoder(151936, 2048, 36, 16, 2, 128, 3 * 2048 * 11008, qkv_bias=True, tied=True)
        + _vision_of_qwen2_5_vl(1280, 3420, 32, 2048),
    ),
    "DeepSeek-V3": (671_026_404_352, _deepseek_v3()),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_totals_are_exact(name):
    found = params.count(name)
    assert found.total == BY_HAND[name][0] == BY_HAND[name][1]
    assert sum(found.by_component.values()) == found.total
    assert "other" not in found.by_component
    assert list(found.by_component) == [part for part in params.COMPONENTS if part in found.by_component]


def test_every_shipped_configuration_is_held():
    assert set(BY_HAND) == set(params.known())


def test_deepseek_v3_and_the_tensors_that_no_gradient_trains():
    """Its checkpoint holds 58 × 256 correction biases more: 671,026,419,200 without multi-token prediction."""
    assert params.count("DeepSeek-V3").total + 58 * 256 == 671_026_419_200


def test_components_of_a_dense_model():
    d, f, layers = 3584, 18944, 28
    assert params.count("Qwen2.5-7B").by_component == {
        "embedding": 152064 * d,
        "attention_q": layers * (d * 3584 + 3584),
        "attention_k": layers * (d * 512 + 512),
        "attention_v": layers * (d * 512 + 512),
        "attention_o": layers * 3584 * d,
        "ffn": layers * 3 * d * f,
        "norm": layers * 2 * d + d,
        "lm_head": 152064 * d,
    }


def test_a_tied_head_counts_as_embedding():
    parts = params.count("Qwen3-0.6B").by_component
    assert parts["embedding"] == 151936 * 1024
    assert "lm_head" not in parts
    untied = params.load_config("Qwen3-0.6B").to_dict() | {"tie_word_embeddings": False}
    assert params.count(untied).by_component == parts | {"lm_head": 151936 * 1024}


def test_fused_projections_are_named_as_such():
    parts = params.count("ChatGLM3-6B").by_component
    assert parts["attention_qkv"] == 28 * (4096 * 4608 + 4608)
    assert parts["ffn"] == 28 * 3 * 4096 * 13696
    assert {"attention_q", "attention_k", "attention_v"} & set(parts) == set()


def test_latent_attention():
    found = params.count("DeepSeek-V3")
    parts = found.by_component
    assert parts["attention_q"] == 61 * (7168 * 1536 + 1536 * 24576)
    assert parts["attention_kv"] == 61 * (7168 * 576 + 512 * 32768)
    assert parts["shared_experts"] == 58 * 3 * 7168 * 2048
    assert found.groups == {
        "嵌入": parts["embedding"],
        "注意力": parts["attention_q"] + parts["attention_kv"] + parts["attention_o"],
        "前馈网络": parts["ffn"] + parts["experts"] + parts["shared_experts"] + parts["router"],
        "输出头": parts["lm_head"],
        "其他": parts["norm"],
    }


def test_vision():
    assert params.count("Qwen2.5-VL-3B").by_component["vision"] == _vision_of_qwen2_5_vl(1280, 3420, 32, 2048)


# --- active parameters ---


@pytest.mark.parametrize(
    ("name", "idle"),
    [
        ("Qwen2.5-7B", 0),
        ("Mixtral-8x7B", 32 * 6 * 3 * 4096 * 14336),
        ("Qwen3-30B-A3B", 48 * 120 * 3 * 2048 * 768),
        ("DeepSeek-V3", 58 * 248 * 3 * 7168 * 2048),
    ],
)
def test_active_leaves_out_the_experts_not_chosen(name, idle):
    found = params.count(name)
    assert found.active == found.total - idle


TINY_MOE = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    "deepseek_v3": {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 16, "n_group": 1,
        "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 12, "kv_lora_rank": 8, "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8, "v_head_dim": 8,
    },
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
}  # fmt: skip
SMALL = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def _real(config) -> torch.nn.Module:
    """The model of `config` with real weights."""
    torch.manual_seed(0)
    kind = {"t5": "Seq2SeqLM", "bert": "MaskedLM", "qwen2_5_vl": "ImageTextToText"}
    auto = getattr(transformers, f"AutoModelFor{kind.get(config.model_type, 'CausalLM')}")
    return auto.from_config(config, attn_implementation="eager").eval()


@pytest.mark.parametrize("model_type", TINY_MOE)
def test_active_is_what_one_token_reaches(model_type):
    """One token through a real model and back: an expert's weights get a gradient when it was chosen."""
    raw = {"model_type": model_type} | SMALL | TINY_MOE[model_type]
    if model_type == "deepseek_v3":
        raw["num_key_value_heads"] = 4
    config = params.load_config(raw)
    model = _real(config)
    model(input_ids=torch.tensor([[7]])).logits.square().sum().backward()
    idle = 0
    for name, weight in model.named_parameters():
        if ".experts." in name:
            reached = weight.grad.flatten(1).abs().sum(1) > 0
            assert int(reached.sum()) == 2, name
            idle += weight[~reached].numel()
    assert idle > 0
    found = params.count(config)
    assert found.active == found.total - idle


def test_active_is_unknown_where_the_configuration_does_not_tell():
    found = params.count(transformers.SwitchTransformersConfig(d_model=32, num_experts=4, vocab_size=64))
    assert found.by_component["experts"] > 0
    assert found.active is None


# --- other architectures, against transformers ---


def _counted(model) -> int:
    """Parameters of a model, each tensor once."""
    model.tie_weights()
    return sum({id(p): p.numel() for p in model.parameters()}.values())


OTHERS = {
    "CausalLM": (
        "Cohere2 DeepseekV4 Falcon Gemma Gemma2 Gemma3Text GPT2 GPTJ GPTNeoX GPTBigCode Glm4 Glm4MoeLite "
        "GptOss Granite Jamba Llama4Text Mamba MiniMax Mistral OPT Olmo2 Olmoe Phi Phi3 Qwen2Moe Qwen3Next "
        "StableLm Starcoder2 Bloom Ernie4_5_Moe"
    ).split(),
    "MaskedLM": ["Bert", "Roberta", "ModernBert"],
    "Seq2SeqLM": ["T5", "Bart"],
    "ImageTextToText": ["Qwen2VL", "Qwen3VL", "Gemma3", "Llava", "InternVL"],
}


@pytest.mark.parametrize(
    ("task", "family"), [(task, family) for task, families in OTHERS.items() for family in families]
)
def test_equals_what_transformers_builds(task, family):
    config = getattr(transformers, f"{family}Config")()
    auto = getattr(transformers, f"AutoModelFor{task}")
    config.architectures = [auto._model_mapping[type(config)].__name__]
    with torch.device("meta"):
        expected = _counted(auto.from_config(config))
    found = params.count(config)
    assert found.total == sum(found.by_component.values()) == expected
    assert found.by_component.get("other", 0) <= 0.002 * found.total


TINY = {
    "llama": {},
    "llama tied": {"tie_word_embeddings": True},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "bert": {},
    "gemma2": {"head_dim": 16},
    "gpt_neox": {},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    "phi3": {},
} | TINY_MOE


def _tiny(case: str):
    kind = case.split()[0]
    raw = {"model_type": kind} | SMALL | TINY.get(case, {})
    if kind == "deepseek_v3":
        raw["num_key_value_heads"] = 4
    if kind == "t5":
        raw |= {"decoder_start_token_id": 0}
    return params.load_config(raw)


@pytest.mark.parametrize("case", TINY)
def test_equals_a_model_with_real_weights(case):
    config = _tiny(case)
    model = _real(config)
    assert all(p.device.type == "cpu" for p in model.parameters())
    assert params.count(config).total == _counted(model)


def test_equals_the_shipped_model_as_loaded():
    model, _ = models.load(models.SHIPPED)
    found = params.count(models.SHIPPED)
    assert found.total == sum(p.numel() for p in model.parameters())
    assert params.count(models.path(models.SHIPPED)) == found
    assert params.count(model.config) == found


def test_nothing_is_allocated_and_the_configuration_is_left_alone():
    config = params.load_config("Qwen2.5-7B")
    before = config.to_dict()
    assert {p.device.type for p in params._build(config).parameters()} == {"meta"}
    assert config.to_dict() == before
    raw = json.loads((params.CONFIGS / "Qwen2.5-VL-3B.json").read_text())
    kept = json.loads(json.dumps(raw))
    params.count(raw)
    assert raw == kept


# --- linear layers and LoRA, against peft ---


def test_linears_of_the_shipped_model():
    layers = params.linears(models.SHIPPED)
    assert len(layers) == 6 * 7 + 1
    assert layers[0] == params.LinearShape("model.layers.0.self_attn.q_proj", 256, 256, False, "attention_q")
    assert layers[1] == params.LinearShape("model.layers.0.self_attn.k_proj", 256, 128, False, "attention_k")
    assert layers[6] == params.LinearShape("model.layers.0.mlp.down_proj", 768, 256, False, "ffn")
    assert layers[-1] == params.LinearShape("lm_head", 256, 5928, False, "lm_head")


def test_linears_of_fused_and_transposed_layers():
    first = params.linears("ChatGLM3-6B")[0]
    assert (first.name, first.d_in, first.d_out, first.bias) == (
        "transformer.encoder.layers.0.self_attention.query_key_value", 4096, 4608, True,
    )  # fmt: skip
    assert [layer.component for layer in params.linears("ChatGLM3-6B")].count("lm_head") == 1
    conv = params.linears(_tiny("gpt2"))[0]
    assert (conv.name, conv.d_in, conv.d_out, conv.component) == (
        "transformer.h.0.attn.c_attn", 32, 96, "attention_qkv",
    )  # fmt: skip


QWEN3_MOE_ATTENTION = 48 * 8 * (2 * (2048 + 4096) + 2 * (2048 + 512))


@pytest.mark.parametrize(
    ("name", "r", "targets", "expected"),
    [
        ("Qwen2.5-7B", 8, SEVEN, 20_185_088),
        ("Qwen2.5-7B", 8, "all-linear", 20_185_088),
        ("Llama-2-7B", 8, ["q_proj", "v_proj"], 32 * 2 * 8 * (4096 + 4096)),
        ("Llama-2-7B", 8, "all-linear", 32 * 8 * (4 * 8192 + 3 * (4096 + 11008))),
        ("ChatGLM3-6B", 8, ["query_key_value"], 28 * 8 * (4096 + 4608)),
        ("Qwen3-0.6B", 1, ["lm_head"], 1024 + 151936),
        ("Qwen3-30B-A3B", 8, SEVEN[:4], QWEN3_MOE_ATTENTION),
        (
            "Qwen3-30B-A3B",
            8,
            "all-linear",  # the experts' gate and up lie in one tensor, which gets twice the rank
            QWEN3_MOE_ATTENTION + 48 * (128 * 16 * (2048 + 1536) + 128 * 8 * (768 + 2048) + 8 * (2048 + 128)),
        ),
    ],
)
def test_lora_by_arithmetic(name, r, targets, expected):
    assert params.lora_count(name, r, targets) == expected


def _peft_count(model, r, targets) -> int:
    transposed = model.config.model_type == "gpt2"
    tuned = get_peft_model(model, LoraConfig(r=r, target_modules=targets, fan_in_fan_out=transposed))
    return sum(p.numel() for p in tuned.parameters() if p.requires_grad)


PEFT_TARGETS = {
    "llama": SEVEN,
    "llama tied": ["q_proj", "mlp.up_proj"],
    "qwen2": ["k_proj", "o_proj"],
    "qwen3": SEVEN[:4],
    "gpt2": ["c_attn", "mlp.c_proj"],
    "bert": ["query", "value"],
    "gpt_neox": ["query_key_value", "dense_h_to_4h"],
    "t5": ["q", "wo"],
    "phi3": ["qkv_proj", "gate_up_proj"],
    "mixtral": ["q_proj", "o_proj"],
    "qwen3_moe": ["k_proj", "v_proj"],
    "deepseek_v3": ["q_a_proj", "kv_b_proj", "o_proj"],
}


@pytest.mark.parametrize("case", PEFT_TARGETS)
def test_lora_equals_peft(case):
    config = _tiny(case)
    for targets in (PEFT_TARGETS[case], "all-linear"):
        expected = _peft_count(_real(config), 4, targets)
        assert params.lora_count(config, 4, targets) == expected, targets


@pytest.mark.parametrize("name", ["Qwen2.5-7B", "Qwen2.5-VL-3B"])
def test_lora_on_a_big_model_equals_peft(name):
    with torch.device("meta"):
        config = params.load_config(name)
        model = getattr(transformers, config.architectures[0])(config)
        expected = _peft_count(model, 8, "all-linear")
    assert params.lora_count(name, 8, "all-linear") == expected


def test_lora_refuses_a_rank_that_cannot_be():
    for r in (0, -4, 2.5, True):
        with pytest.raises(ValueError, match="秩.*model.layers.0.self_attn.q_proj"):
            params.lora_count(models.SHIPPED, r, SEVEN)
    with pytest.raises(ValueError, match="r=129 太大：层 model.layers.0.self_attn.k_proj 是 128×256"):
        params.lora_count(models.SHIPPED, 129, SEVEN)
    assert params.lora_count(models.SHIPPED, 128, ["k_proj"]) == 6 * 128 * (256 + 128)


def test_lora_refuses_targets_that_match_nothing():
    with pytest.raises(ValueError, match="'query_key_value'.*q_proj、k_proj、v_proj、o_proj、gate_proj"):
        params.lora_count(models.SHIPPED, 8, ["q_proj", "query_key_value"])
    with pytest.raises(ValueError, match="'proj' 结尾"):  # an end of a name begins after a dot, as in peft
        params.lora_count(models.SHIPPED, 8, ["proj"])
    with pytest.raises(ValueError, match="'query_key_value' 结尾"):
        params.lora_count("Qwen3-30B-A3B", 8, ["q_proj", "query_key_value"])
    with pytest.raises(ValueError, match="peft 不能在这些层上加 LoRA.*up_proj"):
        params.lora_count("Qwen3-30B-A3B", 8, ["gate_proj"])
    with pytest.raises(ValueError, match="targets 是空的"):
        params.lora_count(models.SHIPPED, 8, [])
    with pytest.raises(ValueError, match="要列表"):
        params.lora_count(models.SHIPPED, 8, "q_proj")


# --- what a student sees ---


def test_table_adds_up():
    table = params.count("Qwen3-0.6B").table()
    assert list(table.index)[:2] == ["嵌入", "注意力 Q"]
    assert table.loc["合计"].tolist() == ["596,049,920", "100.00%"]
    assert table.loc["嵌入"].tolist() == ["155,582,464", "26.10%"]
    assert sum(params.count("Qwen3-0.6B").shares.values()) == pytest.approx(1)


def test_the_line_about_a_model():
    assert str(params.count("Llama-2-7B")) == "Llama-2-7B：6,738,415,616 个参数"
    assert str(params.count("Mixtral-8x7B")).endswith("每个词元用到 12,879,925,248")


@pytest.mark.parametrize("name", ["Qwen2.5-7B-Instruct", "Qwen2.5-VL-3B-Instruct", "ChatGLM3-6B"])
def test_a_model_of_the_registry_is_counted_without_its_files(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    assert params.count(name).total == models.entry(name).parameters


# --- what it refuses ---


def test_an_unknown_name():
    with pytest.raises(ValueError, match="不认识 'qwen2.5-7b'.*是不是 Qwen2.5-7B"):
        params.count("qwen2.5-7b")
    with pytest.raises(ValueError, match="可用的名字：ChatGLM3-6B、DeepSeek-V3"):
        params.count("nothing like it")
    with pytest.raises(TypeError, match="收到的是 int"):
        params.count(7)


def test_a_folder_without_a_configuration(tmp_path):
    with pytest.raises(FileNotFoundError, match="没有 config.json"):
        params.count(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="是文件"):
        params.count(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "qwen3",', "不是完整的 JSON"),
        ("[1, 2]", "JSON 对象"),
        ('{"hidden_size": 64}', "没有 model_type"),
        ('{"model_type": "qwen33"}', "不认识 model_type 'qwen33'。是不是 qwen3"),
        ('{"model_type": "chatglm"}', r"count\('ChatGLM3-6B'\)"),
    ],
)
def test_a_configuration_that_cannot_be_read(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        params.count(str(tmp_path))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"hidden_size": 100, "num_attention_heads": 7},
            "hidden_size = 100 不能被 num_attention_heads = 7 整除",
        ),
        ({"num_attention_heads": 8, "num_key_value_heads": 3}, "不能被 num_key_value_heads = 3 整除"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0 不对"),
        ({"vocab_size": -4}, "vocab_size = -4 不对"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0 不对"),
        ({"intermediate_size": 10.5}, "intermediate_size = 10.5 不对"),
        ({"hidden_size": "4096"}, "hidden_size = '4096' 不对"),
        ({"rms_norm_eps": "small"}, "搭不成配置"),
    ],
)
def test_sizes_that_cannot_be(sizes, message):
    with pytest.raises(ValueError, match=message):
        params.count({"model_type": "llama"} | sizes)


def test_sizes_inside_and_in_a_configuration_object():
    raw = json.loads((params.CONFIGS / "Qwen2.5-VL-3B.json").read_text())
    raw["text_config"]["num_hidden_layers"] = 0
    with pytest.raises(ValueError, match="text_config：num_hidden_layers = 0"):
        params.count(raw)
    with pytest.raises(ValueError, match="LlamaConfig：vocab_size = -1"):
        params.count(transformers.LlamaConfig(vocab_size=-1, bos_token_id=None, eos_token_id=None))


def test_a_model_that_transformers_cannot_build():
    with pytest.raises(ValueError, match="transformers 按这份 gpt_neox 配置搭不出 GPTNeoXForCausalLM"):
        params.count({"model_type": "gpt_neox", "hidden_act": "no such function"})


# --- cost ---


def test_a_mixture_of_671_billion_is_counted_in_seconds_and_half_a_gigabyte():
    spec = importlib.util.spec_from_file_location(
        "bench_param_count", Path(__file__).parent / "benchmarks" / "bench_param_count.py"
    )
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    figures = bench.measure()
    assert figures["total"] == 671_026_404_352
    assert figures["peak_mb"] < 500
    assert figures["seconds"] < 5
