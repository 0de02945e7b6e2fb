"""Indices as Golomb codes of the gaps between them."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, log, log1p, log2, sqrt
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import CompressionError, IndexCoder, count, take
from decentralizepy.compression.bits import WIDEST, pack, unpack

#: log(phi - 1), where phi is the golden ratio
_LOG_GOLDEN: Final = log((sqrt(5) - 1) / 2)


class Golomb(IndexCoder):
    """A gap g > 0 as (g - 1) >> b in unary and b bits (Golomb, IEEE Trans. Inf. Theory 12, 1966).

    b = 1 + floor(log2(log(phi - 1) / log(1 - p))) is best where each of n indices is there with
    probability p = k/n, independently; phi is the golden ratio. So sparse ternary compression
    sends positions (Sattler et al., arXiv 1903.02891), in b + 1 / (1 - (1 - p)^(2^b)) bits each on
    average: 4.8 for one in ten, 8.1 for one in a hundred. Unary parts come first, then the others,
    so that both are read without a loop.
    """

    name: ClassVar[str] = "golomb"

    def encode(self, indices: Tensor, n: int) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Two tensors of bytes: unary parts "" and the other bits "low"; and k."""
        below = torch.diff(indices.cpu(), prepend=torch.tensor([-1])) - 1
        bits = width(len(below), n)
        ends = ((below >> bits) + 1).cumsum(0).numpy() - 1
        unary = np.zeros(int(ends[-1]) + 1 if len(ends) else 0, dtype=np.uint8)
        unary[ends] = 1
        low = pack(below & ((1 << bits) - 1), bits)
        return {"": torch.from_numpy(np.packbits(unary)), "low": low}, {"k": len(below)}

    def decode(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], n: int) -> Tensor:
        """The indices again, in CPU memory."""
        k = count(meta, "k", n)
        bits = width(k, n)
        unary = take(tensors, "", torch.uint8, None).cpu().numpy()
        ends = np.flatnonzero(np.unpackbits(unary).view(bool))
        if len(ends) != k or len(unary) != (int(ends[-1]) // 8 + 1 if k else 0):
            raise CompressionError(f"not the gaps of {k} indices")
        high = np.diff(ends, prepend=-1) - 1
        if k and int(high.max()) > n >> bits:
            raise CompressionError(f"a gap of more than the {n} numbers")
        low = unpack(take(tensors, "low", torch.uint8, None).cpu(), k, bits)
        return ((torch.from_numpy(high) << bits) + low + 1).cumsum(0) - 1


def width(k: int, n: int) -> int:
    """The best b for ``k`` of ``n`` indices."""
    if not 0 < k < n:
        return 0
    return min(WIDEST, max(0, 1 + floor(log2(_LOG_GOLDEN / log1p(-k / n)))))
