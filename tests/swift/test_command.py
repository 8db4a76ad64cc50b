"""Commands: every flag exists, wrong ones are refused at once, local runs stay off the network."""

import sys
from pathlib import Path

import pytest

from lab_utils import swift
from lab_utils.swift.flags import SUBCOMMANDS
from tests.swift.tiny_training import qlora


def test_flag_names_are_those_of_the_argument_dataclasses():
    import dataclasses

    import swift.arguments

    for sub, name in SUBCOMMANDS.items():
        real = {f.name for f in dataclasses.fields(getattr(swift.arguments, name)) if f.init}
        assert swift_flags(sub) == real


def swift_flags(sub: str) -> set[str]:
    return set(swift.flag_names(sub))


def test_values_become_words():
    cmd = swift.command(
        "sft",
        model="a/b",
        target_modules=["q_proj", "v_proj"],
        packing=False,
        lora_rank=8,
        seed=None,
        output_dir=Path("out put"),
    )
    assert cmd.argv[:4] == [sys.executable, "-P", "-m", "swift.cli.sft"]
    assert cmd.argv[4:] == [
        "--model", "a/b", "--target_modules", "q_proj", "v_proj", "--packing", "false", "--lora_rank", "8",
        "--output_dir", "out put",
    ]  # fmt: skip
    assert cmd.show().splitlines()[0] == "swift sft \\"
    assert "    --output_dir 'out put'" in str(cmd)


@pytest.mark.parametrize(
    ("flag", "hint"),
    [
        ("sft_type", "--tuner_type"),
        ("lora_rnak", "--lora_rank"),
        ("check_dataset_strategy", "移除"),
        ("model_id_or_path", "--model"),
    ],
)
def test_unknown_flag_is_refused_with_the_right_name(flag, hint):
    with pytest.raises(ValueError, match=f"没有参数 --{flag}") as caught:
        swift.command("sft", model="a/b", **{flag: "x"})
    assert hint in str(caught.value)


def test_unknown_subcommand_and_value_are_refused():
    with pytest.raises(ValueError, match="不支持 swift train"):
        swift.command("train")
    with pytest.raises(ValueError, match="lora_rank"):
        swift.command("sft", lora_rank=object())


def test_local_runs_ask_no_hub(tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_text("{}\n", encoding="utf-8")
    local = qlora(tmp_path, data, tmp_path / "out")
    assert local.values["check_model"] is False and local.env["HF_HUB_OFFLINE"] == "1"
    remote = swift.command("sft", model="Qwen/Qwen3-0.6B", dataset=f"{data}#500")
    assert "check_model" not in remote.values and not remote.env


def test_shown_paths_are_relative(tmp_path, monkeypatch):
    (tmp_path / "labs").mkdir()
    monkeypatch.chdir(tmp_path / "labs")
    shown = swift.command("infer", model=tmp_path / "model", result_path=tmp_path / "labs" / "a.jsonl").show()
    assert "--model ../model" in shown and "--result_path a.jsonl" in shown and str(tmp_path) not in shown


def test_what_a_run_needs_to_know_keeps_its_type(tmp_path):
    cmd = qlora(tmp_path, ["a.jsonl", tmp_path / "b.jsonl#5"], tmp_path / "out", val_dataset="c.jsonl")
    assert (cmd.output_dir, cmd.result_path) == (tmp_path / "out", None)
    assert cmd.datasets == ("a.jsonl", f"{tmp_path}/b.jsonl#5", "c.jsonl")
    assert (cmd.max_length, cmd.model, cmd.versioned) == (128, str(tmp_path), True)
    bare = swift.command("sft", model="a/b", max_length="64", add_version="false")
    assert (bare.output_dir, bare.datasets, bare.max_length, bare.versioned) == (None, (), 64, False)
    with pytest.raises(ValueError, match="max_length='long' 不是整数"):
        _ = swift.command("sft", max_length="long").max_length
