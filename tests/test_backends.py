"""Backends: loaded by name, missing ones say what to install, and all of them give the same tokens."""

import dataclasses
import subprocess
import sys
from functools import partial
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from strategies import backend

from dfm_ref import arrays, backends, paths, random, samplers, schedules, sources
from dfm_ref.backends import Backend, BackendError, threads
from dfm_ref.continuous import coupling, flows, maximum_likelihood
from dfm_ref.nn import train
from dfm_ref.nn.field import Field
from dfm_ref.paths import X0, X1, Fixed, Mixture

LIBRARY = {
    "numpy": "numpy",
    "numba": "numba",
    "strict": "array_api_strict",
    "torch": "torch",
    "jax": "jax",
    "cupy": "cupy",
}
VALUES = [
    np.zeros((0, 3), dtype=np.int64),
    np.asarray([[0, -(2**62)], [7, 2**62]]),
    np.asarray([1 / 3, -0.0, np.inf, 5e-324]),
    np.linspace(0, 1, 6, dtype=np.float32).reshape(1, 2, 3),
    np.asarray([True, False]),
    np.asarray(2.5),
]
THREE = Mixture(
    schedules.Convex((schedules.Bernstein((1.0, 0.2, 0.0)), schedules.Bernstein((0.0, 0.6, 0.0)),
                      schedules.Bernstein((0.0, 0.2, 1.0)))),
    components=(X0(), Fixed((0.4, 0.3, 0.2, 0.1)), X1()),
)  # fmt: skip
PATHS = {"mask": Mixture(schedules.Cosine(), mask=4), "three": THREE}


each_backend = pytest.mark.parametrize("name", backends.NAMES, indirect=True)
each_other_backend = pytest.mark.parametrize("name", backends.NAMES[1:], indirect=True)


@pytest.fixture
def name(request):
    """The name of a backend whose library and device are there, or the test is skipped."""
    return backend(request.param).name


def isolated(code):
    """The output of code in a process of its own, where any warning is an error."""
    words = [sys.executable, "-W", "error", "-c", f"import sys\n{code}"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def message_of(name):
    return (
        "from dfm_ref import backends\n"
        f"try:\n    backends.load({name!r})\nexcept backends.BackendError as error:\n    print(error)"
    )


# Loading


@each_backend
def test_a_name_loads_its_backend(name):
    backend = backends.load(name)
    assert isinstance(backend, Backend) and backend.name == name and backends.load(name) is backend
    backend.synchronize()
    assert dataclasses.is_dataclass(backend) and backend.__dataclass_params__.frozen


def test_names_are_those_that_load_knows():
    assert set(LIBRARY) <= set(backends.names()) and backends.names()[0] == "numpy"
    assert set(backends.NAMES) == set(LIBRARY)


@pytest.mark.parametrize("name", ["tensorflow", "", "../numpy", "numpy.py", "NUMPY", "os"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(BackendError, match="expected one of numpy, numba, strict, torch, jax, cupy") as caught:
        backends.load(name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", [n for n in LIBRARY if n != "numpy"])
def test_a_missing_library_is_one_line_that_says_what_to_install(name):
    hidden = "\n".join(f"sys.modules[{m!r}] = None" for m in (LIBRARY[name], f"array_api_compat.{LIBRARY[name]}"))
    lines = isolated(f"{hidden}\n{message_of(name)}").splitlines()
    assert len(lines) == 1 and name in lines[0] and "pip install" in lines[0]
    assert {"strict": "array-api-strict", "cupy": "cuda"}.get(name, name) in lines[0].split("pip install")[1]


@pytest.mark.parametrize("error", ["OSError('libfoo.so: cannot open')", "RuntimeError('versions')", "ImportError('x')"])
def test_a_broken_library_is_one_line(error):
    """An installation may fail to import in many ways; the others are listed all the same."""
    broken = f"""
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "array_api_strict":
            raise {error}
sys.meta_path.insert(0, Broken())
"""
    lines = isolated(f"{broken}\n{message_of('strict')}").splitlines()
    assert len(lines) == 1 and "strict" in lines[0]
    listed = isolated(f"{broken}\nfrom dfm_ref.cli import main\nsys.exit(main(['backends']))")
    assert {line.split()[0] for line in listed.splitlines()} >= set(LIBRARY)


STUB = """
import types
cupy = types.ModuleType("cupy")
cupy.cuda = types.SimpleNamespace(is_available=lambda: False)
cupy.asnumpy = None
sys.modules["cupy"] = cupy
sys.modules["array_api_compat.cupy"] = types.ModuleType("array_api_compat.cupy")
"""


def test_cupy_without_a_device_is_one_line_that_says_what_to_do():
    twice = isolated(f"{STUB}\n{message_of('cupy')}\n{message_of('cupy')}").splitlines()
    assert len(twice) == 2 and twice[0] == twice[1]
    assert "device" in twice[0] and "nstall" in twice[0]


def test_a_backend_acts_only_when_named():
    loaded = isolated("import dfm_ref.cli\nprint(*sys.modules)").split()
    assert not {"torch", "jax", "cupy", "array_api_strict"} & set(loaded)


# Third parties


class Module:
    """Stands for an installed module."""

    def __init__(self, monkeypatch, name="mine", target="their_backend:backend", **attributes):
        module = type(sys)("their_backend")
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, "their_backend", module)
        entry = EntryPoint(name=name, value=target, group="dfm_ref.backends")
        found = lambda *, group: [entry] if group == entry.group else []  # noqa: E731
        monkeypatch.setattr(backends, "entry_points", found)


def mine():
    return dataclasses.replace(backends.load("numpy"), name="mine")


@pytest.mark.parametrize("target", ["their_backend:backend", "their_backend"])
def test_third_parties_register_a_module_with_a_backend(monkeypatch, target):
    Module(monkeypatch, target=target, backend=mine())
    assert "mine" in backends.names() and backends.load("mine").name == "mine"
    assert isinstance(backends.load("mine"), Backend)


def test_third_parties_do_not_replace_built_in_names(monkeypatch):
    Module(monkeypatch, name="numpy", backend=mine())
    assert backends.load("numpy").name == "numpy" and backends.names().count("numpy") == 1


@pytest.mark.parametrize("target", ["not_installed:backend", "their_backend:missing"])
def test_a_third_party_that_cannot_be_loaded_is_one_line(monkeypatch, target):
    Module(monkeypatch, target=target)
    with pytest.raises(BackendError, match="mine") as caught:
        backends.load("mine")
    assert len(str(caught.value).splitlines()) == 1


# What a backend does


@each_backend
@pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{v.dtype}{list(v.shape)}")
def test_arrays_go_there_and_back_unchanged(name, value):
    backend = backends.load(name)
    array = backend.asarray(value)
    assert tuple(array.shape) == value.shape and array.dtype == getattr(backend.xp, value.dtype.name)
    back = backend.to_numpy(array)
    assert isinstance(back, np.ndarray) and back.dtype == value.dtype and back.tobytes() == value.tobytes()


@each_backend
def test_arrays_that_cannot_be_written_go_there_without_a_warning(name):
    value = np.lib.stride_tricks.sliding_window_view(np.arange(5), 1)
    backend = backends.load(name)
    assert np.array_equal(backend.to_numpy(backend.asarray(value)), value)


def test_an_unfused_function_is_itself_and_a_fused_one_its_twin():
    twin = lambda x: x  # noqa: E731
    backend = dataclasses.replace(backends.load("numpy"), kernels={len: twin})
    assert backend.fused(len) is twin and backend.fused(abs) is abs


# The same tokens everywhere


def logits_of(xp):
    """Posteriors as a function of the token and its place, the same to the last bit on every library."""
    table = np.random.default_rng(3).standard_normal((5, 4))

    def model(x_t, t):
        flat = xp.take(xp.asarray(table), xp.reshape(x_t, (-1,)), axis=0)
        return xp.reshape(flat, (*x_t.shape, 4))

    return model


def tokens(name, kind, *, rows=20, first=0):
    """x_0, x_t and x_1 of a path, by the pure code on a backend, as NumPy arrays."""
    backend, path = backends.load(name), PATHS[kind]
    xp = backend.xp
    source = sources.Masked(5) if kind == "mask" else sources.Marginal((0.1, 0.2, 0.3, 0.4))
    keys = random.split(random.key(11), 3)
    x_0 = sources.sample(source, keys[0], (rows, 3), first=first, xp=xp)
    x_1 = backend.asarray(np.random.default_rng(4).integers(0, 4, (rows, 3)))
    t = backend.asarray(np.linspace(0, 1, rows))
    x_t = paths.sample(path, keys[1], x_0, x_1, t, first=first)
    end = backend.fused(samplers.sample)(path, logits_of(xp), keys[2], x_0, [0.0, 0.3, 1.0], first=first)
    return [backend.to_numpy(x) for x in (x_0, x_t, end)]


@each_other_backend
@pytest.mark.parametrize("kind", PATHS)
def test_every_backend_gives_the_tokens_of_numpy(name, kind):
    for ours, numpys in zip(tokens(name, kind), tokens("numpy", kind), strict=True):
        assert ours.dtype == np.int64 and np.array_equal(ours, numpys)


@each_other_backend
def test_every_backend_draws_the_words_of_numpy(name):
    backend, key = backends.load(name), random.key(-5)
    sites = np.asarray([0, 1, 2**31, 2**32 + 7, 2**40])
    for draw in (random.bits_at, random.uniform_at):
        there = backend.to_numpy(draw(key, backend.asarray(sites)))
        assert there.dtype == draw(key, sites).dtype and there.tobytes() == draw(key, sites).tobytes()


@each_backend
@pytest.mark.parametrize("sites", [[], [2], [0, 1, 2]])
def test_values_are_put_at_any_number_of_sites(name, sites):
    backend = backends.load(name)
    x, places = backend.asarray(np.zeros(3)), backend.asarray(np.asarray(sites, dtype=np.int64))
    values = backend.asarray(np.arange(1.0, 1 + len(sites)))
    expected = np.zeros(3)
    expected[np.asarray(sites, dtype=int)] = np.arange(1.0, 1 + len(sites))
    assert np.array_equal(backend.to_numpy(arrays.put(x, places, values)), expected)
    rows = [backend.xp.stack([a, 2 * a], axis=1) for a in (x, values)]
    put = backend.to_numpy(arrays.put(rows[0], places, rows[1]))
    assert np.array_equal(put, np.stack([expected, 2 * expected], axis=1)), "rows of values, too"
    assert np.all(backend.to_numpy(x) == 0), "a copy"


def training_batch(asarray):
    """Weights in float64 that are away from the zeros of the start, and a batch of 33: shards of unequal size."""
    config = train.Config(vocab_size=6, length=5, dim=16, depth=2, heads=2)
    rng = np.random.default_rng(0)
    start = train.network(config).init(random.key(0), dtype="float64")
    params = {name: asarray(p + 0.1 * rng.standard_normal(p.shape)) for name, p in start.items()}
    x_1, x_t, t = rng.integers(0, 5, (33, 5)), rng.integers(0, 6, (33, 5)), rng.random(33)
    return (config, params, asarray(x_1), asarray(x_t), asarray(t))


def points(asarray):
    """A flow with weights away from the identity, in float64, and 8201 points: shards of unequal size."""
    flow, rng = coupling.neural_spline(3, depth=2, hidden=(8,)), np.random.default_rng(0)
    start = flow.init(random.key(0))
    params = {name: asarray(p + 0.3 * rng.standard_normal(p.shape)) for name, p in start.items()}
    return flow, params, asarray(rng.standard_normal((8201, 3)))


def inputs(function):
    """Small arguments for a reference function that has a fused twin: add a case here with the kernel."""
    cases = {
        "nn.train.gradients": training_batch,
        "continuous.flows.log_prob": points,
        "continuous.flows.sample": lambda asarray: (*points(asarray)[:2], random.key(1), 8201),
        "continuous.maximum_likelihood.gradients": points,
        "random.normal": lambda asarray: (random.key(1), (1000, 3)),
        "random.bits_at": lambda asarray: (random.key(1), asarray(np.arange(1000))),
        "random.uniform_at": lambda asarray: (random.key(1), asarray(np.arange(1000))),
    }
    return cases[f"{function.__module__.removeprefix('dfm_ref.')}.{function.__name__}"]


def leaves(result):
    if isinstance(result, dict):
        result = tuple(result[name] for name in sorted(result))
    return [leaf for part in result for leaf in leaves(part)] if isinstance(result, tuple) else [result]


@each_backend
def test_every_kernel_equals_its_slow_twin(name):
    """Loops over the mapping: integers to the bit, floats to 64 ulp of the largest entry (sums in another order)."""
    backend = backends.load(name)
    for slow, fused in backend.kernels.items():
        if isinstance(slow, type):
            continue  # a network: see below
        expected, got = (leaves(f(*inputs(slow)(backend.asarray))) for f in (slow, fused))
        assert len(expected) == len(got)
        for theirs, ours in zip(map(backend.to_numpy, expected), map(backend.to_numpy, got), strict=True):
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            if ours.dtype.kind == "f":
                bound = 64 * np.finfo(ours.dtype).eps * np.max(np.abs(theirs))
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound)
            else:
                assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("count", [3, 1201])
def test_a_field_in_threads_equals_its_slow_twin(count, cores, monkeypatch):
    """Every pass, with times and labels of each point and of all, to 64 ulp of the largest entry."""
    twin = backends.load("numpy").fused(Field)
    monkeypatch.setattr(threads, "cores", lambda: cores)
    monkeypatch.setattr(threads, "NUMBERS", 1200)  # 3 numbers a point
    rng, nets = np.random.default_rng(0), [kind(3, hidden=8, classes=2) for kind in (Field, twin)]
    params = {
        n: p + 0.3 * rng.standard_normal(p.shape) for n, p in nets[0].init(random.key(0), dtype="float64").items()
    }
    x, dv = rng.standard_normal((2, count, 3))
    for t, label in ((rng.random(count), rng.integers(0, 3, count)), (0.3, 1), (0.3, None)):
        results = []
        for net in nets:
            v, residuals = net.forward(params, x, t, label=label)
            grads = net.backward(params, residuals, dv)
            results.append((v, net.jvp(params, residuals, dv), net.divergence(params, residuals), *grads.values()))
        for theirs, ours in zip(*results, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=64 * np.finfo(float).eps * np.max(np.abs(theirs)))
    for wrong in ({"x": x[:, :2]}, {"t": np.zeros(count + 1)}, {"label": np.zeros(count + 1, dtype=int)}):
        with pytest.raises(ValueError, match=r"\b(2|4|1202)\b"):  # the shape of the whole, not of a shard
            nets[1].forward(params, **{"x": x, "t": 0.5, "label": 0} | wrong)


@pytest.mark.parametrize("function", [flows.log_prob, maximum_likelihood.gradients])
def test_numpy_spreads_points_over_threads_and_reports_mistakes_of_the_whole(function, monkeypatch):
    """Else the comparison of a kernel with its twin says nothing: both would be the same code."""
    twin = backends.load("numpy").fused(function)
    flow, params, x = points(np.asarray)
    monkeypatch.setattr(threads, "cores", lambda: 4)
    called = []
    monkeypatch.setattr(threads, "in_threads", lambda one, shards: called.extend(shards) or [one(s) for s in shards])
    twin(flow, params, x)
    two = bool(threads.blas())  # threads need OpenBLAS to keep to its own
    assert called == ([slice(0, 4164), slice(4164, 8201)] if two else [slice(0, 8201)])
    with pytest.raises(ValueError, match="8201, 2"):
        twin(flow, params, x[:, :2])


def test_numpy_trains_in_threads():
    """Else the comparison of that kernel with its twin says nothing: both would be the same code."""
    kernels = sys.modules["dfm_ref.backends.numpy"]
    called = []
    twin = partial(kernels.gradients_in_threads, *training_batch(np.asarray))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train, "gradients", lambda *a, slow=train.gradients, **k: called.append(len(a[2])) or slow(*a, **k)
        )
        patch.setattr(threads, "cores", lambda: 4)
        twin()
    assert sorted(called) == ([8, 8, 8, 9] if threads.blas() else [33])


def test_every_shard_of_a_batch_has_early_and_late_times():
    """Times rise along a batch, and with them fewer tokens are hidden: neighbours in one shard would unbalance it."""
    twin, times = backends.load("numpy").fused(train.gradients), []
    config, params, x_1, x_t, _ = training_batch(np.asarray)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train, "gradients", lambda *a, slow=train.gradients, **k: times.append(np.mean(a[4])) or slow(*a, **k)
        )
        patch.setattr(threads, "cores", lambda: 4)
        twin(config, params, x_1, x_t, np.linspace(0, 1, 33))
    assert np.ptp(times) < 0.1


def test_numpy_shares_labels_out_with_their_sequences():
    config, _, *batch = training_batch(np.asarray)
    config, rng = dataclasses.replace(config, classes=3), np.random.default_rng(1)
    # weights so small that no attention saturates: small gradients would be left with the last bits of large ones
    params = {n: 0.1 * rng.standard_normal(s) for n, s in train.network(config).shapes().items()}
    labels = rng.integers(0, 4, 33)
    slow, fused = (
        f(config, params, *batch, labels=labels)
        for f in (train.gradients, backends.load("numpy").fused(train.gradients))
    )
    for theirs, ours in zip(leaves(slow), leaves(fused), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=64 * np.finfo(float).eps * np.max(np.abs(theirs)))
    other = train.gradients(config, params, *batch, labels=labels[::-1])
    assert not np.allclose(other[0], slow[0], rtol=1e-9), "labels matter"


def test_the_loop_over_the_kernels_finds_a_wrong_one(monkeypatch):
    right = {random.uniform_at: lambda key, sites: random.uniform_at(key, sites) * (1 + 1e-16)}
    wrong = {random.bits_at: lambda key, sites: random.bits_at(key, sites + 1)}
    for kernels in (right, wrong):
        backend = dataclasses.replace(backends.load("numpy"), kernels=kernels)
        monkeypatch.setattr(backends, "load", lambda name, backend=backend: backend)
        if kernels is right:
            test_every_kernel_equals_its_slow_twin("numpy")
        else:
            with pytest.raises(AssertionError):
                test_every_kernel_equals_its_slow_twin("numpy")
