"""What is wrong with an input is said by name and place."""

import math

import pytest
import torch

from lab_utils.align import validation
from lab_utils.errors import InvalidType, InvalidValue


@pytest.mark.parametrize("good", [1, 0.5, 1e-9])
def test_a_positive_number_passes(good):
    validation.require_positive(beta=good)


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf])
def test_what_is_not_positive_is_named(bad):
    with pytest.raises(InvalidValue, match="beta 应大于 0"):
        validation.require_positive(beta=bad)


def test_tensors_of_any_dimension_need_one_shape_only():
    validation.require_tensors(None, a=torch.zeros(2, 3, 4), b=torch.zeros(2, 3, 4))
    with pytest.raises(InvalidValue, match=r"a 是 \(2,\)，b 是 \(3,\)"):
        validation.require_tensors(None, a=torch.zeros(2), b=torch.zeros(3))
    with pytest.raises(InvalidType, match="b 应为张量"):
        validation.require_tensors(None, a=torch.zeros(2), b=[0, 0])


def test_a_mask_comes_back_in_the_dtype_of_the_values():
    values = torch.zeros(2, 2, dtype=torch.float64)
    mask = validation.require_mask(torch.tensor([[True, False], [True, True]]), values)
    assert mask.dtype == torch.float64 and mask.tolist() == [[1, 0], [1, 1]]
