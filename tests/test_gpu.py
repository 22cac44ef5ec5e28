"""CuPy on a real GPU against NumPy: op by op, layer by layer, and after a hundred steps.

Skipped, with the reason, where there is none; with `--backend emulated` the emulated device stands for it, so that the
tests themselves have run before a GPU is there. Bounds: float64 ops to 1e-10 of the largest value (another
order of addition), float32 layers to 1e-4, a hundred steps of SGD to 1e-2 of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import backend, data, nn, optim
from minigrad import functional as F
from minigrad.backend import xp
from models.cnn import CNN
from tests import test_device as on_device
from tests.samples import SAMPLES
from tests.test_backends import IMAGES, LABELS, LAYERS, MEETINGS, assert_meeting_is_named


@pytest.fixture(scope="module", autouse=True)
def gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.config.getoption("--backend") == "emulated":
        with pytest.MonkeyPatch.context() as patch:
            emulated = backend.backends["emulated"]
            patch.setitem(backend.backends, "cupy", lambda: emulated()._replace(name="cupy"))
            yield
        return
    try:
        with mg.using("cupy"):
            pass
    except (ImportError, RuntimeError) as error:
        pytest.skip(str(error))
    yield
    with mg.using("cupy"):  # other processes test on the same card
        xp.get_default_memory_pool().free_all_blocks()


@pytest.fixture
def card(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--backend") == "emulated":
        pytest.skip("it is of CuPy itself, which the emulated device is not")


def assert_close(compute: Callable[[], Any], tolerance: float) -> None:
    """The Tensors that `compute` returns agree on both backends, relative to the largest value of each."""
    results = []
    for name in ("numpy", "cupy"):
        with mg.using(name):
            mg.random.seed(7)
            results.append([t.numpy() for t in compute() if t is not None])
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        largest = float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) if a.dtype.kind == "f" else 0.0
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("sample", SAMPLES, ids=[f"{i}-{s}" for i, s in enumerate(SAMPLES)])
def test_an_op_and_its_gradient(sample: Any) -> None:
    assert_close(lambda: on_device.values_and_gradients(sample), 1e-10)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_its_gradients_and_its_memory(name: str) -> None:
    make, shape = LAYERS[name]

    def compute() -> list[Any]:
        layer, x = make(), mg.random.normal(shape, requires_grad=True)
        y = layer(x)
        y.backward(mg.random.normal(y.shape))
        return [y, x.grad, *(p.grad for p in layer.parameters()), *layer.state_dict().values()]

    assert_close(compute, 1e-4)


def test_a_hundred_steps() -> None:
    def compute() -> list[mg.Tensor]:
        model = CNN()
        optimizer = optim.SGD(model.parameters(), 0.01, momentum=0.9)
        batches = data.Batches(IMAGES, LABELS, 8, seed=5)
        losses: list[mg.Tensor] = []
        while len(losses) < 100:
            for x, y in batches:
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
        return [mg.stack(losses[:100])]

    assert_close(compute, 1e-2)


def test_of_equal_maxima_the_first_is_chosen() -> None:
    with mg.using("cupy"):
        for n in (3, 1000, 100_003):
            x = xp.zeros((4, n))
            assert xp.argmax(x, axis=1).get().tolist() == [0] * 4
            x[:, n // 2 :] = 1.0
            assert xp.argmax(x, axis=1).get().tolist() == [n // 2] * 4 and int(xp.argmax(x)) == n // 2


def test_a_step_does_not_wait_for_the_device() -> None:
    cupyx = pytest.importorskip("cupyx")
    with mg.using("cupy"):
        model = CNN()
        optimizer = optim.Adam(model.parameters())
        x, y = mg.random.normal(8, 1, 28, 28), mg.tensor(LABELS[:8])

        def step() -> None:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        step()
        with cupyx.allow_synchronize(False), mg.transfers(limit=0):
            step()


# ---- what goes wrong ---------------------------------------------------------------------------------------
SIDE = 1 << 20
"""A square of float32 with these sides is 4 TiB, which no card holds: asking for it fails at once."""

TOO_MUCH = r"allocating 4,398,046,511,104 bytes.*Arrays hold [\d,]+ MiB.*[\d,]+ MiB are free.*Lower the batch size"

HUGE: dict[str, Callable[[], Any]] = {
    r"multiply of float32 \[1048576, 1\], float32 \[1, 1048576\]": lambda: mg.ones(SIDE, 1) * mg.ones(1, SIDE),
    r"zeros": lambda: mg.zeros(SIDE, SIDE),
    r"matmul of float32 \[1048576, 1\], float32 \[1, 1048576\]": lambda: mg.ones(SIDE, 1) @ mg.ones(1, SIDE),
    r"scatter of float32 \[\]": lambda: mg.broadcast_to(mg.Parameter(mg.ones(SIDE, 1)), (SIDE, SIDE))[0, 0].backward(),
}


def losses_of_steps(disturb: Callable[[mg.Tensor], None], count: int = 4) -> list[float]:
    """The losses of a few steps; `disturb` is called with the loss in the middle of the second."""
    mg.random.seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 10))
    optimizer = optim.Adam(model.parameters(), 0.01)
    x, y, losses = mg.random.normal(16, 1, 28, 28), mg.tensor(LABELS[:16]), []
    for step in range(count):
        loss = F.cross_entropy(model(x), y)
        if step == 1:
            disturb(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return mg.stack(losses).numpy().tolist()


@pytest.mark.parametrize("op", HUGE)
def test_out_of_memory_is_explained_and_training_goes_on(op: str, card: None) -> None:
    def disturb(loss: mg.Tensor) -> None:
        with pytest.raises(mg.OutOfMemory, match=f"^{op}.*{TOO_MUCH}"):
            HUGE[op]()

    with mg.using("cupy"):
        np.testing.assert_allclose(losses_of_steps(disturb), losses_of_steps(lambda loss: None), rtol=1e-6)


LATE: dict[str, tuple[Callable[[Any, Any], mg.Tensor], str]] = {  # of scores of 10 classes and a label 10
    "cross_entropy": (F.cross_entropy, r"cross_entropy: a target is 10, but the 10 classes are 0\.\.9"),
    "smoothed": (
        lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1),
        r"cross_entropy: a target is 10, but the 10 classes are 0\.\.9",
    ),
    "nll_loss": (lambda x, y: F.nll_loss(F.log_softmax(x), y), r"nll_loss: a target is 10"),
    "embedding": (lambda x, y: F.embedding(y, x).sum(), r"embedding: an index lies outside 0\.\.3"),
}


@pytest.mark.parametrize("name", LATE)
def test_a_label_out_of_range_is_named_when_the_loss_is_read(name: str) -> None:
    call, message = LATE[name]
    with mg.using("cupy"):
        x = mg.random.normal(4, 10, requires_grad=True)
        loss = call(x, mg.tensor([1, 2, 10, 3]))
        loss.backward()  # the step goes on, with the wrong label
        with pytest.raises((ValueError, IndexError), match=message):
            loss.item()
        assert np.isfinite(call(x, mg.tensor([1, 2, 0, 3])).item())  # said once


@pytest.mark.parametrize("op", MEETINGS)
@pytest.mark.parametrize("library", ["numpy", "cupy"])
def test_arrays_of_two_libraries_that_meet_are_named(op: str, library: str, card: None) -> None:
    assert_meeting_is_named(op, library, "cupy")


def test_a_step_that_looks_at_its_loss_is_found() -> None:
    message = r"a float32 \[\] array crosses to the host, 1 where mg\.transfers\(limit=0\) allows 0"

    def look(loss: mg.Tensor) -> None:
        with mg.transfers(limit=0), pytest.raises(RuntimeError, match=message):
            float(loss)
        with mg.transfers(limit=0):
            loss.detach() * 2

    with mg.using("cupy"), mg.transfers() as crossed:
        losses_of_steps(look)
    assert crossed.to_host == 2  # the look that was refused, and the losses at the end


def test_a_step_in_single_precision_widens_nothing_and_the_op_that_does_is_named() -> None:
    twice = mg.primitive(lambda x: x * xp.asarray(2.0), lambda g: g * 2, name="twice")

    def widen(loss: mg.Tensor) -> None:
        with pytest.raises(TypeError, match=r"twice: widened float32 \[1\] to float64 \[1\]"):
            twice(loss.reshape(1))

    with mg.using("cupy"), mg.no_widening():
        assert np.isfinite(losses_of_steps(widen)).all()


# ---- our own kernels: what `test_device` says of them by emulation, on the device itself --------------------
@pytest.mark.parametrize("dtype", on_device.DTYPES)
@pytest.mark.parametrize("name", on_device.CONVOLUTIONS)
def test_own_convolutions(name: str, dtype: str) -> None:
    with mg.using("cupy"):
        on_device.test_convolution_and_its_adjoints(name, dtype)


@pytest.mark.parametrize("dtype", on_device.DTYPES)
@pytest.mark.parametrize("shapes", on_device.PRODUCTS, ids=str)
def test_own_products(shapes: Any, dtype: str) -> None:
    with mg.using("cupy"):
        on_device.test_matrix_products_of_any_strides(shapes, "ab", dtype)


@pytest.mark.parametrize("equation", on_device.EQUATIONS)
def test_own_contractions(equation: str) -> None:
    with mg.using("cupy"):
        on_device.test_a_contraction_is_einsums(equation, "float32")
        on_device.test_einsum_and_its_gradients_in_a_graph(equation)


@pytest.mark.parametrize("mean", [False, True], ids=["sum", "mean"])
@pytest.mark.parametrize("dtype", on_device.DTYPES)
@pytest.mark.parametrize("name", on_device.SUMS)
def test_own_sums(name: str, dtype: str, mean: bool) -> None:
    with mg.using("cupy"):
        on_device.test_sums_and_means_over_axes(name, dtype, mean)


def test_own_sums_of_large_arrays() -> None:
    """Of as many elements as a batch of 1,024 has in a layer, where every block of the card takes part."""
    x = np.random.default_rng(2).normal(size=(1024, 16, 28, 28)).astype("float32") + 1
    with mg.using("cupy"):
        on_card = mg.tensor(x)
        for axes in ((0, 2, 3), None, (2, 3), 0, (1, 2, 3), (0, 3)):
            y = on_card.sum(axes).numpy()
            on_device.assert_sums(y, x.sum(axes, dtype="float64"), abs(x).sum(axes))


def test_own_sums_of_parts_and_of_what_is_not_finite() -> None:
    with mg.using("cupy"):
        on_device.test_the_parts_of_a_product_are_added_up_in_one_launch()
        on_device.test_a_sum_of_what_is_not_finite_is_not(np.nan)
        for layout in on_device.LAYOUTS:
            on_device.test_a_sum_of_any_layout_and_dtype_is_numpys(layout)


@pytest.mark.parametrize("name", on_device.POOLS)
def test_own_pooling(name: str) -> None:
    with mg.using("cupy"):
        on_device.test_max_pooling_chooses_the_first_of_equals_and_nan_wins(name, "float32")


@pytest.mark.parametrize("plan", on_device.PLANS, ids=on_device.name_of)
def test_own_blocks(plan: Any) -> None:
    with mg.using("cupy"):
        on_device.test_a_block_equals_its_reference_at_first_and_second_order(plan)


def test_own_normalisation() -> None:
    with mg.using("cupy"):
        on_device.test_a_block_of_many_images_whose_sums_are_taken_in_parts()
        on_device.test_an_input_that_begins_anywhere_in_memory()
        on_device.test_a_channel_far_from_zero_with_a_small_spread_comes_out_right_in_float32()


def test_own_cross_entropy() -> None:
    with mg.using("cupy"):
        for rows in (201, 1500):
            on_device.test_cross_entropy_and_its_gradient("float64", rows)
        on_device.test_cross_entropy_of_ignored_labels_alone_is_nan_and_wrong_labels_are_named()


@pytest.mark.parametrize("rule", on_device.RULES)
def test_own_optimizer_steps(rule: str) -> None:
    found = []
    for name in ("cupy", "numpy"):
        with mg.using(name):
            found.append(on_device.steps_of(rule, "float64"))
    for a, b in zip(*found, strict=True):
        on_device.assert_close(a, b)


@pytest.mark.parametrize("fuse", [False, True], ids=["layer by layer", "fused"])
@pytest.mark.parametrize("rule", on_device.GRAPHED)
def test_a_step_as_a_cuda_graph(rule: str, fuse: bool) -> None:
    with mg.using("cupy"):
        on_device.test_a_replayed_step_trains_as_the_step_itself(rule, fuse)


@pytest.mark.parametrize("rows", [1, 64])
def test_masks_in_a_cuda_graph(rows: int) -> None:
    with mg.using("cupy"):
        on_device.test_every_replay_draws_another_mask_with_its_probability(rows)


def test_batches_gathered_and_distorted() -> None:
    images, labels = IMAGES.astype("uint8"), LABELS
    found = []
    for name in ("cupy", "numpy"):
        with mg.using(name):
            batches = data.Batches(images, labels, 8, seed=4, augment=data.Augment(2, 20.0, 0.3, 0.2))
            found.append([t.numpy() for batch in batches for t in batch])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1.01 / 255)
