"""Networks for CelebA: float32 [B, 3, 84, 84], in any memory format, to logits [B, 2].

What the classes say of themselves is explained in `decentralizepy.models`.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_CLASSES = 2


class CNN(nn.Module):
    """30,242 parameters: four 3 x 3 convolutions of 32 channels, each pooled; 800-2.

    The reference's `CNN`, which is that of LEAF (Caldas et al., 2018). Pooling comes before ReLU,
    and ReLU works in place: both keep every bit of losses and gradients.
    """

    eval_batch: ClassVar[int] = 32
    n_parameters: ClassVar[int] = 30_242
    train_s: ClassVar[float] = 2e-3  # guess
    evaluate_s: ClassVar[float] = 7e-4  # guess

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding="same")
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(32, 32, 3, padding="same")
        self.conv3 = nn.Conv2d(32, 32, 3, padding="same")
        self.conv4 = nn.Conv2d(32, 32, 3, padding="same")
        self.fc1 = nn.Linear(5 * 5 * 32, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 2]."""
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.relu(self.pool(conv(x)), inplace=True)
        return self.fc1(torch.flatten(x, 1))
