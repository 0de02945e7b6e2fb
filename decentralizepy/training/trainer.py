"""Trains and evaluates the nodes of one worker, one after the other, on a shared template."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from decentralizepy.errors import ConfigError
from decentralizepy.given import check_is
from decentralizepy.streams import torch_seed
from decentralizepy.training.data import Samples
from decentralizepy.training.evaluation import Evaluation, evaluate
from decentralizepy.training.layout import Counter
from decentralizepy.training.learner import Learner
from decentralizepy.training.optimizers import NodeOptimizer
from decentralizepy.training.schedules import Rate
from decentralizepy.training.step import LocalStep
from decentralizepy.training.task import Task
from decentralizepy.training.template import Template
from decentralizepy.training.training import Draw, Training, is_own
from decentralizepy.training.work import LocalWork

__all__ = ["Learner", "LocalWork", "Trainer"]

#: iterations whose samples are drawn at once, if each takes no more samples than that
_AHEAD: Final = 16
_MANY: Final = 4096


class Trainer:
    """Local steps of nodes on one template; results do not depend on the order of the nodes."""

    #: whether `together` ever takes more than one
    takes_groups = False

    def __init__(
        self,
        template: Template,
        optimizer: NodeOptimizer,
        training: Training,
        task: Task,
        train: Samples,
        *,
        seed: int,
        reset_optimizer: bool = False,
        eval_batch: int = 64,
        rate: Rate | None = None,
    ) -> None:
        self.template, self.optimizer = template, optimizer
        self.training, self.task, self.samples = training, task, train
        self.seed, self.reset_optimizer, self.eval_batch = seed, reset_optimizer, eval_batch
        self.rate = rate
        self._step = LocalStep(template, task, seed)
        self._draws_ahead = not is_own(training, "draw", "steps")
        #: called between two local steps; leaves all that is being trained alone
        self.meanwhile: Callable[[], None] | None = None

    def learner(self, uid: int, indices: np.ndarray) -> Learner:
        """A node about to start, owning the training samples of ``indices``."""
        counters = list(self.template.layout.at_first)
        return Learner(uid, indices, self.optimizer.new_state(), counters)

    # ----------------------------------------------------------------- training

    def together(self, waiting: Sequence[LocalWork]) -> list[int]:
        """Which of ``waiting`` to give to `train` at once: the first, and any that it goes with."""
        return [0]

    def train(self, group: Sequence[LocalWork]) -> None:
        """Local training of the given nodes, in place on their rows."""
        for work in group:
            self._train_one(work)

    def gradient(self, work: LocalWork) -> Tensor:
        """The mean gradient [n_parameters] of the samples of iteration ``t`` at ``row``.

        In the order of rows, over the same mini-batches as `train`, each one's by the rule of the
        training class. Nothing is stepped or added, and the row stays as it is; the samples count.
        """
        learner, total = work.learner, torch.zeros_like(self.template.grad)
        draw = self._draw(work)
        learner.samples += len(draw.order)
        learner.gradients += len(draw.sizes)
        if draw.sizes:
            self._load(work)
            for step in self._batches(work, draw):
                self._gradient(step)
                share = self.training.weight(len(step.x), len(draw.order), len(draw.sizes))
                total.add_(step.grad, alpha=share)
            self.template.still(total)
        return self.template.to_row_order(total).to(work.row.device)

    def rehearse(self, indices: np.ndarray) -> None:
        """One local step on two samples, of no consequence; raises whatever does not fit."""
        work = LocalWork(self.learner(0, indices[:2]), self.template.initial.clone(), 0)
        self._load(work)
        self._take_steps(work, Draw(np.arange(len(indices[:2])), [len(indices[:2])]))

    def prepare(self, work: LocalWork) -> Draw:
        """Draw the samples of the iteration and count them; see to the optimizer's state and lr."""
        learner = work.learner
        if self.reset_optimizer and work.t:
            learner.optimizer = self.optimizer.new_state()
        if self.rate is not None:
            self.optimizer.scale(learner.optimizer, self.rate.factor(work.t))
        draw = self._draw(work)
        learner.steps += len(draw.sizes)
        learner.gradients += len(draw.sizes)
        learner.samples += len(draw.order)
        return draw

    def _draw(self, work: LocalWork) -> Draw:
        """The samples of the iteration.

        Unless draws are a user's own, some iterations are drawn at once: a single draw between two
        models finds nothing in the caches, and takes ten times as long.
        """
        learner, t = work.learner, work.t
        draw = partial(self._drawn, learner.n_samples, self.seed, learner.uid)
        if work.steps is not None:
            return draw(t, work.steps)
        if not self._draws_ahead:
            return draw(t)
        if t not in learner.drawn:
            found = draw(t)
            ahead = range(t + 1, t + _AHEAD) if len(found.order) <= _MANY else ()
            learner.drawn = {t: found, **{later: draw(later) for later in ahead}}
        return learner.drawn[t]

    def _drawn(self, *name: int) -> Draw:
        draw = self.training.draw(*name)
        check_is(Draw, draw, self.training, "draw", "Draw(order, sizes)")
        return draw

    def _train_one(self, work: LocalWork) -> None:
        draw = self.prepare(work)
        if not draw.sizes:
            return
        self._load(work)
        self._take_steps(work, draw)
        work.learner.counters = self.template.store(work.row)
        self._watch(work)

    def _load(self, work: LocalWork) -> None:
        """Make the template the node, about to train in its iteration."""
        self.template.load(work.row, work.learner.counters)
        self.template.mode(True)
        seed_torch(torch_seed(self.seed, work.learner.uid, "dropout", work.t), self.template.device)

    def _batches(self, work: LocalWork, draw: Draw) -> Iterator[LocalStep]:
        """The node's steps, one after the other in the same object."""
        learner, start = work.learner, 0
        x, y = self.samples.gather(torch.from_numpy(learner.indices[draw.order]))
        for index, size in enumerate(draw.sizes):
            self._look_up(index)
            stop = start + size
            part = slice(start, stop)
            self._step.begin(learner.uid, work.t, index, x[part], y[part], learner.memory)
            yield self._step
            start = stop

    def _take_steps(self, work: LocalWork, draw: Draw) -> None:
        step, state = self.optimizer.step, work.learner.optimizer
        correction, anchor = (self._in_work_order(one) for one in (work.correction, work.anchor))
        x, grad = self.template.work[: len(self.template.grad)], self.template.grad
        for one in self._batches(work, draw):
            self._gradient(one)
            self.template.keep_frozen()
            add_terms(grad, x, correction, anchor, work.pull)
            step(state)
            self.template.hold()

    def _look_up(self, step: int) -> None:
        """Before each step but the first: do what is to be done meanwhile."""
        if step and self.meanwhile is not None:
            self.meanwhile()

    def _gradient(self, step: LocalStep) -> None:
        """Have the training class leave the gradient of a step in the template's, and take in what
        the model has put in the place of the template's tensors.

        Without the graph that it was computed with, if the class did not detach it: else the row
        would hold the graphs of all steps so far.
        """
        found = self.training.gradient(step)  # type: ignore[func-returns-value]
        if found is not None:
            raise ConfigError(
                f"{type(self.training).__name__}.gradient returns {found!r:.60}: leave the "
                "gradient in step.grad, as step.grad.copy_(...), and return nothing"
            )
        if self.template.grad.requires_grad:
            self.template.grad.detach_()
        self.template.take_in()

    def _in_work_order(self, row: Tensor | None) -> Tensor | None:
        if row is None or (self.template.plain and row.device == self.template.device):
            return row
        return self.template.to_work_order(row.to(self.template.device))

    def _watch(self, work: LocalWork) -> None:
        """Note the first iteration that leaves a row with parameters that are not finite.

        A loss that is not finite makes the gradient so, and that the row, even with lr = 0. A
        buffer may be infinite, as a mask that is added before a softmax.
        """
        parameters = work.row[: self.template.layout.n_parameters]
        if not work.learner.nan and not math.isfinite(float(parameters.sum())):
            work.learner.nan = work.t + 1

    # --------------------------------------------------------------- evaluation

    def evaluate(
        self,
        row: Tensor,
        samples: Samples,
        indices: np.ndarray | None,
        counters: Sequence[Counter] | None = None,
    ) -> Evaluation:
        """Loss and metrics of a row, with a node's counters, on samples or those of ``indices``."""
        self.template.load(row, counters)
        self.template.mode(False)
        chosen = None if indices is None else torch.from_numpy(indices)
        return evaluate(self.template.model, self.task, samples, self.eval_batch, chosen)


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed the generator that dropout draws from; ``torch.manual_seed`` takes 100 times as long."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)


def add_terms(
    grad: Tensor,
    x: Tensor,
    correction: Tensor | None,
    anchor: Tensor | None,
    pull: float | Tensor,
) -> None:
    """Add ``correction`` and ``pull`` * (``x`` - ``anchor``) to ``grad``, all of one shape."""
    if correction is not None:
        grad.add_(correction)
    if anchor is not None:
        grad.add_((x - anchor).mul_(pull))
