"""What a model folder lacks."""

import json

from lab_utils import models
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
