"""Embedding runs: killed and gone on with, bad files in the middle, other models, the same bytes every time."""

import csv
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from biovita.embed import extract
from biovita.embed.extract import How, embed_labels, embed_media, embed_names, text_vectors
from biovita.embed.store import read_embeddings
from biovita.errors import EmbeddingError
from biovita.files import sha256_file
from biovita.media.audio import write_audio
from biovita.media.image import write_image
from biovita.models import encoder as pipeline
from biovita.models import hub
from biovita.models.encoder import Encoder

BLOCK = 4  # vectors in a part, here
N_FILES = 30


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pipeline, "BLOCK", BLOCK)
    monkeypatch.setattr(extract, "BLOCK", BLOCK)
    monkeypatch.setenv("BIOVITA_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Short sounds and small pictures, mixed, and three files that are neither."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(1)
    for n in range(N_FILES):
        if n in (5, 6, 17):
            (folder / f"{n:02}.wav").write_text("<html>not found</html>" * 50)
        elif n % 3:
            write_audio(folder / f"{n:02}.wav", rng.normal(0, 0.1, 8_000 + 100 * n).astype(np.float32), 16_000)
        else:
            write_image(folder / f"{n:02}.png", Image.fromarray(rng.integers(0, 255, (70, 80, 3), np.uint8)))
    return sorted(folder.iterdir())


@pytest.fixture
def model(encoder: Encoder) -> Encoder:
    """The tiny model, with the hash that a saved one would have."""
    return replace(encoder, weights_sha256="ab" * 32)


def run(model: Encoder, out: Path, files: list[Path], **how: Any) -> extract.Outcome:
    return embed_media(model, out, ids=[path.name for path in files], paths=files, how=How(**how))


def good(files: list[Path]) -> list[Path]:
    return [path for path in files if path.name not in ("05.wav", "06.wav", "17.wav")]


def test_bad_files_in_the_middle_are_listed_and_never_a_vector(
    model: Encoder, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run(model, tmp_path / "v.parquet", files)
    table = read_embeddings(tmp_path / "v.parquet")
    assert table.ids == [path.name for path in good(files)]
    assert outcome.n_vectors == N_FILES - 3
    assert [(bad.id, bad.reason) for bad in outcome.bad] == [(f"{n:02}.wav", "html_document") for n in (5, 6, 17)]
    with (tmp_path / "v.quarantine.csv").open(newline="") as lines:
        assert [tuple(row) for row in csv.reader(lines)] == [("id", "reason", "detail"), *outcome.bad]
    assert "05.wav: not embedded: html_document" in capsys.readouterr().err
    assert not (tmp_path / "v.parquet.parts").exists()
    run(model, tmp_path / "v.parquet", good(files))
    assert not (tmp_path / "v.quarantine.csv").exists()


def test_sounds_and_pictures_mixed_are_rows_of_one_file_in_their_order(
    model: Encoder, files: list[Path], tmp_path: Path
) -> None:
    run(model, tmp_path / "v.parquet", files)
    table = read_embeddings(tmp_path / "v.parquet")
    assert table.modality == ["audio" if path.suffix == ".wav" else "image" for path in good(files)]
    for path, modality, vector in zip(good(files), table.modality, table.embedding, strict=True):
        alone = model.embed_audio([path]) if modality == "audio" else model.embed_image([path])
        np.testing.assert_allclose(vector, alone[0], atol=2e-6)


def test_the_same_bytes_whatever_the_number_of_workers(model: Encoder, files: list[Path], tmp_path: Path) -> None:
    hashes = set()
    for workers in (1, 2, 5):
        run(model, tmp_path / "v.parquet", files, workers=workers)
        hashes.add(sha256_file(tmp_path / "v.parquet"))
    assert len(hashes) == 1


class StoppedError(Exception):
    pass


def start(model: Encoder, out: Path, files: list[Path], *, n_parts: int) -> None:
    """Begin a run that dies when it wants to write one part more."""
    written = []
    write = extract.Parts.write

    def write_or_die(self: extract.Parts, *args: Any, **kwargs: Any) -> int:
        if len(written) == n_parts:
            raise StoppedError
        written.append(1)
        return write(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract.Parts, "write", write_or_die)
        with pytest.raises(StoppedError):
            run(model, out, files)


@pytest.mark.parametrize("n_parts", [0, 1, 4])
def test_a_run_goes_on_behind_its_last_part_and_ends_in_the_same_bytes(
    model: Encoder, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_parts: int
) -> None:
    run(model, tmp_path / "whole.parquet", files)
    start(model, tmp_path / "v.parquet", files, n_parts=n_parts)
    assert not (tmp_path / "v.parquet").exists()
    looked_at = []
    check = extract.check_files
    monkeypatch.setattr(extract, "check_files", lambda paths, **how: (looked_at.extend(paths), check(paths, **how))[1])
    outcome = run(model, tmp_path / "v.parquet", files)
    assert looked_at == files[n_parts * BLOCK :]
    assert len(outcome.bad) == 3
    assert (tmp_path / "v.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_file_that_was_changed_since_is_embedded_again(model: Encoder, files: list[Path], tmp_path: Path) -> None:
    copies = [tmp_path / path.name for path in files]
    for path, copy in zip(files, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    start(model, tmp_path / "v.parquet", copies, n_parts=4)
    copies[6].write_bytes(files[1].read_bytes())  # 06.wav was no sound
    assert len(run(model, tmp_path / "v.parquet", copies).bad) == 2
    table = read_embeddings(tmp_path / "v.parquet")
    row = dict(zip(table.ids, table.embedding, strict=True))
    np.testing.assert_allclose(row["06.wav"], row["01.wav"], atol=2e-6)


@pytest.mark.parametrize("change", ["weights", "window", "precision", "list"])
def test_parts_of_another_run_are_refused_and_left_alone(
    model: Encoder, files: list[Path], tmp_path: Path, change: str
) -> None:
    start(model, tmp_path / "v.parquet", files, n_parts=2)
    there = sorted((tmp_path / "v.parquet.parts").iterdir())
    other = {"weights": replace(model, weights_sha256="cd" * 32), "precision": replace(model, precision="bf16")}
    what = {
        "list": "other files or names, or in another order",
        "weights": "its weights_sha256 is",
        "window": "its prep",
    }
    said = rf"v\.parquet\.parts: holds parts of another run: {what.get(change, '')}.*remove the folder"
    with pytest.raises(EmbeddingError, match=said):
        run(
            other.get(change, model),
            tmp_path / "v.parquet",
            files[1:] if change == "list" else files,
            window="centre" if change == "window" else "onset",
        )
    assert sorted((tmp_path / "v.parquet.parts").iterdir()) == there


def test_a_damaged_part_is_refused(model: Encoder, files: list[Path], tmp_path: Path) -> None:
    start(model, tmp_path / "v.parquet", files, n_parts=2)
    part = tmp_path / "v.parquet.parts" / "000000000.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(EmbeddingError, match=r"000000000\.parquet"):
        run(model, tmp_path / "v.parquet", files)
    assert not (tmp_path / "v.parquet").exists()


def test_where_no_file_can_be_used_there_is_no_output_but_a_list(
    model: Encoder, files: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(EmbeddingError, match="none of the 2 files can be used"):
        run(model, tmp_path / "v.parquet", files[5:7])
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["v.quarantine.csv"]


def test_a_name_that_comes_twice_is_refused_before_any_work(model: Encoder, files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(EmbeddingError, match=r"'00\.png' is there twice"):
        run(model, tmp_path / "v.parquet", [*files, files[0]])


def test_every_window_is_a_row_with_its_seconds(model: Encoder, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    paths = [tmp_path / "long.wav", tmp_path / "short.wav"]
    for path, seconds in zip(paths, (83.5, 4), strict=True):
        write_audio(path, rng.normal(0, 0.1, round(seconds * 8_000)).astype(np.float32), 8_000)
    run(model, tmp_path / "v.parquet", paths, window="windows", pool=None)
    table = read_embeddings(tmp_path / "v.parquet")
    assert table.ids == ["long.wav"] * 9 + ["short.wav"]
    assert table.start_s == [0, 10, 20, 30, 40, 50, 60, 70, 73.5, 0]
    assert table.end_s == [10, 20, 30, 40, 50, 60, 70, 80, 83.5, 4]
    run(model, tmp_path / "mean.parquet", paths, window="windows")
    mean = table.embedding[:9].mean(0)
    pooled = read_embeddings(tmp_path / "mean.parquet")
    np.testing.assert_allclose(pooled.embedding[0], mean / np.linalg.norm(mean), atol=2e-6)
    assert pooled.start_s == [None, None]
    assert pooled.meta["preprocess"] != table.meta["preprocess"]


def test_names_are_rows_in_their_order(model: Encoder, tmp_path: Path) -> None:
    names = [f"{'long ' * (n % 5)}name {n}" for n in range(11)]
    embed_names(model, tmp_path / "v.parquet", names=names)
    table = read_embeddings(tmp_path / "v.parquet")
    assert table.ids == table.text == names
    assert set(table.level) == {"name"}
    np.testing.assert_allclose(table.embedding, model.embed_text(names), atol=2e-6)


def test_texts_of_a_list_are_embedded_once_and_found_the_next_time(model: Encoder, tmp_path: Path) -> None:
    texts = ["owl", "a frog", "owl", ""]
    expected = model.embed_text(texts)
    found = text_vectors(model, texts)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    (kept,) = (tmp_path / "home" / "text").iterdir()
    assert read_embeddings(kept).ids == ["", "owl", "a frog"]
    unable: Any = None
    assert (text_vectors(replace(model, model=unable), texts[::-1]) == found[::-1]).all()


@pytest.mark.parametrize("change", ["weights", "list"])
def test_another_model_or_list_is_kept_apart(model: Encoder, tmp_path: Path, change: str) -> None:
    text_vectors(model, ["owl", "frog"])
    other = replace(model, weights_sha256="cd" * 32) if change == "weights" else model
    text_vectors(other, ["owl", "frog"] if change == "weights" else ["owl", "toad"])
    assert len(list((tmp_path / "home" / "text").iterdir())) == 2


def test_a_kept_list_that_is_damaged_is_made_again(
    model: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = text_vectors(model, ["owl", "frog"])
    (kept,) = (tmp_path / "home" / "text").iterdir()
    whole = kept.read_bytes()
    content = bytearray(whole)
    content[len(content) // 2] ^= 1  # one bit of one vector: still of unit length
    kept.write_bytes(content)
    assert (text_vectors(model, ["owl", "frog"]) == found).all()
    assert "embedding its names again" in capsys.readouterr().err
    assert kept.read_bytes() == whole


def test_labels_are_rows_with_their_levels(model: Encoder, tmp_path: Path) -> None:
    texts = ["Turdus merula", "Turdus", "Turdus"]
    levels = ["species", "genus", "genus"]
    embed_labels(model, tmp_path / "v.parquet", ids=["a", "a", "b"], texts=texts, levels=levels)
    table = read_embeddings(tmp_path / "v.parquet")
    assert (table.text, table.level, table.ids) == (texts, levels, ["a", "a", "b"])
    assert (table.embedding[1] == table.embedding[2]).all()


class Plain:
    """A model that offers the protocol and nothing more, as other people's do; it sees and reads."""

    name, weights_sha256, modalities = "plain", "ef" * 32, ("image", "text")

    def __init__(self, encoder: Encoder) -> None:
        self.fingerprint = encoder.fingerprint
        self.embed_audio, self.embed_image, self.embed_text = (
            encoder.embed_audio,
            encoder.embed_image,
            encoder.embed_text,
        )


def test_a_peer_with_the_plain_protocol_embeds_the_same_rows(model: Encoder, files: list[Path], tmp_path: Path) -> None:
    outcome = run(Plain(model), tmp_path / "v.parquet", files)  # pyright: ignore[reportArgumentType]
    table = read_embeddings(tmp_path / "v.parquet")
    pictures = [path for path in files if path.suffix == ".png"]
    assert table.ids == [path.name for path in pictures]
    np.testing.assert_allclose(table.embedding, model.embed_image(pictures), atol=2e-6)
    assert {bad.reason for bad in outcome.bad} == {"html_document", "wrong_modality"}


def test_a_bad_thing_among_those_of_a_peer_refuses_only_itself(
    model: Encoder, files: list[Path], tmp_path: Path
) -> None:
    paths = [path for path in files if path.suffix == ".png"]
    paths.insert(3, tmp_path / "missing.png")
    ids = [path.name for path in paths]
    outcome = embed_media(Plain(model), tmp_path / "v.parquet", ids=ids, paths=paths, modality="image")  # pyright: ignore[reportArgumentType]
    assert [bad.id for bad in outcome.bad] == ["missing.png"]
    assert outcome.n_vectors == len(paths) - 1


KILLED = """
import sys
from biovita import cli
from biovita.models import encoder
encoder.BLOCK = 4
sys.argv = ["biovita", "embed", *sys.argv[1:]]
sys.exit(cli.main())
"""


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_ends_in_the_same_bytes(
    biovita: Callable[..., Any],
    encoder: Encoder,
    files: list[Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    model_folder = tmp_path_factory.mktemp("model")
    hub.save(encoder, model_folder, card="")

    def words(out: Path) -> list[str]:
        return [*map(str, files), "--model", str(model_folder), "--out", str(out), "--quiet", "--workers", "1"]

    assert biovita("embed", *words(tmp_path / "whole.parquet")).code == 3
    seed = random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    kept = []
    for fewest in (rng.randint(1, 3), rng.randint(4, 6)):
        process = subprocess.Popen([sys.executable, "-c", KILLED, *words(tmp_path / "v.parquet")])
        while len(list(tmp_path.glob("v.parquet.parts/*.parquet"))) < fewest:
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        kept.append(len(list(tmp_path.glob("v.parquet.parts/*.parquet"))))
    assert biovita("embed", *words(tmp_path / "v.parquet")).code == 3
    same = (tmp_path / "v.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert same, f"seed {seed}, parts {kept}"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        name for stem in ("v", "whole") for name in (f"{stem}.parquet", f"{stem}.quarantine.csv", f"{stem}.run.json")
    )
