"""`biovita label add|export|import|next|find`: teach an archive a name by saying yes and no to hits."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from biovita.errors import ConfigError
from biovita.log import SETTINGS, emit, say

if TYPE_CHECKING:
    from biovita.search.archive import Hit


@dataclass(frozen=True, kw_only=True)
class Label:
    """Say of hits whether a name fits."""

    archive: tyro.conf.Positional[str]
    """The archive's folder or address."""
    ids: tyro.conf.Positional[tuple[str, ...]]
    """Ids of hits, as a search shows them."""
    name: str
    """What is said of them: a species, 'rain', a call type of your own."""
    answer: Literal["yes", "no", "unsure"]
    """Whether it fits; the last answer counts."""
    who: str = ""
    """Who says so."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the labels that count as a table."""

    archive: tyro.conf.Positional[str]
    """The archive's folder or address."""
    out: Path
    """CSV, TSV or Parquet file to write: hit, name, answer, who, at, path, start_s, end_s."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Add the labels of a table; those that are there already are left alone."""

    archive: tyro.conf.Positional[str]
    """The archive's folder or address."""
    table: tyro.conf.Positional[Path]
    """CSV, TSV or Parquet with the columns hit, name and answer, and where known who and at."""


@dataclass(frozen=True, kw_only=True)
class Next:
    """Show what to label next for a name: hits of which the archive is least sure, and that differ."""

    archive: tyro.conf.Positional[str]
    """The archive's folder or address."""
    name: str
    """What is learned."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 20
    """Hits, 1 to 100."""
    where: str = ""
    """A filter, as for `biovita search`."""


@dataclass(frozen=True, kw_only=True)
class Find:
    """Rank an archive by a linear probe that is learned from the labels of a name."""

    archive: tyro.conf.Positional[str]
    """The archive's folder or address."""
    name: str
    """What was learned; needs at least one yes and one no."""
    to: Literal["any", "audio", "image"] = "any"
    """What to find."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 20
    """Hits, 1 to 100."""
    where: str = ""
    """A filter, as for `biovita search`."""


def run_label(config: Label) -> int:
    """Add one label to each hit."""
    from biovita.search import labels
    from biovita.search.archive import Archive

    if not config.ids:
        raise ConfigError(f"label add {config.archive}: name hits by id, as `biovita search` shows them")
    archive = Archive.open(config.archive)
    told = [labels.Label(hit=hit, name=config.name, answer=config.answer, who=config.who) for hit in config.ids]
    labels.write_labels(archive, told)
    counts = labels.label_counts(archive)[config.name]
    if SETTINGS.json:
        emit({"archive": config.archive, "name": config.name, **counts})
    say(f"{config.archive}: {config.name}: " + ", ".join(f"{n} {answer}" for answer, n in counts.items()))
    return 0


def run_export(config: Export) -> int:
    """Write the table."""
    from biovita.search.archive import Archive
    from biovita.search.labels import export_labels

    if config.out.suffix.lower() not in (".csv", ".tsv", ".parquet"):
        raise ConfigError(f"--out {config.out}: a table ends in .csv, .tsv or .parquet")
    if config.out.is_dir():
        raise ConfigError(f"--out {config.out}: is a folder; name a file to write")
    n_labels = export_labels(Archive.open(config.archive), config.out)
    if SETTINGS.json:
        emit({"out": str(config.out), "n_labels": n_labels})
    say(f"{config.out}: {n_labels:,} labels")
    return 0


def run_import(config: Import) -> int:
    """Read the table and add what is new."""
    from biovita.search.archive import Archive
    from biovita.search.labels import import_labels

    n_labels = import_labels(Archive.open(config.archive), config.table)
    if SETTINGS.json:
        emit({"archive": config.archive, "n_labels": n_labels})
    say(f"{config.archive}: {n_labels:,} labels added")
    return 0


def run_next(config: Next) -> int:
    """Print the queue."""
    from biovita.search.archive import Archive
    from biovita.search.labels import review_queue

    return show(review_queue(Archive.open(config.archive), config.name, k=config.k, where=config.where or None))


def run_find(config: Find) -> int:
    """Fit the probe and print what fits it best."""
    from biovita.search.archive import Archive
    from biovita.search.labels import fit_probe, rank_by_probe

    archive = Archive.open(config.archive)
    probe = fit_probe(archive, config.name)
    say(f"{config.name}: a probe of {probe.n_yes} yes and {probe.n_no} no")
    return show(rank_by_probe(archive, probe, k=config.k, to=config.to, where=config.where or None))


def show(hits: "list[Hit]") -> int:
    """Print hits as `biovita search` does."""
    from biovita.commands import search

    search.show(hits, nothing="nothing is left to show")
    return 0
