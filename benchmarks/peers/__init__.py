"""The contestants, one file each; the name of the file is the name on the command line.

A file has `VERSION`, `threads(n)`, which is called first, and a function for each workload that it takes part in.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

PEERS = {
    "minigrad": "minigrad", "fused": "minigrad", "pytorch": "torch", "jax": "jax", "autograd": "autograd",
    "mygrad": "mygrad",
}  # fmt: skip
"""The contestants' files and the packages that they need."""


def installed(wanted: Iterable[str]) -> list[str]:
    """Those whose packages are here; of each other a line is printed. SystemExit where none is left."""
    names = []
    for name in wanted:
        if importlib.util.find_spec(PEERS[name]) is None:
            print(f"skipped: {name} ({PEERS[name]} is not installed)")
        else:
            names.append(name)
    if not names:
        raise SystemExit("nobody is left to be measured")
    return names
