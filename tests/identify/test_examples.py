"""Species by example: new ones are found, known ones keep their names' vectors, bad files are named."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from biovita.errors import ConfigError
from biovita.identify.answer import Identifier
from biovita.identify.examples import Part, by_examples, directions, part_of, read_examples
from biovita.identify.labels import add_examples, named_labels, new_taxon, read_labels
from biovita.models.encoder import Encoder
from biovita.taxonomy.taxon import Taxon

NEW = ["Nova alba", "Nova rubra", "Nova nigra", "my frog 7", "Ficta major"]


@pytest.fixture(scope="module")
def files(made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Path]]]:
    """Five folders of pictures under names that no model has met, two pictures each, and what they were copied from."""
    media = pl.read_parquet(made_up / "media.parquet").filter(modality="image")
    home = tmp_path_factory.mktemp("examples")
    given = {}
    for name, species in zip(NEW, media["species"].unique().sort(), strict=False):
        paths = [made_up / path for path in media.filter(species=species)["path"].head(2)]
        (home / name).mkdir()
        for path in paths:
            shutil.copy(path, home / name / path.name)
        given[name] = paths
    return home, given


def test_new_species_are_told_apart_by_their_examples(
    encoder: Encoder, model_folder: Path, files: tuple[Path, dict[str, list[Path]]]
) -> None:
    home, given = files
    labels = read_labels(encoder, table=model_folder / "labels.csv", examples=home)
    assert [taxon.species for taxon in labels.taxa[-5:]] == sorted(NEW)
    # among themselves: the names say nothing, since the model is not trained
    identifier = Identifier(encoder, labels.only(np.arange(len(labels) - 5, len(labels))))
    right = 0
    for name, paths in given.items():
        right += sum(answer.taxa[0].name == name for answer in identifier.answers(encoder.embed_image(paths), "image"))
    assert right >= 8  # of ten pictures; two by chance
    np.testing.assert_array_equal(labels.of("audio"), labels.vectors)  # pictures tell nothing of sounds


def test_a_table_names_examples_too_and_a_known_species_is_not_doubled(
    encoder: Encoder, model_folder: Path, made_up: Path, tmp_path: Path
) -> None:
    media = pl.read_parquet(made_up / "media.parquet").filter(modality="image")
    some = media.group_by("species", maintain_order=True).head(1).head(6)
    rows = []
    for species, path in some.select("species", "path").iter_rows():
        shutil.copy(made_up / path, tmp_path / Path(path).name)
        rows.append((Path(path).name, species, "image"))
    table = tmp_path / "mine.csv"
    pl.DataFrame(rows, ["path", "scientific_name", "modality"], orient="row").write_csv(table)
    plain = read_labels(encoder, table=model_folder / "labels.csv")
    labels = read_labels(encoder, table=model_folder / "labels.csv", examples=table)
    assert labels.taxa == plain.taxa
    changed = [
        taxon.species
        for taxon, one, other in zip(plain.taxa, plain.vectors, labels.of("image"), strict=True)
        if (one != other).any()
    ]
    assert sorted(changed) == sorted(some["species"])


def test_bad_files_are_named_and_never_become_a_vector(
    encoder: Encoder, files: tuple[Path, dict[str, list[Path]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, given = files
    (tmp_path / "Nova alba").mkdir()
    shutil.copy(given["Nova alba"][0], tmp_path / "Nova alba" / "good.jpg")
    (tmp_path / "Nova alba" / "page.jpg").write_text("<!doctype html><html>404</html>")
    (found,) = read_examples(encoder, tmp_path)
    np.testing.assert_allclose(found.vector, encoder.embed_image([given["Nova alba"][0]])[0], atol=1e-5)
    assert "page.jpg: no example: html_document" in capsys.readouterr().err
    (tmp_path / "Nova alba" / "good.jpg").unlink()
    with pytest.raises(ConfigError, match="not one of the files of 'Nova alba'"):
        read_examples(encoder, tmp_path)
    shutil.rmtree(tmp_path / "Nova alba")
    with pytest.raises(ConfigError, match="holds no labelled files"):
        read_examples(encoder, tmp_path)


def test_few_species_need_a_calibrated_model(
    encoder: Encoder, model_folder: Path, files: tuple[Path, dict[str, list[Path]]], tmp_path: Path
) -> None:
    home, _ = files
    shutil.copytree(home / "Nova alba", tmp_path / "Nova alba")
    with pytest.raises(ConfigError, match="biovita model calibrate"):
        read_labels(encoder, table=model_folder / "labels.csv", examples=tmp_path)
    labels = named_labels(encoder, [Taxon(species="Nova alba"), Taxon(species="Rana arvalis")])
    examples = read_examples(encoder, tmp_path)
    centre = np.full(labels.vectors.shape[1], 0.01, np.float32)
    with_part = add_examples(labels, examples, {"image": Part(centre=centre, reach=0.5)})
    assert (with_part.of("image")[0] != labels.vectors[0]).any()
    np.testing.assert_array_equal(with_part.of("image")[1], labels.vectors[1])


def test_an_example_stands_at_the_mean_of_names_in_its_direction_as_a_plain_loop_finds() -> None:
    rng = np.random.default_rng(1)
    names, files_ = rng.normal(size=(6, 8)), rng.normal(size=(9, 8)) + 2
    species = np.array([0, 0, 0, 4, 4, 4, 4, 4, 2])
    part = part_of(files_, names)
    found = by_examples(names, species, files_, part)
    for n in range(6):
        if n not in species:
            np.testing.assert_array_equal(found[n], names[n])
            continue
        away = np.mean([files_[i] for i in range(9) if species[i] == n], axis=0) - part.centre
        along = part.centre / np.linalg.norm(part.centre)
        away = away - (away @ along) * along
        np.testing.assert_allclose(found[n], names.mean(0) + part.reach * away / np.linalg.norm(away))


def test_scores_with_examples_spread_as_scores_with_names_do() -> None:
    rng = np.random.default_rng(2)
    files_ = rng.normal(size=(300, 12)) * np.linspace(0.1, 2, 12) + 1
    names = rng.normal(size=(50, 12))
    part = part_of(files_, names)
    by_name = (files_ @ (names - names.mean(0)).T).std(0).mean()
    by_example = part.reach * (files_ @ directions(files_, part.centre).T).std(0).mean()
    assert by_example == pytest.approx(by_name)
    assert directions(files_, part.centre) @ part.centre == pytest.approx(np.zeros(300), abs=1e-9)


def test_a_new_species_of_a_known_genus_takes_over_what_is_above_it() -> None:
    kin = Taxon(kingdom="Animalia", class_="Aves", family="Turdidae", genus="Turdus", species="Turdus merula")
    assert new_taxon("Turdus novus", [kin]).row() == {**kin.row(), "species": "Turdus novus"}
    assert new_taxon("Nova alba", [kin]) == Taxon(genus="Nova", species="Nova alba")
    assert new_taxon("my frog 7", [kin]) == Taxon(species="my frog 7")
