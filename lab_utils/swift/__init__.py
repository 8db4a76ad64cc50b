"""Run ms-swift from a notebook: build a command, follow it, read what it left, translate old ones.

`command` and `sft_command` build a `Command`; `run` follows it to its end and gives a `Run`, or raises SwiftError
with the likely cause; `infer_file` lets a model answer a file; `encode` shows what a row becomes; `translate`
rewrites commands of ms-swift 2.x and 3.x.

>>> from lab_utils import swift
>>> cmd = swift.command("sft", model=folder, dataset="train.jsonl", output_dir="output", …)
>>> print(cmd)
>>> trained = swift.run(cmd)
>>> trained.log, trained.checkpoint
"""

from lab_utils.artifacts.checkpoint import find_checkpoint
from lab_utils.swift.build import Command, command, environment
from lab_utils.swift.encoding import encode
from lab_utils.swift.failure import Cause, SwiftError, diagnose
from lab_utils.swift.flags import flag_names
from lab_utils.swift.inference import Answer, infer_file
from lab_utils.swift.recipe import model_flags, plugin_path, qlora_flags, sft_command
from lab_utils.swift.results import Run
from lab_utils.swift.runner import run
from lab_utils.swift.schedule import learning_rate_at, optimizer_steps
from lab_utils.swift.translation import Change, Translation, translate

__all__ = [
    "Answer",
    "Cause",
    "Change",
    "Command",
    "Run",
    "SwiftError",
    "Translation",
    "command",
    "diagnose",
    "encode",
    "environment",
    "find_checkpoint",
    "flag_names",
    "infer_file",
    "learning_rate_at",
    "model_flags",
    "optimizer_steps",
    "plugin_path",
    "qlora_flags",
    "run",
    "sft_command",
    "translate",
]
