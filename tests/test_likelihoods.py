"""Bounds: the mean of the estimates is the enumerated bound, row by row, and the bound lies above -log p."""

from itertools import permutations, product
from math import factorial, log

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from strategies import BACKENDS, backend, index, logits

from dfm_ref import likelihoods, losses, paths, random
from dfm_ref.paths import Mixture
from dfm_ref.schedules import Bernstein, Complement, Convex, Cosine, CubicHermite, Linear, PerToken, Polynomial
from dfm_ref.sources import Marginal, Uniform
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
        nats = likelihoods.bound(path, source, model, KEY, np.tile(x_1, (20_000, 1)), T=T)
        assert nats.dtype == np.float64
        assert agrees(nats, uniform_integral(path, source.pmf(), model, x_1, T))


def test_every_row_of_a_batch_is_unbiased_by_itself():
    """Sees times tied to the place in the batch: the first row would always be judged early, the last one late."""
    path, model = Mixture(mask=2), model_of(3)
    keys = random.split(KEY, 3000)
    estimates = np.stack([likelihoods.mask_bound(path, model, key, SHORT) for key in keys])
    assert agrees(estimates, [mask_integral(path.schedule, model, x_1) for x_1 in SHORT])
    path, source = Mixture(), Uniform(3)
    estimates = np.stack([likelihoods.bound(path, source, model, key, LONG, T=0.7) for key in keys[:1500]])
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


def test_the_bound_lies_above_the_exact_likelihood_of_the_chain_and_its_last_draw():
    model, path, source, T = model_of(6), Mixture(), Uniform(3), 0.7

    def probs(t):
        return np.exp(log_p(model(STATES, np.full(len(STATES), t))))

    def flow(t, p):
        return oracle.generator(np.swapaxes(forward(path, probs(t), STATES, t), 0, 1)) @ p

    p_T = solve_ivp(flow, (0, T), np.full(9, 1 / 9), rtol=1e-10, atol=1e-12).y[:, -1]
    last = np.einsum("sv,sw->svw", *np.swapaxes(probs(T), 0, 1)).reshape(9, 9)
    law = p_T @ last
    assert law.sum() == pytest.approx(1.0)
    for x_1 in LONG:
        assert uniform_integral(path, source.pmf(), model, x_1, T) > -log(law[index(x_1, 3)])


@pytest.mark.parametrize("name", BACKENDS)
def test_every_library_has_the_same_estimates(name):
    b, path = backend(name), Mixture(mask=2)
    x_1 = np.tile(SHORT, (8, 1))
    table = model_of(7)

    def model(x_t, t):
        return b.asarray(table(b.to_numpy(x_t), b.to_numpy(t)))

    ours = likelihoods.mask_bound(path, model, KEY, b.asarray(x_1))
    np.testing.assert_allclose(b.to_numpy(ours), likelihoods.mask_bound(path, table, KEY, x_1), rtol=1e-12)
    ours = likelihoods.bound(Mixture(), Uniform(3), model, KEY, b.asarray(x_1), T=0.9)
    np.testing.assert_allclose(
        b.to_numpy(ours), likelihoods.bound(Mixture(), Uniform(3), table, KEY, x_1, T=0.9), rtol=1e-10
    )


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
    assert likelihoods.bound(Mixture(), Uniform(3), model_of(1), KEY, x_1, T=0.5).shape == (rows,)


def test_outside_their_domain_they_raise():
    three = Convex((Complement(Linear()), Bernstein((0.0, 0.0)), Linear()))
    unsure, x_1 = model_of(1), SHORT
    for path in (Mixture(), Mixture(PerToken((Linear(), Linear())), mask=2)):
        with pytest.raises(ValueError, match="path"):
            likelihoods.mask_bound(path, unsure, KEY, x_1)
    for path, T in (
        (Mixture(), 1.0),
        (Mixture(), 0.0),
        (Mixture(), float("nan")),
        (Mixture(mask=2), 0.5),
        (Mixture(three, (paths.X0(), paths.Fixed((0.5, 0.5, 0.0)), paths.X1())), 0.5),
    ):
        with pytest.raises(ValueError, match="T"):
            likelihoods.bound(path, Uniform(3), unsure, KEY, x_1, T=T)
