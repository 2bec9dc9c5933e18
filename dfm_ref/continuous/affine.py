"""Affine flows: of each coordinate alone, of all of them by an invertible matrix, and their reversal."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from array_api_compat import device

from .. import random
from ..arrays import like, namespace, to_numpy
from ..protocols import Array, Key, Params
from .flows import Composed, Flow, parameters, points, total

__all__ = ["LU", "ActNorm", "Affine", "Reverse", "factored", "fitted"]


@dataclass(frozen=True)
class Affine:
    """x = exp(log_scale) z + shift, elementwise; parameters log_scale, shift: float[D]. It starts as the identity."""

    dim: int

    def init(self, key: Key, *, dtype: Any = np.float64) -> Params:
        return {"log_scale": np.zeros(self.dim, dtype=dtype), "shift": np.zeros(self.dim, dtype=dtype)}

    def forward(self, params: Params, z: Array) -> tuple[Array, Array, Any]:
        z = self._points("z", z, params)
        xp = namespace(z)
        return z * xp.exp(params["log_scale"]) + params["shift"], _everywhere(xp.sum(params["log_scale"]), z), z

    def backward(self, params: Params, residuals: Any, dx: Array, dlog_det: Array) -> tuple[Params, Array]:
        """x = s z + shift, s = exp(log_scale)  =>  dz = dx s, dshift = sum dx, dlog_scale = sum dx z s;
        log|det| = sum log_scale  =>  dlog_scale += sum dlog_det.
        """
        z = residuals
        xp = namespace(z)
        dz = dx * xp.exp(params["log_scale"])
        return {"log_scale": total(dz * z) + xp.sum(dlog_det), "shift": total(dx)}, dz

    def inverse(self, params: Params, x: Array) -> tuple[Array, Array]:
        x = self._points("x", x, params)
        xp = namespace(x)
        z = (x - params["shift"]) * xp.exp(-params["log_scale"])
        return z, _everywhere(-xp.sum(params["log_scale"]), x)

    def _points(self, name: str, x: Array, params: Params) -> Array:
        parameters(params, log_scale=(self.dim,), shift=(self.dim,))
        return points(name, x, self.dim)


@dataclass(frozen=True)
class ActNorm(Affine):
    """An `Affine` whose parameters `fitted` sets so that a first batch leaves it with mean 0 and variance 1.

    Source: Kingma and Dhariwal 2018, "Glow", section 3.1.
    """


def fitted(flow: Flow, params: Params, z: Array) -> Params:
    """The parameters with every `ActNorm` set so that the batch z, float[B, D], leaves it with mean 0 and variance 1.

    An ActNorm in a `Composed` is fitted to what the maps before it make of the batch. Other flows keep their
    parameters; to fit an `Inverted` one, fit what it holds to data. Raises ValueError for a batch that is not finite,
    or constant in a coordinate.

    >>> fitted(ActNorm(1), {}, np.array([[1.0], [2.0]]))
    {'log_scale': array([0.693...]), 'shift': array([-3.])}
    >>> fitted(ActNorm(1), {}, np.array([[1.0], [1.0]]))
    Traceback (most recent call last):
    ValueError: z: expected finite coordinates that vary, got coordinate 0 from 1 to 1
    """
    if isinstance(flow, Composed):
        fits: Params = {}
        for k, (f, part) in enumerate(zip(flow.flows, flow.parts(params), strict=True)):
            part = fitted(f, part, z)
            fits |= {f"{k}.{name}": value for name, value in part.items()}
            z = f.forward(part, z)[0]
        return fits
    if not isinstance(flow, ActNorm):
        return params
    z = points("z", z, flow.dim)
    xp = namespace(z)
    rows = xp.reshape(z, (-1, flow.dim))
    if not rows.shape[0]:
        raise ValueError("z: expected two or more points, got none")
    ends = (to_numpy(end(rows, axis=0)) for end in (xp.min, xp.max))
    for i, (low, high) in enumerate(zip(*ends, strict=True)):
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"z: expected finite coordinates that vary, got coordinate {i} from {low:g} to {high:g}")
    scale = xp.std(rows, axis=0)
    if not bool(xp.all((scale > 0) & (scale < xp.inf))):
        raise ValueError(
            f"z: expected coordinates with a variance between the least and the greatest number, got {scale**2}"
        )
    return {"log_scale": -xp.log(scale), "shift": -xp.mean(rows, axis=0) / scale}


@dataclass(frozen=True)
class LU:
    """x = P L U z + bias: L is lower triangular with diagonal 1, U upper with diagonal signs exp(log_diagonal).

    Parameters lower, upper: float[D, D], of which the triangle off the diagonal counts; log_diagonal, bias: float[D];
    and, with a gradient of 0, the permutation, (P y)_i = y_permutation[i], and the signs: float[D].
    Source: Kingma and Dhariwal 2018, "Glow", section 3.2.
    """

    dim: int

    def init(self, key: Key, *, dtype: Any = np.float64) -> Params:
        """A random rotation, or one with a reflection."""
        q, r = np.linalg.qr(random.normal(key, (self.dim, self.dim)))
        return {name: p.astype(dtype) for name, p in factored(q * np.sign(np.diagonal(r))).items()}

    def forward(self, params: Params, z: Array) -> tuple[Array, Array, Any]:
        z = self._points("z", z, params)
        lower, upper = _triangles(params)
        matrix = namespace(z).take(lower @ upper, _permutation(params), axis=0)
        log_det = _everywhere(namespace(z).sum(params["log_diagonal"]), z)
        return z @ matrix.T + params["bias"], log_det, (z, matrix)

    def backward(self, params: Params, residuals: Any, dx: Array, dlog_det: Array) -> tuple[Params, Array]:
        """x = W z + bias  =>  dz = W^T dx, dW = sum dx z^T, dbias = sum dx;  W = P L U  =>  dL = P^T dW U^T,
        dU = L^T P^T dW;  U_ii = signs exp(log_diagonal)  =>  dlog_diagonal = dU_ii U_ii;
        log|det| = sum log_diagonal  =>  dlog_diagonal += sum dlog_det.
        """
        z, matrix = residuals
        xp = namespace(z)
        lower, upper = _triangles(params)
        dmatrix = xp.reshape(dx, (-1, self.dim)).T @ xp.reshape(z, (-1, self.dim))
        dproduct = xp.take(dmatrix, xp.argsort(_permutation(params)), axis=0)
        dupper = lower.T @ dproduct
        return {
            "lower": xp.tril(dproduct @ upper.T, k=-1),
            "upper": xp.triu(dupper, k=1),
            "log_diagonal": xp.linalg.diagonal(dupper * upper) + xp.sum(dlog_det),
            "bias": total(dx),
            "permutation": xp.zeros_like(params["permutation"]),
            "signs": xp.zeros_like(params["signs"]),
        }, dx @ matrix

    def inverse(self, params: Params, x: Array) -> tuple[Array, Array]:
        """z = U^-1 L^-1 P^-1 (x - bias), by two triangular systems."""
        x = self._points("x", x, params)
        xp = namespace(x)
        lower, upper = _triangles(params)
        columns = xp.reshape(x - params["bias"], (-1, self.dim)).T
        y = xp.linalg.solve(lower, xp.take(columns, xp.argsort(_permutation(params)), axis=0))
        z = xp.reshape(xp.linalg.solve(upper, y).T, x.shape)
        return z, _everywhere(-xp.sum(params["log_diagonal"]), x)

    def _points(self, name: str, x: Array, params: Params) -> Array:
        """Raises ValueError unless the matrix is invertible, with the determinant that it is said to have."""
        row, square = (self.dim,), (self.dim, self.dim)
        parameters(params, lower=square, upper=square, log_diagonal=row, bias=row, permutation=row, signs=row)
        xp = namespace(params["signs"])
        if not bool(xp.all(xp.abs(params["signs"]) == 1)):
            raise ValueError(f"signs: expected -1 and 1, for an invertible map, got {params['signs']}")
        order = like(params["permutation"], np.arange(self.dim), params["permutation"].dtype)
        if not bool(xp.all(xp.sort(params["permutation"]) == order)):
            raise ValueError(
                f"permutation: expected every row once, for an invertible map, got {params['permutation']}"
            )
        if bool(xp.any(xp.exp(params["log_diagonal"]) == 0)):
            raise ValueError(f"log_diagonal: expected an invertible map, got exp({xp.min(params['log_diagonal'])}) = 0")
        return points(name, x, self.dim)


def factored(matrix: Array) -> Params:
    """The parameters of the `LU` that is x = W z, from W float[D, D], the rows ordered by partial pivoting.

    They are NumPy, float64. Raises ValueError for a matrix that is not square, not finite, or singular up to rounding.

    >>> factored(np.array([[0.0, 1.0], [1.0, 0.0]]))["permutation"]
    array([1., 0.])
    >>> factored(np.array([[0.1, 0.2], [0.3, 0.6]]))
    Traceback (most recent call last):
    ValueError: matrix: expected an invertible matrix, got one whose row 0 depends on the others
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.shape[0]:
        raise ValueError(f"matrix: expected a square matrix, got the shape {matrix.shape}")
    if not np.all(np.isfinite(matrix)):
        raise ValueError("matrix: expected finite numbers, got some that are not")
    permutation, lower, upper = scipy.linalg.lu(matrix, p_indices=True)  # matrix = lower[permutation] upper
    diagonal = np.diagonal(upper)
    rounding = len(matrix) * np.finfo(np.float64).eps * np.max(np.abs(matrix), axis=1)
    dependent = np.abs(diagonal)[permutation] <= rounding  # the pivots in the order of the rows
    if np.any(dependent):
        raise ValueError(
            f"matrix: expected an invertible matrix, got one whose row {np.argmax(dependent)} depends on the others"
        )
    return {
        "lower": np.tril(lower, -1),
        "upper": np.triu(upper, 1),
        "log_diagonal": np.log(np.abs(diagonal)),
        "bias": np.zeros_like(diagonal),
        "permutation": permutation.astype(diagonal.dtype),
        "signs": np.sign(diagonal),
    }


def _triangles(params: Params) -> tuple[Array, Array]:
    """L and U."""
    diagonal = params["log_diagonal"]
    xp = namespace(diagonal)
    one = xp.eye(diagonal.shape[0], dtype=diagonal.dtype, device=device(diagonal))
    upper = xp.triu(params["upper"], k=1) + one * (params["signs"] * xp.exp(diagonal))
    return xp.tril(params["lower"], k=-1) + one, upper


def _permutation(params: Params) -> Array:
    xp = namespace(params["permutation"])
    return xp.astype(params["permutation"], xp.int64)


@dataclass(frozen=True)
class Reverse:
    """x_i = z_{D-1-i}: the coordinates in reverse, without parameters; log|det| = 0."""

    dim: int

    def init(self, key: Key, *, dtype: Any = np.float64) -> Params:
        return {}

    def forward(self, params: Params, z: Array) -> tuple[Array, Array, Any]:
        return *self.inverse(params, points("z", z, self.dim)), None

    def backward(self, params: Params, residuals: Any, dx: Array, dlog_det: Array) -> tuple[Params, Array]:
        """x_i = z_{D-1-i}  =>  dz_i = dx_{D-1-i}."""
        return {}, namespace(dx).flip(dx, axis=-1)

    def inverse(self, params: Params, x: Array) -> tuple[Array, Array]:
        xp = namespace(x)
        x = points("x", x, self.dim)
        return xp.flip(x, axis=-1), xp.zeros_like(x[..., 0])


def _everywhere(log_det: Array, z: Array) -> Array:
    """One number, for each of the points z."""
    return log_det + namespace(z).zeros_like(z[..., 0])
