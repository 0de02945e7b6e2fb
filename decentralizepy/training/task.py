"""What is learned: the loss of a model's output, and what an evaluation tells about it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from decentralizepy.config import Component
from decentralizepy.errors import ConfigError
from decentralizepy.registry import options

Loss = Callable[[Tensor, Tensor], Tensor]


class Task:
    """Loss and metrics of (output, target) pairs; subclass it for a task of your own.

    ``criterion`` is the loss that the INI names, or None: then the task's own.
    """

    def __init__(self, criterion: Loss | None = None) -> None:
        self.criterion = criterion

    def with_loss(self, criterion: Loss | None) -> Task:
        """This task with the loss that the INI names, if it names one."""
        if criterion is None:
            return self
        task = copy.copy(self)
        task.criterion = criterion
        return task

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean loss of a batch, differentiable."""
        if self.criterion is None:
            raise ConfigError(f"{type(self).__name__} has no loss of its own: set loss_class")
        return self.criterion(output, target)

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of each sample of a batch, [B]: what a batch of it alone would give."""
        alone = [self.loss(output[i : i + 1], target[i : i + 1]) for i in range(len(target))]
        return torch.stack(alone) if alone else output.new_zeros(0)

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Sums over the batch's units, as scalars on the output's device."""
        return {}

    def count(self, target: Tensor) -> int:
        """The units of a batch, which its mean loss is a mean of: samples, or tokens."""
        return len(target)

    def columns(self, sums: Mapping[str, float], count: int) -> dict[str, float]:
        """The metrics to record, from the sums over all batches; ``sums["loss"]`` is the loss's."""
        return {name: total / count for name, total in sums.items() if name != "loss"}


class Classification(Task):
    """Logits [B, classes] and labels [B] int64: cross-entropy, and accuracy in per cent."""

    def __init__(self, criterion: Loss | None = None) -> None:
        super().__init__(criterion or nn.CrossEntropyLoss())

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        if is_plain(self.criterion):
            return functional.cross_entropy(output, target, reduction="none")
        return super().losses(output, target)

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"correct": (output.argmax(dim=1) == target).sum()}

    def columns(self, sums: Mapping[str, float], count: int) -> dict[str, float]:
        return {"acc": 100.0 * sums["correct"] / count}


class OneHot(Classification):
    """Logits [B, classes] and labels [B] int64: each class is a question of its own, yes or no.

    The loss is the binary cross-entropy with the labels as one-hot vectors, a mean over samples and
    classes, as the reference's text classifiers have it. Another loss is called with logits and
    labels.
    """

    def __init__(self, criterion: Loss | None = None) -> None:
        super().__init__(criterion)
        self.criterion = criterion

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        if self.criterion is not None:
            return self.criterion(output, target)
        wanted = functional.one_hot(target, output.shape[1]).to(output.dtype)
        return functional.binary_cross_entropy_with_logits(output, wanted)


class LanguageModel(Task):
    """The next token: cross-entropy over tokens, their accuracy in per cent, and perplexity.

    Logits [B, T, V] or [B, V, T] (the former if V = T) for targets [B, T] int64, or [B, V] for
    targets [B]. Targets of ``ignore_index`` are padding: they count nowhere, and a batch of nothing
    else has the loss 0. Another loss is called with the tokens that count: [n, V] and [n].
    Perplexity is exp of the mean cross-entropy, whatever the loss.
    """

    def __init__(self, criterion: Loss | None = None, *, ignore_index: int = -100) -> None:
        super().__init__(criterion)
        self.ignore_index = ignore_index

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        logits, tokens = _by_token(output, target)
        if self._plain:
            total = functional.cross_entropy(
                logits, tokens, ignore_index=self.ignore_index, reduction="sum"
            )
            return total / (tokens != self.ignore_index).sum().clamp(min=1)
        assert self.criterion is not None
        kept = tokens != self.ignore_index
        return self.criterion(logits[kept], tokens[kept]) if kept.any() else logits.sum() * 0

    @property
    def _plain(self) -> bool:
        return self.criterion is None or is_plain(self.criterion)

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        logits, tokens = _by_token(output, target)
        right = (logits.argmax(dim=1) == tokens) & (tokens != self.ignore_index)
        found = {"correct": right.sum()}
        if not self._plain:
            found["entropy"] = functional.cross_entropy(
                logits, tokens, ignore_index=self.ignore_index, reduction="sum"
            )
        return found

    def count(self, target: Tensor) -> int:
        return int((target != self.ignore_index).sum())

    def columns(self, sums: Mapping[str, float], count: int) -> dict[str, float]:
        entropy = sums.get("entropy", sums["loss"]) / count
        perplexity = math.exp(entropy) if entropy < _LARGEST_EXPONENT else math.inf
        return {"acc": 100.0 * sums["correct"] / count, "perplexity": perplexity}


#: the exponential function is finite below it
_LARGEST_EXPONENT: Final = 709.0


def _by_token(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [tokens, V] and targets [tokens]."""
    if output.shape[:-1] != target.shape:
        if output.dim() < 3 or output.movedim(1, -1).shape[:-1] != target.shape:
            raise ValueError(
                f"logits {tuple(output.shape)} do not go with targets {tuple(target.shape)}: "
                "[B, T, V] or [B, V, T] is expected for [B, T]"
            )
        output = output.movedim(1, -1)
    return output.reshape(-1, output.shape[-1]), target.reshape(-1)


class Rating(Task):
    """Numbers, one for each sample: squared error, its root, and accuracy after rounding.

    As MovieLens in the reference system: a prediction is right if, limited to ``lowest`` and
    ``highest`` and rounded to a multiple of ``step``, it is the rating. The loss is the mean
    squared error unless the INI names another; outputs are [B] or [B, 1] for targets [B].
    """

    def __init__(
        self,
        criterion: Loss | None = None,
        *,
        step: float = 0.5,
        lowest: float = 0.5,
        highest: float = 5.0,
    ) -> None:
        super().__init__(criterion or nn.MSELoss())
        if not step > 0 or not lowest <= highest:
            raise ConfigError("ratings need a step above 0, and lowest at most highest")
        self.step, self.lowest, self.highest = step, lowest, highest

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return super().loss(output.reshape(target.shape), target)

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        if type(self.criterion) is nn.MSELoss and self.criterion.reduction == "mean":
            return (output.reshape(target.shape) - target).square()
        return super().losses(output.reshape(target.shape), target)

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        output = output.reshape(target.shape)
        steps = (output.clamp(self.lowest, self.highest) / self.step).round()
        squared = (output.double() - target.double()).square().sum()
        return {"squared": squared, "correct": (steps == (target / self.step).round()).sum()}

    def count(self, target: Tensor) -> int:
        return target.numel()

    def columns(self, sums: Mapping[str, float], count: int) -> dict[str, float]:
        mse = sums["squared"] / count
        return {"acc": 100.0 * sums["correct"] / count, "mse": mse, "rmse": math.sqrt(mse)}


#: tasks that a data set may name without loading torch
TASKS: Final[dict[str, type[Task]]] = {
    "classification": Classification,
    "one_hot": OneHot,
    "language": LanguageModel,
    "rating": Rating,
}


def is_plain(loss: Any) -> bool:
    """Whether a loss is a cross-entropy without options."""
    if type(loss) is not nn.CrossEntropyLoss or loss.weight is not None:
        return False
    return (loss.reduction, loss.label_smoothing, loss.ignore_index) == ("mean", 0.0, -100)


def build_task(dataset: Any, component: Component | None, criterion: Loss | None) -> Task:
    """The task that the INI names, else that of the data set (object or class), with a loss.

    A data set's ``task`` is a `Task`, a class of one, or a name of `TASKS`; without it, it is
    `Classification`. ``criterion`` is the INI's loss, or None for the task's own.
    """
    if component is not None:
        named = options(component.target) or {}
        task = component.build(**({"criterion": criterion} if "criterion" in named else {}))
        where = component.target.dotted
    else:
        found = getattr(dataset, "task", None) or "classification"
        if isinstance(found, str) and found not in TASKS:
            raise ConfigError(f"task = {found!r} of the data set: known are {', '.join(TASKS)}")
        found = TASKS[found] if isinstance(found, str) else found
        task = found() if isinstance(found, type) else found
        where = f"the task of {getattr(dataset, 'name', dataset)}"
        task = task.with_loss(criterion) if isinstance(task, Task) else task
    if not isinstance(task, Task):
        raise ConfigError(f"{where} is not a subclass of Task")
    return task
