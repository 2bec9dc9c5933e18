"""Conditioned flows: each coordinate moves by a map of the line, whose parameters a network makes of other coordinates.

The Jacobian is triangular, up to the order of the coordinates, so that log|det| is the sum of the log-derivatives of
the maps. The parameters are those of the network, and at first they give the identity.
Sources: Dinh et al. 2017 (RealNVP); Papamakarios et al. 2017 (MAF); Durkan et al. 2019 (neural spline flows).
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from array_api_compat import device

from ..arrays import namespace
from ..nn.perceptron import Perceptron
from ..protocols import Array, Key, Params
from .flows import Composed, Inverted, points
from .splines import RationalQuadratic

__all__ = ["AffineMap", "Autoregressive", "Coupling", "ScalarMap", "maf", "neural_spline", "real_nvp"]

_LOG = math.log(1000)


class ScalarMap(Protocol):
    """An increasing map of the line, elementwise: theta float[..., size], x float[...] -> y float[...].

    `forward` gives y, log dy/dx and residuals, `inverse` x and log dx/dy. theta = 0 is the identity. In `backward`
    dlog_derivative broadcasts to dy.
    """

    @property
    def size(self) -> int: ...
    def forward(self, theta: Array, x: Array) -> tuple[Array, Array, Any]: ...
    def backward(self, residuals: Any, dy: Array, dlog_derivative: Array) -> tuple[Array, Array]: ...
    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]: ...


@dataclass(frozen=True)
class AffineMap:
    """y = x exp(s) + m, s = L tanh(theta_0 / L), m = theta_1; L = log 1000, so that no theta makes exp overflow.

    >>> AffineMap().forward(np.array([0.0, 3.0]), np.asarray(1.0))[:2]
    (np.float64(4.0), np.float64(0.0))
    """

    @property
    def size(self) -> int:
        return 2

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array, Any]:
        xp = namespace(theta, x)
        bend = xp.tanh(theta[..., 0] / _LOG)
        scale = xp.exp(_LOG * bend)
        return x * scale + theta[..., 1], _LOG * bend, (x, scale, bend)

    def backward(self, residuals: Any, dy: Array, dlog_derivative: Array) -> tuple[Array, Array]:
        """y = x exp(s) + m, log dy/dx = s  =>  dx = dy exp(s), dm = dy, ds = dx x + dlog_derivative;
        s = L tanh(theta_0 / L)  =>  dtheta_0 = ds (1 - tanh^2).
        """
        x, scale, bend = residuals
        dx = dy * scale
        return namespace(x).stack([(dx * x + dlog_derivative) * (1 - bend * bend), dy], axis=-1), dx

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        xp = namespace(theta, y)
        s = _LOG * xp.tanh(theta[..., 0] / _LOG)
        return (y - theta[..., 1]) * xp.exp(-s), -s


@dataclass(frozen=True)
class Coupling:
    """The first floor(D / 2) coordinates stay, and condition the maps of the others; with `flip` the others stay.

    Raises ValueError for dim < 2: a single coordinate has nothing to condition it, see `Autoregressive`.
    Source: Dinh et al. 2017, section 3.2; with splines Durkan et al. 2019.

    >>> flow = Coupling(3, AffineMap())
    >>> flow.forward(flow.init(Key(0, 0)), np.ones(3))[:2]
    (array([1., 1., 1.]), np.float64(0.0))
    """

    dim: int
    transform: ScalarMap
    hidden: tuple[int, ...] = (64, 64)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.dim < 2:
            raise ValueError(f"dim: expected 2 or more, as one coordinate has none to condition it, got {self.dim}")

    @property
    def net(self) -> Perceptron:
        """The conditioner: the coordinates that stay -> the parameters of the others."""
        still, moving = self._parts(np.zeros(self.dim))
        return Perceptron(still.size, moving.size * self.transform.size, self.hidden)

    def init(self, key: Key, *, dtype: Any = np.float64) -> Params:
        return self.net.init(key, dtype=dtype)

    def forward(self, params: Params, z: Array) -> tuple[Array, Array, Any]:
        still, moving = self._parts(points("z", z, self.dim))
        theta, r_net = self.net.forward(params, still)
        moved, log_derivative, r_map = self.transform.forward(_each(theta, self.transform), moving)
        return self._whole(still, moved), _summed(log_derivative), (r_net, r_map)

    def backward(self, params: Params, residuals: Any, dx: Array, dlog_det: Array) -> tuple[Params, Array]:
        """x = (still, T(theta(still), moving)), log|det| = sum log T'  =>  dmoving, dtheta by the rule of T,
        and dstill = that of x + that of theta.
        """
        r_net, r_map = residuals
        dstill, dmoved = self._parts(dx)
        dtheta, dmoving = self.transform.backward(r_map, dmoved, dlog_det[..., None])
        dparams, dthrough = self.net.backward(params, r_net, _joined(dtheta))
        return dparams, self._whole(dstill + dthrough, dmoving)

    def inverse(self, params: Params, x: Array) -> tuple[Array, Array]:
        still, moved = self._parts(points("x", x, self.dim))
        moving, log_derivative = self.transform.inverse(_each(self.net(params, still), self.transform), moved)
        return self._whole(still, moving), _summed(log_derivative)

    def _parts(self, x: Array) -> tuple[Array, Array]:
        """The coordinates that stay, and those that move."""
        first, second = x[..., : self.dim // 2], x[..., self.dim // 2 :]
        return (second, first) if self.flip else (first, second)

    def _whole(self, still: Array, moving: Array) -> Array:
        return namespace(still).concat([moving, still] if self.flip else [still, moving], axis=-1)


@dataclass(frozen=True)
class Autoregressive:
    """Each coordinate moves by a map that the coordinates before it condition; with `reverse`, those after it.

    One pass of a masked network gives the forward map. The inverse finds a coordinate after another, each hidden unit
    in its turn, and so costs one pass too, in D small parts.
    Source: Papamakarios et al. 2017, section 3; Germain et al. 2015 for the network.

    >>> flow = Autoregressive(1, AffineMap(), hidden=())
    >>> params = flow.init(Key(0, 0)) | {"0.bias": np.array([0.0, 3.0])}
    >>> flow.forward(params, np.ones(1))[0], flow.inverse(params, np.full(1, 4.0))[0]
    (array([4.]), array([1.]))
    """

    dim: int
    transform: ScalarMap
    hidden: tuple[int, ...] = (64, 64)
    reverse: bool = False

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim: expected 1 or more, got {self.dim}")

    @property
    def net(self) -> Perceptron:
        """The conditioner: all coordinates -> the parameters of each, from the coordinates before it alone."""
        order = tuple(reversed(range(self.dim))) if self.reverse else tuple(range(self.dim))
        return Perceptron(self.dim, self.dim * self.transform.size, self.hidden, order)

    def init(self, key: Key, *, dtype: Any = np.float64) -> Params:
        return self.net.init(key, dtype=dtype)

    def forward(self, params: Params, z: Array) -> tuple[Array, Array, Any]:
        z = points("z", z, self.dim)
        theta, r_net = self.net.forward(params, z)
        x, log_derivative, r_map = self.transform.forward(_each(theta, self.transform), z)
        return x, _summed(log_derivative), (r_net, r_map)

    def backward(self, params: Params, residuals: Any, dx: Array, dlog_det: Array) -> tuple[Params, Array]:
        """x = T(theta(z), z), log|det| = sum log T'  =>  dtheta and the dz of T by its rule, + the dz of theta."""
        r_net, r_map = residuals
        dtheta, dz = self.transform.backward(r_map, dx, dlog_det[..., None])
        dparams, dthrough = self.net.backward(params, r_net, _joined(dtheta))
        return dparams, dz + dthrough

    def inverse(self, params: Params, x: Array) -> tuple[Array, Array]:
        x, log_derivatives = points("x", x, self.dim), []

        def found(i: int, theta: Array) -> Array:
            theta = namespace(x).broadcast_to(theta, (*x.shape[:-1], theta.shape[-1]))  # one for all points at first
            z_i, log_derivative = self.transform.inverse(theta, x[..., i])
            log_derivatives.append(log_derivative)
            return z_i

        z = self.net.in_turn(params, found)
        return z, sum(log_derivatives)


def _summed(x: Array) -> Array:
    """The sum over the last axis, as a product, which is faster."""
    return x @ namespace(x).ones(x.shape[-1], dtype=x.dtype, device=device(x))


def _each(theta: Array, transform: ScalarMap) -> Array:
    """The outputs of a network as parameters of each coordinate: float[..., D size] -> float[..., D, size]."""
    return namespace(theta).reshape(theta, (*theta.shape[:-1], theta.shape[-1] // transform.size, transform.size))


def _joined(dtheta: Array) -> Array:
    """The inverse of `_each`: float[..., D, size] -> float[..., D size]."""
    return namespace(dtheta).reshape(dtheta, (*dtheta.shape[:-2], dtheta.shape[-2] * dtheta.shape[-1]))


def real_nvp(dim: int, *, depth: int = 8, hidden: tuple[int, ...] = (64, 64)) -> Inverted:
    """Affine couplings from data to noise, the halves in turns, as a flow from noise to data.

    Raises ValueError for dim < 2 or depth < 1. Source: Dinh et al. 2017.

    >>> real_nvp(2, depth=1)
    Inverted(flow=Composed(flows=(Coupling(dim=2, transform=AffineMap(), hidden=(64, 64), flip=False),)))
    """
    return Inverted(Composed(tuple(Coupling(dim, AffineMap(), hidden, flip=k % 2 == 1) for k in range(depth))))


def maf(dim: int, *, depth: int = 5, hidden: tuple[int, ...] = (64, 64)) -> Inverted:
    """Affine autoregressive maps from data to noise, the orders in turns, as a flow from noise to data.

    Raises ValueError for dim < 1 or depth < 1. Source: Papamakarios et al. 2017.

    >>> maf(3, depth=1)
    Inverted(flow=Composed(flows=(Autoregressive(dim=3, transform=AffineMap(), hidden=(64, 64), reverse=False),)))
    """
    flows = (Autoregressive(dim, AffineMap(), hidden, reverse=k % 2 == 1) for k in range(depth))
    return Inverted(Composed(tuple(flows)))


def neural_spline(
    dim: int, *, depth: int = 4, hidden: tuple[int, ...] = (64, 64), bins: int = 8, bound: float = 5.0
) -> Inverted:
    """Couplings by splines from data to noise, the halves in turns, as a flow from noise to data.

    Data beyond [-bound, bound] keep their place, so scale them to about unit variance. Raises ValueError for dim < 2,
    depth < 1, bins outside [2, 999] or bound <= 0. Source: Durkan et al. 2019, RQ-NSF (C).

    >>> neural_spline(2, bins=4).flow.flows[0].transform
    RationalQuadratic(bins=4, bound=5.0)
    """
    spline = RationalQuadratic(bins, bound)
    return Inverted(Composed(tuple(Coupling(dim, spline, hidden, flip=k % 2 == 1) for k in range(depth))))
