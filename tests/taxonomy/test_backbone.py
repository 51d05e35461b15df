"""Backbone tables: accepted species of animals, and every other name at the one it stands for."""

import gzip
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from biovita.errors import TaxonomyError
from biovita.taxonomy import backbone
from biovita.taxonomy.backbone import SIMPLE, Backbone
from biovita.taxonomy.rank import RANKS

RESPONSES = Path(__file__).parents[3] / "shared" / "data" / "responses"
needs_responses = pytest.mark.skipif(not RESPONSES.is_dir(), reason="shared/data/responses is not beside this checkout")

HAWKS = ("Animalia", "Chordata", "Aves", "Accipitriformes", "Accipitridae")
PLANTS = ("Plantae", "Tracheophyta", "Magnoliopsida", "Fabales", "Fabaceae")
USAGES = [  # id, parent, accepted, name, rank, status, lineage
    ("1", "", "", "Animalia", "kingdom", "accepted", ()),
    ("2", "1", "", "Chordata", "phylum", "accepted", HAWKS[:1]),
    ("3", "2", "", "Aves", "class", "accepted", HAWKS[:2]),
    ("4", "3", "", "Accipitriformes", "order", "accepted", HAWKS[:3]),
    ("5", "4", "", "Accipitridae", "family", "accepted", HAWKS[:4]),
    ("6", "5", "", "Astur", "genus", "accepted", HAWKS),
    ("7", "6", "", "Astur cooperii", "species", "accepted", HAWKS),
    ("8", "6", "7", "Accipiter cooperii", "species", "homotypic synonym", HAWKS),
    ("9", "6", "8", "Falco cooperii", "species", "synonym", HAWKS),  # a chain
    ("10", "7", "", "Astur cooperii minor", "subspecies", "accepted", HAWKS),
    ("11", "6", "10", "Accipiter mexicanus", "species", "synonym", HAWKS),  # of a subspecies
    ("12", "6", "13", "Falco rondo", "species", "synonym", HAWKS),  # a circle
    ("13", "6", "12", "Falco rondeau", "species", "synonym", HAWKS),
    ("14", "6", "99", "Falco lost", "species", "synonym", HAWKS),
    ("15", "6", "", "Astur cooperi", "species", "doubtful", HAWKS),
    ("16", "6", "", "Astur gentilis", "species", "accepted", HAWKS),
    ("17", "6", "16", "Falco partim", "species", "proparte synonym", HAWKS),
    ("18", "6", "16", "Falco falsus", "species", "misapplied", HAWKS),
    ("19", "6", "", "Astur \u00d7mixtus", "species", "accepted", HAWKS),
    ("20", "", "", "Plantae", "kingdom", "accepted", ()),
    ("21", "20", "", "Fabaceae", "family", "accepted", PLANTS[:4]),
    ("22", "21", "", "Astur vulgaris", "species", "accepted", PLANTS),
]


def taxon_tsv(folder: Path) -> Path:
    columns = ["taxonID", "parentNameUsageID", "acceptedNameUsageID", "canonicalName", "taxonRank", "taxonomicStatus"]
    lines = ["\t".join([*columns, "scientificName", *RANKS[:5], "genus"])]
    for id_, parent, accepted, name, rank, status, lineage in USAGES:
        ranks = [*lineage, *[""] * (5 - len(lineage))]
        # a lone quote is no quoting in GBIF's files
        fields = [id_, parent, accepted, name, rank, status, f'{name} "Smith, 1900', *ranks, name.split(" ")[0]]
        lines.append("\t".join(fields))
    path = folder / "Taxon.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def name_usage_tsv(folder: Path) -> Path:
    lines = ["col:ID\tcol:parentID\tcol:status\tcol:scientificName\tcol:authorship\tcol:rank"]
    for id_, parent, accepted, name, rank, status, _ in USAGES:
        status = {"doubtful": "bare name", "proparte synonym": "ambiguous synonym"}.get(status, status)
        lines.append("\t".join([id_, accepted or parent, status, name, "Smith, 1900", rank]))
    path = folder / "NameUsage.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def simple_gz(folder: Path) -> Path:
    id_of = {name: id_ for id_, _, _, name, *_ in USAGES}
    lines = []
    for id_, parent, accepted, name, rank, status, lineage in USAGES:
        fields = dict.fromkeys(SIMPLE, "\\N")
        fields |= {"id": id_, "parent_key": accepted or parent or "\\N", "rank": rank.upper(), "canonical_name": name}
        fields |= {"status": status.upper().replace(" ", "_"), "is_synonym": "t" if accepted else "f"}
        fields |= {f"{level}_key": id_of.get(taxon, "\\N") for level, taxon in zip(RANKS, lineage, strict=False)}
        lines.append("\t".join(fields.values()))
    path = folder / "simple.txt.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


READERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Backbone]]] = {
    "GBIF": (taxon_tsv, backbone.read_taxon_table),
    "Catalogue of Life": (name_usage_tsv, backbone.read_taxon_table),
    "GBIF simple": (simple_gz, backbone.read_simple),
}


@pytest.fixture(params=list(READERS))
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Backbone:
    make, reader = READERS[request.param]
    return reader(make(tmp_path))


def meanings(read: Backbone) -> dict[str, str]:
    return {name: read.species["species"][row] for name, row in read.names.iter_rows()}


def test_only_animals_are_species_and_they_carry_their_lineage(read: Backbone) -> None:
    assert read.species.select(RANKS).rows() == [
        (*HAWKS, "Astur", "Astur cooperii"),
        (*HAWKS, "Astur", "Astur gentilis"),
    ]


def test_synonyms_lead_to_the_accepted_species_through_chains_and_subspecies(read: Backbone) -> None:
    assert meanings(read) == {
        "Astur cooperii": "Astur cooperii",
        "Astur gentilis": "Astur gentilis",
        "Accipiter cooperii": "Astur cooperii",
        "Falco cooperii": "Astur cooperii",
        "Accipiter mexicanus": "Astur cooperii",
    }


def test_circles_gaps_doubts_and_parts_are_named_and_mean_nothing(read: Backbone) -> None:
    why = dict(read.doubted.iter_rows())
    assert set(why) == {"Falco rondo", "Falco rondeau", "Falco lost", "Astur cooperi", "Falco partim"}
    assert "leads to no accepted species" in why["Falco rondo"]
    assert "leads to no accepted species" in why["Falco lost"]
    assert "doubtful" in why["Astur cooperi"]
    assert "a synonym of Astur gentilis only in part" in why["Falco partim"]
    assert read.counts == {"names that are no plain binomials": 1}


def test_pointers_end_where_a_plain_walk_ends() -> None:
    rng = random.Random(3)
    for size in (0, 1, 2, 7, 64, 300):
        step = [rng.choice([-1, i, *range(size)]) for i in range(size)]
        step = [i if rng.random() < 0.2 else to for i, to in enumerate(step)]
        roots = {i for i, to in enumerate(step) if to == i}
        end = backbone.follow(np.array(step, dtype=np.int64))
        for start in range(size):
            seen, here = set(), start
            while here >= 0 and here not in seen:
                seen.add(here)
                here = step[here]
            ends_well = here in roots
            assert (int(end[start]) in roots) == ends_well
            assert not ends_well or end[start] == here


def test_a_table_without_animals_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "taxa.csv"
    path.write_text("taxonID,scientificName,taxonRank,kingdom,family\n1,Astur vulgaris,species,Plantae,Fabaceae\n")
    with pytest.raises(TaxonomyError, match=r"taxa\.csv: holds no accepted species of Animalia"):
        backbone.read_taxon_table(path)


def test_one_name_of_two_families_stays_two_species(tmp_path: Path) -> None:
    path = tmp_path / "taxa.csv"
    path.write_text(
        "taxonID,scientificName,taxonRank,kingdom,phylum,class,order,family\n"
        "1,Aus bus,species,Animalia,Arthropoda,Insecta,Diptera,Ausidae\n"
        "2,Aus bus,species,Animalia,Arthropoda,Insecta,Coleoptera,Busidae\n"
        "3,Aus bus,species,Animalia,Arthropoda,Insecta,Coleoptera,Busidae\n"
    )
    read = backbone.read_taxon_table(path)
    assert read.names.rows() == [("Aus bus", 0), ("Aus bus", 1)]
    assert read.counts == {"duplicates": 1}


@needs_responses
def test_inaturalists_own_taxonomy_is_read() -> None:
    read = backbone.read_taxon_table(RESPONSES / "inat_taxonomy_dwca" / "taxa.csv")
    assert len(read.species) == 8
    limpkin = read.species.filter(pl.col("species") == "Aramus guarauna").row(0, named=True)
    assert (limpkin["class"], limpkin["family"], limpkin["taxon_id"]) == ("Aves", "Aramidae", "7")


@needs_responses
def test_an_old_archive_without_kingdoms_or_ranks_of_synonyms_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(RESPONSES / "dwca" / "archive-tax.zip") as archive:
        path = tmp_path / "DarwinCore.txt"
        path.write_bytes(archive.read("archive-tax/DarwinCore.txt"))
    read = backbone.read_taxon_table(path)
    assert set(read.species["order"]) == {"Cetacea"}
    assert set(read.species["kingdom"]) == {""}
    assert len(read.names) > len(read.species) > 10
