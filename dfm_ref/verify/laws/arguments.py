"""Legal arguments for every method of an adapter, and what makes them illegal."""

from typing import Any, NamedTuple

import numpy as np

from ..cases import Case
from ..models import Constant, Posterior
from ..probe import METHODS
from .law import Table, each_case, ramp, tokens_of

__all__ = [
    "RANDOM",
    "Ask",
    "Wrong",
    "asks",
    "legal",
    "with_argument",
    "wrong_probabilities",
    "wrong_shapes",
    "wrong_times",
    "wrong_tokens",
]

RANDOM = ("sample_path", "sample")
"""The methods that draw."""


class Ask(NamedTuple):
    """A method of a case, asked for a batch of so many rows."""

    case: Case
    method: str
    rows: int

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Legal arguments, the same in every run."""
        return legal(self.case, self.method, self.rows)


def asks(cases: list[Case], rows: tuple[int, ...], *, methods: tuple[str, ...] = tuple(METHODS)) -> list[Ask]:
    """Every method of every case with every number of rows.

    >>> len(asks([Case(2, 1, "linear", "uniform")], (1, 3)))
    18
    """
    return [Ask(case, method, number) for method in methods for case in cases for number in rows]


def legal(case: Case, method: str, rows: int) -> tuple[Any, ...]:
    """Arguments that a method must take, with times in (0, 1) that differ from row to row.

    >>> legal(Case(2, 1, "linear", "uniform"), "kappa", 2)
    (array([0.5 , 0.75]),)
    """
    rng = np.random.default_rng([rows, case.vocab_size, case.length])
    t = np.resize([0.5, 0.75, 0.25, 0.125, 0.875], rows)
    x_1 = tokens_of(case, rng, rows)
    mask = case.source == "mask"
    x_0 = np.full_like(x_1, case.vocab_size - 1) if mask else tokens_of(case, rng, rows)
    x_t = np.where(rng.random(x_1.shape) < 0.5, x_0, x_1)
    probs = _rows(case, x_t, rng)
    with np.errstate(divide="ignore"):
        logits = np.log(probs)
    model, times = Posterior(case, ramp(case)), np.array([0.0, 0.25, 0.5, 1.0])
    named: dict[str, tuple[Any, ...]] = {
        "kappa": (t,),
        "kappa_dot": (t,),
        "kappa_inverse": (t,),
        "sample_path": (x_0, x_1, t, 3),
        "velocity": (probs, x_t, t),
        "corrector_velocity": (probs, x_t, t, 0.5),
        "cross_entropy": (logits, x_1, x_t, t),
        "generalized_kl": (logits, x_1, x_t, t),
        "sample": (model, x_0, times, 3),
    }
    return named[method]


def with_argument(case: Case, method: str, arguments: tuple[Any, ...], name: str, value: Any) -> tuple[Any, ...]:
    """The arguments with another value for one of them.

    >>> with_argument(Case(2, 1, "linear", "uniform"), "kappa", (1,), "t", 2)
    (2,)
    """
    return tuple(value if n == name else a for n, a in zip(METHODS[method], arguments, strict=True))


def _rows(case: Case, x_t: Table, rng: np.random.Generator) -> Table:
    """PMFs over the data, all entries positive but where a mask path knows the token."""
    weights = rng.integers(1, 5, size=(*x_t.shape, case.vocab_size)).astype(np.float64)
    weights[..., case.data_size :] = 0.0
    probs = weights / weights.sum(axis=-1, keepdims=True)
    if case.source == "mask":
        hidden = (x_t == case.vocab_size - 1)[..., None]
        probs = np.where(hidden, probs, np.eye(case.vocab_size)[x_t])
    return np.asarray(probs)


class Wrong(NamedTuple):
    """A call that must raise: a method with arguments of which one is wrong, and in which way."""

    case: Case
    method: str
    arguments: tuple[Any, ...]
    what: str


def wrong_times() -> list[Wrong]:
    """A time below 0, above 1 or NaN, in the last row or in the first.

    >>> wrong_times()[0].what
    't = 1.001 in the last row'
    """
    found = []
    for ask in asks(_CASES, (3,)):
        name = "times" if ask.method == "sample" else "t"
        if name not in METHODS[ask.method]:
            continue
        good = dict(zip(METHODS[ask.method], ask.arguments, strict=True))[name]
        for value, place in ((1.001, -1), (-0.001, 0), (np.nan, -1), (np.nan, 0), (1.5, 0), (-0.5, -1)):
            if name == "times" and (value > 0) != (place == -1) and value == value:
                continue  # times stay increasing, so that only their range is wrong
            bad = good.copy()
            bad[place] = value
            arguments = with_argument(*ask[:2], ask.arguments, name, bad)
            found.append(Wrong(ask.case, ask.method, arguments, f"{name} = {value:g} in {_place(place)}"))
    return found


def wrong_tokens() -> list[Wrong]:
    """A token of -1, of vocab_size, or far beyond.

    >>> wrong_tokens()[0].what
    'the token -1 in x_0, the last row'
    """
    found = []
    for ask in asks(_CASES, (3,)):
        for name in ("x_0", "x_1", "x_t"):
            if name not in METHODS[ask.method]:
                continue
            good = dict(zip(METHODS[ask.method], ask.arguments, strict=True))[name]
            for value, place in ((-1, -1), (ask.case.vocab_size, -1), (ask.case.vocab_size + 100, 0)):
                bad = good.copy()
                bad[place, place] = value
                arguments = with_argument(*ask[:2], ask.arguments, name, bad)
                found.append(Wrong(ask.case, ask.method, arguments, f"the token {value} in {name}, {_place(place)}"))
    return found


def wrong_probabilities() -> list[Wrong]:
    """A row whose sum is off by 0.01 or more, or with an entry below -0.01; also from the model of `sample`.

    >>> wrong_probabilities()[0].what
    'a row of sum 1.012 in probs_1, the last row'
    """
    found = []
    for ask in asks(_CASES, (3,), methods=("velocity", "corrector_velocity", "sample")):
        size = ask.case.data_size
        for what, change in (
            ("a row of sum 1.012", [0.012]),
            ("a row of sum 0.9", [-0.1]),
            ("a row of sum 2", [1.0]),
            ("an entry of -0.02", None),
        ):
            free = np.full(size, 1 / size)
            if change:
                free[-1] += change[0]
            else:
                free[0], free[-1] = -0.02, free[-1] + free[0] + 0.02
            row = np.concatenate([free, np.zeros(ask.case.vocab_size - size)])
            if ask.method == "sample":
                model = Constant(ask.case, tuple(row.tolist()))
                arguments: tuple[Any, ...] = with_argument(*ask[:2], ask.arguments, "model", model)
                found.append(Wrong(ask.case, ask.method, arguments, f"{what} from the model"))
                continue
            for place in (-1, 0):
                probs = ask.arguments[0].copy()
                x_t = ask.arguments[1].copy()
                probs[place, place] = row
                x_t[place, place] = ask.case.vocab_size - 1  # a mask path knows its revealed tokens
                arguments = (probs, x_t, *ask.arguments[2:])
                found.append(Wrong(ask.case, ask.method, arguments, f"{what} in probs_1, {_place(place)}"))
    return found


def wrong_shapes() -> list[Wrong]:
    """An array of another length, or of one row for all, or without an axis, beside the others.

    >>> wrong_shapes()[0].what
    'x_0 of shape (2, 2) for (3, 2)'
    """
    found = []
    for ask in asks(_CASES, (3,)):
        named = dict(zip(METHODS[ask.method], ask.arguments, strict=True))
        others = [name for name in named if name in ("x_0", "x_1", "x_t", "probs_1", "logits")]
        if ask.method == "sample" or not others:
            continue  # nothing beside which a shape would be wrong
        for name, good in named.items():
            if not isinstance(good, np.ndarray):
                continue
            shapes = [good[:2], good[:1]]
            if name == "t":
                shapes += [good[:, None], np.append(good, 0.5)]
            elif name in ("probs_1", "logits"):
                shapes += [good[:, :1], good[..., :-1], good[..., 0]]
            else:
                shapes += [good[:, :1], good[:, 0], np.concatenate([good, good[:, :1]], axis=1)]
            for bad in shapes:
                arguments = with_argument(*ask[:2], ask.arguments, name, bad)
                what = f"{name} of shape {bad.shape} for {good.shape}"
                found.append(Wrong(ask.case, ask.method, arguments, what))
    return found


_CASES = each_case((3, 2))  # all kinds: an implementation may cover one alone


def _place(place: int) -> str:
    return "the first row" if place == 0 else "the last row"
