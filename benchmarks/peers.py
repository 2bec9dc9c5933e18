"""The peers' side of every operation, by their public functions alone: torch, flow_matching 1.0.10, jax."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Call = Callable[[], Any]


def sample(probs: np.ndarray, steps: int, done: int) -> Call:
    """The first `done` of the solver's steps of length 1 / steps, the last of which redraws every token."""
    import torch
    from flow_matching.path import MixtureDiscreteProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler
    from flow_matching.solver import MixtureDiscreteEulerSolver
    from flow_matching.utils import ModelWrapper

    batch, length, vocab_size = probs.shape
    table = torch.from_numpy(probs)

    class Precomputed(ModelWrapper):
        def forward(self, x: torch.Tensor, t: torch.Tensor, **extras: Any) -> torch.Tensor:
            return table

    path = MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0))
    solver = MixtureDiscreteEulerSolver(Precomputed(torch.nn.Identity()), path, vocab_size)
    x_0, grid = torch.full((batch, length), vocab_size - 1), torch.tensor([0.0, done / steps])
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
            time = np.broadcast_to(t.numpy().astype(np.float64), len(x))
            logits = torch.from_numpy(np.asarray(model(x.numpy(), time), dtype=np.float64))
            if mask is not None:
                logits[..., mask] = -math.inf
            return torch.softmax(logits, -1)

    path = MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0))
    solver = MixtureDiscreteEulerSolver(Probabilities(torch.nn.Identity()), path, vocab_size)
    start, grid = torch.from_numpy(x_0), torch.tensor([0.0, 1.0])
    torch.manual_seed(0)
    return lambda: solver.sample(start, step_size=1 / steps, time_grid=grid)


def events(params: dict[str, Any], x_0: np.ndarray, steps: int, **sizes: int) -> Call:
    """Our own grid of so many steps."""
    from functools import partial

    from dfm_ref import paths, random, samplers, times
    from dfm_ref.nn.transformer import Transformer

    net, mask = Transformer(**sizes), sizes["vocab_size"] - 1
    path, grid = paths.Mixture(mask=mask), times.grid(steps)
    return lambda: samplers.sample(path, partial(net, params), random.key(0), x_0, grid)


def path(x_0: np.ndarray, x_1: np.ndarray, t: np.ndarray) -> Call:
    import torch
    from flow_matching.path import MixtureDiscreteProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler

    path = MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0))
    start, end, time = torch.from_numpy(x_0), torch.from_numpy(x_1), torch.from_numpy(t)
    torch.manual_seed(0)
    return lambda: path.sample(x_0=start, x_1=end, t=time).x_t


def cross_entropy(logits: np.ndarray, x_1: np.ndarray, x_t: np.ndarray, t: np.ndarray) -> Call:
    import torch

    rows, target = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(x_1)

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
    rows = torch.from_numpy(logits).requires_grad_()
    end, state, time = torch.from_numpy(x_1), torch.from_numpy(x_t), torch.from_numpy(t)

    def call() -> tuple[Any, Any]:
        loss = criterion(rows, end, state, time)
        (grad,) = torch.autograd.grad(loss.sum(), rows)
        return loss.detach(), grad

    return call


def uniform(shape: tuple[int, ...]) -> Call:
    import torch

    torch.manual_seed(0)
    return lambda: torch.rand(shape, dtype=torch.float64)


def bits(shape: tuple[int, ...]) -> Call:
    import jax

    jax.config.update("jax_threefry_partitionable", True)
    return lambda: jax.random.bits(jax.random.key(0), shape, "uint32").block_until_ready()


def categorical(probs: np.ndarray) -> Call:
    import torch
    from flow_matching.utils import categorical

    table = torch.from_numpy(probs)
    torch.manual_seed(0)
    return lambda: categorical(table)


def forward(params: dict[str, Any], x_1: np.ndarray, x_t: np.ndarray, t: np.ndarray, **sizes: int) -> Call:
    import torch
    import torch_ddit

    net, state, time = torch_ddit.load(torch_ddit.DDiT(**sizes), params), torch.from_numpy(x_t), torch.from_numpy(t)

    def call() -> Any:
        with torch.inference_mode():
            return net(state, time)

    return call


def train_step(params: dict[str, Any], x_1: np.ndarray, x_t: np.ndarray, t: np.ndarray, **sizes: int) -> Call:
    import torch
    import torch_ddit

    net = torch_ddit.load(torch_ddit.DDiT(**sizes), params)
    names, follow = [name for name, _ in net.named_parameters()], torch_ddit.trainer(net)
    target, state, time = torch.from_numpy(x_1), torch.from_numpy(x_t), torch.from_numpy(t)

    def step() -> tuple[Any, ...]:
        loss = torch.nn.functional.cross_entropy(net(state, time).flatten(0, 1), target.flatten())
        average = follow(loss)
        now = list(net.parameters())
        columns = ([p.grad for p in now], [p.detach() for p in now], average)
        return loss.detach(), *(dict(zip(names, column, strict=True)) for column in columns)

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
        net, data = torch_ddit.DDiT(vocab_size, **sizes), torch.from_numpy(x_1)
        follow = torch_ddit.trainer(net, learning_rate=1e-3)
        for i in range(steps):
            target = data[torch.randint(len(data), (batch,))]
            t = (torch.arange(batch) + torch.rand(1)) / batch
            state = path.sample(x_0=torch.full_like(target, mask), x_1=target, t=t).x_t
            logits = net(state, t)[..., :mask].flatten(0, 1)
            loss = F.cross_entropy(logits, target.flatten(), reduction="none") * (state == mask).flatten()
            warm = (i + 1) / 101 if i < 100 else 0.5 * (1 + math.cos(math.pi * (i - 100) / max(1, steps - 100)))
            average = follow(loss.mean(), min(0.99, i / (i + 10)), warm)
        with torch.no_grad():
            for p, a in zip(net.parameters(), average, strict=True):
                p.copy_(a)
        solver = MixtureDiscreteEulerSolver(Posterior(net), path, vocab_size)
        return solver.sample(torch.full((num, x_1.shape[1]), mask), step_size=1 / grid_steps)

    return run
