"""docs/verify.md: its examples break and hold what it says, its table is the JSON report, its commands parse."""

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfm_ref import cli
from dfm_ref.verify import kit, laws, measurements, plugin, report
from dfm_ref.verify.probe import METHODS, Probe

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "verify.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.M | re.S)
TYPES = {"int": int, "float": float, "string": str, "bool": bool, "list": list, "object": dict, "null": type(None)}


@pytest.fixture(autouse=True)
def in_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))


@pytest.fixture(scope="module")
def naive() -> kit.Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        import verify_numpy

        return kit.verify(verify_numpy.build, setup="from verify_numpy import build", quick=True, seconds=1.5)


def broken(found: kit.Report) -> list[str]:
    return [result.law.id for result in found.broken]


def shown(command: str) -> str:
    """The output that follows a command on the page."""
    [output] = re.findall(rf"^```sh\n{re.escape(command)}\n```\n+```text\n(.*?)^```$", PAGE, re.M | re.S)
    return str(output)


def shown_broken(command: str) -> list[str]:
    return re.findall(r"^(\S+) +BROKEN", shown(command), re.M)


def summary(found: kit.Report) -> str:
    held, unchecked = (sum(r.status == status for r in found.results) for status in ("holds", "unchecked"))
    return f"{held} laws hold, {len(found.broken)} broken, {unchecked} not checked"


def test_the_naive_example_breaks_the_laws_that_the_page_shows_and_no_other(naive: kit.Report) -> None:
    command = "dfm-ref verify verify_numpy:build --quick"
    assert broken(naive) == shown_broken(command)
    assert summary(naive) in shown(command)


def test_every_broken_law_is_one_of_the_mistakes_in_the_table(naive: kit.Report) -> None:
    table = PAGE.split("| mistake | broken laws |\n|---|---|\n")[1].split("\n\n")[0]
    named = [law for row in table.splitlines() for law in re.findall(r"`([^`]+)`", row.split(" | ")[1])]
    assert sorted(named) == sorted(broken(naive))


def test_the_failure_that_the_page_explains_is_the_one_found(naive: kit.Report) -> None:
    [result] = [one for one in naive.broken if one.law.id == "path-law"]
    told = "".join(f"{line.rstrip()}\n" for line in report.told(result))
    assert told in [text for kind, text in BLOCKS if kind == "text"]


def test_the_pasted_lines_print_what_the_page_says() -> None:
    [found] = [text for kind, text in BLOCKS if kind == "text" and text.startswith("path-law: ")]
    script = found[found.index("import numpy") :]
    assert run(script) in [text for kind, text in BLOCKS if kind == "text"]


def run(script: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(script, {})
    return printed.getvalue()


def test_the_corrected_example_breaks_nothing() -> None:
    import verify_numpy

    found = kit.verify(verify_numpy.corrected, quick=True, seconds=1.5)
    assert (found.status, broken(found)) == (0, [])
    assert summary(found) in shown("dfm-ref verify verify_numpy:corrected --quick")
    unchecked = {method for one in found.results if one.status == "unchecked" for method in one.law.needs}
    assert unchecked == {"kappa_inverse", "corrector_velocity", "generalized_kl"}


def test_the_example_in_pytorch_loses_digits_and_the_corrected_one_does_not() -> None:
    pytest.importorskip("torch")
    import verify_torch

    some = tuple(one for one in laws.LAWS if not one.draws or one.id in ("path-law", "walk-law", "tails"))
    found = kit.verify(verify_torch.build, laws=some, quick=True, seconds=1.0)
    assert broken(found) == shown_broken("dfm-ref verify verify_torch:build --quick")
    found = kit.verify(verify_torch.corrected, laws=some, quick=True, seconds=1.0)
    assert (found.status, broken(found)) == (0, [])


def test_python_on_the_page_is_that_of_the_files_or_runs() -> None:
    files = "".join((DOCS / f"verify_{name}.py").read_text() for name in ("numpy", "torch"))
    squeezed = "".join(files.split())  # parts of classes stand without their indent on the page
    ran = 0
    for kind, text in BLOCKS:
        if kind == "python" and "import" in text:
            first, _, rest = run(text).partition("\n")
            assert first == "1 ['path-law']"
            assert "x_t = it.sample_path(" in rest
            ran += 1
        elif kind == "python":
            assert all("".join(part.split()) in squeezed for part in text.split("\n\n"))
    assert ran == 1


def test_the_contract_on_the_page_is_that_of_the_probe() -> None:
    rows = re.findall(r"^\| `(\w+)\(([\w, ]+)\)` \|", PAGE, re.M)
    assert {name: tuple(arguments.split(", ")) for name, arguments in rows} == METHODS


def test_the_table_of_the_json_report_has_every_field_and_no_other(naive: kit.Report) -> None:
    import verify_numpy

    found = measurements.measure(Probe(verify_numpy.corrected), draws=256)
    assert found
    document = report.document([naive], measured=found)
    assert document["schema"] == 1
    table = dict(re.findall(r"^\| `([\w.\[\]]+)` \| ([\w ]+) \|", PAGE.split("## 8.")[1], re.M))
    seen = list(fields(document, ""))
    assert {name for name, _ in seen} == set(table)
    for name, value in seen:
        kinds = [kind for kind in table[name].split(" or ") if is_a(value, kind)]
        assert kinds, (name, value, table[name])


def fields(value: Any, path: str) -> Any:
    """Every field of JSON values as (path, value); of lists of values, the list alone."""
    if isinstance(value, list):
        for one in value:
            yield from fields(one, f"{path}[]") if isinstance(one, dict) else ()
    if isinstance(value, dict):
        for name, inner in value.items():
            full = f"{path}.{name}" if path else name
            yield full, inner
            yield from fields(inner, full)


def is_a(value: Any, kind: str) -> bool:
    """Whether a value is of a type of the table, such as "list of int"."""
    outer, _, inner = kind.partition(" of ")
    kept = tuple(value) if isinstance(value, tuple) else value
    if inner:
        return isinstance(kept, list | tuple) and all(is_a(one, inner) for one in kept)
    return type(kept) is TYPES[outer]


def test_commands_on_the_page_parse() -> None:
    lines = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
    lines += re.findall(r"`(dfm-ref [^`]+)`", PAGE)
    commands = [shlex.split(line, comments=True) for line in lines]
    assert len([words for words in commands if words[:2] == ["dfm-ref", "verify"]]) >= 8
    for words in commands:
        if words[0] == "dfm-ref":
            options = cli._parser().parse_args(words[1:])
            for name in (getattr(options, "laws", "") or "").split(","):
                assert not name or laws.law(name)
        else:
            assert words[0] == "pytest"
            assert set(re.findall(r"--[\w-]+", " ".join(words))) <= pytest_options()


def pytest_options() -> set[str]:
    class Group:
        names: set[str] = set()  # noqa: RUF012

        def getgroup(self, *about: str) -> "Group":
            return self

        def addoption(self, name: str, **about: Any) -> None:
            self.names.add(name)

    plugin.pytest_addoption(Group())  # type: ignore[arg-type]
    return Group.names


def test_laws_and_options_that_the_page_names_are_there() -> None:
    ids = {one.id for one in laws.LAWS}
    prefixes = ("bad-", "path-", "step-", "walk-", "end-", "schedule-", "cross-entropy", "kolmogorov", "more-")
    named = {word for word in re.findall(r"`([a-z]+(?:-[a-z]+)*)`", PAGE) if word.startswith(prefixes)}
    assert named and named <= ids
    help_ = (
        next(a for a in cli._parser()._actions if a.choices and "verify" in a.choices).choices["verify"].format_help()
    )
    assert set(re.findall(r"(?<![\w-])(--(?!dfm)[a-z]+)", PAGE)) <= set(re.findall(r"--[a-z]+", help_))


def test_two_mistakes_of_the_first_version_in_numbers() -> None:
    """What sections 2 and 3 say in words: tokens of a row move together, and the loss of 800 nats is infinite."""
    import verify_numpy

    from dfm_ref.verify import Case

    it, other = (make(Case(2, 2, "linear", "uniform")) for make in (verify_numpy.build, verify_numpy.corrected))
    x_0, x_1 = np.zeros((400, 2), dtype=int), np.ones((400, 2), dtype=int)
    moved, right = (one.sample_path(x_0, x_1, np.full(400, 0.5), 0) for one in (it, other))
    assert np.all(moved[:, 0] == moved[:, 1])
    assert 150 < np.sum(right[:, 0] == right[:, 1]) < 250
    logits, x = np.array([[[-400.0, 400.0]]]), np.array([[0]])
    assert other.cross_entropy(logits, x, x, np.array([0.5])) == 800
    with np.errstate(divide="ignore"):
        assert np.isinf(it.cross_entropy(logits, x, x, np.array([0.5])))
