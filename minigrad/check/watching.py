"""Looking on while a user's function runs: what every op came to, the lines and the names in it, what left the tape.

Names come from the local variables of the functions that run, as a debugger would read them.
"""

from __future__ import annotations

import contextlib
import functools
import linecache
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.run import Run, name_of, op_of
from minigrad.primitive import Primitive
from minigrad.tape import Node, Reviewer
from minigrad.tensor import Tensor

OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
NUMPYS = os.path.dirname(os.path.abspath(host.__file__)) + os.sep
STANDARD = sysconfig.get_paths()["stdlib"] + os.sep


@functools.cache
def is_theirs(file: str) -> bool:
    """Whether a source file is the user's: neither minigrad's, NumPy's nor Python's own."""
    return not file.startswith((OURS, NUMPYS, STANDARD, "<frozen", "<call of")) and "site-packages" not in file


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


def _nearest(depth: int) -> Any:
    """The nearest frame of the user's code on the stack, or None."""
    frame: Any = sys._getframe(depth + 1)
    while frame is not None and not is_theirs(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def _line_of(frame: Any) -> tuple[int, str] | None:
    """The line of the user's code that a frame is at."""
    return frame and (frame.f_lineno, linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip())


_positions = functools.cache(lambda code: tuple(code.co_positions()))


def _expression(frame: Any) -> str:
    """The expression that a frame is about to compute, where it stands on one line; else nothing."""
    first, last, start, stop = _positions(frame.f_code)[frame.f_lasti // 2]
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).encode()
    return line[start:stop].decode() if first == last and start is not None else ""


@contextlib.contextmanager
def watched(run: Run) -> Iterator[None]:
    """Notes each node's values and source line as it is recorded."""
    inside_ours = not is_theirs(getattr(getattr(run.f, "__code__", None), "co_filename", ""))

    on_tape = {id(leaf.data) for leaf in run.leaves}

    class Watch(Reviewer):
        last: tuple[Any, int, int] | None = None
        before: Node
        visit = 0

        def recorded(self, node: Node, arguments: tuple[Any, ...], y: Any) -> None:
            super().recorded(node, arguments, y)
            run.values[node] = y
            on_tape.add(id(y))
            run.arguments[node] = arguments
            frame = None if inside_ours else _nearest(1)
            line = _line_of(frame)
            if frame is None or line is None or not line[1]:
                return
            run.lines[node], run.expressions[node] = line, _expression(frame)
            here = frame, frame.f_lasti, run.moment
            if self.last != here:
                self.visit += 1
            elif op_of(node) not in ("alias", "reshape"):
                run.inner.add(self.before)
            self.last, self.before, run.visits[node] = here, node, self.visit

        def computed(self, row: Primitive, arguments: tuple[Any, ...], y: Any) -> None:
            super().computed(row, arguments, y)
            if row.kind == "discrete" and any(id(a) in on_tape for a in arguments) and (line := _line_of(_nearest(1))):
                run.steps.append(f"{row.name} on line {line[0]}, `{line[1]}`,")

    with Watch():
        yield


@contextlib.contextmanager
def named(run: Run) -> Iterator[None]:
    """Names nodes after the local variables that held them, f's own before those of functions it calls."""
    own = getattr(run.f, "__code__", None)

    def look(frame: Any) -> None:
        inside = "" if frame.f_code is own or own is None else f"{frame.f_code.co_name}."
        for name, value in frame.f_locals.items():
            if isinstance(value, (Tensor, host.ndarray)):
                note(inside + name, value)
                continue
            if isinstance(value, (list, dict)) and value:  # what a loop fills has one name
                key = next(reversed(value)) if isinstance(value, dict) else -1
                if not isinstance(key, str) and isinstance(value[key], Tensor):
                    note(inside + name, value[key])
            parts = value if isinstance(value, dict) else getattr(value, "__dict__", None)
            for key, part in tuple(parts.items()) if isinstance(parts, dict) else ():
                if isinstance(key, str) and isinstance(part, (Tensor, host.ndarray)):
                    note(key, part)

    def note(name: str, t: Any) -> None:
        if isinstance(t, host.ndarray) or t.node is None:
            run.constants[name] = t.data if isinstance(t, Tensor) else t
            return
        known = run.names.get(t.node, ".") if t.node in run.values else ""  # type: ignore[arg-type]
        if known == "." or ("." in known and "." not in name):
            run.names[t.node] = name  # type: ignore[index]

    def local(frame: Any, event: str, argument: Any) -> Any:
        if event in ("line", "return"):
            look(frame)
            run.moment += 1
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
def noticed(run: Run) -> Iterator[None]:
    """Notes where a value on the tape is read as a plain number or array."""
    names = ("item", "numpy", "tolist", "detach")
    before = {name: getattr(Tensor, name) for name in names}

    def reader(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def read(self: Tensor, *args: Any) -> Any:
            if self.node is not None and (line := _line_of(_nearest(1))) is not None:
                what = run.names.get(self.node)
                called = {"item": "float() or .item()"}.get(name, f".{name}()")
                run.escapes.append(
                    f"line {line[0]}, `{line[1]}`, reads {f'`{what}`' if what else 'a value'} with {called}, and the "
                    "tape cannot see what becomes of it"
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
