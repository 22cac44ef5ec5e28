"""Activation checkpointing: a part of the tape that keeps its inputs only, and is run again when it is needed.

Time for memory (Griewank and Walther 2000; Chen et al. 2016). The function runs forward once; what it
recorded is dropped, and one line of the tape stands for all of it. The reverse pass *replays* it, on
the same values, with the same random numbers and with Buffers as the forward pass found them, and pulls the
cotangent back through the new recording, provided that the result is the same again. What a replay writes to Buffers
it writes to copies, so BatchNorm counts each batch once.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minigrad import ops
from minigrad.autodiff import reverse
from minigrad.backend import on_host, require, xp
from minigrad.generator import Draws, Redraws, drawing_from
from minigrad.primitive import Primitive
from minigrad.tape import Node, Reviewer, enable_grad, history, leaf, next_serial, no_grad, recording
from minigrad.tensor import Buffer, Tensor, set_attribute


class Run:
    """A function as it ran: what a replay needs beside the values of its arguments, and what it may find changed.

    lifted: which arguments are Tensors.  draws: the generator's state before each draw.  modes: of the modules that
    ran, whether they were training when `f` was done.  before: the values of their Buffers, as `f` found them.
    """

    def __init__(self, f: Callable[..., Tensor], lifted: Sequence[bool], draws: list[Any], found: Found) -> None:
        self.f, self.lifted, self.draws = f, lifted, draws
        self.modes = [(m, m.training) for m in found.modules]
        self.before = found.buffers

    def __str__(self) -> str:
        return getattr(self.f, "__name__", type(self.f).__name__)

    @contextlib.contextmanager
    def repeated(self) -> Iterator[None]:
        """Inside, the same random numbers are drawn as then, and Buffers hold copies of what they held then."""
        own = {b: (b.data, b.version) for b in self.before}
        outer, recording.replaying = recording.replaying, self.before
        for buffer, values in self.before.items():
            set_attribute(buffer, "data", values.copy())
        try:
            with drawing_from(Redraws(self.draws)):
                yield
        finally:
            recording.replaying = outer
            for buffer, (array, version) in own.items():
                set_attribute(buffer, "data", array)
                set_attribute(buffer, "version", version)

    def changed(self) -> str:
        """What has changed since then, as far as it is known, in words."""
        now = {True: "evaluates now, and was training", False: "is training now, and evaluated"}
        found = [f"{type(m).__name__} {m._place!r} {now[was]}" for m, was in self.modes if m.training != was]
        if len(found) > 3:
            found[2:] = [f"and {len(found) - 2} more of that kind"]
        return "; ".join(found) or (
            "usually a frozen weight or a constant that the function reads was overwritten, or it draws random numbers "
            "that are not mg.random's"
        )


def checkpoint(f: Callable[..., Tensor], *xs: Any) -> Tensor:
    """f(*xs), whose intermediate values are not kept but computed again in the backward pass.

    f: a function or Module that returns one Tensor and does the same each time. Parameters that it uses
    need not be among the arguments; other Tensors on the tape must be, and ValueError is raised where
    one is not. Gradients are exact at every order. Where a Parameter was overwritten before the backward
    pass, that raises RuntimeError, as it does for every op; so does a replay whose result is not that of
    the forward pass, because a mode or a constant that `f` reads has changed since. Inside
    `mg.trace`, which keeps every value itself, f runs as it is.
    """
    if not recording.on or recording.scope is not None:  # a trace keeps every value that there is
        return f(*xs)
    start, draws = next_serial(), Draws()
    values = tuple(x.data if isinstance(x, Tensor) else x for x in xs)
    sources = tuple(x.node if isinstance(x, Tensor) else None for x in xs)
    lifted = tuple(isinstance(x, Tensor) for x in xs)
    with Found() as found, drawing_from(draws):
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
    run, node = Run(f, lifted, draws.states, found), Node()
    node.primitive, node.inputs, node.params = _row(len(xs), len(used)), (*sources, *used), (run,)
    kept = (*values, *(parameter.aside for parameter in used))
    node.residuals = (y.data, None, kept)
    node.shape, node.dtype, node.serial = y.shape, y.dtype, next_serial()
    node.grad = node.label = None
    if recording.observer is not None:
        recording.observer(node, kept, y.data)
    return Tensor(y.data, node)


class Found(Reviewer):
    """The Modules that a function calls and those below them, and the values of their Buffers before."""

    def __init__(self) -> None:
        self.modules: dict[Any, None] = {}
        self.buffers: dict[Buffer, Any] = {}

    def called(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Notes a module that is about to run."""
        if module not in self.modules:
            for below in module.modules():
                self.modules[below] = None
                for _, value in below.members():
                    if isinstance(value, Buffer) and value not in self.buffers:
                        self.buffers[value] = value.data.copy()
        return super().called(module, args, kwargs)


def _cut(values: Sequence[Any], lifted: Sequence[bool], sources: Sequence[Node | None]) -> list[Any]:
    """The arguments as they were, those on the tape as leaves: the recording of `f` ends at them."""
    return [
        Tensor(v, None if s is None else leaf(s.shape, s.dtype)) if is_tensor else v
        for v, is_tensor, s in zip(values, lifted, sources, strict=False)
    ]


def _pull(node: Node, g: Any, create_graph: bool, wanted: set[Node] | None) -> list[Any]:
    """The cotangents of the arguments and of the Parameters that the function used, by a replay."""
    (run,), (was, _, values) = node.params, node.residuals
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
    _require_same(y.data, was, node)
    places = [*leaves, *used]
    needed = [s is not None and (wanted is None or s in wanted) for s in node.inputs]
    targets = [place for place, need in zip(places, needed, strict=True) if need]
    found = reverse({y.node: g}, targets, create_graph, create_graph) if y.node is not None else {}
    for own, source in zip(leaves, node.inputs, strict=False):
        if own is not None:  # no pass runs through the leaf any more: it becomes an alias of what it stood for
            own.primitive, own.inputs = ops.alias.primitive, (source,)
    return [found.get(place) if need else None for place, need in zip(places, needed, strict=True)]  # type: ignore[arg-type]


def _require_same(y: Any, was: Any, node: Node) -> None:
    """Raises RuntimeError where a replay's result is not the forward pass's but for rounding; NaN is not judged."""
    same_shape = y.shape == was.shape
    if same_shape and (not y.size or (on_host() and xp.array_equal(y, was))):
        return
    error = RuntimeError(
        f"backward: checkpoint on line {node.serial} of the tape ran again and gave another result than in the "
        f"forward pass ({was.dtype} {list(was.shape)}), so that its gradient would be another function's: "
        f"{node.params[0].changed()}. Call backward() first, or pass what changes as an argument"
    )
    if not same_shape:
        raise error
    far = xp.abs(y - was).max() > float(xp.finfo(was.dtype).eps) ** 0.5 * xp.abs(was).max()
    require(xp.logical_not(far), lambda: error)  # on a device looked at later: it holds nothing of the tape


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
