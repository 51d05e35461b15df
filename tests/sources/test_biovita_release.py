"""The official release: a made-up one with every known defect planted, and what becomes of each row."""

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from biovita.errors import DatasetError
from biovita.sources.biovita_release import read, repair_index, species_key
from biovita.sources.record import RECORDS_SCHEMA

N_MATCHED, N_ASA, N_UPLOAD = 74, 26, 3  # 736, 258 and 30 in miniature
N_SPECIES = 20


def write(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def csv(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, infer_schema_length=None).write_csv(path)


def clips() -> list[dict[str, str]]:
    """List unseen clips: what metadata says, and under which name the index lists them."""
    kinds = ["matched"] * N_MATCHED + ["asa"] * N_ASA + ["upload"] * N_UPLOAD
    rows = []
    for number, kind in enumerate(kinds):
        name = f"Genus{number % N_SPECIES} alpha"
        if kind == "asa":
            file, listed = f"{name.replace(' ', '_')}_DIG0012_{5000 + number}_short.mp3", f"asa_{5000 + number}.mp3"
        else:
            file = f"xc_{number}.mp3"
            listed = file if kind == "matched" else f"White-crowned_Koel_WProv_IW{number}.mp3"
        source = "asa" if kind == "asa" else "xc"
        rows.append(
            {
                "species": name,
                "file": f"audio/{file}",
                "listed": f"audio/{listed}",
                "source": source,
                "id": str(5000 + number if kind == "asa" else number),
            }
        )
    return rows


def make_release(root: Path) -> None:
    """Write a release with all the defects of the real one."""
    train = [
        {"scientific_name": "Parus ater", "accepted_name": "Periparus ater", "source": "xc", "recording_id": "900"},
        {"scientific_name": "Rana x", "source": "inat", "recording_id": "77", "class": "Amphibia", "com": "frog"},
        {"scientific_name": "Rana x", "source": "asa", "recording_id": None},
        {"scientific_name": "Rana x", "source": "xc", "recording_id": "3"},  # also an unseen clip
        {"scientific_name": "Rana x", "source": "xc", "recording_id": "5"},  # without a URL
    ]
    urls = [f"https://xeno-canto.org/{n}/download" for n in (900, 77, 1, 3)]
    for row, url in zip(train, [*urls, None], strict=True):
        row |= {"download_url": url, "file_name": None}
    csv(root / "train" / "metadata.csv", train)
    pictures = [{"photo": f"https://static.inaturalist.org/photos/{n}/large.jpg", "species": "Rana x"} for n in (1, 2)]
    csv(root / "train" / "image_urls.csv", [*pictures, {"photo": None, "species": "Rana x"}])
    table = (root / "train" / "image_urls.csv").read_text().replace("photo,", "Image_URL,", 1)
    write(root / "train" / "image_urls.csv", table)

    unseen = clips()
    csv(
        root / "unseen" / "metadata.csv",
        [
            {"file_name": c["file"], "scientific_name": c["species"], "source": c["source"], "recording_id": c["id"]}
            for c in unseen
        ],
    )
    by_species = sorted(unseen, key=lambda clip: clip["species"], reverse=True)  # a stable sort, as in the release
    csv(
        root / "unseen" / "benchmark" / "audio_index.csv",
        [
            {
                "id": n,
                "file_path": c["listed"],
                "species": c["species"],
                "genus": c["species"].split()[0],
                "family": "F",
            }
            for n, c in enumerate(by_species)
        ],
    )
    for clip in unseen:
        write(root / "unseen" / clip["file"], clip["file"])
    write(root / "unseen" / "audio" / "xc_8.mp3", "audio/xc_7.mp3")  # equal contents under two names
    write(root / "unseen" / "audio" / "xc_9.mp3", "<html>not found</html>")
    for n in range(18):  # two species have no picture
        write(root / "unseen" / "image" / f"{n}.jpg")
    csv(
        root / "unseen" / "benchmark" / "image_index.csv",
        [
            {"id": n, "file_path": f"image/{n}.jpg", "species": f"Genus{n} alpha", "genus": f"Genus{n}", "family": "F"}
            for n in range(19)  # the last is not there
        ],
    )
    write(root / "unseen" / "benchmark" / "text_index.csv", "id,species,genus,family\n")
    for level in ("species", "genus", "family"):
        for task in (
            "audio_to_image",
            "image_to_audio",
            "audio_to_text",
            "text_to_audio",
            "image_to_text",
            "text_to_image",
        ):
            row = "" if level == "family" else "1,1,A2I\n"
            write(root / "unseen" / "benchmark" / level / f"test_{task}.csv", f"query_id,query_payload_id,task\n{row}")
    write(root / "test" / "metadata.csv", "file_name,scientific_name,source,recording_id,download_url\n")
    for name in ("image_index.csv", "text_index.csv"):
        write(root / "test" / "benchmark" / name, "id,file_path,species,genus,family\n")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    make_release(tmp_path)
    return tmp_path


def test_every_row_ends_in_one_counted_state(release: Path) -> None:
    counts = read(release).counts
    n = N_MATCHED + N_ASA + N_UPLOAD
    assert {word: number for word, number in counts.items() if not word.startswith("URLs of")} == {
        "train/metadata.csv: to fetch": 4,
        "train/metadata.csv: broken": 1,
        "train/metadata.csv: rows without an id of an archive": 1,
        "train/image_urls.csv: to fetch": 2,
        "train/image_urls.csv: broken": 1,
        "test/metadata.csv: header without rows": 1,
        "test/benchmark/image_index.csv: header without rows": 1,
        "test/benchmark/audio_index.csv: not there": 1,
        "test/benchmark/species/: task files not there": 6,
        "test/benchmark/genus/: task files not there": 6,
        "test/benchmark/family/: task files not there": 6,
        "unseen/metadata.csv: matched": n,
        "unseen/benchmark/audio_index.csv: matched": N_MATCHED,
        "unseen/benchmark/audio_index.csv: renamed": N_ASA + N_UPLOAD,
        "unseen/benchmark/audio_index.csv: renamed, and the archive id agrees": N_ASA,
        "unseen/benchmark/image_index.csv: matched": 18,
        "unseen/benchmark/image_index.csv: missing": 1,
        "unseen/benchmark/family/: task files of only a header": 6,
        "unseen/: species without a picture": 2,
        "rows whose id occurs again": 1,
        "records": 4 + 2 + n + 18 - 1,
    }
    assert counts["URLs of xeno-canto.org"] == 3
    assert counts["URLs of static.inaturalist.org"] == 2


def test_recordings_keep_the_ids_of_their_archives(release: Path) -> None:
    records = read(release).records
    assert dict(records.schema) == RECORDS_SCHEMA
    rows = {row["media_id"]: row for row in records.iter_rows(named=True)}
    tit = rows["xc:900"]
    assert (tit["scientific_name"], tit["source"]) == ("Periparus ater", "xc")
    assert tit["remarks"] == "official part: train; name in the archive: Parus ater"
    assert (tit["url"], tit["page_url"]) == ("https://xeno-canto.org/900/download", "https://xeno-canto.org/900")
    assert (tit["licence"], tit["file"]) == ("unknown", None)
    frog = rows["inat:77"]
    assert (frog["given_class"], frog["given_common_name"], frog["page_url"]) == ("Amphibia", "frog", None)
    assert rows["biovita:train/2"]["source"] == "biovita"
    # the row with a file wins over the one with a URL
    assert rows["xc:3"]["file"] == str(release.resolve() / "unseen" / "audio" / "xc_3.mp3")
    assert rows["xc:3"]["given_path"] == "unseen/audio/xc_3.mp3"
    assert rows["asa:5074"]["given_path"] == "unseen/audio/Genus14_alpha_DIG0012_5074_short.mp3"
    assert rows["biovita:train/image_urls/1"]["url"] == "https://static.inaturalist.org/photos/2/large.jpg"
    assert rows["biovita:unseen/image/4.jpg"]["scientific_name"] == "Genus4 alpha"
    assert all(Path(file).is_file() for file in records["file"].drop_nulls())


def listing(*rows: tuple[str, str], ids: bool = True) -> pl.DataFrame:
    table = pl.DataFrame(rows, ["scientific_name", "file_name"], orient="row")
    return table.with_columns(recording_id=pl.col("file_name").str.extract(r"(\d+)\.mp3")) if ids else table


def index(*rows: tuple[str, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, ["species", "file_path"], orient="row").with_row_index("id")


def states(repaired: pl.DataFrame) -> list[tuple[str | None, str]]:
    return list(repaired.select("file_path", "state").iter_rows())


def test_index_rows_are_renamed_by_their_place_within_the_species() -> None:
    metadata = listing(
        ("A b", "x_11.mp3"), ("C d", "xc_1.mp3"), ("A b", "y_12.mp3"), ("A b", "xc_3.mp3"), ("C d", "gone")
    )
    table = index(
        ("C d", "xc_1.mp3"), ("C d", "upload.mp3"), ("A b", "asa_11.mp3"), ("A b", "Koel.mp3"), ("A b", "xc_3.mp3")
    )
    repaired = repair_index(table, metadata, {"x_11.mp3", "y_12.mp3", "xc_1.mp3", "xc_3.mp3"})
    assert states(repaired) == [
        ("xc_1.mp3", "matched"),
        (None, "missing"),
        ("x_11.mp3", "renamed"),
        ("y_12.mp3", "renamed"),
        ("xc_3.mp3", "matched"),
    ]
    assert repaired["given_file_path"].to_list() == table["file_path"].to_list()
    assert repaired["is_checked"].to_list() == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("metadata", "table", "expected"),
    [
        # an id that disagrees makes the whole species unsure, also the row that nothing contradicts
        (
            listing(("A b", "x_11.mp3"), ("A b", "y_12.mp3")),
            index(("A b", "asa_12.mp3"), ("A b", "Koel.mp3")),
            ["broken", "broken"],
        ),
        # a name that is there, but elsewhere in the order, too
        (
            listing(("A b", "x_11.mp3"), ("A b", "y_12.mp3")),
            index(("A b", "y_12.mp3"), ("A b", "Koel.mp3")),
            ["matched", "broken"],
        ),
        # another species is not touched by that
        (
            listing(("A b", "x_11.mp3"), ("C d", "y_12.mp3")),
            index(("A b", "asa_99.mp3"), ("C d", "Koel.mp3")),
            ["broken", "renamed"],
        ),
        # more rows than metadata has, and a species that it has not
        (
            listing(("A b", "x_11.mp3")),
            index(("A b", "asa_11.mp3"), ("A b", "asa_11.mp3"), ("C d", "asa_11.mp3")),
            ["renamed", "broken", "broken"],
        ),
        # one file for two rows
        (
            listing(("A b", "x_11.mp3"), ("C d", "x_11.mp3")),
            index(("A b", "Koel.mp3"), ("C d", "Tit.mp3")),
            ["renamed", "broken"],
        ),
        (listing(("A b", "x_11.mp3")), index(("A b", "")), ["broken"]),
        (listing(("A b", "x_11.mp3"), ids=False), index(("A b", "asa_11.mp3")), ["renamed"]),
    ],
)
def test_a_row_that_something_contradicts_is_broken(
    metadata: pl.DataFrame, table: pl.DataFrame, expected: list
) -> None:
    repaired = repair_index(table, metadata, {"x_11.mp3", "y_12.mp3"})
    assert repaired["state"].to_list() == expected


def test_order_is_that_within_a_species_and_not_of_the_whole_table(release: Path) -> None:
    table = pl.read_csv(release / "unseen" / "benchmark" / "audio_index.csv")
    metadata = pl.read_csv(release / "unseen" / "metadata.csv", infer_schema=False)
    files = {str(path.relative_to(release / "unseen")) for path in (release / "unseen" / "audio").iterdir()}
    repaired = repair_index(table, metadata, files)
    truth = {clip["listed"]: clip["file"] for clip in clips()}
    assert repaired["file_path"].to_list() == [truth[name] for name in table["file_path"]]
    assert (table["file_path"] != metadata["file_name"]).sum() > N_ASA + N_UPLOAD


def test_files_are_found_under_the_path_the_downloader_wrote_and_by_its_rule(tmp_path: Path) -> None:
    names = ["/home/me/out/audio/xc_1.mp3", None, "nan", "gone/xc_4.mp3", "../../etc/passwd", None]
    rows = [
        {"scientific_name": "A b", "source": "xc", "recording_id": f"{n}.0", "file_name": name}
        for n, name in enumerate(names, start=1)
    ]
    csv(tmp_path / "train" / "metadata.csv", [*rows, {**rows[0], "recording_id": None, "file_name": None}])
    for name in ("xc_1.mp3", "xc_2.flac", "xc_6.wav", "xc_6.mp3", "xc_99.mp3"):
        write(tmp_path / "train" / "audio" / name)
    reading = read(tmp_path)
    assert reading.records["media_id"].to_list() == ["xc:1", "xc:2"]
    assert reading.records["given_path"].to_list() == ["train/audio/xc_1.mp3", "train/audio/xc_2.flac"]
    assert reading.counts == {
        "train/metadata.csv: renamed": 2,
        "train/metadata.csv: missing": 2,
        "train/metadata.csv: broken": 3,  # without a name or URL, or with two files that could be meant
        "train/metadata.csv: rows without an id of an archive": 1,
        "train/: files that no list names": 3,
        "records": 2,
    }


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Turdus merula", "turdus_merula"),
        ("Larus (argentatus) x-y", "larus_argentatus_x-y"),
        (" Rana  \u00e9sculenta ", "rana_sculenta"),
        ("__A__b__", "a_b"),
        ("Turdus merula, Linnaeus 1758.", "turdus_merula_linnaeus_1758"),
        ("A" * 119 + " bc", "a" * 119 + "_"),
        ("", ""),
    ],
)
def test_the_folder_of_a_species_is_called_as_in_the_release(name: str, key: str) -> None:
    assert species_key(name) == key


def test_pictures_in_species_folders_are_read(tmp_path: Path) -> None:
    row = {"scientific_name": "Larus (x) y", "source": "xc", "recording_id": "1", "download_url": "//xeno-canto.org/1"}
    csv(tmp_path / "train" / "metadata.csv", [row])
    write(tmp_path / "train" / "image" / "larus_x_y" / "1.jpg")
    write(tmp_path / "train" / "image" / "corvus_corax" / "1.jpg")
    reading = read(tmp_path)
    rows = reading.records.select("media_id", "scientific_name", "url").rows()
    assert rows == [
        ("biovita:train/image/larus_x_y/1.jpg", "Larus (x) y", None),
        ("xc:1", "Larus (x) y", "https://xeno-canto.org/1"),
    ]
    assert reading.counts["train/: files that no list names"] == 1


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"image_url": "http://a/1.jpg", "scientific_name": "A b"}, "A b"),
        ({"photo_url_large": "http://a/1.jpg", "accepted_name": "A b"}, "A b"),
        ({"identifier": "http://a/1.jpg", "genus": "A", "species": "b"}, "A b"),
        ({"uuid": "u1", "source_url": "http://a/1.jpg", "species": "A b", "license": "CC BY 4.0"}, "A b"),
    ],
)
def test_the_columns_of_image_urls_are_found(tmp_path: Path, columns: dict[str, str], name: str) -> None:
    csv(tmp_path / "train" / "image_urls.csv", [columns])
    (row,) = read(tmp_path).records.iter_rows(named=True)
    assert (row["scientific_name"], row["url"], row["modality"]) == (name, "http://a/1.jpg", "image")
    assert row["media_id"] == ("tol:u1" if "uuid" in columns else "biovita:train/image_urls/0")
    assert row["licence"] == ("CC-BY-4.0" if "license" in columns else "unknown")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "train/image_urls.csv",
            "a,species\n1,2\n",
            r"image_urls\.csv: no column 'download_url' or 'url'.*it has a, species",
        ),
        ("train/image_urls.csv", "url,a\n1,2\n", "no column 'scientific_name' or 'species'"),
        ("unseen/metadata.csv", "scientific_name,a\n1,2\n", "no column 'download_url'"),
        ("unseen/benchmark/image_index.csv", "id,species\n1,2\n", "no column 'file_path'"),
        ("other.csv", "a\n1\n", "no train/metadata.csv"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    write(tmp_path / file, text)
    with pytest.raises(DatasetError, match=message):
        read(tmp_path)


def test_counts_are_plain_numbers(release: Path) -> None:
    counts = read(release).counts
    assert isinstance(counts, Counter)
    assert all(type(n) is int and n > 0 for n in counts.values())
