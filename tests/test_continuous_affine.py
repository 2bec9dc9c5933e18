"""Affine flows: factors of a matrix, normalisation by a batch, and what is not trained."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, backend

from dfm_ref import random
from dfm_ref.continuous.affine import LU, ActNorm, Affine, Reverse, factored, fitted
from dfm_ref.continuous.flows import Composed, Inverted
from dfm_ref.continuous.planar import Planar
from dfm_ref.nn.optim import AdamW, adamw_init, adamw_update


def test_maps_of_each_coordinate_alone_are_their_formulas():
    z = np.array([[1.0, 2.0], [-1.0, 0.5]])
    x, log_det, _ = Affine(2).forward({"log_scale": np.log([2.0, 3.0]), "shift": np.array([1.0, -1.0])}, z)
    np.testing.assert_allclose(x, [[3.0, 5.0], [-1.0, 0.5]], rtol=1e-15)
    np.testing.assert_allclose(log_det, np.log([6.0, 6.0]), rtol=1e-15)
    x, log_det, _ = Reverse(2).forward({}, z)
    assert np.array_equal(x, [[2.0, 1.0], [0.5, -1.0]]) and np.array_equal(log_det, np.zeros(2))
    assert [str(make(2)) for make in (Affine, ActNorm, LU, Reverse)] == [
        "Affine(dim=2)", "ActNorm(dim=2)", "LU(dim=2)", "Reverse(dim=2)",
    ]  # fmt: skip


@settings(max_examples=200)
@given(dim=st.integers(1, 8), seed=st.integers(0, 2**32 - 1), log_size=st.floats(-100, 100))
def test_the_factors_of_a_matrix_are_that_matrix(dim, seed, log_size):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(dim, dim)) * 10.0**log_size
    params, flow, z = factored(matrix), LU(dim), rng.normal(size=(5, dim))
    assert list(params) == list(flow.init(random.key(0)))
    x, log_det, _ = flow.forward(params, z)
    np.testing.assert_allclose(x, z @ matrix.T, rtol=0, atol=1e-13 * dim * np.max(abs(matrix)) * 10)
    sign, exact = np.linalg.slogdet(matrix)
    np.testing.assert_allclose(log_det, np.full(5, exact), rtol=1e-12, atol=1e-10)
    parity = np.linalg.det(np.eye(dim)[params["permutation"].astype(int)])
    assert parity * np.prod(params["signs"]) == pytest.approx(sign)
    back, log_det_back = flow.inverse(params, x)
    np.testing.assert_allclose(back, z, rtol=0, atol=1e-13 * np.linalg.cond(matrix) * 10)
    np.testing.assert_allclose(log_det_back, -log_det, rtol=1e-13)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_a_linear_flow_starts_as_a_random_rotation_or_reflection(dim):
    flow = LU(dim)
    params = flow.init(random.key(3))
    matrix = flow.forward(params, np.eye(dim))[0].T
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dim), atol=1e-13)
    assert flow.forward(params, np.eye(dim))[1] == pytest.approx(np.zeros(dim), abs=1e-13)
    assert dim == 1 or not np.allclose(matrix, flow.forward(flow.init(random.key(4)), np.eye(dim))[0].T)


def test_a_matrix_of_every_scale_is_no_singular_one():
    params = factored(np.diag([1.0, 1e-200, -1e200]))
    assert np.array_equal(params["signs"], [1.0, 1.0, -1.0])
    np.testing.assert_allclose(params["log_diagonal"], [0.0, -200 * np.log(10), 200 * np.log(10)], rtol=1e-15)


@pytest.mark.parametrize(
    ("matrix", "what"),
    [
        ([[1.0, 2.0], [2.0, 4.0]], r"invertible matrix, got one whose row 0 depends"),
        ([[0.1, 0.2], [0.3, 0.6]], r"invertible matrix"),
        ([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], r"invertible matrix"),
        ([[1.0, 0.0], [0.0, 0.0]], r"row 1 depends"),
        (np.zeros((2, 2)), r"invertible matrix"),
        ([[1.0, np.nan], [0.0, 1.0]], r"matrix: expected finite"),
        ([[1.0, 2.0]], r"square matrix, got the shape \(1, 2\)"),
        (np.zeros((0, 0)), r"square matrix"),
        (1.0, r"square matrix"),
    ],
)
def test_a_matrix_without_inverse_raises(matrix, what):
    with pytest.raises(ValueError, match=what):
        factored(np.array(matrix))


def test_training_leaves_the_permutation_and_the_signs():
    flow, z = LU(4), np.random.default_rng(0).normal(size=(8, 4))
    start = params = flow.init(random.key(1))
    state = adamw_init(params)
    for _ in range(5):
        _, log_det, residuals = flow.forward(params, z)
        dparams, _ = flow.backward(params, residuals, z, np.ones_like(log_det))
        params, state = adamw_update(AdamW(learning_rate=0.1, weight_decay=0.1), params, dparams, state)
    kept = {name for name in params if np.array_equal(params[name], start[name])}
    assert kept == {"permutation", "signs"}
    x, log_det, _ = flow.forward(params, z)
    np.testing.assert_allclose(flow.inverse(params, x)[0], z, atol=1e-12)


def test_triangles_count_beside_their_diagonal_alone():
    flow, z = LU(3), np.random.default_rng(0).normal(size=(8, 3))
    params = flow.init(random.key(1))
    other = params | {"lower": params["lower"] + np.triu(np.ones((3, 3))), "upper": params["upper"] + np.tri(3)}
    assert np.array_equal(flow.forward(params, z)[0], flow.forward(other, z)[0])


# Normalisation by a batch


@pytest.mark.parametrize("name", BACKENDS)
def test_a_fitted_normalisation_leaves_mean_0_and_variance_1(name):
    """Each one in a composition by what reaches it."""
    b, flow = backend(name), Composed((ActNorm(2), Planar(2), Composed((LU(2), ActNorm(2)))))
    start = {n: b.asarray(p) for n, p in flow.init(random.key(0)).items()}
    x = b.asarray(np.random.default_rng(0).normal(size=(3, 20, 2)) * [5.0, 1e-3] + [100.0, 0.0])
    params = fitted(flow, start, x)
    assert list(params) == list(start)
    changed = {n for n in start if not np.array_equal(b.to_numpy(params[n]), b.to_numpy(start[n]))}
    assert changed == {"0.log_scale", "0.shift", "2.1.log_scale", "2.1.shift"}
    for k, f in enumerate(flow.flows):
        x = f.forward(flow.parts(params)[k], x)[0]
        if k != 1:
            rows = b.to_numpy(x).reshape(-1, 2)
            np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-12)
            np.testing.assert_allclose(rows.var(axis=0), 1, rtol=1e-12)


def test_flows_without_a_normalisation_keep_their_parameters():
    flow, x = Inverted(Planar(2)), np.random.default_rng(0).normal(size=(5, 2))
    params = flow.init(random.key(0))
    assert fitted(flow, params, x) is params


@pytest.mark.parametrize(
    ("batch", "what"),
    [
        ([[1.0, 0.1], [2.0, 0.1], [3.0, 0.1]], r"coordinate 1 from 0\.1 to 0\.1"),
        ([[1.0, 2.0]], r"coordinate 0 from 1 to 1"),
        ([[np.nan, 2.0], [1.0, 1.0]], r"finite.*coordinate 0 from nan"),
        ([[0.0, np.inf], [1.0, 1.0]], r"finite.*coordinate 1 from 1 to inf"),
        (np.zeros((0, 2)), r"two or more points, got none"),
        ([1.0, 2.0, 3.0], r"2 coordinates"),
    ],
)
def test_a_batch_that_fixes_no_scale_raises(batch, what):
    with pytest.raises(ValueError, match=what):
        fitted(ActNorm(2), {}, np.array(batch))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"permutation": np.zeros(2)}, "permutation: expected every row once"),
        ({"signs": np.array([0.0, 1.0])}, "signs: expected -1 and 1"),
        ({"log_diagonal": np.full(2, -800.0)}, "log_diagonal: expected an invertible map"),
        ({"log_diagonal": np.zeros(1)}, r"log_diagonal: expected a parameter of shape \(2,\)"),
        ({"lower": np.zeros((1, 2))}, "lower: expected a parameter of shape"),
    ],
)
def test_a_matrix_that_is_singular_or_not_one_is_no_map(change, message):
    params = LU(2).init(random.key(0)) | change
    for call in (LU(2).forward, LU(2).inverse):
        with pytest.raises(ValueError, match=message):
            call(params, np.ones((3, 2)))


def test_parameters_that_would_be_broadcast_are_refused():
    params = Affine(2).init(random.key(0))
    for name in params:
        for call in (Affine(2).forward, Affine(2).inverse):
            with pytest.raises(ValueError, match=f"{name}: expected a parameter of shape .2,., got .1,."):
                call(params | {name: np.zeros(1)}, np.ones((3, 2)))


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_a_variance_that_is_no_number_fits_nothing():
    for size in (1e-200, 1e200):
        with pytest.raises(ValueError, match="variance"):
            fitted(ActNorm(1), {}, np.array([[size], [0.0]]))
