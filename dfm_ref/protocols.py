"""The nouns of the library: aliases, the shapes of callable that it passes around, and what a backend is.

Names carry shapes: ``x_0, x_1, x_t: int[..., N]``; ``t, s: float`` or ``float[...]``; ``logits, probs_1, u:
float[..., N, V]``, the vocabulary last. Time runs from 0 (source) to 1 (data); rates are per unit of t.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

__all__ = ["Array", "Backend", "Key", "Model", "Namespace", "Params", "Step"]

Array: TypeAlias = Any
"""An array of any library that follows the Array API (2024.12)."""

Namespace: TypeAlias = Any
"""The module of an array library: ``numpy``, ``array_api_compat.torch``, ``jax.numpy``, ..."""

Params: TypeAlias = dict[str, Array]
"""Parameters of a network: a flat dict of named arrays, as they stand in a safetensors file."""


class Key(NamedTuple):
    """A Threefry key: two 32-bit words, Python ints on the host; arrays of words stand for as many keys."""

    hi: Any
    lo: Any


class Model(Protocol):
    """``logits = model(x_t, t)``: int[B, N], float64[B] -> float[B, N, V], the logits of p(x_1 | x_t).

    For a path that redraws from more than one unknown component the model returns a tuple with one entry per
    component (None where the component is known). A model may also offer ``model.at(x_t, t, sites)``, the
    logits [E, V] of the tokens ``x_t.reshape(-1)[sites]`` alone.
    """

    def __call__(self, x_t: Array, t: Array, /) -> Any: ...


class Step(Protocol):
    """``x_s = step(key, x_t, t, s)``: one move of a sampler from time t to time s."""

    def __call__(self, key: Key, x_t: Array, t: float, s: float, /) -> Array: ...


def _nothing() -> None:
    """Does nothing: what there is to wait for on a library that works in step."""


@dataclass(frozen=True)
class Backend:
    """An array library and what the pure code cannot know about it."""

    name: str
    xp: Any
    """The namespace, as `array_api_compat` gives it."""
    asarray: Callable[[Any], Any]
    """From NumPy to the library's array on its device."""
    to_numpy: Callable[[Any], Any]
    synchronize: Callable[[], None] = _nothing
    """Waits until the device has done its work; for timing."""
    kernels: Mapping[Callable[..., Any], Callable[..., Any]] = field(default_factory=dict)
    """Fused twins with the signature of the reference functions that they replace."""

    def fused(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The fused twin of a reference function, or the function itself."""
        return self.kernels.get(function, function)
