"""Flow matching: both losses have one gradient, by quadrature; gradients by autodiff and differences; better pairs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, backend

from dfm_ref import random
from dfm_ref.continuous import couplings
from dfm_ref.continuous.gaussian_paths import (
    Cosine,
    OptimalTransport,
    VarianceExploding,
    VariancePreserving,
    interpolate,
    marginal_log_density,
    marginal_velocity,
)
from dfm_ref.continuous.matching import (
    conditional_loss,
    conditional_loss_with_grad,
    gradients,
    marginal_loss,
    marginal_loss_with_grad,
)
from dfm_ref.nn.field import Field
from dfm_ref.times import low_discrepancy

PATHS = (OptimalTransport(), OptimalTransport(0.1), VariancePreserving(), VarianceExploding(0.2, 5.0), Cosine())
KEY = random.key(6)
DATA, Q = np.array([[-1.0], [0.5], [2.0]]), np.array([0.5, 0.2, 0.3])


# The identity


def model(theta, x, t):
    """v_t(x; theta), float[n, 1], and its gradient in theta, [n, 4]."""
    a, b, c, d = theta
    bend = np.tanh(a * x + b * t + c)
    slope = d * (1 - bend**2)
    return d * bend, np.concatenate([slope * x, slope * t, slope, bend], axis=1)


def by_quadrature(path, theta, t):
    """(L_FM, L_CFM) at time t and their gradients in theta: sums over 4001 points, exact for what decays like these."""
    sigma, mu = float(path.sigma(t)), float(path.mu(t))
    x = np.linspace(-12 * sigma - 2 * mu, 12 * sigma + 3 * mu, 4001)[:, None]
    v, slopes = model(theta, x, t)
    loss, dv = marginal_loss_with_grad(path, v, DATA, Q, x, t)
    weights = np.exp(marginal_log_density(path, DATA, Q, x, t)) * (x[1, 0] - x[0, 0])
    marginal = weights @ loss, weights @ (dv * slopes)

    x_0 = np.linspace(-12, 12, 4001)[:, None]
    weights = np.exp(-(x_0[:, 0] ** 2) / 2) / math.sqrt(2 * math.pi) * (x_0[1, 0] - x_0[0, 0])
    conditional = 0.0, np.zeros(4)
    for q, x_1 in zip(Q, DATA, strict=True):
        x_1 = np.broadcast_to(x_1, x_0.shape)
        v, slopes = model(theta, interpolate(path, x_0, x_1, t), t)
        loss, dv = conditional_loss_with_grad(path, v, x_0, x_1, t)
        conditional = conditional[0] + q * (weights @ loss), conditional[1] + q * (weights @ (dv * slopes))
    return marginal, conditional


@settings(max_examples=40)
@given(path=st.sampled_from(PATHS), seed=st.integers(0, 999), t=st.floats(0.0, 0.9))
def test_both_losses_have_one_gradient_and_differ_by_what_no_theta_changes(path, seed, t):
    gaps, scale = [], 1.0
    for theta in np.random.default_rng(seed).normal(size=(2, 4)):
        (marginal, dmarginal), (conditional, dconditional) = by_quadrature(path, theta, t)
        scale = max(scale, conditional)
        np.testing.assert_allclose(dmarginal, dconditional, rtol=0, atol=1e-10 * scale)
        assert np.max(np.abs(dmarginal)) > 1e-6
        gaps.append(conditional - marginal)
    assert abs(gaps[0] - gaps[1]) <= 1e-10 * scale
    assert gaps[0] > 0  # the variance of the conditional velocity given x


def test_the_loss_of_the_right_velocity_is_nothing_or_the_variance_that_is_left():
    """At t = 0 on OT x_t = x_0 and the target is x_1 - x_0: E[var(x_1)] is left, and no other velocity has less."""
    x_0 = np.linspace(-3, 3, 7)[:, None]
    u = marginal_velocity(OptimalTransport(), DATA, Q, x_0, 0.0)
    assert np.array_equal(marginal_loss(OptimalTransport(), u, DATA, Q, x_0, 0.0), np.zeros(7))
    left = [conditional_loss(OptimalTransport(), u, x_0, np.broadcast_to(x_1, x_0.shape), 0.0) for x_1 in DATA]
    np.testing.assert_allclose(Q @ np.stack(left), Q @ (DATA[:, 0] - Q @ DATA[:, 0]) ** 2, rtol=1e-13)


# Gradients


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_losses_and_gradients_against_autodiff(path):
    torch = pytest.importorskip("torch")
    x_0, x_1, v = np.random.default_rng(1).normal(size=(3, 5, 3))
    t, data, q = np.array([0.0, 0.2, 0.5, 0.7, 0.9]), np.random.default_rng(2).normal(size=(4, 3)), np.full(4, 0.25)
    times = torch.asarray(t, requires_grad=True)
    x_t = path.mu(times)[:, None] * torch.asarray(x_1) + path.sigma(times)[:, None] * torch.asarray(x_0)
    target = torch.stack([torch.autograd.grad(x_t[:, i].sum(), times, retain_graph=True)[0] for i in range(3)], dim=-1)
    u = torch.asarray(marginal_velocity(path, data, q, x_1, t))
    for right, both, alone in [
        (target, conditional_loss_with_grad(path, v, x_0, x_1, t), conditional_loss(path, v, x_0, x_1, t)),
        (u, marginal_loss_with_grad(path, v, data, q, x_1, t), marginal_loss(path, v, data, q, x_1, t)),
    ]:
        leaf = torch.asarray(v, requires_grad=True)
        loss = ((leaf - right) ** 2).sum(-1)
        loss.sum().backward()
        np.testing.assert_allclose(both[0], loss.detach().numpy(), rtol=1e-12)
        np.testing.assert_allclose(both[1], leaf.grad.numpy(), rtol=1e-11, atol=1e-12)
        assert np.array_equal(both[0], alone)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_on_every_library(name, dtype):
    b, rtol = backend(name), {np.float32: 1e-5, np.float64: 1e-13}[dtype]
    x_0, x_1, v = np.random.default_rng(1).normal(size=(3, 4, 2))
    t, data, q = np.array([0.0, 0.2, 0.5, 0.9]), np.random.default_rng(2).normal(size=(4, 2)), np.full(4, 0.25)
    for function, arrays in [(conditional_loss_with_grad, (v, x_0, x_1)), (marginal_loss_with_grad, (v, data, q, x_1))]:
        exact = function(Cosine(), *arrays, t)
        ours = function(Cosine(), *(b.asarray(a.astype(dtype)) for a in arrays), b.asarray(t))
        for one, other in zip(map(b.to_numpy, ours), exact, strict=True):
            assert one.dtype == dtype
            np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol)


X = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: conditional_loss(Cosine(), X[0], X, X, 0.5), "v: .*shape"),
        (lambda: conditional_loss(Cosine(), X, X, X[:1], 0.5), "x_1: .*shape"),
        (lambda: conditional_loss(VariancePreserving(), X, X, X, 1.0), "finite, got 1.0"),
        (lambda: marginal_loss(Cosine(), X, DATA, Q, X, 0.5), "data, x_t: .*last axis"),
        (lambda: marginal_loss(Cosine(), X[0], np.zeros((1, 3)), np.ones(1), X, 0.5), "v: .*shape"),
        (lambda: gradients(Cosine(), Bent(3), {}, KEY, X, X, T=0.0), "T: .*got 0.0"),
        (lambda: gradients(Cosine(), Bent(3), {}, KEY, X, X, T=math.nan), "T: .*got nan"),
        (lambda: gradients(Cosine(), Bent(3), {}, KEY, X, X, label_dropout=1.5), "label_dropout: .*got 1.5"),
        (lambda: gradients(Cosine(), Bent(3), {}, KEY, X, X[:1]), "x_1: .*shape"),
    ],
)
def test_bad_input_raises(call, what):
    with pytest.raises(ValueError, match=what):
        call()


# A step for a network


class Bent:
    """v = tanh(W x + a t + E[label]): a network of a few numbers; it keeps the labels and times that it saw."""

    def __init__(self, dim, *, classes=0):
        self.dim, self.classes, self.seen = dim, classes, None

    def init(self, seed=0):
        rng = np.random.default_rng(seed)
        shapes = {"W": (self.dim, self.dim), "a": (self.dim,), "E": (self.classes + 1, self.dim)}
        return {name: rng.normal(size=shape) for name, shape in shapes.items()}

    def forward(self, params, x, t, *, label=None):
        label = np.full(len(x), self.classes) if label is None else label
        self.seen = label, t
        v = np.tanh(x @ params["W"].T + np.asarray(t)[:, None] * params["a"] + params["E"][label])
        return v, (x, t, label, v)

    def backward(self, params, residuals, dv):
        x, t, label, v = residuals
        rows = dv * (1 - v**2)
        return {"W": rows.T @ x, "a": t @ rows, "E": np.eye(self.classes + 1)[label].T @ rows}


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_gradient_of_a_step_is_the_derivative_of_its_loss(path):
    net = Bent(2, classes=3)
    params, rng = net.init(), np.random.default_rng(4)
    (x_0, x_1), labels = rng.normal(size=(2, 16, 2)), rng.integers(0, 3, 16)

    def loss(params):
        return gradients(path, net, params, KEY, x_0, x_1, labels=labels, label_dropout=0.3, T=0.9)

    h = 1e-4
    for name, gradient in loss(params)[1].items():
        for at in np.ndindex(gradient.shape):

            def moved(h, name=name, at=at):
                value = params[name].copy()
                value[at] += h
                return float(loss(params | {name: value})[0])

            slope = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
            np.testing.assert_allclose(gradient[at], slope, rtol=1e-7, atol=1e-8 * (1 + float(loss(params)[0])))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_step_for_a_field_on_every_library(name):
    """The derivative along its gradient, by differences, in float64; the same in every library, and in float32."""
    b, path, net = backend(name), OptimalTransport(), Field(2, hidden=5, classes=3)
    rng = np.random.default_rng(4)
    params = {n: rng.normal(size=shape) / 2 for n, shape in net.shapes().items()}
    (x_0, x_1), labels = rng.normal(size=(2, 8, 2)), rng.integers(0, 3, 8)

    def step(params, dtype=np.float64, asarray=np.asarray):
        arrays = (asarray(x.astype(dtype)) for x in (x_0, x_1))
        params = {n: asarray(p.astype(dtype)) for n, p in params.items()}
        return gradients(path, net, params, KEY, *arrays, labels=asarray(labels), label_dropout=0.3)

    loss, grads = step(params)
    h, size = 1e-4, math.sqrt(sum(np.sum(g**2) for g in grads.values()))
    ahead, behind = (step({n: p + k * h / size * grads[n] for n, p in params.items()})[0] for k in (1, -1))
    np.testing.assert_allclose((ahead - behind) / (2 * h), size, rtol=1e-6)
    for dtype, rtol in ((np.float64, 1e-12), (np.float32, 1e-4)):
        ours, ours_grads = step(params, dtype, b.asarray)
        np.testing.assert_allclose(float(ours), loss, rtol=rtol)
        for n, g in ours_grads.items():
            assert b.to_numpy(g).dtype == dtype
            np.testing.assert_allclose(b.to_numpy(g), grads[n], rtol=rtol, atol=rtol * size)


def test_a_step_asks_at_stratified_times_of_its_key_up_to_T():
    x_0, x_1 = np.random.default_rng(4).normal(size=(2, 16, 2))
    net = Bent(2)
    for key, T in ((KEY, 1.0), (KEY, 0.5), (random.key(7), 0.5)):
        loss, _ = gradients(OptimalTransport(), net, net.init(), key, x_0, x_1, T=T)
        t = net.seen[1]
        np.testing.assert_allclose(t, T * low_discrepancy(random.split(key)[0], 16), rtol=1e-15)
        v, _ = net.forward(net.init(), interpolate(OptimalTransport(), x_0, x_1, t), t)
        np.testing.assert_allclose(loss, np.mean(np.sum((v - (x_1 - x_0)) ** 2, axis=-1)), rtol=1e-13)


def test_the_step_s_gradient_is_unbiased():
    """Its mean over keys, with fresh noise, against the integral of the CFM gradient over t, in standard errors."""
    path, net, batch, num = OptimalTransport(0.1), Bent(1), 8, 4000
    params = net.init(3)
    draws = []
    for key in random.split(KEY, num):
        data_key, noise_key, step_key = random.split(key, 3)
        x_1 = DATA[random.categorical(data_key, np.tile(Q, (batch, 1)))]
        x_0, x_1 = couplings.independent(noise_key, x_1)
        loss, grads = gradients(path, net, params, step_key, x_0, x_1)
        draws.append([loss, grads["W"][0, 0], grads["a"][0], grads["E"][0, 0]])
    theta = (params["W"][0, 0], params["a"][0], params["E"][0, 0], 1.0)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    times = [(w / 2, by_quadrature(path, theta, (1 + node) / 2)[1]) for node, w in zip(nodes, weights, strict=True)]
    exact = np.append(sum(w * loss for w, (loss, _) in times), sum(w * grad for w, (_, grad) in times)[:3])
    error = np.std(draws, axis=0) / math.sqrt(num)
    assert np.all(np.abs(np.mean(draws, axis=0) - exact) < 5 * error)
    assert np.all(error < 0.02 * np.max(np.abs(exact)))


def test_labels_are_dropped_one_by_one_and_as_often_as_said():
    x_0, x_1 = np.random.default_rng(4).normal(size=(2, 4000, 2))
    labels = np.random.default_rng(5).integers(0, 3, 4000)
    net = Bent(2, classes=3)

    def seen(**options):
        gradients(OptimalTransport(), net, net.init(), KEY, x_0, x_1, **options)
        return net.seen[0]

    assert np.array_equal(seen(labels=labels, label_dropout=0.0), labels)
    assert np.all(seen(labels=labels, label_dropout=1.0) == 3)
    assert np.all(seen() == 3)
    some = seen(labels=labels, label_dropout=0.25)
    dropped = some != labels
    assert np.all(some[dropped] == 3)
    assert abs(dropped.mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 4000)
    assert abs(np.corrcoef(dropped, net.seen[1])[0, 1]) < 5 / math.sqrt(4000), "apart from the times"


# Better pairs


def test_with_a_translation_as_data_transport_leaves_nothing_to_guess():
    """The straight way x_1 - x_0 is then the same for all pairs, and v = shift has no loss; with others it has."""
    shift = np.array([4.0, -1.0])
    x_0 = couplings.independent(KEY, np.zeros((256, 2))).x_0
    x_1 = np.random.default_rng(1).permutation(x_0 + shift)
    t, v = low_discrepancy(KEY, 256), np.tile(shift, (256, 1))
    pair = couplings.optimal_transport(x_0, x_1)
    assert np.max(conditional_loss(OptimalTransport(), v, *pair, t)) < 1e-25
    assert np.mean(conditional_loss(OptimalTransport(), v, x_0, x_1, t)) > 3  # 2 D = 4, for unrelated pairs


def test_on_a_line_paths_of_transport_never_cross():
    """So that x_t tells x_1, and the velocity that is learned is each pair's own: straight at constant speed."""
    x_0, x_1 = np.random.default_rng(2).normal(size=(2, 64, 1))

    def crossings(pair):
        order = [np.argsort(interpolate(OptimalTransport(), *pair, t)[:, 0]) for t in np.linspace(0, 0.99, 34)]
        return sum(not np.array_equal(order[0], later) for later in order)

    assert crossings(couplings.optimal_transport(x_0, x_1)) == 0
    assert crossings(couplings.Pair(x_0, x_1)) > 20


def test_labels_are_those_of_the_network_and_a_batch_has_a_row():
    net, x = Field(dim=2, hidden=8, classes=3), np.ones((2, 2))
    params = net.init(random.key(0))
    for labels in ([0, -1], [0, 4]):
        with pytest.raises(ValueError, match="labels: expected tokens"):
            gradients(OptimalTransport(), net, params, random.key(1), x, x, labels=np.array(labels))
    with pytest.raises(ValueError, match="x_1: expected one or more points"):
        gradients(OptimalTransport(), net, params, random.key(1), x[:0], x[:0])
