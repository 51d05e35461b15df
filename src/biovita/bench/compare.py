"""Set results of one benchmark side by side: who leads, by how much, and could it be luck?

1. Results join only if they are of one benchmark and one tie rule; the paper's numbers stand beside them as reference
   rows and are never tested, because their pools are not these.
2. Two models are compared query by query. Queries of one taxon stand or fall together, so the taxon is the unit: if the
   models were alike, each taxon's gain could as well have the other sign. The signs are drawn anew N_FLIPS times.
3. All tests of one table (level and split) are corrected together by Holm's rule.

Nothing in the comparison depends on the clock or the machine.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from biovita.bench.tasks import DIRECTIONS, LEVELS
from biovita.errors import BenchError
from biovita.files import read_json
from biovita.log import warn
from biovita.tables import read_table, require_columns

SCHEMA = 1
PAPER = Path(__file__).with_name("paper.toml")
PURPOSE_FLIPS = 74
N_FLIPS = 9999
BLOCK_CELLS = 4_000_000  # flips x taxa held at once
MEAN: Final = "mean"
COLUMNS: Final = (*DIRECTIONS, MEAN)
KEYS: Final = ("split", "level", "direction")
NEEDED: Final = (*KEYS, "n_queries", "n_skipped", "chance", "ci95", "by_class")

Place = tuple[str, str]  # split and level: one table
Cell = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One results file.

    Attributes:
        name: how the tables call it.
        path: the file.
        run: what it says of its inputs and rules.
        rows: its scenarios by split, level and direction.
        answers: for each scenario `query_id`, `correct_taxon` and `rank`; None where no predictions lie beside it.
    """

    name: str
    path: Path
    run: dict[str, Any]
    rows: dict[tuple[str, str, str], dict[str, Any]]
    answers: dict[tuple[str, str, str], pl.DataFrame] | None


def compare_results(paths: Sequence[Path], *, paper: bool) -> dict[str, Any]:
    """Compare any number of results files of `biovita bench score`.

    Args:
        paths: the files; the first is the one that changes are told from.
        paper: add the published numbers as reference rows.

    Returns:
        `models`, `tables` (one for each split and level), `classes`, `changes` (each model against its base: the first
        results of the same weights, or else the first of all) and, with `paper`, `reference` and `ablation`.

    Raises:
        BenchError: a file is no results file, two are of different benchmarks or tie rules, or predictions are not
            those of their results.
    """
    entries = [read_entry(path, name) for path, name in zip(paths, names_of(paths), strict=True)]
    check_one_bench(entries)
    tops = [f"top{k}" for k in entries[0].run["k"] if all(k in entry.run["k"] for entry in entries)]
    if not tops:
        raise BenchError(f"{paths[0]}: shares no k with {paths[-1]}; score both with one --k")
    untested = [str(entry.path) for entry in entries if entry.answers is None]
    if untested:
        warn(f"{', '.join(untested)}: no predictions beside it, so nothing of it is tested; score again")
    published = tomllib.loads(PAPER.read_text(encoding="utf-8")) if paper else {}
    places = [
        (split, level)
        for split in dict.fromkeys(key[0] for entry in entries for key in entry.rows)
        for level in LEVELS
        if any((split, level, direction) in entry.rows for entry in entries for direction in DIRECTIONS)
    ]
    return {
        "schema": SCHEMA,
        "kind": "comparison",
        "bench": entries[0].run["bench"],
        "bench_sha256": entries[0].run["bench_sha256"],
        "made_up": bool(entries[0].run.get("made_up")),
        "ties": entries[0].run["ties"],
        "tops": tops,
        "models": [describe(entry) for entry in entries],
        "tables": [table_of(entries, place, tops, published) for place in places],
        "classes": classes_of(entries, tops[0], published),
        "changes": [
            {"name": entry.name, **facts, "tables": changes_of(entry, facts["base"], places, tops[0], entries)}
            for entry, facts in bases(entries)
        ],
        "reference": {key: published[key] for key in ("source", "plotted") if key in published},
        "ablation": reference_rows(published.get("ablation", {}), published.get("doubtful")),
    }


def names_of(paths: Sequence[Path]) -> list[str]:
    """Name results by their files, or by folder and file where files of two folders are called the same."""
    stems = [Path(path).stem for path in paths]
    names = (
        stems
        if len(set(stems)) == len(stems)
        else [f"{Path(path).resolve().parent.name}/{Path(path).stem}" for path in paths]
    )
    for name, path in zip(names, paths, strict=True):
        if names.count(name) > 1:
            raise BenchError(f"{path}: two results are called {name!r}; give each file a name of its own")
    return names


def read_entry(path: Path, name: str) -> Entry:
    """Read one results file and the predictions beside it, and prove that they belong together."""
    path = Path(path)
    if not path.is_file():
        raise BenchError(f"{path}: no such results file; make it with `biovita bench score`")
    content = read_json(path)
    rows = content.get("scenarios") if isinstance(content, dict) else None
    if (
        not isinstance(rows, list)
        or not rows
        or content.get("schema") != SCHEMA
        or "bench_sha256" not in content["run"]
    ):
        raise BenchError(f"{path}: not a results file of `biovita bench score` (schema 1 with scenarios)")
    for n, row in enumerate(rows):
        lacks = [key for key in NEEDED if key not in row]
        if lacks:
            raise BenchError(f"{path}: scenario {n} lacks {', '.join(lacks)}; score the benchmark again")
    found = {(row["split"], row["level"], row["direction"]): row for row in rows}
    predictions = path.with_suffix(".predictions.parquet")
    answers = read_answers(predictions, path, found) if predictions.is_file() else None
    return Entry(name=name, path=path, run=content["run"], rows=found, answers=answers)


def read_answers(
    path: Path, results: Path, rows: Mapping[tuple[str, str, str], dict[str, Any]]
) -> dict[tuple[str, str, str], pl.DataFrame]:
    """Read the rank of every answer by scenario; the shares of hits must be those of the results."""
    table = read_table(path)
    columns = ("query_id", "correct_taxon", "rank")
    require_columns(table, (*KEYS, *columns), path)
    parts = table.select(*KEYS, *columns).partition_by(*KEYS, as_dict=True, include_key=False)
    answers = {(str(key[0]), str(key[1]), str(key[2])): part for key, part in parts.items()}
    for key, row in rows.items():
        part = answers.setdefault(key, table.clear().select(columns))
        shares = {top: (part["rank"] <= int(top[3:])).mean() for top in row["chance"]} if len(part) else {}
        if len(part) != row["n_queries"] or any(abs(float(shares[top]) - row[top]) > 1e-9 for top in shares):  # pyright: ignore[reportArgumentType]
            raise BenchError(f"{path}: not the predictions of {results} ({'/'.join(key)} differs); score again")
    return answers


def check_one_bench(entries: Sequence[Entry]) -> None:
    """Refuse results that answer different questions.

    Raises:
        BenchError: two are of different benchmarks, or count ties differently.
    """
    first = entries[0]
    for other in entries[1:]:
        for key, what in (("bench_sha256", "another benchmark"), ("ties", "another tie rule")):
            if first.run[key] != other.run[key]:
                raise BenchError(
                    f"{other.path}: scored with {what} than {first.path} ({key} {str(other.run[key])[:12]}, not "
                    f"{str(first.run[key])[:12]}); compare results of one benchmark and rule, so score it again"
                )


def describe(entry: Entry) -> dict[str, Any]:
    """Say what a row of the tables stands on."""
    facts = {key: entry.run.get(key) for key in ("model", "weights_sha256", "embeddings_sha256", "missing", "names")}
    return {"name": entry.name, "path": str(entry.path), "is_tested": entry.answers is not None, **facts}


def table_of(entries: Sequence[Entry], place: Place, tops: list[str], published: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one split and level out: a row a model, a cell a direction, and the mean of all directions.

    A model that lacks a direction that another has gets no mean. `p` tests a cell against the first that is best
    in its column (`is_best`), `p_holm` is the same after the correction for all tests of this table.
    """
    split, level = place
    asked = [d for d in DIRECTIONS if any(_shares(entry, place, d, tops) for entry in entries)]
    rows: list[dict[str, Any]] = [{"name": entry.name, "cells": {}} for entry in entries]
    for entry, row in zip(entries, rows, strict=True):
        for direction in asked:
            if shares := _shares(entry, place, direction, tops):
                row["cells"][direction] = shares
        if asked and len(row["cells"]) == len(asked):
            row["cells"][MEAN] = {top: float(np.mean([row["cells"][d][top] for d in asked])) for top in tops}
    for column in (*asked, MEAN):
        having = [n for n, row in enumerate(rows) if column in row["cells"]]
        if not having:
            continue
        best = max(having, key=lambda n: (rows[n]["cells"][column][tops[0]], -n))
        for n in having:
            cell = rows[n]["cells"][column]
            cell["is_best"] = cell[tops[0]] == rows[best]["cells"][column][tops[0]]
            if n != best:
                directions = asked if column == MEAN else [column]
                cell |= gain(entries[n], entries[best], place, directions, tops[0])
    correct([row["cells"].values() for row in rows])
    chances = {d: _chance(entries, (split, level, d), tops) for d in asked}
    return {
        "split": split,
        "level": level,
        "directions": asked,
        "chance": {**chances, MEAN: {top: float(np.mean([c[top] for c in chances.values()])) for top in tops}}
        if asked
        else {},
        "rows": rows,
        "reference": reference_rows(published.get(split, {}) if level == "species" else {}, published.get("source")),
    }


def _shares(entry: Entry, place: Place, direction: str, tops: list[str]) -> Cell | None:
    row = entry.rows.get((*place, direction))
    if row is None or not row["n_queries"]:
        return None
    return {
        **{top: row[top] for top in tops},
        "ci95": row["ci95"][tops[0]],
        "n_queries": row["n_queries"],
        "n_skipped": row["n_skipped"],
    }


def _chance(entries: Sequence[Entry], key: tuple[str, str, str], tops: list[str]) -> dict[str, float]:
    row = next(row for entry in entries if (row := entry.rows.get(key)) and row["n_queries"])
    return {top: row["chance"][top] for top in tops}


def reference_rows(rows: Mapping[str, Mapping[str, Sequence[float]]], source: str | None) -> list[dict[str, Any]]:
    """Turn published rows, in percent, into rows of a table with their source."""
    return [
        {
            "name": name,
            "source": source,
            "cells": {
                direction: {top: round(share / 100, 4) for top, share in zip(("top1", "top5"), shares, strict=False)}
                for direction, shares in row.items()
            },
        }
        for name, row in rows.items()
    ]


def gain(entry: Entry, base: Entry, place: Place, directions: Sequence[str], top: str) -> Cell:
    """Compare two models on the queries that both answered.

    Args:
        entry: the model.
        base: what it is compared with.
        place: split and level.
        directions: those to average; each weighs the same.
        top: the measure, such as top1.

    Returns:
        `difference` (share of 1; positive where the model is better) and `p`; nothing where predictions lack.
    """
    if entry.answers is None or base.answers is None:
        return {}
    k = int(top.removeprefix("top"))
    parts = []
    for direction in directions:
        mine, theirs = (some.answers[(*place, direction)] for some in (entry, base))  # pyright: ignore[reportOptionalSubscript]
        both = mine.join(theirs.select("query_id", base_rank="rank"), on="query_id", how="inner")
        if len(both) == 0:
            return {}
        step = (both["rank"] <= k).cast(pl.Float64) - (both["base_rank"] <= k).cast(pl.Float64)
        parts.append(both.select(taxon="correct_taxon", gain=step / (len(both) * len(directions))))
    totals = pl.concat(parts).group_by("taxon").agg(pl.col("gain").sum()).sort("taxon")["gain"].to_numpy()
    return {"difference": float(totals.sum()), "p": sign_flip_test(totals)}


def sign_flip_test(gain: np.ndarray) -> float:
    """Return how likely a total gain at least as far from 0 is, if each taxon's gain had either sign by chance.

    Args:
        gain: of one model over the other, one number a taxon.

    Source:
        Fisher's randomisation test; that it serves comparisons of rankings: Smucker, Allan and Carterette (2007).
    """
    gain = gain[gain != 0]
    if len(gain) == 0:
        return 1.0
    rng = np.random.default_rng([0, PURPOSE_FLIPS])
    least = abs(gain.sum()) - 1e-9 * np.abs(gain).sum()  # sums of the same numbers in another order count as equal
    n_as_far, left = 0, N_FLIPS
    while left:
        block = min(left, max(1, BLOCK_CELLS // len(gain)))
        is_up = rng.integers(0, 2, size=(block, len(gain)), dtype=np.int8)
        n_as_far += int((np.abs(2 * (is_up @ gain) - gain.sum()) >= least).sum())
        left -= block
    return (1 + n_as_far) / (1 + N_FLIPS)


def holm(p: Sequence[float]) -> list[float]:
    """Correct the p values of one family of tests.

    Source:
        Holm, A simple sequentially rejective multiple test procedure (1979).
    """
    found, highest = [0.0] * len(p), 0.0
    for done, n in enumerate(sorted(range(len(p)), key=lambda n: p[n])):
        highest = max(highest, min(1.0, (len(p) - done) * p[n]))
        found[n] = highest
    return found


def correct(rows: Sequence[Any]) -> None:
    """Add `p_holm` to every tested cell of a table, all tests of it together."""
    tested = [cell for cells in rows for cell in cells if "p" in cell]
    for cell, p in zip(tested, holm([cell["p"] for cell in tested]), strict=True):
        cell["p_holm"] = p


def bases(entries: Sequence[Entry]) -> list[tuple[Entry, dict[str, Any]]]:
    """Choose for each results file but the first what it is told from, and what changed between them.

    Returns:
        each with `base` (a name) and `what`: `names` where the same weights answered other texts, else `model`.
    """
    found = []
    for n, entry in enumerate(entries[1:], 1):
        twins = [other for other in entries[:n] if _weights(other) == _weights(entry)]
        twin = next((other for other in twins if _texts(other) != _texts(entry)), None)
        base = twin or entries[0]
        found.append((entry, {"base": base.name, "what": "names" if twin else "model"}))
    return found


def _weights(entry: Entry) -> Any:
    return entry.run.get("weights_sha256") or entry.run.get("model")  # other people's models have no hash


def _texts(entry: Entry) -> tuple[Any, Any]:
    return entry.run.get("names"), entry.run.get("embeddings_sha256", {}).get("text.parquet")


def changes_of(
    entry: Entry, base: str, places: Sequence[Place], top: str, entries: Sequence[Entry]
) -> list[dict[str, Any]]:
    """Test a model against its base in every direction that both have, and in their mean."""
    other = next(some for some in entries if some.name == base)
    found = []
    for place in places:
        shared = [d for d in DIRECTIONS if _shares(entry, place, d, [top]) and _shares(other, place, d, [top])]
        cells = {d: gain(entry, other, place, [d], top) for d in shared}
        if shared:
            cells[MEAN] = gain(entry, other, place, shared, top)
        cells = {column: cell for column, cell in cells.items() if cell}
        correct([cells.values()])
        if cells:
            found.append({"split": place[0], "level": place[1], "cells": cells})
    return found


def classes_of(entries: Sequence[Entry], top: str, published: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lay species-level shares out by class: a block a split and class, the largest first, a row a model."""
    found = []
    for split in dict.fromkeys(key[0] for entry in entries for key in entry.rows):
        sizes: dict[str, int] = {}
        rows: dict[str, dict[str, dict[str, float]]] = {}
        for entry in entries:
            for direction in DIRECTIONS:
                parts = entry.rows.get((split, "species", direction), {}).get("by_class", {})
                for name, part in parts.items():
                    rows.setdefault(name, {}).setdefault(entry.name, {})[direction] = part[top]
                    sizes[name] = max(sizes.get(name, 0), part["n_queries"])
        known = published.get("class", {}) if split == "seen" and top == "top1" else {}
        found += [
            {
                "split": split,
                "class": name,
                "most_queries": sizes[name],
                "rows": [{"name": model, "shares": shares} for model, shares in rows[name].items()],
                "reference": {d: share / 100 for d, share in known.get(name, {}).items()},
            }
            for name in sorted(sizes, key=lambda name: (-sizes[name], name))
        ]
    return found
