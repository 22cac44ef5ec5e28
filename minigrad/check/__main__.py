"""The checker from the command line.

    python -m minigrad.check FILE.py:backward --forward FILE.py:forward --inputs inputs.npz

`inputs.npz` holds the forward's arguments, by its parameters' names or else in their order; arrays of
no axes are passed as numbers. Exit codes: 0 the gradient is right, 1 it is wrong (or the check proves
nothing), 2 the check could not be run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.forward import CannotRun, complaint, input_names
from minigrad.check.hand import check_hand_gradient

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
        except Exception as error:
            del sys.modules[module_name]
            raise CannotRun(complaint("importing", type("file", (), {"__name__": file}), error)) from error
    found = getattr(sys.modules[module_name], name, None)
    if not callable(found):
        raise CannotRun(f"{file}: there is no function {name!r} in it")
    return found


def inputs_of(file: str, forward: Callable[..., Any]) -> tuple[list[Any], Any]:
    """The forward's arguments, and the cotangent where the file holds one."""
    try:
        with host.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise CannotRun(f"{file}: cannot be read as an .npz of arrays ({error})") from error
    cotangent = arrays.pop("cotangent", None)
    names = input_names(forward, len(arrays))
    ordered = [arrays[name] for name in names] if set(names) == set(arrays) else list(arrays.values())
    return [a if a.ndim else a.item() for a in ordered], cotangent


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m minigrad.check", description="Checks a hand-derived backward pass."
    )
    parser.add_argument("backward", help="FILE.py:name of the backward function")
    parser.add_argument("--forward", required=True, help="FILE.py:name of the forward function")
    parser.add_argument("--inputs", required=True, help=".npz with the forward's arguments (and perhaps `cotangent`)")
    parser.add_argument("--outputs", type=int, default=1, help="how many leading outputs have cotangents (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the random cotangent (default 0)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--plot", metavar="FILE.png", help="save heat maps of the gradients")
    options = parser.parse_args(arguments)
    try:
        forward = function_at(options.forward)
        backward = function_at(options.backward)
        inputs, cotangent = inputs_of(options.inputs, forward)
        report = check_hand_gradient(
            forward, inputs, backward, cotangent, outputs=options.outputs, seed=options.seed
        )  # fmt: skip
        if options.plot:
            report.plot(options.plot)
    except (CannotRun, ImportError) as error:
        print(f"could not run: {error}", file=sys.stderr)
        return COULD_NOT_RUN
    print(report.to_json(indent=2) if options.json else report)
    return RIGHT if report.ok else WRONG


if __name__ == "__main__":
    sys.exit(main())
