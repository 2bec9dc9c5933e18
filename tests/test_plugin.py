"""The pytest plugin, in a pytest of its own: a test a law, fixtures, and nothing heavy before an adapter is named."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET

from dfm_ref.verify.laws import LAWS

USERS = """
import numpy as np

def test_own(dfm_case, dfm_oracle, dfm_adapter):
    assert dfm_oracle.states(dfm_case.vocab_size, 1).shape == (dfm_case.vocab_size, 1)
    assert dfm_adapter.kappa(np.array([0.0, 1.0])).tolist() == [0.0, 1.0]
"""


def pytest_in(folder, *arguments):
    (folder / "test_users.py").write_text(USERS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_right_adapter_passes_a_test_a_law_beside_the_user_s_own(tmp_path):
    chosen = "build,schedule-value,conservation,corrector-signs"
    done = pytest_in(
        tmp_path, "--dfm-adapter", "dfm_ref.verify.mutants.subset:build", "--dfm-quick", "--dfm-laws", chosen,
        "--junitxml", "out.xml", "-k", "law",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "2 passed, 2 skipped, 8 deselected" in done.stdout
    names = [case.get("name") for case in ET.parse(tmp_path / "out.xml").iter("testcase")]
    assert names == [f"law[{id}]" for id in chosen.split(",")]


def test_a_broken_law_is_a_failure_with_lines_to_paste(tmp_path):
    target = "dfm_ref.verify.mutants:velocity_divides_by_kappa"
    done = pytest_in(tmp_path, "--dfm-adapter", target, "--dfm-quick", "--dfm-laws", "path-ends,kolmogorov")
    assert done.returncode == 1 and "1 failed, 9 passed" in done.stdout
    assert "law[kolmogorov]" in done.stdout and "it = build(case)" in done.stdout
    assert "from dfm_ref.verify.mutants import velocity_divides_by_kappa as build" in done.stdout


def test_every_law_is_collected_and_a_wrong_target_is_one_line(tmp_path):
    done = pytest_in(tmp_path, "--dfm-adapter", "dfm_ref:numpy", "--collect-only", "-k", "law")
    assert sum("law[" in line for line in done.stdout.splitlines()) == len(LAWS)
    done = pytest_in(tmp_path, "--dfm-adapter", "no_such_module:build")
    assert done.returncode == 4 and "no_such_module:build: cannot be imported" in done.stderr
    assert "Traceback" not in done.stderr
    done = pytest_in(tmp_path, "--dfm-adapter", "dfm_ref:numpy", "--dfm-laws", "nothing")
    assert done.returncode == 4 and "got 'nothing'" in done.stderr


def test_an_adapter_that_nothing_can_be_asked_of_fails_in_one_line(tmp_path):
    (tmp_path / "empty.py").write_text("def build(case):\n    return object()\n")
    done = pytest_in(tmp_path, "--dfm-adapter", "empty:build", "--dfm-laws", "kolmogorov", "-k", "law")
    assert done.returncode == 1 and "no law could be tried" in done.stdout and "Traceback" not in done.stdout


def test_without_an_adapter_the_plugin_loads_nothing_heavy():
    code = "import json, sys, dfm_ref.verify.plugin; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {
        "hypothesis",
        "scipy.stats",
        "torch",
        "jax",
        "rich",
        "dfm_ref.verify.kit",
        "dfm_ref.verify.laws",
    }
