"""The peers' side of every operation, by their public functions alone: torch, flow_matching 1.0.10, zuko, jax."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Call = Callable[[], Any]
DEVICE = "cpu"  # of PyTorch


def asarray(x: np.ndarray) -> np.ndarray:
    """Every operation turns its inputs into what its library has."""
    return x


def to_numpy(x: Any) -> np.ndarray:
    return np.asarray(x.cpu() if hasattr(x, "cpu") else x)


def synchronize() -> None:
    if DEVICE != "cpu":
        import torch

        torch.cuda.synchronize()


def _tensor(x: Any) -> Any:
    import torch

    return torch.as_tensor(x, device=DEVICE)


def sample(probs: np.ndarray, steps: int, done: int) -> Call:
    """The first `done` of the solver's steps of length 1 / steps, the last of which redraws every token."""
    import torch
    from flow_matching.path import MixtureDiscreteProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler
    from flow_matching.solver import MixtureDiscreteEulerSolver
    from flow_matching.utils import ModelWrapper

    batch, length, vocab_size = probs.shape
    table = _tensor(probs)

    class Precomputed(ModelWrapper):
        def forward(self, x: torch.Tensor, t: torch.Tensor, **extras: Any) -> torch.Tensor:
            return table

    path = MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0))
    solver = MixtureDiscreteEulerSolver(Precomputed(torch.nn.Identity()), path, vocab_size)
    x_0, grid = _tensor(np.full((batch, length), vocab_size - 1)), _tensor([0.0, done / steps])
    torch.manual_seed(0)
    return lambda: solver.sample(x_0, step_size=1 / steps, time_grid=grid)


def chain(model: Any, mask: int | None, x_0: np.ndarray, steps: int) -> Call:
    """The solver with as many equal steps as bring its law as near; the same model, in NumPy, on both sides."""
    import torch
    from flow_matching.path import MixtureDiscreteProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler
    from flow_matching.solver import MixtureDiscreteEulerSolver
    from flow_matching.utils import ModelWrapper

    vocab_size = model(x_0[:1], np.zeros(1)).shape[-1]

    class Probabilities(ModelWrapper):
        def forward(self, x: torch.Tensor, t: torch.Tensor, **extras: Any) -> torch.Tensor:
            time = np.broadcast_to(to_numpy(t).astype(np.float64), len(x))
            logits = _tensor(np.asarray(model(to_numpy(x), time), dtype=np.float64))
            if mask is not None:
                logits[..., mask] = -math.inf
            return torch.softmax(logits, -1)

    path = MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0))
    solver = MixtureDiscreteEulerSolver(Probabilities(torch.nn.Identity()), path, vocab_size)
    start, grid = _tensor(x_0), _tensor([0.0, 1.0])
    torch.manual_seed(0)
    return lambda: solver.sample(start, step_size=1 / steps, time_grid=grid)


def events(params: dict[str, Any], x_0: np.ndarray, steps: int, **sizes: int) -> Call:
    """Our own grid of so many steps, on our arrays."""
    from functools import partial

    import ours

    from dfm_ref import paths, random, samplers, times
    from dfm_ref.nn.transformer import Transformer

    net, mask = Transformer(**sizes), sizes["vocab_size"] - 1
    path, grid, start = paths.Mixture(mask=mask), times.grid(steps), ours.asarray(x_0)
    weights = {name: ours.asarray(p) for name, p in params.items()}
    return lambda: samplers.sample(path, partial(net, weights), random.key(0), start, grid)


def path(x_0: np.ndarray, x_1: np.ndarray, t: np.ndarray) -> Call:
    import torch
    from flow_matching.path import MixtureDiscreteProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler

    path = MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0))
    start, end, time = _tensor(x_0), _tensor(x_1), _tensor(t)
    torch.manual_seed(0)
    return lambda: path.sample(x_0=start, x_1=end, t=time).x_t


def cross_entropy(logits: np.ndarray, x_1: np.ndarray, x_t: np.ndarray, t: np.ndarray) -> Call:
    import torch

    rows, target = _tensor(logits).requires_grad_(), _tensor(x_1)

    def call() -> tuple[Any, Any]:
        loss = torch.nn.functional.cross_entropy(rows.flatten(0, 1), target.flatten(), reduction="none")
        (grad,) = torch.autograd.grad(loss.sum(), rows)
        return loss.detach().view(target.shape), grad

    return call


def generalized_kl(logits: np.ndarray, x_1: np.ndarray, x_t: np.ndarray, t: np.ndarray) -> Call:
    import torch
    from flow_matching.loss import MixturePathGeneralizedKL
    from flow_matching.path import MixtureDiscreteProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler

    path = MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0))
    criterion = MixturePathGeneralizedKL(path, reduction="none")
    rows = _tensor(logits).requires_grad_()
    end, state, time = _tensor(x_1), _tensor(x_t), _tensor(t)

    def call() -> tuple[Any, Any]:
        loss = criterion(rows, end, state, time)
        (grad,) = torch.autograd.grad(loss.sum(), rows)
        return loss.detach(), grad

    return call


def uniform(shape: tuple[int, ...]) -> Call:
    import torch

    torch.manual_seed(0)
    return lambda: torch.rand(shape, dtype=torch.float64, device=DEVICE)


def bits(shape: tuple[int, ...]) -> Call:
    import jax

    jax.config.update("jax_threefry_partitionable", True)
    return lambda: jax.random.bits(jax.random.key(0), shape, "uint32").block_until_ready()


def copy(x: np.ndarray) -> Call:
    return _tensor(x).clone


def categorical(probs: np.ndarray) -> Call:
    import torch
    from flow_matching.utils import categorical

    table = _tensor(probs)
    torch.manual_seed(0)
    return lambda: categorical(table)


def forward(params: dict[str, Any], x_1: np.ndarray, x_t: np.ndarray, t: np.ndarray, **sizes: int) -> Call:
    import torch
    import torch_ddit

    net, state, time = torch_ddit.load(torch_ddit.DDiT(**sizes), params).to(DEVICE), _tensor(x_t), _tensor(t)

    def call() -> Any:
        with torch.inference_mode():
            return net(state, time)

    return call


def train_step(params: dict[str, Any], x_1: np.ndarray, x_t: np.ndarray, t: np.ndarray, **sizes: int) -> Call:
    import torch
    import torch_ddit

    net = torch_ddit.load(torch_ddit.DDiT(**sizes), params).to(DEVICE)
    target, state, time = _tensor(x_1), _tensor(x_t), _tensor(t)
    loss = torch.nn.functional.cross_entropy
    names = [name for name, _ in net.named_parameters()]
    return _descent(net, names, lambda: loss(net(state, time).flatten(0, 1), target.flatten()))


def _descent(net: Any, names: Iterable[str], loss: Callable[[], Any]) -> Call:
    """A step of training; the parameters of the net are named in their order."""
    import torch_ddit

    weights, follow = list(net.parameters()), torch_ddit.trainer(net)

    def step() -> tuple[Any, ...]:
        value = loss()
        average = follow(value)
        columns = ([p.grad for p in weights], [p.detach() for p in weights], average)
        return value.detach(), *(dict(zip(names, column, strict=True)) for column in columns)

    return step


def end_to_end(
    x_1: np.ndarray, num: int, grid_steps: int, *, vocab_size: int, steps: int, batch: int, **sizes: int
) -> Call:
    """The recipe of dfm_ref.nn.train: stratified times, cross-entropy at masks, warm-up and cosine, EMA."""
    import torch
    import torch_ddit
    from flow_matching.path import MixtureDiscreteProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler
    from flow_matching.solver import MixtureDiscreteEulerSolver
    from flow_matching.utils import ModelWrapper

    mask, path = vocab_size - 1, MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0))
    F = torch.nn.functional

    class Posterior(ModelWrapper):
        """Probabilities with what a mask path knows: revealed tokens stay, and no token is the mask."""

        def forward(self, x: torch.Tensor, t: torch.Tensor, **extras: Any) -> torch.Tensor:
            logits = self.model(x, t)
            logits[..., mask] = -torch.inf
            return torch.where((x == mask)[..., None], logits.softmax(-1), F.one_hot(x, vocab_size))

    def run() -> torch.Tensor:
        torch.manual_seed(0)
        net, data = torch_ddit.DDiT(vocab_size, **sizes).to(DEVICE), _tensor(x_1)
        follow = torch_ddit.trainer(net, learning_rate=1e-3)
        for i in range(steps):
            target = data[torch.randint(len(data), (batch,), device=DEVICE)]
            t = (torch.arange(batch, device=DEVICE) + torch.rand(1, device=DEVICE)) / batch
            state = path.sample(x_0=torch.full_like(target, mask), x_1=target, t=t).x_t
            logits = net(state, t)[..., :mask].flatten(0, 1)
            loss = F.cross_entropy(logits, target.flatten(), reduction="none") * (state == mask).flatten()
            warm = (i + 1) / 101 if i < 100 else 0.5 * (1 + math.cos(math.pi * (i - 100) / max(1, steps - 100)))
            average = follow(loss.mean(), min(0.99, i / (i + 10)), warm)
        with torch.no_grad():
            for p, a in zip(net.parameters(), average, strict=True):
                p.copy_(a)
        solver = MixtureDiscreteEulerSolver(Posterior(net), path, vocab_size)
        return solver.sample(_tensor(np.full((num, x_1.shape[1]), mask)), step_size=1 / grid_steps)

    return run


def flow_log_prob(kind: str, depth: int, params: dict[str, Any], masks: Any, x: np.ndarray) -> Call:
    import torch
    import zuko_flows

    flow, points = zuko_flows.build(kind, x.shape[1], depth, params, masks).to(DEVICE), _tensor(x)

    def call() -> Any:
        with torch.inference_mode():
            return flow().log_prob(points)

    return call


def flow_sample(kind: str, depth: int, params: dict[str, Any], masks: Any, x: np.ndarray) -> Call:
    import torch
    import zuko_flows

    flow = zuko_flows.build(kind, x.shape[1], depth, params, masks).to(DEVICE)
    torch.manual_seed(0)

    def call() -> Any:
        with torch.inference_mode():
            return flow().sample((len(x),))

    return call


def flow_step(kind: str, depth: int, params: dict[str, Any], masks: Any, x: np.ndarray) -> Call:
    import zuko_flows

    flow, points = zuko_flows.build(kind, x.shape[1], depth, params, masks).to(DEVICE), _tensor(x)
    return _descent(flow, params, lambda: -flow().log_prob(points).mean())


def field_step(params: dict[str, Any], hidden: int, x_0: np.ndarray, x_1: np.ndarray, t: np.ndarray) -> Call:
    import torch_field
    from flow_matching.path import CondOTProbPath

    net, path = torch_field.Field(params).to(DEVICE), CondOTProbPath()
    start, end, time = _tensor(x_0), _tensor(x_1), _tensor(t)

    def loss() -> Any:
        sample = path.sample(x_0=start, x_1=end, t=time)
        return (net(sample.x_t, sample.t) - sample.dx_t).square().sum(-1).mean()

    return _descent(net, params, loss)


def field_sample(params: dict[str, Any], hidden: int, x_0: np.ndarray, steps: int) -> Call:
    import torch_field
    from flow_matching.solver import ODESolver

    net, start = torch_field.Field(params).to(DEVICE), _tensor(x_0)
    method = {"method": "midpoint", "step_size": 1 / steps} if steps else {"method": "dopri5", "step_size": None}

    def call() -> tuple[Any, float]:
        before = net.calls
        return ODESolver(net).sample(start, rtol=1e-5, atol=1e-5, **method), float(net.calls - before)

    return call


def field_log_prob(params: dict[str, Any], hidden: int, x_1: np.ndarray) -> Call:
    """By one derivative a coordinate, as the solver takes them."""
    import torch
    import torch_field
    from flow_matching.solver import ODESolver

    net, end = torch_field.Field(params).to(DEVICE), _tensor(x_1)

    def log_p0(x: torch.Tensor) -> torch.Tensor:
        return -(x.square() + math.log(2 * math.pi)).sum(-1) / 2

    def call() -> tuple[Any, ...]:
        before, options = net.calls, {"method": "dopri5", "step_size": None, "rtol": 1e-5, "atol": 1e-5}
        z, log_p = ODESolver(net).compute_likelihood(end, log_p0, exact_divergence=True, **options)
        return z.detach(), log_p.detach(), float(net.calls - before)

    return call
