"""What the page draws and says: spectrograms, maps, calendars, sentences, each beside a plain account of it."""

import io

import numpy as np
import pytest
from PIL import Image

from biovita.errors import BiovitaError
from biovita.identify.answer import Answer, Named
from biovita.media.reasons import MEDIA_REASONS
from biovita.report.plots import TOP_HZ
from biovita.web import charts, draw, words
from biovita.web.asking import MAX_WIDTH_PX, MIN_WIDTH_PX, plain, spectrogram_width

RATE_HZ = 48_000


def drawn(wave: np.ndarray, width_px: int = 400, height_px: int = 140) -> np.ndarray:
    """Return how dark each point is: 0 paper, 1 ink."""
    image = Image.open(io.BytesIO(draw.spectrogram(wave.astype(np.float32), width_px, height_px)))
    assert image.size == (width_px, height_px)
    return 1 - np.asarray(image.convert("L"), float) / 255


def test_a_tone_is_dark_at_its_time_and_pitch_and_nowhere_else() -> None:
    wave = np.random.default_rng(0).normal(0, 1e-4, 4 * RATE_HZ)
    at = slice(RATE_HZ, 2 * RATE_HZ)
    wave[at] += 0.3 * np.sin(2 * np.pi * 5_000 * np.arange(RATE_HZ) / RATE_HZ)
    ink = drawn(wave)
    row = round(140 * (1 - 5_000 / TOP_HZ))
    assert ink[row - 2 : row + 2, 110:190].max(axis=0).min() > 0.8
    assert ink[:, :90].max() < 0.35
    assert ink[: row - 12, 110:190].mean() < 0.2


def test_a_short_call_in_a_long_recording_is_still_seen() -> None:
    wave = np.zeros(120 * RATE_HZ)
    wave[60 * RATE_HZ : 60 * RATE_HZ + 9_600] = 0.3 * np.sin(2 * np.pi * 6_000 * np.arange(9_600) / RATE_HZ)
    ink = drawn(wave, 1_200)
    assert ink[:, 595:605].max() > 0.7


@pytest.mark.parametrize("n", [1, 100, 1_023, 5_000])
def test_very_short_and_silent_waves_are_drawn_too(n: int) -> None:
    assert np.isfinite(drawn(np.zeros(n))).all()
    assert np.isfinite(drawn(np.random.default_rng(1).normal(size=n))).all()


def test_a_thumbnail_is_small_and_has_no_metadata() -> None:
    image = Image.new("RGB", (900, 300), "red")
    image.info["comment"] = b"secret"
    small = Image.open(io.BytesIO(draw.thumbnail(image, 200)))
    assert (small.size, small.format) == ((200, 67), "JPEG")
    assert b"secret" not in draw.thumbnail(image, 200)
    assert image.size == (900, 300)


def test_a_spectrogram_grows_with_the_recording_within_bounds() -> None:
    widths = [spectrogram_width(seconds) for seconds in (0.1, 5, 30, 600)]
    assert widths == [MIN_WIDTH_PX, MIN_WIDTH_PX, 2_700, MAX_WIDTH_PX]


def test_every_place_lies_on_the_map_where_its_degrees_are() -> None:
    places = [(52.5, 13.4, 10), (48.1, 11.6, 1), (53.6, 10.0, 4)]
    chart = charts.chart(places)
    assert chart
    assert chart["n"] == 15
    up = {line["label"]: line["at"] for line in chart["up"]}
    across = {line["label"]: line["at"] for line in chart["across"]}
    assert up["50\u00b0N"] > up["52\u00b0N"]
    px = (up["50\u00b0N"] - up["52\u00b0N"]) / 2
    for lat, lon, n in places:
        dot = next(dot for dot in chart["dots"] if dot["says"].startswith(f"{n} at"))
        assert dot["y"] == pytest.approx(up["50\u00b0N"] - (lat - 50) * px, abs=0.3)
        assert dot["x"] == pytest.approx(across["10\u00b0E"] + (lon - 10) * px, abs=0.3)
        assert 0 <= dot["x"] <= chart["width"]
        assert 0 <= dot["y"] <= chart["height"]
    sizes = [dot["r"] for dot in chart["dots"]]
    assert sizes == sorted(sizes, reverse=True)
    assert charts.chart([]) is None


@pytest.mark.parametrize("places", [[(90.0, 180.0, 1), (-90.0, -180.0, 1)], [(0.0, 0.0, 3)], [(-89.9, 179.9, 1)]])
def test_places_at_the_ends_of_the_world_are_on_the_map(places: list[tuple[float, float, int]]) -> None:
    chart = charts.chart(places)
    assert chart
    for dot in chart["dots"]:
        assert -1 <= dot["x"] <= chart["width"] + 1
        assert -1 <= dot["y"] <= chart["height"] + 1


def test_a_calendar_counts_every_file_once() -> None:
    calendar = charts.calendar([(1, 5, 3), (1, None, 2), (12, 23, 12)])
    assert calendar
    assert calendar["n"] == 17
    assert [row["n"] for row in calendar["rows"]] == [5, *[0] * 10, 12]
    assert sum(cell["n"] for row in calendar["rows"] for cell in row["cells"]) == 15
    tones = {cell["n"]: cell["tone"] for row in calendar["rows"] for cell in row["cells"]}
    assert tones == {0: 0, 3: 3, 12: 6}
    assert charts.calendar([]) is None


@pytest.mark.parametrize("seconds", [0.1, 0.7, 5.0, 36.9, 60.0, 600.0])
def test_the_moments_along_a_recording_are_round_and_can_be_read(seconds: float) -> None:
    width_px = spectrogram_width(seconds)
    ticks = charts.ticks(seconds, width_px)
    at_px = [0.0, *[tick["percent"] / 100 * width_px for tick in ticks]]
    assert len(ticks) >= (seconds > 0.2)
    assert np.diff(at_px).min(initial=999) > charts.TICK_PX - 1
    assert at_px[-1] < width_px
    for tick in ticks:
        minutes, rest = tick["label"].split(":")
        assert 60 * int(minutes) + float(rest) == pytest.approx(tick["percent"] / 100 * seconds, abs=seconds / 5000)


def test_many_shares_end_in_one_row_for_the_rest() -> None:
    shares = charts.shares({f"licence {n}": n + 1 for n in range(12)} | {"": 100})
    assert shares[0] == {"name": "not known", "n": 100, "percent": 100.0}
    assert (shares[-1]["name"], shares[-1]["percent"]) == ("5 others", None)
    assert sum(row["n"] for row in shares) == 100 + sum(range(1, 13))


def named(rank: str, name: str, prob: float | None, common_name: str = "") -> Named:
    return Named(
        rank=rank,  # pyright: ignore[reportArgumentType]
        name=name,
        common_name=common_name,
        lineage={},
        score=0.4,
        prob=prob,
        expected=None,
    )


@pytest.mark.parametrize(
    ("sure", "best", "said"),
    [
        (named("species", "Rana arvalis", 0.913, "Moor Frog"), None, "Moor Frog (Rana arvalis), 91 % sure"),
        (named("family", "Turdidae", 0.839), None, "Some Turdidae (family), 83 % sure"),
        (named("family", "Turdidae", 0.839, "thrush"), None, "Some thrush (Turdidae), 83 % sure"),
        (named("class", "Aves", 0.9999), None, "Some Aves (class), 99 % sure"),
        (None, named("species", "Turdus merula", 0.2), "Unknown: no rank is 80 % sure"),
        (None, named("species", "Turdus merula", None), "Nearest: Turdus merula, not calibrated"),
    ],
)  # fmt: skip
def test_a_sentence_promises_no_more_than_is_known(sure: Named | None, best: Named | None, said: str) -> None:
    taxa = [one for one in (best,) if one]
    is_calibrated = sure is not None or (best is not None and best.prob is not None)
    answer = Answer(taxa=taxa, sure=sure)
    assert words.sentence(answer, is_calibrated=is_calibrated, confidence=0.8).replace("\u202f", " ") == said


def test_every_reason_that_the_checker_may_give_has_its_words() -> None:
    beyond_uploads = {"not_regular_file", "symlink", "unsafe_name", "unsafe_archive", "archive_bomb", "unsafe_pickle",
                      "bad_checkpoint", "bad_table"}  # fmt: skip
    assert set(MEDIA_REASONS) - set(words.REASONS) == beyond_uploads
    assert words.why("silent").startswith("The recording is silent")


def test_clocks_and_errors_read_well() -> None:
    assert [words.clock(s) for s in (0, 7.54, 59.96, 723)] == ["0:00.0", "0:07.5", "1:00.0", "12:03.0"]
    lasting = [words.lasting(s).replace("\u202f", " ") for s in (2.44, 9.96, 36.9, 59.6, 60, 723.4)]
    assert lasting == ["2.4 s", "10 s", "37 s", "1 min", "1 min", "12 min 3 s"]
    error = BiovitaError("/home/anna/archives/birds: no row '/etc/passwd'; see a/b and 1/2")
    assert plain(error) == "birds: no row 'passwd'; see a/b and 1/2"
