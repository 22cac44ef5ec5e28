"""minigrad: a small deep-learning framework whose automatic differentiation can be read."""

import importlib
from typing import TYPE_CHECKING, Any

from minigrad import autodiff, creation, numpy_protocol, ops, pytorch_names, random
from minigrad.autodiff import *  # noqa: F403
from minigrad.backend import OutOfMemory, current, transfers, use, using
from minigrad.creation import *  # noqa: F403
from minigrad.debug import debug, detect_anomaly
from minigrad.ops import *  # noqa: F403
from minigrad.parallel import set_threads
from minigrad.primitive import primitive
from minigrad.recompute import checkpoint
from minigrad.tensor import Buffer, Parameter, Tensor, tensor
from minigrad.widening import no_widening

del trace  # noqa: F821  (`mg.trace` looks at a training step; a matrix's trace is `x.trace()` or `ops.trace`)

if TYPE_CHECKING:
    from minigrad import functional, init, nn, optim
    from minigrad.capturing import capture
    from minigrad.check import check_hand_gradient, gradcheck  # type: ignore[no-redef]
    from minigrad.files import load, save
    from minigrad.functional import log_softmax, softmax
    from minigrad.tracing import trace
    from minigrad.view import Tape

__all__ = [
    *autodiff.__all__, *creation.__all__, *ops.__all__,
    "Buffer", "OutOfMemory", "Parameter", "Tape", "Tensor", "capture", "check_hand_gradient", "checkpoint", "current",
    "debug", "detect_anomaly", "functional", "gradcheck", "init", "load", "log_softmax", "nn", "no_widening",
    "numpy_protocol", "optim", "primitive", "random", "save", "set_threads", "softmax", "tensor", "trace",
    "transfers", "use", "using",
]  # fmt: skip

_MODULES = {"check", "data", "files", "functional", "fused", "init", "nn", "optim", "runs", "study", "view"}
_PLACES = {
    "Tape": "view", "capture": "capturing", "check_hand_gradient": "check", "gradcheck": "check", "load": "files",
    "log_softmax": "functional", "save": "files", "softmax": "functional", "trace": "tracing",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """What gradients do without is imported when it is first asked for."""
    if name in _MODULES:
        return importlib.import_module(f"minigrad.{name}")
    if name not in _PLACES:
        raise pytorch_names.of_package(__name__, name)
    found = globals()[name] = getattr(importlib.import_module(f"minigrad.{_PLACES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_PLACES})
