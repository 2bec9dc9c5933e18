"""Sources p_0: what x_0 looks like. Each is a factorised law over the tokens; vocab_size counts the mask."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from . import random
from .arrays import like, one_hot
from .checks import distributions
from .protocols import Array, Key, Namespace

__all__ = ["Marginal", "Masked", "Source", "Uniform", "sample"]


class Source(Protocol):
    """A law of x_0 whose tokens are independent."""

    @property
    def vocab_size(self) -> int: ...

    def pmf(self) -> Array:
        """The probabilities, float64[V] shared by all tokens, or float64[N, V]."""


@dataclass(frozen=True)
class Masked:
    """Every token is the mask, the last token of the vocabulary; data never holds it.

    >>> Masked(vocab_size=3).pmf()
    array([0., 0., 1.])
    """

    vocab_size: int

    def __post_init__(self) -> None:
        _positive(self.vocab_size)

    @property
    def mask(self) -> int:
        return self.vocab_size - 1

    def pmf(self) -> Array:
        return one_hot(np.asarray(self.mask), self.vocab_size)


@dataclass(frozen=True)
class Uniform:
    """Every token is uniform over the vocabulary.

    >>> Uniform(vocab_size=4).pmf()
    array([0.25, 0.25, 0.25, 0.25])
    """

    vocab_size: int

    def __post_init__(self) -> None:
        _positive(self.vocab_size)

    def pmf(self) -> Array:
        return np.full(self.vocab_size, 1 / self.vocab_size)


@dataclass(frozen=True)
class Marginal:
    """Any PMF: a tuple of V probabilities shared by all tokens, or one such tuple for each of N tokens.

    Raises ValueError unless the rows are probabilities that sum to 1.

    >>> Marginal(probs=(0.25, 0.75)).vocab_size
    2
    """

    probs: tuple[float, ...] | tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        distributions("probs", self.pmf())

    @property
    def vocab_size(self) -> int:
        return int(self.pmf().shape[-1])

    def pmf(self) -> Array:
        return np.asarray(self.probs, dtype=np.float64)


def sample(source: Source, key: Key, shape: tuple[int, ...], *, first: int = 0, xp: Namespace = np) -> Array:
    """x_0, int64 of shape [..., N]; token i of the b-th sequence draws at site (first + b) N + i.

    >>> sample(Marginal((0.0, 1.0)), Key(0, 1), (2, 3))
    array([[1, 1, 1],
           [1, 1, 1]])
    """
    if isinstance(source, Masked):
        return xp.full(shape, source.mask, dtype=xp.int64)
    levels = random.uniform_at(key, random.sites(shape, first=first * shape[-1], xp=xp))
    pmf = like(levels, source.pmf())
    return random.choose(pmf if pmf.ndim == 1 else xp.broadcast_to(pmf, (*shape, source.vocab_size)), levels)


def _positive(vocab_size: int) -> None:
    if vocab_size < 1:
        raise ValueError(f"vocab_size: expected at least 1, got {vocab_size}")
