"""Laws of probability paths and their velocities: interpolants, the continuity equation, flow matching's identities."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from .. import flow_cases
from ..calculus import expectation, jacobian
from ..flow_cases import PATHS, FlowCase
from ..probe import NotCovered
from .flows import eps_of, near, tolerance_of
from .law import Law, Table, Trial

__all__ = ["LAWS", "Instant", "Moment", "Pair", "path_cases", "single"]

_LIPMAN = "Lipman et al. 2023"
_INNER = (0.5, 0.25, 0.75, 0.125, 0.875, 0.3125, 0.96875)
_DATA = {
    1: (((-1.0,), (1.0,)), (0.25, 0.75)),
    2: (((-1.0, 0.5), (1.0, 0.0), (0.5, -1.5)), (0.5, 0.125, 0.375)),
    3: (((1.0, 0.5, 0.0), (-1.0, 0.0, 2.0)), (0.625, 0.375)),
}


def path_cases() -> list[FlowCase]:
    """Every path in one, two and three dimensions, small ones first.

    >>> path_cases()[0]
    FlowCase(dim=1, path='ot', data=((-1.0,), (1.0,)), q=(0.25, 0.75))
    """
    return [FlowCase(dim, path, *_DATA[dim]) for dim in _DATA for path in PATHS]


def single(case: FlowCase, k: int) -> FlowCase:
    """The case of one of its points alone.

    >>> single(path_cases()[0], 1)
    FlowCase(dim=1, path='ot', data=((1.0,),), q=(1.0,))
    """
    return case._replace(data=(case.data[k],), q=(1.0,))


class Pair(NamedTuple):
    """Pairs of a case with a time each, one a row."""

    case: FlowCase
    x_0: tuple[tuple[float, ...], ...]
    x_1: tuple[tuple[float, ...], ...]
    t: tuple[float, ...]

    def arrays(self) -> tuple[Table, Table, Table]:
        """x_0, x_1 float64[B, D] and t float64[B]."""
        return np.array(self.x_0), np.array(self.x_1), np.array(self.t)


def _pairs(times: tuple[float, ...]) -> Any:
    def examples() -> list[Pair]:
        found = []
        for case in path_cases():
            for t in times[:2]:
                found.append(Pair(case, ((2.0,) * case.dim,), ((-1.0,) * case.dim,), (t,)))
            x_0, x_1 = np.random.default_rng(case.dim).normal(size=(2, len(times), case.dim)).round(2).tolist()
            found.append(Pair(case, tuple(map(tuple, x_0)), tuple(map(tuple, x_1)), times))
        return found

    return examples


def _draw_pairs(times: tuple[float, ...]) -> Any:
    number = st.sampled_from((0.0, 1.0, -1.0, 2.0, 0.5))

    def of(case: FlowCase) -> Any:
        point = st.tuples(*[number] * case.dim)
        return st.builds(lambda a, b, t: Pair(case, (a,), (b,), (t,)), point, point, st.sampled_from(times))

    return lambda: st.sampled_from(path_cases()).flatmap(of)


def _along(case: FlowCase, t: Table, *values: Table) -> Table:
    """How much rounding a path may lose at a time, a number a row: 1 - exp(-T) has few digits where sigma is small."""
    size = np.max(np.abs(np.concatenate(values, axis=1)), axis=1, initial=1.0)
    return np.asarray(size * (1 + 1 / np.maximum(PATHS[case.path].sigma(t), 1e-8) ** 2))


def _interpolant(trial: Trial, at: Pair) -> None:
    x_0, x_1, t = at.arrays()
    mu, sigma, mu_dot, sigma_dot = (f(t)[:, None] for f in PATHS[at.case.path])
    drawn = trial.call(at.case, "sample_path", x_0, x_1, t, 1)
    size = (eps_of(drawn.x_t) * _along(at.case, t, x_0, x_1))[:, None]
    near("x_t", drawn.x_t, mu * x_1 + sigma * x_0, size, "print(drawn)")
    if drawn.dx_t is not None:
        rate = 1 + np.abs(mu_dot) + np.abs(sigma_dot)
        near("dx_t", drawn.dx_t, mu_dot * x_1 + sigma_dot * x_0, size * rate, "print(drawn)")


def _ends(trial: Trial, at: Pair) -> None:
    x_0, x_1, _ = at.arrays()
    for t, want in ((1.0, x_1), (0.0, x_0)):
        if at.case.path == "vp" and t == 0:
            continue  # a little of x_1 is left there
        trial.probe.forget()
        drawn = trial.call(at.case, "sample_path", x_0, x_1, np.full(len(x_0), t), 1)
        tolerance = eps_of(drawn.x_t) * np.max(np.abs([x_0, x_1]), initial=1.0)
        if at.case.path == "vp":
            tolerance = np.sqrt(tolerance)  # of a root of a difference from 1
        near(f"x_t at t = {t:g}", drawn.x_t, want, tolerance, "print(drawn)")


_MOVED = """h = 1e-5
later, before = (it.sample_path(x_0, x_1, t + s, 1)[0] for s in (h, -h))
print(drawn[1], (later - before) / (2 * h))"""


def _derivative(trial: Trial, at: Pair) -> None:
    x_0, x_1, t = at.arrays()
    drawn = trial.call(at.case, "sample_path", x_0, x_1, t, 1)
    if drawn.dx_t is None:
        raise NotCovered("sample_path gives no derivative")

    def moved(times: Table) -> Table:
        repeat = len(times) // len(t)
        x_t = trial.unseen(at.case, "sample_path", np.tile(x_0, (repeat, 1)), np.tile(x_1, (repeat, 1)), times[:, 0], 1)
        return np.asarray(x_t.x_t)

    slope = jacobian(moved, t[:, None], step=0.03, halvings=9)
    size = eps_of(drawn.x_t) * _along(at.case, t, x_0, x_1)
    tolerance = 16 * slope.error + size * (1 + np.abs(slope.value).max(axis=(1, 2)))
    near("dx_t beside differences of x_t", drawn.dx_t, slope.value[..., 0], tolerance[:, None], _MOVED)


class Moment(NamedTuple):
    """Points of a path at their times, one a row: where a velocity is asked."""

    case: FlowCase
    x: tuple[tuple[float, ...], ...]
    t: tuple[float, ...]

    def arrays(self) -> tuple[Table, Table]:
        """x float64[B, D] and t float64[B]."""
        return np.array(self.x), np.array(self.t)


def _moments(times: tuple[float, ...] = _INNER) -> list[Moment]:
    found = []
    for case in path_cases():
        found += [Moment(case, ((0.5,) * case.dim,), (t,)) for t in times[:2]]
        found.append(_scattered(case, times))
    return found


def _scattered(case: FlowCase, times: tuple[float, ...]) -> Moment:
    """Points near the path, at their times."""
    rng, path, t = np.random.default_rng(case.dim), PATHS[case.path], np.array(times)[:, None]
    x_1 = np.asarray(case.data)[rng.integers(len(case.q), size=len(times))]
    x = path.mu(t) * x_1 + path.sigma(t) * rng.normal(size=x_1.shape)
    return Moment(case, tuple(map(tuple, x.round(4).tolist())), times)


def _singles() -> list[Moment]:
    return [moment._replace(case=single(moment.case, -1)) for moment in _moments()]


def _draw_moments() -> Any:
    number = st.sampled_from((0.5, 0.0, 1.0, -0.5, -1.0))

    def of(case: FlowCase) -> Any:
        return st.builds(
            lambda x, t: Moment(case, (x,), (t,)), st.tuples(*[number] * case.dim), st.sampled_from(_INNER[:5])
        )

    return st.sampled_from(path_cases()).flatmap(of)


def _draw_singles() -> Any:
    return _draw_moments().map(lambda moment: moment._replace(case=single(moment.case, -1)))


def _marginal(trial: Trial, case: FlowCase, x: Table, t: Table) -> Table:
    """The velocity of a path, which stands beside its sample_path."""
    if not trial.probe.has(case, "sample_path"):
        raise NotCovered("no method sample_path, beside which a velocity is that of a path")
    return np.asarray(trial.call(case, "velocity", x, t))


def _slack(case: FlowCase, x: Table, t: Table, u: Table) -> Table:
    """What rounding may change of a velocity, [B, 1]: a posterior by differences, times the rates of the path."""
    _, sigma, mu_dot, sigma_dot = (f(t)[:, None] for f in PATHS[case.path])
    data = np.asarray(case.data)
    reach = np.max(np.abs(x), axis=1, keepdims=True) + np.max(np.abs(data))
    digits = 1 + (reach / sigma) ** 2  # of the exponents of the posterior
    return np.asarray(eps_of(u) * digits * reach * (np.abs(sigma_dot) / sigma + mu_dot) * (1 + 1 / sigma))


def _conditional(trial: Trial, at: Moment) -> None:
    x, t = at.arrays()
    u = _marginal(trial, at.case, x, t)
    want = flow_cases.conditional_velocity(at.case, x, t)[:, 0]
    near("the velocity of a single point", u, want, _slack(at.case, x, t, u), "print(u)")


def _mixture(trial: Trial, at: Moment) -> None:
    x, t = at.arrays()
    u = _marginal(trial, at.case, x, t)
    each = np.stack([trial.call(single(at.case, k), "velocity", x, t) for k in range(len(at.case.q))], axis=1)
    weights = flow_cases.posterior(at.case, x, t)
    want = np.einsum("bk,bkd->bd", weights, each.astype(np.float64))
    names = ", ".join(f"u_{k + 2}" for k in range(len(at.case.q)))
    text = f"weights = np.array({weights.tolist()})\nprint(u, np.einsum('bk,kbd->bd', weights, np.stack([{names}])))"
    near("the marginal velocity beside the mean of the conditional ones", u, want, _slack(at.case, x, t, u), text)


_RESIDUAL = """h = 1e-4
divergence = sum(
    (it.velocity(x + e, t) - it.velocity(x - e, t))[:, j] / (2 * h) for j, e in enumerate(h * np.eye(case.dim))
)
log_p_dot, score = np.array({dot}), np.array({score})
print(log_p_dot + divergence + np.sum(u * score, axis=1))"""


def _continuity(trial: Trial, at: Moment) -> None:
    x, t = at.arrays()
    u = _marginal(trial, at.case, x, t)

    def field(points: Table) -> Table:
        times = np.tile(t, len(points) // len(t))
        return np.asarray(trial.unseen(at.case, "velocity", points, times))

    slope = jacobian(field, x, step=0.05)
    divergence = np.trace(slope.value, axis1=1, axis2=2)
    dot, score = flow_cases.log_density_dot(at.case, x, t), flow_cases.score(at.case, x, t)
    residual = dot + divergence + np.sum(u * score, axis=1)
    sigma = PATHS[at.case.path].sigma(t)
    size = _slack(at.case, x, t, u)[:, 0] * (np.abs(score).sum(axis=1) + 1 / sigma)
    show = _RESIDUAL.format(dot=dot.tolist(), score=score.tolist())
    near("the residual of the continuity equation", residual, 0 * t, 16 * at.case.dim * slope.error + size, show)


class Instant(NamedTuple):
    """A case at one time, where two gradients are compared."""

    case: FlowCase
    t: float


def _instants() -> list[Instant]:
    return [Instant(case, t) for case in path_cases() if case.dim < 3 for t in (0.25, 0.5, 0.125)]


_MEANS = """from dfm_ref.verify.calculus import expectation

def products(z, point):
    t = np.full(len(z), {t})
    x_t, dx_t = it.sample_path(z, np.tile(point, (len(z), 1)), t, 1)
    return np.concatenate([part * (np.sin(x_t) + 1) for part in (it.velocity(x_t, t), dx_t)], axis=1)

means = [q * expectation(lambda z: products(z, point), case.dim).value for point, q in zip(case.data, case.q)]
print(np.split(sum(means), 2))"""


def _gradients(trial: Trial, at: Instant) -> None:
    """Both are means of a product with the gradient of v; here v(x) = theta (sin x + 1), coordinate by coordinate."""
    case = at.case
    nothing = np.zeros((1, case.dim))
    if trial.call(case, "sample_path", nothing, nothing, np.array([at.t]), 1).dx_t is None:
        raise NotCovered("sample_path gives no derivative")
    _marginal(trial, case, nothing, np.array([at.t]))

    def products(z: Table) -> Table:
        t, total = np.full(len(z), at.t), np.zeros((len(z), 2 * case.dim))
        for point, weight in zip(case.data, case.q, strict=True):
            drawn = trial.unseen(case, "sample_path", z, np.tile(point, (len(z), 1)), t, 1)
            u, gradient = trial.unseen(case, "velocity", drawn.x_t.astype(np.float64), t), np.sin(drawn.x_t) + 1
            total += weight * np.concatenate([u * gradient, drawn.dx_t * gradient], axis=1)
        return total

    means = expectation(products, case.dim, points=289 if case.dim == 1 else 145)
    marginal, conditional = np.split(means.value, 2)
    answer = trial.unseen(case, "velocity", nothing, np.array([at.t]))
    tolerance = 4 * np.sum(means.error) + 1e-8 + eps_of(answer) * (1 + np.abs(marginal)) * 16
    what = f"the gradient of the marginal loss beside that of the conditional one at t = {at.t:g}"
    near(what, marginal, conditional, tolerance + tolerance_of(trial, case), _MEANS.format(t=at.t))


LAWS = (
    Law(
        "interpolant",
        "x_t is mu_t x_1 + sigma_t x_0, and its derivative that of the coefficients",
        "x_t = mu_t x_1 + sigma_t x_0, dx_t/dt = mu_dot_t x_1 + sigma_dot_t x_0",
        f"{_LIPMAN}, the conditional flow psi_t of section 4",
        ("sample_path",),
        _pairs(_INNER),
        _interpolant,
        _draw_pairs(_INNER),
    ),
    Law(
        "interpolant-ends",
        "x_t is x_1 at t = 1, and x_0 at t = 0 (of vp, nearly)",
        "mu_0 = 0, sigma_0 = 1, mu_1 = 1, sigma_1 = 0",
        f"{_LIPMAN}, section 4 (boundary conditions)",
        ("sample_path",),
        _pairs((0.0, 1.0)),
        _ends,
        _draw_pairs((0.0,)),
    ),
    Law(
        "interpolant-derivative",
        "dx_t/dt is the derivative of x_t, which differences in t give",
        "dx_t/dt = (x_{t + h} - x_{t - h}) / 2h + O(h^2)",
        f"{_LIPMAN}, Theorem 3",
        ("sample_path",),
        _pairs(_INNER[:6]),
        _derivative,
        _draw_pairs(_INNER[:5]),
    ),
    Law(
        "conditional-velocity",
        "with data of a single point, the velocity is the conditional one",
        "u_t(x|x_1) = (sigma_dot_t / sigma_t) (x - mu_t x_1) + mu_dot_t x_1",
        f"{_LIPMAN}, Theorem 3",
        ("velocity", "sample_path"),
        _singles,
        _conditional,
        _draw_singles,
    ),
    Law(
        "marginal-velocity",
        "the velocity is the mean of the conditional ones under the posterior of x_1",
        "u_t(x) = sum_k p(x_1k|x) u_t(x|x_1k), p(x_1k|x) = softmax_k(log q_k + log p_t(x|x_1k))",
        f"{_LIPMAN}, Theorem 1 (the sum over x_1)",
        ("velocity", "sample_path"),
        _moments,
        _mixture,
        _draw_moments,
    ),
    Law(
        "continuity",
        "the velocity moves the law of the path: the continuity equation holds at every point",
        "d log p_t/dt + div u_t + u_t . grad log p_t = 0",
        f"{_LIPMAN}, Theorem 1",
        ("velocity", "sample_path"),
        _moments,
        _continuity,
        _draw_moments,
    ),
    Law(
        "gradient-equality",
        "the marginal and the conditional loss of flow matching have the same gradient",
        "E_{x ~ p_t} u_t(x) g(x) = E_{x_0, x_1} (dx_t/dt) g(x_t), for every g",
        f"{_LIPMAN}, Theorem 2",
        ("velocity", "sample_path"),
        _instants,
        _gradients,
    ),
)
