"""Samplers: from x_0 to x_1, one event at a time.

A step moves x_t to x_s in the law of its rule: each token, independently given x_t, is redrawn with a probability
known from the schedule, from a component chosen by the schedule, whose value a posterior of the model draws. Events
are drawn first; logits are evaluated and values drawn only at the tokens that have one.

Token i of sequence b has two uniforms a step, under the key of the step: at the site 2((first + b) N + i) the coin,
which says whether there is an event and of which component, and at the next site the value. So a shard (`first` is
the global index of its first sequence), another batch size, and a lazy or a dense model give the same tokens.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from . import events, random
from .arrays import like, namespace, put, to_numpy
from .checks import increasing, natural, tokens
from .paths import X1, Fixed, Mixture
from .protocols import Array, Key, Model, Step
from .schedules import Schedule

__all__ = ["Events", "euler_step", "finite_step", "sample", "simulate"]

Rule: TypeAlias = Callable[[Any, Array, Array], tuple[Array, ...]]

_LANES = 1 << 16  # coins drawn in one go: steps are drawn together while a cache holds them


def finite_step(
    path: Mixture, model: Model, key: Key, x_t: Array, t: Any, s: Any, *, keep: Array | None = None, first: int = 0
) -> Array:
    """x_s from x_t, int[B, N], by the finite step: exact given the pair, for any t < s <= 1, s = 1 included.

    A token stays with probability `events.stay`, else component j is chosen with weight c^j and its posterior,
    frozen at x_t and t, draws the value. Times are numbers or float[B]. Tokens where `keep`, bool[B, N], holds are a
    prompt and never move, as under the point masses that are their posteriors. ValueError unless t < s in [0, 1].
    Source: Gat et al. 2024, Theorem 3 integrated over [t, s]; for two components the ancestral step of masked
    diffusion.

    >>> model = lambda x_t, t: np.log([[[0.0, 1.0, 0.0]] * 4])
    >>> with np.errstate(divide="ignore"):
    ...     finite_step(Mixture(mask=2), model, Key(0, 1), np.array([[2, 2, 2, 0]]), 0.0, 0.5)
    array([[1, 2, 1, 0]])
    """
    return _step(events.redraw_weights, path, model, key, x_t, t, s, keep, first)


def euler_step(
    path: Mixture, model: Model, key: Key, x_t: Array, t: Any, s: Any, *, keep: Array | None = None, first: int = 0
) -> Array:
    """x_s from x_t, int[B, N], in the law delta + (s - t) u_t of Euler's rule, token by token.

    Where s - t exceeds 1 / intensity the event is sure, see `events.euler_redraw`. Arguments as in `finite_step`.
    ValueError where the rate is infinite: start later, or take the finite step.
    Source: Gat et al. 2024, the sampling rule X_{t+h}^i ~ delta_{X_t^i} + h u_t^i.

    >>> model = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> euler_step(Mixture(mask=2), model, Key(0, 1), np.array([[2, 2, 2, 0]]), 0.0, 0.5)
    array([[0, 2, 1, 0]])
    """
    return _step(_euler_redraw, path, model, key, x_t, t, s, keep, first)


def simulate(step: Step, key: Key, x_0: Array, times: Sequence[float], *, frames: bool = False) -> Array:
    """The state at the last time, int[B, N], or with `frames` at every time, int[len(times), B, N].

    A fold of x = step(fold_in(key, i), x, times[i], times[i + 1]), started from x_0 at times[0]. Raises ValueError
    unless the times increase strictly within [0, 1].

    >>> simulate(lambda key, x_t, t, s: x_t + 1, Key(0, 1), np.array([[0]]), [0.0, 0.5, 1.0], frames=True).tolist()
    [[[0]], [[1]], [[2]]]
    """
    increasing("times", times)
    natural("x_0", x_0)
    states = [x_0]
    for i, (t, s) in enumerate(pairwise(times)):
        x_s = step(random.fold_in(key, i), states[-1], t, s)
        states = [*states, x_s] if frames else [x_s]
    return namespace(x_0).stack(states) if frames else states[-1]


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
    """The finite step along a grid of times, its events drawn first: the state at the last time, int[B, N].

    With `frames` the states at every time, int[len(times), B, N]. On a mask path a token has one event, at the time
    that one coin tells, whatever the grid: so a finer grid reveals the same tokens in the same order. On any other
    path it is `simulate` of `finite_step`, token by token. Arguments and errors as in these two.

    >>> model = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> sample(Mixture(mask=2), model, Key(0, 1), np.array([[2, 2, 0]]), [0.0, 0.5, 1.0], frames=True).tolist()
    [[[2, 2, 0]], [[0, 2, 0]], [[0, 1, 0]]]
    """
    increasing("times", times)
    natural("x_0", x_0)
    grid = np.asarray(times, dtype=np.float64)[:, None]
    begin = grid[:-1] if path.mask is None else grid[:1]
    weights = [w[:, None, :] for w in events.redraw_weights(path.schedule, begin, grid[1:])]
    sites = _movable(path, x_0, weights, keep)
    if path.mask is None:
        steps = np.arange(len(times) - 1)
        keys = Key(*random.threefry2x32(key, 0 * steps, steps))  # fold_in(key, i) for every step at once
        drawn = _coins(keys, x_0, sites, weights, first)
    else:
        drawn = _reveals(key, x_0, sites, weights[1], first)
    walk = _walk(path, model, x_0, times, weights, drawn)
    states = [x_0, *walk] if frames else deque(walk, maxlen=1)
    return namespace(x_0).stack(list(states)) if frames else states[-1]


def _euler_redraw(schedule: Schedule, t: Array, s: Array) -> tuple[Array, ...]:
    if not np.all(np.isfinite(events.intensity(schedule, t))):
        raise ValueError(f"t: expected a time at which the rate is finite, got {t.ravel()}")
    return events.euler_redraw(schedule, t, s)


def _step(
    rule: Rule, path: Mixture, model: Model, key: Key, x_t: Array, t: Any, s: Any, keep: Array | None, first: int
) -> Array:
    """The walk of one step, its weights computed on the host: every library has the same to the last bit."""
    t, s = (np.asarray(to_numpy(time), dtype=np.float64) for time in (t, s))
    rows = np.broadcast_shapes((1,), t.shape, s.shape)
    if rows not in ((1,), tuple(x_t.shape[:-1])):
        raise ValueError(f"t, s: expected numbers or the shape {tuple(x_t.shape[:-1])} of the batch, got {rows}")
    if not np.all((t >= 0) & (t < s) & (s <= 1)):
        raise ValueError(f"t, s: expected 0 <= t < s <= 1, got t={t} and s={s}")
    weights = rule(path.schedule, np.broadcast_to(t, rows)[:, None], np.broadcast_to(s, rows)[:, None])
    weights = tuple(w[None, :, :] for w in weights)
    drawn = _coins(Key(*(np.asarray([word]) for word in key)), x_t, _movable(path, x_t, weights, keep), weights, first)
    return next(_walk(path, model, x_t, [t], weights, drawn))


class Events(NamedTuple):
    """The events of one step: the flat sites that have one, int64[E], increasing, and their uniforms, float64[E]."""

    sites: Array
    coin: Array
    value: Array


def _movable(path: Mixture, x_t: Array, weights: Sequence[np.ndarray], keep: Array | None) -> Array:
    """The flat sites that may have events, int64[E]: the hidden ones of a mask path, and none that is kept."""
    xp = namespace(x_t)
    if x_t.ndim != 2 or not xp.isdtype(x_t.dtype, "integral"):
        raise ValueError(f"x_t: expected integer tokens of shape (B, N), got {x_t.dtype} of shape {tuple(x_t.shape)}")
    if weights[0].shape[2] not in (1, x_t.shape[1]):
        raise ValueError(f"schedule: expected one for each of {x_t.shape[1]} tokens, got {weights[0].shape[2]}")
    if path.mask is not None:
        tokens("x_t", x_t, path.mask + 1)
    if keep is not None and (keep.dtype != xp.bool or tuple(keep.shape) != tuple(x_t.shape)):
        raise ValueError(f"keep: expected bool of shape {tuple(x_t.shape)}, got {keep.dtype} of {tuple(keep.shape)}")
    free = xp.ones(x_t.shape, dtype=xp.bool) if path.mask is None else x_t == path.mask
    return xp.nonzero(xp.reshape(free if keep is None else free & ~keep, (-1,)))[0]


def _coins(keys: Key, x_t: Array, sites: Array, weights: Sequence[np.ndarray], first: int) -> Iterator[Events]:
    """The events of K steps, a coin a site and step: keys int64[K] twice, weights m times float64[K, 1 or B, 1 or N].

    Takes together the steps whose coins fit a cache.
    """
    xp, level = namespace(x_t), reduce(np.add, weights)
    num, count = len(keys.hi), sites.shape[0]
    address, width = 2 * (sites + first * x_t.shape[1]), max(1, _LANES // max(1, count))
    for begin in range(0, num, width):
        hi, lo = (word[begin : begin + width] for word in keys)
        coin = random.uniform_at(Key(hi[:, None], lo[:, None]), address[None, :])
        event = coin < _at(level[begin : begin + width, :, :], sites, x_t)
        moves = xp.nonzero(xp.reshape(event, (-1,)))[0]
        step, column = np.divmod(to_numpy(moves), max(1, count))
        column = like(x_t, column)
        value = random.uniform_at(Key(hi[step], lo[step]), xp.take(address, column) + 1)
        coin = xp.take(xp.reshape(coin, (-1,)), moves)
        yield from _by_step(step, len(hi), Events(xp.take(sites, column), coin, value))


def _reveals(key: Key, x_t: Array, sites: Array, share: np.ndarray, first: int) -> Iterator[Events]:
    """The one event of each site: in the first step, if any, up to which its coin lies below the revealed share.

    share: float64[K, 1, 1 or N], of the tokens hidden at the start, revealed by the end of each step.
    """
    xp = namespace(x_t)
    address = 2 * (sites + first * x_t.shape[1])
    coin = random.uniform_at(key, address)
    flips, over = to_numpy(coin), np.zeros(sites.shape[0], dtype=np.int64)
    for level in share:
        over += flips >= to_numpy(_at(level[None, :, :], sites, x_t)[0, :])
    order = np.argsort(over, kind="stable")  # sites increase within a step
    step, order = over[order], like(x_t, order)
    drawn = Events(sites, coin, random.uniform_at(key, address + 1))
    yield from _by_step(step, len(share), Events(*(xp.take(a, order) for a in drawn)))


def _by_step(step: np.ndarray, num: int, drawn: Events) -> Iterator[Events]:
    """The events of each of `num` steps, of events in the order of their steps, int64[E]."""
    bounds = np.searchsorted(step, np.arange(num + 1)).tolist()
    for here in map(slice, bounds, bounds[1:]):
        yield Events(*(a[here] for a in drawn))


def _walk(
    path: Mixture,
    model: Model,
    x_t: Array,
    times: Sequence[Any],
    weights: Sequence[np.ndarray],
    drawn: Iterable[Events],
) -> Iterator[Array]:
    """The states after each step: the model is asked, and values are drawn, where the step has events."""
    xp = namespace(x_t)
    levels = [0.0 * weights[0], *accumulate(weights)]
    live = [j for j, weight in enumerate(weights) if np.any(weight > 0)]
    clock = like(x_t, np.stack([np.broadcast_to(t, x_t.shape[:1]) for t in times]))
    flat = xp.reshape(x_t, (-1,))
    for k, here in enumerate(drawn):
        if here.sites.shape[0]:
            bands = {j: (levels[j][k : k + 1, :, :], levels[j + 1][k : k + 1, :, :]) for j in live}
            tokens = _redraw(path, model, x_t, clock[k, :], *here, bands)
            flat = put(flat, here.sites, xp.astype(tokens, flat.dtype))
            x_t = xp.reshape(flat, x_t.shape)
        yield x_t


def _redraw(
    path: Mixture,
    model: Model,
    x_t: Array,
    t: Array,
    sites: Array,
    coin: Array,
    value: Array,
    bands: dict[int, tuple[np.ndarray, np.ndarray]],
) -> Array:
    """New tokens for the sites, int64[E]: the component in whose band the coin fell draws the value."""
    xp = namespace(x_t)
    everywhere = None if hasattr(model, "at") else model(x_t, t)

    def draw(j: int, sites: Array, u: Array) -> Array:
        component = path.components[j]
        if isinstance(component, Fixed):
            return random.choose(component.rows(sites, x_t.shape[1]), u)
        logits = _posterior(path, model, j, x_t, t, sites, everywhere)
        if path.mask is not None:
            if logits.shape[1] not in (path.mask, path.mask + 1):
                raise ValueError(f"model: expected {path.mask + 1} logits a token, got {logits.shape[1]}")
            logits = logits[:, : path.mask]  # no data is the mask
        return random.choose_logits(logits, u)

    if len(bands) == 1:
        (only,) = bands
        return draw(only, sites, value)
    drawn = xp.zeros_like(sites)
    for j, (low, high) in bands.items():
        fell = (coin >= _at(low, sites, x_t)[0, :]) & (coin < _at(high, sites, x_t)[0, :])
        drawn = put(drawn, xp.nonzero(fell)[0], draw(j, sites[fell], value[fell]))
    return drawn


def _posterior(path: Mixture, model: Any, j: int, x_t: Array, t: Array, sites: Array, everywhere: Any) -> Array:
    """The logits [E, V] of component j at the sites: of a tuple its entry, of a single array those of X1."""
    logits = model.at(x_t, t, sites) if everywhere is None else everywhere
    if isinstance(logits, tuple):
        logits = logits[j] if len(logits) == len(path.components) else None
    elif not isinstance(path.components[j], X1):
        logits = None
    if logits is None:
        raise ValueError(
            f"model: expected a tuple of {len(path.components)} logits with one for component {j}, "
            f"{path.components[j]}, from which this path redraws"
        )
    if everywhere is not None:
        if tuple(logits.shape[:-1]) != tuple(x_t.shape):
            raise ValueError(f"model: expected logits of shape {(*x_t.shape, 'V')}, got {tuple(logits.shape)}")
        xp = namespace(logits)
        logits = xp.take(xp.reshape(logits, (-1, logits.shape[-1])), sites, axis=0)
    if logits.ndim != 2 or logits.shape[0] != sites.shape[0]:
        raise ValueError(f"model.at: expected logits of shape ({sites.shape[0]}, V), got {tuple(logits.shape)}")
    return logits


def _at(level: np.ndarray, sites: Array, x_t: Array) -> Array:
    """Levels float64[K, 1 or B, 1 or N] on the host as float64[K, 1 or E] at the sites of x_t, int[B, N]."""
    if level.shape[1:] != (1, 1):
        level = np.broadcast_to(level, (level.shape[0], *x_t.shape)).reshape(level.shape[0], -1)[:, to_numpy(sites)]
    return like(x_t, level.reshape(level.shape[0], -1))
