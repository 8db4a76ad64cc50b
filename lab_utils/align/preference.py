"""Losses that learn from preferences: reward model, DPO and IPO, ORPO, KTO, SimPO.

`…_logps` are log-probabilities of whole completions, (batch,), from `sequence_logps`; `chosen` and
`rejected` are the two sides of a pair and stand at the same place. All losses are one number per
pair (or per example): take `.mean()` to train.
"""

import torch
import torch.nn.functional as F

from lab_utils.align.validation import require_between, require_constant, require_positive, require_tensors


def bradley_terry_loss(
    rewards_chosen: torch.Tensor, rewards_rejected: torch.Tensor, margin: torch.Tensor | None = None
) -> torch.Tensor:
    """Pairwise loss of a reward model: -log sigmoid(r_chosen - r_rejected - margin); all (batch,).

    P(chosen beats rejected) = sigmoid(r_chosen - r_rejected) is Bradley and Terry (1952); the loss is
    InstructGPT's (Ouyang et al. 2022, Eq. 1), the margin Llama 2's (Touvron et al. 2023, Eq. 2).
    TRL's RewardTrainer takes the mean of it. Raises ValueError for differing shapes, NaN or inf.
    """
    require_tensors(1, rewards_chosen=rewards_chosen, rewards_rejected=rewards_rejected)
    difference = rewards_chosen - rewards_rejected
    if margin is not None:
        require_tensors(1, rewards_chosen=rewards_chosen, margin=margin)
        difference = difference - margin
    return -F.logsigmoid(difference)


def reward_accuracy(rewards_chosen: torch.Tensor, rewards_rejected: torch.Tensor) -> torch.Tensor:
    """Share of pairs, 0 to 1, in which chosen is rewarded more; a tie counts as wrong. (batch,) to scalar."""
    require_tensors(1, rewards_chosen=rewards_chosen, rewards_rejected=rewards_rejected)
    return (rewards_chosen > rewards_rejected).float().mean()


def implicit_rewards(policy_logps: torch.Tensor, ref_logps: torch.Tensor, beta: float) -> torch.Tensor:
    """Reward that a policy implies: beta * (log pi - log pi_ref); (batch,), summed log-probabilities.

    Rafailov et al. 2023 (DPO), Eq. 5 without beta * log Z(x), which cancels within a pair.
    Raises ValueError for differing shapes, NaN or inf, and beta not above 0.
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

    Raises ValueError for differing shapes, NaN or inf, a reference with a gradient, beta not above 0,
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
        raise ValueError(f"loss_type 只有 'sigmoid' 和 'ipo'，收到 {loss_type!r}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing 应在 0 到 0.5 之间（不含 0.5），收到 {label_smoothing}")
    if loss_type == "ipo" and label_smoothing:
        raise ValueError("标签平滑 (label_smoothing) 只用于 'sigmoid'；IPO 请保持为 0")


def log_odds_ratio(chosen_logps: torch.Tensor, rejected_logps: torch.Tensor) -> torch.Tensor:
    """log of odds(chosen) / odds(rejected), odds(y) = P(y) / (1 - P(y)); (batch,), *mean* log-probabilities.

    Hong et al. 2024 (ORPO), Eq. 4 and 5. Raises ValueError for differing shapes, NaN or inf, and for
    a log-probability that is not below 0 (P = 1 has no finite odds).
    """
    require_tensors(1, chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    for name, logps in (("chosen_logps", chosen_logps), ("rejected_logps", rejected_logps)):
        if (logps >= 0).any():
            raise ValueError(f"{name} 里有不小于 0 的值：对数概率应小于 0，P = 1 时几率 (odds) 是无穷大")
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
    Raises ValueError as `log_odds_ratio`, and for beta not above 0.
    """
    require_tensors(0, chosen_nll=chosen_nll)
    require_positive(beta=beta)
    return chosen_nll - beta * F.logsigmoid(log_odds_ratio(chosen_logps, rejected_logps))


def kto_reference_point(policy_kl_logps: torch.Tensor, ref_kl_logps: torch.Tensor) -> torch.Tensor:
    """Reference point z0 of KTO, a scalar >= 0 without gradient: mean of log pi/pi_ref.

    (batch,) summed log-probabilities of *mismatched* pairs: each prompt with another prompt's
    completion. A biased, cheap estimate of KL(pi || pi_ref) (Ethayarajh et al. 2024, section 4.1).
    Raises ValueError for differing shapes, NaN or inf.
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
    Raises ValueError for shapes that differ within a side, NaN or inf, beta or a weight not above 0.
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


def simpo_loss(
    chosen_logps: torch.Tensor, rejected_logps: torch.Tensor, beta: float, gamma: float
) -> torch.Tensor:
    """Losses of SimPO, one per pair: -log sigmoid(beta * (logp_chosen - logp_rejected) - gamma).

    Meng et al. 2024, Eq. 6. (batch,), log-probabilities *averaged* over tokens; no reference model.
    gamma >= 0 is the target margin. TRL: CPOTrainer with loss_type="simpo", cpo_alpha=0.
    Raises ValueError for differing shapes, NaN or inf, beta not above 0 and gamma below 0.
    """
    require_tensors(1, chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    require_positive(beta=beta)
    require_between(0, float("inf"), gamma=gamma)
    return -F.logsigmoid(beta * (chosen_logps - rejected_logps) - gamma)
