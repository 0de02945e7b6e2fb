"""What is learned: the loss of a model's output, and what an evaluation tells about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


class Task:
    """Loss and metrics of (output, target) pairs; subclass it for a task of your own.

    ``criterion`` is the loss that the INI names, or None: then the task's own.
    """

    def __init__(self, criterion: Loss | None = None) -> None:
        self.criterion = criterion

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean loss of a batch, differentiable."""
        assert self.criterion is not None, f"{type(self).__name__} has no loss of its own"
        return self.criterion(output, target)

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Sums over the batch's units, as scalars on the output's device."""
        return {}

    def count(self, target: Tensor) -> int:
        """The units of a batch, which its mean loss is a mean of: samples, or tokens."""
        return len(target)

    def columns(self, sums: Mapping[str, float], count: int) -> dict[str, float]:
        """The metrics to record from the sums over all batches, among them that of the loss."""
        return {name: total / count for name, total in sums.items() if name != "loss"}


class Classification(Task):
    """Logits [B, classes] and labels [B] int64: cross-entropy, accuracy in per cent."""

    def __init__(self, criterion: Loss | None = None) -> None:
        super().__init__(criterion or nn.CrossEntropyLoss())

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"correct": (output.argmax(dim=1) == target).sum()}

    def columns(self, sums: Mapping[str, float], count: int) -> dict[str, float]:
        return {"acc": 100.0 * sums["correct"] / count}
