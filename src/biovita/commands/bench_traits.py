"""`biovita bench traits`: which traits can be read from frozen vectors?"""

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from biovita.log import SETTINGS, emit, say


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Probe the 34 traits of a dataset's species from a model's stored vectors."""

    dataset: Positional[Path]
    """The dataset folder."""
    embeddings: Path
    """Folder with some of audio.parquet, image.parquet and text.parquet, as `biovita embed` writes them."""
    out: Path
    """The results file (JSON)."""
    seed: int = 1
    """Of the folds; the same seed and inputs give the same results."""


def run_traits(config: Traits) -> None:
    """Run `biovita bench traits`."""
    from biovita.bench.traits import probe_traits, text_table

    results = probe_traits(config.dataset, config.embeddings, out=config.out, seed=config.seed)
    if SETTINGS.json:
        emit(results)
    else:
        sys.stdout.write(text_table(results) + "\n")
    say(f"{config.out}: {len(results['splits']['genus']['traits'])} traits, {len(results['left_out'])} left out")
