"""The network of the Batch Normalization paper: three hidden layers of a hundred sigmoids.

Ioffe and Szegedy, "Batch Normalization" (2015), section 4.1, trained it on MNIST with and without BN
to show what BN does to the inputs of a sigmoid. The weights are small and Gaussian, as there.
"""

from minigrad import creation, nn, random
from minigrad.tensor import Tensor


class MLP(nn.Module):
    """784 - 100 - 100 - 100 - 10 with sigmoids; normalise=False leaves the BatchNorm layers out.

    A BatchNorm follows each linear map and comes before its sigmoid. The linear map then needs no bias:
    subtracting the batch's mean would remove it, and beta takes its place.
    """

    def __init__(self, normalise: bool = True, width: int = 100, classes: int = 10) -> None:
        self.hidden = nn.Sequential(nn.Flatten())
        for features in (28 * 28, width, width):
            self.hidden.layers.append(gaussian(nn.Linear(features, width, bias=not normalise)))
            if normalise:
                self.hidden.layers.append(nn.BatchNorm1d(width))
            self.hidden.layers.append(nn.Sigmoid())
        self.scores = gaussian(nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.hidden(x))


def gaussian(layer: nn.Linear, std: float = 0.1) -> nn.Linear:
    """The layer with normally distributed weights and a bias of zeros."""
    layer.weight.update(random.normal(layer.weight.shape, std=std))
    if layer.bias is not None:
        layer.bias.update(creation.zeros(layer.bias.shape))
    return layer
