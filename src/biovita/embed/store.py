"""Embedding files: one Parquet table an item kind, unit float32 rows, and the facts of the model that made them.

Needs numpy and pyarrow only, so anyone can write one from any model:

1. columns `id`, `modality`, `start_s`, `end_s`, `text`, `level`, `embedding` (fixed-size list of float32, unit length);
2. schema metadata `biovita.model`, `biovita.weights_sha256`, `biovita.preprocess`;
3. no two rows share (`id`, `level`, `start_s`).

The vectors are stored plain and uncompressed: they do not compress, and a plain column is read without a copy. Our
pages have checksums, so damage is seen.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from biovita.errors import EmbeddingError
from biovita.files import atomic_path

MODALITIES = ("audio", "image", "text")
META_KEYS = ("model", "weights_sha256", "preprocess")
UNIT_TOLERANCE = 1e-3  # fp16 vectors pass, an unnormalised model does not
N_NAMED = 5  # offending ids that a message spells out
KEY_COLUMNS = ("id", "level", "start_s")
GROUP_ROWS = 8192  # of a file that is joined from parts: 25 MB of 768 dimensions
LAYOUT = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}


class Facts(TypedDict):
    """What made the vectors; two files join only where these agree."""

    model: str
    weights_sha256: str
    preprocess: str


@dataclass(frozen=True, kw_only=True)
class EmbeddingTable:
    """One embedding file in memory.

    Attributes:
        path: where it was read from, for messages.
        ids: one string a row.
        modality: audio, image or text, one a row.
        level: the name form of text rows (species, genus, ...); None elsewhere.
        start_s, end_s: the window of audio rows in seconds; None for a whole item.
        embedding: float32, shape (row, dimension), unit length.
        meta: `model`, `weights_sha256`, `preprocess`.
    """

    path: Path
    ids: list[str]
    modality: list[str]
    text: list[str | None]
    level: list[str | None]
    start_s: list[float | None]
    end_s: list[float | None]
    embedding: np.ndarray
    meta: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


def write_embeddings(
    path: Path,
    *,
    ids: Sequence[str],
    modality: str | Sequence[str],
    embedding: np.ndarray,
    model: str,
    weights_sha256: str,
    preprocess: str,
    start_s: Sequence[float | None] | None = None,
    end_s: Sequence[float | None] | None = None,
    text: Sequence[str | None] | None = None,
    level: Sequence[str | None] | None = None,
) -> None:
    """Write one embedding file atomically, after the same checks that reading makes.

    Args:
        path: the Parquet file.
        ids: one string a row.
        modality: audio, image or text; one for all rows, or one a row.
        embedding: shape (row, dimension), unit length; stored as float32.
        model: name or folder of the model, for people.
        weights_sha256: hash of the weights; with `preprocess` it decides which files join.
        preprocess: what was done to the input, as one line.
        start_s: start of the window of audio rows in seconds; None for whole items.
        end_s: its end.
        text: what was embedded, for text rows.
        level: its name form (species, genus, family, common_name, ...).

    Raises:
        EmbeddingError: lengths differ, a vector is not finite or not of unit length, or a key is repeated.
    """
    embedding = np.ascontiguousarray(embedding, dtype=np.float32)
    if embedding.ndim != 2 or embedding.shape[1] == 0:
        raise EmbeddingError(f"{path}: embedding has shape {embedding.shape}; give (rows, dimension)")
    n, dim = embedding.shape
    columns = {
        "id": (ids, pa.string()),
        "modality": ([modality] * n if isinstance(modality, str) else modality, pa.string()),
        "start_s": ([None] * n if start_s is None else start_s, pa.float64()),
        "end_s": ([None] * n if end_s is None else end_s, pa.float64()),
        "text": ([None] * n if text is None else text, pa.string()),
        "level": ([None] * n if level is None else level, pa.string()),
    }
    for name, (values, _) in columns.items():
        if len(values) != n:
            raise EmbeddingError(f"{path}: {n} vectors but {len(values)} values of {name}; give one a row")
    arrays = [pa.array(values, type=kind) for values, kind in columns.values()]
    vectors = pa.list_(pa.field("element", pa.float32(), nullable=False), dim)
    arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(embedding.reshape(-1)), type=vectors))
    schema = pa.schema(
        [pa.field(name, kind) for name, (_, kind) in columns.items()]
        + [pa.field("embedding", vectors, nullable=False)],
        metadata={
            "biovita.model": model,
            "biovita.weights_sha256": weights_sha256,
            "biovita.preprocess": preprocess,
        },
    )
    table = pa.table(arrays, schema=schema)
    _check_rows(Path(path), table, embedding)
    _check_keys(Path(path), table)
    with atomic_path(Path(path)) as part:
        pq.write_table(table, part, **LAYOUT)


def join_embeddings(path: Path, parts: Sequence[Path]) -> int:
    """Write one embedding file from the rows of many, a group at a time, after the same checks that reading makes.

    Args:
        path: the Parquet file, written atomically.
        parts: at least one embedding file of ours.

    Returns:
        the number of rows.

    Raises:
        EmbeddingError: a part is damaged, two are not of one model, or a row breaks a law.
    """
    path = Path(path)
    schema = _open(parts[0])[0].schema
    keys: list[pa.Table] = []

    def tables() -> Iterator[pa.Table]:
        for part in parts:
            table, _ = _open(part)
            if not table.schema.equals(schema, check_metadata=True):
                raise EmbeddingError(f"{part}: is not of one model with {parts[0]}; remove both and embed again")
            _check_rows(part, table, _vectors(part, table))
            keys.append(table.select(KEY_COLUMNS))
            yield table

    with atomic_path(path) as temporary:
        with pq.ParquetWriter(temporary, schema, **LAYOUT) as writer:
            for group in _groups(tables()):
                writer.write_table(group, row_group_size=len(group))
        table = pa.concat_tables(keys)
        _check_keys(path, table)
    return len(table)


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Put small tables together until they are worth a row group."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= GROUP_ROWS:
            yield pa.concat_tables(waiting)
            waiting.clear()
    if waiting:
        yield pa.concat_tables(waiting)


def read_embeddings(path: Path) -> EmbeddingTable:
    """Read one embedding file and refuse it unless every row is a finite unit vector with a key of its own.

    Raises:
        EmbeddingError: the file, a column or a metadata key is missing, or a row breaks a law; the row's id is named.
    """
    path = Path(path)
    table, stored = _open(path)
    meta = {}
    for key in META_KEYS:
        value = stored.get(f"biovita.{key}".encode())
        if value is None:
            raise EmbeddingError(
                f"{path}: schema metadata lacks biovita.{key}, without which models could be mixed; write vectors of "
                "your own with biovita.embed.store.write_embeddings (docs/bench.md)"
            )
        meta[key] = value.decode(errors="replace")
    for name in ("id", "modality", "embedding"):
        if name not in table.column_names:
            raise EmbeddingError(f"{path}: no column {name}; the columns are {', '.join(table.column_names)}")
    embedding = _vectors(path, table)
    _check_rows(path, table, embedding)
    _check_keys(path, table)

    def column(name: str) -> list:
        return table[name].to_pylist() if name in table.column_names else [None] * len(table)

    return EmbeddingTable(
        path=path,
        ids=[str(value) for value in column("id")],
        modality=column("modality"),
        text=column("text"),
        level=column("level"),
        start_s=column("start_s"),
        end_s=column("end_s"),
        embedding=embedding,
        meta=meta,
    )


def check_joinable(tables: Iterable[EmbeddingTable]) -> dict[str, str]:
    """Return the metadata that all files share; files of different models or preprocessing never meet.

    Raises:
        EmbeddingError: two files differ in model, weights, preprocessing or dimension; both values are shown.
    """
    tables = list(tables)
    first = tables[0]
    for other in tables[1:]:
        for key in META_KEYS:
            if first.meta[key] != other.meta[key]:
                raise EmbeddingError(
                    f"{first.path} and {other.path} do not belong together: biovita.{key} is "
                    f"{first.meta[key]!r} in the first and {other.meta[key]!r} in the second; embed both with one model"
                )
        if len(first) and len(other) and first.embedding.shape[1] != other.embedding.shape[1]:
            raise EmbeddingError(
                f"{first.path} and {other.path} do not belong together: vectors of "
                f"{first.embedding.shape[1]} and of {other.embedding.shape[1]} numbers"
            )
    return first.meta


def _open(path: Path) -> tuple[pa.Table, dict[bytes, bytes]]:
    """Read a file's rows and its metadata."""
    if not path.is_file():
        raise EmbeddingError(f"{path}: no such embedding file; make it with `biovita bench embed`")
    try:
        parquet = pq.ParquetFile(path, page_checksum_verification=True)
        table = parquet.read()
    except (pa.ArrowException, OSError) as error:
        raise EmbeddingError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from error
    return table, {**(table.schema.metadata or {}), **(parquet.metadata.metadata or {})}


def _vectors(path: Path, table: pa.Table) -> np.ndarray:
    """View the embedding column as float32 of shape (row, dimension), without a copy where it is stored our way."""
    column = table["embedding"].combine_chunks()
    kind = column.type
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise EmbeddingError(f"{path}: column embedding is {kind}; store a fixed-size list of float32")
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise EmbeddingError(f"{path}: the embedding of {table['id'][row].as_py()!r} is null; leave the row out")
    if len(column) == 0:
        return np.zeros((0, getattr(kind, "list_size", 0)), np.float32)
    if pa.types.is_fixed_size_list(kind):
        dim = kind.list_size
    else:
        sizes = column.value_lengths().to_numpy(zero_copy_only=False)
        dim = int(sizes[0])
        if (sizes != dim).any():
            raise EmbeddingError(f"{path}: vectors of {sizes.min()} and of {sizes.max()} numbers in one file")
    values = column.flatten().to_numpy(zero_copy_only=False)
    if values.dtype.kind != "f":
        raise EmbeddingError(f"{path}: column embedding holds {values.dtype}; store float32")
    return values.astype(np.float32, copy=False).reshape(len(column), dim)


def _check_keys(path: Path, table: pa.Table) -> None:
    """Refuse null or repeated keys."""
    if table["id"].null_count:
        raise EmbeddingError(f"{path}: {table['id'].null_count} rows have no id")
    keys = [name for name in KEY_COLUMNS if name in table.column_names]
    counts = table.select(keys).group_by(keys, use_threads=False).aggregate([([], "count_all")])
    if len(counts) < len(table):
        repeated = next(row for row in counts.to_pylist() if row["count_all"] > 1)
        key = ", ".join(f"{name} {repeated[name]!r}" for name in keys if repeated[name] is not None)
        raise EmbeddingError(f"{path}: {repeated['count_all']} rows share the key ({key}); keep one")


def _check_rows(path: Path, table: pa.Table, embedding: np.ndarray) -> None:
    """Refuse unknown modalities and rows that are not finite unit vectors."""

    def named(rows: np.ndarray) -> str:
        shown = ", ".join(repr(table["id"][int(row)].as_py()) for row in rows[:N_NAMED])
        return shown + (f" and {len(rows) - N_NAMED} more" if len(rows) > N_NAMED else "")

    unknown = [value for value in table["modality"].unique().to_pylist() if value not in MODALITIES]
    if unknown:
        raise EmbeddingError(f"{path}: modality {unknown[0]!r}; use one of {', '.join(MODALITIES)}")
    length = np.sqrt(np.einsum("ij,ij->i", embedding, embedding))
    if not np.isfinite(length).all():
        bad = np.flatnonzero(~np.isfinite(embedding).all(axis=1) | ~np.isfinite(length))
        raise EmbeddingError(f"{path}: the vector of {named(bad)} is not finite; embed it again")
    bad = np.flatnonzero(np.abs(length - 1) >= UNIT_TOLERANCE)
    if len(bad):
        raise EmbeddingError(
            f"{path}: the vector of {named(bad)} has length {length[bad[0]]:.6g}, not 1; store L2-normalised vectors"
        )
