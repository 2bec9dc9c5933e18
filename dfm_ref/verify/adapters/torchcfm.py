"""The package torchcfm, by its public functions only: its conditional flow matchers with sigma = 0, the pairs given.

The package has conditional flows; the velocity of a path is their mean under the exact posterior of the pair. Couplings
of a minibatch are no law of a row, and stay out. The posterior is of this library, which refuses times outside of
[0, 1] and points of another dimension; else nothing is checked on the package's behalf. Computed in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np

from .. import flow_cases
from ..flow_cases import PATHS, FlowCase
from .conversion import imported
from .torch_module import array, tensor

__all__ = ["VARIANTS", "Build", "Matcher"]

Table: TypeAlias = np.ndarray[Any, Any]
Tensor: TypeAlias = Any

_import = partial(imported, expected="torchcfm", install="pip install --no-deps torchcfm, then torch and POT")


@dataclass(frozen=True)
class Build:
    """`build(case)` of one matcher of the package, for the path that it has."""

    name: str
    path: str
    noise: bool = False
    """Whether the matcher draws x_0 itself, so that it is handed over as its noise."""

    def __call__(self, case: FlowCase) -> "Matcher":
        """The matcher; NotImplementedError for other paths, ImportError where the package is missing."""
        if case.path != self.path:
            raise NotImplementedError(f"{self.name} has no path {case.path!r}")
        return Matcher(case, self)


class Matcher:
    """One matcher of the package on a case."""

    def __init__(self, case: FlowCase, build: Build) -> None:
        self.case, self.build = case, build

    @cached_property
    def matcher(self) -> Any:
        """The object of the package."""
        return getattr(_import("torchcfm.conditional_flow_matching"), self.build.name)(sigma=0.0)

    def sample_path(self, x_0: Table, x_1: Table, t: Table, seed: int) -> tuple[Table, Table]:
        """x_t and the conditional flow there."""
        start, end, times = map(tensor, (x_0, x_1, t))
        if self.build.noise:
            x_t = self.matcher.sample_xt(start, end, times, start)
            return array(x_t), array(self.matcher.compute_conditional_flow(start, end, times, x_t))
        _, x_t, dx_t = self.matcher.sample_location_and_conditional_flow(start, end, times)
        return array(x_t), array(dx_t)

    def velocity(self, x: Table, t: Table) -> Table:
        """The mean of the conditional flows, each from the x_0 that leads to x."""
        path, weights = PATHS[self.case.path], flow_cases.posterior(self.case, x, t)
        total, mu, sigma = np.zeros_like(x), path.mu(t)[:, None], path.sigma(t)[:, None]
        for k, point in enumerate(self.case.data):
            x_1 = np.tile(point, (len(x), 1))
            pair = map(tensor, ((x - mu * x_1) / sigma, x_1, t, x))
            total += weights[:, k : k + 1] * array(self.matcher.compute_conditional_flow(*pair))
        return total


VARIANTS: dict[str, Callable[[FlowCase], Matcher]] = {
    "independent": Build("ConditionalFlowMatcher", "ot"),
    "target": Build("TargetConditionalFlowMatcher", "ot", noise=True),
    "variance_preserving": Build("VariancePreservingConditionalFlowMatcher", "cosine"),
}
"""The matchers by name."""
