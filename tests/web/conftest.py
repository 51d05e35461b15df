"""A model, an archive and results to serve: in this process for single requests, in a child for a real server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient
from served import HERE, Served, serving

from biovita.files import write_json
from biovita.report.inputs import DIRECTIONS, LEVELS


@pytest.fixture(scope="session")
def media(made_up: Path) -> dict[str, list[Path]]:
    """Recordings, the longest first, and pictures of the made-up dataset."""
    table = pl.read_parquet(made_up / "media.parquet").sort("duration_s", descending=True)
    return {kind: [made_up / path for path in table.filter(modality=kind)["path"]] for kind in ("audio", "image")}


@pytest.fixture(scope="session")
def archive_folder(once: Callable[..., Path], made_up: Path, model_folder: Path) -> Path:
    """An archive of the made-up dataset. Labels may be added to it."""

    def make(home: Path) -> None:
        from biovita.embed.extract import How, facts_of
        from biovita.models.hub import load
        from biovita.search.archive import About, Archive, Entry

        encoder = load(model_folder)
        facts = facts_of(encoder, How(window="windows"))
        archive = Archive.create(home / "archive", facts, width=encoder.embed_text(["x"]).shape[1])
        table = pl.read_parquet(made_up / "media.parquet").filter(pl.col("modality").is_in(["audio", "image"]))
        known = ("duration_s", "recorded_at", "latitude_deg", "longitude_deg", "licence", "rights_holder", "species")
        entries = []
        for row in table.group_by("modality", maintain_order=True).head(12).iter_rows(named=True):
            path = made_up / row["path"]
            is_sound = row["modality"] == "audio"
            vectors = encoder.embed_audio([path], window="windows") if is_sound else encoder.embed_image([path])
            about = About(**{name: row[name] for name in known})
            entries.append(
                Entry(path=str(path), sha256=row["sha256"], modality=row["modality"], vectors=vectors, about=about)
            )
        archive.add(entries)

    return once("web_archive", make) / "archive"


@pytest.fixture(scope="session")
def results_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of 36 scenarios, made up; the last one is no better than chance."""
    rows = []
    for split in ("seen", "unseen"):
        for level in LEVELS:
            for n, direction in enumerate(DIRECTIONS):
                share = 0.05 * (n + 1) if (split, n) != ("unseen", 5) else 0.01
                tops = {"top1": share, "top5": 2 * share}
                rows.append(
                    {
                        **{"direction": direction, "level": level, "split": split, "n_queries": 40, "n_skipped": 0},
                        **{"n_candidates": 100, "chance": {"top1": 0.01, "top5": 0.05}, **tops},
                        "ci95": {name: [max(0.0, value - 0.02), value + 0.04] for name, value in tops.items()},
                    }
                )
    path = tmp_path_factory.mktemp("results") / "results.json"
    write_json(path, {"schema": 1, "scenarios": rows, "run": {"model": "untrained", "ties": "against"}})
    return path


@pytest.fixture(scope="session")
def shown(encoder: Any, model_folder: Path, archive_folder: Path, results_file: Path) -> dict[str, Any]:
    """What the pages show: an identifier, an archive, results."""
    from biovita.identify.answer import Identifier
    from biovita.identify.labels import read_labels
    from biovita.models.hub import load
    from biovita.report.inputs import read_inputs
    from biovita.search.archive import Archive

    loaded = load(model_folder)
    return {
        "identifier": Identifier(loaded, read_labels(loaded)),
        "archive": Archive.open(archive_folder),
        "results": read_inputs(results_file),
    }


@pytest.fixture
def web(shown: dict[str, Any]) -> Iterator[Callable[..., TestClient]]:
    """Make a client of an application in this process: `web(token=...)`; without `bare`, it shows all there is."""
    from biovita.web.app import create_app
    from biovita.web.settings import Settings

    opened = []

    def make(*, bare: bool = False, **limits: Any) -> TestClient:
        settings = Settings(**{**({} if bare else shown), "requests_per_min": 10**9, **limits})
        client = TestClient(create_app(settings), base_url=HERE, follow_redirects=False)
        opened.append(client.__enter__())
        return client

    yield make
    for client in opened:
        client.__exit__()


@pytest.fixture(scope="session")
def all_of_it(model_folder: Path, archive_folder: Path, results_file: Path) -> list[object]:
    """The words that make the command line show all pages."""
    return ["--model", model_folder, "--archive", archive_folder, "--results", results_file]


@pytest.fixture(scope="session")
def served(all_of_it: list[object]) -> Iterator[Served]:
    """A real server that shows all pages."""
    with serving(*all_of_it) as server:
        yield server
