"""The frame of every check: the student's function in, a verdict with a hint out.

A check runs the student's function and a reference on the same cases and compares
type, then shape, dtype and value, so that the first thing said is the first thing to
mend. When the answers are exactly those of a known mistake, its hint is given instead
of the general one. A check never shows the expected value of a case it calls an edge case.
"""

import copy
import html
import sys
import traceback
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from random import Random
from typing import Any

import numpy as np

DRAWS_PER_CASE = 50
"""Draws that a hidden case may take before the generator counts as too poor."""


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
        colour = "#1a7f37" if self.ok else "#9a6700" if self.stage == "not_yet" else "#cf222e"
        text = html.escape(str(self)).replace("\n", "<br>")
        return f'<div style="border-left:4px solid {colour};padding:.4em .8em;margin:.2em 0">{text}</div>'


class CheckFailed(AssertionError):
    """Raised by a check cell that does not pass. Shown in a notebook as one line."""

    def __init__(self, verdict: Verdict):
        super().__init__(str(verdict))
        self.verdict = verdict

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: 练习 {self.verdict.check} 还没有通过，见上面的说明"]


class NotYet(CheckFailed):
    """The exercise still holds its stub."""


@dataclass(frozen=True, eq=False)
class Check:
    """A check of one exercise. Call it with the student's function.

    `reference` is the right answer; `tolerance` is relative and absolute, for floats. `draw` makes the
    arguments of one more call, on which every right answer agrees: no ties, no empty edge that the lab
    doesn't speak of.
    Raises NotYet for an untouched stub and CheckFailed for a wrong answer, after showing
    the verdict; shows the verdict and returns nothing when the answer is right.
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
        """The verdict on `answer`; never raises for anything that `answer` does."""
        if not callable(answer):
            return self._verdict("type", f"请传入函数本身，而不是它的结果；收到的是 {type(answer).__name__}")
        outputs = []
        for case in self.cases:
            outputs.append(run(answer, case.args))
            if isinstance(outputs[-1].error, NotImplementedError):
                break
        return self.judge_outputs(outputs)

    def judge_outputs(self, outputs: "list[Output]") -> Verdict:
        """The verdict on what an answer gave for the cases, one output a case."""
        if any(isinstance(output.error, NotImplementedError) for output in outputs):
            return self._verdict(
                "not_yet", "还没有写。把 raise NotImplementedError 换成你的代码，再运行这一格"
            )
        pairs = zip(self.cases, outputs, strict=True)
        finding = next((found for found in (self.finding(*pair) for pair in pairs) if found), None)
        if finding is None:
            return Verdict(self.name, True, "ok", f"全部 {len(self.cases)} 个用例 (case) 通过")
        known = next((m for m in self.mistakes if self._matches(m, outputs)), None)
        if known:
            return self._verdict(finding[0], finding[1], known.hint, known.name)
        return self._verdict(*finding)

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
        found = difference(output.value, run(self.reference, case.args).value, self.tolerance)
        if found is None:
            return None
        stage, message = found
        if case.edge:
            return "edge", f"{where}的结果不对", case.hint
        return stage, f"{where}：{message}", case.hint

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


def value_key(value: Any) -> Hashable:
    """A key that is the same for equal values, whatever holds them: tensor or array, list or tuple."""
    if hasattr(value, "tolist"):
        return tuple(value.shape), value_key(value.tolist())
    if isinstance(value, Mapping):
        return frozenset((key, value_key(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(value_key(item) for item in value)
    return value if value == value else "nan"  # NaN equals nothing, not even itself


@dataclass(frozen=True)
class Output:
    """What a function gave for one case, or the exception it raised."""

    value: Any = None
    error: Exception | None = None
    changed: bool = False


def difference(got: Any, want: Any, tolerance: float) -> tuple[str, str] | None:
    """What is wrong with `got`, as `(stage, message)`, looked at in the order type, shape, dtype, value."""
    for compare in (_type_difference, _shape_difference, _dtype_difference):
        message = compare(got, want)
        if message:
            return compare.__name__.split("_")[1], message
    return _value_difference(got, want, tolerance)


def _type_difference(got: Any, want: Any) -> str | None:
    if got is None and want is not None:
        return "函数没有返回值 (return)，得到 None"
    if _kind(got) != _kind(want):
        return f"应返回 {_kind(want)}，得到 {type(got).__name__}"
    return None


def _kind(value: Any) -> str:
    """The kinds between which a check does tell: a list may be a tuple, a number any number."""
    if isinstance(value, (bool, np.bool_)):
        return "bool"
    if isinstance(value, (Number, np.number)):
        return "数 (number)"
    if isinstance(value, (str, bytes)):
        return type(value).__name__
    if isinstance(value, Mapping):
        return "dict"
    if isinstance(value, Sequence):
        return "list"
    return type(value).__name__


def _shape_difference(got: Any, want: Any) -> str | None:
    if hasattr(want, "shape"):
        if tuple(got.shape) != tuple(want.shape):
            return f"形状 (shape) 应为 {tuple(want.shape)}，得到 {tuple(got.shape)}"
    elif isinstance(want, Mapping):
        missing, extra = sorted(set(want) - set(got), key=str), sorted(set(got) - set(want), key=str)
        if missing or extra:
            parts = [f"缺少键 (key) {', '.join(map(str, missing))}"] * bool(missing)
            return "；".join(parts + [f"多出键 {', '.join(map(str, extra))}"] * bool(extra))
    elif _kind(want) == "list" and len(got) != len(want):
        return f"长度 (length) 应为 {len(want)}，得到 {len(got)}"
    return None


def _dtype_difference(got: Any, want: Any) -> str | None:
    if hasattr(want, "dtype") and hasattr(got, "dtype") and hasattr(want, "shape") and want.shape:
        return None if got.dtype == want.dtype else f"dtype 应为 {want.dtype}，得到 {got.dtype}"
    return None


def _value_difference(got: Any, want: Any, tolerance: float) -> tuple[str, str] | None:
    if isinstance(want, Mapping):
        pairs = [(f"键 {key} 的", got[key], want[key]) for key in want]
    elif _kind(want) == "list":
        pairs = [(f"第 {i + 1} 个", g, w) for i, (g, w) in enumerate(zip(got, want, strict=True))]
    elif hasattr(want, "shape") and want.shape:
        wrong = ~np.isclose(_array(got), _array(want), rtol=tolerance, atol=tolerance, equal_nan=True)
        if not wrong.any():
            return None
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        return "value", f"有 {int(wrong.sum())} 个值不对，第一个在位置 {at}：得到 {_array(got)[at]:.6g}"
    else:
        return None if _equal(got, want, tolerance) else ("value", f"得到 {got!r}，不对")
    for label, g, w in pairs:
        found = difference(g, w, tolerance)
        if found:
            return found[0], f"{label}值：{found[1]}"
    return None


def _equal(got: Any, want: Any, tolerance: float) -> bool:
    if _kind(want) == "数 (number)" or hasattr(want, "shape"):
        return bool(np.isclose(_array(got), _array(want), rtol=tolerance, atol=tolerance, equal_nan=True))
    return bool(got == want)


def _array(value: Any) -> np.ndarray:
    if "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor):
        value = value.detach().cpu().double()
    return np.asarray(value, dtype=float)


def run(function: Callable, args: tuple) -> Output:
    """Call `function` on a copy of `args`; what it gave, raised and changed."""
    own = copy.deepcopy(args)
    try:
        value = function(*own)
    except Exception as error:  # whatever the student's code raises is the verdict's subject
        return Output(error=error)
    return Output(value, changed=any(difference(a, b, 0.0) for a, b in zip(own, args, strict=True)))


def _error_line(error: Exception) -> str:
    """Exception and the line of the innermost frame: `ValueError: …（第 3 行）`."""
    frames = traceback.extract_tb(error.__traceback__)
    line = f"（第 {frames[-1].lineno} 行：{frames[-1].line}）" if frames and frames[-1].line else ""
    return f"{type(error).__name__}: {error}{line}"


def _show(verdict: Verdict) -> None:
    """Display in a notebook; elsewhere print."""
    shell = sys.modules.get("IPython")
    if shell and shell.get_ipython():
        from IPython.display import display

        display(verdict)
    else:
        print(verdict)
