"""Which seconds of a recording are looked at: from the onset, sliding, and how a window is filled up."""

from pathlib import Path

import numpy as np

from biovita.errors import MediaError
from biovita.media.audio import SAMPLE_RATE_HZ, read_native, resample

CLIP_S = 10.0  # BioVITA (arXiv 2603.23883): every clip the model sees is 10 s long
ONSET_SHARE = 0.01  # of the peak; the reference evaluation begins at the first sample above it ...
ONSET_LEAD_S = 0.2  # ... less this much
CELL_S = 0.05  # the grain in which a recording is searched for places worth resampling
N_LOUDEST = 8  # of them may hold the peak of the resampled wave


def onset_s(wave: np.ndarray, sample_rate_hz: int = SAMPLE_RATE_HZ) -> float:
    """Find where the reference window begins: 0.2 s before the first sample above 1 % of the peak; 0 in silence.

    Args:
        wave: mono samples [n_samples] of the WHOLE recording, since the peak is a global one.
        sample_rate_hz: rate of `wave`.
    """
    if not len(wave):
        return 0.0
    threshold = ONSET_SHARE * max(float(wave.max()), -float(wave.min()))
    if threshold == 0:
        return 0.0
    for begin in range(0, len(wave), sample_rate_hz):  # most recordings begin within a second: stop there
        loud = np.abs(wave[begin : begin + sample_rate_hz]) > threshold
        if loud.any():
            return max(0.0, (begin + int(loud.argmax())) / sample_rate_hz - ONSET_LEAD_S)
    return 0.0


def resampled_onset_s(wave: np.ndarray, sample_rate_hz: int) -> float:
    """Find the onset that `onset_s` finds at 48 kHz, without resampling all of the recording.

    A wave rises between its samples: the peak, and the first moment above 1 % of it, are looked for in stretches that
    are resampled, those where the samples are loudest and those from the first that are half as loud as needed.

    Args:
        wave: mono samples [n_samples] of the whole recording, all finite.
        sample_rate_hz: rate of `wave`.
    """
    if sample_rate_hz == SAMPLE_RATE_HZ or not len(wave):
        return onset_s(wave)
    n_cell = round(CELL_S * sample_rate_hz)
    cells = np.arange(0, len(wave), n_cell)
    loudness = np.maximum(np.maximum.reduceat(wave, cells), -np.minimum.reduceat(wave, cells))
    peak = 0.0
    for cell in np.argsort(loudness)[-N_LOUDEST:]:
        start_s = max(0.0, cell * CELL_S - CELL_S / 2)
        peak = max(peak, np.abs(resample(wave, sample_rate_hz, start_s=start_s, duration_s=2 * CELL_S)).max(initial=0))
    for cell in np.flatnonzero(loudness > ONSET_SHARE * peak / 2):
        start_s = max(0.0, cell * CELL_S - CELL_S / 2)
        loud = np.abs(resample(wave, sample_rate_hz, start_s=start_s, duration_s=2 * CELL_S)) > ONSET_SHARE * peak
        if loud.any():
            return max(0.0, start_s + int(loud.argmax()) / SAMPLE_RATE_HZ - ONSET_LEAD_S)
    return 0.0


def onset_clip(wave: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Cut the reference window out of a recording and resample only that: float32 [at most 480,000], at 48 kHz.

    Args:
        wave: mono samples [n_samples] of the whole recording, all finite.
        sample_rate_hz: rate of `wave`.
    """
    return resample(wave, sample_rate_hz, start_s=resampled_onset_s(wave, sample_rate_hz), duration_s=CLIP_S)


def read_onset(path: Path) -> np.ndarray:
    """Read the reference window of a recording: float32 [at most 480,000], mono, at 48 kHz.

    All of it is decoded, since the rule needs the peak of the whole.

    Raises:
        MediaError: the file is missing, does not decode, or holds samples that are not finite.
    """
    wave, sample_rate_hz = read_native(path)
    if not np.isfinite(wave.sum()):
        raise MediaError("non_finite", str(path))
    return onset_clip(wave, sample_rate_hz)


def windows(duration_s: float, hop_s: float, clip_s: float = CLIP_S) -> list[tuple[float, float]]:
    """Cover [0, duration_s) with half-open windows of `clip_s`, one every `hop_s`.

    The last window ends at the end of the recording, so that no window is mostly padding and nothing is left out;
    a recording shorter than a window gives one window that ends where the recording ends.
    """
    if duration_s <= clip_s:
        return [(0.0, duration_s)]
    n_whole = int((duration_s - clip_s) / hop_s + 1e-9) + 1
    starts = [i * hop_s for i in range(n_whole)]
    if starts[-1] + clip_s < duration_s - 1e-9:
        starts.append(duration_s - clip_s)
    return [(start, start + clip_s) for start in starts]


def fit(wave: np.ndarray, n_samples: int) -> np.ndarray:
    """Cut the end off, or pad it with zeros, so that float32 [n_samples] comes back."""
    if len(wave) >= n_samples:
        return wave[:n_samples]
    return np.pad(wave, (0, n_samples - len(wave)))
