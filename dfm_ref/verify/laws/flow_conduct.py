"""Laws of conduct of continuous implementations: answers of the right kind, batches, arguments, bad input."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from ..flow_cases import FlowCase
from ..flow_contract import METHODS
from ..probe import Broken, NotCovered, Unbuilt
from .arguments import Wrong
from .conduct import global_seed
from .fields import path_cases
from .flows import eps_of, near, tolerance_of
from .law import Law, Table, Trial

__all__ = ["BAD_INPUT", "LAWS", "FlowAsk", "legal"]

_CONTRACT = "the contract of continuous adapters"
_CASES = [*(FlowCase(dim) for dim in (1, 2, 3)), *path_cases()]


def legal(case: FlowCase, method: str, rows: int) -> tuple[Any, ...]:
    """Arguments that a method must take, with times in (0, 1) that differ from row to row.

    >>> legal(FlowCase(1), "flow", 2)
    (array([[ 0.2],
           [-2. ]]),)
    """
    rng = np.random.default_rng([rows, case.dim])
    x, x_1 = rng.normal(size=(2, rows, case.dim)).round(2)
    t = np.resize([0.5, 0.75, 0.25, 0.125, 0.875], rows)
    named = {"z": x, "x": x, "dz": x_1, "x_0": x, "x_1": x_1, "t": t, "seed": 3}
    return tuple(named[name] for name in METHODS[method])


class FlowAsk(NamedTuple):
    """A method of a case, asked for a batch of so many rows."""

    case: FlowCase
    method: str
    rows: int

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Legal arguments, the same in every run."""
        return legal(self.case, self.method, self.rows)


def _asks(rows: tuple[int, ...], *, methods: tuple[str, ...] = tuple(METHODS)) -> list[FlowAsk]:
    """Every method of every case that it is for: a path for sample_path, either for velocity, a flow for others."""
    return [
        FlowAsk(case, method, number)
        for method in methods
        for case in _CASES
        if method == "velocity" or bool(case.path) == (method == "sample_path")
        for number in rows
    ]


def _more() -> Any:
    asked = st.sampled_from(_asks((0,)))
    return st.builds(lambda ask, rows: ask._replace(rows=rows), asked, st.integers(1, 4))


def _builds(trial: Trial, at: FlowCase) -> None:
    try:
        trial.probe.object(at)
    except Unbuilt as error:
        error.show = f"print(build({at!r}))"
        raise


def _answers(trial: Trial, at: FlowAsk) -> None:
    trial.call(at.case, at.method, *at.arguments)


def _answers_of(method: str) -> Law:
    return Law(
        f"answers-{method}",
        f"{method} answers legal input with arrays of the right kind and shape",
        f"{method}({', '.join(METHODS[method])})",
        _CONTRACT,
        (method,),
        lambda: _asks((1, 3), methods=(method,)),
        _answers,
    )


def _parts(answer: Any) -> tuple[Table, ...]:
    return (answer,) if isinstance(answer, np.ndarray) else tuple(part for part in answer if part is not None)


def _batch(trial: Trial, at: FlowAsk) -> None:
    whole = _parts(trial.call(at.case, at.method, *at.arguments))
    rows = []
    for k in range(at.rows):
        one = tuple(a[k : k + 1] if isinstance(a, np.ndarray) else a for a in at.arguments)
        rows.append(_parts(trial.call(at.case, at.method, *one)))
    for part, each in zip(whole, zip(*rows, strict=True), strict=True):
        size = (eps_of(part) + 64 * tolerance_of(trial, at.case)) * (1 + np.abs(part))
        what, show = f"{at.method} of a batch of {at.rows} beside its rows", _all(trial, at.method, 1 + at.rows)
        near(what, part, np.concatenate(each), size, show)


def _all(trial: Trial, method: str, count: int) -> str:
    """The line that prints all answers of a method."""
    name = trial.probe.contract.results.get(method, method)
    return f"print({', '.join(name if k == 1 else f'{name}_{k}' for k in range(1, count + 1))})"


def _deterministic(trial: Trial, at: FlowAsk) -> None:
    with global_seed(1):
        first = _parts(trial.call(at.case, at.method, *at.arguments))
    with global_seed(2):
        second = _parts(trial.call(at.case, at.method, *at.arguments))
    for a, b in zip(first, second, strict=True):
        if not np.array_equal(a, b):
            raise Broken(f"{at.method} gives two results", expected=a, got=b, show=_all(trial, at.method, 2))


def _unchanged(trial: Trial, at: FlowAsk) -> None:
    if changed := trial.probe.changed(at.case, at.method, *at.arguments):
        raise Broken(
            f"{at.method} writes into its argument {changed[0]}", expected="the argument as it was", got="another"
        )


def _raises(trial: Trial, at: Wrong) -> None:
    if at.method == "velocity" and not trial.probe.has(at.case, "sample_path"):
        raise NotCovered("no method sample_path, beside which a velocity is that of a path")
    result = trial.probe.raw(at.case, at.method, *at.arguments)
    if not isinstance(result, Exception) and (not at.what.startswith("NaN") or _finite(result)):
        got = f"an answer, {type(result).__name__}"
        raise Broken(f"{at.method} accepts {at.what}", expected="an exception", got=got)


def _finite(answer: Any) -> bool:
    parts = answer if isinstance(answer, tuple) else (answer,)
    return all(bool(np.all(np.isfinite(part))) for part in parts if isinstance(part, np.ndarray))


def _replaced(ask: FlowAsk, name: str, value: Any, what: str) -> Wrong:
    arguments = tuple(value if n == name else a for n, a in zip(METHODS[ask.method], ask.arguments, strict=True))
    return Wrong(ask.case, ask.method, arguments, what)  # type: ignore[arg-type]


def _wrong_times() -> Iterator[Wrong]:
    for ask in _asks((3,), methods=("sample_path", "velocity")):
        for value, place in ((1.001, -1), (-0.001, 0), (1.5, 0), (np.nan, -1)):
            if ask.case.path and ask.case.dim == 2:
                t = ask.arguments[METHODS[ask.method].index("t")].copy()
                t[place] = value
                what = f"t = {value:g} in {'the first' if place == 0 else 'the last'} row"
                yield _replaced(ask, "t", t, f"NaN as a time, {what}" if np.isnan(value) else what)


def _wrong_points() -> Iterator[Wrong]:
    for ask in _asks((3,)):
        for name in METHODS[ask.method]:
            if ask.case.dim == 2 and name in ("z", "x", "x_0", "x_1"):
                good = ask.arguments[METHODS[ask.method].index(name)]
                bad = good.copy()
                bad[-1, -1] = np.nan
                yield _replaced(ask, name, bad, f"NaN in {name} without one in the answer")


def _wrong_shapes() -> Iterator[Wrong]:
    for ask in _asks((3,)):
        if ask.case.dim != 2:
            continue
        for name, good in zip(METHODS[ask.method], ask.arguments, strict=True):
            if not isinstance(good, np.ndarray):
                continue
            shapes = (
                [np.append(good, 0.5)] if name == "t" else [np.concatenate([good, good[:, :1]], axis=1), good[:, :1]]
            )
            if len(METHODS[ask.method]) > 1:
                shapes += [good[:2], good[:1]]
            for bad in shapes:
                yield _replaced(ask, name, bad, f"{name} of shape {bad.shape} for {good.shape}")


LAWS = (
    Law(
        "build",
        "build gives an object for every case, or raises NotImplementedError",
        "build(case)",
        _CONTRACT,
        (),
        lambda: _CASES,
        _builds,
    ),
    *(_answers_of(method) for method in METHODS),
    Law(
        "batch-is-loop",
        "a batch equals its rows one by one, with as many rows as dimensions and with one too",
        "f(x)[b] = f(x[b])",
        _CONTRACT,
        (),
        lambda: _asks((1, 2, 3, 5)),
        _batch,
        _more,
    ),
    Law(
        "empty-batch",
        "a batch of no rows gives empty arrays of the right shapes",
        "f(x[:0]) = f(x)[:0]",
        _CONTRACT,
        (),
        lambda: _asks((0,)),
        _answers,
    ),
    Law(
        "determinism",
        "the same question has the same answer, whatever the global seeds of Python, NumPy or PyTorch",
        "f(x) = f(x)",
        _CONTRACT,
        (),
        lambda: _asks((3,)),
        _deterministic,
    ),
    Law(
        "arguments-unchanged",
        "no method writes into an array that it was given",
        "x = x before",
        _CONTRACT,
        (),
        lambda: _asks((3,)),
        _unchanged,
    ),
)

BAD_INPUT = (
    Law(
        "bad-times",
        "a time of a path outside of [0, 1] raises; NaN raises or gives NaN",
        "t in [0, 1]",
        f"{_CONTRACT}: what must raise",
        (),
        _wrong_times,
        _raises,
    ),
    Law(
        "bad-shapes",
        "points of another dimension, and arrays whose rows do not fit each other, raise",
        "z, x float[B, D], t float[B]",
        f"{_CONTRACT}: what must raise",
        (),
        _wrong_shapes,
        _raises,
    ),
    Law(
        "bad-points",
        "a point with NaN raises or gives NaN, and never a number",
        "x in R^D",
        f"{_CONTRACT}: what must raise",
        (),
        _wrong_points,
        _raises,
    ),
)
"""What must raise comes last: of a method that does not end on NaN, nothing more is asked."""
