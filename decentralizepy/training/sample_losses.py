"""The loss of a model on every single sample: what membership is told from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from decentralizepy.training.data import Samples
from decentralizepy.training.layout import Counter, counter
from decentralizepy.training.task import Task
from decentralizepy.training.template import Template


def sample_losses(
    template: Template,
    task: Task,
    row: Tensor,
    parts: Sequence[Samples],
    batch: int,
    counters: Sequence[Counter] | None = None,
) -> Tensor:
    """Losses of the model ``row`` [P] on all samples of ``parts``, one part after the other.

    ``counters`` are its node's integer buffers; without any, those that all begin with. Float32
    [total number of samples], in CPU memory; the model is in evaluation mode. A sample whose loss
    is no number stays NaN.
    """
    template.load(row, counters)
    template.mode(False)
    found = [torch.zeros(0)]
    with torch.inference_mode():
        for samples in parts:
            for start in range(0, len(samples), batch):
                x, y = samples.slice(start, min(start + batch, len(samples)))
                found.append(task.losses(template.model(x), y).float().cpu())
    return torch.cat(found)


def flat_state(
    template: Template, row: Tensor, counters: Sequence[Counter] | None = None
) -> Tensor:
    """A row as the reference system flattens a model: float32, all of ``state_dict()`` in its
    order, integer buffers too."""
    template.load(row, counters)
    state = template.model.state_dict()
    return torch.cat([value.detach().reshape(-1).float().cpu() for value in state.values()])


def row_of_state(template: Template, flat: Tensor) -> tuple[Tensor, list[Counter]]:
    """The row and integer buffers that `flat_state` was made of; raises ValueError for a vector of
    another length."""
    state = template.model.state_dict()
    expected = sum(value.numel() for value in state.values())
    if flat.dim() != 1 or len(flat) != expected:
        raise ValueError(f"{tuple(flat.shape)} numbers, not the {expected} of the model's state")
    places, start = dict[str, Tensor](), 0
    for name, value in state.items():
        places[name] = flat[start : start + value.numel()]
        start += value.numel()
    row = torch.cat([places[field.name] for field in template.layout.fields])
    kept = [
        places[one].view(state[one].shape).to(state[one].dtype) for one in template.layout.counters
    ]
    return row, [counter(one) for one in kept]
