"""Bits and Elias codes against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decentralizepy.compression import bits
from decentralizepy.compression.base import CompressionError
from decentralizepy.compression.elias_gamma import EliasGamma
from decentralizepy.compression.golomb import Golomb


@settings(max_examples=100)
@given(st.integers(1, bits.WIDEST), st.integers(0, 70), st.integers(0, 1 << 30))
def test_numbers_of_one_width_come_back(width: int, n: int, seed: int) -> None:
    numbers = torch.from_numpy(np.random.default_rng(seed).integers(0, 1 << width, n))
    data = bits.pack(numbers, width)
    assert len(data) == bits.packed_bytes(n, width) and data.dtype == torch.uint8
    assert n * width / 8 <= len(data) < n * width / 8 + 4
    assert torch.equal(bits.unpack(data, n, width).to(torch.int64), numbers)
    with pytest.raises(CompressionError):
        bits.unpack(torch.cat([data, data[:1], data.new_zeros(1)]), n, width)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 63), max_size=300), st.integers(0, 1 << 30), st.data())
def test_numbers_of_any_width_come_back(widths: list[int], seed: int, data) -> None:
    drawn = np.random.default_rng(seed)
    numbers = np.array(
        [drawn.integers(0, 1 << w, dtype=np.uint64) for w in widths], dtype=np.uint64
    )
    width = np.array(widths, dtype=np.int64)
    joined, cut = bits.Joined(sum(widths)), data.draw(st.integers(0, len(widths)))
    for part in (slice(0, cut), slice(cut, None)):
        if widths[part]:
            joined.add(numbers[part], width[part])
    found = joined.data
    text = "".join(
        f"{int(v):0{w}b}"[::-1] if w else "" for v, w in zip(numbers, widths, strict=True)
    )
    assert len(found) == -(-len(text) // 8)
    plain = [int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8)]
    assert found.tolist() == plain, "one behind the other, from the lowest bit on"
    if widths:
        assert np.array_equal(bits.Joined(sum(widths), found).take(width), numbers)
    with pytest.raises(CompressionError, match="bits"):
        bits.Joined(sum(widths) + 8, found)


@settings(max_examples=100)
@given(st.sets(st.integers(0, 3000)), st.integers(3001, 1 << 40))
def test_elias_codes_come_back_and_are_as_long_as_the_classical_ones(places, n) -> None:
    indices = torch.tensor(sorted(places), dtype=torch.int64)
    tensors, meta = EliasGamma().encode(indices, n)
    assert torch.equal(EliasGamma().decode(tensors, meta, n), indices)
    gaps = np.diff(indices.numpy(), prepend=-1).tolist()
    classical = sum(2 * (gap.bit_length() - 1) + 1 for gap in gaps)
    assert classical <= 8 * sum(t.nbytes for t in tensors.values()) < classical + 16


@settings(max_examples=60)
@given(st.sets(st.integers(0, 3000)), st.integers(3001, 100_000))
def test_golomb_codes_come_back(places, n) -> None:
    indices = torch.tensor(sorted(places), dtype=torch.int64)
    tensors, meta = Golomb().encode(indices, n)
    assert torch.equal(Golomb().decode(tensors, meta, n), indices)


def test_elias_codes_span_blocks_and_large_gaps() -> None:
    n = 1 << 50
    drawn = np.random.default_rng(1)
    indices = torch.from_numpy(np.unique(drawn.integers(0, n, 70_000)))
    tensors, meta = EliasGamma().encode(indices, n)
    assert torch.equal(EliasGamma().decode(tensors, meta, n), indices)
    dense = torch.arange(100_000)
    tensors, meta = EliasGamma().encode(dense, 100_000)
    assert sum(t.nbytes for t in tensors.values()) == 12_500, "one bit each"
    assert torch.equal(EliasGamma().decode(tensors, meta, 100_000), dense)
    with pytest.raises(CompressionError, match="a gap of more than"):
        EliasGamma().decode(*EliasGamma().encode(indices, n), 70_000)


def test_indices_stay_as_they_are() -> None:
    """The reference's sorts them in place."""
    indices = torch.tensor([3, 5, 90])
    EliasGamma().encode(indices, 100)
    assert indices.tolist() == [3, 5, 90]
