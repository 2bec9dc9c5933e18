"""The kit on adapters of every conduct, right and wrong: what it says, how it ends, and that its lines run."""

import gc
import io
import json
import re
import subprocess
import sys
import time
from contextlib import redirect_stdout, suppress

import numpy as np
import pytest

from dfm_ref.cli import main
from dfm_ref.verify import Case, kit, laws, measurements, mutants, page, probe, report, targets
from dfm_ref.verify.mutants import right


class Only:
    """The right implementation, of which some methods are replaced, and no others are there."""

    def __init__(self, case, **methods):
        self.case = case
        for name, method in methods.items():
            setattr(self, name, method)


def adapter(**methods):
    return lambda case: Only(case, **methods)


def lawful(*ids):
    return tuple(map(laws.law, ids))


def only(build, *ids, **options):
    [result] = kit.verify(build, laws=lawful(*ids), quick=True, **options).results
    return result


def test_a_right_implementation_keeps_all_laws():
    found = kit.verify(right.build, quick=True)
    assert found.status == 0 and not found.problem
    assert {result.status for result in found.results} == {"holds"}
    assert [result.law for result in found.results] == list(laws.LAWS)


@pytest.mark.parametrize(
    ("id", "law"),
    [
        ("velocity_divides_by_kappa", "kolmogorov"),
        ("losses_in_bits", "cross-entropy"),
        ("batching_path_first_time_for_all", "path-ends"),
        ("randomness_seed_zero_is_none", "determinism"),
        ("randomness_path_rows_alike", "path-law"),
        ("boundaries_last_step_goes_to_one", "end-law"),
        ("precision_cosine_remaining_by_subtraction", "kolmogorov-end"),
        ("samplers_model_asked_twice", "model-times"),
        ("samplers_frames_late", "frames"),
        ("boundaries_never_all_arrive", "arrival"),
        ("randomness_one_value_a_row", "value-independence"),
        ("boundaries_impossible_token_reachable", "tails"),
        ("inputs_times_by_their_ends", "disorder"),
        ("inputs_nan_time_passes", "bad-times"),
    ],
)
def test_a_mutant_breaks_its_law_and_the_lines_of_the_finding_run(id, law):
    target = targets.resolve(f"dfm_ref.verify.mutants:{id}")[0]
    result = only(target.build, law, setup=target.setup)
    assert result.status == "broken" and only(right.build, law).status == "holds"
    assert f"import {id} as build" in result.finding.script
    with redirect_stdout(io.StringIO()) as printed, np.errstate(all="ignore"):
        exec(compile(result.finding.script, "<finding>", "exec"), {})  # as a reader pastes it
    assert printed.getvalue().strip()


def test_what_is_found_is_shrunk_to_the_smallest_case():
    build = targets.resolve("dfm_ref.verify.mutants:losses_in_bits")[0].build
    finding = only(build, "cross-entropy").finding
    assert finding.case == "Case(vocab_size=2, length=1, schedule='linear', source='uniform')"
    assert "logits = np.array([[[0., 0.]]])" in finding.script
    assert float(finding.expected) == pytest.approx(np.log(2)) and float(finding.got) == pytest.approx(1.0)


def test_a_run_is_decided_by_its_seed():
    def told(seed):
        found = kit.verify(mutants.mutant("samplers_stay_by_kappa"), laws=lawful("step-law"), quick=True, seed=seed)
        return report.told(found.results[0])

    assert told(1) == told(1) != told(2)


def raises(*arguments):
    raise RuntimeError("no")


def unknown(*arguments):
    raise NotImplementedError("later")


def hangs(t):
    while True:
        time.sleep(0.01)


def hangs_and_swallows(t):
    while True:
        with suppress(Exception):
            time.sleep(10)


class Slow:
    def __del__(self):
        time.sleep(0.05)


def hangs_in_destructors(t):
    while True:
        Slow()
        time.sleep(0.01)


def hangs_in_collections(t):
    def callback(phase, info):
        time.sleep(0.05)

    gc.callbacks.append(callback)
    try:
        while True:
            gc.collect()
            time.sleep(0.01)
    finally:
        gc.callbacks.remove(callback)


def leaves(t):
    sys.exit(3)


@pytest.mark.parametrize(
    ("kappa", "message"),
    [
        (raises, "kappa raises RuntimeError: no on legal input"),
        (lambda t: t.tolist(), "kappa returns list"),
        (lambda t: None, "kappa returns NoneType"),
        (lambda t: float(t[0]), "kappa returns float"),
        (lambda t: (10 * t).astype(int), "kappa returns int64"),
        (lambda t: t.astype(complex), "kappa returns complex128"),
        (lambda t: t[:, None], "kappa returns the shape (1, 1)"),
        (lambda t: t * np.nan, "kappa returns nan"),
        (lambda t: t / 0, "kappa returns inf"),
        (leaves, "kappa raises RuntimeError: SystemExit: 3 on legal input"),
        (hangs, "kappa: no answer within 0.2 s"),
        (hangs_and_swallows, "kappa: no answer within 0.2 s"),
        (hangs_in_destructors, "kappa: no answer within 0.2 s"),
        (hangs_in_collections, "kappa: no answer within 0.2 s"),
    ],
)
def test_an_adapter_of_bad_conduct_is_one_clear_line(kappa, message):
    found = kit.verify(adapter(kappa=kappa), quick=True, limit=0.2)
    assert found.status == 1 and found.broken[0].law.id == "answers-kappa"
    assert found.broken[0].finding.message == message
    assert found.seconds < 5


def test_a_method_that_hung_is_not_waited_for_again():
    found = kit.verify(
        adapter(kappa=hangs, kappa_dot=right.build(Case(2, 1, "linear", "uniform")).kappa_dot), limit=0.3
    )
    assert found.seconds < 15 and [r.law.id for r in found.broken][:1] == ["answers-kappa"]


def test_what_an_adapter_prints_is_kept_from_the_report(capsys):
    def build(case):
        print("building")
        return Only(case, kappa=lambda t: print("asked") or right.build(case).kappa(t))

    found = kit.verify(build, quick=True, laws=lawful("answers-kappa", "schedule-value"))
    assert found.status == 0 and found.printed > 10 and not capsys.readouterr().out
    assert any("printed" in line for line in report.lines(found))


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (raises, "build raises RuntimeError: no, on every case"),
        (unknown, "build covers no case: build(Case("),
        (adapter(), "the object that build gives has none of the methods kappa"),
        (adapter(kappa=unknown, velocity=unknown), "no law could be checked: kappa: later"),
        (lambda: None, "build raises TypeError"),
    ],
)
def test_nothing_to_check_ends_with_2(build, problem):
    found = kit.verify(build, quick=True)
    assert found.status == 2 and problem in found.problem and "Traceback" not in found.problem


def test_what_is_not_covered_never_fails():
    def build(case):
        if case.source == "uniform":
            raise NotImplementedError("masks alone")
        return Only(case, kappa=right.build(case).kappa, velocity=unknown)

    found = kit.verify(build, quick=True)
    assert found.status == 0
    assert {r.law.id: r.reason for r in found.results}["kolmogorov"] == "velocity: later"


def test_a_build_that_fails_on_some_cases_breaks_a_law():
    def build(case):
        if case.length > 1:
            raise ValueError("one token alone")
        return right.build(case)

    found = kit.verify(build, quick=True, laws=lawful("build", "kolmogorov"))
    assert [r.status for r in found.results] == ["broken", "holds"]


def test_the_model_refuses_what_no_model_need_understand():
    def sample(model, x_0, times, seed):
        model(x_0.tolist(), times[:1])
        return np.stack([x_0] * len(times))

    finding = only(adapter(sample=sample), "model-times").finding
    assert finding.message == "the model is given x_t as list"


def test_an_adapter_cannot_harm_the_kit_by_writing_into_its_arguments():
    def velocity(probs_1, x_t, t):
        u = right.build(Case(2 + (probs_1.shape[-1] > 2), probs_1.shape[1], "linear", "uniform"))
        probs_1 *= 0
        return u

    assert only(adapter(velocity=velocity), "answers-velocity").status == "broken"


def test_every_law_says_what_it_is():
    ids = [law.id for law in laws.LAWS]
    assert len(set(ids)) == len(ids)
    for law in laws.LAWS:
        assert law.says and law.formula and law.source
        assert set(law.needs) <= set(probe.METHODS)
    with pytest.raises(ValueError, match=r"expected ids among build, .*got 'nothing'"):
        laws.law("nothing")


def test_measurements_never_fail_and_say_how_a_sampler_converges():
    found = measurements.measure(probe.Probe(right.build), draws=4096)
    assert [one.steps for one in found] == [(2, 4, 8, 16, 32)] * 2
    for one in found:
        assert one.tv[0] > one.tv[2] and abs(one.tv[0] - one.finite[0]) < 4 * one.noise
    assert not measurements.measure(probe.Probe(adapter(sample=raises)))


# The command


def run(*arguments):
    with redirect_stdout(io.StringIO()) as out:
        status = main(["verify", *arguments])
    return status, out.getvalue()


def test_laws_are_listed_and_chosen(capsys):
    status, out = run("--laws")
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == [law.id for law in laws.LAWS]
    status, out = run("dfm_ref.verify.mutants.right:build", "--laws", "kolmogorov,conservation", "--quick")
    assert status == 0 and "2 laws hold, 0 broken, 0 not checked" in out
    assert main(["verify", "dfm_ref", "--laws", "nothing"]) == 2
    assert "got 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "TARGET: expected module:attribute"),
        (["no_such_module:build"], "no_such_module:build: cannot be imported: ModuleNotFoundError"),
        (["dfm_ref.verify.mutants:nothing"], "has no attribute 'nothing'"),
        (["dfm_ref.verify:Case.data_size"], "expected a function build(case), got property"),
        (["dfm_ref:nothing"], "backend nothing: expected one of"),
        (["flow_matching:nothing"], "expected an option among"),
        (["dfm_ref", "--alpha", "2"], "--alpha: expected a rate in (0, 1)"),
        (["dfm_ref", "--json", "no/such/folder.json"], "--json: expected the name of a file"),
    ],
)
def test_a_mistake_is_one_line_and_2(capsys, arguments, message):
    if arguments[:1] == ["flow_matching:nothing"]:
        pytest.importorskip("flow_matching")
    assert main(["verify", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_module_in_the_working_directory_is_found_and_may_do_anything_at_its_import(tmp_path):
    (tmp_path / "mine.py").write_text("print('hello')\nfrom dfm_ref.verify.mutants.right import build\n")
    (tmp_path / "bad.py").write_text("import sys\nprint('hello')\nsys.exit(5)\n")
    command = [sys.executable, "-m", "dfm_ref.cli", "verify"]
    code = "import sys; from dfm_ref.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "verify"]
    good = [*command, "mine:build", "--quick", "--laws", "kolmogorov"]
    done = subprocess.run(good, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "hello" not in done.stdout
    done = subprocess.run([*command, "bad:build"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "bad:build: cannot be imported: SystemExit: 5" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_call_that_no_alarm_reaches_ends_the_command(tmp_path):
    """A call inside of a C library that looks at no signal."""
    body = (
        "import hashlib\n\nclass It:\n    def kappa(self, t):\n        hashlib.pbkdf2_hmac('md5', b'', b'', 10**9)\n\n"
    )
    (tmp_path / "stuck.py").write_text(body + "def build(case):\n    return It()\n")
    code = "import sys; from dfm_ref.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "verify", "stuck:build", "--quick", "--limit", "0.5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "kappa: no answer within 0.5 s" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_the_json_report_and_the_page(tmp_path):
    as_json, as_html = tmp_path / "report.json", tmp_path / "report.html"
    chosen = "kolmogorov,conservation,step-law,bad-times,generalized-kl"
    options = ["--laws", chosen, "--quick", "--json", str(as_json), "--html", str(as_html), "--seed", "5", "-v"]
    status, out = run("dfm_ref.verify.mutants:samplers_stay_by_kappa", *options)
    assert status == 1 and "BROKEN" in out and "is seen with probability 0.99" not in out.split("step-law")[0]
    document = json.loads(as_json.read_text())
    assert (document["schema"], document["status"], document["seed"], document["quick"]) == (1, 1, 5, True)
    found = {law["id"]: law for law in document["runs"][0]["laws"]}
    assert list(found) == chosen.split(",") and found["step-law"]["status"] == "broken"
    assert "it = build(case)" in found["step-law"]["finding"]["script"]
    text = as_html.read_text()
    assert text.startswith("<!doctype html>") and "<svg" in text and "step-law" in text
    assert not re.search(r'(src|href)="?http', text)


def test_the_page_escapes_what_an_adapter_says():
    def kappa(t):
        raise RuntimeError("<script>alert(1)</script>")

    found = kit.verify(adapter(kappa=kappa), quick=True, target="<b>:build")
    text = page.text([found])
    assert "<script>" not in text and "<b>" not in text


def test_power_is_told_for_laws_of_samples():
    status, out = run("dfm_ref.verify.mutants.right", "--quick", "--laws", "path-law", "-v")
    assert status == 0
    assert re.search(r"56 examples of \d+ draws; a departure of 0\.\d+ is seen with probability 0.99", out)
