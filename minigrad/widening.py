"""An alarm for values that silently become wider: float64 in a float32 program, twice the memory, half the speed.

The table's rows keep the dtype of their operands, and refuse two floating ones. What is left are rows of
the user's own, and whatever reaches past the ops to the arrays: a NumPy scalar, a 0-d array, a constant
of the wrong dtype. A value is *widened* where it is of a larger floating dtype than every floating
operand of the op that made it; `astype`, which is asked for by name, is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from minigrad.primitive import describe
from minigrad.tape import Node, place, recording

__all__ = ["no_widening"]


@contextlib.contextmanager
def no_widening() -> Iterator[None]:
    """`with mg.no_widening():` raises TypeError at the first recorded op whose result is wider than its operands.

    The error names the op, its operands and the line that called it. In this thread only.
    """
    before = recording.observer

    def look(node: Node, arguments: tuple[Any, ...], y: Any) -> None:
        if before is not None:
            before(node, arguments, y)
        assert node.primitive is not None
        sizes = [a.dtype.itemsize for a in arguments if getattr(getattr(a, "dtype", None), "kind", "") == "f"]
        if y.dtype.kind == "f" and sizes and y.dtype.itemsize > max(sizes) and node.primitive.name != "astype":
            raise TypeError(
                f"{node.primitive.name}: widened {describe(arguments)} to {y.dtype} {list(y.shape)}, {place()}; "
                "a NumPy scalar or a constant of another dtype does this: use Python numbers, or .astype(...)"
            )

    recording.observer = look
    try:
        yield
    finally:
        recording.observer = before
