"""`biovita world make`: a made-up biosphere, for demos, tests and scale."""

import os
from dataclasses import dataclass
from pathlib import Path

from biovita import log


@dataclass(frozen=True, kw_only=True)
class Make:
    """Make a biosphere of invented animals: photos, calls, names and traits."""

    out: Path
    """Folder to make. A finished world is left alone, an unfinished one is continued."""
    species: int = 400
    """How many species: 5 or more."""
    recordings: int = 6
    """Recordings a species, about: from two fewer to one more."""
    images: int = 6
    """Photos a species, about: from two fewer to one more."""
    seed: int
    """The same seed gives the same world, byte by byte."""
    workers: int = 0
    """Processes; 0 takes one for each processor. The world does not depend on it."""
    media: bool = True
    """Whether to make the files; False makes only the tables, for tests at scale."""


def run_make(config: Make) -> int:
    """Make the world and say what is in it."""
    from biovita.world.publish import make_world

    manifest = make_world(
        config.out,
        n_species=config.species,
        n_recordings=config.recordings,
        n_images=config.images,
        seed=config.seed,
        workers=config.workers or os.cpu_count() or 1,
        media=config.media,
    )
    counts = manifest["counts"]
    log.say(
        f"{config.out}: {counts['species']:,} made-up species, {counts.get('audio_files', 0):,} recordings,"
        f" {counts.get('image_files', 0):,} photos"
    )
    if log.SETTINGS.json:
        log.emit({"out": str(config.out), **manifest})
    return 0
