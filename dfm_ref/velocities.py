"""Velocities u_t^i(x^i, z): the rate at which token i of the state z turns into x^i, per unit of t.

Tables u[..., N, V] with the diagonal included: off-diagonal entries are >= 0 and rows sum to 0.
"""

from .arrays import namespace, one_hot
from .checks import same_shape
from .events import redraw_rates
from .paths import X1, Mixture, per_token
from .protocols import Array

__all__ = ["forward"]


def forward(path: Mixture, posteriors: Array | tuple[Array | None, ...], x_t: Array, t: Array) -> Array:
    """u_t^i(., x_t) = sum_j a_t^{i,j} w_hat^j(., x_t) + b_t^i delta_{x_t^i}: int[..., N] -> float64[..., N, V].

    `posteriors` is probs_1, float[..., N, V], the posterior of X1, where the path redraws from X1 alone; in
    general the tuple of all m posteriors w_hat^j. Given the component PMFs of one pair instead, this is the
    conditional velocity. t is a number or float[...]; domain t < 1, where the intensity -b is finite.
    Raises ValueError where the shapes do not match or a posterior is missing.
    Source: Gat et al. 2024, Theorem 3.

    >>> import numpy as np
    >>> forward(Mixture(), np.array([[0.25, 0.75]]), np.array([0]), 0.5)
    array([[-1.5,  1.5]])
    """
    if not isinstance(posteriors, tuple):
        posteriors = tuple(posteriors if isinstance(component, X1) else None for component in path.components)
    given = [w for w in posteriors if w is not None]
    if not given or len(posteriors) != len(path.components):
        raise ValueError(f"posteriors: expected {len(path.components)}, or that of X1 alone, got {len(given)}")
    xp = namespace(x_t, given[0])
    others = 1 - one_hot(x_t, given[0].shape[-1])
    rates = xp.zeros_like(others)
    for a, w, component in zip(
        redraw_rates(path.schedule, per_token(t, x_t)), posteriors, path.components, strict=True
    ):
        if w is not None:
            same_shape(x_t=x_t, posterior=w[..., 0])
            rates = rates + a[..., None] * w
        elif bool(xp.any(a > 0)):
            raise ValueError(f"posteriors: expected one for {component}, from which this path redraws")
    rates = rates * others
    return rates - (1 - others) * xp.sum(rates, axis=-1, keepdims=True)  # the diagonal: minus the sum of the rest
