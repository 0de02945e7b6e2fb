"""Numbers in bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import Memory, ValueCoder, take


class Bf16(ValueCoder):
    """Rounds to the nearest bfloat16: 2 bytes a number in the range of float32, with
    |C(x) - x| <= 2^-8 |x|, so delta = 1 - 2^-16 for magnitudes from 1.2e-38."""

    name: ClassVar[str] = "bf16"

    def encode(
        self, x: Tensor, rng: np.random.Generator, memory: Memory
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """One tensor [n] bfloat16."""
        most = torch.finfo(torch.bfloat16).max
        return {"": x.clamp(-most, most).to(torch.bfloat16)}, {}

    def decode(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], n: int) -> Tensor:
        return take(tensors, "", torch.bfloat16, n).to(torch.float32)
