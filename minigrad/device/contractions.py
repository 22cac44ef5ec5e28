"""einsum where a graph is captured, in which CuPy refuses the calls of cuBLAS that its own einsum makes.

Two operands are a batched product of matrices: letters of both operands and the output are the batch, those of one
operand and the output rows or columns, and those that the output lacks are summed.
"""

from __future__ import annotations

import math
from typing import Any

from minigrad.backend import Array, capturing, xp
from minigrad.device.launch import offer
from minigrad.device.products import product
from minigrad.device.sums import sums_of_products


@offer("einsum")
def einsum(*given: Any) -> Array | None:
    """`kernels.einsum`, where a graph is captured: operands from left to right, and then the equation.

    Every letter stands once in a term, and in another term or the output too (`ops.einsum` sees to that).
    """
    return contracted(*given) if capturing.on else None


def contracted(*given: Any) -> Array | None:
    """`einsum`, captured or not; None where an operand is of another kind than products are made of."""
    *operands, equation = given
    if not all(x.__class__ is xp.ndarray for x in operands):
        return None
    inputs, output = equation.split("->")
    first, *terms = inputs.split(",")
    y, *others = operands
    for number, (term, x) in enumerate(zip(terms, others, strict=True)):
        later = set(output).union(*terms[number + 1 :])
        kept = "".join(c for c in dict.fromkeys(first + term) if c in later)
        pair = _pair(y, first, x, term, kept)
        if pair is None:
            return None
        y, first = pair, kept
    return y.transpose([first.index(c) for c in output])


def _pair(a: Array, of_a: str, b: Array, of_b: str, kept: str) -> Array | None:
    """The product of two operands, with the axes of the letters that are kept, in their order."""
    size = dict(zip(of_a + of_b, a.shape + b.shape, strict=True))
    batch = [c for c in of_a if c in of_b and c in kept]
    inner = [c for c in of_a if c in of_b and c not in kept]
    rows, columns = [c for c in of_a if c not in of_b], [c for c in of_b if c not in of_a]
    count, m, k, n = (math.prod(size[c] for c in letters) for letters in (batch, rows, inner, columns))
    a = a.transpose([of_a.index(c) for c in batch + rows + inner])
    b = b.transpose([of_b.index(c) for c in batch + inner + columns])
    y: Array | None
    if not inner:
        y = a.reshape(count, m, 1) * b.reshape(count, 1, n)
    elif m == n == 1:
        y = sums_of_products(a.reshape(count, k), b.reshape(count, k), (1,))
    elif count == 1:
        y = product(a.reshape(m, k), b.reshape(k, n))
    else:
        y = product(a.reshape(count, m, k), b.reshape(count, k, n))
    if y is None:
        return None
    made = batch + rows + columns
    return y.reshape([size[c] for c in made]).transpose([made.index(c) for c in kept])
