"""A small convolutional network with BatchNorm: the one that `python -m examples.mnist` trains.

Pooling comes before BatchNorm, which so has a quarter of the values to normalise: it costs a quarter,
and the statistics are of what the next layer sees.
"""

from minigrad import nn
from minigrad.tensor import Tensor


class CNN(nn.Module):
    """Four convolutions, 28 -> 12 -> 6 -> 6 -> 4 pixels a side, each with BatchNorm and ReLU, then one linear map.

    The convolutions have no bias: BatchNorm subtracts the mean, and its beta takes the bias's place.
    """

    def __init__(self, classes: int = 10) -> None:
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 5, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        )  # fmt: skip
        self.scores = nn.Sequential(nn.Flatten(), nn.Linear(64 * 4 * 4, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.features(x))
