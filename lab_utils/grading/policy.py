"""What a teacher decides on top of the automatic points: late penalties, points given by hand, adapters asked for.

All come from tables that the teacher keeps, never from the submission: a time inside a zip or a notebook is whatever
its sender wrote. `submitted.csv` has student,lab,submitted as the hand-in system exported it; `manual.csv` has
student,lab,question,points,max and perhaps comment; `adapters.csv` has lab,folder,points and perhaps
rank,targets,questions,full_rate, see `adapter_judge.Demand`. Times bear their offset from UTC, so that no summer time or
server's clock decides over a mark.

`Policy.apply` is a pure function of a row and can be applied again: it starts from the points of the exercises, not
from the row's score.
"""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path

from lab_utils import course
from lab_utils.errors import InvalidValue
from lab_utils.grading.adapter_judge import TARGETS, Demand
from lab_utils.grading.row import ExerciseResult, LatePenalty, ManualMark, Row
from lab_utils.grading.text import clean, readable

UNITS = {
    "hour": (timedelta(hours=1), "小时"),
    "day": (timedelta(days=1), "天"),
    "week": (timedelta(weeks=1), "周"),
}
_LATE = re.compile(r"(\d+(?:\.\d+)?)%/(hour|day|week)", re.ASCII)
_SUBMITTED, _MANUAL = ("student", "lab", "submitted"), ("student", "lab", "question", "points", "max")
_ADAPTERS = ("lab", "folder", "points")
_FOLDER = re.compile(r"[\w][\w.-]{0,59}")

Key = tuple[str, str]
"""Student and number of the lab."""


class PolicyError(InvalidValue):
    """A table or option that can't be meant; `where` names file and line."""


@dataclass(frozen=True)
class Late:
    """A deadline, and what each unit of time begun after it costs: a share of the points earned."""

    deadline: datetime
    share: Fraction
    unit: str

    def penalty(self, submitted: datetime) -> tuple[Fraction, int]:
        """The share of the points that is lost, at most all, and the units of time begun after the deadline."""
        over = submitted - self.deadline
        if over <= timedelta(0):
            return Fraction(0), 0
        begun = -(-over // UNITS[self.unit][0])
        return min(Fraction(1), begun * self.share), begun


@dataclass(frozen=True)
class Manual:
    """Points given by hand for one question."""

    question: str
    score: Fraction
    points: Fraction
    comment: str = ""


@dataclass(frozen=True)
class AdapterRequest:
    """An adapter that a lab asks for: the folder to hand in, and its points."""

    lab: str
    folder: str
    points: float
    demand: Demand


@dataclass(frozen=True)
class Policy:
    """What is applied to the rows of a batch. Empty: nothing changes.

    `adapters`: for each student and lab the results of `adapter_submissions.results`.
    """

    late: Late | None = None
    submitted: Mapping[Key, datetime] = field(default_factory=dict)
    manual: Mapping[Key, Sequence[Manual]] = field(default_factory=dict)
    adapters: Mapping[Key, Sequence[ExerciseResult]] = field(default_factory=dict)

    def apply(self, row: Row) -> Row:
        """The row with its adapters and the points given by hand added, then the late penalty taken off.

        `exercises`: those of the notebook, then one for every adapter that the lab asks for. `manual`: one mark for
        every question of the lab that anybody has points for, 0 where this student has none. A row that earned
        nothing keeps its status.
        """
        if not row.lab:
            return row
        given = self._given(row.key)
        handed_in = tuple(self.adapters.get(row.key, ()))
        results = (*(result for result in row.exercises if result.adapter is None), *handed_in)
        earned = sum((_exact(result.score) for result in results), Fraction(0))
        total = earned + sum((mark.score for mark in given), Fraction(0))
        maximum = sum((_exact(points) for points in course.lab(row.lab).points.values()), Fraction(0))
        maximum += sum((_exact(result.points) for result in handed_in), Fraction(0))
        maximum += sum((mark.points for mark in given), Fraction(0))
        late = self._late(row.key, total)
        return replace(
            row,
            exercises=results,
            manual=tuple(_mark(entry) for entry in given),
            late=late,
            earned=_rounded(earned) if given or late else None,
            score=_rounded(total - _exact(late.points if late else 0)),
            maximum=_rounded(maximum),
        )

    def unmatched(self, rows: Sequence[Row]) -> list[str]:
        """Lines of the tables about a lab of `rows` that belong to no row, as `student lab`: a misspelt name."""
        known = {row.key for row in rows}
        labs = {lab for _, lab in known}
        return sorted(
            clean(" ".join(key)) for key in {*self.submitted, *self.manual} - known if key[1] in labs
        )

    def _given(self, key: Key) -> list[Manual]:
        marks = {mark.question: mark for mark in self.manual.get(key, ())}
        questions = {
            mark.question: mark.points
            for (_, lab), given in sorted(self.manual.items())
            if lab == key[1]
            for mark in given
        }
        return [
            marks.get(question, Manual(question, Fraction(0), points, "没有评分记录"))
            for question, points in sorted(questions.items())
        ]

    def _late(self, key: Key, total: Fraction) -> LatePenalty | None:
        if self.late is None or key not in self.submitted:
            return None
        submitted = self.submitted[key]
        share, begun = self.late.penalty(submitted)
        if not share:
            return None
        local = submitted.astimezone(self.late.deadline.tzinfo)
        unit = UNITS[self.late.unit][1]
        text = (
            f"截止 {_shown(self.late.deadline)}，交于 {_shown(local)}，按迟交 {begun} {unit}算；"
            f"每 {unit}扣所得分的 {100 * float(self.late.share):g}%，共扣 {100 * float(share):g}%"
        )
        return LatePenalty(_rounded(total * share), float(share), text)


def read(
    deadline: str | None = None,
    late: str | None = None,
    submitted: Path | None = None,
    manual: Path | None = None,
) -> Policy:
    """The policy of these options. Raises PolicyError for one that is wrong or lacks another."""
    if len({value is None for value in (deadline, late, submitted)}) > 1:
        raise PolicyError("--deadline、--late、--submitted 要一起给：截止时间、怎样扣分、谁什么时候交的")
    return Policy(
        read_late(deadline, late) if deadline is not None and late is not None else None,
        read_submitted(submitted) if submitted else {},
        read_manual(manual) if manual else {},
    )


def read_late(deadline: str, late: str) -> Late:
    """From `2026-12-01T23:59+08:00` and `10%/day`. Raises PolicyError for anything else."""
    found = _LATE.fullmatch(late.replace(" ", ""))
    if not found or not 0 < Fraction(found[1]) <= 100:
        raise PolicyError(f"--late 应形如 10%/day（也可以是 /hour、/week），收到 {late!r}")
    return Late(read_time(deadline, "--deadline"), Fraction(found[1]) / 100, found[2])


def read_time(text: str, where: str) -> datetime:
    """A time with its offset from UTC. Raises PolicyError, naming `where`, for one without."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise PolicyError(f"{text!r} 不是时间，应形如 2026-12-01T23:59+08:00", where=where) from None
    if time.tzinfo is None:
        raise PolicyError(f"{text!r} 没有写时区 (UTC offset)，应形如 2026-12-01T23:59+08:00", where=where)
    return time


def read_submitted(path: Path) -> dict[Key, datetime]:
    """Student and lab -> when it was handed in. Raises PolicyError naming file and line."""
    found: dict[Key, datetime] = {}
    for where, line in _lines(path, _SUBMITTED):
        key = (readable(line["student"]), _lab(line["lab"], where))
        if key in found:
            raise PolicyError(
                f"{key[0]} 的实验 {key[1]} 出现了两次；每份作业只留实际评分的那一次", where=where
            )
        found[key] = read_time(line["submitted"], where)
    return found


def read_manual(path: Path) -> dict[Key, list[Manual]]:
    """Student and lab -> what was given by hand. Raises PolicyError naming file and line."""
    found: dict[Key, list[Manual]] = {}
    most: dict[tuple[str, str], Fraction] = {}
    for where, line in _lines(path, _MANUAL):
        key = (readable(line["student"]), _lab(line["lab"], where))
        score, points = (_points(line[name], name, where) for name in ("points", "max"))
        if score > points:
            raise PolicyError(f"得分 {line['points']} 超过满分 {line['max']}", where=where)
        if not line["question"]:
            raise PolicyError("没有写题目 (question)", where=where)
        if most.setdefault((key[1], line["question"]), points) != points:
            raise PolicyError(f"“{line['question']}”的满分 (max) 与前面的行不同", where=where)
        found.setdefault(key, []).append(Manual(line["question"], score, points, line.get("comment") or ""))
        twice, count = Counter(entry.question for entry in found[key]).most_common(1)[0]
        if count > 1:
            raise PolicyError(f"{key[0]} 的“{twice}”出现了两次", where=where)
    return found


def read_adapters(path: Path) -> tuple[AdapterRequest, ...]:
    """The adapters that labs ask for. Raises PolicyError naming file and line."""
    found: dict[Key, AdapterRequest] = {}
    for where, line in _lines(path, _ADAPTERS):
        lab, folder = _lab(line["lab"], where), line["folder"]
        if not _FOLDER.fullmatch(folder):
            raise PolicyError(
                f"folder 应是一个文件夹的名字（字母、数字、汉字、_、-、.），是 {folder!r}", where=where
            )
        if folder in course.lab(lab).points:
            raise PolicyError(f"{folder} 是实验 {lab} 里一个练习的名字，请换一个文件夹名", where=where)
        if (lab, folder) in found:
            raise PolicyError(f"实验 {lab} 的 {folder} 出现了两次", where=where)
        points = float(_points(line["points"], "points", where))
        found[lab, folder] = AdapterRequest(lab, folder, points, _demand(line, where))
    return tuple(found.values())


def _demand(line: Mapping[str, str], where: str) -> Demand:
    rank, questions, rate = (line.get(name) or "" for name in ("rank", "questions", "full_rate"))
    targets = tuple(re.findall(r"\w+", line.get("targets") or ""))
    if unknown := sorted(set(targets) - set(TARGETS)):
        raise PolicyError(f"targets 里有不认识的层 {unknown[0]}；可用的是 {' '.join(TARGETS)}", where=where)
    whole = [
        _whole(text, name, most, where)
        for text, name, most in ((rank, "rank", 64), (questions, "questions", 240))
    ]
    full_rate = float(_points(rate, "full_rate", where)) if rate else Demand.full_rate
    if not 0 < full_rate <= 1:
        raise PolicyError(f"full_rate 应大于 0、不大于 1，是 {rate!r}", where=where)
    return Demand(whole[0], targets, whole[1] or Demand.questions, full_rate)


def _whole(text: str, name: str, most: int, where: str) -> int | None:
    """A whole number from 1 to `most`; None when nothing is written."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise PolicyError(f"{name} 应是 1 到 {most} 的整数，是 {text!r}", where=where)
    return int(text)


def _lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """`(where, line)` of a CSV file in UTF-8 or GBK, as Excel writes them."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PolicyError(f"读不出来：{error.strerror}", where=str(path)) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = data.decode("gb18030")
        except UnicodeDecodeError:
            raise PolicyError("编码认不出来", "请存成 UTF-8 的 CSV", path.name) from None
    try:
        yield from _table(path.name, csv.DictReader(io.StringIO(text, newline="")), columns)
    except csv.Error as error:
        raise PolicyError(f"不是完整的 CSV ({error})", where=path.name) from None


def _table(file: str, reader: csv.DictReader, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    if lacking := [name for name in columns if name not in (reader.fieldnames or ())]:
        raise PolicyError(f"{file} 第 1 行缺少列 {'、'.join(lacking)}；应有：{','.join(columns)}")
    for line in reader:
        where = f"{file} 第 {reader.line_num} 行"
        if None in line or any(line[name] is None for name in columns):
            raise PolicyError("列数与第 1 行不同", where=where)
        yield where, {name: value.strip() for name, value in line.items() if value is not None}


def _lab(text: str, where: str) -> str:
    try:
        return course.lab(text.zfill(2) if text.isdigit() else text).number  # spreadsheets turn 05 into 5
    except ValueError as error:
        raise PolicyError(str(error), where=where) from None


def _points(text: str, name: str, where: str) -> Fraction:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise PolicyError(f"{name} 应是不小于 0 的数，是 {text!r}", where=where)
    return _exact(value)


def _exact(value: float) -> Fraction:
    """The decimal that a float stands for."""
    return Fraction(repr(float(value)))


def _rounded(value: Fraction) -> float:
    """To two decimals, halves up."""
    return math.floor(value * 100 + Fraction(1, 2)) / 100


def _mark(entry: Manual) -> ManualMark:
    return ManualMark(
        clean(entry.question), _rounded(entry.score), _rounded(entry.points), clean(entry.comment)
    )


def _shown(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} (UTC{time:%z})"
