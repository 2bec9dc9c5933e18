"""Remasking keeps the path, at rates and in steps, exactly; confidence ordering keeps no law, as its name says."""

from fractions import Fraction
from functools import partial
from itertools import pairwise, product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, backend, follows, index, logits, schedule

from dfm_ref import random, remasking, transitions, velocities
from dfm_ref.paths import Mixture
from dfm_ref.remasking import (
    capped,
    fixed,
    inexact_confidence_remasking,
    inexact_confidence_step,
    most,
    rescaled,
    step,
    transition,
)
from dfm_ref.samplers import finite_step, simulate
from dfm_ref.schedules import Cosine, Linear, PerToken, Polynomial
from dfm_ref.verify import oracle

KEY = random.key(6)
V = 4
PATHS = {
    "linear": Mixture(mask=V - 1),
    "cosine": Mixture(Cosine(), mask=V - 1),
    "per token": Mixture(PerToken((Polynomial(2.0), Linear(), Cosine())), mask=V - 1),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
every_rule = pytest.mark.parametrize("rule", [capped, rescaled])
every_step = pytest.mark.parametrize("move", [partial(step, strength=0.6), inexact_confidence_step], ids=["re", "conf"])


@st.composite
def problems(draw):
    """A mask path over one or two tokens, the third token the mask: the path, its pairs, its control points."""
    length, level = draw(st.sampled_from([1, 2])), st.integers(0, 4)
    shared = draw(st.booleans())
    inner = [sorted(draw(st.tuples(level, level))) for _ in range(1 if shared else length)]
    kappa = oracle.exact([[0, Fraction(a, 4), Fraction(b, 4), 1] for a, b in inner])
    control = np.broadcast_to(np.stack([1 - kappa, kappa], -1).swapaxes(0, 1), (4, length, 2))
    data = np.flatnonzero((oracle.states(3, length) < 2).all(-1))
    weights = draw(st.lists(st.integers(0, 3), min_size=len(data), max_size=len(data)).filter(any))
    q = oracle.exact([0] * 3**length)
    q[data] = oracle.exact(weights) / sum(weights)
    pi = oracle.prompted(q, oracle.delta(np.full(length, 2), 3), np.zeros(length, bool))
    problem = oracle.enumerate_pairs(pi, np.stack([oracle.at_x_0(3), oracle.at_x_1(3)]))
    return Mixture(schedule(control), mask=2), problem, control


def bernstein(control, t):
    n = len(control) - 1
    return sum(comb(n, k) * t**k * (1 - t) ** (n - k) * control[k] for k in range(n + 1))


def bernstein_dot(control, t):
    return 3 * bernstein(control[1:] - control[:-1], t)


def reveal_or_hide(problem, kappa, reveals, hides, stay):
    """stay delta + reveals (w_hat - delta) at hidden tokens + hides (delta_mask - delta) at others, [N, S, d]."""
    w_hat, length = oracle.posteriors(problem, kappa).w_hat[1], len(kappa)
    z = oracle.states(3, length).T
    here, to_mask = oracle.delta(z, 3), oracle.delta(np.array(2), 3)
    hidden = (z == 2)[..., None]
    moved = np.where(hidden, reveals[:, None, None] * (w_hat - here), hides[:, None, None] * (to_mask - here))
    return stay * here + moved


inside = st.sampled_from([Fraction(k, 8) for k in range(1, 8)])
rates = st.sampled_from([Fraction(0), Fraction(1, 3), Fraction(5)])


@settings(max_examples=60)
@given(case=problems(), t=inside, rate=rates)
def test_remasking_at_any_rate_solves_the_kolmogorov_equation_without_a_rest(case, t, rate):
    path, problem, control = case
    kappa, kappa_dot = bernstein(control, t), bernstein_dot(control, t)
    reveals = (kappa_dot[:, 1] + rate * kappa[:, 1]) / kappa[:, 0]
    u = reveal_or_hide(problem, kappa, reveals, np.full(len(kappa), rate), 0)
    p, p_dot = oracle.marginal(problem, kappa), oracle.marginal_dot(problem, kappa, kappa_dot)
    assert not np.any(oracle.kolmogorov_residual(p_dot, oracle.generator(u), p))

    states, (w_hat, reachable) = oracle.states(3, len(kappa)), oracle.posteriors(problem, kappa)
    probs_1 = np.swapaxes(w_hat[1], 0, 1).astype(np.float64)
    ours = remasking.velocity(path, probs_1, states, float(t), rate=float(rate))
    exact = np.swapaxes(u, 0, 1).astype(np.float64)[reachable]
    np.testing.assert_allclose(ours[reachable], exact, rtol=1e-12, atol=1e-12)
    residual = oracle.kolmogorov_residual(
        p_dot.astype(float), oracle.generator(np.swapaxes(ours, 0, 1)), p.astype(float)
    )
    np.testing.assert_allclose(residual, 0, atol=1e-12 * (1 + np.abs(ours).max()))


@settings(max_examples=60)
@given(
    case=problems(),
    t=inside,
    s=inside | st.just(Fraction(1)),
    share=st.sampled_from([Fraction(k, 3) for k in range(4)]),
)
def test_given_the_data_a_step_carries_the_path_from_t_to_s_without_a_rest(case, t, s, share):
    path, problem, control = case
    if t >= s:
        return
    before, after = bernstein(control, t), bernstein(control, s)
    top = np.array(
        [min(Fraction(1), b / a) if a else Fraction(1) for a, b in zip(before[:, 1], after[:, 0], strict=True)]
    )
    sigma = share * top
    rho = (after[:, 1] - before[:, 1] * (1 - sigma)) / before[:, 0]
    assert np.all((rho >= 0) & (rho <= 1))
    for pair in range(len(problem.pi)):
        one = oracle.Problem(
            *(table[pair : pair + 1] for table in problem[:2]), oracle.exact([1]), problem.w[pair : pair + 1]
        )
        kernel = oracle.joint_kernel(reveal_or_hide(one, before, rho, sigma, 1))
        assert np.array_equal(kernel @ oracle.marginal(one, before), oracle.marginal(one, after))

    states, times = oracle.states(3, len(before)), (np.array([[float(t)]]), np.array([[float(s)]]))
    np.testing.assert_allclose(
        np.broadcast_to(most(path.schedule, *times), (1, len(top)))[0], top.astype(float), rtol=1e-14
    )
    w_hat, reachable = oracle.posteriors(problem, before)
    law = transition(path, np.swapaxes(w_hat[1], 0, 1).astype(float), states, float(t), float(s), strength=float(share))
    exact = np.swapaxes(reveal_or_hide(problem, before, rho, sigma, 1), 0, 1).astype(float)
    np.testing.assert_allclose(law[reachable], exact[reachable], rtol=0, atol=1e-12)
    np.testing.assert_allclose(law.sum(-1), 1, rtol=1e-14)
    assert np.all(law >= 0)


def test_more_remasking_than_the_bound_would_need_a_probability_above_1():
    t, s = np.array([0.5]), np.array([0.8])
    (top,) = most(Linear(), t, s)
    for extra, fits in ((0.0, True), (0.01, False)):
        rho = (0.8 - 0.5 * (1 - (top + extra))) / 0.5
        assert (rho <= 1 + 1e-12) == fits
    assert remasking.reveal_probability(Linear(), t, s, top).tolist() == [1.0]


@every_path
@every_rule
def test_the_rules_are_ordered_and_end_without_remasking(path, rule):
    t, s = np.linspace(0, 0.99, 50)[:, None], np.linspace(0.01, 1, 50)[:, None]
    top = most(path.schedule, t, s)
    assert np.all((top >= 0) & (top <= 1))
    assert np.all(top[-1] == 0)
    assert np.all(top[0] == 1)
    sigma = rule(path.schedule, t, s, strength=0.3)
    assert np.array_equal(sigma, np.minimum(0.3, top) if rule is capped else 0.3 * top)
    assert np.array_equal(rule(path.schedule, t, s, strength=1.0), top)
    assert not np.any(rule(path.schedule, t, s, strength=0.0))
    assert np.array_equal(fixed(path.schedule, t[:9], s[:9], strength=0.3), np.full_like(top[:9], 0.3))


def posteriors(path, seed=0):
    """probs_1 of some states, the mask impossible."""
    rng = np.random.default_rng(seed)
    x_t = rng.integers(0, V, (30, 3))
    data = rng.dirichlet(np.ones(V - 1), (30, 3))
    probs_1 = np.concatenate([data, np.zeros((30, 3, 1))], -1)
    return np.where((x_t == V - 1)[..., None], probs_1, oracle.delta(x_t, V)), x_t


@every_path
def test_the_rate_form_is_the_corrected_velocity_and_the_limit_of_steps(path):
    probs_1, x_t = posteriors(path)
    t, rate, h = np.linspace(0.1, 0.9, 30), np.linspace(0.0, 4.0, 30), 1e-6
    u = remasking.velocity(path, probs_1, x_t, t, rate=rate)
    kappa, kappa_dot = (
        np.broadcast_to(k[1], x_t.shape)
        for k in (path.schedule.kappas(t[:, None]), path.schedule.kappa_dots(t[:, None]))
    )
    beta = rate[:, None] * kappa / kappa_dot
    noise = np.broadcast_to(oracle.delta(np.array(V - 1), V), probs_1.shape).astype(float)
    for i in range(3):
        one = Mixture(path.schedule.schedules[i], mask=V - 1) if isinstance(path.schedule, PerToken) else path
        w = (noise[:, i : i + 1], probs_1[:, i : i + 1])
        b = beta[:, i : i + 1]
        exact = velocities.corrected(one, w, x_t[:, i : i + 1], t, alpha=1 + b, beta=b)
        np.testing.assert_allclose(u[:, i : i + 1], exact, rtol=1e-11, atol=1e-12)
    law = np.stack([
        transition(path, probs_1[k], x_t[k], t[k], t[k] + h, strength=rate[k] * h, rule=fixed) for k in range(30)
    ])  # fmt: skip
    np.testing.assert_allclose((law - oracle.delta(x_t, V)) / h, u, atol=1e-3)
    off = u * (1 - oracle.delta(x_t, V))
    assert np.all(off >= 0)
    np.testing.assert_allclose(u.sum(-1), 0, atol=1e-13)


@every_path
def test_without_strength_it_is_the_finite_step(path):
    probs_1, x_t = posteriors(path)
    t = np.linspace(0.0, 0.8, 30)
    law = transition(path, probs_1, x_t, t, t + 0.2, strength=0.0)
    np.testing.assert_allclose(law, transitions.finite(path, probs_1, x_t, t, t + 0.2), rtol=0, atol=1e-15)
    model = table_model(scores())
    for rule in (capped, rescaled, fixed):
        x_s = step(path, model, KEY, x_t, t, t + 0.2, strength=0.0, rule=rule, keep=x_t == 1, first=3)
        assert np.array_equal(x_s, finite_step(path, model, KEY, x_t, t, t + 0.2, keep=x_t == 1, first=3))


# Draws


def scores(seed=0):
    """Logits of every state, float64[S, N, V]."""
    return np.random.default_rng(seed).normal(size=(V**3, 3, V))


def table_model(table, asarray=np.asarray):
    def model(x_t, t):
        assert t.shape == x_t.shape[:1]
        return asarray(table[index(np.asarray(x_t), table.shape[-1])])

    return model


class Lazy:
    def __init__(self, table, asked):
        self.table, self.asked = table, asked

    def at(self, x_t, t, sites):
        self.asked.append(np.asarray(sites))
        rows = self.table[index(x_t, V)]
        return rows.reshape(-1, V)[sites]


def data_probs(table):
    weights = np.exp(table) * (np.arange(V) < V - 1)
    return weights / weights.sum(-1, keepdims=True)


@every_path
@every_rule
def test_a_step_from_every_state_follows_its_law(path, rule):
    """Sees a coin reused for the value, reveals and hides swapped, another rho or sigma, one coin for all tokens."""
    rows, states, table = 3000, oracle.states(V, 3), scores()
    law = transition(path, data_probs(table), states, 0.5, 0.7, strength=0.5, rule=rule)
    kernel = oracle.joint_kernel(np.swapaxes(law, 0, 1))
    x_t = np.repeat(states, rows, 0)
    x_s = index(step(path, table_model(table), KEY, x_t, 0.5, 0.7, strength=0.5, rule=rule), V)
    for z in range(len(states)):
        assert follows(x_s[z * rows : (z + 1) * rows], kernel[:, z], alpha=1e-8)


QUADRATIC = Mixture(Polynomial(2.0), mask=2)


def correlated(shares=(0.5, 0.1, 0.4)):
    """Two correlated tokens, the third the mask: q, and the posterior of x_1 at every state, float64[S, N, V]."""
    q = np.zeros(9)
    q[[0, 1, 4]] = shares
    pi = oracle.prompted(q, np.broadcast_to(np.eye(3)[2], (2, 3)), np.zeros(2, bool))
    problem = oracle.enumerate_pairs(pi, np.stack([oracle.at_x_0(3), oracle.at_x_1(3)]))
    w_hat = oracle.posteriors(problem, np.full((2, 2), 0.5)).w_hat  # of a mask path: the same at every time
    return q, np.swapaxes(w_hat[1], 0, 1)


@every_rule
def test_many_steps_follow_the_chain_of_laws(rule):
    _, probs_1 = correlated()
    grid, states = [0.0, 0.4, 0.6, 0.8, 1.0], oracle.states(3, 2)

    def kernel(t, s):
        law = transition(QUADRATIC, probs_1, states, t, s, strength=0.7, rule=rule)
        return oracle.joint_kernel(np.swapaxes(law, 0, 1))

    laws = oracle.propagate(np.eye(9)[8], [kernel(*ends) for ends in pairwise(grid)])
    move = partial(step, QUADRATIC, table_model(logits(probs_1)), strength=0.7, rule=rule)
    frames = simulate(move, KEY, np.full((30_000, 2), 2), grid, frames=True)
    for x_t, law in zip(frames, laws, strict=True):
        assert follows(index(x_t, 3), law)
    assert np.any((frames[1:-1] == 2) & (frames[:-2] != 2))


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_one_token_keeps_its_law_at_every_time_whatever_the_strength(strength):
    q, states = np.array([0.2, 0.5, 0.3, 0.0]), np.arange(4)[:, None]
    path = PATHS["cosine"]
    probs_1 = np.where((states == 3)[..., None], q, oracle.delta(states, 4))
    p = np.eye(4)[3]
    for t, s in pairwise([0.0, 0.3, 0.5, 0.9, 1.0]):
        p = transition(path, probs_1, states, t, s, strength=strength)[:, 0].T @ p
        kappa = Cosine().kappa(s)
        np.testing.assert_allclose(p, kappa * q + (1 - kappa) * np.eye(4)[3], atol=1e-14)


def test_with_the_exact_posterior_remasking_costs_accuracy_and_at_full_strength_half_an_order():
    """Parallel draws are the only error, and remasking makes more: of order 1 at a fixed rate, 1/2 at the highest."""
    q, probs_1 = correlated((0.5, 0.0, 0.5))
    states = oracle.states(3, 2)

    def error(steps, strength, rule=rescaled):
        kernels = [
            oracle.joint_kernel(
                np.swapaxes(transition(QUADRATIC, probs_1, states, *e, strength=strength, rule=rule), 0, 1)
            )
            for e in pairwise(np.linspace(0, 1, steps + 1).tolist())
        ]
        return oracle.total_variation(oracle.propagate(np.eye(9)[8], kernels)[-1], q)

    by_strength = [error(16, strength) for strength in (0.0, 0.1, 0.5, 1.0)]
    assert np.all(np.diff(by_strength) > 0.1 * by_strength[0])
    orders = [
        np.log2(error(128, *rule(128)) / error(256, *rule(256)))
        for rule in (lambda k: (0.0,), lambda k: (2 / k, capped), lambda k: (1.0,))
    ]
    np.testing.assert_allclose(orders, [1.0, 1.0, 0.5], atol=0.12)


@every_step
@every_path
def test_tokens_are_the_same_in_any_batch_and_a_prompt_never_moves(path, move):
    rng, table, asked = np.random.default_rng(3), scores(), []
    x_t = np.where(rng.uniform(size=(40, 3)) < 0.6, V - 1, rng.integers(0, V - 1, (40, 3)))
    keep, t = rng.uniform(size=x_t.shape) < 0.3, np.linspace(0.1, 0.7, 40)
    run = partial(move, path)
    x_s = run(table_model(table), KEY, x_t, t, t + 0.2, keep=keep, first=9)
    assert np.any((x_s != x_t) & (x_t == V - 1))
    assert np.array_equal(x_s[keep], x_t[keep])
    part = slice(11, 25)
    again = run(table_model(table), KEY, x_t[part], t[part], t[part] + 0.2, keep=keep[part], first=20)
    assert np.array_equal(x_s[part], again)
    assert np.array_equal(x_s, run(Lazy(table, asked), KEY, x_t, t, t + 0.2, keep=keep, first=9))
    moved = np.flatnonzero((x_s != x_t) & (x_t == V - 1))
    wanted = np.flatnonzero((x_t == V - 1) & ~keep) if move is inexact_confidence_step else moved
    assert np.array_equal(np.concatenate(asked), wanted)
    end = run(table_model(table), KEY, x_t, t, 1.0, keep=keep)
    assert np.array_equal(end == V - 1, keep & (x_t == V - 1))
    assert np.array_equal(end[x_t != V - 1], x_t[x_t != V - 1])
    assert np.array_equal(run(table_model(table), KEY, x_t, 0.2, 0.5, keep=np.ones_like(keep)), x_t)


# Confidence


def confident(probs_1, t, s):
    """The kernel of the confidence step on a linear path, [S, S], by listing every draw of every hidden token."""
    size, length = probs_1.shape[2], probs_1.shape[1]
    states = oracle.states(size, length)
    kernel = np.zeros((len(states),) * 2)
    for z, x in enumerate(states):
        hidden = np.flatnonzero(x == size - 1)
        expected = len(hidden) * (s - t) / (1 - t)
        for drawn in product(range(size - 1), repeat=len(hidden)):
            p = probs_1[z, hidden, list(drawn)] if len(hidden) else np.ones(0)
            order = sorted(range(len(hidden)), key=lambda k: (-p[k], k))
            for number, share in ((int(expected), 1 - expected % 1), (int(expected) + 1, expected % 1)):
                y = x.copy()
                for k in order[:number]:
                    y[hidden[k]] = drawn[k]
                kernel[index(y, size), z] += share * np.prod(p)
    return kernel


def test_the_confidence_step_follows_its_own_law_and_not_that_of_the_data():
    """Two correlated tokens, one a step, exact posterior: an order chosen beforehand would give the data's law."""
    q, probs_1 = correlated((0.7, 0.1, 0.2))
    path, grid = Mixture(mask=2), [0.0, 0.3, 0.5, 1.0]
    laws = oracle.propagate(np.eye(9)[8], [confident(probs_1, *ends) for ends in pairwise(grid)])
    move = partial(inexact_confidence_step, path, table_model(logits(probs_1)))
    frames = simulate(move, KEY, np.full((30_000, 2), 2), grid, frames=True)
    for x_t, law in zip(frames, laws, strict=True):
        assert follows(index(x_t, 3), law)

    one_by_one = oracle.propagate(np.eye(9)[8], [confident(probs_1, *ends) for ends in pairwise([0.0, 0.5, 1.0])])[-1]
    assert oracle.total_variation(one_by_one, q) > 0.05
    x_1 = simulate(move, KEY, np.full((30_000, 2), 2), [0.0, 0.5, 1.0])
    assert follows(index(x_1, 3), one_by_one)
    assert not follows(index(x_1, 3), q)


def test_the_number_revealed_is_what_the_schedule_expects_and_ties_go_to_the_first():
    path, x_t = PATHS["linear"], np.full((4000, 3), V - 1)
    x_s = inexact_confidence_step(path, lambda x_t, t: np.zeros((*x_t.shape, V)), KEY, x_t, 0.0, 0.5)
    shown = x_s != V - 1
    assert np.all(shown[:, 0])
    assert not np.any(shown[:, 2])
    assert follows(shown[:, 1].astype(int), [0.5, 0.5])


def test_the_surest_draws_are_revealed():
    table = np.log([[0.5, 0.25, 0.25, 1e-300], [0.02, 0.96, 0.02, 1e-300], [0.1, 0.1, 0.8, 1e-300]])
    x_t = np.full((500, 3), V - 1)
    x_s = inexact_confidence_step(
        PATHS["linear"], lambda x_t, t: np.tile(table, (len(x_t), 1, 1)), KEY, x_t, 0.0, 1 / 3
    )
    assert np.all((x_s != V - 1).sum(-1) == 1)
    rare = x_s[:, 1] != 1  # the middle token, when it drew its likely value, wins
    assert 0 < rare.sum() < 40
    assert not np.any(x_s[:, 1] % 2 == 0)


def test_with_equal_confidence_it_is_remasking_and_with_one_token_exact():
    x_0, grid = np.full((50, 3), V - 1), [0.0, 0.3, 0.6, 0.8, 1.0]
    even = np.zeros((V**3, 3, V))
    for path in PATHS.values():
        move = partial(step, path, table_model(even), strength=0.5, rule=capped, first=4)
        ours = simulate(move, KEY, x_0, grid, frames=True)
        run = partial(inexact_confidence_remasking, path, table_model(even), KEY, x_0, grid, strength=0.5, rule=capped)
        np.testing.assert_array_equal(run(frames=True, first=4), ours)
        np.testing.assert_array_equal(run(first=4), ours[-1])


def test_remasking_by_confidence_keeps_the_share_revealed_and_not_the_law_of_the_data():
    """Two independent tokens, where steps in parallel are exact: what is wrong is the order's fault alone."""
    q, rows, grid = np.array([0.9, 0.1]), 30_000, [0.0, *np.linspace(0.6, 0.7, 9).tolist()]
    path, law = Mixture(mask=2), np.append(0.7 * q, 0.3)

    def model(x_t, t):
        return logits(np.broadcast_to(np.append(q, 0.0), (*x_t.shape, 3)))

    x_0 = np.full((rows, 2), 2)
    exact = simulate(partial(step, path, model, strength=0.7), KEY, x_0, grid)
    assert follows(index(exact, 3), np.outer(law, law).reshape(-1))
    ours = inexact_confidence_remasking(path, model, KEY, x_0, grid, strength=0.7)
    assert not follows(ours[:, 0], law)
    assert np.mean(ours == 1) < np.mean(exact == 1)
    assert abs(np.mean(ours == 2) - 0.3) < 0.01


def test_remasking_by_confidence_gives_the_same_tokens_in_any_batch_and_keeps_a_prompt():
    table, x_0, grid = scores(), np.full((30, 3), V - 1), [0.0, 0.4, 0.5, 0.6, 1.0]
    keep = np.random.default_rng(0).uniform(size=x_0.shape) < 0.3
    x_0[keep] = 1
    run = partial(inexact_confidence_remasking, PATHS["cosine"], key=KEY, times=grid, strength=0.8, frames=True)
    frames = run(table_model(table), x_0=x_0, keep=keep, first=7)
    assert np.all(frames[:, keep] == 1)
    assert np.all(frames[-1] != V - 1)
    assert np.any((frames[1:] == V - 1) & (frames[:-1] != V - 1))
    assert np.array_equal(frames, run(Lazy(table, []), x_0=x_0, keep=keep, first=7))
    part = slice(9, 20)
    assert np.array_equal(frames[:, part], run(table_model(table), x_0=x_0[part], keep=keep[part], first=16))
    with pytest.raises(ValueError, match="times"):
        inexact_confidence_remasking(PATHS["cosine"], table_model(table), KEY, x_0, [0.5, 0.4], strength=0.8)
    with pytest.raises(ValueError, match="keep"):
        inexact_confidence_remasking(PATHS["cosine"], table_model(table), KEY, x_0, grid, strength=0.8, keep=keep[:2])
    with pytest.raises(ValueError, match="path"):
        inexact_confidence_remasking(Mixture(), table_model(table), KEY, x_0, [0.4, 0.5], strength=0.8)


def test_no_probability_exceeds_1_by_rounding():
    t, s = np.sort(np.random.default_rng(0).uniform(size=(2, 20_000)), axis=0)
    for one in (Linear(), Cosine(), Polynomial(3.0)):
        rho = remasking.reveal_probability(one, t, s, most(one, t, s))
        assert np.all((rho >= 0) & (rho <= 1))


# Every library, and edges


@pytest.mark.parametrize("name", BACKENDS)
def test_every_library_gives_the_same_numbers_and_tokens(name):
    b, path, table = backend(name), PATHS["per token"], scores()
    probs_1, x_t = posteriors(path)
    x_t, t = x_t.astype(np.int32), np.linspace(0.1, 0.7, 30)
    arrays, keep = tuple(map(b.asarray, (probs_1, x_t, t))), x_t == 1
    u = remasking.velocity(path, *arrays, rate=2.0, keep=b.asarray(keep))
    np.testing.assert_allclose(
        b.to_numpy(u), remasking.velocity(path, probs_1, x_t, t, rate=2.0, keep=keep), atol=1e-13
    )
    law = transition(path, *arrays, b.asarray(t + 0.2), strength=0.5, rule=capped, keep=b.asarray(keep))
    ours = transition(path, probs_1, x_t, t, t + 0.2, strength=0.5, rule=capped, keep=keep)
    np.testing.assert_allclose(b.to_numpy(law), ours, atol=1e-15)
    assert b.to_numpy(law).dtype == np.float64
    if name == "jax":
        return  # it would compile anew for every number of events
    for move in (partial(step, strength=0.6), inexact_confidence_step):

        def model(x_t, t):
            return b.asarray(table[index(b.to_numpy(x_t), V)])

        x_s = move(path, model, KEY, b.asarray(x_t), 0.3, 0.6, keep=b.asarray(keep))
        assert b.to_numpy(x_s).dtype == np.int32
        assert np.array_equal(b.to_numpy(x_s), move(path, table_model(table), KEY, x_t, 0.3, 0.6, keep=keep))


def test_a_prompt_has_neither_rates_nor_transitions():
    probs_1, x_t = posteriors(PATHS["linear"])
    keep = np.random.default_rng(1).uniform(size=x_t.shape) < 0.5
    u = remasking.velocity(PATHS["linear"], probs_1, x_t, 0.5, rate=1.0, keep=keep)
    law = transition(PATHS["linear"], probs_1, x_t, 0.5, 0.6, strength=0.5, keep=keep)
    assert not np.any(u[keep])
    assert np.array_equal(law[keep], oracle.delta(x_t, V)[keep])
    assert np.all(np.any(u[~keep] != 0, -1))


@every_step
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (3, 0)])
def test_smallest_shapes(move, shape):
    x_t = np.full(shape, 1)
    x_s = move(Mixture(mask=1), lambda x_t, t: np.zeros((*x_t.shape, 2)), KEY, x_t, 0.0, 1.0)
    assert x_s.shape == shape
    assert not np.any(x_s)


@every_step
def test_arguments_stay_as_they_were(move):
    x_t = np.array([[3, 3, 0], [1, 3, 3]])
    keep, t, table = x_t == 1, np.array([0.1, 0.4]), scores()
    arguments = (x_t, keep, t, table)
    copies = [a.copy() for a in arguments]
    move(PATHS["linear"], table_model(table), KEY, x_t, t, 0.9, keep=keep)
    transition(PATHS["linear"], table[:2], x_t, t, 0.9, strength=0.5, keep=keep)
    assert all(np.array_equal(a, b) for a, b in zip(arguments, copies, strict=True))


X = np.array([[3, 0, 1], [3, 3, 2]])
PROBS = np.full((2, 3, V), 1 / V)


def plain(x_t, t):
    return np.zeros((*x_t.shape, V))


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("rule", [capped, rescaled, fixed])
def test_strengths_that_are_no_probabilities_raise(rule, strength):
    with pytest.raises(ValueError, match="strength"):
        step(PATHS["linear"], plain, KEY, X, 0.2, 0.5, strength=strength, rule=rule)
    with pytest.raises(ValueError, match="strength"):
        transition(PATHS["linear"], PROBS, X, 0.2, 0.5, strength=strength, rule=rule)


def test_a_fixed_strength_beyond_its_bound_raises():
    assert step(PATHS["linear"], plain, KEY, X, 0.5, 0.9, strength=0.2 - 1e-12, rule=fixed).shape == X.shape
    with pytest.raises(ValueError, match="sigma_max"):
        step(PATHS["linear"], plain, KEY, X, 0.5, 0.9, strength=0.21, rule=fixed)


@pytest.mark.parametrize("rate", [-1e-9, float("inf"), float("nan")])
def test_rates_that_are_negative_or_infinite_raise(rate):
    with pytest.raises(ValueError, match="rate"):
        remasking.velocity(PATHS["linear"], PROBS, X, 0.5, rate=rate)


def test_paths_without_a_mask_times_and_shapes_that_do_not_fit_raise():
    for call in (
        lambda: step(Mixture(), plain, KEY, X, 0.2, 0.5, strength=0.5),
        lambda: inexact_confidence_step(Mixture(), plain, KEY, X, 0.2, 0.5),
        lambda: transition(Mixture(), PROBS, X, 0.2, 0.5, strength=0.5),
        lambda: remasking.velocity(Mixture(), PROBS, X, 0.2, rate=0.5),
    ):
        with pytest.raises(ValueError, match="path"):
            call()
    for t in (1.0, float("nan")):
        with pytest.raises(ValueError, match="t:"):
            remasking.velocity(PATHS["linear"], PROBS, X, t, rate=0.5)
    for move in (partial(step, strength=0.5), inexact_confidence_step):
        for t, s in ((0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (0.5, 1.1), (np.full(3, 0.2), 0.5)):
            with pytest.raises(ValueError, match="t, s"):
                move(PATHS["linear"], plain, KEY, X, t, s)
        for keep in (np.ones((2, 2), bool), np.ones((2, 3), np.int64)):
            with pytest.raises(ValueError, match="keep"):
                move(PATHS["linear"], plain, KEY, X, 0.2, 0.5, keep=keep)
        with pytest.raises(ValueError, match="x_t"):
            move(PATHS["linear"], plain, KEY, X + 1, 0.2, 0.5)
        with pytest.raises(ValueError, match="model"):
            move(PATHS["linear"], lambda x_t, t: np.zeros((*x_t.shape, 2)), KEY, X, 0.2, 1.0)
    for call in (
        lambda: transition(PATHS["linear"], PROBS[..., :3], X, 0.2, 0.5, strength=0.5),
        lambda: transition(PATHS["linear"], PROBS[:1], X, 0.2, 0.5, strength=0.5),
        lambda: transition(PATHS["linear"], PROBS, X, 0.2, 0.5, strength=0.5, keep=np.ones((2, 1), bool)),
        lambda: remasking.velocity(PATHS["linear"], PROBS[..., :3], X, 0.2, rate=0.5),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
