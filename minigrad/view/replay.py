"""The program of a tape run again, on other values of its leaves."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from minigrad.backend import is_array
from minigrad.tape import Node, detached
from minigrad.tensor import Tensor, as_array
from minigrad.view.values import UNKNOWN, arrays_in, constants, program

if TYPE_CHECKING:
    from minigrad.view.program import Tape


def replay(tape: Tape, new: Mapping[Any, Any]) -> Tensor:
    """See `Tape.replay`."""
    if not isinstance(new, Mapping):
        raise TypeError(f"replay: needs a mapping from leaves to values, {{x: array}}, not {type(new).__name__}")
    current: dict[Node, Any] = {}
    for key, value in new.items():
        line = tape[key]
        if line.node.primitive is not None:
            raise ValueError(f"replay: {line.name!r} (line {line.number}) is computed; only leaves take new values")
        if line.node in current:
            raise ValueError(f"replay: {line.name!r} (line {line.number}) is given two new values")
        if not isinstance(value, Tensor):
            array = as_array(value, None if is_array(value) else line.node.dtype, f"replay: {line.name!r}")
            if array.dtype.kind == "c":
                raise TypeError(f"replay: {line.name!r} takes real numbers, not {array.dtype}")
            value = Tensor(array.astype(line.node.dtype))
        if value.shape != line.node.shape or value.dtype != line.node.dtype:
            raise ValueError(
                f"replay: {line.name!r} is {line.node.dtype} {list(line.node.shape)}, not {value.dtype} "
                f"{list(value.shape)}"
            )
        current[line.node] = value
    assert tape.y.node is not None
    stale: dict[Node, None] = {}
    for node in program(tape.y.node):
        if node in current:
            continue
        if node.primitive is None:
            current[node] = Tensor(tape.values[node] if node in tape.numbers else node.aside, node)
            continue
        again: tuple[Node | None, ...] = getattr(node, "again", (None,) * len(node.inputs))
        operands = []
        for i, (source, constant) in enumerate(zip(node.inputs, constants(node), strict=True)):
            if source is not None:
                operands.append(current[source])
            elif (computed := again[i]) is not None:
                operands.append(current[computed].detach())
            elif constant is UNKNOWN:
                raise RuntimeError(
                    f"replay: operand {i} of {_where(tape, node)} is a constant that was not kept; run the "
                    "computation inside `with mg.trace():`"
                )
            else:
                operands.append(constant)
                if constant in detached:
                    stale[node] = None
        if any(a in detached for p in node.params for a in arrays_in(p)):
            stale[node] = None
        row = node.primitive
        result = row.call(*operands, **dict(zip(row.statics, node.params, strict=True)))
        if result.node is not None:
            if node.label and result.node.label is None:
                result.node.label = node.label
            if any(again):
                result.node.again = tuple(None if n is None else current[n].node for n in again)
        current[node] = result
    if stale:
        warnings.warn(
            f"replay: {len(stale)} {'line uses' if len(stale) == 1 else 'lines use'} masks, indices or detached "
            f"values as they were computed when the program was recorded (the first is "
            f"{_where(tape, next(iter(stale)))}); the result is not that of a new run where they would be others",
            stacklevel=3,
        )
    return current[tape.y.node]


def _where(tape: Tape, node: Node) -> str:
    """A node in an error: its line, or its op where it computes a constant and has no line here."""
    if node not in tape.numbers:
        return repr(node)
    line = tape.lines[tape.numbers[node] - 1]
    return f"line {line.number}, {line.name} = {line.expression}"
