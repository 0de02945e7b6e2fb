"""Noise in front of a chain."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from decentralizepy.compression.base import Front
from decentralizepy.compression.draws import normals


class Gaussian(Front):
    """Sends x + z with z ~ N(0, std^2 I), drawn anew for each message; the node keeps x.

    Being first, it is compressed with the vector, and error feedback never sees a vector without
    it. Methods whose noise cancels or stays in the node's own row are sharing methods.
    """

    name: ClassVar[str] = "gaussian"

    def __init__(self, *, std: float) -> None:
        if not 0 <= std < float("inf"):
            raise ValueError(f"std = {std}: a standard deviation of at least 0 is expected")
        self.std = std

    def apply(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        noise = normals(len(x), rng, x.device)
        return noise.mul_(self.std).add_(x) if x.dtype == noise.dtype else x + self.std * noise
