"""A user's forward function that can be run again and again, and comes to the same.

A check runs it many times: at the inputs given, at inputs moved by a rounding, at odd ones. Every run
draws the random numbers that the first drew, so that a dropout drops the same elements; and what a run
left on the tape in objects, dicts and lists (`self.x = x`) becomes arrays afterwards, so that a
backward finds there what it would find without anybody looking on.
"""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minigrad.backend import numpy as host
from minigrad.backend import to_numpy
from minigrad.check.forward import Dice, record
from minigrad.check.layers import Kept, Layer, Parameter, unidentified
from minigrad.check.run import CannotRun, Run, floating, name_of
from minigrad.check.watching import is_theirs
from minigrad.tensor import Tensor

MOST = 20_000
"""Things that are looked through for Tensors."""

OTHERS = (sys.stdlib_module_names | {"numpy"}) - {"types"}
"""Modules whose objects are not looked into; `types` has SimpleNamespace."""


class Repeated:
    """func, with the same surroundings at every call. hand: the backward, which may share its state.

    layer: parameters that func takes beside its arguments, after them.  wrt: the names of the arguments that are not
    taken as constants, where not all are meant
    """

    def __init__(self, func: Callable[..., Any], hand: Any, wrt: Sequence[str] | None = None) -> None:
        self.func = self.__wrapped__ = func
        self.wrt = wrt
        self.__name__ = name_of(func).removesuffix("()")
        self.__code__ = getattr(func, "__code__", None)
        self.state = (func, hand)
        self.layer = Layer([])
        held = list(_held(self.state))
        self.kept = Kept(held)
        things = [thing for _, _, thing in held]
        self.theirs = {id(t): t for t in things if isinstance(t, Tensor)}
        kinds = (host.random.Generator, host.random.RandomState, random.Random)
        own = {id(g): g for g in things if isinstance(g, kinds)}.values()
        self.left: dict[tuple[int, Any], Any] = {}
        self.dice = Dice(*own)

    def __call__(self, *arguments: Any) -> Any:
        self.dice.again()
        result, many = None, len(arguments) - len(self.layer.parameters)
        self.layer.put(arguments[many:])
        try:
            result = self.func(*arguments[:many])
            result = tuple(result) if isinstance(result, list) else result
            return result
        except SystemExit as error:  # is to end neither the check nor the shell's command
            raise RuntimeError(f"SystemExit({error.code})").with_traceback(error.__traceback__) from error
        finally:
            self.left = {}
            for holder, key, value in _held((*self.state, result)):
                if holder is not None and self._left_behind(value):
                    value = _copied(value)
                    if isinstance(holder, types.CellType):
                        holder.cell_contents = value
                    else:
                        holder[key] = value
                if floating(value):
                    self.left[id(holder), key] = value

    @property
    def kept_by_layer(self) -> list[str]:
        """The names of the arguments that func finds in a layer's attributes."""
        return [parameter.name for parameter in self.layer.parameters]

    def parameters(self, taken: list[str]) -> list[Parameter]:
        """The arrays for which a backward that was asked has left gradients beside them, but for names in `taken`."""
        return self.kept.parameters(list(_held(self.state)), taken)

    def unidentified(self, known: list[Any]) -> list[str]:
        """Names of gradients that the backward has left in attributes, of nothing that is known to be compared."""
        return unidentified(list(_held(self.state)), self.left, [*known, *self.layer.gradients()])

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Inside this block a layer may hold other parameters; afterwards it has its own again."""
        try:
            yield
        finally:
            self.layer.put(self.layer.values)

    def _left_behind(self, value: Any) -> bool:
        if isinstance(value, tuple):
            return any(map(self._left_behind, value))
        return isinstance(value, Tensor) and id(value) not in self.theirs


def require_the_same_twice(run: Run, outputs: int) -> None:
    """Raises CannotRun where f gives another result at the same inputs: no gradient could be compared."""
    again = record(run.f, run.inputs, outputs)
    for y, z in zip(run.outputs, again.outputs, strict=True):
        same = y.shape == z.shape and host.allclose(
            y.data, z.data, rtol=0, equal_nan=True,
            atol=1e4 * host.finfo(y.dtype).eps * float(host.abs(y.data).max(initial=0.0)) if y.dtype.kind == "f" else 0,
        )  # fmt: skip
        if not same:
            raise CannotRun(
                f"{name_of(run.f)} gave another result when it was run again with the same inputs, so there is no one "
                f"gradient to compare with: seed the random numbers that it draws, and let nothing that an earlier run "
                f"left behind enter its result"
            )


def _copied(value: Any) -> Any:
    """An array of its own for a Tensor, also inside a tuple: a backward may write into it."""
    if isinstance(value, Tensor):
        return to_numpy(value.data).copy()
    if isinstance(value, tuple):
        parts = [_copied(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def _held(roots: tuple[Any, ...]) -> Iterator[tuple[Any, Any, Any]]:
    """What the roots can reach, each thing with its holder and key; of tuples' parts the holder is None."""
    seen: set[int] = set()
    stack: list[Any] = list(roots)
    while stack and len(seen) < MOST:
        thing = stack.pop()
        if id(thing) in seen or isinstance(thing, (Tensor, host.ndarray, str, bytes, int, float, type(None))):
            continue
        seen.add(id(thing))
        for holder, key, value in _parts(thing):
            yield holder, key, value
            stack.append(value)


def _parts(thing: Any) -> list[tuple[Any, Any, Any]]:
    if isinstance(thing, dict):
        return [(thing, key, value) for key, value in thing.items()]
    if isinstance(thing, list):
        return [(thing, i, value) for i, value in enumerate(thing)]
    if isinstance(thing, tuple):
        return [(None, None, value) for value in thing]
    if isinstance(thing, types.CellType):
        with contextlib.suppress(ValueError):  # nothing is in it yet
            return [(thing, None, thing.cell_contents)]
        return []
    if isinstance(thing, types.MethodType):
        return [(None, None, thing.__self__), (None, None, thing.__func__)]
    if isinstance(thing, functools.partial):
        return [(None, None, thing.func), (None, None, thing.args), (None, None, thing.keywords)]
    if isinstance(thing, types.FunctionType):
        if not is_theirs(thing.__code__.co_filename):
            return []
        names = [name for name in thing.__code__.co_names if name in thing.__globals__]
        named = [(thing.__globals__, name, thing.__globals__[name]) for name in names]
        return named + [(None, None, cell) for cell in thing.__closure__ or ()]
    if type(thing).__module__.partition(".")[0] in OTHERS or not hasattr(thing, "__dict__"):
        return []
    return [(None, None, thing.__dict__)]
