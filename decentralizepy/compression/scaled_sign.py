"""One bit a number: its sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import Memory, ValueCoder, number, take
from decentralizepy.compression.bits import pack, unpack


class ScaledSign(ValueCoder):
    """C(x) = (|x|_1 / n) sign(x), with sign(0) = 1 (Karimireddy et al., ICML 2019, eq. 5).

    delta = |x|_1^2 / (n |x|_2^2), at least 1/n; about 2/pi for Gaussian numbers. The mean
    magnitude is added up in float64.
    """

    name: ClassVar[str] = "scaled_sign"

    def encode(
        self, x: Tensor, rng: np.random.Generator, memory: Memory
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """One bit a number, and the scale."""
        scale = float(x.abs().sum(dtype=torch.float64)) / len(x) if len(x) else 0.0
        return {"": pack(x < 0, 1)}, {"scale": scale}

    def decode(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], n: int) -> Tensor:
        negative = unpack(take(tensors, "", torch.uint8, None), n, 1)
        return (1.0 - 2.0 * negative.to(torch.float32)).mul_(number(meta, "scale"))

    def contraction(self, n: int) -> float | None:
        return 1 / n if n else 1.0
