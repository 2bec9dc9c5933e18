"""Transitions: every table is the law that its rule says, from the oracle's velocities, and a PMF where it must be."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, MONOTONE, RETURNING, backend, cases, inner_times, intervals

from dfm_ref import events, transitions, velocities
from dfm_ref.paths import Mixture
from dfm_ref.schedules import Linear, PerToken, Polynomial
from dfm_ref.verify import oracle


def jump(rates, h):
    """The exponential law of one token at the rates float[V] from a token of rate 0, entry by entry."""
    total = rates.sum()
    return np.where(rates > 0, rates * (1 - np.exp(-h * total)) / max(total, 1e-300), 0.0), np.exp(-h * total)


@settings(max_examples=60)
@given(case=cases(), t=inner_times, h=inner_times)
def test_euler_is_the_oracle_s_kernel_and_a_pmf_up_to_its_bound(case, t, h):
    x, u = case.states(), case.velocity(t)
    kernel = transitions.euler(u, x, h)
    exact = np.swapaxes(oracle.euler_kernel(np.swapaxes(u, 0, 1), h), 0, 1)
    np.testing.assert_allclose(kernel, exact, rtol=0, atol=1e-12 * (1 + h * np.max(np.abs(u))))
    tight = transitions.step_bound(u, x)
    safe = 1 / max(1e-300, -float(oracle.coefficients(case.kappa(t), case.kappa_dot(t)).b.min()))
    assert np.all(tight >= safe * (1 - 1e-12))
    for z in np.flatnonzero(np.isfinite(tight)):
        for factor, is_pmf in ((0.999, True), (1.001, False)):
            assert np.all(transitions.euler(u[z], x[z], factor * tight[z]) >= 0) == is_pmf


@settings(max_examples=60)
@given(case=cases(), t=inner_times, h=inner_times)
def test_exponential_stays_with_the_chance_of_no_event_at_frozen_rates(case, t, h):
    x, u = case.states(), case.velocity(t)
    law = transitions.exponential(u, x, h)
    np.testing.assert_allclose(law.sum(-1), 1.0, rtol=0, atol=1e-12)
    for z, i in itertools.product(range(len(x)), range(case.length)):
        rates = np.where(np.arange(case.vocab_size) == x[z, i], 0.0, u[z, i])
        moved, stays = jump(rates, h)
        moved[x[z, i]] = stays
        np.testing.assert_allclose(law[z, i], moved, rtol=0, atol=1e-12)


@settings(max_examples=60)
@given(case=cases(), ts=intervals)
def test_finite_is_the_oracle_s_kernel(case, ts):
    t, s = ts
    w_hat, reachable = oracle.posteriors(case.problem, case.kappa(t))
    exact = oracle.finite_kernel(*oracle.finite_coefficients(case.kappa(t), case.kappa(s)), w_hat)
    law = transitions.finite(case.path, tuple(np.swapaxes(w_hat, 1, 2)), case.states(), t, s)
    np.testing.assert_allclose(law[reachable], np.swapaxes(exact, 0, 1)[reachable], rtol=0, atol=1e-12)


@pytest.mark.parametrize("div_free", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("schedule", [*MONOTONE, PerToken((Linear(), Polynomial(3.0)))], ids=repr)
def test_flow_matching_is_the_mean_over_x_1_of_exponential_steps(schedule, div_free):
    g, V = np.random.default_rng(0), 4
    t, h = np.array([0.2, 0.5, 0.9]), np.array([0.1, 0.4, 0.05])
    probs_1, x_t, p = g.dirichlet(np.ones(V), (3, 2)), g.integers(0, V, (3, 2)), g.dirichlet(np.ones(V), 2)
    law = transitions.flow_matching(schedule, probs_1, x_t, t, h, div_free=div_free, source_pmf=p)
    kappa, rise = (np.broadcast_to(f(t[:, None])[1], (3, 2)) for f in (schedule.kappas, schedule.kappa_dots))
    exact = np.zeros_like(law)
    for b, i, x_1 in itertools.product(range(3), range(2), range(V)):
        k, data = kappa[b, i], np.eye(V)[x_1]
        rates = rise[b, i] / (1 - k) * (data + div_free / k * ((1 - k) * p[i] + k * data))
        rates[x_t[b, i]] = 0.0
        moved, stays = jump(rates, h[b])
        moved[x_t[b, i]] = stays
        exact[b, i] += probs_1[b, i, x_1] * moved
    np.testing.assert_allclose(law, exact, rtol=0, atol=1e-12)


def test_the_second_stage_of_the_trapezoid_clamps_and_counts_each_diagonal_as_0():
    g, V = np.random.default_rng(1), 3
    x, y = g.integers(0, V, (50, 2)), g.integers(0, V, (50, 2))
    u_x, u_y = (velocities.forward(Mixture(), g.dirichlet(np.ones(V), (50, 2)), z, t) for z, t in ((x, 0.3), (y, 0.5)))
    clamped = 0
    for theta in (0.3, 0.5, 0.8):
        rates = transitions.trapezoid_rates(u_x, u_y, x, y, theta=theta)
        a_1 = 1 / (2 * theta * (1 - theta))
        a_2 = ((1 - theta) ** 2 + theta**2) / (2 * theta * (1 - theta))
        for b, i, v in itertools.product(range(50), range(2), range(V)):
            after = 0.0 if v == y[b, i] else u_y[b, i, v]
            before = 0.0 if v == x[b, i] else u_x[b, i, v]
            exact = 0.0 if v == y[b, i] else max(0.0, a_1 * after - a_2 * before)
            clamped += exact == 0.0 and v != y[b, i]
            assert abs(rates[b, i, v] - exact) < 1e-12
    assert clamped > 20


@pytest.mark.parametrize("name", BACKENDS)
def test_every_library_gives_the_same_laws(name):
    b, g = backend(name), np.random.default_rng(2)
    probs_1, x_t, t = g.dirichlet(np.ones(3), (4, 2)), g.integers(0, 3, (4, 2)), np.array([0.1, 0.5, 0.9, 0.99])
    u = velocities.forward(Mixture(), probs_1, x_t, t)
    for law in (
        lambda a: transitions.euler(a(u), a(x_t), a(t)),
        lambda a: transitions.exponential(a(u), a(x_t), a(t)),
        lambda a: transitions.finite(Mixture(), a(probs_1), a(x_t), a(t), 0.995),
        lambda a: transitions.flow_matching(
            Linear(), a(probs_1), a(x_t), a(t), 0.1, div_free=1.0, source_pmf=a(u[0, 0] ** 0 / 3)
        ),
        lambda a: transitions.trapezoid_rates(a(u), a(2 * u), a(x_t), a(x_t), theta=0.4),
        lambda a: transitions.step_bound(a(u), a(x_t)),
    ):
        np.testing.assert_allclose(b.to_numpy(law(b.asarray)), law(np.asarray), rtol=1e-12, atol=1e-13)


def test_laws_of_no_rates_stay():
    x, u = np.array([[0, 1]]), np.zeros((1, 2, 2))
    for law in (transitions.euler(u, x, 0.5), transitions.exponential(u, x, 0.5)):
        assert np.array_equal(law, np.eye(2)[x])
    assert transitions.step_bound(u, x).tolist() == [np.inf]
    assert transitions.exponential(np.zeros((0, 2, 3)), np.zeros((0, 2), np.int64), 0.5).shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: transitions.euler(np.zeros((2, 3, 4)), np.zeros((2, 2), np.int64), 0.1), "u: expected"),
        (
            lambda: transitions.trapezoid_rates(*[np.zeros((1, 2))] * 2, *[np.zeros(1, np.int64)] * 2, theta=1.0),
            "theta",
        ),
        (lambda: transitions.flow_matching(Linear(), np.ones((1, 2)) / 2, np.array([0]), 1.0, 0.1), "t: expected"),
        (lambda: transitions.flow_matching(RETURNING, np.ones((1, 2)) / 2, np.array([0]), 0.5, 0.1), "redraws from X1"),
        (
            lambda: transitions.flow_matching(Linear(), np.ones((1, 2)) / 2, np.array([0]), 0.5, 0.1, div_free=1.0),
            "div_free",
        ),
        (
            lambda: transitions.flow_matching(
                Linear(), np.ones((1, 2)) / 2, np.array([0]), 0.0, 0.1, div_free=1.0, source_pmf=np.ones(2) / 2
            ),
            "t: expected a time > 0",
        ),
    ],
)
def test_arguments_outside_their_domain_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@settings(max_examples=60)
@given(case=cases(), t=inner_times, strength=st.floats(0, 5))
def test_a_corrected_euler_step_is_a_pmf_up_to_the_bound_of_both_clocks(case, t, strength):
    """h <= 1 / (alpha forward intensity + beta backward intensity), whatever the state and the model."""
    schedule, time = case.path.schedule, np.array([[t]])
    back = float(np.max(events.backward_intensity(schedule, time)))
    assume(np.isfinite(back))
    u = velocities.corrected(case.path, case.posteriors(t), case.states(), t, alpha=1 + strength, beta=strength)
    h = 1 / max(1e-300, (1 + strength) * float(np.max(events.intensity(schedule, time))) + strength * back)
    assert np.all(transitions.step_bound(u, case.states()) >= h * (1 - 1e-12))
    if h < 1e300:
        assert np.all(transitions.euler(u, case.states(), 0.999999 * h) >= 0)
