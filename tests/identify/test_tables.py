"""Tables read back by the programs' own readers: crowsetta, frictionless, pandas; empty results; hostile names."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import crowsetta
import pandas
import polars as pl
import pytest

from biovita.identify.answer import Answer, Named
from biovita.identify.blocks import Identified, Result
from biovita.identify.table import COLUMNS, SCHEMA, path_cell
from biovita.identify.windows import Detection
from biovita.identify.write import BIRDNET, RAVEN, Counts, Format, Out, Source, top_of, write_outputs
from biovita.media.check import Verdict
from biovita.media.headers import Header

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # in crowsetta

AT = datetime(2024, 5, 1, 5, 30, tzinfo=UTC)
FACTS = {"model": "tiny", "weights_sha256": "ab" * 32, "preprocess": "mel", "labels": "l", "calibration": None}
VALIDATE = """
import json
import frictionless
report = frictionless.validate("datapackage.json")
print(json.dumps([report.valid, report.stats["tasks"], report.flatten(["type", "note"])]))
"""


def named(name: str, score: float = 0.5, prob: float | None = None, common_name: str = "") -> Named:
    lineage = {"kingdom": "Animalia", "genus": name.split()[0], "species": name}
    return Named(
        rank="species", name=name, common_name=common_name, lineage=lineage, score=score, prob=prob, expected=None
    )


MERULA = named("Turdus merula", 0.61, 0.93, "Common Blackbird")
RANA = named("Rana temporaria", 0.4)


def identified(path: str, detections: Sequence[tuple[float, float, Named]] = (), **facts: Any) -> Identified:
    """A recording with detections or, with a name that ends in .jpg, a picture."""
    modality = "image" if path.endswith(".jpg") else "audio"
    facts = {"duration_s": None if modality == "image" else 60.0, "header": Header(recorded_at=AT), **facts}
    whole = facts.pop("whole", Answer(taxa=[MERULA], sure=MERULA))
    suffix = Path(path).suffix
    verdict = Verdict(path=path, verdict="ok", modality=modality, suffix=suffix, sample_rate_hz=32_000, n_channels=1)
    found = [Detection(start_s=start, end_s=end, named=one) for start, end, one in detections]
    return Identified(path=path, modality=modality, whole=whole, detections=found, verdict=verdict, **facts)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Counts]:
    """Write results into tmp_path/out, or into a table there."""

    def write_(results: list[Result], *formats: Format, out: str = "out", place: Any = None, **how: Any) -> Counts:
        files = [Path(one.path) for result in results for one in (*result.files, *result.refused)]
        source = Source(top=top_of(files), place=place, created=AT, facts=FACTS)
        how = {"min_score": None, "combined": False, **how}
        return write_outputs(lambda: results, Out(tmp_path / out), formats, source, **how)

    return write_


def rows(path: Path, separator: str = "\t") -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter=separator, quoting=csv.QUOTE_NONE if separator == "\t" else 0))


THREE = [
    Result(files=[identified("/d/a.wav", [(0.0, 10.0, MERULA), (20.0, 30.0, RANA)], duration_s=30.0)]),
    Result(files=[identified("/d/s/b.flac", [(5.0, 12.5, RANA)], duration_s=12.5)]),
    Result(files=[identified("/d/p.jpg")]),
    Result(files=[identified("/d/c.mp3", [(0.0, 60.0, MERULA)], duration_s=61.25)]),
]


def test_crowsetta_reads_the_raven_table_of_each_recording(tmp_path: Path, write: Callable[..., Counts]) -> None:
    write(THREE, "raven")
    tables = sorted(path.relative_to(tmp_path / "out/raven").as_posix() for path in (tmp_path / "out").rglob("*.txt"))
    assert tables == ["a.wav.selections.txt", "c.mp3.selections.txt", "s/b.flac.selections.txt"]
    boxes = crowsetta.formats.bbox.Raven.from_file(
        tmp_path / "out/raven/a.wav.selections.txt", annot_col="Scientific Name"
    ).to_bbox()
    assert [(box.onset, box.offset, box.low_freq, box.high_freq, box.label) for box in boxes] == [
        (0.0, 10.0, 0.0, 16_000.0, "Turdus merula"),
        (20.0, 30.0, 0.0, 16_000.0, "Rana temporaria"),
    ]
    first, second = rows(tmp_path / "out/raven/a.wav.selections.txt")
    assert tuple(first) == RAVEN
    assert (first["Selection"], second["Selection"]) == ("1", "2")
    assert (first["Confidence"], second["Confidence"]) == ("0.93", "0.4")  # a probability where there is one
    assert (first["Common Name"], second["Common Name"]) == ("Common Blackbird", "Rana temporaria")
    assert (first["Begin Path"], first["Begin File"]) == ("/d/a.wav", "a.wav")


def test_in_a_combined_table_the_clock_runs_through_files_of_unequal_length(
    tmp_path: Path, write: Callable[..., Counts]
) -> None:
    write(THREE, "raven", "audacity", "birdnet", combined=True)
    table = rows(tmp_path / "out" / "raven.selections.txt")
    assert [row["Begin File"] for row in table] == ["a.wav", "a.wav", "b.flac", "c.mp3"]
    assert [float(row["File Offset (s)"]) for row in table] == [0, 20, 5, 0]
    assert [float(row["Begin Time (s)"]) for row in table] == [0, 20, 30 + 5, 30 + 12.5]
    assert [float(row["End Time (s)"]) for row in table] == [10, 30, 30 + 12.5, 30 + 12.5 + 60]
    assert [row["Selection"] for row in table] == ["1", "2", "3", "4"]
    boxes = crowsetta.formats.bbox.Raven.from_file(
        tmp_path / "out" / "raven.selections.txt", annot_col="Common Name"
    ).to_bbox()
    assert [box.onset for box in boxes] == [0, 20, 35, 42.5]
    labels = crowsetta.formats.seq.AudSeq.from_file(tmp_path / "out" / "audacity.labels.txt")
    assert labels.start_times.tolist() == [0, 20, 35, 42.5]
    birdnet = pandas.read_csv(tmp_path / "out" / "birdnet.results.csv")
    assert birdnet["Start (s)"].tolist() == [0, 20, 5, 0]  # inside its file
    assert birdnet["File"].tolist() == ["/d/a.wav", "/d/a.wav", "/d/s/b.flac", "/d/c.mp3"]


def test_crowsetta_reads_audacity_labels_with_the_score_in_the_text(
    tmp_path: Path, write: Callable[..., Counts]
) -> None:
    write(THREE, "audacity")
    path = tmp_path / "out/audacity/a.wav.labels.txt"
    labels = crowsetta.formats.seq.AudSeq.from_file(path)
    assert (labels.start_times.tolist(), labels.end_times.tolist()) == ([0, 20], [10, 30])
    assert labels.labels.tolist() == ["Turdus merula 0.93", "Rana temporaria 0.40"]
    assert path.read_text().startswith("0.0\t10.0\t")


def test_birdnet_columns_are_those_of_birdnet(tmp_path: Path, write: Callable[..., Counts]) -> None:
    write(THREE, "birdnet")
    table = pandas.read_csv(tmp_path / "out/birdnet/a.wav.results.csv")
    assert tuple(table.columns) == BIRDNET
    assert table.iloc[0].tolist() == [0.0, 10.0, "Turdus merula", "Common Blackbird", 0.93, "/d/a.wav"]


def test_csv_json_lines_and_parquet_hold_the_same_rows(tmp_path: Path, write: Callable[..., Counts]) -> None:
    counts = write(THREE, "csv", "jsonl", "parquet")
    assert (counts.n_files, counts.n_audio, counts.n_named) == (4, 3, 5)
    as_parquet = pandas.read_parquet(tmp_path / "out/predictions.parquet")
    as_csv = pandas.read_csv(tmp_path / "out/predictions.csv")
    as_lines = pandas.read_json(tmp_path / "out/predictions.jsonl", lines=True, dtype=False)
    assert [*as_parquet.columns] == [*as_csv.columns] == [*as_lines.columns] == [*COLUMNS]
    for column in COLUMNS:
        for other in (as_csv, as_lines):
            pairs = zip(as_parquet[column], other[column], strict=True)
            assert all(one == two or (pandas.isna(one) and pandas.isna(two)) for one, two in pairs), column
    assert as_parquet["path"].tolist() == ["/d/a.wav", "/d/a.wav", "/d/s/b.flac", "/d/p.jpg", "/d/c.mp3"]
    assert as_parquet["start_s"].fillna(-1).tolist() == [0, 20, 5, -1, 0]
    assert as_parquet["recorded_at"][1] == "2024-05-01T05:30:20.000+00:00"  # of the detection, not of the file
    assert set(as_parquet["schema"]) == {SCHEMA}
    assert as_parquet["genus"].tolist() == ["Turdus", "Rana", "Rana", "Turdus", "Turdus"]
    metadata = pl.read_parquet_metadata(tmp_path / "out/predictions.parquet")
    assert metadata["biovita.schema"] == SCHEMA
    assert metadata["biovita.weights_sha256"] == "ab" * 32
    assert metadata["biovita.calibration"] == ""


def test_an_empty_result_is_an_empty_table_with_its_header(tmp_path: Path, write: Callable[..., Counts]) -> None:
    bad = Verdict(path="/d/x.wav", verdict="reject", reason="silent", detail="peak 0")
    nothing = Answer(taxa=[named("Turdus merula", 0.3, 0.2)], sure=None)
    empty = [Result(files=[identified("/d/a.wav"), identified("/d/p.jpg", whole=nothing)]), Result(refused=[bad])]
    counts = write(empty, "csv", "jsonl", "parquet", "raven", "audacity", "birdnet", "camtrap-dp")
    assert (counts.n_files, counts.n_named, counts.n_refused) == (2, 0, 1)
    for name in ("predictions.csv", "predictions.parquet"):
        read = pandas.read_csv if name.endswith("csv") else pandas.read_parquet
        table = read(tmp_path / "out" / name)
        assert (len(table), [*table.columns]) == (0, [*COLUMNS])
    assert (tmp_path / "out/predictions.jsonl").read_text() == ""
    assert rows(tmp_path / "out/raven/a.wav.selections.txt") == []
    assert (tmp_path / "out/raven/a.wav.selections.txt").read_text() == "\t".join(RAVEN) + "\n"
    assert (tmp_path / "out/audacity/a.wav.labels.txt").read_text() == ""
    assert [*pandas.read_csv(tmp_path / "out/birdnet/a.wav.results.csv").columns] == [*BIRDNET]
    assert rows(tmp_path / "out/refused.csv", ",") == [{"path": "/d/x.wav", "reason": "silent", "detail": "peak 0"}]
    assert not (tmp_path / "out/raven/x.wav.selections.txt").exists()


NAMES = (
    "=1+1.wav",
    "-rf.wav",
    "+a.wav",
    "@a.wav",
    "\ta.wav",
    "a\nb.wav",
    'a"b, c.wav',
    "a\udcffb.wav",
    "..a.wav",
    "~.wav",
)


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_stay_one_row_and_no_cell_is_a_formula(
    tmp_path: Path, write: Callable[..., Counts], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = named("=Turdus merula", common_name="@Blackbird")
    result = Result(files=[identified(name, [(0.0, 10.0, hostile)])])
    formats: list[Format] = ["csv", "jsonl", "parquet", "raven", "audacity", "birdnet", "camtrap-dp"]
    write([result], *formats, place=(45.0, -122.0))
    for table, separator in (
        (tmp_path / "out/predictions.csv", ","),
        (next((tmp_path / "out/raven").iterdir()), "\t"),
        (next((tmp_path / "out/birdnet").iterdir()), ","),
        (tmp_path / "out/camtrap-dp/media.csv", ","),
        (tmp_path / "out/camtrap-dp/observations.csv", ","),
    ):
        (row,) = rows(table, separator)
        for column, cell in row.items():
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")), (table, column)
    (as_csv,) = rows(tmp_path / "out/predictions.csv", ",")
    if name.isprintable():
        assert os.path.normpath(as_csv["path"]) == name  # it still names the file
    line = json.loads((tmp_path / "out/predictions.jsonl").read_text())
    assert line["path"] == name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    assert pandas.read_parquet(tmp_path / "out/predictions.parquet")["path"].tolist() == [line["path"]]
    assert len(next((tmp_path / "out/audacity").iterdir()).read_text().splitlines()) == 1
    assert validated(tmp_path / "out/camtrap-dp") == [True, 3, []]


def test_the_longest_name_has_a_table_too(tmp_path: Path, write: Callable[..., Counts]) -> None:
    long, longer = (f"/d/{'x' * 246}{n}.flac" for n in "12")
    write([Result(files=[identified(name, [(0.0, 1.0, RANA)])]) for name in (long, longer)], "raven")
    tables = sorted((tmp_path / "out/raven").iterdir())
    assert len(tables) == 2
    assert all(len(table.name) <= 255 for table in tables)
    assert {rows(table)[0]["Begin Path"] for table in tables} == {long, longer}


def test_files_of_one_animal_share_its_name(tmp_path: Path, write: Callable[..., Counts]) -> None:
    both = [identified("/d/a.wav", [(0.0, 10.0, RANA)]), identified("/d/p.jpg")]
    pairs = [
        Result(files=both, together=Answer(taxa=[MERULA], sure=MERULA)),
        Result(files=[identified("/d/q.jpg")], together=Answer(taxa=[RANA], sure=None)),
    ]
    write(pairs, "csv", "camtrap-dp", place=(45.0, -122.0))
    table = rows(tmp_path / "out/predictions.csv", ",")
    assert [(row["path"], row["animal"], row["name"], row["start_s"]) for row in table] == [
        ("/d/a.wav", "1", "Turdus merula", ""),
        ("/d/p.jpg", "1", "Turdus merula", ""),
        ("/d/q.jpg", "2", "Rana temporaria", ""),
    ]
    observations = rows(tmp_path / "out/camtrap-dp/observations.csv", ",")
    assert [row["eventID"] for row in observations] == ["animal-1", "animal-1", "animal-2"]
    assert {row["observationLevel"] for row in observations} == {"media"}


def validated(package: Path) -> list[Any]:
    """Let frictionless judge a package, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", VALIDATE], cwd=package, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_frictionless_validates_the_camtrap_package_with_and_without_sound(
    tmp_path: Path, write: Callable[..., Counts]
) -> None:
    here = {"latitude_deg": 46.5, "longitude_deg": 8.25, "device": "AudioMoth 24F3"}
    unsure = Answer(taxa=[named("Turdus merula", 0.3, 0.2)], sure=None)
    pictures = [
        Result(files=[identified("/d/p.jpg", header=Header(recorded_at=AT, **here))]),
        Result(files=[identified("/d/q.jpg", header=Header(recorded_at=AT, **here), whole=unsure)]),
        Result(files=[identified("/d/no_time.jpg", header=Header(**here))]),
        Result(files=[identified("/d/no_place.jpg")]),
    ]
    sounds = [
        Result(
            files=[
                identified(
                    "/d/s/a.wav", [(0.0, 10.0, MERULA), (20.0, 30.0, RANA)], header=Header(recorded_at=AT, **here)
                )
            ]
        )
    ]
    for name, results, term in (("still", pictures, "cameraID"), ("loud", pictures + sounds, "deviceID")):
        write(results, "camtrap-dp", out=name)
        package = tmp_path / name / "camtrap-dp"
        assert validated(package) == [True, 3, []]
        (deployment,) = rows(package / "deployments.csv", ",")
        assert (deployment["latitude"], deployment[term]) == ("46.5", "AudioMoth 24F3")
        assert rows(package / "left_out.csv", ",") == [
            {"path": "/d/no_time.jpg", "reason": "no_time"},
            {"path": "/d/no_place.jpg", "reason": "no_place"},
        ]
    observations = rows(tmp_path / "loud/camtrap-dp/observations.csv", ",")
    assert [(row["observationType"], row["scientificName"], row["observationLevel"]) for row in observations] == [
        ("animal", "Turdus merula", "media"),
        ("unknown", "", "media"),
        ("animal", "Turdus merula", "interval"),
        ("animal", "Rana temporaria", "interval"),
    ]
    assert [row["classificationProbability"] for row in observations] == ["0.93", "", "0.93", ""]
    assert observations[3]["eventStart"] == "2024-05-01T05:30:20Z"
    media = {row["mediaID"]: row for row in rows(tmp_path / "loud/camtrap-dp/media.csv", ",")}
    assert media["/d/s/a.wav"]["filePath"] == "s/a.wav"
    assert media["/d/s/a.wav"]["samplingFrequency"] == "32000"


def test_without_a_place_there_is_no_package_but_a_list_that_says_why(
    tmp_path: Path, write: Callable[..., Counts], capsys: pytest.CaptureFixture[str]
) -> None:
    write([Result(files=[identified("/d/p.jpg")])], "camtrap-dp")
    assert not (tmp_path / "out/camtrap-dp/datapackage.json").exists()
    assert rows(tmp_path / "out/camtrap-dp/media.csv", ",") == []
    assert len(rows(tmp_path / "out/camtrap-dp/left_out.csv", ",")) == 1
    assert "--place LAT LON" in capsys.readouterr().err


def test_a_path_that_would_be_a_formula_still_names_its_file() -> None:
    assert [path_cell(path) for path in ("=a", "-a", "a", "/=a", "a=")] == ["./=a", "./-a", "a", "/=a", "a="]
