"""`biovita bench run`: embed, score and report in one command, for any model and any benchmark.

    OUT/vectors/      audio.parquet, image.parquet, text.parquet
    OUT/results.json  and results.predictions.parquet beside it
    OUT/report.html
    OUT/run.json
    OUT/.steps/       a mark of each finished step: the hash of what went in, and of what came out

A step whose mark still holds is not done again; within a step, embedding goes on where it was killed.
"""

import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tyro.conf import Positional

from biovita import config as runs
from biovita.commands.embed import EXIT_BAD_ITEMS, Using, how_of, load_model
from biovita.errors import ConfigError
from biovita.files import read_json, sha256_file, sha256_json, write_json
from biovita.log import SETTINGS, emit, say

if TYPE_CHECKING:
    from biovita.bench.official import Bench
    from biovita.embed.extract import Facts, How
    from biovita.models.encoder import Embedder

MODEL: Final = "BioVITA stage 2"  # the published model, as bench/paper.toml calls it


@dataclass(frozen=True, kw_only=True)
class Run(Using):
    """Embed a benchmark with a model, score the vectors, and write the report."""

    model: Positional[str]
    """Model folder or hub name."""
    bench: Positional[str]
    """Benchmark folder, ours or in the official layout, or the hub name of one."""
    out: Path
    """Folder for vectors/, results.json, report.html and run.json; the same command goes on where it was."""
    missing: Literal["error", "skip", "zero"] = "error"
    """An id without a vector is an error, a query left out and counted, or zeros as in the reference script."""


def run_run(config: Run) -> int:
    """Run `biovita bench run`; refused files are listed, and the exit code is then 3."""
    from biovita.bench.fetch import find_bench
    from biovita.bench.official import open_bench
    from biovita.bench.run import score_bench, text_table
    from biovita.embed.extract import facts_of
    from biovita.models.encoder import Encoder
    from biovita.report.html import write_report

    how = how_of(config)
    folder = find_bench(config.bench)
    bench = open_bench(folder)
    encoder = load_model(config)
    facts = facts_of(encoder, how)
    claim(config.out, bench, facts)
    vectors, results, report = config.out / "vectors", config.out / "results.json", config.out / "report.html"
    embedded = embed_once(encoder, bench, vectors, how, facts)

    answers = results.with_suffix(".predictions.parquet")
    step(
        config.out / ".steps" / "score.json",
        [bench.sha256, {path.name: sha256_file(path) for path in vectors.glob("*.parquet")}, config.missing],
        [results, answers],
        lambda: score_bench(folder, vectors, out=results, missing=config.missing) and None,
    )
    own = encoder.folder if isinstance(encoder, Encoder) else None  # a peer's folder has no curves and no recipe
    step(
        config.out / ".steps" / "report.json",
        [sha256_file(results), sha256_file(answers), own and str(own)],
        [report],
        lambda: write_report(
            report,
            results=results,
            model_folder=own,
            bench_folder=folder if not bench.media or len(bench.splits) > 1 else next(iter(bench.splits.values())),
            embeddings_folder=vectors,
            title=f"{encoder.name} on {folder.resolve().name if Path(config.bench).is_dir() else config.bench}",
        ),
    )
    scores = read_json(results)
    runs.write_run(config.out, config, bench_sha256=bench.sha256, weights_sha256=encoder.weights_sha256, **embedded)
    if SETTINGS.json:
        emit({"out": str(config.out), "mean": scores["mean"], "published": published(scores), **embedded})
    else:
        sys.stdout.write(f"{text_table(scores)}\n{published_table(scores)}")
    say(f"{config.out}: {len(scores['scenarios'])} scenarios, {embedded['n_refused']:,} files refused; see {report}")
    return EXIT_BAD_ITEMS if embedded["n_refused"] else 0


def claim(out: Path, bench: "Bench", facts: "Facts") -> None:
    """Refuse a folder with the run of another model or benchmark."""
    mark = out / ".steps" / "of.json"
    wanted = {"bench_sha256": bench.sha256, **facts}
    if mark.is_file() and (there := read_json(mark)) != wanted:
        key = next(key for key in wanted if there.get(key) != wanted[key])
        raise ConfigError(
            f"{out}: holds another run: its {key} is {there.get(key)!r}, now it is {wanted[key]!r}; "
            "choose another --out"
        )
    write_json(mark, wanted)


def step(mark: Path, inputs: Any, outputs: Sequence[Path], do: Callable[[], Any]) -> Any:
    """Do a step, or return what it returned before, if the same went in and what came out is still the same.

    Args:
        mark: JSON file that is written last.
        inputs: whatever decides the outputs, JSON-able.
        outputs: the files that the step writes.
        do: the step; returns something JSON-able.
    """
    key = sha256_json([version("biovita"), inputs])
    if mark.is_file():
        done = read_json(mark)
        if done["key"] == key and all(path.is_file() for path in outputs) and done["sha256"] == _hashes(outputs):
            say(f"{', '.join(path.name for path in outputs)}: done by an earlier run")
            return done["value"]
    value = do()
    write_json(mark, {"key": key, "sha256": _hashes(outputs), "value": value})
    return value


def _hashes(paths: Sequence[Path]) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in paths}


def embed_once(encoder: "Embedder", bench: "Bench", out: Path, how: "How", facts: "Facts") -> dict[str, int]:
    """Embed what is not embedded yet, and return the numbers of vectors and of refused files."""
    from biovita.commands.bench import embed_bench

    def embed() -> dict[str, int]:
        done = list(embed_bench(encoder, bench, out, how))
        return {"n_vectors": sum(one.n_vectors for one in done), "n_refused": sum(len(one.bad) for one in done)}

    media = {
        item: [str(path), path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None
        for modality in ("audio", "image")
        for item, path in sorted(bench.files(modality).items())
    }
    outputs = [out / f"{modality}.parquet" for modality in encoder.modalities]
    return step(out.parent / ".steps" / "embed.json", [bench.sha256, facts, media], outputs, embed)


def published(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Lay the paper's numbers at species level beside ours; of made-up animals there are none."""
    from biovita.bench.compare import PAPER

    paper = tomllib.loads(PAPER.read_text(encoding="utf-8"))
    rows = []
    for row in results["scenarios"]:
        known = paper.get(row["split"], {}).get(MODEL, {}).get(row["direction"])
        if known and row["level"] == "species" and row["n_queries"] and not results["run"]["made_up"]:
            shares = {top: share / 100 for top, share in zip(("top1", "top5"), known, strict=True)}
            here = {key: row[key] for key in ("split", "direction", "n_queries", "top1", "top5")}
            rows.append({**here, "paper": shares})
    return rows


def published_table(results: dict[str, Any]) -> str:
    """Compose the comparison for a terminal, empty where there is nothing to compare."""
    rows = published(results)
    if not rows:
        return ""
    lines = [
        "\nBeside the paper (BioVITA stage 2 on its own benchmark, by common names), species level, percent",
        f"{'':<12}{'queries':>8}{'top1':>8}{'paper':>8}{'diff':>8}{'top5':>8}{'paper':>8}{'diff':>8}",
    ]
    for row in rows:
        line = f"{row['split'] + ' ' + row['direction']:<12}{row['n_queries']:>8,}"
        for key, paper in row["paper"].items():
            line += f"{100 * row[key]:8.1f}{100 * paper:8.1f}{100 * (row[key] - paper):+8.1f}"
        lines.append(line)
    return "\n".join([*lines, ""])
