"""Losses against their formulas in 50 digits, the sum over x and enumeration; gradients by differences and autodiff."""

from itertools import product
from math import factorial, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, MONOTONE, RETURNING, backend, cases, follows, index, inner_times, logits

from dfm_ref import losses, paths, random
from dfm_ref.paths import Mixture
from dfm_ref.schedules import Bernstein, Convex, Cosine, CubicHermite, Linear, PerToken, Polynomial
from dfm_ref.velocities import forward
from dfm_ref.verify import oracle

mp = pytest.importorskip("mpmath")

PER_TOKEN = PerToken((Cosine(), Polynomial(2.0)))
schedules = st.sampled_from([*MONOTONE, PER_TOKEN])
NOISE = np.array([0.1, 0.2, 0.3, 0.4])
MASK = np.array([0.0, 0.0, 0.0, 1.0])


def batch(seed, vocab_size=4, rows=6, holes=0.2):
    """logits float64[rows, 2, V] with some -inf, x_1 that they hold possible, and any x_t, half of it x_1."""
    rng = np.random.default_rng(seed)
    x_1, x_t = rng.integers(0, vocab_size, (2, rows, 2))
    x_t = np.where(rng.uniform(size=x_t.shape) < 0.5, x_1, x_t)
    scores = rng.normal(scale=2, size=(rows, 2, vocab_size))
    scores[(rng.uniform(size=scores.shape) < holes) & (np.arange(vocab_size) != x_1[..., None])] = -np.inf
    return scores, x_1, x_t, rng.uniform(0, 0.99, rows)


def softmax(row):
    """The probabilities of one row, 50 digits."""
    masses = [mp.exp(mp.mpf(float(x))) if np.isfinite(x) else mp.mpf(0) for x in row]
    return [m / mp.fsum(masses) for m in masses]


def kl(kappa, row, x_1, x_t, t):
    """kappa_dot / (1 - kappa) [log 1 / p(x_1) - p(x_t)] where the token must move, [1 - p(x_t)] where it must stay."""
    with mp.workdps(50):
        p = softmax(row)
        rate = mp.mpf(float(kappa.kappa_dot(t))) / mp.mpf(float(kappa.one_minus_kappa(t)))
        return float(rate * (1 - p[x_t] if x_t == x_1 else -mp.log(p[x_1]) - p[x_t]))


def per_site(schedule, i):
    return schedule.schedules[i] if isinstance(schedule, PerToken) else schedule


@settings(max_examples=30)
@given(seed=st.integers(0, 999))
def test_cross_entropy_is_minus_the_log_of_the_softmax(seed):
    scores, y, *_ = batch(seed)
    with mp.workdps(50):
        exact = [[float(-mp.log(softmax(scores[b, i])[y[b, i]])) for i in range(2)] for b in range(len(y))]
    np.testing.assert_allclose(losses.cross_entropy(scores, y), exact, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(losses.cross_entropy_with_grad(scores, y)[0], exact, rtol=1e-13, atol=1e-15)


@settings(max_examples=40)
@given(seed=st.integers(0, 999), schedule=schedules)
def test_generalized_kl_is_its_formula(seed, schedule):
    scores, x_1, x_t, t = batch(seed)
    exact = [
        [kl(per_site(schedule, i), scores[b, i], x_1[b, i], x_t[b, i], t[b]) for i in range(2)] for b in range(len(t))
    ]
    for ours in (losses.generalized_kl, lambda *args: losses.generalized_kl_with_grad(*args)[0]):
        np.testing.assert_allclose(ours(schedule, scores, x_1, x_t, t), exact, rtol=1e-12, atol=1e-13)


@settings(max_examples=40)
@given(seed=st.integers(0, 999), schedule=schedules, t=inner_times)
def test_generalized_kl_is_the_path_kl_summed_over_the_other_tokens(seed, schedule, t):
    """sum over x != z of u log(u / v) - u + v, u the velocity of the pair and v the model's."""
    scores, x_1, x_t, _ = batch(seed, holes=0.0)
    path, p = Mixture(schedule), np.exp(scores) / np.sum(np.exp(scores), -1, keepdims=True)
    u, v = forward(path, np.eye(4)[x_1], x_t, t), forward(path, p, x_t, t)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(u > 0, u * np.log(u / v), 0.0) - u + v
    exact = np.sum(np.where(np.arange(4) == x_t[..., None], 0.0, terms), -1)
    ours = losses.generalized_kl(schedule, scores, x_1, x_t, t)
    scale = np.max(u) + 1
    np.testing.assert_allclose(ours, exact, rtol=1e-11, atol=1e-12 * scale)
    assert np.all(ours >= -1e-14 * scale)


def test_the_losses_vanish_where_the_model_is_right_and_sure():
    x = np.array([[0, 2]])
    sure = logits(np.eye(3)[x])
    assert losses.cross_entropy(sure, x).tolist() == [[0.0, 0.0]]
    for t in (0.0, 0.5, 1 - 1e-9):
        assert losses.generalized_kl(Linear(), sure, x, x, t).tolist() == [[0.0, 0.0]]
        assert losses.generalized_kl(Linear(), sure, x, x + 1 - 2 * (x > 0), t).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_losses_and_gradients_are_finite_wherever_their_limit_is(dtype):
    """Sees 0 log 0, inf - inf, and log of a softmax that underflows: -log p = 1000 is an ordinary number."""
    x_1, x_t = np.array([[1, 1, 1, 1]]), np.array([[0, 1, 2, 1]])
    row = np.array([0.0, -1000.0, -np.inf, -np.inf], dtype)
    scores = np.broadcast_to(row, (1, 4, 4)).copy()
    ce, ce_grad = losses.cross_entropy_with_grad(scores, x_1)
    np.testing.assert_allclose(ce.astype(np.float64), 1000.0, rtol=1e-3)
    value, grad = losses.generalized_kl_with_grad(Linear(), scores, x_1, x_t, 0.5)
    np.testing.assert_allclose(value.astype(np.float64), [[2 * 999, 2, 2 * 1000, 2]], rtol=1e-3)
    np.testing.assert_allclose(losses.generalized_kl(Linear(), scores, x_1, x_t, 0.5), value, rtol=1e-3)
    for g in (ce_grad, grad):
        assert g.dtype == np.result_type(dtype, np.float32)  # half precision is computed in single
        assert np.all(np.isfinite(g))
    assert np.all(ce_grad[..., 2:] == 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_sure_model_costs_nothing_close_to_the_end(dtype):
    """Sees a weight of 2**20 that half precision cannot hold: infinity times 0."""
    x = np.array([[1, 0]])
    scores = logits(np.eye(3)[x]).astype(dtype)
    for t in (0.5, 1 - 2.0**-20):
        assert losses.generalized_kl(Linear(), scores, x, x, t).tolist() == [[0.0, 0.0]]
        value, grad = losses.generalized_kl_with_grad(Linear(), scores, x, x, t)
        assert value.tolist() == [[0.0, 0.0]]
        assert np.all(grad == 0)


def test_what_the_model_holds_impossible_costs_infinity():
    scores = np.array([[[0.0, -np.inf, 0.0]]])
    assert losses.cross_entropy(scores, np.array([[1]])).tolist() == [[np.inf]]
    assert losses.generalized_kl(Linear(), scores, np.array([[1]]), np.array([[0]]), 0.5).tolist() == [[np.inf]]
    assert losses.generalized_kl(Linear(), scores, np.array([[0]]), np.array([[1]]), 0.5).tolist() == [
        [pytest.approx(2 * log(2))]
    ]


@pytest.mark.parametrize("scale", [1e-8, 1e-12])
def test_a_nearly_sure_model_keeps_its_digits(scale):
    """1 - p(x_t) by subtraction would have none at 1e-16 in place of 1e-12 x 2."""
    scores = np.log(np.array([[[1.0, scale, scale]]]))
    value = losses.generalized_kl(Linear(), scores, np.array([[0]]), np.array([[0]]), 0.5)
    assert float(value[0, 0]) == pytest.approx(4 * scale / (1 + 2 * scale), rel=1e-9, abs=0)


@settings(max_examples=20)
@given(seed=st.integers(0, 999), schedule=schedules)
def test_gradients_are_the_central_differences(seed, schedule):
    scores, x_1, x_t, t = batch(seed)
    h = 1e-5
    for value, grad in (
        (lambda s: losses.cross_entropy(s, x_1), losses.cross_entropy_with_grad(scores, x_1)[1]),
        (
            lambda s: losses.generalized_kl(schedule, s, x_1, x_t, t),
            losses.generalized_kl_with_grad(schedule, scores, x_1, x_t, t)[1],
        ),
    ):
        assert np.all(grad[~np.isfinite(scores)] == 0)
        for v in range(scores.shape[-1]):
            step = h * (np.arange(scores.shape[-1]) == v)
            difference = (value(scores + step) - value(scores - step)) / (2 * h)
            scale = 1 + np.max(np.abs(grad))
            np.testing.assert_allclose(grad[..., v], difference, atol=1e-8 * scale)


@pytest.mark.parametrize(
    "schedule", [Linear(), CubicHermite(0.5, 2.0), PER_TOKEN], ids=["linear", "cubic", "per token"]
)
def test_gradients_are_those_of_torch_and_jax(schedule):
    scores, x_1, x_t, t = batch(7, holes=0.0)
    expected = (
        losses.cross_entropy_with_grad(scores, x_1)[1],
        losses.generalized_kl_with_grad(schedule, scores, x_1, x_t, t)[1],
    )
    backend("torch"), backend("jax")
    import jax
    import torch

    leaf = torch.tensor(scores, requires_grad=True)
    tensors = [torch.tensor(a) for a in (x_1, x_t, t)]
    for value, exact in zip(
        (losses.cross_entropy(leaf, tensors[0]), losses.generalized_kl(schedule, leaf, *tensors)), expected, strict=True
    ):
        np.testing.assert_allclose(
            torch.autograd.grad(value.sum(), leaf)[0], exact, atol=1e-12 * (1 + np.abs(exact).max())
        )
    arrays = [jax.numpy.asarray(a) for a in (x_1, x_t, t)]
    for function, exact in zip(
        (
            lambda s: losses.cross_entropy(s, arrays[0]).sum(),
            lambda s: losses.generalized_kl(schedule, s, *arrays).sum(),
        ),
        expected,
        strict=True,
    ):
        gradient = jax.grad(function)(jax.numpy.asarray(scores))
        np.testing.assert_allclose(gradient, exact, atol=1e-12 * (1 + np.abs(exact).max()))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_library_and_precision_has_the_same_losses(name, dtype):
    b = backend(name)
    scores, x_1, x_t, t = batch(3)
    ours = [b.asarray(a) for a in (scores.astype(dtype), x_1, x_t, t)]
    for value, exact in (
        (losses.cross_entropy_with_grad(*ours[:2]), losses.cross_entropy_with_grad(scores, x_1)),
        (
            losses.generalized_kl_with_grad(PER_TOKEN, *ours),
            losses.generalized_kl_with_grad(PER_TOKEN, scores, x_1, x_t, t),
        ),
    ):
        for mine, theirs in zip(value, exact, strict=True):
            assert b.to_numpy(mine).dtype == dtype
            np.testing.assert_allclose(
                b.to_numpy(mine), theirs, rtol=100 * np.finfo(dtype).eps, atol=100 * np.finfo(dtype).eps
            )


@pytest.mark.parametrize("schedule", [Linear(), Polynomial(3.0), CubicHermite(1.0, 0.5)], ids=repr)
def test_the_integral_over_a_mask_path_is_the_any_order_bound_and_tight_for_the_exact_posterior(schedule):
    """sum over hidden sets S of (|S| - 1)! (N - |S|)! / N! sum_{i in S} -log p(x^i | others), and -log q for p = q."""
    length, mask, rng = 3, 2, np.random.default_rng(5)
    q = rng.dirichlet(np.ones(2**length)).reshape((2,) * length)
    wrong = rng.dirichlet(np.ones(2), (3,) * length + (length,))
    path, x_1 = Mixture(schedule, mask=mask), np.array([0, 1, 1])

    def exact(x_t):
        some = q[tuple(slice(None) if x == mask else slice(x, x + 1) for x in x_t)]
        sums = (some.sum(tuple(set(range(length)) - {i})) for i in range(length))
        return np.stack([s / s.sum() if len(s) == 2 else np.ones(2) / 2 for s in sums])

    nodes, weights = np.polynomial.legendre.leggauss(12)
    for model, tight in ((exact, True), (lambda x_t: wrong[tuple(x_t)], False)):
        integral = bound = 0.0
        for hidden in product([False, True], repeat=length):
            x_t, count = np.where(hidden, mask, x_1)[None], sum(hidden)
            p = model(x_t[0])
            if count:
                share = factorial(count - 1) * factorial(length - count) / factorial(length)
                bound += share * sum(-log(p[i, x_1[i]]) for i in range(length) if hidden[i])
            scores = paths.reveal(path, logits(p)[None], x_t)
            for t, w in zip((nodes + 1) / 2, weights / 2, strict=True):
                chance = schedule.kappa(t) ** (length - count) * schedule.one_minus_kappa(t) ** count
                integral += w * chance * float(np.sum(losses.generalized_kl(schedule, scores, x_1[None], x_t, t)))
        assert integral == pytest.approx(bound, rel=1e-12)
        if tight:
            assert bound == pytest.approx(-log(q[tuple(x_1)]), rel=1e-12)


def test_empty_and_smallest_shapes():
    empty = np.zeros((0, 2), np.int64)
    assert losses.cross_entropy_with_grad(np.zeros((0, 2, 3)), empty)[1].shape == (0, 2, 3)
    assert losses.generalized_kl(Linear(), np.zeros((0, 2, 3)), empty, empty, np.zeros(0)).shape == (0, 2)
    one = np.zeros((1, 1), np.int64)
    assert losses.cross_entropy(np.zeros((1, 1, 1)), one).tolist() == [[0.0]]
    assert losses.generalized_kl(Linear(), np.zeros((1, 1, 1)), one, one, 0.5).tolist() == [[0.0]]
    assert losses.generalized_kl(Linear(), np.zeros((2, 3)), *np.zeros((2, 2), np.int64), 0.5).shape == (2,)


def test_arguments_stay_as_they_were():
    arguments = batch(1)
    copies = [a.copy() for a in arguments]
    losses.cross_entropy_with_grad(*arguments[:2])
    losses.generalized_kl_with_grad(Linear(), *arguments)
    assert all(np.array_equal(a, b) for a, b in zip(arguments, copies, strict=True))


def test_shapes_that_do_not_match_raise():
    scores, x_1, x_t, t = batch(1)
    for function in (losses.cross_entropy, losses.cross_entropy_with_grad):
        for y in (x_1[:, :1], x_1[:3], x_1[0], x_1[..., None]):
            with pytest.raises(ValueError, match="y:"):
                function(scores, y)
    for function in (losses.generalized_kl, losses.generalized_kl_with_grad):
        for arguments in ((x_1[:3], x_t, t), (x_1, x_t[:, :1], t), (x_1, x_t, t[:3]), (x_1, x_t, t[:, None])):
            with pytest.raises(ValueError, match=r"x_1:|x_t:|t:"):
                function(Linear(), scores, *arguments)


# Any two velocities


def rates(seed, shape=(5, 2, 4), holes=0.3):
    """Two velocities with zeros, v > 0 wherever u > 0, and the states that they leave."""
    rng = np.random.default_rng(seed)
    u, v = rng.uniform(0, 3, (2, *shape)) * (rng.uniform(size=(2, *shape)) > holes)
    x_t = rng.integers(0, shape[-1], shape[:-1])
    here = oracle.delta(x_t, shape[-1])
    u, v = (np.where(here, -np.sum(np.where(here, 0, w), -1, keepdims=True), w) for w in (u, np.where(v, v, u)))
    return u, v, x_t


@settings(max_examples=40)
@given(seed=st.integers(0, 999))
def test_path_kl_is_its_formula(seed):
    u, v, x_t = rates(seed)

    def term(u, v):
        return v if u == 0 else u * mp.log(mp.mpf(u) / v) - u + v

    with mp.workdps(50):
        exact = [
            [float(sum(term(*pair) for x, pair in enumerate(zip(*rows, strict=True)) if x != z)) for *rows, z in batch]
            for batch in (zip(*arrays, strict=True) for arrays in zip(u.tolist(), v.tolist(), x_t, strict=True))
        ]
    np.testing.assert_allclose(losses.path_kl(u, v, x_t), exact, rtol=1e-13)
    np.testing.assert_allclose(losses.path_kl_with_grad(u, v, x_t)[0], exact, rtol=1e-13)


@pytest.mark.parametrize("scale", [1e-3, 1e-6, 1e-9, 0.0])
def test_close_velocities_keep_the_digits_of_their_divergence(scale):
    """u log(u / v) by the difference of logarithms would leave 1e-16, and below 0; the limit is (u - v)^2 / (2 u)."""
    u, x_t = np.array([[-3e5, 1e5, 2e5]]), np.array([0])
    kl = losses.path_kl(u, u * (1 + scale), x_t)
    assert float(kl[0]) == pytest.approx(3e5 * scale**2 / 2, rel=max(scale, 1e-6), abs=2e-16 * 3e5 * scale)
    assert kl >= 0


def test_rates_of_0():
    u, x_t = np.array([[-1.0, 1.0, 0.0]]), np.array([0])
    for v, exact, slope in (
        ([-1.0, 1.0, 0.0], 0.0, [0.0, 0.0, 1.0]),
        ([-3.0, 1.0, 2.0], 2.0, [0.0, 0.0, 1.0]),
        ([-2.0, 0.0, 2.0], np.inf, [0.0, -np.inf, 1.0]),
    ):
        value, grad = losses.path_kl_with_grad(u, np.array([v]), x_t)
        assert (value.tolist(), grad.tolist()) == ([exact], [slope])
    tiny = np.array([[-1e-310, 1e-310]])
    assert losses.path_kl(tiny, np.array([[-1e10, 1e10]]), x_t).tolist() == [1e10]


@settings(max_examples=60)
@given(case=cases(), t=inner_times, seed=st.integers(0, 99))
def test_the_divergence_from_the_pair_exceeds_that_from_the_marginal_by_what_no_model_changes(case, t, seed):
    """Bregman: E over pairs of path_kl(u(.|pair), v) - E of path_kl(u, v) is the same for every v."""
    states, (pi, V) = case.states(), (case.problem.pi, case.vocab_size)
    p = oracle.conditional(case.problem, case.kappa(t))
    a, b, _ = oracle.coefficients(case.kappa(t), case.kappa_dot(t))
    pairs = [np.swapaxes(oracle.velocity(a, b, oracle.given_pair(case.problem, k)), 0, 1) for k in range(len(pi))]
    excess = []
    for v in np.random.default_rng(seed).uniform(0.1, 2, (2, *states.shape, V)):
        given = sum(pi[k] * p[k] @ losses.path_kl(pairs[k], v, states).sum(-1) for k in range(len(pi)))
        excess.append(given - (pi @ p) @ losses.path_kl(case.velocity(t), v, states).sum(-1))
    assert excess[0] == pytest.approx(excess[1], abs=1e-11 * (1 - float(b.min())))
    assert excess[0] >= -1e-11 * (1 - float(b.min()))


# Components


@settings(max_examples=40)
@given(case=cases(), t=inner_times, seed=st.integers(0, 99))
def test_the_excess_over_the_least_cross_entropy_is_the_divergence_from_the_posteriors(case, t, seed):
    """L(theta) - L(min) = sum over j, i of E KL(w_hat || w_hat_theta), y enumerated beside x_t."""
    states, problem = case.states(), case.problem
    p, w_hat = oracle.conditional(problem, case.kappa(t)), case.posteriors(t)
    models = tuple(np.random.default_rng(seed).normal(size=(len(w_hat), *w_hat[0].shape)))

    def loss(scores):
        """E over pairs, x_t ~ p_t(.|pair) and every y^j ~ w^j(.|pair)."""
        total = 0.0
        for y in range(case.vocab_size):
            tokens = (np.full(states.shape, y),) * len(w_hat)
            for j, rows in enumerate(scores):
                alone = tuple(rows if k == j else None for k in range(len(w_hat)))
                joint = np.einsum("p,ps,pi->si", problem.pi, p, problem.w[:, j, :, y])
                value = losses.mixture_cross_entropy(alone, tokens)
                total += float(np.sum(joint * np.where(joint > 0, value, 0.0)))
        return total

    law = (problem.pi @ p)[:, None]
    divergence = 0.0
    for exact, rows in zip(w_hat, models, strict=True):
        log_q = rows - np.log(np.sum(np.exp(rows), -1, keepdims=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            kl = np.where(exact > 0, exact * (np.log(exact) - log_q), 0.0)
        divergence += float(np.sum(law * kl.sum(-1)))
    excess = loss(models) - loss(tuple(map(logits, w_hat)))
    assert excess == pytest.approx(divergence, abs=1e-10)
    assert excess > 0


def test_the_loss_of_components_is_the_sum_of_those_that_are_to_be_learnt():
    scores, y, other, _ = batch(2)
    value, grads = losses.mixture_cross_entropy_with_grad((None, scores, scores), (y, y, other))
    parts = [losses.cross_entropy_with_grad(scores, tokens) for tokens in (y, other)]
    assert np.array_equal(value, parts[0][0] + parts[1][0])
    assert np.array_equal(value, losses.mixture_cross_entropy((None, scores, scores), (None, y, other)))
    assert grads[0] is None
    assert all(np.array_equal(mine, part[1]) for mine, part in zip(grads[1:], parts, strict=True))


def test_targets_have_the_law_of_their_component_given_the_pair_and_a_place_of_their_own():
    rows = np.random.default_rng(3).dirichlet(np.ones(3), (3, 3))
    known, four = paths.Fixed((0.2, 0.3, 0.5)), (Bernstein((0.0, 0.5, 0.0)), Bernstein((0.0, 0.5, 0.0)))
    path = Mixture(
        Convex((Bernstein((1.0, 0.0, 0.0)), *four, Bernstein((0.0, 0.0, 1.0)))),
        (paths.X0(), paths.Table(tuple(tuple(map(tuple, r)) for r in rows.tolist())), known, paths.X1()),
    )
    x_0, x_1 = np.tile([0, 2], (40_000, 1)), np.tile([1, 0], (40_000, 1))
    y = losses.targets(path, random.key(5), x_0, x_1)
    assert np.array_equal(y[0], x_0) and y[2] is None and np.array_equal(y[3], x_1)
    assert follows(index(y[1], 3), np.outer(rows[0, 1], rows[2, 0]).ravel())
    x_t = paths.sample(path, random.key(5), x_0, x_1, 0.5)
    both = np.outer(
        oracle.product(paths.pmf(path, x_0[0], x_1[0], 0.5, vocab_size=3)), np.outer(rows[0, 1], rows[2, 0])
    )
    assert follows(9 * index(x_t, 3) + index(y[1], 3), both.ravel()), "independent of x_t, the same key or not"
    later = losses.targets(path, random.key(5), x_0[7:], x_1[7:], first=7)
    assert np.array_equal(later[1], y[1][7:])


def test_components_that_do_not_fit_raise():
    scores, y, *_ = batch(1)
    for given_logits, tokens in (((scores,), (y, y)), ((None, None), (y, y)), ((), ())):
        with pytest.raises(ValueError, match="logits:"):
            losses.mixture_cross_entropy(given_logits, tokens)
    with pytest.raises(ValueError, match="y:"):
        losses.mixture_cross_entropy_with_grad((scores, scores), (y, None))


# Masks and scores


def masked_batch(seed, rows=6):
    """logits float64[rows, 2, 4] of which the last is the mask's, x_1 that they hold possible, x_t and times."""
    scores, x_1, x_t, t = batch(seed, rows=rows)
    x_1 = np.where(x_1 == 3, 0, x_1)
    scores[np.arange(4) == x_1[..., None]] = 0.5
    return scores, x_1, np.where(x_t == x_1, x_1, 3), t


@settings(max_examples=30)
@given(seed=st.integers(0, 999), schedule=schedules)
def test_masked_kl_is_the_generalized_kl_of_the_revealed_logits(seed, schedule):
    scores, x_1, x_t, t = masked_batch(seed)
    path = Mixture(schedule, mask=3)
    exact = losses.generalized_kl(schedule, paths.reveal(path, scores, x_t), x_1, x_t, t)
    value, grad = losses.masked_kl_with_grad(path, scores, x_1, x_t, t)
    for ours in (value, losses.masked_kl(path, scores, x_1, x_t, t)):
        np.testing.assert_allclose(ours, exact, rtol=1e-12, atol=1e-13)
    louder = scores + 9 * (np.arange(4) == 3)
    assert np.array_equal(value, losses.masked_kl(path, louder, x_1, x_t, t)), "the mask's own logit has no say"
    assert np.all(grad[..., 3] == 0) and np.all(grad[x_t != 3] == 0)
    narrow = losses.masked_kl_with_grad(path, scores[..., :3], x_1, x_t, t)
    assert np.array_equal(value, narrow[0]) and np.array_equal(grad[..., :3], narrow[1])


def test_masked_kl_is_finite_at_the_end_where_nothing_is_hidden():
    x_1 = np.array([[0, 1]])
    scores = np.array([[[-np.inf, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    for dtype in (np.float16, np.float32, np.float64):
        value, grad = losses.masked_kl_with_grad(Mixture(mask=2), scores.astype(dtype), x_1, x_1, 1.0)
        assert value.tolist() == [[0.0, 0.0]] and np.all(grad == 0)
        x_t = np.array([[0, 2]])
        value = losses.masked_kl(Mixture(Cosine(), mask=2), scores.astype(dtype), x_1, x_t, 1 - 2.0**-20)
        assert np.all(np.isfinite(value)) and value[0, 0] == 0
    with pytest.raises(ValueError, match="path:"):
        losses.masked_kl(Mixture(), scores, x_1, x_1, 0.5)
    with pytest.raises(ValueError, match="path:"):
        losses.masked_kl_with_grad(Mixture(), scores, x_1, x_1, 0.5)


def reversed_noise(schedule, pmf, x_1, x_t, t):
    """The noise, x redrawn from the source at kappa_dot / kappa, run backwards given x_1, rates float64[..., V]."""
    kappa, rest = schedule.kappa(t), schedule.one_minus_kappa(t)
    p = rest * pmf + kappa * np.eye(len(pmf))[x_1]
    return schedule.kappa_dot(t) / kappa * pmf[x_t][..., None] * p / np.take_along_axis(p, x_t[..., None], -1)


@settings(max_examples=30)
@given(seed=st.integers(0, 999), schedule=st.sampled_from(MONOTONE), t=inner_times)
def test_score_entropy_is_the_path_kl_of_the_reversed_noise(seed, schedule, t):
    """For any source; and the score behind a posterior is the posterior's mean of the ratios."""
    _, x_1, x_t, _ = batch(seed)
    probs = np.random.default_rng(seed).dirichlet(np.ones(4), x_1.shape)
    score = losses.concrete_score(schedule, NOISE, probs, x_t, t)
    u = reversed_noise(schedule, NOISE, x_1, x_t, t)
    v = sum(probs[..., y, None] * reversed_noise(schedule, NOISE, np.full_like(x_1, y), x_t, t) for y in range(4))
    weight = schedule.kappa_dot(t) / schedule.kappa(t) * NOISE[x_t][..., None]
    np.testing.assert_allclose(weight * score, v, rtol=1e-10)
    ours = losses.score_entropy(schedule, NOISE, np.log(score), x_1, x_t, t)
    np.testing.assert_allclose(ours, losses.path_kl(u, v, x_t), rtol=1e-9, atol=1e-12 * float(np.max(u)))


@settings(max_examples=30)
@given(seed=st.integers(0, 999), schedule=schedules)
def test_for_a_mask_score_entropy_is_the_masked_kl_of_the_posterior_behind_the_score(seed, schedule):
    scores, x_1, x_t, t = masked_batch(seed)
    path, t = Mixture(schedule, mask=3), np.maximum(t, 1e-3)
    revealed = paths.reveal(path, scores, x_t)
    probs = np.exp(revealed) / np.sum(np.exp(revealed), -1, keepdims=True)
    score = losses.concrete_score(schedule, MASK, probs, x_t, t)
    value = losses.score_entropy(schedule, MASK, logits(score), x_1, x_t, t)
    exact = losses.masked_kl(path, scores, x_1, x_t, t)
    np.testing.assert_allclose(value, exact, rtol=1e-9, atol=1e-12)


def test_for_another_source_the_two_bounds_are_of_two_models():
    """What is often said of all sources is true of the mask: uniform noise run backwards also redraws right tokens."""
    _, x_1, x_t, t = batch(0)
    probs = np.full((*x_1.shape, 4), 0.25)
    score = losses.concrete_score(Linear(), np.full(4, 0.25), probs, x_t, t)
    ours = losses.score_entropy(Linear(), np.full(4, 0.25), np.log(score), x_1, x_t, t)
    assert np.min(np.abs(ours - losses.generalized_kl(Linear(), np.log(probs), x_1, x_t, t))) > 1e-2


def test_the_score_of_the_exact_posterior_is_the_ratio_of_the_law_and_the_least_score_entropy():
    rng, t = np.random.default_rng(1), 0.4
    q = rng.dirichlet(np.ones(9))
    for pmf in (NOISE[:3] / 0.6, np.array([0.0, 0.0, 1.0])):
        q = q * np.all(oracle.states(3, 2) < 2, axis=-1) if pmf[0] == 0 else q
        q = q / q.sum()
        free = np.array([False, False])
        pairs = oracle.prompted(q, np.stack([pmf, pmf]), free)
        problem = oracle.enumerate_pairs(pairs, np.stack([oracle.at_x_0(3), oracle.at_x_1(3)]).astype(float))
        kappa = np.array([[1 - t, t]] * 2)
        p, states = oracle.marginal(problem, kappa), oracle.states(3, 2)
        w_hat, reachable = oracle.posteriors(problem, kappa)
        score = losses.concrete_score(Linear(), pmf, np.swapaxes(w_hat[1], 0, 1), states, t)
        never = pmf[states] == 0
        assert np.all(score[never] == oracle.delta(states, 3)[never]), (
            "a ratio that no posterior knows, and no loss asks for"
        )
        best = least = 0.0
        for z, row in enumerate(states):
            for i, x in product(range(2), range(3)):
                y = row.copy()
                y[i] = x
                if reachable[z] and pmf[row[i]]:
                    assert score[z, i, x] == pytest.approx(p[index(y, 3)] / p[z], rel=1e-12)
        for noise in (0.0, 0.3):
            log_score = logits(score) + noise * rng.normal(size=score.shape)
            least, best = (
                best,
                sum(
                    pi * p_z @ losses.score_entropy(Linear(), pmf, log_score, np.tile(x_1, (9, 1)), states, t).sum(-1)
                    for pi, x_1, p_z in zip(problem.pi, problem.x_1, oracle.conditional(problem, kappa), strict=True)
                ),
            )
        assert best > least > 0, "any other score costs more"


# All gradients


def gradient_cases(seed, holes=0.0):
    """(name, value of the learnt array, the array, its gradient), one each."""
    scores, x_1, x_t, t = batch(seed, holes=holes)
    t = np.maximum(t, 0.05)
    masked, m_1, m_t, _ = masked_batch(seed)
    u, v, z = rates(seed)
    path = Mixture(PER_TOKEN, mask=3)
    log_score = np.random.default_rng(seed).normal(size=scores.shape)
    return {
        "mixture": (
            lambda s, asarray=np.asarray: losses.mixture_cross_entropy((None, s), (None, asarray(x_1))),
            scores,
            losses.mixture_cross_entropy_with_grad((None, scores), (None, x_1))[1][1],
        ),
        "masked": (
            lambda s, asarray=np.asarray: losses.masked_kl(path, s, *map(asarray, (m_1, m_t, t))),
            np.where(np.isfinite(masked), masked, -3.0),
            losses.masked_kl_with_grad(path, np.where(np.isfinite(masked), masked, -3.0), m_1, m_t, t)[1],
        ),
        "path": (
            lambda w, asarray=np.asarray: losses.path_kl(asarray(u), w, asarray(z)),
            v + 0.1,
            losses.path_kl_with_grad(u, v + 0.1, z)[1],
        ),
        "score": (
            lambda s, asarray=np.asarray: losses.score_entropy(PER_TOKEN, NOISE, s, *map(asarray, (x_1, x_t, t))),
            log_score,
            losses.score_entropy_with_grad(PER_TOKEN, NOISE, log_score, x_1, x_t, t)[1],
        ),
        "score of a mask": (
            lambda s, asarray=np.asarray: losses.score_entropy(PER_TOKEN, MASK, s, *map(asarray, (m_1, m_t, t))),
            log_score,
            losses.score_entropy_with_grad(PER_TOKEN, MASK, log_score, m_1, m_t, t)[1],
        ),
    }


@pytest.mark.parametrize("name", gradient_cases(0))
@pytest.mark.parametrize("seed", range(5))
def test_the_other_gradients_are_the_central_differences(name, seed):
    value, at, grad = gradient_cases(seed)[name]
    for v in range(at.shape[-1]):
        step = 1e-5 * (np.arange(at.shape[-1]) == v)
        difference = (value(at + step) - value(at - step)) / 2e-5
        np.testing.assert_allclose(grad[..., v], difference, atol=1e-7 * (1 + np.max(np.abs(grad))))


@pytest.mark.parametrize("name", gradient_cases(0))
def test_the_other_gradients_are_those_of_torch_and_jax(name):
    value, at, grad = gradient_cases(7)[name]
    backend("torch"), backend("jax")
    import jax
    import torch

    leaf = torch.tensor(at, requires_grad=True)
    tolerance = 1e-12 * (1 + np.abs(grad).max())
    np.testing.assert_allclose(
        torch.autograd.grad(value(leaf, torch.tensor).sum(), leaf)[0], grad, rtol=1e-12, atol=tolerance
    )
    by_jax = jax.grad(lambda a: value(a, jax.numpy.asarray).sum())(jax.numpy.asarray(at))
    np.testing.assert_allclose(by_jax, grad, rtol=1e-12, atol=tolerance)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_library_has_the_other_losses(name):
    b = backend(name)
    for value, at, _ in gradient_cases(3).values():
        np.testing.assert_allclose(b.to_numpy(value(b.asarray(at), b.asarray)), value(at), rtol=1e-12, atol=1e-12)
    y = losses.targets(Mixture(), random.key(0), *map(b.asarray, batch(1)[1:3]))
    assert np.array_equal(b.to_numpy(y[1]), batch(1)[2])


def test_wild_scores_and_half_precision_stay_finite():
    """Sees exp of a log-score that underflows: r log s = -1000 r is an ordinary number."""
    x_1, x_t = np.array([[1, 1]]), np.array([[0, 1]])
    for dtype in (np.float16, np.float32, np.float64):
        log_score = np.broadcast_to(np.array([0.0, -1000.0, -1000.0], dtype), (1, 2, 3))
        value, grad = losses.score_entropy_with_grad(Linear(), np.full(3, 1 / 3), log_score, x_1, x_t, 0.5)
        # weight 2/3, r = (4, 1) at s = (0, 0), and (1/4, 1/4) at s = (1, 0)
        exact = [[2 / 3 * (4000 + 4 * (log(4) - 1) + 999), 2 / 3 * (251 + (log(1 / 4) - 1) / 2)]]
        np.testing.assert_allclose(value, exact, rtol=1e-3 if dtype == np.float16 else 1e-12)
        assert np.all(np.isfinite(grad))
    u = np.array([[-1.0, 1.0]], np.float16)
    assert losses.path_kl(u, u * np.float16(1e-4), np.array([0])).dtype == np.float32


def test_what_a_score_holds_impossible_costs_infinity_and_an_unreachable_state_nothing():
    uniform = np.full(2, 0.5)
    never = np.array([[-np.inf, -np.inf]])
    assert losses.score_entropy(Linear(), uniform, never, np.array([1]), np.array([0]), 0.5).tolist() == [np.inf]
    lost = losses.score_entropy_with_grad(
        Linear(), np.array([0.0, 0.0, 1.0]), np.zeros((1, 3)), *np.array([[0], [1]]), 0.5
    )
    assert lost[0].tolist() == [0.0] and np.all(lost[1] == 0)


def test_the_other_shapes_that_do_not_match_raise():
    scores, x_1, x_t, t = batch(1)
    u, v, z = rates(1)
    three = Convex((Bernstein((1.0, 0.0, 0.0)), Bernstein((0.0, 1.0, 0.0)), Bernstein((0.0, 0.0, 1.0))))
    for function, arguments, words in (
        (losses.path_kl, (u, v[:2], z), "v:"),
        (losses.path_kl_with_grad, (u, v, z[:2]), "x_t:"),
        (losses.masked_kl, (Mixture(mask=3), scores, x_1[:3], x_t, t), "y:"),
        (losses.masked_kl, (Mixture(mask=3), scores, x_1, x_t, t[:2]), "t:"),
        (losses.score_entropy, (Linear(), NOISE, scores, x_1, x_t[:2], t), "x_t:"),
        (losses.score_entropy_with_grad, (Linear(), NOISE, scores, x_1, x_t, t[:2]), "t:"),
        (losses.score_entropy, (three, NOISE, scores, x_1, x_t, t), "schedule:"),
        (losses.concrete_score, (Linear(), NOISE, scores[:2], x_t, t), "probs_1:"),
        (losses.targets, (Mixture(), random.key(0), x_1, x_t[:2]), "x_1:"),
    ):
        with pytest.raises(ValueError, match=words):
            function(*arguments)


def test_where_no_event_happens_an_impossible_token_costs_nothing():
    """At t = 0 of a schedule that starts flat: u log(u / v) is 0 at u = 0, and 0 times +inf is no number."""
    logits, x_1, x_t = np.array([[[0.0, -np.inf, 0.0]]]), np.array([[1]]), np.array([[2]])
    assert losses.generalized_kl(Polynomial(2.0), logits, x_1, x_t, np.array([0.0])) == 0
    assert losses.generalized_kl_with_grad(Polynomial(2.0), logits, x_1, x_t, np.array([0.0]))[0] == 0
    path = Mixture(Polynomial(2.0), mask=2)
    assert losses.masked_kl(path, logits, x_1, x_t, np.array([0.0])) == 0
    assert losses.masked_kl_with_grad(path, logits, x_1, x_t, np.array([0.0]))[0] == 0
    assert np.isinf(losses.generalized_kl(Polynomial(2.0), logits, x_1, x_t, np.array([0.5])))


def test_a_path_that_redraws_from_another_component_has_no_generalized_kl():
    three = Convex((Bernstein((1.0, 0.0, 0.0)), Bernstein((0.0, 1.0, 0.0)), Bernstein((0.0, 0.0, 1.0))))
    x = np.array([[0, 1]])
    for function in (losses.generalized_kl, losses.generalized_kl_with_grad):
        for schedule in (RETURNING, three):
            with pytest.raises(ValueError, match="redraws from X1"):
                function(schedule, np.zeros((1, 2, 2)), x, x, 0.5)
        function(RETURNING, np.zeros((1, 2, 2)), x, x, 0.1)  # where it rises
        with pytest.raises(ValueError, match="expected one for each of 2 tokens, got 3"):
            function(PerToken((Linear(),) * 3), np.zeros((1, 2, 2)), x, x, 0.5)
