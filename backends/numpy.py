"""NumPy: the default, always there. Trains on several cores, one shard of the batch each."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from typing import Any

import array_api_compat.numpy as xp
import numpy as np

from dfm_ref.nn import train
from dfm_ref.protocols import Array, Backend, Params

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_SHARD = 8  # sequences, at least: smaller products are not worth a thread


def gradients_in_threads(
    config: train.Config, params: Params, x_1: Array, x_t: Array, t: Array, *, labels: Array | None = None
) -> tuple[Array, Params]:
    """`train.gradients`, a shard of the batch on every core: NumPy's elementwise work uses one core a thread.

    Equal up to the order of the sums over the batch, and the same on every call on one machine.
    """
    shards = min(_cores(), len(x_1) // _SHARD)
    if shards < 2 or not _blas():
        return train.gradients(config, params, x_1, x_t, t, labels=labels)

    def one(k: int) -> tuple[Array, Params]:
        part, known = (a[k::shards] for a in (x_1, x_t, t)), None if labels is None else labels[k::shards]
        return train.gradients(config, params, *part, labels=known)  # times rise along a batch: every shard has all

    with _one_blas_thread():
        losses, grads = zip(*_threads(shards).map(one, range(shards)), strict=True)
    return sum(losses), {name: sum(g[name] for g in grads[1:]) + grads[0][name] for name in params}


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

backend = Backend("numpy", xp, asarray=np.asarray, to_numpy=np.asarray, kernels={train.gradients: gradients_in_threads})
