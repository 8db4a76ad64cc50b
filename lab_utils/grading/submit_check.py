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
class Finding:
    """What the grader makes of one exercise. `state`: written, unwritten, broken or missing; `message` is Chinese.

    `warnings`: what the answer needs that isn't there when it is graded.
    """

    title: str
    state: str
    message: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lab:
    """What the grader makes of one lab's notebook. `problem`: why it can't be read at all; empty when it can."""

    title: str
    file: str
    problem: str = ""
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What would be handed in: the labs found, and what could not be looked into."""

    labs: tuple[Lab, ...] = ()
    problems: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether the grader can read everything, unwritten exercises included."""
        states = {finding.state for lab in self.labs for finding in lab.findings}
        unread = self.problems or [lab for lab in self.labs if lab.problem]
        return bool(self.labs) and not unread and not states & {BROKEN, MISSING}

    def __str__(self) -> str:
        lines = [f"❌ {problem}" for problem in self.problems]
        for lab in self.labs:
            lines += ["", f"{lab.file} → 实验 {lab.title}"]
            lines += [f"  ❌ {lab.problem}"] if lab.problem else []
            for finding in lab.findings:
                lines.append(f"  {_MARKS[finding.state]} {finding.title}：{finding.message}")
                lines += [f"      ⚠️  {warning}" for warning in finding.warnings]
            lines += [f"  ⚠️  {note}" for note in lab.notes]
        counts = [finding.state for lab in self.labs for finding in lab.findings]
        if self.ok:
            left = counts.count(UNWRITTEN)
            rest = f"，还有 {left} 个没有写（不得分，但可以交）" if left else ""
            text = f"✅ 评分程序读得懂：{len(counts)} 个练习，读到答案 {counts.count(WRITTEN)} 个{rest}。"
            if any(finding.warnings for lab in self.labs for finding in lab.findings):
                text += "带 ⚠️ 的，在笔记本里能运行，评分时不一定。"
            lines += ["", text]
        else:
            lines += ["", "❌ 这样交，评分程序有读不懂的地方。请改好带 ❌ 的，再运行一次。"]
        return "\n".join(lines).strip("\n")


def examine(path: Path) -> Report:
    """Look at a notebook, or at a zip or folder of them, as it would be handed in.

    Raises NotFound when there is nothing at `path`.
    """
    if not path.exists() and not path.is_symlink():
        raise NotFound(f"找不到 {path}", "请给出笔记本文件，如 labs submit-check 00_quickstart.ipynb")
    absolute = Path(os.path.abspath(path))  # not resolved: a link is to be seen
    student = submissions.look(absolute.name, absolute.parent, [absolute.name])
    labs = tuple(_lab(number, student) for number in sorted(student.versions))
    problems = [str(problem) for problem in student.problems if problem.status != MISSING or not labs]
    if not labs and not problems:
        problems = [f"{path.name} 里没有笔记本 (.ipynb)"]
    return Report(labs, tuple(problems))


def _lab(number: str, student: submissions.Student) -> Lab:
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
        return Lab(title, chosen.shown, str(problem), (), notes)
    given, titles = handout.read(lab), handout.titles(lab)
    picked = answers.pick(given, notebook)
    findings = tuple(_finding(titles[asked.name], asked, picked) for asked in given.exercises)
    return Lab(title, chosen.shown, "", findings, (*notes, *dict.fromkeys((*notebook.notes, *picked.notes))))


def _finding(title: str, asked: handout.Asked, picked: answers.Answers) -> Finding:
    target = picked.cell[asked.name]
    if target is None:
        message = (
            f"找不到这个练习的单元 (cell)，也没有函数 {asked.function}；从原来的笔记本里把这一格复制回来"
        )
        return Finding(title, MISSING, message)
    plan = slicing.plan(picked.code, target, asked.function)
    if plan.error:
        line = f"第 {plan.error.lineno} 行" if plan.error.lineno else ""
        kind = type(plan.error).__name__
        message = f"{line}语法错误 ({kind})：{plan.error.msg}；这一格里的代码一行也不会被评"
        return Finding(title, BROKEN, message)
    found = [effects.effects(step.statement) for step in plan.steps]
    if not any(asked.function in one.binds or one.anything for one in found):
        return Finding(title, BROKEN, f"单元里没有定义函数 {asked.function}；函数名要与题目里的一样")
    if answers.is_stub(picked.code[target], asked.name):
        return Finding(title, UNWRITTEN, "还没有写")
    return Finding(title, WRITTEN, "读到了答案", tuple(answer_warnings.warnings(plan)))


def find(wanted: str) -> Path:
    """The file that `wanted` means: a path, or the number or name of a lab, whose notebook in labs/ is meant."""
    path = Path(wanted)
    if path.exists() or path.is_symlink() or path.suffix:
        return path
    return master.student_path(course.lab(wanted))
