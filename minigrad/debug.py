"""Looking on while a program runs: the first NaN, where each line was recorded, who wrote where, locked arrays.

A *session* watches one thread from the moment when it is made until `off()` or the end of its `with`
block. It sees what is recorded on the tape and what is pulled back along it; it changes no number. It
costs a pass over every result, so it is for searching, not for training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from minigrad.backend import xp
from minigrad.tape import Node, Write, place, recording, writes
from minigrad.tensor import Tensor


def detect_anomaly() -> Session:
    """Raises FloatingPointError at the first NaN or infinity, forward or backward.

        with mg.detect_anomaly():
            loss = f(model(x))
            loss.backward()

    The message names the op, its label, its layer, the line that recorded it and the ranges of its
    operands. An infinity that comes out of infinite operands, and what happens outside the tape, pass.
    """
    return Session(lock=False)


def debug() -> Session:
    """Everything that helps to find a mistake, at once.

    As `detect_anomaly`, and: arrays that the tape keeps for its gradients are locked until the backward
    pass (NumPy raises where one is written to behind a Tensor's back), errors about overwritten values
    name both lines, and `session.written` lists each change of a Parameter or Buffer: of what, by whom, where.
    """
    return Session(lock=True)


class Written(NamedTuple):
    """One overwriting of a Parameter, Buffer or Tensor: its place in the order of recording, of what, and where."""

    serial: int
    name: str
    place: str


class Record:
    """Where a line of the tape was recorded, in which layer, and the arrays that were locked for it."""

    __slots__ = ("layer", "locked", "place")

    def __init__(self, place: str, layer: str) -> None:
        self.place, self.layer = place, layer
        self.locked: list[Any] = []

    def release(self) -> None:
        """Unlocks the arrays, owners before their views."""
        for array in sorted(self.locked, key=lambda a: a.base is not None):
            if array.base is None or array.base.flags.writeable:
                array.flags.writeable = True
        self.locked = []

    __del__ = release


class Session:
    """A watch over this thread, from now until `off()` or the end of the `with` block."""

    def __init__(self, lock: bool) -> None:
        self.written: list[Written] = []
        self._lock = lock
        self._layers: list[str] = []
        self._before = (recording.observer, recording.watch, recording.reviewer)
        recording.observer, recording.watch, recording.reviewer = self._observe, self._watch, self
        self._on = True

    def off(self) -> None:
        """Ends the watch; sessions that were made inside this one end with it."""
        if self._on:
            recording.observer, recording.watch, recording.reviewer = self._before
            self._on = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.off()

    # ---- forward -----------------------------------------------------------------------------------
    def _watch(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._layers and not module.path:
            for _ in module.named_modules():  # gives every layer its path
                pass
        self._layers.append(f"{type(module).__name__} {module.path!r}" if module.path else type(module).__name__)
        outer = self._before[1]
        try:
            return module.forward(*args, **kwargs) if outer is None else outer(module, args, kwargs)
        finally:
            self._layers.pop()

    def _observe(self, node: Node, arguments: tuple[Any, ...], y: Any) -> None:
        if self._before[0] is not None:
            self._before[0](node, arguments, y)
        node.record = Record(place(), self._layers[-1] if self._layers else "")
        fault = _fault(y, arguments)
        if fault:
            operands = zip(_names(node, len(arguments)), arguments, strict=True)
            shown = "; ".join(f"{name} = {describe(value)}" for name, value in operands)
            raise FloatingPointError(
                f"{_where(node)} made {fault}: the result is {describe(y)}; the operands are {shown}"
            )
        if self._lock:
            for array in _arrays(node.residuals):
                if array.flags.writeable and writes.of(array) is None:
                    array.flags.writeable = False
                    node.record.locked.append(array)

    # ---- backward ----------------------------------------------------------------------------------
    def pulled(self, node: Node, i: int, g: Any, c: Any) -> None:
        """Looks at one contribution to a cotangent."""
        if self._before[2] is not None:
            self._before[2].pulled(node, i, g, c)
        g, c = (t.data if isinstance(t, Tensor) else t for t in (g, c))
        fault = _fault(c, ())
        if fault:
            kept = "; ".join(describe(array) for array in _arrays(node.residuals)) or "nothing"
            raise FloatingPointError(
                f"backward: {_where(node)} made {fault} in the cotangent of its operand "
                f"{_names(node, len(node.inputs))[i]}: {describe(c)}; the cotangent that arrived is {describe(g)}; "
                f"the line kept {kept}"
            )

    def freed(self, node: Node) -> None:
        """Unlocks what was locked for a line whose gradient is done."""
        if self._before[2] is not None:
            self._before[2].freed(node)
        record = getattr(node, "record", None)
        if record is not None:
            record.release()

    def wrote(self, write: Write) -> None:
        """Logs a change."""
        if self._before[2] is not None:
            self._before[2].wrote(write)
        write.seen = place()
        self.written.append(Written(write.serial, write.what, write.seen))


def _arrays(values: Any) -> Iterator[Any]:
    """Every array among the residuals of a line."""
    for value in values if isinstance(values, (tuple, list)) else ():
        if isinstance(value, (tuple, list)):
            yield from _arrays(value)
        elif isinstance(value, xp.ndarray) and hasattr(value.flags, "writeable"):
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


def _names(node: Node, count: int) -> list[str]:
    row = node.primitive
    assert row is not None
    return [f"{row.arguments[0]}[{i}]" for i in range(count)] if row.variadic else list(row.arguments)


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
