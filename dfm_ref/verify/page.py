"""A report as one page of HTML that needs no other file: a row a law, then each broken one with its counterexample."""

from collections.abc import Sequence
from html import escape
from typing import Any

from .. import __version__
from . import drawings
from .kit import Report, Result
from .measurements import Convergence
from .report import SCHEMA, document

__all__ = ["text"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #59636e; --line: #d1d9e0; --card: #f6f8fa;
  --good: #1a7f37; --bad: #c4242f; --exact: #8a94a0; --seen: #0969da; --up: #0969da; --down: #bc4c00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --soft: #9198a1; --line: #3d444d;
  --card: #151b23; --good: #3fb950; --bad: #ff7b72; --exact: #7d8590; --seen: #58a6ff; --up: #58a6ff;
  --down: #f0883e } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.2 } h2 { font-size: 1.2rem; margin-top: 2.2rem }
h3 { font: 600 1.05rem/1.4 ui-monospace, monospace; margin: 0 0 .4rem }
table { border-collapse: collapse; width: 100% } td { padding: .3rem .6rem .3rem 0; vertical-align: top;
  border-top: 1px solid var(--line) }
td:first-child { font: .92rem ui-monospace, monospace; white-space: nowrap }
td:nth-child(2) { white-space: nowrap; font-weight: 600 }
.holds { color: var(--good) } .broken { color: var(--bad) } .unchecked, small, .label { color: var(--soft) }
section { border: 1px solid var(--line); border-radius: 8px; padding: 1rem; margin: 1rem 0; background: var(--card) }
pre { overflow-x: auto; background: var(--paper); border: 1px solid var(--line); border-radius: 6px; padding: .8rem;
  font: .85rem/1.45 ui-monospace, monospace; white-space: pre; overflow-wrap: normal }
dl { display: grid; grid-template-columns: 6rem 1fr; gap: .2rem .8rem } dt { color: var(--soft) } dd { margin: 0 }
figure { margin: 1rem 0 } svg { width: 100%; max-width: 640px; height: auto; font: 12px system-ui, sans-serif }
svg text { fill: var(--ink) } svg text.label { fill: var(--soft) } svg .exact { fill: var(--exact) }
svg .observed { fill: var(--seen) } svg polyline { fill: none !important; stroke-width: 2 }
svg polyline.exact { stroke: var(--exact) } svg polyline.observed { stroke: var(--seen) } svg .up { fill: var(--up) }
svg .down { fill: var(--down) } svg .axis { stroke: var(--soft) }
svg .noise { stroke: var(--soft); stroke-dasharray: 4 4 }
@media (max-width: 40rem) { td { display: block; border: 0; padding: 0 } tr { display: block; padding: .5rem 0;
  border-top: 1px solid var(--line) } dl { grid-template-columns: 1fr } dd { margin-bottom: .4rem } }
"""


def text(reports: list[Report], *, measured: Sequence[Convergence] = ()) -> str:
    """The page of some reports, and of what was measured.

    >>> text([Report("mine:build", 0, 1e-6, True, (), 0.0, problem="no method")]).startswith("<!doctype html>")
    True
    """
    whole = document(reports)
    verdict = ("all laws hold", "laws are broken", "nothing could be checked")[whole["status"]]
    name = escape(reports[0].target if len(reports) == 1 else reports[0].target.partition(":")[0])
    quick = ", quick" if whole["quick"] else ""
    parts = [
        f"<h1>{name}: {verdict}</h1>",
        f"<p><small>dfm_ref {__version__}, schema {SCHEMA}, seed {whole['seed']}{quick}, {whole['seconds']:.1f} s; a "
        f"right implementation is called wrong with a probability of at most {whole['alpha']:.2g}.</small></p>",
    ]
    for report in reports:
        parts += _run(report, len(reports) > 1)
    if measured:
        parts += ["<h2>Measurements</h2><p>They never fail a run.</p>", *map(_measured, measured)]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: {verdict}</title><style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _run(report: Report, several: bool) -> list[str]:
    parts = [f"<h2>{escape(report.target)}</h2>"] if several else []
    if report.problem:
        return [*parts, f'<p class="broken">No law could be tried: {escape(report.problem)}</p>']
    if report.printed:
        parts.append(f"<p><small>It printed {report.printed} lines, which are left out here.</small></p>")
    parts += ["<table>", *map(_row, report.results), "</table>", *map(_broken, report.broken)]
    return parts


def _row(result: Result) -> str:
    law, finding = result.law, result.finding
    what = finding.message if finding else f"not checked: {result.reason}" if result.reason else law.says
    tried = f"{result.examples} examples" + (f" of {result.draws} draws" if result.draws else "")
    seen = f", sees a departure of {result.seen:g}" if result.seen else ""
    detail = f"<br><small>{tried}{seen}</small>" if result.status != "unchecked" else ""
    return (
        f'<tr><td>{law.id}</td><td class="{result.status}">{result.status.replace("unchecked", "not checked")}</td>'
        f"<td>{escape(what)}{detail}</td></tr>"
    )


def _broken(result: Result) -> str:
    law, finding = result.law, result.finding
    if finding is None:
        return ""
    also = "".join(f"<li>{escape(line)}</li>" for line in finding.also)
    more = f"<details><summary>{len(finding.also)} more of the kind</summary><ul>{also}</ul></details>" if also else ""
    facts = (
        ("law", law.says),
        ("formula", law.formula),
        ("source", law.source),
        ("expected", finding.expected),
        ("got", finding.got),
    )
    rows = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return (
        f'<section id="{law.id}"><h3 class="broken">{law.id}</h3><p>{escape(finding.message)}</p><dl>{rows}</dl>'
        f"{_picture(finding.picture)}<pre>{escape(finding.script)}</pre>{more}</section>"
    )


def _picture(picture: Any) -> str:
    if not picture:
        return ""
    kind, *numbers = picture
    draw: Any = {"law": drawings.law, "rates": drawings.rates}[kind]
    return f"<figure>{draw(*numbers)}</figure>"


def _measured(found: Convergence) -> str:
    curves = {"this sampler": found.tv, "finite step": found.finite}
    order = "below the noise" if found.order is None else f"{found.order:.2f}"
    picture = drawings.convergence(found.steps, curves, found.noise)
    return (
        f"<section><h3>{escape(found.case)}</h3><figure>{picture}</figure>"
        f"<p>Total variation to the data's law after so many equal steps, {found.draws} draws each. Order of "
        f"convergence {order}; at one token and 8 steps {found.one_token_tv:.4f}; "
        f"{1e3 * found.seconds_per_step:.2f} ms a step.</p>"
        "</section>"
    )
