"""`biovita data records|build`: sources to records, and records to a dataset folder."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from biovita.errors import EXIT_BAD_ITEMS, ConfigError, DatasetError
from biovita.log import N_LISTED, SETTINGS, emit, say
from biovita.media.check import Limits

if TYPE_CHECKING:
    import polars as pl

    from biovita.sources.http import Door
    from biovita.sources.record import Reading
    from biovita.taxonomy.checklist import Checklist

N_HOSTS = 5


@dataclass(frozen=True, kw_only=True)
class Records:
    """Turn a saved dump, saved answers, or a query of a public source into a table of records."""

    source: tyro.conf.Positional[str]
    """KIND:PATH, of the kinds files (a table, species folders, Raven or BirdNET selections), xeno-canto, inaturalist,
    gbif, animal-sound-archive, tree-of-life, biovita-release"""
    out: Path
    """a Parquet file, which `data build --sources records:FILE` takes"""
    query: str = ""
    """first ask the source, in its own words (xeno-canto: 'gen:turdus q:A'; inaturalist: 'taxon_id=3&sounds=true'), and
    save the answers at PATH page by page; a page that is there is not asked for again"""
    contact: str = ""
    """your e-mail or web address, for the operators of the source"""
    files_licence: str = ""
    """files: of a tree of species folders or of selection tables, which name none"""
    species_of: Path | None = None
    """inaturalist's open data, tree-of-life: only the species of this table (column species or scientific_name)"""
    per_species: int = 200
    """tree-of-life: most pictures of a species"""
    seed: int = 0
    """tree-of-life: of which pictures these are"""


@dataclass(frozen=True, kw_only=True)
class Build:
    """Build a dataset folder from a table of local files, or from sources."""

    out: Path
    """the dataset folder; the same build goes on where it was stopped"""
    manifest: Path | None = None
    """TSV, CSV or Parquet with path (relative to the table), scientific_name, modality, and any other record columns"""
    sources: tuple[str, ...] = ()
    """what else to build from, each KIND:PATH, the most trusted first; `data records --help` has the kinds, and
    `records` takes a table that it made"""
    taxa: tuple[Path, ...] = ()
    """name lists, the most trusted first: a backbone or any table with the seven ranks, the eBird CSV, BirdNET-Go's
    genus JSON, common names; by default taxa.parquet beside the manifest"""
    traits: Path | None = None
    """folder with AVONET, EltonTraits, AmphiBIO, COMBINE and AnAge as published"""
    seed: int = 0
    """of the splits and of what a cap leaves; another seed withholds other species"""
    withheld: float = 0.1
    """species kept out of training for test_unseen: a number of them, or a share below 1"""
    license: str = ""
    """comma-separated licence families to use, like cc0,public-domain,cc-by; by default every known licence"""
    quality: Literal["", "A", "B", "C", "D", "E"] = ""
    """the worst quality that enters, among records that have a letter"""
    max_recordings: int = 0
    """most recordings a species; 0 takes all"""
    max_images: int = 0
    """most pictures a species; 0 takes all, of tree-of-life 200"""
    files_licence: str = ""
    """of `files` sources that name none: species folders, selection tables"""
    contact: str = ""
    """your e-mail or web address, for the operators of the hosts that media are fetched from"""
    hosts: tuple[str, ...] = ()
    """exact names of hosts that media may be fetched from, besides those of the public sources"""
    limits: Limits = field(default_factory=lambda: Limits(seconds=60.0))
    """what a file may be and cost"""
    workers: int = 2
    """processes that check files and threads that fetch; the result does not depend on it"""
    engine: Literal["local", "ray"] = "local"
    """where files are checked: on this machine, or on a cluster through Ray; the result does not depend on it"""
    shard: str = ""
    """i/n: take in only the i-th of n parts, and stop before the tables; run without it when all parts are done"""


def run_records(config: Records) -> int:
    """Fetch if asked to, read, write the table and say what was met."""
    from biovita.sources.kinds import fetch_source, parse_source, read_source
    from biovita.sources.record import RECORDS_SCHEMA
    from biovita.tables import write_table

    kind, path = parse_source(config.source)
    if config.out.suffix != ".parquet" or config.out.is_dir():
        raise ConfigError(f"--out {config.out}: name a file that ends in .parquet")
    if config.query:
        if SETTINGS.offline:
            raise ConfigError("--query asks a server, and --offline forbids it; leave one of them out")
        with _open_door((), config.contact) as door:
            pages = fetch_source(kind, door, config.query, path)
        say(f"{path}: {len(pages):,} pages saved")
    reading = read_source(
        kind,
        path,
        licence=config.files_licence or None,
        species=_species_of(config.species_of) if config.species_of else None,
        per_species=config.per_species,
        seed=config.seed,
    )
    try:
        write_table(config.out, reading.records, RECORDS_SCHEMA)
    except OSError as error:
        raise DatasetError(f"{config.out}: {error.strerror}; choose a folder that can be written") from error
    say(f"{config.out}: {len(reading.records):,} records")
    _say_counts(reading)
    if SETTINGS.json:
        emit({"records": str(config.out), "n": len(reading.records), "counts": dict(reading.counts)})
    return 0


def run_build(config: Build) -> int:
    """Build the dataset, say what came of it, and list what was refused."""
    from biovita.config import describe_run, write_run
    from biovita.data.build import Choice, build_dataset, take_in_part
    from biovita.files import sha256_file
    from biovita.report.card_plots import draw_card

    _check(config)
    part = _part(config.shard)
    caps = {"audio": config.max_recordings, "image": config.max_images}
    choice = Choice(
        licences=families_of(config.license),
        caps={modality: cap for modality, cap in caps.items() if cap},
        quality=config.quality or None,
    )
    sources = _sources(config)
    checklist = _checklist(config)
    tables = _read_sources(config, sources, checklist)
    with ExitStack() as stack:
        door = None
        remote = any((table["file"].is_null() & table["url"].is_not_null()).any() for table in tables)
        if remote and not SETTINGS.offline:
            door = stack.enter_context(_open_door(config.hosts, config.contact))
            _say_foreign_hosts(tables, door.policy.hosts)
        shared = {
            "choice": choice,
            "workers": config.workers,
            "limits": config.limits,
            "door": door,
            "seed": config.seed,
        }
        if part:
            n_ok, n_bad = take_in_part(tables, checklist, config.out, part=part, **shared)
            say(f"{config.out}: part {config.shard}: {n_ok:,} files taken in, {n_bad:,} refused")
            return EXIT_BAD_ITEMS if n_bad else 0
        named = [path for path in (config.manifest, *_name_lists(config)) if path and path.is_file()]
        facts = {"inputs": {str(path): sha256_file(path) for path in named}}
        report = build_dataset(
            tables,
            checklist,
            config.out,
            withheld=config.withheld,
            engine=config.engine,
            draw=draw_card,
            run=describe_run(config, **facts),
            **shared,
        )
    write_run(config.out, config, **facts)
    left_out = f", {report.n_left_out:,} over a cap or below the quality" if report.n_left_out else ""
    say(
        f"{config.out}: {report.n_ok:,} files of {report.n_species:,} species ({report.n_withheld:,} withheld), "
        f"{report.n_quarantined:,} refused{left_out}"
    )
    _list_refused(report.refused)
    if empty := empty_splits(config.out):
        say(f"  no files in {', '.join(empty)}: so few files a species leave splits empty that `bench make` asks for")
    if SETTINGS.json:
        reasons = dict(report.refused["reason"].value_counts().iter_rows())
        emit({"dataset": str(config.out), "ok": report.n_ok, "quarantined": report.n_quarantined, "reasons": reasons})
    return EXIT_BAD_ITEMS if report.n_bad_media else 0


def empty_splits(dataset: Path) -> list[str]:
    """Name the splits of a dataset that lack all recordings or all pictures, although it has such."""
    import polars as pl

    from biovita.data.dataset import Dataset

    media = Dataset.open(dataset).media
    named = {"audio": "recordings", "image": "pictures"}
    return [
        f"{split} ({named[modality]})"
        for split in ("val", "test_seen", "test_unseen")
        for modality in sorted(media["modality"].unique())
        if media.filter((pl.col("split") == split) & (pl.col("modality") == modality)).is_empty()
    ]


def _check(config: Build) -> None:
    """Refuse numbers that mean nothing, and names that lead nowhere."""
    if not 0 <= config.withheld < math.inf:
        raise ConfigError(f"--withheld {config.withheld:g}: use a number of species, or a share below 1")
    if config.workers < 1:
        raise ConfigError(f"--workers {config.workers}: use at least 1")
    if config.shard and config.engine == "ray":
        raise ConfigError(f"--shard {config.shard}: a part is checked on this machine; leave out --engine ray")
    for flag, cap in (("--max-recordings", config.max_recordings), ("--max-images", config.max_images)):
        if cap < 0:
            raise ConfigError(f"{flag} {cap}: use a number of files a species, or 0 for all")
    for host in config.hosts:
        if not re.fullmatch(r"[a-z0-9.-]+", host):
            raise ConfigError(f"--hosts {host}: write the name alone, in lower case, as in media.example.org")
    if config.traits and not config.traits.is_dir():
        raise ConfigError(f"--traits {config.traits}: no such folder")


def _sources(config: Build) -> "list[tuple[str, Path]]":
    """List what to build from, kind and path."""
    from biovita.sources.kinds import parse_source

    given = [("files", config.manifest)] if config.manifest else []
    for text in config.sources:
        kind, path = parse_source(text)
        if not path.exists():
            raise ConfigError(f"--sources {text}: no such file or folder")
        given.append((kind, path))
    if not given:
        raise ConfigError("data build: name a table of files (--manifest) or sources (--sources KIND:PATH ...)")
    return given


def _read_sources(config: Build, sources: "list[tuple[str, Path]]", checklist: "Checklist") -> "list[pl.DataFrame]":
    """Read every source, the catalogue of pictures last: for the species that the others have."""
    import polars as pl

    from biovita.sources.kinds import CATALOGUE, read_source

    tables = []
    for kind, path in sorted(sources, key=lambda source: source[0] == CATALOGUE):
        wanted = None
        if kind == CATALOGUE:
            if not tables:
                raise ConfigError(f"--sources {CATALOGUE}:{path}: name the source of the recordings too")
            names = pl.concat(table.select("scientific_name") for table in tables).unique()
            wanted = set(checklist.decide_all(names)["species"].drop_nulls())
        reading = read_source(
            kind,
            path,
            licence=config.files_licence or None,
            species=wanted,
            per_species=config.max_images or 200,
            seed=config.seed,
        )
        say(f"{kind} {path}: {len(reading.records):,} records")
        _say_counts(reading)
        tables.append(reading.records)
    return tables


def _checklist(config: Build) -> "Checklist":
    import polars as pl

    from biovita.taxonomy.checklist import Checklist
    from biovita.taxonomy.trait_tables import read_traits, trait_sources

    checklist = Checklist.open(_name_lists(config))
    for name, n_species, n_names, n_unused in checklist.lists.iter_rows():
        say(f"taxa {name}: {n_species:,} species, {n_names:,} names, {n_unused:,} not used")
    if config.traits:
        traits = read_traits(config.traits, checklist)
        known = traits.table
        say(f"traits {config.traits}: {len(known):,} species")
        speaking = [name for name, source in trait_sources().items() if source.rules]
        for row in traits.counts.filter(pl.col("source").is_in(speaking)).iter_rows(named=True):
            say(
                f"  {row['source']}: {row['n_rows']:,} rows; {row['n_same']:,} names that the lists accept, "
                f"{row['n_synonym']:,} synonyms, {row['n_moved']:,} under another genus, {row['n_unresolved']:,} of no "
                f"species in the lists, {row['n_bad_name'] + row['n_blank']:,} rows without a species"
            )
        if checklist.traits is not None:  # those of a name list, where the tables lack the species
            both = pl.concat([known, checklist.traits], how="diagonal")
            known = both.unique("species", keep="first", maintain_order=True)
        checklist.traits = known
    return checklist


def _name_lists(config: Build) -> list[Path]:
    if config.taxa:
        return list(config.taxa)
    if config.manifest is None:
        raise ConfigError("--taxa: name a list of species: a backbone, the eBird CSV, any table with the seven ranks")
    beside = config.manifest.parent / "taxa.parquet"
    if not beside.is_file():
        raise ConfigError(f"--taxa: name a list of species; there is no {beside} to take instead")
    return [beside]


@contextmanager
def _open_door(hosts: tuple[str, ...], contact: str) -> "Iterator[Door]":
    from biovita.sources.address import Policy
    from biovita.sources.budget import Budgets, default_path
    from biovita.sources.http import Door
    from biovita.sources.kinds import HOSTS

    policy = Policy(hosts=(*HOSTS, *hosts))
    with Budgets(default_path()) as budgets, Door(policy, budgets, contact=contact) as door:
        yield door


def _say_foreign_hosts(tables: "list[pl.DataFrame]", hosts: tuple[str, ...]) -> None:
    """Say how many files lie where nobody allowed us to ask: the hosts of GBIF's publishers, for the most part."""
    import polars as pl

    urls = pl.concat(table.filter(pl.col("file").is_null())["url"] for table in tables).drop_nulls()
    foreign = urls.str.to_lowercase().str.extract("^https?://([^/:?#]+)").drop_nulls()
    counts = foreign.filter(~foreign.is_in(hosts)).value_counts().sort(["count", "url"], descending=[True, False])
    if len(counts):
        most = ", ".join(f"{host} ({n:,})" for host, n in counts.head(N_HOSTS).iter_rows())
        rest = f" and {len(counts) - N_HOSTS:,} more" if len(counts) > N_HOSTS else ""
        n = counts["count"].sum()
        say(f"{n:,} file{'s' * (n > 1)} on hosts that are not asked: {most}{rest}; add them with --hosts")


def _species_of(path: Path) -> set[str]:
    from biovita.tables import read_table

    table = read_table(path)
    for column in ("species", "scientific_name"):
        if column in table.columns:
            return set(table[column].drop_nulls().unique())
    raise DatasetError(f"{path}: no column species or scientific_name")


def families_of(text: str) -> list[str] | None:
    """Read a comma-separated list of licence families; None if it is empty.

    Raises:
        ConfigError: one of them is unknown.
    """
    from biovita.sources.licence import FAMILIES

    families = [family.strip().lower() for family in text.split(",") if family.strip()]
    for family in families:
        if family not in FAMILIES:
            raise ConfigError(f"--license {family}: unknown; use {', '.join(FAMILIES)}")
    return families or None


def _part(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"--shard {text}: write i/n, from 1/n to n/n")
    return int(found[1]), int(found[2])


def _say_counts(reading: "Reading") -> None:
    for what, n in sorted(reading.counts.items()):
        if what != "records":  # said already
            say(f"  {what}: {n:,}")


def _list_refused(refused: "pl.DataFrame") -> None:
    for media_id, reason, detail in refused.head(N_LISTED).select("media_id", "reason", "detail").iter_rows():
        say(f"  {reason}: {_printable(media_id)} ({_printable(detail)})")
    if len(refused) > N_LISTED:
        rest = Counter(refused["reason"][N_LISTED:].to_list())
        say(f"  and {len(refused) - N_LISTED:,} more: {', '.join(f'{n:,} {r}' for r, n in rest.most_common())}")
    if len(refused):
        say("  quarantine.parquet has them all")


def _printable(text: str) -> str:
    """Write out what would command a terminal or show in another order."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
