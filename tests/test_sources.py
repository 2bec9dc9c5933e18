"""Sources sample their own PMF, each token at the address of its own."""

import numpy as np
import pytest
from strategies import BACKENDS, backend, follows, index

from dfm_ref import random
from dfm_ref.sources import Marginal, Masked, Uniform, sample

KEY = random.key(11)
ROWS = ((0.1, 0.0, 0.9), (0.5, 0.25, 0.25))
SOURCES = [Masked(3), Uniform(3), Marginal((0.2, 0.5, 0.3)), Marginal(ROWS)]


def pmf(source, length):
    return np.broadcast_to(source.pmf(), (length, source.vocab_size))


@pytest.mark.parametrize("source", SOURCES, ids=repr)
def test_pmfs_are_distributions(source):
    assert source.vocab_size == 3
    assert source.pmf().dtype == np.float64
    assert np.all(source.pmf() >= 0)
    np.testing.assert_allclose(source.pmf().sum(-1), 1.0, rtol=1e-15)


def test_the_pmfs_are_those_of_the_names():
    assert Masked(4).pmf().tolist() == [0.0, 0.0, 0.0, 1.0]
    assert Masked(4).mask == 3
    assert Uniform(4).pmf().tolist() == [0.25] * 4
    assert Marginal(ROWS).pmf().tolist() == [list(row) for row in ROWS]


@pytest.mark.parametrize("source", SOURCES, ids=repr)
def test_samples_follow_the_product_of_the_pmfs(source):
    """Sees one uniform shared by the tokens of a sequence, and rows of two tokens swapped."""
    x_0 = sample(source, KEY, (20_000, 2))
    assert x_0.dtype == np.int64
    assert follows(index(x_0, 3), np.multiply.outer(*pmf(source, 2)).ravel())


@pytest.mark.parametrize("source", SOURCES, ids=repr)
@pytest.mark.parametrize("name", BACKENDS)
def test_each_token_draws_at_its_global_site_on_every_library(source, name):
    b, first = backend(name), 2**33
    x_0 = b.to_numpy(sample(source, KEY, (5, 2), first=first, xp=b.xp))
    sites = (first + np.arange(5))[:, None] * 2 + np.arange(2)
    assert np.array_equal(x_0, random.choose(np.broadcast_to(source.pmf(), (5, 2, 3)), random.uniform_at(KEY, sites)))
    assert np.array_equal(x_0[3:], b.to_numpy(sample(source, KEY, (2, 2), first=first + 3, xp=b.xp)))


@pytest.mark.parametrize("source", SOURCES, ids=repr)
@pytest.mark.parametrize("shape", [(0, 2), (1, 2), (2,), (2, 0, 2), (3, 4, 2)])
def test_batches_of_any_shape(source, shape):
    x_0 = sample(source, KEY, shape)
    assert x_0.shape == shape
    assert np.array_equal(x_0.reshape(-1, 2), sample(source, KEY, (x_0.size // 2, 2)))


@pytest.mark.parametrize("source", [Masked(1), Uniform(1), Marginal((1.0,))], ids=repr)
def test_a_vocabulary_of_one_token(source):
    assert sample(source, KEY, (2, 3)).tolist() == [[0, 0, 0]] * 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: Masked(0),
        lambda: Uniform(0),
        lambda: Uniform(-3),
        lambda: Marginal(()),
        lambda: Marginal((0.5, 0.4)),
        lambda: Marginal((1.5, -0.5)),
        lambda: Marginal((float("nan"), 1.0)),
        lambda: Marginal(((0.5, 0.5), (0.5, 0.6))),
    ],
)
def test_what_is_no_source_raises(make):
    with pytest.raises(ValueError, match=r"vocab_size|probs"):
        make()


def test_rows_must_be_as_many_as_tokens():
    with pytest.raises(ValueError, match=r"broadcast|probs|shape"):
        sample(Marginal(ROWS), KEY, (2, 3))
