"""Many small fully connected models trained at once, as batched matrix products.

A tiny model spends its time starting kernels, not multiplying. The rows of G nodes form a stack
[G, P]; each layer is one ``baddbmm`` over all of them, so a step costs about the kernels of one
node. The bits of a node do not depend on who else is in the stack: batches are padded to the
configured size with samples of weight zero, and a model that can be stacked always is, also alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from decentralizepy.errors import ConfigError
from decentralizepy.pernode import value_of
from decentralizepy.training.clipping import clip_each
from decentralizepy.training.optimizers import FlatSGDOptimizer
from decentralizepy.training.trainer import Learner, Trainer
from decentralizepy.training.training import Draw

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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        layers = layers_of(self.template.model)
        assert layers is not None and isinstance(self.optimizer, FlatSGDOptimizer)
        self.stacked = StackedModel(layers)
        self.rule = self.optimizer.rule
        self._shapes: dict[int, tuple[int, int]] = {}

    def train(self, learners: Sequence[Learner], rows: Sequence[Tensor], t: int) -> None:
        """Iteration ``t`` of all given nodes, in place on their rows."""
        draws = [self.prepare(learner, t) for learner in learners]
        alike: dict[tuple[int, int], list[int]] = {}
        for i, (learner, draw) in enumerate(zip(learners, draws, strict=True)):
            alike.setdefault((len(draw.sizes), self._width(learner)), []).append(i)
        for (steps, _), stack in alike.items():
            if steps:
                chosen = [learners[i] for i in stack], [rows[i] for i in stack]
                self._train_stack(*chosen, [draws[i] for i in stack], t)

    def together(self, one: Learner, other: Learner) -> bool:
        """Whether to train two nodes at once: nobody waits for another's further steps."""
        return self._shape(one) == self._shape(other)

    def _shape(self, learner: Learner) -> tuple[int, int]:
        """Steps and width of a node's batches, worked out once."""
        found = self._shapes.get(learner.uid)
        if found is None:
            steps = self.training.steps(len(learner.indices), learner.uid)
            found = self._shapes[learner.uid] = steps, self._width(learner)
        return found

    def _width(self, learner: Learner) -> int:
        """Samples that each batch of a node is padded to: a constant of the node."""
        batch, n = value_of(self.training.batch_size, learner.uid), len(learner.indices)
        return batch if batch <= n else min(batch, 1 << (n - 1).bit_length())

    def _train_stack(
        self,
        learners: Sequence[Learner],
        rows: Sequence[Tensor],
        draws: Sequence[Draw],
        t: int,
    ) -> None:
        stack = torch.stack(list(rows)).requires_grad_()
        state = _gather(learners)
        x, y, weight = self._batches(learners, draws)
        for step in range(x.shape[1]):
            (grad,) = torch.autograd.grad(
                self._loss(stack, x[:, step], y[:, step], weight[:, step]), stack
            )
            if self.clipping_norm is not None:
                clip_each(grad, self.clipping_norm)
            self.rule.update(stack.detach(), grad, state)
        torch._foreach_copy_(list(rows), list(stack.detach().unbind()))
        _scatter(learners, state)
        if not math.isfinite(float(stack.detach().sum())):
            for learner, row in zip(learners, rows, strict=True):
                self._watch(learner, row, t)

    def _batches(
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
    if not isinstance(trainer.loss, nn.CrossEntropyLoss) or vars_differ(trainer.loss):
        return "the loss is not a plain CrossEntropyLoss"
    if trainer.template.device.type != "cpu":
        return "stacks are trained on the CPU"
    return ""


def vars_differ(loss: nn.CrossEntropyLoss) -> bool:
    """Whether a cross-entropy has options beyond the defaults."""
    plain = (loss.reduction, loss.label_smoothing, loss.ignore_index) == ("mean", 0.0, -100)
    return not plain or loss.weight is not None


def choose_stacked(trainer: Trainer) -> bool:
    """Whether to stack, from the configuration and the model alone, never from timing."""
    wanted = trainer.training.stacked
    reason = "" if wanted == "no" else can_stack(trainer)
    if wanted == "yes" and reason:
        raise ConfigError(f"[TRAIN_PARAMS] stacked = yes, but {reason}")
    small = trainer.template.layout.n_parameters <= MAX_PARAMETERS
    return wanted != "no" and not reason and (small or wanted == "yes")
