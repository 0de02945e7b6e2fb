"""Stochastic rounding to a few levels of a bucket's norm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import Memory, ValueCoder, take
from decentralizepy.compression.bits import pack, unpack, whole
from decentralizepy.compression.draws import uniforms


class Qsgd(ValueCoder):
    """Q(x)_i = |v| sign(x_i) l_i / s for each bucket v of ``bucket`` numbers (Alistarh et al.,
    NeurIPS 2017, section 3.1): l_i is s |x_i| / |v|, rounded up or down at random so that the
    mean is right, s = ``levels``.

    E Q(x) = x and E |Q(x) - x|^2 <= omega |x|^2 with omega = min(d / s^2, sqrt(d) / s) for buckets
    of d numbers (lemma 3.1), so delta = 1 - omega where that is above 0. With ``unbiased = False``
    the result is divided by 1 + omega, which contracts always: delta = 1 / (1 + omega). A number
    takes ceil(log2(2 s + 1)) bits, a bucket a float32 for its norm.
    """

    name: ClassVar[str] = "qsgd"

    def __init__(self, *, levels: int = 127, bucket: int = 512, unbiased: bool = True) -> None:
        if not 1 <= levels < 1 << 22:
            raise ValueError(f"levels = {levels}: 1 to {(1 << 22) - 1} are expected")
        if bucket < 1:
            raise ValueError(f"bucket = {bucket}: at least 1 number is expected")
        self.levels, self.bucket, self.unbiased = levels, bucket, unbiased
        self.width = (2 * levels).bit_length()

    def encode(
        self, x: Tensor, rng: np.random.Generator, memory: Memory
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """The levels, counted from the lowest one, and the norms of the buckets."""
        rows = self._buckets(x)
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).to(torch.float32)
        unit = torch.where((norms > 0) & norms.isfinite(), norms, torch.inf)
        steps = rows.div(unit[:, None]).mul_(self.levels).view(-1)[: len(x)]
        steps += uniforms(len(x), rng, x.device)
        steps.floor_().clamp_(-self.levels, self.levels).add_(self.levels)
        return {"": pack(whole(steps, self.width), self.width), "norms": norms}, {}

    def decode(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], n: int) -> Tensor:
        steps = unpack(take(tensors, "", torch.uint8, None), n, self.width).to(torch.float32)
        norms = take(tensors, "norms", torch.float32, -(-n // self.bucket))
        scale = self.levels if self.unbiased else self.levels * (1 + self._bound(n))
        rows = self._buckets(steps.sub_(self.levels))
        return (rows * (norms / scale)[:, None]).view(-1)[:n]

    def _buckets(self, x: Tensor) -> Tensor:
        """The vector as rows of a bucket each, the last one filled up with zeros."""
        rest = -len(x) % self.bucket
        return (torch.nn.functional.pad(x, (0, rest)) if rest else x).view(-1, self.bucket)

    def _bound(self, n: int) -> float:
        d = min(n, self.bucket)
        return min(d / self.levels**2, math.sqrt(d) / self.levels)

    def contraction(self, n: int) -> float | None:
        bound = self._bound(n)
        if not self.unbiased:
            return 1 / (1 + bound)
        return 1 - bound if bound < 1 else None

    def variance(self, n: int) -> float | None:
        return self._bound(n) if self.unbiased else None
