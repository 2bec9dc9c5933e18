"""The contract of continuous implementations: their methods, and what an answer must be, whatever its values."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .flow_cases import FlowCase
from .probe import Contract, Malformed

__all__ = ["CONTINUOUS", "METHODS", "Drawn", "Mapped"]

Table: TypeAlias = np.ndarray[Any, Any]

METHODS = {
    "flow": ("z",),
    "inverse": ("x",),
    "log_prob": ("x",),
    "tangent": ("z", "dz"),
    "velocity": ("x", "t"),
    "sample_path": ("x_0", "x_1", "t", "seed"),
}
"""The methods that a continuous adapter may have, with their arguments."""


class Mapped(NamedTuple):
    """f(z), float[B, D], and log|det df/dz|, float[B]."""

    x: Table
    log_det: Table


class Drawn(NamedTuple):
    """x_t, and dx_t/dt where the implementation gives it: float[B, D] both."""

    x_t: Table
    dx_t: Table | None


def _covers(built: Any, case: FlowCase) -> bool:
    """An object of a fixed dimension says so by `dim`."""
    return bool(getattr(built, "dim", case.dim) == case.dim)


def _checked(case: FlowCase, method: str, named: dict[str, Any], answer: Any) -> Any:
    """The answer, or Malformed; Mapped of a flow, Drawn of a path, an array else."""
    first: Table = next(iter(named.values()))
    if method == "flow":
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise Malformed("flow returns no pair", expected="(x, log_det)", got=type(answer).__name__)
        return Mapped(_array("flow: x", answer[0], first.shape), _array("flow: log_det", answer[1], first.shape[:1]))
    if method == "sample_path" and isinstance(answer, tuple):
        if len(answer) != 2:
            raise Malformed("sample_path returns a tuple of another length", expected="(x_t, dx_t)", got=len(answer))
        ends = named["t"] == 1  # where the derivative may be infinite
        return Drawn(
            _array("sample_path: x_t", answer[0], first.shape),
            _array("sample_path: dx_t", answer[1], first.shape, free=ends),
        )
    if method == "inverse" and isinstance(answer, tuple) and answer:
        answer = answer[0]  # (z, log_det) is welcome
    if method == "log_prob":
        return _array(method, answer, first.shape[:1], least=-np.inf)
    array = _array(method, answer, first.shape)
    return Drawn(array, None) if method == "sample_path" else array


def _array(what: str, answer: Any, shape: tuple[int, ...], *, free: Any = False, least: float | None = None) -> Table:
    """An array of floats of a shape, finite but in rows that are free; `least` may occur too."""
    if not isinstance(answer, np.ndarray):
        raise Malformed(f"{what} is {type(answer).__name__}", expected="a NumPy array", got=type(answer).__name__)
    if answer.dtype.kind != "f":
        raise Malformed(f"{what} is {answer.dtype}", expected="floats", got=str(answer.dtype))
    if answer.shape != shape:
        raise Malformed(f"{what} has the shape {answer.shape}", expected=shape, got=answer.shape)
    bad = ~np.isfinite(answer) & (answer != least)
    bad[np.broadcast_to(free, bad.shape[:1])] = False
    if bad.any():
        value = answer[bad].flat[0]
        raise Malformed(f"{what} has the entry {value}", expected="finite numbers", got=float(value))
    return answer


CONTINUOUS = Contract(
    METHODS,
    _checked,
    _covers,
    {"flow": "mapped", "inverse": "back", "tangent": "dx", "velocity": "u", "sample_path": "drawn"},
    "FlowCase",
)
"""The contract of flows and probability paths on R^D."""
