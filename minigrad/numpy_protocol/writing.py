"""A user's code as it is recorded: arrays that it makes and fills are Tensors, and what it writes are ops.

NumPy's arrays share memory, and so do Tensors here: `y[1:3]`, `y.T`, `y.reshape(-1)` are Views, and what is
written into one of a family reaches all of it. Writing gives a Tensor other data and another node; what was
computed from it before keeps the old ones.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator
from operator import attrgetter, methodcaller
from typing import Any

from minigrad import ops
from minigrad.backend import xp
from minigrad.numpy_protocol.methods import of_arrays
from minigrad.numpy_protocol.namespace import shown
from minigrad.numpy_protocol.promotion import Function, as_array, holds_tensor, operands, plain, rule
from minigrad.tensor import Tensor, Versioned, raw_index


def assigned(t: Any, index: Any, value: Any) -> Any:
    """t with `value` at `index`: what `t[index] = value` leaves in t, as an op. Repeated places: the last wins."""
    return placed(t, xp.arange(t.size).reshape(t.shape)[raw_index(index)], value)


def placed(t: Any, places: Any, value: Any) -> Any:
    """t with `value` at some places, an array of numbers of elements."""
    source = xp.full((t.size,), -1)
    source[places.reshape(-1)] = xp.arange(places.size)
    source = source.reshape(t.shape)
    value = as_array(value) if holds_tensor(value) else value
    if not isinstance(value, Tensor):
        value = Tensor(xp.asarray(value, t.dtype))
    elif value.dtype != t.dtype:
        value = ops.astype(value, t.dtype)
    extra = value.ndim - places.ndim
    value = ops.reshape(value, value.shape[extra:]) if extra > 0 else value
    values = ops.reshape(ops.broadcast_to(value, places.shape), -1)
    return ops.where(source >= 0, ops.getitem(values, xp.maximum(source, 0)), t) if places.size else ops.alias(t)


# ---- Tensors that share elements -----------------------------------------------------------------------------
class View(Tensor):
    """A Tensor that shows elements of another one, as a basic index, a transpose or a reshape of an array does.

    base: the other one.  look: what shows them, of a Tensor or an array.  index: where it was an index
    """

    __slots__ = ("base", "index", "look")

    def __init__(self, t: Tensor, base: Tensor, look: Function, index: Any = None) -> None:
        super().__init__(t.data, t.node)
        self.base, self.look, self.index = base, look, index
        family = _families.setdefault(id(root_of(base)), weakref.WeakValueDictionary())
        family[next(_numbers)] = self


_numbers = itertools.count()
_families: dict[int, weakref.WeakValueDictionary[int, View]] = {}
"""The Views that are alive by the id of the Tensor that all of them show, in the order in which they were made."""


def root_of(t: Tensor) -> Tensor:
    while isinstance(t, View):
        t = t.base
    return t


def places_of(t: Tensor) -> Any:
    """For each element of a View where it stands in the whole, as a View of the whole's own places."""
    return t.look(places_of(t.base)) if isinstance(t, View) else xp.arange(t.size).reshape(t.shape)


def write(t: Tensor, y: Tensor) -> None:
    """Gives t, and all that shows the same elements, the values and the history of y."""
    t.data, t.node = y.data, y.node
    root = root_of(t)
    family = _families.get(id(root))
    if not family:
        return
    if root is not t:
        whole = placed(Tensor(root.data, root.node), places_of(t), t)
        root.data, root.node = whole.data, whole.node
    for view in list(family.values()):
        if view is not t:
            seen = view.look(Tensor(view.base.data, view.base.node))
            view.data, view.node = seen.data, seen.node


def _basic(index: Any) -> bool:
    """Whether an index shows elements rather than copying them."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is ... or isinstance(part, slice) or ops.is_integer(part) for part in parts)


def _showing(name: str, method: Any) -> Any:
    """A method (or a property) of Tensors whose result shows their own elements, as a View."""

    def show(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        y = method(self, *args, **kwargs)
        index = args[0] if name == "__getitem__" else None
        if not y.ndim or not self.ndim or not _basic(index) or isinstance(self, Versioned):
            return y
        look = methodcaller(name, *args, **kwargs)
        if isinstance(self, View) and name in MAY_COPY:
            places = places_of(self)
            if not xp.may_share_memory(look(places), places):
                return y
        return View(y, self, look, index)

    def show_property(self: Tensor) -> Any:
        return View(method.fget(self), self, attrgetter(name)) if self.ndim else self

    return property(show_property) if isinstance(method, property) else show


SHOWING = ("__getitem__", "T", "mT", "ravel", "reshape", "squeeze", "swapaxes", "transpose")
MAY_COPY = {"ravel", "reshape"}


# ---- assignments and operators -----------------------------------------------------------------------------------
def _assigning(before: Function) -> Function:
    def assign(self: Tensor, index: Any, value: Any) -> None:
        if isinstance(self, Versioned):
            before(self, index, value)
        elif not (isinstance(value, View) and value.base is self and value.index is index):  # as a[i] += b ends
            write(self, assigned(Tensor(self.data, self.node), index, value))

    return assign


def _promoting(operator: Function) -> Function:
    """An operator of Tensors that widens floating dtypes as NumPy's does, and compares to arrays."""
    return lambda a, b: plain(operator(*operands((a, b))))


def _in_place(name: str, operator: Function) -> Function:
    """a += b and its like: the array itself changes, under every name that it has. A number is another number."""

    def update(self: Tensor, other: Any) -> Any:
        y = operator(self, other)
        if not self.ndim or isinstance(self, Versioned):
            return y
        if y.shape != self.shape or (self.dtype.kind != "f" and y.dtype.kind == "f"):
            raise TypeError(
                f"{name} in place: the result is {y.dtype} {list(y.shape)}, which does not fit into an array of "
                f"{self.dtype} {list(self.shape)}; write a = a ... instead"
            )
        write(self, y if y.dtype == self.dtype else ops.astype(y, self.dtype))
        return self

    return update


ARITHMETIC = ("add", "sub", "mul", "truediv", "pow", "matmul")
OPERATORS = [f"__{r}{name}__" for name in ARITHMETIC for r in ("", "r")] + [
    f"__{name}__" for name in ("lt", "le", "gt", "ge", "eq", "ne")
]


def _methods() -> dict[str, Any]:
    """What Tensors answer to while a user's code is recorded, by name."""
    before = vars(Tensor)
    methods = of_arrays(before.__getitem__)
    methods |= {name: _promoting(before[name]) for name in OPERATORS}
    methods |= {f"__i{name}__": _in_place(name, methods[f"__{name}__"]) for name in ARITHMETIC}
    methods |= {name: _showing(name, methods.get(name) or before[name]) for name in SHOWING}
    return methods | {"__setitem__": _assigning(before["__setitem__"])}


@contextlib.contextmanager
def writable(is_theirs: Callable[[str], bool], *functions: Any) -> Iterator[None]:
    """Inside this block Tensors are written into as arrays are, and np.zeros and its like make Tensors.

    They also have the methods that arrays have, and operators widen floating dtypes as NumPy's do (outside,
    minigrad refuses to mix them).

    is_theirs: of a file's name, whether it is the studied code, and functions: of that code, in case no file
    holds it. For all other code NumPy stays as it is. Meant for one thread.
    """
    methods = _methods()
    before = {name: vars(Tensor)[name] for name in methods if name in vars(Tensor)}
    try:
        for name, method in methods.items():
            setattr(Tensor, name, method)
        rule.widens = True
        with shown(is_theirs, *functions):
            yield
    finally:
        rule.widens = False
        for name in methods:
            if name in before:
                setattr(Tensor, name, before[name])
            else:
                delattr(Tensor, name)
        _families.clear()
