"""What a training step did, layer by layer: named activations and their cotangents.

Inside `with mg.trace(model) as t:` every line of the tape keeps its operands and its value as they are when
it runs (parameters are copied, since an optimizer overwrites them), labels take the path of the layer
that runs ("bn1/var"), and the output of every layer is labelled with the layer's path, so that
`backward` keeps its cotangent. Nothing else changes: the numbers are those of a run without it. The
trace holds the tape it saw, and lets go of it when it is dropped itself; so `mg.checkpoint` would save
nothing inside it, and runs its function as it is.

A parameter that is overwritten inside, by an optimizer's step, is another thing from then on: its value
and the gradient that it had stay together.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from minigrad import ops
from minigrad.backend import is_array, to_numpy
from minigrad.tape import Node, Reviewer, Write, leaf, recording, writes
from minigrad.tensor import Tensor
from minigrad.view.program import Tape, unknown
from minigrad.view.values import Kept

__all__ = ["Trace", "Traced", "trace"]


@dataclass(frozen=True)
class Traced:
    """One named thing of a trace: its value, and after `backward` its cotangent."""

    name: str
    layer: str
    value: Tensor
    node: Node

    @property
    def grad(self) -> Tensor | None:
        """Its cotangent, summed over backward passes; None before the first."""
        return None if self.node.grad is None else Tensor(self.node.grad)

    def percentiles(self, q: Sequence[float] = (15, 50, 85)) -> list[float]:
        """Percentiles of the value's elements (by default those of Ioffe and Szegedy's figure 1).

        Raises ValueError for a share that is not from 0 to 100, TypeError for a number alone.
        """
        if not hasattr(q, "__len__") or isinstance(q, str):
            raise TypeError(f"percentiles: needs a list of shares, such as [15, 50, 85], not {q!r:.60}")
        if outside := [share for share in q if not 0 <= share <= 100]:
            raise ValueError(f"percentiles: shares are from 0 to 100, not {outside[0]}")
        values = sorted(to_numpy(self.value.data).ravel().tolist())
        return [_percentile(values, share) for share in q]

    @property
    def gradient_norm(self) -> float:
        """The Euclidean norm of the cotangent, in float64 whatever its own range; NaN before a backward pass."""
        return float("nan") if self.grad is None else ops.norm(self.grad.astype("float64")).item()


def _percentile(ordered: Sequence[float], q: float) -> float:
    """Linear interpolation between the two nearest ranks."""
    if not ordered:
        return float("nan")
    place = (len(ordered) - 1) * q / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


class Trace(Reviewer):
    """What `mg.trace()` returns: a context, and afterwards the named things by name.

    t["bn1/var"] is an intermediate that layer bn1 labelled, t["bn1"] a layer's output, t["bn1.weight"]
    a parameter. Raises KeyError for a name that does not exist (with the nearest ones) or that
    several things have (a layer that ran twice, a parameter before and after an optimizer's step):
    `t.all(name)` gives them in order.
    """

    def __init__(self, model: Any = None) -> None:
        self.model = model
        self._nodes: list[Node] = []
        self._outputs: list[tuple[str, Node]] = []
        self._called = False
        self._kinds: dict[str, str] = {}  # of each layer that ran its class
        self._leaves: dict[Node, Any] = {}
        self._open: dict[Node, tuple[Any, Any]] = {}  # leaves that change: each with its array and the gradient it had
        self._copies: dict[int, tuple[Any, int, Any]] = {}

    def __enter__(self) -> Self:
        if recording.scope is not None:
            raise RuntimeError("trace: a trace is open already in this thread; leave it before the next begins")
        if self.model is not None:
            list(self.model.named_modules())  # which gives them their paths
        self.begin()
        recording.scope = []
        return self

    def end(self) -> bool:
        """Ends the trace, which holds from then on what it held."""
        if not super().end():
            return False
        recording.scope = None
        for node, (_, grad) in list(self._open.items()):
            if node.grad is not grad:  # a pass inside reached it, and what comes later is another step's
                self._part(node)
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.end()
        if self._called and not self._nodes and kind is None:
            warnings.warn(
                "trace: layers were called and nothing was recorded: under no_grad(), or nothing there has "
                "requires_grad=True; only lines of the tape are traced",
                stacklevel=2,
            )

    def recorded(self, node: Node, arguments: tuple[Any, ...], y: Any) -> None:
        """Keeps what a line of the tape computed, and from what."""
        super().recorded(node, arguments, y)
        if recording.replaying is not None:  # of what was checkpointed before the trace began
            return
        arguments = tuple(self._as_it_is(argument) for argument in arguments)
        layer = recording.scope[-1] if recording.scope else ""
        node.aside = Kept(arguments, self._as_it_is(y), layer, self._kinds.get(layer, ""))
        self._nodes.append(node)
        for source, argument in zip(node.inputs, arguments, strict=True):
            if source is not None and source.primitive is None and source not in self._leaves:
                self._leaves[source] = argument
                self._open[source] = (getattr(source, "aside", None), source.grad)

    def wrote(self, write: Write) -> None:
        """Parts with a leaf that was overwritten: what is used later is another thing of the same name."""
        super().wrote(write)
        for node, (array, _) in list(self._open.items()):
            if array is not None and (node.aside is not array or writes.of(array) is write):
                self._part(node)

    def _part(self, node: Node) -> None:
        """Puts another leaf, which keeps the value and the gradient of now, in the place of one that goes on."""
        del self._open[node]
        past = leaf(node.shape, node.dtype, node.label)
        past.grad = node.grad
        self._leaves[past] = self._leaves.pop(node)

    def _as_it_is(self, value: Any) -> Any:
        """The value, or a copy where it shows the memory of a Parameter or Buffer: one copy for each version."""
        write = writes.of(value) if is_array(value) else None
        if write is None:
            return value
        of, version, copy = self._copies.get(id(value), (None, 0, None))
        if of is not value or version != write.serial:
            copy = value.copy()
            self._copies[id(value)] = (value, write.serial, copy)  # holding the value keeps its id its own
        return copy

    def called(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Names what a layer gives after its path."""
        scope = recording.scope
        if scope is None or recording.replaying is not None:
            return super().called(module, args, kwargs)
        self._called = True
        if not module._place:
            return super().called(module, args, kwargs)
        self._kinds[module._place] = type(module).__name__
        scope.append(module._place)
        try:
            y = super().called(module, args, kwargs)
        finally:
            scope.pop()
        node = y.node if isinstance(y, Tensor) else None
        if node is not None and isinstance(getattr(node, "aside", None), Kept):
            self._outputs.append((module._place, node))
            if node.label is None:
                node.label = module._place
        return y

    def _named(self) -> Iterator[tuple[str, Node]]:
        """Every (name, node): labelled lines and leaves, and layers' outputs that have another label."""
        yield from ((node.label, node) for node in self._nodes if node.label)
        yield from ((path, node) for path, node in self._outputs if node.label != path)
        yield from ((leaf.label, leaf) for leaf in self._leaves if leaf.label)

    @property
    def names(self) -> list[str]:
        """Every name that can be asked for, in the order of computation, parameters last."""
        return list(dict.fromkeys(name for name, _ in self._named()))

    def all(self, name: str) -> list[Traced]:
        """Everything of that name, in the order of computation. KeyError where there is nothing."""
        found = []
        for known, node in self._named():
            if known == name:
                value, layer = (
                    (self._leaves[node], "") if node in self._leaves else (node.aside.value, node.aside.layer)
                )
                found.append(Traced(name, layer, Tensor(value), node))
        if not found:
            raise KeyError(unknown(name, self.names, "trace"))
        return found

    def __getitem__(self, name: str) -> Traced:
        found = self.all(name)
        if len(found) > 1:
            raise KeyError(
                f"trace: {name!r} names {len(found)} nodes (it was computed, or overwritten, as many times inside the "
                f"trace); t.all({name!r}) gives them in order"
            )
        return found[0]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def tape(self, y: Tensor, /, cotangent: Any = None, **names: Tensor) -> Tape:
        """A Tape of a result that was computed inside; it knows every value."""
        return Tape(y, cotangent, **names)

    def __str__(self) -> str:
        """A table: name, shape, {15, 50, 85}th percentiles of the value, norm of the cotangent."""
        rows = [f"{'name':<28} {'shape':<18} {'p15':>10} {'p50':>10} {'p85':>10} {'gradient':>10}"]
        for name in self.names:
            for item in self.all(name):
                numbers = [*item.percentiles(), item.gradient_norm]
                cells = " ".join(f"{number:>10.3g}" for number in numbers)
                rows.append(f"{name:<28} {list(item.value.shape)!s:<18} {cells}")
        return "\n".join(rows)

    def __repr__(self) -> str:
        return f"<trace of {len(self._nodes)} lines, {len(self.names)} names>"


def trace(subject: Any = None, offset: int = 0) -> Any:
    """`with mg.trace(model) as t:` keeps named activations and cotangents of what runs inside; see `Trace`.

    The model may be left out: then names come from the modules that are called. Given a Tensor or an
    array instead of a model, this is the sum of its diagonal over the last two axes, as NumPy's.
    """
    if isinstance(subject, Tensor) or is_array(subject):
        return ops.trace(subject, offset)
    if subject is not None and not hasattr(subject, "named_modules"):
        raise TypeError(f"trace: needs a Module, a Tensor or nothing, not a {type(subject).__name__}")
    return Trace(subject)
