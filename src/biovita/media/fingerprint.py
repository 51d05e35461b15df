"""Prints that stay almost the same when a picture or a sound is resized, re-encoded or trimmed.

A picture: 256 bits, the signs of the lowest frequencies of its grey levels (a discrete cosine transform). The number of
differing bits tells how alike two pictures are.

A sound: where in time and pitch its most outstanding peaks lie, at most 96 of them.

1. Energies of 60 bands, 300 to 7000 Hz, every 32 ms; what a lossy codec or a lower rate takes away lies above.
2. A peak is louder than all its neighbours; its height is measured against the mean of half a second around it.
3. A peak reigns until a higher one comes, before or after it. The peaks that reign longest are kept, longest first.
   So they spread over the whole sound, and a cut from it keeps those that lie inside.

Two sounds are alike if most of their peaks coincide after one is moved in time. `data.dedupe` compares both kinds.

Source:
    Pictures: Zauner, Implementation and benchmarking of perceptual image hash functions, 2010 (the DCT hash).
    Sounds: Wang, An industrial-strength audio search algorithm, ISMIR 2003 (peaks as landmarks).
"""

import base64
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import as_strided
from PIL import Image

N_BITS = 256
SIDE = 64  # pixels of the grey square that is transformed
MOST_ORDER = 23  # 256 frequencies with the smallest order, horizontal plus vertical, reach this one
SIGNIFICANT = 1.0  # grey levels; below it a frequency holds little but rounding
MIN_SIGNIFICANT = 96  # frequencies; a picture with fewer is too smooth for a print

N_PEAKS = 96
N_BANDS = 60
LOWEST_HZ, HIGHEST_HZ = 300.0, 7_000.0
LEAST_RATE_HZ = 14_500  # sounds are thinned out to between this and twice this
SLICE_S, HOP_S = 0.096, 0.032
STEP_S = 0.016  # in which the time of a peak is given
STEPS_PER_BAND = 4  # in which its pitch is given
BATCH = 64  # slices transformed at once
BLOCK = 1024  # slices searched for peaks at once
NEAR, NEAR_BANDS = 2, 2  # a peak is the loudest within so many slices and bands
AROUND, AROUND_BANDS = 16, 6  # and measured against the mean within so many
HALO = AROUND + 2  # slices beside a block that its peaks depend on
LEAST_HEIGHT = 0.3  # of a peak, in natural logarithms of energy
DEPTH = 16.0  # peaks this far below the loudest (70 dB) are left out


def image_print(image: Image.Image) -> str:
    """Print an upright RGB or grey picture as 64 hex digits; empty if it is too smooth to be told from others."""
    grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    waves = _COSINES @ np.asarray(grey, np.float64) @ _COSINES.T
    lowest = waves[_ORDER]
    if np.count_nonzero(np.abs(lowest) > SIGNIFICANT) < MIN_SIGNIFICANT:
        return ""
    return np.packbits(lowest > 0).tobytes().hex()


def image_bits(prints: list[str]) -> np.ndarray:
    """Turn prints of pictures (none of them empty) into uint64 [n, 4]."""
    return np.frombuffer(bytes.fromhex("".join(prints)), ">u8").reshape(-1, N_BITS // 64).astype(np.uint64)


class AudioPrint:
    """Collect a sound block by block; then `text` prints it.

    Kept in between are a block of band energies and the peaks so far, some 400 bytes a second of sound.

    Args:
        sample_rate_hz: rate of the blocks; bands above half of it stay empty.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self.plan = _plan(sample_rate_hz)
        self.rest = np.zeros(0, np.float32)  # samples not yet thinned out
        self.samples = np.zeros(0, np.float32)  # from the first slice that is not yet transformed
        self.energy = np.zeros((0, N_BANDS))  # of slices from `first` on
        self.first = 0
        self.done = 0  # slices before this one are searched for peaks
        self.peaks: list[np.ndarray] = []  # [time in hops, pitch in bands, height, loudness], a column a peak

    def add(self, mono: np.ndarray) -> None:
        """Take the next samples [n]."""
        samples, step, weights = np.concatenate([self.rest, mono]), self.plan.thinning, self.plan.weights
        n = max(0, (len(samples) - len(weights)) // step + 1)
        every = [samples[i : i + n * step : step] for i in range(len(weights))]
        thinned = weights[step - 1] * every[step - 1]
        for weight, left, right in zip(weights[: step - 1], every[: step - 1], every[:-step:-1], strict=True):
            thinned += weight * (left + right)
        self.rest = samples[n * step :]
        self.samples = np.concatenate([self.samples, thinned])
        n_slices = (len(self.samples) - self.plan.n_fft) // self.plan.hop + 1
        if n_slices >= BATCH:
            self._transform(n_slices // BATCH * BATCH)
        while self.first + len(self.energy) >= self.done + BLOCK + HALO:
            self._search(self.done + BLOCK)

    def text(self) -> str:
        """Return the print of all samples so far, up to 512 characters of base64, empty if there are no peaks."""
        n_fft, hop = self.plan.n_fft, self.plan.hop
        self.samples = np.pad(self.samples, (0, max(0, n_fft - len(self.samples))))
        self._transform((len(self.samples) - n_fft) // hop + 1)
        self._search(self.first + len(self.energy))
        time, pitch, height, loudness = np.concatenate(self.peaks, axis=1)
        audible = np.flatnonzero(loudness > loudness.max(initial=-np.inf) - DEPTH)
        order = audible[np.argsort(time[audible], kind="stable")]
        time, pitch, height = time[order], pitch[order], height[order]
        longest = np.lexsort((-height, -reigns(time, height)))[:N_PEAKS]
        when = np.round(time[longest] * (self.plan.hop_s / STEP_S)).astype(np.uint32)
        where = np.round(pitch[longest] * STEPS_PER_BAND).astype(np.uint32)
        return base64.b64encode((when << 8 | where).astype("<u4").tobytes()).decode()

    def _transform(self, n_slices: int) -> None:
        """Add the energies of the next slices, and drop their samples."""
        if n_slices <= 0:
            return
        plan = self.plan
        n_bytes = self.samples.itemsize
        slices = as_strided(self.samples, (n_slices, plan.n_fft), (plan.hop * n_bytes, n_bytes), writeable=False)
        first, stop = int(plan.whole[0]), int(plan.whole[-1]) + 1  # of the frequencies that lie in a band
        bands = [self.energy]
        for begin in range(0, n_slices, BATCH):
            # numpy's takes 1.7 times as long
            wave = np.asarray(scipy.fft.rfft(slices[begin : begin + BATCH] * plan.taper, axis=1))
            squares = np.square(wave.view(np.float32)[:, 2 * first : 2 * stop])
            power = squares[:, ::2] + squares[:, 1::2]
            band = np.add.reduceat(power, plan.whole - first, axis=1, dtype=np.float64)[:, :-1]
            band[:, plan.is_empty] = 0
            bands.append(band + np.diff(power[:, plan.whole - first] * plan.part, axis=1))
        self.energy = np.concatenate(bands)
        self.samples = self.samples[n_slices * plan.hop :]

    def _search(self, stop: int) -> None:
        """Find the peaks of the slices up to `stop`, and drop the energies that no later peak needs."""
        found = find_peaks(self.energy)
        found[0] += self.first
        slice_ = np.round(found[0])
        self.peaks.append(found[:, (slice_ >= self.done) & (slice_ < stop)])
        keep = max(self.first, stop - HALO)
        self.energy, self.first, self.done = self.energy[keep - self.first :], keep, stop


def audio_peaks(prints: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read prints of sounds.

    Returns:
        Peaks, uint32 [n, N_PEAKS], time in steps << 8 | pitch in steps, longest reign first; and how many each print
        has. Behind these a row holds zeros.
    """
    rows = np.zeros((len(prints), N_PEAKS), np.uint32)
    counts = np.array([len(text) * 3 // 16 for text in prints], np.int64)  # 4 bytes a peak
    for row, text in zip(rows, prints, strict=True):
        peaks = np.frombuffer(base64.b64decode(text), "<u4")
        row[: len(peaks)] = peaks
    return rows, counts


def find_peaks(energy: np.ndarray) -> np.ndarray:
    """Find the peaks in band energies [slice, band]: time, pitch, height and loudness [4, peak].

    Time and pitch are refined by a parabola through the neighbours; the outermost slices and bands hold no peak.
    """
    if len(energy) < 3:
        return np.zeros((4, 0))
    smooth = energy.copy()
    smooth[1:] += energy[:-1] / 2
    smooth[:-1] += energy[1:] / 2
    loud = np.log(np.maximum(smooth, 0) + 1e-20)  # differences of running totals may fall a trace below zero
    height = loud - _mean_around(_mean_around(loud, AROUND).T, AROUND_BANDS).T
    highest = _max_around(_max_around(loud, NEAR).T, NEAR_BANDS).T
    inner = np.zeros(loud.shape, bool)
    inner[1:-1, 1:-1] = True
    time, band = np.nonzero((loud >= highest) & (height > LEAST_HEIGHT) & inner)
    here = loud[time, band]
    return np.stack(
        [
            time + _vertex(loud[time - 1, band], here, loud[time + 1, band]),
            band + _vertex(loud[time, band - 1], here, loud[time, band + 1]),
            height[time, band],
            here,
        ]
    )


def reigns(time: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Tell how far off, before or after each peak in time, the nearest one of at least its height is."""
    times, heights = time.tolist(), height.tolist()  # a loop over Python's own numbers is four times as fast
    reign = [math.inf] * len(times)
    higher: list[int] = []  # the peaks so far that none after them has overtopped
    for i in range(len(times)):
        while higher and heights[higher[-1]] < heights[i]:
            j = higher.pop()
            if times[i] - times[j] < reign[j]:
                reign[j] = times[i] - times[j]
        if higher:
            reign[i] = times[i] - times[higher[-1]]
        higher.append(i)
    return np.array(reign)


def _vertex(before: np.ndarray, here: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where a parabola through three equidistant values is highest, from -0.5 to 0.5."""
    bend = before - 2 * here + after
    return np.divide(before - after, 2 * bend, out=np.zeros_like(here), where=bend < -1e-9)


def _mean_around(values: np.ndarray, reach: int) -> np.ndarray:
    """Mean over `reach` rows to either side, as far as there are any."""
    total = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=total[1:])
    rows = np.arange(len(values))
    first, stop = np.maximum(0, rows - reach), np.minimum(len(values), rows + reach + 1)
    return (total.take(stop, axis=0) - total.take(first, axis=0)) / (stop - first)[:, None]


def _max_around(values: np.ndarray, reach: int) -> np.ndarray:
    """Maximum over `reach` rows to either side, as far as there are any."""
    highest = values.copy()
    for shift in range(1, reach + 1):
        np.maximum(highest[shift:], values[:-shift], out=highest[shift:])
        np.maximum(highest[:-shift], values[shift:], out=highest[:-shift])
    return highest


class _Plan(NamedTuple):
    """What a print needs to know at one rate: samples are thinned out, then cut into slices of `n_fft`."""

    thinning: int
    weights: np.ndarray
    """A triangle, which lets little through of what would fold back from above."""
    hop: int
    hop_s: float
    n_fft: int
    taper: np.ndarray
    whole: np.ndarray
    """The frequency at or above each edge of a band."""
    part: np.ndarray
    """How much of it belongs to the band below."""
    is_empty: np.ndarray
    """Bands that hold no frequency of their own, only parts of one."""


@lru_cache(64)
def _plan(sample_rate_hz: int) -> _Plan:
    thinning = max(1, sample_rate_hz // LEAST_RATE_HZ)
    rate_hz = sample_rate_hz / thinning
    hop, n_fft = round(HOP_S * rate_hz), _fast_length(SLICE_S * rate_hz)
    edges = np.geomspace(LOWEST_HZ, HIGHEST_HZ, N_BANDS + 1) * n_fft / rate_hz - 0.5
    edges = np.minimum(edges, n_fft // 2 - 0.001)  # in a running total over the spectrum
    whole = edges.astype(int)
    return _Plan(
        thinning=thinning,
        weights=np.convolve(np.ones(thinning), np.ones(thinning)).astype(np.float32),
        hop=hop,
        hop_s=hop / rate_hz,
        n_fft=n_fft,
        taper=np.hanning(n_fft).astype(np.float32),
        whole=whole + 1,
        part=edges - whole,
        is_empty=np.diff(whole) == 0,
    )


def _fast_length(least: float) -> int:
    """Find the next length at or above `least` that is quick to transform: 2, 3 or 5 times a power of two."""
    return min(odd << power for odd in (1, 3, 5, 9, 15) for power in range(4, 20) if odd << power >= least)


def _cosines() -> np.ndarray:
    """Make the orthonormal cosines [order, pixel]."""
    order, pixel = np.arange(MOST_ORDER)[:, None], np.arange(SIDE)
    cosines = np.cos(np.pi * order * (2 * pixel + 1) / (2 * SIDE)) * np.sqrt(2 / SIDE)
    cosines[0] /= np.sqrt(2)
    return cosines


def _lowest() -> tuple[np.ndarray, np.ndarray]:
    """Indices of the 256 lowest frequencies but for the mean, in order of their sum."""
    down, across = np.indices((MOST_ORDER, MOST_ORDER)).reshape(2, -1)
    chosen = np.lexsort((across, down + across))[1 : N_BITS + 1]
    return down[chosen], across[chosen]


_COSINES, _ORDER = _cosines(), _lowest()
