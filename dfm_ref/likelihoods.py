"""Likelihoods: how probable a model holds data to be, as bounds that can be estimated."""

import math

from . import couplings, paths, random
from .arrays import namespace, pick
from .events import intensity
from .losses import cross_entropy, generalized_kl
from .paths import Mixture
from .protocols import Array, Key, Model
from .schedules import Monotone
from .sources import Source
from .times import low_discrepancy

__all__ = ["bits_per_token", "bound", "mask_bound"]


def bound(path: Mixture, source: Source, model: Model, key: Key, x_1: Array, *, T: float, first: int = 0) -> Array:
    """An unbiased estimate of a bound on -log p(x_1), nats per sequence: int[B, N] -> float64[B].

    The bound is int_0^T E[sum_i generalized_kl_i] dt, plus E[-log p_{1|T}(x_1|x_T)] for a sampler that stops at T
    and draws every token once more; the prior term of an independent coupling is 0. One t for a sequence, uniform in
    the clock -log(1 - kappa), in which events have rate 1. Domain 0 < T < 1, a monotone schedule, no mask (else
    ValueError): for any source but the mask the integral is infinite at 1 as soon as the model ever is sure.
    Source: Shaul et al. 2024, the evidence lower bound of mixture paths.

    >>> import numpy as np
    >>> from .sources import Uniform
    >>> unsure = lambda x_t, t: np.zeros((*x_t.shape, 2))
    >>> x_1 = np.zeros((1000, 1), dtype=np.int64)
    >>> nats = bound(Mixture(), Uniform(2), unsure, Key(0, 1), x_1, T=0.5)
    >>> round(float(np.mean(nats)), 2)  # (log 2) / 2 + (log 2 - 1) / 4 + log 2
    0.96
    """
    if not (isinstance(path.schedule, Monotone) and 0 < T < 1 and path.mask is None):
        raise ValueError(f"T: expected a time in (0, 1), and a monotone schedule without a mask, got {T} of {path}")
    xp = namespace(x_1)
    time_key, source_key, path_key, last_key = random.split(key, 4)
    x_0 = couplings.independent(source, source_key, x_1, first=first).x_0
    clock_T = -math.log(path.schedule.one_minus_kappa(T))
    u = low_discrepancy(random.fold_in(time_key, first), x_1.shape[0], xp=xp)
    t = path.schedule.inverse(-xp.expm1(-clock_T * u))
    x_t = paths.sample(path, path_key, x_0, x_1, t, first=first)
    rate = intensity(path.schedule, t)
    running = xp.sum(generalized_kl(path.schedule, model(x_t, t), x_1, x_t, t), axis=-1) / rate
    x_T = paths.sample(path, last_key, x_0, x_1, T, first=first)
    last = cross_entropy(model(x_T, 0 * t + T), x_1)
    return clock_T * running + xp.sum(last, axis=-1)


def mask_bound(path: Mixture, model: Model, key: Key, x_1: Array, *, first: int = 0) -> Array:
    """The bound of a mask path up to t = 1, where it ends exactly: int[B, N] -> float64[B], nats per sequence.

    The bound is the expected sum of -log p_{1|t}(x_1^i|x_t) over the N events that reveal the tokens, estimated at
    one event: tokens are revealed in a random order, at times with law kappa; before the event that reveals the
    (k + 1)-th, k uniform, every hidden token is equally likely to be it. So there is no weight that diverges.
    Source: Gat et al. 2024 and Shaul et al. 2024 for the integral; for a model free of t it is the any-order average.

    >>> import numpy as np
    >>> unsure = lambda x_t, t: np.zeros((*x_t.shape, 3))
    >>> mask_bound(Mixture(mask=2), unsure, Key(0, 1), np.array([[0, 1]])) / math.log(2)
    array([2.])
    """
    if path.mask is None or not isinstance(path.schedule, Monotone):
        raise ValueError(f"path: expected a mask path with a monotone schedule, got {path}")
    xp = namespace(x_1)
    rank_key, order_key = random.split(key)
    batch, length = x_1.shape
    reveal_at = random.uniform_at(order_key, random.sites((batch, length), first=first * length, xp=xp))
    rank = low_discrepancy(random.fold_in(rank_key, first), batch, xp=xp) * length
    kappa = pick(xp.sort(reveal_at, axis=-1), xp.astype(rank, xp.int64))
    t = path.schedule.inverse(kappa)
    hidden = reveal_at >= kappa[:, None]
    x_t = xp.where(hidden, xp.asarray(path.mask, dtype=x_1.dtype), x_1)
    nats = cross_entropy(model(x_t, t)[..., : path.mask], x_1)
    hidden = xp.astype(hidden, xp.float64)
    return length * xp.sum(xp.where(hidden > 0, nats, 0.0), axis=-1) / xp.sum(hidden, axis=-1)


def bits_per_token(nats: Array, length: int) -> Array:
    """Nats per sequence of `length` tokens, in bits per token.

    >>> round(bits_per_token(math.log(4), 2), 12)
    1.0
    """
    return nats / (length * math.log(2))
