"""Rational-quadratic splines: a slow twin in 30 digits, exact inverses, and gradients that are those of autodiff."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, backend

from dfm_ref.continuous.splines import RationalQuadratic

problems = {
    "bins": st.sampled_from([2, 3, 8]),
    "bound": st.sampled_from([0.5, 3.0, 5.0]),
    "spread": st.sampled_from([0.3, 1.0, 3.0, 1e30]),
    "seed": st.integers(0, 2**31),
}


def example(bins, bound, spread, seed, shape=(40,)):
    """A spline, parameters for each point, and points within the bound and beyond."""
    spline, rng = RationalQuadratic(bins, bound), np.random.default_rng(seed)
    return spline, spread * rng.standard_normal((*shape, spline.size)), bound * rng.uniform(-1.2, 1.2, shape)


def knots(spline, theta):
    """The knots and slopes of one spline, by the book: cumulative sums of softmaxes, theta float[size]."""
    import mpmath as mp

    K, top = spline.bins, mp.log(1000)
    bounded = [top * mp.tanh(mp.mpf(float(p)) / top) for p in theta]

    def edges(logits):
        weights = [mp.exp(p) for p in logits]
        widths = [mp.mpf(1e-3) + (1 - K * mp.mpf(1e-3)) * w / mp.fsum(weights) for w in weights]
        return [spline.bound * (2 * mp.fsum(widths[:k]) - 1) for k in range(K + 1)]

    return edges(bounded[:K]), edges(bounded[K : 2 * K]), [mp.mpf(1), *map(mp.exp, bounded[2 * K :]), mp.mpf(1)]


def twin(spline, theta, x):
    """Equations 4 and 5 of Durkan et al. 2019, and the limits of rounding in them."""
    import mpmath as mp

    if not abs(x) < spline.bound:
        return mp.mpf(x), mp.mpf(0)
    xs, ys, d = knots(spline, theta)
    k = max(k for k in range(spline.bins) if xs[k] <= x)
    w, h = xs[k + 1] - xs[k], ys[k + 1] - ys[k]
    s, xi = h / w, (mp.mpf(float(x)) - xs[k]) / w
    below = s + (d[k + 1] + d[k] - 2 * s) * xi * (1 - xi)
    y = ys[k] + h * (s * xi**2 + d[k] * xi * (1 - xi)) / below
    slope = s**2 * (d[k + 1] * xi**2 + 2 * s * xi * (1 - xi) + d[k] * (1 - xi) ** 2) / below**2
    return y, mp.log(slope)


@settings(max_examples=40)
@given(**problems)
def test_the_spline_is_that_of_the_paper_in_30_digits(bins, bound, spread, seed):
    mp = pytest.importorskip("mpmath")
    spline, theta, x = example(bins, bound, spread, seed, shape=(8,))
    y, log_derivative, _ = spline.forward(theta, x)
    with mp.workdps(30):
        exact = [twin(spline, theta[n], x[n]) for n in range(8)]
    np.testing.assert_allclose(y, [float(e[0]) for e in exact], rtol=0, atol=1e-12 * bound)
    np.testing.assert_allclose(log_derivative, [float(e[1]) for e in exact], rtol=1e-10, atol=1e-10)


@settings(max_examples=60)
@given(**problems)
def test_backward_is_that_of_autodiff(bins, bound, spread, seed):
    torch = pytest.importorskip("torch")
    spline, theta, x = example(bins, bound, min(spread, 3.0), seed)
    dy, dlog_derivative = np.random.default_rng(seed).standard_normal((2, *x.shape))
    dtheta, dx = spline.backward(spline.forward(theta, x)[2], dy, dlog_derivative)
    arguments = [torch.tensor(a, requires_grad=True) for a in (theta, x)]
    y, log_derivative, _ = spline.forward(*arguments)
    (y * torch.tensor(dy) + log_derivative * torch.tensor(dlog_derivative)).sum().backward()
    for ours, theirs in zip((dtheta, dx), arguments, strict=True):
        theirs = theirs.grad.numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10 * np.max(np.abs(theirs)))


@settings(max_examples=60)
@given(**problems)
def test_the_derivative_is_that_of_the_value(bins, bound, spread, seed):
    torch = pytest.importorskip("torch")
    spline, theta, x = example(bins, bound, spread, seed)
    point = torch.tensor(x, requires_grad=True)
    y, log_derivative, _ = spline.forward(torch.tensor(theta), point)
    y.sum().backward()
    slope = point.grad.numpy()  # its terms cancel, where ours add up
    np.testing.assert_allclose(np.exp(log_derivative.detach().numpy()), slope, rtol=1e-10, atol=1e-15)


@settings(max_examples=100)
@given(**problems)
def test_the_inverse_undoes_the_spline(bins, bound, spread, seed):
    """A rounding error of y moves x by the slope of the inverse, which is 5e8 in the flattest bin there can be."""
    spline, theta, x = example(bins, bound, spread, seed)
    y, log_derivative, _ = spline.forward(theta, x)
    back, log_inverse = spline.inverse(theta, y)
    assert np.all(np.abs(back - x) <= 1e-12 * bound * np.maximum(1, np.exp(-log_derivative)))
    steep = log_derivative > -5
    np.testing.assert_allclose(back[steep], x[steep], rtol=0, atol=1e-10)
    np.testing.assert_allclose(log_inverse[steep], -log_derivative[steep], rtol=0, atol=1e-9)
    z, log_inverse = spline.inverse(theta, x)
    again, log_derivative, _ = spline.forward(theta, z)
    np.testing.assert_allclose(again, x, rtol=0, atol=1e-10)


@settings(max_examples=60)
@given(**problems)
def test_it_rises_from_end_to_end(bins, bound, spread, seed):
    spline, theta, _ = example(bins, bound, spread, seed, shape=())
    x = np.linspace(-1.1 * bound, 1.1 * bound, 997)
    y, log_derivative, _ = spline.forward(np.broadcast_to(theta, (997, spline.size)), x)
    slope = np.exp(log_derivative)
    assert np.all(np.diff(y) > 0) and np.all(slope > 0)
    assert np.all(np.abs(y[np.abs(x) < bound]) <= bound)


@settings(max_examples=60)
@given(**problems)
def test_at_the_knots_value_and_slope_are_continuous_and_as_told(bins, bound, spread, seed):
    mp = pytest.importorskip("mpmath")
    spline, theta, _ = example(bins, bound, min(spread, 3.0), seed, shape=())
    with mp.workdps(30):
        xs, ys, slopes = (np.array([float(p) for p in of]) for of in knots(spline, theta))
    rows = np.broadcast_to(theta, (bins + 1, spline.size))
    for x in (np.nextafter(xs, -np.inf), xs, np.nextafter(xs, np.inf)):
        y, log_derivative, _ = spline.forward(rows, x)
        np.testing.assert_allclose(y, ys, rtol=0, atol=1e-11 * bound)
        np.testing.assert_allclose(np.exp(log_derivative), slopes, rtol=1e-8)
        np.testing.assert_allclose(spline.inverse(rows, y)[0], xs, rtol=0, atol=1e-10 * bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_outside_it_is_the_identity_to_the_last_bit(dtype):
    spline = RationalQuadratic(bins=4, bound=2.0)
    x = np.array([2.0, -2.0, np.nextafter(dtype(2), dtype(3)), 7.0, -1e30, 1e30, np.inf, -np.inf], dtype=dtype)
    theta = np.random.default_rng(0).standard_normal((8, spline.size)).astype(dtype)
    y, log_derivative, residuals = spline.forward(theta, x)
    back, log_inverse = spline.inverse(theta, x)
    dtheta, dx = spline.backward(residuals, np.arange(8, dtype=dtype), np.ones(8, dtype=dtype))
    for same, expected in ((y, x), (back, x), (log_derivative, 0 * theta[:, 0]), (log_inverse, 0 * theta[:, 0])):
        np.testing.assert_array_equal(same, expected)
    np.testing.assert_array_equal(dx, np.arange(8))
    assert np.all(dtheta == 0)
    assert all(np.isnan(f(theta[:1], np.array([np.nan], dtype=dtype))[0]) for f in (spline.forward, spline.inverse))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bins", [2, 3, 8])
def test_with_zero_parameters_it_is_the_identity(dtype, bins):
    spline = RationalQuadratic(bins=bins, bound=3.0)
    x = np.linspace(-4, 4, 1001, dtype=dtype)
    theta, tolerance = np.zeros((1001, spline.size), dtype=dtype), 4 * np.finfo(dtype).eps
    for y, log_derivative in (spline.forward(theta, x)[:2], spline.inverse(theta, x)):
        np.testing.assert_allclose(y, x, rtol=0, atol=3 * tolerance)
        np.testing.assert_allclose(log_derivative, 0, rtol=0, atol=tolerance)


@settings(max_examples=60)
@given(**problems)
def test_single_precision_has_no_nan_and_follows_double(bins, bound, spread, seed):
    spline, theta, x = example(bins, bound, spread, seed)
    theta, x = theta.astype(np.float32), x.astype(np.float32)
    y, log_derivative, residuals = spline.forward(theta, x)
    back, log_inverse = spline.inverse(theta, x)
    gradients = spline.backward(residuals, np.ones_like(x), np.ones_like(x))
    for a in (y, log_derivative, back, log_inverse, *gradients):
        assert a.dtype == np.float32 and np.all(np.isfinite(a))
    exact, exact_log, _ = spline.forward(theta.astype(float), x.astype(float))
    slope = np.maximum(1, np.exp(exact_log))
    assert np.all(np.abs(y - exact) <= 4e-6 * bound * slope)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_at_every_number_beside_a_knot_roots_stay_real(dtype):
    """The flattest bins between the steepest, and every rounding of a knot: a point stays within its bin."""
    mp = pytest.importorskip("mpmath")
    rng = np.random.default_rng(0)
    for _ in range(30):
        spline = RationalQuadratic(bins=3, bound=1.0)
        theta = (1e30 * rng.standard_normal(spline.size)).astype(dtype)
        with mp.workdps(20):
            edges = [np.array([float(p) for p in of[1:-1]]) for of in knots(spline, theta)[:2]]
        for f, inner in zip((spline.forward, spline.inverse), edges, strict=True):
            near = (inner[:, None] + np.arange(-40, 41) * np.spacing(dtype(1)) / 4).astype(dtype)
            y, log_derivative = f(np.broadcast_to(theta, (*near.shape, spline.size)), near)[:2]
            assert np.all(np.isfinite(y)) and np.all(np.isfinite(log_derivative))
            assert np.all(np.diff(y, axis=-1) >= -8 * np.finfo(dtype).eps) and np.all(np.abs(y) <= 1)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_library_shape_and_precision(name):
    b = backend(name)
    spline, theta, x = example(8, 3.0, 0.5, 0, shape=(2, 5, 3))
    dy, dlog_derivative = np.random.default_rng(1).standard_normal((2, *x.shape))

    def run(*arrays):
        y, log_derivative, residuals = spline.forward(*arrays[:2])
        return (y, log_derivative, *spline.backward(residuals, *arrays[2:]), *spline.inverse(*arrays[:2]))

    jitted = pytest.importorskip("jax").jit(run) if name == "jax" else run
    arrays = theta, x, dy, dlog_derivative
    copies = [a.copy() for a in arrays]
    exact = run(*arrays)
    assert all(np.array_equal(a, copy) for a, copy in zip(arrays, copies, strict=True))
    for dtype, tolerance in ((np.float64, 1e-11), (np.float32, 2e-3)):
        for ours, theirs in zip(jitted(*(b.asarray(a.astype(dtype)) for a in arrays)), exact, strict=True):
            assert b.to_numpy(ours).dtype == dtype
            np.testing.assert_allclose(b.to_numpy(ours), theirs, rtol=tolerance, atol=tolerance)
    if name == "jax":
        return  # every shape is compiled anew
    for a, full in zip(jitted(*(b.asarray(a[:, :0]) for a in arrays)), exact, strict=True):
        assert a.shape == (2, 0, *full.shape[2:])
    for a, full in zip(jitted(*(b.asarray(a[0, 0, 0]) for a in arrays)), exact, strict=True):
        np.testing.assert_allclose(b.to_numpy(a), full[0, 0, 0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: RationalQuadratic(bins=1), "bins: expected from 2 to 999"),
        (lambda: RationalQuadratic(bins=1000), "bins: expected from 2 to 999"),
        (lambda: RationalQuadratic(bound=0.0), "bound: expected a positive"),
        (lambda: RationalQuadratic(bound=math.nan), "bound: expected a positive"),
        (lambda: RationalQuadratic(bound=math.inf), "bound: expected a positive"),
        (lambda: RationalQuadratic(2).forward(np.zeros((3, 4)), np.zeros(3)), r"theta: .*\(3, 5\), got \(3, 4\)"),
        (lambda: RationalQuadratic(2).inverse(np.zeros(5), np.zeros(3)), r"theta: .*\(3, 5\), got \(5,\)"),
    ],
)
def test_bad_input_raises(make, what):
    with pytest.raises(ValueError, match=what):
        make()


def test_999_bins_leave_room_for_each():
    spline = RationalQuadratic(bins=999, bound=1.0)
    x = np.linspace(-0.99, 0.99, 5)
    theta = np.random.default_rng(0).standard_normal((5, spline.size))
    np.testing.assert_allclose(spline.inverse(theta, spline.forward(theta, x)[0])[0], x, rtol=0, atol=1e-10)
