"""Gaussian paths: velocities solve the continuity equation, and follow the flow that carries noise to data."""

import math

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
    conditional_log_density,
    conditional_score,
    conditional_velocity,
    denoiser,
    interpolate,
    interpolate_dot,
    log_snr,
    marginal_log_density,
    marginal_score,
    marginal_velocity,
)

mp = pytest.importorskip("mpmath")

PATHS = (
    OptimalTransport(),
    OptimalTransport(0.1),
    VariancePreserving(),
    VariancePreserving(1.0, 1.0),
    VarianceExploding(0.2, 5.0),
    Cosine(),
)
EVERY = (*PATHS, OptimalTransport(1.0), VariancePreserving(0.0, 3.0), VarianceExploding())
problems = {
    "path": st.sampled_from(PATHS),
    "seed": st.integers(0, 2**31),
    "size": st.sampled_from([1, 2, 3]),
    "t": st.floats(0.05, 0.9),
}


def derivative(f, x, h=5e-4):
    """f'(x) to O(h^6)."""
    weights = (3 / 4, -3 / 20, 1 / 60)
    return sum(w * (f(x + k * h) - f(x - k * h)) for k, w in enumerate(weights, 1)) / h


def divergence(f, x):
    axes = np.eye(len(x))
    return sum(derivative(lambda h, e=e: f(x + h * e), 0.0) @ e for e in axes)


def finite_data(seed, size):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 5))
    return rng.normal(size=(count, size)), rng.dirichlet(np.ones(count)), rng.normal(size=size)


@settings(max_examples=150)
@given(**problems)
def test_the_marginal_velocity_solves_the_continuity_equation(path, seed, size, t):
    data, q, x = finite_data(seed, size)

    def density(x, t):
        return math.exp(marginal_log_density(path, data, q, x, t))

    gain = derivative(lambda s: density(x, s), t)
    flux = divergence(lambda y: density(y, t) * marginal_velocity(path, data, q, y, t), x)
    scale = density(x, t) * (1 + np.max(np.abs(marginal_velocity(path, data, q, x, t)))) / path.sigma(t) ** 2
    assert abs(gain + flux) <= 1e-8 * max(scale, 1e-3)


@settings(max_examples=100)
@given(**problems)
def test_the_conditional_velocity_is_that_of_the_flow_from_noise(path, seed, size, t):
    """d/dt psi_t(x_0) = u_t(psi_t(x_0)|x_1), psi_t(x_0) = sigma_t x_0 + mu_t x_1."""
    x_0, x_1 = np.random.default_rng(seed).normal(size=(2, size))
    speed = derivative(lambda s: path.sigma(s) * x_0 + path.mu(s) * x_1, t)
    u = conditional_velocity(path, x_1, path.sigma(t) * x_0 + path.mu(t) * x_1, t)
    np.testing.assert_allclose(u, speed, rtol=1e-8, atol=1e-8)


@settings(max_examples=60)
@given(**problems)
def test_one_data_point_is_conditional_and_impossible_ones_count_nothing(path, seed, size, t):
    data, _, x = finite_data(seed, size)
    q = np.zeros(len(data))
    q[0] = 1.0
    np.testing.assert_allclose(
        marginal_velocity(path, data, q, x, t), conditional_velocity(path, data[0], x, t), rtol=1e-12, atol=1e-12
    )
    assert marginal_log_density(path, data, q, x, t) == pytest.approx(
        float(conditional_log_density(path, data[0], x, t)), rel=1e-12
    )


@settings(max_examples=60)
@given(**problems)
def test_the_marginal_velocity_is_the_mean_of_the_conditional_ones(path, seed, size, t):
    data, q, x = finite_data(seed, size)
    joint = [q[k] * math.exp(conditional_log_density(path, data[k], x, t)) for k in range(len(q))]
    mean = sum(joint[k] * conditional_velocity(path, data[k], x, t) for k in range(len(q))) / sum(joint)
    np.testing.assert_allclose(marginal_velocity(path, data, q, x, t), mean, rtol=1e-10, atol=1e-10)


def test_optimal_transport_by_its_own_formula():
    """u = (x_1 - (1 - s) x) / (1 - (1 - s) t)."""
    x_1, x, t, s = np.array([2.0, -1.0]), np.array([0.5, 0.25]), 0.7, 0.1
    u = conditional_velocity(OptimalTransport(s), x_1, x, t)
    np.testing.assert_allclose(u, (x_1 - (1 - s) * x) / (1 - (1 - s) * t), rtol=1e-14)


@pytest.mark.parametrize("t", [0.0, 0.35, 0.99, 1 - 1e-6])
def test_variance_preserving_by_its_own_formula(t):
    """u = -(T'/2) (e^-T x - e^(-T/2) x_1) / (1 - e^-T), T = T(1 - t), in 50 digits."""
    x_1, x = -1.2, 0.9
    with mp.workdps(50):
        s = 1 - mp.mpf(t)
        T, T_dot = mp.mpf(0.1) * s + mp.mpf(19.9) * s**2 / 2, mp.mpf(0.1) + mp.mpf(19.9) * s
        exact = -(T_dot / 2) * (mp.exp(-T) * x - mp.exp(-T / 2) * x_1) / (1 - mp.exp(-T))
        density = mp.npdf(mp.mpf(x), mp.exp(-T / 2) * mp.mpf(x_1), mp.sqrt(1 - mp.exp(-T)))
        log_density = mp.log(density)
    path = VariancePreserving(0.1, 20.0)
    u = conditional_velocity(path, np.array([x_1]), np.array([x]), t)
    np.testing.assert_allclose(u, [float(exact)], rtol=1e-12)
    got = conditional_log_density(path, np.array([x_1]), np.array([x]), t)
    np.testing.assert_allclose(got, float(log_density), rtol=1e-10)


def test_far_from_all_data_the_velocity_stays_finite():
    """Every density underflows; the posterior does not."""
    data, q = np.array([[0.0], [1.0]]), np.array([0.5, 0.5])
    u = marginal_velocity(OptimalTransport(0.01), data, q, np.array([1e4]), 0.99)
    np.testing.assert_allclose(u, conditional_velocity(OptimalTransport(0.01), data[1], np.array([1e4]), 0.99))


def test_times_may_differ_by_point():
    data, q, _ = finite_data(3, 2)
    x, t = np.random.default_rng(1).normal(size=(4, 2)), np.array([0.0, 0.25, 0.5, 0.75])
    u = marginal_velocity(PATHS[1], data, q, x, t)
    p = marginal_log_density(PATHS[1], data, q, x, t)
    for row in range(4):
        np.testing.assert_allclose(u[row], marginal_velocity(PATHS[1], data, q, x[row], t[row]), rtol=1e-13)
        np.testing.assert_allclose(p[row], marginal_log_density(PATHS[1], data, q, x[row], t[row]), rtol=1e-13)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_every_library_and_precision(name, path):
    b = backend(name)
    data, q, _ = finite_data(5, 3)
    x, t = np.random.default_rng(1).normal(size=(2, 4, 3)), np.full((2, 4), 0.25)
    for dtype, rtol in ((np.float64, 1e-12), (np.float32, 1e-4)):
        arrays = [b.asarray(a.astype(dtype)) for a in (data, q, x)]
        u = b.to_numpy(marginal_velocity(path, *arrays, b.asarray(t)))
        assert u.dtype == dtype
        np.testing.assert_allclose(u, marginal_velocity(path, data, q, x, t), rtol=rtol, atol=rtol)


X = np.array([0.5])


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: conditional_velocity(OptimalTransport(), X, X, 1.5), r"t: .*\[0, 1\]"),
        (lambda: conditional_velocity(OptimalTransport(), X, X, math.nan), r"t: .*\[0, 1\]"),
        (lambda: conditional_velocity(OptimalTransport(), X, X, 1.0), r"sigma > 0.*OptimalTransport"),
        (lambda: conditional_velocity(VariancePreserving(), X, X, 1.0), r"sigma > 0.*VariancePreserving"),
        (lambda: marginal_log_density(VariancePreserving(), X[None], np.ones(1), X, 1.0), r"sigma > 0"),
        (lambda: conditional_velocity(OptimalTransport(), X, np.zeros(2), 0.5), r"same last axis"),
        (lambda: conditional_velocity(OptimalTransport(), X, np.zeros((3, 1)), np.zeros(2)), r"t: .*shape \(3,\)"),
        (lambda: marginal_velocity(OptimalTransport(), X, np.ones(1), X, 0.5), r"data, q"),
        (lambda: marginal_velocity(OptimalTransport(), X[None], np.full(1, 0.5), X, 0.5), r"q: .*sum to 1"),
        (lambda: OptimalTransport(-0.1), r"sigma_min"),
        (lambda: OptimalTransport(math.nan), r"sigma_min"),
        (lambda: VariancePreserving(2.0, 1.0), r"beta_min"),
        (lambda: VariancePreserving(0.0, 0.0), r"beta_min"),
    ],
)
def test_times_outside_and_singular_ends_raise(call, what):
    with pytest.raises(ValueError, match=what):
        call()


def test_with_a_floor_under_sigma_the_end_is_regular():
    assert np.isfinite(conditional_velocity(OptimalTransport(0.1), X, X, 1.0))


@settings(max_examples=60)
@given(**problems)
def test_the_marginal_density_is_the_mean_of_the_conditional_ones(path, seed, size, t):
    data, q, x = finite_data(seed, size)
    mean = sum(q[k] * math.exp(conditional_log_density(path, data[k], x, t)) for k in range(len(q)))
    assert math.exp(marginal_log_density(path, data, q, x, t)) == pytest.approx(mean, rel=1e-12)


# Coefficients


@settings(max_examples=100)
@given(path=st.sampled_from(EVERY), t=st.floats(0.01, 0.99))
def test_rates_are_derivatives_and_mu_over_sigma_rises(path, t):
    for value, rate in ((path.mu, path.mu_dot), (path.sigma, path.sigma_dot)):
        np.testing.assert_allclose(rate(t), derivative(value, t), rtol=1e-8, atol=1e-8)
    assert path.mu_dot(t) * path.sigma(t) > path.mu(t) * path.sigma_dot(t)


@pytest.mark.parametrize("path", EVERY, ids=repr)
def test_rates_at_the_ends_are_one_sided_derivatives(path):
    h = 1e-7
    for t, inside in ((0.0, h), (1.0, 1 - h)):
        for value, rate in ((path.mu, path.mu_dot), (path.sigma, path.sigma_dot)):
            if (path, t, rate) not in [(p, 1.0, p.sigma_dot) for p in PATHS[2:4]]:
                slope = (value(inside) - value(t)) / (inside - t)
                np.testing.assert_allclose(rate(t), slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("path", "ends"),
    [
        (OptimalTransport(), (0.0, 1.0, 1.0, 0.0)),
        (OptimalTransport(0.25), (0.0, 1.0, 1.0, 0.25)),
        (VariancePreserving(), (math.exp(-10.05 / 2), math.sqrt(-math.expm1(-10.05)), 1.0, 0.0)),
        (VarianceExploding(0.3, 7.0), (1.0, 7.0, 1.0, 0.3)),
        (Cosine(), (0.0, 1.0, 1.0, 0.0)),
    ],
    ids=repr,
)
def test_paths_start_and_end_where_they_say(path, ends):
    got = (path.mu(0.0), path.sigma(0.0), path.mu(1.0), path.sigma(1.0))
    assert tuple(map(float, got)) == pytest.approx(ends, rel=1e-15, abs=0.0)


@pytest.mark.parametrize("t", [0.0, 1e-9, 0.3, 0.999, 1 - 1e-9, 1 - 2.0**-53])
def test_cosine_and_exploding_by_their_own_formulas(t):
    """In 50 digits: sigma keeps all of its own near t = 1, where a cosine of pi t / 2 has none."""
    with mp.workdps(50):
        exact = [mp.sin(mp.pi * mp.mpf(t) / 2), mp.cos(mp.pi * mp.mpf(t) / 2)]
        exploding = mp.mpf(0.01) * (mp.mpf(50) / mp.mpf(0.01)) ** (1 - mp.mpf(t))
    np.testing.assert_allclose([Cosine().mu(t), Cosine().sigma(t)], [float(x) for x in exact], rtol=1e-15)
    np.testing.assert_allclose(VarianceExploding().sigma(t), float(exploding), rtol=1e-14)
    x_1, x = np.array([2.0, -1.0]), np.array([0.5, 0.25])
    u = conditional_velocity(VarianceExploding(), x_1, x, t)
    np.testing.assert_allclose(u, -math.log(5000) * (x - x_1), rtol=1e-13)


@settings(max_examples=200)
@given(path=st.sampled_from(EVERY), t=st.floats(0, 1))
def test_the_time_of_a_signal_to_noise_ratio(path, t):
    if t < 1 or path.sigma(1.0) > 0:
        np.testing.assert_allclose(path.time_of(log_snr(path, t)), t, rtol=0, atol=4e-15)
    else:
        assert log_snr(path, t) == math.inf and path.time_of(math.inf) == 1
    if path.mu(t) * path.sigma(t) > 0:
        ratio = math.log(float(path.mu(t)) / float(path.sigma(t)))
        np.testing.assert_allclose(log_snr(path, t), ratio, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("path", [OptimalTransport(), Cosine()], ids=repr)
def test_small_times_have_all_digits_in_their_ratio(path):
    for t in (1e-300, 1e-20, 1e-8):
        np.testing.assert_allclose(path.time_of(log_snr(path, t)), t, rtol=2e-13)


def test_ratios_that_a_path_never_has_lie_outside_its_times():
    for path, low, high in [(VarianceExploding(), -5.0, 5.0), (VarianceExploding(), -math.inf, math.inf),
                            (VariancePreserving(), -6.0, None), (VariancePreserving(), -math.inf, None),
                            (VariancePreserving(1.0, 1.0), -math.inf, None), (OptimalTransport(0.1), None, 3.0),
                            (OptimalTransport(1.0), None, math.inf)]:  # fmt: skip
        assert low is None or path.time_of(low) < 0
        assert high is None or path.time_of(high) > 1


# Draws, scores, denoisers


@settings(max_examples=60)
@given(**problems)
def test_interpolation_is_the_flow_and_its_rate_the_conditional_velocity(path, seed, size, t):
    x_0, x_1 = np.random.default_rng(seed).normal(size=(2, size))
    x_t, rate = interpolate(path, x_0, x_1, t), interpolate_dot(path, x_0, x_1, t)
    np.testing.assert_allclose(x_t, path.mu(t) * x_1 + path.sigma(t) * x_0, rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(rate, conditional_velocity(path, x_1, x_t, t), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(rate, derivative(lambda s: interpolate(path, x_0, x_1, s), t), rtol=1e-8, atol=1e-8)


def test_interpolation_reaches_the_data_at_a_finite_rate():
    x_0, x_1 = np.array([[1.0, -2.0]]), np.array([[3.0, 5.0]])
    for path, rate in [(OptimalTransport(), x_1 - x_0), (Cosine(), -math.pi / 2 * x_0),
                       (VariancePreserving(0.0, 2.0), -x_0)]:  # fmt: skip
        assert np.array_equal(interpolate(path, x_0, x_1, 1.0), x_1)
        np.testing.assert_allclose(interpolate_dot(path, x_0, x_1, np.ones(1)), rate, rtol=1e-15)


@settings(max_examples=100)
@given(**problems)
def test_scores_are_gradients_of_log_densities(path, seed, size, t):
    data, q, x = finite_data(seed, size)
    h = 5e-4 * float(path.sigma(t))
    for score, log_density in [
        (conditional_score(path, data[0], x, t), lambda y: conditional_log_density(path, data[0], y, t)),
        (marginal_score(path, data, q, x, t), lambda y: marginal_log_density(path, data, q, y, t)),
    ]:
        gradient = [derivative(lambda r, e=e, f=log_density: f(x + r * e), 0.0, h) for e in np.eye(size)]
        scale = (1 + np.max(np.abs(x)) + np.max(np.abs(data))) / path.sigma(t) ** 2
        np.testing.assert_allclose(score, gradient, rtol=1e-7, atol=1e-8 * scale)


@settings(max_examples=60)
@given(**problems)
def test_the_denoiser_is_the_posterior_mean(path, seed, size, t):
    data, q, x = finite_data(seed, size)
    joint = np.array([q[k] * math.exp(conditional_log_density(path, data[k], x, t)) for k in range(len(q))])
    np.testing.assert_allclose(denoiser(path, data, q, x, t), joint / joint.sum() @ data, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", [OptimalTransport(1e-3), VarianceExploding(1e-3, 1.0), VariancePreserving()], ids=repr)
@pytest.mark.parametrize("far", [1.0, 1e3, 1e6, 1e12])
def test_posteriors_are_exact_however_far_the_point(path, far):
    """Two points almost as near as each other, in 60 digits: |x - mu x_1|^2 / sigma^2 alone rounds their odds away."""
    t, q = 0.999, np.array([0.25, 0.75])
    mu, sigma = float(path.mu(t)), float(path.sigma(t))
    data, x = np.array([[0.0, 1.0], [0.0, -1.0]]), np.array([far, 0.4 * sigma**2])
    with mp.workdps(60):
        point = [mp.mpf(float(a)) for a in x]
        distance = [
            mp.fsum((a - mp.mpf(mu) * b) ** 2 for a, b in zip(point, row, strict=True)) for row in data.tolist()
        ]
        joint = [p * mp.exp((min(distance) - d) / (2 * mp.mpf(sigma) ** 2)) for p, d in zip(q, distance, strict=True)]
        exact = [float(mp.fdot(joint, column.tolist()) / mp.fsum(joint)) for column in data.T]
    assert 0.1 < abs(exact[1]) < 0.9
    np.testing.assert_allclose(denoiser(path, data, q, x, t), exact, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sigma_min", [1e-3, 1e-16, 1e-22])
def test_far_points_and_tiny_deviations_give_numbers(dtype, sigma_min):
    """The nearest point takes all; of two as near as each other each takes its share, and an impossible one nothing."""
    data = np.array([[0.0, 1.0], [0.0, -1.0], [-5.0, 0.0], [1e6, 0.0]], dtype)
    q = np.array([0.25, 0.5, 0.25, 0.0], dtype)
    x = np.array([[1e6, 0.0], [-1e6, 0.0], [3.0, 1e6], [0.0, 1.0]], dtype)
    path = VarianceExploding(sigma_min, 1.0)
    np.testing.assert_allclose(denoiser(path, data, q, x, 1.0), [[0, -1 / 3], [-5, 0], [0, 1], [0, 1]], rtol=1e-6)
    assert np.all(np.isfinite(marginal_velocity(path, data, q, x, 1.0)))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_draws_scores_and_denoisers_on_every_library(name, path):
    b = backend(name)
    data, q, _ = finite_data(5, 3)
    x, y, t = *np.random.default_rng(1).normal(size=(2, 4, 3)), np.array([0.1, 0.25, 0.5, 0.75])
    cases = [(interpolate, x, y), (interpolate_dot, x, y), (denoiser, data, q, x), (marginal_score, data, q, x)]
    for function, *arrays in cases:
        exact = function(path, *arrays, t)
        for dtype, rtol in ((np.float64, 1e-12), (np.float32, 2e-5)):
            ours = b.to_numpy(function(path, *(b.asarray(a.astype(dtype)) for a in arrays), b.asarray(t)))
            assert ours.dtype == dtype
            np.testing.assert_allclose(ours, exact, rtol=rtol, atol=rtol * np.max(np.abs(exact)))
    snr = log_snr(path, b.asarray(t))
    np.testing.assert_allclose(b.to_numpy(path.time_of(snr)), t, atol=1e-14)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: interpolate(OptimalTransport(), X, np.zeros(2), 0.5), r"x_1: .*shape"),
        (lambda: interpolate(OptimalTransport(), np.float64(1), np.float64(1), 0.5), r"x_t: .*number"),
        (lambda: interpolate(OptimalTransport(), X, X, -0.1), r"t: .*\[0, 1\]"),
        (lambda: interpolate_dot(VariancePreserving(), X, X, 1.0), r"t: .*rates.*VariancePreserving.*finite, got 1\.0"),
        (lambda: interpolate_dot(VariancePreserving(), X[None], X[None], np.ones(1)), r"finite, got 1\.0"),
        (lambda: conditional_score(OptimalTransport(), X[None], np.zeros((2, 1)), np.array([0.5, 1.0])), "got 1.0"),
        (lambda: denoiser(OptimalTransport(), np.zeros((3, 2)), np.ones(3) / 3, X, 0.5), r"data, x_t: .*last axis"),
        (lambda: denoiser(Cosine(), X[None], np.ones(1), X, 1.0), r"sigma > 0"),
        (lambda: VarianceExploding(0.0, 1.0), r"sigma_min"),
        (lambda: VarianceExploding(1.0, 1.0), r"sigma_min"),
        (lambda: VarianceExploding(0.1, math.inf), r"sigma_max"),
    ],
)
def test_points_that_do_not_match_and_rates_that_are_infinite_raise(call, what):
    with pytest.raises(ValueError, match=what):
        call()


# What a 2025 tutorial prints; the number is the place of the formula in it


def test_e11_the_weights_sum_to_one_over_the_data_and_not_over_x():
    """Printed with dx in place of dx_1: the integral of p(x_1|x) over x, which grows with the range of x."""
    data, q, path = np.array([[-1.0], [0.5]]), np.array([0.25, 0.75]), OptimalTransport()

    def weights(x):
        given = [conditional_log_density(path, point, x, 0.5) for point in data]
        return np.stack([q[k] * np.exp(log_p - marginal_log_density(path, data, q, x, 0.5)) for k, log_p in
                         enumerate(given)])  # fmt: skip

    x = np.linspace(-8, 8, 1601)[:, None]
    np.testing.assert_allclose(weights(x).sum(axis=0), 1.0, rtol=1e-12)
    for r in (4, 8):
        inside = np.abs(x[:, 0]) <= r
        assert np.trapezoid(weights(x)[:, inside], x[inside, 0], axis=1).sum() == pytest.approx(2 * r)


@pytest.mark.parametrize("sigma_min", [0.0, 0.1])
def test_e13_sigma_takes_a_point_of_any_dimension_and_the_path_goes_from_noise_to_data(sigma_min):
    """Printed as sigma: [0, 1] x R -> R; x_1 is a point of R^D, and sigma may be free of it."""
    path = OptimalTransport(sigma_min)
    ends = [np.asarray(0.0), np.asarray(1.0)]
    assert [(float(path.mu(t)), float(path.sigma(t))) for t in ends] == [(0.0, 1.0), (1.0, pytest.approx(sigma_min))]
    for size in (1, 2, 5):
        x, x_1 = np.random.default_rng(size).normal(size=(2, size))
        log_noise = -0.5 * float(x @ x) - size / 2 * math.log(2 * math.pi)
        assert conditional_log_density(path, x_1, x, 0.0) == pytest.approx(log_noise, rel=1e-12)


@settings(max_examples=60)
@given(**problems | {"path": st.sampled_from(PATHS[:4])})
def test_e15_psi_carries_noise_to_p_t_and_not_p_t_to_itself(path, seed, size, t):
    """Printed as taking x ~ p_t(.|x_1): psi of that has the mean (1 + sigma) mu x_1 and the deviation sigma^2."""
    x, x_1 = np.random.default_rng(seed).normal(size=(2, size))
    mu, sigma = float(path.mu(np.asarray(t))), float(path.sigma(np.asarray(t)))

    def log_normal(x, mean, deviation):
        return float(np.sum(-(((x - mean) / deviation) ** 2) / 2 - np.log(deviation) - math.log(2 * math.pi) / 2))

    there = sigma * x + mu * x_1
    log_det = size * math.log(sigma)
    right = float(conditional_log_density(path, x_1, there, t))
    assert log_normal(x, 0.0, 1.0) - log_det == pytest.approx(right, rel=1e-10, abs=1e-10)
    printed = float(conditional_log_density(path, x_1, x, t)) - log_det
    assert printed == pytest.approx(log_normal(there, (1 + sigma) * mu * x_1, sigma**2), rel=1e-9, abs=1e-9)
    assert sigma**2 < sigma and (1 + sigma) * mu > mu, "another law"


@pytest.mark.parametrize(
    ("far", "dtype"), [*((far, "float64") for far in (0.0, 1e4, 1e8, 1e17, 1e200)), (1e4, "float32"), (1e17, "float32")]
)
def test_the_denoiser_tells_points_apart_however_far_the_state_is(far, dtype):
    """Beside its neighbour, and behind both of two points: of squares of 1e8 no digit of 1 is left."""
    data, q = np.array([[0.0, 0.0], [0.0, 1.0]], dtype=dtype), np.full(2, 0.5, dtype=dtype)
    t, y = 0.75, 0.5
    odds = math.exp((t * y - t * t / 2) / (1 - t) ** 2)
    found = denoiser(OptimalTransport(), data, q, np.array([far, y], dtype=dtype), t)
    np.testing.assert_allclose(found, [0.0, odds / (1 + odds)], rtol=1e-6 if dtype == "float32" else 1e-12)
    if far:
        line = np.array([[-1.0], [1.0]], dtype=dtype)
        assert denoiser(OptimalTransport(), line, q, np.array([far], dtype=dtype), t) == [1.0]


def test_a_log_snr_has_times_in_the_unit_interval():
    for t in (1.5, math.nan, np.array([0.5, -0.1])):
        with pytest.raises(ValueError, match=r"t: expected times in \[0, 1\]"):
            log_snr(OptimalTransport(), t)
