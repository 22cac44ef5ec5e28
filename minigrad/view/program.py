"""Tape: the nodes behind a result as numbered lines, and what one asks of them.

A *line* is a node with its number and its name.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path as File
from typing import Any

from minigrad import ops
from minigrad import paths as split
from minigrad.autodiff import _seed
from minigrad.backend import Array, is_array
from minigrad.files import write_atomically
from minigrad.given import whole
from minigrad.tape import FREED, Node, history, owner
from minigrad.tensor import Tensor, on_tape
from minigrad.view import drawing, page, table, words
from minigrad.view.replay import replay
from minigrad.view.steps import Step, reverse_pass
from minigrad.view.values import UNKNOWN, Kept, arrays_in, constants, recover, run_again, slots


class Line:
    """One line of a Tape: what ran, on what, and what it keeps; its value and its cotangent."""

    def __init__(self, tape: Tape, number: int, node: Node, name: str) -> None:
        self.tape, self.number, self.node, self.name = tape, number, node, name

    @property
    def op(self) -> str:
        """The primitive's name, or "leaf"."""
        return "leaf" if self.node.primitive is None else words.op_name(self.node.primitive)

    @property
    def operands(self) -> list[str]:
        """The inputs as they are written: names of lines, numbers, or the kind of a constant array."""
        texts = []
        for source, constant in zip(self.node.inputs, constants(self.node), strict=True):
            if source is not None:
                texts.append(self.tape.names[source])
            elif constant is UNKNOWN:
                texts.append("const")
            elif is_array(constant) and constant.ndim:
                texts.append(f"const{list(constant.shape)}".replace(" ", ""))
            else:
                texts.append(words.literal(constant))
        return texts

    @property
    def expression(self) -> str:
        """The line as Python would write it."""
        if self.node.primitive is None:
            return self.name
        return words.expression(self.node.primitive, self.operands, self.node.params)

    @property
    def keeps(self) -> list[tuple[str, int]]:
        """What the line keeps for its pullbacks: (operand or "y", bytes), each array once."""
        seen: dict[int, tuple[str, int]] = {}
        for name, place, value in slots(self.node):
            for array in arrays_in(value):
                shown = self.operands[place] if place is not None and place >= 0 else name
                seen.setdefault(id(array), (self.name if name == "y" else shown, array.nbytes))
        return list(seen.values())

    @property
    def kept(self) -> str:
        """What the line keeps in words, or "freed"."""
        if self.node.residuals is FREED:
            return "freed"
        return ", ".join(f"{name} {words.size_text(n)}" for name, n in self.keeps)

    @property
    def value(self) -> Tensor:
        """The line's value, without a history. RuntimeError where nothing kept it and it cannot be recomputed."""
        found = self.tape.values.get(self.node)
        if found is None:
            raise RuntimeError(
                f"Tape: the value of {self.name!r} (line {self.number}) was not kept and cannot be computed again; run "
                "the computation inside `with mg.trace():`"
            )
        return Tensor(found)

    @property
    def cotangent(self) -> Tensor | None:
        """The derivative of the result with respect to this line; None where the result does not depend on it."""
        found = self.tape.cotangents.get(self.node)
        return None if found is None else Tensor(found)

    @property
    def layer(self) -> str:
        """The path of the layer that recorded it, known where `mg.trace` looked on, else ""."""
        kept = _traced(self.node)
        return "" if kept is None else kept.layer

    @property
    def kind(self) -> str:
        """The class of that layer, or ""."""
        kept = _traced(self.node)
        return "" if kept is None else kept.kind

    def __repr__(self) -> str:
        node = self.node
        return f"<line {self.number}: {self.name} = {self.expression}, {node.dtype} {list(node.shape)}>"


class Tape:
    """A view of what `y` was computed from.

    y: a Tensor on the tape. cotangent: where the reverse pass starts, of y's shape; 1 for a single
    number, and needed for anything else as soon as cotangents are asked for. names: keywords that name
    Tensors in all output, and as waypoints of paths as labels do. Raises RuntimeError for a y that is
    not on the tape, ValueError for a named Tensor that is not on it.
    """

    def __init__(self, y: Tensor, /, cotangent: Tensor | Array | None = None, **names: Tensor) -> None:
        node = on_tape(y, "Tape")
        self.y, self.seed = y, cotangent
        if cotangent is not None:
            _seed(y, cotangent, "Tape")  # refuses one of another shape
        self.nodes = history(node)
        self.numbers = {node: number for number, node in enumerate(self.nodes, 1)}
        self.given = self._named(names)
        self.names = self._all_names()
        self.lines = [Line(self, number, node, self.names[node]) for node, number in self.numbers.items()]

    def _named(self, keywords: Mapping[str, Tensor]) -> dict[Node, str]:
        """What somebody named, by keyword or else by label; where several nodes have one name, it gets a number."""
        self.keywords: dict[Node, str] = {}
        for name, t in keywords.items():
            if not isinstance(t, Tensor) or t.node not in self.numbers:
                raise ValueError(self._absent(t, f"{name}="))
            self.keywords[t.node] = name  # type: ignore[index]
        given = {node: self.keywords.get(node) or node.label for node in self.nodes}
        return split.numbered({node: words.printable(name) for node, name in given.items() if name})

    def _all_names(self) -> dict[Node, str]:
        """A name for every node: the one given, or x (a leaf) or v and its line's number; no two alike."""
        names, taken = {}, set(self.given.values())
        for node, number in self.numbers.items():
            name = "result" if node is self.y.node else f"{'x' if node.primitive is None else 'v'}{number}"
            while name in taken:
                name += "_"
            names[node] = self.given.get(node, name)
        return names

    def _absent(self, t: Any, what: str = "") -> str:
        if not isinstance(t, Tensor):
            return f"Tape: {what}{type(t).__name__} is not a Tensor of this tape"
        return (
            f"Tape: {what}a {t.dtype} {list(t.shape)} Tensor is not on the tape of this {self.y.dtype} "
            f"{list(self.y.shape)} result; nothing of it was computed from that Tensor, or the Tensor has no "
            f"requires_grad=True. On the tape are {self._some_names()}"
        )

    def _some_names(self) -> str:
        labels = (name for node in self.nodes if (name := self.keywords.get(node) or node.label))
        leaves = (f"line {number}" for node, number in self.numbers.items() if node.primitive is None)
        named = list(dict.fromkeys(labels)) or list(leaves)
        return ", ".join(named[:12]) + (", ..." if len(named) > 12 else "")

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[Line]:
        """The lines, in the order of recording."""
        return iter(self.lines)

    def __contains__(self, key: object) -> bool:
        """Whether a line has this name or label (or several), or a Tensor or a Line is one of this tape."""
        if isinstance(key, str):
            return bool(self._called(key))
        return key.node in self.numbers if isinstance(key, Tensor) else any(key is line for line in self.lines)

    def _called(self, name: str) -> list[Line]:
        """The line of that name as it is shown, else the lines to which somebody gave it."""
        exact = [line for line in self.lines if line.name == name]
        return exact or [line for line in self.lines if name in (line.node.label, self.keywords.get(line.node))]

    def __getitem__(self, key: str | int | Tensor) -> Line:
        """A line by its label or name, by its number (from 1), or by its Tensor.

        KeyError for a name that does not exist (the nearest ones are suggested) or that several lines
        have, ValueError for a Tensor that is not on this tape, IndexError for a number beyond it,
        TypeError for anything else.
        """
        if isinstance(key, Tensor):
            if key.node not in self.numbers:
                raise ValueError(self._absent(key))
            return self.lines[self.numbers[key.node] - 1]
        if isinstance(key, str):
            lines = self._called(key)
            if not lines:
                raise KeyError(unknown(key, [line.name for line in self.lines], "Tape"))
            if len(lines) > 1:
                which = ", ".join(f"{line.name!r} (line {line.number})" for line in lines)
                raise KeyError(f"Tape: {key!r} names {len(lines)} nodes: {which}; ask by one of these names or by line")
            return lines[0]
        if is_array(key) or not ops.is_integer(key):
            raise TypeError(f"Tape: a line has a name, a number and a Tensor; there is none for {key!r:.60}")
        if not 1 <= key <= len(self.lines):
            raise IndexError(f"Tape: lines are numbered 1 to {len(self.lines)}; there is no line {key}")
        return self.lines[key - 1]

    # ---- values and cotangents ---------------------------------------------------------------------
    @cached_property
    def values(self) -> dict[Node, Array]:
        """The raw array of every node whose value is known.

        Warns where a leaf was overwritten after the program ran: its old values are gone.
        """
        values, changed = recover(self.nodes)
        if changed is not None:
            line = self.lines[self.numbers[changed] - 1]
            copies = ", or run the computation inside `with mg.trace():`, which copies parameters"
            advice = "" if _traced(changed) else copies
            warnings.warn(
                f"Tape: {line.name!r} (line {line.number}, {line.expression}) is not what its operands give now: a "
                "leaf was overwritten since (by an optimizer's step?), and values computed from it are those of now; "
                f"ask the view for its values before that{advice}",
                stacklevel=3,
            )
        return values

    @cached_property
    def _reverse(self) -> tuple[list[Step], dict[Node, Array]]:
        self._alive("the reverse pass")
        if self.seed is None and self.y.size != 1:
            raise ValueError(
                f"Tape: the result has shape {list(self.y.shape)}; make the view with a cotangent of that shape, "
                "mg.Tape(y, cotangent), or of a single number such as the loss"
            )
        g = _seed(self.y, self.seed, "Tape")
        return reverse_pass(self, g.data if isinstance(g, Tensor) else g)

    @property
    def steps(self) -> list[Step]:
        """The reverse pass, from the result to the leaves, one Step for each edge.

        Raises RuntimeError for a tape that was freed, ValueError where a cotangent is needed.
        """
        return self._reverse[0]

    @property
    def cotangents(self) -> dict[Node, Array]:
        """The complete cotangent of every node that the result depends on, as raw arrays."""
        return self._reverse[1]

    def _alive(self, what: str) -> None:
        """RuntimeError for a tape that a backward pass has freed."""
        freed = next((line for line in self.lines if line.node.residuals is FREED), None)
        if freed is not None:
            raise RuntimeError(
                f"Tape: {what} needs the residuals of {freed.name!r} (line {freed.number}), which an earlier backward "
                "pass freed; pass retain_graph=True to that backward() or grad(), or make the table before it"
            )

    # ---- what one asks of a tape -------------------------------------------------------------------
    def paths(
        self,
        x: str | int | Tensor,
        cotangent: Tensor | Array | None = None,
        through: Iterable[str | int | Tensor] | None = None,
        create_graph: bool = False,
        limit: int = 64,
    ) -> list[split.Path]:
        """The gradient with respect to x (a name, a line's number, or a Tensor), split into its paths.

        through: what to tell ways apart by (names, lines' numbers, Tensors; a label stands for all lines that have
        it): by default every line between that has a label or was named by a keyword. Paths carry the tape's names.
        Else as `minigrad.paths.paths`; the cotangent is the view's own where none is given.
        """
        if isinstance(through, str):
            through = [through]
        line, y = self[x], self.y.node
        assert y is not None
        self._alive("a split into paths")
        g = _seed(self.y, self.seed if cotangent is None else cotangent, "paths")
        chosen = None
        if through is not None:
            lines = [(isinstance(item, str) and self._called(item)) or [self[item]] for item in through]
            chosen = [one.node for several in lines for one in several]
        marks = self.waypoints(line.node, chosen)
        ends = (line.name, self.names[y])
        return split.split(y, line.node, g, marks, ends, create_graph, whole("paths: limit", limit))

    def waypoints(self, x: Node, chosen: Iterable[Node] | None = None) -> dict[Node, str]:
        """The nodes by which ways from the result back to x are told apart, with their names."""
        return split.waypoints(split.ways_between(self.nodes[-1], x), self.given, chosen, self.names.__getitem__)

    def replay(self, new: Mapping[Any, Any]) -> Tensor:
        """Runs the same program on new leaf values and returns the new result.

        new: from leaves (Tensors, names or numbers of lines) to new values: Tensors (those on the tape can be
        differentiated), arrays or numbers, of the leaf's shape. All other leaves stay, on the tape. What was
        computed from values on the tape and is a constant (a mask, the index of a maximum, a detached value)
        stays what it was, with a warning; what came from elsewhere (labels, random draws, results of NumPy, of
        `item()` or under `no_grad`) stays without one. Raises ValueError for something that is no leaf, of
        another shape or given twice, TypeError for what is no mapping or holds no real numbers, RuntimeError
        for a line that needs a constant that was not kept.
        """
        return replay(self, new)

    def recompute(self, line: Line) -> Array:
        """A line's value computed again from its operands' values, to compare with what was kept."""
        if line.node.primitive is None:
            return line.value.data
        found = run_again(line.node, self.values)
        if found is None:
            raise RuntimeError(f"Tape: an operand of {line.name!r} (line {line.number}) was not kept")
        return found

    def table(self, elements: int = 6) -> table.StepTable:
        """The step table: forward lines with values, backward steps with cotangents. print() it, or take
        .text(), .markdown(), .latex() or .html() of it.

        elements: arrays of at most so many are shown in full, larger ones by their statistics.
        """
        return table.StepTable(self, whole("table: elements", elements, least=0))

    def dot(self) -> str:
        """The graph in Graphviz's language."""
        return drawing.dot(self)

    def svg(self, file: str | File | None = None, graphviz: bool = False) -> str:
        """The computational graph as SVG: circles, values above the arrows, cotangents below; also written to `file`.

        graphviz: let Graphviz draw it (RuntimeError where there is none); otherwise nothing is needed.
        """
        text = drawing.by_graphviz(self) if graphviz else drawing.svg(self)
        if file is not None:
            write_atomically(File(file), text.encode())
        return text

    def save_html(self, file: str | File, title: str = "A tape", paths: Iterable[str | Tensor] | None = None) -> None:
        """Writes one self-contained page: the graph, values and cotangents, paths, and the reverse pass by a slider.

        paths: the leaves (names or Tensors) whose gradients are split; by default up to four.
        """
        if len(self) > page.MANY:
            warnings.warn(
                f"Tape: this page has {len(self)} lines, which takes about a second and a megabyte for each thousand; "
                "its boxes stay closed and its pictures are small. A Tape of a part (of one turn of a loop) shows more",
                stacklevel=2,
            )
        paths = [paths] if isinstance(paths, str) else paths
        text = page.page(self, title, None if paths is None else [self[p] for p in paths])
        write_atomically(File(file), text.encode())

    def keeps(self) -> tuple[int, int]:
        """Bytes kept by all lines, each array once: (in all, of which leaves' own arrays)."""
        own = {id(owner(a)) for n in self.nodes if n.primitive is None and (a := getattr(n, "aside", None)) is not None}
        seen: dict[int, int] = {}
        for node in self.nodes:
            for _, _, value in slots(node):
                for array in arrays_in(value):
                    base = owner(array)
                    seen[id(base)] = max(seen.get(id(base), 0), array.nbytes)
        return sum(seen.values()), sum(n for key, n in seen.items() if key in own)

    def __str__(self) -> str:
        return table.program(self)

    def _repr_svg_(self) -> str:
        """What a notebook shows."""
        return self.svg()

    def __repr__(self) -> str:
        return f"<tape of {self.names[self.y.node]}: {len(self.lines)} lines>"  # type: ignore[index]


def _traced(node: Node) -> Kept | None:
    """What a trace kept of a node; None where none looked on."""
    aside = getattr(node, "aside", None)
    return aside if isinstance(aside, Kept) else None


def unknown(name: str, known: Iterable[str], where: str) -> str:
    """The message for a name that does not exist, with the nearest ones that do."""
    names = list(dict.fromkeys(known))
    tails = {n.rsplit("/", 1)[-1].rsplit(".", 1)[-1]: n for n in names}
    near = difflib.get_close_matches(name, names, 3, 0.5)
    near += [tails[t] for t in difflib.get_close_matches(name, tails, 3, 0.6) if tails[t] not in near]
    if near:
        return f"{where}: nothing is called {name!r}; did you mean {' or '.join(map(repr, near[:3]))}?"
    return f"{where}: nothing is called {name!r}; there are {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
