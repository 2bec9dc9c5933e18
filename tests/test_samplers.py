"""Samplers: one-step and K-step laws are the oracle's, and a token is a function of key, site and probabilities."""

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import RETURNING, SWITCHING, backend, cases, follows, index, intervals, logits

from dfm_ref import couplings, events, random, transitions, velocities
from dfm_ref.arrays import to_numpy
from dfm_ref.paths import X0, X1, Fixed, Mixture, Table
from dfm_ref.samplers import (
    Strength,
    bounded_times,
    corrected_step,
    corrector_step,
    euler_step,
    exponential_step,
    finite_step,
    flow_matching_step,
    predictor_corrector_step,
    sample,
    simulate,
    trapezoidal_step,
)
from dfm_ref.schedules import Bernstein, Convex, Cosine, Linear, PerToken, Polynomial
from dfm_ref.sources import Uniform
from dfm_ref.verify import oracle

KEY = random.key(9)
B, N, V = 7, 3, 4
OTHER = Convex((Bernstein((1.0, 0.2, 0.0)), Bernstein((0.0, 0.6, 0.0)), Bernstein((0.0, 0.2, 1.0))))
TABLE = Table(tuple(tuple(tuple(np.roll((0.2, 0.5, 0.3, 0.0), i - j).tolist()) for j in range(4)) for i in range(4)))
ROWS = Fixed(((0.1, 0.0, 0.9, 0.0), (0.5, 0.5, 0.0, 0.0), (0.25, 0.25, 0.25, 0.25)))
PATHS = {
    "linear": Mixture(),
    "mask": Mixture(Cosine(), mask=V - 1),
    "mask per token": Mixture(PerToken((Linear(), Polynomial(3.0), Cosine())), mask=V - 1),
    "per token": Mixture(PerToken((Cosine(), Polynomial(2.0), Linear()))),
    "fixed": Mixture(SWITCHING, (X0(), Fixed((0.1, 0.0, 0.6, 0.3)), X1())),
    "rows": Mixture(PerToken((SWITCHING, OTHER, SWITCHING)), (X0(), ROWS, X1())),
    "table": Mixture(SWITCHING, (X0(), TABLE, X1())),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
RULES = {"finite": (finite_step, events.redraw_weights), "euler": (euler_step, events.euler_redraw)}
every_rule = pytest.mark.parametrize(("step", "rule"), RULES.values(), ids=RULES)
TIMES = [0.1, 0.3, 0.31, 0.7, 0.9, 1.0]


class Scores(NamedTuple):
    """A model of fixed logits, float64[3, sequences, N, V], one table a component; `first` is its first sequence."""

    path: Mixture
    tables: np.ndarray
    asarray: object = np.asarray
    first: int = 0

    def _of(self, rows):
        tables = [self.asarray(np.ascontiguousarray(table)) for table in rows]
        if len(self.path.components) == 2:
            return tables[-1]
        pairs = zip(self.path.components, tables, strict=True)
        return tuple(None if isinstance(component, Fixed) else table for component, table in pairs)

    def __call__(self, x_t, t):
        assert tuple(t.shape) == (x_t.shape[0],)
        return self._of(self.tables[:, self.first : self.first + x_t.shape[0]])


class Lazy(NamedTuple):
    """The same model, lazy: `asked` records the sites of every call, and all logits must never be asked for."""

    dense: Scores
    asked: list

    def __call__(self, x_t, t):
        raise AssertionError("asked for the logits of every token")

    def at(self, x_t, t, sites):
        sites = to_numpy(sites)
        self.asked.append(sites)
        rows = self.dense.tables[:, self.dense.first : self.dense.first + x_t.shape[0]]
        return self.dense._of(rows.reshape(3, -1, rows.shape[-1])[:, sites])


def scores(path, *, seed=0, vocab_size=V, asarray=np.asarray, first=0):
    tables = np.random.default_rng(seed).normal(size=(3, B, N, vocab_size))
    tables[..., 1][tables[..., 1] > 0.5] = -np.inf
    return Scores(path, tables, asarray, first)


def start(path, seed=1):
    x = np.random.default_rng(seed).integers(0, V, (B, N))
    return np.where(x < 2, V - 1, x) if path.mask is not None else x


def dense_step(rule, path, model, key, x_t, t, s, keep=None, first=0):
    """The step by the whole lattice: for each token the coin chooses a component, which draws at the next site."""
    batch, length = x_t.shape
    sites = 2 * ((first + np.arange(batch))[:, None] * length + np.arange(length))
    coin, value = random.uniform_at(key, sites), random.uniform_at(key, sites + 1)
    t, s = (np.broadcast_to(np.asarray(time, np.float64), (batch,))[:, None] for time in (t, s))
    rows = model(x_t, t[:, 0])
    rows = rows if isinstance(rows, tuple) else (None, rows)
    x_s, below = x_t.copy(), np.zeros(x_t.shape)
    for c, component, row in zip(rule(path.schedule, t, s), path.components, rows, strict=True):
        if isinstance(component, Fixed):
            token = random.choose(np.broadcast_to(component.probs, (*x_t.shape, V)), value)
        elif row is not None:
            token = random.choose_logits(row[..., : path.mask], value)
        else:
            assert np.all(c == 0)
            continue
        x_s = np.where((below <= coin) & (coin < below + c), token, x_s)
        below = below + c
    still = False if keep is None else keep
    return np.where(still | (x_t != path.mask if path.mask is not None else False), x_t, x_s)


# The same tokens, whatever the way


@every_rule
@every_path
def test_a_step_is_the_draw_from_the_whole_lattice(path, step, rule):
    model, x_t, first = scores(path), start(path), 2**31
    keep = np.random.default_rng(2).uniform(size=x_t.shape) < 0.3
    t = np.linspace(0.05, 0.9, B)
    moved = 0
    for i in range(20):
        key = random.fold_in(KEY, i)
        for times in ((0.4, 0.7), (t, np.minimum(t + 0.2, 1.0)), (0.0, t)):
            for prompt in (None, keep):
                dense = dense_step(rule, path, model, key, x_t, *times, prompt, first)
                assert np.array_equal(step(path, model, key, x_t, *times, keep=prompt, first=first), dense)
                moved += np.sum(dense != x_t)
    assert moved > 100


@every_rule
@every_path
def test_a_lazy_model_gives_the_same_tokens_and_is_asked_only_where_there_is_an_event(path, step, rule):
    dense, x_t, asked = scores(path), start(path), []
    lazy = Lazy(dense, asked)
    for i in range(10):
        key = random.fold_in(KEY, i)
        asked.clear()
        assert np.array_equal(step(path, lazy, key, x_t, 0.3, 0.6), step(path, dense, key, x_t, 0.3, 0.6))
        coin = random.uniform_at(key, 2 * np.arange(B * N)).reshape(B, N)
        weights = np.stack(np.broadcast_arrays(*rule(path.schedule, np.array([[0.3]]), np.array([[0.6]])), coin)[:-1])
        level, known = np.cumsum(weights, 0), [isinstance(c, Fixed) for c in path.components]
        event = (coin < level[-1]) & (True if path.mask is None else x_t == path.mask)
        if any(known):
            event &= (coin < level[0]) | (coin >= level[1])
        sites = np.sort(np.concatenate(asked)) if asked else []
        assert np.array_equal(sites, np.flatnonzero(event))


def reveals(path, model, key, x_0, times, keep, first):
    """The walk of a mask path by the whole lattice: one coin a token, held against the share revealed by each time."""
    batch, length = x_0.shape
    sites = 2 * ((first + np.arange(batch))[:, None] * length + np.arange(length))
    coin, value = random.uniform_at(key, sites), random.uniform_at(key, sites + 1)
    kappa_0, frames = path.schedule.kappas(np.array([[times[0]]]))[1], [x_0]
    for t, s in pairwise(times):
        share = (path.schedule.kappas(np.array([[s]]))[1] - kappa_0) / (1 - kappa_0)
        token = random.choose_logits(model(frames[-1], np.full(batch, t))[..., : path.mask], value)
        event = (frames[-1] == path.mask) & (coin < share)
        frames.append(np.where(event if keep is None else event & ~keep, token, frames[-1]))
    return np.stack(frames)


@every_path
def test_sample_is_the_finite_step_along_the_grid_with_its_frames(path):
    model, x_0 = scores(path), start(path)
    keep = np.random.default_rng(2).uniform(size=x_0.shape) < 0.3
    for prompt in (None, keep):
        step = partial(finite_step, path, model, keep=prompt, first=3)
        for times in (TIMES, [0.0, 1.0], np.linspace(0, 1, 50).tolist(), [0.5, 0.5 + 1e-12]):
            for key in random.split(KEY, 4):
                if path.mask is None:
                    frames = simulate(step, key, x_0, times, frames=True)
                    assert np.array_equal(frames[-1], simulate(step, key, x_0, times))
                else:
                    frames = reveals(path, model, key, x_0, times, prompt, first=3)
                assert frames.shape == (len(times), *x_0.shape)
                assert np.array_equal(frames[0], x_0)
                assert np.array_equal(frames, sample(path, model, key, x_0, times, keep=prompt, frames=True, first=3))
                assert np.array_equal(frames[-1], sample(path, model, key, x_0, times, keep=prompt, first=3))
                if prompt is not None:
                    assert np.all(frames[:, keep] == x_0[keep])


def test_sample_agrees_with_simulate_also_where_steps_are_drawn_in_several_goes():
    x_0, path = np.full((300, 40), 2), Mixture(Polynomial(2.0))

    def model(x_t, t):
        return np.broadcast_to(np.array([0.0, 1.0, 0.5]), (*x_t.shape, 3))

    times = np.linspace(0, 0.95, 24).tolist()
    frames = sample(path, model, KEY, x_0, times, frames=True)
    assert np.array_equal(frames, simulate(partial(finite_step, path, model), KEY, x_0, times, frames=True))


@pytest.mark.parametrize("path", [PATHS["mask"], PATHS["mask per token"]], ids=["shared", "per token"])
def test_on_a_mask_path_the_grid_says_how_often_the_model_is_asked_and_not_when_tokens_are_revealed(path):
    model, x_0 = scores(path), np.full((B, N), V - 1)
    fine = sample(path, model, KEY, x_0, np.linspace(0, 1, 65).tolist(), frames=True)
    coarse = sample(path, model, KEY, x_0, np.linspace(0, 1, 9).tolist(), frames=True)
    assert np.array_equal(fine[::8] == V - 1, coarse == V - 1)
    assert np.sum(fine[8] != V - 1) and np.all(coarse[-1] != V - 1)
    once = [f(path, model, KEY, x_0, *times) for f, times in ((sample, ([0.2, 0.6],)), (finite_step, (0.2, 0.6)))]
    assert np.array_equal(*once)


@every_path
def test_a_batch_may_be_split(path):
    x_0, whole = start(path), scores(path)
    keep = x_0 == 2
    for run in (
        lambda model, x, k, first: sample(path, model, KEY, x, TIMES, keep=k, first=first),
        lambda model, x, k, first: finite_step(path, model, KEY, x, 0.2, 0.7, keep=k, first=first),
        lambda model, x, k, first: euler_step(path, model, KEY, x, 0.2, 0.7, keep=k, first=first),
    ):
        together = run(whole, x_0, keep, 5)
        parts = [run(whole._replace(first=i), x_0[i : i + 3], keep[i : i + 3], 5 + i) for i in (0, 3, 6)]
        assert np.array_equal(together, np.concatenate(parts))


@pytest.mark.parametrize(
    ("name", "path"),
    [(name, path) for name in ("strict", "torch", "cupy") for path in PATHS] + [("jax", "mask"), ("jax", "rows")],
)
def test_every_library_draws_the_same_tokens(path, name):
    """On JAX only two paths and steps: it compiles anew for every number of events."""
    few = name == "jax"
    b, path, times = backend(name), PATHS[path], [0.1, 0.6, 1.0] if few else TIMES
    x_0, model, theirs = start(path), scores(path), scores(path, asarray=b.asarray)
    keep = x_0 == 2
    for m in (theirs,) if few else (theirs, Lazy(theirs, [])):
        ours = sample(path, m, KEY, b.asarray(x_0), times, keep=b.asarray(keep), frames=True)
        assert np.array_equal(b.to_numpy(ours), sample(path, model, KEY, x_0, times, keep=keep, frames=True))
    t = np.linspace(0.1, 0.9, B)
    for step in () if few else (finite_step, euler_step):
        ours = step(path, theirs, KEY, b.asarray(x_0), b.asarray(t), 0.95)
        assert np.array_equal(b.to_numpy(ours), step(path, model, KEY, x_0, t, 0.95))


@every_path
@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_tokens_keep_their_type(path, dtype):
    x_0, model = start(path), scores(path)
    small = sample(path, model, KEY, x_0.astype(dtype), TIMES)
    assert small.dtype == dtype
    assert np.array_equal(small, sample(path, model, KEY, x_0, TIMES))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_logits_of_lower_precision(dtype):
    model = scores(PATHS["linear"])
    low = model._replace(tables=model.tables.astype(dtype))
    high = model._replace(tables=low.tables.astype(np.float64))
    x_0 = start(PATHS["linear"])
    assert np.array_equal(*(sample(PATHS["linear"], m, KEY, x_0, TIMES) for m in (low, high)))


def test_logits_may_leave_the_mask_out():
    path, x_0 = PATHS["mask"], start(PATHS["mask"])
    model = scores(path)
    without = model._replace(tables=model.tables[..., : V - 1])
    assert np.array_equal(*(sample(path, m, KEY, x_0, TIMES) for m in (model, without)))


# Their laws


@every_rule
@settings(max_examples=12)
@given(case=cases(), ts=intervals.filter(lambda ts: ts[0] < 0.99))
def test_one_step_from_every_state_follows_the_oracle_s_kernel(case, ts, step, rule):
    """Sees the coin reused for the value, components or tokens swapped, one coin for all, a redraw weight that is off.

    Many draws from each state that can be reached; the tokens must be independent given the state.
    """
    t, s = ts
    rows, w_hat = 4000, case.posteriors(t)
    x_t = np.repeat(case.states(), rows, 0)

    def model(x, times):
        assert np.all(times == t)
        return tuple(logits(w)[index(x, case.vocab_size)] for w in w_hat)

    x_s = index(step(case.path, model, KEY, x_t, t, s), case.vocab_size)
    kappa = case.kappa(t)
    if step is finite_step:
        c, stay = oracle.finite_coefficients(kappa, case.kappa(s))
    else:
        a, b, _ = oracle.coefficients(kappa, case.kappa_dot(t))
        c, stay = oracle.clipped_coefficients(a, b, s - t)
    kernel = oracle.finite_kernel(c, stay, oracle.posteriors(case.problem, kappa).w_hat)
    law = oracle.joint_kernel(kernel)
    states = len(case.states())
    for z in np.flatnonzero(oracle.posteriors(case.problem, kappa).reachable):
        assert follows(x_s[z * rows : (z + 1) * rows], law[:, z], alpha=1e-6 / states)


def product(law):
    """Token PMFs [..., N, V] of a law as PMFs of states, [..., S]."""
    return oracle.product(law)


def laws_of(name, case, t, s):
    """The exact one-step law of a step, [S, S], the state moved from last, from tables that the oracle multiplies."""
    x, h, w = case.states(), s - t, case.posteriors(t)
    u = velocities.forward(case.path, w, x, t)
    if name == "exponential":
        return product(transitions.exponential(u, x, h)).T
    if name == "trapezoidal":
        theta, middle = 0.3, t + 0.3 * h
        u_y = velocities.forward(case.path, case.posteriors(middle), x, middle)
        law = np.zeros((len(x), len(x)))
        for z, start in enumerate(product(transitions.exponential(u, x, theta * h))):
            before = np.broadcast_to(u[z], u.shape), np.broadcast_to(x[z], x.shape)
            rates = transitions.trapezoid_rates(before[0], u_y, before[1], x, theta=theta)
            law[:, z] = start @ product(transitions.exponential(rates, x, (1 - theta) * h))
        return law
    alpha, beta = (1.0, 1.0) if name == "corrector" else (3.0, 2.0)
    u = velocities.corrected(case.path, w, x, t, alpha=alpha, beta=beta)
    return product(transitions.euler(u, x, h)).T


STEPS = {
    "exponential": exponential_step,
    "trapezoidal": partial(trapezoidal_step, theta=0.3),
    "corrector": lambda path, model, key, x_t, t, s: corrector_step(path, model, key, x_t, t, s - t),
    "corrected": partial(corrected_step, beta=lambda t: 2.0),
}


@pytest.mark.parametrize("name", STEPS)
@settings(max_examples=10)
@given(case=cases(), t=st.sampled_from([0.125, 0.3, 0.5, 0.75, 0.9]), share=st.sampled_from([0.2, 0.6, 0.95]))
def test_one_step_of_every_rule_from_every_state_follows_its_tables(name, case, t, share):
    """Steps are a share of Euler's bound, beyond which it has no law; posteriors are the oracle's at the time asked."""
    with_backward = name.startswith("correct")
    pace = case.path.schedule
    rate = np.max(events.intensity(pace, np.array([t])))
    if with_backward:
        rate = np.max(3 * rate + 2 * events.backward_intensity(pace, np.array([t])))
        assume(np.isfinite(rate))
    s = min(t + share / max(1e-9, float(rate)), 0.99)
    rows = 4000
    x_t = np.repeat(case.states(), rows, 0)

    def model(x, times):
        (time,) = set(times.tolist())
        return tuple(logits(w)[index(x, case.vocab_size)] for w in case.posteriors(time))

    law = laws_of(name, case, t, s)
    x_s = index(STEPS[name](case.path, model, KEY, x_t, t, s), case.vocab_size)
    for z in np.flatnonzero(oracle.posteriors(case.problem, case.kappa(t)).reachable):
        assert follows(x_s[z * rows : (z + 1) * rows], law[:, z], alpha=1e-6 / len(law))


@pytest.mark.parametrize("name", STEPS)
def test_on_a_mask_path_the_steps_follow_the_same_tables(name):
    """From the mask, a revealed token and both; the corrector hides revealed tokens again."""
    length, rows, t, s = 2, 20_000, 0.4, 0.5
    problem, path, kappa = mask_problem()
    x = oracle.states(3, length)

    def posteriors(time):
        return tuple(np.swapaxes(oracle.posteriors(problem, kappa(time)).w_hat, 1, 2))

    case = NamedCase(path, posteriors, x)
    law = laws_of(name, case, t, s)
    model = exact_model(problem, path, kappa)
    for z in (8, 2, 7, 1):  # (M, M), (0, M), (M, 1), (0, 1)
        x_s = STEPS[name](path, model, KEY, np.tile(x[z], (rows, 1)), t, s)
        assert follows(index(x_s, 3), law[:, z])
    lazy = NamedModel(model)
    x_t = x[[8, 2, 7, 1]]
    assert np.array_equal(*(STEPS[name](path, m, KEY, x_t, t, s) for m in (model, lazy)))


class NamedCase(NamedTuple):
    path: Mixture
    posteriors: object
    x: np.ndarray

    def states(self):
        return self.x


class NamedModel(NamedTuple):
    """The same model, lazy."""

    dense: object

    def at(self, x_t, t, sites):
        return self.dense(x_t, t).reshape(-1, 3)[sites]


def mask_problem():
    """Two correlated tokens of data, a masked source, kappa = t^2."""
    q = np.zeros(9)
    q[[0, 1, 3, 4]] = 0.5, 0.1, 0.1, 0.3
    pi = oracle.prompted(q, np.eye(3)[[2, 2]], np.zeros(2, bool))
    problem = oracle.enumerate_pairs(pi, np.stack([oracle.at_x_0(3), oracle.at_x_1(3)]))
    return problem, Mixture(Polynomial(2.0), mask=2), lambda t: np.array([[1 - t**2, t**2]] * 2)


def test_the_noise_of_an_independent_source_needs_no_model():
    """With source_pmf the corrector asks for X1 alone, and moves as with the oracle's posterior of X0."""
    source, rows = np.array([[0.2, 0.8], [0.5, 0.5]]), 20_000
    q = np.array([0.4, 0.1, 0.1, 0.4])
    pi = oracle.prompted(q, source, np.zeros(2, bool))
    problem = oracle.enumerate_pairs(pi, np.stack([oracle.at_x_0(2), oracle.at_x_1(2)]))
    path, t = Mixture(PerToken((Linear(), Cosine()))), 0.4
    kappa = np.stack(np.broadcast_arrays(*path.schedule.kappas(np.array([t]))), -1)
    w_hat = oracle.posteriors(problem, kappa).w_hat
    x_t = np.repeat(oracle.states(2, 2), rows, 0)
    both, one = (logits(np.swapaxes(w, 0, 1))[index(x_t, 2)] for w in (w_hat[0], w_hat[1]))
    step = partial(corrector_step, path, key=KEY, x_t=x_t, t=t, h=0.1)
    expected = step(model=lambda x, time: (both, one))
    assert np.array_equal(step(model=lambda x, time: one, source_pmf=source), expected)
    assert np.mean(expected != x_t) > 0.02
    with pytest.raises(ValueError, match="component 0"):
        step(model=lambda x, time: one)


def test_flow_matching_s_rule_follows_its_table_and_ends_in_x_1():
    problem, path, kappa = mask_problem()
    model, x = exact_model(problem, path, kappa), oracle.states(3, 2)
    w = tuple(np.swapaxes(oracle.posteriors(problem, kappa(0.4)).w_hat, 1, 2))
    law = product(transitions.flow_matching(path.schedule, w[1], x, 0.4, 0.3))
    for z in (8, 2):
        x_s = flow_matching_step(path, model, KEY, np.tile(x[z], (20_000, 1)), 0.4, 0.7)
        assert follows(index(x_s, 3), law[z])
    x_s = flow_matching_step(path, model, KEY, np.full((20_000, 2), 2), 0.0, 1.0)
    w = tuple(np.swapaxes(oracle.posteriors(problem, kappa(0.0)).w_hat, 1, 2))
    assert follows(index(x_s, 3), product(w[1][8]))


def test_predictor_and_correctors_are_a_finite_step_and_corrector_steps():
    problem, path, kappa = mask_problem()
    model, x_t = exact_model(problem, path, kappa), np.tile(oracle.states(3, 2), (50, 1))
    x_s = predictor_corrector_step(path, model, KEY, x_t, 0.3, 0.6, steps=2, size=0.1)
    keys = random.split(KEY, 3)
    y = finite_step(path, model, keys[0], x_t, 0.3, 0.6)
    for key in keys[1:]:
        y = corrector_step(path, model, key, y, 0.6, 0.1)
    assert np.array_equal(x_s, y)
    last = predictor_corrector_step(path, model, KEY, x_t, 0.6, 1.0, steps=2, size=0.1)
    assert np.array_equal(last, finite_step(path, model, keys[0], x_t, 0.6, 1.0)) and np.all(last < 2)


@pytest.mark.parametrize("schedule", [Linear(), Polynomial(2.0), PerToken((Linear(), Cosine())), SWITCHING], ids=repr)
def test_bounded_times_keep_euler_s_rule_a_pmf_and_events_rarer_than_the_share(schedule):
    for t_0, T, share in ((0.0, 1.0, 0.5), (0.2, 0.9, 0.1)):
        times = bounded_times(schedule, t_0=t_0, T=T, share=share)
        assert times[0] == t_0 and times[-1] == T and times == sorted(set(times))
        for t, s in pairwise(times[:-1]):
            least = np.min(events.survival(schedule, np.array([t]), np.array([s])))
            assert least >= 1 - share - 1e-9
            assert (s - t) * np.max(events.intensity(schedule, np.array([t]))) <= share + 1e-9
        if T < 1:
            assert len(times) > 10


def chain(problem, kappas, p):
    """The laws after each finite step with the exact posteriors of the moment."""

    def kernel(before, after):
        c, stay = oracle.finite_coefficients(before, after)
        return oracle.joint_kernel(oracle.finite_kernel(c, stay, oracle.posteriors(problem, before).w_hat))

    return oracle.propagate(p, [kernel(*pair) for pair in pairwise(kappas)])


def exact_model(problem, path, schedule_table):
    vocab_size = problem.w.shape[-1]

    def model(x_t, t):
        w_hat = np.swapaxes(oracle.posteriors(problem, schedule_table(float(t[0]))).w_hat, 1, 2)
        rows = tuple(logits(w)[index(x_t, vocab_size)] for w in w_hat)
        return rows[-1] if len(rows) == 2 else rows

    return model


def test_many_steps_from_the_mask_follow_the_chain_of_kernels():
    """V = 2 and the mask, N = 2, correlated data, K = 3: sees a key, a time or a step that is off by one."""
    q = np.zeros(9)
    q[[0, 1, 4]] = 0.5, 0.1, 0.4
    source = np.broadcast_to(np.eye(3)[2], (2, 3))
    problem = oracle.enumerate_pairs(
        oracle.prompted(q, source, np.zeros(2, bool)), np.stack([oracle.at_x_0(3), oracle.at_x_1(3)])
    )
    path, times = Mixture(Polynomial(2.0), mask=2), [0.0, 0.4, 0.7, 1.0]

    def kappa(t):
        return np.array([[1 - t**2, t**2]] * 2)

    laws = chain(problem, [kappa(t) for t in times], np.eye(9)[8])
    assert oracle.total_variation(laws[-1], q) > 0.03  # parallel draws are wrong together: the law to meet is not q
    frames = sample(path, exact_model(problem, path, kappa), KEY, np.full((30_000, 2), 2), times, frames=True)
    for x_t, law in zip(frames, laws, strict=True):
        assert follows(index(x_t, 3), law)


def test_many_steps_of_three_components_follow_the_chain_of_kernels():
    """A correlated coupling of uniform noise and two data points over a path that switches its fastest component."""
    noise = np.array([0.7, 0.3])
    pi = np.zeros((4, 4))
    pi[:, [0, 3]] = [[0.2, 0.05], [0.1, 0.15], [0.05, 0.2], [0.15, 0.1]]
    components = np.stack([oracle.at_x_0(2), oracle.fixed(noise), oracle.at_x_1(2)])
    problem = oracle.enumerate_pairs(pi, components)
    path, times = Mixture(SWITCHING, (X0(), Fixed(tuple(noise)), X1())), [0.0, 0.3, 0.55, 0.8, 1.0]

    def kappa(t):
        a, b = (1 - t) ** 2, t**2 * (1 - t) ** 3
        return np.array([[a, b, 1 - a - b]] * 2)

    p_0 = pi.sum(1)
    laws = chain(problem, [kappa(t) for t in times], p_0)
    x_0 = random.categorical(random.key(1), np.broadcast_to(p_0, (30_000, 4)))
    x_0 = oracle.states(2, 2)[x_0]
    frames = sample(path, exact_model(problem, path, kappa), KEY, x_0, times, frames=True)
    for x_t, law in zip(frames, laws, strict=True):
        assert follows(index(x_t, 2), law)


def test_beyond_its_bound_an_euler_step_redraws_every_token():
    x_t = np.zeros((2000, 1), np.int64)

    def model(x, t):
        return logits(np.broadcast_to(np.array([0.0, 0.25, 0.75]), (*x.shape, 3)))

    x_s = euler_step(Mixture(), model, KEY, x_t, 0.5, 1.0)
    assert follows(x_s[:, 0], [0.0, 0.25, 0.75])


def test_a_prompt_never_moves_and_the_last_time_leaves_no_mask():
    path, x_1 = PATHS["mask"], np.random.default_rng(4).integers(0, V - 1, (B, N))
    keep = x_1 == 1
    x_0 = np.where(keep, x_1, V - 1)
    frames = sample(path, scores(path), KEY, x_0, TIMES, keep=keep, frames=True)
    assert np.all(frames[:, keep] == x_1[keep])
    assert np.all(frames[-1] != V - 1)
    revealed = frames[:-1] != V - 1
    assert np.all(frames[1:][revealed] == frames[:-1][revealed])
    free = Mixture()
    x_0 = couplings.prompted(Uniform(V), KEY, x_1, keep).x_0
    frames = sample(free, scores(free), KEY, x_0, TIMES, keep=keep, frames=True)
    assert np.all(frames[:, keep] == x_1[keep])
    assert np.any(frames[:, ~keep] != x_0[~keep])


# Steps, folds and edges


def test_simulate_hands_on_keys_states_and_times_in_order():
    calls = []

    def step(key, x_t, t, s):
        calls.append((key, int(x_t[0, 0]), t, s))
        return x_t + 1

    assert simulate(step, KEY, np.array([[5]]), [0.25, 0.5, 1.0]).tolist() == [[7]]
    assert calls == [(random.fold_in(KEY, 0), 5, 0.25, 0.5), (random.fold_in(KEY, 1), 6, 0.5, 1.0)]


def test_the_model_is_asked_at_the_start_of_each_interval_and_never_at_its_end():
    asked = []

    def model(x_t, t):
        asked.append(t.copy())
        return np.zeros((*x_t.shape, V))

    sample(Mixture(), model, KEY, start(Mixture()), TIMES)
    assert all(t.dtype == np.float64 and t.shape == (B,) for t in asked)
    assert [t[0] for t in asked] == TIMES[:-1]
    asked.clear()
    t = np.linspace(0, 0.9, B)
    finite_step(Mixture(), model, KEY, start(Mixture()), t, 1.0)
    assert len(asked) == 1
    assert np.array_equal(asked[0], t)


@every_path
def test_arguments_stay_as_they_were(path):
    model, x_0, t = scores(path), start(path), np.linspace(0.1, 0.5, B)
    keep, s = x_0 == 2, t + 0.4
    arguments = (x_0, keep, t, s, model.tables)
    copies = [a.copy() for a in arguments]
    times = list(TIMES)
    frames = sample(path, model, KEY, x_0, times, keep=keep, frames=True)
    finite_step(path, model, KEY, x_0, t, s, keep=keep)
    euler_step(path, model, KEY, x_0, t, s, keep=keep)
    frames[0] = 0
    assert times == TIMES
    assert all(np.array_equal(a, b) for a, b in zip(arguments, copies, strict=True))


@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, shape) for name in ("numpy", "strict", "torch", "cupy") for shape in ((0, 3), (1, 1), (1, 3), (4, 1))]
    + [("jax", (0, 3))],
)
def test_smallest_batches(name, shape):
    b = backend(name)
    for path in (Mixture(), Mixture(mask=1)):

        def model(x_t, t):
            return b.asarray(np.zeros((*x_t.shape, 2)))

        x_0 = b.asarray(np.ones(shape, np.int64))
        for x_1 in (sample(path, model, KEY, x_0, [0.0, 0.5, 1.0]), finite_step(path, model, KEY, x_0, 0.0, 1.0)):
            assert tuple(x_1.shape) == shape
            assert path.mask is None or np.all(b.to_numpy(x_1) == 0)
        assert sample(path, model, KEY, x_0, [0.0, 0.5, 1.0], frames=True).shape == (3, *shape)


def test_a_vocabulary_of_one_token():
    def model(x_t, t):
        return np.zeros((*x_t.shape, 1))

    assert sample(Mixture(), model, KEY, np.zeros((2, 3), np.int64), TIMES).tolist() == [[0, 0, 0]] * 2


def test_an_euler_step_from_an_infinite_rate_raises_and_the_finite_step_needs_no_rate():
    path, x_t = Mixture(Polynomial(0.5)), np.zeros((5, 2), np.int64)
    with pytest.raises(ValueError, match="t:"):
        euler_step(path, plain, KEY, x_t, 0.0, 0.5)
    assert finite_step(path, plain, KEY, x_t, 0.0, 0.5).shape == x_t.shape


X = np.zeros((2, 3), np.int64)
NAN = float("nan")


def plain(x_t, t):
    return np.zeros((*x_t.shape, V))


@pytest.mark.parametrize(
    "times", [[], [0.5], [0.5, 0.5], [0.0, 0.6, 0.4], [-0.1, 1.0], [0.0, 1.001], [0.0, NAN], [NAN, 1.0], [1.0, 0.0]]
)
def test_times_that_do_not_increase_in_the_unit_interval_raise(times):
    with pytest.raises(ValueError, match="times"):
        sample(Mixture(), plain, KEY, X, times)
    with pytest.raises(ValueError, match="times"):
        simulate(partial(finite_step, Mixture(), plain), KEY, X, times)
    if len(times) == 2:
        for step in (finite_step, euler_step):
            for t, s in (times, map(np.array, times), map(partial(np.full, 2), times)):
                with pytest.raises(ValueError, match="t, s"):
                    step(Mixture(), plain, KEY, X, t, s)


@pytest.mark.parametrize(
    "x_0", [X - 1, X + 0.0, X == 0, X[0], X[None]], ids=["negative", "float", "bool", "1-d", "3-d"]
)
def test_tokens_that_are_none_raise(x_0):
    with pytest.raises((ValueError, TypeError), match=r"x_0|x_t"):
        sample(Mixture(), plain, KEY, x_0, [0.0, 1.0])
    with pytest.raises((ValueError, TypeError), match=r"x_0|x_t"):
        simulate(partial(finite_step, Mixture(), plain), KEY, x_0, [0.0, 1.0])


@pytest.mark.parametrize("x_0", [X + 3, np.array([[2, 0, 5]])], ids=["all", "one"])
def test_tokens_beyond_the_mask_raise(x_0):
    with pytest.raises(ValueError, match=r"x_0|x_t"):
        sample(Mixture(mask=2), plain, KEY, x_0, [0.0, 1.0])


@every_rule
@pytest.mark.parametrize("t", [np.full(3, 0.2), np.full((2, 1), 0.2), np.full((2, 3), 0.2), np.full((1, 2), 0.2)])
def test_times_of_another_shape_than_the_batch_raise(step, rule, t):
    with pytest.raises(ValueError, match="t, s"):
        step(Mixture(), plain, KEY, X, t, 0.9)


@pytest.mark.parametrize("shape", [(2, V), (2, 3), (3, 2, V), (2, 4, V), (1, 3, V), (6, V), (2, 3, V, 1)])
def test_logits_of_another_shape_raise(shape):
    for path in (Mixture(), Mixture(mask=0)):
        for run in (
            lambda m, path=path: sample(path, m, KEY, X, [0.0, 1.0]),
            lambda m, path=path: finite_step(path, m, KEY, X, 0.0, 1.0),
        ):
            with pytest.raises(ValueError, match="model"):
                run(lambda x_t, t: np.zeros(shape))


@pytest.mark.parametrize("shape", [(4, V), (7, V), (2, 3, V), (6,)])
def test_lazy_logits_of_another_number_raise(shape):
    class Model:
        def at(self, x_t, t, sites):
            return np.zeros(shape)

    with pytest.raises(ValueError, match="model"):
        finite_step(Mixture(), Model(), KEY, X, 0.0, 1.0)


@pytest.mark.parametrize("vocab_size", [1, 2, 5])
def test_logits_that_do_not_fit_the_mask_raise(vocab_size):
    """The mask 3 is the last token: logits have 3 or 4 columns."""
    with pytest.raises(ValueError, match=r"model|logits"):
        finite_step(Mixture(mask=3), lambda x_t, t: np.zeros((*x_t.shape, vocab_size)), KEY, X + 3, 0.0, 1.0)


@pytest.mark.parametrize("path", [Mixture(), Mixture(mask=V - 1)], ids=["source", "mask"])
@pytest.mark.parametrize("broken", [NAN, -np.inf, np.inf])
def test_logits_that_are_no_numbers_raise(broken, path):
    def model(x_t, t):
        return np.full((*x_t.shape, V), broken)

    x_0 = np.full((2, 3), V - 1)
    for step in (finite_step, euler_step, exponential_step, flow_matching_step, trapezoidal_step):
        with pytest.raises(ValueError, match=r"probs|logits|rows"):
            step(path, model, KEY, x_0, 0.0, 0.9)
    with pytest.raises(ValueError, match=r"probs|logits|rows"):
        sample(path, model, KEY, x_0, [0.0, 1.0])


def test_a_corrector_refuses_tokens_beyond_the_mask():
    for x in (np.array([[V, 0]]), np.array([[-1, 0]])):
        with pytest.raises(ValueError, match="x_t: expected tokens"):
            corrector_step(Mixture(mask=V - 1), plain, KEY, x, 0.5, 0.1)


@pytest.mark.parametrize(
    "model",
    [plain, lambda x_t, t: (None, None, plain(x_t, t)), lambda x_t, t: (plain(x_t, t),) * 2],
    ids=["one", "None of three", "two"],
)
def test_a_path_that_redraws_from_an_unknown_component_needs_its_posterior(model):
    with pytest.raises(ValueError, match="model"):
        finite_step(PATHS["table"], model, KEY, np.tile(X, (20, 1)), 0.2, 0.8)


def test_schedules_for_another_number_of_tokens_raise():
    for path in (Mixture(PerToken((Linear(), Cosine()))), Mixture(PerToken((Linear(),) * 4), mask=0)):
        with pytest.raises(ValueError, match="schedule"):
            finite_step(path, plain, KEY, X, 0.2, 0.8)
        with pytest.raises(ValueError, match="schedule"):
            sample(path, plain, KEY, X, [0.2, 0.8])


@pytest.mark.parametrize(
    "keep",
    [
        np.ones((2, 3), np.int64),
        np.ones((2, 3), np.uint8),
        np.array([True, False, True]),
        np.ones((1, 3), bool),
        np.ones((3, 2), bool),
    ],
    ids=["int", "uint8", "one row", "broadcast", "transposed"],
)
def test_a_prompt_of_another_type_or_shape_raises_and_is_never_misread(keep):
    for path in (Mixture(), Mixture(mask=0)):
        with pytest.raises((ValueError, TypeError), match="keep"):
            sample(path, plain, KEY, X, [0.0, 1.0], keep=keep)
        with pytest.raises((ValueError, TypeError), match="keep"):
            finite_step(path, plain, KEY, X, 0.0, 1.0, keep=keep)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: trapezoidal_step(Mixture(), plain, KEY, X, 0.2, 0.4, theta=0.0), "theta: expected"),
        (lambda: trapezoidal_step(Mixture(Polynomial(0.5)), plain, KEY, X, 0.0, 0.4), "t: expected"),
        (lambda: exponential_step(Mixture(Polynomial(0.5)), plain, KEY, X, 0.0, 0.4), "t: expected"),
        (lambda: exponential_step(Mixture(), plain, KEY, X, 0.4, 0.4), "t, s: expected"),
        (lambda: flow_matching_step(PATHS["fixed"], plain, KEY, X, 0.2, 0.4), "path: expected"),
        (lambda: flow_matching_step(Mixture(RETURNING), plain, KEY, X, 0.5, 0.6), "schedule: .* redraws from X1"),
        (lambda: corrector_step(Mixture(), plain, KEY, X, 0.5, 5.0, source_pmf=np.ones(1)), "source_pmf: expected"),
        (lambda: corrector_step(Mixture(), plain, KEY, X, 0.0, 0.1, source_pmf=np.ones(V) / V), "t: expected"),
        (lambda: corrector_step(Mixture(), plain, KEY, X, 1.0, 0.1, source_pmf=np.ones(V) / V), "t, h: expected"),
        (lambda: corrector_step(Mixture(), plain, KEY, X, 0.5, 0.0, source_pmf=np.ones(V) / V), "t, h: expected"),
        (lambda: corrected_step(Mixture(), plain, KEY, X, 0.2, 0.4, beta=lambda t: -0.1 + 0 * t), "beta: expected"),
        (lambda: predictor_corrector_step(Mixture(), plain, KEY, X, 0.2, 0.4, size=0.0), "steps, size: expected"),
        (lambda: Strength(-1.0), "scale: expected"),
        (lambda: bounded_times(Linear(), T=1.5), "t_0, T, share: expected"),
        (lambda: bounded_times(Linear(), share=1.0), "t_0, T, share: expected"),
    ],
)
def test_the_other_rules_refuse_what_is_outside_their_domain(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (2.0, 1.5)])
def test_a_strength_of_degree_1_at_both_ends_keeps_the_correction_bounded_and_a_constant_one_does_not(a, b):
    """On a linear path: beta forward + beta backward intensity, which is scale t^(a-1) (1-t)^(b-1)."""
    t = np.concatenate([np.logspace(-12, -0.4, 50), 1 - np.logspace(-12, -0.4, 50)])
    both = events.intensity(Linear(), t) + events.backward_intensity(Linear(), t)
    np.testing.assert_allclose(Strength(3.0, a, b)(t) * both, 3.0 * t ** (a - 1) * (1 - t) ** (b - 1), rtol=1e-12)
    assert np.max(Strength(3.0, a, b)(t) * both) <= 3.0 * (1 + 1e-12)
    assert np.max(Strength(3.0, 0.0, 0.0)(t) * both) > 1e11
