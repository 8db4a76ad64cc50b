"""What is learned of a conversation: answers with their end token, by template and by position alike."""

import pytest

from lab_utils.data.loss_mask import IGNORE, cut, encode, make_labels, rows_without_labels, supervised
from lab_utils.errors import InvalidValue
from tests.data.rows import GOOD, talk


def test_supervised_are_answers_with_their_end_token(tokenizer):
    pairs = supervised(
        tokenizer,
        talk(("user", "写"), ("assistant", "花落"), ("user", "再写"), ("assistant", "月"))["messages"],
    )
    assert "".join(text for text, learned in pairs if learned) == "花落<|im_end|>\n月<|im_end|>\n"
    ids, labels = encode(tokenizer, GOOD["messages"])
    assert all(label in (IGNORE, i) for i, label in zip(ids, labels, strict=True))


def test_equals_the_chat_template_of_the_shipped_model(tokenizer):
    """Two ways to the same labels: by position, and by the tokenizer's own template."""
    messages = [
        {"role": "user", "content": "写一首五言绝句"},
        {"role": "assistant", "content": "山月照寒溪，"},
    ]
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
    answer = tokenizer(messages[1]["content"]).input_ids
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids, labels = make_labels(prompt, answer, end, len(prompt) + len(answer) + 1, tokenizer.pad_token_id)
    whole, expected = encode(tokenizer, messages)
    assert ids == whole[: len(ids)] and labels == expected[: len(labels)]
    # ms-swift's template goes on with the line break behind the end token, and supervises it too.
    assert tokenizer.decode(whole[len(ids) :]) == "\n" and expected[len(labels) :] == whole[len(ids) :]


def test_rows_without_labels():
    assert rows_without_labels([[IGNORE, 0], [IGNORE, IGNORE]]) == [1]


@pytest.mark.parametrize(
    ("truncation", "kept"),
    [("delete", ([], [])), ("left", ([7, 8], [IGNORE, 8])), ("right", ([6, 7], [IGNORE, 7]))],
)
def test_a_long_row_is_cut_as_ms_swift_does(truncation, kept):
    assert cut([6, 7, 8], [IGNORE, 7, 8], 2, truncation) == kept
    assert cut([6, 7, 8], [IGNORE, 7, 8], 3, truncation) == ([6, 7, 8], [IGNORE, 7, 8])


def test_an_unknown_truncation_is_refused():
    with pytest.raises(InvalidValue, match="'middle'.*left"):
        cut([6, 7, 8], [IGNORE, 7, 8], 2, "middle")
