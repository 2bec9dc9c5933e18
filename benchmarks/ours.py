"""dfm_ref's side of every operation: NumPy inputs in, the call that is timed out."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dfm_ref import backends, exact, losses, paths, random, samplers, sources, times
from dfm_ref.nn import optim, train
from dfm_ref.nn.transformer import Transformer
from dfm_ref.schedules import Linear

Call = Callable[[], Any]
KEY = random.key(0)
BACKEND = backends.load(
    "numpy"
)  # as every command does; tells malloc of this process, and so of the peer in it, to keep memory


@dataclass(frozen=True)
class Precomputed:
    """A model that has its answer ready: log-probabilities float[B, N, V], whatever the state."""

    log_probs: np.ndarray

    def __call__(self, x_t: np.ndarray, t: np.ndarray) -> np.ndarray:
        return self.log_probs

    def at(self, x_t: np.ndarray, t: np.ndarray, sites: np.ndarray) -> Any:
        return self.log_probs.reshape(-1, self.log_probs.shape[-1])[sites]


def sample(probs: np.ndarray, steps: int, done: int) -> Call:
    """All the steps from masks to tokens; `done`, how many of them the peer does, is not for us."""
    batch, length, vocab_size = probs.shape
    with np.errstate(divide="ignore"):
        model = Precomputed(np.log(probs))
    path, grid = paths.Mixture(mask=vocab_size - 1), times.grid(steps)
    x_0 = np.full((batch, length), vocab_size - 1)
    return lambda: samplers.sample(path, model, KEY, x_0, grid)


def path(x_0: np.ndarray, x_1: np.ndarray, t: np.ndarray) -> Call:
    mixture = paths.Mixture()
    return lambda: paths.sample(mixture, KEY, x_0, x_1, t)


def cross_entropy(logits: np.ndarray, x_1: np.ndarray, x_t: np.ndarray, t: np.ndarray) -> Call:
    return lambda: losses.cross_entropy_with_grad(logits, x_1)


def generalized_kl(logits: np.ndarray, x_1: np.ndarray, x_t: np.ndarray, t: np.ndarray) -> Call:
    return lambda: losses.generalized_kl_with_grad(Linear(), logits, x_1, x_t, t)


def uniform(shape: tuple[int, ...]) -> Call:
    return lambda: random.uniform(KEY, shape)


def bits(shape: tuple[int, ...]) -> Call:
    return lambda: random.bits(KEY, shape)


def categorical(probs: np.ndarray) -> Call:
    return lambda: random.categorical(KEY, probs)


def forward(params: dict[str, Any], x_1: np.ndarray, x_t: np.ndarray, t: np.ndarray, **sizes: int) -> Call:
    net = Transformer(**sizes)
    return lambda: net(params, x_t, t)


def train_step(params: dict[str, Any], x_1: np.ndarray, x_t: np.ndarray, t: np.ndarray, **sizes: int) -> Call:
    average, state = params, optim.adamw_init(params)
    config = train.Config(length=x_1.shape[1], source="uniform", **sizes)  # a loss at every token, over all tokens
    gradients = BACKEND.fused(train.gradients)

    def step() -> tuple[Any, ...]:
        nonlocal params, average, state
        loss, grads = gradients(config, params, x_1, x_t, t)
        grads, _ = optim.clip({name: g / x_1.size for name, g in grads.items()}, 1.0)
        params, state = optim.adamw_update(optim.AdamW(), params, grads, state)
        average = optim.ema(average, params, 0.999)
        return loss / x_1.size, grads, params, average

    return step


def end_to_end(x_1: np.ndarray, num: int, grid_steps: int, **config: Any) -> Call:
    def run() -> Any:
        c = train.Config(length=x_1.shape[1], **config)
        ((state, _),) = deque(train.train(c, x_1, train.init(c), gradients=BACKEND.fused(train.gradients)), maxlen=1)
        x_0 = sources.sample(train.source(c), KEY, (num, c.length))
        model = train.Trained(c, state.average)
        return samplers.sample(train.path(c), model, KEY, x_0, times.grid(grid_steps))

    return run


def chain(model: Any, mask: int | None, x_0: np.ndarray, steps: int) -> Call:
    """The exact sampler; `steps`, how many the peer takes, is not for us."""
    return lambda: exact.finished(paths.Mixture(mask=mask), model, KEY, x_0, [0.0, 1.0])


def events(params: dict[str, Any], x_0: np.ndarray, steps: int, **sizes: int) -> Call:
    """A call for the k-th event of all sequences."""
    net, mask = Transformer(**sizes), sizes["vocab_size"] - 1
    return lambda: exact.sample(paths.Mixture(mask=mask), partial(net, params), KEY, x_0, [0.0, 1.0])
