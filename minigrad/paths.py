"""A gradient as the sum of what came along each way.

A derivative is a sum over the *paths* of the tape that lead from y back to x. Every pullback belongs
to one argument, so every edge can be pulled alone: here the cotangents are kept apart by the
*waypoints* (labelled intermediates) that they have passed. Paths that pass the same waypoints are
added up where they meet, so the cost is that of one reverse pass for each distinct set of waypoints,
not for each path. What is kept invariant: the contributions add up to the gradient, to rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minigrad.autodiff import _joint, _leading_to, _lift, _seed
from minigrad.backend import Array
from minigrad.given import whole
from minigrad.ops import astype, norm, sum_to
from minigrad.tape import FREED, Node, enable_grad, history, writes
from minigrad.tensor import Tensor

REDUCTIONS = frozenset(("amax", "logsumexp", "mean", "norm", "sum", "sum_to"))
"""Rows whose results serve as waypoints on a tape without any labels: what many values become one in."""

FORGOTTEN = "..."
"""Stands in `Path.labels` for waypoints near y that were merged, where there would be too many paths."""

Way = tuple[Node | None, ...]
"""The waypoints passed, nearest to x first; None stands for those that were forgotten."""


@dataclass(frozen=True)
class Path:
    """All the ways from y back to x that pass the same waypoints.

    contribution: what they bring to the gradient, of x's shape: a raw array, a Tensor with create_graph
    labels:       the waypoints passed, in the order in which they were computed (from x to y)
    norm:         the Euclidean norm of the contribution
    share:        its norm among the norms of all paths: from 0 to 1, and they add up to 1. (A projection on
                  the gradient would say nothing: BatchNorm's gradient is orthogonal to its statistics' paths.)
    ends:         the names of x and y
    """

    contribution: Any
    labels: tuple[str, ...]
    norm: float
    share: float
    ends: tuple[str, str] = ("x", "y")

    def __str__(self) -> str:
        way = " -> ".join((self.ends[0], *self.labels, self.ends[1]))
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
    reduction, named after its op. Nodes with the same label are told apart as "h#1" and "h#2".
    create_graph: the contributions are Tensors on the tape, so that they can be differentiated
    themselves. limit: the most groups that a node may hold; beyond it the waypoints nearest y are merged
    and shown as "...". The largest contribution comes first. The tape is kept. Raises ValueError for an
    x that is not on the tape and for a Tensor in `through` that lies on no way, KeyError for an unknown
    label.
    """
    if not isinstance(x, Tensor) or x.node is None:
        raise ValueError("paths: x is not on the tape; create it with requires_grad=True")
    g = _seed(y, cotangent, "paths")
    assert y.node is not None
    given = numbered({node: node.label for node in history(y.node) if node.label})
    between = ways_between(y.node, x.node)
    chosen = None if through is None else [n for item in through for n in _asked_for(item, between, given)]
    marks = waypoints(between, given, chosen, lambda node: given.get(node) or name_of(node))
    ends = (given.get(x.node, "x"), given.get(y.node, "y"))
    return split(y.node, x.node, g, marks, ends, create_graph, whole("paths: limit", limit))


def _asked_for(item: str | Tensor, between: Sequence[Node], given: dict[Node, str]) -> list[Any]:
    """The nodes that an item of `through` stands for."""
    if isinstance(item, Tensor):
        return [item.node]  # what lies on no way is refused with the rest
    found = [node for node in between if item in (node.label, given.get(node))]
    if not found:
        known = sorted(given[node] for node in between if node in given)
        raise KeyError(f"paths: nothing between x and y is labelled {item!r}; the labels there are {known}")
    return found


def numbered(names: Mapping[Node, str]) -> dict[Node, str]:
    """The same names, with a number where several nodes have one: h#1, h#2."""
    counts, seen = Counter(names.values()), Counter[str]()
    found = {}
    for node, name in names.items():
        found[node] = name
        while counts[found[node]] > 1 or (found[node] != name and found[node] in counts):
            seen[name] += 1
            found[node] = f"{name}#{seen[name]}"
    return found


def ways_between(y: Node, x: Node) -> list[Node]:
    """The nodes that a way from y back to x passes, its ends not among them, in the order of recording."""
    order = history(y)
    needed = _leading_to([x], order)
    return [node for node in order if node in needed and node is not x and node is not y]


def waypoints(
    between: Sequence[Node], given: Container[Node], chosen: Iterable[Node] | None, name: Callable[[Node], str]
) -> dict[Node, str]:
    """The nodes that tell ways apart, each with its name: the chosen ones, else those in `given`, else reductions.

    Raises ValueError for a chosen one that does not lie between.
    """
    if chosen is None:
        named = [node for node in between if node in given]
        chosen = named or [node for node in between if node.primitive is not None and node.primitive.name in REDUCTIONS]
    marks = {node: "a constant" if node is None else name(node) for node in chosen}
    if strangers := [marks[node] for node in marks if node not in between]:
        known = [name(node) for node in between]
        raise ValueError(
            f"paths: {strangers[0]}, which through= asks for, lies on no way from y back to x; on the ways are "
            f"{', '.join(known[:12]) or 'no other lines'}{', ...' if len(known) > 12 else ''}"
        )
    return marks


def name_of(node: Node) -> str:
    """A name for a node that has no label: its op and its place on the tape."""
    return f"{'leaf' if node.primitive is None else node.primitive.name.rstrip('_')}@{node.serial}"


def split(
    y: Node, x: Node, g: Any, marks: Mapping[Node, str], ends: tuple[str, str], create_graph: bool, limit: int
) -> list[Path]:
    """The gradient of y with respect to x by the waypoints passed. marks: these, with names, no two alike."""
    order = history(y)
    needed = _leading_to([x], order)
    if create_graph:
        with enable_grad():
            found = apart(order, needed, {y: g if isinstance(g, Tensor) else Tensor(g)}, x, marks, limit, True)
    else:
        found = apart(order, needed, {y: _raw(g)}, x, marks, limit)
    norms = {way: _norm(_raw(c)) for way, c in found.items()}
    largest = max(norms.values(), default=0.0) or 1.0
    total = sum(size / largest for size in norms.values()) or 1.0
    ways = []
    for way, c in found.items():
        labels = tuple(FORGOTTEN if node is None else marks[node] for node in way)
        ways.append(Path(c, labels, norms[way], norms[way] / largest / total, ends))
    return sorted(ways, key=lambda way: -way.norm)


def _raw(c: Any) -> Array:
    return c.data if isinstance(c, Tensor) else c


def _norm(c: Array) -> float:
    """The Euclidean norm, in float64 whatever the array's own range is."""
    return float(norm(c.astype("float64")))


def apart(
    order: Sequence[Node], needed: set[Node], seeds: Mapping[Node, Any], x: Node, marks: Container[Node], limit: int,
    create_graph: bool = False,
) -> dict[Way, Any]:  # fmt: skip
    """The cotangent of x, keyed by the waypoints passed.

    order: of recording; needed: the nodes that lead to x.  seeds: cotangents to begin with.  limit: of many ways
    """
    held: dict[Node, dict[Way, Any]] = {y: {(): g} for y, g in seeds.items()}
    for node in reversed(order):
        groups = held.pop(node, None)
        if groups is None:
            continue
        if node is x:
            return groups
        if node in marks:
            groups = {(node, *way): c for way, c in groups.items()}
        if len(groups) > limit:
            groups = _merged(groups, limit)
        for way, c in groups.items():
            for _, source, part in pull(node, c, create_graph, needed):
                at_source = held.setdefault(source, {})
                at_source[way] = at_source[way] + part if way in at_source else part
    return {}


def _merged(groups: dict[Way, Any], limit: int) -> dict[Way, Any]:
    """Fewer groups: only the waypoints nearest to x are remembered."""
    longest = max(len(way) for way in groups)
    merged = groups
    while len(merged) > limit and longest > 0:
        longest -= 1
        merged = {}
        for way, c in groups.items():
            kept = way if len(way) <= longest else (*way[:longest], None)
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
