"""Odds ratio preference optimization (ORPO): no reference model.

`…_logps` are log-probabilities of whole completions, (batch,), from `sequence_logps`; `chosen` and `rejected` are
the two sides of a pair and stand at the same place. One number per pair: take `.mean()` to train.
"""

import torch
import torch.nn.functional as F

from lab_utils.align.validation import require_positive, require_tensors
from lab_utils.errors import InvalidValue


def log_odds_ratio(chosen_logps: torch.Tensor, rejected_logps: torch.Tensor) -> torch.Tensor:
    """log of odds(chosen) / odds(rejected), odds(y) = P(y) / (1 - P(y)); (batch,), *mean* log-probabilities.

    Hong et al. 2024 (ORPO), Eq. 4 and 5. Raises InvalidValue for differing shapes, NaN or inf, and for
    a log-probability that is not below 0 (P = 1 has no finite odds).
    """
    require_tensors(1, chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    for name, logps in (("chosen_logps", chosen_logps), ("rejected_logps", rejected_logps)):
        if (logps >= 0).any():
            raise InvalidValue(
                f"{name} 里有不小于 0 的值：对数概率应小于 0，P = 1 时几率 (odds) 是无穷大",
                "检查求对数概率的那一步",
            )
    return _log_odds(chosen_logps) - _log_odds(rejected_logps)


def _log_odds(logps: torch.Tensor) -> torch.Tensor:
    """log(P / (1 - P)); expm1 keeps 1 - P exact where P is near 1."""
    return logps - torch.log(-torch.expm1(logps))


def orpo_loss(
    chosen_logps: torch.Tensor, rejected_logps: torch.Tensor, chosen_nll: torch.Tensor, beta: float
) -> torch.Tensor:
    """Loss of odds ratio preference optimization, one per pair: chosen_nll - beta * log sigmoid(log OR).

    Hong et al. 2024, Eq. 6 and 7; beta is their lambda; no reference model. chosen_logps and
    rejected_logps: (batch,), averaged over the completion's tokens. chosen_nll: scalar, mean negative
    log-likelihood of the chosen sequences; TRL takes it over prompt and completion.
    Raises InvalidValue as `log_odds_ratio`, and for beta not above 0.
    """
    require_tensors(0, chosen_nll=chosen_nll)
    require_positive(beta=beta)
    return chosen_nll - beta * F.logsigmoid(log_odds_ratio(chosen_logps, rejected_logps))
