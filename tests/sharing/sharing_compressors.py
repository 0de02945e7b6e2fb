"""The table of compressors that may follow a method: a chain, and the same once more in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from decentralizepy.compression.chain import Chain
from decentralizepy.compression.error_feedback import ErrorFeedback
from decentralizepy.compression.fp16 import Fp16
from decentralizepy.compression.gaussian import Gaussian
from decentralizepy.compression.top_k import TopK

Vector = NDArray[np.float64]
#: (what is said, its stream) -> what is heard, and where anything is
Heard = tuple[Vector, NDArray[np.bool_]]
Reference = Callable[[Vector, np.random.Generator], Heard]


@dataclass(frozen=True)
class Compressor:
    """A chain for each node; ``reference()`` is one series of vectors, from a node to others."""

    name: str
    chain: Callable[[], Chain]
    reference: Callable[[], Reference]
    #: how far numbers may be off, relative: what a rounding that falls elsewhere makes
    tolerance: float = 0.0
    #: bytes of a message of n numbers, at most, beside its header; None: not known beforehand
    nbytes: Callable[[int], float] = lambda n: 8.0 * n


def everything(x: Vector) -> Heard:
    return x, np.ones(len(x), dtype=bool)


def half(x: Vector) -> Vector:
    return x.astype(np.float16).astype(np.float64)


def largest(share: float) -> Reference:
    def reference(x: Vector, rng: np.random.Generator) -> Heard:
        mask = np.zeros(len(x), dtype=bool)
        mask[np.argsort(-np.abs(x), kind="stable")[: max(1, round(share * len(x)))]] = True
        return x, mask

    return reference


def noisy(std: float) -> Reference:
    def reference(x: Vector, rng: np.random.Generator) -> Heard:
        source = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        y = torch.empty(len(x)).normal_(generator=source).double().numpy()
        return everything(x + std * y)

    return reference


def feedback() -> Reference:
    """Halves, whose rounding error is added to the next vector."""
    residual: list[Vector] = [np.zeros(1)]

    def reference(x: Vector, rng: np.random.Generator) -> Heard:
        corrected = x + residual[0]
        residual[0] = corrected - half(corrected)
        return everything(half(corrected))

    return reference


COMPRESSORS: Mapping[str, Compressor] = {
    one.name: one
    for one in (
        Compressor("none", Chain, lambda: lambda x, rng: everything(x)),
        Compressor("top_k", lambda: Chain(TopK(alpha=0.3)), lambda: largest(0.3),
                   nbytes=lambda n: 0.3 * n * 8 + 8),
        Compressor("fp16", lambda: Chain(Fp16()), lambda: lambda x, rng: everything(half(x)),
                   tolerance=3e-3, nbytes=lambda n: 2.0 * n),
        Compressor("feedback", lambda: Chain(ErrorFeedback(), Fp16()), feedback, tolerance=3e-3,
                   nbytes=lambda n: 2.0 * n),
        Compressor("noise and top_k", lambda: Chain(Gaussian(std=0.5), TopK(alpha=0.5)),
                   lambda: _then(noisy(0.5), largest(0.5)), nbytes=lambda n: 0.5 * n * 8 + 8),
    )
}  # fmt: skip


def _then(first: Reference, second: Reference) -> Reference:
    return lambda x, rng: second(first(x, rng)[0], rng)
