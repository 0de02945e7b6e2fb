"""Parts of rows: long rows in pieces, and no memory that waits for the garbage collector."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sharing_matrix import Case, Play, cases, start, trained

from decentralizepy.compression.base import Sparse
from decentralizepy.messages.message import Message
from decentralizepy.sharing import parts
from decentralizepy.sharing.parts import add_parts

CASES = {name: case for name, case in cases().items() if "-irregular-" in name}


def some(n: int, seed: int, shuffled: bool) -> Sparse:
    """Some numbers of a row [n], perhaps none or all; not ascending if ``shuffled``."""
    rng = np.random.default_rng([n, seed])
    indices = np.flatnonzero(rng.random(n) < rng.choice([0.0, 0.1, 0.5, 1.0]))
    indices = rng.permutation(indices) if shuffled else indices
    values = rng.standard_normal(len(indices)).astype(np.float32)
    return Sparse(torch.from_numpy(indices), torch.from_numpy(values), n)


@settings(max_examples=60)
@given(st.integers(0, 60), st.integers(0, 5), st.integers(1, 20), st.booleans())
def test_pieces_give_the_bits_of_whole_rows(n: int, count: int, piece: int, shuffled: bool) -> None:
    own = torch.randn(n, generator=torch.Generator().manual_seed(n))
    said = [(some(n, seed, shuffled), 0.1 * (seed + 1)) for seed in range(count)]
    expected = own.clone()
    for part, weight in said:
        change = part.values - own[part.indices]
        expected.index_add_(0, part.indices, change, alpha=weight)
    found = own.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_PIECE", piece)
        add_parts(found, own, said)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_was_said_and_heard_is_freed_at_once(case: Case) -> None:
    play, rows = Play(case.row.make, case.world), start(case.world)
    play.begin(rows)
    gc.disable()
    gc.freeze()  # what was there before is not looked at
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        play.round(trained(rows, 0), 0)
        play.said.clear()
        gc.collect()
        left = [type(one) for one in gc.garbage if isinstance(one, torch.Tensor | Message)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()
    assert not left
