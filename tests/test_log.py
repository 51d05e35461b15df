"""People read standard error, programs read standard output."""

import io
import json

import pytest

from biovita import log
from biovita.log import Progress, duration, emit, progress, say, warn


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test moves: `clock[0] += 5`."""
    now = [100.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (187, "3 min 07 s"),
        (3599.5, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_a_duration_reads_well_also_at_the_edges(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_progress_line_tells_count_rate_time_left_and_bad_items(clock: list[float]) -> None:
    bar = Progress("check", 1_000, "files", stream=io.StringIO())
    clock[0] += 4
    bar.advance(400, bad=3, note="slow disk")
    assert bar.line(final=False) == "check: 400 of 1,000 files, 100/s, 6 s left, 3 bad, slow disk"
    bar.advance(600)
    assert bar.line(final=True) == "check: 1,000 of 1,000 files, 250/s, in 4 s, 3 bad, slow disk"


def test_work_of_unknown_size_promises_no_end(clock: list[float]) -> None:
    bar = Progress("walk", stream=io.StringIO())
    clock[0] += 10
    bar.advance(5)
    assert bar.line(final=False) == "walk: 5 items, 0.5/s"


def test_nothing_done_yet_divides_by_nothing(clock: list[float]) -> None:
    assert Progress("walk", 0, stream=io.StringIO()).line(final=True) == "walk: 0 of 0 items, in 0 s"


def test_a_file_gets_a_line_every_few_seconds_and_a_last_one(clock: list[float]) -> None:
    stream = io.StringIO()
    with Progress("train", 100, "steps", stream=stream) as bar:
        for _ in range(100):
            clock[0] += 0.11
            bar.advance()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("train: 100 of 100 steps")
    assert "\r" not in stream.getvalue()


def test_an_error_has_a_line_of_its_own_below_the_one_that_is_redrawn(clock: list[float]) -> None:
    stream = Terminal()
    with pytest.raises(RuntimeError), Progress("train", 20, "steps", stream=stream):
        raise RuntimeError
    assert stream.getvalue().endswith("\n")


def test_a_terminal_gets_one_line_redrawn_in_place(clock: list[float]) -> None:
    stream = Terminal()
    with Progress("train", 20, "steps", stream=stream) as bar:
        for _ in range(20):
            clock[0] += 0.2
            bar.advance()
    assert stream.getvalue().count("\r") == 21
    assert stream.getvalue().count("\n") == 1


def test_work_that_fails_does_not_claim_to_be_done(clock: list[float]) -> None:
    stream = io.StringIO()

    def failing() -> None:
        with Progress("train", 4, "steps", stream=stream) as bar:
            clock[0] += 1
            bar.advance()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert "1 of 4" in stream.getvalue()
    assert " in " not in stream.getvalue()


def test_quiet_silences_remarks_and_progress_but_no_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log.SETTINGS, "quiet", True)
    say("remark")
    assert list(progress([1, 2], "count")) == [1, 2]
    warn("bad file")
    assert capsys.readouterr() == ("", "warning: bad file\n")


def test_remarks_never_reach_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    say("remark")
    list(progress(iter("abc"), "spell", unit="letters"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "remark"
    assert "spell: 3 letters" in err


def test_an_object_is_one_ascii_line_that_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"path": "Höhle\n\ud800.wav", "n": 3}
    emit(value)
    out = capsys.readouterr().out
    assert out.isascii()
    assert out.count("\n") == 1
    assert json.loads(out) == value
