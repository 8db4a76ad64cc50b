"""A model and its tokenizer by transformers, with or without an adapter."""

import logging
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from lab_utils.errors import InvalidValue, Unavailable
from lab_utils.models import locating, registry
from lab_utils.models.registry import Entry, Hub

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig


def load(name: str, dtype: str = "float32", adapter: str | Path | None = None):
    """`(model, tokenizer)` by transformers, on the CPU, in evaluation mode.

    `name`: as for `path`; `dtype`: a torch dtype's name; `adapter`: folder of a LoRA adapter that
    is put on the model by peft, not merged. Raises what `path` raises; InvalidValue for a model that
    isn't a text model or for a folder that holds no adapter in safetensors; Unavailable when the model needs
    versions that aren't installed.
    """
    if name in registry.REGISTRY:
        _check_loadable(registry.REGISTRY[name])
    if adapter is not None:
        _check_adapter(Path(adapter))
    folder = locating.path(name)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), use_safetensors=True)
    if adapter is not None:
        model = with_adapter(model, adapter)
    return model.eval(), tokenizer


def with_adapter(model, adapter: str | Path):
    """`model` with the LoRA adapter in the folder `adapter` put on it by peft, not merged.

    Raises InvalidValue for a folder that holds no adapter, or one whose weights are a pickle, which can run code when
    it is read: peft would fall back on it.
    """
    from peft import PeftModel

    _check_adapter(Path(adapter))
    return PeftModel.from_pretrained(model, str(adapter))


def nf4_config(compute_dtype: "torch.dtype", double_quant: bool = True) -> "BitsAndBytesConfig":
    """How transformers loads a model with NF4 weights, computing in `compute_dtype`, as for QLoRA.

    double_quant: the scales are quantized too.
    """
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def quiet() -> None:
    """Keep from the student what tells nothing: the bar of a load that takes no time, deprecations
    inside the libraries, and bitsandbytes' line about an optional package."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _check_adapter(folder: Path) -> None:
    """Raise InvalidValue unless `folder` holds an adapter whose weights are safetensors."""
    if not (folder / "adapter_config.json").is_file():
        raise InvalidValue(
            f"{folder} 里没有适配器 (adapter_config.json)",
            "请给出 checkpoint 文件夹，而不是整次运行的文件夹",
        )
    if not (folder / "adapter_model.safetensors").is_file():
        raise InvalidValue(
            f"{folder} 里没有 adapter_model.safetensors；adapter_model.bin 是 pickle，读它可能会运行里面的代码，不读",
            "信得过来源的话，用 peft 读一次，再用 save_pretrained 存成 safetensors",
        )


def _check_loadable(model: Entry) -> None:
    """Raise when `load` can't read `model`, before anything is downloaded for it."""
    if model.model_type == "qwen2_5_vl":
        raise InvalidValue(
            f"{model.name} 是图文模型，load() 只读文本模型",
            f"请用 transformers 的 AutoModelForImageTextToText 读取 models.path({model.name!r}) 给出的文件夹",
        )
    if isinstance(model, Hub) and model.requires:
        from packaging.requirements import Requirement

        need = Requirement(model.requires)
        have = version(need.name)
        if not need.specifier.contains(have, prereleases=True):
            raise Unavailable(
                f"{model.name} 自带的代码要求 {model.requires}，这里装的是 {need.name} {have}，读不了",
                "请改用 Qwen3-0.6B 或 Qwen2.5-7B-Instruct，或另建一个旧版本的环境",
            )
