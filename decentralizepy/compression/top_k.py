"""The numbers of largest magnitude."""

from __future__ import annotations

import operator
import timeit
from functools import cache, partial
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import Selector

#: bits of a magnitude below those that are counted first
_LOW: Final = 16
_RELATIONS: Final = {"ge": np.greater_equal, "eq": np.equal}


class TopK(Selector):
    """The k = round(alpha n) numbers of largest magnitude, at least one; of equals the first.

    |C(x) - x|^2 <= (1 - k/n) |x|^2 (Stich, Cordonnier & Jaggi, NeurIPS 2018, lemma A.1). NaN
    counts as larger than all. Reads the vector twice and writes its magnitudes once.
    """

    name: ClassVar[str] = "top_k"

    def __init__(self, *, alpha: float) -> None:
        self.alpha = checked_share(alpha)

    def select(self, x: Tensor, rng: np.random.Generator) -> tuple[Tensor, dict[str, Any] | None]:
        """The indices themselves; nothing is drawn."""
        return largest(x, number_of(self.alpha, len(x))), None

    def contraction(self, n: int) -> float:
        return number_of(self.alpha, n) / n if n else 1.0


def checked_share(alpha: float) -> float:
    """``alpha``, if it is more than 0 and at most 1."""
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha = {alpha}: a share above 0 and at most 1 is expected")
    return alpha


def number_of(alpha: float, n: int) -> int:
    """How many of ``n`` numbers a share is: rounded, at least one if there is any."""
    return min(n, max(1, round(alpha * n)))


def largest(x: Tensor, k: int) -> Tensor:
    """Ascending indices [k] int64 of the numbers of largest magnitude; of equals the first.

    The same on every device, and several times as fast as ``torch.topk``, which also leaves indices
    unsorted.
    """
    n = len(x)
    if k >= n:
        return torch.arange(n, device=x.device)
    size = magnitudes(x)
    threshold = _kth_largest(size, k)
    found = _where(size, "ge", threshold, about=k)
    if len(found) == k:
        return found
    equal = _where(size.index_select(0, found), "eq", threshold)
    kept = torch.ones(len(found), dtype=torch.bool, device=x.device)
    kept[equal[k - len(found) :]] = False
    return found[kept]


def magnitudes(x: Tensor) -> Tensor:
    """Whole numbers [n] int32 in the order of the magnitudes of ``x`` [n]; NaN comes last."""
    real = x.detach().abs() if x.is_complex() else x.detach()
    return real.to(torch.float32).contiguous().view(torch.int32) & 0x7FFFFFFF


def _kth_largest(size: Tensor, k: int) -> int:
    """The k-th largest of whole numbers [n] int32 from 0 to 2^31 - 1."""
    if size.device.type == "cpu" and _partitioning_is_faster():
        return _kth_by_partitioning(size, k)
    return _kth_by_counting(size, k)


@cache
def _partitioning_is_faster() -> bool:
    """Whether NumPy partitions faster than we count, on this processor.

    It does on an AMD Zen 5, whose vectors its partition makes good use of.
    """
    sample = torch.from_numpy(np.random.default_rng(0).integers(0, 1 << 30, 1 << 16, np.int32))
    counting, partitioning = (
        min(timeit.repeat(partial(way, sample, 1 << 12), number=1, repeat=5))
        for way in (_kth_by_counting, _kth_by_partitioning)
    )
    return partitioning < counting


def _kth_by_partitioning(size: Tensor, k: int) -> int:
    return int(np.partition(size.numpy(), len(size) - k)[len(size) - k])


def _kth_by_counting(size: Tensor, k: int) -> int:
    """By radix: a count of the leading 15 bits says where the k-th is, so that only those that
    share its bits have to be sorted out."""
    leading = size >> _LOW
    from_the_top = leading.bincount(minlength=1 << 15).flip(0).cumsum(0)
    at = int(torch.searchsorted(from_the_top, k))
    bits = (1 << 15) - 1 - at
    k -= int(from_the_top[at - 1]) if at else 0
    alike = size.index_select(0, _where(leading, "eq", bits))
    return int(alike.topk(k, sorted=False).values.min())


def _where(numbers: Tensor, relation: str, other: int, about: int = 0) -> Tensor:
    """Indices [k] int64 of the numbers in a relation to another; NumPy is faster at it.

    ``about``: how many there are, or a few less, if that is known.
    """
    if numbers.device.type != "cpu":
        return getattr(operator, relation)(numbers, other).nonzero().squeeze(1)
    n, extra = len(numbers), _padding(len(numbers), about)
    mask = np.empty(n + extra, dtype=bool)
    _RELATIONS[relation](numbers.numpy(), np.int32(other), out=mask[:n])
    mask[n:] = True
    found = np.flatnonzero(mask)
    return torch.from_numpy(found[: len(found) - extra])


def _padding(n: int, k: int) -> int:
    """How many ones to put behind ``n`` truth values of which ``k`` are ones, to find them sooner.

    NumPy looks for the next one while at most a tenth are ones, which a processor cannot foresee;
    where more are, it looks at each in turn, without a branch.
    """
    return (n - 10 * k) // 9 + 1 if n < 40 * k <= 4 * n else 0
