"""The numbers of a file of test vectors, in fractions, by tables of the oracle and by no other code of the library.

What is rational is exact; exp, log, roots and sines are fractions of 60 digits; only laws of an ODE, and what needs a
quadrature, are floats. Inputs are drawn from a seed, and drawn again until a change in any of the first six digits of
an output is larger than the tolerance that the output is checked with.
"""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import islice, permutations
from math import asin, comb, cos, pi, prod, sin
from random import Random
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from scipy.integrate import solve_ivp

from . import oracle

__all__ = ["document"]

Table: TypeAlias = oracle.Table
Fields: TypeAlias = dict[str, Any]

_README = """Test vectors of Discrete Flow Matching: cases to check an implementation against, in any language.
Inputs in strings are exact, p/q or decimal; outputs are decimals of 25 digits, or of 17 where they are floats.
null is undefined (p_t(z) = 0) and not to be compared. A number holds within 1e-9 |want| + 1e-12; of the kinds
ctmc_law, mask_elbo and elbo_parts within 1e-6 |want| + 1e-9. Tokens, components and positions count from 0. S states,
itertools.product(range(d), repeat=N): the last token is the fastest, and state s has the index sum_i s[i] d^(N-1-i).

A spec is a path p_t(x|x0,x1) = prod_i sum_j kappa[i][j](t) w[j](x^i|x0^i,x1^i): d, N, schedules kappa[N][m], components
w[m], coupling pi [[x0, x1, probability], ...]. Schedules: poly sum_n coef[n] t^n, sin2 sin(pi t/2)^2, cos2
cos(pi t/2)^2. Components: x0 and x1 are point masses at that end, fixed is one PMF probs[d], table is
probs[x0^i][x1^i][x]. With a mask source x0 is all d - 1, a token that no data has.
A model says w_hat, the posteriors of the components: exact, those of the spec; mix, (1 - eps) w_hat + eps base for
every component, the base alone where w_hat is undefined; mask_mix, that for x1 on tokens that are the mask, a point
mass on the others, and the mask for x0.
Velocities u[i][z][x]: the rate of token i to the value x in the state z, the diagonal minus the sum of the rest.

path_marginal: p[S] and its time derivative dp. coefficients of one token: kappa, kappa_dot, b = min_j kappa_dot/kappa,
reached first at ell, a = kappa_dot - kappa b; with _max the same by the maximum. posterior: w_hat[m][N][S][d].
velocity, backward_velocity: sum_j a w_hat + b delta, by the minimum or the maximum; corrector_velocity: alpha forward
- beta backward; conditional_velocity: of one pair, w for w_hat.
one_step: the law[S] after a step of length h from z; k_step: from p_{t0} by K equal steps to t1. Methods, tokens
independent given z: euler delta + h u as it stands; exp stays with exp(-h L), L the sum of the rates, else moves in
proportion to them; finite stays with s = min_j k_j(t+h)/k_j(t), else component j with k_j(t+h) - s k_j(t) draws; kappa
stays with (1-k(t+h))/(1-k(t)), k of x1, else x1 ~ w_hat; meta draws x1 ~ w_hat, then takes an exp step of the rates
k'/(1-k) [x=x1] + div_free k'/(k(1-k)) ((1-k) p0[x] + k [x=x1]); trapezoid takes an exp step of u_t(.,x) over theta h to
y, then one from y over (1-theta) h with rates max(0, a1 u_{t+theta h}(.,y) - a2 u_t(.,x)), diagonals counted 0,
a1 = 1/(2 theta (1-theta)), a2 = a1 - 1; pc is euler, then corrector_iters euler steps of corrector_step with forward -
backward at t+h.
any_order_law: law[S] at t = 1 of the model's process from the mask. ctmc_law: at t1 of dp = Q p from p_{t0}.
cross_entropy: -sum_{i,j} E log w_model^j(Y|X_t), Y ~ w^j. elbo_integrand: E_{z~p_t(.|x0,x1)} sum_i sum_{x != z^i}
u log(u/v) - u + v, u of the pair, v of the model. mask_elbo: its integral over [0, 1], and nll = -log p(x1).
elbo_parts: prior KL(pi(x0|x1)|p), running to T, terminal -E log prod_i w_hat(x1^i|X_T), nll of the process that is run
to T and then draws every token.
gkl_pointwise: -k'/(1-k) (p(x_t) - [x_t=x_1] + [x_t!=x_1] log p(x_1)), p = softmax(logits). metric_path: p =
softmax(-beta dist[.][x1]), dp, kinetic-optimal u. kinetic_optimal: u = max(0, p(z) dp(x) - dp(z) p(x)) / p(z).
first_hitting_time: kappa(s) = 1 - (1-kappa(t)) U^(1/n). step_bound: h_safe = min_i 1/|b^i|, h_tight = min over i and
reached z of 1/|u^i(z^i,z)|.
guidance: rates (c p_cond)^g (c p_uncond)^(1-g); c (p_g - delta_z) with p_g proportional to p_cond^g p_uncond^(1-g).
temperature: softmax(logits / tau). planar, radial: f(z) and log |det|. marginal_velocity_1d: mu = t x1, sigma = 1 -
(1-sigma_min) t: the conditional velocities of the data, p_t(x) and the marginal velocity. gaussian_velocity_1d:
mu = a x1, sigma^2 = 1 - a^2, a = exp(-T/2), T = beta_min s + (beta_max-beta_min) s^2/2 at s = 1 - t."""


def document(*, seed: int = 0) -> str:
    """The text of a file with cases of every kind and method, drawn from a seed."""
    r = Random(seed)
    specs, drawn = {}, None
    while drawn is None:
        specs = dict(_specs(r))
        drawn = _cases(r, specs)
    cases = [{"id": f"{n}-{case['kind']}", **case} for n, case in enumerate(drawn)]
    body = {
        "readme": [json.dumps(line) for line in _README.splitlines()],
        "specs": [f"{json.dumps(name)}: {json.dumps(spec)}" for name, spec in specs.items()],
        "cases": list(map(json.dumps, cases)),
    }
    rows = {name: ",\n  ".join(lines) for name, lines in body.items()}
    return f'{{"readme": [\n  {rows["readme"]}],\n"specs": {{\n  {rows["specs"]}}},\n"cases": [\n  {rows["cases"]}]}}\n'


# Numbers


def _by(function: Callable[[Decimal], Decimal]) -> Callable[[Any], Any]:
    """A function of decimals as one of fractions, elementwise, to 60 digits."""

    def value(x: Any) -> Fraction:
        with localcontext(prec=60):
            return Fraction(function(Decimal(Fraction(x).numerator) / Decimal(Fraction(x).denominator)))

    return np.vectorize(value, otypes=[object])


_exp, _log, _sqrt = _by(Decimal.exp), _by(Decimal.ln), _by(Decimal.sqrt)
_PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")


def _rounded(x: Any) -> Fraction:
    """A fraction of long terms to 50 decimals."""
    return x if x.denominator < 10**50 else Fraction(round(x * 10**50), 10**50)


_each_rounded = np.vectorize(_rounded, otypes=[object])


def _sin(x: Fraction) -> Fraction:
    """By its series, for 0 <= x <= pi / 2."""
    x = term = total = _rounded(x)
    for n in range(2, 60, 2):
        term = _rounded(-term * x * x / (n * (n + 1)))
        total += term
    return total


def _exact_log(p: Table) -> Table:
    """log p where p > 0, and 0 where it does not count; of floats in floats."""
    positive = np.where(p > 0, p, 1)
    return np.asarray(_log(positive) if p.dtype == object else np.log(positive))


def _text(value: Any) -> Any:
    """Outputs as the file holds them: nested lists of decimals, whole numbers as they are, None as null."""
    if isinstance(value, list | tuple | np.ndarray) and np.ndim(value):
        return [_text(row) for row in value]
    value = value.item() if isinstance(value, np.ndarray | np.generic) else value
    if value is None or type(value) is int:
        return value
    if isinstance(value, float):
        return repr(value)
    with localcontext(prec=25):
        return str(Decimal(value.numerator) / Decimal(value.denominator)).lower()


# Paths and models


class _Path(NamedTuple):
    """A spec in the oracle's tables, exact."""

    spec: Fields
    problem: oracle.Problem
    data: int

    @property
    def d(self) -> int:
        return int(self.spec["d"])

    @property
    def N(self) -> int:
        return int(self.spec["N"])

    @property
    def states(self) -> Table:
        return oracle.states(self.d, self.N)

    def kappa(self, t: Any) -> Table:
        return np.array([[_kappa(k, t)[0] for k in row] for row in self.spec["kappa"]])

    def kappa_dot(self, t: Any) -> Table:
        return np.array([[_kappa(k, t)[1] for k in row] for row in self.spec["kappa"]])

    def law(self, t: Any) -> Table:
        return oracle.marginal(self.problem, self.kappa(t))

    def floats(self) -> "_Path":
        """The path in floats, of which times are floats too."""
        x_0, x_1, pi, w = self.problem
        return self._replace(problem=oracle.Problem(x_0, x_1, pi.astype(np.float64), w.astype(np.float64)))


def _kappa(fields: Fields, t: Any) -> tuple[Any, Any]:
    """kappa and kappa_dot at a time, of the kind of number that the time is."""
    if fields["type"] == "poly":
        coef = _numbers(fields["coef"], t)[None]
        slope = oracle.derivative(coef) if coef.shape[1] > 1 else 0 * coef
        return oracle.evaluate(coef, t)[0], oracle.evaluate(slope, t)[0]
    kappa: Any = sin(pi * t / 2) ** 2
    rise: Any = pi * sin(pi * t / 2) * cos(pi * t / 2)
    if isinstance(t, Fraction):
        kappa = Fraction(round(_sin(_PI * t / 2) ** 2 * 10**45), 10**45)  # 1 at t = 1
        rise = _rounded(_PI * _sin(_PI * t / 2) * _sin(_PI * (1 - t) / 2))
    return (kappa, rise) if fields["type"] == "sin2" else (1 - kappa, -rise)


def _numbers(values: Any, t: Any) -> Table:
    """Exact numbers of a file as the kind of number that the time is."""
    numbers = oracle.exact(values)
    return numbers if isinstance(t, Fraction) else numbers.astype(np.float64)


def _path(spec: Fields) -> _Path:
    d, N = spec["d"], spec["N"]
    ends = {"x0": oracle.at_x_0(d), "x1": oracle.at_x_1(d)}
    tables = []
    for w in spec["w"]:
        probs = oracle.exact(w["probs"]) if "probs" in w else None
        tables.append(ends[w["type"]] if probs is None else oracle.fixed(probs) if w["type"] == "fixed" else probs)
    coupling = oracle.exact(np.zeros((d**N, d**N), dtype=int))
    for x_0, x_1, p in spec["pi"]:
        coupling[_index(x_0, d), _index(x_1, d)] = Fraction(p)
    components = np.stack([oracle.exact(table) for table in tables])
    return _Path(spec, oracle.enumerate_pairs(coupling, components), [w["type"] for w in spec["w"]].index("x1"))


def _index(x: Any, d: int) -> int:
    return int(np.asarray(x) @ d ** np.arange(len(x))[::-1])


def _model(path: _Path, model: Fields, t: Any) -> Table:
    """w_hat of the model, [m, N, S, d]."""
    w_hat, reachable = oracle.posteriors(path.problem, path.kappa(t))
    if model["type"] == "exact":
        return w_hat
    eps, base = _numbers(model["eps"], t), _numbers(model["base"], t)
    share = np.where(reachable, 1 - eps, 0 * eps)[:, None]
    mixed = share * w_hat + (1 - share) * base
    if model["type"] == "mask_mix":
        here = oracle.delta(path.states.T, path.d)
        hidden = (path.states == model["mask"]).T[..., None]
        mixed[0] = oracle.delta(np.array(model["mask"]), path.d)
        mixed[path.data] = np.where(hidden, mixed[path.data], here)
    return np.asarray(mixed)


def _forward(path: _Path, w_hat: Table, t: Any) -> Table:
    a, b, _ = oracle.coefficients(path.kappa(t), path.kappa_dot(t))
    return oracle.velocity(a, b, w_hat)


def _backward(path: _Path, w_hat: Table, t: Any) -> Table:
    a, b, _ = oracle.coefficients(path.kappa(t), -path.kappa_dot(t))
    return -oracle.velocity(a, b, w_hat)


def _reached(path: _Path, t: Fraction, table: Table) -> Table:
    """A table [..., S, d] with None where p_t(z) = 0."""
    return _where((path.law(t) > 0)[:, None], table)


def _where(known: Table, table: Table) -> Table:
    """The table as objects, None where it is not known."""
    return np.asarray(np.where(known, table, np.array(None)))


# One-step laws, matrices [x, z]


def _off_diagonal(u: Table) -> Table:
    N, _, d = u.shape
    return np.where(oracle.delta(oracle.states(d, N).T, d) == 1, 0 * u, u)


def _exponential(u: Table, h: Fraction) -> Table:
    """Token laws [N, S, d] of the first event of the rates off the diagonal."""
    N, _, d = u.shape
    rates = _off_diagonal(u)
    total = rates.sum(axis=-1, keepdims=True)
    stay = _exp(-h * total)
    return np.asarray(
        stay * oracle.delta(oracle.states(d, N).T, d) + (1 - stay) * rates / np.where(total > 0, total, 1)
    )


def _token_laws(path: _Path, case: Fields, t: Fraction, s: Fraction) -> Table:
    """Token laws [N, S, d] of the methods of one stage."""
    method, h, w_hat = case["method"], s - t, _model(path, case["model"], t)
    if method == "euler":
        return oracle.euler_kernel(_forward(path, w_hat, t), h)
    if method == "exp":
        return _exponential(_forward(path, w_hat, t), h)
    if method == "finite":
        return oracle.finite_kernel(*oracle.finite_coefficients(path.kappa(t), path.kappa(s)), w_hat)
    stay, w = oracle.delta(path.states.T, path.d), w_hat[path.data]
    k, k_dot, k_s = (column[:, path.data, None, None] for column in (path.kappa(t), path.kappa_dot(t), path.kappa(s)))
    if method == "kappa":
        left = (1 - k_s) / (1 - k)
        return np.asarray(left * stay + (1 - left) * w)
    div_free, p0 = Fraction(case.get("div_free", 0)), oracle.exact(case.get("p0", [0] * path.d))
    laws = []
    for x_1 in oracle.delta(np.arange(path.d), path.d):
        noise = div_free * k_dot / (k * (1 - k)) * ((1 - k) * p0 + k * x_1) if div_free else 0
        laws.append(_exponential(k_dot / (1 - k) * x_1 + noise + Fraction(0) * stay, h))
    return np.asarray(sum(w[..., x, None] * law for x, law in enumerate(laws)))


def _kernel(path: _Path, case: Fields, t: Fraction, s: Fraction) -> Table:
    return np.asarray(_each_rounded(_long_kernel(path, case, t, s)))


def _long_kernel(path: _Path, case: Fields, t: Fraction, s: Fraction) -> Table:
    h = s - t
    if case["method"] == "trapezoid":
        theta = Fraction(case["theta"])
        middle = t + theta * h
        u = _off_diagonal(_forward(path, _model(path, case["model"], t), t))
        v = _off_diagonal(_forward(path, _model(path, case["model"], middle), middle))
        a_1 = 1 / (2 * theta * (1 - theta))
        a_2 = ((1 - theta) ** 2 + theta**2) / (2 * theta * (1 - theta))
        first = oracle.joint_kernel(_exponential(u, theta * h))
        columns = []
        for z in range(len(path.states)):
            rates = np.maximum(a_1 * v - a_2 * u[:, z, None, :], 0)
            columns.append(oracle.joint_kernel(_exponential(rates, (1 - theta) * h)) @ first[:, z])
        return np.stack(columns, axis=-1)
    if case["method"] == "pc":
        law = oracle.joint_kernel(_token_laws(path, case | {"method": "euler"}, t, s))
        w_hat = _model(path, case["model"], s)
        u = _forward(path, w_hat, s) - _backward(path, w_hat, s)
        corrector = oracle.joint_kernel(oracle.euler_kernel(u, Fraction(case["corrector_step"])))
        for _ in range(case["corrector_iters"]):
            law = corrector @ _each_rounded(law)
        return law
    return oracle.joint_kernel(_token_laws(path, case, t, s))


# Outputs by kind


def _path_marginal(path: _Path, case: Fields) -> Fields:
    t = Fraction(case["t"])
    return {"p": path.law(t), "dp": oracle.marginal_dot(path.problem, path.kappa(t), path.kappa_dot(t))}


def _coefficients(path: _Path, case: Fields) -> Fields:
    t, i = Fraction(case["t"]), case["token"]
    kappa, kappa_dot = path.kappa(t), path.kappa_dot(t)
    outputs: Fields = {"kappa": kappa[i], "kappa_dot": kappa_dot[i]}
    if t < 1:
        a, b, ell = oracle.coefficients(kappa, kappa_dot)
        outputs |= {"a": a[i], "b": b[i], "ell": int(ell[i])}
    if t > 0:
        a, b, ell = oracle.coefficients(kappa, -kappa_dot)
        outputs |= {"a_max": -a[i], "b_max": -b[i], "ell_max": int(ell[i])}
    return outputs


def _posterior(path: _Path, case: Fields) -> Fields:
    t = Fraction(case["t"])
    return {"w_hat": _reached(path, t, oracle.posteriors(path.problem, path.kappa(t)).w_hat)}


def _velocity(path: _Path, case: Fields) -> Fields:
    t = Fraction(case["t"])
    return {"u": _reached(path, t, _forward(path, oracle.posteriors(path.problem, path.kappa(t)).w_hat, t))}


def _backward_velocity(path: _Path, case: Fields) -> Fields:
    t = Fraction(case["t"])
    return {"u": _reached(path, t, _backward(path, oracle.posteriors(path.problem, path.kappa(t)).w_hat, t))}


def _corrector_velocity(path: _Path, case: Fields) -> Fields:
    alpha, beta = Fraction(case["alpha"]), Fraction(case["beta"])
    t = Fraction(case["t"])
    w_hat = oracle.posteriors(path.problem, path.kappa(t)).w_hat
    return {"u": _reached(path, t, alpha * _forward(path, w_hat, t) - beta * _backward(path, w_hat, t))}


def _one_pair(path: _Path, case: Fields) -> _Path:
    return _path(path.spec | {"pi": [[case["x0"], case["x1"], "1"]]})


def _conditional_velocity(path: _Path, case: Fields) -> Fields:
    return {"u": _forward(path, oracle.given_pair(_one_pair(path, case).problem, 0), Fraction(case["t"]))}


def _one_step(path: _Path, case: Fields) -> Fields:
    t = Fraction(case["t"])
    return {"law": _kernel(path, case, t, t + Fraction(case["h"]))[:, _index(case["z"], path.d)]}


def _k_step(path: _Path, case: Fields) -> Fields:
    t_0, t_1 = Fraction(case["t0"]), Fraction(case["t1"])
    law, h = path.law(t_0), (t_1 - t_0) / case["K"]
    for k in range(case["K"]):
        law = _kernel(path, case, t_0 + k * h, t_0 + (k + 1) * h) @ law
        law = _each_rounded(law)
    return {"law": law}


def _orders(path: _Path, probs_1: Table, x_1: Any) -> Iterator[Table]:
    """p(x_1^i | those before) along every order in which tokens may be revealed."""
    for order in permutations(range(path.N)):
        x, factors = [path.d - 1] * path.N, []
        for i in order:
            factors.append(probs_1[i, _index(x, path.d), x_1[i]])
            x[i] = x_1[i]
        yield np.array(factors)


def _time_free(path: _Path, model: Fields) -> Table:
    """The model's posterior of the data, [N, S, d], which on a mask path is the same at every time inside (0, 1)."""
    return np.asarray(_model(path, model, Fraction(1, 2))[path.data])


def _probability(path: _Path, probs_1: Table, x_1: Any) -> Any:
    factors = list(_orders(path, probs_1, x_1))
    return sum(map(prod, factors)) / Fraction(len(factors))


def _any_order_law(path: _Path, case: Fields) -> Fields:
    probs_1 = _time_free(path, case["model"])
    states = path.states.tolist()
    return {"law": [_probability(path, probs_1, x) if path.d - 1 not in x else Fraction(0) for x in states]}


def _evolve(path: _Path, model: Fields, law: Table, t_0: Fraction, t_1: Fraction) -> Table:
    """dp/dt = Q p in floats, in the time itself."""
    path = path.floats()

    def slope(t: float, p: Table) -> Table:
        return oracle.generator(_forward(path, _model(path, model, t), t)) @ p

    ends = (float(t_0), float(t_1))
    return np.asarray(solve_ivp(slope, ends, law.astype(float), method="DOP853", rtol=1e-12, atol=1e-15).y[:, -1])


def _ctmc_law(path: _Path, case: Fields) -> Fields:
    t_0, t_1 = Fraction(case["t0"]), Fraction(case["t1"])
    if t_1 == 1:  # of a mask path alone, from t = 0
        return _any_order_law(path, case)
    return {"law": _evolve(path, case["model"], path.law(t_0), t_0, t_1)}


def _cross_entropy(path: _Path, case: Fields) -> Fields:
    t = Fraction(case["t"])
    joint = path.problem.pi[:, None] * oracle.conditional(path.problem, path.kappa(t))
    nats = -_exact_log(_model(path, case["model"], t))
    return {"value": np.einsum("pz,pjix,jizx->", joint, path.problem.w, nats)}


def _running(path: _Path, model: Fields, problem: oracle.Problem, t: Any) -> Any:
    """E over pairs and states of sum_i sum_{x != z^i} u log(u/v) - u + v."""
    v = _off_diagonal(_forward(path, _model(path, model, t), t))
    laws = oracle.conditional(problem, path.kappa(t))
    total = 0 * problem.pi[0]
    for pair, weight in enumerate(problem.pi):
        u = _off_diagonal(_forward(path, oracle.given_pair(problem, pair), t))
        each = u * (_exact_log(u) - _exact_log(v)) - u + v
        total += weight * (laws[pair] @ each.sum(axis=(0, 2)))
    return total


def _elbo_integrand(path: _Path, case: Fields) -> Fields:
    return {"value": _running(path, case["model"], _one_pair(path, case).problem, Fraction(case["t"]))}


def _mask_elbo(path: _Path, case: Fields) -> Fields:
    probs_1, x_1 = _time_free(path, case["model"]), case["x1"]
    nats = [-_log(factors).sum() for factors in _orders(path, probs_1, x_1)]
    return {"elbo": sum(nats) / len(nats), "nll": -_log(_probability(path, probs_1, x_1))}


def _elbo_parts(path: _Path, case: Fields) -> Fields:
    T, model, x_1 = Fraction(case["T"]), case["model"], case["x1"]
    rows = (path.problem.x_1 == np.array(x_1)).all(axis=-1)
    given = oracle.Problem(*(table[rows] for table in path.problem))
    given = given._replace(pi=given.pi / given.pi.sum())
    start = path.law(Fraction(0))
    p = np.array([start[_index(x, path.d)] for x in given.x_0])
    w = _model(path, model, T)[path.data]
    nats = -_log(np.stack([w[i, :, x] for i, x in enumerate(x_1)])).sum(axis=0)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    times, pairs = float(T) * (1 + nodes) / 2, path.floats()._replace(problem=given).floats().problem
    values = [_running(path.floats(), model, pairs, float(t)) for t in times]
    law = _evolve(path, model, start, Fraction(0), T)
    return {
        "prior": given.pi @ (_log(given.pi) - _log(p)),
        "running": float(T / 2 * float(weights @ np.array(values))),
        "terminal": given.pi @ oracle.conditional(given, path.kappa(T)) @ nats,
        "nll": float(-np.log(law @ np.exp(-nats.astype(float)))),
    }


_MONOMIALS = {"t": 1, "t^2": 2, "t^3": 3}


def _softmax(logits: Table) -> Table:
    weights = _exp(logits)
    return np.asarray(weights / weights.sum())


def _gkl_pointwise(case: Fields) -> Fields:
    n, t = _MONOMIALS[case["schedule"].removeprefix("kappa=")], Fraction(case["t"])
    p, x_t, x_1 = _softmax(oracle.exact(case["logits"])), case["x_t"], case["x_1"]
    excess = p[x_t] - 1 if x_t == x_1 else p[x_t] + _log(p[x_1])
    return {"value": -n * t ** (n - 1) / (1 - t**n) * excess}


def _kinetic(p: Table, dp: Table) -> Table:
    """u[1][z][x] = max(0, p(z) dp(x) - dp(z) p(x)) / p(z), None where p(z) = 0."""
    flux = np.maximum(p[:, None] * dp - dp[:, None] * p, 0) / np.where(p > 0, p, 1)[:, None]
    return _where((p > 0)[:, None], flux - np.diag(flux.sum(axis=1)))[None]


def _metric_path(case: Fields) -> Fields:
    distance, beta_dot = oracle.exact(case["dist"])[:, case["x1"]], Fraction(case["beta_dot"])
    p = _softmax(-Fraction(case["beta"]) * distance)
    dp = beta_dot * p * (p @ distance - distance)
    return {"p": p, "dp": dp, "u": _kinetic(p, dp)}


def _kinetic_optimal(path: _Path, case: Fields) -> Fields:
    outputs = _path_marginal(path, case)
    return outputs | {"u": _kinetic(outputs["p"], outputs["dp"])}


def _first_hitting_time(case: Fields) -> Fields:
    t, U, name = Fraction(case["t"]), oracle.exact(case["U"]), case["schedule"]
    n = _MONOMIALS.get(name, 0)
    kappa = t**n if n else _sin(_PI * t / 2) ** 2
    target = 1 - (1 - kappa) * _exp(_log(U) / case["n_masked"])
    if n:
        return {"s": _exp(_log(target) / n)}
    return {"s": [2 / pi * asin(float(_sqrt(k)) if k < 1 else 1.0) for k in target]}


def _step_bound(path: _Path, case: Fields) -> Fields:
    t = Fraction(case["t"])
    w_hat, reachable = oracle.posteriors(path.problem, path.kappa(t))
    rates = _off_diagonal(_forward(path, w_hat, t)).sum(axis=-1)[:, reachable]
    b = oracle.coefficients(path.kappa(t), path.kappa_dot(t)).b
    return {"h_safe": -1 / b.min(), "h_tight": 1 / rates.max()}


def _guidance(case: Fields) -> Fields:
    (p_c, p_u), z = (oracle.exact(case[name]) for name in ("p_cond", "p_uncond")), case["z"]
    g, c = Fraction(case["gamma"]), Fraction(case["jump_coefficient"])
    p = _exp(g * _log(p_c) + (1 - g) * _log(p_u))
    here = oracle.delta(np.array(z), len(p))
    rates = c * p * (1 - here)
    return {"rate_guided": rates - here * rates.sum(), "posterior_guided": c * (p / p.sum() - here)}


def _temperature(case: Fields) -> Fields:
    return {"values": _softmax(oracle.exact(case["logits"]) / Fraction(case["tau"]))}


def _planar(case: Fields) -> Fields:
    w, u, z = (oracle.exact(case[name]) for name in ("w", "u", "z"))
    grown = _exp(2 * (w @ z + Fraction(case["b"])))
    bend = (grown - 1) / (grown + 1)
    return {"f": z + u * bend, "log_abs_det": _log(1 + (1 - bend**2) * (w @ u))}


def _radial(case: Fields) -> Fields:
    away = oracle.exact(case["z"]) - oracle.exact(case["z0"])
    alpha, beta, r = Fraction(case["alpha"]), Fraction(case["beta"]), _sqrt(away @ away)
    grow = 1 + beta / (alpha + r)
    det = grow ** (len(away) - 1) * (grow - beta * r / (alpha + r) ** 2)
    return {"f": oracle.exact(case["z"]) + (grow - 1) * away, "log_abs_det": _log(det)}


def _marginal_velocity(case: Fields) -> Fields:
    data, q = oracle.exact(case["data"]), oracle.exact(case["q"])
    t, x, s = Fraction(case["t"]), Fraction(case["x"]), Fraction(case["sigma_min"])
    sigma = 1 - (1 - s) * t
    density = q * _exp(-(((x - t * data) / sigma) ** 2) / 2) / (sigma * _sqrt(2 * _PI))
    values = (data - (1 - s) * x) / sigma
    return {"values": values, "p": density.sum(), "u": density @ values / density.sum()}


def _gaussian_velocity(case: Fields) -> Fields:
    low, high, x_1, x = (Fraction(case[name]) for name in ("beta_min", "beta_max", "x1", "x"))
    s = 1 - Fraction(case["t"])
    T, T_dot = low * s + (high - low) * s * s / 2, low + (high - low) * s
    return {"value": -T_dot / 2 * (_exp(-T) * x - _exp(-T / 2) * x_1) / (1 - _exp(-T))}


_OF_PATHS: dict[str, Callable[[_Path, Fields], Fields]] = {
    "path_marginal": _path_marginal,
    "coefficients": _coefficients,
    "posterior": _posterior,
    "velocity": _velocity,
    "backward_velocity": _backward_velocity,
    "corrector_velocity": _corrector_velocity,
    "conditional_velocity": _conditional_velocity,
    "one_step": _one_step,
    "k_step": _k_step,
    "any_order_law": _any_order_law,
    "ctmc_law": _ctmc_law,
    "cross_entropy": _cross_entropy,
    "elbo_integrand": _elbo_integrand,
    "mask_elbo": _mask_elbo,
    "elbo_parts": _elbo_parts,
    "kinetic_optimal": _kinetic_optimal,
    "step_bound": _step_bound,
}
_OF_NUMBERS: dict[str, Callable[[Fields], Fields]] = {
    "gkl_pointwise": _gkl_pointwise,
    "metric_path": _metric_path,
    "first_hitting_time": _first_hitting_time,
    "guidance": _guidance,
    "temperature": _temperature,
    "planar": _planar,
    "radial": _radial,
    "marginal_velocity_1d": _marginal_velocity,
    "gaussian_velocity_1d": _gaussian_velocity,
}
_INTEGRATED = {"ctmc_law", "mask_elbo", "elbo_parts"}


# Random inputs


def _pmf(r: Random, size: int) -> list[str]:
    weights = [r.randint(1, 9) for _ in range(size)]
    return [str(Fraction(w, sum(weights))) for w in weights]


def _poly(*coef: Any) -> Fields:
    return {"type": "poly", "coef": [str(Fraction(c)) for c in coef]}


def _pair(kappa: Any) -> list[Fields]:
    """The schedules of x0 and x1."""
    if kappa == "cosine":
        return [{"type": "cos2"}, {"type": "sin2"}]
    return [_poly(1 - kappa[0], *(-Fraction(c) for c in kappa[1:])), _poly(*kappa)]


LINEAR, SQUARE, CUBE, BENT, SMOOTH = (0, 1), (0, 0, 1), (0, 0, 0, 1), (0, 1, 1, -1), (0, 0, 3, -2)


def _bernstein(r: Random, m: int) -> list[Fields]:
    """Random cubics of m components by control points, from the first component alone to the last alone."""
    ends = [[int(j == end) for j in range(m)] for end in (0, m - 1)]
    control = oracle.exact([ends[0], _pmf(r, m), _pmf(r, m), ends[1]])
    rows = [[comb(3, k) * comb(3 - k, n - k) * (-1) ** (n - k) if n >= k else 0 for n in range(4)] for k in range(4)]
    return [_poly(*column) for column in (control.T @ np.array(rows, dtype=object)).tolist()]


def _independent(r: Random, d: int, N: int, source: list[str], data: list[list[int]]) -> list[Any]:
    q = _pmf(r, len(data))
    pairs = []
    for x_0 in oracle.states(d, N).tolist():
        p = prod(Fraction(source[x]) for x in x_0)
        pairs += [[x_0, x_1, str(p * Fraction(share))] for x_1, share in zip(data, q, strict=True) if p]
    return pairs


def _correlated(r: Random, d: int, N: int, count: int) -> list[Any]:
    every = oracle.states(d, N).tolist()
    chosen = sorted(r.sample([(x_0, x_1) for x_0 in every for x_1 in every], count))
    return [[*ends, p] for ends, p in zip(chosen, _pmf(r, count), strict=True)]


def _specs(r: Random) -> Iterator[tuple[str, Fields]]:
    def spec(d: int, kappa: list[list[Fields]], w: list[Fields], pi: list[Any]) -> Fields:
        return {"d": d, "N": len(kappa), "kappa": kappa, "w": w, "pi": pi}

    x0: Fields = {"type": "x0"}
    x1: Fields = {"type": "x1"}
    ends = [x0, x1]

    def mask(d: int, *kappas: Any, data: list[list[int]] | None = None) -> Fields:
        N, source = len(kappas), ["0"] * (d - 1) + ["1"]
        data = data or oracle.states(d - 1, N).tolist()
        return spec(d, [_pair(kappa) for kappa in kappas], ends, _independent(r, d, N, source, data))

    yield "mask_linear", mask(3, LINEAR, LINEAR)
    yield "mask_cosine", mask(3, "cosine", "cosine")
    yield "mask_three", mask(4, BENT, BENT, BENT, data=r.sample(oracle.states(3, 3).tolist(), 9))
    yield "mask_sparse", mask(3, SQUARE, SQUARE, SQUARE, data=r.sample(oracle.states(2, 3).tolist(), 3))
    yield "mask_per_token", mask(3, LINEAR, CUBE)
    uniform, every = ["1/3"] * 3, oracle.states(3, 2).tolist()
    yield "uniform_linear", spec(3, [_pair(LINEAR)] * 2, ends, _independent(r, 3, 2, uniform, every))
    data = oracle.states(2, 2).tolist()
    yield "uniform_cosine", spec(2, [_pair("cosine")] * 2, ends, _independent(r, 2, 2, ["1/2"] * 2, data))
    yield "any_source", spec(3, [_pair(SMOOTH)] * 2, ends, _independent(r, 3, 2, _pmf(r, 3), r.sample(every, 4)))
    yield "correlated", spec(3, [_pair(SQUARE)] * 2, ends, _correlated(r, 3, 2, 14))
    yield "correlated_per_token", spec(3, [_pair(SQUARE), _pair(BENT)], ends, _correlated(r, 3, 2, 10))
    yield "tiny", spec(2, [_pair(SQUARE), _pair(SMOOTH)], ends, _correlated(r, 2, 2, 7))
    yield "one_bit", spec(2, [_pair("cosine")], ends, _correlated(r, 2, 1, 4))
    prompts = [[[0, 3], x_1] for x_1 in ([0, 1], [0, 2], [0, 0])] + [[[1, 3], x_1] for x_1 in ([1, 1], [1, 2])]
    pi = [[*ends, p] for ends, p in zip(prompts, _pmf(r, 5), strict=True)]
    yield "prompted", spec(4, [_pair(LINEAR)] * 2, ends, pi)
    noise = {"type": "fixed", "probs": _pmf(r, 3)}
    bump = [_poly(1, -1), _poly(0, 0, 1), _poly(0, 1, -1)]
    other = [_poly(1, -2, 1), _poly(0, 0, 0, 1), _poly(0, 2, -1, -1)]
    yield "fixed", spec(3, [bump] * 2, [x0, x1, noise], _correlated(r, 3, 2, 12))
    yield "fixed_per_token", spec(3, [bump, other], [x0, x1, noise], _correlated(r, 3, 2, 12))
    table = {"type": "table", "probs": [[_pmf(r, 3) for _ in range(3)] for _ in range(3)]}
    yield "table", spec(3, [_bernstein(r, 3)], [x0, table, x1], _correlated(r, 3, 1, 6))
    switch = [_poly(1, -2, 1), _poly(0, 0, 1, -3, 3, -1), _poly(0, 2, -2, 3, -3, 1)]  # at t = 2/3, where two tie
    yield "switching", spec(3, [switch] * 2, [x0, noise, x1], _correlated(r, 3, 2, 10))
    idle = [_poly(1, -1), _poly(0), _poly(0, 1)]
    touching = [_poly(1, -5, 8, -4), _poly(0, 4, -8, 4), _poly(0, 1)]  # (1 - t) (1 - 2t)^2 is 0 at t = 1/2
    two = [x0, {"type": "fixed", "probs": _pmf(r, 2)}, x1]
    yield "touching", spec(2, [idle, touching], two, _correlated(r, 2, 2, 6))
    second = {"type": "fixed", "probs": _pmf(r, 3)}
    four = [_bernstein(r, 4) for _ in range(2)]
    yield "four", spec(3, four, [x0, noise, second, x1], _correlated(r, 3, 2, 8))


# The plan of a file: kinds, the specs they are asked of, and how their inputs are drawn

Draw: TypeAlias = Callable[[Random, Any], Fields]


_MOST_DRAWS = 20


def _cases(r: Random, specs: dict[str, Fields]) -> list[Fields] | None:
    """Cases with their outputs, each drawn again until it tells; None where a spec seems to have none that tells."""
    cases = []
    paths = {name: _path(spec) for name, spec in specs.items()}
    for kind, names, draw in _plan():
        for name in names or ("",):
            drawn = islice(_drawn(r, kind, name, paths.get(name), draw), _MOST_DRAWS)
            case = next((inputs | outputs for inputs, outputs in drawn if _tells(outputs, kind)), None)
            if case is None:
                return None
            cases.append(case)
    return cases


def _drawn(r: Random, kind: str, name: str, path: Any, draw: Draw) -> Iterator[tuple[Fields, Fields]]:
    while True:
        inputs = {"kind": kind, **({"spec": name} if name else {}), **draw(r, path)}
        outputs = _OF_PATHS[kind](path, inputs) if name else _OF_NUMBERS[kind](inputs)
        yield inputs, {field: _text(value) for field, value in outputs.items()}


def _tells(outputs: Any, kind: str) -> bool:
    """Whether a change in the sixth digit of any number exceeds its tolerance."""
    if isinstance(outputs, dict | list):
        return all(_tells(row, kind) for row in (outputs.values() if isinstance(outputs, dict) else outputs))
    size = 0.0 if outputs is None else abs(float(outputs))
    relative, absolute = (1e-6, 1e-9) if kind in _INTEGRATED else (1e-9, 1e-12)
    return size == 0 or 10.0 ** (np.floor(np.log10(size)) - 5) > 1.03 * (relative * size + absolute)


def _time(r: Random) -> str:
    n = r.randint(5, 23)
    return str(Fraction(r.randint(1, n - 1), n))


def _at(t: str = "", **fields: Any) -> Draw:
    """A time and other fields, functions of the path where they are drawn."""

    def draw(r: Random, path: Any) -> Fields:
        made = {name: field(r, path) if callable(field) else field for name, field in fields.items()}
        return {"t": t or _time(r), **made}

    return draw


def _model_of(r: Random, path: _Path) -> Fields:
    model = {"type": "mix", "eps": str(Fraction(r.randint(1, 4), 9)), "base": _pmf(r, path.d)}
    if np.any(path.problem.x_0 != path.d - 1):
        return model
    return model | {"type": "mask_mix", "base": [*_pmf(r, path.d - 1), "0"], "mask": path.d - 1}


def _state(r: Random, path: _Path) -> list[int]:
    return [r.randrange(path.d) for _ in range(path.N)]


def _unmasked(r: Random, path: _Path) -> list[int]:
    return [r.randrange(path.d - 1) for _ in range(path.N)]


def _datum(r: Random, path: _Path) -> list[int]:
    x_1: list[int] = r.choice(path.problem.x_1.tolist())
    return x_1


def _strengths(r: Random, path: _Path) -> Fields:
    beta = Fraction(r.randint(1, 9), 4)
    return {"t": _time(r), "alpha": str(beta + r.randint(0, 1)), "beta": str(beta)}


def _one(method: str, **options: Any) -> Draw:
    def draw(r: Random, path: Any) -> Fields:
        t, h = Fraction(r.randint(2, 9), 12), Fraction(1, r.randint(8, 16))
        inputs = {"model": _model_of(r, path), "method": method, "t": str(t), "h": str(h), "z": _state(r, path)}
        return inputs | options

    return draw


def _many(method: str, t_0: str = "1/10", t_1: str = "9/10", **options: Any) -> Draw:
    def draw(r: Random, path: Any) -> Fields:
        return {"model": _model_of(r, path), "method": method, "t0": t_0, "t1": t_1, "K": r.randint(3, 5)} | options

    return draw


def _process(t_0: str, t_1: str) -> Draw:
    return lambda r, path: {"model": _model_of(r, path), "t0": t_0, "t1": t_1}


def _decimals(r: Random, low: float, high: float, count: int) -> list[str]:
    return [f"{r.uniform(low, high):.2f}" for _ in range(count)]


def _pointwise(schedule: str, *, arrived: bool) -> Draw:
    def draw(r: Random, _: Any) -> Fields:
        x_1, x_t = r.sample(range(4), 2)
        logits = {"logits": _decimals(r, -2, 2, 4), "x_t": x_1 if arrived else x_t, "x_1": x_1}
        return {"schedule": f"kappa={schedule}", **logits, "t": _time(r)}

    return draw


def _metric(size: int, power: int) -> Draw:
    def draw(r: Random, _: Any) -> Fields:
        places = sorted(r.sample(range(3 * size), size))
        distance = [[abs(a - b) ** power for b in places] for a in places]
        rates = {"beta": str(Fraction(r.randint(1, 4), 9)), "beta_dot": str(Fraction(r.randint(2, 9), 3))}
        return {"dist": distance, "x1": r.randrange(size), **rates}

    return draw


def _hitting(schedule: str) -> Draw:
    def draw(r: Random, _: Any) -> Fields:
        U = [str(Fraction(r.randint(1, 22), 23)) for _ in range(3)]
        return {"schedule": schedule, "t": _time(r), "n_masked": r.randint(1, 9), "U": U}

    return draw


def _guided(gamma: str) -> Draw:
    def draw(r: Random, _: Any) -> Fields:
        laws = {"p_cond": _pmf(r, 4), "p_uncond": _pmf(r, 4)}
        return {**laws, "gamma": gamma, "jump_coefficient": str(Fraction(r.randint(2, 9), 4)), "z": r.randrange(4)}

    return draw


def _tempered(r: Random, _: Any) -> Fields:
    return {"logits": _decimals(r, -2, 2, 5), "tau": str(Fraction(r.randint(2, 9), 5))}


def _planar_flow(size: int) -> Draw:
    def draw(r: Random, _: Any) -> Fields:
        w, u, z = _decimals(r, 0.1, 1, size), _decimals(r, 0.1, 1, size), _decimals(r, -1, 1, size)
        return {"w": w, "u": u, "b": _decimals(r, -1, 1, 1)[0], "z": z}

    return draw


def _radial_flow(size: int) -> Draw:
    def draw(r: Random, _: Any) -> Fields:
        z_0, z = _decimals(r, -1, 1, size), _decimals(r, -1, 1, size)
        return {"z0": z_0, "alpha": _decimals(r, 0.6, 2, 1)[0], "beta": _decimals(r, -0.5, 2, 1)[0], "z": z}

    return draw


def _finite_data(r: Random, _: Any) -> Fields:
    (s,), (t,), (x,) = _decimals(r, 0, 0.3, 1), _decimals(r, 0.1, 0.9, 1), _decimals(r, -1, 1, 1)
    return {"data": _decimals(r, -2, 2, 3), "q": _pmf(r, 3), "sigma_min": s, "t": t, "x": x}


def _one_datum(r: Random, _: Any) -> Fields:
    (t,), (x_1, x) = _decimals(r, 0.05, 0.95, 1), _decimals(r, -2, 2, 2)
    return {"beta_min": "0.1", "beta_max": "20", "t": t, "x1": x_1, "x": x}


_THETA, _CORRECTOR = {"theta": "2/5"}, {"corrector_step": "1/40", "corrector_iters": 2}
_FREE = {"div_free": "3/4", "p0": ["1/3", "1/3", "1/3"]}


def _plan() -> Iterator[tuple[str, tuple[str, ...], Draw]]:
    """Kinds, the specs that each is asked of, if of any, and how to draw the rest."""
    yield "path_marginal", ("mask_cosine", "correlated_per_token", "table", "prompted", "four"), _at()
    yield "path_marginal", ("mask_linear", "any_source"), _at("0")
    yield "path_marginal", ("switching", "mask_per_token"), _at("1")
    some = _at(token=lambda r, path: r.randrange(path.N))
    yield "coefficients", ("fixed_per_token", "switching", "mask_cosine", "four", "table", "touching"), some
    yield "coefficients", ("fixed_per_token", "uniform_linear"), _at("0", token=1)
    yield "coefficients", ("switching", "mask_linear"), _at("1", token=0)
    yield "coefficients", ("switching",), _at("2/3", token=1)
    yield "coefficients", ("touching",), _at("1/2", token=1)
    yield "posterior", ("correlated", "mask_sparse", "prompted", "uniform_cosine"), _at()
    yield "velocity", ("correlated_per_token", "fixed_per_token", "mask_sparse", "four", "prompted"), _at()
    yield "velocity", ("fixed_per_token",), _at("0")
    yield "velocity", ("touching",), _at("1/2")
    yield "backward_velocity", ("correlated", "fixed", "uniform_cosine", "switching"), _at()
    yield "corrector_velocity", ("correlated", "uniform_cosine", "table", "mask_linear"), _strengths
    yield "conditional_velocity", ("four", "fixed_per_token", "table"), _at(x0=_state, x1=_state)
    single = ("correlated", "mask_linear")
    yield "one_step", (*single, "fixed", "uniform_cosine"), _one("euler")
    yield "one_step", (*single, "fixed_per_token"), _one("exp")
    yield "one_step", (*single, "fixed_per_token", "switching", "four"), _one("finite")
    yield "one_step", (*single, "correlated_per_token", "fixed_per_token"), _one("kappa")
    yield "one_step", (*single, "fixed_per_token"), _one("meta")
    yield "one_step", ("uniform_linear",), _one("meta", **_FREE)
    yield "one_step", (*single, "fixed"), _one("trapezoid", **_THETA)
    yield "one_step", (*single, "fixed_per_token"), _one("pc", **_CORRECTOR)
    yield "one_step", ("uniform_linear",), _one("finite", model={"type": "exact"})
    for method, options in (("euler", {}), ("exp", {}), ("meta", {}), ("trapezoid", _THETA), ("pc", _CORRECTOR)):
        yield "k_step", ("tiny", "uniform_cosine"), _many(method, **options)
    yield "k_step", ("mask_linear", "correlated", "four"), _many("finite", "0", "1")
    yield "k_step", ("mask_linear", "tiny"), _many("kappa", "0", "1")
    yield "k_step", ("uniform_cosine",), _many("finite", model={"type": "exact"})
    untimed: Draw = lambda r, path: {"model": _model_of(r, path)}  # noqa: E731
    yield "any_order_law", ("mask_linear", "mask_cosine", "mask_three", "mask_sparse"), untimed
    yield "ctmc_law", ("uniform_cosine", "table", "one_bit"), _process("1/10", "4/5")
    yield "ctmc_law", ("mask_linear", "mask_cosine"), _process("0", "1")
    yield "cross_entropy", ("correlated", "fixed_per_token", "switching", "mask_linear"), _at(model=_model_of)
    pair = _at(model=_model_of, x0=_state, x1=_state)
    yield "elbo_integrand", ("correlated", "fixed_per_token", "uniform_cosine", "table"), pair
    hidden: Draw = lambda r, path: {"model": _model_of(r, path), "x1": _unmasked(r, path)}  # noqa: E731
    yield "mask_elbo", ("mask_three", "mask_sparse", "mask_cosine"), hidden
    parts: Draw = lambda r, path: {"model": _model_of(r, path), "T": "4/5", "x1": _datum(r, path)}  # noqa: E731
    yield "elbo_parts", ("uniform_cosine", "tiny", "one_bit"), parts
    yield "kinetic_optimal", ("table", "one_bit"), _at()
    yield "step_bound", ("fixed_per_token", "correlated", "switching", "mask_linear"), _at()
    for schedule in _MONOMIALS:
        yield "gkl_pointwise", (), _pointwise(schedule, arrived=False)
        yield "gkl_pointwise", (), _pointwise(schedule, arrived=True)
    for schedule in (*_MONOMIALS, "sin^2(pi t/2)"):
        yield "first_hitting_time", (), _hitting(schedule)
    yield "metric_path", (), _metric(5, 1)
    yield "metric_path", (), _metric(3, 2)
    for gamma in ("2", "1/2", "5/4"):
        yield "guidance", (), _guided(gamma)
    yield "temperature", (), _tempered
    for size in (1, 2, 3):
        yield "planar", (), _planar_flow(size)
        yield "radial", (), _radial_flow(size)
    yield "marginal_velocity_1d", (), _finite_data
    yield "gaussian_velocity_1d", (), _one_datum
