"""The pre-flight finds each planted fault and shows no secret; a push sends just what it said."""

import json
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from lab_utils import export
from lab_utils.export.card import front_matter

FACTS = {
    "license": "Apache License 2.0",
    "training": "QLoRA, one epoch.",
    "figures": {"form": "50/50"},
    "limits": "Verse only.",
}
HOME = "/" + "home/"
HF_TOKEN = "hf_" + "Ab3" * 12


@pytest.fixture
def ready(merged, tmp_path):
    """A folder fit to be published."""
    folder = shutil.copytree(merged, tmp_path / "poet")
    export.write_card(folder, **FACTS)
    return folder


def problems(folder) -> str:
    return "\n".join(map(str, export.preflight(folder)))


def rewrite(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_ready(ready):
    assert export.preflight(ready) == []


def test_the_shipped_base_is_fit_to_be_published():
    from lab_utils import models

    assert export.preflight(models.ASSETS / models.SHIPPED) == []


def test_an_adapter_alone_is_refused_with_the_reason(adapter):
    [problem] = export.preflight(adapter)
    assert "适配器" in problem.what
    assert "部署" in problem.what
    assert "merge" in problem.remedy


def test_not_a_model(tmp_path):
    assert "没有模型" in problems(tmp_path)
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "run.json").write_text('{"status": "running"}')
    assert export.preflight(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("config.json", "config.json"),
        ("tokenizer.json", "分词器"),
        ("chat_template.jinja", "对话模板"),
        ("model.safetensors", "safetensors"),
        ("README.md", "模型卡片"),
    ],
)
def test_a_file_is_missing(ready, name, said):
    (ready / name).unlink()
    assert said in problems(ready)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"]
)
def test_a_file_is_broken(ready, name):
    content = (ready / name).read_bytes()
    (ready / name).write_bytes(content[: len(content) // 2])
    assert export.preflight(ready)


def test_a_shard_is_missing(base, ready):
    from transformers import AutoModelForCausalLM

    (ready / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(ready, max_shard_size="200KB")
    assert export.preflight(ready) == []
    shard = sorted(ready.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert shard.name in problems(ready)


def test_weights_only_as_pickle(ready):
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(ready / "model.safetensors"), ready / "pytorch_model.bin")
    (ready / "model.safetensors").unlink()
    assert "safetensors" in problems(ready)


def test_missing_end_token(ready):
    rewrite(ready / "generation_config.json", eos_token_id=5919)
    assert "停不下来" in problems(ready)
    assert "<|im_end|>" in problems(ready)


def test_tokenizer_of_a_larger_model(ready):
    rewrite(ready / "config.json", vocab_size=5000)
    assert "5000" in problems(ready)


def test_no_license(ready):
    text = (ready / "README.md").read_text()
    (ready / "README.md").write_text(text.replace("license: Apache License 2.0\n", ""))
    assert "license" in problems(ready)
    (ready / "README.md").write_text("# My model\n")
    assert "YAML" in problems(ready)


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "rng_state_0.pth", "scheduler.pt", "global_step20/rank0.pt"]
)
def test_optimizer_states(ready, name):
    (ready / name).parent.mkdir(exist_ok=True)
    (ready / name).write_bytes(b"state")
    assert "优化器" in problems(ready)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("README.md", f"export HF_TOKEN={HF_TOKEN}", "Hugging Face"),
        ("args.json", '{"hub_token": "ms-0123abcd-0123-4567-89ab-0123456789ab"}', "ModelScope"),
        ("train.sh", "OPENAI_API_KEY=sk-abcdefghijklmnopqrstuvwx", "API"),
        ("notes.txt", "-----BEGIN OPENSSH PRIVATE KEY-----", "私钥"),
        ("args.json", json.dumps({"model": HOME + "zhang/models/base"}), "路径"),
        ("args.json", '{"output_dir": "/data2/zhang/output"}', "路径"),
        ("config.json", '{"_name_or_path": "C:\\\\Users\\\\zhang\\\\base"}', "路径"),
    ],
)
def test_secrets_in_text(ready, name, text, said):
    file = ready / name
    file.write_text((file.read_text() if file.exists() else "") + "\n" + text)
    found = problems(ready)
    assert said in found
    assert HF_TOKEN not in found
    assert "0123abcd" not in found
    assert "zhang" not in found


@pytest.mark.parametrize("name", [".env", "server.pem", "id_rsa", "keys/credentials.json"])
def test_secret_files(ready, name):
    (ready / name).parent.mkdir(exist_ok=True)
    (ready / name).write_text("X=1")
    assert name in problems(ready)


def test_addresses_are_not_paths(ready):
    with (ready / "README.md").open("a") as card:
        card.write("\nhttps://example.com/home/page, models/home/x, POST /v1/chat/completions\n")
    assert export.preflight(ready) == []


def test_card_states_the_facts(ready):
    facts = front_matter(ready / "README.md")
    assert facts["license"] == "Apache License 2.0"
    assert facts["base_model"] == "tiny-base"
    assert facts["tasks"] == ["text-generation"]
    text = (ready / "README.md").read_text()
    for said in ("r=4", "α=8", "50/50", "Verse only.", "float32", "peft"):
        assert said in text
    for name, value in FACTS.items():
        with pytest.raises(ValueError, match=name):
            export.write_card(ready, **FACTS | {name: type(value)()})


def test_a_dry_run_needs_no_network_and_says_everything(ready, monkeypatch):
    def no_network(*_, **__):
        raise AssertionError("the dry run went to the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    (ready / "optimizer.pt").write_bytes(b"state")
    (ready / ".env").write_text("KEY=1")
    (ready / "run.log").write_text("loss 1.0")
    plan = export.push(ready, "someone/poet")
    up, left = dict(plan.files), dict(plan.left_out)
    assert not plan.sent
    assert up["model.safetensors"] == (ready / "model.safetensors").stat().st_size
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "README.md"} <= up.keys()
    assert set(left) == {"optimizer.pt", ".env", "run.log"}
    assert len(plan.problems) == 2
    assert "没有联网" in str(plan)


class Hub(BaseHTTPRequestHandler):
    """A hub that turns everything away, and keeps what was asked."""

    asked: list[str] = []

    def refuse(self):
        self.asked.append(self.path)
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PUT = do_HEAD = refuse

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A local hub in place of ModelScope, and no stored credentials; the paths it was asked for."""
    from modelscope_hub import config

    Hub.asked.clear()
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(config, "_default_config", None, raising=False)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", address)
    monkeypatch.setenv("MODELSCOPE_CREDENTIALS_PATH", str(tmp_path / "no-credentials"))
    monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
    yield Hub.asked
    server.shutdown()
    server.server_close()


def test_without_a_token_nothing_is_sent(ready, hub):
    with pytest.raises(PermissionError, match="modelscope login"):
        export.push(ready, "someone/poet", dry_run=False)
    assert hub == []


def test_a_folder_with_problems_is_not_sent(ready, hub):
    (ready / "README.md").unlink()
    with pytest.raises(ValueError, match="模型卡片"):
        export.push(ready, "someone/poet", dry_run=False, token="ms-token")
    assert hub == []


def test_with_a_token_the_clients_own_error_comes_through(ready, hub):
    from modelscope_hub.errors import HubError

    with pytest.raises(HubError):
        export.push(ready, "someone/poet", dry_run=False, token="ms-token")
    assert hub


def test_the_client_would_send_just_what_the_dry_run_says(ready):
    from glob import escape

    from modelscope_hub.api import HubApi

    (ready / "run.log").write_text("loss 1.0")
    (ready / "odd[1].safetensors").write_bytes((ready / "model.safetensors").read_bytes())
    plan = export.push(ready, "someone/poet")
    patterns = [escape(name) for name, _ in plan.files]
    chosen = HubApi(token="x").uploader._prepare_upload_folder(ready, "", allow_patterns=patterns)
    assert sorted(name for name, _ in chosen) == sorted(name for name, _ in plan.files)


@pytest.mark.parametrize("model_id", ["poet", "a/b/c", "a/", "some one/poet"])
def test_malformed_names(ready, model_id):
    with pytest.raises(ValueError, match="owner/name"):
        export.push(ready, model_id)
