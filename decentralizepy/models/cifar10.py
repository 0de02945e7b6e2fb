"""Networks for CIFAR-10: float32 [B, 3, 32, 32], in any memory format, to logits [B, 10].

Shapes, parameter names and order of construction are those of the reference system, so that the
same seed of torch gives the same initial weights and its saved weights load here. Pooling comes
before ReLU, and ReLU works in place: both keep every bit of losses and gradients (both only
compare), and cost less.

What the classes say of themselves is explained in `decentralizepy.models`.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decentralizepy.models.residual import AdaptedGroupNorm, Norm, stage

NUM_CLASSES = 10


class CNN(nn.Module):
    """62,006 parameters: two 5 x 5 convolutions (6, 16 channels), each pooled; 400-120-84-10.

    The reference's `CNN`, known from PyTorch's CIFAR-10 tutorial.
    """

    eval_batch: ClassVar[int] = 128
    n_parameters: ClassVar[int] = 62_006
    train_s: ClassVar[float] = 2.1e-4
    evaluate_s: ClassVar[float] = 4.1e-5

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10]."""
        x = F.relu(self.pool(self.conv1(x)), inplace=True)
        x = F.relu(self.pool(self.conv2(x)), inplace=True)
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x), inplace=True)
        x = F.relu(self.fc2(x), inplace=True)
        return self.fc3(x)


class LeNet(nn.Module):
    """89,834 parameters: three 5 x 5 convolutions (32, 32, 64), group norm (2), pool; 1024-10.

    The reference's `LeNet`, after LeCun et al., "Gradient-based learning applied to document
    recognition", 1998.
    """

    eval_batch: ClassVar[int] = 32
    n_parameters: ClassVar[int] = 89_834
    train_s: ClassVar[float] = 7.1e-4
    evaluate_s: ClassVar[float] = 2.1e-4

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 5, padding="same")
        self.pool = nn.MaxPool2d(2, 2)
        self.gn1 = nn.GroupNorm(2, 32)
        self.conv2 = nn.Conv2d(32, 32, 5, padding="same")
        self.gn2 = nn.GroupNorm(2, 32)
        self.conv3 = nn.Conv2d(32, 64, 5, padding="same")
        self.gn3 = nn.GroupNorm(2, 64)
        self.fc1 = nn.Linear(64 * 4 * 4, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10]."""
        x = F.relu(self.pool(self.gn1(self.conv1(x))), inplace=True)
        x = F.relu(self.pool(self.gn2(self.conv2(x))), inplace=True)
        x = F.relu(self.pool(self.gn3(self.conv3(x))), inplace=True)
        return self.fc1(torch.flatten(x, 1))


class ResNet8(nn.Module):
    """4,932,344 parameters: three residual blocks (128, 256, 512 channels), batch norm; 2048-10.

    The reference's `ResNet8`, from FedKD (Gong et al., 2022). `linear2` and `emb` belong to the
    distillation there: here they never get a gradient, but they are initialized, shared and
    averaged as in the reference.
    """

    eval_batch: ClassVar[int] = 32
    n_parameters: ClassVar[int] = 4_932_344
    n_buffers: ClassVar[int] = 5_376
    train_s: ClassVar[float] = 2.4e-2  # guess
    evaluate_s: ClassVar[float] = 8e-3  # guess

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 128, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(128)
        self.layer1 = stage(128, 128, blocks=1, stride=1)
        self.layer2 = stage(128, 256, blocks=1, stride=2)
        self.layer3 = stage(256, 512, blocks=1, stride=2)
        self.linear1 = nn.Linear(2048, NUM_CLASSES)
        self.linear2 = nn.Linear(2048, NUM_CLASSES)
        self.emb = nn.Embedding(NUM_CLASSES, NUM_CLASSES)
        self.emb.weight = nn.Parameter(torch.eye(NUM_CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10]."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.avg_pool2d(x, 4)
        return self.linear1(torch.flatten(x, 1))


class _Residual18(nn.Module):
    """Four stages of two residual blocks, for 32 x 32 images, with a choice of normalization.

    As the fork has it since its "final resnet that should be used for cifar": no max pooling after
    the first convolution, and a final pooling to 2 x 2.
    """

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.norm1 = norm(64)
        self.layer1 = stage(64, 64, blocks=2, stride=1, norm=norm)
        self.layer2 = stage(64, 128, blocks=2, stride=2, norm=norm)
        self.layer3 = stage(128, 256, blocks=2, stride=2, norm=norm)
        self.layer4 = stage(256, 512, blocks=2, stride=2, norm=norm)
        self.pool = nn.AdaptiveAvgPool2d((2, 2))
        self.linear = nn.Linear(512 * 2 * 2, NUM_CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10]."""
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(torch.flatten(self.pool(x), 1))


class ResNet18(_Residual18):
    """11,189,312 parameters: eight residual blocks (64 to 512 channels), batch norm; 2048-10.

    The fork's `ResNet18` (He et al., 2016) for small images: the first convolution is 3 x 3
    without stride, and the last layer has no bias.
    """

    eval_batch: ClassVar[int] = 32
    n_parameters: ClassVar[int] = 11_189_312
    n_buffers: ClassVar[int] = 9_600
    train_s: ClassVar[float] = 3.5e-2  # guess
    evaluate_s: ClassVar[float] = 1.2e-2  # guess

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d)


class GN_ResNet18(_Residual18):  # noqa: N801 (the name that configurations use)
    """11,189,312 parameters and no buffers: `ResNet18` with group norm (32 groups) instead.

    The fork's `GN_ResNet18`, the model of the ZIP-DL paper (Biswas et al., PoPETs 2025).
    """

    eval_batch: ClassVar[int] = 32
    n_parameters: ClassVar[int] = 11_189_312
    train_s: ClassVar[float] = 3.5e-2  # guess
    evaluate_s: ClassVar[float] = 1.2e-2  # guess

    def __init__(self) -> None:
        super().__init__(AdaptedGroupNorm)
