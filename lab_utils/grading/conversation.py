"""What is said between the grader and one child of the sandbox. Whatever the child says, it is only data."""

import secrets
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from lab_utils.grading.inside import wire

if TYPE_CHECKING:
    from lab_utils.grading.sandbox import Limits

HELPER_ARGUMENTS = 20


@dataclass(frozen=True)
class Failure:
    """An error as the child tells it. `kind` is the exception's own name, `known` its nearest built-in class."""

    kind: str
    known: str = "Exception"
    message: str = ""
    line: int = 0
    """Line in the answer's cell, from 1; 0 when it isn't known."""

    @classmethod
    def from_wire(cls, data: Any) -> "Failure | None":
        """What the child said, with every field of the right type; None when it said nothing."""
        if data is None:
            return None
        fields = data if isinstance(data, dict) else {}
        kind, known, message = (str(fields.get(name, ""))[:300] for name in ("type", "known", "message"))
        line = fields.get("line", 0)
        return cls(kind, known, message, line if type(line) is int and 0 <= line < 10**6 else 0)


@dataclass(frozen=True)
class Request:
    """What a child loads: the cells of the notebook, which of them is the answer, and what else it may use.

    `given`: code cells of the notebook as it was given out; `helpers`: full name -> function of the course that is
    computed out here; `constants`: full name -> value; `whole` and `wide`: see `inside.slicing.plan`.
    """

    cells: list[str]
    target: int
    function: str
    given: list[str]
    helpers: dict[str, Callable]
    constants: dict[str, Any]
    whole: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Loaded:
    """What became of loading. `others`: cell, counted from 1, and error of statements elsewhere that failed.

    `unbound`: names that nothing in the notebook binds. `same`: more of the notebook was asked for and there is
    nothing more; nothing was loaded.
    """

    error: Failure | None = None
    others: tuple[tuple[int, Failure], ...] = ()
    unbound: tuple[str, ...] = ()
    undefined: bool = False
    same: bool = False


@dataclass(frozen=True)
class Reply:
    """What came back for one call: a value, or an error; `after` are the arguments as the function left them."""

    value: Any = None
    after: list | None = None
    error: Failure | None = None


class AnswerEnded(RuntimeError):
    """The child can't go on. `why`: time, memory, files, ended, protocol, lost (the sandbox itself), killed (by whom
    can't be told: by itself, or by the system); the message is Chinese."""

    def __init__(self, why: str, message: str):
        super().__init__(message)
        self.why = why


_WHY = {
    "memory": "用的内存太多，被终止了 (out of memory)",
    "files": "写的文件太多，被终止了 (too many files)",
    "time": "总时间太长，被终止了 (timeout)",
    "lost": "沙箱 (sandbox) 中断了，没有给出结果",
}


class Answer:
    """One answer in a process of its own: load it, then call it."""

    def __init__(self, channel: socket.socket, limits: "Limits", finish: Callable[[bool], dict]):
        self._channel, self._limits, self._finish = channel, limits, finish
        self._deadline = time.monotonic() + limits.total_seconds
        self._helpers: dict[str, Callable] = {}
        self._over = False

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the child if it still runs."""
        if not self._over:
            self._over = True
            self._channel.close()
            self._finish(True)

    def load(self, request: Request) -> Loaded:
        """Run what the answer needs. Raises AnswerEnded."""
        self._helpers = request.helpers
        constants = {name: wire.encode(value) for name, value in request.constants.items()}
        message = {
            **vars(request), "helpers": list(request.helpers), "constants": constants,
            "statement_seconds": self._limits.statement_seconds,
        }  # fmt: skip
        reply = self._exchange(message, self._limits.load_seconds)
        others = [entry for entry in _list(reply.get("others")) if isinstance(entry, dict)]
        cells = [int(cell) if type(cell := entry.get("cell")) is int else 0 for entry in others]
        return Loaded(
            Failure.from_wire(reply.get("error")),
            tuple(
                (cell, Failure.from_wire(entry) or Failure(""))
                for cell, entry in zip(cells, others, strict=True)
            ),
            tuple(str(name)[:60] for name in _list(reply.get("unbound"))[:20]),
            bool(reply.get("undefined")),
            bool(reply.get("same")),
        )

    def call(self, args: tuple) -> Reply:
        """Call the student's function. Raises AnswerEnded when no proper reply comes."""
        nonce = secrets.token_hex(8)
        message = {"nonce": nonce, "args": [wire.encode(item) for item in args]}
        reply = self._exchange(message, self._limits.case_seconds)
        if reply.get("nonce") != nonce:
            self._end("protocol", "回应与提问不符 (forged reply)")
        if "broken" in reply:
            self._end("protocol", "参数没有送到 (arguments not delivered)")
        if "unreadable" in reply:
            return Reply(error=_unreadable(reply["unreadable"]))
        if "error" in reply:
            return Reply(error=Failure.from_wire(reply["error"]) or Failure(""))
        try:
            return Reply(wire.decode(reply.get("value")), wire.decode({"list": reply.get("after")}))
        except wire.WireError as error:
            return Reply(error=_unreadable(error))

    def _exchange(self, message: dict, seconds: float) -> dict:
        """Send, then answer the child's questions until its reply comes, all of it in so many seconds."""
        until = min(time.monotonic() + seconds, self._deadline)
        try:
            wire.send(self._channel, message, until)
            while True:
                reply = wire.receive(self._channel, until)
                if "helper" not in reply:
                    return reply
                wire.send(self._channel, self._help(reply), until)
        except TimeoutError:
            self._end("time", f"超过 {seconds:g} 秒还没有结果 (timeout)")
        except (EOFError, OSError):
            self._end("ended", "")
        except wire.WireError as error:
            self._end("protocol", str(error))

    def _help(self, question: dict) -> dict:
        """Compute a helper for the child: numbers and arrays in, a value out."""
        try:
            function = self._helpers[question["helper"]]
            args = [wire.decode(item) for item in question["args"]]
            if len(args) > HELPER_ARGUMENTS or not all(_harmless(item) for item in args):
                return {"error": "参数不对：这里只能用普通大小的数和布尔值"}
            return {"value": wire.encode(function(*args))}
        except Exception as error:  # a helper called with nonsense is the student's business
            return {"error": f"{type(error).__name__}: {error}"[:200]}

    def _end(self, why: str, message: str) -> NoReturn:
        self._over = True
        self._channel.close()
        ended = self._finish(why in ("time", "protocol"))
        if why == "ended":
            why, message = ended["why"], _WHY.get(ended["why"], "")
            if not message:
                why = "killed" if ended["ended"] == -signal.SIGKILL else "ended"
                message = f"代码中途退出了，没有给出结果 ({_exit(ended['ended'])})"
        raise AnswerEnded(why, message)


def _exit(code: int | None) -> str:
    """How a process ended, from its exit code; below zero it was a signal."""
    if code is None or code >= 0:
        return f"process ended, exit code {code}"
    return f"process ended by signal {-code}"


def _list(value: Any) -> list:
    return value if isinstance(value, list) else []


def _harmless(value: Any) -> bool:
    """Small numbers only: a helper runs outside the sandbox."""
    return isinstance(value, (bool, int, float)) and abs(value) < 1e15


def _unreadable(why: Any) -> Failure:
    return Failure("返回值", "ValueError", f"返回的值读不出来：{why}"[:200])
