"""Configurations that can't be read or can't be are refused, with what is wrong."""

import json

import pytest
import transformers

from lab_utils import params


def test_an_unknown_name():
    with pytest.raises(ValueError, match="不认识 'qwen2.5-7b'.*是不是 'Qwen2.5-7B'"):
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
        ('{"model_type": "qwen33"}', "不认识 model_type 'qwen33'。是不是 'qwen3'"),
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
