"""From a student's cells to points: what the answers of one submission of one lab earn.

It is the same for the same submission, without times. `stage` of a result is that of its verdict, or: missing, time,
memory, files, ended, protocol.
"""

import builtins
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lab_utils.checks.frame import Case, Check, Output, Verdict, difference, is_stub
from lab_utils.grading.answers import Answers, pick
from lab_utils.grading.conversation import Answer, AnswerEnded, Failure, Loaded, Reply, Request
from lab_utils.grading.notebook_file import Notebook
from lab_utils.grading.row import Earned, ExerciseResult
from lab_utils.grading.sandbox import Sandbox
from lab_utils.grading.tasks import Exercise, Task
from lab_utils.grading.text import clean

RESTARTS = 2
SUBMISSION_SECONDS = 180.0
"""Wall time after which the remaining exercises of a submission aren't run."""


def grade(task: Task, notebook: Notebook, sandbox: Sandbox, closed: Sandbox | None = None) -> Earned:
    """What a notebook earns.

    The visible cases of every exercise are run before any hidden case, each exercise in a child of its own, and the
    hidden cases again in other children. So nothing that is shown in words comes from a process, or from after a
    process, that has seen a hidden input. Nor does it of another submission when hidden cases have a sandbox of their
    own, `closed`: what outlives a child, such as the number of the next process, stays in there.
    """
    answers = pick(task, notebook)
    until = time.monotonic() + SUBMISSION_SECONDS
    boxes = sandbox, closed or sandbox
    attempts = [_Attempt(task, exercise, answers, boxes, until) for exercise in task.exercises]
    for attempt in attempts:
        attempt.run_visible()
    for attempt in attempts:
        attempt.run_wide()
    for attempt in attempts:
        attempt.run_hidden()
    results = [attempt.result() for attempt in attempts]
    notes = tuple(clean(note) for note in dict.fromkeys((*notebook.notes, *answers.notes)))
    score = round(sum(result.score for result in results), 2)
    return Earned(score, clean(_summary(results)), notes, tuple(results))


def _summary(results: list[ExerciseResult]) -> str:
    """`通过 3/4 个练习；pass_rate：…`: how many passed, and what the first others lack."""
    wrong = [result for result in results if result.stage != "ok"]
    line = f"通过 {len(results) - len(wrong)}/{len(results)} 个练习"
    return "；".join([line, *(f"{result.name}：{clean(result.message, 60)}" for result in wrong[:3])])


class _Attempt:
    """One exercise of a submission: its visible cases, then its hidden ones, then what it earns."""

    def __init__(
        self, task: Task, exercise: Exercise, answers: Answers, boxes: tuple[Sandbox, Sandbox], until: float
    ):
        self._exercise, self._until = exercise, until
        self._sandbox, self._closed = boxes
        self._visible = replace(exercise.check, cases=exercise.check.cases[: exercise.visible])
        self._hidden_cases = exercise.check.cases[exercise.visible :]
        self._outcome = _Outcome(self._verdict("missing", ""))
        self._hidden = [False] * len(self._hidden_cases)
        target = answers.cell[exercise.name]
        self._request = target if target is None else _request(task, exercise, answers.code, target)

    def _verdict(self, stage: str, message: str) -> Verdict:
        return Verdict(self._exercise.name, False, stage, message)

    def run_visible(self) -> None:
        """Call the answer on the cases that students have: as the notebook stands at the check, and, where that
        isn't enough, as it stands at its end; the better counts."""
        if self._request is None:
            name = self._exercise.function
            message = f"没有找到这个练习的单元 (cell)，也没有找到函数 {name}"
            self._outcome = _Outcome(self._verdict("missing", message))
        elif time.monotonic() > self._until:
            message = "前面的练习用完了整份作业的时间，这个没有运行 (timeout)"
            self._outcome = _Outcome(self._verdict("time", message))
        else:
            self._outcome = self._tried(self._request) or self._outcome
            self._try_also(replace(self._request, whole=True))

    def run_wide(self) -> None:
        """Where the answer isn't right: once more after all of the student's own cells; the better counts.

        That takes its time, so it is done when every answer had its turn, and leaves half of the time.
        """
        wrong = self._outcome.passed and self._outcome.verdict.stage != "not_yet"
        undefined = self._outcome.verdict.stage == "error"
        if self._request and (wrong or undefined) and time.monotonic() < self._until - SUBMISSION_SECONDS / 2:
            self._try_also(replace(self._request, whole=False, wide=True))

    def _try_also(self, request: Request) -> None:
        if self._outcome.verdict.ok or self._outcome.exhausted:
            return
        other = self._tried(request)
        if other and sum(other.passed) > sum(self._outcome.passed):
            self._outcome, self._request = other, request

    def _tried(self, request: Request) -> "_Outcome | None":
        """The visible cases; None when the request is for nothing that wasn't tried."""
        with _Caller(self._sandbox, self._exercise, request) as caller:
            outputs = caller.outputs(self._visible.cases)
        if outputs is None:
            return None
        if isinstance(outputs, Verdict):
            return _Outcome(outputs, exhausted=caller.exhausted)
        judged = [
            _comparable(self._visible, *pair) for pair in zip(self._visible.cases, outputs, strict=True)
        ]
        verdict = _judge(self._visible, [output for output, _ in judged])
        if caller.ended and verdict.stage == "error":
            message = verdict.message.replace("出错：RuntimeError: ", "：", 1)
            verdict = replace(verdict, stage=caller.ended, message=message)
        return _Outcome(verdict, [passed for _, passed in judged], caller.exhausted)

    def run_hidden(self) -> None:
        """Call the answer on the hidden cases; only whether it is right is looked at."""
        outcome = self._outcome
        if not outcome.passed or outcome.exhausted or outcome.verdict.stage == "not_yet" or not self._request:
            return
        if time.monotonic() > self._until:
            if outcome.verdict.ok:
                message = "整份作业的时间用完了，隐藏用例没有运行 (timeout)"
                self._outcome = replace(outcome, verdict=self._verdict("time", message))
            return
        with _Caller(self._closed, self._exercise, self._request) as caller:
            outputs = caller.outputs(self._hidden_cases)
        if isinstance(outputs, list):
            pairs = zip(self._hidden_cases, outputs, strict=True)
            self._hidden = [_comparable(self._exercise.check, *pair)[1] for pair in pairs]
        if outcome.verdict.ok:
            self._outcome = replace(outcome, verdict=self._final_verdict())

    def _final_verdict(self) -> Verdict:
        """The verdict on an answer that passes all visible cases."""
        cases = len(self._exercise.check.cases)
        if all(self._hidden):
            return Verdict(self._exercise.name, True, "ok", f"全部 {cases} 个用例 (case) 通过")
        message = (
            f"公开的用例都通过了，隐藏用例 (hidden case) 通过 {sum(self._hidden)}/{len(self._hidden)} 个"
        )
        hint = "隐藏用例的输入、结果和出错信息都不显示；想一想还有哪些输入是公开用例里没有的"
        return replace(self._verdict("edge", message), hint=hint)

    def result(self) -> ExerciseResult:
        """What the exercise earns."""
        exercise, verdict, passed = self._exercise, self._outcome.verdict, self._outcome.passed
        right, cases = sum(passed) + sum(self._hidden), len(exercise.check.cases)
        return ExerciseResult(
            exercise.name,
            exercise.points,
            points(exercise.points, right, cases, exercise.free) if passed else 0.0,
            verdict.stage,
            clean(verdict.message),
            clean(verdict.hint),
            verdict.mistake,
            sum(passed),
            exercise.visible,
            sum(self._hidden),
            len(self._hidden),
        )


@dataclass(frozen=True)
class _Outcome:
    """What became of the visible cases; `passed` is empty when none could be called, `exhausted`: it ended its
    process too often to be called again."""

    verdict: Verdict
    passed: list[bool] = field(default_factory=list)
    exhausted: bool = False


def _request(task: Task, exercise: Exercise, code: list[str], target: int) -> Request:
    cells = [cell for cell in task.given if cell.kind == "code"]
    given = sorted(cells, key=lambda cell: bool(cell.exercise or cell.check))  # stubs come last
    sources = [cell.source for cell in given]
    return Request(code, target, exercise.function, sources, exercise.helpers, exercise.constants)


def _judge(check: Check, outputs: list[Output]) -> Verdict:
    """The check's verdict; without its known mistakes where values of odd kinds can't be compared with theirs."""
    try:
        return check.judge_outputs(outputs)
    except Exception:  # what comparing two values of odd kinds raises depends on the kinds
        return replace(check, mistakes=()).judge_outputs(outputs)


def _comparable(check: Check, case: Case, output: Output) -> tuple[Output, bool]:
    """The output and whether it is right; an error in its place when it can't even be compared."""
    try:
        return output, check.finding(case, output) is None
    except Exception as error:  # as above
        return Output(error=TypeError(f"返回的值不能比较 ({type(error).__name__})")), False


def points(full: float, passed: int, cases: int, free: int) -> float:
    """`full` when all cases passed; else what is passed beyond the `free` cases that a trivial answer passes.

    The correction for guessing: full × (passed − free) / (cases − free), not below 0, two decimals.
    """
    if passed == cases:
        return float(full)
    return round(full * max(0, passed - free) / (cases - free), 2) if cases > free else 0.0


class _Caller:
    """Calls one answer on case after case; loads it again, a few times, after a case that ended the process."""

    def __init__(self, sandbox: Sandbox, exercise: Exercise, request: Request):
        self._sandbox, self._exercise, self._request = sandbox, exercise, request
        self._answer: Answer | None = None
        self._left = RESTARTS
        self._context = ""
        self.ended = ""
        """Why the process ended first; empty when it didn't."""

    def __enter__(self) -> "_Caller":
        return self

    def __exit__(self, *_: object) -> None:
        if self._answer:
            self._answer.close()

    @property
    def exhausted(self) -> bool:
        """Whether the answer isn't called any more."""
        return self._left < 0

    def outputs(self, cases: Sequence[Case]) -> list[Output] | Verdict | None:
        """One output a case; a verdict when there is no function to call; None for a request without anything new."""
        outputs: list[Output] = []
        for case in cases:
            output = self._case(case)
            if not isinstance(output, Output):
                return output
            outputs.append(output)
            if is_stub(output.error) or self.exhausted:
                break
        return outputs + outputs[-1:] * (len(cases) - len(outputs))  # the rest would go the same way

    def _case(self, case: Case) -> Output | Verdict | None:
        """One call. It is tried once more when the sandbox was lost, which no student's code should be able to do, or
        the process was killed, which the system may have done, when memory ran out."""
        for attempt in (1, 2):
            loading = self._answer is None
            try:
                if self._answer is None:
                    self._answer = self._sandbox.answer()
                    loaded = self._answer.load(self._request)
                    if loaded.same:
                        return None
                    if loaded.undefined:
                        return self._without_function(loaded)
                    self._context = _context(loaded)
                    loading = False
                return self._output(self._answer.call(case.args), case)
            except AnswerEnded as ended:
                self._answer = None
                if ended.why in ("lost", "killed") and attempt == 1:
                    continue
                self.ended = self.ended or ("ended" if ended.why == "killed" else ended.why)
                self._left = -1 if loading else self._left - 1
                return Output(error=RuntimeError(str(ended)))
        raise AssertionError("unreachable")

    def _without_function(self, loaded: Loaded) -> Verdict:
        function = self._exercise.function
        why = _description(loaded.error) if loaded.error else f"单元里没有定义 {function}"
        return Verdict(self._exercise.name, False, "error", f"没有得到函数 {function}：{why}")

    def _output(self, reply: Reply, case: Case) -> Output:
        if reply.error:
            return Output(error=self._exception(reply.error))
        after = reply.after or []
        changed = len(after) != len(case.args) or any(map(_differs, after, case.args))
        return Output(reply.value, changed=changed)

    def _exception(self, error: Failure) -> Exception:
        """An exception as the check would have caught it."""
        kind = getattr(builtins, error.known, Exception)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = RuntimeError  # KeyboardInterrupt, SystemExit: what the student's code raised to get out
        message = f"{error.message}（第 {error.line} 行）" if error.line else error.message
        if issubclass(kind, (NameError, AttributeError, LookupError)):
            message += self._context
        try:
            return kind(message)
        except TypeError:  # UnicodeDecodeError and others want more than a message
            return ValueError(message)


def _differs(got: Any, want: Any) -> bool:
    try:
        return difference(got, want, 0.0) is not None
    except Exception:  # values of kinds that can't be compared are not the same
        return True


def _context(loaded: Loaded) -> str:
    """What had gone wrong before the function was called, which may be why a name is missing."""
    if loaded.error:
        return f"；运行这一格时先出过错：{_description(loaded.error)}"
    return "".join(
        f"；第 {cell} 个代码单元出过错：{_description(error)}" for cell, error in loaded.others[:1]
    )


def _description(error: Failure) -> str:
    where = f"（这一格的第 {error.line} 行）" if error.line else ""
    return f"{error.kind}: {error.message}{where}"
