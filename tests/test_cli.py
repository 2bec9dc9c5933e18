"""The command line: what the commands leave and print, and one line and exit 2 for every mistake of a user."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from strategies import BACKENDS, backend

from dfm_ref import backends, checkpoints, random, runs
from dfm_ref.cli import main
from dfm_ref.data import load
from dfm_ref.nn import train as training

TINY = ("--model", "mlp", "--dim", "8", "--depth", "1", "--batch", "4", "--warmup", "2", "--steps", "5")
TEXT = "the cat sat on the mat.\n" * 8
PROGRESS = re.compile(r"(training|sampling|evaluating) \d+/\d+")
LABELLED = pytest.mark.skipif(not find_spec("sklearn"), reason="needs the digits of scikit-learn")


@pytest.fixture
def run(capfd):
    """Runs one command in this process: its status, output and errors, without the lines of progress."""

    def call(*arguments):
        capfd.readouterr()
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as stop:
            status = stop.code
        out, err = capfd.readouterr()
        return status, out, [line for line in err.splitlines() if not PROGRESS.match(line)]

    return call


@pytest.fixture
def refused(run):
    """Asserts that a command is a mistake: exit 2 and one line, which it returns."""

    def call(*arguments):
        status, out, err = run(*arguments)
        assert status == 2 and len(err) == 1 and err[0].startswith("dfm-ref"), (status, out, err)
        assert "Traceback" not in err[0]
        return err[0]

    return call


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """A folder with data, good and bad, and a checkpoint of arrays, one of text and one of a uniform source."""
    folder = tmp_path_factory.mktemp("cli")
    x_1 = np.random.default_rng(0).integers(0, 4, (50, 3))
    x_1[0, 0] = 3
    np.save(folder / "data.npy", x_1)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    for name, data, *more in (
        ("arrays", folder / "data.npy"),
        ("text", f"text:{folder / 'text.txt'}", "--length", "8"),
        ("uniform", folder / "data.npy", "--source", "uniform"),
        ("uniform_text", f"text:{folder / 'text.txt'}", "--length", "8", "--source", "uniform"),
        *((("digits", "digits", "--classes", "10", "--learning-rate", "0.1"),) if find_spec("sklearn") else ()),
    ):
        assert main(["train", "--data", str(data), "--out", str(folder / name), *TINY, *more]) == 0
    return folder


def command(*arguments, before="", **options):
    """One command in a process of its own, where any warning is an error; `before` is code that it runs first."""
    code = f"import sys\n{before}\nfrom dfm_ref.cli import main\nsys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, **options)


def at_update(n, action):
    """Code that makes a process do something as its n-th training step begins."""
    return (
        "import os, signal, time\nfrom pathlib import Path\nfrom dfm_ref.nn import train\n"
        "calls, real = [], train.update\ndef update(*arguments, **options):\n    calls.append(1)\n"
        f"    if len(calls) == {n}:\n        {action}\n"
        "    return real(*arguments, **options)\ntrain.update = update"
    )


def interrupt(name):
    return f"os.kill(os.getpid(), signal.{name})"


def checkpoint(folder):
    return checkpoints.load(folder / "checkpoint.safetensors")


def assert_same_run(folder, other):
    (arrays, description), (others, other_description) = checkpoint(folder), checkpoint(other)
    assert description == other_description
    assert arrays.keys() == others.keys() and all(np.array_equal(a, others[n]) for n, a in arrays.items())


# What the commands do


@pytest.mark.parametrize("name", ["arrays", "text", "uniform"])
def test_train_sample_evaluate(run, at, name):
    data = f"text:{at / 'text.txt'}" if name == "text" else at / "data.npy"
    assert {file.name for file in (at / name).iterdir()} <= {"checkpoint.safetensors", ".lock"}
    status, _, err = run("sample", at / name, "--num", 70, "--steps", 4, "--out", at / f"{name}.npy")
    assert (status, err) == (0, [])
    x_1 = np.load(at / f"{name}.npy")
    vocab_size = len(set(TEXT)) if name == "text" else 4
    assert x_1.dtype == np.int64 and x_1.shape == (70, 8 if name == "text" else 3)
    assert x_1.min() >= 0 and x_1.max() < vocab_size, "at t = 1 no mask is left"
    status, out, err = run("evaluate", at / name, "--data", data)
    assert (status, err) == (0, [])
    nats, bits = (float(re.search(rf"([\d.]+)[^\n]* {unit}", out)[1]) for unit in ("nats per seq", "bits per tok"))
    assert nats / (x_1.shape[1] * np.log(2)) == pytest.approx(bits, abs=1e-3)
    assert bits > np.log2(vocab_size) - 0.5, "five steps know nothing yet"
    assert "standard error" in out or "+-" in out


@pytest.mark.parametrize("name", [b for b in BACKENDS if b != "jax"])  # which compiles every shape
def test_every_backend_trains_and_evaluates_as_numpy_does(run, at, tmp_path, name):
    backend(name)
    status, _, err = run("train", "--data", at / "data.npy", "--out", tmp_path, "--backend", name, *TINY)
    assert (status, err) == (0, [])
    (arrays, description), (expected, expected_description) = checkpoint(tmp_path), checkpoint(at / "arrays")
    assert description == expected_description
    for n, array in arrays.items():
        np.testing.assert_allclose(array, expected[n], atol=2e-5, err_msg=n)
    args = ("evaluate", at / "arrays", "--data", at / "data.npy")
    assert run(*args, "--backend", name)[1] == run(*args)[1]


def test_strict_samples_exactly_the_tokens_of_numpy(run, at):
    args = ("sample", at / "arrays", "--num", 64, "--steps", 16, "--seed", 3)
    assert run(*args, "--backend", "numpy", "--out", at / "a.npy")[0] == 0
    assert run(*args, "--backend", "strict", "--out", at / "b.npy")[0] == 0
    assert (at / "a.npy").read_bytes() == (at / "b.npy").read_bytes()


@pytest.mark.parametrize("name", ["torch", "jax", "cupy"])
def test_other_backends_print_the_share_of_equal_tokens(run, at, name):
    backend(name)
    args = ("sample", at / "arrays", "--num", 40, "--steps", 1)
    status, out, _ = run(*args, "--backend", name, "--out", at / f"{name}.npy")
    share = float(re.search(r"([\d.]+)%", out)[1])
    assert run(*args, "--out", at / "numpy.npy")[0] == status == 0
    mine, numpys = np.load(at / f"{name}.npy"), np.load(at / "numpy.npy")
    assert share == pytest.approx(100 * np.mean(mine == numpys), abs=0.01) and share > 95


@pytest.mark.parametrize("name", ["arrays", "uniform"])
def test_a_larger_number_changes_no_token(run, at, name):
    """Tiles are placed by global index: 1, 64, 65 and 130 sequences begin alike."""
    rows = {}
    for num in (0, 1, 64, 65, 130):
        assert run("sample", at / name, "--num", num, "--steps", 4, "--out", at / "n.npy")[0] == 0
        rows[num] = np.load(at / "n.npy")
        assert rows[num].shape == (num, 3)
    assert all(np.array_equal(x, rows[130][:num]) for num, x in rows.items())
    assert not np.array_equal(rows[130][:64], rows[130][64:128]), "tiles differ"


def test_tiles_start_from_noise_of_their_own(at):
    numpy = backends.load("numpy")
    run, params = runs.load(at / "uniform", backend=numpy)
    frames = runs.sample(run.config, params, random.key(0), 130, [0.0, 1.0], backend=numpy, frames=True)
    assert frames.shape == (2, 130, 3)
    assert not np.array_equal(frames[0, :64], frames[0, 64:128]) and not np.array_equal(frames[0], frames[1])


def test_evaluate_prints_the_mean_and_its_standard_error(run, at):
    """Of a model too large to enumerate: the mean of the estimates."""
    numpy = backends.load("numpy")
    held, params = runs.load(at / "uniform_text", backend=numpy)
    x_1 = load(f"text:{at / 'text.txt'}", length=8, split="test", characters=held.characters).x_1[:7]
    nats = runs.bound(held.config, params, random.key(3), x_1, backend=numpy, draws=2)
    arguments = "evaluate", at / "uniform_text", "--data", f"text:{at / 'text.txt'}"
    out = run(*arguments, "--limit", 7, "--draws", 2, "--seed", 3)[1]
    error = np.std(nats, ddof=1) / np.sqrt(7)
    for mean, spread, unit in (
        (np.mean(nats), error, "nats per sequence"),
        (np.mean(nats) / (8 * np.log(2)), error / (8 * np.log(2)), "bits per token"),
        (np.exp(np.mean(nats) / 8), np.exp(np.mean(nats) / 8) * error / 8, "perplexity"),
    ):
        assert f"bound on -log p: {mean:.4f} {unit} (standard error {spread:.4f})" in out
    assert "exact" not in out and "enumerated" not in out


@pytest.mark.parametrize("name", ["arrays", "uniform"])
def test_evaluate_of_a_small_model_prints_the_exact_value_under_its_bound(run, at, name):
    status, out, err = run("evaluate", at / name, "--data", at / "data.npy", "--seed", 1)
    assert (status, err) == (0, []) and f"all {5**3 if name == 'arrays' else 4**3} states enumerated" in out
    bound, exact = (
        float(re.search(rf"^{what}: ([\d.]+) nats", out, re.M)[1]) for what in ("bound on -log p", "exact -log p")
    )
    assert exact <= bound and exact == pytest.approx(3 * np.log(4), rel=0.1), "five steps know nothing yet"
    held, params = runs.load(at / name, backend=backends.load("numpy"))
    x_1 = np.load(at / "data.npy")
    bounds, exact_nats = runs.enumerated(held.config, params, x_1, backend=backends.load("numpy"))
    assert np.all(exact_nats <= bounds + 1e-4)
    assert (f"{np.mean(bounds):.4f}", f"{np.mean(exact_nats):.4f}") == (f"{bound:.4f}", f"{exact:.4f}")
    numpy = backends.load("numpy")
    sampled = [runs.bound(held.config, params, random.key(seed), x_1, backend=numpy, draws=4) for seed in range(40)]
    apart = (np.mean(sampled, 0) - bounds) / (np.std(sampled, 0, ddof=1) / np.sqrt(40))
    assert np.all(np.abs(apart) < 8), "one of 50 Student's t of 39 degrees: 5e-8"


def test_orders_tighten_the_bound_of_a_mask_and_are_no_option_without(run, refused, at):
    arguments = "evaluate", at / "arrays", "--data", at / "data.npy", "--limit", 20
    out = run(*arguments, "--orders", 3)[1]
    numpy = backends.load("numpy")
    held, params = runs.load(at / "arrays", backend=numpy)
    x_1 = np.load(at / "data.npy")[:20]
    nats = runs.importance_bound(held.config, params, random.key(0), x_1, backend=numpy, orders=3)
    assert f"bound on -log p by 3 orders: {np.mean(nats):.4f} nats per sequence" in out
    same = np.tile(x_1[:1], (70, 1))
    many = runs.importance_bound(held.config, params, random.key(0), same, backend=numpy, orders=3)
    assert many[0] == pytest.approx(nats[0], rel=1e-6) and many.shape == (70,)
    assert not np.allclose(many[64:], many[:6], rtol=1e-6), "a tile has orders of its own"
    assert "orders" in refused("evaluate", at / "uniform", "--data", at / "data.npy", "--orders", 3)
    for count in (0, -1, "x"):
        assert "orders" in refused(*arguments, "--orders", count)


def test_the_seed_decides(run, at):
    samples = [run("sample", at / "arrays", "--num", 30, "--seed", seed)[1] for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    for seed in (0, 1):
        assert run("train", "--data", at / "data.npy", "--out", at / f"s{seed}", *TINY, "--seed", seed)[0] == 0
    assert_same_run(at / "s0", at / "arrays")
    differ = [not np.array_equal(a, checkpoint(at / "s1")[0][n]) for n, a in checkpoint(at / "s0")[0].items()]
    assert any(differ)


def test_without_out_text_and_tokens_are_printed(run, at):
    status, out, err = run("sample", at / "text", "--num", 3)
    assert (status, err, len(out)) == (0, [], 3 * 9) and set(out) <= set(TEXT)
    assert run("sample", at / "text", "--num", 0)[1] == "", "no sequence, not an empty one"
    rows = np.loadtxt(run("sample", at / "arrays", "--num", 5)[1].splitlines(), dtype=int)
    run("sample", at / "arrays", "--num", 5, "--out", at / "five.npy")
    assert np.array_equal(rows, np.load(at / "five.npy"))


@pytest.mark.parametrize("name", ["text", "uniform_text"])
def test_a_prompt_stands_and_its_holes_are_open(run, at, name):
    args = ("sample", at / name, "--num", 40, "--steps", 4)
    lines = run(*args, "--prompt", "cat")[1]
    rows = [lines[i : i + 8] for i in range(0, len(lines), 9)]
    assert len(rows) == 40 and all(row.startswith("cat") for row in rows) and len(set(rows)) > 1
    lines = run(*args, "--prompt", "c_t _at.", "--hole", "_")[1]
    rows = [lines[i : i + 8] for i in range(0, len(lines), 9)]
    assert all(row[0] == "c" and row[2:4] == "t " and row[5:] == "at." for row in rows)
    assert len({row[1] for row in rows}) > 1 and len({row[4] for row in rows}) > 1
    assert all("_" not in row for row in rows)


def test_holes_come_first_in_the_vocabulary_or_not(run, at):
    """A hole may be a character of the vocabulary: it is still open."""
    out = run("sample", at / "text", "--num", 40, "--prompt", "aaaaaaaa", "--hole", "a")[1]
    assert len(set(out)) > 2


def lines(out):
    """The lines of 8 characters that `sample` prints."""
    return [out[i : i + 8] for i in range(0, len(out), 9)]


STEERINGS = ["--temperature 0.5", "--top-p 0.5", "--guidance 3", "--guidance 2 --temperature 0.7 --top-p 0.9 --ban at"]


@pytest.mark.parametrize("steering", STEERINGS)
@pytest.mark.parametrize("backend", ["numpy", "strict"])
def test_guidance_and_shapes_leave_the_prompt_and_change_the_rest(run, at, steering, backend):
    args = ("sample", at / "text", "--num", 70, "--steps", 4, "--prompt", "c_t", "--hole", "_", "--backend", backend)
    status, out, _ = run(*args, *steering.split())
    rows = lines(out)
    assert status == 0 and len(rows) == 70 and all(row[0] == "c" and row[2] == "t" for row in rows)
    assert out != run(*args)[1]
    if "--ban" in steering:
        assert not set("".join(row[1] + row[3:] for row in rows)) & set("at")


@pytest.mark.parametrize("name", ["text", "uniform_text"])
def test_shapes_that_change_nothing_change_no_token(run, at, name):
    args = ("sample", at / name, "--num", 40, "--steps", 4, "--prompt", "cat")
    assert run(*args)[1] == run(*args, "--temperature", 1, "--top-p", 1, "--ban", "")[1]
    if name == "text":
        assert run(*args)[1] == run(*args, "--guidance", 1)[1], "at strength 1 it is the prompted model"


def test_guidance_towards_a_prompt_is_away_from_the_model_that_does_not_see_it(at):
    numpy = backends.load("numpy")
    held, params = runs.load(at / "text", backend=numpy)
    keep, mask = np.arange(8) < 3, held.config.vocab_size - 1
    x_t, t = np.asarray([[0, 1, 2, mask, 5, mask, mask, 3]]), np.asarray([0.5])
    guided = runs.steered(held.config, params, runs.Steering(guidance=2.5), keep=keep, backend=numpy)
    model = training.Trained(held.config, params)
    seen, unseen = (model(x, t)[..., :mask][x_t == mask] for x in (x_t, np.where(keep, mask, x_t)))
    expected = 2.5 * seen - 1.5 * unseen
    np.testing.assert_allclose(guided(x_t, t)[..., :mask][x_t == mask], expected, rtol=1e-6)
    sites = np.asarray([3, 6])
    rows = guided(x_t, t)[0, sites, :mask]
    np.testing.assert_allclose(guided.at(x_t, t, sites)[:, :mask], rows, rtol=1e-6)


def test_one_likeliest_character_is_left_at_a_small_mass_or_a_low_temperature(run, at):
    """Every token alone is then the mode of its posterior; behind a mask one step asks for all at once."""
    outs = [run("sample", at / "text", "--num", 20, "--steps", 1, *steering)[1] for steering in
            (("--top-p", 1e-6), ("--temperature", 1e-6))]  # fmt: skip
    assert outs[0] == outs[1] and len(set(lines(outs[0]))) == 1


@LABELLED
def test_labels_and_guidance_towards_them(run, at):
    args = ("sample", at / "digits", "--num", 3, "--steps", 2)
    outs = {flags: run(*args, *flags.split())[1] for flags in ("", "--label 3", "--label 7", "--label 3 --guidance 3")}
    assert len(set(outs.values())) == 4 and all(len(out.splitlines()) == 3 for out in outs.values())
    assert run(*args, "--label", 3, "--guidance", 1)[1] == outs["--label 3"]
    assert run(*args, "--label", 3, "--guidance", 0)[1] == outs[""], "at strength 0 it is the model without a label"
    assert checkpoint(at / "digits")[1]["config"]["classes"] == 10


@LABELLED
def test_a_run_with_classes_is_trained_on_the_labels_of_its_data(at):
    config, digits = runs.load(at / "digits", backend=backends.load("numpy"))[0].config, load("digits")
    *_, (state, _) = training.train(config, digits.x_1, training.init(config), labels=digits.labels)
    trained = checkpoint(at / "digits")[0]
    assert all(np.array_equal(p, trained[f"average/{name}"]) for name, p in state.average.items())


@LABELLED
def test_a_run_with_classes_resumes_with_its_labels(run, at, tmp_path):
    args = ("train", "--data", "digits", "--out", tmp_path, "--classes", 10, "--learning-rate", 0.1, *TINY[:-1])
    done = command(*args, 5, before=at_update(3, interrupt("SIGINT")))
    assert done.returncode == 130 and checkpoint(tmp_path)[1]["step"] == 2
    assert run(*args, 5, "--resume")[0] == 0
    assert_same_run(tmp_path, at / "digits")


@pytest.mark.parametrize("name", ["torch", "cupy"])
def test_guided_and_shaped_samples_print_their_share_of_equal_tokens(run, at, name):
    backend(name)
    args = ("sample", at / "text", "--num", 30, "--steps", 2, "--prompt", "cat", *STEERINGS[-1].split())
    status, out, _ = run(*args, "--backend", name, "--out", at / "guided.npy")
    assert status == 0 and float(re.search(r"([\d.]+)%", out)[1]) > 95


def test_a_checkpoint_from_before_classes_is_read(run, at, tmp_path):
    arrays, description = checkpoint(at / "arrays")
    old = {n: v for n, v in description["config"].items() if n not in ("classes", "label_dropout")}
    checkpoints.save(tmp_path / "checkpoint.safetensors", arrays, description | {"config": old})
    args = ("--num", 30, "--steps", 2)
    assert run("sample", tmp_path, *args) == run("sample", at / "arrays", *args)


def test_settings_come_from_the_flags_over_the_file(run, at, tmp_path):
    settings = ('model = "mlp"', "dim = 8", "depth = 1", "steps = 7", "learning_rate = 1")
    (tmp_path / "c.toml").write_text("\n".join(settings), encoding="utf-8")
    args = ("train", "--data", at / "data.npy", "--out", tmp_path / "out", "--config", tmp_path / "c.toml")
    assert run(*args, "--steps", 3)[0] == 0
    config = checkpoint(tmp_path / "out")[1]["config"]
    assert (config["dim"], config["steps"], config["learning_rate"], config["vocab_size"]) == (8, 3, 1.0, 5)


def test_backends_are_listed_with_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "dfm_ref.backends.torch", raising=False)
    monkeypatch.setitem(sys.modules, "array_api_compat.torch", None)
    status, out, err = run("backends")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert (status, err) == (0, []) and {"numpy", "strict", "torch", "jax", "cupy"} <= set(lines)
    assert "works" in lines["numpy"] and "pip install" in lines["torch"]


def test_help_and_version(run):
    for command_name in ("demo", "train", "sample", "evaluate", "backends"):
        status, out, err = run(command_name, "--help")
        assert (status, err) == (0, []) and "--backend" in out and "--seed" in out
    assert run("--version")[:1] == (0,)


# Mistakes: one line and exit 2


def bad_sources(folder):
    """Data that cannot be used: a name and what to give to --data."""
    np.save(folder / "float.npy", np.zeros((3, 2)))
    np.save(folder / "bool.npy", np.zeros((3, 2), dtype=bool))
    np.save(folder / "vector.npy", np.arange(3))
    np.save(folder / "negative.npy", np.asarray([[0, -1]]))
    np.save(folder / "no_rows.npy", np.zeros((0, 2), dtype=int))
    np.save(folder / "no_columns.npy", np.zeros((2, 0), dtype=int))
    np.save(folder / "huge_tokens.npy", np.asarray([[0, 2**62]]))
    np.save(folder / "unsigned.npy", np.asarray([[0, 2**64 - 1]], dtype=np.uint64))
    np.save(folder / "pickled.npy", np.asarray([[0, "a"]], dtype=object), allow_pickle=True)
    with (folder / "archive.npy").open("wb") as stream:
        np.savez(stream, x=np.zeros((2, 2), dtype=int))
    whole = (folder / "vector.npy").read_bytes()
    for size in (1, 8, 60, len(whole) - 1):
        (folder / f"cut{size}.npy").write_bytes(whole[:size])
    (folder / "empty.npy").touch()
    (folder / "text.npy").write_text(TEXT, encoding="utf-8")
    shutil.copy(folder / "vector.npy", folder / "array.txt")
    (folder / "empty.txt").touch()
    (folder / "short.txt").write_text("one line", encoding="utf-8")
    (folder / "latin.txt").write_bytes("café ".encode("latin-1") * 50)
    arrays = sorted(file.name for file in folder.glob("*.npy"))
    texts = [f"text:{file.name}" for file in sorted(folder.glob("*.txt"))]
    return [
        *arrays,
        *texts,
        "missing.npy",
        "text:missing.txt",
        "text:.",
        "text:",
        "array.txt",
        "noise",
        "",
        ".",
        ".npy",
    ]


def test_unusable_data_is_one_line(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in bad_sources(tmp_path):
        line = refused("train", "--data", source, "--out", "out", *TINY)
        too_large = source in ("huge_tokens.npy", "unsigned.npy")  # for the memory, not for the format
        assert too_large or re.search("data|length|text", line) or source.removeprefix("text:") in line, line
        assert not Path("out/checkpoint.safetensors").exists()


def test_data_that_the_checkpoint_cannot_read_is_one_line(refused, at, tmp_path):
    bad = {"mask": [4, 0, 0], "beyond": [9, 0, 0], "longer": [0, 1, 2, 3], "shorter": [0]}
    for name, row in bad.items():
        np.save(tmp_path / f"{name}.npy", np.asarray([row]))
        refused("evaluate", at / "arrays", "--data", tmp_path / f"{name}.npy")
        refused("train", "--data", tmp_path / f"{name}.npy", "--out", at / "arrays", "--resume", "--steps", 6)
    refused("evaluate", at / "uniform", "--data", tmp_path / "mask.npy")
    (tmp_path / "other.txt").write_text("ZEBRA" * 9, encoding="utf-8")
    assert "'Z'" in refused("evaluate", at / "text", "--data", f"text:{tmp_path / 'other.txt'}")
    refused("evaluate", at / "arrays", "--data", tmp_path / "missing.npy")


SETTINGS = {
    "--steps": ("0", "-1", "two", "1.5"),
    "--batch": ("0", "-3"),
    "--dim": ("0", "-8"),
    "--depth": ("0",),
    "--length": ("0", "-1", "99"),
    "--learning-rate": ("0", "-1", "nan", "inf", "fast"),
    "--weight-decay": ("nan", "inf", "-1"),
    "--clip": ("0", "nan"),
    "--classes": ("-1", "3", "two"),
    "--label-dropout": ("-0.1", "1.1", "nan"),
    "--ema": ("1", "-0.1", "nan"),
    "--warmup": ("-5",),
    "--model": ("cnn",),
    "--source": ("noise",),
    "--schedule": ("exp",),
    "--loss": ("mse",),
    "--seed": (str(2**64), "x"),
    "--backend": ("tensorflow", "", "../numpy"),
    "--nonsense": ("1",),
}


@pytest.mark.parametrize("flag", SETTINGS)
def test_settings_that_cannot_be_used_are_one_line(refused, at, tmp_path, flag):
    for value in SETTINGS[flag]:
        refused("train", "--data", at / "data.npy", "--out", tmp_path / "out", *TINY, f"{flag}={value}")
        assert not (tmp_path / "out" / "checkpoint.safetensors").exists(), value


TOMLS = (
    "steps = ", "steps = 1\nsteps = 2", "[steps]", "stepz = 1", "vocab_size = 9", "steps = '5'", "steps = 5.0",
    "steps = true", "learning_rate = true", "learning_rate = '1e-3'", "model = 3", "source = ['mask']", "length = '3'",
    "length = 3.0", "length = true", "length = []", f"learning_rate = 1{'0' * 400}", "seed = 1979-05-27", "\x00",
    "\udcff",
)  # fmt: skip


@pytest.mark.parametrize("content", TOMLS, ids=range(len(TOMLS)))
def test_a_configuration_that_cannot_be_used_is_one_line(refused, at, tmp_path, content):
    (tmp_path / "c.toml").write_bytes(content.encode("utf-8", "surrogateescape"))
    rest = [f"{flag}={value}" for flag, value in zip(TINY[::2], TINY[1::2], strict=True) if flag[2:] not in content]
    for data in (at / "data.npy", f"text:{at / 'text.txt'}"):
        refused("train", "--data", data, "--out", tmp_path / "out", "--config", tmp_path / "c.toml", *rest)


def test_missing_or_odd_configuration_files_are_one_line(refused, at, tmp_path):
    for config in (tmp_path / "missing.toml", tmp_path):
        refused("train", "--data", at / "data.npy", "--out", tmp_path / "out", "--config", config)


def test_arguments_that_cannot_be_used_are_one_line(refused, at):
    for arguments in (
        "--num -1", "--num x", "--num 1 --steps 0", "--num 1 --steps -2", "--num 1 --backend none", "", "--num",
        f"--num 1 --seed {2**64}", "--num 1 --prompt th",
    ):  # fmt: skip
        refused("sample", at / "arrays", *arguments.split())
    for arguments in ("--draws 0", "--draws -1", "--limit -1", "--limit 0", "--draws x", f"--seed {2**64}"):
        refused("evaluate", at / "arrays", "--data", at / "data.npy", *arguments.split())
    for arguments in ((), ("fly",), ("train",), ("evaluate", at / "arrays"), ("backends", "--nope")):
        refused(*arguments)


def test_steering_that_cannot_be_used_is_one_line(refused, at):
    for name, flags, says in (
        ("text", "--guidance 2", "--guidance: expected a --label, or a --prompt of a masked source"),
        ("text", "--guidance 2 --prompt ___ --hole _", "--guidance"),
        ("uniform_text", "--guidance 2 --prompt cat", "--guidance"),
        ("text", "--guidance -1 --prompt cat", "--guidance: expected a number >= 0, got -1"),
        ("text", "--guidance nan --prompt cat", "--guidance"),
        ("text", "--guidance inf --prompt cat", "--guidance"),
        ("text", "--guidance x --prompt cat", "guidance"),
        ("text", "--label 3", "--label: expected a checkpoint trained with --classes"),
        ("text", "--label 3 --guidance 2", "--label"),
        ("text", "--temperature 0", "temperature"),
        ("text", "--temperature -1", "temperature"),
        ("text", "--temperature nan", "temperature"),
        ("text", "--top-p 0", "top_p"),
        ("text", "--top-p 1.5", "top_p"),
        ("text", "--ban Z", "'Z'"),
        ("arrays", "--ban a", "--ban: expected a checkpoint trained on text"),
    ):
        assert says in refused("sample", at / name, "--num", 1, *flags.split()), flags
    assert "banned" in refused("sample", at / "text", "--num", 1, "--ban", "".join(set(TEXT)))


@LABELLED
def test_labels_and_classes_that_cannot_be_used_are_one_line(refused, at, tmp_path):
    for label in (-1, 10, "x", 0.5):
        assert "label" in refused("sample", at / "digits", "--num", 1, "--label", label)
    assert "--guidance" in refused("sample", at / "digits", "--num", 1, "--guidance", 2)
    for data, classes, says in (
        ("digits", 7, "expected 10, the labels of digits, or 0, got 7"),
        (at / "data.npy", 4, "has no labels"),
        (f"text:{at / 'text.txt'}", 2, "has no labels"),
        ("digits", -1, "classes: expected a number >= 0"),
    ):
        assert says in refused("train", "--data", data, "--out", tmp_path, "--classes", classes, *TINY)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_prompts_that_cannot_be_used_are_one_line(refused, at):
    assert "'Z'" in refused("sample", at / "text", "--num", 1, "--prompt", "Z")
    assert "--prompt: expected at most 8" in refused("sample", at / "text", "--num", 1, "--prompt", "the cat s")
    refused("sample", at / "text", "--num", 1, "--prompt", "c_t")  # no hole was named
    refused("sample", at / "text", "--num", 1, "--prompt", "c__t", "--hole", "__")


def test_checkpoints_that_are_not_there_are_one_line(refused, at, tmp_path):
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "text.safetensors").write_text(TEXT, encoding="utf-8")
    checkpoints.save(tmp_path / "foreign.safetensors", {"w": np.ones(2)}, {"steps": 1})
    checkpoints.save(tmp_path / "list.safetensors", {"w": np.ones(2)}, [1])
    arrays, description = checkpoint(at / "arrays")
    few = dict(list(arrays.items())[:3])
    checkpoints.save(tmp_path / "few.safetensors", few, description)
    other = description | {"config": description["config"] | {"dim": 16}}
    checkpoints.save(tmp_path / "shapes.safetensors", arrays, other)
    for gone in description:
        part = {n: v for n, v in description.items() if n != gone}
        checkpoints.save(tmp_path / f"no_{gone}.safetensors", arrays, part)
        checkpoints.save(tmp_path / f"odd_{gone}.safetensors", arrays, part | {gone: [7]})
    names = sorted(file.name for file in tmp_path.iterdir())
    for name in ("missing", ".", "missing.safetensors", *names):
        if name == "odd_data.safetensors":
            continue  # where the data came from is a remark
        refused("sample", tmp_path / name, "--num", 1)
        refused("evaluate", tmp_path / name, "--data", at / "data.npy")
        if name.endswith(".safetensors") and (tmp_path / name).exists():
            folder = tmp_path / "resumed" / name
            folder.mkdir(parents=True)
            shutil.copy(tmp_path / name, folder / "checkpoint.safetensors")
            refused("train", "--data", at / "data.npy", "--out", folder, "--resume", "--steps", 7)


def test_no_flipped_bit_of_a_checkpoints_header_is_a_traceback(run, at, tmp_path):
    """Each gives one line, or a header that still means something (a remark, or a setting that samples do not need)."""
    whole = (at / "arrays" / "checkpoint.safetensors").read_bytes()
    size = 8 + int.from_bytes(whole[:8], "little")
    copy = tmp_path / "checkpoint.safetensors"
    rng = np.random.default_rng(0)
    for place in [*range(8), *rng.choice(np.arange(8, size), 250, replace=False)]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.integers(7)
        copy.write_bytes(flipped)
        status, out, err = run("sample", copy, "--num", 1, "--steps", 1)
        assert (status == 0 and out and not err) or (status == 2 and len(err) == 1), (place, status, err)


def test_places_that_cannot_be_written_are_one_line(refused, at, tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "folder"):
        refused("train", "--data", at / "data.npy", "--out", out, *TINY)
    for out in (tmp_path / "file" / "a.npy", tmp_path / "missing" / "a.npy", tmp_path):
        refused("sample", at / "arrays", "--num", 1, "--out", out)
    assert {f.name for f in tmp_path.iterdir()} == {"file"}, "no temporary file is left"


def test_a_checkpoint_is_never_overwritten_unasked(refused, at):
    before = (at / "arrays" / "checkpoint.safetensors").read_bytes()
    assert "--resume" in refused("train", "--data", at / "data.npy", "--out", at / "arrays", *TINY)
    assert (at / "arrays" / "checkpoint.safetensors").read_bytes() == before


def test_a_resumed_run_keeps_its_settings(refused, at):
    args = ("train", "--data", at / "data.npy", "--out", at / "arrays", "--resume")
    assert "dim" in refused(*args, "--dim", 16)
    assert "seed" in refused(*args, "--seed", 9)


def test_too_large_a_model_is_one_line(at, tmp_path):
    pytest.importorskip("resource")
    np.save(tmp_path / "large.npy", np.asarray([[0, 2**34]]))
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))"
    done = command("train", "--data", tmp_path / "large.npy", "--out", tmp_path / "out", *TINY, before=limit)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_missing_library_or_device_is_one_line(at):
    hide = "import sys; sys.modules['{0}'] = None; sys.modules['array_api_compat.{0}'] = None"
    for name, package in (("torch", "torch"), ("cupy", "cupy")):
        done = command("sample", at / "arrays", "--num", 1, "--backend", name, before=hide.format(package))
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        assert "pip install" in done.stderr


# Interrupts


@pytest.mark.parametrize("n", [1, 3])
def test_an_interrupted_run_resumes_as_if_unbroken(at, tmp_path, n):
    args = ("train", "--data", at / "data.npy", "--out", tmp_path, *TINY)
    done = command(*args, before=at_update(n, interrupt("SIGINT")))
    assert (done.returncode, done.stderr) == (130, "")
    assert checkpoint(tmp_path)[1]["step"] == n - 1
    assert {f.name for f in tmp_path.iterdir()} <= {"checkpoint.safetensors", ".lock"}
    done = command(*args, "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, at / "arrays")


def test_a_run_whose_gradients_are_clipped_resumes_as_if_unbroken(run, at, tmp_path):
    """The norm that clips is a sum over parameters, whose order is not that of a file."""
    clipped = ("train", "--data", at / "data.npy", *TINY, "--steps", 40, "--clip", 1e-3)
    assert run(*clipped, "--out", tmp_path / "unbroken")[0] == 0
    assert command(*clipped, "--out", tmp_path / "broken", before=at_update(3, interrupt("SIGINT"))).returncode == 130
    assert run(*clipped, "--out", tmp_path / "broken", "--resume")[0] == 0
    assert_same_run(tmp_path / "broken", tmp_path / "unbroken")


def test_training_that_diverges_is_an_error_and_leaves_the_old_checkpoint(refused, at, tmp_path):
    wild = ("train", "--data", at / "data.npy", *TINY, "--learning-rate", 1e30)
    assert "learning_rate" in refused(*wild, "--out", tmp_path / "new")
    assert not (tmp_path / "new" / "checkpoint.safetensors").exists()


def test_parameters_that_are_not_finite_are_not_a_checkpoint(refused, at, tmp_path):
    arrays, description = checkpoints.load(at / "arrays" / "checkpoint.safetensors")
    checkpoints.save(tmp_path / "a.safetensors", {n: a * np.nan for n, a in arrays.items()}, description)
    assert "finite" in refused("evaluate", tmp_path / "a.safetensors", "--data", at / "data.npy")


def test_a_settings_file_nested_too_deeply_is_a_mistake(refused, at, tmp_path):
    (tmp_path / "deep.toml").write_text("a=" + "[" * 5000 + "]" * 5000, encoding="utf-8")
    args = ("train", "--data", at / "data.npy", "--out", tmp_path / "new", "--config", tmp_path / "deep.toml")
    assert "deep.toml" in refused(*args)


def test_a_place_that_cannot_be_written_is_known_before_sampling(refused, at, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "sample", None)
    for out in (tmp_path / "none" / "a.npy", tmp_path):
        assert "--out" in refused("sample", at / "arrays", "--num", 1, "--out", out)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
def test_a_killed_run_resumes_as_if_unbroken(at, tmp_path):
    args = ("train", "--data", at / "data.npy", "--out", tmp_path, *TINY, "--resume")
    assert command(*args, before=at_update(3, interrupt("SIGINT"))).returncode == 130
    assert command(*args, before=at_update(2, interrupt("SIGKILL"))).returncode == -9
    assert checkpoint(tmp_path)[1]["step"] == 2
    assert command(*args).returncode == 0
    assert_same_run(tmp_path, at / "arrays")


def test_an_interrupted_save_leaves_the_old_checkpoint(at, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(at / "arrays", folder)
    before = f"import os, signal\nos.fsync = lambda file: {interrupt('SIGINT')}"
    done = command("train", "--data", at / "data.npy", "--out", folder, "--resume", "--steps", 6, before=before)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert_same_run(folder, at / "arrays")
    assert {f.name for f in folder.iterdir()} <= {"checkpoint.safetensors", ".lock"}


def test_an_interrupted_command_is_quiet(at):
    before = f"import os, signal\nfrom dfm_ref import samplers\nsamplers.sample = lambda *a, **k: {interrupt('SIGINT')}"
    done = command("sample", at / "arrays", "--num", 1, before=before)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_resume_starts_afresh_where_there_is_nothing(run, at, tmp_path):
    for folder in (tmp_path, tmp_path / "new"):
        assert run("train", "--data", at / "data.npy", "--out", folder, "--resume", *TINY)[0] == 0
        assert_same_run(folder, at / "arrays")


def test_resume_of_a_finished_run_changes_nothing(run, at, tmp_path):
    shutil.copytree(at / "arrays", tmp_path / "run")
    assert run("train", "--data", at / "data.npy", "--out", tmp_path / "run", "--resume")[0] == 0
    assert_same_run(tmp_path / "run", at / "arrays")


def test_two_runs_cannot_share_a_folder(refused, at, tmp_path):
    wait = "Path(sys.argv[-1]).touch(); time.sleep(60)"
    arguments = ["train", "--data", at / "data.npy", *TINY, "--out", tmp_path]
    code = f"import sys\n{at_update(2, wait)}\nfrom dfm_ref.cli import main\nmain(sys.argv[1:-1])"
    words = [sys.executable, "-c", code, *map(str, arguments), str(tmp_path / "ready")]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as first:
        try:
            while not (tmp_path / "ready").exists():
                assert first.poll() is None, first.stderr.read()
            assert str(tmp_path) in refused(*arguments)
            assert str(tmp_path) in refused(*arguments, "--resume")
        finally:
            first.kill()


def test_a_reader_that_has_had_enough_is_no_error(at):
    code = "import sys; from dfm_ref.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-W", "error", "-c", code, "sample", str(at / "text"), "--num", "20000", "--steps", "1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.read(5)
        process.stdout.close()
        err = process.stderr.read()
        process.wait(60)
    assert not [line for line in err.splitlines() if not PROGRESS.match(line)], err


# The demo


def test_the_demo_leaves_its_report(tmp_path):
    for library in ("matplotlib", "sklearn", "dfm_ref.demo"):
        pytest.importorskip(library)
    done = command("demo", "--minutes", "0.1", "--out", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    files = {f.suffix for f in (tmp_path / "demo").rglob("*")}
    assert {".html", ".json", ".png", ".safetensors"} <= files
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "<img" in page and not re.search(r'(src|href)="(?!data:|#)', page), "self-contained"
    verification = json.loads((tmp_path / "demo" / "report.json").read_text(encoding="utf-8"))["verification"]
    (laws,) = [run["laws"] for run in verification["runs"]]
    assert {law["status"] for law in laws} == {"holds"}
    verdict = f"dfm_ref:numpy: {len(laws)} of {len(laws)} laws hold"
    assert verdict in done.stdout and verdict in page


@pytest.mark.parametrize("library", ["matplotlib", "hypothesis"])
def test_the_demo_says_what_to_install(tmp_path, library):
    done = command("demo", "--out", tmp_path / "demo", before=f"sys.modules[{library!r}] = None")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "pip install 'dfm_ref[demo]'" in done.stderr
    assert not (tmp_path / "demo").exists()


def test_the_continuous_demo_leaves_its_report(tmp_path):
    for library in ("matplotlib", "sklearn"):
        pytest.importorskip(library)
    done = command("demo", "--suite", "continuous", "--minutes", "0.02", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    pictures = {f.stem for f in tmp_path.glob("*.png")}
    assert pictures == {"energies", "divergences", "layers", "particles", "contours", "digits"}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 6 and not re.search(r'(src|href)="(?!data:|#)', page), "self-contained"
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert all(len(report["kl_of_planar_flows"][name]) == 3 for name in ("ring", "wave", "fork", "step"))
    for plane in ("checkerboard", "moons", "pinwheel"):
        nats = report["nats"][plane]
        assert abs(nats["the law itself"] - nats["entropy"]) < 0.1
        assert nats["the law itself"] < min(nats["spline flow"], nats["flow matching"]) < 12
    assert 0 < report["digits"]["bits_per_dimension"] < 8


def test_exact_samples_need_no_grid_and_keep_the_prompt(run, refused, at):
    """From a mask, and from a uniform source with its last step."""
    for name in ("text", "uniform"):
        assert run("sample", at / name, "--num", 3, "--exact", "--out", at / f"{name}-exact.npy")[0] == 0
        x_1 = np.load(at / f"{name}-exact.npy")
        assert len(x_1) == 3 and x_1.min() >= 0
    status, prompted, _ = run("sample", at / "text", "--num", 5, "--exact", "--prompt", "the")
    assert status == 0 and [prompted[9 * k : 9 * k + 3] for k in range(5)] == ["the"] * 5  # 8 characters and the end
    assert "--exact" in refused("sample", at / "text", "--num", 1, "--exact", "--steps", 4)


def test_text_is_no_data_of_a_model_of_arrays(run, refused, at, tmp_path):
    """Its letters would be numbered, in the order of the alphabet, as if they were the tokens of the model."""
    (tmp_path / "abc.txt").write_text("abcd" * 8, encoding="utf-8")
    text = f"text:{tmp_path / 'abc.txt'}"
    assert "expected tokens" in refused("evaluate", at / "arrays", "--data", text)
    shutil.copytree(at / "arrays", tmp_path / "arrays")
    assert "expected tokens" in refused("train", "--data", text, "--out", tmp_path / "arrays", "--resume", *TINY)


def test_a_full_disk_is_told_with_the_file(at, tmp_path, monkeypatch, refused):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    line = refused("sample", at / "arrays", "--num", "2", "--steps", "2", "--out", tmp_path / "x.npy")
    assert line == f"dfm-ref: {tmp_path / 'x.npy'}: No space left on device" and not list(tmp_path.iterdir())
