"""Kahneman-Tversky optimization (KTO): examples without pairs, each good or bad."""

import torch

from lab_utils.align.validation import require_constant, require_positive, require_tensors


def kto_reference_point(policy_kl_logps: torch.Tensor, ref_kl_logps: torch.Tensor) -> torch.Tensor:
    """Reference point z0 of KTO, a scalar >= 0 without gradient: mean of log pi/pi_ref.

    (batch,) summed log-probabilities of *mismatched* pairs: each prompt with another prompt's
    completion. A biased, cheap estimate of KL(pi || pi_ref) (Ethayarajh et al. 2024, section 4.1).
    Raises InvalidValue for differing shapes, NaN or inf.
    """
    require_tensors(1, policy_kl_logps=policy_kl_logps, ref_kl_logps=ref_kl_logps)
    return (policy_kl_logps - ref_kl_logps).mean().detach().clamp(min=0)


def kto_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    ref_chosen_logps: torch.Tensor,
    ref_rejected_logps: torch.Tensor,
    reference_point: torch.Tensor,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> torch.Tensor:
    """Losses of Kahneman-Tversky optimization, one per example: the chosen first, then the rejected.

    chosen: w_d * (1 - sigmoid(beta * (log pi/pi_ref - z0))); rejected: w_u * (1 - sigmoid(beta *
    (z0 - log pi/pi_ref))) (Ethayarajh et al. 2024, section 4.1). Examples are unpaired: chosen is
    (n_chosen,), rejected (n_rejected,), summed log-probabilities; one of the two may be empty.
    reference_point: scalar from `kto_reference_point`.
    Raises InvalidValue for shapes that differ within a side, NaN or inf, beta or a weight not above 0.
    """
    require_tensors(1, policy_chosen_logps=policy_chosen_logps, ref_chosen_logps=ref_chosen_logps)
    require_tensors(1, policy_rejected_logps=policy_rejected_logps, ref_rejected_logps=ref_rejected_logps)
    require_tensors(0, reference_point=reference_point)
    require_constant(
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
        reference_point=reference_point,
    )
    require_positive(beta=beta, desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
    chosen = policy_chosen_logps - ref_chosen_logps - reference_point
    rejected = reference_point - (policy_rejected_logps - ref_rejected_logps)
    return torch.cat(
        [
            desirable_weight * (1 - torch.sigmoid(beta * chosen)),
            undesirable_weight * (1 - torch.sigmoid(beta * rejected)),
        ]
    )
