"""A gradient as the sum of what came along each way.

A derivative is a sum over the *paths* of the tape that lead from y back to x. Every pullback belongs
to one argument, so every edge can be pulled alone: here the cotangents are kept apart by the
*waypoints* (labelled intermediates) that they have passed. Paths that pass the same waypoints are
added up where they meet, so the cost is that of one reverse pass for each distinct set of waypoints,
not for each path. What is kept invariant: the contributions add up to the gradient, to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from minigrad.autodiff import _joint, _leading_to, _lift, _seed
from minigrad.backend import Array
from minigrad.ops import astype, sum_to
from minigrad.tape import FREED, Node, enable_grad, history, writes
from minigrad.tensor import Tensor

REDUCTIONS = frozenset(("amax", "logsumexp", "mean", "norm", "sum", "sum_to"))
"""Rows whose results serve as waypoints on a tape without any labels: what many values become one in."""

FORGOTTEN = "..."
"""Stands in `Path.labels` for waypoints near y that were merged, where there would be too many paths."""


@dataclass(frozen=True)
class Path:
    """All the ways from y back to x that pass the same waypoints.

    contribution: what they bring to the gradient, of x's shape: a raw array, a Tensor with create_graph
    labels:       the waypoints passed, in the order in which they were computed (from x to y)
    norm:         the Euclidean norm of the contribution
    share:        its norm among the norms of all paths: from 0 to 1, and they add up to 1. (A projection on
                  the gradient would say nothing: BatchNorm's gradient is orthogonal to its statistics' paths.)
    """

    contribution: Any
    labels: tuple[str, ...]
    norm: float
    share: float

    def __str__(self) -> str:
        way = " -> ".join(("x", *self.labels, "y"))
        return f"{way}: norm {self.norm:.4g}, {self.share:.1%} of all"


def paths(
    y: Tensor,
    x: Tensor,
    cotangent: Tensor | Array | None = None,
    through: Iterable[str | Tensor] | None = None,
    create_graph: bool = False,
    limit: int = 64,
) -> list[Path]:
    """The gradient of y with respect to x, split by the labelled intermediates that each way passes.

    cotangent: of y's shape; needed unless y is a single number. through: the labels (or the Tensors)
    to tell ways apart by; by default every labelled intermediate, and where there is none every
    reduction, named after its op. create_graph: the contributions are Tensors on the tape, so that
    they can be differentiated themselves. limit: the most groups that a node may hold; beyond it the
    waypoints nearest y are merged and shown as "...". The largest contribution comes first. The tape
    is kept. Raises ValueError for an x that is not on the tape, KeyError for an unknown label.
    """
    g = _seed(y, cotangent, "paths")
    if not isinstance(x, Tensor) or x.node is None:
        raise ValueError("paths: x is not on the tape; create it with requires_grad=True")
    assert y.node is not None
    order = history(y.node)
    needed = _leading_to([x.node], order)
    waypoints = _waypoints([n for n in order if n in needed and n is not x.node and n is not y.node], through)
    if create_graph:
        g = g if isinstance(g, Tensor) else Tensor(g)
        with enable_grad():
            found = _split(y.node, x.node, g, needed, waypoints, order, True, limit)
    else:
        g = g.data if isinstance(g, Tensor) else g
        found = _split(y.node, x.node, g, needed, waypoints, order, False, limit)
    norms = {labels: math.sqrt(float((_raw(c) ** 2).sum())) for labels, c in found.items()}
    total = sum(norms.values()) or 1.0
    ways = [Path(c, labels, norms[labels], norms[labels] / total) for labels, c in found.items()]
    return sorted(ways, key=lambda way: -way.norm)


def _raw(c: Any) -> Array:
    return c.data if isinstance(c, Tensor) else c


def _waypoints(between: Sequence[Node], through: Iterable[str | Tensor] | None) -> dict[Node, str]:
    """The nodes that tell ways apart, each with its name."""
    labelled = {node: node.label for node in between if node.label}
    if through is not None:
        chosen: dict[Node, str] = {}
        for item in through:
            if isinstance(item, Tensor):
                if item.node in between:
                    chosen[item.node] = item.label or name_of(item.node)  # type: ignore[index, arg-type]
                continue
            named = {node: label for node, label in labelled.items() if label == item}
            if not named:
                known = sorted(labelled.values())
                raise KeyError(f"paths: nothing between x and y is labelled {item!r}; the labels there are {known}")
            chosen |= named
        return chosen
    if labelled:
        return labelled
    reductions = [node for node in between if node.primitive is not None and node.primitive.name in REDUCTIONS]
    return {node: name_of(node) for node in reductions}


def name_of(node: Node) -> str:
    """A name for a node that has no label: its op and its place on the tape."""
    return f"{'leaf' if node.primitive is None else node.primitive.name.rstrip('_')}@{node.serial}"


def _split(
    y: Node,
    x: Node,
    g: Any,
    needed: set[Node],
    waypoints: dict[Node, str],
    order: list[Node],
    create_graph: bool,
    limit: int,
) -> dict[tuple[str, ...], Any]:
    """The cotangent of x, keyed by the waypoints passed."""
    held: dict[Node, dict[tuple[str, ...], Any]] = {y: {(): g}}
    for node in reversed(order):
        groups = held.pop(node, None)
        if groups is None:
            continue
        if node is x:
            return groups
        if node in waypoints:
            groups = {(waypoints[node], *labels): c for labels, c in groups.items()}
        if len(groups) > limit:
            groups = _merged(groups, limit)
        for labels, c in groups.items():
            for _, source, part in pull(node, c, create_graph, needed):
                at_source = held.setdefault(source, {})
                at_source[labels] = at_source[labels] + part if labels in at_source else part
    return {}


def _merged(groups: dict[tuple[str, ...], Any], limit: int) -> dict[tuple[str, ...], Any]:
    """Fewer groups: only the waypoints nearest to x are remembered."""
    longest = max(len(labels) for labels in groups)
    merged = groups
    while len(merged) > limit and longest > 0:
        longest -= 1
        merged = {}
        for labels, c in groups.items():
            kept = labels if len(labels) <= longest else (*labels[:longest], FORGOTTEN)
            merged[kept] = merged[kept] + c if kept in merged else c
    return merged


def pull(
    node: Node, g: Any, create_graph: bool = False, needed: set[Node] | None = None, values: Sequence[Any] | None = None
) -> Iterator[tuple[int, Node, Any]]:
    """A node's cotangent pulled along each of its edges: (argument number, input node, contribution).

    needed: only edges into these nodes. values: stands in for the node's residuals, which is how a
    mistaken backward pass can be acted out.
    """
    row = node.primitive
    if row is None:
        return
    if node.residuals is FREED:
        raise RuntimeError(
            f"paths: the tape of {row.name!r} (line {node.serial}) was freed by an earlier backward pass; pass "
            "retain_graph=True to that earlier backward() or grad() to keep it"
        )
    overwritten = values is None and node.serial < writes.newest
    if row.joint is not None:
        if overwritten:
            writes.check(node, node.residuals)
        for i, (source, c) in enumerate(zip(node.inputs, _joint(row, node, g, create_graph, needed), strict=True)):
            if source is not None and c is not None:
                yield i, source, c
        return
    values = node.residuals if values is None else values
    if create_graph:
        values = _lift(row, node, values)
    for i, source in enumerate(node.inputs):
        if source is None or (needed is not None and source not in needed):
            continue
        rule, places = row.pullbacks[0 if row.variadic else i]  # type: ignore[misc]
        if overwritten:
            writes.check(node, [node.residuals[place] for place in places if place >= 0])
        c = rule(g, *[values[place] if place >= 0 else i for place in places])
        if c.shape != source.shape:
            c = sum_to(c, source.shape)
        if c.dtype != source.dtype:
            c = astype(c, source.dtype)
        yield i, source, c
