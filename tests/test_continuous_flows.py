"""Planar and radial flows: their determinants are those of their Jacobians, and they are invertible where they say."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, backend

from dfm_ref.continuous.flows import Planar, Radial, planar, radial

numbers = st.floats(-2, 2, allow_nan=False, width=32)


def vectors(size):
    return st.tuples(*[numbers] * size)


@st.composite
def planars(draw):
    size = draw(st.sampled_from([1, 2, 3, 5]))
    w, u, b = draw(vectors(size)), draw(vectors(size)), draw(numbers)
    assume(np.dot(w, u) > -0.99)
    return planar, Planar(w, u, b), np.array(draw(vectors(size)))


@st.composite
def radials(draw):
    size = draw(st.sampled_from([1, 2, 3, 5]))
    alpha = draw(st.floats(0.1, 2))
    flow = Radial(draw(vectors(size)), alpha, draw(st.floats(-0.99 * alpha, 3)))
    z = np.array(draw(vectors(size)))
    assume(np.linalg.norm(z - flow.z_0) > 1e-3)  # where |z - z_0| has no derivative
    return radial, flow, z


@settings(max_examples=200)
@given(problem=planars() | radials())
def test_the_determinant_is_that_of_the_jacobian(problem):
    torch = pytest.importorskip("torch")
    f, flow, z = problem
    jacobian = torch.autograd.functional.jacobian(lambda z: f(flow, z).value, torch.asarray(z))
    determinant = float(torch.linalg.det(jacobian))
    assert math.exp(f(flow, z).log_abs_det) == pytest.approx(abs(determinant), rel=1e-10)


@settings(max_examples=100)
@given(problem=planars() | radials())
def test_f_is_its_formula_in_50_digits(problem):
    mp = pytest.importorskip("mpmath")
    f, flow, z = problem
    with mp.workdps(50):
        x = [mp.mpf(float(c)) for c in z]
        if isinstance(flow, Planar):
            a = mp.fsum(mp.mpf(w) * c for w, c in zip(flow.w, x, strict=True)) + mp.mpf(flow.b)
            exact = [c + mp.mpf(u) * mp.tanh(a) for u, c in zip(flow.u, x, strict=True)]
            slope = mp.fsum(mp.mpf(w) * mp.mpf(u) for w, u in zip(flow.w, flow.u, strict=True))
            det = 1 + slope * (1 - mp.tanh(a) ** 2)
        else:
            away = [c - mp.mpf(o) for c, o in zip(x, flow.z_0, strict=True)]
            r = mp.sqrt(mp.fsum(d**2 for d in away))
            alpha, beta = mp.mpf(flow.alpha), mp.mpf(flow.beta)
            h = 1 / (alpha + r)
            exact = [c + beta * h * d for c, d in zip(x, away, strict=True)]
            det = (1 + beta * h) ** (len(x) - 1) * (1 + beta * h - beta * r / (alpha + r) ** 2)
        value, log_abs_det = f(flow, z)
        np.testing.assert_allclose(value, [float(c) for c in exact], rtol=1e-13, atol=1e-14)
        assert log_abs_det == pytest.approx(float(mp.log(det)), rel=1e-11, abs=1e-13)


@settings(max_examples=100)
@given(problem=planars() | radials(), step=st.floats(0.01, 3))
def test_along_the_line_that_a_flow_moves_it_is_increasing(problem, step):
    """Planar: along u; radial: away from z_0. A map that folds space is not invertible."""
    f, flow, z = problem
    line = np.array(flow.u) if isinstance(flow, Planar) else z - flow.z_0
    assume(np.linalg.norm(line) > 1e-3)
    moved = f(flow, z + step * line).value - f(flow, z).value
    assert moved @ line > 0


def test_a_planar_flow_beyond_its_constraint_folds_and_raises():
    """w.u < -1: two points with one image, f(0) = f(z), which the constraint rules out."""
    u, z = -2.0, 1.9150080481545163
    assert z + u * math.tanh(z) == pytest.approx(0 + u * math.tanh(0))
    with pytest.raises(ValueError, match=r"w\.u > -1.*w\.u = -2"):
        Planar((1.0,), (u,), 0.0)
    with pytest.raises(ValueError, match=r"w\.u > -1"):
        Planar((1.0, 1.0), (-0.5, -0.5), 0.0)  # the determinant would be 0 at w.z + b = 0


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Radial((0.0,), 1.0, -1.5), r"beta >= -alpha"),
        (lambda: Radial((0.0,), 0.0, 1.0), r"alpha > 0"),
        (lambda: Radial((), 1.0, 1.0), r"z_0"),
        (lambda: Radial((0.0,), 1.0, math.nan), r"finite"),
        (lambda: Planar((1.0,), (1.0, 1.0), 0.0), r"as many"),
        (lambda: Planar((), (), 0.0), r"one or more"),
        (lambda: Planar((math.inf,), (1.0,), 0.0), r"finite"),
        (lambda: planar(Planar((1.0,), (1.0,), 0.0), np.zeros(2)), r"1 coordinates.*\(2,\)"),
        (lambda: radial(Radial((0.0, 0.0), 1.0, 0.0), np.array(1.0)), r"2 coordinates"),
    ],
)
def test_bad_parameters_and_shapes_raise(make, what):
    with pytest.raises(ValueError, match=what):
        make()


def test_at_its_bound_a_radial_flow_is_singular_at_its_centre_alone():
    flow = Radial((1.0, 0.0), 0.5, -0.5)
    assert np.isfinite(radial(flow, np.array([1.0, 1e-3])).log_abs_det)
    with np.errstate(divide="ignore"):
        assert radial(flow, np.array([1.0, 0.0])).log_abs_det == -np.inf


@pytest.mark.parametrize("name", BACKENDS)
def test_every_library_maps_batches_and_leaves_them_as_they_were(name):
    b, z = backend(name), np.random.default_rng(0).normal(size=(4, 2, 3))
    for f, flow in (
        (planar, Planar((0.5, 1.0, 0.0), (1.0, 0.25, -1.0), 0.5)),
        (radial, Radial((0.5, 1.0, 0.0), 1.0, 2.0)),
    ):
        copy = z.copy()
        value, log_abs_det = (b.to_numpy(a) for a in f(flow, b.asarray(z)))
        assert np.array_equal(z, copy)
        for row in np.ndindex(4, 2):
            one = f(flow, z[row])
            np.testing.assert_allclose(value[row], one.value, rtol=1e-13)
            np.testing.assert_allclose(log_abs_det[row], one.log_abs_det, rtol=1e-12, atol=1e-14)
        half = f(flow, b.asarray(z.astype(np.float32)))
        assert b.to_numpy(half.value).dtype == b.to_numpy(half.log_abs_det).dtype == np.float32
        assert f(flow, b.asarray(z[:0])).log_abs_det.shape == (0, 2)
