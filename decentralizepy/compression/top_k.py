"""The numbers of largest magnitude."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import Selector


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

    The same on every device: only the k-th magnitude is sought by a library's selection.
    """
    n = len(x)
    if k >= n:
        return torch.arange(n, device=x.device)
    size = magnitudes(x)
    threshold = _kth_largest(size, k)
    above = (size > threshold).nonzero().squeeze(1)
    if len(above) == k:
        return above
    equal = (size == threshold).nonzero().squeeze(1)[: k - len(above)]
    return torch.cat([above, equal]).sort().values


def magnitudes(x: Tensor) -> Tensor:
    """Whole numbers [n] int32 in the order of the magnitudes of ``x`` [n]; NaN comes last."""
    return x.detach().to(torch.float32).view(torch.int32) & 0x7FFFFFFF


def _kth_largest(size: Tensor, k: int) -> int:
    if size.device.type == "cpu":
        return int(np.partition(size.numpy(), len(size) - k)[len(size) - k])
    return int(size.topk(k, sorted=False).values.min())
