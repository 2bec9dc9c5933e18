"""Metric paths: their velocity is the optimal one and generates the path; samplers follow their laws."""

from fractions import Fraction
from functools import partial
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from strategies import BACKENDS, backend, follows, index, inner_times, logits

from dfm_ref import kinetic, random, transitions
from dfm_ref.kinetic import Metric, Odds, embedding, euler_step, exponential_step, hamming, ordinal, thinning
from dfm_ref.samplers import simulate
from dfm_ref.schedules import Cosine
from dfm_ref.verify import oracle

KEY = random.key(5)
SKEWED = ((0.0, 1.0, 3.0), (0.5, 0.0, 2.0), (4.0, 1.0, 0.0))
PATHS = {
    "hamming": Metric(hamming(3), Odds(2.0, 1.0)),
    "ordinal": Metric(ordinal(4, power=2.0), Odds(0.5, 2.0)),
    "root": Metric(ordinal(3, power=0.5), Odds(1.0, 0.5)),
    "embedding": Metric(embedding(np.random.default_rng(0).normal(size=(4, 2))), Odds(0.7, 1.5)),
    "asymmetric": Metric(SKEWED, Odds(0.3, 3.0)),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
every_step = pytest.mark.parametrize("step", [euler_step, exponential_step])
times = inner_times.filter(lambda t: 2.0**-10 < t < 1 - 2.0**-10)


@st.composite
def metrics(draw, vocab_size):
    distances = st.sampled_from([0.25, 0.5, 1.0, 1.5, 4.0])
    table = [[0.0 if x == y else draw(distances) for y in range(vocab_size)] for x in range(vocab_size)]
    beta = Odds(draw(st.sampled_from([0.5, 1.0, 3.0])), draw(st.sampled_from([0.5, 1.0, 2.0])))
    return Metric(tuple(map(tuple, table)), beta)


@st.composite
def problems(draw):
    """A metric path and data q[S], correlated where N = 2."""
    vocab_size, length = draw(st.sampled_from([(2, 1), (4, 1), (2, 2), (3, 2)]))
    q = draw(st.lists(st.integers(0, 3), min_size=vocab_size**length, max_size=vocab_size**length).filter(any))
    return draw(metrics(vocab_size)), np.array(q) / sum(q), oracle.states(vocab_size, length)


def posterior(path, q, states, t):
    """p_{1|t}^i(. | z) for every state z, float64[S, N, V], by Bayes' rule over all of x_1."""
    p = kinetic.pmf(path, states, t)
    joint = q[:, None] * oracle.product(p)
    weights = joint / joint.sum(0)
    return np.einsum("pz,piv->ziv", weights, oracle.delta(states, path.vocab_size))


def written_out(path, x_1, z, t):
    """u(., z|x_1) as the formula stands, one token."""
    d, beta, rate = np.array(path.distance), path.beta.beta(t), path.beta.beta_dot(t)
    p = np.exp(-beta * d[:, x_1])
    u = p / p.sum() * rate * np.maximum(d[z, x_1] - d[:, x_1], 0)
    u[z] = -u.sum()
    return u


# The path


@every_path
def test_the_law_and_its_derivative_have_all_their_digits(path):
    with mpmath.workdps(250):
        for t in (0.001, 0.3, 0.75, 0.99):
            for x_1 in range(path.vocab_size):

                def p(t, x, x_1=x_1):
                    beta = path.beta.scale * (t / (1 - t)) ** path.beta.exponent
                    w = [mpmath.exp(-beta * mpmath.mpf(row[x_1])) for row in path.distance]
                    return w[x] / mpmath.fsum(w)

                x = range(path.vocab_size)
                exact = np.array([float(p(mpmath.mpf(t), y)) for y in x])
                dot = np.array([float(mpmath.diff(partial(p, x=y), mpmath.mpf(t))) for y in x])
                np.testing.assert_allclose(kinetic.pmf(path, np.array([x_1]), t)[0], exact, rtol=1e-11, atol=1e-300)
                ours = kinetic.pmf_dot(path, np.array([x_1]), t)[0]
                np.testing.assert_allclose(ours, dot, rtol=1e-11, atol=1e-14 * np.abs(dot).max())


@every_path
def test_the_path_begins_uniform_and_ends_at_the_data(path):
    x_1 = np.arange(path.vocab_size)
    np.testing.assert_allclose(kinetic.pmf(path, x_1, 0.0), 1 / path.vocab_size, rtol=1e-15)
    assert np.array_equal(kinetic.pmf(path, x_1, 1.0), np.eye(path.vocab_size))
    both = kinetic.pmf(path, np.stack([x_1, x_1]), np.array([0.0, 1.0]))
    assert np.array_equal(both[1], np.eye(path.vocab_size))
    assert np.array_equal(both[0], kinetic.pmf(path, x_1, 0.0))


def test_a_huge_beta_gives_neither_nan_nor_rates_that_do_not_conserve():
    path, x_1 = Metric(ordinal(5, power=2.0), Odds(1.0, 10.0)), np.array([3, 3])
    t = 1 - 2.0**-50
    assert np.array_equal(kinetic.pmf(path, x_1, t), np.eye(5)[[3, 3]])
    u = kinetic.conditional_velocity(path, x_1, np.array([0, 3]), t)
    assert np.array_equal(u[1], np.zeros(5))
    assert u[0, 3] == -u[0, 0] > 1e150


@pytest.mark.parametrize("odds", [Odds(), Odds(2.0, 0.5), Odds(0.1, 3.0)])
def test_the_inverse_temperature_has_its_derivative_and_inverse(odds):
    t, h = np.array([0.01, 0.2, 0.5, 0.9, 0.999]), 1e-6
    slope = (odds.beta(t * (1 + h)) - odds.beta(t * (1 - h))) / (2 * t * h)
    np.testing.assert_allclose(odds.beta_dot(t), slope, rtol=1e-5)
    np.testing.assert_allclose(odds.inverse(odds.beta(t)), t, rtol=1e-13)
    assert odds.beta(0.0) == 0


def test_the_ready_made_distances():
    assert hamming(3) == ((0, 1, 1), (1, 0, 1), (1, 1, 0))
    assert ordinal(3, power=0.5)[0] == (0.0, 1.0, 2**0.5)
    rows = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    exact = [[float(np.sum((a.astype(float) - b) ** 2)) for b in rows] for a in rows]
    np.testing.assert_allclose(embedding(rows), exact, rtol=1e-12)
    np.testing.assert_allclose(embedding(rows, power=1.0), np.sqrt(exact), rtol=1e-12)


# Velocities


@settings(max_examples=60)
@given(case=st.integers(2, 5).flatmap(lambda v: st.tuples(metrics(v), st.just(v))), t=times)
def test_the_conditional_velocity_is_the_formula_and_the_optimal_one(case, t):
    path, vocab_size = case
    x_1, x_t = np.repeat(np.arange(vocab_size), vocab_size), np.tile(np.arange(vocab_size), vocab_size)
    u = kinetic.conditional_velocity(path, x_1, x_t, t)
    scale = 1 + path.beta.beta_dot(t)
    exact = np.stack([written_out(path, a, z, t) for a, z in zip(x_1, x_t, strict=True)])
    np.testing.assert_allclose(u, exact, rtol=1e-12, atol=1e-13 * scale)
    p, p_dot = kinetic.pmf(path, x_1, t), kinetic.pmf_dot(path, x_1, t)
    seen = p[np.arange(len(p)), x_t] > 1e-100  # at p(z) = 1e-300 the ratio of two such numbers has no digits left
    np.testing.assert_allclose(
        u[seen], kinetic.optimal(p[seen], p_dot[seen], x_t[seen]), rtol=1e-11, atol=1e-12 * scale
    )


@given(data=st.data(), vocab_size=st.integers(1, 5))
def test_the_optimal_velocity_generates_any_path_and_moves_one_way_between_two_tokens(data, vocab_size):
    draw = partial(st.lists, min_size=vocab_size, max_size=vocab_size)
    p = np.array(data.draw(draw(st.integers(1, 9))), np.float64)
    p /= p.sum()
    p_dot = np.array(data.draw(draw(st.integers(-9, 9))), np.float64)
    p_dot -= p_dot.mean()
    rows = [np.broadcast_to(v, (vocab_size, vocab_size)) for v in (p, p_dot)]
    u = kinetic.optimal(*rows, np.arange(vocab_size))
    np.testing.assert_allclose(p @ u, p_dot, atol=1e-12)
    np.testing.assert_allclose(u.sum(-1), 0, atol=1e-12)
    off = u * (1 - np.eye(vocab_size))
    assert np.all(off >= 0)
    assert np.all(off * off.T <= 1e-24)


@pytest.mark.parametrize("t", [Fraction(1, 5), Fraction(3, 4)])
def test_averaged_over_correlated_data_it_solves_the_kolmogorov_equation_without_a_rest(t):
    """Two tokens of three values, and rational p and dp/dt that are no mixture's."""
    states, eye = oracle.states(3, 2), oracle.exact(np.eye(3, dtype=int))
    q = oracle.exact(["1/2", 0, 0, "1/8", "1/8", 0, 0, 0, "1/4"])

    def law(t):
        far = np.abs(np.arange(3)[:, None] - np.arange(3))
        weights = np.where(far == 0, 1 + 3 * t, (1 - t) * oracle.exact(1 + far))  # [x_1, x]
        return weights, weights.sum(-1, keepdims=True)

    (w, total), h = law(t), Fraction(1, 10**6)
    rise = (law(t + h)[0] - law(t - h)[0]) / (2 * h)  # any direction will do in which the sum does not change
    p = w / total
    p_dot = rise - rise.sum(-1, keepdims=True) * p
    u = np.maximum(p[:, :, None] * p_dot[:, None] - p_dot[:, :, None] * p[:, None], 0) / p[:, :, None]  # [x_1, z, x]
    u = u - eye * u.sum(-1, keepdims=True)
    joint = q[:, None] * oracle.product(p[states])
    weights = joint / joint.sum(0)
    mean = sum(
        weights[k][None, :, None] * np.stack([u[x, states[:, i]] for i, x in enumerate(states[k])]) for k in range(9)
    )
    residual = oracle.kolmogorov_residual(
        q @ oracle.product_dot(p[states], p_dot[states]), oracle.generator(mean), joint.sum(0)
    )
    assert not np.any(residual)
    for z in range(3):
        ours = kinetic.optimal(p.astype(float), p_dot.astype(float), np.full(3, z))
        np.testing.assert_allclose(ours, u[:, z].astype(float), rtol=1e-12, atol=1e-13)


def test_on_a_mixture_path_it_is_that_of_the_mixture():
    x_1, t, p_0 = np.array([0, 1, 2]), np.array([0.2]), np.array([0.2, 0.5, 0.3])
    kappa, rate, rest = Cosine().kappa(t), Cosine().kappa_dot(t), Cosine().one_minus_kappa(t)
    p, p_dot = kappa * np.eye(3)[x_1] + rest * p_0, rate * (np.eye(3)[x_1] - p_0)
    for z in range(3):
        x_t = np.full(3, z)
        exact = rate / rest * (np.eye(3)[x_1] - np.eye(3)[x_t])
        np.testing.assert_allclose(kinetic.optimal(p, p_dot, x_t), exact, rtol=1e-12, atol=1e-13)


@settings(max_examples=60)
@given(problem=problems(), t=times)
def test_the_marginal_velocity_is_the_mean_and_solves_the_kolmogorov_equation(problem, t):
    path, q, states = problem
    p, p_dot = kinetic.pmf(path, states, t), kinetic.pmf_dot(path, states, t)
    law = q @ oracle.product(p)
    if law.min() < 1e-200:
        return  # no posterior to speak of
    probs_1 = posterior(path, q, states, t)
    u = kinetic.velocity(path, probs_1, states, t)
    for z, i in np.ndindex(states.shape):
        mean = sum(probs_1[z, i, x_1] * written_out(path, x_1, states[z, i], t) for x_1 in range(path.vocab_size))
        np.testing.assert_allclose(u[z, i], mean, rtol=1e-11, atol=1e-13 * (1 + path.beta.beta_dot(t)))
    assert np.array_equal(u, kinetic.velocity(path, probs_1, states, np.full(len(states), t)))
    residual = oracle.kolmogorov_residual(q @ oracle.product_dot(p, p_dot), oracle.generator(np.swapaxes(u, 0, 1)), law)
    np.testing.assert_allclose(residual, 0, atol=1e-12 * (1 + np.abs(u).max()))


@every_path
@pytest.mark.parametrize("t", [0.01, 0.4, 0.9])
def test_the_rate_bound_is_the_largest_rate_at_which_a_token_leaves(path, t):
    size = path.vocab_size
    x_1, x_t = np.repeat(np.arange(size), size), np.tile(np.arange(size), size)
    leaves = -np.take_along_axis(kinetic.conditional_velocity(path, x_1, x_t, t), x_t[:, None], 1)
    np.testing.assert_allclose(kinetic.rate_bound(path, t), leaves.max(), rtol=1e-13)
    assert kinetic.rate_bound(path, np.array([t, 0.5])).shape == (2,)


@pytest.mark.parametrize("distance", [hamming(2), hamming(1000), ordinal(60, power=2.0), SKEWED])
@pytest.mark.parametrize("ends", [(0.0, 0.3), (0.0, 0.999), (0.5, 0.9)])
def test_windows_keep_the_bound_tight(distance, ends):
    path = Metric(distance)
    edges, height, hazard, at = kinetic._windows(path, np.array(ends), 2)
    beta = path.beta.beta(np.array(ends))
    assert edges[0] == beta[0]
    assert edges[-1] == beta[-1]
    assert np.all(np.diff(height) >= 0)
    assert np.array_equal(at, [0, hazard[-1]])
    starts = kinetic._bound(path, edges[:-1])
    assert np.all(height <= np.e * starts * (1 + 1e-12))
    assert len(height) <= 3 * np.log(len(distance)) + 3


# Draws


@every_path
def test_a_sample_follows_the_law_and_is_addressed_by_site(path):
    x_1 = np.tile(np.arange(path.vocab_size), (20_000, 1))
    x_t = kinetic.sample(path, KEY, x_1, 0.4)
    for i, law in enumerate(kinetic.pmf(path, x_1[0], 0.4)):
        assert follows(x_t[:, i], law)
    assert np.array_equal(x_t[7:20], kinetic.sample(path, KEY, x_1[7:20], np.full(13, 0.4), first=7))
    assert np.array_equal(kinetic.sample(path, KEY, x_1, 1.0), x_1)


def scores(size, *, length=2, seed=0):
    """Logits for every state, float64[S, N, V]: a wrong model, that knows the whole state."""
    return np.random.default_rng(seed).normal(size=(size**length, length, size))


def look_up(table):
    def model(x_t, t):
        return table[index(x_t, table.shape[-1])]

    return model


class Lazy:
    """The same model, lazy: `asked` records how many sequences, and which sites, each call was for."""

    def __init__(self, table, asked):
        self.table, self.asked = table, asked

    def at(self, x_t, t, sites):
        assert t.shape == x_t.shape[:1]
        self.asked.append((len(x_t), np.asarray(sites)))
        rows = self.table[index(x_t, self.table.shape[-1])]
        return rows.reshape(-1, rows.shape[-1])[sites]


def softmax(table):
    weights = np.exp(table - table.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def one_step(path, table, step, t, s):
    """The kernel of one step from every state, [S, S]."""
    x_t = oracle.states(path.vocab_size, table.shape[1])
    u = kinetic.velocity(path, softmax(table), x_t, t)
    law = {euler_step: transitions.euler, exponential_step: transitions.exponential}[step](u, x_t, s - t)
    return oracle.joint_kernel(np.swapaxes(law if s < 1 else softmax(table), 0, 1))


@every_step
@every_path
def test_a_step_from_every_state_follows_its_law(path, step):
    """Sees the marginal rates confused with those of one x_1, a coin reused, a bound that is too low."""
    rows, table = 6000, scores(path.vocab_size)
    x_t = np.repeat(oracle.states(path.vocab_size, 2), rows, 0)
    for t, share in ((0.2, 1.0), (0.7, 0.5)):
        s = t + share / float(kinetic.rate_bound(path, t))
        if s > 1:
            s = (1 + t) / 2
        kernel = one_step(path, table, step, t, s)
        x_s = index(step(path, look_up(table), KEY, x_t, t, s), path.vocab_size)
        for z in range(len(kernel)):
            assert follows(x_s[z * rows : (z + 1) * rows], kernel[:, z], alpha=1e-7)


@every_step
def test_many_steps_follow_the_chain_of_kernels_and_end_with_the_draw_of_x_1(step):
    path, table, grid = PATHS["asymmetric"], scores(3), [0.1, 0.25, 0.4, 0.55, 1.0]
    kernels = [one_step(path, table, step, *ends) for ends in pairwise(grid)]
    laws = oracle.propagate(np.eye(9)[5], kernels)
    x_0 = np.tile(oracle.states(3, 2)[5], (30_000, 1))
    frames = simulate(partial(step, path, look_up(table)), KEY, x_0, grid, frames=True)
    for x_t, law in zip(frames, laws, strict=True):
        assert follows(index(x_t, 3), law)


def test_beyond_its_bound_an_euler_step_has_sure_events():
    path, x_t = PATHS["hamming"], np.zeros((20_000, 1), np.int64)
    model = look_up(logits(np.broadcast_to(np.array([0.5, 0.25, 0.25]), (3, 1, 3))))
    t, h = 0.5, 1 / float(kinetic.rate_bound(path, 0.5))
    u = kinetic.velocity(path, np.array([[0.5, 0.25, 0.25]]), np.array([0]), t)
    x_s = euler_step(path, model, KEY, x_t, t, t + 1.2 * h)
    assert follows(x_s[:, 0], transitions.euler(u, np.array([0]), h)[0])


@every_step
@every_path
def test_tokens_are_the_same_in_any_batch_lazily_and_a_prompt_never_moves(path, step):
    table, asked = scores(path.vocab_size), []
    x_t = np.random.default_rng(1).integers(0, path.vocab_size, (40, 2))
    t = np.linspace(0.1, 0.6, 40)
    s, keep = np.where(np.arange(40) % 3, t + 0.2, 1.0), x_t == 1
    x_s = step(path, look_up(table), KEY, x_t, t, s, keep=keep, first=9)
    assert np.any(x_s != x_t)
    assert np.array_equal(x_s[keep], x_t[keep])
    assert np.array_equal(x_s, step(path, Lazy(table, asked), KEY, x_t, t, s, keep=keep, first=9))
    sites = np.concatenate([sites for _, sites in asked])
    assert not np.any(keep.reshape(-1)[sites])
    assert set(np.flatnonzero(x_s != x_t)) <= set(sites)
    part = slice(11, 25)
    again = step(path, look_up(table), KEY, x_t[part], t[part], s[part], keep=keep[part], first=20)
    assert np.array_equal(x_s[part], again)
    assert np.array_equal(step(path, look_up(table), KEY, x_t, 0.1, 0.2, keep=np.ones_like(keep)), x_t)


# Thinning


def chain(path, table, p, grid):
    """The laws at the times of a grid of the process with the velocity of a model, by the differential equation."""
    states = oracle.states(path.vocab_size, table.shape[1])

    def slope(t, p):
        u = kinetic.velocity(path, softmax(table), states, t)
        return oracle.generator(np.swapaxes(u, 0, 1)) @ p

    options = {"rtol": 1e-9, "atol": 1e-11, "t_eval": grid}
    return solve_ivp(slope, (grid[0], grid[-1]), p, method="DOP853", **options).y.T


@every_path
def test_thinning_follows_the_process_of_any_model_at_every_time(path):
    """Sees a bound that is too low, a window taken at its start, a clock that is off, an acceptance not of its site."""
    grid = [0.05, 0.3, 0.6, 0.75]
    size, rows = path.vocab_size, 20_000
    table = 2 * scores(size, seed=3)
    laws = chain(path, table, np.eye(size**2)[size], grid)
    x_0 = np.tile(oracle.states(size, 2)[size], (rows, 1))
    frames = thinning(path, look_up(table), KEY, x_0, grid, frames=True)
    assert np.array_equal(frames[0], x_0)
    for x_t, law in zip(frames, laws, strict=True):
        assert follows(index(x_t, size), law)
    assert np.array_equal(frames[-1], thinning(path, look_up(table), KEY, x_0, grid))


def test_thinning_with_the_posterior_carries_the_path_from_uniform_noise():
    """Correlated data, N = 2: exact, where steps that draw tokens in parallel are wrong together."""
    path, states = Metric(ordinal(3), Odds(1.0, 2.0)), oracle.states(3, 2)
    q = np.zeros(9)
    q[[0, 4, 5]] = 0.5, 0.2, 0.3

    def model(x_t, t):
        rows = {s: logits(posterior(path, q, states, s)) for s in set(t.tolist())} if len(set(t.tolist())) == 1 else {}
        if rows:
            return rows[t[0]][index(x_t, 3)]
        p = np.stack([kinetic.pmf(path, np.broadcast_to(x, x_t.shape), t) for x in states])  # [S, B, N, V]
        joint = q[:, None] * np.prod(
            np.take_along_axis(p, np.broadcast_to(x_t, p.shape[:3])[..., None], -1)[..., 0], -1
        )
        weights = joint / joint.sum(0)
        return logits(np.einsum("pb,piv->biv", weights, oracle.delta(states, 3)))

    rows = 20_000
    x_0 = states[random.categorical(random.key(1), np.full((rows, 9), 1 / 9))]
    frames = thinning(path, model, KEY, x_0, [0.0, 0.4, 0.7], frames=True)
    for x_t, t in zip(frames, (0.0, 0.4, 0.7), strict=True):
        assert follows(index(x_t, 3), q @ oracle.product(kinetic.pmf(path, states, t)))


@every_path
def test_thinning_gives_the_same_tokens_in_any_batch_and_asks_for_one_site_a_sequence(path):
    size, asked, grid = path.vocab_size, [], [0.1, 0.5, 0.8]
    table = scores(size)
    x_0 = np.random.default_rng(1).integers(0, size, (30, 2))
    keep = np.arange(60).reshape(30, 2) % 5 == 0
    run = partial(thinning, path, key=KEY, times=grid, frames=True)
    frames = run(model=look_up(table), x_0=x_0, keep=keep, first=5)
    assert np.any(frames[-1] != x_0)
    assert np.array_equal(frames[:, keep], np.stack([x_0[keep]] * 3))
    assert np.array_equal(frames, run(model=Lazy(table, asked), x_0=x_0, keep=keep, first=5))
    for rows, sites in asked:
        assert np.array_equal(sites // 2, np.arange(rows))
    assert len({rows for rows, _ in asked}) > 1
    part = slice(4, 13)
    again = run(model=look_up(table), x_0=x_0[part], keep=keep[part], first=9)
    assert np.array_equal(frames[:, part], again)
    assert np.array_equal(thinning(path, look_up(table), KEY, x_0, grid, keep=np.ones_like(keep)), x_0)


# Every library, and edges


@pytest.mark.parametrize("name", BACKENDS)
def test_every_library_gives_the_same_numbers_and_tokens(name):
    b, path, rng = backend(name), PATHS["asymmetric"], np.random.default_rng(1)
    x_1, x_t = rng.integers(0, 3, (2, 5, 2))
    t, probs_1 = np.array([0.1, 0.3, 0.5, 0.7, 0.9]), rng.dirichlet(np.ones(3), (5, 2))
    for f, arrays in (
        (kinetic.pmf, (x_1,)),
        (kinetic.pmf_dot, (x_1,)),
        (kinetic.conditional_velocity, (x_1, x_t)),
        (kinetic.velocity, (probs_1, x_t)),
        (kinetic.velocity, (probs_1.astype(np.float32), x_t)),
    ):
        ours = b.to_numpy(f(path, *map(b.asarray, arrays), b.asarray(t)))
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, f(path, *arrays, t), rtol=1e-12, atol=1e-12)
    p, p_dot = kinetic.pmf(path, x_1, t), kinetic.pmf_dot(path, x_1, t)
    ours = b.to_numpy(kinetic.optimal(*map(b.asarray, (p, p_dot, x_t))))
    np.testing.assert_allclose(ours, kinetic.optimal(p, p_dot, x_t), rtol=1e-11, atol=1e-11)
    x_0 = rng.integers(0, 3, (20, 2)).astype(np.int32)
    assert np.array_equal(
        b.to_numpy(kinetic.sample(path, KEY, b.asarray(x_0), 0.4)), kinetic.sample(path, KEY, x_0, 0.4)
    )
    if name == "jax":
        return  # it would compile anew for every number of events
    table = scores(3)

    def model(x_t, t):
        return b.asarray(table[index(b.to_numpy(x_t), 3)])

    keep = x_0 == 1
    for step in (euler_step, exponential_step):
        ours = step(path, model, KEY, b.asarray(x_0), 0.3, 0.6, keep=b.asarray(keep))
        assert np.array_equal(b.to_numpy(ours), step(path, look_up(table), KEY, x_0, 0.3, 0.6, keep=keep))
    grid = [0.1, 0.2, 0.7]
    ours = thinning(path, model, KEY, b.asarray(x_0), grid, keep=b.asarray(keep), frames=True)
    assert np.array_equal(b.to_numpy(ours), thinning(path, look_up(table), KEY, x_0, grid, keep=keep, frames=True))


@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (1, 1)])
@pytest.mark.parametrize("size", [1, 2])
def test_smallest_shapes(shape, size):
    path, x = Metric(hamming(size)), np.zeros(shape, np.int64)

    def model(x_t, t):
        return np.zeros((*x_t.shape, size))

    assert kinetic.pmf(path, x, 0.5).shape == (*shape, size)
    assert kinetic.velocity(path, np.full((*shape, size), 1 / size), x, 0.5).shape == (*shape, size)
    assert thinning(path, model, KEY, x, [0.0, 0.5, 0.9], frames=True).shape == (3, *shape)
    for step in (euler_step, exponential_step):
        for s in (0.5, 1.0):
            assert step(path, model, KEY, x, 0.2, s).shape == shape


def test_arguments_stay_as_they_were():
    path, x_t = PATHS["hamming"], np.random.default_rng(0).integers(0, 3, (6, 2))
    keep, t, table, grid = x_t == 2, np.linspace(0.1, 0.5, 6), scores(3), [0.1, 0.6]
    arguments = (x_t, keep, t, table, path.to_x_1)
    copies = [a.copy() for a in arguments]
    for step in (euler_step, exponential_step):
        step(path, look_up(table), KEY, x_t, t, 0.9, keep=keep)
    thinning(path, look_up(table), KEY, x_t, grid, keep=keep, frames=True)[:] = 0
    kinetic.velocity(path, softmax(table)[:6], x_t, t)
    assert all(np.array_equal(a, b) for a, b in zip(arguments, copies, strict=True))


@pytest.mark.parametrize(
    "distance",
    [
        (),
        ((),),
        ((0.0, 1.0),),
        ((0.0, 1.0), (1.0,)),
        ((0.0, 0.0), (1.0, 0.0)),
        ((0.0, 1.0), (1.0, 0.5)),
        ((0.0, -1.0), (1.0, 0.0)),
        ((0.0, float("nan")), (1.0, 0.0)),
        ((0.0, float("inf")), (1.0, 0.0)),
    ],
)
def test_tables_that_are_no_distances_raise(distance):
    with pytest.raises(ValueError, match="distance"):
        Metric(distance)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
def test_scales_exponents_and_powers_that_are_not_positive_raise(bad):
    for make in (lambda: Odds(bad), lambda: Odds(1.0, bad)):
        with pytest.raises(ValueError, match="scale"):
            make()
    for distance in (lambda: ordinal(3, power=bad), lambda: embedding(np.eye(3), power=bad)):
        with pytest.raises(ValueError, match="power"):
            distance()


def test_embeddings_that_are_none_raise():
    for vectors in (np.zeros(3), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="vectors"):
            embedding(vectors)
    with pytest.raises(ValueError, match="distance"):
        Metric(embedding(np.ones((2, 2))))


X = np.zeros((2, 3), np.int64)
PATH = PATHS["hamming"]


def plain(x_t, t):
    return np.zeros((*x_t.shape, 3))


@pytest.mark.parametrize(
    "call",
    [
        lambda t: kinetic.pmf_dot(PATH, X, t),
        lambda t: kinetic.conditional_velocity(PATH, X, X, t),
        lambda t: kinetic.velocity(PATH, np.full((2, 3, 3), 1 / 3), X, t),
        lambda t: kinetic.rate_bound(PATH, t),
        lambda t: euler_step(PATH, plain, KEY, X, t, 1.0),
        lambda t: thinning(PATH, plain, KEY, X, [0.5, t]),
    ],
)
@pytest.mark.parametrize("t", [1.0, float("nan"), 1.5])
def test_times_at_which_the_rates_are_infinite_raise(call, t):
    with pytest.raises(ValueError, match="t"):
        call(t)


def test_a_rate_that_is_infinite_at_the_start_raises():
    path = Metric(hamming(3), Odds(1.0, 0.5))
    for call in (
        lambda: kinetic.conditional_velocity(path, X, X, 0.0),
        lambda: euler_step(path, plain, KEY, X, 0.0, 0.5),
        lambda: exponential_step(path, plain, KEY, X, 0.0, 0.5),
    ):
        with pytest.raises(ValueError, match="t: expected times > 0"):
            call()
    assert thinning(path, plain, KEY, X, [0.0, 0.5]).shape == X.shape  # its clock is beta, which is finite


@pytest.mark.parametrize("p", [0.0, float("nan")])
def test_a_token_that_the_path_never_shows_has_no_velocity(p):
    with pytest.raises(ValueError, match="x_t"):
        kinetic.optimal(np.array([[p, 1 - p]]), np.array([[1.0, -1.0]]), np.array([0]))


def test_shapes_and_tokens_that_do_not_fit_raise():
    p = np.full((2, 3, 3), 1 / 3)
    for call in (
        lambda: kinetic.optimal(p, p[:1], X),
        lambda: kinetic.optimal(p, p, X[:1]),
        lambda: kinetic.conditional_velocity(PATH, X, X[:1], 0.5),
        lambda: kinetic.velocity(PATH, p[:1], X, 0.5),
        lambda: kinetic.velocity(PATH, np.ones((2, 3, 2)) / 2, X, 0.5),
        lambda: kinetic.pmf(PATH, X, np.full(3, 0.5)),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
    for step in (euler_step, exponential_step):
        for x in (X + 3, X - 1, X[0]):
            with pytest.raises(ValueError, match="x_t"):
                step(PATH, plain, KEY, x, 0.1, 0.5)
        for t, s in ((0.5, 0.5), (0.5, 0.4), (-0.1, 0.5), (0.5, 1.1), (0.5, float("nan")), (np.full(3, 0.1), 0.5)):
            with pytest.raises(ValueError, match="t, s"):
                step(PATH, plain, KEY, X, t, s)
        for size in (2, 4):
            with pytest.raises(ValueError, match="model"):
                step(PATH, lambda x_t, t, size=size: np.zeros((*x_t.shape, size)), KEY, X, 0.1, 1.0)
        with pytest.raises(ValueError, match="keep"):
            step(PATH, plain, KEY, X, 0.1, 0.5, keep=np.ones((2, 2), bool))
    for x, grid in ((X + 3, [0.0, 0.5]), (X[0], [0.0, 0.5]), (X, [0.5, 0.4]), (X, [0.5])):
        with pytest.raises(ValueError, match=r"x_0|times"):
            thinning(PATH, plain, KEY, x, grid)
    with pytest.raises(TypeError, match="x_0"):
        thinning(PATH, plain, KEY, X + 0.0, [0.0, 0.5])
