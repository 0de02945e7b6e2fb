"""Small networks for data of one's own: their sizes are options in the section [MODEL].

What they have as parameters depends on these options, so a plan does not know their size.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class LogisticRegression(nn.Module):
    """inputs x classes + classes parameters: numbers or images [B, ...] to logits [B, classes]."""

    def __init__(self, *, inputs: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return self.layers(x)


class MLP(nn.Module):
    """One hidden layer with ReLU: numbers or images [B, ...] to logits [B, classes]."""

    def __init__(self, *, inputs: int, classes: int, hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return self.layers(x)


class CNN(nn.Module):
    """Two 3 x 3 convolutions (width, 2 width channels), group norm, pooled to 4 x 4; one layer.

    Images [B, channels, H, W] of any size from 8 x 8 on, to logits [B, classes].
    """

    def __init__(self, *, classes: int, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.gn1 = nn.GroupNorm(2, width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.gn2 = nn.GroupNorm(2, 2 * width)
        self.fc1 = nn.Linear(2 * width * 4 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        x = F.relu(F.max_pool2d(self.gn1(self.conv1(x)), 2))
        x = F.relu(F.adaptive_avg_pool2d(self.gn2(self.conv2(x)), 4))
        return self.fc1(x.flatten(1))
