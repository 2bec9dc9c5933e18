"""A right implementation that samples by the exponential step: a token stays with probability exp(-h L).

L is the rate at which it leaves, the sum of u over the other values, and it leaves to them in proportion to u. Order 1
in the length of the steps; some tokens are on the way still at t = 1, fewer with more steps.
"""

from typing import Any

import numpy as np

from .right import Array, Implementation

__all__ = ["Exponential", "build"]


class Exponential(Implementation):
    """The right implementation with the step that holds the rates, instead of the posteriors, of its beginning."""

    def _step(self, model: Any, rng: np.random.Generator, x_t: Array, t: Any, s: Any) -> Array:
        return self._jump(rng, x_t, self._rates(model, x_t, t), s - t)

    def _rates(self, model: Any, x_t: Array, t: Any) -> Array:
        """The rates of leaving to each value, 0 on the diagonal."""
        return np.maximum(self.velocity(self._ask(model, x_t, t), x_t, np.full(len(x_t), t)), 0.0)

    def _jump(self, rng: np.random.Generator, x_t: Array, rates: Array, h: Any) -> Array:
        """The state after a time h of fixed rates, at most one jump a token."""
        stay = np.exp(-h * rates.sum(axis=-1))
        leaves = rng.random(x_t.shape) >= stay
        return np.where(leaves, self._categorical(rng, rates), x_t)


def build(case: Any) -> Exponential:
    """The implementation of a case.

    >>> from dfm_ref.verify import Case
    >>> right = build(Case(vocab_size=2, length=1, schedule="linear", source="uniform"))
    >>> frames = right.sample(lambda x_t, t: np.full((len(t), 1, 2), 0.5), np.zeros((4, 1), int), [0.0, 0.5], seed=0)
    >>> frames.shape
    (2, 4, 1)
    """
    return Exponential(case)
