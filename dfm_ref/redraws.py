"""Redraws: new tokens for the sites of a batch that have an event.

A site is a flat position b N + i of a batch, int[B, N]. The model is asked once a state, at the sites alone if it
offers `at`; on a mask path only hidden tokens have anything to redraw, and no data is the mask.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from . import random
from .arrays import namespace, one_hot, put, to_numpy
from .checks import tokens
from .paths import X1, Fixed, Mixture
from .protocols import Array, Model

__all__ = ["Ask", "Events", "ask", "interval", "jump", "movable", "rates", "redraw"]

Ask: TypeAlias = Callable[[int, Array], Array]
"""``rows = asked(j, sites)``: the logits of component j at sites int64[E] of one state, float[E, V]."""


class Events(NamedTuple):
    """The events of one step: the sites that have one, int64[E], increasing, and their uniforms, float64[E]."""

    sites: Array
    coin: Array
    value: Array


def interval(x_t: Array, t: Any, s: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The times of a step on the host, float64[1 or B, 1] each, of numbers or float[B].

    Raises ValueError unless 0 <= t < s <= 1, one for all sequences of x_t, int[B, N], or one for each.

    >>> interval(np.zeros((2, 3), dtype=int), 0.25, [0.5, 1.0])[1].tolist()
    [[0.5], [1.0]]
    """
    t, s = (np.asarray(to_numpy(time), dtype=np.float64) for time in (t, s))
    rows = np.broadcast_shapes((1,), t.shape, s.shape)
    if rows not in ((1,), tuple(x_t.shape[:-1])):
        raise ValueError(f"t, s: expected numbers or the shape {tuple(x_t.shape[:-1])} of the batch, got {rows}")
    if not np.all((t >= 0) & (t < s) & (s <= 1)):
        raise ValueError(f"t, s: expected 0 <= t < s <= 1, got t={t} and s={s}")
    return np.broadcast_to(t, rows)[:, None], np.broadcast_to(s, rows)[:, None]


def movable(path: Mixture, x_t: Array, *, keep: Array | None = None) -> Array:
    """The sites that may have events, int64[E]: the hidden ones of a mask path, and none that is kept.

    Raises ValueError unless x_t is int[B, N], within the vocabulary of a mask path, and keep bool of its shape.

    >>> movable(Mixture(mask=2), np.array([[2, 0], [1, 2]]))
    array([0, 3])
    """
    xp = namespace(x_t)
    if x_t.ndim != 2 or not xp.isdtype(x_t.dtype, "integral"):
        raise ValueError(f"x_t: expected integer tokens of shape (B, N), got {x_t.dtype} of shape {tuple(x_t.shape)}")
    count = path.schedule.kappas(np.asarray([0.5]))[0].shape[-1]
    if count not in (1, x_t.shape[1]):
        raise ValueError(f"schedule: expected one for each of {x_t.shape[1]} tokens, got {count}")
    if path.mask is not None:
        tokens("x_t", x_t, path.mask + 1)
    if keep is not None and (keep.dtype != xp.bool or tuple(keep.shape) != tuple(x_t.shape)):
        raise ValueError(f"keep: expected bool of shape {tuple(x_t.shape)}, got {keep.dtype} of {tuple(keep.shape)}")
    free = xp.ones(x_t.shape, dtype=xp.bool) if path.mask is None else x_t == path.mask
    return xp.nonzero(xp.reshape(free if keep is None else free & ~keep, (-1,)))[0]


def ask(path: Mixture, model: Model, x_t: Array, t: Array) -> Ask:
    """The model's logits at a state int[B, N] and times float64[B], to be looked up: one call for all, or one a look.

    Of a tuple the component's entry counts, of a single array that of X1. ValueError where a component's logits are
    missing, or their shape is not [B, N, V].

    >>> asked = ask(Mixture(mask=2), lambda x_t, t: np.zeros((1, 2, 3)), np.array([[2, 2]]), np.array([0.5]))
    >>> asked(1, np.array([0])).shape  # without the mask
    (1, 2)
    """
    everywhere = None if hasattr(model, "at") else model(x_t, t)

    def rows(j: int, sites: Array) -> Array:
        logits = _posterior(path, model, j, x_t, t, sites, everywhere)
        if path.mask is None:
            return logits
        if logits.shape[1] not in (path.mask, path.mask + 1):
            raise ValueError(f"model: expected {path.mask + 1} logits a token, got {logits.shape[1]}")
        return logits[:, : path.mask]  # no data is the mask

    return rows


def redraw(path: Mixture, asked: Ask, x_t: Array, events: Events, bands: Mapping[int, tuple[Array, Array]]) -> Array:
    """New tokens for the sites, int64[E]: the component in whose band [low, high) the coin fell draws the value.

    Bands are float64[E] or [1] by component; where there is one alone, it draws all.

    >>> asked = lambda j, sites: np.log([[0.25, 0.75]] * len(sites))
    >>> here = Events(np.array([1]), np.array([0.5]), np.array([0.5]))
    >>> redraw(Mixture(), asked, np.array([[0, 0]]), here, {1: (np.array([0.0]), np.array([1.0]))})
    array([1])
    """
    xp = namespace(x_t)
    sites, coin, value = events

    def draw(j: int, sites: Array, u: Array) -> Array:
        component = path.components[j]
        if isinstance(component, Fixed):
            return random.choose(component.rows(sites, x_t.shape[1]), u)
        return random.choose_logits(asked(j, sites), u)

    if len(bands) == 1:
        (only,) = bands
        return draw(only, sites, value)
    drawn = xp.zeros_like(sites)
    for j, (low, high) in bands.items():
        fell = (coin >= low) & (coin < high)
        drawn = put(drawn, xp.nonzero(fell)[0], draw(j, sites[fell], value[fell]))
    return drawn


def rates(path: Mixture, asked: Ask, x_t: Array, sites: Array, weights: Sequence[Array]) -> Array:
    """sum_j a^j w_hat^j off the token that is there, float64[E, V]: how fast each site would move, and where to.

    The weights a^j are m arrays float64[E] or [1]; where all of them are 0, it is the number 0.

    >>> asked = lambda j, sites: np.log([[0.25, 0.75]] * len(sites))
    >>> rates(Mixture(), asked, np.array([[0, 1]]), np.array([0, 1]), (np.zeros(1), np.array([2.0])))
    array([[0. , 1.5],
           [0.5, 0. ]])
    """
    xp = namespace(x_t)
    total: Any = 0.0
    for j, (weight, component) in enumerate(zip(weights, path.components, strict=True)):
        if isinstance(component, Fixed):
            total = total + weight[:, None] * component.rows(sites, x_t.shape[1])
        elif bool(xp.any(weight > 0)):
            total = total + weight[:, None] * _softmax(asked(j, sites))
    if path.mask is not None or not hasattr(total, "shape"):
        return total  # hidden sites have no column for their token, the mask; and nothing moves where no rate is
    return total * (1 - one_hot(xp.take(xp.reshape(x_t, (-1,)), sites), total.shape[1]))


def jump(rates: Array, h: Array, x: Array, coin: Array, value: Array) -> Array:
    """The token after time h at constant rates float[E, V]: x, int64[E], or the target of one move.

    Leaves with probability 1 - exp(-h L), L the sum of the rates, where the coin lies below it, in proportion to them.

    >>> jump(np.array([[0.0, 2.0]]), np.array([1.0]), np.array([0]), np.array([0.8]), np.array([0.5]))
    array([1])
    """
    xp = namespace(rates)
    total = xp.sum(rates, axis=-1)
    moves = xp.nonzero(coin < -xp.expm1(-h * total))[0]
    share = xp.take(rates, moves, axis=0) / xp.take(total, moves)[:, None]
    return put(x, moves, random.choose(share, xp.take(value, moves)))


def _softmax(logits: Array) -> Array:
    xp = namespace(logits)
    logits = xp.astype(logits, xp.float64)
    top = xp.max(logits, axis=-1, keepdims=True)
    if not bool(xp.all(xp.isfinite(top))):
        raise ValueError("logits: expected rows that are distributions, got one with NaN or +inf, or without mass")
    weights = xp.exp(logits - top)
    return weights / xp.sum(weights, axis=-1, keepdims=True)


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
