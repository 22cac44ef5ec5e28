"""A function at a point, as `gradcheck` differentiates it: by autodiff in two modes, and as plain numbers.

A derivative contracted with something random is a function at the same point again: a *level* of one order more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from minigrad import autodiff, backend, ops
from minigrad.backend import numpy as host
from minigrad.backend import to_numpy, xp
from minigrad.check.forward import no_floating
from minigrad.check.oracles import Grain, largest
from minigrad.check.run import CannotRun, floating, name_of
from minigrad.check.watching import complaint
from minigrad.tape import history, leaf
from minigrad.tensor import Tensor, differentiable

Array = Any


class Level:
    """A function of Tensors at a point, with one flat Tensor as its result; derivatives are Levels too.

    places: which inputs are differentiable.  xs: their values, on the host.  size: of the largest result
    of this function and of those that it is a derivative of
    """

    def __init__(self, f: Callable[..., Any], values: Sequence[Any], call: Callable[..., Tensor] | None = None) -> None:
        self.f = f
        self.values = list(values)
        self.places = [i for i, x in enumerate(values) if floating(x)]
        if not self.places:
            raise no_floating(values)
        self.xs = [self.values[i] for i in self.places]
        self.dtype = str(self.xs[0].dtype)
        self.call = call or self._flat
        self.lifted = call is not None
        self.widens = any(x.dtype != host.float64 for x in self.xs)
        self.size = 0.0

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

    def at(self, xs: Sequence[Array]) -> Level:
        """The same function at another point."""
        values = list(self.values)
        for place, x in zip(self.places, xs, strict=True):
            values[place] = x
        other = Level(self.f, values, self.call if self.lifted else None)
        other.size = self.size
        return other

    def numbers(self, xs: Sequence[Array]) -> Array:
        """The flat result on the host, for the oracles: in float64 also of narrower inputs, where f takes it."""
        if self.widens and xs[0].dtype.kind == "f":
            try:
                return self._numbers(xs)
            except (CannotRun, TypeError):
                self.widens = False
        if xs[0].dtype.kind == "f":
            xs = [z.astype(x.dtype) for z, x in zip(xs, self.xs, strict=True)]
        return self._numbers(xs)

    def _numbers(self, xs: Sequence[Array]) -> Array:
        arrays = [backend.from_numpy(host.asarray(x)) for x in xs]
        if self.lifted:  # a derivative is taken on the way; no leaf is made for complex numbers by itself
            tensors = [Tensor(x, leaf(x.shape, x.dtype) if x.dtype.kind == "c" else None) for x in arrays]
        else:
            tensors = [Tensor(x) for x in arrays]
        return to_numpy(self.call(*tensors).data)

    def pushed(self, u: Sequence[Array]) -> Array:
        """The tangent of the result, by forward mode."""
        xs = [Tensor(backend.from_numpy(x.copy())) for x in self.xs]
        us = [Tensor(xp.asarray(d, x.dtype)) for d, x in zip(u, xs, strict=True)]
        return to_numpy(autodiff.jvp(self.call, xs, us)[1].data)

    @functools.cached_property
    def tape(self) -> tuple[Tensor, list[Tensor]]:
        """The result with its history, and the leaves."""
        leaves = [Tensor(x, differentiable(x)) for x in (backend.from_numpy(x.copy()) for x in self.xs)]
        return self.call(*leaves), leaves

    @functools.cached_property
    def narrowest(self) -> Any:
        """The narrowest floating dtype that anything on the tape is computed in."""
        y, leaves = self.tape
        nodes = [] if y.node is None else history(y.node)
        dtypes = [t.dtype for t in (y, *leaves, *nodes) if t.dtype.kind == "f"]
        return host.dtype(min(dtypes, key=lambda dtype: dtype.itemsize))

    @functools.cached_property
    def grain(self) -> Grain:
        """The rounding of `numbers`."""
        wide = [x.astype(host.float64) for x in self.xs]
        self.numbers(wide)  # which settles whether f takes float64
        narrowest = (self.at(wide) if self.widens else self).narrowest
        return Grain(float(host.finfo(narrowest).eps), self.size)

    def pulled(self, gs: Array) -> list[Array]:
        """For each input the pullbacks of several cotangents, as rows: by the plain reverse pass, on raw arrays."""
        y, leaves = self.tape
        if y.node is None:
            return [host.zeros((len(gs), x.size)) for x in self.xs]
        rows = []
        for g in gs:
            found = autodiff.grad(y, leaves, backend.from_numpy(g.astype(y.dtype)), retain_graph=True)
            rows.append([to_numpy(t.data).reshape(-1) for t in found])
        return [host.stack([row[k] for row in rows]) for k in range(len(self.xs))]

    def derivative(self, mode: str, seed: int) -> Level:
        """The derivative contracted with something random: a Level of one order more."""
        generator = host.random.default_rng(100 + seed)
        call = self.call
        y = self.numbers(self.xs)
        if mode == "reverse":
            g = backend.from_numpy(generator.normal(size=y.size))

            def derived(*xs: Tensor) -> Tensor:
                gradients = autodiff.vjp(call, *xs)[1](g)
                several = gradients if isinstance(gradients, tuple) else (gradients,)
                return ops.concatenate([ops.reshape(t, -1) for t in several])
        else:
            us = tuple(backend.from_numpy(host.asarray(generator.normal(size=x.shape))) for x in self.xs)

            def derived(*xs: Tensor) -> Tensor:
                return autodiff.jvp(call, xs, us)[1]

        level = Level(self.f, self.values, derived)
        level.size = max(self.size, largest([y]))
        return level


def one_output(f: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(f, updated=())
    def first(*xs: Any) -> Any:
        result = f(*xs)
        return result[0] if isinstance(result, tuple) else result

    return first
