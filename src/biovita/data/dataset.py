"""A dataset folder: what its tables hold, how it is opened, and the proof that it keeps the laws."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import polars as pl

from biovita.data.dedupe import near_duplicates
from biovita.errors import DatasetError
from biovita.files import read_manifest, sha256_file
from biovita.log import Progress
from biovita.sources.licence import UNKNOWN
from biovita.sources.record import RECORD_SCHEMA
from biovita.tables import occurs_again, stands_beside_several
from biovita.taxonomy.checklist import HINTS, LOG_COLUMNS
from biovita.taxonomy.rank import RANKS
from biovita.taxonomy.traits import TRAITS

SCHEMA_VERSION = 1
MEDIA_FOLDER = "media"

MEDIA_SCHEMA: dict[str, pl.DataType] = {
    **RECORD_SCHEMA,
    "sha256": pl.String(),
    "path": pl.String(),  # relative to the folder
    "split": pl.String(),
    **dict.fromkeys(RANKS, pl.String()),
    "common_name": pl.String(),
    "duration_s": pl.Float64(),
    "sample_rate_hz": pl.Int32(),
    "n_channels": pl.Int32(),
    "width_px": pl.Int32(),
    "height_px": pl.Int32(),
    "fingerprint": pl.String(),
}
TAXA_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(RANKS, pl.String()),
    "common_name": pl.String(),
    "withheld": pl.Boolean(),
    **dict.fromkeys(TRAITS, pl.Boolean()),
    "common_names": pl.String(),  # JSON: {"de": "Amsel", "en": ...}
    "traits_source": pl.String(),  # JSON: {"diurnal": "avonet", ...}
    "traits_conflict": pl.String(),  # JSON: {"diurnal": "avonet: true, eltontraits: false"}
}
NAMES_SCHEMA: dict[str, pl.DataType] = dict.fromkeys(("scientific_name", *HINTS, *LOG_COLUMNS), pl.String())
QUARANTINE_SCHEMA: dict[str, pl.DataType] = {"media_id": pl.String(), "reason": pl.String(), "detail": pl.String()}


@dataclass(frozen=True)
class Dataset:
    """A finished dataset folder; the tables are read when they are first used."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> Self:
        """Open a folder by its manifest.

        Args:
            folder: the dataset folder.
            verify: also recompute the sha256 of the tables.

        Raises:
            DatasetError: there is no manifest, it is that of something else, or a table does not match it.
        """
        manifest = read_manifest(Path(folder), verify=verify)
        if "media.parquet" not in manifest.get("sha256", {}):
            raise DatasetError(f"{folder}: not a dataset, by its manifest.json; name a folder that `data build` wrote")
        return cls(Path(folder), manifest)

    @cached_property
    def media(self) -> pl.DataFrame:
        """One row a usable file, sorted by media_id (MEDIA_SCHEMA)."""
        return pl.read_parquet(self.folder / "media.parquet", glob=False)

    @cached_property
    def taxa(self) -> pl.DataFrame:
        """One row a species, sorted by name (TAXA_SCHEMA)."""
        return pl.read_parquet(self.folder / "taxa.parquet", glob=False)

    @cached_property
    def quarantine(self) -> pl.DataFrame:
        """One row a refused file (QUARANTINE_SCHEMA)."""
        return pl.read_parquet(self.folder / "quarantine.parquet", glob=False)

    @cached_property
    def names(self) -> pl.DataFrame:
        """One row a distinct name as given, and what was decided about it (NAMES_SCHEMA)."""
        return pl.read_parquet(self.folder / "names.parquet", glob=False)

    def path(self, relative: str) -> Path:
        """Return the place of a file that `media.path` names."""
        return self.folder / relative


def problems(dataset: Dataset) -> list[str]:
    """List every broken law of a dataset folder; empty when it is sound.

    Files are hashed again, so this reads all media.
    """
    media, taxa = dataset.media, dataset.taxa
    found = [
        f"{table}: columns are not those of the schema"
        for table, frame, schema in (("media.parquet", media, MEDIA_SCHEMA), ("taxa.parquet", taxa, TAXA_SCHEMA))
        if dict(frame.schema) != schema
    ]
    if found:
        return found
    found += law_breaks(media, taxa)
    clusters = near_duplicates(media).clusters.join(media.select("media_id", "split"), on="media_id")
    apart = clusters.filter(pl.col("split").n_unique().over("cluster") > 1)["media_id"]
    if len(apart):
        found.append(f"near-duplicates in two splits: {', '.join(apart.head(5))} ({len(apart)} in all)")
    counts = dataset.manifest.get("counts", {})
    for name, frame in (("ok", media), ("quarantined", dataset.quarantine), ("species", taxa)):
        if counts.get(name) != len(frame):
            found.append(f"manifest.json: counts {counts.get(name)} {name}, the table has {len(frame)}")
    with Progress("verify", len(media), "files") as bar:
        for relative, digest in media.select("path", "sha256").iter_rows():
            path = dataset.path(relative)
            bad = "missing" if not path.is_file() else "changed" if sha256_file(path) != digest else ""
            if bad:
                found.append(f"{relative}: {bad}")
            bar.advance(bad=bool(bad))
    named = set(media["path"])
    on_disk = {str(p.relative_to(dataset.folder)) for p in (dataset.folder / MEDIA_FOLDER).rglob("*") if p.is_file()}
    found += [f"{extra}: not named by media.parquet" for extra in sorted(on_disk - named)]
    return found


def law_breaks(media: pl.DataFrame, taxa: pl.DataFrame) -> list[str]:
    """List the broken laws that show in the tables: leaks between splits, withheld species, licences, lineages."""
    withheld = pl.col("species").is_in(taxa.filter("withheld")["species"].implode())
    unseen = pl.col("split") == "test_unseen"

    individual = media["individual"]
    laws = {
        "media_id is not unique": media["media_id"].filter(occurs_again(media["media_id"])),
        "the same bytes twice": media["media_id"].filter(occurs_again(media["sha256"])),
        "individual in two splits": individual.filter(stands_beside_several(individual, media["split"])).unique(),
        "withheld species outside test_unseen": media.filter(withheld & ~unseen)["media_id"],
        "test_unseen of a species that is not withheld": media.filter(~withheld & unseen)["media_id"],
        "no licence": media.filter(pl.col("licence").is_null() | (pl.col("licence") == UNKNOWN))["media_id"],
        "species without a row in taxa.parquet": media.filter(~pl.col("species").is_in(taxa["species"].implode()))[
            "media_id"
        ],
    }
    return [f"{law}: {', '.join(sorted(bad)[:5])} ({len(bad)} in all)" for law, bad in laws.items() if len(bad)]
