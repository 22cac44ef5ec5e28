"""Tests of the tests: `python -m tests.mutate autodiff --sample 150` plants small mistakes and counts who notices.

A *mutant* is a module of minigrad with one expression or statement changed: a sign, a comparison, a
constant, a condition, a line left out. It is *killed* when a test fails (or a run takes ten times as
long), and *survives* when none does; then either a test is missing, or the change is none (an
*equivalent* mutant). Survivors are printed, to be looked at one by one. Texts of errors, annotations and
docstrings are left alone. Each mutant runs in a process of its own, forked after the imports that take long.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
TESTS = {
    "autodiff": "debug autodiff programs checkpoint fused paths kernels table device backends",
    "capturing": "backends device",
    "check": "check gallery batchnorm_claims",
    "data": "data device",
    "debug": "debug",
    "device": "device",
    "files": "files checkpoint",
    "numpy_protocol": "numpy_protocol recorded",
    "ops": "engine tensor numpy_protocol programs numbers table",
    "optim": "optim device",
    "recompute": "debug trace view",
    "runs": "checkpoint",
    "tape": "debug autodiff",
    "tensor": "tensor engine nn debug",
    "uses": "device",
}
"""The test files that a module answers to, the quickest first."""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
UNTOUCHED = ("annotation", "returns", "exc", "decorator_list", "type_params")


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of a node."""
    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPS:
        yield changed(node, op=SWAPS[type(node.op)]())
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield changed(node, ops=[SWAPS[type(node.ops[0])]()])
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield changed(node, body=node.orelse, orelse=node.body)
    elif isinstance(node, (ast.If, ast.While)):
        yield changed(node, test=ast.Constant(False))
        if isinstance(node, ast.If):
            yield changed(node, test=ast.Constant(True))
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, (int, float)):
            yield ast.Constant(node.value + 1)
    elif isinstance(node, (ast.Expr, ast.AugAssign)):
        yield ast.Pass()
    elif isinstance(node, ast.Continue):
        yield ast.Break()


def changed(node: Any, **fields: Any) -> Any:
    """A copy of a node with other fields."""
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


Place = tuple[tuple[str, int | None], ...]


def places(node: ast.AST, place: Place = ()) -> Iterator[tuple[Place, int, ast.AST, ast.AST]]:
    """Every mutant of a tree: where, which, the node there and what comes in its place."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    for number, other in enumerate(changes(node)):
        yield place, number, node, other
    for name, value in ast.iter_fields(node):
        if name in UNTOUCHED or (isinstance(node, ast.Call) and "error" in ast.unparse(node.func).lower()):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                yield from places(child, (*place, (name, index)))


def planted(tree: ast.Module, place: Place, number: int) -> ast.Module:
    """The tree with one node changed."""
    tree = copy.deepcopy(tree)
    parent: Any = tree
    for name, index in place[:-1]:
        parent = getattr(parent, name) if index is None else getattr(parent, name)[index]
    name, index = place[-1]
    old = getattr(parent, name) if index is None else getattr(parent, name)[index]
    new = ast.copy_location(list(changes(old))[number], old)
    if index is None:
        setattr(parent, name, new)
    else:
        getattr(parent, name)[index] = new
    return ast.fix_missing_locations(tree)


class Planted(importlib.abc.MetaPathFinder):
    """Imports one module from a changed tree, and leaves all others alone."""

    def __init__(self, module: str, path: Path, tree: ast.Module) -> None:
        self.module, self.path, self.tree = module, path, tree

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> Any:
        if fullname != self.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        code = compile(self.tree, str(self.path), "exec")
        assert spec is not None

        class Loader(importlib.machinery.SourceFileLoader):
            def get_code(self, name: str) -> CodeType:
                return code

        spec.loader = Loader(fullname, str(self.path))
        return spec


def tested(module: str, path: Path, tree: ast.Module, files: list[str], seconds: int) -> bool:
    """Whether the tests pass with the module made of this tree."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        sys.meta_path.insert(0, Planted(module, path, tree))
        import pytest

        code = int(pytest.main(["-x", "-q", "-o", "addopts=", "-p", "no:cacheprovider", *files]))
    finally:
        os._exit(code)


def sources(module: str) -> Iterator[tuple[str, Path]]:
    """The files of a module or package, with their names for import."""
    path = ROOT / "minigrad" / module
    for file in sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__main__":
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def main() -> int:
    """Prints the survivors, and how many of how many mutants were killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", choices=TESTS)
    parser.add_argument("--sample", type=int, help="so many mutants, drawn at random (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--line", type=int, action="append", help="only mutants of this line (repeatable)")
    options = parser.parse_args()

    files = [str(ROOT / "tests" / f"test_{name}.py") for name in TESTS[options.module].split()]
    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = str(ROOT)
    for library in (
        "numpy",
        "pytest",
        "hypothesis",
        "safetensors.numpy",
        "mpmath",
        "torch",
        "_pytest.assertion.rewrite",
    ):
        if importlib.util.find_spec(library.split(".")[0]):
            importlib.import_module(library)
    mutants = []
    for module, path in sources(options.module):
        tree = ast.parse(path.read_text())
        for place, number, old, new in places(tree):
            if place and (not options.line or getattr(old, "lineno", 0) in options.line):
                mutants.append((module, path, tree, place, number, old, new))
    total = len(mutants)
    if options.sample and options.sample < total:
        mutants = random.Random(options.seed).sample(mutants, options.sample)

    start = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    module, path, tree, *_ = mutants[0]
    if not tested(module, path, tree, files, 3600):
        print(f"the tests of {options.module} fail without a mistake planted")
        return 2
    usual = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - start[1]

    def run(mutant: Any) -> bool:
        module, path, tree, place, number, old, new = mutant
        survives = tested(module, path, planted(tree, place, number), files, int(10 * usual) + 10)
        if survives:
            shown = [" ".join(ast.unparse(ast.fix_missing_locations(n)).split("\n")[0].split()) for n in (old, new)]
            print(f"survived: {path.relative_to(ROOT)}:{old.lineno}: {shown[0]:.90}  ->  {shown[1]:.90}", flush=True)
        return survives

    with ThreadPoolExecutor(options.jobs) as pool:
        survived = sum(pool.map(run, mutants))
    killed = len(mutants) - survived
    print(f"{options.module}: {len(mutants)} of {total} mutants tried, {killed} killed, {survived} survived")
    return 0


if __name__ == "__main__":
    sys.exit(main())
