"""Learn from an archive's listeners: what people said about hits, a linear probe from it, and what to ask next.

Labels are a table of the archive to which rows are only ever added; of two about one hit and name the last counts.
A label says of one hit whether a name fits: yes, no or unsure. The name is free: a species, `rain`, `my call type B`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression

from biovita.errors import ArchiveError
from biovita.files import atomic_path
from biovita.search.archive import MAX_K, Archive, Hit, check_k
from biovita.search.query import Example, To, search
from biovita.tables import read_table, require_columns

Answer = Literal["yes", "no", "unsure"]
COLUMNS = ("hit", "name", "answer", "who", "at")
MAX_CHARS = 255
STRENGTH = 10.0  # C of the regression: unit vectors are small numbers, so the usual 1.0 would hardly learn
N_FILTERED = 4096  # most rows that pass a filter among which the queue chooses
N_DOUBTFUL = 8  # times k: of so many doubtful rows the queue takes k that differ


@dataclass(frozen=True, kw_only=True)
class Label:
    """What somebody said about a hit.

    Attributes:
        hit: id of the row.
        name: what was asked about it.
        who: who said it.
        at: when, UTC; now, where it is not given.
    """

    hit: str
    name: str
    answer: Answer
    who: str = ""
    at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear classifier on vectors, from labels.

    Attributes:
        name: what it tells from the rest.
        direction: float32, shape (width,); rows along it fit the name.
        offset: added to the product; above 0 in all, the probe says yes.
        n_yes: labels that it learned from.
        n_no: those that say no.
    """

    name: str
    direction: np.ndarray
    offset: float
    n_yes: int
    n_no: int

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Return how sure it is, shape (n,): above 0 yes, below no; not calibrated."""
        return vectors @ self.direction + self.offset


def write_labels(archive: Archive, labels: Sequence[Label]) -> None:
    """Add labels in one commit.

    Raises:
        ArchiveError: a hit is not in the archive, or a name, an answer or a person cannot be used.
    """
    if not labels:
        return
    for label in labels:
        if label.answer not in get_args(Answer):
            raise ArchiveError(
                f"label of {label.hit}: answer {label.answer!r}; use one of {', '.join(get_args(Answer))}"
            )
        for what, text in (("name", label.name), ("person", label.who)):
            if len(text) > MAX_CHARS or not (text == "" or text.isprintable()):
                raise ArchiveError(
                    f"label of {label.hit}: {what} {text[:40]!r}: use up to {MAX_CHARS} characters of text"
                )
        if not label.name.strip():
            raise ArchiveError(f"label of {label.hit}: has no name; say what the hit is, or is not")
    there = archive.has([label.hit for label in labels])
    missing = [label.hit for label in labels if label.hit not in there]
    if missing:
        raise ArchiveError(f"{archive.uri}: no row {missing[0]!r}; ids are those that a search shows")
    now = datetime.now(UTC)
    archive.append_labels([{**asdict(label), "at": label.at or now} for label in labels])


def read_labels(archive: Archive, *, name: str | None = None) -> list[Label]:
    """Return the last label of each hit and name, in the order in which they were given."""
    table = archive.label_table()
    if name is not None:
        table = table.filter(pl.col("name") == name)
    table = table.unique(["hit", "name"], keep="last", maintain_order=True)
    return [Label(**row) for row in table.select(COLUMNS).iter_rows(named=True)]


def label_counts(archive: Archive) -> dict[str, dict[str, int]]:
    """Count yes, no and unsure for each name."""
    counts = Counter((label.name, label.answer) for label in read_labels(archive))
    return {name: {kind: counts[name, kind] for kind in get_args(Answer)} for name in sorted({n for n, _ in counts})}


def export_labels(archive: Archive, path: Path) -> int:
    """Write the labels that count as CSV, TSV or Parquet by the file's suffix, with path and window of each hit."""
    labels = list(read_labels(archive))
    there = archive.has([label.hit for label in labels])
    hits = {hit.id: hit for hit in archive.get(sorted(there))}
    rows = []
    for label in labels:
        hit = hits.get(label.hit)
        place = {"path": hit.path, "start_s": hit.start_s, "end_s": hit.end_s} if hit else {}
        rows.append({**asdict(label), "path": None, "start_s": None, "end_s": None, **place})
    kinds = {"start_s": pl.Float64, "end_s": pl.Float64, "at": pl.Datetime("us", "UTC")}
    names = (*COLUMNS, "path", "start_s", "end_s")
    table = pl.DataFrame(rows, schema={name: kinds.get(name, pl.String) for name in names})
    with atomic_path(path) as part:
        if path.suffix.lower() == ".parquet":
            table.write_parquet(part)
        else:
            table.with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")).write_csv(
                part, separator="\t" if path.suffix.lower() in (".tsv", ".txt") else ","
            )
    return len(table)


def import_labels(archive: Archive, path: Path) -> int:
    """Add the labels of a table (columns hit, name, answer; who and at where known), but those that were ever written.

    So an old export undoes no correction.

    Raises:
        ArchiveError: a row cannot be used.
        DatasetError: the table cannot be read, or lacks a column.
    """
    table = read_table(path)
    require_columns(table, COLUMNS[:3], path)
    written = archive.label_table().select(*COLUMNS).rows()
    old = {*written, *((*row[:4], None) for row in written)}
    new = []
    for row in table.iter_rows(named=True):
        at = row.get("at")
        try:
            at = datetime.fromisoformat(at) if isinstance(at, str) else at
        except ValueError:
            raise ArchiveError(f"{path}: at {at!r}; write a time such as 2024-05-31T04:30:00Z") from None
        at = at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at
        texts = {name: str(row[name] or "") for name in COLUMNS[:4] if name in row}
        label = Label(**texts, at=at)  # pyright: ignore[reportArgumentType]
        if (label.hit, label.name, label.answer, label.who, at) not in old:
            new.append(label)
    write_labels(archive, new)
    return len(new)


def fit_probe(archive: Archive, name: str) -> Probe:
    """Fit a logistic regression that tells hits with a yes from hits with a no; both count alike, however many.

    Raises:
        ArchiveError: there is no yes or no no for this name.
    """
    labels = [label for label in read_labels(archive, name=name) if label.answer != "unsure"]
    there = archive.has([label.hit for label in labels])
    labels = [label for label in labels if label.hit in there]
    is_yes = np.array([label.answer == "yes" for label in labels], bool)
    n_yes, n_no = int(is_yes.sum()), int((~is_yes).sum())
    if not (n_yes and n_no):
        raise ArchiveError(
            f"{archive.uri}: {name!r} has {n_yes} hits with yes and {n_no} with no; a probe needs one of each"
        )
    vectors = archive.vectors([label.hit for label in labels])
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000).fit(vectors, is_yes)
    direction = model.coef_[0].astype(np.float32)
    return Probe(name=name, direction=direction, offset=float(model.intercept_[0]), n_yes=n_yes, n_no=n_no)


def rank_by_probe(
    archive: Archive, probe: Probe, *, k: int = 20, to: To = "any", where: str | None = None
) -> list[Hit]:
    """Find what fits a probe best; `score` is the cosine to its direction."""
    vector = probe.direction / np.linalg.norm(probe.direction)
    return search(archive, [Example(modality="probe", vector=vector)], to=to, k=k, where=where)


def review_queue(archive: Archive, name: str, *, k: int = 20, where: str | None = None) -> list[Hit]:
    """Choose what to ask next about a name: rows that have no label for it, one a recording.

    With labels of both kinds: those that the probe is least sure of, chosen so that they differ from each other. With
    only yes: those nearest to it. With none: rows that differ, over the whole archive.

    Args:
        archive: where to look.
        name: what is asked.
        k: 1 to 100.
        where: a filter (search.where); only rows that pass it are asked about.

    Source:
        Uncertainty sampling (Lewis and Gale 1994), with farthest-first picks among the doubtful (Gonzalez 1985).
    """
    check_k(k)
    labels = read_labels(archive, name=name)
    asked = {label.hit for label in labels}
    yes = sorted(archive.has([label.hit for label in labels if label.answer == "yes"]))
    near: list[Hit] = []
    if yes:
        examples = [Example(modality="label", vector=vector / len(yes)) for vector in archive.vectors(yes)]
        near = [hit for hit in search(archive, examples, k=MAX_K, where=where) if hit.id not in asked]
    try:
        probe = fit_probe(archive, name)
    except ArchiveError:
        if yes:
            return near[:k]
        probe = None
    ids = dict.fromkeys(hit.id for hit in near)
    if where is None:
        ids |= dict.fromkeys(one for kind in ("audio", "image") for one in archive.sample(kind)[0])
    else:
        for offset in range(0, N_FILTERED, MAX_K):
            page = archive.browse(where=where, offset=offset)
            ids |= dict.fromkeys(hit.id for hit in page)
            if len(page) < MAX_K:
                break
    candidates = [one for one in ids if one not in asked]
    vectors = archive.vectors(candidates)
    doubt = np.abs(probe.logits(vectors)) if probe else np.zeros(len(vectors))
    order = np.argsort(doubt, kind="stable")[: N_DOUBTFUL * k] if probe else np.arange(len(vectors))
    hits = {hit.id: hit for hit in archive.get([candidates[n] for n in order])}
    once = {hits[candidates[n]].item: int(n) for n in reversed(order)}  # the most doubtful window of a recording
    rows = sorted(once.values(), key=lambda n: (doubt[n], n))
    return [hits[candidates[rows[n]]] for n in spread(vectors[rows], k)]


def spread(vectors: np.ndarray, k: int) -> list[int]:
    """Pick up to k rows that differ: the first, then ever the one whose nearest picked one is farthest.

    Args:
        vectors: unit rows, shape (n, width).
        k: rows to pick.
    """
    if not len(vectors):
        return []
    picked = [0]
    nearest = vectors @ vectors[0]
    while len(picked) < min(k, len(vectors)):
        nearest[picked] = np.inf
        n = int(nearest.argmin())
        picked.append(n)
        nearest = np.maximum(nearest, vectors @ vectors[n])
    return picked
