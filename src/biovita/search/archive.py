"""An archive: the vectors of recordings and pictures with what is known of each, in LanceDB, embedded.

One folder, or one address of an object store, holds two tables:

    media.lance     one row a picture or a window of a recording; what made the vectors stands in the table's metadata
    labels.lance    what people said about hits (search.labels)

Every write is one commit of the table: a reader sees it whole or not at all, and a process that is killed leaves only
files that no commit names. An `Archive` is a snapshot: it reads one version until `refresh`. Rows are named by content:
the id of a file's rows is its sha256, so the same file is never stored twice, wherever it lies.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa

os.environ.setdefault("LANCEDB_LOG", "error")  # read when it is loaded; its remarks are for its developers
import lancedb
from lancedb.index import IvfHnswSq

from biovita.embed.store import META_KEYS, UNIT_TOLERANCE, Facts
from biovita.errors import ArchiveError
from biovita.files import sha256_file
from biovita.search.where import read_filter, sql_text

SCHEMA_VERSION = 1
MEDIA, LABELS = "media", "labels"
MAX_K = 100
MAX_FETCH = 10_000  # rows that a search may look at before near-duplicates are folded
EXACT_ROWS = 50_000  # up to here every vector is compared; docs/results/search.md has the figures
KEPT = timedelta(hours=1)  # readers of an older version have so long to finish
N_FRAGMENTS = 64  # commits after which small files are put together
N_SAMPLE = 4096  # vectors of a modality that stand for all of them
N_RECALL = 25  # vectors that are searched both ways in order to measure recall
BLOCK_IDS = 1000  # names in one condition
BLOCK_QUERIES = 100  # answered together

ROW: dict[str, pa.DataType] = {
    "id": pa.string(),
    "item": pa.string(),
    "path": pa.string(),
    "sha256": pa.string(),
    "modality": pa.string(),
    "start_s": pa.float64(),
    "end_s": pa.float64(),
    "duration_s": pa.float64(),
    "recorded_at": pa.timestamp("us", "UTC"),
    "time_text": pa.string(),
    "time_rule": pa.string(),
    "month": pa.int32(),
    "hour": pa.int32(),
    "latitude_deg": pa.float64(),
    "longitude_deg": pa.float64(),
    "device": pa.string(),
    "licence": pa.string(),
    "rights_holder": pa.string(),
    "species": pa.string(),
    "genus": pa.string(),
    "hit": pa.string(),  # all that a hit says, as JSON: an answer reads one column instead of seventeen
}
LABEL_ROW = {
    "hit": pa.string(),
    "name": pa.string(),
    "answer": pa.string(),
    "who": pa.string(),
    "at": pa.timestamp("us", "UTC"),
}


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known of a file; null where nobody said.

    Attributes:
        recorded_at: when it begins, UTC.
        time_text: the time as it was written.
        time_rule: how its time zone was known.
        licence: SPDX id or `unknown`.
        species: as given by a label of the file.
    """

    duration_s: float | None = None
    recorded_at: datetime | None = None
    time_text: str | None = None
    time_rule: str | None = None
    latitude_deg: float | None = None
    longitude_deg: float | None = None
    device: str | None = None
    licence: str | None = None
    rights_holder: str | None = None
    species: str | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file that goes into an archive.

    Attributes:
        path: where it lies.
        sha256: of its content.
        modality: audio or image.
        vectors: float32, shape (1, width), or (n_windows, width); unit rows. None for a file that the archive knows:
            its place and what is known of it are brought up to date.
        spans: start and end of each window in seconds; None for what was embedded as a whole.
    """

    path: str
    sha256: str
    modality: str
    vectors: np.ndarray | None = None
    spans: Sequence[tuple[float, float]] | None = None
    about: About = About()


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A row of an archive, as an answer.

    Attributes:
        id: of the row; stays the same as long as the file and the window do.
        item: what all windows of one recording share.
        score: cosine to the query in [-1, 1].
        standing: standard deviations above the archive's mean score in its modality; None where nobody asked.
        recorded_at: when the window begins, UTC.
        n_alike: further rows that were folded into this one.
    """

    id: str
    item: str
    path: str
    sha256: str
    modality: str
    start_s: float | None
    end_s: float | None
    duration_s: float | None
    recorded_at: datetime | None
    time_text: str | None
    time_rule: str | None
    latitude_deg: float | None
    longitude_deg: float | None
    device: str | None
    licence: str | None
    rights_holder: str | None
    species: str | None
    score: float = 0.0
    standing: float | None = None
    n_alike: int = 0


HIT_COLUMNS = [field.name for field in fields(Hit) if field.name in ROW]
ABOUT_COLUMNS = [field.name for field in fields(About)]


class Archive:
    """An archive's tables at one version.

    Attributes:
        uri: the folder, or the address of an object store.
        facts: what made the vectors.
        model: where that model was loaded from.
        width: numbers a vector.
    """

    def __init__(self, uri: str, connection: Any, table: Any) -> None:
        stored = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        if stored.get("biovita.archive") != str(SCHEMA_VERSION):
            raise ArchiveError(f"{uri}: not an archive of this version; make it again with `biovita index add`")
        self.uri = uri
        self.facts = Facts(**{key: stored[f"biovita.{key}"] for key in META_KEYS})
        self.model = stored["biovita.loaded_from"]
        self.width = int(table.schema.field("vector").type.list_size)
        self._connection, self._table, self._schema = connection, table, table.schema
        self._samples: dict[str, tuple[list[str], np.ndarray]] = {}

    @classmethod
    def create(cls, uri: str | Path, facts: Facts, *, width: int, model: str = "") -> Self:
        """Make an empty archive.

        Args:
            uri: a folder, or an address that LanceDB opens (`s3://bucket/archive`).
            facts: what makes the vectors.
            width: numbers a vector.
            model: where the model was loaded from, so that a search need not say it again.

        Raises:
            ArchiveError: there is one already, or the folder cannot be made.
        """
        uri = str(uri)
        if exists(uri):
            raise ArchiveError(f"{uri}: there is an archive already; open it, or choose another folder")
        if is_folder(uri) and not _is_free(Path(uri)):
            raise ArchiveError(f"{uri}: is there already and no archive; name a new folder, and then what to add")
        metadata = {f"biovita.{key}": value for key, value in facts.items()}
        metadata |= {"biovita.archive": str(SCHEMA_VERSION), "biovita.loaded_from": model or facts["model"]}
        columns = [pa.field(name, kind, nullable=name not in ("id", "item")) for name, kind in ROW.items()]
        columns.append(pa.field("vector", pa.list_(pa.float32(), width), nullable=False))
        with _clean_errors(uri):
            connection = lancedb.connect(uri)
            connection.create_table(LABELS, schema=pa.schema(LABEL_ROW.items()), exist_ok=True)
            table = connection.create_table(MEDIA, schema=pa.schema(columns, metadata=metadata))
        return cls(uri, connection, table)

    @classmethod
    def open(cls, uri: str | Path) -> Self:
        """Open an archive at its newest version.

        Raises:
            ArchiveError: there is none, or it is damaged.
        """
        uri = str(uri)
        if not exists(uri):
            raise ArchiveError(f"{uri}: no archive there; make one with `biovita index add {uri} FILES --model MODEL`")
        with _clean_errors(uri):
            connection = lancedb.connect(uri)
            return cls(uri, connection, connection.open_table(MEDIA))

    def refresh(self) -> None:
        """Go on to the newest version."""
        before = self.version
        with _clean_errors(self.uri):
            self._table.checkout_latest()
        if self.version != before:
            self._changed()

    @property
    def version(self) -> int:
        """The version that is read."""
        return int(self._table.version)

    def __len__(self) -> int:
        """Count rows: pictures and windows of recordings."""
        return self._table.count_rows()

    # Writing

    def known(self, sha256s: Sequence[str]) -> dict[str, str]:
        """Tell which of these contents are in the archive, with their modality."""
        return dict(self._where_in("sha256", sha256s, ["sha256", "modality"]).iter_rows())

    def add(self, entries: Iterable[Entry]) -> dict[str, int]:
        """Add files in one commit; the same content is never stored twice.

        A known content keeps its vectors: a file that was moved or renamed gets its new path, and what is known of it
        is brought up to date. A path whose content is another now loses its old rows in the same commit.

        Returns:
            counts: `added`, `replaced`, `moved`, `updated`, `same` files.

        Raises:
            ArchiveError: a vector has another width, is not finite or not of unit length, or an unknown file has none.
        """
        entries = list(entries)
        unique = {entry.sha256: entry for entry in reversed(entries)}
        with self._writing():
            self.refresh()
            stored = self._where_in("sha256", list(unique), ["sha256", "path", *ABOUT_COLUMNS, "start_s"])
            known = {row["sha256"]: row for row in stored.sort("start_s", descending=True).iter_rows(named=True)}
            counts: dict[str, int] = dict.fromkeys(("added", "replaced", "moved", "updated", "same"), 0)
            counts["same"] = len(entries) - len(unique)
            fresh, touched = [], []
            for entry in unique.values():
                if entry.sha256 not in known:
                    fresh.append(entry)
                    continue
                change = _change(entry, known[entry.sha256])
                counts[change] += 1
                if change != "same":
                    touched.append(entry)
            gone = self._outdated(fresh)
            counts["replaced"] = len(gone)
            counts["added"] = len(fresh) - len(gone)
            parts = [self._rows(entry) for entry in fresh]
            if touched:
                parts.append(self._touched(touched, known))
            if parts:
                rows = [row for some, _ in parts for row in some]
                table = self._as_table(rows, np.concatenate([vectors for _, vectors in parts]))
                self._commit(table, gone=gone, update=bool(touched))
        return counts

    def _commit(self, rows: pa.Table, *, gone: list[str], update: bool) -> None:
        with _clean_errors(self.uri):
            if gone or update:
                merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                if gone:
                    paths = ", ".join(map(sql_text, gone))
                    merge = merge.when_not_matched_by_source_delete(f"path IN ({paths})")
                merge.execute(rows)
            else:
                self._table.add(rows)
            if self._table.stats()["fragment_stats"]["num_small_fragments"] >= N_FRAGMENTS:
                self._table.optimize(cleanup_older_than=KEPT)
        self._changed()

    def _outdated(self, fresh: list[Entry]) -> list[str]:
        """List the paths of new content under which another content is stored."""
        paths = [entry.path for entry in fresh]
        return sorted(set(self._where_in("path", paths, ["path"])["path"]))

    def _rows(self, entry: Entry) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Make the rows of one file, and check its vectors."""
        vectors = entry.vectors
        if vectors is None:
            raise ArchiveError(f"{self.uri}: {entry.path}: is not in the archive and comes without vectors; embed it")
        if entry.modality not in ("audio", "image"):
            raise ArchiveError(f"{self.uri}: {entry.path}: modality {entry.modality!r}; use audio or image")
        vectors = np.ascontiguousarray(vectors, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.width or not len(vectors):
            raise ArchiveError(f"{self.uri}: {entry.path}: vectors of shape {vectors.shape}; give (n, {self.width})")
        if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=UNIT_TOLERANCE, rtol=0):
            raise ArchiveError(f"{self.uri}: {entry.path}: a vector is not finite or not of unit length")
        spans = list(entry.spans) if entry.spans is not None else [(None, None)]
        if len(spans) != len(vectors):
            raise ArchiveError(f"{self.uri}: {entry.path}: {len(vectors)} vectors but {len(spans)} windows")
        item = entry.sha256[:16]
        facts = {"item": item, "path": entry.path, "sha256": entry.sha256, "modality": entry.modality}
        rows = [
            {"id": row_id(item, start, end), **facts, "start_s": start, "end_s": end, **_about(entry.about, start)}
            for start, end in spans
        ]
        return rows, vectors

    def _touched(
        self, entries: list[Entry], known: dict[str, dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Make the rows of known files again, with their vectors, at their new place and with what is known now."""
        wanted = {entry.sha256: entry for entry in entries}
        table = self._where_in("sha256", list(wanted), [*ROW, "vector"])
        vectors = _matrix(table["vector"].to_arrow(), self.width)
        rows = []
        for row in table.drop("vector").iter_rows(named=True):
            entry, start = wanted[row["sha256"]], row["start_s"]
            path = entry.path if _change(entry, known[row["sha256"]]) == "moved" else row["path"]
            said = {name: value for name, value in _about(entry.about, start).items() if value is not None}
            rows.append({**row, "path": path, **said})
        return rows, vectors

    def _as_table(self, rows: list[dict[str, Any]], vectors: np.ndarray) -> pa.Table:
        for row in rows:
            row["hit"] = json.dumps({name: row[name] for name in HIT_COLUMNS}, default=datetime.isoformat)
        columns = [pa.array([row[name] for row in rows], kind) for name, kind in ROW.items()]
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.width))
        return pa.table(columns, schema=self._schema)

    def count(self, *, where: str | None = None, ids: Sequence[str] = ()) -> int:
        """Count the rows that `remove` would take."""
        with _clean_errors(self.uri):
            return self._table.count_rows(self._chosen(where, ids))

    def remove(self, *, where: str | None = None, ids: Sequence[str] = ()) -> int:
        """Remove rows in one commit: those that a filter keeps, or those of the named rows or items.

        Returns:
            the number of rows that went.

        Raises:
            ArchiveError: neither or both are given, or the filter cannot be read.
        """
        with self._writing(), _clean_errors(self.uri):
            self.refresh()
            n_before = len(self)
            self._table.delete(self._chosen(where, ids))
        self._changed()
        return n_before - len(self)

    def _chosen(self, where: str | None, ids: Sequence[str]) -> str:
        if (where is None) == (not ids):
            raise ArchiveError(f"{self.uri}: choose rows by a filter or by ids, one of the two")
        names = ", ".join(map(sql_text, ids))
        return read_filter(where) if where is not None else f"id IN ({names}) OR item IN ({names})"

    def rebuild(self) -> None:
        """Put small files together, make the index anew, and drop versions that are older than an hour."""
        with self._writing(), _clean_errors(self.uri):
            self.refresh()
            if self._index() is not None:
                self._table.drop_index(INDEX_NAME)
            self._table.optimize(cleanup_older_than=KEPT)
            if len(self) > EXACT_ROWS:
                self._build_index()
        self._changed()

    def settle(self) -> None:
        """After a lot was added: put small files together, and make or extend the index."""
        with self._writing(), _clean_errors(self.uri):
            self.refresh()
            self._table.optimize(cleanup_older_than=KEPT)
            if len(self) > EXACT_ROWS and self._index() is None:
                self._build_index()
        self._changed()

    def _build_index(self) -> None:
        n_partitions = max(1, round(len(self) / PARTITION_ROWS))
        index = IvfHnswSq(distance_type="l2", num_partitions=n_partitions, m=HNSW_M, ef_construction=HNSW_BUILD)
        self._table.create_index("vector", config=index, name=INDEX_NAME, replace=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Keep other writers of this machine out; the lock goes with the process."""
        if not is_folder(self.uri):
            yield
            return
        with _clean_errors(self.uri), Path(self.uri, ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArchiveError(f"{self.uri}: another process is writing; wait for it, or stop it") from None
            yield

    def _changed(self) -> None:
        self._samples.clear()
        self.__dict__.pop("_indexed", None)

    # Reading

    def nearest(
        self,
        vector: np.ndarray,
        *,
        k: int = 20,
        modality: str | None = None,
        where: str | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """Find the rows nearest to a vector, best first; equal scores are ordered by id.

        Args:
            vector: shape (width,); its length does not matter.
            k: 1 to 100.
            modality: audio or image; None for both.
            where: a filter (search.where).
            exact: compare with every row, also where there is an index.

        Raises:
            ArchiveError: k, the filter or the vector cannot be used.
        """
        check_k(k)
        return self.fetch(vector, k, modality=modality, where=where, exact=exact)[0]

    def nearest_many(
        self,
        vectors: np.ndarray,
        *,
        k: int = 20,
        modality: str | None = None,
        where: str | None = None,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """Answer many queries, shape (n_queries, width), each as `nearest` does; several times faster."""
        check_k(k)
        answers = []
        for start in range(0, len(vectors), BLOCK_QUERIES):
            block = np.asarray(vectors[start : start + BLOCK_QUERIES], np.float32)
            answers += [hits for hits, _ in self._ask(block, k, modality, where, exact=exact)]
        return answers

    def fetch(
        self,
        vector: np.ndarray,
        n: int,
        *,
        modality: str | None = None,
        where: str | None = None,
        exact: bool = False,
    ) -> tuple[list[Hit], np.ndarray]:
        """Find up to 10,000 rows as `nearest` does, with their vectors: float32, shape (n_hits, width)."""
        query = np.asarray(vector, np.float32).reshape(1, -1)
        return self._ask(query, min(n, MAX_FETCH), modality, where, exact=exact)[0]

    def _ask(
        self, vectors: np.ndarray, n: int, modality: str | None, where: str | None, *, exact: bool
    ) -> list[tuple[list[Hit], np.ndarray]]:
        """Find n rows for each of some queries, with their vectors."""
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if vectors.shape[1] != self.width or not (np.isfinite(lengths) & (lengths > 0)).all():
            raise ArchiveError(
                f"{self.uri}: a query has {vectors.shape[1]} numbers of length {lengths.min():.3g}; it needs "
                f"{self.width}, finite and not all zero"
            )
        vectors = vectors / lengths
        asked = vectors[0] if len(vectors) == 1 else list(vectors)
        condition = self._condition(modality, where)
        with _clean_errors(self.uri):
            query = self._table.search(asked, vector_column_name="vector").distance_type("l2").limit(n)
            if condition:
                query = query.where(condition, prefilter=True)
            if exact or not self._indexed:
                query = query.bypass_vector_index()
            else:
                query = query.nprobes(N_PROBES).ef(max(HNSW_SEARCH, 2 * n))
            found = query.select(["hit", "vector", "_distance"]).to_arrow()
        rows = _matrix(found["vector"], self.width)
        texts = found["hit"].to_pylist()
        of_query = found["query_index"].to_numpy() if len(vectors) > 1 else np.zeros(len(rows), int)
        answers = []
        for number, vector in enumerate(vectors):
            own = np.flatnonzero(of_query == number)
            scores = rows[own] @ vector  # the index knows them in 8 bits only
            hits = [_hit(texts[row], float(score)) for row, score in zip(own, scores, strict=True)]
            order = sorted(range(len(hits)), key=lambda m: (-hits[m].score, hits[m].id))
            answers.append(([hits[m] for m in order], rows[own[order]]))
        return answers

    def _condition(self, modality: str | None, where: str | None) -> str:
        parts = [f"modality = {sql_text(modality)}"] if modality else []
        if where is not None:
            parts.append(read_filter(where))
        return " AND ".join(parts)

    def get(self, ids: Sequence[str]) -> list[Hit]:
        """Return the rows of these ids, in this order.

        Raises:
            ArchiveError: one is not there.
        """
        hits = {hit.id: hit for hit in map(_hit, self._where_in("id", ids, ["hit"])["hit"])}
        self._require(ids, hits)
        return [hits[one] for one in ids]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """Return the vectors of these ids, in this order: float32, shape (n, width).

        Raises:
            ArchiveError: one is not there.
        """
        table = self._where_in("id", ids, ["id", "vector"])
        place = {one: n for n, one in enumerate(table["id"])}
        self._require(ids, place)
        return _matrix(table["vector"].to_arrow(), self.width)[[place[one] for one in ids]]

    def has(self, ids: Sequence[str]) -> set[str]:
        """Tell which of these ids are in the archive."""
        return set(self._where_in("id", ids, ["id"])["id"])

    def _require(self, ids: Sequence[str], there: Iterable[str]) -> None:
        there = set(there)
        missing = [one for one in ids if one not in there]
        if missing:
            raise ArchiveError(f"{self.uri}: no row {missing[0]!r}; ids are those that a search shows")

    def browse(self, *, where: str | None = None, k: int = MAX_K, offset: int = 0) -> list[Hit]:
        """List rows in the order in which they lie, a page at a time."""
        check_k(k)
        with _clean_errors(self.uri):
            query = self._table.search().select(["hit"]).limit(k).offset(offset)
            if where is not None:
                query = query.where(read_filter(where))
            return [_hit(text) for text in query.to_arrow()["hit"].to_pylist()]

    def column(self, *names: str) -> pl.DataFrame:
        """Read whole columns, without vectors."""
        with _clean_errors(self.uri):
            found = self._table.search().select(list(names)).limit(None).to_arrow()
        return pl.DataFrame(pl.from_arrow(found))

    def places(self) -> list[tuple[float, float, int]]:
        """Count the files at each place: latitude and longitude in degrees, to 0.001."""
        rows = self.column("item", "latitude_deg", "longitude_deg").drop_nulls().unique("item")
        at = [pl.col("latitude_deg").round(3), pl.col("longitude_deg").round(3)]
        return rows.group_by(at).len().sort("latitude_deg", "longitude_deg").rows()

    def sample(self, modality: str) -> tuple[list[str], np.ndarray]:
        """Draw up to 4,096 rows that stand for a modality; the same ones until the archive changes.

        Returns:
            ids, and vectors: float32, shape (n, width).
        """
        if modality not in self._samples:
            self._samples[modality] = self._draw(modality, N_SAMPLE)
        return self._samples[modality]

    def _draw(self, modality: str | None, n: int) -> tuple[list[str], np.ndarray]:
        """Draw rows, seeded, without replacement; ids and vectors."""
        kinds = self.column("modality")["modality"]
        places = np.arange(len(kinds)) if modality is None else np.flatnonzero((kinds == modality).to_numpy())
        if len(places) > n:
            places = np.sort(np.random.default_rng(0).choice(places, n, replace=False))
        if not len(places):
            return [], np.empty((0, self.width), np.float32)
        with _clean_errors(self.uri):
            rows = self._table.take_offsets(places.tolist()).select(["id", "vector"]).to_arrow()
        return rows["id"].to_pylist(), _matrix(rows["vector"], self.width)

    def status(self) -> dict[str, Any]:
        """Count what is there, and measure the recall of the index against comparing with every row."""
        rows = self.column("item", "modality", "licence")
        files = rows.unique("item")
        stats = self._table.stats()
        index = self._index()
        kind, n_indexed = "exact", 0
        if index is not None:
            kind, n_indexed = str(index.index_type), self._table.index_stats(INDEX_NAME).num_indexed_rows
        return {
            "archive": self.uri,
            **self.facts,
            "width": self.width,
            "n_files": len(files),
            "n_rows": len(rows),
            "by_modality": _counts(files["modality"]),
            "by_licence": _counts(files["licence"]),
            "size_bytes": _size_bytes(self.uri) if is_folder(self.uri) else int(stats["total_bytes"]),
            "index": {"kind": kind, "n_rows": n_indexed, "recall_at_10": self.recall() if index is not None else 1.0},
            "version": self.version,
            "n_versions": len(self._table.list_versions()),
            "n_fragments": stats["fragment_stats"]["num_fragments"],
            "n_small_fragments": stats["fragment_stats"]["num_small_fragments"],
            "n_labels": len(self.label_table()),
        }

    def recall(self, k: int = 10, n_queries: int = N_RECALL) -> float:
        """Measure which share of the true k nearest a search finds, over rows drawn from the archive."""
        _, queries = self._draw(None, n_queries)
        true, found = (self.nearest_many(queries, k=k, exact=exact) for exact in (True, False))
        ids = [({hit.id for hit in one}, {hit.id for hit in two}) for one, two in zip(true, found, strict=True)]
        shares = [len(one & two) / len(one) for one, two in ids]
        return float(np.mean(shares)) if shares else 1.0

    # Labels (search.labels says what they mean)

    def append_labels(self, rows: list[dict[str, Any]]) -> None:
        """Add rows to the table of labels in one commit."""
        columns = [pa.array([row[name] for row in rows], kind) for name, kind in LABEL_ROW.items()]
        with _clean_errors(self.uri):
            self._connection.open_table(LABELS).add(pa.table(columns, schema=pa.schema(LABEL_ROW.items())))

    def label_table(self) -> pl.DataFrame:
        """Read the table of labels, at its newest version, in the order of writing."""
        with _clean_errors(self.uri):
            found = self._connection.open_table(LABELS).search().limit(None).to_arrow()
        return pl.DataFrame(pl.from_arrow(found))

    def _where_in(self, column: str, values: Sequence[str], select: list[str]) -> pl.DataFrame:
        """Read the rows whose column is one of these values."""
        parts = []
        with _clean_errors(self.uri):
            for n in range(0, max(1, len(values)), BLOCK_IDS):
                names = ", ".join(map(sql_text, values[n : n + BLOCK_IDS])) or "''"
                query = self._table.search().where(f"{column} IN ({names})").select(select).limit(None)
                parts.append(query.to_arrow())
        return pl.DataFrame(pl.from_arrow(pa.concat_tables(parts)))

    def _index(self) -> Any:
        return next((index for index in self._table.list_indices() if index.name == INDEX_NAME), None)

    @cached_property
    def _indexed(self) -> bool:
        return self._index() is not None


# The index above EXACT_ROWS; docs/results/search.md has the numbers.
INDEX_NAME = "vector_idx"
PARTITION_ROWS = 1_000_000
HNSW_M, HNSW_BUILD, HNSW_SEARCH = 16, 100, 150
N_PROBES = 4


def is_folder(uri: str) -> bool:
    """Tell a folder of this machine from an address."""
    return "://" not in uri


def exists(uri: str) -> bool:
    """Say whether an archive is there."""
    if is_folder(uri):
        return Path(uri, f"{MEDIA}.lance").is_dir()
    with _clean_errors(uri):
        return MEDIA in lancedb.connect(uri).list_tables().tables


def _is_free(folder: Path) -> bool:
    """Tell whether an archive may be made here: there is nothing, or what a killed process left of one."""
    if not folder.is_dir():
        return not folder.exists()
    return all(path.name == f"{LABELS}.lance" for path in folder.iterdir())


def row_id(item: str, start_s: float | None, end_s: float | None) -> str:
    """Name a row by its file's content and its window."""
    return item if start_s is None or end_s is None else f"{item}@{start_s:.10g}-{end_s:.10g}"


def check_k(k: int) -> None:
    """Refuse a number of hits that is out of bounds."""
    if not 1 <= k <= MAX_K:
        raise ArchiveError(f"k {k}: ask for 1 to {MAX_K} hits")


def _change(entry: Entry, stored: dict[str, Any]) -> str:
    """Say what is new about a file whose content is known; a copy beside the file that is stored is not a move."""
    if entry.path != stored["path"] and not _holds(Path(stored["path"]), entry.sha256):
        return "moved"
    said = _about(entry.about, stored["start_s"])
    changed = any(said[name] is not None and said[name] != stored[name] for name in ABOUT_COLUMNS)
    return "updated" if changed and entry.path == stored["path"] else "same"


def _holds(path: Path, sha256: str) -> bool:
    """Say whether a file is still where it was, with the content that it had."""
    try:
        return path.is_file() and sha256_file(path) == sha256
    except OSError:
        return False


def _about(about: About, start_s: float | None) -> dict[str, Any]:
    """Turn what is known of a file into columns of one of its windows."""
    at = about.recorded_at + timedelta(seconds=start_s or 0.0) if about.recorded_at else None
    return {
        **{name: getattr(about, name) for name in ABOUT_COLUMNS},
        "recorded_at": at,
        "month": at.month if at else None,
        "hour": at.hour if at else None,
        "genus": about.species.split()[0] if about.species and about.species.strip() else None,
    }


def _hit(text: str, score: float = 0.0) -> Hit:
    row = json.loads(text)
    at = row.pop("recorded_at")
    return Hit(**row, recorded_at=datetime.fromisoformat(at) if at else None, score=score)


def _matrix(column: Any, width: int) -> np.ndarray:
    """View a column of vectors as float32, shape (n, width)."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [np.asarray(chunk.flatten(), np.float32).reshape(-1, width) for chunk in chunks]
    return np.concatenate([np.empty((0, width), np.float32), *parts])


def _counts(column: pl.Series) -> dict[str, int]:
    found = column.fill_null("unknown").value_counts().iter_rows()
    return dict(sorted(found, key=lambda pair: (-pair[1], pair[0])))


def _size_bytes(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


@contextmanager
def _clean_errors(uri: str) -> Iterator[None]:
    """Turn what the database says of an archive into one line."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ArchiveError(f"{uri}: the archive cannot be used: {said[0].split(', /')[0][:300]}") from error
