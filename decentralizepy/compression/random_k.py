"""Random numbers of a vector, named by a seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import CompressionError, Selector, count
from decentralizepy.compression.top_k import checked_share, number_of

_MOST: Final = (1 << 63) - 1


class RandomK(Selector):
    """k = round(alpha n) of the numbers, at least one, each set of k as likely as any other.

    The seed travels, not the indices: 8 bytes whatever k is. Without scaling
    E |C(x) - x|^2 = (1 - k/n) |x|^2 (Stich, Cordonnier & Jaggi, NeurIPS 2018, lemma A.1).
    """

    name: ClassVar[str] = "random_k"

    def __init__(self, *, alpha: float) -> None:
        self.alpha = checked_share(alpha)

    def select(self, x: Tensor, rng: np.random.Generator) -> tuple[Tensor, dict[str, Any] | None]:
        """The indices, and the seed that they come from."""
        seed, k = int(rng.integers(_MOST)), number_of(self.alpha, len(x))
        return drawn(seed, k, len(x)).to(x.device), {"seed": seed, "k": k}

    def again(self, meta: Mapping[str, Any], n: int) -> Tensor:
        """The same indices, in CPU memory."""
        k = number_of(self.alpha, n)
        if count(meta, "k", n) != k:
            raise CompressionError(f"{meta['k']} of {n} numbers; alpha = {self.alpha} gives {k}")
        return drawn(count(meta, "seed", _MOST), k, n)

    def contraction(self, n: int) -> float:
        return number_of(self.alpha, n) / n if n else 1.0


def drawn(seed: int, k: int, n: int) -> Tensor:
    """k of the numbers 0 to n - 1 in ascending order [k] int64, by a Philox generator."""
    rng = np.random.Generator(np.random.Philox(seed))
    if 2 * k > n:  # fewer are left out than taken
        chosen = np.ones(n, dtype=bool)
        chosen[rng.choice(n, n - k, replace=False, shuffle=False)] = False
    else:
        chosen = np.zeros(n, dtype=bool)
        chosen[rng.choice(n, k, replace=False, shuffle=False)] = True
    return torch.from_numpy(np.flatnonzero(chosen))
