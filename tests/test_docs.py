"""The page of formulas is what its generator makes now, lacks no law, and names functions and tests that exist."""

import ast
import importlib
import json
import runpy
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"
if not DOCS.is_dir():
    pytest.skip("an installed package has no documentation", allow_module_level=True)

PAGE = runpy.run_path(str(DOCS / "formulas.py"), run_name="docs")
LAWS = """
1.1 1.2 1.3 1.4 1.4 1.5 1.5 1.6 1.7 1.7 1.8 1.9 2.1 2.2 2.3 2.4 2.4 2.5 2.6 3.1 3.2
4.1 4.2 4.2 4.2 4.3 4.4 4.5 4.5 4.6 4.7 5.1 5.2 5.3 5.4 5.5 5.5 5.5 5.5 5.6 5.6 5.7 5.7 5.8 5.8 5.9
5a 5a 5a 5a 5a 6.1 6.2 6.3 7.1 7.1 7.1 7.2
8.1 8.2 8.3 8.4 8.5 8.6 8.7 8.8 8.9 8.10
"""
ITEMS = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 20 21 22 23 24 25 26 27 28 29 30 31 32"
WRONG = "6 11 13 15 20 20 22 24 25 27 29"
ROWS = [*PAGE["FORMULAS"], *PAGE["ITEMS"]]


def test_the_page_is_what_its_generator_makes():
    assert (DOCS / "formulas.md").read_text(encoding="utf-8") == PAGE["text"](), "run: python docs/formulas.py"


def test_no_law_and_no_item_is_missing():
    assert [row.id for row in PAGE["FORMULAS"]] == LAWS.split()
    assert [row.id for row in PAGE["ITEMS"]] == ITEMS.split()


def test_every_law_has_a_function_and_a_test():
    assert all(row.functions and row.tests for row in ROWS)


def test_every_wrong_formula_is_shown_to_be_wrong():
    """By a test of the number of the item."""
    wrong = [row for row in PAGE["ITEMS"] if row.verdict.startswith("Wrong")]
    assert [row.id for row in wrong] == WRONG.split()
    for row in wrong:
        assert f"test_e{row.id}_" in row.tests, row.id


@pytest.mark.parametrize("name", sorted({name for row in ROWS for name in row.functions.split()}))
def test_every_function_named_is_public_and_names_its_source(name):
    module, _, function = name.rpartition(".")
    assert function in importlib.import_module(f"dfm_ref.{module}").__all__
    assert PAGE["source"](name)


@cache
def functions_in(file):
    body = ast.parse((TESTS / f"{file}.py").read_text(encoding="utf-8")).body
    return [node.name for node in body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("name", sorted({name for row in ROWS for name in row.tests.split()}))
def test_every_test_named_exists_once(name):
    file, _, test = name.partition("::")
    assert test.startswith("test_") and functions_in(file).count(test) == 1


def test_the_tests_of_this_page_see_a_name_that_is_wrong():
    assert "test_no_such_test" not in functions_in("test_docs")
    with pytest.raises(ValueError, match=r"arrays\.pick: expected a sentence"):
        PAGE["source"]("arrays.pick")


VERIFIER = runpy.run_path(str(DOCS / "laws.py"), run_name="docs")


def test_every_law_of_the_verifier_has_its_section_with_an_example_that_fails_and_one_that_holds():
    page = (DOCS / "laws.md").read_text(encoding="utf-8")
    sections = page.split("\n## ")[1:]
    assert [section.split("\n")[0] for section in sections] == [law.id for law in VERIFIER["LAWS"]]
    assert all("**Fails.**" in section and "**Holds.**" in section for section in sections)


@pytest.mark.parametrize("id", ["schedule-value", "conservation", "cross-entropy", "bad-tokens", "answers-kappa"])
def test_a_section_is_what_its_generator_makes(id):
    [law] = [law for law in VERIFIER["LAWS"] if law.id == id]
    assert VERIFIER["section"](law, VERIFIER["breaks_first"]()) in (DOCS / "laws.md").read_text(encoding="utf-8")


def test_the_table_of_mutants_is_that_of_the_last_benchmark_and_none_survives():
    assert (DOCS / "mutants.md").read_text(encoding="utf-8") == VERIFIER["mutants_page"](), "run: python docs/laws.py"
    found = json.loads(VERIFIER["RESULTS"].read_text())
    assert not found["survivors"] and not found["false_alarms"]
    assert [row["mutant"] for row in found["mutants"]] == [mutant.id for mutant in VERIFIER["mutants"].MUTANTS]
    assert {id for row in found["mutants"] for id in row["laws"]} <= {law.id for law in VERIFIER["LAWS"]}
