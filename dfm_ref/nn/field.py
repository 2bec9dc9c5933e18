"""A network for velocities: two hidden layers, so that its divergence is one product of matrices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from array_api_compat import device

from .. import random
from ..arrays import like, namespace
from ..protocols import Array, Key, Params
from .layers import embedding, embedding_backward, initialised, label_rows, silu_of_twice, silu_of_twice_backward

__all__ = ["Field"]

_FREQUENCIES = 16


@dataclass(frozen=True)
class Field:
    """A velocity v(x, t) in R^dim with Jacobian and divergence in closed form: x float[B, dim], t float or float[B].

    h_1 = silu(W_1 x + A_1 phi + e), h_2 = silu(W_2 h_1 + A_2 phi), v = W_3 h_2 + A_3 phi: the biases are cosine series
    of the time, phi_k = cos(pi k t), k < 16, a basis on [0, 1] that, unlike the waves of period 1, tells 0 from 1. With
    `classes`, e is the embedding of a label, int[B] or one for all; the label `classes`, or None, is none.
    All work is done in the dtype of the parameters.

    >>> import numpy as np
    >>> field = Field(dim=2, hidden=8)
    >>> field(field.init(random.key(0)), np.array([[0.0, 1.0]]), 0.5)
    array([[0., 0.]], dtype=float32)
    """

    dim: int
    hidden: int = 256
    classes: int = 0

    def __post_init__(self) -> None:
        if min(self.dim, self.hidden) < 1:
            raise ValueError(f"dim, hidden: expected at least 1, got {self.dim} and {self.hidden}")
        if self.classes < 0:
            raise ValueError(f"classes: expected 0 or more, got {self.classes}")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The name and shape of every parameter.

        >>> Field(dim=2).shapes()["0.weight"]
        (256, 2)
        """
        sizes = (self.dim, self.hidden, self.hidden, self.dim)
        return {
            **{f"{i}.weight": (sizes[i + 1], sizes[i]) for i in range(3)},
            **{f"{i}.time": (sizes[i + 1], _FREQUENCIES) for i in range(3)},
            **({"label.weight": (self.classes + 1, self.hidden)} if self.classes else {}),
        }

    def init(self, key: Key, *, dtype: Any = "float32") -> Params:
        """Parameters to start from, NumPy: matrices uniform with variance 1 / fan-in, and a velocity of 0.

        >>> Field(dim=2, hidden=3).init(random.key(0))["2.weight"]
        array([[0., 0., 0.],
               [0., 0., 0.]], dtype=float32)
        """

        def initial(key: Key, name: str, shape: tuple[int, ...]) -> Array:
            bound = 0.0 if name.startswith("2.") else math.sqrt(3 / shape[-1])
            return bound * (2 * random.uniform(key, shape) - 1) + 0.0  # + 0.0 turns -0.0 into 0.0

        return initialised(key, self.shapes(), initial, dtype=dtype)

    def __call__(self, params: Params, x: Array, t: Array | float, *, label: Array | int | None = None) -> Array:
        """The velocity alone."""
        return self.forward(params, x, t, label=label)[0]

    def forward(
        self, params: Params, x: Array, t: Array | float, *, label: Array | int | None = None
    ) -> tuple[Array, Any]:
        """The velocity, float[B, dim], and the residuals for `backward`, `jvp` and `divergence`."""
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x: expected shape (B, {self.dim}), got {tuple(x.shape)}")
        xp = namespace(x)
        x = xp.astype(x, params["0.weight"].dtype, copy=False)
        phi, rows, e = _cosines(x, t), None, None
        if self.classes or label is not None:
            count = x.shape[0] if hasattr(label, "shape") else 1
            rows = label_rows(label, self.classes, xp.zeros((count,), dtype=xp.int64, device=device(x)))
            e = 0.5 * embedding({"weight": params["label.weight"]}, rows)[0]
        v, hidden = self._layers(x, phi, e, *_halved(params))
        return v, (x, phi, rows, hidden)

    def backward(self, params: Params, residuals: Any, dv: Array) -> Params:
        """v = W h_2 + A phi  =>  dW = dv^T h_2, dA = dv^T phi, dh_2 = dv W;  h = silu(2 u), u = a / 2  =>  da = du / 2;
        and so a = W h_1 + A phi. The embedding is a row of a.
        """
        x, phi, rows, hidden = residuals
        xp = namespace(x)
        phi = xp.broadcast_to(phi, (x.shape[0], phi.shape[1]))
        dweights, dtimes, da_1 = self._layers_backward(x, phi, hidden, _halved(params)[0], dv)
        dparams = {f"{i}.weight": d for i, d in enumerate(dweights)} | {f"{i}.time": d for i, d in enumerate(dtimes)}
        if rows is not None:
            each = xp.broadcast_to(rows, (x.shape[0],))
            dparams["label.weight"] = embedding_backward({"weight": params["label.weight"]}, each, da_1)["weight"]
        return {name: dparams[name] for name in params}

    def jvp(self, params: Params, residuals: Any, dx: Array) -> Array:
        """The Jacobian dv/dx times dx, float[B, dim]: dv = W_3 (d_2 * (W_2 (d_1 * (W_1 dx)))), d = silu'."""
        _, r_1, _, r_2 = residuals[-1]
        dh = self._bent(r_1, dx @ (0.5 * params["0.weight"].T))
        dh = self._bent(r_2, dh @ (0.5 * params["1.weight"].T))
        return dh @ params["2.weight"].T

    def divergence(self, params: Params, residuals: Any) -> Array:
        """The trace of dv/dx = W_3 d_2 W_2 d_1 W_1, float[B]: d_1^T ((W_1 W_3) * W_2^T) d_2, with * entry by entry."""
        _, r_1, _, r_2 = residuals[-1]
        loops = (params["0.weight"] @ params["2.weight"]) * params["1.weight"].T
        return namespace(loops).vecdot(self._bent(r_1, 0.5) @ loops, self._bent(r_2, 0.5))

    # What another library may do in one go: the passes through the layers.

    def _layers(
        self, x: Array, phi: Array, e: Array | None, weights: Sequence[Array], times: Sequence[Array]
    ) -> tuple[Array, Any]:
        """v, and both hidden layers with the residuals of their SiLU; phi and e have a row for all points or for each.

        The weights, times and the embedding e are halved before a SiLU, which is one of twice what comes.
        """
        b_1, b_2, b_3 = (phi @ time.T for time in times)
        h_1, r_1 = silu_of_twice(_affine(x, weights[0], b_1 if e is None else b_1 + e))
        h_2, r_2 = silu_of_twice(_affine(h_1, weights[1], b_2))
        return _affine(h_2, weights[2], b_3), (h_1, r_1, h_2, r_2)

    def _layers_backward(
        self, x: Array, phi: Array, hidden: Any, weights: Sequence[Array], dv: Array
    ) -> tuple[Sequence[Array], Sequence[Array], Array]:
        """dW and dA of each layer, and da of the first; with a row of phi for each point, and the halved weights."""
        h_1, r_1, h_2, r_2 = hidden
        da_2 = self._bent(r_2, dv @ (0.5 * weights[2]))
        da_1 = self._bent(r_1, da_2 @ weights[1])
        layers = (da_1, x), (da_2, h_1), (dv, h_2)
        return [da.T @ h for da, h in layers], [da.T @ phi for da, _ in layers], da_1

    def _bent(self, residuals: Any, dy: Array | float) -> Array:
        """du for y = silu(2 u)."""
        return silu_of_twice_backward(residuals, dy)


def _halved(params: Params) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """W and A of each layer, halved before a SiLU."""
    weights, times = (tuple(params[f"{i}.{kind}"] for i in range(3)) for kind in ("weight", "time"))
    return (0.5 * weights[0], 0.5 * weights[1], weights[2]), (0.5 * times[0], 0.5 * times[1], times[2])


def _cosines(x: Array, t: Array | float) -> Array:
    """phi_k = cos(pi k t), float[B, 16], or [1, 16] for one time of all rows."""
    xp = namespace(x)
    t = like(x, t, x.dtype)
    if tuple(t.shape) not in ((), tuple(x.shape[:1])):
        raise ValueError(f"t: expected a number or the shape {tuple(x.shape[:1])}, got {tuple(t.shape)}")
    k = xp.arange(_FREQUENCIES, dtype=x.dtype, device=device(x))
    return xp.cos(math.pi * k * xp.reshape(t, (-1, 1)))


def _affine(x: Array, weight: Array, bias: Array) -> Array:
    """x W^T + bias, a bias for all rows or one for each."""
    y = x @ weight.T
    y += bias
    return y
