"""Indices as Elias gamma codes of the gaps between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import CompressionError, IndexCoder, count, take
from decentralizepy.compression.bits import Joined

_BLOCK: Final = 1 << 14
#: bits of a gap below its highest, at most: `_log2` is exact so far
_LONGEST: Final = 52


class EliasGamma(IndexCoder):
    """A gap g > 0 in 2 floor(log2 g) + 1 bits (Elias, IEEE Trans. Inf. Theory 21, 1975).

    The first gap is the first index and one. The unary halves of all codes come first, then the
    binary ones, so that both are read without a loop; the number of bits is that of the classical
    order. For one number in ten, indices take 5.7 bits each instead of 32.
    """

    name: ClassVar[str] = "elias_gamma"

    def encode(self, indices: Tensor, n: int) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Two tensors of bytes: lengths "" and the bits below the highest "low"; and k."""
        chosen = indices.cpu().numpy()
        below = np.empty(len(chosen), dtype=np.int8)
        for block in _blocks(len(chosen)):
            below[block] = _log2(_gaps(chosen, block))
        joined = Joined(int(below.sum(dtype=np.int64)))
        for block in _blocks(len(chosen)):
            highest = np.int64(1) << below[block].astype(np.int64)
            joined.add((_gaps(chosen, block) ^ highest).view(np.uint64), below[block])
        return {"": _tensor(_unary(below)), "low": _tensor(joined.data)}, {"k": len(chosen)}

    def decode(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], n: int) -> Tensor:
        """The indices again, in CPU memory."""
        k = count(meta, "k", n)
        unary = take(tensors, "", torch.uint8, None).cpu().numpy()
        below = _lengths(unary, k)
        low = take(tensors, "low", torch.uint8, None).cpu().numpy()
        joined = Joined(int(below.sum(dtype=np.int64)), low)
        indices, last = np.empty(k, dtype=np.int64), -1
        for block in _blocks(k):
            gaps = joined.take(below[block]).view(np.int64)
            gaps |= np.int64(1) << below[block].astype(np.int64)
            if int(gaps.max()) > n:
                raise CompressionError(f"a gap of more than the {n} numbers")
            np.cumsum(gaps, out=indices[block])
            indices[block] += last
            last = int(indices[block][-1])
        return torch.from_numpy(indices)


def _blocks(k: int) -> Iterator[slice]:
    """Parts of k numbers, so that what is made of them stays in the processor's cache."""
    return (slice(at, at + _BLOCK) for at in range(0, k, _BLOCK))


def _gaps(ascending: np.ndarray, block: slice) -> np.ndarray:
    """What each number of a block is more than the one before, the first of all more than -1."""
    before = ascending[block.start - 1] if block.start else -1
    return np.diff(ascending[block], prepend=before)


def _log2(gaps: np.ndarray) -> np.ndarray:
    """floor(log2 g) of whole numbers from 1 to 2^53: the exponent of a float64."""
    return (gaps.astype(np.float64).view(np.int64) >> 52) - 1023


def _unary(below: np.ndarray) -> np.ndarray:
    """As many zeros as each number says, and a one behind them, as bytes."""
    ones = np.zeros(int(below.sum(dtype=np.int64)) + len(below), dtype=np.uint8)
    last = -1
    for block in _blocks(len(below)):
        ends = np.cumsum(below[block] + np.int8(1), dtype=np.int64) + last
        ones[ends] = 1
        last = int(ends[-1])
    return np.packbits(ones)


def _lengths(unary: np.ndarray, k: int) -> np.ndarray:
    """The k numbers [k] int8 that `_unary` was given; raises `CompressionError`."""
    ends = np.flatnonzero(np.unpackbits(unary).view(bool))
    if len(ends) != k or len(unary) != (-(-(int(ends[-1]) + 1) // 8) if k else 0):
        raise CompressionError(f"not the lengths of {k} gaps")
    below = np.empty(k, dtype=np.int8)
    for block in _blocks(k):
        zeros = _gaps(ends, block) - 1
        if int(zeros.max()) > _LONGEST:
            raise CompressionError(f"a gap of more than {_LONGEST} bits")
        below[block] = zeros
    return below


def _tensor(data: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(data))
