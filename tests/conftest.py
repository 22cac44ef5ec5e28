"""The options of a test run: on which backend, and whether the long versions of tests run too.

`pytest --backend standin` runs the suite on the stand-in for CuPy, `pytest --backend cupy` on a GPU.
A test that speaks of NumPy's arrays, or of what only a host does, says so: `@pytest.mark.host(reason)`,
or `HOST` below does.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import tests.standin  # noqa: F401  (adds the backend "standin")
from minigrad import backend

RAW = "it builds or reads raw arrays with NumPy; what it states holds on a device by test_backends"
NUMPY = "it mixes Tensors with NumPy's arrays and functions, which a device refuses"
INDEX = "integers out of range in an array wrap around on a device, which is not asked at every index"

FAST = "it is of the kernels and fused rows for large arrays on the host; on a device a model runs layer by layer"
SUMS = "it is of how the host adds up; a device has kernels of its own for that"
PROCESS = "it compares this process with others that run on NumPy"

HOST: dict[str, str] = {
    "test_fused.py": FAST,
    "test_kernels.py": FAST,
    "test_mnist_example.py::test_fused_it_learns_the_same_and_its_weights_are_any_models": FAST,
    "test_mnist_example.py::test_killed_at_random_moments_and_resumed_it_ends_with_the_same_weights": PROCESS,
    "test_checkpoint.py::test_killed_at_random_moments_and_resumed_gives_equal_weights": PROCESS,
    "test_mnist_example.py::test_ctrl_c_saves_and_the_command_that_it_prints_goes_on": PROCESS,
    "test_recorded.py": NUMPY,
    "test_numpy_protocol.py::test_operators_widen_as_numpys_do_while_a_users_code_is_recorded": NUMPY,
    "test_numpy_protocol.py::test_what_is_made_of_integers_is_numpys_own": NUMPY,
    "test_numbers.py::test_sums_in_single_precision_are_within_sixteen_roundings_at_any_length": SUMS,
    "test_table.py::test_a_change_of_dtype_is_followed_back": RAW,
    "test_table.py::test_a_layout_in_memory_changes_nothing": RAW,
    "test_table.py::test_a_linear_row_is_linear_in_each_argument_and_its_pullback_is_the_adjoint": RAW,
    "test_table.py::test_a_planted_wrong_derivative_is_caught": RAW,
    "test_table.py::test_every_pullback_made_wrong_is_caught_by_its_samples": RAW,
    "test_table.py::test_kinks_and_ties_as_pytorch_has_them": RAW,
    "test_table.py::test_numbers_and_integers_join_the_tensors_dtype": RAW,
    "test_table.py::test_operands_are_not_written_to": RAW,
    "test_table.py::test_raw_arrays_in_raw_array_out": RAW,
    "test_table.py::test_static_numbers_do_not_widen": RAW,
    "test_table.py::test_the_dtype_is_kept_by_every_value_and_gradient": RAW,
    "test_table.py::test_three_orders_against_finite_differences": RAW,
    "test_paths.py::test_a_long_chain_of_residual_blocks_does_not_explode_and_still_adds_up": RAW,
    "test_paths.py::test_contributions_add_up_to_the_gradient_and_the_tape_is_kept": RAW,
    "test_paths.py::test_the_path_through_the_mean_is_what_the_formula_says": RAW,
    "test_optim.py::test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit": RAW,
    "test_optim.py::test_a_state_before_the_first_step_and_of_skipped_parameters_loads": RAW,
    "test_optim.py::test_a_state_of_tensors_loads": RAW,
    "test_optim.py::test_a_step_writes_into_the_parameters_array_and_leaves_the_gradient": RAW,
    "test_optim.py::test_after_the_first_step_nothing_large_is_allocated": "it measures the host's memory",
    "test_optim.py::test_any_shape_and_memory_order": RAW,
    "test_optim.py::test_arrays_of_another_backend_are_refused": RAW,
    "test_optim.py::test_clip_grad_norm_is_pytorchs": RAW,
    "test_optim.py::test_clip_grad_norm_scales_to_the_norm_asked_for": RAW,
    "test_optim.py::test_clip_grad_norm_writes_into_no_array_that_others_may_hold": RAW,
    "test_optim.py::test_rule_equals_pytorch": RAW,
    "test_optim.py::test_the_rule_is_all_that_a_new_optimizer_needs": RAW,
    "test_autodiff.py::test_leaves_that_were_handed_one_fresh_array_do_not_share_it": RAW,
    "test_tensor.py::test_attributes_and_conversions": RAW,
    "test_tensor.py::test_copies_are_leaves_of_their_own": RAW,
    "test_tensor.py::test_operators_with_tensors_numbers_and_arrays_on_either_side": NUMPY,
    "test_autodiff.py::test_a_fused_row_is_freed_and_complains_like_any_other": RAW,
    "test_autodiff.py::test_a_pullback_that_hands_out_a_kept_array_is_not_written_to": RAW,
    "test_autodiff.py::test_gradients_have_memory_of_their_own": RAW,
    "test_autodiff.py::test_perturbations_are_not_confused": RAW,
    "test_autodiff.py::test_the_gradient_of_a_leaf_that_is_the_result": RAW,
    "test_autodiff.py::test_training_steps_do_not_grow": RAW,
    "test_autodiff.py::test_what_owning_an_array_means": RAW,
    "test_numpy_protocol.py::test_a_course_batchnorm_runs_unchanged": NUMPY,
    "test_numpy_protocol.py::test_a_copy_has_its_own_memory_and_the_same_gradient": NUMPY,
    "test_numpy_protocol.py::test_mixed_floats_are_promoted_in_numpys_functions": NUMPY,
    "test_numpy_protocol.py::test_the_same_values_as_on_arrays_and_a_gradient": NUMPY,
    "test_numpy_protocol.py::test_they_do_while_a_users_code_is_studied": NUMPY,
    "test_engine.py::test_indices_out_of_range": INDEX,
    "test_engine.py::test_indices_out_of_range_along_an_axis": INDEX,
}
"""Tests of the host alone, as file or file::function, each with the reason."""

unavailable = ""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", default="numpy", choices=tuple(backend.backends), help="the array library to test on")
    parser.addoption("--slow", action="store_true", help="run the long versions of tests too")


def pytest_configure(config: pytest.Config) -> None:
    global unavailable
    config.addinivalue_line("markers", "host(reason): of the host alone; skipped on other backends")
    try:
        backend.use(config.getoption("--backend"))
    except (ImportError, RuntimeError) as error:
        unavailable = str(error)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    name = config.getoption("--backend")
    for item in items:
        host = item.get_closest_marker("host")
        function = getattr(item, "originalname", None) or item.name
        file = Path(item.path).name
        reason = host.args[0] if host else HOST.get(file) or HOST.get(f"{file}::{function}")
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="long; run with --slow"))
        elif unavailable:
            item.add_marker(pytest.mark.skip(reason=unavailable))
        elif name != "numpy" and reason:
            item.add_marker(pytest.mark.skip(reason=f"of the host alone: {reason}"))
