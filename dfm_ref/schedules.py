"""Schedules kappa_t: how much of each component a path holds at time t.

A path of m components has m non-negative functions of t that sum to 1. A `Monotone` schedule is the case m = 2: one
function kappa from 0 to 1, and its complement, carried as a function of its own because 1 - kappa by subtraction
has no correct digits near t = 1. All functions act elementwise on a time, a number or float[...]; `PerToken`
widens a last axis of 1 to the tokens. Times in [0, 1]; kappa_dot per unit of t.

Source: Gat et al. 2024, section 3 (mixture paths; the cubic schedule in section 3.3 and its experiments).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from .arrays import namespace
from .protocols import Array

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
    "Schedule",
]


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

    def inverse(self, k: Array) -> Array:
        """The time at which kappa_t = k, for k in [0, 1]."""
        return _bisect(self, k)

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

    def kappa(self, t: Array) -> Array:
        return 1.0 * t

    def kappa_dot(self, t: Array) -> Array:
        return 0.0 * t + 1.0

    def one_minus_kappa(self, t: Array) -> Array:
        return 1.0 - t

    def inverse(self, k: Array) -> Array:
        return 1.0 * k


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

    def kappa(self, t: Array) -> Array:
        return t**self.exponent

    def kappa_dot(self, t: Array) -> Array:
        xp = namespace(t)
        t = xp.asarray(t)
        rate = self.exponent * xp.where(t > 0, t, xp.ones_like(t)) ** (self.exponent - 1.0)
        start = math.inf if self.exponent < 1 else float(self.exponent == 1)
        return xp.where(t > 0, rate, xp.full_like(t, start))

    def one_minus_kappa(self, t: Array) -> Array:
        xp = namespace(t)
        t = xp.asarray(t)
        later = xp.where(t > 0, t, xp.ones_like(t))
        return xp.where(t > 0, -xp.expm1(self.exponent * xp.log(later)), xp.ones_like(t))

    def inverse(self, k: Array) -> Array:
        return k ** (1.0 / self.exponent)


@dataclass(frozen=True)
class Cosine(Monotone):
    """kappa_t = sin(pi t / 2)**2 = (1 - cos(pi t)) / 2.

    >>> round(float(Cosine().kappa(0.5)), 12)
    0.5
    """

    def kappa(self, t: Array) -> Array:
        return namespace(t).sin((math.pi / 2) * t) ** 2

    def kappa_dot(self, t: Array) -> Array:
        xp = namespace(t)  # pi sin cos with each factor exact at its own zero: sin(pi t) is not, at t = 1
        return math.pi * xp.sin((math.pi / 2) * t) * xp.sin((math.pi / 2) * (1 - t))

    def one_minus_kappa(self, t: Array) -> Array:
        return self.kappa(1 - t)  # 1 - t is exact from 1/2 on, where cos(pi t / 2) would lose its digits

    def inverse(self, k: Array) -> Array:
        xp = namespace(k)
        return (2 / math.pi) * xp.asin(xp.sqrt(k))


@dataclass(frozen=True)
class CubicHermite(Monotone):
    """kappa_t = -2t^3 + 3t^2 + a(t^3 - 2t^2 + t) + b(t^3 - t^2): the cubic with slopes a at t = 0 and b at t = 1.

    Increasing where a, b >= 0 and a + b <= 3 or (a + b - 3)^2 <= a b; anything else is a ValueError.

    >>> CubicHermite(a=1.0, b=1.0).kappa(0.25)
    0.25
    """

    a: float = 0.0
    b: float = 0.0

    def __post_init__(self) -> None:
        a, b = self.a, self.b
        if not (0 <= a < math.inf and 0 <= b < math.inf and (a + b <= 3 or (a + b - 3) ** 2 <= a * b)):
            raise ValueError(f"a, b: expected the slopes of an increasing cubic, got a={a}, b={b}")

    def kappa(self, t: Array) -> Array:
        return t * (self.a * (1 - t) ** 2 + t * ((3 - self.b) * (1 - t) + t))

    def kappa_dot(self, t: Array) -> Array:
        return self.a * (1 - t) ** 2 + 2 * (3 - self.a - self.b) * t * (1 - t) + self.b * t**2

    def one_minus_kappa(self, t: Array) -> Array:
        return (1 - t) * (self.b * t**2 + (1 - t) * ((3 - self.a) * t + (1 - t)))


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

    def kappa(self, t: Array) -> Array:
        return _bernstein(self.coefficients, t)

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


def _beside(tokens: list[tuple[Array, ...]]) -> tuple[Array, ...]:
    """The weights of N tokens, each m arrays of shape [..., 1] (or numbers), as m arrays of shape [..., N]."""
    xp = namespace(*tokens[0])
    columns = [[k if getattr(k, "ndim", 0) else xp.asarray([k]) for k in js] for js in zip(*tokens, strict=True)]
    return tuple(xp.concat(xp.broadcast_arrays(*js), axis=-1) for js in columns)


def _bernstein(coefficients: tuple[float, ...], t: Array) -> Array:
    n = len(coefficients) - 1
    terms = (c * math.comb(n, k) * t**k * (1 - t) ** (n - k) for k, c in enumerate(coefficients) if c)
    return sum(terms, 0.0 * t)


def _bisect(schedule: Monotone, k: Array) -> Array:
    """The root of kappa_t = k: 64 halvings of [0, 1]."""
    xp = namespace(k)
    k = xp.asarray(k)
    low, high = xp.zeros_like(k), xp.ones_like(k)
    for _ in range(64):
        middle = (low + high) / 2
        below = schedule.kappa(middle) < k
        low, high = xp.where(below, middle, low), xp.where(below, high, middle)
    return high
