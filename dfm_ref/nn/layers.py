"""Layers as pairs: a forward formula, and under it the backward formula that differentiates it.

    y, residuals = layer(params, x)                     residuals: what the backward pass wants to see again
    dparams, dx  = layer_backward(params, residuals, dy)

A layer without parameters neither takes nor returns them; one with several inputs returns a gradient for each.
``dy`` means dL/dy, for a scalar L, and has the shape of y. Parameters are dicts, laid out as in PyTorch. All work
is done in the dtype of the arrays given, and none writes to them.
"""

import math
from collections.abc import Callable
from typing import Any

from array_api_compat import device

from .. import random
from ..arrays import namespace, one_hot
from ..protocols import Array, Key, Params

__all__ = [
    "adaptive_norm",
    "adaptive_norm_backward",
    "attention",
    "attention_backward",
    "embedding",
    "embedding_backward",
    "flatten",
    "gate",
    "gate_backward",
    "gelu_tanh",
    "gelu_tanh_backward",
    "initialised",
    "join_heads",
    "label_rows",
    "linear",
    "linear_backward",
    "nest",
    "rotary",
    "rotary_backward",
    "rotary_table",
    "silu",
    "silu_backward",
    "silu_of_twice",
    "silu_of_twice_backward",
    "split_heads",
    "time_features",
]


def nest(params: Params) -> dict[str, Any]:
    """The tree that dotted names describe.

    >>> nest({"mlp.0.weight": 1, "mlp.0.bias": 2})
    {'mlp': {'0': {'weight': 1, 'bias': 2}}}
    """
    tree: dict[str, Any] = {}
    for name, value in params.items():
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


def flatten(tree: dict[str, Any]) -> Params:
    """The flat dict of a tree, names joined by dots: the inverse of `nest`.

    >>> flatten({"mlp": {"0": {"weight": 1, "bias": 2}}})
    {'mlp.0.weight': 1, 'mlp.0.bias': 2}
    """
    flat: Params = {}
    for name, node in tree.items():
        if isinstance(node, dict):
            flat |= {f"{name}.{rest}": value for rest, value in flatten(node).items()}
        else:
            flat[name] = node
    return flat


def initialised(
    key: Key, shapes: dict[str, tuple[int, ...]], initial: Callable[[Key, str, tuple[int, ...]], Array], *, dtype: Any
) -> Params:
    """The parameters of the given shapes, each the `initial` of a key of its own, its name and its shape.

    >>> import numpy as np
    >>> initialised(Key(0, 42), {"weight": (1, 2)}, lambda key, name, shape: np.zeros(shape), dtype="float32")
    {'weight': array([[0., 0.]], dtype=float32)}
    """
    keys = random.split(key, len(shapes))
    return {n: initial(k, n, s).astype(dtype) for k, (n, s) in zip(keys, shapes.items(), strict=True)}


def linear(params: Params, x: Array) -> tuple[Array, Array]:
    """y = x W^T + b: weight W [out, in], bias b [out] (optional), x float[..., in] -> y float[..., out].

    >>> import numpy as np
    >>> linear({"weight": np.array([[1.0, 2.0]]), "bias": np.array([0.5])}, np.array([3.0, 4.0]))[0]
    array([11.5])
    """
    xp = namespace(x)
    weight = params["weight"]
    rows = xp.reshape(x, (-1, weight.shape[1]))  # one large product is faster than many small ones
    y = xp.tensordot(rows, weight, axes=((1,), (1,)))  # which NumPy leaves to BLAS, `@` not with one column
    if "bias" in params:
        y += params["bias"]
    return xp.reshape(y, (*x.shape[:-1], weight.shape[0])), x


def linear_backward(params: Params, residuals: Array, dy: Array) -> tuple[Params, Array]:
    """y = x W^T + b  =>  dW = dy^T x,  db = sum dy,  dx = dy W."""
    x = residuals
    xp = namespace(x)
    weight = params["weight"]
    rows = xp.reshape(dy, (-1, weight.shape[0]))
    dparams = {"weight": rows.T @ xp.reshape(x, (-1, weight.shape[1]))}
    if "bias" in params:
        dparams["bias"] = _sum(rows)[0, :]
    return dparams, xp.reshape(rows @ weight, x.shape)


def embedding(params: Params, x: Array) -> tuple[Array, Array]:
    """y = W[x]: weight W [V, dim], x int[...] in [0, V) -> y float[..., dim].

    >>> import numpy as np
    >>> embedding({"weight": np.array([[1.0, 2.0], [3.0, 4.0]])}, np.array([1, 0]))[0]
    array([[3., 4.],
           [1., 2.]])
    """
    xp = namespace(x)
    weight = params["weight"]
    return xp.reshape(xp.take(weight, xp.reshape(x, (-1,)), axis=0), (*x.shape, weight.shape[1])), x


def embedding_backward(params: Params, residuals: Array, dy: Array) -> Params:
    """y = W[x] = one_hot(x) W  =>  dW = one_hot(x)^T dy; tokens have no gradient."""
    x = residuals
    xp = namespace(x)
    vocab_size, dim = params["weight"].shape
    rows = one_hot(xp.reshape(x, (-1,)), vocab_size, dtype=dy.dtype)
    return {"weight": rows.T @ xp.reshape(dy, (-1, dim))}


def label_rows(label: Array | int | None, classes: int, x_t: Array) -> Array:
    """The row of a label embedding for each sequence of x_t, int[B]: of int[B], of one label, or of None, `classes`.

    Raises ValueError for a number outside [0, classes], for other shapes, and for any label where there are no classes.

    >>> import numpy as np
    >>> label_rows(None, 10, np.zeros((2, 3), dtype=int)), label_rows(7, 10, np.zeros((2, 3), dtype=int))
    (array([10, 10]), array([7, 7]))
    """
    if label is not None and not classes:
        raise ValueError("label: expected None, as the model has no classes")
    if label is None or isinstance(label, int):
        row = classes if label is None else label
        if not 0 <= row <= classes:
            raise ValueError(f"label: expected a label in [0, {classes}), or {classes} for none, got {label}")
        return namespace(x_t).full(x_t.shape[:1], row, dtype=x_t.dtype, device=device(x_t))
    if tuple(label.shape) != tuple(x_t.shape[:1]):
        raise ValueError(f"label: expected a number or the shape {tuple(x_t.shape[:1])}, got {tuple(label.shape)}")
    return label


def adaptive_norm(params: Params, x: Array, shift: Array, scale: Array) -> tuple[Array, tuple[Array, ...]]:
    """y = z w (1 + scale) + shift with z = (x - mean x) / sqrt(var x + 1e-5), the mean and var over the last axis.

    LayerNorm with weight w [dim] and no bias, modulated by the time: x, y float[B, N, dim]; shift, scale
    float[B, 1, dim], one row a sequence. Sources: Ba et al. 2016; Peebles and Xie 2022 (adaLN).

    >>> import numpy as np
    >>> zero = np.zeros((1, 1, 2))
    >>> adaptive_norm({"weight": np.ones(2)}, np.array([[[300.0, 500.0]]]), zero, zero)[0]
    array([[[-1.,  1.]]])
    """
    xp = namespace(x)
    z = x - _mean(x)
    inverse = 1 / xp.sqrt(xp.vecdot(z, z)[..., None] / x.shape[-1] + 1e-5)
    z = z * inverse
    return z * (params["weight"] * (1 + scale)) + shift, (z, inverse, scale)


def adaptive_norm_backward(
    params: Params, residuals: tuple[Array, ...], dy: Array
) -> tuple[Params, Array, Array, Array]:
    """y = z w (1 + scale) + shift  =>  dw = sum dy z (1 + scale), dscale = sum dy z w, dshift = sum dy;
    z = (x - mean x) inverse  =>  dx = (dz - mean dz - z mean(dz z)) inverse.
    """
    z, inverse, scale = residuals
    xp = namespace(z)
    weight = params["weight"]
    dy_z = _sum(dy * z)
    dweight = xp.sum(dy_z * (1 + scale), axis=(0, 1))
    dz = dy * (weight * (1 + scale))
    along = xp.vecdot(dz, z)[..., None] / z.shape[-1]
    dx = (dz - _mean(dz) - z * along) * inverse
    return {"weight": dweight}, dx, _sum(dy), dy_z * weight


def silu(x: Array) -> tuple[Array, tuple[Array, Array]]:
    """y = x sigmoid(x), elementwise; the sigmoid is written with tanh, which no x overflows.

    >>> import numpy as np
    >>> silu(np.array([0.0, 1000.0, -1000.0]))[0]
    array([   0., 1000.,   -0.])
    """
    return silu_of_twice(0.5 * x)


def silu_backward(residuals: tuple[Array, Array], dy: Array) -> Array:
    """y = silu(2 u), u = x / 2  =>  dx = du / 2."""
    return silu_of_twice_backward(residuals, 0.5 * dy)


def silu_of_twice(u: Array) -> tuple[Array, tuple[Array, Array]]:
    """y = silu(2 u) = u s, s = 1 + tanh u, elementwise: quicker after a product, where half of W gives half of W x.

    >>> import numpy as np
    >>> silu_of_twice(np.array([0.0, 500.0, -500.0]))[0]
    array([   0., 1000.,   -0.])
    """
    s = 1 + namespace(u).tanh(u)
    y = u * s
    return y, (y, s)


def silu_of_twice_backward(residuals: tuple[Array, Array], dy: Array) -> Array:
    """y = u s, ds/du = 1 - tanh^2 = s (2 - s)  =>  du = dy (s + u s (2 - s)) = dy (s + (2 - s) y)."""
    y, s = residuals
    du = 2 - s
    du *= y
    du += s
    du *= dy
    return du


_GELU = math.sqrt(2 / math.pi), 0.044715


def gelu_tanh(x: Array) -> tuple[Array, tuple[Array, Array]]:
    """y = x g with g = (1 + tanh(a (x + b x^3))) / 2, a = sqrt(2 / pi), b = 0.044715, elementwise.

    Source: Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", the tanh form.

    >>> import numpy as np
    >>> gelu_tanh(np.array([0.0, 100.0, -100.0]))[0]
    array([  0., 100.,  -0.])
    """
    a, b = _GELU
    g = namespace(x).tanh((x * x * (a * b) + a) * x) * 0.5 + 0.5
    return x * g, (x, g)


def gelu_tanh_backward(residuals: tuple[Array, Array], dy: Array) -> Array:
    """y = x g, g = (1 + tanh u) / 2  =>  dx = dy g (1 + (1 - g) 2 x du/dx), du/dx = a (1 + 3 b x^2)."""
    x, g = residuals
    a, b = _GELU
    return (((x * x * (6 * a * b) + 2 * a) * x) * (1 - g) + 1) * g * dy


def time_features(t: Array, *, size: int = 256, max_period: float = 10000.0) -> Array:
    """cos(w_k t), then sin(w_k t), w_k = max_period^(-2k / size), k < size / 2: float[B] -> float[B, size].

    Source: the sinusoids of Vaswani et al. 2017, cosines first, as diffusion models have them.

    >>> import numpy as np
    >>> time_features(np.array([0.0, 1.0]), size=2)
    array([[1.        , 0.        ],
           [0.54030231, 0.84147098]])
    """
    xp = namespace(t)
    half = size // 2
    k = xp.arange(half, dtype=t.dtype, device=device(t))
    angles = t[:, None] * xp.exp(k * (-math.log(max_period) / half))
    return xp.concat([xp.cos(angles), xp.sin(angles)], axis=-1)


def rotary_table(x: Array, *, base: float = 10000.0) -> tuple[Array, Array]:
    """cos and signed sin of the angles n base^(-2k / D) of token n and pair k: x float[..., N, H, D] -> [N, H, D].

    The two halves of a head have the same angles, with the sine negative in the first.

    >>> import numpy as np
    >>> rotary_table(np.zeros((2, 1, 2)))[1][:, 0, :]
    array([[-0.        ,  0.        ],
           [-0.84147098,  0.84147098]])
    """
    xp = namespace(x)
    length, heads, dim = x.shape[-3:]
    n = xp.arange(length, dtype=x.dtype, device=device(x))
    k = xp.arange(dim // 2, dtype=x.dtype, device=device(x))
    angles = n[:, None] * xp.exp(k * (-2 * math.log(base) / dim))
    cos, sin = xp.cos(angles), xp.sin(angles)
    cos, sin = xp.concat([cos, cos], axis=-1), xp.concat([-sin, sin], axis=-1)
    return xp.stack([cos] * heads, axis=1), xp.stack([sin] * heads, axis=1)


def rotary(x: Array, table: tuple[Array, Array]) -> Array:
    """Turns the pairs (x[k], x[k + D/2]) of each head by the angles of a `rotary_table`: x float[..., N, H, D].

    Linear in x, and so without residuals. Source: Su et al. 2021, "RoFormer"; here in halves, not interleaved.

    >>> import numpy as np
    >>> x = np.ones((2, 1, 2))
    >>> rotary(x, rotary_table(x))[:, 0, :]
    array([[ 1.        ,  1.        ],
           [-0.30116868,  1.38177329]])
    """
    cos, sin = table
    return x * cos + namespace(x).roll(x, x.shape[-1] // 2, axis=-1) * sin


def rotary_backward(table: tuple[Array, Array], dy: Array) -> Array:
    """y = R x with R a rotation  =>  dx = R^T dy, the rotation back."""
    cos, sin = table
    return rotary(dy, (cos, -sin))


def split_heads(x: Array, heads: int) -> Array:
    """float[B, N, H D] -> float[B, N, H, D]."""
    return namespace(x).reshape(x, (*x.shape[:-1], heads, x.shape[-1] // heads))


def join_heads(x: Array) -> Array:
    """float[B, N, H, D] -> float[B, N, H D]: the inverse of `split_heads`."""
    return namespace(x).reshape(x, (*x.shape[:-2], x.shape[-2] * x.shape[-1]))


def attention(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, ...]]:
    """y = p v with p = softmax(q k^T / sqrt(D)), for each head: q, k, v, y float[B, N, H, D].

    Source: Vaswani et al. 2017, "Attention is all you need"; every token attends to every token.

    >>> import numpy as np
    >>> q, v = np.zeros((1, 2, 1, 1)), np.array([1.0, 3.0]).reshape(1, 2, 1, 1)
    >>> attention(q, q, v)[0][0, :, 0, 0]
    array([2., 2.])
    """
    xp = namespace(q)
    q, k, v = (xp.permute_dims(x, (0, 2, 1, 3)) for x in (q / math.sqrt(q.shape[-1]), k, v))
    scores = k @ q.mT  # [B, H, keys, queries], because a softmax down the columns is faster
    e = xp.exp(scores - xp.max(scores, axis=-2, keepdims=True))
    scale = 1 / _sum(e).mT
    y = e.mT @ v * scale
    return xp.permute_dims(y, (0, 2, 1, 3)), (q, k, v, e, scale, y)


def attention_backward(residuals: tuple[Array, ...], dy: Array) -> tuple[Array, Array, Array]:
    """y = p v  =>  dv = p^T dy, dp = dy v^T;  p = softmax(s)  =>  ds = p (dp - sum p dp), where sum p dp = dy y;
    s = q k^T / sqrt(D)  =>  dq = ds k / sqrt(D), dk = ds^T q / sqrt(D).

    Here p^T = e scale, its scale is carried by dy, and q is divided by sqrt(D) already.
    """
    q, k, v, e, scale, y = residuals
    xp = namespace(q)
    dy = xp.permute_dims(dy, (0, 2, 1, 3)) * scale
    ds = (v @ dy.mT - xp.vecdot(dy, y)[..., None, :]) * e
    gradients = ds.mT @ k / math.sqrt(q.shape[-1]), ds @ q, e @ dy
    dq, dk, dv = (xp.permute_dims(x, (0, 2, 1, 3)) for x in gradients)
    return dq, dk, dv


def gate(x: Array, amount: Array) -> tuple[Array, tuple[Array, Array]]:
    """y = x amount: x float[B, N, dim], amount float[B, 1, dim], one row a sequence.

    >>> import numpy as np
    >>> gate(np.ones((1, 2, 1)), np.array([[[3.0]]]))[0]
    array([[[3.],
            [3.]]])
    """
    return x * amount, (x, amount)


def gate_backward(residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    """y = x amount  =>  dx = dy amount,  damount = sum dy x, over the tokens."""
    x, amount = residuals
    return dy * amount, _sum(dy * x)


# Reductions as products with a vector: BLAS is several times faster than the library's own sums.


def _sum(x: Array) -> Array:
    """The sum of the rows, float[..., N, dim] -> float[..., 1, dim]."""
    if x.shape[-2] == 1:
        return x
    return namespace(x).ones((1, x.shape[-2]), dtype=x.dtype, device=device(x)) @ x


def _mean(x: Array) -> Array:
    """The mean of each row, float[..., dim] -> float[..., 1]."""
    return x @ namespace(x).full((x.shape[-1], 1), 1 / x.shape[-1], dtype=x.dtype, device=device(x))
