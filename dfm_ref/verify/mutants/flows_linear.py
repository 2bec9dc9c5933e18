"""A right flow that knows no case: one object of two dimensions, which says so by `dim`; it turns space over."""

from typing import Any, TypeAlias

import numpy as np

__all__ = ["Linear", "build"]

Array: TypeAlias = np.ndarray[Any, Any]


class Linear:
    """x = A z + b with det A = -2, whose logarithm is that of 2."""

    dim = 2
    matrix = np.array([[0.0, 2.0], [1.0, 1.0]])
    shift = np.array([3.0, -1.0])

    def flow(self, z: Array) -> tuple[Array, Array]:
        """f(z) and log|det df/dz|."""
        return self._check(z) @ self.matrix.T + self.shift, np.full(len(z), np.log(2.0))

    def log_prob(self, x: Array) -> Array:
        """log p(x), nats."""
        z = np.linalg.solve(self.matrix, (self._check(x) - self.shift).T).T
        return np.asarray(-0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=1) - np.log(2.0))

    def _check(self, x: Array) -> Array:
        if x.ndim != 2 or x.shape[1] != 2:
            raise ValueError(f"expected points of 2 coordinates, got shape {x.shape}")
        return x


def build(case: Any) -> Linear:
    """The same object for every case.

    >>> build("any case").flow(np.zeros((1, 2)))[0]
    array([[ 3., -1.]])
    """
    return Linear()
