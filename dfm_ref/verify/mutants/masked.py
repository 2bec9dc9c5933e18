"""A right implementation of masks alone, which uses that masked tokens, and no others, move forward.

Only they have a velocity, a loss and a draw; other tokens may go back to the mask in the corrector.
"""

from typing import Any

import numpy as np

from .right import Array, Implementation

__all__ = ["Masked", "build"]


class Masked(Implementation):
    """The right implementation with everything of revealed tokens left out."""

    def velocity(self, probs_1: Array, x_t: Array, t: Array) -> Array:
        """kappa_dot / (1 - kappa) p_{1|t} for masked tokens, and nothing for others, float[B, N, V]."""
        return self.corrector_velocity(probs_1, x_t, t, 0.0)

    def corrector_velocity(self, probs_1: Array, x_t: Array, t: Array, strength: float) -> Array:
        """The same with more of it, and as much of the way back for revealed tokens, float[B, N, V]."""
        x_t = self._tokens(x_t, "x_t")
        t = self._times(t, x_t)
        probs_1 = self._pmfs(probs_1, x_t)
        if not 0 <= strength < np.inf:
            raise ValueError(f"strength must be finite and not negative, got {strength}")
        hidden = (x_t == self.vocab_size - 1)[..., None]
        reveal = (1 + float(strength)) * self._forward_rate(t)[:, None, None] * probs_1
        hide = float(strength) * self._backward_rate(t)[:, None, None] * self.source_pmf if strength else 0.0
        return self._balance(np.where(hidden, reveal, hide), x_t)

    def generalized_kl(self, logits: Array, x_1: Array, x_t: Array, t: Array) -> Array:
        """kappa_dot / (1 - kappa) times the cross-entropy of masked tokens, 0 for others, float[B, N]."""
        nats = self.cross_entropy(logits, x_1, x_t, t)
        rate = self._forward_rate(np.asarray(t, dtype=self.real))[:, None]
        weight = np.where(np.asarray(x_t) == self.vocab_size - 1, rate, 0.0)
        return np.asarray(np.multiply(weight, nats, out=np.zeros_like(nats), where=weight > 0))

    def _step(self, model: Any, rng: np.random.Generator, x_t: Array, t: Any, s: Any) -> Array:
        hidden = np.nonzero(x_t == self.vocab_size - 1)
        values = self._categorical(rng, self._ask(model, x_t, t)[hidden])
        x_s = x_t.copy()
        x_s[hidden] = np.where(rng.random(len(values)) < self._stay(t, s), x_t[hidden], values)
        return x_s


def build(case: Any) -> Masked:
    """The implementation of a case; NotImplementedError for a source that is no mask.

    >>> from dfm_ref.verify import Case
    >>> right = build(Case(vocab_size=3, length=2, schedule="linear", source="mask"))
    >>> right.velocity(np.array([[[0.25, 0.75, 0.0], [0.0, 1.0, 0.0]]]), np.array([[2, 1]]), np.array([0.5])).tolist()
    [[[0.5, 1.5, -2.0], [0.0, 0.0, 0.0]]]
    """
    if case.source != "mask":
        raise NotImplementedError(f"masks only, not the source {case.source!r}")
    return Masked(case)
