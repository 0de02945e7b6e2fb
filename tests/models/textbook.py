"""The networks written the textbook way (ReLU out of place, before pooling), to compare with.

Layers are made in the order in which the reference system makes them, so that one seed gives the
same initial weights.
"""

import torch
from torch import Tensor, nn


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.pool, self.conv2 = nn.Conv2d(3, 6, 5), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2):
            x = self.pool(torch.relu(conv(x)))
        x = torch.relu(self.fc1(x.flatten(1)))
        return self.fc3(torch.relu(self.fc2(x)))


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.gn1 = nn.Conv2d(3, 32, 5, padding=2), nn.GroupNorm(2, 32)
        self.conv2, self.gn2 = nn.Conv2d(32, 32, 5, padding=2), nn.GroupNorm(2, 32)
        self.conv3, self.gn3 = nn.Conv2d(32, 64, 5, padding=2), nn.GroupNorm(2, 64)
        self.fc1 = nn.Linear(1024, 10)

    def forward(self, x: Tensor) -> Tensor:
        pool = nn.MaxPool2d(2)
        for i in "123":
            conv, norm = getattr(self, f"conv{i}"), getattr(self, f"gn{i}")
            x = pool(torch.relu(norm(conv(x))))
        return self.fc1(x.flatten(1))


class WrappedNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.norm1 = norm(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.norm2 = norm(c_out)
        self.shortcut = nn.Sequential()
        if (c_in, stride) != (c_out, 1):
            self.shortcut.append(nn.Conv2d(c_in, c_out, 1, stride, bias=False))
            self.shortcut.append(norm(c_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(out + self.shortcut(x))


class ResNet8(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 128, 3, 1, 1, bias=False), nn.BatchNorm2d(128)
        self.layer1 = nn.Sequential(Block(128, 128, 1, nn.BatchNorm2d))
        self.layer2 = nn.Sequential(Block(128, 256, 2, nn.BatchNorm2d))
        self.layer3 = nn.Sequential(Block(256, 512, 2, nn.BatchNorm2d))
        self.linear1, self.linear2 = nn.Linear(2048, 10), nn.Linear(2048, 10)
        self.emb = nn.Embedding(10, 10)
        self.emb.weight.data = torch.eye(10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear1(nn.functional.avg_pool2d(x, 4).flatten(1))


class ResNet18(nn.Module):
    norm: type[nn.Module] = nn.BatchNorm2d

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), self.norm(64)
        widths = (64, 64, 128, 256, 512)
        for i in range(1, 5):
            first = Block(widths[i - 1], widths[i], 1 if i == 1 else 2, self.norm)
            second = Block(widths[i], widths[i], 1, self.norm)
            self.add_module(f"layer{i}", nn.Sequential(first, second))
        self.linear = nn.Linear(2048, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        return self.linear(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


class GN_ResNet18(ResNet18):  # noqa: N801
    norm = WrappedNorm


class FemnistLogisticRegression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 62)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc1(x.flatten(1))


class FemnistCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5, 1, 2), nn.Conv2d(32, 64, 5, 1, 2)
        self.fc1, self.fc2 = nn.Linear(3136, 512), nn.Linear(512, 62)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2):
            x = nn.functional.max_pool2d(torch.relu(conv(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class ShortcutFirst(nn.Module):
    """A residual block whose projection is drawn before its convolutions, and listed after."""

    def __init__(self, c_in: int, c_out: int, stride: int, norm: type[nn.Module]) -> None:
        super().__init__()
        shortcut = None
        if c_in != c_out:
            shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), norm(c_out))
        self.conv1, self.norm1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), norm(c_out)
        self.conv2, self.norm2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), norm(c_out)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(out + (self.downsample(x) if self.downsample is not None else x))


class FemnistRNET(nn.Module):
    norm: type[nn.Module] = nn.BatchNorm2d

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 32, 7, 2, 3, bias=False), self.norm(32)
        widths = (32, 32, 64, 128, 256)
        for i in range(1, 5):
            first = ShortcutFirst(widths[i - 1], widths[i], 1 if i == 1 else 2, self.norm)
            second = ShortcutFirst(widths[i], widths[i], 1, self.norm)
            self.add_module(f"layer{i}", nn.Sequential(first, second))
        self.fc = nn.Linear(256, 62)
        for conv in (m for m in self.modules() if isinstance(m, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        return self.fc(x.mean((2, 3)))


class FemnistGN_RNET(FemnistRNET):  # noqa: N801
    norm = WrappedNorm
