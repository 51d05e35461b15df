"""Which records are wanted: each once, under an allowed licence, good enough, and not too many of a species.

Three ways out, and each is counted: a record is kept, refused for what is wrong with it, or left out because there is
enough of its kind. Which records stay under a cap is drawn by a hash of seed and media_id: a fair sample, and the same
whatever the order of rows.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from biovita.data.split import hash_order
from biovita.errors import DatasetError
from biovita.sources.licence import UNKNOWN, licence_family
from biovita.tables import occurs_again

QUALITIES = ("A", "B", "C", "D", "E")  # as Xeno-canto grades recordings, best first


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What became of the records; their numbers add up.

    Attributes:
        kept: the records to use, in the order given.
        refused: `media_id`, `reason` and `detail`, sorted.
        left_out: `n` records of a `species` and `modality` with nothing wrong but the `reason` that they are not
            wanted: quality or cap.
    """

    kept: pl.DataFrame
    refused: pl.DataFrame
    left_out: pl.DataFrame


def select(
    records: pl.DataFrame,
    *,
    caps: Mapping[str, int],
    licences: Collection[str] | None,
    quality: str | None,
    seed: int,
) -> Selection:
    """Apply the licence policy, then the least quality, then the caps.

    Args:
        records: rows with `media_id`, `modality`, `licence`, `quality` and `species`.
        caps: the most files of a species, by modality; without a cap all stay.
        licences: families that may be used (`licence.FAMILIES`); None takes every known licence.
        quality: the worst grade to keep, A to E; None keeps all. A record without a grade stays: nobody judged it.
        seed: another seed gives another sample under the caps.

    Raises:
        DatasetError: `quality` is no grade.
    """
    if quality is not None and quality not in QUALITIES:
        raise DatasetError(f"quality '{quality}': give one of {', '.join(QUALITIES)}")
    may = [
        licence
        for licence in records["licence"].drop_nulls().unique()
        if licence != UNKNOWN and (licences is None or licence_family(licence) in licences)
    ]
    is_allowed = records["licence"].is_in(may).fill_null(value=False)
    worse = QUALITIES[QUALITIES.index(quality) + 1 :] if quality else ()
    is_bad = records["quality"].is_in(list(worse)).fill_null(value=False)
    is_over = _over_caps(records, is_allowed & ~is_bad, caps, seed)
    refused = records.filter(~is_allowed).select(
        "media_id",
        reason=pl.lit("licence_refused"),
        detail=pl.when(pl.col("licence").fill_null(UNKNOWN) == UNKNOWN)
        .then(pl.lit("the source states none; for folders of your own, --files-licence does"))
        .otherwise(pl.format("licence {}", pl.col("licence"))),
    )
    why = {"quality": is_allowed & is_bad, "cap": is_over}
    left_out = [
        records.filter(out)
        .group_by("species", "modality")
        .agg(pl.lit(reason).alias("reason"), n=pl.len().cast(pl.Int64))
        for reason, out in why.items()
    ]
    return Selection(
        kept=records.filter(is_allowed & ~is_bad & ~is_over),
        refused=refused.sort("media_id"),
        left_out=pl.concat(left_out).sort("species", "modality", "reason"),
    )


def dedupe_ids(tables: Sequence[pl.DataFrame]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Join the records of several sources, each recording once: by `media_id`, then by `url`.

    The row of the source that is given first stays, whole; within a source the one with the smaller media_id.

    Args:
        tables: records with the same columns, the most trusted source first.

    Returns:
        The records in the order given, and the refused ones (`media_id`, `reason`, `detail`), sorted. A row that is
        refused for its media_id has the same media_id as the one that stays.
    """
    records = pl.concat(tables)
    turn = pl.Series("turn", np.repeat(np.arange(len(tables)), [len(table) for table in tables]))
    keys = records.select("media_id", "url", "source", "scientific_name").with_columns(turn).with_row_index("place")
    has_url = pl.col("url").is_not_null()
    keys = keys.filter(occurs_again(records["media_id"]) | occurs_again(records["url"]))
    keys = keys.sort("turn", "media_id", maintain_order=True)
    by_id = _later(keys, "media_id").with_columns(detail=pl.format("given by {} already", "first_source"))
    rest = keys.join(by_id, on="place", how="anti", maintain_order="left").filter(has_url)
    by_url = _later(rest, "url").with_columns(detail=pl.format("same url as {}", "first_media_id"))
    out = pl.concat([by_id, by_url])
    other = pl.when(pl.col("scientific_name").ne_missing(pl.col("first_scientific_name")))
    named = pl.format(", which is called {}", pl.col("first_scientific_name").fill_null("nothing"))
    refused = out.select(
        "media_id",
        reason=pl.lit("duplicate"),
        detail=pl.col("detail") + other.then(named).otherwise(pl.lit("")),
    )
    stays = np.ones(len(records), bool)
    stays[out["place"]] = False
    return records.filter(stays), refused.sort("media_id", "detail")


def _later(rows: pl.DataFrame, key: str) -> pl.DataFrame:
    """Find the rows whose key was met before, each with what the first row with that key says."""
    first = pl.col("place", "media_id", "source", "scientific_name").first().over(key).name.prefix("first_")
    return rows.with_columns(first).filter(pl.col("place") != pl.col("first_place"))


def _over_caps(records: pl.DataFrame, is_usable: pl.Series, caps: Mapping[str, int], seed: int) -> pl.Series:
    """Find the usable records that come after the cap of their species and modality, in hash order."""
    cap = pl.col("modality").replace_strict(list(caps), list(caps.values()), default=None, return_dtype=pl.Int64)
    rows = records.select("media_id", "species", "modality").with_row_index("row").filter(is_usable)
    crowded = rows.filter(pl.len().over("species", "modality") > cap)
    queue = crowded[hash_order(seed, "cap", crowded["media_id"])]
    over = queue.filter(pl.int_range(pl.len()).over("species", "modality") >= cap)
    is_over = np.zeros(len(records), bool)
    is_over[over["row"]] = True
    return pl.Series(is_over)
