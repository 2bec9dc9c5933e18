"""Laws of flows: the inverse, the determinant by two ways, the density, its mass and means, and the field behind it."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from ..calculus import Estimate, expectation, integral, jacobian
from ..flow_cases import FlowCase, log_normal
from ..probe import Broken, NotCovered
from .law import Law, Table, Trial

__all__ = ["LAWS", "Points", "eps_of", "near", "tolerance_of"]

_REZENDE = "Rezende & Mohamed 2015, section 4.1"
_CHEN = "Chen et al. 2018, Theorem 1 (instantaneous change of variables)"
_ONE = "x, log_det = mapped"


class Points(NamedTuple):
    """Points of a case, a row each, where a flow is asked."""

    case: FlowCase
    z: tuple[tuple[float, ...], ...]

    def array(self) -> Table:
        """float64[B, D]."""
        return np.array(self.z)


def _points() -> list[Points]:
    """One simple point, and a batch of seven, in one, two and three dimensions."""
    found = []
    for dim in (1, 2, 3):
        found.append(Points(FlowCase(dim), ((0.5,) * dim,)))
        batch = np.random.default_rng(dim).normal(size=(7, dim)).round(3)
        found.append(Points(FlowCase(dim), tuple(map(tuple, batch.tolist()))))
    return found


def _more() -> Any:
    coordinate = st.sampled_from((0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 0.25, -1.5, 3.0))
    rows = st.integers(1, 3).flatmap(lambda dim: st.lists(st.tuples(*[coordinate] * dim), min_size=1, max_size=2))
    return rows.map(lambda z: Points(FlowCase(len(z[0])), tuple(z)))


def eps_of(*arrays: Table) -> float:
    """The rounding of the coarsest dtype, with room for what a deep flow loses.

    >>> eps_of(np.zeros(1)) < 1e-11
    True
    """
    return 2.0**14 * max(float(np.finfo(a.dtype).eps) for a in arrays)


def tolerance_of(trial: Trial, case: FlowCase) -> float:
    """How far an object says that its answers may be off: `tolerance`, of one that solves equations.

    >>> from dfm_ref.verify.probe import Probe
    >>> tolerance_of(Trial(Probe(lambda case: None), seed=0), FlowCase(1))
    0.0
    """
    own = trial.probe.attribute(case, "tolerance", 0.0)
    return float(own) if isinstance(own, int | float) and 0 <= own <= 0.1 else 0.0


def _derivative(trial: Trial, case: FlowCase, z: Table) -> Estimate:
    """The Jacobian of the flow by differences of its own values."""
    return jacobian(lambda points: trial.unseen(case, "flow", points).x, z, noise=tolerance_of(trial, case))


def _inverse(trial: Trial, at: Points) -> None:
    case, z = at.case, at.array()
    x = trial.call(case, "flow", z).x
    back = trial.call(case, "inverse", x)
    size = np.maximum(1.0, np.max(np.abs(np.concatenate([z, x], axis=1)), axis=1))
    slope = _derivative(trial, case, z)
    spread = np.linalg.cond(np.where(np.isfinite(slope.value), slope.value, 0.0))
    tolerance = ((eps_of(x, back) + tolerance_of(trial, case)) * size * np.minimum(spread, 1e8))[:, None]
    near("inverse of flow", back, z, tolerance, "print(back, z)")
    again = trial.call(case, "flow", back).x
    near("flow of inverse", again, x, tolerance * np.maximum(1.0, np.abs(slope.value).max()), "print(mapped_2, x)")


def near(what: str, got: Table, want: Table, tolerance: Any, show: str) -> None:
    """Raises Broken at the first entry that is off by more than the tolerance, or is NaN.

    >>> near("a number", np.zeros(1), np.zeros(1), 0.0, "")
    """
    off = ~(np.abs(got.astype(np.float64) - want) <= tolerance)
    if np.any(off):
        place = tuple(int(k) for k in np.argwhere(off)[0])
        raise Broken(f"{what}, row {place[0]}", expected=float(want[place]), got=float(got[place]), show=show)


_BY_DIFFERENCES = f"""{_ONE}
h = 1e-4
shifts = h * np.eye(case.dim)
slope = np.stack([(it.flow(z + e)[0] - it.flow(z - e)[0]) / (2 * h) for e in shifts], axis=-1)
print(log_det, np.linalg.slogdet(slope)[1])"""

_BY_TANGENTS = f"""{_ONE}
slope = np.stack([it.tangent(z, np.broadcast_to(e, z.shape)) for e in np.eye(case.dim)], axis=-1)
print(log_det, np.linalg.slogdet(slope)[1])"""


def _log_det(trial: Trial, at: Points) -> None:
    case, z = at.case, at.array()
    log_det = trial.call(case, "flow", z).log_det
    slope = _derivative(trial, case, z)
    want = np.linalg.slogdet(slope.value)[1]
    # d log|det J| = tr(J^-1 dJ)
    reach = np.abs(np.linalg.pinv(slope.value)).sum(axis=(1, 2)) * slope.error
    own = tolerance_of(trial, case) * (1 + np.linalg.cond(slope.value))
    tolerance = 16 * reach + eps_of(log_det) * (1 + np.abs(want)) + own
    near("log_det beside log|det| of the differences of flow", log_det, want, tolerance, _BY_DIFFERENCES)


def _tangent(trial: Trial, at: Points) -> None:
    case, z = at.case, at.array()
    log_det = trial.call(case, "flow", z).log_det
    columns = [trial.unseen(case, "tangent", z, np.tile(e, (len(z), 1))) for e in np.eye(case.dim)]
    slope = np.stack(columns, axis=-1)
    want = np.linalg.slogdet(slope.astype(np.float64))[1]
    tolerance = (eps_of(log_det, slope) + tolerance_of(trial, case)) * (1 + np.linalg.cond(slope.astype(np.float64)))
    near("log_det beside log|det| of the tangents", log_det, want, tolerance * (1 + np.abs(want)), _BY_TANGENTS)


def _density(trial: Trial, at: Points) -> None:
    case, z = at.case, at.array()
    x, log_det = trial.call(case, "flow", z)
    log_prob = trial.call(case, "log_prob", x)
    want = log_normal(z) - log_det
    slope = np.linalg.cond(_derivative(trial, case, z).value)
    tolerance = (eps_of(log_prob, log_det) * np.minimum(slope, 1e8) + 16 * tolerance_of(trial, case)) * (
        1 + np.abs(want) + np.sum(z * z, axis=1)
    )
    show = f"{_ONE}\nprint(log_prob, -0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=1) - log_det)"
    near("log_prob of flow(z)", log_prob, want, tolerance, show)


_FAR = 60.0
"""How far a law is looked for where there is no flow."""

_FINE = 2e-5
"""What an integral may be off by beyond its estimate: halves of a cell with a kink may agree by chance."""


def _edges(trial: Trial, case: FlowCase) -> list[Table]:
    """Edges of cells on each axis: as close as the law of the flow is dense, out to the image of 6.5 deviations."""
    count = {1: 64, 2: 14}[case.dim] // (2 if tolerance_of(trial, case) else 1)  # solvers are slow, and smooth
    if not trial.probe.has(case, "flow"):
        return [np.linspace(-_FAR, _FAR, 8 * count)] * case.dim
    z = np.random.default_rng(0).normal(size=(2048, case.dim))
    line = np.linspace(-6.5, 6.5, 33)
    far = np.stack(np.meshgrid(*[line] * case.dim), axis=-1).reshape(-1, case.dim)
    near, wide, ends = (_in_parts(trial, case, "flow", points).astype(np.float64) for points in (z, 1.8 * z, far))
    shares, axes = np.linspace(0, 1, count + 1), range(case.dim)
    return [
        np.unique([*np.quantile(near[:, k], shares), *np.quantile(wide[:, k], shares), *_span(ends[:, k])])
        for k in axes
    ]


def _span(x: Table) -> tuple[float, float]:
    reach = 0.1 * (x.max() - x.min())
    return float(x.min() - reach), float(x.max() + reach)


def _weighted(trial: Trial, case: FlowCase, edges: list[Table]) -> Estimate:
    """The integrals of the density, and of cos and sin of a sum of the coordinates against it."""

    def values(x: Table) -> Table:
        density = np.exp(_in_parts(trial, case, "log_prob", x).astype(np.float64))[:, None]
        return np.asarray(density * np.concatenate([np.ones((len(x), 1)), _test(x)], axis=1))

    return integral(values, edges, most=20_000 if tolerance_of(trial, case) else 150_000)


def _in_parts(trial: Trial, case: FlowCase, method: str, x: Table) -> Table:
    """What a method gives for many points, 2048 a call: of a flow x alone."""
    parts = [trial.unseen(case, method, x[k : k + 2048]) for k in range(0, len(x), 2048)]
    return np.asarray(np.concatenate([part.x if method == "flow" else part for part in parts]))


def _test(x: Table) -> Table:
    along = np.sum(x * (1 + 0.5 * np.arange(x.shape[1])), axis=1, keepdims=True)
    return np.concatenate([np.cos(along), np.sin(along)], axis=1)


def _show(edges: list[Table], what: str) -> str:
    texts = ", ".join(f"np.array({[float(f'{x:.6g}') for x in e]})" for e in edges)
    return f"from dfm_ref.verify.calculus import integral\nprint(integral(lambda x: ({what})[:, None], [{texts}]))"


def _mass(trial: Trial, at: FlowCase) -> None:
    trial.call(at, "log_prob", np.zeros((1, at.dim)))
    edges = _edges(trial, at)
    total = _weighted(trial, at, edges)
    if not trial.probe.has(at, "flow") and not _ends(trial, at):
        raise NotCovered(f"log_prob: the law reaches beyond {_FAR:g}, and there is no flow to say how far")
    tolerance = 4 * total.error[0] + _FINE + _rounding(trial, at)
    if not abs(total.value[0] - 1) <= tolerance:
        message = f"the density integrates to {total.value[0]:.8g} in {at.dim} dimension{'s' * (at.dim > 1)}"
        show = _show(edges, "np.exp(it.log_prob(x))")
        raise Broken(message, expected=1.0, got=float(total.value[0]), show=show)


def _rounding(trial: Trial, case: FlowCase) -> float:
    answer = trial.unseen(case, "log_prob", np.zeros((1, case.dim)))
    return eps_of(answer) + 16 * tolerance_of(trial, case)


def _ends(trial: Trial, case: FlowCase) -> bool:
    """Whether the density is nothing far away."""
    far = np.concatenate([np.eye(case.dim), -np.eye(case.dim), np.ones((1, case.dim))]) * _FAR
    return bool(np.all(trial.unseen(case, "log_prob", far) < -30))


def _lotus(trial: Trial, at: FlowCase) -> None:
    trial.call(at, "flow", np.zeros((1, at.dim)))
    edges = _edges(trial, at)
    there = _weighted(trial, at, edges)
    points = 49 if tolerance_of(trial, at) else 145
    here = expectation(lambda z: _test(_in_parts(trial, at, "flow", z).astype(np.float64)), at.dim, points=points)
    tolerance = 4 * (there.error[1:] + here.error) + _FINE + _rounding(trial, at)
    off = ~(np.abs(there.value[1:] - here.value) <= tolerance)
    if np.any(off):
        k = int(np.argmax(off))
        name = ("cos", "sin")[k]
        show = f"h = lambda x: np.{name}(x @ (1 + 0.5 * np.arange(case.dim)))\n"
        show += f"{_show(edges, 'h(x) * np.exp(it.log_prob(x))')}\nfrom dfm_ref.verify.calculus import expectation\n"
        show += "print(expectation(lambda z: h(it.flow(z)[0])[:, None], case.dim))"
        message = f"E {name}(w.x) by the density and by the flow, in {at.dim} dimension{'s' * (at.dim > 1)}"
        raise Broken(message, expected=float(here.value[k]), got=float(there.value[1 + k]), show=show)


def _plain() -> list[FlowCase]:
    return [FlowCase(1), FlowCase(2)]


def _routes(trial: Trial, at: Points) -> None:
    """From z along the field, by scipy's solver of order 8, with the divergence by differences."""
    case, z = at.case, at.array()
    if trial.probe.has(case, "sample_path"):
        raise NotCovered("velocity beside sample_path is that of a path, and flow another")
    if not trial.probe.has(case, "log_prob") and not trial.probe.has(case, "flow"):
        raise NotCovered("no method log_prob or flow")
    rows, single = len(z), trial.call(case, "velocity", z, np.zeros(len(z))).dtype == np.float32

    def field(x: Table, t: float) -> Table:
        return np.asarray(trial.unseen(case, "velocity", x, np.full(len(x), t)))

    def both(t: float, state: Table) -> Table:
        x = state.reshape(rows, -1)[:, :-1]
        slope = jacobian(lambda points: field(points, t), x, step=0.1 if single else 0.02, halvings=3).value
        return np.concatenate([field(x, t), np.trace(slope, axis1=1, axis2=2)[:, None]], axis=1).reshape(-1)

    start = np.concatenate([z, np.zeros((rows, 1))], axis=1).reshape(-1)
    close = 1e-5 if single else 1e-9
    end = solve_ivp(both, (0.0, 1.0), start, method="RK45" if single else "DOP853", rtol=close, atol=close)
    state = end.y[:, -1].reshape(rows, -1)
    x, log_det = state[:, :-1], state[:, -1]
    tolerance = (5e-3 if single else 1e-6) + 64 * tolerance_of(trial, case)
    if trial.probe.has(case, "flow"):
        mapped = trial.call(case, "flow", z)
        near("flow(z) beside the solution of dx/dt = velocity", mapped.x, x, tolerance * (1 + np.abs(x)), _SOLVED)
        what = "log_det beside the integral of div velocity"
        near(what, mapped.log_det, log_det, tolerance * (1 + np.abs(log_det)), _DIVERGENCE)
    if trial.probe.has(case, "log_prob"):
        want = log_normal(z) - log_det
        log_prob = trial.call(case, "log_prob", x)
        scale = 1 + np.abs(want) + np.sum(z * z, axis=1)
        near("log_prob beside log p_0 - int div velocity dt", log_prob, want, tolerance * scale, _ALONG)


_SOLVED = """x, steps = z, 400
for k in range(steps):  # the midpoint rule
    t = np.full(len(z), k / steps)
    half = x + it.velocity(x, t) / (2 * steps)
    x = x + it.velocity(half, t + 0.5 / steps) / steps
"""
_TRACE = """x, steps, log_det, h = z, 400, 0.0, 1e-4
for k in range(steps):  # the midpoint rule
    t = np.full(len(z), k / steps)
    half = x + it.velocity(x, t) / (2 * steps)
    x, t = x + it.velocity(half, t + 0.5 / steps) / steps, t + 0.5 / steps
    for j, e in enumerate(h * np.eye(case.dim)):
        log_det = log_det + (it.velocity(half + e, t) - it.velocity(half - e, t))[:, j] / (2 * h * steps)
"""
_DIVERGENCE = f"{_TRACE}print(mapped, x, log_det)"
_ALONG = f"{_TRACE}print(it.log_prob(x), -0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=1) - log_det)"
_SOLVED += "print(mapped, x)"

LAWS = (
    Law(
        "inverse",
        "inverse undoes flow, and flow undoes inverse",
        "f^-1(f(z)) = z, f(f^-1(x)) = x",
        _REZENDE,
        ("flow", "inverse"),
        _points,
        _inverse,
        _more,
    ),
    Law(
        "log-det",
        "log_det is the logarithm of the absolute determinant of the Jacobian, which differences of flow give",
        "log|det df/dz|, df_i/dz_j = (f_i(z + h e_j) - f_i(z - h e_j)) / 2h + O(h^2)",
        _REZENDE,
        ("flow",),
        _points,
        _log_det,
        _more,
    ),
    Law(
        "log-det-tangents",
        "log_det is that of the Jacobian of tangents, which dual numbers give to the last digits",
        "log|det df/dz|, f(z + eps e_j) = f(z) + eps df/dz_j, eps^2 = 0",
        _REZENDE,
        ("flow", "tangent"),
        _points,
        _tangent,
        _more,
    ),
    Law(
        "change-of-variables",
        "log_prob of a point that the flow maps to is that of the base, less log_det",
        "log p(f(z)) = log N(z; 0, I) - log|det df/dz|",
        _REZENDE,
        ("flow", "log_prob"),
        _points,
        _density,
        _more,
    ),
    Law(
        "mass",
        "the density integrates to 1",
        "int exp(log p(x)) dx = 1",
        _REZENDE,
        ("log_prob",),
        _plain,
        _mass,
    ),
    Law(
        "lotus",
        "a mean under the density is that of the flow under its base",
        "int h(x) p(x) dx = E_{z ~ N(0, I)} h(f(z))",
        f"{_REZENDE} (law of the unconscious statistician)",
        ("flow", "log_prob"),
        _plain,
        _lotus,
    ),
    Law(
        "two-routes",
        "the flow and the density of a field are those of its equation, solved from t = 0 to 1",
        "dx/dt = v(x, t), d log p/dt = -div v(x, t)",
        _CHEN,
        ("velocity",),
        lambda: [Points(FlowCase(1), ((0.5,),)), *(points for points in _points() if len(points.z) > 1)],
        _routes,
        _more,
    ),
)
