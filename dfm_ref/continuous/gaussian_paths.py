"""Gaussian probability paths: p_t(x|x_1) = N(mu_t x_1, sigma_t^2 I), from noise at t = 0 to the data at t = 1.

Space has D dimensions, on the last axis; t is a number or float[...], one time for each point. A time outside [0, 1],
or one at which sigma vanishes and a formula divides by it, is a ValueError. Coefficients are computed in float64.
Source: Lipman et al. 2023, Theorems 1 to 3 and section 4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..arrays import like, log, logsumexp, namespace, to_numpy, widen
from ..checks import distributions, same_shape, times
from ..protocols import Array

__all__ = [
    "Cosine",
    "GaussianPath",
    "OptimalTransport",
    "VarianceExploding",
    "VariancePreserving",
    "conditional_log_density",
    "conditional_score",
    "conditional_velocity",
    "demand",
    "denoiser",
    "factors",
    "interpolate",
    "interpolate_dot",
    "log_snr",
    "marginal_log_density",
    "marginal_score",
    "marginal_velocity",
    "rates",
]


class GaussianPath(Protocol):
    """The factor mu of x_1 in the mean, the deviation sigma, and their rates, all elementwise in t.

    mu and sigma never vanish together, and mu / sigma increases strictly.
    """

    def mu(self, t: Array) -> Array: ...
    def mu_dot(self, t: Array) -> Array: ...
    def sigma(self, t: Array) -> Array: ...
    def sigma_dot(self, t: Array) -> Array: ...
    def time_of(self, log_snr: Array) -> Array:
        """The time at which log mu - log sigma has a value; outside [0, 1] where the path has it nowhere."""


@dataclass(frozen=True)
class OptimalTransport:
    """mu_t = t, sigma_t = 1 - (1 - sigma_min) t, straight lines at constant speed; sigma_min in [0, 1].

    With sigma_min = 0 all paths meet the data at t = 1.

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

    def sigma_dot(self, t: Array) -> Array:
        return 0.0 * t + (self.sigma_min - 1)

    def time_of(self, log_snr: Array) -> Array:
        xp = namespace(log_snr)
        rest = math.log(1 - self.sigma_min) if self.sigma_min < 1 else -math.inf
        return xp.exp(-xp.logaddexp(-log_snr, xp.full_like(log_snr, rest)))  # 1 / (sigma / mu + 1 - sigma_min)


@dataclass(frozen=True)
class VariancePreserving:
    """mu_t = exp(-T/2), sigma_t^2 = 1 - exp(-T), with T(s) = beta_min s + (beta_max - beta_min) s^2 / 2 at s = 1 - t.

    At t = 1 sigma is 0, and its rate infinite unless beta_min = 0. 0 <= beta_min <= beta_max, and beta_max > 0.

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

    def sigma_dot(self, t: Array) -> Array:
        xp, sigma, mu_mu_dot = namespace(t), self.sigma(t), self.mu(t) * self.mu_dot(t)
        end = -math.inf if self.beta_min else -math.sqrt(self.beta_max / 2)
        return xp.where(sigma > 0, -mu_mu_dot / xp.where(sigma > 0, sigma, 1.0), end)

    def time_of(self, log_snr: Array) -> Array:
        xp, rise = namespace(log_snr), self.beta_max - self.beta_min
        T = xp.clip(xp.logaddexp(xp.zeros_like(log_snr), -2 * log_snr), 1e-300, 1e300)  # no 0/0, no inf/inf
        return 1 - 2 * T / (self.beta_min + xp.sqrt(self.beta_min**2 + 2 * rise * T))

    def _T(self, t: Array) -> Array:
        return (1 - t) * (self.beta_min + (self.beta_max - self.beta_min) / 2 * (1 - t))

    def _T_dot(self, t: Array) -> Array:
        """dT/ds at s = 1 - t."""
        return self.beta_min + (self.beta_max - self.beta_min) * (1 - t)


@dataclass(frozen=True)
class VarianceExploding:
    """mu_t = 1, sigma_t = sigma_min (sigma_max / sigma_min)^(1 - t), for 0 < sigma_min < sigma_max.

    At t = 0 noise is added to the data, of which a large sigma_max leaves nothing to see.

    >>> float(VarianceExploding(sigma_min=0.5, sigma_max=2.0).sigma(0.0))
    2.0
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError("sigma_min, sigma_max: expected 0 < sigma_min < sigma_max, "
                             f"got {self.sigma_min} and {self.sigma_max}")  # fmt: skip

    def mu(self, t: Array) -> Array:
        return 0.0 * t + 1.0

    def mu_dot(self, t: Array) -> Array:
        return 0.0 * t

    def sigma(self, t: Array) -> Array:
        return self.sigma_max ** (1 - t) * self.sigma_min**t

    def sigma_dot(self, t: Array) -> Array:
        return -self._log_range * self.sigma(t)

    def time_of(self, log_snr: Array) -> Array:
        return (log_snr + math.log(self.sigma_max)) / self._log_range

    @property
    def _log_range(self) -> float:
        return math.log(self.sigma_max) - math.log(self.sigma_min)


@dataclass(frozen=True)
class Cosine:
    """mu_t = sin(pi t / 2), sigma_t = cos(pi t / 2): a quarter of a circle at constant speed.

    >>> float(Cosine().mu(1.0)), float(Cosine().sigma(1.0))
    (1.0, 0.0)
    """

    def mu(self, t: Array) -> Array:
        return namespace(t).sin(math.pi / 2 * t)

    def mu_dot(self, t: Array) -> Array:
        return math.pi / 2 * self.sigma(t)

    def sigma(self, t: Array) -> Array:
        return self.mu(1 - t)  # all digits near t = 1

    def sigma_dot(self, t: Array) -> Array:
        return -math.pi / 2 * self.mu(t)

    def time_of(self, log_snr: Array) -> Array:
        xp = namespace(log_snr)
        return 2 / math.pi * xp.atan(xp.exp(log_snr))


def log_snr(path: GaussianPath, t: Array) -> Array:
    """log mu_t - log sigma_t, half the logarithm of the signal-to-noise ratio, elementwise: float[...] -> float[...].

    It increases with t, from -inf where mu = 0 to +inf where sigma = 0; `path.time_of` is its inverse.
    Source: Kingma et al. 2021 (VDM), section 3.

    >>> float(log_snr(OptimalTransport(), 0.5))
    0.0
    """
    times("t", t)
    xp = namespace(t)
    return log(xp.asarray(path.mu(t))) - log(xp.asarray(path.sigma(t)))


def factors(x_t: Array, t: Array, *functions: Callable[[Array], Array]) -> tuple[Array, ...]:
    """Functions of time beside points, float[..., D]: the value of each, float[..., 1] or float[1], in the type of x_t.

    ValueError unless t is a number or float[...], in [0, 1].

    >>> import numpy as np
    >>> path = OptimalTransport()
    >>> factors(np.zeros((2, 3)), np.array([0.25, 0.75]), path.sigma)[0]
    array([[0.75],
           [0.25]])
    """
    if x_t.ndim == 0:
        raise ValueError("x_t: expected points with coordinates on the last axis, got a number")
    xp = namespace(x_t)
    t = like(x_t, t, xp.float64)
    if t.ndim and tuple(t.shape) != tuple(x_t.shape[:-1]):
        raise ValueError(f"t: expected a number or the shape {tuple(x_t.shape[:-1])}, got {tuple(t.shape)}")
    times("t", t)
    return tuple(xp.astype(function(t[..., None]), x_t.dtype) for function in functions)


def rates(path: GaussianPath, x_t: Array, t: Array) -> tuple[Array, Array]:
    """mu_dot and sigma_dot beside points, as `factors`; ValueError where one of them is infinite.

    >>> import numpy as np
    >>> rates(OptimalTransport(), np.zeros(3), 1.0)
    (array([1.]), array([-1.]))
    """
    mu_dot, sigma_dot = factors(x_t, t, path.mu_dot, path.sigma_dot)
    xp = namespace(x_t)
    demand(xp.isfinite(mu_dot) & xp.isfinite(sigma_dot), t, f"the rates of {path} are finite")
    return mu_dot, sigma_dot


def demand(holds: Array, t: Array, what: str) -> None:
    """Raises ValueError, with the first time that fails, unless a condition, bool[..., 1], holds at all times t.

    >>> import numpy as np
    >>> demand(np.array([[True], [False]]), np.array([0.5, 1.0]), "sigma > 0")
    Traceback (most recent call last):
    ValueError: t: expected times at which sigma > 0, got 1.0
    """
    if not bool(namespace(holds).all(holds)):
        t, holds = np.reshape(to_numpy(t), (-1,)), np.reshape(to_numpy(holds), (-1,))
        raise ValueError(f"t: expected times at which {what}, got {t[~holds][0]}")


def interpolate(path: GaussianPath, x_0: Array, x_1: Array, t: Array) -> Array:
    """x_t = psi_t(x_0) = mu_t x_1 + sigma_t x_0: float[..., D] twice -> float[..., D]; a draw of p_t if x_0 ~ N(0, I).

    Source: Lipman et al. 2023, section 4.

    >>> import numpy as np
    >>> interpolate(OptimalTransport(), np.array([4.0]), np.array([8.0]), 0.25)
    array([5.])
    """
    same_shape(x_0=x_0, x_1=x_1)
    x_0, x_1 = widen(x_0), widen(x_1)
    mu, sigma = factors(x_1, t, path.mu, path.sigma)
    return mu * x_1 + sigma * x_0


def interpolate_dot(path: GaussianPath, x_0: Array, x_1: Array, t: Array) -> Array:
    """d psi_t(x_0) / dt = mu_dot x_1 + sigma_dot x_0, per unit of t: float[..., D] twice -> float[..., D].

    It is u_t(psi_t(x_0)|x_1), finite at sigma_t = 0 too. Domain: finite rates. Source: Lipman et al. 2023, Theorem 3.

    >>> import numpy as np
    >>> interpolate_dot(OptimalTransport(), np.array([4.0]), np.array([8.0]), 1.0)
    array([4.])
    """
    same_shape(x_0=x_0, x_1=x_1)
    x_0, x_1 = widen(x_0), widen(x_1)
    mu_dot, sigma_dot = rates(path, x_1, t)
    return mu_dot * x_1 + sigma_dot * x_0


def conditional_velocity(path: GaussianPath, x_1: Array, x_t: Array, t: Array) -> Array:
    """u_t(x|x_1) = mu_dot x_1 + sigma_dot (x - mu x_1) / sigma: float[..., D] twice -> float[..., D], per unit of t.

    It generates p_t(.|x_1). Domain: sigma_t > 0. Source: Lipman et al. 2023, Theorem 3.

    >>> import numpy as np
    >>> conditional_velocity(OptimalTransport(), np.array([1.0]), np.array([0.0]), 0.5)
    array([2.])
    """
    x_0, _ = _noise(path, x_1, x_t, t)
    mu_dot, sigma_dot = factors(x_0, t, path.mu_dot, path.sigma_dot)
    return mu_dot * x_1 + sigma_dot * x_0


def conditional_log_density(path: GaussianPath, x_1: Array, x_t: Array, t: Array) -> Array:
    """log N(x; mu_t x_1, sigma_t^2 I), float[..., D] twice -> float[...], nats. Domain: sigma_t > 0.

    Source: Lipman et al. 2023, the Gaussian conditional paths of section 4.

    >>> import numpy as np
    >>> round(float(conditional_log_density(OptimalTransport(), np.array([1.0]), np.array([0.0]), 0.0)), 6)
    -0.918939
    """
    x_0, sigma = _noise(path, x_1, x_t, t)
    xp = namespace(x_0)
    return -xp.sum(x_0 * x_0 / 2 + xp.log(sigma) + math.log(2 * math.pi) / 2, axis=-1)


def conditional_score(path: GaussianPath, x_1: Array, x_t: Array, t: Array) -> Array:
    """grad_x log N(x; mu_t x_1, sigma_t^2 I) = -(x - mu x_1) / sigma^2: float[..., D] twice -> float[..., D].

    Domain: sigma_t > 0. Source: Song et al. 2021, denoising score matching.

    >>> import numpy as np
    >>> conditional_score(OptimalTransport(), np.array([1.0]), np.array([0.0]), 0.5)
    array([2.])
    """
    x_0, sigma = _noise(path, x_1, x_t, t)
    return -x_0 / sigma


def denoiser(path: GaussianPath, data: Array, q: Array, x_t: Array, t: Array) -> Array:
    """E[x_1|x_t = x] = sum_k r_k x_1k, r_k = p(x_1k|x) = softmax_k(log q_k + log p_t(x|x_1k)), of finite data x_1k ~ q.

    data: float[K, D], q: float[K], x_t: float[..., D] -> float[..., D]. Domain: sigma_t > 0, x however far.
    Source: Lipman et al. 2023, the posterior of Theorem 1.

    >>> import numpy as np
    >>> data, q = np.array([[-1.0], [1.0]]), np.array([0.5, 0.5])
    >>> denoiser(OptimalTransport(), data, q, np.array([1e6]), 0.5)
    array([1.])
    """
    _check(data, q, x_t)
    x_t = widen(x_t)
    xp = namespace(x_t)
    data, q = xp.astype(data, x_t.dtype), xp.maximum(xp.astype(q, x_t.dtype), 0.0)
    mu, sigma = (factor[..., None] for factor in _regular(path, x_t, t))
    x, sigma = x_t[..., None, :], sigma[..., 0]

    def nearer(c: Array) -> Array:
        """(|x - mu c|^2 - |x - mu x_1|^2) / 2 for every point x_1 of the data, without |x|^2, and -inf where q = 0."""
        return xp.where(q > 0, xp.sum(mu * (data - c) * (x - mu * (data + c) / 2), axis=-1), -xp.inf)

    nearest = xp.argmax(nearer(data[:1, :]), axis=-1)
    gap = nearer(xp.reshape(xp.take(data, xp.reshape(nearest, (-1,)), axis=0), x.shape))
    gap = gap - xp.max(gap, axis=-1, keepdims=True)
    log_ratio = xp.clip(gap / sigma, -800 * sigma, 0 * sigma) / sigma  # exp(-800) = 0, and nothing overflows
    weights = q * xp.exp(log_ratio)
    return weights / xp.sum(weights, axis=-1, keepdims=True) @ data


def marginal_log_density(path: GaussianPath, data: Array, q: Array, x_t: Array, t: Array) -> Array:
    """log p_t(x) = log sum_k q_k N(x; mu_t x_1k, sigma_t^2 I) of finite data x_1k ~ q, nats.

    data: float[K, D], q: float[K], x_t: float[..., D] -> float[...]. Domain: sigma_t > 0.
    Source: Lipman et al. 2023, the marginal path of section 3.

    >>> import numpy as np
    >>> round(float(marginal_log_density(OptimalTransport(), np.zeros((1, 1)), np.ones(1), np.zeros(1), 0.5)), 6)
    -0.225791
    """
    _check(data, q, x_t)
    t = t[..., None] if getattr(t, "ndim", 0) else t  # the time of a point is that of its K densities
    return logsumexp(log(q) + conditional_log_density(path, data, x_t[..., None, :], t))


def marginal_velocity(path: GaussianPath, data: Array, q: Array, x_t: Array, t: Array) -> Array:
    """u_t(x) = sum_k r_k u_t(x|x_1k) of finite data, which is u_t(x|E[x_1|x]): u_t(x|.) is affine.

    data: float[K, D], q: float[K], x_t: float[..., D] -> float[..., D]. It generates p_t. Domain: sigma_t > 0.
    Source: Lipman et al. 2023, Theorem 1.

    >>> import numpy as np
    >>> data, q = np.array([[-1.0], [1.0]]), np.array([0.5, 0.5])
    >>> marginal_velocity(OptimalTransport(), data, q, np.array([0.0]), 0.5)
    array([0.])
    """
    return conditional_velocity(path, denoiser(path, data, q, x_t, t), x_t, t)


def marginal_score(path: GaussianPath, data: Array, q: Array, x_t: Array, t: Array) -> Array:
    """grad_x log p_t(x) = -(x - mu E[x_1|x]) / sigma^2 of finite data.

    data: float[K, D], q: float[K], x_t: float[..., D] -> float[..., D]. Domain: sigma_t > 0.
    Source: Robbins 1956 (Tweedie's formula).

    >>> import numpy as np
    >>> marginal_score(OptimalTransport(), np.zeros((1, 1)), np.ones(1), np.array([1.0]), 0.5)
    array([-4.])
    """
    return conditional_score(path, denoiser(path, data, q, x_t, t), x_t, t)


def _regular(path: GaussianPath, x_t: Array, t: Array) -> tuple[Array, Array]:
    """mu and sigma beside points, sigma > 0."""
    mu, sigma = factors(x_t, t, path.mu, path.sigma)
    demand(sigma > 0, t, f"sigma > 0 on {path}")
    return mu, sigma


def _noise(path: GaussianPath, x_1: Array, x_t: Array, t: Array) -> tuple[Array, Array]:
    """x_0 = (x - mu x_1) / sigma, which leads to x on the way to x_1, and sigma."""
    _same_space("x_1", x_1, x_t)
    x_t = widen(x_t)
    mu, sigma = _regular(path, x_t, t)
    return (x_t - mu * widen(x_1)) / sigma, sigma


def _check(data: Array, q: Array, x_t: Array) -> None:
    if data.ndim != 2 or tuple(q.shape) != (data.shape[0],):
        shapes = tuple(data.shape), tuple(q.shape)
        raise ValueError(f"data, q: expected points [K, D] and K probabilities, got the shapes {shapes}")
    distributions("q", q)
    _same_space("data", data, x_t)


def _same_space(name: str, x_1: Array, x_t: Array) -> None:
    if x_t.ndim == 0 or x_1.ndim == 0 or x_t.shape[-1] != x_1.shape[-1]:
        shapes = tuple(x_1.shape), tuple(x_t.shape)
        raise ValueError(f"{name}, x_t: expected points with the same last axis, got the shapes {shapes}")
