"""Events: when a token of a mixture path is redrawn, and from which component.

A mixture path moves a token in one way only: at an event the token is redrawn from a mixture of the components (or
of their posteriors). When events happen, and with which weights, depends on the schedule alone, never on the state
and never on a model. With l the component that decays fastest, argmin_j kappa_dot^j / kappa^j,

- in continuous time events have intensity -b and redraw from component j at rate a^j
  (velocity = sum_j a^j w^j + b delta);
- over a finite step from t to s a token stays with probability `stay`, else is redrawn with weights c^j
  (kernel = stay delta + sum_j c^j w^j), which carries p_t(.|x_0, x_1) to p_s(.|x_0, x_1) exactly, s = 1 included.

Both are one pair of formulas, `_least` and `_beyond`, of the derivative and of the later weights.
Times are numbers or float[..., 1]; results have that shape, or [..., N] where the schedule is per token.
Source: Gat et al. 2024, Theorem 3 (a, b); where l is constant on [t, s] the finite step is its integral, at posteriors
frozen at t.
"""

from functools import lru_cache, reduce
from itertools import pairwise
from typing import Any

import numpy as np

from .arrays import namespace
from .protocols import Array
from .schedules import Monotone, PerToken, Schedule

__all__ = [
    "backward_intensity",
    "backward_rates",
    "data_intensity",
    "euler_redraw",
    "fastest",
    "intensity",
    "redraw_rates",
    "redraw_weights",
    "stay",
    "step_bound",
    "survival",
    "switches",
]


def intensity(schedule: Schedule, t: Array) -> Array:
    """-b_t = -min_j kappa_dot_t^j / kappa_t^j >= 0, events per unit of t.

    Components with kappa^j = kappa_dot^j = 0 are inactive and have no say. +inf where a component vanishes while
    still decreasing, as at t = 1. Source: Gat et al. 2024, Theorem 3.

    >>> from .schedules import Linear
    >>> float(intensity(Linear(), 0.75))
    4.0
    """
    return -_least(schedule.kappa_dots(t), schedule.kappas(t))


def data_intensity(schedule: Schedule, t: Array) -> Array:
    """The intensity kappa_dot / (1 - kappa) of a path between X0 and X1, all of whose redraws are from X1.

    Raises ValueError for another number of components, and where kappa falls: there tokens are redrawn from X0.
    Source: Gat et al. 2024, Theorem 3 for two components.

    >>> from .schedules import Linear
    >>> float(data_intensity(Linear(), 0.75))
    4.0
    """
    rises = schedule.kappa_dots(t)
    if len(rises) != 2 or bool(namespace(*rises).any(rises[1] < 0)):
        what = f"{len(rises)} components" if len(rises) != 2 else "one that redraws from X0"
        raise ValueError(f"schedule: expected a path between X0 and X1 that redraws from X1, got {what}")
    return intensity(schedule, t)


def redraw_rates(schedule: Schedule, t: Array) -> tuple[Array, ...]:
    """a_t^j = kappa_dot_t^j - kappa_t^j b_t >= 0 for each component, per unit of t; they sum to the intensity.

    Domain: where the intensity is finite. Source: Gat et al. 2024, Theorem 3.

    >>> from .schedules import Linear
    >>> [float(a) for a in redraw_rates(Linear(), 0.75)]
    [0.0, 4.0]
    """
    return _beyond(schedule.kappa_dots(t), schedule.kappas(t))


def step_bound(schedule: Schedule, t: Array) -> Array:
    """1 / intensity, the longest step h for which delta + h u is a PMF whatever the state; +inf without events.

    Source: Gat et al. 2024, the condition h <= 1 / |u|.

    >>> from .schedules import Linear
    >>> float(step_bound(Linear(), 0.75))
    0.25
    """
    rate = intensity(schedule, t)
    xp = namespace(rate)
    some = xp.where(rate > 0, rate, xp.ones_like(rate))
    return xp.where(rate > 0, 1 / some, xp.full_like(rate, xp.inf))


def backward_intensity(schedule: Schedule, t: Array) -> Array:
    """max_j kappa_dot_t^j / kappa_t^j >= 0, events per unit of t of the path run from 1 to 0.

    +inf where a component starts from 0, as at t = 0; inactive components have no say.
    Source: Gat et al. 2024, the backward-time velocity.

    >>> from .schedules import Linear
    >>> float(backward_intensity(Linear(), 0.25))
    4.0
    """
    return -_least(tuple(-k for k in schedule.kappa_dots(t)), schedule.kappas(t))


def backward_rates(schedule: Schedule, t: Array) -> tuple[Array, ...]:
    """kappa_t^j b - kappa_dot_t^j >= 0 for each component, b the backward intensity, which is their sum.

    Domain: where the backward intensity is finite. Source: Gat et al. 2024, the backward-time velocity.

    >>> from .schedules import Linear
    >>> [float(a) for a in backward_rates(Linear(), 0.25)]
    [4.0, 0.0]
    """
    return _beyond(tuple(-k for k in schedule.kappa_dots(t)), schedule.kappas(t))


def fastest(schedule: Schedule, t: Array) -> Array:
    """l = argmin_j kappa_dot_t^j / kappa_t^j, the component that decays fastest, int64; the first of several.

    Source: Gat et al. 2024, Theorem 3.

    >>> from .schedules import Linear
    >>> int(fastest(Linear(), 0.5))
    0
    """
    xp = namespace(*schedule.kappas(t))
    ratios = _ratios(schedule.kappa_dots(t), schedule.kappas(t))
    return xp.argmin(xp.stack([xp.asarray(ratio) for ratio in ratios]), axis=0)


def stay(schedule: Schedule, t: Array, s: Array) -> Array:
    """The probability min_j kappa_s^j / kappa_t^j of no event from t to s > t, the minimum over kappa_t^j > 0.

    Source: Gat et al. 2024, Theorem 3, integrated over [t, s].

    >>> from .schedules import Linear
    >>> float(stay(Linear(), 0.5, 0.75))
    0.5
    """
    return _least(schedule.kappas(s), schedule.kappas(t))


def survival(schedule: Schedule, t: Array, s: Array) -> Array:
    """exp(int_t^s b), the probability that the events of continuous time leave a token alone from t to s >= t.

    It is `stay` as long as one component decays fastest, and the product over the intervals between `switches`.
    Source: Gat et al. 2024, Theorem 3, whose b is the clock of the chain.

    >>> from .schedules import Linear
    >>> float(survival(Linear(), 0.5, 0.75))
    0.5
    """
    xp = namespace(*schedule.kappas(t), *schedule.kappas(s))
    cuts = (0.0, *switches(schedule), 1.0)
    inside = [(xp.clip(xp.asarray(t), a, b), xp.clip(xp.asarray(s), a, b)) for a, b in pairwise(cuts)]
    return reduce(lambda p, q: p * q, [stay(schedule, *ends) for ends in inside])


def switches(schedule: Schedule) -> tuple[float, ...]:
    """The times in (0, 1), of any token, at which another component begins to decay fastest; found on 4096 intervals.

    >>> from .schedules import Linear
    >>> switches(Linear())
    ()
    """
    if isinstance(schedule, PerToken):
        return tuple(sorted({time for one in schedule.schedules for time in switches(one)}))
    return () if isinstance(schedule, Monotone) else _switches(schedule)  # type: ignore[arg-type]  # frozen


@lru_cache
def _switches(schedule: Any) -> tuple[float, ...]:
    grid = (np.arange(4096) + 0.5) / 4096  # off the ends, where components vanish
    which = fastest(schedule, grid)
    low, high = grid[:-1][which[:-1] != which[1:]], grid[1:][which[:-1] != which[1:]]
    before = fastest(schedule, low)
    for _ in range(52):
        middle = (low + high) / 2
        same = fastest(schedule, middle) == before
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return tuple(high.tolist())


def redraw_weights(schedule: Schedule, t: Array, s: Array) -> tuple[Array, ...]:
    """c^j = kappa_s^j - stay kappa_t^j >= 0 for each component, for t < s <= 1; stay + sum_j c^j = 1.

    Source: Gat et al. 2024, Theorem 3, integrated over [t, s].

    >>> from .schedules import Linear
    >>> [float(c) for c in redraw_weights(Linear(), 0.5, 0.75)]
    [0.0, 0.5]
    """
    return _beyond(schedule.kappas(s), schedule.kappas(t))


def euler_redraw(schedule: Schedule, t: Array, s: Array) -> tuple[Array, ...]:
    """The weights h a_t^j of an Euler step of length h = s - t, to be read as `redraw_weights`.

    Where h exceeds the bound 1 / intensity they are scaled down to the sum 1, so that the token is redrawn surely:
    the clamp that makes a sampler of Euler's rule; the law is then no longer delta + h u.

    >>> from .schedules import Linear, Polynomial
    >>> [float(c) for c in euler_redraw(Linear(), 0.5, 0.75)]
    [0.0, 0.5]
    >>> [float(c) for c in euler_redraw(Polynomial(2.0), 0.5, 1.0)]
    [0.0, 0.666...]
    """
    h = (s - t) / namespace(t).maximum(1.0 + 0.0 * t, (s - t) * intensity(schedule, t))
    return tuple(h * a for a in redraw_rates(schedule, t))


def _ratios(ahead: tuple[Array, ...], kappas: tuple[Array, ...]) -> tuple[Array, ...]:
    """ahead^j / kappa^j; where kappa^j = 0 never the minimum, +inf, unless the component still decreases: -inf."""
    xp = namespace(*kappas)
    return tuple(
        xp.where(
            kappa > 0,
            rise / xp.where(kappa > 0, kappa, kappa + 1),
            xp.where(rise < 0, kappa - xp.inf, kappa + xp.inf),
        )
        for rise, kappa in zip(ahead, kappas, strict=True)
    )


def _least(ahead: tuple[Array, ...], kappas: tuple[Array, ...]) -> Array:
    """r = min_j ahead^j / kappa^j."""
    return reduce(namespace(*kappas).minimum, _ratios(ahead, kappas))


def _beyond(ahead: tuple[Array, ...], kappas: tuple[Array, ...]) -> tuple[Array, ...]:
    """ahead^j - r kappa^j >= 0; of the minimal component exactly 0, where rounding would leave -1e-17."""
    xp = namespace(*kappas)
    ratios = _ratios(ahead, kappas)
    least = reduce(xp.minimum, ratios)
    return tuple(
        xp.where(
            ratio == least,
            0.0 * kappa,
            xp.maximum(rise - xp.where(kappa > 0, least, 0.0 * kappa) * kappa, 0.0 * kappa),
        )
        for ratio, rise, kappa in zip(ratios, ahead, kappas, strict=True)
    )
