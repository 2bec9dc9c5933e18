"""Bounds: the mean of the estimates is the enumerated bound, row by row, and the bound lies above the exact -log p."""

from itertools import pairwise, permutations, product
from math import factorial, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, SWITCHING, Case, backend, cases, index, logits

from dfm_ref import couplings, likelihoods, losses, paths, random, times
from dfm_ref.paths import X0, X1, Fixed, Mixture
from dfm_ref.schedules import Complement, Convex, Cosine, CubicHermite, Linear, PerToken, Polynomial
from dfm_ref.sources import Marginal, Masked, Uniform
from dfm_ref.velocities import forward
from dfm_ref.verify import oracle

KEY = random.key(4)
STATES = oracle.states(3, 2)
SHORT = np.array([[0, 1], [1, 1]])  # data of two tokens beside a mask
LONG = np.array([[0, 2], [2, 1], [1, 1]])


def model_of(seed, vocab_size=3, timed=True):
    """A wrong model whose posteriors depend on the whole state, and on time."""
    table, drift = np.random.default_rng(seed).normal(size=(2, vocab_size**2, 2, vocab_size))

    def model(x_t, t):
        at = index(x_t, vocab_size)
        return table[at] + (np.asarray(t)[:, None, None] * drift[at] if timed else 0.0)

    return model


def log_p(scores):
    return scores - np.log(np.sum(np.exp(scores), -1, keepdims=True))


def mask_integral(schedule, model, x_1):
    """int_0^1 E kappa_dot / (1 - kappa) sum over hidden tokens of -log p(x_1^i | x_t, t), in kappa, by quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(30)
    total = 0.0
    for kappa, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        t = float(schedule.inverse(np.array([kappa]))[0])
        for hidden in product([False, True], repeat=len(x_1)):
            x_t = np.where(hidden, 2, x_1)[None]
            p = log_p(model(x_t, np.array([t]))[0, :, :2])
            chance = kappa ** (len(x_1) - sum(hidden)) * (1 - kappa) ** sum(hidden)
            total -= w * chance / (1 - kappa) * sum(p[i, x_1[i]] for i in range(len(x_1)) if hidden[i])
    return total


def uniform_integral(path, pmf, model, x_1, T):
    """int_0^T E sum_i generalized_kl_i dt + E[-log p_{1|T}(x_1 | x_T)], x_t enumerated, t by quadrature in clock."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    clock = -log(path.schedule.one_minus_kappa(T))
    data = np.broadcast_to(x_1, STATES.shape)
    x_0 = np.stack([np.arange(3), np.arange(3)], -1)

    def chance(t):
        """p_t(x_t | x_1), the source averaged out token by token."""
        p = [
            pmf @ paths.pmf(path, x_0[:, [i]], np.full((3, 1), x_1[i]), t, vocab_size=3)[:, 0] for i in range(len(x_1))
        ]
        return np.multiply.outer(*p).ravel()

    total = -chance(T) @ np.sum(
        np.take_along_axis(log_p(model(STATES, np.full(len(STATES), T))), data[..., None], -1)[..., 0], -1
    )
    for x, w in zip(nodes, weights, strict=True):
        kappa = -np.expm1(-clock * (x + 1) / 2)
        t = float(path.schedule.inverse(np.array([kappa]))[0])
        rate = path.schedule.kappa_dot(t) / path.schedule.one_minus_kappa(t)
        running = losses.generalized_kl(path.schedule, model(STATES, np.full(len(STATES), t)), data, STATES, t)
        total += w * clock / 2 / rate * (chance(t) @ np.sum(running, -1))
    return total


def estimate(path, source, model, key, x_1, **options):
    """`bound` with x_0 from an independent coupling."""
    source_key, key = random.split(key)
    x_0 = couplings.independent(source, source_key, x_1).x_0
    return likelihoods.bound(path, model, key, x_0, x_1, **options)


def agrees(estimates, exact):
    """Whether the mean is within 5 standard errors: a false alarm of 6e-7 a row, and stratified draws err less."""
    return np.all(np.abs(estimates.mean(0) - exact) <= 5 * estimates.std(0) / np.sqrt(len(estimates)))


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Polynomial(2.0), CubicHermite(0.5, 1.0)], ids=repr)
@pytest.mark.parametrize("timed", [False, True])
def test_the_mean_of_mask_bound_is_the_integral(schedule, timed):
    model = model_of(1, timed=timed)
    for x_1 in SHORT:
        nats = likelihoods.mask_bound(Mixture(schedule, mask=2), model, KEY, np.tile(x_1, (20_000, 1)))
        assert nats.dtype == np.float64
        assert nats.shape == (20_000,)
        assert agrees(nats, mask_integral(schedule, model, x_1))


@pytest.mark.parametrize("source", [Uniform(3), Marginal((0.2, 0.5, 0.3))], ids=repr)
@pytest.mark.parametrize("schedule", [Linear(), Polynomial(2.0), CubicHermite(0.5, 1.0)], ids=repr)
def test_the_mean_of_bound_is_the_integral_and_the_last_draw(source, schedule):
    model, path, T = model_of(2), Mixture(schedule), 0.8
    for x_1 in LONG[:2]:
        nats = estimate(path, source, model, KEY, np.tile(x_1, (20_000, 1)), T=T)
        assert nats.dtype == np.float64
        assert agrees(nats, uniform_integral(path, source.pmf(), model, x_1, T))


def test_every_row_of_a_batch_is_unbiased_by_itself():
    """Sees times tied to the place in the batch: the first row would always be judged early, the last one late."""
    path, model = Mixture(mask=2), model_of(3)
    keys = random.split(KEY, 3000)
    estimates = np.stack([likelihoods.mask_bound(path, model, key, SHORT) for key in keys])
    assert agrees(estimates, [mask_integral(path.schedule, model, x_1) for x_1 in SHORT])
    path, source = Mixture(), Uniform(3)
    estimates = np.stack([estimate(path, source, model, key, LONG, T=0.7) for key in keys[:1500]])
    assert agrees(estimates, [uniform_integral(path, source.pmf(), model, x_1, 0.7) for x_1 in LONG])


def test_the_mask_bound_lies_above_the_exact_likelihood_and_meets_it_for_the_exact_posterior():
    """p(x) = mean over orders of prod p(x^i | those before) for a model free of time."""
    model, path = model_of(5, timed=False), Mixture(mask=2)

    def likelihood(model, x_1):
        total = 0.0
        for order in permutations(range(2)):
            x_t, value = np.full(2, 2), 1.0
            for i in order:
                value *= np.exp(log_p(model(x_t[None], np.zeros(1))[0, :, :2])[i, x_1[i]])
                x_t[i] = x_1[i]
            total += value / factorial(2)
        return total

    law = {x: likelihood(model, x) for x in product(range(2), repeat=2)}
    assert sum(law.values()) == pytest.approx(1.0)
    for x_1 in SHORT:
        assert mask_integral(path.schedule, model, x_1) > -log(law[tuple(x_1)])
    q = np.array([[0.4, 0.1], [0.2, 0.3]])
    given = [
        [q[0] / q[0].sum(), q[1] / q[1].sum(), q.sum(0)],
        [q[:, 0] / q[:, 0].sum(), q[:, 1] / q[:, 1].sum(), q.sum(1)],
    ]

    def posterior(x_t, t):
        return logits(np.array([[[*given[1][x[1]], 0.0], [*given[0][x[0]], 0.0]] for x in x_t]))

    x_1 = np.tile(SHORT[0], (40_000, 1))
    nats = likelihoods.mask_bound(path, posterior, KEY, x_1)
    assert agrees(nats, -log(q[0, 1]))


@pytest.mark.parametrize("name", BACKENDS)
def test_every_library_has_the_same_estimates(name):
    b, path = backend(name), Mixture(mask=2)
    x_1 = np.tile(SHORT, (8, 1))
    table = model_of(7)

    def model(x_t, t):
        return b.asarray(table(b.to_numpy(x_t), b.to_numpy(t)))

    ours = likelihoods.mask_bound(path, model, KEY, b.asarray(x_1))
    np.testing.assert_allclose(b.to_numpy(ours), likelihoods.mask_bound(path, table, KEY, x_1), rtol=1e-12)
    for path, T in ((Mixture(), 0.9), (THREE, 0.9), (Mixture(PerToken((Linear(), Cosine())), mask=2), 1.0)):
        wide = (lambda m: lambda x_t, t: (m(x_t, t), None, m(x_t, 0 * t))) if path == THREE else (lambda m: m)
        ours = likelihoods.bound(path, wide(model), KEY, b.asarray(0 * x_1 + 2), b.asarray(x_1), T=T)
        theirs = likelihoods.bound(path, wide(table), KEY, 0 * x_1 + 2, x_1, T=T)
        np.testing.assert_allclose(b.to_numpy(ours), theirs, rtol=1e-10)
    for exact in (likelihoods.any_order, likelihoods.any_order_bound):
        np.testing.assert_allclose(
            b.to_numpy(exact(model, b.asarray(SHORT), mask=2)), exact(table, SHORT, mask=2), rtol=1e-12
        )
    ours = likelihoods.importance_bound(path, model, KEY, b.asarray(x_1), orders=3)
    theirs = likelihoods.importance_bound(path, table, KEY, x_1, orders=3)
    np.testing.assert_allclose(b.to_numpy(ours), theirs, rtol=1e-12)


def test_a_hidden_token_that_the_model_holds_impossible_costs_infinity_and_a_known_one_nothing():
    def model(x_t, t):
        return np.broadcast_to(np.array([[-np.inf, 0.0, 0.0], [0.0, 0.0, 0.0]]), (*x_t.shape, 3))

    nats = likelihoods.mask_bound(Mixture(mask=2), model, KEY, np.tile(np.array([[0, 1]]), (100, 1)))
    assert set(np.isfinite(nats).tolist()) == {False, True}
    assert not np.any(np.isnan(nats))


def test_the_mask_itself_has_no_probability_whatever_its_logit():
    def model(x_t, t):
        return np.broadcast_to(np.array([0.0, 0.0, 50.0]), (*x_t.shape, 3))

    nats = likelihoods.mask_bound(Mixture(mask=2), model, KEY, SHORT)
    np.testing.assert_allclose(nats, 2 * log(2), rtol=1e-12)


def test_bits_are_nats_over_log_2_and_the_length():
    assert likelihoods.bits_per_token(np.array([log(2.0), 8 * log(2.0)]), 4).tolist() == pytest.approx([0.25, 2.0])


@pytest.mark.parametrize("rows", [0, 1])
def test_small_batches(rows):
    x_1 = SHORT[:rows]
    assert likelihoods.mask_bound(Mixture(mask=2), model_of(1), KEY, x_1).shape == (rows,)
    assert likelihoods.bound(Mixture(), model_of(1), KEY, x_1, x_1, T=0.5).shape == (rows,)
    assert likelihoods.importance_bound(Mixture(mask=2), model_of(1), KEY, x_1, orders=2).shape == (rows,)
    assert likelihoods.any_order(model_of(1, timed=False), x_1, mask=2).shape == (rows,)


def test_outside_their_domain_they_raise():
    three = Mixture(SWITCHING, (X0(), Fixed((0.5, 0.5, 0.0)), X1()))
    some = Mixture(Convex((Complement(Linear()), Linear())), mask=2)
    unsure, x_1 = model_of(1), SHORT
    for path, words in (
        (Mixture(), "path"),
        (some, "schedule"),
        (Mixture(PerToken((Linear(),) * 3), mask=2), "schedule"),
        (Mixture(PerToken((Linear(), Convex((Complement(Linear()), Linear())))), mask=2), "schedule"),
    ):
        with pytest.raises(ValueError, match=words):
            likelihoods.mask_bound(path, unsure, KEY, x_1)
        with pytest.raises(ValueError, match=words):
            likelihoods.importance_bound(path, unsure, KEY, x_1, orders=1)
    for path, T in (
        (Mixture(), 1.0),
        (Mixture(), 0.0),
        (Mixture(), float("nan")),
        (Mixture(mask=2), 1.5),
        (Mixture(mask=2), 0.0),
        (three, 1.0),
    ):
        source = Uniform(3) if path.mask is None else Masked(3)
        with pytest.raises(ValueError, match="T"):
            likelihoods.bound(path, unsure, KEY, x_1, x_1, T=T)
        with pytest.raises(ValueError, match="T"):
            likelihoods.law(path, source, unsure, length=2, T=T)
        with pytest.raises(ValueError, match="T"):
            likelihoods.enumerated_bound(path, source, unsure, length=2, T=T)
    for choice in (likelihoods.kappa_times, likelihoods.event_times):
        with pytest.raises(ValueError, match="schedule"):
            likelihoods.bound(three, unsure, KEY, x_1, x_1, T=0.5, times=choice)
    with pytest.raises(ValueError, match="path"):
        likelihoods.enumerated_bound(three, Uniform(3), unsure, length=2, T=0.5)
    with pytest.raises(ValueError, match="orders"):
        likelihoods.importance_bound(Mixture(mask=2), unsure, KEY, x_1, orders=0)
    with pytest.raises(ValueError, match="length"):
        likelihoods.law(Mixture(), Uniform(3), unsure, length=8, T=0.5)
    with pytest.raises(ValueError, match="length"):
        likelihoods.any_order(unsure, np.zeros((1, 13), np.int64), mask=2)
    with pytest.raises(ValueError, match="model"):
        likelihoods.bound(Mixture(), lambda x_t, t: (None, None), KEY, x_1, x_1, T=0.5)
    with pytest.raises(ValueError, match="model"):
        likelihoods.bound(Mixture(), lambda x_t, t: (unsure(x_t, t),), KEY, x_1, x_1, T=0.5)
    with pytest.raises(ValueError, match="nats"):
        likelihoods.summary(np.zeros(0), 2)


@pytest.mark.parametrize("token", [-1, 2, 3])
def test_data_holds_no_token_outside_of_the_vocabulary_nor_the_mask(token):
    path, x_1 = Mixture(mask=2), np.array([[0, token]])
    for call in (
        lambda model: likelihoods.bound(path, model, KEY, 0 * x_1 + 2, x_1),
        lambda model: likelihoods.mask_bound(path, model, KEY, x_1),
        lambda model: likelihoods.importance_bound(path, model, KEY, x_1, orders=1),
        lambda model: likelihoods.any_order(model, x_1, mask=2),
        lambda model: likelihoods.any_order_bound(model, x_1, mask=2),
    ):
        with pytest.raises(ValueError, match="x_1: expected tokens"):
            call(model_of(1, timed=False))


# Any path, any coupling: the oracle's bound and law


THREE = Mixture(SWITCHING, (X0(), Fixed((0.5, 0.25, 0.25)), X1()))


def models(case, seed):
    """A wrong model of all components that are to be learnt: the library's, and its tables w_hat[m, N, S, d] at t."""
    rng = np.random.default_rng(seed)
    tables = rng.normal(size=(2, len(case.path.components), *case.states().shape, case.vocab_size))
    known = [isinstance(component, Fixed) for component in case.path.components]

    def scores(j, at, t):
        return tables[0, j, at] + np.asarray(t)[..., None, None] * tables[1, j, at]

    def model(x_t, t):
        at = index(x_t, case.vocab_size)
        return tuple(None if fixed else scores(j, at, t) for j, fixed in enumerate(known))

    def w_hat(t):
        rows = [
            np.broadcast_to(component.probs, (*case.states().shape, case.vocab_size))
            if isinstance(component, Fixed)
            else np.exp(log_p(scores(j, np.arange(len(tables[0, j])), t)))
            for j, component in enumerate(case.path.components)
        ]
        return np.swapaxes(np.stack(rows), 1, 2)

    return model, w_hat


def coupling(problem, vocab_size):
    """pi[x_0, x_1] of a problem."""
    size = vocab_size ** problem.x_0.shape[1]
    pi = np.zeros((size, size))
    np.add.at(pi, (index(problem.x_0, vocab_size), index(problem.x_1, vocab_size)), problem.pi)
    return pi


def evidence(case, w_hat, T, pieces=12):
    """The prior term [S], what each pair adds [P] (the integral and the last draw), and the exact law [S]."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    grid = np.linspace(0, T, pieces + 1)

    def rates(t):
        a, b, _ = oracle.coefficients(case.kappa(t), case.kappa_dot(t))
        return a, b, oracle.velocity(a, b, w_hat(t))

    each = np.zeros(len(case.problem.pi))
    for begin, end in pairwise(grid):
        for node, weight in zip(nodes, weights, strict=True):
            t = begin + (end - begin) * (node + 1) / 2
            (a, b, v), p = rates(t), oracle.conditional(case.problem, case.kappa(t))
            for k in range(len(each)):
                u = oracle.velocity(a, b, oracle.given_pair(case.problem, k))
                terms = oracle.path_divergence(u, v)
                each[k] += weight * (end - begin) / 2 * float(np.sum(np.where(p[k] > 0, p[k] * terms, 0.0)))
    last = oracle.joint_kernel(w_hat(T)[-1])
    p_T = oracle.conditional(case.problem, case.kappa(T))
    for k, x in enumerate(index(case.problem.x_1, case.vocab_size)):
        each[k] -= p_T[k] @ np.log(last[x])
    pi = coupling(case.problem, case.vocab_size)
    p_0 = pi.sum(axis=1)
    law = last @ oracle.evolve(lambda t: oracle.generator(rates(t)[2]), p_0, grid, stages=6)[-1]
    return oracle.prior_divergence(pi, p_0), each, law


@settings(max_examples=15)
@given(case=cases(), T=st.sampled_from([0.25, 0.6, 0.9]), seed=st.integers(0, 99))
def test_the_bound_of_any_path_and_coupling_lies_above_the_exact_likelihood_of_a_wrong_model(case, T, seed):
    """m = 2, 3, 4, per token or not, correlated, prompted: prior, integral and last draw, each by enumeration."""
    prior, each, law = evidence(case, models(case, seed)[1], T)
    assert law.sum() == pytest.approx(1.0, abs=1e-9)
    pi = coupling(case.problem, case.vocab_size)
    x_1 = index(case.problem.x_1, case.vocab_size)
    for x in set(x_1.tolist()):
        mine = x_1 == x
        bound = prior[x] + case.problem.pi[mine] @ each[mine] / pi[:, x].sum()
        assert bound >= -log(law[x]) - 1e-6


def correlated(path, control):
    """A coupling in which x_1 says much about x_0, on a path of two tokens over a vocabulary of three."""
    rng = np.random.default_rng(12)
    pi = np.zeros((9, 9))
    pi[rng.integers(0, 9, 5), [0, 1, 1, 5, 5]] = rng.dirichlet(np.ones(5))
    middle = [oracle.fixed(np.array(c.probs)) for c in path.components if isinstance(c, Fixed)]
    problem = oracle.enumerate_pairs(pi, np.stack([oracle.at_x_0(3), *middle, oracle.at_x_1(3)]).astype(np.float64))
    return Case(path, problem, oracle.exact(control), 3, 2)


CURVES = np.stack([[[k.coefficients[n] for k in SWITCHING.components]] * 2 for n in range(6)])
CORRELATED = {
    "three components": correlated(THREE, CURVES),
    "two components": correlated(Mixture(), [[[1, 0], [1, 0]], [[0, 1], [0, 1]]]),
    "per token": correlated(
        Mixture(PerToken((Linear(), Polynomial(2.0)))), [[[1, 0], [1, 0]], [[0.5, 0.5], [1, 0]], [[0, 1], [0, 1]]]
    ),
}


@pytest.mark.parametrize("name", CORRELATED)
def test_the_mean_of_bound_is_the_oracle_s_for_correlated_couplings_and_m_components(name):
    case, T = CORRELATED[name], 0.8
    model, w_hat = models(case, 3)
    prior, each, _ = evidence(case, w_hat, T, pieces=60)
    nats = [
        likelihoods.bound(
            case.path,
            model,
            random.fold_in(KEY, k),
            np.tile(x_0, (20_000, 1)),
            np.tile(x_1, (20_000, 1)),
            T=T,
            prior=cost,
        )
        for k, (x_0, x_1, cost) in enumerate(
            zip(case.problem.x_0, case.problem.x_1, prior[index(case.problem.x_1, 3)], strict=True)
        )
    ]
    assert agrees(np.stack(nats, axis=-1), each + prior[index(case.problem.x_1, 3)])


@pytest.mark.parametrize("name", CORRELATED)
def test_the_law_is_the_oracle_s_chain_and_last_draw(name):
    case, T = CORRELATED[name], 0.8
    model, w_hat = models(case, 5)
    source = Marginal((0.2, 0.3, 0.5))
    p_0 = oracle.product(np.tile(source.pmf(), (2, 1)))

    def Q(t):
        return oracle.generator(oracle.velocity(*oracle.coefficients(case.kappa(t), case.kappa_dot(t))[:2], w_hat(t)))

    grid = [*np.linspace(0, 2 / 3, 20), *np.linspace(2 / 3, T, 20)[1:]]  # the fastest component changes at 2/3
    law = oracle.joint_kernel(w_hat(T)[-1]) @ oracle.evolve(Q, p_0, grid)[-1]
    ours = likelihoods.law(case.path, source, model, length=2, T=T, tolerance=1e-9)
    np.testing.assert_allclose(ours, law, rtol=1e-8)


# Times


@pytest.mark.parametrize("levels", [times.independent, times.antithetic, times.low_discrepancy])
@pytest.mark.parametrize("choice", [likelihoods.uniform_times, likelihoods.kappa_times, likelihoods.event_times])
def test_every_choice_of_times_is_unbiased(choice, levels):
    model, path, source, T = model_of(2), Mixture(Polynomial(2.0)), Uniform(3), 0.8
    x_1 = np.tile(LONG[0], (20_000, 1))
    nats = estimate(path, source, model, KEY, x_1, T=T, times=choice, levels=levels)
    assert agrees(nats, uniform_integral(path, source.pmf(), model, LONG[0], T))
    path, x_1 = Mixture(Polynomial(2.0), mask=2), np.tile(SHORT[0], (20_000, 1))
    nats = likelihoods.mask_bound(path, model, KEY, x_1, levels=levels)
    assert agrees(nats, mask_integral(path.schedule, model, SHORT[0]))


def test_each_reduction_has_less_variance():
    """By times: of 20000 estimates, known to 5 per cent. By levels: of the means of 800 batches, to 10."""
    model, path = model_of(2), Mixture(Polynomial(2.0))

    def nats(key, rows, **options):
        return estimate(path, Uniform(3), model, key, np.tile(LONG[0], (rows, 1)), T=0.95, **options)

    by_times = [
        np.var(nats(KEY, 20_000, times=choice, levels=times.independent))
        for choice in (likelihoods.uniform_times, likelihoods.kappa_times, likelihoods.event_times)
    ]
    assert by_times[0] > 2 * by_times[1] > 6 * by_times[2]
    by_levels = [
        np.var(
            [np.mean(nats(key, 8, times=likelihoods.uniform_times, levels=levels)) for key in random.split(KEY, 800)]
        )
        for levels in (times.independent, times.antithetic, times.low_discrepancy)
    ]
    assert by_levels[0] > 1.25 * by_levels[1] > 1.25**2 * by_levels[2]


# Enumeration


def probabilities(model, mask=2, length=2):
    """p_hat[N, S, d] of a mask model free of time."""
    x = oracle.states(mask + 1, length)
    p = np.zeros((*x.shape, mask + 1))
    p[..., :mask] = np.exp(log_p(model(x, np.full(len(x), 0.5))[..., :mask]))
    return np.swapaxes(p, 0, 1)


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("schedule", [Linear(), CubicHermite(), Cosine(), Polynomial(3.0)], ids=repr)
def test_without_time_law_and_bound_are_those_of_orders_whatever_the_schedule(schedule, length):
    table = np.random.default_rng(length).normal(size=(3**length, length, 3))

    def model(x_t, t):
        return table[index(x_t, 3)]

    p_hat, path = probabilities(model, length=length), Mixture(schedule, mask=2)
    law, bound = oracle.any_order_law(p_hat, 2), oracle.any_order_bound(p_hat, 2)
    np.testing.assert_allclose(likelihoods.law(path, Masked(3), model, length=length, tolerance=1e-9), law, rtol=1e-9)
    ours = likelihoods.enumerated_bound(path, Masked(3), model, length=length, tolerance=1e-9)
    np.testing.assert_allclose(ours, bound, rtol=1e-9)
    data = np.array(list(product(range(2), repeat=length)))
    np.testing.assert_allclose(likelihoods.any_order(model, data, mask=2), -np.log(law[index(data, 3)]), rtol=1e-12)
    np.testing.assert_allclose(likelihoods.any_order_bound(model, data, mask=2), bound[index(data, 3)], rtol=1e-12)
    gap = bound[index(data, 3)] + np.log(law[index(data, 3)])
    assert np.all(gap > -1e-12) and (np.max(gap) > 1e-2 if length > 1 else np.allclose(gap, 0.0, atol=1e-12))


def chain(path, model, T, parts=40):
    """The law of a mask path's chain at T over all 9 states, float64[9], by the oracle."""

    def Q(t):
        probs = np.zeros((9, 2, 3))
        probs[..., :2] = np.exp(log_p(model(STATES, np.full(9, t))[..., :2]))
        known = np.where((STATES == 2)[..., None], probs, np.eye(3)[STATES])
        return oracle.generator(np.swapaxes(forward(path, known, STATES, t), 0, 1))

    return oracle.evolve(Q, np.eye(9)[8], np.linspace(0, T, parts))[-1]


@pytest.mark.parametrize(
    "schedule", [Linear(), Cosine(), PerToken((Linear(), Polynomial(3.0)))], ids=["linear", "cosine", "per token"]
)
@pytest.mark.parametrize("timed", [False, True])
def test_the_law_of_a_mask_path_is_its_chain_at_1_and_before(schedule, timed):
    model, path = model_of(8, timed=timed), Mixture(schedule, mask=2)
    for T in (0.6, 1.0):
        law = likelihoods.law(path, Masked(3), model, length=2, T=T, tolerance=1e-10)
        before = chain(path, model, min(T, 1 - 1e-9))
        last = np.zeros((9, 2, 3))
        last[..., :2] = np.exp(log_p(model(STATES, np.full(9, T))[..., :2]))
        last = np.where((STATES == 2)[..., None], last, np.eye(3)[STATES])
        np.testing.assert_allclose(law, oracle.product(last).T @ before, atol=1e-8)
    assert np.allclose(likelihoods.law(path, Masked(3), model, length=2), law)


def test_with_a_schedule_a_token_the_orders_are_not_alike():
    """kappa = t and t^3: the first token comes first three times of four, so law and bound are not any-order."""
    model, path = model_of(5, timed=False), Mixture(PerToken((Linear(), Polynomial(3.0))), mask=2)
    p = probabilities(model)
    law = likelihoods.law(path, Masked(3), model, length=2, tolerance=1e-9)
    bound = likelihoods.enumerated_bound(path, Masked(3), model, length=2, tolerance=1e-9)
    for x in product(range(2), repeat=2):
        first, second = ((2, x[1]), (x[0], 2))
        both = [
            p[0, index((2, 2), 3), x[0]] * p[1, index(second, 3), x[1]],
            p[1, index((2, 2), 3), x[1]] * p[0, index(first, 3), x[0]],
        ]
        assert law[index(x, 3)] == pytest.approx(both @ np.array([3 / 4, 1 / 4]), rel=1e-9)
        assert bound[index(x, 3)] == pytest.approx(-np.log(both) @ np.array([3 / 4, 1 / 4]), rel=1e-9)
        assert abs(law[index(x, 3)] - np.mean(both)) > 1e-3
    nats = likelihoods.mask_bound(path, model, KEY, np.tile(SHORT[0], (40_000, 1)))
    assert agrees(nats, bound[index(SHORT[0], 3)])


@pytest.mark.parametrize("T", [0.7, 1.0])
def test_the_enumerated_bound_of_a_mask_path_is_the_mean_of_every_estimate(T):
    model = model_of(9)
    for schedule in (Cosine(), PerToken((Linear(), Cosine()))):
        path = Mixture(schedule, mask=2)
        exact = likelihoods.enumerated_bound(path, Masked(3), model, length=2, T=T)[index(SHORT[0], 3)]
        x_1 = np.tile(SHORT[0], (40_000, 1))
        assert agrees(estimate(path, Masked(3), model, KEY, x_1, T=T), exact)
        if T == 1:
            assert agrees(likelihoods.mask_bound(path, model, KEY, x_1), exact)


@pytest.mark.parametrize("source", [Uniform(3), Marginal(((0.2, 0.5, 0.3), (0.6, 0.1, 0.3)))], ids=["uniform", "rows"])
def test_the_enumerated_bound_is_the_integral_and_lies_above_the_law(source):
    model, path, T = model_of(6), Mixture(CubicHermite(0.5, 1.0)), 0.7
    bound = likelihoods.enumerated_bound(path, source, model, length=2, T=T, tolerance=1e-9)
    if isinstance(source, Uniform):
        exact = [uniform_integral(path, source.pmf(), model, x, T) for x in LONG]
        np.testing.assert_allclose(bound[index(LONG, 3)], exact, rtol=1e-9)
    assert agrees(estimate(path, source, model, KEY, np.tile(LONG[0], (40_000, 1)), T=T), bound[index(LONG[0], 3)])
    law = likelihoods.law(path, source, model, length=2, T=T, tolerance=1e-9)
    assert law.sum() == pytest.approx(1.0)
    assert np.all(bound > -np.log(law) + 1e-3)


def test_what_a_model_holds_impossible_has_an_infinite_bound_and_what_it_never_meets_costs_nothing():
    def model(x_t, t):
        sure = np.array([[-np.inf, 0.0, 0.0], [0.0, 0.0, 0.0]])
        return np.broadcast_to(sure, (*x_t.shape, 3))

    bound = likelihoods.enumerated_bound(Mixture(mask=2), Masked(3), model, length=2)
    np.testing.assert_allclose(bound[[3, 4]], log(2))
    assert np.all(np.isposinf(np.delete(bound, [3, 4])))
    law = likelihoods.law(Mixture(mask=2), Masked(3), model, length=2)
    np.testing.assert_allclose(law, np.eye(9)[3] / 2 + np.eye(9)[4] / 2, atol=1e-12)
    uniform = likelihoods.enumerated_bound(Mixture(), Uniform(3), model, length=2, T=0.5)
    assert np.all(np.isposinf(uniform[:3])) and np.all(np.isfinite(uniform[3:]))


def test_one_masked_token_and_the_exact_posterior_meet_the_bound():
    q = np.array([0.3, 0.7])
    for T in (0.4, 1.0):
        bound = likelihoods.enumerated_bound(
            Mixture(Cosine(), mask=2), Masked(3), lambda x_t, t: np.log(q) + np.zeros((len(x_t), 1, 2)), length=1, T=T
        )
        np.testing.assert_allclose(bound, [-log(0.3), -log(0.7), np.inf], rtol=1e-9)


@pytest.mark.parametrize("source", [Uniform(3), Masked(3)], ids=repr)
def test_without_a_mask_the_bound_of_a_model_that_is_never_sure_diverges_as_a_logarithm(source):
    """The rate times (1 - t) tends to 1 - p(x_1) > 0 a token; a mask has no such end."""
    p = np.array([0.5, 0.3, 0.2])
    path = Mixture(mask=2) if isinstance(source, Masked) else Mixture()

    def model(x_t, t):
        return np.broadcast_to(np.log(p), (*x_t.shape, 3))

    data = np.all(STATES < 2, axis=-1)
    bounds = [likelihoods.enumerated_bound(path, source, model, length=2, T=1 - 10.0**-k)[data] for k in (6, 7)]
    growth = (bounds[1] - bounds[0]) / log(10)
    if path.mask is None:
        np.testing.assert_allclose(growth, np.sum(1 - p[STATES[data]], axis=-1), rtol=1e-3)
        for t in (1 - 1e-6, 1 - 1e-9):
            value = losses.generalized_kl(Linear(), np.log(p)[None], np.array([1]), np.array([1]), t) * (1 - t)
            assert float(value[0]) == pytest.approx(1 - p[1], rel=1e-6)
    else:
        np.testing.assert_allclose(growth, 0.0, atol=1e-5)


def test_a_network_that_jumps_in_time_is_refused_rather_than_rounded():
    def model(x_t, t):
        return np.where(t[:, None, None] < 0.37, 1.0, -1.0) * np.array([[[1.0, -1.0, 0.0]]]) + np.zeros((1, 2, 1))

    for enumerate_all in (likelihoods.law, likelihoods.enumerated_bound):
        with pytest.raises(ValueError, match="tolerance"):
            enumerate_all(Mixture(mask=2), Masked(3), model, length=2)


# Orders


def test_more_orders_tighten_the_bound_from_the_evidence_to_the_exact_value():
    """The mean of -log of the mean of K products, over all K-tuples of the 6 orders of three tokens."""
    table, path = 2 * np.random.default_rng(1).normal(size=(27, 3, 3)), Mixture(Cosine(), mask=2)

    def model(x_t, t):
        return table[index(x_t, 3)]

    x_1, p = np.array([0, 1, 1]), probabilities(model, length=3)
    chances = []
    for order in permutations(range(3)):
        z, chance = np.full(3, 2), 1.0
        for i in order:
            chance *= p[i, index(z, 3), x_1[i]]
            z[i] = x_1[i]
        chances.append(chance)
    exact = [np.mean([-log(np.mean(some)) for some in product(chances, repeat=K)]) for K in (1, 2, 3)]
    assert exact[0] == pytest.approx(likelihoods.any_order_bound(model, x_1[None], mask=2)[0])
    assert exact[0] > exact[1] + 0.01 > exact[2] + 0.02
    rows = np.tile(x_1, (20_000, 1))
    for K, mean in zip((1, 2, 3), exact, strict=True):
        assert agrees(likelihoods.importance_bound(path, model, KEY, rows, orders=K), mean)
    many = likelihoods.importance_bound(path, model, KEY, rows[:1], orders=20_000)
    true = likelihoods.any_order(model, x_1[None], mask=2)
    assert np.std(chances) / np.mean(chances) * 5 / np.sqrt(20_000) < 0.05
    np.testing.assert_allclose(many, true, atol=5 * np.std(chances) / np.mean(chances) / np.sqrt(20_000))


@pytest.mark.parametrize("schedule", [Polynomial(2.0), PerToken((Linear(), Polynomial(3.0)))], ids=repr)
def test_one_order_is_an_unbiased_probability_with_time_and_with_a_schedule_a_token(schedule):
    model, path = model_of(11), Mixture(schedule, mask=2)
    law = likelihoods.law(path, Masked(3), model, length=2)
    for x in SHORT:
        nats = likelihoods.importance_bound(path, model, KEY, np.tile(x, (40_000, 1)), orders=1)
        assert agrees(np.exp(-nats), law[index(x, 3)])
        assert agrees(nats, likelihoods.enumerated_bound(path, Masked(3), model, length=2)[index(x, 3)])


def test_orders_are_addressed_by_sequence():
    model, path, x_1 = model_of(1), Mixture(mask=2), np.tile(SHORT, (5, 1))
    whole = likelihoods.importance_bound(path, model, KEY, x_1, orders=3)
    assert np.array_equal(likelihoods.importance_bound(path, model, KEY, x_1[4:], orders=3, first=4), whole[4:])
    assert len(set(whole.tolist())) > 2


# Units


def test_the_summary_has_the_mean_and_its_standard_error_in_every_unit():
    nats = np.random.default_rng(0).gamma(3.0, size=400)
    ours = likelihoods.summary(nats, 5)
    assert ours.nats == pytest.approx((np.mean(nats), np.std(nats, ddof=1) / 20))
    assert ours.bits == pytest.approx((np.mean(nats) / (5 * log(2)), ours.nats.error / (5 * log(2))))
    assert ours.perplexity.mean == pytest.approx(2**ours.bits.mean)
    slope = (np.exp((np.mean(nats) + 1e-6) / 5) - np.exp((np.mean(nats) - 1e-6) / 5)) / 2e-6
    assert ours.perplexity.error == pytest.approx(slope * ours.nats.error, rel=1e-6)


def test_the_standard_error_covers_the_truth():
    """Of 2000 data sets of 100, 95.4 per cent lie within two errors; fewer than 93 or more than 98: 1e-6."""
    sets = np.random.default_rng(1).normal(3.0, 2.0, (2000, 100))
    within = [abs(s.nats.mean - 3.0) < 2 * s.nats.error for s in (likelihoods.summary(row, 4) for row in sets)]
    assert 0.93 < np.mean(within) < 0.98


def test_one_sequence_has_no_error_and_an_infinite_bound_no_number():
    assert np.isnan(likelihoods.summary(np.array([1.0]), 2).nats.error)
    ours = likelihoods.summary(np.array([1.0, np.inf]), 2)
    assert ours.nats.mean == ours.bits.mean == ours.perplexity.mean == np.inf and np.isnan(ours.nats.error)
