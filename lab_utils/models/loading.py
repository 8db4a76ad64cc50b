"""A model and its tokenizer by transformers, with or without an adapter."""

import logging
from importlib.metadata import version
from pathlib import Path

from lab_utils.errors import InvalidValue, Unavailable
from lab_utils.models import locating, registry
from lab_utils.models.registry import Entry, Hub


def load(name: str, dtype: str = "float32", adapter: str | Path | None = None):
    """`(model, tokenizer)` by transformers, on the CPU, in evaluation mode.

    `name`: as for `path`; `dtype`: a torch dtype's name; `adapter`: folder of a LoRA adapter that
    is put on the model by peft, not merged. Raises what `path` raises; InvalidValue for a model that
    isn't a text model or for a folder that holds no adapter; Unavailable when the model needs
    versions that aren't installed.
    """
    if name in registry.REGISTRY:
        _check_loadable(registry.REGISTRY[name])
    if adapter is not None and not (Path(adapter) / "adapter_config.json").is_file():
        raise InvalidValue(
            f"{adapter} 里没有适配器 (adapter_config.json)",
            "请给出 checkpoint 文件夹，而不是整次运行的文件夹",
        )
    folder = locating.path(name)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    return model.eval(), tokenizer


def quiet() -> None:
    """Keep from the student what tells nothing: the bar of a load that takes no time, deprecations
    inside the libraries, and bitsandbytes' line about an optional package."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


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
