"""LeNet-5: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition" (1998).

The shapes are the paper's. Simplified as is usual today: means for the trainable subsampling, every
map of the second convolution sees all maps of the first, and a linear layer for the radial basis functions.
"""

from minigrad import nn
from minigrad.tensor import Tensor


class LeNet5(nn.Module):
    """Two convolutions with tanh and mean pooling, then 120 - 84 - 10. No normalisation: it predates it."""

    def __init__(self, classes: int = 10) -> None:
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        )  # fmt: skip
        self.scores = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120), nn.Tanh(),
            nn.Linear(120, 84), nn.Tanh(),
            nn.Linear(84, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.features(x))
