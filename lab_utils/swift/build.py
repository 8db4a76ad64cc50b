"""Build a `swift …` command: checked against the installed ms-swift, shown as a shell command."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from lab_utils.swift.flags import closest, flag_names
from lab_utils.swift.translation import REMOVED, RENAMED, quote

RUNNABLE = ("sft", "rlhf", "infer", "export", "deploy")
_PATHS = ("model", "adapters", "dataset", "val_dataset", "ref_model", "reward_model")


@dataclass(frozen=True)
class Command:
    """A `swift` command: `argv` runs it, `show()` is what one would type in a terminal."""

    sub: str
    flags: tuple[tuple[str, tuple[str, ...]], ...]
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def argv(self) -> list[str]:
        """Words to run: ms-swift's module directly, so it works in a venv that isn't activated."""
        words = [word for name, values in self.flags for word in (f"--{name}", *values)]
        return [sys.executable, "-P", "-m", f"swift.cli.{self.sub}", *words]

    def get(self, name: str) -> str | None:
        """First value of a flag, None when it isn't given."""
        return next((values[0] for flag, values in self.flags if flag == name and values), None)

    def values(self, name: str) -> tuple[str, ...]:
        """All values of a flag, empty when it isn't given."""
        return next((values for flag, values in self.flags if flag == name), ())

    def show(self) -> str:
        """The command as typed in a shell, paths relative to the current folder where that is shorter."""
        head = " ".join([*(f"{k}={quote(v)}" for k, v in self.env.items()), f"swift {self.sub}"])
        lines = [" ".join([f"--{name}", *(quote(_short(v)) for v in values)]) for name, values in self.flags]
        return " \\\n    ".join([head, *lines])

    def __str__(self) -> str:
        return self.show()


def command(sub: str, **flags) -> Command:
    """`swift <sub>` with `flags`, named as in the installed ms-swift.

    True and False become `true` and `false`, lists several words, None is left out. When all
    models and data sets are local, the command's `env` keeps it off the network, and training
    gets `--check_model false` (otherwise ms-swift asks its hub about the local folder and
    retries). Raises ValueError for an unknown subcommand or flag, with the nearest names.
    """
    if sub not in RUNNABLE:
        raise ValueError(f"这里不支持 swift {sub}；可用的子命令：{'、'.join(RUNNABLE)}。")
    for name in flags:
        if name not in flag_names(sub):
            raise ValueError(_unknown_flag(name, sub))
    local = _all_local(flags)
    if local and sub in {"sft", "rlhf"}:
        flags.setdefault("check_model", False)
    words = tuple((name, _words(name, value)) for name, value in flags.items() if value is not None)
    return Command(sub, words, MappingProxyType(environment(local)))


def environment(local: bool) -> dict[str, str]:
    """Environment variables of a run. `local`: everything is on disk, so no hub is asked.

    These cover transformers, datasets and peft; ms-swift's own look-up has no variable, only
    the flag `--check_model false`, which `command` adds.
    """
    if not local:
        return {}
    return {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def _words(name: str, value) -> tuple[str, ...]:
    if isinstance(value, bool):
        return ("true" if value else "false",)
    if isinstance(value, (list, tuple)):
        return tuple(word for item in value for word in _words(name, item))
    if isinstance(value, (str, Path, int, float)):
        return (os.fspath(value) if isinstance(value, Path) else str(value),)
    raise ValueError(
        f"参数 {name} 的值 {value!r} 是 {type(value).__name__}；只能是文字、数字、真假、路径或它们的列表。"
    )


def _unknown_flag(name: str, sub: str) -> str:
    message = f"swift {sub} 没有参数 --{name}（unknown flag）。"
    if name in RENAMED:
        new, reason = RENAMED[name]
        return f"{message}它现在叫 --{new}：{reason}。"
    if name in REMOVED:
        return f"{message}{REMOVED[name]}。"
    near = closest(name, sub)
    return message + (
        f"名字相近的有：{'、'.join('--' + n for n in near)}。" if near else "没有名字相近的参数。"
    )


def _all_local(flags: Mapping) -> bool:
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
