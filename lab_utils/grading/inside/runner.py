"""Runs inside the sandbox, as the first process of its pid namespace: imports once, forks for each answer.

`runner.py FD NAME…`: FD is a socket to the grader, NAMEs are modules to import before the first fork. For each
request, a message with a socket attached, it forks a child that gives up everything (confine), loads the answers that
come over that socket, one after the other, and calls them on the inputs that come over it. Nothing in here knows what
the right value is.
"""

import builtins
import gc
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import random
import select
import shutil
import signal
import socket
import sys
import time
import traceback
import types

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import confine
import slicing
import wire

STUDENT_FILE = "<答案>"
SCRATCH = "/tmp"
_TICK = 0.02
_WIPE_AT_MOST = 200


def main() -> None:
    """Serve until the grader hangs up."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _become_nobody()
    for name in sys.argv[2:]:
        try:
            importlib.import_module(name)
        except ImportError:  # the answer that needs it will say so
            continue
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ignores every signal it doesn't handle
    _undumpable()
    gc.collect()
    gc.freeze()
    control.send(json.dumps({"ready": True, "threads": len(os.listdir("/proc/self/task"))}).encode())
    while True:
        body, descriptors, _, _ = socket.recv_fds(control, 65536, 1)
        if not body:
            return
        if not descriptors:  # a word to stop that came when the child had ended by itself
            continue
        channel = socket.socket(fileno=descriptors[0])
        ended = _serve(json.loads(body), control, channel)
        channel.close()
        if ended is None or not _wipe():
            return
        control.send(json.dumps(ended).encode())


def _become_nobody() -> None:
    """Where root started the sandbox: a user of no files and no other process, its capabilities gone."""
    if os.getuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(64999, 64999, 64999)
            os.setresuid(64999, 64999, 64999)
        except OSError:
            return  # an ordinary user's sandbox knows no other user


def _undumpable() -> None:
    """Keep children, which have the same user, from reading or tracing this process."""
    import ctypes

    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)


def _serve(request: dict, control: socket.socket, channel: socket.socket) -> dict | None:
    """Run one child to its end; how it ended, or None when the grader hung up."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            control.close()
            _child(request, channel)
            status = 0
        finally:
            os._exit(status)
    channel.close()
    return _watch(child, control, request)


def _watch(child: int, control: socket.socket, request: dict) -> dict | None:
    """Wait for the child; kill it for memory, for time, or when the grader says so."""
    ceiling = _resident_mib(child) + request["memory_mib"]
    deadline = time.monotonic() + request["seconds"]
    why, hung_up = "", False
    poller = os.pidfd_open(child)
    try:
        while True:
            ready, _, _ = select.select([poller, control], [], [], _TICK)
            if poller in ready:
                break
            if control in ready and not why:
                hung_up = not control.recv(65536)
                why = "stopped"
            elif _resident_mib(child) > ceiling:
                why = "memory"
            elif time.monotonic() > deadline:
                why = "time"
            if why:
                os.kill(child, signal.SIGKILL)
                break
    finally:
        os.close(poller)
    _, status = os.waitpid(child, 0)
    return None if hung_up else {"ended": os.waitstatus_to_exitcode(status), "why": why}


def _resident_mib(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):
        return 0.0


def _wipe() -> bool:
    """Empty the scratch folder. False when there is so much in it that a new sandbox is quicker."""
    left = 0
    for _, folders, files in os.walk(SCRATCH):
        left += len(folders) + len(files)
        if left > _WIPE_AT_MOST:
            return False
    for entry in os.scandir(SCRATCH):
        try:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        except OSError:
            return False
    return True


# ---------------------------------------------------------------- the child


def _child(request: dict, channel: socket.socket) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.close(nowhere)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    if request["confined"]:
        confine.confine(request["memory_mib"], request["cpu_seconds"])
        os.chdir(SCRATCH)
    function = None
    while True:
        try:
            message = wire.receive(channel)
        except EOFError:
            return
        if "cells" in message:
            _seed()
            function, note = _load(message, channel)
            wire.send(channel, note)
            continue
        reply = {"nonce": message["nonce"], **_answer(function, message["args"])}
        try:
            wire.send(channel, reply)
        except wire.WireError as problem:
            wire.send(channel, {"nonce": message["nonce"], "unreadable": str(problem)})


def _seed() -> None:
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def _load(load: dict, channel: socket.socket) -> tuple[object, dict]:
    """Execute what the answer needs; the function, or None, and the message for the grader."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _CourseFinder)]
    sys.meta_path.insert(0, _CourseFinder(load["helpers"], load["constants"], channel))
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab_utils"]:
        del sys.modules[name]
    statements, error = slicing.plan(load["cells"], load["target"], load["fallback"])
    if error:
        return None, {"error": _error(error)}
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    first_error = None
    for number, statement in statements:
        try:
            exec(_compiled(statement), module.__dict__)
        except BaseException as problem:
            if number == load["target"]:
                first_error = first_error or _error(problem)
    function = module.__dict__.get(load["function"])
    if not callable(function):
        return None, {"error": first_error, "undefined": True}
    return function, {"error": first_error}


def _compiled(statement: object) -> types.CodeType:
    import ast

    return compile(ast.Module([statement], []), STUDENT_FILE, "exec", dont_inherit=True)


def _answer(function: object, data: list) -> dict:
    """One call: the value, or the error; and the arguments as the function left them."""
    try:
        args = [wire.decode(item) for item in data]
    except wire.WireError as problem:
        return {"broken": str(problem)}
    try:
        value = function(*args)
    except BaseException as problem:
        return {"error": _error(problem)}
    try:
        return {"value": wire.encode(value), "after": [wire.encode(item) for item in args]}
    except wire.WireError as problem:
        return {"unreadable": str(problem)}
    except BaseException as problem:
        return {"unreadable": type(problem).__name__}


def _error(problem: BaseException) -> dict:
    """Name, nearest built-in type, message and line of an exception; safe whatever the exception does."""
    try:
        message = str(problem)[:300]
    except BaseException:
        message = ""
    line = 0
    if isinstance(problem, SyntaxError):
        line, message = problem.lineno or 0, str(problem.msg)[:300]
    else:
        for frame in traceback.extract_tb(problem.__traceback__):
            if frame.filename == STUDENT_FILE:
                line = frame.lineno or 0
    names = [kind.__name__ for kind in type(problem).__mro__]
    known = next((name for name in names if getattr(builtins, name, None) is not None), "Exception")
    return {"type": names[0][:60], "known": known, "message": message, "line": line}


class _Absent:
    """Stands for something of lab_utils that an answer may not use: any use raises."""

    def __init__(self, name: str):
        self.__dict__["_name"] = name

    def _raise(self, *_: object, **__: object) -> None:
        raise RuntimeError(f"评分时不能用 {self.__dict__['_name']}：练习要自己写 (write it yourself)")

    def __repr__(self) -> str:
        return f"<{self.__dict__['_name']}>"

    __call__ = __getattr__ = __getitem__ = __iter__ = __len__ = __bool__ = __eq__ = __hash__ = _raise
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _raise
    __lt__ = __le__ = __gt__ = __ge__ = __float__ = __int__ = __index__ = __contains__ = _raise


class _CourseFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """`lab_utils` inside the sandbox: the names that the model answer uses, and nothing else."""

    def __init__(self, helpers: list[str], constants: dict, channel: socket.socket):
        self._known: dict[str, object] = {name: wire.decode(value) for name, value in constants.items()}
        self._known |= {name: _helper(name, channel) for name in helpers}

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> object:
        if fullname.partition(".")[0] != "lab_utils":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: types.ModuleType) -> None:
        def find(name: str) -> object:
            full = f"{module.__name__}.{name}"
            if full in self._known:
                return self._known[full]
            if name.startswith("__"):
                raise AttributeError(name)
            if any(known.startswith(full + ".") for known in self._known):
                return importlib.import_module(full)
            return _Absent(full)

        module.__getattr__ = find


def _helper(name: str, channel: socket.socket) -> object:
    """A function of the course that the grader computes."""

    def call(*args: object) -> object:
        wire.send(channel, {"helper": name, "args": [wire.encode(item) for item in args]})
        reply = wire.receive(channel)
        if "error" in reply:
            raise ValueError(reply["error"])
        return wire.decode(reply["value"])

    call.__name__ = name.rpartition(".")[2]
    return call


if __name__ == "__main__":
    main()
