"""What a model folder lacks."""

import json

import pytest

from lab_utils import models
from lab_utils.errors import InvalidValue
from tests.models.hub import put_model


def test_a_missing_shard_of_the_weights_is_noticed(tmp_path):
    folder = put_model(tmp_path / "sharded", without="model.safetensors")
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / "model-1.safetensors").touch()
    assert models.missing_files(folder) == ["model-2.safetensors"]


def test_an_index_that_cannot_be_read_counts_as_missing(tmp_path):
    folder = put_model(tmp_path / "sharded", without="model.safetensors")
    for content in ('{"weight_map": ', "[1]", "{}"):
        (folder / "model.safetensors.index.json").write_text(content)
        assert models.missing_files(folder) == ["model.safetensors.index.json"]


def test_weights_in_a_pickle_do_not_count_and_the_way_out_is_said(tmp_path):
    for weights in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        folder = put_model(tmp_path / weights, without="model.safetensors")
        (folder / weights).touch()
        (lacking,) = models.missing_files(folder)
        assert lacking.startswith("model.safetensors ") and "save_pretrained" in lacking
        with pytest.raises(InvalidValue, match="pickle"):
            models.load(str(folder))
