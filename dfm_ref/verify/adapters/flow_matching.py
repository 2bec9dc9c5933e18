"""Meta's package flow_matching, by its public functions only: names and arrays are translated, nothing is repaired.

Nothing is checked on the package's behalf either, with one exception: the velocity takes logits where the contract has
probabilities, and rows that are no distributions have no logits. So such rows never reach the package, and raise.
The package has no function for the cosine schedule, the corrector's velocity, or the cross-entropy: these are missing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ... import checks
from ...arrays import log
from ..cases import Case
from .conversion import imported
from .torch_module import array

__all__ = [
    "VARIANTS",
    "Build",
    "Package",
    "Solver",
    "build",
    "build_div_free",
    "build_div_free_of_time",
    "build_final",
    "build_float32",
    "build_float64_categorical",
    "build_step_size",
    "build_uneven_step",
    "build_verbose",
]

Table: TypeAlias = np.ndarray[Any, Any]
Tensor: TypeAlias = Any

_import = partial(imported, expected="Meta's package", install="pip install flow_matching torch")

_EXPONENTS = {"quadratic": 2.0, "cubic": 3.0}


@dataclass(frozen=True)
class Build:
    """`build(case)` of the package with options of its solver; those not named have the package's own defaults.

    `step` is the step size as a share of the spacing of `times`, None for steps along `times` themselves. With a step
    size the package makes its own times, in float32, and takes `time_grid` in no other type: there it gets it so.
    """

    step: float | None = None
    div_free: float | Callable[[Tensor], Tensor] = 0.0
    dtype: str = ""
    """That of `time_grid`, as given if empty."""
    categorical: str = "float32"
    intermediates: bool = True
    """Without them the frame at the end is all there is: such a solver covers two times alone."""
    verbose: bool = False
    sampler_only: bool = True

    def __call__(self, case: Case) -> "Solver":
        """The package on a case; NotImplementedError for the cosine, ImportError where the package is missing."""
        return (Solver if self.sampler_only else Package)(case, self)


class Solver:
    """MixtureDiscreteEulerSolver on the path of a case."""

    def __init__(self, case: Case, options: Build) -> None:
        self.case, self.options = case, options
        self.torch = _import("torch")
        self.path = _import("flow_matching.path").MixtureDiscreteProbPath(scheduler=_scheduler(case.schedule))
        self.sampler = "grid" if options.step in (None, 1.0) else "multistage"

    def sample(self, model: Callable[[Table, Table], Table], x_0: Table, times: Sequence[float], seed: int) -> Table:
        """The frames of the solver, int[len(times), B, N]; NotImplementedError where its options do not cover times."""
        torch, options, grid = self.torch, self.options, np.asarray(times)
        if not options.intermediates and len(grid) != 2:
            raise NotImplementedError("return_intermediates=False gives no frame but that at the end")

        def posterior(x: Tensor, t: Tensor) -> Tensor:
            return self._tensor(np.asarray(model(x.numpy().copy(), t.numpy().copy())))

        solver = _import("flow_matching.solver").MixtureDiscreteEulerSolver(
            model=_import("flow_matching.utils").ModelWrapper(posterior),
            path=self.path,
            vocabulary_size=self.case.vocab_size,
            source_distribution_p=self._tensor(self.case.source_pmf) if options.div_free else None,
        )
        dtype = options.dtype or ("float32" if options.step else "")
        x_init = self._tensor(x_0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            states = solver.sample(
                x_init=x_init,
                step_size=_step_size(options.step, grid),
                div_free=options.div_free,
                dtype_categorical=getattr(torch, options.categorical),
                time_grid=self._tensor(grid.astype(dtype or grid.dtype)),
                return_intermediates=options.intermediates,
                verbose=options.verbose,
            )
        return array(states if options.intermediates else torch.stack([x_init, states]))

    def _tensor(self, x: Table) -> Tensor:
        """Floats in their own type; tokens as the package wants them, int64."""
        tensor = self.torch.as_tensor(np.require(x, requirements=["C", "W"]))
        return tensor.long() if x.dtype.kind in "iu" else tensor


class Package(Solver):
    """All that the package has: its scheduler, path, velocity, loss and solver."""

    def kappa(self, t: Table) -> Table:
        """alpha_t of the scheduler."""
        return array(self.path.scheduler(self._tensor(t)).alpha_t)

    def kappa_dot(self, t: Table) -> Table:
        """d_alpha_t of the scheduler."""
        return array(self.path.scheduler(self._tensor(t)).d_alpha_t)

    def kappa_inverse(self, k: Table) -> Table:
        """kappa_inverse of the scheduler."""
        return array(self.path.scheduler.kappa_inverse(self._tensor(k)))

    def sample_path(self, x_0: Table, x_1: Table, t: Table, seed: int) -> Table:
        """x_t of a sample of the path."""
        with self.torch.random.fork_rng(devices=[]):
            self.torch.manual_seed(seed)
            return array(self.path.sample(x_0=self._tensor(x_0), x_1=self._tensor(x_1), t=self._tensor(t)).x_t)

    def velocity(self, probs_1: Table, x_t: Table, t: Table) -> Table:
        """posterior_to_velocity of the path, at the logarithms of the probabilities."""
        checks.distributions("probs_1", probs_1)
        logits, x_t, t = (self._tensor(a) for a in (log(probs_1), x_t, t))
        return array(self.path.posterior_to_velocity(posterior_logits=logits, x_t=x_t, t=t))

    def generalized_kl(self, logits: Table, x_1: Table, x_t: Table, t: Table) -> Table:
        """MixturePathGeneralizedKL without a mean."""
        loss = _import("flow_matching.loss").MixturePathGeneralizedKL(path=self.path, reduction="none")
        logits, x_1, x_t, t = (self._tensor(a) for a in (logits, x_1, x_t, t))
        return array(loss(logits=logits, x_1=x_1, x_t=x_t, t=t))


def _scheduler(name: str) -> Any:
    schedulers = _import("flow_matching.path.scheduler")
    if name == "linear":
        return schedulers.CondOTScheduler()
    if name in _EXPONENTS:
        return schedulers.PolynomialConvexScheduler(n=_EXPONENTS[name])
    raise NotImplementedError(f"flow_matching has no ConvexScheduler for the schedule {name}")


def _step_size(share: float | None, times: Table) -> float | None:
    """A share of the spacing of the times, in any order, where a step size can have a frame at each of them."""
    if share is None:
        return None
    gaps = np.diff(np.sort(times.astype(np.float64)))
    if not (share <= 1 / 2 and len(gaps) == 1) and not (share == 1 and len(gaps) > 1):
        raise NotImplementedError("times that this step size does not meet, or a step as long as the whole interval")
    if not np.all(np.abs(gaps - np.mean(gaps)) <= 1e-6 * np.mean(gaps)):
        raise NotImplementedError("a step size with times that are not evenly spaced")
    return share * float(np.sum(gaps)) / len(gaps)


def _bump(t: Tensor) -> Tensor:
    return t * (1 - t)


build = Build(sampler_only=False)
"""The scheduler, path, velocity and loss, and the solver with step_size=None: its steps are along time_grid."""

build_float32 = Build(dtype="float32")
"""The solver along a time_grid of float32, the type of the package's default."""

build_float64_categorical = Build(categorical="float64")
"""The solver along time_grid with dtype_categorical=torch.float64: tokens drawn in float64."""

build_step_size = Build(step=1.0)
"""The solver with a step_size that divides T - t_0, the spacing of evenly spaced times (in any order, three or more:
the package refuses a step as long as the interval), and the intermediates of all times."""

build_uneven_step = Build(step=0.3)
"""The solver with a step_size that does not divide T - t_0: steps of 0.3, 0.3, 0.3 and 0.1 of it. Two times alone, as
intermediates of others would be of the nearest step, by design of the package."""

build_final = Build(step=0.125, intermediates=False)
"""The solver with a step_size of an eighth of T - t_0, and return_intermediates=False: two times alone."""

build_div_free = Build(div_free=0.5)
"""The solver along time_grid with the divergence-free term of a number, div_free=0.5, from the case's source."""

build_div_free_of_time = Build(div_free=_bump)
"""The solver along time_grid with the divergence-free term of a function, t (1 - t), which is 0 at t = 0."""

build_verbose = Build(verbose=True)
"""The solver along time_grid with verbose=True, which shows a progress bar."""

VARIANTS = {
    "time_grid": build,
    "float32": build_float32,
    "float64_categorical": build_float64_categorical,
    "step_size": build_step_size,
    "uneven_step": build_uneven_step,
    "final": build_final,
    "div_free": build_div_free,
    "div_free_of_time": build_div_free_of_time,
    "verbose": build_verbose,
}
"""Every option of the solver by name: the first has all methods, the others `sample` alone."""
