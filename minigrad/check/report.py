"""What a check has to say: findings, and the report that holds them.

A *finding* is one thing to know about one argument, with its evidence. A *mistake* makes the check
fail, and so does a *vacuous* check, which could not have failed; a *note* (a gradient that must be
zero, a value that left the tape) does not.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field
from typing import Any

from minigrad.backend import numpy as host

MISTAKE, VACUOUS, NOTE = "mistake", "vacuous", "note"


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    argument: the input whose gradient it is about ("x"; several as "x, gamma"), "" for the check itself
    kind:     what it is: "missing path", "wrong sign", "factor", "upstream ignored", "unexplained", ...
    paths:    the intermediates concerned
    factor:   the factor by which the hand-derived term differs, as text ("m = 6", "1/gamma"), or None
    message:  the sentence
    evidence: numbers: sizes, worst elements, other explanations that fit as well
    severity: "mistake", "vacuous" or "note"
    """

    argument: str
    kind: str
    message: str
    paths: tuple[str, ...] = ()
    factor: str | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    severity: str = MISTAKE

    def __str__(self) -> str:
        return self.message


@dataclass
class Report:
    """The result of a check. True where nothing is wrong; as text, fit for a terminal and an assertion.

    title:    what was checked
    findings: mistakes first
    facts:    for each argument its numbers: size, largest difference, tolerance, cancellation factor
    details:  what was done: dtype, oracle, mutation score
    maps:     for each argument (hand-derived or computed, reference), for `plot`
    absolute: for each argument the sum of the sizes of the terms that its gradient adds up
    """

    title: str
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    maps: dict[str, tuple[Any, Any]] = field(default_factory=dict, repr=False)
    absolute: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        """Whether there is neither a mistake nor a check that could not have failed."""
        return all(finding.severity == NOTE for finding in self.findings)

    @property
    def mistakes(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == MISTAKE]

    @property
    def verdict(self) -> str:
        return "right" if self.ok else "WRONG" if self.mistakes else "PROVES NOTHING"

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        lines = [f"{self.title}: {self.verdict}"]
        for finding in self.findings:
            mark = {MISTAKE: "x", VACUOUS: "!", NOTE: "-"}[finding.severity]
            lines.append(f"  {mark} " + finding.message.replace("\n", "\n    "))
            for row in finding.evidence.get("worst", ()):
                numbers = dict(zip(row, told_apart(*row.values()), strict=True))
                lines.append("      " + ", ".join(f"{k} {v}" for k, v in numbers.items()))
        for name, fact in self.facts.items():
            lines.append(f"  {name}: " + ", ".join(f"{k} {_short(v)}" for k, v in fact.items()))
        for name, value in self.details.items():
            lines.append(f"  {name}: {_short(value)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        """One line, which is what a failing `assert` shows of it."""
        return f"<{self.verdict}: {'; '.join(f.message for f in self.findings if f.severity != NOTE) or self.title}>"

    def _repr_html_(self) -> str:
        colour = "#1a7f37" if self.ok else "#cf222e"
        items = "".join(
            f"<li><b>{html.escape(f.kind)}</b>: {html.escape(f.message).replace(chr(10), '<br>')}</li>"
            for f in self.findings
        )
        columns = list(dict.fromkeys(key for fact in self.facts.values() for key in fact))
        head = "".join(f"<th>{html.escape(c)}</th>" for c in ["", *columns])
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th>"
            + "".join(f"<td>{html.escape(_short(fact.get(c, '')))}</td>" for c in columns)
            + "</tr>"
            for name, fact in self.facts.items()
        )
        details = ", ".join(f"{html.escape(k)}: {html.escape(_short(v))}" for k, v in self.details.items())
        return (
            f"<div><b>{html.escape(self.title)}: <span style='color:{colour}'>{self.verdict.lower()}</span></b>"
            f"<ul>{items}</ul><table><tr>{head}</tr>{rows}</table><small>{details}</small></div>"
        )

    def to_json(self, **options: Any) -> str:
        """The report as JSON text; options go to `json.dumps`."""
        record = {
            "title": self.title,
            "ok": self.ok,
            "findings": [vars(finding) for finding in self.findings],
            "facts": self.facts,
            "details": self.details,
        }
        return json.dumps(_plain(record), **options)

    def plot(self, path: str | None = None) -> Any:
        """A heat map for each argument: checked, reference and, on a scale of its own, difference. Needs matplotlib.

        path: where to save the picture; without it the figure is returned for showing.
        """
        try:
            from matplotlib.figure import Figure
            from matplotlib.ticker import MaxNLocator
        except ImportError as error:
            raise ImportError("plot: needs matplotlib; install it with: pip install matplotlib") from error
        if not self.maps:
            raise ValueError("plot: this report holds no gradients to draw")
        figure = Figure(figsize=(9, 2.6 * len(self.maps)), layout="constrained")
        axes = figure.subplots(len(self.maps), 3, squeeze=False)
        for row, (name, (checked, reference)) in zip(axes, self.maps.items(), strict=True):
            with host.errstate(invalid="ignore"):
                pictures = [_flat(checked), _flat(reference), _flat(checked - reference)]
            bound = _largest(*pictures[:2]) or 1.0
            bounds = bound, bound, max(_largest(pictures[2]), 1e-9 * bound)  # rounding is to look like nothing
            images = []
            for ax, picture, end, title in zip(
                row, pictures, bounds, ("checked", "reference", "difference"), strict=True
            ):
                image = ax.imshow(picture, cmap="RdBu_r", vmin=-end, vmax=end, aspect="auto", interpolation="nearest")
                images.append(image)
                ax.set_title(f"{name}: {title}", fontsize=9)
                ax.tick_params(labelsize=7)
                for side in (ax.xaxis, ax.yaxis):
                    side.set_major_locator(MaxNLocator(integer=True))
                if len(picture) == 1:
                    ax.set_yticks([])
            figure.colorbar(images[1], ax=list(row[:2]), shrink=0.8)
            figure.colorbar(images[2], ax=row[2], shrink=0.8)
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure


def _flat(array: Any) -> Any:
    """An array as a picture: the first axis down, all others across."""
    array = host.asarray(array, dtype=float)
    return array.reshape(1, -1) if array.ndim < 2 else array.reshape(array.shape[0], -1)


def _largest(*pictures: Any) -> float:
    """The largest finite size."""
    return max(float(host.abs(p[host.isfinite(p)]).max(initial=0.0)) for p in pictures)


def told_apart(*values: Any) -> list[str]:
    """Values as text, numbers with six digits, or as many as it takes to see that two of them differ."""
    for digits in (6, 8, 10, 12, 17):
        texts = [_short(value, digits) for value in values]
        if len(set(texts)) == len({_short(value, 17) for value in values}):
            break
    return texts


def _short(value: Any, digits: int = 6) -> str:
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _plain(value: Any) -> Any:
    """Numbers and arrays as JSON knows them; NaN and infinities as text."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not host.isfinite(value):
        return str(value)
    return value
