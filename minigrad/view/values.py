"""The values on a tape: which are known, where they come from, and how the program runs again.

A node keeps what its pullbacks ask for and nothing else. A view wants every value, and finds it, in
this order: what `mg.trace` kept; residuals, which are inputs or outputs of their lines; a leaf's own
array; and at last by running a line again on known values. What cannot be found is an array constant
that no pullback asks for (the target in `prediction - target`) and what depends on it alone; the view
says so, and `with mg.trace():` around the computation keeps it. Nothing here is written to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minigrad.backend import is_array, xp
from minigrad.primitive import ALL, OUTPUT, Primitive
from minigrad.tape import FREED, Node, history


@dataclass(frozen=True)
class Kept:
    """What tracing keeps of a line, beside its residuals: raw arrays, no nodes, and the layer with its class."""

    arguments: tuple[Any, ...]
    value: Any
    layer: str
    kind: str


class Unknown:
    """Stands for a constant operand that nothing kept."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()


def slots(node: Node) -> list[tuple[str, int | None, Any]]:
    """A node's residuals as (name, place, value): an argument's number, `OUTPUT`, or None for plain data."""
    row = node.primitive
    if row is None or node.residuals is FREED:
        return []
    if row.joint is not None:
        y, extra, arrays = node.residuals
        found: list[tuple[str, int | None, Any]] = [("y", OUTPUT, y)]
        found += [(name, i, a) for i, (name, a) in enumerate(zip(row.arguments, arrays, strict=True))]
        extras = extra if isinstance(extra, tuple) else (extra,)
        return found + [("extra", None, e) for e in extras if is_array(e)]
    found = []
    for value, origin in zip(node.residuals, row.lifts, strict=True):
        if origin == ALL:
            found += [(f"{row.arguments[0]}{i}", i, v) for i, v in enumerate(value)]
        elif origin is not None:
            if value is not None:  # kept only where an argument whose pullback asks for it is on the tape
                found.append(("y" if origin == OUTPUT else row.arguments[origin], origin, value))
        else:
            found.append(("index", None, value))
    return found


def arrays_in(value: Any) -> list[Any]:
    """The arrays in a residual: itself, or those in an index tuple."""
    if is_array(value):
        return [value]
    if isinstance(value, tuple):
        return [part for item in value for part in arrays_in(item)]
    return []


def constants(node: Node) -> list[Any]:
    """For each argument without a node its constant value or `UNKNOWN`; None for the others."""
    aside = getattr(node, "aside", None)
    found: list[Any] = [UNKNOWN if source is None else None for source in node.inputs]
    for i, source in enumerate(node.inputs):
        if source is not None:
            continue
        if isinstance(aside, Kept):
            found[i] = aside.arguments[i]
        elif isinstance(aside, tuple) and i < len(aside) and aside[i] is not None:
            found[i] = aside[i]
    for _, place, value in slots(node):
        if place is not None and place >= 0 and found[place] is UNKNOWN:
            found[place] = value
    return found


def program(result: Node) -> list[Node]:
    """Every node behind a result, those of constants that are computed again among them, in the order of recording."""
    nodes = history(result)
    while more := {n for node in nodes for n in getattr(node, "again", ()) if n is not None}.difference(nodes):
        nodes = history(result, *more)
    return nodes


def run(row: Primitive, arguments: Sequence[Any], params: Sequence[Any]) -> Any:
    """The row's forward function on raw arrays."""
    if row.joint is not None:
        return row.forward(*arguments, *params)[0]
    statics = dict(zip(row.statics, params, strict=True))
    if row.variadic:
        return xp.asarray(row.forward(*arguments, **statics))
    return xp.asarray(row.forward(**dict(zip(row.arguments, arguments, strict=True)), **statics))


def run_again(node: Node, known: Mapping[Node, Any]) -> Any:
    """A line's value computed again on known values of its operands; None where one is not known."""
    pairs = zip(node.inputs, constants(node), strict=True)
    operands = [constant if source is None else known.get(source, UNKNOWN) for source, constant in pairs]
    if node.primitive is None or any(operand is UNKNOWN for operand in operands):
        return None
    return run(node.primitive, operands, node.params)


def recover(nodes: Sequence[Node]) -> tuple[dict[Node, Any], Node | None]:
    """Every value that can be known, for nodes in the order of recording.

    And the first node whose kept value is not what its line gives on the values found, or None: a leaf
    was overwritten in place since, by an optimizer's step for example.
    """
    known: dict[Node, Any] = {}
    for node in nodes:
        aside = getattr(node, "aside", None)
        if isinstance(aside, Kept):
            known[node] = aside.value
            for source, argument in zip(node.inputs, aside.arguments, strict=True):
                if source is not None:
                    known.setdefault(source, argument)
    for node in nodes:
        for _, place, value in slots(node):
            source = None if place is None else node if place == OUTPUT else node.inputs[place]
            if source is not None and getattr(value, "shape", None) == source.shape:
                known.setdefault(source, value)
    for node in nodes:
        if node.primitive is None and getattr(node, "aside", None) is not None:
            known.setdefault(node, node.aside)
    changed: Node | None = None
    for node in nodes:
        found = run_again(node, known)
        if found is None:
            continue
        if node not in known:
            known[node] = found
        elif changed is None and not agree(known[node], found):
            changed = node
    return known, changed


def agree(a: Any, b: Any) -> bool:
    """Whether two arrays are one value up to rounding (NaN agrees with NaN)."""
    if not a.size:
        return True
    bound = 1e-3 * max(float(abs(a[a == a]).max()) if (a == a).any() else 0.0, 1e-30)
    return bool(((abs(a - b) <= bound) | (a != a) | (a == b)).all())
