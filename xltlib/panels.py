"""What the study's figures share: colours, panels, legends, points by category, curves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

Data = Mapping[str, Any]

# Okabe and Ito's colours, and Tol's wine: the colour-blind tell them apart; markers and lines differ too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (6, 1)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2, 2, 2)))
GREY = "#666666"
STATES = {"supported": ("#009E73", "o"), "contradicted": ("#D55E00", "X"), "inconclusive": ("#000000", "s")}


def panels(data: Data, width: float, height: float, extra: float = 0.5) -> tuple[Figure, list[Axes]]:
    """A figure with one axes for each of `panels`, `columns` in a row, their size in inches."""
    count = max(1, len(data["panels"]))
    columns = min(data.get("columns") or count, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(columns * width, 4.5), rows * height + extra), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for ax in axes[len(data["panels"]) :]:
        nothing(ax, "" if data["panels"] else "no results yet")
    return figure, axes


def nothing(ax: Axes, text: str = "no results yet") -> None:
    """Say that there is nothing to draw, instead of an empty frame."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center", color=GREY, transform=ax.transAxes)


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, below them, as many in a row as fit; each name once."""
    handles: dict[str, Any] = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    if handles:
        lengths = [0.75 + 0.075 * len(name) for name in handles]  # inches, about
        rows = next(r for r in range(1, len(lengths) + 1) if _fits(lengths, r, figure.get_figwidth()))
        place = {"loc": "outside lower center", "ncols": math.ceil(len(lengths) / rows)}
        figure.legend(handles.values(), handles.keys(), handlelength=3, **place)


def _fits(lengths: Sequence[float], rows: int, width: float) -> bool:
    """Whether names in `rows` rows, filled column by column, need at most `width` inches."""
    columns = [max(lengths[i : i + rows]) for i in range(0, len(lengths), rows)]
    return len(columns) == 1 or sum(columns) < width


def look_of(k: int) -> dict[str, Any]:
    """Colour and marker of the k-th system."""
    return {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}


def groups(data: Data) -> Figure:
    """`panels` [{name, y_label, limits, levels [{name, y}], marks [{name, values, line}], series}] over
    `categories`, series [{name, points}]; a point is {seeds, mean, low, high} or null."""
    figure, axes = panels(data, data.get("width", 3.6), 3.2)
    names = data["categories"]
    for ax, panel in zip(axes, data["panels"], strict=False):
        _levels(ax, panel)
        step = 0.8 / max(1, len(panel["series"]))
        for k, series in enumerate(panel["series"]):
            at = np.arange(len(names)) - 0.4 + step * (k + 0.5)
            _points(ax, at, series, k, step)
        for mark, line in zip(panel.get("marks", []), ("-", "--", ":", "-."), strict=False):
            line = mark.get("line", line)
            there = [(x, y) for x, y in enumerate(mark["values"]) if y is not None]
            for x, y in there:
                label = mark["name"] if x == there[0][0] else None
                ax.hlines(y, x - 0.42, x + 0.42, color=GREY, linestyle=line, linewidth=1.2, label=label)
        ax.set_xticks(range(len(names)), names)
        ax.set_xlim(-0.5, len(names) - 0.5)
        ax.grid(axis="x", visible=False)
        label_axes(ax, panel)
    legend(figure, axes)
    return figure


def _points(ax: Axes, at: np.ndarray, series: Data, k: int, step: float) -> None:
    """Seeds as pale dots, the mean as a marker, its interval as a bar."""
    look, named = look_of(k), False
    for x, point in zip(at, series["points"], strict=True):
        if point is None:
            continue
        seeds = point.get("seeds", [])
        if len(seeds) > 1:
            spread = np.linspace(-0.2, 0.2, len(seeds)) * step
            ax.plot(x + spread, seeds, ".", color=look["color"], alpha=0.45, markersize=5, zorder=2)
        if point.get("low") is not None:
            ax.vlines(x, point["low"], point["high"], color=look["color"], linewidth=1.4, zorder=3)
        label = None if named else series["name"]
        style = {"linestyle": "", "markersize": 4.5, "zorder": 4, "clip_on": False}
        ax.plot([x], [point["mean"]], label=label, **style, **look)
        named = True


def _levels(ax: Axes, panel: Data) -> None:
    for level in panel.get("levels", []):
        line = level.get("line", "--")
        ax.axhline(level["y"], color="black", linestyle=line, linewidth=1, label=level["name"], zorder=1)


def label_axes(ax: Axes, panel: Data) -> None:
    """Title, axis labels with their units, and limits of a panel."""
    ax.set_title(panel.get("name", ""))
    ax.set_xlabel(panel.get("x_label", ""))
    ax.set_ylabel(panel.get("y_label", ""))
    if panel.get("limits"):
        ax.set_ylim(*panel["limits"])


def curves(data: Data) -> Figure:
    """`panels` [{name, x_label, y_label, log, limits, ticks [[x, text]], levels, band [low, high], series}],
    where series are [{name, curves [{x, y}], band {x, low, high}}]: a curve is a seed; several are drawn
    pale, with their mean, and the band of its interval. `empty`: what a panel without curves says."""
    figure, axes = panels(data, data.get("width", 3.6), data.get("height", 3.0))
    for ax, panel in zip(axes, data["panels"], strict=False):
        if panel.get("band"):
            ax.axhspan(*panel["band"], color="#eeeeee", zorder=0)
        _levels(ax, panel)
        for k, series in enumerate(panel["series"]):
            _curve(ax, series, series.get("look", k))
        if panel.get("log"):
            ax.set_xscale("log")
        if panel.get("ticks"):
            where, texts = zip(*panel["ticks"], strict=True)
            ax.set_xticks(where, texts)
            ax.xaxis.set_minor_locator(NullLocator())
        if not any(series["curves"] for series in panel["series"]):
            nothing(ax, panel.get("empty", "no results yet"))
        label_axes(ax, panel)
    legend(figure, axes)
    return figure


def _curve(ax: Axes, series: Data, k: int) -> None:
    look, line, curves = look_of(k), LINES[k % len(LINES)], series["curves"]
    if not curves:
        return
    if series.get("band"):
        band = series["band"]
        style = {"color": look["color"], "alpha": 0.12, "linewidth": 0, "zorder": 1}
        ax.fill_between(band["x"], band["low"], band["high"], **style)
    dense = max(len(curve["x"]) for curve in curves) > 20
    marker = "" if dense else look["marker"]
    if len(curves) > 1:
        for curve in curves:
            style = {"linewidth": 0.7} if dense else {"linestyle": "", "marker": "."}
            ax.plot(curve["x"], curve["y"], color=look["color"], alpha=0.4, zorder=2, **style)
    shortest = min(len(curve["x"]) for curve in curves)
    mean = np.mean([curve["y"][:shortest] for curve in curves], axis=0)
    style = {"color": look["color"], "marker": marker, "markersize": 4, "linestyle": line, "linewidth": 1.4}
    ax.plot(curves[0]["x"][:shortest], mean, label=series["name"], zorder=3, **style)
