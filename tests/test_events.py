"""Intensity, stay and weights against the oracle, and the algebra that makes them an exact step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import simpson
from strategies import BACKENDS, MONOTONE, SWITCHING, backend, cases, inner_times, intervals

from dfm_ref import events
from dfm_ref.schedules import Bernstein, Convex, Linear, PerToken, Polynomial
from dfm_ref.verify import oracle


def table(weights, length):
    """A tuple of m arrays [1, 1 or N] as a table [N, m]."""
    return np.broadcast_to(np.stack([np.asarray(w)[0] for w in weights], -1), (length, len(weights)))


def column(t):
    return np.array([[t]])


@settings(max_examples=120)
@given(case=cases(), t=inner_times)
def test_intensity_and_rates_are_the_oracle_s_and_close(case, t):
    a, b, _ = oracle.coefficients(case.kappa(t), case.kappa_dot(t))
    scale = 1 - float(b.min())
    rates = table(events.redraw_rates(case.path.schedule, column(t)), case.length)
    intensity = np.broadcast_to(events.intensity(case.path.schedule, column(t)), (1, case.length))[0]
    np.testing.assert_allclose(rates, a, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(intensity, -b, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(rates.sum(-1), intensity, rtol=1e-12, atol=1e-13)
    assert np.all(rates >= 0)
    assert np.all(rates.min(-1) == 0)  # a^l, exactly


@settings(max_examples=120)
@given(case=cases(), ts=intervals)
def test_stay_and_weights_are_the_oracle_s_and_close(case, ts):
    """Sees the minimum taken over components that are absent at t, and c^l = 1e-17 left in place of 0."""
    t, s = ts
    c, stay = oracle.finite_coefficients(case.kappa(t), case.kappa(s))
    weights = table(events.redraw_weights(case.path.schedule, column(t), column(s)), case.length)
    stays = np.broadcast_to(events.stay(case.path.schedule, column(t), column(s)), (1, case.length))[0]
    np.testing.assert_allclose(weights, c, rtol=0, atol=1e-12)
    np.testing.assert_allclose(stays, stay, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(stays + weights.sum(-1), 1.0, rtol=1e-14)
    assert np.all(weights >= 0)
    assert np.all(weights.min(-1) == 0)  # c^l, exactly
    np.testing.assert_allclose(stays[:, None] * case.kappa(t) + weights, case.kappa(s), rtol=1e-14, atol=1e-15)
    absent = case.kappa(t) == 0
    np.testing.assert_allclose(weights[absent], case.kappa(s)[absent], rtol=1e-14)
    if s == 1:
        assert np.all(weights[:, :-1] * (case.kappa(s)[:, :-1] == 0) == 0)


@pytest.mark.parametrize("kappa", [*MONOTONE, SWITCHING], ids=lambda k: type(k).__name__)
def test_the_fastest_component_is_never_redrawn_not_even_by_rounding(kappa):
    """Sees 1e-17 left of kappa_dot - kappa (kappa_dot / kappa)."""
    t = np.linspace(0, 1, 5001)[1:-1]
    for weights in (events.redraw_rates(kappa, t), events.redraw_weights(kappa, t, t + (1 - t) / 3)):
        assert np.all(np.min(np.stack(weights), 0) == 0)


@settings(max_examples=60)
@given(case=cases(), t=inner_times.filter(lambda t: 0.01 < t < 0.99))
def test_the_finite_step_divided_by_its_length_tends_to_the_rates(case, t):
    a, b, _ = oracle.coefficients(case.kappa(t), case.kappa_dot(t))
    h = 1e-7
    weights = table(events.redraw_weights(case.path.schedule, column(t), column(t + h)), case.length)
    stays = np.asarray(events.stay(case.path.schedule, column(t), column(t + h)))[0]
    np.testing.assert_allclose(weights / h, a, atol=1e-4 * (1 + float(np.max(b**2))))
    np.testing.assert_allclose(
        (1 - stays) / h,
        np.broadcast_to(-b, stays.shape) if stays.size > 1 else -b[:1],
        atol=1e-4 * (1 + float(np.max(b**2))),
    )


@pytest.mark.parametrize("kappa", MONOTONE, ids=repr)
def test_two_components_stay_with_the_ratio_of_the_complements(kappa):
    t, s = np.array([0.0, 0.25, 0.5, 0.999]), np.array([0.25, 0.5, 1.0, 1 - 1e-9])
    ratio = kappa.one_minus_kappa(s) / kappa.one_minus_kappa(t)
    np.testing.assert_allclose(events.stay(kappa, t, s), ratio, rtol=1e-14)
    weights = events.redraw_weights(kappa, t, s)
    assert np.all(weights[0] == 0)
    np.testing.assert_allclose(weights[1], 1 - ratio, rtol=1e-9)
    inner = np.array([0.01, 0.3, 0.9, 1 - 1e-9])
    np.testing.assert_allclose(
        events.intensity(kappa, inner), kappa.kappa_dot(inner) / kappa.one_minus_kappa(inner), rtol=1e-14
    )


@pytest.mark.parametrize("kappa", [*MONOTONE, SWITCHING], ids=lambda k: type(k).__name__)
def test_nothing_that_was_there_at_first_stays_until_the_end(kappa):
    for t in (0.0, 0.4, 1 - 1e-9):
        assert float(events.stay(kappa, t, 1.0)) == 0.0
        assert [float(c) for c in events.redraw_weights(kappa, t, 1.0)] == [float(k) for k in kappa.kappas(1.0)]


@pytest.mark.parametrize("kappa", [k for k in MONOTONE if k.kappa_dot(1.0) > 0], ids=repr)
def test_the_intensity_is_infinite_where_a_component_vanishes_while_it_decreases(kappa):
    assert float(events.intensity(kappa, 1.0)) == np.inf
    assert events.intensity(kappa, np.array([0.5, 1.0]))[1] == np.inf


def test_stay_multiplies_over_intervals_of_one_argmin_and_only_there():
    """The numbers of the schedule ((1 - t)^2, t^2 (1 - t)^3, rest), which switches at t = 2/3."""

    def stay(t, s):
        return float(events.stay(SWITCHING, t, s))

    switch = 2 / 3
    assert stay(0.4, 0.95) == pytest.approx(0.00326, abs=5e-6)
    assert stay(0.4, switch) * stay(switch, 0.95) == pytest.approx(0.00212, abs=5e-6)
    assert stay(0.1, 0.3) * stay(0.3, 0.6) == pytest.approx(stay(0.1, 0.6), rel=1e-13)
    assert stay(0.7, 0.8) * stay(0.8, 0.95) == pytest.approx(stay(0.7, 0.95), rel=1e-13)
    for t, ell, b in ((0.5, 0, -2 / 0.5), (0.8, 1, 2 / 0.8 - 3 / 0.2)):
        assert float(events.intensity(SWITCHING, t)) == pytest.approx(-b, rel=1e-13)
        assert float(events.redraw_rates(SWITCHING, t)[ell]) == 0.0


def test_the_survival_of_the_event_clock_is_stay():
    t, s = 0.2, 0.6
    x, w = np.polynomial.legendre.leggauss(40)
    inner = (t + s) / 2 + (s - t) / 2 * x
    for kappa in (*MONOTONE, SWITCHING):
        integral = (s - t) / 2 * np.sum(w * events.intensity(kappa, inner))
        assert float(events.stay(kappa, t, s)) == pytest.approx(np.exp(-integral), rel=1e-9)


def test_components_that_never_have_weight_have_no_say():
    plain, padded = Linear(), Convex((Bernstein((1.0, 0.0)), Bernstein((0.0, 0.0)), Bernstein((0.0, 1.0))))
    t, s = np.array([0.0, 0.5, 0.9]), np.array([0.5, 0.75, 1.0])
    assert np.array_equal(events.intensity(padded, t), events.intensity(plain, t))
    for ours, theirs in ((events.redraw_rates(padded, t), events.redraw_rates(plain, t)),
                         (events.redraw_weights(padded, t, s), events.redraw_weights(plain, t, s))):  # fmt: skip
        assert np.array_equal(ours[0], theirs[0])
        assert np.all(ours[1] == 0)
        np.testing.assert_allclose(ours[2], theirs[1], rtol=1e-15)


@settings(max_examples=60)
@given(case=cases(), ts=intervals.filter(lambda ts: ts[0] < 0.99))
def test_euler_s_weights_are_h_a_up_to_the_bound_and_a_sure_redraw_beyond(case, ts):
    t, s = ts
    a, b, _ = oracle.coefficients(case.kappa(t), case.kappa_dot(t))
    c, stay = oracle.clipped_coefficients(a, b, s - t)
    weights = table(events.euler_redraw(case.path.schedule, column(t), column(s)), case.length)
    np.testing.assert_allclose(weights, c, rtol=0, atol=1e-12)
    assert np.all(weights >= 0)
    assert np.all(weights.sum(-1) <= 1 + 1e-15)
    np.testing.assert_allclose(weights.sum(-1) + stay, 1.0, rtol=1e-12)


def test_euler_s_step_under_a_huge_rate_is_a_sure_redraw():
    weights = events.euler_redraw(Polynomial(0.5), 2.0**-1000, 0.5)
    assert [float(c) for c in weights] == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    "schedule", [Linear(), SWITCHING, PerToken((SWITCHING, Convex(SWITCHING.components)))], ids=str
)
def test_every_library_has_the_same_numbers(name, schedule):
    b = backend(name)
    t, s = np.array([[0.0], [0.3], [0.7]]), np.array([[0.2], [1.0], [0.8]])
    for function, times in (
        (lambda t: (events.intensity(schedule, t),), (t,)),
        (lambda t: events.redraw_rates(schedule, t), (t,)),
        (lambda t, s: (events.stay(schedule, t, s),), (t, s)),
        (lambda t, s: events.redraw_weights(schedule, t, s), (t, s)),
        (lambda t, s: events.euler_redraw(schedule, t, s), (t, s)),
    ):
        for value, expected in zip(function(*map(b.asarray, times)), function(*times), strict=True):
            np.testing.assert_allclose(b.to_numpy(value), expected, rtol=1e-13, atol=1e-15)
            assert b.to_numpy(value).dtype == np.float64


@settings(max_examples=120)
@given(case=cases(), t=inner_times)
def test_backward_rates_are_the_oracle_s_with_the_derivative_reversed(case, t):
    schedule = case.path.schedule
    try:
        a, b, _ = oracle.coefficients(case.kappa(t), -case.kappa_dot(t))
    except ValueError:  # a component that starts from 0 at t
        assert np.any(np.isinf(events.backward_intensity(schedule, column(t))))
        return
    scale = 1 - float(b.min())
    rates = table(events.backward_rates(schedule, column(t)), case.length)
    intensity = np.broadcast_to(events.backward_intensity(schedule, column(t)), (1, case.length))[0]
    np.testing.assert_allclose(rates, a, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(intensity, -b, rtol=1e-12, atol=1e-13)
    assert np.all(rates >= 0) and np.all(rates.min(-1) == 0)


def test_backward_rates_start_at_infinity():
    assert float(events.backward_intensity(Linear(), 0.0)) == np.inf
    assert float(events.backward_intensity(Linear(), 1.0)) == 1.0


@settings(max_examples=60)
@given(case=cases(), t=inner_times)
def test_the_fastest_component_is_the_oracle_s(case, t):
    """Where it is clear: two ratios that differ by rounding alone may go either way."""
    kappa, rise = case.kappa(t), case.kappa_dot(t)
    ratio = np.sort(np.where(kappa > 0, rise / np.where(kappa > 0, kappa, 1), np.inf), axis=-1)
    clear = ratio[:, 1] - ratio[:, 0] > 1e-9 * (1 + np.abs(ratio[:, 0]))
    ell = np.broadcast_to(events.fastest(case.path.schedule, column(t)), (1, case.length))[0]
    assert np.array_equal(ell[clear], oracle.coefficients(kappa, rise).ell[clear])


def test_survival_is_the_integral_of_the_intensity_across_a_switch():
    """kappa = ((1-t)^2, t^2 (1-t)^3, rest): l changes at 2/3; stay is another number there."""
    (switch,) = events.switches(SWITCHING)
    assert abs(switch - 2 / 3) < 1e-14
    for t, s in ((0.4, 0.95), (0.0, 0.5), (0.7, 0.99), (0.1, 2 / 3), (0.5, 0.5)):
        before, after = np.linspace(t, min(s, max(t, switch)), 20_001), np.linspace(max(t, min(s, switch)), s, 20_001)
        exact = np.exp(-sum(simpson(events.intensity(SWITCHING, x), x=x) for x in (before, after) if x[0] < x[-1]))
        np.testing.assert_allclose(events.survival(SWITCHING, t, s), exact, rtol=1e-9)
    assert abs(float(events.survival(SWITCHING, 0.4, 0.95)) - 0.00212) < 5e-6
    assert abs(float(events.stay(SWITCHING, 0.4, 0.95)) - 0.00326) < 5e-6
    both = PerToken((SWITCHING, SWITCHING))
    t, s = np.array([[0.4], [0.0]]), np.array([[0.95], [0.5]])
    np.testing.assert_allclose(events.survival(both, t, s), np.tile(events.survival(SWITCHING, t, s), 2), rtol=1e-14)


@settings(max_examples=60)
@given(case=cases(), ts=intervals, share=st.floats(0, 1))
def test_survival_is_multiplicative_and_stay_where_nothing_switches(case, ts, share):
    t, s = ts
    schedule, middle = case.path.schedule, t + share * (s - t)
    whole = events.survival(schedule, column(t), column(s))
    parts = events.survival(schedule, column(t), column(middle)) * events.survival(schedule, column(middle), column(s))
    np.testing.assert_allclose(whole, parts, rtol=1e-6, atol=1e-9)
    if not any(t < switch < s for switch in events.switches(schedule)):
        np.testing.assert_allclose(whole, events.stay(schedule, column(t), column(s)), rtol=1e-12)


@pytest.mark.parametrize("schedule", MONOTONE, ids=repr)
def test_the_step_bound_is_one_over_the_intensity(schedule):
    t = np.array([0.1, 0.4, 0.9])
    np.testing.assert_allclose(events.step_bound(schedule, t) * events.intensity(schedule, t), 1.0, rtol=1e-15)
    assert float(events.step_bound(Polynomial(2.0), 0.0)) == np.inf and float(events.step_bound(Linear(), 1.0)) == 0.0
