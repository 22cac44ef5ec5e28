"""Tensor, Parameter, Buffer: an array, and where it depends on something differentiable, a Node.

A *Parameter* is born with a leaf node: something to learn. A *Buffer* never has a node: something to
remember. The two are told apart by class, everywhere. The operators and methods of a Tensor are
attached by `ops`, next to the table that they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from minigrad import pytorch_names, tape
from minigrad.backend import Array, current, from_numpy, is_array, is_scalar, on_host, to_numpy, xp
from minigrad.tape import Node, recording, writes
from minigrad.uses import arrangement


class Tensor:
    """An n-dimensional array that autodiff can follow. Made by `mg.tensor`, by ops, and by layers.

    data: the raw array of the current backend.  node: its line on the tape, or None for a constant.
    """

    __slots__ = ("__weakref__", "data", "node")

    data: Any
    node: Node | None

    def __init__(self, data: Array, node: Node | None = None) -> None:
        if data.__class__ is not xp.ndarray and not is_array(data):
            if not is_scalar(data):
                raise TypeError(f"Tensor: data is a raw array, not {type(data).__name__} {data!r:.60}; use mg.tensor")
            data = xp.asarray(data)
        self.data = data
        self.node = node

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return self.data.shape

    @property
    def dtype(self) -> Any:
        """The kind of its numbers, such as `mg.float32`."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return self.data.size

    if TYPE_CHECKING:
        # The operators and methods that `ops` attaches, and `backward`, in outline for type checkers.
        def _of(self) -> Tensor: ...
        def _with(self, other: Any, /) -> Tensor: ...
        def _along(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def _by(self, *args: Any, **given: Any) -> Tensor: ...

        __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _with
        __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __matmul__ = __rmatmul__ = _with
        __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __getitem__ = maximum = minimum = _with
        __lt__ = __le__ = __gt__ = __ge__ = matmul = outer = _with
        __neg__ = __pos__ = __abs__ = __invert__ = _of
        __round__ = _by
        abs = alias = ceil = floor = isfinite = isinf = isnan = logical_not = reciprocal = sign = sqrt = square = _of
        exp = exp2 = expm1 = log = log10 = log1p = log2 = erf = erfc = sigmoid = silu = softplus = relu = _of
        sin = cos = tan = arcsin = arccos = arctan = sinh = cosh = tanh = arcsinh = arccosh = arctanh = _of
        all = any = amax = amin = argmax = argmin = logsumexp = max = mean = min = prod = sum = _along
        argsort = astype = broadcast_to = clip = cumsum = diagonal = elu = expand_dims = flatten = flip = fold = _by
        gelu = leaky_relu = norm = pad = permute = power = repeat = reshape = roll = round = scatter_add = sort = _by
        squeeze = std = sum_to = swapaxes = take_along_axis = tensordot = tile = trace = transpose = tril = triu = _by
        var = windows = _by

        @property
        def T(self) -> Tensor: ...
        @property
        def mT(self) -> Tensor: ...
        def __eq__(self, other: Any, /) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: Any, /) -> Tensor: ...  # type: ignore[override]
        def __hash__(self) -> int: ...
        def split(self, sections: Any, axis: int = 0) -> tuple[Tensor, ...]: ...
        def backward(self, cotangent: Any = None, retain_graph: bool = False) -> None: ...

    def __dir__(self) -> list[str]:
        """What there is: without the names that only say what PyTorch's are called here."""
        return [name for name in super().__dir__() if name not in pytorch_names.TENSOR]

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """A Tensor of its own, with a copy of the values and, on a leaf, of the gradient."""
        make, arguments = self.__reduce__()
        return make(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickle and copy keep: class, values, name, gradient. A history cannot be copied in part."""
        if not self.is_leaf:
            raise RuntimeError(
                f"copy: this Tensor is a result, {self.node!r}; with it its history would be copied. Copy t.detach()"
            )
        grad = None if self.node is None or self.node.grad is None else to_numpy(self.node.grad)
        return _rebuild, (type(self), to_numpy(self.data), self.requires_grad, self.label, grad)

    def __len__(self) -> int:
        if not self.data.ndim:
            raise TypeError("len: a 0-d Tensor has no length")
        return self.data.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        """The Tensors along the first axis."""
        return (self[i] for i in range(len(self)))

    @property
    def requires_grad(self) -> bool:
        """Whether the tape leads through this Tensor. Settable on Tensors without a history."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self.node is not None and self.node.primitive is not None:
            raise RuntimeError(
                f"requires_grad: this Tensor is the result of {self.node.primitive.name!r} and cannot become a "
                "leaf; use t.detach() for a copy without a history"
            )
        if value and self.node is None:
            self.node = differentiable(self.data, self.label)
        elif not value:
            self.node = None

    @property
    def is_leaf(self) -> bool:
        """Whether this Tensor was created rather than computed."""
        return self.node is None or self.node.primitive is None

    @property
    def label(self) -> str | None:
        """The name given by `mg.label` or by a model, if any."""
        return None if self.node is None else self.node.label

    @property
    def grad(self) -> Tensor | None:
        """The cotangent of this leaf (or labelled intermediate) after `backward`, summed over passes."""
        if self.node is None or self.node.grad is None:
            return None
        if recording.uses is not None:
            recording.uses.gradient(self.node)
        return Tensor(self.node.grad)

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if recording.uses is not None and self.node is not None:
            recording.uses.gradient(self.node, used=False)
        if value is None:
            if self.node is not None:
                self.node.grad = None
            return
        node = on_tape(self, "grad")
        array = value.data if isinstance(value, Tensor) else value
        if not is_array(array):
            raise TypeError(f"grad: a gradient is a Tensor or an array, not {type(value).__name__} {value!r:.60}")
        if array.shape != self.shape or array.dtype != self.dtype:
            raise ValueError(
                f"grad: a gradient of {self.dtype} {list(self.shape)} is needed, not {array.dtype} {list(array.shape)}"
            )
        if type(array) is not type(self.data):
            raise TypeError(
                f"grad: the gradient is an array of {type(array).__module__}, and this Tensor's of "
                f"{type(self.data).__module__}; move it with mg.tensor(t.numpy())"
            )
        node.grad = array

    def detach(self) -> Tensor:
        """The same array without its history: a constant to autodiff."""
        if self.node is not None:
            tape.detached.note(self.data)
        return Tensor(self.data)

    def numpy(self) -> Any:
        """The values as a NumPy array on the host (no copy where they are there already)."""
        return to_numpy(self.data)

    def item(self) -> Any:
        """The one value of a Tensor of size 1, as a Python number."""
        if self.size != 1:
            raise ValueError(f"item: needs a Tensor with one value, not {self.size} (shape {list(self.shape)})")
        return to_numpy(self.data).item()

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers."""
        return to_numpy(self.data).tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                f"bool: the truth of a Tensor of shape {list(self.shape)} is ambiguous; use (...).all() or .any()"
            )
        return bool(to_numpy(self.data).item())

    def __format__(self, form: str) -> str:
        """One number as Python's would be written: `f"{loss:.4f}"`."""
        if form and self.size != 1:
            raise TypeError(f"format: {form!r} is for one number, not for a Tensor of shape {list(self.shape)}")
        return format(self.item(), form) if form else str(self)

    def __index__(self) -> int:
        if self.data.dtype.kind not in "iu":
            raise TypeError(f"index: a {self.dtype} Tensor is not an integer")
        return int(self.item())

    def __repr__(self) -> str:
        kind = type(self).__name__.lower()
        values = xp.array2string(to_numpy(self.data), separator=", ", prefix=f"{kind}(", threshold=200)
        if self.node is None:
            on_tape = ""
        elif self.node.primitive is None:
            on_tape = ", requires_grad=True"
        else:
            on_tape = f", on_tape={self.node.primitive.name}"
        label = f", label={self.label!r}" if self.label else ""
        return f"{kind}({values}, dtype={self.dtype}, shape={list(self.shape)}{on_tape}{label})"

    def __setitem__(self, index: object, value: Any) -> None:
        """Writes values into a constant Tensor in place; refused on the tape, where it would falsify gradients."""
        if self.node is not None:
            raise RuntimeError(
                f"setitem: assigning into a {self.dtype} {list(self.shape)} Tensor that is on the tape would "
                "falsify gradients; use mg.where or mg.scatter_add, or t.detach() first (p.update for a Parameter)"
            )
        if isinstance(value, Tensor):
            if value.node is not None:
                raise RuntimeError("setitem: the value is on the tape, and its history would be lost; detach it")
            value = value.data
        value = fitting(value, self.dtype, "setitem", type(self).__name__)
        while value.ndim and value.shape[0] == 1:  # nothing to broadcasting, but NumPy wants none for one element
            value = value[0]
        try:
            self.data[raw_index(index)] = value
        except (IndexError, ValueError) as error:
            raise type(error)(f"setitem: {error} (a {self.dtype} {list(self.shape)} Tensor)") from error
        writes.note(self.data, type(self).__name__, self.label)


set_attribute = object.__setattr__


class Versioned(Tensor):
    """What Parameters and Buffers share: values that training overwrites in place, and a count of it."""

    __slots__ = ("name", "version")
    name: str | None
    version: int

    if TYPE_CHECKING:
        # What `ops` attaches: `p -= step` overwrites, like `update`.
        def _overwritten(self, other: Any, /) -> Self: ...

        __iadd__ = __isub__ = __imul__ = __itruediv__ = __ifloordiv__ = __imod__ = __ipow__ = _overwritten
        __imatmul__ = __iand__ = __ior__ = __ixor__ = _overwritten

    @property
    def label(self) -> str | None:
        """The name that a model gave, such as "conv1.weight"."""
        return self.name

    def rename(self, name: str) -> None:
        """Gives the name that errors, optimizers and the tape will use."""
        self.name = name
        if self.node is not None:
            self.node.label = name

    def __setattr__(self, name: str, value: object) -> None:
        """Counts a new `data`: another array, or the same after an operator such as `p.data -= step` wrote into it.

        An array of another shape or dtype has a leaf of its own, and no gradient yet.
        """
        if name != "data" or not hasattr(self, "data"):
            if name == "node" and hasattr(self, "node") and (value is None) is not (self.node is None):
                arrangement.replaced(f"requires_grad of {self._called()} was switched")  # its node is another
            set_attribute(self, name, value)
        elif value is self.data:
            self.bump()
        elif isinstance(value, Tensor) or not is_array(value):
            raise TypeError(
                f"data: {self._called()} was given a {type(value).__name__} in the place of its array; p.update(value) "
                "overwrites the values, p.data = array takes another raw array, and neither a history"
            )
        else:
            node = self.node
            if node is not None and (node.shape != value.shape or node.dtype != value.dtype):
                node = differentiable(value, self.name)
            if recording.uses is not None:
                recording.uses.attributes.append((self, "data", self.data))
            set_attribute(self, name, value)
            set_attribute(self, "node", node)
            writes.expect(value)
            if node is not None:
                node.aside = value
            self.version += 1
            arrangement.replaced(f"{self._called()} was given another array")
            writes.replaced(type(self).__name__, self.name)

    @property
    def remembers(self) -> bool:
        """Whether an update counts: not where a function is only run again that did so before."""
        return recording.replaying is None or self in recording.replaying

    def _called(self) -> str:
        """The name, or where there is none, what this is."""
        name = getattr(self, "name", None)
        return f"a {type(self).__name__} of shape {list(self.shape)}" if name is None else repr(name)

    def __setitem__(self, index: object, value: object) -> None:
        self.unlock()
        super().__setitem__(index, value)
        self._count()

    def _count(self) -> None:
        self.version += 1
        if recording.uses is not None:
            recording.uses.written[id(self)] = self

    def unlock(self) -> Array:
        """The array, to be written to and then reported by `bump`: in debug mode it may have been locked."""
        if recording.reviewer is not None:
            recording.reviewer.writing(self.data)
        return self.data

    def bump(self) -> None:
        """Notes that the values were overwritten in place, by whom and where."""
        self._count()
        own = int(self.node is not None and getattr(self.node, "aside", None) is self.data)
        writes.note(self.data, type(self).__name__, self.name, own)

    def update(self, value: Tensor | Array) -> None:
        """Overwrites the values; shape and dtype stay.

        Raises ValueError where the shape differs, TypeError where the values do not fit into the dtype (such as
        floating ones for a count), RuntimeError where the value has a history.
        """
        if isinstance(value, Tensor):
            if value.node is not None:
                raise RuntimeError(
                    f"update: the new value of this {type(self).__name__} is on the tape; pass value.detach(), or "
                    "compute it under mg.no_grad()"
                )
            value = value.data
        if value.__class__ is not xp.ndarray or value.dtype != self.data.dtype:
            value = fitting(value, self.data.dtype, "update", f"{type(self).__name__} {self.label or ''}".rstrip())
        if value.shape != self.data.shape:
            raise ValueError(
                f"update: {self._called()} was given values of shape {list(value.shape)}, not {list(self.shape)}"
            )
        if not self.remembers:
            return
        self.unlock()[...] = value
        self.bump()


def overwriting(op: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`p -= step` for a Parameter or Buffer: another Tensor under the name p would leave the model as it was."""

    def in_place(a: Any, b: Any) -> Any:
        a.update(op(a, b))
        return a

    return in_place


class Parameter(Versioned):
    """Something to learn: a Tensor born with a leaf node. `data` is a floating array or Tensor, copied.

    RuntimeError for the result of ops on the tape: its history would be lost.
    """

    __slots__ = ()

    def __init__(self, data: Tensor | Array, requires_grad: bool = True) -> None:
        if isinstance(data, Tensor) and not data.is_leaf:
            raise RuntimeError(
                f"Parameter: the value given is a result, {data.node!r}, and a Parameter begins without a history; "
                "pass t.detach()"
            )
        array = as_array(data, None, "Parameter").copy()
        super().__init__(array, differentiable(array, None, "Parameter"))
        writes.expect(array)
        self.version = 0
        self.name = None
        if not requires_grad:
            self.node = None


class Buffer(Versioned):
    """Something to remember: a Tensor that never has a node. `data` is copied."""

    __slots__ = ()

    def __init__(self, data: Tensor | Array) -> None:
        if isinstance(data, Tensor) and data.node is not None:
            raise RuntimeError("Buffer: the value given is on the tape, and a Buffer has no history; pass t.detach()")
        super().__init__(as_array(data, None, "Buffer").copy(), None)
        writes.expect(self.data)
        self.version = 0
        self.name = None

    def __setattr__(self, name: str, value: object) -> None:
        if name == "node" and value is not None:
            raise RuntimeError("Buffer: a Buffer never has a node; to learn a value, make it a Parameter")
        super().__setattr__(name, value)


def _rebuild(kind: type[Any], values: Any, requires_grad: bool, name: str | None, grad: Any) -> Any:
    """The Tensor, Parameter or Buffer that `Tensor.__reduce__` took apart."""
    array = from_numpy(values).copy()
    made = Tensor(array) if kind is Tensor else kind(array)
    if isinstance(made, Versioned):
        made.name = name
    made.requires_grad = False
    if requires_grad:
        made.node = differentiable(array if kind is Tensor else made.data, name)
        made.node.grad = None if grad is None else from_numpy(grad).copy()
    return made


def differentiable(array: Array, label: str | None = None, op: str = "requires_grad") -> Node:
    """A leaf for `array`, which must be of a floating dtype."""
    if array.dtype.kind != "f":
        raise TypeError(f"{op}: only floating dtypes have gradients, not {array.dtype}; give dtype=mg.float32")
    node = tape.leaf(array.shape, array.dtype, label)
    node.aside = array
    return node


def as_array(data: Any, dtype: Any, op: str) -> Array:
    """`data` as an array of the current backend: Python floats become float32, arrays keep their dtype."""
    if isinstance(data, Tensor):
        data = data.data
    if isinstance(data, xp.ndarray):
        array = data
    elif is_array(data) or is_scalar(data):
        array = from_numpy(data) if data.dtype.kind in NUMERIC else data
    else:
        if isinstance(data, (list, tuple)) and any(isinstance(item, Tensor) for item in data):
            raise TypeError(f"{op}: a list of Tensors; join them with mg.stack")
        try:
            array = xp.asarray(data)
        except ValueError as error:
            if "nsupported dtype" in str(error):  # CuPy has no arrays of objects or text
                raise TypeError(f"{op}: cannot make numbers of {type(data).__name__} data ({error})") from error
            raise ValueError(f"{op}: {error}") from error
        if dtype is None and array.dtype == xp.float64 and not holds_arrays(data):
            array = array.astype(xp.float32)
    if array.dtype.kind not in NUMERIC:
        raise TypeError(f"{op}: cannot make numbers of {type(data).__name__} data (dtype {array.dtype})")
    if dtype is None:
        return array
    if xp.dtype(dtype).kind in "iu" and not is_array(data):  # a cast would wrap numbers that do not fit, and NaN
        try:
            return xp.asarray(data, dtype)
        except (OverflowError, ValueError) as error:
            raise type(error)(f"{op}: {error}; the dtype asked for is {xp.dtype(dtype)}") from error
    return array.astype(dtype, copy=False)


def as_tensor(value: Any, op: str) -> Tensor:
    """What a layer or loss was given, as a Tensor: arrays, lists and numbers become one; TypeError for others."""
    if isinstance(value, Tensor):
        return value
    return Tensor(value if is_array(value) else as_array(value, None, op))


def fitting(value: Any, dtype: Any, op: str, where: str = "Tensor") -> Array:
    """`value` as an array that one of `dtype`, that of `where`, takes in.

    Numbers and lists of them take the dtype themselves, as 0-d arrays do; arrays keep theirs. Floats take integers,
    and both take their own kind in another width whose values fit: floats are rounded, as NumPy and PyTorch do.
    (Values are looked at on the host alone; on a device integers are not narrowed.) Raises TypeError, naming the op,
    where numbers of another kind would be cut off or do not fit, and OverflowError for an integer out of range.
    """
    dtype = xp.dtype(dtype)
    if is_scalar(value):
        value = value.item()
    if dtype.kind in "iu" and isinstance(value, float) and value.is_integer():
        value = int(value)
    if dtype.kind == "b" and isinstance(value, int) and value in (0, 1):
        value = bool(value)
    array = as_array(value, None, op)
    kind = array.dtype.kind
    weak = not is_array(value) or (not value.ndim and kind == "f")
    if weak:
        fits = KINDS[kind] <= KINDS[dtype.kind]
    else:
        fits = xp.can_cast(array.dtype, dtype) or (kind in "biu" and dtype.kind in "fc") or narrows(array, dtype)
    if not fits:
        raise TypeError(f"{op}: {array.dtype} values do not fit into a {dtype} {where}; use .astype first")
    return as_array(value, dtype, op) if weak else array


def narrows(array: Array, dtype: Any) -> bool:
    """Whether values fit into a narrower dtype of their kind: integers exactly, floats without becoming infinite."""
    if array.dtype.kind == dtype.kind == "f":
        return not on_host() or not bool(((xp.abs(array) > xp.finfo(dtype).max) & xp.isfinite(array)).any())
    if array.dtype.kind in "iu" and dtype.kind in "iu" and on_host():
        ends = xp.iinfo(dtype)
        return not array.size or (ends.min <= int(array.min()) and int(array.max()) <= ends.max)
    return False


def plain(value: Any, op: str) -> Any:
    """Python's number for a library's scalar, a 0-d array or a 0-d Tensor that is a constant; others as they are."""
    if isinstance(value, Tensor) and value.node is not None:
        raise TypeError(f"{op}: a parameter of the op is on the tape, and would get no gradient; detach it")
    return value.item() if getattr(value, "ndim", None) == 0 else value


KINDS = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}
"""The kinds of numbers, each of which holds those before it."""

NUMERIC = "".join(KINDS)


def holds_arrays(data: Any) -> bool:
    """Whether nested lists hold arrays, whose dtype was somebody's choice, rather than plain numbers."""
    return is_array(data) or (isinstance(data, (list, tuple)) and any(holds_arrays(item) for item in data[:1]))


def on_tape(y: Any, op: str) -> Node:
    """The line of the tape that `y` is, or the error of the op that needs it to be one."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{op}: needs a Tensor, not {type(y).__name__}")
    if y.node is None:
        if isinstance(y, Buffer):
            why = "a Buffer is remembered, not learnt, and has no gradient"
        else:
            why = (
                "neither it nor anything that it was computed from has requires_grad=True, or it was computed under "
                "no_grad() or detached"
            )
        raise RuntimeError(f"{op}: this {y.dtype} {list(y.shape)} {type(y).__name__} is not on the tape: {why}")
    return y.node


def raw_index(index: Any) -> Any:
    """An index with the array in place of every Tensor and list in it."""
    if isinstance(index, tuple):
        return tuple(raw_index(part) for part in index)
    if isinstance(index, Tensor):
        if not isinstance(index.data, xp.ndarray):  # CuPy would bring it over at every call, and tell nobody
            raise TypeError(
                f"an index of another array library: {type(index.data).__module__}.{index.dtype} {list(index.shape)}; "
                f"the backend in use is {current()!r}; move it with mg.tensor(t.numpy())"
            )
        return index.data
    if isinstance(index, list):
        return xp.asarray([raw_index(part) for part in index], None if index else int)
    if is_scalar(index):
        index = index.item()
    if isinstance(index, (float, complex, str, bytes)):  # CuPy would make integers of them
        raise IndexError(
            f"an index is {type(index).__name__} {index!r}; indices are integers, slices, `...`, None, "
            "and arrays of integers or truth values"
        )
    return from_numpy(index) if is_array(index) and not isinstance(index, xp.ndarray) else index


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A Tensor with a copy of `data`: numbers, nested lists, an array of either library, or a Tensor.

    dtype: the data's own by default; Python floats become float32, integers int64, truth values bool.
    requires_grad: whether gradients with respect to it will be asked for (floating dtypes only).
    Raises TypeError for data that are not numbers or cannot have gradients, ValueError for ragged lists.
    """
    array = as_array(data, dtype, "tensor")
    return created(array.astype(array.dtype.type, order="C"), requires_grad)  # a copy, in this machine's order of bytes


def created(array: Array, requires_grad: bool) -> Tensor:
    """A Tensor without a history: a leaf where gradients will be asked for, else a constant."""
    return Tensor(array, differentiable(array) if requires_grad else None)
