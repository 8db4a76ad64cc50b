"""Direct preference optimization (DPO), IPO with it, and the reward that a policy implies.

`…_logps` are log-probabilities of whole completions, (batch,), from `sequence_logps`; `chosen` and `rejected` are
the two sides of a pair and stand at the same place. One number per pair: take `.mean()` to train.
"""

import torch
import torch.nn.functional as F

from lab_utils.align.validation import require_constant, require_positive, require_tensors
from lab_utils.errors import InvalidValue


def implicit_rewards(policy_logps: torch.Tensor, ref_logps: torch.Tensor, beta: float) -> torch.Tensor:
    """Reward that a policy implies: beta * (log pi - log pi_ref); (batch,), summed log-probabilities.

    Rafailov et al. 2023 (DPO), Eq. 5 without beta * log Z(x), which cancels within a pair.
    Raises InvalidValue for differing shapes, NaN or inf, and beta not above 0.
    """
    require_tensors(1, policy_logps=policy_logps, ref_logps=ref_logps)
    require_positive(beta=beta)
    return beta * (policy_logps - ref_logps)


def dpo_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    ref_chosen_logps: torch.Tensor,
    ref_rejected_logps: torch.Tensor,
    beta: float,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Losses of direct preference optimization, one per pair; all (batch,).

    With h = log pi/pi_ref of chosen minus that of rejected:
    "sigmoid": -log sigmoid(beta * h) (Rafailov et al. 2023, Eq. 7); summed log-probabilities. A
    label_smoothing e in [0, 0.5) says that e of the labels are wrong: (1 - e) * loss(h) + e * loss(-h)
    (conservative DPO, Mitchell 2023).
    "ipo": (h - 1 / (2 * beta))^2 (Azar et al. 2023, Eq. 17); log-probabilities *averaged* over tokens
    (`sequence_logps(..., average=True)`), as TRL does.

    Raises InvalidValue for differing shapes, NaN or inf, a reference with a gradient, beta not above 0,
    an unknown loss_type, and label smoothing with IPO.
    """
    logps = {
        "policy_chosen_logps": policy_chosen_logps,
        "policy_rejected_logps": policy_rejected_logps,
        "ref_chosen_logps": ref_chosen_logps,
        "ref_rejected_logps": ref_rejected_logps,
    }
    require_tensors(1, **logps)
    require_constant(ref_chosen_logps=ref_chosen_logps, ref_rejected_logps=ref_rejected_logps)
    require_positive(beta=beta)
    _require_smoothing(loss_type, label_smoothing)
    h = (policy_chosen_logps - ref_chosen_logps) - (policy_rejected_logps - ref_rejected_logps)
    if loss_type == "ipo":
        return (h - 1 / (2 * beta)) ** 2
    right, wrong = -F.logsigmoid(beta * h), -F.logsigmoid(-beta * h)
    return (1 - label_smoothing) * right + label_smoothing * wrong


def _require_smoothing(loss_type: str, label_smoothing: float) -> None:
    if loss_type not in ("sigmoid", "ipo"):
        raise InvalidValue(f"不认识的 loss_type {loss_type!r}", "loss_type 只有 'sigmoid' 和 'ipo'")
    if not 0 <= label_smoothing < 0.5:
        raise InvalidValue(
            f"label_smoothing 应在 0 到 0.5 之间，不含 0.5，收到 {label_smoothing}", "多半的标签要是对的"
        )
    if loss_type == "ipo" and label_smoothing:
        raise InvalidValue("标签平滑 (label_smoothing) 只用于 'sigmoid'", "IPO 请保持为 0")
