"""Finite normalizing flows: invertible maps with parameters, composed, inverted, and the laws that they make.

A flow f maps z, standard normal noise, to x. Its law q is that of f(z): log q(x) = log q_0(z) - log|det df/dz|.
Each map is a pair forward, backward, beside its inverse; the concrete ones are in files of their own.
Source: Rezende & Mohamed 2015, section 3.1.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from array_api_compat import device

from .. import random
from ..arrays import like, namespace, widen
from ..protocols import Array, Key, Params

__all__ = [
    "Composed",
    "Flow",
    "Inverted",
    "Pushed",
    "expectation",
    "inverted",
    "log_prob",
    "parameters",
    "points",
    "pushforward",
    "sample",
    "standard_normal_log_density",
    "total",
]


class Flow(Protocol):
    """An invertible map f: z -> x of R^D, D = `dim`, whose parameters are a flat dict of arrays.

    Points are float[..., D], log-determinants float[...], in the dtype to which points and parameters promote. An
    input that is NaN gives NaN.
    """

    @property
    def dim(self) -> int: ...

    def init(self, key: Key, *, dtype: Any = np.float64) -> Params:
        """Parameters to start from, NumPy."""

    def forward(self, params: Params, z: Array) -> tuple[Array, Array, Any]:
        """x = f(z), log|det dx/dz|, and the residuals for `backward`."""

    def backward(self, params: Params, residuals: Any, dx: Array, dlog_det: Array) -> tuple[Params, Array]:
        """The gradients in the parameters and in z, from those in x, float[..., D], and in log|det|, float[...]."""

    def inverse(self, params: Params, x: Array) -> tuple[Array, Array]:
        """z = f^-1(x), and the log|det dz/dx| of the inverse map at x."""


@dataclass(frozen=True)
class Composed:
    """f = f_K o ... o f_1, the first map first; the parameters of the map flows[k] are named "k.name".

    >>> from .affine import Affine, Reverse
    >>> flow = Composed((Affine(2), Reverse(2)))
    >>> list(flow.init(random.key(0)))
    ['0.log_scale', '0.shift']
    """

    flows: tuple[Flow, ...]

    def __post_init__(self) -> None:
        dims = [flow.dim for flow in self.flows]
        if len(set(dims)) != 1:
            raise ValueError(f"flows: expected one or more maps of the same dimension, got the dimensions {dims}")

    @property
    def dim(self) -> int:
        return self.flows[0].dim

    def init(self, key: Key, *, dtype: Any = np.float64) -> Params:
        keys = random.split(key, len(self.flows))
        return _join(flow.init(k, dtype=dtype) for flow, k in zip(self.flows, keys, strict=True))

    def parts(self, params: Params) -> list[Params]:
        """The parameters of each map under its own names.

        >>> from .affine import Reverse
        >>> Composed((Reverse(2), Reverse(2))).parts({"1.w": 0.5})
        [{}, {'w': 0.5}]
        """
        parts: list[Params] = [{} for _ in self.flows]
        for name, value in params.items():
            k, _, rest = name.partition(".")
            if not (k.isdecimal() and int(k) < len(parts)):
                raise ValueError(f"params: expected names from '0.' to '{len(parts) - 1}.', got {name!r}")
            parts[int(k)][rest] = value
        return parts

    def forward(self, params: Params, z: Array) -> tuple[Array, Array, Any]:
        residuals, log_det = [], 0.0
        for flow, part in zip(self.flows, self.parts(params), strict=True):
            z, change, r = flow.forward(part, z)
            log_det = log_det + change
            residuals.append(r)
        return z, log_det, residuals

    def backward(self, params: Params, residuals: Any, dx: Array, dlog_det: Array) -> tuple[Params, Array]:
        """log|det| = sum_k log|det_k|  =>  each map has the same dlog_det;  x = f_K(...)  =>  dx runs from K to 1."""
        dparts = []
        for flow, part, r in reversed(list(zip(self.flows, self.parts(params), residuals, strict=True))):
            dpart, dx = flow.backward(part, r, dx, dlog_det)
            dparts.append(dpart)
        return _join(reversed(dparts)), dx

    def inverse(self, params: Params, x: Array) -> tuple[Array, Array]:
        log_det = 0.0
        for flow, part in reversed(list(zip(self.flows, self.parts(params), strict=True))):
            x, change = flow.inverse(part, x)
            log_det = log_det + change
        return x, log_det


def _join(parts: Iterable[Params]) -> Params:
    return {f"{k}.{name}": value for k, part in enumerate(parts) for name, value in part.items()}


@dataclass(frozen=True)
class Inverted:
    """f^-1 as a flow, with the parameters of f: its forward map is the inverse of f, its inverse the forward map.

    A model that is trained on data is best an inverted one: its log-density and the gradient of that then need only
    the forward and backward passes of f, from data to noise. Its own backward pass needs D of those of f.
    """

    flow: Flow

    @property
    def dim(self) -> int:
        return self.flow.dim

    def init(self, key: Key, *, dtype: Any = np.float64) -> Params:
        return self.flow.init(key, dtype=dtype)

    def forward(self, params: Params, z: Array) -> tuple[Array, Array, Any]:
        x, log_det = self.flow.inverse(params, z)
        return x, log_det, x

    def backward(self, params: Params, residuals: Any, dx: Array, dlog_det: Array) -> tuple[Params, Array]:
        """f(x, params) = z, log_det = -l(x, params)  =>  dz = J^-T (dx - dlog_det dl/dx), with J = df/dx,
        dparams = -dz df/dparams - dlog_det dl/dparams: the theorem of the implicit function.
        """
        x = residuals
        xp = namespace(x)
        _, log_det, r = self.flow.forward(params, x)
        zero = xp.zeros_like(x)
        rows = [
            self.flow.backward(params, r, zero + like(x, row, x.dtype), xp.zeros_like(log_det))[1]
            for row in np.eye(self.dim)
        ]
        _, change = self.flow.backward(params, r, zero, -dlog_det)
        dz = xp.linalg.solve(xp.stack(rows, axis=-1), (dx + change)[..., None])[..., 0]
        return self.flow.backward(params, r, -dz, -dlog_det)[0], dz

    def inverse(self, params: Params, x: Array) -> tuple[Array, Array]:
        return _mapped(self.flow, params, x)


def _mapped(flow: Flow, params: Params, z: Array) -> tuple[Array, Array]:
    """f(z) and log|det|, without residuals: those of a map are dropped before the next one's are made."""
    if not isinstance(flow, Composed):
        x, log_det, _ = flow.forward(params, z)
        return x, log_det
    log_det = 0.0
    for part, own in zip(flow.flows, flow.parts(params), strict=True):
        z, change = _mapped(part, own, z)
        log_det = log_det + change
    return z, log_det


def inverted(flow: Flow) -> Flow:
    """The inverse of a flow, as a flow: `Inverted(flow)`, or what an `Inverted` holds.

    >>> from .affine import Affine
    >>> inverted(inverted(Affine(2)))
    Affine(dim=2)
    """
    return flow.flow if isinstance(flow, Inverted) else Inverted(flow)


class Pushed(NamedTuple):
    """Points float[..., D] and their log-density float[...], nats."""

    x: Array
    log_q: Array


def pushforward(flow: Flow, params: Params, z: Array) -> Pushed:
    """x = f(z) and log q(x) = log q_0(z) - log|det df/dz|: float[..., D] -> float[..., D], float[...], q_0 = N(0, I).

    Raises ValueError unless the last axis has D entries. Source: Rezende & Mohamed 2015, section 3.1.

    >>> from .affine import Affine
    >>> flow = Affine(1)
    >>> pushforward(flow, {"log_scale": np.log([2.0]), "shift": np.ones(1)}, np.array([0.5]))
    Pushed(x=array([2.]), log_q=np.float64(-1.7370...))
    """
    x, log_det, _ = flow.forward(params, z)
    return Pushed(x, standard_normal_log_density(z) - log_det)


def log_prob(flow: Flow, params: Params, x: Array) -> Array:
    """log q(x) = log q_0(f^-1(x)) + log|det df^-1/dx|, nats: float[..., D] -> float[...], with q_0 = N(0, I).

    Raises ValueError unless the last axis has D entries. Source: Rezende & Mohamed 2015, section 3.1.

    >>> from .affine import Affine
    >>> flow = Affine(1)
    >>> log_prob(flow, {"log_scale": np.log([2.0]), "shift": np.ones(1)}, np.array([2.0]))
    np.float64(-1.7370...)
    """
    z, log_det = flow.inverse(params, x)
    return standard_normal_log_density(z) + log_det


def sample(flow: Flow, params: Params, key: Key, num: int, *, first: int = 0) -> Array:
    """x = f(z) for the draws number `first`, `first` + 1, ... of z ~ N(0, I): float[num, D], as the parameters are.

    A draw depends on its number alone, and so not on how draws are put into batches.

    >>> from .affine import Affine
    >>> flow = Affine(2)
    >>> sample(flow, flow.init(random.key(0)), random.key(42), 1)
    array([[1.0501..., 0.0993...]])
    """
    alike = next(iter(params.values()), np.zeros(0))  # a map without parameters draws with NumPy
    z = random.normal(key, (num, flow.dim), first=first * flow.dim, xp=namespace(alike))
    return flow.forward(params, like(alike, z, alike.dtype))[0]


def expectation(
    flow: Flow, params: Params, h: Callable[[Array], Array], z: Array, *, weights: Array | None = None
) -> Array:
    """E_q[h(x)] = E_q_0[h(f(z))], the mean of h over f(z), z float[M, D]; h: float[M, D] -> float[M, ...].

    The points z are draws of q_0, or with `weights`, float[M], the nodes of a quadrature of it, and then the sum is as
    exact as that. No density is needed and no inverse: it holds for every measurable f. Raises ValueError unless the
    shapes agree. Source: Rezende & Mohamed 2015, the law of the unconscious statistician in section 3.1.

    >>> from .affine import Affine
    >>> nodes, weights = np.polynomial.hermite_e.hermegauss(2)
    >>> params = {"log_scale": np.log([2.0]), "shift": np.ones(1)}
    >>> expectation(Affine(1), params, lambda x: x**2, nodes[:, None], weights=weights / weights.sum())
    array([5.])
    """
    values = h(flow.forward(params, z)[0])
    if z.ndim != 2 or tuple(values.shape[:1]) != tuple(z.shape[:1]):
        shapes = tuple(z.shape), tuple(values.shape)
        raise ValueError(f"z, h: expected points [M, D] and a value for each, got the shapes {shapes}")
    xp = namespace(values)
    if weights is None:
        return xp.mean(values, axis=0)
    if tuple(weights.shape) != tuple(z.shape[:1]):
        raise ValueError(f"weights: expected the shape {tuple(z.shape[:1])}, got {tuple(weights.shape)}")
    return xp.tensordot(weights, values, axes=1)


def standard_normal_log_density(z: Array) -> Array:
    """log N(z; 0, I), nats: float[..., D] -> float[...].

    >>> standard_normal_log_density(np.zeros(2))
    np.float64(-1.8378...)
    """
    z = widen(z)
    return -(namespace(z).vecdot(z, z) + z.shape[-1] * math.log(2 * math.pi)) / 2


def parameters(params: Params, **shapes: tuple[int, ...]) -> None:
    """Raises ValueError unless the named parameters are there in their shapes: others would be broadcast.

    >>> parameters({"shift": np.zeros(1)}, shift=(2,))
    Traceback (most recent call last):
    ValueError: shift: expected a parameter of shape (2,), got (1,)
    """
    for name, shape in shapes.items():
        got = tuple(getattr(params[name], "shape", ())) if name in params else "none"
        if got != shape:
            raise ValueError(f"{name}: expected a parameter of shape {shape}, got {got}")


def points(name: str, x: Array, dim: int) -> Array:
    """The points x, float[..., D], of at least single precision; raises ValueError unless D = dim.

    >>> points("z", np.zeros(3), 2)
    Traceback (most recent call last):
    ValueError: z: expected points of 2 coordinates on the last axis, got shape (3,)
    """
    if x.ndim == 0 or x.shape[-1] != dim:
        raise ValueError(f"{name}: expected points of {dim} coordinates on the last axis, got shape {tuple(x.shape)}")
    return widen(x)


def total(x: Array, *, weights: Array | None = None) -> Array:
    """The sum over all points, float[..., D] -> float[D], as the gradient of a parameter has it; or the weighted sum.

    >>> total(np.ones((2, 3, 1))), total(np.ones((2, 1)), weights=np.array([0.5, 0.25]))
    (array([6.]), array([0.75]))
    """
    xp = namespace(x)
    if weights is None:
        weights = xp.ones(x.shape[:-1], dtype=x.dtype, device=device(x))
    return xp.reshape(weights, (-1,)) @ xp.reshape(x, (-1, x.shape[-1]))  # a product is faster than a sum
