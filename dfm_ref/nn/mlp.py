"""The smallest model that can hold a joint law of the tokens: for tests, tables and tiny problems."""

import math
from dataclasses import dataclass
from typing import Any

from array_api_compat import device

from .. import random
from ..arrays import namespace, one_hot, put
from ..protocols import Array, Key, Params
from .layers import (
    embedding,
    embedding_backward,
    flatten,
    initialised,
    label_rows,
    linear,
    linear_backward,
    nest,
    silu,
    silu_backward,
    time_features,
)

__all__ = ["MLP"]

_TIME_SIZE = 64  # how many sinusoids describe a time
_TIME_SCALE = 10.0  # the fastest of them turns by this angle from t = 0 to t = 1


@dataclass(frozen=True)
class MLP:
    """Logits of p(x_1 | x_t) from a perceptron with residual layers: x_t int[B, N], t float[B] -> float[B, N, V].

    h = embeddings of all tokens, each with its own table, + Linear(time); `depth` times h <- h + Linear(SiLU(h));
    logits = Linear(SiLU(h)). `length` is N, `dim` the width of h. With `classes` labels the embedding of a sequence's
    label, int[B] or one for all, is added to that of the time; the label `classes`, or None, is none.

    >>> import numpy as np
    >>> model = MLP(vocab_size=3, length=2, dim=8)
    >>> model(model.init(random.key(0)), np.array([[0, 2]]), np.array([0.5])).shape
    (1, 2, 3)
    """

    vocab_size: int
    length: int
    dim: int = 256
    depth: int = 2
    classes: int = 0

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The name and shape of every parameter.

        >>> MLP(vocab_size=3, length=2).shapes()["tokens.weight"]
        (256, 6)
        """
        dim, size = self.dim, self.length * self.vocab_size
        return {
            "tokens.weight": (dim, size),
            "time.weight": (dim, _TIME_SIZE),
            "time.bias": (dim,),
            **{f"hidden.{i}.weight": (dim, dim) for i in range(self.depth)},
            **{f"hidden.{i}.bias": (dim,) for i in range(self.depth)},
            "output.weight": (size, dim),
            "output.bias": (size,),
            **({"label_embedding.weight": (self.classes + 1, dim)} if self.classes else {}),
        }

    def init(self, key: Key, *, dtype: Any = "float32") -> Params:
        """Parameters to start from, NumPy: matrices uniform with variance 1 / fan-in, biases and output 0.

        >>> MLP(vocab_size=3, length=2).init(random.key(0))["output.bias"]
        array([0., 0., 0., 0., 0., 0.], dtype=float32)
        """

        def initial(key: Key, name: str, shape: tuple[int, ...]) -> Array:
            fan_in = self.length if name == "tokens.weight" else shape[-1]  # one token of V is on at each place
            bound = 0.0 if "bias" in name or "output" in name else math.sqrt(3 / fan_in)
            return bound * (2 * random.uniform(key, shape) - 1) + 0.0  # + 0.0 turns -0.0 into 0.0

        return initialised(key, self.shapes(), initial, dtype=dtype)

    def __call__(self, params: Params, x_t: Array, t: Array, *, label: Array | int | None = None) -> Array:
        """The logits alone: `functools.partial(mlp, params)` is a `Model`, and with `label=` one of that class."""
        return self.forward(params, x_t, t, label=label)[0]

    def at(self, params: Params, x_t: Array, t: Array, sites: Array, *, label: Array | int | None = None) -> Array:
        """The logits at chosen tokens, those of ``reshape(x_t, -1)[sites]``: sites int[E] -> float[E, V]."""
        return self.forward(params, x_t, t, label=label, sites=sites)[0]

    def forward(
        self,
        params: Params,
        x_t: Array,
        t: Array,
        *,
        label: Array | int | None = None,
        sites: Array | None = None,
    ) -> tuple[Array, Any]:
        """The logits and the residuals for `backward`, in the dtype of the parameters; t is cast to it.

        With sites the logits are those of `at`; they increase strictly where `backward` is to follow.
        """
        if x_t.shape[1:] != (self.length,) or t.shape != x_t.shape[:1]:
            raise ValueError(f"x_t, t: expected shapes (B, {self.length}) and (B,), got {x_t.shape} and {t.shape}")
        xp = namespace(x_t)
        tree = nest(params)
        dtype = params["output.bias"].dtype
        tokens = xp.reshape(one_hot(x_t, self.vocab_size, dtype=dtype), (-1, self.length * self.vocab_size))
        h, r_tokens = linear(tree["tokens"], tokens)
        time = time_features(_TIME_SCALE * xp.astype(t, dtype), size=_TIME_SIZE)
        y, r_time = linear(tree["time"], time)
        h = h + y
        labels = label_rows(label, self.classes, x_t)
        if self.classes:
            h = h + embedding(tree["label_embedding"], labels)[0]
        r_hidden = []
        for i in range(self.depth):
            y, r_silu = silu(h)
            y, r_linear = linear(tree["hidden"][str(i)], y)
            h = h + y
            r_hidden.append((r_silu, r_linear))
        y, r_silu = silu(h)
        y, r_linear = linear(tree["output"], y)
        logits = xp.reshape(y, (*x_t.shape, self.vocab_size))
        if sites is not None:
            logits = xp.take(xp.reshape(y, (-1, self.vocab_size)), sites, axis=0)
        return logits, (r_tokens, r_time, labels, r_hidden, r_silu, r_linear, sites)

    def backward(self, params: Params, residuals: Any, dlogits: Array) -> Params:
        """dL/dparams from dL/dlogits, float[B, N, V] or [E, V]: the same names and shapes as the parameters."""
        tree, xp = nest(params), namespace(dlogits)
        r_tokens, r_time, labels, r_hidden, r_silu, r_linear, sites = residuals
        d: dict[str, Any] = {"hidden": {}}
        if sites is not None:
            shape = (labels.shape[0] * self.length, self.vocab_size)
            dlogits = put(xp.zeros(shape, dtype=dlogits.dtype, device=device(dlogits)), sites, dlogits)
        dy = xp.reshape(dlogits, (-1, self.length * self.vocab_size))
        d["output"], dy = linear_backward(tree["output"], r_linear, dy)
        dh = silu_backward(r_silu, dy)
        for i in reversed(range(self.depth)):
            r_silu, r_linear = r_hidden[i]
            d["hidden"][str(i)], dy = linear_backward(tree["hidden"][str(i)], r_linear, dh)
            dh = dh + silu_backward(r_silu, dy)
        if self.classes:
            d["label_embedding"] = embedding_backward(tree["label_embedding"], labels, dh)
        d["time"], _ = linear_backward(tree["time"], r_time, dh)
        d["tokens"], _ = linear_backward(tree["tokens"], r_tokens, dh)
        dparams = flatten(d)
        return {name: dparams[name] for name in params}
