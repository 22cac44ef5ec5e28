"""The pages are promises: their code runs as it stands there, what they quote is what the source says, and whatever
they name exists."""

from __future__ import annotations

import gzip
import importlib.util
import inspect
import re
import struct
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad import pytorch_names

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
README = PAGES["README.md"].read_text()
BLOCK = re.compile(r"(?:<!-- source: (\S+) -->\n)?```python\n(.*?)```", re.DOTALL)
QUOTED = [(name, code) for name, code in BLOCK.findall(README) if name]
each_page = pytest.mark.parametrize("page", PAGES)


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """Four idx files with a few images, where `data.load` looks first."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 300), ("t10k", 100)):
        images, labels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), np.arange(n, dtype=np.uint8) % 10
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            with gzip.open(tmp_path / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(header + array.tobytes())
    monkeypatch.setenv("MINIGRAD_DATA", str(tmp_path))


def files_here():
    return {path.name for path in Path().iterdir()}


LEFT = {
    "README.md": lambda left: np.isfinite(left["loss"].item()) and "var" in left["path"].labels and not left["report"],
    "batchnorm.md": lambda left: files_here() == {"batchnorm.svg", "batchnorm.html"},
    "checking.md": lambda left: left["report"].ok,
    "gpu.md": lambda left: left["crossed"].to_host == 0,
    "training.md": lambda left: left["model"].images.item() == 550 and files_here() > {"run.safetensors", "net.npz"},
}
"""Of each page with code, what must hold at its end: its variables are given."""


@each_page
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_code_of_a_page_runs_and_prints_what_the_page_shows(page, small_mnist, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # some write files
    text = PAGES[page].read_text()
    code = [code for quoted, code in BLOCK.findall(text) if not quoted]
    assert bool(code) is (page in LEFT)
    left: dict = {}
    exec(compile("\n".join(code), page, "exec"), left)
    assert not code or LEFT[page](left)
    printed = capsys.readouterr().out
    assert all(shown in printed for shown in re.findall(r"```text\n(.*?)```", text, re.DOTALL))


@pytest.mark.parametrize("name, code", QUOTED)
def test_quoted_source_is_the_source(name, code):
    module, _, function = name.rpartition(".")
    imported = importlib.import_module(module)
    assert code.strip() == inspect.getsource(getattr(imported, function)).strip()


@each_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", PAGES[page].read_text()):
        assert target.startswith("https://") or (PAGES[page].parent / target).exists(), target


@each_page
def test_names_in_the_text_exist(page):
    text = PAGES[page].read_text()
    for root, chain in re.findall(r"`(mg|minigrad|F|nn|optim|data|runs|study)((?:\.[A-Za-z_]\w*)+)", text):
        module = {"F": "minigrad.functional", "mg": "minigrad", "minigrad": "minigrad"}.get(root, f"minigrad.{root}")
        path = chain[1:].split(".")
        if path[-1] == "py" or path[0] in pytorch_names.PLACES.get(module, ()):  # a file; what is called otherwise
            continue
        found = importlib.import_module(module)
        for name in path:
            found = getattr(found, name)
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module) is not None, module
    for file, name in re.findall(r"(test_\w+\.py)::(test_\w+)", text):
        assert f"def {name}" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"
    sources = "".join(path.read_text() for path in (ROOT / "minigrad").rglob("*.py"))
    for variable in re.findall(r"MINIGRAD_\w+", text):
        assert variable in sources, variable


def test_the_same_in_pytorch_is_the_same():
    torch = pytest.importorskip("torch")
    rows = re.findall(r"^\| `(.+)` \| `(.+)` \|$", PAGES["training.md"].read_text(), re.MULTILINE)
    assert len(rows) > 8
    values = np.array([[3.0, 1.0, 2.0], [5.0, 7.0, 4.0]])
    theirs = {"t": torch.tensor(values), "u": torch.tensor(values[::-1].copy()), "F": torch.nn.functional}
    ours = {"t": mg.tensor(values), "u": mg.tensor(values[::-1]), "F": mg.functional}
    for pytorch, here in rows:
        for a, b in zip(pytorch.split("`, `"), here.split("`, `"), strict=True):
            a, b = eval(a, theirs), eval(b, ours)
            for x, y in zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]:
                np.testing.assert_allclose(np.asarray(x), np.asarray(y), err_msg=pytorch)


def test_the_reading_order_names_every_module_and_nothing_else():
    rows = README.split("## Reading order")[1].split("\n## ")[0]
    cells = [row.split("|")[1] for row in rows.splitlines() if row.startswith("| `")]
    names = [name for cell in cells for name in re.findall(r"`([\w./]+)`", cell)]
    assert len(names) > 15
    for name in names:
        assert (ROOT / name).exists() or (ROOT / "minigrad" / name).exists(), name
    modules = {path.name for path in (ROOT / "minigrad").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules - {"__init__.py", "__pycache__"} - {Path(name).name for name in names}
