"""Changes to a sound or a picture that make every draw of it another one, all from the item's own random stream."""

import math

import numpy as np
from PIL import Image, ImageEnhance

from biovita.models.mel import POWER_FLOOR
from biovita.train.features import SILENCE_DB
from biovita.train.recipe import Augment

ASPECT = 4 / 3  # widest crop, and upright the narrowest, as is usual since Inception


def augment_mel(
    mel: np.ndarray, rng: np.random.Generator, augment: Augment, background: np.ndarray | None = None
) -> np.ndarray:
    """Change a window of sound: gain, background, a blank stripe of frames, one of bands; drawn in this order.

    Gain and background change powers, as if they changed the wave: what is silent stays so, and nothing falls below
    the floor of the log-mel. Powers of two sounds add up but for a cross term that has no sign of its own.

    Stripes take the mean of the window, which tells a network that begins with a batch norm next to nothing. Silence
    lies tens of dB below anything that was recorded, and would be what strikes it most.

    Args:
        mel: log-mel in dB, float32, shape (1001, 64).
        rng: the item's own stream; what is off draws nothing from it.
        augment: what is on, and how strongly.
        background: window of another recording, like `mel`. It becomes weaker than the sound by a ratio drawn from
            `background_snr_db`, both measured as mean power of the frames that hold any.

    Returns:
        float32, shape (1001, 64): a new array, or `mel` itself where all is off.

    Source:
        Park et al., SpecAugment, 2019, which blanks to the mean too.
    """
    if augment.gain_db or background is not None:
        power = _power(mel)
        if augment.gain_db:
            power *= _ratio(rng.uniform(-augment.gain_db, augment.gain_db))
        if background is not None:
            snr_db = rng.uniform(*augment.background_snr_db)
            power = _mixed(power, _power(background), snr_db)
        mel = np.maximum(10 * np.log10(np.maximum(power, POWER_FLOOR)), SILENCE_DB)
    if augment.mask_frames or augment.mask_bands:
        mel, blank = mel.copy(), mel.mean()
        if augment.mask_frames:
            mel[_stripe(rng, len(mel), augment.mask_frames)] = blank
        if augment.mask_bands:
            mel[:, _stripe(rng, mel.shape[1], augment.mask_bands)] = blank
    return mel


def augment_square(square: np.ndarray, rng: np.random.Generator, augment: Augment) -> np.ndarray:
    """Change a picture: crop, brightness, contrast, saturation; drawn in this order.

    Args:
        square: uint8, shape (side, side, 3).
        rng: the item's own stream; what is off draws nothing from it.
        augment: what is on, and how strongly.

    Returns:
        uint8, shape (side, side, 3): a new array, or `square` itself where all is off.

    Source:
        Szegedy et al., Going deeper with convolutions, 2014 (crops by area and aspect). Here the aspect is drawn from
        those that fit, so none is drawn twice.
    """
    if augment.crop == 1 and not augment.colour:
        return square
    image = Image.fromarray(square)
    if augment.crop < 1:
        box = _crop_box(rng, image.width, augment.crop)
        image = image.resize(image.size, Image.Resampling.BICUBIC, box=box)
    if augment.colour:
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = change(image).enhance(rng.uniform(1 - augment.colour, 1 + augment.colour))
    return np.array(image)


def _power(mel: np.ndarray) -> np.ndarray:
    """Undo the decibels; what lies at the floor was no sound."""
    return np.where(mel > SILENCE_DB, 10 ** (mel / 10), 0)


def _ratio(decibels: float) -> float:
    return 10 ** (decibels / 10)


def _mixed(sound: np.ndarray, background: np.ndarray, snr_db: float) -> np.ndarray:
    levels = _level(sound), _level(background)
    return sound + background * (levels[0] / levels[1] / _ratio(snr_db)) if all(levels) else sound


def _level(power: np.ndarray) -> float:
    """Take the mean power of the frames that hold any; 0 without one."""
    frames = power.mean(axis=1)
    return float(frames[frames > 0].mean()) if frames.any() else 0.0


def _stripe(rng: np.random.Generator, n: int, most: int) -> slice:
    """Draw a stripe of up to `most` of n places: its width, then its place."""
    width = int(rng.integers(most + 1))
    begin = int(rng.integers(n - width + 1))
    return slice(begin, begin + width)


def _crop_box(rng: np.random.Generator, side: int, least: float) -> tuple[float, float, float, float]:
    """Draw a box by share of the area, aspect, left and top: (left, top, right, bottom) in pixels."""
    area = rng.uniform(least, 1)
    widest = math.log(min(ASPECT, 1 / area))
    aspect = math.exp(rng.uniform(-widest, widest))
    width, height = (min(side, side * math.sqrt(area * ratio)) for ratio in (aspect, 1 / aspect))
    left, top = rng.uniform(0, side - width), rng.uniform(0, side - height)
    return left, top, left + width, top + height
