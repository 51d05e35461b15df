"""Records of local files to a dataset folder.

    resolve names -> licence policy -> check files in limited children -> copy by content -> drop exact duplicates
    -> split -> tables -> card -> manifest, last

A record ends as one row of `media.parquet` or of `quarantine.parquet`, never as neither: that is counted and asserted.
Stopped at any point, the same call goes on: verdicts are in `ledger.sqlite`, copied files are under their final name.
The tables depend on inputs and seed alone, not on the number of workers or on how often the build was stopped.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from biovita.data.card import write_card
from biovita.data.dataset import (
    MEDIA_FOLDER,
    MEDIA_SCHEMA,
    QUARANTINE_SCHEMA,
    SCHEMA_VERSION,
    TAXA_SCHEMA,
    Dataset,
    law_breaks,
)
from biovita.data.ledger import Ledger
from biovita.data.split import split
from biovita.errors import DatasetError, MediaError, TaxonomyError
from biovita.files import MANIFEST, atomic_path, read_manifest, write_manifest
from biovita.log import Progress
from biovita.media.check import Limits, Verdict, check_files, policy
from biovita.media.reasons import MEDIA_REASONS, REASONS
from biovita.sources.licence import UNKNOWN, licence_family
from biovita.sources.record import FILE_SCHEMA, HINT_SCHEMA
from biovita.tables import write_table
from biovita.taxonomy.checklist import Checklist
from biovita.taxonomy.rank import LEVELS
from biovita.taxonomy.taxon import Taxon

LEDGER = "ledger.sqlite"
BLOCK_BYTES = 1 << 20
TABLES = ["media.parquet", "taxa.parquet", "quarantine.parquet", "card.md", "croissant.json", "CREDITS.csv"]
FACTS = ("media_id", "sha256", "path", "duration_s", "sample_rate_hz", "n_channels", "width_px", "height_px",
         "fingerprint")  # what the check adds to a record  # fmt: skip
BUILDER_LIMITS = Limits(seconds=60.0)  # long recordings on a busy machine; an upload gets 5 s


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build came to.

    Attributes:
        refused: (media_id, reason, detail) of every refused record, sorted by media_id.
    """

    n_ok: int
    n_quarantined: int
    n_species: int
    n_withheld: int
    refused: list[tuple[str, str, str]]

    @property
    def n_bad_media(self) -> int:
        """Count the files that were refused for what is in them, rather than for their metadata."""
        return sum(reason in MEDIA_REASONS for _, reason, _ in self.refused)


def build_dataset(
    records: pl.DataFrame,
    checklist: Checklist,
    out: Path,
    *,
    seed: int,
    withheld: float,
    licences: Collection[str] | None = None,
    workers: int = 1,
    limits: Limits = BUILDER_LIMITS,
    run: Mapping[str, Any] | None = None,
) -> BuildReport:
    """Build a dataset folder from records with local files (RECORDS_SCHEMA).

    Args:
        records: one row a file, as `sources.folder.read_manifest_table` gives them.
        checklist: the accepted names.
        out: a new folder, or one that the same build left unfinished or finished.
        seed: of the splits.
        withheld: how many species go to test_unseen if 1 or more, else the share of the species.
        licences: families that may be used (`licence.FAMILIES`); None takes every known licence.
        workers: processes that check files.
        limits: what a file may be and cost.
        run: facts for the manifest.

    Raises:
        DatasetError: `out` holds something else, nothing usable is left, or too few species can be withheld.
    """
    out = Path(out)
    records = records.sort("media_id")
    inputs = _hash_inputs(records, checklist, seed, withheld, licences)
    _claim(out, inputs)
    with Ledger(out / LEDGER, policy(limits)) as ledger:
        refused: dict[str, tuple[str, str]] = {}
        taxa = _resolve(records, checklist, licences, refused)
        allowed = records.filter(~pl.col("media_id").is_in(list(refused)))
        files = _take_in(allowed, out, ledger, workers, limits, refused)
    media = _media_table(records, taxa, files)
    if not len(media):
        raise DatasetError(f"{out}: none of {len(records)} records is usable; reasons: {_count_reasons(refused)}")
    drawn = split(media, seed=seed, withheld=withheld)
    media = media.with_columns(pl.col("media_id").replace_strict(drawn.of, return_dtype=pl.String).alias("split"))
    species = _taxa_table(media, checklist, drawn.withheld)
    quarantine = pl.DataFrame(
        [(media_id, *why) for media_id, why in sorted(refused.items())], QUARANTINE_SCHEMA, orient="row"
    )
    assert len(records) == len(media) + len(quarantine), "a record was lost or doubled"
    assert set(quarantine["reason"]) <= set(REASONS), "a reason outside the vocabulary"
    assert not (broken := law_breaks(media, species)), broken
    write_table(out / "media.parquet", media, MEDIA_SCHEMA)
    write_table(out / "taxa.parquet", species, TAXA_SCHEMA)
    write_table(out / "quarantine.parquet", quarantine, QUARANTINE_SCHEMA)
    facts = {
        "schema": SCHEMA_VERSION,
        "kind": "dataset",
        "made_up": "world" in set(media["source"]),
        "seed": seed,
        "inputs": inputs,
        "counts": {
            "records": len(records),
            "ok": len(media),
            "quarantined": len(quarantine),
            "species": len(species),
            "withheld": len(drawn.withheld),
            "splits": dict(sorted(media["split"].value_counts().iter_rows())),
            "modalities": dict(sorted(media["modality"].value_counts().iter_rows())),
            "reasons": dict(sorted(quarantine["reason"].value_counts().iter_rows())),
        },
        "run": dict(run or {}),
    }
    write_card(Dataset(out, facts))
    _collect_garbage(out, set(media["path"]))
    write_manifest(out, TABLES, **facts)
    return BuildReport(
        n_ok=len(media),
        n_quarantined=len(quarantine),
        n_species=len(species),
        n_withheld=len(drawn.withheld),
        refused=list(quarantine.iter_rows()),
    )


def _claim(out: Path, inputs: str) -> None:
    """Take a folder that is new, unfinished, or finished from the same inputs, and mark it as unfinished."""
    if out.exists() and not (out / LEDGER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out}: not empty and not a dataset of ours; choose another folder")
    if (out / MANIFEST).is_file() and read_manifest(out).get("inputs") != inputs:
        raise DatasetError(
            f"{out}: holds a dataset of other inputs, seed or settings; choose another folder or delete it"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)


def _hash_inputs(
    records: pl.DataFrame, checklist: Checklist, seed: int, withheld: float, licences: Collection[str] | None
) -> str:
    """Hash what the tables depend on, besides the content of the files, which the ledger watches."""
    digest = hashlib.sha256(json.dumps([seed, withheld, sorted(licences) if licences else None]).encode())
    for table in (records, checklist.table()):
        digest.update(table.write_csv().encode())
    return digest.hexdigest()


def _resolve(
    records: pl.DataFrame,
    checklist: Checklist,
    licences: Collection[str] | None,
    refused: dict[str, tuple[str, str]],
) -> dict[str, Taxon]:
    """Find the species of every name, and refuse records by name, licence or unsafe path."""
    taxa: dict[str, Taxon] = {}
    unresolved: dict[str | None, str] = {}
    for name in records["scientific_name"].unique():
        try:
            taxa[name] = checklist.resolve(name or "")
        except TaxonomyError as error:
            unresolved[name] = str(error)
    columns = records.select("media_id", "scientific_name", "licence", "given_path", "file")
    for media_id, name, licence, given_path, file in columns.iter_rows():
        if file is None:
            refused[media_id] = ("unsafe_name", f"{given_path}: leaves the folder of its table")
        elif licence == UNKNOWN or (licences is not None and licence_family(licence) not in licences):
            refused[media_id] = ("licence_refused", f"licence {licence}")
        elif name in unresolved:
            refused[media_id] = ("name_unresolved", unresolved[name])
    return taxa


def _take_in(
    records: pl.DataFrame, out: Path, ledger: Ledger, workers: int, limits: Limits, refused: dict[str, tuple[str, str]]
) -> dict[str, Verdict]:
    """Check every file and copy the good ones; return verdicts by media_id, refusals go to `refused`."""
    paths = [Path(file) for file in records["file"].unique(maintain_order=True)]
    verdicts = {path: known for path in paths if (known := ledger.find(path))}
    n_known = len(verdicts)
    with Progress("check", len(paths), "files") as bar:
        for path in list(verdicts):
            verdicts[path] = _copy(path, verdicts[path], out)
            bar.advance(bad=not verdicts[path].ok, note=f"{n_known:,} known from before" if n_known else None)
        unknown = [path for path in paths if path not in verdicts]
        for path, verdict in zip(unknown, check_files(unknown, workers=workers, limits=limits), strict=True):
            verdicts[path] = _copy(path, verdict, out)
            ledger.keep(path, verdicts[path])
            bar.advance(bad=not verdicts[path].ok)
    good: dict[str, Verdict] = {}
    owner: dict[str, tuple[str, str]] = {}
    columns = records.select("media_id", "modality", "scientific_name", "given_path", "file")
    for media_id, modality, name, given_path, file in columns.iter_rows():
        verdict = verdicts[Path(file)].expecting(modality)
        if not verdict.ok:
            refused[media_id] = (verdict.reason or "", f"{given_path}: {verdict.detail}")
            continue
        first, first_name = owner.setdefault(verdict.sha256 or "", (media_id, name))
        if first != media_id:
            other = "" if first_name == name else f", which is called {first_name}"
            refused[media_id] = ("duplicate", f"{given_path}: same bytes as {first}{other}")
        else:
            good[media_id] = verdict
    return good


def media_path(verdict: Verdict) -> str:
    """Name a file by its content, relative to the dataset folder."""
    return f"{MEDIA_FOLDER}/{(verdict.sha256 or '')[:2]}/{verdict.sha256}{verdict.suffix}"


def _copy(path: Path, verdict: Verdict, out: Path) -> Verdict:
    """Copy a checked file under its content's name, unless it is there; what is copied is what was checked."""
    if not verdict.ok:
        return verdict
    target = out / media_path(verdict)
    if target.is_file():
        return verdict
    digest = hashlib.sha256()
    try:
        with path.open("rb") as source, atomic_path(target) as part:
            with part.open("wb") as copy:
                while block := source.read(BLOCK_BYTES):
                    digest.update(block)
                    copy.write(block)
            if digest.hexdigest() != verdict.sha256:
                raise MediaError("unreadable", "it changed between the check and the copy")
    except MediaError as error:
        return Verdict(path=verdict.path, verdict="reject", reason=error.reason, detail=error.detail)
    except OSError as error:
        raise DatasetError(f"{target}: {error.strerror}; mend that and run the same command again") from error
    return verdict


def _media_table(records: pl.DataFrame, taxa: Mapping[str, Taxon], files: Mapping[str, Verdict]) -> pl.DataFrame:
    """Join records, lineages and what the files are; without `split`, and with `group` for it."""
    lineage = pl.DataFrame(
        [{"scientific_name": name, **taxon.row()} for name, taxon in taxa.items()],
        dict.fromkeys(("scientific_name", *LEVELS), pl.String),
    )
    facts = pl.DataFrame(
        [
            (media_id, v.sha256, media_path(v), v.duration_s, v.sample_rate_hz, v.n_channels, *(v.size or (None, None)),
             v.fingerprint)
            for media_id, v in files.items()
        ],
        {name: MEDIA_SCHEMA[name] for name in FACTS},
        orient="row",
    )  # fmt: skip
    table = records.join(lineage, on="scientific_name").join(facts, on="media_id")
    # a list of names without common names leaves the one that the records give most often
    given = (
        table.filter(pl.col("given_common_name").str.len_chars() > 0)
        .group_by("species", "given_common_name")
        .len()
        .sort(["species", "len", "given_common_name"], descending=[False, True, False])
        .unique("species", keep="first")
        .select("species", "given_common_name")
    )
    own_name = pl.when(pl.col("common_name") != "").then(pl.col("common_name"))
    return (
        table.drop(FILE_SCHEMA, HINT_SCHEMA)
        .join(given, on="species", how="left")
        .with_columns(pl.coalesce(own_name, "given_common_name", pl.lit("")).alias("common_name"))
        .with_columns(pl.coalesce("individual", "media_id").alias("group"))
        .sort("media_id")
    )


def _taxa_table(media: pl.DataFrame, checklist: Checklist, withheld: list[str]) -> pl.DataFrame:
    ranks = [name for name in TAXA_SCHEMA if name in media.columns]
    species = media.select(ranks).unique("species").sort("species")
    species = species.with_columns(pl.col("species").is_in(withheld).alias("withheld"))
    if checklist.traits is not None:
        species = species.join(checklist.traits, on="species", how="left", maintain_order="left")
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in TAXA_SCHEMA.items() if name not in species.columns]
    return species.with_columns(missing)


def _collect_garbage(out: Path, named: Collection[str]) -> None:
    """Remove media that no row names: what an interrupted or an earlier state of this build left."""
    for path in sorted((out / MEDIA_FOLDER).rglob("*"), reverse=True):
        if path.is_dir():
            with suppress(OSError):  # not empty
                path.rmdir()
        elif os.fspath(path.relative_to(out)) not in named:
            path.unlink()


def _count_reasons(refused: Mapping[str, tuple[str, str]]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in Counter(reason for reason, _ in refused.values()).most_common())
