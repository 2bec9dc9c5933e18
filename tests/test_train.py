"""Training: the gradient of the whole loss, learning, resuming bit for bit, and the law of what was learned."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from strategies import backend

from dfm_ref import backends, checkpoints, losses, random
from dfm_ref.arrays import to_numpy
from dfm_ref.nn import train as training
from dfm_ref.nn.train import Config, ConfigError, Trained
from dfm_ref.paths import Mixture
from dfm_ref.schedules import Cosine, Linear, Polynomial
from dfm_ref.sources import Masked, Uniform

SMALL = Config(5, 3, model="mlp", dim=8, depth=1, heads=2, batch=8, steps=6, warmup=2)
X_1 = np.asarray([[0, 0, 0], [1, 2, 3], [3, 2, 1], [2, 2, 2]])
KINDS = [
    (model, source, loss)
    for model in ("mlp", "transformer")
    for source in ("mask", "uniform")
    for loss in ("cross_entropy", "generalized_kl")
]


def config(model="mlp", source="mask", loss="cross_entropy", **settings):
    return replace(SMALL, model=model, source=source, loss=loss, **settings)


def trained(config, x_1=X_1, state=None, steps=None, asarray=np.asarray, labels=None):
    """The last state and all losses of a run, stopped after some steps."""
    state, losses = state or training.init(config, asarray=asarray), []
    for state, loss in training.train(config, x_1, state, labels=labels, asarray=asarray):  # noqa: B020
        losses.append(float(loss))
        if state.optimiser.step == steps:
            break
    return state, np.asarray(losses)


def shaken(config, seed=0):
    """A state in float64 with no parameter at 0."""
    rng = np.random.default_rng(seed)
    state = training.init(config)
    params = {n: p + 0.3 * rng.standard_normal(p.shape) for n, p in state.params.items()}
    zeros = {n: np.zeros_like(p) for n, p in params.items()}
    return state._replace(params=params, average=params, optimiser=state.optimiser._replace(mean=zeros, square=zeros))


def assert_same(state, other):
    assert state.optimiser.step == other.optimiser.step
    for ours, theirs in (
        (state.params, other.params),
        (state.average, other.average),
        (state.optimiser.mean, other.optimiser.mean),
        (state.optimiser.square, other.optimiser.square),
    ):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(array, theirs[name]) for name, array in ours.items())


@pytest.mark.parametrize("schedule", ["linear", "cubic"])
@pytest.mark.parametrize(("model", "source", "loss"), KINDS)
def test_an_update_follows_the_gradient_of_its_loss(model, source, loss, schedule):
    """The first average of the gradient is (1 - beta_1) times it; the loss that is returned is differentiated."""
    settings = config(model, source, loss, schedule=schedule, clip=1e9)
    state, key = shaken(settings), random.key(5)

    def loss_at(params):
        return float(training.update(settings, key, state._replace(params=params), X_1)[1])

    gradient = {n: m / 0.1 for n, m in training.update(settings, key, state, X_1)[0].optimiser.mean.items()}
    rng = np.random.default_rng(1)
    for _ in range(3):
        way = {n: rng.standard_normal(p.shape) for n, p in state.params.items()}
        ahead, behind = ({n: p + h * way[n] for n, p in state.params.items()} for h in (1e-6, -1e-6))
        slope = (loss_at(ahead) - loss_at(behind)) / 2e-6
        assert slope == pytest.approx(sum(np.sum(gradient[n] * d) for n, d in way.items()), rel=1e-5)


@pytest.mark.parametrize("hidden", [0, 1, 7, 12])
@pytest.mark.parametrize("model", ["mlp", "transformer"])
def test_on_a_mask_path_the_losses_are_those_of_the_hidden_tokens(model, hidden):
    """Logits are asked for at hidden tokens alone; here they are there for all, and losses.py leaves the others out."""
    rng, settings = np.random.default_rng(2), config(model, loss="generalized_kl", schedule="cosine")
    x_1, t = rng.integers(0, 4, (4, 3)), rng.random(4)
    x_t = x_1.copy()
    x_t.flat[rng.permutation(12)[:hidden]] = 4
    params, path = shaken(settings).params, training.path(settings)
    logits = training.network(settings)(params, x_t, t)
    expected = {
        "generalized_kl": losses.masked_kl(path, logits, x_1, x_t, t),
        "cross_entropy": np.where(x_t == 4, losses.cross_entropy(logits[..., :4], x_1), 0.0),
    }
    for loss, values in expected.items():
        total, grads = training.gradients(replace(settings, loss=loss), params, x_1, x_t, t)
        assert total == pytest.approx(np.sum(values), rel=1e-10)
        assert any(np.any(g) for g in grads.values()) == (hidden > 0)


def test_the_gradient_is_clipped_to_its_norm():
    settings = config(clip=1e-3)
    state, _ = training.update(settings, random.key(0), shaken(settings), X_1)
    norm = math.sqrt(sum(np.sum((m / 0.1) ** 2) for m in state.optimiser.mean.values()))
    assert norm == pytest.approx(1e-3)


def test_the_loss_is_a_mean_over_tokens_in_nats():
    """At first all logits are 0: log V at every token, or log (V - 1) at the masked ones, half of them in the mean."""
    _, losses = trained(config(source="uniform"), steps=1)
    assert losses[0] == pytest.approx(math.log(5))
    _, losses = trained(config(batch=4096), steps=1)
    assert losses[0] == pytest.approx(math.log(4) / 2, rel=0.02)


@pytest.mark.parametrize(("model", "source", "loss"), KINDS)
def test_the_loss_decreases(model, source, loss):
    settings = config(model, source, loss, dim=16, batch=32, steps=100, learning_rate=1e-2, warmup=10)
    losses = trained(settings)[1]
    assert np.isfinite(losses).all() and np.mean(losses[-20:]) < 0.85 * np.mean(losses[:10])


@pytest.mark.parametrize("model", ["mlp", "transformer"])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path, model, stop):
    settings = config(model, ema=0.9)
    whole, losses = trained(settings)
    half, before = trained(settings, steps=stop)
    checkpoints.save(tmp_path / "c", training.to_arrays(half), {"step": half.optimiser.step})
    arrays, description = checkpoints.load(tmp_path / "c")
    rest, after = trained(settings, state=training.from_arrays(description["step"], arrays))
    assert_same(rest, whole)
    assert np.array_equal([*before, *after], losses)


def test_a_run_is_a_function_of_its_configuration():
    whole = trained(SMALL)[0]
    assert_same(trained(SMALL)[0], whole)
    np.random.seed(7)  # the global state of NumPy has no say
    assert_same(trained(SMALL)[0], whole)
    other = trained(replace(SMALL, seed=1))[0]
    assert not np.array_equal(other.params["output.bias"], whole.params["output.bias"])


def test_every_step_has_noise_of_its_own():
    """With a rate of almost 0 losses differ by their batches, times and masks alone."""
    losses = trained(replace(SMALL, learning_rate=1e-30, steps=20))[1]
    assert len(set(losses)) > 5


def test_a_finished_run_takes_no_step_and_arguments_are_left_alone():
    x_1, start = X_1.copy(), training.init(SMALL)
    before = {n: p.copy() for n, p in start.params.items()}
    state, _ = trained(SMALL, x_1, state=start)
    assert list(training.train(SMALL, x_1, state)) == []
    assert np.array_equal(x_1, X_1) and all(np.array_equal(p, before[n]) for n, p in start.params.items())


def test_the_average_follows_the_parameters():
    settings = replace(SMALL, ema=0.0)
    state = trained(settings)[0]
    assert all(np.array_equal(p, state.params[n]) for n, p in state.average.items())
    slow = trained(replace(SMALL, ema=0.999, learning_rate=0.1))[0]
    assert not np.array_equal(slow.average["output.bias"], slow.params["output.bias"])


@pytest.mark.parametrize("name", ["strict", "torch", "cupy"])
@pytest.mark.parametrize(("model", "source", "loss"), KINDS[::3])
def test_every_library_trains_as_numpy_does(name, model, source, loss):
    settings = config(model, source, loss)
    state, losses = trained(settings, asarray=backend(name).asarray)
    expected, expected_losses = trained(settings)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for name, p in state.params.items():
        np.testing.assert_allclose(to_numpy(p), expected.params[name], atol=1e-4, err_msg=name)


def test_jax_takes_a_step_as_numpy_does():
    pytest.importorskip("jax")
    settings = config("mlp", "mask", "cross_entropy")
    state, losses = trained(settings, steps=1, asarray=backends.load("jax").asarray)
    expected, expected_losses = trained(settings, steps=1)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    np.testing.assert_allclose(state.params["output.bias"], expected.params["output.bias"], atol=1e-4)


# Labels


OF_CLASSES = replace(SMALL, classes=2, label_dropout=0.5)
LABELS = np.asarray([0, 1, 1, 0])


def seen_labels(settings, labels=LABELS):
    """The labels that each step's gradient gets, and the rows of data that it gets them with."""
    seen = []

    def gradients(*arguments, labels):
        seen.append((arguments[2].copy(), labels))
        return training.gradients(*arguments, labels=labels)

    list(training.train(settings, X_1, training.init(settings), labels=labels, gradients=gradients))
    return seen


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
def test_labels_go_with_their_sequences_and_are_dropped_at_their_rate(dropout):
    settings = replace(OF_CLASSES, label_dropout=dropout, batch=500, steps=4)
    seen = seen_labels(settings)
    for x_1, labels in seen:
        own = LABELS[np.argmax(np.all(x_1[:, None] == X_1, axis=-1), axis=-1)]
        assert np.all((labels == own) | (labels == 2))
    dropped = np.concatenate([labels == 2 for _, labels in seen])
    assert np.mean(dropped) == pytest.approx(dropout, abs=5 * math.sqrt(dropout * (1 - dropout) / len(dropped)))
    assert dropout in (0, 1) or not np.array_equal(dropped[:500], dropped[500:1000]), "drawn afresh each step"


def test_the_draws_of_seed_0_are_pinned():
    """Rows, masks and dropped labels: a run that was begun with one version is resumed with the next."""
    seen = []

    def gradients(*arguments, labels):
        seen.append((*(a.tolist() for a in arguments[2:4]), labels.tolist()))
        return training.gradients(*arguments, labels=labels)

    settings = replace(OF_CLASSES, batch=6, steps=1)
    list(training.train(settings, X_1, training.init(settings), labels=LABELS, gradients=gradients))
    x_1 = [[3, 2, 1], [1, 2, 3], [0, 0, 0], [2, 2, 2], [0, 0, 0], [3, 2, 1]]
    x_t = [[4, 4, 4], [4, 4, 4], [0, 4, 4], [4, 2, 2], [0, 0, 4], [3, 2, 1]]
    assert seen == [(x_1, x_t, [1, 1, 2, 2, 0, 1])]


def test_the_labels_that_are_dropped_change_no_other_draw():
    """The same batches, times and masks as without classes: the first loss, at logits of 0, is the same number."""
    free = trained(SMALL, steps=1)[1]
    assert np.array_equal(trained(OF_CLASSES, steps=1, labels=LABELS)[1], free)


@pytest.mark.parametrize("model", ["mlp", "transformer"])
@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_run_with_classes_equals_an_unbroken_one_bit_for_bit(model, stop):
    settings = replace(OF_CLASSES, model=model)
    whole, losses = trained(settings, labels=LABELS)
    half, before = trained(settings, steps=stop, labels=LABELS)
    rest, after = trained(settings, state=training.from_arrays(stop, training.to_arrays(half)), labels=LABELS)
    assert_same(rest, whole)
    assert np.array_equal([*before, *after], losses)


@pytest.mark.parametrize("model", ["mlp", "transformer"])
def test_a_model_learns_what_the_label_says_and_without_it_the_mixture(model):
    """Class 0 is all 0, class 1 all 1: with a label the hidden tokens are known, without it a coin.

    The bound is halfway to a wrong answer; over seeds and BLAS kernels the coin is off by 0.03, root mean square.
    """
    settings = replace(
        OF_CLASSES, model=model, dim=16, batch=256, steps=300, learning_rate=5e-3, label_dropout=0.3, ema=0.98
    )
    x_1 = np.asarray([[0, 0, 0], [1, 1, 1]])
    state, _ = trained(settings, x_1, labels=np.asarray([0, 1]))
    learned = Trained(settings, state.average)
    x_t, t = np.full((1, 3), 4), np.asarray([0.0])
    for label, expected in ((0, 1.0), (1, 0.0), (2, 0.5), (None, 0.5)):
        p = np.exp(partial(learned, label=label)(x_t, t))
        assert np.all(np.abs(p[..., 0] / p.sum(-1) - expected) < 0.25), label
    sites = np.asarray([0, 2])
    rows = learned(x_t, t, label=1).reshape(-1, 5)[sites]
    np.testing.assert_allclose(learned.at(x_t, t, sites, label=1)[:, :4], rows[:, :4], rtol=1e-5)


@pytest.mark.parametrize("name", ["strict", "torch", "cupy"])
def test_every_library_trains_with_labels_as_numpy_does(name):
    state, losses = trained(OF_CLASSES, asarray=backend(name).asarray, labels=LABELS)
    expected, expected_losses = trained(OF_CLASSES, labels=LABELS)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for name, p in state.params.items():
        np.testing.assert_allclose(to_numpy(p), expected.params[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("settings", "labels"),
    [(OF_CLASSES, None), (SMALL, LABELS), (OF_CLASSES, LABELS[:3]), (OF_CLASSES, LABELS + 1), (OF_CLASSES, LABELS - 1)],
    ids=["none", "no classes", "too few", "beyond", "negative"],
)
def test_labels_that_do_not_fit_raise(settings, labels):
    with pytest.raises(ValueError, match="labels: expected"):
        trained(settings, labels=labels)


# Configurations


@pytest.mark.parametrize(
    ("name", "value"),
    [("vocab_size", 0), ("vocab_size", 2.5), ("length", 0), ("length", "3"), ("model", "cnn"), ("model", 3),
     ("dim", -8), ("dim", 8.0), ("depth", 0), ("heads", 0), ("source", "noise"), ("source", ["mask"]),
     ("schedule", "exp"), ("loss", None), ("steps", 0), ("steps", True), ("batch", 0), ("learning_rate", 0.0),
     ("learning_rate", math.nan), ("learning_rate", math.inf), ("learning_rate", "1"), ("learning_rate", True),
     ("learning_rate", 10**400),
     ("weight_decay", math.nan), ("weight_decay", -0.1), ("warmup", -1), ("clip", 0.0), ("clip", math.nan),
     ("classes", -1), ("classes", 2.0), ("label_dropout", -0.1), ("label_dropout", 1.1), ("label_dropout", math.nan),
     ("ema", 1.0), ("ema", -0.1), ("ema", math.nan), ("seed", 0.5)],
    ids=lambda value: str(value)[:9],
)  # fmt: skip
def test_a_setting_that_cannot_be_used_is_named(name, value):
    with pytest.raises(ConfigError, match=f"^{name}: expected") as caught:
        Config(**({"vocab_size": 5, "length": 3, name: value}))
    assert len(str(caught.value).splitlines()) == 1


def test_the_width_of_a_transformer_suits_its_heads():
    with pytest.raises(ConfigError, match="dim"):
        Config(5, 3, dim=10, heads=4)
    assert Config(5, 3, model="mlp", dim=10, heads=4).dim == 10


def test_whole_numbers_are_numbers():
    assert Config(5, 3, learning_rate=1) == Config(5, 3, learning_rate=1.0)
    assert isinstance(Config(5, 3, learning_rate=1).learning_rate, float)


def test_a_configuration_names_its_path_and_source():
    assert training.path(config()) == Mixture(Linear(), mask=4)
    assert training.path(config(source="uniform", schedule="cosine")) == Mixture(Cosine())
    assert training.path(config(schedule="quadratic")).schedule == Polynomial(2.0)
    assert training.path(config(schedule="cubic")).schedule == Polynomial(3.0)
    assert (training.source(config()), training.source(config(source="uniform"))) == (Masked(5), Uniform(5))


# The model that was learned


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_a_trained_model_knows_the_revealed_tokens(kind):
    settings = config(kind)
    model = Trained(settings, shaken(settings).params)
    x_t, t = np.asarray([[4, 1, 4], [0, 3, 4]]), np.asarray([0.2, 0.9])
    logits = model(x_t, t)
    probs = np.exp(logits) / np.sum(np.exp(logits), axis=-1, keepdims=True)
    assert np.all(probs[..., 4] == 0), "data never holds the mask"
    assert np.array_equal(np.argmax(probs, -1)[x_t != 4], x_t[x_t != 4]) and np.all(np.max(probs, -1)[x_t != 4] == 1)
    sites = np.asarray([0, 2, 5])
    hidden = logits.reshape(-1, 5)[sites, :4]
    np.testing.assert_allclose(model.at(x_t, t, sites)[:, :4], hidden, rtol=1e-12)


V = 32
BOARD = np.add.outer(np.arange(V) // 8, np.arange(V) // 8) % 2 == 0
BOARD_LAW = BOARD / BOARD.sum()


def exact_law(posterior, *, nodes=12):
    """The law of the exact sampler of two tokens on a linear mask path, probabilities [V, V].

    Each token is revealed at a time of its own, uniform in [0, 1], from the posterior at that time: the average over
    both times and both orders, by Gauss-Legendre quadrature. posterior(x_t, t) -> float[B, 2, V].
    """
    nodes_at, weights = np.polynomial.legendre.leggauss(nodes)
    u, w = (nodes_at + 1) / 2, weights / 2
    early = np.outer(u, u).reshape(-1)  # given that the later one is at u_k, the earlier is at u_k u_l
    first = posterior(np.full((early.size, 2), V), early).reshape(nodes, nodes, 2, V)
    first = np.einsum("l,klnv->knv", w, first)
    law, tokens, mask = np.zeros((V, V)), np.arange(V), np.full(V, V)
    for k in range(nodes):
        t = np.full(V, u[k])
        second_last = posterior(np.stack([tokens, mask], axis=1), t)[:, 1]
        first_last = posterior(np.stack([mask, tokens], axis=1), t)[:, 0]
        law += w[k] * u[k] * (first[k, 0][:, None] * second_last + (first[k, 1][:, None] * first_last).T)
    return law


def of_logits(model):
    def posterior(x_t, t):
        p = np.exp(model(x_t, t).astype(np.float64))
        return (p / np.sum(p, axis=-1, keepdims=True))[..., :V]

    return posterior


def bayes(x_t, t):
    """The posterior of the checkerboard: uniform over the squares that agree with the token that is known."""
    rows = np.concatenate([BOARD / BOARD.sum(1, keepdims=True), np.full((1, V), 1 / V)])
    return np.stack([rows[x_t[:, 1]], rows[x_t[:, 0]]], axis=1)


def test_the_exact_sampler_under_the_true_posterior_has_the_law_of_the_data():
    np.testing.assert_allclose(exact_law(bayes), BOARD_LAW, atol=1e-15)


def test_an_mlp_learns_the_checkerboard():
    settings = Config(
        V + 1, 2, model="mlp", dim=128, depth=1, steps=500, batch=512, learning_rate=3e-3, warmup=50, ema=0.99
    )
    state, _ = trained(settings, np.argwhere(BOARD))
    posterior = of_logits(Trained(settings, state.average))
    law = exact_law(posterior)
    assert law.sum() == pytest.approx(1, abs=1e-6)
    assert np.max(np.abs(law - exact_law(posterior, nodes=20))) < 1e-6, "the quadrature is fine enough"
    assert np.abs(law - BOARD_LAW).sum() / 2 < 0.05
