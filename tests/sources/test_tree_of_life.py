"""Catalogues of pictures: the wanted species, so many of each, chosen by a pure function of seed and ids."""

import random
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from biovita.errors import DatasetError
from biovita.sources import tree_of_life
from biovita.sources.record import RECORDS_SCHEMA
from biovita.sources.tree_of_life import rank_of_ids, read

MASK = 2**64 - 1


def row(number: int, species: str = "Turdus merula", **other: Any) -> dict[str, Any]:
    genus = species.split()[0]
    return {
        "uuid": str(uuid.UUID(int=random.Random(number).getrandbits(128))),
        "source_url": f"https://inaturalist-open-data.s3.amazonaws.com/photos/{number}/original.jpg",
        "kingdom": "Animalia",
        "phylum": "Chordata",
        "class": "Aves",
        "order": "Passeriformes",
        "family": "Turdidae",
        "genus": genus,
        "species": species,
        "scientific_name": species,
        "common": "blackbird",
        "data_source": "GBIF",
        "publisher": "iNaturalist",
        "basis_of_record": "HUMAN_OBSERVATION",
        "img_type": "Citizen Science",
        "source_id": str(1000 + number),
        "license_name": "cc-by",
        "license_link": "http://creativecommons.org/licenses/by/4.0/",
        "copyright_owner": "Ann Lee",
        **other,
    }


def many(n: int) -> list[dict[str, Any]]:
    names = ("Turdus merula", "Parus major", "Strix varia", "Rana temporaria")
    rng = random.Random(3)
    return [row(number, rng.choice(names)) for number in range(n)]


def catalogue(path: Path, rows: list[dict[str, Any]], *drop: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, infer_schema_length=None).drop(drop).write_parquet(path)
    return path


def slow_rank(text: str, seed: int) -> int:
    """Hash one id in plain integers."""

    def mix(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) & MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
        return value ^ (value >> 31)

    state = mix(seed)
    padded = text.encode()[:64].ljust(64, b"\0")
    for start in range(0, 64, 8):
        state = mix(state ^ int.from_bytes(padded[start : start + 8], "little"))
    return state


def test_a_row_becomes_a_record(tmp_path: Path) -> None:
    reading = read(catalogue(tmp_path / "c.parquet", [row(7)]), species=None, seed=0)
    assert dict(reading.records.schema) == RECORDS_SCHEMA
    (record,) = reading.records.iter_rows(named=True)
    assert record["media_id"] == f"tol:{row(7)['uuid']}"
    assert record["url"] == "https://inaturalist-open-data.s3.amazonaws.com/photos/7/original.jpg"
    assert (record["modality"], record["source"], record["licence"]) == ("image", "tol", "CC-BY-4.0")
    assert (record["rights_holder"], record["individual"]) == ("Ann Lee", "gbif:1007")
    assert record["page_url"] == "https://www.gbif.org/occurrence/1007"
    assert [record[f"given_{hint}"] for hint in ("class", "genus", "common_name")] == ["Aves", "Turdus", "blackbird"]
    assert record["remarks"] == (
        "image type: Citizen Science; basis of record: HUMAN_OBSERVATION; publisher: iNaturalist; from: GBIF 1007"
    )
    assert reading.counts == {"rows": 1, "records": 1}


@pytest.mark.parametrize("per_species", [0, 1, 5, 1000])
def test_the_choice_is_that_of_a_plain_loop(tmp_path: Path, per_species: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_of_life, "BLOCK_ROWS", 37)
    rows = many(300)
    wanted = {"Turdus merula", "Strix varia", "Apus apus"}
    reading = read(catalogue(tmp_path / "c.parquet", rows), species=wanted, per_species=per_species, seed=11)
    groups: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for one in rows:
        if one["species"] in wanted:
            groups[one["species"]].append((slow_rank(one["uuid"], 11), one["uuid"]))
    expected = [f"tol:{key}" for name in sorted(groups) for _, key in sorted(groups[name])[:per_species]]
    assert reading.records["media_id"].to_list() == expected
    n_wanted = sum(map(len, groups.values()))
    assert reading.counts["rows of other species"] == 300 - n_wanted
    assert reading.counts[f"rows over {per_species:,} of a species"] == n_wanted - len(expected)
    assert reading.counts["wanted species without a picture"] == (1 if per_species else 3)


def test_order_of_rows_files_and_blocks_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = many(200)
    first = read(catalogue(tmp_path / "one.parquet", rows), species=None, per_species=9, seed=1).records
    random.Random(1).shuffle(rows)
    for number in range(4):
        catalogue(tmp_path / "parts" / f"{number}.parquet", rows[number * 50 : number * 50 + 50])
    monkeypatch.setattr(tree_of_life, "BLOCK_ROWS", 17)
    assert read(tmp_path / "parts", species=None, per_species=9, seed=1).records.equals(first)
    assert not read(tmp_path / "parts", species=None, per_species=9, seed=2).records.equals(first)


def test_ranks_are_those_of_plain_integers() -> None:
    ids = ["", "a", "abcdefgh", "abcdefghi", "\u00e9t\u00e9", "x" * 64, "x" * 65, str(uuid.UUID(int=5))]
    for seed in (0, 1, MASK):
        assert rank_of_ids(pl.Series(ids), seed).tolist() == [slow_rank(text, seed) for text in ids]
    assert rank_of_ids(pl.Series([], dtype=pl.String), 0).tolist() == []


def test_ranks_are_spread_evenly_whatever_the_seed() -> None:
    ids = pl.Series([str(number) for number in range(20_000)])
    for seed in (0, 1, 2):
        share = (rank_of_ids(ids, seed) < 2**63).mean()
        assert abs(share - 0.5) < 0.015  # four standard errors


@pytest.mark.parametrize(
    ("genus", "species", "name"),
    [
        ("Turdus", "merula", "Turdus merula"),
        ("Turdus", "Turdus merula", "Turdus merula"),
        (None, "Turdus  merula merula", "Turdus merula"),
        (None, "merula", None),
        ("Turdus", "", None),
        ("Turdus", None, None),
    ],
)
def test_the_species_column_may_hold_only_the_epithet(tmp_path: Path, genus: Any, species: Any, name: Any) -> None:
    path = catalogue(tmp_path / "c.parquet", [row(1, genus=genus), row(2, "Parus major")])
    table = pl.read_parquet(path).with_columns(species=pl.Series([species, "Parus major"]))
    table.write_parquet(path)
    reading = read(path, species=["Turdus merula"], seed=0)
    assert reading.records["scientific_name"].to_list() == ([name] if name else [])
    assert reading.counts["rows without a species"] == (name is None)


def test_rows_that_cannot_be_used_are_counted_each_once(tmp_path: Path) -> None:
    rows = [
        *(row(1), row(2, source_url=None), row(3, source_url="", uuid=None), row(4, uuid="")),
        *(row(5, kingdom="2017-03-01T10:20:00"), row(6, family="true"), row(7, "Parus major")),
        row(8, data_source="EOL", license_name="No known copyright restrictions", license_link=None),
        row(9, license_name="not provided", license_link=None, copyright_owner="not provided"),
    ]
    reading = read(catalogue(tmp_path / "c.parquet", rows), species={" Turdus  merula"}, seed=0)
    assert reading.counts == {
        "rows": 9,
        "rows of other species": 1,
        "rows with a date or a truth value as a rank": 2,
        "rows without an id": 2,
        "rows without a URL": 1,
        "records": 3,
        "records without a known licence": 1,
    }
    found = {record["media_id"]: record for record in reading.records.iter_rows(named=True)}
    eol, bare = found[f"tol:{row(8)['uuid']}"], found[f"tol:{row(9)['uuid']}"]
    assert (eol["licence"], eol["individual"], eol["page_url"]) == ("LicenseRef-Public-Domain", None, None)
    assert (bare["licence"], bare["rights_holder"]) == ("unknown", None)


def test_licences_come_from_the_provenance_table_by_uuid(tmp_path: Path) -> None:
    licences = ("license_name", "license_link", "copyright_owner")
    path = catalogue(tmp_path / "c.parquet", [row(1), row(2), row(3)], *licences)
    proof = [{key: row(n)[key] for key in ("uuid", *licences)} | {"title": "x"} for n in (9, 2, 1)]
    provenance = catalogue(tmp_path / "provenance.parquet", proof)
    reading = read(path, species=None, seed=0, provenance=provenance)
    licence = dict(reading.records.select("media_id", "licence").iter_rows())
    assert licence == {
        f"tol:{row(1)['uuid']}": "CC-BY-4.0",
        f"tol:{row(2)['uuid']}": "CC-BY-4.0",
        f"tol:{row(3)['uuid']}": "unknown",
    }
    assert reading.counts["records without provenance"] == 1
    (tmp_path / "published" / "metadata").mkdir(parents=True)
    path.rename(tmp_path / "published" / "catalog.parquet")
    provenance.rename(tmp_path / "published" / "metadata" / "provenance.parquet")
    assert read(tmp_path / "published", species=None, seed=0).records.equals(reading.records)
    path = tmp_path / "published" / "catalog.parquet"
    with pytest.raises(DatasetError, match="no column license_name; give the provenance table"):
        read(path, species=None, seed=0)


def test_an_empty_catalogue_gives_no_records(tmp_path: Path) -> None:
    path = catalogue(tmp_path / "c.parquet", [row(1)])
    pl.read_parquet(path).clear().write_parquet(path)
    reading = read(path, species={"Turdus merula"}, seed=0, provenance=path)
    assert dict(reading.records.schema) == RECORDS_SCHEMA
    assert reading.counts == {"wanted species without a picture": 1}


def test_equal_ranks_are_decided_by_the_ids(tmp_path: Path) -> None:
    long = [row(n, uuid="x" * 64 + str(n)) for n in (3, 1, 2)]
    reading = read(catalogue(tmp_path / "c.parquet", long), species=None, per_species=2, seed=0)
    assert [media_id[-1] for media_id in reading.records["media_id"]] == ["1", "2"]
    assert reading.counts["rows over 2 of a species"] == 1


def test_other_spellings_of_columns_are_understood(tmp_path: Path) -> None:
    path = catalogue(tmp_path / "c.parquet", [row(1)])
    table = pl.read_parquet(path).rename(
        {"uuid": "treeoflife_id", "source_url": "identifier", "common": "common_name", "license_name": "licence"}
    )
    table.drop("license_link", "img_type", "kingdom").write_parquet(path)
    (record,) = read(path, species=None, seed=0).records.iter_rows(named=True)
    assert (record["licence"], record["given_common_name"]) == ("LicenseRef-CC-BY", "blackbird")
    assert (record["given_kingdom"], record["given_phylum"]) == (None, "Chordata")


def test_what_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such catalogue"):
        read(tmp_path, species=None, seed=0)
    with pytest.raises(DatasetError, match="no such catalogue"):
        read(tmp_path / "gone.parquet", species=None, seed=0)
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(DatasetError, match="not a readable Parquet table"):
        read(tmp_path / "text.parquet", species=None, seed=0)
    with pytest.raises(DatasetError, match=r"no column 'source_url' \(nor another of source_url, image_url"):
        read(catalogue(tmp_path / "c.parquet", [row(1)], "source_url"), species=None, seed=0)
    with pytest.raises(DatasetError, match="stands in 2 rows"):
        read(catalogue(tmp_path / "d.parquet", [row(1), row(1)]), species=None, seed=0)
