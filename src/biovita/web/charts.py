"""Numbers made ready for charts that templates draw: shares, places on a map, months and hours."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

MOST_SHARES = 8
MAP_PX = (720, 360)
MARGIN_DEG = 2.0
STEPS_DEG = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30)
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip
N_TONES = 6
STEPS_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
TICK_PX = 90


def shares(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Sort counts for bars, the most first; what is beyond the first few is one row without a bar."""
    rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    shown, rest = rows[:MOST_SHARES], rows[MOST_SHARES:]
    most = max((n for _, n in shown), default=1)
    bars = [{"name": name or "not known", "n": n, "percent": round(100 * n / most, 1)} for name, n in shown]
    others = {"name": f"{len(rest)} others", "n": sum(n for _, n in rest), "percent": None}
    return [*bars, others] if rest else bars


def chart(places: Sequence[tuple[float, float, int]]) -> dict[str, Any] | None:
    """Place latitudes and longitudes on an even grid of degrees that just holds them; None where there are none.

    Returns:
        width and height in pixels, `dots` (x, y, radius, what it says), and the lines of the grid with their labels.
    """
    if not places:
        return None
    width, height = MAP_PX
    lats, lons = [lat for lat, _, _ in places], [lon for _, lon, _ in places]
    middle_lat, middle_lon = (min(lats) + max(lats)) / 2, (min(lons) + max(lons)) / 2
    tall = max(max(lats) - min(lats), (max(lons) - min(lons)) * height / width) + 2 * MARGIN_DEG
    tall = min(tall, 180.0)
    px = height / tall
    south = max(-90.0, min(middle_lat - tall / 2, 90.0 - tall))
    west = max(-180.0, min(middle_lon - tall * width / height / 2, 180.0 - tall * width / height))
    step = next((step for step in STEPS_DEG if tall / step <= 6), STEPS_DEG[-1])
    most = max(n for _, _, n in places)
    largest = max(4.0, 14.0 - math.log2(len(places)))

    def lines(start: float, span: float, letters: str) -> list[dict[str, Any]]:
        first = math.ceil(start / step)
        last = math.floor((start + span) / step)
        found = []
        for n in range(first, last + 1):
            deg = n * step
            label = f"{abs(deg):g}°" + (letters[0] if deg > 0 else letters[1] if deg < 0 else "")
            found.append({"at": round((deg - start) * px, 1), "label": label})
        return found

    dots = [
        {
            "x": round((lon - west) * px, 1),
            "y": round(height - (lat - south) * px, 1),
            "r": round(2 + (largest - 2) * math.sqrt(n / most), 1),
            "says": f"{n} at {lat:.2f}, {lon:.2f}",
        }
        for lat, lon, n in sorted(places, key=lambda place: -place[2])
    ]
    across = lines(west, width / px, "EW")
    up = [{**line, "at": round(height - line["at"], 1)} for line in lines(south, tall, "NS")]
    return {"width": width, "height": height, "dots": dots, "across": across, "up": up, "n": sum(n for *_, n in places)}


def ticks(seconds: float, width_px: int) -> list[dict[str, Any]]:
    """Choose round moments to write along a recording, not nearer to each other than they can be read.

    Returns:
        `percent` of the way and `label`, from the first step on; the beginning and the end need none.
    """
    step = next((step for step in STEPS_S if step * width_px / seconds >= TICK_PX), STEPS_S[-1])
    n = math.ceil(seconds / step - 0.5) - 1  # none so near to the end that it would be cut
    return [{"percent": round(100 * i * step / seconds, 2), "label": moment(i * step)} for i in range(1, n + 1)]


def moment(seconds: float) -> str:
    """Write a round moment: 0:07, 12:00, or with a tenth where it has one."""
    tenths = f"{seconds % 1:.1f}"[1:] if seconds % 1 else ""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}{tenths}"


def calendar(times: Sequence[tuple[int, int | None, int]]) -> dict[str, Any] | None:
    """Lay counts out by month and hour of day, toned from 0 to N_TONES; None where no time is known."""
    if not times:
        return None
    counts = {(month, hour): 0 for month in range(1, 13) for hour in range(24)}
    months = dict.fromkeys(range(1, 13), 0)
    for month, hour, n in times:
        months[month] += n
        if hour is not None:
            counts[month, hour] += n
    most = max(counts.values())
    rows = []
    for month in range(1, 13):
        cells = []
        for hour in range(24):
            n = counts[month, hour]
            tone = math.ceil(N_TONES * math.sqrt(n / most)) if n else 0
            cells.append({"hour": hour, "n": n, "tone": tone})
        rows.append({"month": MONTHS[month - 1], "n": months[month], "cells": cells})
    return {"rows": rows, "n": sum(months.values()), "has_hours": most > 0}
