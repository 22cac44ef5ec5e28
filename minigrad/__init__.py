"""minigrad: a small deep-learning framework whose automatic differentiation can be read."""

import importlib
from typing import Any

from minigrad import autodiff, creation, functional, init, nn, numpy_protocol, ops, optim, random
from minigrad.autodiff import *  # noqa: F403
from minigrad.backend import OutOfMemory, current, transfers, use, using
from minigrad.capture import capture
from minigrad.creation import *  # noqa: F403
from minigrad.debug import debug, detect_anomaly
from minigrad.files import load, save
from minigrad.functional import log_softmax, softmax
from minigrad.ops import *  # noqa: F403
from minigrad.parallel import set_threads
from minigrad.primitive import primitive
from minigrad.recompute import checkpoint
from minigrad.tensor import Buffer, Parameter, Tensor, tensor
from minigrad.trace import trace
from minigrad.view import Tape
from minigrad.widening import no_widening

__all__ = [
    *autodiff.__all__, *creation.__all__, *ops.__all__,
    "Buffer", "OutOfMemory", "Parameter", "Tape", "Tensor", "capture", "check_hand_gradient", "checkpoint", "current",  # noqa: F405
    "debug", "detect_anomaly", "functional", "gradcheck", "init", "load", "log_softmax", "nn", "no_widening",  # noqa: F405
    "numpy_protocol", "optim", "primitive", "random", "save", "set_threads", "softmax", "tensor", "trace",
    "transfers", "use", "using",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What a training step does without is imported when it is first asked for."""
    if name in ("check", "data", "fused", "study"):
        return importlib.import_module(f"minigrad.{name}")
    if name in ("check_hand_gradient", "gradcheck"):
        return getattr(importlib.import_module("minigrad.check"), name)
    raise AttributeError(f"module 'minigrad' has no attribute {name!r}")
