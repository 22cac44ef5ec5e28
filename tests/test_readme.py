"""The pages are promises: their code runs as it stands there, and what the README quotes is what the source says."""

import gzip
import inspect
import re
import struct
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"(<!-- source: (\S+) -->\n)?```python\n(.*?)```", README, re.DOTALL)
SCRIPT = "\n".join(code for marker, _, code in BLOCKS if not marker)
QUOTED = [(name, code) for marker, name, code in BLOCKS if marker]


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """Four idx files with a few images, where the README's `data.load` looks first."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 300), ("t10k", 100)):
        images, labels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), np.arange(n, dtype=np.uint8) % 10
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            with gzip.open(tmp_path / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(header + array.tobytes())
    monkeypatch.setenv("MINIGRAD_DATA", str(tmp_path))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_code_blocks_run_one_after_the_other(small_mnist, capsys):
    scope: dict = {}
    exec(compile(SCRIPT, "README.md", "exec"), scope)
    assert np.isfinite(scope["loss"].item())
    assert not scope["report"].ok
    assert "var" in capsys.readouterr().out


@pytest.mark.parametrize("name, code", QUOTED)
def test_quoted_source_is_the_source(name, code):
    module, _, function = name.rpartition(".")
    imported = __import__(module, fromlist=[function])
    assert code.strip() == inspect.getsource(getattr(imported, function)).strip()


def test_the_page_on_batchnorm_runs_from_its_top_to_its_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it writes pictures
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "batchnorm.md").read_text(), re.DOTALL)
    exec(compile("\n".join(blocks), "batchnorm.md", "exec"), {})
    assert {path.name for path in tmp_path.iterdir()} == {"batchnorm.svg", "batchnorm.html"}


def test_the_reading_order_names_every_module_and_nothing_else():
    rows = README.split("## Reading order")[1].split("\n## ")[0]
    cells = [row.split("|")[1] for row in rows.splitlines() if row.startswith("| `")]
    names = [name for cell in cells for name in re.findall(r"`([\w./]+)`", cell)]
    assert len(names) > 15
    for name in names:
        assert (ROOT / name).exists() or (ROOT / "minigrad" / name).exists(), name
    modules = {path.name for path in (ROOT / "minigrad").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules - {"__init__.py", "__pycache__"} - {Path(name).name for name in names}
