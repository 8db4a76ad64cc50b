"""The schema of a card: good rows have no fault, each bad value has one."""

import pytest

from lab_utils.data.schema import row_faults, schema_faults

SCHEMA = {
    "text": {"type": "str", "min_length": 2, "max_length": 4},
    "count": {"type": "int", "minimum": 0, "maximum": 9},
    "score": {"type": "float", "minimum": 0.5, "maximum": 5.0},
    "split": {"type": "enum", "values": ["train", "test"]},
    "tags": {"type": "list[str]", "values": ["甲", "乙"], "max_length": 2},
    "messages": {"type": "messages", "min_length": 2},
}
ASK, ANSWER = {"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}
SYSTEM = {"role": "system", "content": "你是老师"}
ROW = {"text": "春眠", "count": 0, "score": 0.5, "split": "train", "tags": [], "messages": [ASK, ANSWER]}


@pytest.mark.parametrize(
    "change",
    [
        {"text": "春夏秋冬", "count": 9, "score": 5.0, "split": "test", "tags": ["甲", "乙"]},
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
        {"score": 0.4},
        {"score": 5.1},
        {"score": float("nan")},
        {"score": 3},
        {"score": "3.5"},
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
    bad = {"a": {"type": "double"}, "b": {"type": "enum"}, "c": {"type": "str", "min_len": 1}}
    assert [fault[0] for fault in schema_faults(bad)] == ["a", "b", "c"]


@pytest.mark.parametrize("turns", [[ASK], [ANSWER], [SYSTEM, ASK], [ASK, ANSWER]])
def test_turns_may_be_part_of_a_conversation(turns):
    assert row_faults({"prompt": turns}, {"prompt": {"type": "turns"}}) == []


@pytest.mark.parametrize(
    "turns", [[], "写一首", [{"role": "user"}], [{**ASK, "content": ""}], [{**ASK, "role": "bot"}]]
)
def test_what_are_no_turns(turns):
    assert len(row_faults({"prompt": turns}, {"prompt": {"type": "turns"}})) == 1
