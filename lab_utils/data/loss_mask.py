"""One training example as the model sees it: token ids and which of them are supervised."""

IGNORE = -100
"""Label that the loss leaves out (`ignore_index` of torch's cross-entropy)."""


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
