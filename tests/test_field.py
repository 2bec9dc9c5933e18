"""The velocity network: backward, Jacobian and divergence against autodiff, its labels and times, and clear errors."""

import math

import numpy as np
import pytest
from strategies import BACKENDS, backend

from dfm_ref import random
from dfm_ref.nn.field import Field

B, D = 5, 3
FREE = Field(dim=D, hidden=8)
OF_CLASSES = Field(dim=D, hidden=8, classes=2)
LABELS = np.array([0, 2, 1, 2, 1])  # 2 is none

each_field = pytest.mark.parametrize(
    ("field", "label"), [(FREE, None), (OF_CLASSES, LABELS), (OF_CLASSES, 1)], ids=["free", "labels", "label"]
)
each_time = pytest.mark.parametrize("times", ["one", "each"])


def example(field, times, dtype="float64"):
    """Parameters with no zeros in them, points, times and a direction."""
    rng = np.random.default_rng(0)
    params = {n: (0.5 * rng.standard_normal(s)).astype(dtype) for n, s in field.shapes().items()}
    x, dx = rng.standard_normal((2, B, D)).astype(dtype)
    return params, x, 0.3 if times == "one" else rng.random(B).astype(dtype), dx


def in_torch(torch, field, params, x, t, label):
    """The network in torch's own words."""
    F = torch.nn.functional
    t = torch.as_tensor(t, dtype=x.dtype).expand(len(x))
    phi = torch.stack([torch.cos(math.pi * k * t) for k in range(16)], dim=1)
    a = F.linear(x, params["0.weight"]) + F.linear(phi, params["0.time"])
    if field.classes:
        a = a + F.embedding(torch.as_tensor(label).expand(len(x)), params["label.weight"])
    h = F.silu(F.linear(F.silu(a), params["1.weight"]) + F.linear(phi, params["1.time"]))
    return F.linear(h, params["2.weight"]) + F.linear(phi, params["2.time"])


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@each_field
@each_time
def test_all_derivatives_equal_those_of_torch(field, label, times):
    torch = pytest.importorskip("torch")
    params, x, t, dx = example(field, times)
    p = {n: torch.from_numpy(a).requires_grad_() for n, a in params.items()}

    def velocity(x):
        return in_torch(torch, field, p, x, t, label)

    v, residuals = field.forward(params, x, t, label=label)
    theirs, dv = torch.func.jvp(velocity, (torch.from_numpy(x),), (torch.from_numpy(dx),))
    np.testing.assert_allclose(v, theirs.detach().numpy(), rtol=1e-12, atol=1e-13)
    assert np.array_equal(field(params, x, t, label=label), v)
    np.testing.assert_allclose(field.jvp(params, residuals, dx), dv.detach().numpy(), rtol=1e-11, atol=1e-12)

    jacobian = torch.autograd.functional.jacobian(velocity, torch.from_numpy(x))
    traces = torch.einsum("bibi->b", jacobian).numpy()
    np.testing.assert_allclose(field.divergence(params, residuals), traces, rtol=1e-10, atol=1e-12)

    velocity(torch.from_numpy(x)).backward(torch.from_numpy(dx))
    gradients = field.backward(params, residuals, dx)
    assert list(gradients) == list(params)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, p[name].grad.numpy(), rtol=1e-11, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@each_field
@each_time
def test_libraries_agree(name, dtype, field, label, times):
    library = backend(name)
    params, x, t, dx = example(field, times, dtype)
    there = [{n: library.asarray(p) for n, p in params.items()}, library.asarray(x)]
    there += [t if times == "one" else library.asarray(t), library.asarray(dx)]
    label_there = library.asarray(label) if isinstance(label, np.ndarray) else label

    def run(label, params, x, t, dx):
        v, residuals = field.forward(params, x, t, label=label)
        derivatives = {"jvp": field.jvp(params, residuals, dx), "divergence": field.divergence(params, residuals)}
        return {"v": v, **derivatives, **field.backward(params, residuals, dx)}

    ours, theirs = run(label, params, x, t, dx), run(label_there, *there)
    for n, array in theirs.items():
        assert array.dtype == there[1].dtype
        scale = np.abs(ours[n]).max()
        np.testing.assert_allclose(library.to_numpy(array) / scale, ours[n] / scale, atol=30 * np.finfo(dtype).eps)


def test_the_work_is_done_in_the_dtype_of_the_parameters():
    params, x, t, _ = example(FREE, "each", "float32")
    assert FREE(params, x.astype("float64"), t.astype("float64")).dtype == np.float32


def test_a_label_of_all_equals_the_same_label_of_each():
    params, x, t, _ = example(OF_CLASSES, "each")
    assert np.array_equal(OF_CLASSES(params, x, t, label=1), OF_CLASSES(params, x, t, label=np.full(B, 1)))
    assert np.array_equal(OF_CLASSES(params, x, t), OF_CLASSES(params, x, t, label=2))
    assert not np.allclose(OF_CLASSES(params, x, t), OF_CLASSES(params, x, t, label=1))


def test_a_new_network_stands_still_and_its_features_have_the_stated_variance():
    params = Field(dim=3, hidden=64, classes=2).init(random.key(0), dtype="float64")
    assert not Field(dim=3, hidden=64, classes=2)(params, np.ones((2, 3)), 0.5).any()
    assert np.var(params["1.weight"]) == pytest.approx(1 / 64, rel=0.05)  # 4 sigma of 4096 uniform numbers


def test_an_empty_batch():
    params, x, _, _ = example(FREE, "one")
    v, residuals = FREE.forward(params, x[:0], 0.5)
    assert v.shape == (0, D) and FREE.divergence(params, residuals).shape == (0,)
    assert not any(g.any() for g in FREE.backward(params, residuals, v).values())


PARAMS, X, T, _ = example(FREE, "each")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FREE(PARAMS, X[:, :2], 0.5), r"x: expected shape \(B, 3\), got \(5, 2\)"),
        (lambda: FREE(PARAMS, X[0], 0.5), r"x: expected shape \(B, 3\), got \(3,\)"),
        (lambda: FREE(PARAMS, X, T[:2]), r"t: expected a number or the shape \(5,\), got \(2,\)"),
        (lambda: FREE(PARAMS, X, 0.5, label=0), "label: expected None, as the model has no classes"),
        (lambda: OF_CLASSES(PARAMS, X, 0.5, label=3), r"label: expected a label in \[0, 2\)"),
        (lambda: OF_CLASSES(PARAMS, X, 0.5, label=LABELS[:2]), r"label: expected a number or the shape \(5,\)"),
        (lambda: Field(dim=0), "dim, hidden: expected at least 1, got 0 and 256"),
        (lambda: Field(dim=2, classes=-1), "classes: expected 0 or more, got -1"),
    ],
)
def test_mistakes_are_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()
