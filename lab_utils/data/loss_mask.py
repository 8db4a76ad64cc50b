"""The loss mask: token ids of a conversation, and which of them the model learns from.

A label is the token's own id where it is learned and `IGNORE` where it isn't; labels stand under their own tokens,
the model shifts them. `encode` takes the mask from the chat template, `make_labels` builds it by position; `cut` is
what is left of a row that is too long; `supervised` shows it token by token.
"""

from lab_utils.errors import InvalidValue

IGNORE = -100
"""Label that the loss leaves out (`ignore_index` of torch's cross-entropy)."""
TRUNCATIONS = ("delete", "left", "right")
"""What ms-swift's `truncation_strategy` may be; see `cut`."""


def encode(tokenizer, messages: list[dict]) -> tuple[list[int], list[int]]:
    """Token ids of a conversation and its labels, both (seq,).

    The label is the id where an assistant turn (its end token included) is learned and `IGNORE` elsewhere. From the
    tokenizer's own chat template; equal to what ms-swift makes of `--template chatml` for a ChatML tokenizer.
    Raises InvalidValue when the template renders a turn differently once more turns follow, since then no token
    can be told to be the assistant's.
    """
    ids = _render(tokenizer, messages, False)
    labels = [IGNORE] * len(ids)
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start, end = _render(tokenizer, messages[:i], True), _render(tokenizer, messages[: i + 1], False)
        if end[: len(start)] != start or ids[: len(end)] != end:
            raise InvalidValue(
                "这个对话模板 (chat template) 会改写前文，无法从它推出哪些词元要学习",
                "换一个只在后面追加的模板，例如 ChatML",
            )
        labels[len(start) : len(end)] = end[len(start) :]
    return ids, labels


def cut(
    ids: list[int], labels: list[int], max_length: int | None, truncation: str
) -> tuple[list[int], list[int]]:
    """What ms-swift keeps of a row longer than `max_length` tokens.

    By `truncation`: nothing (`delete`, its default), the end (`left`) or the start (`right`). A first token left by
    a cut isn't learned, as nothing stands before it. Raises InvalidValue for another `truncation`.
    """
    if max_length is None or len(ids) <= max_length:
        return ids, labels
    if truncation not in TRUNCATIONS:
        known = "、".join(TRUNCATIONS)
        raise InvalidValue(f"不认识的截断方式 (truncation) {truncation!r}", f"可用的是：{known}")
    kept = {"delete": slice(0, 0), "left": slice(-max_length, None), "right": slice(max_length)}[truncation]
    return ids[kept], [IGNORE, *labels[kept][1:]] if ids[kept] else []


def supervised(tokenizer, messages: list[dict]) -> list[tuple[str, bool]]:
    """Each token's text and whether it is learned, in order."""
    ids, labels = encode(tokenizer, messages)
    return [(tokenizer.decode([i]), label != IGNORE) for i, label in zip(ids, labels, strict=True)]


def make_labels(
    prompt_ids: list[int], answer_ids: list[int], end_id: int, length: int, pad_id: int
) -> tuple[list[int], list[int]]:
    """`(input_ids, labels)` of one example, both of `length`.

    Supervised are exactly the answer's tokens and the end token that closes it; prompt and
    padding carry `IGNORE`. Labels stand under their own tokens: the model shifts them.
    An example longer than `length` is cut at the end.
    """
    input_ids = (prompt_ids + answer_ids + [end_id])[:length]
    labels = ([IGNORE] * len(prompt_ids) + answer_ids + [end_id])[:length]
    padding = length - len(input_ids)
    return input_ids + [pad_id] * padding, labels + [IGNORE] * padding


def rows_without_labels(batch: list[list[int]]) -> list[int]:
    """Numbers, from 0, of the rows in which no token is supervised: they teach nothing."""
    return [i for i, labels in enumerate(batch) if all(label == IGNORE for label in labels)]


def _render(tokenizer, messages: list[dict], prompt: bool) -> list[int]:
    return tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
