"""Near-duplicates: how many planted copies are found, how many strangers are merged, and what a full archive costs.

    biovita world make --out WORLD --species 400 --recordings 6 --images 6 --seed 2
    .venv/bin/python benchmarks/dedupe.py WORLD ../shared/data/wildlife FOLDER > docs/results/dedupe.md

FOLDER receives the copies and is removed afterwards. The folder of wildlife may be missing. If imagehash can be
imported (PYTHONPATH), its hashes are measured beside ours.
"""

import io
import multiprocessing
import resource
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path

import av
import librosa
import numpy as np
import polars as pl
import soundfile
import soxr
from PIL import Image, ImageEnhance

from biovita.data import dedupe
from biovita.data.dedupe import near_duplicates
from biovita.log import say
from biovita.media.audio import Decoding, open_container
from biovita.media.check import Limits, check_files
from biovita.media.fingerprint import AudioPrint, audio_peaks, image_bits, image_print
from biovita.media.image import read_image

N_EXACT, N_CHANGED, N_CUT = 1_000, 500, 200
N_IMAGES, N_SOUNDS = 2_300_000, 1_300_000
SUFFIXES = {"audio": (".mp3", ".wav", ".flac", ".m4a"), "image": (".jpg", ".jpeg", ".png")}
SEED = 7

Sound = tuple[np.ndarray, int]  # mono samples and their rate


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    body = io.BytesIO()
    image.save(body, "JPEG", quality=quality)
    return Image.open(body).convert("RGB")


def scaled(image: Image.Image, share: float) -> Image.Image:
    return image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    width, height = round(image.width * (1 - share)), round(image.height * (1 - share))
    x, y = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
    return image.crop((x, y, x + width, y + height))


PICTURES: dict[str, Callable[[Image.Image, Path], None]] = {
    "JPEG quality 50": lambda image, path: image.save(path.with_suffix(".jpg"), quality=50),
    "JPEG quality 30": lambda image, path: image.save(path.with_suffix(".jpg"), quality=30),
    "WebP quality 60": lambda image, path: image.save(path.with_suffix(".webp"), quality=60),
    "half size": lambda image, path: scaled(image, 0.5).save(path.with_suffix(".jpg"), quality=85),
    "quarter size": lambda image, path: scaled(image, 0.25).save(path.with_suffix(".jpg"), quality=85),
    "PNG": lambda image, path: image.save(path.with_suffix(".png")),
    "10 % brighter": lambda image, path: ImageEnhance.Brightness(image).enhance(1.1).save(path.with_suffix(".jpg")),
    "less contrast": lambda image, path: ImageEnhance.Contrast(image).enhance(0.85).save(path.with_suffix(".jpg")),
}


def encode(path: Path, sound: Sound, codec: str, bit_rate: int) -> None:
    wave, rate_hz = sound
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        stream.bit_rate = bit_rate
        for begin in range(0, len(wave), 1024):
            block = np.ascontiguousarray(wave[None, begin : begin + 1024], np.float32)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, begin, Fraction(1, rate_hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def resampled(sound: Sound, rate_hz: int) -> Sound:
    return soxr.resample(sound[0], sound[1], rate_hz), rate_hz


def write_ogg(path: Path, sound: Sound, subtype: str) -> None:
    soundfile.write(path.with_suffix(".ogg"), *sound, format="OGG", subtype=subtype)


SOUNDS: dict[str, Callable[[Sound, Path], None]] = {
    "MP3 64 kbit/s": lambda sound, path: encode(path.with_suffix(".mp3"), sound, "libmp3lame", 64_000),
    "AAC 64 kbit/s": lambda sound, path: encode(path.with_suffix(".m4a"), sound, "aac", 64_000),
    "Ogg Vorbis": lambda sound, path: write_ogg(path, sound, "VORBIS"),
    "Opus": lambda sound, path: write_ogg(path, resampled(sound, 48_000), "OPUS"),
    "16 kHz": lambda sound, path: soundfile.write(path.with_suffix(".flac"), *resampled(sound, 16_000)),
    "22.05 kHz": lambda sound, path: soundfile.write(path.with_suffix(".wav"), *resampled(sound, 22_050)),
    "10 dB softer": lambda sound, path: soundfile.write(path.with_suffix(".flac"), 0.316 * sound[0], sound[1]),
    "one channel, MP3 96 kbit/s": lambda sound, path: encode(path.with_suffix(".mp3"), sound, "libmp3lame", 96_000),
}


def read_sound(path: Path) -> Sound:
    """Decode as the check does, so that what is measured is the copying."""
    with path.open("rb", buffering=0) as file, open_container(file) as container:
        rate_hz = container.streams.audio[0].rate
        return np.concatenate([block.mean(axis=0) for block in Decoding(container).chunks(1)]), rate_hz


def plant(originals: dict[str, list[Path]], folder: Path) -> dict[Path, tuple[str, Path]]:
    """Write copies; return for each what was done and to which file."""
    rng = np.random.default_rng(SEED)
    done: dict[Path, tuple[str, Path]] = {}

    def add(number: int, kind: str, original: Path, write: Callable[[Path], None]) -> None:
        stem = folder / f"{number:05d}"
        write(stem)
        [path] = folder.glob(f"{stem.name}.*")
        done[path] = (kind, original)

    def pick(modality: str, n: int) -> list[Path]:
        return [originals[modality][i] for i in rng.choice(len(originals[modality]), n, replace=False)]

    for modality in ("audio", "image"):
        for original in pick(modality, N_EXACT // 2):
            add(
                len(done),
                f"{modality}: exact",
                original,
                lambda stem, source=original: shutil.copyfile(source, stem.with_suffix(source.suffix)),
            )
    for i, original in enumerate(pick("image", N_CHANGED // 2)):
        kind = list(PICTURES)[i % len(PICTURES)]
        picture = read_image(original)
        add(len(done), f"image: {kind}", original, lambda stem, k=kind, p=picture: PICTURES[k](p, stem))
    for i, original in enumerate(pick("audio", N_CHANGED // 2)):
        kind = list(SOUNDS)[i % len(SOUNDS)]
        sound = read_sound(original)
        add(len(done), f"audio: {kind}", original, lambda stem, k=kind, s=sound: SOUNDS[k](s, stem))
    for original in pick("image", N_CUT // 2):
        share = rng.uniform(0.1, 0.3)
        picture = cropped(read_image(original), share, rng)
        add(
            len(done),
            "image: 10 to 30 % cropped away",
            original,
            lambda stem, p=picture: p.save(stem.with_suffix(".jpg")),
        )
    long = sorted(originals["audio"], key=lambda path: -soundfile.info(path).duration if path.suffix != ".m4a" else 0)
    for original in [*long[: N_CUT // 4], *pick("audio", N_CUT // 4)]:
        wave, rate_hz = read_sound(original)
        begin = int(rng.integers(0, len(wave) // 2))
        half = wave[begin : begin + len(wave) // 2]
        length = "12 s or more" if len(wave) >= 12 * rate_hz else "shorter"
        add(
            len(done),
            f"audio: half of {length}",
            original,
            lambda stem, h=half, r=rate_hz: soundfile.write(stem.with_suffix(".flac"), h, r),
        )
    return done


def table_of(paths: list[Path]) -> pl.DataFrame:
    verdicts = check_files(paths, workers=2, limits=Limits(seconds=60))
    rows = [(str(v.path), v.modality, v.fingerprint, v.duration_s, v.sha256) for v in verdicts if v.ok]
    return pl.DataFrame(rows, ["media_id", "modality", "fingerprint", "duration_s", "sha256"], orient="row")


def recall(media: pl.DataFrame, copies: dict[Path, tuple[str, Path]]) -> Iterator[tuple[str, int, int]]:
    found = near_duplicates(media)
    cluster = dict(found.clusters.iter_rows())
    score: dict[str, list[bool]] = defaultdict(list)
    for path, (kind, original) in copies.items():
        score[kind].append(str(path) in cluster and cluster[str(path)] == cluster.get(str(original)))
    yield from ((kind, sum(hits), len(hits)) for kind, hits in sorted(score.items()))


def false_clusters(media: pl.DataFrame) -> int:
    return near_duplicates(media).clusters["cluster"].n_unique()


def image_distances(media: pl.DataFrame) -> np.ndarray:
    """Count the pairs of different pictures at every distance."""
    bits = image_bits(media.filter(pl.col("modality") == "image", pl.col("fingerprint") != "")["fingerprint"].to_list())
    counts = np.zeros(257, np.int64)
    for i in range(1, len(bits)):
        counts += np.bincount(np.bitwise_count(bits[:i] ^ bits[i]).sum(axis=1, dtype=np.int64), minlength=257)
    return counts


def draw_images(media: pl.DataFrame, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw prints: real ones with 30 % of their bits turned, and every hundredth a copy with 3 % of its bits turned."""
    real = image_bits(media.filter(pl.col("modality") == "image", pl.col("fingerprint") != "")["fingerprint"].to_list())
    bits = real[rng.integers(0, len(real), n)]
    for begin in range(0, n, 1 << 16):
        block = bits[begin : begin + (1 << 16)]
        turned = np.packbits(rng.random((len(block), 256), np.float32) < 0.3, axis=1).view(">u8").astype(np.uint64)
        block ^= turned
    copies = rng.choice(n, n // 100, replace=False)
    noise = np.packbits(rng.random((len(copies), 256)) < 0.03, axis=1).view(">u8").astype(np.uint64)
    bits[copies] = bits[rng.integers(0, n, len(copies))] ^ noise
    return bits


def draw_sounds(media: pl.DataFrame, n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Draw prints: pitches and gaps of a real one, shuffled and stretched; every hundredth is a copy of another."""
    sounds = media.filter(pl.col("modality") == "audio", pl.col("fingerprint").str.len_bytes() == 512)
    real, _ = audio_peaks(sounds["fingerprint"].to_list())
    duration_s = np.exp(rng.normal(np.log(25), 0.9, n)).clip(4, 3600)
    peaks, counts = np.empty((n, dedupe.N_PEAKS), np.uint32), np.full(n, dedupe.N_PEAKS)
    for begin in range(0, n, 1 << 16):
        old = real[rng.integers(0, len(real), min(n - begin, 1 << 16))]
        gaps = rng.permuted(np.diff(np.sort(old >> 8, axis=1), axis=1, prepend=0), axis=1)
        time = np.cumsum(gaps * rng.uniform(0.7, 1.4, gaps.shape), axis=1)
        time *= (duration_s[begin : begin + (1 << 16)] / dedupe.STEP_S / time[:, -1])[:, None]
        pitch = rng.permuted(old & 255, axis=1).astype(np.int64) + rng.integers(-6, 7, old.shape)
        block = rng.permuted(time.astype(np.uint32), axis=1) << np.uint32(8)
        peaks[begin : begin + (1 << 16)] = block | pitch.clip(4, 236).astype(np.uint32)
    copies, originals = rng.choice(n, n // 100, replace=False), rng.integers(0, n, n // 100)
    shift = rng.integers(-1, 2, (len(copies), dedupe.N_PEAKS))
    moved = ((peaks[originals] >> 8).astype(np.int64) + shift).clip(0).astype(np.uint32) << np.uint32(8)
    lost = rng.random(moved.shape) < 0.15
    strange = rng.integers(0, 1 << 20, moved.shape).astype(np.uint32)
    peaks[copies] = np.where(lost, strange, moved | (peaks[originals] & np.uint32(255)))
    counts[copies], duration_s[copies] = counts[originals], duration_s[originals]
    return peaks, counts, duration_s


def cost(modality: str, media: pl.DataFrame, n: int, pipe: Connection) -> None:
    rng = np.random.default_rng(SEED)
    if modality == "image":
        args, find = (draw_images(media, n, rng),), dedupe.image_pairs
    else:
        args, find = draw_sounds(media, n, rng), dedupe.audio_pairs
    begin, spent = time.perf_counter(), time.process_time()
    pairs, n_crowded = find(*args)
    label = dedupe.connect(pairs, n)
    seconds, spent = time.perf_counter() - begin, time.process_time() - spent
    largest = int(np.bincount(label).max())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send((seconds, spent, peak / 2**20, len(pairs), n_crowded, largest))


def measure_cost(modality: str, media: pl.DataFrame, n: int) -> tuple:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    child = spawn.Process(target=cost, args=(modality, media, n, there))
    child.start()
    there.close()
    answer = here.recv()
    child.join()
    return answer


def print_speed(paths: list[Path]) -> tuple[float, float, float]:
    """CPU milliseconds for a minute of sound: librosa loading alone, our decoding alone, our print alone."""
    spent, minutes = np.zeros(3), 0.0
    librosa.load(paths[0])
    for path in paths:
        begin = time.process_time()
        librosa.load(path)
        spent[0] += time.process_time() - begin
        begin = time.process_time()
        wave, rate_hz = read_sound(path)
        spent[1] += time.process_time() - begin
        begin = time.process_time()
        sound_print = AudioPrint(rate_hz)
        for i in range(0, len(wave), 65_536):
            sound_print.add(wave[i : i + 65_536])
        sound_print.text()
        spent[2] += time.process_time() - begin
        minutes += len(wave) / rate_hz / 60
    return tuple(1000 * spent / minutes)


def peers(paths: list[Path]) -> Iterator[tuple[str, float, list[int], int]]:
    """For each picture hash: milliseconds, its distances to changed copies (median, 99 %, most), nearest strangers."""
    hashes: dict[str, Callable[[Image.Image], np.ndarray]] = {
        "ours": lambda image: np.unpackbits(np.frombuffer(bytes.fromhex(image_print(image)), np.uint8))
    }
    try:
        import imagehash  # noqa: PLC0415
    except ImportError:
        say("imagehash is not installed: no peers")
    else:
        for name in ("phash", "dhash", "whash"):
            of = getattr(imagehash, name)
            hashes[f"imagehash.{name}(16)"] = lambda image, of=of: of(image, hash_size=16).hash.ravel()
    changes = [
        lambda image: jpeg(image, 50),
        lambda image: scaled(image, 0.5),
        lambda image: scaled(image, 0.25),
        lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.1), 75),
    ]
    pictures = [read_image(path) for path in paths]
    copies = [(i, change(picture)) for i, picture in enumerate(pictures) for change in changes]
    for picture in [*pictures, *(copy for _, copy in copies)]:
        picture.thumbnail((256, 256))
    for name, of in hashes.items():
        begin = time.process_time()
        own = np.stack([of(picture) for picture in pictures])
        ms = 1000 * (time.process_time() - begin) / len(pictures)
        apart = [int((own[i] != of(copy)).sum()) for i, copy in copies]
        strangers = min(int((own[:i] != own[i]).sum(axis=1).min()) for i in range(1, len(own)))
        yield name, ms, [int(np.percentile(apart, q)) for q in (50, 99, 100)], strangers


def main() -> None:
    world, wildlife, folder = (Path(word) for word in sys.argv[1:4])
    originals = {
        modality: [
            path
            for root in (wildlife, world / "media")
            for path in sorted(root.rglob("*"))
            if path.suffix.lower() in suffixes
        ]
        for modality, suffixes in SUFFIXES.items()
    }
    folder.mkdir(parents=True)
    copies = plant(originals, folder)
    say(f"{len(copies)} copies written")
    media = table_of([*originals["audio"], *originals["image"], *copies])
    shutil.rmtree(folder)
    is_copy = pl.col("media_id").is_in([str(path) for path in copies])
    own = media.filter(~is_copy)

    print("# Near-duplicates\n")
    print("Commands, with the folders that they name:\n")
    print("    biovita world make --out WORLD --species 400 --recordings 6 --images 6 --seed 2")
    print("    python benchmarks/dedupe.py WORLD ../shared/data/wildlife FOLDER > docs/results/dedupe.md\n")
    n_real = sum(wildlife in path.parents for paths in originals.values() for path in paths)
    print(
        f"{len(own):,} different files, {n_real} of them real, the others of the made-up world; copies of files drawn"
    )
    print("by chance among them. Every file went through the check. The limits of `data/dedupe.py` were chosen on the")
    print("world of seed 1.\n")
    print("## Planted copies found\n\n| copy | found | of | % |\n|---|---|---|---|")
    totals = {"exact": [0, 0], "re-encoded, resized": [0, 0], "cropped, cut": [0, 0]}
    for kind, hits, n in recall(media, copies):
        what = "exact" if "exact" in kind else "cropped, cut" if "crop" in kind or "half of" in kind else None
        total = totals[what or "re-encoded, resized"]
        total[0], total[1] = total[0] + hits, total[1] + n
        print(f"| {kind} | {hits} | {n} | {100 * hits / n:.1f} |")
    for kind, (hits, n) in totals.items():
        print(f"| **{kind}** | {hits} | {n} | **{100 * hits / n:.1f}** |")
    print(f"\n{media['sha256'].n_unique():,} of {len(media):,} files differ in their bytes.\n")

    print("## Different files merged\n")
    found = near_duplicates(own)
    n_pairs = {m: len(own.filter(pl.col("modality") == m)) for m in SUFFIXES}
    for modality, n in n_pairs.items():
        pairs = found.counts[f"{modality}_pairs"]
        print(f"- {modality}: {pairs} of {n * (n - 1) // 2:,} pairs of different files;")
    for row in found.clusters.iter_rows():
        say(f"merged: {row}")
    print(
        f"- {found.counts['without_print']} files have too little in them for a print and are only compared by bytes.\n"
    )
    print(
        "All made-up recordings of a habitat share the same eight seconds of background: two short ones that begin at"
    )
    print("the same moment of it, with a faint animal, are copies to any print that can bear a lossy codec.\n")
    distances = image_distances(own)
    bins = [(0, 22), (23, 55), (56, 79), (80, 99), (100, 256)]
    cells = " | ".join(f"{distances[a : b + 1].sum():,}" for a, b in bins)
    print("Pairs of different pictures by the number of bits that differ (22 at most count as copies); the nearest two")
    print(f"differ in {int(np.flatnonzero(distances)[0])}:\n")
    print(f"| {' | '.join(f'{a}-{b}' for a, b in bins)} |\n|{'---|' * len(bins)}\n| {cells} |\n")
    print("Sounds, for another least share of peaks that coincide (both limits set to it; ours are")
    print(f"{dedupe.LEAST_SHARE:g}, and {dedupe.SHORT_SHARE:g} for sounds below {dedupe.LEAST_OVERLAP_S:g} s):\n")
    print("| share | different files merged, pairs | re-encoded sounds found, % |\n|---|---|---|")
    kept = dedupe.LEAST_SHARE, dedupe.SHORT_SHARE
    sounds = {path: why for path, why in copies.items() if why[0].removeprefix("audio: ") in SOUNDS}
    for share in (0.35, 0.45, 0.55, 0.65, 0.75):
        dedupe.LEAST_SHARE = dedupe.SHORT_SHARE = share
        rows = list(recall(media, sounds))
        n_false = near_duplicates(own).counts["audio_pairs"]
        print(f"| {share} | {n_false} | {100 * sum(row[1] for row in rows) / sum(row[2] for row in rows):.1f} |")
    dedupe.LEAST_SHARE, dedupe.SHORT_SHARE = kept

    print("\n## Prints\n")
    mp3 = [path for path in originals["audio"] if path.suffix == ".mp3"][:30]
    loading, decoding, printing = print_speed(mp3)
    print(f"CPU time for a minute of sound ({len(mp3)} MP3 files): our print {printing:.0f} ms, our decoding")
    print(f"{decoding:.0f} ms; `librosa.load` alone {loading:.0f} ms.\n")
    print(
        "Pictures of 256 px: CPU time, and bits of 256 that differ between 200 pictures and their copies (JPEG quality"
    )
    print("50, half size, quarter size, 10 % brighter) and between the two nearest strangers:\n")
    print("| hash | ms | copies: median | 99 % | most | strangers: least |\n|---|---|---|---|---|---|")
    for name, ms, apart, strangers in peers(originals["image"][:200]):
        print(f"| {name} | {ms:.2f} | {' | '.join(map(str, apart))} | {strangers} |")

    print("\n## A full archive\n")
    print("Prints drawn from the real ones: bits turned, gaps shuffled, pitches moved; every hundredth is a copy of")
    print(
        "another. One process on a machine that did other work too; memory is the peak of the whole process, with the"
    )
    print("drawn prints in it. Crowded: how often a print had over 32 others under a key, of which 32 were compared.\n")
    print("| | prints | copies | pairs found | largest cluster | crowded | s | CPU s | GB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for modality, n in (("image", N_IMAGES), ("audio", N_SOUNDS)):
        seconds, spent, peak, n_found, n_crowded, largest = measure_cost(modality, own, n)
        found = f"{n // 100:,} | {n_found:,} | {largest} | {n_crowded:,}"
        print(f"| {modality} | {n:,} | {found} | {seconds:.0f} | {spent:.0f} | {peak:.1f} |", flush=True)


if __name__ == "__main__":
    main()
