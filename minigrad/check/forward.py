"""A user's forward function, run once with somebody looking on.

Beside the tape itself, what a sentence needs is noted: the value of every node, the source line that
made it, and its name. Names come from `mg.label` where there are labels, and otherwise from the
user's own code: the local variables of the functions that ran, as a debugger would read them.
Values that leave the tape (`float(t)`, `t.item()`) are noted too, and ops that are constant almost everywhere.

The function is then run once more, on plain arrays, and must return the same: what was recorded is then
what it computes, and nobody is accused because of a line that the tape took for another.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import linecache
import math
import os
import random
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from minigrad.backend import numpy as host
from minigrad.backend import to_numpy
from minigrad.generator import generator
from minigrad.numpy_protocol import writable
from minigrad.primitive import Primitive, describe
from minigrad.tape import Node, Reviewer, enable_grad, history, no_grad, recording
from minigrad.tensor import Tensor, differentiable

OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
NUMPYS = os.path.dirname(os.path.abspath(host.__file__)) + os.sep
STANDARD = sysconfig.get_paths()["stdlib"] + os.sep


class CannotRun(ValueError):
    """The check could not be made; the message says why and what to do."""


def no_floating(inputs: Sequence[Any], hint: str = "") -> CannotRun:
    """The refusal of a function of which no input has a gradient."""
    given = describe(inputs) or "nothing"
    return CannotRun(
        f"no input is a floating array ({given}): there is nothing to differentiate with respect to; give the inputs "
        f"as arrays of floats, in a tuple, in the order of the function's arguments{hint}"
    )


@functools.cache
def is_theirs(file: str) -> bool:
    """Whether a source file is the user's: neither minigrad's, NumPy's nor Python's own."""
    return not file.startswith((OURS, NUMPYS, STANDARD, "<frozen", "<call of")) and "site-packages" not in file


@dataclass
class Forward:
    """One recorded run.

    names, lines: of nodes; a line is (number, text).  inputs: as f was given them, arrays on the host; the last
    `kept` of them are no arguments of f, but kept by a layer
    differentiable: the numbers of the inputs with gradients, and `leaves` their Tensors
    outputs: the Tensors that get a cotangent.  rest: what else f returns, as f itself returns it for arrays
    values, arguments: of every node, raw.  escapes: sentences on values that left the tape
    steps: ops that are constant almost everywhere and were given values on the tape, in words
    """

    f: Callable[..., Any]
    input_names: list[str]
    inputs: list[Any]
    differentiable: list[int] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    rest: tuple[Any, ...] = ()
    order: list[Node] = field(default_factory=list)
    values: dict[Node, Any] = field(default_factory=dict)
    arguments: dict[Node, tuple[Any, ...]] = field(default_factory=dict)
    names: dict[Node, str] = field(default_factory=dict)
    lines: dict[Node, tuple[int, str]] = field(default_factory=dict)
    escapes: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    kept: int = 0

    def leaf_name(self, k: int) -> str:
        """The name of the k-th differentiable input."""
        return self.input_names[self.differentiable[k]]

    def describe(self, node: Node) -> str:
        """A node in words: its name, or its op and the source line that made it."""
        if node in self.names:
            return f"`{self.names[node]}`"
        op = op_of(node)
        source = node.inputs[0] if op in ("alias", "reshape", "take") else None
        if source in self.names and math.prod(source.shape) == math.prod(node.shape):  # such as `gamma[:, None]`
            return f"`{self.names[source]}`"
        where = f" in `{self.lines[node][1]}`" if node in self.lines else ""
        return f"the {op or 'input'}{where}"

    def place(self, node: Node) -> str:
        """A node in words, and where it was made."""
        return self.describe(node) + self.where(node)

    def where(self, node: Node) -> str:
        """Where a node was made: " (line 7: `var = ...`)", or nothing."""
        return f" (line {self.lines[node][0]}: `{self.lines[node][1]}`)" if node in self.lines else ""


def op_of(node: Node) -> str:
    """The name of the row that made a node; "" where it was there before."""
    return "" if node.primitive is None else node.primitive.name


def input_names(f: Callable[..., Any], count: int) -> list[str]:
    """The parameter names of f, or x0, x1, ... where it does not tell."""
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    variadic = next((p.name for p in parameters if p.kind == p.VAR_POSITIONAL), "x")
    return (positional + [f"{variadic}{i}" for i in range(count)])[:count]


def floating(x: Any) -> bool:
    return isinstance(x, host.ndarray) and x.dtype.kind == "f"


def arrays_of(value: Any) -> Any:
    """The same value with NumPy arrays where Tensors stood, also inside tuples, lists and dicts."""
    return each(value, lambda part: to_numpy(part.data) if isinstance(part, Tensor) else part)


def each(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value changed, or what is inside of tuples, lists and dicts."""
    if isinstance(value, tuple):
        parts = [each(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [each(part, change) for part in value]
    if isinstance(value, dict):
        return {key: each(part, change) for key, part in value.items()}
    return change(value)


def holding_arrays(run: Forward) -> list[str]:
    """The names of the inputs that are lists, tuples or dicts of floating arrays."""

    def holds(value: Any) -> bool:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        return any(floating(part) or isinstance(part, Tensor) or holds(part) for part in parts)

    return [name for name, value in zip(run.input_names, run.inputs, strict=True) if holds(value)]


def kept_inside(name: str) -> str:
    """What to do about an input that holds arrays."""
    return (
        f"The arrays in {name} have no gradients of their own here: make each of them an argument, as in "
        f"`lambda a, b: forward([a, b])`, and return their gradients in that order"
    )


def record(f: Callable[..., Any], inputs: Sequence[Any], outputs: int = 1) -> Forward:
    """Runs f on Tensors with the values of `inputs` (host arrays and anything else) and notes what it did.

    Raises CannotRun, with the user's line, where f fails or returns nothing that can be differentiated, and
    where it returns other values for plain arrays.
    """
    kept: list[str] = getattr(f, "kept_by_layer", [])
    run = Forward(f, [*input_names(f, len(inputs) - len(kept)), *kept], list(inputs), kept=len(kept))
    wrt = getattr(f, "wrt", None)
    if unknown := [name for name in wrt or () if name not in run.input_names]:
        raise CannotRun(f"wrt: {unknown[0]!r} is no input of {name_of(f)}; they are {', '.join(run.input_names)}")
    arguments: list[Any] = []
    for number, value in enumerate(inputs):
        if floating(value) and wrt is not None and run.input_names[number] not in (*wrt, *kept):
            arguments.append(Tensor(value.copy()))
        elif floating(value):
            leaf = Tensor(value.copy(), differentiable(value))
            run.differentiable.append(number)
            run.leaves.append(leaf)
            run.values[leaf.node] = leaf.data  # type: ignore[index]
            arguments.append(Tensor(leaf.data, leaf.node))
        else:
            arguments.append(copy.deepcopy(value))
    if not run.leaves:
        raise no_floating(inputs, "".join(f". {kept_inside(name)}" for name in holding_arrays(run)))
    leaves = {leaf.node for leaf in run.leaves}
    for k, leaf in enumerate(run.leaves):
        run.names[leaf.node] = run.leaf_name(k)  # type: ignore[index]
    draw_again = [restart(dice) for dice in common_dice()]
    with enable_grad(), _watched(run), _named(run), _noticed(run), writable(is_theirs, f):
        try:
            result = f(*arguments)
        except Exception as error:
            raise CannotRun(complaint("the forward function", f, error)) from error
    parts = result if isinstance(result, tuple) else (result,)
    for number, part in enumerate(parts[:outputs]):
        if isinstance(part, (dict, list, tuple)):
            raise CannotRun(
                f"the forward function {name_of(f)} returned a {type(part).__name__} as output {number}: it is to "
                "return arrays, the outputs first and what the backward needs besides after them: (out, cache)"
            )
        if isinstance(part, (host.ndarray, host.generic)):
            part = Tensor(host.asarray(part))
        if not isinstance(part, Tensor):
            raise CannotRun(
                f"the forward function {name_of(f)} returned {type(part).__name__} as output {number}: what it "
                f"computed is not on the tape{_escaped(run)}. An output must be computed from the inputs by NumPy or "
                "minigrad functions"
            )
        run.outputs.append(part)
    if len(parts) < outputs:
        raise CannotRun(
            f"the forward function {name_of(f)} returned {len(parts)} values, and outputs={outputs} was asked for"
        )
    plain = _on_arrays(f, inputs, draw_again)
    if plain is not None:
        plain = plain if isinstance(plain, tuple) else (plain,)
        for number, (y, expected) in enumerate(zip(run.outputs, plain, strict=False)):
            if (apart := _difference(y, expected)) is not None:
                raise CannotRun(disagreement(f, number, apart))
    if all(y.node is None for y in run.outputs):
        step = f": {run.steps[-1]} is constant almost everywhere" if run.steps else ""
        raise CannotRun(
            f"the output of {name_of(f)} does not depend on any differentiable input as far as the tape can see"
            f"{step}{_escaped(run)}; its gradient is zero, or the function is not differentiable"
        )
    run.rest = arrays_of(tuple((parts if plain is None else plain)[outputs:]))
    run.order = history(*[y.node for y in run.outputs if y.node is not None])
    for node in run.order:
        if node.label and node not in leaves:
            run.names[node] = node.label
    for y in run.outputs:
        if y.node is not None and y.node not in leaves:
            run.names.setdefault(y.node, "output")
    _keep_apart(run)
    return run


# ---- the same on plain arrays -----------------------------------------------------------------------------
def common_dice() -> tuple[Any, Any, Any]:
    """Python's random numbers, NumPy's and minigrad's own."""
    return random, host.random, generator()


def restart(dice: Any) -> Callable[[], None]:
    """What sets a generator back to where it is now."""
    if dice is random or isinstance(dice, random.Random):
        return functools.partial(dice.setstate, dice.getstate())
    if dice is host.random or isinstance(dice, host.random.RandomState):
        return functools.partial(dice.set_state, dice.get_state())
    return functools.partial(setattr, dice.bit_generator, "state", dice.bit_generator.state)


def _on_arrays(f: Callable[..., Any], inputs: Sequence[Any], draw_again: list[Callable[[], Any]]) -> Any:
    """What f returns for the inputs as they are, with the random numbers that its recorded run drew.

    None where it fails: a function of minigrad's ops need not run on arrays.
    """
    afterwards, replaying = [restart(dice) for dice in common_dice()], recording.replaying
    for again in draw_again:
        again()
    recording.replaying = ()
    try:
        with no_grad(), host.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return f(*[copy.deepcopy(value) for value in inputs])
    except Exception:
        return None
    finally:
        recording.replaying = replaying
        for again in afterwards:
            again()


def _difference(y: Tensor, expected: Any) -> str | None:
    """Where an output and what f returns for arrays differ by more than rounding can make of it, in words.

    A quarter of the digits must agree: two ways of adding up may differ by far more than one rounding.
    """
    ours, theirs = to_numpy(y.data), host.asarray(arrays_of(expected))
    if ours.shape != theirs.shape:
        return f"shape {list(ours.shape)} recorded, {list(theirs.shape)} for arrays"
    if theirs.dtype.kind not in "fiub":
        return None
    eps = max(host.finfo(a.dtype).eps for a in (ours, theirs) if a.dtype.kind == "f") if "f" in ours.dtype.kind else 0
    size = host.abs(theirs[host.isfinite(theirs)]).max(initial=0.0)
    near = host.isclose(ours, theirs, rtol=0, atol=float(eps) ** 0.25 * float(size), equal_nan=True)
    if near.all():
        return None
    first = tuple(int(i) for i in host.argwhere(~near)[0])
    return f"{ours[first]:.6g} recorded, {theirs[first]:.6g} for arrays" + (f" at {list(first)}" if first else "")


def disagreement(f: Any, number: int, apart: str) -> str:
    """The message for a function that returns one thing when it is recorded, and another for plain arrays."""
    return (
        f"{name_of(f)} returns other values when it is recorded than for plain arrays (output {number}: {apart}). "
        "Either two calls of it differ: it draws random numbers or keeps a state; seed the generator inside it. Or it "
        "has a line that means another thing for arrays: one that sorts in place (write a = np.sort(a)), asks for the "
        "type of an array (type(a)), or writes into memory that two arrays share (write into the whole array instead)"
    )


def name_of(f: Any) -> str:
    """A function's name, as a message shows it."""
    return f"{getattr(f, '__name__', type(f).__name__)}()"


def complaint(what: str, f: Any, error: BaseException) -> str:
    """An exception of the user's code in one sentence, with their line."""
    trace, where = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if is_theirs(file):
            text = linecache.getline(file, trace.tb_lineno).strip()
            where = f" at {os.path.basename(file)}:{trace.tb_lineno}" + (f": `{text}`" if text else "")
        trace = trace.tb_next
    return f"{what} {name_of(f)} raised {type(error).__name__}{where}: {error}"


def _escaped(run: Forward) -> str:
    return f" ({'; '.join(run.escapes)})" if run.escapes else ""


def _keep_apart(run: Forward) -> None:
    """Gives nodes that share a name different ones, by their line, else by their number."""
    seen: dict[str, int] = {}
    for node in sorted(run.names, key=lambda node: node.serial):
        name = run.names[node]
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            run.names[node] = f"{name} #{seen[name]}"


def _line_of(depth: int) -> tuple[int, str] | None:
    """The nearest line of the user's code on the stack."""
    frame: Any = sys._getframe(depth)
    while frame is not None:
        if is_theirs(frame.f_code.co_filename):
            return frame.f_lineno, linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        frame = frame.f_back
    return None


@contextlib.contextmanager
def _watched(run: Forward) -> Iterator[None]:
    """Notes each node's values and source line as it is recorded."""
    inside_ours = not is_theirs(getattr(getattr(run.f, "__code__", None), "co_filename", ""))

    on_tape = {id(leaf.data) for leaf in run.leaves}

    class Watch(Reviewer):
        def recorded(self, node: Node, arguments: tuple[Any, ...], y: Any) -> None:
            super().recorded(node, arguments, y)
            run.values[node] = y
            on_tape.add(id(y))
            run.arguments[node] = arguments
            line = None if inside_ours else _line_of(2)
            if line is not None and line[1]:
                run.lines[node] = line

        def computed(self, row: Primitive, arguments: tuple[Any, ...], y: Any) -> None:
            super().computed(row, arguments, y)
            if row.kind == "discrete" and any(id(a) in on_tape for a in arguments) and (line := _line_of(2)):
                run.steps.append(f"{row.name} on line {line[0]}, `{line[1]}`,")

    watch = Watch()
    watch.begin()
    try:
        yield
    finally:
        watch.end()


@contextlib.contextmanager
def _named(run: Forward) -> Iterator[None]:
    """Names nodes after the local variables that held them, f's own before those of functions it calls."""

    own = getattr(run.f, "__code__", None)

    def look(frame: Any) -> None:
        inside = "" if frame.f_code is own or own is None else f"{frame.f_code.co_name}."
        for name, value in frame.f_locals.items():
            if isinstance(value, Tensor):
                note(inside + name, value)
                continue
            parts = value if isinstance(value, dict) else getattr(value, "__dict__", None)
            for key, part in tuple(parts.items()) if isinstance(parts, dict) else ():
                if isinstance(key, str) and isinstance(part, Tensor):
                    note(key, part)

    def note(name: str, t: Tensor) -> None:
        known = run.names.get(t.node, ".") if t.node in run.values else ""  # type: ignore[arg-type]
        if known == "." or ("." in known and "." not in name):
            run.names[t.node] = name  # type: ignore[index]

    def local(frame: Any, event: str, argument: Any) -> Any:
        if event in ("line", "return"):
            look(frame)
        return local

    def trace(frame: Any, event: str, argument: Any) -> Any:
        return local if is_theirs(frame.f_code.co_filename) and frame.f_code.co_name != "<lambda>" else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@contextlib.contextmanager
def _noticed(run: Forward) -> Iterator[None]:
    """Notes where a value on the tape is read as a plain number or array."""
    names = ("item", "numpy", "tolist", "detach")
    before = {name: getattr(Tensor, name) for name in names}

    def reader(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def read(self: Tensor, *args: Any) -> Any:
            if self.node is not None and (line := _line_of(2)) is not None:
                what = run.names.get(self.node)
                called = {"item": "float() or .item()"}.get(name, f".{name}()")
                run.escapes.append(
                    f"line {line[0]}, `{line[1]}`, reads {f'`{what}`' if what else 'a value'} with {called}, and "
                    f"the tape "
                    "cannot see what becomes of it"
                )
            return original(self, *args)

        return read

    for name, original in before.items():
        setattr(Tensor, name, reader(name, original))
    try:
        yield
    finally:
        for name, original in before.items():
            setattr(Tensor, name, original)
