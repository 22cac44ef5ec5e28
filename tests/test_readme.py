"""The README is a promise: its code runs as it stands there, and what it quotes is what the source says."""

import gzip
import inspect
import re
import struct
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
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


def test_files_named_in_the_reading_order_exist():
    root = Path(__file__).parent.parent
    rows = README.split("## Reading order")[1].split("\n## ")[0]
    cells = [row.split("|")[1] for row in rows.splitlines() if row.startswith("| `")]
    names = [name for cell in cells for name in re.findall(r"`([\w./]+)`", cell)]
    assert len(names) > 15
    for name in names:
        assert (root / name).exists() or (root / "minigrad" / name).exists(), name
