"""Velocities u_t^i(x^i, z): the rate at which token i of the state z turns into x^i, per unit of t.

Tables u[..., N, V] with the diagonal included: off-diagonal entries are >= 0 and rows sum to 0.
"""

from collections.abc import Callable

from . import paths
from .arrays import namespace, one_hot, pick
from .checks import same_shape
from .events import backward_rates, intensity, redraw_rates
from .paths import X1, Mixture, per_token, pmf_rows
from .protocols import Array
from .schedules import Monotone, Schedule

__all__ = [
    "backward",
    "conditional",
    "corrected",
    "forward",
    "noise_posterior",
    "resampling",
    "strengths",
    "unmix",
    "weighted",
]


def forward(path: Mixture, posteriors: Array | tuple[Array | None, ...], x_t: Array, t: Array) -> Array:
    """u_t^i(., x_t) = sum_j a_t^{i,j} w_hat^j(., x_t) + b_t^i delta_{x_t^i}: int[..., N] -> float64[..., N, V].

    `posteriors` is probs_1, float[..., N, V], the posterior of X1, where the path redraws from X1 alone; in
    general the tuple of all m posteriors w_hat^j. Given the component PMFs of one pair instead, this is the
    conditional velocity. t is a number or float[...]; domain t < 1, where the intensity -b is finite, else ValueError.
    Raises ValueError where the shapes do not match or a posterior is missing.
    Source: Gat et al. 2024, Theorem 3.

    >>> import numpy as np
    >>> forward(Mixture(), np.array([[0.25, 0.75]]), np.array([0]), 0.5)
    array([[-1.5,  1.5]])
    """
    return weighted(redraw_rates, path, posteriors, x_t, t)


def backward(path: Mixture, posteriors: Array | tuple[Array | None, ...], x_t: Array, t: Array) -> Array:
    """The velocity of the same path run backwards in t: off-diagonal entries <= 0, float64[..., N, V].

    With l the component that grows fastest; -u is the rate of the process from 1 to 0, and dp_t/dt = Q(u) p_t holds.
    Two components need the posterior of X0, (p_{0|t}, None); see `noise_posterior`. Domain t > 0, where the backward
    intensity is finite, else ValueError. Shapes as in `forward`. Source: Gat et al. 2024, the backward velocity.

    >>> import numpy as np
    >>> backward(Mixture(), (np.array([[0.25, 0.75]]), None), np.array([0]), 0.5)
    array([[ 1.5, -1.5]])
    """
    return -weighted(backward_rates, path, posteriors, x_t, t)


def corrected(
    path: Mixture, posteriors: tuple[Array | None, ...], x_t: Array, t: Array, *, alpha: Array, beta: Array
) -> Array:
    """alpha u_forward - beta u_backward, float64[..., N, V]: the same path with alpha - beta = 1, none with 0.

    alpha, beta >= 0 are numbers, float[...] or float[..., N]: they may depend on the time and on the token, never on
    the state. ValueError unless alpha - beta is 1 everywhere or 0 everywhere. Where beta is 0 the backward part is
    not asked for; domain 0 < t < 1 where it is not.
    Source: Gat et al. 2024, corrector sampling; Campbell et al. 2024 (stochasticity).

    >>> import numpy as np
    >>> half = np.array([[0.5, 0.5]])
    >>> corrected(Mixture(), (half, half), np.array([0]), 0.5, alpha=2.0, beta=1.0)
    array([[-3.,  3.]])
    """
    alpha, beta = strengths(alpha, beta, x_t)
    xp = namespace(alpha)
    u = alpha[..., None] * forward(path, posteriors, x_t, t)
    return u - beta[..., None] * backward(path, posteriors, x_t, t) if bool(xp.any(beta > 0)) else u


def strengths(alpha: Array, beta: Array, x_t: Array) -> tuple[Array, Array]:
    """The strengths of `corrected` as float64[..., N] or with a last axis of 1; ValueError outside of their domain.

    >>> import numpy as np
    >>> strengths(1.5, 0.5, np.array([[0, 1]]))
    (array([1.5]), array([0.5]))
    """
    xp = namespace(x_t)
    both = [xp.asarray(value, dtype=xp.float64) for value in (alpha, beta)]
    both = [v if v.ndim == x_t.ndim else v[..., None] for v in both]
    for name, value in zip(("alpha", "beta"), both, strict=True):
        if not bool(xp.all(value >= 0)):
            raise ValueError(f"{name}: expected strengths >= 0, which keep the rates >= 0, got {value}")
    excess = both[0] - both[1]
    if not any(bool(xp.all(xp.abs(excess - kind) <= 1e-9 * (1 + both[0]))) for kind in (0, 1)):
        raise ValueError(f"alpha, beta: expected alpha - beta = 1, or 0 for a corrector alone, got {excess}")
    return both[0], both[1]


def resampling(path: Mixture, posteriors: tuple[Array | None, ...], x_t: Array, t: Array, *, ratio: Array) -> Array:
    """The velocity with b = ratio and a^j = kappa_dot^j - kappa^j ratio, for any ratio <= min_j kappa_dot^j / kappa^j.

    The smaller the ratio, a number or float[...] like t, the more a token is redrawn from the mixture p_t itself;
    `forward` has the largest. It needs all m posteriors. ValueError for a ratio above the least one.
    Source: Gat et al. 2024, Theorem 3, whose proof needs no more of l.

    >>> import numpy as np
    >>> resampling(Mixture(), (np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])), np.array([0]), 0.5, ratio=-4.0)
    array([[-3.,  3.]])
    """
    xp = namespace(x_t)
    ratio = per_token(ratio, x_t)
    if not bool(xp.all(ratio <= -intensity(path.schedule, per_token(t, x_t, schedule=path.schedule)))):
        raise ValueError(f"ratio: expected at most min_j kappa_dot / kappa, which keeps the rates >= 0, got {ratio}")

    def rates(schedule: Schedule, t: Array) -> tuple[Array, ...]:
        pairs = zip(schedule.kappa_dots(t), schedule.kappas(t), strict=True)
        return tuple(xp.maximum(rise - kappa * ratio, 0.0 * kappa) for rise, kappa in pairs)

    return weighted(rates, path, posteriors, x_t, t)


def conditional(path: Mixture, x_0: Array, x_1: Array, x_t: Array, t: Array, *, vocab_size: int) -> Array:
    """u_t^i(., x_t | x_0, x_1), the velocity of the path of one pair: int[..., N] -> float64[..., N, V].

    Its mean over the pairs given x_t is the marginal velocity. Domain as `forward`. Source: Gat et al. 2024, Theorem 3.

    >>> import numpy as np
    >>> conditional(Mixture(), np.array([0]), np.array([1]), np.array([0]), 0.5, vocab_size=2)
    array([[-2.,  2.]])
    """
    return forward(path, paths.component_pmfs(path, x_0, x_1, vocab_size=vocab_size), x_t, t)


def noise_posterior(schedule: Monotone, source_pmf: Array, probs_1: Array, x_t: Array, t: Array) -> Array:
    """p_{0|t}(.|x_t), float64[..., N, V], from probs_1, where x_0 is independent of x_1 and factorised over tokens.

    source_pmf is float[V] or float[N, V]. With c = x_t^i and q = probs_1(c):
    (1 - q) delta_c + q p ((1 - kappa) delta_c + kappa) / ((1 - kappa) p(c) + kappa). Under a correlated coupling the
    posterior of x_0 is another. A token that the path cannot reach (0/0) has none; it is delta_c by convention.
    Source: Bayes' rule; Gat et al. 2024, noise prediction.

    >>> import numpy as np
    >>> from .schedules import Linear
    >>> noise_posterior(Linear(), np.array([0.5, 0.5]), np.array([[1.0, 0.0]]), np.array([0]), 0.5)
    array([[0.66666667, 0.33333333]])
    """
    same_shape(x_t=x_t, probs_1=probs_1[..., 0])
    rest, kappa = schedule.kappas(per_token(t, x_t, schedule=schedule))
    return unmix(rest, kappa, source_pmf, probs_1, x_t)


def unmix(rest: Array, kappa: Array, source_pmf: Array, probs_1: Array, x_t: Array) -> Array:
    """`noise_posterior` by the weights rest = 1 - kappa and kappa, float[...] or [1]: float[..., V], int[...].

    >>> import numpy as np
    >>> unmix(np.array([0.5]), np.array([0.5]), np.array([0.5, 0.5]), np.array([[1.0, 0.0]]), np.array([0]))
    array([[0.66666667, 0.33333333]])
    """
    xp = namespace(probs_1, x_t)
    probs_1, rest, kappa = xp.astype(probs_1, xp.float64), rest[..., None], kappa[..., None]
    here = one_hot(x_t, probs_1.shape[-1])
    p = pmf_rows("source_pmf", source_pmf, probs_1, probs_1.shape)
    q = pick(probs_1, x_t)[..., None]
    reached = rest * pick(p, x_t)[..., None] + kappa
    share = xp.where(reached > 0, q / xp.where(reached > 0, reached, 1.0), 0.0)
    return (1 - share * reached) * here + share * p * (rest * here + kappa)


def weighted(
    rule: Callable[[Schedule, Array], tuple[Array, ...]],
    path: Mixture,
    posteriors: Array | tuple[Array | None, ...],
    x_t: Array,
    t: Array,
) -> Array:
    """sum_j rate^j w^j off the diagonal, which is minus the sum of the rest: float64[..., N, V].

    The rule says the rates of the m components at a time; shapes and errors as in `forward`, which takes
    `events.redraw_rates`.

    >>> import numpy as np
    >>> weighted(redraw_rates, Mixture(), np.array([[0.25, 0.75]]), np.array([0]), 0.5)
    array([[-1.5,  1.5]])
    """
    if not isinstance(posteriors, tuple):
        posteriors = tuple(posteriors if isinstance(component, X1) else None for component in path.components)
    given = [w for w in posteriors if w is not None]
    if not given or len(posteriors) != len(path.components):
        raise ValueError(f"posteriors: expected {len(path.components)}, or that of X1 alone, got {len(given)}")
    xp = namespace(x_t, given[0])
    others = 1 - one_hot(x_t, given[0].shape[-1])
    u = xp.zeros_like(others)
    rates = rule(path.schedule, per_token(t, x_t, schedule=path.schedule))
    for rate, w, component in zip(rates, posteriors, path.components, strict=True):
        if not bool(xp.all(rate < xp.inf)):
            raise ValueError(f"t: expected a time at which the rate of {component} is finite, got {t}")
        if w is not None:
            same_shape(x_t=x_t, posterior=w[..., 0])
            u = u + rate[..., None] * w
        elif bool(xp.any(rate > 0)):
            raise ValueError(f"posteriors: expected one for {component}, from which this path redraws")
    u = u * others
    return u - (1 - others) * xp.sum(u, axis=-1, keepdims=True)
