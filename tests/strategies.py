"""What the tests of the discrete core share: random finite problems with their exact twin, backends, a test of laws.

A `Case` is a mixture path of the library beside the same problem in the tables of the oracle: m = 2, 3 or 4 components,
a schedule for each token or one for all, a correlated or an independent coupling, prompted or not.
"""

from fractions import Fraction
from functools import partial
from math import comb, log
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.special import rel_entr

from dfm_ref.backends import Backend, BackendError, load
from dfm_ref.paths import X0, X1, Fixed, Mixture, Table
from dfm_ref.schedules import Bernstein, Convex, Cosine, CubicHermite, Linear, PerToken, Polynomial, Schedule
from dfm_ref.verify import oracle, strategies

BACKENDS = ("numpy", "strict", "torch", "jax", "cupy")
MONOTONE = (
    Linear(),
    Polynomial(2.0),
    Polynomial(3.0),
    Cosine(),
    CubicHermite(0.0, 0.0),
    CubicHermite(1.0, 1.0),
    CubicHermite(0.5, 2.0),
    CubicHermite(3.0, 3.0),
)
SWITCHING = Convex(
    (
        Bernstein((1.0, 0.6, 0.3, 0.1, 0.0, 0.0)),  # (1 - t)^2
        Bernstein((0.0, 0.0, 0.1, 0.0, 0.0, 0.0)),  # t^2 (1 - t)^3
        Bernstein((0.0, 0.4, 0.6, 0.9, 1.0, 1.0)),
    )
)
"""Three components of which the first decays fastest until t = 2/3, and the second from there on."""

RETURNING = Convex((Bernstein((1.0, 0.0, 0.0, 1.0, 1.0, 0.0)), Bernstein((0.0, 1.0, 1.0, 0.0, 0.0, 1.0))))
"""Two components of which the second falls for a while: there tokens are redrawn from the first."""


def backend(name: str) -> Backend:
    """The backend of a name, or the test is skipped where its library is missing."""
    try:
        return load(name)
    except BackendError as error:
        pytest.skip(str(error))


class Case(NamedTuple):
    """A path of the library, its tables in the oracle, and its schedule as control points [n+1, N, m]."""

    path: Mixture
    problem: oracle.Problem
    control: Any
    vocab_size: int
    length: int

    def kappa(self, t: float) -> Any:
        """float64[N, m], summed in fractions."""
        return _bernstein(self.control, t).astype(np.float64)

    def kappa_dot(self, t: float) -> Any:
        n = len(self.control) - 1
        return (n * _bernstein(self.control[1:] - self.control[:-1], t)).astype(np.float64)

    def states(self) -> Any:
        """Every state, a batch int64[S, N]."""
        return oracle.states(self.vocab_size, self.length)

    def posteriors(self, t: float) -> tuple[Any, ...]:
        """w_hat^j of every state, m arrays float64[S, N, V]."""
        return tuple(np.swapaxes(oracle.posteriors(self.problem, self.kappa(t)).w_hat, 1, 2))

    def velocity(self, t: float) -> Any:
        """The marginal velocity of every state, float64[S, N, V]."""
        a, b, _ = oracle.coefficients(self.kappa(t), self.kappa_dot(t))
        return np.swapaxes(oracle.velocity(a, b, oracle.posteriors(self.problem, self.kappa(t)).w_hat), 0, 1)


def _bernstein(control: Any, t: float) -> Any:
    n, t = len(control) - 1, Fraction(t)
    return sum(comb(n, k) * t**k * (1 - t) ** (n - k) * control[k] for k in range(n + 1))


pmfs = partial(strategies.pmfs, exact=True, extremes=False)
"""Rational PMFs, with zeros."""


@st.composite
def controls(draw: st.DrawFn, length: int, m: int) -> Any:
    """Cubic schedules by control points, [4, N, m]: one for all tokens or one each, from X0 alone to X1 alone."""
    ends = oracle.exact(oracle.delta(np.array([[0] * length, [m - 1] * length]), m))
    shared = draw(st.booleans())
    middle = [np.stack([draw(pmfs(m)) for _ in range(1 if shared else length)]) for _ in range(2)]
    return np.stack([ends[0], *(np.broadcast_to(row, (length, m)) for row in middle), ends[1]])


def schedule(control: Any) -> Schedule:
    """The library's schedule of control points [n+1, N, m]: per token where the tokens differ."""
    columns = [control[:, i] for i in range(control.shape[1])]
    tokens = tuple(Convex(tuple(Bernstein(tuple(map(float, k))) for k in column.T)) for column in columns)
    return tokens[0] if len(set(tokens)) == 1 else PerToken(tokens)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Mixture paths of m = 2, 3, 4 components over one or two tokens."""
    vocab_size, length, m = draw(st.sampled_from([(2, 1, 2), (3, 1, 4), (2, 2, 3), (2, 2, 4), (3, 2, 2), (3, 2, 3)]))
    tables = [oracle.at_x_0(vocab_size), oracle.at_x_1(vocab_size)]
    components: list[Any] = [X0(), X1()]
    for _ in range(m - 2):
        count = draw(st.sampled_from([1, vocab_size**2]))
        rows = np.stack([draw(pmfs(vocab_size)) for _ in range(count)]).astype(np.float64)
        table = np.broadcast_to(rows, (vocab_size**2, vocab_size)).reshape((vocab_size,) * 3)
        tables.insert(-1, table)
        components.insert(-1, Fixed(_nested(rows[0])) if count == 1 else Table(_nested(table)))
    pi = draw(strategies.couplings(vocab_size, length))
    problem = oracle.enumerate_pairs(pi, np.stack(tables).astype(np.float64))
    control = draw(controls(length, m))
    return Case(Mixture(schedule(control), tuple(components)), problem, control, vocab_size, length)


def _nested(table: Any) -> Any:
    return tuple(map(_nested, table)) if table.ndim > 1 else tuple(table.tolist())


inner_times = st.sampled_from([k / 16 for k in range(1, 16)] + [2.0**-30, 0.3, 1 - 2.0**-20])
"""Times in (0, 1), some near its ends."""

intervals = st.tuples(st.just(0.0) | inner_times, inner_times | st.just(1.0)).filter(lambda ts: ts[0] < ts[1])
"""0 <= t < s <= 1."""


def index(x: Any, vocab_size: int) -> Any:
    """The index of each state of int[..., N] in the order of `oracle.states`."""
    return np.asarray(x) @ vocab_size ** np.arange(np.shape(x)[-1])[::-1]


def follows(draws: Any, law: Any, *, alpha: float = 1e-6) -> bool:
    """Whether n independent draws, int[n], agree with a PMF, float64[S]; a right law fails with probability <= alpha.

    Chernoff: P(n KL(share | p) >= x) <= 2 exp(-x) for each outcome; all S of them are held to x = log(2 S / alpha). A
    probability that is off by 3 sqrt(2 x p (1 - p) / n) is seen almost surely: 0.014 for n = 20000, p = 1/10, S = 9.
    """
    law = np.clip(np.asarray(law, dtype=np.float64), 0.0, 1.0)
    share = np.bincount(draws, minlength=len(law)) / len(draws)
    divergence = rel_entr(share, law) + rel_entr(1 - share, 1 - law)
    return bool(np.all(len(draws) * divergence <= log(2 * len(law) / alpha)))


def logits(probs: Any) -> Any:
    """log p, with -inf where p = 0."""
    with np.errstate(divide="ignore"):
        return np.log(probs)
