"""Random Tensors, all from the host generator: one seed, the same numbers on every backend.

One exception: in a step that is captured as a graph (`mg.capture`) the masks of `bernoulli` are drawn on the device,
since a replay asks the host for nothing.
"""

from __future__ import annotations

from typing import Any

from minigrad import backend
from minigrad.backend import from_numpy, xp
from minigrad.creation import float32, shape_of
from minigrad.generator import generator, seed
from minigrad.given import finite, fraction, non_negative, whole
from minigrad.tensor import Tensor, created

__all__ = ["bernoulli", "normal", "permutation", "seed", "set_state", "state", "uniform"]


def normal(
    *shape: Any, mean: float = 0.0, std: float = 1.0, dtype: Any = float32, requires_grad: bool = False
) -> Tensor:
    """Independent draws from the normal distribution: `normal(2, 3)` or `normal((2, 3))`."""
    mean, std = finite("normal: mean", mean), non_negative("normal: std", std)
    drawn = generator().normal(mean, std, shape_of("normal", shape))
    return created(from_numpy(drawn.astype(dtype)), requires_grad)


def uniform(
    *shape: Any, low: float = 0.0, high: float = 1.0, dtype: Any = float32, requires_grad: bool = False
) -> Tensor:
    """Independent draws from [low, high)."""
    low, high = finite("uniform: low", low), finite("uniform: high", high)
    if low > high:
        raise ValueError(f"uniform: low must not be above high, but low is {low} and high {high}")
    values = generator().uniform(low, high, shape_of("uniform", shape))
    drawn = created(from_numpy(values.astype(dtype)), requires_grad)
    if drawn.dtype.kind == "f":  # a double just below `high` may round to it
        below = xp.nextafter(xp.asarray(high, drawn.dtype), xp.asarray(low, drawn.dtype))
        xp.minimum(drawn.data, below, out=drawn.data)
    return drawn


def permutation(n: int) -> Tensor:
    """The integers below n in random order."""
    return Tensor(from_numpy(generator().permutation(whole("permutation: n", n, least=0))))


def bernoulli(p: float, *shape: Any, dtype: Any = float32) -> Tensor:
    """Ones with probability p, zeros otherwise."""
    p = fraction("bernoulli: p", p)
    lengths = shape_of("bernoulli", shape)
    if (own := backend.kernel("bernoulli")) is not None and (drawn := own(p, lengths, dtype)) is not None:
        return drawn
    return Tensor(from_numpy((generator().random(lengths, dtype="float32") < p).astype(dtype)))


def state() -> dict[str, Any]:
    """The generator's state, to be stored with a checkpoint."""
    return dict(generator().bit_generator.state)


def set_state(state: dict[str, Any]) -> None:
    """Continues exactly where `state` was taken."""
    generator().bit_generator.state = state
