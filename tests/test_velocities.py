"""The forward velocity is the oracle's: it conserves, its signs are right, and the finite step tends to it."""

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import BACKENDS, backend, cases, inner_times

from dfm_ref import events, paths
from dfm_ref.paths import X0, X1, Fixed, Mixture
from dfm_ref.schedules import Bernstein, Convex, Cosine, PerToken, Polynomial
from dfm_ref.velocities import forward
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
