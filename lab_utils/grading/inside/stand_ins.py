"""What stands in the sandbox for things that are not there: `lab_utils`, and the notebook's `get_ipython` and `display`."""

import builtins
import importlib
import importlib.abc
import importlib.machinery
import os
import socket
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import wire


def install(helpers: Sequence[str], constants: Mapping[str, Any], channel: socket.socket) -> None:
    """Make `lab_utils`, `get_ipython()` and `display()` answer from now on.

    `helpers`: full names of functions of lab_utils that the grader computes; `constants`: name -> value on the wire.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _CourseFinder)]
    sys.meta_path.insert(0, _CourseFinder(helpers, constants, channel))
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab_utils"]:
        del sys.modules[name]
    shell = _Shell()
    vars(builtins).update(get_ipython=lambda: shell, display=_ignored)
    for module in ("IPython", "IPython.core.getipython"):
        if module in sys.modules:
            vars(sys.modules[module])["get_ipython"] = builtins.get_ipython  # type: ignore[attr-defined]  # set above


def _ignored(*_: object, **__: object) -> None:
    return None


class _Shell:
    """The notebook's shell: a shell command gives no lines; a magic gives None, and only %env and %%writefile act."""

    def getoutput(self, *_: object, **__: object) -> list[str]:
        return []

    def run_line_magic(self, name: str, line: str, *_: object, **__: object) -> None:
        variable, given, value = line.partition("=")
        if name in ("env", "set_env") and given:
            os.environ[variable.strip()] = value.strip()

    def run_cell_magic(self, name: str, line: str, cell: str) -> None:
        if name in ("writefile", "file"):
            with open(line.split()[-1], "a" if "-a" in line.split() else "w", encoding="utf-8") as file:
                file.write(cell)

    def __getattr__(self, name: str) -> Callable:
        if name.startswith("__"):
            raise AttributeError(name)
        return _ignored


class _Absent:
    """Stands for something of lab_utils that an answer may not use: any use raises."""

    def __init__(self, name: str):
        self.__dict__["_name"] = name

    def _raise(self, *_: object, **__: object) -> None:
        raise RuntimeError(f"评分时不能用 {self.__dict__['_name']}：练习要自己写 (write it yourself)")

    def __repr__(self) -> str:
        return f"<{self.__dict__['_name']}>"

    __call__ = __getattr__ = __getitem__ = __iter__ = __len__ = __bool__ = __eq__ = __hash__ = _raise  # type: ignore[assignment]  # to raise is the point
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _raise
    __lt__ = __le__ = __gt__ = __ge__ = __float__ = __int__ = __index__ = __contains__ = _raise
    __enter__ = __exit__ = __setattr__ = __setitem__ = _raise


class _CourseFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """`lab_utils` inside the sandbox: the names that the model answer uses, and nothing else."""

    def __init__(self, helpers: Sequence[str], constants: Mapping[str, Any], channel: socket.socket):
        self._known: dict[str, object] = {name: wire.decode(value) for name, value in constants.items()}
        self._known |= {name: _helper(name, channel) for name in helpers}

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "lab_utils":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: types.ModuleType) -> None:
        def attribute(name: str) -> object:
            full = f"{module.__name__}.{name}"
            if full in self._known:
                return self._known[full]
            if name.startswith("__"):
                raise AttributeError(name)
            if any(known.startswith(full + ".") for known in self._known):
                return importlib.import_module(full)
            return _Absent(full)

        vars(module)["__getattr__"] = attribute


def _helper(name: str, channel: socket.socket) -> Callable:
    """A function of the course that the grader computes."""

    def call(*args: object) -> object:
        wire.send(channel, {"helper": name, "args": [wire.encode(item) for item in args]})
        reply = wire.receive(channel)
        if "error" in reply:
            raise ValueError(reply["error"])
        return wire.decode(reply["value"])

    call.__name__ = name.rpartition(".")[2]
    return call
