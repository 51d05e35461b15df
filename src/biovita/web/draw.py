"""What the server draws: spectrograms as PNG, small pictures as JPEG."""

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from biovita.media.audio import SAMPLE_RATE_HZ, write_audio
from biovita.report.plots import FFT_SAMPLES, TOP_HZ

PAPER_TO_INK = ((246, 243, 234), (159, 194, 180), (47, 122, 112), (6, 38, 46))  # the report's colours
N_COLOURS = 96
DEEPEST_DB = -60.0  # below the loudest point; a recording's own noise may raise the floor
MOST_FRAMES = 6  # looked at for a column of a long recording, and the loudest kept
BLOCK = 256  # columns at a time


def spectrogram(wave: np.ndarray, width_px: int, height_px: int) -> bytes:
    """Draw a sound as a PNG: time to the right, 0 to 14 kHz upwards on an even scale, louder is darker.

    Decibels below the loudest point; the floor is the median, so that steady noise is paper.

    Args:
        wave: mono samples [n_samples] at 48 kHz.
        width_px: number of columns.
        height_px: number of rows.
    """
    wave = np.pad(wave, (FFT_SAMPLES // 2, max(FFT_SAMPLES, FFT_SAMPLES // 2 + width_px - len(wave))))
    n_frames = min(MOST_FRAMES, max(1, round(len(wave) / width_px / (FFT_SAMPLES / 2))))
    starts = np.linspace(0, len(wave) - FFT_SAMPLES, width_px * n_frames).astype(int).reshape(width_px, n_frames)
    edges = np.linspace(0, TOP_HZ / SAMPLE_RATE_HZ * FFT_SAMPLES, height_px + 1).astype(int)
    bands = [(low, max(low + 1, high)) for low, high in pairwise(edges)]
    frames, taper = np.lib.stride_tricks.sliding_window_view(wave, FFT_SAMPLES), np.hanning(FFT_SAMPLES)
    columns = []
    for begin in range(0, width_px, BLOCK):
        power = (np.abs(np.fft.rfft(frames[starts[begin : begin + BLOCK]] * taper)) ** 2).max(axis=1)
        columns.append(np.stack([power[:, low:high].max(axis=1) for low, high in bands]))
    rows = np.concatenate(columns, axis=1)
    level = 10 * np.log10(np.maximum(rows, 1e-12) / max(float(rows.max()), 1e-12))
    floor = max(DEEPEST_DB, float(np.median(level)))
    floor = min(-10.0, floor)  # a sound as even as noise has no louder places
    share = ((level - floor) / -floor).clip(0, 1)
    image = Image.fromarray((share[::-1] * (N_COLOURS - 1)).round().astype(np.uint8), mode="P")
    image.putpalette(_palette().tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _palette() -> np.ndarray:
    at = np.linspace(0, len(PAPER_TO_INK) - 1, N_COLOURS)
    stops = np.array(PAPER_TO_INK, float)
    return np.stack([np.interp(at, range(len(stops)), stops[:, c]) for c in range(3)], axis=1).round().astype(np.uint8)


def thumbnail(image: Image.Image, side_px: int) -> bytes:
    """Write a picture anew as a JPEG of at most `side_px` a side, without its metadata."""
    small = image.copy()
    small.thumbnail((side_px, side_px))
    small.info.clear()  # Pillow would write a comment or a colour profile again
    file = io.BytesIO()
    small.save(file, "JPEG", quality=84)
    return file.getvalue()


def wav(wave: np.ndarray, folder: Path) -> bytes:
    """Write mono samples at 48 kHz as a WAV, as loud as it may be."""
    path = folder / "part.wav"
    write_audio(path, wave * (0.7 / max(float(np.abs(wave).max(initial=0)), 1e-6)), SAMPLE_RATE_HZ)
    return path.read_bytes()
