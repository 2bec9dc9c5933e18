"""Laws of velocities: rows close, rates have their signs, and the generator moves p_t as the path moves."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from .. import cases, oracle, strategies
from ..cases import SCHEDULES, Case
from ..probe import Broken
from .law import INNER, TIMES, Law, Point, Table, Trial, draw_points, each_case, points, ramp, slack

__all__ = ["LAWS", "Rows", "rates"]


class Rows(NamedTuple):
    """Any PMFs, at any states, by integer weights: what rows that close must not depend on."""

    case: Case
    weights: tuple[int, ...]
    x_t: tuple[int, ...]
    t: float

    def arrays(self) -> tuple[Table, Table, Table]:
        """probs_1 float64[1, N, V], x_t int64[1, N], t float64[1]; what a mask path knows is kept."""
        case, x_t = self.case, np.array([self.x_t])
        probs = np.zeros((1, case.length, case.vocab_size))
        probs[..., : case.data_size] = np.array(self.weights).reshape(case.length, -1)
        probs /= probs.sum(axis=-1, keepdims=True)
        if case.source == "mask":
            probs = np.where((x_t == case.vocab_size - 1)[..., None], probs, np.eye(case.vocab_size)[x_t])
        return probs, x_t, np.array([self.t])


def _rows() -> list[Rows]:
    return [
        Rows(case, (1, 3, 2)[:values] * length, ((case.vocab_size - 1), 0, 1)[:length], t)
        for values, length in ((2, 1), (2, 2), (3, 3))
        for case in each_case((values, length))
        for t in TIMES
    ]


@st.composite
def _draw_rows(draw: st.DrawFn, times: tuple[float, ...] = TIMES) -> Rows:
    case = draw(strategies.cases())
    some = st.lists(st.integers(0, 5), min_size=case.data_size, max_size=case.data_size).filter(any)
    weights = [weight for _ in range(case.length) for weight in draw(some)]
    x_t = draw(st.lists(st.integers(0, case.vocab_size - 1), min_size=case.length, max_size=case.length))
    return Rows(case, tuple(weights), tuple(x_t), draw(st.sampled_from(times)))


def rates(case: Case, t: Any, *, strength: float = 0.0) -> Table:
    """About the largest rate of a token: that of the path, and of the loops that a corrector adds.

    >>> float(rates(Case(2, 1, "linear", "uniform"), 0.5))
    2.0
    """
    schedule, t = SCHEDULES[case.schedule], np.asarray(t, dtype=np.float64)
    forward = schedule.kappa_dot(t) / schedule.one_minus_kappa(t)
    if not strength:
        return np.asarray(forward)
    return np.asarray((1 + strength) * forward + strength * schedule.kappa_dot(t) / schedule.kappa(t))


def _conservation(trial: Trial, at: Rows, *strength: float) -> None:
    u = _ask(trial, at.case, at.arrays(), *strength)
    sums = u.sum(axis=-1, dtype=np.float64)
    if np.any(np.abs(sums) > _tolerance(u, at.case, at.t, *strength)):
        raise Broken(
            "the rates of a token do not sum to 0",
            expected=0.0,
            got=sums,
            show="print(u.sum(axis=-1))",
            picture=_heat(at.arrays()[1], u),
        )


def _signs(trial: Trial, at: Rows, *strength: float) -> None:
    probs, x_t, t = at.arrays()
    u = _ask(trial, at.case, (probs, x_t, t), *strength)
    here, tolerance = np.eye(at.case.vocab_size, dtype=bool)[x_t], _tolerance(u, at.case, at.t, *strength)
    for place, sign, where, sense in ((~here, 1, "negative rate off", ">="), (here, -1, "positive rate on", "<=")):
        if np.any(sign * u[place] < -tolerance):
            got = sign * float((sign * u[place]).min())
            message = f"a {where} the diagonal"
            raise Broken(message, expected=f"{sense} 0", got=got, show="print(u)", picture=_heat(x_t, u))


def _kolmogorov(trial: Trial, at: Point, *strength: float) -> None:
    x, case, q = at.states(), at.case, np.asarray(at.q)
    t = np.full(len(x), at.t)
    u = _ask(trial, case, (at.model(x, t), x, t), *strength)
    p, p_dot = cases.marginal(case, q, at.t), cases.marginal_dot(case, q, at.t)
    table = np.zeros((len(p), case.length, case.vocab_size))
    table[p > 0] = u
    Q = oracle.generator(np.swapaxes(table, 0, 1))
    size = np.abs(Q) @ p + np.abs(p_dot) + np.finfo(u.dtype).eps * (1 + rates(case, at.t, strength=sum(strength)))
    relative = slack(u.dtype, case, at.t) * (1 + sum(strength))
    off = np.abs(Q @ p - p_dot) - relative * size
    if np.any(off > 0):
        k = int(np.argmax(off))
        where = f"state {oracle.states(case.vocab_size, case.length)[k].tolist()} at t = {at.t:g}"
        show = _generated(at)
        message = f"the rates do not move p_t as the path moves: Q p of {where}"
        picture = _heat(x, u)
        raise Broken(message, expected=float(p_dot[k]), got=float((Q @ p)[k]), show=show, picture=picture)


def _near_the_end(trial: Trial, at: Point) -> None:
    """On a mask path, whose rates near t = 1 are differences of nothing but 1 - kappa.

    In single precision to a hundredth at the first of the times alone: cos(pi t / 2)^2 is no better there.
    """
    x, case, q = at.states(), at.case, np.asarray(at.q)
    t = np.full(len(x), at.t)
    u = trial.call(case, "velocity", at.model(x, t), x, t)
    single = bool(np.finfo(u.dtype).eps > 1e-10)
    if single and at.t > 1 - 2.0**-12:
        return
    Q = oracle.generator(np.swapaxes(u, 0, 1).astype(np.float64))
    p, p_dot = cases.marginal(case, q, at.t), cases.marginal_dot(case, q, at.t)
    off = np.abs(Q @ p - p_dot) > (0.01 if single else 0.001) * (np.abs(Q) @ p + np.abs(p_dot))
    if np.any(off):
        k = int(np.argmax(off))
        state = oracle.states(case.vocab_size, case.length)[k].tolist()
        message = f"at t = 1 - {1 - at.t:.3g} the rates are wrong: Q p of the state {state}"
        raise Broken(message, expected=float(p_dot[k]), got=float((Q @ p)[k]), show=_generated(at), picture=_heat(x, u))


def _ends_examples() -> list[Point]:
    masks = [case for case in each_case((2, 1), (2, 2)) if case.source == "mask"]
    return [Point(case, ramp(case), 1 - 2.0**-k) for case in masks for k in (12, 20, 24)]


def _strength(trial: Trial, at: Point) -> None:
    """The loops are in proportion to the strength, none at 0, and some at 1."""
    x, case = at.states(), at.case
    t = np.full(len(x), at.t)
    arguments = at.model(x, t), x, t
    none, one, three = (trial.call(case, "corrector_velocity", *arguments, strength) for strength in (0.0, 1.0, 3.0))
    tolerance = slack(one.dtype, case, at.t) * 8 * rates(case, at.t, strength=3.0)
    line = none + 3 * (one - none)
    if np.any(np.abs(three - line) > tolerance):
        message = "the loops of strength 3 are not three times those of strength 1"
        raise Broken(message, expected=line, got=three, show="print(u + 3 * (u_2 - u))\nprint(u_3)")
    clear = np.all(tolerance < 0.01 * rates(case, at.t, strength=1.0))
    if clear and np.all(np.abs(one - none) <= tolerance):
        raise Broken("a strength of 1 adds no loops", expected="other rates than at 0", got=one, show="print(u_2 - u)")


def _generated(at: Point) -> str:
    """Python that shows both sides of the equation."""
    return (
        "from dfm_ref.verify import cases, oracle\n"
        f"q, t = np.array({at.q}), {at.t!r}\n"
        "p = cases.marginal(case, q, t)\n"
        "table = np.zeros((len(p), case.length, case.vocab_size))\n"
        "table[p > 0] = u\n"
        "print(oracle.generator(table.swapaxes(0, 1)) @ p)  # Q_t p_t\n"
        "print(cases.marginal_dot(case, q, t))  # dp_t/dt"
    )


def _heat(x_t: Table, u: Table) -> tuple[str, list[str], list[list[float]]]:
    """The rates of every token, a row each, to be drawn; the first 32."""
    names = [f"{''.join(map(str, x))}, token {i}" for x in x_t for i in range(u.shape[1])]
    return "rates", names[:32], u.reshape(-1, u.shape[-1])[:32].tolist()


def _ask(trial: Trial, case: Case, arguments: tuple[Table, ...], *strength: float) -> Table:
    method = "corrector_velocity" if strength else "velocity"
    return np.asarray(trial.call(case, method, *arguments, *strength))


def _tolerance(u: Table, case: Case, t: float, *strength: float) -> float:
    return 64 * float(np.finfo(u.dtype).eps) * float(max(np.abs(u).max(), 1.0 + rates(case, t, strength=sum(strength))))


def _with(check: Any, strength: float) -> Any:
    def checked(trial: Trial, at: Any) -> None:
        check(trial, at, strength)

    return checked


_GAT = "Gat et al. 2024, Theorem 3"
_CORRECTOR = "Gat et al. 2024, corrector sampling; Campbell et al. 2022"
_inner_rows = lambda: [row for row in _rows() if row.t in INNER]  # noqa: E731

LAWS = (
    Law(
        "conservation",
        "the rates of a token sum to 0 over its values, whatever the posterior",
        "sum_x u_t^i(x, z) = 0",
        _GAT,
        ("velocity",),
        _rows,
        _conservation,
        _draw_rows,
    ),
    Law(
        "rate-signs",
        "a rate to another value is not negative, and the rate of leaving is not positive",
        "u_t^i(x, z) >= 0 for x != z^i",
        _GAT,
        ("velocity",),
        _rows,
        _signs,
        _draw_rows,
    ),
    Law(
        "kolmogorov",
        "with exact posteriors the velocity generates the path: the Kolmogorov forward equation",
        "dp_t/dt = Q_t p_t, Q_t[x, z] = sum_i [x = z off i] u_t^i(x^i, z)",
        _GAT,
        ("velocity",),
        points,
        _kolmogorov,
        draw_points,
    ),
    Law(
        "kolmogorov-end",
        "near t = 1 the rates keep their digits: 1 - kappa is not a difference of numbers near 1",
        "dp_t/dt = Q_t p_t to a thousandth, at t = 1 - 2^-12, 1 - 2^-20, 1 - 2^-24 in double precision",
        f"{_GAT}; arithmetic",
        ("velocity",),
        _ends_examples,
        _near_the_end,
    ),
    Law(
        "corrector-conservation",
        "the rates of a corrected velocity sum to 0 over the values of a token",
        "sum_x u_t^i(x, z) = 0",
        _CORRECTOR,
        ("corrector_velocity",),
        _inner_rows,
        _with(_conservation, 0.5),
        lambda: _draw_rows(INNER),
    ),
    Law(
        "corrector-signs",
        "a rate of a corrected velocity to another value is not negative",
        "u_t^i(x, z) >= 0 for x != z^i",
        _CORRECTOR,
        ("corrector_velocity",),
        _inner_rows,
        _with(_signs, 0.5),
        lambda: _draw_rows(INNER),
    ),
    Law(
        "corrector-kolmogorov",
        "the loops of a corrector leave p_t: the corrected velocity generates the same path",
        "dp_t/dt = Q_t p_t for (1 + strength) u_forward - strength u_backward",
        _CORRECTOR,
        ("corrector_velocity",),
        lambda: points(times=INNER),
        _with(_kolmogorov, 0.5),
        lambda: draw_points(times=INNER),
    ),
    Law(
        "corrector-strength",
        "the loops are added in proportion to the strength: none at 0, some at 1, three times as many at 3",
        "u(strength) = u(0) + strength (u(1) - u(0)), u(1) != u(0)",
        _CORRECTOR,
        ("corrector_velocity",),
        lambda: points(times=INNER),
        _strength,
    ),
)
