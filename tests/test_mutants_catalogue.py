"""The catalogue of mutants: each differs from the right implementation; the right ones are right by the mathematics.

Laws of samples are tested against enumeration by exact binomial tails; all of them together give a false alarm with
probability 1e-6 at most, over the choice of the seed.
"""

import functools
import itertools
from collections import Counter
from importlib import import_module

import numpy as np
import pytest
from scipy import stats

from dfm_ref.verify import Case, cases, mutants, oracle
from dfm_ref.verify.mutants import AREAS, MUTANTS, RIGHT, catalogue, mutant, right

ALL = [(schedule, source) for schedule in cases.SCHEDULES for source in cases.SOURCES]
BY_ID = {m.id: m for m in MUTANTS}
NEAR = 2.0**-20


def case_of(schedule, source, *, vocab_size=3, length=2):
    return Case(vocab_size, length, schedule, source)


def law_of_data(case, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(len(cases.data_states(case)), 2.0))


def right_build(name):
    return import_module(f"dfm_ref.verify.mutants.{name}").build


def built(name, case):
    """A right implementation, or a skip where it does not cover the case."""
    try:
        return right_build(name)(case)
    except NotImplementedError:
        pytest.skip("not covered")


def has(implementation, method):
    return getattr(implementation, method, None) is not None


# The catalogue


def test_ids_are_distinct_names_and_every_area_has_its_mutants():
    assert len(BY_ID) == len(MUTANTS) >= 75 and all(m.id.isidentifier() for m in MUTANTS)
    areas = Counter(m.area for m in MUTANTS)
    assert set(areas) == set(AREAS) and min(areas.values()) >= 5
    assert len({(m.line, m.wrong) for m in MUTANTS}) == len(MUTANTS)
    assert not {m.id for m in MUTANTS} & {*RIGHT, *mutants.__all__, "catalogue"}


@pytest.mark.parametrize("m", MUTANTS, ids=lambda m: m.id)
def test_the_line_occurs_once_and_the_reason_is_a_sentence(m):
    lines = [line.strip() for line in catalogue._right().splitlines()]
    assert lines.count(m.line) == 1 and m.wrong != m.line and "\n" not in m.wrong
    assert m.why.endswith(".") and ". " not in m.why


@pytest.mark.parametrize("m", MUTANTS, ids=lambda m: m.id)
def test_a_mutant_builds_for_every_case_and_by_its_name(m):
    build = getattr(mutants, m.id)
    for schedule, source in ALL:
        implementation = build(case_of(schedule, source))
        assert implementation.sampler == "grid" and callable(implementation.sample)


def test_unknown_names_are_told():
    with pytest.raises(ValueError, match="got 'nothing'"):
        mutant("nothing")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mutants.nothing
    with pytest.raises(ValueError, match="found 0 times"):
        catalogue._replaced("a\n", MUTANTS[0])


def test_the_unchanged_text_is_the_right_implementation():
    same = MUTANTS[0]._replace(wrong=MUTANTS[0].line)
    assert catalogue._replaced(catalogue._right(), same) == catalogue._right()


# Each mutant differs from the right implementation


class Asked:
    """A model that writes down its questions: its posteriors depend on the state, the time and the row's tokens."""

    def __init__(self, case):
        self.case, self.questions, self.q = case, [], law_of_data(case)

    def __call__(self, x_t, t):
        self.questions += [np.array(x_t), np.array(t)]
        return cases.posterior(self.case, self.q, x_t, np.broadcast_to(t, len(x_t)))


def inputs(case, rows, seed=1):
    """x_0, x_1, x_t, t, probs_1 and logits of `rows` rows, all of them on the path and none to be written into."""
    rng, q = np.random.default_rng(seed), law_of_data(case)
    x_0 = rng.choice(case.vocab_size, (rows, case.length), p=case.source_pmf)
    x_1 = cases.data_states(case)[rng.choice(len(q), rows, p=q)]
    t = np.linspace(0.15, 0.85, max(rows, 1))[:rows]
    x_t = np.where(rng.random(x_0.shape) < t[:, None], x_1, x_0)
    probs_1 = cases.posterior(case, q, x_t, t)
    with np.errstate(divide="ignore"):
        logits = np.log(probs_1) + rng.normal(size=(rows, case.length, 1))
    drawn = x_0, x_1, x_t, t, probs_1, logits
    for array in drawn:
        array.setflags(write=False)  # what writes into an argument must not spoil the next question
    return drawn


def probes(case):
    """Questions to an implementation: name -> function of it; what comes back is compared, or that it raises."""
    masked = case.source == "mask"
    x_0, x_1, x_t, t, probs_1, logits = inputs(case, 5)
    square, empty, chunked = inputs(case, case.length), inputs(case, 0), inputs(case, 192)
    grid = np.array([0.0, NEAR, 0.125, 0.5, 1 - NEAR, 1.0])
    late = np.full(len(t), 1 - NEAR)
    uneven = [0.125, 0.25, 0.625, 0.875]

    def sampled(i, x, times, seed):
        x, model = x.copy(), Asked(case)
        return i.sample(model, x, times, seed), i.sample(model, x, times, seed), x, *model.questions

    def touched(f, *arguments):
        arguments = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        return f(*arguments), *arguments

    def spoiled(array, index, value):
        array = array.copy()
        array[index] = value
        return array

    def sample_with(answer):
        return lambda i: i.sample(lambda x, t: answer, x_0, [0.0, 0.5], 0)

    yield "kappa", lambda i: i.kappa(grid)
    yield "kappa_dot", lambda i: i.kappa_dot(grid)
    yield "kappa_inverse", lambda i: i.kappa_inverse(grid)
    yield "velocity", lambda i: touched(i.velocity, probs_1, x_t, t)
    yield "velocity late", lambda i: i.velocity(probs_1, x_t, late)
    yield "velocity square", lambda i: i.velocity(square[4], square[2], square[3])
    yield "corrector", lambda i: touched(i.corrector_velocity, probs_1, x_t, t, 0.5)
    for place, (_, target, here, time, _, scores) in {"": inputs(case, 5), "square": square, "empty": empty}.items():
        yield f"cross_entropy {place}", lambda i, a=(scores, target, here, time): touched(i.cross_entropy, *a)
        yield f"generalized_kl {place}", lambda i, a=(scores, target, here, time): touched(i.generalized_kl, *a)
    if not masked:
        steep = spoiled(1000 * logits, (0, 0, x_1[0, 0]), -np.inf)
        at_target = spoiled(x_t, (0, 0), x_1[0, 0])
        yield "generalized_kl, impossible", lambda i: i.generalized_kl(steep, x_1, at_target, t)
        yield "cross_entropy, steep", lambda i: i.cross_entropy(1000 * logits, x_1, x_t, t)
    for place, (source, target, _, time, _, _) in {"": inputs(case, 5), "square": square, "empty": empty}.items():
        yield f"path {place}", lambda i, a=(source, target, time, 3): touched(i.sample_path, *a)
    many_0, many_1, ends = chunked[0], chunked[1], np.arange(192.0) % 2
    yield "path at its ends", lambda i: i.sample_path(many_0, many_1, ends, 3)
    yield "sample", lambda i: sampled(i, x_0, grid, 1)
    yield "sample 0", lambda i: sampled(i, x_0, uneven, 0)
    yield "sample one row", lambda i: sampled(i, x_0[:1], uneven, 2)
    yield "sample empty", lambda i: sampled(i, x_0[:0], uneven, 2)
    yield "sample many", lambda i: sampled(i, chunked[0], [0.0, 0.5, 1.0], 3)
    yield "sample even", lambda i: sampled(i, x_0, np.linspace(0, 1, 50), 4)
    for name, bad in {"nan": np.nan, "1.1": 1.1, "-0.1": -0.1}.items():
        yield f"kappa at {name}", lambda i, v=bad: i.kappa(np.array([0.5, v]))
        yield f"cross_entropy at {name}", lambda i, v=bad: i.cross_entropy(logits, x_1, x_t, spoiled(t, 2, v))
        yield f"sample at {name}", lambda i, v=bad: i.sample(Asked(case), x_0, sorted([0.25, v]), 0)
    yield "one time", lambda i: i.sample_path(x_0, x_1, t[:1], 0)
    for times in ([0.5, 0.25, 0.75], [0.25, 0.25, 0.75], [0.25, 0.75, 0.5, 0.875]):
        yield f"sample at {times}", lambda i, v=times: i.sample(Asked(case), x_0, v, 0)
    for name, bad in {"-1": -1, "V": case.vocab_size}.items():
        yield f"token {name}", lambda i, v=bad: i.sample_path(x_0, spoiled(x_1, (2, 0), v), t, 0)
    yield "one x_1", lambda i: i.sample_path(x_0, x_1[:1], t, 0)
    for change in (0.05, -0.05):
        wrong = spoiled(probs_1, (2, 0, 0), probs_1[2, 0, 0] + change)
        yield f"sum {change}", lambda i, a=wrong: i.velocity(a, x_t, t)
        yield f"model's sum {change}", sample_with(wrong)
    negative = np.array([-0.25, 0.75, 0.5, 0.0])[: case.vocab_size]
    yield "negative", lambda i: i.velocity(spoiled(probs_1, (2, 0), negative), x_t, t)
    yield "posteriors of one token", lambda i: i.velocity(probs_1[:, :1], x_t, t)
    yield "logits of one token", lambda i: i.cross_entropy(logits[:, :1], x_1, x_t, t)


def outcome(question, implementation):
    try:
        with np.errstate(all="ignore"):
            return question(implementation)
    except Exception as error:
        return f"raises {type(error).__name__}"


def same(a, b):
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str)
    if isinstance(a, tuple | list):
        return isinstance(b, tuple | list) and len(a) == len(b) and all(map(same, a, b))
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-7, atol=1e-12, equal_nan=True)


@functools.cache
def asked():
    """All questions of four cases, which show all four schedules and both sources, and the right answers."""
    chosen = [Case(4, 3, "quadratic", "uniform"), Case(4, 3, "cubic", "mask"), Case(4, 3, "cosine", "uniform"),
              Case(3, 2, "linear", "mask")]  # fmt: skip
    return [(case, [(n, f, outcome(f, right.build(case))) for n, f in probes(case)]) for case in chosen]


def differences(build):
    for case, questions in asked():
        implementation = build(case)
        yield from (f"{n} of {case}: {g} {r}" for n, f, r in questions if not same(r, g := outcome(f, implementation)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("m", MUTANTS, ids=lambda m: m.id)
def test_a_mutant_differs_from_the_right_implementation(m):
    assert next(differences(mutant(m.id)), None)


def test_the_right_implementation_does_not_differ_from_itself():
    assert not list(differences(right.build))


# What is wrong with draws, beyond being other draws


SIMPLE = Case(2, 2, "linear", "uniform")
HALF = np.full(2, 0.5)


def coins(implementation, seed=5, rows=256):
    """One frame of fair coins int[rows, 2], of which each kind of independence can be asked."""
    zeros = np.zeros((rows, 2), dtype=int)
    return implementation.sample(lambda x_t, t: np.broadcast_to(HALF, (len(t), 2, 2)), zeros, [0.0, 1.0], seed)[1]


def arrivals(implementation, seed=5, rows=256):
    """Tokens of a path halfway, int[rows, 2], and whether they have arrived."""
    zeros = np.zeros((rows, 2), dtype=int)
    return implementation.sample_path(zeros, zeros + 1, np.full(rows, 0.5), seed)


def events(implementation, seed=5, rows=256):
    """Which tokens have had an event by t = 1/2, the second of three frames."""
    zeros, to_one = np.zeros((rows, 2), dtype=int), np.array([0.0, 1.0])
    frames = implementation.sample(lambda x_t, t: np.broadcast_to(to_one, (len(t), 2, 2)), zeros, [0, 0.25, 0.5], seed)
    return frames[2]


def redrawn(implementation, seed=5, rows=1024):
    """The values, which are fair coins, of the tokens that have had an event by t = 1/4; others are 2."""
    wide, twos = type(implementation)(Case(3, 2, "linear", "uniform")), np.full((rows, 2), 2)
    fair = np.array([0.5, 0.5, 0.0])
    frames = wide.sample(lambda x_t, t: np.broadcast_to(fair, (len(t), 2, 3)), twos, [0.0, 0.25], seed)
    return frames[1][frames[1] < 2]


def repeats(draw, implementation, seed=5):
    return np.array_equal(draw(implementation, seed), draw(implementation, seed))


CLAIMS = {
    "randomness_seed_ignored": lambda i: not repeats(coins, i),
    "randomness_seed_zero_is_none": lambda i: not repeats(coins, i, 0),
    "randomness_generator_kept": lambda i: not repeats(coins, i),
    "randomness_global_coins": lambda i: not repeats(events, i),
    "randomness_path_seed_ignored": lambda i: not repeats(arrivals, i),
    "randomness_path_global": lambda i: not repeats(arrivals, i),
    "randomness_one_coin_a_row": lambda i: np.all(np.ptp(events(i), axis=1) == 0),
    "randomness_one_coin_a_token": lambda i: np.all(np.ptp(events(i), axis=0) == 0),
    "randomness_coins_repeat_in_chunks": lambda i: np.array_equal(events(i)[:64], events(i)[64:128]),
    "randomness_seeded_every_step": lambda i: events(i).mean() < 0.4,
    "randomness_values_by_the_coin": lambda i: redrawn(i).mean() > 0.9,
    "randomness_values_of_one_seed": lambda i: np.array_equal(coins(i, 1), coins(i, 2)),
    "randomness_one_value_a_row": lambda i: np.all(np.ptp(coins(i), axis=1) == 0),
    "randomness_path_rows_alike": lambda i: np.all(np.ptp(arrivals(i), axis=0) == 0),
    "paths_one_coin_a_row": lambda i: np.all(np.ptp(arrivals(i), axis=1) == 0),
}


@pytest.mark.parametrize("id", CLAIMS)
def test_a_mutant_of_randomness_is_wrong_by_more_than_its_stream(id):
    assert CLAIMS[id](mutant(id)(SIMPLE)) and not CLAIMS[id](right.build(SIMPLE))


def test_every_mutant_of_randomness_has_its_claim():
    assert {m.id for m in MUTANTS if m.area == "randomness"} <= set(CLAIMS)


# The right ones


EVERY = pytest.mark.parametrize("schedule, source", ALL)
STYLE = pytest.mark.parametrize("name", RIGHT)


def eps(array):
    return float(np.finfo(array.dtype).eps)


def close(got, want, *, digits=64.0):
    """Equal to some units in the last place of the largest entry that is finite."""
    finite = np.abs(want[np.isfinite(want)])
    scale = finite.max() if finite.size else 1.0
    assert got.shape == want.shape and np.array_equal(np.isinf(got), np.isinf(want))
    np.testing.assert_allclose(got, want, rtol=digits * eps(got), atol=digits * eps(got) * scale)


INVERSES = {
    "linear": lambda k: k,
    "quadratic": lambda k: k ** (1 / 2),
    "cubic": lambda k: k ** (1 / 3),
    "cosine": lambda k: np.arccos(1 - 2 * k) / np.pi,
}


@STYLE
@EVERY
def test_schedules_are_right(name, schedule, source):
    implementation, exact = built(name, case_of(schedule, source)), cases.SCHEDULES[schedule]
    if not has(implementation, "kappa"):
        pytest.skip("not covered")
    t = np.concatenate([[0.0, NEAR], np.arange(1, 32) / 32, [1 - NEAR, 1.0]])
    close(implementation.kappa(t), exact.kappa(t))
    close(implementation.kappa_dot(t), exact.kappa_dot(t))
    assert np.array_equal(implementation.kappa(np.array([0.0, 1.0])), [0.0, 1.0])
    k = np.arange(33) / 32
    close(implementation.kappa_inverse(k), INVERSES[schedule](k))


@STYLE
@EVERY
def test_paths_are_right(name, schedule, source):
    case = case_of(schedule, source)
    implementation, exact = built(name, case), cases.SCHEDULES[schedule]
    x_0, x_1 = np.full((6000, 2), case.vocab_size - 1), np.zeros((6000, 2), dtype=int)
    t = np.repeat([0.0, 0.25, 0.75, 1.0], 1500)
    x_t = implementation.sample_path(x_0, x_1, t, 7)
    assert x_t.shape == x_0.shape and x_t.dtype.kind == "i" and np.all((x_t == x_0) | (x_t == x_1))
    assert np.array_equal(x_t, implementation.sample_path(x_0, x_1, t, 7))
    arrived = np.sum(x_t == x_1, axis=-1).reshape(4, 1500)
    for count, time in zip(arrived, t[::1500], strict=True):
        k = exact.kappa(time)
        expected = np.array([(1 - k) ** 2, 2 * k * (1 - k), k**2])
        assert tails(np.bincount(count, minlength=3), expected) > FALSE_ALARM


@STYLE
@EVERY
def test_velocities_are_right(name, schedule, source):
    case = case_of(schedule, source, vocab_size=4)
    implementation, exact = built(name, case), cases.SCHEDULES[schedule]
    for t_one in (0.0, NEAR, 0.375, 1 - NEAR):
        _, _, x_t, t, probs_1, _ = inputs(case, 6)
        t = np.full_like(t, t_one)
        u = implementation.velocity(probs_1, x_t, t)
        rate = exact.kappa_dot(np.float64(t_one)) / exact.one_minus_kappa(np.float64(t_one))
        close(u, rate * (probs_1 - np.eye(4)[x_t]))


@STYLE
@EVERY
def test_velocities_and_correctors_obey_kolmogorov(name, schedule, source):
    case = case_of(schedule, source)
    implementation, q = built(name, case), law_of_data(case)
    z = oracle.states(case.vocab_size, case.length)
    for t_one in (0.125, 0.5, 0.875):
        t, p, p_dot = np.full(len(z), t_one), cases.marginal(case, q, t_one), cases.marginal_dot(case, q, t_one)
        posterior = cases.posterior(case, q, z, t)
        tables = [implementation.velocity(posterior, z, t)]
        if has(implementation, "corrector_velocity"):
            tables += [implementation.corrector_velocity(posterior, z, t, strength) for strength in (0.0, 0.5, 3.0)]
            close(tables[1], np.asarray(tables[0]))
        for u in tables:
            residual = oracle.kolmogorov_residual(p_dot, oracle.generator(u.swapaxes(0, 1)), p)
            assert np.abs(residual).max() < 256 * eps(u) and np.all(u * (1 - np.eye(3)[z]) >= 0)


@STYLE
@EVERY
def test_losses_are_right(name, schedule, source):
    case = case_of(schedule, source, vocab_size=4)
    implementation, exact = built(name, case), cases.SCHEDULES[schedule]
    if not has(implementation, "cross_entropy"):
        pytest.skip("not covered")
    _, x_1, x_t, t, _, logits = inputs(case, 6)
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    row, token = np.ogrid[:6, :2]
    at_1, at_t = p[row, token, x_1], p[row, token, x_t]
    close(implementation.cross_entropy(logits, x_1, x_t, t), -np.log(at_1))
    bracket = at_t - (x_t == x_1) + (x_t != x_1) * np.log(at_1)
    rate = exact.kappa_dot(t) / exact.one_minus_kappa(t)
    close(implementation.generalized_kl(logits, x_1, x_t, t), -rate[:, None] * bracket)


# Laws of samples, by enumeration


TIMES = [0.25, 0.5, 0.9375, 1.0]
ROWS = 3000
TESTS = len(RIGHT) * len(ALL) * (len(TIMES) - 1 + 4) * 9 * 2
FALSE_ALARM = 1e-6 / TESTS
"""The least two-sided tail of a count: Bonferroni over all states, times, cases and implementations, and both sides."""


def tails(counts, law):
    """The smallest tail of the counts, each binomial under the law."""
    law, n = np.clip(law, 0, 1), counts.sum()
    return min(stats.binom.cdf(counts, n, law).min(), stats.binom.sf(counts - 1, n, law).min())


def per_token(p, here, stay):
    return stay * here + (1 - stay) * p


def step_law(name, case, q, t, s):
    """The law of one step, [S, S], written from the definition of each scheme."""
    schedule, z = cases.SCHEDULES[case.schedule], oracle.states(case.vocab_size, case.length)
    here = oracle.delta(z.T, case.vocab_size).astype(float)
    p = posterior_table(case, q, t)
    t_, s_ = np.float64(t), np.float64(s)
    h, c = s - t, schedule.kappa_dot(t_) / schedule.one_minus_kappa(t_)
    stay = schedule.one_minus_kappa(s_) / schedule.one_minus_kappa(t_)
    if name == "euler":
        return oracle.joint_kernel(per_token(p, here, max(0.0, 1 - h * c)))
    if name == "exponential":
        return oracle.joint_kernel(jump(c * p, here, h))
    if name == "meta":
        return oracle.joint_kernel(p if s == 1 else per_token(p, here, np.exp(-h * c)))
    if name == "corrected":
        back = 1 - np.exp(-0.5 * h * schedule.one_minus_kappa(t_))
        first = per_token(np.broadcast_to(case.source_pmf, p.shape), here, 1 - back)
        return oracle.joint_kernel(per_token(p, first, stay * np.exp(-0.5 * h * schedule.kappa(t_))))
    if name == "trapezoidal" and s < 1:
        return two_stages(case, q, t, h, c * p, here)
    return oracle.joint_kernel(per_token(p, here, stay))


def posterior_table(case, q, t):
    """The exact posteriors of every state, [N, S, V]."""
    z = oracle.states(case.vocab_size, case.length)
    return cases.posterior(case, q, z, np.full(len(z), t)).swapaxes(0, 1)


def jump(rates, here, h):
    """The law of each token after a time h of fixed rates, one jump at most."""
    rates = rates * (1 - here)
    total = rates.sum(axis=-1, keepdims=True)
    return np.exp(-h * total) * here - np.expm1(-h * total) * rates / np.where(total > 0, total, 1.0)


def two_stages(case, q, t, h, rates, here):
    schedule, middle = cases.SCHEDULES[case.schedule], np.float64(t + h / 2)
    later = schedule.kappa_dot(middle) / schedule.one_minus_kappa(middle) * posterior_table(case, q, middle)
    to_y, law = oracle.joint_kernel(jump(rates, here, h / 2)), []
    for x in range(here.shape[1]):
        first = (rates * (1 - here))[:, x : x + 1]
        second = np.maximum(2 * later * (1 - here) - first, 0.0)
        law.append(oracle.joint_kernel(jump(second, here, h / 2)) @ to_y[:, x])
    return np.stack(law, axis=1)


@STYLE
@EVERY
def test_samples_have_the_law_of_their_scheme(name, schedule, source):
    case = case_of(schedule, source)
    implementation, q = built(name, case), law_of_data(case)
    if not has(implementation, "sample"):
        pytest.skip("not covered")
    start = cases.marginal(case, q, TIMES[0])
    index = np.random.default_rng(11).choice(len(start), ROWS, p=start)
    model = Asked(case)
    frames = implementation.sample(model, oracle.states(3, 2)[index], TIMES, 12)
    assert frames.shape == (4, ROWS, 2) and frames.dtype.kind == "i"
    assert np.array_equal(frames[0], oracle.states(3, 2)[index])
    law = start
    for k, (t, s) in enumerate(itertools.pairwise(TIMES)):
        law = cases.marginal(case, q, s) if name == "exact" else step_law(name, case, q, t, s) @ law
        counts = np.bincount(frames[k + 1] @ [3, 1], minlength=9)
        assert tails(counts, law) > FALSE_ALARM, (s, counts / ROWS, law)
    asked_at = np.concatenate([np.ravel(t) for t in model.questions[1::2]])
    assert np.all((asked_at >= TIMES[0]) & (asked_at < 1))
    if implementation.sampler == "grid":
        assert [t[0] for t in model.questions[1::2]] == TIMES[:-1]


# The duties of the right ones


@STYLE
@EVERY
def test_arguments_stay_as_they_are_and_empty_batches_work(name, schedule, source):
    case = case_of(schedule, source)
    implementation = built(name, case)
    for rows in (0, 1, 2, 5):
        x_0, x_1, x_t, t, probs_1, logits = inputs(case, rows)
        calls = {
            "sample_path": (x_0, x_1, t, 0),
            "velocity": (probs_1, x_t, t),
            "corrector_velocity": (probs_1, x_t, t, 1.0),
            "cross_entropy": (logits, x_1, x_t, t),
            "generalized_kl": (logits, x_1, x_t, t),
            "sample": (Asked(case), x_0, np.array([0.0, 0.25, 1.0]), 0),
        }
        for method, arguments in calls.items():
            if has(implementation, method):
                before = [a.copy() for a in arguments if isinstance(a, np.ndarray)]
                first, second = (getattr(implementation, method)(*arguments) for _ in range(2))
                after = [a for a in arguments if isinstance(a, np.ndarray)]
                assert np.array_equal(first, second) and all(map(np.array_equal, before, after))
                assert rows in first.shape[:2]


@STYLE
@EVERY
def test_bad_input_raises(name, schedule, source):
    case = case_of(schedule, source)
    implementation = built(name, case)
    x_0, x_1, x_t, t, probs_1, logits = inputs(case, 5)
    off = probs_1 + 0.01 * (np.arange(3) == 0)
    negative = np.broadcast_to([-0.02, 1.02, 0.0], probs_1.shape)

    def change(array, value):
        array = array.copy()
        array[3] = value
        return array

    calls = []
    for bad_t in (change(t, np.nan), change(t, 1.001), change(t, -0.001), t[:1], t[:, None]):
        calls += [("sample_path", x_0, x_1, bad_t, 0), ("velocity", probs_1, x_t, bad_t)]
        calls += [("corrector_velocity", probs_1, x_t, bad_t, 1.0), ("cross_entropy", logits, x_1, x_t, bad_t)]
        calls += [("generalized_kl", logits, x_1, x_t, bad_t)]
    for bad_x in (change(x_t, -1), change(x_t, 3), x_t[:, :1], x_t[:2]):
        calls += [("sample_path", x_0, bad_x, t, 0), ("velocity", probs_1, bad_x, t)]
        calls += [("corrector_velocity", probs_1, bad_x, t, 1.0), ("cross_entropy", logits, bad_x, x_t, t)]
        calls += [("generalized_kl", logits, bad_x, x_t, t), ("generalized_kl", logits, x_1, bad_x, t)]
    for bad_p in (off, negative, probs_1[:, :1], probs_1[..., :2], probs_1[:2]):
        calls += [("velocity", bad_p, x_t, t), ("corrector_velocity", bad_p, x_t, t, 1.0)]
        calls += [("sample", lambda x, t, p=bad_p: p, x_0, [0.0, 1.0], 0)]
    for bad_logits in (logits[:, :1], logits[..., :2], logits[:2]):
        calls += [("cross_entropy", bad_logits, x_1, x_t, t), ("generalized_kl", bad_logits, x_1, x_t, t)]
    for times in ([0.0, np.nan], [0.0, 1.001], [-0.001, 1.0], [0.5], [[0.0, 1.0]]):
        calls += [("sample", Asked(case), x_0, times, 0)]
    for bad in (np.nan, -0.001, 1.001):
        calls += [(f, np.array([0.5, bad])) for f in ("kappa", "kappa_dot", "kappa_inverse")]
    for method, *arguments in calls:
        if has(implementation, method):
            with pytest.raises((ValueError, TypeError)):
                getattr(implementation, method)(*arguments)


@STYLE
def test_times_in_any_order_give_the_right_frames_or_raise(name):
    case = case_of("cubic", "mask")
    implementation = built(name, case)
    if not has(implementation, "sample"):
        pytest.skip("not covered")
    x_0 = np.full((40, 2), 2)
    for times in ([0.5, 0.0, 1.0, 0.5], [0.25, 0.25], [1.0, 0.0]):
        if name != "reordered":
            with pytest.raises(ValueError, match="increase"):
                implementation.sample(Asked(case), x_0, times, 0)
            continue
        frames = implementation.sample(Asked(case), x_0, times, 0)
        place = np.argsort(times, kind="stable")
        assert np.array_equal(frames[place[0]], x_0)
        hidden = np.mean(frames == 2, axis=(1, 2))[place]
        assert np.all(np.diff(hidden) <= 0) and (1.0 not in times or hidden[-1] == 0)
        pairs = itertools.combinations(range(len(times)), 2)
        assert all(np.array_equal(frames[a], frames[b]) for a, b in pairs if times[a] == times[b])


def test_masks_alone_are_covered_by_masked_and_float32_is_single():
    with pytest.raises(NotImplementedError, match="uniform"):
        right_build("masked")(case_of("linear", "uniform"))
    case = case_of("cosine", "mask")
    _, x_1, x_t, t, probs_1, logits = inputs(case, 5)
    single = right_build("single")(case)
    for got in (
        single.kappa(t),
        single.kappa_dot(t),
        single.kappa_inverse(t),
        single.velocity(probs_1, x_t, t),
        single.corrector_velocity(probs_1, x_t, t, 2.0),
        single.cross_entropy(logits, x_1, x_t, t),
        single.generalized_kl(logits, x_1, x_t, t),
    ):
        assert got.dtype == np.float32
    assert {right_build(n)(case).sampler for n in RIGHT if n != "subset"} == {"grid", "exact", "multistage"}
