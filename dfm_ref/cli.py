"""The command line: dfm-ref demo | train | sample | evaluate | backends.

A user's mistake is one line on standard error and exit 2; an interrupt is exit 130.
"""

import argparse
import io
import math
import os
import sys
import tomllib
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from . import __version__, backends, checkpoints, checks, data, likelihoods, random, runs, times
from .nn import train as training
from .nn.train import Config, ConfigError

__all__ = ["main"]

_DEFAULT_LENGTH = 64  # of a window of text


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has had enough; nothing more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, TypeError, OSError, MemoryError, backends.BackendError) as error:
        print(f"dfm-ref: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def demo(options: argparse.Namespace) -> None:
    """Trains on digits and on English, samples, infills, evaluates and draws."""
    from .demo import run

    run(Path(options.out), minutes=options.minutes, seed=options.seed, backend=backends.load(options.backend))


def train(options: argparse.Namespace) -> None:
    """Trains a model and leaves a checkpoint that a later run can resume."""
    backend, folder, settings = backends.load(options.backend), Path(options.out), _settings(options)
    file = folder / "checkpoint.safetensors"
    if file.exists() and not options.resume:
        raise ValueError(f"--out: expected a folder without a checkpoint, got {file}; --resume continues it")
    folder.mkdir(parents=True, exist_ok=True)
    with runs.locked(folder):
        if file.exists():
            run, state = runs.resume(file, backend=backend)
            run = runs.changed(run, settings, file)
            x_1 = data.load(options.data, length=run.config.length, characters=run.characters).x_1
        else:
            length = settings.pop("length", _default_length(options.data))
            if not (length is None or type(length) is int):
                raise ConfigError(f"length: expected int, got {length!r}")
            dataset = data.load(options.data, length=length)
            vocab_size = dataset.vocab_size + (settings.get("source", "mask") == "mask")
            x_1, config = dataset.x_1, Config(vocab_size, dataset.x_1.shape[1], **settings)
            run = runs.Run(config, options.data, dataset.characters)
            state = training.init(config, asarray=backend.asarray)
        checks.tokens("data", x_1, _data_vocab_size(run.config))
        state = runs.train(run, x_1, state, file, backend=backend)
    print(f"{file}: {state.optimiser.step} steps")


def sample(options: argparse.Namespace) -> None:
    """Samples sequences from a checkpoint: text, or arrays of tokens."""
    if options.num < 0:
        raise ValueError(f"--num: expected a number >= 0, got {options.num}")
    backend, numpy = backends.load(options.backend), backends.load("numpy")
    run, params = runs.load(Path(options.checkpoint), backend=backend)
    prompt, keep = _prompt(options.prompt, options.hole, run)
    grid, key = times.grid(options.steps), random.key(options.seed)
    x_1 = runs.sample(run.config, params, key, options.num, grid, backend=backend, prompt=prompt, keep=keep)
    if backend.name != "numpy" and options.num:
        params = {name: backend.to_numpy(p) for name, p in params.items()}
        few = min(runs.TILE, options.num)
        reference = runs.sample(run.config, params, key, few, grid, backend=numpy, prompt=prompt, keep=keep)
        share = np.mean(reference == x_1[:few])
        print(
            f"tokens equal to numpy's in the first {few} sequences: {share:.2%}",
            file=sys.stdout if options.out else sys.stderr,
        )
    if options.out:
        _save_array(Path(options.out), x_1)
    elif run.characters:
        sys.stdout.writelines(f"{data.decode(row, run.characters)}\n" for row in x_1)
    else:
        np.savetxt(sys.stdout, x_1, fmt="%d")


def evaluate(options: argparse.Namespace) -> None:
    """Prints a bound on -log p of data, with its standard error over the sequences."""
    backend = backends.load(options.backend)
    run, params = runs.load(Path(options.checkpoint), backend=backend)
    length = run.config.length
    for name, value in (("draws", options.draws), ("limit", options.limit)):
        if value is not None and value < 1:
            raise ValueError(f"--{name}: expected a number >= 1, got {value}")
    x_1 = data.load(options.data, length=length, split="test", characters=run.characters).x_1[: options.limit]
    checks.tokens("data", x_1, _data_vocab_size(run.config))
    nats = runs.bound(run.config, params, random.key(options.seed), x_1, backend=backend, draws=options.draws)
    mean, error = float(np.mean(nats)), float(np.std(nats)) / math.sqrt(max(1, len(nats) - 1))
    bits, bits_error = (float(likelihoods.bits_per_token(value, length)) for value in (mean, error))
    print(f"data: {len(nats)} sequences of {length} tokens of {options.data}")
    print(f"bound on -log p: {mean:.4f} nats per sequence (standard error {error:.4f})")
    print(f"bound on -log p: {bits:.4f} bits per token (standard error {bits_error:.4f})")


def list_backends(options: argparse.Namespace) -> None:
    """Prints what is installed, what works, and what to install."""
    for name in backends.names():
        try:
            print(f"{name:8} works: {backends.load(name).xp.__name__}")
        except backends.BackendError as error:
            print(f"{name:8} missing: {error}")


def _default_length(source: str) -> int | None:
    return _DEFAULT_LENGTH if source == "pydoc" or source.startswith("text:") else None


def _data_vocab_size(config: Config) -> int:
    return config.vocab_size - (config.source == "mask")


def _prompt(text: str, hole: str, run: runs.Run) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of a prompt, int64[N], and where they stand, bool[N]: at its characters, but for the holes."""
    characters = run.characters or ""
    if text and not characters:
        raise ValueError("--prompt: expected a checkpoint trained on text")
    if len(hole) > 1:
        raise ValueError(f"--hole: expected one character, got {hole!r}")
    rest = run.config.length - len(text)
    if rest < 0:
        raise ValueError(f"--prompt: expected at most {run.config.length} characters, got {len(text)}")
    is_open = np.asarray([character == hole for character in text], dtype=bool)
    filled = "".join(characters[0] if gap else c for c, gap in zip(text, is_open, strict=True))
    return np.pad(data.encode(filled, characters), (0, rest)), ~np.pad(is_open, (0, rest), constant_values=True)


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


def _save_array(file: Path, x: np.ndarray) -> None:
    stream = io.BytesIO()
    np.save(stream, x)
    checkpoints.write(file, stream.getvalue())
    print(f"{file}: {x.shape[0]} sequences of {x.shape[1]} tokens")


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
        if name != "train":  # which has it among its settings
            sub.add_argument("--seed", type=int, default=0)
        sub.set_defaults(run=run)
        return sub

    sub = command("demo", demo)
    sub.add_argument("--out", default="demo", metavar="DIR", help="where the report goes (default: demo)")
    sub.add_argument("--minutes", type=float, default=2.5, help="how long it may take on 2 cores (default: 2.5)")

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
    sub.add_argument("--out", metavar="FILE.npy", help="write int64[M, N] instead of printing")

    sub = command("evaluate", evaluate)
    sub.add_argument("checkpoint", metavar="CHECKPOINT")
    sub.add_argument("--data", required=True, metavar="SOURCE", help="as for train; pydoc and digits: the test split")
    sub.add_argument("--draws", type=int, default=4, help="looks at each sequence (default: 4)")
    sub.add_argument("--limit", type=int, metavar="M", help="the first M sequences only")

    command("backends", list_backends)
    return parser
