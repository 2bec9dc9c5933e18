"""Likelihoods: how probable a model holds data to be, as bounds that can be estimated and exactly where it is possible.

A model of posteriors is a generative process, the path's chain run with them. -log of its probability of x_1 has

- a bound by sampling (`bound`; `mask_bound`, with less variance; `importance_bound`, as tight as one pays for);
- an exact value, of the process (`law`, over all V**N states) or, free of time and masked, over all orders of one
  sequence (`any_order`); and the bound itself free of sampling (`enumerated_bound`, `any_order_bound`).

All in nats per sequence; `summary` turns them into bits per token and perplexity with standard errors.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from . import paths, random
from .arrays import like, log_softmax, logsumexp, namespace, pick, to_numpy
from .checks import natural, tokens
from .events import intensity
from .losses import cross_entropy, generalized_kl, masked_kl, path_kl
from .paths import X0, X1, Fixed, Mixture, component_pmfs
from .protocols import Array, Key, Model
from .schedules import Monotone, PerToken, Schedule
from .sources import Source
from .times import low_discrepancy
from .velocities import forward

__all__ = [
    "MOST_STATES",
    "Estimate",
    "Summary",
    "any_order",
    "any_order_bound",
    "bits_per_token",
    "bound",
    "enumerated_bound",
    "event_times",
    "importance_bound",
    "kappa_times",
    "law",
    "mask_bound",
    "summary",
    "uniform_times",
]

MOST_STATES = 4096
"""How many states are enumerated at most, V**N of a chain or 2**N subsets of a sequence."""

Times: TypeAlias = Callable[..., tuple[Array, Array]]
"""From a schedule, levels u in (0, 1) and T: the times t(u) in (0, T), and dt / du, which weights what they find."""

_NODES = (8, 16, 32, 64, 128)  # of Gauss's quadrature, doubled until nothing changes


def uniform_times(schedule: Schedule, u: Array, *, T: float) -> tuple[Array, Array]:
    """t = T u, uniform, for any schedule, and dt / du: float[...] in (0, 1) -> two of float[...].

    >>> uniform_times(Mixture().schedule, np.array([0.5]), T=0.5)
    (array([0.25]), array([0.5]))
    """
    return T * u, T + 0 * u


def kappa_times(schedule: Schedule, u: Array, *, T: float) -> tuple[Array, Array]:
    """kappa_t = u kappa_T: times of density kappa_dot, which takes that factor out of an integrand, and dt / du.

    What is left of the rate, 1 / (1 - kappa), has a finite mean on a mask path up to T = 1, for E[hidden tokens] =
    N (1 - kappa), but no finite variance there: `mask_bound` has. Raises ValueError unless the schedule is monotone.

    >>> [x.tolist() for x in kappa_times(Mixture().schedule, np.array([0.5]), T=0.5)]
    [[0.25], [0.5]]
    """
    schedule, top = _monotone(schedule), float(_monotone(schedule).kappa(T))
    t = schedule.inverse(top * u)
    return t, top / schedule.kappa_dot(t)


def event_times(schedule: Schedule, u: Array, *, T: float) -> tuple[Array, Array]:
    """Times uniform in the clock -log(1 - kappa), in which events have rate 1, and dt / du, for T < 1.

    It takes the whole rate out of an integrand. Raises ValueError unless the schedule is monotone.

    >>> [x.tolist() for x in event_times(Mixture().schedule, np.array([0.5]), T=0.75)]
    [[0.5], [0.6931471805599453]]
    """
    schedule = _monotone(schedule)
    clock = -math.log(schedule.one_minus_kappa(T))
    t = schedule.inverse(-namespace(u).expm1(-clock * u))
    return t, clock / intensity(schedule, t)


def bound(
    path: Mixture,
    model: Model,
    key: Key,
    x_0: Array,
    x_1: Array,
    *,
    T: float = 1.0,
    prior: Array = 0.0,
    times: Times | None = None,
    levels: Callable[..., Array] = low_discrepancy,
    first: int = 0,
) -> Array:
    """An unbiased estimate of a bound on -log p(x_1), nats per sequence: int[B, N] twice -> float64[B].

    The bound is the prior term, plus int_0^T E sum_i path_kl_i dt of the pair's velocity from the model's, plus
    E[-log p_{1|T}(x_1 | x_T)] for a sampler that stops at T < 1 and draws every token once more. x_0 is drawn from the
    coupling given x_1; `prior` is KL(pi(x_0 | x_1) || p(x_0)), float or float[B], 0 where the coupling is independent:
    its mean over x_1 is the mutual information of the pair.

    One time t(u) for a sequence, weighted by dt / du: `times` is `event_times` where the path allows, `kappa_times`
    for a mask, else `uniform_times`. `levels(key, B, xp=xp)` draws the u, stratified over the batch by default.
    Logits -inf of tokens that the pair moves to make the bound +inf. Raises ValueError unless 0 < T <= 1, and T < 1 on
    a path without a mask: there the integral is infinite at 1 as soon as a model is ever sure.
    Source: Shaul et al. 2024, the evidence lower bound; Campbell et al. 2022 for general rates.

    >>> unsure = lambda x_t, t: np.zeros((*x_t.shape, 2))
    >>> x_0, x_1 = np.zeros((2, 1000, 1), dtype=np.int64)
    >>> x_0[:500] = 1
    >>> nats = bound(Mixture(), unsure, Key(0, 1), x_0, x_1, T=0.5)
    >>> round(float(np.mean(nats)), 2)  # (log 2) / 2 + (log 2 - 1) / 4 + log 2
    0.96
    """
    _ends(path, T)
    natural("x_1", x_1) if path.mask is None else tokens("x_1", x_1, path.mask)
    if times is None:
        known = isinstance(path.schedule, Monotone)
        times = uniform_times if not known else event_times if path.mask is None else kappa_times
    xp = namespace(x_0, x_1)
    time_key, path_key, last_key = random.split(key, 3)
    u = xp.clip(levels(random.fold_in(time_key, first), x_1.shape[0], xp=xp), 2.0**-53, 1 - 2.0**-53)
    t, weight = times(path.schedule, u, T=T)
    x_t = paths.sample(path, path_key, x_0, x_1, t, first=first)
    nats = prior + weight * xp.sum(_integrand(path, model(x_t, t), x_0, x_1, x_t, t), axis=-1)
    if T == 1:
        return nats
    x_T = paths.sample(path, last_key, x_0, x_1, T, first=first)
    last = paths.reveal(path, _of_data(path, model(x_T, 0 * t + T)), x_T)
    return nats + xp.sum(cross_entropy(last, x_1), axis=-1)


def mask_bound(
    path: Mixture, model: Model, key: Key, x_1: Array, *, levels: Callable[..., Array] = low_discrepancy, first: int = 0
) -> Array:
    """The bound of a mask path up to t = 1, where it ends exactly: int[B, N] -> float64[B], nats per sequence.

    The bound is the expected sum of -log p_{1|t}(x_1^i | x_t) over the N events that reveal the tokens, estimated at
    one event: tokens are revealed at times with laws kappa^i; before the event that reveals the (k + 1)-th, k
    uniform, a hidden token is it with a probability proportional to its rate. So there is no weight that diverges.
    Raises ValueError unless the path has a mask, and schedules, shared or per token, that are monotone.
    Source: Gat et al. 2024 and Shaul et al. 2024 for the integral. Of a model free of t it is the any-order average.

    >>> unsure = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> mask_bound(Mixture(mask=2), unsure, Key(0, 1), np.array([[0, 1]])) / math.log(2)
    array([2.])
    """
    mask, xp = _mask(path), namespace(x_1)
    tokens("x_1", x_1, mask)
    rank_key, order_key = random.split(key)
    batch, length = x_1.shape
    reveal_at = _reveal_times(path, random.uniform_at(order_key, random.sites(x_1.shape, first=first * length, xp=xp)))
    rank = levels(random.fold_in(rank_key, first), batch, xp=xp) * length
    t = pick(xp.sort(reveal_at, axis=-1), xp.astype(rank, xp.int64))
    hidden = reveal_at >= t[:, None]
    x_t = xp.where(hidden, xp.asarray(mask, dtype=x_1.dtype), x_1)
    nats = cross_entropy(model(x_t, t)[..., :mask], x_1)
    rate = intensity(path.schedule, t[:, None]) if isinstance(path.schedule, PerToken) else xp.ones_like(reveal_at)
    rate = xp.where(hidden, rate, 0.0)
    return length * xp.sum(rate * xp.where(hidden, nats, 0.0), axis=-1) / xp.sum(rate, axis=-1)


def importance_bound(path: Mixture, model: Model, key: Key, x_1: Array, *, orders: int, first: int = 0) -> Array:
    """-log of the mean over sampled orders of prod_i p(x_1^i | those before): int[B, N] -> float64[B], nats.

    On a mask path p(x_1) is the mean of that product over times of revealing, T_i with law kappa^i, at which the model
    is asked. K of them give an unbiased estimate of p(x_1), hence in the mean a bound on -log p(x_1), which falls with
    K from the evidence bound (K = 1) to the exact value. N calls of the model on K B rows each. Order k is the same
    whatever K. Raises ValueError unless K >= 1 and the path is as for `mask_bound`.
    Source: Burda et al. 2016 (IWAE), for the orders of Uria et al. 2014.

    >>> unsure = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> importance_bound(Mixture(mask=2), unsure, Key(0, 1), np.array([[0, 1]]), orders=3) / math.log(2)
    array([2.])
    """
    if orders < 1:
        raise ValueError(f"orders: expected at least 1, got {orders}")
    mask, xp = _mask(path), namespace(x_1)
    tokens("x_1", x_1, mask)
    batch, length = x_1.shape
    sites = random.sites(x_1.shape, first=first * length, xp=xp)
    u = xp.concat([random.uniform_at(random.fold_in(key, k), sites) for k in range(orders)])
    reveal_at, x_1 = _reveal_times(path, u), xp.concat([x_1] * orders)
    at = xp.sort(reveal_at, axis=-1)
    log_p = xp.zeros_like(at[:, 0])
    for n in range(length):
        t = at[:, n]
        x_t = xp.where(reveal_at >= t[:, None], xp.asarray(mask, dtype=x_1.dtype), x_1)
        nats = cross_entropy(model(x_t, t)[..., :mask], x_1)
        log_p = log_p - xp.sum(xp.where(reveal_at == t[:, None], nats, 0.0), axis=-1)
    return math.log(orders) - logsumexp(xp.moveaxis(xp.reshape(log_p, (orders, batch)), 0, -1))


def any_order(model: Model, x_1: Array, *, mask: int) -> Array:
    """Exact -log p(x_1) of a mask model free of time: int[B, N] -> float64[B], nats per sequence.

    p(x_1) = 1 / N! sum over orders of prod_i p(x_1^i | those before), the law of a mask path with one schedule for all
    tokens, whatever it is. By dynamic programming over the 2**N subsets: with F(R) the mean over orders of R,
    F(R) = 1 / |R| sum_{i in R} F(R - i) p(x^i | R - i). The model is asked at t = 1/2 and must not depend on t; 2**N
    rows a sequence. Raises ValueError where 2**N exceeds MOST_STATES.
    Source: Uria et al. 2014; Hoogeboom et al. 2022 (autoregressive diffusion).

    >>> unsure = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> any_order(unsure, np.array([[0, 1]]), mask=2) / math.log(2)
    array([2.])
    """

    def one(hidden: np.ndarray, nats: np.ndarray) -> Any:
        length = hidden.shape[1]
        log_f = np.zeros(len(hidden))
        for count in reversed(range(length)):
            rows = np.flatnonzero(hidden.sum(axis=-1) == count)
            before = rows[:, None] | 1 << np.arange(length)  # the subset in which token i is hidden too
            ways = np.where(hidden[rows], -np.inf, log_f[before] - nats[before, np.arange(length)])
            log_f[rows] = np.logaddexp.reduce(ways, axis=-1) - math.log(length - count)
        return -log_f[0]

    return _by_subsets(one, model, x_1, mask)


def any_order_bound(model: Model, x_1: Array, *, mask: int) -> Array:
    """The evidence bound of a mask model free of time, without sampling: int[B, N] -> float64[B], nats per sequence.

    sum over hidden subsets S of (|S| - 1)! (N - |S|)! / N! sum_{i in S} -log p(x_1^i | x_1 with S masked): the value of
    the integral for every schedule that all tokens share. Arguments and errors as for `any_order`, which it bounds.
    Source: Hoogeboom et al. 2022; Ou et al. 2025.

    >>> unsure = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> any_order_bound(unsure, np.array([[0, 1]]), mask=2) / math.log(2)
    array([2.])
    """

    def one(hidden: np.ndarray, nats: np.ndarray) -> Any:
        length = hidden.shape[1]
        share = np.array([0.0, *(1 / (k * math.comb(length, k)) for k in range(1, length + 1))])
        return share[hidden.sum(axis=-1)] @ np.where(hidden, nats, 0.0).sum(axis=-1)

    return _by_subsets(one, model, x_1, mask)


def law(
    path: Mixture, source: Source, model: Model, *, length: int, T: float = 1.0, tolerance: float = 1e-6
) -> np.ndarray[Any, Any]:
    """The probability of every sequence under a model's chain, exactly: float64[V**N], the last token fastest.

    The chain starts at the source and runs to T; for T < 1 every token is then drawn once more. On a mask path the sum
    over orders and times of revealing is a chain of N integrals, done by Gauss's quadrature to a relative `tolerance`;
    any other path has its Kolmogorov equation solved to the same, of 1 / V**N where p is less. The model gets NumPy
    arrays and may return those of any library; it has to be smooth in t. Raises ValueError where V**N exceeds
    MOST_STATES, for T as `bound` does, and where the tolerance is not reached.
    Source: Gat et al. 2024 (the chain); enumeration.

    >>> from .sources import Masked
    >>> unsure = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> law(Mixture(mask=2), Masked(3), unsure, length=1)
    array([0.5, 0.5, 0. ])
    """
    _ends(path, T)
    x = _states(source.vocab_size, length)
    solve = _solve if path.mask is None else _reveal
    p: np.ndarray[Any, Any] = solve(path, source, model, x, T, tolerance)
    if T == 1:
        return p
    last = np.exp(log_softmax(paths.reveal(path, _of_data(path, _answer(model, x, T)), x)))
    joint = np.ones((len(x), 1))
    for i in range(length):
        joint = (joint[:, :, None] * last[:, i, None, :]).reshape(len(x), -1)
    return np.asarray(p @ joint)


def enumerated_bound(
    path: Mixture, source: Source, model: Model, *, length: int, T: float = 1.0, tolerance: float = 1e-6
) -> np.ndarray[Any, Any]:
    """What `bound` estimates, for every sequence and an independent coupling: float64[V**N], the last token fastest.

    E over x_t by enumeration, the integral by Gauss's quadrature, to a `tolerance` in nats (relative, above 1 nat).
    Sequences that hold the mask have none: +inf. Arguments and errors as for `law`; two-component paths only.

    >>> from .sources import Masked
    >>> unsure = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> enumerated_bound(Mixture(mask=2), Masked(3), unsure, length=1) / math.log(2)
    array([ 1.,  1., inf])
    """
    _ends(path, T)
    if path.components != (X0(), X1()):
        raise ValueError(f"path: expected the components (X0(), X1()), got {path.components}")
    vocab_size = source.vocab_size
    x = _states(vocab_size, length)
    tokens = range(vocab_size if path.mask is None else path.mask)  # that data may hold
    data = np.all(x < len(tokens), axis=-1)
    times = event_times if path.mask is None and isinstance(path.schedule, Monotone) else uniform_times
    pmf = np.broadcast_to(np.asarray(source.pmf()), (length, vocab_size))

    def mean(t: float, loss: Callable[[Array, Array], Array]) -> Any:
        """E over x_t ~ p_t(.|x_1) of sum_i loss_i(x_t, x_1^i), for every x_1."""
        rest, kappa = (np.broadcast_to(k, (length,))[:, None, None] for k in path.schedule.kappas(np.asarray([t])))
        kernels = rest * pmf[:, :, None] + kappa * np.eye(vocab_size)  # of x_t^i, x_1^i
        logits = _answer(model, x, t)
        each = np.zeros((*x.shape, vocab_size))
        for v in tokens:
            each[..., v] = to_numpy(loss(logits, np.full_like(x, v)))
        certain = _contracted(kernels, np.where(np.isfinite(each), each, 0.0))
        return np.where(_contracted(kernels, np.where(np.isfinite(each), 0.0, 1.0)) > 0, np.inf, certain)

    def integral(n: int) -> Any:
        u, w, _ = _gauss(n)
        t, slope = times(path.schedule, u, T=T)
        rates = [mean(s, partial(_integrand_at, path, x, s)) for s in t.tolist()]
        return sum(w_k * slope_k * rate for w_k, slope_k, rate in zip(w, slope, rates, strict=True))[data]

    nats = np.full(len(x), np.inf)
    nats[data] = _settled(integral, tolerance)
    if T < 1:
        nats += mean(T, lambda logits, x_1: cross_entropy(paths.reveal(path, _of_data(path, logits), x), x_1))
    return nats


class Estimate(NamedTuple):
    """A mean and its standard error, NaN where there is one value alone."""

    mean: float
    error: float


class Summary(NamedTuple):
    """A likelihood over a data set, in nats per sequence, bits per token, and as a perplexity per token."""

    nats: Estimate
    bits: Estimate
    perplexity: Estimate


def summary(nats: Array, length: int) -> Summary:
    """Means with standard errors over sequences of `length` tokens: float[M] in nats, M >= 1.

    The perplexity is exp of the mean nats per token, its error that of the mean to first order. Of a bound it is a
    bound. Raises ValueError where there is no sequence.

    >>> summary(np.array([2.0, 4.0]), 3).nats
    Estimate(mean=3.0, error=1.0)
    """
    values = to_numpy(nats)
    if not len(values):
        raise ValueError("nats: expected at least one sequence, got none")
    with np.errstate(invalid="ignore", over="ignore"):  # of bounds that are +inf
        mean = float(np.mean(values))
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        perplexity = float(np.exp(mean / length))
        return Summary(
            Estimate(mean, error),
            Estimate(*(bits_per_token(value, length) for value in (mean, error))),
            Estimate(perplexity, perplexity * error / length),
        )


def bits_per_token(nats: Array, length: int) -> Array:
    """Nats per sequence of `length` tokens, in bits per token.

    >>> round(bits_per_token(math.log(4), 2), 12)
    1.0
    """
    return nats / (length * math.log(2))


# The integrand


def _integrand(path: Mixture, logits: Any, x_0: Array, x_1: Array, x_t: Array, t: Array) -> Array:
    """The divergence of the pair's velocity from the model's, nats per unit of t, of each token, float64[..., N]."""
    if path.mask is not None:
        return masked_kl(path, _of_data(path, logits), x_1, x_t, t)
    if path.components == (X0(), X1()):
        return generalized_kl(path.schedule, _of_data(path, logits), x_1, x_t, t)
    posteriors = _posteriors(path, logits, x_t)
    vocab_size = _of_data(path, logits).shape[-1]
    u = forward(path, component_pmfs(path, x_0, x_1, vocab_size=vocab_size), x_t, t)
    return path_kl(u, forward(path, posteriors, x_t, t), x_t)


def _integrand_at(path: Mixture, x_t: Array, t: float, logits: Any, x_1: Array) -> Array:
    """The integrand of a two-component path, which does not ask for x_0."""
    return _integrand(path, logits, x_1, x_1, x_t, t)


def _of_data(path: Mixture, logits: Any) -> Array:
    """The logits of X1 among what a model returned."""
    if not isinstance(logits, tuple):
        return logits
    if len(logits) == len(path.components):
        for rows, component in zip(logits, path.components, strict=True):
            if rows is not None and isinstance(component, X1):
                return rows
    raise ValueError(f"model: expected {len(path.components)} logits, those of X1 among them, got {len(logits)}")


def _posteriors(path: Mixture, logits: Any, x_t: Array) -> tuple[Array | None, ...]:
    """The posteriors of all components that are known or predicted, float64[..., N, V]."""
    xp, data = namespace(x_t), _of_data(path, logits)
    if not isinstance(logits, tuple):
        logits = tuple(data if isinstance(component, X1) else None for component in path.components)
    return tuple(
        component.pmf(x_t, x_t, data.shape[-1])
        if isinstance(component, Fixed)
        else None if rows is None else xp.exp(log_softmax(xp.astype(rows, xp.float64)))
        for rows, component in zip(logits, path.components, strict=True)
    )  # fmt: skip


# Domains


def _ends(path: Mixture, T: float) -> None:
    if not (0 < T < 1 or (T == 1 and path.mask is not None)):
        raise ValueError(f"T: expected a time in (0, 1), or 1 on a mask path, got {T} of {path}")


def _monotone(schedule: Schedule) -> Monotone:
    if not isinstance(schedule, Monotone):
        raise ValueError(f"schedule: expected a monotone one, got {schedule}")
    return schedule


def _mask(path: Mixture) -> int:
    if path.mask is None:
        raise ValueError(f"path: expected a mask path, got {path}")
    return path.mask


def _few(states: int) -> None:
    if states > MOST_STATES:
        raise ValueError(f"length: expected at most {MOST_STATES} states to enumerate, got {states}")


# Orders


def _reveal_times(path: Mixture, u: Array) -> Array:
    """When each token is revealed, float64[..., N], with law kappa^i: from uniforms float64[..., N]."""
    if not isinstance(path.schedule, PerToken):
        return _monotone(path.schedule).inverse(u)
    schedules = path.schedule.schedules
    if len(schedules) != u.shape[-1]:
        raise ValueError(f"schedule: expected one for each of {u.shape[-1]} tokens, got {len(schedules)}")
    return namespace(u).stack([_monotone(one).inverse(u[..., i]) for i, one in enumerate(schedules)], axis=-1)


def _by_subsets(one: Callable[[Array, Array], Any], model: Model, x_1: Array, mask: int) -> Array:
    """A function of the subsets bool[2**N, N] and -log p(x_1^i | x_1 with them hidden), of each sequence."""
    xp, length = namespace(x_1), x_1.shape[-1]
    _few(2**length)
    tokens("x_1", x_1, mask)
    hidden = (np.arange(2**length)[:, None] >> np.arange(length) & 1).astype(bool)
    values = []
    for b in range(x_1.shape[0]):
        row = xp.broadcast_to(x_1[b, ...], hidden.shape)
        x_t = xp.where(like(x_1, hidden), xp.asarray(mask, dtype=x_1.dtype), row)
        logits = model(x_t, like(x_1, np.full(2**length, 0.5)))
        values.append(one(hidden, to_numpy(cross_entropy(logits[..., :mask], row)).astype(np.float64)))
    return like(x_1, np.asarray(values, dtype=np.float64))


# Enumeration, on the host


def _states(vocab_size: int, length: int) -> np.ndarray[Any, Any]:
    """All sequences, int64[V**N, N], the last token fastest."""
    _few(vocab_size**length)
    return np.indices((vocab_size,) * length).reshape(length, -1).T


def _answer(model: Model, x: Array, t: float) -> Any:
    """What a model says of states at one time, as float64 of NumPy."""
    logits = model(x, np.full(len(x), t))
    if isinstance(logits, tuple):
        return tuple(None if rows is None else to_numpy(rows).astype(np.float64) for rows in logits)
    return to_numpy(logits).astype(np.float64)


def _contracted(kernels: Array, each: Array) -> Any:
    """sum over i and z of prod_l kernels[l, z^l, x^l] each[z, i, x^i], for every x: [N, V, V], [S, N, V] -> [S]."""
    length, vocab_size, _ = kernels.shape
    total = np.zeros((vocab_size,) * length)
    for i in range(length):
        table = each[:, i].reshape((vocab_size,) * (length + 1))
        table = np.einsum("a...v,av->...v", np.moveaxis(table, i, 0), kernels[i])
        table = np.moveaxis(table, -1, i)
        for other in set(range(length)) - {i}:
            table = np.moveaxis(np.tensordot(table, kernels[other], axes=(other, 0)), -1, other)
        total += table
    return total.ravel()


def _gauss(n: int) -> tuple[Array, Array, Array]:
    """Gauss's nodes and weights on [0, 1], and the matrix that integrates from 0 to each node."""
    x, w = np.polynomial.legendre.leggauss(n)
    p = np.polynomial.legendre.legvander(x, n)
    before = np.concatenate([-np.ones((n, 1)), p[:, : n - 1]], axis=-1)
    return (x + 1) / 2, w / 2, (p[:, 1:] - before) @ (p[:, :n] * w[:, None]).T / 4


def _settled(value: Callable[[int], Any], tolerance: float) -> Any:
    """The value at ever more nodes, once it changes by less than the tolerance, relative or absolute."""
    coarse = value(_NODES[0])
    for n in _NODES[1:]:
        fine = value(n)
        if np.allclose(fine, coarse, rtol=tolerance, atol=tolerance):
            return fine
        coarse = fine
    raise ValueError(f"tolerance: expected an integral that settles within {tolerance}, it did not by {n} nodes")


def _reveal(path: Mixture, source: Source, model: Model, x: Array, T: float, tolerance: float) -> Any:
    """The law of a mask path's chain at T, [S].

    The state x with tokens R revealed has probability prod_{i not in R} (1 - kappa^i) F(R), where dF(R) / dt =
    sum_{i in R} kappa_dot^i F(R - i) p(x^i | R - i, t): nothing here is singular, at t = 1 either.
    """
    mask, (_, length) = _mask(path), x.shape
    hidden = x == mask
    before = np.arange(len(x))[:, None] + (mask - x) * (mask + 1) ** np.arange(length)[::-1]  # x, token i hidden too
    rest = np.broadcast_to(path.schedule.kappas(np.asarray([T]))[0], (length,))

    def log_law(n: int) -> Any:
        u, w, integrate = _gauss(n)
        rate = T * np.broadcast_to(path.schedule.kappa_dots(T * u[:, None])[1], (n, length))
        flow = np.zeros((n, *x.shape))
        for k, t in enumerate((T * u).tolist()):
            p = np.exp(log_softmax(_of_data(path, _answer(model, x, t))[..., :mask]))
            flow[k] = np.where(hidden, 0.0, rate[k] * p[before, np.arange(length), np.minimum(x, mask - 1)])
        f, at_T = np.zeros((n, len(x))), np.zeros(len(x))
        f[:, hidden.all(axis=-1)] = at_T[hidden.all(axis=-1)] = 1.0
        for count in reversed(range(length)):
            rows = hidden.sum(axis=-1) == count
            slope = np.sum(flow[:, rows] * f[:, before[rows]], axis=-1)
            f[:, rows], at_T[rows] = integrate @ slope, w @ slope
        with np.errstate(divide="ignore"):
            return np.log(at_T * np.prod(np.where(hidden, rest, 1.0), axis=-1))

    return np.exp(_settled(log_law, tolerance))


def _solve(path: Mixture, source: Source, model: Model, x: Array, T: float, tolerance: float) -> Any:
    """The law of a chain at T, [S], by its Kolmogorov equation.

    The posteriors are interpolated between Gauss's nodes: a solver asks for hundreds of times, a model needs a few.
    """
    from scipy.integrate import solve_ivp

    length, vocab_size = x.shape[1], source.vocab_size
    p_0 = np.prod(np.broadcast_to(np.asarray(source.pmf()), (length, vocab_size))[np.arange(length), x], axis=-1)
    times = event_times if isinstance(path.schedule, Monotone) else uniform_times

    def scaled_law(n: int) -> Any:
        u, w, _ = _gauss(n)
        t_k, _ = times(path.schedule, u, T=T)
        signs = np.resize([1.0, -1.0], n) * np.sqrt(u * (1 - u) * w)  # barycentric weights
        found = zip(*(_posteriors(path, _answer(model, x, t), x) for t in t_k.tolist()), strict=True)
        tables = [None if rows[0] is None else np.stack(rows) for rows in found]

        def flow(t: float, p: Array) -> Any:
            apart = level(t) - u
            share = signs / np.where(apart == 0, 1.0, apart) if np.all(apart) else (apart == 0).astype(np.float64)
            share = share / share.sum()
            rates = forward(
                path, tuple(w_hat if w_hat is None else np.tensordot(share, w_hat, 1) for w_hat in tables), x, t
            )
            flux = (p[:, None, None] * rates).reshape((vocab_size,) * length + (length, vocab_size))
            return sum(np.moveaxis(flux[..., i, :].sum(axis=i), -1, i) for i in range(length)).ravel()

        def level(t: float) -> float:
            """The u of a time."""
            if times is uniform_times:
                return t / T
            rest = [_monotone(path.schedule).one_minus_kappa(s) for s in (t, T)]
            return float(np.log(rest[0]) / np.log(rest[1]))

        steps = {"method": "DOP853", "rtol": 0.01 * tolerance, "atol": 0.01 * tolerance / len(x)}
        solved = solve_ivp(flow, (0.0, T), p_0, t_eval=[T], **steps)
        if not solved.success:
            raise ValueError(f"path: expected a chain that can be solved up to T = {T}: {solved.message}")
        return len(x) * solved.y[:, -1]

    return np.maximum(_settled(scaled_law, tolerance) / len(x), 0.0)
