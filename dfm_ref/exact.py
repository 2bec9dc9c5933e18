"""Exact samplers: the continuous-time chain itself, with no grid.

Events of a mixture path happen at times and tokens that no state and no model has a say in. So they are drawn first,
and then played in the order of their times, with one model call for the k-th event of all sequences together. Three
ways to draw them give the same law: each token's own clock (`sample`), the next hit of a mask path (`first_hitting`),
and all candidates of a sequence at once (`uniformization`).

The law is that of dp/dt = Q_t p with the forward velocity of the model. On a mask path it is exact up to t = 1, with
at most N calls. On any other path events are infinitely many as t -> 1: there it is exact on [t_0, T] for T < 1, and
the finite step may finish from `closing_time` on, at an error of about N times what is left.
Source: Gat et al. 2024 for the chain; Zheng et al. 2024 (first hitting); Gillespie 1977; Jensen 1953 (uniformization).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import events, random
from .arrays import like, namespace, put, to_numpy
from .checks import increasing, natural
from .paths import Mixture
from .protocols import Array, Key, Model
from .redraws import Events, ask, movable, redraw
from .samplers import finite_step
from .schedules import Monotone, PerToken, Schedule

__all__ = [
    "Arrivals",
    "closing_time",
    "finished",
    "first_hitting",
    "hitting_time",
    "next_event",
    "sample",
    "uniformization",
]

_BEFORE_1 = float(np.nextafter(1.0, 0.0))  # the last time at which a rate is finite


class Arrivals(NamedTuple):
    """Events of a batch on the host, in any order: sites int64[E], times and two uniforms float64[E] each."""

    sites: np.ndarray[Any, Any]
    times: np.ndarray[Any, Any]
    coin: np.ndarray[Any, Any]
    value: np.ndarray[Any, Any]


def sample(
    path: Mixture,
    model: Model,
    key: Key,
    x_0: Array,
    times: Sequence[float],
    *,
    keep: Array | None = None,
    frames: bool = False,
    first: int = 0,
) -> Array:
    """The state at the last time, int[B, N], in the law of the chain started from x_0 at the first time.

    Every token runs a Poisson clock of the intensity of its schedule, which may be its own. With `frames` the states
    at all times, int[len(times), B, N]. On a mask path the tokens are revealed at the times that `samplers.sample`
    reveals them at under the same key, so that its tokens tend to these as its grid becomes fine. Other arguments as
    there. ValueError unless times increase in [0, 1], and end before 1 on a path without a mask.
    Source: Gat et al. 2024 (the chain); Gillespie 1977 (its events).

    >>> model = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> sample(Mixture(mask=2), model, Key(0, 1), np.array([[2, 2, 0]]), [0.0, 1.0])
    array([[0, 1, 0]])
    """
    sites = to_numpy(_check(path, x_0, times, keep))
    length, begin, end = x_0.shape[1], times[0], times[-1]
    address, t = 2 * (sites + first * length), np.full(sites.shape, float(begin))
    drawn, count = [Arrivals(*np.zeros((4, 0)))], 0
    while sites.size:
        keys = (key, key) if path.mask is not None else random.split(random.fold_in(key, count))
        clock = _uniforms(keys[0], address, x_0)
        t = _by_token(path.schedule, t, 1 - clock, sites % length)
        due = t <= end
        sites, address, t = sites[due], address[due], t[due]
        coin = np.zeros(sites.shape) if path.mask is not None else _uniforms(keys[1], address, x_0)
        drawn.append(Arrivals(sites, t, coin, _uniforms(keys[1], address + 1, x_0)))
        count += 1
        if path.mask is not None:  # a token is revealed once
            break
    return _play(path, model, x_0, times, Arrivals(*map(np.concatenate, zip(*drawn, strict=True))), frames)


def first_hitting(
    path: Mixture,
    model: Model,
    key: Key,
    x_0: Array,
    times: Sequence[float],
    *,
    keep: Array | None = None,
    frames: bool = False,
    first: int = 0,
) -> Array:
    """The law of `sample` on a mask path: hit after hit, the next hidden token is revealed.

    With one schedule the next hit is at `hitting_time`, at a token uniform among the hidden ones. With a schedule for
    each token every token's own time is drawn, and the least is next: that is `sample`. ValueError for a path without
    a mask. Source: Zheng et al. 2024, the first-hitting sampler.

    >>> model = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> first_hitting(Mixture(mask=2), model, Key(0, 1), np.array([[2, 2, 0]]), [0.0, 1.0])
    array([[1, 0, 0]])
    """
    if path.mask is None:
        raise ValueError(f"path: expected a mask path, got {path}")
    if not isinstance(path.schedule, Monotone):
        return sample(path, model, key, x_0, times, keep=keep, frames=frames, first=first)
    sites = to_numpy(_check(path, x_0, times, keep))
    batch, length = x_0.shape
    order_key, time_key, value_key = random.split(key, 3)
    address = sites + first * length
    order = np.lexsort((_uniforms(order_key, address, x_0), sites // length))  # of the hidden tokens of each sequence
    sites, address = sites[order], address[order]
    rows = sites // length
    begins = np.searchsorted(rows, np.arange(batch + 1))
    rank = np.arange(len(sites)) - begins[rows]
    hidden = np.diff(begins)[rows] - rank
    hits = (first + rows) * length + rank  # the k-th hit of a sequence has the address of its k-th token
    t = np.zeros(len(sites))
    for k in range(length):
        now = rank == k
        before = np.where(rank[now] == 0, float(times[0]), t[np.flatnonzero(now) - 1]) if np.any(now) else t[now]
        u = 1 - _uniforms(time_key, hits[now], x_0)
        t[now] = hitting_time(path.schedule, before, u, num_hidden=hidden[now])
    value = _uniforms(value_key, address, x_0)
    due = t <= times[-1]
    drawn = Arrivals(sites[due], t[due], np.zeros(int(due.sum())), value[due])
    return _play(path, model, x_0, times, drawn, frames)


def uniformization(
    path: Mixture,
    model: Model,
    key: Key,
    x_0: Array,
    times: Sequence[float],
    *,
    keep: Array | None = None,
    frames: bool = False,
    first: int = 0,
) -> Array:
    """The law of `sample` by candidates: Poisson many a sequence, at sorted uniform times of the clock, at any token.

    The clock is the integral of the intensity, -log(1 - kappa) for two components, in which every token has rate 1;
    a candidate at a token that is kept or revealed changes nothing. ValueError for a schedule per token, whose clocks
    differ. A sequence may have as many model calls as candidates, N times the clock. Source: Jensen 1953; Chen and
    Ying 2024 for masked diffusion. Domain T < 1, for a mask path too: the clock ends at infinity.

    >>> model = lambda x_t, t: np.zeros((*x_t.shape, 2))
    >>> uniformization(Mixture(), model, Key(0, 1), np.array([[1, 0, 1, 0]]), [0.0, 0.9])
    array([[0, 1, 0, 0]])
    """
    from scipy.special import pdtr  # takes as long to import as all of this library

    if isinstance(path.schedule, PerToken):
        raise ValueError("path: expected one schedule for all tokens, whose clock they share, got one for each")
    _check(path, x_0, times, keep)
    if not times[-1] < 1:
        raise ValueError(f"times: expected a last time < 1, where the clock is finite, got {times[-1]}")
    batch, length = x_0.shape
    span = -math.log(float(events.survival(path.schedule, times[0], times[-1])))
    most = int(length * span + 12 * math.sqrt(length * span) + 50)  # beyond, less than 1e-20 is left
    count_key, clock_key, token_key, coin_key, value_key = random.split(key, 5)
    rows = np.arange(first, first + batch)
    counts = np.searchsorted(pdtr(np.arange(most), length * span), _uniforms(count_key, rows, x_0))
    row, k = np.nonzero(np.arange(most) < counts[:, None])
    address = (first + row) * most + k
    clock, token, coin, value = (_uniforms(some, address, x_0) for some in (clock_key, token_key, coin_key, value_key))
    t = next_event(path.schedule, np.full(clock.shape, float(times[0])), np.exp(-span * clock))
    sites = row * length + np.minimum((token * length).astype(np.int64), length - 1)
    free = np.ones(batch * length, dtype=bool) if keep is None else ~to_numpy(keep).reshape(-1)
    drawn = Arrivals(*(part[free[sites]] for part in (sites, t, coin, value)))
    return _play(path, model, x_0, times, drawn, frames)


def finished(
    path: Mixture,
    model: Model,
    key: Key,
    x_0: Array,
    times: Sequence[float],
    *,
    keep: Array | None = None,
    frames: bool = False,
    first: int = 0,
) -> Array:
    """`sample` up to t = 1 on any path: one without a mask is left at `closing_time`, and a finite step finishes it.

    It is left at the last time before 1, where that is later.

    The total variation to the chain's law at 1 is then at most about N times 1e-9, if the model has become as sure of
    the tokens of x_t as the posterior: the last step redraws nearly all of them at once. Arguments and errors as
    `sample`.

    >>> model = lambda x_t, t: np.zeros((*x_t.shape, 2))
    >>> finished(Mixture(), model, Key(0, 1), np.array([[0, 0, 0]]), [0.0, 1.0]).shape
    (1, 3)
    """
    increasing("times", times)
    if path.mask is not None or times[-1] < 1:
        return sample(path, model, key, x_0, times, keep=keep, frames=frames, first=first)
    xp, before = namespace(x_0), list(times[:-1])
    end = closing_time(path.schedule, t_0=times[0])
    grid = [*before, end] if end > before[-1] else before
    chain_key, last_key = random.split(key)
    states = x_0[None, ...]
    if len(grid) > 1:
        states = sample(path, model, chain_key, x_0, grid, keep=keep, frames=True, first=first)
    x_1 = finite_step(path, model, last_key, states[-1, ...], grid[-1], 1.0, keep=keep, first=first)
    return xp.concat([states[: len(before), ...], x_1[None, ...]]) if frames else x_1


def hitting_time(schedule: Monotone, t: Array, u: Array, *, num_hidden: Array) -> Array:
    """The first of the reveal times of n hidden tokens after t, at level u in (0, 1]: float[...] of u's shape.

    kappa_s = 1 - (1 - kappa_t) u^(1/n), as the largest of n uniforms has the law u^(1/n).
    Source: Zheng et al. 2024, Prop. on the first-hitting time.

    >>> from .schedules import Linear
    >>> float(hitting_time(Linear(), np.asarray(0.0), np.asarray(0.25), num_hidden=np.asarray(2)))
    0.5
    """
    xp = namespace(u)
    share = xp.exp(xp.log(u) / xp.astype(xp.asarray(num_hidden), u.dtype))
    return schedule.inverse_complement(schedule.one_minus_kappa(t) * share)


def next_event(schedule: Schedule, t: np.ndarray[Any, Any], u: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The time s at which `events.survival` from t has fallen to u in (0, 1], float64[E] on the host; 1 at most.

    In closed form for a monotone schedule, else by bisection.

    >>> from .schedules import Linear
    >>> next_event(Linear(), np.asarray([0.5]), np.asarray([0.5]))
    array([0.75])
    """
    if isinstance(schedule, Monotone):
        return np.asarray(schedule.inverse_complement(u * schedule.one_minus_kappa(t)))
    low, high = t, np.ones_like(t)
    for _ in range(60):
        middle = (low + high) / 2
        above = events.survival(schedule, t, middle) > u
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return high


def closing_time(schedule: Schedule, *, left: float = 1e-9, t_0: float = 0.0) -> float:
    """The time up to which a token has had no event since t_0 with probability `left`, of the slowest token.

    A chain without a mask may be run to it exactly and finished by one finite step.

    >>> from .schedules import Linear
    >>> round(closing_time(Linear(), left=0.25), 12)
    0.75
    """
    if not 0 < left <= 1:
        raise ValueError(f"left: expected a probability > 0, as none is reached before 1, got {left}")
    return float(max(next_event(one, np.asarray([t_0]), np.asarray([left]))[0] for one in _each(schedule)))


def _check(path: Mixture, x_0: Array, times: Sequence[float], keep: Array | None) -> Array:
    increasing("times", times)
    natural("x_0", x_0)
    if path.mask is None and not times[-1] < 1:
        raise ValueError(f"times: expected a last time < 1, before which events are finitely many, got {times[-1]}")
    return movable(path, x_0, keep=keep)


def _uniforms(key: Key, address: np.ndarray[Any, Any], x: Array) -> np.ndarray[Any, Any]:
    """Uniforms of the addresses, drawn on x's library and device, float64 on the host."""
    return to_numpy(random.uniform_at(key, like(x, np.asarray(address, dtype=np.int64))))


def _each(schedule: Schedule) -> tuple[Schedule, ...]:
    return schedule.schedules if isinstance(schedule, PerToken) else (schedule,)


def _by_token(
    schedule: Schedule, t: np.ndarray[Any, Any], u: np.ndarray[Any, Any], token: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """`next_event` for events at tokens int64[E] that may have schedules of their own."""
    if not isinstance(schedule, PerToken):
        return next_event(schedule, t, u)
    s = np.zeros_like(t)
    for i, one in enumerate(schedule.schedules):
        s[token == i] = next_event(one, t[token == i], u[token == i])
    return s


def _play(path: Mixture, model: Model, x_0: Array, times: Sequence[float], drawn: Arrivals, frames: bool) -> Array:
    """The states after the events: the k-th event of all sequences that have one, for k = 0, 1, ..., in one go."""
    xp, length = namespace(x_0), x_0.shape[1]
    states = np.stack([to_numpy(x_0).reshape(-1)] * len(times))
    order = np.lexsort((drawn.times, drawn.sites // length))
    drawn = Arrivals(*(part[order] for part in drawn))
    sites = drawn.sites.astype(np.int64)
    rank = np.arange(len(sites)) - np.searchsorted(sites // length, sites // length)
    flat = xp.reshape(x_0, (-1,))
    for k in range(int(rank.max(initial=-1)) + 1):
        now = rank == k
        if path.mask is not None:
            now &= states[-1][sites] == path.mask
        if not np.any(now):
            continue
        where, t = sites[now], np.minimum(drawn.times[now], _BEFORE_1)
        rows = where // length
        x_t = xp.take(xp.reshape(flat, x_0.shape), like(x_0, rows), axis=0)
        local = np.arange(len(rows)) * length + where % length
        here = Events(*(like(x_0, part) for part in (local, drawn.coin[now], drawn.value[now])))
        bands = _bands(path, t, where % length, x_0)
        tokens = redraw(path, ask(path, model, x_t, like(x_0, t)), x_t, here, bands)
        flat = put(flat, like(x_0, where), xp.astype(tokens, flat.dtype))
        for state, time in zip(states[1:], times[1:], strict=True):
            state[where[t <= time]] = to_numpy(tokens)[t <= time]
    out = like(x_0, states.reshape(len(times), *x_0.shape), x_0.dtype)
    return out if frames else out[-1, ...]


def _bands(path: Mixture, t: np.ndarray[Any, Any], token: np.ndarray[Any, Any], x: Array) -> Any:
    """For each live component the band of coins [low, high) that draws from it at times float64[E]: a^j / sum_j a^j."""
    schedule = path.schedule
    if path.mask is not None or all(isinstance(one, Monotone) for one in _each(schedule)):
        return {1: (None, None)}  # X1 alone, whatever the coin
    pace = np.stack(
        [np.asarray(a) + 0 * t[:, None] for a in events.redraw_rates(schedule, t[:, None])]
    )  # [m, E, 1 or N]
    pace = pace[:, np.arange(len(t)), token if pace.shape[2] > 1 else 0]
    levels = np.concatenate([np.zeros((1, len(t))), np.cumsum(pace, axis=0) / np.sum(pace, axis=0)])
    levels[-1] = np.inf  # rounding leaves no coin out
    live = np.flatnonzero(np.any(pace > 0, axis=1)).tolist()
    return {j: (like(x, levels[j]), like(x, levels[j + 1])) for j in live}
