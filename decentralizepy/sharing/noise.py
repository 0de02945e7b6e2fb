"""Gaussian noise on rows, for the methods that add some: each draw from a named stream.

Noise covers the parameters of a row, never its buffers: a variance of BatchNorm with noise on it
may be negative. Buffers travel as they are, and they are averages over the node's samples: a model
that is to keep them private has no BatchNorm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from torch import Tensor

from decentralizepy.sharing.context import Context

#: numbers in a block; another count would draw other numbers
BLOCK: Final = 1 << 16


def level(noise_std: float) -> float:
    """``noise_std`` if it can be a standard deviation, else a ``ValueError``."""
    if not 0 <= noise_std < math.inf:
        raise ValueError(f"noise_std = {noise_std}: a standard deviation, at least 0, is expected")
    return noise_std


def seed_of(stream: np.random.Generator, sharing_seed: int) -> int:
    """Seed of a draw: ``sharing_seed`` gives other noise to a run that is else the same."""
    return int(stream.integers(1 << 62)) ^ (sharing_seed & 0xFFFFFFFF)


def blocks(seed: int, like: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Standard normal numbers for the places of ``like`` [n]: a slice of them, and their values.

    Blocks take one small buffer, and are used while they are in the cache; the next block is drawn
    into the same buffer. A seed gives the same numbers on every device. Of a seed torch's generator
    takes the last 32 bits.
    """
    source = torch.Generator().manual_seed(seed)
    buffer = torch.empty(min(BLOCK, len(like)), dtype=like.dtype)
    for start in range(0, len(like), BLOCK):
        at = slice(start, min(start + BLOCK, len(like)))
        yield at, buffer[: at.stop - at.start].normal_(generator=source).to(like.device)


def add(row: Tensor, factor: float, seed: int) -> None:
    """row += factor * Y with Y standard normal, in one pass."""
    for at, drawn in blocks(seed, row):
        row[at].add_(drawn, alpha=factor)


def noised(x: Tensor, ctx: Context, noise_std: float, seed: int) -> Tensor:
    """A row x + N(0, noise_std^2 I), in memory that travels without a copy where there is some."""
    out = ctx.out
    out = torch.empty_like(x) if out is None else out
    out[ctx.n_parameters :] = x[ctx.n_parameters :]
    for at, drawn in blocks(seed, x[: ctx.n_parameters]):
        torch.add(x[at], drawn, alpha=noise_std, out=out[at])
    return out
