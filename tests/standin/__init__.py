"""A device without a GPU: NumPy underneath, but its arrays refuse what CuPy's refuse.

The backend "standin" proves on any machine that the framework never leaves the device unasked. Its
arrays do not become NumPy arrays by themselves, do not mix with NumPy arrays or NumPy scalars, and
0-d results stay arrays; its namespace has the names, and takes the parameters, that CuPy really has
(`cupy_names.json`, written from an installed CuPy by `python tests/standin/__main__.py`). Where CuPy
computes something else than NumPy, so does the stand-in: an index out of range wraps around, a strided
view owns its memory, `add.at` knows few dtypes. Where CuPy is lenient to its cost (it uploads an array
of NumPy's that stands in an index, and calls itself for `numpy.exp(x)`) the stand-in refuses.

Every time that the host must wait for a value is counted, in `transfers`.

The backend "emulated" is the same with CUDA: `RawModule` runs kernels (`emulator`), and streams are captured as
graphs (`Graph`), in which every call is recorded, refused where CuPy refuses it, and made again at a launch.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import backend
from tests.standin import emulator

NAMES = json.loads((Path(__file__).parent / "cupy_names.json").read_text())

NUMBERS = (bool, int, float, complex)

OF_ARRAYS = frozenset(("a", "x", "m", "array", "ar", "arr", "b", "a1", "a2", "x1", "x2", "dst", "prototype"))
"""What a function calls its parameters that are arrays and cannot be lists or numbers."""

OF_INTEGERS = frozenset((
    "N", "M", "k", "axes", "axis", "axis1", "axis2", "decimals", "destination", "indices_or_sections", "kth", "ndmin",
    "newshape", "num", "offset", "pad_width", "repeats", "reps", "shape", "shift", "source",
))  # fmt: skip
"""What a function calls its parameters that are sizes or axes: an array of the device is no integer."""

LENIENT = frozenset(("asanyarray", "ascontiguousarray", "asfortranarray", "shape", "ndim", "size", "isscalar"))
"""Functions of which a parameter in `OF_ARRAYS` may be something else."""

WAIT = frozenset(("nonzero", "argwhere", "flatnonzero", "unique", "bincount", "compress", "extract"))
"""Functions whose result has a shape that depends on values: CuPy waits for them."""

TRUTHS = frozenset(("array_equal", "array_equiv", "allclose"))
"""Functions that return a truth value in NumPy and a 0-d array in CuPy."""

ATOMIC = frozenset(map(np.dtype, ("int32", "uint32", "uint64", "float16", "float32", "float64")))
"""The dtypes that `scatter_add`, and with it `add.at`, can add up."""

EXTREME = ATOMIC - {np.dtype("float16")} | {np.dtype("int64")}
"""The dtypes of which `maximum.at` and `minimum.at` can take the extreme."""

FILLED = {"full": (1, "fill_value"), "full_like": (1, "fill_value"), "ndarray.fill": (0, "value")}
"""Functions that take a number or an array to fill with, with the place and the name of that parameter."""


COPIES = frozenset(("dump", "dumps", "tobytes", "tofile"))
"""Methods that bring an array to the host."""

Flags = collections.namedtuple("Flags", ("c_contiguous", "f_contiguous", "fnc", "forc", "owndata"))
"""What CuPy's arrays say of their memory, and nothing else: it cannot be locked."""


class transfers:
    """How often a value was brought to the host, and by what."""

    count = 0
    log: list[str] = []  # noqa: RUF012

    @classmethod
    def note(cls, what: str) -> None:
        if Graph.capturing is not None:
            raise RuntimeError(
                f"{what}: cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
            )
        frame: Any = sys._getframe(1)
        while frame.f_code.co_filename == __file__:
            frame = frame.f_back
        cls.count += 1
        cls.log.append(f"{what} in {frame.f_code.co_name}, {Path(frame.f_code.co_filename).name}:{frame.f_lineno}")

    @classmethod
    def reset(cls) -> None:
        cls.count = 0
        cls.log = []


class Graph:
    """The calls that were made on a stream while it was captured; `launch` makes them again, on the same memory.

    As on a device nothing is computed by capturing: when it ends, what was there before has its old values, and what
    was made since holds NaN. What Python computed meanwhile, though, is fixed in the calls.
    """

    capturing: Graph | None = None
    alive: weakref.WeakValueDictionary[int, DeviceArray] = weakref.WeakValueDictionary()  # noqa: RUF012

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[[], Any], list[np.ndarray]]] = []
        self.made: list[np.ndarray] = []  # the graph's memory: what a call points to is not given to others
        self.before = [(a._host, a._host.copy()) for a in self.alive.values()]

    def end(self) -> None:
        """Undoes what the capture computed."""
        for array in self.made:
            if array.flags.writeable and array.dtype.kind == "f":
                array[...] = np.nan
        for array, values in self.before:
            if array.flags.writeable:
                array[...] = values
        self.before = []

    def launch(self, stream: Any = None) -> None:
        assert Graph.capturing is None
        for call, results in self.calls:
            made = _arrays(call())
            for old, new in zip(results, made, strict=True):
                if old is not new and not np.may_share_memory(old, new):
                    old[...] = new


def _arrays(value: Any) -> list[np.ndarray]:
    """The arrays in what a function of NumPy's returned."""
    if isinstance(value, (tuple, list)):
        return [array for part in value for array in _arrays(part)]
    return [np.asarray(value)] if isinstance(value, (np.ndarray, np.generic)) else []


def _compute(call: Callable[[], Any], repeated: bool = True) -> Any:
    """What `call` returns, with arrays in the place of NumPy's scalars; where a graph is captured it gets the call."""
    result = call()
    if isinstance(result, np.generic):
        result = np.asarray(result)
    if Graph.capturing is not None:
        Graph.capturing.made += _arrays(result)
        if repeated:
            Graph.capturing.calls.append((call, _arrays(result)))
    return result


CUBLAS = frozenset(("matmul", "dot", "vdot", "inner", "outer", "tensordot", "einsum", "kron"))
"""Functions that are, or may be, calls of cuBLAS."""


def _refuse_cublas(name: str) -> None:
    if Graph.capturing is not None and name.strip("_") in CUBLAS:
        raise NotImplementedError(f"{name}: calling cuBLAS API during stream capture is currently unsupported")


def _refuse(value: Any, where: str) -> None:
    if isinstance(value, np.ndarray):
        raise TypeError(f"{where}: Unsupported type <class 'numpy.ndarray'>: a NumPy array meets a device array")
    if isinstance(value, np.generic):
        raise TypeError(f"{where}: a NumPy scalar ({value!r}) is strong and would widen; pass a Python number")


def _host(value: Any, where: str) -> Any:
    """What NumPy is to compute with, after refusing what CuPy would."""
    if isinstance(value, DeviceArray):
        return value._host
    _refuse(value, where)
    if isinstance(value, tuple):
        return tuple(_host(v, where) for v in value)
    if isinstance(value, list):
        return [_host(v, where) for v in value]
    if isinstance(value, dict):
        return {k: _host(v, where) for k, v in value.items()}
    return value


def _device(value: Any, sources: tuple[Any, ...] = ()) -> Any:
    """A result on the device; a view keeps the array that owns its memory alive, as in CuPy."""
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise ValueError(f"Unsupported dtype {array.dtype}")
        base = None
        for source in sources:
            if isinstance(source, DeviceArray):
                if source._host is value:
                    return source
                if np.may_share_memory(source._host, array) and array.size and array.base is not None:
                    base = source if source.base is None else source.base
        return DeviceArray(array, base)
    if isinstance(value, (tuple, list)):
        return type(value)(_device(v, sources) for v in value)
    return value


def _fits(name: str, parameters: list[str] | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises where a call has more or other arguments than CuPy's function takes."""
    if parameters is None:
        return
    if "kwargs" not in parameters:
        for keyword in kwargs:
            if keyword not in parameters:
                raise TypeError(f"cupy.{name}() got an unexpected keyword argument {keyword!r}")
    open_ended = any(p.startswith("*") or p in ("args", "operands") or p.endswith("dtypes") for p in parameters)
    if len(args) > len(parameters) and not open_ended:
        raise TypeError(f"cupy.{name}() takes {len(parameters)} positional arguments but {len(args)} were given")


def _integers(name: str, parameters: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises where an array of the device stands for a size or an axis."""
    given = {**dict(zip(parameters, args)), **kwargs}
    sizes = [value for key, value in given.items() if key in OF_INTEGERS or (name == "arange" and key != "dtype")]
    if parameters and parameters[0] in ("*shape", "*axes"):  # x.reshape(2, 3), x.transpose(1, 0)
        sizes += args
    for value in sizes:
        parts = value if isinstance(value, (tuple, list)) else (value,)
        if any(isinstance(part, DeviceArray) for part in parts):
            raise TypeError(f"cupy.{name}: 'cupy.ndarray' object cannot be interpreted as an integer")


def _kind(value: Any) -> str:
    """The kind of an array's dtype; nothing for what is no array."""
    return str(value.dtype.kind) if isinstance(value, DeviceArray) else ""


def _values(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises where values are of a kind that CuPy has no kernel for."""
    if name in FILLED:
        place, keyword = FILLED[name]
        value = args[place] if place < len(args) else kwargs.get(keyword)
        if not isinstance(value, (DeviceArray, *NUMBERS)):
            _refuse(value, name)
            raise TypeError(f"cupy.{name}: Unsupported type {type(value)}")
    if name in ("clip", "ndarray.clip"):
        x, *bounds = (*args, *kwargs.values())
        for bound in bounds:
            if not (isinstance(bound, (DeviceArray, *NUMBERS)) or (bound is None and x.dtype.kind in "iuf")):
                _refuse(bound, name)
                raise TypeError(f"cupy.clip: Unsupported type {type(bound)}")
        if any(isinstance(v, complex) or _kind(v) == "c" for v in (x, *bounds)):
            raise TypeError("Wrong type of arguments for cupy_clip")


class DeviceArray:
    """An array that behaves as `cupy.ndarray` does towards everything outside the device."""

    __slots__ = ("__weakref__", "_host", "base")
    __array_priority__ = 100

    def __init__(self, host: np.ndarray, base: DeviceArray | None = None) -> None:
        self._host = host
        self.base = base
        Graph.alive[id(self)] = self

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc: Any, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"numpy.{ufunc.__name__} was called on a device array")

    def __array_function__(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was called on a device array")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in NAMES["ndarray"]:
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        value = getattr(self._host, name)
        if name == "flags":
            return Flags(*(getattr(value, flag) for flag in Flags._fields))
        if not callable(value):
            return _device(value, (self,))
        parameters = NAMES["methods"].get(name)

        def method(*args: Any, **kwargs: Any) -> Any:
            _fits(f"ndarray.{name}", parameters, args, kwargs)
            _integers(name, parameters or [], args, kwargs)
            _values(f"ndarray.{name}", (self, *args) if name == "clip" else args, kwargs)
            if name in WAIT or name in COPIES:
                transfers.note(name)
            if name in ("sort", "argsort"):
                _stable(name, args[1] if len(args) > 1 else kwargs.get("kind"))
            if name == "take":
                kwargs["mode"] = "wrap"
            _refuse_cublas(name)
            on_host = _host(args, name), _host(kwargs, name)
            result = _compute(lambda: value(*on_host[0], **on_host[1]))
            return kwargs["out"] if isinstance(kwargs.get("out"), DeviceArray) else _device(result, (self,))

        return method

    @property
    def shape(self) -> tuple[int, ...]:
        return self._host.shape

    @property
    def dtype(self) -> Any:
        return self._host.dtype

    @property
    def data(self) -> Any:
        """Where the array lies: CuPy's `MemoryPointer`."""
        return types.SimpleNamespace(ptr=self._host.ctypes.data)

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        transfers.note("get")
        return self._host.copy(order)

    def item(self) -> Any:
        transfers.note("item")
        return self._host.item()

    def tolist(self) -> Any:
        transfers.note("tolist")
        return self._host.tolist()

    def __bool__(self) -> bool:
        transfers.note("bool")
        return bool(self._host)

    def __float__(self) -> float:
        transfers.note("float")
        return float(self._host)

    def __int__(self) -> int:
        transfers.note("int")
        return int(self._host)

    def __complex__(self) -> complex:
        transfers.note("complex")
        return complex(self._host)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[DeviceArray]:
        if not self._host.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> DeviceArray:
        return _device(_compute(lambda: self._host[self._index(index)]), (self,))

    def __setitem__(self, index: Any, value: Any) -> None:
        if not isinstance(value, (DeviceArray, *NUMBERS)):
            _refuse(value, "setitem")
            raise TypeError(f"setitem: Unsupported type {type(value)}")
        given = _host(value, "setitem")
        _compute(lambda: self._host.__setitem__(self._index(index), given))

    def _index(self, index: Any) -> Any:
        """The index for NumPy: integers in arrays wrap around, and a mask makes the host wait for its count."""
        parts = index if isinstance(index, tuple) else (index,)
        for part in parts:
            _refuse(part, "index")
            if not (part is None or part is Ellipsis or isinstance(part, (int, slice, DeviceArray))):
                raise IndexError(f"a {type(part).__name__} in an index would be uploaded at every call")
        taken = [_axes(part) for part in parts]
        wrapped, axis = [], 0
        for part, count in zip(parts, taken, strict=True):
            if part is Ellipsis:
                axis += self._host.ndim - sum(taken)
            if isinstance(part, DeviceArray):
                if part.dtype.kind == "b":
                    transfers.note("index by a mask")
                    part = part._host
                elif part.dtype.kind in "iu" and axis < self._host.ndim:
                    part = np.asarray(part._host % (self._host.shape[axis] or 1))
                else:
                    part = part._host
            wrapped.append(part)
            axis += count
        return tuple(wrapped) if isinstance(index, tuple) else wrapped[0]

    def __repr__(self) -> str:
        transfers.note("repr")
        return repr(self._host)

    def __format__(self, form: str) -> str:
        transfers.note("format")
        return format(self._host.item() if not self._host.ndim else self._host, form)

    def __copy__(self) -> DeviceArray:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> DeviceArray:
        return self.copy()

    def __reduce__(self) -> Any:
        return _asarray, (self.get(),)

    __hash__ = None  # type: ignore[assignment]


def _axes(part: Any) -> int:
    """How many axes a part of an index takes up."""
    if part is None or part is Ellipsis:
        return 0
    return part._host.ndim if isinstance(part, DeviceArray) and part.dtype.kind == "b" else 1


def _stable(name: str, kind: Any) -> None:
    if kind not in (None, "stable"):
        raise ValueError(f"cupy.{name}: kind can only be None or 'stable', not {kind!r}")


def _operator(name: str) -> Any:
    def operate(self: DeviceArray, *others: Any) -> Any:
        for other in others:
            _refuse(other, name)
            if not isinstance(other, (DeviceArray, *NUMBERS, type(None))):
                if name in ("__eq__", "__ne__"):  # Python would compare identities
                    raise TypeError(f"operand type(s) all returned NotImplemented: {type(other)}")
                return NotImplemented
        _refuse_cublas(name.strip("_").removeprefix("r").removeprefix("i"))
        given = _host(others, name)
        result = _compute(lambda: getattr(self._host, name)(*given))
        return result if result is NotImplemented else _device(result, (self,))

    return operate


for _name in (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift",
    "lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert",
):  # fmt: skip
    for _form in (f"__{_name}__", f"__r{_name}__", f"__i{_name}__"):
        if _form in NAMES["operators"]:
            setattr(DeviceArray, _form, _operator(_form))


def _function(name: str, function: Callable[..., Any], parameters: list[str] | None) -> Any:
    strict = [i for i, p in enumerate(parameters or []) if p in OF_ARRAYS and name not in LENIENT]

    def call(*args: Any, **kwargs: Any) -> Any:
        _fits(name, parameters, args, kwargs)
        for i in strict:
            value = args[i] if i < len(args) else kwargs.get(parameters[i])  # type: ignore[index]
            if not isinstance(value, (DeviceArray, type(None))) and not (i and isinstance(value, NUMBERS)):
                _refuse(value, name)
                raise TypeError(f"cupy.{name}: Unsupported type {type(value)}")
        _integers(name, parameters or [], args, kwargs)
        _values(name, args, kwargs)
        if parameters and parameters[0] == "tup" and not all(isinstance(part, DeviceArray) for part in args[0]):
            raise TypeError(f"cupy.{name}: Only cupy arrays can be concatenated")
        if name in WAIT or (name == "where" and len(args) == 1):
            transfers.note(name)
        if name in ("sort", "argsort"):
            _stable(name, args[2] if len(args) > 2 else kwargs.get("kind"))
        out = kwargs.get("out")
        if not isinstance(out, (DeviceArray, type(None))):
            raise TypeError(f"cupy.{name}: Output arguments must be cupy.ndarray, not {type(out)}")
        _refuse_cublas(name)
        on_host = _host(args, name), _host(kwargs, name)
        wrapped = np.asarray if name in TRUTHS else lambda value: value
        result = _compute(lambda: wrapped(function(*on_host[0], **on_host[1])), not name.startswith("empty"))
        if out is not None:
            return out
        return _device(result, tuple(a for arg in args for a in (arg if isinstance(arg, (tuple, list)) else (arg,))))

    call.__name__ = name
    return call


class _Ufunc:
    """A ufunc with the parameters and the methods that CuPy's have."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.function = getattr(np, name)
        self._call = _function(name, self.function, None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for keyword in kwargs:
            if keyword not in ("out", "dtype", "casting"):
                raise TypeError(f"cupy.{self.name}: Wrong arguments {{{keyword!r}}}")
        for value in args:
            if not isinstance(value, (DeviceArray, *NUMBERS)):
                _refuse(value, self.name)
                raise TypeError(f"cupy.{self.name}: Unsupported type {type(value)}")
            if self.name.startswith("logical_") and (isinstance(value, complex) or _kind(value) == "c"):
                raise TypeError(f"Wrong type of arguments for cupy_{self.name}")
        if len(args) > self.function.nin:  # the last ones are outputs
            on_host = _host(args, self.name), _host(kwargs, self.name)
            _compute(lambda: self.function(*on_host[0], **on_host[1]))
            return args[self.function.nin]
        return self._call(*args, **kwargs)

    def at(self, array: DeviceArray, index: Any, values: Any = None) -> None:
        if self.name not in ("add", "maximum", "minimum"):
            raise NotImplementedError(f"`{self.name}.at` is not supported yet")
        parts = index if isinstance(index, tuple) else (index,)
        arrays = [part for part in parts if isinstance(part, DeviceArray)]
        known = ATOMIC if self.name == "add" else EXTREME
        if any(part.dtype.kind in "iu" for part in arrays) and array.dtype not in known:
            raise TypeError(f"{self.name}.at only supports {', '.join(sorted(map(str, known)))}, not {array.dtype}")
        values = _host(values, "at")
        if isinstance(values, np.ndarray):
            values = values.astype(array.dtype, copy=False)
        _compute(lambda: self.function.at(array._host, array._index(index), values))


def _where(condition: Any, x: Any = None, y: Any = None) -> Any:
    if not isinstance(condition, DeviceArray):
        raise AttributeError(f"{type(condition).__name__!r} object has no attribute 'astype'")
    if x is None:
        return condition.nonzero()
    for value in (x, y):
        if not isinstance(value, (DeviceArray, *NUMBERS)):
            _refuse(value, "where")
            raise TypeError(f"cupy.where: Unsupported type {type(value)}")
    return _function("where", np.where, None)(condition.astype(bool), x, y)


def _matmul(a: Any, b: Any, out: Any = None) -> DeviceArray:
    if not isinstance(a, DeviceArray) or not isinstance(b, DeviceArray):
        _refuse(a, "matmul")
        _refuse(b, "matmul")
        raise TypeError("matmul: operands must be arrays of the device")
    return _function("matmul", np.matmul, None)(a, b, **({} if out is None else {"out": out}))


def _einsum(equation: str, *operands: Any, dtype: Any = None, optimize: Any = False) -> DeviceArray:
    """CuPy takes `dtype` and `optimize` alone, and arrays of the device alone."""
    _function("einsum", lambda *xs: None, ["args"])(*operands)
    _refuse_cublas("einsum")
    given = _host(operands, "einsum")
    return _device(_compute(lambda: np.einsum(equation, *given, dtype=dtype, optimize=optimize)), operands)


def _as_strided(x: DeviceArray, shape: Any = None, strides: Any = None) -> DeviceArray:
    """CuPy makes a new array on the old memory: its `base` is None, though it owns nothing."""
    return DeviceArray(np.lib.stride_tricks.as_strided(x._host, shape, strides))


def _take_along_axis(a: DeviceArray, indices: DeviceArray, axis: int) -> DeviceArray:
    if indices.dtype.kind not in "iu":
        raise IndexError("`indices` must be an integer array")
    n = a.shape[axis] or 1
    values, index = _host(a, "take"), _host(indices, "take")
    return DeviceArray(_compute(lambda: np.take_along_axis(values, index % n, axis)))


def _asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> DeviceArray:
    """The one door from the host: NumPy arrays and numbers come in, by explicit request."""
    if isinstance(a, DeviceArray):
        same = dtype is None or a.dtype == dtype
        return (a.copy() if copy else a) if same else a.astype(dtype)
    if isinstance(a, (list, tuple)) and any(isinstance(v, DeviceArray) for v in a):
        raise TypeError("asarray: a list of device arrays; use stack")
    if Graph.capturing is not None:
        raise RuntimeError("asarray: a copy from the host's memory would not be made again by a graph")
    array = np.array(a, dtype=dtype, order=order)
    if array.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {array.dtype}")
    return DeviceArray(array)


def _array(obj: Any, dtype: Any = None, copy: bool = True, order: str = "K") -> DeviceArray:
    array = _asarray(obj, dtype)
    return array.copy() if copy and array is obj else array


def _anything(make: Callable[..., np.ndarray], *args: Any, **kwargs: Any) -> np.ndarray:
    """An array as `empty` makes it, of values that show: zeros by chance would hide what is never written."""
    array = make(*args, **kwargs)
    array.fill(np.nan if array.dtype.kind in "fc" else 77)
    return array


def namespace() -> types.SimpleNamespace:
    """What `cupy` offers, as far as NumPy can compute it."""
    space = types.SimpleNamespace()
    for name, parameters in NAMES["functions"].items():
        if hasattr(np, name):
            setattr(space, name, _function(name, getattr(np, name), parameters))
    for name in ("empty", "empty_like"):
        setattr(space, name, _function(name, functools.partial(_anything, getattr(np, name)), NAMES["functions"][name]))
    for name in NAMES["ufuncs"]:
        if isinstance(getattr(np, name, None), np.ufunc):
            setattr(space, name, _Ufunc(name))
    for name in NAMES["types"] + NAMES["constants"]:
        if hasattr(np, name):
            setattr(space, name, getattr(np, name))
    space.ndarray = DeviceArray
    space.asarray, space.array = _asarray, _array
    space.where, space.matmul, space.einsum, space.take_along_axis = _where, _matmul, _einsum, _take_along_axis
    space.array2string = lambda value, **options: np.array2string(
        value if isinstance(value, np.ndarray) else _get(value), **options
    )
    space.take = lambda a, indices, axis=None, out=None: a.take(indices, axis, **({} if out is None else {"out": out}))
    solvers = {name: _function(name, getattr(np.linalg, name), None) for name in ("det", "inv", "solve")}
    slogdet = _function("slogdet", lambda a: tuple(np.linalg.slogdet(a)), None)
    space.linalg = types.SimpleNamespace(slogdet=slogdet, **solvers)
    space.lib = types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=_as_strided))
    return space


def _get(array: Any) -> np.ndarray:
    if not isinstance(array, DeviceArray):
        raise TypeError(f"to_numpy: a {type(array).__name__} is not a device array")
    return array.get()


class RawModule:
    """CUDA C++ that is compiled when it is first asked for a function."""

    def __init__(self, code: str, *, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        self.code = code

    def get_function(self, name: str) -> emulator.Function:
        if Graph.capturing is not None:
            raise RuntimeError(f"{name}: a kernel is loaded during stream capture, which may wait for the device")
        return emulator.Function(self.code, name, _compute)


class Cuda:
    """What `cupy.cuda` offers to a captured step. Streams do not run beside each other here."""

    class Stream:
        def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None: ...
        def __enter__(self) -> Cuda.Stream:
            return self

        def __exit__(self, *error: object) -> None: ...
        def record(self, event: Any = None) -> str:
            return "event"

        def wait_event(self, event: str) -> None:
            assert event == "event"

        def synchronize(self) -> None:
            transfers.note("synchronize")

        def begin_capture(self, mode: Any = None) -> None:
            assert Graph.capturing is None
            Graph.capturing = Graph()

        def end_capture(self) -> Graph:
            graph, Graph.capturing = Graph.capturing, None
            assert graph is not None
            graph.end()
            return graph

    class MemoryPool:
        def malloc(self, size: int) -> Any: ...

    @staticmethod
    def get_current_stream() -> Cuda.Stream:
        return Cuda.Stream()

    @staticmethod
    @contextlib.contextmanager
    def using_allocator(allocator: Any = None) -> Iterator[None]:
        yield


def _emulated() -> backend.Backend:
    if emulator.COMPILER is None:
        raise RuntimeError("there is no g++ here to compile kernels with")
    return backend.Backend("emulated", with_cuda(), _get, _asarray)


@functools.cache
def with_cuda() -> types.SimpleNamespace:
    """The namespace with kernels and graphs."""
    space = namespace()
    space.RawModule, space.cuda = RawModule, Cuda
    return space


backend.backends["emulated"] = _emulated
backend.backends["standin"] = lambda: backend.Backend("standin", namespace(), _get, _asarray)
