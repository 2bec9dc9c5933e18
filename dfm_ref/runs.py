"""Runs: training with checkpoints, and sampling and evaluating with what they hold, on any backend."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import checkpoints, couplings, likelihoods, random, samplers, sources
from .guidance import Guided, Hidden, Labelled, Shaped
from .nn import train as training
from .nn.train import Config, ConfigError, State, Trained
from .progress import progress
from .protocols import Array, Backend, Key, Model, Params

__all__ = [
    "TILE",
    "Run",
    "Steering",
    "bound",
    "changed",
    "enumerable",
    "enumerated",
    "importance_bound",
    "load",
    "locked",
    "resume",
    "sample",
    "save",
    "steered",
    "train",
]

TILE = 64
"""Sequences that the model sees together, placed by global index: so a larger number or a shard changes no token."""

_SECONDS_BETWEEN_CHECKPOINTS = 30.0
_TOLERANCE = 1e-4  # of enumerated nats: networks round at float32
_LAST_TIME = 0.999  # where the bound of a path without a mask stops: it is infinite at 1


class Run(NamedTuple):
    """What a checkpoint holds, beside arrays: the configuration, and where the data came from."""

    config: Config
    data: str
    characters: str | None = None


@dataclass(frozen=True)
class Steering:
    """How samples are to leave the law that was learned, see `guidance`: in no way, unless told.

    A class label of a model with classes; the strength of guidance towards it, or else towards the prompt; then the
    shape of every posterior, and tokens that are never drawn.
    """

    label: int | None = None
    guidance: float | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    banned: tuple[int, ...] = ()


_UNSTEERED = Steering()


def train(
    run: Run,
    x_1: np.ndarray,
    state: State,
    file: Path,
    *,
    backend: Backend,
    labels: np.ndarray | None = None,
    seconds: float = float("inf"),
) -> State:
    """Trains to the last step, or for so many seconds; saves now and then, at the end, and when interrupted."""
    begun = saved = time.monotonic()
    total = run.config.steps - state.optimiser.step
    gradients = backend.fused(training.gradients)
    steps = training.train(run.config, x_1, state, labels=labels, asarray=backend.asarray, gradients=gradients)
    try:
        with np.errstate(all="ignore"):  # what overflows is told when it is saved
            for state, _ in progress(steps, "training", total, lambda item: f"loss {float(item[1]):.4f}"):
                now = time.monotonic()
                if now - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                    save(run, state, file)
                    saved = now
                if now - begun > seconds:
                    break
    finally:
        save(run, state, file)
    return state


def save(run: Run, state: State, file: Path) -> None:
    """Writes a checkpoint in place of the file, whole or not at all; ValueError where training has diverged."""
    arrays = training.to_arrays(state)
    if not all(np.all(np.isfinite(a)) for a in arrays.values()):
        step = state.optimiser.step
        raise ValueError(f"learning_rate: expected steps that stay finite, got other parameters by step {step}")
    description = {"config": asdict(run.config), "data": run.data, "characters": run.characters}
    checkpoints.save(file, arrays, description | {"step": state.optimiser.step})


def resume(file: Path, *, backend: Backend) -> tuple[Run, State]:
    """The run and the state of a checkpoint, to go on from."""
    arrays, description = checkpoints.load(file)
    try:
        run = Run(Config(**description["config"]), description["data"], description["characters"])
        step = description["step"]
    except (KeyError, TypeError, ConfigError) as error:
        raise checkpoints.CheckpointError(f"{file}: expected a training run of dfm_ref, got {error}") from None
    if not (type(step) is int and step >= 0 and isinstance(run.characters, str | None)):
        raise checkpoints.CheckpointError(f"{file}: expected a training run of dfm_ref, got step {step!r}")
    shapes = {
        f"{group}/{name}": shape
        for group in ("params", "average", "mean", "square")
        for name, shape in training.network(run.config).shapes().items()
    }
    if {name: (a.shape, a.dtype.name) for name, a in arrays.items()} != {n: (s, "float32") for n, s in shapes.items()}:
        raise checkpoints.CheckpointError(f"{file}: expected the parameters of {run.config}, got others")
    if not all(np.all(np.isfinite(a)) for a in arrays.values()):
        raise checkpoints.CheckpointError(f"{file}: expected parameters that are finite, got others")
    arrays = {name: arrays[name] for name in shapes}  # a file sorts them, and the norm that clips sums in their order
    return run, training.from_arrays(step, arrays, asarray=backend.asarray)


def load(file: Path, *, backend: Backend) -> tuple[Run, Params]:
    """The run and the averaged parameters of a checkpoint, a file or the folder that holds one."""
    run, state = resume(file / "checkpoint.safetensors" if file.is_dir() else file, backend=backend)
    return run, state.average


def sample(
    config: Config,
    params: Params,
    key: Key,
    num: int,
    times: list[float],
    *,
    backend: Backend,
    prompt: np.ndarray | None = None,
    keep: np.ndarray | None = None,
    steering: Steering = _UNSTEERED,
    walk: Callable[..., Array] = samplers.sample,
    frames: bool = False,
) -> np.ndarray:
    """Sequences int64[num, N] of the model, or with `frames` int64[len(times), num, N], sampled in whole tiles.

    The sampler is `walk`: the finite step on the grid of times, or another such as `exact.finished`. The tokens of
    `prompt`, int[N], stand where `keep`, bool[N], holds.
    """
    xp, path, source = backend.xp, training.path(config), training.source(config)
    source_key, path_key = random.split(key)
    shape = (TILE, config.length)
    prompt = np.zeros(config.length, dtype=np.int64) if prompt is None else prompt
    keep = np.zeros(config.length, dtype=bool) if keep is None else keep
    model = steered(config, params, steering, keep=keep, backend=backend)
    x_1, kept = (backend.asarray(np.broadcast_to(row, shape).copy()) for row in (prompt, keep))
    tiles = [np.zeros((len(times), 0, config.length), dtype=np.int64)]
    firsts = range(0, num, TILE)
    for first in progress(firsts, "sampling", len(firsts)):
        x_0 = xp.where(kept, x_1, sources.sample(source, source_key, shape, first=first, xp=xp))
        tile = backend.fused(walk)(path, model, path_key, x_0, times, keep=kept, frames=frames, first=first)
        tiles.append(backend.to_numpy(tile).reshape(-1, *shape))
    states = np.concatenate([tile[-len(tiles[-1]) :] for tile in tiles], axis=1)[:, :num]
    return states if frames else states[-1]


def steered(config: Config, params: Params, steering: Steering, *, keep: np.ndarray, backend: Backend) -> Model:
    """The model that samples: the one that was learned, guided and shaped; `keep`, bool[N], is where a prompt stands.

    Towards a label the guide is the model without one; towards a prompt, of a mask path, the model that does not see
    it. ValueError where there is nothing to guide towards.
    """
    trained, mask = Trained(config, params), training.path(config).mask
    label, strength = steering.label, steering.guidance
    model: Model = trained
    if label is not None:
        if not 0 <= label < config.classes:
            known = f"a label in [0, {config.classes})" if config.classes else "a checkpoint trained with --classes"
            raise ValueError(f"--label: expected {known}, got {label}")
        model = Labelled(trained, label)
    if strength is not None:
        if not 0 <= strength < float("inf"):
            raise ValueError(f"--guidance: expected a number >= 0, got {strength}")
        guide: Model = trained
        if label is None:
            if mask is None or not keep.any():
                raise ValueError("--guidance: expected a --label, or a --prompt of a masked source, to guide towards")
            guide = Hidden(trained, backend.asarray(keep), mask)
        model = Guided(model, guide, strength)
    if (steering.temperature, steering.top_p, steering.banned) != (1.0, 1.0, ()):
        banned = steering.banned if mask is None else (*steering.banned, mask)  # else a nucleus would count the mask
        model = Shaped(model, steering.temperature, steering.top_p, banned)
    return model


def bound(config: Config, params: Params, key: Key, x_1: np.ndarray, *, backend: Backend, draws: int = 1) -> np.ndarray:
    """A bound on -log p of each sequence of int[M, N], float64[M] in nats: the mean of some draws of its estimator."""
    path, source, model = training.path(config), training.source(config), Trained(config, params)
    nats = np.zeros(len(x_1))
    firsts = range(0, len(x_1), TILE)
    for first in progress(firsts, "evaluating", len(firsts)):
        tile = backend.asarray(np.ascontiguousarray(x_1[first : first + TILE]))
        for draw in range(draws):
            draw_key = random.fold_in(key, draw)
            if path.mask is None:
                source_key, path_key = random.split(draw_key)
                x_0 = couplings.independent(source, source_key, tile, first=first).x_0
                value = likelihoods.bound(path, model, path_key, x_0, tile, T=_LAST_TIME, first=first)
            else:
                value = likelihoods.mask_bound(path, model, draw_key, tile, first=first)
            nats[first : first + TILE] += backend.to_numpy(value) / draws
    return nats


def importance_bound(
    config: Config, params: Params, key: Key, x_1: np.ndarray, *, backend: Backend, orders: int
) -> np.ndarray:
    """The bound of a mask model by so many orders of each sequence of int[M, N], float64[M] in nats."""
    path, model = training.path(config), Trained(config, params)
    if path.mask is None:
        raise ValueError("--orders: expected a checkpoint of a masked source")
    tiles = [np.zeros(0)]
    firsts = range(0, len(x_1), TILE)
    for first in progress(firsts, "evaluating", len(firsts)):
        tile = backend.asarray(np.ascontiguousarray(x_1[first : first + TILE]))
        nats = likelihoods.importance_bound(path, model, key, tile, orders=orders, first=first)
        tiles.append(backend.to_numpy(nats))
    return np.concatenate(tiles)


def enumerable(config: Config) -> bool:
    """Whether all V**N states of a model can be enumerated."""
    return bool(config.vocab_size**config.length <= likelihoods.MOST_STATES)


def enumerated(config: Config, params: Params, x_1: np.ndarray, *, backend: Backend) -> tuple[np.ndarray, np.ndarray]:
    """The bound without sampling, and the exact -log p, of each sequence of int[M, N]: float64[M] twice, in nats."""
    trained = Trained(config, params)
    known: dict[float, np.ndarray] = {}  # both ask for all states, at the same times

    def model(x_t: np.ndarray, t: np.ndarray) -> np.ndarray:
        if t[0] not in known:
            known[t[0]] = backend.to_numpy(trained(backend.asarray(x_t), backend.asarray(t)))
        return known[t[0]]

    path = training.path(config)
    problem = path, training.source(config), model
    T = _LAST_TIME if path.mask is None else 1.0
    index = x_1 @ config.vocab_size ** np.arange(config.length)[::-1]
    bounds = likelihoods.enumerated_bound(*problem, length=config.length, T=T, tolerance=_TOLERANCE)
    law = likelihoods.law(*problem, length=config.length, T=T, tolerance=_TOLERANCE)
    with np.errstate(divide="ignore"):
        return bounds[index], -np.log(law[index])


def changed(run: Run, settings: dict[str, Any], file: Path) -> Run:
    """The run with its number of steps as asked; ConfigError where any other setting asked for is not its own."""
    for name, value in settings.items():
        if name != "steps" and getattr(run.config, name) != value:
            raise ConfigError(f"{name}: expected {getattr(run.config, name)!r}, as {file} has it, got {value!r}")
    return run._replace(config=replace(run.config, steps=settings.get("steps", run.config.steps)))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder for this process; the operating system lets go when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # a system without such locks
        yield
        return
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: expected a folder of one's own, but another run trains in it") from None
        yield
