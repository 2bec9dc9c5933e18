"""Laws of schedules: the values that a case's name promises, their derivative, the inverse, and both ends."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from ..cases import SCHEDULES, Case
from ..probe import Broken
from .law import Law, Table, Trial

__all__ = ["LAWS", "Times"]

_SOURCE = "Gat et al. 2024, section 3"


class Times(NamedTuple):
    """Times, or levels of kappa, for the schedule of a case."""

    case: Case
    values: tuple[float, ...]
    dtype: str = "float64"

    def array(self) -> Table:
        """The values as an array."""
        return np.array(self.values, dtype=self.dtype)


def _cases() -> list[Case]:
    return [Case(2 + (source == "mask"), 1, name, source) for name in SCHEDULES for source in ("uniform", "mask")]


def _examples(*values: float, dtype: str = "float64") -> Any:
    return lambda: [Times(case, some, dtype) for case in _cases() for some in ((0.5,), values)]


def _more(low: float = 0.0, high: float = 1.0) -> Any:
    grid = st.integers(0, 64).map(lambda k: k / 64).filter(lambda t: low <= t <= high)
    some = st.lists(grid, min_size=1, max_size=4).map(tuple)
    return lambda: st.builds(Times, st.sampled_from(_cases()), some, st.just("float64"))


def _value(trial: Trial, at: Times) -> None:
    t = at.array()
    got = trial.call(at.case, "kappa", t)
    _near(at, "kappa", t, got, SCHEDULES[at.case.schedule].kappa(t.astype(np.float64)), 1.0)


def _derivative(trial: Trial, at: Times) -> None:
    t = at.array()
    got = trial.call(at.case, "kappa_dot", t)
    _near(at, "kappa_dot", t, got, SCHEDULES[at.case.schedule].kappa_dot(t.astype(np.float64)), 3.0)


def _inverse(trial: Trial, at: Times) -> None:
    k = at.array()
    t = trial.call(at.case, "kappa_inverse", k)
    back = SCHEDULES[at.case.schedule].kappa(np.clip(t.astype(np.float64), 0, 1))
    _near(at, "kappa of kappa_inverse", k, back.astype(t.dtype), k.astype(np.float64), 1.0, "kappa_inverse")


def _ends(trial: Trial, at: Times) -> None:
    t, case = at.array(), at.case
    for method in ("kappa", "kappa_inverse"):
        if not trial.probe.has(case, method):
            continue
        got = trial.call(case, method, t)
        if not (np.all(got >= 0) and np.all(got <= 1 + np.finfo(got.dtype).eps)):
            raise Broken(
                f"{method}: a value outside of [0, 1]", expected="values in [0, 1]", got=got, show=_shown(method)
            )
        inside = np.where((t == 0) | (t == 1), t, got)
        tiny = 8 * np.finfo(got.dtype).eps
        if not np.all(np.abs(got - inside) <= tiny):
            raise Broken(f"{method}: another value at an end", expected=inside, got=got, show=_shown(method))


def _precision(trial: Trial, at: Times) -> None:
    """To a hundredth, where digits vanish in a difference of numbers near 1."""
    t, schedule = at.array(), SCHEDULES[at.case.schedule]
    for method, truth in (("kappa", schedule.kappa), ("kappa_dot", schedule.kappa_dot)):
        if trial.probe.has(at.case, method):
            want, got = truth(t.astype(np.float64)), trial.call(at.case, method, t)
            if not np.all(np.abs(got - want) <= 0.01 * np.abs(want)):
                message = f"{method}: a {at.dtype} time near an end gives another value than its float64"
                raise Broken(message, expected=want, got=got, show=_shown(method))


def _near(at: Times, what: str, t: Table, got: Table, want: Table, scale: float, method: str = "") -> None:
    tolerance = 32 * float(np.finfo(got.dtype).eps) * np.maximum(scale, np.abs(want))
    off = np.abs(got.astype(np.float64) - want) > tolerance
    if np.any(off):
        k = int(np.argmax(off))
        message = f"{what} of the {at.case.schedule} schedule at {float(t[k]):g}"
        raise Broken(message, expected=float(want[k]), got=float(got[k]), show=_shown(method or what))


def _shown(method: str) -> str:
    return f"print({'t' if method == 'kappa_inverse' else method})"


LAWS = (
    Law(
        "schedule-value",
        "kappa_t is the function that its name says",
        "kappa_t = t, t^2, t^3, sin(pi t / 2)^2",
        _SOURCE,
        ("kappa",),
        _examples(0.0, 0.125, 0.25, 0.75, 0.9375, 1.0),
        _value,
        _more(),
    ),
    Law(
        "schedule-derivative",
        "kappa_dot_t is the derivative of kappa_t",
        "d kappa_t / dt = 1, 2t, 3t^2, (pi / 2) sin(pi t)",
        _SOURCE,
        ("kappa_dot",),
        _examples(0.0, 0.125, 0.25, 0.75, 0.9375, 1.0),
        _derivative,
        _more(),
    ),
    Law(
        "schedule-inverse",
        "kappa_inverse gives the time at which kappa has a value",
        "kappa(kappa_inverse(k)) = k for k in [0, 1]",
        _SOURCE,
        ("kappa_inverse",),
        _examples(0.0, 0.125, 0.25, 0.75, 0.9375, 1.0),
        _inverse,
        _more(),
    ),
    Law(
        "schedule-ends",
        "kappa rises from exactly 0 to exactly 1 and stays between; so does its inverse",
        "kappa_0 = 0, kappa_1 = 1, 0 <= kappa_t <= 1",
        f"{_SOURCE} (boundary conditions)",
        ("kappa", "kappa_inverse"),
        _examples(0.0, 1.0, 0.5, 2.0**-20, 1 - 2.0**-20),
        _ends,
    ),
    Law(
        "schedule-precision",
        "a float32 time gives the value of the same float64 time, near both ends too",
        "|kappa(float32 t) - kappa(t)| <= kappa(t) / 100",
        "arithmetic: sin^2 and not 1 - cos^2, no time in half precision",
        ("kappa", "kappa_dot"),
        _examples(0.25, 0.7500001, 2.0**-12, 1 - 2.0**-12, dtype="float32"),
        _precision,
    ),
)
