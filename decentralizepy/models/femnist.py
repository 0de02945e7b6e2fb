"""Networks for FEMNIST: float32 [B, 1, 28, 28], in any memory format, to logits [B, 62].

Shapes, parameter names and order of construction are those of the reference system, so that the
same seed of torch gives the same initial weights. Pooling comes before ReLU, and ReLU works in
place: both keep every bit of losses and gradients, and cost less.

What the classes say of themselves is explained in `decentralizepy.models`.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decentralizepy.models.residual import BATCH_NORM_NAMES, AdaptedGroupNorm, Norm, Renamed

NUM_CLASSES = 62


class LogisticRegression(nn.Module):
    """48,670 parameters: 784-62. The reference's `LogisticRegression`."""

    eval_batch: ClassVar[int] = 512
    n_parameters: ClassVar[int] = 48_670
    train_s: ClassVar[float] = 6e-6
    evaluate_s: ClassVar[float] = 2e-6

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(28 * 28, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 62]."""
        return self.fc1(torch.flatten(x, 1))


class CNN(nn.Module):
    """1,690,046 parameters: two 5 x 5 convolutions (32, 64 channels), each pooled; 3136-512-62.

    The reference's `CNN`, which is that of LEAF (Caldas et al., 2018) with 512 hidden units.
    """

    eval_batch: ClassVar[int] = 64
    n_parameters: ClassVar[int] = 1_690_046
    train_s: ClassVar[float] = 8.5e-4
    evaluate_s: ClassVar[float] = 3.2e-4

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc1 = nn.Linear(7 * 7 * 64, 512)
        self.fc2 = nn.Linear(512, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 62]."""
        x = F.relu(self.pool(self.conv1(x)), inplace=True)
        x = F.relu(self.pool(self.conv2(x)), inplace=True)
        x = F.relu(self.fc1(torch.flatten(x, 1)), inplace=True)
        return self.fc2(x)


class _BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that uses its running statistics where a batch has one value per channel.

    The last stage sees 1 x 1 pixels, so a batch of one sample has no statistics of its own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, C, H, W] to the same."""
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


class _Block(Renamed):
    """Two 3 x 3 convolutions and a shortcut (He et al., 2016), which is made by the caller.

    Its normalizations have the fork's names; those of the reference system are loaded too.
    """

    also_named = BATCH_NORM_NAMES

    def __init__(
        self, c_in: int, c_out: int, stride: int, norm: Norm, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.norm1 = norm(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm2 = norm(c_out)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, c_in, H, W] to [B, c_out, H / stride, W / stride]."""
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.norm2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)


def _stage(c_in: int, c_out: int, stride: int, norm: Norm) -> nn.Sequential:
    downsample = None
    if c_in != c_out:  # before the block, as there: the order of construction is that of the draws
        projection = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
        downsample = nn.Sequential(projection, norm(c_out))
    first = _Block(c_in, c_out, stride, norm, downsample)
    return nn.Sequential(first, _Block(c_out, c_out, 1, norm, None))


class RNET(nn.Module):
    """2,811,678 parameters: a ResNet-18 of half the width (32 to 256 channels), batch norm; 256-62.

    The reference's `RNET` (He et al., 2016), with 4,800 elements of running statistics.
    Convolutions start from He's normal distribution over outgoing connections.
    """

    eval_batch: ClassVar[int] = 256
    n_parameters: ClassVar[int] = 2_811_678
    n_buffers: ClassVar[int] = 4_800
    train_s: ClassVar[float] = 7e-4
    evaluate_s: ClassVar[float] = 1.5e-4

    def __init__(self) -> None:
        super().__init__()
        self._build(_BatchNorm2d)

    def _build(self, norm: Norm) -> None:
        self.conv1 = nn.Conv2d(1, 32, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(32)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(32, 32, 1, norm)
        self.layer2 = _stage(32, 64, 2, norm)
        self.layer3 = _stage(64, 128, 2, norm)
        self.layer4 = _stage(128, 256, 2, norm)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(256, NUM_CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 62]."""
        x = F.relu(self.maxpool(self.bn1(self.conv1(x))), inplace=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class GN_RNET(RNET):  # noqa: N801 (the name that configurations use)
    """2,811,678 parameters and no buffers: `RNET` with group norm (32 groups) instead.

    The fork's `GN_RNET`.
    """

    n_parameters: ClassVar[int] = 2_811_678
    n_buffers: ClassVar[int] = 0
    train_s: ClassVar[float] = 1.2e-3
    evaluate_s: ClassVar[float] = 5e-4

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self._build(AdaptedGroupNorm)
