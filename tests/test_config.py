"""Defaults < run file < flags, one schema and one checker for all three."""

import json
import subprocess
import tomllib
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

import biovita
from biovita.commands.table import COMMANDS
from biovita.config import commit, describe_run, flags_of, parse, plain, read_run_file, write_run
from biovita.errors import ConfigError

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "src" / "biovita" / "runs"


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A group."""

    rate: float = 0.1
    """How fast."""
    schedule: Literal["constant", "cosine"] = "constant"
    """How it ends."""
    trained: tuple[str, ...] = ("a.*",)
    """What trains."""
    masked: bool = True
    """Whether to mask."""
    rates: dict[str, float] = field(default_factory=dict)
    """By pattern."""

    def __post_init__(self) -> None:
        if self.rate == 0:
            raise ConfigError("rate is 0; it must be above")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A command."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """What to read."""
    out: Path
    """Where to."""
    from_: Annotated[str, tyro.conf.arg(name="from")] = "tiny"
    """Where from."""
    n_steps: int = 3
    """How many."""
    labels: Path | None = None
    """Which."""
    inner: Inner = field(default_factory=Inner)
    """The group."""


def run_file(folder: Path, text: str) -> str:
    (folder / "run.toml").write_text(text, encoding="utf-8")
    return str(folder / "run.toml")


def read(*words: str) -> Outer:
    return parse(Outer, words, prog="biovita outer")


def test_flags_beat_the_run_file_and_the_run_file_beats_defaults(tmp_path: Path) -> None:
    path = run_file(
        tmp_path, 'out = "file"\nn_steps = 4\n[inner]\nrate = 1e-4\ntrained = ["b", "c.*"]\nmasked = false\n'
    )
    by_file = read(path)
    assert by_file == Outer(out=Path("file"), n_steps=4, inner=Inner(rate=1e-4, trained=("b", "c.*"), masked=False))
    by_flag = read(path, "--n-steps", "5", "--inner.trained", "d", "--inner.masked", "True")
    assert by_flag == Outer(out=Path("file"), n_steps=5, inner=Inner(rate=1e-4, trained=("d",), masked=True))


def test_without_a_run_file_the_defaults_of_the_dataclass_hold() -> None:
    assert read("--out", "o") == Outer(out=Path("o"))


def test_words_that_python_cannot_use_as_names_are_keys_all_the_same(tmp_path: Path) -> None:
    assert read(run_file(tmp_path, 'out = "o"\nfrom = "models/stage1"\n')).from_ == "models/stage1"


def test_positional_words_follow_the_run_file(tmp_path: Path) -> None:
    assert read(run_file(tmp_path, 'out = "o"\n'), "a.wav", "b.toml").files == (Path("a.wav"), Path("b.toml"))


def test_a_key_that_only_the_command_line_takes_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'files' is given on the command line"):
        read(run_file(tmp_path, 'out = "o"\nfiles = ["a.wav", "b.wav"]\n'))


@pytest.mark.parametrize("value", ["-started-with-a-dash", "two words", "Höhle", "a=b", ""])
def test_every_text_of_a_run_file_arrives_as_it_is(tmp_path: Path, value: str) -> None:
    assert read(run_file(tmp_path, f'out = "o"\nfrom = "{value}"\n')).from_ == value


def test_an_empty_list_is_an_empty_tuple(tmp_path: Path) -> None:
    assert read(run_file(tmp_path, 'out = "o"\n[inner]\ntrained = []\n')).inner.trained == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n_stepps = 4", "unknown key 'n_stepps'; did you mean 'n_steps'?"),
        ("n-steps = 4", "unknown key 'n-steps'; did you mean 'n_steps'?"),
        ("[inner]\nmaskd = 1", "unknown key 'inner.maskd'; did you mean 'inner.masked'?"),
        ("[iner]\nrate = 1.0", "unknown key 'iner'; did you mean 'inner'?"),
        ("xyz = 1", "unknown key 'xyz'; known keys: files, from, inner, labels, n_steps, out"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_named(tmp_path: Path, text: str, said: str) -> None:
    path = run_file(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        read(path, "--out", "o")
    assert str(error.value) == f"{path}: {said}"


@pytest.mark.parametrize("text", ["out = ", "= 3", "[inner", "a = 1\na = 2", "out = 'o'\x00"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, text: str) -> None:
    path = run_file(tmp_path, text)
    with pytest.raises(ConfigError, match="not valid TOML") as error:
        read(path)
    assert str(error.value).startswith(path)


def test_a_run_file_in_another_encoding_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes('out = "Höhle"\n'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"run\.toml"):
        read(str(tmp_path / "run.toml"))


def test_a_missing_run_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such run file"):
        read(str(tmp_path / "nowhere.toml"))


def test_a_folder_in_place_of_a_run_file_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.toml"):
        read(str(tmp_path / "folder.toml"))


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ('n_steps = "many"', "--n-steps"),
        ("n_steps = 1.5", "--n-steps"),
        ('[inner]\nschedule = "linear"', "--inner.schedule"),
    ],
)
def test_a_wrong_value_of_the_run_file_is_refused_like_a_wrong_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, flag: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        read(run_file(tmp_path, text), "--out", "o")
    assert stop.value.code == 2
    assert flag in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"), [("inner = 3", "'inner' is a table"), ("[n_steps]\nx = 1", "'n_steps' is one value")]
)
def test_a_value_in_place_of_a_table_is_refused_and_so_is_the_reverse(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(run_file(tmp_path, text), "--out", "o")


def test_a_broken_law_between_fields_reaches_the_user_as_our_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rate is 0"):
        read(run_file(tmp_path, 'out = "o"\n[inner]\nrate = 0\n'))


def test_a_table_becomes_flags_in_its_own_order() -> None:
    table = {"out": "o", "inner": {"rate": 1e-4, "trained": ["x", "y"], "rates": {"a_b.*": 2.0, "c": 1}}, "n_steps": 3}
    words = ["--out=o", "--inner.rate=0.0001", "--inner.trained", "x", "y", "--inner.rates", "a_b.*", "2.0", "c", "1"]
    assert flags_of(table, Outer) == [*words, "--n-steps=3"]


def test_a_table_of_free_keys_is_read_from_the_run_file_and_from_flags(tmp_path: Path) -> None:
    path = run_file(tmp_path, '[inner.rates]\n"a_b.*" = 2e-5\n')
    assert read(path, "--out", "o").inner.rates == {"a_b.*": 2e-5}
    assert read(path, "--out", "o", "--inner.rates", "d.*", "3").inner.rates == {"d.*": 3.0}
    with pytest.raises(ConfigError, match=r"'inner.rates' is a table, not 3"):
        read(run_file(tmp_path, "[inner]\nrates = 3"), "--out", "o")


def test_a_switch_alone_means_true(tmp_path: Path) -> None:
    for words in (("--inner.masked",), ("--inner.masked", "True"), ("--inner.masked", "--n-steps", "3")):
        assert read(run_file(tmp_path, "[inner]\nmasked = false"), "--out", "o", *words).inner.masked
    assert not read(run_file(tmp_path, ""), "--out", "o", "--inner.masked", "False").inner.masked


def test_what_ran_is_written_in_plain_values(tmp_path: Path) -> None:
    config = Outer(out=Path("o"), inner=Inner(trained=("x",)))
    write_run(tmp_path, config, seed_reason="given")
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["config"] == plain(config)
    assert run["config"]["out"] == "o"
    assert run["config"]["inner"]["trained"] == ["x"]
    assert run["command"] == "Outer"
    assert run["version"] == biovita.__version__
    assert run["seed_reason"] == "given"
    assert {"argv", "commit", "machine", "python"} <= set(run)


def test_the_commit_is_that_of_this_source_tree() -> None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert commit() == (done.stdout.strip() if done.returncode == 0 else None)
    assert describe_run(Outer(out=Path("o")))["commit"] == commit()


def shipped() -> list[Path]:
    return sorted(RUNS.rglob("*.toml"))


def test_there_are_shipped_run_files() -> None:
    assert shipped()


@pytest.mark.parametrize("path", shipped(), ids=lambda path: str(path.relative_to(RUNS)))
def test_every_shipped_run_file_is_one_of_its_command(path: Path) -> None:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    command = COMMANDS["train" if "recipe" in table else "data build"]
    schema = getattr(import_module(f"biovita.commands.{command.module}"), command.schema)
    if "recipe" not in table:
        assert parse(schema, [str(path)], prog="biovita data build").sources == tuple(table["sources"])
        return
    config = parse(schema, [str(path), "--data", "d", "--out", "o"], prog="biovita train")
    for key, value in read_run_file(path, schema)["recipe"].items():
        assert plain(getattr(config.recipe, key)) == value
    assert config.recipe.stage == path.stem.removesuffix("_paper")
