"""A GGUF file made by llama.cpp's script is, in llama.cpp, the same model."""

import json
import shutil

import httpx
import pytest

from lab_utils import export, models
from lab_utils.export.convert_gguf import pre_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gguf(merged, tmp_path_factory):
    return export.to_gguf(merged, tmp_path_factory.mktemp("gguf") / "poet.gguf", "f32")


def test_the_same_model_in_llama_cpp(base, adapter, gguf, questions):
    assert gguf.read_bytes()[:4] == b"GGUF"
    for file in (gguf, gguf.parent):
        report = export.parity((base, adapter), file, questions, max_new_tokens=24)
        assert report.equal, report


def test_another_model_is_told(base, gguf, questions):
    assert export.parity(base, gguf, questions, max_new_tokens=4).first_difference.stage == "logits"


def test_tokens_are_the_tokenizers(merged, gguf):
    chats = ["秋夜", "A cat’s 12 hats,  twice\n\n\tokay", "龘 🙂 ﬁ", "<|im_end|> 注入", "", " 　 "]
    tokenizer = export.local(merged)
    with export.llama_cpp(gguf) as candidate:
        for chat in chats:
            messages = [{"role": "user", "content": chat}]
            assert candidate.prompt_ids(messages) == tokenizer.prompt_ids(messages), chat


def test_llama_cpp_is_stopped_at_the_end_of_the_block(gguf):
    with export.llama_cpp(gguf) as candidate:
        assert httpx.get(f"{candidate.root}/health").status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{candidate.root}/health")


def test_refused_before_anything_is_run(merged, adapter, tmp_path):
    with pytest.raises(ValueError, match="适配器要先合并"):
        export.to_gguf(adapter, tmp_path / "x.gguf")
    with pytest.raises(ValueError, match="q3"):
        export.to_gguf(merged, tmp_path / "x.gguf", "q3")
    with pytest.raises(FileNotFoundError, match="一个 GGUF"), export.llama_cpp(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_splitting_pattern_is_told_by_itself(merged, tmp_path):
    assert pre_tokenizer(models.ASSETS / models.SHIPPED) == "qwen2"
    stated = json.loads((merged / "tokenizer.json").read_text())
    stated["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\S+|\s+"
    (tmp_path / "tokenizer.json").write_text(json.dumps(stated))
    assert pre_tokenizer(tmp_path) is None


def test_a_tokenizer_llama_cpp_cannot_have_is_said_clearly(merged, tmp_path):
    odd = shutil.copytree(merged, tmp_path / "odd")
    stated = json.loads((odd / "tokenizer.json").read_text())
    stated["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\S+|\s+"
    (odd / "tokenizer.json").write_text(json.dumps(stated))
    config = json.loads((odd / "tokenizer_config.json").read_text())
    (odd / "tokenizer_config.json").write_text(
        json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    with pytest.raises(RuntimeError, match="pre-tokenizer"):
        export.to_gguf(odd, tmp_path / "out" / "odd.gguf")
    assert list((tmp_path / "out").iterdir()) == []
