"""Writes `cupy_names.json` from the CuPy that is installed: `python -m tests.standin` (needs no GPU)."""

import inspect
import json
from pathlib import Path

import cupy


def signature(function: object) -> list[str] | None:
    """The names of a function's parameters, or None where it does not tell."""
    try:
        return list(inspect.signature(function).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


public = {name: getattr(cupy, name) for name in sorted(dir(cupy)) if not name.startswith("_")}
public = {name: value for name, value in public.items() if not inspect.ismodule(value)}
ufuncs = [name for name, value in public.items() if isinstance(value, cupy.ufunc)]
types = [name for name, value in public.items() if isinstance(value, type)]
functions = {n: signature(v) for n, v in public.items() if callable(v) and n not in ufuncs and n not in types}
names = {
    "version": cupy.__version__,
    "ndarray": [name for name in dir(cupy.ndarray) if not name.startswith("_")],
    "ufunc": [name for name in dir(cupy.add) if not name.startswith("_")],
    "stride_tricks": ["as_strided", "sliding_window_view"],
    "linalg": [name for name in dir(cupy.linalg) if not name.startswith("_")],
    "functions": {name: parameters for name, parameters in functions.items() if parameters is not None},
    "ufuncs": ufuncs,
    "types": types,
    "constants": [name for name, value in public.items() if not callable(value)],
}
lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in names.items())
(Path(__file__).parent / "cupy_names.json").write_text("{\n" + lines + "\n}\n")
