"""Prints of 64 bits that stay almost the same when a picture or a sound is resized or re-encoded.

Both follow one idea, the difference hash: an 8 x 9 grid of brightness or of energy, and one bit for each pair of
neighbours that tells which is larger. The number of differing bits tells how alike two files are.
"""

import numpy as np
from PIL import Image

HOP_S = 0.25  # one spectrum this often
N_FFT = 2048
N_BANDS = 8
LOWEST_HZ, HIGHEST_HZ = 200.0, 12_000.0
BATCH = 64  # spectra computed at once


def image_print(image: Image.Image) -> str:
    """Print an upright RGB or grey picture: is each cell of a 9 x 8 grid brighter than its right neighbour?"""
    grid = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return _hex(grid[:, :-1] > grid[:, 1:])


class AudioPrint:
    """Collect a sound block by block; then `hex` prints it: does the energy of each of 8 bands fall along the time?

    Args:
        sample_rate_hz: rate of the blocks; bands above half of it stay empty.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self.hop = max(N_FFT, round(HOP_S * sample_rate_hz))
        edges_hz = np.geomspace(LOWEST_HZ, HIGHEST_HZ, N_BANDS + 1)
        self.edges = np.minimum(np.round(edges_hz * N_FFT / sample_rate_hz).astype(int), N_FFT // 2)
        self.taper = np.hanning(N_FFT).astype(np.float32)
        self.position = 0  # of the next block, relative to the next slice
        self.slice = np.zeros(N_FFT, np.float32)
        self.slices: list[np.ndarray] = []
        self.energy: list[np.ndarray] = []

    def add(self, mono: np.ndarray) -> None:
        """Take the next samples [n]; only the first N_FFT of every hop are kept."""
        while len(mono):
            if self.position < N_FFT:
                part = mono[: N_FFT - self.position]
                self.slice[self.position : self.position + len(part)] = part
            step = min(len(mono), self.hop - self.position)
            mono, self.position = mono[step:], self.position + step
            if self.position == self.hop:
                self._keep()

    def hex(self) -> str:
        """Return the print of all samples so far."""
        if self.position:
            self.slice[self.position :] = 0
            self._keep()
        self._transform()
        energy = np.concatenate(self.energy) if self.energy else np.zeros((1, N_BANDS))
        total = np.vstack([np.zeros(N_BANDS), np.cumsum(energy, axis=0)])
        nodes, edges = np.arange(len(total)), np.linspace(0, len(energy), 10)  # nine stretches of equal length
        grid = np.stack([np.diff(np.interp(edges, nodes, total[:, band])) for band in range(N_BANDS)])
        return _hex(grid[:, :-1] > grid[:, 1:])

    def _keep(self) -> None:
        self.slices.append(self.slice.copy())
        self.position = 0
        if len(self.slices) == BATCH:
            self._transform()

    def _transform(self) -> None:
        if not self.slices:
            return
        power = np.abs(np.fft.rfft(np.stack(self.slices) * self.taper, axis=1)) ** 2
        total = np.pad(np.cumsum(power, axis=1), ((0, 0), (1, 0)))
        self.energy.append(np.diff(total[:, self.edges], axis=1))
        self.slices = []


def _hex(bits: np.ndarray) -> str:
    return np.packbits(bits).tobytes().hex()
