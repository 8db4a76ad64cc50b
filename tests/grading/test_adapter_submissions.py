"""Adapters handed in beside the notebook: judged by their bytes, one more entry in every result, the same every time."""

import csv
import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from lab_utils import models
from lab_utils.cli import app
from lab_utils.grading import adapter_copies, adapter_submissions, policy
from lab_utils.grading.adapter_files import CONFIG, WEIGHTS
from lab_utils.grading.adapter_judge import Demand
from lab_utils.grading.row import Row
from lab_utils.grading.submissions import walk
from tests.grading.hostile import FULL, LAB, RIGHT, notebook, write

POINTS = 10.0


def adapter(folder: Path, change) -> Path:
    """An adapter folder with the shipped weights changed by `change(name, tensor)`."""
    shutil.copytree(models.shipped_adapter(), folder)
    weights = {name: change(name, tensor) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS)
    return folder


def doubled(name, tensor):
    """The same product of A and B in other numbers."""
    return tensor * (2.0 if "lora_A" in name else 0.5)


def noisy(seed):
    """A good adapter of its own, another for each seed."""

    def change(name, tensor):
        generator = torch.Generator().manual_seed(seed)
        return tensor * (1 + 0.05 * torch.randn(tensor.shape, generator=generator))

    return change


def pack(folder: Path, file: Path, inner: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name in (CONFIG, WEIGHTS):
            archive.write(folder / name, f"{inner}/{name}" if inner else name)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A class, graded: the folder, rows by student, and what the command said."""
    base = tmp_path_factory.mktemp("class")
    root = base / "作业"
    for student in ("好", "复制", "换数", "零", "坏", "链接", "没交", "附带", "附带换数", "深处", "改名"):
        (root / student).mkdir(parents=True)
        write(root / student, notebook(RIGHT if student != "没交" else {}))
    good = adapter(root / "好" / "adapter", noisy(2))
    pack(good, root / "复制" / "作业.zip", "output/adapter")
    weights = load_file(good / WEIGHTS)
    adapter(root / "换数" / "adapter", lambda name, tensor: doubled(name, weights[name]))
    adapter(root / "零" / "adapter", lambda name, tensor: tensor * 0)
    whole = (adapter(root / "坏" / "adapter", doubled) / WEIGHTS).read_bytes()
    (root / "坏" / "adapter" / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    (root / "链接" / "adapter").symlink_to(good)
    shutil.copytree(models.shipped_adapter(), root / "附带" / "adapter")
    adapter(root / "附带换数" / "adapter", doubled)
    adapter(root / "深处" / "output" / "v0" / "adapter", noisy(1))
    shutil.copytree(good, root / "改名" / "checkpoint-100")
    pack(good, root / "只有适配器.zip", "adapter")
    table = base / "adapters.csv"
    table.write_text(f"lab,folder,points,questions\n{LAB.number},adapter,{POINTS:g},8\n", "utf-8")
    said = grade(root, base / "成绩", table)
    return base, rows(base / "成绩"), said


def grade(root: Path, out: Path, table: Path) -> str:
    options = ["--adapters", str(table)] if table else []
    done = CliRunner().invoke(
        app, ["grade", str(root), "--out", str(out), "--workers", "2", "--seed", "0", *options]
    )
    assert done.exit_code == 0, done.output
    return done.output


def rows(out: Path) -> dict[str, dict]:
    found = [json.loads(path.read_text("utf-8")) for path in out.glob("*/*.json")]
    return {row["student"]: row for row in found}


def content(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("student", "score", "stage", "said"),
    [
        ("好", POINTS, "ok", "通过 8 道"),
        ("复制", POINTS, "ok", "通过 8 道"),
        ("深处", POINTS, "ok", "达到要求"),
        ("零", 0, "adapter", "看不出比底座好"),
        ("坏", 0, "refused", "文件不完整"),
        ("链接", 0, "refused", "链接"),
        ("没交", 0, "missing", "没有交文件夹 adapter"),
        ("改名", 0, "missing", "没有交文件夹 adapter"),
        ("换数", POINTS, "ok", "通过 8 道"),
        ("附带", 0, "shipped", "课程附带的适配器"),
        ("附带换数", 0, "shipped", "课程附带的适配器"),
        ("只有适配器", POINTS, "ok", "通过 8 道"),
    ],
)
def test_it_earns_what_it_is_worth_and_says_why(made, student, score, stage, said):
    row = made[1][student]
    (entry,) = [entry for entry in row["exercises"] if "adapter" in entry]
    assert (entry["name"], entry["points"], entry["score"], entry["stage"]) == (
        "adapter",
        POINTS,
        score,
        stage,
    )
    assert said in entry["message"]
    own = 0.0 if student in ("没交", "只有适配器") else FULL
    assert (row["score"], row["max"]) == (own + score, FULL + POINTS)
    assert row["status"] == ("missing" if student == "只有适配器" else "graded")


def test_it_is_in_the_table_the_page_and_the_gradebook(made):
    from nbgrader.api import Gradebook

    from lab_utils.grading import gradebook

    out, found = made[0] / "成绩", made[1]
    lines = {
        line["student"]: line for line in csv.DictReader((out / "grades.csv").read_text("utf-8").splitlines())
    }
    assert {name: float(line["score"]) for name, line in lines.items()} == {
        n: r["score"] for n, r in found.items()
    }
    assert "adapter（0/10 分）" in lines["零"]["reason"] and "看不出比底座好" in lines["零"]["reason"]
    page = (out / "好" / f"{LAB.number}.html").read_text("utf-8")
    assert "适配器 adapter" in page and "10 / 10 分" in page and "没见过的题" in page
    with Gradebook(f"sqlite:///{out / 'gradebook.db'}", gradebook.COURSE_ID) as book:
        assert book.find_assignment(LAB.name).max_score == FULL + POINTS
        scores = {entry.student.id: entry.score for entry in book.assignment_submissions(LAB.name)}
    assert scores == {name: row["score"] for name, row in found.items()}


def test_the_same_adapters_are_pointed_out_to_the_teacher_alone(made):
    base, found, said = made
    rows = [Row.from_json(row) for row in found.values()]
    groups = {frozenset(copies.students): copies.similarity for copies in adapter_copies.find(rows)}
    assert groups == {
        frozenset({"好", "复制", "换数", "只有适配器"}): "算出来相同",
        frozenset({"课程附带的适配器", "附带", "附带换数"}): "算出来相同",
    }
    assert "算出来相同：课程附带的适配器、" in said and "深处" not in said
    done = CliRunner().invoke(app, ["report", str(base / "成绩")])
    assert done.exit_code == 0 and "相同的适配器" in (base / "成绩" / "report.html").read_text("utf-8")
    (base / "成绩" / "report.html").unlink()
    for path in (base / "成绩").glob("*/*"):
        assert path.parent.name == "复制" or "复制" not in path.read_text("utf-8")


def test_again_nothing_is_judged_and_every_byte_is_the_same(made):
    base, _, first = made
    before = content(base / "成绩")
    assert "适配器 (adapter)：10 个要评，0 个沿用" in first
    assert "适配器 (adapter)：0 个要评，10 个沿用" in grade(
        base / "作业", base / "成绩", base / "adapters.csv"
    )
    assert content(base / "成绩") == before


def test_after_a_stop_it_ends_with_the_same_files(made, tmp_path):
    base, out = made[0], tmp_path / "out"
    shutil.copytree(base / "成绩", out)
    for path in [
        *sorted((out / adapter_submissions.KEPT).iterdir())[:2],
        *out.glob("*/*.html"),
        *out.glob("grade*"),
    ]:
        path.unlink()
    shutil.rmtree(out / "好")
    assert "1 份要运行" in grade(base / "作业", out, base / "adapters.csv")
    assert content(out) == content(base / "成绩")


def test_without_the_table_nothing_changes(made, tmp_path):
    """Not for a new batch, nor for one that was graded with it."""
    base, out = made[0], tmp_path / "out"
    shutil.copytree(base / "成绩", out)
    assert "adapter" not in grade(base / "作业", out, None)
    shutil.rmtree(out / adapter_submissions.KEPT)
    grade(base / "作业", tmp_path / "new", None)
    assert content(out) == content(tmp_path / "new")


def test_files_that_change_while_they_are_judged_are_not_judged(tmp_path):
    folder = adapter(tmp_path / "作业" / "甲" / "adapter", doubled)
    asked = policy.AdapterRequest(LAB.number, "adapter", POINTS, Demand(questions=8))
    found = adapter_submissions.find(walk(tmp_path / "作业"), tmp_path / "out", [asked])
    (folder / CONFIG).write_text("{}")
    (done,) = adapter_submissions.judge(found, 1)
    (result,) = adapter_submissions.results([done])["甲", LAB.number]
    assert (result.stage, result.score) == ("failed", 0) and "files changed" in result.message
    assert not (tmp_path / "out").exists()


def test_zips_that_play_tricks_are_refused(tmp_path):
    root = tmp_path / "作业"
    folder = adapter(tmp_path / "x", doubled)
    for student in ("链接", "出去", "炸弹", "半个"):
        (root / student).mkdir(parents=True)
    pack(folder, tmp_path / "other.zip", "adapter")
    (root / "链接" / "a.zip").symlink_to(tmp_path / "other.zip")
    pack(folder, root / "出去" / "a.zip", "../adapter")
    with zipfile.ZipFile(root / "炸弹" / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"adapter/{CONFIG}", "{}")
        archive.writestr(f"adapter/{WEIGHTS}", bytes(64 * 2**20))
    with zipfile.ZipFile(root / "半个" / "adapter.zip", "w") as archive:
        archive.write(folder / CONFIG, CONFIG)
    asked = policy.AdapterRequest(LAB.number, "adapter", POINTS, Demand(questions=8))
    results = adapter_submissions.results(
        adapter_submissions.judge(adapter_submissions.find(walk(root), tmp_path / "out", [asked]), 1)
    )
    said = {student: (one.stage, one.message) for (student, _), (one,) in results.items()}
    assert {stage for stage, _ in said.values()} == {"refused"}
    for student, words in (("链接", "链接"), ("出去", "路径"), ("炸弹", "太大"), ("半个", WEIGHTS)):
        assert words in said[student][1]


def test_judging_has_limits(tmp_path):
    """What a judging process asks for beyond them it doesn't get; here in a process of its own."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            adapter_submissions._limit()
            try:
                bytearray((adapter_submissions.MEMORY_MIB + 64) * 2**20)
            except MemoryError:
                try:
                    (tmp_path / "file").write_bytes(bytes(2**21))
                except OSError:
                    status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("00,adapter,ten,", "points"),
        ("00,../x,10,", "folder"),
        ("00,,10,", "folder"),
        ("77,adapter,10,", "77"),
        ("00,line_lengths,10,", "练习的名字"),
        ("00,adapter,10,zero", "questions"),
        ("00,adapter,10,0", "questions"),
        ("00,adapter,10,8\n00,adapter,5,8", "两次"),
    ],
)
def test_a_table_that_is_wrong_is_named_with_its_line(tmp_path, line, said):
    table = tmp_path / "adapters.csv"
    table.write_text(f"lab,folder,points,questions\n{line}\n", "utf-8")
    with pytest.raises(ValueError, match=said) as caught:
        policy.read_adapters(table)
    assert "adapters.csv 第" in str(caught.value)


def test_the_table_may_ask_for_rank_targets_and_rate(tmp_path):
    table = tmp_path / "adapters.csv"
    table.write_text(
        "lab,folder,points,rank,targets,full_rate\n5,qlora,4,8,q_proj v_proj,0.5\n08,dpo,2,,,\n", "utf-8"
    )
    first, second = policy.read_adapters(table)
    assert first == policy.AdapterRequest("05", "qlora", 4.0, Demand(8, ("q_proj", "v_proj"), 24, 0.5))
    assert second == policy.AdapterRequest("08", "dpo", 2.0, Demand())
