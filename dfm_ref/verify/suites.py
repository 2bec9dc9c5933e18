"""A suite: what implementations of one kind are asked, by which laws, and the small cases that show what they cover."""

from collections.abc import Callable
from contextlib import suppress
from inspect import Parameter, signature
from typing import Any, NamedTuple

from . import laws
from .flow_cases import FlowCase
from .flow_contract import CONTINUOUS as CONTINUOUS_CONTRACT
from .laws import Law
from .laws.fields import path_cases
from .laws.law import each_case
from .probe import DISCRETE as DISCRETE_CONTRACT
from .probe import Broken, Contract, NotCovered, Probe, Unbuilt

__all__ = ["CONTINUOUS", "DISCRETE", "SUITES", "Suite", "suite_of"]


class Suite(NamedTuple):
    """A kind of implementations: its contract, its laws in the order in which they are tried, and small cases."""

    name: str
    contract: Contract
    laws: tuple[Law, ...]
    cases: tuple[Any, ...]
    """On these it is seen whether an adapter builds anything, and which methods it has."""

    def law(self, id: str) -> Law:
        """The law of an id; ValueError names those that there are."""
        return laws.law(id, among=self.laws)

    def methods(self, probe: Probe) -> tuple[set[str], str]:
        """The methods that an adapter has on some small case; of one that builds none of them, why."""
        found, built, why = set[str](), 0, ""
        for case in self.cases:
            try:
                found |= {method for method in self.contract.methods if probe.has(case, method)}
                built += 1
            except Unbuilt as error:
                why = error.message
            except NotCovered as error:
                why = why or f"build covers no case: {error}"
        return found, "" if built else f"{why}, on every case" if why else "build covers no case"


DISCRETE = Suite("discrete", DISCRETE_CONTRACT, laws.LAWS, tuple(each_case((2, 1), (2, 2))))
"""Discrete flow matching; see docs/verify.md."""

CONTINUOUS = Suite("continuous", CONTINUOUS_CONTRACT, laws.FLOW_LAWS, (*map(FlowCase, (1, 2, 3)), *path_cases()))
"""Flows and probability paths on R^D."""

SUITES = {suite.name: suite for suite in (DISCRETE, CONTINUOUS)}
"""Both suites, by name."""


def suite_of(build: Callable[[Any], Any], *, limit: float = 5.0) -> Suite:
    """The continuous suite where `build` serves its cases with a flow or a field of two arguments; else the discrete.

    >>> class Shift:
    ...     def flow(self, z):
    ...         return z + 1, 0 * z[:, 0]
    >>> suite_of(lambda case: Shift()).name, suite_of(lambda case: None).name
    ('continuous', 'discrete')
    """
    probe = Probe(build, limit=limit, contract=CONTINUOUS.contract)
    for case in CONTINUOUS.cases:
        with suppress(Broken, NotCovered):
            if any(probe.has(case, method) for method in set(DISCRETE.contract.methods) - {"velocity", "sample_path"}):
                return DISCRETE
            if any(probe.has(case, method) for method in ("flow", "inverse", "log_prob")):
                return CONTINUOUS
            if _takes_two(probe.attribute(case, "velocity", None)):
                return CONTINUOUS
    return DISCRETE


def _takes_two(velocity: Any) -> bool:
    """Whether (x, t) is what a velocity takes; of discrete flow matching it is (probs_1, x_t, t)."""
    try:
        parameters = signature(velocity).parameters.values()
    except (TypeError, ValueError):
        return False
    named = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in named and p.default is p.empty for p in parameters) == 2
