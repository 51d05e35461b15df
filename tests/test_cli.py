"""The table of commands: light to ask, exact in its errors, four exit codes."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tyro

import biovita as package
from biovita import cli, log
from biovita.commands.table import COMMANDS
from biovita.errors import BiovitaError, MediaError

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch",
    "transformers",
    "polars",
    "numpy",
    "pyarrow",
    "PIL",
    "av",
    "soundfile",
    "matplotlib",
    "sklearn",
    "jinja2",
)


def fresh(code: str, *, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run Python code in a new process."""
    return subprocess.run([sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def test_the_overview_names_every_command_and_the_common_flags(biovita: Callable[..., Any]) -> None:
    for words in ((), ("--help",), ("-h",), ("help",)):
        ran = biovita(*words)
        assert ran.code == 0
        assert ran.err == ""
        for name, command in COMMANDS.items():
            assert f"  {name} " in ran.out
            assert command.summary in ran.out
        for flag in ("--json", "--quiet", "--offline", "--version"):
            assert flag in ran.out


def test_a_family_of_commands_lists_its_members(biovita: Callable[..., Any]) -> None:
    for family in {name.split()[0] for name in COMMANDS if " " in name}:
        ran = biovita(family, "--help")
        assert (ran.code, ran.err) == (0, "")
        named = [line.split("  ")[1].strip() for line in ran.out.splitlines() if line.startswith("  ")]
        assert named == [name for name in COMMANDS if name.startswith(f"{family} ")]


def test_the_version_is_that_of_the_package(biovita: Callable[..., Any]) -> None:
    assert biovita("--version").out == f"{package.__version__}\n"
    assert f'version = "{package.__version__}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_explains_itself(biovita: Callable[..., Any], name: str) -> None:
    command = COMMANDS[name]
    module = import_module(f"biovita.commands.{command.module}")
    assert callable(getattr(module, command.function))
    ran = biovita(*name.split(), "--help")
    assert ran.code == 0
    assert f"usage: biovita {name}" in ran.out
    for field in dataclasses.fields(getattr(module, command.schema)):
        positional = tyro.conf.Positional in getattr(field.type, "__metadata__", ())
        flag = f"--{field.name.rstrip('_').replace('_', '-')}"
        assert ("positional arguments" if positional else flag) in ran.out
    assert ran.err == ""


def test_asking_any_command_for_help_loads_nothing_heavy() -> None:
    code = f"""
import contextlib, io, json, sys
from biovita.cli import run
from biovita.commands.table import COMMANDS
found = {{}}
for name in COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        run([*name.split(), "--help"])
    assert f"usage: biovita {{name}}" in out.getvalue()
    found[name] = [heavy for heavy in {HEAVY} if heavy in sys.modules]
print(json.dumps(found))
"""
    done = fresh(code)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: [] for name in COMMANDS}


def test_the_overview_loads_neither_tyro_nor_numpy() -> None:
    code = f"""
import sys
from biovita.cli import run
assert run(["--help"]) == 0
assert not [name for name in ("tyro", "rich", {", ".join(map(repr, HEAVY))}) if name in sys.modules]
"""
    done = fresh(code)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_nothing_until_a_name_is_used() -> None:
    code = f"""
import sys
import biovita
assert not [name for name in {HEAVY} if name in sys.modules]
biovita.Dataset
assert "polars" in sys.modules and "torch" not in sys.modules
biovita.load
assert "torch" in sys.modules
"""
    done = fresh(code)
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_not_public_is_refused_with_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'Encoder'; it offers Archive, Dataset, .*, load"):
        package.Encoder  # noqa: B018


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "'trian' is not a command; did you mean 'train'?"),
        (["xyzzy"], "'xyzzy' is not a command; `biovita --help` lists them"),
        (
            ["data"],
            "'data' is not a command; there are: data records, data build, data check, data verify, data card, "
            "data shard, data export",
        ),
        (
            ["bench", "scroe"],
            "'bench scroe' is not a command; there are: bench make, bench embed, bench score, bench run, "
            "bench compare, bench traits, bench mteb",
        ),
        (["--frobnicate"], "'--frobnicate' is not a command; `biovita --help` lists them"),
    ],
)
def test_an_unknown_command_names_the_near_ones(biovita: Callable[..., Any], words: list[str], said: str) -> None:
    ran = biovita(*words)
    assert ran == type(ran)(2, "", f"biovita: {said}\n")


def test_an_unknown_flag_names_the_near_one_and_exits_with_2(biovita: Callable[..., Any]) -> None:
    ran = biovita("world", "make", "--out", "x", "--seed", "1", "--speceis", "3")
    assert ran.code == 2
    assert "--speceis" in ran.err
    assert "--species INT" in ran.err
    assert not Path("x").exists()


def fake(monkeypatch: pytest.MonkeyPatch, function: Callable[[Any], Any]) -> None:
    """Put a function in the place of `biovita data card`."""
    monkeypatch.setattr(import_module("biovita.commands.dataset"), COMMANDS["data card"].function, function)


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_what_a_command_returns_is_the_exit_code(
    biovita: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, returned: int | None, code: int
) -> None:
    fake(monkeypatch, lambda _: returned)
    assert biovita("data", "card", "folder").code == code


@pytest.mark.parametrize("error", [BiovitaError("a.csv: no column 'path'"), MediaError("corrupt", "b.wav")])
def test_a_users_error_is_one_line_and_exit_2(
    biovita: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: BiovitaError
) -> None:
    def stop(_: object) -> None:
        raise error

    fake(monkeypatch, stop)
    ran = biovita("data", "card", "folder")
    assert (ran.code, ran.out, ran.err) == (2, "", f"biovita: {error}\n")


def test_an_interruption_exits_with_130_and_says_how_to_go_on(
    biovita: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    fake(monkeypatch, stop)
    ran = biovita("data", "card", "folder")
    assert ran.code == 130
    assert "run the same command again" in ran.err


def test_a_bug_keeps_its_traceback(biovita: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        biovita("data", "card", "folder")


def test_common_flags_may_stand_anywhere_and_do_not_reach_the_command(
    biovita: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    fake(monkeypatch, lambda config: seen.append((config.dataset, log.SETTINGS.json, log.SETTINGS.quiet)))
    biovita("--json", "data", "card", "--quiet", "folder")
    biovita("data", "card", "folder")
    assert seen == [(Path("folder"), True, True), (Path("folder"), False, False)]


def test_offline_forbids_the_model_hub_before_anything_heavy_loads(
    biovita: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    fake(monkeypatch, lambda _: None)
    biovita("data", "card", "folder", "--offline")
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_reader_that_goes_away_is_no_bug() -> None:
    code = "import sys; sys.argv = ['biovita', '--help']; from biovita.cli import main; sys.exit(main())"
    read, write = os.pipe()
    os.close(read)
    try:
        done = fresh(code, stdout=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "biovita", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{package.__version__}\n"


def test_the_reference_of_the_command_line_is_what_the_commands_say() -> None:
    if not (ROOT / "docs" / "cli.md").is_file():
        return
    page = (ROOT / "docs" / "cli.md").read_text()
    titles = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    assert titles == ["biovita", *(f"biovita {name}" for name in COMMANDS)]
    assert cli.overview() in page
