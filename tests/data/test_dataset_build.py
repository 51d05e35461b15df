"""From a table of files to a dataset folder: complete, accounted for, reproducible, resumable."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from biovita.data import build
from biovita.data.build import BuildReport, build_dataset
from biovita.data.dataset import MEDIA_SCHEMA, QUARANTINE_SCHEMA, TAXA_SCHEMA, Dataset, problems
from biovita.errors import DatasetError
from biovita.files import read_json, sha256_file
from biovita.media.audio import read_audio, write_audio
from biovita.media.image import write_image
from biovita.sources.folder import read_manifest_table
from biovita.taxonomy.checklist import Checklist
from biovita.taxonomy.rank import RANKS
from biovita.taxonomy.traits import TRAITS

TABLES = tuple(build.TABLES)


def make(
    source: Path, out: Path, *, seed: int = 0, withheld: float = 2, workers: int = 1, **options: object
) -> BuildReport:
    records = read_manifest_table(source / "records.tsv")
    checklist = Checklist.open([source / "taxa.parquet"])
    return build_dataset([records], checklist, out, seed=seed, withheld=withheld, workers=workers, **options)


def hashes(out: Path) -> dict[str, str]:
    return {name: sha256_file(out / name) for name in TABLES}


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files each call of the checker was asked about."""
    numbers: list[int] = []
    real = build.check_files

    def counting(paths: list[Path], **options: object) -> object:
        numbers.append(len(paths))
        return real(paths, **options)

    monkeypatch.setattr(build, "check_files", counting)
    return numbers


def test_a_folder_becomes_a_dataset_that_keeps_the_laws(source: Path, tmp_path: Path) -> None:
    report = make(source, tmp_path / "out")
    assert (report.n_ok, report.n_quarantined, report.n_species, report.n_withheld) == (108, 0, 12, 2)
    dataset = Dataset.open(tmp_path / "out", verify=True)
    assert problems(dataset) == []
    media, taxa = dataset.media, dataset.taxa
    assert dict(media.schema) == MEDIA_SCHEMA
    assert media["media_id"].is_sorted()
    assert dict(taxa.schema) == TAXA_SCHEMA
    assert taxa["species"].is_sorted()
    assert taxa["diurnal"].null_count() == 0
    assert taxa["nocturnal"].null_count() == 12
    assert set(media["split"]) == {"train", "val", "test_seen", "test_unseen"}
    row = media.filter(pl.col("modality") == "audio").row(0, named=True)
    assert (row["duration_s"], row["sample_rate_hz"], row["n_channels"], row["width_px"]) == (0.2, 8_000, 1, None)
    assert len(read_audio(dataset.path(row["path"]))) == 9_600
    assert row["path"] == f"media/{row['sha256'][:2]}/{row['sha256']}.wav"
    assert [row[rank] for rank in RANKS[:3]] == ["Animalia", "Chordata", "Aves"]
    assert dataset.manifest["counts"]["records"] == 108
    assert dataset.manifest["made_up"] is False


def test_the_four_classic_bad_files_are_quarantined_with_their_reasons(
    source: Path, tmp_path: Path, append: Callable[..., None]
) -> None:
    (source / "empty.mp3").touch()
    (source / "page.mp3").write_text("<!DOCTYPE html><html><body>Not found</body></html>")
    write_image(
        source / "whole.jpg", Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8))
    )
    (source / "cut.jpg").write_bytes((source / "whole.jpg").read_bytes()[:9_000])
    write_audio(source / "nothing.wav", np.zeros(0, np.float32), 8_000)
    for name, modality in (
        ("empty.mp3", "audio"),
        ("page.mp3", "audio"),
        ("cut.jpg", "image"),
        ("nothing.wav", "audio"),
    ):
        append(name, modality=modality)
    report = make(source, tmp_path / "out")
    assert (report.n_ok, report.n_quarantined, report.n_bad_media) == (108, 4, 4)
    quarantine = Dataset.open(tmp_path / "out").quarantine
    assert dict(quarantine.schema) == QUARANTINE_SCHEMA
    assert dict(quarantine.select("media_id", "reason").iter_rows()) == {
        "folder:cut.jpg": "truncated",
        "folder:empty.mp3": "empty_file",
        "folder:nothing.wav": "no_samples",
        "folder:page.mp3": "html_document",
    }
    assert len(list((tmp_path / "out" / "media").glob("*/*"))) == 108


def test_every_kind_of_refusal_is_counted(source: Path, tmp_path: Path, append: Callable[..., None]) -> None:
    (source / "copy.wav").write_bytes((source / "0-0.wav").read_bytes())
    (tmp_path / "outside.wav").write_bytes((source / "0-0.wav").read_bytes())
    (source / "link.wav").symlink_to(tmp_path / "outside.wav")
    append("copy.wav")
    append("gone.wav")
    append("link.wav")
    append("../outside.wav")
    append("0-0.png", media_id="folder:-again")  # sorts before the good row of the same file
    append("1-1.flac", media_id="folder:slash", scientific_name="Avesgena speca/specb")
    append("1-1.flac", media_id="folder:nobody", scientific_name="Nemo nobilis")
    append("1-1.flac", media_id="folder:reserved", licence="all rights reserved")
    report = make(source, tmp_path / "out")
    assert {media_id: reason for media_id, reason, _ in report.refused.iter_rows()} == {
        "folder:copy.wav": "duplicate",
        "folder:gone.wav": "unreadable",
        "folder:link.wav": "symlink",
        "folder:../outside.wav": "unsafe_name",
        "folder:-again": "wrong_modality",
        "folder:slash": "name_unresolved",
        "folder:nobody": "name_unresolved",
        "folder:reserved": "licence_refused",
    }
    assert report.n_ok + report.n_quarantined == len(read_manifest_table(source / "records.tsv"))
    assert problems(Dataset.open(tmp_path / "out")) == []


def test_a_licence_policy_keeps_only_what_it_names(source: Path, tmp_path: Path) -> None:
    report = make(source, tmp_path / "out", choice=build.Choice(licences=["cc-by"]))
    assert report.n_ok == 12 * 5
    assert set(Dataset.open(tmp_path / "out").media["licence"]) == {"CC-BY-4.0"}
    assert set(report.refused["reason"]) == {"licence_refused"}


def test_the_tables_depend_on_inputs_and_seed_alone(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "one", workers=1)
    table = pl.read_csv(source / "records.tsv", separator="\t", infer_schema=False)
    shutil.copytree(source, tmp_path / "elsewhere" / "out")
    table.sample(fraction=1, shuffle=True, seed=3).write_csv(
        tmp_path / "elsewhere" / "out" / "records.tsv", separator="\t"
    )
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from test_dataset_build import make; make(Path(sys.argv[2]), Path(sys.argv[3]), workers=3)\n"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "POLARS_MAX_THREADS": "1"}
    words = [str(Path(__file__).parent), str(tmp_path / "elsewhere" / "out"), str(tmp_path / "two" / "one")]
    subprocess.run([sys.executable, "-c", script, *words], check=True, env=env, capture_output=True)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two" / "one")
    make(source, tmp_path / "other", seed=1)
    assert hashes(tmp_path / "one")["media.parquet"] != hashes(tmp_path / "other")["media.parquet"]


def test_a_killed_build_goes_on_without_checking_again(source: Path, tmp_path: Path, checked: list[int]) -> None:
    make(source, tmp_path / "whole")
    out = tmp_path / "out"
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from biovita.data import ledger; ledger.COMMIT_S = 0\n"
        "from test_dataset_build import make; make(Path(sys.argv[2]), Path(sys.argv[3]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(Path(__file__).parent), str(source), str(out)], stderr=subprocess.DEVNULL
    )
    while len(list(out.glob("media/*/*"))) < 30:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.json").exists()
    with pytest.raises(DatasetError, match="never finished"):
        Dataset.open(out)
    checked.clear()
    make(source, out)
    make(source, out)
    assert checked[0] <= 108 - 25
    assert checked[1] == 0
    assert hashes(out) == {**hashes(tmp_path / "whole"), "card.md": sha256_file(out / "card.md"),
                           "croissant.json": sha256_file(out / "croissant.json")}  # fmt: skip
    assert problems(Dataset.open(out)) == []


def test_a_changed_source_file_is_checked_again(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out")
    (source / "0-0.wav").write_bytes(b"{}")
    report = make(source, tmp_path / "out")
    assert report.refused["reason"].to_list() == ["json_document"]
    assert problems(Dataset.open(tmp_path / "out")) == []


def test_a_folder_of_something_else_is_not_touched(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out")
    before = hashes(tmp_path / "out")
    with pytest.raises(DatasetError, match="other inputs, seed or settings"):
        make(source, tmp_path / "out", seed=1)
    assert hashes(tmp_path / "out") == before
    Dataset.open(tmp_path / "out", verify=True)
    with pytest.raises(DatasetError, match="not empty"):
        make(source, source)


def test_nothing_usable_is_an_error_with_the_reasons(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="108 licence_refused"):
        make(source, tmp_path / "out", choice=build.Choice(licences=["cc0"]))
    with pytest.raises(DatasetError, match="asks for 10 species, but only 9 of 12"):
        make(source, tmp_path / "other", withheld=10)
    assert make(source, tmp_path / "other", withheld=9).n_withheld == 9


@pytest.mark.parametrize("harm", ["byte", "missing", "extra", "table"])
def test_verification_finds_harm(source: Path, tmp_path: Path, harm: str) -> None:
    out = tmp_path / "out"
    make(source, out)
    victim = sorted(out.glob("media/*/*"))[3]
    if harm == "byte":
        data = bytearray(victim.read_bytes())
        data[100] ^= 1
        victim.write_bytes(data)
    elif harm == "missing":
        victim.unlink()
    elif harm == "extra":
        (victim.parent / "stray.wav").touch()
    else:
        Dataset.open(out).media.with_columns(split=pl.lit("train")).write_parquet(out / "media.parquet")
        with pytest.raises(DatasetError, match=r"media\.parquet: changed"):
            Dataset.open(out, verify=True)
        found = problems(Dataset.open(out))
        assert any("withheld species outside test_unseen" in problem for problem in found)
        return
    [problem] = problems(Dataset.open(out))
    assert {"byte": "changed", "missing": "missing", "extra": "not named"}[harm] in problem


def test_the_card_counts_and_credits_without_formulas(
    source: Path, tmp_path: Path, append: Callable[..., None]
) -> None:
    write_audio(source / "x.wav", np.random.default_rng(5).uniform(-0.5, 0.5, 1_600), 8_000)
    append("x.wav", rights_holder='=HYPERLINK("http://x","y")', page_url="@SUM(1)|<b>")
    make(source, tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    rows = {row["media_id"]: row for row in csv.DictReader(io.StringIO((tmp_path / "out" / "CREDITS.csv").read_text()))}
    assert len(rows) == 109
    assert rows["folder:x.wav"]["rights_holder"] == '\'=HYPERLINK("http://x","y")'
    assert rows["folder:x.wav"]["page_url"] == "'@SUM(1)|<b>"
    card = (tmp_path / "out" / "card.md").read_text()
    assert "109 files of 12 species: 61 recordings" in card
    assert "| CC-BY-4.0 | 60 |" in card
    croissant = read_json(tmp_path / "out" / "croissant.json")
    assert croissant["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert croissant["distribution"][0]["sha256"] == sha256_file(tmp_path / "out" / "media.parquet")
    columns = {field["name"] for field in croissant["recordSet"][0]["field"]}
    assert columns == set(dataset.media.columns)
    assert json.dumps(croissant["recordSet"][1]).count("sc:Boolean") == len(TRAITS) + 1


def test_an_observation_with_two_ids_stays_in_one_split(source: Path, tmp_path: Path) -> None:
    records = read_manifest_table(source / "records.tsv").sort("media_id")
    number = pl.int_range(pl.len()).over("species" if "species" in records.columns else "scientific_name")
    records = records.with_columns(
        pl.when(pl.col("modality") == "audio")
        .then(pl.format("number:{}", "media_id"))
        .otherwise(pl.format("uuid:{}{}", "scientific_name", number // 2))
        .alias("individual"),
        pl.when(pl.col("modality") == "audio")
        .then(pl.format("uuid:{}{}", "scientific_name", number // 2))
        .alias("given_individual"),
    )
    checklist = Checklist.open([source / "taxa.parquet"])
    build_dataset([records], checklist, tmp_path / "out", seed=0, withheld=2)
    media = Dataset.open(tmp_path / "out").media.join(records.select("media_id", "given_individual"), on="media_id")
    both = pl.coalesce("given_individual", "individual")
    assert media.group_by(both).agg(pl.col("split").n_unique())["split"].max() == 1
    assert media["split"].n_unique() == 4


def test_the_first_source_wins_and_the_copy_is_counted(source: Path, tmp_path: Path) -> None:
    records = read_manifest_table(source / "records.tsv")
    checklist = Checklist.open([source / "taxa.parquet"])
    again = records.head(10).with_columns(pl.lit("other").alias("source"), pl.lit("CC0-1.0").alias("licence"))
    report = build_dataset([records, again], checklist, tmp_path / "out", seed=0, withheld=2)
    assert report.refused["reason"].to_list() == ["duplicate"] * 10
    manifest = Dataset.open(tmp_path / "out").manifest
    assert manifest["counts"]["sources"] == {"folder": {"records": 108, "ok": 108}, "other": {"records": 10, "ok": 0}}
    assert "CC0-1.0" not in set(Dataset.open(tmp_path / "out").media["licence"])


def test_a_cap_leaves_a_counted_sample(source: Path, tmp_path: Path) -> None:
    choice = build.Choice(caps={"audio": 3})
    report = make(source, tmp_path / "out", choice=choice)
    assert (report.n_ok, report.n_left_out, report.n_quarantined) == (12 * 7, 24, 0)
    counts = Dataset.open(tmp_path / "out").manifest["counts"]
    assert counts["records"] == counts["ok"] + counts["left_out"] == 108
    assert counts["left_out_by_reason"] == {"cap": 24}


def test_parts_of_a_build_make_the_same_tables(source: Path, tmp_path: Path, checked: list[int]) -> None:
    make(source, tmp_path / "whole" / "out")
    out = tmp_path / "parts" / "out"
    records = read_manifest_table(source / "records.tsv")
    checklist = Checklist.open([source / "taxa.parquet"])
    taken = [build.take_in_part([records], checklist, out, part=(i, 3), seed=0) for i in (3, 1, 2)]
    assert sum(n_ok for n_ok, _ in taken) == 108
    assert all(n_ok > 20 for n_ok, _ in taken)
    assert not (out / "manifest.json").exists()
    for path in source.glob("*.wav"):
        os.utime(path)  # a file that changed would be checked again
    checked.clear()
    make(source, out)
    assert checked == [len(list(source.glob("*.wav")))]
    assert hashes(out) == hashes(tmp_path / "whole" / "out")


def test_a_second_build_in_the_same_folder_waits_its_turn(source: Path, tmp_path: Path) -> None:
    with build._locked(tmp_path / "out"), pytest.raises(DatasetError, match="another build is at work"):
        make(source, tmp_path / "out")
    make(source, tmp_path / "out")


@pytest.mark.slow
def test_ray_makes_the_same_tables(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "local" / "out")
    words = ("data", "build", "--manifest", source / "records.tsv", "--out", tmp_path / "ray" / "out")
    more = ("--seed", "0", "--withheld", "2", "--engine", "ray", "--quiet")
    biovita = Path(sys.executable).parent / "biovita"
    done = subprocess.run([biovita, *words, *more], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    tables = [name for name in TABLES if name.endswith(".parquet")]
    ray, local = (hashes(tmp_path / engine / "out") for engine in ("ray", "local"))
    assert {name: ray[name] for name in tables} == {name: local[name] for name in tables}


def test_a_copy_that_was_encoded_again_shares_the_split_and_verification_would_notice(
    source: Path, tmp_path: Path, append: Callable[..., None]
) -> None:
    rng = np.random.default_rng(11)
    calls = [(rng.uniform(0, 28), rng.uniform(400, 3_500), rng.uniform(0.05, 0.5)) for _ in range(90)]
    seconds = np.arange(30 * 8_000) / 8_000
    song = sum(np.exp(-(((seconds - at) / long) ** 2)) * np.sin(2 * np.pi * hz * seconds) for at, hz, long in calls)
    song = song / np.abs(song).max() / 2
    write_audio(source / "song.flac", song, 8_000)
    write_audio(source / "again.mp3", 0.5 * song, 8_000)
    for name in ("song.flac", "again.mp3"):
        append(name)
    make(source, tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.manifest["counts"]["near_duplicates"] == 2
    pair = pl.col("media_id").is_in(["folder:song.flac", "folder:again.mp3"])
    assert dataset.media.filter(pair)["split"].n_unique() == 1
    split = pl.when(pl.col("media_id") == "folder:song.flac").then(pl.lit("train")).when(pair).then(pl.lit("val"))
    torn = dataset.media.with_columns(split.otherwise("split").alias("split"))
    torn.write_parquet(tmp_path / "out" / "media.parquet")
    assert any("near-duplicates in two splits" in problem for problem in problems(Dataset.open(tmp_path / "out")))


def test_two_animals_of_one_name_do_not_become_one_species(source: Path, tmp_path: Path) -> None:
    taxa = pl.read_parquet(source / "taxa.parquet")
    twin = taxa.head(1).with_columns(pl.lit("Insecta").alias("class"), pl.lit("Arthropoda").alias("phylum"),
                                     pl.lit("Ordo").alias("order"), pl.lit("Idae").alias("family"))  # fmt: skip
    pl.concat([taxa, twin]).write_parquet(tmp_path / "taxa.parquet")
    name = taxa["species"][0]
    records = read_manifest_table(source / "records.tsv").sort("media_id")
    own, nth = pl.col("scientific_name") == name, pl.col("media_id").rank("ordinal").over("scientific_name")
    phylum = pl.when(own & (nth == 1)).then(pl.lit("Arthropoda")).when(own).then(pl.lit("Chordata"))
    order = pl.when(own & (nth == 2)).then(pl.lit(taxa["order"][0]))
    records = records.with_columns(phylum.alias("given_phylum"), order.alias("given_order"))
    checklist = Checklist.open([tmp_path / "taxa.parquet"])
    report = build_dataset([records], checklist, tmp_path / "out", seed=0, withheld=2)
    assert report.refused.select("reason").to_series().to_list() == ["name_unresolved"]
    assert "homonym" in report.refused["detail"][0]
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.taxa.filter(species=name)["class"].to_list() == ["Aves"]
    assert dataset.names.filter(pl.col("scientific_name") == name)["how"].to_list().count("refused") == 1
