"""Couplings pair data with its source as they say."""

import sys
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, backend, follows, logits

from dfm_ref import couplings, sources, transitions, velocities
from dfm_ref.paths import Mixture
from dfm_ref.random import key
from dfm_ref.samplers import sample
from dfm_ref.schedules import Polynomial
from dfm_ref.sources import Marginal, Masked, Uniform
from dfm_ref.verify import oracle

KEY = key(8)
X_1 = np.random.default_rng(0).integers(0, 3, (20_000, 2))


def test_independent_pairs_factorise():
    """Sees x_0 copied from x_1 and x_0 that lags behind it by one sequence."""
    source = Marginal((0.2, 0.0, 0.8))
    x_0, x_1 = couplings.independent(source, KEY, X_1)
    assert np.array_equal(x_1, X_1)
    for data in (X_1[:, 0], np.roll(X_1[:, 0], 1)):
        share = np.bincount(data, minlength=3) / len(data)
        assert follows(x_0[:, 0] * 3 + data, np.outer(source.pmf(), share).ravel())
    assert np.array_equal(x_0, sources.sample(source, KEY, X_1.shape))


def test_prompted_tokens_start_as_they_end_and_the_others_at_the_source():
    keep = np.random.default_rng(1).integers(0, 2, X_1.shape).astype(bool)
    x_0, x_1 = couplings.prompted(Uniform(3), KEY, X_1, keep)
    free = couplings.independent(Uniform(3), KEY, X_1).x_0
    assert np.array_equal(x_1, X_1)
    assert np.array_equal(x_0[keep], X_1[keep])
    assert np.array_equal(x_0[~keep], free[~keep])


@pytest.mark.parametrize("name", BACKENDS)
def test_pairs_are_the_same_on_every_library_whole_or_split(name):
    b, keep = backend(name), X_1[:6] == 1
    for source in (Masked(4), Uniform(3)):
        whole = couplings.prompted(source, KEY, X_1[:6], keep, first=3)
        parts = [
            couplings.prompted(source, KEY, b.asarray(X_1[i : i + 2]), b.asarray(keep[i : i + 2]), first=3 + i)
            for i in (0, 2, 4)
        ]
        assert np.array_equal(np.concatenate([b.to_numpy(part.x_0) for part in parts]), whole.x_0)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_the_source_has_the_type_of_the_data(dtype):
    x_1 = X_1[:4].astype(dtype)
    assert couplings.independent(Uniform(3), KEY, x_1).x_0.dtype == dtype
    assert couplings.prompted(Uniform(3), KEY, x_1, x_1 == 1).x_0.dtype == dtype


def test_a_mask_that_the_type_cannot_hold_never_wraps_to_a_token():
    """Bytes with a mask beyond them: 256 as uint8 would read 0, a token of the data."""
    x_1 = np.array([[7, 255]], dtype=np.uint8)
    try:
        x_0 = couplings.independent(Masked(257), KEY, x_1).x_0
    except (ValueError, TypeError, OverflowError):
        return
    assert x_0.tolist() == [[256, 256]]


def test_given_pairs_are_taken_as_they_are():
    pair = couplings.given(X_1[::-1], X_1)
    assert np.array_equal(pair.x_0, X_1[::-1])
    assert np.array_equal(pair.x_1, X_1)
    with pytest.raises(ValueError, match="x_1"):
        couplings.given(X_1, X_1[:-1])


def test_an_empty_batch():
    x_0, x_1 = couplings.independent(Uniform(3), KEY, X_1[:0])
    assert x_0.shape == x_1.shape == (0, 2)


def test_arguments_stay_as_they_were():
    x_1, keep = X_1.copy(), X_1 == 2
    couplings.prompted(Uniform(3), KEY, x_1, keep)
    assert np.array_equal(x_1, X_1)
    assert np.array_equal(keep, X_1 == 2)


# Prompts


@pytest.mark.parametrize("kind", ["mask", "uniform"])
@pytest.mark.parametrize("keep", [(True, False), (False, True), (True, True), (False, False)])
def test_no_law_ever_moves_a_prompt(kind, keep):
    """At every state that a prompted path reaches, with the exact posteriors; sampled paths keep it too."""
    q = np.zeros((3, 3))
    q[:2, :2] = [[0.25, 0.25], [0.125, 0.375]]
    source = {"mask": Masked(3), "uniform": Uniform(3)}[kind]
    pi = oracle.prompted(q.ravel(), np.tile(source.pmf(), (2, 1)), np.array(keep))
    problem = oracle.enumerate_pairs(pi, np.stack([oracle.at_x_0(3), oracle.at_x_1(3)]))
    path, t, s, x_t = Mixture(Polynomial(2.0)), 0.5, 0.75, oracle.states(3, 2)

    def posteriors(time):
        kappa = np.tile([1 - time**2, time**2], (2, 1))
        w_hat, reachable = oracle.posteriors(problem, kappa)
        return tuple(np.swapaxes(w_hat, 1, 2).astype(np.float64)), reachable

    w_hat, reachable = posteriors(t)
    prompt, here = np.broadcast_to(keep, x_t.shape) & reachable[:, None], np.eye(3)[x_t]
    assert np.all(velocities.forward(path, w_hat, x_t, t)[prompt] == 0)
    assert np.all(velocities.backward(path, w_hat, x_t, t)[prompt] == 0)
    np.testing.assert_allclose(transitions.finite(path, w_hat, x_t, t, s)[prompt], here[prompt], atol=1e-15)

    x_1 = x_t[np.random.default_rng(0).choice(9, size=200, p=q.ravel())]
    x_0 = couplings.prompted(source, KEY, x_1, np.array(keep)).x_0
    frames = sample(
        path, lambda x, t: logits(posteriors(t[0])[0][1][x @ [3, 1]]), KEY, x_0, [0, 0.3, 0.7, 1], frames=True
    )
    assert np.array_equal(frames[..., keep], np.broadcast_to(x_1[:, keep], (4, 200, sum(keep))))
    assert all(keep) or np.any(frames[-1] != x_0)


def test_one_pattern_of_a_prompt_serves_every_sequence():
    one, each = np.array([True, False]), np.tile([True, False], (len(X_1), 1))
    assert np.array_equal(*(couplings.prompted(Masked(4), KEY, X_1, keep).x_0 for keep in (one, each)))


@pytest.mark.parametrize(
    "keep",
    [
        np.ones(3, bool),
        np.ones(1, bool),
        np.ones((5, 3), bool),
        np.ones((4, 2), bool),
        np.ones((1, 2), bool),
        np.bool_(1),
    ],
    ids=lambda keep: str(keep.shape),
)
def test_a_prompt_of_another_shape_raises(keep):
    """Sees a prompt longer than the sequences, and one token's answer broadcast to all."""
    with pytest.raises(ValueError, match="keep"):
        couplings.prompted(Masked(4), KEY, X_1[:5], keep)


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_a_prompt_of_numbers_raises(dtype):
    with pytest.raises(TypeError, match="keep"):
        couplings.prompted(Masked(4), KEY, X_1, (X_1 == 1).astype(dtype))


# Pairs drawn from a table


@pytest.mark.parametrize("pi", [[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.1, 0.0, 0.9]])
def test_drawn_pairs_follow_their_table(pi):
    x_0, x_1 = np.array([[0, 1], [2, 2], [1, 0]]), np.array([[1, 1], [0, 2], [1, 0]])
    pair = couplings.drawn(KEY, x_0, x_1, pi=np.array(pi), num=20_000)
    which = np.argmax(np.all(pair.x_0[:, None] == x_0, axis=-1), axis=-1)
    assert np.array_equal(pair.x_0, x_0[which]) and np.array_equal(pair.x_1, x_1[which])
    assert follows(which, pi)


@pytest.mark.parametrize("name", BACKENDS)
def test_drawn_pairs_are_the_same_on_every_library_whole_or_split(name):
    b, pi = backend(name), np.array([0.5, 0.25, 0.125, 0.125])
    whole = couplings.drawn(KEY, X_1[:4], X_1[4:8], pi=pi, num=9)
    for weights in (pi, b.asarray(pi), b.asarray(pi.astype(np.float32))):
        parts = [
            couplings.drawn(KEY, b.asarray(X_1[:4]), b.asarray(X_1[4:8]), pi=weights, num=3, first=i) for i in (0, 3, 6)
        ]
        for ours, exact in zip(zip(*parts, strict=True), whole, strict=True):
            assert np.array_equal(np.concatenate([b.to_numpy(x) for x in ours]), exact)


@pytest.mark.parametrize(
    "pi",
    [[0.5, 0.4], [0.5, 0.5001], [1.5, -0.5], [np.nan, 1.0], [np.inf, 0.0], [0.5, 0.25, 0.25], [[0.5, 0.5]], 1.0],
    ids=str,
)
def test_a_table_that_is_no_coupling_raises(pi):
    with pytest.raises(ValueError, match="pi"):
        couplings.drawn(KEY, X_1[:2], X_1[:2], pi=np.array(pi), num=3)


def test_a_table_of_pairs_that_do_not_match_raises():
    with pytest.raises(ValueError, match="x_1"):
        couplings.drawn(KEY, X_1[:2], X_1[:3], pi=np.array([0.5, 0.5]), num=3)


# Transport


batches = st.tuples(st.integers(1, 5), st.integers(0, 2**32), st.booleans())


def _batch(size, seed, *, vocab_size=4, length=3):
    rng = np.random.default_rng(seed)
    distance = rng.integers(0, 16, (vocab_size, vocab_size)) / 16.0  # sums of sixteenths are exact
    return *rng.integers(0, vocab_size, (2, size, length)), distance


def _cost(x_0, x_1, distance):
    return np.sum(distance[x_0, x_1])


@settings(max_examples=60)
@given(batch=batches)
def test_transport_is_the_best_of_all_permutations_and_keeps_both_laws(batch):
    size, seed, hamming = batch
    x_0, x_1, distance = _batch(size, seed)
    distance = 1 - np.eye(4) if hamming else distance
    pair = couplings.optimal_transport(x_0, x_1, distance=None if hamming else distance)
    assert np.array_equal(pair.x_1, x_1)
    assert sorted(map(tuple, pair.x_0)) == sorted(map(tuple, x_0))
    least = min(_cost(x_0[list(order)], x_1, distance) for order in permutations(range(size)))
    assert _cost(*pair, distance) == least


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), shuffle=st.permutations(range(5)))
def test_transport_does_not_see_the_order_of_its_batch(seed, shuffle):
    """Single tokens, at distances of which no two sums agree; longer sequences may tie."""
    x_0, x_1, _ = _batch(5, seed, vocab_size=8, length=1)
    distance = np.random.default_rng(seed).uniform(size=(8, 8))
    one = couplings.optimal_transport(x_0, x_1, distance=distance)
    other = couplings.optimal_transport(x_0[list(shuffle)], x_1[list(reversed(shuffle))], distance=distance)
    assert _pairs(one) == _pairs(other)


def _pairs(pair):
    return sorted((*a, *b) for a, b in zip(pair.x_0.tolist(), pair.x_1.tolist(), strict=True))


@pytest.mark.parametrize("name", BACKENDS)
def test_transport_is_the_same_on_every_library(name):
    b = backend(name)
    x_0, x_1, distance = _batch(7, 3)
    for table in (None, distance):
        exact = couplings.optimal_transport(x_0, x_1, distance=table)
        ours = couplings.optimal_transport(
            b.asarray(x_0), b.asarray(x_1), distance=None if table is None else b.asarray(table)
        )
        assert all(np.array_equal(b.to_numpy(x), y) for x, y in zip(ours, exact, strict=True))


def test_a_batch_already_paired_stays_and_small_types_do_not_wrap():
    x = X_1[:6].astype(np.uint8) + np.uint8(250)
    assert all(np.array_equal(side, x) for side in couplings.optimal_transport(x, x))
    assert couplings.optimal_transport(x[::-1], x).x_0.dtype == np.uint8


@pytest.mark.parametrize(
    ("change", "error", "argument"),
    [
        ({"x_0": np.zeros((3, 3), int)}, ValueError, "x_1"),
        ({"x_0": np.zeros(2, int), "x_1": np.zeros(2, int)}, ValueError, "x_0"),
        ({"x_0": np.zeros((0, 3), int), "x_1": np.zeros((0, 3), int)}, ValueError, "x_0"),
        ({"x_0": np.zeros((2, 3))}, TypeError, "x_0"),
        ({"x_1": np.full((2, 3), -1)}, ValueError, "x_1"),
        ({"x_0": np.full((2, 3), 4)}, ValueError, "x_0"),
        ({"distance": np.zeros((4, 5))}, ValueError, "distance"),
        ({"distance": np.zeros(4)}, ValueError, "distance"),
        ({"distance": np.full((4, 4), np.nan)}, ValueError, "distance"),
        ({"distance": np.full((4, 4), np.inf)}, ValueError, "distance"),
    ],
)
def test_what_cannot_be_transported_raises(change, error, argument):
    arguments = {"x_0": np.zeros((2, 3), int), "x_1": np.zeros((2, 3), int), "distance": np.zeros((4, 4))} | change
    with pytest.raises(error, match=argument):
        couplings.optimal_transport(**arguments)


def test_sinkhorn_draws_from_the_plan_of_least_cost_and_entropy():
    """Against the plan in closed form: [[p, 1/2 - p], ...] with p / (1/2 - p) = exp(gap / (2 regularization))."""
    pytest.importorskip("ot")
    x_0, x_1 = np.array([[0, 0], [1, 1]]), np.array([[0, 0], [1, 1]])
    odds = np.exp(4 / 2 / 1.5)
    law = [[odds / (1 + odds), 1 / (1 + odds)], [1 / (1 + odds), odds / (1 + odds)]]
    draws = np.stack([couplings.sinkhorn(key(i), x_0, x_1, regularization=1.5).x_0[:, 0] for i in range(3000)])
    for row in (0, 1):
        assert follows(draws[:, row], law[row])
    assert follows(2 * draws[:, 0] + draws[:, 1], np.outer(*law).ravel())  # rows draw independently


def test_sinkhorn_goes_from_transport_to_independent_pairs():
    pytest.importorskip("ot")
    x_0, x_1, distance = _batch(6, 8)
    best = couplings.optimal_transport(x_0, x_1, distance=distance)
    sharp = couplings.sinkhorn(KEY, x_0, x_1, regularization=2.0**-7, distance=distance)
    assert _cost(*sharp, distance) == _cost(*best, distance)
    loose = couplings.sinkhorn(KEY, np.tile([[0, 0], [1, 1]], (500, 1)), np.ones((1000, 2), int), regularization=1e6)
    assert follows(loose.x_0[:, 0], [0.5, 0.5])
    assert np.array_equal(loose.x_1, np.ones((1000, 2)))


@pytest.mark.parametrize("name", BACKENDS)
def test_sinkhorn_draws_the_same_pairs_on_every_library(name):
    pytest.importorskip("ot")
    b = backend(name)
    x_0, x_1, _ = _batch(7, 3)
    exact = couplings.sinkhorn(KEY, x_0, x_1, regularization=1.0, first=5)
    ours = couplings.sinkhorn(KEY, b.asarray(x_0), b.asarray(x_1), regularization=1.0, first=5)
    assert all(np.array_equal(b.to_numpy(x), y) for x, y in zip(ours, exact, strict=True))
    assert not np.array_equal(exact.x_0, couplings.sinkhorn(KEY, x_0, x_1, regularization=1.0).x_0)


@pytest.mark.parametrize("regularization", [0.0, -1.0, np.nan, np.inf, 1e-9])
def test_sinkhorn_says_where_it_has_no_plan(regularization):
    pytest.importorskip("ot")
    x_0, x_1, distance = _batch(5, 2)
    with pytest.raises(ValueError, match="regularization"):
        couplings.sinkhorn(KEY, x_0, x_1, regularization=regularization, distance=distance)


def test_without_pot_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r"dfm_ref\[ot\]"):
        couplings.sinkhorn(KEY, X_1[:2], X_1[:2], regularization=1.0)
