"""Networks for the digits of 8 x 8: float32 [B, 1, 8, 8], in any memory format, to logits [B, 10].

Small enough for tests and for thousands of nodes on one machine.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_CLASSES = 10


class MLP(nn.Module):
    """4,810 parameters: 64-64-10 with one ReLU."""

    eval_batch: ClassVar[int] = 512
    n_parameters: ClassVar[int] = 4_810
    train_s: ClassVar[float] = 1.5e-5
    evaluate_s: ClassVar[float] = 2e-6

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, NUM_CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10]."""
        return self.layers(x)


class DropoutMLP(nn.Module):
    """4,810 parameters: `MLP` with dropout after its ReLU; random in training mode only."""

    eval_batch: ClassVar[int] = 512
    n_parameters: ClassVar[int] = 4_810
    train_s: ClassVar[float] = 2e-5  # guess
    evaluate_s: ClassVar[float] = 2e-6  # guess

    def __init__(self, *, dropout: float = 0.2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(64, NUM_CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10]."""
        return self.layers(x)


class CNN(nn.Module):
    """3,818 parameters: 3 x 3 convolutions of 8 (pooled) and 16 channels, then 256-10."""

    eval_batch: ClassVar[int] = 256
    n_parameters: ClassVar[int] = 3_818
    train_s: ClassVar[float] = 6e-5  # guess
    evaluate_s: ClassVar[float] = 1.2e-5  # guess

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.fc1 = nn.Linear(16 * 4 * 4, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10]."""
        x = F.relu(self.pool(self.conv1(x)), inplace=True)
        x = F.relu(self.conv2(x), inplace=True)
        return self.fc1(torch.flatten(x, 1))
