"""The oracle proves itself: every identity of the theory in fractions, with ==."""

from fractions import Fraction
from itertools import pairwise, permutations
from itertools import product as cartesian
from math import comb, prod
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dfm_ref.verify.oracle import (
    Problem,
    Table,
    any_order_bound,
    any_order_law,
    at_x_0,
    at_x_1,
    clipped_coefficients,
    coefficients,
    conditional,
    delta,
    derivative,
    enumerate_pairs,
    euler_kernel,
    evaluate,
    evolve,
    exact,
    finite_coefficients,
    finite_kernel,
    fixed,
    generator,
    given_pair,
    joint_kernel,
    kolmogorov_residual,
    marginal,
    marginal_dot,
    pair_posterior,
    path_divergence,
    posteriors,
    prior_divergence,
    product,
    product_dot,
    prompted,
    propagate,
    states,
    token_marginals,
    total_variation,
    velocity,
)

F = Fraction


class Case(NamedTuple):
    """A coupling, its problem and polynomial schedules coef[N, m, n]."""

    pi: Table
    problem: Problem
    coef: Table

    def kappa(self, t: Fraction) -> Table:
        return evaluate(self.coef, t)

    def kappa_dot(self, t: Fraction) -> Table:
        return evaluate(derivative(self.coef), t)

    def velocity(self, t: Fraction) -> Table:
        a, b, _ = coefficients(self.kappa(t), self.kappa_dot(t))
        return velocity(a, b, posteriors(self.problem, self.kappa(t)).w_hat)

    def residual(self, t: Fraction, u: Table) -> Table:
        p_dot = marginal_dot(self.problem, self.kappa(t), self.kappa_dot(t))
        return kolmogorov_residual(p_dot, generator(u), marginal(self.problem, self.kappa(t)))


# Random rational problems


def pmfs(size: int) -> st.SearchStrategy[Table]:
    weights = st.lists(st.integers(0, 3), min_size=size, max_size=size).filter(any)
    return weights.map(lambda w: exact(w) / sum(w))


def empirical(size: int) -> st.SearchStrategy[Table]:
    """The law of at most four draws from `size` outcomes: a sparse PMF."""
    draws = st.lists(st.integers(0, size - 1), min_size=1, max_size=4)
    return draws.map(lambda x: exact(np.bincount(x, minlength=size)) / len(x))


def tables(vocab_size: int) -> st.SearchStrategy[Table]:
    """A component w(x | x_0, x_1) that depends on both ends."""
    rows = st.lists(pmfs(vocab_size), min_size=vocab_size**2, max_size=vocab_size**2)
    return rows.map(lambda w: np.stack(w).reshape((vocab_size,) * 3))


def bernstein(control: Table) -> Table:
    """Control points [n+1, ...] -> monomial coefficients [..., n+1]: PMFs in, a schedule of PMFs out."""
    n = len(control) - 1
    basis = [
        [comb(n, k) * comb(n - k, r - k) * (-1) ** (r - k) if r >= k else 0 for r in range(n + 1)] for k in range(n + 1)
    ]
    return np.asarray(np.einsum("kij,kr->ijr", control, exact(basis)))


@st.composite
def schedules(draw: st.DrawFn, length: int, m: int) -> Table:
    """Cubics [N, m, 4], one row a token, from all weight on the first component to all on the last."""
    ends = exact(delta(np.array([[0] * length, [m - 1] * length]), m))
    middle = [np.stack([draw(pmfs(m)) for _ in range(length)]) for _ in range(2)]
    return bernstein(np.stack([ends[0], *middle, ends[1]]))


@st.composite
def couplings(draw: st.DrawFn, vocab_size: int, length: int) -> Table:
    """pi[S, S]: correlated, or data with a source (mask, uniform, any PMF a token), prompted or not."""
    size = vocab_size**length
    kind = draw(st.sampled_from(["correlated", "mask", "uniform", "any"]))
    if kind == "correlated":
        return draw(empirical(size**2)).reshape(size, size)
    q = draw(empirical((vocab_size - 1) ** length if kind == "mask" else size))
    if kind == "mask":  # data never holds the mask, the last token
        data = (states(vocab_size, length) < vocab_size - 1).all(axis=-1)
        spread = exact(np.zeros(size, dtype=int))
        spread[data] = q
        q = spread
    source = {
        "mask": lambda: exact(delta(np.full(length, vocab_size - 1), vocab_size)),
        "uniform": lambda: exact(np.ones((length, vocab_size), dtype=int)) / vocab_size,
        "any": lambda: np.stack([draw(pmfs(vocab_size)) for _ in range(length)]),
    }[kind]()
    return prompted(q, source, np.array(draw(st.lists(st.booleans(), min_size=length, max_size=length))))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    vocab_size, length, m = draw(st.sampled_from([(2, 1, 2), (3, 1, 4), (2, 2, 3), (2, 2, 4), (3, 2, 2)]))
    pi = draw(couplings(vocab_size, length))
    between = [draw(pmfs(vocab_size).map(fixed) | tables(vocab_size)) for _ in range(m - 2)]
    components = np.stack([at_x_0(vocab_size), *between, at_x_1(vocab_size)])
    return Case(pi, enumerate_pairs(pi, components), draw(schedules(length, m)))


times = st.fractions(0, 1, max_denominator=12)
before_one = times.filter(lambda t: t < 1)
inside = before_one.filter(lambda t: t > 0)
oracle = settings(deadline=None, max_examples=40)


# Problems by hand


def mixture(pi: Table, coef: Any, vocab_size: int) -> Case:
    """x_0 to x_1 with kappa = coef[N, n] of x_1, a polynomial a token."""
    kappa = exact(coef)
    one = exact(delta(np.zeros(len(kappa), dtype=int), kappa.shape[-1]))
    problem = enumerate_pairs(pi, np.stack([at_x_0(vocab_size), at_x_1(vocab_size)]))
    return Case(pi, problem, np.stack([one - kappa, kappa], axis=1))


def masked(coef: Any = ((0, 1), (0, 1)), q: Any = ("1/2", "1/8", "1/8", "1/4")) -> Case:
    """Two tokens in {0, 1} with law q, from the mask 2."""
    spread = exact(np.zeros(9, dtype=int))
    spread[[0, 1, 3, 4]] = exact(q)
    return mixture(prompted(spread, exact(delta(np.array([2, 2]), 3)), np.array([False, False])), coef, 3)


def uniform(coef: Any = ((0, 1), (0, 1)), q: Any = ("1/2", "1/8", "1/8", "1/4")) -> Case:
    """Two bits with law q, from independent fair bits."""
    return mixture(prompted(exact(q), exact([["1/2", "1/2"]] * 2), np.array([False, False])), coef, 2)


def switching() -> Case:
    """kappa = ((1-t)^2, t^2 (1-t)^3, the rest) of x_0, noise, x_1: ell changes from 0 to 1 at t = 2/3."""
    pi = exact([[0, "1/2", 0, 0], [0, 0, 0, "1/4"], ["1/8", 0, 0, 0], [0, 0, 0, "1/8"]])
    components = np.stack([at_x_0(2), fixed(exact(["1/3", "2/3"])), at_x_1(2)])
    kappa = exact([[1, -2, 1, 0, 0, 0], [0, 0, 1, -3, 3, -1], [0, 2, -2, 3, -3, 1]])
    return Case(pi, enumerate_pairs(pi, components), np.stack([kappa] * 2))


def slope(values: list[Table], h: Fraction) -> Table:
    """f'(0) = log(1 + Delta) f(0) / h from values f(0), f(h), ...: exact for polynomials of lower degree."""
    f = np.stack(values)
    terms = (F((-1) ** (k + 1), k) * np.diff(f, n=k, axis=0)[0] for k in range(1, len(f)))
    return np.asarray(sum(terms) / h)


# Tables


def test_states_are_in_the_order_of_itertools_with_the_last_token_fastest() -> None:
    assert states(3, 2).tolist() == [list(s) for s in cartesian(range(3), repeat=2)]
    assert (states(3, 2) @ [3, 1]).tolist() == list(range(9))


@oracle
@given(cases(), before_one)
def test_fractions_in_give_no_float_out(case: Case, t: Fraction) -> None:
    kappa, kappa_dot, kappa_1 = case.kappa(t), case.kappa_dot(t), case.kappa(F(1))
    a, b, _ = coefficients(kappa, kappa_dot)
    c, stay = finite_coefficients(kappa, kappa_1)
    w_hat, _ = posteriors(case.problem, kappa)
    u, p = velocity(a, b, w_hat), marginal(case.problem, kappa)
    K = joint_kernel(finite_kernel(c, stay, w_hat))
    results = [a, b, c, stay, w_hat, u, p, K, generator(u), propagate(p, [K]), total_variation(p, K @ p)]
    results += [
        *clipped_coefficients(a, b, F(1, 3)),
        euler_kernel(u, F(1, 3)),
        conditional(case.problem, kappa),
    ]
    for table in results:
        assert all(isinstance(x, Fraction | int) for x in np.asarray(table).flat)


@oracle
@given(cases(), before_one)
def test_float64_gives_the_same_as_fractions(case: Case, t: Fraction) -> None:
    kappa, kappa_dot, kappa_1 = case.kappa(t), case.kappa_dot(t), case.kappa(F(1))
    ratios = np.sort(np.where(kappa > 0, kappa_dot, 0) / np.where(kappa > 0, kappa, 1), axis=-1)

    def everything(problem: Problem, kappa: Table, kappa_dot: Table, kappa_1: Table, h: Any) -> list[Table]:
        a, b, _ = coefficients(kappa, kappa_dot)
        c, stay = finite_coefficients(kappa, kappa_1)
        w_hat, _ = posteriors(problem, kappa)
        u, p = velocity(a, b, w_hat), marginal(problem, kappa)
        K = joint_kernel(finite_kernel(c, stay, w_hat))
        clipped = finite_kernel(*clipped_coefficients(a, b, h), w_hat)
        return [
            w_hat,
            a,
            b,
            c,
            stay,
            u,
            generator(u),
            p,
            marginal_dot(problem, kappa, kappa_dot),
            K @ p,
            clipped,
        ]

    problem = case.problem._replace(pi=case.problem.pi.astype(float), w=case.problem.w.astype(float))
    floats = everything(problem, kappa.astype(float), kappa_dot.astype(float), kappa_1.astype(float), 0.25)
    for got, want in zip(floats, everything(case.problem, kappa, kappa_dot, kappa_1, F(1, 4)), strict=True):
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, want.astype(float), rtol=1e-12, atol=1e-12 * float(1 - ratios.min()))


@oracle
@given(st.lists(pmfs(3), min_size=2, max_size=2), st.lists(pmfs(3), min_size=2, max_size=2))
def test_product_is_the_law_of_independent_tokens_and_product_dot_its_derivative(p: Any, v: Any) -> None:
    p, v = np.stack(p), np.stack(v)
    assert product(p).tolist() == [p[0, x] * p[1, y] for x, y in states(3, 2)]
    assert (product_dot(p, v) == slope([product(p + F(n, 7) * v) for n in range(3)], F(1, 7))).all()


# Paths


@oracle
@given(cases())
def test_p_0_and_p_1_are_the_marginals_of_the_coupling(case: Case) -> None:
    assert (marginal(case.problem, case.kappa(F(0))) == case.pi.sum(axis=1)).all()
    assert (marginal(case.problem, case.kappa(F(1))) == case.pi.sum(axis=0)).all()


@oracle
@given(cases(), times)
def test_p_t_is_a_law_and_its_pairs_are_products(case: Case, t: Fraction) -> None:
    p = marginal(case.problem, case.kappa(t))
    assert (p >= 0).all()
    assert p.sum() == 1
    tokens, law = token_marginals(case.problem, case.kappa(t)), conditional(case.problem, case.kappa(t))
    s = states(tokens.shape[-1], tokens.shape[-2])
    for pair, x in cartesian(range(len(tokens)), range(len(s))):
        assert law[pair, x] == prod(tokens[pair, i, value] for i, value in enumerate(s[x]))


@oracle
@given(cases(), before_one)
def test_marginal_dot_is_the_derivative_of_the_marginal(case: Case, t: Fraction) -> None:
    degree = (case.coef.shape[-1] - 1) * case.coef.shape[0]  # of p_t as a polynomial in t
    h = (1 - t) / degree
    laws = [marginal(case.problem, case.kappa(t + n * h)) for n in range(degree + 1)]
    assert (marginal_dot(case.problem, case.kappa(t), case.kappa_dot(t)) == slope(laws, h)).all()


def test_coupling_tables_have_the_source_and_the_data_as_marginals() -> None:
    q, source = exact(["1/2", "1/8", "1/8", "1/4"]), exact([["1/3", "2/3"], ["3/4", "1/4"]])
    independent = prompted(q, source, np.array([False, False]))
    assert (independent == np.multiply.outer(product(source), q)).all()
    half = prompted(q, source, np.array([True, False]))
    assert (half.sum(axis=0) == q).all()
    x_0, x_1 = (states(2, 2)[i] for i in np.nonzero(half))
    assert (x_0[:, 0] == x_1[:, 0]).all()
    assert (half.reshape(2, 2, 4).sum(axis=0) == np.multiply.outer(source[1], q)).all()  # token 1 is independent


# Posteriors


@oracle
@given(cases(), times)
def test_posteriors_are_pmfs_that_average_back_to_the_pair(case: Case, t: Fraction) -> None:
    w_hat, reachable = posteriors(case.problem, case.kappa(t))
    p = marginal(case.problem, case.kappa(t))
    assert (reachable == (p > 0)).all()
    assert (w_hat >= 0).all()
    assert (w_hat.sum(axis=-1) == 1).all()
    assert (np.einsum("jizx,z->jix", w_hat, p) == np.einsum("p,pjix->jix", case.problem.pi, case.problem.w)).all()


@oracle
@given(cases(), before_one)
def test_unreachable_states_keep_their_tokens(case: Case, t: Fraction) -> None:
    _, reachable = posteriors(case.problem, case.kappa(t))
    assert (case.velocity(t)[:, ~reachable] == 0).all()


def test_the_mask_posterior_does_not_depend_on_time_even_with_a_schedule_per_token() -> None:
    case = masked(((0, 1, 0, 0), (0, 0, 0, 1)))
    w_hat, reachable = posteriors(case.problem, case.kappa(F(1, 5)))
    for t in (F(1, 2), F(9, 10)):
        again, _ = posteriors(case.problem, case.kappa(t))
        assert (again[1] == w_hat[1]).all()
    assert (w_hat[0][:, reachable] == delta(np.array(2), 3)).all()  # and x_0 is the mask
    q = exact([["1/2", "1/8"], ["1/8", "1/4"]])
    for z, (revealed, _) in enumerate(states(3, 2)):
        if z in (2, 5):  # (0, mask), (1, mask): the second token given the first
            assert (w_hat[1, 1, z, :2] == q[revealed] / q[revealed].sum()).all()
    assert (w_hat[1, 0, 8, :2] == q.sum(axis=1)).all()  # (mask, mask): the marginal of the first token


def test_the_posterior_of_a_uniform_source_depends_on_time() -> None:
    case = uniform()
    at = [posteriors(case.problem, case.kappa(t)).w_hat[1] for t in (F(1, 5), F(1, 2))]
    assert (at[0] != at[1]).any()


def test_a_prompt_never_changes() -> None:
    for kind in (masked, uniform):
        source = exact(delta(np.array([2, 2]), 3)) if kind is masked else exact([["1/2", "1/2"]] * 2)
        pi = prompted(kind().pi.sum(axis=0), source, np.array([True, False]))
        case = mixture(pi, [(0, 0, 1), (0, 1, 0)], source.shape[-1])
        for t in (F(0), F(1, 3), F(5, 6)):
            u = case.velocity(t)
            assert (u[0] == 0).all()
            assert (u[1] != 0).any()
            assert (case.residual(t, u) == 0).all()


# Velocities


@oracle
@given(cases(), before_one)
def test_velocities_conserve_mass_with_rates_of_the_right_sign(case: Case, t: Fraction) -> None:
    a, b, ell = coefficients(case.kappa(t), case.kappa_dot(t))
    assert (a >= 0).all()
    assert (b <= 0).all()
    assert (np.take_along_axis(a, ell[:, None], axis=-1) == 0).all()
    assert (a.sum(axis=-1) + b == 0).all()
    u = case.velocity(t)
    stay = delta(states(u.shape[-1], len(u)).T, u.shape[-1])
    assert (u.sum(axis=-1) == 0).all()
    assert ((u >= 0) | (stay == 1)).all()
    assert (generator(u).sum(axis=0) == 0).all()


@oracle
@given(cases(), before_one)
def test_the_marginal_velocity_generates_the_path(case: Case, t: Fraction) -> None:
    assert (case.residual(t, case.velocity(t)) == 0).all()


@oracle
@given(cases(), before_one)
def test_a_wrong_velocity_does_not_generate_the_path(case: Case, t: Fraction) -> None:
    p_dot = marginal_dot(case.problem, case.kappa(t), case.kappa_dot(t))
    assume((p_dot != 0).any())
    assert (case.residual(t, 2 * case.velocity(t)) == -p_dot).all()


@oracle
@given(cases(), before_one, st.data())
def test_the_conditional_velocity_generates_the_path_of_its_pair(case: Case, t: Fraction, data: st.DataObject) -> None:
    pair = data.draw(st.integers(0, len(case.problem.pi) - 1))
    alone = Problem(*(table[[pair]] for table in case.problem))._replace(pi=exact([1]))
    a, b, _ = coefficients(case.kappa(t), case.kappa_dot(t))
    u = velocity(a, b, given_pair(case.problem, pair))
    assert (case._replace(problem=alone).residual(t, u) == 0).all()


@oracle
@given(cases(), before_one)
def test_the_marginal_velocity_is_the_posterior_mean_of_the_conditional_ones(case: Case, t: Fraction) -> None:
    a, b, _ = coefficients(case.kappa(t), case.kappa_dot(t))
    weights = pair_posterior(case.problem, case.kappa(t))
    mean = sum(velocity(a, b, given_pair(case.problem, pair)) * weights[pair][:, None] for pair in range(len(weights)))
    assert (mean == case.velocity(t)).all()


@oracle
@given(cases(), before_one)
def test_the_generator_changes_one_token_at_a_time(case: Case, t: Fraction) -> None:
    u = case.velocity(t)
    s, Q = states(u.shape[-1], len(u)), generator(u)
    for x, z in cartesian(range(len(s)), repeat=2):
        moves = [i for i in range(len(u)) if all(np.delete(s[x] == s[z], i))]
        assert Q[x, z] == sum(u[i, z, s[x, i]] for i in moves)


@oracle
@given(cases(), inside)
def test_backward_velocities_generate_the_path_too_and_correctors_keep_it(case: Case, t: Fraction) -> None:
    kappa, kappa_dot = case.kappa(t), case.kappa_dot(t)
    a, b, _ = coefficients(kappa, -kappa_dot)
    back = -velocity(a, b, posteriors(case.problem, kappa).w_hat)  # = a_max w_hat + b_max delta
    assert (a >= 0).all()
    assert (case.residual(t, back) == 0).all()
    forward, strength = case.velocity(t), F(3, 7)
    assert (case.residual(t, (1 + strength) * forward - strength * back) == 0).all()
    assert (generator(forward - back) @ marginal(case.problem, kappa) == 0).all()


@oracle
@given(
    st.sampled_from([masked(), uniform(), masked(((0, 0, 1), (0, 2, -1))), uniform(((0, 0, 1), (0, 1, 0)))]),
    inside,
)
def test_two_components_move_at_kdot_over_one_minus_kappa_and_back_at_kdot_over_kappa(case: Case, t: Fraction) -> None:
    kappa, kappa_dot = case.kappa(t)[:, 1, None, None], case.kappa_dot(t)[:, 1, None, None]
    p_0, p_1 = posteriors(case.problem, case.kappa(t)).w_hat
    stay = delta(states(p_1.shape[-1], 2).T, p_1.shape[-1])
    assert (case.velocity(t) == kappa_dot / (1 - kappa) * (p_1 - stay)).all()
    a, b, _ = coefficients(case.kappa(t), -case.kappa_dot(t))
    assert (-velocity(a, b, np.stack([p_0, p_1])) == kappa_dot / kappa * (stay - p_0)).all()


def test_the_argmin_changes_with_time_and_kolmogorov_holds_on_both_sides() -> None:
    case = switching()
    for t, first in ((F(0), 0), (F(1, 3), 0), (F(2, 3), 0), (F(4, 5), 1), (F(99, 100), 1)):
        assert coefficients(case.kappa(t), case.kappa_dot(t)).ell.tolist() == [first, first]
        assert (case.residual(t, case.velocity(t)) == 0).all()


def test_a_tie_gives_both_components_a_zero_and_the_lowest_index() -> None:
    case = switching()
    a, b, ell = coefficients(case.kappa(F(2, 3)), case.kappa_dot(F(2, 3)))
    assert (a[:, :2] == 0).all()
    assert ell.tolist() == [0, 0]
    assert (b == -6).all()
    c, stay = finite_coefficients(case.kappa(F(2, 3)), case.kappa(F(2, 3)))
    assert (c == 0).all()
    assert (stay == 1).all()


@oracle
@given(cases(), before_one, st.randoms())
def test_the_order_of_the_components_does_not_matter(case: Case, t: Fraction, random: Any) -> None:
    order = list(range(case.coef.shape[1]))
    random.shuffle(order)
    shuffled = case._replace(problem=case.problem._replace(w=case.problem.w[:, order]), coef=case.coef[:, order])
    assert (shuffled.velocity(t) == case.velocity(t)).all()


@oracle
@given(cases(), before_one, st.fractions(0, 3, max_denominator=5))
def test_a_faster_clock_gives_another_velocity_of_the_same_path(case: Case, t: Fraction, more: Fraction) -> None:
    a, b, _ = coefficients(case.kappa(t), case.kappa_dot(t))
    faster = velocity(a + more * case.kappa(t), b - more, posteriors(case.problem, case.kappa(t)).w_hat)
    assert (case.residual(t, faster) == 0).all()
    assert (faster.sum(axis=-1) == 0).all()


def test_zeros_of_kappa() -> None:
    growing, absent = exact([["1/2", 0, "1/2"]]), exact([[-1, 1, 0]])
    a, b, ell = coefficients(growing, absent)
    assert (a.tolist(), b.tolist(), ell.tolist()) == ([[0, 1, 1]], [-2], [0])
    a, b, ell = coefficients(exact([[0, "1/2", "1/2"]]), exact([[0, -1, 1]]))
    assert (a.tolist(), b.tolist(), ell.tolist()) == ([[0, 0, 2]], [-2], [1])
    with pytest.raises(ValueError, match="must not be negative where kappa is 0"):
        coefficients(exact([[0, 1]]), exact([[-1, 1]]))


def test_kolmogorov_holds_where_a_component_touches_zero_inside() -> None:
    case = uniform()  # kappa of x_1 is 1 - (2t-1)^2, which is 1 at t = 1/2
    case = case._replace(coef=exact([[[1, -4, 4], [0, 4, -4]]] * 2))
    for t in (F(1, 4), F(1, 2), F(3, 4)):
        assert (case.residual(t, case.velocity(t)) == 0).all()
    assert coefficients(case.kappa(F(1, 2)), case.kappa_dot(F(1, 2))).b.tolist() == [0, 0]


# Steps


@oracle
@given(cases(), times, times)
def test_the_finite_step_carries_the_law_of_every_pair(case: Case, t: Fraction, s: Fraction) -> None:
    t, s = min(t, s), max(t, s)
    c, stay = finite_coefficients(case.kappa(t), case.kappa(s))
    assert (c >= 0).all()
    assert (stay >= 0).all()
    assert (c.sum(axis=-1) + stay == 1).all()
    before, after = conditional(case.problem, case.kappa(t)), conditional(case.problem, case.kappa(s))
    for pair in range(min(len(before), 4)):
        K = joint_kernel(finite_kernel(c, stay, given_pair(case.problem, pair)))
        assert (K @ before[pair] == after[pair]).all()


@oracle
@given(cases(), before_one)
def test_the_finite_step_to_one_ends_at_x_1(case: Case, t: Fraction) -> None:
    c, stay = finite_coefficients(case.kappa(t), case.kappa(F(1)))
    p = conditional(case.problem, case.kappa(t))
    for pair in range(min(len(p), 4)):
        K = joint_kernel(finite_kernel(c, stay, given_pair(case.problem, pair)))
        assert (K @ p[pair] == product(delta(case.problem.x_1[pair], case.problem.w.shape[-1]))).all()


@oracle
@given(cases(), before_one, st.fractions(F(1, 50), 1, max_denominator=50))
def test_the_finite_step_is_euler_s_with_the_mean_of_kappa_dot(case: Case, t: Fraction, share: Fraction) -> None:
    h = share * (1 - t)
    c, stay = finite_coefficients(case.kappa(t), case.kappa(t + h))
    w_hat, _ = posteriors(case.problem, case.kappa(t))
    a, b, _ = coefficients(case.kappa(t), (case.kappa(t + h) - case.kappa(t)) / h)
    assert (finite_kernel(c, stay, w_hat) == euler_kernel(velocity(a, b, w_hat), h)).all()


@oracle
@given(cases(), before_one)
def test_the_derivative_of_the_finite_step_is_the_velocity(case: Case, t: Fraction) -> None:
    w_hat, _ = posteriors(case.problem, case.kappa(t))
    h, degree = (
        F(1, 10**9),
        case.coef.shape[-1] - 1,
    )  # near t, ell is constant and the kernel a polynomial in s - t
    steps = [
        finite_kernel(*finite_coefficients(case.kappa(t), case.kappa(t + n * h)), w_hat) for n in range(degree + 1)
    ]
    assert (slope(steps, h) == case.velocity(t)).all()


def test_stay_multiplies_over_times_only_while_ell_is_constant() -> None:
    def stay(t: Fraction, s: Fraction) -> Any:
        return finite_coefficients(switching().kappa(t), switching().kappa(s)).stay[0]

    t, r, s = F(2, 5), F(2, 3), F(19, 20)
    assert stay(t, r) == stay(t, F(1, 2)) * stay(F(1, 2), r)
    assert stay(r, s) == stay(r, F(4, 5)) * stay(F(4, 5), s)
    assert (round(float(stay(t, s)), 5), round(float(stay(t, r) * stay(r, s)), 5)) == (0.00326, 0.00212)


@oracle
@given(cases(), before_one, st.fractions(F(1, 20), 3, max_denominator=20))
def test_the_clipped_step_is_euler_s_up_to_its_bound_and_always_a_pmf(case: Case, t: Fraction, h: Fraction) -> None:
    a, b, _ = coefficients(case.kappa(t), case.kappa_dot(t))
    w_hat, _ = posteriors(case.problem, case.kappa(t))
    c, stay = clipped_coefficients(a, b, h)
    kernel = finite_kernel(c, stay, w_hat)
    assert (1 - stay == np.minimum(1, -h * b)).all()  # the probability of an event
    assert (c * -b[:, None] == a * (1 - stay)[:, None]).all()  # then a redraw from a^j / |b|
    assert (kernel >= 0).all()
    assert (kernel.sum(axis=-1) == 1).all()
    fits = -h * b <= 1
    assert (kernel[fits] == euler_kernel(velocity(a, b, w_hat), h)[fits]).all()


def test_the_raw_euler_step_is_negative_beyond_its_bound() -> None:
    u = uniform().velocity(F(1, 2))
    assert (euler_kernel(u, F(1, 2)) >= 0).all()
    assert (euler_kernel(u, F(2)) < 0).any()
    assert (euler_kernel(u, F(2)).sum(axis=-1) == 1).all()


@oracle
@given(cases(), before_one)
def test_a_joint_kernel_draws_the_tokens_independently(case: Case, t: Fraction) -> None:
    c, stay = finite_coefficients(case.kappa(t), case.kappa((1 + t) / 2))
    kernel = finite_kernel(c, stay, posteriors(case.problem, case.kappa(t)).w_hat)
    s, K = states(kernel.shape[-1], len(kernel)), joint_kernel(kernel)
    for x, z in cartesian(range(len(s)), repeat=2):
        assert K[x, z] == prod(kernel[i, z, s[x, i]] for i in range(len(kernel)))


def steps(case: Case, count: int) -> Table:
    """The laws of `count` finite steps with the exact posteriors, from p_0 to t = 1."""

    def kernel(t: Fraction, s: Fraction) -> Table:
        c, stay = finite_coefficients(case.kappa(t), case.kappa(s))
        return joint_kernel(finite_kernel(c, stay, posteriors(case.problem, case.kappa(t)).w_hat))

    grid = [F(n, count) for n in range(count + 1)]
    return propagate(marginal(case.problem, case.kappa(F(0))), [kernel(t, s) for t, s in pairwise(grid)])


def test_masked_steps_are_exact_for_one_token_and_err_in_parallel_for_two() -> None:
    one = mixture(prompted(exact(["1/3", "2/3", 0]), exact([[0, 0, 1]]), np.array([False])), [(0, 0, 1)], 3)
    laws = steps(one, 3)
    assert [law.tolist() for law in laws] == [marginal(one.problem, one.kappa(F(n, 3))).tolist() for n in range(4)]
    two = masked()
    q = two.pi.sum(axis=0)
    errors = [total_variation(steps(two, count)[-1], q) for count in (1, 2, 4)]
    assert errors[0] == 2 * errors[1] == 4 * errors[2] == F(7, 32)  # both unmask at once with probability 1 / steps


def test_total_variation() -> None:
    p = exact([[1, 0, 0], ["1/2", "1/2", 0]])
    assert total_variation(p, exact([0, 0, 1])).tolist() == [1, 1]
    assert total_variation(p[0], p[1]) == F(1, 2)


# Likelihoods


def masked_model(q: Table | None, length: int, seed: int = 0) -> Table:
    """p_hat[N, S, 3] in fractions beside the mask 2: the posterior of q[2**N], or a wrong one."""
    data, rng = states(2, length), np.random.default_rng(seed)
    p_hat = exact(np.zeros((length, 3**length, 3), dtype=int))
    for k, z in enumerate(states(3, length)):
        fits = ((data == z) | (z == 2)).all(axis=-1)
        for i in range(length):
            weights = (
                exact(rng.integers(1, 5, 2))
                if q is None
                else np.array([q[fits & (data[:, i] == v)].sum() for v in (0, 1)])
            )
            p_hat[i, k, :2] = weights / weights.sum() if weights.sum() else F(1, 2)
    return p_hat


def at_data(length: int) -> Table:
    return states(2, length) @ 3 ** np.arange(length)[::-1]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_any_order_law_is_the_mean_over_orders_and_q_for_the_posterior(length: int) -> None:
    q = exact(np.random.default_rng(length).integers(0, 4, 2**length) + np.eye(1, 2**length, dtype=int)[0])
    q = q / q.sum()
    law = any_order_law(masked_model(q, length), 2)
    assert np.all(law[at_data(length)] == q) and law.sum() == 1
    p_hat = masked_model(None, length)
    law, place = any_order_law(p_hat, 2), 3 ** np.arange(length)[::-1]
    assert law.sum() == 1
    for x, k in zip(states(2, length), at_data(length), strict=True):
        orders, total = list(permutations(range(length))), F(0)
        for order in orders:
            z, chance = np.full(length, 2), F(1)
            for i in order:
                chance *= p_hat[i, z @ place, x[i]]
                z[i] = x[i]
            total += chance / len(orders)
        assert law[k] == total


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_any_order_bound_is_the_sum_over_subsets_above_the_law_and_meets_it_for_the_posterior(length: int) -> None:
    q = exact(np.random.default_rng(length).integers(1, 4, 2**length))
    q, here = q / q.sum(), at_data(length)
    np.testing.assert_allclose(any_order_bound(masked_model(q, length), 2)[here], -np.log(q.astype(float)))
    p_hat = masked_model(None, length)
    bound = any_order_bound(p_hat, 2)
    assert np.all(bound[here] >= -np.log(any_order_law(p_hat, 2)[here].astype(float)) - 1e-12)
    assert np.all(np.isposinf(np.delete(bound, here)))
    for x, k in zip(states(2, length), here, strict=True):
        total = 0.0
        for hidden in states(2, length)[1:].astype(bool):
            z, n = np.where(hidden, 2, x) @ 3 ** np.arange(length)[::-1], int(hidden.sum())
            share = 1 / (n * comb(length, n))
            total -= share * sum(np.log(float(p_hat[i, z, x[i]])) for i in range(length) if hidden[i])
        assert bound[k] == pytest.approx(total)


@settings(max_examples=25, deadline=None)
@given(case=cases(), T=st.sampled_from([0.3, 0.8]))
def test_evolve_carries_p_0_to_p_t_by_the_exact_velocity(case: Case, T: float) -> None:
    """To 1e-6 alone, for the velocity of some schedules has kinks; smooth ones: the next test."""
    pi = case.problem._replace(pi=case.problem.pi.astype(float), w=case.problem.w.astype(float))
    exactly = Case(case.pi, pi, case.coef.astype(float))
    law = evolve(lambda t: generator(exactly.velocity(t)), marginal(pi, exactly.kappa(0.0)), np.linspace(0, T, 41))
    np.testing.assert_allclose(law[-1], marginal(pi, exactly.kappa(T)), atol=1e-5)
    np.testing.assert_allclose(law[20], marginal(pi, exactly.kappa(T / 2)), atol=1e-5)


def test_evolve_is_accurate_for_smooth_rates_and_up_to_a_singular_end() -> None:
    Q = np.array([[-2.0, 1.0], [2.0, -1.0]])  # to 1/3, 2/3 at rate 3
    p = np.array([0.9, 0.1])
    law = evolve(lambda t: np.cos(3 * t) * Q, p, np.linspace(0, 1, 5))
    np.testing.assert_allclose(law[:, 0] - 1 / 3, (0.9 - 1 / 3) * np.exp(-np.sin(3 * np.linspace(0, 1, 5))), rtol=1e-13)
    exact_end = 1 / 3 + (0.9 - 1 / 3) * np.exp(3 - 3 * np.e)
    errors = [abs(evolve(lambda t: np.exp(t) * Q, p, [0.0, 1.0], stages=k)[1, 0] - exact_end) for k in (2, 4, 8)]
    assert errors[0] > 1e-3 > errors[1] > 1e-6 > errors[2]
    assert np.all(np.isfinite(evolve(lambda t: Q / (1 - t), p, [0.5, 1.0])))


def test_divergences() -> None:
    rng = np.random.default_rng(2)
    u, v = rng.uniform(0.1, 2, (2, 2, 4, 2))
    moves = 1 - delta(states(2, 2).T, 2)
    by_hand = (moves * (u * np.log(u / v) - u + v)).sum(axis=(0, 2))
    np.testing.assert_allclose(path_divergence(u, v), by_hand)
    assert np.all(path_divergence(u, u) == 0) and np.all(by_hand > 0)
    sparse = v * (rng.uniform(size=v.shape) < 0.5)
    np.testing.assert_allclose(path_divergence(0 * u, sparse), (moves * sparse).sum(axis=(0, 2)))
    assert np.array_equal(np.isinf(path_divergence(u, sparse)), (moves * (sparse == 0)).any(axis=(0, 2)))
    pi = rng.dirichlet(np.ones(16)).reshape(4, 4)
    p, q = pi.sum(axis=1), pi.sum(axis=0)
    information = np.sum(pi * np.log(pi / np.outer(p, q)))
    assert prior_divergence(pi, p) @ q == pytest.approx(information) and information > 0
    np.testing.assert_allclose(prior_divergence(np.outer(p, q), p), 0, atol=1e-15)
    assert np.all(prior_divergence(np.eye(4) / 4, np.full(4, 1 / 4)) == pytest.approx(np.log(4)))


# Laws of which the library has no function of its own


@pytest.mark.parametrize(("vocab_size", "length"), [(2, 1), (3, 2), (2, 3)])
def test_the_point_mass_of_a_state_is_the_product_of_those_of_its_tokens(vocab_size: int, length: int) -> None:
    s = states(vocab_size, length)
    assert np.array_equal(product(delta(s, vocab_size)), (s[:, None] == s).all(axis=-1))


def test_the_posterior_of_x_1_does_not_say_that_of_x_0_nor_do_both_average_to_the_state() -> None:
    """Two couplings of one token with the same p_{1|t} at both states at t = 1/2, and another p_{0|t}."""
    components, kappa = np.stack([at_x_0(2), at_x_1(2)]), exact([["1/2", "1/2"]])
    tables = [exact([["1/6", "1/3"], ["1/3", "1/6"]]), exact([["1/15", "4/15"], ["2/5", "4/15"]])]
    (one_0, one_1), (other_0, other_1) = (posteriors(enumerate_pairs(pi, components), kappa).w_hat for pi in tables)
    assert (one_1 == other_1).all()
    assert (one_0 != other_0).all()
    assert ((one_0 + one_1) / 2 != delta(states(2, 1).T, 2)).all()


@pytest.mark.parametrize("t", [F(1, 5), F(1, 2), F(9, 10)])
def test_the_source_in_place_of_the_noise_posterior_goes_back_for_an_independent_coupling_alone(t: Fraction) -> None:
    pi = exact([["1/2", 0, 0, 0], [0, 0, 0, "1/8"], ["3/8", 0, 0, 0], [0, 0, 0, 0]])
    for case, right in ((uniform(), True), (mixture(pi, [(0, 1, 0), (0, 0, 1)], 2), False)):
        p_0 = case.pi.sum(axis=1).reshape(2, 2)
        source = np.stack([p_0.sum(axis=1), p_0.sum(axis=0)])[:, None]
        rate = (case.kappa_dot(t)[:, 1] / case.kappa(t)[:, 1])[:, None, None]
        fixed_p = rate * (delta(states(2, 2).T, 2) - source)
        a, b, _ = coefficients(case.kappa(t), -case.kappa_dot(t))
        back = -velocity(a, b, posteriors(case.problem, case.kappa(t)).w_hat)
        assert (case.residual(t, back) == 0).all()
        assert (fixed_p != back).any()
        assert (case.residual(t, fixed_p) == 0).all() == right


@pytest.mark.parametrize("t", [0.3, 0.8])
def test_a_mask_chain_free_of_time_is_one_matrix_and_reveals_sets_by_kappa_and_in_any_order(t: float) -> None:
    """Q_s = c(s) A, so p_t = expm(-log(1 - kappa_t) A) p_0; kappa_t = t^2, and three tokens."""
    linalg = pytest.importorskip("scipy.linalg")
    p_hat, kappa, s, place = masked_model(None, 3).astype(float), t**2, states(3, 3), 3 ** np.arange(3)[::-1]
    rates = np.where((s == 2).T[..., None], p_hat - delta(s.T, 3), 0.0)
    start = delta(np.array(26), 27).astype(float)
    law = evolve(lambda u: 2 * u / (1 - u**2) * generator(rates), start, np.linspace(0, t, 9))[-1]
    np.testing.assert_allclose(linalg.expm(-np.log(1 - kappa) * generator(rates)) @ start, law, atol=1e-12)
    for x, p in zip(s, law, strict=True):
        seen, total = np.flatnonzero(x < 2), 0.0
        orders = list(permutations(seen.tolist()))
        for order in orders:
            z, chance = np.full(3, 2), 1.0
            for i in order:
                chance *= p_hat[i, z @ place, x[i]]
                z[i] = x[i]
            total += chance / len(orders)
        assert p == pytest.approx(kappa ** len(seen) * (1 - kappa) ** (3 - len(seen)) * total, rel=1e-10)
