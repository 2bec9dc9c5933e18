"""Formulas that are often printed wrongly: the printed form breaks a law, with ==, and ours keeps it.

The printed forms stand in a 2025 tutorial on discrete flow matching; the number in a test's name is the place
of the formula in that article. The right forms are those of Gat et al. 2024. Each test judges by the oracle
first, then asks the library for the same to 1e-12.
"""

from fractions import Fraction as F
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfm_ref import couplings, events, losses, paths, velocities
from dfm_ref.paths import X0, X1, Fixed, Mixture
from dfm_ref.protocols import Key
from dfm_ref.schedules import Bernstein, Convex, PerToken
from dfm_ref.sources import Masked
from dfm_ref.verify import oracle
from dfm_ref.verify.oracle import Problem, Table, exact

TIMES = (F(1, 4), F(1, 2), F(7, 10))
NOISE = exact(["1/3", "2/3"])
COEF = exact(  # kappa of x_0, x_1 and noise, for each of two tokens
    [[[1, -1, 0], [0, 0, 1], [0, 1, -1]], [[1, -2, 1], [0, 1, 0], [0, 1, -1]]]
)
SCHEDULE = PerToken(  # the same in the library
    (
        Convex((Bernstein((1.0, 0.5, 0.0)), Bernstein((0.0, 0.0, 1.0)), Bernstein((0.0, 0.5, 0.0)))),
        Convex((Bernstein((1.0, 0.0, 0.0)), Bernstein((0.0, 0.5, 1.0)), Bernstein((0.0, 0.5, 0.0)))),
    )
)
PATH = Mixture(SCHEDULE, (X0(), X1(), Fixed((1 / 3, 2 / 3))))


def correlated() -> tuple[Table, Problem]:
    """Two bits: three pairs whose ends depend on one another, and three components, the last one noise."""
    pi = exact([[0, "1/2", 0, 0], [0, 0, 0, "1/8"], ["3/8", 0, 0, 0], [0, 0, 0, 0]])
    return pi, oracle.enumerate_pairs(pi, np.stack([oracle.at_x_0(2), oracle.at_x_1(2), oracle.fixed(NOISE)]))


def at(t: F) -> tuple[Table, Table]:
    return oracle.evaluate(COEF, t), oracle.evaluate(oracle.derivative(COEF), t)


def residual(u: Table, t: F) -> Table:
    """dp/dt - Q p of a velocity on the correlated problem: zero where it generates the path."""
    _, problem = correlated()
    kappa, kappa_dot = at(t)
    p_dot = oracle.marginal_dot(problem, kappa, kappa_dot)
    return oracle.kolmogorov_residual(p_dot, oracle.generator(u), oracle.marginal(problem, kappa))


def true_velocity(t: F) -> Table:
    _, problem = correlated()
    a, b, _ = oracle.coefficients(*at(t))
    return oracle.velocity(a, b, oracle.posteriors(problem, at(t)[0]).w_hat)


def our_coefficients(t: F) -> tuple[Table, Table]:
    """The library's a[N, m] and b[N]."""
    time = np.asarray([float(t)])
    return np.stack(events.redraw_rates(SCHEDULE, time), axis=-1), -events.intensity(SCHEDULE, time)


def our_velocity(t: F) -> Table:
    """The library's u[N, S, d] at every state, of the oracle's posteriors."""
    _, problem = correlated()
    w_hat = oracle.posteriors(problem, at(t)[0]).w_hat.astype(float).swapaxes(1, 2)
    return np.asarray(velocities.forward(PATH, tuple(w_hat), oracle.states(2, 2), float(t)).swapaxes(0, 1))


def our_marginal(problem: Problem, t: F) -> Table:
    """p_t(x) from the library's token laws given the pair."""
    tokens = paths.pmf(PATH, problem.x_0, problem.x_1, float(t), vocab_size=2)
    return np.asarray(problem.pi.astype(float) @ oracle.product(tokens))


def close(ours: Table, exactly: Any) -> bool:
    return bool(np.all(np.abs(ours - np.asarray(exactly, dtype=float)) <= 1e-12))


def test_e20_the_source_is_drawn_from_p_and_not_from_q() -> None:
    p, q = exact([0, 0, 1]), exact(["1/3", "2/3", 0])  # the mask, and data that never holds it
    components, start = np.stack([oracle.at_x_0(3), oracle.at_x_1(3)]), exact([[1, 0]])
    printed = oracle.enumerate_pairs(np.multiply.outer(q, q), components)  # "X_0 ~ q, X_1 ~ q"
    right = oracle.enumerate_pairs(np.multiply.outer(p, q), components)
    assert (oracle.marginal(printed, start) != p).any()
    assert (oracle.marginal(right, start) == p).all()
    assert (oracle.marginal(right, 1 - start) == q).all()

    x_1 = np.array([[0], [1], [1]])
    ours = couplings.independent(Masked(3), Key(0, 0), x_1)
    assert (ours.x_0 == 2).all()
    assert (ours.x_1 == x_1).all()


def test_e20_second_a_pair_is_x_0_then_x_1() -> None:
    """Printed as (X_0 = x, X_1, y); of pi(x, y) the first argument is x_0, and p sums it over y."""
    pi, problem = correlated()
    p, q = exact(["1/2", "1/8", "3/8", 0]), exact(["3/8", "1/2", 0, "1/8"])
    swapped = oracle.enumerate_pairs(pi.T, np.stack([oracle.at_x_0(2), oracle.at_x_1(2)]))
    first = exact([[1, 0]] * 2)
    assert (oracle.marginal(swapped, first) != p).any()
    assert (oracle.marginal(swapped, first) == q).all()
    assert (pi.sum(axis=1) == p).all()
    assert (pi.sum(axis=0) == q).all()
    assert (oracle.marginal(problem, at(F(0))[0]) == p).all()
    assert (oracle.marginal(problem, at(F(1))[0]) == q).all()

    pairs = couplings.given(problem.x_0, problem.x_1)
    assert (pairs.x_0 == problem.x_0).all()
    assert close(our_marginal(problem._replace(x_0=pairs.x_0, x_1=pairs.x_1), F(0)), p)
    assert close(our_marginal(problem._replace(x_0=pairs.x_0, x_1=pairs.x_1), F(1)), q)


@given(st.lists(st.fractions(max_value=0, max_denominator=9), min_size=1, max_size=5))
def test_e22_weights_below_zero_cannot_sum_to_one(printed: list[F]) -> None:
    assert sum(printed) != 1
    with pytest.raises(ValueError, match="components: expected kappa"):
        Convex(tuple(Bernstein((float(kappa),)) for kappa in printed))


def test_e22_weights_are_not_negative() -> None:
    _, problem = correlated()
    assert (oracle.token_marginals(problem, -at(F(1, 2))[0]).sum(axis=-1) == -1).all()  # all below 0: no law
    assert (oracle.marginal(problem, exact([["3/2", "-1/2", 0]] * 2)) < 0).any()  # one below 0, the sum still 1
    for t in TIMES:
        p = oracle.marginal(problem, at(t)[0])
        assert (at(t)[0] >= 0).all()
        assert (p >= 0).all()
        assert p.sum() == 1
        assert close(our_marginal(problem, t), p)

    with pytest.raises(ValueError, match="kappa >= 0"):
        Convex((Bernstein((1.5,)), Bernstein((-0.5,))))


def test_e24_every_token_draws_from_its_own_row_and_only_up_to_o_of_h() -> None:
    """Printed as X_{t+h} ~~ delta_{X_t^i} + h u^i(., X_t): the law of a token beside the whole state."""
    _, problem = correlated()
    for t in TIMES:
        u, p = true_velocity(t), oracle.marginal(problem, at(t)[0])
        one_row = [np.where(np.arange(2)[:, None, None] == i, u, 0) for i in range(2)]
        assert all((residual(row, t) != 0).any() for row in one_row)  # read literally, a row alone moves the state
        assert (residual(u, t) == 0).all()
        kernels = {h: oracle.joint_kernel(oracle.euler_kernel(u, h)) for h in (F(1, 500), F(1, 1000))}
        rest = [(K - np.eye(4, dtype=int) - h * oracle.generator(u)) / h**2 for h, K in kernels.items()]
        assert (rest[0] == rest[1]).all()  # tokens independent given X_t: I + h Q + O(h^2)
        assert (rest[0] != 0).any()
        long, short = (
            oracle.total_variation(K @ p, oracle.marginal(problem, at(t + h)[0])) / h for h, K in kernels.items()
        )
        assert 0 < short < F(6, 10) * long  # the law of X_{t+h} up to o(h), and not equal to it

        h = F(1, 500)
        c = np.stack(events.euler_redraw(SCHEDULE, *np.asarray([[float(t)], [float(t + h)]])), axis=-1)
        w_hat = oracle.posteriors(problem, at(t)[0]).w_hat.astype(float)
        assert close(oracle.joint_kernel(oracle.finite_kernel(c, 1 - c.sum(axis=-1), w_hat)), kernels[h])


def test_e25_only_rates_to_another_token_are_not_negative() -> None:
    """Printed as u^i(x^i, z) >= 0 for all x^i: with the sum 0 this leaves u = 0, which moves nothing."""
    stay = oracle.delta(oracle.states(2, 2).T, 2) == 1
    for t in TIMES:
        u = true_velocity(t)
        assert (u.sum(axis=-1) == 0).all()
        assert (u[~stay] >= 0).all()
        assert (u[stay] < 0).any()
        assert (residual(u, t) == 0).all()
        raised = np.where(u >= 0, u, 0)  # the nearest table with no negative entry
        assert (raised.sum(axis=-1) != 0).any()
        assert (residual(0 * u, t) != 0).any()

        ours = our_velocity(t)
        assert (ours[~stay] >= 0).all()
        assert close(ours.sum(axis=-1), 0)
        assert close(ours, u)


def test_e27_a_is_divided_by_the_weight_of_ell() -> None:
    """Printed as a^j = kdot^j - kappa^j kdot^ell / kappa^j, which is kdot^j - kdot^ell."""
    _, problem = correlated()
    for t in TIMES:
        kappa, kappa_dot = at(t)
        a, b, ell = oracle.coefficients(kappa, kappa_dot)
        least, least_dot = (np.take_along_axis(k, ell[:, None], axis=-1) for k in (kappa, kappa_dot))
        printed = kappa_dot - least_dot
        assert (printed.sum(axis=-1) + b == (least_dot * (1 / least - 3))[:, 0]).all()  # 0 where kappa^ell = 1/3
        u = oracle.velocity(printed, b, oracle.posteriors(problem, kappa).w_hat)
        assert (u.sum(axis=-1) != 0).any()
        assert (residual(u, t) != 0).any()
        assert (a == kappa_dot - kappa * least_dot / least).all()
        assert (a.sum(axis=-1) + b == 0).all()
        assert (residual(true_velocity(t), t) == 0).all()

        our_a, our_b = our_coefficients(t)
        assert close(our_a, a)
        assert close(our_b, b)
        assert close(residual(our_velocity(t), t).astype(float), 0)


def test_e27_the_printed_form_is_right_by_accident_for_linear_kappa_at_one_half() -> None:
    kappa, kappa_dot = exact([["1/2", "1/2"]]), exact([[-1, 1]])
    a, _, ell = oracle.coefficients(kappa, kappa_dot)
    assert (kappa_dot - kappa_dot[:, ell] == a).all()


def test_e29_the_velocity_averages_the_components_over_the_pairs_given_z() -> None:
    """Printed with w_hat^j(x^i | x_0, x_1): the velocity of one pair, and of its path alone."""
    _, problem = correlated()
    for t in TIMES:
        kappa, _ = at(t)
        a, b, _ = oracle.coefficients(*at(t))
        pairs = [oracle.velocity(a, b, oracle.given_pair(problem, pair)) for pair in range(3)]
        assert all((residual(u, t) != 0).any() for u in pairs)
        weights = oracle.pair_posterior(problem, kappa)[..., None]
        assert (sum(u * weight for u, weight in zip(pairs, weights, strict=True)) == true_velocity(t)).all()
        assert (residual(true_velocity(t), t) == 0).all()
        assert close(our_velocity(t), true_velocity(t))
        assert close(residual(our_velocity(t), t).astype(float), 0)


def test_e31_a_target_tied_to_x_t_moves_the_minimiser() -> None:
    """Y has no time: if it is the draw from which x_t was made, its law given x_t is not the posterior."""
    pi, kappa = exact([["1/2", 0], ["1/8", "3/8"]]), exact([["1/4", "1/2", "1/4"]])
    problem = oracle.enumerate_pairs(pi, np.stack([oracle.at_x_0(2), oracle.fixed(NOISE), oracle.at_x_1(2)]))
    p, w_hat = oracle.marginal(problem, kappa), oracle.posteriors(problem, kappa).w_hat[1, 0]
    others = p - kappa[0, 1] * NOISE  # x_t was made by another component, and y is fresh
    tied = NOISE * others[:, None] + kappa[0, 1] * np.diag(NOISE)  # [z, y]
    assert (tied.sum(axis=1) == p).all()
    assert (tied.sum(axis=0) == NOISE).all()
    assert (w_hat == NOISE).all()
    assert (tied / p[:, None] != w_hat).all()

    def loss(joint: Table, law: Table) -> float:
        rows = np.log(law.astype(float))[:, None]
        each = [losses.mixture_cross_entropy((None, rows, None), (None, np.full((2, 1), y), None)) for y in range(2)]
        return float(np.sum(joint.astype(float) * np.concatenate(each, axis=1)))

    free = p[:, None] * w_hat
    assert loss(free, w_hat) < loss(free, tied / p[:, None]) - 0.01
    assert loss(tied, tied / p[:, None]) < loss(tied, w_hat) - 0.01
