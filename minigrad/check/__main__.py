"""The checker from the command line.

    python -m minigrad.check FILE.py:backward --forward FILE.py:forward --inputs inputs.npz

`inputs.npz` holds the forward's arguments by its parameters' names (those left out keep their defaults),
or else in their order, where none has such a name; arrays of no axes are passed as numbers. `cotangent` is the
upstream gradient, if it is to be given. Exit codes: 0 the gradient is right, 1 it is wrong (or the check proves
nothing), 2 the check could not be run.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.hand import check_hand_gradient
from minigrad.check.run import CannotRun, name_of
from minigrad.check.watching import complaint

RIGHT, WRONG, COULD_NOT_RUN = 0, 1, 2


def function_at(place: str) -> Callable[..., Any]:
    """The function that FILE.py:name names."""
    file, colon, name = place.rpartition(":")
    if not colon or not file:
        raise CannotRun(f"{place!r}: a function is given as FILE.py:name")
    if not os.path.isfile(file):
        raise CannotRun(f"{file}: no such file")
    module_name = f"checked_{os.path.splitext(os.path.basename(file))[0]}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, file)
        if spec is None or spec.loader is None:
            raise CannotRun(f"{file}: not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, os.path.dirname(os.path.abspath(file)))
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[module_name]
            raise CannotRun(complaint("importing", type("file", (), {"__name__": file}), error)) from error
    found = getattr(sys.modules[module_name], name, None)
    if not callable(found):
        raise CannotRun(f"{file}: there is no function {name!r} in it")
    return found


def inputs_of(file: str, forward: Callable[..., Any]) -> tuple[list[Any], Any]:
    """The forward's arguments, and the cotangent where the file holds one."""
    try:
        with open(file, "rb") as stream, zipfile.ZipFile(stream):  # an .npy is none
            stream.seek(0)
            with host.load(stream, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and NumPy have many words for a broken file
        raise CannotRun(f"{file}: cannot be read as an .npz of arrays ({error})") from error
    if strange := [name for name, array in arrays.items() if not isinstance(array, host.ndarray)]:
        raise CannotRun(f"{file}: {', '.join(strange)} is no array; np.savez makes such a file")
    cotangent = arrays.pop("cotangent", None)
    if not arrays:
        raise CannotRun(f"{file}: there are no arrays in it")
    return in_order({name: a if a.ndim else a.item() for name, a in arrays.items()}, forward, file), cotangent


def in_order(arguments: dict[str, Any], forward: Callable[..., Any], file: str) -> list[Any]:
    """Arguments by name as the forward's positional ones; those without any of its names are in their order already."""
    try:
        signature = inspect.signature(forward)
    except (TypeError, ValueError):
        return list(arguments.values())
    positional = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    known = [p.name for p in positional if p.name in arguments]
    if not known:
        return list(arguments.values())
    wanted = f"{name_of(forward).removesuffix('()')}{signature}"
    if unknown := [name for name in arguments if name not in known]:
        raise CannotRun(
            f"{file}: {', '.join(unknown)} is no argument of {wanted}: save under its names, and the upstream gradient "
            f"as `cotangent`"
        )
    used = positional[: 1 + max(i for i, p in enumerate(positional) if p.name in arguments)]
    if missing := [p.name for p in positional if p.name not in arguments and p.default is p.empty]:
        raise CannotRun(f"{file}: there is no {', '.join(missing)} in it, an argument of {wanted}")
    return [arguments.get(p.name, p.default) for p in used]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m minigrad.check", description="Checks a hand-derived backward pass."
    )
    parser.add_argument("backward", help="FILE.py:name of the backward function")
    parser.add_argument("--forward", required=True, help="FILE.py:name of the forward function")
    parser.add_argument("--inputs", required=True, help=".npz with the forward's arguments (and perhaps `cotangent`)")
    parser.add_argument(
        "--outputs", type=int, help="how many leading outputs have cotangents (default: as backward asks)"
    )
    parser.add_argument("--wrt", metavar="W,b", help="the inputs whose gradients are meant (default: all floating)")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds of the search for causes (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the random cotangent (default 0)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--plot", metavar="FILE.png", help="save heat maps of the gradients")
    options = parser.parse_args(arguments)
    try:
        forward = function_at(options.forward)
        backward = function_at(options.backward)
        inputs, cotangent = inputs_of(options.inputs, forward)
        report = check_hand_gradient(
            forward, inputs, backward, cotangent, outputs=options.outputs, seed=options.seed, budget=options.budget,
            wrt=options.wrt and options.wrt.split(","),
        )  # fmt: skip
    except (CannotRun, ImportError) as error:
        return _could_not("run", error)
    except Exception as error:
        return _could_not("run", f"{type(error).__name__}: {error}")
    print(report.to_json(indent=2) if options.json else report, flush=True)
    if options.plot and report.maps:
        try:
            report.plot(options.plot)
        except (ImportError, OSError, ValueError) as error:
            return _could_not("plot", error)
    return RIGHT if report.ok else WRONG


def _could_not(what: str, why: object) -> int:
    print(f"could not {what}: {why}", file=sys.stderr)
    return COULD_NOT_RUN


if __name__ == "__main__":
    sys.exit(main())
