"""Many small models trained at once.

A tiny model spends its time starting kernels, not multiplying. The rows of G nodes form a stack
[G, P], and a step of all of them costs about the kernels of one. The bits of a node do not depend
on who else is in the stack: batches are padded to the configured size with samples of weight zero,
and a model that can be stacked always is, also alone.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from decentralizepy.errors import ConfigError
from decentralizepy.pernode import value_of
from decentralizepy.training.ahead import Ahead
from decentralizepy.training.chain import LINE, ChainStep, Plan, aligned, layers_of
from decentralizepy.training.clipping import clip_each
from decentralizepy.training.learner import Learner
from decentralizepy.training.optimizers import FlatSGDOptimizer
from decentralizepy.training.rows import Rows, rows
from decentralizepy.training.task import Classification, is_plain
from decentralizepy.training.trainer import Trainer, add_terms
from decentralizepy.training.training import Training
from decentralizepy.training.work import LocalWork

#: larger models gain nothing: their kernels are long enough one by one
MAX_PARAMETERS: Final = 65_536
#: parameters of the nodes whose steps are taken at once: what a core's cache holds
_IN_CACHE: Final = 300_000
#: sizes of stacks for which memory is kept
_ROOMS: Final = 8


class StackedTrainer(Trainer):
    """A `Trainer` whose nodes take their local steps together."""

    takes_groups = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        layers = layers_of(self.template.model)
        assert layers is not None and isinstance(self.optimizer, FlatSGDOptimizer)
        self.plan = Plan(layers)
        self._rooms: dict[tuple[int, int], Room] = {}
        self.rule = self.optimizer.rule
        self.ahead = Ahead(self.training, self.seed)
        self.at_once = max(1, _IN_CACHE // self.template.layout.n_parameters)
        self._shapes: dict[int, tuple[int, int]] = {}

    # ------------------------------------------------------------ who goes with whom

    def together(self, waiting: Sequence[LocalWork]) -> list[int]:
        """All with as many steps of equally wide batches as the first: nobody waits for another."""
        first = self._kind(waiting[0])
        return [i for i, work in enumerate(waiting) if self._kind(work) == first]

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
                self._train_stack(works, steps, width)

    def _kind(self, work: LocalWork) -> Hashable:
        """What must be equal for two nodes to share a stack."""
        return work.t, self._shape(work), work.correction is None, work.anchor is None

    def _shape(self, work: LocalWork) -> tuple[int, int]:
        """Steps and width of a node's batches, worked out once."""
        learner = work.learner
        found = self._shapes.get(learner.uid)
        if found is None:
            steps = self.training.steps(learner.n_samples, learner.uid)
            found = self._shapes[learner.uid] = steps, self._width(learner)
        if work.steps is None or not found[0]:
            return found
        return work.steps, found[1]

    def _width(self, learner: Learner) -> int:
        """Samples that each batch of a node is padded to: a constant of the node."""
        batch, n = value_of(self.training.batch_size, learner.uid), learner.n_samples
        return batch if batch <= n else min(batch, 1 << max(n - 1, 0).bit_length())

    # ------------------------------------------------------------------- the steps

    def _train_stack(self, works: Sequence[LocalWork], steps: int, width: int) -> None:
        learners, t = [work.learner for work in works], works[0].t
        batches = self.ahead.batches(learners, t, steps, width)
        if self.rate is not None:
            self.optimizer.scale(learners[0].optimizer, self.rate.factor(t))
        stack, states, terms = rows([work.row for work in works]), States(learners), Terms(works)
        weights = torch.from_numpy(batches.shares).unsqueeze(3)
        parts = -(-len(works) // self.at_once)
        size = -(-len(works) // parts)
        for start in range(0, len(works), size):
            stop = min(start + size, len(works))
            room = self._room(stop - start, width)
            stack.take(start, stop, room.stack)
            x, y = self._gather(batches.index[start:stop])
            state, more = states.take(start, stop), terms.take(start, stop)
            for step in range(steps):
                room.step.run(x[step], y[step], weights[start:stop, step])
                self._update(room, state, more)
            stack.put(start, room.stack)
            states.put(start, state)
            if not math.isfinite(float(room.stack.sum())):
                for work in works[start:stop]:
                    self._watch(work)
        for learner, taken in zip(learners, batches.taken, strict=True):
            learner.steps += steps
            learner.samples += taken

    def _gather(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs [steps, G, width, features] and labels [steps, G, width, 1] of ``index``."""
        by_step = np.ascontiguousarray(index.transpose(1, 0, 2))
        x, y = self.samples.gather(torch.from_numpy(by_step.reshape(-1)))
        x = x.reshape(*by_step.shape, -1)
        if x.shape[2:].numel() % LINE:
            x = aligned(len(x) * x.shape[1], *x.shape[2:]).view_as(x).copy_(x)
        return x, y.view(*by_step.shape, 1)

    def _update(self, room: Room, state: dict[str, Tensor], terms: Taken) -> None:
        clipping_norm = self.training.clipping_norm
        if clipping_norm is None and not self.rule.momentum and terms is None:
            for parameters, gradients in zip(
                room.step.parameters, room.step.gradients, strict=True
            ):
                self.rule.update(parameters, gradients, state)
            return
        torch._foreach_copy_(room.views, room.step.gradients)
        if clipping_norm is not None:
            clip_each(room.grad, clipping_norm)
        if terms is not None:
            add_terms(room.grad, room.stack, *terms)
        self.rule.update(room.stack, room.grad, state)

    def _room(self, nodes: int, width: int) -> Room:
        found = self._rooms.pop((nodes, width), None) or Room(self.plan, nodes, width)
        self._rooms[nodes, width] = found  # the one that was used last is the last
        if len(self._rooms) > _ROOMS:
            del self._rooms[next(iter(self._rooms))]
        return found


class Room:
    """Where G nodes take their steps: their parameters ``stack`` and gradients ``grad`` [G, P]."""

    def __init__(self, plan: Plan, nodes: int, width: int) -> None:
        self.stack = aligned(nodes, plan.length)
        self.grad = aligned(nodes, plan.length)
        self.step = ChainStep(plan, self.stack, width)
        self.views = ChainStep(plan, self.grad, 0).parameters


#: corrections and anchors [G, P], and pulls [G, 1]
Taken = tuple[Tensor | None, Tensor | None, Tensor] | None


class Terms:
    """What is added to the gradients of a stack; all nodes have a correction, or none."""

    def __init__(self, works: Sequence[LocalWork]) -> None:
        self._works = works
        self._corrections = _rows([work.correction for work in works])
        self._anchors = _rows([work.anchor for work in works])

    def take(self, start: int, stop: int) -> Taken:
        """Those of a part of the stack; None where nothing is added."""
        if self._corrections is None and self._anchors is None:
            return None
        pulls = torch.tensor([[work.pull] for work in self._works[start:stop]])
        correction, anchor = (
            None if held is None else held.take(start, stop)
            for held in (self._corrections, self._anchors)
        )
        return correction, anchor, pulls


def _rows(vectors: Sequence[Tensor | None]) -> Rows | None:
    return None if vectors[0] is None else rows([one for one in vectors if one is not None])


class States:
    """Optimizer states of a stack's nodes, which all have the same entries."""

    def __init__(self, learners: Sequence[Learner]) -> None:
        self._learners = learners
        names = learners[0].optimizer
        self._rows = {name: rows([one.optimizer[name] for one in learners]) for name in names}

    def take(self, start: int, stop: int) -> dict[str, Tensor]:
        return {name: held.take(start, stop) for name, held in self._rows.items()}

    def put(self, start: int, state: dict[str, Tensor]) -> None:
        """Write a part of the stack back; what is new becomes the nodes' as views of it."""
        for name, values in state.items():
            if name in self._rows:
                self._rows[name].put(start, values)
                continue
            learners = self._learners[start : start + len(values)]
            for learner, row in zip(learners, values.unbind(), strict=True):
                learner.optimizer[name] = row


def can_stack(trainer: Trainer) -> str:
    """Why the nodes of a trainer can't be stacked, or an empty string if they can."""
    training, criterion = type(trainer.training), trainer.task.criterion
    layers = layers_of(trainer.template.model)
    if layers is None:
        return "the model is not a chain of Flatten, Linear, ReLU, Tanh and Sigmoid layers"
    if not isinstance(layers[0], nn.Flatten) and trainer.samples.x.dim() != 2:
        return "the model does not begin with Flatten"
    if not isinstance(trainer.optimizer, FlatSGDOptimizer):
        return "only SGD (with momentum, Nesterov, weight decay) steps stacks"
    if training.gradient is not Training.gradient:
        return f"{training.__name__} takes local steps of its own"
    if (training.draw, training.steps) != (Training.draw, Training.steps):
        return f"{training.__name__} draws samples of its own"
    if type(trainer.task) is not Classification or not is_plain(criterion):
        return "the loss is not a plain CrossEntropyLoss"
    if trainer.template.device.type != "cpu":
        return "stacks are trained on the CPU"
    return ""


def choose_stacked(trainer: Trainer) -> bool:
    """Whether to stack, from the configuration and the model alone, never from timing."""
    wanted = trainer.training.stacked
    reason = "" if wanted == "no" else can_stack(trainer)
    if wanted == "yes" and reason:
        raise ConfigError(f"[TRAIN_PARAMS] stacked = yes, but {reason}")
    small = trainer.template.layout.n_parameters <= MAX_PARAMETERS
    return wanted != "no" and not reason and (small or wanted == "yes")
