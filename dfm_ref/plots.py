"""Pictures: generations over time, paths, convergence, laws of the plane. Each function returns a matplotlib figure."""

import io
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

__all__ = [
    "bounds",
    "contours",
    "convergence",
    "densities",
    "divergences",
    "generation",
    "images",
    "losses",
    "particles",
    "probability_path",
    "raster",
    "rates",
    "to_png",
]


def generation(frames: np.ndarray, times: Sequence[float], *, levels: int) -> Figure:
    """Images over time: tokens int[len(times), B, H, W] as a grid, a sample a row; tokens >= levels (masks) in blue.

    >>> generation(np.zeros((2, 3, 4, 4), dtype=int), [0.0, 1.0], levels=2).get_size_inches().shape
    (2,)
    """
    return images(frames, [f"t = {t:g}" for t in times], levels=levels)


def images(columns: np.ndarray, titles: Sequence[str], *, levels: int) -> Figure:
    """Columns of images under their titles: tokens int[columns, rows, H, W]; tokens >= levels (masks) in blue.

    >>> images(np.zeros((2, 3, 4, 4), dtype=int), ["a", "b"], levels=2).axes[1].get_title()
    'b'
    """
    num, rows = columns.shape[:2]
    gray = np.linspace(1, 0, levels)[:, None] * np.ones(3)
    colors = ListedColormap(np.concatenate([gray, [[0.62, 0.76, 0.93]]]).tolist())
    figure = Figure(figsize=(0.9 * num + 0.3, 0.9 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, num, squeeze=False)
    for (row, column), axis in np.ndenumerate(axes):
        axis.imshow(np.minimum(columns[column, row], levels), cmap=colors, vmin=0, vmax=levels)
        axis.set_axis_off()
        if row == 0:
            axis.set_title(titles[column], fontsize=9)
    return figure


def probability_path(times: Sequence[float], pmfs: Mapping[str, np.ndarray], tokens: Sequence[str]) -> Figure:
    """p_t(.|x_0, x_1) of one token over time: for each named path a table float[len(times), V] as a stacked area.

    >>> probability_path([0, 1], {"linear": np.eye(2)}, ["a", "b"]).axes[0].get_title()
    'linear'
    """
    figure = Figure(figsize=(3.4 * len(pmfs), 3.0), layout="constrained")
    axes = figure.subplots(1, len(pmfs), squeeze=False, sharey=True)[0]
    for axis, (name, pmf) in zip(axes, pmfs.items(), strict=True):
        axis.stackplot(times, pmf.T, labels=tokens, alpha=0.85)
        axis.set(title=name, xlabel="t", xlim=(0, 1), ylim=(0, 1))
    axes[0].set_ylabel("probability of the token")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    return figure


def convergence(steps: Sequence[int], distances: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Total variation to the exact law against the number of steps, on double logarithmic axes, a panel a path.

    >>> convergence([1, 2], {"a path": {"euler": [0.2, 0.1]}}).axes[0].get_xscale()
    'log'
    """
    figure = Figure(figsize=(3.0 * len(distances) + 1.6, 3.2), layout="constrained")
    axes = figure.subplots(1, len(distances), squeeze=False, sharey=True)[0]
    styles = {
        label: f"C{i % 10}{'os^vDP'[i % 6]}-" for i, label in enumerate(dict.fromkeys(chain(*distances.values())))
    }
    lines = {}
    for axis, (name, curves) in zip(axes, distances.items(), strict=True):
        for label, values in curves.items():
            (lines[label],) = axis.plot(steps, values, styles[label], label=label)
        axis.set(title=name, xlabel="steps", xscale="log", yscale="log")
        axis.set_xticks(list(steps), [str(k) for k in steps])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(lines.values(), lines, loc="outside right center", frameon=False)
    axes[0].set_ylabel("total variation to the exact law")
    return figure


def rates(times: Sequence[float], curves: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Rates over time, per unit of t: for each named schedule its curves float[len(times)], infinities left out.

    >>> rates([0.0, 0.5], {"linear": {"events": np.array([1.0, 2.0])}}).axes[0].get_title()
    'linear'
    """
    figure = Figure(figsize=(3.4 * len(curves), 3.0), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
    for axis, (name, lines) in zip(axes, curves.items(), strict=True):
        for label, values in lines.items():
            axis.plot(times, np.where(np.isfinite(values), values, np.nan), label=label)
        axis.set(title=name, xlabel="t", xlim=(0, 1), ylim=(0, 10))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("rate per unit of t")
    return figure


def raster(frames: np.ndarray, times: Sequence[float]) -> Figure:
    """The events of one generation: a mark where a token of int[len(times), N] changes, at the end of the interval.

    >>> raster(np.array([[0, 0], [0, 1]]), [0.0, 1.0]).axes[0].get_ylabel()
    'token'
    """
    step, token = np.nonzero(frames[1:] != frames[:-1])
    figure = Figure(figsize=(5.0, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.scatter(np.asarray(times)[step + 1], token, marker="|", s=28, linewidths=1.2)
    axis.set(xlabel="t", ylabel="token", xlim=(times[0], times[-1]), ylim=(frames.shape[1] - 0.5, -0.5))
    axis.grid(alpha=0.3)
    return figure


def bounds(exact: np.ndarray, bound: np.ndarray, errors: np.ndarray) -> Figure:
    """A bound on -log p beside the exact value, float[M] nats each, with its standard errors; none lies below the line.

    >>> bounds(np.array([1.0]), np.array([1.2]), np.array([0.1])).axes[0].get_xlabel()
    'exact -log p, nats'
    """
    figure = Figure(figsize=(3.8, 3.6), layout="constrained")
    axis = figure.subplots()
    low, high = 0.95 * min(exact.min(), bound.min()), 1.05 * max(exact.max(), bound.max())
    axis.plot([low, high], [low, high], color="0.6", linewidth=1, label="equal")
    axis.errorbar(exact, bound, yerr=errors, fmt="o", markersize=3, linewidth=1, label="bound")
    axis.set(xlabel="exact -log p, nats", ylabel="bound, nats", xlim=(low, high), ylim=(low, high))
    axis.legend(frameon=False)
    return figure


def losses(bits: Mapping[str, Mapping[str, float]]) -> Figure:
    """Bits per token of held-out data: for each dataset a bar a model, lower is better.

    >>> losses({"digits": {"model": 2.0, "baseline": 2.5}}).axes[0].get_title()
    'digits'
    """
    figure = Figure(figsize=(4.2 * len(bits), 2.4), layout="constrained")
    axes = figure.subplots(1, len(bits), squeeze=False)[0]
    for axis, (name, values) in zip(axes, bits.items(), strict=True):
        bars = axis.barh(list(values), list(values.values()), color=["C0"] + ["0.7"] * (len(values) - 1))
        axis.bar_label(bars, fmt="%.2f", padding=3)
        axis.set(title=name, xlabel="bits per token, held out")
        axis.set_xlim(0, 1.18 * max(values.values()))
        axis.invert_yaxis()
    return figure


def densities(rows: Mapping[str, Mapping[str, np.ndarray]], *, window: float) -> Figure:
    """Densities of the plane, each float[n, n] on [-window, window]^2, x_1 along the second axis: a named row a law.

    Each is drawn on its own scale, from nothing to its greatest value, rare high values aside.

    >>> densities({"ring": {"exact": np.eye(3)}}, window=4.0).axes[0].get_title()
    'exact'
    """
    first = next(iter(rows.values()))
    figure = Figure(figsize=(1.55 * len(first) + 0.4, 1.6 * len(rows) + 0.2), layout="constrained")
    axes = figure.subplots(len(rows), len(first), squeeze=False)
    for row, (name, panels) in enumerate(rows.items()):
        for axis, (title, density) in zip(axes[row], panels.items(), strict=True):
            top = max(np.quantile(density, 0.998), 1e-12)
            axis.imshow(density, origin="lower", extent=(-window, window) * 2, vmin=0, vmax=top, cmap="magma")
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(title, fontsize=9)
        axes[row, 0].set_ylabel(name, fontsize=9)
    return figure


def divergences(steps: Sequence[int], values: Mapping[str, Sequence[float]]) -> Figure:
    """KL divergences, nats, against the number of maps of a flow, on double logarithmic axes: a named line a law.

    >>> divergences([2, 8], {"ring": [0.5, 0.1]}).axes[0].get_yscale()
    'log'
    """
    figure = Figure(figsize=(4.2, 3.2), layout="constrained")
    axis = figure.subplots()
    for marker, (name, value) in zip("os^vDP", values.items(), strict=False):
        axis.plot(steps, value, f"{marker}-", label=name)
    axis.set(xlabel="planar maps", ylabel="KL(q || p), nats", xscale="log", yscale="log")
    axis.set_xticks(list(steps), [str(k) for k in steps])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure


def particles(rows: Mapping[str, np.ndarray], fields: Mapping[str, np.ndarray], times: Sequence[float]) -> Figure:
    """Particles in a field over time, with the ways of forty until then: a named row a flow.

    Particles are float[frames, B, 2] at equal steps from t = 0 to 1. The field is drawn as arrows, from
    float[len(times), n, n, 2] on a grid of [-4, 4]^2 with x_1 along the third axis.

    >>> particles({"a": np.zeros((2, 5, 2))}, {"a": np.ones((2, 3, 3, 2))}, [0.0, 1.0]).axes[1].get_title()
    't = 1'
    """
    figure = Figure(figsize=(2.0 * len(times) + 0.3, 2.05 * len(rows) + 0.2), layout="constrained")
    axes = figure.subplots(len(rows), len(times), squeeze=False)
    for row, (name, x) in enumerate(rows.items()):
        side = np.linspace(-4, 4, fields[name].shape[1])
        for k, (axis, t) in enumerate(zip(axes[row], times, strict=True)):
            frame = round(t * (len(x) - 1))
            axis.scatter(*x[frame].T, s=0.8, color="C0", alpha=0.6, linewidths=0)
            axis.plot(*np.moveaxis(x[: frame + 1, :40], -1, 0), color="C1", alpha=0.8, linewidth=0.7)
            axis.quiver(side, side, *np.moveaxis(fields[name][k], -1, 0), color="0.45", width=0.004)
            axis.set(xlim=(-4.4, 4.4), ylim=(-4.4, 4.4), xticks=[], yticks=[], aspect="equal")
            if row == 0:
                axis.set_title(f"t = {t:g}", fontsize=9)
        axes[row, 0].set_ylabel(name, fontsize=9)
    return figure


def contours(panels: Mapping[str, tuple[np.ndarray, np.ndarray]], *, window: float) -> Figure:
    """Contours a nat apart of log-densities float[n, n] on [-window, window]^2, over points float[M, 2]: a panel a law.

    >>> contours({"moons": (np.zeros((3, 3)) + np.arange(3), np.zeros((1, 2)))}, window=4.0).axes[0].get_title()
    'moons'
    """
    figure = Figure(figsize=(3.1 * len(panels) + 0.7, 3.1), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    lines: Any = None
    for axis, (name, (log_p, x)) in zip(axes, panels.items(), strict=True):
        side = np.linspace(-window, window, len(log_p))
        axis.scatter(*x.T, s=1.0, color="0.6", linewidths=0)
        lines = axis.contour(side, side, log_p, levels=np.arange(-9.0, 0.0), cmap="viridis", linewidths=0.9)
        axis.set(title=name, xticks=[], yticks=[], aspect="equal")
    figure.colorbar(lines, ax=axes.tolist(), label="log p, nats", shrink=0.8)
    return figure


def to_png(figure: Any) -> bytes:
    """The picture as a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()
