import copy

import pytest
import torch

from lab_utils import course, models
from lab_utils.data import jsonl


@pytest.fixture
def tiny(tiny_qwen3):
    """Makes a Qwen3 of three layers with 24 neurons each, on 20 tokens."""

    def make(seed=0, **settings):
        sizes = {
            "vocab_size": 20,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 3,
            "head_dim": 8,
        }
        others = {"tie_word_embeddings": True, "pad_token_id": 0, "eos_token_id": 1, "initializer_range": 0.2}
        return tiny_qwen3(seed, **sizes, **others, **settings).eval()

    return make


@pytest.fixture
def untouched(tiny):
    """A model that must come out of the test as it went in."""
    model = tiny()
    before = copy.deepcopy(model.state_dict())
    yield model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.config.intermediate_size, model.config.num_hidden_layers) == (24, 3)


@pytest.fixture(scope="module")
def shipped():
    return models.load(models.SHIPPED)


@pytest.fixture(scope="module")
def rows():
    return jsonl.read_jsonl(course.root() / "datasets" / "verse_sft" / "train.jsonl")[:12]
