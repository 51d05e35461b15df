"""A benchmark folder from a dataset folder: all 36 scenarios, from one seed.

1. The items of a split are the sounds and pictures of `test_seen`, or of the withheld species (`test_unseen`).
2. Every sound or picture whose taxon has samples in the other modality is a query; text asks once a taxon.
3. The pool of a query is 100 taxa: its own, at a random place, and others drawn evenly, without replacement, from the
   taxa that have samples. Where there are fewer taxa the pool is all of them, and the manifest says how many.
4. A candidate stands with all its samples. At genus and family level these are the samples of all its species, the
   query's own species among them, as in the release; in text, a name stands once for each of its species.

Three rules may differ (`Rules`): as the paper says, the match may be another species of the query's genus or family;
the others in a pool may be its relatives; every class may ask equally often.

Each scenario draws from a stream of its own over sorted tables, so its content depends on seed and dataset alone.
"""

import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from biovita.bench.names import LANGUAGE
from biovita.bench.official import join_lists, join_names, write_csv
from biovita.bench.slices import DURATION, RECORDINGS, SOURCE
from biovita.bench.tasks import DIRECTIONS, LEVELS, SPLITS, Modality, Rules, Scenario, scenarios
from biovita.data.dataset import Dataset
from biovita.errors import BenchError
from biovita.files import MANIFEST, read_manifest, sha256_file, sync_folder, write_manifest
from biovita.log import progress, say, warn

PURPOSE_POOL = 70
PURPOSE_BALANCE = 72
N_CANDIDATES = 100


def make_bench(
    dataset: Path, out: Path, *, seed: int, n_candidates: int = N_CANDIDATES, rules: Rules | None = None
) -> dict[str, Any]:
    """Build the benchmark folder and return its manifest.

    Args:
        dataset: a finished dataset folder.
        out: the new folder; it appears only when it is complete.
        seed: of the pools; the same seed and dataset give the same bytes.
        n_candidates: taxa in a pool, where there are as many.
        rules: of the pools and queries; None for those of the release.

    Raises:
        BenchError: a split has no sound, no picture, or no taxon with both; or `out` holds something already.
    """
    if n_candidates < 2:
        raise BenchError(f"--candidates {n_candidates}: a pool needs at least 2 taxa")
    dataset, out = Path(dataset), Path(out)
    rules = rules or Rules()
    source = Dataset.open(dataset)
    asked = {
        "seed": seed,
        "n_candidates": n_candidates,
        "dataset_sha256": sha256_file(dataset / MANIFEST),
    }
    usual, chosen = asdict(Rules()), asdict(rules)
    asked |= {rule: value for rule, value in chosen.items() if value != usual[rule]}
    if (out / MANIFEST).is_file() and (asked | chosen).items() <= (usual | (there := read_manifest(out))).items():
        say(f"{out}: this benchmark is there already")
        return there
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BenchError(f"{out}: already there and not empty; choose a new folder, or remove it first")
    media = source.media
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    facts: dict[str, Any] = {"splits": {}, "scenarios": {}}
    species = media["species"].unique().sort().to_list()
    text_ids = dict(zip(species, slugs(species), strict=True))
    names = names_of(source.taxa)
    orders = dict(media.sort("media_id").select("species", pl.col("order").fill_null("")).iter_rows())
    for split in SPLITS:
        try:
            indices = make_indices(media, split, text_ids)
            indices["text"] = indices["text"].join(names, on="species", how="left", maintain_order="left")
            for modality, index in indices.items():
                write_csv(part / split / f"{modality}_index.csv", index)
            facts["splits"][split] = {f"n_{modality}": len(index) for modality, index in indices.items()}
            for scenario in progress(scenarios(split), f"making {split}", unit="scenarios"):
                task, pool = make_task(
                    scenario, indices, seed=seed, n_candidates=n_candidates, rules=rules, orders=orders
                )
                facts["scenarios"][str(scenario)] = {"n_queries": len(task), "n_candidates": pool}
                write_csv(part / split / scenario.file, task)
        except BenchError as error:
            raise BenchError(f"{dataset}: {error}") from None
    small = [name for name, counts in facts["scenarios"].items() if counts["n_candidates"] < n_candidates]
    if small:
        least = min(counts["n_candidates"] for counts in facts["scenarios"].values())
        warn(
            f"{out}: {len(small)} of {len(facts['scenarios'])} scenarios have pools of fewer than {n_candidates} taxa "
            f"(down to {least}), because the dataset has no more; chance is higher there"
        )
    manifest = write_manifest(
        part,
        sorted(path.relative_to(part).as_posix() for path in part.rglob("*.csv")),
        schema=1,
        kind="bench",
        **asked,
        dataset=os.path.relpath(dataset.resolve(), out.resolve()),
        made_up=bool(source.manifest.get("made_up")),
        own_species_counts=rules.protocol == "any",
        **facts,
    )
    part.replace(out)
    sync_folder(out.parent)
    return manifest


def names_of(taxa: pl.DataFrame) -> pl.DataFrame:
    """List the common names of each species, a column a language that any species has a name in: `common_name_de`."""
    spoken = [json.loads(names or "{}") for names in taxa["common_names"]]
    languages = sorted({language for names in spoken for language in names})
    columns = {f"{LANGUAGE}{language}": [names.get(language) for names in spoken] for language in languages}
    return pl.DataFrame({"species": taxa["species"], **columns}, schema_overrides=dict.fromkeys(columns, pl.String))


def make_indices(media: pl.DataFrame, split: str, text_ids: dict[str, str]) -> dict[Modality, pl.DataFrame]:
    """List the items of one split, sorted by id; text has one item a species, sorted by species.

    Behind the columns of the release stand those that `bench.slices` and `bench.names` read.

    Args:
        media: the dataset's media table.
        split: seen or unseen.
        text_ids: id of the name of each species.

    Raises:
        BenchError: the split has no sound or no picture.
    """
    rows = media.filter(pl.col("split") == f"test_{split}").with_columns(pl.col("class", *LEVELS).fill_null(""))
    indices: dict[Modality, pl.DataFrame] = {}
    for modality in ("audio", "image"):
        items = rows.filter(pl.col("modality") == modality)
        if len(items) == 0:
            raise BenchError(
                f"split test_{split} has no {modality} files, so half its scenarios cannot be made; add {modality} "
                + ("of test species" if split == "seen" else "of withheld species, or withhold more species")
            )
        facts = [SOURCE, DURATION] if modality == "audio" else [SOURCE]
        indices[modality] = (
            items.rename({"media_id": "id", "path": "file_path"}).sort("id").select("id", "file_path", *LEVELS, *facts)
        )
    species = rows.sort("species", "media_id").group_by("species", maintain_order=True).first()
    trained = media.filter((pl.col("split") == "train") & (pl.col("modality") == "audio"))["species"].value_counts()
    counts = dict(trained.iter_rows())
    indices["text"] = species.select(
        pl.col("species").replace_strict(text_ids).alias("id"),
        *LEVELS,
        "class",
        pl.col("common_name").fill_null(""),
        pl.col("order").fill_null(""),
        pl.col("species").replace_strict(counts, default=0, return_dtype=pl.Int64).alias(RECORDINGS),
    )
    return indices


def make_task(
    scenario: Scenario,
    indices: dict[Modality, pl.DataFrame],
    *,
    seed: int,
    n_candidates: int,
    rules: Rules,
    orders: dict[str, str],
) -> tuple[pl.DataFrame, int]:
    """Draw the pools of one scenario.

    Args:
        scenario: what is asked.
        indices: the items of its split.
        seed: of the pools.
        n_candidates: taxa in a pool, where there are as many.
        rules: of the pools and queries.
        orders: order of each species, empty where it is not known.

    Returns:
        the task file as a table, and the number of candidates in each pool.

    Raises:
        BenchError: no taxon has both a query and a sample.
    """
    level = scenario.level
    stream = [SPLITS.index(scenario.split), LEVELS.index(level), DIRECTIONS.index(scenario.direction)]
    targets = _ids_of_taxa(indices[scenario.target], level)
    taxa = list(targets)
    place = {name: i for i, name in enumerate(taxa)}
    is_other = rules.protocol == "other-species" and level != "species"
    own = _ids_of_taxa(indices[scenario.target], "species") if is_other else {}
    queries = indices[scenario.query].filter(pl.col(level).is_in(taxa))
    if is_other:
        n_left = [len(targets[name]) - len(own.get(one, ())) for name, one in queries.select(level, "species").rows()]
        queries = queries.filter(pl.Series(n_left, dtype=pl.Int64) > 0)
        if len(queries) == 0:
            raise BenchError(
                f"split test_{scenario.split}: no {level} has {scenario.query} of one species and {scenario.target} of "
                f"another, so {scenario} would be empty; add species, or choose --protocol any"
            )
    if scenario.query == "text":
        queries = queries.unique(level, keep="first", maintain_order=True)
    if len(queries) == 0:
        raise BenchError(
            f"split test_{scenario.split}: no {level} has both {scenario.query} and {scenario.target}, so {scenario} "
            "would be empty; add files of one species in both"
        )
    if rules.balance == "class":
        queries = _balanced(
            queries, _class_of(queries, indices["text"]), np.random.default_rng([seed, PURPOSE_BALANCE, *stream])
        )
    names = [join_names([name]).removeprefix("[").removesuffix("]") for name in taxa]
    groups = [join_names(ids) for ids in targets.values()]
    n = min(n_candidates, len(taxa))
    rng = np.random.default_rng([seed, PURPOSE_POOL, *stream])
    kin = _kin(indices["text"], level, taxa, orders) if rules.distractors == "hard" else None
    pools = [_pool(rng, place[name], len(taxa), n, kin) for name in queries[level]]
    lists = [[groups[t] for t in pool] for pool in pools]
    if is_other:
        for name, species, pool, samples in zip(queries[level], queries["species"], pools, lists, strict=True):
            others = set(targets[name]).difference(own.get(species, ()))
            samples[int(np.flatnonzero(pool == place[name])[0])] = join_names(sorted(others))
    tag = scenario.direction.upper()
    task = pl.DataFrame(
        {
            "query_id": [f"{tag}_{level}_{i:06d}" for i in range(len(queries))],
            "query_payload_id": queries["id"],
            "task": [tag] * len(queries),
            "taxon_level": [level] * len(queries),
            "correct_taxon": queries[level],
            "candidates_taxa": [join_lists([names[t] for t in pool]) for pool in pools],
            "candidates_target_ids": [join_lists(samples) for samples in lists],
            "taxon_class": _class_of(queries, indices["text"]),
        }
    )
    return task, n


def slugs(names: list[str]) -> list[str]:
    """Turn names into ids of lower-case letters, digits and underscores; equal ones are numbered."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "taxon"
        seen[slug] = seen.get(slug, 0) + 1
        out.append(slug if seen[slug] == 1 else f"{slug}-{seen[slug]}")
    return out


def _ids_of_taxa(index: pl.DataFrame, level: str) -> dict[str, list[str]]:
    """Group ids by taxon, both sorted; items without a name at this level stand in no pool."""
    named = index.filter(pl.col(level) != "").sort(level, "id")
    groups = named.group_by(level, maintain_order=True).agg("id")
    return dict(zip(groups[level], groups["id"].to_list(), strict=True))


def _balanced(queries: pl.DataFrame, classes: list[str], rng: np.random.Generator) -> pl.DataFrame:
    """Draw the same number of queries of every known class, and keep their order."""
    rows = [np.flatnonzero(np.array(classes) == name) for name in sorted({*classes} - {""})]
    if not rows:
        raise BenchError("no query has a class, so nothing can be balanced; choose --balance none, or add the ranks")
    n = min(map(len, rows))
    return queries[np.sort(np.concatenate([rng.choice(some, size=n, replace=False) for some in rows]))]


def _kin(text_index: pl.DataFrame, level: str, taxa: list[str], orders: dict[str, str]) -> np.ndarray:
    """Number the family and the order of each taxon, (2, taxon); an unknown one has a number of its own.

    A name that several families share is of the family of its first species.
    """
    first = text_index.unique(level, keep="first", maintain_order=True)
    above = zip(first["family"], (orders[name] for name in first["species"]), strict=True)
    of = dict(zip(first[level], above, strict=True))
    kin = np.empty((2, len(taxa)), dtype=np.int64)
    for row, names in enumerate(zip(*(of[name] for name in taxa), strict=True)):
        number = {name: i for i, name in enumerate(names) if name}
        kin[row] = [number.get(name, i) for i, name in enumerate(names)]
    return kin


def _pool(rng: np.random.Generator, own: int, n_taxa: int, n: int, kin: np.ndarray | None) -> np.ndarray:
    """Draw n taxa that include `own`, which stands at any place with equal chance; the nearest first where kin counts.

    Args:
        rng: the scenario's stream.
        own: the true taxon.
        n_taxa: how many there are.
        n: how many are drawn.
        kin: see `_kin`; None draws the others evenly.
    """
    if kin is None:
        others = rng.choice(n_taxa - 1, size=n - 1, replace=False)
        others += others >= own
    else:
        in_family, in_order = kin == kin[:, own, None]
        tiers = np.where(in_family, 0, np.where(in_order, 1, 2))
        tiers[own] = -1
        others = np.empty(0, dtype=np.int64)
        for tier in range(3):
            near = np.flatnonzero(tiers == tier)
            some = rng.choice(near, size=min(len(near), n - 1 - len(others)), replace=False)
            others = np.concatenate([others, some])
        others = rng.permutation(others)
    return np.insert(others, rng.integers(n), own)


def _class_of(queries: pl.DataFrame, text_index: pl.DataFrame) -> list[str]:
    known = dict(zip(text_index["species"], text_index["class"], strict=True))
    return [known[species] for species in queries["species"]]
