"""Defaults < run file < flags, with one schema and one checker; writes run.json.

A run file (TOML) is spelled as flags and placed before the user's own flags, so tyro checks both by the same
dataclass and the later one wins.
"""

import dataclasses
import difflib
import os
import platform
import subprocess
import tomllib
from collections.abc import Sequence
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar, get_origin

import tyro

from biovita.errors import ConfigError
from biovita.files import write_json

C = TypeVar("C")

LOOKS = (tyro.conf.FlagConversionOff, tyro.conf.PositionalMetavarFromFieldName)  # of flags and of --help

_words: list[str] = []  # of the command that runs, as typed or as the demo types it; for run.json


def parse(schema: type[C], argv: Sequence[str], *, prog: str, description: str = "") -> C:
    """Turn words of the command line into a frozen dataclass.

    Args:
        schema: the command's dataclass.
        argv: the words after the command; a leading word that ends in .toml names the run file.
        prog: the command as typed, for usage lines.
        description: one line for --help.

    Raises:
        ConfigError: the run file is missing, is not TOML, or holds an unknown key.
        SystemExit: tyro printed help (0) or refused a flag (2).
    """
    words = list(argv)
    _words[:] = [*prog.split()[1:], *words]
    if words and words[0].endswith(".toml"):
        n = next((n for n, word in enumerate(words[1:], 1) if word.startswith("-")), len(words))
        words = [*words[1:n], *flags_of(read_run_file(Path(words[0]), schema), schema), *words[n:]]
    words = with_values(words, switches_of(schema))
    return tyro.cli(schema, prog=prog, args=words, description=description, config=LOOKS)


def read_run_file(path: Path, schema: type) -> dict[str, Any]:
    """Read a TOML run file and refuse keys that the command does not have."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such run file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    check_keys(table, schema, path=path)
    return table


def check_keys(table: dict[str, Any], schema: type, *, path: Path, prefix: str = "") -> None:
    """Refuse an unknown key and name the nearest good one."""
    fields = {field.name.rstrip("_"): field for field in dataclasses.fields(schema)}
    for key, value in table.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known keys: {', '.join(sorted(fields))}"
            raise ConfigError(f"{path}: unknown key '{prefix}{key}'; {hint}")
        inner = fields[key].type
        if tyro.conf.Positional in getattr(inner, "__metadata__", ()):
            raise ConfigError(f"{path}: '{key}' is given on the command line, not in a run file")
        is_group, is_table = dataclasses.is_dataclass(inner), get_origin(inner) is dict
        if (is_group or is_table) != isinstance(value, dict):
            kind = "a table" if is_group or is_table else "one value"
            raise ConfigError(f"{path}: '{prefix}{key}' is {kind}, not {value!r}")
        if is_group and isinstance(inner, type):
            check_keys(value, inner, path=path, prefix=f"{prefix}{key}.")


def flags_of(table: dict[str, Any], schema: type, prefix: str = "") -> list[str]:
    """Spell a TOML table as flags: groups become dotted names, lists and tables of free keys become several words."""
    types = {field.name.rstrip("_"): field.type for field in dataclasses.fields(schema)}
    words: list[str] = []
    for key, value in table.items():
        name, inner = f"{prefix}{key}".replace("_", "-"), types[key]
        if isinstance(value, dict) and isinstance(inner, type):
            words += flags_of(value, inner, f"{name}.")
        elif isinstance(value, dict):
            words += [f"--{name}", *(str(word) for pair in value.items() for word in pair)]
        elif isinstance(value, list):
            words += [f"--{name}", *(str(item) for item in value)]
        else:
            words.append(f"--{name}={value}")  # one word, so that a value may begin with a dash
    return words


def switches_of(schema: type, prefix: str = "") -> set[str]:
    """Name the flags that are true or false."""
    found = set()
    for field in dataclasses.fields(schema):
        name = f"{prefix}{field.name.rstrip('_')}".replace("_", "-")
        if dataclasses.is_dataclass(field.type) and isinstance(field.type, type):
            found |= switches_of(field.type, f"{name}.")
        elif field.type is bool:
            found.add(f"--{name}")
    return found


def with_values(words: Sequence[str], switches: set[str]) -> list[str]:
    """Let a switch mean True unless what follows says otherwise; a file may follow it."""
    found = []
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        is_said = following.lower() in ("true", "false")
        found += [word, "True"] if word in switches and not is_said else [word]
    return found


def plain(value: Any) -> Any:
    """Turn a config into JSON-able values; paths become strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def describe_run(config: Any, **facts: Any) -> dict[str, Any]:
    """Say what ran: resolved config, version, commit, words typed, machine; `facts` are added."""
    return {
        "config": plain(config),
        "command": type(config).__name__,
        "version": version("biovita"),
        "commit": commit(),
        "argv": list(_words),
        "python": platform.python_version(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "n_cpus": os.cpu_count()},
        **facts,
    }


def write_run(folder: Path, config: Any, **facts: Any) -> None:
    """Write run.json beside an output."""
    write_json(folder / "run.json", describe_run(config, **facts))


def commit() -> str | None:
    """Return the git commit of this source tree, or None where it is installed without one."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:  # no git on this machine
        return None
    inside = done.returncode == 0 and (here.parents[1] / "pyproject.toml").is_file()
    return done.stdout.strip() if inside else None
