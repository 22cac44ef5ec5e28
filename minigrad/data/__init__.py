"""Images to learn from: MNIST, Fashion-MNIST, scikit-learn's digits, and mini-batches of them.

A *dataset* is four arrays: training and test images (bytes, N x 1 x 28 x 28) and their labels. It is
looked for in the folder that the caller names, in `MINIGRAD_DATA`, in the user's cache folder, and is
then downloaded into that cache (`loading`, `idx`, `published`). *Batches* hands out mini-batches (`batches`), each
image distorted a little where that is asked for (`augmentation`).
"""

from typing import NoReturn

from minigrad import pytorch_names
from minigrad.data.augmentation import Augment, affine, shifted
from minigrad.data.batches import Batches, normalisation
from minigrad.data.dataset import DataError, DataNotFoundError, Dataset, split
from minigrad.data.idx import read_images, read_labels
from minigrad.data.loading import digits, fashion_mnist, load, mnist
from minigrad.data.published import FILES, PUBLISHED

__all__ = [
    "FILES", "PUBLISHED", "Augment", "Batches", "DataError", "DataNotFoundError", "Dataset", "affine", "digits",
    "fashion_mnist", "load", "mnist", "normalisation", "read_images", "read_labels", "shifted", "split",
]  # fmt: skip


def __getattr__(name: str) -> NoReturn:
    """What PyTorch calls otherwise is told by the error."""
    raise pytorch_names.of_package(__name__, name)
