"""A plain perceptron on points of R^n, and its masked form, whose outputs see the inputs in order."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .. import random
from ..arrays import like
from ..protocols import Array, Key, Params
from .layers import flatten, initialised, linear, linear_backward, nest, silu_of_twice, silu_of_twice_backward

__all__ = ["Perceptron"]


@dataclass(frozen=True)
class Perceptron:
    """y = L_n(SiLU(... SiLU(L_0(x)))), L_k linear, with hidden layers of the given widths: R^inputs -> R^outputs.

    With an `order`, the place of every input in a sequence, it is autoregressive: the outputs, `outputs / inputs` for
    every input and side by side, depend on the inputs of earlier places alone. For that each weight is multiplied by a
    mask: a hidden unit of degree d sees the places up to d, and the outputs of place p see the degrees below p.
    Raises ValueError for sizes below 1, an order that is not a permutation, and outputs that do not divide.
    Source: Germain et al. 2015 (MADE), section 4, with the degrees spread evenly instead of drawn.

    >>> net = Perceptron(2, 3, hidden=(8,))
    >>> net(net.init(random.key(0)), np.zeros((5, 2))).shape
    (5, 3)
    """

    inputs: int
    outputs: int
    hidden: tuple[int, ...] = (64, 64)
    order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.inputs, self.outputs, *self.hidden) < 1:
            raise ValueError(f"inputs, outputs, hidden: expected sizes of 1 or more, got {self}")
        if self.order and sorted(self.order) != list(range(self.inputs)):
            raise ValueError(f"order: expected the places 0, ..., {self.inputs - 1} in some order, got {self.order}")
        if self.order and self.outputs % self.inputs:
            raise ValueError(
                f"outputs: expected a multiple of the {self.inputs} inputs, as there is an order, got {self.outputs}"
            )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The name and shape of every parameter.

        >>> Perceptron(2, 3, hidden=()).shapes()
        {'0.weight': (3, 2), '0.bias': (3,)}
        """
        sizes = (self.inputs, *self.hidden, self.outputs)
        shapes: dict[str, tuple[int, ...]] = {}
        for k in range(len(sizes) - 1):
            shapes |= {f"{k}.weight": (sizes[k + 1], sizes[k]), f"{k}.bias": (sizes[k + 1],)}
        return shapes

    def init(self, key: Key, *, dtype: Any = "float32") -> Params:
        """Parameters to start from, NumPy: matrices uniform with variance 1 / fan-in, biases and the last layer 0.

        >>> Perceptron(2, 1, hidden=()).init(random.key(0))
        {'0.weight': array([[0., 0.]], dtype=float32), '0.bias': array([0.], dtype=float32)}
        """
        last = f"{len(self.hidden)}.weight"

        def initial(key: Key, name: str, shape: tuple[int, ...]) -> Array:
            if len(shape) == 1 or name == last:
                return np.zeros(shape)
            return math.sqrt(3 / shape[-1]) * (2 * random.uniform(key, shape) - 1)

        return initialised(key, self.shapes(), initial, dtype=dtype)

    def __call__(self, params: Params, x: Array) -> Array:
        """The outputs alone."""
        return self.forward(params, x)[0]

    def at(self, params: Params, x: Array, outputs: slice) -> Array:
        """The outputs of a slice, y[..., outputs]: the last layer is computed for these alone."""
        last = len(self.hidden)
        layers = self._layers(params)
        layers[last] = {name: p[outputs, ...] for name, p in layers[last].items()}
        return self._run(layers, x)[0]

    def forward(self, params: Params, x: Array) -> tuple[Array, Any]:
        """float[..., inputs] -> float[..., outputs], and the residuals for `backward`."""
        return self._run(self._layers(params), x)

    def backward(self, params: Params, residuals: Any, dy: Array) -> tuple[Params, Array]:
        """y = L_n(SiLU(... SiLU(L_0(x))))  =>  each layer by its own rule, the last first; c W mask  =>  c dW mask."""
        d: dict[str, Any] = {}
        layers, (r_linear, r_silu) = self._layers(params), residuals
        for k in reversed(range(len(layers))):
            d[str(k)], dy = linear_backward(layers[k], r_linear[k], dy)
            d[str(k)] = self._scaled(k, d[str(k)])
            if k:
                dy = silu_of_twice_backward(r_silu[k - 1], dy)
        dparams = flatten(d)
        return {name: dparams[name] for name in params}, dy

    def _run(self, layers: list[Params], x: Array) -> tuple[Array, Any]:
        if x.ndim == 0 or x.shape[-1] != self.inputs:
            raise ValueError(f"x: expected {self.inputs} entries on the last axis, got shape {tuple(x.shape)}")
        y, r = linear(layers[0], x)
        r_linear, r_silu = [r], []
        for layer in layers[1:]:
            y, r = silu_of_twice(y)
            r_silu.append(r)
            y, r = linear(layer, y)
            r_linear.append(r)
        return y, (r_linear, r_silu)

    def _layers(self, params: Params) -> list[Params]:
        tree = nest(params)
        return [self._scaled(k, tree[str(k)]) for k in range(len(self.hidden) + 1)]

    def _scaled(self, k: int, layer: Params) -> Params:
        """The layer masked, and halved before a SiLU, which is one of twice what comes."""
        if self.order:
            weight = layer["weight"]
            layer = layer | {"weight": weight * like(weight, _masks(self)[k], weight.dtype)}
        return {name: 0.5 * p for name, p in layer.items()} if k < len(self.hidden) else layer


@lru_cache
def _masks(net: Perceptron) -> tuple[Array, ...]:
    """1 where an entry of a weight counts and 0 elsewhere, for every layer."""
    places = np.asarray(net.order)
    most = max(net.inputs - 1, 1)  # degrees are 0, ..., inputs - 2: no output could see a larger one
    degrees = [places, *(np.arange(width) * most // width for width in net.hidden)]
    seen = [degrees[k + 1][:, None] >= degrees[k] for k in range(len(net.hidden))]
    last = np.repeat(places, net.outputs // net.inputs)[:, None] > degrees[-1]
    return (*seen, last)
