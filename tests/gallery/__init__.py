"""A gallery of backward passes derived by hand: right ones, and what people write instead.

Each exhibit is a forward in plain NumPy, sample inputs, and the right backward as source text. A
mistake is an edit of that text with the finding that must come of it: the gradient, the kind, and the
words of the sentence. So a mistake can be read as what it is, a slip of the pen.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Mistake:
    """An edit of the right backward, and the finding it must lead to (`words` is a regular expression)."""

    name: str
    edits: tuple[tuple[str, str], ...]
    argument: str
    kind: str
    words: str


@dataclass
class Exhibit:
    name: str
    forward: Callable[..., Any]
    inputs: Callable[[np.random.Generator], tuple[Any, ...]]
    backward: str
    outputs: int = 1
    mistakes: list[Mistake] = field(default_factory=list)

    def right(self) -> Callable[..., Any]:
        return self.compiled(())

    def wrong(self, mistake: Mistake) -> Callable[..., Any]:
        return self.compiled(mistake.edits)

    def compiled(self, edits: tuple[tuple[str, str], ...]) -> Callable[..., Any]:
        source = textwrap.dedent(self.backward)
        for old, new in edits:
            if old not in source:
                raise ValueError(f"{self.name}: the backward does not hold {old!r}")
            source = source.replace(old, new)
        scope: dict[str, Any] = {"np": np}
        exec(compile(source, f"<{self.name}>", "exec"), scope)
        return scope["backward"]

    def mistake(self, name: str, *edits: tuple[str, str], of: str, kind: str, words: str) -> None:
        self.mistakes.append(Mistake(name, edits, of, kind, words))


def all_exhibits() -> list[Exhibit]:
    """Every exhibit, in the order of the modules."""
    from tests.gallery import layers, losses, normalisations, recurrent

    return [*normalisations.EXHIBITS, *losses.EXHIBITS, *layers.EXHIBITS, *recurrent.EXHIBITS]
