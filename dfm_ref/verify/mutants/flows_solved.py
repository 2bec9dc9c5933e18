"""A right flow of a field, by the rule of Runge and Kutta in 64 steps, which is off by 1e-6: it says so by `tolerance`.

The field is that of a rotation that slows down, with a pull to the origin that saturates.
"""

from typing import Any, TypeAlias

import numpy as np

__all__ = ["Solved", "build"]

Array: TypeAlias = np.ndarray[Any, Any]


class Solved:
    """dx/dt = (1 - t) S x - tanh(x) / 2, with S x the difference of neighbours, so that div = -sum(1 - tanh^2) / 2."""

    tolerance = 1e-5

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def velocity(self, x: Array, t: Array) -> Array:
        """The field."""
        x = self._check(x)
        turned = np.roll(x, 1, axis=1) - np.roll(x, -1, axis=1)
        return np.asarray((1 - t[:, None]) * turned - np.tanh(x) / 2)

    def flow(self, z: Array) -> tuple[Array, Array]:
        """The solution at t = 1, and the integral of the divergence."""
        return self._solve(self._check(z), 0.0, 1.0)

    def inverse(self, x: Array) -> Array:
        """The solution back at t = 0."""
        return self._solve(self._check(x), 1.0, 0.0)[0]

    def log_prob(self, x: Array) -> Array:
        """log p(x), nats."""
        z, log_det = self._solve(self._check(x), 1.0, 0.0)
        return np.asarray(log_det - 0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=1))

    def _solve(self, x: Array, t: float, end: float) -> tuple[Array, Array]:
        steps, log_det = 64, np.zeros(len(x))
        h = (end - t) / steps
        for k in range(steps):
            now = t + k * h
            a, da = self._both(x, now)
            b, db = self._both(x + h / 2 * a, now + h / 2)
            c, dc = self._both(x + h / 2 * b, now + h / 2)
            d, dd = self._both(x + h * c, now + h)
            x = x + h / 6 * (a + 2 * b + 2 * c + d)
            log_det = log_det + h / 6 * (da + 2 * db + 2 * dc + dd)
        return x, log_det

    def _both(self, x: Array, t: float) -> tuple[Array, Array]:
        return self.velocity(x, np.full(len(x), t)), -np.sum(1 - np.tanh(x) ** 2, axis=1) / 2

    def _check(self, x: Array) -> Array:
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"expected points of {self.dim} coordinates, got shape {x.shape}")
        return x


def build(case: Any) -> Solved:
    """The flow of a case; no paths.

    >>> from dfm_ref.verify import FlowCase
    >>> build(FlowCase(dim=2)).flow(np.zeros((1, 2)))[1].round(3)
    array([-1.])
    """
    if case.path:
        raise NotImplementedError("no paths")
    return Solved(case.dim)
