"""`biovita report`: one HTML page about a scored run."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from biovita.errors import ConfigError
from biovita.log import SETTINGS, duration, emit, say


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one self-contained HTML page about a results file; each further input adds sections."""

    results: Positional[Path]
    """results.json of `biovita bench score`; the predictions file beside it is read too."""
    out: Path
    """The HTML file to write."""
    model: Path | None = None
    """Model folder: adds training curves, size and recipe."""
    dataset: Path | None = None
    """Dataset folder: adds the gallery and the data card; default: the one that the benchmark names, if it is there."""
    bench: Path | None = None
    """Benchmark folder: adds what wrong answers drawn at random would be."""
    embeddings: Path | None = None
    """Folder with audio.parquet, image.parquet and text.parquet: adds the map of the joint space."""
    title: str = "BioVITA report"
    """Heading of the page."""
    seed: int = 7
    """Of the gallery's draw and of the map; the same seed and inputs give the same page."""


def run_report(config: Report) -> None:
    """Write the page."""
    if config.out.is_dir():
        raise ConfigError(f"--out {config.out}: is a folder; name the HTML file to write")
    import time

    from biovita.report.html import write_report

    started = time.monotonic()
    size_bytes = write_report(
        config.out,
        results=config.results,
        model_folder=config.model,
        dataset_folder=config.dataset,
        bench_folder=config.bench,
        embeddings_folder=config.embeddings,
        title=config.title,
        seed=config.seed,
    )
    say(f"{config.out}: {size_bytes / 1e6:.1f} MB in {duration(time.monotonic() - started)}")
    if SETTINGS.json:
        emit({"out": str(config.out), "size_bytes": size_bytes})
