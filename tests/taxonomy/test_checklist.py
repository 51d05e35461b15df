"""Names as sources write them: one species, or a refusal that says why."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from biovita.errors import DatasetError, TaxonomyError
from biovita.taxonomy.checklist import HINTS, LOG_COLUMNS, Checklist, _hints
from biovita.taxonomy.decide import decide
from biovita.taxonomy.parse import parse_names
from biovita.taxonomy.rank import LEVELS, RANKS

NAMES = Path(__file__).parents[3] / "shared" / "data" / "names"
needs_names = pytest.mark.skipif(not NAMES.is_dir(), reason="shared/data/names is not beside this checkout")


def lists(folder: Path) -> list[Path]:
    """A taxa table, an eBird-like CSV and a genus JSON, each with something the others lack."""
    lineage = ("Animalia", "Chordata", "Amphibia", "Anura", "Hylidae", "Hyla", "Hyla arborea")
    row = {**dict(zip(RANKS, lineage, strict=True)), "common_name": "Tree Frog", "nocturnal": "TRUE", "diurnal": ""}
    toad = {**row, "family": "Bufonidae", "genus": "Bufo", "species": "Bufo calamites", "nocturnal": "0"}
    pl.DataFrame([row, toad]).write_csv(folder / "taxa.csv")
    (folder / "ebird.csv").write_text(
        "\ufeffCATEGORY,PRIMARY_COM_NAME,SCI_NAME,ORDER,FAMILY\n"
        "species,Eurasian Blackbird,Turdus merula,Passeriformes,Turdidae (Thrushes and Allies)\n"
        "slash,a slash,Turdus merula/mandarinus,Passeriformes,Turdidae (Thrushes and Allies)\n"
    )
    genera = {
        "hyla": {"class": "Amphibia", "order": "Anura", "family": "Hylidae", "species": ["Hyla arborea", "Tree"]},
        "turdus": {"class": "Aves", "order": "Passeriformes", "family": "Turdidae", "species": ["Turdus merula"]},
        "vulpes": {"class": "Mammalia", "order": "Carnivora", "family": "Canidae", "species": ["Vulpes vulpes"]},
        "apis": {"class": "Insecta", "order": "Hymenoptera", "family": "Apidae", "species": []},
    }
    (folder / "genera.json").write_text(json.dumps({"genera": genera}))
    return [folder / "taxa.csv", folder / "ebird.csv", folder / "genera.json"]


@pytest.fixture
def checklist(tmp_path: Path) -> Checklist:
    return Checklist.open(lists(tmp_path))


@pytest.mark.parametrize(
    ("name", "species", "family", "common_name"),
    [
        ("Turdus merula", "Turdus merula", "Turdidae", "Eurasian Blackbird"),
        ("  turdus   MERULA ", "Turdus merula", "Turdidae", "Eurasian Blackbird"),
        ("Turdus_merula", "Turdus merula", "Turdidae", "Eurasian Blackbird"),
        ("Turdus merula azorensis Hartert, 1905", "Turdus merula", "Turdidae", "Eurasian Blackbird"),
        ("Turdus (Merula) merula Linnaeus, 1758", "Turdus merula", "Turdidae", "Eurasian Blackbird"),
        ("Turdus merula [merula Group]", "Turdus merula", "Turdidae", "Eurasian Blackbird"),
        ("Hyla arborea", "Hyla arborea", "Hylidae", "Tree Frog"),
        ("Vulpes vulpes", "Vulpes vulpes", "Canidae", ""),
        ("Vulpes zerda", "Vulpes zerda", "Canidae", ""),
        ("Apis mellifera", "Apis mellifera", "Apidae", ""),
    ],
)
def test_a_name_means_this_species(
    checklist: Checklist, name: str, species: str, family: str, common_name: str
) -> None:
    taxon = checklist.resolve(name)
    assert (taxon.species, taxon.family, taxon.common_name) == (species, family, common_name)
    assert (taxon.kingdom, taxon.genus) == ("Animalia", species.split()[0])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "no scientific name"),
        ("Hyla versicolor/chrysoscelis", "more than one species"),
        ("Turdus", "one word"),
        ("Turdus sp.", "not identified to species"),
        ("Turdus cf. merula", "not identified to species"),
        ("Hyla arborea x Hyla orientalis", "hybrid"),
        ("\u00d7Hyla arborea", "hybrid"),
        ("Turdus merla", r"no such species in Turdus; is Turdus merula meant\?"),
        ("Turdus novus", "no such species in Turdus"),
        ("Vulpes vulpess", "is Vulpes vulpes meant"),
        ("Vulpis vulpes", "no name list knows the genus Vulpis; is Vulpes meant"),
        ("Unknown bird 3", "a placeholder"),
        ("Corvus corax", "no name list knows the genus Corvus"),
        ("Turdus 123", "not identified to species"),
        ("Bufo calamita", "no such species in Bufo; is Bufo calamites meant"),
    ],
)
def test_a_name_that_is_no_single_known_species_is_refused(checklist: Checklist, name: str, why: str) -> None:
    with pytest.raises(TaxonomyError, match=why):
        checklist.resolve(name)


def test_phyla_come_from_the_class(checklist: Checklist) -> None:
    names = ("Turdus merula", "Vulpes vulpes", "Apis mellifera")
    assert [checklist.resolve(name).phylum for name in names] == ["Chordata", "Chordata", "Arthropoda"]


def test_traits_are_true_false_or_null(checklist: Checklist) -> None:
    assert checklist.traits is not None
    frog, toad = checklist.traits.iter_rows(named=True)
    assert frog == {"species": "Hyla arborea", "nocturnal": True, "diurnal": None, "traits_source": "taxa.csv"}
    assert toad["nocturnal"] is False


def test_a_bad_list_is_named(tmp_path: Path) -> None:
    pl.DataFrame({"species": ["A b"]}).write_csv(tmp_path / "a.csv")
    with pytest.raises(DatasetError, match=r"a\.csv: no column 'kingdom'"):
        Checklist.open([tmp_path / "a.csv"])
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(TaxonomyError, match=r"b\.json: no key 'genera'"):
        Checklist.open([tmp_path / "b.json"])


HAWK = ("Animalia", "Chordata", "Aves", "Accipitriformes", "Accipitridae")
FLY = ("Animalia", "Arthropoda", "Insecta", "Diptera", "Syrphidae")


def taxon_table(folder: Path, rows: list[tuple[str, str, str, tuple[str, ...]]], name: str = "taxon.tsv") -> Path:
    """Write a Darwin Core taxon table of (name, accepted name, status, lineage)."""
    ids = {name: str(i) for i, (name, *_) in enumerate(rows)}
    lines = ["\t".join(("taxonID", "acceptedNameUsageID", "taxonomicStatus", "taxonRank", "canonicalName", *RANKS[:5]))]
    for i, (given, accepted, status, lineage) in enumerate(rows):
        rank = "species" if given.count(" ") == 1 else "subspecies"
        lines.append("\t".join((str(i), ids.get(accepted, ""), status, rank, given, *lineage)))
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def ebird(folder: Path, *birds: tuple[str, str]) -> Path:
    rows = "".join(f"species,{common},{name},Accipitriformes,Accipitridae (Hawks)\n" for name, common in birds)
    (folder / "ebird.csv").write_text("CATEGORY,PRIMARY_COM_NAME,SCI_NAME,ORDER,FAMILY\n" + rows)
    return folder / "ebird.csv"


def test_a_synonym_is_its_accepted_species(tmp_path: Path) -> None:
    rows = [("Astur cooperii", "", "accepted", HAWK), ("Accipiter cooperii", "Astur cooperii", "synonym", HAWK)]
    checklist = Checklist.open([taxon_table(tmp_path, rows)])
    decision = checklist.decide("Accipiter cooperii (Bonaparte, 1828)")
    assert (decision.species, decision.how, decision.source) == ("Astur cooperii", "synonym", "taxon.tsv")
    assert checklist.resolve("Accipiter cooperii") == checklist.resolve("Astur cooperii")


def test_a_homonym_is_refused_unless_a_higher_rank_decides(tmp_path: Path) -> None:
    checklist = Checklist.open([taxon_table(tmp_path, [("Aus bus", "", "", HAWK), ("Aus bus", "", "", FLY)])])
    with pytest.raises(TaxonomyError, match=r"one name of several animals: Aus bus \(Aves, .*\); Aus bus \(Insecta"):
        checklist.resolve("Aus bus")
    assert checklist.resolve("Aus bus", {"class": "aves"}).family == "Accipitridae"
    assert checklist.resolve("Aus bus", {"phylum": "Arthropoda"}).order == "Diptera"
    with pytest.raises(TaxonomyError, match="several animals"):
        checklist.resolve("Aus bus", {"kingdom": "Animalia"})
    with pytest.raises(TaxonomyError, match="the source means another animal by it: class Mammalia is"):
        checklist.resolve("Aus bus", {"class": "Mammalia"})


def test_a_synonym_of_two_species_is_refused(tmp_path: Path) -> None:
    rows = [("Aus bus", "", "", HAWK), ("Cus dus", "", "", HAWK), ("Eus fus", "Aus bus", "synonym", HAWK)]
    path = taxon_table(tmp_path, rows)
    path.write_text(path.read_text() + "9\t1\tsynonym\tspecies\tEus fus\t" + "\t".join(HAWK) + "\n")
    with pytest.raises(TaxonomyError, match=r"several animals: Aus bus .*; Cus dus"):
        Checklist.open([path]).resolve("Eus fus")


@pytest.mark.parametrize(
    ("lineage", "differs"),
    [
        ({}, ""),
        ({"order": "Falconiformes", "family": "Accipitridae"}, "order Falconiformes is Accipitriformes here"),
        ({"class": "AVES", "family": "Pandionidae"}, "family Pandionidae is Accipitridae here"),
        ({"kingdom": "Metazoa"}, ""),
        ({"family": None, "genus": "Accipiter"}, ""),
    ],
)
def test_a_source_that_differs_at_some_rank_is_believed_and_recorded(
    tmp_path: Path, lineage: dict[str, str], differs: str
) -> None:
    decision = Checklist.open([ebird(tmp_path, ("Astur cooperii", "Cooper's Hawk"))]).decide("Astur cooperii", lineage)
    assert (decision.species, decision.differs) == ("Astur cooperii", differs)


@pytest.mark.parametrize(
    "lineage",
    [
        {"kingdom": "Plantae"},
        {"phylum": "Arthropoda", "class": "Aves"},
        {"class": "Insecta"},
        {"class": "Insecta", "order": "Diptera", "family": "Syrphidae"},
    ],
)
def test_a_source_that_means_another_organism_is_refused(checklist: Checklist, lineage: dict[str, str]) -> None:
    for name in ("Turdus merula", "Vulpes vulpes", "Vulpes zerda"):
        with pytest.raises(TaxonomyError, match="the source means another animal by it"):
            checklist.resolve(name, lineage)


def test_reptiles_by_another_system_are_the_same_animals(tmp_path: Path) -> None:
    snake = ("Animalia", "Chordata", "Squamata", "", "")
    checklist = Checklist.open([taxon_table(tmp_path, [("Natrix natrix", "", "", snake)])])
    assert checklist.resolve("Natrix natrix", {"class": "Reptilia"}).class_ == "Squamata"


def test_a_later_list_calls_the_same_animal_otherwise(tmp_path: Path) -> None:
    rows = [("Accipiter cooperii", "", "", HAWK), ("Falco cooperii", "Accipiter cooperii", "synonym", HAWK),
            ("Astur cooperii", "Accipiter cooperii", "synonym", HAWK)]  # fmt: skip
    checklist = Checklist.open([ebird(tmp_path, ("Astur cooperii", "Cooper's Hawk")), taxon_table(tmp_path, rows)])
    names = ("Astur cooperii", "Accipiter cooperii", "Falco cooperii")
    assert {checklist.resolve(name).species for name in names} == {"Astur cooperii"}
    assert len(checklist) == 1


def test_a_later_list_that_lumps_decides_nothing_about_the_parts(tmp_path: Path) -> None:
    rows = [("Astur gentilis", "", "", HAWK), ("Astur atricapillus", "Astur gentilis", "synonym", HAWK),
            ("Falco palumbarius", "Astur gentilis", "synonym", HAWK)]  # fmt: skip
    birds = ebird(tmp_path, ("Astur gentilis", "Eurasian Goshawk"), ("Astur atricapillus", "American Goshawk"))
    checklist = Checklist.open([birds, taxon_table(tmp_path, rows)])
    assert checklist.resolve("Astur atricapillus").common_name == "American Goshawk"
    assert checklist.resolve("Astur gentilis").common_name == "Eurasian Goshawk"
    with pytest.raises(TaxonomyError, match="earlier lists tell apart: Astur atricapillus, Astur gentilis"):
        checklist.resolve("Falco palumbarius")


def test_a_class_that_one_list_holds_whole_gets_no_species_from_later_lists(tmp_path: Path) -> None:
    rows = [("Astur inventus", "", "", HAWK), ("Volucella zonaria", "", "", FLY)]
    checklist = Checklist.open([ebird(tmp_path, ("Astur cooperii", "Cooper's Hawk")), taxon_table(tmp_path, rows)])
    assert checklist.resolve("Volucella zonaria").class_ == "Insecta"
    with pytest.raises(TaxonomyError, match=r"unknown to ebird\.csv, which lists all Aves"):
        checklist.resolve("Astur inventus")


def test_a_subspecies_folds_unless_the_lists_know_better(tmp_path: Path) -> None:
    rows = [("Corvus corone", "", "", HAWK), ("Corvus cornix", "", "", HAWK), ("Corvus orientalis", "", "", HAWK),
            ("Corvus corone sinensis", "Corvus orientalis", "synonym", HAWK)]  # fmt: skip
    checklist = Checklist.open([taxon_table(tmp_path, rows)])
    folded = checklist.decide("Corvus corone corone Linnaeus, 1758")
    assert (folded.species, folded.below, folded.how) == ("Corvus corone", "corone", "subspecies")
    assert checklist.resolve("Corvus corone sinensis").species == "Corvus orientalis"
    with pytest.raises(TaxonomyError, match="a species of its own here; is Corvus cornix meant"):
        checklist.resolve("Corvus corone cornix")


def test_a_moved_genus_is_believed_only_with_the_common_name(tmp_path: Path) -> None:
    birds = ebird(tmp_path, ("Astur cooperii", "Cooper's Hawk"), ("Ketupa lactea", "Verreaux's Eagle-Owl"))
    checklist = Checklist.open([birds])
    moved = checklist.decide("Accipiter cooperii", {"common_name": "COOPER\u2019S HAWK"})
    assert (moved.species, moved.how) == ("Astur cooperii", "moved genus")
    assert checklist.decide("Bubo lacteus", {"common_name": "Verreaux's Eagle-owl"}).species == "Ketupa lactea"
    for common_name in (None, "", "Sharp-shinned Hawk", "Verreaux's Eagle-Owl"):
        with pytest.raises(TaxonomyError, match=r"is Astur cooperii meant\?"):
            checklist.resolve("Accipiter cooperii", {"common_name": common_name})
    with pytest.raises(TaxonomyError, match="another animal"):
        checklist.resolve("Accipiter cooperii", {"common_name": "Cooper's Hawk", "class": "Insecta"})


def test_an_older_name_in_the_genus_table_is_its_species(tmp_path: Path) -> None:
    frogs = {"class": "Amphibia", "order": "Anura", "family": "Hylidae"}
    genera = {
        "dryophytes": {**frogs, "species": ["Dryophytes cinereus", "Hyla cinerea", "Hyla plicata", "Tree Frog"]},
        "hyla": {**frogs, "species": ["Hyla arborea"]},
    }
    (tmp_path / "genera.json").write_text(json.dumps({"genera": genera}))
    checklist = Checklist.open([tmp_path / "genera.json"])
    assert (checklist.decide("Hyla cinerea").species, checklist.decide("Hyla cinerea").how) == (
        "Dryophytes cinereus",
        "synonym",
    )
    with pytest.raises(TaxonomyError, match="an older name; is a species of Dryophytes meant"):
        checklist.resolve("Hyla plicata")
    assert checklist.decide("Hyla nova").how == "genus known"


def test_a_listed_name_that_looks_like_an_aggregate_is_a_species(tmp_path: Path) -> None:
    checklist = Checklist.open([taxon_table(tmp_path, [("Oedipina complex", "", "", HAWK), ("Aus bus", "", "", HAWK)])])
    assert checklist.resolve("Oedipina complex").species == "Oedipina complex"
    with pytest.raises(TaxonomyError, match="not identified to species"):
        checklist.resolve("Aus complex")


def test_a_word_in_capitals_is_no_new_species(checklist: Checklist) -> None:
    with pytest.raises(TaxonomyError, match="the second word may be its author"):
        checklist.resolve("Vulpes Frisch")
    assert checklist.resolve("Turdus Merula").species == "Turdus merula"


def test_the_log_has_one_row_a_distinct_name_and_hint(checklist: Checklist) -> None:
    names = pl.DataFrame(
        {
            "scientific_name": ["Turdus merula L.", "Turdus merula L.", "Turdus merula L.", None, "Turdus merla"],
            "given_class": ["Aves", "Aves", "Insecta", None, None],
            "source": ["a", "b", "c", "d", "e"],
        }
    )
    log = checklist.decide_all(names)
    assert log.columns == ["scientific_name", "given_class", *LOG_COLUMNS]
    assert log.select("scientific_name", "given_class", "how", "species", "parsed_name").rows() == [
        (None, None, "refused", None, None),
        ("Turdus merla", None, "refused", None, "Turdus merla"),
        ("Turdus merula L.", "Aves", "accepted", "Turdus merula", "Turdus merula"),
        ("Turdus merula L.", "Insecta", "refused", None, "Turdus merula"),
    ]
    assert (log["reason"].is_null() == log["species"].is_not_null()).all()
    assert log["reason"][1] == "'Turdus merla': no such species in Turdus; is Turdus merula meant?"
    assert log["list"].to_list() == [None, None, "ebird.csv", None]


def test_the_log_does_not_depend_on_the_order_of_names(checklist: Checklist) -> None:
    names = pl.DataFrame({"scientific_name": ["Turdus merula", "Hyla arborea", "x", "Apis mellifera", ""]})
    assert checklist.decide_all(names).equals(checklist.decide_all(names.reverse()))
    assert len(checklist.decide_all(names.clear())) == 0


def test_many_names_are_decided_as_one_by_one(checklist: Checklist) -> None:
    names = [
        "Turdus merula",
        "Turdus (Merula) merula azorensis",
        "Vulpes vulpess",
        "Apis nova",
        "Hyla",
        "Vulpis vulpes",
    ]
    rows = checklist.decide_all(pl.DataFrame({"scientific_name": names})).iter_rows(named=True)
    for row in rows:
        one = checklist.decide(row["scientific_name"])
        assert (row["how"], row["species"], row["reason"] or "") == (one.how, one.species, one.reason)
        assert one.taxon is None or one.taxon.row() == {level: row[level] for level in LEVELS}


def check_by_the_rules(checklist: Checklist, names: pl.DataFrame) -> pl.DataFrame:
    """The log of many names is what the rules say of each of them."""
    log = checklist.decide_all(names)
    parsed = parse_names(log["scientific_name"].fill_null(""))
    known = checklist._known(parsed)
    for name, row in zip(parsed, log.iter_rows(named=True), strict=True):
        made = decide(name, _hints({level: row.get(column) for column, level in HINTS.items()}), known)
        ours = (made.parsed, made.below, made.how, made.species, made.source, made.differs, made.reason)
        columns = ("parsed_name", "below_species", "how", "species", "list", "differs", "reason")
        assert ours == tuple(row[c] if c in ("how", "species") else row[c] or "" for c in columns)
        assert {level: row[level] for level in LEVELS} == (made.taxon.row() if made.taxon else dict.fromkeys(LEVELS))
    return log


def spoiled(names: list[str], n: int) -> pl.DataFrame:
    """Names as they are, with authors, with a slip, as a subspecies, moved to another genus; with and without hints."""
    rng = random.Random(3)
    rows = []
    for _ in range(n):
        name, other = rng.choice(names), rng.choice(names)
        i = rng.randrange(1, len(name))
        text = rng.choice((
            *(name, f"{name} (Linnaeus, 1758)", f"{name} Smith & M\u00fcller, 1899", f"{name} Auct, 1899"),
            *(name[:i] + name[i + 1 :], name[:i] + "e" + name[i:], f"{name} {other.split(' ')[1]}", f"{name} sp."),
            *(f"{other.split(' ')[0]} {name.split(' ')[1]}", name.upper()),
        ))  # fmt: skip
        class_, order = rng.choice((None, "Aves", " AVES", "Insecta")), rng.choice((None, "Passeriformes", "Anura"))
        rows.append((text, class_, order, rng.choice((None, "Eurasian Blackbird"))))
    hints = ("given_class", "given_order", "given_common_name")
    return pl.DataFrame(rows, dict.fromkeys(("scientific_name", *hints), pl.String), orient="row")


def test_a_column_of_names_is_decided_by_the_same_rules(tmp_path: Path) -> None:
    rows = [("Aus bus", "", "", HAWK), ("Aus bus", "", "", FLY), ("Cus dus", "", "", HAWK),
            ("Eus dus", "Cus dus", "synonym", HAWK), ("Fus gus", "Cus dus", "doubtful", HAWK)]  # fmt: skip
    checklist = Checklist.open([taxon_table(tmp_path, rows), *lists(tmp_path)])
    names = spoiled([*(name for name, *_ in rows), "Turdus merula", "Hyla arborea", "Vulpes vulpes"], 2_000)
    log = check_by_the_rules(checklist, names)
    assert set(log["how"]) == {"accepted", "synonym", "subspecies", "genus known", "moved genus", "refused"}


@needs_names
def test_columns_of_real_names_are_decided_by_the_same_rules() -> None:
    checklist = Checklist.open([NAMES / "eBird_taxonomy_v2025.csv", NAMES / "birdnetgo_genus_taxonomy.json"])
    labels = (NAMES / "birdnet_labels" / "en_us.txt").read_text(encoding="utf-8-sig").splitlines()
    names = [name for name in (label.split("_")[0] for label in labels) if " " in name]
    log = check_by_the_rules(checklist, spoiled(names, 8_000))
    assert len(log) > 7_500
    assert log.filter(pl.col("how") == "refused").height > 1_000


def test_a_column_without_any_text_is_no_hint(checklist: Checklist) -> None:
    names = pl.DataFrame({"scientific_name": ["Turdus merula", None], "given_class": [None, None]})
    assert checklist.decide_all(names)["species"].to_list() == [None, "Turdus merula"]
    assert checklist.decide_all(names.filter(pl.col("scientific_name").is_null()).select(pl.all().cast(pl.Null)))[
        "how"
    ].to_list() == ["refused"]


def test_traits_follow_their_species_to_its_accepted_name(tmp_path: Path) -> None:
    rows = [("Astur cooperii", "", "", HAWK), ("Accipiter cooperii", "Astur cooperii", "synonym", HAWK)]
    lineage = dict(zip(RANKS, (*HAWK, "Accipiter", "Accipiter cooperii"), strict=True))
    pl.DataFrame([{**lineage, "diurnal": "1"}]).write_csv(tmp_path / "traits.csv")
    checklist = Checklist.open([taxon_table(tmp_path, rows), tmp_path / "traits.csv"])
    assert checklist.traits is not None
    assert checklist.traits["species"].to_list() == ["Astur cooperii"]
    assert checklist.table()["diurnal"].to_list() == [True]


def test_traits_keep_their_sources_and_their_conflicts(tmp_path: Path) -> None:
    lineage = dict(zip(RANKS, (*HAWK, "Astur", "Astur cooperii"), strict=True))
    origin = {"traits_source": '{"diurnal": "avonet"}', "traits_conflict": '{"diurnal": "avonet: true, anage: false"}'}
    pl.DataFrame([{**lineage, "diurnal": True, **origin}]).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame([{**lineage, "species": "Astur minor", "diurnal": "0"}]).write_csv(tmp_path / "b.csv")
    for order in (("a.parquet", "b.csv"), ("b.csv", "a.parquet")):
        checklist = Checklist.open(tmp_path / name for name in order)
        assert checklist.traits is not None
        assert sorted(checklist.traits.select("species", "diurnal", *origin).rows()) == [
            ("Astur cooperii", True, *origin.values()),
            ("Astur minor", False, "b.csv", None),
        ]


def test_the_fingerprint_is_of_what_is_known(tmp_path: Path) -> None:
    """It is the same for the same lists, and another one as soon as a name could be decided otherwise."""
    rows = [("Astur cooperii", "", "", HAWK), ("Accipiter cooperii", "Astur cooperii", "synonym", HAWK)]
    paths = [taxon_table(tmp_path, rows), *lists(tmp_path)]
    labels = tmp_path / "de.txt"
    labels.write_text("Turdus merula_Amsel\n")
    first = Checklist.open([*paths, labels]).fingerprint()
    assert Checklist.open([*paths, labels]).fingerprint() == first

    def rewritten(path: Path, old: str, new: str) -> Callable[[], list[Path]]:
        def write() -> list[Path]:
            path.write_text(path.read_text().replace(old, new, 1))
            return [*paths, labels]

        return write

    changes = {
        "order": lambda: [*paths[::-1], labels],
        "no labels": lambda: paths,
        "a synonym less": rewritten(paths[0], "synonym", "misapplied"),
        "a doubt": rewritten(paths[0], "misapplied", "doubtful"),
        "an order": rewritten(paths[0], "Accipitriformes", "Falconiformes"),
        "a genus": rewritten(paths[3], "apis", "bombus"),
        "a name in a genus": rewritten(paths[3], "Turdus merula", "Turdus pilaris"),
        "an older name": rewritten(paths[3], '"Tree"', '"Rana arborea"'),
        "a trait": rewritten(paths[1], "TRUE", "FALSE"),
        "a common name": rewritten(labels, "Amsel", "Schwarzdrossel"),
    }
    seen = {first}
    for n, change in enumerate(changes.values(), start=2):
        seen.add(Checklist.open(change()).fingerprint())
        assert len(seen) == n


HEADER = "kingdom,phylum,class,order,family,genus,species,diurnal"
ROW = "Animalia,Chordata,Aves,Passeriformes,Turdidae,Turdus,Turdus merula,TRUE"


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\n{ROW}\n",
        f"{HEADER.title()}\n{ROW}\n",
        f"\ufeff{HEADER.upper()}\r\n{ROW}\r\n",
        f"{HEADER}\n{ROW}\n,,,,,,,\n",
        f"{HEADER}\n{ROW.replace('Turdus merula', 'Turdus_merula')}\n",
        f"{HEADER}\n{ROW.replace('Turdus merula', 'turdus merula')}\n",
        HEADER + "\n" + ROW.replace("Turdus merula", '"Turdus merula Linnaeus, 1758"') + "\n",
        f"{HEADER}\n{ROW.replace('Turdus merula', 'Turdus merula (Linnaeus)')}\n",
        f"{HEADER}\n{ROW.replace('TRUE', 'Yes')}\n",
    ],
)
def test_a_table_of_ranks_is_read_however_it_is_written(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    checklist = Checklist.open([tmp_path / "t.csv"])
    assert len(checklist) == 1
    assert checklist.resolve("Turdus merula Linnaeus, 1758").family == "Turdidae"
    assert checklist.traits is not None
    assert checklist.traits.select("species", "diurnal").rows() == [("Turdus merula", True)]


def test_a_species_of_three_words_stays_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"{HEADER}\n{ROW.replace('Turdus merula', 'Turdus merula maximus')}\n")
    assert Checklist.open([tmp_path / "t.csv"]).table()["species"].to_list() == ["Turdus merula maximus"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", f"{HEADER}\n{ROW.replace('TRUE', 'often')}\n", "column 'diurnal': 'often' is neither true nor false"),
        ("t.csv", f"{HEADER}\n{ROW.replace('Turdus merula', 'merula')}\n", "'merula': a name list needs binomials"),
        ("t.csv", "SCI_NAME,ORDER,FAMILY\nTurdus merula,Passeriformes,Turdidae\n", "no column 'PRIMARY_COM_NAME'"),
        ("t.json", '{"genera": {"turdus": {"class": "Aves"}}}', "genus 'turdus' lacks its class, order or family"),
        ("t.parquet", "no", "t.parquet: not a readable table"),
        ("t.json", '{"genera": {"turdus": null}}', "genus 'turdus' lacks its class, order or family"),
        ("t.txt", "Turdus merula\n", "none of the kinds of name list .*; it begins with 'Turdus merula'"),
        ("t.csv", f"{HEADER}\n{ROW}\n".replace(",", ";"), "its columns are divided by ';'"),
    ],
)
def test_a_name_list_that_cannot_be_used_is_refused_with_what_is_wrong(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises((TaxonomyError, DatasetError), match=message):
        Checklist.open([tmp_path / name])


def test_a_packed_list_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    rng = random.Random(5)
    epithets = ("".join(rng.choices("abcdefghij", k=12)) for _ in range(20_000))
    rows = [f"{i}\tTurdus {epithet}\tspecies\tAnimalia\tTurdidae\n" for i, epithet in enumerate(epithets)]
    whole = gzip.compress(f"taxonID\tscientificName\ttaxonRank\tkingdom\tfamily\n{''.join(rows)}".encode())
    (tmp_path / "Taxon.tsv.gz").write_bytes(whole)
    assert len(Checklist.open([tmp_path / "Taxon.tsv.gz"])) == 20_000
    for name, content in (("cut", whole[: len(whole) // 2]), ("short", whole[:20]), ("plain", b"taxonID\n")):
        (tmp_path / f"{name}.tsv.gz").write_bytes(content)
        with pytest.raises(TaxonomyError, match=rf"{name}\.tsv\.gz: cannot be .*; get it again"):
            Checklist.open([tmp_path / f"{name}.tsv.gz"])


def test_labels_in_another_encoding_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels_de.txt").write_bytes("Turdus merula_Schw\u00e4rzling\n".encode("latin-1"))
    with pytest.raises(TaxonomyError, match=r"labels_de\.txt: its text is not UTF-8"):
        Checklist.open([tmp_path / "labels_de.txt"])


def test_a_file_of_another_kind_is_refused_with_the_kinds_we_know(tmp_path: Path) -> None:
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TaxonomyError, match=r"odd\.csv: none of the kinds of name list .*eBird.*Catalogue of Life"):
        Checklist.open([tmp_path / "odd.csv"])
    (tmp_path / "odd.doc").write_text("a")
    with pytest.raises(DatasetError, match=r"odd\.doc: a table ends in"):
        Checklist.open([tmp_path / "odd.doc"])
    with pytest.raises(DatasetError, match="no such table"):
        Checklist.open([tmp_path / "none.csv"])


@needs_names
def test_the_real_lists_resolve_birds_frogs_and_mammals() -> None:
    checklist = Checklist.open([NAMES / "eBird_taxonomy_v2025.csv", NAMES / "birdnetgo_genus_taxonomy.json"])
    assert len(checklist) > 11_000
    found = [checklist.resolve(name) for name in ("Turdus migratorius", "Lithobates clamitans", "Bison bison")]
    assert [(t.class_, t.family) for t in found] == [
        ("Aves", "Turdidae"), ("Amphibia", "Ranidae"), ("Mammalia", "Bovidae")
    ]  # fmt: skip
    with pytest.raises(TaxonomyError, match="is Turdus migratorius meant"):
        checklist.resolve("Turdus migratorus")


WILDLIFE = NAMES.parent / "wildlife" / "manifest.tsv"


@pytest.mark.skipif(not WILDLIFE.is_file(), reason="shared/data/wildlife is not beside this checkout")
def test_every_name_of_the_wildlife_set_is_resolved_or_a_slash() -> None:
    checklist = Checklist.open([NAMES / "eBird_taxonomy_v2025.csv", NAMES / "birdnetgo_genus_taxonomy.json"])
    names = pl.read_csv(WILDLIFE, separator="\t", infer_schema=False, quote_char=None)
    log = checklist.decide_all(names)
    assert len(log) == 42
    assert log.filter(pl.col("how") == "refused")["reason"].to_list() == [
        "'Dryophytes versicolor/chrysoscelis': names more than one species"
    ]
    assert log["class"].drop_nulls().value_counts().sort("class").rows() == [
        ("Amphibia", 18),
        ("Aves", 16),
        ("Mammalia", 7),
    ]
