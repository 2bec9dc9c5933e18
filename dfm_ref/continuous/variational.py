"""Variational inference by flows: the energies of the plane of 2015, and the free energy that a flow descends.

An energy U gives the law p(x) = exp(-U(x)) / Z. A flow f of normal noise z has the law q, with
KL(q || p) = F + log Z, where F = E_q[log q(x) + U(x)] = E_z[log q_0(z) - log|det df/dz| + U(f(z))].
Source: Rezende & Mohamed 2015, "Variational inference with normalizing flows", sections 4.2 and 6.1.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from .. import checks
from ..arrays import namespace
from ..protocols import Array, Params
from .flows import Flow, standard_normal_log_density

__all__ = ["ENERGIES", "Energy", "annealing", "free_energy", "log_normalizer"]

Energy: TypeAlias = Callable[[Array], tuple[Array, Array]]
"""U(x) and its gradient: float[..., 2] -> float[...], float[..., 2]."""


def _ring(x: Array) -> tuple[Array, Array]:
    """U_1 = ((|x| - 2) / 0.4)^2 / 2 - log(exp(-((x_1 - 2) / 0.6)^2 / 2) + exp(-((x_1 + 2) / 0.6)^2 / 2))."""
    xp = namespace(x)
    radius = xp.sqrt(xp.sum(x * x, axis=-1))
    off = (radius - 2) / 0.4
    bows, (right, left) = _lowest(((x[..., 0] - 2) / 0.6, (x[..., 0] + 2) / 0.6))
    outwards = off / 0.4 / xp.where(radius > 0, radius, 1.0)
    along = (right + left) / 0.6
    return off * off / 2 + bows, outwards[..., None] * x + xp.stack([along, xp.zeros_like(along)], axis=-1)


def _wave(x: Array) -> tuple[Array, Array]:
    """U_2 = ((x_2 - w_1) / 0.4)^2 / 2, w_1 = sin(pi x_1 / 2)."""
    return _valleys(x, ((0.0, 0.0, 0.4),))


def _fork(x: Array) -> tuple[Array, Array]:
    """U_3 = -log(exp(-((x_2 - w_1) / 0.35)^2 / 2) + exp(-((x_2 - w_1 + w_2) / 0.35)^2 / 2)),
    w_2 = 3 exp(-((x_1 - 1) / 0.6)^2 / 2)."""
    away = (x[..., 0] - 1) / 0.6
    w_2 = 3 * namespace(x).exp(-away * away / 2)
    return _valleys(x, ((0.0, 0.0, 0.35), (w_2, -away / 0.6 * w_2, 0.35)))


def _step(x: Array) -> tuple[Array, Array]:
    """U_4 = -log(exp(-((x_2 - w_1) / 0.4)^2 / 2) + exp(-((x_2 - w_1 + w_3) / 0.35)^2 / 2)),
    w_3 = 3 sigmoid((x_1 - 1) / 0.3)."""
    sigmoid = 0.5 + 0.5 * namespace(x).tanh((x[..., 0] - 1) / 0.6)
    return _valleys(x, ((0.0, 0.0, 0.4), (3 * sigmoid, 10 * sigmoid * (1 - sigmoid), 0.35)))


ENERGIES: dict[str, Energy] = {"ring": _ring, "wave": _wave, "fork": _fork, "step": _step}
"""The four of table 1, in its order. The last three do not depend on x_1 far away, and so are no laws; they get a wall
((|x_1| - 4) / 0.4)^2 / 2 beyond |x_1| = 4, where the paper's pictures end."""


def _valleys(x: Array, ways: tuple[tuple[Array | float, Array | float, float], ...]) -> tuple[Array, Array]:
    """-log sum_k exp(-((x_2 - w_1 + v_k) / s_k)^2 / 2) within walls, of ways (v_k, its derivative in x_1, s_k)."""
    xp = namespace(x)
    x_1, x_2 = x[..., 0], x[..., 1]
    w_1, slope = xp.sin(math.pi / 2 * x_1), math.pi / 2 * xp.cos(math.pi / 2 * x_1)
    energy, pulls = _lowest(tuple((x_2 - w_1 + v) / s for v, _, s in ways))
    wall = xp.maximum(xp.abs(x_1) - 4, xp.zeros_like(x_1)) / 0.4
    d_1 = wall / 0.4 * xp.sign(x_1)
    d_2 = xp.zeros_like(x_2)
    for pull, (_, v_dot, s) in zip(pulls, ways, strict=True):
        d_1 = d_1 + pull / s * (v_dot - slope)
        d_2 = d_2 + pull / s
    return energy + wall * wall / 2, xp.stack([d_1, d_2], axis=-1)


def _lowest(offs: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
    """-log sum_k exp(-o_k^2 / 2), and its derivatives in the o_k."""
    xp = namespace(*offs)
    squares = [off * off / 2 for off in offs]
    least = squares[0]
    for square in squares[1:]:
        least = xp.minimum(least, square)
    weights = [xp.exp(least - square) for square in squares]
    total = sum(weights[1:], weights[0])
    return least - xp.log(total), tuple(w / total * off for w, off in zip(weights, offs, strict=True))


def annealing(step: int, ramp: int) -> float:
    """The weight of the energy, min(1, 0.01 + step / ramp): at first the law is nearly flat, and no mode is missed.

    Source: Rezende & Mohamed 2015, equation 20.

    >>> [annealing(step, 100) for step in (0, 50, 200)]
    [0.01, 0.51, 1.0]
    """
    return min(1.0, 0.01 + step / ramp)


def free_energy(flow: Flow, energy: Energy, params: Params, z: Array, *, beta: float = 1.0) -> tuple[Array, Params]:
    """The mean of log q_0(z) - log|det df/dz| + beta U(f(z)) over float[B, 2], in nats, and its gradient.

    With beta = 1 and normal z it estimates KL(q || p) - log Z. Raises ValueError without points.
    Source: Rezende & Mohamed 2015, equation 15.

    >>> from .affine import Affine
    >>> params = {"log_scale": np.zeros(2), "shift": np.asarray([2.0, 0.0])}
    >>> round(float(free_energy(Affine(2), ENERGIES["ring"], params, np.zeros((1, 2)))[0]), 4)
    -1.8379
    """
    checks.batch("z", z, dim=flow.dim)
    x, log_det, residuals = flow.forward(params, z)
    potential, slope = energy(x)
    loss = standard_normal_log_density(z) - log_det + beta * potential
    batch = z.shape[0]
    dparams, _ = flow.backward(params, residuals, beta / batch * slope, namespace(z).full_like(log_det, -1 / batch))
    return namespace(z).mean(loss), dparams


def log_normalizer(energy: Energy) -> float:
    """log Z = log of the integral of exp(-U), by the trapezoidal rule on [-7, 7]^2, to 1e-9 for those of ENERGIES.

    >>> round(log_normalizer(lambda x: (np.sum(x * x, axis=-1) / 2, x)), 9) == round(math.log(2 * math.pi), 9)
    True
    """
    side = np.arange(-350, 351) / 50  # a point of the grid at each end of a wall, where a derivative jumps
    grid = np.stack(np.meshgrid(side, side), axis=-1)
    return math.log(float(np.sum(np.exp(-energy(grid)[0]))) / 50**2)
