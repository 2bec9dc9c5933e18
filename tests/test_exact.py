"""Exact samplers follow the chain's law: that of dp/dt = Q_t p with the model's forward velocity."""

from functools import partial

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from strategies import BACKENDS, MONOTONE, RETURNING, SWITCHING, backend, follows, index, logits

from dfm_ref import events, exact, random, samplers, velocities
from dfm_ref.exact import closing_time, finished, first_hitting, hitting_time, next_event, uniformization
from dfm_ref.paths import X0, X1, Fixed, Mixture
from dfm_ref.schedules import Bernstein, Convex, Cosine, Linear, PerToken, Polynomial
from dfm_ref.verify import oracle

KEY = random.key(4)
ROWS = 30_000


def posteriors(path, problem, t):
    """w_hat of every state, m arrays [S, N, V]."""
    kappas = [np.broadcast_to(k, problem.x_0.shape[1:]) for k in path.schedule.kappas(np.array([t]))]
    return tuple(np.swapaxes(oracle.posteriors(problem, np.stack(kappas, -1)).w_hat, 1, 2))


def problem_of(path, source, vocab_size, seed=0):
    """Two tokens of correlated data from a factorised source."""
    g = np.random.default_rng(seed)
    q = g.dirichlet(0.4 * np.ones(vocab_size**2))
    if path.mask is not None:
        q[np.any(oracle.states(vocab_size, 2) == path.mask, axis=-1)] = 0
        q /= q.sum()
    tables = [oracle.at_x_0(vocab_size), oracle.at_x_1(vocab_size)]
    tables[1:1] = [oracle.fixed(np.array(c.probs)) for c in path.components if isinstance(c, Fixed)]
    return oracle.enumerate_pairs(oracle.prompted(q, source, np.zeros(2, bool)), np.stack(tables).astype(float))


def wrong(w, path, eps=0.3):
    """Posteriors mixed with a PMF that is not theirs; on a mask path where the mask is."""
    base = np.arange(1.0, w.shape[-1] + 1)
    if path.mask is not None:
        base[path.mask] = 0
    return (1 - eps) * w + eps * base / base.sum()


def model_of(path, problem, vocab_size):
    """A wrong model that knows time and state, as logits; and the same as tables of all states."""

    def tables(t):
        x = oracle.states(vocab_size, 2)
        mixed = tuple(wrong(w, path) for w in posteriors(path, problem, t))
        if path.mask is None:
            return mixed
        return mixed[0], np.where((x == path.mask)[..., None], mixed[1], np.eye(vocab_size)[x])

    def model(x_t, t):
        out = [np.zeros((*x_t.shape, vocab_size)) for _ in path.components]
        which = index(x_t, vocab_size)
        for b, time in enumerate(t.tolist()):
            for rows, w in zip(out, tables(time), strict=True):
                rows[b] = w[which[b]]
        return tuple(logits(w) for w in out)

    return model, tables


def law(path, tables, vocab_size, p, t_0, T):
    """The law of the chain at T from the law p at t_0, by an adaptive solver at 1e-10."""
    x = oracle.states(vocab_size, 2)

    def slope(t, p):
        u = velocities.forward(path, tables(t), x, t)
        return oracle.generator(np.swapaxes(u, 0, 1)) @ p

    return solve_ivp(slope, (t_0, T), p, method="DOP853", rtol=1e-10, atol=1e-12).y[:, -1]


class Table:
    """The model of `model_of` on a fine table of times, so that thousands of rows cost one look-up each."""

    def __init__(self, path, tables, vocab_size, t_0, T, count=2000):
        self.grid = np.linspace(t_0, T, count + 1)
        found = [tables(min(t, 1 - 1e-12)) for t in self.grid]
        self.rows = [logits(np.stack(w)) for w in zip(*found, strict=True)]
        self.vocab_size = vocab_size

    def at(self, x_t, t, sites):
        k = np.rint((t - self.grid[0]) / (self.grid[-1] - self.grid[0]) * (len(self.grid) - 1)).astype(int)
        b, i = np.divmod(np.asarray(sites), x_t.shape[1])
        which = index(x_t, self.vocab_size)[b]
        return tuple(rows[k[b], which, i] for rows in self.rows)


MASK = np.array([[0.0, 0, 1], [0, 0, 1]])
CASES = {
    "mask": (Mixture(Polynomial(2.0), mask=2), MASK, 3, (0.0, 0.5, 1.0)),
    "mask per token": (Mixture(PerToken((Linear(), Polynomial(3.0))), mask=2), MASK, 3, (0.0, 0.5, 1.0)),
    "uniform": (Mixture(Cosine()), np.full((2, 2), 0.5), 2, (0.1, 0.6, 0.9)),
    "per token": (Mixture(PerToken((Cosine(), Linear()))), np.array([[0.2, 0.8], [0.5, 0.5]]), 2, (0.0, 0.6, 0.9)),
    "three components": (Mixture(SWITCHING, (X0(), Fixed((0.3, 0.7)), X1())), np.full((2, 2), 0.5), 2, (0.3, 0.6, 0.9)),
}
SAMPLERS = {"sample": exact.sample, "first_hitting": first_hitting, "uniformization": uniformization}


@pytest.mark.parametrize(
    ("name", "sampler"),
    [(name, "sample") for name in CASES]
    + [("mask", "first_hitting"), ("mask per token", "first_hitting")]
    + [(name, "uniformization") for name in ("mask", "uniform", "three components")],
)
def test_the_frames_follow_the_law_of_the_chain(name, sampler):
    """Sees a model asked at a grid time, an intensity that is off, a component drawn by the wrong weight."""
    path, source, V, times = CASES[name]
    problem = problem_of(path, source, V)
    _, tables = model_of(path, problem, V)
    if sampler == "uniformization":
        times = [min(t, 0.9) for t in times]
    p = oracle.product(source)
    x_0 = oracle.states(V, 2)[random.choose(p, random.uniform(random.key(1), (ROWS,)))]
    lookup = Table(path, tables, V, times[0], times[-1])
    frames = SAMPLERS[sampler](path, lookup, KEY, x_0, times, frames=True)
    assert np.array_equal(frames[0], x_0)
    for x_t, t in zip(frames[1:], times[1:], strict=True):
        exactly = law(path, tables, V, p, times[0], min(t, 1 - 1e-9))
        assert follows(index(x_t, V), np.clip(exactly, 0, 1) * (1 - 2e-9) + 1e-9 * (t == 1.0))
    grid = samplers.sample(path, lookup, KEY, x_0, times, frames=True)
    coarse = oracle.total_variation(np.bincount(index(grid[-1], V), minlength=V * V) / ROWS, exactly)
    assert coarse > 0.02  # two steps are not the chain: the test has the power to tell


@pytest.mark.parametrize("name", CASES)
def test_a_batch_may_be_split_and_a_prompt_stays(name):
    path, source, V, times = CASES[name]
    model, _ = model_of(path, problem_of(path, source, V), V)
    x_0 = np.random.default_rng(0).integers(0, V, (8, 2))
    keep = np.random.default_rng(1).uniform(size=x_0.shape) < 0.4
    chosen = [exact.sample]
    if not isinstance(path.schedule, PerToken):
        chosen += [uniformization] + ([first_hitting] if path.mask is not None else [])
    for sampler in chosen:
        run = partial(sampler, path, model, KEY)
        end = [min(t, 0.95) for t in times] if sampler is uniformization else list(times)
        whole = run(x_0, end, keep=keep, frames=True, first=3)
        parts = [run(x_0[i:j], end, keep=keep[i:j], frames=True, first=3 + i) for i, j in ((0, 3), (3, 4), (4, 8))]
        assert np.array_equal(whole, np.concatenate(parts, axis=1))
        assert np.array_equal(whole[-1], run(x_0, end, keep=keep, first=3))
        assert np.all(whole[:, keep] == x_0[keep])
        assert np.any(whole[-1] != x_0)


def test_a_mask_path_is_revealed_when_the_grid_says_so_with_at_most_n_calls():
    path, x_0, calls = Mixture(Cosine(), mask=3), np.full((50, 12), 3), []
    keep = np.zeros(x_0.shape, bool)
    keep[:, :2] = True
    x_0[:, :2] = 1

    def model(x_t, t):
        calls.append((len(x_t), t))
        return np.zeros((*x_t.shape, 4))

    times = np.linspace(0, 1, 41).tolist()
    for sampler in (exact.sample, first_hitting):
        calls.clear()
        frames = sampler(path, model, KEY, x_0, times, keep=keep, frames=True)
        assert len(calls) == 10 and all(rows == 50 and np.all((t >= 0) & (t < 1)) for rows, t in calls)
        assert np.all(
            np.diff(np.stack([t for _, t in calls]), axis=0) > 0
        )  # in the order of time, sequence by sequence
        assert np.all(frames[-1] < 3) and np.all(frames[:, keep] == 1)
    grid = samplers.sample(path, model, KEY, x_0, times, keep=keep, frames=True)
    assert np.array_equal(grid == 3, exact.sample(path, model, KEY, x_0, times, keep=keep, frames=True) == 3)


@pytest.mark.parametrize("name", BACKENDS[1:])
def test_every_library_draws_the_same_tokens(name):
    b = backend(name)
    for case in ("mask per token", "three components"):
        path, source, V, times = CASES[case]
        model, _ = model_of(path, problem_of(path, source, V), V)
        x_0 = np.random.default_rng(0).integers(0, V, (2 if name == "jax" else 6, 2))  # it compiles every shape anew

        def theirs(x_t, t, model=model):
            return tuple(b.asarray(w) for w in model(b.to_numpy(x_t), b.to_numpy(t)))

        ours = exact.sample(path, theirs, KEY, b.asarray(x_0), times, frames=True)
        assert np.array_equal(b.to_numpy(ours), exact.sample(path, model, KEY, x_0, times, frames=True))


@pytest.mark.parametrize("schedule", [*MONOTONE, SWITCHING], ids=repr)
def test_the_next_event_is_where_survival_has_fallen_to_u(schedule):
    u = np.random.default_rng(0).uniform(0.01, 1, 200)
    t = np.random.default_rng(1).uniform(0, 0.9, 200)
    s = next_event(schedule, t, u)
    assert np.all((s >= t) & (s <= 1))
    np.testing.assert_allclose(events.survival(schedule, t, s), u, rtol=1e-9)
    end = closing_time(schedule, left=1e-6)
    np.testing.assert_allclose(events.survival(schedule, 0.0, end), 1e-6, rtol=1e-5)
    assert closing_time(PerToken((schedule, schedule)), left=1e-6) == end


@pytest.mark.parametrize("schedule", MONOTONE, ids=repr)
@pytest.mark.parametrize("n", [1, 3, 1000])
def test_the_hitting_time_has_the_law_of_the_least_of_n(schedule, n):
    t, u = np.array([0.0, 0.3, 0.3]), np.array([0.7, 0.2, 1.0])
    s = hitting_time(schedule, t, u, num_hidden=np.array([n] * 3))
    still = (schedule.one_minus_kappa(s) / schedule.one_minus_kappa(t)) ** n
    np.testing.assert_allclose(still, u, rtol=1e-9 * n)
    assert abs(float(s[2]) - 0.3) < 1e-14


def test_with_schedules_t_and_t_cubed_token_0_is_revealed_first_three_times_in_four():
    path = Mixture(PerToken((Linear(), Polynomial(3.0))), mask=1)
    firsts = []

    def model(x_t, t):
        firsts.append(x_t.copy())
        return np.zeros((*x_t.shape, 2))

    exact.sample(path, model, KEY, np.ones((ROWS, 2), np.int64), [0.0, 1.0])
    assert follows((firsts[1][:, 0] == 1).astype(int), [0.75, 0.25])


def test_a_path_without_a_mask_is_finished_by_one_step_at_its_closing_time():
    path, source, V, _ = CASES["per token"]
    problem = problem_of(path, source, V)
    p = oracle.product(source)
    x_0 = oracle.states(V, 2)[random.choose(p, random.uniform(random.key(1), (10_000,)))]
    knows = np.stack([logits(posteriors(path, problem, t)[1]) for t in np.linspace(0, 1, 2001)])

    class Nearest:
        """The exact posteriors, at the nearest of many times."""

        def at(self, x_t, t, sites):
            b, i = np.divmod(np.asarray(sites), 2)
            return None, knows[np.rint(2000 * t[b]).astype(int), index(x_t, V)[b], i]

    frames = finished(path, Nearest(), KEY, x_0, [0.0, 0.5, 1.0], frames=True)
    assert np.array_equal(frames[-1], finished(path, Nearest(), KEY, x_0, [0.0, 0.5, 1.0]))
    for x_t, t in zip(frames[1:], (0.5, 1.0), strict=True):
        kappas = np.stack([np.broadcast_to(k, (2,)) for k in path.schedule.kappas(np.array([t]))], -1)
        assert follows(index(x_t, V), oracle.marginal(problem, kappas), alpha=1e-6)
    mask, model = Mixture(mask=2), lambda x_t, t: np.zeros((*x_t.shape, 3))
    start = np.full((5, 3), 2)
    same = (f(mask, model, KEY, start, [0.0, 1.0]) for f in (exact.sample, exact.finished))
    assert np.array_equal(*same)


def test_no_sequences_no_movable_tokens_and_types():
    path, model = Mixture(mask=2), lambda x_t, t: np.zeros((*x_t.shape, 3))
    for sampler in SAMPLERS.values():
        times = [0.0, 0.9]
        assert sampler(path, model, KEY, np.zeros((0, 3), np.int64), times).shape == (0, 3)
        assert np.array_equal(sampler(path, model, KEY, np.array([[0, 1]]), times), [[0, 1]])
        assert sampler(path, model, KEY, np.full((2, 1), 2, np.uint8), times).dtype == np.uint8


X = np.array([[0, 1]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: exact.sample(Mixture(), m, KEY, X, [0.0, 1.0]), "times: expected a last time < 1"),
        (lambda m: exact.sample(Mixture(mask=1), m, KEY, X, [0.5, 0.2]), "times: expected strictly increasing"),
        (lambda m: exact.sample(Mixture(mask=1), m, KEY, X + 1, [0.0, 1.0]), "x_t: expected tokens"),
        (lambda m: exact.sample(Mixture(), m, KEY, X, [0.0, 0.5], keep=X), "keep: expected bool"),
        (lambda m: finished(Mixture(), m, KEY, X, [0.0, float("nan")]), "times: expected times in"),
        (lambda m: finished(Mixture(), m, KEY, X, [0.0, 1.5]), "times: expected times in"),
        (lambda m: finished(Mixture(), m, KEY, X, []), "times: expected at least two"),
        (lambda m: finished(Mixture(), m, KEY, X, [0.5, 0.2, 1.0]), "times: expected strictly increasing"),
        (lambda m: closing_time(Linear(), left=2.0), "left: expected"),
        (lambda m: first_hitting(Mixture(), m, KEY, X, [0.0, 0.5]), "path: expected a mask path"),
        (lambda m: uniformization(Mixture(mask=1), m, KEY, X, [0.0, 1.0]), "times: expected a last time < 1"),
        (lambda m: uniformization(Mixture(PerToken((Linear(), Linear()))), m, KEY, X, [0.0, 0.5]), "one for each"),
    ],
)
def test_outside_their_domain_they_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call(lambda x_t, t: np.zeros((*x_t.shape, 2)))


SWAPPED = Mixture(Convex((Bernstein((0.0, 1.0)), Bernstein((1.0, 0.0)))), (X1(), X0()))


@pytest.mark.parametrize(("path", "t"), [(Mixture(RETURNING), 0.6), (SWAPPED, 0.7)])
@pytest.mark.parametrize("sampler", [exact.sample, uniformization])
def test_two_components_may_both_be_redrawn_from_and_stand_in_any_order(path, t, sampler):
    """From x_0 = 0 to x_1 = 1 the law at t is that of the path: kappa of the component that is X1."""
    tokens = [1.0 * isinstance(component, X1) for component in path.components]

    def model(x_t, t):
        return tuple(np.zeros((*x_t.shape, 2)) + logits([1 - y, y]) for y in tokens)

    kappa = sum(float(k) * y for k, y in zip(path.schedule.kappas(t), tokens, strict=True))
    x_t = sampler(path, model, KEY, np.zeros((ROWS, 1), dtype=int), [0.0, t])
    assert follows(x_t[:, 0], [1 - kappa, kappa])
    with pytest.raises(ValueError, match="component 0"):
        sampler(Mixture(RETURNING), lambda *x: model(*x)[1], KEY, np.zeros((ROWS, 1), dtype=int), [0.0, t])
