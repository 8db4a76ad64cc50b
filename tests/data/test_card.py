"""A card holds what its files hold, by count and hash; what it lacks is named."""

import hashlib

import pytest

from lab_utils.data.card import read_card, read_csv, update_card
from lab_utils.data.schema import row_faults

HEAD = """---
name: toy
title: 玩具
files:
- {path: train.jsonl}
- {path: test.jsonl}
schema:
  text: {type: str, min_length: 2}
distinct_fields: [text]
notice: 留着
---

# 玩具

正文 --- 不动。
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "README.md").write_text(HEAD, encoding="utf-8")
    (tmp_path / "train.jsonl").write_text('{"text": "春眠"}\n{"text": "夏日长"}\n', encoding="utf-8")
    (tmp_path / "test.jsonl").write_text('{"text": "秋风起兮"}\n', encoding="utf-8")
    return tmp_path


def test_update_counts_rows_bytes_and_hash(folder):
    meta = update_card(folder).meta
    content = (folder / "train.jsonl").read_bytes()
    assert meta["rows"] == 3
    assert meta["splits"] == {"train": 2, "test": 1}
    assert meta["files"][0] == {
        "path": "train.jsonl",
        "rows": 2,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert meta["lengths"] == {"text": {"min": 2, "median": 3, "max": 4}}


def test_update_keeps_prose_and_other_keys_and_leaves_no_draft(folder):
    before = read_card(folder)
    after = update_card(folder)
    assert after.prose == before.prose
    assert after.meta["notice"] == "留着"
    assert list(after.meta)[:2] == ["name", "title"]
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "test.jsonl", "train.jsonl"]


def test_second_update_changes_no_byte(folder):
    update_card(folder)
    first = (folder / "README.md").read_bytes()
    update_card(folder)
    assert (folder / "README.md").read_bytes() == first


def test_split_field_counts_before_the_file_name(folder):
    (folder / "test.jsonl").write_text('{"text": "冬至", "split": "dev"}\n', encoding="utf-8")
    card = update_card(folder)
    assert card.meta["splits"] == {"train": 2, "dev": 1}
    assert card.rows("dev") == [{"text": "冬至", "split": "dev"}]
    assert len(card.rows()) == 3


def test_unknown_split_names_what_there_is(folder):
    with pytest.raises(ValueError, match="没有划分.*'dev'.*test、train"):
        read_card(folder).rows("dev")


def test_missing_card_and_bad_front_matter(tmp_path):
    with pytest.raises(FileNotFoundError, match="缺少说明卡"):
        read_card(tmp_path)
    for text, message in [
        ("# 无文首\n", "开头没有"),
        ("---\nname: a\n", "开头没有"),
        ("---\n- a\n---\n", "键: 值"),
        ("---\nname: a\n---\n", "缺少：files、schema"),
    ]:
        (tmp_path / "README.md").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_card(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"), [("{", "第 2 行：不是合法的 JSON"), ("[1]", "第 2 行：是 list，不是对象")]
)
def test_bad_line_is_named_and_card_untouched(folder, line, message):
    (folder / "train.jsonl").write_text('{"text": "春眠"}\n' + line + "\n", encoding="utf-8")
    before = (folder / "README.md").read_bytes()
    with pytest.raises(ValueError, match=message):
        update_card(folder)
    assert (folder / "README.md").read_bytes() == before


TABLES = """---
files:
- {path: scores.csv}
- {path: films.csv}
schemas:
  scores.csv: {user: {type: int, minimum: 1}, score: {type: float, maximum: 5.0}}
  films.csv: {title: {type: str}}
distinct_fields: [title]
---

# 两张表
"""


@pytest.fixture
def tables(tmp_path):
    (tmp_path / "README.md").write_text(TABLES, encoding="utf-8")
    (tmp_path / "scores.csv").write_text("user,score\n1,3.5\n2,4\n", encoding="utf-8")
    (tmp_path / "films.csv").write_text('title\n"渡口, 雨夜"\n', encoding="utf-8")
    return tmp_path


def test_csv_files_have_schemas_of_their_own(tables):
    card = update_card(tables)
    assert card.rows("scores") == [{"user": 1, "score": 3.5}, {"user": 2, "score": 4.0}]
    assert card.rows("films") == [{"title": "渡口, 雨夜"}]
    assert (card.meta["rows"], card.meta["splits"]) == (3, {"scores": 2, "films": 1})
    assert card.meta["lengths"] == {"title": {"min": 6, "median": 6, "max": 6}}
    assert [row_faults(row, card.schema("scores.csv")) for row in card.rows("scores")] == [[], []]


def test_a_csv_field_that_is_no_number_stays_text_and_is_a_fault(tables):
    card = read_card(tables)
    (tables / "scores.csv").write_text("user,score\n一,nan\n0,5.5\n", encoding="utf-8")
    assert card.rows("scores")[0]["user"] == "一"
    faults = [row_faults(row, card.schema("scores.csv")) for row in card.rows("scores")]
    assert [sorted(fault.split("：")[0] for fault in found) for found in faults] == [["score", "user"]] * 2


@pytest.mark.parametrize("line", ["1", "1,2,3", ""])
def test_a_csv_row_of_another_width_is_named(tables, line):
    (tables / "scores.csv").write_text(f"user,score\n1,2\n{line}\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=rf"scores.csv 第 3 行有 {len(line.split(',')) if line else 0} 个字段.*表头有 2 个"
    ):
        read_card(tables).rows()


def test_csv_of_a_header_alone_has_no_rows(tmp_path):
    (tmp_path / "a.csv").write_text("user\n", encoding="utf-8")
    assert read_csv(tmp_path / "a.csv", {"user": {"type": "int"}}) == []


def test_a_file_without_its_schema_is_named(tables):
    text = TABLES.replace("  films.csv: {title: {type: str}}\n", "")
    (tables / "README.md").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="缺少：schemas: films.csv"):
        read_card(tables)
