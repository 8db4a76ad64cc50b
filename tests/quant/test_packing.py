"""Two codes a byte."""

import pytest
import torch

from lab_utils import quant


def test_packing_puts_the_first_code_into_the_high_half():
    assert quant.pack(torch.tensor([1, 2, 15, 0], dtype=torch.uint8)).tolist() == [0x12, 0xF0]
    assert quant.pack(torch.tensor([9], dtype=torch.uint8)).tolist() == [0x97]


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_unpack_is_the_inverse_of_pack(count):
    codes = torch.randint(0, 16, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    assert torch.equal(quant.unpack(quant.pack(codes), count), codes)


def test_unpack_refuses_more_than_there_is():
    with pytest.raises(ValueError, match="取不出 5 个"):
        quant.unpack(torch.zeros(2, dtype=torch.uint8), 5)
