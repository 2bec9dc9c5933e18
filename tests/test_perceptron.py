"""Perceptrons, plain and masked: their gradients are those of autodiff, and masked outputs see earlier inputs alone."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BACKENDS, backend

from dfm_ref import random
from dfm_ref.nn.perceptron import Perceptron

NETS = (
    Perceptron(3, 4, hidden=(8, 5)),
    Perceptron(3, 2, hidden=()),
    Perceptron(1, 1, hidden=(4,)),
    Perceptron(3, 6, hidden=(8, 5), order=(2, 0, 1)),
    Perceptron(3, 3, hidden=(), order=(0, 1, 2)),
    Perceptron(1, 2, hidden=(4,), order=(0,)),
)
every_net = pytest.mark.parametrize("net", NETS, ids=repr)


def example(net, seed=0, shape=(5,)):
    """Parameters with no zeros in them, points, and a gradient of the outputs."""
    rng = np.random.default_rng(seed)
    params = {n: rng.standard_normal(s) for n, s in net.shapes().items()}
    return params, rng.standard_normal((*shape, net.inputs)), rng.standard_normal((*shape, net.outputs))


@every_net
def test_forward_and_backward_equal_torch(net):
    torch = pytest.importorskip("torch")
    params, x, dy = example(net)
    p = {n: torch.tensor(a, requires_grad=True) for n, a in params.items()}
    x_torch = torch.tensor(x, requires_grad=True)
    # the masks are found by the rule of the paper, entry by entry
    most, degrees = max(net.inputs - 1, 1), [list(net.order)]
    for width in net.hidden:
        degrees.append([math.floor(j * most / width) for j in range(width)])
    per = net.outputs // net.inputs
    h = x_torch
    for k in range(len(net.hidden) + 1):
        weight = p[f"{k}.weight"]
        if net.order and k < len(net.hidden):
            weight = weight * torch.tensor([[float(a >= b) for b in degrees[k]] for a in degrees[k + 1]])
        elif net.order:
            weight = weight * torch.tensor([[float(a > b) for b in degrees[k]] for a in net.order for _ in range(per)])
        h = torch.nn.functional.linear(torch.nn.functional.silu(h) if k else h, weight, p[f"{k}.bias"])
    h.backward(torch.tensor(dy))

    y, residuals = net.forward(params, x)
    np.testing.assert_allclose(y, h.detach().numpy(), rtol=1e-11, atol=1e-12)
    dparams, dx = net.backward(params, residuals, dy)
    np.testing.assert_allclose(dx, x_torch.grad.numpy(), rtol=1e-10, atol=1e-11)
    assert list(dparams) == list(params) == list(net.shapes())
    for name, gradient in dparams.items():
        np.testing.assert_allclose(gradient, p[name].grad.numpy(), rtol=1e-10, atol=1e-11, err_msg=name)


@settings(max_examples=60)
@given(
    order=st.integers(1, 5).flatmap(lambda n: st.permutations(range(n))),
    per=st.integers(1, 3),
    hidden=st.sampled_from([(), (32,), (32, 32), (2, 3), (1,)]),
    seed=st.integers(0, 2**31),
)
def test_masked_outputs_depend_on_the_inputs_of_earlier_places_alone(order, per, hidden, seed):
    """And on all of them, where the layers are wide enough to have a unit of every degree."""
    net = Perceptron(len(order), per * len(order), hidden, tuple(order))
    params, x, _ = example(net, seed, shape=())
    _, residuals = net.forward(params, x)
    jacobian = np.stack([net.backward(params, residuals, row)[1] for row in np.eye(net.outputs)])
    earlier = np.repeat([[b < a for b in order] for a in order], per, axis=0)
    assert np.all(jacobian[~earlier] == 0)
    if min(hidden, default=32) == 32:
        assert np.all(jacobian[earlier] != 0)
    elsewhere = x + np.array([order[i] == max(order) for i in range(len(order))])  # no output sees the last input
    np.testing.assert_array_equal(net(params, elsewhere), net(params, x))


@settings(max_examples=60)
@given(
    order=st.integers(1, 6).flatmap(lambda n: st.permutations(range(n))),
    per=st.integers(1, 3),
    hidden=st.sampled_from([(), (32,), (32, 7), (2, 3), (1,)]),
    shape=st.sampled_from([(), (5,), (2, 3), (0,)]),
    seed=st.integers(0, 2**31),
)
def test_inputs_found_in_turn_are_given_the_outputs_of_one_pass_over_them(order, per, hidden, shape, seed):
    """Inputs that hang on the outputs, so that a wrong one would spoil all that come after; in the order of places."""
    net, asked = Perceptron(len(order), per * len(order), hidden, tuple(order)), []
    params, noise, _ = example(net, seed, shape)

    def find(i, y):
        asked.append((i, np.broadcast_to(y, (*shape, per))))
        return noise[..., i] + np.sin(np.sum(y, axis=-1))

    x = net.in_turn(params, find)
    assert [order[i] for i, _ in asked] == sorted(order) and x.shape == noise.shape
    whole = net(params, x)
    for i, y in asked:
        np.testing.assert_allclose(y, whole[..., i * per : (i + 1) * per], rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(x[..., i], noise[..., i] + np.sin(np.sum(y, axis=-1)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_library_finds_the_same_inputs(name):
    b, net = backend(name), NETS[3]
    params, noise, _ = example(net)
    x = net.in_turn(params, lambda i, y: noise[:, i] + y[..., 0])
    theirs, there = {n: b.asarray(p) for n, p in params.items()}, b.asarray(noise)
    found = net.in_turn(theirs, lambda i, y: there[:, i] + y[..., 0])
    np.testing.assert_allclose(b.to_numpy(found), x, rtol=1e-12, atol=1e-12)


@every_net
def test_it_starts_at_zero_from_uniform_weights(net):
    params = net.init(random.key(1), dtype=np.float64)
    assert {n: p.shape for n, p in params.items()} == net.shapes()
    assert all(p.dtype == np.float64 for p in params.values())
    assert np.all(net(params, np.ones((2, net.inputs))) == 0)
    for k in range(len(net.hidden)):
        weight = params[f"{k}.weight"]
        assert 0 < np.max(np.abs(weight)) <= math.sqrt(3 / weight.shape[1])
    assert net.init(random.key(1))["0.weight"].dtype == np.float32


def test_weights_have_the_variance_of_one_over_the_fan_in_and_follow_the_key():
    net = Perceptron(50, 1, hidden=(400, 3))
    first, second = (net.init(random.key(seed), dtype=np.float64)["0.weight"] for seed in (0, 1))
    assert np.var(first) == pytest.approx(1 / 50, rel=0.05)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


@every_net
@pytest.mark.parametrize("name", BACKENDS)
def test_every_library_precision_and_shape(net, name):
    b = backend(name)

    def run(params, x, dy):
        y, residuals = net.forward(params, x)
        dparams, dx = net.backward(params, residuals, dy)
        return dparams | {"y": y, "x": dx}

    params, x, dy = example(net, shape=(2, 3))
    exact = run(params, x, dy)
    theirs = pytest.importorskip("jax").jit(run) if name == "jax" else run
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-4)):
        p = {n: b.asarray(a.astype(dtype)) for n, a in params.items()}
        for n, a in theirs(p, b.asarray(x.astype(dtype)), b.asarray(dy.astype(dtype))).items():
            assert b.to_numpy(a).dtype == dtype
            np.testing.assert_allclose(b.to_numpy(a), exact[n], rtol=tolerance, atol=tolerance, err_msg=n)


@every_net
def test_arguments_stay_as_they_are_and_a_batch_may_be_empty(net):
    params, x, dy = example(net)
    before = {n: p.copy() for n, p in params.items()}, x.copy(), dy.copy()
    net.backward(params, net.forward(params, x)[1], dy)
    assert all(np.array_equal(params[n], before[0][n]) for n in params)
    assert np.array_equal(x, before[1]) and np.array_equal(dy, before[2])
    y, residuals = net.forward(params, x[:0])
    dparams, dx = net.backward(params, residuals, dy[:0])
    assert y.shape == (0, net.outputs) and dx.shape == (0, net.inputs)
    assert all(np.all(dparams[n] == 0) and dparams[n].shape == params[n].shape for n in params)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Perceptron(0, 1), "1 or more"),
        (lambda: Perceptron(1, 0), "1 or more"),
        (lambda: Perceptron(1, 1, hidden=(4, 0)), "1 or more"),
        (lambda: Perceptron(2, 2, order=(0,)), r"order: .*places"),
        (lambda: Perceptron(2, 2, order=(1, 2)), r"order: .*places"),
        (lambda: Perceptron(2, 3, order=(0, 1)), r"outputs: .*multiple of the 2 inputs"),
        (lambda: NETS[0](NETS[0].init(random.key(0)), np.zeros((5, 2))), r"x: expected 3 .*\(5, 2\)"),
        (lambda: NETS[0].in_turn(NETS[0].init(random.key(0)), lambda i, y: y), "order: expected places"),
        (lambda: NETS[0](NETS[0].init(random.key(0)), np.zeros(())), r"x: expected 3"),
    ],
)
def test_bad_input_raises(make, what):
    with pytest.raises(ValueError, match=what):
        make()
