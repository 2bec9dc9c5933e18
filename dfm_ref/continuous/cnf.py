"""Continuous normalizing flows: the flow of a velocity field, and the change of a density along it.

x_t moves by dx/dt = v(x, t), and the logarithm of the Jacobian determinant of the map x_0 -> x_t by the divergence:
d log|det|/dt = div v(x_t, t), so that d log p_t(x_t)/dt = -div v(x_t, t). Noise, N(0, I), is at t = 0, data at t = 1.
Sources: Chen et al. 2018, "Neural ordinary differential equations", theorem 1; Grathwohl et al. 2019, FFJORD.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from array_api_compat import device

from .. import random
from ..arrays import like, namespace
from ..checks import times
from ..nn.field import Field
from ..protocols import Array, Key, Params
from .flows import standard_normal_log_density
from .ode import dormand_prince

__all__ = [
    "Bound",
    "Divergence",
    "Evaluated",
    "Transported",
    "VectorField",
    "columns",
    "hutchinson",
    "log_prob",
    "probes",
    "pushforward",
    "transport",
]

Divergence: TypeAlias = Callable[[Array, float], tuple[Array, Array]]
"""v(x, t) and its divergence, exact or estimated: float[B, D] and a number -> float[B, D], float[B]."""


class VectorField(Protocol):
    """A velocity field that knows its derivatives along directions."""

    def velocity(self, x: Array, t: float) -> Array:
        """v(x, t), float[B, D] -> float[B, D]."""

    def along(self, x: Array, t: float, dx: Array) -> tuple[Array, Array]:
        """v(x, t), and its derivative J dx along dx, float[B, D] each."""


@dataclass(frozen=True)
class Bound:
    """A network with its parameters, and of a network with classes a label: int[B], one for all, or None for none."""

    net: Field
    params: Params
    label: Array | int | None = None

    def velocity(self, x: Array, t: float) -> Array:
        """v(x, t), float[B, D] -> float[B, D]."""
        return self.net(self.params, x, t, label=self.label)

    def along(self, x: Array, t: float, dx: Array) -> tuple[Array, Array]:
        """v(x, t), and its derivative J dx along dx, float[B, D] each."""
        v, residuals = self.net.forward(self.params, x, t, label=self.label)
        return v, self.net.jvp(self.params, residuals, dx)

    def divergence(self, x: Array, t: float) -> tuple[Array, Array]:
        """v(x, t) and its divergence in closed form, float[B, D], float[B]."""
        v, residuals = self.net.forward(self.params, x, t, label=self.label)
        return v, self.net.divergence(self.params, residuals)


def columns(field: VectorField, x: Array, t: float) -> tuple[Array, Array]:
    """v and its exact divergence sum_i e_i . J e_i, a column of the Jacobian at a time: D derivatives along e_i.

    >>> import numpy as np
    >>> net = Field(2, hidden=4)
    >>> field = Bound(net, net.init(random.key(0), dtype="float64"))
    >>> columns(field, np.zeros((1, 2)), 0.5)[1]
    array([0.])
    """
    xp, div = namespace(x), 0.0
    for i in range(x.shape[1]):
        e_i = xp.zeros_like(x) + like(x, [float(i == k) for k in range(x.shape[1])], x.dtype)
        v, column = field.along(x, t, e_i)
        div = div + column[:, i]
    return v, div


def probes(key: Key, x: Array, *, kind: str = "rademacher", first: int = 0) -> Array:
    """Random directions e with E[e e^T] = I for the points float[B, D], which are numbered from `first`.

    Signs, or with kind "gaussian" normal numbers; each a function of the key and of its place, so that a point has
    the same direction in any batch. ValueError for another kind.

    >>> import numpy as np
    >>> probes(random.key(0), np.zeros((2, 3)))
    array([[-1., -1.,  1.],
           [ 1.,  1., -1.]])
    """
    xp, shape, start = namespace(x), tuple(x.shape), first * x.shape[1]
    if kind == "gaussian":
        draws = random.normal(key, shape, first=start, xp=xp)
    elif kind == "rademacher":
        u = random.uniform_at(key, random.sites(shape, first=start, xp=xp))
        draws = 2.0 * xp.astype(u >= 0.5, xp.float64) - 1.0
    else:
        raise ValueError(f"kind: expected 'rademacher' or 'gaussian', got {kind!r}")
    return xp.astype(xp.asarray(draws, device=device(x)), x.dtype)


def hutchinson(field: VectorField, e: Array, x: Array, t: float) -> tuple[Array, Array]:
    """v and the estimate e . J e of its divergence, by one derivative along the `probes` e, float[B, D].

    Unbiased. With S = (J + J^T) / 2 its variance is 2 sum_{i, j} S_ij^2 for normal probes, and for signs the part
    2 sum_{i != j} S_ij^2 of it. Take one set of probes for a whole solution: the estimate of the log-density is then
    unbiased too, and smooth in t. Source: Hutchinson 1990; Grathwohl et al. 2019.

    >>> import numpy as np
    >>> net = Field(2, hidden=4)
    >>> field = Bound(net, net.init(random.key(0), dtype="float64"))
    >>> hutchinson(field, np.ones((1, 2)), np.zeros((1, 2)), 0.5)[1]
    array([0.])
    """
    v, slope = field.along(x, t, e)
    return v, namespace(x).vecdot(e, slope)


class Transported(NamedTuple):
    """Points float[B, D] at the end of their way, log|det| of the map that took them there, float[B], and its cost."""

    x: Array
    log_det: Array
    evaluations: int


class Evaluated(NamedTuple):
    """Points and their log-density, nats: of `log_prob` the noise z and log p(x), of `pushforward` x and log p(x)."""

    x: Array
    log_p: Array
    evaluations: int


def transport(
    divergence: Divergence, x: Array, t_0: float, t_1: float, *, rtol: float = 1e-6, atol: float = 1e-6
) -> Transported:
    """The flow map from t_0 to t_1 in [0, 1], either way, with log|det| = the integral of div v from t_0 to t_1.

    x: float[B, D]. Solved by `ode.dormand_prince`, whose ValueErrors it shares; ValueError for times outside too.
    Source: Chen et al. 2018, theorem 1.

    >>> import numpy as np
    >>> transport(lambda x, t: (x, np.full(len(x), 2.0)), np.ones((1, 2)), 0.0, 0.5)
    Transported(x=array([[1.6487..., 1.6487...]]), log_det=array([1.]), evaluations=...)
    """
    times("t_0, t_1", like(x, [t_0, t_1]))
    if x.ndim != 2:
        raise ValueError(f"x: expected points [B, D], got shape {tuple(x.shape)}")
    xp = namespace(x)

    def rate(y: Array, t: float) -> Array:
        v, div = divergence(y[:, :-1], t)
        return xp.concat([v, div[:, None]], axis=-1)

    start = xp.concat([x, xp.zeros_like(x[:, :1])], axis=-1)
    solution = dormand_prince(rate, start, t_0, t_1, rtol=rtol, atol=atol)
    return Transported(solution.y[:, :-1], solution.y[:, -1], solution.evaluations)


def log_prob(
    divergence: Divergence, x: Array, *, rtol: float = 1e-6, atol: float = 1e-6, t_1: float = 1.0
) -> Evaluated:
    """log p_{t_1}(x) of the flow of noise, N(0, I) at t = 0, and the noise z that ends there: float[B, D] -> float[B].

    log p(x) = log N(z; 0, I) - the integral of div v along the way from z to x, solved from x back to z. ValueErrors
    are those of `transport`. Source: Chen et al. 2018, theorem 1.

    >>> import numpy as np
    >>> log_prob(lambda x, t: (x, np.ones(len(x))), np.zeros((1, 1))).log_p  # N(0, e^2) at 0
    array([-1.9189...])
    """
    z, log_det, evaluations = transport(divergence, x, t_1, 0.0, rtol=rtol, atol=atol)
    return Evaluated(z, standard_normal_log_density(z) + log_det, evaluations)


def pushforward(
    divergence: Divergence, z: Array, *, rtol: float = 1e-6, atol: float = 1e-6, t_1: float = 1.0
) -> Evaluated:
    """The points x at t_1 that noise z flows to, and log p_{t_1}(x), solved forward: float[B, D] -> float[B].

    ValueErrors are those of `transport`. Source: Chen et al. 2018, theorem 1.

    >>> import numpy as np
    >>> pushforward(lambda x, t: (x, np.ones(len(x))), np.zeros((1, 1))).log_p
    array([-1.9189...])
    """
    x, log_det, evaluations = transport(divergence, z, 0.0, t_1, rtol=rtol, atol=atol)
    return Evaluated(x, standard_normal_log_density(z) - log_det, evaluations)
