"""The class's page: right figures, the common mistakes, and like answers told from ones that are bound to agree."""

import base64
import re
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import pytest
from typer.testing import CliRunner

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.cli import app
from lab_utils.grading import notebook_file, report, results, similarity
from lab_utils.grading.results import ResultsError
from lab_utils.grading.row import ExerciseResult, Row, RowError
from lab_utils.grading.submissions import walk

LAB = course.lab("00")
MODEL = {cell.exercise: cell.source for cell in master.read(LAB) if cell.exercise}
KNOWN = {name: [source] for name, source in MODEL.items()}

COUNTING = '''def line_lengths(text):
    """每一句的字数。"""
    result = []
    n = 0
    for ch in text:
        if ch == "，" or ch == "。" or ch == "\\n":
            if n > 0:
                result.append(n)
            n = 0
        else:
            n = n + 1
    if n > 0:
        result.append(n)
    return result
'''
RENAMED = """import re

def line_lengths(s: str) -> list:
    # 我自己想的办法
    out: list = []
    count = 0
    for c in s:
        if c == "，" or c == "。" or c == "\\n":
            if count > 0:
                out.append(count)
            count = 0
        else:
            count = count + 1
    if count > 0:
        out.append(count)
    return out
"""
SPLITTING = (
    'import re\n\ndef line_lengths(text):\n    return [len(x) for x in re.split("[，。\\n]+", text) if x]\n'
)
WALKING = """def line_lengths(text):
    found, start = [], 0
    while start < len(text):
        end = min([i for i in (text.find(m, start) for m in "，。\\n") if i >= 0] + [len(text)])
        if end > start:
            found.append(end - start)
        start = end + 1
    return found
"""


def class_of(**answers: str) -> dict[str, dict[str, str]]:
    return {student: {"line_lengths": source} for student, source in answers.items()}


def names(found: list[similarity.Group]) -> list[tuple[str, ...]]:
    return [group.students for group in found]


def test_a_copy_with_other_names_comments_and_types_is_pointed_out():
    others = {f"s{i}": SPLITTING for i in range(6)} | {"w": WALKING}
    found = similarity.groups(class_of(甲=COUNTING, 乙=RENAMED, **others), KNOWN)
    assert names(found) == [("乙", "甲")]
    assert found[0].exercises == ("line_lengths",) and found[0].similarity > 0.9 and not found[0].verbatim


def test_a_copy_to_the_letter_is_said_to_be_one_however_many_have_it():
    ring = class_of(**{f"s{i:02}": COUNTING for i in range(20)}, w=WALKING, m=MODEL["line_lengths"])
    found = similarity.groups(ring, KNOWN)
    assert len(found) == 1 and len(found[0].students) == 20 and found[0].verbatim


def test_answers_that_everybody_or_the_model_answer_has_say_nothing():
    assert not similarity.groups(class_of(**{f"s{i}": MODEL["line_lengths"] for i in range(9)}), KNOWN)
    reworded = (
        MODEL["line_lengths"].replace("mark", "m").replace("line ", "part ").replace("(line)", "(part)")
    )
    assert not similarity.groups(class_of(a=reworded, b=MODEL["line_lengths"], c=reworded), KNOWN)
    half = {f"c{i}": RENAMED.replace("count", f"n{i}") for i in range(8)} | {
        f"s{i}": SPLITTING for i in range(8)
    }
    assert not similarity.groups(class_of(**half), KNOWN)


def test_short_answers_are_bound_to_agree():
    odd = "def is_quatrain(lengths):\n    return not (set(lengths) - {5}) and sum(lengths) == 20\n"
    usual = MODEL["is_quatrain"]
    answers = {"a": odd, "b": odd, **{f"s{i}": usual for i in range(8)}}
    assert not similarity.groups({s: {"is_quatrain": source} for s, source in answers.items()}, KNOWN)


def test_small_oddities_in_many_exercises_add_up():
    odd = {
        "is_quatrain": "def is_quatrain(lengths):\n    return not (set(lengths) - {5}) and sum(lengths) == 20\n",
        "pass_rate": "def pass_rate(passed):\n    return float(len([p for p in passed if p is True]) / max(len(passed), 1))\n",
        "weight_gib": "def weight_gib(parameters, bits):\n    return (parameters * bits * 0.125) / pow(1024.0, 3)\n",
    }
    usual = {name: MODEL[name] for name in odd}
    found = similarity.groups({"a": odd, "b": odd, **{f"s{i}": usual for i in range(8)}}, KNOWN)
    assert names(found) == [("a", "b")] and len(found[0].exercises) > 1


def test_independent_answers_of_some_length_are_not_alike():
    assert not similarity.groups(class_of(a=COUNTING, b=WALKING, c=SPLITTING, d=MODEL["line_lengths"]), KNOWN)


@pytest.mark.parametrize("source", ["def f(x)\n  return", "", "%%bash\nls", "(" * 5000, "\0", "x = 1" * 100])
def test_code_that_does_not_parse_is_compared_as_text(source):
    assert isinstance(similarity.tokens(source), tuple)
    assert not similarity.groups(class_of(a=source, b=SPLITTING), KNOWN)


@pytest.mark.parametrize(
    "source",
    [
        "x = " + "1+" * 3000 + "1",
        "x = " + "-" * 3000 + "1",
        "def f(x):\n    return " + "x+" * 900 + "x",
        "x = " + "[" * 90 + "]" * 90,
        "\n" * 200_000 + "def f(x):\n    return x",
        "x = 1\n" * 100_000,
        "a." * 3000 + "a",
        " " * 200_000,
        "def f(x):\n    return x\n" + "%a\n" * 6000,
    ],
    ids=range(9),
)
def test_no_answer_stops_the_comparison(source):
    begin = time.perf_counter()
    assert len(similarity.tokens(source)) <= similarity.TOKEN_LIMIT
    assert isinstance(similarity.groups(class_of(a=source, b=source, c=SPLITTING), KNOWN), list)
    assert time.perf_counter() - begin < 10


def test_a_large_ring_is_one_group():
    found = similarity.groups(class_of(**{f"s{i:03}": COUNTING for i in range(300)}), KNOWN)
    assert [len(group.students) for group in found] == [300]


def test_local_names_comments_and_types_are_no_matter_and_what_is_called_is():
    assert similarity.tokens(COUNTING) == similarity.tokens(RENAMED.removeprefix("import re\n\n"))
    assert similarity.tokens("def f(x):\n    return max(x)") == similarity.tokens(
        "def f(y: list) -> int:\n    return max(y)"
    )
    assert similarity.tokens("def f(x):\n    return max(x)") != similarity.tokens(
        "def f(x):\n    return min(x)"
    )


# ---------------------------------------------------------------- the page


def entry(
    name: str, stage: str = "ok", share: float = 1.0, message: str = "", mistake: str = ""
) -> ExerciseResult:
    points = LAB.points[name]
    return ExerciseResult(name, points, share * points, stage, message, "", mistake, 1, 2, 0, 4)


def result(student: str, status: str = "graded", sha256: str = "", **wrong: ExerciseResult) -> Row:
    entries = tuple(wrong.get(name, entry(name)) for name in LAB.points) if status == "graded" else ()
    score, maximum = sum(e.score for e in entries), float(sum(LAB.points.values()))
    return Row(student, "00", status, "某个原因", score, maximum, sha256=sha256, exercises=entries)


@pytest.fixture
def rows() -> list[Row]:
    gb = entry("weight_gib", "value", 0.0, "用例「7B，16 位」：得到 15.2，不对", "GB")
    edge = entry("pass_rate", "edge", 0.5, "用例「隐藏用例 2」的结果不对")
    return [
        result("甲"),
        result("乙", weight_gib=gb),
        result("丙", weight_gib=gb, pass_rate=edge),
        result("丁", weight_gib=entry("weight_gib", "not_yet", 0.0)),
        result("戊<b>", status="unreadable"),
    ]


def save(rows: list[Row], out: Path) -> Path:
    for row in rows:
        results.write_row(out, row)
    return out


def test_exercises_have_their_mean_and_their_wrong_answers_in_order(rows):
    told = {exercise.name: exercise for exercise in report.exercises(rows)}
    assert list(told) == list(LAB.points)
    assert told["weight_gib"].wrong == (("典型错误：GB", 2), ("还没有写", 1))
    assert (told["weight_gib"].students, told["weight_gib"].whole, told["weight_gib"].mean) == (4, 1, 0.25)
    assert told["pass_rate"].wrong == (("特殊情况的结果不对（隐藏用例 2）", 1),)


def test_the_page_shows_them_with_pictures_and_escapes_names(rows, tmp_path):
    text = report.write(save(rows, tmp_path)).read_text(encoding="utf-8")
    for piece in ("5 名学生", "5 / 5", "典型错误：GB × 2", "戊&lt;b&gt;", "某个原因", "没有比较"):
        assert piece in text
    assert "<b>" not in text and "<script" not in text and "default-src &#39;none&#39;" in text
    pictures = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', text)
    assert len(pictures) == 2
    for picture in pictures:
        assert ET.fromstring(base64.b64decode(picture)).tag.endswith("svg")
    assert report.write(tmp_path).read_text(encoding="utf-8") == text


def test_a_matplotlibrc_where_the_teacher_stands_changes_nothing(rows, tmp_path, monkeypatch):
    """matplotlib reads it from the current folder, which may be a student's."""
    text = report.page(rows)
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 60)
    assert report.page(rows) == text


def test_a_class_of_which_nothing_could_be_graded_has_a_page(tmp_path):
    text = report.page([result("甲", status="missing"), Row("乙", "", "missing", "没有交")])
    assert "没有交" in text and "<img" not in text


def test_results_that_are_missing_or_cut_off_are_told(tmp_path):
    with pytest.raises(ResultsError, match="labs grade"):
        report.write(tmp_path)
    save([result("甲")], tmp_path)
    (tmp_path / "甲" / "00.json").write_text('{"student": "甲"')
    with pytest.raises(RowError, match="甲/00.json"):
        report.write(tmp_path)


def test_the_command_writes_the_page_or_says_what_is_missing(rows, tmp_path):
    done = CliRunner().invoke(app, ["report", str(save(rows, tmp_path / "out"))])
    assert done.exit_code == 0 and (tmp_path / "out" / "report.html").is_file()
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 2 and "labs grade" in done.output


def test_like_answers_are_found_in_the_files_that_were_graded(tmp_path):
    """Files changed after grading aren't compared: the report is about what was graded."""
    folder, rows = tmp_path / "submissions", []
    for student, source in {
        "甲": COUNTING,
        "乙": RENAMED,
        "丙": WALKING,
        "丁": SPLITTING,
        "戊": COUNTING,
    }.items():
        nb = master.load(master.student_path(LAB))
        for cell in nb.cells:
            if cell.metadata.get("nbgrader", {}).get("grade_id") == "line_lengths":
                cell.source = source
        path = folder / student / "00_quickstart.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(master.dumps(nb), encoding="utf-8")
        rows.append(result(student, sha256=notebook_file.digest(path.read_bytes())))
    (folder / "戊" / "00_quickstart.ipynb").write_text(master.dumps(master.load(master.student_path(LAB))))
    found = report.alike(rows, walk(folder))
    assert [group.students for group, _ in found["00"]] == [("乙", "甲")]
    assert dict(found["00"][0][1]) == {"乙": RENAMED, "甲": COUNTING}
    text = report.page(rows, found)
    assert "乙、甲" in text and "我自己想的办法" in text and "不证明什么" in text
