"""Places for an acyclic graph, in layers.

Longest-path layers, dummies where an edge skips layers (those of one item's edges are shared), barycentre sweeps
for the order in a layer, and then places as near to the neighbours as a minimal distance allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Layout:
    """Places for the items of one graph: x is the layer, y the place in it, both in units of one item.

    edges: (from, to, dummies in between); dummies have ids after the items'.
    """

    x: list[float]
    y: list[float]
    edges: list[tuple[int, int, list[int]]]
    layers: list[list[int]] = field(default_factory=list)


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
