"""Schedules against their formulas in 100 digits, to the last bits also where kappa or 1 - kappa is tiny."""

from fractions import Fraction
from itertools import pairwise
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator
from strategies import BACKENDS, backend, cases, controls, inner_times, schedule

from dfm_ref import events, transitions
from dfm_ref.paths import Mixture
from dfm_ref.schedules import (
    Bernstein,
    Complement,
    Convex,
    Cosine,
    CubicHermite,
    Linear,
    PerToken,
    Polynomial,
    Reclocked,
    Tabulated,
)
from dfm_ref.verify import oracle

mp = pytest.importorskip("mpmath")

CUBICS = [(0.0, 0.0), (1.0, 1.0), (0.0, 3.0), (3.0, 0.0), (0.25, 2.5), (3.0, 3.0), (4.0, 1.0), (1.0, 4.0), (3.1, 2.3)]
TABLES = [
    ((0.0, 1.0), (0.0, 1.0)),
    ((0.0, 0.5, 1.0), (0.0, 0.9, 1.0)),
    ((0.0, 0.1, 0.35, 0.7, 1.0), (0.0, 0.02, 0.5, 0.9, 1.0)),
    ((0.0, 0.2, 0.3, 0.6, 0.9, 1.0), (0.0, 0.5, 0.51, 0.6, 0.9999999, 1.0)),
]


def cubic(a, b):
    a, b = mp.mpf(a), mp.mpf(b)
    return (
        CubicHermite(float(a), float(b)),
        lambda t: a * t * (1 - t) ** 2 + (3 - b) * t**2 * (1 - t) + t**3,
        lambda t: -6 * t**2 + 6 * t + a * (3 * t**2 - 4 * t + 1) + b * (3 * t**2 - 2 * t),
    )


def power(e):
    return Polynomial(e), lambda t: t ** mp.mpf(e), lambda t: e * t ** (mp.mpf(e) - 1)


def pchip(times, values):
    """Fritsch and Butland's cubics in 100 digits, in Hermite's basis."""
    with mp.workdps(100):
        x, y = [mp.mpf(v) for v in times], [mp.mpf(v) for v in values]
        h = [b - a for a, b in pairwise(x)]
        rise = [(b - a) / width for (a, b), width in zip(pairwise(y), h, strict=True)]

        def end(i, j):
            return rise[i] if len(h) == 1 else max(0, ((2 * h[i] + h[j]) * rise[i] - h[i] * rise[j]) / (h[i] + h[j]))

        def inner(i):
            weights = 2 * h[i] + h[i - 1], h[i] + 2 * h[i - 1]
            return sum(weights) / (weights[0] / rise[i - 1] + weights[1] / rise[i])

        d = [end(0, 1), *(inner(i) for i in range(1, len(h))), end(-1, -2)]

    def at(t):
        i = max(j for j in range(len(h)) if j == 0 or x[j] <= t)
        return i, (t - x[i]) / h[i]

    def formula(t):
        i, s = at(t)
        slopes = h[i] * s * (1 - s) * (d[i] * (1 - s) - d[i + 1] * s)
        return y[i] * (1 - s) ** 2 * (1 + 2 * s) + y[i + 1] * s**2 * (3 - 2 * s) + slopes

    def derivative(t):
        i, s = at(t)
        return rise[i] * 6 * s * (1 - s) + d[i] * (1 - s) * (1 - 3 * s) + d[i + 1] * s * (3 * s - 2)

    return Tabulated(times, values), formula, derivative


FORMULAS = [
    (Linear(), lambda t: t, lambda t: mp.mpf(1)),
    *(power(e) for e in (0.001, 0.3, 0.5, 1.0, 1 / 3, 1.3, 2.0, 3.0, 7.5)),
    (Cosine(), lambda t: mp.sin(mp.pi * t / 2) ** 2, lambda t: mp.pi * mp.sin(mp.pi * t) / 2),
    *(cubic(a, b) for a, b in CUBICS),
    *(pchip(*table) for table in TABLES),
]
IDS = [repr(kappa) for kappa, *_ in FORMULAS]
SINGULAR = {kappa for kappa, *_ in FORMULAS if isinstance(kappa, Polynomial) and kappa.exponent < 1}
"""Of infinite rate at t = 0."""
CRITICAL = {CubicHermite(3.0, 3.0): 1 / 2, CubicHermite(1.0, 4.0): 1 / 3, CubicHermite(4.0, 1.0): 2 / 3}
"""Where the rate has a double zero."""
every_schedule = pytest.mark.parametrize(("kappa", "formula", "derivative"), FORMULAS, ids=IDS)
DTYPES = [np.float32, np.float64]


def levels(dtype):
    """Numbers of (0, 1): random, dyadic, down to 1e-30 at 0 and to the last float below 1."""
    rng, bits = np.random.default_rng(0), np.finfo(dtype).nmant + 1
    small = np.concatenate([10.0 ** -rng.uniform(0, 30, 40), 2.0 ** -np.arange(1, 101, 3), [1e-30]])
    near = np.concatenate([10.0 ** -rng.uniform(0, 16, 20), 2.0 ** -np.arange(2, bits + 1, 3), [2.0**-bits]])
    values = np.concatenate([small, 1 - near, rng.uniform(size=40), np.arange(1, 16) / 16]).astype(dtype)
    return values[(values > 0) & (values < 1)]


def precise(function, t):
    """A function of 100 digits at float times."""
    with mp.workdps(100):
        return np.array([function(mp.mpf(float(s))) for s in np.ravel(t)]).reshape(np.shape(t))


def ulps(values, exact):
    """How far values are from those of 100 digits, in units of the last place; 0 where those are no normal number."""
    with mp.workdps(100):
        units = np.spacing(np.abs(exact).astype(values.dtype))
        off = [abs(mp.mpf(float(v)) - e) / mp.mpf(float(u)) for v, e, u in zip(values, exact, units, strict=True)]
    return np.where(np.abs(exact) < np.finfo(values.dtype).tiny, 0.0, np.array(off, dtype=np.float64))


@every_schedule
def test_kappa_goes_from_0_to_1_and_its_complement_back_exactly(kappa, formula, derivative):
    ends = np.array([0.0, 1.0])
    assert kappa.kappa(ends).tolist() == [0.0, 1.0]
    assert kappa.one_minus_kappa(ends).tolist() == [1.0, 0.0]
    t = np.linspace(0, 1, 4001)
    assert np.all(np.diff(kappa.kappa(t)) >= 0)
    assert np.all(np.diff(kappa.one_minus_kappa(t)) <= 0)
    assert np.all(kappa.kappa_dot(t[1:]) >= 0)


@every_schedule
@pytest.mark.parametrize("dtype", DTYPES)
def test_kappa_its_complement_and_its_rate_are_right_to_6_units_of_the_last_place(kappa, formula, derivative, dtype):
    """Sees 1 - kappa by subtraction: in float32 it has no digit left at 1 - kappa = 1e-7.

    Measured: 0.5 in float32 and 4.6 in float64, the worst of 2000 further times.
    """
    t = levels(dtype)
    for ours, exact in (
        (kappa.kappa, formula),
        (kappa.one_minus_kappa, lambda s: 1 - formula(s)),
        (kappa.kappa_dot, derivative),
    ):
        values = ours(t)
        assert values.dtype == dtype
        off = ulps(values, precise(exact, t))
        if exact is derivative and kappa in CRITICAL:  # t - t* has lost as many digits as it is small
            off = off * np.minimum(1.0, np.abs(t.astype(np.float64) - CRITICAL[kappa]))
        assert np.max(off) <= 6


@every_schedule
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_stay_probability_is_right_to_8_units_of_the_last_place(kappa, formula, derivative, dtype):
    t = np.sort(levels(dtype))
    t, s = t[:-1], t[1:]
    exact = precise(lambda s: 1 - formula(s), s) / precise(lambda s: 1 - formula(s), t)
    assert np.max(ulps(events.stay(kappa, t, s), exact)) <= 8


@every_schedule
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("complement", [False, True])
def test_the_inverses_are_right_to_4_units_of_the_last_place(kappa, formula, derivative, dtype, complement):
    """The exact time, found by its neighbours; where kappa is nearly flat, that of a level within 4 units of k.

    Closed forms have no such excuse: 4 units of t, whatever k. Sees asin near 1, and k**(1 / e) with 1 / e rounded.
    """
    k = np.concatenate([levels(dtype), [1e-300, 1e-200] if dtype is np.float64 else []]).astype(dtype)
    inverse, function = (kappa.inverse_complement, lambda s: 1 - formula(s)) if complement else (kappa.inverse, formula)
    t, slack = inverse(k), 4 if isinstance(kappa, CubicHermite | Tabulated) else 0
    assert t.dtype == dtype
    assert np.all((t >= 0) & (t <= 1))
    with mp.workdps(100):
        for level, time in zip(k.tolist(), t, strict=True):
            k_unit, t_unit = (mp.mpf(float(np.spacing(x))) for x in (dtype(level), time))
            ends = [function(min(max(mp.mpf(float(time)) + side * t_unit, 0), 1)) for side in (-4, 4)]
            fits = min(ends) - slack * k_unit <= level <= max(ends) + slack * k_unit
            assert fits or time <= np.finfo(dtype).tiny, (level, time)


@every_schedule
def test_times_of_half_precision_are_answered_in_single(kappa, formula, derivative):
    """1 / (1 - kappa) overflows in less."""
    t = np.array([0.0, 0.25, 1.0], dtype=np.float16)
    for function in (kappa.kappa, kappa.kappa_dot, kappa.one_minus_kappa, kappa.inverse, kappa.inverse_complement):
        assert function(t).dtype == np.float32
        assert np.array_equal(function(t), function(t.astype(np.float32)))


@every_schedule
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_inverses_take_the_ends_to_the_ends(kappa, formula, derivative, dtype):
    ends = np.array([0, 1], dtype=dtype)
    assert kappa.inverse(ends).tolist() == [0, 1]
    assert kappa.inverse_complement(ends).tolist() == [1, 0]


@every_schedule
def test_the_rate_is_right_at_both_ends(kappa, formula, derivative):
    start, end = kappa.kappa_dot(np.array([0.0, 1.0]))
    if kappa in SINGULAR:
        assert start == np.inf
    else:
        assert start == pytest.approx(float(derivative(mp.mpf(0))), rel=1e-15, abs=1e-30)
    assert end == pytest.approx(float(derivative(mp.mpf(1))), rel=1e-14, abs=1e-15)


@every_schedule
def test_numbers_are_times_too(kappa, formula, derivative):
    for t in (0.25, 0.5, 1.0):
        for function in (kappa.kappa, kappa.kappa_dot, kappa.one_minus_kappa):
            assert float(function(t)) == pytest.approx(float(function(np.array([t]))[0]), rel=1e-15)
    assert float(kappa.inverse(0.3)) == pytest.approx(float(kappa.inverse(np.array([0.3]))[0]), rel=1e-15)
    assert float(kappa.kappa(0)) == 0.0
    assert float(kappa.kappa(1)) == 1.0


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("kappa", {type(kappa): kappa for kappa, *_ in FORMULAS}.values(), ids=repr)
def test_every_library_and_precision_has_the_same_schedule(name, kappa):
    b = backend(name)
    for dtype in DTYPES:
        t = np.concatenate([levels(dtype), np.array([0, 1], dtype=dtype)])
        for function in (kappa.kappa, kappa.kappa_dot, kappa.one_minus_kappa, kappa.inverse, kappa.inverse_complement):
            values = b.to_numpy(function(b.asarray(t)))
            assert values.dtype == dtype
            np.testing.assert_allclose(values, function(t), rtol=16 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny)


@pytest.mark.parametrize("name", BACKENDS)
def test_convex_and_per_token_schedules_run_on_every_library(name):
    b, t = backend(name), np.array([[0.1], [0.5], [1.0]])
    path = Convex((Complement(Cosine()), Bernstein((0.0, 0.0)), Cosine()))
    for made in (
        path,
        PerToken((path, Convex((Bernstein((1.0, 0.5, 0.0)), Bernstein((0.0, 0.5, 0.0)), Polynomial(2.0))))),
    ):
        for ours in ("kappas", "kappa_dots"):
            for value, expected in zip(getattr(made, ours)(b.asarray(t)), getattr(made, ours)(t), strict=True):
                np.testing.assert_allclose(b.to_numpy(value), expected, rtol=1e-14, atol=1e-16)


@given(coefficients=st.lists(st.integers(-3, 3), min_size=1, max_size=6), t=inner_times | st.sampled_from([0.0, 1.0]))
def test_bernstein_polynomials_and_their_derivatives_are_those_of_fractions(coefficients, t):
    n, s = len(coefficients) - 1, Fraction(t)
    basis = [comb(n, k) * s**k * (1 - s) ** (n - k) for k in range(n + 1)]
    dots = [
        comb(n, k)
        * (
            (k * s ** (k - 1) if k else 0) * (1 - s) ** (n - k)
            - (s**k * (n - k) * (1 - s) ** (n - k - 1) if k < n else 0)
        )
        for k in range(n + 1)
    ]
    ours = Bernstein(tuple(map(float, coefficients)))
    for value, terms in ((ours.kappa(np.array([t])), basis), (ours.kappa_dot(np.array([t])), dots)):
        exact = float(sum(c * b for c, b in zip(coefficients, terms, strict=True)))
        assert float(value[0]) == pytest.approx(exact, abs=1e-13)


@settings(max_examples=40)
@given(case=cases(), t=inner_times | st.sampled_from([0.0, 1.0]))
def test_the_weights_of_m_components_sum_to_1_and_their_rates_to_0(case, t):
    kappas, dots = (f(np.array([[t]])) for f in (case.path.schedule.kappas, case.path.schedule.kappa_dots))
    for ours, exact in ((kappas, case.kappa(t)), (dots, case.kappa_dot(t))):
        table = np.broadcast_to(np.stack(ours, -1), (1, *exact.shape))[0]
        np.testing.assert_allclose(table, exact, rtol=1e-14, atol=1e-14)
        assert np.all((table[exact == 0] == 0) | (ours is dots))
    assert np.all(np.stack(kappas) >= 0)
    np.testing.assert_allclose(sum(kappas), 1.0, rtol=1e-15)
    np.testing.assert_allclose(sum(dots), 0.0, atol=1e-14)


def test_monotone_schedules_are_pairs_of_weights():
    t = np.array([0.0, 0.2, 1.0])
    for kappa, *_ in FORMULAS:
        if kappa not in SINGULAR:
            assert np.array_equal(np.stack(kappa.kappas(t)), [kappa.one_minus_kappa(t), kappa.kappa(t)])
            assert np.array_equal(np.stack(kappa.kappa_dots(t)), [-kappa.kappa_dot(t), kappa.kappa_dot(t)])


def test_the_complement_falls_as_the_schedule_rises():
    t = np.array([0.0, 0.3, 1 - 2.0**-50, 1.0])
    assert np.array_equal(Complement(Cosine()).kappa(t), Cosine().one_minus_kappa(t))
    assert np.array_equal(Complement(Cosine()).kappa_dot(t), -Cosine().kappa_dot(t))


@given(control=controls(3, 3), shape=st.sampled_from([(), (1,), (2, 1), (2, 4, 1)]))
@settings(max_examples=15)
def test_each_token_has_the_schedule_of_its_own(control, shape):
    tokens = tuple(schedule(control[:, [i]]) for i in range(3))
    t = np.random.default_rng(0).uniform(size=shape)
    for ours in ("kappas", "kappa_dots"):
        together = getattr(PerToken(tokens), ours)(t if shape else float(t))
        for j, values in enumerate(together):
            assert values.shape == ((*shape[:-1], 3) if shape else (3,))
            for i, token in enumerate(tokens):
                alone = np.asarray(getattr(token, ours)(t)[j])
                assert np.array_equal(values[..., i], alone[..., 0] if shape else alone)


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        *((lambda e=e: Polynomial(e), "exponent") for e in (0.0, -1.0, NAN, INF)),
        *(
            (lambda a=a, b=b: CubicHermite(a, b), "a, b")
            for a, b in ((-1.0, 1.0), (1.0, -1.0), (4.0, 0.0), (0.0, 3.01), (5.0, 5.0), (NAN, 0.0), (0.0, NAN))
        ),
        *((lambda a=a, b=b: CubicHermite(a, b), "a, b") for a, b in ((INF, 1.0), (1.0, INF), (INF, INF))),
        *(
            (lambda times=times: Tabulated(times, (0.0, 0.5, 1.0)), "times")
            for times in ((0.0, 0.5, 0.9), (0.1, 0.5, 1.0), (0.0, 0.0, 1.0), (0.0, NAN, 1.0), (), (0.0, 1.0, 0.5))
        ),
        *(
            (lambda values=values: Tabulated((0.0, 0.5, 1.0), values), "values")
            for values in ((0.0, 1.5, 1.0), (0.0, -0.1, 1.0), (0.0, 0.0, 1.0), (1.0, 0.5, 0.0), (0.0, NAN, 1.0))
        ),
        (lambda: Tabulated((0.0, 0.5, 1.0), (0.0, 1.0)), "values"),
        (lambda: Bernstein(()), "coefficients"),
        (lambda: Convex((Linear(), Linear())), "components"),
        (lambda: Convex((Bernstein((1.0, -1.0, 0.0)), Bernstein((0.0, 2.0, 1.0)))), "components"),
        (lambda: Convex((Bernstein((1.0, NAN)), Bernstein((0.0, 1.0)))), "components"),
        (lambda: PerToken(()), "schedules"),
        (lambda: PerToken((Linear(), Convex((Bernstein((1.0,)),)))), "schedules"),
    ],
)
def test_what_is_no_schedule_raises(make, argument):
    with pytest.raises(ValueError, match=argument):
        make()


@given(a=st.floats(0, 4), b=st.floats(0, 4))
def test_a_cubic_is_taken_just_where_it_increases(a, b):
    t = np.linspace(0, 1, 2001)
    least = float(np.min(a * (1 - t) ** 2 + 2 * (3 - a - b) * t * (1 - t) + b * t**2))
    if least > 1e-6:
        CubicHermite(a, b)
    elif least < -1e-6:
        with pytest.raises(ValueError, match="a, b"):
            CubicHermite(a, b)


@pytest.mark.parametrize("kappa", CRITICAL, ids=repr)
def test_no_rate_is_negative_where_it_touches_zero(kappa):
    """Sees -1e-16 left of three terms that cancel."""
    t = CRITICAL[kappa] + np.concatenate([side * 10.0 ** -np.linspace(3, 17, 500) for side in (-1, 1)])
    rate = kappa.kappa_dot(t)
    assert np.all(rate >= 0)
    np.testing.assert_allclose(rate, 3 * (kappa.a + kappa.b - 2) * (t - CRITICAL[kappa]) ** 2, rtol=1e-7, atol=1e-22)


def test_the_cubic_is_hermite_s():
    a, b, t = Fraction(1, 4), Fraction(5, 2), np.linspace(0, 1, 33)
    exact = [-2 * s**3 + 3 * s**2 + a * (s**3 - 2 * s**2 + s) + b * (s**3 - s**2) for s in map(Fraction, t)]
    np.testing.assert_allclose(CubicHermite(float(a), float(b)).kappa(t), np.array(exact, dtype=float), rtol=1e-15)


increasing = st.lists(st.integers(1, 2000), min_size=1, max_size=8).map(lambda w: np.cumsum([0, *w]) / sum(w))


@given(data=st.data(), times=increasing)
@settings(max_examples=60)
def test_a_table_is_the_pchip_of_scipy_and_so_is_its_derivative(data, times):
    values = np.cumsum(
        [0, *data.draw(st.lists(st.integers(1, 2000), min_size=len(times) - 1, max_size=len(times) - 1))]
    )
    kappa, theirs = Tabulated(times, values / values[-1]), PchipInterpolator(times, values / values[-1])
    t = np.linspace(0, 1, 257)
    np.testing.assert_allclose(kappa.kappa(t), theirs(t), rtol=1e-11, atol=1e-13)
    steep = np.max(np.diff(kappa.values) / np.diff(times))
    np.testing.assert_allclose(kappa.kappa_dot(t), theirs.derivative()(t), rtol=1e-10, atol=1e-11 * steep)
    np.testing.assert_allclose(kappa.kappa(np.array(kappa.times)), kappa.values, rtol=1e-15)
    assert np.all(kappa.kappa_dot(t) >= 0)


def test_a_table_prints_and_compares_whatever_it_was_made_of():
    kappa = Tabulated(np.array([0, 0.5, 1]), [0, np.float32(0.25), 1])
    assert repr(kappa) == "Tabulated(times=(0.0, 0.5, 1.0), values=(0.0, 0.25, 1.0))"
    assert kappa == Tabulated((0.0, 0.5, 1.0), (0.0, 0.25, 1.0)) and len({kappa, eval(repr(kappa))}) == 1


def test_tables_are_schedules_of_single_tokens_too():
    t, table = np.array([[0.1], [0.5], [1.0]]), Tabulated(*TABLES[2])
    rest, kappa = PerToken((table, Cosine())).kappas(t)
    assert np.array_equal(kappa, np.concatenate([table.kappa(t), Cosine().kappa(t)], -1))
    assert np.array_equal(rest, np.concatenate([table.one_minus_kappa(t), Cosine().one_minus_kappa(t)], -1))
    path = Mixture(PerToken((table, Cosine())))
    assert events.stay(path.schedule, t[:1], t[1:2]).shape == (1, 2)


CLOCKS = [Linear(), Polynomial(2.0), Cosine(), CubicHermite(0.25, 2.5), Tabulated(*TABLES[2])]
WELL_CLOCKED = st.sampled_from(CLOCKS)


@settings(max_examples=40)
@given(case=cases(), trained=WELL_CLOCKED, sampled=WELL_CLOCKED, t=inner_times, s=inner_times)
def test_a_model_of_another_clock_gives_the_posteriors_and_steps_of_this_one(case, trained, sampled, t, s):
    """The posterior on one schedule at t is that on the other at the time of the same kappa; so are one-step laws."""
    pairs = (case.problem.x_0, case.problem.x_1)
    tables = np.stack([oracle.delta(x, case.vocab_size) for x in pairs], axis=1).astype(np.float64)
    problem = oracle.Problem(*pairs, case.problem.pi, tables)

    def posterior(schedule, time):
        rest, kappa = (float(k) for k in schedule.kappas(time))
        weights = np.broadcast_to([rest, kappa], (case.length, 2))
        return np.swapaxes(oracle.posteriors(problem, weights).w_hat[1], 0, 1)

    x_t = case.states()
    model = Reclocked(lambda x, times: posterior(trained, times[0]), trained, sampled)
    ours, exact = model(x_t, np.full(len(x_t), t)), posterior(sampled, t)
    np.testing.assert_allclose(ours, exact, rtol=1e-12, atol=1e-12)
    if s > t:
        path = Mixture(sampled)
        laws = [transitions.finite(path, probs_1, x_t, t, s) for probs_1 in (ours, exact)]
        np.testing.assert_allclose(*laws, rtol=0, atol=1e-12)


@pytest.mark.parametrize("trained", CLOCKS, ids=repr)
@pytest.mark.parametrize("sampled", CLOCKS, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_clock_of_a_model_keeps_its_weights_up_to_both_ends(trained, sampled, dtype):
    """Sees kappa alone inverted: times beyond 1 - 1e-8 would be lost where kappa rounds to 1."""
    t = levels(dtype)
    time = Reclocked(None, trained, sampled).time(t)
    assert time.dtype == dtype
    rest, eps = sampled.one_minus_kappa(t).astype(np.float64), np.finfo(dtype).eps
    slope = trained.kappa_dot(time.astype(np.float64))
    assert np.all(np.abs(trained.kappa(time).astype(np.float64) - sampled.kappa(t)) <= 8 * eps * sampled.kappa(t))
    assert np.all(np.abs(trained.one_minus_kappa(time).astype(np.float64) - rest) <= 8 * eps * (rest + slope))
    same = Reclocked(None, trained, sampled) if trained == sampled else Reclocked(None, Linear(), Polynomial(1.0))
    assert np.all(np.abs(same.time(t) - t) <= np.spacing(t))


def test_a_reclocked_model_has_logits_at_chosen_tokens_where_the_model_has():
    class Sparse:
        def __call__(self, x_t, t):
            return t

        def at(self, x_t, t, sites):
            return t, sites

    t, sites = np.array([0.25]), np.array([3])
    model = Reclocked(Sparse(), trained=Polynomial(2.0), sampled=Linear())
    assert model(None, t) == 0.5
    assert model.at(None, t, sites) == (0.5, 3)
    assert not hasattr(Reclocked(Sparse().__call__, Linear(), Linear()), "at")


@pytest.mark.parametrize("bad", [PerToken((Linear(), Cosine())), Convex((Complement(Linear()), Linear())), None])
def test_only_monotone_schedules_can_be_exchanged(bad):
    for schedules, name in (((bad, Linear()), "trained"), ((Linear(), bad), "sampled")):
        with pytest.raises(TypeError, match=name):
            Reclocked(None, *schedules)
