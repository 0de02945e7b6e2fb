"""Golomb codes of gaps against the classical code, and complex numbers in chains."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compression_table import chain, rng
from hypothesis import given, settings
from hypothesis import strategies as st

from decentralizepy.compression.base import CompressionError, Sparse
from decentralizepy.compression.golomb import Golomb, width


def bits(indices: torch.Tensor, n: int) -> int:
    """Bits of the classical code."""
    b = width(len(indices), n)
    gaps = np.diff(indices.numpy(), prepend=-1).tolist()
    return sum(((gap - 1) >> b) + 1 + b for gap in gaps)


@settings(max_examples=100)
@given(st.sets(st.integers(0, 3000)), st.integers(3001, 1 << 40))
def test_codes_come_back_and_are_as_long_as_the_classical_ones(places: set[int], n: int) -> None:
    indices = torch.tensor(sorted(places), dtype=torch.int64)
    tensors, meta = Golomb().encode(indices, n)
    assert torch.equal(Golomb().decode(tensors, meta, n), indices)
    sent = 8 * sum(tensor.nbytes for tensor in tensors.values())
    assert bits(indices, n) <= sent < bits(indices, n) + 8 + 6 * 8  # bytes by parts of a number


@pytest.mark.parametrize("n", [0, 1, 2, 7, 64])
def test_all_indices_take_a_bit_each(n: int) -> None:
    tensors, meta = Golomb().encode(torch.arange(n), n)
    assert sum(tensor.nbytes for tensor in tensors.values()) == math.ceil(n / 8)
    assert torch.equal(Golomb().decode(tensors, meta, n), torch.arange(n))


@pytest.mark.parametrize("share", [0.5, 0.1, 0.03, 0.01, 0.001])
def test_the_width_is_the_best_one_and_the_mean_length_is_the_formula(share: float) -> None:
    n = 400_000
    k = round(share * n)

    def mean(b: int) -> float:
        return b + 1 / (1 - (1 - share) ** (2**b))

    b = width(k, n)
    assert mean(b) == min(mean(other) for other in range(20))
    indices = torch.from_numpy(np.sort(rng().choice(n, k, replace=False)))
    assert bits(indices, n) / k == pytest.approx(mean(b), rel=0.01)


def test_damaged_codes_are_refused() -> None:
    tensors, meta = Golomb().encode(torch.tensor([3, 500, 900]), 1000)
    for damaged, its in (
        (tensors, {"k": 4}),
        (tensors, {}),
        ({**tensors, "": torch.zeros(9, dtype=torch.uint8)}, meta),
        ({**tensors, "low": tensors["low"][1:]}, meta),
        ({"": tensors[""]}, meta),
    ):
        with pytest.raises(CompressionError):
            Golomb().decode(damaged, its, 1000)
    far = torch.from_numpy(np.packbits(np.array([0] * 999 + [1], dtype=np.uint8)))
    with pytest.raises(CompressionError, match="gap"):
        Golomb().decode({"": far, "low": torch.zeros(2, dtype=torch.uint8)}, {"k": 1}, 1000)


@pytest.mark.parametrize("text", ["", "fp16", "fpzip + golomb", "lz4", "bf16 + elias_gamma + lz4"])
def test_complex_numbers_go_through_chains(text: str) -> None:
    numbers = torch.randn(60, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    some = torch.tensor([1, 4, 59])
    for said in numbers, Sparse(some, numbers[some], 60):
        packed = chain(text).compress(said, rng())
        found = chain(text).decompress(packed.tensors, packed.meta, 60)
        pair = (
            (found, numbers) if isinstance(found, torch.Tensor) else (found.values, numbers[some])
        )
        torch.testing.assert_close(*pair, rtol=1e-2, atol=1e-2)
