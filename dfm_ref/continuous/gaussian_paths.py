"""Gaussian probability paths: p_t(x|x_1) = N(mu_t x_1, sigma_t^2 I), from noise at t = 0 to the data at t = 1.

Space has D dimensions, on the last axis; t is a number or float[...], one time for each point. A time outside [0, 1],
or one at which sigma vanishes and the velocity is singular, is a ValueError.
Source: Lipman et al. 2023, Theorems 1 to 3 and section 4.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from ..arrays import like, logsumexp, namespace, widen
from ..checks import distributions, times
from ..protocols import Array

__all__ = [
    "GaussianPath",
    "OptimalTransport",
    "VariancePreserving",
    "conditional_log_density",
    "conditional_velocity",
    "marginal_log_density",
    "marginal_velocity",
]


class GaussianPath(Protocol):
    """The factor mu of x_1 in the mean, the deviation sigma, their rates, all elementwise in t."""

    def mu(self, t: Array) -> Array: ...
    def mu_dot(self, t: Array) -> Array: ...
    def sigma(self, t: Array) -> Array: ...
    def log_sigma_dot(self, t: Array) -> Array: ...


@dataclass(frozen=True)
class OptimalTransport:
    """mu_t = t, sigma_t = 1 - (1 - sigma_min) t, straight lines at constant speed; sigma_min in [0, 1].

    With sigma_min = 0 the path is singular at t = 1.

    >>> OptimalTransport(sigma_min=0.5).sigma(0.5)
    0.75
    """

    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min <= 1:
            raise ValueError(f"sigma_min: expected a deviation in [0, 1], got {self.sigma_min}")

    def mu(self, t: Array) -> Array:
        return 1.0 * t

    def mu_dot(self, t: Array) -> Array:
        return 0.0 * t + 1.0

    def sigma(self, t: Array) -> Array:
        return (1 - t) + self.sigma_min * t

    def log_sigma_dot(self, t: Array) -> Array:
        return (self.sigma_min - 1) / self.sigma(t)


@dataclass(frozen=True)
class VariancePreserving:
    """mu_t = exp(-T/2), sigma_t^2 = 1 - exp(-T), with T(s) = beta_min s + (beta_max - beta_min) s^2 / 2 at s = 1 - t.

    Singular at t = 1. 0 <= beta_min <= beta_max, and beta_max > 0.

    >>> path = VariancePreserving(beta_min=0.1, beta_max=20.0)
    >>> round(float(path.mu(0.5) ** 2 + path.sigma(0.5) ** 2), 12)
    1.0
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not (0 <= self.beta_min <= self.beta_max < math.inf and self.beta_max > 0):
            raise ValueError("beta_min, beta_max: expected 0 <= beta_min <= beta_max, not both 0, "
                             f"got {self.beta_min} and {self.beta_max}")  # fmt: skip

    def mu(self, t: Array) -> Array:
        return namespace(t).exp(-self._T(t) / 2)

    def mu_dot(self, t: Array) -> Array:
        return self._T_dot(t) / 2 * self.mu(t)

    def sigma(self, t: Array) -> Array:
        xp = namespace(t)
        return xp.sqrt(-xp.expm1(-self._T(t)))

    def log_sigma_dot(self, t: Array) -> Array:
        return -self._T_dot(t) / (2 * namespace(t).expm1(self._T(t)))

    def _T(self, t: Array) -> Array:
        return (1 - t) * (self.beta_min + (self.beta_max - self.beta_min) / 2 * (1 - t))

    def _T_dot(self, t: Array) -> Array:
        """dT/ds at s = 1 - t."""
        return self.beta_min + (self.beta_max - self.beta_min) * (1 - t)


def conditional_velocity(path: GaussianPath, x_1: Array, x_t: Array, t: Array) -> Array:
    """u_t(x|x_1) = (sigma_dot / sigma) (x - mu x_1) + mu_dot x_1: float[..., D] twice -> float[..., D], per unit of t.

    It generates p_t(.|x_1). Domain: sigma_t > 0. Source: Lipman et al. 2023, Theorem 3.

    >>> import numpy as np
    >>> conditional_velocity(OptimalTransport(), np.array([1.0]), np.array([0.0]), 0.5)
    array([2.])
    """
    x_1, x_t, t = _points(path, x_1, x_t, t)
    mu, mu_dot, rate = (namespace(x_t).astype(f(t), x_t.dtype) for f in (path.mu, path.mu_dot, path.log_sigma_dot))
    return rate * (x_t - mu * x_1) + mu_dot * x_1


def conditional_log_density(path: GaussianPath, x_1: Array, x_t: Array, t: Array) -> Array:
    """log N(x; mu_t x_1, sigma_t^2 I), float[..., D] twice -> float[...], nats. Domain: sigma_t > 0.

    Source: Lipman et al. 2023, the Gaussian conditional paths of section 4.

    >>> import numpy as np
    >>> round(float(conditional_log_density(OptimalTransport(), np.array([1.0]), np.array([0.0]), 0.0)), 6)
    -0.918939
    """
    x_1, x_t, t = _points(path, x_1, x_t, t)
    xp = namespace(x_t)
    mu, sigma = (xp.astype(f(t), x_t.dtype) for f in (path.mu, path.sigma))
    noise = (x_t - mu * x_1) / sigma
    return -xp.sum(noise * noise / 2 + xp.log(sigma) + math.log(2 * math.pi) / 2, axis=-1)


def marginal_log_density(path: GaussianPath, data: Array, q: Array, x_t: Array, t: Array) -> Array:
    """log p_t(x) = log sum_k q_k N(x; mu_t x_1k, sigma_t^2 I) of finite data x_1k ~ q, nats.

    data: float[K, D], q: float[K], x_t: float[..., D] -> float[...]. Domain: sigma_t > 0.
    Source: Lipman et al. 2023, the marginal path of section 3.

    >>> import numpy as np
    >>> round(float(marginal_log_density(OptimalTransport(), np.zeros((1, 1)), np.ones(1), np.zeros(1), 0.5)), 6)
    -0.225791
    """
    return logsumexp(_log_joint(path, data, q, x_t, t))


def marginal_velocity(path: GaussianPath, data: Array, q: Array, x_t: Array, t: Array) -> Array:
    """u_t(x) = sum_k r_k u_t(x|x_1k), r_k = p(x_1k|x) = softmax_k(log q_k + log p_t(x|x_1k)), of finite data.

    data: float[K, D], q: float[K], x_t: float[..., D] -> float[..., D]. It generates p_t. Domain: sigma_t > 0.
    Source: Lipman et al. 2023, Theorem 1.

    >>> import numpy as np
    >>> data, q = np.array([[-1.0], [1.0]]), np.array([0.5, 0.5])
    >>> marginal_velocity(OptimalTransport(), data, q, np.array([0.0]), 0.5)
    array([0.])
    """
    log_joint = _log_joint(path, data, q, x_t, t)
    r = namespace(x_t).exp(log_joint - logsumexp(log_joint)[..., None])
    u = conditional_velocity(path, data, x_t[..., None, :], _each(t))
    return namespace(x_t).sum(r[..., None] * u, axis=-2)


def _log_joint(path: GaussianPath, data: Array, q: Array, x_t: Array, t: Array) -> Array:
    """log q_k + log p_t(x|x_1k), float[..., K]; -inf where q_k = 0."""
    if data.ndim != 2 or tuple(q.shape) != (data.shape[0],):
        shapes = tuple(data.shape), tuple(q.shape)
        raise ValueError(f"data, q: expected points [K, D] and K probabilities, got the shapes {shapes}")
    distributions("q", q)
    xp = namespace(data, q, x_t)
    log_q = xp.where(q > 0, xp.log(xp.where(q > 0, q, xp.ones_like(q))), -xp.inf)
    return log_q + conditional_log_density(path, data, x_t[..., None, :], _each(t))


def _points(path: GaussianPath, x_1: Array, x_t: Array, t: Array) -> tuple[Array, Array, Array]:
    """Points of one dimension, and their times as float64[..., 1]."""
    if x_t.ndim == 0 or x_1.ndim == 0 or x_t.shape[-1] != x_1.shape[-1]:
        shapes = tuple(x_1.shape), tuple(x_t.shape)
        raise ValueError(f"x_1, x_t: expected points with the same last axis, got the shapes {shapes}")
    xp = namespace(x_1, x_t)
    t = like(x_t, t, xp.float64)
    if t.ndim and tuple(t.shape) != tuple(x_t.shape[:-1]):
        raise ValueError(f"t: expected a number or the shape {tuple(x_t.shape[:-1])}, got {tuple(t.shape)}")
    times("t", t)
    if not bool(xp.all(path.sigma(t) > 0)):
        raise ValueError(
            f"t: expected times at which sigma > 0, where the velocity is finite, got a singular end of {path}"
        )
    return widen(x_1), widen(x_t), t[..., None]


def _each(t: Array) -> Array:
    """The times of points beside an axis of data: a number, or float[..., 1]."""
    return t[..., None] if getattr(t, "ndim", 0) else t
