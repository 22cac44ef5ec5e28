"""The reverse pass, and the derivatives that are made from it.

The nodes that a result depends on are visited in the reverse of the order in which they were
recorded. When a node is reached, every use of its value has been passed, so its *cotangent* (the
derivative of the result with respect to that value, in the value's shape) is complete; the row's
pullbacks turn it into contributions to the cotangents of the inputs.

There is one pass. Given raw arrays it computes first derivatives and nothing else. With
`create_graph` the cotangents and the residuals are Tensors with their places on the tape, the same
rules record themselves, and every higher order follows. Forward mode is the transpose of the
transpose: a pullback is linear in its cotangent, and the adjoint of that linear map is the jvp.
"""

from __future__ import annotations

import functools
from _thread import _count as other_threads
from collections.abc import Callable, Sequence
from sys import getrefcount
from threading import Lock
from typing import Any

from minigrad import ops, parallel, sums
from minigrad.backend import Array, from_numpy, host_array, is_array, kernel, naming_memory, xp
from minigrad.primitive import ALL, NUMBER, OUTPUT, Primitive
from minigrad.tape import FREED, Node, enable_grad, history, leaf, no_grad, recording, writes
from minigrad.tensor import Tensor, Versioned, as_array, differentiable, on_tape

Function = Callable[..., Any]
Tensors = Tensor | tuple[Tensor, ...]

IN_PLACE = 2048
"""Elements from which on adding into an existing array is cheaper than making a new one."""


@naming_memory("backward")
def reverse(
    results: dict[Node, Any], targets: Sequence[Node] | None, create_graph: bool, retain_graph: bool
) -> dict[Node, Any]:
    """Carries the cotangents of `results` back along the tape.

    targets: the nodes whose cotangents are wanted, and then nothing else is computed; None stands for
    all leaves and labelled nodes, whose `grad` is added to. Returns the cotangents of the targets.
    """
    order = history(*results)
    needed = None if targets is None else _leading_to(targets, order)
    cotangents = dict(results)
    found: dict[Node, Any] = {}
    wanted = set() if targets is None else set(targets)
    newest, review, uses, large = writes.newest, recording.reviewer, recording.uses, parallel.LARGE
    summing = None if create_graph else kernel("sums of products")
    while order:
        node = order.pop()
        g = cotangents.pop(node, None)
        if g is None:
            continue
        row = node.primitive
        if targets is None:
            if row is None:
                if uses is not None:
                    uses.gradient(node)
                _accumulate(node, _owned(g), g)
                continue
            if node.label is not None:
                _accumulate(node, _owned(g), g)
        else:
            if node in wanted:
                found[node] = g
            if needed.isdisjoint(node.inputs):  # type: ignore[union-attr]
                continue  # the way ends here, and what made this value stays for another pass
        if row is None:
            continue
        values = node.residuals
        if values is FREED:
            raise RuntimeError(
                f"backward: the tape of {row.name!r} (line {node.serial}) was freed by an earlier backward pass; pass "
                "retain_graph=True to that earlier backward() or grad() to keep it"
            )
        overwritten = node.serial < newest
        joint, blocks = None, False
        if row.joint is not None:
            if overwritten:
                writes.check(node, values)
            joint = _joint(row, node, g, create_graph, needed)
        elif create_graph:
            values = _lift(row, node, values)
        elif g.size >= large:
            blocks = row.kind == "elementwise" and parallel.large(g)
        i = -1
        for source in node.inputs:
            i += 1
            if source is None or (needed is not None and source not in needed):
                continue
            if joint is not None:
                c = joint[i]
            else:
                rule, places = row.pullbacks[0 if row.variadic else i]  # type: ignore[misc]
                if overwritten:
                    writes.check(node, [node.residuals[place] for place in places if place != NUMBER])
                if summing is not None and g.shape != source.shape and row.kind == "elementwise":
                    c = _summed_back(rule, g, [values[place] for place in places], source, summing)
                elif blocks:
                    last = not any(s is not None and (needed is None or s in needed) for s in node.inputs[i + 1 :])
                    spare = last and _owned(g)
                    c = _in_blocks(rule, g, [values[place] for place in places], source, cotangents, spare)
                elif not places:
                    c = rule(g)
                elif len(places) == 1 and places[0] != NUMBER:
                    c = rule(g, values[places[0]])
                else:
                    c = rule(g, *[i if place == NUMBER else values[place] for place in places])
            if c is None and (blocks or joint is not None):
                continue
            try:
                fits = c.shape == source.shape
            except AttributeError:
                raise TypeError(f"{_pullback(row, i)} returned {type(c).__name__} {c!r:.60}, not an array") from None
            if review is not None:
                review.pulled(node, i, g, c)
            if not fits:
                c = _summed_to(source, c, g, row, i)
            if c.dtype is not source.dtype and c.dtype != source.dtype:
                c = ops.astype(c, source.dtype)
            held = cotangents.get(source)
            if held is None:
                cotangents[source] = c
            elif c.size < IN_PLACE:
                cotangents[source] = held + c
            elif parallel.large(held):
                into = held if _owned(held, 1) else None
                cotangents[source] = parallel.elementwise(xp.add, (held, c), c.shape, into=into)
            elif _owned(held, 1):
                held += c
            else:
                cotangents[source] = held + c
            held = c = None
        joint = None  # its arrays are the cotangents' alone from here on, and may be kept or written to
        if not retain_graph:
            node.residuals = FREED
            if review is not None:
                review.freed(node)
    return found


def _in_blocks(
    rule: Function, g: Array, others: list[Any], source: Node, cotangents: dict[Node, Any], spare: bool
) -> Any:  # fmt: skip
    """A pullback of an elementwise row in blocks and by several threads.

    What broadcasting added is summed within the blocks; a cotangent that the pass owns is added to
    there, too, and then None is returned. A rule that only passes `g` on does just that. spare: this is
    the last that is asked of a `g` that the pass owns, and the result takes its place in memory.
    """
    if not others and rule(part := g[:0]) is part:
        rule = _same
        if g.shape == source.shape:
            return g
    if g.shape == source.shape:
        held = cotangents.get(source)
        if held is not None and parallel.large(held) and _owned(held, 1) and held.dtype == g.dtype:
            del held
            parallel.elementwise(rule, (g, *others), g.shape, onto=cotangents[source])
            return None
        return parallel.elementwise(rule, (g, *others), g.shape, into=g if spare else None)
    stretched = _stretched(source.shape, g.shape)
    if stretched is None:  # the caller tells
        return rule(g, *others)
    if all(_constant_along(operand, stretched, g.ndim) for operand in others):
        # a pullback is linear in g: the sum goes before what does not change along it
        c = rule(sums.summed(_same, [g], g.shape, stretched), *others)
    elif rule in PRODUCTS and others[0].__class__ is g.__class__ and others[0].shape == g.shape:
        c = sums.summed_product(g, others[0], stretched)
    else:
        c = sums.summed(rule, (g, *others), g.shape, stretched)
    return c.reshape(source.shape)


def _summed_back(rule: Function, g: Array, others: list[Any], source: Node, summing: Function) -> Array:
    """A pullback of an elementwise row whose argument was broadcast, summed by kernels of a device."""
    stretched = _stretched(source.shape, g.shape)
    if stretched is None:  # the caller tells
        return rule(g, *others)
    if all(_constant_along(operand, stretched, g.ndim) for operand in others):  # as above
        c = rule(ops.sum(g, stretched, True), *others)
    else:
        c = summing(g, others[0], stretched) if rule in PRODUCTS and is_array(others[0]) else None
        if c is None:
            return ops.sum_to(rule(g, *others), source.shape)
    return c.reshape(source.shape)


def _summed_to(source: Node, c: Any, g: Any, row: Primitive, i: int) -> Any:
    """A contribution to the cotangent of an argument that was broadcast, in the argument's shape.

    Rows that claim to broadcast may return what can be summed back, others the output's shape alone: anything else
    is another mistake, and summing would hide it.
    """
    try:
        if row.kind in ("linear", "primitive") and c.shape != g.shape:
            raise ValueError
        return ops.sum_to(c, source.shape)
    except ValueError:
        replaced = source.primitive is None and row.kind != "primitive"  # the table's own rules have the right shape
        leaf = "; was the data of this leaf replaced by an array of that shape?" if replaced else ""
        raise ValueError(
            f"{_pullback(row, i)} returned shape {list(c.shape)}; the cotangent of an argument of shape "
            f"{list(source.shape)} has that shape{leaf}"
        ) from None


def _pullback(row: Primitive, i: int) -> str:
    """What an error calls the pullback of the i-th argument."""
    return f"backward: {row.name}: the pullback of {row.arguments[0 if row.variadic else i]!r}"


def _same(g: Any) -> Any:
    return g


def _stretched(shape: tuple[int, ...], to: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes along which an array of a shape repeats when it broadcasts to another; None where it does not."""
    lead = (1,) * (len(to) - len(shape))
    if len(shape) > len(to) or any(n not in (1, m) for n, m in zip(lead + shape, to, strict=True)):
        return None
    return tuple(axis for axis, (n, m) in enumerate(zip(lead + shape, to, strict=True)) if n == 1 and m != 1)


def _constant_along(operand: Any, axes: Sequence[int], ndim: int) -> bool:
    """Whether an operand that broadcasts to an array of `ndim` axes does not change along these."""
    shape = getattr(operand, "shape", ())
    return all(axis < ndim - len(shape) or shape[axis - ndim] == 1 for axis in axes)


PRODUCTS = {plan[0] for plan in ops.multiply.primitive.pullbacks}
"""The pullbacks that are g times the other factor: BLAS adds up such products as it makes them."""


# An array that nothing else can see may be written to. Who sees it is counted, and since what `getrefcount` says
# besides is the interpreter's affair (CPython 3.14 lends a function its arguments), that is measured: with one variable
# of the caller, and with one variable beside an attribute.
def _references(array: Any) -> int:
    return getrefcount(array)


class _View:
    base: Any = None


def _measured() -> tuple[int, int]:
    array, view = _View(), _View()
    view.base = _View()
    base = view.base
    return _references(array), getrefcount(base)


ALONE, BASE = _measured()


def _owned(array: Any, beside: int = 0) -> bool:
    """Whether one variable of the caller, and `beside` other places that it knows of, alone hold this array.

    Then nothing else can see it, and it may be written to. So may a view of the whole of an array that
    nothing but the view holds (a result with its axes in another order).
    """
    if getrefcount(array) > ALONE + beside or array.__class__ is not xp.ndarray:
        return False
    base = array.base
    return base is None or (
        base.__class__ is xp.ndarray and base.base is None and base.size == array.size and getrefcount(base) <= BASE
        and (array.__class__ is not host_array or array.flags.writeable)  # a broadcast's is not, to the same size too
    )  # fmt: skip


_accumulating = Lock()


def _accumulate(node: Node, owned: bool, g: Array) -> None:
    """Adds a complete cotangent to the node's `grad`, in memory that is the node's own; owned: `g` is the pass's.

    One at a time, since passes of several threads may end at one leaf. (The lock takes as long as adding up a small
    array, so a thread that is the only one does without.)
    """
    locked = other_threads() > 0 and _accumulating.acquire()
    try:
        if node.grad is not None:
            g = node.grad + g
        elif not owned:
            g = g.copy()
        node.grad = g if g.__class__ is xp.ndarray else xp.asarray(g)
    finally:
        if locked:
            _accumulating.release()


def _leading_to(targets: Sequence[Node], order: list[Node]) -> set[Node]:
    """The targets and every node that depends on one of them."""
    needed = set(targets)
    for node in order:
        if node not in needed and not needed.isdisjoint(node.inputs):
            needed.add(node)
    return needed


def _lift(row: Primitive, node: Node, values: Sequence[Any]) -> list[Any]:
    """A node's residuals as Tensors in their places on the tape."""
    lifted: list[Any] = []
    for value, origin in zip(values, row.lifts, strict=True):
        if origin is None or value is None:
            lifted.append(value)
        elif origin == OUTPUT:
            lifted.append(Tensor(value, node))
        elif origin == ALL:
            lifted.append([Tensor(v, source) for v, source in zip(value, node.inputs, strict=True)])
        else:
            lifted.append(Tensor(value, node.inputs[origin]) if is_array(value) else value)
    return lifted


def _joint(row: Primitive, node: Node, g: Any, create_graph: bool, wanted: set[Node] | None) -> Sequence[Any]:
    """The cotangents of a fused row: by its own pullback, or by its reference where they must be differentiable.

    A joint row without a reference sees to every order itself.
    """
    assert row.joint is not None
    if row.reference is None:
        return row.joint(node, g, create_graph, wanted)
    y, extra, arrays = node.residuals
    needed = tuple(s is not None and (wanted is None or s in wanted) for s in node.inputs)
    if not create_graph:
        return row.joint(g, y, extra, needed, *arrays, *node.params)
    inputs = [Tensor(a, s) if s is not None else a for a, s in zip(arrays, node.inputs, strict=True)]
    aliases = [ops.alias(x) if isinstance(x, Tensor) else x for x in inputs]
    with enable_grad():
        composed = row.reference(*aliases, *node.params)
    sources = [a.node for a, need in zip(aliases, needed, strict=True) if need]
    found = {} if composed.node is None else reverse({composed.node: g}, sources, create_graph=True, retain_graph=True)
    return [found.get(a.node) if need else None for a, need in zip(aliases, needed, strict=True)]


def _seed(y: Tensor, cotangent: Any, op: str) -> Any:
    """The cotangent with which a pass starts, checked: ones for a scalar result."""
    on_tape(y, op)
    if cotangent is None:
        if y.size != 1:
            raise ValueError(
                f"{op}: the result has shape {list(y.shape)}; only a single number has a gradient by itself. Pass a "
                "cotangent of that shape, or reduce the result first, e.g. y.sum()"
            )
        return xp.ones(y.shape, y.dtype)
    return _like(cotangent, y, f"{op}: the cotangent", "the result")


def _like(value: Any, x: Tensor, what: str, whose: str) -> Any:
    """A cotangent or tangent (a Tensor, an array or numbers) in the dtype of x, whose shape it must have."""
    if not hasattr(value, "shape"):
        value = as_array(value, x.dtype, what)
    elif is_array(value) and not isinstance(value, xp.ndarray):
        value = from_numpy(value)
    if value.shape != x.shape:
        raise ValueError(f"{what} has shape {list(value.shape)}, {whose} {list(x.shape)}; they must agree")
    return value if value.dtype == x.dtype else value.astype(x.dtype)


def backward(y: Tensor, cotangent: Tensor | Array | None = None, retain_graph: bool = False) -> None:
    """Adds to `x.grad` of every leaf (and labelled intermediate) x that `y` depends on.

    cotangent: of y's shape; needed unless y is a single number. retain_graph: keeps the tape for a
    second pass. To differentiate the gradients themselves use `mg.grad(..., create_graph=True)`.
    Raises ValueError for a missing or misshapen cotangent, RuntimeError for a y that is not on the
    tape and for a tape that an earlier pass has freed.
    """
    g = _seed(y, cotangent, "backward")
    reverse({_node(y): g.data if isinstance(g, Tensor) else g}, None, False, retain_graph)


def _node(t: Tensor) -> Node:
    assert t.node is not None
    return t.node


def grad(
    y: Tensor,
    xs: Tensor | Sequence[Tensor],
    cotangent: Tensor | Array | None = None,
    create_graph: bool = False,
    retain_graph: bool = False,
) -> Any:
    """The gradient of y with respect to xs: one Tensor for one Tensor, a tuple for several.

    xs may be intermediates. create_graph puts the gradients on the tape, to be differentiated again
    (it implies retain_graph). An x that y does not depend on gets zeros. No `.grad` is touched.
    Raises as `backward` does, also for an x that is not on the tape.
    """
    targets = [on_tape(x, f"grad: input {number}") for number, x in enumerate(_tuple(xs))]
    seed = _seed(y, cotangent, "grad")
    gradients = _pull({_node(y): seed}, targets, create_graph, retain_graph)
    return gradients if _several(xs) else gradients[0]


def _pull(
    results: dict[Node, Any], targets: Sequence[Node], create_graph: bool, retain_graph: bool
) -> tuple[Tensor, ...]:
    """The cotangents of the targets as Tensors: on the tape with `create_graph`; zeros where nothing leads there."""
    if create_graph:
        with enable_grad():
            seeds = {node: g if isinstance(g, Tensor) else Tensor(g) for node, g in results.items()}
            found = reverse(seeds, targets, True, True)
    else:
        arrays = {node: g.data if isinstance(g, Tensor) else g for node, g in results.items()}
        found = reverse(arrays, targets, False, retain_graph)
    gradients = []
    for target in targets:
        g = found.get(target)
        if g is None:
            g = xp.zeros(target.shape, target.dtype)
        elif isinstance(g, Tensor):
            g = g if g.node is not None else xp.array(g.data)
        elif not _owned(g, 1):
            g = xp.array(g)
        gradients.append(g if isinstance(g, Tensor) else Tensor(g))
    return tuple(gradients)


def value_and_grad(f: Function) -> Function:
    """A function (*xs) -> (f(*xs), gradient): one Tensor for one x, a tuple for several. f returns one number.

    Keyword arguments are handed on to f.
    """

    @functools.wraps(f)
    def both(*xs: Tensor, **given: Any) -> tuple[Tensor, Tensors]:
        y, gradients = _value_and_gradients(functools.partial(f, **given), xs, "value_and_grad")
        return y, gradients[0] if len(xs) == 1 else gradients

    return both


def _value_and_gradients(f: Function, xs: Sequence[Any], op: str) -> tuple[Tensor, tuple[Tensor, ...]]:
    leaves = _leaves(xs, op)
    y = _evaluate(f, leaves, op)
    followed = _followed(xs, y, leaves)
    return _settle(y, followed), _gradients(y, leaves, None, followed, False, op)


def vjp(f: Function, *xs: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """f(*xs) and its pullback: a function from a cotangent of y to the cotangents of the xs."""
    leaves = _leaves(xs, "vjp")
    y = _evaluate(f, leaves, "vjp")
    followed = _followed(xs, y, leaves)

    def pullback(cotangent: Tensor | Array) -> Any:
        follow = followed or (recording.on and isinstance(cotangent, Tensor) and cotangent.node is not None)
        gradients = _gradients(y, leaves, cotangent, follow, True, "vjp")
        return gradients[0] if len(xs) == 1 else gradients

    return _settle(y, followed), pullback


def jvp(f: Function, xs: Tensors | Sequence[Tensor], tangents: Tensors | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """f(*xs) and its derivative in the direction of the tangents (one Tensor, or a tuple as long as xs).

    The pullback g -> gᵀJ is linear in g; the pullback of that map takes the tangents t to J t.
    """
    inputs = _tuple(xs)
    leaves = _leaves(inputs, "jvp")
    tangents = _tangents("jvp", leaves, tangents)
    y = _evaluate(f, leaves, "jvp")
    followed = _followed((*inputs, *tangents), y, leaves)
    dummy = Tensor(xp.zeros(y.shape, y.dtype), leaf(y.shape, y.dtype))
    pulled = _gradients(y, leaves, dummy, True, True, "jvp")
    (tangent,) = _transposed(pulled, tangents, [dummy], followed)
    return _settle(y, followed), tangent


def hvp(f: Function, xs: Tensors | Sequence[Tensor], vs: Tensors | Sequence[Tensor]) -> Any:
    """The Hessian of a scalar function times a vector: one Tensor for one input, a tuple for several."""
    inputs = _tuple(xs)
    leaves = _leaves(inputs, "hvp")
    vs = _tangents("hvp", leaves, vs)
    y = _evaluate(f, leaves, "hvp")
    followed = _followed((*inputs, *vs), y, leaves)
    gradients = _gradients(y, leaves, None, True, True, "hvp")
    products = _transposed(gradients, vs, leaves, followed)
    return products if _several(xs) else products[0]


def _gradients(
    y: Tensor, leaves: Sequence[Tensor], cotangent: Any, create_graph: bool, retain_graph: bool, op: str
) -> tuple[Tensor, ...]:
    """The gradients of y by the leaves; zeros of a y that depends on nothing."""
    if y.node is None:
        y = Tensor(y.data, leaf(y.shape, y.dtype))
    return _pull({_node(y): _seed(y, cotangent, op)}, [_node(x) for x in leaves], create_graph, retain_graph)


def _transposed(
    pulled: Sequence[Tensor], vectors: Sequence[Any], to: Sequence[Tensor], create_graph: bool
) -> tuple[Tensor, ...]:
    """The adjoint, applied to vectors, of the linear map that `pulled` is of `to`."""
    seeds: dict[Node, Any] = {}
    for p, v in zip(pulled, vectors, strict=True):
        if p.node is not None:
            seeds[p.node] = seeds[p.node] + v if p.node in seeds else v
    return _pull(seeds, [_node(t) for t in to], create_graph, True)


def _tangents(op: str, xs: Sequence[Any], tangents: Any) -> tuple[Any, ...]:
    """One tangent for each input, in its shape and dtype."""
    tangents = _tuple(tangents)
    if len(xs) != len(tangents):
        raise ValueError(f"{op}: {len(xs)} inputs and {len(tangents)} tangents; each input needs one tangent")
    pairs = zip(xs, tangents, strict=True)
    return tuple(_like(t, x, f"{op}: tangent {number}", "its input") for number, (x, t) in enumerate(pairs))


def jacobian(f: Function, xs: Tensors | Sequence[Tensor]) -> Any:
    """All derivatives of f(*xs): for each x a Tensor of shape y.shape + x.shape (one Tensor for one x)."""
    inputs = [x if isinstance(x, Tensor) else Tensor(as_array(x, None, "jacobian")) for x in _tuple(xs)]
    y, pullback = vjp(f, *inputs)
    basis = xp.eye(y.size, dtype=y.dtype).reshape((y.size, *y.shape))
    rows = [_tuple(pullback(Tensor(basis[i]))) for i in range(y.size)]
    blocks = []
    for number, x in enumerate(inputs):
        shape = y.shape + x.shape
        column = [row[number] for row in rows]
        blocks.append(ops.reshape(ops.stack(column), shape) if column else Tensor(xp.zeros(shape, x.dtype)))
    return tuple(blocks) if _several(xs) else blocks[0]


def hessian(f: Function, xs: Tensors | Sequence[Tensor]) -> Any:
    """The second derivatives of a scalar function: of shape x.shape + x.shape for one x.

    For several a tuple of tuples: at [i][j] stand those with respect to the i-th and the j-th.
    """
    rows = [
        jacobian(lambda *zs, i=i: _value_and_gradients(f, zs, "hessian")[1][i], xs) for i in range(len(_tuple(xs)))
    ]
    return tuple(rows) if _several(xs) else rows[0]


def _tuple(xs: Any) -> tuple[Any, ...]:
    return tuple(xs) if _several(xs) else (xs,)


def _several(xs: Any) -> bool:
    """Whether there are several inputs, and as many results, rather than one Tensor, array or number."""
    return not isinstance(xs, Tensor) and not is_array(xs) and hasattr(xs, "__iter__")


def _leaves(xs: Sequence[Any], op: str) -> tuple[Tensor, ...]:
    """Copies of the inputs that the derivative is taken with respect to.

    An input on the tape is continued by an alias, so that an outer derivative still reaches it and
    an inner one is not confused with it; a constant becomes a leaf.
    """
    leaves = []
    for x in xs:
        x = x if isinstance(x, Tensor) else Tensor(as_array(x, None, op))
        if x.node is not None:
            with enable_grad():
                leaves.append(ops.alias(x))
        else:
            leaves.append(Tensor(x.data, differentiable(x.data, None, op)))
    return tuple(leaves)


def _evaluate(f: Function, leaves: Sequence[Tensor], op: str) -> Tensor:
    with enable_grad():
        y = f(*leaves)
    if not isinstance(y, Tensor):
        raise TypeError(f"{op}: the function must return one Tensor, not {type(y).__name__}")
    return y


def _followed(inputs: Sequence[Any], y: Tensor, leaves: Sequence[Tensor]) -> bool:
    """Whether a derivative outside this one may follow its results: they depend on more than the leaves."""
    if not recording.on:
        return False
    if any(isinstance(x, Tensor) and x.node is not None for x in inputs):
        return True
    own = {x.node for x in leaves}
    return y.node is not None and any(node.primitive is None and node not in own for node in history(y.node))


def _settle(result: Tensor, followed: bool) -> Tensor:
    """The result with its history where something outside may follow it, else a constant."""
    return result if followed else Tensor(result.data)


def label(t: Tensor, name: str) -> Tensor:
    """Names an intermediate and returns it: its cotangent is kept by `backward`.

    Read it as `t.grad`, or later and without the Tensor as `mg.cotangent(loss, name)`. Constants are
    returned as they are; a Parameter or Buffer is called so from here on. Inside `mg.trace()` the path of the layer
    that runs goes before: "bn1/var". TypeError for a name that is no string.
    """
    if not isinstance(name, str):
        raise TypeError(f"label: the name is a string, not {type(name).__name__} {name!r:.60}")
    if isinstance(t, Versioned):
        t.rename(name)
    elif isinstance(t, Tensor) and t.node is not None:
        t.node.label = f"{recording.scope[-1]}/{name}" if recording.scope else name
    return t


def cotangent(y: Tensor, name: str) -> Tensor:
    """After `y.backward()`: the cotangent of the intermediate (or leaf) that is labelled `name`.

    Raises KeyError where no node or more than one has that label, RuntimeError before a backward pass.
    """
    lines = history(on_tape(y, "cotangent"))
    nodes = [node for node in lines if node.label == name]
    if len(nodes) != 1:
        known = sorted({node.label for node in lines if node.label})
        what = f"{len(nodes)} nodes are" if nodes else "nothing is"
        raise KeyError(f"cotangent: {what} labelled {name!r} on this tape; the labels are {known}")
    if nodes[0].grad is None:
        raise RuntimeError(f"cotangent: {name!r} has no cotangent yet; call backward() first")
    return Tensor(nodes[0].grad)


setattr(Tensor, "backward", backward)  # noqa: B010  (the class declares it for type checkers alone)
__all__ = [
    "backward", "cotangent", "enable_grad", "grad", "hessian", "hvp", "jacobian", "jvp", "label", "no_grad",
    "value_and_grad", "vjp",
]  # fmt: skip
