"""Names to folders: what is found on the disk, and what is refused."""

import pytest

from lab_utils import models
from tests.models.hub import put_model


def test_an_unknown_hub_is_refused(monkeypatch):
    monkeypatch.setenv("LAB_HUB", "github")
    with pytest.raises(ValueError, match="'github'.*LAB_HUB"):
        models.path("Qwen3-0.6B")


def test_a_folder_is_its_own_model_when_complete(tmp_path):
    assert models.path(str(put_model(tmp_path / "mine"))) == (tmp_path / "mine").resolve()
    with pytest.raises(ValueError, match="缺少：tokenizer.json"):
        models.path(str(put_model(tmp_path / "half", without="tokenizer.json")))


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


def test_an_incomplete_folder_in_the_way_is_named_and_kept(cache):
    folder = put_model(cache / "models" / "Qwen3-0.6B", without="model.safetensors")
    with pytest.raises(RuntimeError, match="不完整，缺少：model.safetensors"):
        models.path("Qwen3-0.6B")
    assert (folder / "config.json").exists()
