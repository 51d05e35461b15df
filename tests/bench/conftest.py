"""Made-up datasets, benchmarks and vectors for the scorer's tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from biovita.bench.tasks import LEVELS, MODALITIES, scenarios
from biovita.data.dataset import MEDIA_SCHEMA, TAXA_SCHEMA
from biovita.embed.store import write_embeddings
from biovita.files import write_manifest

CLASSES = ("Aves", "Mammalia", "Amphibia")


def lineage(s: int) -> dict[str, str]:
    """Species s of a regular tree: three species a genus, two genera a family."""
    genus, family = s // 3, s // 6
    return {
        "kingdom": "Animalia",
        "phylum": "Chordata",
        "class": CLASSES[family % 3],
        "order": f"Order{family // 2}",
        "family": f"Family{family}",
        "genus": f"Genus{genus}",
        "species": f"Genus{genus} sp{s}",
        "common_name": f"beast {s}",
    }


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="session")
def make_dataset():
    """Write a dataset folder's tables; species below `n_withheld` are unseen. `edit` may change the media table."""

    def make(folder: Path, n_species: int = 24, n_withheld: int = 12, n_each: int = 4, edit: Any = None) -> Path:
        folder.mkdir(parents=True)
        rows = [
            {
                "media_id": f"world:{modality}-{s}-{i}",
                "modality": modality,
                "source": "world",
                "licence": "CC0-1.0",
                "path": f"media/{modality}/{s}-{i}",
                "split": "test_unseen" if s < n_withheld else ("train" if i == 0 else "test_seen"),
                **lineage(s),
            }
            for s in range(n_species)
            for modality in ("audio", "image")
            for i in range(n_each)
        ]
        media = pl.DataFrame(rows, schema=MEDIA_SCHEMA)
        (media if edit is None else edit(media)).write_parquet(folder / "media.parquet")
        pl.DataFrame({name: [] for name in TAXA_SCHEMA}, schema=TAXA_SCHEMA).write_parquet(folder / "taxa.parquet")
        write_manifest(folder, ["media.parquet", "taxa.parquet"], schema=1, made_up=True)
        return folder

    return make


@pytest.fixture(scope="session")
def make_official():
    """Write a random split in the official layout: ragged pools, ragged groups, repeated ids, integer ids."""

    def make(folder: Path, seed: int, *, n_items: int = 30, n_queries: int = 7, width: int = 12) -> Path:
        rng = np.random.default_rng(seed)
        for level in LEVELS:
            (folder / level).mkdir(parents=True)
        index = {}
        for modality in MODALITIES:
            species = rng.integers(0, 18, n_items) if modality != "text" else np.arange(18)
            rows = [{"id": str(1000 + i), "file_path": f"{modality}/{i}", **lineage(s)} for i, s in enumerate(species)]
            index[modality] = pl.DataFrame(rows)
            columns = ["id", *LEVELS, "class", "common_name"] if modality == "text" else ["id", "file_path", *LEVELS]
            index[modality].select(columns).write_csv(folder / f"{modality}_index.csv")
        for scenario in scenarios("unseen"):
            queries, targets, level = index[scenario.query], index[scenario.target], scenario.level
            groups = {
                name: targets.filter(pl.col(level) == name)["id"].to_list() for name in targets[level].unique().sort()
            }
            asking = queries.filter(pl.col(level).is_in(list(groups)))
            rows = []
            for q in rng.choice(len(asking), min(n_queries, len(asking)), replace=False):
                own = asking[level][int(q)]
                others = [name for name in groups if name != own]
                n = int(rng.integers(0, min(width, len(others)) + 1))
                pool = [str(name) for name in rng.permutation([own, *rng.choice(others, n, replace=False)])]
                lists = []
                for name in pool:
                    some = rng.choice(groups[name], int(rng.integers(1, len(groups[name]) + 1)), replace=True)
                    lists.append([int(item) for item in some])
                rows.append(
                    {
                        "query_id": f"q{len(rows)}",
                        "query_payload_id": asking["id"][int(q)],
                        "task": scenario.direction.upper(),
                        "taxon_level": level,
                        "correct_taxon": own,
                        "candidates_taxa": json.dumps(pool),
                        "candidates_target_ids": json.dumps(lists),
                    }
                )
            pl.DataFrame(rows).write_csv(folder / scenario.file)
        return folder

    return make


@pytest.fixture(scope="session")
def embed():
    """Write audio, image and text vectors for every index below a benchmark folder.

    `vector(modality, level, row)` gives a vector; level is None for sounds and pictures.
    """

    def write(bench: Path, out: Path, vector: Any, *, drop: Any = None, meta: dict[str, str] | None = None) -> Path:
        facts = {"model": "made up", "weights_sha256": "0" * 64, "preprocess": "none", **(meta or {})}
        for modality in MODALITIES:
            index = pl.concat(
                [pl.read_csv(path, infer_schema=False) for path in sorted(bench.rglob(f"{modality}_index.csv"))]
            )
            rows = [
                (row, level)
                for row in index.iter_rows(named=True)
                for level in (LEVELS if modality == "text" else (None,))
                if drop is None or not drop(modality, row["id"])
            ]
            if rows:
                write_embeddings(
                    out / f"{modality}.parquet",
                    ids=[row["id"] for row, _ in rows],
                    modality=modality,
                    embedding=unit(np.array([vector(modality, level, row) for row, level in rows])),
                    level=[level for _, level in rows],
                    **facts,
                )
        return out

    return write


@pytest.fixture(scope="session")
def noisy():
    """Give a model of graded skill: relatives share directions, and noise hides them."""

    def make(noise: float, seed: int = 0, dim: int = 16) -> Any:
        rng = np.random.default_rng(seed)
        known: dict[str, np.ndarray] = {}

        def vector(modality: str, level: str | None, row: dict[str, str]) -> np.ndarray:
            names = [row[rank] for rank in (LEVELS if level is None else LEVELS[LEVELS.index(level) :])]
            for name in names:
                known.setdefault(name, rng.standard_normal(dim))
            return sum(known[name] for name in names) + noise * rng.standard_normal(dim)

        return vector

    return make
