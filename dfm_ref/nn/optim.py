"""Optimisers as pure functions on dicts of arrays: init and update beside the state that they pass on."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..arrays import namespace
from ..protocols import Array, Params

__all__ = [
    "AdamW",
    "AdamWState",
    "Recipe",
    "State",
    "adamw_init",
    "adamw_update",
    "clip",
    "descend",
    "ema",
    "start",
    "warmup_cosine",
]


class Recipe(Protocol):
    """What a descent depends on: a rate that warms up and then falls as a cosine to 0 at `steps`, and the rest."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def ema(self) -> float: ...


class State(NamedTuple):
    """Where a run stands: the parameters, their moving average (which samples), and the optimiser's state."""

    params: Params
    average: Params
    optimiser: "AdamWState"


def start(params: Params) -> State:
    """The state before the first step.

    >>> import numpy as np
    >>> start({"w": np.ones(1)}).optimiser.step
    0
    """
    return State(params, params, adamw_init(params))


def descend(recipe: Recipe, state: State, grads: Params) -> State:
    """One step along a gradient: clipped, at the rate of the step, with AdamW; and the moving average follows.

    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> recipe = SimpleNamespace(learning_rate=0.5, warmup=0, steps=2, weight_decay=0.0, clip=1.0, ema=0.9)
    >>> descend(recipe, start({"w": np.ones(1)}), {"w": np.ones(1)}).params
    {'w': array([0.5])}
    """
    grads, _ = clip(grads, recipe.clip)
    rate = warmup_cosine(state.optimiser.step, recipe.learning_rate, recipe.warmup, recipe.steps)
    params, optimiser = adamw_update(
        AdamW(rate, weight_decay=recipe.weight_decay), state.params, grads, state.optimiser
    )
    decay = min(recipe.ema, state.optimiser.step / (state.optimiser.step + 10))  # forgets the random start
    return State(params, ema(state.average, params, decay), optimiser)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay, which acts on matrices (embeddings too) and not on biases and norms.

    To follow a schedule, `dataclasses.replace(optimiser, learning_rate=...)`. Source: Loshchilov and Hutter 2019.
    """

    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.01


class AdamWState(NamedTuple):
    """The number of updates made, and the moving averages of the gradient and of its square."""

    step: int
    mean: Params
    square: Params


def adamw_init(params: Params) -> AdamWState:
    """The state before the first update.

    >>> import numpy as np
    >>> adamw_init({"w": np.ones(1)}).mean
    {'w': array([0.])}
    """
    zeros = {name: namespace(p).zeros_like(p) for name, p in params.items()}
    return AdamWState(0, zeros, dict(zeros))


def adamw_update(optimiser: AdamW, params: Params, grads: Params, state: AdamWState) -> tuple[Params, AdamWState]:
    """p <- p (1 - rate decay) - rate m^ / (sqrt(v^) + eps), with the averages m^, v^ freed of their start at 0.

    >>> import numpy as np
    >>> params = {"w": np.ones(1)}
    >>> adamw_update(AdamW(learning_rate=0.5), params, {"w": np.ones(1)}, adamw_init(params))[0]
    {'w': array([0.5])}
    """
    step, (beta_1, beta_2) = state.step + 1, optimiser.betas
    rate = optimiser.learning_rate / (1 - beta_1**step)
    spread = math.sqrt(1 - beta_2**step)  # sqrt(v^) = sqrt(v) / spread
    mean = {name: beta_1 * m + (1 - beta_1) * grads[name] for name, m in state.mean.items()}
    square = {name: beta_2 * v + (1 - beta_2) * grads[name] ** 2 for name, v in state.square.items()}

    def updated(p: Array, m: Array, v: Array) -> Array:
        decay = optimiser.learning_rate * optimiser.weight_decay if len(p.shape) > 1 else 0.0
        return p * (1 - decay) - rate * spread * m / (namespace(v).sqrt(v) + optimiser.eps * spread)

    params = {name: updated(p, mean[name], square[name]) for name, p in params.items()}
    return params, AdamWState(step, mean, square)


def clip(grads: Params, max_norm: float) -> tuple[Params, Array]:
    """The gradients, scaled down where their joint Euclidean norm exceeds max_norm > 0; and the norm before.

    >>> import numpy as np
    >>> clip({"w": np.array([3.0, 4.0])}, 1.0)
    ({'w': array([0.6, 0.8])}, np.float64(5.0))
    """
    rows = [namespace(g).reshape(g, (-1,)) for g in grads.values()]
    xp = namespace(*rows)
    squares = [xp.sum(row * row) for row in rows]  # by `vecdot` BLAS would do it, whose threads spin into the next step
    norm = xp.sqrt(sum(squares))
    factor = max_norm / xp.where(norm > max_norm, norm, max_norm)
    return {name: g * factor for name, g in grads.items()}, norm


def ema(average: Params, params: Params, decay: float) -> Params:
    """The moving average a <- decay a + (1 - decay) p of the parameters, for decay in [0, 1].

    >>> import numpy as np
    >>> ema({"w": np.zeros(1)}, {"w": np.ones(1)}, 0.75)
    {'w': array([0.25])}
    """
    return {name: a + (1 - decay) * (params[name] - a) for name, a in average.items()}


def warmup_cosine(step: int, peak: float, warmup: int, total: int) -> float:
    """The learning rate of a step: linear up to `peak` in `warmup` steps, then half a cosine to 0 at `total`.

    Step 0 has rate peak / (warmup + 1), and beyond `total` the rate is 0. Source: Loshchilov and Hutter 2017.

    >>> [round(warmup_cosine(step, 1.0, 1, 3), 2) for step in range(4)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
