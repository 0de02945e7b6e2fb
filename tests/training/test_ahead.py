"""What many nodes draw at once is what each one's own generator gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentralizepy.pernode import PerNode
from decentralizepy.streams import PURPOSES, generator, words
from decentralizepy.training import ahead
from decentralizepy.training.ahead import Ahead
from decentralizepy.training.batches import Batches
from decentralizepy.training.draws import choices, expected_numbers, halves, permutations
from decentralizepy.training.learner import Learner
from decentralizepy.training.training import Training

SEED = 11
sizes = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@given(
    seed=st.integers(0, (1 << 64) - 1),
    uids=st.lists(st.integers(-5, 1 << 40), min_size=1, max_size=3),
    purpose=st.sampled_from(sorted(PURPOSES)),
    ts=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=3),
    n=st.integers(1, 11),
)
def test_words_are_those_of_each_generator(
    seed: int, uids: list[int], purpose: str, ts: list[int], n: int
) -> None:
    found = words(seed, uids, purpose, ts, n)
    for i, uid in enumerate(uids):
        for j, t in enumerate(ts):
            expected = generator(seed, uid, purpose, t).bit_generator.random_raw(n)
            assert found[i, j].tolist() == expected.tolist()


def numbers(count: int, n: int) -> np.ndarray:
    """The 32-bit numbers of the streams of nodes 0 to ``count`` - 1."""
    return halves(words(SEED, range(count), "batches", [3], -(-n // 2)).reshape(count, -1))


@given(n=sizes, k=st.integers(1, 60))
def test_choices_are_numpys(n: list[int], k: int) -> None:
    n = [max(k, one) for one in n]
    found, redo = choices(np.array(n), k, numbers(len(n), 2 * k))
    for uid, one in enumerate(n):
        expected = generator(SEED, uid, "batches", 3).choice(one, k, replace=False)
        assert redo[uid] or found[uid].tolist() == expected.tolist()
    assert redo.mean() < 0.1


@given(n=sizes, epochs=st.integers(1, 4))
def test_permutations_are_numpys(n: list[int], epochs: int) -> None:
    found, redo = permutations(
        np.array(n), epochs, numbers(len(n), expected_numbers(max(n), epochs))
    )
    for uid, one in enumerate(n):
        rng = generator(SEED, uid, "batches", 3)
        expected = np.concatenate([rng.permutation(one) for _ in range(epochs)])
        assert redo[uid] or found[uid, : len(expected)].tolist() == expected.tolist()
    assert redo.sum() <= 1


def test_rejected_and_unfinished_streams_are_marked() -> None:
    """A number that Lemire's method rejects, and too few numbers for a permutation."""
    zeros = np.zeros((8, 1), dtype=np.uint64)
    assert choices(np.array([7]), 2, zeros)[1].tolist() == [True], "2**32 % 6 = 4 are rejected"
    assert choices(np.array([7]), 2, zeros + 9)[1].tolist() == [False]
    worst = np.full((8, 1), (1 << 32) - 1, dtype=np.uint64)
    assert permutations(np.array([7]), 1, worst)[1].tolist() == [True]


def batches(learners: list[Learner], training: Training, t: int, chooser: Ahead) -> Batches:
    steps = training.steps(learners[0].n_samples, learners[0].uid)
    width = max(max(draw(training, one, t).sizes) for one in learners)
    return chooser.batches(learners, t, steps, width)


def draw(training: Training, one: Learner, t: int):
    return training.draw(one.n_samples, SEED, one.uid, t)


def check(found: Batches, learners: list[Learner], training: Training, t: int) -> None:
    for i, one in enumerate(learners):
        expected = draw(training, one, t)
        real = found.shares[i] > 0
        assert real.sum(axis=1).tolist() == expected.sizes
        assert found.index[i][real].tolist() == one.indices[expected.order].tolist()
        assert (found.index[i][~real] == one.indices[0]).all()
        assert found.taken[i] == len(expected.order)
        np.testing.assert_allclose(found.shares[i].sum(axis=1), 1, rtol=1e-6)


def nodes(n: list[int]) -> list[Learner]:
    return [Learner(uid, 1000 * uid + 2 * np.arange(one)) for uid, one in enumerate(n)]


CASES = {
    "a part of an epoch": ({"rounds": 2, "batch_size": 8}, [20, 16, 60]),
    "more than an epoch": ({"rounds": 4, "batch_size": 5}, [5, 6, 7, 12]),
    "whole epochs": ({"rounds": 2, "batch_size": 8, "full_epochs": True}, [20, 23]),
    "fewer than a batch": ({"rounds": 3, "batch_size": 64}, [40, 33, 50]),
    "in order": ({"rounds": 2, "batch_size": 8, "shuffle": False}, [20, 16, 60]),
    "many samples": ({"rounds": 2, "batch_size": 8}, [30_000, 20_000]),
    "long": ({"rounds": 2, "batch_size": 700}, [2_000, 1_500]),
    "of a node": ({"rounds": 2, "batch_size": PerNode({0: 8, 1: 4}, default=2)}, [9, 60]),
}


@pytest.mark.parametrize("case", CASES)
def test_batches_drawn_at_once_are_each_nodes_own(case: str) -> None:
    options, n = CASES[case]
    training = Training(**{"shuffle": True} | options)
    n = n if isinstance(options["batch_size"], PerNode) else n * 40
    learners, chooser = nodes(n), Ahead(training, SEED)
    if isinstance(options["batch_size"], PerNode):
        learners = learners[1:]
    for t in (0, 1, 5, 200, 3):
        check(batches(learners, training, t, chooser), learners, training, t)


@settings(max_examples=30)
@given(n=sizes, rounds=st.integers(1, 4), batch=st.integers(1, 20), t=st.integers(0, 90))
def test_any_nodes_draw_their_own(n: list[int], rounds: int, batch: int, t: int) -> None:
    training = Training(rounds=rounds, batch_size=batch, shuffle=True)
    learners, chooser = nodes(n), Ahead(training, SEED)
    check(batches(learners, training, t, chooser), learners, training, t)
    some = learners[::2]
    check(batches(some, training, t + 40, chooser), some, training, t + 40)
    check(batches(learners, training, t + 41, chooser), learners, training, t + 41)


def test_another_numpy_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its draws count, not ours: a run has the same bits however many nodes share a worker."""
    training, learners = Training(rounds=2, batch_size=8, shuffle=True), nodes([40] * 300)
    monkeypatch.setattr(ahead, "choices", lambda n, k, numbers: (np.zeros((len(n), k), int), n < 0))
    chooser = Ahead(training, SEED)
    check(batches(learners, training, 2, chooser), learners, training, 2)
    assert not chooser._trusted


def test_draws_in_step_are_used_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    training, learners = Training(rounds=2, batch_size=8, shuffle=True), nodes([40] * 300)
    chooser = Ahead(training, SEED)
    batches(learners, training, 2, chooser)
    own = []
    monkeypatch.setattr(Training, "draw", lambda *name: own.append(name))
    chooser.batches(learners, 3, 2, 8)
    assert chooser._trusted and not own, "iteration 3 was drawn with iteration 2"
