"""Numbers in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import Memory, ValueCoder, take


class Fp16(ValueCoder):
    """Rounds to the nearest IEEE half: 2 bytes a number, |C(x) - x| <= 2^-11 |x| for magnitudes
    from 6.1e-5 to 65504.

    Smaller ones lose at most 3e-8, larger ones become 65504 instead of infinite. So it contracts
    by delta = 1 - 2^-22 within that range, and never lets a vector grow.
    """

    name: ClassVar[str] = "fp16"

    def encode(
        self, x: Tensor, rng: np.random.Generator, memory: Memory
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """One tensor [n] float16."""
        most = torch.finfo(torch.float16).max
        return {"": x.clamp(-most, most).to(torch.float16)}, {}

    def decode(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], n: int) -> Tensor:
        return take(tensors, "", torch.float16, n).to(torch.float32)
