"""One fabricated run and one page of it for all tests of the report."""

import numpy as np
import pytest
from fabricated import Run, make_dataset, make_model, make_vectors

from biovita.bench.build import make_bench
from biovita.bench.run import score_bench
from biovita.report.html import write_report


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(5)
    media = make_dataset(folder / "dataset", rng)
    make_model(folder / "model")
    make_bench(folder / "dataset", folder / "bench", seed=1)
    make_vectors(folder / "embeddings", media, folder / "model", rng)
    score_bench(folder / "bench", folder / "embeddings", out=folder / "results.json")
    return Run(folder)


@pytest.fixture(scope="session")
def page(run: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "report.html"
    write_report(out, results=run.results, **run.folders, title="A <b>bold</b> title")
    return out.read_text(encoding="utf-8")
