"""Small pictures as SVG, in the colours of the page that holds them: laws, rates, convergence."""

from collections.abc import Mapping, Sequence
from html import escape
from math import log10

__all__ = ["convergence", "law", "rates"]

_WIDTH = 620


def law(names: Sequence[str], expected: Sequence[float], got: Sequence[float]) -> str:
    """Two bars an outcome: the exact probability, and the observed share.

    >>> law(["0"], [1.0], [0.5]).count("<rect")
    4
    """
    step, base, high = _WIDTH / max(1, len(names)), 170, 140
    top = max([*expected, *got, 1e-12])
    bars = []
    for k, (name, want, have) in enumerate(zip(names, expected, got, strict=True)):
        left, width = k * step + 0.15 * step, 0.34 * step
        for shift, value, kind in ((0.0, want, "exact"), (width, have, "observed")):
            height = high * value / top
            title = f"<title>{escape(name)}: {kind} {value:.4g}</title>"
            bars.append(
                f'<rect class="{kind}" x="{left + shift:.1f}" y="{base - height:.1f}" width="{width:.1f}" '
                f'height="{height:.1f}">{title}</rect>'
            )
        if step > 9 * len(name) or k % max(1, round(9 * len(name) / step)) == 0:
            bars.append(_text((k + 0.5) * step, base + 16, name, "middle"))
    key = [
        '<rect class="exact" x="0" y="2" width="11" height="11"/>',
        _text(16, 12, "exact", "start"),
        '<rect class="observed" x="70" y="2" width="11" height="11"/>',
        _text(86, 12, f"observed; the highest bar is {top:.3g}", "start"),
    ]
    line = f'<line class="axis" x1="0" y1="{base}" x2="{_WIDTH}" y2="{base}"/>'
    return _svg(base + 24, [*key, line, *bars], "the exact law beside the observed one")


def rates(names: Sequence[str], table: Sequence[Sequence[float]]) -> str:
    """A heat map: a row a token at a state, a column a value; rates above 0 in one colour, below in the other.

    >>> rates(["0, token 0"], [[-1.0, 1.0]]).count("<rect")
    2
    """
    left, height = 120, 22
    width = min(80.0, (_WIDTH - left) / max(1, len(table[0])))
    top = max([abs(value) for row in table for value in row if value == value] or [1.0]) or 1.0
    cells = []
    for k, (name, row) in enumerate(zip(names, table, strict=True)):
        y = 22 + k * height
        cells.append(_text(left - 6, y + 15, name, "end"))
        for x, value in enumerate(row):
            kind, strength = ("up", value / top) if value > 0 else ("down", -value / top)
            place = f'x="{left + x * width:.1f}" y="{y}" width="{width - 1:.1f}" height="{height - 1}"'
            title = f"<title>{escape(name)} to {x}: {value:.6g}</title>"
            cells.append(f'<rect class="{kind}" {place} fill-opacity="{0.08 + 0.82 * strength:.3f}">{title}</rect>')
            if width > 44:
                cells.append(_text(left + (x + 0.5) * width, y + 15, f"{value:.3g}", "middle"))
    heads = [_text(left + (x + 0.5) * width, 14, str(x), "middle") for x in range(len(table[0]))]
    return _svg(28 + height * len(table), [*heads, *cells], "rates from each token to each value")


def convergence(steps: Sequence[int], curves: Mapping[str, Sequence[float]], noise: float) -> str:
    """Total variation by the number of steps, both logarithmic; the noise of the draws is a dashed line.

    >>> convergence([2, 4], {"a": [0.2, 0.1]}, 0.01).count("<polyline")
    1
    """
    base, high, left = 190, 160, 60
    values = [v for curve in curves.values() for v in curve if v > 0]
    top, low = max([*values, noise]) * 1.3, min([*values, noise]) / 1.3

    def x(k: int) -> float:
        return left + (_WIDTH - left - 150) * k / max(1, len(steps) - 1)

    def y(value: float) -> float:
        return base - high * log10(max(value, low) / low) / log10(top / low)

    parts = [f'<line class="axis" x1="{left}" y1="{base}" x2="{_WIDTH - 140}" y2="{base}"/>']
    parts += [_text(x(k), base + 16, str(step), "middle") for k, step in enumerate(steps)]
    parts += [_text(left - 6, y(v) + 4, f"{v:.2g}", "end") for v in (top / 1.3, noise)]
    parts.append(f'<line class="noise" x1="{left}" y1="{y(noise):.1f}" x2="{_WIDTH - 150}" y2="{y(noise):.1f}"/>')
    for n, (name, curve) in enumerate(curves.items()):
        kind = "observed" if n == 0 else "exact"
        points = " ".join(f"{x(k):.1f},{y(v):.1f}" for k, v in enumerate(curve))
        parts.append(f'<polyline class="{kind}" points="{points}"/>')
        parts += [f'<circle class="{kind}" cx="{x(k):.1f}" cy="{y(v):.1f}" r="3.5"/>' for k, v in enumerate(curve)]
        parts.append(_text(_WIDTH - 135, 20 + 18 * n, name, "start", kind))
    parts.append(_text(_WIDTH - 135, 20 + 18 * len(curves), "dashed: noise", "start"))
    return _svg(base + 24, parts, "total variation by the number of steps")


def _text(x: float, y: float, text: str, anchor: str, kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: int, parts: list[str], what: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(what)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
