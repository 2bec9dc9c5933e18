"""Remasking: correctors of a mask path, which hide revealed tokens again and reveal others in their place.

A hidden token of a mask path is revealed once, and a mistake stays. With remasking it may be taken back, while the law
p_t(.|x_1), a share kappa_t revealed, is kept exactly, in continuous time and in one step from t to s:

- at rates: a revealed token is hidden at any rate eta_t >= 0, and a hidden one is revealed at
  kappa_dot / (1 - kappa) + eta kappa / (1 - kappa);
- in a step: a revealed token is hidden with probability sigma, and a hidden one is revealed with probability
  rho = (kappa_s - kappa_t (1 - sigma)) / (1 - kappa_t), for any sigma <= min(1, (1 - kappa_s) / kappa_t).

The values come from the posterior of the model, frozen at x_t and independent over tokens, as in the finite step. A
prompt must be named by `keep`: any other revealed token may be hidden. With the exact posterior parallel draws are the
only error, and remasking makes more of them: it costs accuracy there (order 1/2 at full strength), and is for models
whose mistakes should not stay. Confidence ordering keeps no law at all, and its name says so.
Source: Wang et al. 2025, "Remasking discrete diffusion models with inference-time scaling" (ReMDM); Campbell et al.
2024 (stochasticity eta).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from . import random
from .arrays import like, log_softmax, namespace, one_hot, pick, put, to_numpy
from .checks import increasing, same_shape
from .events import intensity, redraw_weights
from .paths import Mixture, per_token
from .protocols import Array, Key, Model
from .redraws import ask, interval, movable
from .schedules import Schedule
from .transitions import euler

__all__ = [
    "Rule",
    "capped",
    "fixed",
    "inexact_confidence_remasking",
    "inexact_confidence_step",
    "most",
    "rescaled",
    "reveal_probability",
    "step",
    "transition",
    "velocity",
]

Rule: TypeAlias = Callable[..., Array]
"""``sigma = rule(schedule, t, s, strength=...)``: the probability that a revealed token is hidden in a step."""


def velocity(path: Mixture, probs_1: Array, x_t: Array, t: Array, *, rate: Array, keep: Array | None = None) -> Array:
    """The velocity of the path with remasking at a rate eta >= 0, per unit of t: int[..., N] -> float64[..., N, V].

    probs_1, float[..., N, V], gives the mask, the last token, 0. The rate is a number or float[...] like t < 1; tokens
    where keep, bool[..., N], holds have none. It is `velocities.corrected` with beta = eta kappa / kappa_dot.
    ValueError unless the path has a mask, t < 1, and the rate is finite and >= 0, which keeps all rates >= 0.
    Source: Campbell et al. 2024, stochasticity; Gat et al. 2024, corrector sampling.

    >>> velocity(Mixture(mask=2), np.array([[0.5, 0.5, 0.0]] * 2), np.array([2, 0]), 0.5, rate=3.0)
    array([[ 2.5,  2.5, -5. ],
           [-3. ,  0. ,  3. ]])
    """
    xp, time, rate = namespace(probs_1, x_t), per_token(t, x_t), per_token(rate, x_t)
    if not bool(xp.all((rate >= 0) & (rate < xp.inf))):
        raise ValueError("rate: expected finite rates >= 0, at which a revealed token is hidden, got one outside")
    if not bool(xp.all(time < 1)):
        raise ValueError("t: expected times < 1, where the rate of a hidden token is finite")
    _mask(path)
    rest, kappa = path.schedule.kappas(time)
    reveals = intensity(path.schedule, time) + rate * kappa / rest
    moved = _moves(path, probs_1, x_t, reveals, rate + 0.0 * kappa, keep)
    return moved - one_hot(x_t, moved.shape[-1]) * xp.sum(moved, axis=-1, keepdims=True)


def most(schedule: Schedule, t: Array, s: Array) -> Array:
    """sigma_max = min(1, (1 - kappa_s) / kappa_t), the largest share of revealed tokens that a step may hide.

    With more, not even a step that reveals every hidden token reaches kappa_s. 0 at s = 1 and 1 at t = 0, where no
    token is revealed. Times as in `events`. Source: Wang et al. 2025.

    >>> from .schedules import Linear
    >>> float(most(Linear(), 0.5, 0.75))
    0.5
    """
    kappa, rest = schedule.kappas(t)[1], schedule.kappas(s)[0]
    xp = namespace(kappa, rest)
    return xp.where(kappa > rest, rest / xp.where(kappa > rest, kappa, 1.0 + kappa), 1.0 + 0.0 * rest)


def capped(schedule: Schedule, t: Array, s: Array, *, strength: float) -> Array:
    """sigma = min(strength, sigma_max), strength in [0, 1]. Source: Wang et al. 2025, ReMDM-cap.

    >>> from .schedules import Linear
    >>> float(capped(Linear(), 0.5, 0.75, strength=0.1))
    0.1
    """
    top = most(schedule, t, s)
    return namespace(top).minimum(_share(strength) + 0.0 * top, top)


def rescaled(schedule: Schedule, t: Array, s: Array, *, strength: float) -> Array:
    """sigma = strength sigma_max, strength in [0, 1]. Source: Wang et al. 2025, ReMDM-rescale.

    >>> from .schedules import Linear
    >>> float(rescaled(Linear(), 0.5, 0.75, strength=0.5))
    0.25
    """
    return _share(strength) * most(schedule, t, s)


def fixed(schedule: Schedule, t: Array, s: Array, *, strength: float) -> Array:
    """sigma = strength as it stands; ValueError where it exceeds sigma_max, beyond which rho > 1.

    >>> from .schedules import Linear
    >>> fixed(Linear(), 0.5, 0.9, strength=0.5)
    Traceback (most recent call last):
    ValueError: strength: expected at most sigma_max = min(1, (1 - kappa_s) / kappa_t) = 0.2, got 0.5
    """
    top = most(schedule, t, s)
    least = float(namespace(top).min(top))
    if not _share(strength) <= least:
        raise ValueError(
            f"strength: expected at most sigma_max = min(1, (1 - kappa_s) / kappa_t) = {least:.3g}, got {strength}"
        )
    return strength + 0.0 * top


def reveal_probability(schedule: Schedule, t: Array, s: Array, sigma: Array) -> Array:
    """rho = (kappa_s - kappa_t (1 - sigma)) / (1 - kappa_t), in [0, 1] for 0 <= sigma <= `most`; t < s <= 1.

    Without remasking it is the finite step's, (kappa_s - kappa_t) / (1 - kappa_t). Source: Wang et al. 2025.

    >>> from .schedules import Linear
    >>> float(reveal_probability(Linear(), 0.5, 0.75, 0.5))
    1.0
    """
    rest, kappa = schedule.kappas(t)
    rho = redraw_weights(schedule, t, s)[1] + sigma * kappa / rest
    return namespace(rho).minimum(rho, 1.0 + 0.0 * rho)


def transition(
    path: Mixture,
    probs_1: Array,
    x_t: Array,
    t: Array,
    s: Array,
    *,
    strength: float,
    rule: Rule = rescaled,
    keep: Array | None = None,
) -> Array:
    """The law of each token after `step`, float64[..., N, V], the tokens independent given x_t.

    probs_1, float[..., N, V], gives the mask, the last token, 0. Given x_1, a point mass, it carries p_t(.|x_1) to
    p_s(.|x_1) exactly. Times are numbers or float[...]. Errors as in `step`. Source: Wang et al. 2025.

    >>> transition(Mixture(mask=2), np.array([[0.5, 0.5, 0.0]] * 2), np.array([2, 0]), 0.5, 0.75, strength=0.5)
    array([[0.375, 0.375, 0.25 ],
           [0.75 , 0.   , 0.25 ]])
    """
    _mask(path)
    t, s = per_token(t, x_t), per_token(s, x_t)
    sigma = rule(path.schedule, t, s, strength=strength)
    rho = reveal_probability(path.schedule, t, s, sigma)
    return euler(_moves(path, probs_1, x_t, rho, sigma, keep), x_t, 1.0)


def step(
    path: Mixture,
    model: Model,
    key: Key,
    x_t: Array,
    t: Any,
    s: Any,
    *,
    strength: float,
    rule: Rule = rescaled,
    keep: Array | None = None,
    first: int = 0,
) -> Array:
    """x_s from x_t, int[B, N], by the finite step with remasking, which given x_1 keeps the path exactly.

    Each revealed token is hidden with probability sigma, which `rule` makes of the strength: `rescaled`, `capped` or
    `fixed`; each hidden one is revealed with probability `reveal_probability`, and only there logits are asked. With
    strength 0 it is `samplers.finite_step`, token by token; s = 1 leaves no mask. Times, `keep`, `first` and the sites
    of coin and value as there. ValueError unless the path has a mask, and the strength is in the rule's domain.
    Source: Wang et al. 2025 (ReMDM).

    >>> model = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> step(Mixture(mask=2), model, Key(0, 1), np.array([[2, 2, 0, 0, 1]]), 0.5, 0.6, strength=1.0)
    array([[0, 1, 2, 2, 2]])
    """
    _mask(path)
    t, s = interval(x_t, t, s)
    sigma = rule(path.schedule, t, s, strength=strength)
    return _move(path, model, key, x_t, t, reveal_probability(path.schedule, t, s, sigma), sigma, keep, first).x_s


def inexact_confidence_remasking(
    path: Mixture,
    model: Model,
    key: Key,
    x_0: Array,
    times: Sequence[float],
    *,
    strength: float,
    rule: Rule = rescaled,
    keep: Array | None = None,
    frames: bool = False,
    first: int = 0,
) -> Array:
    """INEXACT: `samplers.simulate` of `step` where tokens that were drawn unsurely are hidden again more often.

    The probability to be hidden is sigma exp(-p) over its mean in the sequence (at most 1), with p the probability that
    the model gave the token when it drew it, and 1 for those of x_0. So the expected number of revealed tokens is kept,
    but not p_t nor the law of the data: improbable values are drawn anew, as in `inexact_confidence_step`.
    Arguments, draws and errors as in these two. Source: Wang et al. 2025, ReMDM-conf, there without the mean.

    >>> model = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> x_0, times = np.array([[2, 2, 2]]), [0.0, 0.5, 1.0]
    >>> inexact_confidence_remasking(Mixture(mask=2), model, Key(0, 1), x_0, times, strength=0.5)
    array([[1, 0, 1]])
    """
    increasing("times", times)
    movable(path, x_0, keep=keep)
    mask, states, sure = _mask(path), [x_0], np.ones(x_0.shape)
    free = np.ones(x_0.shape, dtype=bool) if keep is None else ~to_numpy(keep)
    for i, ends in enumerate(pairwise(times)):
        (t, s), shown = interval(x_0, *ends), (to_numpy(states[-1]) != mask) & free
        sigma = rule(path.schedule, t, s, strength=strength)
        rho = reveal_probability(path.schedule, t, s, sigma)
        weight = np.exp(-sure) * shown
        mean = np.sum(weight, axis=-1, keepdims=True) / np.maximum(np.sum(shown, axis=-1, keepdims=True), 1)
        level = np.minimum(sigma * weight / np.where(mean > 0, mean, 1.0), 1.0)
        moved = _move(path, model, random.fold_in(key, i), states[-1], t, rho, level, keep, first)
        np.put(sure, to_numpy(moved.sites), to_numpy(moved.probs))
        states = [*states, moved.x_s] if frames else [moved.x_s]
    return namespace(x_0).stack(states) if frames else states[-1]


def inexact_confidence_step(
    path: Mixture, model: Model, key: Key, x_t: Array, t: Any, s: Any, *, keep: Array | None = None, first: int = 0
) -> Array:
    """INEXACT: x_s from x_t, int[B, N], where the hidden tokens whose drawn values are most probable are revealed.

    Every hidden token draws a value; as many are revealed as the schedule expects, sum of (kappa_s - kappa_t) /
    (1 - kappa_t), rounded down or up at random, the surest first and of equally sure ones the first. As improbable
    values are thrown away and drawn anew, neither p_t nor the law of the data is kept, even with the exact posterior
    and one token a step. Logits are asked at every hidden token. s = 1 leaves no mask. Arguments as in
    `samplers.finite_step`; token i draws at the site of its value, sequence b rounds by the coin of its first token.
    Source: Chang et al. 2022 (MaskGIT), without its temperature.

    >>> model = lambda x_t, t: np.log([[[0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]])
    >>> with np.errstate(divide="ignore"):
    ...     inexact_confidence_step(Mixture(mask=2), model, Key(0, 1), np.array([[2, 2, 2, 2]]), 0.0, 0.25)
    array([[2, 1, 2, 2]])
    """
    _mask(path)
    (t, s), (batch, length) = interval(x_t, t, s), x_t.shape
    xp, sites = namespace(x_t), movable(path, x_t, keep=keep)
    if not sites.shape[0]:
        return x_t
    value, probs = _values(path, model, key, x_t, t, sites, first)
    here = to_numpy(sites)
    row, rho = here // length, np.broadcast_to(reveal_probability(path.schedule, t, s, 0.0), x_t.shape)
    expected = np.bincount(row, weights=rho.reshape(-1)[here], minlength=batch)
    coin = random.uniform_at(key, 2 * length * (first + np.arange(batch)))
    number = np.floor(expected + coin)
    order = np.lexsort((here, -to_numpy(probs), row))
    place = np.arange(len(here)) - np.searchsorted(row, row)  # in its own row: sites increase
    chosen = like(x_t, np.sort(order[place < number[row]]))
    x_s = put(xp.reshape(x_t, (-1,)), xp.take(sites, chosen), xp.astype(xp.take(value, chosen), x_t.dtype))
    return xp.reshape(x_s, x_t.shape)


def _mask(path: Mixture) -> int:
    if path.mask is None:
        raise ValueError(f"path: expected one with a mask, for only a mask can be hidden behind, got {path}")
    return path.mask


def _share(strength: float) -> float:
    if not 0 <= strength <= 1:
        raise ValueError(
            f"strength: expected a probability in [0, 1], which keeps those of a step >= 0, got {strength}"
        )
    return strength


def _moves(path: Mixture, probs_1: Array, x_t: Array, reveals: Array, hides: Array, keep: Array | None) -> Array:
    """float64[..., N, V] without the diagonal: hidden tokens to probs_1 with the weight reveals, others to the mask."""
    xp, mask = namespace(probs_1, x_t), _mask(path)
    same_shape(x_t=x_t, probs_1=probs_1[..., 0], **({} if keep is None else {"keep": keep}))
    if probs_1.shape[-1] != mask + 1:
        raise ValueError(f"probs_1: expected {mask + 1} probabilities a token, got {probs_1.shape[-1]}")
    hidden, to_mask = (x_t == mask)[..., None], one_hot(like(x_t, mask), mask + 1)
    data = xp.astype(probs_1, xp.float64) * (1 - to_mask)
    moved = xp.where(hidden, reveals[..., None] * data, hides[..., None] * to_mask)
    return moved if keep is None else xp.where(keep[..., None], 0.0 * moved, moved)


def _shown(path: Mixture, x_t: Array, keep: Array | None) -> Array:
    """The flat sites of revealed tokens that are no prompt, int64[E]."""
    shown = x_t != path.mask
    xp = namespace(x_t)
    return xp.nonzero(xp.reshape(shown if keep is None else shown & ~keep, (-1,)))[0]


class _Moved(NamedTuple):
    """The state after a step, and the flat sites that it revealed with the probabilities of their values."""

    x_s: Array
    sites: Array
    probs: Array


def _move(
    path: Mixture,
    model: Model,
    key: Key,
    x_t: Array,
    t: np.ndarray[Any, Any],
    rho: np.ndarray[Any, Any],
    sigma: np.ndarray[Any, Any],
    keep: Array | None,
    first: int,
) -> _Moved:
    """Reveals hidden tokens with probability rho and hides revealed ones with sigma, float64[1 or B, 1 or N] each."""
    xp, mask = namespace(x_t), _mask(path)
    hidden, shown = movable(path, x_t, keep=keep), _shown(path, x_t, keep)
    reveal, hide = (_events(key, x_t, *pair, first) for pair in ((hidden, rho), (shown, sigma)))
    x_s = put(xp.reshape(x_t, (-1,)), hide, xp.full(hide.shape, mask, dtype=x_t.dtype))
    if not reveal.shape[0]:
        return _Moved(xp.reshape(x_s, x_t.shape), reveal, reveal)
    value, probs = _values(path, model, key, x_t, t, reveal, first)
    x_s = put(x_s, reveal, xp.astype(value, x_t.dtype))
    return _Moved(xp.reshape(x_s, x_t.shape), reveal, probs)


def _events(key: Key, x_t: Array, sites: Array, level: np.ndarray[Any, Any], first: int) -> Array:
    """Those of the sites whose coin lies below the level, float64[1 or B, 1 or N]."""
    levels = like(x_t, np.broadcast_to(level, x_t.shape).reshape(-1)[to_numpy(sites)])
    return sites[random.uniform_at(key, 2 * (sites + first * x_t.shape[1])) < levels]


def _values(
    path: Mixture, model: Model, key: Key, x_t: Array, t: np.ndarray[Any, Any], sites: Array, first: int
) -> tuple[Array, Array]:
    """The draws of the model at the flat sites, int64[E], and the probabilities that it gave them, float64[E]."""
    xp = namespace(x_t)
    logits = ask(path, model, x_t, like(x_t, np.broadcast_to(t[:, 0], x_t.shape[:1]).copy()))(1, sites)
    value = random.choose_logits(logits, random.uniform_at(key, 2 * (sites + first * x_t.shape[1]) + 1))
    return value, xp.exp(pick(log_softmax(xp.astype(logits, xp.float64)), value))
