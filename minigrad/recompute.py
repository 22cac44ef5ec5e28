"""Activation checkpointing: a part of the tape that keeps its inputs only, and is run again when it is needed.

Time for memory (Griewank and Walther 2000; Chen et al. 2016). The function runs forward once; what it
recorded is dropped, and one line of the tape stands for all of it. The reverse pass *replays* it, on
the same values and with the same random numbers, and pulls the cotangent back through the new recording.
During a replay Buffers remember nothing, so BatchNorm counts each batch once.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from minigrad import ops, random
from minigrad.autodiff import reverse
from minigrad.primitive import Primitive
from minigrad.tape import Node, enable_grad, history, leaf, next_serial, no_grad, recording
from minigrad.tensor import Tensor


@dataclass(frozen=True)
class Run:
    """A function as it ran: with which random numbers, and which of its arguments were Tensors."""

    f: Callable[..., Tensor]
    state: Any
    lifted: tuple[bool, ...]

    @contextlib.contextmanager
    def repeated(self) -> Iterator[None]:
        """Inside, the same random numbers are drawn as then, and Buffers remember nothing."""
        now, replaying = random.state(), recording.replaying
        random.set_state(self.state)
        recording.replaying = True
        try:
            yield
        finally:
            recording.replaying = replaying
            random.set_state(now)

    def __str__(self) -> str:
        return getattr(self.f, "__name__", type(self.f).__name__)


def checkpoint(f: Callable[..., Tensor], *xs: Any) -> Tensor:
    """f(*xs), whose intermediate values are not kept but computed again in the backward pass.

    f: a function or Module that returns one Tensor and does the same each time. Parameters that it uses
    need not be among the arguments; other Tensors on the tape must be, and ValueError is raised where
    one is not. Gradients are exact at every order. Where a Parameter was overwritten before the backward
    pass, that raises, as it does for every op.
    """
    if not recording.on:
        return f(*xs)
    state, start = random.state(), next_serial()
    values = tuple(x.data if isinstance(x, Tensor) else x for x in xs)
    sources = tuple(x.node if isinstance(x, Tensor) else None for x in xs)
    lifted = tuple(isinstance(x, Tensor) for x in xs)
    y = f(*_cut(values, lifted, sources))
    if not isinstance(y, Tensor):
        raise TypeError(f"checkpoint: the function returns one Tensor, not {type(y).__name__}")
    if y.node is None:
        return y
    used = [node for node in history(y.node) if node.serial < start]
    if strangers := [node for node in used if node.primitive is not None]:
        raise ValueError(
            f"checkpoint: the function uses {strangers[0]!r}, which is on the tape and no argument; pass it as one"
        )
    node = Node()
    node.primitive, node.inputs, node.params = _row(len(xs), len(used)), (*sources, *used), (Run(f, state, lifted),)
    kept = (*values, *(parameter.aside for parameter in used))
    node.residuals = (y.data, None, kept)
    node.shape, node.dtype, node.serial = y.shape, y.dtype, next_serial()
    node.grad = node.label = None
    if recording.observer is not None:
        recording.observer(node, kept, y.data)
    return Tensor(y.data, node)


def _cut(values: Sequence[Any], lifted: Sequence[bool], sources: Sequence[Node | None]) -> list[Any]:
    """The arguments as they were, those on the tape as leaves: the recording of `f` ends at them."""
    return [
        Tensor(v, None if s is None else leaf(s.shape, s.dtype)) if is_tensor else v
        for v, is_tensor, s in zip(values, lifted, sources, strict=False)
    ]


def _pull(node: Node, g: Any, create_graph: bool, wanted: set[Node] | None) -> list[Any]:
    """The cotangents of the arguments and of the Parameters that the function used, by a replay."""
    (run,), (_, _, values) = node.params, node.residuals
    used = node.inputs[len(run.lifted) :]
    for parameter, kept in zip(used, values[len(run.lifted) :], strict=True):
        if parameter.aside is not kept:  # type: ignore[union-attr]
            raise RuntimeError(
                f"backward: checkpoint on line {node.serial} of the tape runs again with {parameter!r}, whose array "
                "was replaced by another one since then; call backward() first"
            )
    arguments = _cut(values, run.lifted, node.inputs)
    leaves = [x.node if isinstance(x, Tensor) else None for x in arguments]
    with run.repeated(), enable_grad():
        y = run.f(*arguments)
    places = [*leaves, *used]
    needed = [s is not None and (wanted is None or s in wanted) for s in node.inputs]
    targets = [place for place, need in zip(places, needed, strict=True) if need and place is not None]
    found = reverse({y.node: g}, targets, create_graph, create_graph) if y.node is not None else {}
    if create_graph:  # no pass runs through the leaves any more: they become aliases of what they stood for
        for own, source in zip(leaves, node.inputs, strict=False):
            if own is not None:
                own.primitive, own.inputs = ops.alias.primitive, (source,)
    return [found.get(place) if need else None for place, need in zip(places, needed, strict=True)]  # type: ignore[arg-type]


@functools.cache
def _row(arguments: int, parameters: int) -> Primitive:
    """The line of the tape that stands for a function: joint, and without a reference, since f is its own."""
    row = Primitive()
    row.name, row.kind = "checkpoint", "fused"
    row.arguments = tuple([f"x{i}" for i in range(arguments)] + [f"p{i}" for i in range(parameters)])
    row.statics, row.variadic = ("f",), False
    row.pullbacks = row.lifts = ()
    row.forward, row.call = functools.partial(_forward, arguments), functools.partial(_call, arguments)
    row.joint, row.reference = _pull, None
    return row


def _forward(arguments: int, *operands: Any) -> tuple[Any, None]:
    """The value of such a line on raw arrays; Parameters that the function used are those of now."""
    run: Run = operands[-1]
    with run.repeated(), no_grad():
        return run.f(*_cut(operands[:arguments], run.lifted, [None] * arguments)).data, None


def _call(arguments: int, *operands: Any, f: Run) -> Tensor:
    """Such a line on Tensors. RuntimeError where a Parameter that the function used is to have another value."""
    xs = [x if isinstance(x, Tensor) or not is_tensor else Tensor(x) for x, is_tensor in zip(operands, f.lifted)]
    with f.repeated():
        y = checkpoint(f.f, *xs)
    used = () if y.node is None else y.node.inputs[arguments:]
    for parameter, given in zip(used, operands[arguments:], strict=False):
        if given.node is not parameter or (given.data != parameter.aside).any():  # type: ignore[union-attr]
            raise RuntimeError(
                f"checkpoint: {f} uses {parameter!r} as it is now, and was to run with another value of it; make it an "
                "argument of the function"
            )
    return y
