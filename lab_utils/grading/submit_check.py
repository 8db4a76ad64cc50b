"""Before handing in: look at a notebook with the grader's own eyes, and say what it would not be able to read.

Nothing is run, and nothing of the solutions is needed: it is the grader's own code, on the student's machine. Whether
an answer is right, the check cells in the notebook say.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.errors import NotFound
from lab_utils.grading import answer_warnings, answers, handout, notebook_file, submissions
from lab_utils.grading.inside import effects, slicing
from lab_utils.grading.reading import Refused
from lab_utils.grading.row import MISSING

WRITTEN, UNWRITTEN, BROKEN = "written", "unwritten", "broken"
_MARKS = {WRITTEN: "✅", UNWRITTEN: "✏️", BROKEN: "❌", MISSING: "❌"}


@dataclass(frozen=True)
class ExerciseCheck:
    """What the grader makes of one exercise. `state`: written, unwritten, broken or missing; `message` is Chinese.

    `warnings`: what the answer needs that isn't there when it is graded.
    """

    title: str
    state: str
    message: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class NotebookCheck:
    """What the grader makes of one lab's notebook. `problem`: why it can't be read at all; empty when it can."""

    title: str
    file: str
    problem: str = ""
    exercises: tuple[ExerciseCheck, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SubmissionCheck:
    """What would be handed in: the notebooks found, and what could not be looked into."""

    notebooks: tuple[NotebookCheck, ...] = ()
    problems: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether the grader can read everything, unwritten exercises included."""
        states = {exercise.state for notebook in self.notebooks for exercise in notebook.exercises}
        unread = self.problems or [notebook for notebook in self.notebooks if notebook.problem]
        return bool(self.notebooks) and not unread and not states & {BROKEN, MISSING}

    def __str__(self) -> str:
        lines = [f"❌ {problem}" for problem in self.problems]
        for notebook in self.notebooks:
            lines += ["", f"{notebook.file} → 实验 {notebook.title}"]
            lines += [f"  ❌ {notebook.problem}"] if notebook.problem else []
            for exercise in notebook.exercises:
                lines.append(f"  {_MARKS[exercise.state]} {exercise.title}：{exercise.message}")
                lines += [f"      ⚠️  {warning}" for warning in exercise.warnings]
            lines += [f"  ⚠️  {note}" for note in notebook.notes]
        counts = [exercise.state for notebook in self.notebooks for exercise in notebook.exercises]
        if self.ok:
            left = counts.count(UNWRITTEN)
            rest = f"，还有 {left} 个没有写（不得分，但可以交）" if left else ""
            text = f"✅ 评分程序读得懂：{len(counts)} 个练习，读到答案 {counts.count(WRITTEN)} 个{rest}。"
            if any(exercise.warnings for notebook in self.notebooks for exercise in notebook.exercises):
                text += "带 ⚠️ 的，在笔记本里能运行，评分时不一定。"
            lines += ["", text]
        else:
            lines += ["", "❌ 这样交，评分程序有读不懂的地方。请改好带 ❌ 的，再运行一次。"]
        return "\n".join(lines).strip("\n")


def examine(path: Path) -> SubmissionCheck:
    """Look at a notebook, or at a zip or folder of them, as it would be handed in.

    Raises NotFound when there is nothing at `path`.
    """
    if not path.exists() and not path.is_symlink():
        raise NotFound(f"找不到 {path}", "请给出笔记本文件，如 labs submit-check 00_quickstart.ipynb")
    absolute = Path(os.path.abspath(path))  # not resolved: a link is to be seen
    student = submissions.look(absolute.name, absolute.parent, [absolute.name])
    notebooks = tuple(_check_notebook(number, student) for number in sorted(student.versions))
    problems = [str(problem) for problem in student.problems if problem.status != MISSING or not notebooks]
    if not notebooks and not problems:
        problems = [f"{path.name} 里没有笔记本 (.ipynb)"]
    return SubmissionCheck(notebooks, tuple(problems))


def _check_notebook(number: str, student: submissions.Student) -> NotebookCheck:
    """The newest version, which is the one that is graded."""
    lab, versions = course.lab(number), student.versions[number]
    chosen = versions[-1]
    title = f"{lab.number} {lab.title}"
    notes = (
        (f"有 {len(versions)} 份，会评 {chosen.shown}（{student.choices[number].reason}）",)
        if len(versions) > 1
        else ()
    )
    try:
        notebook = notebook_file.read_notebook(chosen.read())
    except (Refused, notebook_file.Unreadable) as problem:
        return NotebookCheck(title, chosen.shown, str(problem), (), notes)
    given, titles = handout.read(lab), handout.titles(lab)
    picked = answers.pick(given, notebook)
    exercises = tuple(
        _check_exercise(titles[exercise.name], exercise, picked) for exercise in given.exercises
    )
    return NotebookCheck(
        title, chosen.shown, "", exercises, (*notes, *dict.fromkeys((*notebook.notes, *picked.notes)))
    )


def _check_exercise(title: str, exercise: handout.HandoutExercise, picked: answers.Answers) -> ExerciseCheck:
    target = picked.cell[exercise.name]
    if target is None:
        message = (
            f"找不到这个练习的单元 (cell)，也没有函数 {exercise.function}；从原来的笔记本里把这一格复制回来"
        )
        return ExerciseCheck(title, MISSING, message)
    plan = slicing.plan(picked.code, target, exercise.function)
    if plan.error:
        line = f"第 {plan.error.lineno} 行" if plan.error.lineno else ""
        kind = type(plan.error).__name__
        message = f"{line}语法错误 ({kind})：{plan.error.msg}；这一格里的代码一行也不会被评"
        return ExerciseCheck(title, BROKEN, message)
    found = [effects.effects(step.statement) for step in plan.steps]
    if not any(exercise.function in one.binds or one.anything for one in found):
        return ExerciseCheck(title, BROKEN, f"单元里没有定义函数 {exercise.function}；函数名要与题目里的一样")
    if answers.is_stub(picked.code[target], exercise.name):
        return ExerciseCheck(title, UNWRITTEN, "还没有写")
    return ExerciseCheck(title, WRITTEN, "读到了答案", tuple(answer_warnings.warnings(plan)))


def find(wanted: str) -> Path:
    """The file that `wanted` means: a path, or the number or name of a lab, whose notebook in labs/ is meant."""
    path = Path(wanted)
    if path.exists() or path.is_symlink() or path.suffix:
        return path
    return master.student_path(course.lab(wanted))
