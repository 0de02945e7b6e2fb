"""Weighted sums of rows for many nodes at once, with the bits of `weighted_sum`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.chain import VALUES
from decentralizepy.graphs.mixing import MixingRow
from decentralizepy.messages.message import Message
from decentralizepy.sharing.sharing import weighted_sum


@dataclass(eq=False, slots=True)
class Around:
    """A node in a graph.

    ``sources`` [d + 1] are its own number and those that it hears, ascending, and ``weights``
    [d + 1] theirs; ``away`` lists the other workers that have nodes hearing it; ``receivers`` is
    how many nodes do. ``mixed`` is what the node gave for the graph; its number has so many
    ``digits``.
    """

    mixed: object
    mixing: MixingRow
    sources: np.ndarray
    weights: np.ndarray
    away: tuple[int, ...]
    receivers: int
    digits: int
    alone: bool


@dataclass(eq=False, slots=True)
class Sums:
    """What is summed for some nodes, one after the other.

    ``sources`` [any] are nodes and ``weights`` [any] theirs; sum i covers those from ``starts[i]``
    up to, not including, ``stops[i + 1]``.
    """

    arounds: list[Around]
    sources: np.ndarray
    weights: np.ndarray
    starts: np.ndarray
    stops: list[int]

    @classmethod
    def of(cls, arounds: list[Around]) -> Sums:
        """The sums of these nodes."""
        sources = np.concatenate([around.sources for around in arounds])
        weights = np.concatenate([around.weights for around in arounds])
        stops = [0, *accumulate(len(around.sources) for around in arounds)]
        return cls(arounds, sources, weights, np.array(stops[:-1]), stops)


def weighted_sums(
    rows: Tensor, places: np.ndarray, starts: np.ndarray, weights: np.ndarray
) -> Tensor:
    """Weighted sums [m, P] of rows [any, P], sum i of those at ``places`` from ``starts[i]`` on."""
    indices, offsets = torch.from_numpy(places), torch.from_numpy(starts)
    return torch.embedding_bag(
        rows, indices, offsets, False, 0, False, torch.from_numpy(weights)
    )[0]  # fmt: skip


@cache
def sums_have_the_same_bits(length: int) -> bool:
    """Whether `weighted_sums` gives just what `weighted_sum` does, on this processor."""
    rows = torch.randn(8, length, generator=torch.Generator().manual_seed(1))
    rows[:, :: length // 7 + 1] = -0.0
    for degree in range(8):
        mixing = MixingRow(1 / (degree + 3), {j: 1 / (j + 2) for j in range(1, degree + 1)})
        heard = [Message({VALUES: rows[j]}, None, j) for j in mixing.weights]
        one = weighted_sum(rows[0], heard, mixing, None)
        weights = np.array([mixing.self_weight, *mixing.weights.values()], dtype=np.float32)
        many = weighted_sums(rows, np.arange(degree + 1), np.array([0]), weights)
        if not torch.equal(one.view(torch.int32), many[0].view(torch.int32)):
            return False
    return True
