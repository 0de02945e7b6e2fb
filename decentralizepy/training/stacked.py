"""Many small fully connected models trained at once, as batched matrix products.

A tiny model spends its time starting kernels, not multiplying. The rows of G nodes form a stack
[G, P]; each layer is one ``baddbmm`` over all of them, so a step costs about the kernels of one
node. The bits of a node do not depend on who else is in the stack: batches are padded to the
configured size with samples of weight zero, and a model that can be stacked always is, also alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from decentralizepy.errors import ConfigError
from decentralizepy.pernode import value_of
from decentralizepy.training.clipping import clip_each
from decentralizepy.training.optimizers import FlatSGDOptimizer
from decentralizepy.training.task import Classification
from decentralizepy.training.trainer import Learner, LocalWork, Trainer, add_terms
from decentralizepy.training.training import Draw, Training

#: larger models gain nothing: their kernels are long enough one by one
MAX_PARAMETERS = 65_536

_POINTWISE: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.ReLU: torch.relu,
    nn.Tanh: torch.tanh,
    nn.Sigmoid: torch.sigmoid,
}


def layers_of(model: nn.Module) -> list[nn.Module] | None:
    """The layers of a plain chain of Flatten, Linear and point-wise layers; None for others."""
    chain = model if isinstance(model, nn.Sequential) else getattr(model, "layers", None)
    if not isinstance(chain, nn.Sequential):
        return None
    if chain is not model and list(model.children()) != [chain]:
        return None
    layers = list(chain)
    known = all(type(layer) in (nn.Flatten, nn.Linear, *_POINTWISE) for layer in layers)
    return layers if known and any(isinstance(layer, nn.Linear) for layer in layers) else None


class StackedModel:
    """Forward pass of G models with parameters ``stack`` [G, P] on inputs [G, B, ...]."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = list(layers)

    def __call__(self, stack: Tensor, x: Tensor) -> Tensor:
        """Logits [G, B, classes]."""
        groups, start = len(stack), 0
        for layer in self.layers:
            if isinstance(layer, nn.Flatten):
                x = x.flatten(2)
            elif isinstance(layer, nn.Linear):
                shape = (groups, layer.out_features, layer.in_features)
                stop = start + layer.out_features * layer.in_features
                weight = stack[:, start:stop].view(shape).transpose(1, 2)
                start, stop = stop, stop + layer.out_features * (layer.bias is not None)
                bias = stack[:, start:stop].unsqueeze(1)
                x = torch.baddbmm(bias, x, weight) if stop > start else torch.bmm(x, weight)
                start = stop
            else:
                x = _POINTWISE[type(layer)](x)
        return x


class StackedTrainer(Trainer):
    """A `Trainer` whose nodes take their local steps together."""

    takes_groups = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        layers = layers_of(self.template.model)
        assert layers is not None and isinstance(self.optimizer, FlatSGDOptimizer)
        self.stacked = StackedModel(layers)
        self.rule = self.optimizer.rule
        self._shapes: dict[int, tuple[int, int]] = {}

    def together(self, waiting: Sequence[LocalWork]) -> list[int]:
        """All with as many steps of equally wide batches as the first: nobody waits for another."""
        first = self._kind(waiting[0])
        return [i for i, work in enumerate(waiting) if self._kind(work) == first]

    def train(self, group: Sequence[LocalWork]) -> None:
        """Local training of the given nodes, in place on their rows."""
        alike: dict[Hashable, list[tuple[LocalWork, Draw]]] = {}
        for work in group:
            draw = self.prepare(work)
            if draw.sizes:
                kind = self._kind(work), len(draw.sizes), *work.learner.optimizer
                alike.setdefault(kind, []).append((work, draw))
        for stack in alike.values():
            self._train_stack([work for work, _ in stack], [draw for _, draw in stack])

    def _kind(self, work: LocalWork) -> Hashable:
        """What must be equal for two nodes to share a stack."""
        steps, width = self._shape(work.learner)
        steps = steps if work.steps is None else work.steps
        return work.t, steps, width, work.correction is None, work.anchor is None

    def _shape(self, learner: Learner) -> tuple[int, int]:
        """Steps and width of a node's batches, worked out once."""
        found = self._shapes.get(learner.uid)
        if found is None:
            steps = self.training.steps(learner.n_samples, learner.uid)
            found = self._shapes[learner.uid] = steps, self._width(learner)
        return found

    def _width(self, learner: Learner) -> int:
        """Samples that each batch of a node is padded to: a constant of the node."""
        batch, n = value_of(self.training.batch_size, learner.uid), learner.n_samples
        return batch if batch <= n else min(batch, 1 << max(n - 1, 0).bit_length())

    def _train_stack(self, group: Sequence[LocalWork], draws: Sequence[Draw]) -> None:
        learners = [work.learner for work in group]
        stack = torch.stack([work.row for work in group]).requires_grad_()
        state = _gather(learners)
        x, y, weight = self._stacks_of_batches(learners, draws)
        terms = self._terms(group)
        for step in range(x.shape[1]):
            (grad,) = torch.autograd.grad(
                self._loss(stack, x[:, step], y[:, step], weight[:, step]), stack
            )
            if self.training.clipping_norm is not None:
                clip_each(grad, self.training.clipping_norm)
            add_terms(grad, stack.detach(), *terms)
            self.rule.update(stack.detach(), grad, state)
        torch._foreach_copy_([work.row for work in group], list(stack.detach().unbind()))
        _scatter(learners, state)
        if not math.isfinite(float(stack.detach().sum())):
            for work in group:
                self._watch(work)

    def _terms(self, group: Sequence[LocalWork]) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """What is added to the gradients: corrections, anchors [G, P] each, and pulls [G, 1]."""
        corrections = [work.correction for work in group if work.correction is not None]
        anchors = [work.anchor for work in group if work.anchor is not None]
        return (
            torch.stack(corrections) if corrections else None,
            torch.stack(anchors) if anchors else None,
            torch.tensor([[work.pull] for work in group]),
        )

    def _stacks_of_batches(
        self, learners: Sequence[Learner], draws: Sequence[Draw]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs [G, S, B, ...], labels [G, S, B], weights [G, S, B] (1 / size, 0 for padding)."""
        size, steps = self._width(learners[0]), len(draws[0].sizes)
        index = np.zeros((len(draws), steps, size), dtype=np.int64)
        weight = np.zeros((len(draws), steps, size), dtype=np.float32)
        for g, (learner, draw) in enumerate(zip(learners, draws, strict=True)):
            chosen = learner.indices[draw.order]
            if len(chosen) == steps * size:
                index[g], weight[g] = chosen.reshape(steps, size), 1 / size
                continue
            start = 0
            for s, count in enumerate(draw.sizes):
                index[g, s, :count] = chosen[start : start + count]
                weight[g, s, :count] = 1 / count
                start += count
        x, y = self.samples.gather(torch.from_numpy(index.reshape(-1)))
        return (
            x.reshape(len(draws), steps, size, *x.shape[1:]),
            y.view(index.shape),
            torch.from_numpy(weight),
        )

    def _loss(self, stack: Tensor, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Sum over nodes of each one's mean cross-entropy: gradients do not mix."""
        logits = self.stacked(stack, x)
        each = functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
        return (each * weight.flatten()).sum()


def _gather(learners: Sequence[Learner]) -> dict[str, Tensor]:
    """The nodes' optimizer states as stacks; empty before the first step."""
    names = learners[0].optimizer.keys()
    return {name: torch.stack([one.optimizer[name] for one in learners]) for name in names}


def _scatter(learners: Sequence[Learner], state: dict[str, Tensor]) -> None:
    for name, stack in state.items():
        for learner, row in zip(learners, stack.unbind(), strict=True):
            learner.optimizer[name] = row.clone()


def can_stack(trainer: Trainer) -> str:
    """Why the nodes of a trainer can't be stacked, or an empty string if they can."""
    if layers_of(trainer.template.model) is None:
        return "the model is not a chain of Flatten, Linear, ReLU, Tanh and Sigmoid layers"
    if not isinstance(trainer.optimizer, FlatSGDOptimizer):
        return "only SGD (with momentum, Nesterov, weight decay) steps stacks"
    if type(trainer.training).gradient is not Training.gradient:
        return f"{type(trainer.training).__name__} takes local steps of its own"
    if type(trainer.task) is not Classification or not is_plain(trainer.task.criterion):
        return "the loss is not a plain CrossEntropyLoss"
    if trainer.template.device.type != "cpu":
        return "stacks are trained on the CPU"
    return ""


def is_plain(loss: Any) -> bool:
    """Whether a loss is a cross-entropy without options."""
    if type(loss) is not nn.CrossEntropyLoss or loss.weight is not None:
        return False
    return (loss.reduction, loss.label_smoothing, loss.ignore_index) == ("mean", 0.0, -100)


def choose_stacked(trainer: Trainer) -> bool:
    """Whether to stack, from the configuration and the model alone, never from timing."""
    wanted = trainer.training.stacked
    reason = "" if wanted == "no" else can_stack(trainer)
    if wanted == "yes" and reason:
        raise ConfigError(f"[TRAIN_PARAMS] stacked = yes, but {reason}")
    small = trainer.template.layout.n_parameters <= MAX_PARAMETERS
    return wanted != "no" and not reason and (small or wanted == "yes")
