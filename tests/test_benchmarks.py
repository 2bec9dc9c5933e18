"""The benchmarks: rows as promised, and law checks that fail when a side is wrong. Timings are not judged."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfm_ref import backends

FOLDER = Path(__file__).parents[1] / "benchmarks"
OPERATIONS = {
    "copy": "torch",
    "sample": "torch flow_matching",
    "chain": "torch flow_matching",
    "events": "dfm_ref",
    "path": "torch flow_matching",
    "cross_entropy": "torch",
    "generalized_kl": "torch flow_matching",
    "uniform": "torch",
    "bits": "jax",
    "categorical": "torch flow_matching",
    "forward": "torch",
    "train_step": "torch",
    "flow_log_prob": "torch zuko",
    "flow_sample": "torch zuko",
    "flow_step": "torch zuko",
    "field_step": "torch flow_matching",
    "field_sample": "torch flow_matching",
    "field_log_prob": "torch flow_matching",
}


def device_is_there() -> bool:
    try:
        return bool(backends.load("cupy"))
    except backends.BackendError:
        return False


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """cases, ours and run as a script in their folder would import them."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("cases", "ours", "run")
    yield tuple(importlib.import_module(name) for name in names)
    for name in (*names, "peers", "torch_ddit", "torch_field", "zuko_flows"):
        sys.modules.pop(name, None)


def wrong(result: Any) -> Any:
    """A result that is off by little: 2% of the draws, or a hundredth of a value, or one bit."""
    if isinstance(result, dict):
        return {name: wrong(array) for name, array in result.items()}
    if isinstance(result, tuple):
        return tuple(wrong(part) for part in result)
    result = np.array(result)
    if result.dtype == np.uint32:
        return result ^ (np.arange(result.size).reshape(result.shape) == 0)
    if result.dtype == np.int64:
        result[: len(result) // 20] = result[0]  # too many of one state
        return result
    if result.dtype == np.float64:
        return result**1.1  # uniforms no more
    return result * np.float32(1.01)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_law_checks_pass_and_can_fail(operation: str, modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in OPERATIONS[operation].split():
        pytest.importorskip(package)
    cases, ours, _ = modules
    right = cases._CHECKS[operation]()
    assert right.same, right.why

    build = getattr(ours, operation)

    def broken(**inputs: Any) -> Any:
        call = build(**inputs)
        return lambda: wrong(call())

    monkeypatch.setattr(ours, operation, broken)
    assert cases._CHECKS[operation]().same is False


def test_the_check_of_the_whole_process_can_fail(modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its judgement alone: the training that it asks for takes a minute."""
    cases, *_ = modules
    x_1 = cases._chains(64, 2, 5)["x_1"]
    monkeypatch.setattr(cases, "build", lambda operation, side, inputs: lambda: x_1)
    assert cases._check_end_to_end().same is True
    independent = np.stack([x_1[:, 0], np.roll(x_1[:, 1], 1)], axis=-1)
    monkeypatch.setattr(cases, "build", lambda operation, side, inputs: lambda: independent if side == "ours" else x_1)
    assert cases._check_end_to_end().same is False


def test_every_operation_has_a_check_and_two_sides(modules: Any) -> None:
    cases, ours, _ = modules
    peers = importlib.import_module("peers")
    for case in cases.CASES:
        assert case.operation in cases._CHECKS
        assert hasattr(ours, case.operation)
        assert hasattr(peers, case.operation)
    assert {case.operation for case in cases.CASES} == {*OPERATIONS, "end_to_end"}


def test_the_exact_cases_count_the_calls_of_the_model(modules: Any) -> None:
    cases, *_ = modules
    case = next(case for case in cases.CASES if case.kind == "mask")._replace(sizes={"B": 50, "N": 2, "V": 3})
    inputs = case.inputs(**case.sizes)
    assert cases.calls(case, inputs) == (2.0, inputs["steps"])
    model, _, p, start = inputs["model"], *cases._problem("mask", 2, 3)[1:]
    assert cases._off(model, start, p, inputs["steps"], 2, 3) <= 0.01 < cases._off(model, start, p, 2, 2, 3)
    assert cases.calls(cases.CASES[0], {}) is None


def test_distance_of_an_impossible_state_is_infinite(modules: Any) -> None:
    cases, *_ = modules
    p = np.array([1.0, 0.0])
    assert cases.distance_to(p, np.zeros((10, 1), dtype=int))[0] == 0
    assert cases.distance_to(p, np.ones((10, 1), dtype=int))[0] == np.inf


@pytest.mark.parametrize("present", [True, False])
def test_a_row_says_everything(present: bool, modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cases, _, run = modules
    if present:
        pytest.importorskip("torch")
        pytest.importorskip("flow_matching")
    else:
        monkeypatch.setattr(cases, "find_spec", lambda name: None)
    tiny = {"B": 2, "N": 3, "V": 4}
    case = next(case for case in cases.CASES if case.suite == "sampler")._replace(sizes=tiny)
    row = run.row(case, budget=0.0, memory=False)
    assert row["suite"] == "sampler"
    assert row["case"] == "B=2,N=3,V=4"
    assert row["backend"] == "numpy"
    assert row["ours_s"] > 0
    assert row["ours_peak_bytes"] is None
    if present:
        assert row["law_checked"] is True
        assert row["ratio"] == pytest.approx(row["peer_s"] / row["ours_s"])
    else:
        assert row["law_checked"] is row["peer_s"] is row["ratio"] is None
        assert "pip install torch flow_matching" in row["law"]
    assert "B=2,N=3,V=4" in run.table([row])
    assert json.loads(json.dumps({"machine": run.machine(), "rows": [row]}))["rows"] == [row]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["abacus"], "'abacus'"),
        (["path", "--backend", "abacus"], "abacus"),
        (["path", "--json", "no/such/folder/a.json"], "--json"),
        (["--x"], "--x"),
        pytest.param(["gpu"], "cupy", marks=pytest.mark.skipif(device_is_there(), reason="runs on the device")),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], named: str, modules: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        modules[2].main(arguments)
    captured = capsys.readouterr()
    assert error.value.code == 2
    assert named in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_run_writes_its_table_and_its_rows(
    modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases, _, run = modules
    case = next(case for case in cases.CASES if case.suite == "path")._replace(sizes={"B": 2, "N": 3, "V": 4})
    monkeypatch.setattr(run, "CASES", (case,))
    monkeypatch.setattr(run, "_BUDGET", 0.0)
    file = tmp_path / "rows.json"
    assert run.main(["path", "--json", str(file), "--no-memory"]) == 0
    content = json.loads(file.read_text())
    assert {"cores", "cpu", "numpy", "blas", "threads", "OPENBLAS_CORETYPE"} <= set(content["machine"])
    assert [row["case"] for row in content["rows"]] == ["B=2,N=3,V=4"]
    assert "B=2,N=3,V=4" in capsys.readouterr().out
