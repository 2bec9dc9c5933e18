"""Writes docs/samplers.md and its pictures: python docs/samplers.py (seconds, and always the same numbers)."""

from pathlib import Path

import numpy as np

from dfm_ref import couplings, events, exact, likelihoods, paths, plots, random, schedules, sources
from dfm_ref.checkpoints import write
from dfm_ref.verify import convergence, oracle

HERE = Path(__file__).parent
STEPS = (4, 8, 16, 32, 64)
TEXT = """# Samplers: order and distance to the exact law

Two tokens of correlated data, exact posteriors, from p_0 to t = 0.9, by exact propagation of the law of all states
(`dfm_ref.verify.convergence`): nothing is drawn. TV is the total variation to p_0.9 after K equal steps; the order is
log2 of the ratio at the last doubling of K. Made by `python docs/samplers.py`.

{table}

`exact.sample`, `exact.first_hitting`, `exact.uniformization` and `kinetic.thinning` follow the chain itself: TV 0 at
any number of frames; a mask path costs at most N model calls (here 2), the others one for each event.

What the table shows:

- **finite** never needs a step bound and is ahead of Euler's rule wherever the schedule is not linear; for two
  components it is the ancestral step. **exponential** with its frozen rates is the slowest of the three.
- **flow_matching** differs from **exponential** at the second order of a step unless the source is a mask.
- **trapezoidal** is far ahead of the others at 64 steps, but its second order does not last: where a rate falls below
  a half after a jump, max(0, 2 u_y - u_x) cuts, and the order decays to 1. Without the cut it is 2 on every path
  (`tests/test_convergence.py`), and so it is with it where data are nearly independent.
- **predictor-corrector** halves the error of its predictor here, at twice the calls, and stays of order 1. With a wrong
  model it stalls: the corrector leaves the true p_t, not the model's (a test shows both).

![Total variation against steps](samplers.png)

## Rates, events and bounds

The intensity of events over time, forward and backward; on the right the switch of the fastest component at t = 2/3.

![Rates over time](rates.png)

The events of one generation of 32 tokens: of a mask path, one each; of a uniform source, more and more towards t = 1.

![Events on a mask path](raster_mask.png) ![Events from a uniform source](raster_uniform.png)

The bound on -log p of a wrong model beside the exact value, on every sequence of two tokens out of 3, from a uniform
source, stopped at T = 0.9 (400 draws each, bars of one standard error): no point lies below the line.

![Bound and exact value](bound.png)
"""


def main() -> None:
    rows = convergence.table(steps=STEPS)
    curves: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        curves.setdefault(row.path, {})[row.rule] = [row.tv[k] for k in STEPS]
    pictures = {
        "samplers": plots.convergence(STEPS, curves),
        "rates": rates(),
        "raster_mask": raster(paths.Mixture(mask=8), 8),
        "raster_uniform": raster(paths.Mixture(), 0),
        "bound": bound(),
    }
    for name, figure in pictures.items():
        write(HERE / f"{name}.png", plots.to_png(figure))
    write(HERE / "samplers.md", TEXT.format(table=table(rows)).encode())


def table(rows: list[convergence.Row]) -> str:
    """The rows as Markdown."""
    head = ["path", "sampler", "calls a step", "order", *(f"TV at K = {k}" for k in STEPS), "calls at K = 64"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        tv = (f"{row.tv[k]:.1e}" for k in STEPS)
        cells = [row.path, row.rule, str(row.calls), f"{row.order:.2f}", *tv, str(row.calls * STEPS[-1])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rates() -> plots.Figure:
    """Intensities of a linear, a cosine and a switching schedule of three components."""
    switching = schedules.Convex(
        (
            schedules.Bernstein((1.0, 0.6, 0.3, 0.1, 0.0, 0.0)),  # (1 - t)^2
            schedules.Bernstein((0.0, 0.0, 0.1, 0.0, 0.0, 0.0)),  # t^2 (1 - t)^3
            schedules.Bernstein((0.0, 0.4, 0.6, 0.9, 1.0, 1.0)),
        )
    )
    t = np.linspace(0.005, 0.995, 397)
    named = {"linear": schedules.Linear(), "cosine": schedules.Cosine(), "three components": switching}
    both = {"forward": events.intensity, "backward": events.backward_intensity}
    return plots.rates(t.tolist(), {n: {label: f(s, t) for label, f in both.items()} for n, s in named.items()})


def raster(path: paths.Mixture, start: int) -> plots.Figure:
    """The exact events of one sequence of 32 tokens under a model that knows nothing."""
    times = np.linspace(0, 0.99, 500).tolist()
    x_0 = np.full((1, 32), start)
    frames = exact.sample(path, lambda x_t, t: np.zeros((*x_t.shape, 9)), random.key(0), x_0, times, frames=True)
    return plots.raster(frames[:, 0], times)


def bound() -> plots.Figure:
    """Every sequence of two tokens out of 3 from a uniform source, under a model that mixes in a coin of its own."""
    draws, source = 400, sources.Uniform(3)
    q = np.random.default_rng(0).dirichlet(np.full(9, 0.5))
    pi = oracle.prompted(q, np.full((2, 3), 1 / 3), np.zeros(2, dtype=bool))
    problem = oracle.enumerate_pairs(pi, np.stack([oracle.at_x_0(3), oracle.at_x_1(3)]).astype(float))
    example = convergence.OfMixture(paths.Mixture(), problem, lambda w: 0.8 * w + 0.2 / 3)

    def model(x_t: np.ndarray, t: np.ndarray) -> np.ndarray:
        tables = {time: np.log(example.posteriors(time)[1]) for time in set(t.tolist())}
        return np.stack([tables[time][3 * x[0] + x[1]] for time, x in zip(t.tolist(), x_t, strict=True)])

    nats = -np.log(likelihoods.law(example.path, source, model, length=2, T=0.9))
    x_1 = np.tile(oracle.states(3, 2), (draws, 1))  # the times of a batch are strata in its order: each has all
    x_0 = couplings.independent(source, random.key(0), x_1).x_0
    found = likelihoods.bound(example.path, model, random.key(1), x_0, x_1, T=0.9).reshape(draws, 9)
    return plots.bounds(nats, found.mean(0), found.std(0) / np.sqrt(draws))


if __name__ == "__main__":
    main()
