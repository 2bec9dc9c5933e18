"""Events: when a token of a mixture path is redrawn, and from which component.

A mixture path moves a token in one way only: at an event the token is redrawn from a mixture of the components (or
of their posteriors). When events happen, and with which weights, depends on the schedule alone, never on the state
and never on a model. With l the component that decays fastest, argmin_j kappa_dot^j / kappa^j,

- in continuous time events have intensity -b and redraw from component j at rate a^j
  (velocity = sum_j a^j w^j + b delta);
- over a finite step from t to s a token stays with probability `stay`, else is redrawn with weights c^j
  (kernel = stay delta + sum_j c^j w^j), which carries p_t(.|x_0, x_1) to p_s(.|x_0, x_1) exactly, s = 1 included.

Times are numbers or float[..., 1]; results have that shape, or [..., N] where the schedule is per token.
Source: Gat et al. 2024, Theorem 3 (a, b); where l is constant on [t, s] the finite step is its integral, at posteriors
frozen at t.
"""

from functools import reduce

from .arrays import namespace
from .protocols import Array
from .schedules import Schedule

__all__ = ["euler_redraw", "intensity", "redraw_rates", "redraw_weights", "stay"]


def intensity(schedule: Schedule, t: Array) -> Array:
    """-b_t = -min_j kappa_dot_t^j / kappa_t^j >= 0, events per unit of t.

    Components with kappa^j = kappa_dot^j = 0 are inactive and have no say. +inf where a component vanishes while
    still decreasing, as at t = 1.

    >>> from .schedules import Linear
    >>> float(intensity(Linear(), 0.75))
    4.0
    """
    return -reduce(namespace(t).minimum, _growth(schedule, t))


def redraw_rates(schedule: Schedule, t: Array) -> tuple[Array, ...]:
    """a_t^j = kappa_dot_t^j - kappa_t^j b_t >= 0 for each component, per unit of t; they sum to the intensity.

    a^l is exactly 0, where rounding would leave -1e-17. Domain: where the intensity is finite.

    >>> from .schedules import Linear
    >>> [float(a) for a in redraw_rates(Linear(), 0.75)]
    [0.0, 4.0]
    """
    growth = _growth(schedule, t)
    b = reduce(namespace(t).minimum, growth)
    rates = zip(growth, schedule.kappa_dots(t), schedule.kappas(t), strict=True)
    return tuple(_unless(g == b, dot - kappa * b) for g, dot, kappa in rates)


def stay(schedule: Schedule, t: Array, s: Array) -> Array:
    """The probability min_j kappa_s^j / kappa_t^j of no event from t to s > t, the minimum over kappa_t^j > 0.

    >>> from .schedules import Linear
    >>> float(stay(Linear(), 0.5, 0.75))
    0.5
    """
    return reduce(namespace(t).minimum, _survival(schedule, t, s), 1.0 + 0.0 * t)


def redraw_weights(schedule: Schedule, t: Array, s: Array) -> tuple[Array, ...]:
    """c^j = kappa_s^j - stay kappa_t^j >= 0 for each component, for t < s <= 1; stay + sum_j c^j = 1.

    >>> from .schedules import Linear
    >>> [float(c) for c in redraw_weights(Linear(), 0.5, 0.75)]
    [0.0, 0.5]
    """
    survival = _survival(schedule, t, s)
    least = reduce(namespace(t).minimum, survival)
    weights = zip(survival, schedule.kappas(t), schedule.kappas(s), strict=True)
    return tuple(_unless(r == least, after - least * before) for r, before, after in weights)


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


def _growth(schedule: Schedule, t: Array) -> list[Array]:
    """kappa_dot^j / kappa^j with its limits where kappa^j = 0: never the minimum, unless kappa^j still decreases."""
    xp = namespace(t)
    pairs = zip(schedule.kappa_dots(t), schedule.kappas(t), strict=True)
    return [
        xp.where(kappa > 0, _over(dot, kappa), xp.where(dot < 0, -xp.inf + dot, xp.inf + dot)) for dot, kappa in pairs
    ]


def _survival(schedule: Schedule, t: Array, s: Array) -> list[Array]:
    """kappa_s^j / kappa_t^j, +inf where the component is absent at t."""
    xp = namespace(t)
    pairs = zip(schedule.kappas(t), schedule.kappas(s), strict=True)
    return [xp.where(before > 0, _over(after, before), xp.inf + after) for before, after in pairs]


def _over(above: Array, below: Array) -> Array:
    """The quotient, without a warning where the denominator is 0 and the result not used."""
    return above / namespace(below).where(below > 0, below, 1.0 + below)


def _unless(is_least: Array, weight: Array) -> Array:
    zero = 0.0 * weight
    return namespace(weight).where(is_least, zero, namespace(weight).maximum(weight, zero))
