"""Merge an adapter into its base in full precision, by peft or by `swift export`, and leave a record of it.

    W = W₀ + s·BA,  s = α/r      LoRA, Hu et al. 2021 (arXiv 2106.09685), section 4.1

Never into 4 bit: what is added would be rounded to the 16 levels of NF4.
"""

import hashlib
import json
import warnings
from importlib.metadata import version
from pathlib import Path

from lab_utils import models, swift
from lab_utils.artifacts.folder_kinds import (
    MERGE_RECORD,
    WHOLE,
    classify,
    model_folder,
    quantized_bits,
    read_json,
    resolve,
)
from lab_utils.errors import InvalidValue, LabError
from lab_utils.evaluation.candidate import Local, local
from lab_utils.files import atomic_folder

DTYPES = ("float32", "bfloat16", "float16")
TOOLS = ("peft", "swift")


class FolderTaken(LabError, FileExistsError):
    """A folder that was to be written holds something else; also a FileExistsError."""


def merge(
    base: str | Path, adapter: str | Path, folder: str | Path, dtype: str = "float32", by: str = "peft"
) -> Path:
    """Write `base` with `adapter` merged in to `folder`: weights in `dtype`, tokenizer, chat template, record.

    `base`: a model folder or a registered name; `adapter`: an adapter or the run that made it; `by`:
    `peft`, in this process, or `swift`, which runs `swift export`. `folder` appears complete or not
    at all; one that an earlier merge wrote is replaced, anything else there is kept.

    Raises InvalidValue for a base that isn't a whole model in full precision, an adapter that isn't one
    or doesn't fit the base, an unknown dtype or tool; FolderTaken when `folder` holds something
    else; SwiftError when `swift export` fails.
    """
    base_folder, adapter_folder, folder = _base(base), resolve(adapter), Path(folder)
    if dtype not in DTYPES or by not in TOOLS:
        raise InvalidValue(
            f"不能用 dtype={dtype!r}、by={by!r} 合并",
            f"dtype 可用 {'、'.join(DTYPES)}，by 可用 {'、'.join(TOOLS)}",
        )
    if (kind := classify(adapter_folder).kind) != "adapter":
        raise InvalidValue(
            f"{adapter_folder} 是 {kind}，不是适配器 (adapter)，没有什么可以合并",
            "请给出适配器的文件夹，或训练它的文件夹",
        )
    _require_replaceable(folder)
    with atomic_folder(folder) as made:
        (_by_peft if by == "peft" else _by_swift)(base_folder, adapter_folder, made, dtype)
        record = json.dumps(_record(base_folder, adapter_folder, dtype, by), ensure_ascii=False, indent=1)
        (made / MERGE_RECORD).write_text(record, encoding="utf-8")
    return folder


def merged_into_4bit(base: str | Path, adapter: str | Path) -> Local:
    """What comes of merging into a base stored in NF4, as a candidate: to measure, never to keep.

    Each weight is rounded twice, before the update is added and after it. Merged before anything is
    computed: on a CPU bitsandbytes repacks a weight at its first use, and peft's merge would then
    read the repacked bytes as if they were not, and write nonsense without a word.
    """
    candidate = local(base, adapter, bits=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # peft warns of just what is measured here
        candidate.model = candidate.model.merge_and_unload()
    candidate.name = f"{candidate.name}，合并进 4 位"
    return candidate


def merge_command(
    base: str | Path,
    adapter: str | Path,
    output_dir: str | Path,
    dtype: str = "float32",
    model_type: str = "qwen3",
    template: str = "chatml",
) -> swift.Command:
    """The `swift export --merge_lora` command that writes full precision.

    `--load_args false` is what keeps it so: otherwise ms-swift takes `quant_method` and `quant_bits`
    from the training's `args.json`, and what lands in `output_dir` after the merge is quantized again.
    Model type, template and dtype, which it would have taken from there too, are then given.
    """
    return swift.command(
        "export",
        model=base,
        adapters=adapter,
        merge_lora=True,
        load_args=False,
        torch_dtype=dtype,
        model_type=model_type,
        template=template,
        output_dir=output_dir,
    )


def _by_peft(base: Path, adapter: Path, folder: Path, dtype: str) -> None:
    try:
        model, tokenizer = models.load(str(base), dtype, adapter)
    except RuntimeError as error:  # shapes that don't match
        raise InvalidValue(
            f"适配器 {adapter.name} 装不到 {base.name} 上：{error}", "请给出训练它时用的底座"
        ) from error
    model.merge_and_unload(safe_merge=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _by_swift(base: Path, adapter: Path, folder: Path, dtype: str) -> None:
    known = models.REGISTRY.get(base.name)
    kind = {"model_type": known.model_type, "template": known.template} if known else {}
    swift.run(merge_command(base, adapter, folder, dtype, **kind), progress=False)
    if bits := quantized_bits(folder):
        raise InvalidValue(
            f"swift export 写出的是 {bits} 位的模型，不是全精度；没有保留它", "请用 by='peft' 合并"
        )
    (folder / "args.json").unlink(missing_ok=True)  # the training's settings, with paths of this machine


def _base(base: str | Path) -> Path:
    folder = model_folder(base)
    artifact = classify(folder)
    if artifact.kind not in WHOLE:
        raise InvalidValue(
            f"{folder} 是 {artifact.kind}，不能当底座 (base)：{artifact.why}", "请给出完整的模型"
        )
    if bits := quantized_bits(folder):
        raise InvalidValue(
            f"底座 {folder.name} 是 {bits} 位量化的，合并进去会再舍入一次", "请给全精度的那一份底座"
        )
    return folder


def _require_replaceable(folder: Path) -> None:
    if folder.exists() and (any(folder.iterdir()) if folder.is_dir() else True):
        if (folder / MERGE_RECORD).is_file():
            return
        raise FolderTaken(f"{folder} 里已有别的东西，没有动它", "请换一个文件夹，或先把它移走")


def _record(base: Path, adapter: Path, dtype: str, by: str) -> dict:
    """Facts of a merge, without a path of this machine."""
    config = read_json(adapter / "adapter_config.json")
    weights = next(
        file for file in adapter.glob("adapter_model.*") if file.suffix in (".safetensors", ".bin")
    )
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "base": base.name,
        "adapter": adapter.name,
        "adapter_sha256": digest,
        "r": config.get("r"),
        "lora_alpha": config.get("lora_alpha"),
        "target_modules": sorted(config.get("target_modules") or []),
        "dtype": dtype,
        "merged_by": f"{by} {version('ms-swift' if by == 'swift' else by)}",
    }
