"""Which samples a node trains on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.errors import ConfigError
from decentralizepy.pernode import PerNode
from decentralizepy.training.training import Training

counts = st.integers(1, 50)


@given(n=counts, rounds=st.integers(0, 6), batch=counts, shuffle=st.booleans(), t=counts)
def test_mini_batches(n: int, rounds: int, batch: int, shuffle: bool, t: int) -> None:
    draw = Training(rounds=rounds, batch_size=batch, shuffle=shuffle).draw(n, 1, 2, t)
    assert len(draw.sizes) == rounds
    assert sum(draw.sizes) == len(draw.order)
    assert all(1 <= size <= min(batch, n) for size in draw.sizes)
    assert draw.order.size == 0 or (draw.order.min() >= 0 and draw.order.max() < n)
    if len(draw.order) <= n:
        assert shuffle is False or len(set(draw.order.tolist())) == len(draw.order)


@given(n=counts, batch=counts, epochs=st.integers(1, 3), shuffle=st.booleans())
def test_full_epochs_see_every_sample(n: int, batch: int, epochs: int, shuffle: bool) -> None:
    training = Training(rounds=epochs, full_epochs=True, batch_size=batch, shuffle=shuffle)
    draw = training.draw(n, 1, 2, 3)
    assert np.bincount(draw.order, minlength=n).tolist() == [epochs] * n
    assert len(draw.sizes) == epochs * -(-n // batch)


@given(n=counts, batch=counts, rounds=st.integers(1, 5))
def test_without_shuffling_iterations_follow_each_other(n: int, batch: int, rounds: int) -> None:
    """Iteration after iteration the epoch goes on; no sample is forgotten."""
    training = Training(rounds=rounds, batch_size=batch)
    iterations = -(-n // batch)
    draws = [training.draw(n, 1, 2, t) for t in range(iterations)]
    order = np.concatenate([draw.order for draw in draws])
    expected = np.concatenate([np.arange(n)] * rounds)
    assert order.tolist() == expected.tolist()


def test_draws_are_named_by_seed_node_and_iteration() -> None:
    training = Training(rounds=2, batch_size=5, shuffle=True)
    first = training.draw(100, 1, 2, 3).order.tolist()
    assert first == training.draw(100, 1, 2, 3).order.tolist()
    others = [(2, 2, 3), (1, 3, 3), (1, 2, 4)]
    assert all(first != training.draw(100, *name).order.tolist() for name in others)


@given(
    n=counts,
    rounds=st.lists(st.integers(0, 6), min_size=3, max_size=3),
    batches=st.lists(counts, min_size=3, max_size=3),
    full_epochs=st.booleans(),
    shuffle=st.booleans(),
)
def test_each_node_draws_as_if_its_numbers_were_everybodys(
    n: int, rounds: list[int], batches: list[int], full_epochs: bool, shuffle: bool
) -> None:
    flags = {"full_epochs": full_epochs, "shuffle": shuffle}
    each = [PerNode(dict(enumerate(values))) for values in (rounds, batches)]
    training = Training(rounds=each[0], batch_size=each[1], **flags)
    for uid in range(3):
        alone = Training(rounds=rounds[uid], batch_size=batches[uid], **flags)
        ours, theirs = (one.draw(n, 1, uid, 4) for one in (training, alone))
        assert ours.order.tolist() == theirs.order.tolist() and ours.sizes == theirs.sizes
        assert training.steps(n, uid) == len(ours.sizes)
        assert bool(training.remark(n, uid)) == (n < batches[uid])


@pytest.mark.parametrize(
    "options",
    [
        {"rounds": -1},
        {"batch_size": 0},
        {"stacked": "maybe"},
        {"on_nan": "ignore"},
        {"rounds": PerNode({0: 1, 1: -1})},
    ],
)
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match="TRAIN_PARAMS"):
        Training(**options)
