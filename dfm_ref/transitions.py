"""Transitions: the law of each token after one step of a sampler, exactly, over the whole vocabulary.

Tables [..., N, V] of the next token given the state x_t, the tokens independent: what samplers draw from, and what an
oracle multiplies out. A scheme of several stages is the composition of their tables. `u` is a velocity at x_t, with or
without its diagonal, which is never read.
"""

from .arrays import namespace, one_hot
from .checks import same_shape
from .events import data_intensity, redraw_weights
from .paths import Mixture, per_token, pmf_rows
from .protocols import Array
from .schedules import Schedule
from .velocities import weighted

__all__ = ["euler", "exponential", "finite", "flow_matching", "step_bound", "trapezoid_rates"]


def euler(u: Array, x_t: Array, h: Array) -> Array:
    """delta_{x_t} + h u, float64[..., N, V], as it stands: the entry at x_t is negative where h exceeds its bound.

    h, the length of the step, is a number or float[...]. Source: Gat et al. 2024, the sampling rule.

    >>> import numpy as np
    >>> euler(np.array([[-1.0, 1.0]]), np.array([0]), 0.25)
    array([[0.75, 0.25]])
    """
    xp, rates = namespace(u), _off_diagonal(u, x_t)
    moved = per_token(h, x_t)[..., None] * rates
    return moved + one_hot(x_t, u.shape[-1]) * (1 - xp.sum(moved, axis=-1, keepdims=True))


def exponential(u: Array, x_t: Array, h: Array) -> Array:
    """Stay with exp(-h L), else move in proportion to the rates, of sum L: float64[..., N, V], a PMF for every h >= 0.

    The law at the first event of rates frozen at x_t. Source: Campbell et al. 2022; Lipman et al. 2024 (guide).

    >>> import numpy as np
    >>> exponential(np.array([[-1.0, 1.0]]), np.array([0]), np.log(4.0))
    array([[0.25, 0.75]])
    """
    xp, rates = namespace(u), _off_diagonal(u, x_t)
    total = xp.sum(rates, axis=-1, keepdims=True)
    wait = per_token(h, x_t)[..., None] * total
    share = -xp.expm1(-wait) / xp.where(total > 0, total, 1.0)
    return share * rates + one_hot(x_t, u.shape[-1]) * xp.exp(-wait)


def finite(path: Mixture, posteriors: Array | tuple[Array | None, ...], x_t: Array, t: Array, s: Array) -> Array:
    """stay delta_{x_t} + sum_j c^j w_hat^j, float64[..., N, V]: a PMF for every t < s <= 1, s = 1 included.

    Posteriors as in `velocities.forward`; given the pair's components, the exact transition from p_t to p_s.
    Source: Gat et al. 2024, Theorem 3, integrated over [t, s].

    >>> import numpy as np
    >>> finite(Mixture(), np.array([[0.25, 0.75]]), np.array([0]), 0.5, 0.75)
    array([[0.625, 0.375]])
    """
    until = per_token(s, x_t)
    moved = weighted(lambda schedule, time: redraw_weights(schedule, time, until), path, posteriors, x_t, t)
    return euler(moved, x_t, 1.0)


def flow_matching(
    schedule: Schedule,
    probs_1: Array,
    x_t: Array,
    t: Array,
    h: Array,
    *,
    div_free: float = 0.0,
    source_pmf: Array | None = None,
) -> Array:
    """The rule of the flow_matching package: x_1^i ~ probs_1, then `exponential` with the rates given x_1^i.

    The rates are c [x = x_1] + div_free kappa_dot / (kappa (1 - kappa)) ((1 - kappa) p(x) + kappa [x = x_1]), with
    c = kappa_dot / (1 - kappa) and p the source_pmf, float[V] or float[N, V], of an independent coupling: the mean
    over x_1 of a law that is not linear in the rates. Without its last step, which returns x_1. Domain t < 1, and
    t > 0 with div_free > 0; ValueError where the path redraws from X0.
    Source: Lipman et al. 2024 (guide), MixtureDiscreteEulerSolver.

    >>> import numpy as np
    >>> from .schedules import Linear
    >>> flow_matching(Linear(), np.array([[0.25, 0.75]]), np.array([0]), 0.5, np.log(2.0) / 2)
    array([[0.625, 0.375]])
    """
    same_shape(x_t=x_t, probs_1=probs_1[..., 0])
    xp = namespace(probs_1, x_t)
    time = per_token(t, x_t, schedule=schedule)
    rest, kappa = schedule.kappas(time)
    c, noise = data_intensity(schedule, time)[..., None], 0.0 * time[..., None]
    if not bool(xp.all(c < xp.inf)):
        raise ValueError(f"t: expected a time at which the rate is finite, got {t}")
    if div_free < 0 or (div_free > 0 and source_pmf is None):
        raise ValueError(f"div_free: expected a number >= 0, and a source_pmf where it is not 0, got {div_free}")
    p = xp.zeros_like(xp.astype(probs_1, xp.float64))
    if div_free > 0:
        if not bool(xp.all(kappa > 0)):
            raise ValueError(f"t: expected a time > 0 with div_free, got {t}")
        noise = div_free * (schedule.kappa_dots(time)[1] / kappa)[..., None]
        p = pmf_rows("source_pmf", source_pmf, x_t, p.shape)
    here = one_hot(x_t, probs_1.shape[-1])
    jump = c + noise * (kappa / rest)[..., None]  # the rate to x_1, beside that of the noise
    drift = noise * p * (1 - here)  # the rates to the other tokens
    loose = xp.sum(drift, axis=-1, keepdims=True)
    step = per_token(h, x_t)[..., None]

    def leaves(total: Array) -> Array:
        return -xp.expm1(-step * total) / xp.where(total > 0, total, 1.0)

    stays = xp.sum(probs_1 * here, axis=-1, keepdims=True)  # x_1^i = x_t^i: only the noise moves the token
    away = probs_1 * (1 - here)
    moved = leaves(loose + jump) * (drift * (1 - stays) + jump * away) + leaves(loose) * drift * stays
    return euler(moved, x_t, 1.0)


def trapezoid_rates(u_x: Array, u_y: Array, x: Array, y: Array, *, theta: float) -> Array:
    """The rates at y of the second stage of the theta-trapezoidal scheme, float64[..., N, V], zero at y.

    max(0, a_1 u_y - a_2 u_x) over the moves of a token to a value, each velocity without its diagonal, at its own
    state; a_1 = 1 / (2 theta (1 - theta)), a_2 = a_1 - 1. Stage one is `exponential` with u_x over theta h, stage two
    with these over (1 - theta) h. The order is 2 where the maximum is not needed, else between 1 and 2.
    Source: Ren et al. 2025, after Anderson and Mattingly 2011. ValueError unless 0 < theta < 1.

    >>> import numpy as np
    >>> u_x, u_y = np.array([[-1.0, 1.0]]), np.array([[-2.0, 2.0]])
    >>> trapezoid_rates(u_x, u_y, np.array([0]), np.array([0]), theta=0.5)
    array([[0., 3.]])
    """
    if not 0 < theta < 1:
        raise ValueError(f"theta: expected a number in (0, 1), got {theta}")
    a_1 = 1 / (2 * theta * (1 - theta))
    rates = a_1 * _off_diagonal(u_y, y) - (a_1 - 1) * _off_diagonal(u_x, x)
    return namespace(rates).maximum(rates, 0.0 * rates) * (1 - one_hot(y, u_y.shape[-1]))


def step_bound(u: Array, x_t: Array) -> Array:
    """min_i 1 / |u^i(x_t^i, x_t)|, the longest step of each state for which `euler` is a PMF, float64[...].

    At least the minimum over tokens of `events.step_bound`, which knows no model; +inf where nothing moves.
    Source: Gat et al. 2024, the condition h <= 1 / |u|.

    >>> import numpy as np
    >>> step_bound(np.array([[-4.0, 4.0], [-1.0, 1.0]]), np.array([0, 0]))
    array(0.25)
    """
    xp = namespace(u)
    most = xp.max(xp.sum(_off_diagonal(u, x_t), axis=-1), axis=-1)
    return xp.where(most > 0, 1 / xp.where(most > 0, most, xp.ones_like(most)), xp.inf * xp.ones_like(most))


def _off_diagonal(u: Array, x_t: Array) -> Array:
    same_shape(x_t=x_t, u=u[..., 0])
    return u * (1 - one_hot(x_t, u.shape[-1]))
