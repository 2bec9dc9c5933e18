"""The continuous half on digits and on laws that are known: fit, learn by likelihood and by matching, draw, report."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import data, demo, pages, plots, random
from .continuous import cnf, matching, maximum_likelihood, ode, planes, predictions
from .continuous.affine import Affine
from .continuous.coupling import Coupling
from .continuous.flows import Composed, Flow, Inverted, log_prob
from .continuous.gaussian_paths import OptimalTransport
from .continuous.planar import Planar
from .continuous.planes import Checkerboard, Moons, Pinwheel, Plane
from .continuous.splines import RationalQuadratic
from .continuous.training import Loss, Recipe, train
from .continuous.variational import ENERGIES, annealing, free_energy, log_normalizer
from .nn.field import Field
from .progress import progress
from .protocols import Array, Backend, Key, Params

__all__ = ["run"]

_PLANES: dict[str, Plane] = {"checkerboard": Checkerboard(), "moons": Moons(), "pinwheel": Pinwheel()}
_DEPTHS = (2, 8, 32)
_TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)
_PATH = OptimalTransport()
_HELD_OUT = 2000
_TOLERANCE = 1e-5
_WINDOW = 4.5


def run(folder: Path, *, minutes: float, seed: int, backend: Backend) -> None:
    """Does everything, in about so many minutes on two cores, and leaves the report and its pictures."""
    demo.leave(_show, _summary, _page, folder, minutes=minutes, seed=seed, backend=backend)


def _show(folder: Path, minutes: float, seed: int, backend: Backend) -> tuple[dict[str, Any], dict[str, Any]]:
    divergences, laws = _energies(seed, steps=max(1, int(600 * minutes)), backend=backend)
    spline_nats, layers = _splines(seed, steps=max(1, int(250 * minutes)), backend=backend)
    field_nats, ways, fields, contours = _fields(seed, steps=max(1, int(600 * minutes)), backend=backend)
    bits, digits = _digits(seed, steps=max(1, int(500 * minutes)), backend=backend)
    nats = {
        name: {
            "entropy": planes.entropy(plane),
            "the law itself": -float(np.mean(plane.log_density(_held_out(plane, seed)))),
            "spline flow": spline_nats[name],
            "flow matching": field_nats[name],
        }
        for name, plane in _PLANES.items()
    }
    return {"kl_of_planar_flows": {"maps": _DEPTHS, **divergences}, "nats": nats, "digits": bits}, {
        "energies": plots.densities(laws, window=4.0),
        "divergences": plots.divergences(_DEPTHS, divergences),
        "layers": plots.densities(layers, window=_WINDOW),
        "particles": plots.particles(ways, fields, _TIMES),
        "contours": plots.contours(contours, window=_WINDOW),
        "digits": plots.images(digits, [str(digit) for digit in range(10)], levels=17),
    }


def _descended(recipe: Recipe, loss: Loss, params: Params, label: str) -> Params:
    """The averaged parameters at the end of a descent."""
    average = params
    for state, _ in progress(train(recipe, loss, params), label, recipe.steps, lambda one: f"loss {float(one[1]):.3f}"):
        average = state.average
    return average


def _arrays(params: Params, backend: Backend) -> Params:
    return {name: backend.asarray(value) for name, value in params.items()}


def _grid(side: int, window: float) -> np.ndarray:
    """The points of a square grid, float64[side, side, 2], x_1 along the second axis."""
    line = np.linspace(-window, window, side)
    return np.stack(np.meshgrid(line, line), axis=-1)


def _energies(
    seed: int, *, steps: int, backend: Backend
) -> tuple[dict[str, list[float]], dict[str, dict[str, np.ndarray]]]:
    """KL(q || p) of planar flows that fit the energies of 2015, by the number of maps, and the densities of all."""
    divergences: dict[str, list[float]] = {}
    laws: dict[str, dict[str, np.ndarray]] = {}
    grid = _grid(100, 4.0)
    noise = backend.asarray(random.normal(random.key(seed + 1), (20_000, 2)))
    for name, energy in ENERGIES.items():
        log_z = log_normalizer(energy)
        divergences[name], laws[name] = [], {"exact": np.exp(-energy(grid)[0] - log_z)}
        for depth in _DEPTHS:
            flow = Composed((Affine(2), *[Planar(2)] * depth))

            def loss(params: Params, key: Key, step: int, flow: Flow = flow, energy: Any = energy) -> Any:
                z = backend.asarray(random.normal(key, (256, 2)))
                return free_energy(flow, energy, params, z, beta=annealing(step, max(1, steps // 2)))

            recipe = Recipe(steps, learning_rate=0.03, clip=10.0, seed=seed)
            params = _descended(recipe, loss, _arrays(flow.init(random.key(seed)), backend), f"{name}, {depth} maps")
            divergences[name].append(float(free_energy(flow, energy, params, noise)[0]) + log_z)
            laws[name][f"{depth} maps"] = _density(flow, params, grid, backend)
    return divergences, laws


def _density(flow: Flow, params: Params, grid: np.ndarray, backend: Backend) -> np.ndarray:
    """The density of a flow at the points of a grid, float64[n, n]."""
    dtype = str(next(iter(params.values())).dtype).rpartition(".")[-1]
    points = backend.asarray(grid.reshape(-1, 2).astype(dtype))
    log_q = np.asarray(backend.to_numpy(backend.fused(log_prob)(flow, params, points)), dtype=np.float64)
    return np.asarray(np.exp(log_q)).reshape(grid.shape[:-1])


def _splines(seed: int, *, steps: int, backend: Backend) -> tuple[dict[str, float], dict[str, dict[str, np.ndarray]]]:
    """Held-out -log p in nats of spline flows that learn the planes by likelihood, and their densities map by map."""
    nats: dict[str, float] = {}
    layers: dict[str, dict[str, np.ndarray]] = {}
    grid = _grid(120, _WINDOW)
    for name, plane in _PLANES.items():
        maps = tuple(Coupling(2, RationalQuadratic(bins=8, bound=5.0), flip=k % 2 == 1) for k in range(4))
        composed = Composed(maps)
        flow = Inverted(composed)

        def loss(params: Params, key: Key, step: int, plane: Plane = plane, flow: Flow = flow) -> Any:
            x = backend.asarray(planes.sample(plane, key, 512).astype(np.float32))
            return backend.fused(maximum_likelihood.gradients)(flow, params, x)

        start = _arrays(flow.init(random.key(seed), dtype=np.float32), backend)
        recipe = Recipe(steps, learning_rate=3e-3, seed=seed)
        params = _descended(recipe, loss, start, f"{name}, spline flow")
        held_out = backend.asarray(_held_out(plane, seed).astype(np.float32))
        nats[name] = -float(backend.to_numpy(backend.fused(log_prob)(flow, params, held_out)).mean())
        parts = composed.parts(params)
        layers[name] = {"noise": np.exp(-np.sum(grid**2, axis=-1) / 2) / (2 * math.pi)}
        for k in range(1, len(maps) + 1):  # they run from data to noise: the last one is the first to move the noise
            part = {f"{j}.{n}": p for j, one in enumerate(parts[-k:]) for n, p in one.items()}
            layers[name][f"{k} map{'s' * (k > 1)}"] = _density(Inverted(Composed(maps[-k:])), part, grid, backend)
        layers[name]["data"] = np.exp(plane.log_density(grid))
    return nats, layers


def _held_out(plane: Plane, seed: int) -> np.ndarray:
    return planes.sample(plane, random.key(2**32 + seed), _HELD_OUT)


def _fields(
    seed: int, *, steps: int, backend: Backend
) -> tuple[dict[str, float], dict[str, np.ndarray], dict[str, np.ndarray], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Fields that learn the planes by flow matching: held-out -log p, ways of particles, arrows, log-densities."""
    nats: dict[str, float] = {}
    ways: dict[str, np.ndarray] = {}
    arrows: dict[str, np.ndarray] = {}
    contours: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    net: Field = backend.fused(Field)(2, hidden=256)
    grid, few = _grid(60, _WINDOW), _grid(13, 4.0)
    for name, plane in _PLANES.items():

        def loss(params: Params, key: Key, step: int, plane: Plane = plane) -> Any:
            x_key, z_key, t_key = random.split(key, 3)
            x_1 = backend.asarray(planes.sample(plane, x_key, 1024).astype(np.float32))
            x_0 = backend.asarray(random.normal(z_key, (1024, 2)).astype(np.float32))
            return matching.gradients(_PATH, net, params, t_key, x_0, x_1)

        start = _arrays(net.init(random.key(seed), dtype=np.float32), backend)
        params = _descended(Recipe(steps, learning_rate=5e-3, seed=seed), loss, start, f"{name}, flow matching")
        field = cnf.Bound(net, params)
        held_out = _held_out(plane, seed)
        nats[name] = -float(np.mean(_log_prob(field, held_out, backend)))
        x_0 = backend.asarray(random.normal(random.key(seed + 2), (2000, 2)).astype(np.float32))
        frames = ode.solve(ode.rk4, field.velocity, x_0, [k / 32 for k in range(33)], frames=True)
        ways[name] = backend.to_numpy(frames)
        at = backend.asarray(few.reshape(-1, 2).astype(np.float32))
        arrows[name] = np.stack([backend.to_numpy(field.velocity(at, t)).reshape(few.shape) for t in _TIMES])
        log_p = _log_prob(field, grid.reshape(-1, 2), backend).reshape(grid.shape[:-1])
        contours[name] = log_p, held_out
    return nats, ways, arrows, contours


def _log_prob(field: cnf.Bound, x: np.ndarray, backend: Backend) -> np.ndarray:
    """log p(x) of a flow by its divergence, float64[B]."""
    found = cnf.log_prob(field.divergence, backend.asarray(x.astype(np.float32)), rtol=_TOLERANCE, atol=_TOLERANCE)
    return np.asarray(backend.to_numpy(found.log_p), dtype=np.float64)


def _digits(seed: int, *, steps: int, backend: Backend) -> tuple[dict[str, Any], np.ndarray]:
    """Bits per dimension of held-out digits, by the flow of a field that learned them with their classes; and samples.

    A grey level v of 17 is spread over [v, v + 1) by uniform noise, and scaled to x = (v + noise) / 8 - 17 / 16:
    the mean of -log p(x) + 64 log 8 bounds -log p of the levels.
    """
    known, held_out = (data.load("digits", split=split) for split in ("train", "test"))
    net: Field = backend.fused(Field)(64, hidden=512, classes=10)
    labels = known.labels if known.labels is not None else np.zeros(0, dtype=np.int64)

    def spread(key: Key, levels: np.ndarray) -> np.ndarray:
        noisy = levels + random.uniform(key, levels.shape)
        return np.asarray(noisy / 8 - 17 / 16, dtype=np.float32)

    def loss(params: Params, key: Key, step: int) -> Any:
        row_key, noise_key, z_key, t_key = random.split(key, 4)
        rows = (random.uniform(row_key, (256,)) * len(labels)).astype(np.int64)
        x_1, x_0 = spread(noise_key, known.x_1[rows]), random.normal(z_key, (256, 64)).astype(np.float32)
        given = backend.asarray(labels[rows])
        return matching.gradients(
            _PATH, net, params, t_key, backend.asarray(x_0), backend.asarray(x_1), labels=given, label_dropout=0.3
        )

    begun = time.monotonic()
    start = _arrays(net.init(random.key(seed), dtype=np.float32), backend)
    recipe = Recipe(steps, learning_rate=2e-3, weight_decay=0.05, seed=seed)
    params = _descended(recipe, loss, start, "digits, flow matching")
    seconds = round(time.monotonic() - begun, 1)
    nats = -_log_prob(cnf.Bound(net, params), spread(random.key(seed + 3), held_out.x_1), backend)
    bits = (nats / 64 + math.log(8)) / math.log(2)
    found = {
        "bits_per_dimension": float(np.mean(bits)),
        "standard_error": float(np.std(bits) / math.sqrt(len(bits))),
        "held_out": len(bits),
        "steps": steps,
        "seconds": seconds,
    }
    noise = backend.asarray(random.normal(random.key(seed + 4), (4, 64)).astype(np.float32))
    columns = []
    for digit in range(10):
        velocity = _guided(cnf.Bound(net, params, label=digit), cnf.Bound(net, params))
        x_1 = backend.to_numpy(ode.solve(ode.midpoint, velocity, noise, [k / 20 for k in range(21)]))
        columns.append(np.clip(np.floor((x_1 + 17 / 16) * 8), 0, 16).astype(np.int64).reshape(4, 8, 8))
    return found, np.stack(columns)


def _guided(conditional: cnf.Bound, unconditional: cnf.Bound) -> Callable[[Array, float], Array]:
    def velocity(x: Array, t: float) -> Array:
        return predictions.guided(conditional.velocity(x, t), unconditional.velocity(x, t), strength=2.0)

    return velocity


def _summary(report: dict[str, Any]) -> str:
    kl = report["kl_of_planar_flows"]
    lines = [
        f"{name:13} KL of {', '.join(map(str, kl['maps']))} planar maps: {', '.join(f'{v:.3f}' for v in kl[name])} nats"
        for name in ENERGIES
    ]
    lines += [
        f"{name:13} held-out -log p: {', '.join(f'{how} {v:.3f}' for how, v in values.items())} nats"
        for name, values in report["nats"].items()
    ]
    digits = report["digits"]
    bits, error = digits["bits_per_dimension"], digits["standard_error"]
    return "\n".join([*lines, f"{'digits':13} at most {bits:.3f} bits per dimension (standard error {error:.3f})"])


def _page(report: dict[str, Any], images: dict[str, bytes]) -> str:
    """The report as one page of HTML that needs no other file."""

    def picture(name: str, caption: str) -> str:
        return pages.picture(images[name], caption)

    run = f"dfm_ref {report['dfm_ref']} on {report['backend']}, seed {report['seed']}, {report['seconds']} s in all."
    body = f"""<p>{run}</p>
{pages.lines(_summary(report).splitlines())}
<h2>Planar flows fit the energies of 2015</h2>
{picture("energies", "exp(-U) / Z on [-4, 4]^2, and the laws of 2, 8 and 32 planar maps of normal noise that fit it.")}
{picture("divergences", "KL(q || p) = F + log Z: log Z by quadrature, F from 20,000 draws.")}
<h2>A flow learns by likelihood</h2>
{picture("layers", "Normal noise pushed through four spline couplings, map by map, and the density of the data.")}
<h2>Flow matching</h2>
{picture("particles", "Two thousand particles in the learned field from t = 0 to 1; forty of them with their ways.")}
{picture("contours", "log p of the learned flow by the divergence of its field, over held-out points.")}
<h2>Digits</h2>
{picture("digits", "Four of each class, by the velocity u + 2 (u(. | class) - u), in 20 midpoint steps.")}
"""
    return pages.document("Continuous flows, from a change of variables to flow matching", body)
