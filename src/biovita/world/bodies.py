"""Five body plans, drawn from behind to front; proportions and parts follow the characters of a species."""

from collections.abc import Callable
from typing import Final

import numpy as np

from biovita.world.brush import Pen, curve, limb, mix, ribbon, ring, smooth
from biovita.world.colour import accent_hsv, body_hsv, to_rgb
from biovita.world.tree import Plan, Species

Rng = np.random.Generator


class Coat:
    """The colours and markings of one individual; it differs a little from others of its species."""

    def __init__(self, species: Species, rng: Rng) -> None:
        hue, saturation, value = body_hsv(species)
        shift = 0.02 * rng.standard_normal(3)
        second = accent_hsv(species)
        self.body = to_rgb(hue + shift[0] / 2, saturation + shift[1], value + 1.5 * shift[2])
        self.accent = to_rgb(second[0] + shift[0] / 2, second[1], second[2])
        self.dark = to_rgb(hue, saturation, value * 0.4)
        self.pale = to_rgb(hue, saturation * 0.25, 0.75 + 0.25 * value)
        self.skin = to_rgb(0.04 + 0.09 * species.accent, 0.55 * species.saturation + 0.2, 0.35 + 0.5 * species.accent)
        self.iris = to_rgb(0.16 - 0.12 * species.night, 0.8, 0.65 + 0.35 * species.night)
        self.has_pale_belly = species.belly > 0.55
        self.pattern, self.step, self.rng = species.pattern, 0.20 - 0.12 * species.grain, rng

    def paint(self, pen: Pen, *outlines: np.ndarray, belly: bool = True) -> None:
        """Paint the coat over the union of some shapes."""
        pale = self.pale if belly and self.has_pale_belly else None
        pen.body(outlines, fill=self.body, edge=self.dark, belly=pale, markings=self.markings)

    def markings(self, pen: Pen) -> None:
        """Draw the pattern all over; it is cut to the body."""
        step, rng, phase = self.step, self.rng, self.rng.uniform(0, 6)
        if self.pattern == "spots":
            x, y = np.meshgrid(np.arange(-1.1, 1.0, step), np.arange(-0.55, 0.75, step))
            x[1::2] += step / 2
            jitter = rng.uniform(-0.12, 0.12, (3, x.size)) * step
            pen.discs(x.ravel() + jitter[0] + 1j * (y.ravel() + jitter[1]), 0.30 * step + jitter[2] / 2, self.accent)
        elif self.pattern == "stripes":
            x = np.linspace(-1.3, 1.1, 14)
            for y in np.arange(-0.55, 0.8, step):
                pen.line(x + 1j * (y + 0.02 * np.sin(5 * x + phase)), self.accent, 0.42 * step)
        elif self.pattern == "bands":
            y = np.linspace(-0.6, 0.8, 10)
            for x in np.arange(-1.2 + phase * step / 6, 1.0, 1.15 * step):
                pen.line(x + 0.03 * np.sin(5 * y + phase) + 1j * y, self.accent, 0.5 * step)
        elif self.pattern == "patches":
            for x in np.arange(-1.0, 0.9, 1.9 * step):
                middle = complex(x + rng.uniform(-0.3, 0.3) * step, rng.uniform(-0.22, 0.32))
                wobble = rng.normal(0, 0.16 * step, 7) + 1j * rng.normal(0, 0.16 * step, 7)
                pen.fill(smooth(ring(middle, 0.95 * step, 0.8 * step, n=7) + wobble), self.accent)


def _bird(pen: Pen, coat: Coat, own: Species, rng: Rng) -> None:
    deep, head = 0.24 + 0.13 * own.build, 0.18 + 0.06 * own.head - 0.05 * own.size
    leg = 0.10 + 0.36 * own.leg
    at = complex(0.36, 0.30 + 0.10 * own.leg + rng.uniform(-0.05, 0.05))  # the middle of the head
    pen.shadow(complex(0.05, -deep - leg - 0.03), 0.45)
    for x in (-0.02, 0.10):
        foot = complex(x + 0.03, -deep - leg)
        pen.line([x - 0.7j * deep, complex(x - 0.02, -deep - 0.45 * leg), foot], coat.skin, 0.03)
        for toe in (0.10 - 0.015j, 0.07 - 0.035j, -0.06 - 0.01j):
            pen.line([foot, foot + toe], coat.skin, 0.02)
    length = 0.12 + 0.65 * own.tail
    tip = complex(-0.38 - length, 0.02 + rng.uniform(-0.25, 0.05) * length)
    fork = 0.25 * length * (own.ornament - 0.3)
    pen.fill([-0.30 + 0.12j, tip + 0.09j, tip + fork, tip - 0.03 - 0.09j, -0.30 - 0.08j], coat.accent)
    if own.ornament > 0.5:  # a crest
        rise = head * (2.2 * own.ornament - 0.7)
        for lean in (0.9, 0.5, 0.1):
            root = at + 0.85j * head * np.exp(1j * lean)
            pen.fill([root + 0.05, root + 1j * rise * np.exp(1j * (lean + 0.5)), root - 0.05 - 0.02j], coat.accent)
    thick = 0.035 + 0.05 * own.build
    point = at + complex(head + 0.07 + 0.34 * own.muzzle, -0.02 - 0.05 * own.wing)
    pen.fill([at + complex(0.7 * head, thick), point, at + complex(0.7 * head, -thick)], coat.skin)
    back = [-0.47 + 0.07j, -0.2 + 0.18j, 0.12 + 0.24j, 0.36 + 0.16j]
    breast = [0.34 - 0.5j * deep, 0.05 - 1j * deep, -0.28 - 0.6j * deep]
    neck = np.array([0.05 + 0.2j, at + (-0.8 + 0.4j) * head, at + (0.7 - 0.5j) * head, 0.37 - 0.02j])
    coat.paint(pen, smooth(back + breast), neck, ring(at, head, head))
    front = [complex(0.1, -0.09 - 0.05 * own.build), 0.2 + 0.12j, 0.02 + 0.17j]
    wing = [*front, -0.3 + 0.06j, -0.5 - 0.12 * own.wing - 0.02j, -0.2 - 0.12j]
    pen.fill(smooth(wing), mix(coat.accent, coat.body, 0.25))
    for k in range(3):
        pen.line(
            [complex(0.08 - 0.07 * k, 0.03 - 0.04 * k), complex(-0.36 + 0.02 * k, -0.01 - 0.03 * k)], coat.dark, 0.012
        )
    pen.eye(at + (0.3 + 0.2j) * head, 0.064 - 0.03 * own.size + 0.012 * own.night, coat.iris)


def _mammal(pen: Pen, coat: Coat, own: Species, rng: Rng) -> None:
    deep, leg = 0.20 + 0.13 * own.build, 0.16 + 0.34 * own.leg
    head, snout = 0.18 + 0.05 * own.head - 0.05 * own.size, 0.08 + 0.22 * own.muzzle
    at = complex(0.52, 0.26 + 0.18 * own.leg + rng.uniform(-0.08, 0.06))
    stride, thick = rng.uniform(-0.09, 0.09), 0.05 + 0.06 * own.build

    def walking(x: float, dx: float, stout: float) -> np.ndarray:
        knee = complex(x + 0.4 * dx, -deep - 0.4 * leg)
        return limb([x - 0.05j, knee, complex(x + dx, -deep - leg)], stout * thick, 0.62 * thick)

    pen.shadow(complex(0.02, -deep - leg - 0.03), 0.62)
    pen.fill(walking(-0.24, stride, 1.0), coat.dark)
    pen.fill(walking(0.34, -stride, 1.0), coat.dark)
    length, lift = 0.10 + 0.62 * own.tail, rng.uniform(-0.3, 0.5)
    bush = 0.03 + 0.07 * own.ornament
    bend, end = complex(-0.5 - 0.4 * length, 0.08 + 0.2 * lift), complex(-0.45 - 0.8 * length, lift * length - 0.1)
    pen.fill(limb([-0.42 + 0.08j, bend, end], 0.7 * bush, bush), coat.accent)
    ear = head * (0.5 + 1.3 * own.wing) * 1j * np.exp(1j * (0.35 + 0.3 * own.wing))
    for dx, colour in ((0.06, coat.dark), (-0.03, coat.body)):
        root = at + complex(dx - 0.04, 0.7 * head)
        pen.fill(smooth([root + 0.05, root + ear + 0.02, root + ear - 0.02, root - 0.06 - 0.02j]), colour)
    if own.ornament > 0.55:  # horns
        rise = 0.9 * (own.ornament - 0.35)
        for dx, colour in ((0.07, (176, 164, 142)), (0.0, (226, 214, 188))):
            root = at + dx
            horn = [root + 0.7j * head, root + 0.06 + 1j * (head + 0.6 * rise), root - 0.08 + 1j * (head + rise)]
            pen.fill(limb(horn, 0.03, 0.008), colour)
    back = [-0.46 + 0.04j, -0.38 + 0.2j, 0.19j, 0.36 + 0.22j, 0.46 + 0j]
    under = [0.28 - 1j * deep, -0.05 - 0.85j * deep, -0.38 - 0.9j * deep]
    neck = limb([0.3 + 0.06j, at - 0.02 - 0.02j], 0.17, 0.85 * head)
    nose = at + complex(0.6 * head + snout, -0.08)
    face = limb([at, nose], 0.8 * head, 0.05 + 0.02 * own.build)
    legs = (walking(-0.30, -stride, 1.25), walking(0.27, stride, 1.25))
    coat.paint(pen, *legs, smooth(back + under), neck, ring(at, head, 0.9 * head), face)
    pen.discs([nose + 0.03 + 0.01j], 0.03, (24, 18, 18))
    pen.eye(at + (0.35 + 0.25j) * head, 0.058 - 0.03 * own.size + 0.012 * own.night, coat.iris)


def _frog(pen: Pen, coat: Coat, own: Species, rng: Rng) -> None:
    plump, reach = 0.20 + 0.12 * own.build, 0.18 + 0.3 * own.leg
    head, eye = 0.13 + 0.05 * own.head, 0.11 - 0.05 * own.size
    ground, arm = -0.34, rng.uniform(-0.04, 0.05)
    pen.shadow(complex(0.0, ground - 0.02), 0.55)
    for shift, colour in ((0.05, coat.dark), (0.0, coat.accent if own.wing > 0.5 else coat.body)):
        ankle = complex(-0.12 + shift, ground)
        pen.fill(limb([-0.30 + shift - 0.12j, complex(-0.30 - 0.5 * reach, -0.2), ankle], 0.06, 0.035), colour)
        toes = ankle + 0.06 - 0.04j + np.array([-0.02, 0.05, 0.12])
        for toe in toes:
            pen.line([ankle, toe], colour, 0.03)
        pen.discs(toes, 0.012 + 0.02 * own.tail, colour)
    pen.fill(limb([0.24 - 0.05j, 0.31 + arm - 0.2j, complex(0.26 + arm, ground)], 0.055, 0.03), coat.dark)
    if own.notes > 0.45:  # a vocal sac
        pen.discs([0.40 - 0.07j], 0.06 + 0.22 * (own.notes - 0.4) * rng.uniform(0.7, 1.2), coat.pale)
    if own.ornament > 0.55:  # spines
        for k in range(5):
            root = complex(-0.32 + 0.13 * k, 0.16 + 0.04 * k + 0.06 * plump)
            pen.fill([root - 0.05 - 0.05j, root + 0.35j * (own.ornament - 0.4), root + 0.05 - 0.05j], coat.accent)
    snout = 0.42 + 0.2 * own.muzzle
    back = [-0.48 - 0.18j, -0.40 + 0.06j, complex(-0.1, 0.22 + 0.3 * plump), 0.2 + 0.26j, snout + 0.14j]
    under = [0.42 + 0j, 0.2 - 1j * plump, -0.2 - 1j * (plump + 0.05)]
    thigh = ring(-0.28 - 0.14j, 0.10 + 0.5 * reach, 0.10 + 0.05 * own.build, tilt=0.35)
    coat.paint(pen, smooth(back + under), ring(0.26 + 0.16j, 1.3 * head, head), thigh)
    pen.line(thigh[14:26], coat.dark, 0.014)
    hand = complex(0.16 + arm, ground)
    pen.fill(limb([0.18 - 0.08j, 0.22 + arm - 0.2j, hand], 0.06, 0.035), coat.body)
    for finger in (0.0, 0.06, 0.11):
        pen.line([hand, hand + finger - 0.035j], coat.body, 0.028)
    pen.line(curve([snout + 0.02 + 0.06j, 0.32 + 0.02j, 0.16 + 0.06j]), coat.dark, 0.014)
    pen.discs([0.25 + 0.27j], 1.4 * eye, coat.body)
    pen.eye(0.26 + 0.28j, 1.05 * eye, coat.iris)


def _insect(pen: Pen, coat: Coat, own: Species, rng: Rng) -> None:
    """Drawn from above; every part has its twin on the other side."""
    wide, reach, feeler = 0.11 + 0.13 * own.build, 0.14 + 0.34 * own.leg, 0.15 + 0.55 * own.tail
    head = 0.10 + 0.06 * own.head - 0.03 * own.size
    pen.shadow(-0.04 - 0.10j, 0.55)
    for side in (1.0, -1.0):
        for x, lean in ((0.20, 0.6), (0.08, 0.0), (-0.04, -0.7)):
            knee = complex(x + 0.5 * lean * reach, side * (wide + 0.5 * reach))
            foot = knee + reach * complex(lean + rng.uniform(-0.2, 0.2), 0.45 * side)
            pen.line([x, knee, foot], coat.dark, 0.024)
        ends = [complex(0.0, 0.03), complex(0.6 * feeler, 0.18), complex(feeler, 0.14 + 0.2 * feeler)]
        pen.line(curve([0.36 + complex(end.real, side * end.imag) for end in ends]), coat.dark, 0.015)
    if own.muzzle > 0.5:  # a proboscis
        pen.fill(limb([0.36 + 0j, 0.36 + 0.5 * (own.muzzle - 0.3)], 0.035, 0.01), coat.dark)
    half = [0.06 + 1j * wide, -0.25 + 1.05j * wide]
    abdomen = smooth([0.12, *half, -0.52, *np.conj(half[::-1])])
    coat.paint(pen, abdomen, ring(0.17, 0.12, 0.85 * wide), ring(0.32, head, 1.1 * head), belly=False)
    if coat.has_pale_belly:  # from above a pale saddle
        pen.fill(ring(0.17, 0.08, 0.55 * wide), coat.pale)
    length, spread = 0.36 + 0.30 * own.wing, 0.15 + 0.75 * own.wing
    for side in (1.0, -1.0):
        root, out = complex(0.12, 0.05 * side), -np.exp(-1j * side * spread)
        across = (0.05 + 0.07 * own.wing) * 1j * side * out
        tip = root + length * out
        middle = (root + tip) / 2
        edge = [root, middle - 1.2 * across, tip - 0.5 * across, tip + 0.7 * across, middle + across]
        pen.fill(smooth(edge), mix(coat.accent, coat.pale, 0.35))
        pen.line([root, tip], coat.dark, 0.012)
        if own.ornament > 0.55:  # jaws
            jaw = [
                complex(0.36, 0.04 * side),
                complex(0.45, 0.10 * side),
                complex(0.26 + 0.4 * own.ornament, 0.05 * side),
            ]
            pen.fill(limb(jaw, 0.03, 0.008), coat.accent)
    for side in (1.0, -1.0):
        pen.eye(complex(0.35, 0.85 * side * head), 0.030 + 0.02 * own.night, coat.iris)


def _reptile(pen: Pen, coat: Coat, own: Species, rng: Rng) -> None:
    thick, leg = 0.09 + 0.09 * own.build, 0.12 + 0.18 * own.leg
    length, sway, shift = 0.35 + 0.7 * own.tail, rng.uniform(-0.10, 0.10), 0.08 + 0.25 * own.tail
    tail = [complex(-0.3 - length, 0.02 + 2.5 * sway + rng.normal(0, 0.1)), complex(-0.28 - 0.5 * length, -0.06 - sway)]
    spine = shift + curve([*tail, -0.25 + 0j, complex(0.05, 0.05 + 0.4 * sway), 0.32 + 0.06j])
    along = np.linspace(0, 1, len(spine))
    half = thick * np.clip(np.minimum(along / 0.55, 1) ** 1.3, 0.08, 1) * (1 - 1.75 * np.clip(along - 0.8, 0, 1))
    pen.shadow(complex(0.1 + shift, -0.12 - leg), 0.5)
    for x in (shift - 0.2, shift + 0.2):
        step = rng.uniform(-0.06, 0.06)
        for hip, colour in ((x + 0.06, coat.dark), (x, coat.body)):
            foot = complex(hip + 0.02 + step, -0.08 - leg)
            pen.fill(limb([hip, complex(hip - 0.11 + step, -0.06 - 0.45 * leg), foot], 0.05, 0.028), colour)
            for toe in (0.09, 0.06, 0.01):
                pen.line([foot, foot + complex(toe, 0.4 * toe - 0.05)], colour, 0.018)
    if own.ornament > 0.45:  # spines
        rise = 0.30 * own.ornament - 0.06
        for i in range(len(spine) // 4, len(spine) - 1, 2):
            root = spine[i] + 0.8j * half[i]
            pen.fill([root - 0.035, root - 0.03 + 1j * rise, root + 0.035], coat.accent)
    at = complex(spine[-1])
    if own.wing > 0.5:  # a dewlap
        pen.fill(ring(at + 0.02 - 0.10j, 0.09, 0.22 * own.wing - 0.04), coat.accent)
    head = 0.12 + 0.05 * own.head - 0.03 * own.size
    nose = at + complex(0.7 * head + 0.08 + 0.22 * own.muzzle, -0.03)
    coat.paint(pen, ribbon(spine, half), ring(at, 1.15 * head, 0.95 * head), limb([at, nose], 0.85 * head, 0.04))
    pen.line([nose - 0.015j, at + 0.03 - 0.045j], coat.dark, 0.012)
    pen.eye(at + (0.45 + 0.35j) * head, 0.052 - 0.02 * own.size + 0.01 * own.night, coat.iris)


DRAWERS: Final[dict[Plan, Callable[[Pen, Coat, Species, Rng], None]]] = {
    "bird": _bird,
    "mammal": _mammal,
    "frog": _frog,
    "insect": _insect,
    "reptile": _reptile,
}
# How large a plan is shown, and which of its points stands in the middle of a picture.
FRAMES: Final[dict[Plan, tuple[float, complex]]] = {
    "bird": (0.95, 0.02 + 0j),
    "mammal": (0.74, 0.12 - 0.02j),
    "frog": (1.05, 0j),
    "insect": (0.90, -0.02 + 0j),
    "reptile": (0.82, 0.02 + 0j),
}
