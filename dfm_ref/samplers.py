"""Samplers: from x_0 to x_1, one event at a time.

A step moves x_t to x_s in the law of its rule: each token, independently given x_t, is redrawn with a probability
known from the schedule, from a component chosen by the schedule, whose value a posterior of the model draws. Events
are drawn first; logits are evaluated and values drawn only at the tokens that have one.

Token i of sequence b has two uniforms a step, under the key of the step: at the site 2((first + b) N + i) the coin,
which says whether there is an event and of which component, and at the next site the value. So a shard (`first` is
the global index of its first sequence), another batch size, and a lazy or a dense model give the same tokens.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import numpy as np

from . import events, random
from .arrays import like, log, log_softmax, namespace, one_hot, put, to_numpy
from .checks import increasing, natural, tokens
from .paths import X0, X1, Mixture, pmf_at
from .protocols import Array, Key, Model, Step
from .redraws import Ask, Events, ask, interval, jump, movable, rates, redraw
from .schedules import Schedule
from .velocities import unmix

__all__ = [
    "Strength",
    "bounded_times",
    "corrected_step",
    "corrector_step",
    "euler_step",
    "exponential_step",
    "finite_step",
    "flow_matching_step",
    "predictor_corrector_step",
    "sample",
    "simulate",
    "trapezoidal_step",
]

Rule: TypeAlias = Callable[[Any, Array, Array], tuple[Array, ...]]

_LANES = 1 << 16  # coins drawn in one go: steps are drawn together while a cache holds them


def finite_step(
    path: Mixture, model: Model, key: Key, x_t: Array, t: Any, s: Any, *, keep: Array | None = None, first: int = 0
) -> Array:
    """x_s from x_t, int[B, N], by the finite step: exact given the pair, for any t < s <= 1, s = 1 included.

    A token stays with probability `events.stay`, else component j is chosen with weight c^j and its posterior,
    frozen at x_t and t, draws the value. Times are numbers or float[B]. Tokens where `keep`, bool[B, N], holds are a
    prompt and never move, as under the point masses that are their posteriors. ValueError unless t < s in [0, 1].
    For two components it is the ancestral step of masked diffusion.
    Source: Gat et al. 2024, Theorem 3, integrated over [t, s].

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


def exponential_step(
    path: Mixture, model: Model, key: Key, x_t: Array, t: Any, s: Any, *, keep: Array | None = None, first: int = 0
) -> Array:
    """x_s from x_t, int[B, N]: each token leaves with probability 1 - exp(-(s - t) L) at its rates frozen at x_t.

    L is the sum of the token's rates, `transitions.exponential` of the forward velocity. Arguments as in
    `finite_step`; logits are asked for where the coin lies below 1 - exp(-(s - t) intensity). ValueError where the
    rate is infinite. Source: Campbell et al. 2022 (tau-leaping, one jump a token).

    >>> model = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> exponential_step(Mixture(mask=2), model, Key(0, 1), np.array([[2, 2, 2, 0]]), 0.0, 0.5)
    array([[0, 2, 1, 0]])
    """
    t, s = interval(x_t, t, s)
    clock, pace = _clock(x_t, t), _rates(path, t)
    return _leap(path, [(1.0, ask(path, model, x_t, clock), x_t, pace)], key, x_t, s - t, keep, first)


def trapezoidal_step(
    path: Mixture,
    model: Model,
    key: Key,
    x_t: Array,
    t: Any,
    s: Any,
    *,
    theta: float = 0.5,
    keep: Array | None = None,
    first: int = 0,
) -> Array:
    """x_s from x_t, int[B, N], by the theta-trapezoidal rule in two exponential stages; it asks the model twice.

    The second stage runs from the midpoint y at t + theta (s - t) for the rest of the step, at the rates of
    `transitions.trapezoid_rates`. Arguments as in `finite_step`; ValueError unless 0 < theta < 1 and the rates at
    t and at the midpoint are finite. Source: Ren et al. 2025, after Anderson and Mattingly 2011.

    >>> model = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> trapezoidal_step(Mixture(mask=2), model, Key(0, 1), np.array([[2, 2, 2, 0]]), 0.0, 0.5)
    array([[2, 0, 1, 0]])
    """
    if not 0 < theta < 1:
        raise ValueError(f"theta: expected a number in (0, 1), got {theta}")
    t, s = interval(x_t, t, s)
    middle = t + theta * (s - t)
    before = (ask(path, model, x_t, _clock(x_t, t)), x_t, _rates(path, t))
    keys = random.split(key)
    y = _leap(path, [(1.0, *before)], keys[0], x_t, middle - t, keep, first)
    after = (ask(path, model, y, _clock(x_t, middle)), y, _rates(path, middle))
    a = 1 / (2 * theta * (1 - theta))
    return _leap(path, [(a, *after), (1 - a, *before)], keys[1], y, s - middle, keep, first)


def flow_matching_step(
    path: Mixture, model: Model, key: Key, x_t: Array, t: Any, s: Any, *, keep: Array | None = None, first: int = 0
) -> Array:
    """x_s from x_t, int[B, N], by the rule of the flow_matching package, for comparison; a step to s = 1 returns x_1.

    Each token is redrawn from p_{1|t} with probability 1 - exp(-(s - t) kappa_dot / (1 - kappa)), as the law of
    `transitions.flow_matching` says without noise. Arguments as in `finite_step`; ValueError unless the path is
    between X0 and X1, and redraws from X1. Source: Lipman et al. 2024 (guide), MixtureDiscreteEulerSolver.

    >>> model = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> flow_matching_step(Mixture(mask=2), model, Key(0, 1), np.array([[2, 2, 2, 0]]), 0.0, 1.0)
    array([[0, 1, 1, 0]])
    """
    if path.components != (X0(), X1()):
        raise ValueError(f"path: expected the components (X0(), X1()), got {path.components}")
    return _step(_flow_matching_redraw, path, model, key, x_t, t, s, keep, first)


def corrector_step(
    path: Mixture,
    model: Model,
    key: Key,
    x_t: Array,
    t: Any,
    h: Any,
    *,
    source_pmf: Array | None = None,
    keep: Array | None = None,
    first: int = 0,
) -> Array:
    """x_t moved by an Euler step of length h at a fixed t with u_forward - u_backward, which leaves p_t: int[B, N].

    Each token is redrawn from the posteriors at rates a^j, and from those of the backward velocity at its own. The
    posterior of X0 is the mask on a mask path, so that revealed tokens are hidden again; that of an independent source
    with `source_pmf`, float[V] or float[N, V], else the model's. The error is O(h^2), as the tokens move at once. Where
    h exceeds 1 / (the rates of the token) its event is sure. Domain 0 < t < 1.
    Source: Gat et al. 2024, corrector steps; Campbell et al. 2022.

    >>> model = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> corrector_step(Mixture(mask=2), model, Key(0, 1), np.array([[2, 2, 0, 1]]), 0.5, 0.4)
    array([[0, 1, 2, 2]])
    """
    return _correct(path, model, key, x_t, t, h, 1.0, 1.0, source_pmf, keep, first)


def corrected_step(
    path: Mixture,
    model: Model,
    key: Key,
    x_t: Array,
    t: Any,
    s: Any,
    *,
    beta: Callable[[Array], Array],
    source_pmf: Array | None = None,
    keep: Array | None = None,
    first: int = 0,
) -> Array:
    """x_s from x_t, int[B, N], by an Euler step with (1 + beta_t) u_forward - beta_t u_backward, beta_t >= 0.

    Every strength generates the same path; `Strength` is bounded near both ends. Further as in `corrector_step`,
    where a step at t = 0 needs beta_0 = 0. Source: Gat et al. 2024, corrector sampling.

    >>> model = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> corrected_step(Mixture(mask=2), model, Key(0, 1), np.array([[2, 2, 0, 1]]), 0.5, 0.7, beta=Strength(4.0))
    array([[0, 1, 2, 1]])
    """
    t, s = interval(x_t, t, s)
    strength = np.asarray(beta(t), dtype=np.float64)
    if not np.all((strength >= 0) & (strength < np.inf)):
        raise ValueError(f"beta: expected strengths >= 0, which keep the rates >= 0, got {strength.ravel()}")
    return _correct(path, model, key, x_t, t[:, 0], (s - t)[:, 0], 1 + strength, strength, source_pmf, keep, first)


@dataclass(frozen=True)
class Strength:
    """beta_t = scale t^a (1 - t)^b: with a, b >= 1 the rates of a linear schedule's corrector are bounded.

    Source: Gat et al. 2024, corrector sampling.

    >>> Strength(4.0)(0.5)
    1.0
    """

    scale: float
    a: float = 1.0
    b: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("scale", self.scale), ("a", self.a), ("b", self.b)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: expected a number >= 0, which keeps the rates >= 0, got {value}")

    def __call__(self, t: Array) -> Array:
        return self.scale * t**self.a * (1 - t) ** self.b


def predictor_corrector_step(
    path: Mixture,
    model: Model,
    key: Key,
    x_t: Array,
    t: Any,
    s: Any,
    *,
    steps: int = 1,
    size: float,
    source_pmf: Array | None = None,
    keep: Array | None = None,
    first: int = 0,
) -> Array:
    """x_s from x_t, int[B, N]: a finite step to s, then `steps` corrector steps of length `size` at s.

    At s = 1, where the corrector's rates are infinite, there are none. With a wrong model the corrector does not fix
    the model's own law, and the total variation stalls as the steps become many. Further as in `corrector_step`.
    Source: Gat et al. 2024; Campbell et al. 2022, predictor-corrector.

    >>> model = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> predictor_corrector_step(Mixture(mask=2), model, Key(0, 1), np.array([[2, 2, 2]]), 0.0, 0.5, size=0.1)
    array([[2, 0, 1]])
    """
    if steps < 0 or not size > 0:
        raise ValueError(f"steps, size: expected a number >= 0 of steps of a length > 0, got {steps} and {size}")
    keys = random.split(key, steps + 1)
    x_s = finite_step(path, model, keys[0], x_t, t, s, keep=keep, first=first)
    for corrector_key in keys[1:] if np.all(to_numpy(s) < 1) else ():
        x_s = corrector_step(path, model, corrector_key, x_s, s, size, source_pmf=source_pmf, keep=keep, first=first)
    return x_s


def bounded_times(schedule: Schedule, *, t_0: float = 0.0, T: float = 1.0, share: float = 0.5) -> list[float]:
    """Times from t_0 to T at which a token has an event in a step with probability `share`, or a little less.

    A step h is also at most share / intensity, so that Euler's rule is a PMF. Steps shrink with what is left of the
    decaying component; below 1e-3 one last step goes to T. Of schedules per token the fastest one counts.
    ValueError unless 0 <= t_0 < T <= 1 and 0 < share < 1. Source: Gat et al. 2024, the condition h <= 1 / |u|.

    >>> from .schedules import Linear
    >>> bounded_times(Linear(), T=0.9)[:3]
    [0.0, 0.5, 0.75]
    """
    if not (0 <= t_0 < T <= 1 and 0 < share < 1):
        raise ValueError(f"t_0, T, share: expected 0 <= t_0 < T <= 1 and 0 < share < 1, got {t_0}, {T} and {share}")

    def left(t: float, s: float) -> float:
        return float(np.min(events.survival(schedule, np.asarray([t]), np.asarray([s]))))

    times = [t_0]
    while left(t_0, times[-1]) > 1e-3:
        t = low = times[-1]
        high = min(1.0, t + share * float(np.min(events.step_bound(schedule, np.asarray([t])))))
        if left(t, high) < 1 - share:
            for _ in range(52):
                middle = (low + high) / 2
                low, high = (low, middle) if left(t, middle) < 1 - share else (middle, high)
        if high >= T:
            break
        times.append(high)
    return [*times, T]


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
    sites = movable(path, x_0, keep=keep)
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


def _flow_matching_redraw(schedule: Schedule, t: Array, s: Array) -> tuple[Array, ...]:
    redrawn = np.where(s == 1, 1.0, -np.expm1((t - s) * events.data_intensity(schedule, t)))
    return 0.0 * redrawn, redrawn


def _step(
    rule: Rule, path: Mixture, model: Model, key: Key, x_t: Array, t: Any, s: Any, keep: Array | None, first: int
) -> Array:
    """The walk of one step, its weights computed on the host: every library has the same to the last bit."""
    t, s = interval(x_t, t, s)
    weights = tuple(w[None, :, :] for w in rule(path.schedule, t, s))
    here = _coins_of_step(key, x_t, movable(path, x_t, keep=keep), weights, first)
    return next(_walk(path, model, x_t, [t[:, 0]], weights, [here]))


def _clock(x_t: Array, t: np.ndarray) -> Array:
    """The times float64[1 or B, 1] of the host as those that a model is asked with, float64[B]."""
    return like(x_t, np.broadcast_to(t[:, 0], x_t.shape[:1]).copy())


def _rates(path: Mixture, t: np.ndarray) -> tuple[np.ndarray, ...]:
    """a_t^j on the host, m arrays float64[1 or B, 1 or N]; ValueError where the intensity is infinite."""
    if not np.all(np.isfinite(events.intensity(path.schedule, t))):
        raise ValueError(f"t: expected a time at which the rate is finite, got {t.ravel()}")
    return events.redraw_rates(path.schedule, t)


def _leap(
    path: Mixture,
    parts: Sequence[tuple[float, Ask, Array, tuple[np.ndarray, ...]]],
    key: Key,
    x: Array,
    h: np.ndarray,
    keep: Array | None,
    first: int,
) -> Array:
    """One exponential stage from x for a time h, float64[1 or B, 1], at the rates max(0, sum of factor x part).

    A part is a factor, what the model says at a state, that state, and the rates a^j of its time. The positive parts
    bound the intensity: where the coin says that not even that has an event, nothing is asked.
    """
    xp = namespace(x)
    most = h * sum(factor * reduce(np.add, pace) for factor, _, _, pace in parts if factor > 0)
    sites = movable(path, x, keep=keep)
    here = _coins_of_step(key, x, sites, (-np.expm1(-most)[None],), first)
    if not here.sites.shape[0]:
        return x
    total: Any = 0.0
    for factor, asked, state, pace in parts:
        total = total + factor * rates(path, asked, state, here.sites, [_beside(a, here.sites, x) for a in pace])
    flat = xp.reshape(x, (-1,))
    total, there = xp.maximum(total, 0.0 * total), xp.take(flat, here.sites)
    if path.mask is None:
        total = total * (1 - one_hot(there, total.shape[1]))
    moved = jump(total, _beside(h, here.sites, x), there, here.coin, here.value)
    return xp.reshape(put(flat, here.sites, xp.astype(moved, flat.dtype)), x.shape)


def _correct(
    path: Mixture,
    model: Model,
    key: Key,
    x_t: Array,
    t: Any,
    h: Any,
    alpha: Any,
    beta: Any,
    source_pmf: Array | None,
    keep: Array | None,
    first: int,
) -> Array:
    """An Euler step of length h with alpha u_forward - beta u_backward, as one redraw from all posteriors."""
    xp = namespace(x_t)
    t, h = (np.asarray(to_numpy(value), dtype=np.float64).reshape(-1, 1) for value in (t, h))
    if not (np.all((t >= 0) & (t < 1)) and np.all(h > 0)):
        raise ValueError(f"t, h: expected a time in [0, 1) and a length > 0, got {t.ravel()} and {h.ravel()}")
    ahead = _rates(path, t)
    back = events.backward_rates(path.schedule, t) if np.any(beta > 0) else tuple(0 * a for a in ahead)
    if not all(np.all(np.isfinite(a)) for a in back):
        raise ValueError(f"t: expected a time > 0, at which the backward rate is finite, got {t.ravel()}")
    weights = [h * (alpha * a + beta * b) for a, b in zip(ahead, back, strict=True)]
    everywhere = Mixture(path.schedule, path.components)  # on a mask path too: revealed tokens may be hidden again
    sites, flat = movable(everywhere, x_t, keep=keep), xp.reshape(x_t, (-1,))
    if path.mask is not None:  # hidden tokens are revealed at their rate, and revealed ones hidden at theirs
        tokens("x_t", x_t, path.mask + 1)
        here = _coins_of_step(key, x_t, sites, (np.maximum(*weights)[None],), first)
        hidden = xp.take(flat, here.sites) == path.mask
        shows = hidden & (here.coin < _beside(weights[1], here.sites, x_t))
        hides = here.sites[~hidden & (here.coin < _beside(weights[0], here.sites, x_t))]
        flat = put(flat, hides, xp.full(hides.shape, path.mask, dtype=flat.dtype))
        if bool(xp.any(shows)):
            shown = ask(path, model, x_t, _clock(x_t, t))(1, here.sites[shows])
            drawn = random.choose_logits(shown, here.value[shows])
            flat = put(flat, here.sites[shows], xp.astype(drawn, flat.dtype))
        return xp.reshape(flat, x_t.shape)
    most = np.maximum(1.0, reduce(np.add, weights))
    weights = [(w / most)[None] for w in weights]
    here = _coins_of_step(key, x_t, sites, weights, first)
    if here.sites.shape[0]:
        asked = ask(path, model, x_t, _clock(x_t, t))
        if source_pmf is not None:
            asked = _with_noise(path, asked, source_pmf, x_t, t)
        edges = [_beside(level[0], here.sites, x_t) for level in [0.0 * weights[0], *accumulate(weights)]]
        bands = {j: (edges[j], edges[j + 1]) for j, weight in enumerate(weights) if np.any(weight > 0)}
        drawn = redraw(path, asked, x_t, here, bands)
        flat = put(flat, here.sites, xp.astype(drawn, flat.dtype))
    return xp.reshape(flat, x_t.shape)


def _with_noise(path: Mixture, asked: Ask, source_pmf: Array, x_t: Array, t: np.ndarray) -> Ask:
    """The same answers, with the posterior of X0 of an independent source in closed form."""
    xp = namespace(x_t)

    def rows(j: int, sites: Array) -> Array:
        if not isinstance(path.components[j], X0):
            return asked(j, sites)
        probs_1 = xp.exp(log_softmax(xp.astype(asked(path.components.index(X1()), sites), xp.float64)))
        pmf = pmf_at("source_pmf", source_pmf, sites, (x_t.shape[1], probs_1.shape[-1]))
        rest, kappa = (_beside(level, sites, x_t) for level in path.schedule.kappas(t))
        return log(unmix(rest, kappa, pmf, probs_1, xp.take(xp.reshape(x_t, (-1,)), sites)))

    return rows


def _beside(level: np.ndarray, sites: Array, x_t: Array) -> Array:
    """Levels float64[1 or B, 1 or N] on the host as float64[1 or E] at the sites of x_t, int[B, N]."""
    return _at(level[None, :, :], sites, x_t)[0, :]


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


def _coins_of_step(key: Key, x_t: Array, sites: Array, weights: Sequence[np.ndarray], first: int) -> Events:
    """The events of one step under its own key, weights m times float64[1, 1 or B, 1 or N]."""
    (here,) = _coins(Key(*(np.asarray([word]) for word in key)), x_t, sites, weights, first)
    return here


def _reveals(key: Key, x_t: Array, sites: Array, share: np.ndarray, first: int) -> Iterator[Events]:
    """The one event of each site: in the first step, if any, up to which its coin lies below the revealed share.

    share: float64[K, 1, 1 or N], of the tokens hidden at the start, revealed by the end of each step.
    """
    xp = namespace(x_t)
    address = 2 * (sites + first * x_t.shape[1])
    coin = random.uniform_at(key, address)
    flips, over = to_numpy(coin), np.zeros(sites.shape[0], dtype=np.int64)
    for level in share:
        over += flips >= to_numpy(_beside(level, sites, x_t))
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
    walk: Iterable[Events],
) -> Iterator[Array]:
    """The states after each step: the model is asked, and values are drawn, where the step has events."""
    xp = namespace(x_t)
    levels = [0.0 * weights[0], *accumulate(weights)]
    live = [j for j, weight in enumerate(weights) if np.any(weight > 0)]
    clock = like(x_t, np.stack([np.broadcast_to(t, x_t.shape[:1]) for t in times]))
    flat = xp.reshape(x_t, (-1,))
    for k, here in enumerate(walk):
        if here.sites.shape[0]:
            needed = live if len(live) > 1 else ()  # one component alone draws whatever the coin
            edges = {j: _beside(levels[j][k], here.sites, x_t) for i in needed for j in (i, i + 1)}
            bands = {j: (edges.get(j), edges.get(j + 1)) for j in live}
            drawn = redraw(path, ask(path, model, x_t, clock[k, :]), x_t, here, bands)
            flat = put(flat, here.sites, xp.astype(drawn, flat.dtype))
            x_t = xp.reshape(flat, x_t.shape)
        yield x_t


def _at(level: np.ndarray, sites: Array, x_t: Array) -> Array:
    """Levels float64[K, 1 or B, 1 or N] on the host as float64[K, 1 or E] at the sites of x_t, int[B, N]."""
    if level.shape[1:] != (1, 1):
        level = np.broadcast_to(level, (level.shape[0], *x_t.shape)).reshape(level.shape[0], -1)[:, to_numpy(sites)]
    return like(x_t, level.reshape(level.shape[0], -1))
