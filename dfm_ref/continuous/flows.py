"""Normalizing flows: invertible maps f of z with a Jacobian determinant in closed form.

Each map gives f(z) and log|det df/dz|, so that ln q'(f(z)) = ln q(z) - log|det df/dz|.
Source: Rezende & Mohamed 2015, section 4.1.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..arrays import like, namespace, widen
from ..protocols import Array

__all__ = ["Mapped", "Planar", "Radial", "planar", "radial"]


class Mapped(NamedTuple):
    """f(z), float[..., D], and log|det df/dz| there, float[...]."""

    value: Array
    log_abs_det: Array


@dataclass(frozen=True)
class Planar:
    """f(z) = z + u tanh(w.z + b), with w and u of D numbers; invertible, as ValueError demands, where w.u > -1.

    At w.u = -1 the map still has an inverse, but its determinant is 0 where w.z + b = 0.

    >>> Planar(w=(1.0, 0.0), u=(-2.0, 1.0), b=0.0)
    Traceback (most recent call last):
    ValueError: u: expected w.u > -1, for an invertible map, got w.u = -2
    """

    w: tuple[float, ...]
    u: tuple[float, ...]
    b: float

    def __post_init__(self) -> None:
        if not self.w or len(self.w) != len(self.u):
            raise ValueError(f"u: expected as many numbers as w, one or more, got {len(self.u)} beside {len(self.w)}")
        if not all(map(math.isfinite, (*self.w, *self.u, self.b))):
            raise ValueError(f"w, u, b: expected finite numbers, got {self}")
        if not self.slope > -1:
            raise ValueError(f"u: expected w.u > -1, for an invertible map, got w.u = {self.slope:.6g}")

    @property
    def slope(self) -> float:
        """w.u, the rate at which the tanh stretches space along u."""
        return math.fsum(w * u for w, u in zip(self.w, self.u, strict=True))


@dataclass(frozen=True)
class Radial:
    """f(z) = z + beta h (z - z_0), h = 1 / (alpha + |z - z_0|); invertible, as ValueError demands, if beta >= -alpha.

    At beta = -alpha the determinant is 0 at z_0 alone.

    >>> Radial(z_0=(0.0, 0.0), alpha=1.0, beta=-1.5)
    Traceback (most recent call last):
    ValueError: beta: expected beta >= -alpha, for an invertible map, got beta = -1.5 and alpha = 1
    """

    z_0: tuple[float, ...]
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        if not self.z_0 or not all(map(math.isfinite, (*self.z_0, self.alpha, self.beta))):
            raise ValueError(f"z_0, alpha, beta: expected finite numbers, and one or more in z_0, got {self}")
        if not self.alpha > 0:
            raise ValueError(f"alpha: expected alpha > 0, got alpha = {self.alpha:.6g}")
        if not self.beta >= -self.alpha:
            raise ValueError("beta: expected beta >= -alpha, for an invertible map, "
                             f"got beta = {self.beta:.6g} and alpha = {self.alpha:.6g}")  # fmt: skip


def planar(flow: Planar, z: Array) -> Mapped:
    """f(z) = z + u tanh(w.z + b) and log|1 + w.u (1 - tanh^2)|: float[..., D] -> float[..., D], float[...].

    Raises ValueError unless the last axis has D entries. Source: Rezende & Mohamed 2015, planar flows.

    >>> import numpy as np
    >>> planar(Planar(w=(1.0, 0.0), u=(0.5, 1.0), b=0.0), np.array([0.0, 3.0]))
    Mapped(value=array([0., 3.]), log_abs_det=np.float64(0.405...))
    """
    z = _points(z, flow.w)
    xp = namespace(z)
    w, u = (like(z, vector, z.dtype) for vector in (flow.w, flow.u))
    bend = xp.tanh(xp.sum(w * z, axis=-1) + flow.b)
    return Mapped(z + u * bend[..., None], xp.log1p(flow.slope * (1 - bend) * (1 + bend)))


def radial(flow: Radial, z: Array) -> Mapped:
    """f(z) = z + beta h (z - z_0) and log|(1 + beta h)^(D-1) (1 + alpha beta h^2)|, h = 1 / (alpha + |z - z_0|).

    float[..., D] -> float[..., D], float[...]; the last factor is 1 + beta h + beta h' r, written without its
    cancellation. Raises ValueError unless the last axis has D entries.
    Source: Rezende & Mohamed 2015, radial flows.

    >>> import numpy as np
    >>> radial(Radial(z_0=(0.0, 0.0), alpha=1.0, beta=1.0), np.array([1.0, 0.0]))
    Mapped(value=array([1.5, 0. ]), log_abs_det=np.float64(0.628...))
    """
    z = _points(z, flow.z_0)
    xp = namespace(z)
    away = z - like(z, flow.z_0, z.dtype)
    h = 1 / (flow.alpha + xp.sqrt(xp.sum(away * away, axis=-1)))
    log_abs_det = (len(flow.z_0) - 1) * xp.log1p(flow.beta * h) + xp.log1p(flow.alpha * flow.beta * h * h)
    return Mapped(z + (flow.beta * h)[..., None] * away, log_abs_det)


def _points(z: Array, vector: tuple[Any, ...]) -> Array:
    if z.ndim == 0 or z.shape[-1] != len(vector):
        raise ValueError(
            f"z: expected points of {len(vector)} coordinates on the last axis, got shape {tuple(z.shape)}"
        )
    return widen(z)
