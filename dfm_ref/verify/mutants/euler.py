"""A right implementation that samples by Euler's step: a token is redrawn with probability h kappa_dot / (1 - kappa).

The probability is cut at 1, where the step is too long for Euler. Order 1 in the length of the steps.
"""

from typing import Any

from .right import Implementation

__all__ = ["Euler", "build"]


class Euler(Implementation):
    """The right implementation with the step x_t + h u."""

    def _stay(self, t: Any, s: Any) -> Any:
        return 1 - min(1, (s - t) * self._forward_rate(t))


def build(case: Any) -> Euler:
    """The implementation of a case.

    >>> from dfm_ref.verify import Case
    >>> float(build(Case(vocab_size=3, length=1, schedule="linear", source="mask"))._stay(0.5, 0.625))
    0.75
    """
    return Euler(case)
