"""Exports that others open: Hugging Face datasets reads the Parquet files, frictionless validates the Camtrap DP."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from biovita.data.camtrap import OBSERVATIONS, TABLES, write_camtrap_dp
from biovita.data.dataset import MEDIA_SCHEMA, Dataset
from biovita.data.export import licensed
from biovita.data.hub_parquet import COLUMNS, write_hub_parquet
from biovita.errors import DatasetError
from biovita.files import read_json, read_manifest, sha256_file
from biovita.tables import write_table

ALL = ("cc0", "cc-by", "cc-by-nc")
CREATED = datetime(2026, 5, 1, 12, tzinfo=UTC)
CLOSED = """
import socket
def closed(*args, **options):
    raise RuntimeError("a test wanted the network")
socket.socket.connect = socket.getaddrinfo = closed
"""


@pytest.fixture(scope="module")
def dataset(made_up: Path) -> Dataset:
    return Dataset.open(made_up)


@pytest.fixture(scope="module")
def hub(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "made-up-set"
    write_hub_parquet(dataset, folder, licences=ALL, file_bytes=1_500_000, group_bytes=300_000)
    return folder


def changed(dataset: Dataset, folder: Path, **columns: pl.Expr) -> Dataset:
    """Copy a dataset with other values in some columns of its media."""
    shutil.copytree(dataset.folder, folder, copy_function=os.link)
    (folder / "media.parquet").unlink()
    write_table(folder / "media.parquet", dataset.media.with_columns(**columns), MEDIA_SCHEMA)
    return Dataset(folder, dataset.manifest)


def run_alone(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process that has no sockets."""
    return subprocess.run(
        [sys.executable, "-c", CLOSED + code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


# --- Parquet for the hub


def test_hugging_face_datasets_reads_pictures_and_sounds(dataset: Dataset, hub: Path, tmp_path: Path) -> None:
    code = f"""
import hashlib, json
import datasets
told = {{}}
for how in (dict(path={str(hub)!r}), dict(path="parquet", data_dir={str(hub)!r})):
    loaded = datasets.load_dataset(**how, cache_dir={str(tmp_path / "cache")!r})
    assert isinstance(loaded["train"].features["image"], datasets.Image), loaded["train"].features
    assert isinstance(loaded["train"].features["audio"], datasets.Audio), loaded["train"].features
    raw = loaded.cast_column("audio", datasets.Audio(decode=False)).cast_column("image", datasets.Image(decode=False))
    told = {{
        row["media_id"]: [split, hashlib.sha256((row["audio"] or row["image"])["bytes"]).hexdigest(), row["licence"]]
        for split, rows in raw.items() for row in rows
    }}
    picture = next(row for row in loaded["val"].remove_columns("audio") if row["modality"] == "image")
    assert picture["image"].size == (picture["width_px"], picture["height_px"])
print(json.dumps(told))
"""
    done = run_alone(code, tmp_path, HF_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    expected = {
        row[0]: list(row[1:]) for row in dataset.media.select("media_id", "split", "sha256", "licence").iter_rows()
    }
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_rows_hold_the_table_and_the_bytes(dataset: Dataset, hub: Path) -> None:
    rows = pl.concat(pl.read_parquet(path) for path in sorted((hub / "data").glob("*.parquet")))
    plain = rows.select(COLUMNS).sort("media_id")
    assert plain.equals(dataset.media.select(COLUMNS).cast({"recorded_at": plain.schema["recorded_at"]}))
    paths = dict(dataset.media.select("media_id", "path").iter_rows())
    for row in rows.iter_rows(named=True):
        other = "image" if row["modality"] == "audio" else "audio"
        assert row[other] is None
        medium = row[row["modality"]]
        assert medium["path"] == Path(paths[row["media_id"]]).name
        assert medium["bytes"] == dataset.path(paths[row["media_id"]]).read_bytes()


def test_files_and_row_groups_keep_to_their_size(hub: Path) -> None:
    names = [path.name for path in sorted((hub / "data").glob("train-*"))]
    assert names == [f"train-{i:05}-of-{len(names):05}.parquet" for i in range(len(names))]
    assert len(names) > 1
    n_groups = 0
    for path in (hub / "data").glob("*.parquet"):
        file = pq.ParquetFile(path)
        n_groups += file.num_row_groups
        for group in range(file.num_row_groups):
            media = pl.from_arrow(file.read_row_group(group, columns=["image", "audio"]))
            assert isinstance(media, pl.DataFrame)
            sizes = [len((row["image"] or row["audio"])["bytes"]) for row in media.iter_rows(named=True)]
            assert sum(sizes) <= 300_000 or len(sizes) == 1
    assert n_groups > len(names)


def test_the_page_of_the_hub_names_splits_licences_and_that_it_is_made_up(dataset: Dataset, hub: Path) -> None:
    yaml = pytest.importorskip("yaml")
    _, header, text = (hub / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(header)
    assert told["license"] == ["cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0"]
    assert "synthetic" in told["tags"]
    counts = dict(dataset.media["split"].value_counts().iter_rows())
    assert {split["name"]: split["num_examples"] for split in told["dataset_info"]["splits"]} == counts
    assert [file["split"] for file in told["configs"][0]["data_files"]] == ["train", "val", "test_seen", "test_unseen"]
    assert "Made up by a generator" in text
    with (hub / "CREDITS.csv").open() as f:
        assert {row["media_id"] for row in csv.DictReader(f)} == set(dataset.media["media_id"])


def test_only_open_licences_go_out_unless_others_are_named(dataset: Dataset, tmp_path: Path) -> None:
    manifest = write_hub_parquet(dataset, tmp_path / "open")
    closed = int((dataset.media["licence"] == "CC-BY-NC-4.0").sum())
    assert manifest["left_out"] == {"CC-BY-NC-4.0": closed}
    assert closed > 0
    assert sum(manifest["rows"].values()) == len(dataset.media) - closed
    rows = pl.concat(pl.read_parquet(tmp_path / "open" / name, columns=["licence"]) for name in manifest["rows"])
    assert set(rows["licence"]) == {"CC0-1.0", "CC-BY-4.0"}
    assert f"{closed:,} files under CC-BY-NC-4.0" in (tmp_path / "open" / "README.md").read_text()


@pytest.mark.parametrize("family", ["cc-by-nd", "cc-by-nc-nd", "cc-by-nc-nd-sa", "all", ""])
def test_nd_and_unknown_words_are_refused(dataset: Dataset, tmp_path: Path, family: str) -> None:
    with pytest.raises(DatasetError, match=f"licence '{family}'"):
        write_hub_parquet(dataset, tmp_path / "out", licences=(family,))
    assert not (tmp_path / "out").exists()


def test_unknown_licences_go_out_only_when_named() -> None:
    media = pl.DataFrame({"licence": ["unknown", "CC0-1.0", "CC-BY-ND-4.0", "LicenseRef-CC-BY-NC"]})
    assert licensed(media, ("cc0",))[1] == {"CC-BY-ND-4.0": 1, "LicenseRef-CC-BY-NC": 1, "unknown": 1}
    assert licensed(media, ("cc0", "unknown", "cc-by-nc"))[1] == {"CC-BY-ND-4.0": 1}


def test_nothing_to_export_is_an_error(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no medium is under cc-by-sa"):
        write_hub_parquet(dataset, tmp_path / "out", licences=("cc-by-sa",))


def test_a_stopped_parquet_export_ends_with_the_same_bytes(dataset: Dataset, hub: Path, tmp_path: Path) -> None:
    out = tmp_path / hub.name
    shutil.copytree(hub, out)
    for lost in (out / "manifest.json", out / "README.md", min((out / "data").glob("train-*"))):
        lost.unlink()
    write_hub_parquet(dataset, out, licences=ALL, file_bytes=1_500_000, group_bytes=300_000)
    assert read_manifest(out, verify=True) == read_manifest(hub, verify=True)
    with pytest.raises(DatasetError, match="another export"):
        write_hub_parquet(dataset, out, licences=("cc0",), file_bytes=1_500_000, group_bytes=300_000)


# --- Camtrap DP

VALIDATE = """
import json
import frictionless
report = frictionless.validate("datapackage.json")
print(json.dumps([report.valid, report.stats["tasks"], report.flatten(["type", "note"])]))
"""


@pytest.fixture(scope="module")
def holey(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The made-up dataset with holes: no place, no time, a public address, hostile text, a midnight."""
    row = pl.int_range(pl.len())
    return changed(
        dataset,
        tmp_path_factory.mktemp("holey") / "dataset",
        latitude_deg=pl.when(row % 9 != 1).then("latitude_deg"),
        longitude_deg=pl.when(row % 9 == 2).then(200.0).otherwise("longitude_deg"),
        recorded_at=pl.when(row % 9 == 3)
        .then(None)
        .when(row % 9 == 4)
        .then(pl.col("recorded_at").dt.truncate("1d"))
        .otherwise("recorded_at"),
        url=pl.when(row % 9 == 5)
        .then(pl.format("https://example.org/{}.mp3", row))
        .when(row % 9 == 6)
        .then(pl.lit("https://example.org/../x"))
        .when(row % 9 == 7)
        .then(pl.lit("ftp://example.org/x")),
        remarks=pl.when(row % 9 == 8).then(pl.lit('=1+1, "quoted"\nline')).otherwise("remarks"),
        rights_holder=pl.when(row % 5 != 0).then("rights_holder"),
    )


@pytest.fixture(scope="module")
def camtrap(holey: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("camtrap") / "out"
    write_camtrap_dp(holey, folder, data_licence="CC0-1.0", created=CREATED)
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as f:
        return list(csv.DictReader(f))


def seconds_up(value: float) -> timedelta:
    return timedelta(seconds=-(-value // 1))


@pytest.mark.parametrize("acoustic", [False, True])
def test_frictionless_validates_every_package_without_a_network(
    holey: Dataset, tmp_path: Path, *, acoustic: bool
) -> None:
    manifest = write_camtrap_dp(holey, tmp_path / "out", acoustic=acoustic, created=CREATED)
    assert len(manifest["packages"]) == 3
    for name in manifest["packages"]:
        done = run_alone(VALIDATE, tmp_path / "out" / name)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == [True, 3, []]


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("deployments", "latitude", "91"),
        ("deployments", "deploymentStart", "yesterday"),
        ("media", "deploymentID", "nowhere"),
        ("media", "filePath", "../secret"),
        ("observations", "observationType", "bird"),
        ("observations", "mediaID", "none"),
    ],
)
def test_the_schemas_beside_the_tables_catch_what_the_standard_forbids(
    camtrap: Path, tmp_path: Path, table: str, column: str, value: str
) -> None:
    shutil.copytree(camtrap / "CC0-1.0", tmp_path / "package")
    rows = read(tmp_path / "package" / f"{table}.csv")
    rows[0][column] = value
    with (tmp_path / "package" / f"{table}.csv").open("w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    valid, _, errors = json.loads(run_alone(VALIDATE, tmp_path / "package").stdout)
    assert not valid
    assert errors


def test_every_medium_is_in_one_package_or_in_the_list_of_those_left_out(holey: Dataset, camtrap: Path) -> None:
    manifest = read_manifest(camtrap, verify=True)
    packed = [row["mediaID"] for name in manifest["packages"] for row in read(camtrap / name / "media.csv")]
    left_out = {row["media_id"]: row["reason"] for row in read(camtrap / "left_out.csv")}
    assert sorted([*packed, *left_out]) == sorted(holey.media["media_id"])
    assert Counter(left_out.values()) == manifest["left_out"]
    for row in holey.media.iter_rows(named=True):
        placed = row["latitude_deg"] is not None and row["longitude_deg"] <= 180
        expected = "no_place" if not placed else "no_time" if row["recorded_at"] is None else None
        assert left_out.get(row["media_id"]) == expected
    assert set(manifest["left_out"]) == {"no_place", "no_time"}


def test_deployments_agree_with_a_plain_loop(holey: Dataset, camtrap: Path) -> None:
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    left_out = {row["media_id"] for row in read(camtrap / "left_out.csv")}
    for row in holey.media.iter_rows(named=True):
        if row["media_id"] not in left_out:
            place = (round(row["latitude_deg"], 4), round(row["longitude_deg"], 4))
            groups[row["licence"], row["source"], row["rights_holder"], place].append(row)
    stamp = "%Y-%m-%dT%H:%M:%SZ"
    expected = Counter(
        (
            licence,
            holder or "",
            *place,
            min(row["recorded_at"] for row in rows).strftime(stamp),
            max(row["recorded_at"] + seconds_up(row["duration_s"] or 0) for row in rows).strftime(stamp),
            any(row["recorded_at"].strftime("%H:%M:%S") == "00:00:00" for row in rows),
        )
        for (licence, _, holder, place), rows in groups.items()
    )
    found: Counter[tuple[Any, ...]] = Counter()
    for licence in read_manifest(camtrap)["packages"]:
        rows = read(camtrap / licence / "deployments.csv")
        assert len({row["deploymentID"] for row in rows}) == len(rows)
        found.update(
            (
                licence,
                row["setupBy"],
                float(row["latitude"]),
                float(row["longitude"]),
                row["deploymentStart"],
                row["deploymentEnd"],
                row["timestampIssues"] == "true",
            )
            for row in rows
        )
    assert found == expected
    assert any(key[-1] for key in found)


def test_observations_say_what_the_records_say_and_no_more(holey: Dataset, camtrap: Path) -> None:
    of = {row["media_id"]: row for row in holey.media.iter_rows(named=True)}
    told = {"observationID", "deploymentID", "mediaID", "eventID", "eventStart", "eventEnd", "observationLevel"}
    told |= {"observationType", "scientificName", "observationComments"}
    for licence in read_manifest(camtrap)["packages"]:
        for row in read(camtrap / licence / "observations.csv"):
            record = of[row["mediaID"]]
            assert row["scientificName"] == record["species"]
            assert row["eventStart"] == record["recorded_at"].strftime("%Y-%m-%dT%H:%M:%SZ")
            assert row["eventID"] == (record["individual"] or "")
            assert not any(row[column] for column in OBSERVATIONS if column not in told)


def test_hosted_media_are_referred_to_and_others_are_copied(holey: Dataset, camtrap: Path) -> None:
    of = {row["media_id"]: row for row in holey.media.iter_rows(named=True)}
    n_hosted = 0
    for licence in read_manifest(camtrap)["packages"]:
        for row in read(camtrap / licence / "media.csv"):
            record = of[row["mediaID"]]
            if row["filePath"].startswith("https://example.org/") and "/../" not in row["filePath"]:
                assert row["filePath"] == record["url"]
                assert not (camtrap / licence / record["path"]).exists()
                n_hosted += 1
            else:
                assert row["filePath"] == record["path"]
                assert sha256_file(camtrap / licence / row["filePath"]) == record["sha256"]
            assert row["fileMediatype"].split("/")[0] == record["modality"]
            if (record["remarks"] or "").startswith("="):
                assert row["mediaComments"] == "'" + record["remarks"]
    assert n_hosted > 3


def test_a_package_states_licences_version_and_that_it_is_made_up(
    camtrap: Path, holey: Dataset, tmp_path: Path
) -> None:
    package = read_json(camtrap / "CC-BY-4.0" / "datapackage.json")
    assert [licence["scope"] for licence in package["licenses"]] == ["data", "media"]
    assert [licence["name"] for licence in package["licenses"]] == ["CC0-1.0", "CC-BY-4.0"]
    assert package["created"] == "2026-05-01T12:00:00Z"
    assert "camtrap-dp/1.0.2/" in package["profile"]  # where camtrapdp for R looks for the version
    assert "not biology" in package["description"]
    write_camtrap_dp(holey, tmp_path / "acoustic", acoustic=True, created=CREATED)
    other = read_json(tmp_path / "acoustic" / "CC-BY-4.0" / "datapackage.json")
    assert "bioacoustics-2025-08" in other["profile"]
    assert other["licenses"][0]["name"] == "not-stated"
    media = read(tmp_path / "acoustic" / "CC-BY-4.0" / "media.csv")
    of = {row["media_id"]: row for row in holey.media.iter_rows(named=True)}
    assert {row["samplingFrequency"] for row in media} >= {"48000", ""}
    for row in media:
        assert row["samplingFrequency"] == str(of[row["mediaID"]]["sample_rate_hz"] or "")
    assert "deviceID" in read(tmp_path / "acoustic" / "CC-BY-4.0" / "deployments.csv")[0]


def test_the_same_dataset_gives_the_same_packages(holey: Dataset, camtrap: Path, tmp_path: Path) -> None:
    write_camtrap_dp(holey, tmp_path / "out", data_licence="CC0-1.0", created=CREATED)
    assert read_manifest(tmp_path / "out", verify=True) == read_manifest(camtrap)
    (tmp_path / "out" / "manifest.json").unlink()
    cut = next((tmp_path / "out").glob("*/media/*/*"))
    cut.write_bytes(cut.read_bytes()[:9])
    write_camtrap_dp(holey, tmp_path / "out", data_licence="CC0-1.0", created=CREATED)
    assert read_manifest(tmp_path / "out") == read_manifest(camtrap)
    assert sha256_file(cut) == cut.stem


def test_a_collection_without_places_is_an_error(dataset: Dataset, tmp_path: Path) -> None:
    nowhere = changed(dataset, tmp_path / "dataset", latitude_deg=pl.lit(None, pl.Float64))
    with pytest.raises(DatasetError, match=r"no medium has both place and time, .*: \d+ no place$"):
        write_camtrap_dp(nowhere, tmp_path / "out")


def test_tables_have_the_columns_of_the_standard_in_its_order(camtrap: Path) -> None:
    for name, schema in TABLES.items():
        with (camtrap / "CC0-1.0" / f"{name}.csv").open() as f:
            assert next(csv.reader(f)) == list(schema)
