"""Every figure of the study, drawn by seaborn from a small data file beside it, the same bytes each time.

A data file holds what a figure says (title, caption, text for screen readers, statements), the name of its
drawing, a tidy table (`rows`), and how to draw it. Letters of a figure are as large as its caption.
"""

import base64
import html
import io
import itertools
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import yaml
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from matplotlib.transforms import Bbox
from PIL import Image

from xltlib.params import Params
from xltlib.store import read_json, write_bytes, write_json

Data = Mapping[str, Any]
Table = pd.DataFrame | Sequence[Data]

# What each figure says and how it is drawn, by its name; captions are filled in by `save`
FIGURES = yaml.safe_load(Path(__file__).with_name("figures.yaml").read_text(encoding="utf-8"))
# Okabe and Ito's colours, and Tol's wine: the colour-blind tell them apart; markers and lines differ too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("", (4, 1.5), (4, 1, 1, 1), (1, 1), (6, 1), (4, 1, 1, 1, 1, 1), (2, 2), (8, 2, 2, 2))
# lines of chance, baselines, published scores
MARKS = ("--", ":", "-.", (0, (1, 3)), (0, (6, 2, 1, 2, 1, 2)))
GREY, SURE, POSSIBLE = "#595959", "#E69F00", "#f6e3c5"
OUTCOMES = {"supported": ("#009E73", "o"), "contradicted": ("#D55E00", "X"), "inconclusive": ("#000000", "s")}
STYLE = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Verdana"], "font.size": 11,
    "axes.titlesize": 11, "axes.labelsize": 11, "legend.fontsize": 11, "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#dddddd", "grid.linewidth": 0.6,
    "legend.frameon": False, "svg.hashsalt": "xltlib", "svg.fonttype": "none",
}  # fmt: skip
WIDTH = 8.2  # inches: what a page shows without making letters smaller
DPI = 120  # of the png: twice the dots of a screen at that width
SHADES = 128  # of the png: antialiased lines need few colours
DENSE = 20  # more points than this on a line are drawn without markers
CROWDED = 16  # points by category in one panel, beyond which it takes the whole width
FEW_SEEDS = 2  # their intervals fill every panel (12.7 standard errors): seeds are drawn alone


class Session(Protocol):
    """What a figure needs of `study.Session`: parameters, its folder, and for some the runs themselves."""

    params: Params
    figures: Path
    published: Path
    runs: Any
    store: Any


@dataclass(frozen=True)
class Drawn:
    """A figure, which a notebook shows with its caption and its text for screen readers.

    `path` is the file of its picture; None where the profile has no runs for it.
    """

    path: Path | None
    data: Data

    @property
    def rows(self) -> pd.DataFrame:
        """The table that the figure was drawn from."""
        return pd.DataFrame(self.data["rows"])

    def _repr_html_(self) -> str:
        if self.path is None:
            return f"<p>{html.escape(repr(self))}</p>"
        image = base64.b64encode(self.path.read_bytes()).decode("ascii")
        alt, caption = (html.escape(self.data[key], quote=True) for key in ("alt", "caption"))
        picture = f'<img src="data:image/png;base64,{image}" alt="{alt}" style="max-width:100%">'
        return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"

    def __repr__(self) -> str:
        if self.path is None:
            return f"{self.data['title']}: this profile has no runs for it."
        return f"{self.data['title']}. {self.data['caption']} ({self.path.name})"


def save(session: Session, name: str, rows: Table, told: Data | None = None, **data: Any) -> Drawn:
    """Draw a figure of figures.yaml into the session's folder; without rows there is none, which it says.

    rows : a tidy table as the figure's drawing describes it
    told : what the words of the figure name in braces beside `p`, the parameters; `seeds`, their number; and
        `bars` and `bands`, the sentences on what stands behind dots and intervals
    data : what its drawing asks for, beyond what stands in figures.yaml or in its place
    """
    p, seeds = session.params, counted(session.params.seeds, "seed")
    words = {"p": p, "seeds": seeds, "level": f"{1 - p.alpha:.0%}"}
    for kind in ("bars", "bands"):
        behind = f"; {kind}: {words['level']} intervals over seeds and"
        if p.seeds <= FEW_SEEDS:
            behind = ", too few for an interval;"
        words[kind] = f"Dots: {seeds}{behind} {p.test_examples} examples a language."
    words |= told or {}
    known = {"draw": "facets", "claims": []} | FIGURES[name]
    about = {k: v.format_map(words) if isinstance(v, str) else v for k, v in known.items()}
    if not len(rows):
        return Drawn(None, about | data | {"rows": []})
    return write(session.figures / name, rows, **about | data)


def counted(number: int, noun: str) -> str:
    """A number of things in words: 1 seed, 2 seeds."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def write(path: Path, rows: Table, png: bool = True, **data: Any) -> Drawn:
    """Write `<path>.json`, then draw from that file alone to `<path>.svg` and `<path>.png`.

    path : without an ending
    rows : a tidy table; numbers are rounded to six digits, the same on every machine
    png : whether that picture is drawn too, for what shows no svg
    data : `draw`, the name of the drawing; `title`, `caption` (it names the sample size), `alt` and `claims`
        (ids); then what the drawing asks for
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path.with_suffix(".json"), _plain(data | {"rows": rows}))
    return redraw(path.with_suffix(".json"), png)


def _plain(value: Any) -> Any:
    """Tables as lists of their rows; numbers of numpy in six digits; None for what is no number."""
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("records")
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray | pd.Series):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 6) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def redraw(path: Path, png: bool = True) -> Drawn:
    """A figure drawn anew from its data file."""
    data, vectors, dots, pixels = read_json(path), io.BytesIO(), io.BytesIO(), io.BytesIO()
    with mpl.rc_context({**mpl.rcParamsDefault, "backend": mpl.rcParams["backend"], **STYLE}):
        figure = DRAWINGS[data["draw"]](data)
        figure.savefig(vectors, format="svg", metadata={"Date": None, "Creator": None})
        if png:
            figure.savefig(dots, format="png", metadata={"Software": None}, dpi=DPI)
        plt.close(figure)
    # two digits of a point suffice, and halve the file
    write_bytes(path.with_suffix(".svg"), re.sub(rb"(\d\.\d\d)\d+", rb"\1", vectors.getvalue()))
    if not png:
        return Drawn(path.with_suffix(".svg"), data)
    image = Image.open(dots).convert("RGB").quantize(SHADES, Image.Quantize.MEDIANCUT)
    image.save(pixels, format="png", optimize=True)
    write_bytes(path.with_suffix(".png"), pixels.getvalue())
    return Drawn(path.with_suffix(".png"), data)


def gathered(rows: Iterable[tuple], point: Sequence[str] = ("panel", "series", "x")) -> pd.DataFrame:
    """Rows of `facets` from tuples of a point and a number: all numbers of a point are its `seeds`."""
    table = pd.DataFrame(rows, columns=[*point, "seeds"])
    return table.groupby(list(point), sort=False)["seeds"].agg(list).reset_index()


def in_order(rows: pd.DataFrame, **orders: Iterable[str]) -> pd.DataFrame:
    """The rows whose columns hold one of some names, sorted by these; the first column comes first."""
    places = {name: {x: k for k, x in enumerate(order)} for name, order in orders.items()}
    for name, place in places.items():
        rows = rows[rows[name].isin(place)]
    return rows.sort_values(list(places), key=lambda column: column.map(places[column.name]), kind="stable")


# Panels of scores


def facets(data: Data) -> Figure:
    """Panels of means by `series` over `x`: seeds as pale dots, intervals as bars, or as bands of lines.

    rows : panel, series, x, seeds (list), and mean, low, high where an interval is known; x is a number, or
        one of `categories`; with `row`, panels stand in a grid
    marks : {panel, (row), name, x, y}: what means are compared with; over the whole panel where x is null
    lines : whether means are joined; dense lines have no markers
    ticks : {text: x}; log_x; limits [low, high] of y, share_y; x_label, y_label, or dicts of them by panel;
        columns (3), height (2.6, inches); bands {panel: [low, high]}; looks {series: number}; empty: the
        words in a panel of a grid that has no rows
    """
    rows, series = _tidy(data)
    marks = pd.DataFrame(data.get("marks", []), columns=["row", "panel", "name", "x", "y"])
    numbers = {name: data.get("looks", {}).get(name, k) for k, name in enumerate(series)}
    looks = {
        kind: {name: known[k % len(known)] for name, k in numbers.items()}
        for kind, known in (("palette", COLOURS), ("markers", MARKERS), ("dashes", DASHES))
    }
    looks["marks"] = dict(zip(marks["name"].unique(), itertools.cycle(MARKS), strict=False))
    marks = in_order(marks.dropna(subset="y"), name=looks["marks"])
    panels, grid, height = rows["panel"].unique().tolist(), "row" in rows, data.get("height", 2.6)
    columns = len(panels) if grid else min(data.get("columns", 3), len(panels))
    if data.get("categories") and rows.groupby("panel")["x"].nunique().max() > CROWDED:
        columns = 1
    plots = sns.FacetGrid(
        rows, col="panel", col_order=panels, height=height, aspect=WIDTH / columns / height, sharex=False,
        sharey=data.get("share_y", False), **({"row": "row"} if grid else {"col_wrap": columns}),
    )  # fmt: skip
    plots.figure.set_layout_engine("constrained")
    plots.set_titles("" if grid else "{col_name}")
    place = ["row", "panel"] if grid else "panel"
    own, marked = (dict(list(table.groupby(place))) for table in (rows, marks))
    before = None
    for key, ax in plots.axes_dict.items():
        row, panel = key if grid else ("", key)
        _panel(ax, own.get(key, rows.head(0)), marked.get(key, marks.head(0)), data, looks)
        x_label, label = (
            words if isinstance(words, str) else words.get(panel, "")
            for words in (data.get("x_label", ""), data.get("y_label", ""))
        )
        if grid:
            ax.set_title(panel if row == rows["row"].iloc[0] else "")
            label = row if panel == panels[0] else ""
        ax.set_xlabel(textwrap.fill(x_label, int(10 * WIDTH / columns)))
        ax.set_ylabel(textwrap.fill(label, int(8 * height)))  # one longer than the axes would shrink them
        if label != before:  # also inside of a row whose panels share their ticks
            ax.yaxis.label.set_visible(True)
        before = label
    _legend(plots.figure, plots.axes.flat)
    return plots.figure


def _tidy(data: Data) -> tuple[pd.DataFrame, list[str]]:
    """The rows of `facets` with all their columns, categories as numbers; and the names of the series."""
    rows = pd.DataFrame(data["rows"])
    series, numbers = rows["series"].unique().tolist(), ("mean", "low", "high")
    over_seeds = rows["seeds"].map(lambda values: np.mean(values) if values else np.nan)
    rows = rows.assign(**{name: rows.get(name, np.nan) for name in numbers})
    rows = rows.astype(dict.fromkeys(numbers, float)).fillna({"mean": over_seeds})
    if categories := data.get("categories"):  # side by side, and the series of each beside each other
        step = 0.8 / len(series)
        beside = {name: step * (k - (len(series) - 1) / 2) for k, name in enumerate(series)}
        rows["x"] = rows["x"].map(categories.index) + rows["series"].map(beside)
    return rows, series


def _panel(ax: Axes, rows: pd.DataFrame, marks: pd.DataFrame, data: Data, looks: dict) -> None:
    """One panel of `facets`: what means are compared with, then seeds, intervals, and the means."""
    lines, categories = data.get("lines", False), data.get("categories", [])
    if rows.empty:
        ax.text(0.5, 0.5, data["empty"], ha="center", va="center", color=GREY, transform=ax.transAxes)
        ax.set(xticks=[], yticks=[])
        return
    if band := data.get("bands", {}).get(rows["panel"].iloc[0]):
        ax.axhspan(*band, color="#eeeeee", zorder=0)
    for mark in marks.itertuples():
        style = {"linestyle": looks["marks"][mark.name], "color": GREY, "linewidth": 1.5, "zorder": 1}
        if pd.isna(mark.x):
            ax.axhline(mark.y, label=mark.name, **style)
        else:  # over its category
            at = categories.index(mark.x)
            ax.hlines(mark.y, at - 0.42, at + 0.42, label=mark.name, **style)
    count = rows["seeds"].map(len)
    means, seeds = rows.dropna(subset="mean"), rows[count > 1].explode("seeds").astype({"seeds": float})
    dense = lines and means.groupby("series").size().max() > DENSE
    hue = {"x": "x", "hue": "series", "palette": looks["palette"], "ax": ax}
    if dense and len(seeds):
        seeds = seeds.assign(seed=seeds.groupby(["series", "x"]).cumcount())
        pale = {"units": "seed", "estimator": None, "alpha": 0.4, "linewidth": 0.7, "legend": False}
        sns.lineplot(seeds, y="seeds", **pale, **hue)
    elif len(seeds):
        sns.scatterplot(seeds, y="seeds", s=14, alpha=0.5, linewidth=0, legend=False, **hue)
    sure = means[~count[means.index].between(1, FEW_SEEDS)].dropna(subset=["low", "high"])
    for name, own in sure.groupby("series", sort=False):
        own, colour = own.sort_values("x"), looks["palette"][name]
        if lines:
            ax.fill_between(own["x"], own["low"], own["high"], color=colour, alpha=0.13, linewidth=0)
        else:
            ax.vlines(own["x"], own["low"], own["high"], color=colour, linewidth=1.6, zorder=3)
    shape = {"y": "mean", "style": "series", "markers": not dense and looks["markers"]}
    if lines:
        shape |= {"dashes": looks["dashes"], "errorbar": None, "markersize": 5, "markeredgewidth": 0}
        sns.lineplot(means, linewidth=1.5, **hue, **shape)
    else:
        sns.scatterplot(means, s=36, linewidth=0, zorder=4, **hue, **shape)
    if data.get("log_x"):
        ax.set_xscale("log")
    if ticks := {name: k for k, name in enumerate(categories)} or data.get("ticks"):
        ax.set_xticks(list(ticks.values()), list(ticks))
        ax.xaxis.set_minor_locator(NullLocator())
    if categories:
        ax.set_xlim(-0.5, len(categories) - 0.5)
        ax.grid(axis="x", visible=False)
    if data.get("limits"):
        ax.set_ylim(*data["limits"])


# Effects


def forest(data: Data) -> Figure:
    """Differences with their intervals, one a row: seeds as dots, no difference and the margin marked.

    rows : label, outcome, estimate, low, high, seeds (list), and where known margin (one or both of them),
        second [low, high]
    x_label : the unit; second : what the dashed interval is; width, in inches
    """
    rows, width = pd.DataFrame(data["rows"]), data.get("width", WIDTH)
    rows["y"] = range(len(rows) - 1, -1, -1)
    palette, markers = ({name: look[k] for name, look in OUTCOMES.items()} for k in (0, 1))
    figure, ax = plt.subplots(figsize=(width, 1.2 + 0.34 * max(2, len(rows))), layout="constrained")
    ax.axvline(0, color="black", linewidth=1, label="no difference")
    hue = {"y": "y", "hue": "outcome", "palette": palette, "linewidth": 0, "ax": ax}
    seeds = rows.explode("seeds").astype({"seeds": float})
    seeds["y"] -= 0.24
    sns.scatterplot(seeds, x="seeds", s=16, alpha=0.55, legend=False, **hue)
    for row in rows[rows["seeds"].map(len) > FEW_SEEDS].itertuples():
        ax.hlines(row.y, row.low, row.high, color=palette[row.outcome], linewidth=2)
        if "second" in rows:
            style = {"color": GREY, "linewidth": 1.2, "linestyle": "--", "label": data["second"]}
            ax.hlines(row.y + 0.22, *row.second, **style)
    if "margin" in rows:
        own = rows.explode("margin")
        own = own[own["margin"] != 0]
        style = {"color": GREY, "linewidth": 1.8, "linestyle": ":", "label": "margin"}
        ax.vlines(own["margin"], own["y"] - 0.38, own["y"] + 0.38, **style)
    shape = {"style": "outcome", "markers": markers, "s": 52, "legend": "full"}
    sns.scatterplot(rows, x="estimate", zorder=3, **shape, **hue)
    ax.set_yticks(rows["y"], rows["label"])
    names = max(map(len, rows["label"]))  # beside the axes: what they leave is the room of a line below
    label = textwrap.fill(data["x_label"], max(24, int(12 * width) - names))
    ax.set(ylim=(-0.7, len(rows) - 0.4), xlabel=label, ylabel="")
    ax.grid(axis="y", visible=False)
    sns.despine(ax=ax)
    _legend(figure, [ax])
    return figure


# Links, words, and the reports


def link_matrix(data: Data) -> Figure:
    """One sentence pair: gold links as squares (sure dark, possible pale), others as circles, by panel.

    rows : panel, links [[i, j]]; source, target: words; sure, possible: [[i, j]]
    """
    source, target = data["source"], data["target"]
    gold = np.zeros((len(source), len(target)), int)
    for value, cells in ((1, data["possible"]), (2, data["sure"])):
        for i, j in cells:
            gold[i, j] = value
    side = min(0.27, (WIDTH / 2 - 1) / len(target))  # inches of a square
    height = side * len(source) + 1.4
    rows = pd.DataFrame(data["rows"])
    plots = sns.FacetGrid(rows, col="panel", col_wrap=2, height=height, aspect=WIDTH / 2 / height)
    plots.figure.set_layout_engine("constrained")
    cells = {"cmap": ListedColormap(["white", POSSIBLE, SURE]), "vmin": 0, "vmax": 2, "cbar": False}
    rings = {"s": 70, "color": "none", "edgecolor": "black", "linewidth": 1.6, "label": "link"}
    for row in data["rows"]:
        ax = plots.axes_dict[row["panel"]]
        sns.heatmap(gold, linewidths=0.6, linecolor="#dddddd", ax=ax, **cells)
        i, j = np.array(row["links"]).reshape(-1, 2).T
        sns.scatterplot(x=j + 0.5, y=i + 0.5, legend=False, ax=ax, **rings)
        ax.set_xticks(np.arange(len(target)) + 0.5, target, rotation=60, ha="right", rotation_mode="anchor")
        ax.set_yticks(np.arange(len(source)) + 0.5, source, rotation=0)
        ax.set(title=row["panel"], aspect="equal")
    for name, colour in (("sure (gold)", SURE), ("possible (gold)", POSSIBLE)):
        plots.axes.flat[0].scatter([], [], s=90, marker="s", color=colour, label=name)
    _legend(plots.figure, plots.axes.flat)
    return plots.figure


def word_map(data: Data) -> Figure:
    """Word vectors of a sentence in two languages on the plane that spreads them most, with their links.

    rows : panel, language, word, x, y; languages: the two of them; links: [[i, j]], by the words' order
    """
    rows, pair = pd.DataFrame(data["rows"]), data["languages"]
    plots = sns.FacetGrid(
        rows, col="panel", col_wrap=2, height=3.4, aspect=WIDTH / 2 / 3.4, sharex=False, sharey=False
    )
    plots.figure.set_layout_engine("constrained")
    looks = {"palette": COLOURS[:2], "markers": MARKERS[:2], "hue_order": pair, "style_order": pair}
    for panel, ax in plots.axes_dict.items():
        own = rows[rows["panel"] == panel]
        first, second = (own[own["language"] == name].reset_index() for name in pair)
        for i, j in data["links"]:
            ax.plot([first.x[i], second.x[j]], [first.y[i], second.y[j]], color=GREY, linewidth=0.9, zorder=1)
        hue = {"hue": "language", "style": "language", "ax": ax} | looks
        sns.scatterplot(own, x="x", y="y", s=45, linewidth=0, **hue)
        for word in own.itertuples():
            style = {"color": COLOURS[pair.index(word.language)], "textcoords": "offset points"}
            ax.annotate(word.word, (word.x, word.y), (4, 4 if word.language == pair[0] else -12), **style)
        ax.margins(0.2)
        ax.set(title=panel, xticks=[], yticks=[], xlabel="first component", ylabel="second component")
    _legend(plots.figure, plots.axes.flat)
    plots.figure.draw_without_rendering()
    for ax in plots.axes.flat:
        taken: list[Bbox] = []
        for name in sorted(ax.texts, key=lambda text: text.xy[1]):  # up, until it hides no name below it
            while any(name.get_window_extent().overlaps(box) for box in taken):
                name.xyann = (name.xyann[0], name.xyann[1] + 2)
            taken.append(name.get_window_extent())
    return plots.figure


def strip(data: Data) -> Figure:
    """Numbers as dots by category, kinds apart, equal ones side by side.

    rows : category, kind, value; categories: their order; x_label; threshold: a number that is marked
    """
    rows, names = pd.DataFrame(data["rows"]), data["categories"]
    figure, ax = plt.subplots(figsize=(WIDTH, 1.4 + 0.62 * len(names)), layout="constrained")
    label = f"threshold {data['threshold']:g}"
    ax.axvline(data["threshold"], color="black", linestyle="--", linewidth=1, label=label)
    kinds = list(dict.fromkeys(rows["kind"]))
    hue = {"hue": "kind", "hue_order": kinds, "palette": COLOURS[: len(kinds)]}
    sns.swarmplot(rows, x="value", y="category", order=names, dodge=True, size=4.5, ax=ax, **hue)
    ax.set(xlabel=data["x_label"], ylabel="")
    ax.set_xlim(left=0)
    sns.despine(ax=ax)
    _legend(figure, [ax])
    return figure


def _legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend for all panels, below them, as many names in a row as fit; each name once."""
    handles: dict[str, Any] = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
        if ax.get_legend():
            ax.get_legend().remove()
    if handles:
        widest = 0.65 + 0.09 * max(map(len, handles))  # inches, about
        ncols = max(1, min(len(handles), int(figure.get_figwidth() // widest)))
        figure.set_figheight(figure.get_figheight() + 0.25 * -(-len(handles) // ncols))
        place = {"loc": "outside lower center", "ncols": ncols, "handlelength": 2.4}
        figure.legend(handles.values(), handles.keys(), **place)


DRAWINGS = {draw.__name__: draw for draw in (facets, forest, link_matrix, word_map, strip)}
