"""What a continuous implementation is asked about: a `FlowCase`, and the exact numbers of its path, by NumPy alone.

A case without a path is a flow by itself. One with a path is x_t = mu_t x_1 + sigma_t x_0, x_0 standard normal and x_1
of a finite law, independently; p_t is a mixture of Gaussians. Source: Lipman et al. 2023, Theorems 1 and 3.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

__all__ = [
    "PATHS",
    "FlowCase",
    "GaussianPath",
    "conditional_velocity",
    "log_density",
    "log_density_dot",
    "log_normal",
    "posterior",
    "score",
    "velocity",
]

Table: TypeAlias = np.ndarray[Any, Any]


class FlowCase(NamedTuple):
    """What an implementation is built for: a dimension, and of a path its name and the law of x_1.

    Paths: "" for a flow by itself, "ot" t and 1 - t, "vp" exp(-T / 2) and sqrt(1 - exp(-T)) with T = 0.1 s + 9.95 s^2
    at s = 1 - t, "cosine" sin(pi t / 2) and cos(pi t / 2). `data` are points with the probabilities `q`.

    >>> FlowCase(dim=2)
    FlowCase(dim=2, path='', data=(), q=())
    """

    dim: int
    path: str = ""
    data: tuple[tuple[float, ...], ...] = ()
    q: tuple[float, ...] = ()


class GaussianPath(NamedTuple):
    """mu_t, sigma_t and their derivatives: float64[...] -> float64[...]."""

    mu: Callable[[Any], Any]
    sigma: Callable[[Any], Any]
    mu_dot: Callable[[Any], Any]
    sigma_dot: Callable[[Any], Any]


def _T(t: Any) -> Any:
    return 0.1 * (1 - t) + 9.95 * (1 - t) ** 2


def _T_dot(t: Any) -> Any:
    return -0.1 - 19.9 * (1 - t)


PATHS = {
    "ot": GaussianPath(lambda t: 1.0 * t, lambda t: 1.0 - t, lambda t: 1.0 + 0.0 * t, lambda t: -1.0 + 0.0 * t),
    "cosine": GaussianPath(
        lambda t: np.sin(np.pi / 2 * t),
        lambda t: np.sin(np.pi / 2 * (1 - t)),
        lambda t: np.pi / 2 * np.sin(np.pi / 2 * (1 - t)),
        lambda t: -np.pi / 2 * np.sin(np.pi / 2 * t),
    ),
    "vp": GaussianPath(
        lambda t: np.exp(-_T(t) / 2),
        lambda t: np.sqrt(-np.expm1(-_T(t))),
        lambda t: -_T_dot(t) / 2 * np.exp(-_T(t) / 2),
        lambda t: _T_dot(t) / 2 * np.exp(-_T(t)) / np.sqrt(-np.expm1(-_T(t))),
    ),
}
"""The three paths of a case, by name."""


def log_normal(z: Table) -> Table:
    """The log-density of the standard normal law, nats: float64[..., D] -> float64[...].

    >>> log_normal(np.zeros((1, 2))).round(6)
    array([-1.837877])
    """
    return np.asarray(-0.5 * np.sum(z * z + np.log(2 * np.pi), axis=-1))


def _joint(case: FlowCase, x: Table, t: Table) -> tuple[Table, Table, GaussianPath]:
    """log q_k + log p_t(x|x_1k), float64[B, K], and (x - mu x_1k) / sigma, float64[B, K, D]."""
    if x.shape != (len(t), case.dim) or not np.all((t >= 0) & (t <= 1)):
        raise ValueError(f"x, t: expected points of {case.dim} coordinates and a time in [0, 1] each, got {x} and {t}")
    path = PATHS[case.path]
    sigma = path.sigma(t)[:, None, None]
    noise = (x[:, None] - path.mu(t)[:, None, None] * np.asarray(case.data)) / sigma
    return np.log(case.q) + log_normal(noise) - case.dim * np.log(sigma[..., 0]), noise, path


def log_density(case: FlowCase, x: Table, t: Table) -> Table:
    """log p_t(x), nats: float64[B, D], float64[B] -> float64[B].

    >>> case = FlowCase(1, "ot", ((-1.0,), (1.0,)), (0.5, 0.5))
    >>> log_density(case, np.zeros((1, 1)), np.array([0.5])).round(6)  # log N(0; 1/2, 1/4)
    array([-0.725791])
    """
    return np.asarray(np.logaddexp.reduce(_joint(case, x, t)[0], axis=1))


def posterior(case: FlowCase, x: Table, t: Table) -> Table:
    """p(x_1k | x_t = x), float64[B, K].

    >>> case = FlowCase(1, "ot", ((-1.0,), (1.0,)), (0.25, 0.75))
    >>> posterior(case, np.zeros((1, 1)), np.array([0.5]))
    array([[0.25, 0.75]])
    """
    log_joint = _joint(case, x, t)[0]
    return np.asarray(np.exp(log_joint - np.logaddexp.reduce(log_joint, axis=1, keepdims=True)))


def score(case: FlowCase, x: Table, t: Table) -> Table:
    """grad log p_t(x), float64[B, D].

    >>> score(FlowCase(1, "ot", ((1.0,),), (1.0,)), np.array([[0.0]]), np.array([0.5]))
    array([[2.]])
    """
    _, noise, path = _joint(case, x, t)
    mean = np.einsum("bk,bkd->bd", posterior(case, x, t), noise)
    return np.asarray(-mean / path.sigma(t)[:, None])


def log_density_dot(case: FlowCase, x: Table, t: Table) -> Table:
    """The derivative of `log_density` in t, float64[B].

    >>> log_density_dot(FlowCase(1, "ot", ((0.0,),), (1.0,)), np.array([[0.0]]), np.array([0.5]))
    array([2.])
    """
    _, noise, path = _joint(case, x, t)
    drift, spread = path.mu_dot(t)[:, None], path.sigma_dot(t)[:, None]
    along = np.einsum("bkd,kd->bk", noise, np.asarray(case.data))
    rate = (spread * (np.sum(noise**2, axis=-1) - case.dim) + drift * along) / path.sigma(t)[:, None]
    return np.asarray(np.sum(posterior(case, x, t) * rate, axis=1))


def conditional_velocity(case: FlowCase, x: Table, t: Table) -> Table:
    """u_t(x|x_1k) = (sigma_dot / sigma) (x - mu x_1k) + mu_dot x_1k for every point of the data, float64[B, K, D].

    >>> conditional_velocity(FlowCase(1, "ot", ((1.0,),), (1.0,)), np.array([[0.0]]), np.array([0.5]))
    array([[[2.]]])
    """
    _, noise, path = _joint(case, x, t)
    rate, drift = path.sigma_dot(t)[:, None, None], path.mu_dot(t)[:, None, None]
    return np.asarray(rate * noise + drift * np.asarray(case.data))


def velocity(case: FlowCase, x: Table, t: Table) -> Table:
    """The marginal velocity sum_k p(x_1k|x) u_t(x|x_1k), float64[B, D].

    >>> case = FlowCase(1, "ot", ((-1.0,), (1.0,)), (0.25, 0.75))
    >>> velocity(case, np.zeros((1, 1)), np.array([0.5]))
    array([[1.]])
    """
    return np.asarray(np.einsum("bk,bkd->bd", posterior(case, x, t), conditional_velocity(case, x, t)))
