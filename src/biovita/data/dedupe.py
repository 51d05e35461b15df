"""Files that are copies of one another, though not byte by byte: re-encoded, resized, trimmed, cut.

Prints are compared, never files, and all of them at once, whatever their source. A print that holds too little is not
compared; pairs that share a crowded key are compared with their neighbours only; both are counted.

1. Pictures differ in at most `MOST_BITS` of 256 bits. Cut into `N_WORDS * BANDS_PER_WORD` bands, at least two bands
   of such a pair are equal, so every pair of bands is a key, and sorting by it puts the pair side by side.
2. Sounds share most of their peaks after one is moved in time. Three or four peaks in a row, their pitches and
   distances, make a key. Two sounds with an equal key are laid over one another and their peaks counted.
3. What is linked, directly or through others, is one cluster, called after its smallest media_id.

Sounds that overlap by less than `LEAST_OVERLAP_S` count as copies only if they begin and end together: in so short a
stretch a common background is not told from a common recording.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import polars as pl

from biovita.errors import DatasetError
from biovita.media.fingerprint import N_PEAKS, STEP_S, audio_peaks, image_bits

BANDS_PER_WORD = 6
BAND_EDGES = (0, 11, 22, 33, 43, 54, 64)  # bits of a word of 64
N_WORDS = 4
MOST_BITS = BANDS_PER_WORD * N_WORDS - 2  # that may differ; more bits would have to miss two bands

PITCH_CELL, TIME_CELL = 8, 4  # steps; peaks in one cell count as equal in a key
PITCH_SLACK, TIME_SLACK = 4, 2  # steps by which peaks may miss one another
ROUGH = 8  # foremost peaks that are tried before all
LEAST_PEAKS = 24
LEAST_SHARE = 0.5  # of the peaks in the overlap that do not coincide by chance
SHORT_SHARE = 0.6  # likewise, where a sound is shorter than LEAST_OVERLAP_S
DEVIATIONS = 6.0  # and so many standard deviations more than coincide by chance
REGULAR = 0.5  # of the peaks of a sound that is laid over itself; above it, that many coincide by chance
LEAST_COVER = 0.9  # of the shorter sound
LEAST_OVERLAP_S = 6.0
SLACK_S = 0.05  # by which whole copies may begin or end apart: codecs pad

WINDOW = 32  # neighbours with an equal key that a row is compared with
KEY_BATCH = 1 << 9  # sounds whose keys are made at once: their arrays fit into the cache
PAIR_BATCH = 1 << 17  # pairs looked at, at once; those that may match are compared 1 << 10 at once


class Keys(NamedTuple):
    """How keys are made: of the `level` foremost peaks in the order of time, each with some of those that follow it.

    Attributes:
        level: foremost peaks.
        others: peaks in a key besides the first.
        following: they come from so many after it.
        kept: of all keys of a sound, those with the smallest hashes, so that copies keep mostly the same.
        placed: whether a key also tells, roughly, when it begins.
    """

    level: int
    others: int
    following: int
    kept: int
    placed: bool


WHOLE = (Keys(level=96, others=2, following=5, kept=48, placed=True),)
CUT = (  # the foremost peaks of a whole are among the next ones of its half, since that has more of its own
    Keys(level=24, others=3, following=6, kept=16, placed=False),
    Keys(level=48, others=3, following=6, kept=16, placed=False),
)
PLACE = 64  # steps; keys that begin in one of these stretches may be equal
NO_KEY = np.uint64(0xFFFFFFFFFFFFFFFF)
LATE = np.uint32(0xFFFFFFFF)  # sorts behind every peak


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """What belongs together.

    Attributes:
        clusters: `media_id`, `cluster` of the files that have a near-duplicate, sorted by media_id.
        counts: what was compared and what was not: `image_prints`, `image_pairs` (found), `image_crowded` (how often a
            print had more than WINDOW others under a key, of which only the next ones were compared), the same of
            `audio`; `without_print`; `largest` cluster.
    """

    clusters: pl.DataFrame
    counts: dict[str, int]


def near_duplicates(media: pl.DataFrame) -> NearDuplicates:
    """Find near-duplicates among the files of a table.

    Args:
        media: rows with `media_id`, `modality`, `fingerprint` and `duration_s`, in any order.

    Raises:
        DatasetError: a fingerprint is none of ours, as in a ledger of an older version.
    """
    media = media.select("media_id", "modality", "fingerprint", "duration_s").sort("media_id").with_row_index("row")
    images = media.filter((pl.col("modality") == "image") & (pl.col("fingerprint") != ""))
    long_enough = pl.col("fingerprint").str.len_bytes() >= LEAST_PEAKS * 4 * 4 // 3
    sounds = media.filter((pl.col("modality") == "audio") & long_enough)
    _refuse_strangers(images, sounds)
    linked, counts = [], {}
    for name, table, pairs_of in (("image", images, _image_pairs), ("audio", sounds, _audio_pairs)):
        pairs, n_crowded = pairs_of(table)
        linked.append(table["row"].to_numpy()[pairs])
        counts |= {f"{name}_prints": len(table), f"{name}_pairs": len(pairs), f"{name}_crowded": n_crowded}
    label = connect(np.concatenate(linked).astype(np.int64), len(media))
    size = np.bincount(label, minlength=1)
    row = np.flatnonzero(size[label] > 1)
    ids = media["media_id"]
    clusters = pl.DataFrame({"media_id": ids.gather(row), "cluster": ids.gather(label[row])})
    counts |= {"without_print": len(media) - len(images) - len(sounds), "largest": int(size.max()) if len(row) else 0}
    return NearDuplicates(clusters=clusters, counts=counts)


def _refuse_strangers(images: pl.DataFrame, sounds: pl.DataFrame) -> None:
    length = pl.col("fingerprint").str.len_bytes()
    strange = pl.concat(
        [images.filter(length != 16 * N_WORDS), sounds.filter((length > 16 * N_PEAKS // 3) | (length % 4 != 0))]
    )
    if len(strange):
        media_id, fingerprint = strange.select("media_id", "fingerprint").row(0)
        raise DatasetError(f"{media_id}: fingerprint {fingerprint[:20]} is none of this version; check the file again")


def _image_pairs(images: pl.DataFrame) -> tuple[np.ndarray, int]:
    return image_pairs(image_bits(images["fingerprint"].to_list()))


def image_pairs(bits: np.ndarray) -> tuple[np.ndarray, int]:
    """Find all pairs of rows [n, 4] of uint64 that differ in at most MOST_BITS bits.

    Returns:
        Pairs [pair, 2], the smaller row first, sorted; and how often a row had more than WINDOW others under a key.
    """
    rows = np.arange(len(bits), dtype=np.uint64)
    bands = [
        (word >> np.uint64(first)) & np.uint64((1 << (stop - first)) - 1)
        for word in bits.T
        for first, stop in pairwise(BAND_EDGES)
    ]
    found, n_crowded = [np.zeros(0, np.uint64)], 0
    for one, other in combinations(bands, 2):
        keyed = (one << np.uint64(11) | other) << np.uint64(32) | rows
        keyed.sort()
        row = (keyed & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        keyed >>= np.uint64(32)
        for first, second in _neighbours(keyed):
            if not len(second):
                n_crowded += len(first)
                break
            left, right = row[first], row[second]
            distance = np.zeros(len(left), np.uint8)
            for word in bits.T:
                distance = distance + np.bitwise_count(word[left] ^ word[right])
                near = distance <= MOST_BITS
                left, right, distance = left[near], right[near], distance[near]
            found.append(np.unique(left.astype(np.uint64) << np.uint64(32) | right))
    return _unpack(np.concatenate(found)), n_crowded


def _audio_pairs(sounds: pl.DataFrame) -> tuple[np.ndarray, int]:
    peaks, n_peaks = audio_peaks(sounds["fingerprint"].to_list())
    return audio_pairs(peaks, n_peaks, sounds["duration_s"].to_numpy())


def audio_pairs(peaks: np.ndarray, n_peaks: np.ndarray, duration_s: np.ndarray) -> tuple[np.ndarray, int]:
    """Find pairs of sounds that share a key and whose peaks coincide.

    Args:
        peaks: [n, N_PEAKS] as `audio_peaks` gives them.
        n_peaks: how many of each row count.
        duration_s: of the sounds.

    Returns:
        As `image_pairs`.
    """
    by_length = np.argsort(duration_s, kind="stable")
    long = by_length[duration_s[by_length] >= LEAST_OVERLAP_S]
    found, n_crowded = [np.zeros(0, np.uint64)], 0
    for plans, rows, slack_s in ((WHOLE, by_length, SLACK_S), (CUT, long, np.inf)):
        pairs, n_left = _pairs_by_key(Sounds(peaks[rows], n_peaks[rows], duration_s[rows]), plans, slack_s)
        pairs = np.sort(rows[pairs], axis=1).astype(np.uint64)
        found.append(pairs[:, 0] << np.uint64(32) | pairs[:, 1])
        n_crowded += n_left
    return _unpack(np.concatenate(found)), n_crowded


class Sounds(NamedTuple):
    """Prints of sounds: peaks [n, N_PEAKS], how many count [n], and how long the sounds are [n]."""

    peaks: np.ndarray
    n_peaks: np.ndarray
    duration_s: np.ndarray

    def take(self, rows: np.ndarray) -> "Sounds":
        """Pick rows, in the order given."""
        return Sounds(self.peaks[rows], self.n_peaks[rows], self.duration_s[rows])


def _pairs_by_key(sounds: Sounds, plans: tuple[Keys, ...], slack_s: float) -> tuple[np.ndarray, int]:
    """Find pairs of sounds, sorted by length, that share a key, are about as long as another, and coincide."""
    keyed, starts = _sorted_keys(sounds, plans)
    low = np.uint64((1 << starts.size.bit_length()) - 1)
    place = (keyed & low).astype(np.int64)
    keyed &= ~low
    row = (place // sum(plan.kept for plan in plans)).astype(np.int32)
    start = starts[place]
    del place, starts
    length = sounds.duration_s.astype(np.float32)[row]
    found, n_crowded = [np.zeros((0, 2), np.int64)], 0
    for first, second in _neighbours(keyed, length, slack_s):
        if not len(second):
            n_crowded = len(first)
            break
        for i in range(0, len(first), PAIR_BATCH):
            one, other = first[i : i + PAIR_BATCH], second[i : i + PAIR_BATCH]
            left, right, offset = row[one], row[other], (start[one] - start[other]).astype(np.int64)
            lie = (left != right) & lie_together(sounds.duration_s[left], sounds.duration_s[right], offset)
            left, right, offset = left[lie], right[lie], offset[lie]
            same = coincide(sounds, left, right, offset)
            found.append(np.stack([left[same], right[same]], axis=1).astype(np.int64))
    return np.concatenate(found), n_crowded


def _sorted_keys(sounds: Sounds, plans: tuple[Keys, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Sort the keys of all sounds, the low bits replaced by the position in the other array: where a key begins."""
    per_row = sum(plan.kept for plan in plans)
    keys = np.empty((len(sounds.peaks), per_row), np.uint64)
    starts = np.empty((len(sounds.peaks), per_row), np.int32)
    for i in range(0, len(keys), KEY_BATCH):
        block = slice(i, i + KEY_BATCH)
        parts = [sound_keys(sounds.peaks[block], sounds.n_peaks[block], plan) for plan in plans]
        keys[block] = np.concatenate([key for key, _ in parts], axis=1)
        starts[block] = np.concatenate([start for _, start in parts], axis=1)
    keyed, starts = keys.ravel(), starts.ravel()
    missing = keyed == NO_KEY
    position = np.uint64((1 << keyed.size.bit_length()) - 1)
    keyed &= ~position
    keyed |= np.arange(len(keyed), dtype=np.uint64)
    keyed = keyed[~missing]
    keyed.sort()
    return keyed, starts


def sound_keys(peaks: np.ndarray, n_peaks: np.ndarray, plan: Keys) -> tuple[np.ndarray, np.ndarray]:
    """Make the keys of sounds, and where each begins, in steps: both [n, plan.kept]; NO_KEY fills up."""
    front = np.where(np.arange(plan.level) < n_peaks[:, None], peaks[:, : plan.level], LATE)
    front.sort(axis=1)  # by time
    time, pitch = front >> np.uint32(8), ((front & np.uint32(255)) // np.uint32(PITCH_CELL)).astype(np.uint64)
    n = plan.level - plan.following
    start = time[:, :n]
    place = start // np.uint32(PLACE if plan.placed else LATE)
    first = _mix(place.astype(np.uint64) << np.uint64(8) | pitch[:, :n])
    keys = []
    for steps in combinations(range(1, plan.following + 1), plan.others):
        key = first
        for step in steps:
            gap = (time[:, step : n + step] - start) // np.uint32(TIME_CELL)
            key = _mix(key ^ (gap.astype(np.uint64) << np.uint64(8) | pitch[:, step : n + step]))
        key[front[:, steps[-1] : n + steps[-1]] == LATE] = NO_KEY
        keys.append(key)
    key = np.concatenate(keys, axis=1)
    least = np.argpartition(key, plan.kept, axis=1)[:, : plan.kept]
    return np.take_along_axis(key, least, axis=1), np.take_along_axis(start, least % n, axis=1).astype(np.int32)


def lie_together(left_s: np.ndarray, right_s: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Say whether two sounds, the right one `offset` steps later, may be copies: whole, or one cut from the other."""
    start_s = offset * STEP_S
    overlap_s = np.minimum(left_s, start_s + right_s) - np.maximum(0, start_s)
    cut = (overlap_s >= LEAST_OVERLAP_S) & (overlap_s >= LEAST_COVER * np.minimum(left_s, right_s))
    return cut | begin_and_end_together(left_s, right_s, offset)


def begin_and_end_together(left_s: np.ndarray, right_s: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Say whether two sounds, the right one `offset` steps later, may be whole copies."""
    start_s = offset * STEP_S
    return np.maximum(np.abs(start_s), np.abs(start_s + right_s - left_s)) <= SLACK_S


def coincide(sounds: Sounds, left: np.ndarray, right: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Say of pairs of rows whether most of their peaks coincide when the right one begins `offset` steps later."""
    same = np.zeros(len(offset), bool)
    for i in range(0, len(offset), 1 << 10):
        part = slice(i, i + (1 << 10))
        same[part] = _coincide(sounds.take(left[part]), sounds.take(right[part]), offset[part])
    return same


def _coincide(left: Sounds, right: Sounds, offset: np.ndarray) -> np.ndarray:
    same = np.zeros(len(offset), bool)
    gap, level = _partners(left, right, offset, ROUGH)
    near = level & (np.abs(gap) <= 2 * TIME_SLACK)
    inside = _inside(left, right.duration_s, offset)[:, :ROUGH]
    tried = np.flatnonzero(3 * (near.any(axis=2) & inside).sum(axis=1) >= inside.sum(axis=1))
    if not len(tried):
        return same
    left, right, offset = left.take(tried), right.take(tried), offset[tried]
    # The key's first peak, by which they were laid over one another, may itself be a little off.
    gaps = np.where(near, gap, np.nan)[tried].reshape(len(tried), -1)
    offset = offset + np.nan_to_num(_median(gaps)).round().astype(np.int64)
    gap, level = _partners(left, right, offset, N_PEAKS)
    near = level & (np.abs(gap) <= TIME_SLACK)
    in_left, in_right = _inside(left, right.duration_s, offset), _inside(right, left.duration_s, -offset)
    matched = np.minimum((near.any(axis=2) & in_left).sum(axis=1), (near.any(axis=1) & in_right).sum(axis=1))
    n = np.minimum(in_left.sum(axis=1), in_right.sum(axis=1))
    # As with Cohen's kappa, what as many peaks at random times would share counts for nothing.
    expected = level.sum(axis=2) * ((2 * TIME_SLACK + 1) * STEP_S / right.duration_s)[:, None]
    chance = np.average(1 - np.exp(-expected), axis=1, weights=in_left + 1e-9)
    short = np.minimum(left.duration_s, right.duration_s) < LEAST_OVERLAP_S
    least = np.where(short, SHORT_SHARE, LEAST_SHARE)
    beyond = matched - n * chance
    clear = (beyond >= n * (1 - chance) * least) & (beyond >= DEVIATIONS * np.sqrt(n * chance * (1 - chance)))
    clear &= n >= LEAST_PEAKS
    # A cricket fits another one in as many ways as it fits itself.
    for pair in np.flatnonzero(clear & ~begin_and_end_together(left.duration_s, right.duration_s, offset)):
        regular = self_fit(left.peaks[pair, : left.n_peaks[pair]])
        if regular > REGULAR:
            clear[pair] = matched[pair] >= n[pair] * (regular + (1 - regular) * least[pair])
    same[tried] = clear
    return same


def self_fit(peaks: np.ndarray) -> float:
    """Tell what share of a sound's peaks, at most, coincides with others of its own when it is moved in time."""
    time, pitch = (peaks >> 8).astype(np.int64), (peaks & 255).astype(np.int64)
    lag = time[:, None] - time
    lag = lag[(np.abs(pitch[:, None] - pitch) <= PITCH_SLACK) & (lag > 2 * TIME_SLACK)]
    fitting = np.convolve(np.bincount(lag, minlength=1), np.ones(2 * TIME_SLACK + 1), "same")
    left = len(time) - np.searchsorted(np.sort(time) - time.min(), np.arange(len(fitting)))  # peaks in the overlap
    enough = left >= LEAST_PEAKS
    return float((fitting[enough] / left[enough]).max(initial=0))


def _median(rows: np.ndarray) -> np.ndarray:
    """Median of each row without its NaN; NaN where there is nothing else."""
    rows = np.sort(rows, axis=1)
    n = np.count_nonzero(~np.isnan(rows), axis=1)
    return np.take_along_axis(rows, np.maximum(0, n - 1)[:, None] // 2, axis=1)[:, 0]


def _partners(left: Sounds, right: Sounds, offset: np.ndarray, n_left: int) -> tuple[np.ndarray, np.ndarray]:
    """Say how far apart in time [pair, left peak, right peak] are, and which pairs of peaks are about as high."""
    one, other = left.peaks[:, :n_left, None].astype(np.int32), right.peaks[:, None, :].astype(np.int32)
    gap = (one >> 8) - (other >> 8) - offset[:, None, None].astype(np.int32)
    level = np.abs((one & 255) - (other & 255)) <= PITCH_SLACK
    level &= (np.arange(n_left) < left.n_peaks[:, None])[:, :, None]
    level &= (np.arange(N_PEAKS) < right.n_peaks[:, None])[:, None, :]
    return gap, level


def _inside(sounds: Sounds, other_s: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Say which peaks [pair, peak] lie where the other sound is heard too, which begins `offset` steps later."""
    time = (sounds.peaks >> 8).astype(np.int64) - offset[:, None]
    heard = (time >= 0) & (time * STEP_S < other_s[:, None])
    return heard & (np.arange(N_PEAKS) < sounds.n_peaks[:, None])


def connect(pairs: np.ndarray, n: int) -> np.ndarray:
    """Label n rows by the smallest row that they are linked with, through any number of pairs [pair, 2]."""
    label = np.arange(n)
    while len(pairs):
        one, other = label[pairs[:, 0]], label[pairs[:, 1]]
        pairs, one, other = (x[one != other] for x in (pairs, one, other))
        np.minimum.at(label, np.maximum(one, other), np.minimum(one, other))
        while (label[label] != label).any():
            label = label[label]
    return label


def _neighbours(
    keys: np.ndarray, lengths: np.ndarray | None = None, slack: float = np.inf
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the places of equal sorted keys in pairs, those next to one another first, up to WINDOW apart.

    Among equal keys, lengths rise; none further apart than `slack` are paired. Last come the places that have an equal
    beyond the window, with no partner.
    """
    first = np.flatnonzero(keys[1:] == keys[:-1])
    for shift in range(1, WINDOW + 2):
        first = first[: np.searchsorted(first, len(keys) - shift)]
        if shift > 1:
            first = first[keys[first] == keys[first + shift]]
        if lengths is not None:
            first = first[lengths[first + shift] - lengths[first] <= slack]
        yield first, first + shift if shift <= WINDOW else first[:0]
        if not len(first):
            return


def _unpack(pairs: np.ndarray) -> np.ndarray:
    pairs = np.unique(pairs)
    both = np.stack([pairs >> np.uint64(32), pairs & np.uint64(0xFFFFFFFF)], axis=1).astype(np.int64)
    return both


def _mix(x: np.ndarray) -> np.ndarray:
    """Scatter the bits of uint64 (splitmix64, Steele et al. 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(31)
    return x
