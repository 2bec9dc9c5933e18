"""Couplings pi(x_0, x_1): which source sequence is paired with which data sequence."""

from typing import Any, NamedTuple

import numpy as np

from . import random, sources
from .arrays import like, namespace, to_numpy
from .checks import natural, same_shape, tokens
from .protocols import Array, Key
from .sources import Source

__all__ = ["Pair", "assigned", "drawn", "entropic", "given", "independent", "optimal_transport", "prompted", "sinkhorn"]


class Pair(NamedTuple):
    """A batch of pairs, int[..., N] each, or float[..., D] of points."""

    x_0: Array
    x_1: Array


def given(x_0: Array, x_1: Array) -> Pair:
    """Pairs drawn elsewhere, whatever their joint law; ValueError unless the shapes agree.

    Source: Gat et al. 2024, section 3.1 (couplings).

    >>> given(np.array([[0, 1]]), np.array([[1, 1]])).x_0
    array([[0, 1]])
    """
    same_shape(x_0=x_0, x_1=x_1)
    return Pair(x_0, x_1)


def independent(source: Source, key: Key, x_1: Array, *, first: int = 0) -> Pair:
    """pi(x_0, x_1) = p(x_0) q(x_1): x_0 fresh from the source. `first` is the global index of the first sequence.

    Source: Gat et al. 2024, section 3.1 (couplings).

    >>> from .sources import Masked
    >>> independent(Masked(4), Key(0, 1), np.array([[0, 2]])).x_0
    array([[3, 3]])
    """
    xp = namespace(x_1)
    if source.vocab_size - 1 > xp.iinfo(x_1.dtype).max:
        raise ValueError(f"x_1: expected a type that holds {source.vocab_size} tokens, got {x_1.dtype}")
    x_0 = sources.sample(source, key, tuple(x_1.shape), first=first, xp=xp)
    return Pair(xp.astype(x_0, x_1.dtype, copy=False), x_1)


def prompted(source: Source, key: Key, x_1: Array, keep: Array, *, first: int = 0) -> Pair:
    """x_0 = keep x_1 + (1 - keep) x_0: the tokens where `keep` holds are the prompt and never move.

    `keep` is any pattern, bool[..., N] or one bool[N] for all sequences. Raises TypeError unless it holds booleans,
    ValueError for another shape, that of a prompt longer than N, say.
    Source: Gat et al. 2024, section 3.1 (conditional coupling).

    >>> from .sources import Masked
    >>> prompted(Masked(4), Key(0, 1), np.array([[0, 2]]), np.array([[True, False]])).x_0
    array([[0, 3]])
    """
    if not namespace(keep).isdtype(keep.dtype, "bool"):
        raise TypeError(f"keep: expected booleans, got {keep.dtype}")
    if tuple(keep.shape) not in (tuple(x_1.shape), tuple(x_1.shape[-1:])):
        raise ValueError(f"keep: expected the shape {tuple(x_1.shape)} of x_1, got {tuple(keep.shape)}")
    x_0, x_1 = independent(source, key, x_1, first=first)
    return Pair(namespace(x_1).where(keep, x_1, x_0), x_1)


def drawn(key: Key, x_0: Array, x_1: Array, *, pi: Array, num: int, first: int = 0) -> Pair:
    """`num` pairs of a coupling that is a table: pair p, of the rows x_0[p] and x_1[p], int[P, N], has weight pi[p].

    Draw b is made at the site first + b of the key. ValueError unless pi, float[P], is >= 0 and sums to 1 to within
    1e-6, the rounding of a table in float32.

    >>> x = np.array([[0, 0], [1, 1]])
    >>> drawn(Key(0, 1), x, 1 - x, pi=np.array([0.25, 0.75]), num=4).x_1.tolist()
    [[1, 1], [0, 0], [0, 0], [0, 0]]
    """
    same_shape(x_0=x_0, x_1=x_1)
    xp = namespace(x_0, x_1)
    pi = like(x_1, pi, xp.float64)
    if tuple(pi.shape) != tuple(x_1.shape[:1]):
        raise ValueError(f"pi: expected a weight for each of {x_1.shape[0]} pairs, got shape {tuple(pi.shape)}")
    if not bool(xp.all(pi >= 0)):
        raise ValueError("pi: expected weights >= 0, got a negative one or NaN")
    if not abs(float(xp.sum(pi)) - 1) <= 1e-6:
        raise ValueError(f"pi: expected weights that sum to 1, got the sum {float(xp.sum(pi)):.9g}")
    which = random.choose(pi, random.uniform_at(key, random.sites((num,), first=first, xp=xp)))
    return Pair(xp.take(x_0, which, axis=0), xp.take(x_1, which, axis=0))


def optimal_transport(x_0: Array, x_1: Array, *, distance: Array | None = None) -> Pair:
    """The batch, int[B, N] twice, with x_0 reordered so that the pairs are nearest in total: minibatch transport.

    The cost of a pair is sum_i distance[x_0^i][x_1^i], float[V, V] with finite entries, or the Hamming distance
    without one. Each row of x_0 is used once, so that both laws stay those of the batch; the coupling of the data is
    then correlated, which `velocities.noise_posterior` is not made for. Solved on the host in O(B^3).
    Source: Pooladian et al. 2023, "Multisample flow matching"; Tong et al. 2024.

    >>> optimal_transport(np.array([[0, 0], [1, 1]]), np.array([[1, 1], [0, 1]])).x_0.tolist()
    [[1, 1], [0, 0]]
    """
    return assigned(x_0, x_1, _costs(x_0, x_1, distance))


def sinkhorn(
    key: Key, x_0: Array, x_1: Array, *, regularization: float, distance: Array | None = None, first: int = 0
) -> Pair:
    """Pairs drawn from the transport plan of a batch with an entropy: cost - regularization x entropy at its least.

    Costs as in `optimal_transport`, which is the limit regularization -> 0; at +inf the pairs are independent.
    Each row of x_1 draws its x_0 from the plan, at the site first + row: the law of x_1 stays that of the batch, the
    law of x_0 in the mean. Raises ValueError where the plan's marginals do not converge, for too small a
    regularization; ImportError without POT.
    Source: Cuturi 2013, "Sinkhorn distances"; Tong et al. 2024. The plan is POT's.
    """
    return entropic(key, x_0, x_1, _costs(x_0, x_1, distance), regularization=regularization, first=first)


def assigned(x_0: Array, x_1: Array, costs: np.ndarray[Any, Any]) -> Pair:
    """The pairs of least total cost, each row used once; costs: float64[B, B], [row of x_0, row of x_1], on the host.

    >>> assigned(np.array([5, 6]), np.array([7, 8]), np.array([[1.0, 0.0], [0.0, 1.0]])).x_0
    array([6, 5])
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and needed by few

    _, order = linear_sum_assignment(costs.T)
    return Pair(namespace(x_0).take(x_0, like(x_0, order), axis=0), x_1)


def entropic(
    key: Key, x_0: Array, x_1: Array, costs: np.ndarray[Any, Any], *, regularization: float, first: int = 0
) -> Pair:
    """Each row of x_1 beside a row of x_0 drawn from the entropic plan of the costs, float64[B, B]: see `sinkhorn`."""
    try:
        import ot
    except ImportError as error:
        raise ImportError(f"sinkhorn: {error}. Install it with: pip install 'dfm_ref[ot]'") from None
    if not 0 < regularization < np.inf:
        raise ValueError(f"regularization: expected a finite number > 0, got {regularization}")
    share = np.full(len(costs), 1 / len(costs))
    plan = ot.sinkhorn(share, share, costs, regularization, method="sinkhorn_log", numItermax=10_000, warn=False)
    if not all(np.max(np.abs(plan.sum(axis=axis) * len(plan) - 1)) <= 1e-3 for axis in (0, 1)):
        raise ValueError(f"regularization: expected one at which Sinkhorn converges, got {regularization}")
    given_x_1 = like(x_0, np.ascontiguousarray(plan.T / plan.sum(axis=0)[:, None]))
    xp = namespace(x_0)
    which = random.choose(given_x_1, random.uniform_at(key, random.sites((len(plan),), first=first, xp=xp)))
    return Pair(xp.take(x_0, which, axis=0), x_1)


def _costs(x_0: Array, x_1: Array, distance: Array | None) -> np.ndarray[Any, Any]:
    """The cost of each pair, float64[B, B], on the host; a token at a time, so that no [B, B, N] is built."""
    same_shape(x_0=x_0, x_1=x_1)
    if x_0.ndim != 2 or not x_0.shape[0]:
        raise ValueError(f"x_0: expected a batch [B, N] of one sequence or more, got shape {tuple(x_0.shape)}")
    table = None if distance is None else np.asarray(to_numpy(distance), dtype=np.float64)
    if table is not None and not (table.ndim == 2 and table.shape[0] == table.shape[1] and np.all(np.isfinite(table))):
        raise ValueError(f"distance: expected a finite table [V, V], got shape {table.shape}, entries {table.ravel()}")
    for name, x in (("x_0", x_0), ("x_1", x_1)):
        natural(name, x) if table is None else tokens(name, x, len(table))
    costs = np.zeros((x_0.shape[0],) * 2)
    for a, b in zip(to_numpy(x_0).T, to_numpy(x_1).T, strict=True):
        costs += a[:, None] != b if table is None else table[a[:, None], b]
    return costs
