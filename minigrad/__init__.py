"""minigrad: a small deep-learning framework whose automatic differentiation can be read."""

from minigrad import autodiff, creation, ops, random
from minigrad.autodiff import *  # noqa: F403
from minigrad.backend import current, use, using
from minigrad.creation import *  # noqa: F403
from minigrad.ops import *  # noqa: F403
from minigrad.primitive import primitive
from minigrad.tensor import Buffer, Parameter, Tensor, tensor

__all__ = [
    *autodiff.__all__, *creation.__all__, *ops.__all__,
    "Buffer", "Parameter", "Tensor", "current", "primitive", "random", "tensor", "use", "using",
]  # fmt: skip
