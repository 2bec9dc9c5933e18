"""Words are Random123's and JAX's bit for bit, on every library; tokens are those of exact integer arithmetic."""

from fractions import Fraction
from itertools import accumulate
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from strategies import BACKENDS, backend, follows, logits

from dfm_ref import random
from dfm_ref.protocols import Key

WORD = 2**32
SEEDS = (0, 1, 42, -1, -(2**63), 2**31, 2**32 + 7, 2**63 - 1)
KEY = Key(0x13198A2E, 0x03707344)
SITES = (0, 1, 2, 12345, WORD - 1, WORD, WORD + 1, 2**33 + 5, 2**50 + 2**31, 2**62)
LAST = 1 - 2.0**-52  # the greatest uniform


def threefry(key, site):
    """Threefry-2x32-20 on Python integers, from the paper: the two words of the counter (site >> 32, site % 2**32)."""
    ks = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x_0, x_1 = (site // WORD + ks[0]) % WORD, (site + ks[1]) % WORD
    for r in range(20):
        rotation = (13, 15, 26, 6, 17, 29, 16, 24)[r % 8]
        x_0 = (x_0 + x_1) % WORD
        x_1 = (x_1 << rotation | x_1 >> 32 - rotation) % WORD ^ x_0
        if r % 4 == 3:
            block = r // 4 + 1
            x_0, x_1 = (x_0 + ks[block % 3]) % WORD, (x_1 + ks[(block + 1) % 3] + block) % WORD
    return x_0, x_1


def chosen(probs, u):
    """`choose` on one row, in integers: p 2**52 is exact in float64."""
    cumulative = np.cumsum(np.floor(np.ldexp(np.asarray(probs, np.float64), 52)).astype(np.int64))
    total = int(cumulative[-1])
    return int(np.searchsorted(cumulative, min(floor(u * total), total - 1), side="right"))


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((WORD - 1, WORD - 1), (WORD - 1, WORD - 1), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_the_cipher_gives_the_known_answers_of_random123(key, counter, words):
    assert random.threefry2x32(Key(*key), *counter) == words
    assert threefry(key, counter[0] * WORD + counter[1]) == words
    for dtype in (np.uint32, np.int64):
        assert np.array(random.threefry2x32(Key(*key), *np.array(counter, dtype)[:, None])).ravel().tolist() == [*words]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_library_gives_the_words_of_python_integers_also_beyond_32_bits(name, seed):
    b, key = backend(name), random.key(seed)
    assert key == divmod(seed % 2**64, WORD)
    sites = b.asarray(np.array(SITES))
    words = [threefry(key, site) for site in SITES]
    assert np.stack([b.to_numpy(w) for w in random.words_at(key, sites)], -1).tolist() == [[*w] for w in words]
    assert b.to_numpy(random.bits_at(key, sites)).tolist() == [high ^ low for high, low in words]
    uniforms = [((high << 32 | low) >> 12) / 2**52 for high, low in words]
    assert b.to_numpy(random.uniform_at(key, sites)).tolist() == uniforms


@pytest.mark.parametrize("seed", SEEDS)
def test_keys_bits_and_uniforms_are_those_of_jax(seed):
    backend("jax")
    import jax

    key, theirs = random.key(seed), jax.random.key(seed)

    def words(keys):
        return jax.random.key_data(keys).tolist()

    assert [*key] == words(theirs)
    for data in (0, 1, 7, WORD - 1):
        assert [*random.fold_in(key, data)] == words(jax.random.fold_in(theirs, np.uint32(data)))
    for num in (1, 2, 5):
        assert [[*k] for k in random.split(key, num)] == words(jax.random.split(theirs, num))
    for shape in ((7,), (3, 5), (0,), (2, 0, 3), (2, 3, 4)):
        bits, uniform = random.bits(key, shape), random.uniform(key, shape)
        assert bits.dtype == np.uint32
        assert uniform.dtype == np.float64
        assert np.array_equal(bits, jax.random.bits(theirs, shape, "uint32"))
        assert np.array_equal(uniform, jax.random.uniform(theirs, shape, "float64"))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_shape_without_axes_draws_at_site_zero(name):
    b = backend(name)
    assert float(random.uniform(KEY, (), xp=b.xp)) == float(random.uniform(KEY, (1,))[0])
    assert float(random.uniform_at(KEY, b.asarray(np.array(5)))) == float(random.uniform(KEY, (6,))[5])


@pytest.mark.parametrize("name", BACKENDS)
def test_arrays_of_keys_stand_for_as_many_keys(name):
    b, keys = backend(name), random.split(random.key(3), 4)
    together = random.uniform_at(
        Key(*(np.array(words)[:, None] for words in zip(*keys, strict=True))), b.asarray(np.array(SITES)[None, :])
    )
    assert np.array_equal(b.to_numpy(together), [random.uniform_at(key, np.array(SITES)) for key in keys])


def test_sites_count_up_from_the_first():
    assert random.sites((2, 3), first=2**40).tolist() == [[2**40 + 3 * i + j for j in range(3)] for i in range(2)]
    assert random.sites((0, 3)).shape == (0, 3)


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1])
def test_seeds_out_of_range_raise(seed):
    with pytest.raises(ValueError, match="seed"):
        random.key(seed)


def test_numbers_out_of_range_do_not_fold_in():
    for data in (-1, WORD):
        with pytest.raises(ValueError, match="data"):
            random.fold_in(KEY, data)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8])
def test_integers_of_numpy_are_seeds_like_any_other(kind):
    assert random.key(kind(5)) == random.key(5)
    assert random.fold_in(random.key(kind(5)), kind(3)) == random.fold_in(random.key(5), 3)


def test_fractions_are_no_seeds():
    with pytest.raises(TypeError):
        random.key(1.5)


def rows_of(vocab_size, dtype, seed=0):
    """Rows with zeros, with tiny tails, point masses and plain ones, and levels that include both ends of [0, 1)."""
    rng = np.random.default_rng(seed)
    count = 6 if vocab_size <= 1000 else 1
    plain = rng.dirichlet(np.ones(vocab_size), count)
    holes = plain * rng.integers(0, 2, plain.shape) + 1e-9 * (np.arange(vocab_size) == vocab_size // 2)
    tails = plain ** rng.uniform(1, 40, (count, 1)) + 1e-300
    points = np.arange(vocab_size) == np.array([[0], [vocab_size // 2], [vocab_size - 1]])
    probs = np.concatenate([plain, holes, tails, points])
    probs = (probs / probs.sum(-1, keepdims=True)).astype(dtype)
    levels = np.array([0.0, 2.0**-52, 0.5, LAST, *rng.uniform(size=count)])
    return np.repeat(probs, len(levels), 0), np.tile(levels, len(probs))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("vocab_size", [1, 2, 64, 65, 1000, 40000])
def test_choose_is_exact_integer_arithmetic_on_every_library(name, dtype, vocab_size):
    b = backend(name)
    probs, u = rows_of(vocab_size, dtype)
    tokens = b.to_numpy(random.choose(b.asarray(probs), b.asarray(u)))
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [chosen(p, level) for p, level in zip(probs, u, strict=True)]
    assert np.all(probs[np.arange(len(u)), tokens] > 0)


@given(
    weights=st.lists(st.sampled_from([0, 1, 2, 3, 2**20, 2**40]), min_size=2, max_size=200).filter(any),
    nudge=st.integers(-3, 3),
    place=st.integers(0, 199),
)
def test_choose_is_exact_at_the_edges_between_tokens(weights, nudge, place):
    probs = np.array(weights) / sum(weights)
    exact = [floor(Fraction(p) * 2**52) for p in probs.tolist()]
    edge = list(accumulate(exact))[place % len(exact)] / sum(exact)
    u = min(max(edge + nudge * 2.0**-52, 0.0), LAST)
    token = int(random.choose(probs, np.array(u)))
    assert token == chosen(probs, u)
    assert weights[token] > 0


@pytest.mark.parametrize("vocab_size", [2, 64, 65, 1000])
def test_the_first_and_the_last_token_can_be_reached_and_an_empty_last_one_cannot(vocab_size):
    probs = np.full(vocab_size, 1 / vocab_size)
    assert random.choose(np.stack([probs] * 2), np.array([0.0, LAST])).tolist() == [0, vocab_size - 1]
    probs[-1] = 0.0
    assert int(random.choose(probs, np.array(LAST))) == vocab_size - 2
    tail = np.array([1.0] + [0.0] * (vocab_size - 2) + [2.0**-50])
    assert int(random.choose(tail, np.array(LAST))) == vocab_size - 1  # rows need not sum to 1 to the last bit


@pytest.mark.parametrize("shape", [(0, 5), (0, 3, 5), (2, 3, 5), (5,), (70_001, 1), (2_000, 70)])
def test_choose_takes_each_row_alone_whatever_the_batch(shape):
    rng = np.random.default_rng(1)
    probs, u = rng.dirichlet(np.ones(shape[-1]), shape[:-1]), rng.uniform(size=shape[:-1])
    tokens = random.choose(probs, np.asarray(u))
    assert tokens.shape == shape[:-1]
    for i in list(np.ndindex(shape[:-1]))[:: max(1, u.size // 50)]:
        assert tokens[i] == chosen(probs[i], float(np.asarray(u)[i]))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("vocab_size", [3, 100])
@pytest.mark.parametrize("broken", [np.nan, 0.0])
def test_rows_with_nan_or_without_mass_raise(name, vocab_size, broken):
    b = backend(name)
    probs = np.full((3, vocab_size), 1 / vocab_size)
    probs[1] = broken if broken == 0 else np.where(np.arange(vocab_size) == 1, broken, probs[1])
    with pytest.raises(ValueError, match=r"probs|rows"):
        random.choose(b.asarray(probs), b.asarray(np.full(3, 0.3)))
    with pytest.raises(ValueError, match=r"probs|logits|rows"):
        random.choose_logits(b.asarray(logits(probs)), b.asarray(np.full(3, 0.3)))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("vocab_size", [1, 5, 300])
def test_logits_of_any_precision_are_drawn_by_their_softmax_and_never_where_minus_infinity(name, dtype, vocab_size):
    if name == "strict" and dtype is np.float16:
        pytest.skip("no half precision in the standard")
    b, rng = backend(name), np.random.default_rng(2)
    rows = rng.normal(scale=5, size=(40, vocab_size)).astype(dtype)
    rows[:, 1:][rng.uniform(size=(40, vocab_size - 1)) < 0.4] = -np.inf
    u = rng.uniform(size=40)
    tokens = b.to_numpy(random.choose_logits(b.asarray(rows), b.asarray(u)))
    at = np.arange(40), tokens
    probs = np.exp(rows.astype(np.float64) - rows.max(-1, keepdims=True))
    above = np.cumsum(probs / probs.sum(-1, keepdims=True), -1)[at]
    below = above - (probs / probs.sum(-1, keepdims=True))[at]
    tolerance = 1e-12 if dtype is np.float64 else 1e-5
    assert np.all(np.isfinite(rows[at]))
    assert np.all((below - tolerance <= u) & (u < above + tolerance))


@settings(max_examples=30)
@given(shift=st.sampled_from([-1e4, -700.0, 0.0, 700.0, 1e4]), u=st.floats(0, LAST))
def test_a_constant_added_to_the_logits_changes_nothing(shift, u):
    row = np.array([0.0, -3.0, -np.inf, 2.0])
    assert random.choose_logits(row + shift, np.array(u)) == random.choose_logits(row, np.array(u))


@pytest.mark.parametrize("name", BACKENDS)
def test_categorical_draws_row_i_at_site_i_unless_told(name):
    b = backend(name)
    probs = np.random.default_rng(3).dirichlet(np.ones(50), (4, 6))
    tokens = b.to_numpy(random.categorical(KEY, b.asarray(probs)))
    u = random.uniform_at(KEY, np.arange(24).reshape(4, 6))
    assert tokens.tolist() == [
        [chosen(p, v) for p, v in zip(ps, vs, strict=True)] for ps, vs in zip(probs, u, strict=True)
    ]
    some = b.asarray(np.array([[6, 7], [18, 23]]))
    rows = b.asarray(probs.reshape(24, 50)[[[6, 7], [18, 23]]])
    assert b.to_numpy(random.categorical(KEY, rows, sites=some)).tolist() == [
        tokens[1, :2].tolist(),
        [tokens[3, 0], tokens[3, 5]],
    ]


def test_draws_follow_the_law_and_neighbours_are_independent():
    """Sees a word used twice, or u of one site reused at the next: a pair's law would sit on the diagonal."""
    p = np.array([0.5, 0.0, 0.3, 0.2])
    tokens = random.categorical(random.key(7), np.broadcast_to(p, (40_000, 4)))
    assert follows(tokens, p)
    assert follows(tokens[::2] * 4 + tokens[1::2], np.outer(p, p).ravel())


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (3, 5), (40, 25)])
def test_normal_numbers_are_the_formula_at_their_sites(name, shape):
    b = backend(name)
    z = b.to_numpy(random.normal(KEY, shape, xp=b.xp))
    sites = random.sites(shape)
    u = random.uniform_at(KEY, sites - sites % 2), random.uniform_at(KEY, sites - sites % 2 + 1)
    exact = np.sqrt(-2 * np.log1p(-u[0])) * np.sin(2 * np.pi * u[1] + np.pi / 2 * (sites % 2 == 0))
    assert z.shape == shape and z.dtype == np.float64
    assert np.allclose(z, exact, rtol=0, atol=1e-13)  # log1p of XLA is off by 3e-14
    for first in (0, 1, 6):
        some = b.to_numpy(random.normal(KEY, shape, first=first, xp=b.xp))
        each = b.to_numpy(random.normal_at(KEY, random.sites(shape, first=first, xp=b.xp)))
        assert np.allclose(each, some, rtol=0, atol=0 if name == "numpy" else 1e-13)


def test_normal_numbers_follow_the_normal_law_and_neighbours_are_independent():
    """Sees a radius or an angle used twice, sqrt(-log u), and cos in place of sin: a pair's cells would be uneven."""
    z = random.normal(random.key(5), (200_000,))
    cell = np.floor(12 * ndtr(z)).astype(np.int64)
    assert follows(cell, np.full(12, 1 / 12))
    assert follows(cell[::2] * 12 + cell[1::2], np.full(144, 1 / 144))
    assert follows(cell[1:-1:2] * 12 + cell[2::2], np.full(144, 1 / 144))
    tail = np.digitize(np.abs(z), [2.0, 3.0, 3.5])
    law = -np.diff([1.0, *(2 * ndtr(-np.asarray([2.0, 3.0, 3.5]))), 0.0])
    assert follows(tail, law)


def test_a_normal_number_is_finite_at_the_greatest_uniform():
    x, _ = random._point(np.asarray([LAST, 0.0]), np.zeros(2))
    assert 8 < x[0] < 8.6 and x[1] == 0
