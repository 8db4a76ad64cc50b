"""The configuration that a name, a folder, a dict or a transformers object stands for; checked, no weight read."""

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from lab_utils import models
from lab_utils.errors import InvalidType, InvalidValue, NotFound, nearest

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    Source: TypeAlias = PretrainedConfig | dict | str | Path

CONFIGS = models.ASSETS / "configs"
"""Configurations of well-known models: the figures only."""

_SIZES = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
    "d_model n_embd n_layer n_head num_experts num_local_experts n_routed_experts"
).split()
_OWN_HEAD_SIZE = ("head_dim", "d_kv", "kv_channels", "qk_nope_head_dim", "qk_head_dim")
"""A configuration with one of these doesn't take the size of a head from hidden_size."""


def known() -> list[str]:
    """Names of the configurations that ship with the course."""
    return sorted(file.stem for file in CONFIGS.glob("*.json"))


def load_config(source: "Source") -> "PretrainedConfig":
    """The configuration that `source` stands for; no weights are read, nothing is downloaded.

    `source`: a transformers configuration (given back as it is), a dict with the content of a
    `config.json`, a folder that holds one, or a name: one of `known()`, with or without `-Instruct`,
    or a model of `lab_utils.models` that lies on this disk.

    Raises ValueError for an unknown name, a file that isn't a JSON object, a missing or unknown
    `model_type`, and sizes that can't be; FileNotFoundError for a folder without `config.json`;
    TypeError for anything else than these kinds.
    """
    from transformers import PretrainedConfig

    if isinstance(source, PretrainedConfig):
        raw = source.to_dict()
        _check_positive(raw, type(source).__name__)
        _check_heads(raw, type(source).__name__)
        return source
    if isinstance(source, dict):
        return _from_dict(source, "传入的字典 (dict)")
    if not isinstance(source, (str, Path)):
        raise InvalidType(
            f"要一份 transformers 配置 (config)、字典 (dict)、文件夹或名字，收到的是 {type(source).__name__}"
        )
    file = _config_file(source)
    return _from_dict(_read(file), str(file))


def _config_file(source: str | Path) -> Path:
    """The `config.json` that a name or a folder stands for."""
    folder = Path(source).expanduser()
    if isinstance(source, str):
        for name in (source, source.removesuffix("-Instruct")):
            if name in known():
                return CONFIGS / f"{name}.json"
        if source in models.REGISTRY:
            folder = models.local(source) or folder
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return folder / "config.json"
        raise NotFound(f"文件夹 {folder} 里没有 config.json", "请给出模型的文件夹，而不是它上面或下面的一层")
    if folder.is_file():
        raise InvalidValue(f"{folder} 是文件", "请给出它所在的文件夹，里面要有 config.json")
    hint = nearest(str(source), sorted({*known(), *models.REGISTRY}))
    raise InvalidValue(
        f"不认识 {str(source)!r}：它不是已知的名字，也不是本机上的文件夹",
        f"{hint}可用的名字：{'、'.join(known())}",
    )


def _read(file: Path) -> dict:
    """The JSON object in `file`."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidValue(f"{file} 不是完整的 JSON：{error}", "请重新取一份") from error
    if not isinstance(raw, dict):
        raise InvalidValue(f"{file} 里应该是一个 JSON 对象 (object)，却是 {type(raw).__name__}")
    return raw


def _from_dict(raw: dict, where: str) -> "PretrainedConfig":
    """The configuration with the content `raw`; `where` names it in an error."""
    from transformers import CONFIG_MAPPING, PretrainedConfig

    kind = raw.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise InvalidValue(
            f"{where} 里没有 model_type，不知道是哪一种模型", '请补上，例如 "model_type": "qwen3"'
        )
    _check_positive(raw, where)
    if "layout" in raw:
        return PretrainedConfig(**raw)
    if kind not in CONFIG_MAPPING:
        by_name = "ChatGLM3-6B 请按名字数：count('ChatGLM3-6B')" if kind.startswith("chatglm") else ""
        raise InvalidValue(
            f"装着的 transformers 不认识 model_type {kind!r}", nearest(kind, CONFIG_MAPPING) + by_name, where
        )
    try:
        config = CONFIG_MAPPING[kind].from_dict(copy.deepcopy(raw))
    except Exception as error:  # each configuration class refuses in its own way
        _check_heads(raw, where)
        raise InvalidValue(f"{where} 里的数值搭不成配置 (config)：{last_line(error)}") from error
    _check_heads(config.to_dict(), where)
    return config


def _check_positive(raw: dict, where: str) -> None:
    """Raise InvalidValue unless the sizes in `raw`, and in the configurations inside it, are whole and positive."""
    for key, value in raw.items():
        if isinstance(value, dict):
            _check_positive(value, f"{where} 的 {key}")
        elif key in _SIZES and value is not None and not isinstance(value, (list, tuple)):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or value < 1:
                raise InvalidValue(f"{key} = {value!r} 不对，要 1 或更大的整数", where=where)


def _check_heads(raw: dict, where: str) -> None:
    """Raise InvalidValue where the attention heads don't divide evenly, in `raw` or a configuration inside it."""
    for key, value in raw.items():
        if isinstance(value, dict):
            _check_heads(value, f"{where} 的 {key}")
    size, heads, groups = (raw.get(f) for f in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    given = any(raw.get(field) for field in _OWN_HEAD_SIZE)
    if isinstance(size, int) and isinstance(heads, int) and not given and size % heads:
        raise InvalidValue(
            f"hidden_size = {size} 不能被 num_attention_heads = {heads} 整除，每个头分不到整数维", where=where
        )
    if isinstance(heads, int) and isinstance(groups, int) and heads % groups:
        raise InvalidValue(
            f"num_attention_heads = {heads} 不能被 num_key_value_heads = {groups} 整除，"
            "查询头 (query head) 分不成一样大的组",
            where=where,
        )


def last_line(error: Exception) -> str:
    """The last line of what `error` says: the libraries' long messages end with the cause."""
    return str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__
