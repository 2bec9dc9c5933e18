"""Loops that Numba compiles: passes over the points of a shard, which run without the interpreter's lock.

Networks are in float32. An elementwise formula is a loop over whole arrays in the order of memory, with no branch and
no call, so that the compiler makes vectors of it; products of matrices are left to BLAS.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numba import njit

__all__ = [
    "autoregressive_inverse",
    "backward",
    "exp",
    "field",
    "forward",
    "inverse",
    "tanh",
    "uniforms",
]

Array: TypeAlias = Any
Function: TypeAlias = Callable[..., Any]

_f, _u = np.float32, np.uint32
_BOUND = _f(math.log(1000))  # of the log-scales of `coupling.AffineMap`
_PER_LN_2 = _f(1 / math.log(2))
_LN_2_HIGH = _f(0.693359375)  # of so few digits that its products with small integers are exact
_LN_2_LOW = _f(math.log(2) - 0.693359375)
_P_0, _P_1, _P_2, _P_3, _P_4 = map(_f, (0.99999998, 0.13379716, 0.0034940326, 2.0583450e-5, 1.3319029e-8))
_Q_1, _Q_2, _Q_3, _Q_4 = map(_f, (0.46713032, 0.025871066, 0.00032830897, 7.7620018e-7))
_C_2, _C_3, _C_4, _C_5, _C_6, _C_7 = (_f(1 / math.factorial(n)) for n in range(2, 8))


def _compiled(function: Function) -> Function:
    made: Function = njit(nogil=True, error_model="numpy", fastmath={"contract"}, cache=True)(function)
    return made


def _summing(function: Function) -> Function:
    """Compiled so that a sum may be in any order, and so in vectors."""
    made: Function = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"}, cache=True)(function)
    return made


# Elementary functions


@_compiled
def exp(x: Any) -> Any:
    """e^x = 2^n e^r, |r| <= log(2) / 2, by the series of e^r; x is taken into [-87, 87], where 2^n has its bits."""
    x = min(max(x, _f(-87)), _f(87))
    n = np.rint(x * _PER_LN_2)
    r = (x - n * _LN_2_HIGH) - n * _LN_2_LOW
    series = _f(1) + r * (_f(1) + r * (_C_2 + r * (_C_3 + r * (_C_4 + r * (_C_5 + r * (_C_6 + r * _C_7))))))
    return series * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@_compiled
def tanh(x: Any) -> Any:
    """x P(x^2) / Q(x^2), the quotient of least relative error, 2.1e-8, up to |x| = 9.02, from where it rounds to 1."""
    x = min(max(x, _f(-9.02)), _f(9.02))
    q = x * x
    p = _P_0 + q * (_P_1 + q * (_P_2 + q * (_P_3 + q * _P_4)))
    return x * p / (_f(1) + q * (_Q_1 + q * (_Q_2 + q * (_Q_3 + q * _Q_4))))


# Layers. u is half of what goes into a SiLU, as in `layers.silu_of_twice`: silu(2 u) = u s, s = 1 + tanh u. A bias is
# [1, out], and in a field there may be a row for each point.


@_compiled
def _silu(y: Array, bias: Array) -> None:
    """silu(2 u), u = y + bias, in place."""
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            u = y[i, j] + bias[0, j]
            y[i, j] = u * (_f(1) + tanh(u))


@_compiled
def _silu_with_slope(y: Array, bias: Array, slope: Array) -> None:
    """silu(2 u), u = y + bias, in place, and its derivative in u, which is s + u s (2 - s)."""
    for i in range(y.shape[0]):
        row = min(i, bias.shape[0] - 1)
        for j in range(y.shape[1]):
            u = y[i, j] + bias[row, j]
            s = _f(1) + tanh(u)
            h = u * s
            slope[i, j] = s + h * (_f(2) - s)
            y[i, j] = h


@_compiled
def _multiply(y: Array, factor: Array) -> None:
    """y factor, in place."""
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] *= factor[i, j]


# A velocity field of two hidden layers.


@_compiled
def field(x: Array, phi: Array, e: Any, weights: Any, times: Any) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    """v and (h_1, its slope, h_2, its slope), as `Field._layers`, float[1 or B, hidden] e or None."""
    bias = np.dot(phi, times[0].T)
    h_1, slope_1 = _hidden(x, weights[0], bias if e is None else bias + e)
    h_2, slope_2 = _hidden(h_1, weights[1], np.dot(phi, times[1].T))
    v, bias = np.dot(h_2, weights[2].T), np.dot(phi, times[2].T)
    for i in range(v.shape[0]):
        row = min(i, bias.shape[0] - 1)
        for j in range(v.shape[1]):
            v[i, j] += bias[row, j]
    return v, (h_1, slope_1, h_2, slope_2)


@_compiled
def _hidden(x: Array, weight: Array, bias: Array) -> tuple[Array, Array]:
    h = np.dot(x, weight.T)
    slope = np.empty_like(h)
    _silu_with_slope(h, bias, slope)
    return h, slope


# Affine maps of some coordinates: those in `moving`, from c to d, get log-scales and shifts that a network makes of
# those in `still`. The network is a tuple of weights [out, in] and one of biases [1, out]; its outputs are all
# log-scales, before they are bent to s = L tanh(. / L), and then all shifts. For its hidden layers there is a tuple of
# arrays [B, width] to write to, and another for the slopes, or None where no `backward` follows.


@_compiled
def forward(
    x: Array, weights: Any, biases: Any, hidden: Any, slopes: Any, still: Any, moving: Any, log_det: Array
) -> tuple[Array, Array]:
    """x exp(s) + shift, and theta = (s, shift) for `backward`; log_det grows by sum s."""
    theta = _network(x, weights, biases, hidden, slopes, still)
    bias, c = biases[len(hidden)], moving[0]
    _bend(theta, bias, log_det, _f(1))
    y, m = x.copy(), moving[1] - c
    for i in range(x.shape[0]):
        for j in range(m):
            y[i, c + j] = x[i, c + j] * exp(theta[i, j]) + (theta[i, m + j] + bias[0, m + j])
    return y, theta


@_compiled
def inverse(x: Array, weights: Any, biases: Any, hidden: Any, still: Any, moving: Any, log_det: Array) -> Array:
    """(x - shift) exp(-s), for a map that leaves what is still alone; log_det falls by sum s."""
    theta = _network(x, weights, biases, hidden, None, still)
    bias, c = biases[len(hidden)], moving[0]
    _bend(theta, bias, log_det, _f(-1))
    y, m = x.copy(), moving[1] - c
    for i in range(x.shape[0]):
        for j in range(m):
            y[i, c + j] = (x[i, c + j] - (theta[i, m + j] + bias[0, m + j])) * exp(-theta[i, j])
    return y


@_compiled
def autoregressive_inverse(
    x: Array, weights: Any, biases: Any, hidden: Any, order: Array, units: Array, log_det: Array
) -> Array:
    """As `inverse`, for a map of all coordinates by masked weights, which finds one after another.

    order: the coordinates as they come; units: int[layers, D + 1], from which unit on a layer sees none but the first
    coordinates. So every unit is computed once, in its turn; those of later turns have weights of 0 till then.
    """
    y, last, size = np.zeros_like(x), len(hidden), x.shape[1]
    for k in range(last):
        hidden[k][:] = 0
    for place in range(size):
        i = order[place]
        theta = np.dot(hidden[last - 1], weights[last][i]), np.dot(hidden[last - 1], weights[last][size + i])
        for r in range(x.shape[0]):
            s = _BOUND * tanh((theta[0][r] + biases[last][0, i]) / _BOUND)
            y[r, i] = (x[r, i] - (theta[1][r] + biases[last][0, size + i])) * exp(-s)
            log_det[r] -= s
        seen = y
        for k in range(last):
            start, stop = units[k, place], units[k, place + 1]
            if start < stop:
                found = np.dot(seen, weights[k][start:stop].T)
                _silu(found, np.ascontiguousarray(biases[k][:, start:stop]))
                hidden[k][:, start:stop] = found
            seen = hidden[k]
    return y


@_compiled
def backward(
    x: Array,
    theta: Array,
    weights: Any,
    hidden: Any,
    slopes: Any,
    still: Any,
    moving: Any,
    dy: Array,
    dlog_det: Any,
    dweights: Any,
    dbiases: Any,
) -> Array:
    """dx, where dlog_det is the same number for all points; the gradients of the network are written.

    y = x e^s + shift, log|det| = sum s  =>  dx = dy e^s, ds = dx x + dlog_det, dshift = dy; s = L tanh(theta / L)  =>
    dtheta = ds (1 - (s / L)^2); then each layer by its own rule, and the gradient through the network is added.
    """
    dx, dtheta, c, m = dy.copy(), np.empty_like(theta), moving[0], moving[1] - moving[0]
    for i in range(x.shape[0]):
        for j in range(m):
            bend = theta[i, j] / _BOUND
            dmoved = dy[i, c + j] * exp(theta[i, j])
            dtheta[i, j] = (dmoved * x[i, c + j] + dlog_det) * (_f(1) - bend * bend)
            dtheta[i, m + j] = dy[i, c + j]
            dx[i, c + j] = dmoved
    for k in range(len(hidden), 0, -1):
        np.dot(dtheta.T, hidden[k - 1], dweights[k])
        _sum(dtheta, dbiases[k])
        dtheta = np.dot(dtheta, weights[k])
        _multiply(dtheta, slopes[k - 1])
    np.dot(dtheta.T, np.ascontiguousarray(x[:, still[0] : still[1]]), dweights[0])
    _sum(dtheta, dbiases[0])
    through = np.dot(dtheta, weights[0])
    for i in range(x.shape[0]):
        for j in range(through.shape[1]):
            dx[i, still[0] + j] += through[i, j]
    return dx


@_compiled
def _network(x: Array, weights: Any, biases: Any, hidden: Any, slopes: Any, still: Any) -> Array:
    """The outputs before the last bias."""
    seen = np.ascontiguousarray(x[:, still[0] : still[1]])
    for k in range(len(hidden)):
        np.dot(seen, weights[k].T, hidden[k])
        if slopes is None:
            _silu(hidden[k], biases[k])
        else:
            _silu_with_slope(hidden[k], biases[k], slopes[k])
        seen = hidden[k]
    return np.dot(seen, weights[len(hidden)].T)


@_compiled
def _bend(theta: Array, bias: Array, log_det: Array, sign: Any) -> None:
    """s = L tanh((theta + bias) / L) in the first half of theta, in place, and log_det + sign sum s."""
    m = theta.shape[1] // 2
    for i in range(theta.shape[0]):
        for j in range(m):
            theta[i, j] = _BOUND * tanh((theta[i, j] + bias[0, j]) / _BOUND)
        log_det[i] += sign * _total(theta, i, m)


@_summing
def _total(x: Array, i: Any, m: Any) -> Any:
    total = _f(0)
    for j in range(m):
        total += x[i, j]
    return total


@_compiled
def _sum(rows: Array, total: Array) -> None:
    """The sum of the rows, [B, n] -> [1, n]."""
    total[:] = 0
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            total[0, j] += rows[i, j]


# Random words


@_compiled
def uniforms(hi: Any, lo: Any, first: Any, count: Any) -> Array:
    """`random.uniform_at` at the sites first, first + 1, ...: Threefry-2x32 with 20 rounds, and 52 of its bits."""
    u = np.empty(count, dtype=np.float64)
    ks = (_u(hi), _u(lo), _u(hi) ^ _u(lo) ^ _u(0x1BD11BDA))
    for i in range(count):
        x, y = _u((first + i) >> 32) + ks[0], _u(first + i) + ks[1]
        x, y = _u(x), _u(y)
        x, y = _rounds(x, y, 13, 15, 26, 6)
        x, y = _u(x + ks[1]), _u(y + ks[2] + _u(1))
        x, y = _rounds(x, y, 17, 29, 16, 24)
        x, y = _u(x + ks[2]), _u(y + ks[0] + _u(2))
        x, y = _rounds(x, y, 13, 15, 26, 6)
        x, y = _u(x + ks[0]), _u(y + ks[1] + _u(3))
        x, y = _rounds(x, y, 17, 29, 16, 24)
        x, y = _u(x + ks[1]), _u(y + ks[2] + _u(4))
        x, y = _rounds(x, y, 13, 15, 26, 6)
        x, y = _u(x + ks[2]), _u(y + ks[0] + _u(5))
        u[i] = np.float64(x) * 2.0**-32 + np.float64(_u(y >> _u(12))) * 2.0**-52
    return u


@_compiled
def _rounds(x: Any, y: Any, r_1: Any, r_2: Any, r_3: Any, r_4: Any) -> Any:
    for r in (r_1, r_2, r_3, r_4):
        x = _u(x + y)
        y = _u((y << _u(r)) | (y >> _u(32 - r))) ^ x
    return x, y
