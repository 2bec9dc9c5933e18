"""The command line: dfm-ref demo | train | sample | evaluate | verify | vectors | backends.

A user's mistake is one line on standard error and exit 2; an interrupt is exit 130.
"""

import argparse
import importlib
import io
import os
import sys
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from . import __version__, backends, checkpoints, checks, data, exact, likelihoods, random, runs, samplers, times
from .nn import train as training
from .nn.train import Config, ConfigError
from .progress import progress

__all__ = ["main"]

_DEFAULT_LENGTH = 64  # of a window of text
_DEMOS = {"discrete": ".demo", "continuous": ".demo_continuous"}  # by suite; `verify` has the same two


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    try:
        options = _parser().parse_args(arguments)
        status: int = options.run(options) or 0
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has had enough; nothing more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _refused(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
    except (ValueError, TypeError, MemoryError, backends.BackendError) as error:
        return _refused(str(error))
    return 0


def _refused(mistake: str) -> int:
    print(f"dfm-ref: {' '.join(mistake.split())}", file=sys.stderr)
    return 2


def demo(options: argparse.Namespace) -> None:
    """Trains on digits and on English, samples, infills, evaluates, verifies, draws; or shows the continuous half."""
    try:
        shown = importlib.import_module(_DEMOS[options.suite], __package__)
    except ImportError as error:
        raise ValueError(f"demo: {error}. Install it with: pip install 'dfm_ref[demo]'") from None
    _keep_hypothesis_out_of_the_way()
    shown.run(Path(options.out), minutes=options.minutes, seed=options.seed, backend=backends.load(options.backend))


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
            dataset = _data_for(run, options.data)
            labels = _labels(run.config, dataset, options.data)
        else:
            length = settings.pop("length", _default_length(options.data))
            if not (length is None or type(length) is int):
                raise ConfigError(f"length: expected int, got {length!r}")
            dataset = data.load(options.data, length=length)
            vocab_size = dataset.vocab_size + (settings.get("source", "mask") == "mask")
            config = Config(vocab_size, dataset.x_1.shape[1], **settings)
            labels = _labels(config, dataset, options.data)
            run = runs.Run(config, options.data, dataset.characters)
            state = training.init(config, asarray=backend.asarray)
        checks.tokens("data", dataset.x_1, _data_vocab_size(run.config))
        state = runs.train(run, dataset.x_1, state, file, backend=backend, labels=labels)
    print(f"{file}: {state.optimiser.step} steps")


def sample(options: argparse.Namespace) -> None:
    """Samples sequences from a checkpoint: text, or arrays of tokens."""
    if options.num < 0:
        raise ValueError(f"--num: expected a number >= 0, got {options.num}")
    if options.out and (Path(options.out).is_dir() or not Path(options.out).parent.is_dir()):
        raise ValueError(f"--out: expected the name of a file in a folder that is there, got {options.out}")
    backend, numpy = backends.load(options.backend), backends.load("numpy")
    run, params = runs.load(Path(options.checkpoint), backend=backend)
    prompt, keep = _prompt(options.prompt, options.hole, run)
    steering = _steering(options, run)
    grid, key = times.grid(1 if options.exact else options.steps), random.key(options.seed)
    walk = exact.finished if options.exact else samplers.sample
    asked: dict[str, Any] = {"prompt": prompt, "keep": keep, "steering": steering, "walk": walk}
    x_1 = runs.sample(run.config, params, key, options.num, grid, backend=backend, **asked)
    if backend.name != "numpy" and options.num:
        params = {name: backend.to_numpy(p) for name, p in params.items()}
        few = min(runs.TILE, options.num)
        reference = runs.sample(run.config, params, key, few, grid, backend=numpy, **asked)
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
    """Prints a bound on -log p of data, with its standard error over the sequences; of small models -log p too."""
    backend = backends.load(options.backend)
    run, params = runs.load(Path(options.checkpoint), backend=backend)
    length = run.config.length
    for name, value in (("draws", options.draws), ("limit", options.limit), ("orders", options.orders)):
        if value is not None and value < 1:
            raise ValueError(f"--{name}: expected a number >= 1, got {value}")
    x_1 = _data_for(run, options.data, split="test").x_1[: options.limit]
    checks.tokens("data", x_1, _data_vocab_size(run.config))
    model, key = (run.config, params), random.key(options.seed)
    found = {}
    if enumerable := runs.enumerable(run.config):
        found["bound on -log p"], true = runs.enumerated(*model, x_1, backend=backend)
    else:
        found["bound on -log p"] = runs.bound(*model, key, x_1, backend=backend, draws=options.draws)
    if options.orders:
        name = f"bound on -log p by {options.orders} orders"
        found[name] = runs.importance_bound(*model, key, x_1, backend=backend, orders=options.orders)
    if enumerable:
        found["exact -log p"] = true
    how = f", all {run.config.vocab_size**length} states enumerated" if enumerable else ""
    print(f"data: {len(x_1)} sequences of {length} tokens of {options.data}{how}")
    for name, nats in found.items():
        value = likelihoods.summary(nats, length)
        print(f"{name}: {value.nats.mean:.4f} nats per sequence (standard error {value.nats.error:.4f})")
        print(f"{name}: {value.bits.mean:.4f} bits per token (standard error {value.bits.error:.4f})")
        print(f"{name}: {value.perplexity.mean:.4f} perplexity (standard error {value.perplexity.error:.4f})")


def vectors(options: argparse.Namespace) -> int:
    """Writes test vectors for implementations in any language, or checks a file of them; exit 1 where one differs."""
    from .verify import vectors as kit

    if options.backend != "numpy":
        raise ValueError(f"--backend: expected numpy, in whose arrays vectors are computed, got {options.backend}")
    file = Path(options.file)
    if options.action == "write":
        kit.write(file, seed=options.seed)
        print(f"{file}: {file.stat().st_size} bytes")
        return 0
    report = kit.check(file)
    sys.stdout.writelines(f"{mismatch}\n" for mismatch in report.mismatches)
    print(f"{report.held} of {report.cases} hold")
    return int(bool(report.mismatches))


def verify(options: argparse.Namespace) -> int:
    """Tries the laws of flow matching on an implementation; exit 1 where one is broken, 2 where none could be tried."""
    try:
        from .verify import kit, measurements, page, probe, report, suites, targets
    except ImportError as error:
        raise ValueError(f"verify: {error}. Install it with: pip install 'dfm_ref[verify]'") from None
    if options.laws == "" and not options.target:
        print(report.catalogue(suite=suites.SUITES[options.suite or "discrete"]))
        return 0
    if not options.target:
        raise ValueError("TARGET: expected module:attribute, or dfm_ref, flow_matching, zuko or torchcfm, got nothing")
    if not 0 < options.alpha < 1:
        raise ValueError(f"--alpha: expected a rate in (0, 1), got {options.alpha}")
    for name in ("json", "html"):
        file = getattr(options, name)
        if file and (Path(file).is_dir() or not Path(file).parent.is_dir()):
            raise ValueError(f"--{name}: expected the name of a file in a folder that is there, got {file}")
    found = targets.resolve(options.target, backend=options.backend, suite=options.suite)
    suite, reports = found[0].suite, []
    chosen = tuple(map(suite.law, options.laws.split(","))) if options.laws else suite.laws
    _keep_hypothesis_out_of_the_way()
    for target in found:
        of_many = 6.0 if len(found) > 1 and (options.quick or target is not found[0]) else None
        some = target.laws(chosen)
        reports.append(
            kit.verify(
                target.build,
                target=target.name,
                setup=target.setup,
                suite=suite,
                laws=some,
                quick=options.quick,
                seed=options.seed,
                alpha=options.alpha / len(found),
                limit=options.limit or target.limit,
                seconds=of_many,
                on_stuck=_stuck,
                watch=partial(progress, label="verify", total=len(some), describe=_told),
            )
        )
        report.table(reports[-1], verbose=options.verbose)
    measured = []
    if not options.laws and not reports[0].problem and suite is suites.DISCRETE:
        asked = probe.Probe(found[0].build, limit=options.limit or found[0].limit)
        measured = measurements.measure(asked, seed=options.seed)
        sys.stdout.writelines(f"measured  {line}\n" for line in map(report.measured, measured))
    if options.json:
        checkpoints.write(Path(options.json), report.to_json(reports, measured=measured).encode())
    if options.html:
        checkpoints.write(Path(options.html), page.text(reports, measured=measured).encode())
    return report.status(reports)


def _keep_hypothesis_out_of_the_way() -> None:
    """It would leave a folder .hypothesis in the working directory, of examples that nobody asks for again."""
    from hypothesis.configuration import set_hypothesis_home_dir

    set_hypothesis_home_dir(Path(tempfile.gettempdir(), "dfm_ref-hypothesis"))


def _stuck(message: str) -> None:
    """Ends the process, whose main thread cannot be interrupted: what was found until then is lost."""
    os.write(2, f"dfm-ref: verify: {message}\n".encode())
    os._exit(1)


def _told(result: Any) -> str:
    return f"{result.law.id} {result.status}"


def list_backends(options: argparse.Namespace) -> None:
    """Prints what is installed, what works, and what to install."""
    for name in backends.names():
        try:
            print(f"{name:8} works: {backends.load(name).xp.__name__}")
        except backends.BackendError as error:
            print(f"{name:8} missing: {error}")


def _default_length(source: str) -> int | None:
    return _DEFAULT_LENGTH if source == "pydoc" or source.startswith("text:") else None


def _data_for(run: runs.Run, source: str, *, split: str = "train") -> data.Dataset:
    """Data in the tokens that a model was trained on."""
    dataset = data.load(source, length=run.config.length, split=split, characters=run.characters)
    if dataset.characters and not run.characters:
        raise ValueError(
            f"--data: expected tokens, as in {run.data}, on which the model was trained, got text: {source}"
        )
    return dataset


def _data_vocab_size(config: Config) -> int:
    return config.vocab_size - (config.source == "mask")


def _labels(config: Config, dataset: data.Dataset, source: str) -> np.ndarray | None:
    """The labels that a model with classes is trained on; ConfigError where the data has other classes, or none."""
    if not config.classes:
        return None
    if dataset.labels is None:
        raise ConfigError(f"classes: expected 0, as {source} has no labels, got {config.classes}")
    if config.classes != (known := int(dataset.labels.max()) + 1):
        raise ConfigError(f"classes: expected {known}, the labels of {source}, or 0, got {config.classes}")
    return dataset.labels


def _steering(options: argparse.Namespace, run: runs.Run) -> runs.Steering:
    """What the flags of `sample` ask for, its banned characters as tokens."""
    if options.ban and not run.characters:
        raise ValueError("--ban: expected a checkpoint trained on text")
    banned = tuple(data.encode(options.ban, run.characters or "").tolist())
    return runs.Steering(options.label, options.guidance, options.temperature, options.top_p, banned)


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
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
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

    def command(name: str, run: Callable[[argparse.Namespace], int | None]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.add_argument("--backend", default="numpy", help="the array library to run on; see dfm-ref backends")
        if name != "train":  # which has it among its settings
            sub.add_argument("--seed", type=int, default=0)
        sub.set_defaults(run=run)
        return sub

    sub = command("demo", demo)
    sub.add_argument("--out", default="demo", metavar="DIR", help="where the report goes (default: demo)")
    sub.add_argument("--minutes", type=float, default=2.5, help="how long it may take on 2 cores (default: 2.5)")
    sub.add_argument("--suite", choices=_DEMOS, default="discrete", help="which half to show (default: discrete)")

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
    how = sub.add_mutually_exclusive_group()
    how.add_argument("--steps", type=int, default=64, metavar="K", help="steps from t = 0 to 1 (default: 64)")
    how.add_argument("--exact", action="store_true", help="no grid: the chain's own law, a model call an event")
    sub.add_argument("--prompt", default="", metavar="TEXT", help="characters that every sample begins with")
    sub.add_argument("--hole", default="", metavar="CHAR", help="in the prompt: a place left open")
    sub.add_argument("--label", type=int, metavar="L", help="the class, of a checkpoint trained with --classes")
    sub.add_argument(
        "--guidance", type=float, metavar="G", help="how strongly towards the label or the prompt; 1 is as learned"
    )
    sub.add_argument("--temperature", type=float, default=1.0, metavar="T", help="below 1 sharper (default: 1)")
    sub.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draw from the likeliest of mass P alone")
    sub.add_argument("--ban", default="", metavar="TEXT", help="characters that are never drawn")
    sub.add_argument("--out", metavar="FILE.npy", help="write int64[M, N] instead of printing")

    sub = command("evaluate", evaluate)
    sub.add_argument("checkpoint", metavar="CHECKPOINT")
    sub.add_argument("--data", required=True, metavar="SOURCE", help="as for train; pydoc and digits: the test split")
    sub.add_argument(
        "--draws", type=int, default=4, help="looks at each sequence, unless all states are enumerated (default: 4)"
    )
    sub.add_argument("--limit", type=int, metavar="M", help="the first M sequences only")
    sub.add_argument("--orders", type=int, metavar="K", help="masked sources: a tighter bound, by K orders a sequence")

    sub = command("verify", verify)
    sub.add_argument(
        "target", nargs="?", metavar="TARGET", help="module:attribute, dfm_ref[:BACKEND], flow_matching, zuko, torchcfm"
    )
    sub.add_argument("--suite", choices=_DEMOS, default="", help="what kind of code it is")
    sub.add_argument("--laws", nargs="?", const="", metavar="ID,ID", help="these laws only; alone: the list of laws")
    sub.add_argument("--quick", action="store_true", help="in ten seconds, with less power")
    sub.add_argument("--alpha", type=float, default=1e-6, help="the rate of false alarms of the run (default: 1e-6)")
    sub.add_argument("--limit", type=float, metavar="S", help="the seconds that a call may take (default: 20)")
    sub.add_argument("--json", metavar="FILE", help="write the report for machines")
    sub.add_argument("--html", metavar="FILE", help="write the report as one page")
    sub.add_argument("-v", "--verbose", action="store_true", help="say what every law was tried on, and its power")

    sub = command("vectors", vectors)
    sub.add_argument("action", choices=("write", "check"), help="make a file from the seed, or recompute one")
    sub.add_argument("file", metavar="FILE")

    command("backends", list_backends)
    return parser
