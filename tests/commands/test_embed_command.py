"""`biovita embed`: one Parquet file; a bad file is counted and never becomes a vector."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from biovita.embed.store import read_embeddings
from biovita.files import sha256_file
from biovita.media.audio import write_audio
from biovita.models.encoder import Encoder


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the texts of a benchmark in a folder of the test."""
    monkeypatch.setenv("BIOVITA_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("kind", ["audio", "image"])
def test_files_of_one_kind_become_rows_in_their_order(
    biovita: Callable[..., Any],
    encoder: Encoder,
    model_folder: Path,
    media: dict[str, list[Path]],
    tmp_path: Path,
    kind: str,
) -> None:
    out = tmp_path / "vectors.parquet"
    assert biovita("embed", *media[kind], "--model", model_folder, "--out", out).code == 0
    table = read_embeddings(out)
    assert table.ids == [str(path) for path in media[kind]]
    assert set(table.modality) == {kind}
    expected = encoder.embed_audio(media[kind]) if kind == "audio" else encoder.embed_image(media[kind])
    np.testing.assert_allclose(table.embedding, expected, atol=1e-5)
    assert table.meta["weights_sha256"] == sha256_file(model_folder / "model.safetensors")
    assert table.meta["preprocess"] == f"{encoder.processor.fingerprint()}-onset"
    assert (tmp_path / "vectors.run.json").is_file()


@pytest.mark.parametrize("window", ["onset", "centre", "windows"])
def test_the_window_reaches_the_model(
    biovita: Callable[..., Any], encoder: Encoder, model_folder: Path, tmp_path: Path, window: Any
) -> None:
    t = np.arange(25 * 16_000) / 16_000
    write_audio(tmp_path / "long.wav", np.sin(2 * np.pi * (200 + 100 * t) * t) * (0.1 + 0.03 * t), 16_000)
    out = tmp_path / "v.parquet"
    words = ("--model", model_folder, "--out", out, "--window", window, "--quiet")
    assert biovita("embed", tmp_path / "long.wav", *words).code == 0
    distances = {
        name: np.abs(read_embeddings(out).embedding - encoder.embed_audio([tmp_path / "long.wav"], window=name)).max()
        for name in ("onset", "centre", "windows")
    }
    assert distances.pop(window) < 1e-6
    assert min(distances.values()) > 1e-4


def test_names_become_rows_and_empty_lines_do_not(
    biovita: Callable[..., Any], encoder: Encoder, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text("Turdus merula\n\n  Größe \nowl\n", encoding="utf-8")
    out = tmp_path / "names.parquet"
    assert biovita("embed", "--text", tmp_path / "names.txt", "--model", model_folder, "--out", out).code == 0
    table = read_embeddings(out)
    assert table.text == table.ids == ["Turdus merula", "Größe", "owl"]
    np.testing.assert_allclose(table.embedding, encoder.embed_text(table.ids), atol=1e-5)


def test_bad_files_are_named_and_counted_and_the_good_ones_stay(
    biovita: Callable[..., Any], model_folder: Path, media: dict[str, list[Path]], tmp_path: Path
) -> None:
    (tmp_path / "page.wav").write_text("<html>not found</html>" * 50)
    out = tmp_path / "v.parquet"
    files = [media["audio"][0], tmp_path / "page.wav", tmp_path / "missing.wav", media["audio"][1]]
    ran = biovita("embed", *files, "--model", model_folder, "--out", out)
    assert ran.code == 3
    assert "page.wav: not embedded: html_document" in ran.err
    assert "missing.wav: not embedded: unreadable" in ran.err
    assert "2 vectors, 2 files refused" in ran.err
    assert read_embeddings(out).ids == [str(media["audio"][0]), str(media["audio"][1])]


@pytest.mark.parametrize("case", ["none", "both", "only bad", "no such list", "empty list", "table"])
def test_what_cannot_be_embedded_is_refused(
    biovita: Callable[..., Any], model_folder: Path, media: dict[str, list[Path]], tmp_path: Path, case: str
) -> None:
    (tmp_path / "bad.wav").write_bytes(b"")
    (tmp_path / "names.txt").write_text("owl\n")
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "labels.csv").write_text("species\nowl\n")
    words, said = {
        "none": ([], "give either media files or --text FILE"),
        "both": ([media["audio"][0], "--text", tmp_path / "names.txt"], "give either media files or --text FILE"),
        "only bad": ([tmp_path / "bad.wav"], "none of the 1 files can be used"),
        "empty list": (["--text", tmp_path / "blank.txt"], "blank.txt: holds no names"),
        "no such list": (["--text", tmp_path / "nowhere.txt"], "nowhere.txt: no such file"),
        "table": (
            ["--text", tmp_path / "labels.csv"],
            "labels.csv: is a table; write the column with the names",
        ),
    }[case]
    ran = biovita("embed", *words, "--model", model_folder, "--out", tmp_path / "v.parquet")
    assert ran.code == 2
    assert said in ran.err
    assert not (tmp_path / "v.parquet").exists()


def test_a_folder_of_sounds_and_pictures_becomes_one_file_and_every_other_entry_a_line(
    biovita: Callable[..., Any], model_folder: Path, media: dict[str, list[Path]], tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    for n, path in enumerate([*media["audio"], *media["image"]]):
        copy = folder / ("deep/er" if n % 2 else ".") / f"{n}{path.suffix}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (folder / "notes.txt").write_text("seen at dusk\n")
    (folder / "link.png").symlink_to(folder / "3.jpg")
    out = tmp_path / "v.parquet"
    ran = biovita("embed", folder, "--model", model_folder, "--out", out, "--workers", 2)
    assert ran.code == 3
    table = read_embeddings(out)
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.stem.isdigit())
    assert table.ids == [str(path) for path in found]
    assert set(table.modality) == {"audio", "image"}
    assert "notes.txt: not embedded: text_document" in ran.err
    assert "link.png: not embedded: symlink" in ran.err


def test_a_dataset_becomes_a_folder_with_a_file_for_each_modality(
    biovita: Callable[..., Any], encoder: Encoder, model_folder: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "vectors"
    assert biovita("embed", data, "--model", model_folder, "--out", out).code == 0
    media = pl.read_parquet(data / "media.parquet").sort("media_id")
    for modality in ("audio", "image"):
        rows = media.filter(pl.col("modality") == modality)
        table = read_embeddings(out / f"{modality}.parquet")
        assert table.ids == rows["media_id"].to_list()
        last = [data / rows["path"][-1]]
        expected = encoder.embed_audio(last) if modality == "audio" else encoder.embed_image(last)
        np.testing.assert_allclose(table.embedding[-1], expected[0], atol=2e-6)
    assert sorted(path.name for path in out.iterdir()) == ["audio.parquet", "image.parquet", "run.json"]


def test_a_benchmark_becomes_what_bench_embed_makes_of_it(
    biovita: Callable[..., Any], model_folder: Path, made_up: Path, tmp_path: Path
) -> None:
    assert biovita("bench", "make", made_up, "--out", tmp_path / "bench").code == 0
    assert biovita("embed", tmp_path / "bench", "--model", model_folder, "--out", tmp_path / "one").code == 0
    words = ("--model", model_folder, "--out", tmp_path / "other", "--workers", 1)
    assert biovita("bench", "embed", tmp_path / "bench", *words).code == 0
    for name in ("audio", "image", "text"):
        one, other = tmp_path / "one" / f"{name}.parquet", tmp_path / "other" / f"{name}.parquet"
        assert one.read_bytes() == other.read_bytes()
        assert len(read_embeddings(one)) > 20
    done = biovita("bench", "score", tmp_path / "bench", "--embeddings", tmp_path / "one", "--out", tmp_path / "r.json")
    assert done.code == 0


def test_every_window_becomes_a_row_with_pool_none(
    biovita: Callable[..., Any], model_folder: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    write_audio(tmp_path / "long.wav", rng.normal(0, 0.1, 25 * 16_000).astype(np.float32), 16_000)
    out = tmp_path / "v.parquet"
    words = ("--model", model_folder, "--out", out, "--window", "windows", "--pool", "none")
    assert biovita("embed", tmp_path / "long.wav", *words).code == 0
    table = read_embeddings(out)
    assert list(zip(table.start_s, table.end_s, strict=True)) == [(0, 10), (10, 20), (15, 25)]


def test_a_file_given_twice_is_embedded_once(
    biovita: Callable[..., Any], model_folder: Path, media: dict[str, list[Path]], tmp_path: Path
) -> None:
    path = media["image"][0]
    assert biovita("embed", path, path, "--model", model_folder, "--out", tmp_path / "v.parquet").code == 0
    assert read_embeddings(tmp_path / "v.parquet").ids == [str(path)]


def test_a_name_that_is_not_utf_8_is_written_with_escapes(
    biovita: Callable[..., Any], model_folder: Path, media: dict[str, list[Path]], tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    os.link(media["image"][0], os.fsencode(folder) + b"/\xe9.jpg")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xea.jpg")).write_bytes(b"")
    assert biovita("embed", folder, "--model", model_folder, "--out", tmp_path / "v.parquet").code == 3
    assert read_embeddings(tmp_path / "v.parquet").ids == [f"{folder}/\\xe9.jpg"]
    assert f"{folder}/\\xea.jpg,empty_file" in (tmp_path / "v.quarantine.csv").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pool", "max"], "--pool max with --window onset"),
        (["--batch-size", "-1"], "--batch-size -1: give at least 1"),
        (["--workers", "-2"], "--workers -2: give at least 1"),
    ],
)
def test_flags_that_mean_nothing_are_refused(
    biovita: Callable[..., Any], model_folder: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    ran = biovita("embed", "x.wav", "--model", model_folder, "--out", tmp_path / "v.parquet", *words)
    assert ran.code == 2
    assert said in ran.err


def test_a_dataset_beside_other_files_is_refused(
    biovita: Callable[..., Any], model_folder: Path, made_up: Path, tmp_path: Path
) -> None:
    ran = biovita("embed", made_up, "x.wav", "--model", model_folder, "--out", tmp_path / "v")
    assert ran.code == 2
    assert "is embedded alone" in ran.err


def test_a_folder_without_files_is_refused(biovita: Callable[..., Any], model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ran = biovita("embed", tmp_path / "empty", "--model", model_folder, "--out", tmp_path / "v.parquet")
    assert ran.code == 2
    assert "holds no files" in ran.err
