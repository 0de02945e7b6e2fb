"""One local step of one node: what `Training.gradient` is given, and may be overridden with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from decentralizepy.errors import ConfigError
from decentralizepy.streams import torch_seed
from decentralizepy.training.clipping import clip
from decentralizepy.training.task import Task
from decentralizepy.training.template import Template

#: layers that let the samples of a batch see each other
_BATCH_NORMS: Final = (nn.modules.batchnorm._BatchNorm,)


class LocalStep:
    """The mini-batch ``x``, ``y`` of step ``index`` of node ``uid`` in iteration ``t``.

    A `Training` leaves the gradient in ``grad`` [n_parameters], which is zero at first. Its
    entries, like the columns of `per_sample`, are in the order of the model's memory, where weights
    of convolutions lie channels-last. ``model`` holds the node's parameters; ``parameters`` are
    the same by name, and their ``.grad`` are views of ``grad``. ``memory`` is the node's own from
    step to step and kept in checkpoints: tensors and JSON values by name, copies of what changes.
    """

    uid: int
    t: int
    index: int
    x: Tensor
    y: Tensor
    _memory: dict[str, Any]

    def __init__(self, template: Template, task: Task, seed: int) -> None:
        self.model, self.task, self.grad = template.model, task, template.grad
        self.parameters = dict(self.model.named_parameters())
        self._template, self._seed = template, seed
        self._generator = torch.Generator(template.device)
        self._seeded = False

    def begin(
        self, uid: int, t: int, index: int, x: Tensor, y: Tensor, memory: dict[str, Any]
    ) -> None:
        """Become another step."""
        self.uid, self.t, self.index, self.x, self.y = uid, t, index, x, y
        self._memory = memory
        self.grad.zero_()
        self._seeded = False

    @property
    def memory(self) -> dict[str, Any]:
        """What the node remembers; one that is assigned takes the place of what was there."""
        return self._memory

    @memory.setter
    def memory(self, value: Mapping[str, Any]) -> None:
        found = dict(value)  # it may be what is there
        self._memory.clear()
        self._memory.update(found)

    @property
    def generator(self) -> torch.Generator:
        """A generator on the model's device for this step's noise, from the node's own stream."""
        if not self._seeded:
            seed = torch_seed(self._seed, self.uid, "step", self.t, self.index)
            self._generator.manual_seed(seed)
            self._seeded = True
        return self._generator

    def loss(self) -> Tensor:
        """The mean loss of the mini-batch, differentiable."""
        return self.task.loss(self.model(self.x), self.y)

    def backward(self) -> None:
        """Add the gradient of the mini-batch's mean loss to ``grad``."""
        self.loss().backward()

    def clip(self, norm: float) -> None:
        """Scale ``grad`` down to an l2 norm of at most ``norm``."""
        clip(self.grad, norm)

    def per_sample(self, start: int = 0, stop: int | None = None) -> Tensor:
        """The gradient of every sample's own loss [B, n_parameters]; ``grad`` is not touched.

        With ``start`` and ``stop``, of these samples of the mini-batch alone.
        Raises `ConfigError` for a model with BatchNorm, where a sample has no gradient of its own,
        and for one with a recurrent layer that torch cannot map over samples (GRU, RNN).
        """
        from torch.func import functional_call, grad, vmap  # loads the compiler: 0.8 s, 70 MB

        self._check_separable()

        def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            output = functional_call(self.model, parameters, (x.unsqueeze(0),))
            return self.task.loss(output, y.unsqueeze(0))

        each = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")
        held = {name: one.detach() for name, one in self.parameters.items() if one.requires_grad}
        x, y = self.x[start:stop], self.y[start:stop]
        with warnings.catch_warnings():  # LSTMs are mapped one by one, and torch says so
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            try:
                return self._template.flat(each(held, x, y), len(x))
            except Exception as error:  # what is mapped is the user's
                raise self._unmapped(error) from error

    def _unmapped(self, error: Exception) -> Exception:
        """What to raise as `per_sample` has failed; an error of its own if `loss` fails too."""
        self.loss()
        for name, module in self.model.named_modules():
            if isinstance(module, nn.RNNBase) and not isinstance(module, nn.LSTM):
                return ConfigError(
                    f"per-sample gradients: torch cannot map layer {name}, a "
                    f"{type(module).__name__}, over samples; take LSTM"
                )
        return RuntimeError(
            "step.loss() works, but step.per_sample() cannot map model and loss over the samples "
            f"(torch.func.vmap): {type(error).__name__}: {error}"
        )

    def _check_separable(self) -> None:
        for name, module in self.model.named_modules():
            if isinstance(module, _BATCH_NORMS) and self.model.training:
                raise ConfigError(
                    f"per-sample gradients need samples that do not see each other: layer {name} "
                    f"is a {type(module).__name__}; take GroupNorm"
                )
