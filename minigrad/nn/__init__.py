"""Modules: layers, normalisation, losses, and the containers that hold them."""

import importlib
from typing import TYPE_CHECKING, Any

from minigrad import pytorch_names
from minigrad.nn.layers import (
    ELU,
    GELU,
    AdaptiveAvgPool2d,
    AvgPool2d,
    Conv1d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Embedding,
    Flatten,
    Identity,
    LeakyReLU,
    Linear,
    LogSoftmax,
    MaxPool2d,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)  # fmt: skip
from minigrad.nn.losses import BCEWithLogitsLoss, CrossEntropyLoss, HuberLoss, L1Loss, MSELoss, NLLLoss
from minigrad.nn.module import Lambda, Module, ModuleList, Sequential
from minigrad.nn.normalisation import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm
from minigrad.nn.summary import summary
from minigrad.tensor import Buffer, Parameter

if TYPE_CHECKING:
    from minigrad.nn.conventions import CONVENTIONS, batchnorm_from, batchnorm_to

__all__ = [
    "CONVENTIONS", "ELU", "GELU", "AdaptiveAvgPool2d", "AvgPool2d", "BCEWithLogitsLoss", "BatchNorm1d", "BatchNorm2d",
    "Buffer", "Conv1d", "Conv2d", "ConvTranspose2d", "CrossEntropyLoss", "Dropout", "Embedding", "Flatten", "GroupNorm",
    "HuberLoss", "Identity", "L1Loss", "Lambda", "LayerNorm", "LeakyReLU", "Linear", "LogSoftmax", "MSELoss",
    "MaxPool2d", "Module", "ModuleList", "NLLLoss", "Parameter", "ReLU", "Sequential", "SiLU", "Sigmoid", "Softmax",
    "Softplus", "Tanh", "batchnorm_from", "batchnorm_to", "summary",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The translations of other frameworks' BatchNorm are imported when they are first asked for."""
    if name in ("CONVENTIONS", "batchnorm_from", "batchnorm_to"):
        return getattr(importlib.import_module("minigrad.nn.conventions"), name)
    raise pytorch_names.of_package(__name__, name)
