"""One clear sentence for each user's mistake, and none for what is right."""

import numpy as np
import pytest
from strategies import BACKENDS, backend

from dfm_ref import checks

NAN = float("nan")


@pytest.mark.parametrize("name", BACKENDS)
def test_times_in_the_unit_interval_pass_and_others_raise(name):
    b = backend(name)
    for t in (0.0, 1, 0.5):
        checks.times("t", t)
    for t in ([0.0, 1.0], [[0.5]], np.zeros(0)):
        checks.times("t", b.asarray(np.asarray(t, dtype=np.float64)))
    for t in ([-1e-3], [0.5, 1.001], [NAN], [np.inf], [[0.1, 2.0]]):
        with pytest.raises(ValueError, match="moments"):
            checks.times("moments", b.asarray(np.asarray(t)))
    for t in (-1e-9, 1.001, NAN):
        with pytest.raises(ValueError, match="moments"):
            checks.times("moments", t)


@pytest.mark.parametrize(
    "grid", [[], [0.5], [0.5, 0.5], [0.5, 0.4], [0.0, 0.7, 0.6, 1.0], [-0.1, 1.0], [0.0, 1.1], [0.0, NAN], [NAN, 0.5]]
)
def test_grids_that_do_not_increase_in_the_unit_interval_raise(grid):
    for values in (grid, np.array(grid)):
        with pytest.raises(ValueError, match="moments"):
            checks.increasing("moments", values)


def test_increasing_grids_pass():
    checks.increasing("times", [0.0, 1.0])
    checks.increasing("times", np.linspace(0, 1, 7))
    checks.increasing("times", (0.1, 0.1 + 1e-16, 0.9))


@pytest.mark.parametrize("name", BACKENDS)
def test_tokens_are_integers_of_the_vocabulary(name):
    b = backend(name)
    for dtype in (np.int64, np.int32, np.uint8):
        checks.tokens("x_1", b.asarray(np.array([[0, 4]], dtype)), 5)
        checks.tokens("x_1", b.asarray(np.zeros((0, 3), dtype)), 5)
    checks.natural("x_1", b.asarray(np.array([10**9])))
    for x in ([5], [0, -1], [[2, 7]]):
        with pytest.raises(ValueError, match="symbols"):
            checks.tokens("symbols", b.asarray(np.array(x)), 5)
    with pytest.raises(ValueError, match="symbols"):
        checks.natural("symbols", b.asarray(np.array([3, -1])))
    for dtype in (np.float32, np.float64, np.bool_):
        for check in (checks.natural, lambda name, x: checks.tokens(name, x, 5)):
            with pytest.raises(TypeError, match="symbols"):
                check("symbols", b.asarray(np.zeros((2, 2), dtype)))


@pytest.mark.parametrize("name", BACKENDS)
def test_rows_that_are_no_distributions_raise(name):
    b = backend(name)
    for rows in ([1.0], [[0.25, 0.75], [1.0, 0.0]], np.zeros((0, 3)), np.full((2, 3), 1 / 3, np.float32)):
        checks.distributions("probs_1", b.asarray(np.asarray(rows)))
    for rows in ([0.5, 0.49], [[0.5, 0.5], [0.5, 0.51]], [1.01, -0.01], [NAN, 1.0], [np.inf, 0.0], np.zeros((2, 0))):
        with pytest.raises(ValueError, match="rows"):
            checks.distributions("rows", b.asarray(np.asarray(rows)))
    with pytest.raises(ValueError, match="rows"):
        checks.distributions("rows", b.asarray(np.asarray(1.0)))


def test_rows_of_half_precision_pass():
    row = np.random.default_rng(0).dirichlet(np.ones(100)).astype(np.float16)
    checks.distributions("rows", row)


def test_arrays_of_one_shape_pass_and_the_odd_one_is_named():
    a, b = np.zeros((2, 3)), np.zeros((3, 2))
    checks.same_shape(x_0=a, x_1=a, x_t=a)
    with pytest.raises(ValueError, match=r"x_t: expected the shape \(2, 3\) of x_0, got \(3, 2\)"):
        checks.same_shape(x_0=a, x_1=a, x_t=b)
    with pytest.raises(ValueError, match="x_1"):
        checks.same_shape(x_0=a, x_1=np.zeros(3))
