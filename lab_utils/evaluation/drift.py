"""How far a model has drifted from the one it should equal: over every token of the same answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lab_utils.data.loss_mask import IGNORE, encode
from lab_utils.errors import InvalidValue
from lab_utils.evaluation.candidate import Local


@dataclass(frozen=True)
class Drift:
    """`max_abs`: largest difference of a logit; `kl`: KL(reference ‖ other) in nats per token, mean over
    tokens; `agreement`: share of tokens at which both find the same token likeliest."""

    max_abs: float
    kl: float
    agreement: float

    def __str__(self) -> str:
        return f"logit 最大偏差 {self.max_abs:.2g}，KL {self.kl:.2g} 纳特/词元，首选词元相同 {self.agreement:.1%}"


def answer_logits(candidate: Local, conversations: Sequence[list[dict]]) -> torch.Tensor:
    """Logits with which `candidate` foretells each token of the answers and their end tokens;
    (tokens, vocab) float32, the conversations one after the other.

    Raises InvalidValue for no conversation.
    """
    if not conversations:
        raise InvalidValue("没有对话 (conversations)", "至少给一段带回答的对话")
    rows = []
    for messages in conversations:
        ids, labels = encode(candidate.tokenizer, messages)
        with torch.no_grad():
            logits = candidate.model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
        rows.append(logits[torch.tensor(labels[1:]) != IGNORE])
    return torch.cat(rows)


def drift(reference: torch.Tensor, other: torch.Tensor) -> Drift:
    """Compare logits of the same tokens, both (tokens, vocab). Raises InvalidValue when shapes differ."""
    if reference.shape != other.shape:
        raise InvalidValue(
            f"两边的形状 (shape) 不同：{tuple(reference.shape)} 和 {tuple(other.shape)}",
            "两边要对同样的对话、用同一个词表计算",
        )
    p, q = reference.double().log_softmax(-1), other.double().log_softmax(-1)
    return Drift(
        max_abs=float((reference - other).abs().max()),
        kl=float((p.exp() * (p - q)).sum(-1).mean()),
        agreement=float((reference.argmax(-1) == other.argmax(-1)).double().mean()),
    )
