"""`biovita embed`: one Parquet file; a bad file is counted and never becomes a vector."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biovita.embed.store import read_embeddings
from biovita.files import sha256_file
from biovita.media.audio import write_audio
from biovita.models.encoder import Encoder


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


@pytest.mark.parametrize("case", ["mixed", "none", "both", "only bad", "no such list"])
def test_what_cannot_be_one_file_is_refused(
    biovita: Callable[..., Any], model_folder: Path, media: dict[str, list[Path]], tmp_path: Path, case: str
) -> None:
    (tmp_path / "bad.wav").write_bytes(b"")
    (tmp_path / "names.txt").write_text("owl\n")
    words, said = {
        "mixed": ([media["audio"][0], media["image"][0]], "one file holds one kind, these are audio, image"),
        "none": ([], "give either media files or --text FILE"),
        "both": ([media["audio"][0], "--text", tmp_path / "names.txt"], "give either media files or --text FILE"),
        "only bad": ([tmp_path / "bad.wav"], "none of the 1 files can be used"),
        "no such list": (["--text", tmp_path / "nowhere.txt"], "nowhere.txt: no such file"),
    }[case]
    ran = biovita("embed", *words, "--model", model_folder, "--out", tmp_path / "v.parquet")
    assert ran.code == 2
    assert said in ran.err
    assert not (tmp_path / "v.parquet").exists()
