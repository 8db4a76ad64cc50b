"""Tell the folders of a project apart: adapter, run, full checkpoint, merged model, base, incomplete."""

import json
from dataclasses import dataclass
from pathlib import Path

from lab_utils import models
from lab_utils.artifacts.checkpoint import find_checkpoint, is_checkpoint, is_version, newest_version
from lab_utils.errors import InvalidValue, NotFound

MERGE_RECORD = "merge.json"
"""What `merge` leaves in the folder it writes: base, adapter, rank, alpha, dtype."""
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
WHOLE = ("merged", "full", "base")
"""Kinds that hold a whole model: they can be loaded, served and published without anything else."""


@dataclass(frozen=True)
class Artifact:
    """What a folder is. `kind`:

    - `adapter`: a LoRA adapter, useless without its base;
    - `run`: what a training left, with checkpoints inside;
    - `full`: a checkpoint of a full-parameter training;
    - `merged`: a base with an adapter merged in;
    - `base`: a complete model with no trace of training or merging;
    - `gguf`: a model as one GGUF file;
    - `incomplete`: one of these with something missing or broken;
    - `unknown`: none of these.

    `why` says in Chinese what it was told by.
    """

    folder: Path
    kind: str
    why: str

    def __str__(self) -> str:
        return f"{self.folder.name}：{self.kind}，{self.why}"


def classify(folder: str | Path) -> Artifact:
    """What `folder` is, from its files alone; nothing is loaded. A `.gguf` file may be given too.

    Raises NotFound when there is nothing at `folder`.
    """
    folder = Path(folder)
    if not folder.exists():
        raise NotFound(f"没有这个文件夹：{folder}", "请检查路径，或先运行产生它的那一步")
    if folder.is_file():
        kind, why = _file(folder)
    elif (folder / "adapter_config.json").is_file() or any((folder / n).is_file() for n in ADAPTER_WEIGHTS):
        kind, why = _adapter(folder)
    elif _holds_model(folder):
        kind, why = _model(folder)
    elif newest_version(folder):
        kind, why = _run(folder)
    elif ggufs := sorted(folder.glob("*.gguf")):
        kind, why = "gguf", f"里面有 {ggufs[0].name}：llama.cpp、Ollama 用的单文件模型"
    else:
        inside = "、".join(sorted(p.name for p in folder.iterdir())[:6])
        kind = "unknown"
        why = f"没有模型、适配器或训练记录，里面是：{inside}" if inside else "空文件夹"
    return Artifact(folder, kind, why)


def resolve(folder: str | Path, which: str = "last") -> Path:
    """The folder meant: of a run its `last` or `best` checkpoint, anything else complete is itself.

    Raises NotFound when there is nothing, or no checkpoint of a run that came to its end; InvalidValue
    for a folder that is incomplete or not a model.
    """
    artifact = classify(folder)
    if artifact.kind == "run" or (artifact.folder.is_dir() and is_checkpoint(artifact.folder)):
        return find_checkpoint(artifact.folder, which)
    if artifact.kind == "incomplete" and _is_run(artifact.folder):
        return find_checkpoint(artifact.folder, which)  # raises, saying what the run lacks
    if artifact.kind in ("incomplete", "unknown"):
        raise InvalidValue(f"{artifact.folder} 不能用（{artifact.kind}）：{artifact.why}", "请换一个文件夹")
    return artifact.folder


def model_folder(model: str | Path) -> Path:
    """The folder of a name of `lab_utils.models`, or the one meant by a folder or run folder, as by `resolve`.

    Raises what `models.path` and `resolve` raise.
    """
    return models.path(str(model)) if str(model) in models.REGISTRY else resolve(model)


def broken_weights(folder: Path) -> list[str]:
    """What is wrong with the weight files of a model or adapter in `folder`, one line a file, in Chinese.

    Only headers are read. A safetensors file must hold exactly the bytes its header announces, and
    each tensor of an index must be in the file that the index names.
    """
    index = _index(folder)
    named = sorted(set(index.values())) if index else _single_weights(folder)
    problems = []
    for name in named:
        if not (folder / name).is_file():
            problems.append(f"缺少权重文件 {name}")
        elif error := _unreadable(folder / name):
            problems.append(f"权重文件 {name} 读不出来（{error}）：下载或保存时中断了")
        elif index and name.endswith(".safetensors"):
            lacking = {t for t, file in index.items() if file == name} - tensor_shapes(folder / name).keys()
            if lacking:
                problems.append(f"{name} 里没有索引写着的张量 {min(lacking)}，共缺 {len(lacking)} 个")
    return problems


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Name → shape of each tensor in a safetensors file; only the header is read.

    Raises SafetensorError for a file that isn't one or was cut off.
    """
    from safetensors import safe_open

    with safe_open(file, framework="np") as weights:
        return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118  # no dict: it can only list its keys


def quantized_bits(folder: Path) -> int | None:
    """4 or 8 when the weights of a model folder are stored quantized, else None."""
    config = read_json(folder / "config.json").get("quantization_config")
    if not config:
        return None
    return 4 if config.get("load_in_4bit") or config.get("bits") == 4 else 8


def read_json(file: Path) -> dict:
    """A JSON object from `file`; empty when the file is missing or holds no JSON object."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _file(path: Path) -> tuple[str, str]:
    if path.suffix == ".gguf":
        with path.open("rb") as file:
            good = file.read(4) == b"GGUF"
        return ("gguf", "llama.cpp、Ollama 用的单文件模型") if good else ("incomplete", "开头不是 GGUF 标记")
    return "unknown", "是一个文件，不是文件夹"


def _adapter(folder: Path) -> tuple[str, str]:
    config = read_json(folder / "adapter_config.json")
    if not config:
        return "incomplete", "有适配器的权重，但没有可读的 adapter_config.json"
    if not any((folder / name).is_file() for name in ADAPTER_WEIGHTS):
        return "incomplete", "有 adapter_config.json，但没有适配器的权重 adapter_model.safetensors"
    if problems := broken_weights(folder):
        return "incomplete", problems[0]
    base = Path(str(config.get("base_model_name_or_path") or "")).name or "没有写明"
    size = f"r={config['r']}，" if "r" in config else ""
    return "adapter", f"只有适配器的权重（{size}底座 {base}），要和底座一起用，或先合并"


def _model(folder: Path) -> tuple[str, str]:
    if lacking := models.missing_files(folder):
        return "incomplete", f"缺少 {'、'.join(lacking)}"
    if not read_json(folder / "config.json"):
        return "incomplete", "config.json 不是完整的 JSON"
    if problems := broken_weights(folder):
        return "incomplete", problems[0]
    bits = quantized_bits(folder)
    note = f"；注意，权重存成了 {bits} 位量化" if bits else ""
    if record := read_json(folder / MERGE_RECORD):
        return "merged", f"{MERGE_RECORD} 记着：{record.get('base')} 合并了 {record.get('adapter')}{note}"
    arguments = read_json(folder / "args.json")
    if arguments.get("tuner_type", "full") != "full":
        return "merged", f"权重完整，args.json 记着它来自一次 {arguments['tuner_type']} 训练：已经合并{note}"
    if (folder / "trainer_state.json").is_file():
        return "full", f"完整的权重和训练记录：全参数训练的检查点{note}"
    return "base", f"完整的模型，没有训练或合并的痕迹{note}"


def _run(folder: Path) -> tuple[str, str]:
    try:
        last = find_checkpoint(folder)
    except NotFound as error:
        return "incomplete", str(error).rstrip("。")
    return "run", f"一次训练的文件夹，里面最后的检查点是 {last.name}；它自己不是模型"


def _is_run(folder: Path) -> bool:
    return folder.is_dir() and not _holds_model(folder) and newest_version(folder) is not None


def _holds_model(folder: Path) -> bool:
    """Whether a model, perhaps incomplete, lies straight in `folder`."""
    if is_version(folder) and not is_checkpoint(folder) and not _single_weights(folder):
        return False
    return (folder / "config.json").is_file() or bool(_index(folder)) or bool(_single_weights(folder))


def _index(folder: Path) -> dict[str, str]:
    """Tensor -> file, from the index of a model in shards; empty when there is no index."""
    for stem in ("model.safetensors", "pytorch_model.bin"):
        if weights := read_json(folder / f"{stem}.index.json").get("weight_map"):
            return weights
    return {}


def _single_weights(folder: Path) -> list[str]:
    names = (*ADAPTER_WEIGHTS, "model.safetensors", "pytorch_model.bin")
    return [name for name in names if (folder / name).is_file()]


def _unreadable(file: Path) -> str | None:
    """Why a weight file can't be read, or None."""
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError

        try:
            return None if tensor_shapes(file) else "里面没有张量"
        except (SafetensorError, OSError) as error:
            return str(error)
    import zipfile

    return None if zipfile.is_zipfile(file) else "不是完整的 PyTorch 文件"
