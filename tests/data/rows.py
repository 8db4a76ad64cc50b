"""Rows of conversations for the tests, and the problems that a file of them has."""

import json

import pytest

from lab_utils.data.jsonl import DataError
from lab_utils.data.validate import validate_messages

GOOD = {"messages": [{"role": "user", "content": "写诗"}, {"role": "assistant", "content": "春眠不觉晓"}]}
POEMS = [
    {"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]}
    for ask, answer in [
        ("写春", "春眠不觉晓"),
        ("写一个夏字", "夏"),
        ("秋", "秋风起兮白云飞，草木黄落"),
        ("冬", "冬雪"),
    ]
]
"""Four conversations with answers of different length."""


def lines(*rows) -> str:
    return "".join(
        (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows
    )


def talk(*turns: tuple[str, str]) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def problems(tmp_path, text: str | bytes, *args, **kwargs):
    path = tmp_path / "train.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        validate_messages(path, *args, **kwargs)
    assert str(path) in str(caught.value)
    return caught.value.problems
