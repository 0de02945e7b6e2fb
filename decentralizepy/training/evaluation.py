"""Loss and metrics of a model on many samples, in small batches and without gradients."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from decentralizepy.errors import ConfigError, RunError
from decentralizepy.messages.meta import shown
from decentralizepy.training.data import Samples
from decentralizepy.training.task import Task


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over the units of some samples, and the task's metrics by name."""

    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)


def evaluate(
    model: nn.Module, task: Task, samples: Samples, batch: int, indices: Tensor | None = None
) -> Evaluation:
    """Evaluate on all samples, or on those of ``indices``; ``model`` is in evaluation mode.

    Sums run in float64 over the task's units, so the result does not depend on how they are
    batched but for the rounding inside a batch; ``batch`` is a constant of the model, never tuned
    by timing.
    Without any unit the loss is NaN and there are no metrics.
    """
    sums: dict[str, Tensor] = {}
    count = 0
    with torch.inference_mode():
        for x, y in _batches(samples, batch, indices):
            units = _units(task, y)
            if not units:
                continue
            output = model(x)
            loss = _ask(task, "loss", output, y).double() * units
            for name, value in {**_metrics(task, output, y), "loss": loss}.items():
                sums[name] = sums[name] + value.double() if name in sums else value.double()
            count += units
    if not count:
        return Evaluation(float("nan"))
    totals = {name: float(total) for name, total in sums.items()}
    return Evaluation(totals["loss"] / count, _columns(task, totals, count))


def _units(task: Task, target: Tensor) -> int:
    """The units of a batch, from any kind of number."""
    found = _ask(task, "count", target)
    try:
        count = int(found)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        count = -1
    if count < 0 or count != found:
        raise _wrong(task, "count", found, "a whole number of at least 0, as int(...)")
    return count


def _metrics(task: Task, output: Tensor, target: Tensor) -> dict[str, Tensor]:
    """The sums of a batch by name, from any kind of numbers."""
    found = _ask(task, "metrics", output, target)
    if not isinstance(found, Mapping):
        raise _wrong(task, "metrics", found, "a dictionary of numbers by name")
    if "loss" in found:
        raise _wrong(task, "metrics", found, "another name: 'loss' is the sum of Task.loss")
    return {name: _scalar(task, name, value) for name, value in found.items()}


def _scalar(task: Task, name: str, value: Any) -> Tensor:
    try:
        one = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        one = torch.empty(0)
    if one.numel() != 1 or one.is_complex():
        raise _wrong(task, "metrics", {name: value}, "numbers by name, each a sum over the batch")
    return one


def _columns(task: Task, totals: Mapping[str, float], count: int) -> dict[str, Any]:
    """What is recorded: numbers as Python has them, for they are written as JSON."""
    found = _ask(task, "columns", totals, count)
    if not isinstance(found, Mapping):
        raise _wrong(task, "columns", found, "a dictionary of numbers by name")
    for name in found:
        if not str(name) or any(map(str.isspace, str(name))):
            raise _wrong(task, "columns", {name: found[name]}, "a name without blanks")
    return {name: _number(task, name, value) for name, value in found.items()}


def _number(task: Task, name: str, value: Any) -> Any:
    if isinstance(value, int | float | str):
        return value
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise _wrong(task, "columns", {name: value}, "numbers by name") from None


def _wrong(task: Task, method: str, found: Any, expected: str) -> RunError:
    kind = type(task)
    return RunError(
        f"{kind.__module__}.{kind.__qualname__}.{method} gives {shown(found)}: "
        f"{expected} is expected"
    )


def _ask(task: Task, method: str, *given: Any) -> Any:
    """What a method of the task gives; an error of it names the task, which may be a user's."""
    try:
        return getattr(task, method)(*given)
    except (ConfigError, MemoryError):
        raise
    except Exception as error:  # users' classes, or torch's, may raise anything
        kind, what = type(task), f"{type(error).__name__}: {error}"
        _, *names = inspect.signature(getattr(Task, method)).parameters
        raise RunError(
            f"{kind.__module__}.{kind.__qualname__}.{method} fails; it is called as "
            f"{method}({', '.join(names)}): {what}"
        ) from error


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
