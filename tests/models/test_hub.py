"""Downloads: whole or not at all, their size said before, other ways named."""

import shutil

import pytest

from lab_utils import models
from tests.models.hub import FILES, Hub, hub_server


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


def test_reachability_is_told_within_the_timeout(monkeypatch):
    with hub_server() as address:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", address)
        assert models.sources_reachable(2) == {"modelscope": True, "huggingface": False}
