"""Rows of encode.py: reading a window, the onset rule, the log-mel spectrogram, and a photo as the model's square."""

import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import librosa
import numpy as np
import simplejpeg
import soundfile
import soxr
import torch
from encode_rows import Row, Setup, Side, Work, children, in_workers
from PIL import Image
from transformers import ClapFeatureExtractor

from biovita.media.audio import SAMPLE_RATE_HZ, audio_info, read_audio
from biovita.media.image import fit_square, read_image
from biovita.media.window import CLIP_S, fit, onset_s, read_onset
from biovita.models import hub
from biovita.models.mel import LogMel
from biovita.models.square import near_square

FORMATS = ("mp3", "ogg", "flac", "wav", "m4a")
N_SAMPLES = 480_000
LARGE_PX = 900
CLIP_STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)[:, None, None]


def kind(suffix: str, rate_hz: int) -> str:
    """Name files of a format and rate, as in `Setup.sounds`."""
    return suffix if rate_hz == 44_100 else f"{suffix} of {rate_hz // 1000} kHz"


def reference(setup: Setup, task: str, arguments: Callable[[int], tuple[list[Any], ...]]) -> tuple[str, Side] | None:
    """Name the released code's libraries and have them do a task of encode_peer.py; None where they are not here."""
    if setup.peer_python is None:
        return None
    run = children(setup.peer_python, setup.n_threads)
    return run.versions["image" if task == "photo" else "audio"], lambda n: run(task, *arguments(n))


def window_row(sounds: str) -> Row:
    def make(setup: Setup) -> Work:
        paths = setup.sounds[sounds]
        infos = [audio_info(path) for path in paths]
        rates_hz = [info.sample_rate_hz for info in infos]

        def offsets(n: int) -> list[int]:
            """Draw a place in each file, on the grid that its rate shares with 48 kHz: so samples can be compared."""
            rng = np.random.default_rng(n)
            last = [round(info.duration_s * info.sample_rate_hz) - N_SAMPLES for info in infos]
            grids = [rate_hz // math.gcd(rate_hz, SAMPLE_RATE_HZ) for rate_hz in rates_hz]
            return [int(rng.integers(0, most)) // grid * grid for most, grid in zip(last, grids, strict=True)]

        def by_librosa(n: int) -> np.ndarray:
            def read(place: tuple[Path, int]) -> np.ndarray:
                wave, rate_hz = librosa.load(place[0], sr=None)
                wave = soxr.resample(wave[place[1] : place[1] + N_SAMPLES], rate_hz, SAMPLE_RATE_HZ)
                return fit(wave, N_SAMPLES)

            return in_workers(read, zip(paths, offsets(n), strict=True), setup.n_threads)

        def ours(n: int) -> np.ndarray:
            def read(place: tuple[Path, int, int]) -> np.ndarray:
                path, offset, rate_hz = place
                return fit(read_audio(path, start_s=offset / rate_hz, duration_s=CLIP_S), N_SAMPLES)

            return in_workers(read, zip(paths, offsets(n), rates_hz, strict=True), setup.n_threads)

        def limit(n: int) -> np.ndarray:
            return in_workers(decode_10_s, paths, setup.n_threads)

        who, peer = reference(setup, "window", lambda n: (paths, offsets(n))) or (LIBROSA, by_librosa)
        way = "decodes all of it" if who == LIBROSA else "`info`, then decodes from 0"
        return Work(
            f"{who}: {way}", peer, ours, rms_off, "of the rms",
            limit, "10 s decoded from the start, resampled", n_items=len(paths),
        )  # fmt: skip

    if sounds.startswith("m4a"):
        return Row(f"10 s window of a 60 s {sounds}", make, 4.0, kind="10 s window of a 60 s m4a")
    return Row(f"10 s window of a 60 s {sounds}", make, 5.5, kind="10 s window of a 60 s file, m4a aside")


def onset_row(sounds: str) -> Row:
    def make(setup: Setup) -> Work:
        paths = setup.sounds[sounds]

        def by_librosa(n: int) -> np.ndarray:
            def read(path: Path) -> np.ndarray:
                wave, rate_hz = librosa.load(path, sr=None)
                wave = soxr.resample(wave, rate_hz, SAMPLE_RATE_HZ)
                start = round(onset_s(wave) * SAMPLE_RATE_HZ)
                return fit(wave[start : start + N_SAMPLES], N_SAMPLES)

            return in_workers(read, paths, setup.n_threads)

        def ours(n: int) -> np.ndarray:
            return in_workers(lambda path: fit(read_onset(path), N_SAMPLES), paths, setup.n_threads)

        def limit(n: int) -> np.ndarray:
            return in_workers(decode_all, paths, setup.n_threads)

        who, peer = reference(setup, "onset", lambda n: (paths,)) or (LIBROSA, by_librosa)
        return Work(
            f"{who}: all of it to 48 kHz", peer, ours, samples_off, "samples shifted",
            limit, "all of it decoded", n_items=len(paths),
        )  # fmt: skip

    return Row(f"onset window of a 60 s {sounds}", make, 2.2, kind="onset window of a 60 s file")


def mel_row(name: str, *, after_large: bool) -> Row:
    def make(setup: Setup) -> Work:
        if after_large:
            np.ones(4_000_000).sum()  # glibc hands out pages again from now on, which spares numpy's temporaries
        clips = [np.array(clip) for clip in setup.clips]
        extractor = ClapFeatureExtractor(
            feature_size=64, frequency_min=50, frequency_max=14_000, padding="pad", truncation="rand_trunc"
        )
        mel = LogMel(extractor)

        def peer(n: int) -> np.ndarray:
            found = [extractor(clip, sampling_rate=SAMPLE_RATE_HZ)["input_features"] for clip in clips]
            return np.stack([np.asarray(each).reshape(-1, 64) for each in found])

        def ours(n: int) -> np.ndarray:
            return in_workers(lambda clip: mel(torch.from_numpy(clip[None]))[0].numpy(), clips, setup.n_threads)

        def limit(n: int) -> np.ndarray:
            def transform(clip: np.ndarray) -> int:
                frames = torch.from_numpy(clip[: 468 * 1024].reshape(468, 1024)).double()
                return sum(len(torch.fft.rfft(some)) for some in (*frames.split(128), *frames.split(128), frames[:65]))

            return in_workers(transform, clips, setup.n_threads)

        return Work(
            f"ClapFeatureExtractor, transformers {version('transformers')}", peer, ours, largest, "dB",
            limit, "1,001 FFTs in float64", n_items=len(clips),
        )  # fmt: skip

    return Row(name, make, 6.0)


def photo_row(name: str, *, large: bool, near: bool) -> Row:
    def make(setup: Setup) -> Work:
        paths = [path for path in setup.photos if is_large(path) == large]
        processor = hub.start("tiny", ["Rana temporaria"], seed=1).processor  # with CLIP's colours

        def normalised(square: np.ndarray) -> np.ndarray:
            return processor.pixels(torch.from_numpy(square[None]))[0].numpy()

        def restated(n: int) -> np.ndarray:
            def read(path: Path) -> np.ndarray:
                with Image.open(path) as image:
                    return normalised(np.array(Image.fromarray(fit_square(image, 224)).convert("RGB")))

            return in_workers(read, paths, setup.n_threads)

        def exact(path: Path) -> np.ndarray:
            return normalised(fit_square(read_image(path), 224).copy())

        def ours(n: int) -> np.ndarray:
            read = (lambda path: normalised(near_square(path, 224))) if near else exact
            return in_workers(read, paths, setup.n_threads)

        def limit(n: int) -> np.ndarray:
            return in_workers(lambda path: simplejpeg.decode_jpeg(path.read_bytes()).shape[0], paths, setup.n_threads)

        def steps_off(theirs: np.ndarray, found: np.ndarray) -> float:
            return round(largest(theirs * CLIP_STD, found * CLIP_STD) * 255, 3)

        who, peer = reference(setup, "photo", lambda n: (paths,)) or ("open_clip restated", restated)
        return Work(
            f"{who}: evaluation transform", peer, ours, steps_off, "of 255",
            limit, "libjpeg-turbo decodes", n_items=len(paths),
        )  # fmt: skip

    return Row(name, make, 2.2 if near else None)


LIBROSA = f"librosa {version('librosa')}"
ROWS = (
    mel_row("log-mel of 10 s", after_large=False),
    mel_row("log-mel of 10 s, once a large array was freed", after_large=True),
    *(window_row(kind(suffix, rate_hz)) for rate_hz in (44_100, 48_000) for suffix in FORMATS if suffix != "m4a"),
    *(window_row(kind("m4a", rate_hz)) for rate_hz in (44_100, 48_000)),
    *(onset_row(kind(suffix, rate_hz)) for rate_hz in (44_100, 48_000) for suffix in FORMATS),
    photo_row(f"JPEG of {LARGE_PX} px or more to 224 px, exact", large=True, near=False),
    photo_row(f"JPEG of {LARGE_PX} px or more to 224 px, near_square", large=True, near=True),
    photo_row("JPEG of 500 px to 224 px, exact", large=False, near=False),
    photo_row("JPEG of 500 px to 224 px, near_square", large=False, near=True),
)


def decode_10_s(path: Path) -> int:
    """Decode the first 10 s with the faster library and resample as many: nothing else."""
    if path.suffix == ".m4a":
        with av.open(str(path)) as container:
            rate_hz, n = container.streams.audio[0].rate, 0
            for frame in container.decode(audio=0):
                n += frame.samples
                if n >= CLIP_S * rate_hz:
                    break
    else:
        with soundfile.SoundFile(path) as file:
            rate_hz = file.samplerate
            file.read(round(CLIP_S * rate_hz), dtype="float32")
    if rate_hz != SAMPLE_RATE_HZ:
        soxr.resample(np.zeros(round(CLIP_S * rate_hz), np.float32), rate_hz, SAMPLE_RATE_HZ)
    return rate_hz


def decode_all(path: Path) -> int:
    """Decode all with the faster library: nothing else."""
    if path.suffix in (".m4a", ".ogg"):
        with av.open(str(path)) as container:
            return sum(frame.samples for frame in container.decode(audio=0))
    with soundfile.SoundFile(path) as file:
        return sum(len(block) for block in file.blocks(2**15, dtype="float32"))


def largest(theirs: np.ndarray, found: np.ndarray) -> float:
    return float(np.abs(np.asarray(theirs, np.float64) - found).max())


def samples_off(theirs: np.ndarray, found: np.ndarray) -> float:
    """Find by how many samples a wave is shifted at most: where the correlation has its peak."""
    n = 2 * theirs.shape[1]
    shifts = [int(np.fft.irfft(np.fft.rfft(a, n).conj() * np.fft.rfft(b, n)).argmax()) for a, b in zip(theirs, found)]  # noqa: B905
    return max(min(shift, n - shift) for shift in shifts)


def rms_off(theirs: np.ndarray, found: np.ndarray) -> float:
    """Compare the waves of two resamplers: nothing may be shifted; then the rms of the difference."""
    assert samples_off(theirs, found) == 0
    middle = np.s_[:, 4_800:-4_800]  # the peer cuts before it resamples
    off, loud = (np.sqrt(np.square(x[middle], dtype=np.float64).mean(axis=1)) for x in (theirs - found, theirs))
    return float((off / loud).max())


def is_large(path: Path) -> bool:
    with Image.open(path) as image:
        return max(image.size) >= LARGE_PX
