"""dfm_ref's side of every operation: NumPy inputs in, the call that is timed out."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dfm_ref import backends, exact, losses, paths, random, samplers, sources, times
from dfm_ref.continuous import cnf, coupling, flows, gaussian_paths, matching, maximum_likelihood, ode
from dfm_ref.nn import optim, train
from dfm_ref.nn.field import Field
from dfm_ref.nn.transformer import Transformer
from dfm_ref.schedules import Linear

Call = Callable[[], Any]
KEY = random.key(0)
BACKEND = backends.load("numpy")  # as every command does; tells malloc of this process, so of the peer, to keep memory


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
    config = train.Config(length=x_1.shape[1], source="uniform", **sizes)  # a loss at every token, over all tokens
    gradients = BACKEND.fused(train.gradients)

    def loss(params: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        value, grads = gradients(config, params, x_1, x_t, t)
        return value / x_1.size, {name: g / x_1.size for name, g in grads.items()}

    return _descent(params, loss)


def _descent(params: dict[str, Any], loss: Callable[[dict[str, Any]], tuple[Any, dict[str, Any]]]) -> Call:
    """A step of training: loss and gradient, clipping, AdamW, and the moving average of the parameters."""
    average, state = params, optim.adamw_init(params)

    def step() -> tuple[Any, ...]:
        nonlocal params, average, state
        value, grads = loss(params)
        grads, _ = optim.clip(grads, 1.0)
        params, state = optim.adamw_update(optim.AdamW(), params, grads, state)
        average = optim.ema(average, params, 0.999)
        return value, grads, params, average

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


# Points of R^D; `masks`, which entries of the weights count, are for the peer.


def flow_log_prob(kind: str, depth: int, params: dict[str, Any], masks: Any, x: np.ndarray) -> Call:
    flow = getattr(coupling, kind)(x.shape[1], depth=depth)
    return lambda: BACKEND.fused(flows.log_prob)(flow, params, x)


def flow_sample(kind: str, depth: int, params: dict[str, Any], masks: Any, x: np.ndarray) -> Call:
    """As many draws as there are points in x."""
    flow = getattr(coupling, kind)(x.shape[1], depth=depth)
    return lambda: BACKEND.fused(flows.sample)(flow, params, KEY, len(x))


def flow_step(kind: str, depth: int, params: dict[str, Any], masks: Any, x: np.ndarray) -> Call:
    flow, gradients = getattr(coupling, kind)(x.shape[1], depth=depth), BACKEND.fused(maximum_likelihood.gradients)
    return _descent(params, lambda params: gradients(flow, params, x))


def field_step(params: dict[str, Any], hidden: int, x_0: np.ndarray, x_1: np.ndarray, t: np.ndarray) -> Call:
    """The times are those of the key; `t`, which tells them, is for the peer."""
    net, path = BACKEND.fused(Field)(x_0.shape[1], hidden), gaussian_paths.OptimalTransport()
    return _descent(params, lambda params: matching.gradients(path, net, params, KEY, x_0, x_1))


def field_sample(params: dict[str, Any], hidden: int, x_0: np.ndarray, steps: int) -> Call:
    """Draws and the number of evaluations: so many steps of the midpoint rule, or with 0 adaptive ones."""
    field = cnf.Bound(BACKEND.fused(Field)(x_0.shape[1], hidden), params)

    def call() -> tuple[np.ndarray, float]:
        if steps:
            return ode.solve(ode.midpoint, field.velocity, x_0, times.grid(steps)), 2.0 * steps
        solution = ode.dormand_prince(field.velocity, x_0, 0.0, 1.0, rtol=1e-5, atol=1e-5)
        return solution.y, float(solution.evaluations)

    return call


def field_log_prob(params: dict[str, Any], hidden: int, x_1: np.ndarray) -> Call:
    """The noise behind the points, their log-density, and the number of evaluations."""
    field = cnf.Bound(BACKEND.fused(Field)(x_1.shape[1], hidden), params)

    def call() -> tuple[np.ndarray, np.ndarray, float]:
        z, log_p, evaluations = cnf.log_prob(field.divergence, x_1, rtol=1e-5, atol=1e-5)
        return z, log_p, float(evaluations)

    return call
