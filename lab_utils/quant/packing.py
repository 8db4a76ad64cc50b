"""Two 4-bit codes in a byte, and taken out again."""

import torch
from torch import Tensor

from lab_utils.errors import InvalidValue


def pack(codes: Tensor) -> Tensor:
    """Two 4-bit codes a byte, the first in the high half: (n,) uint8 to (ceil(n / 2),) uint8.

    codes: 0 to 15. An odd number of them is filled up with 7, the code of 0 in NF4.
    """
    if codes.numel() % 2:
        codes = torch.cat([codes, codes.new_full((1,), 7)])
    return (codes[0::2] << 4) | codes[1::2]


def unpack(packed: Tensor, count: int) -> Tensor:
    """The first `count` codes out of `packed`: the inverse of `pack`; (count,) uint8.

    Raises ValueError when there are fewer than `count`.
    """
    if not 0 <= count <= 2 * packed.numel():
        raise InvalidValue(
            f"{packed.numel()} 个字节里有 {2 * packed.numel()} 个编码 (codes)，取不出 {count} 个"
        )
    return torch.stack([packed >> 4, packed & 15], dim=1).view(-1)[:count]
