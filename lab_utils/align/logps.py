"""Log-probabilities that a causal language model gives to the tokens that are really there."""

import torch

from lab_utils.data.loss_mask import IGNORE
from lab_utils.errors import InvalidValue


def token_logps(logits: torch.Tensor, labels: torch.Tensor, ignore: int = IGNORE) -> torch.Tensor:
    """Log-probability of each label under the logits one position before it; 0 where ignored.

    logits: (batch, seq, vocab), labels: (batch, seq) token ids or `ignore`; result: (batch, seq - 1).
    Logits at position t predict the token at t + 1, hence the shift: result[:, t] belongs to
    labels[:, t + 1]. Same as TRL's `selective_log_softmax` on shifted inputs.
    Raises InvalidValue when shapes differ, the sequence is shorter than 2, or a label is no token id.
    """
    if logits.dim() != 3 or logits.shape[:2] != labels.shape:
        raise InvalidValue(
            f"logits 的形状 (shape) 应为 (batch, seq, vocab)，labels 应为 (batch, seq)；"
            f"收到 {tuple(logits.shape)} 和 {tuple(labels.shape)}",
            "不要自己先错位 (shift)，函数里会做",
        )
    if labels.shape[1] < 2:
        raise InvalidValue("序列 (sequence) 至少要有 2 个词元：第一个词元没有人预测它", "换长一些的序列")
    targets = labels[:, 1:]
    supervised = targets != ignore
    wrong = supervised & ((targets < 0) | (targets >= logits.shape[-1]))
    if wrong.any():
        raise InvalidValue(
            f"labels 里有 {int(targets[wrong][0])}，不是词表 (0 到 {logits.shape[-1] - 1}) 里的编号",
            f"不计入的位置请用 {ignore}",
        )
    logps = logits[:, :-1].log_softmax(-1)
    picked = logps.gather(-1, targets.where(supervised, 0).unsqueeze(-1)).squeeze(-1)
    return picked.where(supervised, 0.0)


def sequence_logps(
    logits: torch.Tensor, labels: torch.Tensor, ignore: int = IGNORE, average: bool = False
) -> torch.Tensor:
    """Log-probability of each sequence's supervised tokens: their sum, or their mean.

    logits: (batch, seq, vocab), labels: (batch, seq); result: (batch,). DPO, KTO and PPO take the
    sum (log of the sequence's probability); IPO, ORPO and SimPO the mean over supervised tokens.
    Same as `get_batch_logps` of TRL's KTO, ORPO and CPO trainers.
    Raises InvalidValue as `token_logps`, and for the mean of a row in which nothing is supervised.
    """
    logps = token_logps(logits, labels, ignore)
    if not average:
        return logps.sum(-1)
    lengths = (labels[:, 1:] != ignore).sum(-1)
    if (lengths == 0).any():
        row = int((lengths == 0).nonzero()[0])
        raise InvalidValue(
            f"第 {row} 行（从 0 数）没有要计入的词元，labels 全是 {ignore}：没有平均数可求", "先去掉这样的行"
        )
    return logps.sum(-1) / lengths
