"""Names as sources write them: one species, or a refusal that says why."""

import json
from pathlib import Path

import polars as pl
import pytest

from biovita.errors import DatasetError, TaxonomyError
from biovita.taxonomy.checklist import Checklist, binomial
from biovita.taxonomy.rank import RANKS

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
        ("Unknown bird 3", "no name list knows the genus"),
        ("Turdus 123", "not a binomial"),
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


def test_folding_is_stable() -> None:
    assert binomial(binomial("turdus merula L.")) == "Turdus merula"


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
