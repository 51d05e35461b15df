"""What a report is made of: result files, read once and proven to belong together.

Only the results file is needed. Every other input adds sections; one that is named but missing, broken, or of another
run is an error, because a report that mixes runs would say something false.
"""

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from biovita.data.dataset import Dataset
from biovita.embed.store import EmbeddingTable, check_joinable, read_embeddings
from biovita.errors import BenchError, DatasetError, EmbeddingError, ModelError
from biovita.files import MANIFEST, read_json, read_manifest, sha256_file
from biovita.tables import read_table, require_columns

DIRECTIONS = ("a2t", "t2a", "a2i", "i2a", "i2t", "t2i")
LEVELS = ("species", "genus", "family")
MODALITIES = ("audio", "image", "text")
LETTERS = {name[0]: name for name in MODALITIES}
RELATIONS = ("genus", "family", "order", "class")  # nearest first; what shares none of them is "other"
RESULT_KEYS = ("direction", "level", "split", "n_queries", "n_candidates", "chance", "ci95")
PREDICTION_COLUMNS = (
    *("direction", "level", "split", "query_id", "query_payload_id", "correct_taxon"),
    *("rank", "top_taxa", "top_scores", "top_ids"),
)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """What is known about species and media, from a dataset folder or from the index files of a benchmark.

    Attributes:
        species: for each species its `genus`, `family`, `order`, `class` and `common_name`; "" where unknown.
        unseen: species that training never met.
        media: `id`, `modality`, `species`, `file` (absolute), `licence`, `rights_holder`.
    """

    species: dict[str, dict[str, str]]
    unseen: frozenset[str]
    media: pl.DataFrame

    def rows(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Look media up by id; unknown ids are left out."""
        found = self.media.filter(pl.col("id").is_in(list(ids)))
        return {row["id"]: row for row in found.iter_rows(named=True)}

    @cached_property
    def lineages(self) -> "Lineages":
        """The same lineages as numbers, for tables of many pairs."""
        return Lineages(self.species)


class Lineages:
    """How near two species are: 0 same genus, 1 family, 2 order, 3 class, 4 none of these or not known."""

    def __init__(self, species: dict[str, dict[str, str]]) -> None:
        self.place = {name: i for i, name in enumerate(species)}
        codes = np.empty((len(species) + 1, len(RELATIONS)), np.int64)
        for column, rank in enumerate(RELATIONS):
            number: dict[str, int] = {}
            for row, lineage in enumerate(species.values()):
                name = lineage[rank]
                codes[row, column] = number.setdefault(name, len(number)) if name else -1 - row
        codes[-1] = np.iinfo(np.int64).min  # the row of species that nobody knows
        self.codes = codes

    def places(self, names: Iterable[str]) -> np.ndarray:
        """Return row numbers of species; unknown ones share the last row."""
        return np.array([self.place.get(name, len(self.place)) for name in names], np.int64)

    def relation(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return the relation code of each pair of row numbers."""
        same = (self.codes[one] == self.codes[other]) & (one < len(self.place))[..., None]
        return np.where(same.any(axis=-1), same.argmax(axis=-1), len(RELATIONS))


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything a report may draw on; what was not given is None."""

    path: Path
    results: dict[str, Any]
    predictions: pl.DataFrame | None
    model: Path | None
    log: list[dict[str, Any]] | None
    dataset: Dataset | None
    bench: Path | None
    bench_manifest: dict[str, Any]
    catalogue: Catalogue | None
    embeddings: dict[str, EmbeddingTable] | None

    @property
    def made_up(self) -> bool:
        """Whether any manifest says that the animals do not exist."""
        told = [self.bench_manifest, self.results.get("run", {}), self.dataset.manifest if self.dataset else {}]
        return any(one.get("made_up") for one in told)

    @cached_property
    def splits(self) -> list[str]:
        """The splits of the results, in their order."""
        return list(dict.fromkeys(row["split"] for row in self.results["scenarios"]))

    def scenario(self, split: str, level: str, direction: str) -> dict[str, Any] | None:
        """Find one row of the results; None where it was not run."""
        for row in self.results["scenarios"]:
            if (row["split"], row["level"], row["direction"]) == (split, level, direction):
                return row
        return None


def read_inputs(
    results: Path,
    *,
    model: Path | None = None,
    dataset: Path | None = None,
    bench: Path | None = None,
    embeddings: Path | None = None,
) -> Inputs:
    """Read what was named; the predictions beside the results file are taken where they exist.

    A benchmark of ours names its dataset; that one is used where no other is given and it is still there.

    Raises:
        BiovitaError: a file is missing, broken, or belongs to another run; the subclass tells which.
    """
    content = read_results(Path(results))
    run = content.get("run", {})
    predictions = Path(results).with_suffix(".predictions.parquet")
    manifest = _bench_manifest(bench, run) if bench else {}
    if dataset is None and bench and manifest.get("dataset") and (bench / manifest["dataset"] / MANIFEST).is_file():
        dataset = bench / manifest["dataset"]
    opened = Dataset.open(dataset) if dataset else None
    if opened and manifest.get("dataset_sha256") not in (None, sha256_file(opened.folder / MANIFEST)):
        raise DatasetError(f"{opened.folder}: {bench} was not made from this dataset; name the one it was made from")
    if model is not None:
        _check_model(model, run)
    return Inputs(
        path=Path(results),
        results=content,
        predictions=read_predictions(predictions) if predictions.is_file() else None,
        model=model,
        log=read_log(model / "train_log.jsonl") if model and (model / "train_log.jsonl").is_file() else None,
        dataset=opened,
        bench=bench,
        bench_manifest=manifest,
        catalogue=of_dataset(opened) if opened else of_bench(bench) if bench else None,
        embeddings=read_bank(embeddings, run) if embeddings else None,
    )


def read_results(path: Path) -> dict[str, Any]:
    """Read what `biovita bench score` wrote.

    Raises:
        BenchError: it is something else.
    """
    if not path.is_file():
        raise BenchError(f"{path}: no such results file; make it with `biovita bench score`")
    content = read_json(path)
    rows = content.get("scenarios") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows or content.get("schema") != 1:
        raise BenchError(f"{path}: not a results file of `biovita bench score` (schema 1 with scenarios)")
    for n, row in enumerate(rows):
        missing = [key for key in RESULT_KEYS if not isinstance(row, dict) or key not in row]
        if missing:
            raise BenchError(f"{path}: scenario {n} lacks {', '.join(missing)}; score the benchmark again")
        if row["direction"] not in DIRECTIONS or row["level"] not in LEVELS:
            raise BenchError(f"{path}: scenario {n} is {row['level']}/{row['direction']}, which is none of ours")
    return content


def read_predictions(path: Path) -> pl.DataFrame:
    """Read every kept answer."""
    table = read_table(path)
    require_columns(table, PREDICTION_COLUMNS, path)
    return table


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a training log; of a step that was done again after a kill, the last line.

    Raises:
        ModelError: a line is not a JSON object; its number is named.
    """
    rows = {}
    for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ModelError(f"{path}: line {n} is not JSON ({error}); was training killed?") from None
        if not isinstance(row, dict) or "step" not in row:
            raise ModelError(f"{path}: line {n} is not a step of training")
        rows[row.get("stage"), row["step"], "val" in row] = row
    return list(rows.values())


def read_bank(folder: Path, run: dict[str, Any]) -> dict[str, EmbeddingTable]:
    """Read the embedding files that a folder has, and prove that these were scored.

    Raises:
        EmbeddingError: there are none, they are of different models, or the results are of other vectors.
    """
    paths = {name: folder / f"{name}.parquet" for name in MODALITIES}
    tables = {name: read_embeddings(path) for name, path in paths.items() if path.is_file()}
    if not tables:
        raise EmbeddingError(f"{folder}: holds none of audio.parquet, image.parquet, text.parquet")
    check_joinable(tables.values())
    for name, digest in run.get("embeddings_sha256", {}).items():
        if (folder / name).is_file() and sha256_file(folder / name) != digest:
            raise EmbeddingError(f"{folder / name}: not the vectors that were scored; score again, or name those")
    return tables


def of_dataset(dataset: Dataset) -> Catalogue:
    """Take species and media from a dataset folder."""
    media = dataset.media.select(
        pl.col("media_id").alias("id"),
        "modality",
        "species",
        (pl.lit(f"{dataset.folder.resolve()}/") + pl.col("path")).alias("file"),
        "licence",
        "rights_holder",
    )
    columns = ("species", *RELATIONS, "common_name", "withheld")
    taxa = dataset.taxa.select(columns).with_columns(pl.col(pl.String).fill_null(""))
    species = {row.pop("species"): row for row in taxa.iter_rows(named=True)}
    return Catalogue(
        species=species, unseen=frozenset(name for name, row in species.items() if row["withheld"]), media=media
    )


def of_bench(folder: Path) -> Catalogue:
    """Take species and media from index files; orders, licences and holders are not in them."""
    tables, unseen = [], set()
    for split, home in _split_folders(folder).items():
        for modality in MODALITIES:
            path = _index_path(home, modality)
            table = read_table(path)
            require_columns(table, ("id", "species", "genus", "family"), path)
            table = table.with_columns(pl.lit(modality).alias("modality"), pl.col(pl.String).fill_null(""))
            if "file_path" in table.columns:
                root = home.resolve().parent if home.name == "benchmark" else home.resolve()
                table = table.with_columns((pl.lit(f"{root}/") + pl.col("file_path")).alias("file"))
            tables.append(table)
            unseen |= set(table["species"]) if split == "unseen" else set()
    table = pl.concat(tables, how="diagonal")
    blank = [pl.lit("").alias(name) for name in ("class", "order", "common_name") if name not in table.columns]
    known = table.with_columns(*blank).with_columns(pl.col(pl.String).fill_null(""))
    known = known.sort(pl.col("class") == "", maintain_order=True).unique("species", keep="first", maintain_order=True)
    rows = known.select("species", *RELATIONS, "common_name").iter_rows(named=True)
    return Catalogue(
        species={row.pop("species"): row for row in rows},
        unseen=frozenset(unseen),
        media=table.filter(pl.col("modality") != "text").select(
            "id",
            "modality",
            "species",
            "file" if "file" in table.columns else pl.lit("").alias("file"),
            pl.lit("").alias("licence"),
            pl.lit("").alias("rights_holder"),
        ),
    )


def read_pools(bench: Path, split: str, direction: str) -> pl.DataFrame:
    """Read which species stood to choose from: `query_id`, `correct_taxon`, `candidates_taxa` (lists).

    Raises:
        BenchError: the task file is missing or its lists are not JSON.
    """
    query, target = LETTERS[direction[0]], LETTERS[direction[2]]
    homes = _split_folders(bench)
    path = homes.get(split, next(iter(homes.values()))) / "species" / f"test_{query}_to_{target}.csv"
    if not path.is_file():
        raise BenchError(f"{path}: no such task file, although the results have this scenario")
    table = pl.read_csv(path, glob=False, infer_schema=False, columns=["query_id", "correct_taxon", "candidates_taxa"])
    try:
        return table.with_columns(pl.col("candidates_taxa").str.json_decode(pl.List(pl.String)))
    except pl.exceptions.PolarsError as error:
        raise BenchError(f"{path}: candidates_taxa is not a JSON list ({str(error).splitlines()[0]})") from None


def count_parameters(path: Path) -> dict[str, int]:
    """Count the numbers in a safetensors file from its header, by the first part of their names.

    Raises:
        ModelError: the header is broken.
    """
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(size, 100_000_000)))
        counts: dict[str, int] = {}
        for name, tensor in header.items():
            if name != "__metadata__":
                part = ".".join(name.split(".")[: 2 if name.startswith("clip.") else 1])
                counts[part] = counts.get(part, 0) + prod(tensor["shape"])
    except (OSError, ValueError, struct.error, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a safetensors file ({error})") from None
    return counts


def _check_model(folder: Path, run: dict[str, Any]) -> None:
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ModelError(f"{folder}: holds no model.safetensors; name the folder that `biovita train` wrote")
    if run.get("weights_sha256") not in (None, sha256_file(weights)):
        raise ModelError(f"{folder}: not the model that the results are of; score its own vectors, or name that model")


def _bench_manifest(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    """Read a benchmark's manifest; a folder in the official layout has none."""
    if not folder.is_dir():
        raise BenchError(f"{folder}: no such benchmark folder")
    if not _split_folders(folder):
        raise BenchError(f"{folder}: neither index files nor seen/ and unseen/; not a benchmark folder")
    if not (folder / MANIFEST).is_file():
        return {}
    if run.get("bench_sha256") not in (None, sha256_file(folder / MANIFEST)):
        raise BenchError(f"{folder}: not the benchmark that the results are of; score again, or name that one")
    return read_manifest(folder)


def _split_folders(folder: Path) -> dict[str, Path]:
    """Find the index files: of one split, of ours, or of the published release and its parts."""
    for home in (folder, folder / "benchmark"):
        if _index_path(home, "text").is_file():
            is_seen = "seen" in (home.name, home.parent.name) or "test" in (home.name, home.parent.name)
            return {"seen" if is_seen else "unseen": home}
    homes = {"seen": ("seen", "test/benchmark"), "unseen": ("unseen", "unseen/benchmark")}
    found = {split: [folder / name for name in names] for split, names in homes.items()}
    return {split: home for split, both in found.items() for home in both if _index_path(home, "text").is_file()}


def _index_path(folder: Path, modality: str) -> Path:
    home = folder / "ids" if (folder / "ids").is_dir() else folder
    return home / f"{modality}_index.csv"
