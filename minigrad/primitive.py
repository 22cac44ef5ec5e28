"""How a row of the table becomes a callable.

A row is declared once: a forward function on raw arrays and, for each array argument, a *pullback*
that turns `g`, the cotangent of the output `y`, into the cotangent of that argument. A pullback asks
for what it needs by name: `g`, then any of `y`, an argument, an argument's shape (`x_shape`), or a
static parameter. The names are read here, when the row is declared; from them follows what a node
keeps, and a function is written out that does the rest with no further thought when it runs (at its
first call: most rows of the table stay unread in most programs, and importing them all would take longer
than NumPy does).

The kinds are mathematical claims, which the tests hold every row to:
`elementwise` (the Jacobian is diagonal, and arguments broadcast), `linear` (<f(u), v> = <u, fT(v)>),
`bilinear` (linear in each argument), `primitive` (no claim), `discrete` (constant almost everywhere,
so its result is never on the tape).

The level of the arguments decides the level of the result: raw arrays in, a raw array out; any Tensor
in, a Tensor out, recorded where an input is on the tape.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from types import CodeType, FunctionType
from typing import Any, NoReturn

from minigrad import parallel
from minigrad.backend import Array, current, host_array, is_array, is_scalar, on_host, out_of_memory, xp
from minigrad.tape import Node, detached, next_serial, recording
from minigrad.tensor import Tensor, plain

Function = Callable[..., Any]


class Primitive:
    """A declared row.

    name:       as errors and the tape print it
    kind:       the claim that was made
    arguments:  the names of the array arguments; one name stands for all of a variadic row
    statics:    the names of the static parameters
    kept:       the names of what a node keeps for the pullbacks: the row's memory statement
    pullbacks:  for each argument None or (rule, where its values stand in a node's residuals)
    lifts:      for each residual, the number of the argument that it is, `OUTPUT`, or None for plain data
    joint, reference: a fused row's pullback for all arguments at once, and the composition it must equal
    call:       the function that the table's name is bound to
    """

    __slots__ = (
        "arguments", "call", "forward", "joint", "kept", "kind", "lifts", "name", "pullbacks", "reference", "statics",
        "variadic",
    )  # fmt: skip

    name: str
    kind: str
    forward: Function
    arguments: tuple[str, ...]
    statics: tuple[str, ...]
    variadic: bool
    kept: tuple[str, ...]
    pullbacks: tuple[tuple[Function, tuple[int, ...]] | None, ...]
    lifts: tuple[int | None, ...]
    joint: Function | None
    reference: Function | None
    call: Function

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}({', '.join(self.arguments + self.statics)})>"


OUTPUT = -1
ALL = -2
NUMBER = -1  # in the place of a residual: the number of the argument, which a variadic row's pullback asks for as `i`

# What a row's name is bound to: the text below, with the row's own names in it. It is written out, rather than
# looping over *args, because this is the path that every op of every model takes. The text's own names begin with
# an underscore, which no argument's does: a row may call its arguments what it likes.
CALL = """\
def _call({signature}):
    _lifted = False
{unwrap}
    try:
        if not _lifted:
            return {raw}
{align}
        {results} = {in_blocks}_forward({values})
    except _ERRORS as _error:
        _complain(_primitive, _error, ({arrays}), ({params}))
    if _y.__class__ is not _xp.ndarray:
        _y = _settle(_primitive, _y, ({arrays}))
    if ({constant}) or not _recording.on:
{narrow}
{origin}
        if _recording.reviewer is not None:
            _recording.reviewer.computed(_primitive, ({arrays}), _y)
        _result = _new(_Tensor)
        _result.data = _y
        _result.node = None
        return _result
    _node = _new(_Node)
    _node.primitive = _primitive
    _node.inputs = ({nodes})
    _node.residuals = ({residuals})
    _node.params = ({params})
    _node.shape = _y.shape
    _node.dtype = _y.dtype
    _node.serial = _next_serial()
    _node.grad = _node.label = None
{aside}
    if _recording.observer is not None:
        _recording.observer(_node, ({arrays}), _y)
    _result = _new(_Tensor)
    _result.data = _y
    _result.node = _node
    return _result
"""
UNWRAP = """\
    if _isinstance({x}, _Tensor):
        _{x}_node = {x}.node
        {x} = {x}.data
        _lifted = True
    else:
        _{x}_node = None
"""
UNWRAP_VARIADIC = """\
    _{x}_node = [x.node if _isinstance(x, _Tensor) else None for x in {x}]
    _lifted = _any(_isinstance(x, _Tensor) for x in {x})
    {x} = [x.data if _isinstance(x, _Tensor) else x for x in {x}]
"""
FIRST_CALL = """\
def _call({signature}):
    _write()
    return _call({values})
"""
UNWRAP_FLOAT = """\
    if {x}.__class__ is not float:
        {x} = _as_float(_primitive, "{x}", {x})
"""
UNWRAP_AXIS = """\
    if axis.__class__ is list:
        axis = tuple(axis)
"""
ALIGN_TWO = """\
        if {a}.__class__ is {b}.__class__:
            if {a}.dtype is not {b}.dtype:
                {a}, {b} = _align(_primitive, ({a}, {b}))
        elif {a}.__class__ not in _WEAK and {b}.__class__ not in _WEAK:
            {a}, {b} = _align(_primitive, ({a}, {b}))
"""
ALIGN_VARIADIC = """\
        {x} = _align(_primitive, {x})
        _{x}_shape = [x.shape for x in {x}]
"""
NARROW = """\
        if _y.dtype.char in "edD":
            _y = _narrow(_primitive, _y, ({arrays}), ({params}))
"""
FROM_TAPE = """\
        if _recording.on and ({on_tape}):
            _detached.note(_y)
"""
FROM_CONSTANTS = """\
        if _recording.on and ({noted}):
            _detached.pass_on(_y, ({arrays}))
"""
IN_BLOCKS = "_in_blocks(_primitive, ({arrays}), ({params})) if {large} else "
LARGE = "({x}.__class__ is _host_array and {x}.size >= _LARGE)"
ASIDE = """\
    if {constant}:
        _node.aside = ({numbers})
"""
ERRORS = (ValueError, TypeError, IndexError, AttributeError, OverflowError, ZeroDivisionError, MemoryError)


def declare(
    kind: str,
    forward: Function,
    pullbacks: Sequence[Function | None],
    statics: dict[str, Any],
    joint: Function | None = None,
    reference: Function | None = None,
) -> Function:
    """A callable for a row, with the row itself as its attribute `primitive`."""
    row = Primitive()
    row.kind, row.forward, row.joint, row.reference = kind, forward, joint, reference
    _read_signature(row, statics)
    _read_pullbacks(row, pullbacks)
    scope = {
        "_forward": forward, "_primitive": row, "_xp": xp, "_Tensor": Tensor, "_Node": Node, "_recording": recording,
        "_next_serial": next_serial, "_complain": complain, "_settle": settle, "_narrow": narrow, "_align": align,
        "_as_float": as_float, "_WEAK": WEAK, "_ERRORS": ERRORS, "_isinstance": isinstance, "_any": any,
        "_new": object.__new__, "_in_blocks": in_blocks, "_host_array": host_array, "_LARGE": parallel.LARGE,
        "_detached": detached, "_id": id,
        **{f"__{name}": default for name, default in statics.items()},
    }  # fmt: skip
    signature, values = _signature(row, statics)
    exec(_compile(FIRST_CALL.format(signature=signature, values=values)), scope)
    call: Any = scope["_call"]

    def write() -> None:
        written = dict(scope)
        exec(_compile(_source(row, statics)), written)
        call.__code__ = written["_call"].__code__

    scope["_write"] = write
    call.primitive = row
    call.__doc__ = forward.__doc__
    row.call = call
    rename(call, row.name)
    return row.call


def in_blocks(row: Primitive, arguments: tuple[Any, ...], params: tuple[Any, ...]) -> Array:
    """An elementwise row on large arrays, in blocks and by several threads.

    Rows have NumPy's names: where the operands are floating, the universal function of that name is the row.
    """
    shape = xp.broadcast_shapes(*[getattr(a, "shape", ()) for a in arguments])
    if params:
        return parallel.elementwise(lambda *parts: row.forward(*parts, *params), arguments, shape)
    function = getattr(xp, row.name, None)
    if isinstance(function, xp.ufunc) and all(a.dtype.kind == "f" for a in arguments if hasattr(a, "dtype")):
        return parallel.elementwise(function, arguments, shape)
    return parallel.elementwise(row.forward, arguments, shape)


@functools.cache
def _compile(source: str) -> Any:
    return compile(source, "<call of a minigrad primitive>", "exec")


def _code_of(function: Any, what: str) -> CodeType:
    """The code of a Python function, from which the names of its arguments are read."""
    if not isinstance(function, FunctionType):
        raise TypeError(f"primitive: {what} is a Python function, not {function!r:.60}; write lambda x: f(x)")
    return function.__code__


def _read_signature(row: Primitive, statics: dict[str, Any]) -> None:
    """Name, arguments and static parameters, from the forward function."""
    code = _code_of(row.forward, "a forward function")
    names = code.co_varnames[: code.co_argcount]
    unnamed = row.forward.__name__ == "<lambda>"
    row.name = f"primitive at line {code.co_firstlineno}" if unnamed else row.forward.__name__
    row.variadic = bool(code.co_flags & VARARGS)
    if row.variadic:
        names = (code.co_varnames[code.co_argcount + code.co_kwonlyargcount],)
        row.statics = tuple(statics)
    else:
        row.statics = tuple(name for name in names if name in statics)
    row.arguments = tuple(name for name in names if name not in statics)
    if own := [name for name in (*row.arguments, *row.statics) if name.startswith("_")]:
        raise TypeError(f"{row.name}: an argument's name begins with a letter, unlike {own[0]!r}")
    if hidden := set(statics) & set(code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]) - set(row.statics):
        raise TypeError(f"{row.name}: static parameters {sorted(hidden)} stand behind a *; declare them without it")
    if unknown := set(statics) - set(row.statics):
        raise TypeError(f"{row.name}: static parameters {sorted(unknown)} are not arguments of the forward function")
    needed = [name for name in row.statics if statics[name] is ...]
    order = (*row.arguments, *needed, *(name for name in row.statics if name not in needed))
    if not row.variadic and names != order:
        raise TypeError(
            f"{row.name}: arrays come first, then static parameters, those with a default last: {', '.join(order)}, "
            f"not {', '.join(names)}"
        )


def _read_pullbacks(row: Primitive, pullbacks: Sequence[Function | None]) -> None:
    """What each pullback asks for by name, and the place of each thing in a node's residuals."""
    if row.kind not in ("discrete", "fused") and len(pullbacks) != len(row.arguments):
        raise TypeError(
            f"{row.name}: {len(row.arguments)} array arguments {row.arguments} need as many pullbacks (None where "
            f"there is no derivative), not {len(pullbacks)}; a parameter that is no array is named with its default"
        )
    meanings = {"g": "the cotangent", "y": "the output", "y_shape": "the output's shape"}
    numbered = {"i"} if row.variadic else set()
    meanings |= dict.fromkeys(numbered, "the number of the argument")
    known = {*meanings, *row.arguments, *(f"{a}_shape" for a in row.arguments), *row.statics} - {"g"}
    kept: list[str] = []
    plans: list[tuple[Function, tuple[int, ...]] | None] = []
    for rule in pullbacks:
        if rule is None:
            plans.append(None)
            continue
        code = _code_of(rule, f"{row.name}: a pullback")
        g, *asked = code.co_varnames[: code.co_argcount] or [""]
        if g != "g":
            raise TypeError(f"{row.name}: a pullback's first argument is g, the cotangent of the output, not {g!r}")
        if taken := [name for name in (g, *asked) if name in meanings and name in (*row.arguments, *row.statics)]:
            raise TypeError(
                f"{row.name}: a pullback asks for {taken[0]!r}, which is an argument and {meanings[taken[0]]}; give "
                "the argument another name"
            )
        if unknown := [name for name in asked if name not in known]:
            raise TypeError(f"{row.name}: a pullback asks for {unknown[0]!r}; it can have {sorted(known)}")
        kept += [name for name in asked if name not in kept and name not in numbered]
        plans.append((rule, tuple(NUMBER if name in numbered else kept.index(name) for name in asked)))
    row.kept = tuple(kept)
    row.pullbacks = tuple(plans)
    origins = {"y": OUTPUT} | {a: ALL if row.variadic else i for i, a in enumerate(row.arguments)}
    row.lifts = tuple(origins.get(name) for name in kept)


def _signature(row: Primitive, statics: dict[str, Any]) -> tuple[str, str]:
    """The parameters of a row's function, and the same names as it hands them on."""
    arrays = ["*" * row.variadic + name for name in row.arguments]
    parameters = [s if statics[s] is ... else f"{s}=__{s}" for s in row.statics]
    return ", ".join(arrays + parameters), ", ".join(arrays + [f"{s}={s}" if row.variadic else s for s in row.statics])


def _source(row: Primitive, statics: dict[str, Any]) -> str:
    """The text of the row's function: `CALL` with this row's names in it."""
    names, star = row.arguments, "*" if row.variadic else ""
    signature, values = _signature(row, statics)
    floats = [s for s in row.statics if isinstance(statics[s], float)]
    if row.kind == "fused":
        learnt = list(names)
    else:
        learnt = [name for name, plan in zip(names, row.pullbacks, strict=False) if plan is not None]
    nodes = [f"{star}_{name}_node" if name in learnt else "None" for name in names]
    aligned = learnt if row.pullbacks else list(names)
    align = aside = ""
    if row.variadic:
        (x,) = names
        constant, on_tape = f"not _any(_{x}_node)", f"_any(_{x}_node)"
        noted = f"_any(_id(x) in _detached.arrays for x in {x})"
        align = ALIGN_VARIADIC.format(x=x)
    else:
        constant = " and ".join(f"_{name}_node is None" for name in learnt) or "True"
        on_tape = " or ".join(f"_{name}_node is not None" for name in names)
        noted = " or ".join(f"_id({name}) in _detached.arrays" for name in names)
        if "dtype" in row.statics:  # asked for integers or truth values, it is constant almost everywhere
            constant += ' or _y.dtype.kind not in "fc"'
        if row.kind in ("elementwise", "bilinear", "discrete") and len(aligned) == len(names) == 2:
            align = ALIGN_TWO.format(a=aligned[0], b=aligned[1])
        elif row.kind in ("elementwise", "bilinear") and len(aligned) > 1:
            align = f"        {', '.join(aligned)} = _align(_primitive, ({', '.join(aligned)}))\n"
    # A constant that the others' pullbacks do not ask for (the eps of var + eps) lets a view run the line again;
    # full-size ones would cost memory and are let go.
    unasked = [name for name in learnt if {*learnt} - {name, *_users(row, name)}] if row.kind == "elementwise" else []
    if unasked:
        small = "{0} if {0}.__class__ in _WEAK or {0}.size < _y.size else None"
        aside = ASIDE.format(
            constant=" or ".join(f"_{name}_node is None" for name in unasked),
            numbers=_tuple_of(small.format(n) if n in unasked else "None" for n in names),
        )
    arrays = _tuple_of(star + name for name in names)
    origin = FROM_CONSTANTS.format(noted=noted, arrays=arrays)
    if row.kind == "discrete" or "dtype" in row.statics:  # of values on the tape it makes what is not
        origin = FROM_TAPE.format(on_tape=on_tape) + "        el" + origin.lstrip()
    params = _tuple_of(row.statics)
    large = " or ".join(LARGE.format(x=name) for name in names)
    unwrap = [(UNWRAP_VARIADIC if row.variadic else UNWRAP).format(x=n) for n in names]
    unwrap += [UNWRAP_FLOAT.format(x=s) for s in floats] + [UNWRAP_AXIS] * ("axis" in row.statics)
    fused = row.kind == "fused"
    return CALL.format(
        signature=signature,
        unwrap="".join(unwrap).rstrip(),
        raw=f"_forward({values})" + "[0]" * fused,
        results="_y, _extra" if fused else "_y",
        in_blocks=IN_BLOCKS.format(arrays=arrays, params=params, large=large) if row.kind == "elementwise" else "",
        values=values,
        align=align.rstrip(),
        arrays=arrays,
        params=params,
        constant=constant,
        narrow="" if "dtype" in row.statics else NARROW.format(arrays=arrays, params=params).rstrip(),
        origin=origin.rstrip(),
        nodes=_tuple_of(nodes),
        residuals=f"_y, _extra, ({arrays})" if fused else _tuple_of(_residual(row, name, learnt) for name in row.kept),
        aside=aside.rstrip(),
    )


def _users(row: Primitive, name: str) -> list[str]:
    """The arguments whose pullbacks ask for what is called so."""
    place = row.kept.index(name) if name in row.kept else None
    return [a for a, plan in zip(row.arguments, row.pullbacks, strict=True) if plan is not None and place in plan[1]]


def _residual(row: Primitive, name: str, learnt: Sequence[str]) -> str:
    """How a node gets one residual: kept only where an argument whose pullback asks for it is on the tape."""
    users = _users(row, name)
    if name in row.statics:
        return name
    if name.endswith("_shape") and name not in row.arguments:
        whose = "_y" if name == "y_shape" else name[:-6]
        return f"_{name}" if row.variadic and whose != "_y" else f"{whose}.shape"
    value = "_y" if name == "y" else name
    if len(users) == len(learnt):
        return value
    return f"{value} if {' or '.join(f'_{a}_node is not None' for a in users)} else None"


def _tuple_of(parts: Iterable[str]) -> str:
    return "".join(f"{part}, " for part in parts)


def elementwise(forward: Function, *pullbacks: Function | None, **statics: Any) -> Function:
    """A row whose Jacobian is diagonal; its arguments broadcast, and the engine sums the cotangents back."""
    return declare("elementwise", forward, pullbacks, statics)


def linear(forward: Function, *pullbacks: Function | None, **statics: Any) -> Function:
    """A row that is linear in its (first) argument; the pullback is its adjoint."""
    return declare("linear", forward, pullbacks, statics)


def bilinear(forward: Function, *pullbacks: Function | None, **statics: Any) -> Function:
    """A row of two arguments that is linear in each."""
    return declare("bilinear", forward, pullbacks, statics)


def primitive(forward: Function, /, *pullbacks: Function | None, name: str | None = None, **statics: Any) -> Function:
    """A row of your own: a forward function on arrays and one pullback for each array argument.

        cube = mg.primitive(lambda x: x**3, lambda g, x: 3 * g * x**2)

    A pullback takes `g` and then, by name, what it needs: `y` (the output; an argument that a pullback asks for
    has another name), an argument, `x_shape`, a static parameter. It returns an array of its own and writes into
    none of these. None stands for an argument without a derivative. Static parameters are given with their
    defaults (`...` where there is none): `mg.primitive(f, rule, axis=None)`. Pullbacks written with minigrad's ops
    and operators are differentiable themselves, to every order. Raises TypeError at once for a pullback that asks
    for an unknown name.
    """
    call = declare("primitive", forward, pullbacks, statics)
    if name is not None:
        rename(call, name)
    return call


def discrete(forward: Function, **statics: Any) -> Function:
    """A row that is constant almost everywhere (a comparison, an index): its result is never on the tape."""
    return declare("discrete", forward, (), statics)


def fused(
    forward: Function, pullback: Function, reference: Function, name: str | None = None, **statics: Any
) -> Function:
    """A hand-derived kernel with the composition that it must equal.

    forward(*arrays, *statics) -> (y, extra) on raw arrays; pullback(g, y, extra, needed, *arrays, *statics)
    -> one cotangent for each array argument (None where `needed` is False for it); reference takes
    what `forward` takes and returns y, composed of ordinary ops. The first order runs the pullback;
    `create_graph` differentiates the reference.
    """
    call = declare("fused", forward, (), statics, pullback, reference)
    if name is not None:
        rename(call, name)
    return call


def rename(call: Any, name: str) -> None:
    """Gives a row the name under which errors and the tape show it."""
    call.primitive.name = call.__name__ = call.__qualname__ = name


def name_rows(scope: dict[str, Any]) -> None:
    """Names every row in a module's scope after the variable that holds it: `matmul_` is the row of "matmul"."""
    for name, value in scope.items():
        row = getattr(value, "primitive", None)
        if isinstance(row, Primitive) and row.name.startswith("primitive at line"):
            rename(value, name.rstrip("_"))


VARARGS = 0x04
"""The flag of code that takes any number of arguments (inspect.CO_VARARGS, which takes long to import)."""
NUMBERS = (int, float, complex)
WEAK = frozenset((bool, *NUMBERS))


def align(row: Primitive, values: Sequence[Any]) -> list[Any]:
    """The operands of a row in one library and one dtype.

    Python numbers and NumPy scalars are weak, and so are 0-d floats beside floating arrays: they take the arrays'
    dtype. Integers and truth values join what is floating. Two floating dtypes raise, since either choice would
    silently lose digits or double the memory.
    """
    aligned: list[Any] = []
    for value in values:
        if is_scalar(value):  # asked first: numpy.float64 is a Python float as well
            aligned.append(value.item())
            continue
        if isinstance(value, NUMBERS):
            aligned.append(value)
            continue
        if not isinstance(value, xp.ndarray):
            if is_array(value):
                raise TypeError(
                    f"{row.name}: operands of two array libraries meet: {describe(values)}; the backend in use is "
                    f"{current()!r}; move one with mg.tensor(t.numpy())"
                )
            if isinstance(value, (list, tuple)):
                value = xp.asarray(value)
                value = value.astype(xp.float32) if value.dtype == xp.float64 else value
            else:
                raise TypeError(
                    f"{row.name}: an operand is {type(value).__name__} {value!r:.60}; Tensors, arrays and numbers can "
                    "be mixed"
                )
        aligned.append(value)
    floating = [v for v in aligned if not isinstance(v, NUMBERS) and v.dtype.kind in "fc"]
    floats = {v.dtype for v in floating if v.ndim} or {v.dtype for v in floating}
    if len(floats) > 1 and not any(dtype.kind == "c" for dtype in floats):
        raise TypeError(
            f"{row.name}: operands of different floating dtypes: {describe(values)}; convert one with .astype(...)"
        )
    if len(floats) != 1:
        return aligned
    (dtype,) = floats
    settled = {dtype, *(v.dtype for v in floating if v.dtype.kind == "c")}
    return [v if isinstance(v, NUMBERS) or v.dtype in settled else _cast(v, dtype) for v in aligned]


def _cast(array: Array, dtype: Any) -> Array:
    cast = array.astype(dtype)
    detached.pass_on(cast, [array])
    return cast


def narrow(row: Primitive, y: Array, arguments: Sequence[Any], params: Sequence[Any]) -> Array:
    """float32 where the library made another float out of integers: its defaults are not ours."""
    floats = [a for a in arguments if is_array(a) and a.dtype.kind in "fc"]
    if floats or not any(is_array(a) for a in arguments):
        return y
    if y.dtype.char == "e":  # NumPy's sqrt of bytes is computed in half precision: too late to widen
        return row.forward(*[a.astype(xp.float32) if is_array(a) else a for a in arguments], *params)
    return y.astype(xp.float32 if y.dtype.kind == "f" else xp.complex64)


def as_float(row: Primitive, name: str, value: Any) -> float:
    """A static parameter that is a number, as a Python float: NumPy's scalars would widen float32."""
    value = plain(value, row.name)
    if isinstance(value, (int, float)):
        return float(value)
    raise TypeError(f"{row.name}: {name} is a number, not {type(value).__name__} {value!r:.60}")


def settle(row: Primitive, y: Any, arguments: Sequence[Any]) -> Array:
    """A 0-d array where the library returned a scalar. Raises TypeError for what is no array."""
    if isinstance(y, xp.ndarray) or (is_scalar(y) and (on_host() or not _theirs(arguments))):
        return xp.asarray(y)
    if is_array(y) or is_scalar(y):
        raise TypeError(
            f"{row.name}: operands of another array library: {describe(arguments)}; the backend in use is {current()!r}"
        )
    if not isinstance(y, NUMBERS):
        refuse_tensors(row, arguments)
        raise TypeError(f"{row.name}: the forward function returned {type(y).__name__} {y!r:.60}, not one array")
    return xp.asarray(y)


def _theirs(arguments: Sequence[Any]) -> bool:
    """Whether any operand is an array of another library than the one in use."""
    arrays = (a.data if isinstance(a, Tensor) else a for a in arguments)
    return any(is_array(a) and not isinstance(a, xp.ndarray) for a in arrays)


def describe(values: Sequence[Any]) -> str:
    """Operands as an error shows them: `float32 [3, 4]`."""
    parts = []
    for value in values:
        value = value.data if isinstance(value, Tensor) else value
        if hasattr(value, "dtype"):
            library = "" if isinstance(value, xp.ndarray) else f"{type(value).__module__}."
            parts.append(f"{library}{value.dtype} {list(value.shape)}")
        else:
            parts.append(f"{value!r:.40}")
    return ", ".join(parts)


def refuse_tensors(row: Primitive, arguments: Sequence[Any]) -> None:
    """Raises TypeError where a raw operand is a Tensor, which only an assignment to `data` makes it."""
    if any(isinstance(a, Tensor) for a in arguments):
        raise TypeError(
            f"{row.name}: an operand's `data` is a Tensor: where it was assigned, a raw array was due (t.data = "
            "other.data)"
        )


def complain(row: Primitive, error: Exception, arguments: Sequence[Any], params: Sequence[Any]) -> NoReturn:
    """Raises the library's error again with the name of the op, its operands and its parameters."""
    if isinstance(error, MemoryError):
        raise out_of_memory(f"{row.name} of {describe(arguments)}", error) from error
    if str(error).startswith(f"{row.name}:"):
        raise error
    refuse_tensors(row, arguments)
    operands = [a for a in arguments if not is_array(a)]
    if isinstance(error, AttributeError) and operands and not is_scalar(operands[0]):
        hint = "; make it a Tensor with mg.tensor"
        raise TypeError(f"{row.name}: an operand is {type(operands[0]).__name__} {operands[0]!r:.60}{hint}") from error
    kind = next((k for k in (IndexError, ValueError, OverflowError) if isinstance(error, k)), TypeError)
    mixed = [a for a in arguments if is_array(a) and not isinstance(a, xp.ndarray)]
    hint = f"; the backend in use is {current()!r} and operands of another library were given" if mixed else ""
    static = "".join(f", {name}={value!r:.60}" for name, value in zip(row.statics, params, strict=False))
    raise kind(f"{row.name}: {error} (operands: {describe(arguments)}{static}){hint}") from error
