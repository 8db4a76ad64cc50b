"""From a recipe of the course to the `swift` commands that carry it out: the one place that does."""

import json
from pathlib import Path

from lab_utils import models
from lab_utils.profile import Profile, SftRecipe
from lab_utils.swift.build import Command, command


def model_flags(name: str) -> dict:
    """Flags that tell ms-swift what kind of model `name` is: it can't tell from a local folder.

    A thinking model answers directly (`enable_thinking` off), so that the answer can be scored. For a folder that
    isn't in the registry the architecture is read from its `config.json`, and the template is ChatML where its own
    chat template is, else ms-swift's choice for that architecture. Raises what `models.path` raises.
    """
    if name not in models.REGISTRY:
        return _folder_flags(models.path(name))
    entry = models.entry(name)
    thinking = {"enable_thinking": False} if entry.template == "qwen3" else {}
    return {"model_type": entry.model_type, "template": entry.template, **thinking}


def _folder_flags(folder: Path) -> dict:
    """Flags for a model that is only known by its folder."""
    texts = [folder / "chat_template.jinja", folder / "tokenizer_config.json"]
    chatml = any("<|im_start|>" in file.read_text(encoding="utf-8") for file in texts if file.is_file())
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    return {"model_type": kind, **({"template": "chatml"} if chatml else {})}


def qlora_flags(recipe: SftRecipe, setting: Profile) -> dict:
    """Adapter and quantization: LoRA, and with `quant_bits` QLoRA (Dettmers et al. 2023)."""
    lora = {
        "tuner_type": "lora",
        "lora_rank": recipe.lora_rank,
        "lora_alpha": recipe.lora_alpha,
        "target_modules": recipe.target_modules,
    }
    if recipe.quant_bits is None:
        return lora
    compute = {"bnb_4bit_compute_dtype": setting.quant_compute_dtype} if recipe.quant_bits == 4 else {}
    return {**lora, "quant_method": "bnb", "quant_bits": recipe.quant_bits, **compute}


def sft_command(
    recipe: SftRecipe,
    setting: Profile,
    dataset: str | Path,
    output_dir: str | Path,
    *,
    model: str | Path | None = None,
    **other,
) -> Command:
    """The `swift sft` command of a recipe on this machine.

    `model`: folder or hub id; None: `models.path(recipe.model)`, which downloads what isn't
    there. `other` flags are added, or take the place of the recipe's.
    """
    flags = {
        "model": model or models.path(recipe.model),
        **model_flags(recipe.model),
        "dataset": dataset,
        **qlora_flags(recipe, setting),
        "torch_dtype": setting.torch_dtype,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": recipe.warmup_ratio,
        "num_train_epochs": recipe.epochs,
        "per_device_train_batch_size": recipe.batch_size,
        "gradient_accumulation_steps": recipe.grad_accumulation,
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "max_length": recipe.max_length,
        "split_dataset_ratio": 0,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "save_only_model": True,
        "include_num_input_tokens_seen": True,
        "seed": 42,
        "output_dir": output_dir,
    }
    return command("sft", **{**flags, **other})


def plugin_path() -> Path:
    """The file for `--external_plugins`: with it `--reward_funcs` takes names from `lab_utils.rewards`."""
    return Path(__file__).with_name("reward_plugin.py")
