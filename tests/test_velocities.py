"""Velocities are the oracle's: they generate the path, their signs are right, and the finite step tends to them."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, backend, cases, inner_times, pmfs

from dfm_ref import events, paths
from dfm_ref.paths import X0, X1, Fixed, Mixture
from dfm_ref.schedules import Bernstein, Convex, Cosine, Linear, PerToken, Polynomial
from dfm_ref.velocities import (
    backward,
    conditional,
    corrected,
    forward,
    noise_posterior,
    resampling,
    strengths,
)
from dfm_ref.verify import oracle

M3 = Mixture(
    Convex((Bernstein((1.0, 0.5, 0.0)), Bernstein((0.0, 0.5, 0.0)), Bernstein((0.0, 0.0, 1.0)))),
    (X0(), Fixed((0.5, 0.25, 0.25)), X1()),
)


@settings(max_examples=100)
@given(case=cases(), t=inner_times)
def test_the_marginal_velocity_is_the_oracle_s_and_solves_the_kolmogorov_equation(case, t):
    x = case.states()
    u = forward(case.path, case.posteriors(t), x, t)
    scale = 1 + float(np.max(np.abs(u)))
    np.testing.assert_allclose(u, case.velocity(t), rtol=0, atol=1e-12 * scale)
    p, p_dot = (
        oracle.marginal(case.problem, case.kappa(t)),
        oracle.marginal_dot(case.problem, case.kappa(t), case.kappa_dot(t)),
    )
    residual = oracle.kolmogorov_residual(p_dot, oracle.generator(np.swapaxes(u, 0, 1)), p)
    np.testing.assert_allclose(residual, 0.0, atol=1e-12 * scale)


@settings(max_examples=60)
@given(case=cases(), t=inner_times)
def test_rows_sum_to_0_and_only_the_diagonal_is_negative(case, t):
    x = case.states()
    u = forward(case.path, case.posteriors(t), x, np.full(len(x), t))
    here = oracle.delta(x, case.vocab_size).astype(bool)
    assert np.all(u[~here] >= 0)
    assert np.all(u[here] <= 0)
    np.testing.assert_allclose(u.sum(-1), 0.0, atol=1e-15 * (1 + np.max(np.abs(u))))


@settings(max_examples=40)
@given(case=cases(), t=inner_times)
def test_given_a_pair_the_velocity_is_conditional_and_times_may_differ_by_row(case, t):
    pair = 0
    x_0, x_1 = (np.broadcast_to(x[pair], case.states().shape) for x in (case.problem.x_0, case.problem.x_1))
    times = np.where(np.arange(len(x_0)) % 2, t, 0.5)
    u = forward(case.path, paths.component_pmfs(case.path, x_0, x_1, vocab_size=case.vocab_size), case.states(), times)
    for row, s in enumerate(times):
        a, b, _ = oracle.coefficients(case.kappa(s), case.kappa_dot(s))
        exact = oracle.velocity(a, b, oracle.given_pair(case.problem, pair))[:, row]
        np.testing.assert_allclose(u[row], exact, rtol=0, atol=1e-12 * (1 - float(b.min())))


@settings(max_examples=40)
@given(case=cases(), t=inner_times.filter(lambda t: 0.01 < t < 0.99))
def test_the_finite_step_minus_the_identity_over_h_tends_to_the_velocity(case, t):
    x, h = case.states(), 1e-7
    u = forward(case.path, case.posteriors(t), x, t)
    times = np.array([[t]]), np.array([[t + h]])
    c, stay = events.redraw_weights(case.path.schedule, *times), events.stay(case.path.schedule, *times)
    here = oracle.delta(x, case.vocab_size)
    kernel = stay[..., None] * here + sum(c[..., None] * w for c, w in zip(c, case.posteriors(t), strict=True))
    np.testing.assert_allclose((kernel - here) / h, u, atol=1e-4 * (1 + np.max(np.abs(u)) ** 2))


def test_one_array_is_the_posterior_of_the_data():
    rng = np.random.default_rng(0)
    probs_1, x_t = rng.dirichlet(np.ones(3), (4, 2)), rng.integers(0, 3, (4, 2))
    path = Mixture(PerToken((Cosine(), Polynomial(2.0))))
    t = np.array([0.1, 0.5, 0.9, 0.99])
    rates = np.stack([k.kappa_dot(t) / k.one_minus_kappa(t) for k in (Cosine(), Polynomial(2.0))], -1)[..., None]
    u = forward(path, probs_1, x_t, t)
    np.testing.assert_allclose(u, rates * (probs_1 - np.eye(3)[x_t]), rtol=1e-11, atol=1e-12)
    assert np.array_equal(u, forward(path, (None, probs_1), x_t, t))


def test_a_nearly_sure_model_keeps_the_digits_of_its_rates():
    """The diagonal is minus the sum of the rest: as a (p(z) - 1) it would be 0."""
    u = forward(Mixture(), np.array([[1.0, 1e-20, 2e-20]]), np.array([0]), 0.5)
    np.testing.assert_allclose(u, [[-6e-20, 2e-20, 4e-20]], rtol=1e-14)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_library_and_precision_gives_the_same_float64_rates(name):
    b, rng = backend(name), np.random.default_rng(1)
    probs_1, x_t = rng.dirichlet(np.ones(3), (4, 2)), rng.integers(0, 3, (4, 2))
    posteriors = (None, np.tile([0.5, 0.25, 0.25], (4, 2, 1)), probs_1)
    t = np.array([0.1, 0.5, 0.9, 0.99])
    ours = tuple(None if w is None else b.asarray(w) for w in posteriors)
    u = b.to_numpy(forward(M3, ours, b.asarray(x_t), b.asarray(t)))
    np.testing.assert_allclose(u, forward(M3, posteriors, x_t, t), rtol=1e-13, atol=1e-13)
    assert (
        b.to_numpy(forward(Mixture(), b.asarray(probs_1.astype(np.float32)), b.asarray(x_t), 0.5)).dtype == np.float64
    )


def test_empty_and_smallest_shapes():
    assert forward(Mixture(), np.zeros((0, 2, 3)), np.zeros((0, 2), np.int64), np.zeros(0)).shape == (0, 2, 3)
    assert forward(Mixture(), np.ones((1, 1, 1)), np.zeros((1, 1), np.int64), 0.5).tolist() == [[[0.0]]]


def test_arguments_stay_as_they_were():
    w, x_t, t = np.full((2, 2, 3), 1 / 3), np.array([[0, 1], [2, 0]]), np.array([0.2, 0.5])
    copies = w.copy(), x_t.copy(), t.copy()
    forward(M3, (None, w, w), x_t, t)
    assert all(np.array_equal(a, b) for a, b in zip((w, x_t, t), copies, strict=True))


@pytest.mark.parametrize(
    ("path", "posteriors", "x_t", "t"),
    [
        (Mixture(), np.ones((2, 2, 3)) / 3, np.zeros((2, 3), np.int64), 0.5),
        (Mixture(), np.ones((2, 2, 3)) / 3, np.zeros((2, 2), np.int64), np.full(3, 0.5)),
        (M3, np.ones((2, 2, 3)) / 3, np.zeros((2, 2), np.int64), 0.5),
        (M3, (None, None, np.ones((2, 2, 3)) / 3), np.zeros((2, 2), np.int64), 0.5),
        (M3, (None, np.ones((2, 2, 3)) / 3), np.zeros((2, 2), np.int64), 0.5),
        (Mixture(), (None, None), np.zeros((2, 2), np.int64), 0.5),
    ],
    ids=["shape of x_t", "shape of t", "one of three", "None of three", "two of three", "none at all"],
)
def test_shapes_that_do_not_match_and_missing_posteriors_raise(path, posteriors, x_t, t):
    with pytest.raises(ValueError, match=r"posterior|x_t|t:|shorter|argument"):
        forward(path, posteriors, x_t, t)


# The rest of the family


def residual(case, t, u):
    """dp/dt - Q(u) p, relative to the largest rate."""
    p, p_dot = (
        oracle.marginal(case.problem, case.kappa(t)),
        oracle.marginal_dot(case.problem, case.kappa(t), case.kappa_dot(t)),
    )
    Q = oracle.generator(np.swapaxes(u, 0, 1))
    return np.max(np.abs(oracle.kolmogorov_residual(p_dot, Q, p))) / (1 + np.max(np.abs(u)))


def can_go_back(case, t):
    return bool(np.all(np.isfinite(events.backward_intensity(case.path.schedule, np.array([[t]])))))


@settings(max_examples=100)
@given(case=cases(), t=inner_times)
def test_the_backward_velocity_is_the_oracle_s_and_generates_the_path(case, t):
    assume(can_go_back(case, t))
    a, b, _ = oracle.coefficients(case.kappa(t), -case.kappa_dot(t))
    exact = np.swapaxes(oracle.velocity(-a, -b, oracle.posteriors(case.problem, case.kappa(t)).w_hat), 0, 1)
    u = backward(case.path, case.posteriors(t), case.states(), t)
    np.testing.assert_allclose(u, exact, rtol=0, atol=1e-12 * (1 + float(np.max(-b))))  # its diagonal has b in it
    assert residual(case, t, u) < 1e-12
    here = oracle.delta(case.states(), case.vocab_size).astype(bool)
    assert np.all(u[~here] <= 0) and np.all(u[here] >= 0)


@settings(max_examples=100)
@given(case=cases(), t=inner_times, beta=st.floats(0, 5), data=st.data())
def test_corrected_velocities_generate_the_path_with_strengths_of_time_and_token(case, t, beta, data):
    assume(can_go_back(case, t))
    x, w = case.states(), case.posteriors(t)
    per_token = np.array([data.draw(st.floats(0, 5)) for _ in range(case.length)])
    for strength in (beta, np.full(len(x), beta), np.tile(per_token, (len(x), 1))):
        u = corrected(case.path, w, x, t, alpha=1 + strength, beta=strength)
        assert residual(case, t, u) < 1e-12
        assert np.all(u[~oracle.delta(x, case.vocab_size).astype(bool)] >= 0)
        still = corrected(case.path, w, x, t, alpha=strength, beta=strength)
        p = oracle.marginal(case.problem, case.kappa(t))
        assert np.max(np.abs(oracle.generator(np.swapaxes(still, 0, 1)) @ p)) < 1e-12 * (1 + np.max(np.abs(still)))


def test_a_strength_that_depends_on_the_state_breaks_the_path():
    case = Case2()
    x, t = case.states(), 0.5
    strength = np.where(x[:, 0] == 0, 1.0, 0.0)
    w = case.posteriors(t)
    u = corrected(case.path, w, x, t, alpha=1 + strength, beta=strength)
    assert residual(case, t, u) > 1e-3


class Case2:
    """One token between two correlated values, kappa = t."""

    path, vocab_size, length = Mixture(), 2, 1
    problem = oracle.enumerate_pairs(
        np.array([[0.5, 0.1], [0.1, 0.3]]), np.stack([oracle.at_x_0(2), oracle.at_x_1(2)]).astype(float)
    )

    def kappa(self, t):
        return np.array([[1 - t, t]])

    def kappa_dot(self, t):
        return np.array([[-1.0, 1.0]])

    def states(self):
        return oracle.states(2, 1)

    def posteriors(self, t):
        return tuple(np.swapaxes(oracle.posteriors(self.problem, self.kappa(t)).w_hat, 1, 2))


@settings(max_examples=100)
@given(case=cases(), t=inner_times, more=st.floats(0, 5))
def test_any_ratio_below_the_least_generates_the_path_and_the_least_is_forward(case, t, more):
    x, w = case.states(), case.posteriors(t)
    least = -float(np.max(events.intensity(case.path.schedule, np.array([[t]]))))
    u = resampling(case.path, w, x, t, ratio=least - more)
    assert residual(case, t, u) < 1e-12
    assert np.all(u[~oracle.delta(x, case.vocab_size).astype(bool)] >= 0)
    if len(case.path.schedule.kappas(np.array([t]))[0]) == 1:
        np.testing.assert_allclose(
            resampling(case.path, w, x, t, ratio=least), forward(case.path, w, x, t), rtol=0, atol=1e-12 * (1 - least)
        )
    with pytest.raises(ValueError, match="ratio"):
        resampling(case.path, w, x, t, ratio=least + 1e-3 * (1 - least))


@settings(max_examples=40)
@given(case=cases(), t=inner_times)
def test_the_marginal_velocity_is_the_mean_of_the_conditional_ones(case, t):
    x = case.states()
    given_z = oracle.pair_posterior(case.problem, case.kappa(t))
    pairs = zip(case.problem.x_0, case.problem.x_1, given_z, strict=True)
    mean = sum(
        weight[:, None, None]
        * conditional(case.path, *(np.broadcast_to(y, x.shape) for y in (x_0, x_1)), x, t, vocab_size=case.vocab_size)
        for x_0, x_1, weight in pairs
    )
    reachable = oracle.posteriors(case.problem, case.kappa(t)).reachable
    u = forward(case.path, case.posteriors(t), x, t)
    np.testing.assert_allclose(mean[reachable], u[reachable], rtol=0, atol=1e-12 * (1 + np.max(np.abs(u))))


@settings(max_examples=60)
@given(data=st.data(), t=inner_times)
def test_noise_prediction_is_free_with_an_independent_source_and_wrong_with_a_correlated_one(data, t):
    source = np.stack([data.draw(pmfs(2)) for _ in range(2)]).astype(float)
    q = data.draw(pmfs(4)).astype(float)
    tables = np.stack([oracle.at_x_0(2), oracle.at_x_1(2)]).astype(float)
    schedule = PerToken((Cosine(), Polynomial(2.0)))
    kappa = np.stack(np.broadcast_arrays(*schedule.kappas(np.array([t]))), -1)
    problem = oracle.enumerate_pairs(oracle.prompted(q, source, np.zeros(2, bool)), tables)
    (w_0, w_1), reachable = oracle.posteriors(problem, kappa)
    noise = noise_posterior(schedule, source, np.swapaxes(w_1, 0, 1), oracle.states(2, 2), t)
    np.testing.assert_allclose(noise[reachable], np.swapaxes(w_0, 0, 1)[reachable], rtol=0, atol=1e-11)
    np.testing.assert_allclose(noise.sum(-1), 1.0, rtol=0, atol=1e-12)


def test_noise_prediction_does_not_hold_for_a_correlated_coupling():
    case = Case2()
    w_0, w_1 = case.posteriors(0.5)
    noise = noise_posterior(Linear(), case.problem.pi @ np.eye(2)[case.problem.x_0[:, 0]], w_1, case.states(), 0.5)
    assert np.max(np.abs(noise - w_0)) > 0.05


@pytest.mark.parametrize("name", BACKENDS)
def test_every_library_gives_the_whole_family(name):
    b, rng = backend(name), np.random.default_rng(1)
    w, x_t = rng.dirichlet(np.ones(3), (2, 4, 2)), rng.integers(0, 3, (4, 2))
    t = np.array([0.1, 0.5, 0.9, 0.99])
    for f in (
        lambda a: backward(Mixture(), (a(w[0]), None), a(x_t), a(t)),
        lambda a: corrected(Mixture(), (a(w[0]), a(w[1])), a(x_t), a(t), alpha=a(1 + t), beta=a(t)),
        lambda a: resampling(Mixture(), (a(w[0]), a(w[1])), a(x_t), a(t), ratio=-200.0),
        lambda a: conditional(Mixture(), a(x_t), a(x_t[::-1].copy()), a(x_t), a(t), vocab_size=3),
        lambda a: noise_posterior(Linear(), a(w[0, 0, 0]), a(w[1]), a(x_t), a(t)),
    ):
        np.testing.assert_allclose(b.to_numpy(f(b.asarray)), f(np.asarray), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w, x: forward(Mixture(), w, x, 1.0), "t: expected"),
        (lambda w, x: backward(Mixture(), (w, None), x, 0.0), "t: expected"),
        (lambda w, x: backward(Mixture(), w, x, 0.5), "posteriors: expected one for X0"),
        (lambda w, x: corrected(Mixture(), (w, w), x, 0.5, alpha=0.5, beta=-0.5), "beta: expected strengths >= 0"),
        (lambda w, x: corrected(Mixture(), (w, w), x, 0.5, alpha=2.0, beta=0.5), "alpha - beta = 1"),
        (lambda w, x: strengths(np.array([[1.0, 0.0]]), np.array([[0.0, 0.0]]), x), "alpha - beta = 1"),
        (lambda w, x: resampling(Mixture(), (w, w), x, 0.5, ratio=-1.0), "ratio: expected"),
    ],
)
def test_velocities_outside_their_domain_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((1, 2, 2)) / 2, np.array([[0, 1]]))


def test_no_strength_needs_no_backward_part_not_even_at_0():
    w, x = np.ones((1, 2, 2)) / 2, np.array([[0, 1]])
    assert np.array_equal(corrected(Mixture(), (None, w), x, 0.0, alpha=1.0, beta=0.0), forward(Mixture(), w, x, 0.0))


def test_a_source_that_does_not_fit_the_vocabulary_raises():
    probs_1, x_t = np.full((1, 3), 1 / 3), np.array([0])
    for source in (np.ones(1), np.full((2, 3), 1 / 3)):
        with pytest.raises(ValueError, match="source_pmf: expected the shape"):
            noise_posterior(Linear(), source, probs_1, x_t, 0.5)
