"""The parts that residual networks are made of, with the reference system's parameter names.

ReLU works in place: neither normalization nor convolution needs the value that it overwrites, so
losses and gradients keep their bits.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int], nn.Module]


class AdaptedGroupNorm(nn.Module):
    """Group normalization in 32 groups (Wu and He, 2018), made from a channel count alone.

    The layer is an attribute, so that its parameters are called `norm.weight` and `norm.bias`.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, num_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, C, H, W] to the same."""
        return self.norm(x)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al., 2016), a projection where shapes differ."""

    def __init__(
        self, in_planes: int, planes: int, stride: int = 1, norm: Norm = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = norm(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            projection = nn.Conv2d(in_planes, planes, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, norm(planes))

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, in_planes, H, W] to [B, planes, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


def stage(
    in_planes: int, planes: int, blocks: int, stride: int, norm: Norm = nn.BatchNorm2d
) -> nn.Sequential:
    """`blocks` blocks in a row; the first one has the stride and changes the channels."""
    first = BasicBlock(in_planes, planes, stride, norm)
    return nn.Sequential(first, *(BasicBlock(planes, planes, 1, norm) for _ in range(blocks - 1)))
