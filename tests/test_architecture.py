"""The import law and the other promises of the layout, read off the source."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import minigrad as mg

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minigrad"
FILES = sorted(PACKAGE.rglob("*.py"))
OPTIONAL = {"matplotlib", "tqdm", "pooch", "sklearn", "torch", "cupy"}
"""What may be imported where it is used, since minigrad works without."""


@dataclass(frozen=True)
class Import:
    """One imported module: its full name, and whether a function or a block for type checkers holds it."""

    module: str
    in_function: bool
    for_types: bool


def module_of(path: Path) -> str:
    """`minigrad/nn/layers.py` is "minigrad.nn.layers"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file. `from minigrad import ops` is an import of "minigrad.ops"."""

    def walk(node: ast.AST, in_function: bool, for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, in_function, for_types) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: a relative import"
                whole = child.module or ""
                for alias in child.names:
                    full = f"{whole}.{alias.name}"
                    yield Import(full if full in MODULES else whole, in_function, for_types)
            else:
                inside = in_function or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                types = for_types or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
                yield from walk(child, inside, types)

    yield from walk(ast.parse(path.read_text()), False, False)


def imported(path: Path) -> set[str]:
    """The modules that a file imports when it runs."""
    return {i.module for i in imports(path) if not i.for_types}


def belongs(module: str, *families: str) -> bool:
    """Whether a module is one of the given ones or stands below one of them."""
    return any(module == family or module.startswith(family + ".") for family in families)


each_file = pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])


@each_file
def test_only_backend_and_the_reading_of_files_import_an_array_library(path: Path) -> None:
    if belongs(module_of(path), "minigrad.backend", "minigrad.data"):
        return
    assert not {m for m in imported(path) if belongs(m, "numpy", "cupy")}


@each_file
def test_nothing_imports_what_stands_on_top(path: Path) -> None:
    assert not {m for m in imported(path) if belongs(m, "models", "examples", "tests", "benchmarks")}
    if module_of(path) != "minigrad.study":
        assert not {m for m in imported(path) if belongs(m, "minigrad.study")}


@each_file
def test_an_import_inside_a_function_is_of_something_optional(path: Path) -> None:
    assert not {i.module for i in imports(path) if i.in_function and i.module.split(".")[0] not in OPTIONAL}


@each_file
def test_no_file_has_a_name_that_says_nothing(path: Path) -> None:
    assert not {"utils", "helpers", "common", "base", "core", "misc"} & set(module_of(path).split("."))


@each_file
def test_a_module_opens_with_a_paragraph(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("name", ["tape", "tensor", "primitive"])
def test_what_the_table_is_made_of_does_not_know_the_table(name: str) -> None:
    assert not {m for m in imported(PACKAGE / f"{name}.py") if belongs(m, "minigrad.ops", "minigrad.autodiff")}


def test_the_table_does_not_know_the_reverse_pass() -> None:
    for name in ("ops", "kernels", "sums", "convolution", "pooling"):
        assert not {m for m in imported(PACKAGE / f"{name}.py") if belongs(m, "minigrad.autodiff", "minigrad.nn")}


def test_the_optimizers_know_neither_ops_nor_autodiff_nor_layers() -> None:
    wrong = ("minigrad.ops", "minigrad.autodiff", "minigrad.nn", "minigrad.functional")
    files = list((PACKAGE / "optim").glob("*.py"))
    assert files and not {m for path in files for m in imported(path) if belongs(m, *wrong)}


def test_layers_are_made_of_ops_and_not_of_the_array_library() -> None:
    for path in [PACKAGE / "functional.py", *(PACKAGE / "nn").glob("*.py")]:
        names = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module == "minigrad.backend"
            for alias in node.names
        }
        assert "xp" not in names, path


def test_no_pullback_mentions_the_array_library() -> None:
    """In a row the forward function comes first; every other function is a pullback, and those are made of ops."""
    kinds = {"elementwise", "linear", "bilinear", "primitive"}
    pullbacks = 0
    for node in ast.walk(ast.parse((PACKAGE / "ops.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
            for rule in node.args[1:]:
                names = {n.id for n in ast.walk(rule) if isinstance(n, ast.Name)}
                assert not names & {"xp", "kernels", "convolution", "pooling"}, ast.unparse(rule)
                pullbacks += isinstance(rule, ast.Lambda)
    assert pullbacks > 60


def test_what_is_no_python_is_installed_with_the_package() -> None:
    """Kernels, the page's template, py.typed: in the checkout all is there, also what a wheel would lack."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folders = {name: ROOT.joinpath(*name.split(".")) for name in settings}
    shipped = {path for name, globs in settings.items() for glob in globs for path in folders[name].glob(glob)}
    assert shipped == {path for path in PACKAGE.rglob("*.*") if path.is_file() and path.suffix not in (".py", ".pyc")}


def run(code: str) -> str:
    """The output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_minigrad_imports_nothing_optional() -> None:
    loaded = run("import minigrad, sys; print(*sorted({m.split('.')[0] for m in sys.modules}))").split()
    assert not OPTIONAL & set(loaded)
    assert "minigrad" in loaded


def test_everything_works_without_the_fused_kernels() -> None:
    """A module that is not there: minigrad imports, records and differentiates."""
    run(
        "import sys; sys.modules['minigrad.fused'] = None\n"
        "import numpy as np, minigrad as mg, tests.standin\n"
        "x = mg.tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)\n"
        "mg.nn.BatchNorm1d(2)(mg.softmax(x)).sum().backward()\n"
        "assert x.grad is not None\n"
        "from examples.mnist import command, training\n"
        "arguments = {**command.SHAPING, 'model': 'mlp', 'epochs': 1, 'lr': 0.1, 'batch_size': 4, 'fuse': False}\n"
        "images, labels = np.arange(6272).reshape(8, 1, 28, 28).astype(np.uint8), np.arange(8)\n"
        "eight = mg.data.Dataset('eight', *(images, labels) * 2, tuple('01234567'), 'here')\n"
        "run = training.make_run(arguments, eight)\n"
        "assert training.Stepper(run)(*next(iter(run.batches)))[0].item() > 0\n"
        "with mg.using('standin'):\n"
        "    assert command.settle(command.parse([]))['fuse'] is False\n"
    )


def test_everything_works_without_the_devices_kernels() -> None:
    """On the stand-in with CUDA, a package that is not there: ordinary ops take the kernels' place."""
    run(
        "import sys; sys.modules['minigrad.device'] = None\n"
        "import minigrad as mg, tests.standin\n"
        "mg.backend.backends['emulated'] = lambda: mg.backend.Backend(\n"
        "    'emulated', tests.standin.with_cuda(), tests.standin._get, tests.standin._asarray)\n"
        "mg.use('emulated')\n"
        "model = mg.fused.fuse(mg.nn.Sequential(mg.nn.Conv2d(1, 2, 3), mg.nn.BatchNorm2d(2), mg.nn.ReLU()))\n"
        "optimizer = mg.optim.Adam(model.parameters())\n"
        "scores = model(mg.random.normal(4, 1, 5, 5)).mean((2, 3))\n"
        "mg.functional.cross_entropy(scores, mg.zeros(4, dtype=int)).backward()\n"
        "optimizer.step()\n"
    )


def test_every_public_name_exists_once_and_is_documented() -> None:
    run(
        "import minigrad as mg\n"
        "missing = [n for n in mg.__all__ if not hasattr(mg, n)]\n"
        "assert not missing, missing\n"
        "bare = [n for n in mg.__all__ if callable(getattr(mg, n)) and not isinstance(getattr(mg, n), type)\n"
        "        and not getattr(mg, n).__doc__ and not hasattr(getattr(mg, n), 'primitive')]\n"
        "assert not bare, bare\n"
    )


def undocumented(name: str, thing: Any) -> Iterator[str]:
    """The names of a thing and, of a class of ours, of its public members, as far as they say nothing."""
    if not inspect.getdoc(thing):
        yield name
    if isinstance(thing, type) and thing.__module__.startswith("minigrad"):
        for member, value in vars(thing).items():
            shown = not member.startswith("_") and (callable(value) or isinstance(value, property))
            if shown and not inspect.getdoc(getattr(thing, member)):
                yield f"{name}.{member}"


@pytest.mark.parametrize("module", [mg, mg.nn, mg.functional, mg.optim, mg.init, mg.random, mg.data])
def test_every_public_name_says_what_it_is(module: Any) -> None:
    names = getattr(module, "__all__", None) or [name for name in dir(module) if not name.startswith("_")]
    things = {name: getattr(module, name) for name in names}
    assert not [told for name, thing in things.items() if callable(thing) for told in undocumented(name, thing)]
