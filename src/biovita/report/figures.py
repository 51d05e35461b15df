"""The figures of the page with their words: dot plots, training curves, and the map of the joint space."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from biovita.report import plots, space, tables
from biovita.report.inputs import DIRECTIONS, LEVELS, Inputs

N_BINS = 120  # points of a training curve
PAIRS = {"at": "sound and name", "ai": "sound and picture", "it": "picture and name"}
DIRECTION_STYLE = {d: (colour, i % 2 == 1) for i, (d, colour) in enumerate(zip(DIRECTIONS, "001122", strict=True))}


def dot_plots(inputs: Inputs) -> list[dict[str, Any]]:
    """Draw one dot plot a level."""
    top = tables.tops(inputs)[0]
    ends = [row["ci95"][top][1] for row in inputs.results["scenarios"] if row[top] is not None]
    right = min(1.0, math.ceil(10 * max(ends, default=1.0) + 0.2) / 10)
    drawn = []
    for level in LEVELS:
        groups = [[_interval(inputs.scenario(split, level, d), top) for d in DIRECTIONS] for split in inputs.splits]
        if any(any(group) for group in groups):
            labels = [tables.DIRECTION_NAMES[d] for d in DIRECTIONS]
            alt = f"{top} at {level} level by direction, with intervals and chance; the table above has the numbers"
            drawn.append({"level": level, "svg": Markup(plots.dots(labels, groups, name=level, alt=alt, top=right))})  # noqa: S704
    return drawn


def _interval(row: dict[str, Any] | None, top: str) -> plots.Interval | None:
    if row is None or row[top] is None:
        return None
    low, high = row["ci95"][top]
    return plots.Interval(share=row[top], low=low, high=high, chance=row["chance"][top])


def reliability(inputs: Inputs) -> list[dict[str, Any]]:
    """Draw for each split how well scores become probabilities at species level, and list the numbers."""
    drawn = []
    for split in inputs.splits:
        found = {
            d: row["calibration"]
            for d in DIRECTIONS
            if (row := inputs.scenario(split, "species", d)) and row.get("calibration")
        }
        if not found:
            continue
        lines = []
        for direction, fit in found.items():
            colour, dashed = DIRECTION_STYLE[direction]
            x, y = np.array([(part["mean_prob"], part["top1"]) for part in fit["bins"]], float).T
            lines.append(plots.Line(x=x, y=y, colour=f"c{colour}", dashed=dashed))
        name = tables.split_name(split)
        alt = f"{name}: share of right first answers over their probability, by direction; the table has the errors"
        drawn.append(
            {
                "split": name,
                "svg": Markup(plots.reliability(lines, name=f"reliability-{split}", alt=alt)),  # noqa: S704
                "rows": [
                    {
                        "name": tables.DIRECTION_NAMES[d],
                        "direction": d,
                        "cells": [
                            f"{fit['scale']:.3g}",
                            *(f"{100 * fit[key]:.1f}" for key in ("mean_prob", "top1", "ece")),
                        ],
                    }
                    for d, fit in found.items()
                ],
            }
        )
    return drawn


def curves(log: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draw the training log: losses, temperature, rate, ramp, and top-1 on the validation split."""
    steps, stages = steps_in_a_row(log)
    train = [(x, row) for x, row in zip(steps, log, strict=True) if "val" not in row]
    looks = [(x, row["val"]) for x, row in zip(steps, log, strict=True) if "val" in row]
    begins = [begin for _, begin in stages]
    panels = []

    def add(title: str, key: str, colour: str, bottom: float | None = None) -> None:
        points = [(x, row[key]) for x, row in train if row.get(key) is not None]
        if points:
            name = f"curve-{key.replace('_', '-')}"
            alt = f"{title} over training steps: {points[0][1]:.3g} at first, {points[-1][1]:.3g} at the end"
            lines = [binned(part, colour) for part in by_stage(points, stages)]
            svg = plots.panel(lines, begins, n_steps=steps[-1], name=name, alt=alt, bottom=bottom)
            panels.append({"title": title, "svg": Markup(svg)})  # noqa: S704

    used = {key for _, row in train for key in row if key.startswith("loss_")}
    for key in sorted(used, key=lambda key: [*PAIRS, key[5:]].index(key[5:])):
        pair = key.removeprefix("loss_")
        add(f"Loss, {PAIRS.get(pair, pair)}", key, {"at": "c0", "ai": "c1", "it": "c2"}.get(pair, "c3"), 0.0)
    add("Logit scale (1 / temperature)", "logit_scale", "ink")
    add("Learning rate", "lr", "ink", 0.0)
    add("λ, weight of the picture losses", "lambda", "ink", 0.0)
    lines = []
    for direction, (colour, dashed) in DIRECTION_STYLE.items():
        points = [(x, val[direction]) for x, val in looks if val.get(direction) is not None]
        if points:
            x, y = np.array(points, float).T
            lines.append(plots.Line(x=x, y=y, colour=f"c{colour}", dashed=dashed))
    alt = "Share of right first answers on the validation split by direction over training steps"
    val = plots.panel(lines, begins, n_steps=steps[-1], name="curve-val", alt=alt, percent=True, bottom=0.0)
    last = looks[-1][1] if looks else {}
    return {
        "panels": panels,
        "val": Markup(val) if lines else None,  # noqa: S704
        "last": [(d, tables.share_text(last[d], 1)) for d in DIRECTIONS if d in last],
        "stages": [stage for stage, _ in stages],
        "n_steps": len(train),
    }


def steps_in_a_row(log: Sequence[dict[str, Any]]) -> tuple[list[float], list[tuple[str, float]]]:
    """Count steps on across stages; return the step of each line, and name and start of each stage."""
    steps: list[float] = []
    stages: list[tuple[str, float]] = []
    offset, last, current = 0.0, 0.0, None
    for row in log:
        if row.get("stage") != current or row["step"] < last:
            offset, current = offset + last, row.get("stage")
            stages.append((str(current), offset))
        last = row["step"]
        steps.append(offset + last)
    return steps, stages


def by_stage(points: list[tuple[float, float]], stages: list[tuple[str, float]]) -> list[list[tuple[float, float]]]:
    ends = [*(begin for _, begin in stages[1:]), math.inf]
    parts = [[p for p in points if begin < p[0] <= end] for (_, begin), end in zip(stages, ends, strict=True)]
    return [part for part in parts if part]


def binned(points: list[tuple[float, float]], colour: str) -> plots.Line:
    """Gather steps into at most N_BINS means, with the range between the 10th and the 90th percentile."""
    bins = np.array_split(np.array(points, float), min(N_BINS, max(1, len(points) // 5)))
    y = [part[:, 1] for part in bins]
    return plots.Line(
        x=np.array([part[:, 0].mean() for part in bins]),
        y=np.array([part.mean() for part in y]),
        low=np.array([np.quantile(part, 0.1) for part in y]),
        high=np.array([np.quantile(part, 0.9) for part in y]),
        colour=colour,
    )


def joint_map(inputs: Inputs, *, seed: int) -> dict[str, Any] | None:
    """Draw the map twice, by class and by order, and tell the cosines behind it; None where there is too little."""
    assert inputs.embeddings
    assert inputs.catalogue
    sample = space.draw(inputs.embeddings, inputs.catalogue, seed=seed)
    if len(sample) < 12:
        return None
    place = space.project(sample.vector, seed=seed)
    drawn = []
    for rank in ("class", "order"):
        groups = [inputs.catalogue.species[name][rank] or "not known" for name in sample.species]
        if len(set(groups)) < 2:
            continue
        hue, legend = space.hues(groups, plots.N_HUES)
        alt = f"Map of {len(sample)} vectors, one point each, coloured by {rank}; shapes tell sound, picture and name"
        svg = plots.scatter(place, sample.modality, hue, name=f"map-{rank}", alt=alt)
        drawn.append({"rank": rank, "svg": Markup(svg), "legend": legend})  # noqa: S704
    rows = space.cosines(sample, inputs.catalogue.unseen)
    return {
        "n": len(sample),
        "perplexity": f"{space.perplexity(len(sample)):.0f}",
        "n_of": [(tables.WORDS[m] + "s", sample.modality.count(m)) for m in ("audio", "image", "text")],
        "n_species": len(set(sample.species)),
        "maps": drawn,
        "cosines": [_cosine_row(row) for row in rows],
        "gap": _gap(rows),
    }


def _cosine_row(row: dict[str, Any]) -> dict[str, Any]:
    one, other = (tables.WORDS[m] for m in row["pair"])
    cells = []
    for split in ("seen", "unseen"):
        match, random = row[split]["match"], row[split]["random"]
        difference = None if match is None or random is None else match - random
        cells.append([tables.cosine_text(value) for value in (match, random, difference)])
    return {"name": f"{one} and {other}", "cells": cells}


def _gap(rows: Sequence[dict[str, Any]]) -> str:
    """Say whether the modalities keep apart: are strangers of one modality nearer than one species in two?"""
    by_pair = {row["pair"]: row["seen"] if row["seen"]["match"] is not None else row["unseen"] for row in rows}
    match = by_pair["audio", "image"]["match"]
    strangers = [by_pair[m, m]["random"] for m in ("audio", "image") if by_pair[m, m]["random"] is not None]
    if match is None or not strangers:
        return ""
    within = float(np.mean(strangers))
    if within > match:
        return (
            f"The modalities keep apart: two sounds, or two pictures, of different species have a mean cosine of"
            f" {within:.2f}, a sound and a picture of the same species only {match:.2f}. This modality gap is common in"
            " such models; it does not harm the ranking, because all candidates of a query are of one modality."
        )
    return (
        f"The modalities mix: a sound and a picture of the same species have a mean cosine of {match:.2f}, two"
        f" sounds, or two pictures, of different species {within:.2f}."
    )
