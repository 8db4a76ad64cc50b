"""Rows of conversations as the tensors that a model is trained and measured on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lab_utils.data.loss_mask import IGNORE, encode, rows_without_labels
from lab_utils.errors import InvalidValue

if TYPE_CHECKING:
    import torch

Example = tuple[list[int], list[int]]
"""Token ids and labels of one conversation, both (seq,); the label is `IGNORE` where nothing is learned."""


def encode_rows(tokenizer, rows: Sequence[dict]) -> list[Example]:
    """Rows of `messages` as examples. Raises InvalidValue for no rows, or a row that supervises no token."""
    if not rows:
        raise InvalidValue("没有数据行 (rows)", "至少给出一行带 messages 的数据")
    examples = [encode(tokenizer, row["messages"]) for row in rows]
    if empty := rows_without_labels(
        [labels[1:] for _, labels in examples]
    ):  # nothing stands before the first token
        raise InvalidValue(
            f"第 {empty[0] + 1} 行没有要学习的词元 (zero supervised tokens)", "补上 assistant 的回答"
        )
    return examples


def collate(examples: Sequence[Example], pad_id: int) -> "dict[str, torch.Tensor]":
    """`input_ids`, `attention_mask` and `labels`, each (batch, longest) int64, padded on the right."""
    import torch

    longest = max(len(ids) for ids, _ in examples)

    def padded(row: list[int], filler: int) -> list[int]:
        return row + [filler] * (longest - len(row))

    return {
        "input_ids": torch.tensor([padded(ids, pad_id) for ids, _ in examples]),
        "attention_mask": torch.tensor([padded([1] * len(ids), 0) for ids, _ in examples]),
        "labels": torch.tensor([padded(labels, IGNORE) for _, labels in examples]),
    }


def batch_for(model, examples: Sequence[Example]) -> "dict[str, torch.Tensor]":
    """`collate` with the model's own pad token (0 where it has none), on the model's device."""
    device = next(model.parameters()).device
    return {
        name: value.to(device) for name, value in collate(examples, model.config.pad_token_id or 0).items()
    }
