"""The value checks that the public doors make: one clear sentence for a user's mistake.

Inner functions state their domain and trust it; the command line, `simulate` and the trainer call these first.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from .arrays import namespace
from .protocols import Array

__all__ = ["batch", "distributions", "increasing", "natural", "same_shape", "times", "tokens"]

_SLACK = 1e-3  # how far a row may sum from 1, or an entry lie below 0: float16 rows pass, mistakes do not


def times(name: str, t: Array) -> None:
    """Raises ValueError unless every time lies in [0, 1].

    >>> times("t", 1.5)
    Traceback (most recent call last):
    ValueError: t: expected times in [0, 1], got a value outside or NaN
    """
    xp = namespace(t)
    t = xp.asarray(t)
    if not bool(xp.all((t >= 0) & (t <= 1))):
        raise ValueError(f"{name}: expected times in [0, 1], got a value outside or NaN")


def increasing(name: str, grid: Sequence[float]) -> None:
    """Raises ValueError unless a grid has two or more times, all in [0, 1], each greater than the one before.

    >>> increasing("times", [0.0, 0.5, 0.5])
    Traceback (most recent call last):
    ValueError: times: expected strictly increasing times, got 0.5 after 0.5
    """
    if len(grid) < 2:
        raise ValueError(f"{name}: expected at least two times, got {len(grid)}")
    for t in grid:
        if not 0 <= t <= 1:
            raise ValueError(f"{name}: expected times in [0, 1], got {t}")
    for t, s in pairwise(grid):
        if not t < s:
            raise ValueError(f"{name}: expected strictly increasing times, got {s} after {t}")


def tokens(name: str, x: Array, vocab_size: int) -> None:
    """Raises TypeError unless x holds integers, ValueError unless they lie in [0, vocab_size).

    >>> import numpy as np
    >>> tokens("x_1", np.array([0, 7]), 5)
    Traceback (most recent call last):
    ValueError: x_1: expected tokens in [0, 5), got 7
    """
    natural(name, x)
    most = int(namespace(x).max(x)) if math.prod(x.shape) else 0
    if most >= vocab_size:
        raise ValueError(f"{name}: expected tokens in [0, {vocab_size}), got {most}")


def natural(name: str, x: Array) -> None:
    """Raises TypeError unless x holds integers, ValueError unless none is negative.

    >>> import numpy as np
    >>> natural("x_0", np.array([0.5]))
    Traceback (most recent call last):
    TypeError: x_0: expected integer tokens, got float64
    """
    xp = namespace(x)
    if not xp.isdtype(x.dtype, "integral"):
        raise TypeError(f"{name}: expected integer tokens, got {x.dtype}")
    least = int(xp.min(x)) if math.prod(x.shape) else 0
    if least < 0:
        raise ValueError(f"{name}: expected tokens >= 0, got {least}")


def distributions(name: str, probs: Array) -> None:
    """Raises ValueError unless every row of float[..., V] is a PMF, to within 0.001.

    >>> import numpy as np
    >>> distributions("probs_1", np.array([0.5, 0.4]))
    Traceback (most recent call last):
    ValueError: probs_1: expected rows that sum to 1, got one off by 0.1
    """
    xp = namespace(probs)
    if probs.ndim == 0 or probs.shape[-1] == 0:
        raise ValueError(f"{name}: expected rows over a vocabulary, got shape {tuple(probs.shape)}")
    if math.prod(probs.shape) == 0:
        return
    probs = xp.astype(probs, xp.float64)
    if not bool(xp.all(probs >= -_SLACK)):
        raise ValueError(f"{name}: expected probabilities, got a negative entry or NaN")
    excess = float(xp.max(xp.abs(xp.sum(probs, axis=-1) - 1)))
    if not excess <= _SLACK:
        raise ValueError(f"{name}: expected rows that sum to 1, got one off by {excess:.3g}")


def batch(name: str, x: Array, *, dim: int | None = None) -> None:
    """Raises ValueError unless x is float[B, D], B > 0, D = dim if it is known: a mean over points needs some.

    >>> import numpy as np
    >>> batch("x", np.zeros(2), dim=2)
    Traceback (most recent call last):
    ValueError: x: expected one or more points, [B, 2], got shape (2,)
    """
    if x.ndim != 2 or not x.shape[0] or dim not in (None, x.shape[1]):
        raise ValueError(f"{name}: expected one or more points, [B, {dim or 'D'}], got shape {tuple(x.shape)}")


def same_shape(**arrays: Array) -> None:
    """Raises ValueError unless the named arrays all have one shape.

    >>> import numpy as np
    >>> same_shape(x_0=np.zeros(2), x_1=np.zeros(3))
    Traceback (most recent call last):
    ValueError: x_1: expected the shape (2,) of x_0, got (3,)
    """
    (first, reference), *others = arrays.items()
    for name, x in others:
        if tuple(x.shape) != tuple(reference.shape):
            raise ValueError(f"{name}: expected the shape {tuple(reference.shape)} of {first}, got {tuple(x.shape)}")
