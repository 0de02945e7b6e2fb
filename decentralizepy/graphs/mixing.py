"""Mixing weights: how much of each neighbour's model a node takes.

A rule gives one node's row, ``x_i <- w_ii x_i + sum_j w_ij x_j`` over the in-neighbours j, from
that node's surroundings only. The dense matrix ``W[dst, src]`` is for tests and analyses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from decentralizepy.graphs.graph import Graph

Matrix = NDArray[np.float64]

TOLERANCE = 1e-9
"""By how much sums and symmetry may be off in the checks: rounding of float64, with room."""


@dataclass(frozen=True)
class MixingRow:
    """One node's weights; with its own, they sum to 1 in the rules of this module.

    Attributes:
        self_weight: the weight of the node's own model.
        weights: the weight of each in-neighbour's model, by uid, ascending.
    """

    self_weight: float
    weights: Mapping[int, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", _Weights(self.weights))


class _Weights(dict[int, float]):
    """Says whose weight is missed."""

    def __missing__(self, uid: int) -> float:
        given = ", ".join(map(str, self)) or "none"
        raise ValueError(f"node {uid} has no weight in this MixingRow (it has: {given:.200})")


Rule = Callable[[Graph, int], MixingRow]
"""From a graph and a node to that node's row."""


def metropolis_hastings(graph: Graph, uid: int) -> MixingRow:
    """Metropolis-Hastings weights ``w_ij = 1 / (1 + max(d_i, d_j))`` (Xiao & Boyd 2004).

    Symmetric and doubly stochastic on any undirected graph, so that averaging keeps the mean.

    Raises:
        ValueError: on a graph with one-way edges, where the columns would not sum to 1.
    """
    if not graph.is_symmetric():
        raise ValueError(
            "Metropolis-Hastings weights need a link both ways: on one-way edges they would not "
            "keep the mean. Make the graph undirected, or take PlainAverageSharing, whose weights "
            "are uniform"
        )
    own = graph.degree(uid)
    weights = {j: 1 / (1 + max(own, graph.degree(j))) for j in graph.in_neighbors(uid)}
    return MixingRow(_rest(weights), weights)


def uniform(graph: Graph, uid: int) -> MixingRow:
    """The plain average of a node's own model and its in-neighbours': each ``1 / (d + 1)``.

    Doubly stochastic on regular graphs, directed ones too; elsewhere only the rows sum to 1.
    """
    senders = graph.in_neighbors(uid)
    weights = dict.fromkeys(senders, 1 / (len(senders) + 1))
    return MixingRow(_rest(weights), weights)


def from_weights(graph: Graph, uid: int) -> MixingRow:
    """The weights that the graph carries; a self weight that it lacks is what is left of 1.

    Raises:
        ValueError: if the graph carries none.
    """
    if graph.weights is None:
        raise ValueError("the graph carries no weights: give it some, or use another rule")
    weights = {j: graph.weights[j, uid] for j in graph.in_neighbors(uid)}
    self_weight = graph.weights.get((uid, uid))
    return MixingRow(_rest(weights) if self_weight is None else self_weight, weights)


def mixing_matrix(graph: Graph, rule: Rule) -> Matrix:
    """Dense float64 ``[n, n]`` matrix ``W[dst, src]`` of all rows that ``rule`` gives."""
    matrix = np.zeros((graph.n, graph.n))
    for uid in range(graph.n):
        row = rule(graph, uid)
        matrix[uid, list(row.weights)] = list(row.weights.values())
        matrix[uid, uid] = row.self_weight
    return matrix


def row_sums(matrix: Matrix) -> Matrix:
    """The sum of each row, ``[n]``, correctly rounded."""
    return np.array([math.fsum(row) for row in _square(matrix)])


def is_row_stochastic(matrix: Matrix, tol: float = TOLERANCE) -> bool:
    """Whether no weight is negative and each row sums to 1: averaging keeps a consensus."""
    sums = row_sums(matrix)
    return bool((matrix >= -tol).all() and (np.abs(sums - 1) <= tol).all())


def is_symmetric(matrix: Matrix, tol: float = TOLERANCE) -> bool:
    """Whether ``W[i, j] = W[j, i]`` for all i, j."""
    return bool((np.abs(_square(matrix) - matrix.T) <= tol).all())


def is_doubly_stochastic(matrix: Matrix, tol: float = TOLERANCE) -> bool:
    """Whether rows and columns sum to 1: averaging then also keeps the mean over the nodes."""
    return is_row_stochastic(matrix, tol) and is_row_stochastic(matrix.T, tol)


def spectral_gap(matrix: Matrix) -> float:
    """1 minus the second largest absolute eigenvalue: 0 never mixes, 1 mixes in one round.

    Raises:
        ValueError: if neither the rows nor the columns sum to 1, where the gap means nothing.
    """
    if not (is_row_stochastic(matrix) or is_row_stochastic(matrix.T)):
        raise ValueError("the spectral gap needs weights >= 0 whose rows (or columns) sum to 1")
    eigenvalues = np.linalg.eigvalsh if is_symmetric(matrix) else np.linalg.eigvals
    sizes = np.sort(np.abs(eigenvalues(matrix)))
    second = sizes[-2] if len(sizes) > 1 else 0.0
    return float(np.clip(1 - second, 0.0, 1.0))


def _rest(weights: Mapping[int, float]) -> float:
    """What the weights leave of 1, rounded once, so that the row's sum rounds to exactly 1."""
    return math.fsum([1.0, *(-weight for weight in weights.values())])


def _square(matrix: Matrix) -> Matrix:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a mixing matrix is square, not of shape {matrix.shape}")
    return matrix
