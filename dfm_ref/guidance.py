"""Guidance and shaping: sampling from another law than the one that was learned, on purpose.

Guidance by two models (classifier-free) comes in two spaces. With g the strength, off the diagonal

- of rates: u_g = u_c^g u_u^(1-g);
- of posteriors: p_g proportional to p_c^g p_u^(1-g), and the path's own velocity of p_g.

On a mixture path, at a hidden token, the first is Z times the second, Z = sum_x p_c(x)^g p_u(x)^(1-g), a factor on the
clock: where Z is constant a mask path reveals a token by t with probability 1 - (1 - kappa_t)^Z in rate space, with
kappa_t in posterior space. g = 1 is the conditional model, g = 0 the unconditional one, and what some call the weight
w is g - 1. Guidance by a predictor of a property y multiplies the rate to each neighbour by a ratio of p(y|.).

Which laws are given up is said by each function. None gives up that rates are >= 0 and rows of velocities sum to 0, and
what works on logits leaves the events, their times and weights, as they were.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from .arrays import like, log, logsumexp, namespace, one_hot, pick
from .checks import same_shape
from .protocols import Array, Model

__all__ = [
    "Guided",
    "Hidden",
    "Labelled",
    "Shaped",
    "Steered",
    "ban",
    "by_predictor",
    "neighbours",
    "of_posteriors",
    "of_rates",
    "ratios",
    "taylor_ratios",
    "temper",
    "top_p",
]

_SLACK = 1e-12  # how much of its mass a nucleus may lack by rounding


def of_rates(u_c: Array, u_u: Array, x_t: Array, *, strength: float) -> Array:
    """u_c^g u_u^(1-g) off the diagonal, which is minus the sum of the rest: two velocities and one, float[..., N, V].

    Gives up: the path p_t, the data's law and the path's clock, see above; at g = 1 nothing. A rate that is 0 in one
    of the two is 0, for 0 < g < 1. ValueError for g < 0, and for g > 1 where u_u = 0 < u_c.
    Source: Nisonoff et al. 2024 (rates); Ho and Salimans 2022.

    >>> u_c, u_u = np.array([[-4.0, 4.0, 0.0]]), np.array([[-3.0, 2.0, 1.0]])
    >>> of_rates(u_c, u_u, np.array([0]), strength=2.0)
    array([[-8.,  8.,  0.]])
    """
    same_shape(u_c=u_c, u_u=u_u)
    xp = namespace(u_c, u_u)
    return _with_diagonal(xp.exp(_geometric(log(u_c), log(u_u), strength, "rate")), x_t)


def of_posteriors(logits_c: Array, logits_u: Array, *, strength: float) -> Array:
    """Logits of p_c^g p_u^(1-g), up to a constant a row: float[..., V] twice -> float64[..., V].

    Gives up: the path p_t and the data's law, at g = 1 nothing; the clock is the path's. Logits of a mask path's mask
    have no say in the rest: like any model's they are left out where values are drawn (`paths.reveal`).
    A token that is impossible in one of the two is impossible, for 0 < g < 1. ValueError for g < 0, for g > 1 where
    p_u = 0 < p_c, and where no token is possible in both.
    Source: Ho and Salimans 2022; Schiff et al. 2024, for discrete tokens.

    >>> p_c, p_u = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    >>> weights = np.exp(of_posteriors(np.log(p_c), np.log(p_u), strength=2.0))
    >>> weights / weights.sum()
    array([0.75, 0.25])
    """
    same_shape(logits_c=logits_c, logits_u=logits_u)
    xp = namespace(logits_c, logits_u)
    wide_c, wide_u = (xp.astype(logits, xp.float64) for logits in (logits_c, logits_u))
    logits = _geometric(wide_c, wide_u, strength, "probability")
    if not bool(xp.all(xp.any(logits > -inf, axis=-1))):
        raise ValueError("logits_c, logits_u: expected a token that is possible in both")
    return logits


def neighbours(x_t: Array, *, vocab_size: int) -> Array:
    """The states that differ from x_t in one token: int[..., N] -> int[..., N, V - 1, N], by place and new token.

    >>> neighbours(np.array([0, 2]), vocab_size=3).tolist()
    [[[1, 2], [2, 2]], [[0, 0], [0, 1]]]
    """
    xp, length = namespace(x_t), x_t.shape[-1]
    new = like(x_t, np.arange(vocab_size - 1), x_t.dtype)
    new = new + xp.astype(new >= x_t[..., None], x_t.dtype)  # int[..., N, V - 1]: all but the token that is there
    changed = like(x_t, np.eye(length, dtype=bool))[:, None, :]
    return xp.where(changed, new[..., None], x_t[..., None, None, :])


def ratios(predictor: Callable[[Array, Array], Array], x_t: Array, t: Array, *, vocab_size: int) -> Array:
    """log p(y|x) / p(y|x_t) of every neighbour x of x_t, float64[B, N, V], 0 at x_t itself.

    predictor(x_t, t) -> log p(y|x_t), float[B], is called once, on all B (N (V - 1) + 1) states. Where p(y|x_t) = 0
    no ratio is defined: it is taken for 1, so that such a state moves as if unguided.

    >>> counts = lambda x, t: np.log(1.0 + (x == 1).sum(-1))
    >>> np.exp(ratios(counts, np.array([[0, 1]]), np.array([0.5]), vocab_size=2))
    array([[[1. , 1.5],
            [0.5, 1. ]]])
    """
    xp, (batch, length) = namespace(x_t), x_t.shape
    around = xp.reshape(neighbours(x_t, vocab_size=vocab_size), (batch, length * (vocab_size - 1), length))
    states = xp.concat([x_t[:, None, :], around], axis=1)
    times = xp.broadcast_to(like(x_t, t, xp.float64)[..., None], (batch, states.shape[1]))
    log_p = xp.astype(predictor(xp.reshape(states, (-1, length)), xp.reshape(times, (-1,))), xp.float64)
    log_p = xp.reshape(log_p, times.shape)
    here, there = log_p[:, :1], log_p[:, 1:]
    known = here > -inf
    change = xp.where(known, there - xp.where(known, here, 0.0), 0.0)
    change = xp.concat(  # the token that is there comes last, and is then moved to its place
        [xp.reshape(change, (batch, length, vocab_size - 1)), xp.zeros((batch, length, 1), dtype=xp.float64)], axis=-1
    )
    v = like(x_t, np.arange(vocab_size), xp.int64)
    x = xp.astype(x_t, xp.int64)[..., None]
    return xp.take_along_axis(change, xp.where(v == x, vocab_size - 1, v - xp.astype(v > x, xp.int64)), axis=-1)


def taylor_ratios(gradient: Callable[[Array, Array], Array], x_t: Array, t: Array) -> Array:
    """The first-order form of `ratios`, float[B, N, V]: d_{i,v} - d_{i,x^i} for the gradient d of log p(y|x_t).

    gradient(x_t, t) -> float[B, N, V] differentiates log p(y|.), written as a function of one-hot tokens, at x_t: one
    call instead of N (V - 1) + 1 states. Equal to `ratios` where log p(y|.) is linear in the one-hot tokens.
    Source: Nisonoff et al. 2024, the Taylor approximation of predictor guidance.

    >>> taylor_ratios(lambda x, t: np.array([[[1.0, 3.0]]]), np.array([[0]]), np.array([0.5]))
    array([[[0., 2.]]])
    """
    d = gradient(x_t, t)
    return d - pick(d, x_t)[..., None]


def by_predictor(u: Array, log_ratios: Array, x_t: Array, *, strength: float) -> Array:
    """u (p(y|x) / p(y|x_t))^g for each one-token neighbour x, the diagonal minus the sum of the rest: float[..., N, V].

    log_ratios are of `ratios` or `taylor_ratios`. At g = 1 with the true p(y|x_t) this is Doob's transform: on a mask
    path with an independent or prompted coupling, the velocity of p_t(.|y). Gives up otherwise: the path, also at g = 1
    where u is not the time reversal of a Markov noising (a uniform source: p(y|x_t) does not solve the backward
    equation of u), and the clock. ValueError for g < 0. Source: Nisonoff et al. 2024, predictor guidance.

    >>> by_predictor(np.array([[-2.0, 2.0]]), np.log([[1.0, 1.5]]), np.array([0]), strength=1.0)
    array([[-3.,  3.]])
    """
    same_shape(u=u, log_ratios=log_ratios)
    _strength(strength)
    xp = namespace(u, log_ratios)
    factor = xp.exp(strength * log_ratios) if strength > 0 else xp.ones_like(log_ratios)  # 0^0 = 1
    return _with_diagonal(u * (1 - one_hot(x_t, u.shape[-1])) * factor, x_t)


def temper(logits: Array, *, temperature: float) -> Array:
    """Logits of p^(1/temperature), up to a constant a row: float[..., V] -> float64[..., V].

    Below 1 sharper, above 1 flatter, at 1 unchanged. Gives up: the path p_t and the data's law. ValueError unless the
    temperature is a number > 0. Source: Ackley et al. 1985 (Boltzmann machines).

    >>> weights = np.exp(temper(np.log([0.25, 0.75]), temperature=0.5))
    >>> weights / weights.sum()
    array([0.1, 0.9])
    """
    if not 0 < temperature < inf:
        raise ValueError(f"temperature: expected a number > 0, got {temperature}")
    if temperature == 1:
        return logits
    xp = namespace(logits)
    logits = xp.astype(logits, xp.float64)
    return (logits - xp.max(logits, axis=-1, keepdims=True)) / temperature


def top_p(logits: Array, *, p: float) -> Array:
    """The logits of the nucleus, the rest -inf: the fewest most probable tokens of mass >= p, float[..., V].

    Of equally probable tokens the first of the vocabulary goes first; masses are compared to within 1e-12. At p = 1
    nothing changes. Gives up: the path p_t, the data's law and its support. ValueError unless 0 < p <= 1.
    Source: Holtzman et al. 2020, nucleus sampling.

    >>> top_p(np.log([0.25, 0.5, 0.25]), p=0.6)
    array([-1.38629436, -0.69314718,        -inf])
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p: expected a mass in (0, 1], got {p}")
    if p == 1:
        return logits
    xp = namespace(logits)
    wide = xp.astype(logits, xp.float64)
    probs = xp.exp(wide - logsumexp(wide)[..., None])
    order = xp.argsort(-probs, axis=-1, stable=True)
    falling = xp.take_along_axis(probs, order, axis=-1)
    before = xp.cumulative_sum(falling, axis=-1) - falling
    kept = xp.take_along_axis(before < max(p - _SLACK, _SLACK), xp.argsort(order, axis=-1), axis=-1)
    return xp.where(kept, logits, -inf)


def ban(logits: Array, *, tokens: tuple[int, ...]) -> Array:
    """The logits with some tokens impossible, -inf: float[..., V] -> float[..., V].

    Gives up: the path p_t, the data's law and its support. ValueError for a token outside [0, V), and where no token
    is left that is possible.

    >>> ban(np.zeros(3), tokens=(1,))
    array([  0., -inf,   0.])
    """
    vocab_size = logits.shape[-1]
    if outside := [v for v in tokens if not 0 <= v < vocab_size]:
        raise ValueError(f"banned: expected tokens in [0, {vocab_size}), got {outside[0]}")
    if not tokens:
        return logits
    xp = namespace(logits)
    logits = xp.where(like(logits, np.isin(np.arange(vocab_size), tokens)), -inf, logits)
    if not bool(xp.all(xp.any(logits > -inf, axis=-1))):
        raise ValueError(f"banned: expected at least one possible token that is not banned, got {len(set(tokens))}")
    return logits


# Models made of models, which samplers take. Each offers `at` where what it is made of does.


@dataclass(frozen=True)
class Guided:
    """Two models guided in posterior space, see `of_posteriors`; of tuples each component's posterior.

    >>> sure, unsure = lambda x_t, t: np.array([[[0.0, 3.0]]]), lambda x_t, t: np.array([[[0.0, 1.0]]])
    >>> Guided(sure, unsure, strength=2.0)(np.array([[0]]), np.array([0.5]))
    array([[[0., 5.]]])
    """

    conditional: Model
    unconditional: Model
    strength: float

    def __post_init__(self) -> None:
        _strength(self.strength)

    def __call__(self, x_t: Array, t: Array) -> Any:
        return self._blend(self.conditional(x_t, t), self.unconditional(x_t, t))

    @property
    def at(self) -> Callable[[Array, Array, Array], Any]:
        """The logits at chosen tokens; AttributeError where one of the models has none of them."""
        one, other = _at(self.conditional), _at(self.unconditional)
        return lambda x_t, t, sites: self._blend(one(x_t, t, sites), other(x_t, t, sites))

    def _blend(self, logits_c: Any, logits_u: Any) -> Any:
        return _each(lambda *logits: of_posteriors(*logits, strength=self.strength), logits_c, logits_u)


@dataclass(frozen=True)
class Shaped:
    """A model whose posteriors are shaped: tokens banned, then `temper`, then `top_p`.

    Ban the mask of a mask path too where its logits are not -inf: a nucleus would count its mass.

    >>> Shaped(lambda x_t, t: np.zeros((1, 1, 3)), temperature=2.0, banned=(0,))(np.array([[0]]), np.array([0.0]))
    array([[[-inf,   0.,   0.]]])
    """

    model: Model
    temperature: float = 1.0
    top_p: float = 1.0
    banned: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        one = np.zeros(1)
        top_p(temper(one, temperature=self.temperature), p=self.top_p)  # says now what the first call would

    def __call__(self, x_t: Array, t: Array) -> Any:
        return _each(self._shape, self.model(x_t, t))

    @property
    def at(self) -> Callable[[Array, Array, Array], Any]:
        """The logits at chosen tokens; AttributeError where the model has none of them."""
        at = _at(self.model)
        return lambda x_t, t, sites: _each(self._shape, at(x_t, t, sites))

    def _shape(self, logits: Array) -> Array:
        return top_p(temper(ban(logits, tokens=self.banned), temperature=self.temperature), p=self.top_p)


@dataclass(frozen=True)
class Steered:
    """A model of X1 alone steered by a predictor: logits + strength x log_ratios(x_t, t), float[B, N, V].

    On a mask path this is guidance in posterior space: at strength 1 with the true ratios it samples from the law of
    the data given y, as `by_predictor` does, because then the sum of p_1 times the ratios is 1. Gives up otherwise:
    the path p_t and the data's law. log_ratios is `ratios` or `taylor_ratios` with its first argument bound.

    >>> steered = Steered(lambda x_t, t: np.zeros((1, 1, 2)), lambda x_t, t: np.array([[[0.0, 1.0]]]), strength=2.0)
    >>> steered(np.array([[0]]), np.array([0.0]))
    array([[[0., 2.]]])
    """

    model: Model
    log_ratios: Callable[[Array, Array], Array]
    strength: float

    def __post_init__(self) -> None:
        _strength(self.strength)

    def __call__(self, x_t: Array, t: Array) -> Array:
        return self._steer(self.model(x_t, t), self.log_ratios(x_t, t))

    @property
    def at(self) -> Callable[[Array, Array, Array], Array]:
        """The logits at chosen tokens; AttributeError where the model has none of them."""
        at = _at(self.model)

        def steered(x_t: Array, t: Array, sites: Array) -> Array:
            log_ratios = self.log_ratios(x_t, t)
            rows = namespace(x_t).reshape(log_ratios, (-1, log_ratios.shape[-1]))
            return self._steer(at(x_t, t, sites), namespace(x_t).take(rows, sites, axis=0))

        return steered

    def _steer(self, logits: Array, log_ratios: Array) -> Array:
        return logits + self.strength * log_ratios if self.strength > 0 else logits


@dataclass(frozen=True)
class Labelled:
    """A class-conditional model at a label, or int[B] of them, as `partial(model, label=label)` is, but with its `at`.

    >>> Labelled(lambda x_t, t, *, label: np.full((1, 1, 2), label), label=3)(np.array([[0]]), np.array([0.0]))
    array([[[3, 3]]])
    """

    model: Any
    label: Array | int

    def __call__(self, x_t: Array, t: Array) -> Any:
        return self.model(x_t, t, label=self.label)

    @property
    def at(self) -> Callable[[Array, Array, Array], Any]:
        """The logits at chosen tokens; AttributeError where the model has none of them."""
        at = _at(self.model)
        return lambda x_t, t, sites: at(x_t, t, sites, label=self.label)


@dataclass(frozen=True)
class Hidden:
    """A model of a mask path that does not see the tokens where `hidden`, bool[B, N] or [N], holds: a prompt, say.

    >>> seen = Hidden(lambda x_t, t: x_t, np.array([True, False]), mask=2)
    >>> seen(np.array([[0, 1]]), np.array([0.0]))
    array([[2, 1]])
    """

    model: Model
    hidden: Array
    mask: int

    def __call__(self, x_t: Array, t: Array) -> Any:
        return self.model(self._hide(x_t), t)

    @property
    def at(self) -> Callable[[Array, Array, Array], Any]:
        """The logits at chosen tokens; AttributeError where the model has none of them."""
        at = _at(self.model)
        return lambda x_t, t, sites: at(self._hide(x_t), t, sites)

    def _hide(self, x_t: Array) -> Array:
        return namespace(x_t).where(self.hidden, like(x_t, self.mask, x_t.dtype), x_t)


def _at(model: Any) -> Callable[..., Any]:
    """The model's `at`, or an AttributeError, which makes `hasattr` say so of the model around it."""
    at: Callable[..., Any] = model.at
    return at


def _each(f: Callable[..., Array], *logits: Any) -> Any:
    """f of the logits of X1, or of each component's that has any."""
    if not isinstance(logits[0], tuple):
        return f(*logits)
    return tuple(None if any(x is None for x in xs) else f(*xs) for xs in zip(*logits, strict=True))


def _strength(strength: float) -> None:
    if not 0 <= strength < inf:
        raise ValueError(f"strength: expected a number >= 0, got {strength}")


def _geometric(log_c: Array, log_u: Array, strength: float, what: str) -> Array:
    """g log_c + (1 - g) log_u, -inf where one of them is; at g = 0 and g = 1 one of them, whatever the other."""
    _strength(strength)
    if strength in (0, 1):
        return log_c if strength == 1 else log_u
    xp = namespace(log_c, log_u)
    if strength > 1 and bool(xp.any((log_c > -inf) & (log_u == -inf))):
        raise ValueError(
            f"strength: expected at most 1 where the unconditional {what} is zero and the conditional is not, "
            f"got guidance with zero unconditional {what} at strength {strength}"
        )
    possible = (log_c > -inf) & (log_u > -inf)
    log_c, log_u = (xp.where(possible, log, 0.0) for log in (log_c, log_u))
    return xp.where(possible, strength * log_c + (1 - strength) * log_u, -inf)


def _with_diagonal(rates: Array, x_t: Array) -> Array:
    """The velocity of rates off the diagonal, which is 0 in them: rows that sum to 0."""
    return rates - one_hot(x_t, rates.shape[-1]) * namespace(rates).sum(rates, axis=-1, keepdims=True)
