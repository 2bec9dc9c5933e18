"""A right implementation in float32: its times, its numbers and its uniforms."""

from typing import Any

import numpy as np

from .right import Implementation

__all__ = ["Single", "build"]


class Single(Implementation):
    """The right implementation, which has the digits of float32 near both ends too."""

    real = np.float32


def build(case: Any) -> Single:
    """The implementation of a case.

    >>> from dfm_ref.verify import Case
    >>> build(Case(vocab_size=3, length=1, schedule="quadratic", source="mask")).kappa_dot(np.array([0.75]))
    array([1.5], dtype=float32)
    """
    return Single(case)
