"""Every figure of the study, drawn from a small data file beside it, with the same bytes each time."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xltlib import StudyError
from xltlib.panels import (
    COLOURS,
    GREY,
    STATES,
    Data,
    curves,
    groups,
    label_axes,
    legend,
    look_of,
    nothing,
    panels,
)
from xltlib.store import plain, read_json, write_bytes, write_json

Draw = Callable[[Data], Figure]

STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": "#dddddd",
    "grid.linewidth": 0.6, "legend.frameon": False, "svg.hashsalt": "xltlib", "svg.fonttype": "path",
}  # fmt: skip
NEEDED = ("title", "caption", "alt", "claims")
DPI = 150


class Drawn:
    """A saved figure, which a notebook shows with its caption and its text for screen readers."""

    def __init__(self, path: Path, data: Data) -> None:
        self.path, self.data = path, data

    def _repr_html_(self) -> str:
        image = base64.b64encode(self.path.read_bytes()).decode("ascii")
        alt, caption = (html.escape(self.data[key], quote=True) for key in ("alt", "caption"))
        picture = f'<img src="data:image/png;base64,{image}" alt="{alt}" style="max-width:100%">'
        return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"

    def __repr__(self) -> str:
        return f"{self.data['title']}. {self.data['caption']} ({self.path.name})"


def save(name: str, data: Data, draw: Draw, folder: str | Path) -> Drawn:
    """Write `<name>.json`, then draw from that file alone to `<name>.svg` and `<name>.png`.

    `data` is plain JSON with `title`, `caption` (it names the sample size), `alt` and `claims` (ids);
    `key: true` marks the figure of a study's first screen. StudyError where one of these is missing.
    """
    missing = [key for key in NEEDED if key not in data]
    if missing:
        needed = f"a figure needs {', '.join(NEEDED)}"
        raise StudyError(f"figure {name}: its data lack {', '.join(missing)}; {needed}")
    if FIGURES.get(draw.__name__) is not draw:
        raise StudyError(f"figure {name}: {draw.__name__} is not one of {', '.join(FIGURES)}")
    path = Path(folder) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, plain(dict(data), name) | {"draw": draw.__name__})
    return _draw(path)


def redraw(folder: str | Path) -> list[Drawn]:
    """Draw all figures of a folder anew from their data files."""
    return [_draw(path) for path in sorted(Path(folder).glob("*.json")) if "draw" in _mapping(path)]


def _mapping(path: Path) -> dict:
    content = read_json(path)
    return content if isinstance(content, dict) else {}


def _draw(path: Path) -> Drawn:
    data = _mapping(path)
    if data.get("draw") not in FIGURES:
        raise StudyError(f"{path}: draw is {data.get('draw')!r}, expected one of {', '.join(FIGURES)}")
    with mpl.rc_context({**mpl.rcParamsDefault, "backend": mpl.rcParams["backend"], **STYLE}):
        figure = FIGURES[data["draw"]](data)
        for ending, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            image = io.BytesIO()
            figure.savefig(image, format=ending, metadata=metadata, dpi=DPI)
            write_bytes(path.with_suffix(f".{ending}"), image.getvalue())
    return Drawn(path.with_suffix(".png"), data)


# Points by category


def accuracy_by_language(data: Data) -> Figure:
    """Scores by language and system: seeds as dots, means with intervals, chance and baselines marked."""
    return groups(data)


def recall_by_class(data: Data) -> Figure:
    """Share of each gold class that is recognised, by language."""
    return groups(data)


def aer_by_symmetrisation(data: Data) -> Figure:
    """Alignment error rate by language, for each direction and each way of combining both."""
    return groups(data)


# Curves


def loss_curves(data: Data) -> Figure:
    """Training loss by update, a line for each seed."""
    return curves(data)


def by_layer(data: Data) -> Figure:
    """Retrieval and alignment error in each layer of an encoder, by language and objective."""
    return curves(data)


def aer_by_size(data: Data) -> Figure:
    """Alignment error rate against the number of sentence pairs the aligner has seen."""
    return curves(data)


def aer_by_corruption(data: Data) -> Figure:
    """Alignment error rate of gold links of which a share was moved."""
    return curves(data)


def gap_by_distance(data: Data) -> Figure:
    """What transfer loses: source score minus target score, against the target's distance from the source."""
    return curves(data)


def noise_tokens(data: Data) -> Figure:
    """What typing errors do to words and their subwords, by rate."""
    return curves(data)


def coverage(data: Data) -> Figure:
    """How often intervals hold the truth in simulated studies, by number of seeds."""
    return curves(data)


def smallest_effect(data: Data) -> Figure:
    """The smallest difference that a study sees with a given power, by number of seeds."""
    return curves(data)


def sweep(data: Data) -> Figure:
    """Scores over the levels of one choice: seeds as dots, the band of each mean's interval."""
    return curves(data)


# Effects with intervals


def forest(data: Data) -> Figure:
    """Differences with their intervals, one a row: seeds as dots, no difference and the margin marked."""
    rows = data["rows"]
    figure = Figure(figsize=(7.2, 0.9 + 0.3 * max(2, len(rows))), layout="constrained")
    ax = figure.subplots()
    if not rows:
        nothing(ax)
        return figure
    ax.axvline(0, color="black", linewidth=1, label="no difference")
    for y, row in zip(range(len(rows))[::-1], rows, strict=True):
        colour, marker = STATES.get(row.get("state"), (COLOURS[0], "o"))
        seeds = row.get("seeds", [])
        if len(seeds) > 1:
            ax.plot(seeds, [y - 0.22] * len(seeds), ".", color=colour, alpha=0.5, markersize=5)
        ax.hlines(y, row["low"], row["high"], color=colour, linewidth=1.8)
        ax.plot([row["estimate"]], [y], marker=marker, color=colour, markersize=6, linestyle="",
                label=row.get("state"))  # fmt: skip
        if row.get("second"):
            style = {"color": GREY, "linewidth": 1, "linestyle": "--"}
            ax.hlines(y + 0.22, *row["second"], label=data.get("second"), **style)
        if row.get("margin"):
            style = {"color": GREY, "linewidth": 1.6, "linestyle": ":"}
            ax.vlines(row["margin"], y - 0.35, y + 0.35, label="margin", **style)
    ax.set_yticks(range(len(rows))[::-1], [row["label"] for row in rows])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(data["x_label"])
    legend(figure, [ax])
    return figure


# Links, words, and the reports


def link_matrix(data: Data) -> Figure:
    """One sentence pair: gold links as squares (sure dark, possible pale), found ones as circles."""
    source, target = data["source"], data["target"]
    width = 0.34 * len(target) + 1.0
    figure, axes = panels(data, width, 0.3 * len(source) + 1.1)
    for k, (ax, panel) in enumerate(zip(axes, data["panels"], strict=False)):
        _squares(ax, data["possible"], "#f3d9b8", "possible (gold)", source)
        _squares(ax, data["sure"], "#E69F00", "sure (gold)", source)
        if panel["links"]:
            i, j = zip(*panel["links"], strict=True)
            style = {"color": "black", "fillstyle": "none", "markersize": 9, "markeredgewidth": 1.6}
            ax.plot(j, i, "o", label="link", **style)
        ax.set(xlim=(-0.5, len(target) - 0.5), ylim=(len(source) - 0.5, -0.5), aspect="equal")
        ax.set_xticks(range(len(target)), target, rotation=60, ha="right", rotation_mode="anchor")
        first = k % data.get("columns", len(axes)) == 0
        ax.set_yticks(range(len(source)), source if first else [""] * len(source))
        ax.set_title(panel["name"])
    legend(figure, axes)
    return figure


def _squares(ax: Axes, cells: Sequence, colour: str, name: str, source: Sequence) -> None:
    if cells:
        i, j = zip(*cells, strict=True)
        ax.bar(j, 1.0, 1.0, bottom=np.array(i) - 0.5, color=colour, edgecolor="white", label=name, zorder=1.5)


def word_map(data: Data) -> Figure:
    """Word vectors of one sentence in two languages on the plane that spreads them most, with their links."""
    figure, axes = panels(data, 3.9, 3.4)
    for ax, panel in zip(axes, data["panels"], strict=False):
        first, second = (np.array(panel[side]).reshape(-1, 2) for side in ("source", "target"))
        known = len(first) > 0
        for i, j in data["links"] if known else ():
            ax.plot(*zip(first[i], second[j], strict=True), color=GREY, linewidth=0.9, zorder=1)
        sides = (("source", first, 0, (4, 4)), ("target", second, 1, (4, -9)))
        for side, points, k, offset in sides if known else ():
            ax.plot(*points.T, linestyle="", markersize=6, label=data[f"{side}_language"], **look_of(k))
            for word, point in zip(data[f"{side}_words"], points, strict=True):
                ax.annotate(word, point, offset, textcoords="offset points", fontsize=7, color=COLOURS[k])
        ax.margins(0.18)
        ax.set_xticks([])
        ax.set_yticks([])
        label_axes(ax, panel | {"x_label": "first component", "y_label": "second component"})
    legend(figure, axes)
    return figure


def confidence(data: Data) -> Figure:
    """The reports' confidence in each statement, with the threshold that parts their verdicts."""
    rows, names = data["rows"], data["categories"]
    figure = Figure(figsize=(6.6, 1.3 + 0.62 * len(names)), layout="constrained")
    ax = figure.subplots()
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    ax.axvline(
        data["threshold"],
        color="black",
        linestyle="--",
        linewidth=1,
        label=f"threshold {data['threshold']:g}",
    )
    for k, kind in enumerate(kinds):
        at: dict[tuple, int] = {}
        side = (k - (len(kinds) - 1) / 2) * 0.16
        for row in (row for row in rows if row["kind"] == kind):
            place = (row["confidence"], names.index(row["category"]))
            at[place] = at.get(place, -1) + 1  # equal ones are stacked
            y = place[1] + side * (1 + at[place])
            label = kind if sum(at.values()) == 0 and len(at) == 1 else None
            ax.plot([place[0]], [y], linestyle="", markersize=4.5, label=label, **look_of(k))
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(max(len(names), 1) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.set_xlabel(data["x_label"])
    legend(figure, [ax])
    return figure


FIGURES: dict[str, Draw] = {
    draw.__name__: draw
    for draw in (
        accuracy_by_language, recall_by_class, aer_by_symmetrisation, loss_curves, by_layer, aer_by_size,
        aer_by_corruption, gap_by_distance, noise_tokens, coverage, smallest_effect, forest, link_matrix,
        word_map, confidence, sweep,
    )
}  # fmt: skip
