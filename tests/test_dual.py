"""Dual numbers: every rule against differences, and the determinants of every flow against their Jacobian, to 1e-10."""

import numpy as np
import pytest

from dfm_ref import random
from dfm_ref.continuous import affine, coupling, flows, planar
from dfm_ref.continuous.splines import RationalQuadratic
from dfm_ref.verify import dual
from dfm_ref.verify.calculus import jacobian

X = np.array([[0.3, -0.7, 1.2], [2.0, 0.25, -1.5]])
W = np.array([[1.0, 0.5, -1.0], [0.0, 2.0, 0.25], [-0.5, 0.25, 1.0]])
FUNCTIONS = {
    **{name: lambda xp, x, name=name: getattr(xp, name)(x) for name in ("exp", "expm1", "tanh", "sin", "cos", "sinh")},
    **{name: lambda xp, x, name=name: getattr(xp, name)(x) for name in ("asinh", "abs", "square")},
    **{name: lambda xp, x, name=name: getattr(xp, name)(x * x + 1) for name in ("log", "log1p", "sqrt")},
    "arithmetic": lambda xp, x: (2 - x) * x / (x * x + 3) - 1 / (x - 5) + x**3 - (-x),
    "abs operator": lambda xp, x: abs(x),
    "right hand": lambda xp, x: (np.ones(3) * x + np.ones(3)) @ W + x @ W,
    "mixed": lambda xp, x: np.ones((2, 3)) - x,
    "left matmul": lambda xp, x: (W @ x.T).T,
    "matmul": lambda xp, x: xp.matmul(x, xp.matrix_transpose(x) @ x),
    "where": lambda xp, x: xp.where(x > 0, x * x, 3 * x),
    "bounds": lambda xp, x: xp.maximum(x, 0.5 * x) + xp.minimum(x, xp.zeros_like(x)),
    "max": lambda xp, x: x - xp.max(x, axis=-1, keepdims=True) + xp.max(x, axis=-1)[..., None],
    "sums": lambda xp, x: x * xp.sum(x, axis=-1, keepdims=True) + xp.mean(x, axis=-1)[..., None],
    "cumulative_sum": lambda xp, x: xp.cumulative_sum(x * x, axis=-1),
    "vecdot": lambda xp, x: xp.vecdot(x, x * x)[..., None] * x,
    "tensordot": lambda xp, x: xp.tensordot(x, W, axes=1),
    "shapes": lambda xp, x: xp.reshape(xp.flip(xp.permute_dims(x[:, None, :], (1, 0, 2)), axis=-1), (2, 3)),
    "joined": lambda xp, x: xp.stack([xp.concat([x[:, :1], x[:, 1:] ** 2], axis=-1), x], axis=-1)[..., 0],
    "take": lambda xp, x: xp.take(x, np.array([2, 0, 1]), axis=-1) * x,
    "take_along_axis": lambda xp, x: xp.take_along_axis(x, np.array([[2, 0, 1], [0, 0, 1]]), axis=-1),
    "solve": lambda xp, x: xp.linalg.solve(W + x[..., None, :] * x[..., :, None], (x * x)[..., None])[..., 0],
    "triangles": lambda xp, x: xp.sum(xp.tril(x[..., None, :] * x[..., :, None]) @ W, axis=-1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_rule_agrees_with_differences(name):
    def rows(xp, x):
        return FUNCTIONS[name](xp, x)

    direction = np.array([[1.0, -0.5, 0.25], [0.5, 2.0, -1.0]])
    xp = dual.Dual(X, direction).__array_namespace__()
    found = dual.tangent(lambda x: rows(xp, x), X, direction)
    import array_api_compat.numpy as plain

    along = [jacobian(lambda h, k=k: moved(plain, rows, k, h, direction), np.zeros((1, 1))) for k in range(2)]
    expected = np.stack([along[k].value[0, :, 0] for k in range(2)])
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


def moved(plain, rows, k, h, direction):
    return np.concatenate([rows(plain, X + step * direction)[k : k + 1] for step in h[:, 0]])


def perturbed(flow, seed=0):
    """Parameters away from those that training starts from, which may give the identity."""
    rng = np.random.default_rng(seed)
    params = flow.init(random.key(seed))
    free = {name for name in params if not name.endswith(("permutation", "signs"))}
    return {name: p + 0.3 * rng.normal(size=p.shape) if name in free else p for name, p in params.items()}


SPLINE = RationalQuadratic(bins=5, bound=3.0)
FLOWS = {
    "planar": planar.Planar(3),
    "radial": planar.Radial(3),
    "affine": affine.Affine(3),
    "actnorm": affine.ActNorm(3),
    "lu": affine.LU(3),
    "reverse": affine.Reverse(3),
    "coupling": coupling.Coupling(3, coupling.AffineMap(), hidden=(8,)),
    "coupling flipped": coupling.Coupling(3, coupling.AffineMap(), hidden=(8,), flip=True),
    "coupling by splines": coupling.Coupling(3, SPLINE, hidden=(8,)),
    "autoregressive": coupling.Autoregressive(3, coupling.AffineMap(), hidden=(8,)),
    "autoregressive by splines": coupling.Autoregressive(3, SPLINE, hidden=(8,), reverse=True),
    "maf": coupling.maf(3, depth=2, hidden=(8,)),
    "real_nvp": coupling.real_nvp(3, depth=2, hidden=(8,)),
    "neural_spline": coupling.neural_spline(3, depth=2, hidden=(8,)),
    "composed": flows.Composed((affine.LU(3), planar.Planar(3), coupling.Autoregressive(3, SPLINE, hidden=(8,)))),
}


@pytest.mark.parametrize("name", FLOWS)
def test_the_determinant_of_a_flow_is_that_of_its_jacobian(name):
    flow, params = FLOWS[name], perturbed(FLOWS[name])
    z = np.random.default_rng(1).normal(size=(20, 3))
    lifted = dual.constants(params)
    for f in (lambda params, x: flow.forward(params, x)[:2], flow.inverse):
        columns = [dual.tangent(lambda x, f=f: f(lifted, x)[0], z, np.broadcast_to(e, z.shape)) for e in np.eye(3)]
        expected = np.linalg.slogdet(np.stack(columns, axis=-1))[1]
        scale = np.linalg.cond(np.stack(columns, axis=-1))
        log_det = f(params, z)[1]
        assert np.all(np.abs(log_det - expected) <= 1e-10 + 1e-14 * scale)
        assert np.any(np.abs(log_det) > 1e-3) or name == "reverse"


def test_what_has_no_rule_sees_the_values():
    x = dual.Dual(X, np.ones_like(X))
    xp = x.__array_namespace__()
    assert xp.isfinite(x).all() and xp.zeros_like(x).shape == X.shape and xp.float64 == np.float64
    assert (x > 0).tolist() == (X > 0).tolist() and x.shape == X.shape and x.dtype == np.float64
    assert xp.linalg.det(W) == np.linalg.det(W) and float(x[0, 0]) == X[0, 0]
    with pytest.raises(AttributeError):
        _ = x.nothing
