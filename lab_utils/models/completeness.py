"""What the files of a model folder say: whether it is complete, and how large it is."""

import json
from pathlib import Path


def missing_files(folder: Path) -> list[str]:
    """What `folder` lacks to be a complete model with its tokenizer; empty when it lacks nothing.

    An index of shards that can't be read counts as missing.
    """
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        lacking.append("tokenizer.json")
    indexes = [folder / f"{stem}.index.json" for stem in ("model.safetensors", "pytorch_model.bin")]
    index = next((file for file in indexes if file.is_file()), None)
    if index:
        shards = _shards(index)
        lacking += (
            sorted(shard for shard in shards if not (folder / shard).is_file()) if shards else [index.name]
        )
    elif not any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin")):
        lacking.append("model.safetensors")
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
