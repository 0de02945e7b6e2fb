"""Nodes that take their local steps together: who goes with whom, and what lies where.

The rows of G nodes form a stack [G, P]. How its gradients come about is said by `StackedTrainer`
and `MappedTrainer`; optimizer states, clipping, corrections and counts are the same for both.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decentralizepy.pernode import value_of
from decentralizepy.training.ahead import Ahead
from decentralizepy.training.batches import Batches
from decentralizepy.training.clipping import clip_each
from decentralizepy.training.homes import Homes, State
from decentralizepy.training.learner import Learner
from decentralizepy.training.optimizers import FlatSGDOptimizer
from decentralizepy.training.rows import Rows, rows
from decentralizepy.training.trainer import Trainer, add_terms
from decentralizepy.training.training import is_own
from decentralizepy.training.work import LocalWork


class Stacks(Trainer):
    """A `Trainer` that takes nodes together; at most ``at_once`` are in one stack."""

    takes_groups = True
    at_once: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert isinstance(self.optimizer, FlatSGDOptimizer)
        self.rule = self.optimizer.rule
        self.ahead = Ahead(self.training, self.seed)
        self.homes = Homes()
        self._shapes: dict[int, tuple[int, int]] = {}

    def learner(self, uid: int, indices: np.ndarray) -> Learner:
        self.homes.expected += len(indices) > 0
        return super().learner(uid, indices)

    # ------------------------------------------------------------ who goes with whom

    def together(self, waiting: Sequence[LocalWork]) -> list[int]:
        """All with as many steps of equally wide batches as the first: nobody waits for another."""
        first, kind = self._kind(waiting[0]), self._kind
        return [i for i, work in enumerate(waiting) if kind(work) == first]

    def train(self, group: Sequence[LocalWork]) -> None:
        """Local training of the given nodes, in place on their rows."""
        alike: dict[Hashable, list[LocalWork]] = {}
        for work in group:
            if self.reset_optimizer and work.t:
                work.learner.optimizer = self.optimizer.new_state()
            alike.setdefault((self._kind(work), *work.learner.optimizer), []).append(work)
        for works in alike.values():
            steps, width = self._shape(works[0])
            if steps:
                self._train_alike(works, steps, width)

    def _kind(self, work: LocalWork) -> Hashable:
        """What must be equal for two nodes to share a stack."""
        if work.kind is None:
            work.kind = work.t, self._shape(work), work.correction is None, work.anchor is None
        return work.kind

    def _shape(self, work: LocalWork) -> tuple[int, int]:
        """Steps and width of a node's batches, worked out once."""
        learner = work.learner
        found = self._shapes.get(learner.uid)
        if found is None:
            steps = self.training.steps(learner.n_samples, learner.uid)
            found = self._shapes[learner.uid] = steps, self._width(learner)
        if work.steps is None or not learner.n_samples:
            return found
        return work.steps, found[1]

    def _width(self, learner: Learner) -> int:
        """Samples that each batch of a node is padded to: a constant of the node."""
        batch, n = value_of(self.training.batch_size, learner.uid), learner.n_samples
        return batch if batch <= n else min(batch, 1 << max(n - 1, 0).bit_length())

    # ------------------------------------------------------------------- the steps

    def _train_alike(self, works: Sequence[LocalWork], steps: int, width: int) -> None:
        learners, t = [work.learner for work in works], works[0].t
        batches = self.ahead.batches(learners, t, steps, width)
        if self.rate is not None:
            self.optimizer.scale(learners[0].optimizer, self.rate.factor(t))
        held = Held(works, self.homes, self.template.device)
        parts = -(-len(works) // self.at_once)
        size = -(-len(works) // parts)
        for start in range(0, len(works), size):
            stop = min(start + size, len(works))
            stack = self._train_part(held, batches.part(start, stop), start, stop)
            if not math.isfinite(float(stack.sum())):
                for work in works[start:stop]:
                    self._watch(work)
        for learner, taken in zip(learners, batches.taken, strict=True):
            learner.steps += steps
            learner.gradients += steps
            learner.samples += taken

    @abstractmethod
    def _train_part(self, held: Held, batches: Batches, start: int, stop: int) -> Tensor:
        """Train nodes ``start`` to ``stop`` - 1 of those held; returns their stack [G, P]."""

    def _update(self, stack: Tensor, grad: Tensor, state: State, terms: Terms | None) -> None:
        """One step of all nodes of a stack from their gradients [G, P], which are overwritten."""
        if self.training.clipping_norm is not None:
            clip_each(grad, self.training.clipping_norm)
        if terms is not None:
            add_terms(grad, stack, terms.correction, terms.anchor, terms.pull)
        self.rule.update(stack, grad, state)


@dataclass(slots=True)
class Terms:
    """What is added to gradients [G, P]: corrections, and pulls [G, 1] towards anchors."""

    correction: Tensor | None
    anchor: Tensor | None
    pull: Tensor


class Held:
    """Rows, optimizer states and terms of nodes that are of one kind, to be stacked in parts."""

    def __init__(self, works: Sequence[LocalWork], homes: Homes, device: torch.device) -> None:
        self._works, self._homes, self._device = works, homes, device
        self.rows = rows([work.row for work in works])
        learners = [work.learner for work in works]
        self._states = {name: homes.rows(name, learners) for name in learners[0].optimizer}
        self._corrections = _rows([work.correction for work in works])
        self._anchors = _rows([work.anchor for work in works])

    def state(self, start: int, stop: int) -> State:
        """Optimizer states of a part."""
        return {name: held.take(start, stop) for name, held in self._states.items()}

    def keep_state(self, start: int, state: State) -> None:
        """Write the states of a part back."""
        for name, values in state.items():
            if name in self._states:
                self._states[name].put(start, values)
            else:
                works = self._works[start : start + len(values)]
                self._homes.settle(name, [work.learner for work in works], values)

    def terms(self, start: int, stop: int) -> Terms | None:
        """Terms of a part; None where nothing is added."""
        if self._corrections is None and self._anchors is None:
            return None
        correction, anchor = (
            None if held is None else held.take(start, stop).to(self._device)
            for held in (self._corrections, self._anchors)
        )
        pulls = torch.tensor([[work.pull] for work in self._works[start:stop]])
        return Terms(correction, anchor, pulls.to(self._device))


def _rows(vectors: Sequence[Tensor | None]) -> Rows | None:
    return None if vectors[0] is None else rows([one for one in vectors if one is not None])


def refusal(trainer: Trainer) -> str:
    """Why no kind of stack can train the nodes of a trainer, or an empty string."""
    training, kind = trainer.training, type(trainer.training).__name__
    for name, parameter in trainer.template.model.named_parameters():
        if not parameter.requires_grad:
            return f"parameter {name} is not trained (requires_grad = False)"
    if not isinstance(trainer.optimizer, FlatSGDOptimizer):
        return "only SGD (with momentum, Nesterov, weight decay) steps stacks"
    if is_own(training, "gradient"):
        return f"{kind} takes local steps of its own"
    if is_own(training, "draw", "steps"):
        return f"{kind} draws samples of its own"
    return ""
