"""The data card in pictures: what a dataset holds, on one page, as a PNG.

Each panel is a few numbers that polars counts; millions of rows take seconds. The bytes depend on the tables alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from biovita.data.card import trait_coverage
from biovita.data.dataset import Dataset
from biovita.files import atomic_path
from biovita.taxonomy.traits import TRAIT_GROUPS

PAPER, INK, MUTED, RULE, GREY = "#fbfaf6", "#1c2422", "#56605c", "#dcd8cc", "#858c89"  # as in the report's style.css
COLOURS: Final = {"audio": "#0b6aa8", "image": "#c4570a", "both": "#0a7d5f"}
NAMES: Final = {"audio": "recordings", "image": "pictures"}
HEAT = LinearSegmentedColormap.from_list("heat", ["#f1efe6", "#9fc2b4", "#13605a"])
WIDTH_IN, DPI = 11.0, 130
COUNT = FuncFormatter(lambda value, _: f"{value:,.0f}")
N_ROWS: Final = 12  # bars of a panel; the rest is one bar
CELL_DEG: Final = 1  # of the map
SHORTEST_S, LONGEST_S = 0.1, 7200.0  # that a dataset takes
COLUMNS: Final = ("modality", "source", "class", "species", "licence", "duration_s", "latitude_deg", "longitude_deg")
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "text.parse_math": False,  # a name may hold dollar signs
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": RULE,
    "axes.facecolor": PAPER,
    "axes.labelcolor": MUTED,
    "figure.facecolor": PAPER,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def draw_card(dataset_folder: Path, out: Path) -> None:
    """Draw the card of a dataset folder whose tables are written; the manifest need not be there yet.

    Args:
        dataset_folder: holds media.parquet, taxa.parquet and quarantine.parquet.
        out: the PNG.
    """
    dataset = Dataset(Path(dataset_folder), {})
    media = pl.read_parquet(dataset.folder / "media.parquet", columns=list(COLUMNS), glob=False)
    n_classes = min(N_ROWS + 1, media["class"].n_unique())
    n_reasons = min(N_ROWS + 1, max(1, dataset.quarantine["reason"].n_unique()))
    n_trait_rows = min(N_ROWS + 1, dataset.taxa["class"].n_unique())
    n_licences = min(N_ROWS + 1, media["licence"].n_unique())
    heights = [1.2 + 0.3 * n_classes, 2.7, 0.9 + 0.3 * max(n_licences, n_reasons, 3), 1.5 + 0.3 * n_trait_rows, 5.7]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, sum(heights) + 1.1), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.14))
        grid = figure.add_gridspec(5, 2, height_ratios=heights)
        panels: list[tuple[Any, Callable[[Axes, pl.DataFrame], None], pl.DataFrame]] = [
            (grid[0, 0], _species, media),
            (grid[0, 1], _files, media),
            (grid[1, 0], _ranks, media),
            (grid[1, 1], _durations, media),
            (grid[2, 0], _licences, media),
            (grid[2, 1], _refused, dataset.quarantine),
            (grid[3, :], _traits, dataset.taxa),
            (grid[4, :], _places, media),
        ]
        for place, draw, table in panels:
            draw(figure.add_subplot(place), table)
        _title(figure, dataset.folder.resolve().name, media, len(dataset.quarantine))
        with atomic_path(Path(out)) as part:
            figure.savefig(part, format="png", dpi=DPI, metadata={"Software": None})


def _title(figure: Figure, name: str, media: pl.DataFrame, n_refused: int) -> None:
    n_audio = (media["modality"] == "audio").sum()
    line = (
        f"{media['species'].n_unique():,} species, {n_audio:,} recordings "
        f"({media['duration_s'].sum() / 3600:,.1f} h), {len(media) - n_audio:,} pictures; {n_refused:,} records refused"
    )
    made_up = "\nMade up by a generator: this is not biology." if "world" in set(media["source"].unique()) else ""
    figure.suptitle(f"{name}\n", x=0.015, ha="left", fontsize=17, fontweight="bold")
    figure.text(0.015, 1 - 0.44 / figure.get_figheight(), line + made_up, ha="left", va="top", color=MUTED, fontsize=10)


def _species(axes: Axes, media: pl.DataFrame) -> None:
    """Draw the species of each class: with sound only, pictures only, both."""
    kinds = media.group_by("class", "species").agg(pl.col("modality").unique().sort().str.join("+").alias("has"))
    table = kinds.group_by("class").agg(
        (pl.col("has") == has).sum().alias(has) for has in ("audio+image", "audio", "image")
    )
    labels = {"audio+image": "both", "audio": "sound", "image": "picture"}
    colours = {"audio+image": COLOURS["both"], "audio": COLOURS["audio"], "image": COLOURS["image"]}
    _bars(axes, "Species by class", table, "class", labels, colours)


def _files(axes: Axes, media: pl.DataFrame) -> None:
    table = media.group_by("class").agg((pl.col("modality") == name).sum().alias(name) for name in NAMES)
    _bars(axes, "Files by class", table, "class", NAMES, COLOURS)


def _licences(axes: Axes, media: pl.DataFrame) -> None:
    table = media.group_by("licence").agg((pl.col("modality") == name).sum().alias(name) for name in NAMES)
    _bars(axes, "Files by licence", table, "licence", NAMES, COLOURS)


def _refused(axes: Axes, quarantine: pl.DataFrame) -> None:
    if not len(quarantine):
        _nothing(axes, "Refused records by reason", "no record was refused")
        return
    table = quarantine.group_by("reason").agg(pl.len().alias("n"))
    table = table.with_columns(pl.col("reason").str.replace_all("_", " "))
    _bars(axes, "Refused records by reason", table, "reason", {"n": ""}, {"n": GREY})


def _bars(
    axes: Axes, title: str, table: pl.DataFrame, key: str, labels: dict[str, str], colours: dict[str, str]
) -> None:
    """Draw stacked bars, the longest on top; beyond N_ROWS they are one bar."""
    table = table.with_columns(pl.sum_horizontal(*labels).alias("total"), pl.col(key).fill_null("not stated"))
    table = table.sort(["total", key], descending=[True, False])
    if len(table) > N_ROWS + 1:
        rest = table[N_ROWS:].select(pl.lit(f"{len(table) - N_ROWS} more").alias(key), pl.col(*labels, "total").sum())
        table = pl.concat([table[:N_ROWS], rest.select(table.columns)])
    left = np.zeros(len(table))
    for column, label in labels.items():
        n = table[column].to_numpy()
        axes.barh(range(len(table)), n, left=left, height=0.62, color=colours[column], label=label)
        left = left + n
    for row, total in enumerate(table["total"]):
        axes.annotate(f"{total:,}", (total, row), (4, 0), textcoords="offset points", va="center", color=MUTED)
    axes.set_title(title)
    axes.set_yticks(range(len(table)), table[key].to_list(), color=INK)
    axes.set_ylim(max(len(table), 2) - 0.5, -0.5)
    axes.set_xlim(0, 1.18 * max(1, left.max()))
    axes.xaxis.set_visible(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    if len(labels) > 1:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(labels), handlelength=0.9, columnspacing=1.2
        )


def _ranks(axes: Axes, media: pl.DataFrame) -> None:
    axes.set_title("Files a species, the richest first")
    top = 1
    for name, label in NAMES.items():
        n = media.filter(pl.col("modality") == name)["species"].value_counts()["count"].sort(descending=True).to_numpy()
        if len(n):
            top = max(top, int(n[0]))
            marker = "o" if len(n) == 1 else ""
            axes.step(np.arange(1, len(n) + 1), n, marker, where="mid", color=COLOURS[name], lw=1.8, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.8, 1.3 * top)
    axes.set_xlabel("rank of the species")
    _log_ticks(axes.xaxis)
    _log_ticks(axes.yaxis)
    axes.grid(axis="both")
    axes.set_axisbelow(True)
    axes.legend(loc="lower left")


def _log_ticks(axis: Axis) -> None:
    low, high = axis.get_view_interval()
    steps = (1,) if high > 3000 * low else (1, 3) if high > 100 * low else (1, 2, 5)
    ticks = [step * 10**power for power in range(8) for step in steps]
    axis.set_ticks([value for value in ticks if low <= value <= high])
    axis.set_major_formatter(COUNT)
    axis.set_minor_locator(NullLocator())


def _durations(axes: Axes, media: pl.DataFrame) -> None:
    seconds = media["duration_s"].drop_nulls().to_numpy()
    if not len(seconds):
        _nothing(axes, "Length of the recordings", "no recordings")
        return
    edges = np.geomspace(SHORTEST_S, LONGEST_S, 61)
    n, _, _ = axes.hist(seconds.clip(SHORTEST_S, LONGEST_S), bins=edges.tolist(), color=COLOURS["audio"])
    middle, low, high = (float(value) for value in (np.median(seconds), seconds.min() / 3, seconds.max() * 3))
    axes.axvline(middle, color=INK, lw=1, ls=":")
    axes.annotate(f" median {middle:,.3g} s", (middle, 0.97), xycoords=("data", "axes fraction"), va="top")
    axes.set_title("Length of the recordings")
    axes.set_xscale("log")
    axes.set_xlim(max(SHORTEST_S, low), min(LONGEST_S, high))
    axes.set_ylim(0, 1.15 * np.max(n))
    steps = (0.1, 1, 10, 60, 600, 3600) if high > 1000 * low else (0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 7200)
    inside = [s for s in steps if low <= s <= high]
    axes.set_xticks(inside, [_length(s) for s in inside])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(COUNT)
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def _length(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:g} min" if seconds < 3600 else f"{seconds / 3600:g} h"


def _traits(axes: Axes, taxa: pl.DataFrame) -> None:
    """Colour what share of the labels of each group is known, by class; the classes with most species on top."""
    table = trait_coverage(taxa).sort(["species", "class"], descending=[True, False])[: N_ROWS + 1]
    groups = [*TRAIT_GROUPS, "all"]
    shares = table.select(groups).to_numpy()
    axes.imshow(shares, aspect="auto", cmap=HEAT, vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        colour = PAPER if share > 0.6 else INK
        axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=colour, fontsize=8.5)
    axes.set_title("Trait labels that are known")
    axes.set_xticks(range(len(groups)), [group.replace("_", "\n") for group in groups])
    axes.set_yticks(range(len(table)), [f"{name} ({n:,})" for name, n in table.select("class", "species").iter_rows()])
    axes.tick_params(axis="y", colors=INK)
    axes.set_xticks(np.arange(len(groups) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(table) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=PAPER, linewidth=2.5)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _places(axes: Axes, media: pl.DataFrame) -> None:
    """Draw where files come from: a square a degree, darker for more files; equirectangular, without coasts."""
    cell = [(pl.col(f"{name}_deg") / CELL_DEG).floor() * CELL_DEG + CELL_DEG / 2 for name in ("longitude", "latitude")]
    cells = media.select(cell).drop_nulls().group_by("longitude_deg", "latitude_deg").len().sort(pl.all())
    axes.set_xlim(-180, 180)
    axes.set_ylim(-90, 90)
    axes.set_aspect("equal")
    axes.set_xticks(range(-150, 180, 30), [_degrees(x, "W", "E") for x in range(-150, 180, 30)])
    axes.set_yticks(range(-60, 90, 30), [_degrees(y, "S", "N") for y in range(-60, 90, 30)])
    axes.grid()
    axes.axhline(0, color=GREY, lw=0.8, zorder=1)
    axes.set_axisbelow(True)
    n = int(cells["len"].sum())
    axes.set_title(f"Where: {n:,} of {len(media):,} files have a place")
    if n:
        x, y, many = (cells[name].to_numpy() for name in ("longitude_deg", "latitude_deg", "len"))
        order = np.argsort(many, kind="stable")
        colour = LinearSegmentedColormap.from_list("many", ["#7fb3a4", "#13605a", "#06262e"])
        norm = LogNorm(1, max(10, int(many.max())))
        drawn = axes.scatter(x[order], y[order], c=many[order], cmap=colour, norm=norm, s=9, marker="s", lw=0)
        bar = axes.figure.colorbar(drawn, ax=axes, shrink=0.7, pad=0.01, aspect=30, drawedges=False)
        bar.ax.yaxis.set_major_formatter(COUNT)
        bar.ax.yaxis.set_minor_locator(NullLocator())
        bar.set_label("files in a degree")


def _degrees(value: int, negative: str, positive: str) -> str:
    return f"{abs(value)}\N{DEGREE SIGN}{negative if value < 0 else positive if value > 0 else ''}"


def _nothing(axes: Axes, title: str, words: str) -> None:
    axes.set_title(title)
    axes.text(0.0, 0.9, words, transform=axes.transAxes, color=MUTED, va="top")
    axes.set_axis_off()
