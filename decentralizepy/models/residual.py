"""The parts that residual networks are made of, with the names that the fork gives to them.

ReLU works in place: neither normalization nor convolution needs the value that it overwrites, so
losses and gradients keep their bits.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int], nn.Module]
#: of a block's normalizations: the reference system's name -> the fork's
BATCH_NORM_NAMES = {"bn1": "norm1", "bn2": "norm2"}


class Renamed(nn.Module):
    """A module that also loads weights in which parts of it have other names."""

    #: another name of a part -> its name here
    also_named: ClassVar[Mapping[str, str]] = {}

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        for other, name in self.also_named.items():
            start = f"{prefix}{other}."
            for key in [key for key in state_dict if key.startswith(start)]:
                state_dict.setdefault(f"{prefix}{name}.{key[len(start) :]}", state_dict[key])
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *arguments)


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


class BasicBlock(Renamed):
    """Two 3 x 3 convolutions and a shortcut (He et al., 2016), a projection where shapes differ.

    The normalizations are called `norm1` and `norm2`, as in the fork; `bn1` and `bn2`, the names in
    the reference system, are loaded too.
    """

    also_named = BATCH_NORM_NAMES

    def __init__(
        self, in_planes: int, planes: int, stride: int = 1, norm: Norm = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)
        self.norm1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.norm2 = norm(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            projection = nn.Conv2d(in_planes, planes, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, norm(planes))

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, in_planes, H, W] to [B, planes, H / stride, W / stride]."""
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.norm2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


def stage(
    in_planes: int, planes: int, blocks: int, stride: int, norm: Norm = nn.BatchNorm2d
) -> nn.Sequential:
    """`blocks` blocks in a row; the first one has the stride and changes the channels."""
    first = BasicBlock(in_planes, planes, stride, norm)
    return nn.Sequential(first, *(BasicBlock(planes, planes, 1, norm) for _ in range(blocks - 1)))
