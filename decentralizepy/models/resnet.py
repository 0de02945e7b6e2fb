"""ResNet-18 for large images: float32 [B, 3, H, W], H and W about 224, to logits [B, classes].

Names of parameters are those of the reference's `models.Resnet`, which are torchvision's. What the
class says of itself is explained in `decentralizepy.models`.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WIDTHS = (64, 64, 128, 256, 512)


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al., 2016), a projection where shapes differ."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or before != width:
            projection = nn.Conv2d(before, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, before, H, W] to [B, width, H / stride, W / stride]."""
        kept = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + kept, inplace=True)


class ResNet18(nn.Module):
    """11,689,512 parameters with 1,000 classes: eight residual blocks (64 to 512), batch norm."""

    eval_batch: ClassVar[int] = 8
    n_parameters: ClassVar[int] = 11_689_512
    n_buffers: ClassVar[int] = 9_600
    train_s: ClassVar[float] = 0.12  # guess
    evaluate_s: ClassVar[float] = 4e-2  # guess

    def __init__(self, *, classes: int = 1_000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        for i in range(1, 5):
            first = Block(_WIDTHS[i - 1], _WIDTHS[i], 1 if i == 1 else 2)
            second = Block(_WIDTHS[i], _WIDTHS[i], 1)
            self.add_module(f"layer{i}", nn.Sequential(first, second))
        self.fc = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
