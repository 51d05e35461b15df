"""A species as a picture: a body plan whose proportions, colours and markings follow the characters.

1. Paint the habitat small and enlarge it, which blurs it as a lens does.
2. Draw the animal at twice the size, then halve it.
3. Light it: by day, or with a flash at night; add the grain of the sensor.
"""

from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from biovita.world.bodies import DRAWERS, FRAMES, Coat
from biovita.world.brush import Pen
from biovita.world.colour import Rgb
from biovita.world.tree import Habitat, Species
from biovita.world.voice import Place

# Width by height, and how often.
ASPECTS: Final[dict[float, float]] = {4 / 3: 0.35, 3 / 2: 0.30, 1.0: 0.15, 3 / 4: 0.10, 16 / 9: 0.10}
LONG_SIDE_PX: Final[tuple[int, ...]] = (288, 320, 352, 384)

# Sky at the top and at the horizon; ground at the horizon and at the bottom; height of the horizon from the top.
SCENES: Final[dict[Habitat, tuple[tuple[Rgb, Rgb], tuple[Rgb, Rgb], float]]] = {
    "forest": (((60, 96, 58), (92, 122, 72)), ((74, 74, 42), (52, 56, 32)), 0.62),
    "grassland": (((140, 186, 226), (206, 222, 226)), ((172, 170, 84), (128, 132, 52)), 0.48),
    "wetland": (((176, 196, 206), (212, 216, 208)), ((104, 138, 142), (62, 92, 92)), 0.45),
    "coast": (((110, 172, 226), (198, 222, 236)), ((226, 204, 160), (206, 178, 128)), 0.34),
    "desert": (((214, 190, 160), (240, 220, 190)), ((222, 168, 112), (186, 126, 78)), 0.45),
    "town": (((150, 118, 106), (150, 118, 106)), ((126, 126, 128), (94, 94, 98)), 0.66),
}


def draw(species: Species, place: Place, rng: np.random.Generator) -> Image.Image:
    """Photograph one animal: an RGB picture, its longer side 288 to 384 px."""
    long_side, aspect = int(rng.choice(LONG_SIDE_PX)), float(rng.choice(list(ASPECTS), p=list(ASPECTS.values())))
    width, height = (long_side, long_side / aspect) if aspect >= 1 else (long_side * aspect, long_side)
    width, height = 2 * round(width / 2), 2 * round(height / 2)
    canvas = _background(place, width, height, rng).resize((2 * width, 2 * height), Image.Resampling.BILINEAR)
    zoom, middle = FRAMES[species.plan]
    pen = Pen(
        canvas,
        2 * min(width, height) * rng.uniform(0.60, 0.72) * (0.9 + 0.2 * species.size) * zoom,
        complex(width * (1 + rng.uniform(-0.09, 0.09)), height * (1.02 + rng.uniform(-0.08, 0.08))),
        middle=middle,
        turn=rng.normal(0, 0.09),
        mirror=bool(rng.integers(2)),
    )
    DRAWERS[species.plan](pen, Coat(species, rng), species, rng)
    return _light(canvas.reduce(2), place, rng)


def _background(place: Place, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Paint the habitat at half size."""
    w, h = width // 2, height // 2
    sky, ground, horizon = SCENES[place.habitat]
    jitter = rng.integers(-16, 17) + rng.integers(-7, 8, 3)
    line = horizon + rng.uniform(-0.08, 0.08)
    y = np.linspace(0, 1, h)[:, None]
    above = np.array(sky[0]) + (np.array(sky[1]) - np.array(sky[0])) * np.clip(y / line, 0, 1)
    below = np.array(ground[0]) + (np.array(ground[1]) - np.array(ground[0])) * np.clip((y - line) / (1 - line), 0, 1)
    column = np.where(y < line, above, below) + jitter
    coarse = Image.fromarray(rng.normal(0, 13, (h // 7 + 2, w // 12 + 2)).astype(np.float32))
    texture = np.asarray(coarse.resize((w, h), Image.Resampling.BICUBIC))[:, :, None]
    image = Image.fromarray(np.clip(column[:, None, :] + texture, 0, 255).astype(np.uint8))
    on = ImageDraw.Draw(image)
    level = int(line * h)

    def tone(colour: Rgb, spread: int = 20) -> Rgb:
        """Vary a colour, mostly in brightness."""
        red, green, blue = np.clip(
            np.array(colour) + rng.integers(-spread, spread + 1) + rng.integers(-6, 7, 3), 0, 255
        ).tolist()
        return red, green, blue

    if place.habitat == "forest":
        for x in rng.uniform(0, w, 6):
            wide = rng.uniform(0.02, 0.06) * w
            on.rectangle((x, 0, x + wide, level + rng.uniform(0, 0.2) * h), fill=tone((66, 48, 34)))
        for x, top, r in zip(
            rng.uniform(0, w, 26), rng.beta(1, 2.2, 26) * h, rng.uniform(0.03, 0.1, 26) * w, strict=True
        ):
            on.ellipse((x - r, top - r * 0.7, x + r, top + r * 0.7), fill=tone((48, 104, 44)))
    elif place.habitat == "grassland":
        for x, lean in zip(rng.uniform(0, w, 70), rng.normal(0, 0.03, 70) * w, strict=True):
            foot = rng.uniform(level, h)
            on.line((x, foot, x + lean, foot - rng.uniform(0.08, 0.25) * h), fill=tone((176, 166, 70)), width=2)
    elif place.habitat == "wetland":
        for at in rng.uniform(level, h, 14):
            x = rng.uniform(0, w)
            on.line((x, at, x + rng.uniform(0.1, 0.4) * w, at), fill=tone((136, 166, 168)), width=2)
        for x in rng.uniform(0, w, 22):
            foot = rng.uniform(level, level + 0.3 * h)
            top = foot - rng.uniform(0.25, 0.6) * h
            on.line((x, foot, x + rng.normal(0, 3), top), fill=tone((62, 92, 40)), width=2)
            on.ellipse((x - 2, top - 8, x + 2, top + 2), fill=tone((98, 66, 36)))
    elif place.habitat == "coast":
        sea = level + int(0.22 * h)
        on.rectangle((0, level, w, sea), fill=tone((40, 110, 158)))
        for at in rng.uniform(level, sea, 8):
            x = rng.uniform(0, w)
            on.line((x, at, x + rng.uniform(0.1, 0.35) * w, at), fill=tone((222, 236, 240)), width=2)
        for x, at in zip(rng.uniform(0, w, 12), rng.uniform(sea, h, 12), strict=True):
            on.ellipse((x, at, x + 5, at + 3), fill=tone((190, 176, 152)))
    elif place.habitat == "desert":
        for x, r in zip(rng.uniform(0, w, 5), rng.uniform(0.05, 0.16, 5) * w, strict=True):
            foot = rng.uniform(level, level + 0.35 * h)
            on.polygon(
                (x - r, foot, x - 0.4 * r, foot - 0.8 * r, x + 0.5 * r, foot - 0.7 * r, x + r, foot),
                fill=tone((160, 96, 62)),
            )
    else:
        wall = tone((150, 118, 106))
        on.rectangle((0, 0, w, level), fill=wall)
        brick_h, brick_w = max(5, h // 14), max(9, w // 9)
        for row in range(level // brick_h + 1):
            on.line((0, row * brick_h, w, row * brick_h), fill=tone((182, 168, 158), 6), width=1)
            for x in range((row % 2) * brick_w // 2, w, brick_w):
                on.line((x, row * brick_h, x, min(level, (row + 1) * brick_h)), fill=tone((182, 168, 158), 6), width=1)
        on.rectangle((0, level, w, level + max(2, h // 30)), fill=(96, 96, 98))
    return image


def _light(image: Image.Image, place: Place, rng: np.random.Generator) -> Image.Image:
    """Give a picture the light of its hour, exposure and sensor grain."""
    pixels = np.asarray(image, np.float32)
    h, w = pixels.shape[:2]
    tint = np.array([1.0, 1.0, 1.0]) + rng.normal(0, 0.035, 3)
    exposure = rng.uniform(0.82, 1.12)
    if place.is_night:
        # A flash lights the middle; around it the dark is blue.
        y, x = np.ogrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
        flash = 0.28 + 0.75 * np.exp(-1.6 * (x * x + y * y))
        pixels = pixels * flash[:, :, None].astype(np.float32)
        tint = tint * np.array([0.86, 0.94, 1.12])
    pixels = pixels * (exposure * tint).astype(np.float32)
    pixels += rng.standard_normal((h, w, 1), dtype=np.float32) * np.float32(rng.uniform(1.5, 7))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
