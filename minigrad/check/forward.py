"""A user's forward function, run once with somebody looking on.

Beside the tape itself, what a sentence needs is noted: the value of every node, the source line that
made it, and its name. Names come from `mg.label` where there are labels, and otherwise from the
user's own code: the local variables of the functions that ran, as a debugger would read them.
Values that leave the tape (`float(t)`, `t.item()`) are noted too, and ops that are constant almost everywhere.

The function is then run once more, on plain arrays, and must return the same: what was recorded is then
what it computes, and nobody is accused because of a line that the tape took for another.
"""

from __future__ import annotations

import copy
import functools
import inspect
import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from minigrad.backend import numpy as host
from minigrad.backend import to_numpy
from minigrad.check.run import CannotRun, Run, arrays_of, floating, holding_arrays, kept_inside, name_of
from minigrad.check.watching import complaint, is_theirs, named, noticed, watched
from minigrad.generator import generator
from minigrad.numpy_protocol import writable
from minigrad.primitive import describe
from minigrad.tape import enable_grad, history, no_grad, recording
from minigrad.tensor import Tensor, differentiable


def record(f: Callable[..., Any], inputs: Sequence[Any], outputs: int = 1) -> Run:
    """Runs f on Tensors with the values of `inputs` (host arrays and anything else) and notes what it did.

    Raises CannotRun, with the user's line, where f fails or returns nothing that can be differentiated, and
    where it returns other values for plain arrays.
    """
    kept: list[str] = getattr(f, "kept_by_layer", [])
    run = Run(f, [*input_names(f, len(inputs) - len(kept)), *kept], list(inputs), kept=len(kept))
    arguments = _on_tape(run)
    before = Dice()
    with enable_grad(), watched(run), named(run), noticed(run), writable(is_theirs, f):
        try:
            result = f(*arguments)
        except Exception as error:
            raise CannotRun(complaint("the forward function", f, error)) from error
    parts = result if isinstance(result, tuple) else (result,)
    run.outputs = _outputs(run, parts, outputs)
    plain = _on_arrays(f, inputs, before)
    if plain is not None:
        plain = plain if isinstance(plain, tuple) else (plain,)
        for number, (y, expected) in enumerate(zip(run.outputs, plain, strict=False)):
            if (apart := _difference(y, expected)) is not None:
                raise CannotRun(_disagreement(f, number, apart))
    if all(y.node is None for y in run.outputs):
        step = f": {run.steps[-1]} is constant almost everywhere" if run.steps else ""
        raise CannotRun(
            f"the output of {name_of(f)} does not depend on any differentiable input as far as the tape can see"
            f"{step}{_escaped(run)}; its gradient is zero, or the function is not differentiable"
        )
    run.rest = arrays_of(tuple((parts if plain is None else plain)[outputs:]))
    run.order = history(*[y.node for y in run.outputs if y.node is not None])
    _complete_names(run)
    known = {name for name, x in run.constants.items() if _tells(x)}.difference(run.names.values())
    run.constants = {name: x for name, x in run.constants.items() if name in known}
    return run


def _tells(x: Any) -> bool:
    """Whether a constant is more than one number, so that it is known again where it is used."""
    return isinstance(x, host.ndarray) and x.dtype.kind in "fiub" and x.size > 1 and bool((x != x.flat[0]).any())


def input_names(f: Callable[..., Any], count: int) -> list[str]:
    """The parameter names of f, or x0, x1, ... where it does not tell."""
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    variadic = next((p.name for p in parameters if p.kind == p.VAR_POSITIONAL), "x")
    return (positional + [f"{variadic}{i}" for i in range(count)])[:count]


def _on_tape(run: Run) -> list[Any]:
    """The arguments for a recorded run: a leaf for each input that is to have a gradient, and copies of the others."""
    wrt, kept = getattr(run.f, "wrt", None), run.input_names[len(run.inputs) - run.kept :]
    if unknown := [name for name in wrt or () if name not in run.input_names]:
        raise CannotRun(f"wrt: {unknown[0]!r} is no input of {name_of(run.f)}; they are {', '.join(run.input_names)}")
    arguments: list[Any] = []
    for number, (name, value) in enumerate(zip(run.input_names, run.inputs, strict=True)):
        run.constants[name] = value
        if not floating(value):
            arguments.append(copy.deepcopy(value))
        elif wrt is not None and name not in (*wrt, *kept):
            arguments.append(Tensor(value.copy()))
        else:
            leaf = Tensor(value.copy(), differentiable(value))
            run.differentiable.append(number)
            run.leaves.append(leaf)
            run.values[leaf.node] = leaf.data  # type: ignore[index]
            run.names[leaf.node] = name  # type: ignore[index]
            arguments.append(Tensor(leaf.data, leaf.node))
    if not run.leaves:
        raise no_floating(run.inputs, "".join(f". {kept_inside(name)}" for name in holding_arrays(run)))
    return arguments


def no_floating(inputs: Sequence[Any], hint: str = "") -> CannotRun:
    """The refusal of a function of which no input has a gradient."""
    given = describe(inputs) or "nothing"
    return CannotRun(
        f"no input is a floating array ({given}): there is nothing to differentiate with respect to; give the inputs "
        f"as arrays of floats, in a tuple, in the order of the function's arguments{hint}"
    )


def _outputs(run: Run, parts: tuple[Any, ...], many: int) -> list[Tensor]:
    """The first of the values that f returned, as Tensors."""
    f = name_of(run.f)
    outputs = []
    for number, part in enumerate(parts[:many]):
        if isinstance(part, (dict, list, tuple)):
            raise CannotRun(
                f"the forward function {f} returned a {type(part).__name__} as output {number}: it is to "
                "return arrays, the outputs first and what the backward needs besides after them: (out, cache)"
            )
        if isinstance(part, (host.ndarray, host.generic)):
            part = Tensor(host.asarray(part))
        if not isinstance(part, Tensor):
            raise CannotRun(
                f"the forward function {f} returned {type(part).__name__} as output {number}: what it "
                f"computed is not on the tape{_escaped(run)}. An output must be computed from the inputs by NumPy or "
                "minigrad functions"
            )
        outputs.append(part)
    if len(parts) < many:
        raise CannotRun(f"the forward function {f} returned {len(parts)} values, and outputs={many} was asked for")
    return outputs


def _escaped(run: Run) -> str:
    return f" ({'; '.join(run.escapes)})" if run.escapes else ""


def _complete_names(run: Run) -> None:
    """Labels, and "output", as names; nodes that share one get different ones, by their number."""
    leaves = {leaf.node for leaf in run.leaves}
    run.names.update({node: node.label for node in run.order if node.label and node not in leaves})
    for y in run.outputs:
        if y.node is not None:
            run.names.setdefault(y.node, "output")
    seen: dict[str, int] = {}
    for node in sorted(run.names, key=lambda node: node.serial):
        name = run.names[node]
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            run.names[node] = f"{name} #{seen[name]}"


# ---- the same on plain arrays -----------------------------------------------------------------------------
class Dice:
    """Where random generators stand: Python's, NumPy's, minigrad's own, and others."""

    def __init__(self, *others: Any) -> None:
        self.back = [_way_back(dice) for dice in (random, host.random, generator(), *others)]

    def again(self) -> None:
        """Sets all of them back there."""
        for way in self.back:
            way()


def _way_back(dice: Any) -> Callable[[], None]:
    """What sets a generator back to where it is now."""
    if dice is random or isinstance(dice, random.Random):
        return functools.partial(dice.setstate, dice.getstate())
    if dice is host.random or isinstance(dice, host.random.RandomState):
        return functools.partial(dice.set_state, dice.get_state())
    return functools.partial(setattr, dice.bit_generator, "state", dice.bit_generator.state)


def _on_arrays(f: Callable[..., Any], inputs: Sequence[Any], before: Dice) -> Any:
    """What f returns for the inputs as they are, with the random numbers that its recorded run drew.

    None where it fails: a function of minigrad's ops need not run on arrays.
    """
    afterwards, replaying = Dice(), recording.replaying
    before.again()
    recording.replaying = ()
    try:
        with no_grad(), host.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return f(*[copy.deepcopy(value) for value in inputs])
    except Exception:
        return None
    finally:
        recording.replaying = replaying
        afterwards.again()


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


def _disagreement(f: Any, number: int, apart: str) -> str:
    """The message for a function that returns one thing when it is recorded, and another for plain arrays."""
    return (
        f"{name_of(f)} returns other values when it is recorded than for plain arrays (output {number}: {apart}). "
        "Either two calls of it differ: it draws random numbers or keeps a state; seed the generator inside it. Or it "
        "has a line that means another thing for arrays: one that sorts in place (write a = np.sort(a)), asks for the "
        "type of an array (type(a)), or writes into memory that two arrays share (write into the whole array instead)"
    )
