"""A right continuous implementation in plain NumPy, one statement a line, so that a common mistake is one line of it.

The flow is that of the field v(x, t) = 2 t Q (a tanh(Q^T x)), with a reflection Q: in the axes of Q each coordinate
obeys d sinh(y)/dt = 2 t a sinh(y). Paths are Gaussian. It shares no code with the rest of the library.
"""

from typing import Any, TypeAlias

import numpy as np

__all__ = ["Flow", "Inputs", "Path", "build"]

Array: TypeAlias = np.ndarray[Any, Any]


class Inputs:
    """Checks of arguments that both share."""

    dim: int
    real: Any = np.float64

    def _points(self, x: Any, name: str, *, like: Array | None = None) -> Array:
        points: Array = np.asarray(x)
        if points.ndim != 2 or points.shape[1] != self.dim:
            raise ValueError(f"{name} must have shape (B, {self.dim}), got {points.shape}")
        if like is not None and points.shape != like.shape:
            raise ValueError(f"{name} must have shape {like.shape}, got {points.shape}")
        if not np.all(np.isfinite(points)):
            raise ValueError(f"{name} must be finite")
        return points.astype(self.real)

    def _times(self, t: Any, x: Array) -> Array:
        times: Array = np.asarray(t)
        if times.shape != (len(x),):
            raise ValueError(f"t must have shape {(len(x),)}, got {times.shape}")
        inside = (times >= 0) & (times <= 1)
        if not np.all(inside):
            raise ValueError(f"t must be in [0, 1], got {times}")
        return times.astype(self.real)


class Flow(Inputs):
    """x = Q asinh(exp(a) sinh(Q^T z)), with the base N(0, I)."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.rates = np.linspace(0.75, -0.5, dim).astype(self.real)
        halves = 1 / np.arange(1, dim + 1)
        outer = 2 * np.outer(halves, halves) / np.sum(halves**2)
        reflection = np.eye(dim) - outer
        self.axes = reflection.astype(self.real)

    def flow(self, z: Array) -> tuple[Array, Array]:
        """f(z) and log|det df/dz|: float[B, D] -> float[B, D], float[B]."""
        y = self._points(z, "z") @ self.axes
        moved = np.arcsinh(np.exp(self.rates) * np.sinh(y))
        x = moved @ self.axes.T
        log_det = self._log_slopes(y, moved).sum(axis=-1)
        return x, log_det

    def _log_slopes(self, y: Array, moved: Array) -> Array:
        """log dy'/dy of each coordinate, float[B, D]."""
        return self.rates + self._log_cosh(y) - self._log_cosh(moved)

    def _log_cosh(self, y: Array) -> Array:
        return np.asarray(np.logaddexp(y, -y) - np.log(self.real(2)))

    def inverse(self, x: Array) -> Array:
        """The z of f(z) = x: float[B, D] -> float[B, D]."""
        y = self._points(x, "x") @ self.axes
        back = np.arcsinh(np.exp(-self.rates) * np.sinh(y))
        return np.asarray(back @ self.axes.T)

    def log_prob(self, x: Array) -> Array:
        """log p(x), nats: float[B, D] -> float[B]."""
        z = self.inverse(x)
        log_det = self.flow(z)[1]
        base = -0.5 * np.sum(z**2, axis=-1) - 0.5 * self.dim * np.log(2 * self.real(np.pi))
        return np.asarray(base - log_det)

    def tangent(self, z: Array, dz: Array) -> Array:
        """The derivative of the flow along dz: float[B, D] twice -> float[B, D]."""
        y = self._points(z, "z") @ self.axes
        dy = self._points(dz, "dz", like=y) @ self.axes
        moved = np.arcsinh(np.exp(self.rates) * np.sinh(y))
        along = np.exp(self._log_slopes(y, moved)) * dy
        return np.asarray(along @ self.axes.T)

    def velocity(self, x: Array, t: Array) -> Array:
        """The field v(x, t), whose flow from t = 0 to 1 is f: float[B, D], float[B] -> float[B, D]."""
        y = self._points(x, "x") @ self.axes
        speed = 2 * self._times(t, y)[:, None]
        field = speed * self.rates * np.tanh(y)
        return np.asarray(field @ self.axes.T)


class Path(Inputs):
    """x_t = mu_t x_1 + sigma_t x_0 with finite data."""

    def __init__(self, case: Any) -> None:
        self.dim = case.dim
        self.path = case.path
        self.data = np.asarray(case.data, dtype=self.real)
        self.log_q = np.log(np.asarray(case.q, dtype=self.real))

    def _coefficients(self, t: Array) -> tuple[Array, Array, Array, Array]:
        """mu, sigma, and their derivatives, float[B, 1]."""
        t, s = t[:, None], 1 - t[:, None]
        half = np.pi / 2
        if self.path == "ot":
            return t, s, np.ones_like(t), -np.ones_like(t)
        if self.path == "cosine":
            up, down = np.sin(half * t), np.sin(half * s)
            return up, down, half * down, -half * up
        spent = 0.1 * s + 9.95 * s**2
        rate = 0.1 + 19.9 * s
        mu = np.exp(-spent / 2)
        sigma = np.sqrt(-np.expm1(-spent))
        mu_dot = rate / 2 * mu
        with np.errstate(divide="ignore"):
            sigma_dot = -rate / 2 * mu**2 / sigma
        return mu, sigma, mu_dot, sigma_dot

    def sample_path(self, x_0: Array, x_1: Array, t: Array, seed: int) -> tuple[Array, Array]:
        """x_t and dx_t/dt: float[B, D] both."""
        x_0 = self._points(x_0, "x_0")
        x_1 = self._points(x_1, "x_1", like=x_0)
        mu, sigma, mu_dot, sigma_dot = self._coefficients(self._times(t, x_0))
        x_t = mu * x_1 + sigma * x_0
        with np.errstate(invalid="ignore"):
            dx_t = mu_dot * x_1 + sigma_dot * x_0
        return x_t, dx_t

    def velocity(self, x: Array, t: Array) -> Array:
        """u_t(x), the mean of the conditional velocities under the posterior: float[B, D]."""
        x = self._points(x, "x")
        mu, sigma, mu_dot, sigma_dot = self._coefficients(self._times(t, x))
        if np.any(sigma == 0):
            raise ValueError("t must be below 1: the velocity is singular there")
        weights = self._posterior(x, mu, sigma)
        mean = weights @ self.data
        noise = (x - mu * mean) / sigma
        return np.asarray(sigma_dot * noise + mu_dot * mean)

    def _posterior(self, x: Array, mu: Array, sigma: Array) -> Array:
        """p(x_1k | x), float[B, K]."""
        away = (x[:, None] - mu[:, None] * self.data) / sigma[:, None]
        scores = self.log_q - 0.5 * np.sum(away**2, axis=-1)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
        return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def build(case: Any) -> Flow | Path:
    """The implementation of a case.

    >>> from dfm_ref.verify import FlowCase
    >>> x, log_det = build(FlowCase(dim=2)).flow(np.zeros((1, 2)))
    >>> x.tolist(), log_det.tolist()
    ([[0.0, 0.0]], [0.25])
    """
    return Path(case) if case.path else Flow(case.dim)
