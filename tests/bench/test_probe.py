"""Traits by a linear probe, on a made-up tree of life whose voices and looks follow from what makes the traits."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from biovita.bench.traits import GROUPS, N_FOLDS, N_LEAST, answer, f1_of, folds, probe_traits, read_bank, species_rows
from biovita.data.dataset import MEDIA_SCHEMA, TAXA_SCHEMA, Dataset
from biovita.embed.store import write_embeddings
from biovita.errors import BenchError, EmbeddingError
from biovita.files import write_manifest
from biovita.taxonomy.traits import TRAIT_GROUPS, TRAITS
from biovita.world.ecology import make_traits
from biovita.world.tree import Tree, make_tree

N_SPECIES, N_EACH = 250, 2
LEARNED = ("flies", "aerial", "eats_vertebrates", "eats_invertebrates")  # that follow from body plan, size and mouth
LABELS = (*LEARNED, "human_modified", "forest", "polar")
SENSES = {
    "audio": ("pitch", "rasp", "timbre", "notes", "tempo", "trill", "melody", "vibrato"),
    "image": ("size", "build", "muzzle", "leg", "tail", "wing", "saturation", "lightness"),
}


def write_dataset(folder: Path, tree: Tree, labels: dict[str, Any]) -> Path:
    """Write a dataset's tables: every species of the tree, its lineage and its traits."""
    lineage: dict[str, list[str]] = {
        rank: [f"{rank.title()}{node}" for node in tree.ancestors(rank)]
        for rank in ("class", "order", "family", "genus")
    }
    species = [f"{genus} sp{s:03d}" for s, genus in enumerate(lineage["genus"])]
    taxa = pl.DataFrame({**lineage, "species": species, **labels})
    columns = [pl.col(name) if name in taxa.columns else pl.lit(None).alias(name) for name in TAXA_SCHEMA]
    taxa = taxa.select(column.cast(TAXA_SCHEMA[name]) for name, column in zip(TAXA_SCHEMA, columns, strict=True))
    media = pl.DataFrame(
        [
            {"media_id": f"{modality}-{s}-{i}", "modality": modality, "species": name}
            for s, name in enumerate(species)
            for modality in SENSES
            for i in range(N_EACH)
        ],
        schema=MEDIA_SCHEMA,
    )
    folder.mkdir(parents=True)
    taxa.sort("species").write_parquet(folder / "taxa.parquet")
    media.write_parquet(folder / "media.parquet")
    write_manifest(folder, ["media.parquet", "taxa.parquet"], schema=1, made_up=True)
    return folder


def write_vectors(
    folder: Path, tree: Tree, *, sense: Callable[[str], np.ndarray] | None = None, noise: float = 0.2, **facts: str
) -> Path:
    """Write what a model could hear and see: characters and body plan, mixed at random, and noise in each file."""
    rng = np.random.default_rng(0)
    meta = {"model": "made up", "weights_sha256": "0" * 64, "preprocess": "none", **facts}
    for modality, characters in SENSES.items():
        heard = [*(tree.normal(name) for name in characters), *np.eye(tree.plans().max() + 1)[:, tree.plans()]]
        z = np.stack(heard, axis=1) if sense is None else sense(modality)
        clean = np.tanh(z @ rng.standard_normal((z.shape[1], 24)))
        x = np.repeat(clean, N_EACH, axis=0)
        x += noise * rng.standard_normal(x.shape)
        write_embeddings(
            folder / f"{modality}.parquet",
            ids=[f"{modality}-{s}-{i}" for s in range(tree.n_species) for i in range(N_EACH)],
            modality=modality,
            embedding=x / np.linalg.norm(x, axis=1, keepdims=True),
            **meta,
        )
    return folder


def labels_of(tree: Tree, names: Sequence[str] = LABELS) -> dict[str, list[bool | None]]:
    return {name: value.tolist() for name, value in make_traits(tree).items() if name in names}


@pytest.fixture(scope="module")
def tree() -> Tree:
    return make_tree(N_SPECIES, 1)


@pytest.fixture(scope="module")
def folder(tree, tmp_path_factory) -> Path:
    """A dataset and vectors that no test changes."""
    home = tmp_path_factory.mktemp("traits")
    write_dataset(home / "dataset", tree, labels_of(tree))
    write_vectors(home / "vectors", tree)
    return home


@pytest.fixture(scope="module")
def results(folder) -> dict[str, Any]:
    return probe_traits(folder / "dataset", folder / "vectors", out=folder / "traits.json", seed=1)


def test_results_follow_the_contract(folder, results):
    assert json.loads((folder / "traits.json").read_text()) == results
    assert results["run"]["inputs"] == ["audio", "image", "fusion"]
    assert results["run"]["n_species"] == N_SPECIES
    assert set(results["splits"]) == set(GROUPS)
    for split in results["splits"].values():
        assert not set(split["traits"]) & set(results["left_out"])
        assert set(split["traits"]) | set(results["left_out"]) == set(TRAITS)
        for row in split["traits"].values():
            assert set(row["f1"]) == {"audio", "image", "fusion", "taxonomy", "majority", "always"}
            assert all(0 <= f1 <= 1 for f1 in row["f1"].values())
            share = row["n_yes"] / (row["n_yes"] + row["n_no"])
            assert row["f1"]["always"] == pytest.approx(2 * share / (1 + share))
        for group, f1 in split["groups"].items():
            some = [split["traits"][trait]["f1"]["audio"] for trait in TRAIT_GROUPS[group] if trait in split["traits"]]
            assert f1["audio"] == pytest.approx(np.mean(some))
        every = [row["f1"]["fusion"] for row in split["traits"].values()]
        assert split["macro"]["fusion"] == pytest.approx(np.mean(every))


def test_traits_that_are_heard_or_seen_are_learned(results):
    """Also where no species of the same genus was learned from; no guess comes near."""
    for group in GROUPS:
        for trait in LEARNED:
            f1 = results["splits"][group]["traits"][trait]["f1"]
            for sense in ("audio", "image", "fusion"):
                assert f1[sense] > max(f1["majority"], f1["always"]) + 0.05, (group, trait, sense)


def test_shuffled_labels_fall_to_the_guess(tree, folder, tmp_path):
    """The labels of other species tell nothing, so whatever still beats a guess has leaked."""
    rows = pl.DataFrame(labels_of(tree)).sample(fraction=1.0, shuffle=True, seed=4)
    dataset = write_dataset(tmp_path / "dataset", tree, rows.to_dict(as_series=False))
    results = probe_traits(dataset, folder / "vectors", out=tmp_path / "traits.json", seed=1)
    for group in GROUPS:
        macro = results["splits"][group]["macro"]
        assert max(macro[name] for name in ("audio", "image", "fusion", "taxonomy")) < macro["always"] + 0.02


def test_by_genus_a_vector_that_only_names_its_genus_is_worth_nothing(tree, tmp_path):
    """By species it is worth much: relatives leak. That is why there are two splits."""
    rng = np.random.default_rng(5)
    genus = tree.ancestors("genus")
    labels: dict[str, Any] = dict.fromkeys(TRAITS)
    labels["forest"] = (rng.random(genus.max() + 1) < 0.4)[genus].tolist()
    names = np.eye(genus.max() + 1)[genus]
    vectors = write_vectors(tmp_path / "vectors", tree, sense=lambda _: names)
    dataset = write_dataset(tmp_path / "dataset", tree, labels)
    results = probe_traits(dataset, vectors, out=tmp_path / "traits.json", seed=1)
    by_species, by_genus = (results["splits"][group]["traits"]["forest"]["f1"] for group in GROUPS)
    assert by_species["fusion"] > by_species["always"] + 0.1
    assert by_genus["fusion"] < by_genus["always"] + 0.02


@pytest.mark.parametrize("rank", GROUPS)
def test_a_group_is_never_on_both_sides(tree, rank):
    group = pl.Series([f"{rank}{node}" for node in tree.ancestors(rank)])
    fold = folds(group, seed=1)
    assert set(fold) == set(range(N_FOLDS))
    assert (
        pl.DataFrame({"group": group, "fold": fold}).group_by("group").agg(pl.col("fold").n_unique())["fold"].max() == 1
    )
    assert (fold == folds(group, seed=1)).all()
    assert (fold != folds(group, seed=2)).any()


def test_f1_is_that_of_a_plain_count():
    rng = np.random.default_rng(0)
    label = pl.Series([bool(x) if k else None for x, k in zip(rng.random(60) < 0.3, rng.random(60) < 0.9, strict=True)])
    rows, fold = rng.standard_normal((60, 3)).astype(np.float32), rng.integers(0, N_FOLDS, 60)
    known = [i for i in range(60) if label[i] is not None]
    truth = np.array([label[i] for i in known])
    said = answer(rows[known], truth, fold[known])
    majority = []
    for i in known:
        others = [label[j] for j in known if fold[j] != fold[i]]
        majority.append(sum(others) > len(others) / 2)
    found = f1_of(label, {"audio": rows}, fold)
    assert (found["n_yes"], found["n_no"]) == (sum(truth), len(known) - sum(truth))
    for name, answers in (("audio", said), ("majority", majority), ("always", [True] * len(known))):
        right = sum(a and t for a, t in zip(answers, truth, strict=True))
        wrong = sum(a != t for a, t in zip(answers, truth, strict=True))
        assert found["f1"][name] == pytest.approx(2 * right / (2 * right + wrong))


def test_folds_that_hold_one_kind_of_answer_are_answered_with_it():
    rows, fold = np.ones((6, 2), np.float32), np.array([0, 0, 0, 1, 1, 1])
    assert answer(rows, np.array([True, False, True, True, True, True]), fold)[:3].all()
    assert not answer(rows, np.zeros(6, bool), fold).any()


def test_a_species_is_the_mean_of_its_vectors(tree, folder):
    dataset, tables = Dataset.open(folder / "dataset"), read_bank(folder / "vectors")
    taxa, vectors, n_without = species_rows(dataset, tables)
    assert n_without == 0
    for s in (0, 77):
        ids = dataset.media.filter(species=taxa["species"][s], modality="audio")["media_id"].to_list()
        total = sum(tables["audio"].embedding[tables["audio"].ids.index(name)] for name in ids)
        assert vectors["audio"][s] == pytest.approx(total / np.linalg.norm(total), abs=1e-6)


def test_species_names_join_and_species_without_some_modality_are_counted(tree, tmp_path):
    dataset = write_dataset(tmp_path / "dataset", tree, labels_of(tree, ["forest"]))
    species = Dataset.open(dataset).taxa["species"].to_list()
    named = species[: tree.n_species - 10]
    vectors = write_vectors(tmp_path / "vectors", tree)
    write_embeddings(
        vectors / "text.parquet",
        ids=[*named, "x"],
        modality="text",
        embedding=_units(len(named) + 1),
        text=[*named, species[-1]],
        level=["species"] * len(named) + ["common_name"],
        model="made up",
        weights_sha256="0" * 64,
        preprocess="none",
    )
    results = probe_traits(dataset, vectors, out=tmp_path / "traits.json", seed=1)
    assert results["run"]["inputs"] == ["audio", "image", "text", "fusion"]
    assert set(results["splits"]["genus"]["traits"]) == {"forest"}
    assert results["run"]["n_species"] == tree.n_species - 10
    assert results["run"]["n_species_without_some_modality"] == 10


def _units(n: int) -> np.ndarray:
    x = np.random.default_rng(8).standard_normal((n, 24))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_rare_traits_are_left_out_and_counted(tree, folder, tmp_path):
    labels: dict[str, Any] = {}
    labels["polar"] = [True] * (N_LEAST - 1) + [False] * (N_SPECIES - N_LEAST + 1)
    labels["diurnal"] = [None] * (N_SPECIES - 50) + [True] * 50
    labels["resident"] = [True] * N_LEAST + [False] * (N_SPECIES - N_LEAST)
    dataset = write_dataset(tmp_path / "dataset", tree, labels)
    results = probe_traits(dataset, folder / "vectors", out=tmp_path / "traits.json", seed=1)
    assert results["left_out"]["polar"] == "9 species with it, fewer than 10"
    assert results["left_out"]["diurnal"] == "0 species without it, fewer than 10"
    assert results["splits"]["genus"]["traits"]["resident"]["n_yes"] == N_LEAST
    nothing = write_dataset(tmp_path / "nothing", tree, dict.fromkeys(TRAITS))
    with pytest.raises(BenchError, match="no trait is known of 10 species with it and 10 without among the 250"):
        probe_traits(nothing, folder / "vectors", out=tmp_path / "n.json", seed=1)


def test_two_runs_are_equal_to_the_digit(folder, results, tmp_path):
    probe_traits(folder / "dataset", folder / "vectors", out=tmp_path / "again.json", seed=1)
    assert (tmp_path / "again.json").read_bytes() == (folder / "traits.json").read_bytes()


def test_what_does_not_fit_together_is_refused(tree, folder, tmp_path):
    with pytest.raises(BenchError, match="no such embeddings folder"):
        probe_traits(folder / "dataset", tmp_path / "none", out=tmp_path / "t.json", seed=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BenchError, match=r"holds none of audio.parquet, image.parquet, text.parquet"):
        probe_traits(folder / "dataset", tmp_path / "empty", out=tmp_path / "t.json", seed=1)
    mixed = write_vectors(tmp_path / "mixed", tree)
    (write_vectors(tmp_path / "other", tree, weights_sha256="f" * 64) / "image.parquet").replace(
        mixed / "image.parquet"
    )
    with pytest.raises(EmbeddingError, match="do not belong together"):
        probe_traits(folder / "dataset", mixed, out=tmp_path / "t.json", seed=1)
    stranger = tmp_path / "stranger"
    facts = {"model": "made up", "weights_sha256": "0" * 64, "preprocess": "none"}
    write_embeddings(stranger / "audio.parquet", ids=["a"], modality="audio", embedding=_units(1), **facts)
    with pytest.raises(BenchError, match=r"audio.parquet: none of its ids are of its media .*; embed that dataset"):
        probe_traits(folder / "dataset", stranger, out=tmp_path / "t.json", seed=1)
    few = tmp_path / "few"
    ids = [f"audio-{s}-0" for s in range(5)]
    write_embeddings(few / "audio.parquet", ids=ids, modality="audio", embedding=_units(5), **facts)
    with pytest.raises(BenchError, match="5 of its 250 species have vectors in every one of audio; a probe needs 20"):
        probe_traits(folder / "dataset", few, out=tmp_path / "t.json", seed=1)
    assert not (tmp_path / "t.json").exists()


def test_the_command_prints_a_table_or_json(tree, folder, tmp_path, biovita):
    dataset = write_dataset(tmp_path / "dataset", tree, labels_of(tree, ["forest", "nocturnal"]))
    words = ["bench", "traits", dataset, "--embeddings", folder / "vectors", "--out", tmp_path / "t.json"]
    ran = biovita(*words)
    results = json.loads((tmp_path / "t.json").read_text())
    assert ran.code == 0, ran.err
    assert "F1, %, by genus" in ran.out
    assert "The biosphere is made up" in ran.out
    columns = ["audio", "image", "fusion", "taxonomy", "majority", "always"]
    macro = [line.split() for line in ran.out.splitlines() if line.startswith("macro")]
    for group, line in zip(GROUPS, macro, strict=True):
        assert line[1:] == [f"{100 * results['splits'][group]['macro'][name]:.1f}" for name in columns]
    assert json.loads(biovita(*words, "--json").out) == results
