"""What a claim's script returns: the sentence, its number, whether it held, and a figure.

Every script has `TITLE`, `QUESTION` and `run(full) -> Finding`. `numbers` are what the tests assert;
`figure` draws, and is called only where a picture is wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Draw = Callable[[Any], None]
"""Draws on a matplotlib Figure."""


@dataclass
class Finding:
    """One claim, run.

    claim:   the sentence that was tested;  number: what was measured, in words;  holds: the verdict,
    None where it could not be run;  story: paragraphs for the page;  numbers: by name
    """

    claim: str
    number: str
    holds: bool | None
    story: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    draw: Draw | None = None
    tables: list[tuple[list[str], list[list[str]]]] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """holds, fails, or not run."""
        return "not run" if self.holds is None else "holds" if self.holds else "FAILS"
