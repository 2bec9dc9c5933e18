"""Kinetic-optimal velocities, and paths that follow a distance between tokens.

Among the velocities of a one-token path p_t > 0, u_t(x, z) = [p_t(z) dp_t(x)/dt - dp_t(z)/dt p_t(x)]_+ / p_t(z) is
optimal. For the path p_t(x|x_1) = softmax(-beta_t d(x, x_1)) it moves a token only closer to x_1:
u_t(x, z|x_1) = p_t(x|x_1) beta_dot_t [d(z, x_1) - d(x, x_1)]_+. The source, at t = 0 with beta = 0, is uniform; at
t = 1 beta is infinite and the token is x_1.

In the clock beta no token leaves its place faster than max_{x_1} (max_z d(z, x_1) - E_{p_t(.|x_1)} d), whatever the
state and the model. So samplers draw candidate events first, and ask the model at the tokens that have one: a data
token x_1 from its posterior there, then the new token from its rates given x_1 over the bound, or no move.
Source: Shaul et al. 2024, "Flow matching with general discrete paths: a kinetic-optimal perspective".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import count
from typing import Any, NamedTuple, Protocol

import numpy as np

from . import random, transitions
from .arrays import like, log_softmax, namespace, one_hot, pick, put, to_numpy
from .checks import increasing, same_shape, tokens
from .paths import Mixture, per_token
from .protocols import Array, Key, Model
from .redraws import ask, interval, jump, movable

__all__ = [
    "Beta",
    "Metric",
    "Odds",
    "conditional_velocity",
    "embedding",
    "euler_step",
    "exponential_step",
    "hamming",
    "optimal",
    "ordinal",
    "pmf",
    "pmf_dot",
    "rate_bound",
    "sample",
    "thinning",
    "velocity",
]


_TINY = float(np.finfo(np.float64).tiny)  # a vocabulary of one token has no distance to divide by


class Beta(Protocol):
    """An increasing inverse temperature, 0 at t = 0 and unbounded towards t = 1, on times t < 1."""

    def beta(self, t: Array) -> Array:
        """beta_t >= 0."""

    def beta_dot(self, t: Array) -> Array:
        """The derivative of beta, per unit of t."""

    def inverse(self, b: Array) -> Array:
        """The time at which beta_t = b."""


@dataclass(frozen=True)
class Odds:
    """beta_t = scale (t / (1 - t))^exponent, of numbers > 0; with an exponent < 1 the rate at t = 0 is infinite.

    Source: Shaul et al. 2024, the metric paths of their experiments.

    >>> Odds(scale=3.0, exponent=2.0).beta(0.5)
    3.0
    """

    scale: float = 3.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf and 0 < self.exponent < math.inf):
            raise ValueError(f"scale, exponent: expected finite numbers > 0, got {self.scale}, {self.exponent}")

    def beta(self, t: Array) -> Array:
        return self.scale * (t / (1 - t)) ** self.exponent

    def beta_dot(self, t: Array) -> Array:
        if self.exponent < 1 and not bool(namespace(t).all(namespace(t).asarray(t) > 0)):
            raise ValueError(f"t: expected times > 0, where the rate of exponent {self.exponent} is finite, got {t}")
        return self.scale * self.exponent * (t / (1 - t)) ** (self.exponent - 1) / (1 - t) ** 2

    def inverse(self, b: Array) -> Array:
        odds = (b / self.scale) ** (1 / self.exponent)
        return odds / (1 + odds)


def hamming(vocab_size: int) -> tuple[tuple[float, ...], ...]:
    """d(x, y) = 1 unless x = y.

    >>> hamming(2)
    ((0.0, 1.0), (1.0, 0.0))
    """
    return _nested(1.0 - np.eye(vocab_size))


def ordinal(vocab_size: int, *, power: float = 1.0) -> tuple[tuple[float, ...], ...]:
    """d(x, y) = |x - y|^power, for tokens that are grey levels or other numbers; power > 0.

    >>> ordinal(3, power=2.0)
    ((0.0, 1.0, 4.0), (1.0, 0.0, 1.0), (4.0, 1.0, 0.0))
    """
    x = np.arange(vocab_size, dtype=np.float64)
    return _nested(np.abs(x[:, None] - x) ** _positive(power))


def embedding(vectors: Array, *, power: float = 2.0) -> tuple[tuple[float, ...], ...]:
    """d(x, y) = |e_x - e_y|^power, the Euclidean distance between rows of an embedding, float[V, D]; power > 0.

    ValueError unless the rows are finite; `Metric` refuses rows that are equal.

    >>> embedding(np.array([[0.0, 0.0], [3.0, 4.0]]), power=1.0)
    ((0.0, 5.0), (5.0, 0.0))
    """
    rows = np.asarray(to_numpy(vectors), dtype=np.float64)
    if rows.ndim != 2 or not np.all(np.isfinite(rows)):
        raise ValueError(f"vectors: expected finite rows of shape (V, D), got shape {rows.shape}")
    distances = [np.linalg.norm(rows - row, axis=1) for row in rows]
    return _nested(np.stack(distances) ** _positive(power))


@dataclass(frozen=True)
class Metric:
    """The path p_t(x|x_1) = softmax(-beta_t d(x, x_1)), token by token: distance[x][x_1], and an inverse temperature.

    ValueError unless the table is square and finite, 0 on its diagonal and > 0 off it.

    >>> Metric(((0.0, 1.0), (1.0, 0.0)))
    Metric(distance=((0.0, 1.0), (1.0, 0.0)), beta=Odds(scale=3.0, exponent=1.0))
    """

    distance: tuple[tuple[float, ...], ...]
    beta: Beta = field(default_factory=Odds)

    def __post_init__(self) -> None:
        shape = {len(self.distance), *map(len, self.distance)}
        if len(shape) != 1 or 0 in shape:
            raise ValueError(f"distance: expected a square table of V rows, got {len(self.distance)} rows")
        d, same = self.to_x_1, np.eye(len(self.distance), dtype=bool)
        if not (np.all(d[same] == 0) and np.all((d[~same] > 0) & (d[~same] < math.inf))):
            raise ValueError("distance: expected 0 where tokens are equal, and finite numbers > 0 elsewhere")

    @property
    def vocab_size(self) -> int:
        return len(self.distance)

    @cached_property
    def to_x_1(self) -> np.ndarray[Any, Any]:
        """d(., x_1) as a row for each x_1, float64[V, V]."""
        return np.ascontiguousarray(np.asarray(self.distance, dtype=np.float64).T)


def optimal(p: Array, p_dot: Array, x_t: Array) -> Array:
    """u(x, x_t) = [p(x_t) p_dot(x) - p_dot(x_t) p(x)]_+ / p(x_t) of any one-token path: float64[..., N, V].

    p, float[..., N, V], holds PMFs and p_dot, of the same shape, their derivatives; tokens x_t int[..., N]. Diagonal
    minus the sum of the rest. For kappa delta_{x_1} + (1 - kappa) p_0 it is kappa_dot / (1 - kappa) [x = x_1].
    ValueError where p(x_t) = 0: the path is never there, and no velocity is defined.
    Source: Shaul et al. 2024, kinetic-optimal velocities.

    >>> optimal(np.array([[0.5, 0.5]]), np.array([[-1.0, 1.0]]), np.array([0]))
    array([[-2.,  2.]])
    """
    same_shape(p=p, p_dot=p_dot)
    same_shape(x_t=x_t, p=p[..., 0])
    xp = namespace(p, p_dot, x_t)
    p, p_dot = xp.astype(p, xp.float64), xp.astype(p_dot, xp.float64)
    here, here_dot = pick(p, x_t)[..., None], pick(p_dot, x_t)[..., None]
    if not bool(xp.all(here > 0)):
        raise ValueError("x_t: expected tokens of positive probability, where alone a velocity is defined")
    return _conserving(xp.maximum(p_dot - here_dot / here * p, xp.zeros_like(p)), x_t)


def pmf(path: Metric, x_1: Array, t: Array) -> Array:
    """p_t(.|x_1) = softmax(-beta_t d(., x_1)): int[..., N], t a number or float[...] -> float64[..., N, V].

    Uniform at t = 0 and the point mass at x_1 at t = 1; no large beta overflows. Source: Shaul et al. 2024.

    >>> pmf(Metric(hamming(2), Odds(math.log(3.0))), np.array([0]), 0.5)
    array([[0.75, 0.25]])
    """
    return _softmax(_distances(path, x_1), _beta(path, per_token(t, x_1)[..., None]))


def pmf_dot(path: Metric, x_1: Array, t: Array) -> Array:
    """dp_t(.|x_1)/dt = beta_dot_t p_t(x|x_1) (E_{p_t} d - d(x, x_1)), float64[..., N, V], per unit of t < 1.

    ValueError where beta_dot is infinite.

    >>> pmf_dot(Metric(hamming(2), Odds(math.log(3.0))), np.array([0]), 0.5).round(3)
    array([[ 0.824, -0.824]])
    """
    xp = namespace(x_1)
    d, t = _distances(path, x_1), per_token(t, x_1)[..., None]
    p = _softmax(d, _beta(path, t))
    return _beta_dot(path, t) * p * (xp.sum(p * d, axis=-1, keepdims=True) - d)


def sample(path: Metric, key: Key, x_1: Array, t: Array, *, first: int = 0) -> Array:
    """x_t ~ p_t(.|x_1), int[..., N]: token i of sequence b draws at the site 2((first + b) N + i) + 1.

    >>> sample(Metric(hamming(3)), Key(0, 1), np.array([[0, 0, 0, 0]]), 0.0)
    array([[1, 2, 2, 0]])
    """
    xp = namespace(x_1)
    sites = 2 * random.sites(tuple(x_1.shape), first=first * x_1.shape[-1], xp=xp) + 1
    return xp.astype(random.choose(pmf(path, x_1, t), random.uniform_at(key, sites)), x_1.dtype, copy=False)


def conditional_velocity(path: Metric, x_1: Array, x_t: Array, t: Array) -> Array:
    """u_t(x, x_t|x_1) = p_t(x|x_1) beta_dot_t [d(x_t, x_1) - d(x, x_1)]_+, diagonal minus the rest: float64[..., N, V].

    It is `optimal` of this path, in a form that no large beta spoils. Domain t < 1, else ValueError, and t > 0 where
    beta_dot_0 is infinite. Source: Shaul et al. 2024, metric-induced paths.

    >>> conditional_velocity(Metric(hamming(2), Odds(math.log(3.0))), np.array([0]), np.array([1]), 0.5).round(3)
    array([[ 3.296, -3.296]])
    """
    same_shape(x_1=x_1, x_t=x_t)
    t, d = per_token(t, x_t)[..., None], _distances(path, x_1)
    return _conserving(_beta_dot(path, t) * _rates(d, pick(d, x_t)[..., None], _beta(path, t)), x_t)


def velocity(path: Metric, probs_1: Array, x_t: Array, t: Array) -> Array:
    """u_t^i(., x_t) = sum_{x_1} probs_1(x_1) u_t(., x_t|x_1): the marginal velocity, float64[..., N, V].

    probs_1, float[..., N, V], is the posterior of each token of x_1 given the whole state x_t. V^2 operations a token
    and memory for a few arrays like probs_1. Domain as `conditional_velocity`.
    Source: Shaul et al. 2024; Gat et al. 2024, Theorem 2 (marginalisation).

    >>> velocity(Metric(hamming(2), Odds(math.log(3.0))), np.array([[0.5, 0.5]]), np.array([1]), 0.5).round(3)
    array([[ 1.648, -1.648]])
    """
    same_shape(x_t=x_t, probs_1=probs_1[..., 0])
    xp = namespace(probs_1, x_t)
    if probs_1.shape[-1] != path.vocab_size:
        raise ValueError(f"probs_1: expected {path.vocab_size} probabilities a token, got {probs_1.shape[-1]}")
    probs_1 = xp.astype(probs_1, xp.float64)
    t, to_x_1 = per_token(t, x_t)[..., None], like(x_t, path.to_x_1)
    beta, rates, z = _beta(path, t), xp.zeros_like(probs_1), xp.reshape(xp.astype(x_t, xp.int64), (-1,))
    for x_1 in range(path.vocab_size):
        d = to_x_1[x_1, :]
        here = xp.reshape(xp.take(d, z), (*x_t.shape, 1))
        rates = rates + probs_1[..., x_1 : x_1 + 1] * _rates(d, here, beta)
    return _conserving(_beta_dot(path, t) * rates, x_t)


def rate_bound(path: Metric, t: Array) -> Array:
    """beta_dot_t max_{x_1} (max_z d(z, x_1) - E_{p_t(.|x_1)} d): no token leaves faster, per unit of t < 1.

    It holds for every state and every posterior, so an Euler step is a law for h up to its inverse. t on the host, a
    number or float[...]; the result has its shape.

    >>> float(rate_bound(Metric(hamming(2), Odds(math.log(3.0))), 0.5).round(3))
    3.296
    """
    t = np.asarray(t, dtype=np.float64)
    return np.asarray(_beta_dot(path, t) * _bound(path, path.beta.beta(t)))


def euler_step(
    path: Metric, model: Model, key: Key, x_t: Array, t: Any, s: Any, *, keep: Array | None = None, first: int = 0
) -> Array:
    """x_s from x_t, int[B, N], in the law delta + (s - t) u_t of the marginal velocity, its events drawn first.

    A token has an event with probability (s - t) `rate_bound`; where that exceeds 1 the event is sure, and the law is
    no longer Euler's. A step to s = 1 draws x_1 itself. Logits are asked at events alone. Times, `keep`, `first` and
    the sites of coin and value as in `samplers.finite_step`; x_1 draws at the value's site of fold_in(key, 0).
    ValueError unless 0 <= t < s <= 1. Source: Shaul et al. 2024; Gat et al. 2024, the sampling rule.

    >>> model = lambda x_t, t: np.log([[[0.98, 0.01, 0.01]] * 4])
    >>> euler_step(Metric(hamming(3)), model, Key(0, 1), np.array([[1, 1, 2, 0]]), 0.0, 0.5)
    array([[0, 1, 0, 0]])
    """
    t, s = _times(path, x_t, t, s)
    xp, length = namespace(x_t), x_t.shape[1]
    sure = np.where(s == 1, 1.0, (s - t) * rate_bound(path, t))
    sites = movable(_data(), x_t, keep=keep)
    coin = random.uniform_at(key, 2 * (sites + first * length))
    sites = sites[coin < like(x_t, sure[to_numpy(sites) // length])]
    if not sites.shape[0]:
        return x_t
    row, address = to_numpy(sites) // length, 2 * (sites + first * length) + 1
    logits = _ask(path, model, x_t, like(x_t, t), sites)
    x_1 = random.choose_logits(logits, random.uniform_at(random.fold_in(key, 0), address))
    flat, beta = xp.reshape(x_t, (-1,)), path.beta.beta(t)
    bound, value = _bound(path, beta), random.uniform_at(key, address)
    x_s = _redraw(path, x_1, xp.take(flat, sites), beta[row], bound[row], value)
    x_s = xp.where(like(x_t, s[row] == 1), x_1, x_s)
    return xp.reshape(put(flat, sites, xp.astype(x_s, x_t.dtype)), x_t.shape)


def exponential_step(
    path: Metric, model: Model, key: Key, x_t: Array, t: Any, s: Any, *, keep: Array | None = None, first: int = 0
) -> Array:
    """x_s from x_t, int[B, N], in the law `transitions.exponential` of the marginal velocity; s = 1 draws x_1 itself.

    Arguments, errors and the sites of coin and value as in `euler_step`.

    >>> model = lambda x_t, t: np.log([[[0.98, 0.01, 0.01]] * 4])
    >>> exponential_step(Metric(hamming(3)), model, Key(0, 1), np.array([[1, 1, 2, 0]]), 0.5, 0.9)
    array([[0, 0, 0, 0]])
    """
    t, s = _times(path, x_t, t, s)
    xp, sites = namespace(x_t), movable(_data(), x_t, keep=keep)
    flat = xp.reshape(x_t, (-1,))
    if not sites.shape[0]:
        return x_t
    row, address = to_numpy(sites) // x_t.shape[1], 2 * (sites + first * x_t.shape[1])
    logits = _ask(path, model, x_t, like(x_t, t), sites)
    probs_1 = xp.exp(log_softmax(xp.astype(logits, xp.float64)))
    z = xp.astype(xp.take(flat, sites), xp.int64)
    coin, value = random.uniform_at(key, address), random.uniform_at(key, address + 1)
    u = velocity(path, probs_1[:, None, :], z[:, None], like(x_t, t[row]))[:, 0, :]
    rates = u * (1 - one_hot(z, path.vocab_size))
    x_s = jump(rates, like(x_t, (s - t)[row]), z, coin, value)
    x_s = xp.where(like(x_t, s[row] == 1), random.choose(probs_1, value), x_s)
    return xp.reshape(put(flat, sites, xp.astype(x_s, x_t.dtype)), x_t.shape)


def thinning(
    path: Metric,
    model: Model,
    key: Key,
    x_0: Array,
    times: Sequence[float],
    *,
    keep: Array | None = None,
    frames: bool = False,
    first: int = 0,
) -> Array:
    """An exact simulation of the model's process from x_0 at times[0]: the state at the last time < 1, int[B, N].

    With `frames` the states at every time, int[len(times), B, N]. Every token has candidate events, a Poisson process
    in the clock beta with the intensity of `rate_bound`, refreshed over windows; at each, the token is redrawn given a
    data token from its posterior, or stays. One model call for the next candidate of every sequence that still has
    one, in all at most about N (beta_T - beta_{t_0}) max d candidates a sequence: many as T nears 1.

    Sequence b draws under fold_in(key, k) for its k-th candidate, at the sites 4(first + b) and up: the wait, the
    token, x_1 and the value. Tokens where `keep`, bool[B, N], holds never move. ValueError unless the times increase
    strictly in [0, 1).
    Source: Lewis & Shedler 1979 (thinning); Shaul et al. 2024 (the rates).

    >>> model = lambda x_t, t: np.log([[[0.98, 0.01, 0.01]] * 4])
    >>> thinning(Metric(hamming(3)), model, Key(0, 1), np.array([[1, 1, 2, 0]]), [0.0, 0.5, 0.9], frames=True).tolist()
    [[[1, 1, 2, 0]], [[1, 0, 1, 0]], [[0, 0, 0, 0]]]
    """
    increasing("times", times)
    if times[-1] == 1:
        raise ValueError("times: expected a last time < 1, where the rates of a metric path are infinite, got 1")
    _tokens(path, "x_0", x_0)
    xp, (batch, length), x_t = namespace(x_0), x_0.shape, x_0
    walk = xp.stack([x_0] * len(times))
    edges, height, hazard, ends = _windows(path, np.asarray(times, dtype=np.float64), length)
    free = np.zeros(batch * length, dtype=bool)
    free[to_numpy(movable(_data(), x_0, keep=keep))] = True
    clock, running = np.zeros(batch), np.arange(batch)
    for k in count():
        u = random.uniform_at(random.fold_in(key, k), 4 * (first + running)[:, None] + np.arange(4))
        clock[running] -= np.log1p(-u[:, 0])
        going = clock[running] < hazard[-1]
        running, u = running[going], u[going]
        if not len(running):
            break
        token = np.floor(u[:, 1] * length).astype(np.int64)
        here = free[running * length + token]
        rows, token, (data, value) = running[here], token[here], u[here, 2:].T
        if not len(rows):
            continue
        beta = np.interp(clock[rows], hazard, edges)
        bound = height[np.searchsorted(hazard, clock[rows], side="right") - 1]
        t = np.clip(path.beta.inverse(beta), times[0], times[-1])
        sites = like(x_0, np.arange(len(rows)) * length + token)
        logits = _ask(path, model, xp.take(x_t, like(x_0, rows), axis=0), like(x_0, t), sites)
        x_1 = random.choose_logits(logits, like(x_0, data))
        flat, sites = xp.reshape(x_t, (-1,)), like(x_0, rows * length + token)
        moved = _redraw(path, x_1, xp.take(flat, sites), beta, bound, like(x_0, value))
        x_t = xp.reshape(put(flat, sites, xp.astype(moved, x_0.dtype)), x_0.shape)
        if frames:
            walk = xp.where(like(x_0, clock < ends[:, None])[..., None], x_t, walk)
    return walk if frames else x_t


class _Windows(NamedTuple):
    """The clock of the candidates of one sequence: each window of beta has one rate, `height` a token."""

    edges: np.ndarray[Any, Any]
    """The ends of K windows of beta, float64[K + 1]."""
    height: np.ndarray[Any, Any]
    """The bound over each window, reached at its end, per unit of beta: float64[K]."""
    hazard: np.ndarray[Any, Any]
    """The expected number of candidates up to each edge, float64[K + 1]."""
    ends: np.ndarray[Any, Any]
    """The same up to each of the times."""


def _windows(path: Metric, times: np.ndarray[Any, Any], length: int) -> _Windows:
    """Windows of length 1 / max d, in which the bound grows at most e-fold, and one more to the end.

    For log Z = log sum exp(-beta d) >= 0 and an entropy <= log V give E d <= log V / beta: past beta = 3 log V / max d
    the bound is above 2/3 of the max d that it tends to.
    """
    beta, most = path.beta.beta(times), max(float(path.to_x_1.max()), _TINY)
    steps = np.arange(1 + math.ceil(3 * math.log(path.vocab_size)))
    edges = np.unique(np.append(np.minimum(beta[0] + steps / most, beta[-1]), beta[-1]))
    height = _bound(path, edges[1:])
    hazard = np.append(0.0, np.cumsum(length * height * np.diff(edges)))
    return _Windows(edges, height, hazard, np.interp(beta, edges, hazard))


def _redraw(path: Metric, x_1: Array, x_t: Array, beta: Any, bound: Any, u: Array) -> Array:
    """The tokens [E] after candidate events: from delta + rates / bound, per unit of beta, given x_1."""
    d, beta = _distances(path, x_1), like(x_1, beta[:, None])
    rates = _rates(d, pick(d, x_t)[:, None], beta) / like(x_1, bound[:, None])
    return random.choose(transitions.euler(rates, x_t, 1.0), u)


@cache
def _data() -> Mixture:
    """A path whose events, like those here, redraw from the posterior of X1, wherever they are."""
    return Mixture()


def _ask(path: Metric, model: Model, x_t: Array, t: Array, sites: Array) -> Array:
    """The logits of x_1 at the flat sites of x_t, float[E, V]."""
    logits = ask(_data(), model, x_t, t)(1, sites)
    if logits.shape[1] != path.vocab_size:
        raise ValueError(f"model: expected {path.vocab_size} logits a token, got {logits.shape[1]}")
    return logits


def _times(path: Metric, x_t: Array, t: Any, s: Any) -> list[np.ndarray[Any, Any]]:
    """t and s on the host, float64[B] each, once the arguments of a step are seen to be right."""
    _tokens(path, "x_t", x_t)
    return [np.broadcast_to(time[:, 0], (x_t.shape[0],)).copy() for time in interval(x_t, t, s)]


def _tokens(path: Metric, name: str, x: Array) -> None:
    if x.ndim != 2:
        raise ValueError(f"{name}: expected tokens of shape (B, N), got shape {tuple(x.shape)}")
    tokens(name, x, path.vocab_size)


def _beta(path: Metric, t: Array) -> Array:
    """beta_t, +inf at t = 1."""
    xp = namespace(t)
    inside = t < 1
    return xp.where(inside, path.beta.beta(xp.where(inside, t, xp.zeros_like(t))), xp.inf)


def _beta_dot(path: Metric, t: Array) -> Array:
    if not bool(namespace(t).all(t < 1)):
        raise ValueError("t: expected times < 1, where the rates of a metric path are finite")
    return path.beta.beta_dot(t)


def _distances(path: Metric, x_1: Array) -> Array:
    """d(., x_1): int[...] -> float64[..., V]."""
    xp = namespace(x_1)
    rows = xp.take(like(x_1, path.to_x_1), xp.reshape(xp.astype(x_1, xp.int64), (-1,)), axis=0)
    return xp.reshape(rows, (*x_1.shape, path.vocab_size))


def _softmax(d: Array, beta: Array) -> Array:
    """softmax(-beta d) over the last axis; d = 0 at x_1 has weight 1, so that no sum is 0 and none overflows."""
    xp = namespace(d)
    apart = d > 0
    weights = xp.where(apart, xp.exp(-beta * xp.where(apart, d, 1.0)), 1.0)
    return weights / xp.sum(weights, axis=-1, keepdims=True)


def _rates(d: Array, here: Array, beta: Array) -> Array:
    """p_t(x|x_1) [d(x_t, x_1) - d(x, x_1)]_+ of d = d(., x_1), float64[..., V], and here = d(x_t, x_1), [..., 1]."""
    return _softmax(d, beta) * namespace(d).maximum(here - d, namespace(d).zeros_like(here - d))


def _bound(path: Metric, beta: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """max_{x_1} (max_z d(z, x_1) - E d) per unit of beta, float64[...]: it increases with beta, for E d decreases."""
    falls = [np.sum(_softmax(d, beta[..., None]) * (d.max() - d), axis=-1) for d in path.to_x_1]
    return np.asarray(np.maximum(np.max(np.stack(falls), axis=0), _TINY))


def _conserving(rates: Array, x_t: Array) -> Array:
    """Rates with the diagonal set to minus the sum of the rest."""
    xp, here = namespace(rates), one_hot(x_t, rates.shape[-1])
    rates = rates * (1 - here)
    return rates - here * xp.sum(rates, axis=-1, keepdims=True)


def _positive(power: float) -> float:
    if not 0 < power < math.inf:
        raise ValueError(f"power: expected a finite number > 0, got {power}")
    return power


def _nested(table: np.ndarray[Any, Any]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in table.tolist())
