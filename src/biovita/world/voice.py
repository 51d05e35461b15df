"""A species as a sound.

1. A note: a carrier whose frequency sweeps, arches and wavers, with harmonics, roughness and a trill.
2. A phrase: notes in a rhythm, climbing or falling; a recording: phrases with pauses.
3. The place: distance dulls and echoes, the habitat hums, the gear cuts the band and sets level, rate and channels.

Everything is whole-array numpy; a recording costs a few milliseconds.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from biovita.world.tree import HABITATS, Habitat, Plan, Species


@dataclass(frozen=True, kw_only=True)
class Throat:
    """What a body plan can utter; pairs are the values at 0 and at 1 of the character that decides.

    Attributes:
        pitch_hz: carrier.
        period_s: from note to note.
        note_share: part of the period that sounds.
        n_notes: in a phrase.
        bend_octaves: how far a note sweeps or arches at most.
        trill_hz: rate of the tremor of loudness inside a note.
        roll_off: exponent by which harmonics weaken.
        rasp: width of the carrier's noise as a part of its frequency.
        attack: part of the note in which it swells; the rest fades.
    """

    pitch_hz: tuple[float, float]
    period_s: tuple[float, float]
    note_share: float
    n_notes: tuple[float, float]
    bend_octaves: float
    trill_hz: tuple[float, float]
    roll_off: tuple[float, float]
    rasp: tuple[float, float]
    attack: float


THROATS: Final[dict[Plan, Throat]] = {
    "bird": Throat(
        pitch_hz=(1100, 6500),
        period_s=(0.48, 0.10),
        note_share=0.72,
        n_notes=(1.0, 10.0),
        bend_octaves=0.8,
        trill_hz=(14, 45),
        roll_off=(5.0, 1.6),
        rasp=(0.0, 0.08),
        attack=0.35,
    ),
    "mammal": Throat(
        pitch_hz=(150, 1100),
        period_s=(1.0, 0.22),
        note_share=0.62,
        n_notes=(1.0, 5.0),
        bend_octaves=0.6,
        trill_hz=(7, 22),
        roll_off=(2.0, 0.5),
        rasp=(0.0, 0.35),
        attack=0.3,
    ),
    "frog": Throat(
        pitch_hz=(320, 2600),
        period_s=(0.7, 0.13),
        note_share=0.6,
        n_notes=(1.0, 7.0),
        bend_octaves=0.35,
        trill_hz=(28, 90),
        roll_off=(2.6, 0.8),
        rasp=(0.01, 0.15),
        attack=0.2,
    ),
    "insect": Throat(
        pitch_hz=(3000, 10500),
        period_s=(0.35, 0.05),
        note_share=0.55,
        n_notes=(2.0, 18.0),
        bend_octaves=0.12,
        trill_hz=(40, 140),
        roll_off=(5.0, 2.5),
        rasp=(0.02, 0.25),
        attack=0.5,
    ),
    "reptile": Throat(
        pitch_hz=(600, 4200),
        period_s=(0.6, 0.09),
        note_share=0.35,
        n_notes=(1.0, 9.0),
        bend_octaves=0.5,
        trill_hz=(20, 60),
        roll_off=(1.5, 0.4),
        rasp=(0.03, 0.35),
        attack=0.06,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Gear:
    """A recorder: its band, its rate, its channels and the share of recordings made with it."""

    name: str
    share: float
    band_hz: tuple[float, float]
    sample_rate_hz: int
    n_channels: int
    hiss: float


GEAR: Final[tuple[Gear, ...]] = (
    Gear(name="recorder", share=0.40, band_hz=(60, 20_000), sample_rate_hz=48_000, n_channels=1, hiss=0.002),
    Gear(name="handheld", share=0.22, band_hz=(80, 18_000), sample_rate_hz=48_000, n_channels=2, hiss=0.002),
    Gear(name="phone", share=0.26, band_hz=(160, 13_000), sample_rate_hz=44_100, n_channels=1, hiss=0.004),
    Gear(name="cassette", share=0.12, band_hz=(90, 10_000), sample_rate_hz=22_050, n_channels=1, hiss=0.008),
)
BED_S: Final = 8.0
MAX_PHRASE_S: Final = 2.4


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and when an individual was met; shared by its photo and its recording.

    Attributes:
        vigour: the individual's deviation, near zero; the small are higher and quicker.
    """

    habitat: Habitat
    is_night: bool
    vigour: float


def render(species: Species, place: Place, gear: Gear, distance: float, rng: np.random.Generator) -> np.ndarray:
    """Record one animal: float32 [n_samples] or [n_samples, 2] at the gear's rate, 2 to 5 s, peak below 1.

    Args:
        species: who calls.
        place: where and when.
        gear: the recorder.
        distance: from 0, in the hand, to 1, across the valley.
        rng: everything else about this recording.
    """
    rate = gear.sample_rate_hz
    n_samples = round(rate * 0.5 * rng.integers(4, 11))
    phrase = _phrase(species, place, rate, rng)
    call = np.zeros(n_samples, np.float32)
    start = int(rate * rng.uniform(0.05, 0.5))
    while start < n_samples - rate // 4:
        stop = min(n_samples, start + len(phrase))
        call[start:stop] += phrase[: stop - start] * np.float32(rng.uniform(0.7, 1.0))
        start = stop + int(rate * (0.2 + 1.2 * species.pause) * rng.uniform(0.8, 1.25))
    _echo(call, distance, rate, rng)

    # Level against the background: 24 dB for a bird in the hand, 3 dB for one across the valley.
    loudness = math.sqrt(float(np.mean(np.square(phrase)))) + 1e-9
    noise_level = loudness * 10 ** (-(24 - 21 * distance) / 20)
    channels = []
    for channel in range(gear.n_channels):
        bed = _bed(place.habitat, place.is_night, rate)
        offset = int(rng.integers(0, len(bed) - n_samples))
        side = 1.0 if channel == 0 else rng.uniform(0.5, 0.95)
        heard = call * np.float32(side) + bed[offset : offset + n_samples] * np.float32(noise_level)
        channels.append(_through(heard, gear, distance, rng))
    wave = np.stack(channels, axis=1) if gear.n_channels > 1 else channels[0]
    wave *= np.float32(10 ** (-rng.uniform(1, 14) / 20) / (np.abs(wave).max() + 1e-9))
    return wave


def _between(ends: tuple[float, float], value: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * value


def _between_log(ends: tuple[float, float], value: float) -> float:
    return ends[0] * (ends[1] / ends[0]) ** value


def _phrase(species: Species, place: Place, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Sing one phrase, float32, peak about 1; individuals differ by some per cent in pitch and tempo."""
    throat = THROATS[species.plan]
    pitch_hz = _between_log(throat.pitch_hz, species.pitch) * math.exp(
        0.04 * rng.standard_normal() + 0.04 * place.vigour
    )
    period_s = _between_log(throat.period_s, species.tempo) * math.exp(0.06 * rng.standard_normal())
    n_notes = max(1, round(_between(throat.n_notes, species.notes**1.5) + rng.normal(0, 0.4)))
    onsets = period_s * _rhythm(n_notes, species.rhythm)
    onsets = onsets[onsets < MAX_PHRASE_S]
    n_notes = len(onsets)

    # One note in time from 0 to 1; all notes of a phrase share it, each at its own pitch.
    n = max(64, int(rate * min(0.9, period_s * throat.note_share)))
    t = np.arange(n) / n
    bend = (
        2
        * throat.bend_octaves
        * ((species.sweep - 0.5) * (t - 0.5) * 1.6 + (species.arch - 0.5) * (1 - (2 * t - 1) ** 2))
    )
    bend *= 1 + 0.15 * rng.standard_normal()
    waver_hz, waver = (
        _between_log((6.0, 26.0), species.tempo),
        0.35 * throat.bend_octaves * max(0.0, species.vibrato - 0.45),
    )
    seconds = t * n / rate
    cycles = np.cumsum(2.0 ** (bend + waver * np.sin(2 * math.pi * waver_hz * seconds))) / rate
    climb = (np.arange(n_notes) / max(1, n_notes - 1) - 0.5) * (species.melody - 0.5) * 2 * throat.bend_octaves
    phase = pitch_hz * 2.0 ** climb[:, None] * cycles
    width_hz = pitch_hz * _between(throat.rasp, species.rasp**1.5)
    # A random walk of phase widens a line by width_hz (half height): variance 2 pi width / rate a step, in radians.
    walk = rng.standard_normal((n_notes, n), dtype=np.float32) * np.float32(math.sqrt(width_hz / rate / (2 * math.pi)))
    phase = ((phase + np.cumsum(walk, axis=1)) % 1.0).astype(np.float32)

    tone = np.exp(np.float32(2 * math.pi) * 1j * phase)
    harmonic, sound = tone, np.imag(tone).copy()
    roll_off = _between(throat.roll_off, species.timbre)
    for order in range(2, min(9, int(0.45 * rate / pitch_hz) + 1)):
        harmonic = harmonic * tone
        sound += np.imag(harmonic) * np.float32(order**-roll_off)

    trill_hz, depth = _between_log(throat.trill_hz, species.vibrato), min(1.0, max(0.0, 2.2 * species.trill - 0.7))
    shape = np.minimum(t / throat.attack, (1 - t) / (1 - throat.attack)) ** 0.7
    shape *= 1 - depth * (0.5 + 0.5 * np.cos(2 * math.pi * trill_hz * seconds))
    sound *= shape.astype(np.float32)
    sound /= np.abs(sound).max() + 1e-9

    phrase = np.zeros(int(rate * onsets[-1]) + n + 1, np.float32)
    for onset, note in zip(onsets, sound, strict=True):
        start = int(rate * onset)
        phrase[start : start + n] += note
    return phrase


def _rhythm(n_notes: int, rhythm: float) -> np.ndarray:
    """Place notes in units of the period: hastening below 0.5, even at 0.5, in pairs above."""
    gaps = np.ones(n_notes)
    if rhythm < 0.5:
        gaps *= np.linspace(1.0 + 0.8 * (0.5 - rhythm), 1.0 - 0.9 * (0.5 - rhythm), n_notes)
    else:
        gaps[::2] -= 0.6 * (rhythm - 0.5)
        gaps[1::2] += 1.4 * (rhythm - 0.5)
    return np.concatenate([[0.0], np.cumsum(gaps[:-1])])


def _echo(call: np.ndarray, distance: float, rate: int, rng: np.random.Generator) -> None:
    """Add a few late, weak copies, more of them from afar; in place."""
    dry = call.copy()
    for _ in range(2 + round(4 * distance)):
        delay = int(rate * rng.uniform(0.012, 0.18))
        call[delay:] += dry[:-delay] * np.float32(0.35 * distance * rng.uniform(0.2, 1.0))


def _through(wave: np.ndarray, gear: Gear, distance: float, rng: np.random.Generator) -> np.ndarray:
    """Dull the sound by air and cut it to the gear's band, then add hiss."""
    hz = np.fft.rfftfreq(len(wave), 1 / gear.sample_rate_hz).astype(np.float32)
    low, high = gear.band_hz
    gain = 1 / (1 + (low / np.maximum(hz, 1)) ** 4) / (1 + (hz / high) ** 8)
    gain *= np.exp(np.float32(-distance / 9000) * hz)
    wave = np.fft.irfft(np.fft.rfft(wave) * gain, len(wave)).astype(np.float32)
    return wave + rng.standard_normal(len(wave), dtype=np.float32) * np.float32(gear.hiss * np.abs(wave).max())


@lru_cache(maxsize=len(HABITATS) * 2 * 3)
def _bed(habitat: Habitat, is_night: bool, rate: int) -> np.ndarray:
    """Make the background of a habitat by day or night, float32 of unit power; the same in every process."""
    rng = np.random.default_rng([HABITATS.index(habitat), int(is_night), rate])
    n = int(BED_S * rate)
    t = np.arange(n) / rate
    hz = np.fft.rfftfreq(n, 1 / rate) + 1

    def noise(low: float, high: float, slope: float = 0.0) -> np.ndarray:
        gain = (hz / 1000) ** (-slope / 2) / (1 + (low / hz) ** 6) / (1 + (hz / high) ** 6)
        band = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * np.sqrt(gain), n)
        return band / band.std()

    def swell(rate_hz: float, depth: float) -> np.ndarray:
        return 1 - depth * (0.5 + 0.5 * np.sin(2 * math.pi * rate_hz * t + rng.uniform(0, 6)))

    if habitat == "forest":
        bed = noise(60, 6000, 1.3) + 0.5 * noise(1500, 7000) * swell(0.7, 0.9)
    elif habitat == "grassland":
        bed = noise(40, 500, 1.5) * swell(0.3, 0.7) + 0.7 * noise(5200, 7400) * swell(11, 0.8)
    elif habitat == "wetland":
        bed = noise(300, 1500) * swell(6.3, 0.8) * swell(2.1, 0.6) + 0.5 * noise(2000, 12000)
    elif habitat == "coast":
        bed = noise(80, 9000, 0.8) * swell(0.35, 0.92) + 0.3 * noise(60, 900, 1)
    elif habitat == "desert":
        bed = noise(30, 300, 2) * swell(0.5, 0.9) + 0.15 * noise(3000, 15000)
    else:
        hum = sum(np.sin(2 * math.pi * 100 * k * t + k) / k for k in (1, 2, 3, 5))
        bed = noise(40, 1200, 1.2) * swell(0.25, 0.5) + 0.6 * hum
    if is_night:
        bed = bed / bed.std() + 0.6 * np.sin(2 * math.pi * 4300 * t) * np.maximum(0, np.sin(2 * math.pi * 2.6 * t)) ** 2
    return (bed / bed.std()).astype(np.float32)
