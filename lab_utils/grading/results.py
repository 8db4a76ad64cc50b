"""The folder of results: where rows, the table and the seed lie, and what is no longer true and is put away.

OUT/STUDENT/NN.json is the row of one submission, written in one step, with its page NN.html beside it. OUT/grades.csv
has a line for every row. OUT/.seed holds the seed of the hidden cases, for the owner's eyes. OUT/.removed holds rows
of submissions that are no longer there.
"""

import csv
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab_utils.errors import InvalidValue
from lab_utils.files import write_atomic
from lab_utils.grading.row import Row, RowError
from lab_utils.grading.text import clean, table_cell

COLUMNS = ("student", "lab", "score", "max", "status", "reason")
TABLE, GRADEBOOK, REPORT = "grades.csv", "gradebook.db", "report.html"
SEED, REMOVED = ".seed", ".removed"
_ROW = re.compile(r"(?:\d\d|none)\.json")


class ResultsError(InvalidValue):
    """A folder of results that can't be meant or can't be read. The message, Chinese, says why."""


# ---------------------------------------------------------------- rows


def folder_name(student: str) -> str:
    """The student's name as a folder: as it is where it is harmless, else mended and told apart by a digest."""
    mended = clean(student, 60).replace("/", "_").strip(". ") or "_"
    if mended != student or mended in (TABLE, GRADEBOOK, REPORT):
        mended += "-" + hashlib.sha256(os.fsencode(student)).hexdigest()[:8]
    return mended


def row_path(out: Path, row: Row) -> Path:
    """Where a row is written: OUT/STUDENT/NN.json."""
    return out / folder_name(row.student) / f"{row.lab or 'none'}.json"


def write_row(out: Path, row: Row) -> None:
    """Write a row, in one step."""
    write_atomic(row_path(out, row), json.dumps(row.to_json(), ensure_ascii=False, indent=1) + "\n")


def read_row(path: Path) -> Row:
    """The row in a file. Raises RowError when there is no whole one, OSError when there is no file."""
    try:
        return Row.from_json(json.loads(path.read_text("utf-8")))
    except (ValueError, RecursionError) as error:
        raise RowError(
            "不是一份完整的成绩",
            "删掉它，再运行一次 labs grade",
            f"{clean(path.parent.name, 60)}/{path.name}",
        ) from error


def row_files(out: Path) -> list[Path]:
    """The files in which rows are, in order."""
    return sorted(path for path in out.glob("[!.]*/*.json") if _ROW.fullmatch(path.name))


def read_rows(out: Path) -> list[Row]:
    """The rows of a graded class. Raises ResultsError when there are none, RowError when one can't be read."""
    rows = [read_row(path) for path in row_files(out)]
    if not rows:
        raise ResultsError(
            f"{out} 里没有成绩 (STUDENT/NN.json)", f"先运行 labs grade 作业文件夹 --out {out.name}"
        )
    return rows


def write_table(out: Path, rows: Iterable[Row]) -> None:
    """Write OUT/grades.csv, in one step."""
    write_atomic(out / TABLE, table(rows))


def table(rows: Iterable[Row]) -> str:
    """grades.csv. A text that a spreadsheet would take for a formula gets a quote in front."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        adapters = [
            f"{result.name}（{result.score:g}/{result.points:g} 分）：{result.message}"
            for result in row.exercises
            if result.adapter is not None  # not in the reason, which is about the notebook
        ]
        reason = table_cell("；".join([row.reason.rstrip("。"), *adapters]))
        numbers = (f"{row.score:g}", f"{row.maximum:g}")
        writer.writerow([table_cell(row.student), row.lab, *numbers, row.status, reason])
    return buffer.getvalue()


# ---------------------------------------------------------------- what is no longer true


@dataclass(frozen=True)
class Others:
    """Rows that this run didn't write: those that still hold, and the files that were put away."""

    rows: tuple[Row, ...]
    removed: tuple[str, ...]


def put_away(
    out: Path, written: Collection[Path], students: Collection[str], labs: Collection[str] | None
) -> Others:
    """Move the rows of submissions that are no longer there to OUT/.removed.

    written: files of this run. A row of another run holds while its student is among `students` and its lab isn't
    among `labs`, which this run looked for; `labs` None: it looked for all.
    """
    rows, removed = [], []
    for path in row_files(out):
        if path in written:
            continue
        try:
            row = read_row(path)
        except (RowError, OSError):
            row = None
        if row and row.student in students and labs is not None and row.lab not in labs and row.lab:
            rows.append(row)
            continue
        for file in (path, path.with_suffix(".html")):
            target = out / REMOVED / path.parent.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                os.replace(file, target)
        with suppress(OSError):  # the other labs' rows are still in it
            path.parent.rmdir()
        removed.append(f"{clean(path.parent.name, 60)}/{path.name}")
    if removed and (out / GRADEBOOK).is_file():  # what a person entered for them isn't lost
        shutil.copy(out / GRADEBOOK, out / REMOVED / GRADEBOOK)
    return Others(tuple(rows), tuple(removed))


# ---------------------------------------------------------------- the seed


def settle_seed(out: Path, given: int | None) -> tuple[int, bool]:
    """The seed of the hidden cases, and whether it is another than last time.

    given None: that of the last run, or else a new secret one. It is kept in OUT/.seed, which only its owner can
    read. Raises ResultsError when that file holds no number.
    """
    path = out / SEED
    stored = _stored_seed(path)
    if stored is None:
        seed = secrets.randbits(63) if given is None else given
        if not _keep_seed(path, seed, replace=False):  # another command was quicker
            return settle_seed(out, given)
        return seed, False
    if given is None or given == stored:
        return stored, False
    _keep_seed(path, given, replace=True)
    return given, True


def _stored_seed(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise ResultsError("里面不是种子 (seed)", "删掉它，再用 --seed 指定原来的种子", str(path)) from None


def _keep_seed(path: Path, seed: int, replace: bool) -> bool:
    """Write the seed in one step, readable by its owner alone; False when there is one and it isn't to be replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{SEED}.")  # its mode is 0600
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(f"{seed}\n")
    if replace:
        os.replace(name, path)
        return True
    try:
        os.link(name, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(name)
    return True
