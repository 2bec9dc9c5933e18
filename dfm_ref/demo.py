"""The main job on real data: train on digits and on English, sample, infill, evaluate, verify, draw, and report."""

import html
import json
import math
import platform
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__, checkpoints, data, likelihoods, pages, paths, plots, random, runs, samplers, sources, times
from .guidance import Guided, Labelled
from .nn import train as training
from .nn.train import Config, Trained
from .paths import X0, X1, Fixed, Mixture
from .progress import progress
from .protocols import Array, Backend
from .schedules import Bernstein, Convex, Cosine, CubicHermite, Linear
from .verify import kit, oracle, targets
from .verify.report import document

__all__ = ["independent_nats", "leave", "markov_nats", "run", "total_variations"]

_FRAMES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
_DIGITS = {  # a perceptron, which knows where a pixel is, and the ten classes
    "model": "mlp", "dim": 384, "depth": 2, "batch": 128, "weight_decay": 0.05, "classes": 10
}  # fmt: skip
_ENGLISH = {"dim": 128, "depth": 3, "batch": 32, "learning_rate": 2e-3}
_STEPS = (1, 2, 4, 8, 16, 32, 64)


def run(folder: Path, *, minutes: float, seed: int, backend: Backend) -> None:
    """Does everything, in about so many minutes on two cores, and leaves the report, pictures and checkpoints."""
    leave(_show, _summary, _page, folder, minutes=minutes, seed=seed, backend=backend)


def leave(
    show: Callable[..., tuple[dict[str, Any], dict[str, Any]]],
    summary: Callable[[dict[str, Any]], str],
    page: Callable[[dict[str, Any], dict[str, bytes]], str],
    folder: Path,
    *,
    minutes: float,
    seed: int,
    backend: Backend,
) -> None:
    """Runs `show(folder, minutes, seed, backend)`, which gives the report and the figures by name, and leaves both.

    In the folder stand the figures as PNG, report.json, and report.html, which is the `page` of the report and its
    images; the summary is printed. ValueError for minutes that are not positive.
    """
    if not 0 < minutes < math.inf:
        raise ValueError(f"--minutes: expected a number > 0, got {minutes}")
    begun = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "dfm_ref": __version__,
        "python": platform.python_version(),
        "backend": backend.name,
        "seed": seed,
        "minutes": minutes,
    }
    shown, figures = show(folder, minutes, seed, backend)
    report |= shown
    images = {name: plots.to_png(figure) for name, figure in figures.items()}
    report["seconds"] = round(time.monotonic() - begun, 1)
    for name, image in images.items():
        checkpoints.write(folder / f"{name}.png", image)
    checkpoints.write(folder / "report.json", json.dumps(report, indent=1).encode())
    checkpoints.write(folder / "report.html", page(report, images).encode())
    print(summary(report))
    print(f"{folder / 'report.html'}: the report, after {report['seconds']} s")


def _show(folder: Path, minutes: float, seed: int, backend: Backend) -> tuple[dict[str, Any], dict[str, Any]]:
    seconds = 60 * minutes
    digits = _job("digits", folder, seed, backend, 0.3 * seconds, **_DIGITS, steps=max(1, int(400 * minutes)))
    english = _job("pydoc", folder, seed, backend, 0.55 * seconds, **_ENGLISH, steps=max(1, int(320 * minutes)))
    frames = _frames(digits, seed, backend)
    distances = total_variations(_STEPS)
    bits = {"digits": digits["bits"], "pydoc": english["bits"]}
    return {
        "bits_per_token": bits,
        "training": {"digits": digits["training"], "pydoc": english["training"]},
        "samples": _text(english, seed, backend),
        "total_variation": {"steps": _STEPS, **distances},
        "verification": _verified(seed, backend, 0.04 * seconds),
    }, {
        "generation": plots.generation(frames, _FRAMES, levels=17),
        "guided": plots.images(_guided(digits, seed, backend), [str(digit) for digit in range(10)], levels=17),
        "bits_per_token": plots.losses(bits),
        "probability_path": plots.probability_path(*_probability_paths()),
        "convergence": plots.convergence(_STEPS, distances),
    }


def _job(name: str, folder: Path, seed: int, backend: Backend, seconds: float, **settings: Any) -> dict[str, Any]:
    """Trains on a dataset for at most so many seconds, and evaluates on its test split beside the baselines."""
    length = 64
    train, test = (data.load(name, length=length, split=split) for split in ("train", "test"))
    config = Config(train.vocab_size + 1, length, warmup=50, seed=seed, **settings)
    state = training.init(config, asarray=backend.asarray)
    (folder / name).mkdir(exist_ok=True)
    file = folder / name / "checkpoint.safetensors"
    job = runs.Run(config, name, train.characters)
    begun = time.monotonic()
    labels = train.labels if config.classes else None
    state = runs.train(job, train.x_1, state, file, backend=backend, labels=labels, seconds=seconds)
    trained = {"steps": state.optimiser.step, "of": config.steps, "seconds": round(time.monotonic() - begun, 1)}
    held_out = test.x_1[:: max(1, len(test.x_1) // 256)][:256]
    known = train.x_1 if name == "digits" else train.x_1[::length]
    per_place = name == "digits"
    nats = {
        "this model (bound)": runs.bound(config, state.average, random.key(seed), held_out, backend=backend, draws=2),
        "first-order Markov": markov_nats(known, held_out, train.vocab_size, per_place=per_place),
        "independent tokens": independent_nats(known, held_out, train.vocab_size, per_place=per_place),
    }
    bits = {label: float(np.mean(likelihoods.bits_per_token(n, length))) for label, n in nats.items()}
    ours = likelihoods.bits_per_token(nats["this model (bound)"], length)
    trained |= {"held_out": len(held_out), "standard_error": float(np.std(ours) / math.sqrt(len(ours)))}
    return {"run": job, "params": state.average, "bits": bits, "training": trained, "test": test}


def independent_nats(train: np.ndarray, test: np.ndarray, vocab_size: int, *, per_place: bool) -> Array:
    """-log p of each sequence, float64[M] in nats, where tokens are independent: counts, and one more for each token.

    >>> independent_nats(np.array([[0, 0]]), np.array([[0, 1]]), 2, per_place=False) / math.log(2)
    array([2.4...])
    """
    counts = np.ones((test.shape[1], vocab_size))
    np.add.at(counts, (np.arange(test.shape[1]), train), 1)
    if not per_place:
        counts[:] = np.sum(counts - 1, axis=0) + 1
    pmf = counts / counts.sum(axis=-1, keepdims=True)
    return -np.sum(np.log(pmf[np.arange(test.shape[1]), test]), axis=-1)


def markov_nats(train: np.ndarray, test: np.ndarray, vocab_size: int, *, per_place: bool) -> Array:
    """-log p of each sequence, float64[M] in nats, where a token depends on the one before it.

    Counts of pairs, and beside them the independent law with the weight of one token.

    >>> markov_nats(np.array([[0, 1, 0, 1]]), np.array([[0, 1]]), 2, per_place=False) / math.log(2)
    array([0.79141338])
    """
    before, after = train[:, :-1], train[:, 1:]
    places = np.arange(test.shape[1] - 1) if per_place else np.zeros(test.shape[1] - 1, dtype=int)
    counts = np.zeros((places.max(initial=0) + 1, vocab_size, vocab_size))
    np.add.at(counts, (places, before, after), 1)
    alone = np.ones((len(counts), vocab_size)) + counts.sum(axis=1)
    pmf = counts + (alone / alone.sum(axis=-1, keepdims=True))[:, None, :]
    pmf /= pmf.sum(axis=-1, keepdims=True)
    start = independent_nats(train[:, :1], test[:, :1], vocab_size, per_place=True)
    return start - np.sum(np.log(pmf[places, test[:, :-1], test[:, 1:]]), axis=-1)


def total_variations(steps: tuple[int, ...]) -> dict[str, dict[str, list[float]]]:
    """TV between the data's law and the law after so many equal steps, by exact propagation with exact posteriors.

    Two tokens that depend on each other; on a cubic mask path and on one of three components (x_0, uniform, x_1).

    >>> curves = total_variations((1, 2))
    >>> {name: sorted(curve) for name, curve in curves.items()}["cubic, mask source"]
    ['Euler', 'finite step']
    """
    q = np.array([[0.40, 0.05, 0.05], [0.02, 0.15, 0.08], [0.10, 0.05, 0.10]])
    q_mask = np.zeros((4, 4))
    q_mask[:3, :3] = q
    mask, uniform = np.eye(4)[[3, 3]], np.full((2, 3), 1 / 3)
    nobody = np.zeros(2, dtype=bool)
    points = [oracle.at_x_0, oracle.at_x_1]
    two = oracle.enumerate_pairs(oracle.prompted(q_mask.ravel(), mask, nobody), np.stack([w(4) for w in points]))
    noise = np.stack([oracle.at_x_0(3), oracle.fixed(uniform[0]), oracle.at_x_1(3)])
    three = oracle.enumerate_pairs(oracle.prompted(q.ravel(), uniform, nobody), noise)
    cubic = np.array([[[1.0, 0, 0, -1], [0, 0, 0, 1]]] * 2)  # 1 - t^3, t^3
    quadratic = np.array([[[1.0, -2, 1], [0, 2, -2], [0, 0, 1]]] * 2)  # (1-t)^2, 2t(1-t), t^2
    return {
        "cubic, mask source": _curves(two, cubic, q_mask.ravel(), steps),
        "three components": _curves(three, quadratic, q.ravel(), steps),
    }


def _curves(problem: oracle.Problem, coef: np.ndarray, q: np.ndarray, steps: tuple[int, ...]) -> dict[str, list[float]]:
    def finite(t: float, s: float) -> Array:
        kappa = oracle.evaluate(coef, t)
        c, stay = oracle.finite_coefficients(kappa, oracle.evaluate(coef, s))
        return oracle.joint_kernel(oracle.finite_kernel(c, stay, oracle.posteriors(problem, kappa).w_hat))

    def euler(t: float, s: float) -> Array:
        kappa = oracle.evaluate(coef, t)
        a, b, _ = oracle.coefficients(kappa, oracle.evaluate(oracle.derivative(coef), t))
        c, stay = oracle.clipped_coefficients(a, b, s - t)
        return oracle.joint_kernel(oracle.finite_kernel(c, stay, oracle.posteriors(problem, kappa).w_hat))

    def distance(kernel: Any, k: int) -> float:
        p_0 = oracle.marginal(problem, oracle.evaluate(coef, 0.0))
        laws = oracle.propagate(p_0, [kernel(t, s) for t, s in pairwise(times.grid(k))])
        return float(oracle.total_variation(laws[-1], q))

    return {name: [distance(f, k) for k in steps] for name, f in (("Euler", euler), ("finite step", finite))}


def _probability_paths() -> tuple[list[float], dict[str, np.ndarray], list[str]]:
    """p_t of one token from x_0 = 0 to x_1 = 2 on four paths."""
    grid = times.grid(100)
    t = np.asarray(grid)
    x_0, x_1 = np.full((len(t), 1), 0), np.full((len(t), 1), 2)
    bump = Convex((Bernstein((1.0, 0.0, 0.0)), Bernstein((0.0, 1.0, 0.0)), Bernstein((0.0, 0.0, 1.0))))
    shown = {
        "linear": Mixture(Linear()),
        "cosine": Mixture(Cosine()),
        "cubic (a = 0, b = 2)": Mixture(CubicHermite(a=0.0, b=2.0)),
        "three components": Mixture(bump, (X0(), Fixed((0.2, 0.2, 0.2, 0.2, 0.2)), X1())),
    }
    pmfs = {name: paths.pmf(path, x_0, x_1, t, vocab_size=5)[:, 0, :] for name, path in shown.items()}
    return grid, pmfs, ["0 = x_0", "1", "2 = x_1", "3", "4"]


def _frames(job: dict[str, Any], seed: int, backend: Backend) -> Array:
    """Six digits on their way, tokens int[len(_FRAMES), 6, 8, 8]."""
    grid = times.grid(64)
    config, params = job["run"].config, job["params"]
    states = runs.sample(config, params, random.key(seed), 6, grid, backend=backend, frames=True)
    return states[[grid.index(t) for t in _FRAMES]].reshape(len(_FRAMES), 6, 8, 8)


def _guided(job: dict[str, Any], seed: int, backend: Backend) -> Array:
    """Four of each digit, tokens int[10, 4, 8, 8]: guided to its class at strength 3, from the model without one."""
    config, key = job["run"].config, random.key(seed)
    model, labels = Trained(config, job["params"]), backend.asarray(np.repeat(np.arange(10), 4))
    guided = Guided(Labelled(model, labels), model, strength=3.0)
    x_0 = sources.sample(training.source(config), key, (len(labels), config.length), xp=backend.xp)
    x_1 = samplers.sample(training.path(config), guided, key, x_0, times.grid(64))
    return backend.to_numpy(x_1).reshape(10, 4, 8, 8)


def _text(job: dict[str, Any], seed: int, backend: Backend) -> dict[str, Any]:
    """Samples of English, and a line of held-out text whose middle is left open and filled in."""
    config, params, characters = job["run"].config, job["params"], job["run"].characters
    key, grid = random.key(seed), times.grid(64)
    free = runs.sample(config, params, key, 6, grid, backend=backend)
    prompt = job["test"].x_1[3]
    keep = np.abs(np.arange(config.length) - config.length / 2) > config.length / 8
    filled = runs.sample(config, params, key, 4, grid, backend=backend, prompt=prompt, keep=keep)
    return {
        "free": [data.decode(row, characters) for row in free],
        "prompt": data.decode(np.where(keep, prompt, len(characters)), characters),
        "infilled": [data.decode(row, characters) for row in filled],
        "original": data.decode(prompt, characters),
    }


def _verified(seed: int, backend: Backend, seconds: float) -> dict[str, Any]:
    """What the verifier says of this library on the backend, after about so many seconds."""
    (target,) = targets.resolve(f"dfm_ref:{backend.name}")
    watch = partial(progress, label="verify", total=len(target.suite.laws))
    found = kit.verify(
        target.build,
        target=target.name,
        setup=target.setup,
        limit=target.limit,
        quick=True,
        seed=seed,
        seconds=seconds,
        watch=watch,
    )
    return document([found])


def _verdict(report: dict[str, Any]) -> str:
    """How many laws hold, and which are broken."""
    (run,) = report["verification"]["runs"]
    ids = {status: [law["id"] for law in run["laws"] if law["status"] == status] for status in ("holds", "broken")}
    broken = f", broken: {', '.join(ids['broken'])}" if ids["broken"] else ""
    return f"{run['target']}: {len(ids['holds'])} of {len(run['laws'])} laws hold{broken}"


def _summary(report: dict[str, Any]) -> str:
    lines = [
        f"{name:8} {label:20} {bits:.3f} bits per token"
        for name, values in report["bits_per_token"].items()
        for label, bits in values.items()
    ]
    infilled = [f"prompt   {report['samples']['prompt']!r}", f"infilled {report['samples']['infilled'][0]!r}"]
    return "\n".join([*lines, *infilled, f"verify   {_verdict(report)}"])


def _page(report: dict[str, Any], images: dict[str, bytes]) -> str:
    """The report as one page of HTML that needs no other file."""

    def picture(name: str, caption: str) -> str:
        return pages.picture(images[name], caption)

    def lines(texts: list[str]) -> str:
        return pages.lines([repr(text)[1:-1] for text in texts])

    samples = report["samples"]
    trained = "; ".join(
        f"{name}: {t['steps']} of {t['of']} steps in {t['seconds']} s, evaluated on {t['held_out']} sequences, "
        f"standard error {t['standard_error']:.3f}"
        for name, t in report["training"].items()
    )
    body = f"""<p>dfm_ref {report["dfm_ref"]} on {html.escape(report["backend"])}, seed {report["seed"]},
{report["seconds"]} s in all.
Training: {html.escape(trained)}.</p>
<h2>Digits</h2>
{picture("generation", "Six 8x8 digits generated from masks (blue), a token redrawn an event; each column a time.")}
{picture("guided", "Four of each class, guided: every posterior p(. | class) replaced by p(. | class)^3 p(.)^(-2).")}
<h2>English</h2>
<p>Samples of the library reference of Python, character by character:</p>{lines(samples["free"])}
<p>A held-out line with its middle left open (_), four ways to fill it, and the original:</p>
{lines([samples["prompt"], *samples["infilled"], samples["original"]])}
<h2>Held-out likelihood</h2>
{picture("bits_per_token", "The bound on -log p of the trained models beside two exact baselines; lower is better.")}
<h2>Paths and steps</h2>
{picture("probability_path", "The law of one token over time, given the pair x_0 = 0, x_1 = 2.")}
{picture("convergence", "Total variation to the data's law after K equal steps, by exact propagation on all states.")}
<h2>Verification</h2>
<p>The verifier, in a few seconds, on the library that made this page: {html.escape(_verdict(report))}.</p>
"""
    return pages.document("Discrete flow matching, from data to samples", body)
