"""Couplings pair data with its source as they say."""

import numpy as np
import pytest
from strategies import BACKENDS, backend, follows

from dfm_ref import couplings, sources
from dfm_ref.random import key
from dfm_ref.sources import Marginal, Masked, Uniform

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
