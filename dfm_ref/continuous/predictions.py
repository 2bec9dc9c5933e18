"""What a network may predict at a point x_t of a Gaussian path, how one prediction turns into another, and guidance.

The predictions are posterior means given x_t, of which any one determines the others:

    x_1         the data, by a denoiser                         x_t      = mu x_1 + sigma x_0
    x_0         the noise                                       velocity = mu_dot x_1 + sigma_dot x_0
    velocity    u_t(x_t)                                        score    = -x_0 / sigma
    score       grad log p_t(x_t)

Source: Lipman et al. 2024 (guide), on affine conditional flows; Song et al. 2021.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

from ..arrays import like, namespace, widen
from ..checks import same_shape
from ..protocols import Array
from .gaussian_paths import GaussianPath, demand, factors, log_snr, rates

__all__ = ["Prediction", "Velocity", "by_predictor", "convert", "guided", "transformed"]

Prediction: TypeAlias = Literal["velocity", "x_1", "x_0", "score"]

Velocity: TypeAlias = Callable[[Array, Array], Array]
"""u(x_t, t): float[..., D] and a number or float[...] -> float[..., D]."""


def convert(path: GaussianPath, value: Array, x_t: Array, t: Array, *, source: Prediction, target: Prediction) -> Array:
    """The target predicted by the value of the source at x_t, float[..., D] twice -> float[..., D].

    Each of x_t, velocity, x_1 and x_0 is a row (a, b), standing for a x_1 + b x_0, and of three rows in the plane each
    is a combination of the others (Cramer's rule):

        det(x_t, source) target = det(target, source) x_t + det(x_t, target) source

    The score is x_0 / -sigma. Written out, with W = mu_dot sigma - mu sigma_dot > 0:

        x_1 = (sigma u - sigma_dot x_t) / W     x_0 = (mu_dot x_t - mu u) / W
        x_1 = (x_t - sigma x_0) / mu            u   = (mu_dot x_t - W x_0) / mu
        x_0 = (x_t - mu x_1) / sigma            u   = (sigma_dot x_t + W x_1) / sigma

    ValueError at a time where the source leaves the target open: x_1 of x_0 or the score where mu = 0, the rest of x_1
    and a score where sigma = 0, and where a rate is infinite. All else is right at t = 0 and 1 too.
    Source: Lipman et al. 2024 (guide), velocity parameterizations.

    >>> import numpy as np
    >>> from .gaussian_paths import OptimalTransport
    >>> u, x_t = np.array([2.0]), np.array([1.0])
    >>> convert(OptimalTransport(), u, x_t, 0.5, source="velocity", target="x_1")
    array([2.])
    >>> convert(OptimalTransport(), u, x_t, 0.0, source="velocity", target="score")
    array([-1.])
    """
    for name, prediction in (("source", source), ("target", target)):
        if prediction not in get_args(Prediction):
            raise ValueError(f"{name}: expected one of {', '.join(get_args(Prediction))}, got {prediction!r}")
    same_shape(x_t=x_t, value=value)
    x_t, value = widen(x_t), widen(value)
    mu, sigma = factors(x_t, t, path.mu, path.sigma)
    if source == target:
        return value
    if source == "score":
        return convert(path, -sigma * value, x_t, t, source="x_0", target=target)
    if target == "score":
        demand(sigma > 0, t, f"{source} determines the score on {path}")
        return convert(path, value, x_t, t, source=source, target="x_0") / -sigma
    (a, b), (c, d) = (_row(path, prediction, x_t, t) for prediction in (source, target))
    det = mu * b - sigma * a
    demand(det != 0, t, f"{source} determines {target} on {path}")
    return ((c * b - d * a) * x_t + (mu * d - sigma * c) * value) / det


def _row(path: GaussianPath, prediction: Prediction, x_t: Array, t: Array) -> tuple[Array, Array]:
    """The factors of x_1 and x_0 in a prediction."""
    if prediction == "velocity":
        return rates(path, x_t, t)
    return (1.0, 0.0) if prediction == "x_1" else (0.0, 1.0)


def guided(u_c: Array, u_u: Array, *, strength: float) -> Array:
    """u_u + g (u_c - u_u), of a velocity given a condition and one without: float[..., D] twice -> float[..., D].

    g = 1 is the conditional velocity, g = 0 the unconditional one; what some call the weight w is g - 1. Any of the
    predictions may be guided: they convert into each other by affine maps. Gives up, but at g = 0 and 1: the path p_t
    and the data's law; the guided score is that of p_t(x|y)^g p_t(x)^(1-g) at each t, which no path connects.
    Source: Ho and Salimans 2022; Zheng et al. 2023, "Guided flows".

    >>> import numpy as np
    >>> guided(np.array([3.0]), np.array([1.0]), strength=2.0)
    array([5.])
    """
    same_shape(u_c=u_c, u_u=u_u)
    return u_u + strength * (u_c - u_u)


def by_predictor(path: GaussianPath, u: Array, gradient: Array, x_t: Array, t: Array, *, strength: float) -> Array:
    """u + g (sigma W / mu) grad_x log p(y|x_t): the velocity u steered to a property y, all of float[..., D].

    W = mu_dot sigma - mu sigma_dot, and sigma W / mu is what the velocity gains by a unit of score. At g = 1 with the
    true p_t(y|x_t) it is the velocity of p_t(.|y). ValueError where mu = 0, at which x_t tells nothing of y, and where
    a rate is infinite. Source: Dhariwal and Nichol 2021; Zheng et al. 2023, "Guided flows".

    >>> import numpy as np
    >>> from .gaussian_paths import OptimalTransport
    >>> by_predictor(OptimalTransport(), np.zeros(1), np.array([3.0]), np.zeros(1), 0.25, strength=1.0)
    array([9.])
    """
    same_shape(x_t=x_t, u=u, gradient=gradient)
    mu, sigma = factors(widen(x_t), t, path.mu, path.sigma)
    mu_dot, sigma_dot = rates(path, widen(x_t), t)
    demand(mu > 0, t, f"mu > 0 on {path}")
    return u + strength * sigma * (mu_dot * sigma - mu * sigma_dot) / mu * gradient


def transformed(path_from: GaussianPath, path_to: GaussianPath, velocity: Velocity) -> Velocity:
    """The velocity on path_to that the velocity learned on path_from amounts to, with no more training.

    x_t on path_to is s times the point of path_from at the time tau of the same signal-to-noise ratio, so that both
    have the same posterior means of x_1 and x_0. This is u_to(x, t) = (s_dot / s) x + s tau_dot u_from(x / s, tau),
    without derivatives of s and tau, which at the ends are 0/0. ValueError, when it is called, at a time whose ratio
    path_from never has.
    Source: Lipman et al. 2024 (guide), post-training change of the scheduler; Pokle et al. 2023.

    >>> import numpy as np
    >>> from .gaussian_paths import Cosine, OptimalTransport, conditional_velocity
    >>> u = lambda x_t, t: conditional_velocity(OptimalTransport(), np.ones(1), x_t, t)
    >>> transformed(OptimalTransport(), Cosine(), u)(np.zeros(1), 0.5)
    array([2.2214...])
    >>> conditional_velocity(Cosine(), np.ones(1), np.zeros(1), 0.5)
    array([2.2214...])
    """

    def velocity_to(x_t: Array, t: Array) -> Array:
        x_t = widen(x_t)
        xp = namespace(x_t)
        tau = path_from.time_of(log_snr(path_to, like(x_t, t, xp.float64)))
        demand((tau >= -_SLACK) & (tau <= 1 + _SLACK), t, f"{path_from} has the signal-to-noise ratio of {path_to}")
        tau = xp.clip(tau, 0.0, 1.0)
        s = _size(path_to, x_t, t) / _size(path_from, x_t, tau)
        x = x_t / s
        u = velocity(x, tau if tau.ndim else float(tau))
        x_1, x_0 = (convert(path_from, u, x, tau, source="velocity", target=mean) for mean in _MEANS)
        mu_dot, sigma_dot = rates(path_to, x_t, t)
        return mu_dot * x_1 + sigma_dot * x_0

    return velocity_to


_SLACK = 1e-12  # how far beyond an end a time may come to lie by rounding
_MEANS: tuple[Prediction, Prediction] = ("x_1", "x_0")


def _size(path: GaussianPath, x_t: Array, t: Array) -> Array:
    """|(mu, sigma)|, which scales as both do and never vanishes."""
    mu, sigma = factors(x_t, t, path.mu, path.sigma)
    return namespace(x_t).hypot(mu, sigma)
