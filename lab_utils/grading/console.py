"""What `labs grade` prints: what there is to do, how far it is, and what the teacher should look at."""

import sys
from contextlib import ExitStack
from pathlib import Path

import typer

from lab_utils.grading import results
from lab_utils.grading.grade import Outcome, Preview
from lab_utils.grading.text import plain, some

NAMED = 5
"""Files that a line names; of the others it says how many."""


class Steps:
    """Says what there is to grade, then shows how far it is."""

    def __enter__(self) -> "Steps":
        self._stack = ExitStack()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(self, preview: Preview) -> None:
        """Print what there is to do, and begin the bar."""
        if preview.ignored:
            warn(f"没有看系统或隐藏的文件：{some(preview.ignored, NAMED)}")
        if preview.seed_changed:
            warn("种子 (--seed) 与上次的不同，每一份都重新评；从现在起沿用这一个")
        total = preview.to_run + preview.settled
        typer.echo(f"{total} 份：{preview.to_run} 份要运行，{preview.kept} 份沿用上次的结果")
        if preview.adapters:
            known = preview.adapters_known
            typer.echo(f"适配器 (adapter)：{preview.adapters_to_judge} 个要评，{known} 个沿用上次的结果")
        bar = typer.progressbar(length=preview.steps, label="评分 (grading)", file=sys.stderr)
        self._bar = self._stack.enter_context(bar)

    def done(self) -> None:
        """One step is done."""
        self._bar.update(1)


def report(outcome: Outcome, out: Path) -> bool:
    """Print what the teacher should look at; whether the grader itself went right everywhere."""
    if outcome.removed:
        count, where = len(outcome.removed), out / results.REMOVED
        warn(f"{count} 份成绩不再有作业，移到 {where}：{some(outcome.removed, NAMED)}")
    for line in outcome.unmatched:
        warn(f"--submitted 或 --manual 里的 {line} 没有对上任何作业")
    for copies in outcome.copies:
        warn(f"实验 {copies.lab} 的适配器{copies.similarity}：{'、'.join(copies.students)}")
    for row, reason in outcome.failures:
        typer.secho(f"❌ {row.student} {row.lab} {reason}", fg="red", err=True)
    if not outcome.failures:
        typer.echo(f"✅ {out / results.TABLE}  {out / results.GRADEBOOK}")
    return not outcome.failures


def warn(text: str) -> None:
    """A line that asks for attention."""
    typer.secho(f"⚠️  {text}", fg="yellow", err=True)


def printable(error: Exception) -> str:
    """What an error says, without characters that a terminal would obey."""
    return plain(str(error))
