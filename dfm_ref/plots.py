"""Pictures: a generation over time, a probability path, convergence. Each function returns a matplotlib figure."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

__all__ = ["convergence", "generation", "losses", "probability_path", "to_png"]


def generation(frames: np.ndarray, times: Sequence[float], *, levels: int) -> Figure:
    """Images over time: tokens int[len(times), B, H, W] as a grid, a sample a row; tokens >= levels (masks) in blue.

    >>> generation(np.zeros((2, 3, 4, 4), dtype=int), [0.0, 1.0], levels=2).get_size_inches().shape
    (2,)
    """
    columns, rows = frames.shape[:2]
    gray = np.linspace(1, 0, levels)[:, None] * np.ones(3)
    colors = ListedColormap(np.concatenate([gray, [[0.62, 0.76, 0.93]]]).tolist())
    figure = Figure(figsize=(0.9 * columns + 0.3, 0.9 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for (row, column), axis in np.ndenumerate(axes):
        axis.imshow(np.minimum(frames[column, row], levels), cmap=colors, vmin=0, vmax=levels)
        axis.set_axis_off()
        if row == 0:
            axis.set_title(f"t = {times[column]:g}", fontsize=9)
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
    figure = Figure(figsize=(4.2 * len(distances), 3.4), layout="constrained")
    axes = figure.subplots(1, len(distances), squeeze=False, sharey=True)[0]
    for axis, (name, curves) in zip(axes, distances.items(), strict=True):
        for (label, values), marker in zip(curves.items(), "os^v", strict=False):
            axis.plot(steps, values, marker=marker, label=label)
        axis.set(title=name, xlabel="steps", xscale="log", yscale="log")
        axis.set_xticks(list(steps), [str(k) for k in steps])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    axes[0].set_ylabel("total variation to the exact law")
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


def to_png(figure: Any) -> bytes:
    """The picture as a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()
