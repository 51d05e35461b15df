"""Copies are found and strangers are not, exactly as plain loops say, in whatever order the rows come."""

import base64
import math
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biovita.data import dedupe
from biovita.data.dataset import Dataset
from biovita.data.dedupe import (
    CUT,
    DEVIATIONS,
    LEAST_OVERLAP_S,
    LEAST_PEAKS,
    LEAST_SHARE,
    MOST_BITS,
    NO_KEY,
    SHORT_SHARE,
    WHOLE,
    WINDOW,
    Sounds,
    audio_pairs,
    coincide,
    connect,
    image_pairs,
    lie_together,
    near_duplicates,
    self_fit,
    sound_keys,
)
from biovita.errors import DatasetError
from biovita.media.check import Limits, check_files
from biovita.media.fingerprint import N_PEAKS, STEP_S, audio_peaks

WILDLIFE = Path(__file__).parents[3] / "shared" / "data" / "wildlife"
Peaks = list[tuple[int, int]]  # time and pitch in steps, foremost first


def flip(bits: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Turn n different bits of one print [4]."""
    turned = np.zeros(256, np.uint8)
    turned[rng.choice(256, n, replace=False)] = 1
    return bits ^ np.packbits(turned).view(">u8").astype(np.uint64)


def random_bits(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 1 << 63, (n, 4), np.uint64) << np.uint64(1) | rng.integers(0, 2, (n, 4), np.uint64)


def song(rng: np.random.Generator, duration_s: float, n: int = N_PEAKS) -> Peaks:
    last = round(duration_s / STEP_S) - 1
    return [(int(t), int(p)) for t, p in zip(rng.integers(0, last, n), rng.integers(4, 237, n), strict=True)]


def copy_of(peaks: Peaks, rng: np.random.Generator, *, later: int = 0, lost: float = 0.15) -> Peaks:
    """Move all peaks, each also by up to one step, and replace some."""
    last = max(time for time, _ in peaks)
    return [
        (int(rng.integers(0, last)), int(rng.integers(4, 237)))
        if rng.random() < lost
        else (max(0, time + later + int(rng.integers(-1, 2))), pitch)
        for time, pitch in peaks
    ]


def text_of(peaks: Peaks) -> str:
    return base64.b64encode(np.array([t << 8 | p for t, p in peaks], "<u4").tobytes()).decode()


def table(*rows: tuple[str, str, str | None, float | None]) -> pl.DataFrame:
    columns = {"media_id": pl.String, "modality": pl.String, "fingerprint": pl.String, "duration_s": pl.Float64}
    return pl.DataFrame(rows, columns, orient="row")


def archive(sounds: list[tuple[Peaks, float]]) -> Sounds:
    peaks, n_peaks = audio_peaks([text_of(peaks) for peaks, _ in sounds])
    return Sounds(peaks, n_peaks, np.array([duration_s for _, duration_s in sounds]))


def clusters_of(media: pl.DataFrame) -> dict[str, list[str]]:
    members = defaultdict(list)
    for media_id, cluster in near_duplicates(media).clusters.iter_rows():
        members[cluster].append(media_id)
    return dict(members)


def hexed(bits: np.ndarray) -> str:
    return "".join(f"{int(word):016x}" for word in bits)


@given(st.integers(0, 10_000), st.integers(0, 40))
@settings(max_examples=25, deadline=None)
def test_pairs_of_pictures_equal_those_of_a_plain_loop(seed: int, n_base: int) -> None:
    rng = np.random.default_rng(seed)
    bits = random_bits(n_base, rng)
    for original in bits[: n_base // 2]:
        near = [flip(original, int(n), rng) for n in rng.integers(0, 34, 3)]
        bits = np.concatenate([bits, near])
    bits = rng.permutation(bits)
    twin = [
        [i, j]
        for i, j in combinations(range(len(bits)), 2)
        if sum((int(a) ^ int(b)).bit_count() for a, b in zip(bits[i], bits[j], strict=True)) <= MOST_BITS
    ]
    pairs, n_crowded = image_pairs(bits)
    assert pairs.tolist() == twin
    assert n_crowded == 0


def test_every_pair_of_pictures_at_the_limit_is_found() -> None:
    rng = np.random.default_rng(1)
    one = random_bits(500, rng)
    bits = np.concatenate(
        [one, [flip(row, MOST_BITS, rng) for row in one], [flip(row, MOST_BITS + 1, rng) for row in one]]
    )
    pairs, _ = image_pairs(bits)
    found = {tuple(pair) for pair in pairs.tolist()}
    assert all((i, 500 + i) in found for i in range(500))
    assert not any((i, 1_000 + i) in found for i in range(500))


def test_a_crowd_of_equal_pictures_is_one_cluster_and_what_was_not_compared_is_counted() -> None:
    n = 10 * WINDOW
    rng = np.random.default_rng(2)
    bits = np.concatenate([np.repeat(random_bits(1, rng), n, axis=0), random_bits(50, rng)])
    pairs, n_crowded = image_pairs(bits)
    assert len(pairs) < n * (WINDOW + 1)
    assert n_crowded == (n - WINDOW - 1) * len(list(combinations(range(24), 2)))
    label = connect(pairs, len(bits))
    assert not label[:n].any()
    assert label[n:].tolist() == list(range(n, n + 50))


def plainly_coincide(sounds: Sounds, i: int, j: int, offset: int) -> bool:
    """Lay one sound over the other, count, decide; all offsets around the given one."""
    left, right = ([(int(p) >> 8, int(p) & 255) for p in sounds.peaks[row, : sounds.n_peaks[row]]] for row in (i, j))
    left_s, right_s = (float(sounds.duration_s[row]) for row in (i, j))

    def near(time: int, pitch: int, theirs: Peaks) -> bool:
        return any(abs(time - u) <= 2 and abs(pitch - q) <= 4 for u, q in theirs)

    for shift in range(offset - 4, offset + 5):
        moved = [(time + shift, pitch) for time, pitch in right]
        in_left = [peak for peak in left if peak[0] >= shift and (peak[0] - shift) * STEP_S < right_s]
        in_right = [peak for peak in moved if peak[0] >= 0 and peak[0] * STEP_S < left_s]
        n = min(len(in_left), len(in_right))
        if n < LEAST_PEAKS:
            continue
        matched = min(sum(near(*peak, moved) for peak in in_left), sum(near(*peak, left) for peak in in_right))
        level = [sum(abs(pitch - q) <= 4 for _, q in right) for _, pitch in in_left]
        chance = sum(1 - math.exp(-k * 5 * STEP_S / right_s) for k in level) / len(level)
        least = SHORT_SHARE if min(left_s, right_s) < LEAST_OVERLAP_S else LEAST_SHARE
        deviation = math.sqrt(n * chance * (1 - chance))
        if (matched / n - chance) / (1 - chance) >= least and (matched - n * chance) / deviation >= DEVIATIONS:
            return True  # none of the sounds here is regular
    return False


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_sounds_coincide_where_a_plain_loop_says_so(seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = song(rng, 30.0)
    others = [
        (copy_of(base, rng, lost=0.1), 30.0),
        (copy_of(base, rng, later=-100, lost=0.2), 28.4),
        (copy_of(base, rng, lost=0.9), 30.0),
        (song(rng, 30.0), 30.0),
        (song(rng, 30.0, 20), 30.0),
    ]
    sounds = archive([(base, 30.0), *others])
    offset = np.array([0, 100, 0, 0, 0])
    got = coincide(sounds, np.zeros(5, int), np.arange(1, 6), offset)
    assert got.tolist() == [plainly_coincide(sounds, 0, j + 1, int(o)) for j, o in enumerate(offset)]
    assert got.tolist() == [True, True, False, False, False]


def test_pairs_of_sounds_equal_those_of_a_plain_loop_over_keys() -> None:
    rng = np.random.default_rng(4)
    sounds: list[tuple[Peaks, float]] = []
    for _ in range(60):
        duration_s = float(rng.choice([3.0, 5.0, 12.0, 40.0]))
        peaks = song(rng, duration_s, int(rng.integers(30, N_PEAKS + 1)))
        sounds += [(peaks, duration_s), (copy_of(peaks, rng, later=int(rng.integers(0, 5))), duration_s)]
    held = archive(sounds)
    twin = set()
    for plans in (WHOLE, CUT):
        places = defaultdict(list)
        for plan in plans:
            keys, starts = sound_keys(held.peaks, held.n_peaks, plan)
            for i, row in enumerate(zip(keys, starts, strict=True)):
                if plans is CUT and held.duration_s[i] < LEAST_OVERLAP_S:
                    continue
                for key, start in zip(*row, strict=True):
                    if key != NO_KEY:
                        places[int(key)].append((i, int(start)))
        for same_key in places.values():
            for (i, t), (j, u) in combinations(same_key, 2):
                i, j, offset = (i, j, t - u) if held.duration_s[i] <= held.duration_s[j] else (j, i, u - t)
                about_as_long = plans is CUT or held.duration_s[j] - held.duration_s[i] <= dedupe.SLACK_S
                ours = lie_together(held.duration_s[[i]], held.duration_s[[j]], np.array([offset]))[0]
                if i != j and about_as_long and ours and plainly_coincide(held, i, j, offset):
                    twin.add((min(i, j), max(i, j)))
    pairs, n_crowded = audio_pairs(*held)
    assert {tuple(pair) for pair in pairs.tolist()} == twin
    assert n_crowded == 0
    assert sum((2 * i, 2 * i + 1) in twin for i in range(60)) >= 58
    assert len(twin) <= 60


def test_sounds_full_of_peaks_at_few_pitches_do_not_coincide_by_chance() -> None:
    rng = np.random.default_rng(8)
    sounds = archive([([(t, 60 + p % 16) for t, p in song(rng, 4.0)], 4.0) for _ in range(200)])
    one, other = np.triu_indices(200, 1)
    assert not coincide(sounds, one, other, np.zeros(len(one), int)).any()
    assert coincide(sounds, np.arange(200), np.arange(200), np.zeros(200, int)).all()


def test_two_crickets_of_one_rhythm_are_no_copies_but_a_copy_of_one_is() -> None:
    rng = np.random.default_rng(9)

    def cricket(duration_s: float) -> Peaks:
        beats = np.arange(20, round(duration_s / STEP_S) - 20, 25)
        pitches = rng.integers(198, 206, len(beats))
        order = rng.permutation(len(beats))[:N_PEAKS]
        return [(int(t), int(p)) for t, p in zip(beats[order], pitches[order], strict=True)]

    one, other = cricket(20.0), cricket(24.0)
    rows = [
        ("copy", "audio", text_of(copy_of(one, rng, lost=0.05)), 20.0),
        ("one", "audio", text_of(one), 20.0),
        ("other", "audio", text_of(other), 24.0),
    ]
    assert clusters_of(table(*rows)) == {"copy": ["copy", "one"]}
    held = archive([(one, 20.0), (other, 24.0)])
    assert not coincide(held, np.zeros(3, int), np.ones(3, int), np.array([0, 25, -50])).any()


def test_how_well_a_sound_fits_itself_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(10)
    for n in (1, 23, 24, 60, N_PEAKS):
        peaks = song(rng, 5.0, n)
        first = min(time for time, _ in peaks)
        best = 0.0
        for shift in range(5 + 2, 320):
            left = sum(time - first >= shift for time, _ in peaks)
            fits = sum(abs(t - u - shift) <= 2 and t - u > 4 and abs(p - q) <= 4 for t, p in peaks for u, q in peaks)
            best = max(best, fits / left if left >= LEAST_PEAKS else 0.0)
        got = self_fit(np.array([time << 8 | pitch for time, pitch in peaks], np.uint32))
        assert got == pytest.approx(best)


def test_a_half_of_a_long_sound_is_found_and_a_common_beginning_is_none() -> None:
    rng = np.random.default_rng(5)
    rows = []
    for i in range(20):
        whole = song(rng, 60.0)
        inside = [(t - 1_000, p) for t, p in whole if 1_000 <= t < 2_875]
        half = (inside + song(rng, 30.0))[:N_PEAKS]  # what shows only where the stronger peaks around are cut off
        rows += [(f"{i}-whole", "audio", text_of(whole), 60.0), (f"{i}-half", "audio", text_of(half), 30.0)]
    announcement = song(rng, 8.0, 25)
    for i in range(50):
        own = [(time + 500, pitch) for time, pitch in song(rng, 32.0, N_PEAKS - 25)]
        both = [(announcement + own)[k] for k in rng.permutation(N_PEAKS)]
        rows.append((f"spoken-{i}", "audio", text_of(both), 40.0))
    found = clusters_of(table(*rows))
    assert set(map(tuple, found.values())) <= {(f"{i}-half", f"{i}-whole") for i in range(20)}
    assert len(found) >= 18


def test_short_sounds_are_copies_only_if_they_begin_and_end_together() -> None:
    rng = np.random.default_rng(6)
    call = song(rng, 3.0)
    later = [(time + 30, pitch) for time, pitch in call if time + 30 < 180]
    padded = copy_of(call, rng, later=3)
    rows = [
        ("a", "audio", text_of(call), 3.0),
        ("b", "audio", text_of(later), 3.0),
        ("c", "audio", text_of(padded), 3.05),
    ]
    assert clusters_of(table(*rows)) == {"a": ["a", "c"]}


def test_the_name_of_a_cluster_is_its_smallest_id_and_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(7)
    bits, call = random_bits(3, rng), song(rng, 20.0)
    rows = [
        ("z:1", "image", hexed(bits[0]), None),
        ("a:9", "image", hexed(flip(bits[0], 20, rng)), None),
        ("m:5", "image", hexed(bits[1]), None),
        ("q:2", "audio", text_of(call), 20.0),
        ("c:3", "audio", text_of(copy_of(call, rng)), 20.0),
        ("c:4", "audio", text_of(copy_of(call, rng)), 20.0),
        ("x:1", "image", "", None),
        ("x:2", "audio", text_of(call[:23]), 20.0),
        ("x:3", "audio", None, 20.0),
    ]
    expected = [("a:9", "a:9"), ("c:3", "c:3"), ("c:4", "c:3"), ("q:2", "c:3"), ("z:1", "a:9")]
    for seed in range(4):
        found = near_duplicates(table(*rows).sample(fraction=1, shuffle=True, seed=seed))
        assert found.clusters.rows() == expected
        assert found.counts["without_print"] == 3
        assert found.counts["largest"] == 3
        assert found.counts["image_prints"] == found.counts["audio_prints"] == 3


def test_nothing_has_no_clusters() -> None:
    found = near_duplicates(table())
    assert found.clusters.rows() == []
    assert found.clusters.columns == ["media_id", "cluster"]
    assert found.counts["largest"] == 0


def test_a_print_of_another_version_is_refused_by_name() -> None:
    with pytest.raises(DatasetError, match=r"^a: fingerprint 00ff00ff00ff00ff is none"):
        near_duplicates(table(("a", "image", "00ff00ff00ff00ff", None)))
    with pytest.raises(DatasetError, match=r"^b: "):
        near_duplicates(table(("b", "audio", "A" * 516, 9.0)))


@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
@settings(max_examples=100, deadline=None)
def test_rows_are_connected_as_a_plain_search_says(links: list[tuple[int, int]]) -> None:
    twin = list(range(30))
    for _ in range(30):
        for i, j in links:
            twin[i] = twin[j] = min(twin[i], twin[j])
    assert connect(np.array(links, np.int64).reshape(-1, 2), 30).tolist() == twin


def test_no_two_files_of_the_made_up_world_are_merged(made_up: Path) -> None:
    found = near_duplicates(Dataset.open(made_up).media)
    assert found.clusters.rows() == []
    assert found.counts["image_prints"] > 40
    assert found.counts["audio_prints"] > 40


@pytest.mark.slow
@pytest.mark.skipif(not WILDLIFE.is_dir(), reason="shared/data/wildlife is not beside this checkout")
def test_no_two_real_files_are_merged() -> None:
    files = sorted(path for path in WILDLIFE.rglob("*") if path.suffix in (".jpg", ".jpeg", ".mp3", ".wav"))
    verdicts = list(check_files(files, workers=2, limits=Limits(seconds=60)))
    found = near_duplicates(table(*((v.path, v.modality or "", v.fingerprint, v.duration_s) for v in verdicts)))
    assert found.clusters.rows() == []
    assert found.counts["without_print"] == 0
