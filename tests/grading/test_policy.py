"""Late penalties and points given by hand: by tables that the teacher keeps, to the cent, and the same every time."""

from datetime import datetime, timedelta
from fractions import Fraction

import pytest

from lab_utils import course
from lab_utils.grading import policy
from lab_utils.grading.policy import Late, Policy
from lab_utils.grading.row import ExerciseResult, ManualMark, Row

DEADLINE = "2026-12-01T23:59+08:00"


def row(score=4.0, student="张三", lab="00", status="graded") -> Row:
    result = ExerciseResult("line_lengths", 2, score, "value", "-")
    exercises = (result,) if status == "graded" else ()
    return Row(student, lab, status, "-", score, 5.0, exercises=exercises)


def handed_in(moment: str, late="10%/day", score=4.0) -> Row:
    made = Policy(policy.read_late(DEADLINE, late), {("张三", "00"): policy.read_time(moment, "x")})
    return made.apply(row(score))


@pytest.mark.parametrize(
    ("moment", "late", "lost"),
    [
        ("2026-12-01T23:59:00+08:00", "10%/day", 0.0),
        ("2026-12-01T15:59:00+00:00", "10%/day", 0.0),  # the same moment
        ("2026-12-01T23:59:01+08:00", "10%/day", 0.4),
        ("2026-12-02T23:59:00+08:00", "10%/day", 0.4),
        ("2026-12-02T23:59:01+08:00", "10%/day", 0.8),
        ("2026-12-02T01:00:00+08:00", "1.5%/hour", 0.12),
        ("2027-12-01T00:00:00+08:00", "10%/day", 4.0),
        ("2026-12-03T00:00:00+08:00", "100%/week", 4.0),
    ],
)
def test_every_unit_of_time_begun_costs_its_share_of_what_was_earned(moment, late, lost):
    made = handed_in(moment, late)
    assert made.score == round(4.0 - lost, 2)
    assert (made.late.points if made.late else 0.0) == lost
    assert (made.late is not None) == (made.earned is not None) == bool(lost)
    assert made.maximum == sum(course.lab("00").points.values())


def test_the_text_names_both_times_in_the_zone_of_the_deadline():
    said = handed_in("2026-12-02T02:12:00+00:00").late.text
    assert "截止 2026-12-01 23:59 (UTC+0800)" in said and "交于 2026-12-02 10:12 (UTC+0800)" in said
    assert "迟交 1 天" in said and "10%" in said


def test_without_a_time_nothing_is_taken_off():
    late = policy.read_late(DEADLINE, "10%/day")
    assert Policy(late, {("李四", "00"): late.deadline + timedelta(days=3)}).apply(row()).score == 4.0
    assert Policy().apply(row()) == row()


def test_the_penalty_is_never_more_than_all():
    share, begun = Late(datetime.fromisoformat(DEADLINE), Fraction(3, 10), "day").penalty(
        datetime.fromisoformat("2026-12-31T00:00+08:00")
    )
    assert share == 1 and begun == 30


def test_points_given_by_hand_are_added_and_count_to_the_maximum(tmp_path):
    table = tmp_path / "manual.csv"
    table.write_text(
        "student,lab,question,points,max,comment\n"
        "张三,00,思考题 2,0.5,1,想一想区间的下界\n张三,0,思考题 1,1,1,\n李四,00,思考题 1,0,1,\n李四,01,思考题,2,2,\n"
    )
    made = policy.read(manual=table)
    first, second = made.apply(row()), made.apply(row(2.0, "李四"))
    assert (first.score, first.maximum, first.earned) == (5.5, 7.0, 4.0)
    assert [mark.question for mark in first.manual] == ["思考题 1", "思考题 2"]
    assert (second.score, second.maximum) == (2.0, 7.0)
    assert second.manual[1] == ManualMark("思考题 2", 0.0, 1.0, "没有评分记录")
    assert made.apply(row(lab="01", student="王五")).maximum == sum(course.lab("01").points.values()) + 2


def test_applied_again_nothing_changes_and_a_changed_policy_starts_afresh(tmp_path):
    table = tmp_path / "manual.csv"
    table.write_text("student,lab,question,points,max\n张三,00,思考题,0.75,1\n")
    late, times = (
        policy.read_late(DEADLINE, "10%/day"),
        {("张三", "00"): policy.read_time("2026-12-02T00:00Z", "x")},
    )
    both = Policy(late, times, policy.read_manual(table))
    once = both.apply(row(3.33))
    assert once.score == 3.67 and once.late.points == 0.41  # (3.33 + 0.75) - 10 %
    assert both.apply(once) == once
    assert Policy().apply(once) == row(3.33)


def test_points_are_exact_decimals():
    made = handed_in("2026-12-02T00:00:00+08:00", "50%/day", 0.29)
    assert made.late.points == 0.15 and made.score == 0.14


def test_a_row_without_a_notebook_keeps_its_status_and_gets_its_manual_points(tmp_path):
    table = tmp_path / "manual.csv"
    table.write_text("student,lab,question,points,max\n张三,00,口试,1,1\n")
    made = policy.read(manual=table).apply(row(0.0, status="missing"))
    assert (made.status, made.score, made.maximum) == ("missing", 1.0, 6.0)
    nothing = Row("张三", "", "missing", "-")
    assert policy.read(manual=table).apply(nothing) == nothing


def test_lines_that_belong_to_nobody_are_told(tmp_path):
    table = tmp_path / "manual.csv"
    table.write_text(
        "student,lab,question,points,max\n张三,00,口试,1,1\n张叁,00,口试,1,1\n张叁,01,口试,1,1\n"
    )
    assert policy.read(manual=table).unmatched([row()]) == ["张叁 00"]


def test_tables_as_excel_writes_them(tmp_path):
    table = tmp_path / "submitted.csv"
    text = "student,lab,submitted,note\r\n张三,5,2026-12-01T10:00:00+08:00,按时\r\n"
    for encoding in ("utf-8-sig", "gb18030", "utf-8"):
        table.write_bytes(text.encode(encoding))
        assert list(policy.read_submitted(table)) == [("张三", "05")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("student,lab\n张三,00\n", "submitted"),
        ("", "缺少列"),
        ("student,lab,submitted\n张三,00,2026-12-01 10:00\n", "时区"),
        ("student,lab,submitted\n张三,00,昨天\n", "第 2 行"),
        ("student,lab,submitted\n张三,77,2026-12-01T10:00Z\n", "第 2 行"),
        ("student,lab,submitted\n张三,00,2026-12-01T10:00Z\n张三,0,2026-12-02T10:00Z\n", "两次"),
        ("student,lab,submitted\n张三,00\n", "列数"),
        ("student,lab,submitted\n张三,00,2026-12-01T10:00Z,多\n", "列数"),
    ],
)
def test_a_wrong_table_of_times_is_told_by_its_line(tmp_path, text, said):
    table = tmp_path / "submitted.csv"
    table.write_text(text)
    with pytest.raises(ValueError, match=said):
        policy.read_submitted(table)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("张三,00,题,2,1", "超过满分"),
        ("张三,00,题,-1,1", "不小于 0"),
        ("张三,00,题,nan,1", "不小于 0"),
        ("张三,00,题,一,1", "不小于 0"),
        ("张三,00,,1,1", "题目"),
        ("李四,00,题,1,1\n张三,00,题,1,2", "第 3 行.*满分"),
        ("张三,00,题,1,1\n张三,0,题,0,1", "第 3 行.*两次"),
    ],
)
def test_a_wrong_table_of_points_is_told_by_its_line(tmp_path, line, said):
    table = tmp_path / "manual.csv"
    table.write_text(f"student,lab,question,points,max\n{line}\n")
    with pytest.raises(ValueError, match=said):
        policy.read_manual(table)


@pytest.mark.parametrize("late", ["10/day", "10%", "0%/day", "101%/day", "-1%/day", "10%/month", "１０%/天"])
def test_a_wrong_penalty_is_refused(late):
    with pytest.raises(ValueError, match="10%/day"):
        policy.read_late(DEADLINE, late)


def test_a_deadline_needs_its_zone_and_the_three_options_go_together(tmp_path):
    with pytest.raises(ValueError, match="时区"):
        policy.read_late("2026-12-01T23:59", "10%/day")
    with pytest.raises(ValueError, match="一起给"):
        policy.read(deadline=DEADLINE, late="10%/day")
    with pytest.raises(ValueError, match="一起给"):
        policy.read(submitted=tmp_path / "submitted.csv")
