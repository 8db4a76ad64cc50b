"""Rows into nbgrader's gradebook, so that formgrader and nbgrader's exports work on them.

The whole file is written anew by one process, and put in place in one step. What a person entered in formgrader
(manual scores, extra credit, comments) is carried over from the old file; questions of `--manual` are as that table
says.
"""

import hashlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from lab_utils import course
from lab_utils.errors import InvalidValue
from lab_utils.files import atomic_file
from lab_utils.grading.row import MISSING, Row

COURSE_ID = "lab_utils"


class GradebookError(InvalidValue):
    """There is a file in the way that isn't a gradebook."""


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write the graded rows to the sqlite file `path`.

    Raises ImportError without nbgrader (extra `grade`), and GradebookError when there is a file at `path` that isn't
    a gradebook: what somebody entered in it would be lost.
    """
    from nbgrader.api import Gradebook

    rows = [row for row in rows if row.lab]
    entered = _entered(path)
    with tempfile.TemporaryDirectory() as place, atomic_file(path) as made:
        short = Path(place, path.name)  # sqlite opens no path of more than 512 bytes
        _stamp(short)
        with Gradebook(f"sqlite:///{short}", COURSE_ID) as book:
            _fill(book.db, rows, entered)
        shutil.copyfile(short, made)
        made.chmod(0o644)


def _stamp(file: Path) -> None:
    """Write the version of nbgrader's tables into a new file; nbgrader itself starts a program to find it out."""
    import nbgrader
    from alembic.script import ScriptDirectory

    head = ScriptDirectory(str(Path(nbgrader.__file__).parent / "alembic")).get_current_head()
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES (?)", (head,))
        database.commit()


def _id(*parts: str) -> str:
    """The same id for the same thing in every run."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _fill(session: Any, rows: list[Row], entered: dict) -> None:
    from nbgrader import api

    for number in sorted({row.lab for row in rows}):
        lab = course.lab(number)
        assignment = api.Assignment(name=lab.name, course_id=COURSE_ID)
        assignment.id = _id(lab.name)  # its constructor takes none
        notebook = api.Notebook(
            id=_id(lab.name, "notebook"), name=lab.name, assignment=assignment, kernelspec="{}"
        )
        session.add(assignment)
        for name, points in {**lab.points, **_adapters(rows, number)}.items():
            cell = api.GradeCell(
                id=_id(lab.name, name),
                name=f"check_{name}",
                max_score=points,
                cell_type="code",
                notebook=notebook,
            )
            session.add(cell)
            session.add(api.SolutionCell(id=_id(lab.name, name, "answer"), name=name, notebook=notebook))
        for question, points in _questions(rows, number):
            session.add(
                api.GradeCell(
                    id=_id(lab.name, "manual", question),
                    name=question,
                    max_score=points,
                    cell_type="markdown",
                    notebook=notebook,
                )
            )
    for student in sorted({row.student for row in rows}):
        session.add(api.Student(id=student))
    session.flush()
    for row in rows:
        handed_in = any(result.stage != MISSING for result in row.exercises)
        if row.status != MISSING or row.manual or handed_in:
            _add_row(session, row, entered)
    session.commit()


def _questions(rows: list[Row], number: str) -> list[tuple[str, float]]:
    """The questions of a lab that were marked by hand, and their points."""
    marks = (mark for row in rows if row.lab == number for mark in row.manual)
    return sorted({(mark.question, mark.points) for mark in marks})


def _adapters(rows: list[Row], number: str) -> dict[str, float]:
    """The adapters that a lab asks for beside its exercises, and their points."""
    results = (result for row in rows if row.lab == number for result in row.exercises)
    return {result.name: result.points for result in results if result.adapter is not None}


def _add_row(session: Any, row: Row, entered: dict) -> None:
    from nbgrader import api

    lab = course.lab(row.lab)
    key = (lab.name, row.student)
    session.add(api.SubmittedAssignment(id=_id(*key), assignment_id=_id(lab.name), student_id=row.student))
    session.add(
        api.SubmittedNotebook(
            id=_id(*key, "notebook"),
            assignment_id=_id(*key),
            notebook_id=_id(lab.name, "notebook"),
            late_submission_penalty=row.late.points if row.late else None,
        )
    )
    for name in {**lab.points, **_adapters([row], row.lab)}:
        _add_result(session, key, name, row, entered)
    for mark in row.manual:
        session.add(
            api.Grade(
                id=_id(*key, "manual", mark.question),
                cell_id=_id(lab.name, "manual", mark.question),
                notebook_id=_id(*key, "notebook"),
                auto_score=0.0,
                manual_score=mark.score,
                needs_manual_grade=False,
            )
        )


def _add_result(session: Any, key: tuple[str, str], name: str, row: Row, entered: dict) -> None:
    """The points of one exercise or adapter, and what is said of it."""
    from nbgrader import api

    result = next((result for result in row.exercises if result.name == name), None)
    session.add(
        api.Grade(
            id=_id(*key, name),
            cell_id=_id(key[0], name),
            notebook_id=_id(*key, "notebook"),
            auto_score=result.score if result else 0.0,
            needs_manual_grade=False,
            **entered.get((*key, "grade", f"check_{name}"), {}),
        )
    )
    session.add(
        api.Comment(
            id=_id(*key, name, "comment"),
            cell_id=_id(key[0], name, "answer"),
            notebook_id=_id(*key, "notebook"),
            auto_comment=f"{result.message} {result.hint}".strip() if result else row.reason,
            **entered.get((*key, "comment", name), {}),
        )
    )


def _entered(path: Path) -> dict[tuple, dict[str, Any]]:
    """What a person entered into an earlier gradebook, by lab, student and place."""
    from nbgrader.api import Gradebook
    from sqlalchemy.exc import DatabaseError

    if not path.exists():
        return {}
    try:
        with tempfile.TemporaryDirectory() as place:
            short = shutil.copyfile(path, Path(place, path.name))
            with Gradebook(f"sqlite:///{short}", COURSE_ID) as book:
                return dict(_entries(book.db))
    except DatabaseError:
        raise GradebookError("不是成绩册 (gradebook)，或已损坏", "请移走它再运行", str(path)) from None


def _entries(session: Any) -> Iterator[tuple[tuple, dict[str, Any]]]:
    from nbgrader.api import SubmittedNotebook

    for notebook in session.query(SubmittedNotebook):
        key = (notebook.assignment.assignment.name, notebook.assignment.student_id)
        for grade in notebook.grades:
            if grade.manual_score is not None or grade.extra_credit is not None:
                entry = {"manual_score": grade.manual_score, "extra_credit": grade.extra_credit}
                yield (*key, "grade", grade.cell.name), entry
        for comment in notebook.comments:
            if comment.manual_comment:
                yield (*key, "comment", comment.cell.name), {"manual_comment": comment.manual_comment}
