"""Laws of every finite flow: determinant, inverse, backward pass, mass 1, expectation, the same on every library."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, backend

from dfm_ref import random
from dfm_ref.continuous import maximum_likelihood, variational
from dfm_ref.continuous.affine import LU, ActNorm, Affine, Reverse
from dfm_ref.continuous.flows import (
    Composed,
    Inverted,
    expectation,
    inverted,
    log_prob,
    pushforward,
    sample,
    standard_normal_log_density,
)
from dfm_ref.continuous.planar import Planar, Radial

MAPS = (Planar, Radial, Affine, ActNorm, LU, Reverse)
KEPT = ("permutation", "signs")  # parameters that are not free


def composed(dim):
    return Composed((LU(dim), Composed((Reverse(dim), Planar(dim))), Inverted(Radial(dim))))


def unbent(dim):
    """The one inverse that needs iterations."""
    return Inverted(Planar(dim))


def random_params(flow, seed, *, spread=0.5):
    """Parameters a normal number of this deviation away from where they start."""
    rng = np.random.default_rng(seed)
    start = flow.init(random.key(seed))
    return {n: p + (0 if n.endswith(KEPT) else spread) * rng.normal(size=p.shape) for n, p in start.items()}


@st.composite
def problems(draw, makes=(*MAPS, composed), spreads=(0.0, 0.5, 2.0), dims=(1, 2, 3, 5)):
    """A flow, its parameters, and a point."""
    flow = draw(st.sampled_from(makes))(draw(st.sampled_from(dims)))
    seed = draw(st.integers(0, 2**32 - 1))
    params = random_params(flow, seed, spread=draw(st.sampled_from(spreads)))
    return flow, params, 2 * np.random.default_rng(seed + 1).normal(size=flow.dim)


def jacobian(flow, params, z):
    torch = pytest.importorskip("torch")
    params = {name: torch.asarray(p) for name, p in params.items()}
    return torch.autograd.functional.jacobian(lambda z: flow.forward(params, z)[0], torch.asarray(z)).numpy()


@settings(max_examples=200)
@given(problem=problems())
def test_the_determinant_is_that_of_the_jacobian(problem):
    flow, params, z = problem
    _, log_det, _ = flow.forward(params, z)
    assert np.exp(log_det) == pytest.approx(abs(np.linalg.det(jacobian(flow, params, z))), rel=1e-10)


@settings(max_examples=300)
@given(problem=problems())
def test_the_inverse_undoes_the_map_and_its_determinant(problem):
    flow, params, z = problem
    x, log_det, _ = flow.forward(params, z)
    back, log_det_back = flow.inverse(params, x)
    tight = 1e-10 * max(1, np.linalg.norm(np.linalg.inv(_differences(flow, params, z)), 2))
    np.testing.assert_allclose(back, z, rtol=0, atol=tight)
    np.testing.assert_allclose(log_det_back, -log_det, rtol=0, atol=10 * tight)


@settings(max_examples=300)
@given(problem=problems())
def test_the_map_undoes_its_inverse_and_its_determinant(problem):
    flow, params, x = problem
    z, log_det = flow.inverse(params, x)
    there, log_det_there, _ = flow.forward(params, z)
    np.testing.assert_allclose(there, x, rtol=0, atol=1e-10 * max(1, *abs(z)))
    np.testing.assert_allclose(log_det_there, -log_det, rtol=0, atol=1e-9)


def _differences(flow, params, z, h=1e-6):
    """The Jacobian to six digits or so."""
    columns = [(flow.forward(params, z + e)[0] - flow.forward(params, z - e)[0]) / (2 * h) for e in h * np.eye(len(z))]
    return np.stack(columns, axis=-1)


def loss_gradients(flow, params, z, dx, dlog_det):
    """The gradients of sum(dx x) + sum(dlog_det log|det|) in parameters and points, by PyTorch."""
    torch = pytest.importorskip("torch")
    params = {name: torch.tensor(p, requires_grad=True) for name, p in params.items()}
    z = torch.tensor(z, requires_grad=True)
    x, log_det, _ = flow.forward(params, z)
    loss = (torch.asarray(dx) * x).sum() + (torch.asarray(dlog_det) * log_det).sum()
    *dparams, dz = torch.autograd.grad(loss, [*params.values(), z], materialize_grads=True)
    return dict(zip(params, (d.numpy() for d in dparams), strict=True)), dz.numpy()


def backward(flow, params, z, dx, dlog_det):
    return flow.backward(params, flow.forward(params, z)[2], dx, dlog_det)


@st.composite
def gradients(draw, **options):
    """A flow, its parameters, a batch of points, and the gradients of a loss in x and log|det|."""
    flow, params, _ = draw(problems(**options))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([(), (3,), (2, 2)]))
    z, dx = rng.normal(size=(2, *shape, flow.dim))
    return flow, params, z, dx, rng.normal(size=shape)


@settings(max_examples=300)
@given(problem=gradients(makes=(*MAPS, composed, *(lambda dim, make=make: Inverted(make(dim)) for make in MAPS[1:]))))
def test_the_backward_pass_is_that_of_pytorch(problem):
    flow, params, z, dx, dlog_det = problem
    dparams, dz = backward(flow, params, z, dx, dlog_det)
    free = {name for name in params if not name.endswith(KEPT)}
    exact, exact_dz = loss_gradients(flow, params, z, dx, dlog_det)
    assert list(dparams) == list(params)
    for name in free:
        np.testing.assert_allclose(dparams[name], exact[name], rtol=1e-9, atol=1e-9 * scale(exact))
    np.testing.assert_allclose(dz, exact_dz, rtol=1e-9, atol=1e-9 * scale({"": exact_dz}))


def scale(gradients):
    return max([1.0, *(np.max(np.abs(g), initial=0) for g in gradients.values())])


@settings(max_examples=100)
@given(problem=gradients(makes=(unbent, lambda dim: Inverted(composed(dim)))))
def test_the_backward_pass_through_an_inverse_is_the_slope_of_the_loss(problem):
    """Along a random direction of parameters and points, by central differences, extrapolated."""
    flow, params, z, dx, dlog_det = problem
    rng = np.random.default_rng(1)
    step = {n: (not n.endswith(KEPT)) * rng.normal(size=p.shape) for n, p in params.items()}
    step_z = rng.normal(size=z.shape)

    def loss(h):
        x, log_det, _ = flow.forward({n: p + h * step[n] for n, p in params.items()}, z + h * step_z)
        return np.sum(dx * x) + np.sum(dlog_det * log_det)

    def slope(h):
        return (loss(h) - loss(-h)) / (2 * h)

    dparams, dz = backward(flow, params, z, dx, dlog_det)
    exact = sum(np.sum(dparams[n] * step[n]) for n in params) + np.sum(dz * step_z)
    h = 1e-4
    assert (4 * slope(h / 2) - slope(h)) / 3 == pytest.approx(exact, rel=1e-6, abs=1e-6)


# Laws


def polar(centre, radius=25.0, *, panels=60, angles=600):
    """A quadrature of the plane: Gauss along each ray, equal angles; the points around which a map has a kink suit."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    edges = radius * np.linspace(0, 1, panels + 1) ** 2
    width = np.diff(edges)[:, None] / 2
    r, w = (edges[:-1, None] + width * (nodes + 1)).reshape(-1), (width * weights).reshape(-1)
    angle = 2 * np.pi * np.arange(angles) / angles
    points = centre + r[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return points.reshape(-1, 2), np.repeat(w * r * (2 * np.pi / angles), angles)


LAWS = {
    "planar": (Planar(2), Planar(2)),
    "planar, inverted": (Inverted(Planar(2)),),
    "radial": (Affine(2), Planar(2), Radial(2)),
    "radial, inverted": (Planar(2), Inverted(Radial(2))),
    "affine": (Affine(2), Planar(2), ActNorm(2)),
    "LU": (Planar(2), LU(2), Reverse(2)),
}


def law(name):
    flow = Composed(LAWS[name])
    return flow, random_params(flow, 3, spread=0.2)


def kink(flow, params):
    """Where the last map is not smooth, if it is a radial one."""
    return params.get(f"{len(flow.flows) - 1}.z_0", np.zeros(2))


@pytest.mark.parametrize("name", LAWS)
def test_a_density_has_mass_1_and_the_mean_of_the_law(name):
    """LOTUS: the mean of h by the density of x is that of h(f(z)) by the density of z, for no symmetric h."""
    flow, params = law(name)
    x, weights = polar(kink(flow, params))
    q = weights * np.exp(log_prob(flow, params, x))
    assert np.sum(q) == pytest.approx(1, abs=1e-8)

    def h(x):
        return np.stack([np.sin(x[:, 0] + 2 * x[:, 1]), np.exp(-((x[:, 0] - 0.5) ** 2))], axis=-1)

    centre = flow.inverse(params, kink(flow, params))[0]
    z, weights = polar(centre)
    lotus = expectation(flow, params, h, z, weights=weights * np.exp(standard_normal_log_density(z)))
    np.testing.assert_allclose(lotus, q @ h(x), rtol=0, atol=1e-10)


@dataclass(frozen=True)
class Folded:
    """x = |z|, which has no inverse: all that `expectation` needs is the forward map."""

    dim: int

    def forward(self, params, z):
        return abs(z), None, None


def test_the_expectation_needs_no_invertible_map():
    nodes, weights = np.polynomial.legendre.leggauss(60)
    z = 10 * np.concatenate([nodes - 1, nodes + 1])[:, None] / 2  # |z| has a kink at 0
    weights = 5 * np.concatenate([weights, weights]) * np.exp(standard_normal_log_density(z))
    mean = expectation(Folded(1), {}, lambda x: x[:, 0], z, weights=weights)
    assert mean == pytest.approx(np.sqrt(2 / np.pi), abs=1e-10)


def test_the_expectation_over_draws_is_their_mean():
    flow = composed(2)
    params, key = random_params(flow, 0), random.key(7)
    z = random.normal(key, (50, 2))
    mean = expectation(flow, params, lambda x: x**2, z)
    np.testing.assert_allclose(mean, np.mean(sample(flow, params, key, 50) ** 2, axis=0), rtol=1e-12)


def test_the_two_ways_to_the_log_density_agree():
    flow = composed(3)
    params, z = random_params(flow, 1), np.random.default_rng(0).normal(size=(20, 3))
    x, log_q = pushforward(flow, params, z)
    np.testing.assert_allclose(log_prob(flow, params, x), log_q, rtol=0, atol=1e-10)


def test_the_log_density_of_a_normal_law_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    flow, x = LU(3), np.random.default_rng(0).normal(size=(20, 3))
    params = random_params(flow, 2)
    matrix = flow.forward(params, np.eye(3))[0] - params["bias"]
    exact = stats.multivariate_normal(params["bias"], matrix.T @ matrix).logpdf(x)
    np.testing.assert_allclose(log_prob(flow, params, x), exact, rtol=1e-10)


def test_draws_do_not_depend_on_batches():
    flow = composed(3)
    params, key = random_params(flow, 0), random.key(5)
    whole = sample(flow, params, key, 7)
    parts = [sample(flow, params, key, num, first=first) for first, num in ((0, 3), (3, 1), (4, 3))]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-13)
    assert len(np.unique(whole)) == 21 and not np.allclose(whole, sample(flow, params, random.key(6), 7))


def test_a_composition_is_its_maps_one_after_the_other():
    first, then = Planar(2), Affine(2)
    flow, z = Composed((first, then)), np.random.default_rng(0).normal(size=(4, 2))
    params = random_params(flow, 3)
    one, two = flow.parts(params)
    assert params == {f"0.{n}": p for n, p in one.items()} | {f"1.{n}": p for n, p in two.items()}
    y, log_det_1, _ = first.forward(one, z)
    x, log_det_2, _ = then.forward(two, y)
    assert np.array_equal(flow.forward(params, z)[0], x)
    np.testing.assert_allclose(flow.forward(params, z)[1], log_det_1 + log_det_2, rtol=1e-13)


def test_an_inverted_flow_is_its_inverse_and_twice_inverted_the_flow_itself():
    flow, z = Planar(2), np.random.default_rng(0).normal(size=(4, 2))
    params = random_params(flow, 3)
    back = inverted(flow)
    assert inverted(back) is flow and back == Inverted(flow) and back.dim == 2
    assert all(np.array_equal(a, b) for a, b in zip(back.forward(params, z), flow.inverse(params, z), strict=False))
    assert all(np.array_equal(a, b) for a, b in zip(back.inverse(params, z), flow.forward(params, z), strict=False))


# Libraries, types, shapes


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("make", [*MAPS, composed, unbent])
def test_every_library_gives_the_same_and_leaves_its_arguments_as_they_were(name, make):
    b, flow, rng = backend(name), make(3), np.random.default_rng(0)
    params, (z, dx) = random_params(flow, 0), rng.normal(size=(2, 4, 2, 3))
    dlog_det = rng.normal(size=(4, 2))
    theirs = {n: b.asarray(p) for n, p in params.items()}
    arrays = [b.asarray(a) for a in (z, dx, dlog_det)]
    x, log_det, residuals = flow.forward(theirs, arrays[0])
    dparams, dz = flow.backward(theirs, residuals, *arrays[1:])
    back, log_det_back = flow.inverse(theirs, arrays[0])
    got = {n: dparams[n] for n in params} | {"dz": dz, "x": x, "log_det": log_det, "z": back, "back": log_det_back}
    exact_dparams, exact_dz = backward(flow, params, z, dx, dlog_det)
    exact = dict(exact_dparams, dz=exact_dz)
    exact["x"], exact["log_det"], _ = flow.forward(params, z)
    exact["z"], exact["back"] = flow.inverse(params, z)
    for n, a in exact.items():
        assert got[n].shape == a.shape
        np.testing.assert_allclose(b.to_numpy(got[n]), a, rtol=1e-12, atol=1e-12 * scale({"": a}), err_msg=n)
    untouched = zip([*theirs.values(), *arrays], [*params.values(), z, dx, dlog_det], strict=True)
    assert all(np.array_equal(b.to_numpy(a), before) for a, before in untouched)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("make", [*MAPS, unbent])
def test_single_precision_stays_single_and_an_empty_batch_empty(name, make):
    b, flow = backend(name), make(3)
    params = {n: b.asarray(p) for n, p in flow.init(random.key(0), dtype=np.float32).items()}
    for z in np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32), np.zeros((0, 2, 3), np.float32):
        x, log_det, residuals = flow.forward(params, b.asarray(z))
        dparams, dz = flow.backward(params, residuals, x, log_det)
        back, log_det_back = flow.inverse(params, x)
        results = [*dparams.values(), dz, x, log_det, back, log_det_back]
        assert all(b.to_numpy(a).dtype == np.float32 for a in results)
        assert x.shape == dz.shape == back.shape == z.shape and log_det.shape == log_det_back.shape == z.shape[:-1]
        np.testing.assert_allclose(b.to_numpy(back), z, rtol=1e-4, atol=1e-4)
    if params:
        assert b.to_numpy(sample(flow, params, random.key(0), 5)).dtype == np.float32


@pytest.mark.parametrize("make", [*MAPS, composed, unbent])
def test_a_batch_is_its_points_one_by_one(make):
    flow, z = make(3), np.random.default_rng(0).normal(size=(4, 2, 3))
    params = random_params(flow, 0)
    for f in (flow, Inverted(flow)):
        x, log_det, _ = f.forward(params, z)
        for row in np.ndindex(4, 2):
            one, log_det_one, _ = f.forward(params, z[row])
            np.testing.assert_allclose(x[row], one, rtol=1e-12, atol=1e-13)
            np.testing.assert_allclose(log_det[row], log_det_one, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("make", [*MAPS, composed, unbent])
def test_what_is_no_number_stays_none(make):
    flow, z = make(2), np.array([[0.5, np.nan], [0.5, 0.25]])
    params = random_params(flow, 0)
    x, back = flow.forward(params, z)[0], flow.inverse(params, z)[0]
    assert np.isnan(x[0]).any() and np.isnan(back[0]).any()
    assert np.isfinite(x[1]).all() and np.isfinite(back[1]).all()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Composed(()), r"flows: expected one or more"),
        (lambda: Composed((Affine(2), Affine(3))), r"same dimension, got the dimensions \[2, 3\]"),
        (lambda: expectation(Affine(1), AFFINE, lambda x: x, np.zeros(1)), r"z, h: expected points \[M, D\]"),
        (lambda: expectation(Affine(1), AFFINE, lambda x: x[:1], np.zeros((2, 1))), r"a value for each"),
        (
            lambda: expectation(Affine(1), AFFINE, lambda x: x, np.zeros((2, 1)), weights=np.ones(3)),
            r"weights: .*\(2,\)",
        ),
        (lambda: log_prob(Affine(1), AFFINE, np.array(1.0)), r"x: expected points of 1 coordinates.*\(\)"),
        (lambda: pushforward(Affine(1), AFFINE, np.zeros(2)), r"z: expected points of 1 coordinates.*\(2,\)"),
    ],
)
def test_bad_shapes_raise(make, what):
    with pytest.raises(ValueError, match=what):
        make()


AFFINE = {"log_scale": np.zeros(1), "shift": np.zeros(1)}


@pytest.mark.parametrize("make", [*MAPS, composed, unbent])
def test_every_flow_checks_the_dimension_of_its_points(make):
    flow = make(2)
    params = flow.init(random.key(0))
    for way in (flow.forward, flow.inverse):
        with pytest.raises(ValueError, match=r"[xz]: expected points of 2 coordinates on the last axis.*\(4, 3\)"):
            way(params, np.zeros((4, 3)))


def test_a_composition_has_no_parameters_of_other_maps():
    flow = Composed((Affine(2), Affine(2)))
    for name in ("5.shift", "shift", "-1.shift"):
        with pytest.raises(ValueError, match="params: expected names"):
            flow.forward({name: np.zeros(2)}, np.zeros((1, 2)))


@pytest.mark.parametrize("shape", [(2,), (0, 2), (1, 3, 2), (3, 1)])
def test_a_mean_over_points_is_of_one_or_more_rows(shape):
    """The loss of another shape would be right, and its gradient of another number of points."""
    flow, key = Affine(2), random.key(0)
    params, x = flow.init(key), np.zeros(shape)
    with pytest.raises(ValueError, match="x: expected one or more points"):
        maximum_likelihood.gradients(flow, params, x)
    with pytest.raises(ValueError, match="z: expected one or more points"):
        variational.free_energy(flow, variational.ENERGIES["ring"], params, x)
