"""Numba: NumPy's arrays and threads, with random words, affine flows and velocity fields in compiled passes.

These are in float32. What has none, float64 among it, runs as it does on NumPy.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeAlias

import array_api_compat.numpy as xp
import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  # the BLAS of compiled code, loaded so that `threads` sees it
from array_api_compat import is_numpy_namespace

from dfm_ref import random
from dfm_ref.continuous import flows, maximum_likelihood
from dfm_ref.continuous.coupling import AffineMap, Autoregressive, Coupling
from dfm_ref.nn.field import Field
from dfm_ref.nn.perceptron import degrees
from dfm_ref.protocols import Array, Backend, Key, Namespace, Params

from . import compiled, numpy, threads

Function: TypeAlias = Callable[..., Any]


class NotCompiled(Exception):
    """Raised for what has no compiled pass."""


def _or(twin: Function) -> Callable[[Function], Function]:
    """The function decorated, and where that has no compiled pass its twin."""

    def decorate(function: Function) -> Function:
        @wraps(function)
        def either(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except NotCompiled:
                return twin(*args, **kwargs)

        return either

    return decorate


@_or(numpy.log_prob_in_threads)
def log_prob(flow: flows.Flow, params: Params, x: Array) -> Array:
    """`flows.log_prob`."""
    x, steps = _points(flow, x), _steps(flow, params, back=True)

    def one(rows: slice) -> Array:
        z, log_det = _run(steps, x[rows])
        return flows.standard_normal_log_density(z) + log_det

    return np.concatenate(threads.in_threads(one, _shards(flow, len(x))))


@_or(numpy.sample_in_threads)
def sample(flow: flows.Flow, params: Params, key: Key, num: int, *, first: int = 0) -> Array:
    """`flows.sample`."""
    steps = _steps(flow, params)
    z = _points(flow, normal(key, (num, flow.dim), first=first * flow.dim).astype(np.float32))
    return np.concatenate(threads.in_threads(lambda rows: _run(steps, z[rows])[0], _shards(flow, num)))


@_or(numpy.likelihood_gradients_in_threads)
def likelihood_gradients(flow: flows.Flow, params: Params, x: Array) -> tuple[Array, Params]:
    """`maximum_likelihood.gradients`; equal up to the order of sums."""
    x, steps = _points(flow, x), _steps(flows.inverted(flow), params)
    if any(back for _, back in steps):
        raise NotCompiled

    def one(rows: slice) -> tuple[Array, Params]:
        z, residuals, log_det = x[rows], [], np.zeros(rows.stop - rows.start, dtype=np.float32)
        for step, _ in steps:
            kept = step.room(z), step.room(z)
            y, theta = compiled.forward(z, step.weights, step.biases, *kept, *step.parts, log_det)
            residuals.append((z, theta, step.weights, *kept, *step.parts))
            z = y
        loss = -np.sum(flows.standard_normal_log_density(z) + log_det) / len(x)
        grads: Params = {}
        dz, share = z / np.float32(len(x)), np.float32(-1 / len(x))
        for (step, _), r in zip(reversed(steps), reversed(residuals), strict=True):
            own = [tuple(map(np.empty_like, arrays)) for arrays in (step.weights, step.biases)]
            dz = compiled.backward(*r, dz, share, *own)
            grads |= step.gradient(*own)
        return loss, {name: grads[name] for name in params}

    losses, grads = zip(*threads.in_threads(one, _shards(flow, len(x))), strict=True)
    return sum(losses), threads.summed(grads)


class CompiledLayers(Field):
    """`Field`, whose layers are one compiled pass each way."""

    def _layers(
        self, x: Array, phi: Array, e: Array | None, weights: Sequence[Array], times: Sequence[Array]
    ) -> tuple[Array, Any]:
        if len(x) and all(a.dtype == np.float32 for a in (x, phi, *weights, *times, *([] if e is None else [e]))):
            x, phi, e = (a if a is None else np.ascontiguousarray(a) for a in (x, phi, e))
            made: tuple[Array, Any] = compiled.field(x, phi, e, tuple(weights), tuple(times))
            return made
        return super()._layers(x, phi, e, weights, times)

    def _bent(self, residuals: Any, dy: Array | float) -> Array:
        return super()._bent(residuals, dy) if isinstance(residuals, tuple) else residuals * dy


class CompiledField(numpy.FieldInThreads, CompiledLayers):
    """`FieldInThreads` with `CompiledLayers`."""

    def _each(self, function: Callable[[Any], Any], shards: Iterable[Any]) -> list[Any]:
        with threads.one_blas_thread():  # as products in NumPy and in compiled code wait for each other's threads
            return super()._each(function, shards)


def normal(key: Key, shape: tuple[int, ...], *, first: int = 0, xp: Namespace = np) -> Array:
    """`random.normal`."""
    if not isinstance(key.hi, int) or not is_numpy_namespace(xp):
        return random.normal(key, shape, first=first, xp=xp)
    count, odd = math.prod(shape), first % 2

    def one(rows: slice) -> Array:
        u = compiled.uniforms(key.hi, key.lo, first - odd + 2 * rows.start, 2 * (rows.stop - rows.start))
        return random.plane(np.reshape(u, (-1, 2)))

    z = np.concatenate(threads.in_threads(one, threads.split((odd + count + 1) // 2, 2)))
    return z[odd : odd + count].reshape(shape)


def _run(steps: Sequence[tuple["_Map", bool]], x: Array) -> tuple[Array, Array]:
    """The points float32[B, D] at the end of the steps, and log|det| of the way."""
    log_det = np.zeros(len(x), dtype=np.float32)
    for step, back in steps:
        x = step.inverse(x, log_det) if back else step.forward(x, log_det)
    return x, log_det


def _shards(flow: flows.Flow, count: int) -> list[slice]:
    return threads.split(count, max(flow.dim, 64))


@dataclass(frozen=True)
class _Map:
    """An affine map of coordinates, and what its compiled passes ask for."""

    flow: Coupling | Autoregressive
    prefix: str
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]

    @property
    def parts(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where the coordinates lie that stay still and see to the others, and those that move."""
        if isinstance(self.flow, Autoregressive):
            return (0, self.flow.dim), (0, self.flow.dim)
        first, second = (0, self.flow.dim // 2), (self.flow.dim // 2, self.flow.dim)
        return (second, first) if self.flow.flip else (first, second)

    def room(self, x: Array) -> tuple[Array, ...]:
        """Arrays for the hidden layers."""
        return tuple(np.empty((len(x), width), dtype=np.float32) for width in self.flow.hidden)

    def forward(self, x: Array, log_det: Array) -> Array:
        return compiled.forward(x, self.weights, self.biases, self.room(x), None, *self.parts, log_det)[0]

    def inverse(self, x: Array, log_det: Array) -> Array:
        if isinstance(self.flow, Coupling):
            return compiled.inverse(x, self.weights, self.biases, self.room(x), *self.parts, log_det)
        turns, net = degrees(self.flow.net), self.flow.net
        units = np.stack([np.searchsorted(turn, np.arange(net.inputs + 1)) for turn in turns[1:]])
        order = np.argsort(turns[0])
        return compiled.autoregressive_inverse(x, self.weights, self.biases, self.room(x), order, units, log_det)

    def gradient(self, dweights: Sequence[Array], dbiases: Sequence[Array]) -> Params:
        """The gradient under the names that the flow has for its parameters."""
        grads: Params = {}
        for k, (dweight, dbias) in enumerate(zip(dweights, dbiases, strict=True)):
            own = {"weight": dweight, "bias": dbias[0]}
            if k == len(self.flow.hidden):
                own = {name: _interleaved(d) for name, d in own.items()}
            grads |= {f"{self.prefix}{k}.{name}": d for name, d in self.flow.net.scaled(k, own).items()}
        return grads


def _halves(rows: Array) -> Array:
    """The even rows, then the odd ones."""
    return np.concatenate([rows[::2], rows[1::2]])


def _interleaved(rows: Array) -> Array:
    """The inverse of `_halves`."""
    return np.stack(np.split(rows, 2), axis=1).reshape(rows.shape)


def _steps(flow: flows.Flow, params: Params, *, back: bool = False, prefix: str = "") -> list[tuple[_Map, bool]]:
    """The maps that a flow makes one after another, from noise to data or `back`, and which of them it makes inversely.

    Raises NotCompiled where one has no compiled pass.
    """
    if isinstance(flow, flows.Inverted):
        return _steps(flow.flow, params, back=not back, prefix=prefix)
    if isinstance(flow, flows.Composed):
        pairs = list(enumerate(zip(flow.flows, flow.parts(params), strict=True)))
        return [
            step
            for k, (part, own) in (reversed(pairs) if back else pairs)
            for step in _steps(part, own, back=back, prefix=f"{prefix}{k}.")
        ]
    if not isinstance(flow, (Coupling, Autoregressive)) or not isinstance(flow.transform, AffineMap):
        raise NotCompiled
    if not flow.hidden or any(p.dtype != np.float32 for p in params.values()):
        raise NotCompiled
    *layers, last = flow.net.layers(params)
    layers.append({name: _halves(p) for name, p in last.items()})
    weights = tuple(np.ascontiguousarray(layer["weight"]) for layer in layers)
    return [(_Map(flow, prefix, weights, tuple(layer["bias"][None, :] for layer in layers)), back)]


def _points(flow: flows.Flow, x: Array) -> Array:
    """x as the compiled passes take it, or NotCompiled."""
    if x.dtype != np.float32 or x.ndim != 2 or x.shape[1] != flow.dim or not len(x):
        raise NotCompiled
    return np.ascontiguousarray(x)


backend = Backend(
    "numba",
    xp,
    asarray=np.asarray,
    to_numpy=np.asarray,
    kernels={
        **numpy.backend.kernels,
        random.normal: normal,
        flows.log_prob: log_prob,
        flows.sample: sample,
        maximum_likelihood.gradients: likelihood_gradients,
        Field: CompiledField,
    },
)
