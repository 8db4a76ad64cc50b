"""Output of failed runs is recognized, and the error says cause, remedy, last lines and where the log is."""

from pathlib import Path

import pytest

from lab_utils.swift.failure import NAN, SwiftError, diagnose, tail

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\n'


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "gpu_memory"),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory",
            "memory",
        ),
        ("OSError: [Errno 28] No space left on device", "disk"),
        ("ValueError: remaining_argv: ['--sft_type', 'lora']", "flag"),
        ("OSError: [Errno 98] Address already in use", "port"),
        ("ValueError: Your setup doesn't support bf16/gpu. You need to assign use_cpu", "bf16"),
        ("ValueError: num_samples should be a positive integer value, but got num_samples=0", "empty"),
        ("KeyError: 'messages'", "columns"),
        (
            "datasets.exceptions.DatasetGenerationError: An error occurred while generating the dataset",
            "json",
        ),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'train.jsonl'", "dataset"),
        ("ValueError: path: '/models/none' not found", "model"),
        (
            "TypeError: 'NoneType' object is not iterable\n    inputs = train_dataset[0] if hasattr(x)",
            "empty",
        ),
        ("    n_repeat_sample = dataset_sample // len(dataset)\nZeroDivisionError: by zero", "empty"),
        ("ValueError: The local path does not exist, dataset_id: `/a/none.jsonl`.", "dataset"),
        ("ValueError: template_type: 'nothing' not in ['chatml', 'dummy']", "template"),
        ("ValueError: model_type: 'qwen9' not in ['qwen', 'qwen2']", "template"),
        ("requests.exceptions.ConnectionError: Max retries exceeded with url: /api", "network"),
        ("ModuleNotFoundError: No module named 'msgspec'", "package"),
        ("RuntimeError: something new", "unknown"),
    ],
)
def test_known_failures(text, kind):
    cause = diagnose(TRACEBACK + text + "\n", 1)
    assert cause.kind == kind and cause.explanation and cause.remedy


def test_argument_errors_name_the_argument():
    assert (
        "['--sft_type', 'lora']"
        in diagnose(TRACEBACK + "ValueError: remaining_argv: ['--sft_type', 'lora']").explanation
    )
    text = "usage: sft.py [-h]\nsft.py: error: argument --packing/--packing: Truthy value expected: got all"
    assert "--packing" in diagnose(text, 2).explanation


@pytest.mark.parametrize("code", [-9, 137])
def test_killed_means_out_of_memory(code):
    assert diagnose("Train:  10%", code).kind == "memory"


def test_words_before_the_traceback_are_not_matched():
    assert (
        diagnose(
            "dataset=['none.jsonl'] CUDA out of memory is not it\n" + TRACEBACK + "RuntimeError: other", 1
        ).kind
        == "unknown"
    )


def test_tail_shows_a_progress_bar_once():
    assert tail("start\nTrain: 0%\rTrain: 50%\rTrain: 100%\nend\n") == "start\nTrain: 100%\nend"
    assert len(tail("\n".join(map(str, range(40)))).splitlines()) == 15


def test_error_text():
    text = str(SwiftError("swift sft 失败了。", NAN, "last line", Path("out/run.log")))
    parts = [
        text.index(part) for part in ("swift sft 失败了", "NaN", "learning_rate", "last line", "run.log")
    ]
    assert parts == sorted(parts)
