"""Losses of a predicted posterior, velocity or score, one value a token, each beside its gradient.

Those of logits and of log-scores stay in log-space, so that they are finite wherever their limit is: logits may hold
-inf, and an impossible token that is not asked for costs nothing. Half precision is computed in float32. Means over
tokens and batch are the caller's.
"""

from . import random
from .arrays import like, log, log_softmax, namespace, one_hot, pick, widen
from .checks import same_shape
from .events import backward_intensity, data_intensity, intensity
from .paths import Fixed, Mixture, per_token, pmf_rows
from .protocols import Array, Key
from .schedules import Schedule

__all__ = [
    "concrete_score",
    "cross_entropy",
    "cross_entropy_with_grad",
    "generalized_kl",
    "generalized_kl_with_grad",
    "masked_kl",
    "masked_kl_with_grad",
    "mixture_cross_entropy",
    "mixture_cross_entropy_with_grad",
    "path_kl",
    "path_kl_with_grad",
    "score_entropy",
    "score_entropy_with_grad",
    "targets",
]


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


def targets(path: Mixture, key: Key, x_0: Array, x_1: Array, *, first: int = 0) -> tuple[Array | None, ...]:
    """A token y^j ~ w^j(.|x_0, x_1) of each component, to be predicted from x_t: m of int[..., N].

    Independent of x_t given the pair: y tied to x_t would move the minimiser. None for a component that depends on no
    pair, of which there is nothing to learn. `first` is the global index of the first sequence.
    Source: Gat et al. 2024, the training loss for m components.

    >>> import numpy as np
    >>> targets(Mixture(), random.key(0), np.array([[0, 0]]), np.array([[0, 1]]))
    (array([[0, 0]]), array([[0, 1]]))
    """
    same_shape(x_0=x_0, x_1=x_1)
    xp = namespace(x_0, x_1)
    sites = random.sites(tuple(x_1.shape), first=first * x_1.shape[-1], xp=xp)
    return tuple(
        None
        if isinstance(component, Fixed)
        else xp.astype(component.draw(x_0, x_1, random.uniform_at(random.fold_in(key, j), sites)), x_1.dtype)
        for j, component in enumerate(path.components)
    )


def mixture_cross_entropy(logits: tuple[Array | None, ...], y: tuple[Array | None, ...]) -> Array:
    """sum_j -log w_hat^j(y^j), nats: the loss of m posteriors, m of float[..., N, V] and of int[..., N].

    `y` as drawn by `targets`. A component without logits has no loss: one that is known, or that the path never
    redraws from. Minimised by the Bayes posteriors; the excess over the minimum is the sum of the KL divergences from
    them. Raises ValueError where the numbers differ, a target is missing, or there are no logits at all.
    Source: Gat et al. 2024, the training loss for m components.

    >>> import numpy as np
    >>> mixture_cross_entropy((None, np.zeros((1, 2)), np.zeros((1, 4))), (None, np.array([0]), np.array([3])))
    array([2.07944154])
    """
    return sum(cross_entropy(*pair) for pair in _given(logits, y) if pair)


def mixture_cross_entropy_with_grad(
    logits: tuple[Array | None, ...], y: tuple[Array | None, ...]
) -> tuple[Array, tuple[Array | None, ...]]:
    """The loss, float[..., N], and its gradient in the logits of each component, None where there are none.

    >>> import numpy as np
    >>> mixture_cross_entropy_with_grad((None, np.zeros((1, 2))), (None, np.array([0])))[1]
    (None, array([[-0.5,  0.5]]))
    """
    both = [cross_entropy_with_grad(*pair) if pair else None for pair in _given(logits, y)]
    return sum(b[0] for b in both if b), tuple(b[1] if b else None for b in both)


def generalized_kl(schedule: Schedule, logits: Array, x_1: Array, x_t: Array, t: Array) -> Array:
    """kappa_dot / (1 - kappa) (-log p(x_1) [x_t != x_1] + [x_t = x_1] - p(x_t)), nats per unit of t, >= 0.

    p = softmax(logits) of float[..., N, V]; x_1, x_t: int[..., N]; t a number or float[...]; -> float[..., N]. The
    schedule, shared or per token, is of a path between X0 and X1, and at t it moves tokens to X1, else ValueError.
    Integrated over t and averaged over x_t ~ p_t(.|x_0, x_1) it bounds -log of the model's probability of x_1 (up to
    the prior term). Domain t < 1: the weight is infinite at 1.
    Source: Shaul et al. 2024, the evidence bound of mixture paths; Lipman et al. 2024 (guide).

    >>> import numpy as np
    >>> from .schedules import Linear
    >>> generalized_kl(Linear(), np.array([[0.0, 0.0]]), np.array([1]), np.array([0]), 0.5)
    array([0.38629436])
    """
    return _per_time(data_intensity(schedule, per_token(t, x_t, schedule=schedule)), _divergence(logits, x_1, x_t)[0])


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
    weight = xp.astype(data_intensity(schedule, per_token(t, x_t, schedule=schedule)), p.dtype)
    stays = pick(p, x_t)[..., None]
    moves = xp.astype(x_t != x_1, p.dtype)[..., None]
    grad = p * (moves + stays) - xp.where(_at(x_1, p), moves, 0.0) - xp.where(_at(x_t, p), stays, 0.0)
    return _per_time(weight, loss), weight[..., None] * grad


def masked_kl(path: Mixture, logits: Array, x_1: Array, x_t: Array, t: Array) -> Array:
    """kappa_dot / (1 - kappa) (-log p(x_1)) where x_t is the mask, 0 elsewhere, nats per unit of t: the generalized KL.

    p = softmax(logits) without the mask, whatever its logit; float[..., N, V], or V - 1 without it. x_1, x_t:
    int[..., N]; t a number or float[...]; -> float[..., N]. Equals `generalized_kl` of the revealed logits
    (`paths.reveal`). At t = 1 finite where nothing is hidden. Raises ValueError for a path without a mask.
    Source: Shaul et al. 2024, the evidence bound of a masked source; Sahoo et al. 2024, Shi et al. 2024.

    >>> import numpy as np
    >>> masked_kl(Mixture(mask=2), np.zeros((2, 3)), np.array([0, 1]), np.array([2, 1]), 0.5)
    array([1.38629436, 0.        ])
    """
    hidden, weight = _hidden(path, logits, x_t, t)
    nats = cross_entropy(logits[..., : path.mask], x_1)
    return _per_time(weight, namespace(x_t).where(hidden, nats, 0.0))


def masked_kl_with_grad(path: Mixture, logits: Array, x_1: Array, x_t: Array, t: Array) -> tuple[Array, Array]:
    """The loss, float[..., N], and its gradient in the logits, 0 at the mask: the weight times (p - delta_{x_1}).

    >>> import numpy as np
    >>> masked_kl_with_grad(Mixture(mask=2), np.zeros((1, 3)), np.array([0]), np.array([2]), 0.5)[1]
    array([[-1.,  1.,  0.]])
    """
    xp = namespace(logits)
    hidden, weight = _hidden(path, logits, x_t, t)
    nats, grad = cross_entropy_with_grad(logits[..., : path.mask], x_1)
    rest = xp.zeros((*x_t.shape, logits.shape[-1] - grad.shape[-1]), dtype=grad.dtype)
    loss = _per_time(weight, xp.where(hidden, nats, 0.0))
    return loss, xp.concat([weight[..., None] * grad, like(grad, rest)], axis=-1)


def path_kl(u: Array, v: Array, x_t: Array) -> Array:
    """sum over x != x_t of u log(u / v) - u + v, nats per unit of t, >= 0: two velocities, float[..., N, V].

    x_t: int[..., N] -> float[..., N]. The Kullback-Leibler divergence between the laws of the trajectories, per unit
    of t, of any two factorised velocities, the pair's u and the model's v; their diagonals are not read. Where u = 0
    it is v; where v = 0 < u it is +inf. Off the diagonal rates are >= 0.
    Source: Shaul et al. 2024, the evidence bound; Campbell et al. 2022.

    >>> import numpy as np
    >>> path_kl(np.array([[-1.0, 1.0, 0.0]]), np.array([[-1.0, 0.5, 0.5]]), np.array([0]))
    array([0.69314718])
    """
    xp = namespace(u, v)
    u, v, moves = _rates(u, v, x_t)
    some = moves & (u > 0)
    excess = xp.where(some, v - u, 0.0)
    near = some & (xp.abs(excess) < u / 2)  # there the difference of the logarithms would have no digits
    ratio = xp.log1p(excess / xp.where(near, u, xp.inf))
    ratio = xp.where(near, ratio, log(xp.where(some, v, 1.0)) - log(xp.where(some, u, 1.0)))
    return xp.sum(xp.where(some, excess - xp.where(some, u, 1.0) * ratio, xp.where(moves, v, 0.0)), axis=-1)


def path_kl_with_grad(u: Array, v: Array, x_t: Array) -> tuple[Array, Array]:
    """The loss, float[..., N], and its gradient in the model's velocity, 1 - u / v off the diagonal, float[..., N, V].

    >>> import numpy as np
    >>> path_kl_with_grad(np.array([[-1.0, 1.0, 0.0]]), np.array([[-1.0, 0.5, 0.5]]), np.array([0]))[1]
    array([[ 0., -1.,  1.]])
    """
    xp = namespace(u, v)
    loss = path_kl(u, v, x_t)
    u, v, moves = _rates(u, v, x_t)
    grad = (v - u) / xp.where(v > 0, v, 1.0)
    grad = xp.where(u > 0, xp.where(v > 0, grad, -xp.inf), 1.0)
    return loss, xp.where(moves, grad, 0.0)


def concrete_score(schedule: Schedule, source_pmf: Array, probs_1: Array, x_t: Array, t: Array) -> Array:
    """s(x) = p_t(x_t with token i turned into x) / p_t(x_t) of a posterior, float[..., N, V] -> float64[..., N, V].

    The change of variables between the posterior p(x_1 | x_t) and the concrete score, for a path between X0 and X1
    and a coupling independent of a factorised source: s(x) = sum_y p(y | x_t) p_t(x | y) / p_t(x_t^i | y) with
    p_t(x | y) = (1 - kappa) source_pmf(x) + kappa [x = y]. For a mask: kappa / (1 - kappa) p(x) at the mask.
    source_pmf: float[V] or float[N, V]; x_t: int[..., N]; t a number or float[...] in (0, 1). At a token that the
    source never gives, such as a revealed one, the posterior does not know the ratio, which no loss asks for: 0.
    Source: Lou et al. 2024 (SEDD), the concrete score; Meng et al. 2022.

    >>> import numpy as np
    >>> concrete_score(Mixture().schedule, np.array([0.5, 0.5]), np.array([[0.5, 0.5]]), np.array([0]), 0.5)
    array([[1.        , 1.66666667]])
    """
    same_shape(x_t=x_t, probs_1=probs_1[..., 0])
    xp = namespace(x_t)
    probs_1 = xp.astype(probs_1, xp.float64)
    here = _at(x_t, probs_1)
    rest, kappa, p, p_z = _noise(schedule, source_pmf, probs_1, x_t, t)
    q = pick(probs_1, x_t)[..., None]
    away = xp.sum(xp.where(here, 0.0, probs_1), axis=-1)[..., None]
    moved = (away * p + probs_1 * kappa / rest) / xp.where(p_z > 0, p_z, 1.0)  # if x_1^i is not x_t^i
    score = moved + q * rest * p / (rest * p_z + kappa)
    return xp.where(here, 1.0, xp.where(p_z > 0, score, 0.0))


def score_entropy(schedule: Schedule, source_pmf: Array, log_score: Array, x_1: Array, x_t: Array, t: Array) -> Array:
    """kappa_dot / kappa p(x_t) sum over x != x_t of s - r log s + r (log r - 1), nats per unit of t, float[..., N].

    The diffusion-weighted denoising score entropy: log_score = log s, float[..., N, V], the model's; r(x) =
    p_t(x|x_1) / p_t(x_t|x_1); the weight is the rate, x to x_t, of the noise that runs from t = 1 to 0. It is
    `path_kl` of u = weight r, the reversed noise given x_1, and v = weight s, so it bounds -log p. For a mask
    that is `masked_kl` of the posterior behind s (`concrete_score`). With any other source the reversed noise is not
    the velocity of `generalized_kl`: both generate p_t, and the bounds are of two models.
    source_pmf: float[V] or float[N, V]; x_1, x_t: int[..., N]; t a number or float[...] in (0, 1).
    Source: Lou et al. 2024 (SEDD), Theorem 3.6; Shaul et al. 2024 for the path KL.

    >>> import numpy as np
    >>> from .schedules import Linear
    >>> score_entropy(Linear(), np.array([0.0, 0.0, 1.0]), np.log([[0.5, 0.5, 1.0]]), np.array([0]), np.array([2]), 0.5)
    array([1.38629436])
    """
    return score_entropy_with_grad(schedule, source_pmf, log_score, x_1, x_t, t)[0]


def score_entropy_with_grad(
    schedule: Schedule, source_pmf: Array, log_score: Array, x_1: Array, x_t: Array, t: Array
) -> tuple[Array, Array]:
    """The loss, float[..., N], and its gradient in the log-scores, the weight times (s - r), float[..., N, V].

    >>> import numpy as np
    >>> from .schedules import Linear
    >>> arguments = np.array([0.0, 0.0, 1.0]), np.log([[0.5, 0.5, 1.0]]), np.array([0]), np.array([2]), 0.5
    >>> score_entropy_with_grad(Linear(), *arguments)[1]
    array([[-1.,  1.,  0.]])
    """
    same_shape(x_1=x_1, x_t=x_t, log_score=log_score[..., 0])
    xp = namespace(x_t)
    log_score = xp.astype(log_score, xp.float64)
    here, data = _at(x_t, log_score), xp.astype(_at(x_1, log_score), xp.float64)
    rest, kappa, p, p_z = _noise(schedule, source_pmf, log_score, x_t, t)
    known = rest * p_z + kappa * xp.astype(x_t == x_1, xp.float64)[..., None]  # p_t(x_t|x_1), 0 where never reached
    ratio = (rest * p + kappa * data) / xp.where(known > 0, known, xp.inf)
    weight = xp.where(here, 0.0, backward_intensity(schedule, per_token(t, x_t, schedule=schedule))[..., None] * p_z)
    excess = xp.where(ratio > 0, log_score - log(xp.where(ratio > 0, ratio, 1.0)), 0.0)
    each = xp.where(ratio > 0, ratio * (xp.expm1(excess) - excess), xp.exp(log_score))
    grad = xp.where(ratio > 0, ratio * xp.expm1(excess), xp.exp(log_score))
    live = weight > 0
    loss = xp.sum(xp.where(live, weight * xp.where(live, each, 0.0), 0.0), axis=-1)
    return loss, weight * xp.where(live, grad, 0.0)


def _per_time(weight: Array, nats: Array) -> Array:
    """weight nats, and 0 where no event happens, even if it would cost +inf: u log(u / v) is 0 at u = 0."""
    xp = namespace(nats)
    return weight * xp.where(weight > 0, nats, xp.zeros_like(nats))


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


def _given(logits: tuple[Array | None, ...], y: tuple[Array | None, ...]) -> list[tuple[Array, Array] | None]:
    """The pairs that have a loss, and None where a component has none."""
    if len(logits) != len(y) or all(rows is None for rows in logits):
        raise ValueError(f"logits: expected one for each of {len(y)} targets, some not None, got {len(logits)}")
    for j, (rows, tokens) in enumerate(zip(logits, y, strict=True)):
        if rows is not None and tokens is None:
            raise ValueError(f"y: expected the target of component {j}, which has logits, got None")
    return [None if rows is None else (rows, tokens) for rows, tokens in zip(logits, y, strict=True)]


def _hidden(path: Mixture, logits: Array, x_t: Array, t: Array) -> tuple[Array, Array]:
    """Where x_t is the mask, and the rate at which it is revealed there, 0 elsewhere, in the type of the loss."""
    if path.mask is None:
        raise ValueError(f"path: expected a mask path, got {path}")
    xp = namespace(logits)
    hidden = x_t == path.mask
    rate = xp.astype(intensity(path.schedule, per_token(t, x_t, schedule=path.schedule)), widen(logits).dtype)
    return hidden, xp.where(hidden, rate, 0.0)


def _rates(u: Array, v: Array, x_t: Array) -> tuple[Array, Array, Array]:
    """Both velocities, wide enough, and where they are rates: off the diagonal."""
    same_shape(u=u, v=v)
    same_shape(u=u[..., 0], x_t=x_t)
    return widen(u), widen(v), ~_at(x_t, u)


def _noise(schedule: Schedule, source_pmf: Array, table: Array, x_t: Array, t: Array) -> tuple[Array, ...]:
    """1 - kappa, kappa, p(x) and p(x_t) of the source, float64, each to go with a table[..., N, V]."""
    weights = schedule.kappas(per_token(t, x_t, schedule=schedule))
    if len(weights) != 2:
        raise ValueError(f"schedule: expected that of a path between X0 and X1, got {len(weights)} components")
    p = pmf_rows("source_pmf", source_pmf, x_t, table.shape)
    return weights[0][..., None], weights[1][..., None], p, pick(p, x_t)[..., None]
