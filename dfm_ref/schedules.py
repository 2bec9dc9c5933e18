"""Schedules kappa_t: how much of each component a path holds at time t.

A path of m components has m non-negative functions of t that sum to 1. A `Monotone` schedule is the case m = 2: one
function kappa from 0 to 1, and its complement, carried as a function of its own because 1 - kappa by subtraction
has no correct digits near t = 1. All functions act elementwise on a time, a number or float[...]; `PerToken`
widens a last axis of 1 to the tokens. Times in [0, 1]; kappa_dot per unit of t. Arrays are computed in float64 and
answered in their own type (float32 at least), to a few units in its last place at both ends of [0, 1] too.

Source: Gat et al. 2024, section 3 (mixture paths; the cubic schedule in section 3.3 and its experiments).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, wraps
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from .arrays import like, namespace, widen
from .protocols import Array, Model

__all__ = [
    "Bernstein",
    "Complement",
    "Convex",
    "Cosine",
    "CubicHermite",
    "Kappa",
    "Linear",
    "Monotone",
    "PerToken",
    "Polynomial",
    "Reclocked",
    "Schedule",
    "Tabulated",
]


def _double(function: Callable[[Any, Array], Array]) -> Callable[[Any, Array], Array]:
    """The function of a time or level computed in float64 and answered in the type of its argument."""

    @wraps(function)
    def doubled(self: Any, t: Array) -> Array:
        if not hasattr(t, "dtype"):
            return function(self, t)
        xp = namespace(t)
        value = xp.asarray(function(self, xp.astype(t, xp.float64, copy=False)))
        return xp.astype(value, widen(t).dtype, copy=False)

    return doubled


class Kappa(Protocol):
    """One non-negative function of time and its derivative."""

    def kappa(self, t: Array) -> Array: ...
    def kappa_dot(self, t: Array) -> Array: ...


class Schedule(Protocol):
    """The weights of m components and their derivatives, each a tuple of m arrays; the weights sum to 1."""

    def kappas(self, t: Array) -> tuple[Array, ...]: ...
    def kappa_dots(self, t: Array) -> tuple[Array, ...]: ...


class Monotone(ABC):
    """kappa increasing from 0 at t = 0 to 1 at t = 1: the schedule of a two-component path, (1 - kappa, kappa)."""

    @abstractmethod
    def kappa(self, t: Array) -> Array:
        """The share of the data at time t."""

    @abstractmethod
    def kappa_dot(self, t: Array) -> Array:
        """The derivative of kappa, per unit of t."""

    @abstractmethod
    def one_minus_kappa(self, t: Array) -> Array:
        """1 - kappa_t with full relative accuracy, near t = 1 too."""

    @_double
    def inverse(self, k: Array) -> Array:
        """The time at which kappa_t = k, for k in [0, 1]; where kappa is flat, that of a level beside k."""
        return self._time(k, 1 - k)

    @_double
    def inverse_complement(self, k: Array) -> Array:
        """The time at which 1 - kappa_t = k, for k in [0, 1]: `inverse` of 1 - k, for k too small to subtract."""
        return self._time(1 - k, k)

    def _time(self, kappa: Array, rest: Array) -> Array:
        """The time of the weights kappa and rest = 1 - kappa, of which the smaller one has all digits."""
        return _bisect(self, kappa, rest)

    def kappas(self, t: Array) -> tuple[Array, ...]:
        """(1 - kappa_t, kappa_t)."""
        return self.one_minus_kappa(t), self.kappa(t)

    def kappa_dots(self, t: Array) -> tuple[Array, ...]:
        """(-kappa_dot_t, kappa_dot_t)."""
        rate = self.kappa_dot(t)
        return -rate, rate


@dataclass(frozen=True)
class Linear(Monotone):
    """kappa_t = t.

    >>> Linear().kappas(0.25)
    (0.75, 0.25)
    """

    @_double
    def kappa(self, t: Array) -> Array:
        return 1.0 * t

    @_double
    def kappa_dot(self, t: Array) -> Array:
        return 0.0 * t + 1.0

    @_double
    def one_minus_kappa(self, t: Array) -> Array:
        return 1.0 - t

    def _time(self, kappa: Array, rest: Array) -> Array:
        return 1.0 * kappa


@dataclass(frozen=True)
class Polynomial(Monotone):
    """kappa_t = t**exponent, for an exponent > 0 (below 1 the rate at t = 0 is infinite).

    >>> Polynomial(exponent=2.0).kappa(0.5)
    0.25
    """

    exponent: float

    def __post_init__(self) -> None:
        if not 0 < self.exponent < math.inf:
            raise ValueError(f"exponent: expected a finite number > 0, got {self.exponent}")

    @_double
    def kappa(self, t: Array) -> Array:
        return t**self.exponent

    @_double
    def kappa_dot(self, t: Array) -> Array:
        xp = namespace(t)
        t = xp.asarray(t)
        later = xp.where(t > 0, t, xp.ones_like(t))  # exponent - 1 is exact from 1/2 on
        rate = self.exponent * (later ** (self.exponent - 1) if self.exponent >= 0.5 else later**self.exponent / later)
        start = math.inf if self.exponent < 1 else float(self.exponent == 1)
        return xp.where(t > 0, rate, xp.full_like(t, start))

    @_double
    def one_minus_kappa(self, t: Array) -> Array:
        xp = namespace(t)
        t = xp.asarray(t)
        later = xp.where(t > 0, t, xp.ones_like(t))
        return xp.where(t > 0, -xp.expm1(self.exponent * xp.log(later)), xp.ones_like(t))

    def _time(self, kappa: Array, rest: Array) -> Array:
        xp, power = namespace(kappa), 1 / float(self.exponent)
        there = xp.where(kappa > 0, kappa, 1.0 + 0.0 * kappa)
        lost = float(1 / Fraction(float(self.exponent)) - Fraction(power)) * xp.log(there)  # by rounding 1 / exponent
        lost = lost + ((1 - kappa) - rest) / there * power  # by rounding kappa
        return xp.where(kappa > 0, there**power * (1 + lost), 0.0 * kappa)


@dataclass(frozen=True)
class Cosine(Monotone):
    """kappa_t = sin(pi t / 2)**2 = (1 - cos(pi t)) / 2.

    >>> round(float(Cosine().kappa(0.5)), 12)
    0.5
    """

    @_double
    def kappa(self, t: Array) -> Array:
        return namespace(t).sin((math.pi / 2) * t) ** 2

    @_double
    def kappa_dot(self, t: Array) -> Array:
        xp = namespace(t)  # pi sin cos with each factor exact at its own zero: sin(pi t) is not, at t = 1
        return math.pi * xp.sin((math.pi / 2) * t) * xp.sin((math.pi / 2) * (1 - t))

    @_double
    def one_minus_kappa(self, t: Array) -> Array:
        return self.kappa(1 - t)  # 1 - t is exact from 1/2 on, where cos(pi t / 2) would lose its digits

    def _time(self, kappa: Array, rest: Array) -> Array:
        xp = namespace(kappa)
        near, far = xp.sqrt(xp.minimum(kappa, rest)), xp.sqrt(xp.maximum(kappa, rest))
        from_the_end = (2 / math.pi) * xp.atan2(near, far)
        return xp.where(kappa < rest, from_the_end, 1 - from_the_end)


@dataclass(frozen=True)
class CubicHermite(Monotone):
    """kappa_t = -2t^3 + 3t^2 + a(t^3 - 2t^2 + t) + b(t^3 - t^2): the cubic with slopes a at t = 0 and b at t = 1.

    Increasing where a, b >= 0 and a + b <= 3 or (a + b - 3)^2 <= a b; anything else is a ValueError.

    >>> float(CubicHermite(a=1.0, b=1.0).kappa(0.25))
    0.25
    """

    a: float = 0.0
    b: float = 0.0

    def __post_init__(self) -> None:
        a, b = self.a, self.b
        if not (0 <= a < math.inf and 0 <= b < math.inf and (a + b <= 3 or (a + b - 3) ** 2 <= a * b)):
            raise ValueError(f"a, b: expected the slopes of an increasing cubic, got a={a}, b={b}")

    @_double
    def kappa(self, t: Array) -> Array:
        return _cubic((0.0, self.a, 3 - self.b, 1.0), 1 - t, t)

    @_double
    def kappa_dot(self, t: Array) -> Array:
        a, b = Fraction(float(self.a)), Fraction(float(self.b))
        return _quadratic(_squares(a, 6 - 2 * (a + b), b), 1 - t, t)

    @_double
    def one_minus_kappa(self, t: Array) -> Array:
        return _cubic((0.0, self.b, 3 - self.a, 1.0), t, 1 - t)


@dataclass(frozen=True)
class Tabulated(Monotone):
    """kappa through `values` at `times`, learned or measured, by monotone cubics (PCHIP).

    ValueError unless both increase strictly, each from 0 to 1. On each interval all terms of kappa, and of 1 - kappa
    from coefficients of its own, are >= 0, so that neither loses digits at an end.
    Source: Fritsch and Butland 1984, "A method for constructing local monotone piecewise cubic interpolants".

    >>> Tabulated(times=(0.0, 0.5, 1.0), values=(0.0, 0.25, 1.0)).kappa(np.array([0.25, 0.5]))
    array([0.078125, 0.25    ])
    """

    times: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("times", "values"):
            grid = tuple(map(float, getattr(self, name)))
            object.__setattr__(self, name, grid)  # arrays and lists too, as what prints and compares
            if (grid[:1], grid[-1:]) != ((0.0,), (1.0,)) or not all(a < b for a, b in pairwise(grid)):
                raise ValueError(f"{name}: expected numbers that increase strictly from 0 to 1, got {grid}")
        if len(self.times) != len(self.values):
            raise ValueError(f"values: expected {len(self.times)}, one a time, got {len(self.values)}")

    @_double
    def kappa(self, t: Array) -> Array:
        return self._piece(t, slice(0, 4), _cubic)

    @_double
    def kappa_dot(self, t: Array) -> Array:
        return self._piece(t, slice(8, 13), _quadratic)

    @_double
    def one_minus_kappa(self, t: Array) -> Array:
        return self._piece(t, slice(4, 8), _cubic)

    def _piece(self, t: Array, columns: slice, form: Callable[[Any, Array, Array], Array]) -> Array:
        xp = namespace(t)
        t = xp.asarray(t)
        flat, times = xp.reshape(t, (-1,)), like(t, np.asarray(self.times), t.dtype)
        which = xp.searchsorted(times[1:-1], flat, side="right")
        coefficients = xp.take(like(t, _pchip(self.times, self.values)[:, columns], t.dtype), which, axis=0)
        start, stop = xp.take(times, which), xp.take(times, which + 1)
        r, s = (stop - flat) / (stop - start), (flat - start) / (stop - start)
        return xp.reshape(form([coefficients[:, k] for k in range(coefficients.shape[1])], r, s), t.shape)


@dataclass(frozen=True)
class Bernstein:
    """kappa_t = sum_k coefficients[k] C(n, k) t^k (1 - t)^(n - k): a polynomial of degree n, for `Convex`.

    Non-negative coefficients make every term non-negative, hence accurate to its last digits at both ends.

    >>> Bernstein((0.0, 0.5, 0.0)).kappa(0.5)
    0.25
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.coefficients:
            raise ValueError("coefficients: expected one or more, got none")

    @_double
    def kappa(self, t: Array) -> Array:
        return _bernstein(self.coefficients, t)

    @_double
    def kappa_dot(self, t: Array) -> Array:
        c = self.coefficients
        rises = tuple((len(c) - 1) * (after - before) for before, after in pairwise(c))
        return _bernstein(rises or (0.0,), t)


@dataclass(frozen=True)
class Complement:
    """1 - kappa_t of a monotone schedule, as one component of a `Convex` schedule.

    >>> Complement(Linear()).kappa(0.25)
    0.75
    """

    schedule: Monotone

    def kappa(self, t: Array) -> Array:
        return self.schedule.one_minus_kappa(t)

    def kappa_dot(self, t: Array) -> Array:
        return -self.schedule.kappa_dot(t)


@dataclass(frozen=True)
class Convex:
    """The weights of m components as m functions; ValueError unless they are >= 0 and sum to 1 on all of [0, 1].

    Source: Gat et al. 2024, section 3 (the general mixture path).

    >>> path = Convex((Bernstein((1.0, 0.0, 0.0)), Bernstein((0.0, 1.0, 0.0)), Bernstein((0.0, 0.0, 1.0))))
    >>> path.kappas(0.5)
    (0.25, 0.5, 0.25)
    """

    components: tuple[Kappa, ...]

    def __post_init__(self) -> None:
        t = np.linspace(0, 1, 513)
        kappas = np.stack([k + 0 * t for k in self.kappas(t)])
        if not np.all(kappas >= -1e-12):
            raise ValueError(f"components: expected kappa >= 0, got {np.min(kappas):.3g}")
        if not np.all(np.abs(np.sum(kappas, axis=0) - 1) <= 1e-9):
            raise ValueError("components: expected kappas that sum to 1 at every t, got a sum off by "
                             f"{np.max(np.abs(np.sum(kappas, axis=0) - 1)):.3g}")  # fmt: skip

    def kappas(self, t: Array) -> tuple[Array, ...]:
        return tuple(component.kappa(t) for component in self.components)

    def kappa_dots(self, t: Array) -> tuple[Array, ...]:
        return tuple(component.kappa_dot(t) for component in self.components)


@dataclass(frozen=True)
class PerToken:
    """A schedule of its own for each of N tokens, all with the same m: t of float[..., 1] -> float[..., N].

    Source: Gat et al. 2024, section 3 (weights kappa^{i,j} of each token i).

    >>> PerToken((Linear(), Polynomial(2.0))).kappas(np.array([0.5]))[1]
    array([0.5 , 0.25])
    """

    schedules: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        counts = {len(schedule.kappas(0.5)) for schedule in self.schedules}
        if len(counts) != 1:
            raise ValueError(f"schedules: expected the same number of components for every token, got {counts}")

    def kappas(self, t: Array) -> tuple[Array, ...]:
        return _beside([schedule.kappas(t) for schedule in self.schedules])

    def kappa_dots(self, t: Array) -> tuple[Array, ...]:
        return _beside([schedule.kappa_dots(t) for schedule in self.schedules])


@dataclass(frozen=True)
class Reclocked:
    """A model trained on one schedule, to be sampled with another: asked at the time at which its kappa is the same.

    The posterior of a two-component path depends on the time through kappa alone, hence is that of the other path
    exactly. It has `at` where the model has. TypeError unless both schedules are monotone.
    Source: Lipman et al. 2024 (post-training scheduler change); Shaul et al. 2023, "Bespoke solvers".

    >>> Reclocked(lambda x_t, t: t, trained=Polynomial(2.0), sampled=Linear())(None, np.array([0.25]))
    array([0.5])
    """

    model: Model
    trained: Monotone
    sampled: Monotone

    def __post_init__(self) -> None:
        for name in ("trained", "sampled"):
            if not isinstance(getattr(self, name), Monotone):
                raise TypeError(f"{name}: expected a monotone schedule, got {getattr(self, name)}")

    def __call__(self, x_t: Array, t: Array) -> Any:
        return self.model(x_t, self.time(t))

    @property
    def at(self) -> Callable[[Array, Array, Array], Any]:
        """The logits at chosen tokens; AttributeError where the model has none of them."""
        at: Callable[..., Any] = self.model.at  # type: ignore[attr-defined]  # missing here where it is missing there
        return lambda x_t, t, sites: at(x_t, self.time(t), sites)

    def time(self, t: Array) -> Array:
        """The time of the trained schedule at which it has the weights of the sampled one at t."""
        if self.trained == self.sampled:
            return t
        xp = namespace(t)
        rest, kappa = self.sampled.kappas(t)
        early, late = self.trained.inverse(kappa), self.trained.inverse_complement(rest)
        return xp.where(kappa < rest, early, late)


def _beside(tokens: list[tuple[Array, ...]]) -> tuple[Array, ...]:
    """The weights of N tokens, each m arrays of shape [..., 1] (or numbers), as m arrays of shape [..., N]."""
    xp = namespace(*tokens[0])
    columns = [[k if getattr(k, "ndim", 0) else xp.asarray([k]) for k in js] for js in zip(*tokens, strict=True)]
    return tuple(xp.concat(xp.broadcast_arrays(*js), axis=-1) for js in columns)


def _bernstein(coefficients: tuple[float, ...], t: Array) -> Array:
    n = len(coefficients) - 1
    terms = (c * math.comb(n, k) * t**k * (1 - t) ** (n - k) for k, c in enumerate(coefficients) if c)
    return sum(terms, 0.0 * t)


@lru_cache(maxsize=64)
def _pchip(times: tuple[float, ...], values: tuple[float, ...]) -> Any:
    """Of each interval the coefficients of kappa and 1 - kappa for `_cubic`, of kappa_dot for `_quadratic`: [., 13].

    By fractions, each rounded once: near an end the difference of a value and a slope is all that is left of them.
    """
    t, y = ([Fraction(x) for x in grid] for grid in (times, values))
    h = [after - before for before, after in pairwise(t)]
    rises = [(after - before) / width for (before, after), width in zip(pairwise(y), h, strict=True)]
    rows = []
    for i, (first, last) in enumerate(pairwise(_slopes(h, rises))):
        low, inner, outer, high = y[i], y[i] + h[i] * first / 3, y[i + 1] - h[i] * last / 3, y[i + 1]
        cubics = (low, 3 * inner, 3 * outer, high, 1 - low, 3 - 3 * inner, 3 - 3 * outer, 1 - high)
        rows.append([*map(float, cubics), *_squares(first, 6 * (outer - inner) / h[i], last)])
    return np.asarray(rows)


def _slopes(h: list[Fraction], rises: list[Fraction]) -> list[Fraction]:
    """The slopes at the knots: a weighted harmonic mean of the rises beside each, and a parabola's at the ends."""
    if len(h) == 1:
        return rises * 2
    weights = [(2 * after + before, after + 2 * before) for before, after in pairwise(h)]
    inner = [
        (v + w) / (v / before + w / after) for (v, w), (before, after) in zip(weights, pairwise(rises), strict=True)
    ]
    start, end = (rises[i] + h[i] * (rises[i] - rises[j]) / (h[i] + h[j]) for i, j in ((0, 1), (-1, -2)))
    return [max(start, Fraction(0)), *inner, max(end, Fraction(0))]


def _cubic(coefficients: Any, r: Array, s: Array) -> Array:
    """a r^3 + b r^2 s + c r s^2 + d s^3, a weight: rounding must not lift it above 1."""
    a, b, c, d = coefficients
    return namespace(r).minimum(a * r**3 + s * (b * r**2 + s * (c * r + d * s)), 1.0 + 0.0 * r)


def _squares(a: Fraction, middle: Fraction, b: Fraction) -> tuple[float, ...]:
    """The coefficients of `_quadratic` for a r^2 + middle r s + b s^2 >= 0: no difference but inside of a square."""
    if middle >= 0:
        return float(a), float(middle), float(b), 0.0, 0.0
    p, q = math.sqrt(a), math.sqrt(b)
    rest = (4 * a * b - middle**2) / (2 * Fraction(p) * Fraction(q) - middle)
    return 0.0, max(0.0, float(rest)), 0.0, p, q


def _quadratic(coefficients: Any, r: Array, s: Array) -> Array:
    a, middle, b, p, q = coefficients
    return a * r**2 + middle * r * s + b * s**2 + (p * r - q * s) ** 2


def _bisect(schedule: Monotone, kappa: Array, rest: Array) -> Array:
    """The time of the weights kappa and rest: its binary exponent, then 53 halvings, all digits near 0 too."""
    xp = namespace(kappa)
    kappa, rest = xp.asarray(kappa), xp.asarray(rest)

    def early(t: Array) -> Array:
        return xp.where(kappa < rest, schedule.kappa(t) < kappa, schedule.one_minus_kappa(t) > rest)

    few, many = xp.zeros_like(kappa), xp.full_like(kappa, 1022.0)
    for _ in range(10):
        exponent = xp.floor((few + many) / 2)
        enough = early(2.0**-exponent)
        few, many = xp.where(enough, few, exponent), xp.where(enough, exponent, many)
    low, high = 2.0**-many, 2.0**-few
    for _ in range(53):
        middle = (low + high) / 2
        before = early(middle)
        low, high = xp.where(before, middle, low), xp.where(before, high, middle)
    return xp.where(kappa > 0, high, 0.0 * kappa)
