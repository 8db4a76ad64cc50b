"""Recipes and models in ms-swift's own words: data sets of the GPU recipes in its registry, flags of a model by its folder."""

import shutil

import pytest

from lab_utils import models, profile, swift

HUB = {task: recipe for task, recipe in profile.RECIPES["gpu"].items() if "/" in recipe.dataset}


@pytest.fixture(scope="module")
def registry():
    """Id on ModelScope -> what the installed ms-swift knows of the data set."""
    from swift.dataset import DATASET_MAPPING

    return {meta.ms_dataset_id: meta for meta in DATASET_MAPPING.values() if meta.ms_dataset_id}


@pytest.mark.slow
@pytest.mark.parametrize("task", HUB)
def test_the_data_set_of_a_hub_recipe_is_in_the_registry_with_its_subset_and_columns(registry, task):
    identifier, _, subset = HUB[task].dataset.partition(":")
    meta = registry[identifier]
    subsets = {getattr(one, "subset", one): one for one in meta.subsets}
    assert (subset or "default") in subsets
    named = getattr(getattr(subsets[subset or "default"], "preprocess_func", None), "columns", {})
    if HUB[task].columns is None:
        assert not named, "the registry names the columns: put them into the recipe"
    else:
        assert {named[column] for column in HUB[task].columns} == {"query", "response"}


def test_the_tasks_with_a_data_set_on_a_hub():
    assert set(HUB) == {"classical_chinese", "medical", "gsm8k"}
    assert {recipe.model for recipe in HUB.values()} <= set(models.REGISTRY)


def test_flags_of_a_model_known_by_its_folder_come_from_its_files(tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(models.path(models.SHIPPED), folder)
    assert swift.model_flags(str(folder)) == {"model_type": "qwen3", "template": "chatml"}
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert swift.model_flags(str(folder)) == {"model_type": "qwen3"}
    with pytest.raises(ValueError, match="nowhere"):
        swift.model_flags("nowhere")
