"""NumPy: the default, always there. Works on several cores, one shard of the batch each."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

import array_api_compat.numpy as xp
import numpy as np

from dfm_ref.continuous import flows, maximum_likelihood
from dfm_ref.nn import train
from dfm_ref.nn.field import Field
from dfm_ref.protocols import Array, Backend, Key, Params

T = TypeVar("T")
R = TypeVar("R")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_SEQUENCES, _NUMBERS = 8, 1 << 17  # of a shard, at least: with less to do the threads wait for each other


def gradients_in_threads(
    config: train.Config, params: Params, x_1: Array, x_t: Array, t: Array, *, labels: Array | None = None
) -> tuple[Array, Params]:
    """`train.gradients`, a shard of the batch on every core: NumPy's elementwise work uses one core a thread.

    Equal up to the order of the sums over the batch, and the same on every call on one machine.
    """
    shards = min(_cores(), len(x_1) // _SEQUENCES)
    if shards < 2 or not _blas():
        return train.gradients(config, params, x_1, x_t, t, labels=labels)

    def one(k: int) -> tuple[Array, Params]:
        part, known = (a[k::shards] for a in (x_1, x_t, t)), None if labels is None else labels[k::shards]
        return train.gradients(config, params, *part, labels=known)  # times rise along a batch: every shard has all

    losses, grads = zip(*_in_threads(one, range(shards)), strict=True)
    return sum(losses), _sum(grads)


def log_prob_in_threads(flow: flows.Flow, params: Params, x: Array) -> Array:
    """`flows.log_prob`, a shard of the points on every core."""
    shards = _shards(x, flow.dim, _width(flow))
    return np.concatenate(_in_threads(lambda rows: flows.log_prob(flow, params, x[rows]), shards))


def sample_in_threads(flow: flows.Flow, params: Params, key: Key, num: int, *, first: int = 0) -> Array:
    """`flows.sample`, a shard of the draws on every core: a draw depends on its number alone."""

    def one(rows: slice) -> Array:
        return flows.sample(flow, params, key, rows.stop - rows.start, first=first + rows.start)

    return np.concatenate(_in_threads(one, _split(num, _width(flow))))


def likelihood_gradients_in_threads(flow: flows.Flow, params: Params, x: Array) -> tuple[Array, Params]:
    """`maximum_likelihood.gradients`, a shard of the points on every core; equal up to the order of sums."""

    def one(rows: slice) -> tuple[Array, Params]:
        loss, grads = maximum_likelihood.gradients(flow, params, x[rows])
        share = len(x[rows]) / len(x)
        return loss * share, {name: g * share for name, g in grads.items()}

    losses, grads = zip(*_in_threads(one, _shards(x, flow.dim, _width(flow))), strict=True)
    return sum(losses), _sum(grads)


class FieldInThreads(Field):
    """`Field`, a shard of the points on every core; its residuals are those of each shard."""

    def forward(
        self, params: Params, x: Array, t: Array | float, *, label: Array | int | None = None
    ) -> tuple[Array, Any]:
        given: tuple[Any, Any] = (t, label)  # a number, or one a point
        fits = all(np.shape(a) == x.shape[:1] for a in given if np.ndim(a))
        shards = _shards(x, self.dim, self._width) if fits else [slice(None)]

        def one(rows: slice) -> tuple[Array, Any]:
            time, known = (a[rows] if np.ndim(a) else a for a in given)
            return super(FieldInThreads, self).forward(params, x[rows], time, label=known)

        v, residuals = zip(*_in_threads(one, shards), strict=True)
        return np.concatenate(v), residuals

    def backward(self, params: Params, residuals: Any, dv: Array) -> Params:
        pieces = zip(residuals, self._like(residuals, dv), strict=True)
        return _sum(_in_threads(lambda piece: super(FieldInThreads, self).backward(params, *piece), pieces))

    def jvp(self, params: Params, residuals: Any, dx: Array) -> Array:
        pieces = zip(residuals, self._like(residuals, dx), strict=True)
        return np.concatenate(_in_threads(lambda p: super(FieldInThreads, self).jvp(params, *p), pieces))

    def divergence(self, params: Params, residuals: Any) -> Array:
        return np.concatenate(_in_threads(lambda r: super(FieldInThreads, self).divergence(params, r), residuals))

    @property
    def _width(self) -> int:
        return max(self.dim, self.hidden // 4)  # products of matrices wait less than the rest

    def _like(self, residuals: Sequence[Any], rows: Array) -> list[Array]:
        """The rows that belong to the residuals of each shard."""
        return [rows[shard] for shard in _split(len(rows), self._width)] if len(residuals) > 1 else [rows]


def _width(flow: flows.Flow) -> int:
    """About how many numbers a flow holds for a point: networks have some even where points have few coordinates."""
    return max(flow.dim, 32)


def _shards(x: Array, dim: int, width: int) -> list[slice]:
    """The rows of the points float[B, D] for each core; all in one where they are no such points, for the error."""
    return _split(len(x), width) if x.shape[1:] == (dim,) else [slice(None)]


def _split(count: int, width: int) -> list[slice]:
    """The rows for each core, of `width` numbers a row."""
    number = max(1, min(_cores(), count * width // _NUMBERS)) if _blas() else 1
    return [slice(count * k // number, count * (k + 1) // number) for k in range(number)]


def _sum(grads: Sequence[Params]) -> Params:
    return {name: sum((g[name] for g in grads[1:]), grads[0][name]) for name in grads[0]}


def _in_threads(function: Callable[[T], R], shards: Iterable[T]) -> list[R]:
    """The results for all shards, in their order; the first is worked out here, as waking a thread takes time."""
    first, *rest = shards
    if not rest:
        return [function(first)]
    with _one_blas_thread():
        others = _threads(len(rest)).map(function, rest)
        return [function(first), *others]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number)


@cache
def _blas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """How many threads OpenBLAS uses, to ask and to say; None where NumPy was built on another library."""
    with suppress(AttributeError, OSError):
        library: Any = ctypes.CDLL(import_module("numpy._core._multiarray_umath").__file__)
        for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
            with suppress(AttributeError):
                names = (f"{prefix}openblas_{verb}_num_threads{suffix}" for verb in ("get", "set"))
                ask, say = (getattr(library, name) for name in names)
                return ask, say
    return None


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Keeps the products of a shard on the core of its thread: threads of threads wait for each other."""
    ask, say = _blas() or (int, print)
    before = ask()
    say(1)
    try:
        yield
    finally:
        say(before)


def _keep_freed_memory() -> None:
    """Lets glibc keep what is freed, for the next array; else every step of training gives the heap back to the
    kernel and faults it in again, page by page, which takes longer than any arithmetic but the matrix products."""
    with suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


if sys.platform == "linux":
    _keep_freed_memory()

backend = Backend(
    "numpy",
    xp,
    asarray=np.asarray,
    to_numpy=np.asarray,
    kernels={
        train.gradients: gradients_in_threads,
        flows.log_prob: log_prob_in_threads,
        flows.sample: sample_in_threads,
        maximum_likelihood.gradients: likelihood_gradients_in_threads,
        Field: FieldInThreads,
    },
)
