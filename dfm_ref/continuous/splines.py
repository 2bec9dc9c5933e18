"""Monotone rational-quadratic splines: maps of the line whose inverse and derivative are in closed form.

At the fraction f of the width of a bin, with g = 1 - f, the value is at the fraction v of its height:

    v = f (s f + a g) / D,   D = s (f^2 + g^2) + (a + b) f g,   dv/df = s N / D^2,   N = b f^2 + 2 s f g + a g^2,

where a, b are the slopes at the two knots and s = height / width that of the chord. All terms are positive: nothing
cancels. Source: Gregory and Delbourgo 1982; Durkan et al. 2019, "Neural Spline Flows", section 3.1.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device

from ..arrays import like, namespace, put
from ..protocols import Array

__all__ = ["RationalQuadratic"]

_LEAST = 1e-3  # the width and the height of a bin, as parts of the whole, and the slope at a knot
_LOG = -math.log(_LEAST)


class _Knots(NamedTuple):
    """Of every spline: the corners of its bins, as parts of [-bound, bound] from 0 to 1, and the slopes there."""

    x: Array
    y: Array
    slope: Array


class _Bin(NamedTuple):
    """Of every point: the place of its bin's left knot in the table of knots, the bin's corners and its slopes."""

    at: Array
    x_0: Array
    x_1: Array
    y_0: Array
    y_1: Array
    a: Array
    b: Array

    @property
    def s(self) -> Array:
        return (self.y_1 - self.y_0) / (self.x_1 - self.x_0)


@dataclass(frozen=True)
class RationalQuadratic:
    """A spline of `bins` pieces from [-bound, bound] onto itself, and the identity outside, elementwise.

    theta: float[..., size], size = 3 bins - 1, for x: float[...]; logits of the widths, logits of the heights, and
    logarithms of the slopes at the inner knots, all kept within log 1000 by a tanh. At the ends the slope is 1, and no
    width or height is below 1/1000 of the whole. theta = 0 is the identity, up to rounding. Shapes that do not fit
    are ValueErrors, as are bins outside [2, 999] and a bound that is not positive.

    >>> RationalQuadratic(bins=4).size
    11
    """

    bins: int = 8
    bound: float = 5.0

    def __post_init__(self) -> None:
        if not 2 <= self.bins < 1 / _LEAST:
            raise ValueError(f"bins: expected from 2 to 999 bins, got {self.bins}")
        if not 0 < self.bound < math.inf:
            raise ValueError(f"bound: expected a positive number, got {self.bound}")

    @property
    def size(self) -> int:
        """How many parameters a coordinate takes."""
        return 3 * self.bins - 1

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array, Any]:
        """The value y and log dy/dx = log(s^2 N / D^2), float[...] both, and the residuals for `backward`.

        >>> spline = RationalQuadratic(bins=2)
        >>> y, log_derivative, _ = spline.forward(np.zeros((3, 5)), np.array([-1.0, 2.5, 7.0]))
        >>> y, log_derivative
        (array([-1. ,  2.5,  7. ]), array([0., 0., 0.]))
        """
        inside, q = self._parts(theta, x)
        knots, r_knots = self._knots(theta)
        piece = _find(knots, knots.x, q)
        f, g = _fractions(q, piece.x_0, piece.x_1)
        v, N, D = _curve(piece, f, g)
        y = self._whole(inside, piece.y_0 + (piece.y_1 - piece.y_0) * v, x)
        return y, _log_slope(inside, piece, N, D), (inside, r_knots, piece, f, g, v, N, D)

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        """The x whose value is y, and log dx/dy there: f solves f (s f + a g) = v D, a quadratic equation.

        With u = 1 - v, r = a u - b v and q = |r| + sqrt(r^2 + 4 s^2 v u), the solution is f : g = 2 s v : q where
        r >= 0, and q : 2 s u elsewhere; here too all terms are positive.

        >>> spline, theta = RationalQuadratic(bins=2), np.linspace(-1, 1, 5)
        >>> x, log_derivative = spline.inverse(theta, spline.forward(theta, np.asarray(1.25))[0])
        >>> round(float(x), 12)
        1.25
        """
        xp = namespace(y)
        inside, q = self._parts(theta, y)
        knots, _ = self._knots(theta)
        piece = _find(knots, knots.y, q)
        v, u = _fractions(q, piece.y_0, piece.y_1)
        r = piece.a * u - piece.b * v
        root = xp.abs(r) + xp.sqrt(r * r + 4 * piece.s**2 * v * u)
        f, g = xp.where(r >= 0, 2 * piece.s * v, root), xp.where(r >= 0, root, 2 * piece.s * u)
        f, g = f / (f + g), g / (f + g)
        _, N, D = _curve(piece, f, g)
        return self._whole(inside, piece.x_0 + (piece.x_1 - piece.x_0) * f, y), -_log_slope(inside, piece, N, D)

    def backward(self, residuals: Any, dy: Array, dlog_derivative: Array) -> tuple[Array, Array]:
        """y = y_0 + h v, l = 2 log s + log N - 2 log D, f = (x - x_0) / w, s = h / w  =>  dh = dy v + ds / w,
        dw = -(df f + ds s) / w, dx = df / w = -dx_0, dy_0 = dy; and with i = dl / N, j = 2 dl / D, k = dy h f g / D^2:
        df = dy h s N / D^2 + i N' - j D',          ds = k (b f^2 - a g^2) + 2 dl / s + 2 i f g - j (f^2 + g^2),
        da = k g (s g + b f) + i g^2 - j f g,       db = i f^2 - k f (s f + a g) - j f g.
        """
        inside, (bend, e, sums, totals), piece, f, g, v, N, D = residuals
        xp = namespace(f)
        dpart, dl = (xp.reshape(xp.where(inside, d, 0.0), (-1,)) for d in (2 * self.bound * dy, dlog_derivative))
        at, x_0, x_1, y_0, y_1, a, b = piece
        w, h, s, fg = x_1 - x_0, y_1 - y_0, piece.s, f * g
        i, j, k = dl / N, 2 * dl / D, dpart * h * fg / (D * D)
        df = dpart * h * s * N / (D * D) + 2 * i * (b * f - a * g + s * (g - f)) - j * (g - f) * (a + b - 2 * s)
        ds = k * (b * f * f - a * g * g) + 2 * dl / s + 2 * i * fg - j * (f * f + g * g)
        da = k * g * (s * g + b * f) + i * g * g - j * fg
        db = i * f * f - k * f * (s * f + a * g) - j * fg
        dw, dh, dq = -(df * f + ds * s) / w, dpart * v + ds / w, df / w
        de = [
            _cumulated_backward((x_0, x_1, totals[0], sums), -dq - dw, dw, at),
            _cumulated_backward((y_0, y_1, totals[1], sums), dpart - dh, dh, at),
            _spread(at, da, db, self.bins + 1)[:, 1:-1],
        ]
        dtheta = xp.reshape(xp.concat(de, axis=-1) * e * (1 - bend * bend), (*inside.shape, self.size))
        return dtheta, xp.where(inside, xp.reshape(dq, inside.shape) / (2 * self.bound), dy)

    def _parts(self, theta: Array, x: Array) -> tuple[Array, Array]:
        """Whether |x| < bound, and where x is in [-bound, bound], as a part of it in [0, 1], float[n]."""
        if tuple(theta.shape) != (*x.shape, self.size):
            raise ValueError(f"theta: expected the shape {(*x.shape, self.size)}, got {tuple(theta.shape)}")
        xp = namespace(theta, x)
        inside = xp.abs(x) < self.bound
        return inside, xp.reshape(xp.where(inside, x, 0.0) / (2 * self.bound) + 0.5, (-1,))

    def _whole(self, inside: Array, part: Array, x: Array) -> Array:
        """The points of which `_parts` gives the parts, and x itself outside."""
        xp = namespace(x)
        return xp.where(inside, xp.reshape(self.bound * (2 * part - 1), x.shape), x)

    def _knots(self, theta: Array) -> tuple[_Knots, Any]:
        """The knots of every spline, from e = exp(L tanh(theta / L)), which no theta overflows."""
        xp, K = namespace(theta), self.bins
        bend = xp.tanh(xp.reshape(theta, (-1, self.size)) / _LOG)
        e = xp.exp(_LOG * bend)
        sums, one = like(theta, _sums(K), theta.dtype), xp.ones_like(e[:, :1])
        x, total_x = _cumulated(e[:, :K], sums)
        y, total_y = _cumulated(e[:, K : 2 * K], sums)
        slope = xp.concat([one, e[:, 2 * K :], one], axis=-1)
        return _Knots(x, y, slope), (bend, e, sums, (total_x, total_y))


@lru_cache
def _sums(bins: int) -> Array:
    """M with (e M)_k = least k sum e + (1 - K least) (e_0 + ... + e_(k-1)) for k = 0, ..., K: one product adds up."""
    k = np.arange(bins + 1)
    return _LEAST * k + (1 - bins * _LEAST) * (np.arange(bins)[:, None] < k)


def _cumulated(e: Array, sums: Array) -> tuple[Array, Array]:
    """The knots c / c_K, c = e M: float[n, K] -> float[n, K + 1] that rise from 0 to 1 exactly, and c_K."""
    c = e @ sums
    return c / c[:, -1:], c[:, -1:]


def _cumulated_backward(residuals: tuple[Array, ...], dleft: Array, dright: Array, at: Array) -> Array:
    """z = c / c_K, c = e M  =>  de = (dz M^T - sum dz z) / c_K, as M_jK = 1; dz is 0 but at the ends of a bin."""
    left, right, total, sums = residuals
    dz = _spread(at, dleft, dright, sums.shape[1])
    return (dz @ sums.T - (dleft * left + dright * right)[:, None]) / total


def _find(knots: _Knots, edges: Array, q: Array) -> _Bin:
    """The bins that hold the points q float[n] of [0, 1], where the edges of bins are those of the x or of the y."""
    xp = namespace(q)
    k = xp.count_nonzero(q[:, None] >= edges[:, 1:-1], axis=-1)
    at = xp.arange(q.shape[0], dtype=k.dtype, device=device(q)) * edges.shape[1] + k
    sides = (xp.take(xp.reshape(table, (-1,)), i, axis=0) for table in knots for i in (at, at + 1))
    return _Bin(at, *sides)


def _spread(at: Array, left: Array, right: Array, count: int) -> Array:
    """Adjoint to what `_find` picks: float[n, count], 0 but for `left` at the places and `right` one further."""
    xp = namespace(left)
    table = xp.zeros(left.shape[0] * count, dtype=left.dtype, device=device(left))
    return xp.reshape(put(put(table, at, left), at + 1, right), (-1, count))


def _fractions(q: Array, left: Array, right: Array) -> tuple[Array, Array]:
    """How far q is from left to right, and what is missing."""
    return (q - left) / (right - left), (right - q) / (right - left)


def _curve(piece: _Bin, f: Array, g: Array) -> tuple[Array, Array, Array]:
    """v, N and D, as at the top of this file."""
    s, a, b = piece.s, piece.a, piece.b
    D = s * (f * f + g * g) + (a + b) * f * g
    return f * (s * f + a * g) / D, b * f * f + 2 * s * f * g + a * g * g, D


def _log_slope(inside: Array, piece: _Bin, N: Array, D: Array) -> Array:
    """log dy/dx = log(s^2 N / D^2), and 0 outside."""
    xp = namespace(N)
    ratio = piece.s / D
    return xp.where(inside, xp.reshape(xp.log(ratio * ratio * N), inside.shape), 0.0)
