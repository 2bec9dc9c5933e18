"""Test vectors: a file of the format holds, every digit counts, and what is no such file is one clear sentence."""

import copy
import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfm_ref import events, exact, guidance, kinetic, likelihoods, losses, paths, transitions, velocities
from dfm_ref.cli import main
from dfm_ref.continuous import gaussian_paths, planar
from dfm_ref.verify import reference, vectors
from dfm_ref.verify.vectors import SHIPPED

EXAMPLE = Path(__file__).parent / "vectors_example.json"  # made by another implementation: a fact of the format
INPUTS = {
    "id", "kind", "spec", "model", "method", "t", "h", "z", "theta", "corrector_step", "corrector_iters", "div_free",
    "p0", "t0", "t1", "K", "token", "alpha", "beta", "x0", "x1", "T", "schedule", "logits", "x_t", "x_1", "dist",
    "beta_dot", "n_masked", "U", "p_cond", "p_uncond", "gamma", "jump_coefficient", "tau", "w", "b", "z0", "data", "q",
    "sigma_min", "x", "beta_min", "beta_max", "note",
}  # fmt: skip


def content(file):
    return json.loads(file.read_text(encoding="utf-8"))


SHIPPED_CASES = content(SHIPPED)["cases"]


def leaves(tree, place=()):
    """Every place in a tree of lists and objects that holds neither."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, (*place, key))
    else:
        yield place


def changed(tree, place, value):
    """A copy of the tree with another value at one place."""
    tree = copy.deepcopy(tree)
    node = tree
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return tree


def at(tree, place):
    for key in place:
        tree = tree[key]
    return tree


def outputs(case):
    """The outputs of a case; u is an input of a flow."""
    return {k: v for k, v in case.items() if k not in INPUTS and not (case["kind"] == "planar" and k == "u")}


@pytest.fixture
def alone(tmp_path):
    """A file with one case, beside the specs of the file that it is from."""

    def write(case, specs):
        file = tmp_path / "one.json"
        used = case.get("spec") if isinstance(case, dict) else None
        specs = {name: specs[name] for name in [used] if name in specs}
        file.write_text(json.dumps({"readme": [], "specs": specs, "cases": [case]}), encoding="utf-8")
        return file

    return write


# What holds


def test_the_example_of_the_format_holds():
    """57 cases of every kind and method, computed by nobody here."""
    assert vectors.check(EXAMPLE) == (57, 57, [])


def test_the_shipped_file_holds_and_is_what_write_makes(tmp_path):
    """Byte for byte, but for the last digits of laws of an ODE and quadratures, which are the processor's."""
    for name in ("again.json", "once more.json"):
        vectors.write(tmp_path / name)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "once more.json").read_bytes()
    again, shipped = content(tmp_path / "again.json"), content(SHIPPED)
    assert list(leaves(again)) == list(leaves(shipped))
    for place in leaves(shipped):
        ours, theirs = at(again, place), at(shipped, place)
        integrated = place[0] == "cases" and shipped["cases"][place[1]]["kind"] in {"ctmc_law", "elbo_parts"}
        assert ours == theirs or (integrated and float(ours) == pytest.approx(float(theirs), rel=1e-13, abs=0)), place
    report = vectors.check(SHIPPED)
    assert report.held == report.cases == len(SHIPPED_CASES) and not report.mismatches


def test_a_seed_whose_first_paths_have_no_telling_case_ends(tmp_path):
    """Of seed 99 no datum of one bit has a prior term with six digits above the tolerance."""
    vectors.write(tmp_path / "new.json", seed=99)
    report = vectors.check(tmp_path / "new.json")
    assert (report.held, report.mismatches) == (report.cases, [])


def test_a_file_of_another_seed_has_other_numbers_and_holds(tmp_path):
    vectors.write(tmp_path / "new.json", seed=20241)
    report = vectors.check(tmp_path / "new.json")
    assert report.held == report.cases == len(SHIPPED_CASES), report.mismatches[:3]
    new = content(tmp_path / "new.json")["cases"]
    assert [case["kind"] for case in new] == [case["kind"] for case in SHIPPED_CASES]
    assert not [a for a, b in zip(new, SHIPPED_CASES, strict=True) if a == b and a["kind"] != "coefficients"]


def test_the_shipped_file_has_every_kind_method_model_and_option():
    assert {case["kind"] for case in SHIPPED_CASES} == set(vectors._KINDS)
    for kind in ("one_step", "k_step"):
        assert {case["method"] for case in SHIPPED_CASES if case["kind"] == kind} == set(vectors._METHODS)
    assert {case["model"]["type"] for case in SHIPPED_CASES if "model" in case} == {"exact", "mix", "mask_mix"}
    specs = content(SHIPPED)["specs"].values()
    assert {w["type"] for spec in specs for w in spec["w"]} == {"x0", "x1", "fixed", "table"}
    assert {k["type"] for spec in specs for row in spec["kappa"] for k in row} == {"poly", "sin2", "cos2"}
    assert {spec["N"] for spec in specs} == {1, 2, 3} and {len(spec["w"]) for spec in specs} == {2, 3, 4}
    assert {case["t"] for case in SHIPPED_CASES if "t" in case} >= {"0", "1"}
    assert any("div_free" in case for case in SHIPPED_CASES)
    assert any(at(case, place) is None for case in SHIPPED_CASES for place in leaves(case))


def test_the_small_example_of_the_format(alone):
    spec = {
        "d": 2, "N": 1, "w": [{"type": "x0"}, {"type": "x1"}], "pi": [[[0], [1], "1"]],
        "kappa": [[{"type": "poly", "coef": ["1", "-1"]}, {"type": "poly", "coef": ["0", "1"]}]],
    }  # fmt: skip
    case = {"id": "tiny-marginal", "kind": "path_marginal", "spec": "tiny", "t": "1/4"}
    for p, dp in ((["0.75", "0.25"], ["-1", "1"]), ([0.75, "1/4"], [-1, 1.0]), ([None, 2.5e-1], None)):
        assert vectors.check(alone(case | {"p": p, "dp": dp}, {"tiny": spec})) == (1, 1, [])


# What is felt


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_digit_changed_by_hand_is_reported_as_that_case(data, tmp_path_factory):
    source = content(data.draw(st.sampled_from([SHIPPED, EXAMPLE])))
    n = data.draw(st.integers(0, len(source["cases"]) - 1))
    case = source["cases"][n]
    place = data.draw(st.sampled_from([p for p in leaves(outputs(case)) if at(case, p) is not None]))
    text = str(at(case, place))
    digits = [m.start() for m in re.finditer(r"\d", re.split("e", text)[0])]
    first = next((k for k, i in enumerate(digits) if text[i] != "0"), 0)
    i = data.draw(st.sampled_from(digits[first : first + 6]))
    other = data.draw(st.sampled_from([d for d in "0123456789" if d != text[i]]))
    value = f"{text[:i]}{other}{text[i + 1 :]}"
    wrong = changed(source, ("cases", n, *place), int(value) if isinstance(at(case, place), int) else value)
    keep = [n, *data.draw(st.lists(st.integers(0, len(source["cases"]) - 1), max_size=2))]
    wrong["cases"] = [wrong["cases"][k] for k in dict.fromkeys(keep)]
    file = tmp_path_factory.mktemp("vectors") / "wrong.json"
    file.write_text(json.dumps(wrong), encoding="utf-8")
    report = vectors.check(file)
    assert report.held == report.cases - 1
    (mismatch,) = report.mismatches
    assert mismatch[:4] == (case["id"], case["kind"], place[0], place[1:])
    assert mismatch.want == value and str(mismatch).startswith(f"{case['id']} ({case['kind']}): {place[0]}")


FUNCTIONS = [
    (events, "intensity"), (events, "redraw_rates"), (events, "backward_intensity"), (events, "backward_rates"),
    (events, "step_bound"), (velocities, "forward"), (velocities, "backward"), (velocities, "corrected"),
    (velocities, "conditional"), (transitions, "euler"), (transitions, "exponential"), (transitions, "finite"),
    (transitions, "flow_matching"), (transitions, "trapezoid_rates"), (transitions, "step_bound"),
    (losses, "cross_entropy"), (losses, "path_kl"), (losses, "generalized_kl"), (likelihoods, "any_order"),
    (likelihoods, "any_order_bound"), (exact, "hitting_time"), (kinetic, "pmf"), (kinetic, "pmf_dot"),
    (kinetic, "conditional_velocity"), (kinetic, "optimal"), (guidance, "of_rates"), (guidance, "of_posteriors"),
    (guidance, "temper"), (paths, "pmf"), (planar, "planar"), (planar, "radial"),
    (gaussian_paths, "conditional_velocity"), (gaussian_paths, "marginal_velocity"),
    (gaussian_paths, "marginal_log_density"),
]  # fmt: skip


@pytest.fixture(scope="module")
def sample_of_cases(tmp_path_factory):
    """One case of every kind and method."""
    source, chosen = content(SHIPPED), {}
    for case in source["cases"]:
        chosen.setdefault((case["kind"], case.get("method") if case["kind"] == "one_step" else None), case)
    file = tmp_path_factory.mktemp("vectors") / "sample.json"
    file.write_text(json.dumps(source | {"cases": list(chosen.values())}), encoding="utf-8")
    return file


@pytest.mark.parametrize(("module", "name"), FUNCTIONS, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_every_function_that_a_file_proves_is_felt(module, name, sample_of_cases, monkeypatch):
    """Off by a part in a million, or in a thousand where the tolerance is wide, no function passes."""
    right = getattr(module, name)
    factor = 1 + np.array([1e-3, 2e-3, 1e-3])  # no common factor, which a softmax would not feel

    def wrong(*arguments, **options):
        result = right(*arguments, **options)
        if isinstance(result, tuple) and not hasattr(result, "_fields"):
            return tuple(r * 1.001 for r in result)
        if hasattr(result, "_fields"):
            return type(result)(*(r * 1.001 for r in result))
        size = np.shape(result)[-1] if np.ndim(result) else 0
        return result * (np.resize(factor, size) if size else 1.001)

    monkeypatch.setattr(module, name, wrong)
    assert vectors.check(sample_of_cases).mismatches


# What is no file


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_one_sentence(share, tmp_path_factory):
    whole = EXAMPLE.read_bytes().rstrip()
    file = tmp_path_factory.mktemp("vectors") / "cut.json"
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="expected whole JSON") as caught:
        vectors.check(file)
    assert "\n" not in str(caught.value)


JUNK = [
    True, "x", "NaN", "1/0", "", "1e999", "1e99999999", "1_0", " 1", -1, 7, 10**400, 10**9, "-3/2", "17", [], {}, [[]],
    [None], ["1/2", "1/2"], {"type": "x0"}, {"type": "poly", "coef": ["1"]}, 1e308, "inf", "t^0", "sin2", "1e50",
]  # fmt: skip


def branches(tree, place=()):
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield (*place, key)
            yield from branches(value, (*place, key))


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_a_file_the_answer_is_a_report_or_one_sentence(data, tmp_path_factory):
    """Junk in any place, or a place left out: never another exception, a warning or a hang."""
    source = content(EXAMPLE)
    case = data.draw(st.sampled_from(source["cases"]))
    tree = {"specs": {n: s for n, s in source["specs"].items() if n == case.get("spec")}, "cases": [case]}
    short = {k: v for k, v in case.items() if k not in outputs(case)}
    where = [p for p in branches({"specs": tree["specs"], "cases": [short]}) if p[:2] != ("cases", 0) or len(p) > 2]
    where += [p for p in branches(tree) if len(p) == 3 and p[0] == "cases"]
    place = data.draw(st.sampled_from(where))
    if data.draw(st.booleans()):
        tree = changed(tree, place, data.draw(st.sampled_from(JUNK)))
    else:
        tree = copy.deepcopy(tree)
        del at(tree, place[:-1])[place[-1]]
    file = tmp_path_factory.mktemp("vectors") / "junk.json"
    file.write_text(json.dumps(tree), encoding="utf-8")
    try:
        report = vectors.check(file)
    except ValueError as error:
        assert str(file) in str(error) and "\n" not in str(error) and len(str(error)) < 600
    else:
        assert report.cases == len(tree["cases"])
        assert all("\n" not in str(mismatch) for mismatch in report.mismatches)


MARGINAL = {"id": "one", "kind": "path_marginal", "spec": "mask_lin", "t": "1/4", "p": [None] * 9, "dp": [None] * 9}
STEP = {"id": "two", "kind": "one_step", "spec": "mask_lin", "model": {"type": "exact"}, "method": "euler", "t": "1/4",
        "h": "1/4", "z": [2, 2], "law": [None] * 9}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "what"),
    [
        (MARGINAL | {"kind": "marginal"}, "'one': kind: expected one of path_marginal, .*'marginal'"),
        (MARGINAL | {"spec": "maskk"}, "'one': spec: expected one of .*'maskk'"),
        (MARGINAL | {"t": "5/4"}, r"'one': t: expected a time in \[0, 1\], got 5/4"),
        (MARGINAL | {"t": "NaN"}, "'one': t: expected a number, plain, decimal or p/q, got 'NaN'"),
        (MARGINAL | {"t": float("nan")}, "'one': t: expected a number, plain, decimal or p/q, got 'NaN'"),
        (MARGINAL | {"t": None}, "'one': t: expected a number"),
        (MARGINAL | {"p": ["1"] * 8}, "'one': p: expected a list of 9"),
        (MARGINAL | {"p": "1"}, "'one': p: expected a list of 9"),
        (MARGINAL | {"p": [["1"]] * 9}, "'one': p: expected a number"),
        (MARGINAL | {"p": ["NaN"] * 9}, "'one': p: expected a number"),
        ({k: v for k, v in MARGINAL.items() if k != "t"}, "'one': expected 't', which is missing"),
        ({k: v for k, v in MARGINAL.items() if k != "dp"}, "'one': expected 'dp', which is missing"),
        ({k: v for k, v in MARGINAL.items() if k != "id"}, "case 0: expected 'id', which is missing"),
        (MARGINAL | {"id": 3}, "case 3: id: expected a string, got 3"),
        ([], "case 0: expected an object"),
        (STEP | {"method": "rk4"}, "'two': method: expected one of euler, .*'rk4'"),
        (STEP | {"h": "7/8"}, "'two': h: expected a step > 0 that ends by 1"),
        (STEP | {"z": [2, 3]}, r"'two': z: expected an integer in \[0, 3\), got 3"),
        (STEP | {"z": [2]}, "'two': z: expected a list of 2"),
        (STEP | {"model": {"type": "mix", "eps": "1/2", "base": ["1/2", "1/2", "1/2"]}}, "'two': base: .*sum to 1"),
        (STEP | {"model": {"type": "mix", "eps": "2", "base": ["1", "0", "0"]}}, r"'two': eps: .*\[0, 1\]"),
        (STEP | {"model": {"type": "mask_mix", "eps": "1", "base": ["1", "0", "0"]}}, "'two': expected 'mask'"),
        (STEP | {"model": {"type": "true"}}, "'two': model: expected one of exact, mix, mask_mix"),
        (STEP | {"method": "meta", "div_free": "1/2"}, "'two': expected 'p0', which is missing"),
        (STEP | {"method": "trapezoid", "theta": "1"}, r"'two': theta: expected a number in \(0, 1\)"),
    ],
)
def test_a_malformed_case_is_named(case, what, alone):
    with pytest.raises(ValueError, match=what) as caught:
        vectors.check(alone(case, content(EXAMPLE)["specs"]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value", "what"),
    [
        (("kappa", 0, 0, "coef"), ["1", "1"], "kappas that sum to 1"),
        (("kappa", 0, 0, "type"), "sine", "type: expected one of poly, sin2, cos2, got 'sine'"),
        (("kappa",), [], "kappa: expected a list of 2"),
        (("w", 1, "type"), "x2", "type: expected one of x0, x1, fixed, table, got 'x2'"),
        (("w", 1, "type"), "x0", "expected a component x1"),
        (("pi", 0, 2), "1/2", "pi: expected probabilities that sum to 1"),
        (("pi", 0, 1), [0, 3], r"pi: expected an integer in \[0, 3\)"),
        (("pi", 0), [[0, 0]], "pi: expected a list of 3"),
        (("d",), 0, r"d, N: expected 1 to \d+ states"),
        (("N",), 40, r"d, N: expected 1 to \d+ states"),
        (("d",), "3", "d: expected an integer"),
    ],
)
def test_a_malformed_path_is_named(place, value, what, alone):
    specs = changed(content(EXAMPLE)["specs"], ("mask_lin", *place), value)
    with pytest.raises(ValueError, match=f"spec mask_lin: .*{what}"):
        vectors.check(alone(MARGINAL, specs))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"specs": {}}', '{"specs": [], "cases": []}', "\xff", "[" * 10**5])
def test_what_is_no_file_of_vectors_at_all(text, tmp_path):
    file = tmp_path / "bad.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"bad\.json: expected"):
        vectors.check(file)


# Paths that few files have


@pytest.mark.parametrize(
    "kappa",
    [
        [["1", "-8", "22", "-24", "9"], ["0", "7", "-22", "24", "-9"], ["0", "1"]],  # ((1-t) (1-3t))^2: 0 at 1/3
        [["1", "-1"], ["0"], ["0", "1"]],
        [["1", "-2", "1"], ["0", "1", "-1"], ["0", "1"]],  # the first two tie from t = 0 on: (1-t)^2 and t (1-t)
    ],
    ids=["touching 0", "idle", "falling together"],
)
@pytest.mark.parametrize("t", ["0", "1/3", "1/2", "9/10"])
def test_components_that_vanish_idle_or_tie(kappa, t, alone):
    """Against the exact tables: at t = 1/3, which no float is, a kappa of 0 is no small number."""
    poly = [[{"type": "poly", "coef": coef} for coef in kappa]] * 2
    w = [{"type": "x0"}, {"type": "fixed", "probs": ["1/4", "3/4"]}, {"type": "x1"}]
    pi = [[[0, 1], [1, 1], "1/3"], [[1, 0], [0, 1], "1/2"], [[1, 1], [0, 0], "1/6"]]
    spec = {"d": 2, "N": 2, "kappa": poly, "w": w, "pi": pi}
    path = reference._path(spec)
    for kind in ("path_marginal", "coefficients", "posterior", "velocity"):
        case = {"id": kind, "kind": kind, "spec": "s", "t": t, "token": 1}
        case |= {k: reference._text(v) for k, v in reference._OF_PATHS[kind](path, case).items()}
        assert vectors.check(alone(case, {"s": spec})) == (1, 1, [])


def test_the_limit_at_the_end_of_time_agrees_with_the_law_that_masks_have_in_closed_form(alone):
    """ctmc_law up to t1 = 1 is an ODE in one clock, then its limit; any_order_law sums over orders."""
    for case in SHIPPED_CASES:
        if case["kind"] == "any_order_law":
            process = case | {"kind": "ctmc_law", "t0": "0", "t1": "1"}
            assert vectors.check(alone(process, content(SHIPPED)["specs"])) == (1, 1, [])


EXACT = {"type": "exact"}


@pytest.mark.parametrize(
    "name", ["uniform_linear", "mask_per_token", "fixed_per_token", "switching", "four", "prompted"]
)
def test_with_the_exact_posteriors_the_process_ends_at_the_data(name, alone):
    """The law at t1 = 1 from any p_{t0} is the second marginal of the coupling."""
    specs = content(SHIPPED)["specs"]
    path = reference._path(specs[name])
    case = {"id": "end", "kind": "ctmc_law", "spec": name, "model": EXACT, "t0": "1/10", "t1": "1"}
    data = reference._text(path.law(Fraction(1)))
    assert vectors.check(alone(case | {"law": data}, specs)) == (1, 1, [])


def test_one_order_after_another_the_exact_posteriors_give_the_data(alone):
    """Data on 3 of 8 sequences: what is never reached has no posterior, and no say."""
    specs = content(SHIPPED)["specs"]
    data = reference._text(reference._path(specs["mask_sparse"]).law(Fraction(1)))
    case = {"id": "q", "kind": "any_order_law", "spec": "mask_sparse", "model": EXACT, "law": data}
    assert vectors.check(alone(case, specs)) == (1, 1, [])


def test_up_to_the_end_of_time_the_parts_of_a_mask_s_bound_are_its_integral(alone):
    """At T = 1 prior and terminal are 0: quadrature and ODE give what sums over orders give."""
    specs = content(SHIPPED)["specs"]
    for name in ("mask_linear", "mask_cosine", "mask_sparse"):
        path, x_1 = reference._path(specs[name]), specs[name]["pi"][0][1]
        model = {"type": "mask_mix", "eps": "1/4", "base": ["1/3", "2/3", "0"], "mask": 2}
        case = {"id": "whole", "kind": "elbo_parts", "spec": name, "model": model, "T": "1", "x1": x_1}
        orders = {k: reference._text(v) for k, v in reference._mask_elbo(path, case).items()}
        parts = {"prior": 0, "running": orders["elbo"], "terminal": 0, "nll": orders["nll"]}
        assert vectors.check(alone(case | parts, specs)) == (1, 1, [])


def test_hidden_tokens_with_schedules_of_their_own(alone):
    """With kappas t and t^3 token 0 is first with probability 3/4: laws and bounds by ODE and quadrature."""
    spec = content(SHIPPED)["specs"]["mask_per_token"]
    spec = spec | {"pi": [[[2, 2], [0, 1], "1/2"], [[2, 2], [1, 0], "1/2"]]}
    model = {"type": "mask_mix", "eps": "1/2", "base": ["1", "0", "0"], "mask": 2}
    p = {(0, 0): 1 / 2, (0, 1): 1 / 2, (1, 0): 1.0, (1, 1): 0.0}  # of the second value given the first
    start = (3 / 4, 1 / 4)
    law = {(a, b): 3 / 4 * start[a] * p[a, b] + 1 / 4 * start[b] * p[b, a] for a in (0, 1) for b in (0, 1)}
    want = [law.get((a, b), 0.0) for a in range(3) for b in range(3)]
    case = {"id": "law", "kind": "any_order_law", "spec": "s", "model": model, "law": want}
    assert vectors.check(alone(case, {"s": spec})).held == 1
    elbo = -(np.log(3 / 4) * 3 / 4 + np.log(1 / 2) * 3 / 4 + np.log(1 / 4) / 4)  # of (0, 1): 0, then 1; or 1, then 0
    case |= {"kind": "mask_elbo", "x1": [0, 1], "elbo": elbo, "nll": -np.log(law[0, 1])}
    assert vectors.check(alone(case, {"s": spec})).mismatches == []


# The command


def test_the_command_writes_checks_and_tells(tmp_path, capsys):
    assert main(["vectors", "check", str(EXAMPLE)]) == 0
    assert capsys.readouterr() == ("57 of 57 hold\n", "")
    wrong = content(EXAMPLE)
    wrong["cases"][0]["p"][0], wrong["cases"][3]["b"] = "0.5", "-9.00001"
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps(wrong), encoding="utf-8")
    assert main(["vectors", "check", str(file)]) == 1
    out, err = capsys.readouterr()
    first, second, last = out.splitlines()
    assert re.fullmatch(r"marginal/mask_cos \(path_marginal\): p\[0\]: want 0\.5, got 0\.\d+", first)
    assert second == "coef/m3_pertok/8/9 (coefficients): b: want -9.00001, got -8.9999999999999964" and not err
    assert last == "55 of 57 hold"


def test_a_mistake_is_one_line_and_exit_2(tmp_path, capsys):
    cut = tmp_path / "cut.json"
    cut.write_bytes(EXAMPLE.read_bytes()[:3000])
    for arguments in (
        ("check", cut),
        ("check", tmp_path / "none.json"),
        ("check", tmp_path),
        ("write", tmp_path / "no" / "folder.json"),
        ("check", EXAMPLE, "--backend", "strict"),
    ):
        assert main(["vectors", *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert not out and len(err.splitlines()) == 1 and err.startswith("dfm-ref: ") and "Errno" not in err, err


def test_writing_replaces_a_file_whole_or_not_at_all(tmp_path, monkeypatch, capsys):
    file = tmp_path / "v.json"
    file.write_text("old", encoding="utf-8")
    monkeypatch.setattr(reference, "document", lambda *, seed: f'{{"seed": {seed}}}')
    assert main(["vectors", "write", str(file), "--seed", "7"]) == 0
    assert file.read_text(encoding="utf-8") == '{"seed": 7}' and [f.name for f in tmp_path.iterdir()] == ["v.json"]
    assert capsys.readouterr().out == f"{file}: 11 bytes\n"
