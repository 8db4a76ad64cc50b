"""Means and variances over the tokens that a mask keeps.

Tensors of tokens are (batch, time) with a mask of the same shape: 1 for a token of the completion,
0 for padding. What stands under a 0 is never used, but must be finite.
"""

import torch

from lab_utils.align.validation import require_mask
from lab_utils.errors import InvalidValue


def masked_mean(values: torch.Tensor, mask: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Mean of `values` where `mask` is 1, over everything or along `dim`.

    As `masked_mean` of TRL's PPO. Raises InvalidValue for differing shapes, a mask that isn't 0/1, and
    when there is nothing to take the mean of.
    """
    mask = require_mask(mask, values)
    count = mask.sum() if dim is None else mask.sum(dim)
    if (count == 0).any():
        raise InvalidValue("mask 有一行全是 0：这一行没有要计入的词元，没有平均数可求", "先去掉这样的行")
    total = values * mask
    return (total.sum() if dim is None else total.sum(dim)) / count


def whiten(values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
    """`values` scaled to variance 1 (and mean 0) over the places where `mask` is 1; same shape.

    Unbiased variance, + 1e-8, as `masked_whiten` of TRL's PPO. With shift_mean=False the mean stays.
    Raises InvalidValue as `masked_mean`, and for fewer than 2 places.
    """
    weights = require_mask(mask, values, least=2)
    mean = masked_mean(values, mask)
    variance = ((values - mean) ** 2 * weights).sum() / (weights.sum() - 1)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return whitened if shift_mean else whitened + mean
