"""Layers as functions: linear maps, convolution, pooling, softmax, normalisation, dropout."""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg
from minigrad import functional as F
from tests import references as ref
from tests.against import agrees_with_reference, agrees_with_torch, floats


def torch_functional():
    return pytest.importorskip("torch").nn.functional


# ---- linear maps ------------------------------------------------------------------------------------
@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (0,)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(lead, bias):
    arrays = floats((*lead, 5), (3, 5), *([(3,)] if bias else []))
    agrees_with_reference(F.linear, lambda x, w, b=0.0: x @ w.T + b, *arrays)
    agrees_with_torch(F.linear, torch_functional().linear, *arrays)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (0,)])
def test_embedding_adds_up_where_an_index_repeats(shape):
    index = np.random.default_rng(0).integers(0, 4, shape)
    (table,) = floats((4, 3))
    agrees_with_reference(lambda w: F.embedding(mg.tensor(index), w), lambda w: w[index], table)
    torch = pytest.importorskip("torch")
    agrees_with_torch(
        lambda w: F.embedding(mg.tensor(index), w),
        lambda w: torch.nn.functional.embedding(torch.tensor(index), w),
        table,
    )


CONVOLUTIONS = [
    {},
    {"stride": 2},
    {"stride": (2, 1), "padding": (1, 2)},
    {"stride": 3, "padding": 1},  # the last columns are never read
    {"dilation": 2, "padding": 2},
    {"dilation": (1, 2), "padding": "same"},
    {"padding": "same"},
    {"padding": "valid"},
    {"groups": 2},
    {"groups": 4, "stride": 2, "padding": 1},
    {"groups": 2, "dilation": 2, "stride": 2, "padding": 2},
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("kernel", [(3, 3), (2, 3), (1, 1), (4, 2)])
def test_conv2d(options, kernel):
    groups = options.get("groups", 1)
    x, w, b = floats((2, 4, 7, 6), (4, 4 // groups, *kernel), (4,))
    if kernel == (4, 2) and options.get("dilation") == 2 and options.get("groups") == 2:
        options = {**options, "padding": 3}
    ours = lambda x, w, b: F.conv2d(x, w, b, **options)
    agrees_with_reference(ours, lambda x, w, b: ref.conv2d(x, w, b, **options), x, w, b)
    agrees_with_torch(ours, lambda x, w, b: torch_functional().conv2d(x, w, b, **options), x, w, b)


def test_conv2d_of_no_images_is_no_images_and_its_weight_gets_zeros():
    x, w, b = floats((0, 2, 5, 5), (3, 2, 3, 3), (3,))
    agrees_with_torch(F.conv2d, torch_functional().conv2d, x, w, b)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "groups": 2}, {"padding": "same"}], ids=str
)
@pytest.mark.parametrize("kernel", [1, 3, 4])
def test_conv1d(options, kernel):
    x, w, b = floats((2, 4, 9), (6, 4 // options.get("groups", 1), kernel), (6,))
    agrees_with_torch(
        lambda x, w, b: F.conv1d(x, w, b, **options),
        lambda x, w, b: torch_functional().conv1d(x, w, b, **options),
        x,
        w,
        b,
    )
    flat = {
        k: v if k in ("groups",) or isinstance(v, str) else ((0 if k == "padding" else 1), v)
        for k, v in options.items()
    }
    reference = lambda x, w, b: ref.conv2d(x[:, :, None], w[:, :, None], b, **flat)[:, :, 0]
    agrees_with_reference(lambda x, w, b: F.conv1d(x, w, b, **options), reference, x, w, b)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": (1, 3), "padding": (1, 0), "output_padding": (0, 2)},
        {"groups": 2, "dilation": 2},
        {"groups": 2, "stride": 2, "padding": 1, "dilation": (1, 2)},
        {"output_padding": (0, 1), "dilation": (1, 2)},  # a convolution of the output has room for more windows
        {"stride": (2, 1), "output_padding": (2, 1), "dilation": (3, 2)},
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4)])
@pytest.mark.parametrize("size", [(4, 3), (3, 1)])
def test_conv_transpose2d(options, kernel, size):
    x, w, b = floats((2, 4, *size), (4, 6 // options.get("groups", 1), *kernel), (6,))
    ours = lambda x, w, b: F.conv_transpose2d(x, w, b, **options)
    agrees_with_reference(ours, lambda x, w, b: ref.conv_transpose2d(x, w, b, **options), x, w, b)
    agrees_with_torch(ours, lambda x, w, b: torch_functional().conv_transpose2d(x, w, b, **options), x, w, b)


# ---- pooling ----------------------------------------------------------------------------------------
POOLS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 0)},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
    {"kernel_size": (3, 2), "stride": 2, "padding": 1, "ceil_mode": True},
    {"kernel_size": 2, "stride": 1},
    {"kernel_size": 2, "ceil_mode": True},  # the last windows end beyond the input
    {"kernel_size": (1, 5), "stride": (1, 3), "ceil_mode": True},
    {"kernel_size": (8, 9), "stride": 4, "ceil_mode": True},  # the only window does
]


@pytest.mark.parametrize(
    "options",
    [
        *POOLS,
        {"kernel_size": 2, "dilation": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(7, 6), (5, 8)])
def test_max_pool2d(options, size):
    (x,) = floats((2, 3, *size))
    kernel, rest = options["kernel_size"], {k: v for k, v in options.items() if k != "kernel_size"}
    agrees_with_reference(lambda x: F.max_pool2d(x, kernel, **rest), lambda x: ref.max_pool2d(x, kernel, **rest), x)
    agrees_with_torch(
        lambda x: F.max_pool2d(x, kernel, **rest), lambda x: torch_functional().max_pool2d(x, kernel, **rest), x
    )


@pytest.mark.parametrize("options", POOLS, ids=str)
@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("size", [(7, 6), (5, 8)])
def test_avg_pool2d(options, count_include_pad, size):
    (x,) = floats((2, 3, *size))
    options = {**options, "count_include_pad": count_include_pad}
    agrees_with_reference(
        lambda x: F.avg_pool2d(x, **options),
        lambda x: ref.avg_pool2d(x, options["kernel_size"], **{k: v for k, v in options.items() if k != "kernel_size"}),
        x,
    )
    agrees_with_torch(lambda x: F.avg_pool2d(x, **options), lambda x: torch_functional().avg_pool2d(x, **options), x)


def test_avg_pool2d_of_half_precision_does_not_overflow_in_its_sum():
    assert F.avg_pool2d(mg.full((1, 1, 28, 28), 100.0, dtype=mg.float16), 28).tolist() == [[[[100.0]]]]


def test_max_pool2d_gives_the_gradient_to_the_first_of_equal_maxima():
    x = np.zeros((1, 1, 4, 4))
    agrees_with_torch(lambda x: F.max_pool2d(x, 2), lambda x: torch_functional().max_pool2d(x, 2), x)
    x = mg.tensor(x, requires_grad=True)
    F.max_pool2d(x, 2).sum().backward()
    assert x.grad.tolist() == [[[[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]]]


def test_max_pool2d_lets_nan_win_and_minus_infinity_be_a_maximum():
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    x[0, 0, 0, 1], x[0, 0, 2:, 2:] = np.nan, -np.inf
    pooled = F.max_pool2d(mg.tensor(x), 2).numpy()
    assert np.isnan(pooled[0, 0, 0, 0]) and pooled[0, 0, 1, 1] == -np.inf
    assert pooled[0, 0, 0, 1] == 7 and pooled[0, 0, 1, 0] == 13


@pytest.mark.parametrize("output", [1, 2, (3, 2), (7, 6), (4, 5), (1, 6), 9])
def test_adaptive_avg_pool2d(output):
    (x,) = floats((2, 3, 7, 6))
    ours = lambda x: F.adaptive_avg_pool2d(x, output)
    agrees_with_reference(ours, lambda x: ref.adaptive_avg_pool2d(x, output), x)
    agrees_with_torch(ours, lambda x: torch_functional().adaptive_avg_pool2d(x, output), x)


# ---- softmax ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_softmax_and_its_logarithm(axis, scale):
    (x,) = floats((3, 4, 2))
    x = x * scale
    agrees_with_torch(lambda x: F.log_softmax(x, axis), lambda x: torch_functional().log_softmax(x, axis), x)
    agrees_with_torch(lambda x: F.softmax(x, axis), lambda x: torch_functional().softmax(x, axis), x)
    if scale == 1.0:
        agrees_with_reference(lambda x: F.log_softmax(x, axis), lambda x: ref.log_softmax(x, axis), x)
        agrees_with_reference(lambda x: F.softmax(x, axis), lambda x: np.exp(ref.log_softmax(x, axis)), x)


# ---- normalisation ----------------------------------------------------------------------------------
@pytest.mark.parametrize("shape, axes", [((4, 5), 1), ((2, 3, 4), 1), ((2, 3, 4), 2), ((3, 2, 2, 2), 3)])
def test_layer_norm(shape, axes):
    x, w, b = floats(shape, shape[-axes:], shape[-axes:])
    agrees_with_reference(
        lambda x, w, b: F.layer_norm(x, shape[-axes:], w, b), lambda x, w, b: ref.layer_norm(x, axes, w, b), x, w, b
    )
    agrees_with_torch(
        lambda x, w, b: F.layer_norm(x, shape[-axes:], w, b),
        lambda x, w, b: torch_functional().layer_norm(x, shape[-axes:], w, b),
        x, w, b,
    )  # fmt: skip
    agrees_with_torch(
        lambda x: F.layer_norm(x, shape[-axes:]), lambda x: torch_functional().layer_norm(x, shape[-axes:]), x
    )


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 5), (3, 4, 2, 3)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm(shape, groups):
    x, w, b = floats(shape, (4,), (4,))
    agrees_with_torch(
        lambda x, w, b: F.group_norm(x, groups, w, b),
        lambda x, w, b: torch_functional().group_norm(x, groups, w, b),
        x,
        w,
        b,
    )
    if shape != (2, 4) or groups != 4:  # one value in a group: its derivative is 0/eps, too steep for a difference
        agrees_with_reference(
            lambda x, w, b: F.group_norm(x, groups, w, b), lambda x, w, b: ref.group_norm(x, groups, w, b), x, w, b
        )


@pytest.mark.parametrize("normalise", [lambda x: F.layer_norm(x, (512,)), lambda x: F.group_norm(x, 2)])
def test_half_precision_is_normalised_in_single_precision(normalise):
    x = (np.random.default_rng(0).normal(size=(4, 512)) * 300).astype(np.float16)
    y = normalise(mg.tensor(x))
    assert y.dtype == np.float16
    np.testing.assert_allclose(y.numpy().astype(float), normalise(mg.tensor(x.astype(float))).numpy(), atol=2e-3)


# ---- dropout ----------------------------------------------------------------------------------------
def test_dropout_scales_what_it_keeps_and_its_gradient_wears_the_same_mask():
    mg.random.seed(0)
    x = mg.ones(1000, requires_grad=True)
    y = F.dropout(x, 0.25)
    y.sum().backward()
    assert set(np.unique(y.numpy())) == {0.0, np.float32(4 / 3)}
    assert np.array_equal(x.grad.numpy(), y.numpy())
    assert 650 < np.count_nonzero(y.numpy()) < 850
    assert y.dtype == np.float32


def test_dropout_at_its_ends_and_in_evaluation():
    x = mg.ones(5)
    assert F.dropout(x, 0.0) is x and F.dropout(x, 0.5, training=False) is x
    assert F.dropout(x, 1.0).tolist() == [0.0] * 5


# ---- dtypes -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    "f",
    [
        lambda x: F.conv2d(x, mg.ones(2, 2, 3, 3, dtype=x.dtype), padding=1),
        lambda x: F.conv_transpose2d(x, mg.ones(2, 2, 3, 3, dtype=x.dtype)),
        lambda x: F.max_pool2d(x, 2, padding=1),
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.adaptive_avg_pool2d(x, 3),
        lambda x: F.adaptive_avg_pool2d(x, 1),
        lambda x: F.softmax(x),
        lambda x: F.layer_norm(x, x.shape[1:]),
        lambda x: F.group_norm(x, 2),
        lambda x: F.batch_norm(x, axis=(0, 2, 3))[0],
        lambda x: F.dropout(x, 0.3),
        lambda x: F.cross_entropy(x, mg.zeros(2, 5, 5, dtype=int), label_smoothing=0.1),
        lambda x: F.bce_with_logits(x, mg.ones_like(x)),
        lambda x: F.huber_loss(x, mg.zeros_like(x)),
    ],
)
def test_the_dtype_goes_through_forward_and_backward(f, dtype):
    x = mg.tensor(np.random.default_rng(0).normal(size=(2, 2, 5, 5)).astype(dtype), requires_grad=True)
    y = f(x)
    y.sum().backward()
    assert y.dtype == dtype and x.grad.dtype == dtype


# ---- bad input --------------------------------------------------------------------------------------
def image(*shape):
    return mg.zeros(shape or (1, 2, 5, 5))


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: F.linear(mg.ones(2, 3), mg.ones(4, 5)), r"linear: the weight \[4, 5\] needs 5 features.*\[2, 3\]"),
        (lambda: F.linear(mg.ones(()), mg.ones(4, 5)), r"linear"),
        (lambda: F.linear(mg.ones(2, 5), mg.ones(4, 5), mg.ones(3)), r"linear: the bias needs shape \[4\], not \[3\]"),
        (lambda: F.embedding(mg.tensor([4]), mg.ones(4, 2)), r"embedding: an index .*0\.\.3"),
        (lambda: F.embedding(mg.tensor([-1]), mg.ones(4, 2)), r"embedding: an index .*0\.\.3"),
        (lambda: F.embedding(mg.tensor([1.0]), mg.ones(4, 2)), r"embedding: indices are integers, not float32"),
        (lambda: F.conv2d(image(2, 5, 5), mg.ones(1, 2, 3, 3)), r"conv2d: needs 4 axes .*\[2, 5, 5\]"),
        (lambda: F.conv2d(image(), mg.ones(1, 3, 3, 3)), r"conv.*\[1, 3, 3, 3\].*\[1, 2, 5, 5\]"),
        (lambda: F.conv2d(image(), mg.ones(1, 2, 3)), r"conv2d weight: needs 4 axes .*\[1, 2, 3\]"),
        (lambda: F.conv2d(image(), mg.ones(3, 2, 3, 3), mg.ones(1)), r"conv2d: the bias needs shape \[3\], not \[1\]"),
        (lambda: F.conv2d(image(), mg.ones(1, 2, 6, 6)), r"conv.*window of \[6, 6\].*\[5, 5\]"),
        (lambda: F.conv2d(image(), mg.ones(1, 2, 3, 3), stride=0), r"conv2d stride: needs one integer >= 1"),
        (lambda: F.conv2d(image(), mg.ones(1, 2, 3, 3), stride=1.5), r"conv2d stride: needs one integer .* not 1.5"),
        (lambda: F.conv2d(image(), mg.ones(1, 2, 3, 3), padding=-1), r"conv2d padding: needs one integer >= 0"),
        (lambda: F.conv2d(image(), mg.ones(1, 2, 3, 3), dilation=(1, 2, 3)), r"conv2d dilation"),
        (lambda: F.conv2d(image(), mg.ones(1, 2, 3, 3), padding="full"), r"'same' or 'valid', not 'full'"),
        (lambda: F.conv2d(image(), mg.ones(1, 2, 3, 3), stride=2, padding="same"), r"padding='same' needs stride 1"),
        (lambda: F.conv2d(image(), mg.ones(3, 1, 3, 3), groups=2), r"conv.*2 groups"),
        (lambda: F.conv2d(image(), mg.ones(2, 2, 3, 3), groups=0), r"groups"),
        (lambda: F.conv1d(mg.ones(2, 3), mg.ones(1, 3, 3)), r"conv1d: needs 3 axes .*\[2, 3\]"),
        (lambda: F.conv_transpose2d(image(), mg.ones(3, 2, 3, 3)), r"conv_transpose2d: the weight \[3, 2, 3, 3\]"),
        (lambda: F.conv_transpose2d(image(), mg.ones(2, 2, 3, 3), output_padding=1), r"output_padding"),
        (lambda: F.conv_transpose2d(image(), mg.ones(2, 2, 2, 2), padding=9), r"conv_transpose2d: .*\[1, 2, 5, 5\]"),
        (lambda: F.max_pool2d(image(2, 5, 5), 2), r"max_pool2d: needs 4 axes"),
        (lambda: F.max_pool2d(image(), 6), r"max_pool2d: a window of \(6, 6\) does not fit"),
        (lambda: F.max_pool2d(image(), 2, padding=2), r"max_pool2d: padding \(2, 2\) is at most half of the kernel"),
        (lambda: F.avg_pool2d(image(), 2, padding=2), r"avg_pool2d: padding \(2, 2\) is at most half"),
        (lambda: F.avg_pool2d(image(), 0), r"avg_pool2d kernel_size: needs one integer >= 1"),
        (lambda: F.adaptive_avg_pool2d(image(), 0), r"adaptive_avg_pool2d output_size"),
        (lambda: F.layer_norm(mg.ones(2, 3), (2,)), r"layer_norm: the last axes of \[2, 3\] are not \[2\]"),
        (lambda: F.layer_norm(mg.ones(3), (2, 3)), r"layer_norm"),
        (lambda: F.layer_norm(mg.ones(2, 3), (3,), mg.ones(2)), r"layer_norm: the weight.*\[3\].*\[2\]"),
        (lambda: F.group_norm(mg.ones(2, 3), 2), r"group_norm: the channels of \[2, 3\], .* into 2 groups"),
        (lambda: F.group_norm(mg.ones(2, 4), 2, mg.ones(3)), r"group_norm: the weight.*\[4\].*\[3\]"),
        (lambda: F.batch_norm(mg.ones(2, 3), mg.ones(2)), r"reshape.* size 2 into shape \(1, ?3\)"),
        (lambda: F.dropout(mg.ones(3), float("nan")), r"dropout: p must be in \[0, 1\], not nan"),
        (lambda: F.dropout(mg.ones(3), "a"), r"dropout: p must be a number, not 'a'"),
        (lambda: F.batch_norm(mg.ones(2, 3), eps=float("nan")), r"batch_norm: eps must be finite .* not nan"),
        (lambda: F.layer_norm(mg.ones(2, 3), (3,), eps=float("nan")), r"layer_norm: eps must be finite"),
        (lambda: F.group_norm(mg.ones(2, 4), 2, eps=-1.0), r"group_norm: eps must be finite and not negative, not -1"),
        (lambda: F.max_pool2d(mg.ones(1, 1, 6, 1), 4, 2, ceil_mode=True), r"a window of \(4, 4\) does not fit"),
        (lambda: F.softmax(mg.ones(2, 3), None), r"log_softmax: the axis is one number, not None"),
        (lambda: F.log_softmax(mg.ones(2, 3), (0, 1)), r"log_softmax: the axis is one number, not \(0, 1\)"),
        (lambda: F.flatten(mg.ones(2, 3), 7), r"flatten: axis 7 is out of range for an array of 2 axes"),
        (lambda: F.flatten(mg.ones(2, 3), -5), r"flatten: axis -5 is out of range for an array of 2 axes"),
        (lambda: F.flatten(mg.ones(2, 3), None), r"flatten: the axis is one number, not None"),
        (lambda: F.embedding([3], mg.ones(3, 2)), r"embedding: an index lies outside 0..2"),
        (lambda: F.embedding(mg.tensor([-1]).data, mg.ones(3, 2)), r"embedding: an index lies outside 0..2"),
        (lambda: F.conv2d(None, mg.ones(1, 2, 3, 3)), r"conv2d: cannot make numbers of NoneType"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_at_once(call, says):
    with pytest.raises((ValueError, TypeError, IndexError), match=says):
        result = call()
        result.numpy()  # a device is asked about labels when values next cross to the host


# ---- second derivatives -----------------------------------------------------------------------------
TWICE = {
    "linear": (F.linear, [(3, 4), (2, 4), (2,)]),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, 2, 1, 1, 2), [(2, 4, 5, 4), (2, 2, 3, 3), (2,)]),
    "conv2d same": (lambda x, w: F.conv2d(x, w, padding="same"), [(1, 2, 4, 4), (2, 2, 2, 3)]),
    "conv1d": (lambda x, w: F.conv1d(x, w, stride=2, padding=1), [(2, 2, 5), (3, 2, 3)]),
    "conv_transpose2d": (lambda x, w: F.conv_transpose2d(x, w, None, 2, 1, 1), [(2, 2, 3, 3), (2, 3, 3, 3)]),
    "conv_transpose2d with room for more windows": (
        lambda x, w: F.conv_transpose2d(x, w, None, (2, 1), 0, (2, 1), 1, (3, 2)), [(1, 2, 2, 1), (2, 2, 2, 2)],
    ),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2, 1, 1), [(1, 2, 4, 4)]),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, 1, True, False), [(1, 2, 5, 4)]),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (2, 3)), [(1, 2, 5, 4)]),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (4,), w, b), [(3, 4), (4,), (4,)]),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), [(2, 4, 3), (4,), (4,)]),
    "softmax": (F.softmax, [(3, 4)]),
    "cross_entropy": (lambda x: F.cross_entropy(x, mg.tensor([1, 0, 3]), label_smoothing=0.2), [(3, 4)]),
    "cross_entropy of probabilities": (lambda x, t: F.cross_entropy(x, F.softmax(t)), [(3, 4), (3, 4)]),
    "bce_with_logits": (F.bce_with_logits, [(3, 4), (3, 4)]),
    "huber_loss": (F.huber_loss, [(3, 4), (3, 4)]),
}


@pytest.mark.parametrize("name", TWICE)
def test_second_derivatives_are_those_of_the_first(name):
    f, shapes = TWICE[name]
    values, along = floats(*shapes), floats(*shapes, seed=1)
    (weights,) = floats(f(*map(mg.tensor, values)).shape, seed=2)

    def slope(step):
        """The directional derivative of a nonlinear function of the layer's output, at values + step * along."""
        xs = [mg.tensor(v + step * d, requires_grad=True) for v, d in zip(values, along)]
        y = (mg.tanh(f(*xs)) * mg.tensor(weights)).sum()
        grads = mg.grad(y, xs, create_graph=True)
        return xs, sum((g * mg.tensor(d)).sum() for g, d in zip(grads, along))

    xs, at = slope(0.0)
    second = sum((g.numpy() * d).sum() for g, d in zip(mg.grad(at, xs), along))
    h = 1e-5
    np.testing.assert_allclose(second, (slope(h)[1].item() - slope(-h)[1].item()) / (2 * h), rtol=1e-6, atol=1e-8)
