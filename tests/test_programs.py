"""Programs that nobody wrote: random expressions of twenty ops, random einsum equations, random indices.

Each is drawn from a seed, so a failure names the program that shows it.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad.tensor import Tensor
from tests.test_table import derivatives_agree

# Smooth functions that keep values of moderate size moderate.
UNARY: list[Callable[[Any], Any]] = [
    mg.tanh,
    mg.sin,
    mg.sigmoid,
    mg.softplus,
    mg.arctan,
    mg.erf,
    mg.gelu,
    mg.silu,
    lambda x: mg.exp(mg.tanh(x)),
    lambda x: mg.log1p(x * x),
    lambda x: mg.sqrt(1 + x * x),
    lambda x: 1 / (1.5 + mg.cos(x)),
    lambda x: x - x.mean(0, keepdims=True),
    lambda x: x / (1 + x.norm(axis=1, keepdims=True)),
    lambda x: x.cumsum(1) / 3,
    lambda x: x.logsumexp(1, True) - x,
    lambda x: x[::-1],
    lambda x: x.T.reshape(*x.shape),
    lambda x: x[np.array([0, 2, 2])],
    lambda x: x.roll(1, 0),
    lambda x: mg.concatenate([x[:, 1:], x[:, :1]], 1),
    lambda x: x.std(1, keepdims=True) * x,
    lambda x: mg.softmax(x) * 2,
    lambda x: x.tril() + 0.3 * x.triu(),
    lambda x: x.pad(1)[1:4, :3],
    lambda x: x**3 / (1 + x * x),
]
BINARY: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * mg.tanh(b),
    lambda a, b: a / (1.5 + b * b),
    lambda a, b: mg.tanh(a) @ mg.sin(b),
    lambda a, b: mg.einsum("ij,jk->ki", mg.sin(a), mg.tanh(b)),
    lambda a, b: mg.arctan2(a, 2 + b * b),
    lambda a, b: a + b.sum(0),
    lambda a, b: a * b.mean(),
    lambda a, b: (1 + a * a) ** mg.tanh(b),
    lambda a, b: mg.where(a.detach() > b.detach(), a, 2 * b),
    lambda a, b: mg.stack([a, b]).mean(0),
]


def program(seed: int) -> Callable[..., Tensor]:
    """A function of two 3 x 3 arrays: twenty ops, each on results or inputs that were drawn at random."""
    rng = np.random.default_rng(seed)
    plan = []
    for length in range(2, 22):
        operands = rng.integers(max(0, length - 6), length, size=2)
        ops = UNARY if rng.random() < 0.6 else BINARY
        plan.append((ops[rng.integers(len(ops))], [int(i) for i in operands[: 1 + (ops is BINARY)]]))

    def run(*inputs: Tensor) -> Tensor:
        values = list(inputs)
        for op, operands in plan:
            values.append(op(*[values[i] for i in operands]))
        return sum(values[-3:], start=values[-4])

    return run


@pytest.mark.parametrize("seed", range(30))
def test_random_programs_to_the_third_order(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    derivatives_agree(program(seed), (0.7 * rng.normal(size=(3, 3)), 0.7 * rng.normal(size=(3, 3))))


@pytest.mark.parametrize("seed", range(30))
def test_random_programs_at_first_order_are_the_same_on_the_tape(seed: int) -> None:
    """Raw arrays, Tensors on the tape and forward mode are three ways through the same rules."""
    rng = np.random.default_rng(200 + seed)
    x, z = (mg.tensor(rng.normal(size=(3, 3)), requires_grad=True) for _ in range(2))
    f = program(1000 + seed)
    raw = mg.grad(f(x, z), [x, z], np.ones((3, 3)))
    taped = mg.grad(f(x, z), [x, z], np.ones((3, 3)), create_graph=True)
    for a, b in zip(raw, taped, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-10)
    t = [mg.tensor(rng.normal(size=(3, 3))) for _ in range(2)]
    pushed = mg.jvp(f, (x.detach(), z.detach()), t)[1].sum().item()
    assert pushed == pytest.approx(sum((a * b).sum().item() for a, b in zip(raw, t, strict=True)), rel=1e-9, abs=1e-9)


def equation(seed: int) -> tuple[str, list[np.ndarray]]:
    """A random einsum equation: one to four operands, repeated letters, ellipses, lengths of 1 that broadcast."""
    rng = np.random.default_rng(seed)
    letters = list(string.ascii_letters[: rng.integers(1, 6)])
    length = {c: int(rng.integers(1, 4)) for c in letters}
    dots = tuple(int(n) for n in rng.integers(1, 4, size=rng.integers(0, 3)))
    terms, operands, used = [], [], set()
    for _ in range(rng.integers(1, 5)):
        term = [str(c) for c in rng.choice(letters, size=rng.integers(0, 4))]
        shape = [length[c] if term.count(c) > 1 or rng.random() < 0.85 else 1 for c in term]
        used |= set(term)
        if rng.random() < 0.4:
            place = int(rng.integers(0, len(term) + 1))
            mine = dots[len(dots) - int(rng.integers(0, len(dots) + 1)) :]
            term.insert(place, "...")
            shape[place:place] = mine
        terms.append("".join(term))
        operands.append(np.asarray(rng.normal(size=shape)))
    inputs = ",".join(terms)
    if rng.random() < 0.3:
        return inputs, operands
    output = [c for c in sorted(used) if rng.random() < 0.5]
    rng.shuffle(output)
    if "..." in inputs:
        output.insert(int(rng.integers(0, len(output) + 1)), "...")
    return inputs + "->" + "".join(output), operands


def test_four_hundred_random_einsum_equations() -> None:
    for seed in range(400):
        text, operands = equation(seed)
        expected = np.einsum(text, *operands)
        ours = mg.einsum(text, *[mg.tensor(x) for x in operands])
        assert ours.shape == expected.shape, text
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-10, atol=1e-10, err_msg=f"{seed}: {text}")
        inputs, *output = [
            [[... if c == "." else string.ascii_letters.index(c) for c in term.replace("...", ".")] for term in terms]
            for terms in (part.split(",") for part in text.split("->"))
        ]
        pairs = [part for x, numbers in zip(operands, inputs, strict=True) for part in (mg.tensor(x), numbers)]
        assert mg.einsum(*pairs, *itertools.chain(*output)).tolist() == ours.tolist(), text


@pytest.mark.parametrize("seed", range(0, 400, 10))
def test_random_einsum_equations_to_the_third_order(seed: int) -> None:
    text, operands = equation(seed)
    derivatives_agree(lambda *xs: mg.einsum(text, *xs), tuple(operands))


def index(seed: int, shape: tuple[int, ...]) -> Any:
    """A random index: numbers, slices, None, an ellipsis, integer arrays and masks, in any mixture NumPy takes."""
    rng = np.random.default_rng(seed)
    parts: list[Any] = []
    for n in shape[: rng.integers(0, len(shape) + 1)]:
        kind = rng.integers(0, 5)
        if kind == 0:
            parts.append(int(rng.integers(-n, n)))
        elif kind == 1:
            parts.append(slice(*[None if rng.random() < 0.4 else int(v) for v in rng.integers(-n, n + 1, size=2)]))
        elif kind == 2:
            parts.append(slice(None, None, int(rng.choice([-2, -1, 2, 3]))))
        elif kind == 3:
            parts.append(rng.integers(-n, n, size=3))
        else:
            mask = np.zeros(n, bool)
            mask[rng.permutation(n)[: min(3, n)]] = True
            parts.append(mask if n >= 3 else slice(None))
    if rng.random() < 0.3:
        parts.insert(int(rng.integers(0, len(parts) + 1)), None)
    if rng.random() < 0.3:  # in the middle it would move what follows to axes of other lengths
        parts.append(Ellipsis)
    return tuple(parts)


def test_four_hundred_random_indices() -> None:
    shape = (3, 4, 5)
    for seed in range(400):
        at = index(seed, shape)
        x = mg.tensor(np.arange(60.0).reshape(shape), requires_grad=True)
        y = x[at]
        np.testing.assert_array_equal(y.numpy(), x.numpy()[at], err_msg=str(at))
        g = np.asarray(np.random.default_rng(seed).normal(size=y.shape))
        expected = np.zeros(shape)
        np.add.at(expected, at, g)
        y.backward(g)
        np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-12, err_msg=str(at))
