"""Every backward pass against central differences (one random inner product) and against jax.vjp of its forward."""

import math

import numpy as np
import pytest
from strategies import BACKENDS, backend

from dfm_ref.arrays import like, to_numpy
from dfm_ref.nn import layers as nn

RNG = np.random.default_rng(0)
B, N, H, D, V = 2, 5, 3, 4, 7


def normal(*shape):
    return RNG.standard_normal(shape)


def params(**shapes):
    return {name: normal(*shape) for name, shape in shapes.items()}


TABLE = nn.rotary_table(normal(B, N, H, D))
TOKENS = RNG.integers(0, V, (B, N))

# name: (arguments with a gradient, forward, backward); both take the library's own arrays only
PAIRS = {
    "linear": (
        (params(weight=(3, D), bias=(3,)), normal(B, N, D)),
        nn.linear,
        lambda p, x, r, dy: nn.linear_backward(p, r, dy),
    ),
    "linear without bias": (
        (params(weight=(3, D)), normal(D)),
        nn.linear,
        lambda p, x, r, dy: nn.linear_backward(p, r, dy),
    ),
    "embedding": (
        (params(weight=(V, D)),),
        lambda p: nn.embedding(p, like(p["weight"], TOKENS)),
        lambda p, r, dy: (nn.embedding_backward(p, r, dy),),
    ),
    "adaptive_norm": (
        (params(weight=(D,)), normal(B, N, D), normal(B, 1, D), normal(B, 1, D)),
        nn.adaptive_norm,
        lambda p, x, shift, scale, r, dy: nn.adaptive_norm_backward(p, r, dy),
    ),
    "silu": ((normal(B, N),), nn.silu, lambda x, r, dy: (nn.silu_backward(r, dy),)),
    "gelu_tanh": ((normal(B, N),), nn.gelu_tanh, lambda x, r, dy: (nn.gelu_tanh_backward(r, dy),)),
    "rotary": (
        (normal(B, N, H, D),),
        lambda x: (nn.rotary(x, nn.rotary_table(x)), None),
        lambda x, r, dy: (nn.rotary_backward(nn.rotary_table(x), dy),),
    ),
    "attention": (
        (normal(B, N, H, D), normal(B, N, H, D), normal(B, N, H, D)),
        nn.attention,
        lambda q, k, v, r, dy: nn.attention_backward(r, dy),
    ),
    "gate": (
        (normal(B, N, D), normal(B, 1, D)),
        nn.gate,
        lambda x, amount, r, dy: nn.gate_backward(r, dy),
    ),
}
every_pair = pytest.mark.parametrize("name", PAIRS)


def leaves(tree):
    """The arrays of nested tuples and dicts, dicts by sorted key."""
    if isinstance(tree, dict):
        return [leaf for k in sorted(tree) for leaf in leaves(tree[k])]
    return [leaf for node in tree for leaf in leaves(node)] if isinstance(tree, tuple) else [tree]


def convert(tree, f):
    if isinstance(tree, dict):
        return {k: convert(v, f) for k, v in tree.items()}
    return tuple(convert(v, f) for v in tree) if isinstance(tree, tuple) else f(tree)


def add(tree, direction, h):
    if isinstance(tree, dict):
        return {k: add(v, direction[k], h) for k, v in tree.items()}
    if isinstance(tree, tuple):
        return tuple(add(v, w, h) for v, w in zip(tree, direction, strict=True))
    return tree + h * direction


def gradients(name, args):
    _, forward, backward = PAIRS[name]
    y, residuals = forward(*args)
    dy = like(y, np.cos(np.arange(math.prod(y.shape))).reshape(y.shape), dtype=y.dtype)
    return y, dy, backward(*args, residuals, dy)


@every_pair
def test_backward_is_the_adjoint_of_central_differences(name):
    args, forward, _ = PAIRS[name]
    _, dy, dargs = gradients(name, args)
    direction = convert(args, lambda a: normal(*a.shape))
    h = 1e-6
    slope = (forward(*add(args, direction, h))[0] - forward(*add(args, direction, -h))[0]) / (2 * h)
    inner = sum(np.sum(g * v) for g, v in zip(leaves(dargs), leaves(direction), strict=True))
    assert inner == pytest.approx(np.sum(slope * dy), rel=1e-7, abs=1e-8)
    assert [g.shape for g in leaves(dargs)] == [a.shape for a in leaves(args)]


@every_pair
def test_backward_equals_jax_autodiff(name):
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        args = convert(PAIRS[name][0], jax.numpy.asarray)
        _, dy, dargs = gradients(name, args)
        _, vjp = jax.vjp(lambda *a: PAIRS[name][1](*a)[0], *args)
        for ours, theirs in zip(leaves(dargs), leaves(vjp(dy)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12)


@every_pair
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("library", BACKENDS[1:])
def test_other_libraries_agree_and_keep_the_dtype(name, library, dtype):
    asarray = backend(library).asarray
    if library == "jax" and dtype == "float64":
        pytest.skip("float64 has a test of its own on JAX")
    args = convert(PAIRS[name][0], lambda a: a.astype(dtype))
    y, _, dargs = gradients(name, args)
    y_other, _, dargs_other = gradients(name, convert(args, asarray))
    rtol = 1e-4 if dtype == "float32" else 1e-12
    for ours, theirs in zip(leaves((y, dargs)), leaves((y_other, dargs_other)), strict=True):
        assert str(ours.dtype) == dtype == str(theirs.dtype).split(".")[-1]
        np.testing.assert_allclose(ours, to_numpy(theirs), rtol=rtol, atol=rtol)


@every_pair
def test_arguments_stay_as_they_are(name):
    args = PAIRS[name][0]
    before = [a.copy() for a in leaves(args)]
    _, forward, backward = PAIRS[name]
    y, residuals = forward(*args)
    dy, y_before = np.ones_like(y), y.copy()
    held = [a for a in leaves(residuals) if isinstance(a, np.ndarray)]
    copies = [a.copy() for a in held]
    backward(*args, residuals, dy)
    for a, b in zip([*leaves(args), *held, y, dy], [*before, *copies, y_before, np.ones_like(y)], strict=True):
        np.testing.assert_array_equal(a, b)


def test_forwards_equal_torch():
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    x, w = torch.from_numpy(normal(B, N, D)), torch.from_numpy(normal(D))
    shift, scale = torch.from_numpy(normal(2, B, 1, D))
    q, k, v = (torch.from_numpy(normal(B, N, H, D)) for _ in range(3))
    attended = F.scaled_dot_product_attention(*(a.transpose(1, 2) for a in (q, k, v))).transpose(1, 2)
    for (ours, _), theirs in [
        (nn.adaptive_norm({"weight": w}, x, shift, scale), F.layer_norm(x, (D,), w) * (1 + scale) + shift),
        (nn.silu(x), F.silu(x)),
        (nn.gelu_tanh(x), F.gelu(x, approximate="tanh")),
        (nn.attention(q, k, v), attended),
        (nn.embedding({"weight": x[0]}, torch.tensor([[0, 4]])), x[0][[0, 4]][None]),
    ]:
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_time_features_are_cosines_then_sines_of_falling_frequency():
    t, w = np.array([0.0, 0.3, 1.0]), 10000.0 ** -(np.arange(3) / 3)
    expected = np.concatenate([np.cos(t[:, None] * w), np.sin(t[:, None] * w)], axis=-1)
    np.testing.assert_allclose(nn.time_features(t, size=6), expected, rtol=1e-15, atol=1e-15)


def test_rotary_is_complex_multiplication():
    x = normal(B, N, H, D)
    y = nn.rotary(x, nn.rotary_table(x))
    angles = np.arange(N)[:, None, None] * 10000.0 ** (-2 * np.arange(D // 2) / D)
    turned = (x[..., : D // 2] + 1j * x[..., D // 2 :]) * np.exp(1j * angles)
    np.testing.assert_allclose(y, np.concatenate([turned.real, turned.imag], axis=-1), rtol=1e-13)


def test_attention_stands_scores_that_overflow_exp():
    q = np.full((1, 2, 1, 1), 1e3)
    y, residuals = nn.attention(q, q, q)
    assert np.all(np.isfinite(y))
    assert all(np.all(np.isfinite(g)) for g in nn.attention_backward(residuals, y))


def test_flatten_inverts_nest():
    flat = {"a.b.0": 1, "a.b.1": 2, "c": 3}
    assert nn.flatten(nn.nest(flat)) == flat


def test_all_is_sorted_and_complete():
    public = [n for n, f in vars(nn).items() if callable(f) and getattr(f, "__module__", "") == nn.__name__]
    assert sorted(nn.__all__) == nn.__all__ == sorted(n for n in public if not n.startswith("_"))
