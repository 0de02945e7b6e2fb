"""Many small fully connected models trained at once, as batched matrix products.

A tiny model spends its time starting kernels, not multiplying: a step of G nodes costs about the
kernels of one. The bits of a node do not depend on who else is in the stack: batches are padded to
the configured size with samples of weight zero, and a model that can be stacked always is, also
alone.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from decentralizepy.training.batches import Batches
from decentralizepy.training.homes import State
from decentralizepy.training.layers import LINE, LayersStep, Memory, Plan, aligned, layers_of
from decentralizepy.training.stacks import Held, Stacks, Terms, refusal
from decentralizepy.training.task import Classification, is_plain
from decentralizepy.training.trainer import Trainer

#: parameters of the nodes of one stack: what a core's cache holds, and what occupies a GPU
_IN_CACHE: Final = 430_000
_ON_GPU: Final = 1 << 26
#: sizes of stacks that are remembered; all share memory
_ROOMS: Final = 256


class StackedTrainer(Stacks):
    """Trains chains of linear layers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        layers = layers_of(self.template.model)
        assert layers is not None
        self.plan = Plan(layers)
        most = _IN_CACHE if self.template.device.type == "cpu" else _ON_GPU
        self.at_once = max(1, most // self.plan.length)
        self._memory = Memory(self.template.device, 0)
        self._rooms: dict[tuple[int, int], Room] = {}

    def _train_part(self, held: Held, batches: Batches, start: int, stop: int) -> Tensor:
        room = self._room(stop - start, batches.index.shape[2])
        held.rows.take(start, stop, room.stack)
        x, y = self._gather(batches.index)
        weights = torch.from_numpy(batches.shares).to(room.stack.device).unsqueeze(3)
        state, terms = held.state(start, stop), held.terms(start, stop)
        for step in range(len(x)):
            self._look_up(step)
            room.step.run(x[step], y[step], weights[:, step])
            self._step_room(room, state, terms)
        held.rows.put(start, room.stack)
        held.keep_state(start, state)
        return room.stack

    def _step_room(self, room: Room, state: State, terms: Terms | None) -> None:
        new = self.rule.momentum and not state
        if new or self.training.clipping_norm is not None or terms is not None:
            torch._foreach_copy_(room.views, room.step.gradients)
            self._update(room.stack, room.grad, state, terms)
            return
        for start, parameters, gradients in zip(
            room.step.starts, room.step.parameters, room.step.gradients, strict=True
        ):
            stop = start + parameters[0].numel()
            piece = {name: held[:, start:stop].view_as(parameters) for name, held in state.items()}
            self.rule.update(parameters, gradients, piece)

    def _gather(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs [steps, G, width, features] and labels [steps, G, width, 1] of ``index``."""
        by_step = np.ascontiguousarray(index.transpose(1, 0, 2))
        x, y = self.samples.gather(torch.from_numpy(by_step.reshape(-1)))
        x = x.reshape(*by_step.shape, -1)
        if x.shape[2:].numel() % LINE:
            x = aligned(x.device, len(x) * x.shape[1], *x.shape[2:]).view_as(x).copy_(x)
        return x, y.view(*by_step.shape, 1)

    def _room(self, nodes: int, width: int) -> Room:
        if nodes > self._memory.groups:
            self._memory = Memory(self.template.device, min(2 * nodes, self.at_once))
            self._rooms.clear()
        found = self._rooms.get((nodes, width))
        if found is None:
            if len(self._rooms) >= _ROOMS:
                self._rooms.clear()
            found = self._rooms[nodes, width] = Room(self.plan, self._memory, nodes, width)
        return found


class Room:
    """Where G nodes take their steps: their parameters ``stack`` and gradients ``grad`` [G, P]."""

    def __init__(self, plan: Plan, memory: Memory, nodes: int, width: int) -> None:
        self.stack = memory.take("stack", nodes, plan.length)
        self.grad = memory.take("grad", nodes, plan.length)
        self.step = LayersStep(plan, self.stack, width, memory)
        self.views = LayersStep(plan, self.grad, 0, memory).parameters


def can_stack(trainer: Trainer) -> str:
    """Why the nodes of a trainer can't be stacked, or an empty string if they can."""
    layers = layers_of(trainer.template.model)
    if layers is None:
        return "the model is not just a chain of Flatten, Linear, ReLU, Tanh and Sigmoid layers"
    if not isinstance(layers[0], nn.Flatten) and trainer.samples.x.dim() != 2:
        return "the model does not begin with Flatten"
    if why := refusal(trainer):
        return why
    if type(trainer.task) is not Classification or not is_plain(trainer.task.criterion):
        return "the loss is not a plain CrossEntropyLoss"
    return ""
