"""Paths: the law of a token given the pair, and draws that follow it token by token."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, RETURNING, SWITCHING, backend, cases, follows, index, inner_times

from dfm_ref import events, paths, random
from dfm_ref.paths import X0, X1, Fixed, Mixture, Table
from dfm_ref.schedules import Bernstein, Convex, Cosine, Linear, PerToken, Polynomial
from dfm_ref.verify import oracle

KEY = random.key(2)
times = inner_times | st.sampled_from([0.0, 1.0])
TABLE = Table(tuple(tuple(tuple(np.roll((0.2, 0.5, 0.3), i - j).tolist()) for j in range(3)) for i in range(3)))
PATHS = {
    "linear": Mixture(),
    "per token": Mixture(PerToken((Cosine(), Polynomial(3.0)))),
    "fixed": Mixture(SWITCHING, (X0(), Fixed((0.1, 0.0, 0.9)), X1())),
    "rows": Mixture(SWITCHING, (X0(), Fixed(((0.1, 0.0, 0.9), (0.5, 0.5, 0.0))), X1())),
    "table": Mixture(SWITCHING, (X0(), TABLE, X1())),
    "four": Mixture(
        Convex((*(Bernstein(tuple(np.eye(4)[k].tolist())) for k in (0, 1, 2)), Bernstein((0.0, 0.0, 0.0, 1.0)))),
        (X0(), TABLE, Fixed((1 / 3, 1 / 3, 1 / 3)), X1()),
    ),
    "mask": Mixture(mask=2),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


@settings(max_examples=100)
@given(case=cases(), t=times)
def test_the_law_given_a_pair_is_the_oracle_s(case, t):
    x_0, x_1 = case.problem.x_0, case.problem.x_1
    w = paths.component_pmfs(case.path, x_0, x_1, vocab_size=case.vocab_size)
    np.testing.assert_allclose(np.stack(w, 1), case.problem.w, atol=1e-15)
    for time in (t, np.full(len(x_0), t)):
        p = paths.pmf(case.path, x_0, x_1, time, vocab_size=case.vocab_size)
        assert p.dtype == np.float64
        np.testing.assert_allclose(p, oracle.token_marginals(case.problem, case.kappa(t)), rtol=0, atol=1e-14)
    if t in (0.0, 1.0):
        assert np.array_equal(p, oracle.delta(x_0 if t == 0 else x_1, case.vocab_size))


@settings(max_examples=60)
@given(case=cases(), t=times.filter(lambda t: t < 1), s=times)
def test_the_finite_step_carries_the_law_given_a_pair_from_t_to_s(case, t, s):
    t, s = min(t, s), max(t, s)
    if t == s:
        return
    law = partial(paths.pmf, case.path, case.problem.x_0, case.problem.x_1, vocab_size=case.vocab_size)
    w = paths.component_pmfs(case.path, case.problem.x_0, case.problem.x_1, vocab_size=case.vocab_size)
    ends = np.array([[t]]), np.array([[s]])
    c, stay = events.redraw_weights(case.path.schedule, *ends), events.stay(case.path.schedule, *ends)
    moved = stay[..., None] * law(t) + sum(c[..., None] * w for c, w in zip(c, w, strict=True))
    np.testing.assert_allclose(moved, law(s), rtol=0, atol=1e-14)


@pytest.mark.parametrize("t", [0.3, 0.8])
@every_path
def test_samples_follow_the_law_with_tokens_independent_given_the_pair(path, t):
    """Sees the coin reused for the value, components swapped, one coin for all tokens, and rows of tokens swapped."""
    x_0, x_1 = np.array([2, 2] if path.mask else [0, 1]), np.array([1, 0] if path.mask else [2, 0])
    pairs = (np.broadcast_to(x, (20_000, 2)) for x in (x_0, x_1))
    x_t = paths.sample(path, KEY, *pairs, t)
    exact = np.multiply.outer(*paths.pmf(path, x_0, x_1, t, vocab_size=3)).ravel()
    assert follows(index(x_t, 3), exact)


@pytest.mark.parametrize("name", BACKENDS)
@every_path
def test_each_token_draws_at_its_two_sites_on_every_library(path, name):
    """The coin at 2((first + b) N + i) picks the first component whose cumulative weight exceeds it; the next draws."""
    b, first, rng = backend(name), 2**31, np.random.default_rng(0)
    x_0, x_1, t = *rng.integers(0, 3, (2, 50, 2)), rng.uniform(size=50)
    sites = 2 * ((first + np.arange(50))[:, None] * 2 + np.arange(2))
    coin, value = random.uniform_at(KEY, sites), random.uniform_at(KEY, sites + 1)
    kappa = np.stack(np.broadcast_arrays(*path.schedule.kappas(t[:, None]), coin)[:-1], -1)
    w = np.stack(paths.component_pmfs(path, x_0, x_1, vocab_size=3), -2)
    j = np.sum(np.cumsum(kappa, -1)[..., :-1] <= coin[..., None], -1)
    dense = random.choose(np.take_along_axis(w, j[..., None, None], -2)[..., 0, :], value)
    x_t = b.to_numpy(paths.sample(path, KEY, *map(b.asarray, (x_0, x_1, t)), first=first))
    assert np.array_equal(x_t, dense)


@every_path
def test_a_batch_may_be_split_and_times_shared(path):
    x_0, x_1 = np.random.default_rng(1).integers(0, 3, (2, 7, 2))
    whole = paths.sample(path, KEY, x_0, x_1, 0.4, first=5)
    assert np.array_equal(whole, paths.sample(path, KEY, x_0, x_1, np.full(7, 0.4), first=5))
    parts = [paths.sample(path, KEY, x_0[i : i + 3], x_1[i : i + 3], 0.4, first=5 + i) for i in (0, 3, 6)]
    assert np.array_equal(whole, np.concatenate(parts))
    assert np.array_equal(paths.sample(path, KEY, x_0, x_1, 0.0), x_0)
    assert np.array_equal(paths.sample(path, KEY, x_0, x_1, 1.0), x_1)


@every_path
def test_small_integers_give_the_tokens_of_large_ones(path):
    x_0, x_1 = np.random.default_rng(1).integers(0, 3, (2, 30, 2))
    for dtype in (np.int32, np.uint8):
        small = paths.sample(path, KEY, x_0.astype(dtype), x_1.astype(dtype), 0.5)
        assert small.dtype == dtype
        assert np.array_equal(small, paths.sample(path, KEY, x_0, x_1, 0.5))


def test_a_table_over_bytes_reads_the_row_of_its_pair():
    """20 x 20 pairs of uint8 tokens: the row 19 * 20 + 3 lies beyond 255."""
    rows = np.eye(20)[(np.arange(20)[:, None] + np.arange(20)) % 20]
    table = Table(tuple(tuple(map(tuple, row)) for row in rows.tolist()))
    x_0, x_1 = np.array([[19, 19]], np.uint8), np.array([[3, 18]], np.uint8)
    assert np.argmax(table.pmf(x_0, x_1, 20), -1).tolist() == [[2, 17]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_the_law_over_all_bytes(dtype):
    x_0, x_1 = np.array([[0, 255]], dtype), np.array([[7, 128]], dtype)
    p = paths.pmf(Mixture(), x_0, x_1, 0.25, vocab_size=256)
    assert np.array_equal(p, 0.75 * np.eye(256)[x_0] + 0.25 * np.eye(256)[x_1])


def test_empty_and_smallest_shapes():
    empty = np.zeros((0, 2), np.int64)
    assert paths.sample(Mixture(), KEY, empty, empty, 0.5).shape == (0, 2)
    assert paths.pmf(Mixture(), empty, empty, np.zeros(0), vocab_size=3).shape == (0, 2, 3)
    one = np.zeros((1, 1), np.int64)
    assert paths.sample(Mixture(), KEY, one, one, 0.5).tolist() == [[0]]
    assert paths.pmf(Mixture(), one, one, 0.5, vocab_size=1).tolist() == [[[1.0]]]
    assert paths.sample(Mixture(), KEY, np.array([0, 0]), np.array([1, 1]), 1.0).tolist() == [1, 1]
    stack = np.zeros((2, 3, 4), np.int64)
    assert paths.sample(Mixture(), KEY, stack, stack + 1, np.full((2, 3), 0.5)).shape == (2, 3, 4)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("without_mask", [False, True])
def test_a_mask_path_reveals_what_it_knows(name, without_mask):
    """Sees NaN on a revealed token of which some other token, or itself, has the logit -inf."""
    b, path = backend(name), Mixture(mask=2)
    logits = np.array([[1.0, -2.0, 5.0], [-np.inf, 3.0, 0.0], [2.0, -np.inf, 0.0], [-np.inf, 0.5, 1.0]])
    x_t = np.array([2, 1, 1, 2])
    ours = b.to_numpy(paths.reveal(path, b.asarray(logits[:, : 2 if without_mask else 3]), b.asarray(x_t)))
    infinity = np.inf
    assert np.array_equal(ours[[0, 3]], [[1.0, -2.0, -infinity], [-infinity, 0.5, -infinity]])
    assert np.array_equal(np.isfinite(ours[1:3]), [[False, True, False]] * 2)
    assert not np.any(np.isnan(ours))
    plain = b.asarray(logits)
    assert paths.reveal(Mixture(), plain, b.asarray(x_t)) is plain


def test_times_stand_beside_the_tokens():
    x = np.zeros((4, 2), np.int64)
    assert paths.per_token(0.5, x).shape == (1,)
    assert paths.per_token(np.zeros(4), x).shape == (4, 1)
    assert paths.per_token(np.zeros(4, np.float32), x).dtype == np.float64
    for t in (np.zeros(3), np.zeros((4, 2)), np.zeros((4, 1))):
        with pytest.raises(ValueError, match="t:"):
            paths.per_token(t, x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mixture(Linear(), (X0(), X0())),
        lambda: Mixture(Linear(), (X1(), X0())),
        lambda: Mixture(Linear(), (X0(), Fixed((1.0,)), X1())),
        lambda: Mixture(SWITCHING),
        lambda: Mixture(Convex((Bernstein((0.5, 0.0)), Bernstein((0.5, 1.0))))),
        lambda: Mixture(Convex((Bernstein((1.0, 0.5)), Bernstein((0.0, 0.5))))),
        lambda: Mixture(SWITCHING, (X0(), TABLE, X1()), mask=2),
        lambda: Fixed((0.5, 0.4)),
        lambda: Fixed((1.5, -0.5)),
        lambda: Table((((0.5, 0.4), (1.0, 0.0)), ((1.0, 0.0), (1.0, 0.0)))),
        lambda: paths.sample(Mixture(), KEY, np.zeros((2, 2), np.int64), np.zeros((2, 3), np.int64), 0.5),
        lambda: paths.sample(Mixture(), KEY, *np.zeros((2, 3, 2), np.int64), np.zeros(2)),
        lambda: paths.pmf(Mixture(), np.zeros((2, 2), np.int64), np.zeros((1, 2), np.int64), 0.5, vocab_size=2),
    ],
)
def test_what_is_no_path_raises(make):
    with pytest.raises(ValueError, match=r"expected"):
        make()


def test_a_mask_path_whose_tokens_would_be_hidden_again_raises():
    """Samplers leave a revealed token alone: that is only right while kappa never decreases."""
    assert np.any(RETURNING.kappa_dots(np.linspace(0, 1, 9))[1] < 0)
    Mixture(RETURNING)
    with pytest.raises(ValueError, match="mask"):
        Mixture(RETURNING, mask=2)


@pytest.mark.parametrize("length", [1, 2])
def test_what_does_not_fit_the_tokens_or_the_vocabulary_raises(length):
    """A row of 1, or as many as no token has, would be read as another's."""
    x = np.zeros((4, length), dtype=int)
    three = Convex((Bernstein((1.0, 0.0, 0.0)), Bernstein((0.0, 1.0, 0.0)), Bernstein((0.0, 0.0, 1.0))))
    per_token = Mixture(PerToken((Linear(),) * 3))
    for call in (partial(paths.sample, per_token, random.key(0)), partial(paths.pmf, per_token, vocab_size=2)):
        with pytest.raises(ValueError, match=f"schedule: expected one for each of {length} tokens, got 3"):
            call(x, x, 0.5)
    rows = Mixture(three, (X0(), Fixed(((1.0, 0.0),) * 3), X1()))
    with pytest.raises(ValueError, match=f"probs: expected the shape .2,. or .{length}, 2., got .3, 2."):
        paths.sample(rows, random.key(0), x, x, 0.5)
    short = Mixture(three, (X0(), Fixed((1.0,)), X1()))
    with pytest.raises(ValueError, match=r"probs: expected the shape .3,."):
        paths.pmf(short, x, x, 0.5, vocab_size=3)
    with pytest.raises(ValueError, match="PMF for every pair"):
        Table((((0.5, 0.5), (0.5, 0.5)),))
