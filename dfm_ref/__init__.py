"""dfm_ref: the reference implementation of Discrete Flow Matching.

Pure functions over the arrays of any library that follows the Array API: paths, velocities, losses and samplers.
The networks and their trainer are in `dfm_ref.nn`, the exact oracle in `dfm_ref.verify.oracle`, the array libraries
to run on in `dfm_ref.backends`; none of them is imported unasked.
"""

from . import (
    arrays,
    checks,
    couplings,
    events,
    exact,
    guidance,
    kinetic,
    likelihoods,
    losses,
    paths,
    protocols,
    random,
    redraws,
    remasking,
    samplers,
    schedules,
    sources,
    times,
    transitions,
    velocities,
)

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "arrays",
    "checks",
    "couplings",
    "events",
    "exact",
    "guidance",
    "kinetic",
    "likelihoods",
    "losses",
    "paths",
    "protocols",
    "random",
    "redraws",
    "remasking",
    "samplers",
    "schedules",
    "sources",
    "times",
    "transitions",
    "velocities",
]
