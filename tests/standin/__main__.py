"""Writes `cupy_names.json` from the CuPy that is installed: `python tests/standin/__main__.py` (needs no GPU)."""

import inspect
import json
import re
from pathlib import Path

import cupy


def signature(function: object) -> list[str] | None:
    """The names of a function's parameters, or None where it does not tell."""
    try:
        return list(inspect.signature(function).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def method(name: str) -> list[str] | None:
    """The parameters of a compiled method, which its docstring opens with: `_ndarray_base.max(self, axis=None)`."""
    text = (getattr(cupy.ndarray, name).__doc__ or "").split("\n")[0]
    opening = re.match(rf"_ndarray_base\.{name}\((.*?)\)(?: ->.*)?$", text)
    if opening is None:
        return None
    parts = [part.split("=")[0].split()[-1] for part in opening[1].split(",") if part.strip()]
    return [part for part in parts if part != "self"]


public = {name: getattr(cupy, name) for name in sorted(dir(cupy)) if not name.startswith("_")}
public = {name: value for name, value in public.items() if not inspect.ismodule(value)}
ufuncs = [name for name, value in public.items() if isinstance(value, cupy.ufunc)]
types = [name for name, value in public.items() if isinstance(value, type)]
functions = {n: signature(v) for n, v in public.items() if callable(v) and n not in ufuncs and n not in types}
methods = {name: method(name) for name in dir(cupy.ndarray) if not name.startswith("_")}
names = {
    "version": cupy.__version__,
    "ndarray": [name for name in dir(cupy.ndarray) if not name.startswith("_")],
    "methods": {name: parameters for name, parameters in methods.items() if parameters is not None},
    "operators": [name for name in dir(cupy.ndarray) if name.startswith("__")],
    "ufunc": [name for name in dir(cupy.add) if not name.startswith("_")],
    "linalg": [name for name in dir(cupy.linalg) if not name.startswith("_")],
    "functions": {name: parameters for name, parameters in functions.items() if parameters is not None},
    "ufuncs": ufuncs,
    "types": types,
    "constants": [name for name, value in public.items() if not callable(value)],
}
lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in names.items())
(Path(__file__).parent / "cupy_names.json").write_text("{\n" + lines + "\n}\n")
