"""Shards of a batch on several cores: a thread each, beside whose work the threads of OpenBLAS stand still."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from itertools import pairwise
from threading import get_native_id
from typing import Any, TypeVar

from dfm_ref.protocols import Params

__all__ = ["blas", "cores", "in_threads", "one_blas_thread", "split", "summed"]

T = TypeVar("T")
R = TypeVar("R")

NUMBERS = 1 << 17  # of a shard, at least: with less to do the threads wait for each other
_LINKED = ("numpy._core._multiarray_umath", "scipy.linalg.cython_blas")  # modules with an OpenBLAS of their own


def split(count: int, width: int) -> list[slice]:
    """The rows for each core, of `width` numbers a row; the first has some more, done while the other threads wake."""
    number = max(1, min(cores(), count * width // NUMBERS)) if blas() else 1
    lead = NUMBERS // 32 // width
    ends = [lead + (count - lead) * k // number for k in range(1, number + 1)]
    return [slice(start, stop) for start, stop in pairwise([0, *ends])]


def in_threads(function: Callable[[T], R], shards: Iterable[T]) -> list[R]:
    """The results for all shards, in their order; the first is worked out here, as waking a thread takes time."""
    first, *rest = shards
    if not rest:
        return [function(first)]
    with one_blas_thread():
        pool, workers = _pool(len(rest))
        _keep_apart(workers)
        others = pool.map(function, rest)
        return [function(first), *others]


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keeps the products of a shard on the core of its thread: threads of threads wait for each other."""
    libraries = [(say, ask()) for ask, say in blas()]
    for say, _ in libraries:
        say(1)
    try:
        yield
    finally:
        for say, before in libraries:
            say(before)


def summed(grads: Sequence[Params]) -> Params:
    """The sum of the gradients of all shards."""
    return {name: sum((g[name] for g in grads[1:]), grads[0][name]) for name in grads[0]}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blas() -> list[tuple[Callable[[], int], Callable[[int], None]]]:
    """How many threads each loaded OpenBLAS uses, to ask and to say; empty where one loaded is another library."""
    found = [_openblas(module) for module in _LINKED if module in sys.modules]
    return [pair for pair in found if pair] if all(found) else []


@cache
def _openblas(module: str) -> tuple[Callable[[], int], Callable[[int], None]] | None:
    with suppress(AttributeError, OSError):
        library: Any = ctypes.CDLL(import_module(module).__file__)
        for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
            with suppress(AttributeError):
                names = (f"{prefix}openblas_{verb}_num_threads{suffix}" for verb in ("get", "set"))
                ask, say = (getattr(library, name) for name in names)
                return ask, say
    return None


@cache
def _pool(number: int) -> tuple[ThreadPoolExecutor, list[int]]:
    """Threads, and how the system calls those that have started."""
    workers: list[int] = []
    return ThreadPoolExecutor(number, initializer=lambda: workers.append(get_native_id())), workers


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)


def _keep_apart(workers: Sequence[int]) -> None:
    """Lets the workers have every core but the one that this thread is on, where Linux would wake them after a rest:
    for some 50 ms they would then wait there for this thread, beside a core with nothing to do."""
    with suppress(AttributeError, OSError):  # another system, or a worker that is gone
        others = os.sched_getaffinity(0) - {_libc().sched_getcpu()}
        for worker in workers if others else ():
            os.sched_setaffinity(worker, others)
