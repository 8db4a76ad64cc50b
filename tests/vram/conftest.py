import pytest
import torch

from lab_utils import models
from tests.vram.families import FAMILIES, SIZES


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Family -> folder of a tiny random model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    models.quiet()
    folders = {}
    for family, sizes in FAMILIES.items():
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **(SIZES | {"tie_word_embeddings": False} | sizes))
        folders[family] = tmp_path_factory.mktemp(family)
        AutoModelForCausalLM.from_config(config).save_pretrained(folders[family])
    return folders
