"""A right implementation that samples by the trapezoidal step of two stages and two calls of the model.

Half a step with the rates u_t at x_t leads to y; the other half has twice the rates at y and the middle, less u_t, cut
at 0. A step that ends at t = 1, where rates are infinite, is the finite one. Order 2 for mild models, at least 1.
Source: Ren et al. 2025, with theta = 1/2.
"""

from typing import Any

import numpy as np

from .exponential import Exponential
from .right import Array, Implementation

__all__ = ["Trapezoidal", "build"]


class Trapezoidal(Exponential):
    """The right implementation with two exponential stages an interval."""

    sampler = "multistage"

    def _step(self, model: Any, rng: np.random.Generator, x_t: Array, t: Any, s: Any) -> Array:
        if s == 1:
            return Implementation._step(self, model, rng, x_t, t, s)
        half = (s - t) / 2
        first = self._rates(model, x_t, t)
        y = self._jump(rng, x_t, first, half)
        second = 2 * self._rates(model, y, t + half) - first
        return self._jump(rng, y, np.where(self._one_hot(y), 0.0, np.maximum(second, 0.0)), half)


def build(case: Any) -> Trapezoidal:
    """The implementation of a case.

    >>> from dfm_ref.verify import Case
    >>> asked = []
    >>> model = lambda x_t, t: asked.append(float(t[0])) or np.full((len(t), 1, 2), 0.5)
    >>> right = build(Case(vocab_size=2, length=1, schedule="linear", source="uniform"))
    >>> right.sample(model, np.zeros((4, 1), int), [0.0, 0.5, 1.0], seed=0).shape, asked
    ((3, 4, 1), [0.0, 0.25, 0.5])
    """
    return Trapezoidal(case)
