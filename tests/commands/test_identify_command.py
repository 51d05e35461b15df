"""`biovita identify`: ranked species for every usable file, a reason for every other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from biovita.models.encoder import Encoder
from biovita.taxonomy.prompts import training_prompts
from biovita.taxonomy.taxon import Taxon


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_the_ranking_equals_a_plain_loop_over_species_and_prompts(
    biovita: Callable[..., Any], encoder: Encoder, model_folder: Path, media: dict[str, list[Path]]
) -> None:
    files = [media["audio"][0], media["image"][0]]
    ran = biovita("identify", *files, "--model", model_folder, "--k", 16, "--json", "--quiet")
    assert (ran.code, ran.err) == (0, "")
    vectors = [encoder.embed_audio([files[0]], window="windows")[0], encoder.embed_image([files[1]])[0]]
    taxa = [Taxon.from_row(row) for row in pl.read_csv(model_folder / "labels.csv").iter_rows(named=True)]
    for found, vector, path, kind in zip(objects(ran.out), vectors, files, ("audio", "image"), strict=True):
        assert (found["path"], found["verdict"], found["modality"]) == (str(path), "ok", kind)
        scores = {}
        for taxon in taxa:
            mean = np.mean([encoder.embed_text([text])[0] for text in training_prompts(taxon)], axis=0)
            scores[taxon.species] = float(vector @ mean / np.linalg.norm(mean))
        assert {row["species"] for row in found["taxa"]} == set(scores)
        for row in found["taxa"]:
            assert row["score"] == pytest.approx(scores[row["species"]], abs=2e-4)
        ranked = [row["score"] for row in found["taxa"]]
        assert ranked == sorted(ranked, reverse=True)


def test_bad_files_among_good_ones_get_reasons_and_exit_3(
    biovita: Callable[..., Any], model_folder: Path, media: dict[str, list[Path]], tmp_path: Path
) -> None:
    (tmp_path / "page.jpg").write_text("<!doctype html><html>404</html>")
    (tmp_path / "cut.flac").write_bytes(media["audio"][0].read_bytes()[:40])
    files = [tmp_path / "page.jpg", media["image"][0], tmp_path / "cut.flac", media["audio"][0], tmp_path / "none.wav"]
    ran = biovita("identify", *files, "--model", model_folder)
    assert ran.code == 3
    assert f"{tmp_path / 'page.jpg'}: not identified: html_document" in ran.err
    for name in ("cut.flac", "none.wav"):
        assert f"{tmp_path / name}: not identified: " in ran.err
        assert name not in ran.out
    assert f"{media['image'][0]}  (image)" in ran.out
    assert f"{media['audio'][0]}  (audio)" in ran.out
    assert ran.out.count("  1. ") == ran.out.count("  5. ") == 2
    as_json = objects(biovita("identify", *files, "--model", model_folder, "--json").out)
    assert [row["verdict"] for row in as_json] == ["reject", "ok", "reject", "ok", "reject"]
    assert [row["path"] for row in as_json] == [str(path) for path in files]
    assert as_json[0]["reason"] == "html_document"


def test_another_list_of_species_may_be_given(
    biovita: Callable[..., Any], model_folder: Path, media: dict[str, list[Path]], tmp_path: Path
) -> None:
    labels = pl.read_csv(model_folder / "labels.csv").head(2)
    labels.write_csv(tmp_path / "two.csv")
    ran = biovita("identify", media["image"][0], "--model", model_folder, "--labels", tmp_path / "two.csv", "--json")
    (found,) = objects(ran.out)
    assert {row["species"] for row in found["taxa"]} == set(labels["species"])


@pytest.mark.parametrize("case", ["no files", "no table", "no column", "no species", "no model"])
def test_what_cannot_be_answered_is_one_line_and_exit_2(
    biovita: Callable[..., Any], model_folder: Path, media: dict[str, list[Path]], tmp_path: Path, case: str
) -> None:
    labels = pl.read_csv(model_folder / "labels.csv")
    labels.drop("family").write_csv(tmp_path / "short.csv")
    labels.clear().write_csv(tmp_path / "empty.csv")
    picture = media["image"][0]
    words, said = {
        "no files": (["--model", model_folder], "no files given"),
        "no table": ([picture, "--model", model_folder, "--labels", "x.csv"], "x.csv: no such table of species"),
        "no column": (
            [picture, "--model", model_folder, "--labels", tmp_path / "short.csv"],
            "no column 'family'",
        ),
        "no species": (
            [picture, "--model", model_folder, "--labels", tmp_path / "empty.csv"],
            "no species to choose from",
        ),
        "no model": ([picture, "--model", "nowhere"], "nowhere: no such model folder"),
    }[case]
    ran = biovita("identify", *words)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_no_remark_reaches_standard_output(
    biovita: Callable[..., Any], model_folder: Path, media: dict[str, list[Path]]
) -> None:
    ran = biovita("identify", media["audio"][0], "--model", model_folder, "--json")
    assert len(objects(ran.out)) == 1
