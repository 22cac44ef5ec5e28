"""`cupy.RawModule` without a GPU: a kernel's CUDA C++ is compiled with g++ and run thread by thread.

The arguments of a launch are checked as nothing checks them on a device: an array of another dtype than the
parameter points to, a number of another size, a struct of another size. `order` says whether the threads of a block
run forwards or backwards between two barriers: results that differ show a barrier that is missing.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

COMPILER = shutil.which("g++")
HEADER = Path(__file__).parent / "cuda_on_host.h"
FOLDER = Path(tempfile.gettempdir()) / f"minigrad-kernels-{os.getuid()}"

SHARED = 48 << 10
"""Bytes of shared memory that a block can declare."""

POINTEES = {
    "float": "float32", "double": "float64", "int": "int32", "long long": "int64", "unsigned char": "uint8",
    "unsigned int": "uint32", "unsigned long long": "uint64", "bool": "bool",
}  # fmt: skip
KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(([^)]*)\)\s*\{')

order = "forwards"
launched: list[str] = []
"""The names of the kernels that ran, in order."""


def without_comments(code: str) -> str:
    return re.sub(r"//.*", "", code)


def parameters_of(code: str) -> dict[str, list[str]]:
    """The types of the parameters of every kernel in a source."""
    found = {}
    for name, parameters in KERNEL.findall(without_comments(code)):
        parts = [" ".join(part.replace("__restrict__", "").split()) for part in parameters.split(",")]
        found[name] = [re.match(r"(.*?)\w+$", part)[1].strip() for part in parts]  # type: ignore[index]
    return found


def defined(code: str, kind: str) -> str:
    """A type's name after the definitions at the head of a source."""
    return dict(re.findall(r"^#define (\w+) (.+)$", code, re.M)).get(kind, kind)


def shared(library: str) -> dict[str, int]:
    """Bytes of shared memory that each function of a compiled source declares: there, it is static."""
    listed = subprocess.run(["nm", "-S", library], capture_output=True, text=True, check=True).stdout
    sizes: dict[str, int] = {}
    for size, name in re.findall(r"^\w+ (\w+) [bdV] _ZZ(\w+)E\d\w+$", listed, re.M):
        sizes[name] = sizes.get(name, 0) + int(size, 16)
    return sizes


@functools.cache
def compiled(code: str) -> ctypes.PyDLL:
    """The library made of a source, kept in a folder for the next run."""
    wrappers: dict[str, None] = {}  # each once, in order
    for name, types in parameters_of(code).items():
        arguments = ", ".join(f"*(({kind} *)arguments[{i}])" for i, kind in enumerate(types))
        wrappers[
            f'extern "C" int run_{name}(const unsigned int *grid, const unsigned int *threads, int backwards, '
            f"void **all) {{ return fibers::run(grid, threads, backwards, all, [](void **arguments) "
            f"{{ {name}({arguments}); }}); }}"
        ] = None
        for kind in types:
            if not kind.endswith("*") and kind not in POINTEES:
                wrappers[f'extern "C" long size_of_{kind}() {{ return sizeof({kind}); }}'] = None
    text = HEADER.read_text() + code + "\n" + "\n".join(wrappers)
    library = FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.so"
    if not library.exists():
        FOLDER.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            (Path(folder) / "kernel.cpp").write_text(text)
            command = [str(COMPILER), "-std=c++17", "-O1", "-w", "-ffp-contract=off", "-shared", "-fPIC"]
            command += ["-U_FORTIFY_SOURCE", "-fno-gnu-unique", "-o", f"{folder}/kernel.so", f"{folder}/kernel.cpp"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"CompileException: {done.stderr}")
            for name, size in shared(f"{folder}/kernel.so").items():
                if size > SHARED:
                    raise RuntimeError(f"CompileException: {name} uses too much shared data ({size:#x} bytes)")
            Path(folder, "kernel.so").replace(library)
    return ctypes.PyDLL(str(library))  # holds the interpreter's lock: all launches share one set of fibers


@functools.cache
def array_of(kind: Any, length: int) -> Any:
    """The type of C arrays, made once: ctypes would make it, and the cycles in it, again and again."""
    return kind * length


class Function:
    """A kernel: `function(grid, threads, arguments)`."""

    def __init__(self, code: str, name: str, launch: Any) -> None:
        self.code, self.name, self.launch = code, name, launch
        self.run = getattr(compiled(code), f"run_{name}")
        self.types = parameters_of(code)[name]

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], **options: Any) -> None:
        if options.keys() - {"shared_mem"}:
            raise TypeError(f"{self.name}: unexpected {options}")
        grid, block = ((*sizes, 1, 1)[:3] for sizes in (grid, block))
        if min(*grid, *block) < 1 or max(grid[1:]) > 65535 or np.prod(block) > 1024:
            raise RuntimeError(f"CUDA_ERROR_INVALID_VALUE: {self.name} with grid {grid} and block {block}")
        if len(args) != len(self.types):
            raise TypeError(f"{self.name}: takes {len(self.types)} arguments, not {len(args)}")
        values = [self.value(kind, arg) for kind, arg in zip(self.types, args, strict=True)]

        def go(backwards: bool = order == "backwards") -> None:
            addresses = array_of(ctypes.c_void_p, len(values))(*[ctypes.addressof(value) for value in values])
            sizes = array_of(ctypes.c_uint, 3)(*grid), array_of(ctypes.c_uint, 3)(*block)
            launched.append(self.name)
            if self.run(*sizes, int(backwards), addresses):
                raise RuntimeError(f"{self.name}: a barrier that only some threads of a block reach")

        self.launch(go)

    def value(self, kind: str, arg: Any) -> Any:
        """An argument as C has it, after checking it against the parameter's type."""
        if kind.endswith("*"):
            pointee = defined(self.code, kind.removesuffix("*").removeprefix("const ").strip())
            if arg is None:
                return ctypes.c_void_p(0)
            host = arg._host
            if str(host.dtype) != POINTEES[pointee]:
                raise TypeError(f"{self.name}: a {kind} is given {host.dtype}")
            return ctypes.c_void_p(host.ctypes.data)
        if kind == "long long" and type(arg) is int:
            return ctypes.c_longlong(arg)
        if kind == "double" and type(arg) is float:
            return ctypes.c_double(arg)
        if isinstance(arg, np.void):
            size = getattr(compiled(self.code), f"size_of_{kind}")()
            if arg.nbytes != size:
                raise TypeError(f"{self.name}: a {kind} of {size} bytes is given {arg.nbytes}")
            return array_of(ctypes.c_char, arg.nbytes).from_buffer_copy(arg.tobytes())
        raise TypeError(f"{self.name}: a {kind} is given {type(arg).__name__} {arg!r:.40}")
