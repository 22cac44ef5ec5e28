"""How a row of the table becomes a callable.

A row is declared once: a forward function on raw arrays and, for each array argument, a *pullback*
that turns `g`, the cotangent of the output `y`, into the cotangent of that argument. A pullback asks
for what it needs by name: `g`, then any of `y`, an argument, an argument's shape (`x_shape`), or a
static parameter. The names are read here, when the row is declared; from them follows what a node
keeps, and a function is written out that does the rest with no further thought when it runs.

The kinds are mathematical claims, which the tests hold every row to:
`elementwise` (the Jacobian is diagonal, and arguments broadcast), `linear` (<f(u), v> = <u, fT(v)>),
`bilinear` (linear in each argument), `primitive` (no claim), `discrete` (constant almost everywhere,
so its result is never on the tape).

The level of the arguments decides the level of the result: raw arrays in, a raw array out; any Tensor
in, a Tensor out, recorded where an input is on the tape.
"""

from __future__ import annotations

import functools
import keyword
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from minigrad.backend import Array, current, is_array, is_scalar, xp
from minigrad.tape import Node, next_serial, recording
from minigrad.tensor import Tensor

Function = Callable[..., Any]


class Primitive:
    """A declared row.

    name:       as errors and the tape print it
    kind:       the claim that was made
    arguments:  the names of the array arguments; one name stands for all of a variadic row
    statics:    the names of the static parameters
    pullbacks:  for each argument None or (rule, where its values stand in a node's residuals)
    lifts:      for each residual, the number of the argument that it is, `OUTPUT`, or None for plain data
    """

    __slots__ = (
        "arguments", "call", "forward", "joint", "kind", "lifts", "name", "pullbacks", "reference", "statics", "variadic",
    )  # fmt: skip

    name: str
    kind: str
    forward: Function
    arguments: tuple[str, ...]
    statics: tuple[str, ...]
    variadic: bool
    pullbacks: tuple[tuple[Function, tuple[int, ...]] | None, ...]
    lifts: tuple[int | None, ...]
    joint: Function | None
    reference: Function | None
    call: Function

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}({', '.join(self.arguments + self.statics)})>"


OUTPUT = -1
ALL = -2

CALL = """\
def call({signature}):
    lifted = False
{unwrap}
    if not lifted:
        return forward({values})
{align}
    try:
        y = forward({values})
    except (ValueError, TypeError, IndexError) as error:
        complain(primitive, error, ({arrays}), ({params}))
    if y.__class__ is not xp.ndarray:
        y = settle(primitive, y, ({arrays}))
    if {constant} or not recording.on:
{narrow}
        result = Tensor.__new__(Tensor)
        result.data = y
        result.node = None
        return result
    node = Node.__new__(Node)
    node.primitive = primitive
    node.inputs = ({nodes})
    node.residuals = ({residuals})
    node.params = ({params})
    node.shape = y.shape
    node.dtype = y.dtype
    node.serial = next_serial()
    node.grad = node.label = None
{aside}
    if recording.observer is not None:
        recording.observer(node, ({arrays}), y)
    result = Tensor.__new__(Tensor)
    result.data = y
    result.node = node
    return result
"""
UNWRAP = """\
    if isinstance({x}, Tensor):
        {x}_node = {x}.node
        {x} = {x}.data
        lifted = True
    else:
        {x}_node = None
"""
UNWRAP_VARIADIC = """\
    {x}_node = []
    {x} = list({x})
    for i, x in enumerate({x}):
        if isinstance(x, Tensor):
            {x}_node.append(x.node)
            {x}[i] = x.data
            lifted = True
        else:
            {x}_node.append(None)
    {x}_shape = [x.shape for x in {x}]
"""
ALIGN_TWO = """\
    if {a}.__class__ is {b}.__class__:
        if {a}.dtype is not {b}.dtype:
            {a}, {b} = align(primitive, ({a}, {b}))
    elif {a}.__class__ not in WEAK and {b}.__class__ not in WEAK:
        {a}, {b} = align(primitive, ({a}, {b}))
"""
ASIDE = """\
    if {constant}:
        node.aside = ({numbers})
"""
NARROW = """\
        if y.dtype.char in "dD":
            y = narrow(y, ({arrays}))
"""
ALIGN = "    {several} = align(primitive, ({several}))\n"
ALIGN_VARIADIC = "    {x} = align(primitive, {x})\n"


@functools.cache
def _compile(source: str) -> Any:
    return compile(source, "<call of a minigrad primitive>", "exec")


def declare(kind: str, forward: Function, pullbacks: Sequence[Function | None], statics: dict[str, Any]) -> Function:
    """A callable for a row, with the row itself as its attribute `primitive`."""
    row = Primitive()
    row.kind = kind
    row.forward = forward
    row.joint = row.reference = None
    code = forward.__code__
    names = code.co_varnames[: code.co_argcount]
    row.name = forward.__name__ if forward.__name__ != "<lambda>" else f"primitive at line {code.co_firstlineno}"
    row.variadic = bool(code.co_flags & 4)
    if row.variadic:
        names = (code.co_varnames[code.co_argcount + code.co_kwonlyargcount],)
        row.statics = tuple(statics)
    else:
        row.statics = tuple(name for name in names if name in statics)
    row.arguments = tuple(name for name in names if name not in statics)
    if unknown := set(statics) - set(row.statics):
        raise TypeError(f"{row.name}: static parameters {sorted(unknown)} are not arguments of the forward function")
    if kind != "discrete" and len(pullbacks) != len(row.arguments):
        raise TypeError(
            f"{row.name}: {len(row.arguments)} array arguments {row.arguments} need as many pullbacks (None where "
            f"there is no derivative), not {len(pullbacks)}; a parameter that is no array is named with its default"
        )
    _plan_residuals(row, pullbacks)
    scope = {
        "forward": forward, "primitive": row, "xp": xp, "Tensor": Tensor, "Node": Node, "recording": recording,
        "next_serial": next_serial, "complain": complain, "settle": settle, "narrow": narrow, "align": align,
        "WEAK": WEAK,
        **{f"_{name}": default for name, default in statics.items()},
    }  # fmt: skip
    exec(_compile(_source(row, statics, pullbacks)), scope)
    row.call = scope["call"]  # type: ignore[assignment]
    row.call.primitive = row  # type: ignore[attr-defined]
    row.call.__name__ = row.call.__qualname__ = row.name
    row.call.__doc__ = forward.__doc__
    return row.call


def _plan_residuals(row: Primitive, pullbacks: Sequence[Function | None]) -> None:
    """Reads what each pullback asks for, and gives each thing one place in a node's residuals."""
    kept: list[str] = []
    plans: list[tuple[Function, tuple[int, ...]] | None] = []
    for rule in pullbacks:
        if rule is None:
            plans.append(None)
            continue
        asked = rule.__code__.co_varnames[: rule.__code__.co_argcount]
        if not asked or asked[0] != "g":
            raise TypeError(f"{row.name}: a pullback's first argument is g, the cotangent of the output, not {asked[:1]}")
        known = {"y", "y_shape", *row.arguments, *(f"{a}_shape" for a in row.arguments), *row.statics}
        if row.variadic:
            known.add("i")
        if unknown := [name for name in asked[1:] if name not in known]:
            raise TypeError(f"{row.name}: a pullback asks for {unknown[0]!r}; it can have {sorted(known)}")
        for name in asked[1:]:
            if name not in kept and name != "i":
                kept.append(name)
        plans.append((rule, tuple(-1 if name == "i" else kept.index(name) for name in asked[1:])))
    row.pullbacks = tuple(plans)
    origins = {"y": OUTPUT} | {a: ALL if row.variadic else i for i, a in enumerate(row.arguments)}
    row.lifts = tuple(origins.get(name) for name in kept)


def _source(row: Primitive, statics: dict[str, Any], pullbacks: Sequence[Function | None]) -> str:
    """The text of the row's function: `CALL` with this row's names in it."""
    names = row.arguments
    star = "*" if row.variadic else ""
    required = [s for s in row.statics if statics[s] is ...]
    defaults = [s if s in required else f"{s}=_{s}" for s in row.statics]
    signature = ", ".join([star + name for name in names] + defaults)
    asked = {s: [i for i, rule in enumerate(pullbacks) if rule is not None and s in _asks(rule)] for s in _kept(row, pullbacks)}
    residuals = []
    for name, users in asked.items():
        value = {"y": "y", "y_shape": "y.shape"}.get(name, name)
        if name.endswith("_shape") and name != "y_shape" and not row.variadic:
            value = f"{name[:-6]}.shape"
        elif len(users) == 1 and name in names and len(names) > 1:
            value = f"{name} if {names[users[0]]}_node is not None else None"
        residuals.append(value)
    differentiable = [name for name, rule in zip(names, pullbacks, strict=False) if rule is not None]
    if row.variadic:
        unwrap, nodes, arrays = UNWRAP_VARIADIC.format(x=names[0]), f"*{names[0]}_node,", f"*{names[0]},"
        constant = f"all(node is None for node in {names[0]}_node)"
        align = ALIGN_VARIADIC.format(x=names[0])
        values = ", ".join([f"*{names[0]}"] + [f"{s}={s}" for s in row.statics])
    else:
        unwrap = "".join(UNWRAP.format(x=name) for name in names)
        nodes = arrays = ", ".join(names) + ","
        nodes = ", ".join(f"{n}_node" if n in differentiable else "None" for n in names) + ","
        constant = " and ".join(f"{name}_node is None" for name in differentiable) or "True"
        aligned = differentiable if pullbacks else list(names)
        align = ""
        if row.kind in ("elementwise", "bilinear", "discrete") and len(aligned) == 2:
            align = ALIGN_TWO.format(a=aligned[0], b=aligned[1])
        elif row.kind in ("elementwise", "bilinear") and len(aligned) > 2:
            align = ALIGN.format(several=", ".join(aligned))
        code = row.forward.__code__
        values = ", ".join(code.co_varnames[: code.co_argcount])
    # A constant that no pullback asks for (the eps of var + eps) lets a view run the line again; full-size ones
    # would cost memory and are let go.
    unasked = [name for name in differentiable if name not in asked] if row.kind == "elementwise" else []
    aside = ""
    if len(names) > 1 and unasked:
        aside = ASIDE.format(
            constant=" or ".join(f"{name}_node is None" for name in unasked),
            numbers=" ".join(
                f"{n} if {n}.__class__ in WEAK or {n}.size < y.size else None," if n in unasked else "None," for n in names
            ),
        )
    return CALL.format(
        signature=signature,
        aside=aside.rstrip(),
        narrow="" if "dtype" in row.statics else NARROW.format(arrays=arrays).rstrip(),
        unwrap=unwrap.rstrip(),
        values=values,
        align=align.rstrip(),
        arrays=arrays,
        params="".join(f"{s}, " for s in row.statics),
        constant=f"({constant})",
        nodes=nodes,
        residuals="".join(f"{r}, " for r in residuals),
    )


def _asks(rule: Function) -> tuple[str, ...]:
    return rule.__code__.co_varnames[1 : rule.__code__.co_argcount]


def _kept(row: Primitive, pullbacks: Sequence[Function | None]) -> list[str]:
    return list(dict.fromkeys(n for rule in pullbacks if rule is not None for n in _asks(rule) if n != "i"))


def elementwise(forward: Function, *pullbacks: Function | None, **statics: Any) -> Function:
    """A row whose Jacobian is diagonal; its arguments broadcast, and the engine sums the cotangents back."""
    return declare("elementwise", forward, pullbacks, statics)


def linear(forward: Function, *pullbacks: Function | None, **statics: Any) -> Function:
    """A row that is linear in its (first) argument; the pullback is its adjoint."""
    return declare("linear", forward, pullbacks, statics)


def bilinear(forward: Function, *pullbacks: Function | None, **statics: Any) -> Function:
    """A row of two arguments that is linear in each."""
    return declare("bilinear", forward, pullbacks, statics)


def primitive(forward: Function, *pullbacks: Function | None, name: str | None = None, **statics: Any) -> Function:
    """A row of your own: a forward function on arrays and one pullback for each array argument.

        cube = mg.primitive(lambda x: x**3, lambda g, x: 3 * g * x**2)

    A pullback takes `g` and then, by name, what it needs: `y`, an argument, `x_shape`, a static
    parameter. None stands for an argument without a derivative. Static parameters are given with
    their defaults (`...` where there is none): `mg.primitive(f, rule, axis=None)`. Pullbacks written
    with minigrad's ops and operators are differentiable themselves, to every order. Raises TypeError
    at once for a pullback that asks for an unknown name.
    """
    call = declare("primitive", forward, pullbacks, statics)
    if name is not None:
        rename(call, name)
    return call


def discrete(forward: Function, **statics: Any) -> Function:
    """A row that is constant almost everywhere (a comparison, an index): its result is never on the tape."""
    return declare("discrete", forward, (), statics)


def fused(forward: Function, pullback: Function, reference: Function, name: str | None = None, **statics: Any) -> Function:
    """A hand-derived kernel with the composition that it must equal.

    forward(*arrays, *statics) -> (y, extra) on raw arrays; pullback(g, y, extra, needed, *arrays, *statics)
    -> one cotangent for each array argument (None where `needed` is False for it); reference takes
    what `forward` takes and returns y, composed of ordinary ops. The first order runs the pullback;
    `create_graph` differentiates the reference.
    """
    code = forward.__code__
    count = code.co_argcount - len(statics)
    arguments = code.co_varnames[:count]
    row = Primitive()
    row.kind = "fused"
    row.name = name or forward.__name__
    row.forward, row.joint, row.reference = forward, pullback, reference
    row.arguments, row.statics, row.variadic = arguments, code.co_varnames[count : code.co_argcount], False
    row.pullbacks = ()
    row.lifts = ()

    def call(*args: Any, **given: Any) -> Any:
        params = tuple({**statics, **dict(zip(row.statics, args[count:], strict=False)), **given}[s] for s in row.statics)
        tensors = args[:count]
        arrays = tuple(a.data if isinstance(a, Tensor) else a for a in tensors)
        try:
            y, extra = forward(*arrays, *params)
        except (ValueError, TypeError, IndexError) as error:
            complain(row, error, arrays, params)
        if not any(isinstance(a, Tensor) for a in tensors):
            return y
        nodes = tuple(a.node if isinstance(a, Tensor) else None for a in tensors)
        if not recording.on or all(node is None for node in nodes):
            return Tensor(y)
        node = Node()
        node.primitive, node.inputs, node.params = row, nodes, params
        node.residuals = (y, extra, arrays)
        node.shape, node.dtype, node.serial = y.shape, y.dtype, next_serial()
        node.grad = node.label = None
        if recording.observer is not None:
            recording.observer(node, arrays, y)
        return Tensor(y, node)

    row.call = call
    call.primitive = row  # type: ignore[attr-defined]
    call.__name__ = call.__qualname__ = row.name
    call.__doc__ = forward.__doc__
    return call


def rename(call: Function, name: str) -> None:
    """Gives a row the name under which errors and the tape show it."""
    call.primitive.name = call.__name__ = call.__qualname__ = name  # type: ignore[attr-defined]


def name_rows(scope: dict[str, Any]) -> None:
    """Names every row in a module's scope after the variable that holds it."""
    for name, value in scope.items():
        row = getattr(value, "primitive", None)
        if isinstance(row, Primitive) and row.name.startswith(("primitive at line", "_")):
            rename(value, name.rstrip("_") if keyword.iskeyword(name.rstrip("_")) else name)


NUMBERS = (int, float, complex)
WEAK = frozenset((bool, *NUMBERS))


def align(row: Primitive, values: Sequence[Any]) -> list[Any]:
    """The operands of a row in one library and one dtype.

    Python numbers, NumPy scalars and 0-d constants are weak: they take the dtype of the arrays.
    Integers and truth values join a floating array. Two floating dtypes raise, since either choice
    would silently lose digits or double the memory.
    """
    aligned: list[Any] = []
    dtypes: list[Any] = []
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
        if value.ndim:
            dtypes.append(value.dtype)
    floats = {dtype for dtype in dtypes if dtype.kind in "fc"}
    if not dtypes:
        floats = {value.dtype for value in aligned if not isinstance(value, NUMBERS) and value.dtype.kind in "fc"}
    if len(floats) > 1 and not any(dtype.kind == "c" for dtype in floats):
        raise TypeError(
            f"{row.name}: operands of different floating dtypes: {describe(values)}; convert one with .astype(...)"
        )
    if len(floats) != 1:
        return aligned
    (dtype,) = floats
    return [v if isinstance(v, NUMBERS) or v.dtype == dtype or v.dtype.kind == "c" else v.astype(dtype) for v in aligned]


def narrow(y: Array, arguments: Sequence[Any]) -> Array:
    """float32 where the library made float64 out of integers: Python's and NumPy's default is not ours."""
    if any(getattr(a, "dtype", None) == y.dtype or getattr(a, "dtype", None) == xp.float64 for a in arguments):
        return y
    return y.astype(xp.float32) if y.dtype == xp.float64 else y


def settle(row: Primitive, y: Any, arguments: Sequence[Any]) -> Array:
    """A 0-d array where the library returned a scalar."""
    if is_array(y) and not isinstance(y, xp.ndarray):
        raise TypeError(
            f"{row.name}: operands of another array library: {describe(arguments)}; the backend in use is {current()!r}"
        )
    return xp.asarray(y)


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


def complain(row: Primitive, error: Exception, arguments: Sequence[Any], params: Sequence[Any]) -> NoReturn:
    """Raises the library's error again with the name of the op, its operands and its parameters."""
    kind = next(k for k in (IndexError, TypeError, ValueError) if isinstance(error, k))
    mixed = [a for a in arguments if is_array(a) and not isinstance(a, xp.ndarray)]
    hint = f"; the backend in use is {current()!r} and operands of another library were given" if mixed else ""
    static = "".join(f", {name}={value!r:.60}" for name, value in zip(row.statics, params, strict=False))
    raise kind(f"{row.name}: {error} (operands: {describe(arguments)}{static}){hint}") from error
