"""Common names in several languages, at the species they belong to."""

from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from biovita.errors import TaxonomyError
from biovita.taxonomy.checklist import Checklist
from biovita.taxonomy.spelling import stem
from biovita.taxonomy.vernacular import language_of, read_common_names, short_language

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not beside this checkout")

TAXA = (
    "taxonID,scientificName,taxonRank,kingdom,phylum,class,order,family\n"
    "7,Aramus guarauna,species,Animalia,Chordata,Aves,Gruiformes,Aramidae\n"
    "8,Grus grus,species,Animalia,Chordata,Aves,Gruiformes,Gruidae\n"
)
EBIRD = (
    "CATEGORY,PRIMARY_COM_NAME,SCI_NAME,ORDER,FAMILY\n"
    "species,Cooper's Hawk,Astur cooperii,Accipitriformes,Accipitridae (Hawks)\n"
    "species,,Turdus merula,Passeriformes,Turdidae\n"
)


@pytest.mark.parametrize(
    ("given", "short"),
    [("en", "en"), ("en_us", "en"), ("pt-BR", "pt"), ("ENGLISH", "en"), ("deu", "de"), ("ainu", "ainu")],
)
def test_languages_become_short_codes(given: str, short: str) -> None:
    assert short_language(given) == short


def test_the_language_of_a_list_is_in_its_name() -> None:
    names = ("en_us.txt", "zh.txt", "VernacularNames-english.csv")
    assert [language_of(Path(name)) for name in names] == ["en", "zh", "en"]


def test_numbered_names_find_the_taxa_of_their_folder(tmp_path: Path) -> None:
    (tmp_path / "taxa.csv").write_text(TAXA)
    (tmp_path / "vernacular.csv").write_text(
        "taxonID,vernacularName,language\n7,Limpkin,en\n7,Courlan,en\n7, Courlan  brun ,fr\n9,Nobody,en\n8,,de\n"
    )
    checklist = Checklist.open([tmp_path / "vernacular.csv", tmp_path / "taxa.csv"])
    assert checklist.common_names is not None
    assert checklist.common_names.rows() == [
        ("Aramus guarauna", "en", "Limpkin"),
        ("Aramus guarauna", "fr", "Courlan brun"),
    ]
    assert checklist.resolve("Aramus guarauna").common_name == "Limpkin"
    assert checklist.lists.row(1) == ("vernacular.csv", 1, 3, 1)


def test_numbered_names_without_their_taxa_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vernacular.csv").write_text("taxonID,vernacularName,language\n7,Limpkin,en\n")
    with pytest.raises(TaxonomyError, match=r"vernacular\.csv: numbers its taxa; give the taxon table of the same"):
        Checklist.open([tmp_path / "vernacular.csv"])


def test_labels_name_species_and_vouch_for_moved_genera(tmp_path: Path) -> None:
    (tmp_path / "ebird.csv").write_text(EBIRD)
    (tmp_path / "de.txt").write_text("Accipiter cooperii_Rundschwanzsperber\nTurdus merula_Amsel\nEngine_Motor\n")
    (tmp_path / "en_us.txt").write_text("Accipiter cooperii_Cooper's Hawk\nTurdus merula_Blackbird\nEngine_Engine\n")
    assert Checklist.open([tmp_path / "ebird.csv"]).decide("Accipiter cooperii").how == "refused"
    checklist = Checklist.open([tmp_path / name for name in ("de.txt", "ebird.csv", "en_us.txt")])
    assert checklist.decide("Accipiter cooperii").species == "Astur cooperii"
    assert checklist.resolve("Turdus merula").common_name == "Blackbird"
    assert checklist.resolve("Astur cooperii").common_name == "Cooper's Hawk"
    assert checklist.common_names is not None
    assert sorted(checklist.common_names.rows()) == [
        ("Astur cooperii", "de", "Rundschwanzsperber"),
        ("Astur cooperii", "en", "Cooper's Hawk"),
        ("Turdus merula", "de", "Amsel"),
        ("Turdus merula", "en", "Blackbird"),
    ]
    assert checklist.lists["unused"].to_list() == [0, 1, 1]  # Engine


def test_the_first_list_gives_the_preferred_name(tmp_path: Path) -> None:
    (tmp_path / "ebird.csv").write_text(EBIRD)
    paths = [tmp_path / "ebird.csv", tmp_path / "a" / "de.txt", tmp_path / "b" / "de.txt"]
    for path, name in zip(paths[1:], ("Amsel", "Schwarzdrossel"), strict=True):
        path.parent.mkdir()
        path.write_text(f"Turdus merula_{name}\n")
    for order, name in ((paths, "Amsel"), ([paths[0], *paths[:0:-1]], "Schwarzdrossel")):
        checklist = Checklist.open(order)
        assert checklist.common_names is not None
        assert checklist.common_names.rows() == [("Turdus merula", "de", name)]


def test_an_english_name_in_another_language_is_no_translation(tmp_path: Path) -> None:
    (tmp_path / "ebird.csv").write_text(EBIRD)
    (tmp_path / "en_us.txt").write_text("Accipiter cooperii_Cooper's Hawk\nTurdus merula_Blackbird\n")
    (tmp_path / "de.txt").write_text("Accipiter cooperii_Cooper's Hawk\nTurdus merula_Blackbird\n")
    (tmp_path / "fr.txt").write_text("Accipiter cooperii_Blackbird\nTurdus merula_Merle noir\n")
    german = Checklist.open(tmp_path / name for name in ("de.txt", "ebird.csv"))  # of Turdus merula eBird says nothing
    assert german.common_names is not None
    assert german.common_names.rows() == [("Turdus merula", "de", "Blackbird")]
    checklist = Checklist.open(tmp_path / name for name in ("de.txt", "fr.txt", "ebird.csv", "en_us.txt"))
    assert checklist.common_names is not None
    assert sorted(checklist.common_names.filter(pl.col("language") != "en").rows()) == [
        ("Astur cooperii", "fr", "Blackbird"),
        ("Turdus merula", "fr", "Merle noir"),
    ]
    unused = dict(checklist.lists.select("list", "unused").iter_rows())
    assert unused == {"ebird.csv": 0, "en_us.txt": 0, "de.txt": 2, "fr.txt": 0}


def test_a_table_that_states_the_language_of_each_name_is_believed(tmp_path: Path) -> None:
    (tmp_path / "taxa.csv").write_text(TAXA)
    (tmp_path / "vernacular.csv").write_text("taxonID,vernacularName,language\n7,Limpkin,en\n7,Limpkin,nl\n")
    checklist = Checklist.open(tmp_path / name for name in ("taxa.csv", "vernacular.csv"))
    assert checklist.common_names is not None
    assert checklist.common_names["language"].to_list() == ["en", "nl"]


@needs_data
def test_real_labels_reach_nearly_all_their_species() -> None:
    labels = [DATA / "names" / "birdnet_labels" / name for name in ("de.txt", "en_us.txt", "ja.txt")]
    lists = [DATA / "names" / "eBird_taxonomy_v2025.csv", DATA / "names" / "birdnetgo_genus_taxonomy.json"]
    checklist = Checklist.open([*labels, *lists])
    assert checklist.common_names is not None
    counts = dict(checklist.common_names.group_by("language").len().iter_rows())
    assert set(counts) == {"de", "en", "ja"}
    assert counts["en"] > 6_400
    assert min(counts.values()) > 6_200  # English names in their place are left out
    names = checklist.common_names.filter(pl.col("species") == "Astur cooperii")
    assert dict(names.select("language", "name").iter_rows())["de"] == "Rundschwanzhabicht"
    houston = checklist.common_names.filter(pl.col("species") == "Anaxyrus houstonensis")
    assert houston.select("language", "name").rows() == [("en", "Houston Toad")]
    assert checklist.resolve("Lithobates clamitans").common_name == "Green Frog"


@needs_data
def test_the_epithet_alone_would_take_one_owl_for_another() -> None:
    """The figures of docs/decisions/0009-names.md: what a rule without the common name would do to real names."""
    birds = pl.read_csv(DATA / "names" / "eBird_taxonomy_v2025.csv", infer_schema=False)
    birds = birds.filter(pl.col("CATEGORY") == "species").select("SCI_NAME", "PRIMARY_COM_NAME", "FAMILY")
    called = {english: name for name, english, _ in birds.iter_rows()}
    family_of = {name: family for name, _, family in birds.iter_rows()}
    genus_family = {name.split(" ")[0]: family for name, family in family_of.items()}
    alike: dict[tuple[str, str], list[str]] = {}
    for name, family in family_of.items():
        alike.setdefault((stem(name), family), []).append(name)
    same: Counter[str] = Counter()
    others: dict[str, list[str]] = {}
    for name, english in read_common_names(DATA / "names" / "birdnet_labels" / "en_us.txt").select(
        "scientific_name", "name"
    ).iter_rows():  # fmt: skip
        if name in family_of or " " not in name:
            continue
        if english in called:
            found = alike.get((stem(name), family_of[called[english]]), [])
            same["right" if found == [called[english]] else "several" if len(found) > 1 else "other"] += 1
        elif family := genus_family.get(name.split(" ")[0]):
            others[name] = alike.get((stem(name), family), [])
    assert same == {"right": 211, "several": 13, "other": 3}
    assert len(others) == 29
    assert sum(len(found) == 1 for found in others.values()) == 7
    assert others["Otus madagascariensis"] == ["Asio madagascariensis"]


@needs_data
def test_inaturalists_names_are_read() -> None:
    folder = DATA / "responses" / "inat_taxonomy_dwca"
    names = read_common_names(folder / "VernacularNames-english.csv")
    assert names.row(0) == ("7", "en", "Limpkin")
    assert Checklist.open(sorted(folder.glob("*.csv"))).resolve("Aramus guarauna").common_name == "Limpkin"
