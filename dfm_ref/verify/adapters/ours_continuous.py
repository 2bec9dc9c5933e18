"""The continuous half of dfm_ref on any backend: NumPy in and out, by the library's public functions.

Three objects: a flow of maps of every kind, one after the other; the flow of a velocity field; and Gaussian paths. All
have parameters of a fixed seed, away from those that training starts from, which give the identity.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np

from ... import random
from ...continuous import affine, cnf, coupling, flows, gaussian_paths, planar
from ...continuous.splines import RationalQuadratic
from ...nn.field import Field
from ...protocols import Array, Backend, Params
from .. import dual
from ..flow_cases import FlowCase

__all__ = ["PATHS", "Finite", "Gaussian", "Solved", "composed", "on", "solved_on"]

Table: TypeAlias = np.ndarray[Any, Any]

PATHS: dict[str, gaussian_paths.GaussianPath] = {
    "ot": gaussian_paths.OptimalTransport(),
    "vp": gaussian_paths.VariancePreserving(),
    "cosine": gaussian_paths.Cosine(),
}
"""The paths of a case by name, as this library has them."""


def composed(dim: int) -> flows.Composed:
    """Every kind of map that there is in a dimension.

    >>> len(composed(1).flows), len(composed(2).flows)
    (6, 8)
    """
    spline = RationalQuadratic(bins=4, bound=3.0)
    couplings = () if dim == 1 else (coupling.Coupling(dim, spline, (8,)), coupling.real_nvp(dim, depth=2, hidden=(8,)))
    return flows.Composed(
        (
            planar.Planar(dim),
            affine.LU(dim),
            coupling.Autoregressive(dim, spline, (8,)),
            affine.ActNorm(dim),
            coupling.maf(dim, depth=1, hidden=(8,)),
            planar.Radial(dim),
            *couplings,
        )
    )


def _away(params: Params, fixed: tuple[str, ...] = ("permutation", "signs")) -> Params:
    """Parameters moved by normal numbers, but for those that say which map it is."""
    keys = random.split(random.key(1), len(params))
    moved = zip(keys, params.items(), strict=True)
    return {n: p if n.endswith(fixed) else p + 0.3 * random.normal(k, p.shape) for k, (n, p) in moved}


@dataclass(frozen=True)
class _On:
    case: FlowCase
    backend: Backend

    def _params(self, params: Params) -> Params:
        return {name: self.backend.asarray(p) for name, p in params.items()}

    def _numpy(self, *arrays: Array) -> tuple[Table, ...]:
        return tuple(np.asarray(self.backend.to_numpy(x)) for x in arrays)

    def _points(self, **arrays: Table) -> tuple[Array, ...]:
        """Points as arrays of the backend; ValueError unless they are of the case's dimension, and fit each other."""
        rows = len(next(iter(arrays.values())))
        for name, x in arrays.items():
            shape = (rows,) if name == "t" else (rows, self.case.dim)
            if np.shape(x) != shape:
                raise ValueError(f"{name}: expected the shape {shape}, got {np.shape(x)}")
        return tuple(self.backend.asarray(x) for x in arrays.values())


class Finite(_On):
    """The composed flow."""

    @cached_property
    def flow_(self) -> flows.Composed:
        """The flow of the library."""
        return composed(self.case.dim)

    @cached_property
    def given(self) -> Params:
        """Its parameters, NumPy."""
        return _away(self.flow_.init(random.key(0)))

    @cached_property
    def params(self) -> Params:
        """Its parameters, on the backend."""
        return self._params(self.given)

    def flow(self, z: Table) -> tuple[Table, ...]:
        """f(z) and log|det df/dz|."""
        return self._numpy(*self.flow_.forward(self.params, *self._points(z=z))[:2])

    def inverse(self, x: Table) -> Table:
        """f^-1(x)."""
        return self._numpy(self.flow_.inverse(self.params, *self._points(x=x))[0])[0]

    def log_prob(self, x: Table) -> Table:
        """log q(x), nats."""
        return self._numpy(flows.log_prob(self.flow_, self.params, *self._points(x=x)))[0]

    def tangent(self, z: Table, dz: Table) -> Table:
        """The derivative of the flow along dz, by dual numbers through its code on NumPy."""
        self._points(z=z, dz=dz)
        params = dual.constants(self.given)
        return np.asarray(dual.tangent(lambda x: self.flow_.forward(params, x)[0], z, dz))


class Solved(_On):
    """The flow of a network's velocity, by the adaptive solver."""

    tolerance = 1e-6

    @cached_property
    def field(self) -> cnf.Bound:
        """The velocity field."""
        net = Field(self.case.dim, hidden=8)
        params = _away(net.init(random.key(0), dtype="float64"))
        return cnf.Bound(net, self._params(params))

    def _transport(self, x: Table, t_0: float, t_1: float) -> cnf.Transported:
        [start] = self._points(x=x)
        return cnf.transport(self.field.divergence, start, t_0, t_1, rtol=1e-7, atol=1e-7)

    def flow(self, z: Table) -> tuple[Table, ...]:
        """f(z) and log|det df/dz|."""
        return self._numpy(*self._transport(z, 0.0, 1.0)[:2])

    def inverse(self, x: Table) -> Table:
        """f^-1(x)."""
        return self._numpy(self._transport(x, 1.0, 0.0).x)[0]

    def log_prob(self, x: Table) -> Table:
        """log p_1(x), nats."""
        found = cnf.log_prob(self.field.divergence, *self._points(x=x), rtol=1e-7, atol=1e-7)
        return self._numpy(found.log_p)[0]

    def velocity(self, x: Table, t: Table) -> Table:
        """v(x, t)."""
        points, times = self._points(x=x, t=t)
        return self._numpy(self.field.net(self.field.params, points, times))[0]


class Gaussian(_On):
    """A Gaussian path with finite data."""

    @property
    def path(self) -> gaussian_paths.GaussianPath:
        """The path of the library."""
        return PATHS[self.case.path]

    def sample_path(self, x_0: Table, x_1: Table, t: Table, seed: int) -> tuple[Table, Table]:
        """x_t, and dx_t/dt for t < 1: NaN at the end, where that of vp is infinite."""
        start, end, times = self._points(x_0=x_0, x_1=x_1, t=t)
        [x_t] = self._numpy(gaussian_paths.interpolate(self.path, start, end, times))
        before, dx_t = t < 1, np.full_like(x_t, np.nan)
        inner = (self.backend.asarray(a[before]) for a in (x_0, x_1, t))
        [dx_t[before]] = self._numpy(gaussian_paths.interpolate_dot(self.path, *inner))
        return x_t, dx_t

    def velocity(self, x: Table, t: Table) -> Table:
        """The marginal velocity."""
        points, times = self._points(x=x, t=t)
        data, q = (self.backend.asarray(np.asarray(a)) for a in (self.case.data, self.case.q))
        return self._numpy(gaussian_paths.marginal_velocity(self.path, data, q, points, times))[0]


def _build(case: FlowCase, backend: Backend, *, solved: bool) -> _On:
    if case.path and (solved or case.path not in PATHS):
        raise NotImplementedError(f"no path {case.path!r} here")
    return (Gaussian if case.path else Solved if solved else Finite)(case, backend)


def on(backend: Backend) -> Callable[[FlowCase], Any]:
    """`build(case)` of finite flows and of paths on a backend.

    >>> from dfm_ref.backends import load
    >>> ours = on(load("numpy"))(FlowCase(1, "ot", ((1.0,),), (1.0,)))
    >>> ours.velocity(np.zeros((1, 1)), np.array([0.5]))
    array([[2.]])
    """
    return partial(_build, backend=backend, solved=False)


def solved_on(backend: Backend) -> Callable[[FlowCase], Any]:
    """`build(case)` of the flow of a velocity field on a backend.

    >>> from dfm_ref.backends import load
    >>> solved_on(load("numpy"))(FlowCase(2)).velocity(np.zeros((1, 2)), np.array([0.5])).shape
    (1, 2)
    """
    return partial(_build, backend=backend, solved=True)
