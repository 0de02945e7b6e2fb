"""Gaussian noise before anything else: what is sent has noise, what the sender keeps has not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import Front

#: numbers in a block; another count would draw other numbers
BLOCK: Final = 1 << 16


class Gaussian(Front):
    """x + N(0, std^2 I), drawn anew for each vector (or for each receiver, where a method has a
    message for each).

    It covers all numbers of the vector, the running statistics of BatchNorm too. All that follows
    in the chain works on the noisy vector, so it tells no more than that does. One draw and one
    pass over the vector.
    """

    name: ClassVar[str] = "gaussian"

    def __init__(self, *, std: float) -> None:
        self.std = checked_std(std, "std")

    def apply(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """The vector with noise, in a tensor of its own."""
        out = torch.empty_like(x)
        for at, drawn in normal_blocks(int(rng.integers(1 << 62)), x):
            torch.add(x[at], drawn, alpha=self.std, out=out[at])
        return out


def checked_std(std: float, name: str) -> float:
    """``std`` if it can be a standard deviation, else a ``ValueError``."""
    if not 0 <= std < math.inf:
        raise ValueError(f"{name} = {std}: a standard deviation, at least 0, is expected")
    return std


def normal_blocks(seed: int, like: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Standard normal numbers for the places of ``like`` [n]: a slice of them, and their values.

    Blocks take one small buffer, and are used while they are in the cache; the next block is drawn
    into the same buffer. A seed gives the same numbers on every device. Of a seed torch's generator
    takes the last 32 bits.
    """
    source = torch.Generator().manual_seed(seed)
    buffer = torch.empty(min(BLOCK, len(like)), dtype=like.dtype)
    for start in range(0, len(like), BLOCK):
        at = slice(start, min(start + BLOCK, len(like)))
        yield at, buffer[: at.stop - at.start].normal_(generator=source).to(like.device)
