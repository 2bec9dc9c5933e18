"""Continuous flows: densities against closed forms, determinants of the flow map, mass 1, and Hutchinson's variance."""

import math

import numpy as np
import pytest
from scipy.linalg import expm
from strategies import BACKENDS, backend

from dfm_ref import random
from dfm_ref.arrays import like, logsumexp, namespace
from dfm_ref.continuous import cnf
from dfm_ref.continuous.flows import standard_normal_log_density
from dfm_ref.continuous.gaussian_paths import OptimalTransport, marginal_log_density, marginal_velocity
from dfm_ref.nn.field import Field

RNG = np.random.default_rng(0)
A = RNG.standard_normal((4, 4))
TIGHT = {"rtol": 1e-11, "atol": 1e-11}


class Linear:
    """v = A x."""

    def velocity(self, x, t):
        return x @ like(x, A, x.dtype).T

    def along(self, x, t, dx):
        return self.velocity(x, t), self.velocity(dx, t)

    def divergence(self, x, t):
        return cnf.columns(self, x, t)


class Marginal:
    """The marginal velocity of three points, and its Jacobian: rate + (mu_dot - rate mu) mu Cov(x_1|x) / sigma^2."""

    path = OptimalTransport(sigma_min=0.2)
    data = np.array([[2.0, 0.0], [-1.0, 1.0], [0.5, -1.5]])
    q = np.array([0.5, 0.3, 0.2])

    def velocity(self, x, t):
        return marginal_velocity(self.path, self.data, self.q, x, t)

    def along(self, x, t, dx):
        mu, sigma = self.path.mu(t), self.path.sigma(t)
        rate = self.path.sigma_dot(t) / sigma
        away = x[:, None, :] - mu * self.data
        log_r = np.log(self.q) - np.sum(away**2, axis=-1) / (2 * sigma**2)
        r = np.exp(log_r - logsumexp(log_r)[:, None])
        shifts = dx @ self.data.T
        shifts = (shifts - np.sum(r * shifts, axis=-1, keepdims=True)) * r
        return self.velocity(x, t), rate * dx + (1.0 - rate * mu) * mu / sigma**2 * (shifts @ self.data)

    def divergence(self, x, t):
        return cnf.columns(self, x, t)


def trained(dim=2, *, hidden=16, classes=0, label=None, dtype="float64"):
    """A network away from its start, with biases smooth in time: the k-th wave is damped by exp(-k / 2)."""
    net = Field(dim, hidden=hidden, classes=classes)
    rng = np.random.default_rng(1)
    params = {}
    for name, start in net.init(random.key(0), dtype="float64").items():
        moved = start + rng.standard_normal(start.shape) / math.sqrt(start.shape[1])
        smooth = np.exp(-np.arange(start.shape[1]) / 2) if name.endswith("time") else 1.0
        params[name] = (moved * smooth).astype(dtype)
    return cnf.Bound(net, params, label)


def test_a_linear_flow_is_the_exponential_of_its_matrix():
    x = RNG.standard_normal((5, 4))
    there = cnf.transport(Linear().divergence, x, 0.2, 0.9, **TIGHT)
    np.testing.assert_allclose(there.x, x @ expm(0.7 * A).T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(there.log_det, 0.7 * np.trace(A), rtol=1e-10)
    back = cnf.transport(Linear().divergence, there.x, 0.9, 0.2, **TIGHT)
    np.testing.assert_allclose(back.x, x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(back.log_det, -there.log_det, rtol=1e-10)


def test_the_marginal_velocity_carries_noise_to_the_exact_density():
    field, x, z = Marginal(), 1.5 * RNG.standard_normal((40, 2)), RNG.standard_normal((40, 2))
    for t_1 in (0.5, 1.0):
        exact = marginal_log_density(field.path, field.data, field.q, x, t_1)
        np.testing.assert_allclose(
            cnf.log_prob(field.divergence, x, t_1=t_1, **TIGHT).log_p, exact, rtol=1e-8, atol=1e-8
        )
        pushed = cnf.pushforward(field.divergence, z, t_1=t_1, **TIGHT)
        exact = marginal_log_density(field.path, field.data, field.q, pushed.x, t_1)
        np.testing.assert_allclose(pushed.log_p, exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("label", [0, None])
def test_log_det_is_that_of_the_jacobian_of_the_flow_map(label):
    field, x, h = trained(3, classes=2, label=label), RNG.standard_normal((4, 3)), 1e-4
    tight = {"rtol": 1e-13, "atol": 1e-13}

    def moved(x):
        return cnf.transport(field.divergence, x, 0.0, 1.0, **tight)

    columns = []
    for e in np.eye(3):  # central differences of order 4
        near, far = (moved(x + k * h * e).x - moved(x - k * h * e).x for k in (1, 2))
        columns.append((8 * near - far) / (12 * h))
    sign, log_det = np.linalg.slogdet(np.stack(columns, axis=-1))
    assert np.all(sign == 1)
    np.testing.assert_allclose(np.expm1(moved(x).log_det - log_det), 0.0, atol=1e-9)  # 1e-13 / h is their own error


def test_mass_is_one():
    side = np.linspace(-9.0, 9.0, 181)  # the sum of a smooth density over a grid errs less than any power of its step
    x = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    field = trained(2, hidden=8)
    mass = np.sum(np.exp(cnf.log_prob(field.divergence, x, rtol=1e-10, atol=1e-10).log_p)) * (side[1] - side[0]) ** 2
    assert mass == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_both_ways_agree_to_the_tolerance(tolerance):
    """Within 160 tolerances, there and back, at the worst of 64 points: the most of 12 such fields are 152, of
    torchdiffeq 147, of SciPy's RK45 58."""
    field, z = trained(), np.random.default_rng(0).standard_normal((64, 2))
    forward = cnf.pushforward(field.divergence, z, rtol=tolerance, atol=tolerance)
    back = cnf.log_prob(field.divergence, forward.x, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(back.x, z, rtol=0, atol=160 * tolerance)
    np.testing.assert_allclose(back.log_p, forward.log_p, rtol=0, atol=160 * tolerance)


def test_columns_equal_the_closed_form():
    field, x = trained(5), RNG.standard_normal((7, 5))
    for by_columns, closed in zip(cnf.columns(field, x, 0.3), field.divergence(x, 0.3), strict=True):
        np.testing.assert_allclose(by_columns, closed, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_and_has_the_stated_variance(kind):
    """Mean and variance within 6 standard errors: a right estimator fails for 4e-9 of the keys, by normal laws."""
    x = np.zeros((20000, 4))
    _, draws = cnf.hutchinson(Linear(), cnf.probes(random.key(0), x, kind=kind), x, 0.5)
    S = (A + A.T) / 2
    variance = 2 * np.sum(S**2) - (2 * np.sum(np.diag(S) ** 2) if kind == "rademacher" else 0.0)
    away = draws - np.trace(A)
    assert abs(np.mean(away)) <= 6 * math.sqrt(variance / len(x))
    assert abs(np.mean(away**2) - variance) <= 6 * np.std(away**2) / math.sqrt(len(x))


def test_hutchinson_of_a_solution_is_unbiased():
    """The mean of 4000 estimates of one log-density, within 6 standard errors: 2e-9 of the keys fail."""
    field, x = trained(3), np.tile(RNG.standard_normal((1, 3)), (4000, 1))
    e = cnf.probes(random.key(1), x)
    estimates = cnf.log_prob(lambda x, t: cnf.hutchinson(field, e, x, t), x).log_p
    exact = cnf.log_prob(field.divergence, x[:1]).log_p[0]
    assert np.std(estimates) > 0.01
    assert abs(np.mean(estimates) - exact) <= 6 * np.std(estimates) / math.sqrt(len(x)) + 1e-5


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_a_probe_depends_on_the_number_of_its_point_alone(kind):
    x = np.zeros((6, 3))
    whole = cnf.probes(random.key(7), x, kind=kind)
    assert np.array_equal(cnf.probes(random.key(7), x[2:], kind=kind, first=2), whole[2:])
    assert not np.array_equal(cnf.probes(random.key(8), x, kind=kind), whole)
    assert len(np.unique(whole, axis=0)) > 1


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_libraries_agree(name, dtype):
    library, field = backend(name), trained(2, hidden=8, dtype=dtype)
    there = cnf.Bound(field.net, {n: library.asarray(p) for n, p in field.params.items()})
    x = np.asarray([[0.3, -1.0], [1.2, 0.1]], dtype=dtype)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == "float32" else {"rtol": 1e-8, "atol": 1e-8}
    ours, theirs = (cnf.log_prob(f.divergence, p, **tolerance) for f, p in ((field, x), (there, library.asarray(x))))
    assert theirs.log_p.dtype == library.asarray(x).dtype
    np.testing.assert_allclose(library.to_numpy(theirs.log_p), ours.log_p, rtol=10 * tolerance["rtol"])
    np.testing.assert_allclose(library.to_numpy(theirs.x), ours.x, atol=10 * tolerance["rtol"])
    for kind in ("rademacher", "gaussian"):
        e = cnf.probes(random.key(0), library.asarray(x), kind=kind)
        assert e.dtype == library.asarray(x).dtype
        expected = cnf.probes(random.key(0), x, kind=kind)
        np.testing.assert_allclose(library.to_numpy(e), expected, rtol=10 * np.finfo(dtype).eps)
        estimate = library.to_numpy(cnf.hutchinson(there, e, library.asarray(x), 0.3)[1])
        np.testing.assert_allclose(estimate, cnf.hutchinson(field, expected, x, 0.3)[1], rtol=1e-4)


def test_no_time_and_no_points():
    field, x = trained(), RNG.standard_normal((3, 2))
    still = cnf.transport(field.divergence, x, 0.4, 0.4)
    assert np.array_equal(still.x, x) and not still.log_det.any() and still.evaluations == 0
    assert np.array_equal(cnf.log_prob(field.divergence, x, t_1=0.0).log_p, standard_normal_log_density(x))
    assert cnf.log_prob(field.divergence, x[:0]).log_p.shape == (0,)


def broken(x, t):
    return namespace(x).full_like(x, math.nan), 0 * x[:, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, x: cnf.transport(f.divergence, x, 0.0, 1.5), r"t_0, t_1: expected times in \[0, 1\]"),
        (lambda f, x: cnf.transport(f.divergence, x, -0.1, 1.0), r"t_0, t_1: expected times in \[0, 1\]"),
        (lambda f, x: cnf.log_prob(f.divergence, x, t_1=math.nan), r"t_0, t_1: expected times in \[0, 1\]"),
        (lambda f, x: cnf.pushforward(f.divergence, x, t_1=2.0), r"t_0, t_1: expected times in \[0, 1\]"),
        (lambda f, x: cnf.log_prob(f.divergence, x[0]), r"x: expected points \[B, D\], got shape \(2,\)"),
        (lambda f, x: cnf.log_prob(f.divergence, x[:, :1]), r"x: expected shape \(B, 2\), got \(3, 1\)"),
        (lambda f, x: cnf.log_prob(f.divergence, x, rtol=1e-17), "rtol: expected at least"),
        (lambda f, x: cnf.log_prob(broken, x), "velocity: expected finite values, got nan at t = 1, y"),
        (lambda f, x: cnf.probes(random.key(0), x, kind="normal"), "kind: expected 'rademacher' or 'gaussian'"),
    ],
)
def test_mistakes_are_told(call, message):
    with pytest.raises(ValueError, match=message):
        call(trained(), np.ones((3, 2)))
