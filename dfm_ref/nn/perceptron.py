"""A plain perceptron on points of R^n, and its masked form, whose outputs see the inputs in order."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .. import random
from ..arrays import like, namespace
from ..protocols import Array, Key, Params
from .layers import flatten, initialised, linear, linear_backward, nest, silu_of_twice, silu_of_twice_backward

__all__ = ["Perceptron", "degrees"]


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

    def in_turn(self, params: Params, find: Callable[[int, Array], Array]) -> Array:
        """The inputs x[..., inputs] of a net with an order, one after another: x_i = find(i, the outputs for input i).

        As these depend on the inputs found before, no others, a hidden unit is computed once, when all that it sees is
        known, and so all inputs cost one pass. The outputs for the first, which see nothing, have no batch dimensions.
        Raises ValueError without an order.

        >>> net = Perceptron(2, 2, hidden=(), order=(0, 1))
        >>> params = {"0.weight": np.ones((2, 2)), "0.bias": np.array([3.0, 4.0])}
        >>> net.in_turn(params, lambda i, y: y[..., 0])
        array([3., 7.])
        """
        if not self.order:
            raise ValueError(f"order: expected places, as inputs are found in turn, got none in {self}")
        layers, turns = self.layers(params), degrees(self)
        xp = namespace(layers[0]["weight"])
        order = sorted(range(self.inputs), key=self.order.__getitem__)
        layers[0]["weight"] = xp.take(layers[0]["weight"], like(layers[0]["weight"], order), axis=1)
        per, known = self.outputs // self.inputs, [layer["weight"][0, :0] for layer in layers]
        for place, i in enumerate(order):
            new = find(i, _outputs(layers[-1], slice(i * per, (i + 1) * per), known[-1]))[..., None]
            for k, layer in enumerate(layers):
                known[k] = xp.concat([known[k], new], axis=-1) if place else new
                if k < len(self.hidden):
                    units = slice(*(int(n) for n in np.searchsorted(turns[k + 1], [place, place + 1])))
                    new, _ = silu_of_twice(_outputs(layer, units, known[k]))
        return xp.take(known[0], like(known[0], self.order), axis=-1)

    def forward(self, params: Params, x: Array) -> tuple[Array, Any]:
        """float[..., inputs] -> float[..., outputs], and the residuals for `backward`."""
        return self._run(self.layers(params), x)

    def backward(self, params: Params, residuals: Any, dy: Array) -> tuple[Params, Array]:
        """y = L_n(SiLU(... SiLU(L_0(x))))  =>  each layer by its own rule, the last first; c W mask  =>  c dW mask."""
        d: dict[str, Any] = {}
        layers, (r_linear, r_silu) = self.layers(params), residuals
        for k in reversed(range(len(layers))):
            d[str(k)], dy = linear_backward(layers[k], r_linear[k], dy)
            d[str(k)] = self.scaled(k, d[str(k)])
            if k:
                dy = silu_of_twice_backward(r_silu[k - 1], dy)
        dparams = flatten(d)
        return {name: dparams[name] for name in params}, dy

    def layers(self, params: Params) -> list[Params]:
        """The layers as the passes use them: masked, and halved before a SiLU, which is one of twice what comes.

        >>> Perceptron(1, 1, hidden=()).layers({"0.weight": np.ones((1, 1)), "0.bias": np.zeros(1)})
        [{'weight': array([[1.]]), 'bias': array([0.])}]
        """
        tree = nest(params)
        return [self.scaled(k, tree[str(k)]) for k in range(len(self.hidden) + 1)]

    def scaled(self, k: int, layer: Params) -> Params:
        """The parameters of layer k, or their gradient, from its own ones to those of `layers` or back.

        >>> Perceptron(1, 1, hidden=(1,)).scaled(0, {"weight": np.ones((1, 1)), "bias": np.zeros(1)})
        {'weight': array([[0.5]]), 'bias': array([0.])}
        """
        if self.order:
            weight = layer["weight"]
            layer = layer | {"weight": weight * like(weight, _masks(self)[k], weight.dtype)}
        return {name: 0.5 * p for name, p in layer.items()} if k < len(self.hidden) else layer

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


def _outputs(layer: Params, rows: slice, x: Array) -> Array:
    """Some outputs of a layer, given the first entries of its input: those that they see."""
    weight, bias = layer["weight"][rows, : x.shape[-1]], layer["bias"][rows]
    return linear({"weight": weight, "bias": bias}, x)[0] if x.shape[-1] else bias


def degrees(net: Perceptron) -> list[Array]:
    """The places of the inputs of a net with an order, then the degrees of the units of each hidden layer, which rise.

    >>> degrees(Perceptron(3, 3, hidden=(4,), order=(2, 0, 1)))
    [array([2, 0, 1]), array([0, 0, 1, 1])]
    """
    most = max(net.inputs - 1, 1)  # degrees are 0, ..., inputs - 2: no output could see a larger one
    return [np.asarray(net.order), *(np.arange(width) * most // width for width in net.hidden)]


@lru_cache
def _masks(net: Perceptron) -> tuple[Array, ...]:
    """1 where an entry of a weight counts and 0 elsewhere, for every layer."""
    turns = degrees(net)
    seen = [turns[k + 1][:, None] >= turns[k] for k in range(len(net.hidden))]
    last = np.repeat(turns[0], net.outputs // net.inputs)[:, None] > turns[-1]
    return (*seen, last)
