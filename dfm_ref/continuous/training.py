"""Training of the continuous half: the optimiser of the trainer, on any loss that comes with its gradient.

All randomness is addressed by seed and step.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from .. import random
from ..arrays import namespace
from ..nn.optim import State, descend, start
from ..protocols import Array, Key, Params

__all__ = ["Diverged", "Loss", "Recipe", "train"]

Loss: TypeAlias = Callable[[Params, Key, int], tuple[Array, Params]]
"""A loss and its gradient in the parameters, from the randomness and the number of a step."""


class Diverged(ValueError):
    """A loss that is not finite: no step can be made from there."""


@dataclass(frozen=True)
class Recipe:
    """How a loss is descended: a rate that warms up, then falls as a cosine, AdamW, clipping, a moving average.

    >>> Recipe(steps=10).learning_rate
    0.001
    """

    steps: int = 1000
    learning_rate: float = 1e-3
    warmup: int = 50
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a number > 0, got {getattr(self, name)}")
        for name in ("steps", "warmup", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a number >= 0, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema: expected a decay in [0, 1), got {self.ema}")


def train(recipe: Recipe, loss: Loss, params: Params) -> Iterator[tuple[State, Array]]:
    """The states after each step from the parameters given, each with its loss.

    Raises Diverged where a loss is not finite. The average of a state is what to use in the end.

    >>> import numpy as np
    >>> def square(params, key, step):
    ...     return np.sum(params["x"] ** 2), {"x": 2 * params["x"]}
    >>> *_, (state, loss) = train(Recipe(steps=200, learning_rate=0.1), square, {"x": np.ones(1)})
    >>> bool(abs(state.params["x"][0]) < 1e-2)
    True
    """
    key, state = random.key(recipe.seed), start(params)
    for step in range(recipe.steps):
        value, grads = loss(state.params, random.fold_in(key, step), step)
        if not bool(namespace(value).isfinite(value)):
            raise Diverged(f"loss: expected a finite number, got {float(value)} at step {step}")
        state = descend(recipe, state, grads)
        yield state, value
