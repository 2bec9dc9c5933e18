"""A right implementation that draws x_1 from the posterior first, and jumps to it by the exponential of its rate.

A step that ends at t = 1, and no other, returns that x_1. Order 1 in the length of the steps; it differs from the
exponential step of the marginal rates. Source: the Euler solver of the package flow_matching, as a law.
"""

from typing import Any

import numpy as np

from .right import Array, Implementation

__all__ = ["Meta", "build"]


class Meta(Implementation):
    """The right implementation with the rates of the chain that is given x_1."""

    def _step(self, model: Any, rng: np.random.Generator, x_t: Array, t: Any, s: Any) -> Array:
        x_1 = self._categorical(rng, self._ask(model, x_t, t))
        if s == 1:
            return x_1
        leaving = np.where(x_1 == x_t, 0.0, self._forward_rate(t))
        jumps = rng.random(x_t.shape) < -np.expm1(-(s - t) * leaving)
        return np.where(jumps, x_1, x_t)


def build(case: Any) -> Meta:
    """The implementation of a case.

    >>> from dfm_ref.verify import Case
    >>> right = build(Case(vocab_size=3, length=1, schedule="linear", source="mask"))
    >>> model = lambda x_t, t: np.broadcast_to([0.0, 1.0, 0.0], (len(t), 1, 3))
    >>> right.sample(model, np.array([[2]]), [0.0, 1.0], seed=0).tolist()
    [[[2]], [[1]]]
    """
    return Meta(case)
