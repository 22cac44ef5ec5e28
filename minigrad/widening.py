"""An alarm for values that silently become wider: float64 in a float32 program, twice the memory, half the speed.

The table's rows keep the dtype of their operands, and refuse two floating ones. What is left are rows of
the user's own, and whatever reaches past the ops to the arrays: a NumPy scalar, a 0-d array, a constant
of the wrong dtype. A value is *widened* where it is of a larger floating dtype than every floating
operand of the op that made it; `astype`, which is asked for by name, is not. A cotangent is widened where it is of a
larger one than both the cotangent that it was made from and the operand that it belongs to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from minigrad.primitive import describe
from minigrad.tape import Node, Reviewer, place

if TYPE_CHECKING:
    from minigrad.primitive import Primitive

__all__ = ["no_widening"]


@contextlib.contextmanager
def no_widening() -> Iterator[None]:
    """`with mg.no_widening():` raises TypeError at the first op whose result is wider than its operands.

    On the tape or not (of constants, under `no_grad`), and in the backward pass. The error names the op, its operands
    and the line that called it. In this thread only.
    """
    with Alarm():
        yield


class Alarm(Reviewer):
    """Looks at the dtype of every value and cotangent that an op makes, and at no layers: fused ones stay so."""

    def recorded(self, node: Node, arguments: tuple[Any, ...], y: Any) -> None:
        """An op was recorded."""
        super().recorded(node, arguments, y)
        assert node.primitive is not None
        _compare(node.primitive.name, arguments, y)

    def computed(self, row: Primitive, arguments: tuple[Any, ...], y: Any) -> None:
        """An op on Tensors ran without being recorded."""
        super().computed(row, arguments, y)
        _compare(row.name, arguments, y)

    def pulled(self, node: Node, i: int, g: Any, c: Any) -> None:
        """The cotangent `g` of a node was pulled back to `c`, that of its input `i`."""
        super().pulled(node, i, g, c)
        operand = node.inputs[i]
        assert node.primitive is not None and operand is not None
        if operand.dtype.itemsize < c.dtype.itemsize:
            _compare(f"backward of {node.primitive.name}", (g,), c)


def _compare(name: str, operands: tuple[Any, ...], y: Any) -> None:
    """Raises TypeError where y is wider than every floating operand."""
    sizes = [a.dtype.itemsize for a in operands if getattr(getattr(a, "dtype", None), "kind", "") == "f"]
    if y.dtype.kind == "f" and sizes and y.dtype.itemsize > max(sizes) and name != "astype":
        raise TypeError(
            f"{name}: widened {describe(operands)} to {y.dtype} {list(y.shape)}, {place()}; "
            "a NumPy scalar or a constant of another dtype does this: use Python numbers, or .astype(...)"
        )
