"""The colours of an animal: what a picture shows and what its name says are computed from the same characters."""

import colorsys
from typing import Final

from biovita.world.tree import Species

Rgb = tuple[int, int, int]

# The colour circle of characters: upper bound, name, and the hue at that bound. Warm colours take as much room as they
# do in fur and feathers.
_CIRCLE: Final[tuple[tuple[float, str, float], ...]] = (
    (0.06, "red", 0.02),
    (0.22, "orange", 0.095),
    (0.42, "yellow", 0.165),
    (0.58, "green", 0.40),
    (0.68, "teal", 0.52),
    (0.80, "blue", 0.68),
    (0.89, "violet", 0.80),
    (0.96, "pink", 0.93),
    (1.00, "red", 1.00),
)


def _hue(place: float) -> float:
    """Turn a place on the circle of characters into a hue."""
    low, from_hue = 0.0, 0.0
    for high, _, to_hue in _CIRCLE:
        if place <= high:
            return from_hue + (to_hue - from_hue) * (place - low) / (high - low)
        low, from_hue = high, to_hue
    return 1.0


def to_rgb(hue: float, saturation: float, value: float) -> Rgb:
    """Turn hue (wrapped), saturation and value (cut to [0, 1]) into 8-bit red, green, blue."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))
    return round(255 * red), round(255 * green), round(255 * blue)


def body_hsv(species: Species) -> tuple[float, float, float]:
    """Return hue, saturation and value of the coat; grey, white and black animals have no hue to speak of."""
    hue, name = _hue(species.hue), colour_name(species)
    saturation, value = 0.36 + 0.52 * species.saturation, 0.40 + 0.54 * species.lightness
    if name in ("grey", "white", "black"):
        return hue, 0.08, 0.17 if name == "black" else value
    if name == "brown":
        return 0.045 + 0.3 * min(hue, 0.15), 0.8 * saturation, 0.85 * value
    return hue, saturation * (0.82 if 0.22 < hue < 0.62 else 1.0), value  # greens and blues glare sooner than reds


def accent_hsv(species: Species) -> tuple[float, float, float]:
    """Return the colour of markings, wings and ornaments: sooty, a neighbouring hue, or cream; never like the coat."""
    hue, saturation, value = body_hsv(species)
    light = value > 0.55
    if species.accent < 0.3:
        return (hue, 0.5 * saturation, 0.12 + 0.3 * species.accent) if light else (0.11, 0.30, 0.86)
    if species.accent > 0.72:
        return (0.12, 0.22, 0.95) if (value < 0.8 and saturation > 0.2) or not light else (hue, 0.5, 0.25)
    return hue + 1.1 * (species.accent - 0.5), 0.30 + 0.6 * saturation, value - 0.36 if light else value + 0.36


def colour_name(species: Species) -> str:
    """Name the coat in English, in one word."""
    if species.lightness < 0.10:
        return "black"
    if species.saturation < 0.14:
        return "white" if species.lightness > 0.6 else "grey"
    name = next(name for bound, name, _ in _CIRCLE if species.hue <= bound)
    return "brown" if name in ("red", "orange", "yellow") and species.lightness < 0.33 else name
