"""A report for people and for machines: lines for a terminal, JSON, and one page of HTML (`page`)."""

import importlib.util
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from .. import __version__
from .kit import Finding, Report, Result
from .measurements import Convergence
from .suites import DISCRETE, Suite

__all__ = [
    "SCHEMA",
    "catalogue",
    "document",
    "lines",
    "measured",
    "plain",
    "rows",
    "status",
    "table",
    "to_json",
    "told",
]

SCHEMA = 1
"""The version of the JSON document: docs/verify.md says what is in it."""


def catalogue(*, suite: Suite = DISCRETE) -> str:
    """The laws of a suite, a line each: what `verify --laws` prints.

    >>> catalogue().splitlines()[0].split()[0]
    'build'
    """
    width = max(len(law.id) for law in suite.laws)
    return "\n".join(f"{law.id:{width}}  {law.says}" for law in suite.laws)


def document(reports: list[Report], *, measured: Sequence[Convergence] = ()) -> dict[str, Any]:
    """The reports as JSON values: of the whole, of every run, of every law; see docs/verify.md.

    >>> document([Report("mine:build", 0, 1e-6, True, (), 0.0, problem="no method")])["status"]
    2
    """
    return {
        "schema": SCHEMA,
        "dfm_ref": __version__,
        "status": status(reports),
        "seed": reports[0].seed,
        "alpha": sum(report.alpha for report in reports),
        "quick": reports[0].quick,
        "seconds": round(sum(report.seconds for report in reports), 3),
        "runs": [
            {
                "target": report.target,
                "suite": report.suite,
                "status": report.status,
                "problem": report.problem,
                "seconds": round(report.seconds, 3),
                "printed_lines": report.printed,
                "laws": [_law(result) for result in report.results],
            }
            for report in reports
        ],
        "measurements": [one._asdict() for one in measured],
    }


def status(reports: list[Report]) -> int:
    """1 where a law is broken, else 2 where nothing could be checked in any run, else 0.

    >>> status([Report("mine:build", 0, 1e-6, True, (), 0.0)])
    0
    """
    found = {report.status for report in reports}
    return 1 if 1 in found else 0 if 0 in found else 2


def _law(result: Result) -> dict[str, Any]:
    law = result.law
    return {
        "id": law.id,
        "says": law.says,
        "formula": law.formula,
        "source": law.source,
        "needs": list(law.needs),
        "status": result.status,
        "reason": result.reason,
        "seconds": round(result.seconds, 4),
        "examples": result.examples,
        "draws": result.draws,
        "alpha": result.alpha,
        "departure_seen": result.seen,
        "finding": _finding(result.finding) if result.finding else None,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "message": finding.message,
        "expected": finding.expected,
        "got": finding.got,
        "case": finding.case,
        "script": finding.script,
        "also": list(finding.also),
    }


def to_json(reports: list[Report], *, measured: Sequence[Convergence] = ()) -> str:
    """The document as text.

    >>> to_json([Report("mine:build", 0, 1e-6, True, (), 0.0, problem="no method")])[:15]
    '{\\n "schema": 1,'
    """
    return json.dumps(document(reports, measured=measured), indent=1) + "\n"


def measured(found: Convergence) -> str:
    """A measurement in one line.

    >>> measured(Convergence("a case", (2,), (0.1,), (0.1,), 0.01, (0.2,), None, 0.01, 0.002, 10))
    'a case: total variation after K steps 2: 0.1; order below the noise; at one token 0.0100; 2.00 ms a step'
    """
    by = ", ".join(f"{k}: {tv:.3g}" for k, tv in zip(found.steps, found.tv, strict=True))
    order = "below the noise" if found.order is None else f"{found.order:.2f}"
    return (
        f"{found.case}: total variation after K steps {by}; order {order}; at one token {found.one_token_tv:.4f}; "
        f"{1e3 * found.seconds_per_step:.2f} ms a step"
    )


_MARK = {"holds": "holds", "broken": "BROKEN", "unchecked": "-"}


def lines(report: Report) -> list[str]:
    """What a report says, in plain lines: the findings with their Python, then how many laws hold.

    >>> lines(Report("mine:build", 0, 1e-6, True, (), 0.0, problem="no method"))
    ['mine:build: no law could be tried: no method']
    """
    if report.problem:
        return [f"{report.target}: no law could be tried: {report.problem}"]
    text = []
    for result in report.broken:
        text += ["", *told(result)]
    held = sum(result.status == "holds" for result in report.results)
    unchecked = sum(result.status == "unchecked" for result in report.results)
    text += [
        "",
        f"{report.target}: {held} laws hold, {len(report.broken)} broken, {unchecked} not checked, in "
        f"{report.seconds:.1f} s (seed {report.seed}, rate of false alarms {report.alpha:g})",
    ]
    if report.printed:
        text.append(f"{report.target}: printed {report.printed} lines, which are left out here")
    return text


def told(result: Result) -> list[str]:
    """A broken law: what is wrong, the law, what was expected and came, and Python to paste.

    >>> finding = Finding("the rates do not close", "0.0", "0.5", "print(u)", "a case")
    >>> told(Result(DISCRETE.laws[0], "broken", finding=finding))[0]
    'build: the rates do not close'
    """
    finding, law = result.finding, result.law
    if finding is None:
        return []
    more = f"  and       {len(finding.also)} more of the kind, such as: {finding.also[-1]}" if finding.also else ""
    return [
        f"{law.id}: {finding.message}",
        f"  law       {law.says}",
        f"  formula   {law.formula}   ({law.source})",
        f"  expected  {finding.expected}",
        f"  got       {finding.got}",
        *([more] if more else []),
        *finding.script.splitlines(),  # flush left, to be pasted
    ]


def rows(report: Report, *, verbose: bool = False) -> list[tuple[str, str, str]]:
    """The table: id, status, and why or what.

    >>> rows(Report("mine:build", 0, 1e-6, True, (Result(DISCRETE.laws[0], "holds"),), 0.0))
    [('build', 'holds', '')]
    """
    return [(result.law.id, _MARK[result.status], _why(result, verbose)) for result in report.results]


def _why(result: Result, verbose: bool) -> str:
    if result.finding:
        return result.finding.message
    if result.status == "unchecked":
        return f"not checked: {result.reason}"
    if verbose and result.draws:
        return (
            f"{result.examples} examples of {result.draws} draws; a departure of {result.seen:g} is seen with "
            f"probability 0.99, a false alarm has rate {result.alpha:.2g}"
        )
    return f"{result.examples} examples" if verbose else ""


def table(report: Report, *, verbose: bool = False) -> None:
    """Prints the table and the lines: by rich on a terminal where it is installed, else as plain text.

    >>> table(Report("mine:build", 0, 1e-6, True, (), 0.0, problem="no method"))
    mine:build: no law could be tried: no method
    """
    found = rows(report, verbose=verbose)
    if sys.stdout.isatty() and importlib.util.find_spec("rich"):
        _rich(found)
    elif found:
        print(plain(found))
    print("\n".join(lines(report)))


def plain(found: Iterable[tuple[str, str, str]]) -> str:
    """Aligned columns.

    >>> plain([("a-law", "holds", "")])
    'a-law  holds'
    """
    found = list(found)
    width = max(len(row[0]) for row in found)
    return "\n".join(f"{name:{width}}  {mark:6}  {why}".rstrip() for name, mark, why in found)


def _rich(found: list[tuple[str, str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False)
    for name in ("law", "", ""):
        grid.add_column(name)
    colour = {"holds": "green", "BROKEN": "bold red", "-": "dim"}
    for name, mark, why in found:
        grid.add_row(name, Text(mark, style=colour[mark]), Text(why))
    Console().print(grid)
