"""Training: a description that says everything, a state, and one update after another.

All randomness is addressed by seed and step, so that a resumed run continues bit for bit as if never interrupted.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from .. import couplings, paths, random
from ..arrays import like, namespace, to_numpy
from ..checks import tokens
from ..events import intensity
from ..losses import cross_entropy_with_grad, generalized_kl_with_grad
from ..paths import Mixture
from ..protocols import Array, Key, Params
from ..schedules import Cosine, Linear, Monotone, Polynomial
from ..sources import Masked, Source, Uniform
from ..times import low_discrepancy
from .mlp import MLP
from .optim import AdamWState, State, descend, start
from .transformer import Transformer

__all__ = [
    "Config",
    "ConfigError",
    "State",
    "Trained",
    "from_arrays",
    "gradients",
    "init",
    "network",
    "path",
    "source",
    "to_arrays",
    "train",
    "update",
]

Gradients: TypeAlias = "Callable[..., tuple[Array, Params]]"

SCHEDULES: dict[str, Monotone] = {
    "linear": Linear(),
    "quadratic": Polynomial(2.0),
    "cubic": Polynomial(3.0),
    "cosine": Cosine(),
}


class ConfigError(ValueError):
    """A training configuration that cannot be used."""


@dataclass(frozen=True)
class Config:
    """Everything that a training run depends on, besides its data. ConfigError names what does not fit.

    >>> Config(vocab_size=33, length=2, model="mlp").batch
    64
    """

    vocab_size: int
    """The mask counted, where the source is masked."""
    length: int
    model: str = "transformer"
    dim: int = 128
    depth: int = 4
    heads: int = 4
    source: str = "mask"
    schedule: str = "linear"
    loss: str = "cross_entropy"
    classes: int = 0
    """How many labels condition the model; 0 is none."""
    label_dropout: float = 0.1
    """The share of sequences that are trained without their label."""
    steps: int = 1000
    batch: int = 64
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), field.type
            if kind is float and type(value) is int and abs(value) < 2**53:
                object.__setattr__(self, field.name, float(value))
            elif not isinstance(value, kind) or isinstance(value, bool):  # type: ignore[arg-type]
                raise ConfigError(f"{field.name}: expected {kind.__name__}, got {value!r}")  # type: ignore[union-attr]
        choices = {
            "model": ("transformer", "mlp"),
            "source": ("mask", "uniform"),
            "schedule": tuple(SCHEDULES),
            "loss": ("cross_entropy", "generalized_kl"),
        }
        for name, names in choices.items():
            if getattr(self, name) not in names:
                raise ConfigError(f"{name}: expected one of {', '.join(names)}, got {getattr(self, name)!r}")
        for name in ("vocab_size", "length", "dim", "depth", "heads", "steps", "batch", "learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: expected a number > 0, got {getattr(self, name)}")
        for name in ("warmup", "weight_decay", "classes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: expected a number >= 0, got {getattr(self, name)}")
        if not 0 <= self.label_dropout <= 1:
            raise ConfigError(f"label_dropout: expected a share in [0, 1], got {self.label_dropout}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema: expected a decay in [0, 1), got {self.ema}")
        if self.model == "transformer" and self.dim % (2 * self.heads):
            raise ConfigError(f"dim: expected a multiple of 2 x heads = {2 * self.heads}, got {self.dim}")


def network(config: Config) -> Transformer | MLP:
    """The network of a configuration."""
    if config.model == "mlp":
        return MLP(config.vocab_size, config.length, dim=config.dim, depth=config.depth, classes=config.classes)
    return Transformer(
        config.vocab_size, dim=config.dim, depth=config.depth, heads=config.heads, classes=config.classes
    )


def source(config: Config) -> Source:
    """The source p_0 of a configuration."""
    return Masked(config.vocab_size) if config.source == "mask" else Uniform(config.vocab_size)


@cache
def path(config: Config) -> Mixture:
    """The path of a configuration, between X0 and X1."""
    mask = config.vocab_size - 1 if config.source == "mask" else None
    return Mixture(SCHEDULES[config.schedule], mask=mask)


def init(config: Config, *, asarray: Callable[[Any], Array] = np.asarray) -> State:
    """The state before the first step, its arrays made by `asarray`."""
    return start({n: asarray(p) for n, p in network(config).init(random.key(config.seed)).items()})


def gradients(
    config: Config, params: Params, x_1: Array, x_t: Array, t: Array, *, labels: Array | None = None
) -> tuple[Array, Params]:
    """The sum of the losses of all tokens of int[B, N], and its gradient; times float[B]. Shards of a batch add up.

    labels: int[B], of a model with classes; `classes`, or None for all, is no label.

    >>> config = Config(vocab_size=3, length=2, model="mlp", source="uniform")
    >>> x = np.array([[0, 1]])
    >>> float(gradients(config, init(config).params, x, x, np.array([0.5]))[0] / math.log(3))
    2.0
    """
    net, sites = network(config), _sites(config, x_t)
    logits, residuals = net.forward(params, x_t, t, label=labels, sites=sites)
    loss, dlogits = _loss(config, logits, x_1, x_t, t, sites)
    return namespace(loss).sum(loss), net.backward(params, residuals, dlogits)


def train(
    config: Config,
    x_1: np.ndarray,
    state: State,
    *,
    labels: np.ndarray | None = None,
    asarray: Callable[[Any], Array] = np.asarray,
    gradients: Gradients = gradients,
) -> Iterator[tuple[State, Array]]:
    """The states after each further step up to config.steps, each with its loss: a mean over tokens, nats.

    x_1: int[M, N] on the host, of which every step draws a batch; `asarray` takes batches to the library of the state,
    and `gradients` may be a fused twin of the function of that name. labels: int[M] in [0, config.classes) where there
    are classes, else None, or ValueError.
    """
    if (labels is not None) != (config.classes > 0) or (labels is not None and labels.shape != x_1.shape[:1]):
        got = "none" if labels is None else f"labels of shape {labels.shape}"
        raise ValueError(f"labels: expected one for each of {len(x_1)} sequences with classes, else none, got {got}")
    if labels is not None:
        tokens("labels", labels, config.classes)
    key = random.fold_in(random.key(config.seed), 1)
    while state.optimiser.step < config.steps:
        batch_key, step_key = random.split(random.fold_in(key, state.optimiser.step))
        rows = random.uniform(batch_key, (config.batch,)) * len(x_1)
        chosen = rows.astype(np.int64)
        batch = asarray(np.ascontiguousarray(x_1[chosen]))
        known = None if labels is None else asarray(labels[chosen])
        state, loss = update(config, step_key, state, batch, labels=known, gradients=gradients)
        yield state, loss


def update(
    config: Config,
    key: Key,
    state: State,
    x_1: Array,
    *,
    labels: Array | None = None,
    gradients: Gradients = gradients,
) -> tuple[State, Array]:
    """One step: noise the batch int[B, N], drop labels, int[B], predict, and follow the gradient of the mean loss."""
    time_key, source_key, path_key, label_key = random.split(key, 4)
    xp = namespace(x_1)
    t = low_discrepancy(time_key, x_1.shape[0], xp=xp)
    x_0 = couplings.independent(source(config), source_key, x_1).x_0
    x_t = paths.sample(path(config), path_key, x_0, x_1, t)
    if labels is not None:
        dropped = random.uniform(label_key, x_1.shape[:1], xp=xp) < config.label_dropout
        labels = xp.where(dropped, like(labels, config.classes, labels.dtype), labels)
    loss, grads = gradients(config, state.params, x_1, x_t, t, labels=labels)
    count = math.prod(x_1.shape)
    return descend(config, state, {name: g / count for name, g in grads.items()}), loss / count


def _sites(config: Config, x_t: Array) -> Array | None:
    """The tokens that have a loss, and so need logits: the masked ones, as the posterior knows the revealed; or all."""
    if path(config).mask is None:
        return None
    xp = namespace(x_t)
    return xp.nonzero(xp.reshape(x_t, (-1,)) == path(config).mask)[0]


def _loss(config: Config, logits: Array, x_1: Array, x_t: Array, t: Array, sites: Array | None) -> tuple[Array, Array]:
    """The loss of each token, or of those at the sites, and its gradient in the logits; a posterior has no mask."""
    xp, mixture = namespace(logits), path(config)
    if sites is None:
        if config.loss == "generalized_kl":
            return generalized_kl_with_grad(mixture.schedule, logits, x_1, x_t, t)
        return cross_entropy_with_grad(logits, x_1)
    loss, grad = cross_entropy_with_grad(logits[:, : mixture.mask], xp.take(xp.reshape(x_1, (-1,)), sites))
    if config.loss == "generalized_kl":
        rate = xp.astype(intensity(mixture.schedule, xp.take(t, sites // x_t.shape[1])), logits.dtype)
        loss, grad = loss * rate, grad * rate[:, None]
    return loss, xp.concat([grad, xp.zeros_like(logits[:, mixture.mask :])], axis=-1)


@dataclass(frozen=True)
class Trained:
    """A network with its parameters, as a Model of the posterior of X1 on a path; of a class with `label`, else of all.

    `functools.partial(trained, label=3)` is a Model too, and `guidance.Labelled(trained, 3)` one with its `at`.
    """

    config: Config
    params: Params

    def __call__(self, x_t: Array, t: Array, *, label: Array | int | None = None) -> Array:
        return paths.reveal(path(self.config), network(self.config)(self.params, x_t, t, label=label), x_t)

    def at(self, x_t: Array, t: Array, sites: Array, *, label: Array | int | None = None) -> Array:
        """The logits at the flat sites of a batch; the network's own, which a mask path's sampler does not mind."""
        return network(self.config).at(self.params, x_t, t, sites, label=label)


def to_arrays(state: State) -> Params:
    """A state as one dict of named arrays, for a checkpoint."""
    _, mean, square = state.optimiser
    groups = {"params": state.params, "average": state.average, "mean": mean, "square": square}
    return {f"{group}/{name}": to_numpy(a) for group, arrays in groups.items() for name, a in arrays.items()}


def from_arrays(step: int, arrays: Params, *, asarray: Callable[[Any], Array] = np.asarray) -> State:
    """The state that `to_arrays` took apart, after `step` updates."""

    def group(name: str) -> Params:
        return {n.removeprefix(f"{name}/"): asarray(a) for n, a in arrays.items() if n.startswith(f"{name}/")}

    return State(group("params"), group("average"), AdamWState(step, group("mean"), group("square")))
