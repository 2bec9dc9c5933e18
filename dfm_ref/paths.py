"""Probability paths: the law p_t(.|x_0, x_1) of each token on its way from x_0 to x_1.

A mixture path holds m components, PMFs w^j(.|x_0, x_1), with the weights of its schedule:
p_t(x^i|x_0, x_1) = sum_j kappa_t^{i,j} w^j(x^i|x_0, x_1), independently over the tokens i given the pair.
Source: Gat et al. 2024, section 3 (eq. for p_t with m components).
"""

import math
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

import numpy as np

from . import random
from .arrays import like, namespace, one_hot
from .checks import distributions, same_shape
from .protocols import Array, Key
from .schedules import Linear, PerToken, Schedule

__all__ = [
    "X0",
    "X1",
    "Component",
    "Fixed",
    "Mixture",
    "Table",
    "component_pmfs",
    "per_token",
    "pmf",
    "pmf_at",
    "pmf_rows",
    "reveal",
    "sample",
]


class Component(Protocol):
    """One component w(.|x_0, x_1) of a mixture path."""

    def pmf(self, x_0: Array, x_1: Array, vocab_size: int) -> Array:
        """float64[..., N, V]."""

    def draw(self, x_0: Array, x_1: Array, u: Array) -> Array:
        """A token of this law for each site, from its uniform: int[..., N]."""


@dataclass(frozen=True)
class X0:
    """The point mass at the source token, w = delta_{x_0^i}."""

    def pmf(self, x_0: Array, x_1: Array, vocab_size: int) -> Array:
        return one_hot(x_0, vocab_size)

    def draw(self, x_0: Array, x_1: Array, u: Array) -> Array:
        return x_0


@dataclass(frozen=True)
class X1:
    """The point mass at the data token, w = delta_{x_1^i}."""

    def pmf(self, x_0: Array, x_1: Array, vocab_size: int) -> Array:
        return one_hot(x_1, vocab_size)

    def draw(self, x_0: Array, x_1: Array, u: Array) -> Array:
        return x_1


@dataclass(frozen=True)
class Fixed:
    """A PMF that depends on no pair: V probabilities, or one row for each of N tokens.

    >>> Fixed(probs=(0.5, 0.5)).pmf(np.array([0]), np.array([1]), 2)
    array([[0.5, 0.5]])
    """

    probs: tuple[float, ...] | tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        distributions("probs", np.asarray(self.probs, dtype=np.float64))

    def rows(self, sites: Array, length: int) -> Array:
        """The PMF of the token at each flat site of a batch, float64[E, V], or float64[V] where all have one."""
        probs = np.asarray(self.probs, dtype=np.float64)
        return pmf_at("probs", probs, sites, (length, probs.shape[-1]))

    def pmf(self, x_0: Array, x_1: Array, vocab_size: int) -> Array:
        return pmf_rows("probs", np.asarray(self.probs, dtype=np.float64), x_1, (*x_1.shape, vocab_size))

    def draw(self, x_0: Array, x_1: Array, u: Array) -> Array:
        xp = namespace(u)
        rows = self.rows(random.sites((math.prod(u.shape),), xp=xp), x_1.shape[-1])
        return xp.reshape(random.choose(rows, xp.reshape(u, (-1,))), u.shape)


@dataclass(frozen=True)
class Table:
    """A PMF for every pair of tokens: probs[x_0^i][x_1^i][x^i].

    >>> Table((((1.0, 0.0), (0.5, 0.5)), ((0.5, 0.5), (0.0, 1.0)))).pmf(np.array([0]), np.array([1]), 2)
    array([[0.5, 0.5]])
    """

    probs: tuple[tuple[tuple[float, ...], ...], ...]

    def __post_init__(self) -> None:
        distributions("probs", np.asarray(self.probs, dtype=np.float64))
        shape = np.shape(self.probs)
        if shape != (shape[-1],) * 3:
            raise ValueError(f"probs: expected a PMF for every pair of tokens, [V, V, V], got the shape {shape}")

    def pmf(self, x_0: Array, x_1: Array, vocab_size: int) -> Array:
        if vocab_size != len(self.probs):
            raise ValueError(f"vocab_size: expected {len(self.probs)}, that of the table, got {vocab_size}")
        xp = namespace(x_0, x_1)
        rows = xp.reshape(like(x_1, np.asarray(self.probs, dtype=np.float64)), (-1, vocab_size))
        x_0, x_1 = xp.astype(x_0, xp.int64), xp.astype(x_1, xp.int64)  # small integers would overflow
        return xp.reshape(xp.take(rows, xp.reshape(x_0 * vocab_size + x_1, (-1,)), axis=0), (*x_1.shape, vocab_size))

    def draw(self, x_0: Array, x_1: Array, u: Array) -> Array:
        return random.choose(self.pmf(x_0, x_1, np.shape(self.probs)[-1]), u)


@dataclass(frozen=True)
class Mixture:
    """A mixture path: a schedule of m weights, shared or per token, over m components.

    `mask` names the mask token, the last of the vocabulary, of a path between X0 and X1 whose source is masked: a
    token that is not the mask is known to be x_1's, so that samplers leave it alone. ValueError unless the weights fit
    the components and meet the boundary conditions: X0 alone at t = 0, X1 alone at t = 1.
    Source: Gat et al. 2024, section 3 (the general mixture path).

    >>> Mixture(Linear(), mask=3)
    Mixture(schedule=Linear(), components=(X0(), X1()), mask=3)
    """

    schedule: Schedule = field(default_factory=Linear)
    components: tuple[Component, ...] = (X0(), X1())
    mask: int | None = None

    def __post_init__(self) -> None:
        if self.mask is not None and self.components != (X0(), X1()):
            raise ValueError(f"mask: expected the components (X0(), X1()), got {self.components}")
        if self.mask is not None and np.any(self.schedule.kappa_dots(np.linspace(0, 1, 513)[:, None])[1] < 0):
            raise ValueError(f"mask: expected a schedule that never hides a token again, got {self.schedule}")
        for t, kind in ((0.0, X0), (1.0, X1)):
            weights = self.schedule.kappas(np.asarray([t]))
            if len(weights) != len(self.components):
                raise ValueError(f"components: expected {len(weights)}, one a weight of the schedule, "
                                 f"got {len(self.components)}")  # fmt: skip
            rest = [w for w, c in zip(weights, self.components, strict=True) if not isinstance(c, kind)]
            if any(np.any(np.abs(w) > 1e-9) for w in rest):
                raise ValueError(f"schedule: expected all weight on {kind.__name__} at t = {t:g}")


def component_pmfs(path: Mixture, x_0: Array, x_1: Array, *, vocab_size: int) -> tuple[Array, ...]:
    """w^j(.|x_0, x_1) for each of the m components, float64[..., N, V].

    >>> [w.tolist() for w in component_pmfs(Mixture(), np.array([0]), np.array([1]), vocab_size=2)]
    [[[1.0, 0.0]], [[0.0, 1.0]]]
    """
    same_shape(x_0=x_0, x_1=x_1)
    return tuple(component.pmf(x_0, x_1, vocab_size) for component in path.components)


def pmf(path: Mixture, x_0: Array, x_1: Array, t: Array, *, vocab_size: int) -> Array:
    """p_t(.|x_0, x_1) of each token: int[..., N] twice, t a number or float[...] -> float64[..., N, V].

    Source: Gat et al. 2024, section 3 (the general mixture path).

    >>> pmf(Mixture(), np.array([0]), np.array([1]), 0.25, vocab_size=2)
    array([[0.75, 0.25]])
    """
    w = component_pmfs(path, x_0, x_1, vocab_size=vocab_size)
    kappas = path.schedule.kappas(per_token(t, x_1, schedule=path.schedule))
    return sum(kappa[..., None] * w_j for kappa, w_j in zip(kappas, w, strict=True))


def sample(path: Mixture, key: Key, x_0: Array, x_1: Array, t: Array, *, first: int = 0) -> Array:
    """x_t ~ p_t(.|x_0, x_1), int[..., N]: a coin chooses each token's component, which then draws.

    Token i of sequence b draws at the sites 2((first + b) N + i), the coin, and one more, the value. No array over
    the vocabulary is built where components are point masses.

    >>> sample(Mixture(), Key(0, 1), np.array([[0, 0, 0, 0]]), np.array([[1, 1, 1, 1]]), 0.5)
    array([[0, 1, 0, 1]])
    """
    same_shape(x_0=x_0, x_1=x_1)
    xp = namespace(x_0, x_1)
    sites = 2 * random.sites(tuple(x_1.shape), first=first * x_1.shape[-1], xp=xp)
    coin = random.uniform_at(key, sites)
    point_masses = all(isinstance(component, X0 | X1) for component in path.components)
    value = coin if point_masses else random.uniform_at(key, sites + 1)
    levels = list(accumulate(path.schedule.kappas(per_token(t, x_1, schedule=path.schedule))))
    x_t = path.components[-1].draw(x_0, x_1, value)
    for level, component in reversed(list(zip(levels[:-1], path.components[:-1], strict=True))):
        x_t = xp.where(coin < level, component.draw(x_0, x_1, value), x_t)
    return xp.astype(x_t, x_1.dtype, copy=False)


def reveal(path: Mixture, logits: Array, x_t: Array) -> Array:
    """What a mask path knows of the posterior of X1, in any logits, float[..., N, V] (or V - 1, without the mask).

    The mask is impossible, and a token that is not the mask is a point mass on itself. Other paths: the logits.
    Source: Gat et al. 2024, the masked source; Sahoo et al. 2024.

    >>> reveal(Mixture(mask=2), np.zeros((2, 3)), np.array([2, 1]))
    array([[  0.,   0., -inf],
           [-inf,   0., -inf]])
    """
    if path.mask is None:
        return logits
    xp = namespace(logits)
    tokens = like(x_t, np.arange(path.mask + 1), x_t.dtype)
    logits = xp.concat([logits[..., : path.mask], xp.zeros_like(logits[..., :1])], axis=-1)
    hidden = (x_t == path.mask)[..., None]
    possible = xp.where(hidden, tokens != path.mask, tokens == x_t[..., None])
    return xp.where(possible, xp.where(hidden, logits, xp.zeros_like(logits)), -xp.inf)


def per_token(t: Array, x: Array, *, schedule: Schedule | None = None) -> Array:
    """Times beside the tokens of x, int[..., N]: a number or float[...] -> float64[..., 1], in x's library.

    Raises ValueError unless there is one time, or one for each sequence; and unless the schedule that is to be asked at
    these times, if it is given and has one for each token, has N.

    >>> per_token(np.array([0.25, 0.5]), np.array([[0, 1], [1, 1]]))
    array([[0.25],
           [0.5 ]])
    """
    xp = namespace(x)
    t = like(x, t, xp.float64)
    if t.ndim and tuple(t.shape) != tuple(x.shape[:-1]):
        raise ValueError(f"t: expected a number or the shape {tuple(x.shape[:-1])}, got {tuple(t.shape)}")
    if isinstance(schedule, PerToken) and len(schedule.schedules) != x.shape[-1]:
        raise ValueError(f"schedule: expected one for each of {x.shape[-1]} tokens, got {len(schedule.schedules)}")
    return t[..., None]


def pmf_rows(name: str, probs: Array, x: Array, shape: tuple[int, ...]) -> Array:
    """A PMF of all tokens, [V], of each of N, [N, V], or all rows of a table, as float64[..., N, V] in x's library.

    Raises ValueError for another shape, whose rows would be broadcast.

    >>> pmf_rows("source_pmf", np.ones(1), np.zeros(2), (2, 3))
    Traceback (most recent call last):
    ValueError: source_pmf: expected the shape (3,) or (2, 3), got (1,)
    """
    return namespace(x).broadcast_to(_pmfs(name, probs, x, shape), shape)


def pmf_at(name: str, probs: Array, sites: Array, shape: tuple[int, int]) -> Array:
    """A PMF [V] as it is, or the rows of [N, V] at flat sites int64[E] of a batch, float64[E, V]; shape is (N, V).

    Raises ValueError for another shape.

    >>> pmf_at("source_pmf", np.eye(2), np.array([3]), (2, 2))
    array([[0., 1.]])
    """
    probs = _pmfs(name, probs, sites, shape)
    return probs if probs.ndim == 1 else namespace(sites).take(probs, sites % shape[0], axis=0)


def _pmfs(name: str, probs: Array, x: Array, shape: tuple[int, ...]) -> Array:
    probs, shape = like(x, probs, namespace(x).float64), tuple(shape)
    if tuple(probs.shape) not in (shape[-1:], shape[-2:], shape):
        raise ValueError(f"{name}: expected the shape {shape[-1:]} or {shape[-2:]}, got {tuple(probs.shape)}")
    return probs
