"""Derivatives by differences and integrals by quadrature, each with an estimate of its own error.

A law compares numbers within these estimates: where they are large, it sees less, and calls nothing right wrong.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np

__all__ = ["Estimate", "expectation", "integral", "jacobian"]

Table: TypeAlias = np.ndarray[Any, Any]
Function: TypeAlias = Callable[[Table], Table]


class Estimate(NamedTuple):
    """A value, and about how far it is off at most, of the same shape or one number a row."""

    value: Table
    error: Table


def jacobian(f: Function, x: Table, *, step: float = 0.1, halvings: int = 10, noise: float = 0.0) -> Estimate:
    """df_i/dx_j by Richardson's extrapolation of central differences, of the steps that agree best at each point.

    f: float[M, D] -> float[M, E], asked once; x: float[B, D] -> float64[B, E, D], and an error float64[B].
    `noise` is how far a value of f may be off beyond rounding. Source: Ridders 1982.

    >>> found = jacobian(np.sin, np.array([[0.5]]))
    >>> bool(abs(found.value[0, 0, 0] - np.cos(0.5)) <= found.error[0] < 1e-11)
    True
    """
    rows, dim = x.shape
    steps = step * 0.5 ** np.arange(halvings)
    shifts = steps[:, None, None, None] * np.eye(dim)[:, None, :]
    ends = np.stack([x + shifts, x - shifts])  # [2, K, D, B, D]
    at_ends = f(ends.reshape(-1, dim))
    eps, at_ends = float(np.finfo(at_ends.dtype).eps), at_ends.astype(np.float64)
    plus, minus = at_ends.reshape(2, halvings, dim, rows, -1)
    row = list(np.moveaxis((plus - minus) / (2 * steps[:, None, None, None]), 1, -1))  # K times [B, E, D]
    size = np.max(np.abs(at_ends), initial=0.0)
    best, error = row[0], np.full(rows, np.inf)
    for order in range(1, min(halvings, 6)):
        finer = [b + (b - a) / (4**order - 1) for a, b in pairwise(row)]
        for k, (value, (a, b)) in enumerate(zip(finer, pairwise(row), strict=True)):
            off = np.maximum(np.abs(value - a), np.abs(value - b)).max(axis=(1, 2), initial=0.0)
            off += 4 * (eps * size + noise) / steps[k + order]
            better = off < error
            best, error = np.where(better[:, None, None], value, best), np.where(better, off, error)
        row = finer
    return Estimate(best, error)


def integral(f: Function, edges: list[Table], *, tolerance: float = 1e-6, most: int = 150_000) -> Estimate:
    """The integral over a box of one or two dimensions, by Gauss's rule of five points on cells that are halved.

    f: float64[M, D] -> float[M, C]; float64[C], with its error. The cells are at first those between the edges on each
    axis; one is halved, on each axis, until it and its halves agree. `most` bounds the points.

    >>> found = integral(lambda x: np.exp(-x * x), [np.linspace(-9.0, 9.0, 17)])
    >>> bool(abs(found.value[0] - np.sqrt(np.pi)) <= found.error[0] + 1e-15 and found.error[0] < 1e-6)
    True
    """
    dim, asked = len(edges), 0
    nodes, weights = np.polynomial.legendre.leggauss(5)
    at = np.stack(np.meshgrid(*[nodes] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    weight = np.prod(np.stack(np.meshgrid(*[weights] * dim, indexing="ij"), axis=-1), axis=-1).reshape(-1)
    corners = np.stack(np.meshgrid(*[[-0.5, 0.5]] * dim, indexing="ij"), axis=-1).reshape(-1, dim)

    def over(centres: Table, half: Table) -> Table:
        values = f((centres[:, None] + half[:, None] * at).reshape(-1, dim)).astype(np.float64)
        sums = np.einsum("cmk,m->ck", values.reshape(len(centres), len(at), -1), weight)
        return np.asarray(np.prod(half, axis=1)[:, None] * sums)

    low, high = (
        np.stack(np.meshgrid(*[e[part] for e in edges], indexing="ij"), axis=-1).reshape(-1, dim)
        for part in (slice(None, -1), slice(1, None))
    )
    centres, half = (low + high) / 2, (high - low) / 2
    whole = over(centres, half)
    value = error = np.zeros(whole.shape[1])
    while len(centres):
        asked += len(centres) * len(at) * 2**dim
        centres = (centres[:, None] + half[:, None] * corners).reshape(-1, dim)
        half = np.repeat(half / 2, 2**dim, axis=0)
        parts = over(centres, half)
        sums = parts.reshape(len(whole), 2**dim, -1).sum(axis=1)
        off = np.abs(sums - whole)
        open_ = np.any(off > tolerance / 256, axis=1) & (asked < most)
        value, error = value + sums[~open_].sum(axis=0), error + off[~open_].sum(axis=0)
        again = np.repeat(open_, 2**dim)
        centres, half, whole = centres[again], half[again], parts[again]
    return Estimate(value, error)


def expectation(f: Function, dim: int, *, points: int = 145) -> Estimate:
    """E f(z) of a standard normal z in one or two dimensions, by the trapezoidal rule.

    f: float64[M, D] -> float[M, C]; float64[C], with the error of the rule on every other point. There is an odd number
    of `points` an axis.

    >>> found = expectation(lambda z: z**2, 1)
    >>> bool(abs(found.value[0] - 1) < 1e-12)
    True
    """
    line = np.linspace(-9.0, 9.0, points)
    density = np.exp(-(line**2) / 2) / np.sqrt(2 * np.pi) * (line[1] - line[0])
    z = np.stack(np.meshgrid(*[line] * dim, indexing="ij"), axis=-1)
    weight = np.prod(np.stack(np.meshgrid(*[density] * dim, indexing="ij"), axis=-1), axis=-1)
    values = f(z.reshape(-1, dim)).astype(np.float64).reshape(*z.shape[:-1], -1)
    terms, axes = weight[..., None] * values, tuple(range(dim))
    every_other = (slice(None, None, 2),) * dim
    value = terms.sum(axis=axes)
    return Estimate(value, np.abs(value - 2**dim * terms[every_other].sum(axis=axes)))
