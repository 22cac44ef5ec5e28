"""Runs the claims, prints claim / number / verdict, and writes their figures and one page that tells the story.

    python -m examples.batchnorm [--out DIR] [--only N ...] [--full] [--steps N]

The exit status is 1 where a claim fails. Claim 8 needs MNIST and says so where there is none.
"""

from __future__ import annotations

import argparse
import html
import importlib
import io
import sys
import textwrap
import time
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm import tqdm

import minigrad as mg
from examples.batchnorm.finding import Finding
from examples.flags import whole
from minigrad import functional as F
from minigrad import study

NAMES = {
    1: "c1_pointless", 2: "c2_scale", 3: "c3_bias", 4: "c4_updates", 5: "c5_matconvnet", 6: "c6_statistics",
    7: "c7_cuts", 8: "c8_mnist", 9: "c9_orders",
}  # fmt: skip

STYLE = """
body { font: 16px/1.55 Georgia, serif; color: #222; max-width: 60em; margin: 2em auto; padding: 0 1em; }
h1, h2, th { font-family: Helvetica, Arial, sans-serif; } h2 { margin-top: 2.2em; border-top: 1px solid #ccc; }
img, svg { max-width: 100%; height: auto; } .claim { font-weight: bold; }
.number { font-family: monospace; font-size: 14px; white-space: pre-wrap; }
table { border-collapse: collapse; font-size: 13px; }
td, th { border: 1px solid #ccc; padding: 3px 7px; text-align: left; }
.holds { color: #1a7f37; } .FAILS { color: #b42318; } .wide { overflow-x: auto; }
.tape { width: 96vw; margin-left: calc(50% - 48vw); overflow-x: auto; }
.tape svg { width: 100%; min-width: 1000px; max-width: none; }
"""


def script(number: int) -> ModuleType:
    """The module of a claim."""
    return importlib.import_module(f"examples.batchnorm.{NAMES[number]}")


def png(finding: Finding) -> bytes:
    """The claim's figure, as a PNG file."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    assert finding.draw is not None
    finding.draw(figure)
    written = io.BytesIO()
    figure.savefig(written, dpi=110, format="png")
    return written.getvalue()


def small_tape() -> mg.Tape:
    """BatchNorm of four samples of two channels: the figure with the circles."""
    mg.random.seed(0)
    x = mg.random.normal(4, 2, dtype=mg.float64, requires_grad=True)
    gamma = mg.tensor([1.5, 0.5], dtype=mg.float64, requires_grad=True)
    beta = mg.tensor([0.2, -0.1], dtype=mg.float64, requires_grad=True)
    weights = mg.random.normal(4, 2, dtype=mg.float64)
    y, _, _ = F.batch_norm(x, gamma, beta)
    return mg.Tape((y * weights).sum(), x=x, gamma=gamma, beta=beta)


def table(rows: Sequence[tuple[int, Finding, float]]) -> str:
    """Claim / number / verdict for a terminal."""
    lines = []
    for number, finding, seconds in rows:
        lines.append(f"{number}  {finding.verdict:<8} {script(number).TITLE}  ({seconds:.1f} s)")
        for text in (finding.claim, *f"-> {finding.number}".splitlines()):
            lines += textwrap.wrap(text, 108, initial_indent="     ", subsequent_indent="     ")
    return "\n".join(lines)


def page(rows: Sequence[tuple[int, Finding, float]], figures: dict[int, bytes]) -> str:
    """One self-contained page: the tape of BatchNorm, then every claim with its number and figure."""
    tape = small_tape()
    split = tape.paths("x")
    ways = "".join(
        f"<li>{study.PATHS[p.labels]}: norm {p.norm:.3g}, share {p.share:.1%}"
        f"{' (zero but for rounding)' if p.share < 1e-12 else ''}</li>"
        for p in split
    )
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>BatchNorm and autodiff</title><style>{STYLE}</style>",
        "<h1>How autodiff handles BatchNorm</h1>",
        "<p>There is no rule for BatchNorm's derivative in minigrad: a mean, a difference, a square, a mean, a root "
        "and a quotient are recorded, and the gradient follows from their rules. This is the tape of one small batch, "
        "with the values above the arrows and the cotangents below them. (The second difference takes away what "
        "rounding left of the mean, which is a constant.)</p>",
        f"<div class='tape'>{tape.svg()}</div><p><a href='tape.html'>The same tape to play with</a>: its reverse pass "
        "step by step, its values and its paths.</p><p>The gradient of x is the sum over its "
        f"ways:</p><ul>{ways}</ul>",
        f"<p>{told(rows)}</p>",
    ]
    for number, finding, _ in rows:
        module = script(number)
        verdict = finding.verdict
        parts.append(f"<h2 id='claim{number}'>{number}. {html.escape(module.TITLE)}</h2>")
        parts.append(f"<p><i>{html.escape(module.QUESTION)}</i></p>")
        parts.append(f"<p class='claim'>{html.escape(finding.claim)} <span class='{verdict}'>{verdict}</span></p>")
        parts.append(f"<p class='number'>{html.escape(finding.number)}</p>")
        parts += [f"<p>{html.escape(text)}</p>" for text in finding.story]
        for head, body in finding.tables:
            heads = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
            cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in body]
            body_rows = "".join(f"<tr>{row}</tr>" for row in cells)
            parts.append(f"<div class='wide'><table><tr>{heads}</tr>{body_rows}</table></div>")
        if number in figures:
            data = b64encode(figures[number]).decode()
            parts.append(f"<p><img alt='{html.escape(module.TITLE)}' src='data:image/png;base64,{data}'></p>")
    return "\n".join([*parts, "</html>\n"])


def told(rows: Sequence[tuple[int, Finding, float]]) -> str:
    """Which claims were run for the page."""
    left = [f"number {number}" for number, finding, _ in rows if finding.holds is None]
    but = f", but for {' and '.join(left)}, which could not be run and says why" if left else ""
    return f"Every claim below was run to make this page{but}."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.batchnorm", description="Nine claims, run.")
    where = Path("runs/batchnorm")
    parser.add_argument("--out", type=Path, default=where, help="where figures and page go (%(default)s)")
    parser.add_argument("--only", type=int, nargs="+", choices=sorted(NAMES), help="the claims to run, by number")
    parser.add_argument("--full", action="store_true", help="as long as the paper (claim 8: 50,000 steps)")
    parser.add_argument("--steps", type=whole, help="steps of claim 8")
    options = parser.parse_args(arguments)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {options.out}: cannot make this folder ({error.strerror})")
    rows: list[tuple[int, Finding, float]] = []
    figures: dict[int, bytes] = {}
    with tqdm(options.only or sorted(NAMES), unit="claim", file=sys.stderr) as progress:
        for number in progress:
            module = script(number)
            progress.set_description(module.TITLE)
            start = time.perf_counter()
            extra = {"steps": options.steps} if number == 8 and options.steps else {}
            finding = module.run(options.full, **extra)
            rows.append((number, finding, time.perf_counter() - start))
            if finding.draw is not None:
                figures[number] = png(finding)
                (options.out / f"claim{number}.png").write_bytes(figures[number])
    small_tape().save_html(options.out / "tape.html", "BatchNorm, four samples of two channels")
    target = options.out / "batchnorm.html"
    target.write_text(page(rows, figures), encoding="utf-8")
    print(table(rows))
    print(f"\nfigures and the story: {target}")
    return int(any(finding.holds is False for _, finding, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
