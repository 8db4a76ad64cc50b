"""Random tensors for cases: by a fixed number in visible ones, by a generator in hidden ones."""

from random import Random

import torch
from torch import Tensor


def normal(source: int | Random, *shape: int, scale: float = 1.0) -> Tensor:
    """Standard normal numbers times `scale`, float32; the same for the same seed or generator."""
    return scale * torch.randn(*shape, generator=_generator(source))


def normal64(source: int | Random, *shape: int) -> Tensor:
    """Standard normal numbers in float64; the same for the same seed or state of the generator."""
    return torch.randn(*shape, generator=_generator(source), dtype=torch.float64)


def _generator(source: int | Random) -> torch.Generator:
    seed = source if isinstance(source, int) else source.randrange(2**31)
    return torch.Generator().manual_seed(seed)
