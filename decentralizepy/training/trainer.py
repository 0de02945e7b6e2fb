"""Trains and evaluates the nodes of one worker, one after the other, on a shared template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decentralizepy.streams import torch_seed
from decentralizepy.training.clipping import clip
from decentralizepy.training.data import Samples
from decentralizepy.training.evaluation import Evaluation, Loss, evaluate
from decentralizepy.training.optimizers import NodeOptimizer
from decentralizepy.training.schedules import Rate
from decentralizepy.training.template import Template
from decentralizepy.training.training import Draw, Training


@dataclass
class Learner:
    """What a node needs to train beside its row: samples, optimizer state, integer buffers.

    ``steps`` and ``samples`` count what it has trained since the start; ``nan`` is the first
    iteration (from 1) after whose local steps its row was not finite, 0 while it is.
    """

    uid: int
    indices: np.ndarray
    optimizer: Any = None
    counters: list[int] = field(default_factory=list)
    steps: int = 0
    samples: int = 0
    nan: int = 0

    def kept(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the optimizer, as JSON values."""
        counts = {"steps": self.steps, "samples": self.samples, "nan": self.nan}
        return {"counters": self.counters, **counts}

    def take_back(self, kept: dict[str, Any]) -> None:
        """Set what `kept` gave."""
        self.counters = list(kept["counters"])
        self.steps, self.samples, self.nan = kept["steps"], kept["samples"], kept["nan"]


class Trainer:
    """Local steps of nodes on one template; results do not depend on the order of the nodes."""

    def __init__(
        self,
        template: Template,
        optimizer: NodeOptimizer,
        training: Training,
        loss: Loss,
        train: Samples,
        *,
        seed: int,
        reset_optimizer: bool = False,
        eval_batch: int = 64,
        rate: Rate | None = None,
    ) -> None:
        self.template, self.optimizer = template, optimizer
        self.training, self.loss, self.samples = training, loss, train
        self.seed, self.reset_optimizer, self.eval_batch = seed, reset_optimizer, eval_batch
        self.rate, self.clipping_norm = rate, training.clipping_norm

    def learner(self, uid: int, indices: np.ndarray) -> Learner:
        """A node about to start, owning the training samples of ``indices``."""
        return Learner(uid, indices, self.optimizer.new_state(), self._counters())

    def _counters(self) -> list[int]:
        return [0] * len(self.template.layout.counters)

    def train(self, learners: Sequence[Learner], rows: Sequence[Tensor], t: int) -> None:
        """Iteration ``t`` of local training, in place on each node's row."""
        for learner, row in zip(learners, rows, strict=True):
            self._train_one(learner, row, t)

    def prepare(self, learner: Learner, t: int) -> Draw:
        """Draw the samples of the iteration and count them; see to the optimizer's state and lr."""
        if self.reset_optimizer and t:
            learner.optimizer = self.optimizer.new_state()
        if self.rate is not None:
            self.optimizer.scale(learner.optimizer, self.rate.factor(t))
        draw = self.training.draw(len(learner.indices), self.seed, learner.uid, t)
        learner.steps += len(draw.sizes)
        learner.samples += len(draw.order)
        return draw

    def _train_one(self, learner: Learner, row: Tensor, t: int) -> None:
        draw = self.prepare(learner, t)
        if not draw.sizes:
            return
        template = self.template
        template.load(row, learner.counters)
        template.mode(True)
        torch.default_generator.manual_seed(torch_seed(self.seed, learner.uid, "dropout", t))
        x, y = self.samples.gather(torch.from_numpy(learner.indices[draw.order]))
        self._steps(x, y, draw.sizes, learner.optimizer)
        learner.counters = template.store(row)
        self._watch(learner, row, t)

    def rehearse(self, indices: np.ndarray) -> None:
        """One local step on two samples, of no consequence; raises whatever does not fit."""
        self.template.load(self.template.initial)
        self.template.mode(True)
        x, y = self.samples.gather(torch.from_numpy(indices[:2]))
        self._steps(x, y, [len(x)], self.optimizer.new_state())

    def _watch(self, learner: Learner, row: Tensor, t: int) -> None:
        """Note the first iteration that leaves a row with numbers that are not finite.

        A loss that is not finite makes the gradient so, and that the row, even with lr = 0.
        """
        if not learner.nan and not math.isfinite(float(row.sum())):
            learner.nan = t + 1

    def _steps(self, x: Tensor, y: Tensor, sizes: list[int], state: Any) -> None:
        model, loss, grad, step = (
            self.template.model,
            self.loss,
            self.template.grad,
            self.optimizer.step,
        )
        start, norm = 0, self.clipping_norm
        for size in sizes:
            grad.zero_()
            stop = start + size
            loss(model(x[start:stop]), y[start:stop]).backward()
            if norm is not None:
                clip(grad, norm)
            step(state)
            start = stop

    def evaluate(self, row: Tensor, samples: Samples, indices: np.ndarray | None) -> Evaluation:
        """Loss and accuracy of a row on samples, or on those of ``indices``."""
        self.template.load(row)
        self.template.mode(False)
        chosen = None if indices is None else torch.from_numpy(indices)
        return evaluate(self.template.model, self.loss, samples, self.eval_batch, chosen)
