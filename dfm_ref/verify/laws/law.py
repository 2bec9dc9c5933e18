"""What a law is: data that name it, examples to try it on, and a check that raises `Broken` where it does not hold."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from hypothesis import strategies as st

from .. import cases, oracle, strategies
from ..cases import SCHEDULES, Case
from ..models import Posterior
from ..probe import Probe
from ..statistics import Evidence

__all__ = [
    "INNER",
    "TIMES",
    "Law",
    "Point",
    "Trial",
    "draw_points",
    "each_case",
    "points",
    "ramp",
    "slack",
    "tokens_of",
]

Table: TypeAlias = np.ndarray[Any, Any]


class Law(NamedTuple):
    """A law: its name and formula, the methods that it needs, examples from small to large, and how it is checked.

    A law of samples says how many draws its last look takes; `check` is then called once a look and an example.
    """

    id: str
    says: str
    """What must hold, in one sentence."""
    formula: str
    source: str
    needs: tuple[str, ...]
    """The methods that it asks; of a law of conduct, each is tried that is there."""
    examples: Callable[[], Iterable[Any]]
    check: Callable[["Trial", Any], None]
    more: Callable[[], Any] | None = None
    """A strategy of hypothesis for further examples, which also finds the smallest one that fails."""
    draws: int = 0


class Trial:
    """One run of a law's check: the probe, a seed, and of a law of samples the look that it may spend.

    >>> trial = Trial(Probe(lambda case: None), seed=0)
    >>> trial.seed_of(1) - trial.seed_of(0)
    1
    """

    def __init__(self, probe: Probe, *, seed: int, draws: int = 0, alpha: float = 1e-9) -> None:
        self.probe, self.seed, self.draws, self.alpha = probe, seed, draws, alpha
        self.call = probe.call
        self.tests: list[tuple[Evidence, float]] = []
        """What was tested, and at which rate."""

    def seed_of(self, k: int) -> int:
        """The k-th seed to hand to an adapter, in [0, 2**31)."""
        return int(np.random.default_rng([self.seed, self.draws]).integers(2**30)) + k

    def unseen(self, case: Any, method: str, *arguments: Any) -> Any:
        """The answer of a call that a finding does not repeat, unless it is what is wrong."""
        answer = self.call(case, method, *arguments)
        self.probe.calls.pop()
        return answer

    def rejects(self, evidence: Evidence, of: int) -> bool:
        """Whether one of `of` tests of this look and example is rejected."""
        self.tests.append((evidence, self.alpha / of))
        return evidence.rejects(self.alpha / of)


class Point(NamedTuple):
    """A case with a law of its data and a time: what exact posteriors need."""

    case: Case
    q: tuple[float, ...]
    t: float

    @property
    def model(self) -> Posterior:
        """The exact posterior."""
        return Posterior(self.case, self.q)

    def states(self) -> Table:
        """The states of positive probability, int[B, N]."""
        x = oracle.states(self.case.vocab_size, self.case.length)
        return x[cases.marginal(self.case, np.asarray(self.q), self.t) > 0]


TIMES = (0.5, 0.25, 0.75, 0.0, 0.125, 0.875, 0.3125, 0.96875, 2.0**-10, 1 - 2.0**-10)
"""Times in [0, 1), simple ones first; all are exact in float32."""

INNER = tuple(t for t in TIMES if 0.01 < t < 0.97)
"""Those where a corrector is asked."""


def ramp(case: Case) -> tuple[float, ...]:
    """A law of the data with all sequences in it, correlated where there is more than one token.

    >>> ramp(Case(2, 1, "linear", "uniform"))
    (0.333..., 0.666...)
    """
    weights = 1.0 + np.arange(case.data_size**case.length) ** 2 % 7
    return tuple((weights / weights.sum()).tolist())


def each_case(*sizes: tuple[int, int]) -> list[Case]:
    """Every schedule and source for each size (values of data, length), small sizes first.

    >>> len(each_case((2, 1), (2, 2)))
    16
    """
    return [
        Case(values + (source == "mask"), length, schedule, source)
        for values, length in sizes
        for schedule in SCHEDULES
        for source in ("uniform", "mask")
    ]


def points(*, times: Iterable[float] = TIMES) -> list[Point]:
    """Every schedule and source at every time, on one and two tokens.

    >>> points()[0]
    Point(case=Case(vocab_size=2, length=1, schedule='linear', source='uniform'), q=(0.333..., 0.666...), t=0.5)
    """
    return [Point(case, ramp(case), t) for case in each_case((2, 1), (2, 2), (3, 2)) for t in times]


@st.composite
def draw_points(draw: st.DrawFn, *, times: tuple[float, ...] = TIMES) -> Point:
    """Cases with a law of the data, zeros included, and a time.

    >>> strategies.smallest(draw_points(), where=lambda point: point.q[0] == 0)
    Point(case=Case(vocab_size=3, length=1, schedule='linear', source='mask'), q=(0.0, 1.0), t=0.5)
    """
    case = draw(strategies.cases(max_vocab_size=3, max_length=2))
    size = case.data_size**case.length
    weights = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size).filter(any))
    q = tuple((np.asarray(weights) / sum(weights)).tolist())
    return Point(case, q, draw(st.sampled_from(times)))


def tokens_of(case: Case, rng: np.random.Generator, rows: int) -> Table:
    """Random data, int64[rows, N].

    >>> tokens_of(Case(3, 2, "linear", "mask"), np.random.default_rng(0), 2).shape
    (2, 2)
    """
    return rng.integers(0, case.data_size, size=(rows, case.length))


def slack(dtype: Any, case: Case, t: Any) -> Table:
    """What a rate may be off by relative to its size: rounding, and what a difference 1 - kappa loses near t = 1.

    >>> float(slack(np.float64, Case(2, 1, "linear", "uniform"), 0.5)) < 1e-12
    True
    """
    rest = SCHEDULES[case.schedule].one_minus_kappa(np.asarray(t, dtype=np.float64))
    return np.asarray(64 * float(np.finfo(dtype).eps) * (1 + 1 / rest))
