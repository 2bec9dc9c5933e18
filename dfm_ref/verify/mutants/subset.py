"""A right implementation of two methods alone, the path and the velocity."""

from types import SimpleNamespace
from typing import Any

from .right import Implementation

__all__ = ["build"]


def build(case: Any) -> SimpleNamespace:
    """The implementation of a case.

    >>> from dfm_ref.verify import Case
    >>> sorted(vars(build(Case(vocab_size=3, length=1, schedule="linear", source="mask"))))
    ['sample_path', 'velocity']
    """
    right = Implementation(case)
    return SimpleNamespace(sample_path=right.sample_path, velocity=right.velocity)
