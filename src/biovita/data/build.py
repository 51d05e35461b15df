"""Records to a dataset folder, top to bottom.

    plan     one row an id -> names -> licences, quality, caps                    (metadata only)
    take in  fetch or read -> check in limited children -> `media/` by content    (goes on from the ledger)
    settle   exact and near-duplicates -> splits -> tables -> card -> manifest, last

A record ends as one row of `media.parquet` or of `quarantine.parquet`, or is counted as over a cap; never as none or
two of them: that is asserted. Stopped at any point, the same call goes on: verdicts are in
`ledger.sqlite`, files are under their final name. The tables depend on inputs and seed alone, not on workers, order,
engine, or how often the build was stopped.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import polars as pl

from biovita.data.card import write_card
from biovita.data.dataset import (
    MEDIA_FOLDER,
    MEDIA_SCHEMA,
    NAMES_SCHEMA,
    QUARANTINE_SCHEMA,
    SCHEMA_VERSION,
    TAXA_SCHEMA,
    Dataset,
    law_breaks,
)
from biovita.data.dedupe import NearDuplicates, near_duplicates
from biovita.data.download import INCOMING, fetch_media
from biovita.data.groups import merged
from biovita.data.intake import Check, Facts, take_in_files
from biovita.data.ledger import Ledger
from biovita.data.select import dedupe_ids, select
from biovita.data.split import hash_numbers, split
from biovita.errors import DatasetError
from biovita.files import MANIFEST, atomic_path, read_manifest, write_manifest
from biovita.media.check import Limits, check_files, policy
from biovita.media.reasons import MEDIA_REASONS, REASONS
from biovita.sources.http import Door
from biovita.tables import occurs_again, write_table
from biovita.taxonomy.checklist import HINTS, Checklist
from biovita.taxonomy.rank import LEVELS, RANKS

LEDGER = "ledger.sqlite"
PART_LEDGER = re.compile(r"ledger-\d+-of-\d+\.sqlite")
CARD_PLOT = "card.png"
TABLES = ["media.parquet", "taxa.parquet", "quarantine.parquet", "names.parquet", "card.md", "croissant.json",
          "CREDITS.csv"]  # fmt: skip
BUILDER_LIMITS = Limits(seconds=60.0)  # long recordings on a busy machine; an upload gets 5 s
HASHED_ROWS = 100_000  # at a time
KEYS = ("media_id", "url", "source", "scientific_name", "modality", "licence", "quality")

Engine = Literal["local", "ray"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What may enter a dataset, by its metadata.

    Attributes:
        licences: families that may be used (`licence.FAMILIES`); None takes every known licence.
        caps: most files a species, by modality.
        quality: the worst grade (A to E) that enters, among records that have one; None takes all.
    """

    licences: Collection[str] | None = None
    caps: Mapping[str, int] = field(default_factory=dict)
    quality: str | None = None


ALL = Choice()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the metadata alone decides; every record is in `wanted`, in `refused` or counted in `left_out`.

    Attributes:
        wanted: records to take in, sorted by media_id, with the `species` and `class` of their name, and the `turn` of
            their source.
        refused: QUARANTINE_SCHEMA.
        left_out: `n` records by species, modality and reason (cap, quality).
        names: the decision on every distinct name (NAMES_SCHEMA).
        n_records: by source, all records.
    """

    wanted: pl.DataFrame
    refused: pl.DataFrame
    left_out: pl.DataFrame
    names: pl.DataFrame
    n_records: pl.DataFrame


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build came to.

    Attributes:
        refused: QUARANTINE_SCHEMA, sorted.
    """

    n_ok: int
    n_left_out: int
    n_species: int
    n_withheld: int
    refused: pl.DataFrame

    @property
    def n_quarantined(self) -> int:
        """Count the refused records."""
        return len(self.refused)

    @property
    def n_bad_media(self) -> int:
        """Count what was refused for a file that is bad or did not arrive, rather than for its metadata."""
        return len(self.refused.filter(pl.col("reason").is_in([*MEDIA_REASONS, "download_failed"])))


def build_dataset(
    tables: Sequence[pl.DataFrame],
    checklist: Checklist,
    out: Path,
    *,
    seed: int,
    withheld: float,
    choice: Choice = ALL,
    workers: int = 1,
    limits: Limits = BUILDER_LIMITS,
    door: Door | None = None,
    engine: Engine = "local",
    draw: Callable[[Path, Path], None] | None = None,
    run: Mapping[str, Any] | None = None,
) -> BuildReport:
    """Build a dataset folder from records.

    Args:
        tables: records (RECORDS_SCHEMA) of each source, the most trusted first.
        checklist: the accepted names, with traits and common names if it has any.
        out: a new folder, or one that the same build left unfinished or finished.
        seed: of caps and splits.
        withheld: how many species go to test_unseen if 1 or more, else the share of the species.
        choice: what may enter.
        workers: processes that check files, and threads a host that fetch; the result does not depend on it.
        limits: what a file may be and cost.
        door: fetches records that have a URL and no file; without one, what is not in `out` already is refused.
        engine: checks files on this machine, or through Ray on a cluster; the result does not depend on it.
        draw: draws the card's picture from the folder to a path.
        run: facts for the manifest.

    Raises:
        DatasetError: `out` holds something else or is in use, nothing usable is left, or too few species can be
            withheld.
    """
    out = Path(out)
    if not any(len(table) for table in tables):
        raise DatasetError(f"{out}: the sources hold no record to build from; what was met instead is counted above")
    inputs = _hash_inputs(tables, checklist, seed, withheld, choice)
    with _claimed(out, inputs):
        plan = plan_dataset(tables, checklist, choice, seed=seed)
        with Ledger(out / LEDGER, policy(limits)) as ledger:
            ledger.gather(sorted(out.glob("ledger-*-of-*.sqlite")))
            facts = take_in(plan.wanted, out, ledger, workers=workers, limits=limits, door=door, engine=engine)
        media, refused, near = settle(plan, facts)
        if not len(media):
            raise DatasetError(f"{out}: none of {plan.n_records['n'].sum()} records is usable; {_reasons(refused)}")
        drawn = split(media, seed=seed, withheld=withheld)
        media = media.with_columns(drawn.of)
        taxa = write_tables(out, media, plan, refused, checklist, drawn.withheld)
        counts = _counts(plan, media, refused, taxa, near)
        finish(
            Dataset(
                out,
                {
                    "schema": SCHEMA_VERSION,
                    "kind": "dataset",
                    "made_up": "world" in set(media["source"].unique()),
                    "seed": seed,
                    "inputs": inputs,
                    "counts": counts,
                    "run": dict(run or {}),
                },
            ),
            draw,
        )
    return BuildReport(
        n_ok=len(media),
        n_left_out=counts["left_out"],
        n_species=len(taxa),
        n_withheld=len(drawn.withheld),
        refused=refused,
    )


def take_in_part(
    tables: Sequence[pl.DataFrame],
    checklist: Checklist,
    out: Path,
    *,
    part: tuple[int, int],
    seed: int,
    choice: Choice = ALL,
    workers: int = 1,
    limits: Limits = BUILDER_LIMITS,
    door: Door | None = None,
) -> tuple[int, int]:
    """Take in one part of the files, for a queue of batch jobs, and stop before the tables.

    Each part keeps a ledger of its own, so that parts may run at the same time, on machines that share `out`. When all
    are done `build_dataset` finds every file known.

    Arguments are those of `build_dataset`, and `part`: (i, n) is the i-th of n parts, counted from 1.

    Returns:
        How many files are usable, and how many are not.

    Raises:
        DatasetError: `out` holds something else or is in use.
    """
    i, n = part
    out = Path(out)
    _check_ours(out)
    with _locked(out, shared=True):
        plan = plan_dataset(tables, checklist, choice, seed=seed)
        entries = plan.wanted.select(pl.coalesce("file", "url", pl.lit(""))).to_series()
        mine = hash_numbers(0, "part", entries) % n == i - 1
        with Ledger(out / f"ledger-{i}-of-{n}.sqlite", policy(limits)) as ledger:
            wanted = plan.wanted.filter(mine)
            facts = take_in(wanted, out, ledger, workers=workers, limits=limits, door=door)
    n_bad = len(facts.filter(pl.col("reason").is_not_null()))
    return len(facts) - n_bad, n_bad


def plan_dataset(tables: Sequence[pl.DataFrame], checklist: Checklist, choice: Choice, *, seed: int) -> Plan:
    """Decide by the metadata alone which records to take in, and refuse the others with a reason.

    Args:
        tables: records (RECORDS_SCHEMA) of each source, the most trusted first.
        checklist: the accepted names.
        choice: what may enter.
        seed: of the caps.
    """
    n_records = pl.concat(table["source"] for table in tables).value_counts(name="n")
    # decided on narrow rows; the wide ones are gathered once, at the end
    outside = (pl.col("file").is_null() & pl.col("given_path").is_not_null()).alias("outside")
    starts = accumulate((len(table) for table in tables), initial=0)
    hints = [name for name in HINTS if any(table[name].null_count() < len(table) for table in tables)]
    rows = [
        table.select(*KEYS, *hints, outside, pl.lit(turn, pl.UInt32).alias("turn")).with_row_index("row", start)
        for turn, (table, start) in enumerate(zip(tables, starts, strict=False))
    ]
    keys, twice = dedupe_ids(rows)
    unsafe = keys.filter("outside")
    keys, names = _resolve(keys.filter(~pl.col("outside")), hints, checklist)
    unknown = keys.filter(pl.col("species").is_null())
    unnamed = select(unknown, caps={}, licences=choice.licences, quality=None, seed=seed)
    chosen = select(
        keys.filter(pl.col("species").is_not_null()),
        caps=choice.caps,
        licences=choice.licences,
        quality=choice.quality,
        seed=seed,
    )
    kept = chosen.kept.select("row", "media_id", "species", "class", "turn").sort("media_id")
    records = pl.concat(table.drop(name for name in HINTS if name != "given_common_name") for table in tables)
    wanted = records[kept["row"]].with_columns(kept["species"], kept["class"], kept["turn"])
    given_paths = records[unsafe["row"]].select("media_id", "given_path")
    return Plan(
        wanted=wanted,
        refused=pl.concat(
            [
                twice,
                _refusals(given_paths, "unsafe_name", _why_outside()),
                unnamed.refused,
                chosen.refused,
                _refusals(unnamed.kept, "name_unresolved", pl.col("name_reason")),
            ]
        ),
        left_out=chosen.left_out,
        names=names,
        n_records=n_records,
    )


def _why_outside() -> pl.Expr:
    """Say why the given path of a record is none within the folder of its table."""
    given = pl.col("given_path")
    absolute = pl.format("{}: starts at the root; write it relative to its table", given)
    return (
        pl.when(given.str.strip_chars() == "")
        .then(pl.lit("it has neither a path nor a URL"))
        .when(given.str.starts_with("/"))
        .then(absolute)
        .otherwise(pl.format("{}: leaves the folder of its table", given))
    )


def _resolve(keys: pl.DataFrame, hints: Sequence[str], checklist: Checklist) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Find the species of every name: rows with `species`, `class` and `name_reason`, without hints; and the log."""
    by = ["scientific_name", *hints]
    names = _one_lineage(checklist.decide_all(keys.select(by).unique()))
    decided = names.select(*by, "species", "class", pl.col("reason").alias("name_reason"))
    named = keys.join(decided, on=by, how="left", nulls_equal=True, maintain_order="left")
    unsaid = [pl.lit(None, pl.String).alias(name) for name in HINTS if name not in hints]
    return named.drop(hints), names.with_columns(unsaid)


def _one_lineage(names: pl.DataFrame) -> pl.DataFrame:
    """Refuse a name whose species is spelled like another animal's: one binomial is one species in a dataset.

    Of two, the one with more names in the log stays; of equals, the first by lineage.
    """
    lineages = (
        names.drop_nulls("species").group_by(RANKS).len().sort("len", *RANKS, descending=[True, *[False] * len(RANKS)])
    )
    homonyms = lineages.filter(pl.col("species").is_duplicated())
    if not len(homonyms):
        return names
    kept = homonyms.unique("species", keep="first", maintain_order=True)
    others = homonyms.join(kept, on=RANKS, how="anti", nulls_equal=True).select(
        *RANKS, pl.lit(value=True).alias("other")
    )
    marked = names.join(others, on=RANKS, how="left", nulls_equal=True, maintain_order="left")
    said = pl.format("'{}': a homonym; the dataset has another animal of that name", "scientific_name")
    is_other = pl.col("other").fill_null(value=False)
    return marked.with_columns(
        pl.when(is_other).then(said).otherwise("reason").alias("reason"),
        pl.when(is_other).then(pl.lit("refused")).otherwise("how").alias("how"),
        *(pl.when(~is_other).then(level).alias(level) for level in LEVELS),
    ).drop("other")


def take_in(
    wanted: pl.DataFrame,
    out: Path,
    ledger: Ledger,
    *,
    workers: int,
    limits: Limits,
    door: Door | None = None,
    engine: Engine = "local",
) -> pl.DataFrame:
    """Read or fetch what the records name, check it and store it; return FACT_SCHEMA, one row a path or URL."""
    check: Check = partial(check_files, workers=workers, limits=limits)
    files = wanted["file"].drop_nulls().unique().sort().to_list()
    many = check
    if engine == "ray":
        from biovita.data.scale import check_on_ray  # noqa: PLC0415 - an extra, and takes seconds to load

        many = partial(check_on_ray, out=out, limits=limits, workers=workers)
    facts = Facts()
    take_in_files(files, out, ledger, many, facts)
    remote = wanted.filter(pl.col("file").is_null()).select("url", "modality").drop_nulls().unique("url").sort("url")
    if len(remote):
        fetch_media(dict(remote.iter_rows()), out, ledger, door, found=facts.add, check=check, workers=workers)
    return facts.table()


def settle(plan: Plan, facts: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, NearDuplicates]:
    """Join records with what their files are, refuse bad files and exact copies, and find near-duplicates.

    Returns:
        Usable rows sorted by media_id, with `group` (what must share a split) and without `split`; all refusals; the
        near-duplicates.
    """
    entry = pl.coalesce("file", "url").alias("entry")
    shown = pl.coalesce("given_path", "url", pl.lit("no file and no URL")).alias("shown")
    no_entry = pl.when(pl.col("entry").is_null()).then(pl.lit("download_failed"))
    said = facts.select("entry", "reason", "detail", "found", "sha256")
    looked = plan.wanted.select("media_id", "modality", "species", "turn", entry, shown)
    looked = looked.join(said, on="entry", how="left", maintain_order="left").with_columns(
        no_entry.otherwise("reason").alias("reason"), pl.col("detail").fill_null("nothing to take in")
    )
    bad = looked.filter(pl.col("reason").is_not_null())
    good = looked.filter(pl.col("reason").is_null())
    other = good.filter(pl.col("found") != pl.col("modality"))
    good = good.filter(pl.col("found") == pl.col("modality"))
    copies = good.filter(occurs_again(good["sha256"])).sort("turn", "media_id")  # the most trusted source stays
    copies = copies.with_columns(pl.col("media_id", "species").first().over("sha256").name.prefix("first_"))
    copies = copies.filter(pl.col("media_id") != pl.col("first_media_id"))
    differs = pl.when(pl.col("species") != pl.col("first_species"))
    called = differs.then(pl.format(", which is called {}", "first_species")).otherwise(pl.lit(""))
    refused = pl.concat(
        [
            plan.refused,
            _refusals(bad, pl.col("reason"), pl.format("{}: {}", "shown", "detail")),
            _refusals(other, "wrong_modality", pl.format("{}: {} where {} should be", "shown", "found", "modality")),
            _refusals(copies, "duplicate", pl.format("{}: same bytes as {}{}", "shown", "first_media_id", called)),
        ]
    )
    usable = good.join(copies, on="media_id", how="anti", maintain_order="left").select("media_id", "entry")
    media = (
        usable.join(plan.wanted.drop("file", "given_path", "turn"), on="media_id", how="left", maintain_order="left")
        .join(facts.drop("reason", "detail", "found"), on="entry", how="left", maintain_order="left")
        .drop("entry")
    )
    near = near_duplicates(media)
    cluster = media.join(near.clusters, on="media_id", how="left", maintain_order="left")["cluster"]
    known = media.select(
        pl.coalesce("individual", "media_id").alias("group"),
        pl.coalesce("given_individual", "individual").alias("other"),
    )
    group = merged(known["group"], known["other"], cluster)
    return media.with_columns(group), refused.sort("media_id", "reason", "detail"), near


def write_tables(
    out: Path, media: pl.DataFrame, plan: Plan, refused: pl.DataFrame, checklist: Checklist, withheld: Collection[str]
) -> pl.DataFrame:
    """Write the four tables of a dataset, and return the one of its taxa.

    Args:
        out: the dataset folder.
        media: usable rows with `split`, sorted by media_id.
        plan: whose names are kept.
        refused: QUARANTINE_SCHEMA.
        checklist: for lineages, traits and common names.
        withheld: the species of test_unseen.
    """
    taxa = _taxa_table(media, plan.names, checklist, withheld)
    assert set(refused["reason"].unique()) <= set(REASONS), "a reason outside the vocabulary"
    assert not (broken := law_breaks(media, taxa)), broken
    lineages = taxa.select(*LEVELS)
    whole = media.drop("class").join(lineages, on="species", how="left", maintain_order="left")
    write_table(out / "media.parquet", whole, MEDIA_SCHEMA)
    write_table(out / "taxa.parquet", taxa, TAXA_SCHEMA)
    write_table(out / "quarantine.parquet", refused, QUARANTINE_SCHEMA)
    write_table(out / "names.parquet", plan.names, NAMES_SCHEMA)
    return taxa


def _taxa_table(
    media: pl.DataFrame, names: pl.DataFrame, checklist: Checklist, withheld: Collection[str]
) -> pl.DataFrame:
    """One row a species that has a file: lineage, names, traits."""
    present = media.select("species").unique()
    species = (
        names.select(LEVELS)
        .drop_nulls("species")
        .unique("species", keep="first", maintain_order=True)
        .join(present, on="species", how="semi")
    )
    # a species that no list gives an English name takes the one that its records give most often
    given = (
        media.select("species", "given_common_name")
        .filter(pl.col("given_common_name").str.len_chars() > 0)
        .group_by("species", "given_common_name")
        .len()
        .sort(["species", "len", "given_common_name"], descending=[False, True, False])
        .unique("species", keep="first")
    )
    own = pl.when(pl.col("common_name") != "").then(pl.col("common_name"))
    species = species.join(given, on="species", how="left").with_columns(
        pl.coalesce(own, "given_common_name", pl.lit("")).alias("common_name"),
        pl.col("species").is_in(list(withheld)).alias("withheld"),
    )
    for more in (checklist.traits, _spoken_names(checklist, present)):
        if more is not None:
            species = species.join(more, on="species", how="left")
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in TAXA_SCHEMA.items() if name not in species.columns]
    return species.with_columns(missing).sort("species")


def _spoken_names(checklist: Checklist, present: pl.DataFrame) -> pl.DataFrame | None:
    """Gather the common names of a species as JSON text, `{"de": "Amsel", "en": ...}`."""
    if checklist.common_names is None:
        return None
    rows: dict[str, dict[str, str]] = {}
    spoken = checklist.common_names.join(present, on="species", how="semi")
    for species, language, name in spoken.select("species", "language", "name").iter_rows():
        rows.setdefault(species, {})[language] = name
    texts = [(species, json.dumps(names, sort_keys=True, ensure_ascii=False)) for species, names in rows.items()]
    return pl.DataFrame(texts, {"species": pl.String, "common_names": pl.String}, orient="row")


def finish(dataset: Dataset, draw: Callable[[Path, Path], None] | None) -> None:
    """Write the card, remove what nobody names, and write the manifest, last."""
    folder = dataset.folder
    write_card(dataset)
    tables = list(TABLES)
    if draw is not None:
        with atomic_path(folder / CARD_PLOT) as part:
            draw(folder, part)
        tables.append(CARD_PLOT)
    named = set(pl.read_parquet(folder / "media.parquet", columns=["path"], glob=False)["path"])
    for path in sorted((folder / MEDIA_FOLDER).rglob("*"), reverse=True):
        if path.is_dir():
            with suppress(OSError):  # not empty
                path.rmdir()
        elif os.fspath(path.relative_to(folder)) not in named:
            path.unlink()
    for stale in folder.glob(".*.part"):  # of a build that was killed
        stale.unlink()
    write_manifest(folder, tables, **dataset.manifest)


def _counts(
    plan: Plan, media: pl.DataFrame, refused: pl.DataFrame, taxa: pl.DataFrame, near: NearDuplicates
) -> dict[str, Any]:
    """Count everything; no record may be lost or doubled on the way."""
    n_records, n_left_out = int(plan.n_records["n"].sum()), int(plan.left_out["n"].sum())
    assert n_records == len(media) + len(refused) + n_left_out, "a record was lost or doubled"

    def by(table: pl.DataFrame, column: str) -> dict[str, int]:
        return dict(sorted(table[column].value_counts().iter_rows()))

    used = by(media, "source")
    return {
        "records": n_records,
        "ok": len(media),
        "quarantined": len(refused),
        "left_out": n_left_out,
        "left_out_by_reason": dict(plan.left_out.group_by("reason").agg(pl.col("n").sum()).sort("reason").iter_rows()),
        "species": len(taxa),
        "withheld": int(taxa["withheld"].sum()),
        "near_duplicates": len(near.clusters),
        "groups": near.clusters["cluster"].n_unique(),
        "fingerprints": near.counts,
        "splits": by(media, "split"),
        "modalities": by(media, "modality"),
        "reasons": by(refused, "reason"),
        "names": by(plan.names, "how"),
        "sources": {name: {"records": n, "ok": used.get(name, 0)} for name, n in sorted(plan.n_records.iter_rows())},
    }


@contextmanager
def _claimed(out: Path, inputs: str) -> Iterator[None]:
    """Take a folder that is new, unfinished, or finished from the same inputs, and mark it as unfinished."""
    _check_ours(out)
    if (out / MANIFEST).is_file() and read_manifest(out).get("inputs") != inputs:
        raise DatasetError(
            f"{out}: holds a dataset of other inputs, seed or settings; choose another folder or delete it"
        )
    with _locked(out):
        (out / MANIFEST).unlink(missing_ok=True)
        yield


def _check_ours(out: Path) -> None:
    """Refuse a folder that holds something else than a dataset."""
    held = [path.name for path in out.iterdir()] if out.is_dir() else [str(out)] * out.exists()
    if held and not any(name in (LEDGER, INCOMING) or PART_LEDGER.fullmatch(name) for name in held):
        raise DatasetError(f"{out}: not empty and not a dataset of ours; choose another folder")


@contextmanager
def _locked(out: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a dataset folder against other builds; parts of one build share it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise DatasetError(f"{out}: {error.strerror}; choose another folder") from error
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise DatasetError(f"{out}: another build is at work here; wait for it") from None
    finally:
        os.close(handle)


def _hash_inputs(
    tables: Sequence[pl.DataFrame], checklist: Checklist, seed: int, withheld: float, choice: Choice
) -> str:
    """Hash what the tables depend on, besides the content of the files, which the ledger watches."""
    licences = sorted(choice.licences) if choice.licences else None
    given = [seed, withheld, licences, sorted(choice.caps.items()), choice.quality]
    digest = hashlib.sha256(json.dumps([*given, checklist.fingerprint()]).encode())
    for table in tables:
        for rows in (table if table["media_id"].is_sorted() else table.sort("media_id")).iter_slices(HASHED_ROWS):
            digest.update(rows.write_csv().encode())
    return digest.hexdigest()


def _refusals(rows: pl.DataFrame, reason: str | pl.Expr, detail: pl.Expr) -> pl.DataFrame:
    why = pl.lit(reason) if isinstance(reason, str) else reason
    return rows.select("media_id", why.alias("reason"), detail.alias("detail"))


def _reasons(refused: pl.DataFrame) -> str:
    counts = refused["reason"].value_counts(sort=True).iter_rows()
    example = (
        f"; {media_id}: {detail}" for media_id, detail in refused.select("media_id", "detail").head(1).iter_rows()
    )
    return "reasons: " + ", ".join(f"{n} {reason}" for reason, n in counts) + "".join(example)
