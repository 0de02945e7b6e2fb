"""One node's local training of one iteration, as the engine hands it to a trainer."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from decentralizepy.training.learner import Learner


@dataclass(eq=False, slots=True)
class LocalWork:
    """Train the node of ``learner`` in iteration ``t``, in place on ``row`` [layout.length].

    ``steps`` overrides how many mini-batches [TRAIN_PARAMS] asks for. To the gradient of every
    step, after the local step's own rule, are added ``correction`` [n_parameters] (SCAFFOLD,
    Karimireddy et al., ICML 2020) and ``pull`` * (x - ``anchor``), with ``anchor`` [n_parameters]
    (FedProx, Li et al., MLSys 2020), both in the order of rows.
    """

    learner: Learner
    row: Tensor
    t: int
    steps: int | None = None
    correction: Tensor | None = None
    anchor: Tensor | None = None
    pull: float = 0.0
    #: what nodes that train together have in common, for the trainer that asked
    kind: Hashable = None
