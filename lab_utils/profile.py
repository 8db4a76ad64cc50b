"""The setting a machine gets: `cpu` with the shipped model, or `gpu` with a model from a hub.

A lab asks `current()` and takes every size from it, so that one notebook runs on both. `LAB_MODEL`, a name
in `lab_utils.models` or a folder, puts another model in the profile's place: with `LAB_MODEL=xiaoshi-base`
a GPU runs every lab without a download.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType

from lab_utils.errors import InvalidValue, Unavailable, nearest


@dataclass(frozen=True)
class SftRecipe:
    """Settings of one supervised fine-tuning run (SFT) with LoRA or QLoRA."""

    model: str
    """Name in `lab_utils.models`."""
    dataset: str
    """Id on ModelScope, with `:subset` where there are several, or `verse_sft` for the course's own verse task."""
    quant_bits: int | None
    """Bits of the frozen base weights (4: QLoRA), or None for LoRA on full-precision weights."""
    lora_rank: int
    """r, the inner size of the two adapter matrices."""
    lora_alpha: int
    """α; the update is scaled by α/r."""
    target_modules: str
    """Which layers get an adapter, in SWIFT's words."""
    learning_rate: float
    """Peak learning rate of the adapter."""
    warmup_ratio: float
    """Share of all steps over which the learning rate rises from zero."""
    epochs: float
    """Passes over the training rows."""
    batch_size: int
    """Rows on the device in one forward pass."""
    grad_accumulation: int
    """Forward passes summed into one optimizer step."""
    max_length: int
    """Longest row in tokens."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass: less memory, more time."""
    columns: tuple[str, str] | None = None
    """The data set's columns for question and answer, where ms-swift's own registry names them. None for a data
    set on ModelScope: the registry holds its id, but no column names, and they are unchecked, since looking takes a
    download; ms-swift then goes by the usual names."""


@dataclass(frozen=True)
class Profile:
    """What the labs use on this machine."""

    name: str
    """`cpu` or `gpu`."""
    reason: str
    """Why this one, in Chinese, for the student."""
    device: str
    """torch device: `cpu` or `cuda`."""
    torch_dtype: str
    """dtype of weights and activations: float32, bfloat16 or float16."""
    quant_compute_dtype: str
    """dtype in which 4-bit weights are computed with once unpacked."""
    base_model: str
    """Name in `lab_utils.models` of the model the labs start from."""
    recipes: Mapping[str, SftRecipe]
    """Task -> settings of its fine-tuning; `verse` is in both profiles."""
    eval_themes: int
    """Held-out themes asked for when a model is scored."""
    eval_batch_size: int
    """Prompts generated from at once."""
    max_new_tokens: int
    """Longest answer, in tokens, when a model is scored on the verse task."""

    @property
    def sft(self) -> SftRecipe:
        """The recipe of the verse task."""
        return self.recipe("verse")

    def recipe(self, task: str) -> SftRecipe:
        """Settings of `task`; InvalidValue, listing the tasks of this profile, when there is none."""
        if task not in self.recipes:
            raise InvalidValue(
                f"{self.name} 档没有任务 (recipe) {task!r}",
                f"{nearest(task, self.recipes)}现有：{'、'.join(self.recipes)}",
            )
        return self.recipes[task]


RECIPES: Mapping[str, Mapping[str, SftRecipe]] = MappingProxyType(
    {
        "cpu": MappingProxyType(
            {
                "verse": SftRecipe(
                    model="xiaoshi-base",
                    dataset="verse_sft",
                    quant_bits=4,
                    lora_rank=16,
                    lora_alpha=32,
                    target_modules="all-linear",
                    learning_rate=2e-3,
                    warmup_ratio=0.03,
                    epochs=1,
                    batch_size=16,
                    grad_accumulation=1,
                    max_length=256,
                    gradient_checkpointing=False,
                )
            }
        ),
        "gpu": MappingProxyType(
            {
                "verse": SftRecipe(
                    model="Qwen3-0.6B",
                    dataset="verse_sft",
                    quant_bits=4,
                    lora_rank=16,
                    lora_alpha=32,
                    target_modules="all-linear",
                    learning_rate=2e-4,
                    warmup_ratio=0.03,
                    epochs=3,
                    batch_size=16,
                    grad_accumulation=1,
                    max_length=256,
                    gradient_checkpointing=False,
                ),
                "classical_chinese": SftRecipe(
                    model="Qwen2.5-7B-Instruct",
                    dataset="swift/classical_chinese_translate",
                    quant_bits=None,
                    lora_rank=8,
                    lora_alpha=32,
                    target_modules="all-linear",
                    learning_rate=5e-5,
                    warmup_ratio=0.03,
                    epochs=3,
                    batch_size=1,
                    grad_accumulation=16,
                    max_length=1024,
                    gradient_checkpointing=True,
                ),
                "medical": SftRecipe(
                    model="Qwen3-0.6B",
                    dataset="swift/medical_zh:zh",
                    quant_bits=4,
                    lora_rank=8,
                    lora_alpha=32,
                    target_modules="all-linear",
                    learning_rate=1e-4,
                    warmup_ratio=0.03,
                    epochs=1,
                    batch_size=8,
                    grad_accumulation=2,
                    max_length=1024,
                    gradient_checkpointing=True,
                    columns=("instruction", "output"),
                ),
                "gsm8k": SftRecipe(
                    model="Qwen2.5-7B-Instruct",
                    dataset="modelscope/gsm8k:main",
                    quant_bits=None,
                    lora_rank=16,
                    lora_alpha=32,
                    target_modules="all-linear",
                    learning_rate=1e-4,
                    warmup_ratio=0.03,
                    epochs=1,
                    batch_size=4,
                    grad_accumulation=4,
                    max_length=1024,
                    gradient_checkpointing=True,
                ),
            }
        ),
    }
)
"""Profile name -> task -> settings."""


def current() -> Profile:
    """The profile of this machine: `LAB_PROFILE` (cpu or gpu) if set, else gpu when torch sees CUDA.

    Raises InvalidValue for another value of `LAB_PROFILE`, and Unavailable for `gpu` on a machine
    where torch sees no CUDA device.
    """
    wanted = os.environ.get("LAB_PROFILE", "").strip().lower()
    if wanted not in ("", "cpu", "gpu"):
        raise InvalidValue(
            f"环境变量 LAB_PROFILE={os.environ['LAB_PROFILE']!r} 不认识，只能是 cpu 或 gpu",
            "请改正 (export LAB_PROFILE=cpu)，或取消它 (unset LAB_PROFILE) 让课程自动选择",
        )
    if wanted == "cpu":
        return _with_model(_cpu("环境变量 LAB_PROFILE=cpu 指定"))
    seen = sees_cuda()
    if wanted == "gpu" and not seen:
        raise Unavailable(
            "LAB_PROFILE=gpu，但 torch 看不到 CUDA 设备 (no CUDA device)",
            "请先运行 nvidia-smi 看驱动和显卡是否正常，"
            '再确认装的不是 CPU 版 torch：python -c "import torch; print(torch.__version__, torch.version.cuda)"。'
            "没有显卡就改用：export LAB_PROFILE=cpu",
        )
    if seen:
        return _with_model(_gpu("环境变量 LAB_PROFILE=gpu 指定" if wanted else "torch 看到了 CUDA 设备"))
    return _with_model(_cpu("torch 看不到 CUDA 设备，用随课程附带的小模型"))


def sees_cuda() -> bool:
    """Whether torch sees a CUDA device. A CPU build of torch is told by its version, without importing it."""
    if "torch" not in sys.modules:
        try:
            if version("torch").endswith("+cpu"):
                return False
        except PackageNotFoundError:
            return False
    import torch

    return torch.cuda.is_available()


def _cpu(reason: str) -> Profile:
    return Profile(
        name="cpu",
        reason=reason,
        device="cpu",
        torch_dtype="float32",
        quant_compute_dtype="float32",
        base_model="xiaoshi-base",
        recipes=RECIPES["cpu"],
        eval_themes=200,
        eval_batch_size=64,
        max_new_tokens=90,
    )


def _gpu(reason: str) -> Profile:
    dtype, why = _gpu_dtype()
    return Profile(
        name="gpu",
        reason=reason + why,
        device="cuda",
        torch_dtype=dtype,
        quant_compute_dtype=dtype,
        base_model="Qwen3-0.6B",
        recipes=RECIPES["gpu"],
        eval_themes=200,
        eval_batch_size=64,
        max_new_tokens=160,
    )


def _gpu_dtype() -> tuple[str, str]:
    """The dtype that this card computes in at full rate, and what to tell the student when it isn't bfloat16.

    float16 has its fast units from compute capability 7.0 (Volta, Turing) on; a card before that is given
    float32, in which it computes faster and more safely.
    """
    import torch

    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16", ""
    if torch.cuda.get_device_capability() >= (7, 0):
        return "float16", "；这张卡不支持 bfloat16，改用 float16"
    return "float32", "；这张卡不支持 bfloat16，float16 也没有加速单元，改用 float32"


def _with_model(chosen: Profile) -> Profile:
    """`chosen` with the model that `LAB_MODEL` names in place of its own; unchanged when it isn't set.

    The verse task takes the recipe that was made for that model, if there is one in either profile: the
    learning rate belongs to the model, the dtype and the batches of an evaluation belong to the device.
    """
    named = os.environ.get("LAB_MODEL", "").strip()
    if not named:
        return chosen
    if "/" in named or os.sep in named:  # a path, not a bare name: a notebook's kernel runs in another folder
        named = str(Path(named).expanduser().resolve())
    verse = [tasks["verse"] for tasks in RECIPES.values() if tasks["verse"].model == named]
    recipe = verse[0] if verse else replace(chosen.sft, model=named)
    return replace(
        chosen,
        reason=f"{chosen.reason}；模型由环境变量 LAB_MODEL={named} 指定",
        base_model=named,
        recipes=MappingProxyType({**chosen.recipes, "verse": recipe}),
    )
