"""`biovita train`: one run, one folder; finished is finished, and another run's folder is left alone."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file

from biovita.commands.train import alone
from biovita.data.dataset import Dataset
from biovita.errors import ConfigError
from biovita.files import sha256_file
from biovita.models import hub
from biovita.report.inputs import read_log
from biovita.train.features import prepare
from biovita.train.validate import look

CLOCK = ("samples_per_s", "wait_share", "peak_share")
SHORT = ("--recipe.epochs", 1, "--recipe.batch-size", 8, "--recipe.min-per-species", 1, "--recipe.max-per-species", 2)
PICTURES = ("--recipe.audio-text", 0, "--recipe.image-text", 1, "--recipe.trained", "clip.*", "logit_scale")
SOUNDS = ("--recipe.trained", "audio_projection.*", "logit_scale")


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of a short image-text stage."""
    from biovita import log
    from biovita.commands.table import call

    out = tmp_path_factory.mktemp("models") / "one"
    log.SETTINGS.quiet = True
    assert call([str(word) for word in ("train", "--data", data, "--out", out, *PICTURES, *SHORT)]) == 0
    return out


def log_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]


def test_a_stage_leaves_a_whole_model_folder_that_says_what_ran(trained: Path, data: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {*hub.FILES, "README.md", "run.json", "labels.csv", "train_log.jsonl", "training.html"}
    run = json.loads((trained / "run.json").read_text())
    assert run["config"]["recipe"]["image_text"] == 1
    assert run["dataset"] == json.loads((data / "manifest.json").read_text())["sha256"]
    assert run["n_steps"] == len([line for line in log_of(trained) if "loss" in line]) > 1
    assert all(name.startswith(("clip.", "logit_scale")) for name in run["trained_parameters"])
    labels = pl.read_csv(trained / "labels.csv")
    assert labels["species"].to_list() == sorted(Dataset.open(data).taxa["species"])
    assert "knows nothing about real animals" in (trained / "README.md").read_text()
    assert not list(trained.parent.glob(".*.part"))


def test_the_same_seed_gives_the_same_files(
    biovita: Callable[..., Any], trained: Path, data: Path, tmp_path: Path
) -> None:
    assert biovita("train", "--data", data, "--out", tmp_path / "two", *PICTURES, *SHORT, "--quiet").code == 0
    for name in ("model.safetensors", "config.json", "tokenizer.json", "processor_config.json", "labels.csv"):
        assert sha256_file(tmp_path / "two" / name) == sha256_file(trained / name), name
    assert log_of(tmp_path / "two") == log_of(trained)


def test_the_seed_decides_dropout_too_whatever_ran_before(
    biovita: Callable[..., Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = hub.start

    def with_dropout(*args: Any, **kwargs: Any) -> Any:
        encoder = start(*args, **kwargs)
        for module in encoder.model.audio_model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        return encoder

    monkeypatch.setattr(hub, "start", with_dropout)
    trains = ("--recipe.trained", "audio_model.audio_encoder.norm.*", "audio_projection.*")
    found = []
    for name, before, seed in (("one", 1, 5), ("two", 2, 5), ("three", 1, 6)):
        torch.manual_seed(before)
        words = ("--data", data, "--out", tmp_path / name, *trains, *SHORT, "--recipe.seed", seed, "--quiet")
        assert biovita("train", *words).code == 0
        found.append(sha256_file(tmp_path / name / "model.safetensors"))
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_a_finished_run_is_left_as_it_is(biovita: Callable[..., Any], trained: Path, data: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in trained.iterdir()}
    ran = biovita("train", "--data", data, "--out", trained, *PICTURES, *SHORT)
    assert ran.code == 0
    assert "nothing to do" in ran.err
    assert {path.name: path.stat().st_mtime_ns for path in trained.iterdir()} == before


def test_a_run_is_known_by_its_numbers_data_and_start_wherever_the_folders_lie(
    biovita: Callable[..., Any], trained: Path, model_folder: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("media", ".features"))
    shutil.copytree(trained, tmp_path / "moved")
    ran = biovita("train", "--data", tmp_path / "data", "--out", tmp_path / "moved", *PICTURES, *SHORT)
    assert ran.code == 0
    assert "nothing to do" in ran.err
    words = ("--data", data, "--out", tmp_path / "moved", "--from", model_folder, *PICTURES, *SHORT)
    assert biovita("train", *words).code == 2


def test_the_folder_of_another_run_is_refused_and_kept(
    biovita: Callable[..., Any], trained: Path, data: Path, tmp_path: Path
) -> None:
    before = sha256_file(trained / "model.safetensors")
    ran = biovita("train", "--data", data, "--out", trained, *PICTURES, *SHORT, "--recipe.seed", 2)
    assert ran.code == 2
    assert f"{trained}: exists and was not made by this run" in ran.err
    assert sha256_file(trained / "model.safetensors") == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    assert biovita("train", "--data", data, "--out", tmp_path / "notes", *PICTURES, *SHORT).code == 2
    assert (tmp_path / "notes" / "mine.txt").is_file()


def test_the_next_stage_goes_on_from_the_weights_and_the_log_of_the_one_before(
    biovita: Callable[..., Any], trained: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "next"
    words = ("--data", data, "--from", trained, "--out", out, *SOUNDS, *SHORT, "--recipe.stage", "stage1b")
    assert biovita("train", *words, "--quiet").code == 0
    lines, earlier = log_of(out), log_of(trained)
    assert lines[: len(earlier)] == earlier
    assert {line["stage"] for line in lines[len(earlier) :]} == {"stage1b"}
    one, other = load_file(trained / "model.safetensors"), load_file(out / "model.safetensors")
    changed = {key for key in one if not np.array_equal(one[key], other[key])}
    assert changed
    assert all(key.startswith(("audio_projection.", "logit_scale")) for key in changed)
    assert sha256_file(out / "tokenizer.json") == sha256_file(trained / "tokenizer.json")


def test_a_second_stage_of_the_same_name_gets_its_own_since_both_share_a_log(
    biovita: Callable[..., Any], trained: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    assert biovita("train", "--data", data, "--from", trained, "--out", out, *SOUNDS, *SHORT, "--quiet").code == 0
    stages = list(dict.fromkeys(line["stage"] for line in log_of(out)))
    assert stages == ["stage1", "stage1 2"]
    assert json.loads((out / "run.json").read_text())["config"]["recipe"]["stage"] == "stage1 2"
    assert len(read_log(out / "train_log.jsonl")) == len(log_of(out)) > len(log_of(trained))


def test_a_broken_log_of_the_start_is_one_line_that_names_it(
    biovita: Callable[..., Any], trained: Path, data: Path, tmp_path: Path
) -> None:
    start = Path(shutil.copytree(trained, tmp_path / "start"))
    with (start / "train_log.jsonl").open("a") as log:
        log.write('{"stage": "sta')
    ran = biovita("train", "--data", data, "--from", start, "--out", tmp_path / "out", *SOUNDS, *SHORT)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert f"{start / 'train_log.jsonl'}: line" in ran.err


def test_the_name_of_a_size_is_the_size_also_where_a_folder_has_it(
    biovita: Callable[..., Any], trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    ran = biovita("train", "--data", data, "--from", "tiny", "--out", "again", *PICTURES, *SHORT)
    assert ran.code == 0
    assert "warning: --from tiny: random weights of this size; for the folder of this name write ./tiny" in ran.err
    assert json.loads(Path("again/run.json").read_text())["start_sha256"] == "tiny"
    assert sha256_file(Path("again/model.safetensors")) == sha256_file(trained / "model.safetensors")


def test_a_smoke_run_in_the_way_is_told_as_such(biovita: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    words = ("--data", data, "--out", tmp_path / "out", *SOUNDS, *SHORT)
    assert biovita("train", *words, "--smoke", "--quiet").code == 0
    ran = biovita("train", *words)
    assert ran.code == 2
    assert f"{tmp_path / 'out'}: holds a smoke run; remove it, or choose another --out" in ran.err


def test_two_processes_do_not_train_the_same_run_at_the_same_time(tmp_path: Path) -> None:
    hold = "import sys; from pathlib import Path; from biovita.commands.train import alone\n"
    hold += "with alone(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(ConfigError, match="another process trains this very run"), alone(tmp_path):
            pass
        other.kill()
    with alone(tmp_path):  # a kill leaves no lock behind
        pass


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--recipe.trained", "audio_modle.*"), "'audio_modle.*' matches no parameter"),
        (("--recipe.rates", "clip.*", "1e-5"), "rates: 'clip.*' matches nothing that trains"),
        (("--recipe.trained", "logit_scale", "--recipe.lora-rank", "4"), "reaches no linear layer"),
    ],
)
def test_a_pattern_is_refused_before_anything_is_decoded(
    biovita: Callable[..., Any], data: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    copy = shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("media", ".features"))
    ran = biovita("train", "--data", copy, "--out", tmp_path / "out", *SHORT, *words)
    assert ran.code == 2
    assert said in ran.err
    assert not (tmp_path / "data" / ".features").exists()
    assert not list(tmp_path.glob(".*.part"))


def test_a_missing_tracker_is_told_before_anything_is_read(
    biovita: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    ran = biovita("train", "--data", "nowhere", "--out", tmp_path / "out", "--track", "wandb")
    assert ran.code == 2
    assert "track: wandb is not installed" in ran.err


def test_a_stage_that_fails_leaves_no_model_folder(biovita: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    ran = biovita("train", "--data", data, "--out", tmp_path / "out", *SHORT, "--recipe.trained", "audio_modle.*")
    assert (ran.code, ran.out) == (2, "")
    assert "'audio_modle.*' matches no parameter" in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data", "nowhere"), "nowhere: no such folder"),
        (("--from", "nowhere"), "nowhere: no such model folder, and not a hub name"),
        (("--recipe.epochs", "0"), "epochs is 0"),
        (("--recipe.batch-size", "-3"), "batch_size is -3"),
    ],
)
def test_what_cannot_start_is_one_line_and_exit_2(
    biovita: Callable[..., Any], data: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    ran = biovita("train", "--data", data, "--out", tmp_path / "out", *words)
    assert ran.code == 2
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_names_of_withheld_species_never_reach_the_training(
    data: Path, tmp_path: Path, biovita: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    start = hub.start
    monkeypatch.setattr(hub, "start", lambda size, names, *, seed: start(size, seen.extend(names) or seen, seed=seed))
    assert biovita("train", "--data", data, "--out", tmp_path / "out", *PICTURES, *SHORT, "--quiet").code == 0
    taxa = Dataset.open(data).taxa
    withheld = taxa.filter("withheld")
    assert len(withheld) == 4
    assert seen
    for name in (*withheld["species"], *withheld["common_name"]):
        assert not [text for text in seen if name in text]


def projection(n_inputs: int, seed: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A tower whose vectors lie far apart, so that rounding decides no rank."""
    weight = torch.randn(n_inputs, 32, generator=torch.Generator().manual_seed(seed))
    return lambda x: torch.nn.functional.normalize(x.flatten(1) @ weight, dim=1)


def test_the_look_at_validation_equals_a_plain_loop(data: Path, tmp_path: Path, encoder: Any) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "copy", ignore=shutil.ignore_patterns(".features")))
    media = pl.read_parquet(copy / "media.parquet")
    media.with_columns(split=pl.when(split="train").then(pl.lit("val")).otherwise("split")).write_parquet(
        copy / "media.parquet"
    )
    features = prepare(Dataset.open(copy), encoder)
    names = np.random.default_rng(1).normal(size=(len(features.species), 32)).astype(np.float32)
    names /= np.linalg.norm(names, axis=1, keepdims=True)
    hear, see = projection(1001 * 64, 2), projection(64 * 64 * 3, 3)
    stub: Any = SimpleNamespace(
        model=SimpleNamespace(audio_vectors=hear, image_vectors=see, config=SimpleNamespace(width=32)),
        processor=SimpleNamespace(pixels=lambda squares: squares.float() - 128),
        embed_text=lambda texts: np.stack([names[features.species.index(text)] for text in texts]),
        device="cpu",
    )
    items: dict[str, list[tuple[int, np.ndarray]]] = {"a": [], "i": [], "t": []}
    for row in features.rows("audio", "val").iter_rows(named=True):
        items["a"].append((row["label"], hear(torch.from_numpy(features.mel(row["row"], 0.0))[None])[0].numpy()))
    for row in features.rows("image", "val").iter_rows(named=True):
        square = torch.from_numpy(np.array(features.squares[row["row"]]))
        items["i"].append((row["label"], see(square[None].float() - 128)[0].numpy()))
    items["t"] = list(enumerate(names))
    assert len(items["a"]) > 32
    found = look(stub, features)
    assert set(found) == {"a2t", "t2a", "a2i", "i2a", "i2t", "t2i"}
    for direction, top1 in found.items():
        query, target = direction.split("2")
        offered = {label for label, _ in items[target]}
        hits = []
        for label, vector in items[query]:
            if label in offered:
                hits.append(max((float(vector @ other), of) for of, other in items[target])[1] == label)
        assert top1 == pytest.approx(np.mean(hits)), direction
    assert 0 < np.mean(list(found.values())) < 1
