"""Simple preference optimization (SimPO): mean log-probabilities, a margin, no reference model.

`…_logps` are log-probabilities of whole completions, (batch,), from `sequence_logps`; `chosen` and `rejected` are
the two sides of a pair and stand at the same place. One number per pair: take `.mean()` to train.
"""

import torch
import torch.nn.functional as F

from lab_utils.align.validation import require_between, require_positive, require_tensors


def simpo_loss(
    chosen_logps: torch.Tensor, rejected_logps: torch.Tensor, beta: float, gamma: float
) -> torch.Tensor:
    """Losses of SimPO, one per pair: -log sigmoid(beta * (logp_chosen - logp_rejected) - gamma).

    Meng et al. 2024, Eq. 6. (batch,), log-probabilities *averaged* over tokens; no reference model.
    gamma >= 0 is the target margin. TRL: CPOTrainer with loss_type="simpo", cpo_alpha=0.
    Raises InvalidValue for differing shapes, NaN or inf, beta not above 0 and gamma below 0.
    """
    require_tensors(1, chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    require_positive(beta=beta)
    require_between(0, float("inf"), gamma=gamma)
    return -F.logsigmoid(beta * (chosen_logps - rejected_logps) - gamma)
