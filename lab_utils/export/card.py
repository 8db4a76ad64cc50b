"""The model card: a README.md in ModelScope's form, written from the facts of the run."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from lab_utils.artifacts.folder_kinds import (
    MERGE_RECORD,
    WHOLE,
    classify,
    quantized_bits,
    read_json,
    tensor_shapes,
)
from lab_utils.errors import InvalidValue
from lab_utils.files import write_atomic

CARD = "README.md"
CONFIGURATION = "configuration.json"
"""What ModelScope reads to know framework and task."""


def write_card(
    folder: str | Path, *, license: str, training: str, figures: Mapping[str, str], limits: str
) -> Path:
    """Write the card, and `configuration.json`, of the model in `folder`; the card's path.

    Base, adapter, rank, dtype and size are read from the folder. `license`: as ModelScope names it,
    e.g. "Apache License 2.0"; `training`: data and method in a sentence or two; `figures`: what was
    measured → result with its n; `limits`: what the model can't do. A card that is there is replaced.

    Raises InvalidValue for a folder that holds no whole model or a text that is empty.
    """
    folder = Path(folder)
    artifact = classify(folder)
    if artifact.kind not in WHOLE:
        raise InvalidValue(
            f"{folder} 是 {artifact.kind}，不是可以发布的模型：{artifact.why}", "请给出完整的模型的文件夹"
        )
    given = {"license": license, "training": training, "figures": figures, "limits": limits}
    if empty := [name for name, value in given.items() if not value]:
        raise InvalidValue(f"模型卡片 (model card) 不能空着：{'、'.join(empty)}", "没有测过就先去测")
    record, config = read_json(folder / MERGE_RECORD), read_json(folder / "config.json")
    text = _front(license, record) + _body(folder, record, config, training, figures, limits)
    write_atomic(folder / CARD, text)
    task = {"framework": "pytorch", "task": "text-generation"}
    write_atomic(folder / CONFIGURATION, json.dumps(task) + "\n")
    return folder / CARD


def front_matter(card: Path) -> dict:
    """The card's YAML front matter; empty when there is no card or no valid front matter."""
    import yaml
    from huggingface_hub import metadata_load

    try:
        return metadata_load(card) or {}
    except (OSError, ValueError, yaml.YAMLError):  # no file, no table, no YAML
        return {}


def parameters(folder: Path) -> int:
    """Parameters in the safetensors files of a model that isn't quantized; only headers are read."""
    return sum(prod(s) for file in folder.glob("*.safetensors") for s in tensor_shapes(file).values())


def _front(license: str, record: dict) -> str:
    """The front matter, with ModelScope's fields beside those of Hugging Face."""
    from huggingface_hub import CardData

    facts: dict[str, Any] = {"license": license, "tasks": ["text-generation"], "frameworks": ["pytorch"]}
    facts |= {"language": ["zh"], "domain": ["nlp"]}
    if record:
        facts |= {"base_model": record["base"], "base_model_relation": "finetune"}
    return f"---\n{CardData(**facts).to_yaml()}\n---\n"


def _body(folder: Path, record: dict, config: dict, training: str, figures: Mapping, limits: str) -> str:
    bits = quantized_bits(folder)
    stored = f"{config.get('dtype') or config.get('torch_dtype')}，{parameters(folder):,} 个参数"
    rows = {
        "结构": "、".join(config.get("architectures") or ["未知"]),
        "权重": f"{bits} 位量化" if bits else stored,
    }
    if record:
        rows["底座"] = record["base"]
        rows["适配器"] = f"LoRA r={record['r']}、α={record['lora_alpha']}，已合并（{record['merged_by']}）"
        rows["目标层"] = "、".join(record["target_modules"])
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    measured = "\n".join(f"| {name} | {value} |" for name, value in figures.items())
    return (
        f"# {folder.name}\n\n| | |\n| --- | --- |\n{table}\n\n## 训练\n\n{training}\n\n"
        f"## 测量\n\n| 量 | 结果 |\n| --- | --- |\n{measured}\n\n## 局限\n\n{limits}\n\n## 用法\n\n{_USAGE}"
    )


_USAGE = """\
```python
from modelscope import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(model_id)
model = AutoModelForCausalLM.from_pretrained(model_id)
messages = [{"role": "user", "content": question}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))
```
"""
