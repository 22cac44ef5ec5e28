"""Looking on while a program runs: the first NaN, where each line was recorded, who wrote where, locked arrays.

A *session* watches one thread from the moment when it is made until `off()` or the end of its `with`
block. It sees what is recorded on the tape and what is pulled back along it; it changes no number. It
costs a pass over every result, so it is for searching, not for training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self
from weakref import WeakSet
from zlib import crc32

from minigrad.backend import to_numpy, xp
from minigrad.primitive import NUMBER, Primitive
from minigrad.tape import Node, Reviewer, Write, owner, place, recording
from minigrad.tensor import Tensor


def detect_anomaly() -> Session:
    """Raises FloatingPointError at the first NaN or infinity, forward or backward.

        with mg.detect_anomaly():
            loss = f(model(x))
            loss.backward()

    The message names the op, its label, its layer, the line that recorded it and the ranges of its
    operands. Ops under `no_grad` and of constants are looked at too. An infinity that comes out of
    infinite operands passes, and so does what is computed on raw arrays.
    """
    return Session(lock=False)


def debug() -> Session:
    """Everything that helps to find a mistake, at once.

    As `detect_anomaly`, and: arrays that the tape keeps for its gradients are locked until the backward
    pass, so that NumPy raises where one is written to behind a Tensor's back; what is written all the same,
    through a view that was there before, is noticed in the backward pass by a checksum; errors about
    overwritten values name both lines; and `session.written` lists each change of a Parameter or Buffer: of
    what, by whom, where, and in which layer.
    """
    return Session(lock=True)


class Written(NamedTuple):
    """A change of a Parameter, Buffer or Tensor: when, in the order of recording, of what, by whom, in which layer."""

    serial: int
    name: str
    place: str
    layer: str


class Record:
    """Where a line of the tape was recorded, in which layer, and what was locked for it.

    sums: of each array among the residuals its checksum, by its id.
    """

    __slots__ = ("__weakref__", "layer", "locked", "name", "place", "sums")

    def __init__(self, name: str, place: str, layer: str) -> None:
        self.name, self.place, self.layer = name, place, layer
        self.locked: list[Any] = []
        self.sums: dict[int, int] = {}

    def lock(self, array: Any) -> None:
        """Locks an array and the owner of its memory, as far as nobody did."""
        for part in (array, owner(array)):
            if hasattr(part.flags, "writeable") and part.flags.writeable:
                part.flags.writeable = False
                self.locked.append(part)
        self.sums[id(array)] = checksum(array)

    def release(self) -> None:
        """Unlocks the arrays, owners before their views."""
        for array in reversed(self.locked):
            if array.base is None or getattr(getattr(array.base, "flags", None), "writeable", True):
                array.flags.writeable = True
        self.locked = []

    __del__ = release


class Session(Reviewer):
    """A watch over this thread, from now until `off()` or the end of the `with` block."""

    def __init__(self, lock: bool) -> None:
        self.written: list[Written] = []
        self._lock = lock
        self._layers: list[str] = []
        self._records: WeakSet[Record] = WeakSet()
        self.begin()

    def off(self) -> None:
        """Ends the watch and its locks; sessions and traces that began inside it end with it."""
        self.end()

    def end(self) -> bool:
        """As `off`."""
        for record in self._records:
            record.release()
        return super().end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if isinstance(error, ValueError) and "read-only" in str(error):
            kept = sorted(f"\n  {record.name}, recorded {record.place}" for record in self._records if record.locked)
            error.add_note(f"mg.debug() locks what the tape keeps until its backward pass; kept by{''.join(kept)}")
        self.off()

    # ---- forward -----------------------------------------------------------------------------------
    def called(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Notes which layer runs."""
        self._layers.append(f"{type(module).__name__} {module._place!r}" if module._place else type(module).__name__)
        try:
            return super().called(module, args, kwargs)
        finally:
            self._layers.pop()

    def recorded(self, node: Node, arguments: tuple[Any, ...], y: Any) -> None:
        """Looks at the result of an op, and locks what the tape keeps of it."""
        super().recorded(node, arguments, y)
        assert node.primitive is not None
        record = node.record = Record(node.primitive.name, place(), self._layer)
        fault = _fault(y, arguments)
        if fault:
            shown = _ranges(node.primitive, node.inputs, arguments, y)
            raise FloatingPointError(f"{_where(node)} made {fault}: {shown}")
        if self._lock:
            self._records.add(record)
            for array in _arrays(node.residuals):
                record.lock(array)

    @property
    def _layer(self) -> str:
        return self._layers[-1] if self._layers else ""

    def computed(self, row: Primitive, arguments: tuple[Any, ...], y: Any) -> None:
        """Looks at the result of an op that is not recorded."""
        super().computed(row, arguments, y)
        fault = _fault(y, arguments)
        if fault:
            layer = f" in the layer {self._layer}" if self._layer else ""
            why = "of constants" if recording.on else "under no_grad"
            raise FloatingPointError(
                f"{row.name} (not on the tape: {why};{layer} computed {place()}) made {fault}: "
                f"{_ranges(row, (None,) * len(arguments), arguments, y)}"
            )

    # ---- backward ----------------------------------------------------------------------------------
    def pulled(self, node: Node, i: int, g: Any, c: Any) -> None:
        """Looks at one contribution to a cotangent."""
        super().pulled(node, i, g, c)
        _unchanged(node, i)
        g, c = (t.data if isinstance(t, Tensor) else t for t in (g, c))
        fault = _fault(c, ())
        if fault:
            kept = "; ".join(describe(array) for array in _arrays(node.residuals)) or "nothing"
            raise FloatingPointError(
                f"backward: {_where(node)} made {fault} in the cotangent of its operand "
                f"{_names(node.primitive, node.inputs)[i]}: {describe(c)}; the cotangent that arrived is "
                f"{describe(g)}; the line kept {kept}"
            )

    def freed(self, node: Node) -> None:
        """Unlocks what was locked for a line whose gradient is done."""
        super().freed(node)
        record = getattr(node, "record", None)
        if record is not None:
            record.release()

    def writing(self, array: Any) -> None:
        """Unlocks an array for one who will say that it was overwritten."""
        super().writing(array)
        if not getattr(array.flags, "writeable", True):
            locked = {id(part) for record in self._records for part in record.locked}
            for part in (owner(array), array):
                if id(part) in locked:
                    part.flags.writeable = True

    def wrote(self, write: Write) -> None:
        """Logs a change, and none of what a replay writes to copies."""
        super().wrote(write)
        write.seen = place()
        if recording.replaying is None:
            self.written.append(Written(write.serial, write.what, write.seen, self._layer))


def _arrays(values: Any) -> Iterator[Any]:
    """Every array among the residuals of a line."""
    for value in values if isinstance(values, (tuple, list)) else ():
        if isinstance(value, (tuple, list)):
            yield from _arrays(value)
        elif isinstance(value, xp.ndarray):
            yield value


def _fault(y: Any, arguments: Sequence[Any]) -> str:
    """What is wrong with a result: the first NaN, or an infinity out of finite operands; empty if nothing."""
    if y.dtype.kind not in "fc" or bool(xp.isfinite(y).all()):
        return ""
    if bool(xp.isnan(y).any()):
        return "the first NaN"
    return "" if any(bool(xp.isinf(a).any()) for a in arguments if _is_float(a)) else "the first infinity"


def _is_float(value: Any) -> bool:
    return isinstance(value, float) or getattr(getattr(value, "dtype", None), "kind", "") in ("f", "c")


def _names(row: Primitive | None, inputs: Sequence[Node | None]) -> list[str]:
    """The operands of an op by their names in the table, each with its label where it has one."""
    assert row is not None
    names = [f"{row.arguments[0]}[{i}]" for i in range(len(inputs))] if row.variadic else row.arguments
    labels = [f" {node.label!r}" if node is not None and node.label else "" for node in inputs]
    return [name + label for name, label in zip(names, labels, strict=True)]


def _ranges(row: Primitive, inputs: Sequence[Node | None], arguments: Sequence[Any], y: Any) -> str:
    """The result and the operands of an op in words."""
    shown = "; ".join(f"{n} = {describe(v)}" for n, v in zip(_names(row, inputs), arguments, strict=True))
    return f"the result is {describe(y)}; the operands are {shown}"


def checksum(array: Any) -> int:
    """A number that changes with the values of an array."""
    return crc32(to_numpy(array).tobytes())


def _unchanged(node: Node, i: int) -> None:
    """Raises RuntimeError where a value that was just pulled back with is not the one that was kept."""
    record, row = getattr(node, "record", None), node.primitive
    if record is None or row is None or not record.sums:
        return
    if row.joint is not None:
        used = [node.residuals[0], node.residuals[2]]  # what a kernel keeps beside them is its own to write over
    else:
        plan = row.pullbacks[0 if row.variadic else i]
        used = [] if plan is None else [node.residuals[place] for place in plan[1] if place != NUMBER]
    for array in _arrays(used):
        if record.sums.get(id(array), 0) != checksum(array):
            raise RuntimeError(
                f"backward: {_where(node)} kept an array for its gradient, now {describe(array)}, and before the "
                f"backward pass, which was called {place()}, this was overwritten behind the Tensor's back, through "
                "another array that shows the same memory; copy what you write into, or call backward() first"
            )


def _where(node: Node) -> str:
    """A line of the tape in words: op, label, layer, and the line of the program."""
    assert node.primitive is not None
    record = getattr(node, "record", None)
    label = f" {node.label!r}" if node.label else ""
    layer = f" in the layer {record.layer}" if record is not None and record.layer else ""
    origin = f", recorded {record.place}" if record is not None else ""
    return f"{node.primitive.name}{label} (line {node.serial} of the tape{layer}{origin})"


def describe(value: Any) -> str:
    """A value in words: dtype, shape, range, and how much of it is not finite."""
    if not hasattr(value, "dtype"):
        return f"{value!r:.40}"
    text = f"{value.dtype} {list(value.shape)}"
    if value.dtype.kind not in "fiu" or not value.size:
        return text
    finite = value[xp.isfinite(value)]
    parts = [f"in [{finite.min():.4g}, {finite.max():.4g}]"] if finite.size else []
    for what, number in (("NaN", int(xp.isnan(value).sum())), ("infinite", int(xp.isinf(value).sum()))):
        if number:
            parts.append(f"{number} of {value.size} {what}")
    return f"{text} {', '.join(parts)}"
