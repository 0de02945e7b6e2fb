"""About how long an experiment lasts and how much memory it takes; pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.planning.costs import (
    PER_BYTE_S,
    PER_NODE_ROUND_S,
    ROWS_PER_NODE,
    WORKER_BYTES,
    Cost,
)


@dataclass(frozen=True)
class Load:
    """What there is to do, and on what: one entry of ``nodes`` and ``workers`` per machine."""

    nodes: tuple[int, ...]
    workers: tuple[int, ...]
    cores: int
    computers: int
    iterations: int
    averaging_steps: int
    test_after: int
    train_evaluate_after: int
    rounds: float  # means over the nodes, weighted so that their product is the mean work
    batch_size: float
    full_epochs: bool
    samples: tuple[int, int]  # of the whole data set, training and test; 0: unknown
    test_samples: int | None  # as many of the test set are used; None: all
    evaluated: int  # nodes
    row_bytes: int
    bytes_per_round: int

    @property
    def samples_per_iteration(self) -> float:
        """Training samples that one node sees in one iteration, in the mean."""
        if not self.full_epochs:
            return self.rounds * self.batch_size
        train, _ = self.samples
        return self.rounds * max(train // sum(self.nodes), 1)

    @property
    def evaluated_samples(self) -> float:
        """Samples that all evaluations of the run take together, where sizes are known."""
        train, test = self.samples
        tested = test if self.test_samples is None else min(test, self.test_samples)
        tests = evaluations(self.iterations, self.test_after) * tested
        losses = evaluations(self.iterations, self.train_evaluate_after) * train / sum(self.nodes)
        return self.evaluated * (tests + losses)

    @property
    def nodes_in_turn(self) -> float:
        """Nodes that one core serves one after the other (the slowest machine counts)."""
        slowest = max(math.ceil(a / w) for a, w in zip(self.nodes, self.workers, strict=True))
        return max(float(slowest), sum(self.nodes) / self.cores)


@dataclass(frozen=True)
class Estimate:
    """Expected seconds, memory and node-hours; ``basis`` says where the costs come from."""

    startup_s: float
    training_s: float
    evaluation_s: float
    sharing_s: float
    seconds: float
    memory_bytes: int
    node_hours: float
    basis: str


def evaluations(iterations: int, every: int) -> int:
    """How often something due at 1, T, 2T, ... and the last iteration happens; T = 0: never."""
    if not iterations or not every:
        return 0
    return len({1, iterations}) + _multiples(iterations, every)


def _multiples(iterations: int, every: int) -> int:
    return iterations // every - sum(t % every == 0 for t in {1, iterations})


def estimate(load: Load, cost: Cost) -> Estimate:
    """What a load costs; evaluation counts only data sets whose size is known."""
    turn, n = load.nodes_in_turn, sum(load.nodes)
    training = load.iterations * turn * load.samples_per_iteration * cost.train_s
    evaluation = turn / n * load.evaluated_samples * cost.evaluate_s
    sharing = load.iterations * (
        turn * load.averaging_steps * PER_NODE_ROUND_S
        + load.bytes_per_round * PER_BYTE_S * turn / n
    )
    seconds = cost.startup_s + training + evaluation + sharing
    return Estimate(
        startup_s=round(cost.startup_s, 3),
        training_s=round(training, 3),
        evaluation_s=round(evaluation, 3),
        sharing_s=round(sharing, 3),
        seconds=round(seconds, 3),
        memory_bytes=sum(load.workers) * WORKER_BYTES + n * ROWS_PER_NODE * load.row_bytes,
        node_hours=round(load.computers * seconds / 3600, 4),
        basis="former runs here" if cost.measured else "the model's class",
    )
