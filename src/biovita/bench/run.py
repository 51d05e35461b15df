"""Score a model's stored vectors on a benchmark folder: results for people, results for programs, every prediction.

1. Open the benchmark and the three embedding files, and refuse what does not fit together.
2. Rank each scenario's candidates; top-k, chance, an interval over taxa, groups of queries, how near the errors were,
   and how well scores become probabilities.
3. Write `results.json`, and beside it `<name>.predictions.parquet`, from which any other measure can be computed.

Nothing in the results depends on the clock or the machine: two runs are equal to the digit.
"""

import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from biovita.bench.calibration import calibration
from biovita.bench.confusion import error_consistency, lineages
from biovita.bench.metrics import CONFIDENCE, N_RESAMPLES, chance, interval
from biovita.bench.official import Bench, open_bench, read_indices, read_task
from biovita.bench.retrieval import Ranking, Vectors, named, rank_task, vectors_of
from biovita.bench.slices import slices_of
from biovita.bench.tasks import DIRECTIONS, LEVELS, MODALITIES, Level, Missing, Modality, Task, Ties
from biovita.embed.store import check_joinable, read_embeddings
from biovita.errors import BenchError
from biovita.files import sha256_file, write_json
from biovita.log import progress, warn
from biovita.tables import write_table

SCHEMA = 1
PREDICTION_SCHEMA: dict[str, pl.DataType] = {
    "direction": pl.String(),
    "level": pl.String(),
    "split": pl.String(),
    "query_id": pl.String(),
    "query_payload_id": pl.String(),
    "correct_taxon": pl.String(),
    "rank": pl.Int32(),  # of the correct taxon, from 1
    "top_taxa": pl.List(pl.String()),  # best first, by the tie rule of the run
    "top_scores": pl.List(pl.Float32()),  # cosine
    "top_ids": pl.List(pl.String()),  # the nearest sample of each of top_taxa
}


@dataclass(frozen=True, kw_only=True)
class Bank:
    """The embedding files of one model.

    Attributes:
        folder: where they lie.
        sha256: hash of each file that is there; one may lack where the missing rule allows it.
        meta: the metadata that all files share.
        vectors: rows for each modality at each level.
    """

    folder: Path
    sha256: dict[str, str]
    meta: dict[str, str]
    vectors: dict[tuple[Modality, Level], Vectors]


def score_bench(
    bench: Path,
    embeddings: Path,
    *,
    out: Path,
    split: str | None = None,
    k: tuple[int, ...] = (1, 5, 10),
    ties: Ties = "against",
    missing: Missing = "error",
    names: str = "species",
    left_out: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Score every scenario of a benchmark and write results and predictions.

    Args:
        bench: a benchmark folder, ours or in the official layout.
        embeddings: a folder with audio.parquet, image.parquet and text.parquet.
        out: the results file (JSON).
        split: score only this split; for an official folder, its name.
        k: a hit means the correct taxon is among the first k.
        ties: see `metrics.rank_of_match`.
        missing: see `retrieval.rank_task`.
        names: the name form, a `level` of text.parquet, that stands for a species; genus and family keep theirs.
        left_out: ids whose files hold no sound or picture, with the reasons; see `retrieval.rank_task`.

    Returns:
        the content of the results file.

    Raises:
        BenchError: the benchmark is broken, a vector is missing, or k is not positive.
        EmbeddingError: the files do not hold unit vectors, or are of different models.
    """
    if not k or min(k) < 1:
        raise BenchError(f"--k {' '.join(map(str, k)) or '(none)'}: give whole numbers from 1")
    k = tuple(sorted(set(k)))
    out, left_out = Path(out), left_out or {}
    opened = open_bench(Path(bench), split)
    bank = open_bank(Path(embeddings), missing, names)
    indices = {name: read_indices(folder) for name, folder in opened.splits.items()}
    rows, predictions, lost = [], [], set()
    for scenario in progress(opened.present, "scoring", unit="scenarios"):
        task = read_task(opened.splits[scenario.split], scenario, indices[scenario.split])
        query = bank.vectors[scenario.query, scenario.level]
        target = bank.vectors[scenario.target, scenario.level]
        ranking = rank_task(task, query, target, ties=ties, missing=missing, left_out=left_out)
        rows.append(summarise(task, ranking, indices[scenario.split], k))
        predictions.append(predictions_of(task, ranking))
        lost.update(ranking.missing_ids)
    results = {
        "schema": SCHEMA,
        "scenarios": rows,
        "mean": means(rows, k),
        "run": describe(opened, bank, k=k, ties=ties, missing=missing, names=names)
        | {"left_out": dict(sorted(Counter(left_out.values()).items()))},
    }
    if left_out:
        n_skipped = sum(row["n_skipped"] for row in rows)
        warn(
            f"{opened.folder}: {len(left_out):,} files hold nothing to embed and count neither as query nor as sample "
            f"({named(sorted(left_out))}); {n_skipped:,} queries are left out"
        )
    if lost:
        n_skipped = sum(row["n_skipped"] for row in rows)
        effect = f"{n_skipped:,} queries are left out" if missing == "skip" else "zeros stand for them"
        warn(f"{len(lost):,} ids have no vector ({named(sorted(lost))}); {effect}")
    for reason, absent in opened.absent_here().items():
        warn(f"{opened.folder}: {len(absent)} scenarios cannot be run ({reason}): {named([*map(str, absent)])}")
    write_table(out.with_suffix(".predictions.parquet"), pl.concat(predictions), PREDICTION_SCHEMA)
    write_json(out, results)
    return results


def open_bank(folder: Path, missing: Missing, names: str = "species") -> Bank:
    """Open a folder of embedding files and check that they are of one model."""
    if not folder.is_dir():
        raise BenchError(f"{folder}: no such embeddings folder; make it with `biovita bench embed`")
    paths: dict[Modality, Path] = {modality: folder / f"{modality}.parquet" for modality in MODALITIES}
    tables = {name: read_embeddings(path) for name, path in paths.items() if missing == "error" or path.is_file()}
    if not tables:
        raise BenchError(f"{folder}: holds none of audio.parquet, image.parquet, text.parquet")
    return Bank(
        folder=folder,
        sha256={table.path.name: sha256_file(table.path) for table in tables.values()},
        meta=check_joinable(tables.values()),
        vectors={
            (modality, level): vectors_of(
                tables.get(modality), str(path), modality, names if level == "species" else level
            )
            for modality, path in paths.items()
            for level in LEVELS
        },
    )


def summarise(
    task: Task, ranking: Ranking, indices: dict[Modality, pl.DataFrame], k: tuple[int, ...]
) -> dict[str, Any]:
    """Turn one ranking into one row of results; shares are None where every query was left out."""
    rank, n = ranking.rank, len(ranking.rank)
    correct = task.correct[ranking.is_scored]
    pools = task.n_candidates[ranking.is_scored]
    tops = [f"top{top}" for top in k]
    hits = rank[:, None] <= np.array(k)
    wrong = rank > 1
    scenario = task.scenario
    return {
        "direction": scenario.direction,
        "level": scenario.level,
        "split": scenario.split,
        "n_queries": n,
        "n_skipped": len(task) - n,
        "n_missing": len(ranking.missing_ids),
        "n_taxa": len(np.unique(correct)),
        "n_candidates": _plain(float(pools.mean())) if n else None,
        **dict(zip(tops, hits.mean(axis=0).tolist() if n else [None] * len(k), strict=True)),
        "chance": dict(zip(tops, [chance(pools, top) if n else None for top in k], strict=True)),
        "ci95": dict(zip(tops, map(list, interval(hits, correct)) if n else [None] * len(k), strict=True)),
        **slices_of(task, indices, ranking.is_scored, rank, k),
        "calibration": calibration(ranking.sample_score, ranking.sample_match, correct[ranking.sample]),
        "error_consistency": error_consistency(
            [task.taxa[t] for t in correct[wrong]],
            [task.taxa[t] for t in ranking.top_taxon[wrong, 0]],
            lineages(indices, scenario.level),
        ),
    }


def predictions_of(task: Task, ranking: Ranking) -> pl.DataFrame:
    """Tabulate what was answered: rank, and the best taxa with their scores and nearest samples."""
    scored = np.flatnonzero(ranking.is_scored)
    sizes = (ranking.top_taxon >= 0).sum(axis=1)

    def lists(values: np.ndarray) -> list[list[Any]]:
        return [row[:n] for row, n in zip(values.tolist(), sizes, strict=True)]

    def names(codes: np.ndarray, of: list[str]) -> np.ndarray:
        return np.array([*of, None], dtype=object)[codes]  # code -1, no such thing, is None

    scenario = task.scenario
    columns = {
        "direction": [scenario.direction] * len(scored),
        "level": [scenario.level] * len(scored),
        "split": [scenario.split] * len(scored),
        "query_id": [task.query_id[i] for i in scored],
        "query_payload_id": [task.payload_id[i] for i in scored],
        "correct_taxon": [task.taxa[task.correct[i]] for i in scored],
        "rank": ranking.rank,
        "top_taxa": lists(names(ranking.top_taxon, task.taxa)),
        "top_scores": lists(ranking.top_score),
        "top_ids": lists(names(ranking.top_item, task.items)),
    }
    return pl.DataFrame(columns, schema=PREDICTION_SCHEMA)


def means(rows: list[dict[str, Any]], k: tuple[int, ...]) -> dict[str, dict[str, dict[str, Any]]]:
    """Average the directions of each level and split; `n_directions` says over how many."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for level in LEVELS:
        for split in dict.fromkeys(row["split"] for row in rows):
            some = [row for row in rows if row["level"] == level and row["split"] == split and row["n_queries"]]
            if some:
                out.setdefault(level, {})[split] = {
                    "n_directions": len(some),
                    **{f"top{top}": float(np.mean([row[f"top{top}"] for row in some])) for top in k},
                }
    return out


def describe(
    bench: Bench, bank: Bank, *, k: tuple[int, ...], ties: Ties, missing: Missing, names: str
) -> dict[str, Any]:
    """Say what the numbers stand on: hashes of both inputs, rules, versions, and all scenarios, run or absent."""
    states = {str(scenario): "run" for scenario in bench.present}
    states |= {str(scenario): f"absent: {reason}" for scenario, reason in bench.absent.items()}
    return {
        "bench": str(bench.folder),
        "bench_sha256": bench.sha256,
        **bench.facts,
        "made_up": bench.made_up,
        "embeddings": str(bank.folder),
        "embeddings_sha256": bank.sha256,
        **bank.meta,
        "k": list(k),
        "ties": ties,
        "missing": missing,
        "names": names,
        "interval": {"method": "bootstrap over taxa, Wilson", "confidence": CONFIDENCE, "n_resamples": N_RESAMPLES},
        "versions": {
            "biovita": version("biovita"),
            "numpy": np.__version__,
            "polars": pl.__version__,
            "python": platform.python_version(),
        },
        "scenarios": states,
    }


def text_table(results: dict[str, Any]) -> str:
    """Lay top-k of the smallest k out for a terminal: splits and levels down, directions across, in percent."""
    top = f"top{results['run']['k'][0]}"
    found = {(row["split"], row["level"], row["direction"]): row for row in results["scenarios"]}
    lines = [f"{top + ', %':<16}" + "".join(f"{direction:>13}" for direction in DIRECTIONS) + f"{'mean':>8}"]
    for split in dict.fromkeys(row["split"] for row in results["scenarios"]):
        for level in LEVELS:
            rows = [found.get((split, level, direction)) for direction in DIRECTIONS]
            if not any(rows):
                continue
            asked = [row if row and row["n_queries"] else None for row in rows]
            mean = results["mean"].get(level, {}).get(split)
            cells = {
                f"{split} {level}": [row and f"{100 * row[top]:.1f}" for row in asked],
                "  95 % interval": [row and "-".join(f"{100 * end:.1f}" for end in row["ci95"][top]) for row in asked],
                "  chance": [row and f"{100 * row['chance'][top]:.1f}" for row in asked],
            }
            lines += [f"{name:<16}" + "".join(f"{cell or '.':>13}" for cell in line) for name, line in cells.items()]
            lines[-3] += f"{100 * mean[top]:8.1f}" if mean else ""
    if results["run"]["made_up"]:
        lines.append("The biosphere is made up; these numbers say nothing of real animals.")
    return "\n".join(lines)


def _plain(number: float) -> int | float:
    """Keep a whole number whole, so that 100 candidates read as 100."""
    return int(number) if number.is_integer() else number
