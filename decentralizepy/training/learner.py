"""What a node needs to train beside its row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decentralizepy.training.batches import NONE, Block
from decentralizepy.training.data import Samples
from decentralizepy.training.layout import Counter
from decentralizepy.training.training import Draw


@dataclass(eq=False, slots=True)
class Learner:
    """A node's samples, optimizer state, integer buffers, and what it has done.

    ``indices`` [n] number its samples in the training set; a node without any trains on nothing.
    ``memory`` is what a training class of a user's keeps of the node (`LocalStep.memory`).
    ``steps`` and ``samples`` count what it has trained since the start, ``gradients`` the
    mini-batches that it has taken a gradient of, stepped or not; ``nan`` is the first
    iteration (from 1) after whose local steps its row was not finite, 0 while it is.
    """

    uid: int
    indices: np.ndarray
    optimizer: Any = None
    counters: list[Counter] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    samples: int = 0
    gradients: int = 0
    nan: int = 0
    #: by iteration, the samples of those that were drawn at once
    drawn: Mapping[int, Draw] = field(default_factory=dict, repr=False)
    #: the same of a node that is stacked with others: batches, and the node's row there
    ahead: tuple[Block, int] = field(default=NONE, repr=False)
    #: where entries of the optimizer's state lie, of a node that is stacked with others
    homes: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _label_counts: np.ndarray | None = field(default=None, repr=False)

    @property
    def n_samples(self) -> int:
        """The number of the node's own training samples."""
        return len(self.indices)

    def label_counts(self, samples: Samples) -> np.ndarray:
        """How many of its samples have each label, int64 [labels in the training set].

        ``samples`` is the training set; they are counted once. Raises ValueError where targets are
        no labels.
        """
        if self._label_counts is None:
            self._label_counts = samples.label_counts(self.indices)
        return self._label_counts

    def kept(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the optimizer: JSON values, what a training class
        remembers, and buffers by their places in the counters, where these have None."""
        counts = {"steps": self.steps, "samples": self.samples, "nan": self.nan}
        buffers = {str(i): one for i, one in enumerate(self.counters) if isinstance(one, Tensor)}
        counters = [None if isinstance(one, Tensor) else one for one in self.counters]
        kept = {"counters": counters, "gradients": self.gradients, **counts}
        return kept | ({"buffers": buffers} if buffers else {}) | {"memory": self.memory}

    def renewed(self, kept: dict[str, Any]) -> dict[str, Any]:
        """What `kept` gave, by now or before: then a buffer that is a single bool was a number."""
        counters, buffers = list(kept["counters"]), dict(kept.get("buffers", {}))
        for i, (one, now) in enumerate(zip(counters, self.counters, strict=False)):
            if type(one) is int and isinstance(now, Tensor) and not now.dim():
                counters[i], buffers[str(i)] = None, torch.tensor(one, dtype=now.dtype)
        return {**kept, "counters": counters, "buffers": buffers}

    def take_back(self, kept: dict[str, Any]) -> None:
        """Set what `kept` gave."""
        kept = self.renewed(kept)
        buffers = kept["buffers"]
        self.counters = [buffers.get(str(i), one) for i, one in enumerate(kept["counters"])]
        self.steps, self.samples, self.nan = kept["steps"], kept["samples"], kept["nan"]
        # older checkpoints have none of these
        self.gradients, self.memory = kept.get("gradients", self.steps), kept.get("memory", {})
