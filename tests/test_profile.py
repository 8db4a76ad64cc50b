"""The profile a machine gets, and the recipes in it."""

import sys

import pytest

from lab_utils import models, profile
from lab_utils.errors import InvalidValue, Unavailable


@pytest.fixture(autouse=True)
def no_override(monkeypatch):
    monkeypatch.delenv("LAB_PROFILE", raising=False)
    monkeypatch.delenv("LAB_MODEL", raising=False)


@pytest.fixture
def cuda(monkeypatch):
    """Sets what torch answers about CUDA: `cuda(seen, bf16, capability)`."""
    import torch

    def answer(seen: bool, bf16: bool = True, capability: tuple[int, int] = (7, 5)) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)

    return answer


def test_cpu_is_chosen_without_cuda_and_computes_in_float32(cuda):
    cuda(False)
    chosen = profile.current()
    assert (chosen.name, chosen.device, chosen.base_model) == ("cpu", "cpu", models.SHIPPED)
    assert chosen.torch_dtype == chosen.quant_compute_dtype == "float32"
    assert chosen.sft.model == models.SHIPPED
    assert "CUDA" in chosen.reason


@pytest.mark.parametrize(
    ("bf16", "capability", "dtype"),
    [(True, (9, 0), "bfloat16"), (False, (7, 5), "float16"), (False, (6, 1), "float32")],
)
def test_gpu_is_chosen_with_cuda_in_a_dtype_the_card_has(cuda, bf16, capability, dtype):
    cuda(True, bf16, capability)
    chosen = profile.current()
    assert (chosen.name, chosen.device, chosen.base_model) == ("gpu", "cuda", "Qwen3-0.6B")
    assert chosen.torch_dtype == chosen.quant_compute_dtype == dtype
    assert bf16 or f"改用 {dtype}" in chosen.reason


def test_lab_model_puts_the_shipped_model_with_its_own_recipe_on_a_gpu(cuda, monkeypatch):
    cuda(True)
    monkeypatch.setenv("LAB_MODEL", models.SHIPPED)
    chosen = profile.current()
    assert (chosen.name, chosen.device, chosen.base_model) == ("gpu", "cuda", models.SHIPPED)
    assert chosen.sft == profile.RECIPES["cpu"]["verse"]
    assert chosen.quant_compute_dtype == "bfloat16"
    assert "LAB_MODEL=xiaoshi-base" in chosen.reason
    assert chosen.recipe("classical_chinese").model == "Qwen2.5-7B-Instruct"


def test_lab_model_may_be_a_folder_and_is_the_same_from_another_one(cuda, monkeypatch, tmp_path):
    cuda(False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_MODEL", "./mine")
    chosen = profile.current()
    assert chosen.base_model == chosen.sft.model == str(tmp_path / "mine")
    assert chosen.sft.learning_rate == profile.RECIPES["cpu"]["verse"].learning_rate


@pytest.mark.parametrize("value", ["cpu", " CPU "])
def test_the_environment_overrides_what_torch_sees(cuda, monkeypatch, value):
    cuda(True)
    monkeypatch.setenv("LAB_PROFILE", value)
    chosen = profile.current()
    assert chosen.name == "cpu"
    assert "LAB_PROFILE" in chosen.reason


def test_another_value_of_lab_profile_is_refused(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "tpu")
    with pytest.raises(InvalidValue, match="LAB_PROFILE='tpu'.*cpu 或 gpu"):
        profile.current()


def test_gpu_without_cuda_is_refused_with_a_way_out(cuda, monkeypatch):
    cuda(False)
    monkeypatch.setenv("LAB_PROFILE", "gpu")
    with pytest.raises(Unavailable, match="no CUDA device.*nvidia-smi.*LAB_PROFILE=cpu"):
        profile.current()


def test_a_cpu_build_of_torch_is_told_without_importing_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(profile, "version", lambda name: "2.13.0+cpu")
    assert not profile.sees_cuda()
    assert "torch" not in sys.modules


def test_a_machine_without_torch_gets_cpu(monkeypatch):
    def absent(name):
        raise profile.PackageNotFoundError(name)

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(profile, "version", absent)
    assert profile.current().name == "cpu"


def test_every_recipe_names_a_known_model_and_fits_together():
    assert set(profile.RECIPES) == {"cpu", "gpu"}
    for tasks in profile.RECIPES.values():
        assert "verse" in tasks
        for task, recipe in tasks.items():
            assert recipe.model in models.REGISTRY, task
            assert recipe.quant_bits in (None, 4, 8)
            assert 0 < recipe.learning_rate < 1e-2
            assert 0 <= recipe.warmup_ratio < 0.2


def test_the_cpu_profile_needs_no_download():
    chosen = {recipe.model for recipe in profile.RECIPES["cpu"].values()}
    assert {type(models.REGISTRY[name]) for name in chosen} == {models.Shipped}


def test_the_classical_chinese_recipe_is_the_one_the_course_states():
    recipe = profile.RECIPES["gpu"]["classical_chinese"]
    assert (recipe.model, recipe.dataset) == ("Qwen2.5-7B-Instruct", "swift/classical_chinese_translate")
    assert (recipe.lora_rank, recipe.lora_alpha, recipe.target_modules) == (8, 32, "all-linear")
    assert (recipe.learning_rate, recipe.epochs, recipe.warmup_ratio) == (5e-5, 3, 0.03)
    assert (recipe.max_length, recipe.grad_accumulation) == (1024, 16)


def test_an_unknown_task_lists_the_tasks_of_the_profile(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "cpu")
    with pytest.raises(InvalidValue, match="'medical'.*verse"):
        profile.current().recipe("medical")
