"""Counts of parameters, against arithmetic by hand and against transformers."""

import json

import pytest
import torch
import transformers

from lab_utils import models, params
from lab_utils.params.meta_model import empty_model
from tests.benchmarks.bench_param_count import measure
from tests.params.tiny import TINY, real_model, tiny_config


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


@pytest.mark.parametrize("case", TINY)
def test_equals_a_model_with_real_weights(case):
    config = tiny_config(case)
    model = real_model(config)
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
    assert {p.device.type for p in empty_model(config).parameters()} == {"meta"}
    assert config.to_dict() == before
    raw = json.loads((params.CONFIGS / "Qwen2.5-VL-3B.json").read_text())
    kept = json.loads(json.dumps(raw))
    params.count(raw)
    assert raw == kept


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


def test_a_mixture_of_671_billion_is_counted_in_half_a_gigabyte():
    figures = measure()
    assert figures["total"] == 671_026_404_352
    assert figures["peak_mb"] < 500
