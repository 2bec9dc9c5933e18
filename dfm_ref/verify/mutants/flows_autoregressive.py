"""A right flow in another style: each coordinate is scaled and moved by those before it. No path, no field.

Source: Papamakarios et al. 2017, with closed functions in place of networks.
"""

from typing import Any, TypeAlias

import numpy as np

__all__ = ["Autoregressive", "build"]

Array: TypeAlias = np.ndarray[Any, Any]


class Autoregressive:
    """x_i = z_i exp(s_i) + m_i, s_i = tanh(z_1 + ... + z_(i-1)) / 2, m_i = sin of the same."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def flow(self, z: Array) -> tuple[Array, Array]:
        """f(z) and log|det df/dz|."""
        self._check(z)
        before = np.cumsum(z, axis=1) - z
        s = np.tanh(before) / 2
        return z * np.exp(s) + np.sin(before), s.sum(axis=1)

    def inverse(self, x: Array) -> tuple[Array, Array]:
        """f^-1(x), a coordinate after the other, and the log-determinant of the inverse, which nobody asks for."""
        self._check(x)
        z, before, log_det = np.zeros_like(x), np.zeros(len(x)), np.zeros(len(x))
        for i in range(self.dim):
            s = np.tanh(before) / 2
            z[:, i] = (x[:, i] - np.sin(before)) * np.exp(-s)
            before, log_det = before + z[:, i], log_det - s
        return z, log_det

    def log_prob(self, x: Array) -> Array:
        """log p(x), nats."""
        z, log_det = self.inverse(x)
        return np.asarray(log_det - 0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=1))

    def _check(self, x: Array) -> None:
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"expected points of {self.dim} coordinates, got shape {x.shape}")


def build(case: Any) -> Autoregressive:
    """The flow of a case; no paths.

    >>> from dfm_ref.verify import FlowCase
    >>> build(FlowCase(dim=2)).flow(np.zeros((1, 2)))[1]
    array([0.])
    """
    if case.path:
        raise NotImplementedError("no paths")
    return Autoregressive(case.dim)
