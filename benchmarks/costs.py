"""What a workload must compute and move, by formula: the arithmetic intensity of the roofline picture.

Operations are additions, multiplications, comparisons, divisions and roots of the mathematics, one each (a
multiply-add is two); indices and copies are none. Bytes are those of the arrays that an op by itself cannot
avoid: float32 inputs read once, outputs written once, and where a whole array must be seen before the first
result (BatchNorm's statistics), the second reading too. im2col's columns, temporaries and gradients summed
in place are not in them: whoever moves more is further from the roof than its point says, and whoever fuses
ops may come out above what its ops allow one by one.
"""

from __future__ import annotations

from typing import NamedTuple


class Cost(NamedTuple):
    """Operations, and bytes to and from memory."""

    flops: float
    bytes: float

    def __add__(self, other: object) -> Cost:  # type: ignore[override]
        assert isinstance(other, Cost)
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, n: float) -> Cost:
        return Cost(n * self.flops, n * self.bytes)

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.flops / self.bytes


NOTHING = Cost(0, 0)


def product(m: int, k: int, n: int) -> Cost:
    """(m, k) @ (k, n)."""
    return Cost(2.0 * m * k * n, 4.0 * (m * k + k * n + m * n))


def elementwise(size: float, flops: float, arrays: float) -> Cost:
    """`flops` operations an element; arrays: how many of that size are read or written."""
    return Cost(flops * size, 4.0 * arrays * size)


def conv_forward(n: int, c: int, o: int, side: int, k: int, out: int) -> Cost:
    """Images (n, c, side, side) by kernels (o, c, k, k) to (n, o, out, out), with bias."""
    x, w, y = n * c * side * side, o * c * k * k, n * o * out * out
    return Cost(2.0 * y * c * k * k + y, 4.0 * (x + w + o + y))


def conv(n: int, c: int, o: int, side: int, k: int, out: int, first: bool = False) -> Cost:
    """Forward and backward; the first layer's input needs no gradient."""
    forward = conv_forward(n, c, o, side, k, out)
    y = n * o * out * out
    weight = forward + Cost(y, 4.0 * o)  # reads x and g, writes dw; the bias's gradient is a sum of g
    return forward + weight + (NOTHING if first else forward)


def batch_norm(size: int) -> Cost:
    """Forward: mean, centring, squares and their mean, scale, shift (7), x read twice and y written. Backward: two
    sums along g and x - mean (4), and scale g + slope (x - mean) + offset (5); g and x read twice and dx written."""
    return elementwise(size, 7 + 9, 3 + 5)


def relu(size: int) -> Cost:
    """Forward x to y; backward g where y > 0."""
    return elementwise(size, 2, 2 + 3)


def max_pool(size: int) -> Cost:
    """Windows of 2 x 2: three comparisons each; backward the places (a byte each) and g, and all of dx written."""
    return Cost(0.75 * size, 4.0 * size * (1 + 0.25) + 0.25 * size + 0.25 * size + 4.0 * size * (0.25 + 1))


def linear_forward(n: int, i: int, o: int) -> Cost:
    return product(n, i, o) + Cost(n * o, 4.0 * o)


def linear(n: int, i: int, o: int, first: bool = False) -> Cost:
    """Forward and backward."""
    return linear_forward(n, i, o) + product(i, n, o) + (NOTHING if first else product(n, o, i)) + Cost(n * o, 4.0 * o)


def cross_entropy(n: int, classes: int) -> Cost:
    """Maximum, difference, exp, sum, log, difference; backward exp, difference, scale."""
    return elementwise(n * classes, 9, 4)


def sgd(parameters: int) -> Cost:
    """momentum times buffer plus gradient, rate times that from the parameter: three arrays read, two written."""
    return elementwise(parameters, 4, 5)


def small_cnn(n: int) -> Cost:
    """A training step of W1."""
    first, second = n * 16 * 28 * 28, n * 32 * 14 * 14
    total = conv(n, 1, 16, 28, 3, 28, first=True) + batch_norm(first) + relu(first) + max_pool(first)
    total += conv(n, 16, 32, 14, 3, 14) + batch_norm(second) + relu(second) + max_pool(second)
    return total + linear(n, 1568, 10) + cross_entropy(n, 10) + sgd(160 + 32 + 4640 + 64 + 15690)


def small_cnn_forward(n: int) -> Cost:
    """W7. In evaluation BatchNorm is a scale and a shift of each channel."""
    first, second = n * 16 * 28 * 28, n * 32 * 14 * 14
    total = conv_forward(n, 1, 16, 28, 3, 28) + conv_forward(n, 16, 32, 14, 3, 14) + linear_forward(n, 1568, 10)
    for size in (first, second):
        total += elementwise(size, 2, 2) + elementwise(size, 1, 2) + elementwise(size, 0.75, 1.25)
    return total


def lenet(n: int) -> Cost:
    """A training step of W2."""
    first, second = n * 6 * 28 * 28, n * 16 * 10 * 10
    total = conv(n, 1, 6, 28, 5, 28, first=True) + relu(first) + max_pool(first)
    total += conv(n, 6, 16, 14, 5, 10) + relu(second) + max_pool(second)
    total += linear(n, 400, 120) + relu(n * 120) + linear(n, 120, 84) + relu(n * 84) + linear(n, 84, 10)
    return total + cross_entropy(n, 10) + sgd(156 + 2416 + 48120 + 10164 + 850)


def mlp(n: int) -> Cost:
    """A training step of W3. A sigmoid: negation, exp, sum, quotient; backward three; x to y, then g and y to dx."""
    total = linear(n, 784, 100, first=True) + linear(n, 100, 100).times(2) + linear(n, 100, 10)
    total += elementwise(3 * n * 100, 4 + 3, 2 + 3)
    return total + cross_entropy(n, 10) + sgd(78500 + 10100 + 10100 + 1010)


IMAGES = 128 * 32 * 28 * 28
COSTS = {
    "w1": small_cnn(128),
    "w2": lenet(64),
    "w3": mlp(60),
    "w4": batch_norm(IMAGES),
    # mean; centring; square, mean; times gamma; root, quotient; plus beta; and their pullbacks, op by op
    "w4_primitives": elementwise(IMAGES, 1 + 1 + 2 + 1 + 1 + 1 + 10, 1 + 2 + 2 + 1 + 2 + 2 + 2 + 14),
    "w5_expression": elementwise(4, 3 + 2, 9),
    "w5_chain": elementwise(4, 1000, 2 * 1000),
    "w6_forward": conv_forward(128, 16, 32, 28, 3, 28),
    "w6_both": conv(128, 16, 32, 28, 3, 28),
    "w7": small_cnn_forward(10_000),
    "w7_batches": small_cnn_forward(500).times(20),
    "op_relu": relu(IMAGES),
    "op_max_pool": max_pool(IMAGES),
    "op_conv_first": conv(128, 1, 16, 28, 3, 28, first=True),
    "op_linear": linear(128, 1568, 10),
}
"""By the name of the workload; one step of each."""
