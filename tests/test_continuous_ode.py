"""Solvers: the order of each method, tolerances kept beside scipy's best, dense output, cost, and clear errors."""

import math
from functools import partial

import numpy as np
import pytest
from scipy.integrate import RK45, solve_ivp
from strategies import BACKENDS, backend

from dfm_ref.arrays import namespace
from dfm_ref.continuous.ode import dormand_prince, euler, heun, interpolate, midpoint, rk4, solve

RNG = np.random.default_rng(0)
TOLERANCES = [10.0**-k for k in range(3, 11)]


def pair(y, first, second):
    return namespace(y).stack([first, second], axis=-1)


def rotation(y, t):
    return pair(y, -6 * y[..., 1], 6 * y[..., 0])


def lotka_volterra(y, t):
    return pair(y, (1.5 - y[..., 1]) * y[..., 0], (y[..., 0] - 3) * y[..., 1])


def growth(y, t):
    return y * math.cos(5 * t)


def relaxation(y, t, *, rate=1e3):
    """Prothero and Robinson: y = cos t, which every other solution falls onto at a rate."""
    return -rate * (y - math.cos(t)) - math.sin(t)


def van_der_pol(y, t, *, mu):
    return pair(y, y[..., 1], mu * (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0])


def two_points(y, t):
    """The marginal velocity of the points -2 and 2 of a plane under mu = t, sigma = 1 - 0.9 t."""
    sigma = 1 - 0.9 * t
    shift = namespace(y).tanh(2 * t * y[..., 0] / sigma**2)
    return pair(y, (2 * shift - 0.9 * y[..., 0]) / sigma, -0.9 * y[..., 1] / sigma)


def network(dim, *, hidden=64, gain=1.0, seed=0):
    """A perceptron of one state and time, as flow matching trains them, on any library."""
    rng = np.random.default_rng(seed)
    shapes = (dim + 1, hidden), (hidden, hidden), (hidden, dim)
    weights = [gain / math.sqrt(shape[0]) * rng.standard_normal(shape) for shape in shapes]

    def velocity(y, t):
        xp = namespace(y)
        h = xp.concat([y, xp.full((y.shape[0], 1), 2 * t, dtype=y.dtype)], axis=-1)
        for w in weights[:-1]:
            h = xp.tanh(h @ xp.asarray(w, dtype=y.dtype))
        return h @ xp.asarray(weights[-1], dtype=y.dtype)

    return velocity


def exact(velocity, y_0, t_0, t_1, *, method="DOP853", tolerance=1e-12):
    def flat(t, y):
        return velocity(y.reshape(y_0.shape), t).ravel()

    return solve_ivp(flat, (t_0, t_1), y_0.ravel(), method=method, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("step", "order"), [(euler, 1), (midpoint, 2), (heun, 2), (rk4, 4)])
@pytest.mark.parametrize("times", [(0.0, 2.0), (2.0, 0.0)])
def test_halving_the_steps_divides_the_error_by_two_to_the_order(step, order, times):
    y_0 = np.array([10.0, 5.0]) / 4
    truth = exact(lotka_volterra, y_0, *times).y[:, -1]
    errors = [np.abs(solve(step, lotka_volterra, y_0, np.linspace(*times, n + 1)) - truth).max() for n in (256, 512)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.06)


SMOOTH = {
    "rotation": (rotation, np.array([1.0, 0.0]), 0.0, 1.0, 6),
    "rotation back": (rotation, np.array([1.0, 0.0]), 1.0, 0.0, 6),
    "Lotka and Volterra": (lotka_volterra, np.array([10.0, 5.0]), 0.0, 4.0, 25),
    "growth": (growth, np.ones(3), 0.0, 3.0, 8),
    "two points": (two_points, RNG.standard_normal((64, 2)), 0.0, 1.0, 60),
    "network": (network(8), RNG.standard_normal((64, 8)), 0.0, 1.0, 6),
}
"""velocity, y_0, t_0, t_1, and how many tolerances the error may be: the last grows as the problem magnifies errors."""


@pytest.mark.parametrize("name", SMOOTH)
def test_the_error_is_within_a_few_tolerances(name):
    velocity, y_0, t_0, t_1, multiple = SMOOTH[name]
    truth = exact(velocity, y_0, t_0, t_1).y[:, -1].reshape(y_0.shape)
    for tolerance in TOLERANCES:
        y = dormand_prince(velocity, y_0, t_0, t_1, rtol=tolerance, atol=tolerance).y
        assert np.max(np.abs(y - truth) / (1 + np.abs(truth))) <= multiple * tolerance + 1e-11, tolerance


STIFF = {
    "Prothero and Robinson": (relaxation, np.array([0.0]), 0.0, 2.0, 2),
    "decay": (lambda y, t: -1e3 * y, np.array([1.0]), 0.0, 1.0, 2),
    "van der Pol": (partial(van_der_pol, mu=50.0), np.array([2.0, 0.0]), 0.0, 30.0, 5),
}


@pytest.mark.parametrize("name", STIFF)
def test_the_error_on_stiff_problems_is_within_a_few_tolerances(name):
    velocity, y_0, t_0, t_1, multiple = STIFF[name]
    truth = exact(velocity, y_0, t_0, t_1, method="Radau").y[:, -1]
    for tolerance in TOLERANCES:
        y = dormand_prince(velocity, y_0, t_0, t_1, rtol=tolerance, atol=tolerance).y
        assert np.max(np.abs(y - truth) / (1 + np.abs(truth))) <= multiple * tolerance + 1e-11, tolerance


def test_a_tolerance_of_single_precision_is_met():
    y_0 = np.array([1.0, 0.0])
    for tolerance in (1e-3, 1e-5, 1e-6):
        y = dormand_prince(rotation, y_0.astype("float32"), 0.0, 1.0, rtol=tolerance, atol=tolerance).y
        assert y.dtype == np.float32
        assert np.max(np.abs(y - [math.cos(6), math.sin(6)])) <= 6 * tolerance


def test_dense_output_is_exact_at_the_steps_and_equals_that_of_scipy():
    y_0 = np.array([10.0, 5.0])
    solution = dormand_prince(lotka_volterra, y_0, 0.0, 4.0, dense=True)
    assert len(solution.intervals) == solution.accepted > 10
    for here in solution.intervals:
        assert np.array_equal(interpolate(solution, here.t), here.y_t)
        assert np.array_equal(interpolate(solution, here.s), here.y_s)
        theirs = RK45(lambda t, y: lotka_volterra(y, t), here.t, here.y_t, here.s, rtol=1e9, atol=1e9)
        theirs.h_abs = here.s - here.t
        theirs.step()
        for t in np.linspace(here.t, here.s, 5):
            np.testing.assert_allclose(interpolate(solution, t), theirs.dense_output()(t), rtol=1e-12)


@pytest.mark.parametrize("way", [1.0, -1.0])
def test_dense_output_is_of_order_four(way):
    """The interpolant of one step of length h errs as h^5."""
    errors = []
    for h in (way * 0.02, way * 0.01):
        one_step = dormand_prince(rotation, np.array([1.0, 0.0]), 0.0, h, rtol=1.0, atol=1e3, dense=True)
        assert one_step.accepted == 1
        angle = 6 * 0.4 * h
        errors.append(np.abs(interpolate(one_step, 0.4 * h) - [math.cos(angle), math.sin(angle)]).max())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(5, abs=0.1)


COST = {
    **SMOOTH,
    "two points, wide": (two_points, 2 * RNG.standard_normal((256, 2)), 0.0, 1.0, 0),
    "two points back": (two_points, RNG.standard_normal((256, 2)), 1.0, 0.0, 0),
    "network of 2": (network(2, gain=2.0), RNG.standard_normal((256, 2)), 0.0, 1.0, 0),
    "network of 2 back": (network(2, gain=2.0, seed=1), RNG.standard_normal((256, 2)), 1.0, 0.0, 0),
    "network of 64": (network(64, gain=1.5), RNG.standard_normal((256, 64)), 0.0, 1.0, 0),
}


def evaluations_of_torchdiffeq(velocity, y_0, t_0, t_1, tolerance):
    torch = pytest.importorskip("torch")
    torchdiffeq = pytest.importorskip("torchdiffeq")
    count = 0

    def counted(t, y):
        nonlocal count
        count += 1
        return velocity(y, float(t))

    times = torch.tensor([t_0, t_1], dtype=torch.float64)
    torchdiffeq.odeint(counted, torch.from_numpy(y_0), times, rtol=tolerance, atol=tolerance, method="dopri5")
    return count


def evaluations_of_scipy(velocity, y_0, t_0, t_1, tolerance):
    return exact(velocity, y_0, t_0, t_1, method="RK45", tolerance=tolerance).nfev


@pytest.mark.parametrize("name", COST)
def test_no_more_evaluations_than_others_at_equal_tolerance(name):
    """Than torchdiffeq at every tolerance, as the steps are the same up to the last; than SciPy's RK45 in their sum,
    but for `growth`: 924 against 912."""
    problem = COST[name][:4]
    ours = [dormand_prince(*problem, rtol=tolerance, atol=tolerance).evaluations for tolerance in TOLERANCES[:6]]
    theirs = [evaluations_of_torchdiffeq(*problem, tolerance) for tolerance in TOLERANCES[:6]]
    assert all(our <= their for our, their in zip(ours, theirs, strict=True)), (ours, theirs)
    assert sum(ours) <= sum(evaluations_of_scipy(*problem, t) for t in TOLERANCES[:6]) + 12 * (name == "growth")


def test_evaluations_are_counted():
    asked = []

    def velocity(y, t):
        asked.append(t)
        return van_der_pol(y, t, mu=5.0)

    solution = dormand_prince(velocity, np.array([2.0, 0.0]), 0.0, 10.0)
    assert solution.evaluations == len(asked) == 2 + 6 * (solution.accepted + solution.rejected)
    assert solution.rejected > 0 and max(asked) == 10.0


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_libraries_agree(name, dtype):
    library = backend(name)
    y_0 = np.array([[10.0, 5.0], [2.0, 2.0]], dtype=dtype)
    tight = 1e-5 if dtype == "float32" else 1e-9
    ours = dormand_prince(lotka_volterra, y_0, 0.0, 1.0, rtol=tight, atol=tight, dense=True)
    theirs = dormand_prince(lotka_volterra, library.asarray(y_0), 0.0, 1.0, rtol=tight, atol=tight, dense=True)
    precision = 100 * np.finfo(dtype).eps
    assert theirs.y.dtype == library.asarray(y_0).dtype
    assert np.array_equal(y_0, np.array([[10.0, 5.0], [2.0, 2.0]]))
    np.testing.assert_allclose(library.to_numpy(theirs.y), ours.y, rtol=max(precision, 10 * tight))
    middle = library.to_numpy(interpolate(theirs, 0.3))
    np.testing.assert_allclose(middle, interpolate(ours, 0.3), rtol=max(precision, 10 * tight))
    for step in (euler, midpoint, heun, rk4):
        frames = solve(step, lotka_volterra, library.asarray(y_0), [0.0, 0.1, 0.3], frames=True)
        expected = solve(step, lotka_volterra, y_0, [0.0, 0.1, 0.3], frames=True)
        np.testing.assert_allclose(library.to_numpy(frames), expected, rtol=precision)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), ()])
def test_empty_batches_and_single_numbers(shape):
    assert dormand_prince(lambda y, t: -y, np.ones(shape), 0.0, 1.0).y.shape == shape
    assert solve(rk4, lambda y, t: -y, np.ones(shape), [0.0, 1.0]).shape == shape


def test_no_time_costs_nothing():
    assert dormand_prince(lambda y, t: -y, np.ones(2), 0.5, 0.5)[1:] == (0, 0, 0, ())


def test_frames_are_the_states_at_the_times():
    frames = solve(euler, lambda y, t: y, np.ones(1), [0.0, 0.5, 1.0], frames=True)
    assert frames.tolist() == [[1.0], [1.5], [2.25]]
    assert solve(euler, lambda y, t: y, np.ones(1), [0.0, 0.5, 1.0]).tolist() == [2.25]


def test_a_step_beyond_the_domain_is_tried_again_shorter():
    """y' = -sqrt(y) + 0.1 from 4 never leaves y > 0, but long steps do."""

    def velocity(y, t):
        with np.errstate(invalid="ignore"):
            return 10 * (0.1 - np.sqrt(y))

    solution = dormand_prince(velocity, np.array([4.0]), 0.0, 5.0, rtol=1e-2, atol=1.0)
    assert solution.rejected > 0 and solution.y[0] == pytest.approx(0.01, abs=1.0)


ONES = np.ones((2, 3))


def broken_at(row, time):
    def velocity(y, t):
        k = 0 * y
        if t >= time:
            k[row, 1] = np.nan
        return k

    return velocity


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dormand_prince(rotation, ONES, 0.0, 1.0, rtol=1e-16), "rtol: expected at least 1.78e-15, 8 eps"),
        (lambda: dormand_prince(rotation, ONES.astype("f"), 0.0, 1.0, rtol=1e-7), "rtol: .* of float32, got 1e-07"),
        (lambda: dormand_prince(rotation, ONES, 0.0, 1.0, atol=0.0), "rtol, atol: expected positive .* 0.0"),
        (lambda: dormand_prince(rotation, ONES, 0.0, 1.0, rtol=math.nan), "rtol, atol: expected positive"),
        (lambda: dormand_prince(rotation, ONES, 0.0, math.inf), "t_0, t_1: expected finite times, got 0.0 and inf"),
        (lambda: dormand_prince(rotation, ONES, math.nan, 1.0), "t_0, t_1: expected finite times"),
        (lambda: dormand_prince(lambda y, t: y[0], ONES, 0.0, 1.0), r"velocity: .*\(2, 3\) .* got \(3,\)"),
        (lambda: dormand_prince(lambda y, t: 1.0 * y.astype("f"), ONES, 0.0, 1.0), "velocity: .* got .* float32"),
        (
            lambda: dormand_prince(broken_at(1, 0.0), ONES, 0.0, 1.0),
            r"velocity: expected finite values, got nan at t = 0, y\[1\] = \[1. 1. 1.\]$",
        ),
        (
            lambda: dormand_prince(broken_at(1, 0.5), ONES, 0.0, 1.0),
            r"got nan at t = 0.50*\d*, y\[1\] = \[1. 1. 1.\], even of a step of \S+e-1[56] at t = 0.49999",
        ),
        (lambda: solve(rk4, broken_at(0, 0.5), ONES, [0.0, 1.0]), r"got nan at t = 0.5, y\[0\] = \[1. 1. 1.\]$"),
        (lambda: solve(rk4, rotation, ONES, [0.0]), "times: expected two or more"),
        (lambda: solve(rk4, rotation, ONES, [0.0, 0.5, 0.5]), "times: expected two or more"),
        (lambda: solve(rk4, rotation, ONES, [0.0, 0.5, 0.2]), "times: expected two or more"),
        (lambda: solve(rk4, rotation, ONES, [0.0, math.nan]), "times: expected two or more"),
        (lambda: interpolate(dormand_prince(growth, ONES, 0.0, 1.0), 0.5), "solution: expected one with dense=True"),
        (lambda: interpolate(dormand_prince(growth, ONES, 0.0, 1.0, dense=True), 1.5), "t: .* between 0.0 and 1.0"),
        (lambda: interpolate(dormand_prince(growth, ONES, 1.0, 0.0, dense=True), math.nan), "t: .* between 1.0 and"),
        (
            lambda: dormand_prince(lambda y, t: y**2, np.ones(1), 0.0, 2.0),
            r"velocity: expected one that steps above rounding can follow, got a step of \S+ at t = (1|0.9999)",
        ),
    ],
)
def test_mistakes_are_told(call, message):
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=message):
        call()


def test_integers_are_no_states():
    with pytest.raises(TypeError, match="y_0: expected float32 or float64, got int64"):
        dormand_prince(rotation, np.ones(2, dtype=np.int64), 0.0, 1.0)


def test_a_jump_that_no_step_can_follow_underflows():
    """The velocity changes sign at random: every step errs by its own length over the tolerance."""

    def velocity(y, t):
        return np.full_like(y, 1e30 * math.sin(1e20 * t))

    with pytest.raises(ValueError, match=r"steps above rounding can follow, got a step of \S+ at t = "):
        dormand_prince(velocity, np.zeros(1), 0.5, 1.0)


def test_a_rejected_step_is_never_tried_again_as_it_was():
    """At any tolerance: a step may stretch to the end of the time, though not back to the length that was rejected."""
    for tolerance in np.geomspace(1e-3, 1e-9, 300):
        asked = []

        def velocity(y, t, asked=asked):
            asked.append(t)
            assert len(asked) < 3000, "no end"
            return np.cos(8 * t) * np.sin(3 * y)

        assert dormand_prince(velocity, np.asarray([0.4]), 0.0, 1.0, rtol=tolerance, atol=tolerance).accepted > 2


@pytest.mark.parametrize("y_0", [math.nan, math.inf, -math.inf])
def test_a_state_that_is_not_finite_raises_where_steps_would_never_end(y_0):
    with pytest.raises(ValueError, match="y_0: expected finite values"):
        dormand_prince(lambda y, t: np.ones(2), np.array([y_0, 1.0]), 0.0, 1.0)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_sizes_whose_squares_overflow_are_followed_or_told():
    with pytest.raises(ValueError, match="velocity: expected finite values"):
        dormand_prince(lambda y, t: 1e160 * y, np.ones(2), 0.0, 1.0)
    y = dormand_prince(lambda y, t: np.ones(2), np.zeros(2), 0.0, 1.0, atol=1e-200).y
    np.testing.assert_allclose(y, 1.0, rtol=1e-12)
    short = dormand_prince(lambda y, t: np.ones(1) * (t > 5e-305), np.zeros(1), 0.0, 1e-304)
    assert 0 <= short.y[0] <= 1e-304
