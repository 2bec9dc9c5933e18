"""What the Array API lacks: a namespace for scalars too, picking one value a row, and logarithmic sums."""

from typing import Any

import array_api_compat
import array_api_extra as xpx
import numpy as np

from .protocols import Array, Namespace

__all__ = ["like", "log", "log_softmax", "logsumexp", "namespace", "one_hot", "pick", "put", "to_numpy", "widen"]


def namespace(*arrays: Any) -> Namespace:
    """The array library of the arguments; plain numbers have no say, and alone they mean NumPy.

    Raises TypeError when the arguments come from two libraries.

    >>> namespace(0.5).__name__
    'array_api_compat.numpy'
    """
    kinds = frozenset(map(type, arrays))
    if kinds not in _KNOWN:
        arrays = tuple(a for a in arrays if not isinstance(a, (int, float)))
        _KNOWN[kinds] = array_api_compat.array_namespace(*arrays or (np.zeros(0),))
    return _KNOWN[kinds]


_KNOWN: dict[frozenset[type], Namespace] = {}  # the answer depends on types alone, and is asked for many times a step


def like(x: Array, values: Any, dtype: Any = None) -> Array:
    """The values as an array of x's library, on x's device.

    >>> like(np.zeros(2), [1, 2])
    array([1, 2])
    """
    return namespace(x).asarray(values, dtype=dtype, device=array_api_compat.device(x))


def to_numpy(x: Array) -> np.ndarray[Any, Any]:
    """The values of x as a NumPy array, copied from its device where it has one.

    >>> to_numpy(np.arange(2))
    array([0, 1])
    """
    return np.asarray(x.get() if array_api_compat.is_cupy_array(x) else x)


def one_hot(x: Array, vocab_size: int, dtype: Any = None) -> Array:
    """delta_x as a row: int[...] -> float[..., V] (float64 unless told), 1 at the token and 0 elsewhere.

    >>> one_hot(np.array([2, 0]), 3)
    array([[0., 0., 1.],
           [1., 0., 0.]])
    """
    xp = namespace(x)
    return xpx.one_hot(x, vocab_size, dtype=dtype or xp.float64, xp=xp)


def pick(values: Array, x: Array) -> Array:
    """The entry of each row at its token: float[..., V], int[...] -> float[...].

    >>> pick(np.array([[0.1, 0.9], [0.3, 0.7]]), np.array([1, 0]))
    array([0.9, 0.3])
    """
    xp = namespace(values)
    return xp.take_along_axis(values, xp.astype(x, xp.int64)[..., None], axis=-1)[..., 0]


def put(x: Array, sites: Array, values: Array) -> Array:
    """x, [n, ...], with the values [E, ...] at the sites int64[E], which must increase strictly; a copy.

    >>> put(np.zeros(3), np.array([0, 2]), np.array([5.0, 7.0]))
    array([5., 0., 7.])
    """
    if not sites.shape[0]:
        return x
    xp = namespace(x)
    y = xp.asarray(x, copy=True)
    try:
        y[sites] = values
        return y
    except (IndexError, TypeError):  # the standard has no write at integer sites: count the sites up to each place
        rank = xp.searchsorted(sites, xp.arange(x.shape[0], dtype=sites.dtype), side="right")
        hit = rank > xp.concat([xp.zeros(1, dtype=rank.dtype), rank[:-1]])
        moved = xp.take(values, xp.maximum(rank - 1, xp.zeros_like(rank)), axis=0)
        return xp.where(xp.reshape(hit, (-1, *(1 for _ in x.shape[1:]))), moved, x)


def widen(x: Array) -> Array:
    """Floats of half precision as float32, others as they are: exp and 1 / (1 - kappa) overflow in less.

    Integers become float64, which has more of their digits.

    >>> widen(np.ones(1, dtype=np.float16)).dtype, widen(np.ones(1, dtype=np.int32)).dtype
    (dtype('float32'), dtype('float64'))
    """
    xp = namespace(x)
    if x.dtype in (xp.float32, xp.float64):
        return x
    return xp.astype(x, xp.float64 if xp.isdtype(x.dtype, "integral") else xp.float32)


def log(x: Array) -> Array:
    """log x of x >= 0, elementwise, -inf where x <= 0, and no warning.

    >>> log(np.array([1.0, 0.0]))
    array([  0., -inf])
    """
    xp = namespace(x)
    return xp.where(x > 0, xp.log(xp.where(x > 0, x, 1.0)), -xp.inf)


def logsumexp(x: Array) -> Array:
    """log sum exp over the last axis, float[..., V] -> float[...]; -inf entries count nothing.

    A row of -inf alone gives -inf, and one with a +inf entry gives NaN.

    >>> float(logsumexp(np.array([0.0, -np.inf])))
    0.0
    """
    xp = namespace(x)
    top = xp.max(x, axis=-1)
    shift = xp.where(top == -xp.inf, xp.zeros_like(top), top)  # an impossible row must not turn into NaN
    return xp.log(xp.sum(xp.exp(x - shift[..., None]), axis=-1)) + shift


def log_softmax(logits: Array) -> Array:
    """The log-probabilities of rows of logits, float[..., V] -> float[..., V]; -inf entries stay -inf.

    >>> log_softmax(np.array([0.0, 0.0, -np.inf]))
    array([-0.69314718, -0.69314718,        -inf])
    """
    return logits - logsumexp(logits)[..., None]
