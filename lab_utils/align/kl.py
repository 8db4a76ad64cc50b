"""KL divergence of a policy from its reference, estimated token by token: Schulman's k1, k2 and k3.

Tensors of tokens are (batch, time) with a mask of the same shape: 1 for a token of the completion,
0 for padding. What stands under a 0 is never used, but must be finite.
"""

import torch

from lab_utils.align.validation import require_tensors


def kl_k1(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """Estimate k1 of KL(pi || pi_ref) per token: log pi - log pi_ref. Unbiased; noisy; may be negative.

    Tokens sampled from pi. Any shape, the same for both. Schulman 2020, "Approximating KL
    divergence", as are k2 and k3. All raise InvalidValue for differing shapes, NaN or inf.
    """
    require_tensors(None, logps=logps, ref_logps=ref_logps)
    return logps - ref_logps


def kl_k2(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """Estimate k2 per token: (log pi - log pi_ref)^2 / 2. Biased; low variance; never negative."""
    require_tensors(None, logps=logps, ref_logps=ref_logps)
    return (logps - ref_logps) ** 2 / 2


def kl_k3(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """Estimate k3 per token: r - 1 - log r with r = pi_ref / pi. Unbiased and never negative.

    The one that GRPO subtracts (Shao et al. 2024, DeepSeekMath, Eq. 4).
    """
    require_tensors(None, logps=logps, ref_logps=ref_logps)
    log_ratio = ref_logps - logps
    return torch.expm1(log_ratio) - log_ratio
