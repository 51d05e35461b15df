"""RESUME: whatever stops a run and whenever, it ends with the bits of one that nothing stopped."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from biovita.commands.train import asked_to_stop
from biovita.errors import StoppedError, TrainError
from biovita.files import MANIFEST, sha256_file
from biovita.train import loop
from biovita.train.checkpoint import MODEL, OPTIMIZER, Checkpoints
from biovita.train.features import Features
from biovita.train.loop import train_stage
from biovita.train.recipe import Recipe

COUNTS = [(3, 3), (2, 3), (3, 2), (2, 2)]
RECIPE = Recipe(
    audio_text=1.0, audio_image=0.5, image_text=0.5, ramp_epochs=1.0, epochs=3, batch_size=3, min_per_species=2,
    max_per_species=4, learning_rate=1e-3, validate_every=1, ema=0.7,
    trained=("audio_model.*", "audio_projection.*", "logit_scale"),
)  # fmt: skip
STEPS = 9
CLOCK = ("samples_per_s", "wait_share", "peak_share")


def run(
    new_encoder: Callable[..., Any],
    features: Features,
    folder: Path,
    *,
    recipe: Recipe = RECIPE,
    facts: list[Any] | None = None,
    **more: Any,
) -> Any:
    """Train as one process would: from the same start, with the checkpoints that lie in the folder."""
    encoder = new_encoder()
    torch.manual_seed(1)
    for module in encoder.model.audio_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2  # so that the random state matters
    more.setdefault("checkpoints", Checkpoints(folder / "checkpoints", key="a run", every_s=0.0))
    folder.mkdir(exist_ok=True)
    found = train_stage(
        encoder, features, [[f"species {n}"] * 5 for n in range(4)], recipe, log_path=folder / "log.jsonl",
        validate=lambda model: {"scale": model.model.logit_scale.item()}, **more,
    )  # fmt: skip
    if facts is not None:
        facts.append(found)
    return encoder


def after(n: int) -> Callable[[], int | None]:
    """A signal that comes before step n + 1."""
    asked = iter(range(1_000))
    return lambda: signal.SIGTERM if next(asked) == n else None


def curve(folder: Path) -> list[dict[str, Any]]:
    """The log without what the clock decides; of a step that was done twice, both must be equal."""
    rows: dict[Any, Any] = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        row = {key: value for key, value in json.loads(line).items() if key not in CLOCK}
        assert rows.setdefault((row["step"], "val" in row), row) == row
    return [rows[key] for key in sorted(rows)]


@pytest.fixture(scope="module")
def features(make_features: Callable[..., Features]) -> Features:
    return make_features(COUNTS, n_frames=1200)


@pytest.fixture(scope="module")
def whole(new_encoder: Callable[..., Any], features: Features, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that nothing stopped: its weights and its curve."""
    folder = tmp_path_factory.mktemp("whole")
    state = run(new_encoder, features, folder, checkpoints=Checkpoints(folder / "none", key="a run")).model.state_dict()
    assert not (folder / "none").exists()
    return state, curve(folder)


def assert_same(encoder: Any, folder: Path, whole: Any) -> None:
    state, rows = whole
    for name, tensor in encoder.model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert curve(folder) == rows


@pytest.mark.parametrize("n", [1, 3, 4, 8])
def test_a_run_that_was_stopped_ends_bit_for_bit_like_one_that_was_not(
    new_encoder: Callable[..., Any], features: Features, whole: Any, tmp_path: Path, n: int
) -> None:
    assert len([row for row in whole[1] if "loss" in row]) == STEPS
    with pytest.raises(StoppedError, match=f"after step {n} of {STEPS}") as stopped:
        run(new_encoder, features, tmp_path, stop=after(n))
    assert stopped.value.signal == signal.SIGTERM
    assert_same(run(new_encoder, features, tmp_path), tmp_path, whole)


def test_steps_after_the_last_checkpoint_are_done_again_and_come_out_the_same(
    new_encoder: Callable[..., Any], features: Features, whole: Any, tmp_path: Path
) -> None:
    """As kill -9 leaves it: an older checkpoint, one that was never finished, and half a line in the log."""
    with pytest.raises(StoppedError):
        run(new_encoder, features, tmp_path, stop=after(5))
    (tmp_path / "checkpoints" / "step-00000005" / MANIFEST).unlink()
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"stage": "stage1", "st')
    assert_same(run(new_encoder, features, tmp_path), tmp_path, whole)
    assert (tmp_path / "log.jsonl").read_text().count('"step": 5,') == 2


def test_only_the_newest_complete_checkpoints_are_kept(
    new_encoder: Callable[..., Any], features: Features, tmp_path: Path
) -> None:
    with pytest.raises(StoppedError):
        run(new_encoder, features, tmp_path, stop=after(6))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000005", "step-00000006"]


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, "random-0.safetensors", "average.safetensors", MANIFEST])
def test_a_damaged_checkpoint_is_refused_and_skipped_only_when_asked(
    new_encoder: Callable[..., Any], features: Features, whole: Any, tmp_path: Path, name: str
) -> None:
    with pytest.raises(StoppedError):
        run(new_encoder, features, tmp_path, stop=after(5))
    path = tmp_path / "checkpoints" / "step-00000005" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))
    with pytest.raises(TrainError, match="damaged"):
        run(new_encoder, features, tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints", key="a run", skip_damaged=True)
    assert_same(run(new_encoder, features, tmp_path, checkpoints=checkpoints), tmp_path, whole)


def test_a_manifest_that_is_cut_short_is_damage_like_any_other(
    new_encoder: Callable[..., Any], features: Features, whole: Any, tmp_path: Path
) -> None:
    with pytest.raises(StoppedError):
        run(new_encoder, features, tmp_path, stop=after(5))
    manifest = tmp_path / "checkpoints" / "step-00000005" / MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:40])
    with pytest.raises(TrainError, match=r"damaged.*give --skip-damaged"):
        run(new_encoder, features, tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints", key="a run", skip_damaged=True)
    assert_same(run(new_encoder, features, tmp_path, checkpoints=checkpoints), tmp_path, whole)


def test_where_no_checkpoint_is_whole_nothing_begins_anew_unasked(
    new_encoder: Callable[..., Any], features: Features, tmp_path: Path
) -> None:
    with pytest.raises(StoppedError):
        run(new_encoder, features, tmp_path, stop=after(3))
    for path in (tmp_path / "checkpoints").iterdir():
        (path / MODEL).write_bytes(b"")
    checkpoints = Checkpoints(tmp_path / "checkpoints", key="a run", skip_damaged=True)
    with pytest.raises(TrainError, match=f"no checkpoint is whole; remove {tmp_path} to begin anew"):
        run(new_encoder, features, tmp_path, checkpoints=checkpoints)


def test_the_time_of_a_run_counts_what_it_took_before_it_was_stopped(
    new_encoder: Callable[..., Any], features: Features, tmp_path: Path
) -> None:
    with pytest.raises(StoppedError):
        run(new_encoder, features, tmp_path, stop=after(8))
    manifest = tmp_path / "checkpoints" / "step-00000008" / MANIFEST
    content = json.loads(manifest.read_text())
    assert 0 < content["state"]["seconds"] < 600
    content["state"]["seconds"] += 1_000
    manifest.write_text(json.dumps(content))
    facts: list[dict[str, Any]] = []
    run(new_encoder, features, tmp_path, facts=facts)
    assert 1_000 < facts[0]["seconds"] < 1_600


def test_a_checkpoint_of_another_run_is_refused(
    new_encoder: Callable[..., Any], features: Features, tmp_path: Path
) -> None:
    with pytest.raises(StoppedError):
        run(new_encoder, features, tmp_path, stop=after(2))
    with pytest.raises(TrainError, match="of another run"):
        run(new_encoder, features, tmp_path, checkpoints=Checkpoints(tmp_path / "checkpoints", key="another"))


def test_a_loss_that_is_not_finite_leaves_the_weights_and_names_the_batch(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], tmp_path: Path
) -> None:
    broken = make_features(COUNTS)
    mels = broken.mels.copy()
    mels[broken.starts[4] : broken.starts[5]] = np.nan
    broken = type(broken)(**{**vars(broken), "mels": mels})
    with pytest.raises(TrainError, match=r"bad_batch\.json names the batch"):
        run(new_encoder, broken, tmp_path)
    report = json.loads((tmp_path / "bad_batch.json").read_text())
    assert "audio 4" in report["audio"]
    assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == f"step-{report['step']:08d}"


def test_a_gradient_that_is_not_finite_names_all_batches_of_its_step(
    new_encoder: Callable[..., Any], features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "clip_gradient", lambda *_: torch.tensor(math.inf))
    recipe = dataclasses.replace(RECIPE, accumulate=2)
    with pytest.raises(TrainError, match="the gradient is inf"):
        run(new_encoder, features, tmp_path, recipe=recipe)
    assert len(json.loads((tmp_path / "bad_batch.json").read_text())["audio"]) == 2 * recipe.batch_size


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_bit_for_bit_like_one_that_was_not(made_up: Path, tmp_path: Path) -> None:
    """The real command, SIGKILL and SIGTERM in turn, a checkpoint before every step."""
    words = [sys.executable, "-m", "biovita", "train", "--data", str(made_up), "--quiet", "--checkpoint-minutes", "0",
             "--recipe.epochs", "4", "--recipe.batch-size", "8", "--recipe.validate-every", "1",
             "--recipe.trained", "audio_projection.*", "audio_adapter.*", "logit_scale"]  # fmt: skip
    subprocess.run([*words, "--out", str(tmp_path / "whole")], check=True)
    rng = np.random.default_rng(3)
    codes = []
    for n in range(8):
        with subprocess.Popen([*words, "--out", str(tmp_path / "killed")], stderr=subprocess.PIPE) as process:
            try:
                process.wait(timeout=float(rng.uniform(2, 7)))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM if n % 2 else signal.SIGKILL)
            codes.append(process.wait(timeout=60))
        if codes[-1] == 0:
            break
    subprocess.run([*words, "--out", str(tmp_path / "killed")], check=True)
    assert any(codes), "no kill came in time, so nothing was shown"
    assert set(codes) <= {0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM}
    assert sha256_file(tmp_path / "killed" / "model.safetensors") == sha256_file(
        tmp_path / "whole" / "model.safetensors"
    )
    logs = []
    for name in ("killed", "whole"):
        rows = [json.loads(line) for line in (tmp_path / name / "train_log.jsonl").read_text().splitlines()]
        logs.append({(row["step"], "val" in row): row.get("loss", row.get("val")) for row in rows})
    assert logs[0] == logs[1]


def test_a_signal_that_comes_twice_at_once_asks_once_and_a_later_one_ends() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with asked_to_stop() as asked:
        assert asked() is None
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()  # SIG_DFL would end this very process
        os.kill(os.getpid(), signal.SIGINT)
        assert asked() == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before
