"""The identities of the velocity and of the finite step, proved for unspecified differentiable schedules.

kappa_j(t) are functions of which nothing is known but their sum, 1, and w_j(x) are PMFs of which nothing is known but
theirs. The component that decays fastest (grows fastest, for the backward velocity) is called 0: components have no
order, so this loses nothing. Signs are proved with the gaps to its ratio as non-negative symbols. The last tests tie
the formulas to the library, and show that an identity that does not hold is seen.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import controls, inner_times, intervals, schedule

from dfm_ref import events

sp = pytest.importorskip("sympy")

t, s = sp.symbols("t s", positive=True)
components = pytest.mark.parametrize("m", [2, 3, 4])
tokens = pytest.mark.parametrize("d", [2, 3])


def schedules(m, time=t):
    """kappa_0(t), ..., kappa_{m-1}(t), which sum to 1."""
    free = [sp.Function(f"kappa_{j}")(time) for j in range(m - 1)]
    return [*free, 1 - sum(free)]


def dots(m):
    return [sp.diff(kappa, t) for kappa in schedules(m)]


def pmfs(m, d):
    """w_j(x), which sum to 1 over x."""
    free = [[sp.Symbol(f"w_{j}_{x}") for x in range(d - 1)] for j in range(m)]
    return [[*w, 1 - sum(w)] for w in free]


def ratio(ahead, kappas, ell=0):
    """`events.intensity`, negated, of the derivatives; `events.stay` of the later weights."""
    return ahead[ell] / kappas[ell]


def beyond(ahead, kappas, r):
    """`events.redraw_rates` of the derivatives, `events.redraw_weights` of the later weights."""
    return [rise - r * kappa for rise, kappa in zip(ahead, kappas, strict=True)]


def law(kappas, w):
    """p(x) = sum_j kappa_j w_j(x)."""
    return [sum(kappa * w_j[x] for kappa, w_j in zip(kappas, w, strict=True)) for x in range(len(w[0]))]


def table(weights, b, w):
    """The velocity sum_j a_j w_j(x) + b delta_z(x), or the kernel of the finite step, as a matrix [x, z]."""
    d = len(w[0])
    redraws = [sum(a * w_j[x] for a, w_j in zip(weights, w, strict=True)) for x in range(d)]
    return sp.Matrix(d, d, lambda x, z: redraws[x] + (b if x == z else 0))


def vanish(*expressions):
    return all(sp.cancel(sp.together(e)) == 0 for e in expressions)


def solves_the_forward_equation(u, m, w):
    """sum_z u(x, z) p(z) = dp(x)/dt at every x, and sum_x u(x, z) = 0 at every z."""
    p = sp.Matrix(law(schedules(m), w))
    return vanish(*(u * p - sp.diff(p, t)), *(sp.ones(1, len(p)) * u))


@components
def test_the_rates_close_and_that_of_the_fastest_component_is_0(m):
    b = ratio(dots(m), schedules(m))
    a = beyond(dots(m), schedules(m), b)
    assert vanish(a[0], b + sum(a))
    assert vanish(*(a_j - k * (d / k - b) for a_j, k, d in zip(a, schedules(m), dots(m), strict=True)))


@components
@pytest.mark.parametrize("side", [1, -1], ids=["forward", "backward"])
def test_the_rates_have_their_signs(m, side):
    """With ratios r_j = b + gap_j, forward, or b - gap_j, backward, gap_0 = 0; the rises sum to 0, which fixes b."""
    kappas = sp.symbols(f"kappa_:{m}", positive=True)
    gaps = [0, *sp.symbols(f"gap_1:{m}", nonnegative=True)]
    b = -side * sum(k * gap for k, gap in zip(kappas, gaps, strict=True))  # sum_j kappa_j = 1
    rises = [k * (b + side * gap) for k, gap in zip(kappas, gaps, strict=True)]
    assert vanish(sum(rises) - b * (sum(kappas) - 1))
    a = [sp.expand(side * a_j) for a_j in beyond(rises, kappas, ratio(rises, kappas))]
    assert all(a_j.is_nonnegative for a_j in a)
    assert (side * b).is_nonpositive


@components
@tokens
def test_the_velocity_solves_the_forward_equation(m, d):
    w, b = pmfs(m, d), ratio(dots(m), schedules(m))
    assert solves_the_forward_equation(table(beyond(dots(m), schedules(m), b), b, w), m, w)


@components
@tokens
def test_the_backward_velocity_does_so_too(m, d):
    """-u of the rates of the derivatives with their signs turned, as `events.backward_rates` has them."""
    w, turned = pmfs(m, d), [-rise for rise in dots(m)]
    b = ratio(turned, schedules(m))
    rates = beyond(turned, schedules(m), b)
    assert vanish(rates[0], b + sum(rates))
    assert solves_the_forward_equation(-table(rates, b, w), m, w)


@components
@tokens
def test_any_ratio_solves_the_forward_equation_and_any_lower_one_has_valid_rates(m, d):
    r, w = sp.Function("r")(t), pmfs(m, d)
    assert solves_the_forward_equation(table(beyond(dots(m), schedules(m), r), r, w), m, w)
    b, excess = sp.symbols("b excess", nonnegative=True)
    kappas, gaps = sp.symbols(f"kappa_:{m}", positive=True), [0, *sp.symbols(f"gap_1:{m}", nonnegative=True)]
    rises = [k * (gap - b) for k, gap in zip(kappas, gaps, strict=True)]
    assert all(sp.factor(a).is_nonnegative for a in beyond(rises, kappas, -b - excess))


@components
def test_stay_and_the_weights_close(m):
    stay = ratio(schedules(m, s), schedules(m))
    c = beyond(schedules(m, s), schedules(m), stay)
    assert vanish(c[0], stay + sum(c) - 1)


@components
def test_stay_is_a_probability_and_the_weights_are_not_negative(m):
    """With kappa_j(s) / kappa_j(t) = stay + gap_j; the later weights sum to 1, which fixes stay."""
    kappas = sp.symbols(f"kappa_:{m}", positive=True)
    gaps = [0, *sp.symbols(f"gap_1:{m}", nonnegative=True)]
    redrawn = sum(k * gap for k, gap in zip(kappas, gaps, strict=True))
    later = [k * (1 - redrawn + gap) for k, gap in zip(kappas, gaps, strict=True)]
    assert vanish(sum(later) - 1 - (1 - redrawn) * (sum(kappas) - 1))
    stay = ratio(later, kappas)
    assert all(sp.expand(c).is_nonnegative for c in beyond(later, kappas, stay))
    assert sp.expand(1 - stay).is_nonnegative


@components
@tokens
def test_the_finite_step_carries_the_law_of_t_to_that_of_s(m, d):
    w, stay = pmfs(m, d), ratio(schedules(m, s), schedules(m))
    K = table(beyond(schedules(m, s), schedules(m), stay), stay, w)
    p_t, p_s = (sp.Matrix(law(schedules(m, time), w)) for time in (t, s))
    assert vanish(*(K * p_t - p_s), *(sp.ones(1, d) * K - sp.ones(1, d)))


@components
@tokens
def test_the_finite_step_tends_to_the_velocity(m, d):
    """K = I at s = t, and there dK/ds = u: the limit of (K - I) / (s - t)."""
    w, stay, b = pmfs(m, d), ratio(schedules(m, s), schedules(m)), ratio(dots(m), schedules(m))
    K = table(beyond(schedules(m, s), schedules(m), stay), stay, w)
    u = table(beyond(dots(m), schedules(m), b), b, w)
    assert vanish(*(K.subs(s, t) - sp.eye(d)))
    assert vanish(*(sp.diff(K, s).subs(s, t).doit() - u))


@components
def test_stay_is_the_survival_of_the_events_while_one_component_decays_fastest(m):
    """d/ds log stay(t, s) = b(s) and stay(t, t) = 1, hence stay = exp(int_t^s b); so it multiplies over times."""
    stay = ratio(schedules(m, s), schedules(m))
    assert vanish(sp.diff(sp.log(stay), s) - ratio(dots(m), schedules(m)).subs(t, s), stay.subs(s, t) - 1)
    between = sp.Symbol("between", positive=True)
    assert vanish(stay - stay.subs(s, between) * stay.subs(t, between))


@components
@tokens
def test_dividing_by_the_weight_of_each_component_itself_conserves_nothing(m, d):
    """a_j = kdot_j - kappa_j kdot_l / kappa_j, as a tutorial prints it, leaves kdot_l (1/kappa_l - m)."""
    kappas, rises = schedules(m), dots(m)
    b = ratio(rises, kappas)
    printed = [rise - kappa * rises[0] / kappa for rise, kappa in zip(rises, kappas, strict=True)]
    assert not vanish(b + sum(printed))
    assert vanish(b + sum(printed) - rises[0] * (1 / kappas[0] - m))
    assert not solves_the_forward_equation(table(printed, b, pmfs(m, d)), m, pmfs(m, d))


# The library has these formulas


KAPPAS, AHEAD = sp.symbols("kappa_:4"), sp.symbols("ahead_:4")


def numbers(ahead, kappas):
    """The ratio and the weights beyond it, of formulas in symbols, at numbers."""
    m, ell = len(kappas), int(np.argmin([a / k if k > 0 else np.inf for a, k in zip(ahead, kappas, strict=True)]))
    r = ratio(AHEAD[:m], KAPPAS[:m], ell)
    formulas = sp.lambdify([AHEAD[:m], KAPPAS[:m]], [r, *beyond(AHEAD[:m], KAPPAS[:m], r)])
    return np.array(formulas(ahead, kappas))


paths = st.sampled_from([2, 3, 4]).flatmap(lambda m: controls(1, m)).map(schedule)


def at(functions):
    return [float(x) for x in functions]


@settings(max_examples=60)
@given(path=paths, t=inner_times)
def test_the_library_has_these_rates(path, t):
    kappas, rises = at(path.kappas(t)), at(path.kappa_dots(t))
    for side, intensity, rates in (
        (1, events.intensity, events.redraw_rates),
        (-1, events.backward_intensity, events.backward_rates),
    ):
        exact = numbers([side * rise for rise in rises], kappas)
        ours = np.array([-float(intensity(path, t)), *at(rates(path, t))])
        np.testing.assert_allclose(ours, exact, rtol=1e-12, atol=1e-12 * (1 + abs(exact[0])))


@settings(max_examples=60)
@given(path=paths, ts=intervals)
def test_the_library_has_these_weights(path, ts):
    exact = numbers(at(path.kappas(ts[1])), at(path.kappas(ts[0])))
    ours = np.array([float(events.stay(path, *ts)), *at(events.redraw_weights(path, *ts))])
    np.testing.assert_allclose(ours, exact, rtol=1e-12, atol=1e-12)
