"""Couplings pi(x_0, x_1): which source sequence is paired with which data sequence."""

from typing import NamedTuple

from . import sources
from .arrays import namespace
from .checks import same_shape
from .protocols import Array, Key
from .sources import Source

__all__ = ["Pair", "given", "independent", "prompted"]


class Pair(NamedTuple):
    """A batch of pairs, int[..., N] each."""

    x_0: Array
    x_1: Array


def given(x_0: Array, x_1: Array) -> Pair:
    """Pairs drawn elsewhere, whatever their joint law; ValueError unless the shapes agree.

    >>> import numpy as np
    >>> given(np.array([[0, 1]]), np.array([[1, 1]])).x_0
    array([[0, 1]])
    """
    same_shape(x_0=x_0, x_1=x_1)
    return Pair(x_0, x_1)


def independent(source: Source, key: Key, x_1: Array, *, first: int = 0) -> Pair:
    """pi(x_0, x_1) = p(x_0) q(x_1): x_0 fresh from the source. `first` is the global index of the first sequence.

    >>> import numpy as np
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
    """x_0 = keep x_1 + (1 - keep) x_0: the tokens where `keep`, bool[..., N], holds are the prompt and never move.

    Source: Gat et al. 2024, section 3.1 (conditional coupling).

    >>> import numpy as np
    >>> from .sources import Masked
    >>> prompted(Masked(4), Key(0, 1), np.array([[0, 2]]), np.array([[True, False]])).x_0
    array([[0, 3]])
    """
    x_0, x_1 = independent(source, key, x_1, first=first)
    return Pair(namespace(x_1).where(keep, x_1, x_0), x_1)
