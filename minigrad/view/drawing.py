"""The graph of a tape on paper: groups, layers, places, and the SVG and Graphviz texts.

Its words: an *item* is what is drawn as one thing, a line or a *group* (a run of consecutive lines of
one layer of a model, folded into one box). Since lines only use earlier lines, groups that are runs
leave the graph without cycles. Layout is the layered one: longest-path layers, dummies where an edge
skips layers (those of one item's edges are shared), barycentre sweeps for the order, and then places as
near to the neighbours as a minimal distance allows.
"""

from __future__ import annotations

import html
import itertools
import math
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from minigrad.backend import to_numpy
from minigrad.tape import Node
from minigrad.view import words

if TYPE_CHECKING:
    from minigrad.view.program import Step, Tape

DRAWABLE = 60
"""Lines up to which a drawing is legible; larger tapes are folded by layer."""

LAYERS, RUN = 600, 40
"""Layers, and lines outside of them, up to which each is a box of its own; and how many share a box then, at least."""

SYMBOLS = {
    "add": "+", "subtract": "−", "multiply": "×", "divide": "÷", "negative": "−", "square": "x²", "sqrt": "√",
    "matmul": "@", "sum": "Σ", "mean": "1/m Σ", "exp": "exp", "log": "log", "reciprocal": "1/x", "power_of": "xⁿ",
    "reshape": "shape", "transpose": "T", "broadcast_to": "copy", "concatenate": "cat", "max_pool": "max",
}  # fmt: skip


@dataclass
class Item:
    """One thing in a drawing: its title, its lines' numbers, and for a group its inner drawing."""

    title: str
    lines: list[int]
    group: bool = False


@dataclass
class Layout:
    """Places for the items of one graph: x is the layer, y the place in it, both in units of one item.

    edges: (from, to, dummies in between); dummies have ids after the items'.
    """

    x: list[float]
    y: list[float]
    edges: list[tuple[int, int, list[int]]]
    layers: list[list[int]] = field(default_factory=list)


def groups(tape: Tape, fold: bool | None = None) -> list[Item]:
    """The items of a tape. fold: True folds every layer, False none, None only where there are too many lines."""
    if fold is None:
        fold = len(tape) > DRAWABLE
    if not fold:
        return [Item(line.name, [line.number]) for line in tape.lines]
    keys = layer_of_lines(tape)
    runs: list[Item] = []
    for number, key in keys.items():
        if not key or not runs or not runs[-1].group or key != runs[-1].title:
            runs.append(Item(key or tape.lines[number - 1].name, [], bool(key)))
        runs[-1].lines.append(number)
    if len(runs) > (LAYERS if any(keys.values()) else DRAWABLE):
        many = max(RUN, math.ceil(len(runs) / DRAWABLE))
        runs = [_together(runs[start : start + many]) for start in range(0, len(runs), many)]
    of_line = {number: i for i, run in enumerate(runs) for number in run.lines}
    users: dict[int, set[int]] = {}
    for line in tape.lines:
        for source in line.node.inputs:
            if source is not None and source.primitive is None:
                users.setdefault(tape.numbers[source], set()).add(of_line[line.number])
    for line in tape.lines:
        if line.node.primitive is None:
            homes = users.get(line.number, set())
            home = runs[min(homes)] if len(homes) == 1 else None
            if home is not None and home.group and line.node.label:
                home.lines.insert(0, line.number)
            else:
                runs.append(Item(line.name, [line.number]))
    return runs


def _together(items: Sequence[Item]) -> Item:
    numbers = [number for item in items for number in item.lines]
    return Item(f"lines {numbers[0]} to {numbers[-1]}", numbers, True)


def folding(tape: Tape, items: Sequence[Item]) -> str:
    """How the items are folded, for the reader: "" where they are not."""
    if not any(item.group for item in items):
        return ""
    many = f"{len(tape)} lines are too many to draw one by one"
    if all(item.title.startswith("lines ") for item in items if item.group):
        return f"folded by number: {many}; of a model that runs inside mg.trace(model) the layers are known"
    if any(line.layer for line in tape.lines):
        return f"folded by layer: {many}"
    return f"folded by layer, as the parameters' names tell (mg.trace(model) tells where each ends): {many}"


def layer_of_lines(tape: Tape) -> dict[int, str]:
    """For each computed line the layer that recorded it: as traced, else by its parameters' names.

    Without a trace, lines between a layer's first line that is known and the next layer's are taken as its own.
    """
    keys: dict[int, str] = {}
    traced = any(line.layer for line in tape.lines)
    current = ""
    for line in tape.lines:
        if line.node.primitive is None:
            continue
        if traced:
            keys[line.number] = line.layer
            continue
        leaves = [source for source in line.node.inputs if source is not None and source.primitive is None]
        names = [leaf.label for leaf in leaves if leaf.label and "." in leaf.label]
        if names:
            current = words.printable(names[0].rsplit(".", 1)[0])
        keys[line.number] = current
    return keys


def edges_between(tape: Tape, items: Sequence[Item]) -> list[tuple[int, int]]:
    """The edges among items, each pair once."""
    home = {number: i for i, item in enumerate(items) for number in item.lines}
    found: dict[tuple[int, int], None] = {}
    for line in tape.lines:
        for source in line.node.inputs:
            if source is None:
                continue
            a, b = home.get(tape.numbers[source]), home.get(line.number)
            if a is not None and b is not None and a != b:
                found[(a, b)] = None
    return list(found)


def layout(count: int, edges: Sequence[tuple[int, int]]) -> Layout:
    """Layered places for `count` items of an acyclic graph."""
    below: list[list[int]] = [[] for _ in range(count)]
    above: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        below[a].append(b)
        above[b].append(a)
    layer = [0] * count
    order = _topological(count, above, below)
    for b in order:
        layer[b] = max((layer[a] + 1 for a in above[b]), default=0)
    for a in reversed(order):  # a source stands right before its first user
        if not above[a] and below[a]:
            layer[a] = min(layer[b] for b in below[a]) - 1
    drawn: list[tuple[int, int, list[int]]] = []
    links_up: list[list[int]] = [[] for _ in range(count)]
    links_down: list[list[int]] = [[] for _ in range(count)]
    chains: list[list[int]] = [[] for _ in range(count)]  # of each item the dummies that its edges share
    for a, b in edges:
        depths = layer[b] - layer[a] - 1
        while len(chains[a]) < depths:
            last = chains[a][-1] if chains[a] else a
            chains[a].append(len(layer))
            layer.append(layer[last] + 1)
            links_up.append([last])
            links_down.append([])
            links_down[last].append(chains[a][-1])
        via = chains[a][:depths]
        last = via[-1] if via else a
        links_down[last].append(b)
        links_up[b].append(last)
        drawn.append((a, b, via))
    layers: list[list[int]] = [[] for _ in range(max(layer, default=0) + 1)]
    for i in [*order, *range(count, len(layer))]:
        layers[layer[i]].append(i)
    for sweep in range(12):
        links = links_up if sweep % 2 == 0 else links_down
        place = {i: p for row in layers for p, i in enumerate(row)}
        for row in layers if sweep % 2 == 0 else reversed(layers):
            row.sort(key=lambda i: (sum(place[j] for j in links[i]) / len(links[i])) if links[i] else place[i])
            place.update({i: p for p, i in enumerate(row)})
    y = [0.0] * len(layer)
    for row in layers:
        for p, i in enumerate(row):
            y[i] = p - (len(row) - 1) / 2
    for sweep in range(16):
        for row in layers if sweep % 2 == 0 else reversed(layers):
            wishes = []
            for i in row:
                near = links_up[i] + links_down[i]
                wishes.append(sum(y[j] for j in near) / len(near) if near else y[i])
            for i, v in zip(row, spaced(wishes), strict=True):
                y[i] = v
    lowest = min(y, default=0.0)
    return Layout([float(v) for v in layer], [v - lowest for v in y], drawn, layers)


def _topological(count: int, above: Sequence[Sequence[int]], below: Sequence[Sequence[int]]) -> list[int]:
    waiting = [len(a) for a in above]
    ready = [i for i in range(count) if not waiting[i]]
    order = []
    while ready:
        i = ready.pop(0)
        order.append(i)
        for j in below[i]:
            waiting[j] -= 1
            if not waiting[j]:
                ready.append(j)
    return order


def spaced(wishes: Sequence[float]) -> list[float]:
    """The values nearest to the wishes (least squares) that keep the order and a distance of 1: isotonic regression."""
    blocks: list[list[float]] = []  # sum of the shifted wishes, their number
    for place, wish in enumerate(wishes):
        blocks.append([wish - place, 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, number = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += number
    flat = [total / number for total, number in blocks for _ in range(int(number))]
    return [v + place for place, v in enumerate(flat)]


def brief(array: Any) -> str:
    """An array on an arrow: up to three numbers, else mean ± standard deviation."""
    if array is None:
        return ""
    values = to_numpy(array)
    if values.size == 1:
        return f"{values.item():.3g}"
    if values.size <= 3:
        return ", ".join(f"{v:.3g}" for v in values.ravel())
    _, _, mean, std = words.statistics(values)
    return f"{0.0 if abs(mean) < 1e-12 * std else mean:.3g} ± {std:.3g}"


def svg(tape: Tape) -> str:
    """The graph with circles: what flows forward above each arrow, what flows back below it."""
    items = groups(tape)
    home = {number: i for i, item in enumerate(items) for number in item.lines}
    places = layout(len(items), edges_between(tape, items))
    dx, dy, left, top = 132, 84, 48, 58
    width = int(max(places.x) * dx + 2 * left + 40)
    height = int(max(places.y) * dy + 2 * top)

    def at(i: int) -> tuple[float, float]:
        return left + places.x[i] * dx, top + places.y[i] * dy

    folded = folding(tape, items)
    steps, reason = ([], "") if folded else reverse_pass(tape)
    contributions: dict[tuple[int, int], list[Any]] = {}
    for step in steps:
        contributions.setdefault((home[step.to], home[step.line]), []).append(step.outgoing)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#667"/></marker></defs>',
    ]
    for a, b, via in places.edges:
        points = [at(a), *(at(v) for v in via), at(b)]
        parts.append(f'<path d="{curve(points, _radius(items[a]), _radius(items[b]))}" fill="none" stroke="#99a" '
                     'stroke-width="1.3" marker-end="url(#tip)"/>')  # fmt: skip
        if folded:
            continue
        # beside the first part of the way that is rather flat, since steep ones cross others
        (x0, y0), (x1, y1) = min(itertools.pairwise(points), key=lambda ends: round(abs(ends[1][1] - ends[0][1]) / dy))
        x, y = x0 + 0.52 * (x1 - x0), y0 + 0.52 * (y1 - y0)
        value = brief(tape.values.get(tape.nodes[items[a].lines[0] - 1]))
        parts.append(_text(x, y - 5, value, "#1a7f37"))
        for k, part in enumerate(contributions.get((a, b), [])):
            parts.append(_text(x, y + 13 + 12 * k, brief(part), "#b42318"))
    for i, item in enumerate(items):
        x, y = at(i)
        line = tape.lines[item.lines[0] - 1]
        if item.group:
            parts.append(_box(x, y, 96, 40, "#eef3fb", "#4463a0"))
            parts += [_text(x, y - 1, item.title, "#223"), _text(x, y + 13, f"{len(item.lines)} lines", "#667")]
        elif line.node.primitive is None:
            parts.append(_box(x, y, 44, 28, "#fdf3dc", "#b08a2e"))
            parts.append(_text(x, y + 4, item.title, "#223", "bold"))
        else:
            parts.append(f'<circle cx="{x}" cy="{y}" r="20" fill="#eef3fb" stroke="#4463a0"/>')
            parts.append(_text(x, y + 4, SYMBOLS.get(line.op, line.op[:7]), "#223", "bold"))
            named = line.node in tape.given or line.node is tape.y.node
            parts.append(_text(x, y - 25, item.title, *(("#4463a0", "bold") if named else ("#889",))))
        if line.node is tape.y.node and not folded:
            parts.append(_text(x + 24, y - 4, brief(tape.values.get(line.node)), "#1a7f37", anchor="start"))
            if not reason:
                parts.append(_text(x + 24, y + 14, brief(tape.cotangents[line.node]), "#b42318", anchor="start"))
    legend = "values above, cotangents below"
    if folded:
        legend = folded
    if reason:
        legend = "values above; no cotangents (no single number, or the tape was freed or overwritten)"
    parts.append(_text(8, height - 8, legend, "#667", anchor="start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def reverse_pass(tape: Tape) -> tuple[list[Step], str]:
    """The steps of the reverse pass, or none and the reason why there is none."""
    if tape.seed is None and tape.y.size != 1:
        return [], f"the result is no single number (its shape is {list(tape.y.shape)}), and no cotangent was given"
    try:
        return tape.steps, ""
    except RuntimeError as error:  # the tape was freed, or what it kept was overwritten
        return [], str(error)


def _radius(item: Item) -> float:
    return 49 if item.group else 22


def curve(points: Sequence[tuple[float, float]], start: float, end: float) -> str:
    """A smooth path through the points, leaving `start` and `end` units of room at its ends."""
    points = [(points[0][0] + start, points[0][1]), *points[1:-1], (points[-1][0] - end, points[-1][1])]
    text = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        middle = (x0 + x1) / 2
        text += f"C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
    return text


def _box(x: float, y: float, width: float, height: float, fill: str, stroke: str) -> str:
    return (
        f'<rect x="{x - width / 2}" y="{y - height / 2}" width="{width}" height="{height}" rx="5" fill="{fill}" '
        f'stroke="{stroke}"/>'
    )


def _text(x: float, y: float, text: str, colour: str, weight: str = "normal", anchor: str = "middle") -> str:
    halo = 'paint-order="stroke" stroke="white" stroke-width="3"'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}" {halo}>'
        f"{html.escape(text)}</text>"
    )


def dot(tape: Tape) -> str:
    """The tape in Graphviz's language; larger tapes are folded by layer and say so."""
    items = groups(tape)
    lines = ["digraph tape {", "  rankdir=LR;", '  node [fontname="Helvetica", fontsize=11];']
    if folded := folding(tape, items):
        lines.append(f'  label="{folded}";')
    for i, item in enumerate(items):
        line = tape.lines[item.lines[0] - 1]
        if item.group:
            shape, texts = "box3d", [item.title, f"{len(item.lines)} lines"]
        elif line.node.primitive is None:
            shape, texts = "box", [item.title, _shape(line.node)]
        else:
            shape, texts = "ellipse", [f"{item.title} = {line.expression}", _shape(line.node)]
        quoted = "\\n".join(text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
        lines.append(f'  n{i} [shape={shape}, label="{quoted}"];')
    lines += [f"  n{a} -> n{b};" for a, b in edges_between(tape, items)]
    return "\n".join([*lines, "}"]) + "\n"


def _shape(node: Node) -> str:
    return f"{node.dtype} {list(node.shape)}"


def by_graphviz(tape: Tape) -> str:
    """The SVG that Graphviz's `dot` makes of it. RuntimeError where there is no Graphviz."""
    program = shutil.which("dot")
    if program is None:
        raise RuntimeError("svg: Graphviz's `dot` is not installed here; tape.svg() draws without it")
    done = subprocess.run([program, "-Tsvg"], input=dot(tape), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"svg: Graphviz failed: {done.stderr.strip()[:300]}")
    return done.stdout
