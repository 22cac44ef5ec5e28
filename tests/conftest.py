"""The options of a test run: on which backend, and whether the long versions of tests run too.

`pytest --backend standin` runs the suite on the stand-in for CuPy, `pytest --backend cupy` on a GPU.
A test that speaks of NumPy's arrays, or of what only a host does, says so: `@pytest.mark.host(reason)`,
or its file does in `HOST` below.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import tests.standin  # noqa: F401  (adds the backend "standin")
from minigrad import backend

HOST: dict[str, str] = {}
"""Files whose tests are of the host alone, each with the reason."""

unavailable = ""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", default="numpy", choices=tuple(backend.backends), help="the array library to test on")
    parser.addoption("--slow", action="store_true", help="run the long versions of tests too")


def pytest_configure(config: pytest.Config) -> None:
    global unavailable
    config.addinivalue_line("markers", "host(reason): of the host alone; skipped on other backends")
    try:
        backend.use(config.getoption("--backend"))
    except (ImportError, RuntimeError) as error:
        unavailable = str(error)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    name = config.getoption("--backend")
    for item in items:
        host = item.get_closest_marker("host")
        reason = host.args[0] if host else HOST.get(Path(item.path).name)
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="long; run with --slow"))
        elif unavailable:
            item.add_marker(pytest.mark.skip(reason=unavailable))
        elif name != "numpy" and reason:
            item.add_marker(pytest.mark.skip(reason=f"of the host alone: {reason}"))
