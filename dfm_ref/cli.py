"""The command line: dfm-ref demo | train | sample | evaluate | backends.

A user's mistake is one line on standard error and exit 2; an interrupt is exit 130.
"""

import argparse
import importlib.util
import io
import math
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

from . import __version__, backends, checkpoints, data, likelihoods, random, samplers, sources, times
from .backends import Backend, BackendError
from .checks import tokens as check_tokens
from .nn import train as training
from .nn.train import Config, ConfigError, State, Trained
from .protocols import Key

__all__ = ["main"]

T = TypeVar("T")

TILE = 64
"""Sequences sampled together: the model sees whole tiles placed by global index, so that --num changes no token."""

SAVE_EVERY = 30.0
"""Seconds of training between checkpoints."""

_DEFAULT_LENGTH = 64


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
    except KeyboardInterrupt:
        return 130
    except (ValueError, TypeError, OSError, BackendError) as error:
        print(f"dfm-ref: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


# Commands


def demo(options: argparse.Namespace) -> None:
    """Trains on digits and on English, samples, infills, evaluates and draws."""
    from .demo import run

    run(Path(options.out), minutes=options.minutes, seed=options.seed, backend=backends.load(options.backend))


def train(options: argparse.Namespace) -> None:
    """Trains a model and leaves a checkpoint that a later run can resume."""
    backend = backends.load(options.backend)
    folder = Path(options.out)
    file = folder / "checkpoint.safetensors"
    asked = _settings(options)
    if file.exists() and not options.resume:
        raise ValueError(f"--out: expected a folder without a checkpoint, got {file}; --resume continues it")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if file.exists():
            config, state, description = _resume(file, asked, backend)
            x_1 = _dataset(options.data, config.length, description).x_1
        else:
            length = asked.pop("length", None)
            dataset = data.load(options.data, length=length or _default_length(options.data))
            masked = asked.get("source", "mask") == "mask"
            config = Config(dataset.vocab_size + masked, dataset.x_1.shape[1], **asked)
            x_1 = dataset.x_1
            state = training.init(config, asarray=backend.asarray)
            description = {"data": options.data, "characters": dataset.characters}
        check_tokens("data", x_1, config.vocab_size)
        _train(config, x_1, state, file, description, backend)


def sample(options: argparse.Namespace) -> None:
    """Samples sequences from a checkpoint: text, or arrays of tokens."""
    if options.num < 0:
        raise ValueError(f"--num: expected a number >= 0, got {options.num}")
    config, params, description = _load(options.checkpoint)
    prompt, keep = _prompt(options.prompt, options.hole, config, description["characters"])
    backend = backends.load(options.backend)
    grid = times.grid(options.steps)
    key = random.key(options.seed)
    x_1 = _sample(config, params, key, options.num, grid, prompt, keep, backend)
    if backend.name != "numpy" and options.num:
        reference = _sample(config, params, key, min(TILE, options.num), grid, prompt, keep, backends.load("numpy"))
        share = float(np.mean(reference == x_1[:TILE]))
        where = sys.stdout if options.out else sys.stderr
        print(f"tokens equal to numpy's in the first {len(reference)} sequences: {share:.2%}", file=where)
    if options.out:
        _save_array(Path(options.out), x_1)
    elif description["characters"]:
        print("\n".join(data.decode(row, description["characters"]) for row in x_1))
    else:
        np.savetxt(sys.stdout, x_1, fmt="%d")


def evaluate(options: argparse.Namespace) -> None:
    """Prints a bound on -log p of data, with its standard error over the sequences."""
    config, params, description = _load(options.checkpoint)
    x_1 = _dataset(options.data, config.length, description, split="test").x_1
    check_tokens("data", x_1, config.vocab_size - (config.source == "mask"))
    nats = bound(config, params, x_1[: options.limit], backends.load(options.backend), options.seed, options.draws)
    mean, error = float(np.mean(nats)), float(np.std(nats) / math.sqrt(max(1, len(nats) - 1)))
    bits = [likelihoods.bits_per_token(value, config.length) for value in (mean, error)]
    print(f"data: {len(nats)} sequences of {config.length} tokens from {options.data}")
    print(f"bound on -log p: {mean:.4f} +- {error:.4f} nats per sequence")
    print(f"bound on -log p: {bits[0]:.4f} +- {bits[1]:.4f} bits per token")


def list_backends(options: argparse.Namespace) -> None:
    """Prints what is installed, what works, and what to install."""
    for name in backends.names():
        try:
            print(f"{name:8} works: {backends.load(name).xp.__name__}")
        except BackendError as error:
            print(f"{name:8} {error}")


# What the commands are made of


def bound(config: Config, params: Any, x_1: np.ndarray, backend: Backend, seed: int, draws: int) -> np.ndarray:
    """A bound on -log p of each sequence, float64[M] in nats: the mean of some draws of the estimator."""
    path, source = training.path(config), training.source(config)
    model = Trained(config, {name: backend.asarray(p) for name, p in params.items()})
    nats = np.zeros(len(x_1))
    for first in _progress(range(0, len(x_1), TILE), "evaluating"):
        tile = backend.asarray(np.ascontiguousarray(x_1[first : first + TILE]))
        for draw in range(draws):
            key = random.fold_in(random.key(seed), draw)
            if path.mask is not None:
                value = likelihoods.mask_bound(path, model, key, tile, first=first)
            else:
                value = likelihoods.bound(path, source, model, key, tile, T=0.999, first=first)
            nats[first : first + TILE] += backend.to_numpy(value) / draws
    return nats


def _sample(
    config: Config,
    params: Any,
    key: Key,
    num: int,
    grid: list[float],
    prompt: np.ndarray,
    keep: np.ndarray,
    backend: Backend,
) -> np.ndarray:
    """x_1, int64[num, N], in whole tiles placed by global index; `prompt`, int[N], stands where `keep`, bool[N]."""
    xp, path, source = backend.xp, training.path(config), training.source(config)
    model = Trained(config, {name: backend.asarray(p) for name, p in params.items()})
    source_key, path_key = random.split(key)
    shape = (TILE, config.length)
    fixed, kept = (backend.asarray(np.broadcast_to(a, shape).copy()) for a in (prompt, keep))
    tiles = [np.zeros((0, config.length), dtype=np.int64)]
    for first in _progress(range(0, num, TILE), "sampling"):
        x_0 = xp.where(kept, fixed, sources.sample(source, source_key, shape, first=first, xp=xp))
        x_1 = backend.fused(samplers.sample)(path, model, path_key, x_0, grid, keep=kept, first=first)
        tiles.append(backend.to_numpy(x_1))
    return np.concatenate(tiles)[:num]


def _train(
    config: Config, x_1: np.ndarray, state: State, file: Path, description: dict[str, Any], backend: Backend
) -> None:
    """Trains to the last step; a checkpoint now and then, at the end, and on an interrupt."""

    def save() -> None:
        step = state.optimiser.step
        checkpoints.save(file, training.to_arrays(state), description | {"config": asdict(config), "step": step})

    saved = time.monotonic()
    total = config.steps - state.optimiser.step
    try:
        run = training.train(config, x_1, state, asarray=backend.asarray)
        for state, loss in _progress(run, "training", total, lambda item: f"loss {float(item[1]):.4f}"):  # noqa: B007
            if time.monotonic() - saved > SAVE_EVERY:
                save()
                saved = time.monotonic()
    finally:
        save()
    print(f"{file}: {state.optimiser.step} steps")


def _resume(file: Path, asked: dict[str, Any], backend: Backend) -> tuple[Config, State, dict[str, Any]]:
    """The run that a checkpoint holds; of its settings only the number of steps may change."""
    arrays, description = checkpoints.load(file)
    config = Config(**description.pop("config"))
    for name, value in asked.items():
        if name != "steps" and getattr(config, name) != value:
            raise ConfigError(f"{name}: expected {getattr(config, name)!r}, as {file} has it, got {value!r}")
    state = training.from_arrays(description.pop("step"), arrays, asarray=backend.asarray)
    return replace(config, steps=asked.get("steps", config.steps)), state, description


def _load(name: str) -> tuple[Config, dict[str, np.ndarray], dict[str, Any]]:
    """The configuration, averaged parameters and description of a checkpoint, a file or the folder that holds one."""
    file = Path(name)
    arrays, description = checkpoints.load(file / "checkpoint.safetensors" if file.is_dir() else file)
    try:
        config = Config(**description["config"])
        return config, training.from_arrays(description["step"], arrays).average, description
    except (KeyError, TypeError) as error:
        raise checkpoints.CheckpointError(f"{file}: expected a trained model of dfm_ref, got {error}") from None


def _dataset(source: str, length: int, description: dict[str, Any], split: str = "train") -> data.Dataset:
    """Data for a trained model: of its length, in its characters."""
    return data.load(source, length=length, split=split, characters=description["characters"])


def _default_length(source: str) -> int | None:
    return _DEFAULT_LENGTH if source == "pydoc" or source.startswith("text:") else None


def _prompt(text: str, hole: str, config: Config, characters: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of a prompt, int64[N], and where they stand, bool[N]: at its characters, but for the holes."""
    if text and not characters:
        raise ValueError("--prompt: expected a checkpoint trained on text")
    if len(text) > config.length:
        raise ValueError(f"--prompt: expected at most {config.length} characters, got {len(text)}")
    open_places = [character == hole for character in text]
    filled = "".join((characters or "")[:1] if is_open else c for c, is_open in zip(text, open_places, strict=True))
    rest = config.length - len(text)
    tokens = np.pad(data.encode(filled, characters or ""), (0, rest))
    return tokens, ~np.pad(np.asarray(open_places, dtype=bool), (0, rest), constant_values=True)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The training settings that the user gave: those of the TOML file, and over them the flags."""
    names = {field.name for field in fields(Config)} - {"vocab_size"}
    settings: dict[str, Any] = {}
    if options.config:
        try:
            settings = tomllib.loads(Path(options.config).read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{options.config}: expected TOML, got {error}") from None
        if unknown := sorted(set(settings) - names):
            raise ConfigError(f"{options.config}: expected keys among {', '.join(sorted(names))}, got {unknown[0]}")
    return settings | {name: value for name in names if (value := getattr(options, name)) is not None}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; the operating system lets go when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # a system without such locks
        yield
        return
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"--out: expected a folder of its own, but another run trains in {folder}") from None
        yield


def _save_array(file: Path, x: np.ndarray) -> None:
    stream = io.BytesIO()
    np.save(stream, x)
    checkpoints.write(file, stream.getvalue())
    print(f"{file}: {x.shape[0]} sequences of {x.shape[1]} tokens")


def _progress(
    items: Iterable[T], label: str, total: int | None = None, describe: Callable[[T], str] = lambda item: ""
) -> Iterator[T]:
    """The items, with a bar on a terminal that has rich, and elsewhere a plain line at most every five seconds."""
    total = len(items) if isinstance(items, Sized) else total
    with _reporter(label, total) as report:
        for done, item in enumerate(items, start=1):
            report(done, lambda item=item: describe(item))  # type: ignore[misc]
            yield item


@contextmanager
def _reporter(label: str, total: int | None) -> Iterator[Callable[[int, Callable[[], str]], None]]:
    if sys.stderr.isatty() and importlib.util.find_spec("rich"):
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda done, text: bar.update(task, completed=done, description=f"{label} {text()}")
        return
    shown = time.monotonic()

    def line(done: int, text: Callable[[], str]) -> None:
        nonlocal shown
        if done == total or time.monotonic() - shown > 5:
            shown = time.monotonic()
            print(f"{label} {done}/{total} {text()}".rstrip(), file=sys.stderr)

    yield line


# Arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}", file=sys.stderr)  # one line; --help has the rest
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="dfm-ref", description="Discrete Flow Matching, the reference implementation.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.add_argument("--backend", default="numpy", help="the array library to run on; see dfm-ref backends")
        sub.set_defaults(run=run)
        return sub

    sub = command("demo", demo)
    sub.add_argument("--out", default="demo", metavar="DIR", help="where the report goes (default: demo)")
    sub.add_argument("--minutes", type=float, default=2.5, help="how long it may take on 2 cores (default: 2.5)")
    sub.add_argument("--seed", type=int, default=0)

    sub = command("train", train)
    sub.add_argument("--data", required=True, metavar="SOURCE", help="text:FILE, pydoc, digits or FILE.npy (int[M, N])")
    sub.add_argument("--out", required=True, metavar="DIR", help="the folder of the checkpoint")
    sub.add_argument("--resume", action="store_true", help="continue the checkpoint in DIR, if there is one")
    sub.add_argument("--config", metavar="FILE.toml", help="settings, named as the flags below")
    for field in fields(Config):
        if field.name != "vocab_size":
            known = "" if field.default is MISSING else f"default: {field.default}"
            sub.add_argument(f"--{field.name.replace('_', '-')}", type=field.type, help=known)

    sub = command("sample", sample)
    sub.add_argument("checkpoint", metavar="CHECKPOINT")
    sub.add_argument("--num", type=int, required=True, metavar="M", help="how many sequences")
    sub.add_argument("--steps", type=int, default=64, metavar="K", help="steps from t = 0 to 1 (default: 64)")
    sub.add_argument("--prompt", default="", metavar="TEXT", help="characters that every sample begins with")
    sub.add_argument("--hole", default="", metavar="CHAR", help="in the prompt: a place left open")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--out", metavar="FILE.npy", help="write int64[M, N] instead of printing")

    sub = command("evaluate", evaluate)
    sub.add_argument("checkpoint", metavar="CHECKPOINT")
    sub.add_argument("--data", required=True, metavar="SOURCE", help="as for train; pydoc and digits: the test split")
    sub.add_argument("--draws", type=int, default=4, help="times at which each sequence is looked at (default: 4)")
    sub.add_argument("--limit", type=int, metavar="M", help="the first M sequences only")
    sub.add_argument("--seed", type=int, default=0)

    command("backends", list_backends).add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser
