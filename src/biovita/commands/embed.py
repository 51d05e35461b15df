"""`biovita embed`: files or names to one embedding file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from biovita.config import describe_run
from biovita.errors import ConfigError
from biovita.files import write_json
from biovita.log import SETTINGS, emit, say, warn


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Embed recordings or photos (files of one kind), or the names in a text file."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Recordings or photos; every one is checked first, and a bad one never becomes a vector."""
    model: Path
    """Model folder or hub name."""
    out: Path
    """Parquet file to write (docs/data.md describes the columns)."""
    text: Path | None = None
    """A text file with one name a line, instead of media files."""
    window: Literal["onset", "centre", "windows"] = "onset"
    """Which 10 s stand for a recording: from its onset, its middle, or the mean over all."""


def run_embed(config: Embed) -> int:
    """Write one row an item; bad files are listed, and the exit code is 3."""
    if bool(config.files) == bool(config.text):
        raise ConfigError("give either media files or --text FILE")
    from biovita.embed.extract import embed_media, embed_names
    from biovita.media.check import check_files
    from biovita.models.hub import load

    if config.text and not config.text.is_file():
        raise ConfigError(f"{config.text}: no such file; --text wants one name a line")
    encoder = load(str(config.model))
    n_bad = 0
    if config.text:
        lines = config.text.read_text(encoding="utf-8").splitlines()
        names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
        embed_names(encoder, config.out, ids=names, texts=names, levels=["name"] * len(names), window=config.window)
        n = len(names)
    else:
        good = []
        for verdict in check_files(config.files):
            if verdict.verdict == "ok":
                good.append(verdict)
            else:
                n_bad += 1
                warn(f"{verdict.path}: not embedded: {verdict.reason} ({verdict.detail})")
        kinds = {verdict.modality for verdict in good}
        if not good:
            raise ConfigError(f"{config.out}: not written, none of the {n_bad} files can be used; reasons stand above")
        if len(kinds) > 1:
            raise ConfigError(
                f"{config.out}: one file holds one kind, these are {', '.join(sorted(kinds))}; split them"
            )
        paths = [Path(verdict.path) for verdict in good]
        ids = [str(path) for path in paths]
        embed_media(encoder, config.out, ids=ids, paths=paths, modality=kinds.pop(), window=config.window)
        n = len(paths)
    write_json(config.out.with_suffix(".run.json"), describe_run(config))
    if SETTINGS.json:
        emit({"out": str(config.out), "n_vectors": n, "n_refused": n_bad})
    say(f"{config.out}: {n:,} vectors" + (f", {n_bad:,} files refused" if n_bad else ""))
    return 3 if n_bad else 0
