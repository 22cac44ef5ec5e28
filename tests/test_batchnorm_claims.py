"""The claims of examples/batchnorm hold, with their numbers and their twists."""

import math
from functools import cache

import numpy as np
import pytest

import minigrad as mg
from examples.batchnorm import __main__ as command
from examples.batchnorm import c2_scale, c3_bias, c8_mnist, c9_orders
from examples.batchnorm.finding import Finding
from minigrad import functional as F
from minigrad import nn, study


@cache
def finding(number):
    return command.script(number).run()


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7, 9])
def test_claim_holds(number):
    assert finding(number).holds, finding(number).number


def test_1_affine_map_equals_it_but_for_gradients():
    numbers = finding(1).numbers
    assert numbers["apart"] < 1e-12 and numbers["gradient_gap"] > 0.05 and numbers["spread"] > 0.05
    assert numbers["loss"] < 0.6 * min(numbers["affine losses"])
    assert math.isclose(*numbers["first losses"], rel_tol=1e-5)  # the same function, until the first step


def test_2_weights_only_grow_under_sgd():
    numbers = finding(2).numbers
    assert numbers["growth"] > 1.01 and numbers["smallest_step"] > 0


def test_2_eps_shrinks_the_output_by_the_expected_factor():
    x = mg.random.normal(50, 1, dtype=mg.float64) * 0.1
    whole, _, var = F.batch_norm(x, eps=0.0)
    shrunk, _, _ = F.batch_norm(x, eps=1e-2)
    factor = math.sqrt(var.item() / (var.item() + 1e-2))
    np.testing.assert_allclose(shrunk.numpy(), whole.numpy() * factor, rtol=1e-12)
    assert c2_scale.run().numbers["flipped"] < 1e-11


def test_3_bias_moves_by_rounding_noise_alone():
    numbers = finding(3).numbers
    assert numbers["correct"] < 1e-15 and numbers["naive_b"] > 5 and numbers["naive_loss_moved"] < 1e-12
    assert numbers["Adam, float32"] > 1e6 * numbers["Adam, float64"]


def test_3_it_is_so_in_torch_too():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    first = torch.nn.Linear(10, 16)
    model = torch.nn.Sequential(first, torch.nn.BatchNorm1d(16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    x = torch.randn(256, 10)
    target = torch.sin(x @ torch.randn(10, 1))
    before = first.bias.detach().clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), target).backward()
        optimizer.step()
    assert (first.bias.detach() - before).abs().max() > 0.05


def test_3_naive_steps_are_linear():
    values, losses = c3_bias.drift(True, 20)
    steps = np.diff(values)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)
    assert abs(steps[0]) > 0.01 and max(losses) - min(losses) < 1e-13


def test_4_paper_formulas_agree_with_autodiff():
    numbers = finding(4).numbers
    assert numbers["paper"] < 1e-11 and numbers["difference"] < 1e-7 and numbers["stepped"] == 0.0


def test_5_means_agree_and_sigmas_cannot():
    numbers = finding(5).numbers
    assert numbers["mean_gap"] < 1e-13 and numbers["min_below"] > 0


def test_6_population_in_one_pass_is_that_of_all():
    batches = [mg.random.normal(n, 3, mean=5.0, dtype=mg.float64) for n in (4, 17, 1, 30)]
    found = study.population_statistics(batches)
    everything = np.concatenate([b.numpy() for b in batches])
    np.testing.assert_allclose(found.mean.numpy(), everything.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.var.numpy(), everything.var(0), rtol=1e-12)


def test_6_decay_is_one_minus_momentum():
    assert finding(6).numbers["apart"] < 1e-12
    assert finding(6).numbers["bias"] == pytest.approx(15 / 16, rel=1e-12)


def test_7_cuts_leave_values_alone():
    x, gamma, beta = mg.random.normal(8, 3), mg.random.normal(3), mg.random.normal(3)
    whole = study.batch_norm(x, gamma, beta).numpy()
    for option in ("through_mean", "through_var", "through_inner"):
        np.testing.assert_array_equal(study.batch_norm(x, gamma, beta, **{option: False}).numpy(), whole)


def test_7_each_cut_leaves_its_own_direction():
    numbers = finding(7).numbers
    assert numbers["along_w"]["full gradient"] < 1e-12 and numbers["along_one"]["full gradient"] < 1e-12
    assert numbers["along_one"]["variance cut"] < 1e-12 < numbers["along_w"]["variance cut"]
    assert numbers["along_one"]["mean cut"] > 1e-2


def images(n, seed):
    """Ten blurred prototypes with noise: enough to tell a net that learns from one that does not."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)
    prototypes = np.random.default_rng(0).integers(0, 200, (10, 1, 28, 28))
    return (prototypes[labels] + rng.integers(0, 55, (n, 1, 28, 28))).astype(np.uint8), labels


def test_8_runs_on_any_dataset_of_its_shape():
    x, y = images(600, 1)
    tx, ty = images(100, 2)
    names = tuple("0123456789")
    found = c8_mnist.run(steps=60, dataset=mg.data.Dataset("prototypes", x, y, tx, ty, names, "the test"))
    assert found.numbers["runs"]["with BatchNorm"]["accuracy"][-1] > 0.5
    assert len(found.numbers["runs"]["without"]["percentiles"][0]) == 3


def test_8_says_what_it_needs_without_mnist(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIGRAD_DATA", str(tmp_path / "no such folder"))
    found = c8_mnist.run()
    assert found.holds is None and found.verdict == "not run" and "MINIGRAD_DATA" in found.number


@pytest.mark.parametrize("gamma", [[1.5, -0.5], [0.0, 1.0], [0.0, 0.0]])
@pytest.mark.parametrize("training", [True, False])
def test_9_every_nesting_against_mpmath(training, gamma):
    mpmath = pytest.importorskip("mpmath")
    data = c9_orders.inputs(gamma)
    with mpmath.workdps(60):
        true = [float(d) for d in c9_orders.oracle(data, training, 5, mpmath.mpf, mpmath.sqrt)]
    f = c9_orders.along(data, training)
    for nesting in [*c9_orders.NESTINGS, "vvvv", "vvvvv"]:
        found = study.nested(f, nesting)(mg.tensor(0.0, dtype=mg.float64)).item()
        assert c9_orders.error(found, true[len(nesting)]) < 1e-12, nesting


def test_9_the_oracle_is_mpmaths_own_taylor_series():
    mpmath = pytest.importorskip("mpmath")
    data = c9_orders.inputs([1.5, -0.5])

    def plain(t):
        total = 0
        for c in range(2):
            column = [x[c] + t * v[c] for x, v in zip(data["x"], data["v"], strict=True)]
            mean = sum(column) / 5
            sigma = mpmath.sqrt(sum((z - mean) ** 2 for z in column) / 5 + mpmath.mpf(data["eps"]))
            rows = zip(column, data["weights"], strict=True)
            total += sum(((z - mean) / sigma * data["gamma"][c] + data["beta"][c]) * w[c] for z, w in rows)
        return total

    with mpmath.workdps(60):
        series = c9_orders.oracle(data, True, 5, mpmath.mpf, mpmath.sqrt)
        taylor = mpmath.taylor(plain, 0, 5)
        for k, (a, b) in enumerate(zip(series, taylor, strict=True)):
            assert abs(a - b * math.factorial(k)) < mpmath.mpf(10) ** -20


def test_9_the_inner_path_is_zero_at_first_order_only():
    first, second = finding(9).numbers["changes"]["mean inside var"]
    assert first < 1e-13 and second > 1e-2 and finding(9).numbers["explained"] < 1e-11


def test_running_against_batch_statistics():
    mg.random.seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, momentum=1.0))
    x = mg.random.normal(10, 3)
    with mg.trace(model) as t:
        model(x)
    (row,) = study.running_against_batch(model, t)
    assert row["layer"] == "1"
    np.testing.assert_allclose(row["batch_var"].numpy(), row["running_var"].numpy(), rtol=1e-5)
    np.testing.assert_allclose(row["batch_mean"].numpy(), row["running_mean"].numpy(), rtol=1e-5, atol=1e-7)


def test_running_against_batch_has_a_row_for_each_pass_and_says_what_is_missing():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.BatchNorm1d(4))
    batches = [mg.random.normal(16, 3), 1 + mg.random.normal(8, 3)]
    with mg.trace(model) as t:
        for x in batches:
            model(x)
    with pytest.warns(UserWarning, match=r"no statistics of 0: .* \(give the model's input that\)"):
        rows = study.running_against_batch(model, t)
    assert [row["layer"] for row in rows] == ["2", "2"]
    for row, z in zip(rows, t.all("1"), strict=True):
        np.testing.assert_allclose(row["batch_var"].numpy(), z.value.numpy().var(0, ddof=1), rtol=1e-5)


def test_cancellation_is_zero_where_ways_cancel():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    assert study.cancellation(mg.Tape((x * 2 - x * 2).sum(), x=x)) == {"x": 0.0}
    assert study.cancellation(mg.Tape((x * 2 + x * 2).sum(), x=x)) == {"x": 1.0}


def test_the_command_writes_figures_and_a_page(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert command.main(["--only", "5", "9", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "5  holds" in printed and "9  holds" in printed
    text = (tmp_path / "batchnorm.html").read_text()
    assert text.count("data:image/png;base64,") == 2 and "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert '"steps":[{' in (tmp_path / "tape.html").read_text()
    assert (tmp_path / "claim5.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "0"], "'0' is not a whole number from 1 on"),
        (["--steps", "-5"], "'-5' is not a whole number from 1 on"),
        (["--steps", "many"], "'many' is not a whole number from 1 on"),
        (["--out", __file__], f"--out {__file__}: cannot make this folder (File exists)"),
        (["--out", f"{__file__}/below"], f"--out {__file__}/below: cannot make this folder (Not a directory)"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--only", "8", *arguments])
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_the_page_says_which_claim_was_not_run():
    ran, left = Finding("a", "1", True), Finding("b", "needs MNIST", None)
    assert command.told([(1, ran, 0.1)]) == "Every claim below was run to make this page."
    assert "but for number 8, which could not be run" in command.told([(1, ran, 0.1), (8, left, 0.1)])


def test_numbers_given_with_a_dtype_keep_their_digits():
    assert mg.tensor([0.1], dtype=mg.float64).item() == 0.1
