"""What an implementation is asked about: a `Case`, and the exact numbers of its path, in float64 and by NumPy alone.

A case is the mixture path between a source and data, kappa_t of the data, with an independent coupling. Data are a law
q over all sequences of `data_size` values; a mask source has one value more, the mask, which is the last one.
Source: Gat et al. 2024, section 3.
"""

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from . import oracle

__all__ = [
    "SCHEDULES",
    "SOURCES",
    "Case",
    "Schedule",
    "data_states",
    "marginal",
    "marginal_dot",
    "posterior",
]

Table: TypeAlias = np.ndarray[Any, Any]


class Case(NamedTuple):
    """The sizes, the schedule and the source that an implementation is built for: `build(case)`.

    `vocab_size` counts the mask, the last token, where `source` is "mask". Schedules: "linear" t, "quadratic" t^2,
    "cubic" t^3, "cosine" sin(pi t / 2)^2. Sources: "mask", "uniform".

    >>> Case(vocab_size=3, length=2, schedule="linear", source="mask").data_size
    2
    """

    vocab_size: int
    length: int
    schedule: str
    source: str

    @property
    def data_size(self) -> int:
        """How many values a token of the data may have."""
        return self.vocab_size - (self.source == "mask")

    @property
    def source_pmf(self) -> Table:
        """p(x_0^i), float64[V], the same for every token."""
        size = self.vocab_size
        return np.eye(size)[-1] if self.source == "mask" else np.full(size, 1 / size)


class Schedule(NamedTuple):
    """kappa_t, its derivative, 1 - kappa_t with all its digits: float64[...] -> float64[...]."""

    kappa: Callable[[Any], Any]
    kappa_dot: Callable[[Any], Any]
    one_minus_kappa: Callable[[Any], Any]


SCHEDULES = {
    "linear": Schedule(lambda t: 1.0 * t, lambda t: 1.0 + 0.0 * t, lambda t: 1.0 - t),
    "quadratic": Schedule(lambda t: t**2, lambda t: 2.0 * t, lambda t: (1 - t) * (1 + t)),
    "cubic": Schedule(lambda t: t**3, lambda t: 3.0 * t**2, lambda t: (1 - t) * (1 + t + t**2)),
    "cosine": Schedule(
        lambda t: np.sin(np.pi / 2 * t) ** 2,
        lambda t: np.pi * np.sin(np.pi / 2 * t) * np.sin(np.pi / 2 * (1 - t)),
        lambda t: np.sin(np.pi / 2 * (1 - t)) ** 2,
    ),
}
"""The four schedules of a case, by name."""

SOURCES = ("mask", "uniform")
"""The two sources of a case."""


def data_states(case: Case) -> Table:
    """Every sequence that data may be, int[D, N], the last token fastest; a law of the data is float[D] over them.

    >>> data_states(Case(3, 2, "linear", "mask")).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    return np.array(list(product(range(case.data_size), repeat=case.length)))


def marginal(case: Case, q: Table, t: float) -> Table:
    """p_t of data of law q, float[D]: the probability of each of all V**N states, float64[S].

    >>> marginal(Case(3, 1, "linear", "mask"), np.array([0.5, 0.5]), 0.5)
    array([0.25, 0.25, 0.5 ])
    """
    return np.asarray(q @ oracle.product(_given_x_1(case, t)))


def marginal_dot(case: Case, q: Table, t: float) -> Table:
    """The derivative of `marginal` in t, float64[S], by the product rule.

    >>> marginal_dot(Case(3, 1, "linear", "mask"), np.array([0.5, 0.5]), 0.5)
    array([ 0.5,  0.5, -1. ])
    """
    rate = SCHEDULES[case.schedule].kappa_dot(np.float64(t))
    toward = oracle.delta(data_states(case), case.vocab_size) - case.source_pmf
    return np.asarray(q @ oracle.product_dot(_given_x_1(case, t), rate * toward))


def posterior(case: Case, q: Table, x_t: Table, t: Table) -> Table:
    """p(x_1^i | x_t) for data of law q: int[B, N], float[B] -> float64[B, N, V]; 0 where x_t has probability 0.

    >>> posterior(Case(3, 2, "linear", "mask"), np.array([0.5, 0.0, 0.0, 0.5]), np.array([[0, 2]]), np.array([0.5]))
    array([[[1., 0., 0.],
            [1., 0., 0.]]])
    """
    schedule, x_1 = SCHEDULES[case.schedule], data_states(case)
    t = np.asarray(t, dtype=np.float64)[:, None, None]
    here = x_t[:, None, :] == x_1[None]
    source = case.source_pmf[x_t][:, None, :]
    joint = q * np.prod(schedule.one_minus_kappa(t) * source + schedule.kappa(t) * here, axis=-1)
    total = joint.sum(axis=-1, keepdims=True)
    weight = joint / np.where(total > 0, total, 1.0)
    return np.asarray(np.einsum("bd,dnv->bnv", weight, oracle.delta(x_1, case.vocab_size).astype(np.float64)))


def _given_x_1(case: Case, t: float) -> Table:
    """p_t(x^i | x_1), float64[D, N, V]."""
    schedule, time = SCHEDULES[case.schedule], np.float64(t)
    data = oracle.delta(data_states(case), case.vocab_size)
    return np.asarray(schedule.one_minus_kappa(time) * case.source_pmf + schedule.kappa(time) * data)
