"""Losses of a predicted posterior, one value a token, each beside its gradient in the logits.

All work on log-probabilities, so that they are finite wherever their limit is: logits may hold -inf, and an
impossible token that is not asked for costs nothing. Half precision is computed in float32. Means over tokens and
batch are the caller's.
"""

from .arrays import log_softmax, namespace, one_hot, pick, widen
from .checks import same_shape
from .events import intensity
from .paths import per_token
from .protocols import Array
from .schedules import Schedule

__all__ = ["cross_entropy", "cross_entropy_with_grad", "generalized_kl", "generalized_kl_with_grad"]


def cross_entropy(logits: Array, y: Array) -> Array:
    """-log w_hat(y), nats: float[..., N, V], int[..., N] -> float[..., N]; +inf where y is held impossible.

    y is a token of the component that the logits predict, drawn given the pair alone: x_1 for the component X1.
    Minimised by the Bayes posterior. Source: Gat et al. 2024, the training loss of section 3.

    >>> import numpy as np
    >>> cross_entropy(np.array([[0.0, 0.0, -np.inf]]), np.array([1]))
    array([0.69314718])
    """
    same_shape(logits=logits[..., 0], y=y)
    return -pick(log_softmax(widen(logits)), y)


def cross_entropy_with_grad(logits: Array, y: Array) -> tuple[Array, Array]:
    """The loss, float[..., N], and its gradient softmax(logits) - delta_y, float[..., N, V].

    >>> import numpy as np
    >>> cross_entropy_with_grad(np.array([[0.0, 0.0]]), np.array([1]))[1]
    array([[ 0.5, -0.5]])
    """
    same_shape(logits=logits[..., 0], y=y)
    log_p = log_softmax(widen(logits))
    grad = namespace(logits).exp(log_p)
    grad -= one_hot(y, logits.shape[-1], grad.dtype)
    return -pick(log_p, y), grad


def generalized_kl(schedule: Schedule, logits: Array, x_1: Array, x_t: Array, t: Array) -> Array:
    """kappa_dot / (1 - kappa) (-log p(x_1) [x_t != x_1] + [x_t = x_1] - p(x_t)), nats per unit of t, >= 0.

    p = softmax(logits) of float[..., N, V]; x_1, x_t: int[..., N]; t a number or float[...]; -> float[..., N]. The
    schedule, shared or per token, is of a path between X0 and X1. Integrated over t and averaged over
    x_t ~ p_t(.|x_0, x_1) it bounds -log of the model's probability of x_1 (up to the prior term). Domain t < 1: the
    weight is infinite at 1.
    Source: Shaul et al. 2024, the evidence bound of mixture paths; Lipman et al. 2024 (guide).

    >>> import numpy as np
    >>> from .schedules import Linear
    >>> generalized_kl(Linear(), np.array([[0.0, 0.0]]), np.array([1]), np.array([0]), 0.5)
    array([0.38629436])
    """
    return intensity(schedule, per_token(t, x_t)) * _divergence(logits, x_1, x_t)[0]


def generalized_kl_with_grad(
    schedule: Schedule, logits: Array, x_1: Array, x_t: Array, t: Array
) -> tuple[Array, Array]:
    """The loss, float[..., N], and its gradient in the logits, float[..., N, V].

    With p = softmax(logits) and z = x_t: the weight times [z != x_1] (p - delta_{x_1}) - p(z) (delta_z - p).

    >>> import numpy as np
    >>> from .schedules import Linear
    >>> generalized_kl_with_grad(Linear(), np.array([[0.0, 0.0]]), np.array([1]), np.array([0]), 0.5)[1]
    array([[ 0.5, -0.5]])
    """
    xp = namespace(logits)
    loss, p = _divergence(logits, x_1, x_t)
    weight = xp.astype(intensity(schedule, per_token(t, x_t)), p.dtype)
    stays = pick(p, x_t)[..., None]
    moves = xp.astype(x_t != x_1, p.dtype)[..., None]
    grad = p * (moves + stays) - xp.where(_at(x_1, p), moves, 0.0) - xp.where(_at(x_t, p), stays, 0.0)
    return weight * loss, weight[..., None] * grad


def _divergence(logits: Array, x_1: Array, x_t: Array) -> tuple[Array, Array]:
    """The loss per event, log-space where the token must move, and the sum of the other tokens where it must stay."""
    same_shape(logits=logits[..., 0], x_1=x_1, x_t=x_t)
    xp = namespace(logits)
    log_p = log_softmax(widen(logits))
    p = xp.exp(log_p)
    away = xp.sum(xp.where(_at(x_t, p), 0.0, p), axis=-1)  # 1 - p(x_t) without cancellation
    return xp.where(x_t == x_1, away, away - 1 - pick(log_p, x_1)), p


def _at(x: Array, p: Array) -> Array:
    """Where a table p[..., V] is at the token of its row, bool[..., V]."""
    return x[..., None] == namespace(x).arange(p.shape[-1], dtype=x.dtype)
