"""From a student's cells to points: what the answers of one submission of one lab earn.

It is the same for the same submission, without times. `stage` of a result is that of its verdict, or: missing, time,
memory, ended, protocol.
"""

import builtins
import time
from dataclasses import replace
from typing import Any

from lab_utils.checks.frame import Case, Check, Output, Verdict, difference
from lab_utils.grading.answers import Answers, pick
from lab_utils.grading.notebook_file import Notebook
from lab_utils.grading.row import Earned, ExerciseResult
from lab_utils.grading.sandbox import Answer, AnswerEnded, Reply, Sandbox
from lab_utils.grading.tasks import Exercise, Task
from lab_utils.grading.text import clean

RESTARTS = 2
SUBMISSION_SECONDS = 180.0
"""Wall time after which the remaining exercises of a submission aren't run."""


def grade(task: Task, notebook: Notebook, sandbox: Sandbox) -> Earned:
    """What a notebook earns."""
    answers = pick(task, notebook)
    until = time.monotonic() + SUBMISSION_SECONDS
    with _Process(sandbox) as process:
        results = [_grade_exercise(task, exercise, answers, process, until) for exercise in task.exercises]
    notes = tuple(clean(note) for note in dict.fromkeys((*notebook.notes, *answers.notes)))
    score = round(sum(result.score for result in results), 2)
    return Earned(score, clean(_summary(results)), notes, tuple(results))


def _summary(results: list[ExerciseResult]) -> str:
    """`通过 3/4 个练习；pass_rate：…`: how many passed, and what the first others lack."""
    wrong = [result for result in results if result.stage != "ok"]
    line = f"通过 {len(results) - len(wrong)}/{len(results)} 个练习"
    return "；".join([line, *(f"{result.name}：{clean(result.message, 60)}" for result in wrong[:3])])


def _grade_exercise(
    task: Task, exercise: Exercise, answers: Answers, process: "_Process", until: float
) -> ExerciseResult:
    """The result of one exercise."""
    if answers.cell[exercise.name] is None:
        message = f"没有找到这个练习的单元 (cell)，也没有找到函数 {exercise.function}"
        return _result(exercise, Verdict(exercise.name, False, "missing", message), [])
    if time.monotonic() > until:
        message = "前面的练习用完了整份作业的时间，这个没有运行 (timeout)"
        return _result(exercise, Verdict(exercise.name, False, "time", message), [])
    caller = _Caller(task, exercise, answers, process)
    outputs = caller.outputs()
    if isinstance(outputs, Verdict):
        return _result(exercise, outputs, [])
    judged = [_comparable(exercise.check, *pair) for pair in zip(exercise.check.cases, outputs, strict=True)]
    verdict = _judge(exercise.check, [output for output, _ in judged])
    if caller.ended and verdict.stage == "error":
        message = verdict.message.replace("出错：RuntimeError: ", "：", 1)
        verdict = replace(verdict, stage=caller.ended, message=message)
    return _result(exercise, verdict, [passed for _, passed in judged])


def _judge(check: Check, outputs: list[Output]) -> Verdict:
    """The check's verdict; without its known mistakes where values of odd kinds can't be compared with theirs."""
    try:
        return check.judge_outputs(outputs)
    except Exception:
        return replace(check, mistakes=()).judge_outputs(outputs)


def _comparable(check: Check, case: Case, output: Output) -> tuple[Output, bool]:
    """The output and whether it is right; an error in its place when it can't even be compared."""
    try:
        return output, check.finding(case, output) is None
    except Exception as error:
        return Output(error=TypeError(f"返回的值不能比较 ({type(error).__name__})")), False


def _result(exercise: Exercise, verdict: Verdict, passed: list[bool]) -> ExerciseResult:
    cases, visible = len(exercise.check.cases), exercise.visible
    return ExerciseResult(
        exercise.name,
        exercise.points,
        points(exercise.points, sum(passed), cases, exercise.free) if passed else 0.0,
        verdict.stage,
        clean(verdict.message),
        clean(verdict.hint),
        verdict.mistake,
        sum(passed[:visible]),
        visible,
        sum(passed[visible:]),
        cases - visible,
    )


def points(full: float, passed: int, cases: int, free: int) -> float:
    """`full` when all cases passed; else what is passed beyond the `free` cases that a trivial answer passes.

    The correction for guessing: full × (passed − free) / (cases − free), not below 0, two decimals.
    """
    if passed == cases:
        return float(full)
    return round(full * max(0, passed - free) / (cases - free), 2) if cases > free else 0.0


class _Process:
    """The process that a submission runs in; a new one after one that ended."""

    def __init__(self, sandbox: Sandbox):
        self._sandbox = sandbox
        self._answer: Answer | None = None

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        if self._answer:
            self._answer.close()

    def answer(self) -> Answer:
        if self._answer is None:
            self._answer = self._sandbox.answer()
        return self._answer

    def ended(self) -> None:
        self._answer = None


class _Caller:
    """Calls one answer on every case; loads it again, a few times, after a case that ended the process."""

    def __init__(self, task: Task, exercise: Exercise, answers: Answers, process: _Process):
        self._task, self._exercise, self._answers, self._process = task, exercise, answers, process
        self._loaded = False
        self._left = RESTARTS
        self._problem = ""
        self.ended = ""

    def outputs(self) -> list[Output] | Verdict:
        """One output a case; or a verdict when there is no function to call."""
        outputs: list[Output] = []
        cases = self._exercise.check.cases
        for number, case in enumerate(cases):
            output = self._case(case, number >= self._exercise.visible)
            if isinstance(output, Verdict):
                return output
            outputs.append(output)
            if isinstance(output.error, NotImplementedError) or self._left < 0:
                break
        return outputs + outputs[-1:] * (len(cases) - len(outputs))  # the rest would go the same way

    def _case(self, case: Case, is_hidden: bool) -> Output | Verdict:
        """One call. It is tried once more when the sandbox was lost, which no student's code should be able to do, or
        the process was killed, which the system may have done, when memory ran out."""
        for attempt in (1, 2):
            loading = not self._loaded
            try:
                problem = self._start() if loading else None
                loading = False
                return problem or self._output(self._process.answer().call(case.args), case, is_hidden)
            except AnswerEnded as ended:
                self._process.ended()
                self._loaded = False
                if ended.why in ("lost", "killed") and attempt == 1:
                    continue
                self.ended = self.ended or ("ended" if ended.why == "killed" else ended.why)
                self._left = -1 if loading else self._left - 1
                return Output(error=RuntimeError(str(ended)))
        raise AssertionError("unreachable")

    def _verdict(self, stage: str, message: str) -> Verdict:
        return Verdict(self._exercise.name, False, stage, message)

    def _start(self) -> Verdict | None:
        """Load the answer; a verdict when that gives no function."""
        exercise, task = self._exercise, self._task
        given = [
            cell.source for cell in task.given if cell.kind == "code" and not (cell.exercise or cell.check)
        ]
        given += [cell.source for cell in task.given if cell.exercise or cell.check]
        note = self._process.answer().load(
            self._answers.code,
            self._answers.cell[exercise.name],
            exercise.function,
            given,
            exercise.helpers,
            exercise.constants,
        )
        error = note.get("error")
        error = _clean_error(error) if isinstance(error, dict) else None
        if note.get("undefined") or (error and error["type"] == "SyntaxError"):
            said = f"：{_told(error)}" if error else f"：单元里没有定义 {exercise.function}"
            return self._verdict("error", f"没有得到函数 {exercise.function}{said}")
        self._problem = _told(error) if error else ""
        self._loaded = True
        return None

    def _output(self, reply: Reply, case: Case, is_hidden: bool) -> Output:
        if reply.error:
            return Output(error=self._exception(reply.error, is_hidden))
        changed = len(reply.after or ()) != len(case.args) or any(
            _differs(a, b) for a, b in zip(reply.after, case.args, strict=True)
        )
        return Output(reply.value, changed=changed)

    def _exception(self, error: dict, is_hidden: bool) -> Exception:
        """An exception as the check would have caught it. Of a hidden case only its kind is told."""
        kind = getattr(builtins, error["known"], Exception)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = RuntimeError  # KeyboardInterrupt, SystemExit: what the student's code raised to get out
        if is_hidden:
            message = "隐藏用例的出错信息不显示"
        else:
            message = f"{error['message']}（第 {error['line']} 行）" if error["line"] else error["message"]
            if error["type"] == "NameError" and self._problem:
                message += f"；运行这一格时先出过错：{self._problem}"
        try:
            return kind(message)
        except TypeError:  # UnicodeDecodeError and others want more than a message
            return ValueError(message)


def _differs(got: Any, want: Any) -> bool:
    try:
        return difference(got, want, 0.0) is not None
    except Exception:
        return True


def _clean_error(error: dict) -> dict:
    line = error.get("line")
    return {
        "type": clean(error.get("type", ""), 60),
        "message": clean(error.get("message", "")),
        "line": line if type(line) is int else 0,
    }


def _told(error: dict) -> str:
    where = f"（这一格的第 {error['line']} 行）" if error["line"] else ""
    return f"{error['type']}: {error['message']}{where}"
