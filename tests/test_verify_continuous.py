"""The continuous suite: exact numbers, laws on right and wrong implementations, adapters, targets and reports."""

import io
import json
import re
import sys
import time
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats
from test_plugin import pytest_in

from dfm_ref.cli import main
from dfm_ref.verify import Case, FlowCase, flow_cases, kit, laws, mutants, page, probe, suites, targets
from dfm_ref.verify.calculus import expectation, integral, jacobian
from dfm_ref.verify.flow_contract import METHODS
from dfm_ref.verify.laws.fields import path_cases
from dfm_ref.verify.mutants import catalogue, flows, flows_linear
from dfm_ref.verify.suites import CONTINUOUS, DISCRETE

DOCS = Path(__file__).parents[1] / "docs"
EVERY = [result.id for result in laws.FLOW_LAWS]


def lawful(*ids):
    return tuple(map(CONTINUOUS.law, ids))


def verify(build, *ids, quick=True, **options):
    chosen = lawful(*ids) if ids else None
    return kit.verify(build, suite=CONTINUOUS, laws=chosen, quick=quick, **options)


def broken(report):
    return [result.law.id for result in report.broken]


def printed(script):
    with redirect_stdout(io.StringIO()) as out, np.errstate(all="ignore"):
        exec(compile(script, "<finding>", "exec"), {})  # as a reader pastes it
    return out.getvalue()


# Numbers


@pytest.mark.parametrize("case", path_cases(), ids=lambda case: f"{case.path}-{case.dim}")
def test_the_exact_numbers_of_a_path_are_those_of_a_mixture_of_normal_laws(case):
    rng, t = np.random.default_rng(case.dim), np.array([0.25, 0.5, 0.875])
    x = rng.normal(size=(3, case.dim))
    path = flow_cases.PATHS[case.path]
    p, u = np.zeros(3), np.zeros((3, case.dim))
    h = 1e-6
    mu_dot, sigma_dot = ((f(t + h) - f(t - h)) / (2 * h) for f in (path.mu, path.sigma))
    for point, q in zip(case.data, case.q, strict=True):
        for row in range(3):
            mean, sigma = path.mu(t[row]) * np.array(point), path.sigma(t[row])
            weight = q * stats.multivariate_normal(mean, sigma**2 * np.eye(case.dim)).pdf(x[row])
            p[row] += weight
            u[row] += weight * (sigma_dot[row] / sigma * (x[row] - mean) + mu_dot[row] * np.array(point))
    np.testing.assert_allclose(flow_cases.log_density(case, x, t), np.log(p), rtol=1e-12)
    np.testing.assert_allclose(flow_cases.velocity(case, x, t), u / p[:, None], rtol=1e-7, atol=1e-8)
    dot = jacobian(lambda s: flow_cases.log_density(case, np.tile(x, (len(s) // 3, 1)), s[:, 0]), t[:, None], step=0.05)
    np.testing.assert_allclose(flow_cases.log_density_dot(case, x, t), dot.value[:, 0, 0], rtol=1e-8, atol=1e-8)
    score = jacobian(lambda y: flow_cases.log_density(case, y, np.tile(t, len(y) // 3)), x)
    np.testing.assert_allclose(flow_cases.score(case, x, t), score.value[:, 0], rtol=1e-8, atol=1e-8)


def test_the_exact_numbers_refuse_what_is_no_point_of_the_path():
    case = path_cases()[0]
    for x, t in ((np.zeros((1, 2)), [0.5]), (np.zeros((2, 1)), [0.5]), (np.zeros((1, 1)), [1.5])):
        with pytest.raises(ValueError, match="points of 1 coordinates"):
            flow_cases.posterior(case, x, np.array(t))


def test_a_derivative_is_within_its_error_for_smooth_rounded_and_bent_functions():
    x = np.linspace(-1.5, 1.7, 9)[:, None]
    for f, slope, error in (
        (np.sin, np.cos(x), 1e-11),
        (lambda x: np.sin(x).astype(np.float32), np.cos(x), 1e-3),
        (lambda x: np.abs(x) * x, 2 * np.abs(x), 1e-8),
        (lambda x: np.sin(x) + 1e-6 * np.sin(1e9 * x), np.cos(x), 1e-3),
    ):
        found = jacobian(f, x, noise=1e-6 if error == 1e-3 else 0.0)
        off = np.abs(found.value[:, 0] - slope)[:, 0]
        assert np.all(off <= found.error) and found.error.max() <= error


def test_an_integral_is_within_its_error_for_smooth_and_bent_functions_of_any_scale():
    def kinked(x):
        return np.exp(-np.abs(x - 0.123).sum(axis=1, keepdims=True) * 30)

    for dim, edges in ((1, 65), (2, 17)):
        found = integral(kinked, [np.linspace(-9, 9, edges)] * dim)
        assert abs(found.value[0] - (2 / 30) ** dim) <= found.error[0] + 1e-7
        assert found.error[0] < 1e-3
    uneven = [np.array([-1e6, -8.0, -2.0, -1.0, 0.0, 1.0, 2.0, 8.0, 1e6])]
    narrow = integral(lambda x: stats.norm.pdf(x), uneven)
    assert abs(narrow.value[0] - 1) < 1e-6


def test_a_mean_is_within_its_error():
    found = expectation(lambda z: np.cos(z @ np.ones((2, 1))), 2)
    assert abs(found.value[0] - np.exp(-1)) <= found.error[0] + 1e-14 < 1e-13
    bent = expectation(np.abs, 1)
    assert abs(bent.value[0] - np.sqrt(2 / np.pi)) <= bent.error[0] < 0.01


# Right and wrong implementations


@pytest.mark.parametrize("name", mutants.FLOW_RIGHT)
def test_a_right_implementation_of_any_style_breaks_nothing(name):
    target = targets.resolve(f"dfm_ref.verify.mutants.{name}:build")[0]
    assert target.suite is CONTINUOUS
    found = verify(target.build, quick=name != "flows")
    assert (found.status, broken(found), found.problem) == (0, [], "")
    held = [result.law.id for result in found.results if result.status == "holds"]
    assert held == EVERY if name in ("flows", "flows_single") else 10 < len(held) < len(EVERY)


@pytest.mark.parametrize("mutant", mutants.FLOW_MUTANTS, ids=lambda mutant: mutant.id)
def test_a_mutant_breaks_its_law_and_the_lines_of_the_finding_run(mutant):
    target = targets.resolve(f"dfm_ref.verify.mutants:{mutant.id}")[0]
    assert target.suite is CONTINUOUS
    found = verify(target.build, mutant.area, setup=target.setup)
    assert broken(found) == [mutant.area]
    finding = found.results[0].finding
    assert f"import {mutant.id} as build" in finding.script
    try:
        assert printed(finding.script).strip()
    except Exception as error:
        assert "raises" in finding.message and type(error).__name__ in finding.message  # which is what is wrong


def test_the_catalogue_has_a_mutant_for_every_law_and_each_replaces_one_line():
    ids = [mutant.id for mutant in mutants.FLOW_MUTANTS]
    assert len(set(ids)) == len(ids) and not set(ids) & {mutant.id for mutant in mutants.MUTANTS}
    assert {mutant.area for mutant in mutants.FLOW_MUTANTS} == set(EVERY)
    lines = [line.strip() for line in catalogue._right("flows").splitlines()]
    for mutant in mutants.FLOW_MUTANTS:
        assert lines.count(mutant.line) == 1 and mutant.wrong != mutant.line and mutant.why.endswith(".")
    with pytest.raises(AttributeError, match="no attribute 'path_nothing'"):
        _ = mutants.path_nothing


def test_what_is_found_is_shrunk_to_a_simple_point():
    build = mutants.flow_log_det_without_a_term
    finding = verify(build, "log-det").results[0].finding
    assert finding.case == "FlowCase(dim=1, path='', data=(), q=())" and "z = np.array([[0.5]])" in finding.script
    assert float(finding.expected) == pytest.approx(flows.Flow(1).flow(np.array([[0.5]]))[1][0])
    got, want = map(float, re.findall(r"\[([-\d.]+)\]", printed(f"build = None\n{finding.script}".replace(
        "build = None", "from dfm_ref.verify.mutants import flow_log_det_without_a_term as build"))))  # fmt: skip
    assert got == pytest.approx(float(finding.got)) and want == pytest.approx(float(finding.expected))


def test_a_finding_of_an_integral_is_repeated_by_its_lines():
    target = targets.resolve("dfm_ref.verify.mutants:flow_density_without_determinant")[0]
    finding = verify(target.build, "mass", setup=target.setup).results[0].finding
    shown = printed(finding.script)
    assert float(re.search(r"value=array\(\[([\d.]+)", shown)[1]) == pytest.approx(float(finding.got), rel=1e-6)


# Objects of every kind


class Only:
    """The right flow of a case, of which some methods are replaced, and no others are there."""

    def __init__(self, **methods):
        for name, method in methods.items():
            setattr(self, name, method)


def only(**methods):
    return lambda case: Only(**methods)


def right(case):
    return flows.build(case)


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (lambda z: z, "flow returns no pair"),
        (lambda z: (z, z[:, 0].tolist()), "flow: log_det is list"),
        (lambda z: (z.astype(int), z[:, 0]), "flow: x is int64"),
        (lambda z: (z[:, :0], z[:, 0]), "flow: x has the shape (1, 0)"),
        (lambda z: (z, z[:, 0] * np.nan), "flow: log_det has the entry nan"),
        (lambda z: (z / 0, z[:, 0]), "flow: x has the entry inf"),
        (lambda z: 1 / 0, "flow raises ZeroDivisionError: division by zero on legal input"),
    ],
)
def test_an_answer_of_another_kind_is_one_clear_line(flow, message):
    found = verify(only(flow=flow))
    assert found.status == 1 and found.broken[0].finding.message == message
    assert broken(found)[0] == "answers-flow"


def test_infinite_is_a_density_of_zero_and_a_derivative_at_the_end_alone():
    case, one = FlowCase(1), np.zeros((1, 1))
    density = Only(log_prob=lambda x: np.full(len(x), -np.inf))
    assert probe.Probe(lambda case: density, contract=CONTINUOUS.contract).call(case, "log_prob", one) == -np.inf
    for t, fits in ((1.0, True), (0.5, False)):
        path = Only(sample_path=lambda x_0, x_1, t, seed: (x_0, x_0 + np.inf))
        asked = probe.Probe(lambda case, path=path: path, contract=CONTINUOUS.contract)
        if fits:
            assert asked.call(path_cases()[0], "sample_path", one, one, np.array([t]), 1).dx_t == np.inf
        else:
            with pytest.raises(probe.Malformed, match="dx_t has the entry inf"):
                asked.call(path_cases()[0], "sample_path", one, one, np.array([t]), 1)


def test_an_object_of_one_dimension_is_asked_there_alone():
    found = verify(flows_linear.build)
    assert found.status == 0
    asked = probe.Probe(flows_linear.build, contract=CONTINUOUS.contract)
    with pytest.raises(probe.NotCovered, match="its object is for other cases"):
        asked.object(FlowCase(3))


def test_a_field_of_two_arguments_alone_is_no_path_and_breaks_nothing():
    found = verify(only(velocity=lambda x, t: -x * t[:, None]))
    assert found.status == 0
    reasons = {result.law.id: result.reason for result in found.results if result.status == "unchecked"}
    assert reasons["two-routes"] == "no method log_prob or flow" and "sample_path" in reasons["continuity"]


def test_a_tolerance_is_taken_at_its_word_up_to_a_tenth():
    def off(by, **claims):
        it = right(FlowCase(2))
        return Only(dim=2, flow=it.flow, inverse=lambda x: it.inverse(x) + by, **claims)

    for by, claims, status in ((1e-5, {}, 1), (1e-5, {"tolerance": 1e-5}, 0), (1e-2, {"tolerance": 1e-5}, 1),
                               (0.5, {"tolerance": 9.0}, 1), (1e-5, {"tolerance": "much"}, 1)):  # fmt: skip
        assert verify(lambda case, by=by, claims=claims: off(by, **claims), "inverse").status == status


def test_single_precision_is_measured_as_such():
    def rounded(case):
        it = right(case)
        return Only(dim=case.dim, flow=lambda z: tuple(a.astype(np.float32) for a in it.flow(z)))

    def rounded_twice(case):
        it = rounded(case)
        return Only(dim=case.dim, flow=lambda z: tuple(a.astype(np.float64) for a in it.flow(z)))

    assert verify(rounded, "log-det").status == 0 and verify(rounded_twice, "batch-is-loop").status == 0
    found = verify(lambda case: Only(flow=rounded_twice(case).flow, inverse=right(case).inverse), "inverse")
    assert found.status == 1, "digits that were lost are missed"


def test_a_density_that_no_flow_stands_beside_is_looked_for_in_a_wide_box():
    def normal(deviation, dim=1):
        return only(dim=dim, log_prob=lambda x: stats.norm(0, deviation).logpdf(x).sum(axis=1))

    assert verify(normal(3.0), "mass").status == 0
    assert verify(normal(200.0), "mass").problem.startswith("no law could be checked: log_prob: the law reaches beyond")
    half = only(log_prob=lambda x: stats.norm.logpdf(x).sum(axis=1) - np.log(2))
    assert verify(half, "mass").results[0].finding.message.startswith("the density integrates to 0.5")


def test_a_call_that_never_ends_is_the_one_that_is_shown():
    def flow(z):
        while np.any(np.isnan(z)):
            time.sleep(0.01)
        if z.shape[1] != 2:
            raise ValueError("two coordinates")
        return z, 0 * z[:, 0]

    found = verify(only(dim=2, flow=flow), limit=0.3)
    assert broken(found) == ["bad-points"]
    finding = found.broken[0].finding
    assert finding.message == "flow: no answer within 0.3 s" and "np.nan" in finding.script


# Suites and targets


def test_a_suite_is_seen_from_what_is_built():
    def discrete(case):
        return import_module("dfm_ref.verify.mutants.right").build(case)

    class Both(flows.Flow):
        def kappa(self, t):
            return t

    for build, suite in (
        (right, CONTINUOUS),
        (only(velocity=lambda x, t: x), CONTINUOUS),
        (only(velocity=lambda probs_1, x_t, t: x_t), DISCRETE),
        (only(velocity=max), DISCRETE),
        (discrete, DISCRETE),
        (lambda case: Both(2), DISCRETE),
        (only(), DISCRETE),
        (lambda: None, DISCRETE),
        (lambda case: Path(case), DISCRETE),
    ):
        assert suites.suite_of(build) is suite


def test_suites_share_nothing_but_the_kit():
    assert set(suites.SUITES) == {"discrete", "continuous"} and len(DISCRETE.laws) == 52
    assert suites.SUITES["continuous"].contract.methods == METHODS
    for law in CONTINUOUS.laws:
        assert law.says and law.formula and law.source and not law.draws and set(law.needs) <= set(METHODS)
    with pytest.raises(ValueError, match=r"expected ids among build, .*got 'kolmogorov'"):
        CONTINUOUS.law("kolmogorov")
    asked = probe.Probe(flows.build)  # of the discrete contract
    with pytest.raises(probe.Unbuilt):
        asked.object(Case(2, 1, "linear", "uniform"))


def run(*arguments):
    with redirect_stdout(io.StringIO()) as out:
        status = main(["verify", *arguments])
    return status, out.getvalue()


def test_the_laws_of_a_suite_are_listed_and_chosen():
    status, out = run("--suite", "continuous", "--laws")
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == EVERY
    status, out = run("dfm_ref.verify.mutants.flows:build", "--laws", "inverse,continuity", "--quick")
    assert status == 0 and "2 laws hold, 0 broken, 0 not checked" in out and "measured" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zuko", "--suite", "discrete"], "zuko: expected the suite continuous, got discrete"),
        (["dfm_ref.verify.mutants.flows", "--laws", "kolmogorov"], "got 'kolmogorov'"),
        (["dfm_ref.verify.mutants.right", "--suite", "continuous"], "build raises AttributeError"),
        (["zuko:nothing"], "zuko: expected an option among maf, nice"),
        (["dfm_ref:nothing", "--suite", "continuous"], "backend nothing: expected one of"),
    ],
)
def test_a_mistake_is_one_line_and_2(capsys, arguments, message):
    if arguments == ["zuko:nothing"]:
        pytest.importorskip("zuko")
    assert main(["verify", *arguments]) == 2
    both = capsys.readouterr()
    assert message in both.err + both.out and both.err.count("\n") <= 1 and "Traceback" not in both.err


@pytest.mark.parametrize("package", ["zuko", "torchcfm", "flow_matching"])
def test_a_package_that_is_missing_is_one_line_with_what_to_install(monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["verify", package, "--suite", "continuous"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "pip install" in err and package in err


def test_the_reports_name_the_suite(tmp_path):
    as_json, as_html = tmp_path / "report.json", tmp_path / "report.html"
    options = ["--quick", "--json", str(as_json), "--html", str(as_html), "-v"]
    status, out = run("dfm_ref.verify.mutants:path_posterior_without_q", *options)
    assert status == 1 and "marginal-velocity" in out
    document = json.loads(as_json.read_text())
    assert document["schema"] == 1 and document["runs"][0]["suite"] == "continuous" and not document["measurements"]
    assert [law["id"] for law in document["runs"][0]["laws"]] == EVERY
    assert "continuity" in as_html.read_text() and "<script>" not in as_html.read_text()
    report = verify(flows.build, "mass")
    assert page.text([report]).startswith("<!doctype html>") and report.suite == "continuous"


def test_the_plugin_gives_a_test_a_law(tmp_path):
    target = "dfm_ref.verify.mutants:path_score_for_velocity"
    done = pytest_in(tmp_path, "--dfm-adapter", target, "--dfm-quick", "-k", "law", "--dfm-laws", "mass,continuity")
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout and "law[continuity]" in done.stdout
    arguments = ("--dfm-suite", "continuous", "--collect-only", "-k", "law")
    done = pytest_in(tmp_path, "--dfm-adapter", "dfm_ref:numpy", *arguments)
    assert sum("law[" in line for line in done.stdout.splitlines()) == 2 * len(EVERY)


# Adapters


@pytest.fixture
def torch():
    """PyTorch on one thread: several wait for each other on small arrays."""
    found = pytest.importorskip("torch")
    before = found.get_num_threads()
    found.set_num_threads(1)
    yield found
    found.set_num_threads(before)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_this_library_breaks_nothing(backend, request):
    if backend == "torch":
        request.getfixturevalue("torch")
    found, solved = targets.resolve(f"dfm_ref:{backend}", suite="continuous")
    report = verify(found.build)
    assert (report.status, broken(report)) == (0, [])
    unchecked = [result.law.id for result in report.results if result.status == "unchecked"]
    assert unchecked == ["two-routes"]
    some = ("answers-flow", "empty-batch", "inverse", "change-of-variables", "two-routes", "bad-shapes", "bad-points")
    report = verify(solved.build, *some[: 2 if backend == "torch" else None])
    assert {result.status for result in report.results} == {"holds"}


def checked(target, *ids):
    """The laws that a variant of a package breaks, the lines of every finding run."""
    [variant] = targets.resolve(target, suite="continuous")
    report = verify(variant.build, *ids, setup=variant.setup)
    for result in report.broken:
        try:
            assert printed(result.finding.script).strip()
        except Exception as error:
            assert type(error).__name__ in result.finding.message
    return {result.law.id: result.finding.message for result in report.broken}


def test_what_zuko_breaks(torch):
    """Empty batches, and shapes or NaN that pass; formulas hold, but of a Gaussianization beyond its bound of 10."""
    pytest.importorskip("zuko")
    assert set(checked("zuko:maf")) == {"empty-batch"}
    assert checked("zuko:nice", "bad-shapes")["bad-shapes"] == "flow accepts z of shape (3, 3) for (3, 2)"
    assert set(checked("zuko:nsf_coupling", "empty-batch", "inverse", "log-det", "bad-points")) == {"empty-batch"}
    assert set(checked("zuko:gf", "change-of-variables", "mass")) == {"change-of-variables", "mass"}
    it = targets.resolve("zuko:gf")[0].build(FlowCase(1))
    assert it.flow(np.array([[2.0]]))[0] == pytest.approx(10.0, abs=1e-5), "the bound of its bisection"
    assert set(checked("zuko:bpf", "bad-points", "log-det", "inverse")) == {"bad-points"}
    assert set(checked("zuko:cnf", "empty-batch", "log-det", "change-of-variables")) == {"empty-batch"}
    [cnf] = targets.resolve("zuko:cnf")
    [result] = verify(cnf.build, "bad-points", limit=1.0).results
    assert result.finding.message == "flow: no answer within 1 s", "a step with an error of NaN is tried for ever"


def test_what_the_paths_and_the_solver_of_flow_matching_break(torch):
    pytest.importorskip("flow_matching")
    pytest.importorskip("torchdiffeq")
    for variant in ("target", "epsilon"):
        found = checked(f"flow_matching:{variant}")
        assert set(found) == {"bad-times", "bad-shapes"} and all("sample_path" in line for line in found.values())
    chosen = ("empty-batch", "log-det", "change-of-variables", "two-routes", "bad-shapes")
    found = checked("flow_matching:dopri5", *chosen)
    assert set(found) == {"empty-batch"} and "underflow in dt" in found["empty-batch"]
    assert not checked("flow_matching:midpoint", "empty-batch", "change-of-variables")


def test_what_the_matchers_of_torchcfm_break(torch):
    pytest.importorskip("torchcfm.conditional_flow_matching")
    for variant in ("independent", "target", "variance_preserving"):
        assert set(checked(f"torchcfm:{variant}")) == {"bad-times", "bad-shapes"}


def test_a_module_in_pytorch_comes_through_its_wrapper(torch):
    from dfm_ref.verify.adapters import torch_module

    class Scale(torch.nn.Module):
        dim = 2

        def flow(self, z):
            return 2 * z, torch.full((len(z),), 2 * np.log(2.0), dtype=z.dtype)

        def inverse(self, x):
            if x.shape[1] != 2:
                raise ValueError("two coordinates")
            return x / 2

    build = torch_module.wrap(Scale())
    assert suites.suite_of(build) is CONTINUOUS
    assert set(broken(verify(build))) == {"bad-shapes"}


# The page


def shown(command):
    text = (DOCS / "verify.md").read_text()
    [output] = re.findall(rf"^```sh\n{re.escape(command)}\n```\n+```text\n(.*?)^```$", text, re.M | re.S)
    return output


def test_the_example_of_the_page_breaks_what_it_says(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import verify_flow

    output = shown("dfm-ref verify verify_flow:build --quick")
    found = verify(verify_flow.build, setup="from verify_flow import build")
    rows = [f"{result.law.id:22}  BROKEN  {result.finding.message}" for result in found.broken]
    assert all(row in output for row in rows) and output.count("BROKEN") == len(rows)
    held, unchecked = (sum(r.status == status for r in found.results) for status in ("holds", "unchecked"))
    assert f"{held} laws hold, {len(rows)} broken, {unchecked} not checked" in output
    assert verify(verify_flow.corrected).status == 0
    for block in re.findall(r"^```py\n(.*?)^```$", (DOCS / "verify.md").read_text(), re.M | re.S):
        assert "".join(block.split()) in "".join((DOCS / "verify_flow.py").read_text().split())


def test_the_contract_on_the_page_is_that_of_the_probe():
    section = (DOCS / "verify.md").read_text().split("\n## 9.")[1]
    rows = re.findall(r"^\| `(?:[\w, ]+ = )?(\w+)\(([\w, ]+)\)` \|", section, re.M)
    assert {name: tuple(arguments.split(", ")) for name, arguments in rows} == METHODS


def test_every_law_has_its_section_with_an_example_that_fails_and_one_that_holds():
    text = (DOCS / "laws_continuous.md").read_text()
    sections = text.split("\n## ")[1:]
    assert [section.split("\n")[0] for section in sections] == [*EVERY, "Mutants"]
    assert all("**Fails.**" in section and "**Holds.**" in section for section in sections[:-1])
    assert all(f"| {mutant.area} | `{mutant.id}` | {mutant.why} |" in text for mutant in mutants.FLOW_MUTANTS)


def test_the_flow_of_the_right_field_is_that_of_scipy():
    it, z = flows.Flow(2), np.array([0.3, -1.1])
    end = integrate.solve_ivp(lambda t, x: it.velocity(x[None], np.array([t]))[0], (0, 1), z, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(it.flow(z[None])[0][0], end.y[:, -1], rtol=1e-9)
