"""What a sampler costs and how fast it converges: measured, drawn, and never a reason to fail.

The law after K equal steps from 0 to 1 of two tokens with exact posteriors is compared with the data's law, over a
number of draws whose own noise is said beside it; and the finite step is propagated exactly on the same grid.
"""

import time
from math import log2, sqrt
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from . import cases
from .cases import Case
from .laws.law import ramp
from .laws.walks import Walk, codes, even, propagated
from .models import Posterior, Starts
from .probe import Broken, NotCovered, Probe

__all__ = ["Convergence", "measure"]

Table: TypeAlias = np.ndarray[Any, Any]
STEPS = (2, 4, 8, 16, 32)


class Convergence(NamedTuple):
    """A sampler on one case: total variation to the data's law by the number of steps."""

    case: str
    steps: tuple[int, ...]
    tv: tuple[float, ...]
    finite: tuple[float, ...]
    """That of the finite step, by exact propagation."""
    noise: float
    """The total variation that so many draws of the right law have in the mean, about."""
    steps_times_tv: tuple[float, ...]
    order: float | None
    """log2 of the ratio of the errors at the last doubling that stands out of the noise."""
    one_token_tv: float | None
    """At one token and 8 steps, where the finite step of a mask path is exact."""
    seconds_per_step: float
    """Of a batch of as many rows as draws."""
    draws: int


def measure(probe: Probe, *, seed: int = 0, draws: int = 8192) -> list[Convergence]:
    """The convergence of an adapter's sampler on a linear schedule with each source; nothing where it has none.

    >>> measure(Probe(lambda case: None))
    []
    """
    found = []
    for source in ("mask", "uniform"):
        two, one = (Case(2 + (source == "mask"), n, "linear", source) for n in (2, 1))
        try:
            probe.forget()
            begun = time.perf_counter()
            tv = tuple(_distance(probe, two, k, seed, draws) for k in STEPS)
            seconds = (time.perf_counter() - begun) / sum(STEPS)
            alone = _distance(probe, one, 8, seed, draws)
        except (NotCovered, Broken):
            continue
        finite = tuple(propagated(Walk(two, ramp(two), even(0.0, 1.0, k)))[0] for k in STEPS)
        outcomes = two.data_size**two.length
        noise = sqrt((outcomes - 1) / (2 * np.pi * draws))
        clear = [k for k in range(1, len(STEPS)) if tv[k] > 4 * noise]
        order = round(log2(tv[clear[-1] - 1] / tv[clear[-1]]), 3) if clear else None
        times = tuple(round(k * d, 4) for k, d in zip(STEPS, tv, strict=True))
        found.append(Convergence(repr(two), STEPS, tv, finite, noise, times, order, alone, seconds, draws))
    return found


def _distance(probe: Probe, case: Case, steps: int, seed: int, draws: int) -> float:
    q = np.asarray(ramp(case))
    x_0 = Starts(case, tuple(q.tolist()), 0.0, draws, seed)()
    frames = probe.call(
        case, "sample", Posterior(case, tuple(q.tolist())), x_0, np.array(even(0.0, 1.0, steps)), seed + 1
    )
    law = cases.marginal(case, q, 1.0)
    share = np.bincount(codes(frames[-1], case.vocab_size), minlength=len(law)) / draws
    return round(float(np.abs(share - law).sum() / 2), 5)
