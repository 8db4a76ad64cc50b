import hashlib
import json

import pytest

from lab_utils.data.card import read_card, read_jsonl, row_faults, schema_faults, update_card

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
    ("line", "message"), [("{", "第 2 行不是合法的 JSON"), ("[1]", "第 2 行应是一个对象")]
)
def test_bad_line_is_named_and_card_untouched(folder, line, message):
    (folder / "train.jsonl").write_text('{"text": "春眠"}\n' + line + "\n", encoding="utf-8")
    before = (folder / "README.md").read_bytes()
    with pytest.raises(ValueError, match=message):
        update_card(folder)
    assert (folder / "README.md").read_bytes() == before


def test_read_jsonl_keeps_separators_inside_strings(tmp_path):
    row = {"text": "行\u2028分"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_jsonl(tmp_path / "a.jsonl") == [row]


SCHEMA = {
    "text": {"type": "str", "min_length": 2, "max_length": 4},
    "count": {"type": "int", "minimum": 0, "maximum": 9},
    "split": {"type": "enum", "values": ["train", "test"]},
    "tags": {"type": "list[str]", "values": ["甲", "乙"], "max_length": 2},
    "messages": {"type": "messages", "min_length": 2},
}
ASK, ANSWER = {"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}
SYSTEM = {"role": "system", "content": "你是老师"}
ROW = {"text": "春眠", "count": 0, "split": "train", "tags": [], "messages": [ASK, ANSWER]}


@pytest.mark.parametrize(
    "change",
    [
        {"text": "春夏秋冬", "count": 9, "split": "test", "tags": ["甲", "乙"]},
        {"messages": [SYSTEM, ASK, ANSWER, ASK, ANSWER]},
    ],
)
def test_good_rows_have_no_fault(change):
    assert row_faults({**ROW, **change}, SCHEMA) == []


@pytest.mark.parametrize(
    "change",
    [
        {"text": "春"},
        {"text": "春夏秋冬年"},
        {"text": 3},
        {"count": -1},
        {"count": 10},
        {"count": True},
        {"count": "1"},
        {"split": "dev"},
        {"tags": ["丙"]},
        {"tags": "甲"},
        {"tags": [1]},
        {"tags": ["甲", "乙", "甲"]},
        {"messages": []},
        {"messages": [ASK]},
        {"messages": [ANSWER, ASK]},
        {"messages": [ASK, ASK, ANSWER]},
        {"messages": [ASK, SYSTEM]},
        {"messages": [SYSTEM]},
        {"messages": [ASK, {"role": "assistant", "content": ""}]},
        {"messages": [ASK, {"role": "assistant"}]},
        {"messages": "问答"},
        {"extra": 1},
    ],
)
def test_each_bad_value_has_one_fault(change):
    (fault,) = row_faults({**ROW, **change}, SCHEMA)
    assert next(iter(change)) in fault


def test_missing_field_is_a_fault():
    assert row_faults({key: ROW[key] for key in ROW if key != "tags"}, SCHEMA) == [
        "缺少字段 (missing field) tags"
    ]


def test_schema_faults():
    assert schema_faults(SCHEMA) == []
    bad = {"a": {"type": "float"}, "b": {"type": "enum"}, "c": {"type": "str", "min_len": 1}}
    assert [fault[0] for fault in schema_faults(bad)] == ["a", "b", "c"]
