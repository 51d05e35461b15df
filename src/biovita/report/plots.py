"""Figures: small SVG pictures whose colours and fonts are the page's own, and spectrograms.

Text stays text (`svg.fonttype: none`), and every colour is a stand-in that becomes a CSS variable, so a figure follows
the page into dark mode and into print. Legends are HTML, beside the figure. The only module that imports matplotlib.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import matplotlib.image
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("ink", "muted", "rule", "c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "grey")
STAND_IN = {name: f"#0{i:x}fe0{i:x}" for i, name in enumerate(COLOURS)}  # CSS variables of style.css
N_HUES = 8
MARKERS = {"audio": "o", "image": "s", "text": "^"}

TOP_HZ = 14_000
FLOOR_DB = -55.0
FFT_SAMPLES = 1024
SONAGRAM = LinearSegmentedColormap.from_list("sonagram", ["#f6f3ea", "#9fc2b4", "#2f7a70", "#06262e"])

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "biovita",
    "font.size": 10.5,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": STAND_IN["rule"],
    "axes.labelcolor": STAND_IN["muted"],
    "text.color": STAND_IN["ink"],
    "xtick.color": STAND_IN["muted"],
    "ytick.color": STAND_IN["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": STAND_IN["rule"],
    "grid.linewidth": 0.6,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True, kw_only=True)
class Interval:
    """One row of a dot plot: shares of 1."""

    share: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a panel, with the range of its values where it stands for several steps."""

    x: np.ndarray
    y: np.ndarray
    colour: str = "c0"
    dashed: bool = False
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def dots(labels: Sequence[str], groups: Sequence[Sequence[Interval | None]], *, name: str, alt: str, top: float) -> str:
    """Draw shares with their intervals, one line of text a label, one colour a group, and chance as a tick.

    Args:
        labels: the rows, from the top.
        groups: for each group one interval a label.
        name: unique among the figures of the page.
        alt: the text for those who do not see it.
        top: right end of the axis, a share of 1.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.7, 0.62 + 0.42 * len(labels)))
        axes = figure.add_subplot()
        for g, group in enumerate(groups):
            shift = (g - (len(groups) - 1) / 2) * 0.32
            for row, value in enumerate(group):
                if value is None:
                    continue
                y, colour = row + shift, STAND_IN[f"c{g}"]
                axes.plot([value.chance] * 2, [y - 0.17, y + 0.17], color=STAND_IN["ink"], lw=1.3)
                axes.plot([value.low, value.high], [y, y], color=colour, lw=1.6, solid_capstyle="round")
                axes.plot([value.share], [y], "os"[g % 2], color=colour, ms=5.5 if g % 2 == 0 else 5)
        axes.set_yticks(range(len(labels)), labels)
        axes.tick_params(axis="y", colors=STAND_IN["ink"])
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlim(-0.01 * top, top)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        return _inline(figure, name, alt)


def panel(
    lines: Sequence[Line],
    stages: Sequence[float],
    *,
    n_steps: float,
    name: str,
    alt: str,
    percent: bool = False,
    bottom: float | None = None,
) -> str:
    """Draw lines over steps.

    Args:
        lines: what to draw.
        stages: the step at which each stage begins; they are numbered from 1 where there are several.
        n_steps: right end of the axis.
        name: unique among the figures of the page.
        alt: the text for those who do not see it.
        percent: the values are shares of 1.
        bottom: lower end of the axis; None lets it follow the lines.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.7, 2.9))
        axes = figure.add_subplot()
        for line in lines:
            colour = STAND_IN[line.colour]
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, lw=0)
            dash, marker = "--" if line.dashed else "-", "." if percent else ""
            axes.plot(line.x, line.y, dash, color=colour, lw=1.6, marker=marker)
        axes.set_ylim(bottom=bottom)
        axes.set_xlim(0, 1.02 * n_steps)
        for number, begin in enumerate(stages if len(stages) > 1 else (), 1):
            axes.axvline(begin, color=STAND_IN["muted"], lw=0.8, ls=":")
            label = axes.text(begin, 1.01, f" {number}", transform=axes.get_xaxis_transform(), va="bottom")
            label.set_color(STAND_IN["muted"])
        axes.set_xlabel("step")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %" if percent else f"{value:.3g}")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        return _inline(figure, name, alt)


def reliability(lines: Sequence[Line], *, name: str, alt: str) -> str:
    """Draw how often answers are right over the probability that they were given, and the diagonal of a true word.

    Args:
        lines: shares of 1 in both directions.
        name: unique among the figures of the page.
        alt: the text for those who do not see it.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.7, 4.2))
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=STAND_IN["muted"], lw=0.8, ls=":")
        for line in lines:
            axes.plot(line.x, line.y, "--" if line.dashed else "-", color=STAND_IN[line.colour], lw=1.6, marker=".")
        end = min(1.0, 1.1 * max(max(line.x.max(), line.y.max()) for line in lines))
        axes.set_xlim(0, end)
        axes.set_ylim(0, end)
        axes.set_aspect("equal")
        axes.set_xlabel("mean probability of the first answer")
        axes.set_ylabel("right first answers")
        axes.grid()
        axes.set_axisbelow(True)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        return _inline(figure, name, alt)


def scatter(place: np.ndarray, modality: Sequence[str], hue: Sequence[int], *, name: str, alt: str) -> str:
    """Draw a map of points: the shape tells the modality, the colour the group.

    Args:
        place: (n, 2).
        modality: audio, image or text, one a point.
        hue: number of the group's colour, one a point; N_HUES and more are grey.
        name: unique among the figures of the page.
        alt: the text for those who do not see it.
    """
    modalities, hues = np.array(modality), np.minimum(hue, N_HUES)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 5.0))
        axes = figure.add_subplot()
        for colour in reversed(range(N_HUES + 1)):
            for kind, marker in MARKERS.items():
                at = place[(modalities == kind) & (hues == colour)]
                fill = STAND_IN[f"c{colour}" if colour < N_HUES else "grey"]
                axes.plot(*at.T, marker, color=fill, ms=4, mew=0, alpha=0.8)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(True)
        axes.set_aspect("equal", adjustable="datalim")
        return _inline(figure, name, alt)


def spectrogram(wave: np.ndarray, sample_rate_hz: int, width_px: int, height_px: int) -> bytes:
    """Draw a sound as a JPEG: time to the right, 0 to TOP_HZ upwards on an even scale, louder is darker.

    Decibels below the loudest point of the clip; what lies 55 dB below it is paper.
    """
    wave = np.pad(wave, (FFT_SAMPLES // 2, max(FFT_SAMPLES, FFT_SAMPLES // 2 + width_px - len(wave))))
    starts = np.linspace(0, len(wave) - FFT_SAMPLES, width_px).astype(int)
    frames = np.lib.stride_tricks.sliding_window_view(wave, FFT_SAMPLES)[starts] * np.hanning(FFT_SAMPLES)
    power = np.abs(np.fft.rfft(frames)).T ** 2
    edges = np.linspace(0, TOP_HZ / sample_rate_hz * FFT_SAMPLES, height_px + 1).astype(int).clip(0, len(power) - 1)
    rows = np.stack([power[low : max(low + 1, high)].max(axis=0) for low, high in pairwise(edges)])
    level = 10 * np.log10(np.maximum(rows, 1e-12) / max(rows.max(), 1e-12))
    file = io.BytesIO()
    matplotlib.image.imsave(
        file, level[::-1], vmin=FLOOR_DB, vmax=0, cmap=SONAGRAM, format="jpeg", pil_kwargs={"quality": 82}
    )
    return file.getvalue()


def _inline(figure: Figure, name: str, alt: str) -> str:
    """Turn a figure into SVG that can stand in a page: no file header, own ids, colours as CSS variables."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r"font: [^;\"]*?([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    for colour, stand_in in STAND_IN.items():
        svg = svg.replace(stand_in, f"var(--{colour})")
    view = re.search(r'viewBox="([^"]+)"', svg)
    body = svg[svg.index(">") + 1 :]
    box = view[1] if view else "0 0 100 100"
    return f'<svg class="plot" viewBox="{box}" role="img" aria-label="{escape(alt)}">{body}'
