"""NumPy: the default, always there. Works on several cores, one shard of the batch each."""

import ctypes
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import array_api_compat.numpy as xp
import numpy as np

from dfm_ref.continuous import flows, maximum_likelihood
from dfm_ref.nn import train
from dfm_ref.nn.field import Field
from dfm_ref.protocols import Array, Backend, Key, Params

from . import threads

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_SEQUENCES = 8  # of a shard, at least: with less to do the threads wait for each other


def gradients_in_threads(
    config: train.Config, params: Params, x_1: Array, x_t: Array, t: Array, *, labels: Array | None = None
) -> tuple[Array, Params]:
    """`train.gradients`, a shard of the batch on every core: NumPy's elementwise work uses one core a thread.

    Equal up to the order of the sums over the batch, and the same on every call on one machine.
    """
    shards = min(threads.cores(), len(x_1) // _SEQUENCES)
    if shards < 2 or not threads.blas():
        return train.gradients(config, params, x_1, x_t, t, labels=labels)

    def one(k: int) -> tuple[Array, Params]:
        part, known = (a[k::shards] for a in (x_1, x_t, t)), None if labels is None else labels[k::shards]
        return train.gradients(config, params, *part, labels=known)  # times rise along a batch: every shard has all

    losses, grads = zip(*threads.in_threads(one, range(shards)), strict=True)
    return sum(losses), threads.summed(grads)


def log_prob_in_threads(flow: flows.Flow, params: Params, x: Array) -> Array:
    """`flows.log_prob`, a shard of the points on every core."""
    shards = _shards(x, flow.dim, _width(flow))
    return np.concatenate(threads.in_threads(lambda rows: flows.log_prob(flow, params, x[rows]), shards))


def sample_in_threads(flow: flows.Flow, params: Params, key: Key, num: int, *, first: int = 0) -> Array:
    """`flows.sample`, a shard of the draws on every core: a draw depends on its number alone."""

    def one(rows: slice) -> Array:
        return flows.sample(flow, params, key, rows.stop - rows.start, first=first + rows.start)

    return np.concatenate(threads.in_threads(one, threads.split(num, _width(flow))))


def likelihood_gradients_in_threads(flow: flows.Flow, params: Params, x: Array) -> tuple[Array, Params]:
    """`maximum_likelihood.gradients`, a shard of the points on every core; equal up to the order of sums."""

    def one(rows: slice) -> tuple[Array, Params]:
        loss, grads = maximum_likelihood.gradients(flow, params, x[rows])
        share = len(x[rows]) / len(x)
        return loss * share, {name: g * share for name, g in grads.items()}

    losses, grads = zip(*threads.in_threads(one, _shards(x, flow.dim, _width(flow))), strict=True)
    return sum(losses), threads.summed(grads)


class FieldInThreads(Field):
    """`Field`, a shard of the points on every core; it keeps the hidden layers of each shard."""

    def _layers(
        self, x: Array, phi: Array, e: Array | None, weights: Sequence[Array], times: Sequence[Array]
    ) -> tuple[Array, Any]:
        def one(rows: slice) -> tuple[Array, Any]:
            own_phi, own_e = (a if a is None or len(a) == 1 else a[rows] for a in (phi, e))
            return super(FieldInThreads, self)._layers(x[rows], own_phi, own_e, weights, times)

        v, hidden = zip(*self._each(one, self._shards(len(x))), strict=True)
        return np.concatenate(v), hidden

    def _layers_backward(
        self, x: Array, phi: Array, hidden: Any, weights: Sequence[Array], dv: Array
    ) -> tuple[Sequence[Array], Sequence[Array], Array]:
        def one(piece: tuple[slice, Any]) -> tuple[Sequence[Array], Sequence[Array], Array]:
            rows, own = piece
            return super(FieldInThreads, self)._layers_backward(x[rows], phi[rows], own, weights, dv[rows])

        dweights, dtimes, da_1 = zip(*self._each(one, zip(self._shards(len(x)), hidden, strict=True)), strict=True)
        dweight, dtime = ([sum(parts) for parts in zip(*shards, strict=True)] for shards in (dweights, dtimes))
        return dweight, dtime, np.concatenate(da_1) if self.classes else None  # which is for the labels alone

    def jvp(self, params: Params, residuals: Any, dx: Array) -> Array:
        def one(piece: tuple[slice, Any]) -> Array:
            rows, own = piece
            return super(FieldInThreads, self).jvp(params, (own,), dx[rows])

        return np.concatenate(self._each(one, zip(self._shards(len(dx)), residuals[-1], strict=True)))

    def divergence(self, params: Params, residuals: Any) -> Array:
        return np.concatenate(
            self._each(lambda own: super(FieldInThreads, self).divergence(params, (own,)), residuals[-1])
        )

    def _shards(self, count: int) -> list[slice]:
        return threads.split(count, max(self.dim, self.hidden // 4))  # products of matrices wait less than the rest

    def _each(self, function: Callable[[Any], Any], shards: Iterable[Any]) -> list[Any]:
        return threads.in_threads(function, shards)


def _width(flow: flows.Flow) -> int:
    """About how many numbers a flow holds for a point: networks have some even where points have few coordinates."""
    return max(flow.dim, 32)


def _shards(x: Array, dim: int, width: int) -> list[slice]:
    """The rows of the points float[B, D] for each core; all in one where they are no such points, for the error."""
    return threads.split(len(x), width) if x.shape[1:] == (dim,) else [slice(None)]


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
