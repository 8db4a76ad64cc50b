"""Old commands become commands of the installed ms-swift, and nothing is lost on the way."""

import importlib.util
import shlex
from pathlib import Path

import pytest

from lab_utils import swift
from lab_utils.swift.translation import DATASET_IDS, MODEL_IDS, REMOVED, RENAMED

OLD = r"""CUDA_VISIBLE_DEVICES=0 \
swift sft \
    --model_type chatglm3-6b \
    --sft_type qlora \
    --tuner_backend swift \
    --template_type AUTO \
    --dtype bf16 \
    --output_dir output \
    --dataset medical-zh \
    --train_dataset_sample 5000 \
    --max_length 1024 \
    --check_dataset_strategy warning \
    --quantization_bit 4 \
    --bnb_4bit_comp_dtype AUTO \
    --lora_rank 8 --lora_alpha 32 --lora_dropout_p 0.05 \
    --lora_target_modules ALL \
    --batch_size 1 \
    --gradient_accumulation_steps $(expr 16 / 2) \
    --preprocess_num_proc 4 \
    --use_flash_attn true \
    --neftune_alpha 5 \
    --self_cognition_sample 500 \
    --model_name 小黄 'Xiao Huang' \
    --deepspeed default-zero2 \
    --rope_scaling linear \
    --made_up 3
"""


def flags_of(translation: swift.Translation) -> dict[str, str]:
    words = translation.command.replace("\\\n", " ")
    return {part.split(" ", 1)[0]: part.split(" ", 1)[1].strip() for part in words.split(" --")[1:]}


def test_a_whole_2x_command():
    result = swift.translate(OLD)
    assert result.command.startswith("CUDA_VISIBLE_DEVICES=0 swift sft \\\n")
    assert flags_of(result) == {
        "model": "ZhipuAI/chatglm3-6b",
        "tuner_type": "lora",
        "tuner_backend": "peft",
        "torch_dtype": "bfloat16",
        "output_dir": "output",
        "dataset": "swift/medical_zh:zh#5000 swift/self-cognition#500",
        "max_length": "1024",
        "quant_method": "bnb",
        "quant_bits": "4",
        "lora_rank": "8",
        "lora_alpha": "32",
        "lora_dropout": "0.05",
        "target_modules": "all-linear",
        "per_device_train_batch_size": "1",
        "gradient_accumulation_steps": "$(expr 16 / 2)",
        "dataset_num_proc": "4",
        "attn_impl": "flash_attn",
        "neftune_noise_alpha": "5",
        "model_name": "小黄 'Xiao Huang'",
        "deepspeed": "zero2",
        "rope_scaling": "linear",
    }
    assert result.unknown == ("--made_up 3",)
    assert set(flags_of(result)) <= swift.flag_names("sft")


def test_nothing_is_lost():
    result = swift.translate(OLD)
    told = " ".join(c.old for c in result.changes) + " ".join(result.unknown)
    for word in shlex.split(OLD.replace("\\\n", " ")):
        if word.startswith("--"):
            assert word in told or word[2:] in flags_of(result), word
    assert all(c.reason for c in result.changes)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("swift sft --train_type full --model a/b", {"tuner_type": "full", "model": "a/b"}),
        ("swift sft --model_id_or_path ./m --model_type qwen1half-7b-chat", {"model": "./m"}),
        ("swift sft --model ./m --model_type qwen3 --template chatml", {"model": "./m", "model_type": "qwen3", "template": "chatml"}),
        ("swift sft --model m --custom_train_dataset_path a.jsonl b.jsonl", {"model": "m", "dataset": "a.jsonl b.jsonl"}),
        ("swift sft --model m --dataset a.jsonl --train_dataset_sample -1", {"model": "m", "dataset": "a.jsonl"}),
        ("swift sft --model m --quantization_bit 0", {"model": "m"}),
        ("swift sft --model m --use_flash_attn false", {"model": "m"}),
        ("swift infer --ckpt_dir out/v0/checkpoint-9 --infer_backend pt --do_sample false",
         {"adapters": "out/v0/checkpoint-9", "infer_backend": "transformers", "temperature": "0"}),
        ("swift infer --model m --val_dataset a.jsonl --val_dataset_sample 5", {"model": "m", "val_dataset": "a.jsonl", "val_dataset_sample": "5"}),
        ("swift merge-lora --ckpt_dir out/c", {"merge_lora": "true", "adapters": "out/c"}),
        ("swift dpo --model m --beta 0.1 --ref_model_id_or_path r", {"rlhf_type": "dpo", "model": "m", "beta": "0.1", "ref_model": "r"}),
        ("python llm_sft.py --model m --eval_batch_size=2", {"model": "m", "per_device_eval_batch_size": "2"}),
        ("swift deploy --model m --tensor_parallel_size 2", {"model": "m", "vllm_tensor_parallel_size": "2"}),
    ],
)  # fmt: skip
def test_translations(old, new):
    result = swift.translate(old)
    assert flags_of(result) == new and result.unknown == ()
    assert set(new) <= swift.flag_names(result.command.split("swift ")[1].split()[0])


def test_unknown_model_is_reported():
    assert swift.translate("swift sft --model_type some-13b --lora_rank 8").unknown[0].endswith("some-13b")


def test_current_command_is_left_alone():
    result = swift.translate("swift sft --model a/b --tuner_type lora")
    assert result.changes == () and result.unknown == ()


@pytest.mark.parametrize("text", ["pip install ms-swift", "swift", "swift fly --high"])
def test_not_a_swift_command(text):
    with pytest.raises(ValueError):
        swift.translate(text)


def test_tables_agree_with_the_installed_release():
    current = set().union(
        *(swift.flag_names(sub) for sub in ("sft", "rlhf", "infer", "export", "deploy", "pt", "eval", "app"))
    )
    assert {new for new, _ in RENAMED.values()} <= current
    assert not (set(RENAMED) | set(REMOVED)) & current


def test_model_and_dataset_ids_are_known_to_the_installed_release():
    root = Path(importlib.util.find_spec("swift").submodule_search_locations[0])
    models = "\n".join(
        p.read_text(encoding="utf-8") for p in (root / "model" / "models").glob("*.py")
    ).lower()
    assert [i for i in MODEL_IDS.values() if f"'{i.lower()}'" not in models] == []
    folder = root / "dataset"
    data = "\n".join(p.read_text(encoding="utf-8") for p in folder.rglob("*") if p.suffix in {".py", ".json"})
    assert [i for i in DATASET_IDS.values() if i.split("#")[0].split(":")[0] not in data] == []
