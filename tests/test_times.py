"""Grids end where they say, and stratified times are uniform one by one."""

import numpy as np
import pytest
from scipy import stats
from strategies import BACKENDS, backend

from dfm_ref import random
from dfm_ref.times import antithetic, grid, independent, low_discrepancy

KEY = random.key(5)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 49, 98, 1000])
@pytest.mark.parametrize(("t_0", "T"), [(0.0, 1.0), (0.1, 0.7), (0.3, 1 - 1e-9)])
def test_grids_are_equal_steps_from_end_to_end(steps, t_0, T):
    times = grid(steps, t_0=t_0, T=T)
    assert (len(times), times[0], times[-1]) == (steps + 1, t_0, T)
    np.testing.assert_allclose(np.diff(times), (T - t_0) / steps, rtol=1e-9)
    assert all(isinstance(t, float) for t in times)


@pytest.mark.parametrize(
    ("steps", "t_0", "T"),
    [
        (0, 0.0, 1.0),
        (-1, 0.0, 1.0),
        (4, 0.5, 0.5),
        (4, 0.6, 0.5),
        (4, -0.1, 1.0),
        (4, 0.0, 1.1),
        (4, float("nan"), 1.0),
    ],
)
def test_grids_that_do_not_increase_raise(steps, t_0, T):
    with pytest.raises(ValueError, match=r"steps|t_0"):
        grid(steps, t_0=t_0, T=T)


@pytest.mark.parametrize("num", [0, 1, 2, 5, 1000])
def test_there_is_one_time_in_every_stratum(num):
    t = low_discrepancy(KEY, num)
    assert t.shape == (num,)
    assert t.dtype == np.float64
    assert np.all((t >= 0) & (t < 1))
    assert sorted(np.floor(t * num).astype(int).tolist()) == list(range(num))
    np.testing.assert_allclose(np.diff(np.sort(t)), 1 / max(1, num), rtol=1e-9)


def test_each_time_is_uniform():
    """Sees times tied to their place: the k-th of n would never leave [k / n, (k + 1) / n)."""
    t = np.stack([low_discrepancy(key, 4) for key in random.split(KEY, 2000)])
    for k in range(4):
        assert stats.kstest(t[:, k], "uniform").pvalue > 1e-6


@pytest.mark.parametrize("name", BACKENDS)
def test_times_are_the_same_on_every_library(name):
    b = backend(name)
    for draw in (antithetic, independent, low_discrepancy):
        np.testing.assert_allclose(b.to_numpy(draw(KEY, 37, xp=b.xp)), draw(KEY, 37), rtol=4e-16)


@pytest.mark.parametrize("num", [0, 1, 2, 5, 2000])
def test_antithetic_times_come_in_pairs_of_mean_one_half_and_independent_ones_do_not(num):
    t, alone = antithetic(KEY, num), independent(KEY, num)
    assert t.shape == alone.shape == (num,)
    assert np.all((t >= 0) & (t < 1)) and np.all((alone >= 0) & (alone < 1))
    pairs = t[: num // 2 * 2].reshape(-1, 2)
    assert np.all(pairs.sum(axis=-1) == 1 - 2.0**-52)
    if num == 2000:
        for one in (alone, t[::2], t[1::2]):
            assert stats.kstest(one, "uniform").pvalue > 1e-6
        for other in (t[1::2], alone[1::2]):
            assert abs(np.corrcoef(alone[::2], other)[0, 1]) < 5 / np.sqrt(1000)
