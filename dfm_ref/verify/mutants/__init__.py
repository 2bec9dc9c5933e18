"""Wrong implementations, which a verifier must reject, and right ones in several styles, which it must accept.

A target for a wrong one is `dfm_ref.verify.mutants:ID`, with an id of `MUTANTS` or, of continuous ones, `FLOW_MUTANTS`;
for a right one it is `dfm_ref.verify.mutants.NAME:build`, with a name of `RIGHT` or `FLOW_RIGHT`.

>>> from dfm_ref.verify import Case, mutants
>>> wrong = mutants.velocity_divides_by_kappa(Case(vocab_size=3, length=1, schedule="linear", source="mask"))
>>> wrong.velocity([[[0.0, 1.0, 0.0]]], [[2]], [0.25]).tolist()  # the rate is 4/3
[[[0.0, 4.0, -4.0]]]
"""

from collections.abc import Callable
from typing import Any

from .catalogue import AREAS, MUTANTS, Mutant, built, mutant
from .flow_catalogue import FLOW_MUTANTS

__all__ = ["AREAS", "FLOW_MUTANTS", "FLOW_RIGHT", "MUTANTS", "RIGHT", "Mutant", "mutant"]

RIGHT = (
    "right",
    "euler",
    "exponential",
    "exact",
    "single",
    "subset",
    "masked",
    "trapezoidal",
    "reordered",
    "meta",
    "corrected",
)
"""The modules of the right implementations, each with a `build`."""


FLOW_RIGHT = ("flows", "flows_single", "flows_autoregressive", "flows_solved", "flows_linear", "flows_posterior")
"""The modules of the right continuous implementations, each with a `build`."""


def __getattr__(name: str) -> Callable[[Any], Any]:
    if any(name == m.id for m in FLOW_MUTANTS):
        return built(name, FLOW_MUTANTS, of="flows")
    if any(name == m.id for m in MUTANTS):
        return mutant(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
