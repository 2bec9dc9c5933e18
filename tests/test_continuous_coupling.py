"""Couplings and autoregressive flows: determinants, who depends on whom, inverses, gradients, and mass 1."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, backend
from test_continuous_splines import knots

from dfm_ref import random
from dfm_ref.continuous.coupling import AffineMap, Autoregressive, Coupling, maf, neural_spline, real_nvp
from dfm_ref.continuous.flows import Inverted, log_prob, sample, standard_normal_log_density
from dfm_ref.continuous.splines import RationalQuadratic

MAPS = (AffineMap(), RationalQuadratic(bins=4, bound=2.0))


@st.composite
def flows(draw):
    kind = draw(st.sampled_from([Coupling, Autoregressive]))
    dim = draw(st.integers(2 if kind is Coupling else 1, 5))
    return kind(dim, draw(st.sampled_from(MAPS)), draw(st.sampled_from([(), (8,), (8, 6)])), draw(st.booleans()))


problems = {"flow": flows(), "seed": st.integers(0, 2**31)}


def example(flow, seed, shape=(), spread=0.7):
    """Parameters with no zeros in them, and points, of which some are far away."""
    rng = np.random.default_rng(seed)
    params = {n: spread * rng.standard_normal(p.shape) for n, p in flow.init(random.key(0)).items()}
    return params, 1.5 * rng.standard_normal((*shape, flow.dim))


def jacobian(flow, params, z):
    torch = pytest.importorskip("torch")
    tensors = {n: torch.tensor(p) for n, p in params.items()}
    return torch.autograd.functional.jacobian(lambda z: flow.forward(tensors, z)[0], torch.tensor(z)).numpy()


@settings(max_examples=100)
@given(**problems)
def test_the_determinant_is_that_of_the_jacobian(flow, seed):
    params, z = example(flow, seed)
    det = np.linalg.det(jacobian(flow, params, z))
    assert det > 0
    assert math.exp(flow.forward(params, z)[1]) == pytest.approx(det, rel=1e-10)


@settings(max_examples=60)
@given(dim=st.integers(2, 5), transform=st.sampled_from(MAPS), flip=st.booleans(), seed=st.integers(0, 2**31))
def test_one_half_stays_and_moves_the_other(dim, transform, flip, seed):
    flow = Coupling(dim, transform, (16,), flip)
    params, z = example(flow, seed)
    z = z / (1 + np.abs(z))  # within the bound
    first = np.arange(dim) < dim // 2
    still = ~first if flip else first
    np.testing.assert_array_equal(flow.forward(params, z)[0][still], z[still])
    depends = jacobian(flow, params, z) != 0
    expected = np.eye(dim, dtype=bool) | (~still[:, None] & still)
    np.testing.assert_array_equal(depends, expected)


@settings(max_examples=60)
@given(dim=st.integers(1, 5), transform=st.sampled_from(MAPS), reverse=st.booleans(), seed=st.integers(0, 2**31))
def test_an_autoregressive_coordinate_depends_on_itself_and_on_those_before_it(dim, transform, reverse, seed):
    flow = Autoregressive(dim, transform, (16, 16), reverse)
    params, z = example(flow, seed)
    depends = jacobian(flow, params, z / (1 + np.abs(z))) != 0
    np.testing.assert_array_equal(depends, (np.triu if reverse else np.tril)(np.ones((dim, dim), dtype=bool)))


@settings(max_examples=150)
@given(**problems)
def test_the_inverse_undoes_the_flow(flow, seed):
    params, z = example(flow, seed, (6,), spread=0.3)
    x, log_det, _ = flow.forward(params, z)
    back, log_inverse = flow.inverse(params, x)
    np.testing.assert_allclose(back, z, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(log_inverse, -log_det, rtol=1e-10, atol=1e-10)
    before, log_inverse = flow.inverse(params, z)
    again, log_det, _ = flow.forward(params, before)
    np.testing.assert_allclose(again, z, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(log_inverse, -log_det, rtol=1e-10, atol=1e-10)


@settings(max_examples=150)
@given(
    transform=st.sampled_from(MAPS),
    hidden=st.sampled_from([(), (8,)]),
    flip=st.booleans(),
    spread=st.sampled_from([0.3, 3.0, 1e3]),
    far=st.sampled_from([1.0, 1e3, 1e30]),
    seed=st.integers(0, 2**31),
)
def test_the_inverse_undoes_extreme_couplings_and_far_points(transform, hidden, flip, spread, far, seed):
    """Up to rounding of the largest number on the way, times the slope of the inverse."""
    flow = Coupling(2, transform, hidden, flip)
    params, z = example(flow, seed, (6,), spread)
    z = far * z
    x, log_det, _ = flow.forward(params, z)
    back, log_inverse = flow.inverse(params, x)
    size = np.max(np.abs(x), axis=-1) + np.max(np.abs(z), axis=-1)
    error = np.max(np.abs(back - z), axis=-1)
    assert np.all(error <= 1e-12 * size * np.maximum(1, np.exp(-log_det)))
    if isinstance(transform, AffineMap):
        np.testing.assert_array_equal(log_inverse, -log_det)


@settings(max_examples=30)
@given(kind=st.sampled_from([Coupling, Autoregressive]), dim=st.integers(2, 4), seed=st.integers(0, 2**31))
def test_outside_its_box_a_spline_flow_is_the_identity(kind, dim, seed):
    flow = kind(dim, MAPS[1])
    params, z = example(flow, seed, (6,))
    z = z + np.sign(z) * 2.0
    for x, log_det in (flow.forward(params, z)[:2], flow.inverse(params, z)):
        np.testing.assert_array_equal(x, z)
        assert np.all(log_det == 0)


@settings(max_examples=100)
@given(**problems)
def test_backward_is_that_of_autodiff(flow, seed):
    torch = pytest.importorskip("torch")
    params, z = example(flow, seed, (3, 2))
    rng = np.random.default_rng(seed)
    dx, dlog_det = rng.standard_normal(z.shape), rng.standard_normal(z.shape[:-1])
    dparams, dz = flow.backward(params, flow.forward(params, z)[2], dx, dlog_det)
    tensors, point = {n: torch.tensor(p, requires_grad=True) for n, p in params.items()}, torch.tensor(z)
    point.requires_grad_()
    x, log_det, _ = flow.forward(tensors, point)
    ((x * torch.tensor(dx)).sum() + (log_det * torch.tensor(dlog_det)).sum()).backward()
    assert list(dparams) == list(params)
    for ours, theirs in [(dz, point), *((dparams[n], tensors[n]) for n in params)]:
        theirs = theirs.grad.numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11 * max(1, np.max(np.abs(theirs))))


def test_at_first_every_model_is_the_identity():
    z = np.random.default_rng(0).standard_normal((7, 3))
    for model in (real_nvp(3), maf(3), neural_spline(3)):
        params = model.init(random.key(0))
        assert all(p.dtype == np.float64 for p in params.values())
        x, log_det, _ = model.forward(params, z)
        np.testing.assert_allclose(x, z, rtol=0, atol=1e-14)
        np.testing.assert_allclose(log_det, 0, rtol=0, atol=1e-14)


MODELS = {
    "real_nvp": real_nvp(2, depth=4, hidden=(8,)),
    "maf": maf(2, depth=3, hidden=(8, 8)),
    "neural_spline": neural_spline(2, depth=4, hidden=(8,), bins=4, bound=3.0),
}
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.mark.parametrize("name", ["real_nvp", "maf"])
def test_the_density_of_a_smooth_model_has_mass_1(name):
    """By the trapezium rule, which for smooth functions that vanish at both ends is as exact as float64."""
    model = MODELS[name]
    params, _ = example(model, 3, spread=0.35)
    x, h = np.linspace(-14, 14, 561, retstep=True)
    log_q = log_prob(model, params, np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1))
    assert np.sum(np.exp(log_q)) * h * h == pytest.approx(1, rel=1e-8)
    assert abs(log_q[280, 280] + math.log(2 * math.pi)) > 0.1, "another law than the normal one"


def panels(edges, count=40):
    """Nodes and weights of Gauss and Legendre between neighbouring edges, on the last axis."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    left, half = np.asarray(edges)[:-1, None], np.diff(edges)[:, None] / 2
    return (left + half * (nodes + 1)).ravel(), (half * weights).ravel()


@pytest.mark.parametrize("kind", [Coupling, Autoregressive])
def test_the_density_of_a_spline_flow_has_mass_1(kind):
    """Smooth between knots: those of the first coordinate are the same everywhere, those of the second depend on it."""
    mp = pytest.importorskip("mpmath")
    spline = RationalQuadratic(bins=3, bound=2.0)
    flow = kind(2, spline, (8,))
    params, _ = example(flow, 1, spread=0.6)

    def edges(x, i):
        theta = flow.net(params, x)[-(2 - i) * spline.size :][: spline.size]
        with mp.workdps(20):
            return [-10.0, *map(float, knots(spline, theta)[0]), 10.0]

    mass = 0.0
    first = edges(np.zeros(2), 0) if kind is Autoregressive else [-10.0, -4.0, 0.0, 4.0, 10.0]
    for x, weight in zip(*panels(first), strict=True):
        y, weights = panels(edges(np.array([x, 0.0][: flow.net.inputs]), 1))
        mass += weight * weights @ np.exp(log_prob(Inverted(flow), params, np.stack([x + 0 * y, y], axis=-1)))
    assert mass == pytest.approx(1, rel=1e-8)


@every_model
def test_the_density_is_that_of_the_change_of_variables(name):
    model = MODELS[name]
    params, x = example(model, 0, spread=0.5)
    z, _ = model.inverse(params, x)
    det = np.linalg.det(jacobian(model.flow, params, x))
    expected = float(standard_normal_log_density(z)) + math.log(det)
    assert log_prob(model, params, x) == pytest.approx(expected, rel=1e-10)


@every_model
def test_draws_are_images_of_the_noise(name):
    model = MODELS[name]
    params, _ = example(model, 0, spread=0.3)
    x = sample(model, params, random.key(3), 50)
    z = random.normal(random.key(3), (50, 2))
    np.testing.assert_allclose(model.inverse(params, x)[0], z, rtol=1e-10, atol=1e-10)


def test_models_take_halves_and_orders_in_turns():
    assert [f.flip for f in real_nvp(4, depth=3).flow.flows] == [False, True, False]
    assert [f.reverse for f in maf(4, depth=3, hidden=(5,)).flow.flows] == [False, True, False]
    model = neural_spline(4, depth=2, hidden=(5,), bins=3, bound=2.0)
    first, second = model.flow.flows
    assert first == Coupling(4, RationalQuadratic(3, 2.0), (5,)) and second.flip
    assert all(f.hidden == (5,) for f in maf(4, depth=3, hidden=(5,)).flow.flows)
    params, z = example(model, 0)
    depends = jacobian(model.flow, params, z / 4) != 0
    half, none = np.ones((2, 2), dtype=bool), np.eye(2, dtype=bool)
    np.testing.assert_array_equal(depends, np.block([[half, half], [half, none]]))


FLOWS = [
    Coupling(3, AffineMap(), (8,)),
    Coupling(3, RationalQuadratic(4, 2.0), (8,), flip=True),
    Autoregressive(3, AffineMap(), (8,), reverse=True),
    Autoregressive(3, RationalQuadratic(4, 2.0), (8,)),
]
every_flow = pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: f"{type(flow).__name__}-{flow.transform}")


def run(flow, params, z, dx, dlog_det):
    x, log_det, residuals = flow.forward(params, z)
    dparams, dz = flow.backward(params, residuals, dx, dlog_det)
    back, log_inverse = flow.inverse(params, z)
    return {"x": x, "log_det": log_det, "dz": dz, "back": back, "log_inverse": log_inverse} | dparams


@every_flow
@pytest.mark.parametrize("name", BACKENDS)
def test_every_library_and_precision(flow, name):
    b = backend(name)
    params, z = example(flow, 0, (2, 5), spread=0.3)
    dx, dlog_det = np.cos(np.arange(30.0)).reshape(2, 5, 3), np.sin(np.arange(10.0)).reshape(2, 5)
    copies = [a.copy() for a in (*params.values(), z, dx, dlog_det)]
    exact = run(flow, params, z, dx, dlog_det)
    assert all(np.array_equal(a, c) for a, c in zip((*params.values(), z, dx, dlog_det), copies, strict=True))
    theirs = pytest.importorskip("jax").jit(run, static_argnums=0) if name == "jax" else run
    for dtype, tolerance in ((np.float64, 1e-11), (np.float32, 1e-3))[: 1 if name == "jax" else 2]:  # slow to compile
        p = {n: b.asarray(a.astype(dtype)) for n, a in params.items()}
        for n, a in theirs(flow, p, *(b.asarray(a.astype(dtype)) for a in (z, dx, dlog_det))).items():
            assert b.to_numpy(a).dtype == dtype
            np.testing.assert_allclose(b.to_numpy(a), exact[n], rtol=tolerance, atol=tolerance, err_msg=n)


@every_flow
def test_batches_are_rows_and_may_be_empty_and_one_point_has_no_axis(flow):
    params, z = example(flow, 0, (2, 5), spread=0.3)
    whole = run(flow, params, z, z, z[..., 0])
    rows = [run(flow, params, row, row, row[..., 0]) for row in z.reshape(-1, 3)]
    for n, a in whole.items():
        if n in params:
            np.testing.assert_allclose(a, sum(row[n] for row in rows), rtol=1e-10, atol=1e-11)
        else:
            np.testing.assert_allclose(
                a.reshape(10, -1), [np.atleast_1d(row[n]) for row in rows], rtol=1e-11, atol=1e-12
            )
    for n, a in run(flow, params, z[:, :0], z[:, :0], z[:, :0, 0]).items():
        if n in params:
            assert a.shape == params[n].shape and np.all(a == 0)
        else:
            assert a.shape == (2, 0, *whole[n].shape[2:])


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Coupling(1, AffineMap()), "dim: expected 2 or more.*got 1"),
        (lambda: Autoregressive(0, AffineMap()), "dim: expected 1 or more, got 0"),
        (lambda: Coupling(2, AffineMap(), (0,)).init(random.key(0)), "hidden: expected sizes"),
        (lambda: real_nvp(1), "dim: expected 2 or more"),
        (lambda: neural_spline(1), "dim: expected 2 or more"),
        (lambda: neural_spline(2, bins=1), "bins: "),
        (lambda: neural_spline(2, bound=-1.0), "bound: "),
        (lambda: maf(0), "dim: expected 1 or more"),
        (lambda: maf(2, depth=0), "flows: expected one or more"),
        (lambda: real_nvp(2, depth=0), "flows: expected one or more"),
        *((lambda f=f: f.forward(f.init(random.key(0)), np.zeros((4, 2))), r"z: .*3 coord.*\(4, 2\)") for f in FLOWS),
        *((lambda f=f: f.inverse(f.init(random.key(0)), np.zeros((4, 2))), r"x: .*3 coord.*\(4, 2\)") for f in FLOWS),
    ],
)
def test_bad_input_raises(make, what):
    with pytest.raises(ValueError, match=what):
        make()
