"""Score one task: exact cosine, and a taxon is as near as its nearest sample.

1. The job is turned round: for each group of samples, gather the queries that list it, multiply once, take the maximum,
   write it to its cells. Only pairs that are asked for are computed, and no loop runs over queries.
2. A score is a cosine summed in float64 and rounded to float32. A matrix product sums in an order that depends on its
   shape; rounding from 53 bits hides that, so equal vectors get equal scores, ties are ties, and the size of a block
   changes no digit.
3. Most scores decide nothing. All are first summed in float32, which takes half the time and has a bounded error; only
   those that could change a rank or an answer within that bound are then scored as in 2.
4. Threads take blocks of queries, each with a one-threaded product: the products are too small to be shared out.
5. A query that would need a missing vector is an error, is left out, or meets zeros; never less than the file says.
"""

import os
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from biovita.bench.metrics import best_first, rank_of_match
from biovita.bench.tasks import Missing, Task, Ties
from biovita.embed.store import EmbeddingTable
from biovita.errors import BenchError, EmbeddingError

N_TOP = 5
N_THREADS = min(8, os.cpu_count() or 1)
BLOCK_QUERIES = 8192
BLOCK_ASKING = 128  # queries gathered for one product: they stay in cache
BLOCK_ASKED = 8  # queries for which samples are gathered at once: these stay in cache
DENSE = 8  # samples for each that a query asks for, up to which a product with all takes less time than to gather
COLUMNS = 4  # products with a multiple of so many samples are up to a fifth faster
N_NAMED = 5
N_SAMPLE = 2048  # queries whose scores are kept for the calibration


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """The rows of one embedding file that speak for one modality at one level.

    Attributes:
        source: file and level, for messages.
        row: row of each id.
        embedding: float32 (row, dimension).
    """

    source: str
    row: dict[str, int]
    embedding: np.ndarray

    def rows(self, ids: list[str]) -> np.ndarray:
        """Return the row of each id, -1 where there is none."""
        return np.array([self.row.get(name, -1) for name in ids], dtype=np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """What a model answered to one task.

    Attributes:
        is_scored: bool, one a query of the task; the arrays below hold only these.
        missing_ids: ids that the task needs and the model has no vector of.
        rank: place of the correct taxon, from 1.
        top_taxon, top_item, top_score: the best N_TOP candidates (index into `task.taxa`, `task.items`), -1 and NaN
            where a pool is smaller.
        sample: of the scored queries, those whose scores are kept: all, or N_SAMPLE at equal distances.
        sample_score: float32 (sample, width), -inf where a pool is smaller.
        sample_match: column of the match there.
    """

    is_scored: np.ndarray
    missing_ids: list[str]
    rank: np.ndarray
    top_taxon: np.ndarray
    top_item: np.ndarray
    top_score: np.ndarray
    sample: np.ndarray
    sample_score: np.ndarray
    sample_match: np.ndarray


def vectors_of(table: EmbeddingTable | None, source: str, modality: str, level: str) -> Vectors:
    """Pick the rows for one modality; for text, those of the level's name form.

    Args:
        table: the file, or None where there is none (then every id is missing).
        source: its name, for messages.
        modality: audio, image or text.
        level: species, genus or family; only text differs by level.

    Raises:
        EmbeddingError: an item has several rows (windows); one vector an item is what the benchmark compares.
    """
    if modality == "text":
        source = f"{source} (level {level})"
    if table is None:
        return Vectors(source=source, row={}, embedding=np.zeros((0, 0), np.float32))
    row: dict[str, int] = {}
    for i, name in enumerate(table.ids):
        if table.modality[i] != modality or (modality == "text" and table.level[i] != level):
            continue
        if name in row:
            raise EmbeddingError(
                f"{source}: id {name!r} has several vectors; the benchmark needs one an item, so embed one window"
            )
        row[name] = i
    return Vectors(source=source, row=row, embedding=table.embedding)


def rank_task(
    task: Task,
    query: Vectors,
    target: Vectors,
    *,
    ties: Ties,
    missing: Missing,
    left_out: Container[str] = (),
) -> Ranking:
    """Rank the candidates of every query of a task.

    Args:
        task: what is asked.
        query: vectors of the asking modality.
        target: vectors of the answering modality.
        ties: see `metrics.rank_of_match`.
        missing: `error` names the ids; `skip` leaves out every query that would need a missing vector; `zero` puts
            zeros there, as the reference script does (and a candidate without samples comes last).
        left_out: ids that do not count, since their files hold no sound or picture: they ask nothing, and a candidate
            stands with its other samples. A query with a candidate that has no others is left out.

    Raises:
        BenchError: a vector is missing, or a candidate has no samples, under `error`.
    """
    query_row, item_row = query.rows(task.payload_id), target.rows(task.items)
    asks = np.array([name not in left_out for name in task.payload_id], dtype=bool)
    counts = np.array([name not in left_out for name in task.items], dtype=bool)
    lost_queries = sorted({task.payload_id[i] for i in np.flatnonzero(asks & (query_row < 0))})
    lost_items = [task.items[i] for i in np.flatnonzero(counts & (item_row < 0))]
    is_empty = np.append(np.diff(task.group_start) == 0, False)  # the last is for -1, no candidate
    is_emptied = ~is_empty & np.append(_sums(task, counts) == 0, False)
    if missing == "error":
        _refuse(task, query, lost_queries, task.payload_id)
        _refuse(task, target, lost_items, task.items)
        _refuse_empty(task, is_empty)
    is_scored = asks & ~is_emptied[task.group].any(axis=1)
    if missing == "skip":
        lacks = is_empty | np.append(_sums(task, counts & (item_row < 0)) > 0, False)
        is_scored &= (query_row >= 0) & ~lacks[task.group].any(axis=1)
    scored = np.flatnonzero(is_scored)
    dim = max(1, query.embedding.shape[1], target.embedding.shape[1])
    n_top = min(N_TOP, task.taxon.shape[1])
    rank = np.zeros(len(scored), np.int64)
    kinds = {"taxon": np.int64, "item": np.int64, "score": np.float32}
    top = {name: np.zeros((len(scored), n_top), kind) for name, kind in kinds.items()}
    sample = np.unique(np.linspace(0, len(scored) - 1, min(N_SAMPLE, len(scored))).astype(np.int64))
    sample_score = np.empty((len(sample), task.taxon.shape[1]), np.float32)
    block = min(BLOCK_QUERIES, -(-len(scored) // N_THREADS)) or 1

    def rank_block(start: int) -> None:
        out = slice(start, start + block)
        rows = scored[out]
        taxon, group = task.taxon[rows], task.group[rows]
        is_candidate = taxon >= 0
        is_match = taxon == task.correct[rows, None]
        asked = _unit(query.embedding, query_row[rows], dim)
        kept = slice(*np.searchsorted(sample, [start, start + block]))
        in_doubt = group.copy()
        in_doubt[sample[kept] - start] = -1  # these are wanted exactly, one and all
        near, _ = _best_samples(asked.astype(np.float32), task, in_doubt, target.embedding, item_row, counts)
        decides = _decides(near, is_match, _reach(dim))
        exact, item = _best_samples(asked, task, np.where(decides, group, -1), target.embedding, item_row, counts)
        score = np.where(decides, exact, near)
        rank[out] = rank_of_match(score, is_match, is_candidate, ties=ties)
        sample_score[kept] = np.where(is_candidate, score, -np.inf)[sample[kept] - start]
        order, is_real = best_first(score, is_match, is_candidate, ties=ties, n=n_top)
        for name, values, none in (("taxon", taxon, -1), ("item", item, -1), ("score", score, np.nan)):
            top[name][out] = np.where(is_real, np.take_along_axis(values, order, axis=1), none)

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(N_THREADS) as pool:
        list(pool.map(rank_block, range(0, len(scored), block)))
    return Ranking(
        is_scored=is_scored,
        missing_ids=[*lost_queries, *lost_items],
        rank=rank,
        top_taxon=top["taxon"],
        top_item=top["item"],
        top_score=top["score"],
        sample=sample,
        sample_score=sample_score,
        sample_match=(task.taxon == task.correct[:, None])[scored[sample]].argmax(axis=1),
    )


def _sums(task: Task, values: np.ndarray) -> np.ndarray:
    """Count in each group the items for which something is true, int64 (group,)."""
    return np.diff(np.concatenate([[0], np.cumsum(values[task.group_item])])[task.group_start])


def _reach(dim: int) -> float:
    """Return how far apart two scores summed in float32 may lie whose exact order is still open.

    A sum of n products errs by at most gamma(n) = n u / (1 - n u) times the lengths, in any order, with u = 2^-24 in
    float32. Four more roundings are those of the two vectors, of the exact score and of the border it is held against.

    Args:
        dim: numbers a vector.

    Source:
        Higham, Accuracy and Stability of Numerical Algorithms (2002), section 3.1.
    """
    return 2 * (dim + 4) / (2**24 - dim - 4)


def _decides(near: np.ndarray, is_match: np.ndarray, reach: float) -> np.ndarray:
    """Find the candidates whose exact score could change a rank or an answer.

    They lie within reach of the match, or no more than that below the last of the first N_TOP.

    Args:
        near: scores summed in float32 (query, width); a row of -inf decides as a whole.
        is_match: bool (query, width).
        reach: see `_reach`.

    Returns:
        bool (query, width).
    """
    n_top = min(N_TOP, near.shape[1])
    match = np.where(is_match, near, -np.inf).max(axis=1, keepdims=True)
    last = np.partition(near, -n_top, axis=1)[:, [-n_top]]
    return (near >= last - reach) | ((near >= match - reach) & (near <= match + reach))


def _best_samples(
    asked: np.ndarray,
    task: Task,
    group: np.ndarray,
    embedding: np.ndarray,
    item_row: np.ndarray,
    counts: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Score each candidate as its best sample, and say which sample that was (the first of equals).

    Args:
        asked: unit vectors (query, dimension); products are summed in their precision, float64 or float32.
        task: holds the groups.
        group: group of each candidate (query, width), -1 where none is asked for.
        embedding: vectors of the target modality.
        item_row: row of each item there, -1 where missing.
        counts: whether an item counts at all, bool (item,).

    Returns:
        score float32 (query, width), -inf where there are no samples; item int64 (query, width), -1 there.
    """
    if counts.all() and (np.diff(task.group_start) == 1).all():
        return _only_samples(asked, task, group, embedding, item_row)
    width, dim = group.shape[1], asked.shape[1]
    score = np.full(group.size, -np.inf, np.float32)
    best = np.full(group.size, -1, np.int64)
    cells = np.flatnonzero(group >= 0)
    kind = np.uint16 if len(task.group_start) <= 2**16 else np.int32  # 16 bits are sorted eight times faster
    of = group.ravel()[cells].astype(kind)
    order = np.argsort(of, kind="stable")
    cells = cells[order]
    present, sizes = np.unique(of[order], return_counts=True)
    ends = np.cumsum(sizes)
    room = np.empty((BLOCK_ASKING, dim), asked.dtype)  # fresh memory for each product takes longer than the copy
    for g, start, end in zip(present.tolist(), ends - sizes, ends, strict=True):
        items = task.group_item[task.group_start[g] : task.group_start[g + 1]]
        items = items[counts[items]]
        if len(items) == 0:
            continue
        items = np.concatenate([items, np.repeat(items[-1:], -len(items) % COLUMNS)])
        samples = _unit(embedding, item_row[items], dim).astype(asked.dtype, copy=False).T
        for at in range(start, end, BLOCK_ASKING):
            some = cells[at : min(at + BLOCK_ASKING, end)]
            asking = np.take(asked, some // width, axis=0, out=room[: len(some)], mode="clip")
            cosine = (asking @ samples).astype(np.float32, copy=False)
            nearest = cosine.argmax(axis=1)
            score[some] = cosine[np.arange(len(some)), nearest]
            best[some] = items[nearest]
    return score.reshape(group.shape), best.reshape(group.shape)


def _only_samples(
    asked: np.ndarray, task: Task, group: np.ndarray, embedding: np.ndarray, item_row: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Do what `_best_samples` does where every candidate has one sample.

    A query that asks for many of the samples is multiplied with all; for the others their own are gathered, for
    queries that ask for equally many together.
    """
    dim = asked.shape[1]
    score = np.full(group.shape, -np.inf, np.float32)
    best = np.where(group >= 0, task.group_item[group], -1)
    samples = _unit(embedding, item_row, dim).astype(asked.dtype, copy=False)
    n_asked = (group >= 0).sum(axis=1)
    rows = np.argsort(n_asked, kind="stable")
    few, many = np.split(rows, [np.searchsorted(n_asked[rows] * DENSE, len(samples))])
    for some in np.split(many, range(BLOCK_ASKING, len(many), BLOCK_ASKING)):
        score[some] = np.take_along_axis(asked[some] @ samples.T, best[some], axis=1)
    columns = np.argsort(group < 0, axis=1, kind="stable")
    room = np.empty((BLOCK_ASKED * n_asked[few].max(initial=0), dim), asked.dtype)
    for some in np.split(few, range(BLOCK_ASKED, len(few), BLOCK_ASKED)):
        cells = some[:, None], columns[some, : n_asked[some].max(initial=0)]
        items = best[cells]
        own = np.take(samples, items.ravel(), axis=0, out=room[: items.size], mode="clip")
        score[cells] = (own.reshape(*items.shape, dim) @ asked[some, :, None])[..., 0]
    score[group < 0] = -np.inf
    return score, best


def _unit(embedding: np.ndarray, rows: np.ndarray, dim: int) -> np.ndarray:
    """Gather rows as float64 vectors of length 1; row -1 is zeros."""
    if len(embedding) == 0:
        return np.zeros((len(rows), dim))
    out = embedding[rows].astype(np.float64)
    out /= np.sqrt(np.einsum("ij,ij->i", out, out))[:, None]
    out[rows < 0] = 0
    return out


def _refuse(task: Task, vectors: Vectors, lost: list[str], needed: list[str]) -> None:
    """Refuse to go on without vectors that the task needs."""
    if lost:
        raise BenchError(
            f"{vectors.source} lacks {len(lost)} of the {len(set(needed))} ids that {task.scenario} needs: "
            f"{named(lost)}; embed them, or choose --missing skip or zero"
        )


def _refuse_empty(task: Task, is_empty: np.ndarray) -> None:
    """Refuse a candidate that stands with no samples.

    Args:
        task: what is asked.
        is_empty: whether a group has no samples, bool (group + 1,); the last stands for no candidate.
    """
    rows, columns = np.nonzero(is_empty[task.group])
    if len(rows):
        name = task.taxa[task.taxon[rows[0], columns[0]]]
        raise BenchError(
            f"{task.scenario}: row {rows[0] + 1}: candidate {name!r} has no samples, so it cannot be scored; mend the "
            "task file, or choose --missing skip or zero"
        )


def named(ids: list[str]) -> str:
    """Name the first few ids and count the others."""
    return ", ".join(ids[:N_NAMED]) + (f" and {len(ids) - N_NAMED} more" if len(ids) > N_NAMED else "")
