"""Schedules against their formulas in 50 digits, to the last bits also where kappa or 1 - kappa is tiny."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, backend, cases, controls, inner_times, schedule

from dfm_ref.schedules import Bernstein, Complement, Convex, Cosine, CubicHermite, Linear, PerToken, Polynomial

mp = pytest.importorskip("mpmath")

FORMULAS = [
    (Linear(), lambda t: t),
    *((Polynomial(e), lambda t, e=e: t ** mp.mpf(e)) for e in (0.5, 1.0, 1.3, 2.0, 3.0, 7.5)),
    (Cosine(), lambda t: mp.sin(mp.pi * t / 2) ** 2),
    *(
        (
            CubicHermite(a, b),
            lambda t, a=a, b=b: -2 * t**3 + 3 * t**2 + a * (t**3 - 2 * t**2 + t) + b * (t**3 - t**2),
        )
        for a, b in ((0.0, 0.0), (1.0, 1.0), (0.0, 3.0), (3.0, 0.0), (0.25, 2.5), (3.0, 3.0))
    ),
]
IDS = [repr(kappa) for kappa, _ in FORMULAS]
SINGULAR = {Polynomial(0.5)}
"""Of infinite rate at t = 0."""
every_schedule = pytest.mark.parametrize(("kappa", "formula"), FORMULAS, ids=IDS)


def grid(dtype):
    """Times of (0, 1), down to the spacing of floats at its ends."""
    bits = np.finfo(dtype).nmant
    small = 2.0 ** -np.arange(2, bits + 1, 3)
    return np.concatenate([small, 1 - small, 1 - 3 * small / 4, [0.1, 0.3, 1 / 3, 0.6, 0.9]]).astype(dtype)


def precise(function, t):
    """A function of 60 digits at float times, rounded to float64."""
    with mp.workdps(60):
        return np.array([float(function(mp.mpf(float(s)))) for s in np.ravel(t)]).reshape(np.shape(t))


@every_schedule
def test_kappa_goes_from_0_to_1_and_its_complement_back_exactly(kappa, formula):
    ends = np.array([0.0, 1.0])
    assert kappa.kappa(ends).tolist() == [0.0, 1.0]
    assert kappa.one_minus_kappa(ends).tolist() == [1.0, 0.0]
    t = np.linspace(0, 1, 4001)
    assert np.all(np.diff(kappa.kappa(t)) >= 0)
    assert np.all(np.diff(kappa.one_minus_kappa(t)) <= 0)
    assert np.all(kappa.kappa_dot(t[1:]) >= 0)


@every_schedule
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kappa_its_complement_and_its_rate_are_right_to_the_last_digits(kappa, formula, dtype):
    """Sees 1 - kappa by subtraction: in float32 it has no digit left at 1 - kappa = 1e-7."""
    t, eps = grid(dtype), np.finfo(dtype).eps
    functions = [
        (kappa.kappa, formula),
        (kappa.one_minus_kappa, lambda s: 1 - formula(s)),
        (kappa.kappa_dot, lambda s: mp.diff(formula, s)),
    ]
    for ours, exact in functions:
        values, expected = ours(t), precise(exact, t)
        assert values.dtype == dtype
        if np.issubdtype(dtype, np.float32):  # below the normal numbers there are no digits to keep
            expected = np.where(expected < np.finfo(np.float32).tiny, values, expected)
        np.testing.assert_allclose(values, expected, rtol=12 * eps, atol=0)


@every_schedule
def test_the_rate_is_right_at_both_ends(kappa, formula):
    start, end = kappa.kappa_dot(np.array([2.0**-200 if kappa in SINGULAR else 0.0, 1.0]))
    one_sided = (
        precise(lambda s: (formula(s) - formula(mp.mpf(0))) / s, 2.0**-200),
        precise(lambda s: mp.diff(formula, 1, direction=-1), 1.0),
    )
    if kappa not in SINGULAR and kappa != Polynomial(1.3):
        assert start == pytest.approx(one_sided[0], abs=1e-15)
    assert end == pytest.approx(one_sided[1], rel=1e-12, abs=1e-15)


@every_schedule
def test_numbers_are_times_too(kappa, formula):
    for t in (0.25, 0.5, 1.0):
        for function in (kappa.kappa, kappa.kappa_dot, kappa.one_minus_kappa):
            assert float(function(t)) == pytest.approx(float(function(np.array([t]))[0]), rel=1e-15)
    assert float(kappa.inverse(0.3)) == pytest.approx(float(kappa.inverse(np.array([0.3]))[0]), rel=1e-15)
    assert float(kappa.kappa(0)) == 0.0
    assert float(kappa.kappa(1)) == 1.0


@every_schedule
def test_the_inverse_gives_the_time_of_every_level(kappa, formula):
    k = np.array([0.0, 1e-12, 1e-6, *np.linspace(0.01, 0.99, 50), 1 - 1e-6, 1.0])
    t = kappa.inverse(k)
    assert np.all((t >= 0) & (t <= 1))
    np.testing.assert_allclose(kappa.kappa(t), k, rtol=1e-13, atol=1e-18)
    assert t[0] == pytest.approx(0.0, abs=1e-18)
    assert t[-1] == pytest.approx(1.0, abs=1e-5)  # (1 - t)^3 is lost beside 1 from 1 - t = 1e-5 on


@every_schedule
def test_the_inverse_undoes_kappa(kappa, formula):
    t = np.linspace(0, 1, 34)[1:-1]
    error = np.abs(kappa.inverse(kappa.kappa(t)) - t)
    assert np.all(error <= 1e-15 * (1 + 1 / kappa.kappa_dot(t)))


@pytest.mark.parametrize("name", BACKENDS)
@every_schedule
def test_every_library_and_precision_has_the_same_schedule(name, kappa, formula):
    b = backend(name)
    for dtype in (np.float32, np.float64):
        t = grid(dtype)
        for function in (kappa.kappa, kappa.kappa_dot, kappa.one_minus_kappa, kappa.inverse):
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
    for kappa, _ in FORMULAS:
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
