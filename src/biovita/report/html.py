"""One self-contained HTML page: no request leaves it, and it reads without JavaScript. The door to Jinja2."""

import base64
import hashlib
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from biovita.files import write_text
from biovita.log import say
from biovita.report import plots, space, tables
from biovita.report.gallery import make_gallery
from biovita.report.inputs import DIRECTIONS, LEVELS, RELATIONS, Inputs, read_inputs

TEMPLATES = Path(__file__).parent / "templates"
SEED = 7  # of the gallery and of the map
N_BINS = 120  # points of a training curve
TIE_RULES = {"against": "count against the model", "order": "keep the order of the candidates"}
MISSING_RULES = {"error": "none", "skip": "queries left out and counted", "zero": "count as zeros"}
PAIRS = {"at": "sound and name", "ai": "sound and picture", "it": "picture and name"}
DIRECTION_STYLE = {d: (colour, i % 2 == 1) for i, (d, colour) in enumerate(zip(DIRECTIONS, "001122", strict=True))}


def write_report(
    out_html: Path,
    *,
    results: Path,
    model_folder: Path | None = None,
    dataset_folder: Path | None = None,
    bench_folder: Path | None = None,
    embeddings_folder: Path | None = None,
    title: str | None = None,
    seed: int = SEED,
) -> int:
    """Write the report; sections whose input is not given say which one it was.

    Args:
        out_html: the page to write.
        results: results.json of `biovita bench score`; the predictions beside it are used where they exist.
        model_folder: adds training curves and the model's facts.
        dataset_folder: adds pictures and sounds to the gallery, orders, and the data card.
        bench_folder: adds what random wrong answers would be.
        embeddings_folder: adds the map of the joint space.
        title: heading of the page.
        seed: of the gallery's draw and of the map.

    Returns:
        The size of the page in bytes.

    Raises:
        BiovitaError: an input is missing, broken, or of another run.
    """
    inputs = read_inputs(
        results, model=model_folder, dataset=dataset_folder, bench=bench_folder, embeddings=embeddings_folder
    )
    page = render(inputs, title=title or "BioVITA report", seed=seed)
    write_text(out_html, page)
    return len(page.encode())


def render(inputs: Inputs, *, title: str, seed: int) -> str:
    """Compose the page."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["n"] = tables.count_text
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "report.js"))
    say("report: reading results")
    content: dict[str, Any] = {
        "title": title,
        "facts": facts(inputs),
        "made_up": inputs.made_up,
        "headline": tables.headline(inputs),
        "beaten": tables.beaten(inputs),
        "tops": tables.tops(inputs),
        "table": tables.scenario_table(inputs),
        "dots": dot_plots(inputs),
        "splits": [(s, tables.split_name(s), tables.SPLIT_MEANS.get(s, "")) for s in inputs.splits],
        "curves": curves(inputs.log) if inputs.log else None,
        "class_table": tables.class_table(inputs),
        "runs": tables.runs(inputs),
        "model": tables.model_facts(inputs),
        "card": tables.data_card(inputs) if inputs.dataset else None,
        "directions": [(d, tables.DIRECTION_NAMES[d]) for d in DIRECTIONS],
        "direction_style": DIRECTION_STYLE,
        "relations": [*((r, tables.RELATION_NAMES[r]) for r in RELATIONS), ("other", tables.OTHER)],
        "seed": seed,
    }
    knows = inputs.predictions is not None and inputs.catalogue is not None
    errors = tables.confusion(inputs) if knows else {}
    content["errors"] = [(split, tables.split_name(split), rows) for split, rows in errors.items()]
    content["relatives"] = tables.relatives(errors)
    say("report: drawing the map and the gallery")
    content["map"] = joint_map(inputs, seed=seed) if inputs.embeddings and inputs.catalogue else None
    content["gallery"] = make_gallery(inputs, seed=seed) if knows else None
    content["missing"] = missing(inputs)
    return environment.get_template("report.html").render(
        **content,
        style=Markup(style),  # noqa: S704 - our own files
        script=Markup(script),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def missing(inputs: Inputs) -> dict[str, str]:
    """Say for each section that may be left out which input it wants."""
    predictions = inputs.path.with_suffix(".predictions.parquet").name
    answers = f"{predictions} does not stand beside the results file" if inputs.predictions is None else ""
    names = "" if inputs.catalogue else "no dataset or benchmark folder was given (--dataset, --bench)"
    both = "; ".join(part for part in (answers, names) if part)
    vectors = "" if inputs.embeddings else "no embeddings folder was given (--embeddings)"
    log = f"{inputs.model} holds no train_log.jsonl" if inputs.model else "no model folder was given (--model)"
    return {
        "curves": log,
        "errors": both or "no answer at species level is wrong",
        "map": "; ".join(part for part in (vectors, names) if part) or "too few vectors of known species",
        "gallery": both,
        "card": "no dataset folder was given (--dataset)",
        "classes": "the results hold no classes at species level",
    }


def facts(inputs: Inputs) -> list[tuple[str, str]]:
    """List which model, benchmark, rules and versions the numbers stand on."""
    run = inputs.results.get("run", {})
    made = datetime.fromtimestamp(inputs.path.stat().st_mtime, UTC)
    rows = [
        ("Scored", f"{made:%Y-%m-%d %H:%M} UTC"),
        ("Model", str(run.get("model", "not named"))),
        ("Weights", str(run.get("weights_sha256", ""))[:12]),
        ("Benchmark", Path(str(run.get("bench", "not named"))).name + " " + str(run.get("bench_sha256", ""))[:12]),
        ("Benchmark seed", str(inputs.bench_manifest.get("seed", ""))),
        ("Ties", TIE_RULES.get(run.get("ties", ""), "")),
        ("Missing vectors", MISSING_RULES.get(run.get("missing", ""), "")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())),
    ]
    return [(name, value) for name, value in rows if value.strip()]


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


def curves(log: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draw the training log: losses, temperature, rate, ramp, and top-1 on the validation split."""
    steps, stages = _steps_in_a_row(log)
    train = [(x, row) for x, row in zip(steps, log, strict=True) if "val" not in row]
    looks = [(x, row["val"]) for x, row in zip(steps, log, strict=True) if "val" in row]
    begins = [begin for _, begin in stages]
    panels = []

    def add(title: str, key: str, colour: str, bottom: float | None = None) -> None:
        points = [(x, row[key]) for x, row in train if row.get(key) is not None]
        if points:
            name = f"curve-{key.replace('_', '-')}"
            alt = f"{title} over training steps: {points[0][1]:.3g} at first, {points[-1][1]:.3g} at the end"
            lines = [_binned(part, colour) for part in _by_stage(points, stages)]
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


def _steps_in_a_row(log: Sequence[dict[str, Any]]) -> tuple[list[float], list[tuple[str, float]]]:
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


def _by_stage(points: list[tuple[float, float]], stages: list[tuple[str, float]]) -> list[list[tuple[float, float]]]:
    ends = [*(begin for _, begin in stages[1:]), math.inf]
    parts = [[p for p in points if begin < p[0] <= end] for (_, begin), end in zip(stages, ends, strict=True)]
    return [part for part in parts if part]


def _binned(points: list[tuple[float, float]], colour: str) -> plots.Line:
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
