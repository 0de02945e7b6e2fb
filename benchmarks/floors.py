"""The arithmetic of an iteration alone, for many nodes at once, as bare loops over torch's kernels.

What the engine takes beyond these is its own: programs, messages, rows, records.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.crew import Crew
from benchmarks.load import Load

#: neighbours of a node
_DEGREE = 4
#: parameters of the nodes whose steps are taken at once: more do not fit into the cache
_IN_CACHE = 640_000
#: numbers of the sums that are worked out before they are put where they belong
_SUMS = 1 << 18


def _rows(load: Load, own: int) -> Any:
    from decentralizepy.training.template import Template

    template = Template(load.make_model(), load.device)
    return template.initial.to(load.device).repeat(own, 1)


def _length(load: Load) -> int:
    return int(_rows(load, 1).shape[1])


def shared(load: Load) -> int:
    """How many numbers the processes of `gossip` share: two rows of each node."""
    return 2 * load.nodes * _length(load)


def gossip(load: Load, crew: Crew) -> Callable[[], None]:
    """Local steps and weighted sums of all nodes, by processes that meet once in an iteration."""
    import torch

    own = load.nodes // crew.size
    first = own * crew.number
    rows, other = crew.memory().view(2, load.nodes, -1).unbind()
    mine = slice(first, first + own)
    rows[mine] = _rows(load, 1)
    steps, sums = _steps(load, own), _Sums(load, first, own)

    def iteration() -> None:
        nonlocal rows, other
        steps(rows[mine])
        crew.meet()  # who is here has read what we write next
        sums.put(rows, other[mine])
        rows, other = other, rows

    return torch.no_grad()(iteration)


def _steps(load: Load, own: int) -> Callable[[Any], None]:
    """Local steps of rows [own, P], chains of linear layers, as batched products."""
    import torch

    from decentralizepy.training.layers import LayersStep, Memory, Plan, layers_of

    samples, length = load.stored(), _length(load)
    layers = layers_of(load.make_model())
    assert layers is not None
    parts = -(-own * length // _IN_CACHE)
    size = -(-own // parts)
    memory = Memory(samples.device, size)
    stack = memory.take("stack", size, length)
    step = LayersStep(Plan(layers), stack, load.batch, memory)
    shares = torch.full((size, load.batch, 1), 1 / load.batch)
    rng = np.random.default_rng(1)

    def chunk(rows: Any) -> None:
        chosen = rng.integers(0, len(samples), load.steps * size * load.batch)
        x, y = samples.gather(torch.from_numpy(chosen))
        x = x.reshape(load.steps, size, load.batch, -1)
        y = y.view(load.steps, size, load.batch, 1)
        stack.copy_(rows)
        for images, labels in zip(x, y, strict=True):
            step.run(images, labels, shares)
            for parameters, gradients in zip(step.parameters, step.gradients, strict=True):
                parameters.add_(gradients, alpha=-load.lr)
        rows.copy_(stack)

    def all_of_them(rows: Any) -> None:
        for start in range(0, own, size):
            begin = min(start, own - size)
            chunk(rows[begin : begin + size])

    return all_of_them


class _Sums:
    """Weighted sums of ``own`` nodes from ``first`` on, each with four others of all."""

    def __init__(self, load: Load, first: int, own: int) -> None:
        import torch

        drawn = np.random.default_rng(1).integers(0, load.nodes, (own, _DEGREE))
        sources = np.column_stack([np.arange(first, first + own), drawn])
        self._sources = torch.from_numpy(sources).to(load.device)
        self._weights = torch.full(sources.shape, 1 / (_DEGREE + 1), device=load.device)

    def put(self, rows: Any, out: Any) -> None:
        """Sums of rows [nodes, P] into ``out`` [own, P], by the kernel that reads each row once."""
        import torch

        size = max(1, _SUMS // rows.shape[1])
        for start in range(0, len(out), size):
            part = slice(start, start + size)
            out[part] = torch.nn.functional.embedding_bag(
                self._sources[part], rows, mode="sum", per_sample_weights=self._weights[part]
            )


def merge(load: Load, own: int) -> Callable[[], None]:
    """Every node's weighted sum with four others."""
    import torch

    rows, sums = _rows(load, own), _Sums(load, 0, own)
    other = torch.empty_like(rows)

    def iteration() -> None:
        nonlocal rows, other
        sums.put(rows, other)
        rows, other = other, rows

    return iteration


def average(load: Load, own: int) -> Callable[[], None]:
    """What the program of a server and its clients computes: a mean, and a copy to every client."""
    import torch

    from benchmarks.programs.star import Tiny
    from decentralizepy.training.template import Template

    rows = list(Template(Tiny()).initial.repeat(own, 1).unbind())

    def iteration() -> None:
        mean = torch.zeros_like(rows[0])
        for row in rows:
            mean = mean + row * (1 / own)
        for row in rows:
            row.copy_(mean)

    return iteration


def mapped(load: Load, own: int) -> Callable[[], None]:
    """Local steps of ``own`` models of any kind in one stacked pass, without sharing."""
    import torch
    from torch.func import functional_call, grad, vmap

    from decentralizepy.training.layout import RowLayout

    samples, stack, model = load.stored(), _rows(load, own), load.make_model().to(load.device)
    fields = RowLayout.of(model).parameters
    criterion, rng = torch.nn.CrossEntropyLoss(), np.random.default_rng(1)

    def loss(row: Any, x: Any, y: Any) -> Any:
        parameters = {f.name: row[f.start : f.stop].view(f.shape) for f in fields}
        return criterion(functional_call(model, parameters, (x,)), y)

    gradients = vmap(grad(loss))

    def iteration() -> None:
        for _ in range(load.steps):
            chosen = torch.from_numpy(rng.integers(0, len(samples), own * load.batch))
            x, y = (one.unflatten(0, (own, load.batch)) for one in samples.gather(chosen))
            stack.add_(gradients(stack, x, y), alpha=-load.lr)

    return iteration
