"""Planar and radial flows: their formulas, their constraints, and their inverses where those are hard."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, backend

from dfm_ref import random
from dfm_ref.continuous.planar import Planar, Radial, planar, radial

numbers = st.floats(-2, 2, allow_nan=False, width=32)


def vectors(size):
    return st.lists(numbers, min_size=size, max_size=size).map(np.array)


@st.composite
def planars(draw):
    size = draw(st.sampled_from([1, 2, 3, 5]))
    params = {"w": draw(vectors(size)), "u": draw(vectors(size)), "b": draw(numbers)}
    assume(params["w"] @ params["u"] > -0.99)
    return planar, params, draw(vectors(size))


@st.composite
def radials(draw):
    size = draw(st.sampled_from([1, 2, 3, 5]))
    alpha = draw(st.floats(0.1, 2))
    params = {"z_0": draw(vectors(size)), "alpha": alpha, "beta": draw(st.floats(-0.99 * alpha, 3))}
    z = draw(vectors(size))
    assume(np.linalg.norm(z - params["z_0"]) > 1e-3)  # where |z - z_0| has no derivative
    return radial, params, z


@settings(max_examples=200)
@given(problem=planars() | radials())
def test_the_determinant_is_that_of_the_jacobian(problem):
    torch = pytest.importorskip("torch")
    f, params, z = problem
    theirs = {name: torch.asarray(np.asarray(p)) for name, p in params.items()}
    jacobian = torch.autograd.functional.jacobian(lambda z: f(theirs, z).value, torch.asarray(z))
    determinant = float(torch.linalg.det(jacobian))
    assert math.exp(f(params, z).log_abs_det) == pytest.approx(abs(determinant), rel=1e-10)


@settings(max_examples=100)
@given(problem=planars() | radials())
def test_f_is_its_formula_in_50_digits(problem):
    mp = pytest.importorskip("mpmath")
    f, params, z = problem
    with mp.workdps(50):
        z_exact = np.array([mp.mpf(float(c)) for c in z])
        given = {name: np.vectorize(lambda c: mp.mpf(float(c)), otypes=[object])(p) for name, p in params.items()}
        exact, det = (exactly_planar if f is planar else exactly_radial)(mp, z_exact, **given)
        value, log_abs_det = f(params, z)
        np.testing.assert_allclose(value, [float(c) for c in exact], rtol=1e-13, atol=1e-14)
        assert log_abs_det == pytest.approx(float(mp.log(det)), rel=1e-11, abs=1e-13)


def exactly_planar(mp, z, w, u, b):
    bend = mp.tanh(w @ z + b.item())
    return z + u * bend, 1 + w @ u * (1 - bend**2)


def exactly_radial(mp, z, z_0, alpha, beta):
    alpha, beta, away = alpha.item(), beta.item(), z - z_0
    r = mp.sqrt(away @ away)
    h = 1 / (alpha + r)
    return z + beta * h * away, (1 + beta * h) ** (len(z) - 1) * (1 + beta * h - beta * r / (alpha + r) ** 2)


@settings(max_examples=100)
@given(problem=planars() | radials(), step=st.floats(0.01, 3))
def test_along_the_line_that_a_flow_moves_it_is_increasing(problem, step):
    """Planar: along u; radial: away from z_0. A map that folds space is not invertible."""
    f, params, z = problem
    line = params["u"] if f is planar else z - params["z_0"]
    assume(np.linalg.norm(line) > 1e-3)
    moved = f(params, z + step * line).value - f(params, z).value
    assert moved @ line > 0


def plane(w, u, b=0.0):
    return {"w": np.array(w), "u": np.array(u), "b": b}


def around(z_0, alpha, beta):
    return {"z_0": np.array(z_0), "alpha": alpha, "beta": beta}


def test_a_planar_flow_beyond_its_constraint_folds_and_raises():
    """w.u < -1: two points with one image, f(0) = f(z), which the constraint rules out."""
    u, z = -2.0, 1.9150080481545163
    assert z + u * math.tanh(z) == pytest.approx(0 + u * math.tanh(0))
    with pytest.raises(ValueError, match=r"w\.u > -1.*w\.u = -2"):
        planar(plane([1.0], [u]), np.zeros(1))
    with pytest.raises(ValueError, match=r"w\.u > -1"):
        planar(plane([1.0, 1.0], [-0.5, -0.5]), np.zeros(2))  # the determinant would be 0 at w.z + b = 0


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: radial(around([0.0], 1.0, -1.5), np.zeros(1)), r"beta >= -alpha.*beta = -1.5 and alpha = 1$"),
        (lambda: radial(around([0.0], 0.0, 1.0), np.zeros(1)), r"alpha > 0, got alpha = 0$"),
        (lambda: radial(around([], 1.0, 1.0), np.zeros(0)), r"z_0: expected a vector of one or more"),
        (lambda: radial(around([0.0], 1.0, math.nan), np.zeros(1)), r"beta: expected finite"),
        (lambda: planar(plane([1.0], [1.0, 1.0]), np.zeros(1)), r"as many.*\(1,\), \(2,\)"),
        (lambda: planar(plane([], []), np.zeros(0)), r"one or more"),
        (lambda: planar(plane([math.inf], [1.0]), np.zeros(1)), r"w: expected finite"),
        (lambda: planar(plane([1.0], [1.0]), np.zeros(2)), r"1 coordinates.*\(2,\)"),
        (lambda: radial(around([0.0, 0.0], 1.0, 0.0), np.array(1.0)), r"2 coordinates"),
    ],
)
def test_bad_parameters_and_shapes_raise(make, what):
    with pytest.raises(ValueError, match=what):
        make()


def test_at_its_bound_a_radial_flow_is_singular_at_its_centre_alone():
    params = around([1.0, 0.0], 0.5, -0.5)
    assert np.isfinite(radial(params, np.array([1.0, 1e-3])).log_abs_det)
    with np.errstate(divide="ignore"):
        assert radial(params, np.array([1.0, 0.0])).log_abs_det == -np.inf


@pytest.mark.parametrize("name", BACKENDS)
def test_every_library_maps_batches_and_leaves_them_as_they_were(name):
    b, z = backend(name), np.random.default_rng(0).normal(size=(4, 2, 3))
    for f, params in (
        (planar, plane([0.5, 1.0, 0.0], [1.0, 0.25, -1.0], np.array(0.5))),
        (radial, around([0.5, 1.0, 0.0], np.array(1.0), np.array(2.0))),
    ):
        copy, theirs = z.copy(), {n: b.asarray(p) for n, p in params.items()}
        value, log_abs_det = (b.to_numpy(a) for a in f(theirs, b.asarray(z)))
        assert np.array_equal(z, copy)
        for row in np.ndindex(4, 2):
            one = f(params, z[row])
            np.testing.assert_allclose(value[row], one.value, rtol=1e-13)
            np.testing.assert_allclose(log_abs_det[row], one.log_abs_det, rtol=1e-12, atol=1e-14)
        assert f(theirs, b.asarray(z[:0])).log_abs_det.shape == (0, 2)
        theirs = {n: b.asarray(p.astype(np.float32)) for n, p in params.items()}
        half = f(theirs, b.asarray(z.astype(np.float32)))
        assert b.to_numpy(half.value).dtype == b.to_numpy(half.log_abs_det).dtype == np.float32


# Free parameters


@st.composite
def free(draw, flow):
    """Parameters of any size, and a batch of points."""
    rng, size = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.sampled_from([0.1, 1.0, 10.0]))
    params = {name: size * rng.normal(size=p.shape) for name, p in flow.init(random.key(0)).items()}
    return params, rng.normal(size=(20, flow.dim))


@settings(max_examples=200)
@given(data=st.data(), dim=st.sampled_from([1, 2, 5]), pair=st.sampled_from([(Planar, planar), (Radial, radial)]))
def test_a_flow_is_its_formula_at_the_parameters_that_free_ones_stand_for(data, dim, pair):
    make, formula = pair
    flow = make(dim)
    params, z = data.draw(free(flow))
    constrained = flow.constrained(params)
    assume(make is Radial or constrained["w"] @ constrained["u"] > -0.999)  # where 1 + w.u has digits
    assume(make is Planar or constrained["beta"] > -0.999 * constrained["alpha"])
    value, log_abs_det = formula(constrained, z)
    x, log_det, _ = flow.forward(params, z)
    np.testing.assert_allclose(x, value, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(log_det, log_abs_det, rtol=1e-10, atol=1e-10)


def test_free_parameters_are_held_to_the_constraint():
    """w.v = softplus(w.u) - 1, along w alone; alpha + beta = softplus of the free beta."""
    w, u = np.array([3.0, -1.0]), np.array([-1.0, 2.0])
    v = Planar(2).constrained(plane(w, u))["u"]
    assert w @ v == pytest.approx(math.log1p(math.exp(w @ u)) - 1, rel=1e-13)
    assert np.cross(np.append(w, 0), np.append(v - u, 0)) == pytest.approx(0, abs=1e-14)
    params = Radial(1).constrained({"z_0": np.zeros(1), "log_alpha": np.array(0.5), "beta": np.array(-1.5)})
    assert params["alpha"] == math.exp(0.5)
    assert params["alpha"] + params["beta"] == pytest.approx(math.log1p(math.exp(-1.5)), rel=1e-13)


@pytest.mark.parametrize("make", [Planar, Radial])
def test_a_flow_starts_near_the_identity(make):
    flow, z = make(2), np.random.default_rng(0).normal(size=(50, 2))
    for seed in range(20):
        x, log_det, _ = flow.forward(flow.init(random.key(seed)), z)
        assert np.max(np.abs(x - z)) < 0.5 and np.max(np.abs(log_det)) < 1.5
        assert np.max(np.abs(x - z)) > 1e-3


def test_a_plane_without_direction_shifts_and_has_gradients():
    """w = 0, and w whose square underflows, leave u as it is: nothing divides by |w|^2 = 0."""
    flow, z = Planar(2), np.array([[1.0, 2.0]])
    for w in (np.zeros(2), np.full(2, 1e-200)):
        params = plane(w, np.array([1.0, -1.0]), np.array(0.5))
        x, log_det, residuals = flow.forward(params, z)
        np.testing.assert_allclose(x, z + math.tanh(0.5) * params["u"], rtol=1e-15)
        assert log_det == pytest.approx(0, abs=1e-15)
        dparams, dz = flow.backward(params, residuals, np.ones((1, 2)), np.ones(1))
        assert all(np.all(np.isfinite(d)) for d in dparams.values()) and np.array_equal(dz, np.ones((1, 2)))
        np.testing.assert_allclose(flow.inverse(params, x)[0], z, rtol=1e-15)


# Inverses


@settings(max_examples=200)
@given(a=st.floats(-60, 1e4), size=st.sampled_from([1e-3, 0.5, 50.0, 1e3]), seed=st.integers(0, 999))
def test_a_planar_flow_is_inverted_for_steep_planes_and_near_the_bound(a, size, seed):
    """w.u = a, so that 1 + w.v = softplus(a) runs from e^-60 to 10^4, and |w| to 1000."""
    rng = np.random.default_rng(seed)
    w, across = rng.normal(size=(2, 3))
    w *= size / np.linalg.norm(w)
    u = a * w / size**2 + (across - w * (w @ across) / size**2)
    params, flow = plane(w, u, rng.normal()), Planar(3)
    z = rng.normal(size=(50, 3)) * 10.0 ** rng.integers(-3, 2, size=(50, 1))
    x = flow.forward(params, z)[0]
    back, log_det = flow.inverse(params, x)
    there, log_det_there, _ = flow.forward(params, back)
    reach = 1 + np.linalg.norm(flow.constrained(params)["u"]) + np.linalg.norm(z, axis=-1)
    slope = 1e-4 if a < 0 else 1  # nearer to the plane than 1e-4 the map is flat, and no z is told from others
    safe = np.exp(-log_det) > slope
    slack = 1e-14 * max(100, size, a) * reach  # what the rounding of w.x and of v tanh(p) leaves open
    np.testing.assert_array_less(np.linalg.norm(there - x, axis=-1), slack)
    np.testing.assert_array_less(np.linalg.norm(back - z, axis=-1)[safe], slack[safe] / slope)
    np.testing.assert_allclose(log_det_there[safe], -log_det[safe], rtol=0, atol=1e-8)


def test_the_root_of_a_planar_inverse_is_that_of_50_digits():
    """p + (gap - 1) tanh(p) = y, to the last digits that y determines."""
    mp = pytest.importorskip("mpmath")
    flow = Planar(1)
    with mp.workdps(50):
        for a in (-30.0, -3.0, 0.0, 3.0, 500.0):
            params = plane([1.0], [a])
            gap = mp.log1p(mp.exp(a))
            for p in (1e-3, 0.1, 1.0, 3.0, 40.0):
                y = mp.mpf(p) + (gap - 1) * mp.tanh(p)
                back, log_det = flow.inverse(params, np.array([float(y)]))
                det = 1 + (gap - 1) * mp.sech(p) ** 2
                slack = 2e-15 * float((y + p) * (1 + 1 / det))  # what the rounding of x and v tanh(p) leaves open
                bends = float(abs(gap - 1) * 2 * mp.tanh(p) * mp.sech(p) ** 2 / det)  # |d log det / dp|
                assert back[0] == pytest.approx(p, abs=slack)
                assert log_det == pytest.approx(float(-mp.log(det)), abs=1e-13 + 2 * slack * bends)


@pytest.mark.parametrize("a", [-800.0, -40.0, 0.0, 40.0, 1e30, 1e300])
def test_planar_inverses_end_and_are_odd_at_the_ends_of_the_numbers(a):
    flow, params, x = Planar(1), plane([1.0], [a]), 10.0 ** np.linspace(-300, 33, 500)[:, None]
    z = flow.inverse(params, x)[0]
    assert np.all(np.isfinite(z)) and np.array_equal(flow.inverse(params, -x)[0], -z)
    if a < 1e3:  # else v tanh(p) leaves no digits of z
        np.testing.assert_allclose(flow.forward(params, z)[0], x, rtol=1e-14, atol=1e-13)
    with np.errstate(divide="ignore"):  # where w.v = -1 the slope at 0 is 0
        assert flow.inverse(params, np.zeros(1))[0] == 0


def test_a_planar_inverse_that_does_not_end_raises(monkeypatch):
    monkeypatch.setattr("dfm_ref.continuous.planar._STEPS", 2)
    with pytest.raises(ArithmeticError, match=r"u: expected .* in 2 steps, got none for 1 \+ w\.u = 300"):
        Planar(1).inverse(plane([1.0], [300.0]), np.array([200.0]))


@settings(max_examples=200)
@given(beta=st.floats(-60, 100), log_alpha=st.floats(-10, 10), seed=st.integers(0, 999))
def test_a_radial_flow_is_inverted_near_its_bound_and_its_centre(beta, log_alpha, seed):
    rng = np.random.default_rng(seed)
    params = {"z_0": rng.normal(size=3), "log_alpha": np.array(log_alpha), "beta": np.array(beta)}
    away = rng.normal(size=(50, 3)) * 10.0 ** rng.integers(-12, 3, size=(50, 1))
    flow, x = Radial(3), params["z_0"] + away
    z, log_det = flow.inverse(params, x)
    there, log_det_there, _ = flow.forward(params, z)
    stretch = max(1, math.exp(-log_alpha) * math.log1p(math.exp(beta)))  # at z_0, and nowhere more
    np.testing.assert_allclose(there, x, rtol=1e-12, atol=1e-14 * stretch)
    far = np.linalg.norm(z - params["z_0"], axis=-1) > 1e-4  # else z - z_0 lacks the digits
    np.testing.assert_allclose(log_det_there[far], -log_det[far], rtol=1e-10, atol=1e-10)


def test_a_radial_inverse_is_exact_at_its_centre_and_at_its_bound():
    """beta = -alpha, which softplus reaches below -745: |x - z_0| = r^2 / (alpha + r)."""
    flow, params = Radial(2), {"z_0": np.array([1.0, -1.0]), "log_alpha": np.array(0.0), "beta": np.array(0.5)}
    z, log_det = flow.inverse(params, params["z_0"])
    assert np.array_equal(z, params["z_0"])
    assert log_det == pytest.approx(-2 * math.log(math.log1p(math.exp(0.5))), rel=1e-14)
    bound = params | {"beta": np.array(-800.0)}
    z = flow.inverse(bound, params["z_0"] + np.array([[0.5, 0.0], [0.0, -1e-6]]))[0] - params["z_0"]
    np.testing.assert_allclose(np.diagonal(np.abs(z)), [1.0, (1e-6 + math.sqrt(1e-12 + 4e-6)) / 2], rtol=1e-10)
    with np.errstate(divide="ignore"):
        z, log_det = flow.inverse(bound, params["z_0"])
    assert np.array_equal(z, params["z_0"]) and log_det == np.inf


@pytest.mark.parametrize("off", [1e-17, 1e-8, 1e-3, 1.0])
@pytest.mark.parametrize("margin", [0.0, 2.0**-30, 0.4, 0.6, 1.0 - 2.0**-30, 1.0, 3.0])
def test_the_functions_have_the_digits_of_a_determinant_near_0_and_near_1(off, margin):
    """1 + w.u = 1 + beta / alpha = margin: at 0 nothing is left of 1 + beta h, at 1 nothing of its logarithm."""
    mp = pytest.importorskip("mpmath")
    with mp.workdps(60):
        gap, r = mp.mpf(margin), mp.mpf(off)
        bend, h = mp.tanh(r), 1 / (1 + r)
        if margin:
            exact = mp.log(1 + (gap - 1) * (1 - bend**2))
            params = {"w": np.array([1.0, 0.0]), "u": np.array([margin - 1, 0.3]), "b": 0.0}
            got = planar(params, np.array([off, 0.5])).log_abs_det
            assert float(got) == pytest.approx(float(exact), rel=1e-12, abs=0)
        exact = mp.log(1 + (gap - 1) * h) + mp.log(1 + (gap - 1) * h**2)
        params = {"z_0": np.zeros(2), "alpha": 1.0, "beta": margin - 1}
        got = radial(params, np.array([off, 0.0])).log_abs_det
        assert float(got) == pytest.approx(float(exact), rel=1e-12, abs=0)
