"""Codes in PyTorch: objects whose methods take and return tensors. Conversion only."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ..cases import Case
from .conversion import Library, converted, imported

__all__ = ["array", "tensor", "wrap"]

Table: TypeAlias = np.ndarray[Any, Any]

_import = partial(imported, expected="PyTorch", install="pip install torch")


def wrap(
    build: Any,
    *,
    dtype: str = "float64",
    device: str = "cpu",
    covers: Mapping[str, Any] | None = None,
    reverse_time: bool = False,
    negative_rates: bool = False,
) -> Callable[[Case], Any]:
    """An adapter of a `build(case)` whose object has the methods of the contract, with tensors for NumPy arrays.

    Floats become tensors of `dtype`, tokens int64, on `device`; the model that `sample` is given takes and returns
    tensors too. Answers are detached and come back in their own type; seeds are ints. An object in place of a build,
    such as an nn.Module with some of the methods, serves every case: say in `covers` which ones it is for, as in
    `covers={"schedule": "linear", "source": "mask"}`; others are not covered. With `reverse_time` the time of the code
    runs from data to noise, and `negative_rates` is of its velocities, as in `conversion.reverse_time`.
    Raises ImportError, in one line, where PyTorch is missing.
    """
    return converted(build, _library(dtype, device), covers=covers, turned=reverse_time, negative=negative_rates)


def tensor(x: Table) -> Any:
    """A tensor of the values, in their own type."""
    return _import("torch").tensor(np.asarray(x))


def array(x: Any) -> Table:
    """The values of a tensor on the host, without its graph."""
    return np.asarray(x.detach().numpy())


def _library(dtype: str, device: str) -> Library:
    """PyTorch: floats of a dtype and tokens of int64, on a device."""
    torch = _import("torch")
    floats = getattr(torch, dtype)

    def asarray(x: Table) -> Any:
        kind = {"f": floats, "i": torch.int64, "u": torch.int64}.get(x.dtype.kind)
        return torch.tensor(np.require(x, requirements=["C", "W"]), dtype=kind, device=device)

    def to_numpy(x: Any) -> Table:
        return np.array(x.detach().cpu().numpy())

    def ask(model: Callable[[Table, Table], Table], vocab_size: int) -> Callable[[Any, Any], Any]:
        return lambda x_t, t: asarray(np.asarray(model(to_numpy(x_t), to_numpy(t))))

    return Library(torch.is_tensor, asarray, to_numpy, ask)
