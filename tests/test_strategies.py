"""The public strategies draw what they say: valid by construction, with their corners, and small when they fail."""

import json
import re
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from strategies import BACKENDS, backend

from dfm_ref import schedules, sources
from dfm_ref.paths import X0, X1, Fixed, Mixture, Table, component_pmfs
from dfm_ref.schedules import Linear, Monotone, PerToken, Polynomial
from dfm_ref.sources import Masked, Uniform
from dfm_ref.velocities import forward
from dfm_ref.verify import oracle, strategies
from dfm_ref.verify.cases import SCHEDULES, Case, data_states
from dfm_ref.verify.strategies import PathProblem, Posteriors, smallest

PAGE = Path(__file__).parents[1] / "docs" / "strategies.md"
GRID = np.linspace(0, 1, 65)[:, None]
PHASES = (Phase.generate, Phase.shrink)
few = settings(max_examples=30, phases=PHASES)
sizes = st.tuples(st.integers(1, 3), st.integers(1, 2))


# Times


@few
@given(t=strategies.times(), inner=strategies.times(exclude_min=True, exclude_max=True))
def test_times_lie_in_the_unit_interval_and_are_exact_in_float32(t, inner):
    assert 0 <= t <= 1 and 0 < inner < 1
    assert float(np.float32(t)) == t and float(np.float32(inner)) == inner


@pytest.mark.parametrize(
    "corner",
    [
        lambda t: t == 0,
        lambda t: t == 1,
        lambda t: 0 < t <= 2.0**-30,
        lambda t: 0 < 1 - t <= 2.0**-24,
        lambda t: t * 2**24 % 2 == 1 and 0.1 < t < 0.9,
    ],
)
def test_times_have_these_corners(corner):
    assert corner(smallest(strategies.times(), where=corner))


@pytest.mark.parametrize("exclude_min", [False, True])
@pytest.mark.parametrize("exclude_max", [False, True])
def test_excluded_ends_are_never_drawn_and_others_are(exclude_min, exclude_max):
    options = {"exclude_min": exclude_min, "exclude_max": exclude_max}
    for end, excluded in ((0.0, exclude_min), (1.0, exclude_max)):
        at_end = strategies.intervals(**options).map(lambda ts, end=end: ts[end == 1])
        for one in (strategies.times(**options), at_end):
            if excluded:
                with pytest.raises(NoSuchExample):
                    smallest(one, where=lambda t, end=end: t == end, max_examples=200)
            else:
                assert smallest(one, where=lambda t, end=end: t == end) == end


def test_times_shrink_to_simple_ones_and_not_to_an_end():
    assert smallest(strategies.times(exclude_max=True), where=lambda t: t != 0.5) == 0.75
    assert smallest(strategies.times(exclude_min=True), where=lambda t: t > 0.6) == 0.75


@few
@given(interval=strategies.intervals())
def test_intervals_go_forward(interval):
    t, s = interval
    assert 0 <= t < s <= 1


@few
@given(data=st.data(), max_steps=st.integers(1, 60), whole=st.booleans())
def test_grids_increase_strictly_and_have_so_many_steps_at_most(data, max_steps, whole):
    grid = data.draw(strategies.time_grids(max_steps=max_steps, whole=whole))
    assert 1 <= len(grid) - 1 <= max_steps and 0 <= grid[0] < grid[-1] <= 1
    assert all(t < s for t, s in pairwise(grid))
    assert not whole or (grid[0], grid[-1]) == (0, 1)


def test_grids_have_their_corners_unless_these_are_switched_off():
    def clustered(grid):
        return sum(s - t == 2.0**-20 for t, s in pairwise(grid)) > 4  # more than the ends have

    def near_ends(grid):
        return any(0 < t < 0.01 or 0.99 < t < 1 for t in grid)

    assert smallest(strategies.time_grids(), where=clustered) and smallest(strategies.time_grids(), where=near_ends)
    assert smallest(strategies.time_grids(), where=lambda grid: grid[0] > 0 and grid[-1] < 1)
    for corner, option in ((clustered, "clustered"), (near_ends, "near_ends")):
        with pytest.raises(NoSuchExample):
            smallest(strategies.time_grids(**{option: False}), where=corner, max_examples=200)


# Probabilities and rates


@few
@given(data=st.data(), size=st.integers(1, 6))
def test_pmfs_sum_to_1(data, size):
    p, exact = data.draw(strategies.pmfs(size)), data.draw(strategies.pmfs(size, exact=True))
    assert p.shape == exact.shape == (size,) and p.dtype == np.float64
    assert np.all(p >= 0) and abs(p.sum() - 1) <= size * 2.0**-53
    assert np.all(exact >= 0) and exact.sum() == 1 and all(isinstance(x, Fraction) for x in exact)


def near_tie(p):
    gaps = np.diff(np.sort(p))
    return np.any((gaps > 0) & (gaps < 1e-5 * np.sort(p)[1:]))


@pytest.mark.parametrize("exact", [False, True])
def test_pmfs_have_zeros_point_masses_near_ties_and_rare_entries_unless_these_are_switched_off(exact):
    corners = {
        "zero": (lambda p: np.any(p == 0), {"zeros": False}),
        "point mass": (lambda p: np.max(p) == 1, {"zeros": False, "extremes": False}),
        "near-tie": (near_tie, {"extremes": False}),
        "rare": (lambda p: np.any((p > 0) & (p < 1e-11)), {"extremes": False}),
    }
    for where, options in corners.values():
        assert where(smallest(strategies.pmfs(3, exact=exact), where=where))
        with pytest.raises(NoSuchExample):
            smallest(strategies.pmfs(3, exact=exact, **options), where=where, max_examples=200)


@few
@given(data=st.data(), size=st.integers(1, 4))
def test_rates_meet_the_rate_conditions_exactly(data, size):
    for exact in (False, True):
        R = data.draw(strategies.rate_matrices(size, exact=exact))
        assert R.shape == (size, size) and np.all(R[~np.eye(size, dtype=bool)] >= 0) and np.all(R.sum(axis=1) == 0)


@few
@given(R=strategies.rate_matrices(2), extreme=strategies.rate_matrices(2, extremes=False))
def test_rows_of_rates_are_velocities_and_their_transpose_a_generator(R, extreme):
    x_t = oracle.states(2, 1)
    assert np.array_equal(oracle.generator(np.swapaxes(R[x_t], 0, 1)), R.T)
    assert extreme.max() <= 3


def test_rates_have_absorbing_states_and_extremes():
    assert smallest(strategies.rate_matrices(3), where=lambda R: R[1, 1] == 0).shape == (3, 3)
    assert smallest(strategies.rate_matrices(2), where=lambda R: R[0, 1] == 2**20 and R[1, 0] == 2.0**-20).any()


@few
@given(
    x=strategies.logits(3, (2, 1)),
    finite=strategies.logits(2, (3,), impossible=False, magnitude=5.0),
    single=strategies.logits(1, (4,)),
)
def test_logits_are_never_impossible_altogether(x, finite, single):
    assert np.all(np.isfinite(single))
    assert x.shape == (2, 1, 3) and np.all(np.isfinite(x).any(axis=-1)) and not np.any(np.isnan(x) | (x == np.inf))
    assert np.array_equal(x, x.astype(np.float32)) and np.all(np.abs(finite) <= 5)


@pytest.mark.parametrize(
    "corner",
    [
        lambda x: np.sum(np.isinf(x)) == 2,
        lambda x: np.any(x > 9000) and np.any((x < -9000) & (x > -np.inf)),
        lambda x: np.any(x == 1) and np.any(x == 1 + 2.0**-20),
    ],
)
def test_logits_have_these_corners(corner):
    assert corner(smallest(strategies.logits(3, (1,)), where=corner))


@few
@given(x=strategies.tokens(3, (2, 2)), empty=strategies.tokens(3, (0, 2)))
def test_tokens_lie_in_the_vocabulary(x, empty):
    assert x.shape == (2, 2) and x.dtype == np.int64 and np.all((x >= 0) & (x < 3)) and empty.shape == (0, 2)


def test_every_token_is_drawn():
    assert np.ptp(smallest(strategies.tokens(5, (2,)), where=lambda x: set(x.tolist()) == {0, 4})) == 4


# Schedules


@few
@given(schedule=strategies.monotone_schedules(singular=True))
def test_monotone_schedules_increase_from_0_to_1(schedule):
    kappa = schedule.kappa(GRID[:, 0])
    assert isinstance(schedule, Monotone) and kappa[0] == 0 and kappa[-1] == 1
    assert np.all(np.diff(kappa) >= 0) and np.all(schedule.kappa_dot(GRID[1:, 0]) >= 0)


@few
@given(schedule=strategies.monotone_schedules())
def test_rates_of_schedules_are_finite_unless_singular_ones_are_asked_for(schedule):
    assert np.all(np.isfinite(schedule.kappa_dot(GRID[:, 0])))


def test_every_family_of_schedules_is_drawn():
    for family in ("Linear", "Polynomial", "Cosine", "CubicHermite", "Tabulated"):
        kind = getattr(schedules, family)
        assert smallest(strategies.monotone_schedules(), where=lambda s, kind=kind: isinstance(s, kind))
    cubics = strategies.monotone_schedules().filter(lambda s: isinstance(s, schedules.CubicHermite))
    for flat in (0.0, 2 / 3, 1.0):
        assert smallest(cubics, where=lambda s, t=flat: s.kappa_dot(np.array(t)) < 1e-12)
    assert smallest(strategies.monotone_schedules(singular=True), where=lambda s: s.kappa_dot(np.array(0.0)) == np.inf)


@pytest.mark.parametrize("m", [2, 3, 4, 5])
@few
@given(data=st.data())
def test_schedules_meet_the_boundary_and_sum_to_1(data, m):
    own, shared = data.draw(strategies.per_token_schedules(2, m)), data.draw(strategies.schedules(m))
    assert isinstance(own, PerToken) and own.kappas(GRID)[0].shape == (65, 2)
    for schedule in (own, shared):
        kappas, kappa_dots = np.stack(schedule.kappas(GRID)), np.stack(schedule.kappa_dots(GRID[:-1]))
        assert np.all(kappas >= 0) and np.allclose(kappas.sum(axis=0), 1) and np.allclose(kappa_dots.sum(axis=0), 0)
        assert np.all(kappas[0, 0] == 1) and np.all(kappas[-1, -1] == 1)


def test_weights_may_fall_again_and_tokens_may_differ():
    def falls(schedule):
        return np.any(schedule.kappa_dots(GRID)[-1] < -0.1)

    def differ(schedule):
        return np.any(np.ptp(schedule.kappas(GRID)[-1], axis=1) > 0.1)

    assert falls(smallest(strategies.schedules(2), where=falls))
    assert falls(smallest(strategies.problems(m=2), where=lambda problem: falls(problem.path.schedule)).path.schedule)
    assert smallest(strategies.per_token_schedules(2, 2), where=differ).schedules == (Linear(), Polynomial(2.0))


# Sources, couplings, paths


@few
@given(data=st.data(), size=sizes)
def test_sources_have_their_shapes(data, size):
    source = data.draw(strategies.sources(*size))
    assert source.vocab_size == size[0] and source.pmf().shape in (size[:1], size[::-1])
    assert np.allclose(source.pmf().sum(axis=-1), 1)


def test_all_kinds_of_sources_are_drawn():
    for kind in (Masked, Uniform):
        assert smallest(strategies.sources(3, 2), where=lambda s, kind=kind: isinstance(s, kind)) == kind(3)
    for ndim in (1, 2):
        where = lambda s, n=ndim: isinstance(s, sources.Marginal) and s.pmf().ndim == n  # noqa: E731
        assert smallest(strategies.sources(3, 2), where=where).probs


@few
@given(data=st.data(), size=sizes, kind=st.sampled_from(["independent", "prompted", "correlated"]))
def test_couplings_are_joint_laws_of_their_kind(data, size, kind):
    vocab_size, length = size
    pi = data.draw(strategies.couplings(*size, kinds=(kind,), exact=True))
    S = vocab_size**length
    assert pi.shape == (S, S) and np.all(pi >= 0) and pi.sum() == 1
    if kind == "independent":
        assert np.all(pi == np.outer(pi.sum(axis=1), pi.sum(axis=0)))
    floats = data.draw(strategies.couplings(*size))
    assert floats.dtype == np.float64 and abs(floats.sum() - 1) < 1e-12


@few
@given(data=st.data(), size=st.tuples(st.integers(2, 3), st.integers(1, 2)))
def test_with_a_mask_data_never_hold_it_and_x_0_holds_it_off_the_prompt(data, size):
    pi = data.draw(strategies.couplings(*size, mask=True))
    x = oracle.states(*size)
    for x_0, x_1 in zip(*(x[i] for i in np.nonzero(pi)), strict=True):
        assert np.all(x_1 < size[0] - 1) and np.all((x_0 == size[0] - 1) | (x_0 == x_1))


def test_couplings_are_prompted_and_correlated_too():
    def dependent(pi):
        return np.abs(pi - np.outer(pi.sum(axis=1), pi.sum(axis=0))).max() > 0.1

    for kind in ("prompted", "correlated"):
        assert dependent(smallest(strategies.couplings(2, 1, kinds=(kind,)), where=dependent))
    copied = smallest(strategies.couplings(2, 1, kinds=("prompted",)), where=lambda pi: pi[0, 0] + pi[1, 1] == 1)
    assert copied.tolist() == [[1, 0], [0, 0]]


@few
@given(data=st.data(), size=sizes, m=st.sampled_from([None, 2, 3, 5]), mask=st.booleans())
def test_paths_are_paths_of_so_many_components(data, size, m, mask):
    mask = mask and m in (None, 2)
    path = data.draw(strategies.paths(*size, m=m, mask=mask))
    assert path.components[0] == X0() and path.components[-1] == X1()
    assert len(path.components) == (2 if mask else m or len(path.components)) and len(path.components) >= 2
    assert path.mask == (size[0] - 1 if mask else None)
    x = data.draw(strategies.tokens(size[0], (size[1],)))
    w = np.stack(component_pmfs(path, x, x, vocab_size=size[0]))
    assert w.shape[1:] == (size[1], size[0]) and np.allclose(w.sum(axis=-1), 1)


@pytest.mark.parametrize("draws", [strategies.paths(2, 2), strategies.problems().map(lambda p: p.path)])
def test_paths_have_these_corners(draws):
    for m in (2, 3, 4):
        assert smallest(draws, where=lambda path, m=m: len(path.components) == m)
    for corner in (
        lambda path: any(isinstance(c, Table) for c in path.components),
        lambda path: any(isinstance(c, Fixed) and np.ndim(c.probs) == 2 and c.probs[0] != c.probs[-1]
                         for c in path.components),
        lambda path: isinstance(path.schedule, PerToken) and len(set(path.schedule.schedules)) > 1,
    ):  # fmt: skip
        assert corner(smallest(draws, where=corner))


# Paths whose every number is known


@few
@given(problem=strategies.problems(), t=strategies.times())
def test_the_path_and_its_tables_are_one(problem, t):
    """The library's weights and components, computed apart, to rounding."""
    schedule, N = problem.path.schedule, problem.length
    kappas = [np.broadcast_to(kappa, (N,)) for kappa in schedule.kappas(np.array([t]))]
    np.testing.assert_allclose(np.stack(kappas, -1), problem.kappa(t), rtol=1e-9, atol=1e-15)
    dots = [np.broadcast_to(dot, (N,)) for dot in schedule.kappa_dots(np.array([t]))]
    np.testing.assert_allclose(np.stack(dots, -1), problem.kappa_dot(t), rtol=1e-9, atol=1e-12)
    x_0, x_1, pi, w = problem.problem
    theirs = np.stack(component_pmfs(problem.path, x_0, x_1, vocab_size=problem.vocab_size), axis=1)
    np.testing.assert_allclose(theirs, w, rtol=1e-12)
    assert abs(pi.sum() - 1) < 1e-12 and abs(problem.marginal(t).sum() - 1) < 1e-12
    if problem.path.mask is not None:
        mask = problem.path.mask
        assert mask == problem.vocab_size - 1 and np.all(x_1 < mask) and np.all((x_0 == mask) | (x_0 == x_1))


@few
@given(problem=strategies.problems(exact=True), t=strategies.times(exclude_max=True))
def test_exact_problems_obey_the_laws_with_equality(problem, t):
    """Mass, the forward equation, and posteriors that average back to the coupling."""
    p_t, w_hat = problem.marginal(t), problem.posteriors(t)
    Q = oracle.generator(np.swapaxes(problem.velocity(t), 0, 1))
    assert sum(p_t) == 1 and np.all(problem.kappa(t).sum(axis=1) == 1)
    assert np.all(oracle.kolmogorov_residual(problem.marginal_dot(t), Q, p_t) == 0)
    for j, rows in enumerate(w_hat):
        mean = np.einsum("p,pix->ix", problem.problem.pi, problem.problem.w[:, j])
        assert np.all(np.einsum("s,six->ix", p_t, rows) == mean)


@few
@given(drawn=strategies.posteriors())
def test_posteriors_are_arguments_of_the_velocity_and_consistent_with_a_path(drawn):
    path, w_hat, x_t, t, p_t = drawn
    assert isinstance(drawn, Posteriors) and 0 <= t < 1
    assert len(w_hat) == len(path.components) and np.all(p_t > 0) and abs(p_t.sum() - 1) < 1e-12
    assert all(w.shape[:2] == x_t.shape and np.allclose(w.sum(axis=-1), 1) for w in w_hat)
    u = forward(path, w_hat, x_t, t)
    assert u.shape == w_hat[0].shape and np.abs(u.sum(axis=-1)).max() <= 1e-9 * (1 + np.abs(u).max())
    here = sum(k[..., None] * w for k, w in zip(path.schedule.kappas(np.array([t])), w_hat, strict=True))
    assert np.all(np.take_along_axis(here, x_t[..., None], axis=-1) > 0), "what is seen has been possible"


def test_posteriors_are_drawn_from_what_is_given():
    twin = smallest(strategies.problems(), where=lambda problem: problem.length == 2)
    drawn = smallest(strategies.posteriors(problem=st.just(twin), t=st.just(0.25)))
    assert drawn.t == 0.25 and np.array_equal(drawn.p_t, twin.marginal(0.25)) and drawn.path == twin.path
    late = smallest(strategies.posteriors(), where=lambda drawn: drawn.t > 1 - 2.0**-10)
    assert len(late.p_t) == 2


@few
@given(data=st.data(), options=st.sampled_from([{"m": 3}, {"mask": True}, {"mask": False}, {"max_states": 3}]))
def test_problems_are_what_is_asked_for(data, options):
    problem = data.draw(strategies.problems(**options))
    assert isinstance(problem, PathProblem) and len(problem.states()) <= options.get("max_states", 9)
    assert len(problem.path.components) == options.get("m", len(problem.path.components))
    assert problem.kappa(0.5).shape == (problem.length, len(problem.path.components))
    if "mask" in options:
        assert (problem.path.mask is not None) is options["mask"]


@few
@given(case=strategies.cases(max_vocab_size=5, max_length=2), other=strategies.cases(sources=("mask",)))
def test_cases_are_the_verifier_s(case, other):
    assert isinstance(case, Case) and case.data_size >= 2 and case.vocab_size <= 5 and 1 <= case.length <= 2
    assert case.schedule in SCHEDULES and other.source == "mask" and len(data_states(other)) >= 2


def test_every_kind_of_case_is_drawn():
    for schedule in SCHEDULES:
        for source in ("mask", "uniform"):
            where = lambda c, kind=(schedule, source): (c.schedule, c.source) == kind  # noqa: E731
            assert smallest(strategies.cases(), where=where) == Case(2 + (source == "mask"), 1, schedule, source)
    assert smallest(strategies.cases(), where=lambda c: c.vocab_size == 4 and c.length == 3)


# Namespaces, errors, smallest examples, the page


MAKERS = {
    "times": lambda **options: strategies.times(shape=(3,), **options),
    "pmfs": lambda **options: strategies.pmfs(3, **options),
    "rate_matrices": lambda **options: strategies.rate_matrices(2, **options),
    "logits": lambda **options: strategies.logits(2, (1, 2), **options),
    "tokens": lambda **options: strategies.tokens(2, (1, 2), **options),
    "couplings": lambda **options: strategies.couplings(2, 1, **options),
    "posteriors": lambda **options: strategies.posteriors(**options).map(lambda d: (*d.w_hat, d.x_t, d.p_t)),
}


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("maker", MAKERS)
def test_arrays_are_of_the_namespace_and_of_the_same_values_and_types(maker, name):
    library = backend(name)
    theirs, ours = smallest(MAKERS[maker](xp=library.xp)), smallest(MAKERS[maker]())
    for x, y in zip(*(z if isinstance(z, tuple) else (z,) for z in (theirs, ours)), strict=True):
        assert type(x) is type(library.asarray(np.zeros(1))) and np.array_equal(library.to_numpy(x), y)
        assert x.dtype == (library.xp.int64 if y.dtype == np.int64 else library.xp.float64)


def test_fractions_are_numpy_s_alone():
    with pytest.raises(TypeError, match="xp: expected NumPy"):
        strategies.pmfs(2, exact=True, xp=backend("strict").xp)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: strategies.pmfs(0), "size"),
        (lambda: strategies.rate_matrices(0), "size"),
        (lambda: strategies.logits(0, (1,)), "vocab_size"),
        (lambda: strategies.tokens(0, (1,)), "vocab_size"),
        (lambda: strategies.time_grids(max_steps=0), "max_steps"),
        (lambda: strategies.schedules(1), "m"),
        (lambda: strategies.per_token_schedules(0, 2), "length"),
        (lambda: strategies.sources(2, 0), "length"),
        (lambda: strategies.couplings(2, 1, kinds=("paired",)), "kinds"),
        (lambda: strategies.couplings(2, 1, kinds=("correlated",), mask=True), "kinds"),
        (lambda: strategies.couplings(1, 1, mask=True), "vocab_size"),
        (lambda: strategies.paths(2, 1, m=3, mask=True), "m"),
        (lambda: strategies.problems(m=1), "m"),
        (lambda: strategies.problems(kinds=()), "kinds"),
        (lambda: strategies.problems(max_states=1), "max_states"),
        (lambda: strategies.cases(max_vocab_size=2), "max_vocab_size"),
        (lambda: strategies.cases(max_length=0), "max_length"),
    ],
)
def test_what_cannot_be_drawn_raises_at_once(call, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()


@settings(max_examples=1)
@given(problem=strategies.problems(), drawn=strategies.posteriors(), pi=strategies.couplings(2, 1))
def test_the_first_example_is_the_smallest(problem, drawn, pi):
    """Hypothesis begins with all choices at their simplest."""
    assert (problem.path, drawn.path, drawn.t) == (Mixture(), Mixture(), 0.5)
    assert pi.tolist() == [[0.5, 0], [0.5, 0]]


@pytest.mark.parametrize("condition", [lambda p: True, lambda p: p.length == 2, lambda p: len(p.path.components) == 4])
def test_problems_shrink_to_linear_paths_of_one_data_point_or_what_the_condition_needs(condition):
    found = smallest(strategies.problems(), where=condition)
    assert found.vocab_size == 2 and not found.problem.x_1.any()
    assert found.path.schedule == Linear() or len(found.path.components) == 4


def test_nothing_of_the_database_or_of_chance_enters_the_smallest_example():
    where = lambda p: p[0] > p[1] > p[2]  # noqa: E731
    assert len({str(smallest(strategies.pmfs(3, exact=True), where=where)) for _ in range(2)}) == 1
    with pytest.raises(NoSuchExample):
        smallest(strategies.times(), where=lambda t: t > 1)


def test_a_counterexample_prints_values():
    """And not the calls that made them."""

    @settings(database=None)
    @given(p=strategies.pmfs(2, exact=True), R=strategies.rate_matrices(1), x=strategies.logits(1, (1,)))
    def fails(p, R, x):
        raise AssertionError

    with pytest.raises(AssertionError) as caught:
        fails()
    shown = "\n".join(caught.value.__notes__)
    assert "p=array([Fraction(1, 2), Fraction(1, 2)]" in shown and "R=array([[" in shown and "x=array([[0.]])" in shown


def test_the_verifier_is_imported_without_hypothesis():
    code = "import json, sys, dfm_ref.verify; print(json.dumps('hypothesis' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False


def page():
    if not PAGE.exists():
        pytest.skip("an installed package has no documentation")
    return PAGE.read_text(encoding="utf-8")


def test_the_smallest_examples_are_those_of_the_page():
    names = {**vars(strategies), "Case": Case}
    rows = re.findall(r"^\| `(.*?)` \| `(.*?)` \|", page(), re.M)
    for strategy, example in rows:
        found = smallest(eval(strategy, dict(names)))
        assert repr(found.tolist() if isinstance(found, np.ndarray) else found) == example, strategy
    shown = {strategy.split("(")[0] for strategy, _ in rows}
    assert shown == {name for name in strategies.__all__ if name.islower()} - {"smallest"}


@pytest.fixture
def quick():
    """The page's own tests, which set nothing, with fewer examples."""
    settings.register_profile("quick", settings.get_profile("laws"), max_examples=25, phases=PHASES)
    settings.load_profile("quick")
    yield
    settings.load_profile("laws")


BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M) if PAGE.exists() else []


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_blocks_of_the_page_run_and_so_do_their_tests(block, quick):
    if "torch" in block:
        pytest.importorskip("torch")
    names = {}
    exec(block, names)
    tests = [thing for name, thing in names.items() if name.startswith("test_")]
    assert tests or "found" in names
    for test in tests:
        test()


def test_the_first_block_fails_as_the_page_says(quick):
    code = next(block for block in BLOCKS if "my_velocity" in block) if page() else ""
    assert " + b[:, None] * stay\n" in code and "Leave out the last term, `b[:, None] * stay`" in page()
    names = {}
    exec(code.replace(" + b[:, None] * stay\n", "\n"), names)
    with pytest.raises(AssertionError) as caught:
        names["test_my_velocity_conserves_mass_and_is_the_exact_one"]()
    shown = "\n".join(caught.value.__notes__)
    assert f"path={Mixture()!r}" in shown and "t=0.5" in shown
