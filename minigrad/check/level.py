"""A function at a point, as `gradcheck` differentiates it: by autodiff in two modes, and as plain numbers.

A derivative contracted with something random is a function at the same point again: a *level* of one order more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minigrad import autodiff, backend, ops
from minigrad.backend import numpy as host
from minigrad.backend import to_numpy, xp
from minigrad.check.forward import CannotRun, complaint, name_of
from minigrad.tensor import Tensor, differentiable

Array = Any


def floating(x: Any) -> bool:
    return isinstance(x, host.ndarray) and x.dtype.kind == "f"


class Level:
    """A function of Tensors at a point, with one flat Tensor as its result; derivatives are Levels too.

    places: which inputs are differentiable.  xs: their values, on the host
    """

    def __init__(self, f: Callable[..., Any], values: Sequence[Any], call: Callable[..., Tensor] | None = None) -> None:
        self.f = f
        self.values = list(values)
        self.places = [i for i, x in enumerate(values) if floating(x)]
        if not self.places:
            raise CannotRun("no input is a floating array: there is nothing to differentiate with respect to")
        self.xs = [self.values[i] for i in self.places]
        self.dtype = str(self.xs[0].dtype)
        self.call = call or self._flat
        self.lifted = call is not None

    def _flat(self, *xs: Any) -> Tensor:
        """f as a function of its differentiable inputs, its floating results laid end to end."""
        arguments = [backend.from_numpy(v) if isinstance(v, host.ndarray) else v for v in self.values]
        for place, x in zip(self.places, xs, strict=True):
            arguments[place] = x
        try:
            result = self.f(*arguments)
        except Exception as error:
            raise CannotRun(complaint("the function", self.f, error)) from error
        parts = result if isinstance(result, tuple) else (result,)
        tensors = [p for p in parts if isinstance(p, Tensor) and p.dtype.kind in "fc"]
        if not tensors:
            raise CannotRun(
                f"{name_of(self.f)} returned {type(parts[0]).__name__}: a Tensor of a floating dtype is needed"
            )
        flat = [ops.reshape(t, -1) for t in tensors]
        return flat[0] if len(flat) == 1 else ops.concatenate(flat)

    def numbers(self, xs: Sequence[Array]) -> Array:
        """The flat result on the host, for the oracles."""
        tensors = [Tensor(backend.from_numpy(host.asarray(x))) for x in xs]
        return to_numpy(self.call(*tensors).data)

    def tensors(self) -> list[Tensor]:
        return [Tensor(backend.from_numpy(x.copy())) for x in self.xs]

    def derivative(self, mode: str, seed: int) -> Level:
        """The derivative contracted with something random: a Level of one order more."""
        generator = host.random.default_rng(100 + seed)
        call = self.call
        if mode == "reverse":
            size = self.numbers(self.xs).size
            g = Tensor(backend.from_numpy(generator.normal(size=size).astype(self.dtype)))

            def derived(*xs: Tensor) -> Tensor:
                gradients = autodiff.vjp(call, *xs)[1](g)
                several = gradients if isinstance(gradients, tuple) else (gradients,)
                return ops.concatenate([ops.reshape(t, -1) for t in several])
        else:
            us = [
                Tensor(backend.from_numpy(host.asarray(generator.normal(size=x.shape)).astype(self.dtype)))
                for x in self.xs
            ]

            def derived(*xs: Tensor) -> Tensor:
                return autodiff.jvp(call, xs, tuple(us))[1]

        return Level(self.f, self.values, derived)


def pulled(level: Level, gs: Array) -> list[Array]:
    """For each input the pullbacks of several cotangents, as rows: by the plain reverse pass, on raw arrays."""
    leaves = [Tensor(x.data, differentiable(x.data)) for x in level.tensors()]
    y = level.call(*leaves)
    if y.node is None:
        return [host.zeros((len(gs), x.size)) for x in level.xs]
    rows = []
    for g in gs:
        found = autodiff.grad(y, leaves, backend.from_numpy(g.astype(y.dtype)), retain_graph=True)
        rows.append([to_numpy(t.data).reshape(-1) for t in found])
    return [host.stack([row[k] for row in rows]) for k in range(len(level.xs))]


def pushed(level: Level, u: Sequence[Array]) -> Array:
    us = [Tensor(xp.asarray(d, x.dtype)) for d, x in zip(u, level.xs, strict=True)]
    return to_numpy(autodiff.jvp(level.call, level.tensors(), us)[1].data)


def one_output(f: Callable[..., Any]) -> Callable[..., Any]:
    def first(*xs: Any) -> Any:
        result = f(*xs)
        return result[0] if isinstance(result, tuple) else result

    return first
