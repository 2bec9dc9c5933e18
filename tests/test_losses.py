"""Losses against their formulas in 50 digits and the sum over x, gradients against differences and two autodiffs."""

from itertools import product
from math import factorial, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, MONOTONE, backend, inner_times, logits

from dfm_ref import losses, paths
from dfm_ref.paths import Mixture
from dfm_ref.schedules import Cosine, CubicHermite, Linear, PerToken, Polynomial
from dfm_ref.velocities import forward

mp = pytest.importorskip("mpmath")

PER_TOKEN = PerToken((Cosine(), Polynomial(2.0)))
schedules = st.sampled_from([*MONOTONE, PER_TOKEN])


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
