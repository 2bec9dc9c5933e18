"""Predictions of Gaussian data, known in closed form, convert into each other; guidance and new schedules likewise."""

import math
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, backend

from dfm_ref.continuous.gaussian_paths import (
    Cosine,
    OptimalTransport,
    VarianceExploding,
    VariancePreserving,
    log_snr,
    marginal_log_density,
    marginal_score,
    marginal_velocity,
)
from dfm_ref.continuous.predictions import by_predictor, convert, guided, transformed

PATHS = (
    OptimalTransport(),
    OptimalTransport(0.1),
    VariancePreserving(),
    VariancePreserving(0.0, 3.0),
    VarianceExploding(0.2, 5.0),
    Cosine(),
)
KINDS = ("velocity", "x_1", "x_0", "score")
MEAN, SPREAD = np.array([1.5, -0.5, 0.25]), 0.7
inner = st.floats(0.02, 0.98)


def exact(path, x_t, t):
    """All four of the data N(MEAN, SPREAD^2 I), whose p_t is N(mu MEAN, (mu^2 SPREAD^2 + sigma^2) I)."""
    mu, sigma, mu_dot, sigma_dot = (float(f(np.asarray(t))) for f in (path.mu, path.sigma, path.mu_dot, path.sigma_dot))
    variance, away = mu**2 * SPREAD**2 + sigma**2, x_t - mu * MEAN
    half_rate = mu * mu_dot * SPREAD**2 + sigma * (sigma_dot if sigma else 0.0)
    return {
        "velocity": mu_dot * MEAN + half_rate / variance * away,
        "x_1": MEAN + mu * SPREAD**2 / variance * away,
        "x_0": sigma / variance * away,
        "score": -away / variance,
    }


def points(seed, *shape):
    return np.random.default_rng(seed).normal(scale=2, size=(*shape, 3))


@settings(max_examples=200)
@given(path=st.sampled_from(PATHS), pair=st.sampled_from([*product(KINDS, KINDS)]), seed=st.integers(0, 99), t=inner)
def test_every_prediction_gives_every_other(path, pair, seed, t):
    x_t = points(seed)
    source, target = pair
    known = exact(path, x_t, t)
    got = convert(path, known[source], x_t, t, source=source, target=target)
    condition = 1 / min(path.mu(t), path.sigma(t)) ** 2  # what a division by mu or by sigma^2 costs
    np.testing.assert_allclose(got, known[target], rtol=1e-13 * condition, atol=1e-13 * condition)


@settings(max_examples=200)
@given(path=st.sampled_from(PATHS), pair=st.sampled_from([*permutations(KINDS, 2)]), seed=st.integers(0, 99), t=inner)
def test_round_trips(path, pair, seed, t):
    """Of any value, whatever predicts it."""
    (x_t, value), (source, target) = points(seed, 2), pair
    there = convert(path, value, x_t, t, source=source, target=target)
    back = convert(path, there, x_t, t, source=target, target=source)
    np.testing.assert_allclose(back, value, rtol=1e-10, atol=1e-10)


TO_NOTHING = {(source, target) for source in ("x_0", "score") for target in ("x_1", "velocity")}
"""What has no limit where mu = 0, at t = 0."""
FROM_NOTHING = {("x_1", "x_0"), ("x_1", "velocity"), ("x_1", "score"), ("x_0", "score"), ("velocity", "score")}
"""What has no limit where sigma = 0, at t = 1."""
INFINITE = {pair for pair in permutations(KINDS, 2) if "velocity" in pair}


@pytest.mark.parametrize("path", [*PATHS, VariancePreserving(1.0, 1.0)], ids=repr)
@pytest.mark.parametrize(("source", "target"), [*permutations(KINDS, 2)])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_at_the_ends_a_conversion_is_its_limit_or_an_error_that_says_when(path, source, target, t):
    x_t = points(5)
    closed = TO_NOTHING if path.mu(t) == 0 else FROM_NOTHING if path.sigma(t) == 0 else set()
    if t == 1 and isinstance(path, VariancePreserving) and path.beta_min > 0:
        closed = closed | INFINITE
    if (source, target) in closed:
        with pytest.raises(ValueError, match=rf"t: expected times at which .*, got {t}"):
            convert(path, x_t, x_t, t, source=source, target=target)
    else:
        known = exact(path, x_t, t)
        got = convert(path, known[source], x_t, t, source=source, target=target)
        tolerance = 1e-13 / min(float(path.mu(t)) or 1, float(path.sigma(t)) or 1) ** 2
        np.testing.assert_allclose(got, known[target], rtol=tolerance, atol=tolerance)


def test_optimal_transport_by_its_own_formulas():
    """x_1 = x_t + (1 - t) u and x_0 = x_t - t u, at both ends too; at t = 0 the score of noise is -x_t."""
    x_t, u = points(1, 2)
    for t in (0.0, 0.3, 1.0):
        one = convert(OptimalTransport(), u, x_t, t, source="velocity", target="x_1")
        other = convert(OptimalTransport(), u, x_t, t, source="velocity", target="x_0")
        np.testing.assert_allclose(one, x_t + (1 - t) * u, rtol=1e-14)
        np.testing.assert_allclose(other, x_t - t * u, rtol=1e-14)
    assert np.array_equal(convert(OptimalTransport(), u, x_t, 0.0, source="velocity", target="score"), -x_t)


def test_what_is_asked_for_is_given_back_at_singular_ends_too():
    x_t, value = points(2, 2)
    for path, kind, t in product(PATHS, KINDS, (0.0, 1.0)):
        assert np.array_equal(convert(path, value, x_t, t, source=kind, target=kind), value)


@pytest.mark.parametrize("name", BACKENDS)
def test_conversions_on_every_library_at_a_time_for_each_point(name):
    b, (x_t, value), t = backend(name), points(3, 2, 4), np.array([0.1, 0.25, 0.5, 0.9])
    for path, (source, target) in product((OptimalTransport(), Cosine()), permutations(KINDS, 2)):
        rows = [convert(path, *row, source=source, target=target) for row in zip(value, x_t, t, strict=True)]
        for dtype, rtol in ((np.float64, 1e-13), (np.float32, 1e-5)):
            arrays = (b.asarray(a.astype(dtype)) for a in (value, x_t))
            got = b.to_numpy(convert(path, *arrays, b.asarray(t), source=source, target=target))
            assert got.dtype == dtype
            np.testing.assert_allclose(got, rows, rtol=rtol, atol=rtol * np.max(np.abs(rows)))


X = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: convert(Cosine(), X, X, 0.5, source="v", target="x_1"), r"source: .*velocity, x_1, x_0, score.*'v'"),
        (lambda: convert(Cosine(), X, X, 0.5, source="x_1", target="eps"), r"target: .*'eps'"),
        (lambda: convert(Cosine(), X[0], X, 0.5, source="x_1", target="x_0"), r"value: .*shape"),
        (lambda: convert(Cosine(), X, X, np.ones(3), source="x_1", target="x_0"), r"t: .*shape \(2,\)"),
        (lambda: convert(Cosine(), X, X, 1.5, source="x_1", target="x_1"), r"t: .*\[0, 1\]"),
        (lambda: convert(Cosine(), X, X, np.array([0.5, 1.0]), source="x_1", target="x_0"), r"x_1 .*x_0.*got 1\.0"),
        (lambda: guided(X, X[0], strength=1.0), r"u_u: .*shape"),
        (lambda: by_predictor(Cosine(), X, X[0], X, 0.5, strength=1.0), r"gradient: .*shape"),
        (lambda: by_predictor(Cosine(), X, X, X, 0.0, strength=1.0), r"mu > 0 .*got 0\.0"),
        (lambda: by_predictor(VariancePreserving(), X, X, X, 1.0, strength=1.0), r"rates .*finite, got 1\.0"),
    ],
)
def test_what_cannot_be_converted_raises(call, what):
    with pytest.raises(ValueError, match=what):
        call()


# Guidance


DATA = np.array([[-1.0, 0.5], [0.25, 1.5], [2.0, -1.0], [0.0, 0.0]])
Q, LIKELIHOOD = np.array([0.1, 0.4, 0.3, 0.2]), np.array([0.9, 0.1, 0.5, 0.0])
GIVEN = Q * LIKELIHOOD / np.sum(Q * LIKELIHOOD)
"""p(x_1|y), for a y of p(y|x_1) = LIKELIHOOD."""


def log_likelihood(path, x, t):
    """log p_t(y|x) - log p(y) = log p_t(x|y) - log p_t(x)."""
    return marginal_log_density(path, DATA, GIVEN, x, t) - marginal_log_density(path, DATA, Q, x, t)


@settings(max_examples=100)
@given(path=st.sampled_from(PATHS), seed=st.integers(0, 99), t=st.floats(0.1, 0.9), g=st.floats(-1, 4))
def test_the_guided_velocity_is_that_of_the_guided_score(path, seed, t, g):
    """grad log p(x|y)^g p(x)^(1 - g), and the same with a predictor whose gradient is that of log p(y|x)."""
    x = points(seed)[:2]
    u_c, u_u = (marginal_velocity(path, DATA, q, x, t) for q in (GIVEN, Q))
    s_c, s_u = (marginal_score(path, DATA, q, x, t) for q in (GIVEN, Q))
    right = convert(path, g * s_c + (1 - g) * s_u, x, t, source="score", target="velocity")
    tolerance = 1e-11 / float(min(path.mu(t), path.sigma(t))) ** 2
    for u in (guided(u_c, u_u, strength=g), by_predictor(path, u_u, s_c - s_u, x, t, strength=g)):
        np.testing.assert_allclose(u, right, rtol=tolerance, atol=tolerance)


@settings(max_examples=60)
@given(path=st.sampled_from(PATHS), seed=st.integers(0, 99), t=st.floats(0.2, 0.8))
def test_the_true_predictor_turns_the_law_into_the_conditional_one(path, seed, t):
    x, h = points(seed)[:2] / 2, 1e-3
    gradient = [
        (8 * (log_likelihood(path, x + h * e, t) - log_likelihood(path, x - h * e, t))
         - (log_likelihood(path, x + 2 * h * e, t) - log_likelihood(path, x - 2 * h * e, t))) / (12 * h)
        for e in np.eye(2)
    ]  # fmt: skip
    steered = by_predictor(path, marginal_velocity(path, DATA, Q, x, t), np.array(gradient), x, t, strength=1.0)
    np.testing.assert_allclose(steered, marginal_velocity(path, DATA, GIVEN, x, t), rtol=1e-5, atol=1e-5)


def test_strength_one_is_the_condition_and_zero_is_none():
    u_c, u_u = points(7, 2)
    np.testing.assert_allclose(guided(u_c, u_u, strength=1.0), u_c, rtol=1e-15, atol=1e-15)
    assert np.array_equal(guided(u_c, u_u, strength=0.0), u_u)


# New schedules


def reaches(path, other, t):
    """Whether the path has the ratio that the other has at t."""
    return log_snr(path, 0.0) <= log_snr(other, t) <= log_snr(path, 1.0)


@pytest.mark.parametrize(("path", "other"), [*product(PATHS, PATHS)], ids=repr)
def test_the_velocity_on_another_path_is_its_marginal_velocity(path, other):
    def velocity(x_t, t):
        return marginal_velocity(path, DATA, Q, x_t, t)

    ours = transformed(path, other, velocity)
    times = [t for t in np.linspace(0.02, 0.98, 25).tolist() if reaches(path, other, t)]
    assert len(times) >= 5
    for t in times:
        x = float(other.sigma(t)) * points(4, 5)[:, :2] + float(other.mu(t)) * DATA[[0, 1, 2, 3, 1]]
        right = marginal_velocity(other, DATA, Q, x, t)
        np.testing.assert_allclose(ours(x, t), right, rtol=1e-10, atol=1e-10 * np.max(np.abs(right)))
        np.testing.assert_allclose(ours(x, np.full(5, t)), right, rtol=1e-10, atol=1e-10 * np.max(np.abs(right)))


@pytest.mark.parametrize(("path", "other"), [*product(PATHS, PATHS)], ids=repr)
def test_at_the_ends_of_another_path_it_is_the_limit_or_an_error_that_says_when(path, other):
    ours = transformed(path, other, lambda x_t, t: exact(path, x_t, t)["velocity"])
    for t in (0.0, 1.0):
        infinite = [p for p in (path, other) if p == VariancePreserving() and math.isinf(log_snr(other, t))]
        if reaches(path, other, t) and not (infinite and t == 1):
            right = exact(other, points(6), t)["velocity"]
            np.testing.assert_allclose(ours(points(6), t), right, rtol=1e-10, atol=1e-10)
        else:
            with pytest.raises(ValueError, match=rf"t: .*got {t}"):
                ours(points(6), t)


@settings(max_examples=200)
@given(a=st.floats(0.01, 1), b=st.floats(0.01, 10), kind=st.sampled_from(["exploding", "preserving", "straight"]))
def test_the_same_path_changes_nothing_up_to_its_ends(a, b, kind):
    """Where the time found may lie beside [0, 1] by rounding, and the velocity is asked at it all the same."""
    path = {
        "exploding": VarianceExploding(a, a + b),
        "preserving": VariancePreserving(a, a + b),
        "straight": OptimalTransport(a),
    }[kind]
    asked = []

    def velocity(x_t, t):
        asked.append(t)
        return np.cos(x_t)

    for t in (0.0, 0.3) if kind == "preserving" else (0.0, 0.3, 1.0):
        np.testing.assert_allclose(transformed(path, path, velocity)(X + t, t), np.cos(X + t), rtol=1e-10)
        assert type(asked[-1]) is float and 0 <= asked[-1] <= 1 and abs(asked[-1] - t) < 1e-12


def test_it_is_the_scale_time_transformation():
    """u(x, t) = (s_dot / s) x + s tau_dot u_from(x / s, tau), with derivatives by differences."""
    one, other, x, t, h = Cosine(), VariancePreserving(), points(8), 0.6, 1e-3

    def tau(t):
        return one.time_of(log_snr(other, t))

    def s(t):
        return other.sigma(t) / one.sigma(tau(t))

    def slope(f):
        return (8 * (f(t + h) - f(t - h)) - (f(t + 2 * h) - f(t - 2 * h))) / (12 * h)

    u = np.sin  # any function of the point
    right = slope(s) / s(t) * x + s(t) * slope(tau) * u(x / s(t))
    np.testing.assert_allclose(transformed(one, other, lambda x_t, t: u(x_t))(x, t), right, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", BACKENDS)
def test_new_schedules_on_every_library(name):
    b, x, t = backend(name), points(9, 4)[:, :2], np.array([0.0, 0.25, 0.5, 0.9])

    def law(to_array):
        data, q = to_array(DATA), to_array(Q)
        return transformed(Cosine(), OptimalTransport(), lambda x, t: marginal_velocity(Cosine(), data, q, x, t))

    whole = law(np.asarray)(x, t)
    np.testing.assert_allclose(b.to_numpy(law(b.asarray)(b.asarray(x), b.asarray(t))), whole, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(b.to_numpy(law(b.asarray)(b.asarray(x[2]), 0.5)), whole[2], rtol=1e-12, atol=1e-12)
