"""Codes in JAX: objects whose methods take and return its arrays, jitted or not. Conversion only."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from ..cases import Case
from .conversion import Library, converted, imported

__all__ = ["wrap"]

Table: TypeAlias = np.ndarray[Any, Any]


def wrap(
    build: Any,
    *,
    dtype: str | None = None,
    keyed: bool = False,
    covers: Mapping[str, Any] | None = None,
    reverse_time: bool = False,
    negative_rates: bool = False,
) -> Callable[[Case], Any]:
    """An adapter of a `build(case)` whose object has the methods of the contract, with JAX's arrays for NumPy's.

    Floats become arrays of `dtype`, or of the type that JAX gives them: float32, and tokens int32, unless
    jax_enable_x64 is set. The model that `sample` is given takes and returns arrays too; under jit and scan it is
    called back on the host, in order, but not under vmap. With `keyed` the seed becomes `jax.random.key(seed)`, else
    it is an int. An object in place of a build, such as a namespace of functions, serves every case: say in `covers`
    which ones it is for, as in `covers={"schedule": "linear", "source": "mask"}`; others are not covered. With
    `reverse_time` the time of the code runs from data to noise, and `negative_rates` is of its velocities, as in
    `conversion.reverse_time`. Raises ImportError, in one line, where JAX is missing.
    """
    return converted(build, _library(dtype, keyed), covers=covers, turned=reverse_time, negative=negative_rates)


def _library(dtype: str | None, keyed: bool) -> Library:
    """JAX: floats of a dtype, or of its own choice; seeds as keys or ints."""
    jax, callbacks = (imported(n, expected="JAX", install="pip install jax") for n in ("jax", "jax.experimental"))

    def asarray(x: Table) -> Any:
        return jax.numpy.asarray(x.astype(dtype) if dtype and x.dtype.kind == "f" else x)

    def to_numpy(x: Any) -> Table:
        return np.array(x)

    def ask(model: Callable[[Table, Table], Table], vocab_size: int) -> Callable[[Any, Any], Any]:
        def on_host(x_t: Any, t: Any) -> Table:
            return np.asarray(model(to_numpy(x_t), to_numpy(t)))

        def traced(x_t: Any, t: Any) -> Any:
            answer = jax.ShapeDtypeStruct((*x_t.shape, vocab_size), jax.numpy.zeros((), dtype).dtype)
            return callbacks.io_callback(
                lambda x_t, t: on_host(x_t, t).astype(answer.dtype), answer, x_t, t, ordered=True
            )

        def probs_1(x_t: Any, t: Any) -> Any:
            known = not any(isinstance(a, jax.core.Tracer) for a in (x_t, t))
            return asarray(on_host(x_t, t)) if known else traced(x_t, t)

        return probs_1

    def seed(seed: int) -> Any:
        return jax.random.key(seed) if keyed else int(seed)

    return Library(lambda x: isinstance(x, jax.Array), asarray, to_numpy, ask, seed)
