"""The continuous part of Meta's package flow_matching, by its public functions only: affine paths and the ODE solver.

A path's velocity is the package's conversion of the exact posterior mean, of x_1 or of the noise. That mean is of this
library, which refuses times outside of [0, 1] and points of another dimension, so that they never reach the package
there; else nothing is checked on its behalf. The solver is asked with a smooth field of this file. All in float64.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np

from .. import flow_cases
from ..flow_cases import PATHS, FlowCase
from .conversion import imported
from .torch_module import array, tensor

__all__ = ["VARIANTS", "Path", "PathBuild", "Solver", "SolverBuild"]

Table: TypeAlias = np.ndarray[Any, Any]
Tensor: TypeAlias = Any

_import = partial(imported, expected="Meta's package", install="pip install flow_matching torch torchdiffeq")

_SCHEDULERS = {"ot": "CondOTScheduler", "vp": "VPScheduler", "cosine": "CosineScheduler"}


@dataclass(frozen=True)
class PathBuild:
    """`build(case)` of affine paths, whose velocity is converted from the posterior mean of x_1 or of the noise."""

    prediction: str

    def __call__(self, case: FlowCase) -> "Path":
        """The path of a case; NotImplementedError for others, ImportError where the package is missing."""
        if case.path not in _SCHEDULERS:
            raise NotImplementedError("this variant is the paths alone")
        return Path(case, self.prediction)


class Path:
    """AffineProbPath with the scheduler of a case."""

    def __init__(self, case: FlowCase, prediction: str) -> None:
        self.case, self.prediction = case, prediction

    @cached_property
    def path(self) -> Any:
        """The path of the package."""
        scheduler = getattr(_import("flow_matching.path.scheduler"), _SCHEDULERS[self.case.path])()
        return _import("flow_matching.path").AffineProbPath(scheduler=scheduler)

    def sample_path(self, x_0: Table, x_1: Table, t: Table, seed: int) -> tuple[Table, Table]:
        """x_t and dx_t of a sample of the path."""
        drawn = self.path.sample(x_0=tensor(x_0), x_1=tensor(x_1), t=tensor(t))
        return array(drawn.x_t), array(drawn.dx_t)

    def velocity(self, x: Table, t: Table) -> Table:
        """target_to_velocity or epsilon_to_velocity of the exact posterior mean."""
        mean = flow_cases.posterior(self.case, x, t) @ np.asarray(self.case.data)
        x_t, times = tensor(x), tensor(t[:, None])
        if self.prediction == "target":
            return array(self.path.target_to_velocity(x_1=tensor(mean), x_t=x_t, t=times))
        path = PATHS[self.case.path]
        noise = (x - path.mu(t)[:, None] * mean) / path.sigma(t)[:, None]
        return array(self.path.epsilon_to_velocity(epsilon=tensor(noise), x_t=x_t, t=times))


@dataclass(frozen=True)
class SolverBuild:
    """`build(case)` of the ODE solver with options, and how far its answers may be off."""

    tolerance: float
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, case: FlowCase) -> "Solver":
        """The solver; NotImplementedError for paths, ImportError where the package is missing."""
        if case.path:
            raise NotImplementedError("this variant is the solver alone")
        return Solver(case.dim, self)


class Solver:
    """ODESolver on the field 2 t Q a tanh(Q^T x), with a reflection Q."""

    def __init__(self, dim: int, build: SolverBuild) -> None:
        self.dim, self.build, self.tolerance = dim, build, build.tolerance
        normal = 1 / np.arange(1, dim + 1)
        self.axes = np.eye(dim) - 2 * np.outer(normal, normal) / np.sum(normal**2)
        self.rates = np.linspace(0.75, -0.5, dim)

    @cached_property
    def solver(self) -> Any:
        """The solver of the package."""
        torch, axes, rates = _import("torch"), tensor(self.axes), tensor(self.rates)

        def model(x: Tensor, t: Tensor) -> Tensor:
            speed = 2 * (t[:, None] if t.ndim else t)
            return speed * (torch.tanh(x @ axes) * rates) @ axes.T

        return _import("flow_matching.solver").ODESolver(velocity_model=model)

    def velocity(self, x: Table, t: Table) -> Table:
        """The model that the solver is given."""
        return array(self.solver.velocity_model(tensor(x), tensor(t)))

    def flow(self, z: Table) -> tuple[Table, Table]:
        """The end of `sample`, and minus the integral of the divergence back from there, by `compute_likelihood`."""
        x = self.solver.sample(x_init=tensor(z), time_grid=tensor(np.array([0.0, 1.0])), **self.build.options)
        return array(x), -self._likelihood(x, lambda start: 0.0 * start[:, 0])[1]

    def inverse(self, x: Table) -> Table:
        """The point at t = 0 of `compute_likelihood`."""
        return self._likelihood(tensor(x), lambda start: 0.0 * start[:, 0])[0]

    def log_prob(self, x: Table) -> Table:
        """`compute_likelihood` with a standard normal source."""
        normal = _import("torch.distributions").Normal(0.0, 1.0)
        return self._likelihood(tensor(x), lambda start: normal.log_prob(start).sum(dim=-1))[1]

    def _likelihood(self, x: Tensor, log_p0: Callable[[Tensor], Tensor]) -> tuple[Table, Table]:
        grid = tensor(np.array([1.0, 0.0]))
        options = {"exact_divergence": True, "time_grid": grid, **self.build.options}
        start, log_prob = self.solver.compute_likelihood(x_1=x, log_p0=log_p0, **options)
        return array(start), array(log_prob)


_ADAPTIVE = {"step_size": None, "method": "dopri5", "atol": 1e-7, "rtol": 1e-7}

VARIANTS: dict[str, Callable[[FlowCase], Any]] = {
    "target": PathBuild("target"),
    "epsilon": PathBuild("epsilon"),
    "dopri5": SolverBuild(1e-5, _ADAPTIVE),
    "midpoint": SolverBuild(1e-4, {"step_size": 0.02, "method": "midpoint"}),
}
"""Paths by their velocity's prediction, and the solver by its method."""
