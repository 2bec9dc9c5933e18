"""dfm_ref's side of every operation: arrays of the backend in, the call that is timed out."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dfm_ref import backends, exact, losses, paths, random, samplers, sources, times
from dfm_ref.arrays import log, namespace
from dfm_ref.continuous import cnf, coupling, flows, gaussian_paths, matching, maximum_likelihood, ode
from dfm_ref.nn import optim, train
from dfm_ref.nn.field import Field
from dfm_ref.nn.transformer import Transformer
from dfm_ref.protocols import Array
from dfm_ref.schedules import Linear

Call = Callable[[], Any]
KEY = random.key(0)
BACKEND = backends.load("numpy")  # as every command does; tells malloc of this process, so of the peer, to keep memory


def asarray(x: np.ndarray) -> Any:
    return BACKEND.asarray(x)


def to_numpy(x: Any) -> np.ndarray:
    return BACKEND.to_numpy(x)


def synchronize() -> None:
    BACKEND.synchronize()


@dataclass(frozen=True)
class Precomputed:
    """A model that has its answer ready: log-probabilities float[B, N, V], whatever the state."""

    log_probs: Any

    def __call__(self, x_t: Any, t: Any) -> Any:
        return self.log_probs

    def at(self, x_t: Any, t: Any, sites: Any) -> Any:
        xp = namespace(self.log_probs)
        return xp.take(xp.reshape(self.log_probs, (-1, self.log_probs.shape[-1])), sites, axis=0)


def sample(probs: Array, steps: int, done: int) -> Call:
    """All the steps from masks to tokens; `done`, how many of them the peer does, is not for us."""
    batch, length, vocab_size = probs.shape
    model, path, grid = Precomputed(log(probs)), paths.Mixture(mask=vocab_size - 1), times.grid(steps)
    x_0 = asarray(np.full((batch, length), vocab_size - 1))
    return lambda: samplers.sample(path, model, KEY, x_0, grid)


def path(x_0: Array, x_1: Array, t: Array) -> Call:
    mixture = paths.Mixture()
    return lambda: paths.sample(mixture, KEY, x_0, x_1, t)


def cross_entropy(logits: Array, x_1: Array, x_t: Array, t: Array) -> Call:
    return lambda: losses.cross_entropy_with_grad(logits, x_1)


def generalized_kl(logits: Array, x_1: Array, x_t: Array, t: Array) -> Call:
    return lambda: losses.generalized_kl_with_grad(Linear(), logits, x_1, x_t, t)


def uniform(shape: tuple[int, ...]) -> Call:
    return lambda: random.uniform(KEY, shape, xp=BACKEND.xp)


def bits(shape: tuple[int, ...]) -> Call:
    return lambda: random.bits(KEY, shape, xp=BACKEND.xp)


def copy(x: Any) -> Call:
    return lambda: BACKEND.xp.asarray(x, copy=True)


def categorical(probs: Array) -> Call:
    return lambda: random.categorical(KEY, probs)


def forward(params: dict[str, Any], x_1: Array, x_t: Array, t: Array, **sizes: int) -> Call:
    net = Transformer(**sizes)
    return lambda: net(params, x_t, t)


def train_step(params: dict[str, Any], x_1: Array, x_t: Array, t: Array, **sizes: int) -> Call:
    config = train.Config(length=x_1.shape[1], source="uniform", **sizes)  # a loss at every token, over all tokens
    gradients, tokens = BACKEND.fused(train.gradients), math.prod(x_1.shape)

    def loss(params: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        value, grads = gradients(config, params, x_1, x_t, t)
        return value / tokens, {name: g / tokens for name, g in grads.items()}

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


def end_to_end(x_1: Any, num: int, grid_steps: int, **config: Any) -> Call:
    data = to_numpy(x_1)

    def run() -> Any:
        c, gradients = train.Config(length=data.shape[1], **config), BACKEND.fused(train.gradients)
        steps = train.train(c, data, train.init(c, asarray=asarray), asarray=asarray, gradients=gradients)
        ((state, _),) = deque(steps, maxlen=1)
        x_0 = sources.sample(train.source(c), KEY, (num, c.length), xp=BACKEND.xp)
        model = train.Trained(c, state.average)
        return samplers.sample(train.path(c), model, KEY, x_0, times.grid(grid_steps))

    return run


def chain(model: Any, mask: int | None, x_0: Array, steps: int) -> Call:
    """The exact sampler, of a model in NumPy on both sides; `steps`, how many the peer takes, is not for us."""

    def here(x_t: Any, t: Any) -> Any:
        return asarray(model(to_numpy(x_t), to_numpy(t)))

    return lambda: exact.finished(paths.Mixture(mask=mask), here, KEY, x_0, [0.0, 1.0])


def events(params: dict[str, Any], x_0: Array, steps: int, **sizes: int) -> Call:
    """A call for the k-th event of all sequences."""
    net, mask = Transformer(**sizes), sizes["vocab_size"] - 1
    return lambda: exact.sample(paths.Mixture(mask=mask), partial(net, params), KEY, x_0, [0.0, 1.0])


# Points of R^D; `masks`, which entries of the weights count, are for the peer.


def flow_log_prob(kind: str, depth: int, params: dict[str, Any], masks: Any, x: Array) -> Call:
    flow = getattr(coupling, kind)(x.shape[1], depth=depth)
    return lambda: BACKEND.fused(flows.log_prob)(flow, params, x)


def flow_sample(kind: str, depth: int, params: dict[str, Any], masks: Any, x: Array) -> Call:
    """As many draws as there are points in x."""
    flow = getattr(coupling, kind)(x.shape[1], depth=depth)
    return lambda: BACKEND.fused(flows.sample)(flow, params, KEY, len(x))


def flow_step(kind: str, depth: int, params: dict[str, Any], masks: Any, x: Array) -> Call:
    flow, gradients = getattr(coupling, kind)(x.shape[1], depth=depth), BACKEND.fused(maximum_likelihood.gradients)
    return _descent(params, lambda params: gradients(flow, params, x))


def field_step(params: dict[str, Any], hidden: int, x_0: Array, x_1: Array, t: Array) -> Call:
    """The times are those of the key; `t`, which tells them, is for the peer."""
    net, path = BACKEND.fused(Field)(x_0.shape[1], hidden), gaussian_paths.OptimalTransport()
    return _descent(params, lambda params: matching.gradients(path, net, params, KEY, x_0, x_1))


def field_sample(params: dict[str, Any], hidden: int, x_0: Array, steps: int) -> Call:
    """Draws and the number of evaluations: so many steps of the midpoint rule, or with 0 adaptive ones."""
    field = cnf.Bound(BACKEND.fused(Field)(x_0.shape[1], hidden), params)

    def call() -> tuple[Array, float]:
        if steps:
            return ode.solve(ode.midpoint, field.velocity, x_0, times.grid(steps)), 2.0 * steps
        solution = ode.dormand_prince(field.velocity, x_0, 0.0, 1.0, rtol=1e-5, atol=1e-5)
        return solution.y, float(solution.evaluations)

    return call


def field_log_prob(params: dict[str, Any], hidden: int, x_1: Array) -> Call:
    """The noise behind the points, their log-density, and the number of evaluations."""
    field = cnf.Bound(BACKEND.fused(Field)(x_1.shape[1], hidden), params)

    def call() -> tuple[Array, Array, float]:
        z, log_p, evaluations = cnf.log_prob(field.divergence, x_1, rtol=1e-5, atol=1e-5)
        return z, log_p, float(evaluations)

    return call
