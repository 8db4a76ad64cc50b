"""What the files of a model folder say: whether it is complete, and how large it is."""

import json
from pathlib import Path

_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_CONVERT = (
    "(只有 pytorch_model.bin，是 pickle，读它可能会运行里面的代码，课程不读；"
    "信得过来源的话，用 transformers 读一次，再用 save_pretrained 存成 safetensors)"
)


def missing_files(folder: Path) -> list[str]:
    """What `folder` lacks to be a complete model with its tokenizer; empty when it lacks nothing.

    An index of shards that can't be read counts as missing. Weights count only as safetensors: a pickle (`.bin`) can
    run code when it is read, so a model that has nothing else is told with what to do about it.
    """
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        lacking.append("tokenizer.json")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _shards(index)
        lacking += (
            sorted(shard for shard in shards if not (folder / shard).is_file()) if shards else [index.name]
        )
    elif not (folder / "model.safetensors").is_file():
        pickled = any((folder / name).is_file() for name in _PICKLES)
        lacking.append(f"model.safetensors {_CONVERT}" if pickled else "model.safetensors")
    return lacking


def folder_bytes(folder: Path) -> int:
    """Size in bytes of all files under `folder`; 0 when it doesn't exist."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _shards(index: Path) -> set[str]:
    """The files that an index of shards names; empty when it can't be read."""
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()
