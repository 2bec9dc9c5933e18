"""A network for velocities: two hidden layers, so that its divergence is one product of matrices."""

import math
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
        phi = _cosines(x, t)
        a, rows = phi @ params["0.time"].T, None
        if self.classes or label is not None:
            count = x.shape[0] if hasattr(label, "shape") else 1
            rows = label_rows(label, self.classes, xp.zeros((count,), dtype=xp.int64, device=device(x)))
            a = a + embedding({"weight": params["label.weight"]}, rows)[0]
        h_1, r_1 = silu_of_twice(_affine(x, 0.5 * params["0.weight"], 0.5 * a))
        h_2, r_2 = silu_of_twice(_affine(h_1, 0.5 * params["1.weight"], phi @ (0.5 * params["1.time"].T)))
        v = _affine(h_2, params["2.weight"], phi @ params["2.time"].T)
        return v, (x, phi, rows, h_1, r_1, h_2, r_2)

    def backward(self, params: Params, residuals: Any, dv: Array) -> Params:
        """v = W h_2 + A phi  =>  dW = dv^T h_2, dA = dv^T phi, dh_2 = dv W;  h = silu(2 u), u = a / 2  =>  da = du / 2;
        and so a = W h_1 + A phi. The embedding is a row of a.
        """
        x, phi, rows, h_1, r_1, h_2, r_2 = residuals
        xp = namespace(x)
        phi = xp.broadcast_to(phi, (x.shape[0], phi.shape[1]))
        da_2 = silu_of_twice_backward(r_2, dv @ (0.5 * params["2.weight"]))
        da_1 = silu_of_twice_backward(r_1, da_2 @ (0.5 * params["1.weight"]))
        dparams = {}
        for i, (da, h) in enumerate([(da_1, x), (da_2, h_1), (dv, h_2)]):
            dparams[f"{i}.weight"], dparams[f"{i}.time"] = da.T @ h, da.T @ phi
        if rows is not None:
            each = xp.broadcast_to(rows, (x.shape[0],))
            dparams["label.weight"] = embedding_backward({"weight": params["label.weight"]}, each, da_1)["weight"]
        return {name: dparams[name] for name in params}

    def jvp(self, params: Params, residuals: Any, dx: Array) -> Array:
        """The Jacobian dv/dx times dx, float[B, dim]: dv = W_3 (d_2 * (W_2 (d_1 * (W_1 dx)))), d = silu'."""
        _, _, _, _, r_1, _, r_2 = residuals
        dh = silu_of_twice_backward(r_1, dx @ (0.5 * params["0.weight"].T))
        dh = silu_of_twice_backward(r_2, dh @ (0.5 * params["1.weight"].T))
        return dh @ params["2.weight"].T

    def divergence(self, params: Params, residuals: Any) -> Array:
        """The trace of dv/dx = W_3 d_2 W_2 d_1 W_1, float[B]: d_1^T ((W_1 W_3) * W_2^T) d_2, with * entry by entry."""
        _, _, _, _, r_1, _, r_2 = residuals
        loops = (params["0.weight"] @ params["2.weight"]) * params["1.weight"].T
        return namespace(loops).vecdot(silu_of_twice_backward(r_1, 0.5) @ loops, silu_of_twice_backward(r_2, 0.5))


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
