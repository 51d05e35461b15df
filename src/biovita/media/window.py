"""Which seconds of a recording are looked at: from the onset, sliding, and how a window is filled up."""

import numpy as np

from biovita.media.audio import SAMPLE_RATE_HZ

CLIP_S = 10.0  # BioVITA (arXiv 2603.23883): every clip the model sees is 10 s long
ONSET_SHARE = 0.01  # of the peak; the reference evaluation begins at the first sample above it ...
ONSET_LEAD_S = 0.2  # ... less this much


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
