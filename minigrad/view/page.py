"""One self-contained HTML page of a tape: data, style and script in a single file that needs no network.

Places are computed here (see `layout`), twice: for the items of the whole graph and for the lines
within each group, so that the page can fold and unfold a group by stacking boxes. Arrays travel as
*pictures*: shape, statistics, a histogram, and a grid of at most a few hundred cells in 255 steps. Each
array has one picture, however many lines and steps show it, and these hold its number.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from minigrad import paths as split
from minigrad.autodiff import _leading_to
from minigrad.backend import numpy as host
from minigrad.backend import to_numpy
from minigrad.tape import Node
from minigrad.view import folding, layout, words
from minigrad.view.drawing import SYMBOLS
from minigrad.view.steps import steps_or_reason

if TYPE_CHECKING:
    from minigrad.view.program import Line, Tape

GRID, SMALL = (24, 32), (2, 4)
"""Rows and columns of the largest pictures, and of those of a tape of more than `MANY` lines."""

MANY = 4_000
"""Lines from which a page must be sparing: its pictures are small, and no group can be opened."""

OPENABLE = 200
"""Lines up to which a group can be opened."""

MOST_PATHS = 16
"""Paths shown for one leaf; beyond it those that are alike near the result are merged, and the largest are shown."""


def page(tape: Tape, title: str, leaves: Sequence[Line] | None) -> str:
    """The text of the page of a tape. See `Tape.save_html`."""
    parts = {name: resources.files("minigrad.view").joinpath(name).read_text("utf-8") for name in FILES}
    filled = {
        "TITLE": html.escape(words.printable(title)),
        "/*STYLE*/": parts["page.css"],
        "/*PLACES*/": parts["places.js"],
        "/*SCRIPT*/": parts["page.js"],
        # "</" and "<!--" mean something to HTML wherever they stand in a script
        "/*DATA*/": json.dumps(contents(tape, leaves), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    }
    # In one pass: what was filled in is not looked through again.
    return re.sub("|".join(map(re.escape, filled)), lambda mark: filled[mark.group()], parts["page.html"])


FILES = ("page.html", "page.css", "places.js", "page.js")


def contents(tape: Tape, leaves: Sequence[Line] | None) -> dict[str, Any]:
    """Everything that the page shows, as plain data."""
    large = len(tape) > folding.DRAWABLE
    keys = folding.layer_of_lines(tape)
    items = folding.groups(tape, fold=large or any(keys.values()))
    reverse, reason = steps_or_reason(tape)
    many = len(tape) > MANY
    pictures = Pictures(SMALL if many else GRID)
    steps = [
        {
            "line": step.line, "to": step.to, "rule": step.rule, "formula": step.formula,
            "local": step.local_text, "localPic": pictures.number(step.local),
            "incoming": pictures.number(step.incoming), "outgoing": pictures.number(step.outgoing),
            "running": pictures.number(step.running) if step.uses > 1 else None,
            "arrived": step.arrived, "uses": step.uses,
        }
        for step in reverse
    ]  # fmt: skip
    note = f"No reverse pass: {reason}." if reason else ""
    if large and (folded := folding.folding(tape, items)):
        note += f" {folded[0].upper()}{folded[1:]}. "
        note += "Boxes stay closed, and pictures are small." if many else "Click a box to open it."
        if not many and any(item.group and len(item.lines) > OPENABLE for item in items):
            note += f" One of more than {OPENABLE} lines stays closed."
    return {
        "lines": [_line(tape, line, bool(steps), pictures) for line in tape.lines],
        "edges": sorted({
            (tape.numbers[s], line.number) for line in tape.lines for s in line.node.inputs if s is not None
        }),
        "items": [_item(tape, item, 0 if many else OPENABLE) for item in items],
        "outer": _layout(layout.layout(len(items), folding.edges_between(tape, items))),
        "steps": steps,
        "paths": _paths(tape, leaves, large, pictures) if steps else [],
        "note": note.strip(),
        "result": tape.lines[-1].name,
        "program": str(tape).splitlines()[0],
        "pictures": pictures.drawn,
    }  # fmt: skip


def _line(tape: Tape, line: Line, reverse: bool, pictures: Pictures) -> dict[str, Any]:
    return {
        "n": line.number, "name": line.name, "op": line.op, "symbol": SYMBOLS.get(line.op, line.op),
        "expression": line.expression, "named": line.node in tape.given, "layer": line.layer,
        "shape": list(line.node.shape), "dtype": str(line.node.dtype), "keeps": line.kept or "nothing",
        "leaf": line.node.primitive is None,
        "value": pictures.number(tape.values.get(line.node)),
        "cotangent": pictures.number(tape.cotangents.get(line.node)) if reverse else None,
    }  # fmt: skip


def _item(tape: Tape, item: folding.Item, openable: int) -> dict[str, Any]:
    shown = {
        "title": item.title, "lines": item.lines, "group": item.group, "told": folding.told(tape, item), "inner": None
    }  # fmt: skip
    if not item.group or len(item.lines) > openable:
        return shown
    # One more item stands for all that comes from outside, so that its edges have a way in.
    singles = [folding.Item("", [number]) for number in item.lines]
    edges = folding.edges_between(tape, singles)
    for place, number in enumerate(item.lines):
        sources = (tape.numbers[source] for source in tape.nodes[number - 1].inputs if source is not None)
        if any(source not in item.lines for source in sources):
            edges.append((len(singles), place))
    return shown | {"inner": _layout(layout.layout(len(singles) + 1, edges))}


def _layout(places: layout.Layout) -> dict[str, Any]:
    rounded = [round(y, 3) for y in places.y]
    return {"x": [int(x) for x in places.x], "y": rounded, "edges": places.edges}


class Pictures:
    """The pictures of a page, in the order of their numbers."""

    def __init__(self, grid: tuple[int, int]) -> None:
        self.grid = grid
        self.drawn: list[dict[str, Any]] = []
        self._numbers: dict[int, tuple[int, Any]] = {}  # by the id of an array, which is held so that it stays its own

    def number(self, array: Any, full: float = 0.0) -> int | None:
        """The number of an array's picture; None for None. full: as for `picture`, the first time."""
        if array is None:
            return None
        if id(array) not in self._numbers:
            self._numbers[id(array)] = len(self.drawn), array
            self.drawn.append(picture(array, self.grid, full))
        return self._numbers[id(array)][0]


def picture(array: Any, limit: tuple[int, int], full: float = 0.0) -> dict[str, Any]:
    """An array as the page draws it: a grid of evenly picked cells and a histogram.

    Cells are from -127 to 127, which stands for the largest magnitude there, or for `full` where that is larger.
    """
    values = to_numpy(array).astype("float64")
    if values.size == 0:
        return {"shape": list(values.shape)}
    finite = values[abs(values) < math.inf]  # NaN is not less than anything
    low, high, mean, std = words.statistics(finite)
    largest = max(-low, high, full)
    flat = values.reshape(values.shape[0], -1) if values.ndim > 1 else values.reshape(1, -1)
    rows, columns = (_picked(n, most) for n, most in zip(flat.shape, limit, strict=True))
    cells = [[_level(v, largest) for v in flat[r][columns].tolist()] for r in rows]
    few = [words.number(v) for v in values.ravel().tolist()] if values.size <= min(32, math.prod(limit)) else None
    return {
        "shape": list(values.shape), "cells": cells, "few": few, "whole": flat.shape == (len(rows), len(columns)),
        "min": words.number(low), "max": words.number(high), "mean": words.number(mean), "std": words.number(std),
        "hist": _histogram(finite, low, high, 20), "bad": values.size - finite.size,
    }  # fmt: skip


def _picked(n: int, most: int) -> list[int]:
    """At most so many evenly spaced indices below n."""
    return list(range(n)) if n <= most else [i * (n - 1) // (most - 1) for i in range(most)]


def _level(value: float, largest: float) -> int | None:
    if not math.isfinite(value):
        return None
    return round(127 * (value / largest)) if largest else 0


def _histogram(values: Any, low: float, high: float, bins: int) -> list[int]:
    if not high > low:
        return [0] * (bins // 2) + [int(values.size)] + [0] * (bins - bins // 2 - 1)
    scale = max(-low, high)  # the difference of two large numbers may be none
    places = ((values / scale - low / scale) / (high / scale - low / scale) * bins).astype(int).clip(0, bins - 1)
    return host.bincount(places, minlength=bins).tolist()


def _paths(tape: Tape, leaves: Sequence[Line] | None, large: bool, pictures: Pictures) -> list[dict[str, Any]]:
    """For each leaf its gradient's paths, with the lines and edges that each lights up."""
    if leaves is None:
        chosen = [line for line in tape.lines if line.node.primitive is None and line.node in tape.cotangents]
        leaves = sorted(chosen, key=lambda line: line.node.label is not None)[: 2 if large else 4]
    found = []
    for leaf in leaves:
        ways = tape.paths(leaf.number, limit=MOST_PATHS)
        sizes = [abs(to_numpy(way.contribution)) for way in ways]
        full = max((float(size[size < math.inf].max(initial=0.0)) for size in sizes), default=0.0)
        lit = []
        for way in ways[:MOST_PATHS]:
            share = None if math.isnan(way.share) else way.share
            lit.append({
                "labels": list(way.labels), "norm": words.number(way.norm), "share": share,
                "picture": pictures.number(way.contribution, full), "edges": way_edges(tape, leaf.node, way.labels),
            })  # fmt: skip
        rest = ways[MOST_PATHS:]
        more = f"and {len(rest)} smaller ones, together {sum(way.share for way in rest):.1%}" if rest else ""
        found.append({"leaf": leaf.name, "n": leaf.number, "ways": lit, "more": more})
    return found


def way_edges(tape: Tape, x: Node, labels: Sequence[str]) -> list[tuple[int, int]]:
    """The edges, as pairs of lines' numbers, of all ways from x to the result past exactly these waypoints."""
    needed, waypoints, y = _leading_to([x], tape.nodes), tape.waypoints(x), tape.nodes[-1]
    forgetful = bool(labels) and labels[-1] == split.FORGOTTEN  # "..." stands for any waypoints that are left
    goal = len(labels) - forgetful

    def passed(node: Node, count: int) -> int | None:
        """How many of the waypoints a way has passed after a node, which had passed `count` before; None for astray."""
        name = waypoints.get(node)
        if name is None or (count == goal and forgetful):
            return count
        return count + 1 if count < goal and labels[count] == name else None

    arcs = [(source, node) for node in tape.nodes for source in dict.fromkeys(node.inputs) if source in needed]
    reached: dict[Node, set[int]] = {x: {0}}
    for source, node in arcs:
        counts = (passed(node, count) for count in reached.get(source, ()))
        reached.setdefault(node, set()).update(count for count in counts if count is not None)
    leading: dict[Node, set[int]] = {y: {goal}}
    edges = set()
    for source, node in reversed(arcs):
        for count in reached.get(source, ()):
            if passed(node, count) in leading.get(node, ()):
                leading.setdefault(source, set()).add(count)
                edges.add((tape.numbers[source], tape.numbers[node]))
    return sorted(edges)
