"""Hypothesis strategies of the field: what a property of discrete flow matching is to hold for.

Every value is valid by construction, and the corners are drawn often: probabilities that are 0, rare or nearly tied,
times within 2^-24 of 1, paths of many components, tokens with schedules of their own. Each docstring shows the smallest
example, which a failing test shrinks to. Floats are float64 and tokens int64 in any Array API namespace `xp` (with JAX,
enable x64 first); `exact=True` gives fractions, the other kind of number of `dfm_ref.verify.oracle`. Needs hypothesis.

>>> smallest(problems(), where=lambda problem: problem.path.schedule != Linear()).path
Mixture(schedule=Polynomial(exponent=2.0), components=(X0(), X1()), mask=None)
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from math import comb, prod
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from hypothesis import Phase, find, settings
from hypothesis import strategies as st

from ..paths import X0, X1, Component, Fixed, Mixture, Table
from ..protocols import Array, Namespace
from ..schedules import (
    Bernstein,
    Convex,
    Cosine,
    CubicHermite,
    Linear,
    Monotone,
    PerToken,
    Polynomial,
    Schedule,
    Tabulated,
)
from ..sources import Marginal, Masked, Source, Uniform
from . import oracle
from .cases import SCHEDULES, Case

__all__ = [
    "PathProblem",
    "Posteriors",
    "cases",
    "couplings",
    "intervals",
    "logits",
    "monotone_schedules",
    "paths",
    "per_token_schedules",
    "pmfs",
    "posteriors",
    "problems",
    "rate_matrices",
    "schedules",
    "smallest",
    "sources",
    "time_grids",
    "times",
    "tokens",
]

T = TypeVar("T")
Numbers: TypeAlias = np.ndarray[Any, Any]

_COMPONENTS = (2, 3, 4)  # how many a path has unless told
_ONE = 1 << 40  # weights are integers, the quotients of which round once
_NEAR, _NEARER = 1 << 20, 1  # of one: 2^-20, which float32 still sees beside 1, and 2^-40, which it does not


# Times


def times(
    *, exclude_min: bool = False, exclude_max: bool = False, shape: tuple[int, ...] | None = None, xp: Namespace = np
) -> st.SearchStrategy[Any]:
    """Times in [0, 1], exact in float32: simple fractions, the ends, 2^-k and 1 - 2^-k, any k / 2^24.

    To 2^-30 and 1 - 2^-24, the float32 beside 1. A float, or float64 of a `shape`; without the ends that are excluded.
    Shrinks towards 1/2.

    >>> smallest(times()), smallest(times(exclude_max=True), where=lambda t: t > 0.999)
    (0.5, 0.9990234375)
    """
    ends = [0.0] * (not exclude_min) + [1.0] * (not exclude_max)
    ends *= 2  # one end alone would be no choice, and an example of fewer choices counts as simpler
    kinds = [st.sampled_from(_SIMPLE), *([st.sampled_from(ends)] if ends else []), st.sampled_from(_NEAR_THE_ENDS)]
    time = st.one_of(*kinds, st.integers(1, 2**24 - 1).map(lambda k: k / 2**24))
    if shape is None:
        return time
    return _lists(time, prod(shape)).map(lambda values: xp.asarray(np.reshape(np.asarray(values, np.float64), shape)))


_SIMPLE = [k / 16 for k in (8, 12, 4, 14, 2, 15, 1, 10, 6, 13, 3, 11, 5, 9, 7)]  # from the middle to the ends by turns
_NEAR_THE_ENDS = [t for k in range(5, 31) for t in ([2.0**-k, 1 - 2.0**-k] if k <= 24 else [2.0**-k])]


def intervals(*, exclude_min: bool = False, exclude_max: bool = False) -> st.SearchStrategy[tuple[float, float]]:
    """Two of `times`, t < s, for a step from t to s. Shrinks towards the widest: (0, 1), or 1/4 and 3/4 as its ends.

    >>> smallest(intervals()), smallest(intervals(exclude_max=True))
    ((0.0, 1.0), (0.0, 0.75))
    """
    widest = (0.25 if exclude_min else 0.0, 0.75 if exclude_max else 1.0)
    both = st.lists(times(exclude_min=exclude_min, exclude_max=exclude_max), min_size=2, max_size=2, unique=True)
    return st.just(widest) | both.map(lambda ts: (min(ts), max(ts)))


def time_grids(
    *, max_steps: int = 8, whole: bool = False, clustered: bool = True, near_ends: bool = True
) -> st.SearchStrategy[list[float]]:
    """Times that increase strictly, two or more, for a sampler: even (of any number of steps) or scattered over [0, 1].

    Also `clustered`, with steps of 2^-20, and `near_ends`, at 2^-k and 1 - 2^-k; without these, scattered times lie in
    [1/64, 63/64]. The first time is 0 and the last 1 where the grid is to be `whole`, else often. Shrinks towards
    [0, 1] and even grids. ValueError unless max_steps >= 1.

    >>> smallest(time_grids(), where=lambda grid: len(grid) == 5)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    _at_least(1, max_steps=max_steps)
    return _time_grids(max_steps - 1, whole, clustered, near_ends)


@st.composite
def _time_grids(draw: st.DrawFn, most: int, whole: bool, clustered: bool, near_ends: bool) -> list[float]:
    kinds = ["even", "scattered"] + ["clustered"] * clustered + ["near the ends"] * near_ends
    count, kind = draw(st.integers(0, most)), draw(st.sampled_from(kinds))
    if kind == "even":
        return [k / (count + 1) for k in range(count + 2)]
    if kind == "clustered":
        start = draw(st.sampled_from(_SIMPLE))
        grid = [start + k * 2.0**-20 for k in range(count)]
    else:
        inner = times(exclude_min=True, exclude_max=True) if near_ends else st.sampled_from(_SIMPLE) | _AWAY
        one = inner if kind == "scattered" else st.sampled_from(_NEAR_THE_ENDS)
        count = min(count, len(_NEAR_THE_ENDS))
        grid = sorted(draw(st.lists(one, min_size=count, max_size=count, unique=True)))
    first, last = (True, True) if whole else (not draw(st.booleans()), not draw(st.booleans()))
    few = count + first + last < 2
    return [0.0] * (first or few) + grid + [1.0] * (last or few)


_AWAY = st.integers(2**18, 2**24 - 2**18).map(lambda k: k / 2**24)


# Probabilities and rates


def pmfs(
    size: int, *, zeros: bool = True, extremes: bool = True, exact: bool = False, xp: Namespace = np
) -> st.SearchStrategy[Any]:
    """Probabilities, float64[size], that sum to 1 to rounding: ratios of small integers, with `zeros` and `extremes`.

    Extremes are near-ties, off by 2^-20 or 2^-40 of the entry, and rare entries as small. Point masses occur where
    zeros may. Exact: fractions, object[size], that sum to 1 with ==. Shrinks towards the uniform PMF. ValueError
    unless size >= 1; TypeError for fractions in a namespace other than NumPy.

    >>> smallest(pmfs(2)), smallest(pmfs(3, exact=True), where=lambda p: p[0] > p[1]).astype(str)
    (array([0.5, 0.5]), array(['1/2', '1/4', '1/4'], dtype='<U3'))
    """
    _at_least(1, size=size)
    return _arrays(_rows(size, zeros=zeros, extremes=extremes), exact, xp)


@lru_cache
def _rows(size: int, *, zeros: bool = True, extremes: bool = True) -> st.SearchStrategy[Numbers]:
    """PMFs as fractions."""
    weights = [_ONE, 2 * _ONE, 3 * _ONE] + [0] * zeros
    if extremes:
        weights += [_ONE + _NEAR, _ONE + _NEARER, _NEAR, _NEARER]

    def normalised(ws: list[int]) -> Numbers:
        total = sum(ws)
        return _objects([Fraction(w, total) if total else Fraction(1, size) for w in ws])

    return _shown(_lists(st.sampled_from(weights), size), normalised)


def rate_matrices(
    size: int, *, extremes: bool = True, exact: bool = False, xp: Namespace = np
) -> st.SearchStrategy[Any]:
    """Rates R[z, x] from z to x, float64[size, size]: off-diagonals >= 0, some 0, and rows that sum to 0 exactly.

    So R[x_t] is a velocity u[..., N, V] of tokens x_t, and the transpose is a generator: dp/dt = R.T @ p keeps sum(p).
    Extremes are rates of 2^-20 and 2^20. Exact: fractions. Shrinks towards all rates 1. Errors as `pmfs`.
    Source: Gat et al. 2024, section 2 (the rate conditions).

    >>> smallest(rate_matrices(2))
    array([[-1.,  1.],
           [ 1., -1.]])
    """
    _at_least(1, size=size)
    rates = [Fraction(1), Fraction(0), Fraction(2), Fraction(3), Fraction(1, 2)]
    if extremes:
        rates += [Fraction(1, 2**20), Fraction(2**20)]

    def closed(values: list[Fraction]) -> Numbers:
        R = np.full((size, size), Fraction(0))
        R[~np.eye(size, dtype=bool)] = values
        R[np.diag_indices(size)] = -R.sum(axis=1)
        return R

    return _arrays(_shown(_lists(st.sampled_from(rates), size * (size - 1)), closed), exact, xp)


def logits(
    vocab_size: int, shape: tuple[int, ...], *, impossible: bool = True, magnitude: float = 1e4, xp: Namespace = np
) -> st.SearchStrategy[Any]:
    """Logits, float64[*shape, vocab_size], exact in float32: small, nearly tied, of any size up to the magnitude.

    Where tokens may be `impossible`, some are -inf, never all of a row. Shrinks towards 0, the uniform PMF. ValueError
    unless vocab_size >= 1.

    >>> smallest(logits(2, (1,)), where=lambda x: np.isinf(x).any())
    array([[  0., -inf]])
    """
    _at_least(1, vocab_size=vocab_size)
    far = float(np.float32(magnitude))
    values = [0.0, 1.0, -1.0, 1 + 2.0**-20, *([-np.inf] * 2 * impossible), far, -far]
    value = st.sampled_from(values) | st.floats(-far, far, width=32, allow_subnormal=False)

    def rows(drawn: list[float]) -> Array:
        x = np.reshape(np.asarray(drawn, dtype=np.float64), (*shape, vocab_size))
        return xp.asarray(np.where(np.all(np.isinf(x), axis=-1, keepdims=True), 0.0, x))

    return _shown(_lists(value, prod(shape) * vocab_size), rows)


def tokens(vocab_size: int, shape: tuple[int, ...], *, xp: Namespace = np) -> st.SearchStrategy[Any]:
    """Tokens in [0, vocab_size), int64 of the shape. Shrinks towards 0. ValueError unless vocab_size >= 1.

    >>> smallest(tokens(3, (1, 2)), where=lambda x: x.sum() >= 3)
    array([[1, 2]])
    """
    _at_least(1, vocab_size=vocab_size)
    drawn = _lists(st.integers(0, vocab_size - 1), prod(shape))
    return drawn.map(lambda x: xp.asarray(np.reshape(np.asarray(x, dtype=np.int64), shape)))


# Schedules


def monotone_schedules(*, singular: bool = False) -> st.SearchStrategy[Monotone]:
    """Schedules of two components, kappa from 0 to 1: Linear, Polynomial, Cosine, CubicHermite, Tabulated.

    Rates are finite for t < 1; the `singular` ones, Polynomial of an exponent below 1, have an infinite one at t = 0.
    Some are flat at an end or inside. Shrinks towards Linear().
    Source: Gat et al. 2024, section 3.

    >>> smallest(monotone_schedules(), where=lambda schedule: schedule.kappa(0.5) < 0.5)
    Polynomial(exponent=2.0)
    """
    others = [Cosine(), Polynomial(1.5), Polynomial(4.0), *([Polynomial(0.5), Polynomial(0.25)] if singular else [])]
    return st.sampled_from([*_POLYNOMIALS[:3], *others, *_POLYNOMIALS[3:]]) | _tabulated()


_POLYNOMIALS = (
    Linear(),
    Polynomial(2.0),
    Polynomial(3.0),
    CubicHermite(0.0, 0.0),
    CubicHermite(1.0, 1.0),
    CubicHermite(0.5, 2.0),
    CubicHermite(3.0, 0.0),
    CubicHermite(0.0, 3.0),
    CubicHermite(3.0, 3.0),
    CubicHermite(4.0, 1.0),  # flat at t = 2/3
)


@st.composite
def _tabulated(draw: st.DrawFn) -> Tabulated:
    count = draw(st.integers(1, 4))

    def grid() -> tuple[float, ...]:
        steps = draw(_lists(st.sampled_from([_ONE, 2 * _ONE, 3 * _ONE, _NEAR]), count))
        return tuple(level / sum(steps) for level in accumulate(steps, initial=0))

    return Tabulated(grid(), grid())


def schedules(m: int) -> st.SearchStrategy[Schedule]:
    """Schedules of m components whose weights meet the boundary: the first alone at t = 0, the last alone at t = 1.

    `monotone_schedules`, where m = 2, and weights of degree 2 to 4 in Bernstein's form that need not be monotone.
    Shrinks towards Linear(), or the quadratic one that is uniform midway. ValueError unless m >= 2.
    Source: Gat et al. 2024, section 3 (the general mixture path).

    >>> smallest(schedules(4)).components[1:3]
    (Bernstein(coefficients=(0.0, 0.25, 0.0)), Bernstein(coefficients=(0.0, 0.25, 0.0)))
    """
    _at_least(2, m=m)
    convex = _convex(m).map(lambda both: both.schedule)
    return monotone_schedules() | convex if m == 2 else convex


def per_token_schedules(length: int, m: int) -> st.SearchStrategy[PerToken]:
    """A schedule of m components for each of `length` tokens. Shrinks towards the same, simplest one for all.

    ValueError unless length >= 1 and m >= 2. Source: Gat et al. 2024, section 3 (weights of each token).

    >>> smallest(per_token_schedules(2, 2), where=lambda schedule: len(set(schedule.schedules)) == 2)
    PerToken(schedules=(Linear(), Polynomial(exponent=2.0)))
    """
    _at_least(1, length=length)
    return _lists(schedules(m), length).map(lambda drawn: PerToken(tuple(drawn)))


_DEGREE = 4  # from 4 on two components may have kappa_dot < 0


class _Weights(NamedTuple):
    """A schedule, and the coefficients of its weights in powers of t: fractions [m, 5]."""

    schedule: Schedule
    coef: Numbers


@lru_cache
def _convex(m: int) -> st.SearchStrategy[_Weights]:
    """Weights whose Bernstein coefficients, row by row, are PMFs: then so are the weights at every time."""
    return st.lists(_rows(m, extremes=False), min_size=1, max_size=_DEGREE - 1).map(_bernstein)


def _bernstein(middle: list[Numbers]) -> _Weights:
    """The schedule whose control points, one row of m each, are these between the ends."""
    first = _objects([Fraction(1), *[Fraction(0)] * (len(middle[0]) - 1)])
    control = np.stack([first, *middle, first[::-1]])
    n = len(control) - 1
    powers = np.full((n + 1, _DEGREE + 1), Fraction(0))
    for k in range(n + 1):
        powers[k, k : n + 1] = [comb(n, k) * comb(n - k, i) * (-1) ** i for i in range(n - k + 1)]
    return _Weights(Convex(tuple(Bernstein(_nested(column)) for column in control.T)), np.asarray(control.T @ powers))


@lru_cache
def _polynomials(m: int, *, monotone: bool) -> st.SearchStrategy[_Weights]:
    """Schedules that are polynomials of degree 4 or less; of two components in one draw, monotone or not."""
    if m > 2:
        return _convex(m)
    turning = [[0.5], [0.0], [1.0], [1.0, 0.0], [0.5, 0.25], [1.0, 0.0, 0.0]]
    others = [_bernstein([oracle.exact([1 - k, k]) for k in middle]) for middle in turning]
    return st.sampled_from([*map(_in_powers, _POLYNOMIALS), *([] if monotone else others)])


def _in_powers(schedule: Monotone) -> _Weights:
    if isinstance(schedule, CubicHermite):
        a, b = schedule.a, schedule.b
        kappa = [0, a, 3 - 2 * a - b, a + b - 2, 0]
    else:
        exponent = schedule.exponent if isinstance(schedule, Polynomial) else 1
        kappa = [float(k == exponent) for k in range(_DEGREE + 1)]
    data = oracle.exact(kappa)
    return _Weights(schedule, np.stack([oracle.exact([1, 0, 0, 0, 0]) - data, data]))


# Sources, couplings, paths


def sources(vocab_size: int, length: int) -> st.SearchStrategy[Source]:
    """Sources of x_0: Uniform, Masked, and Marginal, one PMF shared by all tokens or one for each of `length`.

    Shrinks towards Uniform. ValueError unless both are >= 1.

    >>> smallest(sources(3, 2), where=lambda source: source.pmf()[..., 0].max() < 0.1)
    Masked(vocab_size=3)
    """
    _at_least(1, vocab_size=vocab_size, length=length)
    shared = _rows(vocab_size).map(lambda row: Marginal(_nested(row)))
    own = _lists(_rows(vocab_size), length).map(lambda rows: Marginal(_nested(np.stack(rows))))
    named: list[Source] = [Uniform(vocab_size), Masked(vocab_size)]
    return st.one_of(st.sampled_from(named), shared, own)


_KINDS = ("independent", "prompted", "correlated")


def couplings(
    vocab_size: int,
    length: int,
    *,
    kinds: Sequence[str] = _KINDS,
    mask: bool = False,
    exact: bool = False,
    xp: Namespace = np,
) -> st.SearchStrategy[Any]:
    """Joint laws pi[x_0, x_1] of a source and a data sequence, float64[S, S] in the order of `oracle.states`.

    Kinds: "independent" p(x_0) q(x_1), with any source; "prompted", x_0 = x_1 at some tokens; "correlated", a few pairs
    of any weights. With a `mask` the source is the last token and data never hold it, so nothing is correlated. Data
    have up to four sequences. Exact: fractions. Shrinks towards the first kind, the uniform source and the one data
    point 0. ValueError for an unknown kind, or sizes below 1 (with a mask, a vocabulary below 2).
    Source: Gat et al. 2024, section 3.1 (couplings).

    >>> smallest(couplings(2, 1))
    array([[0.5, 0. ],
           [0.5, 0. ]])
    """
    _at_least(1 + mask, vocab_size=vocab_size)
    _at_least(1, length=length)
    chosen = [kind for kind in kinds if kind != "correlated" or not mask]
    if not chosen or not set(chosen) <= set(_KINDS):
        raise ValueError(f"kinds: expected some of {_KINDS[: 3 - mask]}, got {tuple(kinds)}")
    return _arrays(_couplings(vocab_size, length, chosen, mask), exact, xp)


@st.composite
def _couplings(draw: st.DrawFn, vocab_size: int, length: int, kinds: Sequence[str], mask: bool) -> Numbers:
    size = vocab_size**length
    laws = ["mask"] if mask else ["uniform", "mask", "any"] if vocab_size > 1 else ["uniform"]
    both = [(kind, law) for kind in kinds for law in (laws if kind != "correlated" else laws[:1])]
    kind, law = draw(st.sampled_from(both))  # in one draw: what is simplest must be drawn with the fewest
    if kind == "correlated":
        return _sparse(draw, range(size**2), size**2).reshape(size, size)
    if law == "any":
        source = np.stack(draw(_lists(_rows(vocab_size), length)))
    else:
        row = [Fraction(v == vocab_size - 1) if law == "mask" else Fraction(1, vocab_size) for v in range(vocab_size)]
        source = np.stack([_objects(row)] * length)
    data = (oracle.states(vocab_size, length) < vocab_size - (law == "mask")).all(axis=-1)
    q = _sparse(draw, np.flatnonzero(data).tolist(), size)
    prompt = draw(_lists(st.booleans(), length)) if kind == "prompted" else [False] * length
    return oracle.prompted(q, source, np.array(prompt))


def _sparse(draw: st.DrawFn, support: Sequence[int], size: int) -> Numbers:
    """A PMF [size] on up to four entries of the support, by as many draws for any support."""
    some = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4))
    law = np.full(size, Fraction(0))
    np.add.at(law, [support[k % len(support)] for k in some], draw(_rows(len(some))))
    return law


def paths(vocab_size: int, length: int, *, m: int | None = None, mask: bool = False) -> st.SearchStrategy[Mixture]:
    """Mixture paths of m components, or of 2, 3 or 4: X0 first, X1 last, between them Fixed (per token too) or Table.

    Schedules are of `schedules(m)`, shared or one a token. With a `mask` they are monotone and m is 2: the path of a
    source that is the last token. Shrinks towards Mixture(), linear between X0 and X1. ValueError unless sizes are
    >= 1 and m >= 2, or 2 with a mask. Source: Gat et al. 2024, section 3 (the general mixture path).

    >>> smallest(paths(2, 1), where=lambda path: len(path.components) == 3).components
    (X0(), Fixed(probs=(0.5, 0.5)), X1())
    """
    _at_least(1, vocab_size=vocab_size, length=length)
    _check_components(m, mask)
    return _paths(vocab_size, length, m, mask)


@st.composite
def _paths(draw: st.DrawFn, vocab_size: int, length: int, m: int | None, mask: bool) -> Mixture:
    m = 2 if mask else m or draw(st.sampled_from(_COMPONENTS))
    one = monotone_schedules() if mask else schedules(m)
    schedule = PerToken(tuple(draw(_lists(one, length)))) if draw(st.booleans()) else draw(one)
    components, _ = draw(_components(vocab_size, length, m))
    return Mixture(schedule, components, mask=vocab_size - 1 if mask else None)


@st.composite
def _components(draw: st.DrawFn, vocab_size: int, length: int, m: int) -> tuple[tuple[Component, ...], Numbers]:
    """Components, and their PMFs w[j, i, x_0, x_1, x] in fractions."""
    everywhere = (length, *(vocab_size,) * 3)
    components: list[Component] = []
    tables = []
    for _ in range(m - 2):
        kind = draw(st.sampled_from(["fixed", "fixed per token", "table"]))
        if kind == "table":
            some = draw(st.lists(_rows(vocab_size), min_size=1, max_size=3))
            rows = draw(_lists(st.sampled_from(some), vocab_size**2))
            table = np.stack(rows).reshape((vocab_size,) * 3)
            components.append(Table(_nested(table)))
        elif kind == "fixed":
            table = draw(_rows(vocab_size))
            components.append(Fixed(_nested(table)))
        else:
            own = np.stack(draw(_lists(_rows(vocab_size), length)))
            table = own[:, None, None]
            components.append(Fixed(_nested(own)))
        tables.append(np.broadcast_to(table, everywhere))
    ends = [np.broadcast_to(oracle.exact(at(vocab_size)), everywhere) for at in (oracle.at_x_0, oracle.at_x_1)]
    return (X0(), *components, X1()), np.stack([ends[0], *tables, ends[1]])


# Paths whose every number is known


class PathProblem(NamedTuple):
    """A path of the library beside the same path in the tables of `dfm_ref.verify.oracle`: every number of it is known.

    The schedule's weights are polynomials with the coefficients coef[N, m, n], fractions; `problem` holds the coupling
    and the components, in float64 or in fractions. Results are NumPy arrays of the problem's kind, whatever t is: a
    schedule is evaluated in fractions and rounded once. S states, in the order of `states`; t is one number in [0, 1].

    >>> twin = smallest(problems())
    >>> twin.marginal(0.5), twin.velocity(0.5)[1]
    (array([0.75, 0.25]), array([[ 2., -2.]]))
    """

    path: Mixture
    problem: oracle.Problem
    coef: Any

    @property
    def vocab_size(self) -> int:
        """V, with the mask."""
        return int(self.problem.w.shape[-1])

    @property
    def length(self) -> int:
        """N."""
        return int(self.problem.w.shape[-2])

    def states(self) -> Numbers:
        """Every state, a batch int64[S, N]."""
        return oracle.states(self.vocab_size, self.length)

    def kappa(self, t: Any) -> Numbers:
        """The weights of the components, [N, m]."""
        return self._kind(oracle.evaluate(self.coef, Fraction(t)))

    def kappa_dot(self, t: Any) -> Numbers:
        """Their derivatives, [N, m]."""
        return self._kind(oracle.evaluate(oracle.derivative(self.coef), Fraction(t)))

    def marginal(self, t: Any) -> Numbers:
        """p_t of every state, [S]."""
        return oracle.marginal(self.problem, self.kappa(t))

    def marginal_dot(self, t: Any) -> Numbers:
        """The derivative of p_t of every state, [S]."""
        return oracle.marginal_dot(self.problem, self.kappa(t), self.kappa_dot(t))

    def posteriors(self, t: Any) -> tuple[Numbers, ...]:
        """w_hat^j given each state, m arrays [S, N, V]: what `velocities.forward` takes; see `oracle.posteriors`."""
        return tuple(np.swapaxes(oracle.posteriors(self.problem, self.kappa(t)).w_hat, 1, 2))

    def velocity(self, t: Any) -> Numbers:
        """The marginal velocity of each state, [S, N, V]; domain t < 1."""
        a, b, _ = oracle.coefficients(self.kappa(t), self.kappa_dot(t))
        return np.swapaxes(oracle.velocity(a, b, oracle.posteriors(self.problem, self.kappa(t)).w_hat), 0, 1)

    def _kind(self, table: Numbers) -> Numbers:
        return table if self.problem.pi.dtype == object else table.astype(np.float64)


def problems(
    *,
    m: int | None = None,
    mask: bool | None = None,
    kinds: Sequence[str] = _KINDS,
    max_states: int = 9,
    exact: bool = False,
) -> st.SearchStrategy[PathProblem]:
    """Paths beside their exact twins: of m components (2, 3 or 4), with V**N <= max_states, V <= 4 and N <= 3.

    Couplings of the `kinds` of `couplings`; schedules are polynomials, shared or one a token. `mask` True: only paths
    of a mask source, of two components; False: none. Exact: tables of fractions, for which laws hold with ==. Shrinks
    towards two values, one token, Mixture(), the uniform source, the one data point 0. ValueError as `couplings` and
    `paths`, or unless max_states >= 2.

    >>> twin = smallest(problems(exact=True), where=lambda problem: problem.length == 2)
    >>> t = Fraction(1, 3)
    >>> Q = oracle.generator(np.swapaxes(twin.velocity(t), 0, 1))
    >>> print(*oracle.kolmogorov_residual(twin.marginal_dot(t), Q, twin.marginal(t)))
    0 0 0 0
    """
    _at_least(2, max_states=max_states)
    _check_components(m, bool(mask))
    couplings(2, 1, kinds=kinds, mask=bool(mask))  # says what is wrong with the kinds
    sizes = sorted((V**N, V, N) for V in (2, 3, 4) for N in (1, 2, 3))
    ms = _COMPONENTS if m is None else (m,)
    return _problems([(V, N) for count, V, N in sizes if count <= max_states], ms, mask, tuple(kinds), exact)


@st.composite
def _problems(
    draw: st.DrawFn,
    sizes: Sequence[tuple[int, int]],
    ms: Sequence[int],
    mask: bool | None,
    kinds: Sequence[str],
    exact: bool,
) -> PathProblem:
    vocab_size, length = draw(st.sampled_from(sizes))
    some = tuple(kind for kind in kinds if kind != "correlated")
    masks = [False, True] if mask is None and some else [bool(mask)]
    m, mask = draw(st.sampled_from([(j, masked) for j in ms for masked in masks if j == 2 or not masked]))
    components, w = draw(_components(vocab_size, length, m))
    one = _polynomials(m, monotone=mask)
    own = length > 1 and draw(st.booleans())
    weights = draw(_lists(one, length)) if own else [draw(one)] * length
    schedule = PerToken(tuple(token.schedule for token in weights)) if own else weights[0].schedule
    pi = draw(_couplings(vocab_size, length, some if mask else kinds, mask))
    i_0, i_1 = np.nonzero(pi)
    x = oracle.states(vocab_size, length)
    w = w[:, np.arange(length), x[i_0], x[i_1]].swapaxes(0, 1)
    pi = pi[i_0, i_1]
    tables = (pi, w) if exact else (pi.astype(np.float64), w.astype(np.float64))
    path = Mixture(schedule, components, mask=vocab_size - 1 if mask else None)
    return PathProblem(path, oracle.Problem(x[i_0], x[i_1], *tables), np.stack([token.coef for token in weights]))


class Posteriors(NamedTuple):
    """Exact posteriors of the m components, given each of B states at t: what `velocities.forward` takes, in order.

    path; w_hat, m of float64[B, N, V]; x_t int64[B, N], all states that the path can reach at t; and p_t float64[B],
    their probabilities. The mean of w_hat^j under p_t is the law of a token of component j under the coupling.

    >>> from dfm_ref.velocities import forward
    >>> path, w_hat, x_t, t, p_t = smallest(posteriors())
    >>> forward(path, w_hat, x_t, t).tolist()
    [[[0.0, 0.0]], [[2.0, -2.0]]]
    """

    path: Mixture
    w_hat: tuple[Array, ...]
    x_t: Array
    t: float
    p_t: Array


def posteriors(
    *,
    problem: st.SearchStrategy[PathProblem] | None = None,
    t: st.SearchStrategy[float] | None = None,
    xp: Namespace = np,
) -> st.SearchStrategy[Posteriors]:
    """Posteriors that belong to a coupling: the exact w_hat of one of `problems` at one of `times` but 1.

    A row of random PMFs is no such thing: it may hold a token possible that no data agree with. Give a strategy of
    problems that are not exact, or of times, to draw from others. Shrinks as `problems`, at t = 1/2.
    Source: Gat et al. 2024, Theorem 3.

    >>> smallest(posteriors()).w_hat[1].tolist()
    [[[1.0, 0.0]], [[1.0, 0.0]]]
    """
    return _posteriors(problems() if problem is None else problem, times(exclude_max=True) if t is None else t, xp)


@st.composite
def _posteriors(
    draw: st.DrawFn, problem: st.SearchStrategy[PathProblem], times: st.SearchStrategy[float], xp: Namespace
) -> Posteriors:
    known, t = draw(problem), draw(times)
    p_t = known.marginal(t)
    there = p_t > 0
    w_hat = tuple(xp.asarray(w[there]) for w in known.posteriors(t))
    return Posteriors(known.path, w_hat, xp.asarray(known.states()[there]), t, xp.asarray(p_t[there]))


# The verifier's cases, and the smallest of anything


def cases(
    *,
    sources: Sequence[str] = ("uniform", "mask"),
    schedules: Sequence[str] = tuple(SCHEDULES),
    max_vocab_size: int = 4,
    max_length: int = 3,
) -> st.SearchStrategy[Case]:
    """What an adapter is built for: a `Case` of one of the sources and schedules, vocabulary and length up to the most.

    A vocabulary has two values of data or more, and the mask beside them; a law of the data is drawn by
    `pmfs(len(data_states(case)))`. Shrinks towards the first source and schedule, the smallest vocabulary, one token.
    ValueError unless max_length >= 1 and the vocabulary has room.

    >>> smallest(cases())
    Case(vocab_size=2, length=1, schedule='linear', source='uniform')
    """
    least = [2 + (source == "mask") for source in sources]
    _at_least(max(least), max_vocab_size=max_vocab_size)
    _at_least(1, max_length=max_length)
    kind = st.sampled_from(list(zip(sources, least, strict=True)))
    sizes = kind.flatmap(lambda both: st.tuples(st.just(both[0]), st.integers(both[1], max_vocab_size)))
    drawn = st.tuples(sizes, st.integers(1, max_length), st.sampled_from(schedules))
    return drawn.map(lambda case: Case(case[0][1], case[1], case[2], case[0][0]))


def smallest(strategy: st.SearchStrategy[T], *, where: Callable[[T], Any] | None = None, max_examples: int = 2000) -> T:
    """The example that a test which fails `where` the condition holds, or always, shrinks to; the same in every run.

    Raises hypothesis.errors.NoSuchExample where none of `max_examples` meets the condition.

    >>> smallest(times(), where=lambda t: t > 0.7)
    0.75
    """
    phases = (Phase.generate, Phase.shrink)
    quiet = settings(max_examples=max_examples, derandomize=True, database=None, deadline=None, phases=phases)
    return find(strategy, where or (lambda _: True), settings=quiet)


def _at_least(least: int, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < least:
            raise ValueError(f"{name}: expected at least {least}, got {size}")


def _check_components(m: int | None, mask: bool) -> None:
    if m is not None:
        _at_least(2, m=m)
        if mask and m != 2:
            raise ValueError(f"m: expected 2 components of a mask path, got {m}")


def _lists(element: st.SearchStrategy[Any], size: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(element, min_size=size, max_size=size)


@st.composite
def _shown(draw: st.DrawFn, strategy: st.SearchStrategy[Any], function: Callable[[Any], Any]) -> Any:
    """The function of what is drawn, for a counterexample to print: after `map` it prints the call of the function."""
    return function(draw(strategy))


def _arrays(tables: st.SearchStrategy[Numbers], exact: bool, xp: Namespace) -> st.SearchStrategy[Any]:
    """The tables of fractions as they are, or in float64 of a namespace."""
    if not exact:
        return tables.map(lambda table: xp.asarray(table.astype(np.float64)))
    if not isinstance(xp.zeros(1), np.ndarray):
        raise TypeError(f"xp: expected NumPy, which alone holds fractions, got {xp.__name__}")
    return tables


def _objects(values: list[Fraction]) -> Numbers:
    """Fractions as an array of them."""
    return np.array(values, dtype=object)


def _nested(table: Numbers) -> Any:
    """A table as tuples of floats."""
    return tuple(map(_nested, table)) if table.ndim > 1 else tuple(map(float, table))
