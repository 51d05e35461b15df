"""The reference loaders in their own interpreter: torchaudio 2.8, which today's torch does not load, and open_clip.

Not run by hand; encode.py starts it with `--peer-python` and speaks pickles with it over its pipes. What the released
code does (BioVITA, commit 3ffb324), in our own words: torchaudio's FFmpeg backend decodes from the start of the file
up to the offset, and the mean of the channels is resampled.
"""

import pickle
import sys
import time

import numpy as np
import open_clip
import torch
import torchaudio
from open_clip.transform import image_transform
from PIL import Image

RATE_HZ, N_SAMPLES = 48_000, 480_000
TRANSFORM = image_transform(224, is_train=False)


def mono_48k(channels: torch.Tensor, rate_hz: int) -> torch.Tensor:
    wave = channels.mean(dim=0)
    return wave if rate_hz == RATE_HZ else torchaudio.functional.resample(wave, rate_hz, RATE_HZ)


def ten_seconds(wave: torch.Tensor) -> np.ndarray:
    wave = wave[:N_SAMPLES]
    return torch.nn.functional.pad(wave, (0, N_SAMPLES - len(wave))).numpy()


def window(path: str, offset: int) -> np.ndarray:
    """Training: 480,000 frames of the file's own rate, from a place drawn with the length that `info` tells.

    To ask for the length is part of it: with this backend that decodes the whole file, but for m4a, where it counts
    packets, so that the released code only ever hears the beginning. Here the place is given, so that both sides read
    the same sound.
    """
    torchaudio.info(path, backend="ffmpeg")
    channels, rate_hz = torchaudio.load(path, frame_offset=offset, num_frames=N_SAMPLES, backend="ffmpeg")
    return ten_seconds(mono_48k(channels, rate_hz))


def onset(path: str) -> np.ndarray:
    """Extraction: the whole file at 48 kHz, then 10 s from 0.2 s before the first sample above 1 % of the peak."""
    channels, rate_hz = torchaudio.load(path, backend="ffmpeg")
    wave = mono_48k(channels, rate_hz)
    loudness = wave.abs()
    above = torch.nonzero(loudness > 0.01 * loudness.max())
    first = int(above[0]) if len(above) else 0
    return ten_seconds(wave[max(0, first - RATE_HZ // 5) :])


def photo(path: str) -> np.ndarray:
    """open_clip's evaluation transform: a float tensor [3, 224, 224]."""
    with Image.open(path) as image:
        return TRANSFORM(image).numpy()


TASKS = {"window": window, "onset": onset, "photo": photo}


def main() -> None:
    torch.set_num_threads(1)
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr
    versions = {"audio": f"torchaudio {torchaudio.__version__}", "image": f"open_clip {open_clip.__version__}"}
    pickle.dump(versions, answers)
    answers.flush()
    while True:
        try:
            task, *arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        results = [TASKS[task](*each) for each in zip(*arguments, strict=True)]
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
        pickle.dump((np.stack(results), cpu_s, wall_s), answers)
        answers.flush()


if __name__ == "__main__":
    main()
