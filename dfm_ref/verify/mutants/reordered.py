"""A right implementation that takes times in any order and with repeats, and gives the frames in that order."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .right import Array, Implementation

__all__ = ["Reordered", "build"]


class Reordered(Implementation):
    """The right implementation that visits the sorted times; x_0 is the state at the first of them."""

    def sample(self, model: Callable[[Array, Array], Any], x_0: Array, times: Array, seed: int) -> Array:
        """One frame at each time, in their order, equal ones at equal times: int[len(times), B, N]."""
        asked = self._unit_interval(times, "times")
        if asked.ndim != 1 or len(asked) < 2:
            raise ValueError(f"times must be a row of two or more, got shape {asked.shape}")
        grid, places = np.unique(asked, return_inverse=True)
        if len(grid) == 1:
            return np.stack([self._tokens(x_0, "x_0")] * len(asked))
        return np.asarray(super().sample(model, x_0, grid, seed)[places])


def build(case: Any) -> Reordered:
    """The implementation of a case.

    >>> from dfm_ref.verify import Case
    >>> right = build(Case(vocab_size=3, length=1, schedule="linear", source="mask"))
    >>> model = lambda x_t, t: np.broadcast_to([0.0, 1.0, 0.0], (len(t), 1, 3))
    >>> right.sample(model, np.array([[2]]), [1.0, 0.0, 1.0], seed=0).tolist()
    [[[1]], [[2]], [[1]]]
    """
    return Reordered(case)
