"""A device without a GPU: NumPy underneath, but its arrays refuse what CuPy's refuse.

The backend "standin" proves on any machine that the framework never leaves the device unasked. Its
arrays do not become NumPy arrays by themselves, do not mix with NumPy arrays or NumPy scalars, and
0-d results stay arrays; its namespace has the names, and takes the keywords, that CuPy really has
(`cupy_names.json`, written from an installed CuPy by `python -m tests.standin`). Every crossing to the
host is counted: `transfers.count`.
"""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import backend

NAMES = json.loads((Path(__file__).parent / "cupy_names.json").read_text())


class transfers:
    """How often an array was brought to the host, and by what."""

    count = 0
    log: list[str] = []  # noqa: RUF012

    @classmethod
    def note(cls, what: str) -> None:
        cls.count += 1
        cls.log.append(what)

    @classmethod
    def reset(cls) -> None:
        cls.count = 0
        cls.log = []


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
        if any(isinstance(v, DeviceArray) for v in value):
            return [_host(v, where) for v in value]
        return value
    if isinstance(value, dict):
        return {k: _host(v, where) for k, v in value.items()}
    return value


def _device(value: Any, sources: tuple[Any, ...] = ()) -> Any:
    """A result on the device; a view keeps the array that owns its memory alive, as in CuPy."""
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise TypeError(f"Unsupported dtype {array.dtype}")
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


class DeviceArray:
    """An array that behaves as `cupy.ndarray` does towards everything outside the device."""

    __slots__ = ("__weakref__", "_host", "base")
    __array_priority__ = 100

    def __init__(self, host: np.ndarray, base: DeviceArray | None = None) -> None:
        self._host = host
        self.base = base

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
        if not callable(value):
            return _device(value, (self,))

        def method(*args: Any, **kwargs: Any) -> Any:
            return _device(value(*_host(args, name), **_host(kwargs, name)), (self,))

        return method

    @property
    def shape(self) -> tuple[int, ...]:
        return self._host.shape

    @property
    def dtype(self) -> Any:
        return self._host.dtype

    def get(self) -> np.ndarray:
        transfers.note("get")
        return self._host.copy()

    def item(self, *args: Any) -> Any:
        transfers.note("item")
        return self._host.item(*args)

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

    def __index__(self) -> int:
        raise TypeError("only integer scalar arrays on the host can be converted to an index")

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> DeviceArray:
        return _device(self._host[self._checked(index)], (self,))

    def __setitem__(self, index: Any, value: Any) -> None:
        self._host[self._checked(index)] = _host(value, "setitem")

    def _checked(self, index: Any) -> Any:
        if any(isinstance(part, list) for part in (index if isinstance(index, tuple) else (index,))):
            raise IndexError("lists are not indices of device arrays")
        return _host(index, "index")

    def __repr__(self) -> str:
        transfers.note("repr")
        return f"device({self._host!r})"

    __hash__ = None  # type: ignore[assignment]


def _operator(name: str) -> Any:
    def operate(self: DeviceArray, *others: Any) -> Any:
        for other in others:
            _refuse(other, name)
            if not isinstance(other, (DeviceArray, bool, int, float, complex, type(None))):
                return NotImplemented
        result = getattr(self._host, name)(*_host(others, name))
        return result if result is NotImplemented else _device(result, (self,))

    return operate


for _name in (
    "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift lt le gt ge eq ne neg pos abs invert"
).split():
    setattr(DeviceArray, f"__{_name}__", _operator(f"__{_name}__"))
    if _name not in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert"):
        setattr(DeviceArray, f"__r{_name}__", _operator(f"__r{_name}__"))
        setattr(DeviceArray, f"__i{_name}__", _operator(f"__i{_name}__"))


def _function(name: str, function: Any, allowed: list[str] | None) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        if allowed is not None and "kwargs" not in allowed:
            if unknown := [k for k in kwargs if k not in allowed]:
                raise TypeError(f"cupy.{name}() got an unexpected keyword argument {unknown[0]!r}")
            if "args" not in allowed and "operands" not in allowed and len(args) > len(allowed):
                raise TypeError(f"cupy.{name}() takes {len(allowed)} positional arguments but {len(args)} were given")
        out = kwargs.get("out")
        result = function(*_host(args, name), **_host(kwargs, name))
        if isinstance(out, DeviceArray):
            return out
        flat = [a for arg in args for a in (arg if isinstance(arg, (tuple, list)) else (arg,))]
        return _device(result, tuple(flat))

    call.__name__ = name
    return call


class _Ufunc:
    """A ufunc with the methods that CuPy's have."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._call = _function(name, getattr(np, name), None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if unknown := [k for k in kwargs if k not in ("out", "dtype", "casting")]:
            raise TypeError(f"cupy.{self.name}: Wrong arguments {{{unknown[0]!r}}}")
        return self._call(*args, **kwargs)

    def at(self, array: DeviceArray, index: Any, values: Any) -> None:
        if array.dtype.kind == "i" and array.dtype.itemsize < 4:
            raise TypeError(f"cupy.{self.name}.at does not support {array.dtype}")
        getattr(np, self.name).at(array._host, _host(index, "at"), _host(values, "at"))


def namespace() -> types.SimpleNamespace:
    """What `cupy` offers, as far as NumPy can compute it."""
    space = types.SimpleNamespace()
    for name, allowed in NAMES["functions"].items():
        if hasattr(np, name):
            setattr(space, name, _function(name, getattr(np, name), allowed))
    for name in NAMES["ufuncs"]:
        if isinstance(getattr(np, name, None), np.ufunc):
            setattr(space, name, _Ufunc(name))
    for name in NAMES["types"] + NAMES["constants"]:
        if hasattr(np, name):
            setattr(space, name, getattr(np, name))
    space.ndarray = DeviceArray
    space.asarray = _asarray
    space.array = lambda value, dtype=None, copy=True: _asarray(value, dtype).copy()
    space.array2string = lambda value, **options: np.array2string(value.get(), **options)
    tricks = types.SimpleNamespace(
        **{n: _function(n, getattr(np.lib.stride_tricks, n), None) for n in NAMES["stride_tricks"]}
    )
    space.lib = types.SimpleNamespace(stride_tricks=tricks)
    return space


def _asarray(value: Any, dtype: Any = None, **options: Any) -> DeviceArray:
    """The one door from the host: NumPy arrays and numbers come in, by explicit request."""
    if isinstance(value, DeviceArray):
        return value if dtype is None or value.dtype == dtype else value.astype(dtype)
    if isinstance(value, (list, tuple)) and any(isinstance(v, DeviceArray) for v in value):
        raise TypeError("asarray: a list of device arrays; use stack")
    return DeviceArray(np.array(value, dtype=dtype))


def _get(array: Any) -> np.ndarray:
    if not isinstance(array, DeviceArray):
        raise TypeError(f"to_numpy: a {type(array).__name__} is not a device array")
    return array.get()


backend.backends["standin"] = lambda: backend.Backend("standin", namespace(), _get, _asarray)
