from lab_utils.data import formats
from lab_utils.data.loss_mask import IGNORE, make_labels, rows_without_labels


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
    whole, expected = formats.encode(tokenizer, messages)
    assert ids == whole[: len(ids)] and labels == expected[: len(labels)]
    # ms-swift's template goes on with the line break behind the end token, and supervises it too.
    assert tokenizer.decode(whole[len(ids) :]) == "\n" and expected[len(labels) :] == whole[len(ids) :]


def test_rows_without_labels():
    assert rows_without_labels([[IGNORE, 0], [IGNORE, IGNORE]]) == [1]
