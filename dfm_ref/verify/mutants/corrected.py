"""A right implementation whose corrector uses the source p(x^i) for the noise posterior, and which samples with loops.

Under an independent coupling kappa_dot / kappa [delta - p(x^i)] also generates the path. Beside the forward step each
token goes back to the source at rate LOOPS (1 - kappa), and forward by LOOPS kappa more, which together leave p_t as
it is. Order 1 in the length of the steps. Source: Lipman et al. 2024, section on discrete flow matching.
"""

from typing import Any

import numpy as np

from .right import Array, Implementation

__all__ = ["Corrected", "build"]

LOOPS = 0.5
"""How many loops there are, as a rate per unit of t."""


class Corrected(Implementation):
    """The right implementation with another valid way back, used in sampling too."""

    def _noise_posterior(self, probs_1: Array, x_t: Array, t: Array) -> Array:
        return np.broadcast_to(self.source_pmf, probs_1.shape)

    def _step(self, model: Any, rng: np.random.Generator, x_t: Array, t: Any, s: Any) -> Array:
        probs_1 = self._ask(model, x_t, t)
        loops = LOOPS * (s - t)
        stay = self._stay(t, s) * np.exp(-loops * self.kappa(t))
        forward = rng.random(x_t.shape) >= stay
        back = rng.random(x_t.shape) < -np.expm1(-loops * self._one_minus_kappa(t))
        noise = self._categorical(rng, np.broadcast_to(self.source_pmf, probs_1.shape))
        data = self._categorical(rng, probs_1)
        return np.where(forward, data, np.where(back, noise, x_t))


def build(case: Any) -> Corrected:
    """The implementation of a case.

    >>> from dfm_ref.verify import Case
    >>> right = build(Case(vocab_size=2, length=1, schedule="linear", source="uniform"))
    >>> probs_1, x_t, t = np.array([[[1.0, 0.0]]]), np.array([[0]]), np.array([0.5])
    >>> right.corrector_velocity(probs_1, x_t, t, strength=1.0).tolist()
    [[[-1.0, 1.0]]]
    """
    return Corrected(case)
