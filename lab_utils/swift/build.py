"""Build a `swift …` command: checked against the installed ms-swift, shown as a shell command."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lab_utils.errors import InvalidValue
from lab_utils.swift.flags import closest, flag_names
from lab_utils.swift.translation import quote
from lab_utils.swift.translation_tables import REMOVED, RENAMED

RUNNABLE = ("sft", "rlhf", "infer", "export", "deploy")
_PATHS = ("model", "adapters", "dataset", "val_dataset", "ref_model", "reward_model")


@dataclass(frozen=True)
class Command:
    """A `swift` command: `argv` runs it, `show()` is what one would type in a terminal.

    `values`: of each flag the value that it was given, with its type; `env`: environment variables of the run.
    """

    sub: str
    values: Mapping[str, Any]
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def flags(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Each flag with its values as words of a command line."""
        return tuple((name, _words(name, value)) for name, value in self.values.items())

    @property
    def argv(self) -> list[str]:
        """Words to run: ms-swift's module directly, so it works in a venv that isn't activated."""
        words = [word for name, values in self.flags for word in (f"--{name}", *values)]
        return [sys.executable, "-P", "-m", f"swift.cli.{self.sub}", *words]

    @property
    def output_dir(self) -> Path | None:
        """Folder for the results; None when the command doesn't name one."""
        return self._path("output_dir")

    @property
    def result_path(self) -> Path | None:
        """File for the answers of `swift infer`; None when the command doesn't name one."""
        return self._path("result_path")

    @property
    def datasets(self) -> tuple[str, ...]:
        """Files and hub ids of the training and validation data, as given: `name#count` is a part of one."""
        return tuple(
            word for flag in ("dataset", "val_dataset") for word in _words(flag, self.values.get(flag, ()))
        )

    @property
    def model(self) -> str | None:
        """Folder or hub id of the model; None when the command doesn't name one."""
        model = self.values.get("model")
        return None if model is None else str(model)

    @property
    def max_length(self) -> int | None:
        """Longest training row in tokens; None: ms-swift's own limit. Raises InvalidValue when it is no number."""
        length = self.values.get("max_length")
        try:
            return None if length is None else int(length)
        except ValueError:
            raise InvalidValue(f"max_length={length!r} 不是整数", "请写一个数，例如 max_length=512") from None

    @property
    def versioned(self) -> bool:
        """Whether ms-swift makes a folder `vN-date` for the run inside `output_dir`, as it does by default."""
        return str(self.values.get("add_version", True)).lower() != "false"

    def show(self) -> str:
        """The command as typed in a shell, paths relative to the current folder where that is shorter."""
        head = " ".join([*(f"{k}={quote(v)}" for k, v in self.env.items()), f"swift {self.sub}"])
        lines = [" ".join([f"--{name}", *(quote(_short(v)) for v in values)]) for name, values in self.flags]
        return " \\\n    ".join([head, *lines])

    def __str__(self) -> str:
        return self.show()

    def _path(self, flag: str) -> Path | None:
        value = self.values.get(flag)
        return None if value is None else Path(value)


def command(sub: str, **flags) -> Command:
    """`swift <sub>` with `flags`, named as in the installed ms-swift.

    True and False become `true` and `false`, lists several words, None is left out. When all
    models and data sets are local, the command's `env` keeps it off the network, and training
    gets `--check_model false` (otherwise ms-swift asks its hub about the local folder and
    retries). Raises InvalidValue for an unknown subcommand or flag, with the nearest names, and for a value
    that no flag can hold.
    """
    if sub not in RUNNABLE:
        raise InvalidValue(f"这里不支持 swift {sub}", f"可用的子命令：{'、'.join(RUNNABLE)}")
    for name in flags:
        if name not in flag_names(sub):
            raise _unknown_flag(name, sub)
    local = _all_local(flags)
    if local and sub in {"sft", "rlhf"}:
        flags.setdefault("check_model", False)
    values = {name: value for name, value in flags.items() if value is not None}
    for name, value in values.items():
        _words(name, value)  # raises for what can't be a flag's value
    return Command(sub, MappingProxyType(values), MappingProxyType(environment(local)))


def environment(local: bool) -> dict[str, str]:
    """Environment variables of a run. `local`: everything is on disk, so no hub is asked.

    These cover transformers, datasets and peft; ms-swift's own look-up has no variable, only
    the flag `--check_model false`, which `command` adds.
    """
    if not local:
        return {}
    return {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def _words(name: str, value: Any) -> tuple[str, ...]:
    """`value` as words of a command line. Raises InvalidValue for one that no flag can hold."""
    if isinstance(value, bool):
        return ("true" if value else "false",)
    if isinstance(value, (list, tuple)):
        return tuple(word for item in value for word in _words(name, item))
    if isinstance(value, (str, Path, int, float)):
        return (os.fspath(value) if isinstance(value, Path) else str(value),)
    raise InvalidValue(
        f"参数 {name} 的值 {value!r} 是 {type(value).__name__}", "只能是文字、数字、真假、路径或它们的列表"
    )


def _unknown_flag(name: str, sub: str) -> InvalidValue:
    """The error for a flag that the installed ms-swift doesn't have: what it is called now, or what is like it."""
    what = f"swift {sub} 没有参数 --{name} (unknown flag)"
    if name in RENAMED:
        new, reason = RENAMED[name]
        return InvalidValue(what, f"它现在叫 --{new}：{reason}")
    if name in REMOVED:
        return InvalidValue(what, REMOVED[name])
    near = closest(name, sub)
    remedy = f"名字相近的有：{'、'.join('--' + n for n in near)}" if near else "没有名字相近的参数"
    return InvalidValue(what, remedy)


def _all_local(flags: Mapping[str, Any]) -> bool:
    """Whether every model, adapter and data set given exists on disk."""
    given = [word for name in _PATHS for word in _words(name, flags.get(name) or ())]
    return bool(given) and all(Path(word.split("#")[0]).exists() for word in given)


def _short(value: str) -> str:
    if not os.path.isabs(value):
        return value
    relative = os.path.relpath(value)
    return (
        relative
        if len(relative) < len(value) and not relative.startswith(os.path.join("..", "..", ".."))
        else value
    )
