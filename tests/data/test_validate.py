"""Broken training data is found by line and field, and what is learned is counted right."""

import pytest

from lab_utils.data.jsonl import DataError, read_jsonl
from lab_utils.data.validate import validate_messages
from tests.data.rows import GOOD, lines, problems, talk


def test_good_file_is_reported(tmp_path, tokenizer):
    path = tmp_path / "train.jsonl"
    path.write_text(
        lines(GOOD, "", talk(("system", "你是诗人"), ("user", "写"), ("assistant", "花"))), encoding="utf-8"
    )
    report = validate_messages(path, tokenizer, max_length=64)
    assert (report.rows, report.turns) == (2, 2)
    assert report.supervised == len("春眠不觉晓") + len("花") + 2 * 2  # each with <|im_end|> and the newline
    assert len(read_jsonl(path)) == 2


@pytest.mark.parametrize(
    ("row", "field", "word"),
    [
        ({"conversations": []}, "messages", "ShareGPT"),
        ({"instruction": "写诗", "output": "春"}, "messages", "Alpaca"),
        ({"messages": []}, "messages", "非空"),
        ({"messages": "写诗"}, "messages", "列表"),
        ({"messages": [{"content": "写诗"}, GOOD["messages"][1]]}, "messages[0].role", "missing role"),
        (
            {"messages": [{"role": "human", "content": "写诗"}, GOOD["messages"][1]]},
            "messages[0].role",
            '"user"',
        ),
        ({"messages": [{"role": "user"}, GOOD["messages"][1]]}, "messages[0].content", "缺少字段"),
        (
            {"messages": [{"role": "user", "content": ["写诗"]}, GOOD["messages"][1]]},
            "messages[0].content",
            "list",
        ),
        ({"messages": ["写诗", GOOD["messages"][1]]}, "messages[0]", "str"),
        (talk(("user", "写诗"), ("assistant", " \n")), "messages[1].content", "empty assistant"),
        (talk(("user", " "), ("assistant", "春")), "messages[0].content", "空"),
        (talk(("user", "写诗")), "messages[0].role", "没有要学习的回答"),
        (talk(("user", "写"), ("user", "诗"), ("assistant", "春")), "messages[1].role", "连着两轮"),
        (talk(("user", "写"), ("system", "诗"), ("assistant", "春")), "messages[1].role", "最前面"),
        (talk(("assistant", "春")), "messages[0].role", "第一轮应是 user"),
        ([1, 2], "", "list"),
    ],
)
def test_broken_row_names_line_and_field(tmp_path, row, field, word):
    (problem,) = problems(tmp_path, lines(GOOD, row))
    assert (problem.line, problem.field) == (2, field)
    assert word in problem.wrong + problem.fix


def test_all_problems_are_kept_and_ten_shown(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(lines(*[{"messages": []}] * 12), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        validate_messages(path)
    assert len(caught.value.problems) == 12
    assert (
        "第 10 行" in str(caught.value)
        and "第 11 行" not in str(caught.value)
        and "还有 2 处" in str(caught.value)
    )


def test_rows_without_supervised_tokens_are_found(tmp_path, tokenizer):
    text = lines(GOOD, talk(("user", "写" * 80), ("assistant", "春")))
    (dropped,) = problems(tmp_path, text, tokenizer, 64)
    assert dropped.line == 2 and "整行会被丢弃" in dropped.wrong
    (cut,) = problems(tmp_path, text, tokenizer, 64, "right")
    assert cut.line == 2 and "zero supervised" in cut.wrong
    assert validate_messages(tmp_path / "train.jsonl", tokenizer, 64, "left").rows == 2
