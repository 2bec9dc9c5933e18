"""The transformer against a second implementation in PyTorch, against autodiff, and on every array library."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from strategies import BACKENDS, backend

from dfm_ref import random
from dfm_ref.arrays import to_numpy
from dfm_ref.nn.transformer import Transformer

B, N, V = 3, 6, 11
MODEL = Transformer(vocab_size=V, dim=24, depth=2, heads=3, cond_dim=10)
OF_CLASSES = replace(MODEL, classes=2)
LABELS = np.array([1, 2, 0])  # 2 is none

each_model = pytest.mark.parametrize(("model", "label"), [(MODEL, None), (OF_CLASSES, LABELS)], ids=["free", "labels"])


def example(seed=0, dtype="float64", model=MODEL):
    """Parameters with no zeros in them, tokens, times and a gradient of the logits."""
    rng = np.random.default_rng(seed)
    params = {n: (0.3 * rng.standard_normal(s)).astype(dtype) for n, s in model.shapes().items()}
    return params, rng.integers(0, V, (B, N)), rng.random(B).astype(dtype), rng.standard_normal((B, N, V)).astype(dtype)


def torch_forward(torch, p, x_t, t, label=None):
    """The architecture once more, written from its description with torch's own functions."""
    F = torch.nn.functional

    def norm(x, name, shift, scale):
        return F.layer_norm(x, (MODEL.dim,), p[f"{name}.weight"]) * (1 + scale[:, None]) + shift[:, None]

    def dense(x, name):
        return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))

    def rotated(x):
        half = x.shape[-1] // 2
        frequency = 10000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
        turn = torch.polar(torch.ones(1, dtype=x.dtype), torch.arange(N, dtype=x.dtype)[:, None] * frequency)
        y = torch.complex(x[..., :half], x[..., half:]) * turn
        return torch.cat([y.real, y.imag], dim=-1)

    angles = t[:, None] * torch.exp(-np.log(10000.0) * torch.arange(128, dtype=t.dtype) / 128)
    c = dense(torch.cat([angles.cos(), angles.sin()], dim=-1), "time_embedding.mlp.0")
    c = dense(F.silu(c), "time_embedding.mlp.2")
    c = F.silu(c if label is None else c + F.embedding(torch.from_numpy(label), p["label_embedding.weight"]))
    x = F.embedding(x_t, p["vocab_embed.weight"])
    for i in range(MODEL.depth):
        b = f"blocks.{i}"
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = dense(c, f"{b}.adaLN_modulation").chunk(
            6, dim=-1
        )
        h = norm(x, f"{b}.norm1", shift_msa, scale_msa)
        q, k, v = (dense(h, f"{b}.{w}").unflatten(-1, (MODEL.heads, -1)).transpose(1, 2) for w in ("qw", "kw", "vw"))
        h = F.scaled_dot_product_attention(rotated(q), rotated(k), v).transpose(1, 2).flatten(-2)
        x = x + gate_msa[:, None] * dense(h, f"{b}.attn_out")
        h = dense(norm(x, f"{b}.norm2", shift_mlp, scale_mlp), f"{b}.mlp.0")
        x = x + gate_mlp[:, None] * dense(F.gelu(h, approximate="tanh"), f"{b}.mlp.2")
    shift, scale = dense(c, "output_layer.adaLN_modulation").chunk(2, dim=-1)
    return dense(norm(x, "output_layer.norm_final", shift, scale), "output_layer.linear")


@each_model
def test_forward_and_backward_equal_torch(model, label):
    torch = pytest.importorskip("torch")
    params, x_t, t, dlogits = example(model=model)
    leaves = {n: torch.from_numpy(p).requires_grad_() for n, p in params.items()}
    theirs = torch_forward(torch, leaves, torch.from_numpy(x_t), torch.from_numpy(t), label)
    logits, residuals = model.forward(params, x_t, t, label=label)
    np.testing.assert_allclose(logits, theirs.detach().numpy(), rtol=1e-10, atol=1e-11)
    theirs.backward(torch.from_numpy(dlogits))
    for name, gradient in model.backward(params, residuals, dlogits).items():
        np.testing.assert_allclose(gradient, leaves[name].grad.numpy(), rtol=1e-8, atol=1e-9, err_msg=name)


def test_backward_equals_jax_autodiff_of_our_own_forward():
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        params, x_t, t, dlogits = jax.tree.map(jax.numpy.asarray, example(model=OF_CLASSES))
        label = jax.numpy.asarray(LABELS)
        _, vjp = jax.vjp(lambda params: OF_CLASSES.forward(params, x_t, t, label=label)[0], params)
        ours = OF_CLASSES.backward(params, OF_CLASSES.forward(params, x_t, t, label=label)[1], dlogits)
        for name, gradient in vjp(dlogits)[0].items():
            np.testing.assert_allclose(ours[name], gradient, rtol=1e-9, atol=1e-10, err_msg=name)


def test_torch_autograd_passes_through_our_own_forward():
    torch = pytest.importorskip("torch")
    params, x_t, t, dlogits = example()
    leaves = {n: torch.from_numpy(p).requires_grad_() for n, p in params.items()}
    MODEL(leaves, torch.from_numpy(x_t), torch.from_numpy(t)).backward(torch.from_numpy(dlogits))
    ours = MODEL.backward(params, MODEL.forward(params, x_t, t)[1], dlogits)
    for name, leaf in leaves.items():
        np.testing.assert_allclose(ours[name], leaf.grad.numpy(), rtol=1e-9, atol=1e-10, err_msg=name)


@each_model
def test_backward_is_the_adjoint_of_central_differences(model, label):
    params, x_t, t, dlogits = example(model=model)
    rng = np.random.default_rng(1)
    direction = {n: rng.standard_normal(p.shape) for n, p in params.items()}
    h = 1e-6
    ahead, behind = (model({n: p + s * direction[n] for n, p in params.items()}, x_t, t, label=label) for s in (h, -h))
    gradients = model.backward(params, model.forward(params, x_t, t, label=label)[1], dlogits)
    inner = sum(np.sum(gradients[n] * direction[n]) for n in params)
    assert inner == pytest.approx(np.sum((ahead - behind) * dlogits) / (2 * h), rel=1e-6)


def test_gradients_have_the_names_order_shapes_and_dtype_of_the_parameters():
    params, x_t, t, dlogits = example(dtype="float32")
    gradients = MODEL.backward(params, MODEL.forward(params, x_t, t)[1], dlogits)
    assert list(gradients) == list(params)
    assert all(gradients[n].shape == p.shape and gradients[n].dtype == p.dtype for n, p in params.items())


@pytest.mark.parametrize("sites", [[0], [17, 3, 3, 8], list(range(B * N)), []])
def test_at_gives_rows_of_the_logits(sites):
    params, x_t, t, _ = example()
    sites = np.asarray(sites, dtype=np.int64)
    rows = np.reshape(MODEL(params, x_t, t), (-1, V))[sites]
    np.testing.assert_allclose(MODEL.at(params, x_t, t, sites), rows, rtol=1e-12, atol=1e-13)


@each_model
@pytest.mark.parametrize("sites", [[0], [3, 4, 8, 17], [6, 7, 8, 9, 10, 11], list(range(B * N)), []], ids=len)
def test_the_gradient_at_sites_is_that_of_logits_that_nothing_else_asks_for(model, label, sites):
    params, x_t, t, dlogits = example(model=model)
    sites = np.asarray(sites, dtype=np.int64)
    rows = dlogits.reshape(-1, V)[sites]
    elsewhere_0 = np.zeros((B * N, V))
    elsewhere_0[sites] = rows
    whole, residuals = model.forward(params, x_t, t, label=label)
    expected = model.backward(params, residuals, elsewhere_0.reshape(B, N, V))
    logits, residuals = model.forward(params, x_t, t, label=label, sites=sites)
    np.testing.assert_allclose(logits, whole.reshape(-1, V)[sites], rtol=1e-11, atol=1e-12)
    for name, gradient in model.backward(params, residuals, rows).items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-9, atol=1e-10, err_msg=name)


def test_a_label_is_a_number_or_one_a_sequence_and_none_is_the_last_row():
    params, x_t, t, _ = example(model=OF_CLASSES)
    model = partial(OF_CLASSES, params)
    by_row = np.concatenate([model(x_t[i : i + 1], t[i : i + 1], label=int(LABELS[i])) for i in range(B)])
    np.testing.assert_allclose(model(x_t, t, label=LABELS), by_row, rtol=1e-10)
    assert np.array_equal(model(x_t, t), model(x_t, t, label=2))
    assert not np.array_equal(partial(model, label=0)(x_t, t), partial(model, label=1)(x_t, t))
    sites = np.array([17, 0, 3, 8])
    rows = model(x_t, t, label=LABELS).reshape(-1, V)[sites]
    np.testing.assert_allclose(OF_CLASSES.at(params, x_t, t, sites, label=LABELS), rows, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("label", [-1, 3, LABELS[:2]], ids=str)
def test_labels_that_cannot_be_used_raise(label):
    params, x_t, t, _ = example(model=OF_CLASSES)
    with pytest.raises(ValueError, match="label: expected"):
        OF_CLASSES(params, x_t, t, label=label)
    with pytest.raises(ValueError, match="label: expected None"):
        MODEL(example()[0], x_t, t, label=label)


@pytest.mark.parametrize("library", BACKENDS[1:])
def test_other_libraries_agree(library):
    asarray = backend(library).asarray
    example_np = example(dtype="float32")
    params, x_t, t, dlogits = example_np
    logits, residuals = MODEL.forward(params, x_t, t)
    gradients = MODEL.backward(params, residuals, dlogits)
    sites = np.array([4, 0])
    rows = MODEL.at(params, x_t, t, sites)

    params, (x_t, t, dlogits, sites) = (
        {n: asarray(p) for n, p in params.items()},
        map(asarray, (x_t, t, dlogits, sites)),
    )
    logits_other, residuals = MODEL.forward(params, x_t, t)
    np.testing.assert_allclose(to_numpy(logits_other), logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(to_numpy(MODEL.at(params, x_t, t, sites)), rows, rtol=1e-3, atol=1e-4)
    for name, gradient in MODEL.backward(params, residuals, dlogits).items():
        scale = float(np.max(np.abs(gradients[name])))
        np.testing.assert_allclose(to_numpy(gradient), gradients[name], atol=1e-4 * scale, err_msg=name)


def test_state_dict_names_are_those_of_the_text_example():
    names = set(MODEL.shapes())
    block = {
        f"blocks.{i}.{part}"
        for i in range(2)
        for part in [
            "norm1.weight", "qw.weight", "kw.weight", "vw.weight", "attn_out.weight", "norm2.weight",
            "mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias",
            "adaLN_modulation.weight", "adaLN_modulation.bias",
        ]
    }  # fmt: skip
    rest = {
        "vocab_embed.weight",
        *(f"time_embedding.mlp.{i}.{part}" for i in (0, 2) for part in ("weight", "bias")),
        "output_layer.norm_final.weight",
        *(f"output_layer.{layer}.{part}" for layer in ("linear", "adaLN_modulation") for part in ("weight", "bias")),
    }
    assert names == block | rest


def test_init_is_a_function_of_the_key_and_starts_from_uniform_posteriors():
    params = MODEL.init(random.key(3))
    again, other = MODEL.init(random.key(3)), MODEL.init(random.key(4))
    assert all(p.dtype == np.float32 and np.array_equal(p, again[n]) for n, p in params.items())
    assert not np.array_equal(params["blocks.0.qw.weight"], other["blocks.0.qw.weight"])
    assert not np.array_equal(params["blocks.0.qw.weight"], params["blocks.1.qw.weight"])
    assert np.var(params["blocks.0.mlp.2.weight"]) == pytest.approx(1 / (4 * MODEL.dim), rel=0.1)
    assert np.all(params["blocks.0.norm1.weight"] == 1) and np.all(params["blocks.0.mlp.0.bias"] == 0)
    assert all(np.all(p == 0) for n, p in params.items() if "adaLN_modulation" in n)
    assert np.all(MODEL(params, np.zeros((1, 4), dtype=int), np.zeros(1)) == 0)
    assert MODEL.init(random.key(3), dtype="float64")["vocab_embed.weight"].dtype == np.float64


def test_times_are_cast_to_the_dtype_of_the_parameters():
    params, x_t, t, _ = example(dtype="float32")
    logits = MODEL(params, x_t, t.astype("float64"))
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, MODEL(params, x_t, t))


def test_an_empty_batch_and_any_length():
    params = example()[0]
    assert MODEL(params, np.zeros((0, 4), dtype=int), np.zeros(0)).shape == (0, 4, V)
    assert MODEL(params, np.zeros((2, 1), dtype=int), np.zeros(2)).shape == (2, 1, V)


def test_bad_shapes_are_refused_by_name():
    params, x_t, t, _ = example()
    with pytest.raises(ValueError, match="x_t, t: expected shapes"):
        MODEL(params, x_t, t[:2])
    with pytest.raises(ValueError, match="dim: expected a multiple of 2 heads = 6, got 9"):
        Transformer(vocab_size=2, dim=9, heads=3)
    with pytest.raises(ValueError, match="depth: expected at least 1, got 0"):
        Transformer(vocab_size=2, depth=0)
