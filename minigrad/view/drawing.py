"""The graph of a tape on paper: the SVG and Graphviz texts."""

from __future__ import annotations

import html
import itertools
import shutil
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minigrad.backend import to_numpy
from minigrad.tape import Node
from minigrad.view import words
from minigrad.view.folding import Item, edges_between, folding, groups, told
from minigrad.view.layout import layout
from minigrad.view.steps import steps_or_reason

if TYPE_CHECKING:
    from minigrad.view.program import Tape

SYMBOLS = {
    "add": "+", "subtract": "−", "multiply": "×", "divide": "÷", "negative": "−", "square": "x²", "sqrt": "√",
    "matmul": "@", "sum": "Σ", "sum_to": "Σ", "mean": "1/m Σ", "exp": "exp", "log": "log", "reciprocal": "1/x",
    "power_of": "xⁿ", "reshape": "shape", "transpose": "T", "broadcast_to": "copy", "concatenate": "cat",
    "max_pool": "max",
}  # fmt: skip


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
    dx, dy, left, top = 132, 84, 54, 58
    width = int(max(places.x) * dx + 2 * left + 40)
    height = int(max(places.y) * dy + 2 * top)

    def at(i: int) -> tuple[float, float]:
        return left + places.x[i] * dx, top + places.y[i] * dy

    folded = folding(tape, items)
    steps, reason = ([], "") if folded else steps_or_reason(tape)
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
            parts += [_text(x, y - 1, item.title, "#223"), _text(x, y + 13, told(tape, item), "#667")]
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
            shape, texts = "box3d", [item.title, told(tape, item)]
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
