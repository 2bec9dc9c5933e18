"""Laws of sampled paths: both ends exactly, and between them the joint law of all tokens, row by row."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from ..cases import SCHEDULES, Case
from ..probe import Broken
from ..statistics import equality_test
from .law import INNER, Law, Table, Trial, each_case, tokens_of

__all__ = ["LAWS", "Batch", "Pairs"]

_GAT = "Gat et al. 2024, section 3"


class Batch(NamedTuple):
    """A batch of pairs of a case, drawn from a number, at times that are all ends."""

    case: Case
    rows: int
    content: int

    def arrays(self) -> tuple[Table, Table, Table]:
        """x_0, x_1 int[rows, N] and t float[rows], 0 and 1 in turn."""
        rng, case = np.random.default_rng(self.content), self.case
        x_1 = tokens_of(case, rng, self.rows)
        x_0 = np.full_like(x_1, case.vocab_size - 1) if case.source == "mask" else tokens_of(case, rng, self.rows)
        return x_0, x_1, (np.arange(self.rows) % 2).astype(np.float64)


class Pairs(NamedTuple):
    """Pairs (x_0, x_1) with a time each, that stand in turn in a batch."""

    case: Case
    x_0: tuple[tuple[int, ...], ...]
    x_1: tuple[tuple[int, ...], ...]
    t: tuple[float, ...]

    def arrays(self, rows: int) -> tuple[Table, Table, Table]:
        """x_0, x_1 int[rows, N] and t float[rows], the pairs in turn; a few rows more where they do not divide."""
        repeat = -(-rows // len(self.t))
        x_0, x_1, t = np.array(self.x_0), np.array(self.x_1), np.array(self.t)
        return np.tile(x_0, (repeat, 1)), np.tile(x_1, (repeat, 1)), np.tile(t, repeat)


def _batches() -> list[Batch]:
    return [Batch(case, rows, 7) for case in each_case((2, 1), (2, 2), (3, 3), (5, 2)) for rows in (1, 2, 3, 6)]


def _pairs() -> list[Pairs]:
    one = [Pairs(c, ((c.vocab_size - 1,),), ((0,),), (0.5,)) for c in each_case((2, 1))]
    more = []
    for case in each_case((2, 2), (3, 3)):
        last, length = case.vocab_size - 1, case.length
        for times in ((0.25,), (0.75, 0.125), (0.5, 0.875, 0.3125)):
            x_1 = tuple(tuple((i + k) % case.data_size for i in range(length)) for k in range(len(times)))
            x_0 = tuple((last,) * length if case.source == "mask" else tuple(last - v for v in row) for row in x_1)
            more.append(Pairs(case, x_0, x_1, times))
    return one + more


def _draw_pairs() -> Any:
    def pairs(case: Case, shift: int, t: float) -> Pairs:
        x_1 = tuple((i + shift) % case.data_size for i in range(case.length))
        last = case.vocab_size - 1
        x_0 = (last,) * case.length if case.source == "mask" else tuple(last - v for v in x_1)
        return Pairs(case, (x_0,), (x_1,), (t,))

    cases = st.sampled_from(each_case((2, 1), (2, 2), (3, 3)))
    return st.builds(pairs, cases, st.integers(0, 2), st.sampled_from(INNER))


def _ends(trial: Trial, at: Batch) -> None:
    x_0, x_1, t = at.arrays()
    want = np.where(t[:, None] == 0, x_0, x_1)
    for times, expected in ((t, want), (1 - t, np.where(t[:, None] == 1, x_0, x_1))):
        got = trial.call(at.case, "sample_path", x_0, x_1, times, 1)
        if not np.array_equal(got, expected):
            where = "x_0 at t = 0 and x_1 at t = 1"
            raise Broken(f"a row of the batch is not {where}", expected=expected, got=got, show="print(x_t)")


def _outcomes(x_t: Table, x_0: Table, x_1: Table) -> Table:
    """For each row which tokens are x_1's, as a number; -1 where a token is neither's."""
    at_1 = x_t == x_1
    codes = (at_1 & (x_0 != x_1)) @ (2 ** np.arange(x_t.shape[1])[::-1])
    return np.where(np.all(at_1 | (x_t == x_0), axis=1), codes, -1)


def _joint(case: Case, x_0: Table, x_1: Table, t: float) -> Table:
    """The law of `_outcomes` of one pair."""
    kappa = float(SCHEDULES[case.schedule].kappa(np.float64(t)))
    law = np.ones(1)
    for a, b in zip(x_0, x_1, strict=True):
        law = np.kron(law, np.array([1 - kappa, kappa]) if a != b else np.array([1.0, 0.0]))
    return law


def _law(trial: Trial, at: Pairs) -> None:
    x_0, x_1, t = at.arrays(trial.draws)
    seed, kinds = trial.seed_of(0), len(at.t)
    x_t = trial.call(at.case, "sample_path", x_0, x_1, t, seed)
    outcomes = _outcomes(x_t, x_0, x_1)
    if np.any(outcomes < 0):
        row = int(np.argmax(outcomes < 0))
        message = f"a token of x_t is neither that of x_0 {x_0[row].tolist()} nor that of x_1 {x_1[row].tolist()}"
        raise Broken(message, expected="one of both", got=x_t[row].tolist(), show="print(x_t)")
    for k in range(kinds):
        law = _joint(at.case, x_0[k], x_1[k], at.t[k])
        counts = np.bincount(outcomes[k::kinds], minlength=len(law))
        if trial.rejects(equality_test(counts, law), kinds):
            message = (
                f"the joint law of which tokens are x_1's, for x_0 = {x_0[k].tolist()}, x_1 = {x_1[k].tolist()}, "
                f"t = {at.t[k]:g}, over {counts.sum()} draws"
            )
            show = f"hits = (x_t == np.array({x_1[k].tolist()}))[{k}::{kinds}]\n"
            show += "print(np.unique(hits, axis=0, return_counts=True))"
            names = [f"{code:0{x_1.shape[1]}b}" for code in range(len(law))]
            picture = ("law", names, law.tolist(), (counts / counts.sum()).tolist())
            raise Broken(message, expected=law, got=counts / counts.sum(), show=show, picture=picture)


def _independence(trial: Trial, at: Pairs) -> None:
    """Of a row and the next one, and of a row and the next one of the next seed."""
    x_0, x_1, t = at.arrays(trial.draws)
    law = _joint(at.case, x_0[0], x_1[0], at.t[0])
    size = len(law)
    draws = [trial.call(at.case, "sample_path", x_0, x_1, t, trial.seed_of(k)) for k in (0, 1)]
    rows, other = (np.clip(_outcomes(x_t, x_0, x_1), 0, None) for x_t in draws)
    both = np.kron(law, law)
    for first, second, what, show in (
        (rows[0::2], rows[1::2], "a row and the next one of a batch", "x_t[0::2] == x_t[1::2]"),
        (rows[:-1], other[1:], "a row and the next one with the next seed", "x_t[:-1] == x_t_2[1:]"),
        (rows, other, "a row and the same one with the next seed", "x_t == x_t_2"),
    ):
        evidence = equality_test(np.bincount(first * size + second, minlength=size**2), both)
        if trial.rejects(evidence, 3):
            message = f"{what} are not independent: they have the same outcome too often or too seldom"
            show = f"print(({show}).all(axis=1).mean())"
            raise Broken(message, expected=float(np.sum(law**2)), got=float(np.mean(first == second)), show=show)


LAWS = (
    Law(
        "path-ends",
        "x_t is exactly x_0 at t = 0 and exactly x_1 at t = 1, for every row at its own time",
        "p_0(.|x_0, x_1) = delta_{x_0}, p_1(.|x_0, x_1) = delta_{x_1}",
        f"{_GAT} (boundary conditions)",
        ("sample_path",),
        _batches,
        _ends,
        lambda: st.builds(
            Batch,
            st.sampled_from(each_case((2, 1), (2, 2), (3, 3))),
            st.integers(1, 4),
            st.integers(0, 50),
        ),
    ),
    Law(
        "path-law",
        "each token of x_t is x_1's with probability kappa_t, else x_0's, independently of the others",
        "p_t(x|x_0, x_1) = prod_i ((1 - kappa_t) delta_{x_0^i} + kappa_t delta_{x_1^i})(x^i)",
        _GAT,
        ("sample_path",),
        _pairs,
        _law,
        _draw_pairs,
        draws=32768,
    ),
    Law(
        "path-independence",
        "the rows of a batch are independent draws, and so are batches of different seeds",
        "p(x_t, y_t) = p_t(x_t) p_t(y_t)",
        f"{_GAT} (independent samples)",
        ("sample_path",),
        lambda: [pairs for pairs in _pairs() if len(pairs.t) == 1],
        _independence,
        _draw_pairs,
        draws=32768,
    ),
)
