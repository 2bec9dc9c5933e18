"""Couplings pi(x_0, x_1) of noise and data: which x_0 ~ N(0, I) is paired with which point, float[B, D].

Any coupling of the right marginals leaves the ends of a path as they are. Pairs that are near each other make its
trajectories straighter, and the target of `matching.conditional_loss` less random. Pairs drawn elsewhere are
`dfm_ref.couplings.given`.
"""

import math
from typing import Any

import numpy as np

from .. import random
from ..arrays import namespace, to_numpy
from ..checks import same_shape
from ..couplings import Pair, assigned, entropic
from ..protocols import Array, Key

__all__ = ["independent", "optimal_transport", "sinkhorn"]


def independent(key: Key, x_1: Array, *, first: int = 0) -> Pair:
    """pi(x_0, x_1) = N(x_0; 0, I) q(x_1), x_0 fresh, float[..., D]. `first` is the global index of the first point.

    Source: Lipman et al. 2023, section 4.

    >>> from ..random import Key
    >>> independent(Key(0, 42), np.array([[3.0, 4.0]])).x_0
    array([[1.05..., 0.0993...]])
    """
    xp = namespace(x_1)
    if not xp.isdtype(x_1.dtype, "real floating") or not x_1.ndim:
        raise ValueError(f"x_1: expected points, float[..., D], got {x_1.dtype} of shape {tuple(x_1.shape)}")
    x_0 = random.normal(key, tuple(x_1.shape), first=first * x_1.shape[-1], xp=xp)
    return Pair(xp.astype(x_0, x_1.dtype, copy=False), x_1)


def optimal_transport(x_0: Array, x_1: Array) -> Pair:
    """The batch, float[B, D] twice, with x_0 reordered so that sum |x_1 - x_0|^2 is least: minibatch transport.

    Each row of x_0 is used once, so that both laws stay those of the batch. Solved on the host in O(B^3).
    Source: Pooladian et al. 2023, "Multisample flow matching"; Tong et al. 2024.

    >>> optimal_transport(np.array([[0.0], [1.0]]), np.array([[5.0], [4.0]])).x_0.tolist()
    [[1.0], [0.0]]
    """
    return assigned(x_0, x_1, _costs(x_0, x_1))


def sinkhorn(key: Key, x_0: Array, x_1: Array, *, regularization: float, first: int = 0) -> Pair:
    """Pairs drawn from the transport plan of a batch with an entropy: |x_1 - x_0|^2 - regularization x entropy.

    Limits, draws, errors and sources as in `dfm_ref.couplings.sinkhorn`: at regularization -> 0 it is
    `optimal_transport`, at +inf the pairs are independent. Needs POT.
    """
    return entropic(key, x_0, x_1, _costs(x_0, x_1), regularization=regularization, first=first)


def _costs(x_0: Array, x_1: Array) -> np.ndarray[Any, Any]:
    """|x_0 - x_1|^2 of each pair, float64[B, B], on the host."""
    from scipy.spatial.distance import cdist  # slow to import, and needed by few

    same_shape(x_0=x_0, x_1=x_1)
    if x_0.ndim != 2 or not math.prod(x_0.shape):
        raise ValueError(f"x_0: expected a batch [B, D] of one point or more, got shape {tuple(x_0.shape)}")
    costs: np.ndarray[Any, Any] = cdist(to_numpy(x_0), to_numpy(x_1), "sqeuclidean")
    if not np.all(np.isfinite(costs)):
        raise ValueError("x_0, x_1: expected finite coordinates, got a distance that is not finite")
    return costs
