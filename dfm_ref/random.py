"""Counter-based randomness: Threefry-2x32 with 20 rounds (Salmon et al. 2011), in the layout of `jax.random`.

A draw is a function of a key and of a *site*, the global index of what it is for (sample x N + token). So another
batch size, a shard or a lazy evaluation gives the same draw, and so does every array library. `key`, `fold_in`,
`split`, `bits` and `uniform` equal those of JAX (partitionable Threefry, x64 enabled) bit for bit.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from operator import index
from typing import Any

import array_api_compat
import numpy as np

from .arrays import like, namespace, widen
from .protocols import Array, Key, Namespace

__all__ = [
    "bits",
    "bits_at",
    "categorical",
    "choose",
    "choose_logits",
    "fold_in",
    "key",
    "normal",
    "normal_at",
    "plane",
    "sites",
    "split",
    "threefry2x32",
    "uniform",
    "uniform_at",
    "words_at",
]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_WORD = 0xFFFFFFFF
_CHUNK = 1 << 18  # probabilities weighed in one go: 2 MiB of float64, which a cache holds


def threefry2x32(key: Key, x_0: Any, x_1: Any) -> tuple[Any, Any]:
    """The block cipher: two words of counter to two words of noise under a key, elementwise.

    Words are Python ints, uint32 arrays, or int64 arrays that hold 32 bits (for libraries without uint32 shifts);
    the words of the key may be arrays too, and broadcast.
    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; known answers in Random123.

    >>> [hex(word) for word in threefry2x32(Key(0, 0), 0, 0)]
    ['0x6b200159', '0x99ba4efe']
    """
    wraps, shift = _lanes(x_0)
    ks = (key.hi, key.lo, key.hi ^ key.lo ^ _PARITY)
    x_0 = x_0 + ks[0]
    x_1 = (x_1 + ks[1]) & _WORD
    for block in range(5):
        for r in _ROTATIONS[block % 2]:
            x_0 += x_1
            high = x_1 >> shift[32 - r]
            x_1 <<= shift[r]
            x_1 |= high
            x_1 ^= x_0
            if not wraps:
                x_1 &= _WORD
        x_0 += ks[(block + 1) % 3]
        x_1 += (ks[(block + 2) % 3] + block + 1) & _WORD
        if not wraps:
            x_1 &= _WORD
    return x_0 & _WORD, x_1


def _lanes(x: Any) -> tuple[bool, Any]:
    """Whether the words wrap at 32 bits by themselves, and the shift amounts as the library likes them best."""
    if isinstance(x, int):
        return False, range(33)
    xp = namespace(x)
    wraps = x.dtype == xp.uint32
    if array_api_compat.is_cupy_array(x):  # whose kernels take numbers by value, and whose devices have no hash
        return wraps, range(33)
    return wraps, _shifts(xp, x.dtype, array_api_compat.device(x))


@lru_cache
def _shifts(xp: Namespace, dtype: Any, device: Any) -> tuple[Array, ...]:
    return tuple(xp.asarray(r, dtype=dtype, device=device) for r in range(33))


def key(seed: int) -> Key:
    """The key of a seed, an integer in [-2**63, 2**63); equals `jax.random.key`.

    >>> key(42)
    Key(hi=0, lo=42)
    """
    seed = index(seed)
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed: expected an integer in [-2**63, 2**63), got {seed}")
    return Key(seed >> 32 & _WORD, seed & _WORD)


def fold_in(key: Key, data: int) -> Key:
    """A new key from a key and a number in [0, 2**32), such as a step; equals `jax.random.fold_in`.

    >>> fold_in(Key(0, 42), 1)
    Key(hi=64467757, lo=2916123636)
    """
    data = index(data)
    if not 0 <= data < 2**32:
        raise ValueError(f"data: expected an integer in [0, 2**32), got {data}")
    return Key(*threefry2x32(key, 0, data))


def split(key: Key, num: int = 2) -> tuple[Key, ...]:
    """`num` independent keys from one; equals `jax.random.split`.

    >>> split(Key(0, 42))
    (Key(hi=1832780943, lo=270669613), Key(hi=64467757, lo=2916123636))
    """
    return tuple(Key(*threefry2x32(key, 0, i)) for i in range(num))


def sites(shape: tuple[int, ...], *, first: int = 0, xp: Namespace = np) -> Array:
    """The addresses of an array of draws: consecutive integers from `first`, int64 of the given shape.

    >>> sites((2, 3), first=6)
    array([[ 6,  7,  8],
           [ 9, 10, 11]])
    """
    return xp.reshape(xp.arange(first, first + math.prod(shape), dtype=xp.int64), shape)


def words_at(key: Key, sites: Array) -> tuple[Array, Array]:
    """The two noise words of each site, int64[...] >= 0, as uint32 (on PyTorch: int64 that holds 32 bits).

    >>> [word.tolist() for word in words_at(Key(0, 0), np.array([0]))]
    [[1797259609], [2579123966]]
    """
    xp = namespace(sites)
    if not sites.ndim:  # scalars of uint32 would warn where arrays wrap
        high, low = words_at(key, sites[None])
        return high[0, ...], low[0, ...]
    dtype = xp.int64 if array_api_compat.is_torch_namespace(xp) else xp.uint32
    if not isinstance(key.hi, int):
        key = Key(*(xp.astype(like(sites, word), dtype) for word in key))
    return threefry2x32(key, xp.astype(sites >> 32, dtype), xp.astype(sites & _WORD, dtype))


def bits_at(key: Key, sites: Array) -> Array:
    """32 random bits for each site: int64[...] -> uint32[...].

    >>> bits_at(Key(0, 42), np.asarray([1]))
    array([2919706841], dtype=uint32)
    """
    xp = namespace(sites)
    high, low = words_at(key, sites)
    return xp.astype(high ^ low, xp.uint32)


def uniform_at(key: Key, sites: Array) -> Array:
    """A uniform of 52 bits for each site: int64[...] -> float64[...] in [0, 1).

    >>> uniform_at(Key(0, 42), np.asarray([1]))
    array([0.01501007])
    """
    xp = namespace(sites)
    high, low = words_at(key, sites)
    return xp.astype(high, xp.float64) * 2.0**-32 + xp.astype(low >> 12, xp.float64) * 2.0**-52


def bits(key: Key, shape: tuple[int, ...], *, xp: Namespace = np) -> Array:
    """32 random bits for each entry of a shape, uint32; equals `jax.random.bits(key, shape, "uint32")`.

    >>> bits(Key(0, 42), (2,))
    array([2098992034, 2919706841], dtype=uint32)
    """
    return bits_at(key, sites(shape, xp=xp))


def uniform(key: Key, shape: tuple[int, ...], *, xp: Namespace = np) -> Array:
    """Uniforms in [0, 1), float64 of the shape; equals `jax.random.uniform(key, shape, "float64")`.

    >>> uniform(Key(0, 42), (2,))
    array([0.42672757, 0.01501007])
    """
    return uniform_at(key, sites(shape, xp=xp))


def normal_at(key: Key, sites: Array) -> Array:
    """A standard normal number for each site: int64[...] -> float64[...], at most 8.5 in size.

    Sites 2k and 2k + 1 share a point of the plane, whose radius is drawn at the site 2k and whose angle at 2k + 1.
    Source: Box and Muller 1958.

    >>> normal_at(Key(0, 42), np.asarray([1]))
    array([0.09934016])
    """
    even = sites - sites % 2
    x, y = _point(uniform_at(key, even), uniform_at(key, even + 1))
    return namespace(sites).where(sites % 2 == 0, x, y)


def normal(key: Key, shape: tuple[int, ...], *, first: int = 0, xp: Namespace = np) -> Array:
    """Standard normal numbers, float64 of the shape: those of `normal_at` at the sites `first`, `first` + 1, ...

    >>> normal(Key(0, 42), (2,))
    array([1.05019997, 0.09934016])
    """
    count, odd = math.prod(shape), first % 2
    u = uniform_at(key, sites(((odd + count + 1) // 2, 2), first=first - odd, xp=xp))
    return xp.reshape(plane(u)[odd : odd + count], shape)


def plane(u: Array) -> Array:
    """The coordinates of n normal points of the plane, one after another: uniforms float64[n, 2] -> float64[2 n].

    >>> plane(np.array([[0.5, 0.0]]))
    array([1.17741002, 0.        ])
    """
    xp = namespace(u)
    return xp.reshape(xp.stack(_point(u[:, 0], u[:, 1]), axis=-1), (-1,))


def _point(u: Array, v: Array) -> tuple[Array, Array]:
    """A normal point of the plane from two uniforms: its radius has P(radius > r) = exp(-r^2 / 2), its angle is 2 pi v.

    (cos, sin) = (1 - t^2, 2 t) / (1 + t^2), with t the tangent of half the angle: one slow function instead of two.
    """
    xp = namespace(u)
    t = xp.tan(math.pi * v)
    scale = xp.sqrt(-2 * xp.log1p(-u)) / (1 + t * t)
    return scale * (1 - t * t), scale * (2 * t)


def choose(probs: Array, u: Array) -> Array:
    """The token at level u of each row: float[..., V] and float64[...] in [0, 1) -> int64[...].

    One row alone, float[V], serves every u.
    Rows hold probabilities, with a sum within a few per cent of 1. The weights floor(p 2**52) and their sum W are
    integers below 2**53: float64 adds them without error in any order, so that every library finds the same
    token, the first whose cumulative weight exceeds min(floor(u W), W - 1). A token of probability 0 never comes.
    Raises ValueError where a row has no mass or holds NaN.

    >>> choose(np.array([[0.5, 0.0, 0.5], [0.0, 0.0, 1.0]]), np.array([0.5, 0.0]))
    array([2, 2])
    """
    if probs.ndim > 1:
        return _by_rows(_weights, probs, u)
    xp = namespace(probs, u)
    cumulative = xp.cumulative_sum(_weights(probs))
    rest = _rest(xp.reshape(u, (-1,)), cumulative[-1:])
    return xp.reshape(xp.astype(xp.searchsorted(cumulative, rest, side="right"), xp.int64), u.shape)


def choose_logits(logits: Array, u: Array) -> Array:
    """`choose` on rows of logits, float[..., V], of which some but not all entries may be -inf.

    >>> choose_logits(np.log([[0.25, 0.75], [1.0, 0.5]]), np.array([0.5, 0.5]))
    array([1, 0])
    """
    return _by_rows(_weights_of_logits, logits, u)


def categorical(key: Key, probs: Array, *, sites: Array | None = None) -> Array:
    """A draw from each row of probabilities, float[..., V] -> int64[...]; see `choose` for the domain.

    Row i draws at site i of the key, unless `sites`, int64[...], says otherwise.

    >>> categorical(Key(0, 42), np.array([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]))
    array([0, 1])
    """
    xp = namespace(probs)
    return choose(probs, uniform(key, probs.shape[:-1], xp=xp) if sites is None else uniform_at(key, sites))


def _by_rows(weigh: Callable[[Array], Array], rows: Array, u: Array) -> Array:
    """Draws from chunks of rows that a cache holds, so that the extra memory does not grow with their number."""
    count, size = math.prod(u.shape), max(1, _CHUNK // max(1, rows.shape[-1]))
    if u.ndim == 1 and count <= size:
        return _search(weigh(rows), u)
    xp = namespace(rows, u)
    rows, levels = xp.reshape(rows, (-1, rows.shape[-1])), xp.reshape(u, (-1,))
    chunks = [slice(i, min(i + size, count)) for i in range(0, max(1, count), size)]
    tokens = [_search(weigh(rows[chunk, :]), levels[chunk]) for chunk in chunks]
    return xp.reshape(xp.concat(tokens), u.shape)


def _weights(probs: Array) -> Array:
    """floor(p 2^52), integers held in float64; a p that rounding left below 0 counts as 0."""
    xp = namespace(probs)
    return xp.floor(xp.maximum(xp.astype(probs, xp.float64) * 2.0**52, 0.0))


def _weights_of_logits(logits: Array) -> Array:
    """The weights of softmax(logits), integers held in the dtype of the logits, at least float32."""
    xp = namespace(logits)
    logits = widen(logits)
    top = xp.max(logits, axis=-1, keepdims=True)
    top = xp.where(xp.isinf(top), xp.full_like(top, xp.nan), top)  # no distribution: the search says so
    weights = xp.exp(logits - top)
    weights *= 2.0**52 / xp.maximum(xp.sum(weights, axis=-1, keepdims=True), 1.0)  # the top alone has 1
    return xp.floor(weights)


def _search(weights: Array, u: Array) -> Array:
    """The first token whose cumulative weight exceeds min(floor(u W), W - 1), weights [E, V] and u [E].

    Looks for its block of about sqrt(V) tokens first: sums are cheap, and running sums are not.
    """
    xp = namespace(weights)
    rows, vocab_size = weights.shape
    if vocab_size <= 64:
        below = xp.cumulative_sum(weights, axis=-1, dtype=xp.float64)
        return _first_above(below, _rest(u, below[:, -1]))
    width = _width(vocab_size)
    blocks = -(-vocab_size // width)
    if blocks * width > vocab_size:
        weights = xp.concat([weights, xp.zeros((rows, blocks * width - vocab_size), dtype=weights.dtype)], axis=-1)
    weights = xp.reshape(weights, (rows * blocks, width))
    masses = xp.reshape(xp.sum(weights, axis=-1, dtype=xp.float64), (rows, blocks))
    below = xp.cumulative_sum(masses, axis=-1)
    rest = _rest(u, below[:, -1])
    block = _first_above(below, rest)
    here = xp.arange(rows) * blocks + block
    within = xp.take(weights, here, axis=0)
    rest = rest - xp.take(xp.reshape(below - masses, (-1,)), here)
    return block * width + _first_above(xp.cumulative_sum(within, axis=-1, dtype=xp.float64), rest)


@lru_cache
def _width(vocab_size: int) -> int:
    """About sqrt(V), and a divisor of V where there is one: then no row needs padding."""
    root = math.isqrt(vocab_size)
    return next((width for width in range(root, 2 * root) if vocab_size % width == 0), root)


def _rest(u: Array, total: Array) -> Array:
    """min(floor(u W), W - 1): one correctly rounded product."""
    xp = namespace(u)
    if not bool(xp.all(total > 0)):
        raise ValueError("probs or logits: expected rows that are distributions, got one with NaN or without mass")
    return xp.minimum(xp.floor(u * total), total - 1)


def _first_above(cumulative: Array, level: Array) -> Array:
    """The first place of each row [E, V] that exceeds its level [E]; the last one always does."""
    xp = namespace(cumulative)
    return xp.argmax(xp.astype(cumulative > level[:, None], xp.int8), axis=-1)
