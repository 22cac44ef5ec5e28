"""The host generator, from which everything random is drawn: one seed, the same weights and batches on every backend.

What is computed again (a checkpoint, a function that the checker runs twice) draws again what it drew: a thread then
draws from `Draws`, which notes where the generator stood before each draw, and later from `Redraws`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from minigrad.backend import numpy


class _Host:
    """The host generator, made when it is first asked for: NumPy's random module takes long to import."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generator: numpy.random.Generator | None = None

    @property
    def generator(self) -> numpy.random.Generator:
        if self._generator is None:
            with self._lock:
                self._generator = self._generator or numpy.random.default_rng()
        return self._generator


_host = _Host()


class _Standing(threading.local):
    """What stands for the host generator in this thread, where anything does."""

    generator: Any = None


_standing = _Standing()


def generator() -> numpy.random.Generator:
    """The host generator from which the framework draws everything random, or what stands for it in this thread."""
    return _host.generator if _standing.generator is None else _standing.generator


def seed(value: int) -> None:
    """Restarts the host generator: the same seed gives the same numbers on every backend."""
    try:
        generator().bit_generator.state = numpy.random.default_rng(value).bit_generator.state
    except (TypeError, ValueError) as error:
        raise type(error)(f"seed: an integer >= 0 starts the generator, not {value!r:.60}") from error


@contextlib.contextmanager
def drawing_from(source: Any) -> Iterator[None]:
    """Has this thread draw from `source` (a `Draws` or `Redraws`) within the block."""
    before, _standing.generator = _standing.generator, source
    try:
        yield
    finally:
        _standing.generator = before


def noting_draws() -> bool:
    """Whether this thread draws what will be drawn again, or draws it again: then the host must do it."""
    return _standing.generator is not None


class Draws:
    """The generator in use, and a note of its state before each draw: other threads may draw in between."""

    def __init__(self) -> None:
        self.states: list[Any] = []
        self.source: Any = generator()

    def __getattr__(self, name: str) -> Any:
        bits = self.source.bit_generator
        if name == "bit_generator":
            return bits

        def draw(*args: Any, **kwargs: Any) -> Any:
            with bits.lock:
                self.states.append(bits.state)
                return getattr(self.source, name)(*args, **kwargs)

        return draw


class Redraws:
    """Gives once more what was drawn from a `Draws`; the generator that it drew from stays where it is."""

    def __init__(self, states: Sequence[Any]) -> None:
        self.source = numpy.random.Generator(type(_host.generator.bit_generator)(0))
        self.bit_generator = self.source.bit_generator
        self.left = iter(states)
        self._go_to_next()

    def _go_to_next(self) -> None:
        self.bit_generator.state = next(self.left, self.bit_generator.state)

    def __getattr__(self, name: str) -> Any:
        def draw(*args: Any, **kwargs: Any) -> Any:
            drawn = getattr(self.source, name)(*args, **kwargs)
            self._go_to_next()
            return drawn

        return draw
