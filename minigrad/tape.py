"""The tape: what was computed, in the order in which it was computed.

A *node* is one line of the tape: the primitive that ran, the nodes of its inputs, its *residuals*
(the values that its pullbacks will ask for) and its static parameters. A *leaf* is a node without a
primitive: something to differentiate with respect to. References point from a result to its inputs
and nowhere else, and a node never holds a Tensor: there are no cycles, and dropping the last result
frees the tape.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigrad.primitive import Primitive

next_serial = itertools.count(1).__next__
"""The order of recording. Drawing from it is atomic, so threads can record side by side."""


class Node:
    """One line of the tape.

    primitive:  the row of the table that ran; None for a leaf
    inputs:     for each array argument its Node, or None where nothing is to be learnt from it
    residuals:  the values that the row's pullbacks ask for; `FREED` after a backward pass
    params:     the static parameters, in the row's order
    shape, dtype: of the result
    serial:     position in the order of recording
    grad:       a leaf's (or labelled node's) cotangent after `backward`, a raw array
    label:      a name given by `mg.label`, by a layer or by a model
    aside:      what only a view of the tape asks for, where there is any: a leaf's array, an op's
                constant operands that were numbers or broadcast, or all that `mg.trace` kept
    """

    __slots__ = ("aside", "dtype", "grad", "inputs", "label", "params", "primitive", "residuals", "serial", "shape")

    primitive: Primitive | None
    inputs: tuple[Node | None, ...]
    residuals: Any
    params: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: Any
    serial: int
    grad: Any
    label: str | None
    aside: Any

    def __repr__(self) -> str:
        name = "leaf" if self.primitive is None else self.primitive.name
        label = f" {self.label!r}" if self.label else ""
        return f"<node {self.serial}: {name}{label} {self.dtype} {list(self.shape)}>"


class Freed:
    """Stands where residuals stood before a backward pass used them up."""

    def __repr__(self) -> str:
        return "FREED"


FREED = Freed()


def leaf(shape: tuple[int, ...], dtype: Any, label: str | None = None) -> Node:
    """A node without a history."""
    node = Node()
    node.primitive = None
    node.inputs = node.residuals = node.params = ()
    node.shape = shape
    node.dtype = dtype
    node.serial = next_serial()
    node.grad = None
    node.label = label
    return node


class Recording(threading.local):
    """Whether this thread records, and who looks on.

    observer: None, or a function `(node, arguments, y)` called with the raw arrays of every op as it
    is recorded: what tracing and debugging are built on.
    scope: None, or while tracing the full paths of the layers that run, the innermost last; a layer
    appends its own when it is called and pops it when it returns.
    """

    on: bool = True
    observer: Callable[[Node, tuple[Any, ...], Any], None] | None = None
    watch: Callable[..., Any] | None = None
    scope: list[str] | None = None


recording = Recording()


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """`with mg.no_grad():` (or `@mg.no_grad()`) records nothing, in this thread only."""
    before = recording.on
    recording.on = False
    try:
        yield
    finally:
        recording.on = before


@contextlib.contextmanager
def enable_grad() -> Iterator[None]:
    """`with mg.enable_grad():` records again inside a `no_grad` block."""
    before = recording.on
    recording.on = True
    try:
        yield
    finally:
        recording.on = before


def history(*results: Node) -> list[Node]:
    """Every node that the results depend on, themselves included, in the order of recording."""
    seen = set(results)
    stack = list(seen)
    while stack:
        for node in stack.pop().inputs:
            if node is not None and node not in seen:
                seen.add(node)
                stack.append(node)
    return sorted(seen, key=lambda node: node.serial)
