"""The card against plain loops, its machine-readable half against mlcroissant, its credits against a spreadsheet."""

import csv
import json
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from biovita.data.card import licence_url, trait_coverage, write_card
from biovita.data.dataset import MEDIA_SCHEMA, QUARANTINE_SCHEMA, TAXA_SCHEMA, Dataset
from biovita.tables import write_table
from biovita.taxonomy.traits import TRAIT_GROUPS, TRAITS

CLASSES = ("Aves", "Amphibia", "Mammalia")
N_SPECIES, N_FILES = 9, 160
LICENCES = ("CC0-1.0", "CC-BY-NC-4.0", "LicenseRef-CC-BY-ND")


def rows(rng: np.random.Generator) -> list[dict[str, Any]]:
    made = []
    for i in range(N_FILES):
        species, is_audio = int(rng.integers(N_SPECIES)), bool(rng.integers(2))
        made.append(
            {
                "media_id": f"s:{i:03}",
                "modality": "audio" if is_audio else "image",
                "source": ("xc", "inat")[i % 2],
                "licence": LICENCES[int(rng.integers(3))],
                "rights_holder": None if i % 7 == 0 else "=HYPERLINK(1)" if i % 7 == 1 else f"A. Holder {i % 5}",
                "recorded_at": datetime(2015 + i % 8, 5, 1, 4, tzinfo=UTC) if i % 3 else None,
                "latitude_deg": 50.0 if i % 4 else None,
                "path": f"media/{i}",
                "split": ("train", "val", "test_seen")[i % 3],
                "class": CLASSES[species % 3],
                "species": f"Genus s{species}",
                "duration_s": float(rng.integers(1, 20)) if is_audio else None,
                "sample_rate_hz": 44_100 if is_audio else None,
                "width_px": None if is_audio else int(rng.integers(50, 3_000)),
                "height_px": None if is_audio else int(rng.integers(50, 3_000)),
            }
        )
    return made


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    folder = tmp_path / "field | <set>"
    rng = np.random.default_rng(3)
    write_table(folder / "media.parquet", pl.DataFrame(rows(rng), MEDIA_SCHEMA), MEDIA_SCHEMA)
    taxa = [
        {
            "species": f"Genus s{i}",
            "class": CLASSES[i % 3],
            "common_name": "" if i == 0 else f"Bird {i}",
            **{trait: (True, False, None)[int(rng.integers(3))] for trait in TRAITS},
        }
        for i in range(N_SPECIES)
    ]
    write_table(folder / "taxa.parquet", pl.DataFrame(taxa, TAXA_SCHEMA), TAXA_SCHEMA)
    refused = [
        ("r:1", "truncated", "x"),
        ("r:2", "name_unresolved", "'Felis <b>|'"),
        ("r:3", "name_unresolved", "none"),
    ]
    write_table(
        folder / "quarantine.parquet", pl.DataFrame(refused, QUARANTINE_SCHEMA, orient="row"), QUARANTINE_SCHEMA
    )
    counts = {"records": N_FILES + 3, "quarantined": 3, "withheld": 0}
    return Dataset(folder, {"schema": 1, "made_up": False, "seed": 0, "counts": counts})


def tables(text: str) -> dict[str, list[list[str]]]:
    """Read the first table under each heading."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line[3:]
        elif line.startswith("| ") and "---" not in line:
            found.setdefault(heading, []).append([cell.strip() for cell in line.replace("\\|", "/").split("|")[1:-1]])
    return {name: lines[1:] for name, lines in found.items()}


def test_the_counts_agree_with_a_plain_loop(dataset: Dataset) -> None:
    write_card(dataset)
    shown = tables((dataset.folder / "card.md").read_text())
    media = rows(np.random.default_rng(3))
    n: dict[str, Counter[str]] = {"audio": Counter(), "image": Counter()}
    of_class = defaultdict(set)
    kinds = defaultdict(set)
    hours: Counter[str] = Counter()
    for row in media:
        for key in ("class", "licence", "source", "split"):
            n[row["modality"]][row[key]] += 1
        of_class[row["class"]].add(row["species"])
        kinds[row["species"]].add(row["modality"])
        hours[row["class"]] += (row["duration_s"] or 0) / 3600
    for name, audio, hour, image, species, both in shown["Classes"]:
        expected = (
            n["audio"][name],
            n["image"][name],
            len(of_class[name]),
            sum(len(kinds[s]) == 2 for s in of_class[name]),
        )
        assert (int(audio), int(image), int(species), int(both)) == expected
        assert float(hour) == pytest.approx(hours[name], abs=0.005)
    assert len(shown["Classes"]) == 3
    for heading, n_values in (("Licences", 3), ("Sources", 2), ("Splits", 3)):
        assert len(shown[heading]) == n_values
        for name, audio, image, _ in shown[heading]:
            assert (int(audio), int(image)) == (n["audio"][name], n["image"][name])
    seconds = [row["duration_s"] for row in media if row["modality"] == "audio"]
    for edges, count in shown["Recordings"][:-2]:
        low, high = (float(edge) for edge in edges.split(" to "))
        assert int(count) == sum(low <= s < high for s in seconds)
    sides = [min(row["width_px"], row["height_px"]) for row in media if row["modality"] == "image"]
    assert sum(int(count.replace(",", "")) for _, count in shown["Pictures"]) == len(sides)
    files = sorted(Counter(row["species"] for row in media).values())
    assert [int(cell) for cell in shown["Files a species"][0][1:4:2]] == [N_SPECIES, files[2]]
    assert [int(cell) for cell in shown["Files a species"][0][-1:]] == [files[-1]]


def test_trait_coverage_agrees_with_a_plain_loop(dataset: Dataset) -> None:
    taxa = dataset.taxa
    found = {row["class"]: row for row in trait_coverage(taxa).iter_rows(named=True)}
    for name in CLASSES:
        members = [row for row in taxa.iter_rows(named=True) if row["class"] == name]
        for group, labels in {**TRAIT_GROUPS, "all": TRAITS}.items():
            known = sum(row[label] is not None for row in members for label in labels)
            assert found[name][group] == pytest.approx(known / (len(members) * len(labels)))


def test_what_was_refused_is_told_and_cannot_break_the_page(dataset: Dataset) -> None:
    write_card(dataset)
    text = (dataset.folder / "card.md").read_text()
    assert "Names that could not be resolved: 2." in text
    assert ["'Felis &lt;b>/'", "1"] in tables(text)["Names refused"]
    assert ["name_unresolved", "2"] in tables(text)["Refused"]


def test_near_duplicates_are_told_only_where_they_were_looked_for(dataset: Dataset) -> None:
    write_card(dataset)
    assert "Not looked for" in (dataset.folder / "card.md").read_text()
    counts = {**dataset.manifest["counts"], "near_duplicates": 1_234, "groups": 56}
    write_card(Dataset(dataset.folder, {**dataset.manifest, "counts": counts}))
    text = (dataset.folder / "card.md").read_text()
    assert "1,234 files in 56 groups" in text
    assert "Not looked for" not in text


def test_made_up_data_are_called_so(dataset: Dataset) -> None:
    write_card(Dataset(dataset.folder, {**dataset.manifest, "made_up": True}))
    assert "**Made up:" in (dataset.folder / "card.md").read_text()
    card = json.loads((dataset.folder / "croissant.json").read_text())
    assert "not biology" in card["description"]
    assert card["rai:dataCollectionType"] == ["Synthetic data"]


def test_credits_name_every_file_and_run_nothing(dataset: Dataset) -> None:
    write_card(dataset)
    with (dataset.folder / "CREDITS.csv").open(newline="") as f:
        shown = list(csv.DictReader(f))
    media = rows(np.random.default_rng(3))
    assert [row["media_id"] for row in shown] == [row["media_id"] for row in media]
    for row, given in zip(shown, media, strict=True):
        holder = given["rights_holder"] or ""
        assert row["rights_holder"] == (f"'{holder}" if holder.startswith("=") else holder)
    assert any(row["rights_holder"].startswith("'=") for row in shown)


def test_the_same_tables_give_the_same_card(dataset: Dataset) -> None:
    names = ("card.md", "croissant.json", "CREDITS.csv")
    write_card(dataset)
    first = [(dataset.folder / name).read_bytes() for name in names]
    write_card(dataset)
    assert [(dataset.folder / name).read_bytes() for name in names] == first


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of rdflib and others behind mlcroissant
def test_mlcroissant_accepts_the_card_and_reads_the_records_without_a_network(made_up: Path) -> None:
    import mlcroissant

    card = mlcroissant.Dataset(jsonld=str(made_up / "croissant.json"))
    assert not card.metadata.issues.errors
    # a build has no date of publication; whoever publishes it adds one
    assert [text for text in card.metadata.issues.warnings if "datePublished" not in text] == []
    dataset = Dataset.open(made_up)
    for name, table in (("media", dataset.media), ("taxa", dataset.taxa)):
        first = next(iter(card.records(name)))
        expected = table.row(0, named=True)
        for column in ("species", "class", "common_name"):
            assert first[f"{name}/{column}"].decode() == expected[column]
    keys = {record_set.name: record_set.key for record_set in card.metadata.record_sets}
    assert keys.keys() == {"media", "taxa", "quarantine"}
    assert all(keys.values())


@pytest.mark.parametrize(
    ("licence", "page"),
    [
        ("CC0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
        ("CC-BY-4.0", "https://creativecommons.org/licenses/by/4.0/"),
        ("CC-BY-NC-SA-2.5", "https://creativecommons.org/licenses/by-nc-sa/2.5/"),
        ("LicenseRef-CC-BY-NC", "https://creativecommons.org/share-your-work/cclicenses/"),
        ("LicenseRef-Public-Domain", "https://creativecommons.org/publicdomain/mark/1.0/"),
    ],
)
def test_a_licence_leads_to_its_own_page(licence: str, page: str) -> None:
    assert licence_url(licence) == page
