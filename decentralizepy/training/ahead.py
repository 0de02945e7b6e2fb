"""The batches of nodes that train together, drawn for some iterations ahead.

What a node trains on in an iteration is a pure function of (seed, uid, t), so it may be worked out
whenever that is cheap: for many nodes and iterations at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from decentralizepy.pernode import value_of
from decentralizepy.streams import words
from decentralizepy.training.batches import Batches, Block
from decentralizepy.training.draws import choices, expected_numbers, halves, permutations
from decentralizepy.training.learner import Learner
from decentralizepy.training.training import Training

#: draws that are worked out at once, the iterations that this is ahead at least (what it costs
#: beside the draws is then shared) and at most, and samples kept
_STREAMS: Final = 4096
_AT_LEAST: Final = 4
_AHEAD: Final = 64
_KEPT: Final = 1 << 20
#: draws in step while they stay in a cache
_IN_STEP: Final = 2048
#: NumPy's choices are Floyd's up to so many samples, and above while they are a 50th part
_FLOYD: Final = 10_000
#: longest draws that are faster in step
_LONGEST: Final = 256


class Ahead:
    """Draws what `Training.draw` would, for many nodes and iterations at once where it pays."""

    def __init__(self, training: Training, seed: int) -> None:
        self._training, self._seed = training, seed
        #: whether draws in step are those of the NumPy that is installed
        self._trusted = training.shuffle

    def batches(self, learners: Sequence[Learner], t: int, steps: int, width: int) -> Batches:
        """The batches of iteration ``t`` of nodes with ``steps`` batches of at most ``width``."""
        shape = steps, width
        blocks = {one.ahead[0] for one in learners}
        if not all(block.holds(t, shape) for block in blocks):
            self._draw([one for one in learners if not one.ahead[0].holds(t, shape)], t, shape)
        return Batches.of([one.ahead for one in learners], t)

    def _draw(self, learners: Sequence[Learner], t: int, shape: tuple[int, int]) -> None:
        alike: dict[int, list[Learner]] = {}
        for learner in learners:
            alike.setdefault(self._epochs(learner, shape[0]), []).append(learner)
        for epochs, part in alike.items():
            if not (self._trusted and self._draw_in_step(part, t, shape, epochs)):
                self._draw_each(part, t, shape)

    def _epochs(self, learner: Learner, steps: int) -> int:
        """Epochs that are permuted for ``steps`` batches; 0 where a part of one is chosen."""
        batch = value_of(self._training.batch_size, learner.uid)
        if steps * batch <= learner.n_samples:
            return 0
        return -(-steps // -(-learner.n_samples // batch))

    def _draw_each(self, learners: Sequence[Learner], t: int, shape: tuple[int, int]) -> None:
        """One iteration by each node's own generator."""
        draws = [
            self._training.draw(one.n_samples, self._seed, one.uid, t, shape[0]) for one in learners
        ]
        sizes = [tuple(draw.sizes) for draw in draws]
        orders = np.zeros((len(draws), 1, max(len(draw.order) for draw in draws)), dtype=np.int64)
        for row, draw in zip(orders, draws, strict=True):
            row[0, : len(draw.order)] = draw.order
        _keep(learners, t, orders, sizes, shape)

    # ------------------------------------------------------------------ in step

    def _draw_in_step(
        self, learners: Sequence[Learner], t: int, shape: tuple[int, int], epochs: int
    ) -> bool:
        """Some iterations of all; False if that would be slower or is not what NumPy draws."""
        steps, chosen = shape[0], shape[0] * shape[1]
        most = max(one.n_samples for one in learners)
        numbers = expected_numbers(most, epochs) if epochs else 2 * chosen
        ahead = max(_STREAMS // len(learners), _AT_LEAST)
        ahead = min(_AHEAD, ahead, _KEPT // (chosen * len(learners)))
        ts = range(t, t + max(ahead, 1))
        floyd = epochs or most <= _FLOYD or all(chosen <= one.n_samples // 50 for one in learners)
        if numbers > min(_LONGEST, len(learners) * len(ts)) or not floyd:
            return False
        orders = np.zeros((len(learners), len(ts), epochs * most or chosen), dtype=np.int64)
        size = max(1, _IN_STEP // len(ts))
        for start in range(0, len(learners), size):
            found = self._orders(learners[start : start + size], ts, numbers, steps, epochs)
            orders[start : start + size, :, : found.shape[2]] = found
        first = self._own(learners[0], t, steps)
        self._trusted = np.array_equal(orders[0, 0, : len(first)], first)
        if self._trusted:
            sizes = [tuple(self._training.sizes(one.n_samples, one.uid, steps)) for one in learners]
            _keep(learners, t, orders, sizes, shape)
        return self._trusted

    def _own(self, learner: Learner, t: int, steps: int) -> np.ndarray:
        """The order by the node's own generator."""
        return self._training.draw(learner.n_samples, self._seed, learner.uid, t, steps).order

    def _orders(
        self, learners: Sequence[Learner], ts: range, numbers: int, steps: int, epochs: int
    ) -> np.ndarray:
        """Orders [nodes, iterations, any length] from ``numbers`` of each stream."""
        uids = [one.uid for one in learners]
        raw = words(self._seed, uids, "batches", ts, -(-numbers // 2))
        raw = raw.reshape(len(uids) * len(ts), -1)
        n = np.repeat([one.n_samples for one in learners], len(ts))
        if epochs:
            found, redo = permutations(n, epochs, halves(raw))
        else:
            chosen = steps * value_of(self._training.batch_size, uids[0])
            found, redo = choices(n, chosen, halves(raw))
        for row in np.flatnonzero(redo).tolist():
            order = self._own(learners[row // len(ts)], ts[row % len(ts)], steps)
            found[row, : len(order)] = order
        return found.reshape(len(uids), len(ts), -1)


def _keep(
    learners: Sequence[Learner],
    t: int,
    orders: np.ndarray,
    sizes: list[tuple[int, ...]],
    shape: tuple[int, int],
) -> None:
    """Give each node its batches, as numbers of samples of the training set.

    ``orders`` [nodes, iterations, any] number each node's own samples, from iteration ``t`` on.
    """
    starts = np.cumsum([0, *(one.n_samples for one in learners[:-1])])
    own = np.concatenate([one.indices for one in learners])
    steps, width = shape
    index = np.empty((*orders.shape[:2], steps * width), dtype=np.int64)
    shares = np.empty((len(learners), steps, width), dtype=np.float32)
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, lengths in enumerate(sizes):
        alike.setdefault(lengths, []).append(i)
    for lengths, rows in alike.items():
        there = np.arange(width) < np.array(lengths)[:, None]
        filled = np.flatnonzero(there)
        part = np.broadcast_to(starts[rows, None, None], (len(rows), *index.shape[1:])).copy()
        part[..., filled] += orders[rows, :, : len(filled)]
        index[rows] = own[part]
        shares[rows] = there / np.array(lengths)[:, None]
    taken = [sum(lengths) for lengths in sizes]
    block = Block(t, index.reshape(*orders.shape[:2], steps, width), shares, taken)
    for row, learner in enumerate(learners):
        learner.ahead = block, row
