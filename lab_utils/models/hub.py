"""The two hubs: whether they can be reached, what they keep on this disk, and the download itself."""

import os
import shutil
import socket
import threading
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from lab_utils.errors import LabError, Unavailable
from lab_utils.models.completeness import folder_bytes, missing_files
from lab_utils.models.registry import Hosted

HUBS = {
    "modelscope": ("ModelScope", "MODELSCOPE_ENDPOINT", "https://modelscope.cn"),
    "huggingface": ("Hugging Face", "HF_ENDPOINT", "https://huggingface.co"),
}
"""Hub -> its name, the environment variable that names a mirror, its address."""
_SPARE = 1.1
"""Free disk asked for, as a multiple of what will be written."""
_UNWANTED = ["*.bin", "*.pth", "*.gguf"]
"""Other copies of the weights, which some repositories hold next to the safetensors."""


class NoRoom(LabError, OSError):
    """The disk has too little room for a model; also an OSError."""


def cache_dir() -> Path:
    """Where fetched models are kept: `$LAB_CACHE`, else `~/.cache/lab_utils`."""
    named = os.environ.get("LAB_CACHE")
    return Path(named).expanduser().resolve() if named else Path.home() / ".cache" / "lab_utils"


def sources_reachable(timeout: float = 1.5) -> dict[str, bool]:
    """Hub -> whether a TCP connection to it opens within `timeout` seconds; both at once.

    Mirrors named by the environment are used. Behind a proxy it is the proxy that is tried,
    which says nothing about what lies behind it.
    """
    answers = dict.fromkeys(HUBS, False)
    threads = [threading.Thread(target=_knock, args=(hub, timeout, answers), daemon=True) for hub in HUBS]
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(answers)


def require_disk(folder: Path, needed: int, what: str) -> None:
    """Raise NoRoom unless the disk of `folder` has 1.1 × `needed` bytes free."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < _SPARE * needed:
        raise NoRoom(
            f"磁盘空间不够 (disk)：{what} 要占 {size_text(needed)}，连同余量需要 {size_text(_SPARE * needed)}，"
            f"而 {existing} 只剩 {size_text(free)}",
            "请清理磁盘，或把缓存换到大盘上：export LAB_CACHE=大盘上的文件夹",
        )


def fetch(model: Hosted, folder: Path, hub: str) -> Path:
    """Download `model` to `folder`, which appears complete; an interrupted download goes on where it stopped.

    Raises Unavailable, naming other ways, when the hub can't be reached or the download fails.
    """
    title, repository = HUBS[hub][0], getattr(model, hub)
    partial = folder.with_name(f".{model.name}.{hub}.partial")
    require_disk(folder, max(0, model.download_bytes - folder_bytes(partial)), model.name)
    if not sources_reachable(5)[hub]:
        raise Unavailable(
            f"连不上 {title}（{_address(hub)}），下载不到 {model.name}", _elsewhere(model, folder, hub)
        )
    print(
        f"下载 {model.name}：约 {size_text(model.download_bytes)}，来自 {title}（{repository}），存到 {folder}"
    )
    partial.mkdir(parents=True, exist_ok=True)
    try:
        _snapshot(hub, repository, partial)
    except Exception as error:  # both hubs raise many kinds; each means that there is no model
        raise Unavailable(
            f"从 {title} 下载 {repository} 没有成功：{error}\n",
            f"再运行一次会接着下载。{_elsewhere(model, folder, hub)}",
        ) from error
    lacking = missing_files(partial)
    if lacking:
        raise Unavailable(
            f"从 {title} 下载的 {repository} 不完整，缺少：{'、'.join(lacking)}", "请再运行一次"
        )
    partial.rename(folder)
    return folder


def kept_copy(model: Hosted, hub: str) -> Path | None:
    """Folder of `model` in the hub's own cache, perhaps incomplete, or None; no network."""
    try:
        return Path(_client(hub)(getattr(model, hub), local_files_only=True))
    except Exception:  # not installed, or not in the cache: the hubs have no common class for that
        return None


def by_hand(folder: Path) -> str:
    """Where a model fetched by hand belongs, in words."""
    return f"现成的模型文件夹请放到 {folder}。"


def size_text(size: float) -> str:
    """`size` in bytes as text in units of 10⁹ or 10⁶ bytes."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _client(hub: str):
    """The hub's own `snapshot_download`."""
    if hub == "modelscope":
        from modelscope import snapshot_download
    else:
        from huggingface_hub import snapshot_download
    return snapshot_download


def _snapshot(hub: str, repository: str, folder: Path) -> None:
    """Bring the files of `repository` into `folder`, going on with what is there."""
    mirror = _address(hub) if os.environ.get(HUBS[hub][1]) else None
    _client(hub)(repository, local_dir=str(folder), ignore_patterns=_UNWANTED, endpoint=mirror)


def _knock(hub: str, timeout: float, answers: dict[str, bool]) -> None:
    """Set `answers[hub]` when a TCP connection to the hub, or to the proxy before it, opens."""
    target = urlsplit(_address(hub))
    proxy = urllib.request.getproxies().get(target.scheme)
    if proxy and not urllib.request.proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        with socket.create_connection((target.hostname, port), timeout):
            answers[hub] = True
    except OSError:
        pass


def _address(hub: str) -> str:
    """Address of the hub, or of the mirror that the environment names."""
    _, variable, address = HUBS[hub]
    named = os.environ.get(variable) or address
    return named if "://" in named else f"https://{named}"


def _elsewhere(model: Hosted, folder: Path, hub: str) -> str:
    """How to get the model by another way."""
    other = next(name for name in HUBS if name != hub)
    return (
        f"可以换一个来源：export LAB_HUB={other}；或在有网络的机器上运行 "
        f"modelscope download --model {model.modelscope} --local_dir {model.name}，把整个文件夹拷过来。{by_hand(folder)}"
    )
