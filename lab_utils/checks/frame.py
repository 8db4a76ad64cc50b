"""The frame of every check: the student's function in, a verdict with a hint out.

A check runs the student's function and a reference on the same cases and compares
type, then shape, dtype and value, so that the first thing said is the first thing to
mend. When the answers are exactly those of a known mistake, its hint is given instead
of the general one. A check never shows the expected value of a case it calls an edge case.
"""

import copy
import html
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from lab_utils.checks.compare import difference, value_key
from lab_utils.errors import LabError

DRAWS_PER_CASE = 50
"""Draws that a hidden case may take before the generator counts as too poor."""
MESSAGE_LIMIT = 300
"""Characters of an error, or of a line of code, that a verdict shows."""
STUB_MESSAGE = "在这里写你的代码"
"""What the error of an unwritten exercise says."""
_LINE = re.compile(r"（第 \d+ 行）$")
_LIBRARIES = (
    *{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")},
    str(Path(__file__).parents[1]),
    "<frozen",
)
"""Where the files of Python, of installed packages and of this one lie."""


@dataclass(frozen=True)
class Case:
    """One input. `name` says in Chinese what is special about it; `edge` marks edge cases."""

    name: str
    args: tuple
    hint: str = ""
    edge: bool = False


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that students really give, and the hint that answers it."""

    name: str
    answer: Callable = field(repr=False)
    hint: str


@dataclass(frozen=True)
class Verdict:
    """The outcome of a check. `stage`: ok, not_yet, error, type, shape, dtype, value, edge or input."""

    check: str
    ok: bool
    stage: str
    message: str
    hint: str = ""
    mistake: str = ""

    def __str__(self) -> str:
        mark = "✅" if self.ok else "✏️" if self.stage == "not_yet" else "❌"
        hint = f"\n💡 提示 (hint)：{self.hint}" if self.hint else ""
        return f"{mark} {self.check}：{self.message}{hint}"

    def _repr_html_(self) -> str:
        color = "#1a7f37" if self.ok else "#9a6700" if self.stage == "not_yet" else "#cf222e"
        text = html.escape(str(self)).replace("\n", "<br>")
        return f'<div style="border-left:4px solid {color};padding:.4em .8em;margin:.2em 0">{text}</div>'


class CheckFailed(LabError, AssertionError):
    """Raised by a check cell that does not pass, after its verdict is shown: in a notebook one line is enough."""

    def __init__(self, verdict: Verdict):
        super().__init__(verdict.message, verdict.hint, f"练习 {verdict.check}")
        self.verdict = verdict

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: 练习 {self.verdict.check} 还没有通过，见上面的说明。"]


class NotYet(CheckFailed):
    """The exercise still holds its stub."""


@dataclass(frozen=True, eq=False)
class Check:
    """A check of one exercise. Call it with the student's function.

    `reference` is the right answer; `tolerance` is relative and absolute, for floats. `draw` makes the
    arguments of one more call, on which every right answer agrees: no ties, no empty edge that the lab
    doesn't speak of. Called, a check shows the verdict, and returns nothing when the answer is right; it
    raises NotYet for an untouched stub and CheckFailed for a wrong answer.
    """

    name: str
    reference: Callable = field(repr=False)
    cases: tuple[Case, ...] = field(repr=False)
    mistakes: tuple[Mistake, ...] = field(repr=False, default=())
    tolerance: float = 1e-6
    draw: Callable[[Random], tuple] | None = field(repr=False, default=None)

    def __call__(self, answer: Callable) -> None:
        verdict = self.judge(answer)
        _show(verdict)
        if not verdict.ok:
            raise (NotYet if verdict.stage == "not_yet" else CheckFailed)(verdict)

    def judge(self, answer: Callable) -> Verdict:
        """The verdict on `answer`; never raises for anything that `answer` does, but for Ctrl-C."""
        if not callable(answer):
            return self._verdict("type", f"请传入函数本身，而不是它的结果；收到的是 {type(answer).__name__}")
        outputs = []
        for case in self.cases:
            outputs.append(run(answer, case.args))
            if is_stub(outputs[-1].error):
                break
        return self.judge_outputs(outputs)

    def judge_outputs(self, outputs: "list[Output]") -> Verdict:
        """The verdict on what an answer gave for the cases, one output a case."""
        if any(is_stub(output.error) for output in outputs):
            return self._verdict(
                "not_yet", "还没有写。把 raise NotImplementedError 换成你的代码，再运行这一格"
            )
        pairs = zip(self.cases, outputs, strict=True)
        first = next((finding for finding in (self.finding(*pair) for pair in pairs) if finding), None)
        if first is None:
            return Verdict(self.name, True, "ok", f"全部 {len(self.cases)} 个用例 (case) 通过")
        known = next((m for m in self.mistakes if self._matches(m, outputs)), None)
        if known:
            return self._verdict(first[0], first[1], known.hint, known.name)
        return self._verdict(*first)

    def hidden_cases(self, seed: int | str, count: int) -> tuple[Case, ...]:
        """`count` further cases, none equal to a visible one or to another.

        They are the same for the same seed and exercise, and the first of more. They are judged as edge
        cases, so that no value is told. A check without `draw` has none. Raises RuntimeError when `draw`
        doesn't give enough different inputs, which is a fault of the check.
        """
        if self.draw is None:
            return ()
        rng = Random(f"{seed} {self.draw.__module__} {self.name}")
        taken = {value_key(case.args) for case in self.cases}
        cases: list[Case] = []
        for _ in range(DRAWS_PER_CASE * count):
            if len(cases) == count:
                break
            args = self.draw(rng)
            if value_key(args) not in taken:
                taken.add(value_key(args))
                cases.append(Case(f"隐藏用例 {len(cases) + 1}", args, edge=True))
        if len(cases) < count:
            raise RuntimeError(f"draw of {self.name} gave {len(cases)} different inputs, not {count}")
        return tuple(cases)

    def _verdict(self, stage: str, message: str, hint: str = "", mistake: str = "") -> Verdict:
        return Verdict(self.name, False, stage, message, hint, mistake)

    def finding(self, case: Case, output: "Output") -> tuple[str, str, str] | None:
        """Stage, message and hint of what is wrong in one case; None when nothing is."""
        where = f"用例「{case.name}」"
        if output.error is not None:
            return "error", f"{where}出错：{_error_line(output.error)}", case.hint
        if output.changed:
            return "input", f"{where}：你的函数改动了传入的参数", "先复制再改，或者新建一个结果"
        wrong = difference(output.value, run(self.reference, case.args).value, self.tolerance, _texts(case))
        if wrong is None:
            return None
        if case.edge:
            return "edge", f"{where}的结果不对", case.hint
        return wrong[0], f"{where}：{wrong[1]}", case.hint

    def _matches(self, mistake: Mistake, outputs: list["Output"]) -> bool:
        """True when every output is what this mistake gives."""
        for case, output in zip(self.cases, outputs, strict=True):
            wrong = run(mistake.answer, case.args)
            if (wrong.error is None) != (output.error is None):
                return False
            if wrong.error is not None:
                if type(wrong.error) is not type(output.error):
                    return False
            elif difference(output.value, wrong.value, self.tolerance) is not None:
                return False
        return True


@dataclass(frozen=True)
class Output:
    """What a function gave for one case, or the exception it raised."""

    value: Any = None
    error: BaseException | None = None
    changed: bool = False


def _texts(case: Case) -> list[str]:
    """The first argument of a case when it is a list of texts: then a list of answers has one for each."""
    first = case.args[0] if case.args else None
    return first if isinstance(first, list) and all(isinstance(text, str) for text in first) else []


def run(function: Callable, args: tuple) -> Output:
    """Call `function` on a copy of `args`; what it gave, raised and changed. Only Ctrl-C passes."""
    copied = copy.deepcopy(args)
    try:
        value = function(*copied)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the student's code raises, exit() too, is the verdict's subject
        return Output(error=error)
    return Output(value, changed=any(difference(a, b, 0.0) for a, b in zip(copied, args, strict=True)))


def is_stub(error: BaseException | None) -> bool:
    """Whether an exercise still holds its stub; torch raises a NotImplementedError of its own for a wrong dtype."""
    if not isinstance(error, NotImplementedError):
        return False
    message = _text(error)
    return STUB_MESSAGE in message or not _LINE.sub("", message)


def _error_line(error: BaseException) -> str:
    """Exception and the last line of it that isn't a library's: `ValueError: …（第 3 行：…）`."""
    message = f"{type(error).__name__}: {_text(error)}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_LIBRARIES)]
    if not frames or not frames[-1].line:
        return _cut(message)
    return f"{_cut(message)}（第 {frames[-1].lineno} 行：{_cut(frames[-1].line)}）"


def _text(error: BaseException) -> str:
    """The message of an exception, also of one whose `__str__` raises."""
    try:
        return str(error)
    except Exception as broken:
        return f"它的信息读不出来 ({type(broken).__name__})"


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_LIMIT else f"{text[:MESSAGE_LIMIT]}…"


def _show(verdict: Verdict) -> None:
    """Display in a notebook; elsewhere print."""
    shell = sys.modules.get("IPython")
    if shell and shell.get_ipython():
        from IPython.display import display

        display(verdict)
    else:
        print(verdict)
