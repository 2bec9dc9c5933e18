"""Times: a grid to sample on, and draws to train at."""

import numpy as np

from .arrays import like
from .protocols import Array, Key, Namespace
from .random import uniform

__all__ = ["antithetic", "grid", "independent", "low_discrepancy"]


def grid(steps: int, *, t_0: float = 0.0, T: float = 1.0) -> list[float]:
    """steps + 1 equally spaced times from t_0 to T, both exact.

    Raises ValueError unless steps >= 1 and 0 <= t_0 < T <= 1.

    >>> grid(4)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    if not 0 <= t_0 < T <= 1:
        raise ValueError(f"t_0, T: expected 0 <= t_0 < T <= 1, got {t_0} and {T}")
    return [t_0 + (T - t_0) * (k / steps) for k in range(steps)] + [T]


def low_discrepancy(key: Key, num: int, *, xp: Namespace = np) -> Array:
    """Stratified times, float64[num] in [0, 1): t_k = u + k / num modulo 1, with one shared u; each is uniform.

    The mean of f over them has less variance than over independent draws. Source: Kingma et al. 2021 (VDM), appendix I.

    >>> from .random import Key
    >>> low_discrepancy(Key(0, 42), 2)
    array([0.42672757, 0.92672757])
    """
    offset = uniform(key, (1,), xp=xp)
    t = offset + like(offset, np.arange(num) / max(1, num))  # NumPy's quotients: compilers round others
    return t - xp.floor(t)


def independent(key: Key, num: int, *, xp: Namespace = np) -> Array:
    """Independent uniform times, float64[num] in [0, 1).

    >>> from .random import Key
    >>> independent(Key(0, 42), 2)
    array([0.42672757, 0.01501007])
    """
    return uniform(key, (num,), xp=xp)


def antithetic(key: Key, num: int, *, xp: Namespace = np) -> Array:
    """Uniform times in pairs u and 1 - u, float64[num] in [0, 1): neighbours err to opposite sides where f is monotone.

    To the last of 52 bits: then both are uniform, and neither is 1.

    Source: Hammersley and Morton 1956.

    >>> from .random import Key
    >>> antithetic(Key(0, 42), 3)
    array([0.42672757, 0.57327243, 0.01501007])
    """
    u = uniform(key, (-(-num // 2),), xp=xp)
    return xp.reshape(xp.stack([u, (1 - 2.0**-52) - u], axis=-1), (-1,))[:num]
