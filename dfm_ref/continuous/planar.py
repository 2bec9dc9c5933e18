"""Planar and radial flows: maps that stretch space along one direction, or around one point.

Each is a function of the parameters of the formula, which must make it invertible, and a `Flow` with free parameters
that are mapped to such ones. Source: Rezende & Mohamed 2015, section 4.1 and appendix A.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import random
from ..arrays import namespace
from ..protocols import Array, Key, Params
from .flows import parameters, points, total

__all__ = ["Mapped", "Planar", "Radial", "planar", "radial"]

_ONE = math.log(math.e - 1)  # softplus(_ONE) = 1, with which both maps start as the identity, nearly
_SPREAD = 0.1  # the deviation of the parameters from that
_STEPS = 100  # Newton's method takes about 5, and 40 where w.u has no end


class Mapped(NamedTuple):
    """f(z), float[..., D], and log|det df/dz| there, float[...]."""

    value: Array
    log_abs_det: Array


def planar(params: Params, z: Array) -> Mapped:
    """f(z) = z + u tanh(w.z + b) and log|1 + w.u (1 - tanh^2)|: float[..., D] -> float[..., D], float[...].

    Parameters w, u: float[D], b: float. Invertible, as ValueError demands, where w.u > -1; at w.u = -1 the map still
    has an inverse, but its determinant is 0 where w.z + b = 0. Raises ValueError too for numbers that are not finite,
    and unless the last axis has D entries. Source: Rezende & Mohamed 2015, planar flows.

    >>> params = {"w": np.array([1.0, 0.0]), "u": np.array([0.5, 1.0]), "b": 0.0}
    >>> planar(params, np.array([0.0, 3.0]))
    Mapped(value=array([0., 3.]), log_abs_det=array(0.405...))
    >>> planar(params | {"u": np.array([-2.0, 1.0])}, np.array([0.0, 3.0]))
    Traceback (most recent call last):
    ValueError: u: expected w.u > -1, for an invertible map, got w.u = -2
    """
    w, u, b = params["w"], params["u"], params["b"]
    if w.ndim != 1 or not w.shape[0] or tuple(u.shape) != tuple(w.shape):
        shapes = tuple(w.shape), tuple(u.shape)
        raise ValueError(f"w, u: expected vectors of as many numbers, one or more, got the shapes {shapes}")
    _finite(w=w, u=u, b=b)
    z = points("z", z, w.shape[0])
    xp = namespace(z)
    slope = xp.vecdot(w, u)
    if not float(slope) > -1:
        raise ValueError(f"u: expected w.u > -1, for an invertible map, got w.u = {float(slope):.6g}")
    bend = xp.tanh(z @ w + b)
    return Mapped(z + u * bend[..., None], _log(_stretch(bend, 1 + slope), slope * (1 - bend) * (1 + bend)))


def radial(params: Params, z: Array) -> Mapped:
    """f(z) = z + beta h (z - z_0) and log|(1 + beta h)^(D-1) (1 + alpha beta h^2)|, h = 1 / (alpha + |z - z_0|).

    float[..., D] -> float[..., D], float[...]; the last factor is 1 + beta h + beta h' r, written without its
    cancellation. Parameters z_0: float[D], alpha, beta: float. Invertible, as ValueError demands, where alpha > 0 and
    beta >= -alpha; at beta = -alpha the determinant is 0 at z_0 alone. Raises ValueError too for numbers that are not
    finite, and unless the last axis has D entries. Source: Rezende & Mohamed 2015, radial flows.

    >>> params = {"z_0": np.zeros(2), "alpha": 1.0, "beta": 1.0}
    >>> radial(params, np.array([1.0, 0.0]))
    Mapped(value=array([1.5, 0. ]), log_abs_det=np.float64(0.628...))
    >>> radial(params | {"beta": -1.5}, np.array([1.0, 0.0]))
    Traceback (most recent call last):
    ValueError: beta: expected beta >= -alpha, for an invertible map, got beta = -1.5 and alpha = 1
    """
    z_0, alpha, beta = params["z_0"], params["alpha"], params["beta"]
    if z_0.ndim != 1 or not z_0.shape[0]:
        raise ValueError(f"z_0: expected a vector of one or more numbers, got the shape {tuple(z_0.shape)}")
    _finite(z_0=z_0, alpha=alpha, beta=beta)
    if not float(alpha) > 0:
        raise ValueError(f"alpha: expected alpha > 0, got alpha = {float(alpha):.6g}")
    if not float(beta) >= -float(alpha):
        raise ValueError("beta: expected beta >= -alpha, for an invertible map, "
                         f"got beta = {float(beta):.6g} and alpha = {float(alpha):.6g}")  # fmt: skip
    away = points("z", z, z_0.shape[0]) - z_0
    xp = namespace(away)
    r = xp.sqrt(xp.vecdot(away, away))
    h = 1 / (alpha + r)
    factor, det = _around(r, alpha, alpha + beta)
    log_abs_det = (z_0.shape[0] - 1) * _log(factor, beta * h) + _log(det, alpha * beta * h * h)
    return Mapped(z + (beta * h)[..., None] * away, log_abs_det)


@dataclass(frozen=True)
class Planar:
    """x = z + v tanh(w.z + b) with v = u + (m(w.u) - w.u) w / |w|^2, m(a) = softplus(a) - 1, so that w.v > -1.

    Parameters w, u: float[D], b: float[], all free. At w = 0, where that has no limit, v = u: a shift.
    """

    dim: int

    def init(self, key: Key, *, dtype: Any = np.float64) -> Params:
        """A map close to the identity, which bends at a random plane."""
        keys = random.split(key, 3)
        w, noise = (random.normal(k, (self.dim,)) for k in keys[:2])
        u = _SPREAD * noise + _ONE * w / np.sum(w * w)
        return {"w": w.astype(dtype), "u": u.astype(dtype), "b": random.normal(keys[2], ()).astype(dtype)}

    def constrained(self, params: Params) -> Params:
        """The w, u and b of `planar` for which it is this map: u here is v."""
        v, _, _ = _constrained(params)
        return params | {"u": v}

    def forward(self, params: Params, z: Array) -> tuple[Array, Array, Any]:
        z = self._points("z", z, params)
        xp = namespace(z)
        v, gap, lift = _constrained(params)
        bend = xp.tanh(z @ params["w"] + params["b"])
        det = _stretch(bend, gap)
        return z + v * bend[..., None], xp.log(det), (z, bend, det, v, gap, lift)

    def backward(self, params: Params, residuals: Any, dx: Array, dlog_det: Array) -> tuple[Params, Array]:
        """x = z + v bend, bend = tanh(w.z + b)  =>  dz = dx + dplane w, dv = sum dx bend, dw = sum dplane z, with
        dplane = dbend (1 - bend^2), dbend = dx.v;  det = bend^2 + gap (1 - bend^2)  =>  dbend += 2 ddet bend (1 - gap);
        v = u + lift w  =>  du = dv, dw += lift dv;  a = w.u, gap = softplus(a), lift = (softplus(-a) - 1) / |w|^2  =>
        da = dgap sigmoid(a) - dlift sigmoid(-a) / |w|^2, dw += da u - 2 dlift lift w / |w|^2, du += da w.
        """
        z, bend, det, v, gap, lift = residuals
        xp = namespace(z)
        w, u = params["w"], params["u"]
        ddet, slope = dlog_det / det, (1 - bend) * (1 + bend)
        dplane = (dx @ v + 2 * ddet * bend * (1 - gap)) * slope
        dv = total(dx, weights=bend)
        a, square = xp.vecdot(w, u), xp.vecdot(w, w)
        push = xp.where(square > 0, xp.vecdot(dv, w) / xp.where(square > 0, square, 1.0), 0.0)  # dlift / |w|^2
        da = xp.sum(ddet * slope) * _sigmoid(a) - push * _sigmoid(-a)
        return {
            "w": total(z, weights=dplane) + lift * dv + da * u - 2 * push * lift * w,
            "u": dv + da * w,
            "b": xp.sum(dplane),
        }, dx + dplane[..., None] * w

    def inverse(self, params: Params, x: Array) -> tuple[Array, Array]:
        """z = x - v tanh(p), where p = w.z + b solves p + w.v tanh(p) = w.x + b."""
        x = self._points("x", x, params)
        xp = namespace(x)
        v, gap, _ = _constrained(params)
        y = x @ params["w"] + params["b"]
        bend = xp.sign(y) * xp.tanh(_unbent(xp.abs(y), gap))
        return x - v * bend[..., None], -xp.log(_stretch(bend, gap))

    def _points(self, name: str, x: Array, params: Params) -> Array:
        parameters(params, w=(self.dim,), u=(self.dim,), b=())
        return points(name, x, self.dim)


def _constrained(params: Params) -> tuple[Array, Array, Array]:
    """v = u + lift w, then gap = 1 + w.v = softplus(a) and lift = (softplus(a) - 1 - a) / |w|^2, a = w.u."""
    w, u = params["w"], params["u"]
    xp = namespace(w)
    a, square = xp.vecdot(w, u), xp.vecdot(w, w)
    lift = xp.where(square > 0, (_softplus(-a) - 1) / xp.where(square > 0, square, 1.0), 0.0)
    return u + lift * w, xp.where(square > 0, _softplus(a), 1.0), lift


def _stretch(bend: Array, gap: Array) -> Array:
    """The determinant 1 + w.v (1 - bend^2), as a sum of two numbers >= 0: nothing cancels where w.v is near -1."""
    return bend * bend + gap * (1 - bend) * (1 + bend)


def _unbent(y: Array, gap: Array) -> Array:
    """The p >= 0 with p + (gap - 1) tanh(p) = y, for y >= 0, by Newton's method.

    The left side is convex (gap < 1) or concave (gap > 1) in p >= 0, so that from the second step on the iterates are
    on one side of the root and move towards it. Near gap = 0 the equation is p^3 = 3 y, hence the start.
    """
    xp = namespace(y)
    low = xp.maximum(y / xp.maximum(gap, xp.ones_like(gap)), y + 1 - gap)  # two bounds, where gap > 1
    high = xp.minimum(y + 1 - gap, 1.6 * y ** (1 / 3))
    p = xp.where(gap > 1, low, high)
    for _ in range(_STEPS):
        bend = xp.tanh(p)
        excess = (p - bend) + gap * bend - y
        better = xp.maximum(p - excess / xp.where(excess == 0, 1.0, _stretch(bend, gap)), xp.zeros_like(p))
        if not bool(xp.any((xp.abs(excess) > 4 * xp.finfo(y.dtype).eps * (y + p)) & (better != p))):
            return p
        p = better
    raise ArithmeticError(f"u: expected to invert p + w.u tanh(p) in {_STEPS} steps, got none for 1 + w.u = {gap:.6g}")


@dataclass(frozen=True)
class Radial:
    """x = z + (gap - a) h (z - z_0) with h = 1 / (a + |z - z_0|), a = exp(log_alpha), gap = softplus(beta) >= 0.

    In the words of `radial`, alpha = a and beta = gap - alpha. Parameters z_0: float[D], log_alpha, beta: float[].
    """

    dim: int

    def init(self, key: Key, *, dtype: Any = np.float64) -> Params:
        """A map close to the identity, around a random point."""
        keys = random.split(key)
        z_0, noise = random.normal(keys[0], (self.dim,)), random.normal(keys[1], (2,))
        return {
            "z_0": z_0.astype(dtype),
            "log_alpha": np.asarray(_SPREAD * noise[0], dtype=dtype),
            "beta": np.asarray(_ONE + _SPREAD * noise[1], dtype=dtype),
        }

    def constrained(self, params: Params) -> Params:
        """The z_0, alpha and beta of `radial` for which it is this map."""
        alpha = namespace(params["z_0"]).exp(params["log_alpha"])
        return {"z_0": params["z_0"], "alpha": alpha, "beta": _softplus(params["beta"]) - alpha}

    def forward(self, params: Params, z: Array) -> tuple[Array, Array, Any]:
        away = self._points("z", z, params) - params["z_0"]
        xp = namespace(away)
        alpha, gap = xp.exp(params["log_alpha"]), _softplus(params["beta"])
        r = xp.sqrt(xp.vecdot(away, away))
        factor, det = _around(r, alpha, gap)
        log_det = (self.dim - 1) * xp.log(factor) + xp.log(det)
        return params["z_0"] + factor[..., None] * away, log_det, (away, r)

    def backward(self, params: Params, residuals: Any, dx: Array, dlog_det: Array) -> tuple[Params, Array]:
        """x = z_0 + factor away  =>  daway = dx factor, dfactor = dx.away, and with factor = (gap + r) h,
        log|det| = (D - 1) log factor + log det, det = (r^2 + 2 alpha r + alpha gap) h^2, h = 1 / (alpha + r)  =>  dr,
        dalpha, dgap;  r = |away|  =>  daway += dr away / r (0 at r = 0, where r has no derivative).
        """
        away, r = residuals
        xp = namespace(away)
        alpha, gap = xp.exp(params["log_alpha"]), _softplus(params["beta"])
        h = 1 / (alpha + r)
        factor, det = _around(r, alpha, gap)
        dfactor = xp.vecdot(dx, away) + (self.dim - 1) * dlog_det / factor
        ddet = dlog_det / det
        dr = dfactor * (alpha - gap) * h * h + 2 * (ddet - dlog_det) * h
        dalpha = ddet * (2 * r + gap) * h * h - (dfactor * factor + 2 * dlog_det) * h
        dgap = dfactor * h + ddet * alpha * h * h
        dz = factor[..., None] * dx + (dr / xp.where(r > 0, r, xp.ones_like(r)))[..., None] * away
        return {
            "z_0": total(dx - dz),
            "log_alpha": xp.sum(dalpha) * alpha,
            "beta": xp.sum(dgap) * _sigmoid(params["beta"]),
        }, dz

    def inverse(self, params: Params, x: Array) -> tuple[Array, Array]:
        """z = z_0 + (x - z_0) / factor, where r = |z - z_0| solves r (gap + r) = |x - z_0| (alpha + r), a quadratic."""
        away = self._points("x", x, params) - params["z_0"]
        xp = namespace(away)
        alpha, gap = xp.exp(params["log_alpha"]), _softplus(params["beta"])
        distance = xp.sqrt(xp.vecdot(away, away))
        b = gap - distance
        root = xp.sqrt(b * b + 4 * alpha * distance) + xp.abs(b)
        positive = xp.where(root > 0, root, xp.ones_like(root))  # 0 at z_0 where gap = 0 alone
        r = xp.where(b > 0, 2 * alpha * distance / positive, root / 2)
        factor, det = _around(r, alpha, gap)
        log_det = -((self.dim - 1) * xp.log(factor) + xp.log(det))
        return params["z_0"] + away / xp.where(factor > 0, factor, xp.ones_like(factor))[..., None], log_det

    def _points(self, name: str, x: Array, params: Params) -> Array:
        parameters(params, z_0=(self.dim,), log_alpha=(), beta=())
        return points(name, x, self.dim)


def _around(r: Array, alpha: Array, gap: Array) -> tuple[Array, Array]:
    """1 + beta h and 1 + alpha beta h^2, the stretch across the radius and along it, as sums of numbers >= 0."""
    h = 1 / (alpha + r)
    return (gap + r) * h, (r * (r + 2 * alpha) + alpha * gap) * h * h


def _log(x: Array, excess: Array) -> Array:
    """log x of x = 1 + excess, by whichever of the two has the digits."""
    xp = namespace(x)
    small = excess > -0.5
    return xp.where(small, xp.log1p(xp.where(small, excess, 0.0)), xp.log(xp.where(small, 1.0, x)))


def _softplus(x: Array) -> Array:
    """log(1 + exp(x))."""
    xp = namespace(x)
    return xp.logaddexp(x, xp.zeros_like(x))


def _sigmoid(x: Array) -> Array:
    """The derivative 1 / (1 + exp(-x)) of softplus, which no x overflows."""
    return namespace(x).exp(-_softplus(-x))


def _finite(**params: Array) -> None:
    for name, value in params.items():
        xp = namespace(value)
        if not bool(xp.all(xp.isfinite(xp.asarray(value)))):
            raise ValueError(f"{name}: expected finite numbers, got NaN or an infinity")
