"""A dataset as Parquet files that Hugging Face `datasets` opens, with columns of kind Image and Audio.

One row a medium; a sound has no picture and a picture no sound. The kinds stand in the schema's `huggingface` metadata
and in the header of README.md. `Audio(decode=False)` gives the bytes without another decoder.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from biovita.data.card import write_credits
from biovita.data.dataset import MEDIA_SCHEMA, Dataset
from biovita.data.export import claim, fill, identity, licensed, read_medium, sizes_bytes
from biovita.data.split import SPLITS
from biovita.errors import DatasetError
from biovita.files import atomic_path, write_manifest, write_text
from biovita.log import Progress

OPEN: Final = ("cc0", "public-domain", "cc-by", "cc-by-sa")
FILE_BYTES: Final = 500_000_000  # what the hub advises
GROUP_BYTES: Final = 64_000_000  # of media held at a time
COLUMNS: Final = tuple(name for name in MEDIA_SCHEMA if name not in ("path", "split"))
ARROW: Final[dict[pl.DataType, pa.DataType]] = {
    pl.String(): pa.string(),
    pl.Float64(): pa.float64(),
    pl.Int32(): pa.int32(),
    pl.Datetime("us", "UTC"): pa.timestamp("us", "UTC"),
}
MEDIUM: Final = pa.struct({"bytes": pa.binary(), "path": pa.string()})
KINDS: Final = {"image": "Image", "audio": "Audio"}
HUB_LICENCES: Final = (  # the hub's own list; any other is `other`
    *("cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
)


def write_hub_parquet(
    dataset: Dataset,
    out: Path,
    *,
    licences: Collection[str] = OPEN,
    file_bytes: int = FILE_BYTES,
    group_bytes: int = GROUP_BYTES,
) -> dict[str, Any]:
    """Write `data/train-00000-of-00003.parquet` and so on, README.md, CREDITS.csv and a manifest.

    Media of other licences stay out and are counted. A finished file is not written again.

    Args:
        dataset: a finished dataset folder.
        out: a new folder, or one that the same call left unfinished or finished.
        licences: families that may be published; non-commercial ones and `unknown` must be named, ND never may.
        file_bytes: of media in a file, at most; a bigger medium is alone.
        group_bytes: of media in a row group; this much is held in memory.

    Returns:
        The manifest: `rows` counts them by file, `left_out` the media by licence that were not written.

    Raises:
        DatasetError: a licence cannot be published, nothing is left, or the folder holds something else.
    """
    media, left_out = licensed(dataset.media, licences)
    if not len(media):
        raise DatasetError(f"{dataset.folder}: no medium is under {', '.join(licences)}; left out: {left_out}")
    request = {
        "kind": "hub-parquet",
        "dataset": identity(dataset),
        "licences": sorted(licences),
        "file_bytes": file_bytes,
        "group_bytes": group_bytes,
    }
    if manifest := claim(out, request):
        return manifest
    rows: dict[str, int] = {}
    sizes: dict[str, int] = dict.fromkeys(SPLITS, 0)
    with Progress("export", len(media), "files") as bar:
        for split in SPLITS:
            table = media.filter(pl.col("split") == split).sort("sha256")
            of_media = sizes_bytes(dataset, table["path"].to_list())
            runs = list(fill(of_media, file_bytes))
            for number, (start, end) in enumerate(runs):
                name = f"data/{split}-{number:05}-of-{len(runs):05}.parquet"
                if not (out / name).is_file():
                    _write_file(dataset, table[start:end], of_media[start:end], out / name, group_bytes)
                rows[name] = end - start
                sizes[split] += sum(of_media[start:end])
                bar.advance(end - start)
    write_credits(media.lazy(), out / "CREDITS.csv")
    write_text(out / "README.md", _readme(dataset, media, left_out, sizes))
    facts = {**request, "rows": rows, "left_out": left_out, "made_up": dataset.manifest["made_up"]}
    return write_manifest(out, [*rows, "README.md", "CREDITS.csv"], **facts)


def _schema() -> pa.Schema:
    plain = {name: ARROW[MEDIA_SCHEMA[name]] for name in COLUMNS}
    features = {name: {"_type": kind} for name, kind in KINDS.items()}
    features |= {name: {"dtype": _hub_type(dtype), "_type": "Value"} for name, dtype in plain.items()}
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema({**dict.fromkeys(KINDS, MEDIUM), **plain}, told)


def _hub_type(dtype: pa.DataType) -> str:
    names = {pa.float64(): "float64", pa.timestamp("us", "UTC"): "timestamp[us, tz=UTC]"}
    return names.get(dtype, str(dtype))


def _write_file(dataset: Dataset, table: pl.DataFrame, sizes: list[int], path: Path, group_bytes: int) -> None:
    schema = _schema()
    media = [f"{kind}.{leaf}" for kind in KINDS for leaf in ("bytes", "path")]
    options: dict[str, Any] = {
        "compression": {leaf: "none" if leaf in media else "zstd" for leaf in (*media, *COLUMNS)},  # media are packed
        "use_dictionary": list(COLUMNS),
        "write_statistics": list(COLUMNS),
    }
    with atomic_path(path) as part, pq.ParquetWriter(part, schema, **options) as file:
        for start, end in fill(sizes, group_bytes):
            rows = table[start:end]
            parts: dict[str, list[Any]] = {leaf: [None] * len(rows) for leaf in media}
            for i, (modality, name, sha256) in enumerate(rows.select("modality", "path", "sha256").iter_rows()):
                parts[f"{modality}.bytes"][i] = read_medium(dataset, name, sha256)
                parts[f"{modality}.path"][i] = Path(name).name
            media_columns = [_medium(parts[f"{kind}.bytes"], parts[f"{kind}.path"]) for kind in KINDS]
            plain = [rows[name].to_arrow().cast(schema.field(name).type) for name in COLUMNS]
            file.write_table(pa.Table.from_arrays([*media_columns, *plain], schema=schema))


def _medium(contents: list[bytes | None], names: list[str | None]) -> pa.StructArray:
    leaves = [pa.array(contents, pa.binary()), pa.array(names, pa.string())]
    return pa.StructArray.from_arrays(leaves, fields=list(MEDIUM), mask=leaves[0].is_null())


def _readme(dataset: Dataset, media: pl.DataFrame, left_out: dict[str, int], sizes: dict[str, int]) -> str:
    """Compose the page of the hub: its header is YAML, of which JSON is a part."""
    counts = dict(media["split"].value_counts().iter_rows())
    splits = [split for split in SPLITS if split in counts]
    tags = {name.lower() if name.lower() in HUB_LICENCES else "other" for name in media["licence"].unique()}
    told = json.loads(_schema().metadata[b"huggingface"])["info"]["features"]
    features = [{"name": name, "dtype": feature.get("dtype", name)} for name, feature in told.items()]
    stated = [{"name": split, "num_bytes": sizes[split], "num_examples": counts[split]} for split in splits]
    header = {
        "license": sorted(tags),
        "tags": ["biology", "bioacoustics", *(["synthetic"] if dataset.manifest["made_up"] else [])],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
        "dataset_info": {"features": features, "splits": stated},
    }
    licences = media["licence"].value_counts().sort("licence").iter_rows()
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in header.items()),
        "---",
        f"# {dataset.folder.resolve().name}",
        "",
        *(["**Made up by a generator; not biology.**", ""] if dataset.manifest["made_up"] else []),
        f"{len(media):,} sounds and pictures of {media['species'].n_unique():,} species, one row each. Read them with",
        "",
        '    datasets.load_dataset(FOLDER).cast_column("audio", datasets.Audio(decode=False))',
        "",
        "| licence | files |",
        "| --- | --- |",
        *(f"| {name} | {n:,} |" for name, n in licences),
        "",
        "Each row names its licence and its holder; CREDITS.csv lists them all.",
        *(f"Left out for its licence: {n:,} files under {name}." for name, n in left_out.items()),
        "",
    ]
    return "\n".join(lines)
