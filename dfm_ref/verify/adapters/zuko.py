"""The package zuko, by its public functions only: flows of several families, with weights of a fixed seed.

zuko's transform goes from the data x to the noise z; its inverse is the flow of the contract. Everything is computed in
float64, which zuko's modules are cast to. Nothing is checked on the package's behalf.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np

from ..flow_cases import FlowCase
from .conversion import imported
from .torch_module import array, tensor

__all__ = ["VARIANTS", "Build", "Zuko"]

Table: TypeAlias = np.ndarray[Any, Any]
Tensor: TypeAlias = Any

_import = partial(imported, expected="zuko", install="pip install zuko torch")


@dataclass(frozen=True)
class Build:
    """`build(case)` of a family of zuko.flows, with its options and how far its answers may be off."""

    family: str
    options: Mapping[str, Any] = field(default_factory=dict)
    least: int = 1
    """The smallest dimension that the family is made for."""
    tolerance: float = 0.0

    def __call__(self, case: FlowCase) -> "Zuko":
        """The family in the dimension of a case; NotImplementedError for paths, ImportError where zuko is missing."""
        if case.path:
            raise NotImplementedError("zuko has no probability paths")
        if case.dim < self.least:
            raise NotImplementedError(f"{self.family} needs {self.least} dimensions or more")
        return Zuko(case.dim, self)


class Zuko:
    """One flow of the package."""

    def __init__(self, dim: int, build: Build) -> None:
        self.dim, self.build, self.tolerance = dim, build, build.tolerance
        if build.family == "CNF":
            self.velocity = self._velocity

    @cached_property
    def module(self) -> Any:
        """The flow, with the weights that the package draws by a seed."""
        torch, flows = _import("torch"), _import("zuko.flows")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return getattr(flows, self.build.family)(self.dim, **self.build.options).double().eval()

    @cached_property
    def law(self) -> Any:
        """The distribution, of which the contract knows base, transform and log_prob."""
        return self.module()

    def flow(self, z: Table) -> tuple[Table, Table]:
        """The inverse of the transform, with its log_abs_det_jacobian."""
        x, log_det = self.law.transform.inv.call_and_ladj(tensor(z))
        return array(x), array(log_det)

    def inverse(self, x: Table) -> Table:
        """The transform."""
        return array(self.law.transform(tensor(x)))

    def log_prob(self, x: Table) -> Table:
        """log_prob of the distribution."""
        return array(self.law.log_prob(tensor(x)))

    def _velocity(self, x: Table, t: Table) -> Table:
        """Of a CNF: the field f, which runs from the data at 0 to the noise at 1, turned round."""
        return -array(self.module.transform.f(tensor(1 - t), tensor(x)))


VARIANTS: dict[str, Callable[[FlowCase], Zuko]] = {
    "maf": Build("MAF", {"transforms": 3}),
    "nice": Build("NICE", {"transforms": 3}, least=2),
    "nsf": Build("NSF", {"transforms": 3}),
    "nsf_coupling": Build("NSF", {"transforms": 3, "passes": 2}, least=2),
    "sospf": Build("SOSPF", {"transforms": 2}, tolerance=1e-5),
    "naf": Build("NAF", {"transforms": 1}, tolerance=1e-5),
    "bpf": Build("BPF", {"transforms": 2}, tolerance=1e-5),
    "gf": Build("GF", {"transforms": 2}, tolerance=1e-5),
    "cnf": Build("CNF", {"freqs": 2, "hidden_features": (16,)}, tolerance=1e-3),
}
"""Families by name. What inverts by bisection or solves equations says how closely."""
