"""The official BioVITA release as its hub serves it, perhaps with media beside the lists; its defects are counted.

    train/metadata.csv  train/image_urls.csv
    test/...            unseen/metadata.csv  unseen/audio/  unseen/image/
    {test,unseen}/benchmark/{audio,image,text}_index.csv, benchmark/{species,genus,family}/test_*.csv

Every row of a list ends as one of these, counted by file:

- `matched`: the file that it names is there;
- `renamed`: it is there under another name (how that is found: `repair_index`, `find_files`);
- `missing`: it is not there; the row is used if it has a URL;
- `broken`: it has neither name nor URL, or what it says contradicts itself;
- `to fetch`: it names no file, only a URL, as all of `train/` does.

Recordings keep the ids of their archives (`xc:`, `inat:`, `asa:`), so that they meet the records of those; a row
without an id is known by its place. The release says no licence: a record gets one only from a column that later
versions may have, or from the archive's own record of the same id. Equal contents under two names stay for
deduplication, and what files hold is judged by the check (ten of its 1,024 unseen clips do not decode as they are).
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

import polars as pl

from biovita.errors import DatasetError
from biovita.sources.licence import normalise_licence
from biovita.sources.record import Reading, as_records, each
from biovita.sources.release_lists import find_files, read_list, read_metadata, repair_index, with_all_columns
from biovita.sources.tree import MODALITY_OF_SUFFIX, walk_files
from biovita.tables import read_table, require_columns

HOSTS: Final = (
    *("huggingface.co", "xeno-canto.org", "www.xeno-canto.org"),
    *("static.inaturalist.org", "inaturalist-open-data.s3.amazonaws.com"),
)
PARTS: Final = ("train", "test", "unseen")
ARCHIVES: Final = ("xc", "inat", "asa")  # values of `source`, and our prefixes
SOURCE: Final = "biovita"  # of pictures, and of rows without an id
LISTS: Final = ("metadata.csv", "image_urls.csv", "benchmark/image_index.csv", "benchmark/ids/image_index.csv")
STATES: Final = ("matched", "renamed", "missing", "broken", "to fetch")
LEVELS: Final = ("species", "genus", "family")
N_TASKS: Final = 6  # of a level: the directions between audio, image and text
INDICES: Final = ("audio_index.csv", "image_index.csv", "text_index.csv")
KEY_LENGTH: Final = 120


def read(path: Path) -> Reading:
    """Read the folder of a release, whole or in part.

    Raises:
        DatasetError: it holds no list of the release, or a list lacks a column that it cannot do without.
    """
    path = Path(path)
    counts: Counter[str] = Counter()
    if not any((path / part / name).is_file() for part in PARTS for name in LISTS):
        raise DatasetError(f"{path}: no train/metadata.csv, unseen/metadata.csv or other list of the release in it")
    parts = [part for part in PARTS if (path / part).is_dir()]
    tables = [table for part in parts for table in _read_part(path, part, counts)]
    table = pl.concat(tables, how="diagonal")
    # one recording may stand in several lists: the row that has its file goes first
    table = table.sort(pl.col("file").is_null(), maintain_order=True)
    once = table.unique("media_id", keep="first", maintain_order=True)
    counts["rows whose id occurs again"] = len(table) - len(once)
    hosts = once["url"].drop_nulls().str.extract(r"^[A-Za-z]+://([^/:?#]*)", 1).str.to_lowercase().fill_null("no host")
    for host, n in sorted(hosts.value_counts().iter_rows()):
        counts[f"URLs of {host}"] = n
    counts["records"] = len(once)
    return Reading(records=as_records(once.sort("media_id"), path), counts=+counts)


def species_key(name: str) -> str:
    """Name the picture folder of a species as the release's training code does: lower case and underscores."""
    plain = re.sub(r"[^a-z0-9 _-]+", "_", name.lower()).replace(" ", "_")
    return re.sub("_+", "_", plain).strip("_")[:KEY_LENGTH]


def _read_part(root: Path, part: str, counts: Counter[str]) -> Iterator[pl.DataFrame]:
    """Yield records of the lists of one part and of the media that lie with them."""
    folder = root / part
    names, odd = walk_files(folder)
    counts.update({f"{part}/: {word}": n for word, n in odd.items()})
    media = {name for name in names if PurePosixPath(name).suffix.lower() in MODALITY_OF_SUFFIX}
    _count_benchmark(part, folder, names, counts)
    named: set[str] = set()
    species: list[str] = []
    if "metadata.csv" in names:
        found = read_metadata(folder / "metadata.csv", media)
        _count_states(f"{part}/metadata.csv", found, counts)
        named |= set(found["path"].drop_nulls())
        species = [name for name in _accepted(found) if name]
        yield _recordings(found, part, root, counts)
        if index := _first(names, "audio_index.csv"):
            listed = found.with_columns(file_name=pl.coalesce("path", "file_name"))
            repaired = repair_index(_read_index(folder / index), listed, media)
            _count_states(f"{part}/{index}", repaired, counts)
            counts[f"{part}/{index}: renamed, and the archive id agrees"] = len(repaired.filter("is_checked"))
    if "image_urls.csv" in names:
        listed = read_list(folder / "image_urls.csv", one_of=(("url",), ("scientific_name", "accepted_name")))
        state = pl.when(pl.col("url").is_null()).then(pl.lit("broken")).otherwise(pl.lit("to fetch"))
        listed = listed.with_columns(state=state, path=pl.lit(None, pl.String))
        _count_states(f"{part}/image_urls.csv", listed, counts)
        yield _pictures(listed, part, root)
    if index := _first(names, "image_index.csv"):
        listed = _read_index(folder / index).rename({"species": "scientific_name", "file_path": "file_name"})
        found = find_files(with_all_columns(listed), media)
        _count_states(f"{part}/{index}", found, counts)
        named |= set(found["path"].drop_nulls())
        with_pictures = set(found.filter(pl.col("path").is_not_null())["scientific_name"])
        counts[f"{part}/: species without a picture"] = len(set(species) - with_pictures) if species else 0
        yield _pictures(found, part, root)
    rest = pl.DataFrame({"path": sorted(media - named)}, {"path": pl.String})
    keys = {species_key(name): name for name in species}
    folders = pl.col("path").str.extract(r"^image/(.*)/[^/]*$", 1)
    rest = rest.with_columns(scientific_name=folders.replace_strict(keys, default=None, return_dtype=pl.String))
    counts[f"{part}/: files that no list names"] = rest["scientific_name"].null_count()
    yield _pictures(with_all_columns(rest.drop_nulls("scientific_name")), part, root)


def _first(names: Collection[str], index: str) -> str | None:
    """Find an index file, which lies in benchmark/ or in benchmark/ids/."""
    return next((name for name in (f"benchmark/{index}", f"benchmark/ids/{index}") if name in names), None)


def _read_index(path: Path) -> pl.DataFrame:
    table = read_table(path)
    require_columns(table, ("file_path", "species"), path)
    return table


def _count_states(name: str, table: pl.DataFrame, counts: Counter[str]) -> None:
    counts[f"{name}: header without rows"] = int(len(table) == 0)
    states = dict(table["state"].value_counts().iter_rows())
    for state in STATES:
        counts[f"{name}: {state}"] = states.get(state, 0)


def _count_benchmark(part: str, folder: Path, names: Sequence[str], counts: Counter[str]) -> None:
    """Count what the benchmark of a part lacks: index files, tasks, and tasks that are only a header."""
    if not any(name.startswith("benchmark/") for name in names):
        return
    for index in INDICES:
        counts[f"{part}/benchmark/{index}: not there"] = int(_first(names, index) is None)
    for level in LEVELS:
        tasks = [name for name in names if name.startswith(f"benchmark/{level}/test_") and name.endswith(".csv")]
        counts[f"{part}/benchmark/{level}/: task files not there"] = N_TASKS - len(tasks)
        for name in tasks:
            with (folder / name).open("rb") as lines:
                lines.readline()
                counts[f"{part}/benchmark/{level}/: task files of only a header"] += not any(map(bytes.strip, lines))


def _accepted(table: pl.DataFrame) -> pl.Series:
    """Take the release's unified name, as its second stage does; where it has none, the archive's."""
    name = pl.coalesce("accepted_name", "scientific_name")
    halves = pl.when(~name.str.contains(" ", literal=True)).then(pl.concat_str("genus", name, separator=" "))
    return table.select(pl.coalesce(halves, name).alias("scientific_name"))["scientific_name"]


def _recordings(table: pl.DataFrame, part: str, root: Path, counts: Counter[str]) -> pl.DataFrame:
    strange = table.filter(~pl.col("source").is_in(ARCHIVES))["source"].drop_nulls()
    for source, n in sorted(strange.value_counts().iter_rows()):
        counts[f"{part}/metadata.csv: rows of '{source}', which is no archive known here"] = n
    has_id = pl.col("source").is_in(ARCHIVES) & pl.col("recording_id").is_not_null()
    counts[f"{part}/metadata.csv: rows without an id of an archive"] = len(table.filter(~has_id.fill_null(False)))
    place = pl.format(f"{SOURCE}:{part}/{{}}", "row")
    page = pl.when(pl.col("source") == "xc").then(pl.format("https://xeno-canto.org/{}", "recording_id"))
    return _records(
        table,
        part,
        root,
        modality="audio",
        media_id=pl.when(has_id).then(pl.format("{}:{}", "source", "recording_id")).otherwise(place),
        source=pl.when(has_id).then("source").otherwise(pl.lit(SOURCE)),
        page_url=pl.when(has_id).then(page),
    )


def _pictures(table: pl.DataFrame, part: str, root: Path) -> pl.DataFrame:
    place = pl.coalesce("path", "file_name", pl.format("image_urls/{}", "row"))
    by_place = pl.format(f"{SOURCE}:{part}/{{}}", place)
    return _records(
        table,
        part,
        root,
        modality="image",
        media_id=pl.coalesce(pl.format("tol:{}", "uuid"), by_place),
        source=pl.when(pl.col("uuid").is_not_null()).then(pl.lit("tol")).otherwise(pl.lit(SOURCE)),
        page_url=pl.lit(None, pl.String),
    )


def _records(table: pl.DataFrame, part: str, root: Path, *, modality: str, **columns: pl.Expr) -> pl.DataFrame:
    """Make records of the rows that have a file or a URL."""
    home = str((root / part).resolve())
    table = table.with_columns(each(table["licence"], normalise_licence), accepted=_accepted(table))
    other_name = pl.when(pl.col("accepted") != pl.col("scientific_name")).then(pl.col("scientific_name"))
    remarks = pl.concat_str(
        pl.lit(f"official part: {part}"),
        pl.format("name in the archive: {}", other_name),
        separator="; ",
        ignore_nulls=True,
    )
    return table.filter(pl.col("path").is_not_null() | pl.col("url").is_not_null()).select(
        pl.lit(modality).alias("modality"),
        pl.col("url").str.replace("^//", "https://"),
        pl.col("accepted").alias("scientific_name"),
        "licence",
        "rights_holder",
        remarks.alias("remarks"),
        pl.col("common_name").alias("given_common_name"),
        *(pl.col(rank).alias(f"given_{rank}") for rank in ("class", "order", "family", "genus")),
        pl.format(f"{part}/{{}}", "path").alias("given_path"),
        pl.format("{}/{}", pl.lit(home), "path").alias("file"),
        **columns,
    )
