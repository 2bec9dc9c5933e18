"""Writes the pages of laws and mutants: python docs/laws.py (after benchmarks/verifier.py mutants --json ...).

A law's failing example is a mutant that breaks it, with the lines of the finding; the passing one is what the same
lines print with the right implementation.
"""

import io
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from dfm_ref.checkpoints import write
from dfm_ref.verify import kit, mutants, targets
from dfm_ref.verify.laws import FLOW_LAWS, LAWS, Law
from dfm_ref.verify.mutants import right
from dfm_ref.verify.suites import CONTINUOUS, DISCRETE, Suite

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results" / "mutants.json"
RIGHT = "from dfm_ref.verify.mutants.right import build"
FLOW_RIGHT = "from dfm_ref.verify.mutants.flows import build"


class Listed:
    """The right implementation of a case, one method of which answers with a list."""

    def __init__(self, case: Any, method: str) -> None:
        self.it, self.method = right.build(case), method

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.it, name)
        return (lambda *arguments: method(*arguments).tolist()) if name == self.method else method


def examples(one: Law, breaks: dict[str, list[str]]) -> Iterator[tuple[str, Any, str]]:
    """Failing examples of a law: what is wrong, the build, and the Python that defines it."""
    if one.id == "build" and one in LAWS:

        def build(case: Any) -> Any:
            return {"linear": right.build}[case.schedule](case)

        setup = f"{RIGHT} as right\ndef build(case):\n    return {{'linear': right}}[case.schedule](case)"
        yield "The build knows one schedule, and does not say so by NotImplementedError.", build, setup
    if one.id.startswith("answers") and one in LAWS:
        method = one.needs[0]
        setup = (
            f"{RIGHT} as right\nbuild = lambda case: Listed(right(case), {method!r})  # whose {method} answers a list"
        )
        yield f"`{method}` answers with a list.", lambda case: Listed(case, method), setup
    for id in breaks.get(one.id, []):
        found = next(mutant for mutant in (*mutants.MUTANTS, *mutants.FLOW_MUTANTS) if mutant.id == id)
        target = targets.resolve(f"dfm_ref.verify.mutants:{id}")[0]
        yield f"{found.why} Mutant `{id}`: `{found.wrong}` in place of `{found.line}`.", target.build, target.setup


def section(one: Law, breaks: dict[str, list[str]], *, suite: Suite = DISCRETE) -> str:
    """One law, with the first example that breaks it alone."""
    tried = ((wrong, setup, _finding(one, build, setup, suite)) for wrong, build, setup in examples(one, breaks))
    found = next((row for row in tried if row[2]), None)
    if found is None:
        raise SystemExit(f"{one.id}: no mutant breaks it: run benchmarks/verifier.py mutants again")
    wrong, setup, finding = found
    lines = finding.script.replace(setup, RIGHT if suite is DISCRETE else FLOW_RIGHT)
    return "\n".join(
        [
            f"## {one.id}",
            "",
            f"{one.says[0].upper()}{one.says[1:]}.",
            "",
            f"- Formula: `{one.formula}`",
            f"- Source: {one.source}",
            f"- Needs: {', '.join(f'`{method}`' for method in one.needs) or 'any method'}"
            + (f"; a law of samples, up to {one.draws} draws of each example" if one.draws else ""),
            "",
            f"**Fails.** {wrong} Found: {finding.message}. Expected: `{_cut(finding.expected)}`. "
            f"Got: `{_cut(finding.got)}`.",
            "",
            "```python",
            *map(_cut_line, finding.script.splitlines()),
            "```",
            "",
            f"**Holds.** With the right implementation these lines print `{_cut(_printed(lines))}`.",
            "",
        ]
    )


def _finding(one: Law, build: Any, setup: str, suite: Suite) -> Any:
    [result] = kit.verify(build, setup=setup, suite=suite, laws=(one,), quick=True).results
    return result.finding


def _printed(lines: str) -> str:
    with redirect_stdout(io.StringIO()) as out, np.errstate(all="ignore"):
        try:
            exec(compile(lines, "<example>", "exec"), {})
        except (ValueError, TypeError) as error:  # of bad input, which must raise
            return f"{type(error).__name__}: {error}"
    return re.sub(r" at 0x[0-9a-f]+", "", out.getvalue())  # an address, which no other run has


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 160 else f"{text[:157]}..."


def _cut_line(line: str) -> str:
    return line if len(line) <= 240 else f"{line[:200]} ...  # {len(line)} characters: the command prints them all"


def breaks_first() -> dict[str, list[str]]:
    """For each law the mutants that break it, those first that break the fewest others."""
    rows = json.loads(RESULTS.read_text())["mutants"]
    found: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: len(row["laws"])):
        for id in row["laws"]:
            found.setdefault(id, []).append(row["mutant"])
    return found


def laws_page(chosen: tuple[Law, ...] = LAWS) -> str:
    """docs/laws.md."""
    breaks = breaks_first()
    head = [
        "# The laws of the verifier",
        "",
        "Each law with an implementation that breaks it, and what the right one gives. `dfm-ref verify --laws` lists",
        "them, `--laws ID,ID` chooses. This page is made by `python docs/laws.py`.",
        "",
    ]
    return "\n".join([*head, *(section(one, breaks) for one in chosen)])


def flow_breaks() -> dict[str, list[str]]:
    """For each law of continuous implementations the mutants that are made for it."""
    return {one.id: [m.id for m in mutants.FLOW_MUTANTS if m.area == one.id] for one in FLOW_LAWS}


def flow_laws_page() -> str:
    """docs/laws_continuous.md."""
    head = [
        "# The laws of continuous implementations",
        "",
        "Each law with an implementation that breaks it, and what the right one gives.",
        "`dfm-ref verify --suite continuous --laws` lists them. Each mutant is one line of",
        "`dfm_ref/verify/mutants/flows.py` replaced; the table of all is at the end. Right ones, in other styles: "
        + ", ".join(f"`{name}`" for name in mutants.FLOW_RIGHT)
        + ". This page is made by `python docs/laws.py`.",
        "",
    ]
    table = ["## Mutants", "", "| law that must break | mutant | mistake |", "|---|---|---|"]
    table += [f"| {m.area} | `{m.id}` | {m.why} |" for m in mutants.FLOW_MUTANTS]
    sections = (section(one, flow_breaks(), suite=CONTINUOUS) for one in FLOW_LAWS)
    return "\n".join([*head, *sections, *table, ""])


def mutants_page() -> str:
    """docs/mutants.md, of the results that the benchmark has left."""
    found = json.loads(RESULTS.read_text())
    rows = {row["mutant"]: row for row in found["mutants"]}
    count = f"All {len(rows)} wrong implementations are rejected"
    if found["survivors"]:
        count = f"{len(found['survivors'])} of {len(rows)} wrong implementations are NOT rejected"
    accepted = "every right one is accepted" if not found["false_alarms"] else "NOT every right one is accepted"
    text = [
        "# Mutants: which law catches which mistake",
        "",
        f"{count}, and {accepted}; the median time until the first law is broken is {found['median_seconds']} s.",
        "From `python benchmarks/verifier.py mutants --json benchmarks/results/mutants.json`, quick runs; this page is",
        "made by `python docs/laws.py`. Each mutant is one line of `dfm_ref/verify/mutants/right.py` replaced.",
        "",
        "Right ones, in other styles: " + ", ".join(f"`{name}`" for name in mutants.RIGHT) + ".",
        "",
        "| area | mutant | mistake | laws that catch it | s |",
        "|---|---|---|---|---|",
    ]
    for mutant in mutants.MUTANTS:
        row = rows[mutant.id]
        caught = ", ".join(row["laws"]) or "none"
        text.append(f"| {mutant.area} | `{mutant.id}` | {mutant.why} | {caught} | {row['seconds']} |")
    return "\n".join([*text, ""])


if __name__ == "__main__":
    write(HERE / "mutants.md", mutants_page().encode())
    write(HERE / "laws_continuous.md", flow_laws_page().encode())
    write(HERE / "laws.md", laws_page().encode())
    print(f"{HERE / 'laws.md'}: {len(LAWS)} laws")
