"""A user's forward function, run once with somebody looking on.

Beside the tape itself, what a sentence needs is noted: the value of every node, the source line that
made it, and its name. Names come from `mg.label` where there are labels, and otherwise from the
user's own code: the local variables of the functions that ran, as a debugger would read them.
Values that leave the tape (`float(t)`, `t.item()`) are noted too.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import linecache
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from minigrad.backend import numpy as host
from minigrad.backend import to_numpy
from minigrad.numpy_protocol import writable
from minigrad.tape import Node, enable_grad, history, recording
from minigrad.tensor import Tensor, differentiable

OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
NUMPYS = os.path.dirname(os.path.abspath(host.__file__)) + os.sep
STANDARD = sysconfig.get_paths()["stdlib"] + os.sep


class CannotRun(ValueError):
    """The check could not be made; the message says why and what to do."""


@functools.cache
def is_theirs(file: str) -> bool:
    """Whether a source file is the user's: neither minigrad's, NumPy's nor Python's own."""
    return not file.startswith((OURS, NUMPYS, STANDARD, "<frozen", "<call of")) and "site-packages" not in file


@dataclass
class Forward:
    """One recorded run.

    names, lines: of nodes; a line is (number, text).  inputs: as f was given them, arrays on the host
    differentiable: the numbers of the inputs with gradients, and `leaves` their Tensors
    outputs: the Tensors that get a cotangent.  rest: what else f returned, as arrays
    values, arguments: of every node, raw.  escapes: sentences on values that left the tape
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

    def leaf_name(self, k: int) -> str:
        """The name of the k-th differentiable input."""
        return self.input_names[self.differentiable[k]]

    def describe(self, node: Node) -> str:
        """A node in words: its name, or its op and the source line that made it."""
        if node in self.names:
            return f"`{self.names[node]}`"
        op = "input" if node.primitive is None else node.primitive.name.rstrip("_")
        where = f" in `{self.lines[node][1]}`" if node in self.lines else ""
        return f"the {op}{where}"

    def where(self, node: Node) -> str:
        """Where a node was made: " (line 7: `var = ...`)", or nothing."""
        return f" (line {self.lines[node][0]}: `{self.lines[node][1]}`)" if node in self.lines else ""


def input_names(f: Callable[..., Any], count: int) -> list[str]:
    """The parameter names of f, or x0, x1, ... where it does not tell."""
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    variadic = next((p.name for p in parameters if p.kind == p.VAR_POSITIONAL), "x")
    return (positional + [f"{variadic}{i}" for i in range(count)])[:count]


def arrays_of(value: Any) -> Any:
    """The same value with NumPy arrays where Tensors stood, also inside tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return to_numpy(value.data)
    if isinstance(value, tuple):
        parts = [arrays_of(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [arrays_of(part) for part in value]
    if isinstance(value, dict):
        return {key: arrays_of(part) for key, part in value.items()}
    return value


def record(f: Callable[..., Any], inputs: Sequence[Any], outputs: int = 1) -> Forward:
    """Runs f on Tensors with the values of `inputs` (host arrays and anything else) and notes what it did.

    Raises CannotRun, with the user's line, where f fails or returns nothing that can be differentiated.
    """
    run = Forward(f, input_names(f, len(inputs)), list(inputs))
    arguments: list[Any] = []
    for number, value in enumerate(inputs):
        if isinstance(value, host.ndarray) and value.dtype.kind == "f":
            leaf = Tensor(value.copy(), differentiable(value))
            run.differentiable.append(number)
            run.leaves.append(leaf)
            run.values[leaf.node] = leaf.data  # type: ignore[index]
            arguments.append(Tensor(leaf.data, leaf.node))
        else:
            arguments.append(copy.deepcopy(value))
    if not run.leaves:
        raise CannotRun("no input is a floating array: there is nothing to differentiate with respect to")
    leaves = {leaf.node for leaf in run.leaves}
    for k, leaf in enumerate(run.leaves):
        run.names[leaf.node] = run.leaf_name(k)  # type: ignore[index]
    with enable_grad(), _watched(run), _named(run), _noticed(run), writable(is_theirs, f):
        try:
            result = f(*arguments)
        except Exception as error:
            raise CannotRun(complaint("the forward function", f, error)) from error
    parts = result if isinstance(result, tuple) else (result,)
    for number, part in enumerate(parts[:outputs]):
        if not isinstance(part, Tensor):
            raise CannotRun(
                f"the forward function {name_of(f)} returned {type(part).__name__} as output {number}: what it "
                f"computed is "
                f"not on the tape{_escaped(run)}. An output must be computed from the inputs by NumPy or minigrad "
                f"functions"
            )
        run.outputs.append(part)
    if len(parts) < outputs:
        raise CannotRun(
            f"the forward function {name_of(f)} returned {len(parts)} values, and outputs={outputs} was asked for"
        )
    if all(y.node is None for y in run.outputs):
        raise CannotRun(
            f"the output of {name_of(f)} does not depend on any differentiable input as far as the tape can see"
            f"{_escaped(run)}: its gradient is zero, or the function is not differentiable"
        )
    run.rest = arrays_of(tuple(parts[outputs:]))
    run.order = history(*[y.node for y in run.outputs if y.node is not None])
    for node in run.order:
        if node.label and node not in leaves:
            run.names[node] = node.label
    for y in run.outputs:
        if y.node is not None and y.node not in leaves:
            run.names.setdefault(y.node, "output")
    _keep_apart(run)
    return run


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
    before = recording.observer
    inside_ours = not is_theirs(getattr(getattr(run.f, "__code__", None), "co_filename", ""))

    def observe(node: Node, arguments: tuple[Any, ...], y: Any) -> None:
        run.values[node] = y
        run.arguments[node] = arguments
        line = None if inside_ours else _line_of(2)
        if line is not None and line[1]:
            run.lines[node] = line

    recording.observer = observe
    try:
        yield
    finally:
        recording.observer = before


@contextlib.contextmanager
def _named(run: Forward) -> Iterator[None]:
    """Names nodes after the local variables that held them, f's own before those of functions it calls."""

    own = getattr(run.f, "__code__", None)

    def look(frame: Any) -> None:
        inside = "" if frame.f_code is own or own is None else f"{frame.f_code.co_name}."
        for name, value in frame.f_locals.items():
            if isinstance(value, Tensor):
                note(inside + name, value)
            elif isinstance(value, dict):
                for key, part in value.items():
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
        def read(self: Tensor) -> Any:
            if self.node is not None and (line := _line_of(2)) is not None:
                what = run.names.get(self.node)
                called = {"item": "float() or .item()"}.get(name, f".{name}()")
                run.escapes.append(
                    f"line {line[0]}, `{line[1]}`, reads {f'`{what}`' if what else 'a value'} with {called}, and "
                    f"the tape "
                    "cannot see what becomes of it"
                )
            return original(self)

        return read

    for name, original in before.items():
        setattr(Tensor, name, reader(name, original))
    try:
        yield
    finally:
        for name, original in before.items():
            setattr(Tensor, name, original)
