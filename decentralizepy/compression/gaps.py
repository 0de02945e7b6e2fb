"""Indices as gaps, for a byte coder behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from decentralizepy.compression.base import CompressionError, IndexCoder, take


class Gaps(IndexCoder):
    """The first index, then what each is more than the one before, as int32 (int64 from 2^31
    numbers on). As wide as indices, but mostly zero bytes, which LZ4 packs."""

    name: ClassVar[str] = "gaps"

    def encode(self, indices: Tensor, n: int) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """One tensor [k]."""
        gaps = torch.diff(indices, prepend=indices.new_zeros(1))
        return {"": gaps.to(torch.int32 if n < 1 << 31 else torch.int64)}, {}

    def decode(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], n: int) -> Tensor:
        """The indices [k] int64 again."""
        gaps = take(tensors, "", None, None)
        if gaps.dtype not in (torch.int32, torch.int64) or len(gaps) > n:
            raise CompressionError(f"{len(gaps)} gaps of {gaps.dtype} among {n} numbers")
        if len(gaps) and (int(gaps.min()) < 0 or int(gaps.max()) > n):
            raise CompressionError(f"a gap that is negative, or more than the {n} numbers")
        return gaps.to(torch.int64).cumsum(0)
