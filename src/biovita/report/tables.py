"""Results in rows and words: everything a section prints, computed from the inputs without drawing."""

import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from biovita.errors import BenchError
from biovita.files import read_json
from biovita.log import duration
from biovita.report.inputs import DIRECTIONS, LETTERS, LEVELS, RELATIONS, Inputs, count_parameters, read_pools
from biovita.taxonomy.traits import TRAIT_GROUPS

WORDS = {"audio": "sound", "image": "picture", "text": "name"}
DIRECTION_NAMES = {d: f"{WORDS[LETTERS[d[0]]]} → {WORDS[LETTERS[d[2]]]}" for d in DIRECTIONS}
SPLIT_NAMES = {"seen": "Seen species", "unseen": "Unseen species"}
SPLIT_MEANS = {
    "seen": "species met in training, with recordings and photos that were kept back",
    "unseen": "species never met in training",
}
RELATION_NAMES = {"genus": "same genus", "family": "same family", "order": "same order", "class": "same class"}
OTHER = "other class"
THIN = "\u202f"
NO_SUCH = "—"


def share_text(share: float | None, digits: int | None = None) -> str:
    """Write a share of 1 in percent: whole from 10 % on, one decimal below, unless digits are given."""
    if share is None:
        return NO_SUCH
    digits = (0 if share >= 0.0995 or share == 0 else 1) if digits is None else digits
    return f"{100 * share:.{digits}f}{THIN}%"


def times_text(share: float, chance: float) -> str:
    """Write how many times chance a share is."""
    times = share / chance
    return f"{times:.0f}" if times >= 9.95 else f"{times:.1f}"


def cosine_text(value: float | None) -> str:
    """Write a cosine with two decimals and a true minus sign."""
    return NO_SUCH if value is None else f"{value:.2f}".replace("-", "\u2212")


def count_text(n: float) -> str:
    """Write a count with thin spaces between thousands; a mean pool size keeps one decimal."""
    return f"{n:,.0f}".replace(",", THIN) if float(n).is_integer() else f"{n:,.1f}".replace(",", THIN)


def split_name(split: str) -> str:
    """Name a split for people."""
    return SPLIT_NAMES.get(split, f"Split {split}")


def tops(inputs: Inputs) -> list[str]:
    """Return the measures that the results have, as keys: top1, top5, ..."""
    found = {key for row in inputs.results["scenarios"] for key in row["chance"]}
    return sorted(found, key=lambda key: int(key.removeprefix("top")))


def beats_chance(row: dict[str, Any], top: str) -> bool:
    """Whether chance lies below the whole interval of a scenario."""
    return row[top] is not None and row["ci95"][top][0] > row["chance"][top]


def headline(inputs: Inputs) -> list[str]:
    """Say the result in words, one sentence a split."""
    top = tops(inputs)[0]
    right = "of first answers are right" if top == "top1" else f"of queries find theirs among the first {top[3:]}"
    level = next(level for level in LEVELS if any(row["level"] == level for row in inputs.results["scenarios"]))
    said = []
    for split in inputs.splits:
        rows = [row for d in DIRECTIONS if (row := inputs.scenario(split, level, d)) and row[top] is not None]
        if not rows:
            continue
        mean = float(np.mean([row[top] for row in rows]))
        chance = float(np.mean([row["chance"][top] for row in rows]))
        who = "Species never met in training" if split == "unseen" else split_name(split)
        words = f"{who}: {share_text(mean)} {right}"
        if level != "species":
            words += f" at {level} level"
        if any(beats_chance(row, top) for row in rows):
            words += f", {times_text(mean, chance)} times chance ({share_text(chance)})"
        else:
            words += f", no better than chance ({share_text(chance)})"
        best, worst = max(rows, key=lambda row: row[top]), min(rows, key=lambda row: row[top])
        if len(rows) > 1:
            low, high = (f"{share_text(row[top])} ({_unbroken(row['direction'])})" for row in (worst, best))
            words += f"; by direction from {low} to {high}"
        said.append(words + ".")
    return said


def _unbroken(direction: str) -> str:
    return DIRECTION_NAMES[direction].replace(" ", "\u00a0")


def beaten(inputs: Inputs) -> dict[str, int]:
    """Count the scenarios that beat chance, and all that were run."""
    top = tops(inputs)[0]
    run = [row for row in inputs.results["scenarios"] if row[top] is not None]
    return {"n": sum(beats_chance(row, top) for row in run), "of": len(run)}


def scenario_table(inputs: Inputs) -> list[dict[str, Any]]:
    """Lay the scenarios out: a row a split and level, a cell a direction, and their mean."""
    top, *more = tops(inputs)
    second = more[0] if more else None
    hottest = max((row[top] or 0.0 for row in inputs.results["scenarios"]), default=0.0)
    table = []
    for split in inputs.splits:
        for level in LEVELS:
            found = {d: inputs.scenario(split, level, d) for d in DIRECTIONS}
            if not any(found.values()):
                continue
            run = [row for row in found.values() if row and row[top] is not None]
            mean = None
            if run:
                share = float(np.mean([row[top] for row in run]))
                chance = float(np.mean([row["chance"][top] for row in run]))
                mean = {
                    "share": f"{100 * share:.1f}",
                    "second": f"{100 * np.mean([row[second] for row in run]):.1f}" if second else None,
                    "times": times_text(share, chance),
                    "chance": share_text(chance),
                    "heat": _heat(share, hottest),
                    "n": len(run),
                }
            table.append(
                {
                    "split": split,
                    "split_name": split_name(split),
                    "level": level,
                    "cells": [_cell(d, row, top, second, hottest) for d, row in found.items()],
                    "mean": mean,
                }
            )
    return table


def _heat(share: float, hottest: float) -> float:
    """Scale a share for the colour of its cell; the highest of the table is 1."""
    return round(share / hottest, 3) if hottest else 0.0


def _cell(direction: str, row: dict[str, Any] | None, top: str, second: str | None, hottest: float) -> dict[str, Any]:
    if row is None or row[top] is None:
        why = "not run" if row is None else f"all {count_text(row['n_skipped'])} queries left out"
        return {"direction": direction, "missing": why}
    low, high = row["ci95"][top]
    return {
        "direction": direction,
        "share": f"{100 * row[top]:.1f}",
        "low": f"{100 * low:.1f}",
        "high": f"{100 * high:.1f}",
        "second": f"{100 * row[second]:.1f}" if second else None,
        "times": times_text(row[top], row["chance"][top]),
        "chance": share_text(row["chance"][top], 1),
        "beats": beats_chance(row, top),
        "heat": _heat(row[top], hottest),
        "n_queries": count_text(row["n_queries"]),
        "n_candidates": count_text(row["n_candidates"]),
        "n_skipped": count_text(row["n_skipped"]) if row.get("n_skipped") else None,
    }


@dataclass(frozen=True, kw_only=True)
class Errors:
    """How near the wrong first answers of a scenario were: shares for genus, family, order, class, other."""

    direction: str
    n_wrong: int
    n_queries: int
    observed: list[float]
    expected: list[float] | None


def confusion(inputs: Inputs) -> dict[str, list[Errors]]:
    """Tell wrong first answers at species level by how near they were, beside wrong answers drawn at random.

    A random wrong answer is any candidate of that query's own pool but the right one, all equally likely; the pools
    are in the benchmark folder, so without it nothing is expected.
    """
    assert inputs.predictions is not None
    assert inputs.catalogue is not None
    lineages = inputs.catalogue.lineages
    found: dict[str, list[Errors]] = {}
    rows = inputs.predictions.filter((pl.col("level") == "species") & (pl.col("top_taxa").list.len() > 0))
    for split in inputs.splits:
        for direction in DIRECTIONS:
            asked = rows.filter((pl.col("split") == split) & (pl.col("direction") == direction))
            wrong = asked.filter(pl.col("rank") > 1)
            if len(wrong) == 0:
                continue
            truth = lineages.places(wrong["correct_taxon"])
            relation = lineages.relation(truth, lineages.places(wrong["top_taxa"].list.first()))
            expected = None
            if inputs.bench:
                pools = read_pools(inputs.bench, split, direction)
                pools = wrong.select("query_id", "correct_taxon").join(pools, on=("query_id", "correct_taxon"))
                if len(pools) != len(wrong):
                    raise BenchError(
                        f"{inputs.bench}: not the benchmark of the predictions; name the one that was scored"
                    )
                pairs = pools.explode("candidates_taxa").filter(pl.col("candidates_taxa") != pl.col("correct_taxon"))
                code = lineages.relation(
                    lineages.places(pairs["correct_taxon"]), lineages.places(pairs["candidates_taxa"])
                )
                _, query, size = np.unique(pairs["query_id"].to_numpy(), return_inverse=True, return_counts=True)
                expected = _shares(code, 1 / size[query])
            found.setdefault(split, []).append(
                Errors(
                    direction=direction,
                    n_wrong=len(wrong),
                    n_queries=len(asked),
                    observed=_shares(relation, np.ones(len(wrong))),
                    expected=expected,
                )
            )
    return found


def _shares(code: np.ndarray, weight: np.ndarray) -> list[float]:
    total = np.bincount(code, weights=weight, minlength=len(RELATIONS) + 1)
    return (total / max(total.sum(), 1e-12)).tolist()


def relatives(errors: dict[str, list[Errors]]) -> list[str]:
    """Say in words how often a wrong answer stays in the right family, a sentence a split."""
    said = []
    for split, rows in errors.items():
        n = np.array([row.n_wrong for row in rows])
        near = float(np.average([sum(row.observed[:2]) for row in rows], weights=n))
        words = f"{split_name(split)}: {share_text(near)} of the wrong first answers are in the right family"
        if all(row.expected for row in rows):
            chance = float(np.average([sum((row.expected or [])[:2]) for row in rows], weights=n))
            words += f"; wrong answers drawn at random would be there {share_text(chance)} of the time"
        said.append(words + ".")
    return said


GROUPS = {  # key of a scenario's row -> what its groups are, in the words of the page
    "by_class": "class",
    "by_rarity": "recordings of the species in training",
    "by_duration": "length of the recording that asks",
    "by_source": "source of the file that asks",
}


def group_tables(inputs: Inputs) -> list[dict[str, Any]]:
    """Lay out the share of right answers at species level: a kind of group, in it a block a split, a row a group.

    Classes stand by size, numbers by size, sources by name. Where all queries are of one group there is nothing to tell
    apart, and no block.
    """
    top = tops(inputs)[0]
    found = []
    for key, title in GROUPS.items():
        blocks = []
        for split in inputs.splits:
            rows = {d: row for d in DIRECTIONS if (row := inputs.scenario(split, "species", d)) and row.get(key)}
            hottest = max((part[top] for row in rows.values() for part in row[key].values()), default=0.0)
            sizes: dict[str, int] = {}
            for row in rows.values():
                for name, part in row[key].items():
                    sizes[name] = sizes.get(name, 0) + part["n_queries"]
            names = sorted(sizes, key=lambda name: (-sizes[name], name) if key == "by_class" else (_first(name), name))
            cells = {name: [_group_cell(rows.get(d), key, name, top, hottest) for d in DIRECTIONS] for name in names}
            if len(names) > (key != "by_class"):
                table = [{"name": name, "n": count_text(sizes[name]), "cells": cells[name]} for name in names]
                blocks.append({"split": split, "split_name": split_name(split), "rows": table})
        if blocks:
            found.append({"key": key, "title": title, "blocks": blocks})
    return found


def _first(name: str) -> float:
    """Return the number that a group's name begins with; groups without one come last."""
    number = re.match(r"\d+", name)
    return float(number[0]) if number else math.inf


def _group_cell(row: dict[str, Any] | None, key: str, name: str, top: str, hottest: float) -> dict[str, Any] | None:
    part = row[key].get(name) if row else None
    if not part or not part["n_queries"]:
        return None
    return {"share": f"{100 * part[top]:.0f}", "n": count_text(part["n_queries"]), "heat": _heat(part[top], hottest)}


def data_card(inputs: Inputs) -> dict[str, Any]:
    """Count what the dataset holds: splits, classes, licences, sources, refusals, traits."""
    assert inputs.dataset is not None
    media, taxa = inputs.dataset.media, inputs.dataset.taxa
    is_audio, is_image = pl.col("modality") == "audio", pl.col("modality") == "image"
    counts = (
        pl.col("species").n_unique().alias("species"),
        is_audio.sum().alias("recordings"),
        (pl.col("duration_s").filter(is_audio).sum() / 3600).alias("hours"),
        is_image.sum().alias("photos"),
    )
    order = {"train": 0, "val": 1, "test_seen": 2, "test_unseen": 3}
    splits = [*media.group_by("split").agg(*counts).iter_rows(named=True)]
    splits.sort(key=lambda row: order.get(row["split"], 9))
    splits.append({"split": "all", **media.select(counts).row(0, named=True)})
    withheld = taxa.group_by("class").agg(pl.col("withheld").sum())
    classes = media.group_by("class").agg(*counts).join(withheld, on="class", how="left")
    reasons = inputs.dataset.quarantine.group_by("reason").len().sort(["len", "reason"], descending=[True, False])

    def tally(column: str) -> list[dict[str, Any]]:
        rows = media.group_by(column).agg(is_audio.sum().alias("recordings"), is_image.sum().alias("photos"), pl.len())
        return rows.sort(["len", column], descending=[True, False]).rename({column: "name"}).to_dicts()

    return {
        "splits": [{**row, "hours": f"{row['hours']:,.1f}".replace(",", THIN)} for row in splits],
        "classes": classes.sort(["species", "class"], descending=[True, False]).to_dicts(),
        "licences": tally("licence"),
        "sources": tally("source"),
        "n_refused": len(inputs.dataset.quarantine),
        "reasons": reasons.to_dicts(),
        "traits": _traits(taxa),
        "n_species": len(taxa),
    }


def _traits(taxa: pl.DataFrame) -> list[dict[str, Any]]:
    n = max(len(taxa), 1)
    return [
        {
            "group": group.replace("_", " "),
            "labels": [
                {
                    "name": label.replace("_", " "),
                    "true": round(100 * taxa[label].sum() / n, 1),
                    "false": round(100 * (taxa[label].count() - taxa[label].sum()) / n, 1),
                }
                for label in labels
                if label in taxa.columns
            ],
        }
        for group, labels in TRAIT_GROUPS.items()
    ]


def runs(inputs: Inputs) -> list[dict[str, Any]]:
    """List the commands that made the inputs, in their order, from the run.json beside each."""
    vectors = next(iter(inputs.embeddings.values())).path.parent if inputs.embeddings else None
    folders = [("Dataset", inputs.dataset.folder if inputs.dataset else None)]
    folders += [("Model", folder) for folder in reversed(stages(inputs.model))]
    folders += [("Benchmark", inputs.bench), ("Vectors", vectors)]
    return [
        _run_row(what, read_json(folder / "run.json"))
        for what, folder in folders
        if folder and (folder / "run.json").is_file()
    ]


def stages(model: Path | None) -> list[Path]:
    """Follow a model back to the folders that its training started from, as far as they are still there."""
    found: list[Path] = []
    while model and model not in found and (model / "run.json").is_file():
        run = read_json(model / "run.json")
        if not isinstance(run, dict):
            break  # somebody else's
        found.append(model)
        start = run.get("config", {}).get("from_")
        model = Path(start) if start else None
    return found


def _run_row(what: str, run: dict[str, Any]) -> dict[str, Any]:
    machine, config = run.get("machine", {}), run.get("config", {})
    stage = config.get("recipe", {}).get("stage")
    return {
        "what": f"{what}, {stage}" if stage else what,
        "command": "biovita " + shlex.join(str(word) for word in run.get("argv", [])),
        "version": run.get("version"),
        "commit": (run.get("commit") or "")[:12] or NO_SUCH,
        "machine": f"{machine.get('system', '?')} {machine.get('processor', '')}, {machine.get('n_cpus', '?')} CPUs",
        "python": run.get("python"),
        "seconds": duration(run["seconds"]) if "seconds" in run else NO_SUCH,
        "settings": _flat(config),
    }


def _flat(config: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows.append((f"{prefix}{key}".rstrip("_"), text))
    return rows


def model_facts(inputs: Inputs) -> dict[str, Any] | None:
    """Describe the model's size by part; None where no model was given."""
    if inputs.model is None:
        return None
    weights = inputs.model / "model.safetensors"
    parts = count_parameters(weights)
    return {
        "name": inputs.model.name,
        "parts": [(name, count_text(n)) for name, n in sorted(parts.items(), key=lambda part: -part[1])],
        "n_parameters": count_text(sum(parts.values())),
        "megabytes": f"{weights.stat().st_size / 1e6:,.1f}",
    }
