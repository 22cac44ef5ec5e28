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
import operator
import os
import sys
import threading
import weakref
from collections.abc import Callable, Container, Iterable, Iterator
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from minigrad.primitive import Primitive
    from minigrad.uses import Uses

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
    again:      where there is one: for each input None, or the node that computed a constant operand, which
                a replay computes again
    record:     in debug mode, where the line was recorded
    """

    __slots__ = (
        "again", "aside", "dtype", "grad", "inputs", "label", "params", "primitive", "record", "residuals", "serial",
        "shape",
    )  # fmt: skip

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
    again: tuple[Node | None, ...]
    record: Any

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


# ---- overwriting ---------------------------------------------------------------------------------
# What a node keeps for its pullbacks must not change before they run. Parameters and Buffers are written
# to in place, so a write is noted with its place in the order of recording, where anything beside the
# Tensor holds the array: a node that is older than the last write to the memory of one of its residuals
# was falsified by it. Recording costs nothing, and a write that no line of the tape can see next to nothing.


class Write:
    """The last overwriting of an array in place.

    array: a weak reference to it.  serial: when, in the order of recording; 0 for never.  name: of the
    Parameter or Buffer, where it has one.  kind: its class.  who: the function that wrote.  code, at: the
    function outside minigrad that called it, and where in it.  seen: in debug mode, `place()`.
    """

    __slots__ = ("array", "at", "code", "kind", "name", "seen", "serial", "who")

    array: weakref.ref[Any]
    serial: int
    name: str | None
    kind: str
    who: str
    code: CodeType
    at: int
    seen: str

    @property
    def what(self) -> str:
        """What was overwritten: `'conv1.weight'`, or `a Parameter` where it has no name."""
        return f"a {self.kind}" if self.name is None else repr(self.name)

    @property
    def place(self) -> str:
        """Who overwrote it, and the line outside minigrad that had it do so."""
        if self.seen:
            return self.seen
        line = next((line for a, b, line in self.code.co_lines() if a <= self.at < b), self.code.co_firstlineno)
        return f"by {self.who} at {self.code.co_filename}:{line}"


class Writes:
    """Every array that is known to be written to in place, by the id of the array that owns the memory.

    newest: the serial of the last write; what was recorded after it is whole.
    """

    def __init__(self) -> None:
        self.newest = 0
        self.last: dict[int, Write] = {}

    def of(self, array: Any) -> Write | None:
        """The last write to the memory that `array` shows, if it was ever noted."""
        return self.last.get(id(owner(array)))

    def expect(self, array: Any) -> Write:
        """Makes the memory of `array` known as one that will be written to."""
        whole = owner(array)
        key = id(whole)
        write = self.last.get(key)
        if write is None:
            write = self.last[key] = Write()
            write.array = weakref.ref(whole, lambda _: self.last.pop(key, None))
            write.serial = 0
        return write

    def note(self, array: Any, kind: str, name: str | None, own: int = 0) -> None:
        """Notes that `array` was overwritten just now, by the caller of the method that calls this.

        own: how many references to the array its Tensor holds beside `data`. Where nothing else holds
        one, no line of the tape can have kept it, and there is nothing to note. (Of a view this is not
        asked: the owner of its memory is held by others.)
        """
        if array.base is None and references(array) <= ALONE + own and recording.reviewer is None:
            return
        write = self.last.get(id(owner(array))) or self.expect(array)
        frame = sys._getframe(2)
        while frame.f_code.co_filename.startswith(OWN) and frame.f_back is not None:
            frame = frame.f_back
        write.kind, write.name, write.who = kind, name, frame.f_code.co_qualname
        while frame.f_code.co_filename.startswith(HERE) and frame.f_back is not None:
            frame = frame.f_back
        write.code, write.at = frame.f_code, frame.f_lasti
        write.seen = ""
        write.serial = self.newest = next_serial()
        if recording.reviewer is not None:
            recording.reviewer.wrote(write)

    def replaced(self, kind: str, name: str | None) -> None:
        """Logs that a Parameter or Buffer was given another array; what the tape kept is as it was."""
        if recording.reviewer is not None:
            write = Write()
            write.kind, write.name, write.serial = kind, name, next_serial()
            recording.reviewer.wrote(write)

    def check(self, node: Node, values: Any) -> None:
        """Raises RuntimeError where one of the values that `node` kept was overwritten after it was recorded."""
        for value in values:
            if isinstance(value, (list, tuple)):
                self.check(node, value)
            elif hasattr(value, "base") and (write := self.of(value)) is not None and write.serial > node.serial:
                name = "leaf" if node.primitive is None else node.primitive.name
                label = f" {node.label!r}" if node.label else ""
                record = getattr(node, "record", None)
                kept = f"recorded {record.place}" if record is not None else "mg.debug() tells where"
                raise RuntimeError(
                    f"backward: {name}{label} on line {node.serial} of the tape ({kept}) kept {write.what}, "
                    f"{value.dtype} {list(value.shape)}, for its gradient, and before the backward pass this was "
                    f"overwritten {write.place}; call backward() first, or compute again from the new values"
                )


def owner(array: Any) -> Any:
    """The array that owns the memory which `array` shows."""
    while hasattr(base := array.base, "base"):
        array = base
    return array


def references(array: Any) -> int:
    """What `getrefcount` says of the array that owns the memory of a parameter of the caller."""
    whole = owner(array)
    return sys.getrefcount(whole)


class _Holder:
    """Something that holds an array as a Tensor does; for an array stands anything with a base."""

    base = None
    data: Any = None

    def count(self) -> int:
        return _noted(self.data)


def _noted(array: Any) -> int:
    return references(array)


_holder = _Holder()
_holder.data = _Holder()
ALONE = _holder.count()
"""The references to an array that one Tensor holds and nothing else, as `Writes.note` counts them: measured."""

writes = Writes()

OWN = tuple(os.path.join(os.path.dirname(os.path.abspath(__file__)), name) for name in ("tensor.py", "device"))
"""Whose calls of `bump` are somebody else's writes: `update`'s, and those of an optimizer's kernel."""
GENERATED = "<call of a minigrad primitive>"
"""The file name of the functions that are written out for the rows."""
HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Detached:
    """Constants that were computed from values on the tape, as a replay wants to know.

    Arrays that `detach` took off the tape, what a discrete row made of values on it (a mask, an index), and what
    ops made of these.
    """

    MOST = 16

    def __init__(self) -> None:
        self.arrays: dict[int, weakref.ref[Any]] = {}

    def note(self, array: Any) -> None:
        """Remembers an array as long as it lives."""
        self.arrays[id(array)] = weakref.ref(array)
        if len(self.arrays) > self.MOST:  # without those that are gone; if few are, there is room for twice as many
            self.arrays = {key: ref for key, ref in list(self.arrays.items()) if ref() is not None}
            self.MOST = 2 * max(len(self.arrays), Detached.MOST)

    def pass_on(self, array: Any, sources: Iterable[Any]) -> None:
        """Notes an array that was made of others, if one of them is noted."""
        if any(source in self for source in sources):
            self.note(array)

    def __contains__(self, array: Any) -> bool:
        ref = self.arrays.get(id(array))
        return ref is not None and ref() is array


detached = Detached()


def place() -> str:
    """Which public call of minigrad is running, and the line outside minigrad that made it."""
    frame, called = sys._getframe(1), ""
    while frame.f_back is not None and frame.f_code.co_filename.startswith((HERE, GENERATED)):
        row = frame.f_globals.get("_primitive") if frame.f_code.co_filename == GENERATED else None
        if row is not None:
            called = row.name
        elif "<locals>" not in frame.f_code.co_qualname:  # the wrapped function's name, not the wrapper's
            called = frame.f_code.co_qualname
        frame = frame.f_back
    return f"by {called} at {frame.f_code.co_filename}:{frame.f_lineno}"


class Reviewer:
    """Who looks on at what this thread does, from `begin` to `end`: what tracing and debugging are built on.

    A subclass says what it looks at; the rest goes on to `outer`, who looked on before. Who began inside ends with it.
    """

    outer: Reviewer | None = None
    _before: tuple[Any, Any] = (None, None)

    def begin(self) -> None:
        """Looks on from here; at what is recorded, and at layers (which then run one by one), where it says so."""
        self.outer, self._before = recording.reviewer, (recording.observer, recording.watch)
        recording.reviewer = self
        if type(self).recorded is not Reviewer.recorded:
            recording.observer = self.recorded
        if type(self).called is not Reviewer.called:
            recording.watch = self.called

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> bool:
        """Looks on no more, nor does anybody who began since. Returns False where that was so already."""
        found = recording.reviewer
        while found is not self:
            if found is None:
                return False
            found = found.outer
        while (inner := recording.reviewer) is not self and inner is not None:
            inner.end()
        (recording.observer, recording.watch), recording.reviewer = self._before, self.outer
        return True

    def recorded(self, node: Node, arguments: tuple[Any, ...], y: Any) -> None:
        """An op was recorded: its node, its raw operands and its result."""
        if self._before[0] is not None:
            self._before[0](node, arguments, y)

    def called(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A layer is called: what its `forward` gives."""
        return module.forward(*args, **kwargs) if self._before[1] is None else self._before[1](module, args, kwargs)

    def computed(self, row: Primitive, arguments: tuple[Any, ...], y: Any) -> None:
        """An op on Tensors ran without being recorded: of constants, or under `no_grad`."""
        if self.outer is not None:
            self.outer.computed(row, arguments, y)

    def pulled(self, node: Node, i: int, g: Any, c: Any) -> None:
        """The cotangent `g` of a node was pulled back to `c`, that of its input `i`."""
        if self.outer is not None:
            self.outer.pulled(node, i, g, c)

    def freed(self, node: Node) -> None:
        """A node's residuals were given up."""
        if self.outer is not None:
            self.outer.freed(node)

    def writing(self, array: Any) -> None:
        """An array is about to be overwritten in place, by one who will say so."""
        if self.outer is not None:
            self.outer.writing(array)

    def wrote(self, write: Write) -> None:
        """An array was overwritten in place, or a Parameter or Buffer was given another."""
        if self.outer is not None:
            self.outer.wrote(write)


class Recording(threading.local):
    """Whether this thread records, and who looks on.

    observer: None, or a function `(node, arguments, y)` called with the raw arrays of every op as it
    is recorded: what tracing and debugging are built on.
    outermost: None, or the Module whose call all others that run now are part of.
    reviewer: None, or who looks on at reverse passes and at writes.
    replaying: None, or while a function is only run again, for its gradient or to be compared, the Buffers that
    hold copies meanwhile: all others, and Parameters, stay as they are.
    uses: None, or while a step is captured or rehearsed what it does to gradients and optimizers.
    scope: None, or while tracing the full paths of the layers that run, the innermost last; a layer
    appends its own when it is called and pops it when it returns.
    """

    on: bool = True
    observer: Callable[[Node, tuple[Any, ...], Any], None] | None = None
    watch: Callable[..., Any] | None = None
    outermost: Any = None
    reviewer: Reviewer | None = None
    replaying: Container[Any] | None = None
    uses: Uses | None = None
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


_serial = operator.attrgetter("serial")


def history(*results: Node) -> list[Node]:
    """Every node that the results depend on, themselves included, in the order of recording."""
    seen = set(results)
    stack = list(seen)
    while stack:
        for node in stack.pop().inputs:
            if node is not None and node not in seen:
                seen.add(node)
                stack.append(node)
    return sorted(seen, key=_serial)
