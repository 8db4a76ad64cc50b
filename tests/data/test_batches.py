"""Rows become examples by the chat template, and batches padded on the right."""

import pytest

from lab_utils.data.batches import collate, encode_rows
from lab_utils.data.loss_mask import encode
from lab_utils.errors import InvalidValue
from tests.data.rows import POEMS


def test_rows_are_encoded_by_the_chat_template(tokenizer):
    assert encode_rows(tokenizer, POEMS) == [encode(tokenizer, row["messages"]) for row in POEMS]


def test_rows_that_teach_nothing_are_refused(tokenizer):
    with pytest.raises(InvalidValue, match="没有数据行"):
        encode_rows(tokenizer, [])
    with pytest.raises(InvalidValue, match="第 2 行没有要学习的词元"):
        encode_rows(tokenizer, [POEMS[0], {"messages": [{"role": "user", "content": "问"}]}])


def test_a_batch_is_padded_on_the_right():
    batch = collate([([5, 6, 7], [-100, 6, 7]), ([8], [-100])], pad_id=3)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 3, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [-100, -100, -100]]
