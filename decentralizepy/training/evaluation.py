"""Loss and accuracy of a model on many samples, in small batches and without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decentralizepy.training.data import Samples

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over samples and accuracy in per cent."""

    loss: float
    accuracy: float


def evaluate(
    model: nn.Module, loss: Loss, samples: Samples, batch: int, indices: Tensor | None = None
) -> Evaluation:
    """Evaluate on all samples, or on those of ``indices``; ``model`` is in evaluation mode.

    Sums run in float64 over samples, so the result does not depend on how they are batched but
    for the rounding inside a batch; ``batch`` is a constant of the model, never tuned by timing.
    """
    total, correct, count = torch.zeros((), dtype=torch.float64), 0, 0
    with torch.inference_mode():
        for x, y in _batches(samples, batch, indices):
            output = model(x)
            total += loss(output, y).double().cpu() * len(y)
            correct += int((output.argmax(dim=1) == y).sum())
            count += len(y)
    if not count:
        return Evaluation(float("nan"), float("nan"))
    return Evaluation(float(total) / count, 100.0 * correct / count)


def _batches(
    samples: Samples, batch: int, indices: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    n = len(samples) if indices is None else len(indices)
    for start in range(0, n, batch):
        stop = min(start + batch, n)
        if indices is None:
            yield samples.slice(start, stop)
        else:
            yield samples.gather(indices[start:stop])
