"""All parts with some options, from which the tests are generated, and chains of all kinds."""

from __future__ import annotations

import functools

import numpy as np
import torch

from decentralizepy.chaintext import read_chain
from decentralizepy.compression.base import Part, Sparse
from decentralizepy.compression.chain import Chain, Packed

#: value coders
CODERS = (
    "fp16", "bf16", "uniform", "uniform(levels=1)", "uniform(levels=100)", "uniform(levels=127)",
    "qsgd", "qsgd(levels=1)", "qsgd(levels=7, bucket=16)", "qsgd(levels=200, unbiased=False)",
    "qsgd(levels=2, bucket=5, unbiased=False)", "scaled_sign", "low_rank(rank=2)", "low_rank",
    "fpzip", "fpzip(precision=8)", "fpzip(precision=12)", "fpzip(precision=16)",
)  # fmt: skip
SELECTORS = ("top_k(alpha=0.1)", "top_k(alpha=1)", "random_k(alpha=0.3)", "random_k(alpha=0.7)")
#: chains of several parts, as an INI writes them
CHAINS = (
    *CODERS,
    *SELECTORS,
    "lz4",
    "low_rank(rank=2) + fp16",
    "low_rank(rank=2) + uniform(levels=9)",
    "top_k(alpha=0.2) + fp16 + elias_gamma",
    "top_k(alpha=0.2) + qsgd + gaps + lz4(values=False)",
    "top_k(alpha=0.05) + golomb + scaled_sign",
    "random_k(alpha=0.2) + fpzip + lz4",
    "top_k(alpha=0.5) + scaled_sign + elias_gamma + lz4(indices=False)",
    "error_feedback + top_k(alpha=0.2) + bf16 + elias_gamma",
    "error_feedback + low_rank(rank=1) + fp16 + lz4",
    "gaussian(std=0) + error_feedback + random_k(alpha=0.4) + uniform",
)
#: chains for methods that choose coordinates themselves
BEHIND = (
    "",
    "fp16",
    "elias_gamma",
    "qsgd + elias_gamma + lz4",
    "fpzip + gaps",
    "lz4(values=False)",
)


read = functools.cache(lambda text: read_chain(text, "x") if text else [])


def chain(text: str) -> Chain:
    """A chain as the INI writes it."""
    return Chain(*(found.load()(**options) for found, options in read(text)))


def part(text: str) -> Part:
    """The only part of a chain."""
    (found,) = chain(text).parts
    return found


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def vector(n: int, kind: str = "normal", seed: int = 0) -> torch.Tensor:
    """Numbers [n] float32 of some kind."""
    drawn = torch.Generator().manual_seed(1000 * n + seed)
    normal = torch.randn(n, generator=drawn)
    return {
        "normal": normal,
        "zeros": torch.zeros(n),
        "equal": torch.full((n,), -0.3),
        "heavy": normal**5,
        "tiny": normal * 1e-30,
        "huge": normal * 1e30,
        "ternary": normal.sign() * (normal.abs() > 1),
    }[kind]


KINDS = ("normal", "zeros", "equal", "heavy", "tiny", "huge", "ternary")


def decoded(chain: Chain, packed: Packed, n: int) -> torch.Tensor:
    """The vector [n] that a receiver gets, zero where nothing is said."""
    found = chain.decompress(packed.tensors, packed.meta, n)
    return found.dense() if isinstance(found, Sparse) else found


def through(text: str, x: torch.Tensor, seed: int = 1) -> torch.Tensor:
    """What a vector becomes on its way, from one chain to another that was made alike."""
    return decoded(chain(text), chain(text).compress(x, rng(seed)), len(x))
