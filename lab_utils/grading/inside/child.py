"""The child in which one answer is loaded and called: it gives up everything, then does what the grader says.

Nothing in here knows what the right value is. Where the arguments of a call are hidden cases, the process was made
for them: it never saw a case whose outcome is shown in words.
"""

import ast
import asyncio
import builtins
import inspect
import linecache
import os
import random
import signal
import socket
import sys
import time
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import confine, slicing, stand_ins, wire

PLACE = "<单元 {}>"
"""The file name of the code of a cell."""
_LEAST_SECONDS = 0.3
"""What a statement may take in any case."""
_TOLD = 3
"""Errors of other cells that are reported."""
_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def serve(request: dict, channel: socket.socket) -> None:
    """Load the answer that comes over the socket, then call it on what comes, until the grader hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _close_all_but(channel.fileno())
    os.chdir(request["scratch"])
    if request["confined"]:
        confine.confine(request["memory_mib"], request["cpu_seconds"])
    function, target = None, 0
    while True:
        try:
            message = wire.receive(channel)
        except EOFError:
            return
        if "cells" in message:
            _seed()
            target = message["target"]
            function, reply = _load(message, channel)
        else:
            reply = {"nonce": message["nonce"], **_answer(function, message["args"], target)}
        try:
            wire.send(channel, reply)
        except wire.WireError as problem:
            wire.send(channel, {"nonce": message.get("nonce"), "unreadable": str(problem)})


def _close_all_but(kept: int) -> None:
    """Leave no descriptor open but one socket, and the three standard ones, which lead nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.closerange(3, kept)
    os.closerange(kept + 1, 2**16)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115  open as long as the process


def _seed() -> None:
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


# ---------------------------------------------------------------- loading


def _load(load: dict, channel: socket.socket) -> tuple[Any, dict]:
    """Run what the answer needs; the function, or None, and a note for the grader.

    The note: `error`, the first of the answer's own cell; `others`, those of other cells; `unbound`, names that
    nothing binds; `undefined` when there is no function; `same` when the end of the notebook, or all of the student's
    own cells, were asked for and need nothing else than the check.
    """
    where = load["cells"], load["target"], load["function"], load["given"]
    plan = slicing.plan(*where, whole=load["whole"], wide=load["wide"])
    if plan.error:
        return None, {"error": _error(plan.error, load["target"]), "undefined": True}
    if (load["whole"] or load["wide"]) and plan.steps == slicing.plan(*where).steps:
        return None, {"same": True}
    stand_ins.install(load["helpers"], load["constants"], channel)
    sys.path.insert(0, os.getcwd())
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    problems = _run(plan, module, load)
    function = module.__dict__.get(load["function"])
    others = [{"cell": cell + 1, **error} for cell, error in problems if 0 <= cell != load["target"]]
    note: dict[str, Any] = {
        "error": next((error for cell, error in problems if cell == load["target"]), None),
        "others": others[:_TOLD],
        "unbound": list(plan.unbound),
    }
    if not callable(function):
        return None, {**note, "undefined": True}
    return function, note


def _run(plan: slicing.Plan, module: types.ModuleType, load: dict) -> list[tuple[int, dict]]:
    """Run the steps, the later ones whatever becomes of the earlier; cell and error of those that fail.

    Statements that aren't the answer may take `statement_seconds` each, and twice that together, so that a loop
    somewhere leaves time for it. Errors count only of statements that the answer needs.
    """
    for step in plan.steps:
        source = (load["cells"] if step.cell >= 0 else load["given"])[max(step.cell, -1 - step.cell)]
        place = PLACE.format(step.cell)
        linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)
    problems = []
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    left = 2 * load["statement_seconds"]
    for step in plan.steps:
        is_free = isinstance(step.statement, _DEFINITIONS) or (step.needed and step.cell == load["target"])
        limit = 0 if is_free else max(_LEAST_SECONDS, min(load["statement_seconds"], left))
        begin = time.monotonic()
        try:
            code = compile(ast.Module([step.statement], []), PLACE.format(step.cell), "exec", flags, True)
            flags |= code.co_flags & _FUTURE
            with _at_most(limit):
                _execute(code, module)
        except BaseException as problem:  # SystemExit and our own alarm included
            if step.needed:
                problems.append((step.cell, _error(problem, load["target"])))
        left -= 0 if is_free else time.monotonic() - begin
    return problems


_FUTURE = 0x1FE0000
"""The flags of `from __future__ import …`, which hold for all later cells of a notebook."""


def _execute(code: types.CodeType, module: types.ModuleType) -> None:
    if not code.co_flags & inspect.CO_COROUTINE:
        exec(code, module.__dict__)  # noqa: S102  this process is there for it
        return
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(eval(code, module.__dict__))  # noqa: S307  the same
    finally:
        loop.close()


class _TooLong(BaseException):
    """A statement that isn't the answer took too long."""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer; 0 is no limit."""

    def interrupt(*_: object) -> None:
        raise _TooLong(f"超过 {seconds:g} 秒 (timeout)")

    if seconds:
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# ---------------------------------------------------------------- calling


def _answer(function: Any, data: list, target: int) -> dict:
    """One call: the value, or the error; and the arguments as the function left them."""
    try:
        args = [wire.decode(item) for item in data]
    except wire.WireError as problem:
        return {"broken": str(problem)}
    try:
        value = function(*args)
    except BaseException as problem:
        return {"error": _error(problem, target)}
    try:
        return {"value": wire.encode(value), "after": [wire.encode(item) for item in args]}
    except wire.WireError as problem:
        return {"unreadable": str(problem)}
    except BaseException as problem:
        return {"unreadable": type(problem).__name__}


def _error(problem: BaseException, target: int) -> dict:
    """Name, nearest built-in type, message and line of an exception; safe whatever the exception does.

    The line is that of the innermost frame in the cell `target`; 0 when there is none.
    """
    try:
        message = str(problem)[:300]
    except BaseException:
        message = ""
    line = 0
    if isinstance(problem, SyntaxError):
        line, message = problem.lineno or 0, str(problem.msg)[:300]
    else:
        for frame in traceback.extract_tb(problem.__traceback__):
            if frame.filename == PLACE.format(target):
                line = frame.lineno or 0
    names = [kind.__name__ for kind in type(problem).__mro__]
    known = next((name for name in names if getattr(builtins, name, None) is not None), "Exception")
    return {"type": names[0][:60], "known": known, "message": message, "line": line}
