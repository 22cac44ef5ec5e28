"""Models to train, smallest first: each file is one architecture and its source.

All of them take images (n, 1, 28, 28) and give ten scores (logits) an image.
"""

from collections.abc import Callable

from minigrad import nn
from models.cnn import CNN
from models.lenet import LeNet5
from models.mlp import MLP
from models.resnet import ResNet

MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP(normalise=False),
    "mlp-bn": MLP,
    "lenet": LeNet5,
    "cnn": CNN,
    "resnet": ResNet,
}
"""Every model by the name that `--model` takes."""

__all__ = ["CNN", "MLP", "MODELS", "LeNet5", "ResNet"]
