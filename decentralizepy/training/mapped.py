"""Any models without state trained at once: ``torch.func`` maps one node's gradient over a stack.

A GPU is hardly used by one small model: here a kernel works for all nodes of a stack. The same
arithmetic in another order than one by one: numbers agree with those of `Trainer` within a relative
1e-3 of a run's change of the parameters, and which nodes are stacked may change their last bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from decentralizepy.training.batches import Batches
from decentralizepy.training.stacks import Held, Stacks, refusal
from decentralizepy.training.trainer import Trainer
from decentralizepy.training.work import LocalWork

#: parameters of the nodes of one stack
_ON_CPU: Final = 1 << 20
_ON_GPU: Final = 1 << 26


class MappedTrainer(Stacks):
    """Trains any models whose samples and nodes do not see each other."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        most = _ON_CPU if self.template.device.type == "cpu" else _ON_GPU
        self.at_once = max(1, most // self.template.layout.length)
        self._gradients = self._mapped()

    def _mapped(self) -> Any:
        """A function of rows [G, P], inputs [G, B, ...] and targets to gradients [G, P]."""
        from torch.func import functional_call, grad, vmap  # loads the compiler: 0.8 s, 70 MB

        model, task, fields = self.template.model, self.task, self.template.layout.parameters

        def loss(row: Tensor, x: Tensor, y: Tensor) -> Tensor:
            parameters = {f.name: row[f.start : f.stop].view(f.shape) for f in fields}
            return task.loss(functional_call(model, parameters, (x,)), y)

        return vmap(grad(loss), randomness="error")

    def _train_alike(self, works: Sequence[LocalWork], steps: int, width: int) -> None:
        """Batches are not padded, so nodes whose batches have other sizes are other stacks."""
        learners = [work.learner for work in works]
        batches = self.ahead.batches(learners, works[0].t, steps, width)
        alike: dict[tuple[int, ...], list[LocalWork]] = {}
        for work, sizes in zip(works, batches.sizes(), strict=True):
            alike.setdefault(sizes, []).append(work)
        for part in alike.values():
            super()._train_alike(part, steps, width)

    def _train_part(self, held: Held, batches: Batches, start: int, stop: int) -> Tensor:
        self.template.mode(True)
        stack = held.rows.take(start, stop).to(self.template.device)
        state, terms = held.state(start, stop), held.terms(start, stop)
        for step, size in enumerate(batches.sizes()[0]):
            self._look_up(step)
            index = torch.from_numpy(batches.index[:, step, :size].reshape(-1))
            x, y = (one.unflatten(0, (stop - start, size)) for one in self.samples.gather(index))
            self._update(stack, self._gradients(stack, x, y).detach(), state, terms)
        held.rows.put(start, stack)
        held.keep_state(start, state)
        return stack

    def try_out(self) -> str:
        """Why the model or its task can't be mapped, by two nodes with a sample each."""
        if not len(self.samples):
            return ""
        stack = self.template.initial.to(self.template.device).expand(2, -1)
        x, y = self.samples.gather(torch.zeros(2, dtype=torch.int64))
        try:
            self._gradients(stack, x.unsqueeze(1), y.unsqueeze(1))
        except Exception as error:  # users' models, or torch's rules for them, may raise anything
            return f"torch.func can't map the model: {type(error).__name__}: {error!s:.200}"
        return ""


def can_map(trainer: Trainer) -> str:
    """Why the nodes of a trainer can't be mapped, or an empty string if they may be."""
    layout = trainer.template.layout
    if layout.buffers or layout.counters:
        return "the model has buffers, as BatchNorm's, which steps change"
    for name, module in trainer.template.model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            return f"layer {name} is random, and a node's numbers must not depend on others"
    return refusal(trainer)
