"""The models that samplers are tried with: exact posteriors of a data law, and posteriors that depend on no state.

Each is a function of (x_t, t), int[rows, N], float[rows] -> float64[rows, N, V], as the contract of adapters says, and
prints as Python that builds it again.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from . import cases, oracle
from .cases import Case

__all__ = ["Constant", "Posterior", "Starts"]

Table: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Posterior:
    """p(x_1^i | x_t) of data of law q, a probability for each of `cases.data_states`.

    `blur` mixes in the uniform law of the data where the token is free: then the model is wrong, by that much.

    >>> Posterior(Case(3, 1, "linear", "mask"), (0.25, 0.75))(np.array([[2]]), np.array([0.5]))
    array([[[0.25, 0.75, 0.  ]]])
    """

    case: Case
    q: tuple[float, ...]
    blur: float = 0.0

    def __call__(self, x_t: Table, t: Table) -> Table:
        case, times = self.case, np.unique(t)
        x = oracle.states(case.vocab_size, case.length)
        place = case.vocab_size ** np.arange(case.length)[::-1]
        if len(x) * len(times) >= len(x_t):
            return self._rows(x_t, t)
        tables = np.stack([self._rows(x, np.full(len(x), time)) for time in times])
        return np.asarray(tables[np.searchsorted(times, t), x_t @ place])

    def _rows(self, x_t: Table, t: Table) -> Table:
        probs = cases.posterior(self.case, np.asarray(self.q), x_t, t)
        if not self.blur:
            return probs
        flat = np.where(np.arange(self.case.vocab_size) < self.case.data_size, 1 / self.case.data_size, 0.0)
        mixed = (1 - self.blur) * probs + self.blur * flat
        return np.where((x_t < self.case.data_size)[..., None], probs, mixed) if self.case.source == "mask" else mixed


@dataclass(frozen=True)
class Constant:
    """The same PMF for every token, whatever the state and the time; a mask path knows its revealed tokens.

    >>> Constant(Case(3, 2, "linear", "mask"), (0.25, 0.75, 0.0))(np.array([[2, 0]]), np.array([0.5]))
    array([[[0.25, 0.75, 0.  ],
            [1.  , 0.  , 0.  ]]])
    """

    case: Case
    probs: tuple[float, ...]

    def __call__(self, x_t: Table, t: Table) -> Table:
        probs = np.broadcast_to(np.asarray(self.probs), (*x_t.shape, self.case.vocab_size))
        if self.case.source == "uniform":
            return probs.copy()
        return np.where((x_t == self.case.vocab_size - 1)[..., None], probs, np.eye(self.case.vocab_size)[x_t])


@dataclass(frozen=True)
class Starts:
    """Rows drawn from p_t of data of law q, by a seed: where a walk that starts at t begins.

    >>> Starts(Case(3, 1, "linear", "mask"), (0.25, 0.75), t=0.0, rows=2, seed=0)()
    array([[2],
           [2]])
    """

    case: Case
    q: tuple[float, ...]
    t: float
    rows: int
    seed: int

    def __call__(self) -> Table:
        p = cases.marginal(self.case, np.asarray(self.q), self.t)
        # a generator of its own: an implementation may seed NumPy's usual one with the same number
        rng = np.random.Generator(np.random.Philox(key=[self.seed, 2**63]))
        which = rng.choice(len(p), size=self.rows, p=p / p.sum())
        return oracle.states(self.case.vocab_size, self.case.length)[which]
