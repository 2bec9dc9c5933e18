"""The optimiser against torch.optim.AdamW; clipping, averages and the learning rate against their formulas."""

import math
from dataclasses import replace

import numpy as np
import pytest
from strategies import BACKENDS, backend

from dfm_ref.arrays import to_numpy
from dfm_ref.nn.optim import AdamW, adamw_init, adamw_update, clip, ema, warmup_cosine

SHAPES = {"matrix": (3, 4), "bias": (4,)}
STEPS = 20


def example(seed=0, dtype="float64"):
    """Parameters and a gradient for every step, of magnitudes from 1e-6 to 1."""
    rng = np.random.default_rng(seed)
    params = {n: rng.standard_normal(s).astype(dtype) for n, s in SHAPES.items()}
    scales = np.logspace(-6, 0, STEPS)
    return params, [{n: (a * rng.standard_normal(s)).astype(dtype) for n, s in SHAPES.items()} for a in scales]


def rate(step):
    return warmup_cosine(step, peak=0.1, warmup=5, total=STEPS)


def train(params, grads, optimiser=AdamW(weight_decay=0.1), state=None):  # noqa: B008
    state = adamw_init(params) if state is None else state
    for g in grads:
        scheduled = replace(optimiser, learning_rate=rate(state.step))
        params, state = adamw_update(scheduled, params, g, state)
    return params, state


def test_adamw_equals_torch():
    torch = pytest.importorskip("torch")
    params, grads = example()
    leaves = {n: torch.from_numpy(p.copy()).requires_grad_() for n, p in params.items()}
    groups = [{"params": [leaves["matrix"]], "weight_decay": 0.1}, {"params": [leaves["bias"]], "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.95), eps=1e-8)
    for step, g in enumerate(grads):
        for name, leaf in leaves.items():
            leaf.grad = torch.from_numpy(g[name])
        for group in theirs.param_groups:
            group["lr"] = rate(step)
        theirs.step()
    ours, state = train(params, grads)
    assert state.step == STEPS
    for name, leaf in leaves.items():
        np.testing.assert_allclose(ours[name], leaf.detach().numpy(), rtol=1e-12, atol=1e-13, err_msg=name)


def test_weight_decay_acts_on_matrices_alone():
    params = {n: np.ones(s) for n, s in SHAPES.items()}
    zero = {n: np.zeros(s) for n, s in SHAPES.items()}
    updated, _ = adamw_update(AdamW(learning_rate=0.5, weight_decay=0.5), params, zero, adamw_init(params))
    assert np.all(updated["matrix"] == 0.75) and np.all(updated["bias"] == 1.0)


def test_a_run_resumed_from_its_state_is_the_unbroken_run_bit_for_bit():
    params, grads = example(dtype="float32")
    whole, whole_state = train(params, grads)
    part, state = train(params, grads[:7])
    assert isinstance(state.step, int)
    state = state._replace(mean={n: m.copy() for n, m in state.mean.items()})
    part, state = train(part, grads[7:], state=state)
    for ours, theirs in ((part, whole), (state.mean, whole_state.mean), (state.square, whole_state.square)):
        assert all(ours[n].dtype == np.float32 and np.array_equal(ours[n], theirs[n]) for n in SHAPES)


@pytest.mark.parametrize("library", BACKENDS[1:])
def test_other_libraries_agree(library):
    asarray = backend(library).asarray
    params, grads = example(dtype="float32")

    def run(params, grads):
        updated, _ = train(params, [clip(g, 0.1)[0] for g in grads])
        return ema(params, updated, 0.5)

    ours = run(params, grads)
    theirs = run(*({n: asarray(p) for n, p in params.items()}, [{n: asarray(a) for n, a in g.items()} for g in grads]))
    for name in SHAPES:
        assert str(theirs[name].dtype).split(".")[-1] == "float32"
        np.testing.assert_allclose(to_numpy(theirs[name]), ours[name], rtol=1e-5, atol=1e-6)


def test_no_argument_is_written_to():
    params, grads = example()
    state = adamw_init(params)
    held = [params, grads[0], state.mean, state.square]
    before = [{n: a.copy() for n, a in d.items()} for d in held]
    adamw_update(AdamW(), params, grads[0], state)
    clip(grads[0], 1e-9)
    ema(params, grads[0], 0.9)
    assert all(np.array_equal(d[n], b[n]) for d, b in zip(held, before, strict=True) for n in SHAPES)


@pytest.mark.parametrize("max_norm", [0.01, 1.0, 100.0])
def test_clip_bounds_the_joint_norm(max_norm):
    grads = example()[1][-1]
    clipped, norm = clip(grads, max_norm)
    assert norm == pytest.approx(math.sqrt(sum(np.sum(g**2) for g in grads.values())), rel=1e-14)
    for name, g in grads.items():
        np.testing.assert_allclose(clipped[name], g * min(1.0, max_norm / norm), rtol=1e-14)


def test_clip_leaves_zeros_and_small_gradients_exactly_alone():
    for scale in (0.0, 1e-3):
        grads = {"w": scale * np.ones(4)}
        assert np.array_equal(clip(grads, 1.0)[0]["w"], grads["w"])


def test_ema_is_a_weighted_mean_with_fixed_points():
    a, p = example(0)[0], example(1)[0]
    for name, value in ema(a, p, 0.9).items():
        np.testing.assert_allclose(value, 0.9 * a[name] + 0.1 * p[name], rtol=1e-12)
    assert all(np.array_equal(value, a[name]) for name, value in ema(a, a, 0.3).items())
    assert all(np.array_equal(value, a[name]) for name, value in ema(a, p, 1.0).items())


def test_warmup_cosine():
    rates = [warmup_cosine(step, 2.0, 4, 14) for step in range(16)]
    np.testing.assert_allclose(rates[:5], [0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[9] == pytest.approx(1.0) and rates[14] == rates[15] == 0.0
    assert np.all(np.diff(rates[4:15]) < 0)
    assert warmup_cosine(0, 2.0, 0, 10) == 2.0
    assert warmup_cosine(3, 2.0, 3, 3) == 2.0
