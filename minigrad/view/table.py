"""The program and the step table as text, Markdown, LaTeX and HTML.

A table here is a head and rows of cells, in two parts: the forward lines and the backward steps. Each
format writes the same cells; LaTeX sets names and expressions as mathematics.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from minigrad.tape import FREED
from minigrad.view import words

if TYPE_CHECKING:
    from minigrad.view.program import Tape

Row = list[str]

PROGRAM = ["line", "name", "op", "inputs", "shape", "dtype", "label", "keeps"]
FORWARD = ["line", "name", "expression", "shape", "value", "keeps"]
BACKWARD = ["step", "from", "to", "rule", "incoming", "local derivative", "outgoing", "running sum"]


def program(tape: Tape) -> str:
    """What `print(tape)` shows: one line for each node, and what all of them keep."""
    rows = []
    for line in tape.lines:
        node = line.node
        static = [] if node.primitive is None else words.static_text(node.primitive, node.params)
        inputs = ", ".join([*line.operands, *static])
        kind = [str(list(node.shape)), str(node.dtype), words.printable(node.label or "")]
        rows.append([str(line.number), line.name, line.op, inputs, *kind, line.kept])
    total, own = tape.keeps()
    freed = sum(line.node.residuals is FREED for line in tape.lines)
    tail = f"keeps {words.size_text(total)}"
    tail += f", {words.size_text(own)} of it the leaves' own arrays" if own else ""
    tail += f"; {freed} lines were freed by a backward pass" if freed else ""
    leaves = sum(line.node.primitive is None for line in tape.lines)
    head = f"tape of {tape.lines[-1].name}: {len(rows)} lines, {leaves} of them leaves; {tail}"
    return head + "\n" + aligned(PROGRAM, rows, right={0})


def aligned(head: Row, rows: list[Row], right: set[int] | None = None) -> str:
    """Cells in columns; columns that are empty throughout are left out."""
    shown = [c for c in range(len(head)) if any(row[c] for row in rows)]
    widths = {c: max(len(head[c]), *(len(row[c]) for row in rows)) for c in shown}

    def write(row: Row) -> str:
        cells = [row[c].rjust(widths[c]) if c in (right or set()) else row[c].ljust(widths[c]) for c in shown]
        return "  ".join(cells).rstrip()

    return "\n".join([write(head), "  ".join("-" * widths[c] for c in shown), *map(write, rows)])


class StepTable:
    """The forward lines and backward steps of a tape. str() is its text; notebooks show its HTML.

    forward, backward: rows of text cells under the heads `FORWARD` and `BACKWARD`. The backward part is
    empty where the result is no single number and the view was made without a cotangent.
    """

    def __init__(self, tape: Tape, elements: int) -> None:
        self.tape, self.elements = tape, elements
        values = tape.values
        self.forward: list[Row] = []
        for line in tape.lines:
            value = values.get(line.node)
            text = words.short(value, elements) if value is not None else "not kept (use mg.trace)"
            shape = str(list(line.node.shape))
            self.forward.append([str(line.number), line.name, line.expression, shape, text, line.kept])
        self.backward: list[Row] = []
        self.note = ""
        if tape.seed is None and tape.y.size != 1:
            self.note = (
                f"no backward part: the result has shape {list(tape.y.shape)}; make the view of a single number, or "
                "with a cotangent: mg.Tape(y, cotangent)"
            )
            return
        for number, step in enumerate(tape.steps, 1):
            local = step.local_text if step.local is None else words.short(step.local, elements)
            running = ""
            if step.uses > 1:
                running = f"{words.short(step.running, elements)} ({step.arrived} of {step.uses})"
            self.backward.append(
                [
                    str(number),
                    tape.lines[step.line - 1].name,
                    tape.lines[step.to - 1].name,
                    step.rule,
                    words.short(step.incoming, elements),
                    local,
                    words.short(step.outgoing, elements),
                    running,
                ]
            )

    def text(self) -> str:
        """Aligned columns for a terminal."""
        parts = ["forward", aligned(FORWARD, self.forward, {0})]
        if self.backward:
            parts += ["", "backward", aligned(BACKWARD, self.backward, {0})]
        return "\n".join(parts + ([self.note] if self.note else []))

    def markdown(self) -> str:
        """Two Markdown tables."""

        def part(title: str, head: Row, rows: list[Row]) -> list[str]:
            cells = [" | ".join(re.sub(r"[\\`*_<|]", r"\\\g<0>", cell) for cell in row) for row in rows]
            rule = "|" + "---|" * len(head)
            return [f"**{title}**", "", f"| {' | '.join(head)} |", rule, *(f"| {c} |" for c in cells), ""]

        lines = part("forward", FORWARD, self.forward)
        if self.backward:
            lines += part("backward", BACKWARD, self.backward)
        return "\n".join(lines + ([self.note] if self.note else []))

    def latex(self) -> str:
        """Two LaTeX tables (packages: amsmath, booktabs, longtable)."""
        named = {line.number: words.latex_name(line.name) for line in self.tape.lines}
        forward = []
        for row, line in zip(self.forward, self.tape.lines, strict=True):
            operands = []
            for source, text in zip(line.node.inputs, line.operands, strict=True):
                operands.append(named[self.tape.numbers[source]] if source is not None else _latex_constant(text))
            op, expression = line.node.primitive, named[line.number]
            if op is not None:
                expression = words.latex_expression(op, operands, line.node.params)
            plain = [words.latex_text(cell) for cell in row]
            forward.append([plain[0], f"${named[line.number]}$", f"${expression}$", *plain[3:]])
        backward = []
        for row, step in zip(self.backward, self.tape.steps if self.backward else [], strict=True):
            plain = [words.latex_text(cell).replace("ᵀ", "$^\\top$") for cell in row]
            backward.append([plain[0], f"$\\bar{{{named[step.line]}}}$", f"$\\bar{{{named[step.to]}}}$", *plain[3:]])

        def part(head: Row, rows: list[Row], columns: str) -> str:
            lines = [f"\\begin{{longtable}}{{{columns}}}", "\\toprule", " & ".join(head) + r" \\", "\\midrule"]
            return "\n".join([*lines, *(" & ".join(row) + r" \\" for row in rows), "\\bottomrule", "\\end{longtable}"])

        wide = [f"p{{{share}\\textwidth}}" for share in (0.27, 0.26, 0.16, 0.2, 0.125)]  # all fit a page
        texts = [part(FORWARD, forward, f"rl{wide[0]}l{wide[1]}{wide[2]}")]
        if backward:
            texts.append(part(BACKWARD, backward, f"rll{wide[3]}{4 * wide[4]}"))
        small = "{\\footnotesize\\setlength{\\tabcolsep}{3pt}"
        return "\n\n".join([small, *texts, "}", *([f"% {self.note}"] if self.note else [])]) + "\n"

    def html(self) -> str:
        """Two HTML tables, for a page or a notebook."""

        def part(title: str, head: Row, rows: list[Row]) -> str:
            cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
            filled = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
            body = "".join(f"<tr>{cells}</tr>\n" for cells in filled)
            head_row = f"<caption>{title}</caption><thead><tr>{cells}</tr></thead>"
            return f'<table class="steps">{head_row}\n<tbody>{body}</tbody></table>'

        parts = [part("forward", FORWARD, self.forward)]
        if self.backward:
            parts.append(part("backward", BACKWARD, self.backward))
        return "\n".join(parts + ([f"<p>{html.escape(self.note)}</p>"] if self.note else []))

    _repr_html_ = html

    def __str__(self) -> str:
        return self.text()


def _latex_constant(text: str) -> str:
    mantissa, e, exponent = text.partition("e")
    if e and mantissa.lstrip("-")[:1].isdigit():
        return f"10^{{{exponent}}}" if mantissa == "1" else f"{mantissa} \\cdot 10^{{{exponent}}}"
    return text if text.lstrip("-")[:1].isdigit() else "\\text{" + words.latex_text(text) + "}"
