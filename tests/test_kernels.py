"""Large arrays: what blocks and threads compute is what the small path computes, and does not depend on threads."""

import itertools
import multiprocessing
import threading
import time
import weakref

import numpy as np
import pytest

import minigrad as mg
from minigrad import convolution, kernels, nn, ops, parallel, pooling, sums
from minigrad import functional as F
from minigrad.pooling import Windows

LARGE = (40, 8, 24, 24)  # several blocks
RNG = np.random.default_rng(17)


@pytest.fixture(autouse=True)
def two_threads():
    before = parallel.threads()
    parallel.set_threads(2)
    yield
    parallel.set_threads(before)


def normal(*shape, dtype="float64"):
    return RNG.normal(size=shape).astype(dtype)


def with_threads(n, f):
    parallel.set_threads(n)
    return f()


def test_arrays_of_this_file_are_cut_into_several_blocks():
    assert parallel.large(normal(*LARGE))
    assert len(parallel.cuts(LARGE[0], int(np.prod(LARGE)))) > 1


@pytest.mark.parametrize("shape", [LARGE, (8, 24, 24), (1, 8, 1, 1), (24,), (40, 1, 1, 1), ()], ids=str)
@pytest.mark.parametrize("name", ["add", "multiply", "divide", "maximum", "where_", "arctan2"])
def test_rows_on_large_arrays_equal_numpy_bit_for_bit(name, shape):
    x, b = normal(*LARGE), normal(*shape) + 3
    arguments = (x > 0, x, b) if name == "where_" else (x, b)
    expected = getattr(np, name.rstrip("_"))(*arguments)
    raw = getattr(ops, name)(*map(mg.tensor, arguments)).data
    assert raw.dtype == expected.dtype
    np.testing.assert_array_equal(raw, expected)


def test_a_large_array_of_another_memory_order_keeps_it():
    x = normal(*LARGE).transpose(1, 0, 2, 3)
    y = mg.exp(mg.Tensor(x)).data
    assert y.strides == np.exp(x).strides
    np.testing.assert_array_equal(y, np.exp(x))


@pytest.mark.parametrize("last_first", [False, True])
def test_where_two_memory_orders_meet_the_result_lies_as_images_do_after_a_convolution(last_first):
    x, y = normal(*LARGE), np.ascontiguousarray(normal(*LARGE).transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)
    a, b = (y, x) if last_first else (x, y)
    z = (mg.Tensor(a) - mg.Tensor(b)).data
    np.testing.assert_array_equal(z, a - b)
    assert z.strides == y.strides


@pytest.mark.parametrize("op", ["multiply", "divide", "arctan2"])
@pytest.mark.parametrize("last", ["x", "g", "both", "neither"])
def test_the_gradient_of_a_value_for_each_channel_in_every_mixture_of_memory_orders(op, last):
    def laid(a, batch_last):
        return np.ascontiguousarray(a.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2) if batch_last else a

    x, g = laid(normal(*LARGE), last in ("x", "both")), laid(normal(*LARGE), last in ("g", "both"))
    scale, results = normal(1, 8, 1, 1) + 3, []
    for as_laid in (np.asarray, np.ascontiguousarray):
        leaves = [mg.Tensor(as_laid(x)), mg.Tensor(scale)]
        for leaf in leaves:
            leaf.requires_grad = True
        getattr(mg, op)(*leaves).backward(mg.Tensor(as_laid(g)))
        results.append([leaf.grad.numpy() for leaf in leaves])
    for laid_out, dense in zip(*results, strict=True):
        np.testing.assert_allclose(laid_out, dense, rtol=1e-9)


@pytest.mark.parametrize("shape", [(8, 24, 24), (1, 8, 1, 1), (24,), (40, 1, 1, 1), (40, 1, 24, 1), ()], ids=str)
def test_pullbacks_sum_back_within_blocks_what_broadcasting_spread(shape):
    x, b, g = normal(*LARGE), normal(*shape) + 3, normal(*LARGE)
    tx, tb = mg.tensor(x, requires_grad=True), mg.tensor(b, requires_grad=True)
    (tx / tb).backward(mg.tensor(g))
    np.testing.assert_allclose(tx.grad.numpy(), g / b, rtol=1e-12)
    full = -g * x / (b * b)
    lead = full.ndim - b.ndim
    axes = tuple(range(lead)) + tuple(i + lead for i, n in enumerate(shape) if n == 1 and full.shape[i + lead] > 1)
    np.testing.assert_allclose(tb.grad.numpy(), full.sum(axes).reshape(shape), rtol=1e-9, atol=1e-9)


def test_several_uses_add_up_in_place_without_touching_what_others_hold():
    x, g = mg.tensor(normal(*LARGE), requires_grad=True), normal(*LARGE)
    h = mg.tensor(g)
    y = mg.sin(x) * x + x
    y.backward(h)
    np.testing.assert_allclose(x.grad.numpy(), g * (np.cos(x.numpy()) * x.numpy() + np.sin(x.numpy()) + 1), atol=1e-13)
    np.testing.assert_array_equal(h.numpy(), g)


def gradients(f, arrays):
    xs = [mg.tensor(a, requires_grad=True) for a in arrays]
    y = f(*xs)
    y.backward(mg.tensor(np.random.default_rng(5).normal(size=y.shape)))
    return [x.grad.numpy() for x in xs]


@pytest.mark.parametrize(
    "shapes",
    [
        (LARGE, LARGE),
        (LARGE, LARGE[-1:]),
        ((2, *LARGE), LARGE),
        ((2, 1 << 17), (2, 1)),
        ((2, 1 << 17), (1, 1 << 17)),
        ((600, 1), (1, 500)),
    ],
    ids=str,
)
@pytest.mark.parametrize("op", ["add", "subtract", "multiply", "divide", "maximum", "power"])
def test_gradients_in_blocks_are_those_of_arrays_taken_whole(op, shapes, monkeypatch):
    def f(a, b):
        return getattr(mg, op)(a, b) + getattr(mg, op)(b, a)  # each of them is used twice

    arrays = [np.abs(normal(*shape)) + 0.5 for shape in shapes]
    blocks = gradients(f, arrays)
    monkeypatch.setattr(parallel, "LARGE", 1 << 40)
    for found, whole in zip(blocks, gradients(f, arrays), strict=True):
        np.testing.assert_allclose(found, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("axis", [None, 0, 1, 3, (0, 2, 3), (1, 2, 3), (0, 1), (1, 2), (0, 3)], ids=str)
@pytest.mark.parametrize("keepdims", [False, True])
def test_sums_and_means_of_large_arrays(axis, keepdims):
    x = normal(*LARGE)
    for name in ("sum", "mean"):
        expected = getattr(np, name)(x, axis=axis, keepdims=keepdims)
        y = getattr(ops, name)(x, axis, keepdims)
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("axis", [4, -5, (0, 4), (1, 1), (1, -3)], ids=str)
@pytest.mark.parametrize("op", [mg.sum, mg.mean])
def test_axes_that_a_large_array_has_not_or_named_twice_raise(op, axis):
    with pytest.raises((IndexError, ValueError), match=op.__name__):
        op(mg.tensor(normal(*LARGE)), axis)


def test_the_mean_of_large_float32_values_is_right_to_a_few_units_in_the_last_place():
    x = (1e4 + 1e-2 * RNG.normal(size=(64, 2, 64, 64))).astype("float32")
    exact = x.astype("float64").mean((0, 2, 3))
    assert np.abs(sums.mean(x, (0, 2, 3), False) - exact).max() <= 2 * np.spacing(np.float32(1e4))


def step(model, x, y):
    model.zero_grad()
    loss = F.cross_entropy(model(mg.tensor(x)), mg.tensor(y))
    loss.backward()
    return [loss.item(), *[p.grad.numpy() for p in model.parameters()]]


def test_a_training_step_is_the_same_bit_for_bit_with_one_two_and_three_threads():
    nn = mg.nn
    mg.random.seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.Sigmoid(),
        nn.Flatten(), nn.Linear(8 * 12 * 12, 10),
    )  # fmt: skip
    x, y = normal(64, 1, 28, 28, dtype="float32"), RNG.integers(0, 10, 64)
    first, *others = [with_threads(n, lambda: step(model, x, y)) for n in (1, 2, 3)]
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_batches_do_not_pile_up_before_a_thread_that_is_late():
    first = parallel.threads() - 1
    while parallel._jobs.qsize():  # what tests with more threads left to threads that are late
        time.sleep(0.001)
    for _ in range(2000):
        parallel.each(2, lambda number: None)
        assert parallel._jobs.qsize() <= 3 * first


PRODUCTS = [
    ((700, 300), (300, 500)),
    ((30, 900), (900, 800)),
    ((9, 90, 80), (9, 80, 400)),
    ((3, 9, 90, 80), (3, 9, 80, 400)),
    ((9, 90, 80), (80, 800)),
    ((1, 90, 80), (9, 80, 900)),
]


@pytest.mark.parametrize("shapes", PRODUCTS, ids=str)
def test_large_products(shapes):
    a, b = (normal(*shape) for shape in shapes)
    np.testing.assert_allclose(kernels.matmul(a, b), a @ b, rtol=1e-10, atol=1e-10)


CONVOLUTIONS = [
    # n, c, h, w, o, kernel, stride, padding, dilation, groups
    (70, 6, 13, 11, 4, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (70, 6, 13, 11, 4, (3, 2), (1, 1), (0, 1), (2, 1), 2),
    (70, 6, 13, 11, 6, (3, 3), (2, 1), (1, 2), (1, 1), 6),
    (70, 6, 12, 12, 4, (2, 2), (2, 2), (0, 0), (1, 1), 1),
    (70, 6, 12, 12, 4, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    (70, 6, 12, 12, 4, (1, 1), (2, 3), (0, 0), (1, 1), 1),
    (2, 3, 5, 4, 2, (5, 4), (1, 1), (0, 0), (1, 1), 1),
]


def direct(x, w, stride, padding, dilation, groups):
    """The definition, cell by cell of the kernel."""
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    (n, _, h, width), (o, cg, kh, kw) = x.shape, w.shape
    oh, ow = ((s - d * (k - 1) - 1) // t + 1 for s, d, k, t in zip((h, width), dilation, (kh, kw), stride, strict=True))
    y = np.zeros((n, o, oh, ow))
    for i, j in itertools.product(range(kh), range(kw)):
        rows, columns = i * dilation[0], j * dilation[1]
        part = x[:, :, rows:, columns:][:, :, :: stride[0], :: stride[1]][:, :, :oh, :ow]
        for q in range(groups):
            of, ch = slice(q * o // groups, (q + 1) * o // groups), slice(q * cg, (q + 1) * cg)
            y[:, of] += np.einsum("oc,nchw->nohw", w[of, :, i, j], part[:, ch])
    return y


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution_in_blocks_and_its_two_adjoints(case, monkeypatch):
    monkeypatch.setattr(convolution, "COLUMN_BYTES", 1 << 16)
    n, c, h, width, o, kernel, *static, groups = case
    x, w = normal(n, c, h, width), normal(o, c // groups, *kernel)
    y = convolution.conv2d(x, w, *static, groups)
    np.testing.assert_allclose(y, direct(x, w, *static, groups), rtol=1e-10, atol=1e-12)
    g = normal(*y.shape)
    dx = convolution.conv2d_input(g, w, *static, groups, (h, width))
    dw = convolution.conv2d_weight(x, g, *static, groups, kernel)
    assert dx.shape == x.shape and dw.shape == w.shape
    np.testing.assert_allclose((dx * x).sum(), (g * y).sum(), rtol=1e-10)
    np.testing.assert_allclose((dw * w).sum(), (g * y).sum(), rtol=1e-10)


POOLINGS = [
    Windows((2, 2), (2, 2), (0, 0), (1, 1), (12, 12)),
    Windows((3, 2), (3, 2), (0, 0), (1, 1), (8, 12)),
    Windows((1, 4), (1, 4), (0, 0), (1, 1), (24, 6)),
    Windows((3, 3), (2, 2), (1, 1), (1, 1), (12, 12)),
    Windows((2, 2), (3, 3), (0, 0), (2, 2), (8, 8)),
    Windows((2, 3), (2, 2), (1, 1), (1, 1), (13, 13)),
]


@pytest.mark.parametrize("at", POOLINGS, ids=str)
@pytest.mark.parametrize("values", ["distinct", "ties", "nan", "lowest"])
def test_max_pooling_takes_the_first_maximum_of_each_window(at, values):
    x = normal(*LARGE)
    x = np.round(x) if values == "ties" else np.where(x > 1.5, np.nan, x) if values == "nan" else x
    x = np.full_like(x, -np.inf) if values == "lowest" else x
    y, cells = pooling.maximum(x, at), None
    cells = pooling.which(x, y, at)
    framed = np.full((*LARGE[:2], 40, 40), -np.inf)
    framed[:, :, at.padding[0] : at.padding[0] + 24, at.padding[1] : at.padding[1] + 24] = x
    inside = np.zeros((40, 40), bool)
    inside[at.padding[0] : at.padding[0] + 24, at.padding[1] : at.padding[1] + 24] = True
    view = convolution.windows(framed, at.kernel, at.stride, at.dilation)[..., : at.out[0], : at.out[1]]
    valid = convolution.windows(inside, at.kernel, at.stride, at.dilation)[..., : at.out[0], : at.out[1]]
    count = at.kernel[0] * at.kernel[1]
    view = view.reshape(*LARGE[:2], count, *at.out)
    valid = valid.reshape(count, *at.out)
    key = np.where(np.isnan(view), np.inf, np.where(valid & (view == -np.inf), -1e300, view))
    first = np.argmax(key, axis=2)
    np.testing.assert_array_equal(cells, first)
    np.testing.assert_array_equal(y, np.take_along_axis(view, first[:, :, None], 2)[:, :, 0])
    np.testing.assert_array_equal(pooling.pick(x, cells, at), y)
    g = normal(*y.shape)
    other = normal(*LARGE)
    placed = pooling.place(g, cells, at, (24, 24))
    np.testing.assert_allclose((placed * other).sum(), (g * pooling.pick(other, cells, at)).sum())


def test_an_error_in_a_block_is_raised_to_the_caller_and_the_threads_go_on():
    def work(number):
        if number == 3:
            raise ZeroDivisionError("in block 3")

    with pytest.raises(ZeroDivisionError, match="block 3"):
        parallel.each(8, work)
    done = []
    parallel.each(8, done.append)
    assert sorted(done) == list(range(8))


def test_blocks_inside_blocks_run_in_their_own_thread():
    seen = []
    parallel.each(2, lambda a: parallel.each(3, lambda b: seen.append((a, b))))
    assert sorted(seen) == list(itertools.product(range(2), range(3)))


def test_numpy_error_settings_hold_in_every_thread():
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        mg.log(mg.zeros(LARGE))


def test_set_threads_refuses_what_is_not_a_positive_number():
    for n in (0, -1, 2.0):
        with pytest.raises(ValueError, match="set_threads: needs an integer >= 1"):
            parallel.set_threads(n)


def _in_child(queue):
    queue.put(float(mg.ones(LARGE).sum().item()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    mg.exp(mg.ones(LARGE))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=30) == np.prod(LARGE)
    child.join()


def test_a_thread_that_wakes_late_keeps_no_array():
    """Who owns an array decides whether it is added to in place, and so how sums lie and round: no matter of chance."""
    parallel.each(2, lambda number: None)  # there are workers now
    asleep, go_on = threading.Barrier(len(parallel._workers) + 1, timeout=60), threading.Event()
    for _ in parallel._workers:
        parallel._jobs.put(parallel.Batch(lambda number: (asleep.wait(), go_on.wait(60)), 1))
    asleep.wait()
    try:
        y = parallel.elementwise(np.exp, [normal(*LARGE)], LARGE)
        alive = weakref.ref(y)
        del y
        assert alive() is None
    finally:
        go_on.set()


def test_the_second_derivative_of_a_net_is_the_same_from_run_to_run():
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    x, found = mg.tensor(normal(32, 1, 24, 24, dtype="float32")), set()
    for _ in range(6):
        net.zero_grad()
        loss = mg.square(net(x)).mean()
        g = mg.grad(loss, net[0].weight, create_graph=True)
        (loss + (g * g).sum()).backward()
        found.add(b"".join(p.grad.numpy().tobytes() for p in net.parameters()))
    assert len(found) == 1
