"""Real runs of ms-swift: success is proven, failure explained, and no process is left behind."""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from lab_utils import swift
from lab_utils.artifacts import checkpoint
from lab_utils.data.jsonl import DataError
from lab_utils.data.loss_mask import cut, encode
from tests.swift.tiny_training import POEM, qlora, row, write_rows
from tests.waiting import PATIENCE, wait_until


@pytest.mark.slow
def test_training_leaves_a_proven_run(trained):
    assert trained.log["step"].tolist() == [1, 2, 3, 4]
    assert trained.log["loss"].iloc[-1] < trained.log["loss"].iloc[0]
    assert trained.checkpoint.name == "checkpoint-4" and trained.best.name in {"checkpoint-2", "checkpoint-4"}
    assert (trained.checkpoint / "adapter_model.safetensors").stat().st_size > 0
    assert trained.log_path.parent == trained.folder and "train_runtime" in trained.summary
    assert trained.dropped == 0
    assert trained.seconds > trained.summary["train_runtime"]
    seen = trained.log["num_input_tokens_seen"].max()
    assert math.isclose(trained.tokens_per_second, seen / trained.summary["train_runtime"])
    assert swift.Run.open(trained.folder.parent) == swift.Run(
        trained.folder, trained.log_path, round(trained.seconds, 3), trained.command
    )


@pytest.mark.slow
def test_training_asked_no_hub(trained):
    said = trained.log_path.read_text(encoding="utf-8")
    assert "check_model=False" in said and "listing failed" not in said


@pytest.mark.slow
def test_trained_on_the_answer_and_its_end_only(trained, train_file, tokenizer):
    """What ms-swift printed as the first row's labels is what our own encoding says."""
    said = trained.log_path.read_text(encoding="utf-8")
    ids = json.loads(said.split("[INPUT_IDS] ")[1].split("\n")[0])
    labels = json.loads(said.split("[LABELS_IDS] ")[1].split("\n")[0])
    rows = [json.loads(line)["messages"] for line in train_file.read_text(encoding="utf-8").splitlines()]
    assert (ids, labels) in [encode(tokenizer, messages) for messages in rows]
    assert tokenizer.decode([i for i in labels if i >= 0]) == POEM + "<|im_end|>\n"


@pytest.mark.parametrize(
    "messages",
    [
        row("春")["messages"],
        [{"role": "system", "content": "你是诗人"}, *row(" 春 \n", " 花落 \n")["messages"]],
        [*row("春", "花")["messages"], *row("秋", "<think>\n想\n</think>\n\n月")["messages"]],
    ],
    ids=["plain", "system and spaces", "two turns with thinking"],
)
def test_encoding_equals_that_of_ms_swift(tiny_model, tokenizer, messages):
    ids, labels = swift.encode(tiny_model, messages)
    assert (ids, labels) == encode(tokenizer, messages)
    assert ids == tokenizer.apply_chat_template(messages, return_dict=False)
    for side in ("left", "right"):
        assert swift.encode(tiny_model, messages, 9, side) == cut(ids, labels, 9, side)


def test_template_qwen3_would_train_on_think_tags(tiny_model, tokenizer):
    """Why the labs pass `template="chatml"`: the architecture's own template differs."""
    ids, labels = swift.encode(tiny_model, row("春", "花")["messages"], template="qwen3")
    assert tokenizer.decode([i for i in labels if i >= 0]).startswith("<think>")
    assert ids != encode(tokenizer, row("春", "花")["messages"])[0]


@pytest.mark.slow
def test_inference_with_the_adapter(trained, tiny_model, tmp_path):
    rows = [row("写一首诗"), {"messages": [{"role": "user", "content": "再写一首"}]}, row("三")]
    data = write_rows(tmp_path / "eval.jsonl", rows)
    answers = swift.infer_file(tiny_model, data, trained.checkpoint, max_new_tokens=5, batch_size=2)
    assert [a.messages[-1]["content"] for a in answers] == ["写一首诗", "再写一首", "三"]
    assert [a.label for a in answers] == [POEM, None, POEM]
    assert all(a.tokens == 5 and not a.finished for a in answers if not a.finished)
    assert all(len(a.text) > 0 or a.finished for a in answers)


@pytest.mark.parametrize("end", ["<|im_end|>", "<|endoftext|>"])
def test_finished_tells_an_end_token_from_a_cut(end):
    from lab_utils.swift.inference import _answer

    def raw(tokens):
        content = [{"token": token} for token in tokens]
        return {
            "messages": [{"role": "user"}, {"role": "assistant"}],
            "response": "",
            "logprobs": {"content": content},
        }

    ends = {"<|im_end|>", "<|endoftext|>"}
    assert _answer(raw(["春", end]), 2, ends).finished
    assert _answer(raw(["春"]), 2, ends).finished  # the end token was padding, and taken out
    assert not _answer(raw(["春", "眠"]), 2, ends).finished
    assert _answer({**raw([]), "logprobs": None}, 2, ends).finished


@pytest.mark.slow
def test_failure_is_explained(tiny_model, train_file, tmp_path):
    with pytest.raises(swift.SwiftError) as caught:
        swift.run(qlora(tiny_model, train_file, tmp_path / "out", template="nothing"), progress=False)
    assert caught.value.log_path.is_file() and caught.value.tail
    assert "退出码 1" in str(caught.value) and caught.value.cause.kind == "template"
    with pytest.raises(FileNotFoundError):
        swift.find_checkpoint(tmp_path / "out")


@pytest.mark.parametrize(
    "broken",
    ['{"messages": [', json.dumps({"messages": [{"content": "写诗"}]}), json.dumps(row("写" * 200))],
    ids=["json", "role", "zero supervised tokens"],
)
def test_broken_data_stops_before_anything_starts(tiny_model, tmp_path, broken):
    data = write_rows(tmp_path / "train.jsonl", [row("写诗")] * 16)
    data.write_text(data.read_text(encoding="utf-8") + broken + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="train.jsonl") as caught:
        swift.run(qlora(tiny_model, data, tmp_path / "out"))
    assert caught.value.problems[0].line == 17
    assert not (tmp_path / "out").exists()


def test_deploy_and_missing_output_are_refused(tiny_model, train_file, tmp_path):
    with pytest.raises(ValueError, match="deploy"):
        swift.run(swift.command("deploy", model=tiny_model))
    with pytest.raises(ValueError, match="output_dir"):
        swift.run(swift.command("sft", model=tiny_model, dataset=train_file))
    with pytest.raises(ValueError, match="result_path"):
        swift.run(swift.command("infer", model=tiny_model, val_dataset=train_file))


@pytest.mark.slow
def test_finished_run_is_not_overwritten(trained, tiny_model, train_file, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "out")
    with pytest.raises(ValueError, match="已有一次训练"):
        swift.run(qlora(tiny_model, train_file, tmp_path / "out", add_version=False))
    assert swift.find_checkpoint(tmp_path / "out").name == "checkpoint-4"


OWNER = """
import os, signal, sys, threading, time
from pathlib import Path
import psutil
from lab_utils import swift
from tests.swift.tiny_training import qlora

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored

def fork():
    while not psutil.Process().children():
        time.sleep(0.01)
    pid = os.fork()  # holds every pipe of this process, and lives on
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    print(pid, flush=True)

if sys.argv[1] == "fork":
    threading.Thread(target=fork, daemon=True).start()
command = qlora(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), max_steps=100000, template="dummy")
swift.run(command, progress=False)  # with this template no tokenizer is loaded to check the data
"""


@contextlib.contextmanager
def training(*arguments):
    """A process that runs a long training of (model, data, output)."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-P", "-c", OWNER, *map(str, arguments)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as owner:
        try:
            yield owner
        finally:
            owner.kill()


def family(owner) -> list[psutil.Process]:
    return psutil.Process(owner.pid).children(recursive=True)


@pytest.mark.slow
def test_nothing_survives_a_killed_parent_whose_fork_holds_the_pipe(tiny_model, train_file, tmp_path):
    with training("fork", tiny_model, train_file, tmp_path / "out") as owner:
        fork = psutil.Process(int(owner.stdout.readline()))
        wait_until(lambda: len(family(owner)) >= 3)  # the fork, the guard and ms-swift
        started = [process for process in family(owner) if process != fork]
        owner.kill()
        owner.wait()
        assert not psutil.wait_procs(started, timeout=PATIENCE)[1]
        assert fork.is_running()
        fork.kill()


@pytest.mark.slow
def test_interrupt_ends_everything_and_marks_the_run(tiny_model, train_file, tmp_path):
    out = tmp_path / "out"
    with training("no fork", tiny_model, train_file, out) as owner:
        wait_until(lambda: any(out.glob("v0-*/checkpoint-*/trainer_state.json")))
        assert checkpoint.status(next(out.glob("v0-*"))) == "running"
        started = family(owner)
        owner.send_signal(signal.SIGINT)
        assert owner.wait(PATIENCE) != 0
        assert len(started) >= 2 and not psutil.wait_procs(started, timeout=PATIENCE)[1]
    (folder,) = out.glob("v0-*")
    assert folder.name.endswith(".interrupted") and checkpoint.status(folder) == "interrupted"
    assert (folder / "run.log").is_file()
    for given in (out, folder, next(folder.glob("checkpoint-*"))):
        with pytest.raises(FileNotFoundError, match="被中断了"):
            swift.find_checkpoint(given)


@pytest.mark.slow
def test_timeout_ends_the_run(tiny_model, train_file, tmp_path):
    with pytest.raises(swift.SwiftError, match="超过 2 秒") as caught:
        swift.run(qlora(tiny_model, train_file, tmp_path / "out"), progress=False, timeout=2)
    assert caught.value.cause.kind == "timeout"
    commands = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    assert not [command for command in commands if "swift.cli" in command]
