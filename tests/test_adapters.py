"""The adapters that ship: dfm_ref on every backend, Meta's package, and codes in PyTorch, JAX, or of falling time.

Sampled laws are tested against laws by enumeration, each at a false-alarm rate of 1e-9 at fixed seeds.
"""

import copy
import sys
from itertools import pairwise

import numpy as np
import pytest

from dfm_ref import paths, random
from dfm_ref.backends import load
from dfm_ref.verify import Case, oracle
from dfm_ref.verify.adapters import BUILT_IN, conversion, flow_matching, jax_function, ours, torch_module
from dfm_ref.verify.cases import SCHEDULES, SOURCES
from dfm_ref.verify.models import Posterior
from dfm_ref.verify.statistics import equality_test

LIBRARIES = {"numpy": "numpy", "strict": "array_api_strict", "torch": "torch", "jax": "jax"}
CASES = [Case(3 + (source == "mask"), 2, schedule, source) for schedule in SCHEDULES for source in SOURCES]
Q = tuple(((1 + np.arange(9) ** 2 % 7) / np.sum(1 + np.arange(9) ** 2 % 7)).tolist())
SMALL = {source: Case(3, 2, "quadratic", source) for source in SOURCES}
ALPHA = 1e-9


def label(case):
    return f"{case.schedule}-{case.source}"


@pytest.fixture(params=LIBRARIES)
def backend(request):
    pytest.importorskip(LIBRARIES[request.param])
    return load(request.param)


def model_of(case, blur=0.25):
    """A wrong model, right on revealed tokens."""
    size = case.data_size**case.length
    weights = 1 + np.arange(size) % 3.0
    return Posterior(case, tuple((weights / weights.sum()).tolist()), blur)


def rows_of(case, seed=0, rows=40):
    """Pairs, x_t on their paths, times, probabilities, and logits with -inf among them."""
    rng = np.random.default_rng(seed)
    x_1 = rng.integers(0, case.data_size, size=(rows, 2))
    mask = case.source == "mask"
    x_0 = np.full_like(x_1, case.vocab_size - 1) if mask else rng.integers(0, case.vocab_size, size=x_1.shape)
    t = rng.uniform(0.05, 0.95, size=rows)
    x_t = np.where(rng.uniform(size=x_1.shape) < SCHEDULES[case.schedule].kappa(t)[:, None], x_1, x_0)
    probs_1 = rng.dirichlet(np.ones(case.vocab_size), size=x_1.shape)
    probs_1[:, :, 0] = 0
    logits = rng.normal(size=probs_1.shape)
    logits[:, :, 1] = np.where((x_1 == 1) | (x_t == 1), logits[:, :, 1], -np.inf)
    if mask:
        here = np.eye(case.vocab_size)[x_t]
        hidden = (x_t == case.vocab_size - 1)[..., None]
        probs_1[:, :, -1] = 0
        logits[:, :, -1] = -np.inf
        probs_1 = np.where(hidden, probs_1, here)
        logits = np.where(hidden, logits, np.where(here > 0, 0.0, -np.inf))
    return x_0, x_1, x_t, t, probs_1 / probs_1.sum(axis=-1, keepdims=True), logits


def off(x_t, table):
    """A table of rates off the diagonal, which becomes minus their sum."""
    moves = np.where(np.arange(table.shape[-1]) == x_t[..., None], 0.0, table)
    here = np.arange(table.shape[-1]) == x_t[..., None]
    return moves - here * moves.sum(axis=-1, keepdims=True)


def expected_velocity(case, probs_1, x_t, t):
    schedule = SCHEDULES[case.schedule]
    return off(x_t, (schedule.kappa_dot(t) / schedule.one_minus_kappa(t))[:, None, None] * probs_1)


def expected_corrector(case, probs_1, x_t, t, strength):
    """The forward velocity, and `strength` times the loop of it and of the noise, by Bayes' rule in FORMULAS 2.3."""
    schedule = SCHEDULES[case.schedule]
    kappa, rest = schedule.kappa(t)[:, None, None], schedule.one_minus_kappa(t)[:, None, None]
    here = np.eye(case.vocab_size)[x_t]
    if case.source == "mask":
        p_0 = np.broadcast_to(np.eye(case.vocab_size)[-1], probs_1.shape)
    else:
        p = 1 / case.vocab_size
        q = np.sum(here * probs_1, axis=-1, keepdims=True)
        p_0 = (1 - q) * here + q * p * (rest * here + kappa) / (rest * p + kappa)
    forward = expected_velocity(case, probs_1, x_t, t)
    noise = off(x_t, schedule.kappa_dot(t)[:, None, None] / kappa * p_0)
    return forward + strength * (forward + noise)


def expected_losses(case, logits, x_1, x_t, t):
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    p_1, p_t = (np.take_along_axis(p, x[..., None], axis=-1)[..., 0] for x in (x_1, x_t))
    schedule, same = SCHEDULES[case.schedule], x_1 == x_t
    with np.errstate(divide="ignore"):
        nats = -np.log(p_1)
    event = p_t - same + np.where(same, 0.0, -nats)
    return nats, -(schedule.kappa_dot(t) / schedule.one_minus_kappa(t))[:, None] * event


# dfm_ref itself


@pytest.mark.parametrize("case", CASES, ids=label)
def test_ours_follows_the_formulas_written_by_hand(backend, case):
    x_0, x_1, x_t, t, probs_1, logits = rows_of(case)
    adapter, schedule = ours.on(backend)(case), SCHEDULES[case.schedule]
    near = {"rtol": 1e-10, "atol": 1e-12}
    for got, want in (
        (adapter.kappa(t), schedule.kappa(t)),
        (adapter.kappa_dot(t), schedule.kappa_dot(t)),
        (adapter.kappa_inverse(schedule.kappa(t)), t),
        (adapter.velocity(probs_1, x_t, t), expected_velocity(case, probs_1, x_t, t)),
        (adapter.corrector_velocity(probs_1, x_t, t, 0.0), expected_velocity(case, probs_1, x_t, t)),
        (adapter.corrector_velocity(probs_1, x_t, t, 1.5), expected_corrector(case, probs_1, x_t, t, 1.5)),
        (adapter.cross_entropy(logits, x_1, x_t, t), expected_losses(case, logits, x_1, x_t, t)[0]),
        (adapter.generalized_kl(logits, x_1, x_t, t), expected_losses(case, logits, x_1, x_t, t)[1]),
    ):
        assert type(got) is np.ndarray and got.dtype == np.float64
        np.testing.assert_allclose(got, want, **near)
    drawn = adapter.sample_path(x_0, x_1, t, 7)
    assert type(drawn) is np.ndarray and drawn.dtype == x_1.dtype and np.all((drawn == x_0) | (drawn == x_1))
    single = adapter.kappa(t.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, schedule.kappa(t), rtol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_ours_draws_the_path_in_its_law(case):
    adapter, n = ours.on(load("numpy"))(case), 20_000
    x_0, x_1, t = np.tile([2 + (case.source == "mask"), 2], (n, 1)), np.tile([1, 0], (n, 1)), 0.625
    drawn = adapter.sample_path(x_0, x_1, np.full(n, t), 3) == x_1
    kappa = SCHEDULES[case.schedule].kappa(np.float64(t))
    law = np.outer([1 - kappa, kappa], [1 - kappa, kappa]).ravel()
    assert not equality_test(np.bincount(drawn @ [2, 1], minlength=4), law).rejects(ALPHA)


@pytest.mark.parametrize("source", SOURCES)
def test_ours_gives_the_tokens_of_numpy_on_every_backend(backend, source):
    case = SMALL[source]
    x_0, x_1, _, t, _, _ = rows_of(case)
    numpy, other = ours.on(load("numpy"))(case), ours.on(backend)(case)
    drawn = paths.sample(numpy.path, random.key(5), x_0, x_1, t)
    np.testing.assert_array_equal(drawn, other.sample_path(x_0, x_1, t, 5))
    assert np.any(other.sample_path(x_0, x_1, t, 5) != other.sample_path(x_0, x_1, t, 6))
    model, times = model_of(case), [0.0, 0.5, 0.75, 1.0]
    frames = other.sample(model, x_0, times, 5)
    assert type(frames) is np.ndarray and frames.shape == (4, *x_0.shape) and frames.dtype == x_0.dtype
    np.testing.assert_array_equal(frames[0], x_0)
    np.testing.assert_array_equal(frames, other.sample(model, x_0, np.asarray(times), 5))
    np.testing.assert_array_equal(frames, numpy.sample(model, x_0, times, 5))
    assert np.any(frames != other.sample(model, x_0, times, 6))


def kernel_of(walk, case, model, t, s):
    """The law of x_s given x_t, [S, S], of a walk by enumeration; its tokens, one after the other, from formulas."""
    x, schedule, h = oracle.states(case.vocab_size, 2), SCHEDULES[case.schedule], s - t
    stays = np.eye(case.vocab_size)[x]

    def weight(time):
        return schedule.kappa_dot(np.float64(time)) / schedule.one_minus_kappa(np.float64(time))

    def posterior(time):
        return model(x, np.full(len(x), time))

    def redrawn(share):
        return oracle.product(share * posterior(t) + (1 - share) * stays).T

    def jumps(rates, length):
        rates = np.where(stays > 0, 0.0, rates)
        total = rates.sum(axis=-1, keepdims=True)
        leaves = -np.expm1(-length * total)
        return oracle.product((1 - leaves) * stays + leaves * rates / np.where(total > 0, total, 1.0))

    if walk == "finite":
        return redrawn(1 - schedule.one_minus_kappa(np.float64(s)) / schedule.one_minus_kappa(np.float64(t)))
    if walk == "euler":
        return redrawn(min(1.0, h * weight(t)))
    if walk == "flow_matching":
        return redrawn(1.0 if s == 1 else 1 - np.exp(-h * weight(t)))
    if walk == "exponential":
        return jumps(weight(t) * posterior(t), h).T
    if walk == "exact":

        def rates(time):
            return oracle.generator(off(x, weight(time) * posterior(time)).swapaxes(0, 1))

        grid = np.linspace(t, s, 9)
        return np.stack([oracle.evolve(rates, start, grid)[-1] for start in np.eye(len(x))], axis=1)
    first, middle = jumps(weight(t) * posterior(t), h / 2), (t + s) / 2
    before, after = (np.where(stays > 0, 0.0, weight(time) * posterior(time)) for time in (t, middle))
    second = [jumps(np.maximum(0.0, 2 * after - before[z]), h / 2) for z in range(len(x))]
    return np.stack([first[z] @ second[z] for z in range(len(x))], axis=1)


def joint(case, first, second, start):
    """The law of the two frames after a start, flat."""
    after = first[:, start @ case.vocab_size ** np.arange(2)[::-1]]
    return np.maximum(second.T * after[:, None], 0.0).ravel()


def follows(case, walk, frames, times, model):
    """Whether the joint law of two frames after a start is that of a walk."""
    place = case.vocab_size ** np.arange(2)[::-1]
    size = case.vocab_size**2
    counts = np.bincount(frames[1] @ place * size + frames[2] @ place, minlength=size**2)
    kernels = [kernel_of(walk, case, model, t, s) for t, s in pairwise(times)]
    return not equality_test(counts, joint(case, *kernels, frames[0, 0])).rejects(ALPHA)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("walk", ours.WALKS)
def test_every_walk_of_ours_has_the_joint_law_of_its_frames(walk, source):
    case, times, n = SMALL[source], [0.25, 0.625, 0.875], 20_000
    model, x_0 = model_of(case), np.tile([2, 2], (n, 1))
    frames = ours.on(load("numpy"), walk=walk)(case).sample(model, x_0, times, 11)
    assert follows(case, walk, frames, times, model)
    others = [other for other in ours.WALKS if other != walk]
    assert sum(follows(case, other, frames, times, model) for other in others) <= 2, "a test that sees no difference"


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("walk", ["finite", "exact"])
def test_a_right_model_gives_the_data_at_1(walk, source):
    case, n = SMALL[source], 20_000
    q = (Q[0] + Q[2], Q[4], Q[1], Q[3] + sum(Q[5:])) if source == "mask" else Q
    x_0 = np.full((n, 2), 2) if source == "mask" else np.random.default_rng(0).integers(0, 3, size=(n, 2))
    times = np.linspace(0, 1, 65) if walk == "finite" else [0.0, 0.5, 1.0]
    x_1 = ours.on(load("numpy"), walk=walk)(case).sample(Posterior(case, q), x_0, times, 2)[-1]
    counts = np.bincount(x_1 @ [case.data_size, 1], minlength=len(q))
    tv = np.abs(counts / n - np.asarray(q)).sum() / 2
    noise = np.sqrt((len(q) * np.log(2) - np.log(ALPHA)) / 2 / n)
    assert tv < noise + (0.02 if walk == "finite" else 1e-8)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("walk", ours.WALKS)
def test_each_walk_asks_the_model_as_its_kind_says(walk, source):
    case, asked = SMALL[source], []

    def model(x_t, t):
        asked.append(t)
        assert x_t.shape == (len(t), 2) and t.dtype == np.float64
        return model_of(case)(x_t, t)

    adapter = ours.on(load("numpy"), walk=walk)(case)
    times = [0.25, 0.5, 0.75]
    adapter.sample(model, np.full((300, 2), 2), times, 0)
    assert all(np.all((t >= 0.25) & (t < 0.75)) for t in asked)
    if adapter.sampler == "exact":
        assert len(asked) > 2 or source == "mask"
        return
    single = [float(t[0]) for t in asked]
    assert all(np.all(t == t[0]) for t in asked)
    assert single == ([0.25, 0.5] if adapter.sampler == "grid" else [0.25, 0.375, 0.5, 0.625])


@pytest.mark.parametrize("source", SOURCES)
def test_ours_takes_an_empty_batch(backend, source):
    case = SMALL[source]
    x, t, table = np.zeros((0, 2), dtype=np.int64), np.zeros(0), np.zeros((0, 2, 3))
    adapter = ours.on(backend)(case)
    for answer, shape in (
        (adapter.kappa(t), (0,)),
        (adapter.kappa_dot(t), (0,)),
        (adapter.kappa_inverse(t), (0,)),
        (adapter.sample_path(x, x, t, 1), (0, 2)),
        (adapter.velocity(table, x, t), (0, 2, 3)),
        (adapter.corrector_velocity(table, x, t, 0.5), (0, 2, 3)),
        (adapter.cross_entropy(table, x, x, t), (0, 2)),
        (adapter.generalized_kl(table, x, x, t), (0, 2)),
    ):
        assert answer.shape == shape
    for walk in ours.WALKS:
        frames = ours.on(backend, walk=walk)(case).sample(lambda x_t, t: np.zeros((0, 2, 3)), x, [0.0, 0.5, 1.0], 1)
        assert frames.shape == (3, 0, 2)


TABLE, X, T = np.full((2, 2, 3), 1 / 3), np.array([[0, 1], [2, 1]]), np.array([0.25, 0.5])
LESS = np.stack([np.full((2, 3), 1 / 3), np.array([[0.5, 0.25, 0.24], [1.0, 0.0, 0.0]])])
NEGATIVE = np.stack([np.full((2, 3), 1 / 3), np.array([[0.5, 0.52, -0.02], [1.0, 0.0, 0.0]])])
BAD = {
    "a time above 1": ("kappa", (np.array([0.5, 1.001]),)),
    "a time below 0": ("kappa_dot", (np.array([0.5, -0.001]),)),
    "a time that is NaN": ("kappa", (np.array([0.5, np.nan]),)),
    "a share above 1": ("kappa_inverse", (np.array([1.5]),)),
    "one number as times": ("kappa", (np.asarray(0.5),)),
    "integers as times": ("kappa", (np.array([0, 1]),)),
    "a table of times": ("sample_path", (X, X, T[:, None], 1)),
    "times of another batch": ("sample_path", (X, X, T[:1], 1)),
    "a token too large": ("sample_path", (X, X + 1, T, 1)),
    "a token below 0": ("sample_path", (X - 1, X, T, 1)),
    "tokens that are floats": ("velocity", (TABLE, X + 0.0, T)),
    "a row that sums to 0.99": ("velocity", (LESS, X, T)),
    "a negative probability": ("velocity", (NEGATIVE, X, T)),
    "a probability that is NaN": ("velocity", (TABLE * np.nan, X, T)),
    "a vocabulary of another size": ("velocity", (np.full((2, 2, 4), 1 / 4), X, T)),
    "tokens of another length": ("velocity", (TABLE, X[:, :1], T)),
    "one row of tokens": ("velocity", (TABLE, X[0], T)),
    "t = 1": ("velocity", (TABLE, X, np.array([0.5, 1.0]))),
    "a corrector's row of 0.99": ("corrector_velocity", (LESS, X, T, 1.0)),
    "a negative strength": ("corrector_velocity", (TABLE, X, T, -0.5)),
    "a strength that is NaN": ("corrector_velocity", (TABLE, X, T, np.nan)),
    "logits of another batch": ("cross_entropy", (TABLE[:1], X, X, T)),
    "logits that are NaN": ("cross_entropy", (TABLE * np.nan, X, X, T)),
    "a loss's time": ("cross_entropy", (TABLE, X, X, T + 0.9)),
    "a loss's x_1": ("cross_entropy", (TABLE, X + 1, X, T)),
    "a loss's x_t": ("cross_entropy", (TABLE, X, X - 1, T)),
    "x_1 of another shape": ("generalized_kl", (TABLE, X[:1], X, T)),
}


@pytest.mark.parametrize("wrong", BAD)
@pytest.mark.parametrize("source", SOURCES)
def test_ours_refuses_bad_input(wrong, source):
    method, arguments = BAD[wrong]
    with pytest.raises((ValueError, TypeError), match=": expected"):
        getattr(ours.on(load("numpy"))(SMALL[source]), method)(*arguments)


def test_ours_refuses_bad_input_on_every_backend(backend):
    for method, arguments in BAD.values():
        with pytest.raises((ValueError, TypeError)):
            getattr(ours.on(backend)(SMALL["uniform"]), method)(*arguments)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("walk", ours.WALKS)
def test_ours_refuses_models_and_times_that_are_wrong(walk, source):
    adapter, x_0 = ours.on(load("numpy"), walk=walk)(SMALL[source]), np.full((50, 2), 2)

    def spoilt(change):
        def model(x_t, t):
            return change(np.broadcast_to([0.5, 0.5, 0.0], (*x_t.shape, 3)).copy())

        return model

    adapter.sample(spoilt(lambda p: p), x_0, [0.25, 0.5], 1)
    for change in (
        lambda p: p * 0.99,
        lambda p: p + np.array([0.02, 0.0, -0.02]),
        lambda p: p * np.nan,
        lambda p: p[:, :, :2],
        lambda p: p[:, :1],
        lambda p: p[:1],
        lambda p: (p > 0).astype(int),
    ):
        with pytest.raises((ValueError, TypeError), match=": expected"):
            adapter.sample(spoilt(change), x_0, [0.25, 0.5], 1)
    for times in ([0.0], [0.0, 1.001], [-0.001, 0.5], [0.0, np.nan], [0.0, 0.5, 0.5], [0.5, 0.25]):
        with pytest.raises(ValueError, match=": expected"):
            adapter.sample(spoilt(lambda p: p), x_0, times, 1)
    for wrong in (x_0 + 1, x_0 - 3, x_0[:, :1], x_0[0], x_0 + 0.0):
        with pytest.raises((ValueError, TypeError), match=": expected"):
            adapter.sample(spoilt(lambda p: p), wrong, [0.0, 0.5], 1)


def test_ours_covers_the_cases_of_the_contract_and_says_so():
    with pytest.raises(NotImplementedError, match="septic"):
        ours.on(load("numpy"))(Case(3, 2, "septic", "mask"))
    with pytest.raises(NotImplementedError, match="gaussian"):
        ours.on(load("numpy"))(Case(3, 2, "linear", "gaussian"))
    with pytest.raises(ValueError, match="walk: expected one of finite"):
        ours.on(load("numpy"), walk="heun")


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("walk", ours.WALKS)
def test_every_walk_of_ours_starts_at_0_on_a_schedule_that_starts_flat(walk, source):
    case = SMALL[source]
    frames = ours.on(load("numpy"), walk=walk)(case).sample(model_of(case), np.full((50, 2), 2), [0.0, 0.5, 1.0], 1)
    assert frames.shape == (3, 50, 2)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("walk", ours.WALKS)
def test_every_walk_of_ours_takes_times_at_the_end_of_float32(walk, schedule):
    case = Case(3, 2, schedule, "uniform")
    frames = ours.on(load("numpy"), walk=walk)(case).sample(
        model_of(case), np.full((50, 2), 2), [0.25, 1 - 2.0**-24, 1.0], 1
    )
    assert frames.shape == (3, 50, 2)


def test_the_built_in_adapters_are_where_the_registry_says():
    from importlib import import_module

    for address in BUILT_IN.values():
        module, _, attribute = address.partition(":")
        assert callable(getattr(import_module(module), attribute))


# Meta's package


@pytest.fixture
def meta():
    """The package's modules, and the path of its quadratic scheduler."""
    pytest.importorskip("torch")
    pytest.importorskip("flow_matching")
    from flow_matching.path import MixtureDiscreteProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler

    return MixtureDiscreteProbPath(scheduler=PolynomialConvexScheduler(n=2.0))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("source", SOURCES)
def test_flow_matching_s_adapter_gives_what_the_package_gives(meta, source, dtype):
    import torch
    from flow_matching.loss import MixturePathGeneralizedKL

    case = SMALL[source]
    x_0, x_1, x_t, t, probs_1, logits = rows_of(case)
    t, probs_1, logits = (a.astype(dtype) for a in (t, probs_1, logits))
    time, *tokens = torch.tensor(t), *(torch.tensor(x) for x in (x_0, x_1, x_t))
    adapter = flow_matching.build(case)
    with np.errstate(divide="ignore"):
        u = meta.posterior_to_velocity(torch.tensor(np.log(probs_1)), tokens[2], time)
    torch.manual_seed(3)
    drawn = meta.sample(x_0=tokens[0], x_1=tokens[1], t=time).x_t
    loss = MixturePathGeneralizedKL(path=meta, reduction="none")(torch.tensor(logits), *tokens[1:], time)
    for got, want in (
        (adapter.kappa(t), meta.scheduler(time).alpha_t),
        (adapter.kappa_dot(t), meta.scheduler(time).d_alpha_t),
        (adapter.kappa_inverse(t), meta.scheduler.kappa_inverse(time)),
        (adapter.sample_path(x_0.astype(np.int32), x_1.astype(np.int32), t, 3), drawn),
        (adapter.velocity(probs_1, x_t, t), u),
        (adapter.generalized_kl(logits, x_1, x_t, t), loss),
    ):
        assert type(got) is np.ndarray and got.dtype == want.numpy().dtype
        np.testing.assert_array_equal(got, want.numpy())
    linear = flow_matching.build(case._replace(schedule="linear"))
    np.testing.assert_array_equal(linear.kappa(t), t)
    np.testing.assert_allclose(flow_matching.build(case._replace(schedule="cubic")).kappa(t), t**3, rtol=1e-6)


@pytest.mark.parametrize("source", SOURCES)
def test_flow_matching_s_adapter_samples_what_its_solver_samples(meta, source):
    import torch
    from flow_matching.solver import MixtureDiscreteEulerSolver
    from flow_matching.utils import ModelWrapper

    case = SMALL[source]
    model, x_0, times = model_of(case), np.full((40, 2), 2), np.array([0.25, 0.5, 0.75])

    class Wrapped(ModelWrapper):
        def forward(self, x, t):
            return torch.tensor(model(x.numpy(), t.numpy()))

    pmf = torch.tensor(case.source_pmf)
    for name, build in flow_matching.VARIANTS.items():
        solver = MixtureDiscreteEulerSolver(Wrapped(None), meta, 3, source_distribution_p=pmf)
        double, single = torch.tensor(times), torch.tensor(times, dtype=torch.float32)
        ends = torch.tensor([0.25, 0.75])
        options = {
            "time_grid": {"step_size": None, "time_grid": double},
            "float32": {"step_size": None, "time_grid": single},
            "float64_categorical": {"step_size": None, "time_grid": double, "dtype_categorical": torch.float64},
            "step_size": {"step_size": 0.25, "time_grid": single},
            "uneven_step": {"step_size": 0.15, "time_grid": ends},
            "final": {"step_size": 0.0625, "time_grid": ends, "return_intermediates": False},
            "div_free": {"step_size": None, "time_grid": double, "div_free": 0.5},
            "div_free_of_time": {"step_size": None, "time_grid": double, "div_free": lambda t: t * (1 - t)},
            "verbose": {"step_size": None, "time_grid": double, "verbose": True},
        }[name]
        before, adapter = torch.get_rng_state(), build(case)
        grid = times[[0, 2]] if len(options["time_grid"]) == 2 else times

        def ours_of(adapter=adapter, grid=grid):
            return adapter.sample(model, x_0, grid, 9)

        def theirs_of(solver=solver, options=options):
            torch.manual_seed(9)
            return solver.sample(x_init=torch.tensor(x_0), **{"return_intermediates": True, **options}).numpy()

        results = []
        for of in (ours_of, theirs_of):
            try:
                results.append(of())
            except UnboundLocalError as error:  # of the package, where it is verbose along a grid
                results.append(np.asarray(str(error)))
            if of is ours_of:
                assert torch.equal(before, torch.get_rng_state()), "the global generator was touched"
        mine, theirs = results
        if name == "final":
            theirs = np.stack([x_0, theirs])
        np.testing.assert_array_equal(mine, theirs, err_msg=name)
        assert (mine.dtype == np.int64) or name == "verbose"
        assert np.all(x_0 == 2), "an argument was changed"
        assert adapter.sampler == ("multistage" if name in ("uneven_step", "final") else "grid")


def test_flow_matching_s_adapter_hands_over_the_type_that_tokens_are_drawn_in(meta, monkeypatch):
    import torch
    from flow_matching.solver import MixtureDiscreteEulerSolver

    given = []

    def record(self, x_init, **options):
        given.append(options["dtype_categorical"])
        return torch.stack([x_init] * 2)

    monkeypatch.setattr(MixtureDiscreteEulerSolver, "sample", record)
    for build in (flow_matching.build, flow_matching.build_float64_categorical):
        build(SMALL["mask"]).sample(model_of(SMALL["mask"]), X, np.array([0.25, 0.5]), 1)
    assert given == [torch.float32, torch.float64]


def test_flow_matching_s_adapter_lacks_what_the_package_lacks(meta):
    with pytest.raises(NotImplementedError, match="cosine"):
        flow_matching.build(Case(3, 2, "cosine", "mask"))
    adapter = flow_matching.build(SMALL["mask"])
    assert not hasattr(adapter, "corrector_velocity") and not hasattr(adapter, "cross_entropy")
    assert not hasattr(flow_matching.build_step_size(SMALL["mask"]), "velocity")
    model, x_0 = model_of(SMALL["mask"]), np.full((4, 2), 2)
    for build, times in (
        (flow_matching.build_step_size, [0.25, 0.5]),
        (flow_matching.build_step_size, [0.25, 0.5, 0.875]),
        (flow_matching.build_uneven_step, [0.25, 0.5, 0.75]),
        (flow_matching.build_final, [0.25, 0.5, 0.75]),
    ):
        with pytest.raises(NotImplementedError):
            build(SMALL["mask"]).sample(model, x_0, np.array(times), 1)


def test_flow_matching_s_adapter_hands_over_no_rows_that_have_no_logits_and_repairs_no_other_input(meta):
    adapter = flow_matching.build(SMALL["uniform"])
    for probs_1 in (LESS, NEGATIVE):
        with pytest.raises(ValueError, match="probs_1: expected"):
            adapter.velocity(probs_1, X, T)
    assert adapter.kappa(np.array([1.5])) == 2.25  # the package's own affair, and a finding
    assert np.all(np.isfinite(adapter.velocity(TABLE, X, T + 0.6)))


def test_a_package_that_is_missing_is_one_line_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "flow_matching.path", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "jax", None)
    for build, advice in (
        (lambda: flow_matching.build(SMALL["mask"]), "pip install flow_matching"),
        (lambda: torch_module.wrap(dict), "pip install torch"),
        (lambda: jax_function.wrap(dict), "pip install jax"),
    ):
        with pytest.raises(ImportError, match=advice) as caught:
            build()
        assert "\n" not in str(caught.value)


# Codes on other libraries, and of falling time


class Plain:
    """A right implementation on NumPy, small: the finite step of any case whose schedule is quadratic."""

    sampler = "grid"

    def __init__(self, case):
        if case.schedule != "quadratic":
            raise NotImplementedError(case.schedule)
        self.vocab_size = case.vocab_size

    def kappa(self, t):
        return t**2

    def kappa_dot(self, t):
        return 2 * t

    def velocity(self, probs_1, x_t, t):
        weight = self.kappa_dot(t) / (1 - self.kappa(t))
        return weight[:, None, None] * (probs_1 - np.eye(self.vocab_size)[x_t])

    def cross_entropy(self, logits, x_1, x_t, t):
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return -np.take_along_axis(log_p, x_1[..., None], axis=-1)[..., 0]

    def sample_path(self, x_0, x_1, t, seed):
        coin = np.random.default_rng(seed).uniform(size=x_1.shape)
        return np.where(coin < self.kappa(t)[:, None], x_1, x_0)

    def sample(self, model, x_0, times, seed):
        rng, frames = np.random.default_rng(seed), [x_0]
        for t, s in pairwise(times):
            levels = np.cumsum(model(frames[-1], np.full(len(x_0), t)), axis=-1)
            x_1 = np.sum(rng.uniform(size=x_0.shape)[..., None] >= levels[..., :-1], axis=-1)
            event = rng.uniform(size=x_0.shape) < (s**2 - t**2) / (1 - t**2)
            frames.append(np.where(event, x_1, frames[-1]))
        return np.stack(frames)


def torch_code():
    """The same in PyTorch."""
    torch = pytest.importorskip("torch")

    class Module(torch.nn.Module):
        sampler = "grid"

        def __init__(self, case):
            super().__init__()
            if case.schedule != "quadratic":
                raise NotImplementedError(case.schedule)
            self.vocab_size = case.vocab_size
            self.scale = torch.nn.Parameter(torch.ones(()))  # answers have gradients

        def kappa(self, t):
            assert torch.is_tensor(t)
            return self.scale * t**2

        def kappa_dot(self, t):
            return self.scale * 2 * t

        def velocity(self, probs_1, x_t, t):
            weight = self.kappa_dot(t) / (1 - self.kappa(t))
            return weight[:, None, None] * (probs_1 - torch.nn.functional.one_hot(x_t, self.vocab_size))

        def cross_entropy(self, logits, x_1, x_t, t):
            return torch.nn.functional.cross_entropy(logits.movedim(-1, 1), x_1, reduction="none")

        def sample_path(self, x_0, x_1, t, seed):
            coin = torch.rand(x_1.shape, generator=torch.Generator().manual_seed(seed))
            return torch.where(coin < self.kappa(t)[:, None], x_1, x_0)

        def sample(self, model, x_0, times, seed):
            generator, x = torch.Generator().manual_seed(seed), x_0.clone()
            frames = [x.clone()]
            for t, s in pairwise(times):
                probs_1 = model(x, t.repeat(len(x)))
                assert torch.is_tensor(probs_1) and probs_1.dtype == t.dtype
                x_1 = torch.multinomial(probs_1.flatten(0, 1), 1, generator=generator).view(x.shape)
                event = torch.rand(x.shape, generator=generator, dtype=t.dtype) < (s**2 - t**2) / (1 - t**2)
                x[event] = x_1[event]  # in place: the model's arrays must not follow
                frames.append(x.clone())
            return torch.stack(frames)

    return Module


def jax_code():
    """The same in JAX, its sampler compiled."""
    jax = pytest.importorskip("jax")
    jnp = jax.numpy

    class Functions:
        sampler = "grid"

        def __init__(self, case):
            if case.schedule != "quadratic":
                raise NotImplementedError(case.schedule)
            self.vocab_size = case.vocab_size

        def kappa(self, t):
            assert isinstance(t, jax.Array)
            return t**2

        def kappa_dot(self, t):
            return 2 * t

        def velocity(self, probs_1, x_t, t):
            weight = self.kappa_dot(t) / (1 - self.kappa(t))
            return weight[:, None, None] * (probs_1 - jax.nn.one_hot(x_t, self.vocab_size))

        def cross_entropy(self, logits, x_1, x_t, t):
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), x_1[..., None], axis=-1)[..., 0]

        def sample_path(self, x_0, x_1, t, key):
            return jnp.where(jax.random.uniform(key, x_1.shape) < self.kappa(t)[:, None], x_1, x_0)

        def sample(self, model, x_0, times, key):
            def step(x, now):
                t, s, key = now
                probs_1 = model(x, jnp.full(len(x), t))
                one, two = jax.random.split(key)
                event = jax.random.uniform(one, x.shape) < (s**2 - t**2) / (1 - t**2)
                x = jnp.where(event, jax.random.categorical(two, jnp.log(probs_1)), x).astype(x.dtype)
                return x, x

            steps = times[:-1], times[1:], jax.random.split(key, len(times) - 1)
            return jnp.concatenate([x_0[None], jax.jit(lambda x: jax.lax.scan(step, x, steps)[1])(x_0)])

    return Functions


class Falling:
    """The same path in a code whose time runs from data, r = 0, to noise, r = 1; written for it from the start."""

    def __init__(self, case):
        self.vocab_size = case.vocab_size

    def kappa(self, r):  # the share of the data
        return (1 - r) ** 2

    def kappa_dot(self, r):
        return -2 * (1 - r)

    def kappa_inverse(self, k):
        return 1 - np.sqrt(k)

    def sample_path(self, data, noise, r, seed):
        lost = np.random.default_rng(seed).uniform(size=data.shape) < (1 - self.kappa(r))[:, None]
        return np.where(lost, noise, data)

    def velocity(self, p_data, x, r):  # of the process from r = 1 to 0
        weight = -self.kappa_dot(r) / (1 - self.kappa(r))
        return weight[:, None, None] * (p_data - np.eye(self.vocab_size)[x])

    def corrector_velocity(self, p_data, x, r, strength):
        lose = (-self.kappa_dot(r) / self.kappa(r))[:, None, None]
        mask, hidden = np.eye(self.vocab_size)[-1], x == self.vocab_size - 1
        noise = np.where(hidden[..., None], 0.0, lose * (mask - np.eye(self.vocab_size)[x]))
        return (1 + strength) * self.velocity(p_data, x, r) + strength * noise

    def generalized_kl(self, logits, data, x, r):
        return expected_losses(SMALL["mask"], logits, data, x, 1 - r)[1]

    def sample(self, model, x, times, seed):
        assert all(r > s for r, s in pairwise(times))
        rng, frames = np.random.default_rng(seed), [x]
        for r, s in pairwise(times):
            levels = np.cumsum(model(frames[-1], np.full(len(x), r)), axis=-1)
            data = np.sum(rng.uniform(size=x.shape)[..., None] >= levels[..., :-1], axis=-1)
            event = rng.uniform(size=x.shape) < (self.kappa(s) - self.kappa(r)) / (1 - self.kappa(r))
            frames.append(np.where(event, data, frames[-1]))
        return np.stack(frames)


class Signed(Falling):
    """The same, whose velocities are those of dp/dr."""

    def velocity(self, *arguments):
        return -super().velocity(*arguments)

    def corrector_velocity(self, *arguments):
        strength = arguments[-1]
        lost = Falling(SMALL["mask"]).corrector_velocity(*arguments[:-1], strength)
        return -lost


def wrapped(name, **options):
    if name == "torch":
        return torch_module.wrap(torch_code(), **options)
    load("jax")  # sets 64 bits
    return jax_function.wrap(jax_code(), keyed=True, **options)


@pytest.mark.parametrize("library", ["torch", "jax"])
@pytest.mark.parametrize("source", SOURCES)
def test_a_wrapped_code_agrees_with_the_same_in_numpy(library, source):
    case = SMALL[source]
    adapter, plain = wrapped(library)(case), Plain(case)
    x_0, x_1, x_t, t, probs_1, logits = rows_of(case)
    for method, arguments in (
        ("kappa", (t,)),
        ("kappa_dot", (t,)),
        ("velocity", (probs_1, x_t, t)),
        ("cross_entropy", (logits, x_1, x_t, t)),
    ):
        got = getattr(adapter, method)(*arguments)
        assert type(got) is np.ndarray and got.dtype == np.float64, method
        np.testing.assert_allclose(got, getattr(plain, method)(*arguments), rtol=1e-12, atol=1e-15, err_msg=method)
    drawn = adapter.sample_path(x_0.astype(np.int32), x_1.astype(np.int32), t, 4)
    assert type(drawn) is np.ndarray and drawn.dtype.kind == "i" and np.all((drawn == x_0) | (drawn == x_1))
    np.testing.assert_array_equal(drawn, adapter.sample_path(x_0.astype(np.int32), x_1.astype(np.int32), t, 4))


@pytest.mark.parametrize("code", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("source", SOURCES)
def test_a_wrapped_sampler_has_its_law_and_asks_a_numpy_model(code, source):
    case, times, asked = SMALL[source], np.array([0.25, 0.625, 0.875]), []
    right = model_of(case)

    def model(x_t, t):
        assert type(x_t) is np.ndarray and x_t.dtype.kind == "i" and type(t) is np.ndarray and t.dtype == np.float64
        asked.append((x_t, t))
        return right(x_t, t)

    adapter = Plain(case) if code == "numpy" else wrapped(code)(case)
    x_0 = np.full((20_000, 2), 2)
    frames = adapter.sample(model, x_0, times, 5)
    assert frames.dtype.kind == "i" and follows(case, "finite", frames, times, right)
    assert len(asked) == 2 and all(np.all(t == time) for (_, t), time in zip(asked, times[:2], strict=True))
    for (x_t, _), frame in zip(asked, frames[:2], strict=True):
        np.testing.assert_array_equal(x_t, frame)  # as it was when it was asked
    assert np.all(x_0 == 2)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_a_wrapped_object_has_the_methods_of_the_object_and_no_others(library):
    adapter = wrapped(library)(SMALL["mask"])
    assert adapter.sampler == "grid" and callable(adapter.kappa)
    for name in ("generalized_kl", "corrector_velocity", "kappa_inverse"):
        assert not hasattr(adapter, name)
        with pytest.raises(AttributeError):
            getattr(adapter, name)
    turned = wrapped(library, reverse_time=True)(SMALL["mask"])
    assert not hasattr(turned, "generalized_kl") and turned.sampler == "grid"
    copy.copy(turned)  # which asks an object that is not there yet
    with pytest.raises(NotImplementedError):
        wrapped(library)(Case(3, 2, "cubic", "mask"))


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_an_object_serves_the_cases_that_it_is_said_to_cover(library):
    case = SMALL["mask"]
    covers = {"schedule": "quadratic", "source": "mask"}
    made = (torch_code() if library == "torch" else jax_code())(case)
    wrap = torch_module.wrap if library == "torch" else jax_function.wrap
    np.testing.assert_allclose(wrap(made, covers=covers)(case).kappa(np.array([0.5])), [0.25])
    with pytest.raises(NotImplementedError, match="covers source='mask' alone"):
        wrap(made, covers=covers)(SMALL["uniform"])


def test_a_wrapped_code_gets_the_type_that_was_chosen_and_what_is_no_array_comes_back_as_it_is():
    pytest.importorskip("torch")

    class Odd:
        def kappa(self, t):
            return t.tolist()

        def kappa_dot(self, t):
            return t

    odd = torch_module.wrap(lambda case: Odd(), dtype="float32")(SMALL["mask"])
    assert odd.kappa(np.array([0.5])) == [0.5]
    assert odd.kappa_dot(np.array([0.5])).dtype == np.float32
    fixed = np.array([0.5])
    fixed.flags.writeable = False
    assert odd.kappa_dot(fixed[::-1]) == 0.5


def test_jax_takes_seeds_as_they_are_and_floats_of_a_chosen_type():
    load("jax") if pytest.importorskip("jax") else None

    class Echo:
        def sample_path(self, x_0, x_1, t, seed):
            assert seed == 7 and type(seed) is int
            return t

        def sample(self, model, x_0, times, seed):
            return model(x_0, times[:1])  # not traced

    echo = jax_function.wrap(lambda case: Echo(), dtype="float32")(SMALL["mask"])
    assert echo.sample_path(X, X, T, np.int64(7)).dtype == np.float32
    answer = echo.sample(lambda x_t, t: np.full((*x_t.shape, 3), t[0]), X, np.array([0.25, 0.5]), 7)
    assert answer.dtype == np.float32 and np.all(answer == 0.25)


@pytest.mark.parametrize(("code", "negative"), [(Falling, False), (Signed, True)])
def test_a_code_of_falling_time_gives_the_same_path(code, negative):
    case = SMALL["mask"]
    adapter = conversion.reverse_time(code, negative_rates=negative)(case)
    reference = ours.on(load("numpy"))(case)
    _, x_1, x_t, t, probs_1, logits = rows_of(case)
    for method, arguments in (
        ("kappa", (t,)),
        ("kappa_dot", (t,)),
        ("kappa_inverse", (t,)),
        ("velocity", (probs_1, x_t, t)),
        ("corrector_velocity", (probs_1, x_t, t, 1.5)),
        ("generalized_kl", (logits, x_1, x_t, t)),
    ):
        got, want = getattr(adapter, method)(*arguments), getattr(reference, method)(*arguments)
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12, err_msg=method)
    assert not hasattr(adapter, "cross_entropy")


def test_a_code_of_falling_time_samples_the_same_laws():
    case, n, asked = SMALL["mask"], 20_000, []
    adapter = conversion.reverse_time(Falling)(case)
    x_0, x_1 = np.full((n, 2), 2), np.tile([1, 0], (n, 1))
    kept = adapter.sample_path(x_0, x_1, np.full(n, 0.75), 1) == x_1
    kappa = 0.75**2
    law = np.outer([1 - kappa, kappa], [1 - kappa, kappa]).ravel()
    assert not equality_test(np.bincount(kept @ [2, 1], minlength=4), law).rejects(ALPHA)
    right, times = model_of(case), np.array([0.25, 0.625, 0.875])

    def model(x_t, t):
        asked.append(t)
        return right(x_t, t)

    frames = adapter.sample(model, x_0, times, 5)
    np.testing.assert_array_equal(frames[0], x_0)
    assert follows(case, "finite", frames, times, right)
    assert [float(t[0]) for t in asked] == [0.25, 0.625]


def test_a_falling_time_loses_no_digits_of_a_time_of_float32():
    adapter = conversion.reverse_time(Falling)(SMALL["mask"])
    for time in (2.0**-24, 2.0**-50, 1 - 2.0**-24, 0.1):
        t = np.array([time], dtype=np.float32)
        np.testing.assert_allclose(adapter.kappa(t), t.astype(np.float64) ** 2, rtol=1e-8)


def test_falling_time_and_a_library_go_together():
    torch = pytest.importorskip("torch")

    class Code:
        def kappa(self, r):
            assert torch.is_tensor(r)
            return (1 - r) ** 2

        def sample_path(self, data, noise, r, seed):
            return torch.where((r < 0.5)[:, None], data, noise)

    adapter = torch_module.wrap(lambda case: Code(), reverse_time=True)(SMALL["mask"])
    np.testing.assert_allclose(adapter.kappa(np.array([0.25])), [0.0625])
    np.testing.assert_array_equal(adapter.sample_path(X, X + 1, np.array([0.25, 0.75]), 0), [X[0], X[1] + 1])
