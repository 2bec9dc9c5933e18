"""A right implementation that samples the continuous-time chain itself, one call of the model an event.

The events of a row are points of a Poisson process in the clock -log(1 - kappa), each at one token that can move. With
a mask they end when nothing is masked; else they are infinitely many before t = 1, so that the last 1e-9 of 1 - kappa
is a finite step. Source: Zheng et al. 2024, the first-hitting sampler, for a mask.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .right import Array, Implementation

__all__ = ["Exact", "build"]

LAST = 1e-9
"""The 1 - kappa at which events are given up for one finite step, where they would never end."""


class Exact(Implementation):
    """The right implementation that has no steps; the grid says only when to look."""

    sampler = "exact"

    def sample(self, model: Callable[[Array, Array], Any], x_0: Array, times: Array, seed: int) -> Array:
        """One frame at each of the increasing times, the first of them x_0: int[len(times), B, N]."""
        x_t = self._tokens(x_0, "x_0").copy()
        grid = self._grid(times)
        rng = np.random.default_rng(seed)
        frames = np.repeat(x_t[None], len(grid), axis=0)
        floor = self._one_minus_kappa(grid[-1])
        stop = floor if self.masked else max(floor, LAST)
        remaining = np.full(len(x_t), self._one_minus_kappa(grid[0]))
        rows = np.arange(len(x_t))
        while True:
            movable = self._movable(x_t[rows])
            rows, movable = rows[movable.any(axis=-1)], movable[movable.any(axis=-1)]
            remaining[rows] *= (1 - rng.random(len(rows))) ** (1 / movable.sum(axis=-1))
            rows, movable = rows[remaining[rows] > stop], movable[remaining[rows] > stop]
            if not len(rows):
                break
            t = self.kappa_inverse(1 - remaining[rows]).clip(grid[0], np.nextafter(grid[-1], 0))
            sites = np.argmax(np.where(movable, rng.random(movable.shape), -1.0), axis=-1)
            probs_1 = self._ask(model, x_t[rows], t)
            values = self._categorical(rng, probs_1[np.arange(len(rows)), sites])
            x_t[rows, sites] = values
            frames[:, rows, sites] = np.where(grid[:, None] >= t, values, frames[:, rows, sites])
        if stop > floor:
            self._finish(model, rng, x_t, grid, frames)
        return frames

    def _movable(self, x_t: Array) -> Array:
        """Which tokens have events that matter: bool[B, N]."""
        return np.asarray(x_t == self.vocab_size - 1) if self.masked else np.ones(x_t.shape, dtype=bool)

    def _finish(self, model: Any, rng: np.random.Generator, x_t: Array, grid: Array, frames: Array) -> None:
        """Write the frames of the times behind the last event, by finite steps."""
        t = max(grid[0], self.kappa_inverse(np.asarray(1 - LAST)))
        for k in np.flatnonzero(grid > t):
            frames[k] = x_t = self._step(model, rng, x_t, t, grid[k])
            t = grid[k]


def build(case: Any) -> Exact:
    """The implementation of a case.

    >>> from dfm_ref.verify import Case
    >>> right = build(Case(vocab_size=3, length=2, schedule="cosine", source="mask"))
    >>> model = lambda x_t, t: np.where(x_t[..., None] == 2, [1.0, 0.0, 0.0], np.eye(3)[x_t])
    >>> right.sample(model, np.array([[2, 2]]), [0.0, 0.25, 1.0], seed=0).tolist()
    [[[2, 2]], [[2, 2]], [[0, 0]]]
    """
    return Exact(case)
