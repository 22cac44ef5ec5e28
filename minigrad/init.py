"""Weight initialisation: arrays drawn from the host generator, the same on every backend."""

from __future__ import annotations

import math
from collections.abc import Sequence

from minigrad import random
from minigrad.tensor import Tensor


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in, ...kernel): connections into and out of a unit."""
    if len(shape) < 2:
        raise ValueError(f"fans: a weight has at least two axes, not shape {list(shape)}")
    area = math.prod(shape[2:])
    return shape[1] * area, shape[0] * area


def uniform(shape: Sequence[int], bound: float) -> Tensor:
    """Uniform on (-bound, bound)."""
    return random.uniform(tuple(shape), low=-bound, high=bound)


def by_fan_in(shape: Sequence[int], fan_in: int) -> Tensor:
    """PyTorch's default for linear and convolution layers: uniform, bound 1 / sqrt(fan_in)."""
    return uniform(shape, 1 / math.sqrt(fan_in) if fan_in else 0.0)


def kaiming_normal(shape: Sequence[int]) -> Tensor:
    """Normal with std sqrt(2 / fan_in), for ReLU (He et al. 2015)."""
    return random.normal(tuple(shape), std=math.sqrt(2 / fans(shape)[0]))


def kaiming_uniform(shape: Sequence[int]) -> Tensor:
    """Uniform with bound sqrt(6 / fan_in), for ReLU (He et al. 2015)."""
    return uniform(shape, math.sqrt(6 / fans(shape)[0]))


def xavier_normal(shape: Sequence[int]) -> Tensor:
    """Normal with std sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return random.normal(tuple(shape), std=math.sqrt(2 / sum(fans(shape))))


def xavier_uniform(shape: Sequence[int]) -> Tensor:
    """Uniform with bound sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return uniform(shape, math.sqrt(6 / sum(fans(shape))))
