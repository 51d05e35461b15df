"""Groups of queries, whose results are told apart: by class, source, duration and rarity.

Class comes with the task. The others come from columns that our index files have beside those of the release; where a
benchmark has no such column, as the released one, there is no such table.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from biovita.bench.confusion import by_group
from biovita.bench.tasks import Modality, Task

SOURCE = "source"  # of audio and image indices: where the file was published
DURATION = "duration_s"  # of the audio index
RECORDINGS = "train_recordings"  # of the text index: recordings of the species in `train`

# A group's name, and the first value that is above it.
DURATIONS = {
    "0 to 5 s": 5,
    "5 to 10 s": 10,
    "10 to 30 s": 30,
    "30 to 60 s": 60,
    "60 s or more": np.inf,
}  # 10 are heard
RARITIES = {"0": 1, "1 to 4": 5, "5 to 19": 20, "20 to 99": 100, "100 or more": np.inf}  # 20 are drawn an epoch


def slices_of(
    task: Task, indices: dict[Modality, pl.DataFrame], is_scored: np.ndarray, rank: np.ndarray, k: tuple[int, ...]
) -> dict[str, dict[str, Any]]:
    """Return `by_class`, and `by_source`, `by_duration` and `by_rarity` where the indices know.

    Args:
        task: what was asked.
        indices: of its split.
        is_scored: which queries have a rank, bool (query,).
        rank: of these.
        k: see `by_group`.
    """
    correct = task.correct[is_scored]
    ids = pl.DataFrame({"id": [task.payload_id[n] for n in np.flatnonzero(is_scored)]}, schema={"id": pl.String})
    rows = ids.join(indices[task.scenario.query], on="id", how="left", maintain_order="left")
    found = {"by_class": by_group([task.taxon_class[t] for t in correct], rank, k)}

    if SOURCE in rows.columns:
        found["by_source"] = by_group(rows[SOURCE].to_list(), rank, k)
    if DURATION in rows.columns:
        found["by_duration"] = by_group(names_of(rows[DURATION], DURATIONS), rank, k)
    if RECORDINGS in indices["text"].columns:
        known = indices["text"].unique("species", keep="first", maintain_order=True)
        counts = rows.select("species").join(known, on="species", how="left", maintain_order="left")[RECORDINGS]
        found["by_rarity"] = by_group(names_of(counts, RARITIES), rank, k)
    return found


def names_of(values: pl.Series, groups: Mapping[str, float]) -> list[str | None]:
    """Return the group of each value, a number as text; None where it is not known."""
    numbers = values.cast(pl.Float64, strict=False).to_numpy()
    places = np.searchsorted(list(groups.values()), numbers, side="right")  # NaN ends behind all
    return np.array([*groups, None], dtype=object)[places].tolist()
