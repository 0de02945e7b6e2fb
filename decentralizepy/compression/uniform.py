"""Numbers on a grid between the largest magnitude and its negative."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import Memory, ValueCoder, number, take
from decentralizepy.compression.bits import pack, unpack, whole


class Uniform(ValueCoder):
    """Rounds x_i / m to the nearest of the 2 k + 1 multiples of 1/k, with m = max |x_i| and k =
    ``levels``, in ceil(log2(2 k + 1)) bits.

    |C(x) - x|_i <= m / (2 k), and never more than |x_i|; the largest number stays as it is. So
    delta >= 1 - (n - 1) / (4 k^2), and >= 1/n. Decoded by m; the reference system decodes by the
    mean magnitude, which scales the numbers by mean / max.
    """

    name: ClassVar[str] = "uniform"

    def __init__(self, *, levels: int = 2**15 - 1) -> None:
        if not 1 <= levels < 1 << 22:
            raise ValueError(f"levels = {levels}: 1 to {(1 << 22) - 1} are expected")
        self.levels = levels
        self.width = (2 * levels).bit_length()

    def encode(
        self, x: Tensor, rng: np.random.Generator, memory: Memory
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """The multiples, counted from the lowest one, and the largest magnitude."""
        largest = float(x.abs().max()) if len(x) else 0.0
        steps = scaled(x, largest, self.levels).round_().add_(self.levels)
        return {"": pack(whole(steps, self.width), self.width)}, {"largest": largest}

    def decode(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], n: int) -> Tensor:
        steps = unpack(take(tensors, "", torch.uint8, None), n, self.width).to(torch.float32)
        return steps.sub_(self.levels).div_(self.levels).mul_(number(meta, "largest"))

    def contraction(self, n: int) -> float | None:
        return max(1 / n, 1 - (n - 1) / (4 * self.levels**2)) if n else 1.0


def scaled(x: Tensor, largest: float, levels: int) -> Tensor:
    """x / largest * levels in a tensor of its own, within -levels and levels; zeros for a vector of
    zeros, and for numbers that are not finite."""
    if not 0 < largest < float("inf"):
        return torch.zeros_like(x)
    return x.div(largest).mul_(levels).clamp_(-levels, levels)
