"""Compiled passes in float32, beside the pure code in float64 on the same numbers."""

import sys

import numpy as np
import pytest

from dfm_ref import backends, random
from dfm_ref.backends import threads
from dfm_ref.continuous import coupling, flows, maximum_likelihood
from dfm_ref.continuous.coupling import AffineMap, Autoregressive, Coupling
from dfm_ref.continuous.flows import Composed, Inverted
from dfm_ref.nn.field import Field

pytest.importorskip("numba")
NUMBA = backends.load("numba")
compiled = sys.modules["dfm_ref.backends.compiled"]
EPS = np.finfo(np.float32).eps
MAPS = (
    Coupling(5, AffineMap(), hidden=(7, 4)),
    Coupling(5, AffineMap(), hidden=(6,), flip=True),
    Autoregressive(5, AffineMap(), hidden=(7, 3)),
    Autoregressive(5, AffineMap(), hidden=(9, 4, 6), reverse=True),
)
FLOWS = (
    Inverted(Composed(MAPS)),
    Composed((MAPS[0], MAPS[3], Inverted(MAPS[2]), Inverted(Composed(MAPS[1:3])))),
    coupling.maf(1, hidden=(3,)),
    coupling.maf(70, depth=2, hidden=(16, 8)),
    coupling.real_nvp(2),
)
every_flow = pytest.mark.parametrize("flow", FLOWS, ids=range(len(FLOWS)))


def example(flow, count=300):
    """Weights away from the identity and points, in float32, and the same numbers in float64."""
    rng = np.random.default_rng(0)
    single = {
        n: (p + 0.4 * rng.standard_normal(p.shape) / np.sqrt(p.shape[-1])).astype(np.float32)
        for n, p in flow.init(random.key(0), dtype=np.float32).items()
    }
    x = rng.standard_normal((count, flow.dim)).astype(np.float32)
    return single, x, {n: p.astype(np.float64) for n, p in single.items()}, x.astype(np.float64)


def several(monkeypatch, numbers):
    """As on three cores, with shards of so few numbers."""
    monkeypatch.setattr(threads, "cores", lambda: 3)
    monkeypatch.setattr(threads, "NUMBERS", numbers)


def counted(monkeypatch, *names):
    """How often compiled passes have run."""
    calls = dict.fromkeys(names, 0)

    def counting(name, function):
        def call(*arguments):
            calls[name] += 1
            return function(*arguments)

        return call

    for name in names:
        monkeypatch.setattr(compiled, name, counting(name, getattr(compiled, name)))
    return calls


def maps(flow):
    """How many there are in a flow."""
    return sum(map(maps, flow.flows)) if isinstance(flow, Composed) else maps(flow.flow) if hasattr(flow, "flow") else 1


def near(ours, exact, ulp):
    assert ours.dtype == np.float32 and ours.shape == exact.shape
    np.testing.assert_allclose(ours, exact, rtol=0, atol=ulp * EPS * np.max(np.abs(exact)))


@pytest.mark.parametrize(("name", "bound"), [("exp", 1.0), ("tanh", 4.0)])
def test_elementary_functions_are_right_to_a_few_ulp(name, bound):
    x = np.concatenate([np.linspace(-80, 80, 20001), np.logspace(-30, 1, 20001), -np.logspace(-30, 1, 20001)])
    x = x.astype(np.float32)
    ours = np.asarray([getattr(compiled, name)(v) for v in x], dtype=np.float32)
    exact = getattr(np, name)(x.astype(np.float64))
    assert np.max(np.abs(ours - exact) / np.where(exact == 0, 1, np.abs(exact))) <= bound * EPS


def test_elementary_functions_end_in_their_limits():
    for x in (10.0, 100.0, np.inf):
        assert compiled.tanh(np.float32(x)) == 1 and compiled.tanh(np.float32(-x)) == -1
    assert 0 < compiled.exp(np.float32(-np.inf)) < 2e-38 and compiled.exp(np.float32(np.inf)) > 6e37
    assert compiled.tanh(np.float32(0)) == 0 and compiled.exp(np.float32(0)) == 1


@pytest.mark.parametrize("first", [0, 7, 2**32 - 3, 2**40 + 1])
@pytest.mark.parametrize("seed", [0, -5])
def test_random_words_are_those_of_the_pure_code(first, seed, monkeypatch):
    several(monkeypatch, 8)
    key, sites = random.key(seed), first + np.arange(100)
    assert np.array_equal(compiled.uniforms(key.hi, key.lo, first, 100), random.uniform_at(key, sites))
    for shape in ((), (1,), (0, 2), (33, 3)):
        ours = NUMBA.fused(random.normal)(key, shape, first=first)
        assert np.array_equal(ours, random.normal(key, shape, first=first)) and ours.shape == shape
    keys = random.Key(np.asarray([key.hi]), np.asarray([key.lo]))
    assert np.array_equal(NUMBA.fused(random.normal)(keys, (2,)), random.normal(keys, (2,)))


@every_flow
@pytest.mark.parametrize("numbers", [1 << 17, 4096])
def test_flows_are_those_of_the_pure_code(flow, numbers, monkeypatch):
    """Their densities and draws, each by compiled passes alone, in one shard and in three."""
    several(monkeypatch, numbers)
    single, x, double, exact = example(flow)
    calls = counted(monkeypatch, "forward", "inverse", "autoregressive_inverse")
    near(NUMBA.fused(flows.log_prob)(flow, single, x), flows.log_prob(flow, double, exact), 16)
    drawn = NUMBA.fused(flows.sample)(flow, single, random.key(1), 300, first=3)
    near(drawn, flows.sample(flow, double, random.key(1), 300, first=3), 256)
    shards = 1 if numbers > 4096 or not threads.blas() else 3
    assert sum(calls.values()) == 2 * shards * maps(flow)


@pytest.mark.parametrize("flow", [flow for flow in FLOWS if isinstance(flow, Inverted)], ids=maps)
@pytest.mark.parametrize("numbers", [1 << 17, 4096])
def test_gradients_are_those_of_the_pure_code(flow, numbers, monkeypatch):
    several(monkeypatch, numbers)
    single, x, double, exact = example(flow)
    calls = counted(monkeypatch, "backward")
    loss, grads = NUMBA.fused(maximum_likelihood.gradients)(flow, single, x)
    right, right_grads = maximum_likelihood.gradients(flow, double, exact)
    np.testing.assert_allclose(loss, right, rtol=64 * EPS)
    assert list(grads) == list(right_grads)
    whole = max(np.max(np.abs(g)) for g in right_grads.values())
    for name, gradient in grads.items():
        assert gradient.dtype == np.float32 and gradient.shape == single[name].shape
        np.testing.assert_allclose(gradient, right_grads[name], rtol=0, atol=256 * EPS * whole, err_msg=name)
    assert calls["backward"] == (1 if numbers > 4096 or not threads.blas() else 3) * maps(flow)


@pytest.mark.parametrize("count", [1, 300, 3000])
@pytest.mark.parametrize("classes", [0, 2])
def test_fields_are_those_of_the_pure_code(count, classes, monkeypatch):
    several(monkeypatch, 3000)
    rng, slow, twin = np.random.default_rng(0), Field(3, hidden=8, classes=classes), NUMBA.fused(Field)
    calls, fused = counted(monkeypatch, "field"), twin(3, hidden=8, classes=classes)
    single = {n: (p + 0.3 * rng.standard_normal(p.shape)).astype("f") for n, p in slow.init(random.key(0)).items()}
    double = {n: p.astype(np.float64) for n, p in single.items()}
    x, dv = rng.standard_normal((2, count, 3)).astype(np.float32)
    t, labels = rng.random(count).astype(np.float32), rng.integers(0, 3, count) if classes else None
    for time, label in ((t, labels), (0.25, labels if labels is None else labels[:1]), (0.25, None)):
        label = np.repeat(label, count) if label is not None and len(label) < count else label
        results = []
        for net, params, points, along in ((fused, single, x, dv), (slow, double, x.astype("d"), dv.astype("d"))):
            v, r = net.forward(
                params, points, time if points is x or np.ndim(time) == 0 else time.astype("d"), label=label
            )
            grads = net.backward(params, r, along)
            results.append([v, net.jvp(params, r, along), net.divergence(params, r), *grads.values()])
        for ours, exact in zip(*results, strict=True):
            near(ours, exact, 128)
    assert calls["field"] > 0


def test_what_has_no_compiled_pass_runs_as_on_numpy(monkeypatch):
    """Splines, float64, no hidden layer, no points, single points: the results and the errors of the pure code."""
    calls = counted(monkeypatch, "forward", "inverse", "autoregressive_inverse", "backward", "field")
    log_prob, gradients = NUMBA.fused(flows.log_prob), NUMBA.fused(maximum_likelihood.gradients)
    for flow in (coupling.neural_spline(2, depth=1), coupling.real_nvp(2, depth=1, hidden=())):
        single, x, *_ = example(flow, 5)
        assert np.array_equal(log_prob(flow, single, x), flows.log_prob(flow, single, x))
    flow = coupling.real_nvp(2, depth=2)
    single, x, double, exact = example(flow, 5)
    assert log_prob(flow, double, exact).dtype == np.float64
    assert np.array_equal(log_prob(flow, double, exact), flows.log_prob(flow, double, exact))
    for params, points in ((single, exact), (double, x)):
        assert np.array_equal(log_prob(flow, params, points), flows.log_prob(flow, params, points))
    draws = (f(flow, double, random.key(0), 5) for f in (flows.sample, NUMBA.fused(flows.sample)))
    assert np.array_equal(*draws)
    assert log_prob(flow, single, x[:0]).shape == (0,)
    assert NUMBA.fused(flows.sample)(flow, single, random.key(0), 0).shape == (0, 2)
    assert gradients(flow.flow, single, x)[0] == maximum_likelihood.gradients(flow.flow, single, x)[0]
    assert gradients(flow, double, exact)[0] == maximum_likelihood.gradients(flow, double, exact)[0]
    with pytest.raises(ValueError, match=r"[xz]: expected points of 2 coordinates .*\(5, 3\)"):
        log_prob(flow, single, np.zeros((5, 3), dtype=np.float32))
    field = NUMBA.fused(Field)(2, hidden=4)
    params = field.init(random.key(0), dtype=np.float64)
    assert field(params, exact, 0.5).dtype == np.float64
    with pytest.raises(ValueError, match=r"x: expected shape \(B, 2\), got \(5, 1\)"):
        field(params, exact[:, :1], 0.5)
    assert not any(calls.values())


def test_arguments_stay_as_they_are_and_need_not_be_contiguous():
    flow = FLOWS[0]
    single, x, *_ = example(flow)
    before = {n: p.copy() for n, p in single.items()}, x.copy()
    strided = np.asfortranarray(x)
    for function in (flows.log_prob, maximum_likelihood.gradients):
        twin = NUMBA.fused(function)
        ours, other = twin(flow, single, x), twin(flow, single, strided)
        assert np.array_equal(ours, other) if function is flows.log_prob else ours[0] == other[0]
    assert np.array_equal(x, before[1]) and all(np.array_equal(p, before[0][n]) for n, p in single.items())


def test_a_point_that_is_not_a_number_stays_alone():
    for flow in (FLOWS[0], FLOWS[4]):
        single, x, *_ = example(flow, 10)
        right = NUMBA.fused(flows.log_prob)(flow, single, x)
        x[3, 0] = np.nan
        ours = NUMBA.fused(flows.log_prob)(flow, single, x)
        assert np.isnan(ours[3]) and np.array_equal(np.delete(ours, 3), np.delete(right, 3))
