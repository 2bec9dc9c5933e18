"""Training makes the optimiser's steps and no others; maximum likelihood follows the gradient of its loss."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from strategies import BACKENDS, backend

from dfm_ref import random
from dfm_ref.continuous import maximum_likelihood
from dfm_ref.continuous.affine import Affine
from dfm_ref.continuous.coupling import maf, real_nvp
from dfm_ref.continuous.flows import Composed, Inverted, log_prob
from dfm_ref.continuous.planar import Planar, Radial
from dfm_ref.continuous.training import Diverged, Recipe, train
from dfm_ref.nn.optim import AdamW, adamw_init, adamw_update, clip, ema, warmup_cosine

X = random.normal(random.key(3), (60, 2)) * [0.5, 2.0] + [1.0, -3.0]


def noisy(params, key, step):
    """A bowl whose middle is drawn anew at every step."""
    off = params["x"] - random.normal(key, (3,))
    return np.sum(off**2), {"x": 2 * off}


def test_a_step_is_the_optimiser_s():
    recipe = Recipe(steps=30, learning_rate=0.2, warmup=5, weight_decay=0.3, clip=0.5, ema=0.8, seed=7)
    params = {"x": np.ones(3)}
    average, state, key = params, adamw_init(params), random.key(7)
    for step, (found, loss) in enumerate(train(recipe, noisy, params)):
        exact, grads = noisy(params, random.fold_in(key, step), step)
        rate = warmup_cosine(step, 0.2, 5, 30)
        params, state = adamw_update(AdamW(rate, weight_decay=0.3), params, clip(grads, 0.5)[0], state)
        average = ema(average, params, min(0.8, step / (step + 10)))
        assert loss == exact
        assert np.array_equal(found.params["x"], params["x"]) and np.array_equal(found.average["x"], average["x"])
    assert step == 29 and found.optimiser.step == 30


def test_the_seed_decides():
    ends = [
        list(train(Recipe(steps=20, seed=seed), noisy, {"x": np.zeros(3)}))[-1][0].params["x"] for seed in (1, 1, 2)
    ]
    assert np.array_equal(ends[0], ends[1]) and not np.array_equal(ends[0], ends[2])


def test_a_loss_that_is_not_finite_stops_the_run():
    def loss(params, key, step):
        return np.asarray(math.nan if step == 3 else 1.0), {"x": np.zeros(1)}

    states = train(Recipe(), loss, {"x": np.zeros(1)})
    with pytest.raises(Diverged, match=r"loss: expected a finite number, got nan at step 3"):
        list(states)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": -1},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"ema": 1.0},
        {"clip": math.inf},
        {"warmup": -2},
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        Recipe(**bad)


FLOWS = [
    Affine(2),
    Planar(2),
    Radial(2),
    Composed((Affine(2), Planar(2), Radial(2))),
    Inverted(Composed((Planar(2), Affine(2)))),
    real_nvp(2, depth=2, hidden=(5,)),
    maf(2, depth=2, hidden=(5,)),
]


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_the_gradient_of_maximum_likelihood_is_that_of_its_loss(flow):
    start = flow.init(random.key(0))
    params = {n: p + 0.2 * random.normal(random.key(i), p.shape) for i, (n, p) in enumerate(start.items())}
    loss, grads = maximum_likelihood.gradients(flow, params, X)
    assert float(loss) == pytest.approx(-float(np.mean(log_prob(flow, params, X))), rel=1e-12)
    along = {n: random.normal(random.key(100 + i), p.shape) for i, (n, p) in enumerate(params.items())}

    def value(h):
        return -float(np.mean(log_prob(flow, {n: p + h * along[n] for n, p in params.items()}, X)))

    h = 1e-3
    slope = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    assert sum(float(np.sum(grads[n] * along[n])) for n in params) == pytest.approx(slope, rel=1e-6)
    assert grads.keys() == params.keys()


@pytest.mark.parametrize("library", BACKENDS)
def test_the_gradient_vanishes_at_the_maximum_which_for_normal_data_is_known(library):
    b = backend(library)
    params = {"log_scale": np.log(X.std(axis=0)), "shift": X.mean(axis=0)}
    loss, grads = maximum_likelihood.gradients(Affine(2), {n: b.asarray(p) for n, p in params.items()}, b.asarray(X))
    assert all(np.allclose(b.to_numpy(g), 0, atol=1e-12) for g in grads.values())
    best = np.sum(np.log(X.std(axis=0))) + math.log(2 * math.pi * math.e)
    assert float(loss) == pytest.approx(best, rel=1e-12)


def test_training_reaches_the_maximum():
    recipe = Recipe(steps=400, learning_rate=0.1, clip=10.0)
    loss = lambda params, key, step: maximum_likelihood.gradients(Affine(2), params, X)  # noqa: E731
    *_, (state, _) = train(recipe, loss, Affine(2).init(random.key(0)))
    assert np.allclose(state.average["shift"], X.mean(axis=0), atol=1e-3)
    assert np.allclose(np.exp(state.average["log_scale"]), X.std(axis=0), atol=1e-3)


def test_any_object_with_the_fields_of_a_recipe_is_one():
    from dfm_ref.nn.optim import descend, start

    recipe = SimpleNamespace(learning_rate=0.5, warmup=0, steps=2, weight_decay=0.0, clip=1.0, ema=0.0)
    assert descend(recipe, start({"x": np.ones(1)}), {"x": np.ones(1)}).average["x"] == pytest.approx(0.5)
