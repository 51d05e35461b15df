"""Shapes and a pen. A point is a complex number in body units: a body is about one long, x forward, y up."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from biovita.world.colour import Rgb

Points = NDArray[np.complex128]
Shape = Sequence[complex] | Points
"""The points of a line or of a closed outline."""


class Pen:
    """Draws shapes given in body units onto a canvas in pixels.

    Args:
        canvas: what is drawn on.
        scale_px: the length of a body unit.
        centre_px: where in the canvas the point `middle` comes to lie, x right, y down.
        middle: a point in body units.
        turn: how far the body is turned, in radians.
        mirror: whether it looks to the left.
    """

    def __init__(
        self, canvas: Image.Image, scale_px: float, centre_px: complex, *, middle: complex, turn: float, mirror: bool
    ) -> None:
        self.canvas, self.scale_px, self.mirror = canvas, scale_px, mirror
        self.on = ImageDraw.Draw(canvas)
        self.factor = scale_px * complex(math.cos(turn), math.sin(turn))
        self.origin = 0j
        self.origin = centre_px - self.px([middle])[0]

    def px(self, shape: Shape) -> Points:
        """Turn body units into pixels, complex again, y down."""
        points = np.asarray(shape, np.complex128)
        points = -points if self.mirror else np.conj(points)  # -z is -x - iy: mirrored, and y down
        return points * self.factor + self.origin

    def fill(self, outline: Shape, colour: Rgb) -> None:
        """Fill a closed shape."""
        self.on.polygon(_flat(self.px(outline)), fill=colour)

    def line(self, points: Shape, colour: Rgb, width: float) -> None:
        """Draw an open line of a width in body units."""
        self.on.line(_flat(self.px(points)), fill=colour, width=max(1, round(width * self.scale_px)), joint="curve")

    def discs(self, centres: Shape, radii: float | np.ndarray, colour: Rgb) -> None:
        """Fill circles, those outside the canvas left out."""
        at = self.px(centres)
        radii_px = np.broadcast_to(radii, at.shape) * self.scale_px
        width, height = self.canvas.size
        near = (at.real > -20) & (at.real < width + 20) & (at.imag > -20) & (at.imag < height + 20)
        for c, r in zip(at[near].tolist(), radii_px[near].tolist(), strict=True):
            self.on.ellipse((c.real - r, c.imag - r, c.real + r, c.imag + r), fill=colour)

    def eye(self, at: complex, radius: float, iris: Rgb) -> None:
        """Draw an eye with a glint."""
        self.discs([at], radius * 1.25, (25, 20, 18))
        self.discs([at], radius, iris)
        self.discs([at + 0.15 * radius], radius * 0.6, (8, 8, 10))
        self.discs([at + (0.35 + 0.35j) * radius], radius * 0.26, (255, 255, 255))

    def shadow(self, at: complex, radius: float) -> None:
        """Darken the ground under the animal."""
        c, r = self.px([at])[0], radius * self.scale_px
        box = (round(c.real - r), round(c.imag - 0.16 * r), round(c.real + r), round(c.imag + 0.16 * r))
        soft = _glow().resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BILINEAR)
        self.canvas.paste((12, 12, 16), box, soft)

    def body(
        self, outlines: Sequence[Shape], *, fill: Rgb, edge: Rgb, belly: Rgb | None, markings: Callable[["Pen"], None]
    ) -> None:
        """Paint the union of some shapes: an edge, a coat with markings, a pale belly, light above and shade below.

        Args:
            outlines: closed shapes that overlap.
            fill: colour of the coat.
            edge: colour of the outline.
            belly: colour of the lower third, or None.
            markings: draws over the whole coat; what lies outside the shapes is cut off.
        """
        cuts = [self.px(outline) for outline in outlines]
        for outline in cuts:
            closed = _flat(np.append(outline, outline[0]))
            self.on.line(closed, fill=edge, width=max(2, round(0.022 * self.scale_px)), joint="curve")
        every = np.concatenate(cuts)
        left, top = math.floor(every.real.min()) - 1, math.floor(every.imag.min()) - 1
        size = (math.ceil(every.real.max()) + 2 - left, math.ceil(every.imag.max()) + 2 - top)
        corner = complex(left, top)
        mask = Image.new("L", size)
        cutter = ImageDraw.Draw(mask)
        for outline in cuts:
            cutter.polygon(_flat(outline - corner), fill=255)

        coat = Image.new("RGB", size, fill)
        inner = Pen(coat, self.scale_px, 0j, middle=0j, turn=0.0, mirror=self.mirror)
        inner.factor, inner.origin = self.factor, self.origin - corner
        markings(inner)
        height = _slope().resize(size, Image.Resampling.BILINEAR)  # 0 at the back, 255 at the feet
        if belly:
            coat.paste(belly, None, height.point([min(255, max(0, (v - 140) * 5)) for v in range(256)]))
        coat.paste((10, 8, 20), None, height.point([max(0, v - 110) * 7 // 10 for v in range(256)]))
        coat.paste((255, 250, 235), None, height.point([max(0, 70 - v) for v in range(256)]))
        self.canvas.paste(coat, (left, top), mask)


def ring(centre: complex, rx: float, ry: float, *, n: int = 28, tilt: float = 0.0) -> Points:
    """Outline an ellipse with n points, tilted by radians."""
    angle = np.arange(n) * (2 * math.pi / n)
    return centre + (rx * np.cos(angle) + 1j * ry * np.sin(angle)) * np.exp(1j * tilt)


def smooth(corners: Shape) -> Points:
    """Round a closed outline through its corners."""
    around = np.stack([np.roll(corners, k) for k in (1, 0, -1, -2)])
    return (_spline() @ around).T.ravel()


def curve(knots: Shape) -> Points:
    """Round an open line through its knots."""
    z = np.asarray(knots, np.complex128)
    padded = np.concatenate([[2 * z[0] - z[1]], z, [2 * z[-1] - z[-2]]])
    around = np.stack([padded[k : k + len(z) - 1] for k in range(4)])
    return np.append((_spline() @ around).T.ravel(), z[-1])


def ribbon(line: Points, half: np.ndarray) -> Points:
    """Widen a line to an outline; `half` is its half width along the way."""
    along = np.gradient(line)
    across = 1j * along / (np.abs(along) + 1e-9) * half
    return np.concatenate([line + across, (line - across)[::-1]])


def limb(knots: Shape, start: float, stop: float) -> Points:
    """Widen a curve from one half width to another, with a blunt end."""
    line = curve(knots)
    end = line[-1] - line[-2]
    line = np.append(line, line[-1] + end / (abs(end) + 1e-9) * stop)
    return ribbon(line, np.append(np.linspace(start, stop, len(line) - 1), 0.45 * stop))


def mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    """Mix two colours; `share` is the part of the second."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _flat(points: Points) -> list[float]:
    """Write complex points as x, y, x, y, ... for Pillow."""
    return np.ascontiguousarray(points).view(np.float64).tolist()


@lru_cache(maxsize=1)
def _spline(n: int = 6) -> np.ndarray:
    """Catmull-Rom weights of four neighbours at n places of a segment, (n, 4)."""
    t = np.arange(n)[:, None] / n
    return 0.5 * np.hstack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3])


@lru_cache(maxsize=1)
def _slope() -> Image.Image:
    return Image.linear_gradient("L")


@lru_cache(maxsize=1)
def _glow() -> Image.Image:
    return Image.radial_gradient("L").resize((64, 64)).point([max(0, 150 - v) for v in range(256)])
