"""The perceptron: its backward pass, its methods, and that it learns a joint law of two tokens."""

from functools import partial

import numpy as np
import pytest
from strategies import BACKENDS, backend

from dfm_ref import random
from dfm_ref.arrays import log_softmax, one_hot, pick, to_numpy
from dfm_ref.nn.mlp import MLP
from dfm_ref.nn.optim import AdamW, adamw_init, adamw_update

B, N, V = 5, 3, 4
MODEL = MLP(vocab_size=V, length=N, dim=8)
OF_CLASSES = MLP(vocab_size=V, length=N, dim=8, classes=3)
LABELS = np.array([0, 3, 1, 3, 1])  # 3 is none

each_model = pytest.mark.parametrize(("model", "label"), [(MODEL, None), (OF_CLASSES, LABELS)], ids=["free", "labels"])


def example(dtype="float64", model=MODEL):
    """Parameters with no zeros in them, tokens, times and a gradient of the logits."""
    rng = np.random.default_rng(0)
    params = {n: (0.5 * rng.standard_normal(s)).astype(dtype) for n, s in model.shapes().items()}
    return params, rng.integers(0, V, (B, N)), rng.random(B).astype(dtype), rng.standard_normal((B, N, V)).astype(dtype)


@each_model
def test_backward_is_the_adjoint_of_central_differences(model, label):
    params, x_t, t, dlogits = example(model=model)
    rng = np.random.default_rng(1)
    direction = {n: rng.standard_normal(p.shape) for n, p in params.items()}
    h = 1e-6
    ahead, behind = (model({n: p + s * direction[n] for n, p in params.items()}, x_t, t, label=label) for s in (h, -h))
    gradients = model.backward(params, model.forward(params, x_t, t, label=label)[1], dlogits)
    assert list(gradients) == list(params)
    inner = sum(np.sum(gradients[n] * direction[n]) for n in params)
    assert inner == pytest.approx(np.sum((ahead - behind) * dlogits) / (2 * h), rel=1e-7)


@each_model
def test_forward_and_backward_equal_torch(model, label):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    params, x_t, t, dlogits = example(model=model)
    p = {n: torch.from_numpy(a).requires_grad_() for n, a in params.items()}
    # its own tables, one a place, and its own sinusoids
    tables = p["tokens.weight"].unflatten(1, (N, V))
    h = sum(tables[:, n, torch.from_numpy(x_t[:, n])].T for n in range(N))
    angles = 10.0 * torch.from_numpy(t)[:, None] * 10000.0 ** (-torch.arange(32, dtype=torch.float64) / 32)
    h = h + F.linear(torch.cat([angles.cos(), angles.sin()], dim=1), p["time.weight"], p["time.bias"])
    if label is not None:
        h = h + F.embedding(torch.from_numpy(label), p["label_embedding.weight"])
    for i in range(MODEL.depth):
        h = h + F.linear(F.silu(h), p[f"hidden.{i}.weight"], p[f"hidden.{i}.bias"])
    theirs = F.linear(F.silu(h), p["output.weight"], p["output.bias"]).unflatten(1, (N, V))

    logits, residuals = model.forward(params, x_t, t, label=label)
    np.testing.assert_allclose(logits, theirs.detach().numpy(), rtol=1e-11, atol=1e-12)
    theirs.backward(torch.from_numpy(dlogits))
    for name, gradient in model.backward(params, residuals, dlogits).items():
        np.testing.assert_allclose(gradient, p[name].grad.numpy(), rtol=1e-10, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("library", BACKENDS[1:])
def test_other_libraries_agree(library):
    asarray = backend(library).asarray
    params, *arrays = example(dtype="float32")
    params_other, arrays_other = {n: asarray(p) for n, p in params.items()}, [asarray(a) for a in arrays]

    def run(params, x_t, t, dlogits):
        logits, residuals = MODEL.forward(params, x_t, t)
        return {"logits": logits, **MODEL.backward(params, residuals, dlogits)}

    ours, theirs = run(params, *arrays), run(params_other, *arrays_other)
    for name in ours:
        np.testing.assert_allclose(to_numpy(theirs[name]), ours[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_at_gives_rows_of_the_logits():
    params, x_t, t, _ = example()
    sites = np.array([7, 0, 0, 14])
    np.testing.assert_array_equal(MODEL.at(params, x_t, t, sites), MODEL(params, x_t, t).reshape(-1, V)[sites])


@each_model
@pytest.mark.parametrize("sites", [[0], [3, 4, 8, 14], list(range(B * N)), []], ids=len)
def test_the_gradient_at_sites_is_that_of_logits_that_nothing_else_asks_for(model, label, sites):
    params, x_t, t, dlogits = example(model=model)
    sites = np.asarray(sites, dtype=np.int64)
    rows = dlogits.reshape(-1, V)[sites]
    elsewhere_0 = np.zeros((B * N, V))
    elsewhere_0[sites] = rows
    expected = model.backward(params, model.forward(params, x_t, t, label=label)[1], elsewhere_0.reshape(B, N, V))
    gradients = model.backward(params, model.forward(params, x_t, t, label=label, sites=sites)[1], rows)
    assert all(np.array_equal(gradient, expected[name]) for name, gradient in gradients.items())


def test_a_label_is_a_number_or_one_a_sequence_and_none_is_the_last_row():
    params, x_t, t, _ = example(model=OF_CLASSES)
    model = partial(OF_CLASSES, params)
    by_row = np.concatenate([model(x_t[i : i + 1], t[i : i + 1], label=int(LABELS[i])) for i in range(B)])
    np.testing.assert_allclose(model(x_t, t, label=LABELS), by_row, rtol=1e-12)
    assert np.array_equal(model(x_t, t), model(x_t, t, label=3))
    assert not np.array_equal(partial(model, label=0)(x_t, t), partial(model, label=1)(x_t, t))
    sites = np.array([7, 0, 14])
    rows = model(x_t, t, label=LABELS).reshape(-1, V)[sites]
    assert np.array_equal(OF_CLASSES.at(params, x_t, t, sites, label=LABELS), rows)


@pytest.mark.parametrize("label", [-1, 4, LABELS[:2], np.array(1)], ids=str)
def test_labels_that_cannot_be_used_raise(label):
    params, x_t, t, _ = example(model=OF_CLASSES)
    with pytest.raises(ValueError, match="label: expected"):
        OF_CLASSES(params, x_t, t, label=label)


def test_a_model_without_classes_takes_no_label_and_has_no_embedding():
    params, x_t, t, _ = example()
    assert "label_embedding.weight" not in params
    for label in (0, np.zeros(B, dtype=int)):
        with pytest.raises(ValueError, match="no classes"):
            MODEL(params, x_t, t, label=label)


def test_init_is_a_function_of_the_key():
    params, again = MODEL.init(random.key(3)), MODEL.init(random.key(3))
    assert all(p.dtype == np.float32 and np.array_equal(p, again[n]) for n, p in params.items())
    assert not np.array_equal(params["hidden.0.weight"], MODEL.init(random.key(4))["hidden.0.weight"])
    assert np.all(MODEL(params, example()[1], np.zeros(B)) == 0)


def test_bad_shapes_and_empty_batches():
    params, x_t, t, _ = example()
    assert MODEL(params, x_t[:0], t[:0]).shape == (0, N, V)
    with pytest.raises(ValueError, match=r"x_t, t: expected shapes \(B, 3\) and \(B,\)"):
        MODEL(params, x_t[:, :2], t)


def test_it_learns_a_joint_law_of_two_tokens():
    """x_1 = (a, a + 5 mod 32) behind a mask: the second token is the first one's image, whichever is revealed."""
    vocab_size, mask, batch = 33, 32, 128
    model = MLP(vocab_size=vocab_size, length=2, dim=128)
    rng = np.random.default_rng(0)
    params = model.init(random.key(0))
    optimiser, state = AdamW(learning_rate=3e-3), adamw_init(params)

    def draw(num):
        a = rng.integers(0, 32, num)
        x_1, t = np.stack([a, (a + 5) % 32], axis=1), rng.random(num)
        return x_1, np.where(rng.random((num, 2)) < t[:, None], x_1, mask), t

    for _ in range(300):
        x_1, x_t, t = draw(batch)
        logits, residuals = model.forward(params, x_t, t)
        dlogits = (np.exp(log_softmax(logits)) - one_hot(x_1, vocab_size, dtype="float32")) / batch
        params, state = adamw_update(optimiser, params, model.backward(params, residuals, dlogits), state)

    x_1, x_t, t = draw(4096)
    loss = -pick(log_softmax(model(params, x_t, t)), x_1)
    hidden = np.sum(x_t == mask, axis=1)
    assert np.mean(loss[hidden < 2]) < 0.02  # one token says the other
    assert np.mean(loss[hidden == 2]) == pytest.approx(np.log(32), abs=0.05)  # and none says nothing
