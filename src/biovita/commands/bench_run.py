"""`biovita bench run`: embed, score and report in one command, for any model and any benchmark.

    OUT/vectors/      audio.parquet, image.parquet, text.parquet
    OUT/results.json  and results.predictions.parquet beside it; results.FORM.json of each further name form
    OUT/report.html
    OUT/run.json
    OUT/.steps/       a mark of each finished step: the hash of what went in, and of what came out

A step whose mark still holds is not done again; within a step, embedding goes on where it was killed.

In the official layout, files that are there and hold no sound or picture, as some of the release, are left out of
questions and answers, and counted; a file that is not there is an error.
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
    from biovita.embed.extract import Facts, How, Outcome
    from biovita.models.encoder import Embedder

MODEL: Final = "BioVITA stage 2"  # the published model, as bench/paper.toml calls it
NOT_THERE: Final = "unreadable"  # the reason for a file that is not there: no defect of the release but of the copy
PAPER_FORM: Final = "common_name"  # of the names in the paper's main table


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
    names: tuple[str, ...] = ()
    """What stands for a species, scored one after the other: species (scientific name), common_name, taxonomy,
    scientific_and_common, taxonomy_and_common, common_name_de, ...; default: the first two, as far as there are."""


def run_run(config: Run) -> int:
    """Run `biovita bench run`; refused files are listed, and the exit code is then 3."""
    from biovita.bench.fetch import find_bench
    from biovita.bench.names import forms_of
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
    vectors, report = config.out / "vectors", config.out / "report.html"
    forms = forms_of(bench.text_index(), config.names)
    n_vectors, refused = embed_once(encoder, bench, vectors, how, facts, forms)
    left_out = {item: reason for item, reason in refused.items() if bench.media and reason != NOT_THERE}
    embedded = {"n_vectors": n_vectors, "n_refused": len(refused)}
    hashes = {path.name: sha256_file(path) for path in vectors.glob("*.parquet")}
    files = {form: config.out / f"results{f'.{form}' if n else ''}.json" for n, form in enumerate(forms)}
    for form, file in files.items():
        step(
            config.out / ".steps" / f"score.{form}.json",
            [bench.sha256, hashes, config.missing, form, left_out],
            [file, file.with_suffix(".predictions.parquet")],
            lambda form=form, file=file: (
                score_bench(folder, vectors, out=file, missing=config.missing, names=form, left_out=left_out) and None
            ),
        )
    results = files[forms[0]]
    answers = results.with_suffix(".predictions.parquet")
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
    scores = {form: read_json(file) for form, file in files.items()}
    beside = published(scores.get(PAPER_FORM, scores[forms[0]]))
    runs.write_run(config.out, config, bench_sha256=bench.sha256, weights_sha256=encoder.weights_sha256, **embedded)
    if SETTINGS.json:
        means = {form: found["mean"] for form, found in scores.items()}
        emit({"out": str(config.out), "mean": means[forms[0]], "names": means, "published": beside, **embedded})
    else:
        sys.stdout.write(f"{text_table(scores[forms[0]])}\n{names_table(scores)}{published_table(beside)}")
    n = len(scores[forms[0]]["scenarios"])
    say(f"{config.out}: {n} scenarios, {embedded['n_refused']:,} files refused; see {report}")
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


def embed_once(
    encoder: "Embedder", bench: "Bench", out: Path, how: "How", facts: "Facts", names: Sequence[str]
) -> tuple[int, dict[str, str]]:
    """Embed what is not embedded yet, a modality at a time; return the number of vectors, and the refused files."""
    from biovita.commands.bench import embed_bench

    n_vectors, refused = 0, {}
    for modality, embed in embed_bench(encoder, bench, out, how, names).items():
        files = bench.files(modality) if modality != "text" else {}
        media = {
            item: [str(path), path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None
            for item, path in sorted(files.items())
        }

        def run(embed: "Callable[[], Outcome]" = embed) -> dict[str, Any]:
            one = embed()
            return {"n_vectors": one.n_vectors, "refused": {bad.id: bad.reason for bad in one.bad}}

        inputs = [bench.sha256, facts, media, [*names] if modality == "text" else []]
        mark = out.parent / ".steps" / f"embed.{modality}.json"
        done = step(mark, inputs, [out / f"{modality}.parquet"], run)
        n_vectors += done["n_vectors"]
        refused |= done["refused"]
    return n_vectors, refused


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


def names_table(scores: dict[str, dict[str, Any]]) -> str:
    """Compose top-1 at species level by name form for a terminal, empty where there is only one."""
    from biovita.bench.tasks import DIRECTIONS

    if len(scores) == 1:
        return ""
    asked = [d for d in DIRECTIONS if "t" in d]
    lines = [f"\n{'names, top1, %':<36}" + "".join(f"{direction:>8}" for direction in asked)]
    for split in dict.fromkeys(row["split"] for found in scores.values() for row in found["scenarios"]):
        for form, found in scores.items():
            rows = {r["direction"]: r for r in found["scenarios"] if (r["split"], r["level"]) == (split, "species")}
            shares = [rows[d]["top1"] if d in rows else None for d in asked]
            cells = ("." if share is None else f"{100 * share:.1f}" for share in shares)
            lines.append(f"{f'{split} {form}':<36}" + "".join(f"{cell:>8}" for cell in cells))
    return "\n".join([*lines, ""])


def published_table(rows: list[dict[str, Any]]) -> str:
    """Compose the comparison for a terminal, empty where there is nothing to compare."""
    if not rows:
        return ""
    lines = [
        "\nBeside the paper (BioVITA stage 2 on its own benchmark), species level, common names, percent",
        f"{'':<12}{'queries':>8}{'top1':>8}{'paper':>8}{'diff':>8}{'top5':>8}{'paper':>8}{'diff':>8}",
    ]
    for row in rows:
        line = f"{row['split'] + ' ' + row['direction']:<12}{row['n_queries']:>8,}"
        for key, paper in row["paper"].items():
            line += f"{100 * row[key]:8.1f}{100 * paper:8.1f}{100 * (row[key] - paper):+8.1f}"
        lines.append(line)
    return "\n".join([*lines, ""])
