"""The preflight: what vLLM can serve passes, what it can't is refused for the right reason."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from lab_utils import models
from lab_utils.serving import AdapterError, preflight
from lab_utils.serving.adapter import first_misfit, largest_rank, max_lora_rank, shapes, unsupported

BASE = models.ASSETS / models.SHIPPED


@pytest.fixture
def adapter(tmp_path):
    """Writes the shipped adapter with changes to its config: `adapter(use_dora=True)`."""

    def write(**changes):
        folder = tmp_path / "adapter"
        shutil.copytree(models.shipped_adapter(), folder)
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        (folder / "adapter_config.json").write_text(json.dumps(config | changes), encoding="utf-8")
        return folder

    return write


def test_the_shipped_adapter_passes():
    found = preflight(models.shipped_adapter(), BASE)
    assert (found.folder, found.rank) == (models.shipped_adapter(), 16)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: lm_head"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias: all"),
        ({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"rank_pattern": {"q_proj": 1024}}, "r=1024"),
    ],
)
def test_what_vllm_does_not_serve_is_refused(adapter, changes, said):
    with pytest.raises(AdapterError, match=said):
        preflight(adapter(**changes), BASE)


def test_an_adapter_of_another_base_is_refused(adapter, tmp_path):
    folder = adapter()
    weights = load_file(folder / "adapter_model.safetensors")
    wider = {name: value.repeat(1, 2) if "lora_A" in name else value for name, value in weights.items()}
    save_file(wider, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="适配器的是 256×1536"):
        preflight(folder, BASE)
    renamed = {name.replace("layers.", "blocks."): value for name, value in weights.items()}
    save_file(renamed, folder / "adapter_model.safetensors")
    assert first_misfit(folder, BASE).startswith("底座里没有 model.blocks.0.")


def test_a_whole_model_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(AdapterError, match="不是适配器"):
        preflight(BASE, BASE)
    with pytest.raises(ValueError, match="空文件夹"):
        preflight(tmp_path, BASE)
    with pytest.raises(FileNotFoundError):
        preflight(tmp_path / "absent", BASE)


def test_ranks():
    assert largest_rank({"r": 8}) == 8
    assert largest_rank({"r": 8, "rank_pattern": {"q_proj": 24}}) == 24
    assert [max_lora_rank([r]) for r in (1, 2, 8, 16, 17, 512)] == [1, 8, 8, 16, 32, 512]
    assert max_lora_rank([4, 20]) == 32


def test_plain_lora_in_all_its_forms_is_supported():
    plain = {"peft_type": "LORA", "bias": "none", "modules_to_save": None, "use_dora": False}
    for start in (True, False, "gaussian", "eva"):
        assert unsupported(plain | {"init_lora_weights": start, "use_rslora": True}) is None


def test_shapes_are_those_of_the_tensors():
    weights = load_file(BASE / "model.safetensors")
    assert shapes(BASE) == {name: list(value.shape) for name, value in weights.items()}
