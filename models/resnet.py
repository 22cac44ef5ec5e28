"""A small residual network: He, Zhang, Ren and Sun, "Deep residual learning" (2015), in MNIST's size."""

from minigrad import nn, ops
from minigrad.tensor import Tensor


class Block(nn.Module):
    """relu(x + f(x)), where f is convolution - BN - ReLU - convolution - BN.

    Where the block halves the image (stride 2) or changes the number of channels, x goes through a 1x1
    convolution of the same stride first.
    """

    def __init__(self, channels: int, out_channels: int, stride: int = 1) -> None:
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = ops.relu(self.bn1(self.conv1(x)))
        return ops.relu(self.shortcut(x) + self.bn2(self.conv2(y)))


class ResNet(nn.Module):
    """A 5x5 convolution to 14x14, three blocks down to 4x4, and the mean over what is left of the image."""

    def __init__(self, classes: int = 10) -> None:
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.blocks = nn.Sequential(Block(16, 16), Block(16, 32, stride=2), Block(32, 64, stride=2))
        self.scores = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.blocks(self.stem(x)))
