"""Solvers of dy/dt = velocity(y, t): fixed steps of order 1, 2 and 4, and adaptive ones of order 5 with dense output.

The state is float[...], of any shape; t is a Python float, and times may run either way.
"""

import math
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np

from ..arrays import namespace, to_numpy
from ..protocols import Array

__all__ = [
    "Interval",
    "Solution",
    "Solver",
    "Velocity",
    "dormand_prince",
    "euler",
    "heun",
    "interpolate",
    "midpoint",
    "rk4",
    "solve",
]

Velocity: TypeAlias = Callable[[Array, float], Array]
"""``dy/dt = velocity(y, t)``: float[...] and a Python float -> like y; an array that it does not write to again."""

Solver: TypeAlias = Callable[[Velocity, Array, float, float], Array]
"""``y_s = step(velocity, y, t, s)``: one step of a method from time t to time s."""


def euler(velocity: Velocity, y: Array, t: float, s: float) -> Array:
    """y_s = y + h v(y, t), h = s - t: order 1, one evaluation.

    >>> import numpy as np
    >>> euler(lambda y, t: y, np.ones(1), 0.0, 0.5)
    array([1.5])
    """
    return y + (s - t) * velocity(y, t)


def midpoint(velocity: Velocity, y: Array, t: float, s: float) -> Array:
    """y_s = y + h v(y + h/2 v(y, t), t + h/2): order 2, two evaluations.

    >>> import numpy as np
    >>> midpoint(lambda y, t: y, np.ones(1), 0.0, 0.5)
    array([1.625])
    """
    h = s - t
    return y + h * velocity(y + h / 2 * velocity(y, t), t + h / 2)


def heun(velocity: Velocity, y: Array, t: float, s: float) -> Array:
    """y_s = y + h/2 (k_1 + k_2), k_1 = v(y, t), k_2 = v(y + h k_1, s): order 2, two evaluations.

    >>> import numpy as np
    >>> heun(lambda y, t: y, np.ones(1), 0.0, 0.5)
    array([1.625])
    """
    h = s - t
    k_1 = velocity(y, t)
    return y + h / 2 * (k_1 + velocity(y + h * k_1, s))


def rk4(velocity: Velocity, y: Array, t: float, s: float) -> Array:
    """y_s = y + h/6 (k_1 + 2 k_2 + 2 k_3 + k_4), the method of Runge and Kutta: order 4, four evaluations.

    Source: Kutta 1901.

    >>> import numpy as np
    >>> rk4(lambda y, t: y, np.ones(1), 0.0, 0.5)
    array([1.6484375])
    """
    h = s - t
    k_1 = velocity(y, t)
    k_2 = velocity(y + h / 2 * k_1, t + h / 2)
    k_3 = velocity(y + h / 2 * k_2, t + h / 2)
    k_4 = velocity(y + h * k_3, s)
    return y + h / 6 * (k_1 + 2 * (k_2 + k_3) + k_4)


def solve(step: Solver, velocity: Velocity, y_0: Array, times: Sequence[float], *, frames: bool = False) -> Array:
    """The state at the last time, float[...], or with `frames` at every time, float[len(times), ...]; y_0 at the first.

    A fold of y = step(velocity, y, times[i], times[i + 1]). Raises ValueError unless there are two or more finite
    times that increase, or decrease, and for a velocity of another shape or dtype than y or one that is not finite.

    >>> import numpy as np
    >>> solve(rk4, lambda y, t: -y, np.ones(1), [0.0, 0.5, 1.0])
    array([0.3681...])
    """
    grid = [float(t) for t in times]
    steps = [s - t for t, s in pairwise(grid)]
    if not (steps and all(map(math.isfinite, grid)) and (min(steps) > 0 or max(steps) < 0)):
        raise ValueError(f"times: expected two or more finite times that increase, or decrease, got {times}")
    _expect_floats(y_0)
    states = [y_0]
    for t, s in pairwise(grid):
        y_s = step(partial(_ask_finite, velocity), states[-1], t, s)
        states = [*states, y_s] if frames else [y_s]
    return namespace(y_0).stack(states) if frames else states[-1]


class Interval(NamedTuple):
    """An accepted step from t to s: the states y and the slopes k at its ends, and how far the solution bends between.

    Between the ends it is the cubic of Hermite and theta^2 (1 - theta)^2 bend, theta = (time - t) / (s - t).
    """

    t: float
    s: float
    y_t: Array
    y_s: Array
    k_t: Array
    k_s: Array
    bend: Array


class Solution(NamedTuple):
    """The state at t_1, what it took, and with `dense` the accepted steps in order, for `interpolate`."""

    y: Array
    evaluations: int
    accepted: int
    rejected: int
    intervals: tuple[Interval, ...]


# When each stage is, and the weights of the slopes before it. The last stage is the solution of order 5, and its slope
# the first of the next step. Source: Dormand and Prince 1980.
_STAGES = (
    (1 / 5, (1 / 5,)),
    (3 / 10, (3 / 40, 9 / 40)),
    (4 / 5, (44 / 45, -56 / 15, 32 / 9)),
    (8 / 9, (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729)),
    (1.0, (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656)),
    (1.0, (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)),
)
# The solution of order 5 less one of order 4: 2/3 of what Dormand and Prince had. Source: Shampine 1986.
_ERROR = (71 / 86400, 0.0, -142 / 50085, 71 / 2880, -5751 / 169600, 44 / 1575, -1 / 60)
# The quartic part of the dense output. Source: Hairer, Norsett and Wanner 1993, section II.6 (the code DOPRI5).
_BEND = (
    -12715105075 / 11282082432,
    0.0,
    87487479700 / 32700410799,
    -10690763975 / 1880347072,
    701980252875 / 199316789632,
    -1453857185 / 822651844,
    69997945 / 29380423,
)
_SAFETY, _LEAST, _MOST = 0.9, 0.2, 10.0  # what share of the best step is tried, and the ends of a change of step
_STRETCH = 1.05  # of a step that ends at t_1; less than 1 / _SAFETY, else a rejected one would be tried again as it was
_HUGE = sys.float_info.max  # for what overflows: a step that it allows is short, and longer than 0
_PRECISION = 8  # the least rtol, in units of the dtype's eps: below, the error is one of rounding


def dormand_prince(
    velocity: Velocity,
    y_0: Array,
    t_0: float,
    t_1: float,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    dense: bool = False,
) -> Solution:
    """The solution from y_0 at t_0 to t_1, before or after, by steps whose error estimate meets the tolerances.

    y_0: float32 or float64 of any shape. A step of order 5 is accepted where the error of order 4 embedded in it has a
    root mean square over all entries, each in units of atol + rtol max(|y_t|, |y_s|), of at most 1; the next one is as
    long as that error allows, and no shorter. A step that meets a velocity that is not finite is tried again, shorter.
    Raises ValueError for a y_0 or times that are not finite; for tolerances that are not positive, or an rtol below
    8 eps; for a velocity of another shape or dtype than y; where it is not finite however short the step; and where the
    step underflows. Sources: Dormand and Prince 1980; Shampine 1986 (the error); Hairer, Norsett and Wanner 1993,
    section II.4 (the control of the step).

    >>> import numpy as np
    >>> dormand_prince(lambda y, t: -y, np.ones(1), 0.0, 1.0)[:4]
    (array([0.3678...]), 32, 5, 0)
    """
    _expect_floats(y_0)
    if not _finite(y_0):
        raise ValueError("y_0: expected finite values, got NaN or an infinity")
    _expect_tolerances(y_0, rtol, atol)
    t, t_1 = float(t_0), float(t_1)
    if not (math.isfinite(t) and math.isfinite(t_1)):
        raise ValueError(f"t_0, t_1: expected finite times, got {t_0} and {t_1}")
    y = y_0
    if t == t_1:
        return Solution(y, 0, 0, 0, ())
    k = _ask_finite(velocity, y, t)
    h = _first_step(velocity, y, k, t, t_1, rtol, atol)
    evaluations, accepted, rejected = 2, 0, 0
    finite = True
    slopes, y_s, s = [k], y, t
    intervals = []
    while t != t_1:
        end = _end(t, h, t_1)
        if end != t_1 and abs(h) < 10 * math.ulp(t):
            where = f"a step of {h:.3g} at t = {t:.17g}"
            if not finite:
                raise ValueError(f"{_not_finite(slopes[-1], y_s, s)}, even of {where}")
            raise ValueError(f"velocity: expected one that steps above rounding can follow, got {where}")
        s, h = end, end - t
        slopes, y_s = _try(velocity, y, k, t, s)
        evaluations += len(slopes) - 1
        finite = _finite(slopes[-1])
        error = _norm(h * _sum(_ERROR, slopes), _scale(y, y_s, rtol, atol)) if finite else math.inf
        if error <= 1:
            if dense:
                intervals.append(Interval(t, s, y, y_s, k, slopes[-1], h * _sum(_BEND, slopes)))
            y, k, t, accepted = y_s, slopes[-1], s, accepted + 1
        else:
            rejected += 1
        h *= _change(error)
    return Solution(y, evaluations, accepted, rejected, tuple(intervals))


def interpolate(solution: Solution, t: float) -> Array:
    """The state at a time within a solution with `dense=True`: an error of order 4, and none at the ends of steps.

    Raises ValueError without steps to interpolate, and for a time outside them.
    Source: Shampine 1986, in the form of Hairer, Norsett and Wanner 1993.

    >>> import numpy as np
    >>> solution = dormand_prince(lambda y, t: -y, np.ones(1), 0.0, 1.0, dense=True)
    >>> interpolate(solution, 0.5)
    array([0.6065...])
    """
    if not solution.intervals:
        raise ValueError("solution: expected one with dense=True from t_0 to another t_1, got no steps")
    first, last = solution.intervals[0].t, solution.intervals[-1].s
    way = math.copysign(1.0, last - first)
    if not way * first <= way * t <= way * last:
        raise ValueError(f"t: expected a time between {first} and {last}, got {t}")
    here = solution.intervals[bisect_left(solution.intervals, way * t, key=lambda interval: way * interval.s)]
    h = here.s - here.t
    theta = (t - here.t) / h
    rest = 1 - theta
    hermite = rest * (h * here.k_t - (here.y_s - here.y_t)) + theta * ((here.y_s - here.y_t) - h * here.k_s)
    line = rest * here.y_t + theta * here.y_s
    return line + theta * rest * (hermite + theta * rest * here.bend)


def _first_step(velocity: Velocity, y: Array, k: Array, t: float, t_1: float, rtol: float, atol: float) -> float:
    """The length of the first step, from the sizes of the state, the slope and its change. It takes one evaluation.

    Source: Hairer, Norsett and Wanner 1993, section II.4.
    """
    scale = _scale(y, y, rtol, atol)
    size, slope = _norm(y, scale), _norm(k, scale)
    h = min(1e-6 if min(size, slope) < 1e-5 else 0.01 * size / slope, abs(t_1 - t))
    ahead = math.copysign(h, t_1 - t)
    k_s = _ask(velocity, y + ahead * k, t + ahead)
    if not _finite(k_s):
        return ahead
    most = min(max(slope, _norm(k_s - k, scale) / h), _HUGE)
    long = max(1e-6, 1e-3 * h) if most <= 1e-15 else (0.01 / most) ** (1 / 5)
    return math.copysign(min(100 * h, long), t_1 - t)


def _end(t: float, h: float, t_1: float) -> float:
    """The end of a step of about h: t_1 if it is in reach."""
    return t_1 if (t_1 - t) / h <= _STRETCH else t + h


def _change(error: float) -> float:
    """The ratio of the next step to this one, from an error of order 5.

    An accepted step is not followed by a shorter one, as in torchdiffeq, so that hardly any run takes more evaluations
    than there. Shorter ones would save some in sum, and cost some at single tolerances.
    """
    best = _SAFETY * math.pow(error, -0.2) if error else _MOST
    return max(1.0 if error <= 1 else _LEAST, min(best, _MOST))


def _try(velocity: Velocity, y: Array, k: Array, t: float, s: float) -> tuple[list[Array], Array]:
    """The slopes of the stages of a step, up to one that is not finite, and the state of the last of them."""
    slopes, y_s = [k], y
    for c, weights in _STAGES:
        y_s = y + (s - t) * _sum(weights, slopes)
        slopes.append(_ask(velocity, y_s, s if c == 1 else t + c * (s - t)))
        if not _finite(slopes[-1]):
            break
    return slopes, y_s


def _sum(weights: Sequence[float], slopes: Sequence[Array]) -> Array:
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total += weight * slope
    return total


def _scale(y_t: Array, y_s: Array, rtol: float, atol: float) -> Array:
    xp = namespace(y_t)
    return atol + rtol * xp.maximum(xp.abs(y_t), xp.abs(y_s))


def _norm(x: Array, scale: Array) -> float:
    """The root mean square of x / scale over all entries, 0 of none."""
    xp = namespace(x)
    ratios = xp.reshape(xp.astype(x / scale, xp.float64), (-1,))  # squares overflow in less
    square = xp.sum(ratios * ratios)  # by `vecdot` BLAS would do it, whose threads spin on while the velocity is asked
    return min(math.sqrt(float(square) / max(1, math.prod(x.shape))), _HUGE)


def _ask(velocity: Velocity, y: Array, t: float) -> Array:
    k = velocity(y, t)
    if tuple(k.shape) != tuple(y.shape) or k.dtype != y.dtype:
        shapes = f"{tuple(y.shape)} and {y.dtype} of y, got {tuple(k.shape)} and {k.dtype}"
        raise ValueError(f"velocity: expected the shape and dtype {shapes}")
    return k


def _ask_finite(velocity: Velocity, y: Array, t: float) -> Array:
    k = _ask(velocity, y, t)
    if not _finite(k):
        raise ValueError(_not_finite(k, y, t))
    return k


def _finite(k: Array) -> bool:
    xp = namespace(k)
    return bool(xp.all(xp.isfinite(k)))


def _not_finite(k: Array, y: Array, t: float) -> str:
    slopes, states = to_numpy(k), to_numpy(y)
    index = tuple(np.argwhere(~np.isfinite(slopes))[0].tolist())
    row = np.array2string(states[index[:-1]], threshold=8, max_line_width=10**6)
    return f"velocity: expected finite values, got {slopes[index]} at t = {t:.17g}, y{list(index[:-1]) or ''} = {row}"


def _expect_floats(y_0: Array) -> None:
    xp = namespace(y_0)
    if y_0.dtype not in (xp.float32, xp.float64):
        raise TypeError(f"y_0: expected float32 or float64, got {y_0.dtype}")


def _expect_tolerances(y_0: Array, rtol: float, atol: float) -> None:
    if not (0 < rtol < math.inf and 0 < atol < math.inf):
        raise ValueError(f"rtol, atol: expected positive tolerances, got {rtol} and {atol}")
    least = _PRECISION * float(namespace(y_0).finfo(y_0.dtype).eps)
    if rtol < least:
        raise ValueError(f"rtol: expected at least {least:.3g}, {_PRECISION} eps of {y_0.dtype}, got {rtol}")
