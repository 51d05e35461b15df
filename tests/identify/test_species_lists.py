"""The species to choose from: tables, parts of them, and lists of what lives here and now."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from biovita.errors import BiovitaError, ConfigError
from biovita.identify.expected import read_expected, week_of
from biovita.identify.labels import name_vectors, read_labels, read_taxa, within
from biovita.models.encoder import Encoder
from biovita.taxonomy.prompts import training_prompts
from biovita.taxonomy.rank import LEVELS
from biovita.taxonomy.taxon import Taxon

ROWS = [
    ("Aves", "Passeriformes", "Turdidae", "Turdus", "Turdus merula", "Common Blackbird"),
    ("Aves", "Passeriformes", "Turdidae", "Turdus", "Turdus pilaris", "Fieldfare"),
    ("Aves", "Accipitriformes", "Accipitridae", "Accipiter", "Accipiter cooperii", "Cooper's Hawk"),
    ("Amphibia", "Anura", "Ranidae", "Rana", "Rana temporaria", "Common Frog"),
]
TAXA = [
    Taxon(kingdom="Animalia", phylum="Chordata", class_=c, order=o, family=f, genus=g, species=s, common_name=n)
    for c, o, f, g, s, n in ROWS
]
NAMES = [taxon.species for taxon in TAXA]


def listed(expected: np.ndarray) -> list[str]:
    return [name for name, is_ in zip(NAMES, expected, strict=True) if is_]


def table(path: Path, taxa: list[Taxon]) -> Path:
    rows = pl.DataFrame([taxon.row() for taxon in taxa], schema=dict.fromkeys(LEVELS, pl.String))
    {".csv": rows.write_csv, ".parquet": rows.write_parquet}.get(
        path.suffix, lambda file: rows.write_csv(file, separator="\t")
    )(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_labels_come_from_any_table_and_equal_rows_count_once(encoder: Encoder, tmp_path: Path, suffix: str) -> None:
    found = read_labels(encoder, table=table(tmp_path / f"own{suffix}", [*TAXA, TAXA[0]]))
    assert found.taxa == TAXA
    for taxon, vector in zip(found.taxa, found.vectors, strict=True):
        mean = np.mean([encoder.embed_text([text])[0] for text in training_prompts(taxon)], axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    assert found.expected is None


def test_the_vectors_of_a_list_are_kept(encoder: Encoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BIOVITA_HOME", str(tmp_path))
    first = name_vectors(encoder, TAXA)
    assert len([*(tmp_path / "text").glob("*.parquet")]) == bool(encoder.weights_sha256)
    np.testing.assert_array_equal(name_vectors(encoder, TAXA), first)


def test_a_table_without_rows_or_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no species to choose from"):
        read_taxa(table(tmp_path / "empty.csv", []), None)
    with pytest.raises(ConfigError, match="no such table of species"):
        read_taxa(tmp_path / "none.csv", None)
    with pytest.raises(ConfigError, match="no such table of species"):
        read_taxa(None, tmp_path)


def test_birds_are_named_from_the_list_that_ebird_publishes(tmp_path: Path) -> None:
    path = tmp_path / "eBird_taxonomy.csv"
    path.write_text(
        "TAXON_ORDER,CATEGORY,SPECIES_CODE,PRIMARY_COM_NAME,SCI_NAME,ORDER,FAMILY\n"
        "1,species,x1,Common Blackbird,Turdus merula,Passeriformes,Turdidae (Thrushes)\n"
        "2,spuh,x2,thrush sp.,Turdus sp.,Passeriformes,Turdidae (Thrushes)\n"
    )
    assert [taxon.row() for taxon in read_taxa(path, None)] == [TAXA[0].row()]
    path.write_text("species,number\nTurdus merula,1\n")
    with pytest.raises(BiovitaError, match="no column"):
        read_taxa(path, None)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("Aves", NAMES[:3]),
        ("turdidae", NAMES[:2]),
        ("Rana, Accipitriformes", NAMES[2:]),
        ("Turdus merula,Turdus", NAMES[:2]),
        ("Animalia", NAMES),
    ],
)
def test_taxa_of_any_rank_choose_species(asked: str, found: list[str]) -> None:
    assert [taxon.species for taxon in within(TAXA, asked)] == found


def test_a_taxon_that_is_nowhere_is_an_error_with_near_misses() -> None:
    with pytest.raises(ConfigError, match=r"'turdidea'.*is Turdidae.* meant"):
        within(TAXA, "Aves, Turdidea")
    with pytest.raises(ConfigError, match="names no taxon"):
        within(TAXA, " , ")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "Turdus merula\n\nRana temporaria\n"),
        ("b.txt", "Turdus merula_Eurasian Blackbird\nRana temporaria_Common Frog\n"),
        ("c.txt", "Turdus merula Linnaeus, 1758\nRana temporaria temporaria\n"),
        ("d.csv", "scientific_name,n\nTurdus merula,3\nRana temporaria,1\nTurdus merula,9\n"),
        ("e.csv", 'gbifID\tspecies\tcountry\n1\tTurdus merula\tDE\n2\tRana temporaria\t"D\n3\t\tDE\n'),
        ("f.txt", "\ufeffRana temporaria\r\nTurdus merula\r\n"),
    ],
)
def test_a_list_may_be_lines_or_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    assert listed(read_expected(TAXA, tmp_path / name)) == ["Turdus merula", "Rana temporaria"]
    assert capsys.readouterr().err == ""


def test_names_that_are_not_among_the_species_are_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("Turdus merula\nParus major\nBufo bufo\n")
    assert listed(read_expected(TAXA, tmp_path / "list.txt")) == ["Turdus merula"]
    assert "2 of 3 names are not among the species: Parus major, Bufo bufo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "accepted"), [("Astur cooperii", "Astur cooperii"), ("Falco cooperii", "Astur cooperii")]
)
def test_synonyms_are_one_species_where_a_name_list_says_so(tmp_path: Path, name: str, accepted: str) -> None:
    """The labels have the old name, the list another, and only the name list knows both."""
    rows = [
        ("1", "", accepted, "accepted"),
        ("2", "1", "Accipiter cooperii", "synonym"),
        ("3", "1", "Falco cooperii", "synonym"),
    ]
    higher = "Animalia\tChordata\tAves\tAccipitriformes\tAccipitridae\tAstur"
    lines = [
        "taxonID\tacceptedNameUsageID\tscientificName\ttaxonomicStatus\ttaxonRank\tkingdom\tphylum\tclass\torder\tfamily\tgenus"
    ]
    lines += [f"{n}\t{of}\t{called}\t{status}\tspecies\t{higher}" for n, of, called, status in rows]
    (tmp_path / "taxa.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "list.txt").write_text(f"{name}\nTurdus merula\n")
    assert listed(read_expected(TAXA, tmp_path / "list.txt")) == ["Turdus merula"]
    found = read_expected(TAXA, tmp_path / "list.txt", names=[tmp_path / "taxa.tsv"])
    assert listed(found) == ["Turdus merula", "Accipiter cooperii"]


SIGHTINGS = (
    "species\tdecimalLatitude\tdecimalLongitude\teventDate\n"
    "Turdus merula\t48.5\t9.1\t2019-05-03T07:12\n"
    "Turdus pilaris\t48.5\t9.1\t2021-12-30\n"
    "Rana temporaria\t10.0\t9.1\t2019-05\n"
    "Accipiter cooperii\t\t\t\n"
)


@pytest.mark.parametrize(
    ("place", "week", "found"),
    [
        (None, "", [0, 1, 2, 3]),
        ((48.0, 9.5), "", [0, 1, 2]),
        ((49.6, 9.1), "", [2]),
        ((10.0, 9.1), "18", [2, 3]),
        (None, "2026-05-17", [0, 2, 3]),
        (None, "1", [1, 2]),  # the year goes round
        ((48.5, 9.1), "48", [1, 2]),
        ((48.5, 10.5), "", [0, 1, 2]),  # a degree of longitude is shorter there
    ],
)
def test_place_and_week_choose_sightings(
    tmp_path: Path, place: tuple[float, float] | None, week: str, found: list[int]
) -> None:
    (tmp_path / "gbif.csv").write_text(SIGHTINGS)
    expected = read_expected(TAXA, tmp_path / "gbif.csv", place=place, week=week)
    assert listed(expected) == [NAMES[n] for n in found]


def test_a_date_or_place_that_says_nothing_is_counted_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "list.csv"
    rows = ('Turdus merula,"47,2",9,03/05/2020', "Rana temporaria,,,", "Bufo bufo,47,9,2020-05-03")
    path.write_text("\n".join(("species,latitude,longitude,date", *rows)) + "\n")
    read_expected(TAXA, path, place=(48.0, 9.5))
    assert f"{path}: 1 cells such as '47,2' are not understood and count as everywhere" in capsys.readouterr().err
    read_expected(TAXA, path, week="40")
    assert f"{path}: 1 cells such as '03/05/2020' are not understood and count as all year" in capsys.readouterr().err


def test_the_date_line_is_no_border(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("species,latitude,longitude\nTurdus merula,0,179.8\nRana temporaria,0,178\n")
    assert listed(read_expected(TAXA, tmp_path / "list.csv", place=(0.0, -179.7))) == ["Turdus merula"]


@pytest.mark.parametrize(
    ("text", "week"),
    [
        ("1", 1),
        ("48", 48),
        ("2026-01-01", 1),
        ("2026-01-07", 1),
        ("2026-01-08", 2),
        ("2026-01-31", 4),
        ("2026-12-31", 48),
        ("2019-05-03T07:12", 17),
    ],
)
def test_weeks_are_counted_four_a_month(text: str, week: int) -> None:
    assert week_of(text) == week


@pytest.mark.parametrize(
    ("content", "asked", "said"),
    [
        ("species\nTurdus merula\n", {"place": (48.0, 9.0)}, "no columns of latitude and longitude"),
        ("species\nTurdus merula\n", {"week": "3"}, "no column of weeks or dates"),
        ("species,week\nTurdus merula,3\n", {"week": "49"}, "give 1 to 48"),
        ("species,week\nTurdus merula,3\n", {"week": "spring"}, "give 1 to 48"),
        ("species,week\nTurdus merula,3\n", {"week": "30"}, "lists nothing for that place and week"),
        ("species,lat,lon\nTurdus merula,3,3\n", {"place": (95.0, 9.0)}, "give latitude and longitude in degrees"),
        ("species\nParus major\n", {}, "none of its 1 names is among the species: Parus major"),
        ("latin,n\nTurdus merula,1\n", {}, "no column 'species' or 'scientific_name'"),
        ("species\n", {}, "lists nothing"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_clear_error(
    tmp_path: Path, content: str, asked: dict[str, object], said: str
) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(BiovitaError, match=said) as caught:
        read_expected(TAXA, tmp_path / "list.csv", **asked)  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(caught.value)


def test_what_is_not_expected_is_marked_or_left_out(encoder: Encoder, tmp_path: Path) -> None:
    own, some = table(tmp_path / "own.csv", TAXA), tmp_path / "list.txt"
    some.write_text("Rana temporaria\n")
    marked = read_labels(encoder, table=own, species_list=some)
    assert marked.expected is not None
    assert (marked.taxa, listed(marked.expected)) == (TAXA, ["Rana temporaria"])
    part = read_labels(encoder, table=own, species_list=some, only_expected=True)
    assert [taxon.species for taxon in part.taxa] == ["Rana temporaria"]
    np.testing.assert_array_equal(part.vectors, marked.vectors[3:])


@pytest.mark.parametrize("alone", [{"place": (1.0, 2.0)}, {"week": "3"}, {"only_expected": True}])
def test_place_and_week_without_a_list_are_refused(encoder: Encoder, tmp_path: Path, alone: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="name the list with --species-list FILE"):
        read_labels(encoder, table=table(tmp_path / "own.csv", TAXA), **alone)  # pyright: ignore[reportArgumentType]
