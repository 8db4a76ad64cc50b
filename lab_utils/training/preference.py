"""What stands around TRL's trainers when a policy learns from preferences.

The policy they all start from (`save_policy`), the log-probability that any policy gives to an answer (`answer_logps`,
`pair_logps`), how far one has gone from another (`kl_on_samples`). Rows are preference pairs as in
`lab_utils.data.preference`.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from lab_utils.align import sequence_logps
from lab_utils.data import batches
from lab_utils.data.loss_mask import IGNORE
from lab_utils.files import atomic_folder


def save_policy(folder: str | Path, name: str, adapter: str | Path) -> Path:
    """Merge `adapter` into the model `name` and save it, with its tokenizer, as a model folder.

    Trainers that start from this folder start from the very same weights. A folder that is there is
    replaced, once the new one is complete. Raises what `models.load` raises.
    """
    from lab_utils import models

    folder = Path(folder)
    model, tokenizer = models.load(name, adapter=adapter)
    with atomic_folder(folder) as made:
        model.merge_and_unload().save_pretrained(made)
        tokenizer.save_pretrained(made)
    return folder


def collate(tokenizer, conversations: Sequence[list[dict]]) -> tuple[torch.Tensor, torch.Tensor]:
    """`(input_ids, labels)`, both (batch, seq) int64, padded on the right; only answers have labels.

    Raises InvalidValue for no conversation, or one without an answer.
    """
    encoded = batches.encode_rows(tokenizer, [{"messages": messages} for messages in conversations])
    batch = batches.collate(encoded, tokenizer.pad_token_id)
    return batch["input_ids"], batch["labels"]


def answer_logps(
    model, tokenizer, conversations: Sequence[list[dict]], batch_size: int = 40, adapter: bool = True
) -> torch.Tensor:
    """Summed log-probability of the answer of each conversation, (rows,) float32 on the CPU, in nats.

    `adapter` False: with the model's LoRA adapter switched off, as TRL reads the reference off a
    policy under training. No gradient; the model's mode (train or eval) is kept.
    """
    sums, was_training = [], model.training
    model.eval()
    with torch.no_grad(), nullcontext() if adapter else model.disable_adapter():
        for start in range(0, len(conversations), batch_size):
            ids, labels = collate(tokenizer, conversations[start : start + batch_size])
            mask = torch.arange(ids.shape[1]) < _lengths(labels)
            answer_from = int((labels != IGNORE).any(0).nonzero()[0])
            kept = ids.shape[1] - answer_from + 1  # no logits where no answer stands
            out = model(
                input_ids=ids.to(model.device),
                attention_mask=mask.long().to(model.device),
                logits_to_keep=kept,
            )
            sums.append(sequence_logps(out.logits.float().cpu(), labels[:, -kept:]))
    model.train(was_training)
    return torch.cat(sums)


def pair_logps(
    model, tokenizer, rows: Sequence[dict], batch_size: int = 40, adapter: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the chosen and of the rejected answers, each (rows,); the rest as in `answer_logps`."""

    def side(name: str) -> torch.Tensor:
        return answer_logps(
            model, tokenizer, [row["prompt"] + row[name] for row in rows], batch_size, adapter
        )

    return side("chosen"), side("rejected")


def kl_on_samples(policy, reference, tokenizer, questions: Sequence[dict], texts: Sequence[str]) -> float:
    """KL(policy || reference) per answer in nats, from `texts` that `policy` sampled at temperature 1.

    The mean of log policy - log reference (the estimate k1 of a whole answer): unbiased, so a small
    KL may come out below 0. questions: rows with `messages`, in the order of `texts`.
    """
    conversations = [
        row["messages"] + [{"role": "assistant", "content": text}]
        for row, text in zip(questions, texts, strict=True)
    ]
    difference = answer_logps(policy, tokenizer, conversations)
    difference = difference - answer_logps(reference, tokenizer, conversations)
    return difference.mean().item()


def _lengths(labels: torch.Tensor) -> torch.Tensor:
    """Length of each conversation, (batch, 1): an answer stands at its end. labels: (batch, seq)."""
    places = torch.arange(1, labels.shape[1] + 1) * (labels != IGNORE)
    return places.amax(1, keepdim=True)
