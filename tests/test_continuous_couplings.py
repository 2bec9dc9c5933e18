"""Couplings of noise and points pair them as they say, and keep both laws."""

import sys
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from strategies import BACKENDS, backend, follows

from dfm_ref import random
from dfm_ref.continuous import couplings

KEY = random.key(3)


def cost(x_0, x_1):
    return float(np.sum((x_1 - x_0) ** 2))


def batch(size, seed, *, dim=2):
    """Points at multiples of 1/16: sums of their squares are exact."""
    return np.random.default_rng(seed).integers(-32, 33, (2, size, dim)) / 16


def test_independent_noise_is_standard_normal_and_apart_from_the_data():
    x_1 = np.random.default_rng(0).normal(3, 2, (20_000, 2))
    x_0, same = couplings.independent(KEY, x_1)
    assert same is x_1
    assert stats.kstest(x_0.ravel(), "norm").pvalue > 1e-6
    others = [x_0[:, ::-1], x_1, x_1[:, ::-1], np.roll(x_1, 1, axis=0)]
    for other in others:
        assert abs(np.corrcoef(x_0[:, 0], other[:, 0])[0, 1]) < 6 / np.sqrt(len(x_1))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_noise_is_the_same_on_every_library_whole_or_split(name, dim):
    b, x_1 = backend(name), np.zeros((6, dim))
    whole = couplings.independent(KEY, x_1, first=5).x_0
    parts = [couplings.independent(KEY, b.asarray(x_1[i : i + 2]), first=5 + i).x_0 for i in (0, 2, 4)]
    np.testing.assert_allclose(np.concatenate([b.to_numpy(part) for part in parts]), whole, rtol=1e-14, atol=1e-15)
    assert len(np.unique(whole)) == whole.size


def test_noise_has_the_type_of_the_data():
    for dtype in (np.float32, np.float64):
        assert couplings.independent(KEY, np.zeros((0, 3), dtype)).x_0.dtype == dtype
    with pytest.raises(ValueError, match=r"x_1: .*int64"):
        couplings.independent(KEY, np.zeros((2, 3), np.int64))
    with pytest.raises(ValueError, match=r"x_1: .*shape"):
        couplings.independent(KEY, np.float64(0))


@settings(max_examples=60)
@given(size=st.integers(1, 5), seed=st.integers(0, 2**32), dim=st.integers(1, 3))
def test_transport_is_the_best_of_all_permutations_and_keeps_both_laws(size, seed, dim):
    x_0, x_1 = batch(size, seed, dim=dim)
    pair = couplings.optimal_transport(x_0, x_1)
    assert np.array_equal(pair.x_1, x_1)
    assert sorted(map(tuple, pair.x_0)) == sorted(map(tuple, x_0))
    assert cost(*pair) == min(cost(x_0[list(order)], x_1) for order in permutations(range(size)))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_on_a_line_transport_is_monotone(seed):
    x_0, x_1 = np.random.default_rng(seed).normal(size=(2, 50, 1))
    pair = couplings.optimal_transport(x_0, x_1)
    assert np.array_equal(np.argsort(pair.x_0[:, 0]), np.argsort(pair.x_1[:, 0]))


def test_transport_finds_a_translation_again():
    """The gradient of a convex function, and so the best map to its image."""
    x_0 = np.random.default_rng(1).normal(size=(200, 3))
    shuffled = np.random.default_rng(2).permutation(x_0 + np.array([5.0, -3.0, 1.0]))
    x_0, x_1 = couplings.optimal_transport(x_0, shuffled)
    np.testing.assert_allclose(x_1 - x_0, np.tile([5.0, -3.0, 1.0], (200, 1)), rtol=1e-12)


@pytest.mark.parametrize("name", BACKENDS)
def test_transport_is_the_same_on_every_library(name):
    b, (x_0, x_1) = backend(name), np.random.default_rng(3).normal(size=(2, 7, 2)).astype(np.float32)
    exact = couplings.optimal_transport(x_0, x_1)
    ours = couplings.optimal_transport(b.asarray(x_0), b.asarray(x_1))
    assert all(np.array_equal(b.to_numpy(x), y) for x, y in zip(ours, exact, strict=True))


@pytest.mark.parametrize(
    ("x_0", "x_1", "what"),
    [
        (np.zeros((3, 2)), np.zeros((2, 2)), "x_1: .*shape"),
        (np.zeros(2), np.zeros(2), r"x_0: .*\[B, D\]"),
        (np.zeros((0, 2)), np.zeros((0, 2)), r"x_0: .*one point"),
        (np.zeros((2, 2)), np.full((2, 2), np.nan), "x_0, x_1: .*finite"),
        (np.full((2, 2), np.inf), np.zeros((2, 2)), "x_0, x_1: .*finite"),
    ],
)
def test_what_cannot_be_transported_raises(x_0, x_1, what):
    for coupling in (
        couplings.optimal_transport,
        lambda x_0, x_1: couplings.sinkhorn(KEY, x_0, x_1, regularization=1.0),
    ):
        with pytest.raises(ValueError, match=what):
            coupling(x_0, x_1)


def test_sinkhorn_draws_from_the_plan_of_least_cost_and_entropy():
    """Against the plan in closed form: [[p, 1/2 - p], ...] with p / (1/2 - p) = exp(gap / (2 regularization)).

    The gap is what it costs to cross: |(1, 1)|^2 twice.
    """
    pytest.importorskip("ot")
    x_0 = x_1 = np.array([[0.0, 0.0], [1.0, 1.0]])
    odds = np.exp(4 / 2 / 1.5)
    law = [[odds / (1 + odds), 1 / (1 + odds)], [1 / (1 + odds), odds / (1 + odds)]]
    draws = [couplings.sinkhorn(random.key(i), x_0, x_1, regularization=1.5).x_0[:, 0] for i in range(1000)]
    draws = np.stack(draws).astype(int)
    for row in (0, 1):
        assert follows(draws[:, row], law[row])
    assert follows(2 * draws[:, 0] + draws[:, 1], np.outer(*law).ravel())


def test_sinkhorn_goes_from_transport_to_independent_pairs():
    pytest.importorskip("ot")
    x_0, x_1 = batch(6, 8)
    best = couplings.optimal_transport(x_0, x_1)
    sharp = couplings.sinkhorn(KEY, x_0, x_1, regularization=2.0**-6)
    assert cost(*sharp) == cost(*best)
    x_0 = np.tile([[0.0], [1.0]], (500, 1))
    loose = couplings.sinkhorn(KEY, x_0, x_0 * 3, regularization=1e6)
    assert follows((2 * loose.x_0 + loose.x_1 / 3)[:, 0].astype(int), np.full(4, 0.25))
    assert np.array_equal(loose.x_1, x_0 * 3)


@pytest.mark.parametrize("name", BACKENDS)
def test_sinkhorn_draws_the_same_pairs_on_every_library(name):
    pytest.importorskip("ot")
    b, (x_0, x_1) = backend(name), batch(7, 3)
    exact = couplings.sinkhorn(KEY, x_0, x_1, regularization=1.0, first=5)
    ours = couplings.sinkhorn(KEY, b.asarray(x_0), b.asarray(x_1), regularization=1.0, first=5)
    assert all(np.array_equal(b.to_numpy(x), y) for x, y in zip(ours, exact, strict=True))
    assert not np.array_equal(exact.x_0, couplings.sinkhorn(KEY, x_0, x_1, regularization=1.0).x_0)


@pytest.mark.parametrize("regularization", [0.0, -1.0, np.nan, np.inf, 1e-9])
def test_sinkhorn_says_where_it_has_no_plan(regularization):
    pytest.importorskip("ot")
    with pytest.raises(ValueError, match="regularization"):
        couplings.sinkhorn(KEY, *np.random.default_rng(0).normal(size=(2, 9, 2)), regularization=regularization)


def test_without_pot_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r"dfm_ref\[ot\]"):
        couplings.sinkhorn(KEY, *batch(2, 0), regularization=1.0)
