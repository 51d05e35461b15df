"""Which of the 34 traits can be read from frozen vectors? A linear probe, beside guesses that look at no vector.

1. A species is one row for each modality: the mean of its unit vectors, scaled to unit length. Labels belong to
   species, so a species counts once, however many recordings it has.
2. Fusion puts the modalities side by side. The probe then weighs each by what it knows of the trait; a mean would fix
   the weights, and blur what only one modality tells.
3. All inputs are asked about the same species, those that have every modality, in the same folds; each species is
   answered once, by a probe that never met its group. The groups are species, or genera: then no near relative of the
   asked species was learned from.
4. The taxonomy alone, as one-hot ranks, goes through the same probe. A trait that its relatives tell as well as the
   vectors do was not heard or seen.

Nothing in the results depends on the clock or the machine.
"""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from biovita.bench.tasks import MODALITIES
from biovita.data.dataset import Dataset
from biovita.embed.store import EmbeddingTable, check_joinable, read_embeddings
from biovita.errors import BenchError
from biovita.files import MANIFEST, sha256_file, write_json
from biovita.log import progress
from biovita.taxonomy.traits import TRAIT_GROUPS, TRAITS

SCHEMA = 1
PURPOSE_FOLDS = 73
N_FOLDS = 5
N_LEAST = 10  # species with the trait, and without; below that a share of hits is an anecdote
GROUPS: Final = ("species", "genus")
RANKS: Final = ("class", "order", "family", "genus")
STRENGTH = 1.0  # scikit-learn's C, on rows of mean squared length 1
N_STEPS = 1000  # of the solver, at most
GUESSES: Final = ("taxonomy", "majority", "always")


def probe_traits(dataset: Path, embeddings: Path, *, out: Path, seed: int) -> dict[str, Any]:
    """Probe every trait from every modality and their fusion, and write the results.

    Args:
        dataset: a finished dataset folder; its taxa.parquet has the traits.
        embeddings: a folder with some of audio.parquet, image.parquet (ids are those of media.parquet) and text.parquet
            (the texts are species names).
        out: the results file (JSON).
        seed: of the folds.

    Returns:
        the content of the results file. For each kind of group: F1 of each trait, mean of each trait group, and their
        mean (`macro`), for each input and each guess; and which traits were left out, with the reason.

    Raises:
        BenchError: too few species have vectors of every modality, or no trait has enough of them.
        EmbeddingError: the files do not hold unit vectors, or are of different models.
    """
    source = Dataset.open(Path(dataset))
    tables = read_bank(Path(embeddings))
    taxa, vectors, n_without = species_rows(source, tables)
    inputs = {name: centred(rows) for name, rows in vectors.items()}
    if len(inputs) > 1:
        inputs["fusion"] = np.hstack([*inputs.values()]) / np.float32(len(inputs) ** 0.5)
    ranks = taxa.select(pl.col(RANKS).fill_null("")).to_numpy()
    probed = {**inputs, "taxonomy": OneHotEncoder().fit_transform(ranks) / len(RANKS) ** 0.5}
    left_out = {trait: reason for trait in TRAITS if (reason := too_few(taxa, trait))}
    kept = [trait for trait in TRAITS if trait not in left_out]
    if not kept:
        raise BenchError(
            f"{dataset}: no trait is known of {N_LEAST} species with it and {N_LEAST} without among the {len(taxa)} "
            f"that {embeddings} has vectors of; embed more species"
        )
    splits = {}
    for group in GROUPS:
        fold = folds(taxa[group].fill_null(""), seed=seed)
        rows = {
            trait: f1_of(taxa[trait], probed, fold) for trait in progress(kept, f"probing by {group}", unit="traits")
        }
        splits[group] = {"n_groups": taxa[group].n_unique(), "traits": rows, **means(rows)}
    results = {
        "schema": SCHEMA,
        "kind": "traits",
        "splits": splits,
        "left_out": left_out,
        "run": {
            "dataset": str(dataset),
            "dataset_sha256": sha256_file(source.folder / MANIFEST),
            "made_up": bool(source.manifest.get("made_up")),
            "embeddings": str(embeddings),
            "embeddings_sha256": {table.path.name: sha256_file(table.path) for table in tables.values()},
            **check_joinable(tables.values()),
            "inputs": list(inputs),
            "n_species": len(taxa),
            "n_species_without_some_modality": n_without,
            "probe": {"kind": "logistic regression", "strength": STRENGTH, "n_folds": N_FOLDS, "seed": seed},
            "versions": {
                **{name: version(name) for name in ("biovita", "numpy", "polars", "scikit-learn")},
                "python": platform.python_version(),
            },
        },
    }
    write_json(Path(out), results)
    return results


def read_bank(folder: Path) -> dict[str, EmbeddingTable]:
    """Read the embedding files that a folder has; they must be of one model."""
    if not folder.is_dir():
        raise BenchError(f"{folder}: no such embeddings folder; make it with `biovita embed DATASET`")
    paths = {modality: folder / f"{modality}.parquet" for modality in MODALITIES}
    tables = {name: read_embeddings(path) for name, path in paths.items() if path.is_file()}
    if not tables:
        raise BenchError(f"{folder}: holds none of audio.parquet, image.parquet, text.parquet")
    check_joinable(tables.values())
    return tables


def species_rows(
    dataset: Dataset, tables: Mapping[str, EmbeddingTable]
) -> tuple[pl.DataFrame, dict[str, np.ndarray], int]:
    """Average the vectors of each species in each modality.

    Returns:
        the taxa that have every modality, sorted by name; a float32 unit row for each of them and each modality; and
        how many taxa of the dataset have no vector in some modality.

    Raises:
        BenchError: none of a file's rows is of the dataset, or too few species have every modality.
    """
    names = dataset.taxa["species"].sort().to_list()
    place = {name: i for i, name in enumerate(names)}
    species_of = dict(dataset.media.select("media_id", "species").iter_rows())
    means, has = {}, np.ones(len(names), bool)
    for modality, table in tables.items():
        if modality == "text":
            named = zip(table.text, table.level, strict=True)
            of = [text if level in ("species", "name") else None for text, level in named]
        else:
            of = [species_of.get(name) for name in table.ids]
        row = np.array([place.get(name, -1) if name else -1 for name in of], np.int64)
        if not (row >= 0).any():
            what = "texts are names of its species" if modality == "text" else "ids are of its media"
            raise BenchError(f"{table.path}: none of its {what} ({dataset.folder}); embed that dataset")
        total = np.zeros((len(names), table.embedding.shape[1]))
        np.add.at(total, row[row >= 0], table.embedding[row >= 0])
        length = np.sqrt(np.einsum("ij,ij->i", total, total))
        has &= length > 0
        means[modality] = (total / np.maximum(length, 1e-12)[:, None]).astype(np.float32)
    taxa = dataset.taxa.sort("species").filter(pl.Series(has))
    if len(taxa) < 2 * N_LEAST:
        raise BenchError(
            f"{dataset.folder}: {len(taxa)} of its {len(names)} species have vectors in every one of "
            f"{', '.join(tables)}; a probe needs {2 * N_LEAST}, so embed more, or leave a file out"
        )
    return taxa, {modality: rows[has] for modality, rows in means.items()}, int((~has).sum())


def centred(rows: np.ndarray) -> np.ndarray:
    """Give every number of the vectors mean 0 and the same weight, and rows a mean squared length of 1."""
    return StandardScaler().fit_transform(rows) / np.float32(rows.shape[1] ** 0.5)


def too_few(taxa: pl.DataFrame, trait: str) -> str:
    """Say why a trait cannot be probed; empty where it can."""
    known = taxa[trait].drop_nulls()
    n_yes = int(known.sum())
    for n, what in ((n_yes, "with"), (len(known) - n_yes, "without")):
        if n < N_LEAST:
            return f"{n} species {what} it, fewer than {N_LEAST}"
    return ""


def folds(group: pl.Series, *, seed: int) -> np.ndarray:
    """Deal whole groups to N_FOLDS folds at random; int64, one a species."""
    code = group.rank("dense").to_numpy().astype(np.int64) - 1
    rng = np.random.default_rng([seed, PURPOSE_FOLDS])
    return (rng.permutation(code.max() + 1) % N_FOLDS)[code]


def f1_of(label: pl.Series, inputs: Mapping[str, Any], fold: np.ndarray) -> dict[str, Any]:
    """Answer every species whose label is known by a probe of the other folds, and compute F1 over all answers.

    Args:
        label: true, false or null, one a species.
        inputs: a matrix (species, number) for each input, dense or sparse.
        fold: of each species.

    Returns:
        `n_yes`, `n_no`, and `f1` for each input and for two guesses: `majority` says what most species of the other
        folds are, `always` says yes, which is the best that F1 grants to one who does not look.

    Source:
        Pooling answers over folds, since a mean of F1 over small folds is biased: Forman and Scholz (2010). The guess
        that says yes: Lipton, Elkan and Narayanaswamy (2014).
    """
    known = label.is_not_null().to_numpy()
    truth, fold = label.drop_nulls().to_numpy(), fold[known]
    answers = {name: answer(rows[known], truth, fold) for name, rows in inputs.items()}
    share = np.array([truth[fold != f].mean() if (fold != f).any() else 0.0 for f in range(N_FOLDS)])
    answers |= {"majority": (share > 0.5)[fold], "always": np.ones(len(truth), bool)}
    return {
        "n_yes": int(truth.sum()),
        "n_no": int((~truth).sum()),
        "f1": {name: f1_score(truth, said) for name, said in answers.items()},
    }


def answer(rows: Any, truth: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Answer each fold by a logistic regression on the others, with yes and no weighing the same; bool (species,)."""
    said = np.zeros(len(truth), bool)
    probe = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=N_STEPS)
    with threadpool_limits(1):  # the products are small, and one thread sums in one order
        for f in np.unique(fold):
            learn, ask = fold != f, fold == f
            if truth[learn].all() or not truth[learn].any():  # one kind of answer is all there is to learn
                said[ask] = truth[learn].any()
            else:
                said[ask] = probe.fit(rows[learn], truth[learn]).predict(rows[ask])
    return said


def f1_score(truth: np.ndarray, said: np.ndarray) -> float:
    """Return 2 x right / (species with the trait + answers of yes); 0 where none is right."""
    return float(2 * (truth & said).sum() / max(1, truth.sum() + said.sum()))


def means(rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Average F1 over the traits of each group, and over all traits."""

    def mean(traits: list[str]) -> dict[str, float]:
        return {name: float(np.mean([rows[t]["f1"][name] for t in traits])) for name in rows[traits[0]]["f1"]}

    some = {group: [trait for trait in traits if trait in rows] for group, traits in TRAIT_GROUPS.items()}
    return {"groups": {group: mean(traits) for group, traits in some.items() if traits}, "macro": mean([*rows])}


def text_table(results: dict[str, Any]) -> str:
    """Lay F1 out for a terminal, in percent: traits down, inputs and guesses across, a block for each kind of group."""
    columns = [*results["run"]["inputs"], *GUESSES]
    lines = []
    for group, split in results["splits"].items():
        lines.append(f"{f'F1, %, by {group}':<24}{'yes':>6}{'no':>6}" + "".join(f"{name:>10}" for name in columns))
        for name, traits in TRAIT_GROUPS.items():
            rows = [trait for trait in traits if trait in split["traits"]]
            for trait in rows:
                row = split["traits"][trait]
                lines.append(_line(f"  {trait}", row["f1"], columns, row["n_yes"], row["n_no"]))
            if rows:
                lines.append(_line(name, split["groups"][name], columns))
        lines += [_line("macro", split["macro"], columns), ""]
    lines += [f"left out: {trait}: {reason}" for trait, reason in results["left_out"].items()]
    if results["run"]["made_up"]:
        lines.append("The biosphere is made up; these numbers say nothing of real animals.")
    return "\n".join(lines).rstrip()


def _line(name: str, f1: dict[str, float], columns: list[str], n_yes: int | str = "", n_no: int | str = "") -> str:
    return f"{name:<24}{n_yes:>6}{n_no:>6}" + "".join(f"{100 * f1[column]:>10.1f}" for column in columns)
