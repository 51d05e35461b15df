"""`biovita demo` without its work: the steps are real commands, marks stand only behind finished ones."""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from biovita.commands import demo
from biovita.commands.demo import Demo, steps_of
from biovita.commands.table import COMMANDS, find
from biovita.config import parse
from biovita.errors import ConfigError

NAMES = ["world", "dataset", "pretraining", "stage1", "stage2", "calibrate", "bench", "embed", "score", "report"]


def test_every_step_is_a_command_that_a_user_can_type() -> None:
    for config in (Demo(), Demo(out=Path("my demo"), seed=3, species=40, epochs=0.25)):
        assert [step.name for step in steps_of(config)] == NAMES
        for step in steps_of(config):
            name, rest = find(step.words)
            schema = getattr(import_module(f"biovita.commands.{COMMANDS[name].module}"), COMMANDS[name].schema)
            parsed = parse(schema, rest, prog=f"biovita {name}")
            assert getattr(parsed, "seed", config.seed) in (config.seed, 7)
            assert str(config.out) in str(parsed)


def test_the_command_alone_is_the_whole_demo() -> None:
    assert parse(Demo, [], prog="biovita demo") == Demo()


def test_the_shares_of_the_steps_are_the_whole() -> None:
    assert sum(step.share for step in steps_of(Demo())) == pytest.approx(1.0)


def test_fewer_epochs_shorten_every_stage_to_one_at_least() -> None:
    def epochs(factor: float) -> list[int]:
        found = []
        for step in steps_of(Demo(epochs=factor)):
            if step.words[0] == "train":
                name, rest = find(step.words)
                found.append(parse(import_module("biovita.commands.train").Train, rest, prog=name).recipe.epochs)
        return found

    whole = epochs(1.0)
    assert len(whole) == 3
    assert epochs(0.001) == [1, 1, 1]
    assert epochs(2.0) == [2 * n for n in whole]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Run a demo whose steps only leave what marks them as finished; return the words of those that ran."""
    monkeypatch.setattr(demo, "show", lambda *_: None)

    def run(config: Demo, *, stop_at: int = -1) -> list[list[str]]:
        outputs = {tuple(step.words): step.output for step in steps_of(config)}
        done: list[list[str]] = []

        def step(words: list[str]) -> None:
            if len(done) == stop_at:
                raise KeyboardInterrupt
            outputs[tuple(words)].parent.mkdir(parents=True, exist_ok=True)
            outputs[tuple(words)].touch()
            done.append(words)

        monkeypatch.setattr(demo, "run_step", step)
        with contextlib.suppress(KeyboardInterrupt):
            demo.run_demo(config)
        return done

    return run


def test_each_step_runs_once_and_a_second_demo_does_nothing(play: Callable[..., Any], tmp_path: Path) -> None:
    config = Demo(out=tmp_path / "demo")
    assert play(config) == [step.words for step in steps_of(config)]
    assert play(config) == []


@pytest.mark.parametrize("n", [0, 3, 8])
def test_a_stopped_demo_goes_on_with_the_step_that_it_was_at(play: Callable[..., Any], tmp_path: Path, n: int) -> None:
    config = Demo(out=tmp_path / "demo")
    words = [step.words for step in steps_of(config)]
    assert play(config, stop_at=n) == words[:n]
    assert play(config) == words[n:]


@pytest.mark.parametrize("n", range(len(NAMES)))
def test_a_step_whose_output_was_removed_runs_again(play: Callable[..., Any], tmp_path: Path, n: int) -> None:
    config = Demo(out=tmp_path / "demo")
    play(config)
    step = steps_of(config)[n]
    step.output.unlink()
    assert play(config) == [step.words]


@pytest.mark.parametrize("other", [{"seed": 2}, {"species": 60}, {"epochs": 0.5}])
def test_a_folder_of_other_numbers_is_refused_before_anything_runs(
    play: Callable[..., Any], tmp_path: Path, other: dict[str, Any]
) -> None:
    play(Demo(out=tmp_path / "demo"))
    with pytest.raises(ConfigError, match="holds a demo of other numbers"):
        play(Demo(out=tmp_path / "demo", **other), stop_at=0)


def test_a_demo_folder_may_be_moved(play: Callable[..., Any], tmp_path: Path) -> None:
    play(Demo(out=tmp_path / "demo"))
    shutil.move(tmp_path / "demo", tmp_path / "moved")
    assert play(Demo(out=tmp_path / "moved")) == []


@pytest.mark.parametrize("code", [2, 3])
def test_a_step_that_does_not_end_well_stops_the_demo_and_gets_no_mark(
    biovita: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    monkeypatch.setattr(demo, "call", lambda words: code)
    ran = biovita("demo", "--out", tmp_path / "demo", "--quiet")
    assert ran.code == 2
    assert f"world make --out {tmp_path / 'demo' / 'world'}" in ran.err
    assert f"exit code {code}" in ran.err
    assert not list((tmp_path / "demo").rglob("*.json"))


@pytest.mark.parametrize("quiet", [True, False])
def test_the_steps_may_print_and_only_the_demo_itself_writes_standard_output(
    biovita: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quiet: bool
) -> None:
    def chatter(words: list[str]) -> int:
        sys.stdout.write("table\n")
        sys.stdout.writelines(["more\n"])
        return 0

    monkeypatch.setattr(demo, "call", chatter)
    monkeypatch.setattr(demo, "show", lambda *_: demo.emit({"json": demo.SETTINGS.json}))
    ran = biovita("demo", "--out", tmp_path / "demo", "--json", *(["--quiet"] if quiet else []))
    assert ran.code == 0
    assert json.loads(ran.out) == {"json": True}
    assert ran.err.count("table\nmore\n") == (0 if quiet else len(NAMES))
